/*
 * vfio_user_chan.h - one socket that carries vfio-user messages: bytes in, messages out, and back
 *
 * Neither direction ever waits: what the socket does not take now is queued, what has not arrived
 * is "not yet". Whoever uses a channel waits, with a deadline, in poll() or in the loop.
 *
 * Threads: none of its own; the caller's lock guards a channel.
 */
#ifndef ATTACH_VFIO_USER_CHAN_H
#define ATTACH_VFIO_USER_CHAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/sock.h"
#include "wire/vfio_user.h"

/* Queued output beyond which no more commands of the server are read: two of the largest replies.
 */
#define VU_CHAN_OUT_MAX (2u * VFIO_USER_MAX_MSG)

struct vu_chan_out;

struct vu_chan {
	int fd;

	uint8_t *buf;
	uint32_t size, head, tail; /* bytes [head, tail) of buf wait to be understood */
	struct fd_list fds;	   /* came with the message that ends at or after fds_end ... */
	uint32_t fds_end;	   /* ... which is a position in buf */

	struct vu_chan_out *out, **out_last;
	size_t out_bytes;
};

/* One message in the channel's buffer, valid until vu_chan_done(). */
struct vu_msg {
	struct vfio_user_header h;
	const uint8_t *payload;
	uint32_t len;
	struct fd_list *fds; /* NULL: none. What is not taken out is closed by vu_chan_done() */
	bool refused;	     /* a command that is not well-formed: answer with an error */
};

/* Takes fd. */
void vu_chan_init(struct vu_chan *ch, int fd);
/* Close the socket and everything unread, drop everything unsent. An unused, zeroed channel is
 * fine. */
void vu_chan_fini(struct vu_chan *ch);

/*
 * Read once. The bytes read; 0: the peer closed; -EAGAIN: nothing there; -errno.
 * Call only after vu_chan_next() returned 0.
 */
ssize_t vu_chan_recv(struct vu_chan *ch);

/*
 * The next complete message. 1: *msg is filled; 0: not yet; -EINVAL or -EPROTO with a text: the
 * stream makes no sense any more.
 */
int vu_chan_next(struct vu_chan *ch, struct vu_msg *msg, struct err *err);
void vu_chan_done(struct vu_chan *ch);

/*
 * Send one message of one or two pieces, with fds (borrowed; they must stay open until sent).
 * queue: what the socket does not take now is kept and sent by vu_chan_flush(). Without: -EAGAIN
 * when it takes nothing; a message of which it took a part is queued all the same. 0 or -errno.
 */
int vu_chan_send(struct vu_chan *ch, const struct iovec *iov, int iovcnt, const int *fds,
	int nr_fds, bool queue);

/* Send what is queued. 0: all sent; -EAGAIN: some is left; -errno. */
int vu_chan_flush(struct vu_chan *ch);

static inline bool vu_chan_out_pending(const struct vu_chan *ch)
{
	return ch->out;
}

static inline bool vu_chan_out_full(const struct vu_chan *ch)
{
	return ch->out_bytes > VU_CHAN_OUT_MAX;
}

#endif
