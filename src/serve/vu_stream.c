#include "serve/vu_stream.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/util.h"

/* A largest message, and room behind it so that a read is worth its system call. */
#define SLACK ((size_t)64 << 10)
/* What may pile up behind a message that is being worked on and waits for a reply of the peer. */
#define RESERVE ((size_t)256 << 10)
#define RX_ROOM (VFIO_USER_MAX_MSG + 2 * SLACK + RESERVE)
#define TX_ROOM (VFIO_USER_MAX_MSG + SLACK)

int vu_stream_init(struct vu_stream *s, int fd, enum vfio_user_end end)
{
	*s = (struct vu_stream){ .fd = fd, .end = end };
	/* Untouched pages cost nothing: a client of small messages uses a few of them. */
	s->rx = malloc(RX_ROOM);
	s->tx = malloc(TX_ROOM);
	if (s->rx && s->tx)
		return 0;
	fd_close(&s->fd);
	free(s->rx);
	free(s->tx);
	s->rx = s->tx = NULL;
	return -ENOMEM;
}

void vu_stream_fini(struct vu_stream *s)
{
	if (!s->rx && !s->tx)
		return;
	fd_close(&s->fd);
	fd_list_close(&s->fds);
	free(s->rx);
	free(s->tx);
	*s = (struct vu_stream){ .fd = -1 };
}

/* In */

static void compact(struct vu_stream *s)
{
	if (!s->rx_start)
		return;
	memmove(s->rx, s->rx + s->rx_start, s->rx_end - s->rx_start);
	s->rx_base += s->rx_start;
	s->rx_end -= s->rx_start;
	s->rx_start = 0;
}

static ssize_t fill(struct vu_stream *s, size_t limit)
{
	int had = s->fds.nr;
	ssize_t n;

	if (s->rx_end >= limit)
		return -ENOBUFS;
	n = sock_recv(s->fd, s->rx + s->rx_end, limit - s->rx_end, &s->fds);
	/* A read ends where the room does, behind descriptors, or where there is nothing more. */
	s->more = s->fds.nr > had || n == (ssize_t)(limit - s->rx_end);
	if (n <= 0)
		return n;
	s->rx_end += (size_t)n;
	if (s->fds.nr > had) {
		/*
		 * At the limit some may have been dropped, and which message lost them is not
		 * known.
		 */
		if ((had && s->fds.nr == SOCK_MAX_FDS) || s->nr_marks == VU_STREAM_MARKS)
			return -EMFILE;
		s->marks[s->nr_marks].pos = s->rx_base + s->rx_end - 1;
		s->marks[s->nr_marks++].nr = s->fds.nr - had;
	}
	return n;
}

ssize_t vu_stream_fill(struct vu_stream *s)
{
	if (s->rx_start == s->rx_end || RX_ROOM - RESERVE - s->rx_end < SLACK)
		compact(s);
	return fill(s, RX_ROOM - RESERVE);
}

ssize_t vu_stream_fill_behind(struct vu_stream *s)
{
	return fill(s, RX_ROOM);
}

/* The message that starts at rx[at]. */
static int look(struct vu_stream *s, size_t at, struct vu_msg *msg, struct err *err)
{
	size_t have = s->rx_end - at;
	int rc;

	if (have < sizeof(msg->h))
		return -EAGAIN;
	memcpy(&msg->h, s->rx + at, sizeof(msg->h));
	rc = vfio_user_check_header(&msg->h, s->end, err);
	if (rc == -EINVAL)
		return rc;
	if (have < msg->h.size)
		return -EAGAIN;
	msg->refused = rc != 0;
	msg->at = at;
	msg->payload = s->rx + at + sizeof(msg->h);
	msg->len = msg->h.size - sizeof(msg->h);
	msg->fds = s->fds.fds;
	msg->nr_fds = 0;
	return 0;
}

int vu_stream_next(struct vu_stream *s, struct vu_msg *msg, struct err *err)
{
	int rc = look(s, s->rx_start, msg, err);
	uint64_t end;

	if (rc) {
		/* An incomplete message is looked at again, and says the same then. */
		if (rc == -EAGAIN && err)
			err->text[0] = 0;
		return rc;
	}
	end = s->rx_base + s->rx_start + msg->h.size;
	for (int i = 0; i < s->nr_marks && s->marks[i].pos < end; i++)
		msg->nr_fds += s->marks[i].nr;
	return 0;
}

/* Close what is left of the first nr descriptors and drop them from the list. */
static void drop_fds(struct vu_stream *s, int nr)
{
	int marks = 0;

	if (!nr)
		return;
	for (int i = 0; i < nr; i++)
		fd_close(&s->fds.fds[i]);
	s->fds.nr -= nr;
	memmove(s->fds.fds, s->fds.fds + nr, (size_t)s->fds.nr * sizeof(int));
	while (nr)
		nr -= s->marks[marks++].nr;
	s->nr_marks -= marks;
	memmove(s->marks, s->marks + marks, (size_t)s->nr_marks * sizeof(s->marks[0]));
}

void vu_stream_done(struct vu_stream *s, struct vu_msg *msg)
{
	drop_fds(s, msg->nr_fds);
	s->rx_start += msg->h.size;
}

/* True if a descriptor came with the bytes from rx[at] on. */
static bool has_fds(const struct vu_stream *s, size_t at, size_t len)
{
	uint64_t start = s->rx_base + at;

	for (int i = 0; i < s->nr_marks; i++)
		if (s->marks[i].pos >= start && s->marks[i].pos - start < len)
			return true;
	return false;
}

static void reverse(uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len / 2; i++) {
		uint8_t t = p[i];

		p[i] = p[len - 1 - i];
		p[len - 1 - i] = t;
	}
}

/*
 * Move the message at rx[at] behind all others, out of the stream: the bytes stay in the buffer
 * until the next read overwrites them.
 */
static void cut_out(struct vu_stream *s, struct vu_msg *msg)
{
	size_t size = msg->h.size, behind = s->rx_end - (msg->at + size);
	uint64_t pos = s->rx_base + msg->at;

	for (int i = 0; i < s->nr_marks; i++)
		if (s->marks[i].pos >= pos)
			s->marks[i].pos -= size;
	/* Rotate in place: what lies behind is rarely more than a posted write or two. */
	reverse(s->rx + msg->at, size);
	reverse(s->rx + msg->at + size, behind);
	reverse(s->rx + msg->at, size + behind);
	s->rx_end -= size;
	msg->at = s->rx_end;
	msg->payload = s->rx + s->rx_end + sizeof(msg->h);
}

int vu_stream_find_reply(struct vu_stream *s, const struct vu_msg *current, uint16_t id,
	uint16_t command, struct vu_msg *reply, struct err *err)
{
	size_t at = current ? current->at + current->h.size : s->rx_start;
	int rc;

	for (;;) {
		struct err why = { 0 };

		rc = look(s, at, reply, &why);
		if (rc == -EINVAL)
			return err_set(err, rc, "%s", why.text);
		if (rc == -EAGAIN)
			return rc;
		if ((reply->h.flags & VFIO_USER_FLAG_TYPE) == VFIO_USER_TYPE_REPLY)
			break;
		at += reply->h.size;
	}
	if (reply->refused || reply->h.id != id || reply->h.command != command ||
		has_fds(s, at, reply->h.size))
		return err_set(err, -EINVAL, "a reply (%s, id %u) that does not fit the command %s",
			vfio_user_command_name(reply->h.command), reply->h.id,
			vfio_user_command_name(command));
	cut_out(s, reply);
	return 0;
}

/* Out */

void *vu_stream_reserve(struct vu_stream *s, size_t len)
{
	if (s->tx_start == s->tx_end)
		s->tx_start = s->tx_end = 0;
	return len <= TX_ROOM - s->tx_end ? s->tx + s->tx_end : NULL;
}

void vu_stream_commit(struct vu_stream *s, size_t len)
{
	assert(len <= TX_ROOM - s->tx_end);
	s->tx_end += len;
}

void vu_stream_attach_fds(struct vu_stream *s, int *fds, int nr)
{
	assert(!vu_stream_pending(s) && !s->nr_tx_fds);
	s->tx_fds = fds;
	s->nr_tx_fds = nr;
}

int vu_stream_flush(struct vu_stream *s)
{
	while (vu_stream_pending(s)) {
		struct iovec iov = { s->tx + s->tx_start, s->tx_end - s->tx_start };
		ssize_t n = sock_send(s->fd, &iov, 1, s->tx_fds, s->nr_tx_fds);

		if (n < 0)
			return (int)n;
		s->nr_tx_fds = 0;
		s->tx_start += (size_t)n;
	}
	return 0;
}
