/* loop_test.c - the event loop: descriptors, timers, posted work, signals */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/loop.h"
#include "base/util.h"

struct fixture {
	struct loop *loop;
	struct loop_source a, b;
	int fd_a, fd_b;
	int calls_a, calls_b;
	struct loop_timer timers[3];
	char order[8];
	struct loop_work work;
	int work_calls;
	struct loop_timer guard;
};

static struct fixture f;

static void too_late(struct loop_timer *timer)
{
	loop_quit(f.loop, -1);
}

static int setup(void **state)
{
	memset(&f, 0, sizeof(f));
	f.fd_a = fd_eventfd();
	f.fd_b = fd_eventfd();
	if (loop_new(&f.loop))
		return -1;
	loop_timer_set(f.loop, &f.guard, clock_now_ns() + 10 * NS_PER_S, too_late);
	return 0;
}

static int teardown(void **state)
{
	loop_free(f.loop);
	fd_close(&f.fd_a);
	fd_close(&f.fd_b);
	return 0;
}

static void on_a(struct loop_source *src, uint32_t events)
{
	f.calls_a++;
	fd_clear(src->fd);
	loop_del(&f.b);
	loop_quit(f.loop, 3);
}

static void on_b(struct loop_source *src, uint32_t events)
{
	f.calls_b++;
	fd_clear(src->fd);
	loop_del(&f.a);
	loop_quit(f.loop, 3);
}

static void a_source_removed_by_another_of_the_same_batch_is_not_called(void **state)
{
	assert_int_equal(loop_add(f.loop, &f.a, f.fd_a, EPOLLIN, on_a), 0);
	assert_int_equal(loop_add(f.loop, &f.b, f.fd_b, EPOLLIN, on_b), 0);
	fd_signal(f.fd_a);
	fd_signal(f.fd_b);
	assert_int_equal(loop_run(f.loop), 3);
	assert_int_equal(f.calls_a + f.calls_b, 1);
}

static void timer_fired(struct loop_timer *timer)
{
	char name[2] = { (char)('0' + (timer - f.timers)), 0 };

	strcat(f.order, name);
	if (strlen(f.order) == 2)
		loop_quit(f.loop, 0);
}

static void timers_fire_in_the_order_of_their_times_and_not_when_deleted(void **state)
{
	uint64_t now = clock_now_ns();

	loop_timer_set(f.loop, &f.timers[0], now + 3 * NS_PER_MS, timer_fired);
	loop_timer_set(f.loop, &f.timers[1], now + 2 * NS_PER_MS, timer_fired);
	loop_timer_set(f.loop, &f.timers[2], now + 1 * NS_PER_MS, timer_fired);
	loop_timer_del(&f.timers[1]);
	assert_int_equal(loop_run(f.loop), 0);
	assert_string_equal(f.order, "20");
	assert_null(f.timers[0].loop);
}

static void rearm_in_the_past(struct loop_timer *timer)
{
	if (++f.calls_a == 3)
		loop_quit(f.loop, 0);
	else
		loop_timer_set(f.loop, timer, 0, rearm_in_the_past);
}

static void a_timer_for_a_time_that_has_passed_fires_soon(void **state)
{
	loop_timer_set(f.loop, &f.timers[0], 0, rearm_in_the_past);
	assert_int_equal(loop_run(f.loop), 0);
	assert_int_equal(f.calls_a, 3);
}

static void count_work(struct loop_work *work)
{
	f.work_calls++;
	loop_quit(f.loop, 0);
}

static void *post_often(void *arg)
{
	for (int i = 0; i < 1000; i++)
		loop_post(f.loop, &f.work, count_work);
	return NULL;
}

static void posted_work_runs_on_the_loop_and_at_least_once_after_the_last_post(void **state)
{
	pthread_t t;

	pthread_create(&t, NULL, post_often, NULL);
	assert_int_equal(loop_run(f.loop), 0);
	pthread_join(t, NULL);
	assert_in_range(f.work_calls, 1, 1000);
	if (f.work.posted)
		assert_int_equal(loop_run(f.loop), 0);
	assert_false(f.work.posted);
}

static void unposted_work_does_not_run(void **state)
{
	struct loop_work other = { 0 };

	loop_post(f.loop, &other, count_work);
	loop_unpost(f.loop, &other);
	loop_post(f.loop, &f.work, count_work);
	assert_int_equal(loop_run(f.loop), 0);
	assert_int_equal(f.work_calls, 1);
}

static void on_signal(void *arg, int signo)
{
	*(int *)arg = signo;
	loop_quit(f.loop, 0);
}

static void a_signal_becomes_a_call(void **state)
{
	static const int signals[] = { SIGUSR1, SIGUSR2, 0 };
	int seen = 0;

	assert_int_equal(loop_signals(f.loop, signals, on_signal, &seen), 0);
	raise(SIGUSR2);
	assert_int_equal(loop_run(f.loop), 0);
	assert_int_equal(seen, SIGUSR2);
}

static void a_quit_before_the_run_ends_it_and_the_next_run_goes_on(void **state)
{
	loop_quit(f.loop, 7);
	loop_quit(f.loop, 8);
	assert_int_equal(loop_run(f.loop), 7);
	loop_post(f.loop, &f.work, count_work);
	assert_int_equal(loop_run(f.loop), 0);
}

static void post_again(struct loop_work *work)
{
	f.work_calls++;
	loop_post(f.loop, work, post_again);
}

static void quit_by_a(struct loop_source *src, uint32_t events)
{
	fd_clear(src->fd);
	loop_quit(f.loop, 7);
}

static void work_that_posts_itself_again_leaves_turns_to_others(void **state)
{
	assert_int_equal(loop_add(f.loop, &f.a, f.fd_a, EPOLLIN, quit_by_a), 0);
	fd_signal(f.fd_a);
	loop_post(f.loop, &f.work, post_again);
	assert_int_equal(loop_run(f.loop), 7);
	assert_in_range(f.work_calls, 0, 2);
	loop_unpost(f.loop, &f.work);
	loop_del(&f.a);
}

static void a_peer_elsewhere_may_always_be_looked_for(void **state)
{
	loop_peer_is_elsewhere(f.loop);
	assert_true(loop_may_spin(f.loop));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(work_that_posts_itself_again_leaves_turns_to_others),
		T(a_source_removed_by_another_of_the_same_batch_is_not_called),
		T(timers_fire_in_the_order_of_their_times_and_not_when_deleted),
		T(a_timer_for_a_time_that_has_passed_fires_soon),
		T(posted_work_runs_on_the_loop_and_at_least_once_after_the_last_post),
		T(unposted_work_does_not_run),
		T(a_signal_becomes_a_call),
		T(a_quit_before_the_run_ends_it_and_the_next_run_goes_on),
		T(a_peer_elsewhere_may_always_be_looked_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
