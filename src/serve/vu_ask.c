/*
 * vu_ask.c - memory that the client did not share: DMA_READ and DMA_WRITE
 *
 * The only place where the server waits for its client, with a deadline, because a
 * model's access to memory is a function call. On the twin socket nothing else travels. Without one
 * the client's commands may come before its reply: they stay in the stream, unhandled, until the
 * command under way is done; so there the pieces are small, and a client that sends
 * more than the stream holds meanwhile is dropped.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include "base/clock.h"
#include "base/util.h"
#include "serve/vu_port.h"

/* One piece on the main socket; with the reserve of the stream it leaves room for commands. */
#define MAIN_PIECE (64u << 10)

/* Wait for events on the socket, or doom the client. 0 or -EIO. */
static int wait_for(
	struct vfio_user_port *p, struct vu_stream *s, short events, uint64_t deadline_ns)
{
	for (;;) {
		struct pollfd pfd = { .fd = s->fd, .events = events };
		int n = poll(&pfd, 1, clock_ms_until(deadline_ns));

		if (n > 0)
			return 0;
		if (n == 0) {
			vu_doom(p, "does not answer our DMA commands");
			return -EIO;
		}
		if (errno != EINTR) {
			vu_doom(p, "poll: %s", strerror(errno));
			return -EIO;
		}
	}
}

static int receive(struct vfio_user_port *p, struct vu_stream *s)
{
	ssize_t n = vu_stream_fill_behind(s);

	if (n > 0 || n == -EAGAIN)
		return 0;
	vu_doom(p, "cannot receive its answer to a DMA command: %s",
		n ? strerror((int)-n) : "it has left");
	return -EIO;
}

/*
 * The socket is full: take in what the client has to say until it reads, so that neither waits for
 * the other.
 */
static int make_way(struct vfio_user_port *p, struct vu_stream *s, uint64_t deadline_ns)
{
	int rc = wait_for(p, s, POLLIN | POLLOUT, deadline_ns);

	return rc ? rc : receive(p, s);
}

/* Replies that were finished before the command under way go first. */
static int send_replies(struct vfio_user_port *p, uint64_t deadline_ns)
{
	int rc;

	while ((rc = vu_stream_flush(&p->main)) == -EAGAIN) {
		rc = make_way(p, &p->main, deadline_ns);
		if (rc)
			return rc;
	}
	if (rc)
		vu_doom(p, "cannot send: %s", strerror(-rc));
	return rc ? -EIO : 0;
}

/*
 * Straight from the caller's memory: the stream's send buffer may hold the reply under
 * way, half finished.
 */
static int send_all(struct vfio_user_port *p, struct vu_stream *s, struct iovec *iov, int nr,
	uint64_t deadline_ns)
{
	while (nr) {
		ssize_t n = sock_send(s->fd, iov, nr, NULL, 0);

		if (n == -EAGAIN) {
			int rc = make_way(p, s, deadline_ns);

			if (rc)
				return rc;
			continue;
		}
		if (n < 0) {
			vu_doom(p, "cannot send: %s", strerror((int)-n));
			return -EIO;
		}
		for (; nr && (size_t)n >= iov->iov_len; iov++, nr--)
			n -= (ssize_t)iov->iov_len;
		if (nr) {
			iov->iov_base = (uint8_t *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

static int await_reply(struct vfio_user_port *p, struct vu_stream *s, uint16_t id, uint16_t command,
	struct vu_msg *reply, uint64_t deadline_ns)
{
	const struct vu_msg *current = s == &p->main ? p->current : NULL;
	struct err err = { 0 };
	int rc;

	while ((rc = vu_stream_find_reply(s, current, id, command, reply, &err)) == -EAGAIN) {
		rc = wait_for(p, s, POLLIN, deadline_ns);
		if (!rc)
			rc = receive(p, s);
		if (rc)
			return rc;
	}
	if (rc)
		vu_doom(p, "%s", err.text);
	return rc ? -EIO : 0;
}

static int send_command(struct vfio_user_port *p, struct vu_stream *s, bool write, uint64_t iova,
	void *buf, size_t len, uint64_t deadline_ns)
{
	struct vfio_user_dma_access a = { .addr = iova, .count = len };
	struct vfio_user_header h = {
		.id = ++p->next_id,
		.command = write ? VFIO_USER_DMA_WRITE : VFIO_USER_DMA_READ,
		.size = (uint32_t)(sizeof(h) + sizeof(a) + (write ? len : 0)),
		.flags = VFIO_USER_TYPE_COMMAND,
	};
	struct iovec iov[] = { { &h, sizeof(h) }, { &a, sizeof(a) }, { buf, len } };
	int rc = s == &p->main ? send_replies(p, deadline_ns) : 0;

	return rc ? rc : send_all(p, s, iov, write ? 3 : 2, deadline_ns);
}

/* What the client answered: its count, and for a read the data. */
static int take_reply(struct vfio_user_port *p, const struct vu_msg *reply, bool write,
	uint64_t iova, void *buf, size_t len)
{
	struct vfio_user_dma_access a = { 0 };

	if (reply->h.flags & VFIO_USER_FLAG_ERROR)
		return -EIO;
	/*
	 * The count of a DMA_WRITE may be 4 bytes long; on this machine the rest are zeros above
	 * it.
	 */
	memcpy(&a, reply->payload, MIN(reply->len, sizeof(a)));
	if (a.addr != iova || a.count != len || (!write && reply->len - sizeof(a) != len)) {
		vu_doom(p, "%s of 0x%" PRIx64 "+0x%zx answered with 0x%" PRIx64 "+0x%" PRIx64,
			vfio_user_command_name(reply->h.command), iova, len, a.addr, a.count);
		return -EIO;
	}
	if (!write)
		memcpy(buf, reply->payload + sizeof(a), len);
	return 0;
}

static int ask_piece(struct vfio_user_port *p, bool write, uint64_t iova, void *buf, size_t len)
{
	struct vu_stream *s = p->twin.rx ? &p->twin : &p->main;
	uint64_t deadline_ns = clock_now_ns() + p->config.patience_ms * NS_PER_MS;
	struct vu_msg reply;
	int rc;

	rc = send_command(p, s, write, iova, buf, len, deadline_ns);
	if (!rc)
		rc = await_reply(p, s, p->next_id, write ? VFIO_USER_DMA_WRITE : VFIO_USER_DMA_READ,
			&reply, deadline_ns);
	if (!rc)
		rc = take_reply(p, &reply, write, iova, buf, len);
	return rc;
}

int vu_ask(void *arg, bool write, uint64_t iova, void *buf, size_t len)
{
	struct vfio_user_port *p = arg;
	size_t most = p->twin.rx ? VFIO_USER_MAX_DATA : MAIN_PIECE;
	uint8_t *at = buf;
	int rc = 0;

	if (!p->negotiated)
		return -EIO;
	most = (size_t)MIN(p->peer.max_data_xfer_size, (uint64_t)most);
	while (len && !rc && !p->doomed) {
		size_t n = MIN(len, most);

		rc = ask_piece(p, write, iova, at, n);
		at += n;
		iova += n;
		len -= n;
	}
	/* Called from a model's own event: nobody works off what came meanwhile, or the end. */
	if (!p->current)
		vu_run_soon(p);
	return p->doomed ? -EIO : rc;
}
