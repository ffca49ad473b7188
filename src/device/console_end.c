/*
 * console_end.c - the host end of a console port: watched, with flow control
 *
 * A descriptor is watched for what is wanted of it and, when nothing is, not at all, because a
 * hang-up would be reported again and again. Only a client is then watched for its hang-up, as
 * an edge. A plain file as input cannot be watched: it is read whenever input is wanted.
 *
 * A terminal on standard input tells of its size by SIGWINCH. A pseudo-terminal tells nobody, so it
 * is asked whenever somebody types.
 *
 * Owns:    the end (base/char_end.h), the ring of what nobody took.
 * Trusts:  no client: it may stall, come in numbers, or leave in the middle of anything.
 */
#include "device/console_end.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/acceptor.h"
#include "base/char_end.h"
#include "base/char_ring.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"

struct console_end {
	struct loop *loop;
	const char *name;
	enum console_end_kind kind;
	struct char_end end;
	struct console_end_user user;
	struct log_limit limit;

	struct loop_source in_src, out_src; /* in_src serves both where both are one descriptor */
	struct loop_work unpolled;	    /* input from a file */
	bool reading;			    /* the end of input has not come */
	bool in_polled;
	bool want_in, want_out;

	struct acceptor acceptor;

	struct loop_source size_src;
	int size_fd; /* SIGWINCH */
	uint16_t cols, rows;

	struct char_ring ring; /* without bytes until it is needed */
};

static void ready(struct console_end *e, uint32_t events);
static void flush_ring(struct console_end *e);

bool console_end_connected(const struct console_end *e)
{
	return e->kind != CONSOLE_SOCKET || e->end.out_fd >= 0;
}

/* Watching */

static void in_ready(struct loop_source *src, uint32_t events)
{
	ready(container_of(src, struct console_end, in_src), events);
}

static void out_ready(struct loop_source *src, uint32_t events)
{
	struct console_end *e = container_of(src, struct console_end, out_src);

	ready(e, (events & EPOLLIN) ? EPOLLOUT : events | EPOLLOUT);
}

static void read_unpolled(struct loop_work *work)
{
	struct console_end *e = container_of(work, struct console_end, unpolled);

	if (e->want_in && e->reading)
		e->user.readable(e->user.arg);
}

/* False: epoll cannot watch this one. */
static bool set_events(
	struct console_end *e, struct loop_source *src, int fd, uint32_t events, loop_fd_fn fn)
{
	if (!events || fd < 0)
		loop_del(src);
	else if (!src->loop)
		return loop_add(e->loop, src, fd, events, fn) == 0;
	else if (src->events != events)
		loop_mod(src, events);
	return true;
}

static void watch_client(struct console_end *e)
{
	uint32_t events = (e->want_in && e->reading ? EPOLLIN : 0) | (e->want_out ? EPOLLOUT : 0);

	if (!events)
		events = e->kind != CONSOLE_SOCKET ? 0
			 : e->reading		   ? EPOLLRDHUP | EPOLLET
						   : (uint32_t)EPOLLET; /* of a hang-up */
	set_events(e, &e->in_src, e->end.in_fd, events, in_ready);
}

static void watch_two(struct console_end *e)
{
	bool want = e->want_in && e->reading;

	if (e->in_polled)
		e->in_polled =
			set_events(e, &e->in_src, e->end.in_fd, want ? EPOLLIN : 0, in_ready);
	if (want && !e->in_polled)
		loop_post(e->loop, &e->unpolled, read_unpolled);
	/* Nobody tells of what cannot be watched: the next output tries again. */
	if (!set_events(e, &e->out_src, e->end.out_fd, e->want_out ? EPOLLOUT : 0, out_ready))
		e->want_out = false;
}

static void watch(struct console_end *e)
{
	if (e->end.in_fd >= 0 && e->end.in_fd == e->end.out_fd)
		watch_client(e);
	else
		watch_two(e);
}

static void hang_up(struct console_end *e)
{
	loop_del(&e->in_src);
	char_end_hang_up(&e->end);
	e->reading = e->want_out = false;
	if (e->user.connected) /* not at the end of it all */
		e->user.connected(e->user.arg, false);
}

/* Nothing but the end is left to be read. */
static bool at_end(const struct console_end *e)
{
	char byte;

	return !e->reading || recv(e->end.in_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static void client_leaves(struct console_end *e, uint32_t events)
{
	if (events & (EPOLLHUP | EPOLLERR)) {
		hang_up(e);
	} else {
		/* It may still want to read. */
		e->reading = false;
		watch(e);
	}
}

static void check_size(struct console_end *e)
{
	uint16_t cols = e->cols, rows = e->rows;

	console_end_size(e, &cols, &rows);
	if (cols == e->cols && rows == e->rows)
		return;
	e->cols = cols;
	e->rows = rows;
	e->user.resized(e->user.arg);
}

static void ready(struct console_end *e, uint32_t events)
{
	if (e->want_out && events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
		e->want_out = false;
		flush_ring(e);
		if (!e->want_out)
			e->user.writable(e->user.arg);
		watch(e);
	}
	if (e->kind == CONSOLE_PTY || e->kind == CONSOLE_FDS)
		check_size(e);
	if (e->want_in && e->reading && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		e->user.readable(e->user.arg);
	if (e->kind == CONSOLE_SOCKET && e->end.in_fd >= 0 &&
		events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP) && at_end(e))
		client_leaves(e, events);
}

/* Input */

void console_end_want_input(struct console_end *e, bool want)
{
	if (e->want_in == want)
		return;
	e->want_in = want;
	watch(e);
}

ssize_t console_end_readv(struct console_end *e, const struct iovec *iov, unsigned nr)
{
	ssize_t n;

	if (!e->reading || !char_end_may_read(&e->end))
		return 0;
	do
		n = readv(e->end.in_fd, iov, (int)nr);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EFAULT))
		return errno == EAGAIN ? 0 : -EFAULT;
	if (n <= 0) {
		e->reading = false;
		watch(e);
		return 0;
	}
	if (!e->in_polled && e->want_in)
		loop_post(e->loop, &e->unpolled, read_unpolled);
	return n;
}

/* Output */

static ssize_t output_lost(struct console_end *e, int rc, size_t len)
{
	if (e->kind == CONSOLE_SOCKET) {
		hang_up(e);
		return -ENOTCONN;
	}
	log_limited(&e->limit, LOG_WARN, "%s: output to %s is lost: %s", e->name,
		e->end.path ? e->end.path : "its end", strerror(-rc));
	/* A full disk may become free again; an end that is gone takes nothing more. */
	if (rc != -ENOSPC && rc != -EDQUOT && rc != -EFBIG)
		e->end.out = CHAR_OUT_NONE;
	return (ssize_t)len;
}

static size_t total(const struct iovec *iov, unsigned nr)
{
	size_t len = 0;

	for (unsigned i = 0; i < nr; i++)
		len += iov[i].iov_len;
	return len;
}

ssize_t console_end_writev(struct console_end *e, const struct iovec *iov, unsigned nr)
{
	size_t len = total(iov, nr);
	ssize_t n;

	if (!console_end_connected(e))
		return -ENOTCONN;
	if (e->end.out == CHAR_OUT_NONE || !len)
		return (ssize_t)len;
	do
		n = char_end_writev(&e->end, iov, nr);
	while (n == -EINTR);
	if (n == -EFAULT)
		return (ssize_t)len; /* memory that is gone: there is nothing to write */
	if (n == -EAGAIN || n == 0) {
		e->want_out = true;
		watch(e);
		return -EAGAIN;
	}
	return n > 0 ? n : output_lost(e, (int)n, len);
}

static void ring_add(struct console_end *e, const uint8_t *bytes, size_t len)
{
	if (char_ring_add(&e->ring, bytes, len))
		log_info("%s: nobody takes the console's output; only the last %u bytes are kept",
			e->name, CHAR_RING_SIZE);
}

static void flush_ring(struct console_end *e)
{
	while (e->ring.count) {
		struct iovec piece = char_ring_piece(&e->ring);
		ssize_t n = console_end_writev(e, &piece, 1);

		if (n < 0)
			return;
		char_ring_took(&e->ring, (size_t)n);
	}
}

void console_end_put(struct console_end *e, const struct iovec *iov, unsigned nr)
{
	ssize_t n = e->ring.count ? -EAGAIN : console_end_writev(e, iov, nr);
	size_t skip = n > 0 ? (size_t)n : 0;

	if (skip == total(iov, nr))
		return;
	if (!e->ring.bytes)
		e->ring.bytes = malloc(CHAR_RING_SIZE);
	for (unsigned i = 0; e->ring.bytes && i < nr; i++) {
		size_t done = MIN(skip, iov[i].iov_len);

		ring_add(e, (const uint8_t *)iov[i].iov_base + done, iov[i].iov_len - done);
		skip -= done;
	}
	if (e->ring.bytes && !e->want_out)
		flush_ring(e);
}

static bool flush_rest(void *arg)
{
	struct console_end *e = arg;

	flush_ring(e);
	return e->ring.count && e->end.out_fd >= 0;
}

/* Clients */

static bool client_alive(const struct console_end *e)
{
	struct pollfd pfd = { .fd = e->end.in_fd };

	return e->end.in_fd >= 0 && poll(&pfd, 1, 0) == 0;
}

static void client_arrives(struct acceptor *acceptor)
{
	struct console_end *e = container_of(acceptor, struct console_end, acceptor);
	int fd = char_end_accept(&e->end, acceptor, client_alive(e), e->name, &e->limit);

	if (fd < 0)
		return;
	if (e->end.in_fd >= 0)
		hang_up(e);
	char_end_client(&e->end, fd);
	e->reading = true;
	watch(e);
	flush_ring(e);
	e->user.connected(e->user.arg, true);
}

/* Size */

static void size_changes(struct loop_source *src, uint32_t events)
{
	struct console_end *e = container_of(src, struct console_end, size_src);
	struct signalfd_siginfo info;

	while (read(e->size_fd, &info, sizeof(info)) == sizeof(info))
		;
	check_size(e);
}

static int watch_size(struct console_end *e)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	if (pthread_sigmask(SIG_BLOCK, &set, NULL))
		return -EINVAL;
	e->size_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (e->size_fd < 0)
		return -errno;
	return loop_add(e->loop, &e->size_src, e->size_fd, EPOLLIN, size_changes);
}

void console_end_size(const struct console_end *e, uint16_t *cols, uint16_t *rows)
{
	struct winsize size;
	int fd = e->kind == CONSOLE_TTY ? e->end.out_fd : e->end.in_fd;

	if (e->kind == CONSOLE_NULL || e->kind == CONSOLE_FILE || e->kind == CONSOLE_SOCKET)
		return;
	if (fd < 0 || ioctl(fd, TIOCGWINSZ, &size) || !size.ws_col || !size.ws_row)
		return;
	*cols = size.ws_col;
	*rows = size.ws_row;
}

const char *console_end_pty_path(const struct console_end *e)
{
	return e->kind == CONSOLE_PTY ? e->end.path : NULL;
}

/* Life */

static int open_end(struct console_end *e, const struct console_end_config *config, struct err *err)
{
	switch (config->kind) {
	case CONSOLE_TTY:
		return char_end_tty(&e->end, err);
	case CONSOLE_PTY:
		return char_end_pty(&e->end, err);
	case CONSOLE_FILE:
		return char_end_file(&e->end, config->path, O_APPEND, err);
	case CONSOLE_SOCKET:
		return config->path ? char_end_listen(&e->end, config->path, err)
				    : char_end_listener(&e->end, config->in_fd, err);
	case CONSOLE_FDS:
		return char_end_fds(&e->end, config->in_fd, config->out_fd, err);
	default:
		return 0;
	}
}

static int start_watching(struct console_end *e)
{
	e->reading = e->in_polled = e->end.in_fd >= 0;
	if (e->kind == CONSOLE_SOCKET) {
		e->in_polled = true;
		return acceptor_start(&e->acceptor, e->loop, e->end.listen_fd, client_arrives);
	}
	if ((e->kind == CONSOLE_TTY || e->kind == CONSOLE_FDS) && e->end.in_fd >= 0 &&
		isatty(e->end.in_fd))
		return watch_size(e);
	return 0;
}

int console_end_new(struct console_end **out, struct loop *loop, const char *name,
	const struct console_end_config *config, const struct console_end_user *user,
	struct err *err)
{
	struct console_end *e = calloc(1, sizeof(*e));
	int rc;

	if (!e)
		return err_set(err, -ENOMEM, "out of memory");
	e->loop = loop;
	e->name = name;
	e->kind = config->kind;
	e->user = *user;
	e->size_fd = -1;
	char_end_init(&e->end);
	rc = open_end(e, config, err);
	if (!rc) {
		rc = start_watching(e);
		if (rc)
			err_set(err, rc, "cannot be watched: %s", strerror(-rc));
	}
	if (rc) {
		console_end_free(e);
		return rc;
	}
	console_end_size(e, &e->cols, &e->rows);
	*out = e;
	return 0;
}

void console_end_free(struct console_end *e)
{
	if (!e)
		return;
	e->user = (struct console_end_user){ 0 };
	char_end_drain(&e->end, e->kind == CONSOLE_PTY, flush_rest, e);
	loop_del(&e->in_src);
	loop_del(&e->out_src);
	acceptor_stop(&e->acceptor);
	loop_del(&e->size_src);
	loop_unpost(e->loop, &e->unpolled);
	fd_close(&e->size_fd);
	char_end_fini(&e->end);
	free(e->ring.bytes);
	free(e);
}
