/*
 * fuzz_server.h - a peer over a UNIX socket that answers as the input says
 *
 * For targets that are clients of such a peer. It runs in a thread, serves one connection after the
 * other, and hangs up when the input is used up. What a well-meaning one would answer is the
 * target's; how answers are spoilt is here. A control byte before each:
 *
 *   bits 0-1   0 a good answer
 *              1 a good one with bytes changed: a count, then position (2) and value each
 *              2 a good header and a payload from the input: its length (2) and bytes
 *              3 bytes as they are: length (2) and bytes
 *   bits 2-3   that many descriptors with it: a file, an eventfd, a socket
 *   bit 4      something of the peer's own goes before it
 */
#ifndef FUZZ_FUZZ_SERVER_H
#define FUZZ_FUZZ_SERVER_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/loop.h"
#include "base/sock.h"
#include "fuzz.h"

#define SERVE_MS 2000 /* for a client that does not read or finish a message: a fault of its */

#define ANSWER_GOOD	  0
#define ANSWER_CHANGED	  1
#define ANSWER_PAYLOAD	  2
#define ANSWER_BYTES	  3
#define ANSWER_KIND(c)	  ((c) & 3)
#define ANSWER_FDS(c)	  ((c) >> 2 & 3)
#define ANSWER_OWN_BEFORE 0x10

static struct server {
	int listen_fd;
	char path[64];
	int fds[3]; /* one of each kind to send along */
	struct input in;
	/* Take in one message of the client's and answer it. False: hang up. */
	bool (*serve_one)(int fd);
	void (*hung_up)(void); /* may be NULL */
	pthread_t thread;
	int wake;
} server;

/* As many bytes as the input says, of which at most `most` are there. */
static inline uint32_t take_copy(struct input *in, uint32_t said, void *to, uint32_t most)
{
	size_t len = MIN(said, most);
	const uint8_t *bytes = take_bytes(in, &len);

	memcpy(to, bytes, len);
	return (uint32_t)len;
}

/* ANSWER_CHANGED: len is not 0. */
static inline void change_bytes(struct input *in, uint8_t *message, uint32_t len)
{
	for (unsigned n = take8(in) & 7; n; n--) {
		uint32_t pos = take16(in);

		message[pos % len] = take8(in);
	}
}

static inline void send_message(int fd, const void *message, size_t len, int nr_fds)
{
	const char *at = message;

	while (len) {
		struct iovec iov = { (void *)at, len };
		struct pollfd p = { .fd = fd, .events = POLLOUT };
		ssize_t n = sock_send(fd, &iov, 1, server.fds, nr_fds);

		if (n == -EAGAIN && poll(&p, 1, SERVE_MS) == 1)
			continue;
		if (n <= 0)
			return;
		at += n;
		len -= (size_t)n;
		nr_fds = 0;
	}
}

/* fds NULL: what comes along is closed. False: the client has gone, or the target is done. */
static inline bool recv_all(int fd, void *buf, size_t len, struct fd_list *fds)
{
	char *at = buf;

	while (len) {
		struct pollfd p[2] = { { .fd = fd, .events = POLLIN },
			{ .fd = server.wake, .events = POLLIN } };
		ssize_t n = sock_recv(fd, at, len, fds);

		if (n == -EAGAIN) {
			if (poll(p, 2, SERVE_MS) < 1 || p[1].revents)
				return false;
			continue;
		}
		if (n <= 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

static inline void *server_thread(void *arg)
{
	for (;;) {
		struct pollfd p[2] = { { .fd = server.listen_fd, .events = POLLIN },
			{ .fd = server.wake, .events = POLLIN } };
		FD_AUTO fd = -1;

		if (poll(p, 2, -1) < 1 || p[1].revents)
			return NULL;
		fd = accept4(server.listen_fd, NULL, NULL, SOCK_CLOEXEC);
		while (fd >= 0 && server.serve_one(fd))
			;
		if (server.hung_up)
			server.hung_up();
	}
}

/* Once. name: of the protocol, for the socket. */
static inline void server_init(const char *name, bool (*serve_one)(int fd))
{
	struct err err = { 0 };
	int pair[2];

	snprintf(server.path, sizeof(server.path), "/tmp/fuzz-%s-%d", name, (int)getpid());
	server.serve_one = serve_one;
	server.listen_fd = sock_listen(server.path, 64, &err);
	server.fds[0] = memfd_create("area", MFD_CLOEXEC);
	server.fds[1] = fd_eventfd();
	require(server.listen_fd >= 0 && !ftruncate(server.fds[0], 0x2000) && !sock_pair(pair));
	server.fds[2] = pair[0];
}

/* For one run: it answers with what is in `answers`. */
static inline void server_begin(struct input answers)
{
	server.in = answers;
	server.wake = fd_eventfd();
	require(server.wake >= 0 && !pthread_create(&server.thread, NULL, server_thread, NULL));
}

/* The client has gone. */
static inline void server_end(void)
{
	fd_signal(server.wake);
	pthread_join(server.thread, NULL);
	/* Connections that were not accepted yet */
	for (int fd; (fd = accept4(server.listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0;)
		close(fd);
	fd_close(&server.wake);
}

/* The client's side */

struct run {
	struct loop_timer timer;
	struct loop *loop;
};

static inline void run_is_over(struct loop_timer *timer)
{
	loop_quit(container_of(timer, struct run, timer)->loop, 0);
}

static inline void run_for(struct loop *loop, uint32_t ms)
{
	struct run run = { .loop = loop };

	loop_timer_set(loop, &run.timer, clock_now_ns() + ms * NS_PER_MS, run_is_over);
	loop_run(loop);
	loop_timer_del(&run.timer);
}

#endif
