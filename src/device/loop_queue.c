/*
 * loop_queue.c - a virtqueue served on the event loop's thread
 *
 * The descriptor for kicks is watched for edges and never read: each write to an eventfd is an
 * edge, whatever its counter says. That saves a system call a kick, and a read of a
 * descriptor that the front-end shares could be made to wait.
 *
 * Owns:    nothing; the storage is the model's, the descriptors are the port's.
 * Threads: the loop's.
 */
#include "device/loop_queue.h"

#include <assert.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"

#define LOOK_EVERY_NS NS_PER_MS

static void take_turn(struct loop_work *work);

static void run(struct loop_queue *q)
{
	if (q->vq && q->serve(q))
		loop_queue_wake(q);
}

static void take_turn(struct loop_work *work)
{
	run(container_of(work, struct loop_queue, turn));
}

static void kicked(struct loop_source *src, uint32_t events)
{
	run(container_of(src, struct loop_queue, kick));
}

static void look_at_ring(struct loop_timer *timer)
{
	struct loop_queue *q = container_of(timer, struct loop_queue, look);

	loop_timer_set(q->loop, timer, clock_now_ns() + LOOK_EVERY_NS, look_at_ring);
	run(q);
}

int loop_queue_start(struct loop_queue *q, struct loop *loop, struct vq *vq, const char *name,
	loop_queue_fn serve)
{
	int fd = vq_kick_fd(vq), rc;

	assert(!q->vq);
	*q = (struct loop_queue){ .vq = vq, .name = name, .loop = loop, .serve = serve };
	if (fd < 0) {
		look_at_ring(&q->look);
		return 0;
	}
	rc = loop_add(loop, &q->kick, fd, EPOLLIN | EPOLLET, kicked);
	if (rc) {
		q->vq = NULL;
		return rc;
	}
	/* Requests may wait already, and the driver has not been asked for kicks yet. */
	loop_queue_wake(q);
	return 0;
}

void loop_queue_stop(struct loop_queue *q)
{
	if (!q->vq)
		return;
	loop_del(&q->kick);
	loop_timer_del(&q->look);
	loop_unpost(q->loop, &q->turn);
	q->vq = NULL;
}

void loop_queue_wake(struct loop_queue *q)
{
	if (q->vq)
		loop_post(q->loop, &q->turn, take_turn);
}

int loop_queue_pop(struct loop_queue *q, struct vq_req *req, int *bad)
{
	int rc = vq_pop(q->vq, req, bad);

	if (rc == 0 && vq_want_kicks(q->vq, true))
		rc = vq_pop(q->vq, req, bad);
	if (rc < 0 && !q->told_broken) {
		q->told_broken = true;
		log_warn("%s: queue %u: %s: it is not served any more", q->name, vq_index(q->vq),
			vq_broken(q->vq));
	}
	return rc;
}
