/*
 * test_smp.c - start the other processors, and have all of them at the machine at once
 *
 * Application processors stay in ring 0: they run only what they are handed. They
 * take part through one mailbox each.
 */
#include "abi.h"
#include "acpi.h"
#include "apic.h"
#include "boot.h"
#include "pci.h"
#include "print.h"
#include "sys.h"
#include "tests.h"

#define MAX_APS 254
#define VECTOR_WORK 0x64

struct ap_args {
	uint64_t stacks, entry;
	uint32_t cr3, ticket;
	uint16_t gdt_limit;
	uint32_t gdt_base;
} __attribute__((packed));

struct mailbox {
	uint32_t online, apic_id;
	uint32_t asked, done;
	uint32_t wrong;
};

extern const char ap_start[], ap_args[], ap_end[];
extern uint64_t gdt[], page_pml4[];

static volatile struct mailbox boxes[MAX_APS];
static uint8_t ap_stacks[MAX_APS][STACK_SIZE] __attribute__((aligned(16)));

/* What each processor does when asked: accesses that others do at the same time. */
static uint32_t work(void)
{
	uint64_t bridge = pci_function(0, 0, 0, 0);
	uint32_t wrong = 0;

	for (unsigned i = 0; i < 100; i++) {
		outb(MARK_PORT, (uint8_t)i);
		wrong += read32(bridge) != 0x0d578086;
		wrong += read16(bridge + (1 << 12)) != 0xffff;
		wrong += inb(0x510) != 0xff;
	}
	return wrong;
}

static void ap_main(uint32_t ticket)
{
	volatile struct mailbox *box = &boxes[ticket];
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} idtr = { 4095, sys_idt() };

	asm volatile("lidt %0" : : "m"(idtr));
	apic_init();
	box->apic_id = apic_id();
	box->online = 1;
	for (;;) {
		asm volatile("sti; hlt; cli" : : : "memory");
		while (box->done != box->asked) {
			box->wrong += work();
			box->done++;
		}
	}
}

static void prepare(void)
{
	struct ap_args *args;

	memcpy((void *)AP_START, ap_start, (size_t)(ap_end - ap_start));
	args = (struct ap_args *)(AP_START + (uint64_t)(ap_args - ap_start));
	*args = (struct ap_args){ .stacks = (uint64_t)ap_stacks, .entry = (uint64_t)ap_main,
		.cr3 = (uint32_t)(uint64_t)page_pml4, .gdt_limit = GDT_SIZE - 1,
		.gdt_base = (uint32_t)(uint64_t)gdt };
}

/* Until *word has value or ten seconds are over. */
static bool reach(volatile uint32_t *word, uint32_t value)
{
	for (unsigned i = 0; i < 10000; i++) {
		if (*word == value)
			return true;
		apic_timer_start(VECTOR_TIMEOUT, 1);
		sys_halt();
	}
	return *word == value;
}

/* The ids of all other enabled processors. */
static unsigned other_cpus(uint32_t *ids)
{
	uint64_t madt = acpi_table("APIC", 0), end = madt ? madt + read32(madt + 4) : 0;
	unsigned n = 0;

	for (uint64_t e = madt + 44; e + 2 <= end && read8(e + 1) >= 2; e += read8(e + 1)) {
		bool x2 = read8(e) == 9;
		uint32_t id = x2 ? read32(e + 4) : read8(e + 3);
		uint32_t flags = read32(e + (x2 ? 8 : 4));

		if ((x2 || read8(e) == 0) && flags & 1 && id != apic_id() && n < MAX_APS)
			ids[n++] = id;
	}
	return n;
}

void test_smp(void)
{
	static uint32_t ids[MAX_APS];
	unsigned n = other_cpus(ids), online = 0, right_id = 0, finished = 0, wrong = 0;

	equal(n + 1, boot_number("cpus", n + 1), "CPUs in the MADT");
	prepare();
	for (unsigned i = 0; i < n; i++) {
		apic_icr(ids[i], 0x4500);
		apic_icr(ids[i], 0x4600 | AP_START >> 12);
		apic_icr(ids[i], 0x4600 | AP_START >> 12);
		/* One at a time, so that ticket i belongs to ids[i]. */
		if (!reach(&boxes[i].online, 1))
			break;
		online++;
		right_id += boxes[i].apic_id == ids[i];
	}
	if (!equal(online, n, "all other CPUs come up by INIT and SIPI"))
		return;
	equal(right_id, n, "each has the id of its MADT entry");
	for (unsigned round = 1; round <= 20; round++) {
		for (unsigned i = 0; i < n; i++) {
			boxes[i].asked = round;
			apic_icr(ids[i], VECTOR_WORK);
		}
		wrong += work();
		for (unsigned i = 0; i < n; i++)
			finished += reach(&boxes[i].done, round);
	}
	for (unsigned i = 0; i < n; i++)
		wrong += boxes[i].wrong;
	equal(finished, 20 * n, "20 rounds of work, each started by an IPI");
	equal(wrong, 0, "all CPUs at once see the same machine");
}
