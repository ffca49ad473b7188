/* char_ring_test.c - the last 64 KiB: against a plain list of all that was ever put in */
#include "base/char_ring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

#define STEPS 3000

static uint8_t nth(size_t i)
{
	return (uint8_t)(i * 31 + (i >> 8));
}

static struct char_ring ring_new(void)
{
	struct char_ring r = { .bytes = malloc(CHAR_RING_SIZE) };

	assert_non_null(r.bytes);
	return r;
}

/* The next len bytes of the sequence, of which *at were put in. */
static bool put(struct char_ring *r, size_t *at, size_t len)
{
	uint8_t *bytes = malloc(len + 1);
	bool lost;

	assert_non_null(bytes);
	for (size_t i = 0; i < len; i++)
		bytes[i] = nth(*at + i);
	*at += len;
	lost = char_ring_add(r, bytes, len);
	free(bytes);
	return lost;
}

/* What it holds is the end of what was put in. */
static void take(struct char_ring *r, size_t at, size_t len)
{
	while (len) {
		struct iovec piece = char_ring_piece(r);
		size_t n = MIN(len, piece.iov_len), first = at - r->count;

		assert_true(n);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(((uint8_t *)piece.iov_base)[i], nth(first + i));
		char_ring_took(r, n);
		len -= n;
	}
}

static void keeps_the_last_of_what_nobody_takes(void **state)
{
	struct char_ring r = ring_new();
	size_t at = 0;

	srandom(1);
	for (unsigned i = 0; i < STEPS; i++) {
		size_t len = (size_t)random() % (i % 50 ? 5000 : 3 * CHAR_RING_SIZE);
		size_t before = r.count;

		put(&r, &at, len);
		assert_int_equal(r.count, MIN(before + len, (size_t)CHAR_RING_SIZE));
		take(&r, at, (size_t)random() % (r.count + 1));
	}
	take(&r, at, r.count);
	assert_int_equal(char_ring_piece(&r).iov_len, 0);
	free(r.bytes);
}

static void tells_of_a_loss_once_until_it_is_empty(void **state)
{
	struct char_ring r = ring_new();
	size_t at = 0;

	for (unsigned i = 0; i < 2; i++) {
		assert_false(put(&r, &at, CHAR_RING_SIZE));
		assert_true(put(&r, &at, 1));
		assert_false(put(&r, &at, 1));
		take(&r, at, CHAR_RING_SIZE - 1);
		assert_false(put(&r, &at, CHAR_RING_SIZE));
		take(&r, at, r.count);
	}
	assert_true(put(&r, &at, CHAR_RING_SIZE + 1));
	char_ring_empty(&r);
	assert_int_equal(r.count, 0);
	assert_true(put(&r, &at, 2 * CHAR_RING_SIZE));
	free(r.bytes);
}

static void begins_in_front_when_it_was_empty(void **state)
{
	struct char_ring r = ring_new();
	size_t at = 0;

	for (unsigned i = 0; i < 10; i++) {
		put(&r, &at, 100);
		assert_ptr_equal(char_ring_piece(&r).iov_base, r.bytes);
		take(&r, at, 100);
	}
	free(r.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keeps_the_last_of_what_nobody_takes),
		cmocka_unit_test(tells_of_a_loss_once_until_it_is_empty),
		cmocka_unit_test(begins_in_front_when_it_was_empty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
