/*
 * vu_chan.c - the byte stream of one vfio-user or vhost-user socket
 *
 * Input is read into one buffer, as much as is there, so that a short message
 * costs one system call with header, payload and descriptors. The buffer grows
 * to the size that a judged header announces, and shrinks again afterwards.
 *
 * Descriptors: one read never joins what follows a message with descriptors to it, so those
 * of a read belong to the message that holds its last byte. While that message is not complete,
 * reads stop at its end; the next message's descriptors can not mix with them.
 *
 * A message that has to wait keeps duplicates of its descriptors: the sender's may be closed
 * meanwhile.
 *
 * Owns:   the socket, descriptors received and not taken, the buffers. Who closes a descriptor
 *         may be held up by it (base/fd_drop.h).
 * Trusts: nothing that arrives; a header's length counts when its reader has judged it.
 */
#include "attach/vu_chan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/fd_drop.h"
#include "base/util.h"

/* Holds any message of normal operation. */
#define BUF_SIZE 8192u

struct vu_chan_out {
	struct vu_chan_out *next;
	size_t len, sent;
	int nr_fds;
	int *fds; /* behind the bytes */
	uint8_t data[];
};

static void free_out(struct vu_chan_out *o)
{
	for (int i = 0; i < o->nr_fds; i++)
		fd_close(&o->fds[i]);
	free(o);
}

void vu_chan_init(struct vu_chan *ch, int fd, const struct vu_framing *framing)
{
	*ch = (struct vu_chan){ .fd = fd, .framing = framing };
	ch->out_last = &ch->out;
}

void vu_chan_fini(struct vu_chan *ch)
{
	struct vu_chan_out *next;

	if (!ch->out_last)
		return; /* never used: fd 0 is not ours */
	fd_close(&ch->fd);
	fd_drop_list(&ch->fds);
	free(ch->buf);
	for (struct vu_chan_out *o = ch->out; o; o = next) {
		next = o->next;
		free_out(o);
	}
	*ch = (struct vu_chan){ .fd = -1 };
}

/* --- input --- */

static uint32_t buffered(const struct vu_chan *ch)
{
	return ch->tail - ch->head;
}

/* Length of the message at head, as far as is known. */
static uint32_t message_size(const struct vu_chan *ch)
{
	const void *header = vu_chan_header(ch);

	return header ? ch->framing->message_size(header) : ch->framing->header_size;
}

/* Move what is buffered to the start, in a buffer of at least `need` bytes. */
static int make_room(struct vu_chan *ch, uint32_t need)
{
	uint32_t size = MAX(need, BUF_SIZE);
	uint8_t *buf = ch->buf;

	if (buf && need <= ch->size - ch->head)
		return 0;
	if (!buf || size > ch->size) {
		buf = malloc(size);
		if (!buf)
			return -ENOMEM;
		if (ch->buf)
			memcpy(buf, ch->buf + ch->head, buffered(ch));
		free(ch->buf);
		ch->buf = buf;
		ch->size = size;
	} else {
		memmove(buf, buf + ch->head, buffered(ch));
	}
	/* Wraps to a position before the buffer for descriptors of a message already done: none are
	 * left. */
	ch->fds_end -= ch->head;
	ch->tail -= ch->head;
	ch->head = 0;
	return 0;
}

typedef ssize_t (*recv_fn)(int sock, void *buf, size_t len, struct fd_list *list);

static ssize_t receive(struct vu_chan *ch, recv_fn recv)
{
	uint32_t need = message_size(ch), room;
	int rc = make_room(ch, need), had = ch->fds.nr;
	struct fd_list more;
	ssize_t n;

	if (rc)
		return rc;
	room = ch->size - ch->tail;
	if (had)
		room = MIN(room, need - buffered(ch));
	more.nr = 0;
	n = recv(ch->fd, ch->buf + ch->tail, room, &more);
	fd_list_move(&ch->fds, &more);
	if (n > 0)
		ch->tail += (uint32_t)n;
	if (ch->fds.nr > had)
		ch->fds_end = ch->tail;
	return n;
}

ssize_t vu_chan_recv(struct vu_chan *ch)
{
	return receive(ch, sock_recv);
}

ssize_t vu_chan_recv_wait(struct vu_chan *ch)
{
	ssize_t n = receive(ch, sock_recv_wait);

	return n == -EINTR ? -EAGAIN : n;
}

const void *vu_chan_header(const struct vu_chan *ch)
{
	return buffered(ch) < ch->framing->header_size ? NULL : ch->buf + ch->head;
}

bool vu_chan_whole(const struct vu_chan *ch)
{
	return buffered(ch) >= message_size(ch);
}

struct fd_list *vu_chan_fds(struct vu_chan *ch)
{
	return ch->fds.nr && ch->fds_end <= ch->head + message_size(ch) ? &ch->fds : NULL;
}

void vu_chan_done(struct vu_chan *ch)
{
	uint32_t end = ch->head + message_size(ch);

	if (ch->fds_end <= end)
		fd_drop_list(&ch->fds);
	ch->head = end;
	if (ch->head < ch->tail)
		return;
	ch->head = ch->tail = ch->fds_end = 0;
	if (ch->size > BUF_SIZE) {
		free(ch->buf);
		ch->buf = NULL;
		ch->size = 0;
	}
}

/* --- output --- */

/* Duplicates of fds into o. 0 or -errno, then none. */
static int keep_fds(struct vu_chan_out *o, const int *fds, int nr_fds)
{
	for (int i = 0; i < nr_fds; i++) {
		o->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
		if (o->fds[i] < 0)
			return -errno;
		o->nr_fds++;
	}
	return 0;
}

/* Keep a message whose first `sent` bytes are gone, and with them the descriptors. */
static int enqueue(struct vu_chan *ch, const struct iovec *iov, int iovcnt, const int *fds,
	int nr_fds, size_t sent)
{
	size_t len = 0, at = 0, fds_at;
	struct vu_chan_out *o;
	int rc;

	for (int i = 0; i < iovcnt; i++)
		len += iov[i].iov_len;
	fds_at = align_up(sizeof(*o) + len, sizeof(int));
	o = malloc(fds_at + (size_t)nr_fds * sizeof(int));
	if (!o)
		return -ENOMEM;
	*o = (struct vu_chan_out){ .len = len, .sent = sent };
	o->fds = (int *)((char *)o + fds_at);
	rc = keep_fds(o, fds, sent ? 0 : nr_fds);
	if (rc) {
		free_out(o);
		return rc;
	}
	for (int i = 0; i < iovcnt; i++) {
		memcpy(o->data + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	*ch->out_last = o;
	ch->out_last = &o->next;
	ch->out_bytes += len - sent;
	return 0;
}

int vu_chan_send(struct vu_chan *ch, const struct iovec *iov, int iovcnt, const int *fds,
	int nr_fds, bool queue)
{
	size_t len = 0;
	ssize_t n = -EAGAIN;

	for (int i = 0; i < iovcnt; i++)
		len += iov[i].iov_len;
	if (!ch->out)
		n = sock_send(ch->fd, iov, iovcnt, fds, nr_fds);
	if (n == (ssize_t)len)
		return 0;
	if (n < 0 && (n != -EAGAIN || !queue))
		return (int)n;
	return enqueue(ch, iov, iovcnt, fds, nr_fds, n < 0 ? 0 : (size_t)n);
}

int vu_chan_flush(struct vu_chan *ch)
{
	while (ch->out) {
		struct vu_chan_out *o = ch->out;
		struct iovec iov = { o->data + o->sent, o->len - o->sent };
		ssize_t n = sock_send(ch->fd, &iov, 1, o->fds, o->nr_fds);

		if (n < 0)
			return (int)n;
		while (o->nr_fds)
			fd_close(&o->fds[--o->nr_fds]);
		o->sent += (size_t)n;
		ch->out_bytes -= (size_t)n;
		if (o->sent < o->len)
			continue;
		ch->out = o->next;
		if (!ch->out)
			ch->out_last = &ch->out;
		free_out(o);
	}
	return 0;
}
