/* sock_test.c - UNIX sockets: paths, leftovers, descriptors in flight */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fd.h"
#include "base/sock.h"

static char dir[] = "/tmp/sock_test.XXXXXX";
static char path[64];

static int make_dir(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/s", dir);
	return 0;
}

static int remove_dir(void **state)
{
	unlink(path);
	return rmdir(dir);
}

static void a_path_of_107_bytes_fits_and_one_of_108_does_not(void **state)
{
	char long_path[109];
	struct err err = { 0 };

	memset(long_path, 'x', 108);
	long_path[107] = '\0';
	assert_int_equal(sock_check_path(long_path, &err), 0);
	long_path[107] = 'x';
	long_path[108] = '\0';
	assert_int_equal(sock_check_path(long_path, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.text, "108 bytes long, a UNIX socket's may have 107"));
	err.text[0] = '\0';
	assert_int_equal(sock_check_path("", &err), -EINVAL);
}

static void a_leftover_is_replaced_a_live_socket_and_a_file_are_not(void **state)
{
	struct err err = { 0 };
	int first = sock_listen(path, 1, &err), second;

	assert_true(first >= 0);
	assert_int_equal(sock_listen(path, 1, &err), -EADDRINUSE);
	close(first);
	second = sock_listen(path, 1, &err);
	assert_true(second >= 0);
	close(second);
	unlink(path);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	err.text[0] = '\0';
	assert_int_equal(sock_listen(path, 1, &err), -EEXIST);
	assert_non_null(strstr(err.text, "is not a socket"));
}

static void connecting_to_nobody_says_why_at_once(void **state)
{
	struct err err = { 0 };
	int fd;

	unlink(path);
	assert_int_equal(sock_connect(path, &err), -ENOENT);
	assert_non_null(strstr(err.text, "no such socket"));
	err.text[0] = '\0';
	fd = sock_listen(path, 1, &err);
	close(fd);
	assert_int_equal(sock_connect(path, &err), -ECONNREFUSED);
	assert_non_null(strstr(err.text, "nobody listens there"));
}

static void descriptors_arrive_close_on_exec_and_belong_to_the_list(void **state)
{
	int pair[2], before = fd_count(), sent[3];
	char buf[8] = "abc";
	struct iovec iov = { .iov_base = buf, .iov_len = 3 };
	struct fd_list list = { .nr = 0 };

	assert_int_equal(sock_pair(pair), 0);
	for (int i = 0; i < 3; i++)
		sent[i] = fd_eventfd();
	assert_int_equal(sock_send(pair[0], &iov, 1, sent, 3), 3);
	assert_int_equal(sock_recv(pair[1], buf, sizeof(buf), &list), 3);
	assert_int_equal(list.nr, 3);
	assert_int_equal(fcntl(list.fds[0], F_GETFD), FD_CLOEXEC);
	fd_signal(sent[1]);
	assert_true(fd_clear(list.fds[1]));
	close(fd_list_take(&list));
	assert_int_equal(list.nr, 2);
	fd_list_close(&list);
	/* Nobody wants them: they are closed, not leaked. */
	assert_int_equal(sock_send(pair[0], &iov, 1, sent, 3), 3);
	assert_int_equal(sock_recv(pair[1], buf, sizeof(buf), NULL), 3);
	for (int i = 0; i < 3; i++)
		close(sent[i]);
	close(pair[0]);
	assert_int_equal(sock_recv(pair[1], buf, sizeof(buf), NULL), 0);
	close(pair[1]);
	assert_int_equal(fd_count(), before);
}

static void a_flood_beyond_the_list_is_closed(void **state)
{
	int pair[2], before = fd_count(), fds[SOCK_MAX_FDS];
	char c = 'x';
	struct iovec iov = { .iov_base = &c, .iov_len = 1 };
	struct fd_list list = { .nr = 0 };

	assert_int_equal(sock_pair(pair), 0);
	for (int i = 0; i < SOCK_MAX_FDS; i++)
		fds[i] = pair[0];
	for (int round = 0; round < 3; round++) {
		assert_int_equal(sock_send(pair[0], &iov, 1, fds, SOCK_MAX_FDS), 1);
		assert_int_equal(sock_recv(pair[1], &c, 1, &list), 1);
	}
	assert_int_equal(list.nr, SOCK_MAX_FDS);
	assert_int_equal(fd_count(), before + 2 + SOCK_MAX_FDS);
	fd_list_close(&list);
	close(pair[0]);
	close(pair[1]);
	assert_int_equal(fd_count(), before);
}

static void a_full_socket_says_so_and_a_gone_reader_is_no_signal(void **state)
{
	static char block[65536];
	struct iovec iov = { .iov_base = block, .iov_len = sizeof(block) };
	int pair[2];
	ssize_t n;

	assert_int_equal(sock_pair(pair), 0);
	while ((n = sock_send(pair[0], &iov, 1, NULL, 0)) > 0)
		;
	assert_int_equal(n, -EAGAIN);
	close(pair[1]);
	assert_int_equal(sock_send(pair[0], &iov, 1, NULL, 0), -EPIPE);
	close(pair[0]);
}

static void interrupted(int signo)
{
}

static void waiting_for_input_ends_by_time_by_signal_and_by_what_comes(void **state)
{
	struct sigaction action = { .sa_handler = interrupted }, before;
	const struct itimerval often = { { .tv_usec = 1000 }, { .tv_usec = 1000 } }, never = { 0 };
	struct fd_list list = { 0 };
	char got[8];
	int pair[2];

	assert_int_equal(sock_pair(pair), 0);
	assert_int_equal(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(sock_set_timeout(pair[0], 1), 0);
	assert_int_equal(sock_recv_wait(pair[0], got, sizeof(got), &list), -EAGAIN);

	assert_int_equal(sock_set_timeout(pair[0], 1000 * 1000), 0);
	assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
	assert_int_equal(sock_recv_wait(pair[0], got, sizeof(got), &list), -EINTR);
	setitimer(ITIMER_REAL, &never, NULL);
	sigaction(SIGALRM, &before, NULL);

	/* The others do not wait for that. */
	assert_int_equal(sock_recv(pair[0], got, sizeof(got), &list), -EAGAIN);
	assert_int_equal(write(pair[1], "abc", 3), 3);
	assert_int_equal(sock_recv_wait(pair[0], got, sizeof(got), &list), 3);
	assert_memory_equal(got, "abc", 3);
	close(pair[1]);
	assert_int_equal(sock_recv_wait(pair[0], got, sizeof(got), &list), 0);
	close(pair[0]);
	assert_true(sock_set_timeout(-1, 1) < 0);
}

static void fd_signal_never_waits_on_a_full_eventfd(void **state)
{
	int fd = fd_eventfd();
	uint64_t full = UINT64_MAX - 1;

	assert_int_equal(write(fd, &full, 8), 8);
	assert_int_equal(fd_signal(fd), 0);
	assert_true(fd_clear(fd));
	assert_false(fd_clear(fd));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_path_of_107_bytes_fits_and_one_of_108_does_not),
		cmocka_unit_test(a_leftover_is_replaced_a_live_socket_and_a_file_are_not),
		cmocka_unit_test(connecting_to_nobody_says_why_at_once),
		cmocka_unit_test(descriptors_arrive_close_on_exec_and_belong_to_the_list),
		cmocka_unit_test(a_flood_beyond_the_list_is_closed),
		cmocka_unit_test(a_full_socket_says_so_and_a_gone_reader_is_no_signal),
		cmocka_unit_test(waiting_for_input_ends_by_time_by_signal_and_by_what_comes),
		cmocka_unit_test(fd_signal_never_waits_on_a_full_eventfd),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
