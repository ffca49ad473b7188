/*
 * vhost_user_state.c - move the model's state through a pipe of the front-end
 *
 * The state of a model is small: it is saved whole before the first byte leaves, and loaded whole
 * after the last one has come.
 *
 * The front-end shares the pipe's flags with us, so O_NONBLOCK says nothing about the moment of our
 * read or write. splice(2) takes its own flag; but it wants a pipe on one side, and nothing of
 * ours is one. vmsplice(2) is the same for memory: pages that we give away, in one direction, and
 * a plain copy in the other.
 *
 * Trusts: nothing: only a pipe will do, at most STATE_MAX bytes are taken.
 * Spec:   vhost-user, "Migrating back-end state".
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "base/fd.h"
#include "base/fd_kind.h"
#include "base/util.h"
#include "serve/vhost_user_port.h"

/* Models that have more to say are not made yet. */
#define STATE_MAX (1 * MIB)

static void end(struct vhost_user_port *p, int result)
{
	struct vhu_state *s = &p->state;

	loop_del(&s->src);
	fd_close(&s->fd);
	/* What has been given away stays in the pipe; the pages are its own. */
	if (s->data)
		munmap(s->data, s->room);
	s->data = NULL;
	s->result = result;
	s->ended = true;
}

/* -EAGAIN, 0 at the end, or how many bytes were moved. */
static ssize_t move(struct vhu_state *s, size_t len)
{
	struct iovec iov = { s->data + s->at, len };
	ssize_t n;

	do
		n = vmsplice(s->fd, &iov, 1, SPLICE_F_NONBLOCK);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static int load(struct vhost_user_port *p)
{
	struct err err = { 0 };
	int rc = p->model->ops->load(p->model, p->state.data, p->state.at, &err);

	if (rc)
		vhu_complain(p, "state refused: %s", err.text[0] ? err.text : strerror(-rc));
	return rc;
}

/* As far as it goes without waiting. */
static void progress(struct vhost_user_port *p)
{
	struct vhu_state *s = &p->state;

	while (!s->ended) {
		size_t left = (s->loading ? s->room : s->len) - s->at;
		ssize_t n = left ? move(s, left) : 0;

		if (n == -EAGAIN)
			return;
		if (n > 0)
			s->at += (size_t)n;
		else if (n < 0)
			end(p, (int)n);
		else if (!s->loading)
			end(p, 0);
		else
			end(p, left ? load(p) : -EFBIG);
	}
}

static void pipe_ready(struct loop_source *src, uint32_t events)
{
	progress(container_of(src, struct vhost_user_port, state.src));
}

static int save(struct vhost_user_port *p, struct err *err)
{
	struct vhu_state *s = &p->state;
	ssize_t n = p->model->ops->save(p->model, s->data, s->room);

	if (n < 0)
		return err_set(err, (int)n, "the state cannot be saved: %s", strerror((int)-n));
	s->len = (size_t)n;
	return 0;
}

static int check(const struct vhost_user_port *p, const struct vhost_user_device_state *d, int fd,
	struct err *err)
{
	bool loading = d->direction == VHOST_USER_STATE_LOAD;
	int mode = fcntl(fd, F_GETFL) & O_ACCMODE;

	if (d->direction > VHOST_USER_STATE_LOAD || d->phase != VHOST_USER_STATE_STOPPED)
		return err_set(err, -EINVAL, "direction %u, phase %u", d->direction, d->phase);
	if (!vhu_queues_rest(p))
		return err_set(err, -EBUSY, "queues are running");
	if (!fd_is_pipe(fd))
		return err_set(err, -EINVAL, "the descriptor is not a pipe");
	/* A descriptor for both would be written by vmsplice(), whatever we want. */
	if (loading ? mode != O_RDONLY : mode == O_RDONLY)
		return err_set(err, -EINVAL, "the wrong end of the pipe");
	return 0;
}

int vhu_state_begin(struct vhost_user_port *p, const struct vhost_user_device_state *d, int fd_in,
	struct err *err)
{
	FD_AUTO fd = fd_in;
	struct vhu_state *s = &p->state;
	int rc = check(p, d, fd, err);

	if (rc)
		return rc;
	vhu_state_fini(p);
	s->loading = d->direction == VHOST_USER_STATE_LOAD;
	s->room = STATE_MAX;
	/* Pages of its own: a pipe that holds some of them must not see what the heap does next. */
	s->data = mmap(NULL, s->room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->data == MAP_FAILED) {
		s->data = NULL;
		return err_set(err, -ENOMEM, "out of memory");
	}
	s->fd = fd_take(&fd);
	rc = s->loading ? 0 : save(p, err);
	if (!rc) {
		rc = loop_add(p->loop, &s->src, s->fd, s->loading ? EPOLLIN : EPOLLOUT, pipe_ready);
		if (rc)
			err_set(err, rc, "cannot watch the pipe: %s", strerror(-rc));
	}
	if (rc) {
		end(p, rc);
		return rc;
	}
	progress(p);
	return 0;
}

int vhu_state_check(struct vhost_user_port *p, struct err *err)
{
	struct vhu_state *s = &p->state;

	if (s->fd < 0 && !s->ended)
		return err_set(err, -EINVAL, "no state has been moved");
	/* The front-end has closed its end by now, or read up to ours. */
	progress(p);
	if (!s->ended)
		return err_set(err, -EAGAIN, "the state has not been moved to its end");
	if (s->result)
		return err_set(err, s->result, "the state was not moved: %s", strerror(-s->result));
	return 0;
}

void vhu_state_fini(struct vhost_user_port *p)
{
	end(p, 0);
	p->state = (struct vhu_state){ .fd = -1 };
}
