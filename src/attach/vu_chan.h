/*
 * vu_chan.h - one socket that carries messages with descriptors: bytes in, messages out, and back
 *
 * What vfio-user and vhost-user have in common: a stream of messages, each a header that says how
 * long the message is, and descriptors that travel with it. Neither direction waits, but for
 * vu_chan_recv_wait(): what the socket does not take now is queued, what has not arrived is "not
 * yet". Whoever uses a channel waits, with a deadline, in poll() or in the loop.
 *
 * Reading goes: look at the header (vu_chan_header()), judge it, and when the message is
 * whole use it, then drop it (vu_chan_done()). A length counts only after the header was judged.
 *
 * Threads: none of its own; the caller's lock guards a channel.
 */
#ifndef ATTACH_VU_CHAN_H
#define ATTACH_VU_CHAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/sock.h"

/* What a protocol's messages look like. */
struct vu_framing {
	uint32_t header_size;
	/* Bytes of the whole message, from a header that its reader has found to be well-formed. */
	uint32_t (*message_size)(const void *header);
};

struct vu_chan_out;

struct vu_chan {
	int fd;
	const struct vu_framing *framing;

	uint8_t *buf;
	uint32_t size, head, tail; /* bytes [head, tail) of buf wait to be understood */
	struct fd_list fds;	   /* came with the message that ends at or after fds_end ... */
	uint32_t fds_end;	   /* ... which is a position in buf */

	struct vu_chan_out *out, **out_last;
	size_t out_bytes;
};

/* Takes fd; framing: borrowed. */
void vu_chan_init(struct vu_chan *ch, int fd, const struct vu_framing *framing);
/* Close the socket and everything unread, drop everything unsent. An unused, zeroed channel is
 * fine. */
void vu_chan_fini(struct vu_chan *ch);

/*
 * Read once. The bytes read; 0: the peer closed; -EAGAIN: nothing there; -errno.
 * Only when no whole message is buffered, and the header, if there is one, was judged.
 */
ssize_t vu_chan_recv(struct vu_chan *ch);
/*
 * The same, but wait for something to read, as long as sock_set_timeout() allowed: -EAGAIN when
 * nothing came, or when a signal did.
 */
ssize_t vu_chan_recv_wait(struct vu_chan *ch);

/* The next message's header, NULL: not all of it is here. Valid until vu_chan_recv(). */
const void *vu_chan_header(const struct vu_chan *ch);
/* Whether all of the message behind that header is here; it follows the header in memory. */
bool vu_chan_whole(const struct vu_chan *ch);
/* The descriptors of a whole message; NULL: none. What is not taken out, vu_chan_done() closes. */
struct fd_list *vu_chan_fds(struct vu_chan *ch);
/* Drop the message. */
void vu_chan_done(struct vu_chan *ch);

/*
 * Send one message in pieces, with fds (borrowed during the call).
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

#endif
