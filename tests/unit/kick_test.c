#include "base/kick.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"

#define FULL 0xfffffffffffffffeull

static uint64_t count(int fd)
{
	eventfd_t v = 0;

	eventfd_read(fd, &v);
	return v;
}

static void each_kick_adds_one(void **state)
{
	FD_AUTO fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	for (int i = 0; i < 3; i++)
		assert_int_equal(kick(fd), 0);
	assert_int_equal(count(fd), 3);
}

static void a_blocking_eventfd_with_room_is_kicked(void **state)
{
	FD_AUTO fd = eventfd(0, EFD_CLOEXEC);

	assert_int_equal(kick(fd), 0);
	assert_int_equal(count(fd), 1);
}

static void a_full_counter_counts_as_kicked(void **state)
{
	FD_AUTO fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_int_equal(eventfd_write(fd, FULL), 0);
	assert_int_equal(kick(fd), 0);
	assert_int_equal(count(fd), FULL);
}

static void a_full_and_blocking_one_is_given_up(void **state)
{
	FD_AUTO fd = eventfd(0, EFD_CLOEXEC);
	FD_AUTO good = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_int_equal(eventfd_write(fd, FULL), 0);
	/* First with the timer not armed, then armed at some time before. */
	for (int i = 0; i < 5; i++)
		assert_int_equal(kick(fd), -ETIMEDOUT);
	assert_int_equal(kick(good), 0);
	assert_int_equal(kick(fd), -ETIMEDOUT);
}

static void one_that_turns_blocking_behind_our_back_is_given_up_too(void **state)
{
	FD_AUTO fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_int_equal(eventfd_write(fd, FULL), 0);
	assert_int_equal(kick(fd), 0);
	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
	assert_int_equal(kick(fd), -ETIMEDOUT);
}

static void gave_up(int signo)
{
	_exit(1);
}

/* A peer shares the flag as well as the counter. */
static void clearing_one_that_turned_blocking_waits_for_nobody(void **state)
{
	FD_AUTO fd = fd_eventfd();

	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
	signal(SIGALRM, gave_up);
	alarm(10);
	assert_false(fd_clear(fd));
	assert_int_equal(eventfd_write(fd, 3), 0);
	assert_true(fd_clear(fd));
	assert_false(fd_clear(fd));
	alarm(0);
}

static void what_is_no_eventfd_is_an_error(void **state)
{
	assert_int_equal(kick(-1), -EBADF);
}

static void *kick_from_a_thread(void *arg)
{
	int *fds = arg;

	return kick(fds[0]) == 0 && kick(fds[1]) == -ETIMEDOUT ? NULL : arg;
}

static void every_thread_has_its_own_timer(void **state)
{
	int fds[2] = { eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), eventfd(0, EFD_CLOEXEC) };

	assert_int_equal(eventfd_write(fds[1], FULL), 0);
	for (int i = 0; i < 20; i++) {
		pthread_t thread;
		void *bad;

		assert_int_equal(pthread_create(&thread, NULL, kick_from_a_thread, fds), 0);
		pthread_join(thread, &bad);
		assert_null(bad);
	}
	assert_int_equal(count(fds[0]), 20);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_kick_adds_one),
		cmocka_unit_test(a_blocking_eventfd_with_room_is_kicked),
		cmocka_unit_test(a_full_counter_counts_as_kicked),
		cmocka_unit_test(a_full_and_blocking_one_is_given_up),
		cmocka_unit_test(one_that_turns_blocking_behind_our_back_is_given_up_too),
		cmocka_unit_test(clearing_one_that_turned_blocking_waits_for_nobody),
		cmocka_unit_test(what_is_no_eventfd_is_an_error),
		cmocka_unit_test(every_thread_has_its_own_timer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
