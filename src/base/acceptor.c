/*
 * acceptor.c - a listening socket on the loop, whose owner takes one connection after the other
 *
 * The socket is watched, or it is not on the loop at all: one that another process has shut down
 * reports its hang-up again and again, whatever events were asked for.
 *
 * Trusts: nobody who connects; how many do so is limited by the backlog.
 */
#include "base/acceptor.h"

#include <assert.h>
#include <errno.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/util.h"

#define AGAIN_NS (100 * NS_PER_MS)

static void watch(struct acceptor *a);

static void time_is_over(struct loop_timer *timer)
{
	watch(container_of(timer, struct acceptor, again));
}

/* Nobody is listened to for a while. */
static void rest(struct acceptor *a)
{
	loop_del(&a->source);
	loop_timer_set(a->loop, &a->again, clock_now_ns() + AGAIN_NS, time_is_over);
}

static void somebody_came(struct loop_source *source, uint32_t events)
{
	struct acceptor *a = container_of(source, struct acceptor, source);

	/* Another process has shut it down: nobody comes, and the event would not go away. */
	if (events & EPOLLHUP)
		rest(a);
	else
		a->fn(a);
}

/* On the loop or not, as it should be. */
static void watch(struct acceptor *a)
{
	if (a->held || a->again.loop)
		loop_del(&a->source);
	else if (!a->source.loop && loop_add(a->loop, &a->source, a->fd, EPOLLIN, somebody_came))
		rest(a);
}

int acceptor_start(struct acceptor *a, struct loop *loop, int fd, acceptor_fn fn)
{
	int rc;

	assert(!a->loop);
	*a = (struct acceptor){ .fd = fd, .fn = fn };
	rc = loop_add(loop, &a->source, fd, EPOLLIN, somebody_came);
	if (!rc)
		a->loop = loop;
	return rc;
}

void acceptor_stop(struct acceptor *a)
{
	loop_del(&a->source);
	loop_timer_del(&a->again);
	a->loop = NULL;
}

int acceptor_take(struct acceptor *a)
{
	int fd, rc;

	if (!a->loop || a->again.loop)
		return -EAGAIN;
	fd = accept4(a->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		return fd;
	rc = -errno;
	if (rc == -EAGAIN || rc == -EINTR || rc == -ECONNABORTED)
		return -EAGAIN;
	rest(a);
	return rc;
}

void acceptor_hold(struct acceptor *a)
{
	a->held = true;
	if (a->loop)
		watch(a);
}

void acceptor_go_on(struct acceptor *a)
{
	a->held = false;
	if (a->loop)
		watch(a);
}
