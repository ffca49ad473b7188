/*
 * test_hostile.c - a driver that means its devices no good, on all processors at once
 *
 *   a=, b=    the two functions, device number above vendor number; default exercisers
 *   am=, bm=  bits of their first registers that nobody can change; default all
 *   n=        how many steps (100000)
 *   seed=     of the generator; default from the TSC, printed in either case
 *   flr=      one of so many changes is a reset by PCI Express (4000), a tenth of a second each
 *
 * A step is an access (BARs where they are and where they were, configuration space, the MSI-X
 * table, its pending bits) or, one in eight, a change: memory decode off and on, a BAR put
 * elsewhere, onto the other function, onto RAM or onto what the platform has there, sleep and
 * waking, MSI and MSI-X on and off, a reset. Nobody waits for anybody, and no rule of the
 * specifications is kept but these, without which the guest would end itself: no function becomes
 * bus master, and vectors are those of nobody else.
 *
 * Afterwards both are put in order again, and have to answer as they did at first.
 */
#include "../device/exerciser.h"
#include "apic.h"
#include "boot.h"
#include "pci.h"
#include "print.h"
#include "smp.h"
#include "sys.h"
#include "tests.h"

#define MAX_CPUS      8
#define BATCH	      250
#define FIRST_VECTOR  0x90 /* to 0x97 */
#define NR_VICTIMS    2
#define PM_CTRL	      4
#define EXP_DEVCAP    4
#define EXP_DEVCTL    8
#define EXP_FLR	      0x8000
#define EXP_CAN_FLR   0x10000000
#define PCI_CAP_PM    0x01
#define PCI_CAP_EXP   0x10
#define MSIX_ENABLE   0x8000
#define MSIX_MASK_ALL 0x4000

struct victim {
	uint64_t fn;
	struct bar bars[7];
	uint64_t away[7]; /* where else they are put */
	unsigned pm, exp, msi, msix;
	unsigned nr_vectors;
	unsigned table_bar, pba_bar;
	uint32_t table, pba;
	uint32_t id, first, mask;
	bool can_flr;
};

struct worker {
	uint64_t state; /* of its generator */
	uint64_t answered, silent;
};

static struct victim victims[NR_VICTIMS];
static struct worker workers[MAX_CPUS];
static uint64_t flr_of;
/* Neither is to be had: RAM, the local APIC's page, ECAM; nothing; what sizing leaves for a moment.
 */
static const uint64_t nowhere[] = { 0x80000, LAPIC_BASE, 0xe8000000, 0, ~0ull };

/* Marsaglia's xorshift64, times an odd constant */
static uint64_t next(struct worker *w)
{
	w->state ^= w->state >> 12;
	w->state ^= w->state << 25;
	w->state ^= w->state >> 27;
	return w->state * 0x2545f4914f6cdd1d;
}

static unsigned pick(struct worker *w, unsigned n)
{
	return (unsigned)((next(w) >> 33) % n);
}

/* --- accesses --- */

static uint64_t read_at(uint64_t addr, unsigned size)
{
	switch (size) {
	case 1:
		return read8(addr);
	case 2:
		return read16(addr);
	case 4:
		return read32(addr);
	default:
		return read64(addr);
	}
}

static void write_at(uint64_t addr, unsigned size, uint64_t value)
{
	if (size == 1)
		write8(addr, (uint8_t)value);
	else if (size == 2)
		write16(addr, (uint16_t)value);
	else if (size == 4)
		write32(addr, (uint32_t)value);
	else
		write64(addr, value);
}

static bool in_table(const struct victim *v, unsigned bar, uint64_t off, unsigned size)
{
	return v->msix && bar == v->table_bar && off < v->table + 16ull * v->nr_vectors &&
	       off + size > v->table;
}

/*
 * A register of a BAR, more often near the beginning, where the BAR is, was or may be. The table is
 * written by who knows what it may say.
 */
static void touch_bar(struct worker *w, struct victim *v)
{
	unsigned i = pick(w, 6), size = 1u << pick(w, 4);
	const struct bar *bar = &v->bars[i];
	uint64_t off = pick(w, 4) ? pick(w, 0x40) * 4 : next(w) & ~7ull, addr;

	if (bar->size < 8)
		return;
	off %= bar->size - 7;
	if (bar->io) {
		if (pick(w, 2))
			inl((uint16_t)(bar->addr + (off & ~3ull)));
		else
			outb((uint16_t)(bar->addr + off), (uint8_t)next(w));
		return;
	}
	addr = (pick(w, 4) ? bar->addr : v->away[i]) + off;
	if (pick(w, 3) == 0 && !in_table(v, i, off, size))
		write_at(addr, size, next(w));
	else if (read_at(addr, size) == (size == 8 ? ~0ull : (1ull << 8 * size) - 1))
		w->silent++;
	else
		w->answered++;
}

static void touch_config(struct worker *w, struct victim *v)
{
	static const uint8_t harmless[] = { 0x06, 0x0c, 0x0d, 0x0f, 0x3c };
	unsigned size = 1u << pick(w, 3);

	if (pick(w, 4))
		read_at(v->fn + (pick(w, 2) ? pick(w, 0x100) : pick(w, 0xffc)), size);
	else
		write8(v->fn + harmless[pick(w, ARRAY_SIZE(harmless))], (uint8_t)next(w));
}

static uint32_t message(struct worker *w)
{
	return LAPIC_BASE | pick(w, 2) << 12;
}

static void touch_table(struct worker *w, struct victim *v)
{
	uint64_t entry = v->bars[v->table_bar].addr + v->table;

	if (!v->msix)
		return;
	entry += 16 * pick(w, v->nr_vectors);
	switch (pick(w, 4)) {
	case 0:
		write32(entry, message(w));
		write32(entry + 4, 0);
		break;
	case 1:
		write32(entry + 8, FIRST_VECTOR + pick(w, 8));
		break;
	case 2:
		write32(entry + 12, pick(w, 2));
		break;
	default:
		read_at(entry + 4 * pick(w, 3), 4 << pick(w, 2));
	}
}

static void touch_pending(struct worker *w, struct victim *v)
{
	uint64_t addr = v->bars[v->pba_bar].addr + v->pba + 8 * pick(w, (v->nr_vectors + 63) / 64);

	if (!v->msix)
		return;
	if (pick(w, 4))
		read64(addr);
	else
		write_at(addr, 1u << pick(w, 4), next(w));
}

/* --- changes --- */

static void switch_decode(struct worker *w, struct victim *v)
{
	static const uint16_t commands[] = { 0, 0, PCI_COMMAND_IO, PCI_COMMAND_NO_INTX };
	uint16_t command = commands[pick(w, ARRAY_SIZE(commands))];

	if (pick(w, 4) == 0) {
		/* Not even the whole register. */
		write8(v->fn + PCI_COMMAND, pick(w, 2) ? PCI_COMMAND_MEM : 0);
		return;
	}
	write16(v->fn + PCI_COMMAND, command);
	/* On again at once, or at some other time by anybody. */
	if (pick(w, 4))
		write16(v->fn + PCI_COMMAND, command | PCI_COMMAND_MEM);
}

static void put_bar(struct worker *w, struct victim *v)
{
	const struct victim *other = &victims[pick(w, NR_VICTIMS)];
	unsigned i = pick(w, 7);
	uint64_t to = v->bars[i].addr;

	if (!v->bars[i].size || v->bars[i].io)
		return;
	if (pick(w, 3) == 0)
		to = v->away[i];
	else if (pick(w, 6) == 0 && !(v->msix && i == v->table_bar))
		to = other->bars[pick(w, 6)].addr;
	else if (pick(w, 12) == 0)
		to = nowhere[pick(w, ARRAY_SIZE(nowhere))];
	pci_bar_move(v->fn, i, &v->bars[i], to);
	if (pick(w, 2))
		pci_bar_move(v->fn, i, &v->bars[i], v->bars[i].addr);
}

static void switch_interrupts(struct worker *w, struct victim *v)
{
	if (v->msix && pick(w, 3)) {
		write16(v->fn + v->msix + 2, (uint16_t)(pick(w, 4) ? MSIX_ENABLE : 0) |
						     (pick(w, 3) ? 0 : MSIX_MASK_ALL));
	} else if (v->msi) {
		write32(v->fn + v->msi + 4, message(w));
		write16(v->fn + v->msi + (read16(v->fn + v->msi + 2) & 0x80 ? 12 : 8),
			FIRST_VECTOR);
		write16(v->fn + v->msi + 2, (uint16_t)(pick(w, 2) | pick(w, 4) << 4));
	}
}

static void sleep_or_wake(struct worker *w, struct victim *v)
{
	if (!v->pm)
		return;
	if (pick(w, 3) == 0)
		write16(v->fn + v->pm + PM_CTRL, 3);
	write16(v->fn + v->pm + PM_CTRL, 0);
}

static void change(struct worker *w, struct victim *v)
{
	unsigned what = pick(w, 12);

	if (v->can_flr && flr_of && pick(w, (unsigned)flr_of) == 0)
		write16(v->fn + v->exp + EXP_DEVCTL, EXP_FLR);
	else if (what < 6)
		switch_decode(w, v);
	else if (what < 9)
		put_bar(w, v);
	else if (what < 11)
		switch_interrupts(w, v);
	else if (pick(w, 8) == 0)
		sleep_or_wake(w, v);
}

/* Ring 0, on each processor. */
static uint64_t run(uint64_t worker, uint64_t n)
{
	struct worker *w = (struct worker *)worker;

	for (uint64_t i = 0; i < n; i++) {
		struct victim *v = &victims[pick(w, NR_VICTIMS)];
		unsigned what = pick(w, 16);

		if (what < 2)
			change(w, v);
		else if (what < 5)
			touch_config(w, v);
		else if (what < 8)
			touch_table(w, v);
		else if (what < 9)
			touch_pending(w, v);
		else
			touch_bar(w, v);
	}
	return 0;
}

/* --- before and after --- */

static void put_in_order(struct victim *v)
{
	if (v->pm)
		write16(v->fn + v->pm + PM_CTRL, 0);
	write16(v->fn + PCI_COMMAND, 0);
	if (v->msix)
		write16(v->fn + v->msix + 2, 0);
	if (v->msi)
		write16(v->fn + v->msi + 2, 0);
	for (unsigned i = 0; i < 6; i++)
		if (v->bars[i].size && !v->bars[i].io)
			pci_bar_move(v->fn, i, &v->bars[i], v->bars[i].addr);
	write32(v->fn + PCI_ROM, (uint32_t)v->bars[6].addr);
	if (v->can_flr)
		write16(v->fn + v->exp + EXP_DEVCTL, EXP_FLR);
	write16(v->fn + PCI_COMMAND, PCI_COMMAND_MEM | PCI_COMMAND_IO);
}

static uint32_t first_register(const struct victim *v)
{
	return read32(v->bars[0].addr);
}

static void find_places(struct victim *v)
{
	v->pm = pci_capability(v->fn, PCI_CAP_PM);
	v->exp = pci_capability(v->fn, PCI_CAP_EXP);
	v->msi = pci_capability(v->fn, PCI_CAP_MSI);
	v->msix = pci_capability(v->fn, PCI_CAP_MSIX);
	v->can_flr = v->exp && read32(v->fn + v->exp + EXP_DEVCAP) & EXP_CAN_FLR;
	for (unsigned i = 0; i < 7; i++) {
		v->bars[i] = pci_bar(v->fn, i);
		v->away[i] = v->bars[i].addr + 0x4000000;
		if (v->bars[i].size && !v->bars[i].io)
			sys_map(v->away[i], v->bars[i].size);
		i += v->bars[i].wide;
	}
	if (!v->msix)
		return;
	v->nr_vectors = (read16(v->fn + v->msix + 2) & 0x7ffu) + 1;
	v->table = read32(v->fn + v->msix + 4);
	v->pba = read32(v->fn + v->msix + 8);
	v->table_bar = v->table & 7;
	v->pba_bar = v->pba & 7;
	v->table &= ~7u;
	v->pba &= ~7u;
}

static bool find_victim(struct victim *v, const char *name, const char *mask, unsigned nr)
{
	uint32_t id = (uint32_t)boot_number(name, EXERCISER_VENDOR | EXERCISER_DEVICE << 16);

	v->id = id;
	v->mask = (uint32_t)boot_number(mask, UINT32_MAX);
	v->fn = pci_find((uint16_t)id, (uint16_t)(id >> 16), nr);
	if (!ok(v->fn != 0, "function %04x:%04x is there", id & 0xffff, id >> 16))
		return false;
	find_places(v);
	put_in_order(v);
	v->first = first_register(v);
	note("%04x:%04x: BAR 0 at 0x%lx, power management 0x%x, PCI Express 0x%x, MSI 0x%x, MSI-X 0x%x of %u%s",
		id & 0xffff, id >> 16, v->bars[0].addr, v->pm, v->exp, v->msi, v->msix,
		v->nr_vectors, v->can_flr ? ", FLR" : "");
	return ok(v->first != UINT32_MAX, "it answers");
}

static void check_answer(const struct victim *v, const char *when)
{
	uint32_t got = first_register(v);

	ok(got != UINT32_MAX && !((got ^ v->first) & v->mask),
		"%s its first register says what it said: 0x%x, it was 0x%x", when, got, v->first);
}

static void check_victim(struct victim *v)
{
	equal(read32(v->fn), v->id, "afterwards a function has the number it had");
	put_in_order(v);
	check_answer(v, "and");
	write16(v->fn + PCI_COMMAND, 0);
	equal(first_register(v), UINT32_MAX, "with decode off it does not answer");
	write16(v->fn + PCI_COMMAND, PCI_COMMAND_MEM);
	check_answer(v, "with decode on");
}

static bool run_batches(unsigned nr_others)
{
	bool all = true;
	uint64_t unused;

	for (unsigned cpu = 1; cpu <= nr_others; cpu++)
		smp_call(cpu - 1, run, (uint64_t)&workers[cpu], BATCH);
	ring0(run, (uint64_t)&workers[0], BATCH);
	for (unsigned cpu = 1; cpu <= nr_others; cpu++)
		all = smp_wait(cpu - 1, &unused) && all;
	return all;
}

/* Interrupts that came meanwhile are taken, and counted by nobody. */
static void take_interrupts(void)
{
	irq_open();
	irq_close();
}

static uint64_t start_workers(unsigned nr)
{
	uint64_t seed = boot_number("seed", 0);

	if (!seed)
		seed = rdtsc() | 1;
	for (unsigned cpu = 0; cpu < nr; cpu++)
		workers[cpu].state = seed + cpu * 0x9e3779b97f4a7c15;
	return seed;
}

void test_hostile(void)
{
	uint64_t n = boot_number("n", 100000), done = 0, told = 0, answered = 0, silent = 0;
	unsigned nr_others = smp_count();

	flr_of = boot_number("flr", 4000);
	if (nr_others > MAX_CPUS - 1 || smp_start() < nr_others) {
		ok(false, "the other CPUs are up, at most %u", MAX_CPUS - 1);
		return;
	}
	if (!find_victim(&victims[0], "a", "am", 0) ||
		!find_victim(&victims[1], "b", "bm", boot_number("b", 0) == boot_number("a", 0)))
		return;
	note("hostile n %lu seed 0x%lx", n, start_workers(nr_others + 1));
	while (done < n && run_batches(nr_others)) {
		done += (uint64_t)BATCH * (nr_others + 1);
		take_interrupts();
		if (done - told >= n / 10) {
			told = done;
			note("%lu done", done);
		}
	}
	ok(done >= n, "%lu steps", done);
	for (unsigned i = 0; i < NR_VICTIMS; i++)
		check_victim(&victims[i]);
	for (unsigned cpu = 0; cpu <= nr_others; cpu++) {
		answered += workers[cpu].answered;
		silent += workers[cpu].silent;
	}
	ok(answered && silent, "of the reads %lu were answered and %lu were not", answered, silent);
}
