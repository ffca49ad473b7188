/* platform_test.c - the platform parts, through the ports and the memory a guest reaches them by */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/util.h"
#include "machine/layout.h"
#include "machine/platform.h"

#define PLATFORM_BASE 0x3fffffef0000ull
#define RAM_LOW	      (3 * GIB)
#define RAM_HIGH      (5 * GIB)

static struct io_bus *bus;
static struct io_reader *reader;
static struct platform *pf;
static struct {
	unsigned resets, shutdowns, raised, lowered, progress;
	uint8_t code;
} seen;

static void on_reset(void *arg)
{
	seen.resets++;
}

static void on_shutdown(void *arg)
{
	seen.shutdowns++;
}

static void on_irq(void *arg, bool level)
{
	if (level)
		seen.raised++;
	else
		seen.lowered++;
}

static void on_progress(void *arg, uint8_t code)
{
	seen.progress++;
	seen.code = code;
}

static const struct platform_ops ops = {
	.reset = on_reset, .shutdown = on_shutdown, .ged_irq = on_irq, .progress = on_progress
};

static int setup(void **state)
{
	struct platform_params p = { .ops = &ops,
		.ram_low = RAM_LOW,
		.ram_high = RAM_HIGH,
		.platform_base = PLATFORM_BASE };

	memset(&seen, 0, sizeof(seen));
	if (io_bus_new(1, &bus) || platform_new(bus, &p, &pf))
		return -1;
	reader = io_bus_reader(bus, 0);
	return 0;
}

static int teardown(void **state)
{
	platform_free(pf);
	io_bus_free(bus);
	return 0;
}

static uint64_t in(uint16_t port, unsigned size)
{
	uint64_t v = 0;

	assert_true(io_read(bus, reader, IO_PORT, port, size, &v));
	return v;
}

static void out(uint16_t port, unsigned size, uint64_t v)
{
	assert_true(io_write(bus, reader, IO_PORT, port, size, v));
}

static uint8_t cmos(uint8_t index)
{
	out(PORT_RTC_INDEX, 1, index);
	return (uint8_t)in(PORT_RTC_DATA, 1);
}

static void cmos_set(uint8_t index, uint8_t v)
{
	out(PORT_RTC_INDEX, 1, index);
	out(PORT_RTC_DATA, 1, v);
}

static int bcd(uint8_t v)
{
	assert_true((v & 0xf) < 10 && v >> 4 < 10);
	return (v >> 4) * 10 + (v & 0xf);
}

/* ---- sleep, reset, timer ---- */

static void sleep_type_5_switches_off_and_value_1_resets(void **state)
{
	out(PORT_SLEEP_STATUS, 1, 0x80); /* Linux clears the wake status first */
	out(PORT_SLEEP, 1, 5 << 2);	 /* type without the enable bit */
	assert_int_equal(seen.shutdowns + seen.resets, 0);
	out(PORT_SLEEP, 1, 5 << 2 | 0x20);
	assert_int_equal(seen.shutdowns, 1);
	out(PORT_SLEEP, 1, 3 << 2 | 0x20); /* no such type */
	assert_int_equal(seen.shutdowns, 1);
	assert_int_equal(seen.resets, 0);
	out(PORT_SLEEP, 1, 1);
	assert_int_equal(seen.resets, 1);
	out(PORT_SLEEP_STATUS, 1, 1); /* the neighbour */
	assert_int_equal(seen.resets, 1);
}

static void pm_timer_counts_at_its_rate(void **state)
{
	uint64_t t0 = clock_now_ns(), t3;
	uint32_t a = (uint32_t)in(PORT_PM_TIMER, 4), ticks;
	uint64_t low, high;

	do
		ticks = (uint32_t)in(PORT_PM_TIMER, 4) - a;
	while (ticks < 3580); /* a millisecond */
	t3 = clock_now_ns();
	assert_true(t3 - t0 >= 999 * NS_PER_US);
	/* and not slower than that: what passed between the two reads of the clock is more */
	assert_true(ticks <= (t3 - t0) * 3579545.0 / 1e9 + 2);
	low = in(PORT_PM_TIMER, 2);
	high = in(PORT_PM_TIMER + 2, 2);
	assert_true(low <= 0xffff && high <= 0xffff);
}

/* ---- keyboard controller ---- */

static void keyboard_reset_command_resets(void **state)
{
	assert_int_equal(in(PORT_I8042_STATUS, 1) & 2, 0); /* ready for a command */
	out(PORT_I8042_STATUS, 1, 0xfe);
	assert_int_equal(seen.resets, 1);
	out(PORT_I8042_STATUS, 1, 0xaa);
	out(PORT_I8042_STATUS, 1, 0xff); /* pulses nothing */
	assert_int_equal(seen.resets, 1);
}

static void keyboard_probe_ends_at_once_and_so_does_a_drain(void **state)
{
	unsigned reads = 0;

	/* Linux gives up when 16 reads have not emptied the buffer. */
	for (unsigned i = 0; i < 17; i++) {
		assert_int_equal(in(PORT_I8042_STATUS, 1) & 1, 1);
		in(PORT_I8042_DATA, 1);
	}
	while (in(PORT_I8042_STATUS, 1) & 1) {
		in(PORT_I8042_DATA, 1);
		assert_true(++reads < 1000);
	}
	out(PORT_I8042_STATUS, 1, 0x20);
	assert_int_equal(in(PORT_I8042_STATUS, 1) & 1, 1);
}

static void system_port_b_lets_waiters_go_on(void **state)
{
	uint64_t first = in(PORT_SYSTEM_B, 1), second = in(PORT_SYSTEM_B, 1);

	assert_int_equal((first ^ second) & 0x10, 0x10);
	assert_true(first & 0x20);
}

/* ---- clock ---- */

static void clock_tells_the_hosts_time_in_utc(void **state)
{
	struct tm tm = { 0 };
	time_t before, after, guest;

	do { /* all registers within one second, as guests do it */
		before = time(NULL);
		tm.tm_sec = bcd(cmos(0));
		tm.tm_min = bcd(cmos(2));
		tm.tm_hour = bcd(cmos(4));
		tm.tm_mday = bcd(cmos(7));
		tm.tm_mon = bcd(cmos(8)) - 1;
		tm.tm_year = bcd(cmos(0x32)) * 100 + bcd(cmos(9)) - 1900;
		after = time(NULL);
	} while (before != after);
	guest = timegm(&tm);
	assert_int_equal(guest, before);
	assert_int_equal(cmos(0x0a) & 0x80, 0);	   /* no update in progress */
	assert_int_equal(cmos(0x0b) & 0x06, 2);	   /* BCD, 24 hours */
	assert_int_equal(cmos(0x0d) & 0x80, 0x80); /* battery is good */
}

static void set_clock(uint8_t control, const uint8_t fields[7])
{
	static const uint8_t index[7] = { 0, 2, 4, 7, 8, 9, 0x32 };

	cmos_set(0x0b, control | 0x80);
	for (unsigned i = 0; i < 7; i++)
		cmos_set(index[i], fields[i]);
	for (unsigned i = 0; i < 7; i++) /* it stands: what was written is there */
		assert_int_equal(cmos(index[i]), fields[i]);
	cmos_set(0x0b, control);
}

static void clock_goes_on_from_where_the_guest_set_it(void **state)
{
	/* 2031-02-03 04:05:00 */
	static const uint8_t fields[7] = { 0x00, 0x05, 0x04, 0x03, 0x02, 0x31, 0x20 };

	set_clock(2, fields);
	assert_int_equal(cmos(9), 0x31);
	assert_int_equal(cmos(8), 0x02);
	assert_int_equal(cmos(7), 0x03);
	assert_int_equal(cmos(6), 2); /* a Monday */
	assert_int_equal(cmos(4), 0x04);
	assert_int_equal(cmos(2), 0x05);

	platform_reset(pf);
	assert_int_equal(cmos(9), 0x31); /* over a reset, too */
	cmos_set(9, 0x40);		 /* a register on its own */
	assert_int_equal(cmos(9), 0x40);
	assert_int_equal(cmos(8), 0x02);
}

static void clock_counts_in_binary_and_12_hours_when_asked(void **state)
{
	static const struct {
		uint8_t control, hour, hour24;
	} cases[] = {
		{ 0x04, 12, 0 },	 /* 12 at night */
		{ 0x04, 0x80 | 12, 12 }, /* noon */
		{ 0x04, 0x80 | 11, 23 },
		{ 0x00, 0x80 | 0x11, 23 },
		{ 0x06, 23, 23 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		bool binary = cases[i].control & 4;
		uint8_t fields[7] = { 0, 30, cases[i].hour, 15, 6, binary ? 31 : 0x31,
			binary ? 20 : 0x20 };

		if (!binary)
			fields[1] = 0x30, fields[3] = 0x15;
		set_clock(cases[i].control, fields);
		assert_int_equal(cmos(4), cases[i].hour);
		assert_int_equal(cmos(9), fields[5]);
		cmos_set(0x0b, 0x06); /* the same time, binary and 24 hours */
		assert_int_equal(cmos(4), cases[i].hour24);
		assert_int_equal(cmos(2), 30);
	}
}

static void nonsense_in_the_clock_does_no_harm(void **state)
{
	static const uint8_t fields[7] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	set_clock(0x06, fields);
	set_clock(0x02, fields);
	for (unsigned i = 0; i < 256; i++) {
		cmos_set((uint8_t)i, (uint8_t)(i * 37));
		cmos((uint8_t)i);
	}
}

static void memory_size_is_in_cmos(void **state)
{
	assert_int_equal(cmos(0x15) | cmos(0x16) << 8, 640);
	assert_int_equal(cmos(0x17) | cmos(0x18) << 8, 0xffff); /* more than fits */
	assert_int_equal(cmos(0x34) | cmos(0x35) << 8, (RAM_LOW - 16 * MIB) / (64 * KIB));
	assert_int_equal(cmos(0x5b) | cmos(0x5c) << 8 | cmos(0x5d) << 16, RAM_HIGH / (64 * KIB));
}

static void cmos_keeps_bytes_and_takes_index_and_data_at_once(void **state)
{
	out(PORT_RTC_INDEX, 2, 0x5a << 8 | 0x80 | 0x40); /* bit 7 masks NMIs */
	assert_int_equal(cmos(0x40), 0x5a);
	platform_reset(pf);
	assert_int_equal(cmos(0x40), 0);
}

/* ---- GED, progress ---- */

static uint64_t ged(void)
{
	uint64_t v = 0;

	assert_true(io_read(bus, reader, IO_MMIO, PLATFORM_BASE + LAYOUT_PLATFORM_GED, 1, &v));
	return v;
}

static void events_stay_until_the_guest_reads_them(void **state)
{
	assert_false(platform_ged_used(pf));
	platform_power_button(pf);
	assert_int_equal(seen.raised, 1);
	assert_int_equal(seen.lowered, 1);
	platform_ged_notify(pf, GED_PCI);
	assert_int_equal(seen.raised, 2); /* another edge */
	assert_int_equal(ged(), GED_POWER_BUTTON | GED_PCI);
	assert_int_equal(ged(), 0);
	assert_true(platform_ged_used(pf));

	platform_power_button(pf);
	platform_reset(pf);
	assert_int_equal(ged(), 0);
}

static void progress_codes_are_passed_on(void **state)
{
	out(PORT_DEBUG, 1, 0x41);
	assert_int_equal(seen.progress, 1);
	assert_int_equal(seen.code, 0x41);
	assert_int_equal(in(PORT_DEBUG, 1), 0xff);
}

static void every_width_everywhere_is_answered(void **state)
{
	static const unsigned sizes[] = { 1, 2, 4, 8 };

	for (unsigned port = 0; port < 0x700; port++)
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			uint64_t v = 0;

			io_write(bus, reader, IO_PORT, port, sizes[i], UINT64_MAX);
			io_read(bus, reader, IO_PORT, port, sizes[i], &v);
			assert_true(v <= io_ones(sizes[i]));
		}
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	static const struct CMUnitTest tests[] = {
		TEST(sleep_type_5_switches_off_and_value_1_resets),
		TEST(pm_timer_counts_at_its_rate),
		TEST(keyboard_reset_command_resets),
		TEST(keyboard_probe_ends_at_once_and_so_does_a_drain),
		TEST(system_port_b_lets_waiters_go_on),
		TEST(clock_tells_the_hosts_time_in_utc),
		TEST(clock_goes_on_from_where_the_guest_set_it),
		TEST(clock_counts_in_binary_and_12_hours_when_asked),
		TEST(nonsense_in_the_clock_does_no_harm),
		TEST(memory_size_is_in_cmos),
		TEST(cmos_keeps_bytes_and_takes_index_and_data_at_once),
		TEST(events_stay_until_the_guest_reads_them),
		TEST(progress_codes_are_passed_on),
		TEST(every_width_everywhere_is_answered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
