/*
 * listener.c - how a port comes by its clients: one at a time
 *
 * Owns:   the listening socket.
 * Trusts: nobody who connects; how many do so is limited by the backlog.
 */
#include "serve/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/fd_kind.h"
#include "base/util.h"

static void client_arrives(struct acceptor *acceptor)
{
	struct listener *l = container_of(acceptor, struct listener, acceptor);
	enum listener_state state = l->ops->state(l);
	struct err err = { 0 };
	int fd;

	if (state == LISTENER_WAIT) {
		acceptor_hold(acceptor);
		return;
	}
	fd = acceptor_take(acceptor);
	if (fd == -EAGAIN)
		return;
	if (fd < 0) {
		log_limited(&l->complaints, LOG_WARN, "%s %s: accept: %s", l->device, l->protocol,
			strerror(-fd));
	} else if (state == LISTENER_BUSY) {
		log_limited(&l->refusals, LOG_WARN, "%s %s: another %s refused, one is being served",
			l->device, l->protocol, l->peer);
		close(fd);
	} else if (l->ops->adopt(l, fd, &err)) {
		log_limited(&l->complaints, LOG_WARN, "%s %s: %s", l->device, l->protocol, err.text);
	}
}

int listener_start(struct listener *l, int fd_in, struct err *err)
{
	FD_AUTO fd = fd_in;
	int listens = 0, rc;
	socklen_t len = sizeof(listens);

	l->fd = -1;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len))
		return err_set(err, -errno, "descriptor %d is not a socket", fd);
	if (!fd_is_stream(fd))
		return err_set(err, -EINVAL, "descriptor %d is not a UNIX stream socket", fd);
	if (!listens)
		return l->ops->adopt(l, fd_take(&fd), err);
	/* accept() must not wait for a client that has thought better of it. */
	rc = fcntl(fd, F_GETFL);
	if (rc < 0 || fcntl(fd, F_SETFL, rc | O_NONBLOCK) < 0)
		return err_set(err, -errno, "descriptor %d: %s", fd, strerror(errno));
	rc = acceptor_start(&l->acceptor, l->loop, fd, client_arrives);
	if (rc)
		return err_set(err, rc, "cannot watch the socket: %s", strerror(-rc));
	l->fd = fd_take(&fd);
	return 0;
}

void listener_fini(struct listener *l)
{
	acceptor_stop(&l->acceptor);
	fd_close(&l->fd);
}

void listener_go_on(struct listener *l)
{
	acceptor_go_on(&l->acceptor);
}
