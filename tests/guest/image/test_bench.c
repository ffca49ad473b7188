/*
 * test_bench.c - what one access costs, for bench/run
 *
 *   what=   gpio-read, gpio-write (a register of the GPIO card), port (0x80), absent (a port nobody
 *           has), config (host bridge by ECAM), cpuid
 *   n=      how many (1000)
 *   ring=   3, or 0: on a PVM-type KVM an exit from ring 3 costs several from ring 0
 *
 * Prints one line: "# bench WHAT n N cycles C ns T", by the TSC and by the PM timer.
 */
#include "boot.h"
#include "pci.h"
#include "print.h"
#include "sys.h"
#include "tests.h"

#define PM_TIMER 0x608
#define PM_HZ	 3579545ul

struct bench {
	const char *name;
	uint64_t (*loop)(uint64_t n, uint64_t where);
	uint64_t where;
};

static uint64_t port_reads(uint64_t n, uint64_t port)
{
	while (n--)
		inb((uint16_t)port);
	return 0;
}

static uint64_t port_writes(uint64_t n, uint64_t port)
{
	while (n--)
		outb((uint16_t)port, 0x5a);
	return 0;
}

static uint64_t memory_reads(uint64_t n, uint64_t addr)
{
	while (n--)
		read32(addr);
	return 0;
}

static uint64_t cpuids(uint64_t n, uint64_t unused)
{
	while (n--)
		cpuid(1, 0);
	return 0;
}

static bool choose(const char *what, struct bench *b)
{
	*b = (struct bench){ .name = what };
	if (!strncmp(what, "gpio-", 5)) {
		uint64_t fn = pci_find(0x494f, 0x0dc8, 0);

		if (!ok(fn != 0, "there is a PCI-IDIO-16"))
			return false;
		b->where = pci_bar(fn, 2).addr;
		pci_command(fn, PCI_COMMAND_IO, 0);
		b->loop = !strcmp(what, "gpio-read") ? port_reads : port_writes;
	} else if (!strcmp(what, "port")) {
		b->loop = port_writes;
		b->where = 0x80;
	} else if (!strcmp(what, "absent")) {
		b->loop = port_reads;
		b->where = 0x510;
	} else if (!strcmp(what, "config")) {
		b->loop = memory_reads;
		b->where = pci_function(0, 0, 0, 0);
	} else if (!strcmp(what, "cpuid")) {
		b->loop = cpuids;
	}
	return ok(b->loop != NULL, "what=%s is known", what);
}

void test_bench(void)
{
	char what[32];
	uint64_t n = boot_number("n", 1000), ring = boot_number("ring", 3), cycles;
	uint32_t ticks;
	struct bench b;

	if (!choose(boot_option("what", what, sizeof(what), "port"), &b))
		return;
	b.loop(10, b.where);
	ticks = inl(PM_TIMER);
	cycles = rdtsc();
	if (ring == 0)
		ring0(b.loop, n, b.where);
	else
		b.loop(n, b.where);
	cycles = rdtsc() - cycles;
	ticks = inl(PM_TIMER) - ticks;
	note("bench %s n %lu cycles %lu ns %lu", b.name, n, cycles, ticks * 1000000000ul / PM_HZ);
}
