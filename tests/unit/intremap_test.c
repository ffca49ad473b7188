/* intremap_test.c - interrupt remapping units: registers, entries, faults, the queue; also from a guest that means ill */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>

#include "fake_memory.h"
#include "machine/intremap_priv.h"

#define RAM    (4 * MIB)
#define TABLE  0x10000ull
#define QUEUE  0x100000ull
#define STATUS 0x300000ull
#define SELF   0x0010u /* 00:02.0 */
#define ENTRIES 256u

struct rig {
	struct memory *ram;
	struct intremap *ir;
	unsigned changed, sent;
	struct msi_message last;
};

static void on_changed(void *arg)
{
	((struct rig *)arg)->changed++;
}

static void on_send(void *arg, const struct msi_message *msg)
{
	struct rig *r = arg;

	r->sent++;
	r->last = *msg;
}

static const struct intremap_ops ops = { .changed = on_changed, .send = on_send };

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct intremap_params p = {
		.ops = &ops, .arg = r, .nr_segments = 2, .phys_bits = 46
	};

	p.memory = r->ram = fake_memory_new(RAM);
	assert_int_equal(intremap_new(&p, &r->ir), 0);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	intremap_free(r->ir);
	fake_memory_free(r->ram);
	free(r);
	return 0;
}

static uint32_t reg(struct rig *r, unsigned off)
{
	return (uint32_t)intremap_read(r->ir, 0, off, 4);
}

static void put(struct rig *r, unsigned off, uint32_t value)
{
	intremap_write(r->ir, 0, off, 4, value);
}

static void put64(struct rig *r, unsigned off, uint64_t value)
{
	intremap_write(r->ir, 0, off, 8, value);
}

/* --- entries --- */

#define PRESENT	 1ull
#define QUIET	 2ull
#define OWNED(s) (1ull << 18 | (s))

static void entry(struct rig *r, unsigned index, uint64_t low, uint64_t high)
{
	uint64_t e[2] = { low, high };

	assert_int_equal(memory_write(r->ram, TABLE + index * 16, e, sizeof(e)), 0);
}

static uint64_t entry_to(uint32_t dest, uint8_t vector)
{
	return PRESENT | (uint64_t)dest << 32 | (uint64_t)vector << 16;
}

/* A table of ENTRIES entries, with 32-bit destinations or without. */
static void enable(struct rig *r, bool eim)
{
	put64(r, R_IRTA, TABLE | (eim ? 1u << 11 : 0) | 7);
	put(r, R_GCMD, G_SIRTP);
	put(r, R_GCMD, G_IRE);
	assert_int_equal(reg(r, R_GSTS), G_SIRTP | G_IRE);
}

static struct msi_message remappable(unsigned index)
{
	return (struct msi_message){
		.addr = 0xfee00010 | (index & 0x7fff) << 5 | (index >> 15) << 2
	};
}

static bool resolve(struct rig *r, uint32_t source, struct msi_message msg, struct msi_message *out)
{
	return intremap_resolve(r->ir, source, &msg, out, true);
}

/* The reason of the newest record, or 0; all are cleared. */
static unsigned fault(struct rig *r)
{
	unsigned found = 0;

	for (unsigned i = 0; i < NR_FRCD; i++) {
		uint32_t high = reg(r, R_FRCD + i * 16 + 12);

		if (high >> 31)
			found = high & 0xff;
		put(r, R_FRCD + i * 16 + 12, 1u << 31);
	}
	put(r, R_FSTS, FSTS_PFO | FSTS_IQE);
	return found;
}

static void it_remaps_interrupts_and_translates_nothing(void **state)
{
	struct rig *r = *state;
	uint64_t cap = intremap_read(r->ir, 0, R_CAP, 8);

	assert_int_equal(reg(r, R_VER), 0x10);
	assert_int_equal(cap >> 8 & 0x1f, 0); /* SAGAW */
	assert_int_equal((cap >> 24 & 0x3ff) * 16, R_FRCD);
	assert_int_equal(cap >> 40 & 0xff, NR_FRCD - 1);
	assert_int_equal(reg(r, R_ECAP) & 0x1b, 0x1b); /* coherent, QI, IR, EIM */
	assert_int_equal(reg(r, R_GSTS), 0);
	put(r, R_GCMD, 1u << 31); /* translation */
	assert_int_equal(reg(r, R_GSTS), 0);
}

static void until_enabled_messages_mean_what_they_say(void **state)
{
	struct rig *r = *state;
	struct msi_message out, in = { .addr = 0xfee01000, .data = 0x41 };

	assert_true(resolve(r, SELF, in, &out));
	assert_int_equal(out.addr, in.addr);
	assert_int_equal(out.data, in.data);
	assert_true(resolve(r, SELF, remappable(3), &out));
	in.addr = 0xfed01000;
	assert_false(resolve(r, SELF, in, &out));
	in.addr = 0x1fee01000;
	assert_false(resolve(r, SELF, in, &out));
	assert_int_equal(fault(r), 0);
}

static void an_entry_says_where_a_message_goes(void **state)
{
	struct rig *r = *state;
	struct msi_message out, in = remappable(3);

	enable(r, true);
	entry(r, 3, entry_to(0x10203, 0x77), OWNED(SELF));
	assert_true(resolve(r, SELF, in, &out));
	assert_int_equal(out.addr, 0x102ull << 40 | 0xfee03000);
	assert_int_equal(out.data, 0x4077);
	/* logical, redirected, level, lowest priority */
	entry(r, 3, entry_to(1, 0x78) | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5, 0);
	assert_true(resolve(r, 0x50, in, &out));
	assert_int_equal(out.addr, 0xfee0100c);
	assert_int_equal(out.data, 0xc178);
	/* The data's low half is added to the handle, if the address says so. */
	in = remappable(1);
	in.addr |= 1 << 3;
	in.data = 2;
	assert_true(resolve(r, SELF, in, &out));
	assert_int_equal(out.data, 0xc178);
}

static void without_x2apic_destinations_have_8_bits(void **state)
{
	struct rig *r = *state;
	struct msi_message out;

	enable(r, false);
	entry(r, 9, entry_to(0x0500, 0x31), OWNED(SELF));
	assert_true(resolve(r, SELF, remappable(9), &out));
	assert_int_equal(out.addr, 0xfee05000);
	entry(r, 9, entry_to(0x10500, 0x31), OWNED(SELF));
	assert_false(resolve(r, SELF, remappable(9), &out));
	assert_int_equal(fault(r), IR_FAULT_ENTRY);
}

static void an_entry_is_its_owners_alone(void **state)
{
	static const struct {
		uint64_t high;
		uint32_t source;
		bool may;
	} cases[] = {
		{ OWNED(SELF), SELF, true },
		{ OWNED(SELF), SELF + 1, false },
		{ OWNED(SELF), SELF + 8, false },
		{ OWNED(SELF), SELF + 0x100, false },
		{ OWNED(SELF) | 1ull << 16, SELF | 4, true },
		{ OWNED(SELF) | 1ull << 16, SELF | 2, false },
		{ OWNED(SELF) | 2ull << 16, SELF | 6, true },
		{ OWNED(SELF) | 2ull << 16, SELF | 1, false },
		{ OWNED(SELF) | 3ull << 16, SELF | 7, true },
		{ OWNED(SELF) | 3ull << 16, SELF | 8, false },
		{ 2ull << 18 | 0x0103, 0x0110, true },
		{ 2ull << 18 | 0x0103, 0x03ff, true },
		{ 2ull << 18 | 0x0103, 0x0010, false },
		{ 2ull << 18 | 0x0103, 0x0400, false },
		{ 0, 0xabcd, true },
	};
	struct rig *r = *state;
	struct msi_message out;

	enable(r, true);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		entry(r, 1, entry_to(0, 0x40), cases[i].high);
		assert_int_equal(resolve(r, cases[i].source, remappable(1), &out), cases[i].may);
		assert_int_equal(fault(r), cases[i].may ? 0 : IR_FAULT_SOURCE);
	}
	/* The other segment has a unit of its own, which is not enabled; a third segment has none. */
	assert_true(resolve(r, 1u << 16 | SELF, remappable(1), &out));
	assert_false(resolve(r, 2u << 16 | SELF, remappable(1), &out));
}

static void what_makes_no_sense_is_blocked_and_told(void **state)
{
	static const struct {
		uint64_t low, high;
		unsigned reason;
	} cases[] = {
		{ 0, 0, IR_FAULT_ABSENT },
		{ QUIET, 0, 0 },
		{ PRESENT | 1 << 12, 0, IR_FAULT_ENTRY },
		{ PRESENT | 1 << 15, 0, IR_FAULT_ENTRY }, /* posted */
		{ PRESENT | 1 << 24, 0, IR_FAULT_ENTRY },
		{ PRESENT | QUIET | 1 << 24, 0, 0 },
		{ PRESENT, 1 << 20, IR_FAULT_ENTRY },
		{ PRESENT, 1ull << 63, IR_FAULT_ENTRY },
		{ PRESENT, 3 << 18, IR_FAULT_ENTRY },
		{ PRESENT | QUIET, OWNED(1), 0 },
	};
	struct rig *r = *state;
	struct msi_message out, in;

	enable(r, true);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		entry(r, 1, cases[i].low, cases[i].high);
		assert_false(resolve(r, SELF, remappable(1), &out));
		assert_int_equal(fault(r), cases[i].reason);
	}
	assert_false(resolve(r, SELF, remappable(ENTRIES), &out));
	assert_int_equal(fault(r), IR_FAULT_INDEX);
	assert_false(resolve(r, SELF, remappable(0xffff), &out));
	assert_int_equal(fault(r), IR_FAULT_INDEX);
	in = remappable(0xffff);
	in.addr |= 1 << 3;
	in.data = 0xffff; /* must not wrap to entry 0xfffe */
	assert_false(resolve(r, SELF, in, &out));
	assert_int_equal(fault(r), IR_FAULT_INDEX);
	in.data = 0x10000;
	assert_false(resolve(r, SELF, in, &out));
	assert_int_equal(fault(r), IR_FAULT_REQUEST);
}

static void a_table_outside_of_ram_is_told(void **state)
{
	static const uint64_t places[] = { RAM - 0x1000 + 0x1000, 0xfee00000, 0xfffffffffffff000 };
	struct rig *r = *state;
	struct msi_message out;

	enable(r, true);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		put64(r, R_IRTA, places[i] | 1u << 11 | 15);
		put(r, R_GCMD, G_IRE | G_SIRTP);
		assert_false(resolve(r, SELF, remappable(0xffff), &out));
		assert_int_equal(fault(r), IR_FAULT_TABLE);
	}
}

static void messages_that_name_no_entry_pass_only_where_allowed(void **state)
{
	struct rig *r = *state;
	struct msi_message out, in = { .addr = 0xfee01000, .data = 0x41 };

	enable(r, false);
	assert_false(resolve(r, SELF, in, &out));
	assert_int_equal(fault(r), IR_FAULT_COMPAT);
	put(r, R_GCMD, G_IRE | G_CFI);
	assert_true(resolve(r, SELF, in, &out));
	enable(r, true);
	put(r, R_GCMD, G_IRE | G_CFI);
	assert_false(resolve(r, SELF, in, &out));
	assert_int_equal(fault(r), IR_FAULT_COMPAT);
}

static void the_table_counts_from_its_command_on(void **state)
{
	struct rig *r = *state;
	struct msi_message out;
	unsigned changed;

	enable(r, true);
	entry(r, 1, entry_to(0, 0x40), 0);
	put64(r, R_IRTA, (TABLE + 0x8000) | 1u << 11 | 7);
	assert_true(resolve(r, SELF, remappable(1), &out));
	changed = r->changed;
	put(r, R_GCMD, G_IRE | G_SIRTP);
	assert_int_equal(r->changed, changed + 1);
	assert_false(resolve(r, SELF, remappable(1), &out));
	put(r, R_GCMD, 0);
	assert_int_equal(r->changed, changed + 2);
	assert_int_equal(reg(r, R_GSTS), G_SIRTP);
	assert_true(resolve(r, SELF, remappable(1), &out));
}

/* --- faults --- */

static void faults_are_recorded_in_turn_until_there_is_no_room(void **state)
{
	struct rig *r = *state;
	struct msi_message out;

	enable(r, true);
	for (unsigned i = 0; i < NR_FRCD; i++)
		assert_false(resolve(r, SELF + i, remappable(i), &out));
	assert_int_equal(reg(r, R_FSTS), FSTS_PPF);
	for (unsigned i = 0; i < NR_FRCD; i++) {
		assert_int_equal(reg(r, R_FRCD + i * 16 + 4), i << 16);
		assert_int_equal(reg(r, R_FRCD + i * 16 + 8), SELF + i);
		assert_int_equal(reg(r, R_FRCD + i * 16 + 12), 1u << 31 | IR_FAULT_ABSENT);
	}
	assert_false(resolve(r, SELF, remappable(0), &out));
	assert_int_equal(reg(r, R_FSTS), FSTS_PPF | FSTS_PFO);
	/* Room alone does not help while the overflow stands. */
	put(r, R_FRCD + 12, 1u << 31);
	assert_false(resolve(r, SELF, remappable(77), &out));
	assert_int_equal(reg(r, R_FRCD + 12) >> 31, 0);
	put(r, R_FSTS, FSTS_PFO);
	assert_false(resolve(r, SELF, remappable(77), &out));
	assert_int_equal(reg(r, R_FRCD + 4), 77 << 16);
	for (unsigned i = 0; i < NR_FRCD; i++)
		put(r, R_FRCD + i * 16 + 12, 1u << 31);
	assert_int_equal(reg(r, R_FSTS) & ~FSTS_FRI, 0);
	/* The next one is where the guest is told to look. */
	assert_false(resolve(r, SELF, remappable(1), &out));
	assert_int_equal(reg(r, R_FSTS), FSTS_PPF | 1 << FSTS_FRI_SHIFT);
}

static void a_fault_interrupts_once_and_waits_while_masked(void **state)
{
	struct rig *r = *state;
	struct msi_message out;

	enable(r, true);
	put(r, R_FEDATA, 0x55);
	put(r, R_FEADDR, 0xfee02000);
	put(r, R_FEUADDR, 0x100);
	assert_false(resolve(r, SELF, remappable(0), &out));
	assert_int_equal(r->sent, 0);
	assert_int_equal(reg(r, R_FECTL), EVENT_MASK | EVENT_PENDING);
	put(r, R_FECTL, 0);
	assert_int_equal(reg(r, R_FECTL), 0);
	assert_int_equal(r->sent, 1);
	assert_int_equal(r->last.addr, 0x100ull << 32 | 0xfee02000);
	assert_int_equal(r->last.data, 0x55);
	assert_false(resolve(r, SELF, remappable(0), &out));
	assert_int_equal(r->sent, 1);
	fault(r);
	assert_false(resolve(r, SELF, remappable(0), &out));
	assert_int_equal(r->sent, 2);
	/* What was cleared while masked is told no more. */
	fault(r);
	put(r, R_FECTL, EVENT_MASK);
	assert_false(resolve(r, SELF, remappable(0), &out));
	fault(r);
	put(r, R_FECTL, 0);
	assert_int_equal(r->sent, 2);
	/* An address that is none of interrupts. */
	put(r, R_FEADDR, 0x1000);
	assert_false(resolve(r, SELF, remappable(0), &out));
	assert_int_equal(r->sent, 2);
}

static void a_look_without_a_report_tells_nothing(void **state)
{
	struct rig *r = *state;
	struct msi_message out, in = remappable(0);

	enable(r, true);
	assert_false(intremap_resolve(r->ir, SELF, &in, &out, false));
	assert_int_equal(reg(r, R_FSTS), 0);
}

/* --- the queue --- */

#define ALL_ENTRIES 4ull
#define WAIT(value) (5ull | 1 << 5 | (uint64_t)(value) << 32)

static void desc(struct rig *r, unsigned i, uint64_t low, uint64_t high)
{
	uint64_t d[2] = { low, high };

	assert_int_equal(memory_write(r->ram, QUEUE + i * 16ull, d, sizeof(d)), 0);
}

static uint32_t status(struct rig *r)
{
	return *(uint32_t *)memory_ptr(r->ram, STATUS, 4);
}

static void start_queue(struct rig *r, unsigned order)
{
	put64(r, R_IQA, QUEUE | order);
	put(r, R_GCMD, reg(r, R_GSTS) | G_QIE);
	assert_true(reg(r, R_GSTS) & G_QIE);
}

static void tail(struct rig *r, unsigned i)
{
	put64(r, R_IQT, i * 16ull);
}

static void a_wait_is_answered_after_what_came_before_it(void **state)
{
	struct rig *r = *state;
	unsigned changed = r->changed;

	start_queue(r, 0);
	desc(r, 0, ALL_ENTRIES, 0);
	desc(r, 1, 4ull | 1 << 4 | 3 << 27 | 8ull << 32, 0); /* some entries */
	desc(r, 2, WAIT(7), STATUS);
	tail(r, 2);
	assert_int_equal(r->changed, changed + 1);
	assert_int_equal(status(r), 0);
	tail(r, 3);
	assert_int_equal(status(r), 7);
	assert_int_equal(r->changed, changed + 1);
	assert_int_equal(reg(r, R_IQH), 3 * 16);
	assert_int_equal(reg(r, R_FSTS), 0);
	/* Those of address translation are none of ours. */
	desc(r, 3, 1, 0);
	desc(r, 4, 2, 0x1000);
	tail(r, 5);
	assert_int_equal(r->changed, changed + 1);
	assert_int_equal(reg(r, R_IQH), 5 * 16);
}

static void a_queue_goes_round(void **state)
{
	struct rig *r = *state;

	start_queue(r, 0);
	for (unsigned i = 0; i < 256; i++)
		desc(r, i, WAIT(i + 1), STATUS);
	tail(r, 250);
	assert_int_equal(status(r), 250);
	tail(r, 4);
	assert_int_equal(status(r), 4);
	assert_int_equal(reg(r, R_IQH), 4 * 16);
}

/* However many there are: one look at the messages, and each wait answered. */
static void the_longest_queue_is_one_change(void **state)
{
	struct rig *r = *state;
	unsigned changed = r->changed;

	start_queue(r, 7);
	for (unsigned i = 0; i < 32767; i += 2) {
		desc(r, i, ALL_ENTRIES, 0);
		desc(r, i + 1, WAIT(i + 2), STATUS);
	}
	tail(r, 32767);
	assert_int_equal(r->changed, changed + 1);
	assert_int_equal(status(r), 32766);
	assert_int_equal(reg(r, R_IQH), 32767 * 16);
}

static void a_descriptor_that_is_none_stops_the_queue_until_cleared(void **state)
{
	static const uint64_t bad[][2] = {
		{ 0, 0 },
		{ 3, 0 }, /* no device has a cache of addresses */
		{ 6, 0 },
		{ 15, 0 },
		{ 4 | 1 << 9, 0 },
		{ 4 | 1 << 12, 0 },
		{ 4, 1 },
		{ 5 | 1 << 5 | 1 << 7, STATUS },
		{ 5 | 1 << 5, STATUS + 2 },
	};
	struct rig *r = *state;

	start_queue(r, 0);
	put(r, R_FEADDR, 0xfee00000);
	put(r, R_FECTL, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		desc(r, 2 * i, bad[i][0], bad[i][1]);
		desc(r, 2 * i + 1, WAIT(i + 1), STATUS);
		tail(r, 2 * i + 2);
		assert_int_equal(reg(r, R_FSTS), FSTS_IQE);
		assert_int_equal(r->sent, i + 1);
		assert_int_equal(reg(r, R_IQH), 2 * i * 16);
		assert_int_equal(status(r), i);
		tail(r, 2 * i + 2);
		assert_int_equal(status(r), i);
		desc(r, 2 * i, 2, 0);
		put(r, R_FSTS, FSTS_IQE);
		assert_int_equal(reg(r, R_FSTS), 0);
		assert_int_equal(status(r), i + 1);
	}
}

static void a_queue_that_is_nowhere_is_an_error(void **state)
{
	static const struct {
		uint64_t iqa;
		unsigned tail;
	} cases[] = {
		{ 0xfffffffffffff000, 1 },
		{ RAM, 1 },
		{ QUEUE, 256 },		/* past its end */
		{ QUEUE | 1 << 11, 1 }, /* wide descriptors */
	};
	struct rig *r = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		put(r, R_GCMD, 0);
		put64(r, R_IQT, 0);
		put64(r, R_IQA, cases[i].iqa);
		put(r, R_GCMD, G_QIE);
		desc(r, 0, WAIT(9), STATUS);
		tail(r, cases[i].tail);
		assert_int_equal(reg(r, R_FSTS), FSTS_IQE);
		assert_int_equal(status(r), 0);
		put(r, R_GCMD, 0);
		put(r, R_FSTS, FSTS_IQE);
		assert_int_equal(reg(r, R_FSTS), 0);
	}
}

static void a_status_outside_of_ram_goes_nowhere(void **state)
{
	struct rig *r = *state;

	start_queue(r, 0);
	desc(r, 0, WAIT(1), RAM - 4);
	desc(r, 1, WAIT(2), RAM);
	desc(r, 2, WAIT(3), 0xfffffffffffffffc);
	desc(r, 3, WAIT(4), 0xfee00000);
	tail(r, 4);
	assert_int_equal(reg(r, R_IQH), 4 * 16);
	assert_int_equal(*(uint32_t *)memory_ptr(r->ram, RAM - 4, 4), 1);
	assert_int_equal(reg(r, R_FSTS), 0);
}

static void a_wait_may_interrupt(void **state)
{
	struct rig *r = *state;

	start_queue(r, 0);
	put(r, R_IEDATA, 0x66);
	put(r, R_IEADDR, 0xfee00000);
	for (unsigned i = 0; i < 8; i++)
		desc(r, i, 5 | 1 << 4, 0);
	tail(r, 4);
	assert_int_equal(r->sent, 0);
	assert_int_equal(reg(r, R_ICS), ICS_IWC);
	put(r, R_IECTL, 0);
	assert_int_equal(r->sent, 1);
	assert_int_equal(r->last.data, 0x66);
	tail(r, 5);
	assert_int_equal(r->sent, 1); /* told, and not cleared yet */
	put(r, R_ICS, ICS_IWC);
	tail(r, 8);
	assert_int_equal(r->sent, 2);
}

static void a_queue_that_is_off_does_nothing(void **state)
{
	struct rig *r = *state;

	put64(r, R_IQA, QUEUE);
	desc(r, 0, WAIT(1), STATUS);
	tail(r, 1);
	assert_int_equal(status(r), 0);
	put(r, R_GCMD, G_QIE); /* what is there already is done now */
	assert_int_equal(status(r), 1);
	assert_int_equal(reg(r, R_IQH), 16);
	put(r, R_GCMD, 0);
	assert_int_equal(reg(r, R_IQH), 0);
	assert_int_equal(reg(r, R_GSTS), 0);
}

/* --- at the same time --- */

#define ROUNDS 2000

static void *look_up(void *arg)
{
	struct rig *r = arg;
	struct msi_message out;
	uintptr_t wrong = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		wrong += !resolve(r, SELF, remappable(1), &out) || out.data != 0x4040;
		reg(r, R_IQH);
	}
	return (void *)wrong;
}

static void messages_are_looked_up_while_commands_go_on(void **state)
{
	struct rig *r = *state;
	pthread_t thread;
	void *wrong;

	enable(r, true);
	entry(r, 1, entry_to(0, 0x40), OWNED(SELF));
	start_queue(r, 0);
	for (unsigned i = 0; i < 256; i += 2) {
		desc(r, i, ALL_ENTRIES, 0);
		desc(r, i + 1, WAIT(i), STATUS);
	}
	assert_int_equal(pthread_create(&thread, NULL, look_up, r), 0);
	for (unsigned i = 1; i <= ROUNDS; i++) {
		tail(r, i * 2 % 256);
		put(r, R_GCMD, G_QIE | G_IRE | G_SIRTP);
	}
	assert_int_equal(pthread_join(thread, &wrong), 0);
	assert_null(wrong);
	assert_int_equal(reg(r, R_FSTS), 0);
	assert_int_equal(reg(r, R_IQH), ROUNDS * 2 % 256 * 16);
}

/* --- registers --- */

static void registers_take_what_they_are_made_for(void **state)
{
	struct rig *r = *state;

	intremap_write(r->ir, 0, R_FEDATA, 1, 0xff);
	intremap_write(r->ir, 0, R_FEDATA, 2, 0xffff);
	intremap_write(r->ir, 0, R_FEDATA + 2, 4, 0xffff);
	assert_int_equal(reg(r, R_FEDATA), 0);
	for (unsigned off = 0; off < 0x1000; off += 8)
		if (off != R_GCMD)
			intremap_write(r->ir, 0, off, 8, UINT64_MAX);
	assert_int_equal(reg(r, R_VER), 0x10);
	assert_int_equal(reg(r, R_GSTS), 0);
	assert_int_equal(reg(r, R_FEADDR), 0xfffffffc);
	assert_int_equal(reg(r, R_IQT), 0x7fff0);
	assert_int_equal(reg(r, R_FRCD + 12), 0);
	assert_int_equal(intremap_read(r->ir, 0, R_END - 4, 8), 0);
	assert_int_equal(intremap_read(r->ir, 0, 0xff8, 8), 0);
	assert_int_equal(intremap_read(r->ir, 1, R_FEADDR, 4), 0);
	intremap_reset(r->ir);
	assert_int_equal(reg(r, R_FEADDR), 0);
	assert_int_equal(reg(r, R_FECTL), EVENT_MASK);
}

static void a_reset_forgets_the_table(void **state)
{
	struct rig *r = *state;
	struct msi_message out, in = { .addr = 0xfee01000, .data = 0x41 };
	unsigned changed;

	enable(r, true);
	assert_false(resolve(r, SELF, in, &out));
	changed = r->changed;
	intremap_reset(r->ir);
	assert_int_equal(r->changed, changed + 1);
	assert_int_equal(reg(r, R_GSTS), 0);
	assert_int_equal(reg(r, R_FSTS), 0);
	assert_int_equal(reg(r, R_FRCD + 12), 0);
	assert_true(resolve(r, SELF, in, &out));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(it_remaps_interrupts_and_translates_nothing),
		TEST(until_enabled_messages_mean_what_they_say),
		TEST(an_entry_says_where_a_message_goes),
		TEST(without_x2apic_destinations_have_8_bits),
		TEST(an_entry_is_its_owners_alone),
		TEST(what_makes_no_sense_is_blocked_and_told),
		TEST(a_table_outside_of_ram_is_told),
		TEST(messages_that_name_no_entry_pass_only_where_allowed),
		TEST(the_table_counts_from_its_command_on),
		TEST(faults_are_recorded_in_turn_until_there_is_no_room),
		TEST(a_fault_interrupts_once_and_waits_while_masked),
		TEST(a_look_without_a_report_tells_nothing),
		TEST(a_wait_is_answered_after_what_came_before_it),
		TEST(a_queue_goes_round),
		TEST(the_longest_queue_is_one_change),
		TEST(a_descriptor_that_is_none_stops_the_queue_until_cleared),
		TEST(a_queue_that_is_nowhere_is_an_error),
		TEST(a_status_outside_of_ram_goes_nowhere),
		TEST(a_wait_may_interrupt),
		TEST(a_queue_that_is_off_does_nothing),
		TEST(messages_are_looked_up_while_commands_go_on),
		TEST(registers_take_what_they_are_made_for),
		TEST(a_reset_forgets_the_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
