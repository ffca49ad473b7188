/*
 * vu_stream.h - whole vfio-user messages over one socket, without ever waiting
 *
 * In: one recvmsg takes whatever is there, a header with its payload and as many
 * pipelined messages as fit. Descriptors belong to the message that holds the last byte of
 * the read they came with (base/sock.h); they are kept by stream position, so that they
 * stay with their message however the bytes were cut.
 *
 * Out: replies are put together in a buffer and leave with one sendmsg; what the socket does not
 * take stays for the next flush. The buffer holds one largest message beside small ones: the
 * owner stops taking messages in while something is left in it.
 *
 * Trusts: nothing. A peer can make us hold one incomplete message and SOCK_MAX_FDS descriptors.
 */
#ifndef SERVE_VU_STREAM_H
#define SERVE_VU_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/sock.h"
#include "wire/vfio_user.h"

#define VU_STREAM_MARKS 32

struct vu_stream {
	int fd;
	enum vfio_user_end end; /* which end we are */

	uint8_t *rx;
	size_t rx_start, rx_end; /* received and not yet taken */
	uint64_t rx_base;	 /* stream position of rx[0] */
	bool more;		 /* the last read may have left something in the socket */
	struct fd_list fds;
	struct {
		uint64_t pos; /* stream position of the last byte they came with */
		int nr;
	} marks[VU_STREAM_MARKS];
	int nr_marks;

	uint8_t *tx;
	size_t tx_start, tx_end; /* written and not yet sent */
	int *tx_fds;		 /* to go with the byte at tx_start; borrowed */
	int nr_tx_fds;
};

/* A message as it lies in the receive buffer, good until vu_stream_done(). */
struct vu_msg {
	struct vfio_user_header h;
	const uint8_t *payload; /* not aligned */
	size_t len;
	int *fds; /* the message's; what is not taken with fd_take() is closed by vu_stream_done()
		   */
	int nr_fds;
	bool refused; /* the header is sound but breaks a rule; the text says which */
	size_t at;    /* where it starts in the buffer */
};

/* Takes fd, also on failure. 0 or -ENOMEM. */
int vu_stream_init(struct vu_stream *s, int fd, enum vfio_user_end end);
/* Close the socket and everything that came over it. A zeroed or finished stream is fine. */
void vu_stream_fini(struct vu_stream *s);

/*
 * Receive once. The number of bytes; 0 at the end of the stream; -EAGAIN: nothing there;
 * -EMFILE: more descriptors than any message may have; or what recvmsg said.
 */
ssize_t vu_stream_fill(struct vu_stream *s);
/*
 * The same while a message is being worked on: nothing in the buffer moves, so there is an end
 * to it: -ENOBUFS.
 */
ssize_t vu_stream_fill_behind(struct vu_stream *s);

/*
 * The message at the front of the buffer. 0; -EAGAIN: it is not complete; -EINVAL with a text: the
 * stream has lost its frame and can only be closed.
 */
int vu_stream_next(struct vu_stream *s, struct vu_msg *msg, struct err *err);
/* Remove the message and close what is left of its descriptors. */
void vu_stream_done(struct vu_stream *s, struct vu_msg *msg);

/*
 * While a message is being worked on: look behind it for the reply to a command of ours, and
 * take it out of the stream. 0 and *reply, whose payload is good until the next call of any
 * vu_stream function; -EAGAIN: not there yet; -EINVAL as above. `current` may be NULL.
 */
int vu_stream_find_reply(struct vu_stream *s, const struct vu_msg *current, uint16_t id,
	uint16_t command, struct vu_msg *reply, struct err *err);

/* Room for len bytes at the end of the send buffer (len at most VFIO_USER_MAX_MSG), or NULL. */
void *vu_stream_reserve(struct vu_stream *s, size_t len);
/* The first len of the reserved bytes are a message, or a part of one. */
void vu_stream_commit(struct vu_stream *s, size_t len);
/*
 * Let descriptors go with the next byte. The buffer must be empty; fds is borrowed until it is
 * again.
 */
void vu_stream_attach_fds(struct vu_stream *s, int *fds, int nr);

/* True while there is something to send. */
static inline bool vu_stream_pending(const struct vu_stream *s)
{
	return s->tx_start != s->tx_end;
}

/* Send what the socket takes. 0: all gone; -EAGAIN: a rest is left; or what sendmsg said. */
int vu_stream_flush(struct vu_stream *s);

#endif
