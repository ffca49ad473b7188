/*
 * vfio_user_chan.c - the messages of one vfio-user socket
 *
 * Trusts: nothing that arrives; see vfio_user_check_header().
 */
#include "attach/vfio_user_chan.h"

#include <errno.h>
#include <string.h>

static uint32_t message_size(const void *header)
{
	struct vfio_user_header h;

	memcpy(&h, header, sizeof(h));
	return h.size;
}

const struct vu_framing vfio_user_framing = { sizeof(struct vfio_user_header), message_size };

int vu_chan_next(struct vu_chan *ch, struct vu_msg *msg, struct err *err)
{
	const void *header = vu_chan_header(ch);
	int rc;

	if (!header)
		return 0;
	memcpy(&msg->h, header, sizeof(msg->h));
	rc = vfio_user_check_header(&msg->h, VFIO_USER_CLIENT, err);
	msg->refused =
		rc == -EPROTO && (msg->h.flags & VFIO_USER_FLAG_TYPE) == VFIO_USER_TYPE_COMMAND;
	if (rc && !msg->refused)
		return rc;
	if (rc)
		err_clear(err);
	if (!vu_chan_whole(ch))
		return 0;
	msg->payload = (const uint8_t *)header + sizeof(msg->h);
	msg->len = msg->h.size - (uint32_t)sizeof(msg->h);
	msg->fds = vu_chan_fds(ch);
	return 1;
}
