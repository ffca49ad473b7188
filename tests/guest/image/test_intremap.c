/*
 * test_intremap.c - interrupt remapping: a device's interrupts, and a line's, by entries of a table
 *
 * "intremap": what the tables say; MSI-X by an entry that is changed, is another's, is not there; a line by its
 * entry, ended by the IOAPIC's register; faults with their interrupt; a queue that makes no sense; x2APIC mode
 * with 32-bit destinations last. "intremap-chaos": registers, queue and table of random words. Intel VT-d 3.3.
 */
#include "acpi.h"
#include "apic.h"
#include "boot.h"
#include "print.h"
#include "sys.h"
#include "tests.h"
#include "virtio.h"

#define TYPE_RNG 4

#define VECTOR_A     0x61
#define VECTOR_B     0x62
#define VECTOR_FAULT 0x63
#define VECTOR_LINE  0x64
#define VECTOR_WAIT  0x65

enum {
	R_CAP = 0x08,
	R_ECAP = 0x10,
	R_GCMD = 0x18,
	R_GSTS = 0x1c,
	R_FSTS = 0x34,
	R_FECTL = 0x38,
	R_FEDATA = 0x3c,
	R_FEADDR = 0x40,
	R_IQH = 0x80,
	R_IQT = 0x88,
	R_IQA = 0x90,
	R_ICS = 0x9c,
	R_IECTL = 0xa0,
	R_IEDATA = 0xa4,
	R_IEADDR = 0xa8,
	R_IRTA = 0xb8,
};

#define QIE   (1u << 26)
#define IRE   (1u << 25)
#define SIRTP (1u << 24)
#define STATES (QIE | IRE | SIRTP | 1u << 23)
#define IQE    (1u << 4)

#define IN_SERVICE_MS 5000

/* An index above 127, so that both bytes of an IOAPIC's entry matter. */
#define INDEX_RNG  200
#define INDEX_LINE 3

static struct virtio rng;
static uint64_t unit, records;
static unsigned tail;
static uint64_t table[256][2] __attribute__((aligned(4096)));
static uint64_t queue[256][2] __attribute__((aligned(4096)));
static uint8_t bytes[64];
static volatile uint32_t status;

static uint32_t reg(unsigned off)
{
	return read32(unit + off);
}

static bool find_unit(void)
{
	uint64_t dmar = acpi_table("DMAR", 0);

	if (!ok(dmar, "there is a DMAR"))
		return false;
	equal(acpi_sum(dmar, read32(dmar + 4)), 0, "its sum is right");
	equal(read8(dmar + 37), 1, "interrupts are remapped");
	equal(read16(dmar + 48), 0, "it begins with a unit");
	equal(read8(dmar + 52), 1, "of all functions");
	equal(read8(dmar + 64), 3, "and the IOAPIC");
	unit = read64(dmar + 56);
	equal(read64(unit + R_CAP) >> 8 & 0x1f, 0, "it translates no addresses");
	equal(read64(unit + R_ECAP) & 0x1a, 0x1a, "and has a queue, entries and 32-bit destinations");
	records = unit + (read64(unit + R_CAP) >> 24 & 0x3ff) * 16;
	return true;
}

/* --- entries and the queue --- */

static uint16_t rng_sid(void)
{
	return (uint16_t)(pci_slot(rng.fn) << 3);
}

static uint16_t ioapic_sid(void)
{
	uint64_t dmar = acpi_table("DMAR", 0);

	return (uint16_t)(read8(dmar + 69) << 8 | read8(dmar + 70) << 3 | read8(dmar + 71));
}

static bool wide; /* 32-bit destinations */

static void entry(unsigned index, uint8_t vector, uint16_t owner)
{
	table[index][1] = 1ull << 18 | owner;
	table[index][0] = 1 | (uint64_t)vector << 16 | (uint64_t)apic_id() << (wide ? 32 : 40);
}

static void give(uint64_t low, uint64_t high)
{
	queue[tail][0] = low;
	queue[tail][1] = high;
	tail = (tail + 1) % ARRAY_SIZE(queue);
}

/* Entries have changed; the unit has taken notice when this is true. */
static bool invalidate(void)
{
	static uint32_t value;

	give(4, 0);
	give(5 | 1 << 5 | (uint64_t)++value << 32, (uint64_t)&status);
	write64(unit + R_IQT, tail * 16);
	for (unsigned i = 0; i < 1000000 && status != value; i++)
		cpu_relax();
	return status == value;
}

static void enable(void)
{
	write64(unit + R_IRTA, (uint64_t)table | (wide ? 1 << 11 : 0) | 7);
	write64(unit + R_IQA, (uint64_t)queue);
	write64(unit + R_IQT, 0);
	tail = 0;
	write32(unit + R_GCMD, QIE);
	write32(unit + R_GCMD, QIE | SIRTP);
	write32(unit + R_GCMD, QIE | IRE);
	equal(reg(R_GSTS) & STATES, QIE | IRE | SIRTP, "it is enabled");
	ok(invalidate(), "and takes what is in its queue");
}

static void disable(void)
{
	write32(unit + R_GCMD, 0);
	equal(reg(R_GSTS) & (QIE | IRE), 0, "it is disabled");
}

/* --- faults --- */

/* The reason and sender of the fault that is there; it is cleared. */
static uint32_t take_fault(void)
{
	uint64_t at = records + (reg(R_FSTS) >> 8 & 0xff) * 16;
	uint32_t found = reg(R_FSTS) & 2 ? read32(at + 12) << 16 | (read32(at + 8) & 0xffff) : 0;

	write32(at + 12, 1u << 31);
	write32(unit + R_FSTS, 0x71);
	return found;
}

/* Since the last one: a fault of the device's, with an interrupt. */
static void check_fault(unsigned reason, const char *why)
{
	static uint32_t told;

	equal(take_fault(), reason << 16 | rng_sid(), "%s: a fault", why);
	ok(irq_wait(VECTOR_FAULT, told + 1, IN_SERVICE_MS), "%s: told by an interrupt", why);
	told = irq_count[VECTOR_FAULT];
}

/* --- the device --- */

static void start_rng(void)
{
	virtio_negotiate(&rng, FEATURE_VERSION_1);
	virtio_queue(&rng, 0, RING_MAX, 0);
	virtio_driver_ok(&rng);
}

/* Its first vector sends a message. */
static void program(uint32_t addr, uint32_t data)
{
	write32(rng.table + 12, 1);
	write32(rng.table, addr);
	write32(rng.table + 4, 0);
	write32(rng.table + 8, data);
	write32(rng.table + 12, 0);
}

static void program_entry(unsigned index)
{
	program((uint32_t)LAPIC_BASE | 1 << 4 | 1 << 3 | (index & 0x7fff) << 5, 0);
}

static void use(void)
{
	virtio_give(&rng, 0, bytes, 1, bytes, sizeof(bytes));
	virtio_kick(&rng, 0);
	while (!virtio_waiting(&rng, 0))
		cpu_relax();
	virtio_take(&rng, 0);
}

/* A request is answered; is it told by this vector? */
static bool tells(uint8_t vector)
{
	uint32_t before = irq_count[vector];

	use();
	return irq_wait(vector, before + 1, IN_SERVICE_MS);
}

/* A request is answered, and nothing told. */
static bool is_silent(void)
{
	uint32_t a = irq_count[VECTOR_A], b = irq_count[VECTOR_B];

	use();
	irq_wait(VECTOR_A, a + 1, 20);
	return irq_count[VECTOR_A] == a && irq_count[VECTOR_B] == b;
}

/* --- MSI-X --- */

static void check_msix(void)
{
	virtio_msix_on(&rng, VECTOR_A, 1);
	start_rng();
	program((uint32_t)LAPIC_BASE | apic_id() << 12, VECTOR_A);
	ok(tells(VECTOR_A), "before: a message goes where it says");
	write32(unit + R_FEDATA, VECTOR_FAULT);
	write32(unit + R_FEADDR, (uint32_t)LAPIC_BASE | apic_id() << 12);
	write32(unit + R_FECTL, 0);
	entry(INDEX_RNG, VECTOR_A, rng_sid());
	enable();
	ok(is_silent(), "enabled: a message that names no entry is blocked");
	program_entry(INDEX_RNG);
	ok(tells(VECTOR_A), "one that names an entry goes where that says");
	entry(INDEX_RNG, VECTOR_B, rng_sid());
	ok(invalidate() && tells(VECTOR_B), "and elsewhere when the entry has changed");
	equal(take_fault(), 0, "no fault");

	entry(INDEX_RNG, VECTOR_B, rng_sid() + 8);
	ok(invalidate() && is_silent(), "another's entry: no interrupt");
	program((uint32_t)LAPIC_BASE, VECTOR_A);
	check_fault(0x25, "no entry");
	program_entry(INDEX_RNG);
	check_fault(0x26, "another's entry");
	program_entry(INDEX_RNG + 1);
	check_fault(0x22, "an entry that is not there");
	program_entry(256);
	check_fault(0x21, "past the end");
	entry(INDEX_RNG, VECTOR_A, rng_sid());
	program_entry(INDEX_RNG);
	ok(invalidate() && tells(VECTOR_A), "its own again: interrupts");
}

/* Interrupts that come while entries change are neither lost nor doubled by the change. */
static void check_changes(void)
{
	unsigned good = 0;

	for (unsigned i = 0; i < 200; i++) {
		uint8_t vector = i & 1 ? VECTOR_B : VECTOR_A;

		entry(INDEX_RNG, vector, rng_sid());
		good += invalidate() && tells(vector);
	}
	equal(good, 200, "200 changes, each followed by an interrupt");
}

/* --- a line --- */

static volatile uint32_t line_causes;

/* Ring 0: the cause is taken, then the interrupt ended by the IOAPIC's register, as its entry's is no real vector. */
static void line_isr(void)
{
	if (read8(rng.isr) & 1)
		line_causes++;
	write32(IOAPIC_BASE + 0x40, pci_intx_pin(rng.fn));
}

static void check_line(void)
{
	unsigned pin = pci_intx_pin(rng.fn), good = 0;

	virtio_reset(&rng);
	virtio_msix_off(&rng);
	irq_hook[VECTOR_LINE] = line_isr;
	entry(INDEX_LINE, VECTOR_LINE, ioapic_sid());
	ok(invalidate(), "an entry of the IOAPIC's");
	ioapic_write(0x11 + 2 * pin, (uint32_t)INDEX_LINE << 17 | 1 << 16);
	ioapic_write(0x10 + 2 * pin, pin | IOAPIC_LEVEL | IOAPIC_LOW);
	virtio_negotiate(&rng, FEATURE_VERSION_1);
	virtio_queue(&rng, 0, RING_MAX, NO_VECTOR);
	virtio_driver_ok(&rng);
	for (unsigned i = 0; i < 20; i++) {
		use();
		good += irq_wait_for(&line_causes, i + 1, IN_SERVICE_MS);
	}
	equal(good, 20, "a line: 20 requests, each with its interrupt");
	equal(take_fault(), 0, "no fault");
	ioapic_write(0x10 + 2 * pin, IOAPIC_MASKED);
	irq_hook[VECTOR_LINE] = NULL;
	virtio_reset(&rng);
}

/* --- the queue --- */

static void check_queue(void)
{
	uint32_t faults = irq_count[VECTOR_FAULT], waits = irq_count[VECTOR_WAIT];
	unsigned bad = tail;

	give(0xf, 0);
	give(5 | 1 << 5 | 0x1234ull << 32, (uint64_t)&status);
	write64(unit + R_IQT, tail * 16);
	equal(reg(R_FSTS) & 0xff, IQE, "a descriptor that is none: an error");
	ok(irq_wait(VECTOR_FAULT, faults + 1, IN_SERVICE_MS), "with an interrupt");
	equal(reg(R_IQH), bad * 16, "the queue stands there");
	queue[bad][0] = 4;
	write32(unit + R_FSTS, IQE);
	equal(status, 0x1234, "and goes on when it is cleared");
	write32(unit + R_IEDATA, VECTOR_WAIT);
	write32(unit + R_IEADDR, (uint32_t)LAPIC_BASE | apic_id() << 12);
	write32(unit + R_IECTL, 0);
	give(5 | 1 << 4, 0);
	write64(unit + R_IQT, tail * 16);
	ok(irq_wait(VECTOR_WAIT, waits + 1, IN_SERVICE_MS), "a wait may interrupt");
	write32(unit + R_ICS, 1);
	give(5 | 1 << 5, 0xfffffffffffffffc);
	give(5 | 1 << 5, 0xe8000000);
	ok(invalidate(), "a status that is not in memory goes nowhere");
	write64(unit + R_IQT, 256 * 16);
	equal(reg(R_FSTS) & 0xff, IQE, "a tail past the end: an error");
	write64(unit + R_IQT, tail * 16);
	write32(unit + R_FSTS, IQE);
	ok(invalidate(), "and goes on");
}

void test_intremap(void)
{
	if (!find_unit() || !ok(virtio_find(&rng, TYPE_RNG, 0), "there is a device"))
		return;
	check_msix();
	check_changes();
	check_line();
	check_queue();
	disable();
	virtio_msix_on(&rng, VECTOR_A, 1);
	start_rng();
	ok(tells(VECTOR_A), "a message goes where it says again");
	if (!ok(apic_enable_x2apic(), "x2APIC mode"))
		return;
	wide = true;
	write32(unit + R_FECTL, 1u << 31);
	entry(INDEX_RNG, VECTOR_B, rng_sid());
	enable();
	program_entry(INDEX_RNG);
	ok(tells(VECTOR_B), "an entry with a 32-bit destination");
	check_changes();
	take_fault();
	virtio_reset(&rng);
	disable();
}

/* --- whatever comes --- */

static uint64_t seed;

static uint64_t any(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Words as they may be, or next to what makes sense. */
static uint64_t word(void)
{
	switch (any() % 4) {
	case 0:
		return any();
	case 1:
		return (uint64_t)queue + any() % 4 * 4096 + any() % 8;
	case 2:
		return (any() & 0xffffffff00000000) | (any() & 0xff);
	default:
		return any() & 0x7fff0;
	}
}

static void scribble(void)
{
	for (unsigned i = 0; i < 16; i++) {
		queue[any() % 256][any() & 1] = any() & 1 ? (any() & ~0xfull) | (any() & 1) << 2 | 1
							  : any();
		table[any() % 256][any() & 1] = any();
	}
}

/* Where the queue is, or nowhere: elsewhere words of ours could be waits, whose status is written. */
static uint64_t queue_word(void)
{
	return any() & 1 ? (uint64_t)queue : 1ull << 63 | any();
}

/* What the unit's own interrupts are is left alone: some ways of delivery end a guest. */
static bool is_left_alone(unsigned off, unsigned size)
{
	return off == R_FEDATA || off == R_IEDATA || off == R_IQA || off == R_IQA + 4 ||
	       (size == 8 && (off == R_FECTL || off == R_IECTL));
}

static void upset(void)
{
	static const uint16_t favourites[] = { R_GCMD, R_IQT, R_FSTS, R_IRTA, R_FECTL, R_ICS };
	unsigned off = any() & 3 ? favourites[any() % ARRAY_SIZE(favourites)]
				 : (unsigned)any() % 4096 & ~3u;

	switch (any() % 8) {
	case 0:
		program((uint32_t)any(), (uint32_t)any());
		break;
	case 1:
		program_entry((unsigned)any() & 0x1ff);
		break;
	case 2:
		ioapic_write(0x11 + 2 * 20, (uint32_t)any());
		ioapic_write(0x10 + 2 * 20, (uint32_t)any() & 0x1a8ff);
		break;
	case 3:
		if (!is_left_alone(off, 4))
			write32(unit + off, (uint32_t)word());
		break;
	case 4:
		read32(unit + off);
		break;
	case 5:
		write64(unit + R_IQA, queue_word());
		break;
	default:
		if (!is_left_alone(off & ~7u, 8))
			write64(unit + (off & ~7u), word());
	}
}

/* Statuses are written to where descriptors say: only to where it does not matter. */
static uint64_t harmless(uint64_t low, uint64_t high)
{
	return (low & 0xf) == 5 ? (uint64_t)&status | (high & 0xffffff8000000000) : high;
}

void test_intremap_chaos(void)
{
	unsigned rounds = (unsigned)boot_number("n", 20000);

	seed = 0x9e3779b97f4a7c15;
	if (!find_unit() || !ok(virtio_find(&rng, TYPE_RNG, 0), "there is a device"))
		return;
	virtio_msix_on(&rng, VECTOR_A, 1);
	start_rng();
	write32(unit + R_FEDATA, VECTOR_FAULT);
	write32(unit + R_IEDATA, VECTOR_WAIT);
	for (unsigned i = 0; i < rounds; i++) {
		scribble();
		for (unsigned j = 0; j < ARRAY_SIZE(queue); j++)
			queue[j][1] = harmless(queue[j][0], queue[j][1]);
		upset();
	}
	note("%u rounds", rounds);
	disable();
	write32(unit + R_FECTL, 1u << 31);
	write32(unit + R_IECTL, 1u << 31);
	program((uint32_t)LAPIC_BASE | apic_id() << 12, VECTOR_A);
	ok(tells(VECTOR_A), "then all is as before");
	write32(unit + R_FSTS, 0x71);
	entry(INDEX_RNG, VECTOR_B, rng_sid());
	write64(unit + R_IQT, 0);
	enable();
	program_entry(INDEX_RNG);
	ok(tells(VECTOR_B), "and a table that makes sense is heeded");
}
