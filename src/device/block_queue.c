/*
 * block_queue.c - one queue of a virtio disk on its I/O thread
 *
 * The thread's poller takes requests, a few at a time so that what completes meanwhile is told
 * soon, and begins them; the store calls back; answers are pushed, and the driver hears of a batch
 * of them at the beginning and the end of the next poll, or before when much was moved.
 *
 * A request over the limit is held, and no other is taken until it went. Stopping takes no more,
 * lets the held one go at once, and is complete when the last one is answered and nobody watches
 * for kicks any more.
 *
 * A store that does not answer holds a stop up for half a minute at most. Then what it has fails,
 * as a disk's requests do when their time is over; the storage and the guest's memory are kept for
 * it until it has let go of them.
 *
 * A ring without a descriptor for kicks is looked at every millisecond.
 *
 * Owns:    the requests' storage, which is touched only as far as the driver's depth needs it.
 * Threads: the queue's, but for block_queue_fini().
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/util.h"
#include "device/block_priv.h"

/* Requests taken before what they completed is told. */
#define BATCH 16

/*
 * As much moved, and the driver hears of it at once: it can look at that while the next is copied,
 * which takes about as long as to wake it.
 */
#define TELL_BYTES (256 * KIB)

#define LOOK_NS NS_PER_MS

#define STOP_MS 30000u

/* Storage */

static struct block_request *take_storage(struct block_queue *q)
{
	struct block_request *r = q->free;

	if (r) {
		q->free = r->next;
	} else if (q->nr_fresh < q->nr_requests) {
		r = &q->requests[q->nr_fresh++];
		r->q = q;
	}
	return r;
}

static void give_storage(struct block_queue *q, struct block_request *r)
{
	if (r->many) {
		r->many->next = q->free_pieces;
		q->free_pieces = r->many;
		r->many = NULL;
	}
	r->next = q->free;
	q->free = r;
}

static struct block_pieces *take_pieces(struct block_queue *q)
{
	struct block_pieces *p = q->free_pieces;

	if (p)
		q->free_pieces = p->next;
	else
		p = malloc(sizeof(*p));
	return p;
}

void block_queue_fini(struct block_queue *q)
{
	while (q->free_pieces) {
		struct block_pieces *p = q->free_pieces;

		q->free_pieces = p->next;
		free(p);
	}
	free(q->requests);
}

/* Taking */

/* As vq_pop(), with as much room as the request needs. */
static int pop(struct block_queue *q, struct block_request *r, int *bad)
{
	int rc;

	r->req.iov = r->iov;
	r->req.iova = r->iova;
	r->req.max_iov = BLOCK_FEW_PIECES;
	rc = vq_pop(q->vq, &r->req, bad);
	if (rc <= 0 || *bad != -E2BIG)
		return rc;
	r->many = take_pieces(q);
	if (!r->many)
		return rc;
	vq_unpop(q->vq, &r->req);
	r->req.iov = r->many->iov;
	r->req.iova = r->many->iova;
	r->req.max_iov = BLOCK_MAX_PIECES;
	return vq_pop(q->vq, &r->req, bad);
}

static void tell_broken(struct block_queue *q)
{
	if (q->told_broken)
		return;
	q->told_broken = true;
	/* Limited as well: a driver can set the queue up anew as often as it likes. */
	log_limited(&q->limit, LOG_WARN, "%s queue %u: the ring is broken: %s", q->disk->model.name,
		q->index, vq_broken(q->vq));
}

static bool take_one(struct block_queue *q)
{
	struct block_request *r = take_storage(q);
	int bad = 0, rc;

	if (!r)
		return false;
	rc = pop(q, r, &bad);
	if (rc > 0) {
		q->open++;
		block_request_begin(r, bad);
		return true;
	}
	give_storage(q, r);
	if (rc < 0)
		tell_broken(q);
	return false;
}

static void tell_driver(struct block_queue *q)
{
	if (!q->used)
		return;
	q->used = false;
	q->untold = 0;
	vq_notify(q->vq);
}

static unsigned poll(struct iothread_poller *p)
{
	struct block_queue *q = container_of(p, struct block_queue, poller);
	bool any = q->used;
	unsigned n = 0;

	tell_driver(q);
	while (n < BATCH && !q->stopping && !q->held && take_one(q))
		n++;
	tell_driver(q);
	return n ? n : any;
}

static void on_look(struct iothread_timer *timer)
{
	/* That the thread woke is all: it polls */
}

static bool sleep_or_wake(struct iothread_poller *p, bool asleep)
{
	struct block_queue *q = container_of(p, struct block_queue, poller);

	if (q->stopping || q->held || vq_broken(q->vq))
		return false;
	if (q->watching)
		return vq_want_kicks(q->vq, asleep);
	if (asleep) {
		q->timer.fn = on_look;
		iothread_timer_set(q->t, &q->timer, clock_now_ns() + LOOK_NS);
	}
	return vq_ready(q->vq);
}

static void on_kick(struct iothread_watch *w, uint32_t events)
{
	/* likewise */
}

/* The limit */

static void on_limit(struct iothread_timer *timer)
{
	struct block_queue *q = container_of(timer, struct block_queue, timer);
	struct block_request *r = q->held;

	q->held = NULL;
	if (r && block_queue_may_go(q, r))
		block_request_go(r);
}

bool block_queue_may_go(struct block_queue *q, struct block_request *r)
{
	uint64_t now, wait;

	if (!q->disk->limit.any || q->stopping)
		return true;
	now = clock_now_ns();
	wait = rate_limit_take(&q->disk->limit, r->cost, now);
	if (!wait)
		return true;
	q->held = r;
	q->timer.fn = on_limit;
	iothread_timer_set(q->t, &q->timer, now + wait);
	return false;
}

/* Stopping */

static void report_stopped(struct loop_work *work)
{
	struct block_queue *q = container_of(work, struct block_queue, stopped_work);

	q->stopped(q->stopped_arg, q->index);
}

static void maybe_stopped(struct block_queue *q)
{
	if (!q->stopping || q->open || q->watching)
		return;
	iothread_poller_del(q->t, &q->poller);
	iothread_timer_del(&q->deadline);
	tell_driver(q);
	q->stopping = false;
	q->vq = NULL;
	loop_post(q->disk->model.loop, &q->stopped_work, report_stopped);
}

/* A poller cannot be taken away from within a poll; this comes after it. */
static void on_stop_look(struct iothread_timer *timer)
{
	maybe_stopped(container_of(timer, struct block_queue, timer));
}

static void on_kick_gone(struct iothread_watch *w)
{
	struct block_queue *q = container_of(w, struct block_queue, kick);

	q->watching = false;
	iothread_timer_set(q->t, &q->timer, 0);
}

static uint32_t stop_ms(const struct block_queue *q)
{
	return q->disk->config.stop_ms ? q->disk->config.stop_ms : STOP_MS;
}

static void on_deadline(struct iothread_timer *timer)
{
	struct block_queue *q = container_of(timer, struct block_queue, deadline);
	unsigned before = q->late;

	for (unsigned i = 0; i < q->nr_fresh; i++)
		if (q->requests[i].at_store && !q->requests[i].late)
			block_request_give_up(&q->requests[i]);
	log_err("%s queue %u: %u requests were not answered by what the image lies on within %u ms of a "
		"stop: they have failed, and what becomes of them is not known",
		q->disk->model.name, q->index, q->late - before, stop_ms(q));
}

void block_queue_stop(struct block_queue *q)
{
	struct block_request *r = q->held;

	q->stopping = true;
	q->held = NULL;
	iothread_timer_del(&q->timer);
	q->timer.fn = on_stop_look;
	q->deadline.fn = on_deadline;
	iothread_timer_set(q->t, &q->deadline, clock_now_ns() + stop_ms(q) * NS_PER_MS);
	if (r)
		block_request_go(r);
	if (q->watching)
		iothread_unwatch(&q->kick, on_kick_gone);
	else
		iothread_timer_set(q->t, &q->timer, 0);
}

void block_queue_answer(struct block_queue *q, struct block_request *r, uint64_t written)
{
	vq_push(q->vq, &r->req, (uint32_t)MIN(written, (uint64_t)UINT32_MAX));
	q->untold += r->cost;
	if (r->late)
		q->late++;
	else
		give_storage(q, r);
	q->open--;
	q->used = true;
	if (q->untold >= TELL_BYTES)
		tell_driver(q);
	if (q->stopping && !q->open)
		iothread_timer_set(q->t, &q->timer, 0);
}

void block_queue_end_late(struct block_queue *q, struct block_request *r)
{
	guest_mem_put(r->late);
	r->late = NULL;
	q->late--;
	give_storage(q, r);
}

/* Starting */

int block_queue_start(struct block_queue *q, struct vq *vq)
{
	int fd = vq_kick_fd(vq), rc;

	assert(!q->vq);
	q->vq = vq;
	q->told_broken = q->used = false;
	q->poller = (struct iothread_poller){ .poll = poll, .sleep = sleep_or_wake };
	if (fd >= 0) {
		rc = iothread_watch(q->t, &q->kick, fd, EPOLLIN, on_kick);
		if (rc) {
			q->vq = NULL;
			return rc;
		}
		q->watching = true;
	}
	iothread_poller_add(q->t, &q->poller);
	return 0;
}
