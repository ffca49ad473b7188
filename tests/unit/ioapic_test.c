/* ioapic_test.c - the IOAPIC that a machine with interrupt remapping has */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "base/util.h"
#include "machine/ioapic.h"

#define LEVEL  (1u << 15)
#define IRR    (1u << 14)
#define MASKED (1u << 16)

static struct rig {
	struct ioapic io;
	unsigned sent, changed, ended, pin;
} rig;

static void on_send(struct ioapic *io, unsigned pin)
{
	rig.sent++;
	rig.pin = pin;
}

static void on_changed(struct ioapic *io, unsigned pin)
{
	rig.changed++;
	rig.pin = pin;
}

static void on_ended(struct ioapic *io, unsigned pin)
{
	rig.ended++;
	rig.pin = pin;
}

static const struct ioapic_ops ops = {
	.send = on_send,
	.changed = on_changed,
	.ended = on_ended,
};

static int setup(void **state)
{
	memset(&rig, 0, sizeof(rig));
	rig.io.ops = &ops;
	ioapic_reset(&rig.io);
	return 0;
}

static uint32_t get(unsigned reg)
{
	ioapic_write(&rig.io, 0, 4, reg);
	return (uint32_t)ioapic_read(&rig.io, 0x10, 4);
}

static void put(unsigned reg, uint32_t value)
{
	ioapic_write(&rig.io, 0, 4, reg);
	ioapic_write(&rig.io, 0x10, 4, value);
}

static uint32_t low(unsigned pin)
{
	return get(0x10 + 2 * pin);
}

static void set_low(unsigned pin, uint32_t value)
{
	put(0x10 + 2 * pin, value);
}

static void it_has_24_masked_pins_and_an_eoi_register(void **state)
{
	assert_int_equal(get(1), 0x170020);
	for (unsigned pin = 0; pin < 24; pin++) {
		assert_int_equal(low(pin), MASKED);
		assert_int_equal(get(0x11 + 2 * pin), 0);
		assert_true(ioapic_masked(&rig.io, pin));
	}
	put(0, 0x5f000000);
	assert_int_equal(get(0), 0xf000000);
	assert_int_equal(get(0x40), 0);
	assert_int_equal(get(3), 0);
	put(0x40, 1);
	put(0xff, 1);
	assert_int_equal(rig.changed, 0);
	assert_int_equal(ioapic_read(&rig.io, 0x20, 4), 0);
}

static void an_entry_is_a_message_in_either_format(void **state)
{
	struct msi_message m;

	put(0x11 + 8, 0x5000000);
	set_low(4, 0x31 | 1 << 8 | 1 << 11 | LEVEL);
	assert_false(ioapic_masked(&rig.io, 4));
	m = ioapic_message(&rig.io, 4);
	assert_int_equal(m.addr, 0xfee05004);
	assert_int_equal(m.data, 0xc131);
	/* Entry 0x9234 of a remapping unit: its bit 15 is bit 11. */
	put(0x11 + 8, 0x1234 << 17 | 1 << 16);
	set_low(4, 4 | 1 << 11);
	m = ioapic_message(&rig.io, 4);
	assert_int_equal(m.addr, 0xfee00000 | 0x1234 << 5 | 1 << 4 | 1 << 2);
	/* Polarity, and what is reserved. */
	set_low(4, 4 | 1 << 13 | 0xfffe0000);
	assert_int_equal(low(4), 4 | 1 << 13);
}

static void an_edge_is_sent_once_and_not_while_masked(void **state)
{
	ioapic_set_line(&rig.io, 4, true);
	ioapic_set_line(&rig.io, 4, false);
	set_low(4, 0x31);
	assert_int_equal(rig.sent, 0);
	ioapic_set_line(&rig.io, 4, true);
	assert_int_equal(rig.sent, 1);
	assert_int_equal(rig.pin, 4);
	ioapic_set_line(&rig.io, 4, true);
	ioapic_eoi(&rig.io, 0x31);
	assert_int_equal(rig.sent, 1);
	assert_int_equal(rig.ended, 0);
	ioapic_set_line(&rig.io, 4, false);
	ioapic_set_line(&rig.io, 4, true);
	assert_int_equal(rig.sent, 2);
}

static void a_level_is_sent_again_at_each_end_while_it_stands(void **state)
{
	set_low(17, 0x41 | LEVEL);
	ioapic_set_line(&rig.io, 17, true);
	assert_int_equal(rig.sent, 1);
	assert_int_equal(low(17), 0x41 | LEVEL | IRR);
	ioapic_set_line(&rig.io, 17, false);
	ioapic_set_line(&rig.io, 17, true);
	assert_int_equal(rig.sent, 1);
	ioapic_eoi(&rig.io, 0x42);
	assert_int_equal(rig.ended, 0);
	ioapic_eoi(&rig.io, 0x41);
	assert_int_equal(rig.ended, 1);
	assert_int_equal(rig.sent, 2);
	ioapic_set_line(&rig.io, 17, false);
	ioapic_write(&rig.io, 0x40, 4, 0x41); /* by the register */
	assert_int_equal(rig.ended, 2);
	assert_int_equal(rig.sent, 2);
	assert_int_equal(low(17), 0x41 | LEVEL);
}

static void a_level_waits_for_its_unmask(void **state)
{
	set_low(17, 0x41 | LEVEL | MASKED);
	ioapic_set_line(&rig.io, 17, true);
	assert_int_equal(rig.sent, 0);
	set_low(17, 0x41 | LEVEL);
	assert_int_equal(rig.sent, 1);
	/* Masked in service and ended: sent when unmasked. A written IRR bit is ignored. */
	set_low(17, 0x41 | LEVEL | MASKED | IRR);
	ioapic_eoi(&rig.io, 0x41);
	assert_int_equal(rig.sent, 1);
	assert_int_equal(low(17), 0x41 | LEVEL | MASKED);
	set_low(17, 0x41 | LEVEL);
	assert_int_equal(rig.sent, 2);
	/* Made an edge, it waits for no end. */
	set_low(17, 0x41);
	assert_int_equal(low(17), 0x41);
}

static void only_changes_are_told(void **state)
{
	set_low(3, MASKED);
	assert_int_equal(rig.changed, 0);
	set_low(3, 0x33);
	assert_int_equal(rig.changed, 1);
	set_low(3, 0x33);
	put(0x11 + 6, 0);
	assert_int_equal(rig.changed, 1);
	put(0x11 + 6, 1u << 24);
	assert_int_equal(rig.changed, 2);
	assert_int_equal(low(3), 0x33);
}

#define TEST(name) cmocka_unit_test_setup(name, setup)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(it_has_24_masked_pins_and_an_eoi_register),
		TEST(an_entry_is_a_message_in_either_format),
		TEST(an_edge_is_sent_once_and_not_while_masked),
		TEST(a_level_is_sent_again_at_each_end_while_it_stands),
		TEST(a_level_waits_for_its_unmask),
		TEST(only_changes_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
