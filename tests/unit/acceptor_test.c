/* acceptor_test.c - connections are taken one after the other, and a shortage is waited out */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/acceptor.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/sock.h"
#include "base/util.h"

/* --- the host, which can be short of something --- */

static int accept_errno; /* of the next call */
static int add_rc;	 /* the same */

int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
int __real_loop_add(
	struct loop *loop, struct loop_source *src, int fd, uint32_t events, loop_fd_fn fn);
int __wrap_loop_add(
	struct loop *loop, struct loop_source *src, int fd, uint32_t events, loop_fd_fn fn);

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	if (!accept_errno)
		return __real_accept4(fd, addr, len, flags);
	errno = accept_errno;
	accept_errno = 0;
	return -1;
}

int __wrap_loop_add(
	struct loop *loop, struct loop_source *src, int fd, uint32_t events, loop_fd_fn fn)
{
	int rc = add_rc;

	add_rc = 0;
	return rc ? rc : __real_loop_add(loop, src, fd, events, fn);
}

/* --- the owner --- */

#define NR_CLIENTS 4

struct fixture {
	int fds_before;
	char path[64];
	struct loop *loop;
	int listen_fd;
	struct acceptor a;

	int per_call; /* how many are taken in a call; 0: none */
	bool stops;   /* in its call */
	int calls, calls_when_short;
	int rc; /* the last one of acceptor_take() */
	int taken[NR_CLIENTS], nr_taken;

	int clients[NR_CLIENTS], nr_clients;
	struct loop_work work;
	int rounds;
	struct loop_timer guard;
};

static struct fixture f;

static void too_late(struct loop_timer *timer)
{
	loop_quit(f.loop, -1);
}

static void somebody_came(struct acceptor *a)
{
	assert_ptr_equal(a, &f.a);
	f.calls++;
	for (int i = 0; i < f.per_call; i++) {
		f.rc = acceptor_take(a);
		if (f.rc < 0)
			break;
		f.taken[f.nr_taken++] = f.rc;
	}
	if (f.stops)
		acceptor_stop(a);
	loop_quit(f.loop, 0);
}

static int setup(void **state)
{
	struct err err = { 0 };

	accept_errno = add_rc = 0;
	f = (struct fixture){ .fds_before = fd_count(), .per_call = 1 };
	snprintf(f.path, sizeof(f.path), "/tmp/acceptor_test.%d", (int)getpid());
	f.listen_fd = sock_listen(f.path, NR_CLIENTS, &err);
	if (f.listen_fd < 0 || loop_new(&f.loop))
		return -1;
	loop_timer_set(f.loop, &f.guard, clock_now_ns() + 30 * NS_PER_S, too_late);
	return acceptor_start(&f.a, f.loop, f.listen_fd, somebody_came);
}

static int teardown(void **state)
{
	acceptor_stop(&f.a);
	loop_free(f.loop);
	fd_close(&f.listen_fd);
	for (int i = 0; i < f.nr_taken; i++)
		fd_close(&f.taken[i]);
	for (int i = 0; i < f.nr_clients; i++)
		fd_close(&f.clients[i]);
	unlink(f.path);
	return fd_count() == f.fds_before ? 0 : -1;
}

static void somebody_connects(void)
{
	struct err err = { 0 };
	int fd = sock_connect(f.path, &err);

	assert_true(fd >= 0);
	f.clients[f.nr_clients++] = fd;
}

/* Until the owner was called. */
static void run(void)
{
	assert_int_equal(loop_run(f.loop), 0);
}

static void next_round(struct loop_work *work)
{
	if (--f.rounds)
		loop_post(f.loop, work, next_round);
	else
		loop_quit(f.loop, 0);
}

/* All that is ready, some times over: who waits in the backlog is seen in the first round. */
static void run_some_rounds(void)
{
	f.rounds = 5;
	loop_post(f.loop, &f.work, next_round);
	while (f.rounds)
		run();
}

static void quit(struct loop_timer *timer)
{
	loop_quit(f.loop, 0);
}

static void still_short(struct loop_timer *timer)
{
	assert_non_null(f.a.again.loop);
	assert_int_equal(f.calls, f.calls_when_short);
	loop_quit(f.loop, 0);
}

/* To the last moment in which nobody is to be taken: no call comes. */
static void run_while_short(void)
{
	struct loop_timer end = { 0 };

	f.calls_when_short = f.calls;
	assert_non_null(f.a.again.loop);
	loop_timer_set(f.loop, &end, f.a.again.at_ns - 1, still_short);
	run();
	assert_null(end.loop);
}

/* --- taking --- */

static void who_comes_is_taken_and_inherits_nothing(void **state)
{
	int fd;

	somebody_connects();
	run();
	assert_int_equal(f.calls, 1);
	assert_int_equal(f.nr_taken, 1);
	fd = f.taken[0];
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_int_equal(write(f.clients[0], "x", 1), 1);
	assert_int_equal(recv(fd, &(char){ 0 }, 1, 0), 1);
	assert_int_equal(acceptor_take(&f.a), -EAGAIN);
	run_some_rounds();
	assert_int_equal(f.calls, 1);
}

static void who_is_not_taken_is_told_of_again(void **state)
{
	somebody_connects();
	somebody_connects();
	run();
	assert_int_equal(f.nr_taken, 1);
	f.per_call = 0;
	run();
	assert_int_equal(f.nr_taken, 1);
	f.per_call = NR_CLIENTS;
	run();
	assert_int_equal(f.nr_taken, 2);
	assert_int_equal(f.rc, -EAGAIN);
}

static void while_it_is_held_they_wait(void **state)
{
	acceptor_hold(&f.a);
	acceptor_hold(&f.a);
	somebody_connects();
	run_some_rounds();
	assert_int_equal(f.calls, 0);
	acceptor_go_on(&f.a);
	acceptor_go_on(&f.a);
	run();
	assert_int_equal(f.nr_taken, 1);
}

static void the_owner_may_take_somebody_unasked(void **state)
{
	acceptor_hold(&f.a);
	somebody_connects();
	f.taken[f.nr_taken] = acceptor_take(&f.a);
	assert_true(f.taken[f.nr_taken++] >= 0);
	assert_int_equal(acceptor_take(&f.a), -EAGAIN);
}

/* --- shortages --- */

static void a_shortage_is_waited_out(int error)
{
	accept_errno = error;
	run();
	assert_int_equal(f.rc, -error);
	assert_int_equal(acceptor_take(&f.a), -EAGAIN); /* nor unasked */
	run_while_short();
	run();
	assert_int_equal(f.calls, 2);
}

static void shortages_of_the_host_are_waited_out(void **state)
{
	static const int errors[] = { EMFILE, ENFILE, ENOMEM, ENOBUFS };

	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		f.calls = 0;
		somebody_connects();
		a_shortage_is_waited_out(errors[i]);
		assert_int_equal(f.nr_taken, (int)i + 1);
	}
}

static void a_process_out_of_descriptors_takes_nobody_until_it_has_one(void **state)
{
	struct rlimit before, none;
	int lowest;

	somebody_connects();
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	lowest = dup(f.listen_fd);
	close(lowest);
	none = (struct rlimit){ (rlim_t)lowest, before.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	run();
	assert_int_equal(f.rc, -EMFILE);
	run_while_short();
	run();
	assert_int_equal(f.rc, -EMFILE); /* still */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	run();
	assert_int_equal(f.calls, 3);
	assert_int_equal(f.nr_taken, 1);
}

static void one_that_has_gone_again_delays_nobody(void **state)
{
	somebody_connects();
	accept_errno = ECONNABORTED;
	run();
	assert_int_equal(f.rc, -EAGAIN);
	assert_null(f.a.again.loop);
	accept_errno = EINTR;
	run();
	assert_int_equal(f.rc, -EAGAIN);
	run();
	assert_int_equal(f.nr_taken, 1);
}

static void held_while_something_is_short_it_stays_held(void **state)
{
	somebody_connects();
	accept_errno = ENOMEM;
	run();
	acceptor_hold(&f.a);
	acceptor_go_on(&f.a);
	acceptor_hold(&f.a);
	run_while_short();
	while (f.a.again.loop)
		run_some_rounds();
	run_some_rounds();
	assert_int_equal(f.calls, 1);
	acceptor_go_on(&f.a);
	run();
	assert_int_equal(f.nr_taken, 1);
}

static void a_socket_that_cannot_be_watched_is_tried_again(void **state)
{
	acceptor_hold(&f.a);
	somebody_connects();
	add_rc = -ENOSPC;
	acceptor_go_on(&f.a);
	run_while_short();
	run();
	assert_int_equal(f.nr_taken, 1);
}

static void a_socket_that_was_shut_down_does_not_keep_the_loop_busy(void **state)
{
	assert_int_equal(shutdown(f.listen_fd, SHUT_RDWR), 0);
	run_some_rounds();
	run_while_short();
	acceptor_hold(&f.a);
	while (f.a.again.loop)
		run_some_rounds();
	run_some_rounds();
	assert_null(f.a.source.loop);
	assert_null(f.a.again.loop);
	assert_int_equal(f.calls, 0);
}

/* --- the end --- */

static void the_owner_may_stop_when_it_is_called(void **state)
{
	f.stops = true;
	somebody_connects();
	somebody_connects();
	run();
	run_some_rounds();
	assert_int_equal(f.calls, 1);
	assert_int_equal(acceptor_take(&f.a), -EAGAIN);
	acceptor_go_on(&f.a);
	acceptor_hold(&f.a);
	run_some_rounds();
	assert_int_equal(f.calls, 1);
}

static void stopped_while_something_is_short_nothing_comes_later(void **state)
{
	uint64_t end_ns;
	struct loop_timer end = { 0 };

	somebody_connects();
	accept_errno = EMFILE;
	run();
	end_ns = f.a.again.at_ns + 1;
	acceptor_stop(&f.a);
	loop_timer_set(f.loop, &end, end_ns, quit);
	run();
	run_some_rounds();
	assert_int_equal(f.calls, 1);
}

static void stopped_it_can_be_started_anew(void **state)
{
	acceptor_hold(&f.a);
	acceptor_stop(&f.a);
	acceptor_stop(&f.a);
	somebody_connects();
	assert_int_equal(acceptor_start(&f.a, f.loop, f.listen_fd, somebody_came), 0);
	run();
	assert_int_equal(f.nr_taken, 1);
}

static void a_start_that_fails_leaves_nothing(void **state)
{
	acceptor_stop(&f.a);
	add_rc = -ENOMEM;
	assert_int_equal(acceptor_start(&f.a, f.loop, f.listen_fd, somebody_came), -ENOMEM);
	somebody_connects();
	assert_int_equal(acceptor_take(&f.a), -EAGAIN);
	acceptor_go_on(&f.a);
	run_some_rounds();
	assert_int_equal(f.calls, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(who_comes_is_taken_and_inherits_nothing),
		TEST(who_is_not_taken_is_told_of_again),
		TEST(while_it_is_held_they_wait),
		TEST(the_owner_may_take_somebody_unasked),
		TEST(shortages_of_the_host_are_waited_out),
		TEST(a_process_out_of_descriptors_takes_nobody_until_it_has_one),
		TEST(one_that_has_gone_again_delays_nobody),
		TEST(held_while_something_is_short_it_stays_held),
		TEST(a_socket_that_cannot_be_watched_is_tried_again),
		TEST(a_socket_that_was_shut_down_does_not_keep_the_loop_busy),
		TEST(the_owner_may_stop_when_it_is_called),
		TEST(stopped_while_something_is_short_nothing_comes_later),
		TEST(stopped_it_can_be_started_anew),
		TEST(a_start_that_fails_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
