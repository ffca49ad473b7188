/*
 * serial_host.c - where the wire of the serial port ends on the host
 *
 * Output: a ring of 64 KiB, written at a newline, at 128 bytes or after 1 ms. An
 * end that would block is marked so and waited for on the loop; meanwhile the ring drops its oldest
 * bytes. Input: read only into room that the guest has; without room the
 * descriptor is not watched. A descriptor that epoll cannot watch (a plain file), or that has
 * hung up with bytes left in it, is read whenever there is room, without waiting for events.
 *
 * Owns:    its end (base/char_end.h).
 * Threads: serial_host.h. Sources are added and removed on the loop thread with the lock
 *          held, which is what lets other threads change an added source's events.
 */
#include "machine/serial_host.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/acceptor.h"
#include "base/char_end.h"
#include "base/char_ring.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"

#define FLUSH_AT       128
#define FLUSH_AFTER_NS NS_PER_MS
#define READS_A_TURN   16

struct serial_host {
	struct loop *loop;
	enum serial_mode mode;
	pthread_mutex_t *lock;
	struct serial_host_guest guest;
	struct char_end end;

	/* Input. in_src serves output too where both are one descriptor (duplex). */
	bool duplex;
	bool reading;	/* end of input not seen */
	bool in_polled; /* events tell when there is input */
	bool paused;	/* the guest has no room */
	struct loop_source in_src, out_src;
	struct loop_work resume_work;

	/* Output */
	bool blocked; /* until out_fd is writable */
	struct char_ring ring;
	bool flush_wanted; /* work or timer is under way */
	struct loop_work flush_work;
	struct loop_timer flush_timer;
	struct log_limit error_limit;

	struct acceptor acceptor;
};

static void in_ready(struct loop_source *src, uint32_t events);
static void out_ready(struct loop_source *src, uint32_t events);
static void pump_input(struct serial_host *h);

/* ---- watching ---- */

static bool wants_input(const struct serial_host *h)
{
	return h->reading && h->in_polled && !h->paused;
}

static uint32_t duplex_events(const struct serial_host *h)
{
	return (wants_input(h) ? EPOLLIN : 0) | (h->blocked ? EPOLLOUT : 0);
}

static void change_events(struct loop_source *src, uint32_t events)
{
	if (src->loop && src->events != events)
		loop_mod(src, events);
}

/* [locked] Output has become blocked or free. Any thread. */
static void watch_output(struct serial_host *h)
{
	if (h->duplex)
		change_events(&h->in_src, duplex_events(h));
	else
		change_events(&h->out_src, h->blocked ? EPOLLOUT : 0);
}

/*
 * [locked] Loop thread. A source of input alone is removed while it is not wanted: with no events
 * asked for it would still report a hang-up, again and again.
 */
static void watch_input(struct serial_host *h)
{
	if (h->duplex) {
		change_events(&h->in_src, duplex_events(h));
	} else if (!wants_input(h)) {
		loop_del(&h->in_src);
	} else if (!h->in_src.loop) {
		if (loop_add(h->loop, &h->in_src, h->end.in_fd, EPOLLIN, in_ready))
			h->in_polled = false; /* a plain file: always ready */
	}
}

/* ---- output ---- */

/* [locked] A full disk may become free again; an end that is gone takes nothing more. */
static void output_failed(struct serial_host *h, int rc)
{
	if (h->mode == SERIAL_SOCKET) {
		/* Its next event closes the client; the ring waits for another. */
		h->end.out_fd = -1;
		return;
	}
	log_limited(&h->error_limit, LOG_WARN, "serial port: output to %s is lost: %s",
		h->end.path ? h->end.path : "standard output", strerror(-rc));
	char_ring_empty(&h->ring);
	if (rc != -ENOSPC && rc != -EDQUOT && rc != -EFBIG)
		h->end.out = CHAR_OUT_NONE;
}

void serial_host_flush(struct serial_host *h)
{
	while (h->ring.count && !h->blocked && h->end.out_fd >= 0) {
		struct iovec piece = char_ring_piece(&h->ring);
		ssize_t n = char_end_writev(&h->end, &piece, 1);

		if (n == -EINTR)
			continue;
		if (n == -EAGAIN) {
			/* Without a source nobody would tell: the next flush tries again. */
			h->blocked = h->duplex ? h->in_src.loop : h->out_src.loop;
			watch_output(h);
			return;
		}
		if (n <= 0) {
			output_failed(h, n < 0 ? (int)n : -EIO);
			return;
		}
		char_ring_took(&h->ring, (size_t)n);
	}
}

static void flush_due(struct loop_timer *timer)
{
	struct serial_host *h = container_of(timer, struct serial_host, flush_timer);

	pthread_mutex_lock(h->lock);
	h->flush_wanted = false;
	serial_host_flush(h);
	pthread_mutex_unlock(h->lock);
}

static void flush_soon(struct loop_work *work)
{
	struct serial_host *h = container_of(work, struct serial_host, flush_work);

	loop_timer_set(h->loop, &h->flush_timer, clock_now_ns() + FLUSH_AFTER_NS, flush_due);
}

static void ring_put(struct serial_host *h, uint8_t byte)
{
	if (char_ring_add(&h->ring, &byte, 1))
		log_line(h->mode == SERIAL_TTY || h->mode == SERIAL_FILE ? LOG_WARN : LOG_INFO,
			"serial port: nobody takes its output; only the last %u bytes are kept",
			CHAR_RING_SIZE);
}

void serial_host_put(struct serial_host *h, uint8_t byte)
{
	if (h->end.out == CHAR_OUT_NONE)
		return; /* mode null, or its end is gone */
	ring_put(h, byte);
	if (byte == '\n' || h->ring.count >= FLUSH_AT) {
		serial_host_flush(h);
	} else if (!h->flush_wanted && !h->blocked && h->end.out_fd >= 0) {
		h->flush_wanted = true;
		loop_post(h->loop, &h->flush_work, flush_soon);
	}
}

static void output_writable(struct serial_host *h)
{
	pthread_mutex_lock(h->lock);
	h->blocked = false;
	serial_host_flush(h);
	if (!h->blocked)
		watch_output(h);
	pthread_mutex_unlock(h->lock);
}

/* Standard output, apart from input. */
static void out_ready(struct loop_source *src, uint32_t events)
{
	struct serial_host *h = container_of(src, struct serial_host, out_src);

	if (events & (EPOLLERR | EPOLLHUP)) {
		/* Its next write fails and says so; events would come without end. */
		pthread_mutex_lock(h->lock);
		loop_del(src);
		pthread_mutex_unlock(h->lock);
	}
	output_writable(h);
}

static bool flush_rest(void *arg)
{
	struct serial_host *h = arg;

	h->blocked = false;
	serial_host_flush(h);
	return h->ring.count && h->end.out_fd >= 0;
}

/* ---- input ---- */

/* [locked] */
static void close_client(struct serial_host *h)
{
	loop_del(&h->in_src);
	char_end_hang_up(&h->end);
	h->reading = h->paused = h->blocked = false;
}

/* A client that has only finished sending may still want to read. */
static void input_ended(struct serial_host *h)
{
	pthread_mutex_lock(h->lock);
	h->reading = false;
	if (h->mode == SERIAL_SOCKET && !h->in_polled)
		close_client(h);
	else
		watch_input(h);
	pthread_mutex_unlock(h->lock);
}

/* Room for the guest's next bytes, or 0 and paused. */
static size_t input_room(struct serial_host *h)
{
	size_t room;

	pthread_mutex_lock(h->lock);
	room = h->guest.room(h->guest.arg);
	h->paused = !room;
	watch_input(h);
	pthread_mutex_unlock(h->lock);
	return room;
}

static void resume(struct loop_work *work)
{
	pump_input(container_of(work, struct serial_host, resume_work));
}

/* One read for a descriptor that events tell of; as many as there is room for with others. */
static void pump_input(struct serial_host *h)
{
	for (unsigned i = 0; h->reading; i++) {
		uint8_t buf[64];
		size_t room = input_room(h);
		ssize_t n;

		if (!room || (h->in_polled && i > 0))
			return;
		if (i == READS_A_TURN) { /* let others have a turn */
			loop_post(h->loop, &h->resume_work, resume);
			return;
		}
		if (!char_end_may_read(&h->end))
			return;
		n = read(h->end.in_fd, buf, MIN(room, sizeof(buf)));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN && h->in_polled)
			return;
		if (n <= 0) {
			input_ended(h);
			return;
		}
		pthread_mutex_lock(h->lock);
		/* What no longer fits, if the guest has taken room away, is an overrun. */
		h->guest.input(h->guest.arg, buf, (size_t)n);
		pthread_mutex_unlock(h->lock);
	}
}

void serial_host_resume(struct serial_host *h)
{
	if (!h->paused)
		return;
	h->paused = false;
	loop_post(h->loop, &h->resume_work, resume);
}

static void in_ready(struct loop_source *src, uint32_t events)
{
	struct serial_host *h = container_of(src, struct serial_host, in_src);

	if (events & EPOLLOUT)
		output_writable(h);
	if (events & (EPOLLHUP | EPOLLERR)) {
		bool gone;

		/* What was sent before the hang-up is still there to be read. */
		pthread_mutex_lock(h->lock);
		loop_del(src);
		h->in_polled = false;
		gone = !h->reading;
		if (gone && h->mode == SERIAL_SOCKET)
			close_client(h);
		pthread_mutex_unlock(h->lock);
		if (gone)
			return;
	}
	pump_input(h);
}

/* ---- socket ---- */

static bool client_alive(const struct serial_host *h)
{
	struct pollfd pfd = { .fd = h->end.in_fd, .events = POLLRDHUP };

	return h->end.in_fd >= 0 && h->reading && h->in_polled && poll(&pfd, 1, 0) == 0;
}

static void client_arrives(struct acceptor *acceptor)
{
	struct serial_host *h = container_of(acceptor, struct serial_host, acceptor);
	int fd =
		char_end_accept(&h->end, acceptor, client_alive(h), "serial port", &h->error_limit);

	if (fd < 0)
		return;
	pthread_mutex_lock(h->lock);
	close_client(h);
	char_end_client(&h->end, fd);
	h->reading = h->in_polled = true;
	if (loop_add(h->loop, &h->in_src, h->end.in_fd, EPOLLIN, in_ready))
		close_client(h);
	else
		serial_host_flush(h);
	pthread_mutex_unlock(h->lock);
}

static int watch_socket(struct serial_host *h)
{
	h->duplex = true;
	return acceptor_start(&h->acceptor, h->loop, h->end.listen_fd, client_arrives);
}

/* ---- pty, file, terminal ---- */

static int watch_pty(struct serial_host *h)
{
	h->duplex = h->reading = h->in_polled = true;
	log_info("serial port: at %s", h->end.path);
	return loop_add(h->loop, &h->in_src, h->end.in_fd, EPOLLIN, in_ready);
}

/* What epoll cannot watch does not block either. */
static void watch_out(struct serial_host *h)
{
	if (h->end.out != CHAR_OUT_NONE)
		loop_add(h->loop, &h->out_src, h->end.out_fd, 0, out_ready);
}

static int watch_file(struct serial_host *h)
{
	watch_out(h);
	return 0;
}

static int watch_tty(struct serial_host *h)
{
	watch_out(h);
	if (h->end.in_fd < 0) {
		log_info("serial port: runs in the background: the terminal's input is not read");
		return 0;
	}
	h->reading = h->in_polled = true;
	watch_input(h);
	if (!h->in_polled)
		loop_post(h->loop, &h->resume_work, resume);
	return 0;
}

/* ---- life ---- */

static int open_end(struct serial_host *h, const char *path, struct err *err)
{
	switch (h->mode) {
	case SERIAL_TTY:
		return char_end_tty(&h->end, err);
	case SERIAL_PTY:
		return char_end_pty(&h->end, err);
	case SERIAL_FILE:
		return char_end_file(&h->end, path, O_TRUNC, err);
	case SERIAL_SOCKET:
		return char_end_listen(&h->end, path, err);
	default:
		return 0;
	}
}

static int watch_end(struct serial_host *h)
{
	switch (h->mode) {
	case SERIAL_TTY:
		return watch_tty(h);
	case SERIAL_PTY:
		return watch_pty(h);
	case SERIAL_FILE:
		return watch_file(h);
	case SERIAL_SOCKET:
		return watch_socket(h);
	default:
		return 0;
	}
}

int serial_host_new(struct loop *loop, enum serial_mode mode, const char *path,
	pthread_mutex_t *lock, const struct serial_host_guest *guest, struct serial_host **out,
	struct err *err)
{
	struct serial_host *h = calloc(1, sizeof(*h));
	int rc = 0;

	if (!h)
		return err_set(err, -ENOMEM, "serial port: out of memory");
	h->loop = loop;
	h->mode = mode;
	h->lock = lock;
	h->guest = *guest;
	char_end_init(&h->end);
	if (mode != SERIAL_NULL)
		h->ring.bytes = malloc(CHAR_RING_SIZE);
	if (mode != SERIAL_NULL && !h->ring.bytes)
		rc = err_set(err, -ENOMEM, "serial port: out of memory");
	if (!rc) {
		rc = open_end(h, path, err);
		if (rc)
			err_prefix(err, rc, "serial port");
	}
	if (!rc && watch_end(h))
		rc = err_set(err, -ENOMEM, "serial port: its end cannot be watched");
	if (rc) {
		serial_host_free(h);
		return rc;
	}
	*out = h;
	return 0;
}

void serial_host_free(struct serial_host *h)
{
	if (!h)
		return;
	pthread_mutex_lock(h->lock);
	char_end_drain(&h->end, h->mode == SERIAL_PTY, flush_rest, h);
	loop_del(&h->in_src);
	loop_del(&h->out_src);
	acceptor_stop(&h->acceptor);
	loop_timer_del(&h->flush_timer);
	loop_unpost(h->loop, &h->flush_work);
	loop_unpost(h->loop, &h->resume_work);
	pthread_mutex_unlock(h->lock);
	char_end_fini(&h->end);
	free(h->ring.bytes);
	free(h);
}

const char *serial_host_pty_path(const struct serial_host *h)
{
	return h->mode == SERIAL_PTY ? h->end.path : NULL;
}
