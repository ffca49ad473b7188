/*
 * vhost_user_stream.h - one vhost-user message at a time, in and out, without ever waiting
 *
 * In: header and payload are read with calls of their own, so whatever descriptors arrive
 * belong to the message that is being read. What the front-end has sent beyond it stays in the
 * socket, and with it what it can make us hold: one message and SOCK_MAX_FDS descriptors.
 *
 * Out: one reply. The owner takes no further message in until it has left.
 */
#ifndef SERVE_VHOST_USER_STREAM_H
#define SERVE_VHOST_USER_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/sock.h"
#include "wire/vhost_user.h"

struct vhu_stream {
	int fd;
	struct vhost_user_header header;
	union vhost_user_payload payload;
	size_t have; /* bytes of header and payload that are there */
	struct fd_list fds;

	struct vhost_user_msg out;
	size_t out_at, out_len;
	int out_fd; /* goes with the reply's first byte; ours */
};

/* Takes fd. */
void vhu_stream_init(struct vhu_stream *s, int fd);
/* Close the socket and everything that came over it or waits to leave. */
void vhu_stream_fini(struct vhu_stream *s);

/*
 * Read on. 1: header, payload and fds are a whole message, to be worked on until
 * vhu_stream_done(); 0: the front-end has left, between two messages; -EAGAIN: not whole yet;
 * -EINVAL with a text: the frame is lost; -EPIPE: it left in the middle of a message; or what
 * recvmsg said.
 */
int vhu_stream_recv(struct vhu_stream *s, struct err *err);
/* A message has begun to arrive and is not complete. */
static inline bool vhu_stream_partial(const struct vhu_stream *s)
{
	return s->have > 0;
}
/* Forget the message and close what is left of its descriptors. */
void vhu_stream_done(struct vhu_stream *s);

/* Put the reply to the current message into the buffer, which is empty. Takes fd (or -1). */
void vhu_stream_reply(struct vhu_stream *s, const void *payload, size_t len, int fd);
static inline bool vhu_stream_pending(const struct vhu_stream *s)
{
	return s->out_at < s->out_len;
}
/* Send what the socket takes. 0: all gone; -EAGAIN: a rest is left; or what sendmsg said. */
int vhu_stream_flush(struct vhu_stream *s);

#endif
