/* io_test.c - region tables: look-up, overlap, and the grace period of what was removed */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <limits.h>

#include "base/util.h"
#include "machine/io.h"

struct dev {
	uint64_t last_off, last_value;
	unsigned last_size, reads, writes;
	uint64_t answer;
};

static uint64_t dev_read(void *self, uint64_t off, unsigned size)
{
	struct dev *d = self;

	d->last_off = off;
	d->last_size = size;
	d->reads++;
	return d->answer;
}

static void dev_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct dev *d = self;

	d->last_off = off;
	d->last_size = size;
	d->last_value = value;
	d->writes++;
}

static const struct io_ops dev_ops = { dev_read, dev_write };

static struct io_bus *new_bus(void)
{
	struct io_bus *bus = NULL;

	assert_int_equal(io_bus_new(2, &bus), 0);
	return bus;
}

static int add(struct io_bus *bus, struct dev *d, uint64_t base, uint64_t size)
{
	struct io_region r = { .base = base, .size = size, .ops = &dev_ops, .self = d };

	return io_add(bus, IO_MMIO, &r);
}

static void an_access_reaches_the_region_that_holds_all_of_it(void **state)
{
	struct io_bus *bus = new_bus();
	struct dev a = { .answer = 0x1122334455667788 }, b = { .answer = 7 };
	struct io_reader *r = io_bus_reader(bus, 0);
	uint64_t v;

	assert_int_equal(add(bus, &b, 0x2000, 0x10), 0);
	assert_int_equal(add(bus, &a, 0x1000, 0x1000), 0);
	assert_true(io_read(bus, r, IO_MMIO, 0x1ffc, 4, &v));
	assert_int_equal(v, 0x55667788);
	assert_int_equal(a.last_off, 0xffc);
	assert_true(io_write(bus, r, IO_MMIO, 0x200f, 1, 0xfff));
	assert_int_equal(b.last_value, 0xff);
	assert_int_equal(b.last_off, 15);
	io_bus_free(bus);
}

static void nobody_there_reads_all_ones(void **state)
{
	struct io_bus *bus = new_bus();
	struct dev a = { 0 };
	struct io_reader *r = io_bus_reader(bus, 1);
	uint64_t v;

	assert_int_equal(add(bus, &a, 0x1000, 0x10), 0);
	assert_false(io_read(bus, r, IO_MMIO, 0x100e, 4, &v)); /* crosses the end */
	assert_int_equal(v, 0xffffffff);
	assert_false(io_read(bus, r, IO_MMIO, 0xfff, 2, &v)); /* begins before */
	assert_int_equal(v, 0xffff);
	assert_false(io_read(bus, r, IO_PORT, 0x1000, 1, &v)); /* the other space */
	assert_false(io_write(bus, r, IO_MMIO, UINT64_MAX, 8, 1));
	assert_int_equal(a.reads + a.writes, 0);
	io_bus_free(bus);
}

static void overlapping_and_wrapping_regions_are_refused(void **state)
{
	struct io_bus *bus = new_bus();
	struct dev a = { 0 };

	assert_int_equal(add(bus, &a, 0x1000, 0x1000), 0);
	assert_int_equal(add(bus, &a, 0x1fff, 1), -EEXIST);
	assert_int_equal(add(bus, &a, 0x800, 0x801), -EEXIST);
	assert_int_equal(add(bus, &a, 0x800, 0x8000), -EEXIST);
	assert_int_equal(add(bus, &a, 0x800, 0x800), 0);
	assert_int_equal(add(bus, &a, 0x2000, 0), -EINVAL);
	assert_int_equal(add(bus, &a, UINT64_MAX - 7, 16), -EINVAL);
	assert_int_equal(add(bus, &a, UINT64_MAX - 7, 8), 0);
	assert_int_equal(io_remove(bus, IO_MMIO, 0x1001), -ENOENT);
	assert_int_equal(io_remove(bus, IO_MMIO, 0x1000), 0);
	assert_int_equal(add(bus, &a, 0x1fff, 1), 0);
	io_bus_free(bus);
}

static void count_up(void *arg)
{
	++*(int *)arg;
}

/* A device that removes itself while it is being read, as a BAR move by its own register would. */
struct self_remover {
	struct io_bus *bus;
	int freed, freed_during;
};

static uint64_t remove_self(void *self, uint64_t off, unsigned size)
{
	struct self_remover *s = self;

	io_remove(s->bus, IO_MMIO, 0x1000);
	io_retire(s->bus, count_up, &s->freed);
	io_reap(s->bus);
	s->freed_during = s->freed;
	return 1;
}

static void what_a_reader_is_inside_of_is_freed_only_after_it_left(void **state)
{
	static const struct io_ops ops = { remove_self, dev_write };
	struct self_remover s = { .bus = new_bus() };
	struct io_region r = { .base = 0x1000, .size = 8, .ops = &ops, .self = &s };
	uint64_t v;

	assert_int_equal(io_add(s.bus, IO_MMIO, &r), 0);
	assert_true(io_read(s.bus, io_bus_reader(s.bus, 0), IO_MMIO, 0x1000, 1, &v));
	assert_int_equal(s.freed_during, 0);
	io_reap(s.bus);
	assert_int_equal(s.freed, 1);
	io_bus_free(s.bus);
}

static void what_nobody_uses_is_freed_at_once_and_the_rest_at_the_end(void **state)
{
	struct io_bus *bus = new_bus();
	int freed = 0;

	io_retire(bus, count_up, &freed);
	io_reap(bus);
	assert_int_equal(freed, 1);
	io_bus_reader(bus, 0)->epoch = 1; /* a reader that never leaves */
	io_retire(bus, count_up, &freed);
	io_reap(bus);
	assert_int_equal(freed, 1);
	io_bus_free(bus);
	assert_int_equal(freed, 2);
}

static void changes_during_one_long_access_are_limited(void **state)
{
	struct io_bus *bus = new_bus();
	struct io_reader *r = io_bus_reader(bus, 0);
	struct dev a = { 0 };
	unsigned n = 0;
	int rc = 0;

	io_enter(bus, r);
	for (; n < 100000 && !rc; n++) {
		rc = add(bus, &a, 0x1000, 0x1000);
		if (!rc)
			assert_int_equal(io_remove(bus, IO_MMIO, 0x1000), 0);
	}
	assert_int_equal(rc, -EBUSY);
	assert_in_range(n, 1000, 10000);
	io_leave(r);
	assert_int_equal(add(bus, &a, 0x1000, 0x1000), 0);
	io_bus_free(bus);
}

static unsigned mallocs_left = UINT_MAX;

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);

void *__wrap_malloc(size_t size)
{
	return mallocs_left && mallocs_left-- ? __real_malloc(size) : NULL;
}

static void removing_needs_no_memory_and_makes_room(void **state)
{
	struct io_bus *bus = new_bus();
	struct dev low = { .answer = 1 }, gone = { .answer = 2 }, high = { .answer = 3 };
	struct io_reader *r = io_bus_reader(bus, 0);
	uint64_t v;

	assert_int_equal(add(bus, &low, 0x1000, 0x1000), 0);
	assert_int_equal(add(bus, &gone, 0x2000, 0x1000), 0);
	assert_int_equal(add(bus, &high, 0x3000, 0x1000), 0);
	mallocs_left = 0;
	assert_int_equal(io_remove(bus, IO_MMIO, 0x2000), 0);
	assert_int_equal(io_remove(bus, IO_MMIO, 0x2000), -ENOENT);
	assert_false(io_read(bus, r, IO_MMIO, 0x2000, 4, &v));
	assert_false(io_write(bus, r, IO_MMIO, 0x2ffc, 4, 0));
	assert_int_equal(gone.reads + gone.writes, 0);
	assert_int_equal(add(bus, &gone, 0x2000, 0x1000), -ENOMEM);
	mallocs_left = UINT_MAX;

	/* Over the border of two that are gone, and at the same place. */
	assert_int_equal(io_remove(bus, IO_MMIO, 0x3000), 0);
	assert_int_equal(add(bus, &gone, 0x2800, 0x1000), 0);
	assert_int_equal(add(bus, &high, 0x3000, 0x1000), -EEXIST);
	assert_true(io_read(bus, r, IO_MMIO, 0x3000, 4, &v) && v == 2);
	assert_true(io_read(bus, r, IO_MMIO, 0x1ffc, 4, &v) && v == 1);
	assert_false(io_read(bus, r, IO_MMIO, 0x3800, 4, &v));
	io_bus_free(bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_access_reaches_the_region_that_holds_all_of_it),
		cmocka_unit_test(nobody_there_reads_all_ones),
		cmocka_unit_test(overlapping_and_wrapping_regions_are_refused),
		cmocka_unit_test(what_a_reader_is_inside_of_is_freed_only_after_it_left),
		cmocka_unit_test(what_nobody_uses_is_freed_at_once_and_the_rest_at_the_end),
		cmocka_unit_test(changes_during_one_long_access_are_limited),
		cmocka_unit_test(removing_needs_no_memory_and_makes_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
