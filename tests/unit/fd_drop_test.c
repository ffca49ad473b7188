#include "base/fd_drop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "slow_file.h"

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0 || errno != EBADF;
}

static void await_closed(int fd)
{
	uint64_t deadline = clock_now_ns() + SLOW_FILE_DEADLINE_MS * NS_PER_MS;

	while (is_open(fd)) {
		assert_true(clock_now_ns() < deadline);
		sched_yield();
	}
}

static void what_peers_pass_is_closed_at_once(void **state)
{
	int fds[7], pipe_fds[2], pair[2];

	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	fds[0] = fd_eventfd();
	fds[1] = memfd_create("memory", MFD_CLOEXEC);
	fds[2] = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	fds[3] = pipe_fds[0];
	fds[4] = pipe_fds[1];
	fds[5] = pair[0];
	fds[6] = pair[1];
	for (unsigned i = 0; i < 7; i++) {
		assert_true(fds[i] >= 0);
		fd_drop(fds[i]);
		assert_false(is_open(fds[i]));
	}
}

/* By whoever it is. */
static void all_else_is_closed_soon(void **state)
{
	int fds[4];

	for (unsigned round = 0; round < 20; round++) {
		fds[0] = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
		fds[1] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		fds[2] = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
		fds[3] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		for (unsigned i = 0; i < 4; i++)
			if (fds[i] >= 0)
				fd_drop(fds[i]);
		for (unsigned i = 0; i < 4; i++)
			if (fds[i] >= 0)
				await_closed(fds[i]);
	}
}

static void nobody_waits_for_a_file_system_that_does_not_answer(void **state)
{
	struct slow_file f;
	int fd = slow_file_open(&f), others[3];

	if (fd < 0)
		skip();
	for (unsigned i = 0; i < 3; i++)
		others[i] = dup(fd);
	fd_drop(fd);
	for (unsigned i = 0; i < 3; i++)
		fd_drop(others[i]);
	while (!atomic_load(&f.state->asked))
		sched_yield();
	assert_false(atomic_load(&f.state->late));
	slow_file_answer(&f);
	await_closed(fd);
	for (unsigned i = 0; i < 3; i++)
		await_closed(others[i]);
	while (atomic_load(&f.state->asked) < 4)
		sched_yield();
	slow_file_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_peers_pass_is_closed_at_once),
		cmocka_unit_test(all_else_is_closed_soon),
		cmocka_unit_test(nobody_waits_for_a_file_system_that_does_not_answer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
