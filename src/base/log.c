#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

static const char *program = "outboard";
static enum log_level max_level = LOG_WARN;
static int out_fd = STDERR_FILENO;
static uint64_t started_ns;
static uint32_t unwritten; /* lines since the last that could be written */

void log_init(const char *name, enum log_level level)
{
	program = name;
	max_level = level;
	started_ns = clock_now_ns();
}

int log_open(const char *path)
{
	/* O_NONBLOCK: a FIFO without a reader is refused instead of waited for. */
	int fd =
		open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0644);

	if (fd < 0)
		return -errno;
	log_to(fd);
	return 0;
}

void log_to(int fd)
{
	if (out_fd != STDERR_FILENO)
		close(out_fd);
	out_fd = fd;
}

int log_fd(void)
{
	return out_fd;
}

bool log_enabled(enum log_level level)
{
	return level <= max_level;
}

/*
 * A log that cannot be written (full disk, closed pipe, a pipe that nobody empties, a terminal that
 * was halted) must not stop anything. Standard error is shared with others and not made
 * non-blocking.
 */
static bool put(const char *line, size_t size)
{
	struct pollfd pfd = { .fd = out_fd, .events = POLLOUT };
	int n;

	do
		n = poll(&pfd, 1, 0);
	while (n < 0 && errno == EINTR);
	return n == 1 && (pfd.revents & POLLOUT) && write(out_fd, line, size) >= 0;
}

static void tell_unwritten(void)
{
	uint32_t nr = __atomic_exchange_n(&unwritten, 0, __ATOMIC_RELAXED);
	char line[128];
	int n = snprintf(line, sizeof(line), "%s: %u lines before this one could not be written\n",
		program, nr);

	if (nr && !put(line, (size_t)n))
		__atomic_fetch_add(&unwritten, nr, __ATOMIC_RELAXED);
}

void log_line(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = { "error", "warning", "info", "debug" };
	uint64_t us;
	char line[1024];
	va_list ap;
	int n, m;

	if (!log_enabled(level))
		return;
	us = (clock_now_ns() - started_ns) / 1000;
	n = snprintf(line, sizeof(line), "%s: %llu.%06llus: %s: ", program,
		(unsigned long long)(us / 1000000), (unsigned long long)(us % 1000000),
		names[level]);
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	va_end(ap);
	n = m < 0 ? n : n + m;
	if ((size_t)n > sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	if (__atomic_load_n(&unwritten, __ATOMIC_RELAXED))
		tell_unwritten();
	if (!put(line, (size_t)n))
		__atomic_fetch_add(&unwritten, 1, __ATOMIC_RELAXED);
}

bool log_allow(struct log_limit *limit)
{
	uint64_t now = clock_now_ns(),
		 start = __atomic_load_n(&limit->window_start_ns, __ATOMIC_RELAXED);
	uint32_t left_out;

	if (!start || now - start > 10 * NS_PER_S) {
		__atomic_store_n(&limit->window_start_ns, now, __ATOMIC_RELAXED);
		__atomic_store_n(&limit->used, 0, __ATOMIC_RELAXED);
		left_out = __atomic_exchange_n(&limit->left_out, 0, __ATOMIC_RELAXED);
		if (left_out)
			log_warn("%u lines of the next kind were left out", left_out);
	}
	if (__atomic_fetch_add(&limit->used, 1, __ATOMIC_RELAXED) < 5)
		return true;
	__atomic_fetch_add(&limit->left_out, 1, __ATOMIC_RELAXED);
	return false;
}
