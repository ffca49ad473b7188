/*
 * vfio_guest.c - the first process of a Linux guest that reads and writes a device's registers
 *
 * The device is the emulator's for teaching ("edu"), passed through from L1. Each kind of access is
 * done ROUNDS times between two markers (marker.h), all kinds in the order of cases.py:
 *
 *   reads of the vendor and of the command register, writes of the interrupt line, in configuration
 *   space, by sysfs: a system call and two port accesses each;
 *   reads and writes of a register of BAR 0, mapped: an instruction each.
 *
 * Then it says so, and powers off. No library, so that nothing else runs between the markers.
 */
#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/reboot.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "marker.h"

#define ROUNDS	500
#define EDU	0x11e81234u
#define REG_ID	0 /* of BAR 0 */
#define REG_NOT 4 /* reads back as its complement */

static long call(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static long pread_at(int fd, void *to, size_t size, unsigned offset)
{
	return call(__NR_pread64, fd, (long)to, (long)size, offset, 0, 0);
}

static long pwrite_at(int fd, const void *from, size_t size, unsigned offset)
{
	return call(__NR_pwrite64, fd, (long)from, (long)size, offset, 0, 0);
}

static int open_path(const char *path)
{
	return (int)call(__NR_open, (long)path, O_RDWR, 0, 0, 0, 0);
}

static void say(const char *text, size_t size)
{
	call(__NR_write, 1, (long)text, (long)size, 0, 0, 0);
}

#define SAY(text) say(text, sizeof(text) - 1)

static void power_off(void) __attribute__((noreturn));

static void power_off(void)
{
	for (;;)
		call(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
			LINUX_REBOOT_CMD_POWER_OFF, 0, 0, 0);
}

/* The device's configuration space, and in *bar its BAR 0; a negative number: not found. */
static int find_edu(int *bar)
{
	static char config[] = "/sys/bus/pci/devices/0000:00:00.0/config";
	static char resource[] = "/sys/bus/pci/devices/0000:00:00.0/resource0";
	const size_t slot_at = sizeof("/sys/bus/pci/devices/0000:00:") - 1;
	static const char digits[] = "0123456789abcdef";

	for (unsigned slot = 0; slot < 32; slot++) {
		uint32_t id = 0;
		int fd;

		config[slot_at] = resource[slot_at] = digits[slot >> 4];
		config[slot_at + 1] = resource[slot_at + 1] = digits[slot & 15];
		fd = open_path(config);
		if (fd < 0)
			continue;
		if (pread_at(fd, &id, sizeof(id), PCI_VENDOR_ID) == sizeof(id) && id == EDU) {
			*bar = open_path(resource);
			return fd;
		}
		call(__NR_close, fd, 0, 0, 0, 0, 0);
	}
	return -1;
}

static void use(int config, volatile uint32_t *bar)
{
	uint32_t value = 0;
	uint8_t line = 11;

	MARKER(MARK_BEGIN);
	for (int i = 0; i < ROUNDS; i++)
		pread_at(config, &value, sizeof(value), PCI_VENDOR_ID);
	MARKER(MARK_END);
	MARKER(MARK_BEGIN);
	for (int i = 0; i < ROUNDS; i++)
		pread_at(config, &value, sizeof(value), PCI_COMMAND);
	MARKER(MARK_END);
	MARKER(MARK_BEGIN);
	for (int i = 0; i < ROUNDS; i++)
		pwrite_at(config, &line, sizeof(line), PCI_INTERRUPT_LINE);
	MARKER(MARK_END);
	MARKER(MARK_BEGIN);
	for (int i = 0; i < ROUNDS; i++)
		value = bar[REG_ID / 4];
	MARKER(MARK_END);
	MARKER(MARK_BEGIN);
	for (int i = 0; i < ROUNDS; i++)
		bar[REG_NOT / 4] = value;
	MARKER(MARK_END);
}

void guest_start(void) __attribute__((noreturn));

void guest_start(void)
{
	const uint16_t memory = PCI_COMMAND_MEMORY;
	int config, bar = -1;
	long at;

	call(__NR_mount, (long)"sysfs", (long)"/sys", (long)"sysfs", 0, 0, 0);
	config = find_edu(&bar);
	at = bar < 0 ? -1 : call(__NR_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, bar, 0);
	if (config < 0 || at < 0) {
		SAY("bench: no such device\n");
		power_off();
	}
	pwrite_at(config, &memory, sizeof(memory), PCI_COMMAND);
	for (int pass = 0; pass < 2; pass++) /* the first one warms up */
		use(config, (volatile uint32_t *)at);
	SAY("bench: done\n");
	power_off();
}

/* The kernel enters with an aligned stack; a function expects it as after a call. */
__asm__(".globl _start\n_start:\n\tcall guest_start\n");
