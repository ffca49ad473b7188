/*
 * loop.c - epoll, one timerfd for all timers, one eventfd for posted work
 *
 * Events are fetched in batches. A callback may remove a source whose event
 * sits later in the same batch, so loop_del() strikes it out there.
 *
 * Owns: its epoll, timer, wake-up and signal descriptors; nothing of a source's.
 */
#include "base/loop.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"

struct loop {
	int epoll_fd;
	bool may_spin;
	int quit_code;
	_Atomic bool quitting; /* changed under lock */

	struct epoll_event batch[32];
	int batch_len, batch_next;
	struct loop_idle *idle;

	struct loop_source timer_src;
	int timer_fd;
	struct loop_timer *timers; /* sorted by at_ns */

	struct loop_source wake_src;
	int wake_fd;
	pthread_mutex_t lock;
	struct loop_work *work, **work_tail; /* guarded by lock, in order of posting */

	struct loop_source signal_src;
	int signal_fd;
	loop_signal_fn signal_fn;
	void *signal_arg;
};

static void timers_rearm(struct loop *loop)
{
	struct itimerspec t = { 0 };

	if (loop->timers) {
		uint64_t at = MAX(loop->timers->at_ns, 1ull); /* 0 would disarm */

		t.it_value = clock_timespec(at);
	}
	timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

static void timers_fire(struct loop_source *src, uint32_t events)
{
	struct loop *loop = container_of(src, struct loop, timer_src);
	uint64_t now = clock_now_ns(), ticks;

	if (read(loop->timer_fd, &ticks, sizeof(ticks)) < 0 && errno != EAGAIN)
		return;
	while (loop->timers && loop->timers->at_ns <= now) {
		struct loop_timer *timer = loop->timers;

		loop->timers = timer->next;
		timer->loop = NULL;
		timer->fn(timer);
	}
	timers_rearm(loop);
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ns, loop_timer_fn fn)
{
	struct loop_timer **at = &loop->timers;

	/* What is set for the past by a timer's callback comes after the round that calls it. */
	at_ns = MAX(at_ns, clock_now_ns());
	loop_timer_del(timer);
	while (*at && (*at)->at_ns <= at_ns)
		at = &(*at)->next;
	*timer = (struct loop_timer){ .at_ns = at_ns, .fn = fn, .loop = loop, .next = *at };
	*at = timer;
	if (loop->timers == timer)
		timers_rearm(loop);
}

void loop_timer_del(struct loop_timer *timer)
{
	struct loop_timer **at;

	if (!timer->loop)
		return;
	for (at = &timer->loop->timers; *at != timer; at = &(*at)->next)
		assert(*at);
	*at = timer->next;
	timer->loop = NULL;
}

/* Once it is popped it may be posted again, with another function: *fn is this time's. */
static struct loop_work *work_pop(struct loop *loop, loop_work_fn *fn)
{
	struct loop_work *work;

	pthread_mutex_lock(&loop->lock);
	work = loop->work;
	if (work) {
		loop->work = work->next;
		if (!loop->work)
			loop->work_tail = &loop->work;
		work->posted = false;
		*fn = work->fn;
	}
	pthread_mutex_unlock(&loop->lock);
	return work;
}

static void work_run(struct loop_source *src, uint32_t events)
{
	struct loop *loop = container_of(src, struct loop, wake_src);
	struct loop_work *work;
	loop_work_fn fn;
	size_t nr = 0;

	fd_clear(loop->wake_fd);
	/* What is posted from here on has woken the loop again and waits for its next round. */
	pthread_mutex_lock(&loop->lock);
	for (work = loop->work; work; work = work->next)
		nr++;
	pthread_mutex_unlock(&loop->lock);
	while (nr-- && (work = work_pop(loop, &fn)))
		fn(work);
}

void loop_post(struct loop *loop, struct loop_work *work, loop_work_fn fn)
{
	bool wake = false;

	pthread_mutex_lock(&loop->lock);
	if (!work->posted) {
		work->posted = true;
		work->fn = fn;
		work->next = NULL;
		*loop->work_tail = work;
		loop->work_tail = &work->next;
		wake = true;
	}
	pthread_mutex_unlock(&loop->lock);
	if (wake)
		fd_signal(loop->wake_fd);
}

void loop_unpost(struct loop *loop, struct loop_work *work)
{
	struct loop_work **at;

	pthread_mutex_lock(&loop->lock);
	if (work->posted) {
		for (at = &loop->work; *at != work; at = &(*at)->next)
			assert(*at);
		*at = work->next;
		if (!*at)
			loop->work_tail = at;
		work->posted = false;
	}
	pthread_mutex_unlock(&loop->lock);
}

static void signals_read(struct loop_source *src, uint32_t events)
{
	struct loop *loop = container_of(src, struct loop, signal_src);
	struct signalfd_siginfo info;

	while (read(loop->signal_fd, &info, sizeof(info)) == sizeof(info))
		loop->signal_fn(loop->signal_arg, (int)info.ssi_signo);
}

int loop_signals(struct loop *loop, const int *signals, loop_signal_fn fn, void *arg)
{
	sigset_t set;

	assert(loop->signal_fd < 0);
	sigemptyset(&set);
	for (; *signals; signals++)
		sigaddset(&set, *signals);
	if (pthread_sigmask(SIG_BLOCK, &set, NULL))
		return -EINVAL;
	loop->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (loop->signal_fd < 0)
		return -errno;
	loop->signal_fn = fn;
	loop->signal_arg = arg;
	return loop_add(loop, &loop->signal_src, loop->signal_fd, EPOLLIN, signals_read);
}

int loop_new(struct loop **out)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int rc;

	if (!loop)
		return -ENOMEM;
	loop->work_tail = &loop->work;
	loop->signal_fd = -1;
	/* Of the machine, not of our affinity: pinned to one, we may have a peer on another. */
	loop->may_spin = sysconf(_SC_NPROCESSORS_ONLN) > 1;
	pthread_mutex_init(&loop->lock, NULL);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	loop->wake_fd = fd_eventfd();
	if (loop->epoll_fd < 0 || loop->timer_fd < 0 || loop->wake_fd < 0) {
		rc = -EMFILE;
		goto fail;
	}
	rc = loop_add(loop, &loop->timer_src, loop->timer_fd, EPOLLIN, timers_fire);
	if (!rc)
		rc = loop_add(loop, &loop->wake_src, loop->wake_fd, EPOLLIN, work_run);
	if (rc)
		goto fail;
	*out = loop;
	return 0;
fail:
	loop_free(loop);
	return rc;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	fd_close(&loop->signal_fd);
	fd_close(&loop->wake_fd);
	fd_close(&loop->timer_fd);
	fd_close(&loop->epoll_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

int loop_add(struct loop *loop, struct loop_source *src, int fd, uint32_t events, loop_fd_fn fn)
{
	struct epoll_event ev = { .events = events, .data.ptr = src };

	assert(!src->loop);
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	*src = (struct loop_source){ .fd = fd, .events = events, .fn = fn, .loop = loop };
	return 0;
}

int loop_mod(struct loop_source *src, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = src };

	if (epoll_ctl(src->loop->epoll_fd, EPOLL_CTL_MOD, src->fd, &ev) < 0)
		return -errno;
	src->events = events;
	return 0;
}

void loop_del(struct loop_source *src)
{
	struct loop *loop = src->loop;

	if (!loop)
		return;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, src->fd, NULL);
	src->loop = NULL;
	for (int i = loop->batch_next; i < loop->batch_len; i++)
		if (loop->batch[i].data.ptr == src)
			loop->batch[i].data.ptr = NULL;
}

bool loop_may_spin(const struct loop *loop)
{
	return loop->may_spin;
}

void loop_peer_is_elsewhere(struct loop *loop)
{
	loop->may_spin = true;
}

void loop_idle_set(struct loop *loop, struct loop_idle *idle, loop_idle_fn fn)
{
	assert(!loop->idle || loop->idle == idle);
	idle->fn = fn;
	loop->idle = idle;
}

void loop_idle_del(struct loop *loop, struct loop_idle *idle)
{
	if (loop->idle == idle)
		loop->idle = NULL;
}

int loop_run(struct loop *loop)
{
	int code;

	while (!atomic_load(&loop->quitting)) {
		loop->batch_len = epoll_wait(loop->epoll_fd, loop->batch, ARRAY_SIZE(loop->batch),
			loop->idle ? 0 : -1);
		if (!loop->batch_len && loop->idle) {
			struct loop_idle *idle = loop->idle;

			if (!idle->fn(idle))
				loop_idle_del(loop, idle);
		}
		for (loop->batch_next = 0; loop->batch_next < loop->batch_len;) {
			struct epoll_event *ev = &loop->batch[loop->batch_next++];
			struct loop_source *src = ev->data.ptr;

			if (src)
				src->fn(src, ev->events);
		}
		loop->batch_len = 0;
	}
	pthread_mutex_lock(&loop->lock);
	loop->quitting = false;
	code = loop->quit_code;
	pthread_mutex_unlock(&loop->lock);
	return code;
}

void loop_quit(struct loop *loop, int code)
{
	pthread_mutex_lock(&loop->lock);
	if (!loop->quitting) {
		loop->quitting = true;
		loop->quit_code = code;
	}
	pthread_mutex_unlock(&loop->lock);
	fd_signal(loop->wake_fd);
}
