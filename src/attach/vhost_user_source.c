/*
 * vhost_user_source.c - where connections come from: a path to connect to, or to listen at
 *
 * Owns:    the listening socket and its file, which goes with it.
 * Threads: loop thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "attach/vhost_user.h"
#include "base/fd.h"
#include "base/sock.h"
#include "base/util.h"

/* --- connecting --- */

struct connector {
	struct vhost_user_source s;
	char path[];
};

static int connector_connect(struct vhost_user_source *s, struct err *err)
{
	return sock_connect(container_of(s, struct connector, s)->path, err);
}

static void connector_free(struct vhost_user_source *s)
{
	free(container_of(s, struct connector, s));
}

int vhost_user_source_connect(const char *path, struct vhost_user_source **out, struct err *err)
{
	size_t size = strlen(path) + 1;
	struct connector *c;
	int rc = sock_check_path(path, err);

	if (rc)
		return rc;
	c = calloc(1, sizeof(*c) + size);
	if (!c)
		return err_set(err, -ENOMEM, "out of memory");
	c->s.connect = connector_connect;
	c->s.free = connector_free;
	memcpy(c->path, path, size);
	*out = &c->s;
	return 0;
}

/* --- listening --- */

struct listener {
	struct vhost_user_source s;
	struct loop *loop;
	struct loop_source src;
	int fd;
	void (*again)(void *arg);
	void *arg;
	char path[];
};

static struct listener *listener_of(struct vhost_user_source *s)
{
	return container_of(s, struct listener, s);
}

static int listener_connect(struct vhost_user_source *s, struct err *err)
{
	struct listener *l = listener_of(s);
	int fd;

	do
		fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
	if (fd >= 0)
		return fd;
	if (errno == EAGAIN)
		return err_set(err, -EAGAIN, "no back-end has connected to %s yet", l->path);
	return err_set(err, -errno, "accept at %s: %s", l->path, strerror(errno));
}

static void came(struct loop_source *src, uint32_t events)
{
	struct listener *l = container_of(src, struct listener, src);

	/* One call for one wait(). */
	loop_del(src);
	l->again(l->arg);
}

static void listener_wait(struct vhost_user_source *s, void (*again)(void *arg), void *arg)
{
	struct listener *l = listener_of(s);

	l->again = again;
	l->arg = arg;
	if (!l->src.loop)
		loop_add(l->loop, &l->src, l->fd, EPOLLIN, came);
}

static void listener_free(struct vhost_user_source *s)
{
	struct listener *l = listener_of(s);

	loop_del(&l->src);
	if (l->fd >= 0)
		unlink(l->path);
	fd_close(&l->fd);
	free(l);
}

int vhost_user_source_listen(
	struct loop *loop, const char *path, struct vhost_user_source **out, struct err *err)
{
	size_t size = strlen(path) + 1;
	struct listener *l = calloc(1, sizeof(*l) + size);

	if (!l)
		return err_set(err, -ENOMEM, "out of memory");
	l->s.connect = listener_connect;
	l->s.wait = listener_wait;
	l->s.free = listener_free;
	l->loop = loop;
	memcpy(l->path, path, size);
	l->fd = sock_listen(path, 1, err);
	if (l->fd < 0) {
		int rc = l->fd;

		listener_free(&l->s);
		return rc;
	}
	*out = &l->s;
	return 0;
}
