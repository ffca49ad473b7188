#include "serve/vhost_user_stream.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/fd.h"

void vhu_stream_init(struct vhu_stream *s, int fd)
{
	s->fd = fd;
	s->have = s->out_at = s->out_len = 0;
	s->fds.nr = 0;
	s->out_fd = -1;
}

void vhu_stream_fini(struct vhu_stream *s)
{
	fd_close(&s->fd);
	fd_list_close(&s->fds);
	fd_close(&s->out_fd);
	s->have = s->out_at = s->out_len = 0;
}

static int recv_to(struct vhu_stream *s, uint8_t *at, size_t want)
{
	ssize_t n = sock_recv(s->fd, at, want, &s->fds);

	if (n <= 0)
		return n || !s->have ? (int)n : -EPIPE;
	s->have += (size_t)n;
	return 1;
}

int vhu_stream_recv(struct vhu_stream *s, struct err *err)
{
	const size_t header = sizeof(s->header);
	int rc;

	while (s->have < header) {
		rc = recv_to(s, (uint8_t *)&s->header + s->have, header - s->have);
		if (rc <= 0)
			return rc;
	}
	/* The rule may refuse it later; here it is about where it ends. */
	rc = vhost_user_check_request(&s->header, vhost_user_rule(s->header.request), err);
	if (rc == -EINVAL)
		return rc;
	if (err)
		err->text[0] = 0;
	while (s->have < header + s->header.size) {
		size_t off = s->have - header;

		rc = recv_to(s, s->payload.bytes + off, s->header.size - off);
		if (rc <= 0)
			return rc;
	}
	return 1;
}

void vhu_stream_done(struct vhu_stream *s)
{
	fd_list_close(&s->fds);
	s->have = 0;
}

void vhu_stream_reply(struct vhu_stream *s, const void *payload, size_t len, int fd)
{
	assert(!vhu_stream_pending(s) && len <= sizeof(s->out.payload));
	s->out.header = (struct vhost_user_header){
		.request = s->header.request,
		.flags = VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY,
		.size = (uint32_t)len,
	};
	if (len)
		memcpy(&s->out.payload, payload, len);
	s->out_at = 0;
	s->out_len = sizeof(s->out.header) + len;
	s->out_fd = fd;
}

int vhu_stream_flush(struct vhu_stream *s)
{
	while (vhu_stream_pending(s)) {
		struct iovec iov = { (uint8_t *)&s->out + s->out_at, s->out_len - s->out_at };
		ssize_t n = sock_send(s->fd, &iov, 1, &s->out_fd, s->out_fd >= 0);

		if (n < 0)
			return (int)n;
		fd_close(&s->out_fd);
		s->out_at += (size_t)n;
	}
	return 0;
}
