/*
 * iothread.c - the loop of a thread that serves queues: calls, pollers, timers, when to sleep
 *
 * A round takes completions, then calls and timers, then the pollers. Rounds follow each other for
 * as long as one of these had something to do. Then the thread goes on looking for about as long as
 * a sleep and its wake-up would cost, which is at worst twice as dear as having known what comes. A
 * look that finds nothing is not repeated before the next sleep, then the next two, the next four
 * and so on; one that finds something ends that. So nothing is wasted on a driver that is slow, nor
 * on one that waits for the very CPU that the thread looks on; so it does not matter either whether
 * the thread itself is pinned to one. Where the driver has no other CPU it never looks; one in
 * another machine always has.
 *
 * Before it sleeps, each poller asks its driver for kicks and looks once more: what came before the
 * driver saw the question is found by the look, what comes after it brings a kick.
 *
 * A round with operations to pass on is one system call (the engine's reap), and so is a sleep.
 *
 * Threads: the lock guards calls and the pause; the rest belongs to the thread once it is started.
 */
#include "device/iothread_priv.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"

/* Sleeps between two looks of which none has paid, at most. */
#define MAX_PENALTY 1024u

/*
 * Which part of the time may go into long looks, one in so many, and how much is saved up for them.
 */
#define LONG_LOOK_SHARE	     7
#define LONG_LOOK_SAVINGS_NS NS_PER_MS

/* Enough for kernel-facing code without recursion; the default of 8 MiB counts against limits. */
#define STACK_SIZE (256 * KIB)

struct iothread_call_req {
	void (*fn)(void *arg);
	void *arg;
	bool ran;
	struct iothread_call_req *next;
};

/* Calls from outside */

static void stand_still(struct iothread *t)
{
	t->standing = true;
	pthread_cond_broadcast(&t->changed);
	while (t->pause_wanted)
		pthread_cond_wait(&t->changed, &t->lock);
	t->standing = false;
	pthread_cond_broadcast(&t->changed);
}

static bool run_calls(struct iothread *t)
{
	struct iothread_call_req *call;

	if (!atomic_load_explicit(&t->called, memory_order_acquire))
		return false;
	pthread_mutex_lock(&t->lock);
	atomic_store_explicit(&t->called, false, memory_order_relaxed);
	while ((call = t->calls)) {
		t->calls = call->next;
		if (!t->calls)
			t->calls_end = &t->calls;
		pthread_mutex_unlock(&t->lock);
		call->fn(call->arg);
		pthread_mutex_lock(&t->lock);
		call->ran = true;
		pthread_cond_broadcast(&t->changed);
	}
	if (t->pause_wanted)
		stand_still(t);
	pthread_mutex_unlock(&t->lock);
	return true;
}

/* The caller holds the lock. */
static void wake(struct iothread *t)
{
	atomic_store_explicit(&t->called, true, memory_order_release);
	fd_signal(t->wake_fd);
}

void iothread_call(struct iothread *t, void (*fn)(void *arg), void *arg)
{
	struct iothread_call_req call = { .fn = fn, .arg = arg };

	assert(t->started && !pthread_equal(pthread_self(), t->thread));
	pthread_mutex_lock(&t->lock);
	assert(!t->pause_wanted); /* nobody would ever resume it */
	*t->calls_end = &call;
	t->calls_end = &call.next;
	wake(t);
	while (!call.ran)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

void iothread_pause(struct iothread *t)
{
	if (!t->started)
		return;
	pthread_mutex_lock(&t->lock);
	assert(!t->pause_wanted);
	t->pause_wanted = true;
	wake(t);
	while (!t->standing)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

void iothread_resume(struct iothread *t)
{
	if (!t->started)
		return;
	pthread_mutex_lock(&t->lock);
	t->pause_wanted = false;
	pthread_cond_broadcast(&t->changed);
	while (t->standing)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

/* Operations */

static void submit(struct iothread *t, struct iothread_op *op, enum iothread_kind kind, int fd)
{
	op->t = t;
	op->kind = kind;
	op->fd = fd;
	t->engine->submit(t, op);
}

void iothread_readv(struct iothread *t, struct iothread_op *op, int fd, const struct iovec *iov,
	unsigned nr_iov, uint64_t off)
{
	op->iov = iov;
	op->nr_iov = nr_iov;
	op->off = off;
	op->flags = 0;
	submit(t, op, IOTHREAD_READ, fd);
}

void iothread_writev(struct iothread *t, struct iothread_op *op, int fd, const struct iovec *iov,
	unsigned nr_iov, uint64_t off, bool dsync)
{
	op->iov = iov;
	op->nr_iov = nr_iov;
	op->off = off;
	op->flags = dsync ? RWF_DSYNC : 0;
	submit(t, op, IOTHREAD_WRITE, fd);
}

void iothread_fdatasync(struct iothread *t, struct iothread_op *op, int fd)
{
	submit(t, op, IOTHREAD_FDATASYNC, fd);
}

void iothread_fallocate(
	struct iothread *t, struct iothread_op *op, int fd, int mode, uint64_t off, uint64_t len)
{
	op->flags = mode;
	op->off = off;
	op->len = len;
	submit(t, op, IOTHREAD_FALLOCATE, fd);
}

/* Watches */

int iothread_watch(struct iothread *t, struct iothread_watch *w, int fd, uint32_t events,
	void (*ready)(struct iothread_watch *w, uint32_t events))
{
	int rc;

	assert(!w->t);
	if (t->nr_watches == IOTHREAD_MAX_WATCHES)
		return -ENOSPC;
	w->fd = fd;
	w->events = events;
	w->ready = ready;
	rc = t->engine->watch(t, w);
	if (rc)
		return rc;
	w->t = t;
	w->next = t->watches;
	t->watches = w;
	t->nr_watches++;
	return 0;
}

void iothread_unwatch(struct iothread_watch *w, void (*gone)(struct iothread_watch *w))
{
	w->gone = gone;
	w->t->engine->unwatch(w->t, w);
}

void iothread_watch_gone(struct iothread *t, struct iothread_watch *w)
{
	struct iothread_watch **at = &t->watches;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	t->nr_watches--;
	w->t = NULL;
	w->state = WATCH_NONE;
	if (w->gone)
		w->gone(w);
}

/* Pollers and timers */

void iothread_poller_add(struct iothread *t, struct iothread_poller *p)
{
	p->next = t->pollers;
	t->pollers = p;
}

void iothread_poller_del(struct iothread *t, struct iothread_poller *p)
{
	struct iothread_poller **at = &t->pollers;

	while (*at && *at != p)
		at = &(*at)->next;
	if (*at)
		*at = p->next;
}

void iothread_timer_set(struct iothread *t, struct iothread_timer *timer, uint64_t at_ns)
{
	struct iothread_timer **at = &t->timers;

	iothread_timer_del(timer);
	while (*at && (*at)->at_ns <= at_ns)
		at = &(*at)->next;
	timer->at_ns = at_ns;
	timer->next = *at;
	timer->t = t;
	*at = timer;
}

void iothread_timer_del(struct iothread_timer *timer)
{
	struct iothread_timer **at;

	if (!timer->t)
		return;
	at = &timer->t->timers;
	while (*at != timer)
		at = &(*at)->next;
	*at = timer->next;
	timer->t = NULL;
}

/* Only those that are due at the start: one that sets itself anew does not hold up the rest. */
static bool run_timers(struct iothread *t)
{
	uint64_t now;
	bool any = false;

	if (!t->timers)
		return false;
	now = clock_now_ns();
	while (t->timers && t->timers->at_ns <= now) {
		struct iothread_timer *timer = t->timers;

		iothread_timer_del(timer);
		timer->fn(timer);
		any = true;
	}
	return any;
}

/* The loop */

static bool run_pollers(struct iothread *t)
{
	unsigned nr = 0;

	for (struct iothread_poller *p = t->pollers; p; p = p->next)
		nr += p->poll(p);
	t->served += nr;
	return nr;
}

/*
 * A driver that waits for what it has asked for sends the next requests when it has woken up, which
 * takes far longer than most looks. To look that long costs at most as much as a usual look for
 * each request, or a small share of the time: then waking up is saved for some requests, with many
 * at once for all, and none costs much more than it would have.
 */
bool iothread_may_look_long(struct iothread *t, uint64_t now_ns)
{
	t->long_ns += (now_ns - t->long_at_ns) / LONG_LOOK_SHARE + t->served * t->spin_max_ns;
	t->long_ns = MIN(t->long_ns, LONG_LOOK_SAVINGS_NS);
	t->long_at_ns = now_ns;
	t->served = 0;
	return t->long_ns >= IOTHREAD_LONG_LOOK_NS;
}

static void begin_look(struct iothread *t)
{
	t->idle_since_ns = clock_now_ns();
	t->look_ns = t->spin_max_ns;
	if (t->spin_max_ns < IOTHREAD_LONG_LOOK_NS && iothread_may_look_long(t, t->idle_since_ns))
		t->look_ns = IOTHREAD_LONG_LOOK_NS;
}

/* True while it pays to look for work rather than to sleep. */
static bool go_on_looking(struct iothread *t)
{
	if (!t->spin_max_ns || t->sleeps_before_look)
		return false;
	if (!t->idle_since_ns)
		begin_look(t);
	else if (clock_now_ns() - t->idle_since_ns >= t->look_ns)
		return false;
	__builtin_ia32_pause();
	return true;
}

static void end_look(struct iothread *t)
{
	if (t->look_ns > t->spin_max_ns)
		t->long_ns -= MIN(t->long_ns, clock_now_ns() - t->idle_since_ns);
	t->idle_since_ns = 0;
}

static void look_paid(struct iothread *t)
{
	end_look(t);
	t->penalty = 0;
}

static void look_failed(struct iothread *t)
{
	end_look(t);
	t->penalty = t->penalty ? MIN(2 * t->penalty, MAX_PENALTY) : 1;
	t->sleeps_before_look = t->penalty;
}

static bool tell_pollers(struct iothread *t, bool asleep)
{
	bool any = false;

	for (struct iothread_poller *p = t->pollers; p; p = p->next)
		if (p->sleep)
			any |= p->sleep(p, asleep);
	return asleep && any;
}

static void fall_asleep(struct iothread *t)
{
	uint64_t now, timeout = IOTHREAD_FOREVER;

	if (t->idle_since_ns)
		look_failed(t);
	else if (t->sleeps_before_look)
		t->sleeps_before_look--;
	if (!tell_pollers(t, true)) {
		if (t->timers) {
			now = clock_now_ns();
			timeout = t->timers->at_ns > now ? t->timers->at_ns - now : 0;
		}
		t->engine->wait(t, timeout);
	}
	tell_pollers(t, false);
}

static void serve(struct iothread *t)
{
	while (!t->ending) {
		bool any = t->engine->reap(t);

		any |= run_calls(t);
		any |= run_timers(t);
		any |= run_pollers(t);
		if (!any && !go_on_looking(t))
			fall_asleep(t);
		else if (any && t->idle_since_ns)
			look_paid(t);
	}
}

static void on_wake(struct iothread_watch *w, uint32_t events)
{
	/* run_calls() sees to it */
}

static void *thread_main(void *arg)
{
	struct iothread *t = arg;
	int rc;

	prctl(PR_SET_NAME, t->name);
	rc = t->engine->begin(t);
	if (!rc)
		rc = iothread_watch(t, &t->wake, t->wake_fd, EPOLLIN, on_wake);
	pthread_mutex_lock(&t->lock);
	t->begun = rc;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
	if (rc)
		return NULL;
	serve(t);
	iothread_unwatch(&t->wake, NULL);
	while (t->watches) {
		t->engine->wait(t, IOTHREAD_FOREVER);
		t->engine->reap(t);
	}
	return NULL;
}

/* Life */

int iothread_new(struct iothread **out, const struct iothread_config *config, struct err *err)
{
	struct iothread *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return err_set(err, -ENOMEM, "%s: out of memory", config->name);
	snprintf(t->name, sizeof(t->name), "%.15s", config->name);
	t->depth = config->depth;
	t->calls_end = &t->calls;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	t->spin_max_ns = config->may_look ? config->poll_us * NS_PER_US : 0;
	t->helpers.done_fd = t->helpers.epoll_fd = -1;
	t->wake_fd = fd_eventfd();
	t->engine = &iothread_uring;
	if (config->no_uring || iothread_uring.init(t, NULL)) {
		t->engine = &iothread_pool;
		rc = iothread_pool.init(t, err);
	} else {
		rc = 0;
	}
	if (!rc && t->wake_fd < 0)
		rc = err_set(err, t->wake_fd, "eventfd: %s", strerror(-t->wake_fd));
	if (rc)
		iothread_free(t);
	else
		*out = t;
	return rc ? err_prefix(err, rc, "%s", config->name) : 0;
}

static int create_thread(struct iothread *t)
{
	pthread_attr_t attr;
	int rc;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	/* The signals of the loop are blocked already; those of kicks and of lost memory must not
	 * be. */
	rc = pthread_create(&t->thread, &attr, thread_main, t);
	pthread_attr_destroy(&attr);
	return -rc;
}

int iothread_start(struct iothread *t)
{
	int rc;

	if (t->started)
		return 0;
	t->begun = 1;
	rc = create_thread(t);
	if (rc)
		return rc;
	pthread_mutex_lock(&t->lock);
	while (t->begun == 1)
		pthread_cond_wait(&t->changed, &t->lock);
	rc = t->begun;
	pthread_mutex_unlock(&t->lock);
	if (rc)
		pthread_join(t->thread, NULL);
	t->started = !rc;
	return rc;
}

bool iothread_has_uring(const struct iothread *t)
{
	return t->engine == &iothread_uring;
}

static void end(void *arg)
{
	struct iothread *t = arg;

	assert(!t->pollers && !t->timers);
	for (struct iothread_watch *w = t->watches; w; w = w->next)
		assert(w == &t->wake || w->state == WATCH_CANCELLING);
	t->ending = true;
}

void iothread_free(struct iothread *t)
{
	if (!t)
		return;
	if (t->started) {
		iothread_call(t, end, t);
		pthread_join(t->thread, NULL);
	}
	t->engine->fini(t);
	fd_close(&t->wake_fd);
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->lock);
	free(t);
}
