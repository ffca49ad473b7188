/*
 * vfio_user_chan.h - a channel (vu_chan.h) that carries vfio-user messages
 *
 * Threads: none of its own; the caller's lock guards a channel.
 */
#ifndef ATTACH_VFIO_USER_CHAN_H
#define ATTACH_VFIO_USER_CHAN_H

#include "attach/vu_chan.h"
#include "base/err.h"
#include "wire/vfio_user.h"

extern const struct vu_framing vfio_user_framing;

/* Queued output beyond which no more commands of the server are read: two of the largest replies.
 */
#define VU_CHAN_OUT_MAX (2u * VFIO_USER_MAX_MSG)

/* One message in the channel's buffer, valid until vu_chan_done(). */
struct vu_msg {
	struct vfio_user_header h;
	const uint8_t *payload;
	uint32_t len;
	struct fd_list *fds; /* NULL: none. What is not taken out is closed by vu_chan_done() */
	bool refused;	     /* a command that is not well-formed: answer with an error */
};

/*
 * The next complete message. 1: *msg is filled; 0: not yet; -EINVAL or -EPROTO with a text: the
 * stream makes no sense any more.
 */
int vu_chan_next(struct vu_chan *ch, struct vu_msg *msg, struct err *err);

static inline bool vu_chan_out_full(const struct vu_chan *ch)
{
	return ch->out_bytes > VU_CHAN_OUT_MAX;
}

#endif
