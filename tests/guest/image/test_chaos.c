/*
 * test_chaos.c - random accesses to everything that is not RAM
 *
 *   n=     how many accesses (1000000)
 *   seed=  of the generator; default from the TSC, printed in either case
 *   all=1  also what resets the machine or switches it off
 *
 * Batches are made in ring 3 and carried out in ring 0, where an exit is cheapest on
 * any kind of KVM, by all processors at once. Interrupts stay off. Before one in eight batches
 * devices are put to use again, so that not all of them are soon out of reach. What would end the
 * test for no fault of the VMM is left out: sleep and reset registers (unless all=1), commands of
 * the local APIC, and delivery modes of the IOAPIC that are no interrupts (INIT, SMI).
 */
#include "../device/echo.h"
#include "acpi.h"
#include "apic.h"
#include "boot.h"
#include "pci.h"
#include "print.h"
#include "smp.h"
#include "sys.h"
#include "tests.h"
#include "virtio.h"

#define MAX_FUNCTIONS 64
#define MAX_PAGES     64
#define BATCH	      1000
#define MAX_CPUS      8
#define PAGE_2M	      0x200000ull

struct access {
	uint64_t addr, value;
	uint8_t size;
	bool port, write;
};

static struct access batches[MAX_CPUS][BATCH];
static uint64_t state;
static uint64_t functions[MAX_FUNCTIONS]; /* ECAM addresses of what is there */
static uint32_t saved[MAX_FUNCTIONS][16]; /* their headers, to be put back */
static unsigned nr_functions;
static uint64_t pages[MAX_PAGES]; /* of 2 MiB, reachable, not RAM */
static unsigned nr_pages;
static bool with_resets;
static struct virtio echo; /* fn 0: there is none */
static uint64_t platform;  /* the platform device area, of 1 MiB */

/* Marsaglia's xorshift64, times an odd constant */
static uint64_t next(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545f4914f6cdd1d;
}

static unsigned pick(unsigned n)
{
	return (unsigned)((next() >> 33) % n);
}

/* Ring 0: carry out a batch. */
static uint64_t run0(uint64_t batch, uint64_t n)
{
	const struct access *first = (const struct access *)batch;

	for (const struct access *a = first; a < first + n; a++) {
		uint64_t addr = a->addr;

		if (a->port && a->write) {
			if (a->size == 1)
				outb((uint16_t)addr, (uint8_t)a->value);
			else if (a->size == 2)
				outw((uint16_t)addr, (uint16_t)a->value);
			else
				outl((uint16_t)addr, (uint32_t)a->value);
		} else if (a->port) {
			if (a->size == 1)
				inb((uint16_t)addr);
			else if (a->size == 2)
				inw((uint16_t)addr);
			else
				inl((uint16_t)addr);
		} else if (a->write) {
			if (a->size == 1)
				write8(addr, (uint8_t)a->value);
			else if (a->size == 2)
				write16(addr, (uint16_t)a->value);
			else if (a->size == 4)
				write32(addr, (uint32_t)a->value);
			else
				write64(addr, a->value);
		} else {
			if (a->size == 1)
				read8(addr);
			else if (a->size == 2)
				read16(addr);
			else if (a->size == 4)
				read32(addr);
			else
				read64(addr);
		}
	}
	return 0;
}

/* --- what is left out --- */

static bool touches(const struct access *a, uint64_t first, uint64_t last)
{
	return a->addr <= last && a->addr + a->size > first;
}

static bool ends_the_machine(const struct access *a)
{
	if (!a->port || !a->write)
		return false;
	return touches(a, 0x600, 0x601) || touches(a, 0x64, 0x64) || touches(a, 0x92, 0x92) ||
	       touches(a, 0xcf9, 0xcf9);
}

/* Mostly resets, seldom what it was, which may be the end. */
static void maybe_reset(struct access *a)
{
	if (pick(10)) {
		a->write = false;
	} else if (pick(20)) {
		a->size = 1;
		a->addr = pick(2) ? 0x600 : 0x64;
		a->value = a->addr == 0x600 ? 1 : 0xfe;
	}
}

/* Make an access harmless to the test itself. */
static void tame(struct access *a)
{
	if (ends_the_machine(a)) {
		if (with_resets)
			maybe_reset(a);
		else
			a->write = false;
	}
	if (a->port || !a->write)
		return;
	if (touches(a, LAPIC_BASE, LAPIC_BASE + 0xfff))
		a->write = false;
	/*
	 * A redirection entry's low half, whole, with delivery mode 0, "fixed", and a vector that
	 * is no exception's. Index writes are free.
	 */
	if (touches(a, IOAPIC_BASE + 0x10, IOAPIC_BASE + 0x1f)) {
		a->addr = IOAPIC_BASE + 0x10;
		a->size = 4;
		a->value = (a->value & ~0x700ull) | 0x80;
	}
}

/* --- what is aimed at --- */

static void aim_port(struct access *a)
{
	static const uint16_t known[] = { 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, 0xcf8, 0xcf9,
		0xcfc, 0xcfe, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3ff, 0x402, 0x600, 0x601,
		0x604, 0x608, 0x60c, 0xe9, 0x20, 0x21, 0x40, 0x43, 0xa0, 0xa1, 0x510, 0xffff,
		0xfffd };

	a->port = true;
	a->size = (uint8_t)(1u << pick(3));
	a->addr = pick(4) ? known[pick(ARRAY_SIZE(known))] + pick(2) * pick(4) : (uint16_t)next();
	a->addr &= 0xffff;
	if (a->addr + a->size > 0x10000)
		a->addr = 0x10000 - a->size;
}

static bool is_reachable(uint64_t addr)
{
	for (unsigned i = 0; i < nr_pages; i++)
		if (addr >= pages[i] && addr - pages[i] < PAGE_2M - 0x8000)
			return true;
	return false;
}

/* Somewhere in the first pages, more often near the beginning of one, where registers are. */
static uint64_t bar_offset(void)
{
	return pick(8) * 0x1000 + (pick(4) ? pick(0x40) : pick(0xff8));
}

/* A BAR's present address, whatever the accesses before have made of it. */
static void aim_bar(struct access *a)
{
	uint64_t fn = functions[pick(nr_functions)], reg = fn + PCI_BAR0 + 4 * pick(6);
	uint32_t low = read32(reg);
	uint64_t wide = (low & ~15ull) | (uint64_t)read32(reg + 4) << 32;

	if ((low & 7) == 4 && is_reachable(wide)) {
		a->addr = wide + bar_offset();
	} else if (low & 1) {
		a->port = true;
		a->size = (uint8_t)(1u << pick(3));
		a->addr = ((low & 0xfffc) + pick(256)) & 0xffff;
		if (a->addr + a->size > 0x10000)
			a->addr = 0x10000 - a->size;
	} else if (low >= 0xc0000000) {
		a->addr = (low & ~15ull) + pick(0x1000);
	} else {
		a->addr = pages[pick(nr_pages)] + pick(PAGE_2M - 8);
	}
}

static void aim_config(struct access *a)
{
	uint64_t fn = functions[pick(nr_functions)];

	if (pick(8) == 0) /* any bus, device, function of any segment, there or not */
		a->addr = 0xe8000000 + (next() & 0x0fffffff);
	else
		a->addr = fn + (pick(4) ? pick(0x100) : pick(0x1000));
	if (pick(4) == 0) {
		/* By the ports: the address now, the data with another access some day. */
		a->port = true;
		a->value = 0x80000000 | (a->addr >> 4 & 0xffff00) | (a->addr & 0xfc);
		a->addr = 0xcf8;
		a->size = 4;
	}
}

static void aim_memory(struct access *a)
{
	static const uint64_t known[] = { IOAPIC_BASE, IOAPIC_BASE, LAPIC_BASE, 0xe8000000,
		0xf8000000, 0xfed40000, 0xfffffff0 };

	if (pick(3) == 0)
		a->addr = known[pick(ARRAY_SIZE(known))] + pick(0x40);
	else if (pick(4) == 0)
		a->addr = platform + pick(0x3020);
	else
		a->addr = pages[pick(nr_pages)] + pick(PAGE_2M - 8);
	/* The page above 4 GiB need not be mapped. */
	if (a->addr > 0xfffffff8 && a->addr < 0x100000040)
		a->addr = 0xfffffff8;
}

static void make(struct access *a)
{
	*a = (struct access){ .value = next(), .size = (uint8_t)(1u << pick(4)), .write = pick(2) };
	switch (pick(5)) {
	case 0:
	case 1:
		aim_port(a);
		break;
	case 2:
		aim_config(a);
		break;
	case 3:
		aim_bar(a);
		break;
	default:
		aim_memory(a);
	}
	tame(a);
}

/* --- before and after --- */

static void find_functions(void)
{
	unsigned segment, last_bus;
	uint64_t base;

	for (unsigned i = 0; (base = acpi_ecam(i, &segment, &last_bus)); i++)
		for (unsigned slot = 0; slot < 32; slot++) {
			uint64_t fn = base + (slot << 15);

			if (read32(fn) == UINT32_MAX || nr_functions == MAX_FUNCTIONS)
				continue;
			for (unsigned r = 0; r < 16; r++)
				saved[nr_functions][r] = read32(fn + 4 * r);
			functions[nr_functions++] = fn;
		}
}

static bool is_ram(uint64_t page)
{
	for (unsigned i = 0; i < boot.nr_e820; i++)
		if (boot.e820[i].type == E820_RAM && page < boot.e820[i].addr + boot.e820[i].size &&
			page + PAGE_2M > boot.e820[i].addr)
			return true;
	return page < 0x100000;
}

static void add_page(uint64_t addr)
{
	uint64_t page = addr & ~(PAGE_2M - 1);

	if (nr_pages < MAX_PAGES && !is_ram(page) && sys_map(page, PAGE_2M))
		pages[nr_pages++] = page;
}

static bool find_pages(void)
{
	platform = acpi_event_device();
	if (!ok(platform != 0, "the event device is in the DSDT"))
		return false;
	sys_map(platform, 0x100000);
	for (unsigned i = 0; i < nr_functions; i++)
		for (unsigned b = 0; b < 6; b++) {
			struct bar bar = pci_bar(functions[i], b);

			if (bar.size && !bar.io)
				add_page(bar.addr);
			if (bar.wide)
				b++;
		}
	for (unsigned i = 0; i < 16; i++)
		add_page(0xc0000000 + next() % 0x28000000);
	for (unsigned i = 0; i < 16; i++)
		add_page(0x100000000 + next() % (platform - 0x100000000));
	return true;
}

static void put_headers_back(void)
{
	for (unsigned i = 0; i < nr_functions; i++) {
		write16(functions[i] + PCI_COMMAND, 0);
		for (unsigned r = 3; r < 16; r++)
			write32(functions[i] + 4 * r, saved[i][r]);
		write16(functions[i] + PCI_COMMAND, (uint16_t)saved[i][1]);
	}
}

/* Devices that are in use have more that can go wrong: BARs at home, decoded; queues running. */
static void put_to_use(void)
{
	put_headers_back();
	for (unsigned i = 0; i < nr_functions; i++)
		pci_command(functions[i], PCI_COMMAND_IO | PCI_COMMAND_MEM, 0);
	if (!echo.fn || !virtio_negotiate(&echo, FEATURE_VERSION_1 | FEATURE_RING_RESET))
		return;
	for (unsigned q = 0; q < ECHO_NR_QUEUES; q++)
		virtio_queue(&echo, q, ECHO_QUEUE_SIZE, pick(2) ? NO_VECTOR : 0);
	virtio_driver_ok(&echo);
}

static void put_back(void)
{
	put_headers_back();
	for (unsigned pin = 0; pin < 24; pin++)
		ioapic_write(0x10 + 2 * pin, IOAPIC_MASKED);
}

static void check_sane(void)
{
	unsigned same = 0;
	uint32_t ticks = inl(0x608);
	bool moved = false;

	for (unsigned i = 0; i < nr_functions; i++)
		same += read32(functions[i]) == saved[i][0];
	equal(same, nr_functions, "all functions are still there");
	outl(0xcf8, 0x80000000);
	equal(inl(0xcfc), 0x0d578086, "the host bridge by ports");
	for (unsigned i = 0; i < 1000000 && !moved; i++)
		moved = inl(0x608) != ticks;
	ok(moved, "the PM timer ticks");
}

/* One batch on each processor. False: one does not come back. */
static bool run_batches(unsigned nr_others, unsigned n)
{
	uint64_t unused;
	bool all = true;

	for (unsigned cpu = 0; cpu <= nr_others; cpu++)
		for (unsigned i = 0; i < n; i++)
			make(&batches[cpu][i]);
	for (unsigned cpu = 1; cpu <= nr_others; cpu++)
		smp_call(cpu - 1, run0, (uint64_t)batches[cpu], n);
	ring0(run0, (uint64_t)batches[0], n);
	for (unsigned cpu = 1; cpu <= nr_others; cpu++)
		all = smp_wait(cpu - 1, &unused) && all;
	return all;
}

void test_chaos(void)
{
	uint64_t n = boot_number("n", 1000000), done = 0, told = 0;
	unsigned nr_others = smp_count(), batch;

	if (nr_others > MAX_CPUS - 1 || smp_start() < nr_others) {
		ok(false, "the other CPUs are up, at most %u", MAX_CPUS - 1);
		return;
	}
	with_resets = boot_number("all", 0);
	state = boot_number("seed", 0);
	if (!state)
		state = rdtsc() | 1;
	note("chaos n %lu seed 0x%lx", n, state);
	virtio_find(&echo, ECHO_TYPE, 0);
	find_functions();
	if (!find_pages())
		return;
	while (done < n) {
		batch = n - done < BATCH ? (unsigned)(n - done) : BATCH;
		if (!pick(8))
			put_to_use();
		if (!run_batches(nr_others, batch))
			break;
		done += (uint64_t)batch * (nr_others + 1);
		if (done - told >= n / 10) {
			told = done;
			console_init();
			printf("\n");
			note("%lu done", done);
		}
	}
	put_back();
	console_init();
	printf("\n");
	/* What has become pending meanwhile may come now. */
	irq_open();
	irq_close();
	ok(done >= n, "%lu accesses", done);
	check_sane();
}
