/*
 * worker_test.c - things done beside the loop: their order, and who hears of the end
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "base/worker.h"

#define MANY 1000

struct rig {
	struct loop *loop;
	struct worker *w;
	atomic_uint next;
	unsigned nr_idle;
	int go;
};

struct numbered {
	struct rig *r;
	unsigned number;
};

static int set_up(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	assert_int_equal(loop_new(&r->loop), 0);
	assert_int_equal(worker_new(r->loop, "test", &r->w), 0);
	r->go = eventfd(0, EFD_CLOEXEC);
	*state = r;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *r = *state;

	worker_free(r->w);
	loop_free(r->loop);
	close(r->go);
	free(r);
	return 0;
}

static void in_turn(void *arg)
{
	const struct numbered *n = arg;

	assert_int_equal(atomic_fetch_add(&n->r->next, 1), n->number);
}

static void wait_for_go(void *arg)
{
	uint64_t one;

	assert_int_equal(read(((struct rig *)arg)->go, &one, sizeof(one)), sizeof(one));
}

static void on_idle(void *arg)
{
	struct rig *r = arg;

	r->nr_idle++;
	assert_false(worker_busy(r->w));
	loop_quit(r->loop, 0);
}

static void number_all(struct rig *r, struct numbered all[MANY])
{
	for (unsigned i = 0; i < MANY; i++) {
		all[i] = (struct numbered){ r, i };
		assert_int_equal(worker_do(r->w, in_turn, &all[i]), 0);
	}
}

static void does_things_in_order_and_tells_once_when_all_is_done(void **state)
{
	struct numbered all[MANY];
	struct rig *r = *state;

	assert_int_equal(worker_do(r->w, wait_for_go, r), 0);
	number_all(r, all);
	assert_true(worker_busy(r->w));
	worker_when_idle(r->w, on_idle, r);
	fd_signal(r->go);
	loop_run(r->loop);
	assert_int_equal(atomic_load(&r->next), MANY);
	assert_int_equal(r->nr_idle, 1);
	/* With nothing to do it is told, too. */
	worker_when_idle(r->w, on_idle, r);
	loop_run(r->loop);
	assert_int_equal(r->nr_idle, 2);
}

struct end {
	struct loop_work work;
	struct loop *loop;
};

static void quit(struct loop_work *work)
{
	loop_quit(container_of(work, struct end, work)->loop, 0);
}

static void who_does_not_wait_any_more_is_not_told(void **state)
{
	struct rig *r = *state;
	struct end end = { .loop = r->loop };

	worker_when_idle(r->w, on_idle, r);
	worker_when_idle(r->w, NULL, NULL);
	loop_post(r->loop, &end.work, quit);
	loop_run(r->loop);
	assert_int_equal(r->nr_idle, 0);
}

static void its_end_waits_for_what_is_left(void **state)
{
	struct numbered all[MANY];
	struct rig *r = *state;

	number_all(r, all);
	worker_free(r->w);
	assert_int_equal(atomic_load(&r->next), MANY);
	assert_int_equal(worker_new(r->loop, "test", &r->w), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(does_things_in_order_and_tells_once_when_all_is_done),
		TEST(who_does_not_wait_any_more_is_not_told),
		TEST(its_end_waits_for_what_is_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
