/*
 * echo_model.h - a virtio device that writes back what it reads, for the tests of its port
 *
 * Served on the loop's thread. With `hold` a request stays open until echo_release(): what a slow
 * host file does. Its whole configuration may be written; its state is the configuration.
 */
#ifndef TESTS_ECHO_MODEL_H
#define TESTS_ECHO_MODEL_H

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "device/loop_queue.h"
#include "device/virtio_model.h"
#include "wire/virtio.h"

#define ECHO_QUEUES	4
#define ECHO_QUEUE_SIZE 256
#define ECHO_PIECES	64
#define ECHO_CONFIG	16

struct echo_queue {
	struct loop_queue queue;
	unsigned index;
	struct echo *echo;
	/* One request that is kept open */
	atomic_bool held;
	struct vq_req req;
	struct iovec iov[ECHO_PIECES];
	uint64_t iova[ECHO_PIECES];
	virtio_stopped_fn stopped;
	void *stopped_arg;
};

struct echo {
	struct virtio_model model;
	struct echo_queue queues[ECHO_QUEUES];
	struct loop_work release;
	atomic_bool hold;
	_Atomic(uint64_t) features;
	atomic_uint served, resets, paused;
	atomic_uint running; /* bit per queue */
	bool refuse_start;
};

static inline void echo_answer(struct echo_queue *q)
{
	uint8_t buf[4096];
	uint64_t done = 0, len = MIN(q->req.out_len, q->req.in_len);

	while (done < len) {
		size_t n = MIN(sizeof(buf), len - done);

		vq_req_read(&q->req, done, buf, n);
		done += vq_req_write(&q->req, done, buf, n);
	}
	vq_push(q->queue.vq, &q->req, (uint32_t)done);
	atomic_fetch_add(&q->echo->served, 1);
}

static inline bool echo_serve(struct loop_queue *lq)
{
	struct echo_queue *q = container_of(lq, struct echo_queue, queue);
	unsigned n = 0;
	int rc = 0, bad;

	while (!q->held && n++ < 64) {
		q->req = (struct vq_req){ .iov = q->iov, .iova = q->iova, .max_iov = ECHO_PIECES };
		rc = loop_queue_pop(lq, &q->req, &bad);
		if (rc <= 0)
			break;
		if (atomic_load(&q->echo->hold))
			q->held = true;
		else
			echo_answer(q);
	}
	vq_notify(lq->vq);
	return !q->held && rc > 0;
}

static inline void echo_stopped(struct echo_queue *q)
{
	virtio_stopped_fn stopped = q->stopped;

	q->stopped = NULL;
	loop_queue_stop(&q->queue);
	atomic_fetch_and(&q->echo->running, ~(1u << q->index));
	stopped(q->stopped_arg, q->index);
}

static inline void echo_release_now(struct loop_work *work)
{
	struct echo *e = container_of(work, struct echo, release);

	for (unsigned i = 0; i < ECHO_QUEUES; i++) {
		struct echo_queue *q = &e->queues[i];

		if (!q->held)
			continue;
		q->held = false;
		echo_answer(q);
		vq_notify(q->queue.vq);
		if (q->stopped)
			echo_stopped(q);
		else
			loop_queue_wake(&q->queue);
	}
}

/* Any thread. */
static inline void echo_release(struct echo *e)
{
	atomic_store(&e->hold, false);
	loop_post(e->model.loop, &e->release, echo_release_now);
}

static inline struct echo *echo_of(struct virtio_model *m)
{
	return container_of(m, struct echo, model);
}

static inline void echo_set_features(struct virtio_model *m, uint64_t features)
{
	echo_of(m)->features = features;
}

static inline void echo_config_write(
	struct virtio_model *m, size_t off, const void *buf, size_t len)
{
	memcpy(m->config + off, buf, len);
}

static inline int echo_queue_start(struct virtio_model *m, unsigned i, struct vq *vq)
{
	struct echo *e = echo_of(m);

	if (e->refuse_start)
		return -EIO;
	atomic_fetch_or(&e->running, 1u << i);
	return loop_queue_start(&e->queues[i].queue, m->loop, vq, m->name, echo_serve);
}

static inline void echo_queue_stop(
	struct virtio_model *m, unsigned i, virtio_stopped_fn stopped, void *arg)
{
	struct echo_queue *q = &echo_of(m)->queues[i];

	q->stopped = stopped;
	q->stopped_arg = arg;
	if (!q->held)
		echo_stopped(q);
}

static inline void echo_pause(struct virtio_model *m)
{
	atomic_fetch_add(&echo_of(m)->paused, 1);
}

static inline void echo_resume(struct virtio_model *m)
{
	atomic_fetch_sub(&echo_of(m)->paused, 1);
}

static inline void echo_reset(struct virtio_model *m)
{
	atomic_fetch_add(&echo_of(m)->resets, 1);
	echo_of(m)->features = 0;
}

static inline ssize_t echo_save(struct virtio_model *m, void *buf, size_t size)
{
	if (size < ECHO_CONFIG)
		return -ENOSPC;
	memcpy(buf, m->config, ECHO_CONFIG);
	return ECHO_CONFIG;
}

static inline int echo_load(struct virtio_model *m, const void *buf, size_t len, struct err *err)
{
	if (len != ECHO_CONFIG)
		return err_set(err, -EINVAL, "%zu bytes of state, expected %d", len, ECHO_CONFIG);
	memcpy(m->config, buf, len);
	return 0;
}

static inline void echo_free(struct virtio_model *m)
{
	free(echo_of(m));
}

static const struct virtio_model_ops echo_ops = {
	.set_features = echo_set_features,
	.config_write = echo_config_write,
	.queue_start = echo_queue_start,
	.queue_stop = echo_queue_stop,
	.pause = echo_pause,
	.resume = echo_resume,
	.reset = echo_reset,
	.save = echo_save,
	.load = echo_load,
	.free = echo_free,
};

/* NULL: out of memory. Freed by virtio_model_free(). */
static inline struct echo *echo_new(struct loop *loop)
{
	struct echo *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->model = (struct virtio_model){
		.ops = &echo_ops,
		.name = "echo",
		.type = 63,
		.features = VIRTIO_BIT(VIRTIO_BIT_INDIRECT) | VIRTIO_BIT(VIRTIO_BIT_EVENT_IDX) |
			    VIRTIO_BIT(VIRTIO_BIT_RING_PACKED) | VIRTIO_BIT(VIRTIO_BIT_IN_ORDER) |
			    VIRTIO_BIT(0),
		.nr_queues = ECHO_QUEUES,
		.max_queue_size = ECHO_QUEUE_SIZE,
		.config_size = ECHO_CONFIG,
		.loop = loop,
	};
	for (unsigned i = 0; i < ECHO_CONFIG; i++)
		e->model.config[i] = (uint8_t)(0xa0 + i);
	for (unsigned i = 0; i < ECHO_QUEUES; i++) {
		e->queues[i].index = i;
		e->queues[i].echo = e;
	}
	return e;
}

#endif
