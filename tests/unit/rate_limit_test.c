/* rate_limit_test.c - token buckets, by a clock of the test's own */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/util.h"
#include "device/rate_limit.h"

#define START (1000 * NS_PER_S)

static struct rate_limit l;

static void init(uint64_t size, uint64_t burst, uint64_t refill_ms)
{
	const struct rate_limit_config config = { .bytes = { size, burst, refill_ms } };

	rate_limit_init(&l, &config, START);
}

static void without_limits_all_goes(void **state)
{
	init(0, 0, 0);
	assert_false(l.any);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(rate_limit_take(&l, UINT64_MAX, START), 0);
	rate_limit_fini(&l);
}

static void a_full_bucket_goes_at_once_and_then_one_waits_as_long_as_it_says(void **state)
{
	uint64_t wait;

	init(1000, 0, 100);
	assert_true(l.any);
	assert_int_equal(rate_limit_take(&l, 600, START), 0);
	assert_int_equal(rate_limit_take(&l, 400, START), 0);
	wait = rate_limit_take(&l, 1, START);
	/* a token comes each 100 us */
	assert_in_range(wait, 100 * NS_PER_US, 100 * NS_PER_US + 1);
	assert_int_not_equal(rate_limit_take(&l, 1, START + wait - 2), 0);
	assert_int_equal(rate_limit_take(&l, 1, START + wait), 0);
	rate_limit_fini(&l);
}

static void debt_is_paid_before_the_next_one_goes(void **state)
{
	uint64_t wait;

	init(1000, 0, 100);
	assert_int_equal(rate_limit_take(&l, 5000, START), 0); /* 4000 owed: 400 ms */
	wait = rate_limit_take(&l, 1, START);
	assert_in_range(wait, 400 * NS_PER_MS, 401 * NS_PER_MS);
	assert_int_equal(rate_limit_take(&l, 1, START + wait), 0);
	rate_limit_fini(&l);
}

static void a_burst_is_used_once_and_first(void **state)
{
	init(1000, 3000, 100);
	for (int i = 0; i < 8; i++)
		assert_int_equal(rate_limit_take(&l, 500, START), 0);
	assert_int_not_equal(rate_limit_take(&l, 500, START), 0);
	/* An hour later there is a bucket full, and no burst. */
	assert_int_equal(rate_limit_take(&l, 1000, START + 3600 * NS_PER_S), 0);
	assert_int_not_equal(rate_limit_take(&l, 1, START + 3600 * NS_PER_S), 0);
	rate_limit_fini(&l);
}

static void both_buckets_must_have_something(void **state)
{
	const struct rate_limit_config config = { .bytes = { 1000, 0, 100 },
		.ops = { 2, 0, 1000 } };
	uint64_t wait;

	rate_limit_init(&l, &config, START);
	assert_int_equal(rate_limit_take(&l, 1, START), 0);
	assert_int_equal(rate_limit_take(&l, 1, START), 0);
	wait = rate_limit_take(&l, 1, START);
	assert_in_range(wait, 500 * NS_PER_MS, 500 * NS_PER_MS + 1);
	/* An operation without bytes is stopped by its own bucket only. */
	assert_int_equal(rate_limit_take(&l, 5000, START + wait), 0);
	assert_int_equal(rate_limit_take(&l, 0, START + 3 * wait), 0);
	rate_limit_fini(&l);
}

/* Whoever asks when told to gets the rate, and never more, whatever the sizes. */
static void the_rate_is_kept_over_a_long_time(void **state)
{
	static const struct {
		uint64_t size, refill_ms;
	} rates[] = { { 1, 1 }, { 3, 7 }, { 1000, 100 }, { 1 << 20, 1000 }, { 1ull << 40, 10 },
		{ RATE_LIMIT_MAX, 1 }, { 1, RATE_LIMIT_MAX_REFILL_MS } };
	unsigned seed = 1;

	for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
		unsigned __int128 sum = 0, most;
		uint64_t now = START, largest = rates[i].size * 2;

		init(rates[i].size, 0, rates[i].refill_ms);
		for (int step = 0; step < 20000 && now < START + (1ull << 61); step++) {
			uint64_t bytes = 1 + (uint64_t)rand_r(&seed) % largest;
			uint64_t wait = rate_limit_take(&l, bytes, now);

			now += wait;
			if (!wait)
				sum += bytes;
			most = (unsigned __int128)(now - START) * rates[i].size /
				       (rates[i].refill_ms * NS_PER_MS) +
			       rates[i].size + largest;
			assert_true(sum <= most);
		}
		/* and not much less: at most what one request and one bucket make */
		assert_true(sum + rates[i].size + 2 * (unsigned __int128)largest >= most ||
			    now >= START + (1ull << 61));
		rate_limit_fini(&l);
	}
}

static void a_clock_that_stands_still_or_jumps_is_survived(void **state)
{
	init(10, 0, 1000);
	assert_int_equal(rate_limit_take(&l, 10, START), 0);
	assert_int_not_equal(rate_limit_take(&l, 1, START - NS_PER_S), 0);
	assert_int_equal(rate_limit_take(&l, 1, UINT64_MAX / 2), 0);
	rate_limit_fini(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_limits_all_goes),
		cmocka_unit_test(a_full_bucket_goes_at_once_and_then_one_waits_as_long_as_it_says),
		cmocka_unit_test(debt_is_paid_before_the_next_one_goes),
		cmocka_unit_test(a_burst_is_used_once_and_first),
		cmocka_unit_test(both_buckets_must_have_something),
		cmocka_unit_test(the_rate_is_kept_over_a_long_time),
		cmocka_unit_test(a_clock_that_stands_still_or_jumps_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
