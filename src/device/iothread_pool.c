/*
 * iothread_pool.c - the engine of an iothread where io_uring is forbidden
 *
 * Files are read and written by a few helper threads, one system call an operation; descriptors
 * are watched by an edge-triggered epoll, which is also how a finished operation wakes the
 * thread. The helpers share nothing with the model: they take an operation from a list, and put
 * it into another one.
 */
#include "device/iothread_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"

/* While the thread is busy it asks for events only so often: kicks bring it nothing new. */
#define REAPS_PER_LOOK 16

static ssize_t perform(const struct iothread_op *op)
{
	/* preadv2 and pwritev2 refuse more pieces; the caller continues a short transfer */
	int nr_iov = (int)MIN(op->nr_iov, (unsigned)IOV_MAX);

	switch ((enum iothread_kind)op->kind) {
	case IOTHREAD_READ:
		return preadv2(op->fd, op->iov, nr_iov, (off_t)op->off, op->flags);
	case IOTHREAD_WRITE:
		return pwritev2(op->fd, op->iov, nr_iov, (off_t)op->off, op->flags);
	case IOTHREAD_FDATASYNC:
		return fdatasync(op->fd);
	case IOTHREAD_FALLOCATE:
		return fallocate(op->fd, op->flags, (off_t)op->off, (off_t)op->len);
	}
	return -1;
}

static void *help(void *arg)
{
	struct iothread *t = arg;
	struct iothread_helpers *h = &t->helpers;

	prctl(PR_SET_NAME, t->name);
	pthread_mutex_lock(&h->lock);
	for (;;) {
		struct iothread_op *op = h->todo;
		ssize_t rc;

		if (!op && h->ending)
			break;
		if (!op) {
			pthread_cond_wait(&h->more, &h->lock);
			continue;
		}
		h->todo = op->next;
		if (!h->todo)
			h->todo_end = &h->todo;
		pthread_mutex_unlock(&h->lock);
		do
			rc = perform(op);
		while (rc < 0 && errno == EINTR);
		op->result = rc < 0 ? -errno : (int)rc;
		op->next = NULL;
		pthread_mutex_lock(&h->lock);
		*h->finished_end = op;
		h->finished_end = &op->next;
		atomic_store_explicit(&h->any_finished, true, memory_order_release);
		fd_signal(h->done_fd);
	}
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

static int pool_init(struct iothread *t, struct err *err)
{
	struct iothread_helpers *h = &t->helpers;
	struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = NULL };

	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->more, NULL);
	h->todo_end = &h->todo;
	h->finished_end = &h->finished;
	h->done_fd = fd_eventfd();
	h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (h->done_fd < 0 || h->epoll_fd < 0 ||
		epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, h->done_fd, &event))
		return err_set(err, -errno, "epoll: %s", strerror(errno));
	return 0;
}

static void pool_fini(struct iothread *t)
{
	struct iothread_helpers *h = &t->helpers;

	pthread_mutex_lock(&h->lock);
	h->ending = true;
	pthread_cond_broadcast(&h->more);
	pthread_mutex_unlock(&h->lock);
	for (unsigned i = 0; i < h->nr_threads; i++)
		pthread_join(h->threads[i], NULL);
	fd_close(&h->done_fd);
	fd_close(&h->epoll_fd);
	pthread_cond_destroy(&h->more);
	pthread_mutex_destroy(&h->lock);
}

static int pool_begin(struct iothread *t)
{
	struct iothread_helpers *h = &t->helpers;
	unsigned nr = MIN(t->depth, (unsigned)IOTHREAD_HELPERS);

	for (; h->nr_threads < nr; h->nr_threads++) {
		int rc = pthread_create(&h->threads[h->nr_threads], NULL, help, t);

		/* One is enough to go on. */
		if (rc && !h->nr_threads)
			return -rc;
		if (rc)
			break;
	}
	return 0;
}

static void pool_submit(struct iothread *t, struct iothread_op *op)
{
	struct iothread_helpers *h = &t->helpers;

	op->next = NULL;
	pthread_mutex_lock(&h->lock);
	*h->todo_end = op;
	h->todo_end = &op->next;
	pthread_cond_signal(&h->more);
	pthread_mutex_unlock(&h->lock);
}

static int pool_watch(struct iothread *t, struct iothread_watch *w)
{
	struct epoll_event event = { .events = w->events | EPOLLET, .data.ptr = w };

	if (epoll_ctl(t->helpers.epoll_fd, EPOLL_CTL_ADD, w->fd, &event))
		return -errno;
	w->state = WATCH_ARMED;
	return 0;
}

static void pool_unwatch(struct iothread *t, struct iothread_watch *w)
{
	epoll_ctl(t->helpers.epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	iothread_watch_gone(t, w);
}

static bool finish(struct iothread_helpers *h)
{
	struct iothread_op *op;

	if (!atomic_load_explicit(&h->any_finished, memory_order_acquire))
		return false;
	pthread_mutex_lock(&h->lock);
	op = h->finished;
	h->finished = NULL;
	h->finished_end = &h->finished;
	atomic_store_explicit(&h->any_finished, false, memory_order_relaxed);
	pthread_mutex_unlock(&h->lock);
	while (op) {
		struct iothread_op *next = op->next;

		op->done(op, op->result);
		op = next;
	}
	return true;
}

/* One event at a time: a callback may give up the watch that another event is about. */
static bool look(struct iothread *t, int timeout_ms)
{
	struct epoll_event event;
	bool any = false;

	for (unsigned i = 0; i <= IOTHREAD_MAX_WATCHES; i++) {
		struct iothread_watch *w;

		if (epoll_wait(t->helpers.epoll_fd, &event, 1, i ? 0 : timeout_ms) != 1)
			break;
		any = true;
		w = event.data.ptr;
		if (w)
			w->ready(w, event.events);
	}
	return any;
}

static bool pool_reap(struct iothread *t)
{
	bool any = finish(&t->helpers);

	if (t->helpers.reaps++ % REAPS_PER_LOOK == 0)
		any |= look(t, 0);
	return any;
}

static void pool_wait(struct iothread *t, uint64_t timeout_ns)
{
	uint64_t ms = timeout_ns / 1000000 + !!(timeout_ns % 1000000);

	look(t, timeout_ns == IOTHREAD_FOREVER ? -1 : (int)MIN(ms, (uint64_t)INT_MAX));
}

const struct iothread_engine iothread_pool = {
	.init = pool_init,
	.fini = pool_fini,
	.begin = pool_begin,
	.submit = pool_submit,
	.watch = pool_watch,
	.unwatch = pool_unwatch,
	.reap = pool_reap,
	.wait = pool_wait,
};
