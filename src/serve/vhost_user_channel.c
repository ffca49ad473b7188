/*
 * vhost_user_channel.c - tell the front-end that the configuration has changed
 *
 * The front-end hands over a socket on which the back-end may ask. All this one says there is
 * CONFIG_CHANGE_MSG, without wanting an answer, so nothing is ever read. A front-end that does
 * not listen fills its socket; then one message waits, however often the configuration changes.
 *
 * Spec: vhost-user, "Back-end communication".
 */
#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "base/fd_kind.h"
#include "base/sock.h"
#include "base/util.h"
#include "serve/vhost_user_port.h"

static int send_some(struct vhu_channel *c)
{
	while (c->at < c->len) {
		struct iovec iov = { (uint8_t *)&c->message + c->at, c->len - c->at };
		ssize_t n = sock_send(c->fd, &iov, 1, NULL, 0);

		if (n < 0)
			return (int)n;
		c->at += (size_t)n;
	}
	return 0;
}

static void compose(struct vhu_channel *c)
{
	c->message = (struct vhost_user_header){
		.request = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
		.flags = VHOST_USER_FLAG_VERSION,
	};
	c->at = 0;
	c->len = sizeof(c->message);
	c->again = false;
}

static void writable(struct loop_source *src, uint32_t events);

/* Send what there is, and go on when the socket takes more. */
static void flush(struct vhost_user_port *p)
{
	struct vhu_channel *c = &p->channel;
	int rc = send_some(c);

	if (!rc && c->again) {
		compose(c);
		rc = send_some(c);
	}
	if (rc == -EAGAIN && !c->src.loop)
		rc = loop_add(p->loop, &c->src, c->fd, EPOLLOUT, writable);
	if (rc == -EAGAIN)
		return;
	loop_del(&c->src);
	if (rc) {
		vhu_complain(p, "cannot send on the back-end's channel: %s", strerror(-rc));
		vhu_channel_fini(p);
	}
}

static void writable(struct loop_source *src, uint32_t events)
{
	flush(container_of(src, struct vhost_user_port, channel.src));
}

int vhu_channel_set(struct vhost_user_port *p, int fd_in, struct err *err)
{
	FD_AUTO fd = fd_in;

	if (!fd_is_stream(fd))
		return err_set(err, -EINVAL, "the descriptor is not a UNIX stream socket");
	vhu_channel_fini(p);
	p->channel.fd = fd_take(&fd);
	return 0;
}

void vhu_channel_config_changed(struct vhost_user_port *p)
{
	struct vhu_channel *c = &p->channel;

	if (c->fd < 0 || !(p->protocol_features & VHOST_USER_PROTOCOL_BIT(CONFIG)))
		return;
	if (c->at < c->len)
		c->again = true;
	else
		compose(c);
	if (!c->src.loop)
		flush(p);
}

void vhu_channel_fini(struct vhost_user_port *p)
{
	loop_del(&p->channel.src);
	fd_close(&p->channel.fd);
	p->channel.at = p->channel.len = 0;
	p->channel.again = false;
}
