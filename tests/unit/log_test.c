/* log_test.c - the log never holds up who writes to it; standard descriptors that are not there */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"

static void a_pipe_that_nobody_empties_stops_nobody(void **state)
{
	static char buf[256 * 1024];
	int fds[2], saved = dup(STDERR_FILENO);
	size_t size = 0;
	ssize_t n;

	assert_int_equal(pipe(fds), 0);
	dup2(fds[1], STDERR_FILENO);
	for (unsigned i = 0; i < 3000; i++)
		log_warn("line %u of many that do not fit into a pipe", i);
	n = read(fds[0], buf, 16384);
	log_warn("after the flood");
	close(fds[1]);
	dup2(saved, STDERR_FILENO);
	close(saved);
	assert_int_equal(n, 16384);
	while ((n = read(fds[0], buf + size, sizeof(buf) - 1 - size)) > 0)
		size += (size_t)n;
	assert_non_null(strstr(buf, "could not be written"));
	assert_non_null(strstr(buf, "after the flood"));
	close(fds[0]);
}

static void a_fifo_without_a_reader_is_refused(void **state)
{
	char dir[] = "/tmp/outboard-log-XXXXXX", path[64];

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_true(log_open(path) < 0);
	unlink(path);
	rmdir(dir);
}

/* In a process of its own: which of 0 to 2 are closed, then what is there. */
static int fill(unsigned closed)
{
	struct stat null, st;
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		for (int fd = 0; fd < 3; fd++)
			if (closed & 1u << fd)
				close(fd);
		if (fd_standard() || stat("/dev/null", &null))
			_exit(1);
		for (int fd = 0; fd < 3; fd++)
			if (fstat(fd, &st) || ((closed & 1u << fd) && st.st_rdev != null.st_rdev))
				_exit(2);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return status;
}

static void missing_standard_descriptors_are_opened(void **state)
{
	for (unsigned closed = 0; closed < 8; closed++)
		assert_int_equal(fill(closed), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_pipe_that_nobody_empties_stops_nobody),
		cmocka_unit_test(a_fifo_without_a_reader_is_refused),
		cmocka_unit_test(missing_standard_descriptors_are_opened),
	};

	log_init("test", LOG_WARN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
