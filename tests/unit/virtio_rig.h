/*
 * virtio_rig.h - a virtio model on a test bench: a loop, guest memory, and a driver of its queues
 *
 *	struct rig r;
 *	rig_init(&r);
 *	rng_new(&r.model, r.loop, &config, &err);
 *	rig_queue(&r, 0, &(struct drv_config){ .size = 8 });
 *	rig_start(&r, 0);
 *	drv_add(r.q[0].drv, ...); rig_kick(&r, 0);
 *	rig_settle(&r);		the model has done all it can for now
 *	rig_fini(&r);		stops what runs, frees all, checks that nothing leaked
 *
 * For models that work in threads of their own there is rig_until(), with a deadline.
 */
#ifndef TESTS_VIRTIO_RIG_H
#define TESTS_VIRTIO_RIG_H

#include <poll.h>
#include <stdbool.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/loop.h"
#include "device/virtio_model.h"
#include "vq_driver.h"

#define RIG_QUEUES	64
#define RIG_DEADLINE_NS (10 * NS_PER_S)

struct rig_queue {
	struct drv *drv;
	struct vq *vq;
	int kick, call, err;
	bool running;
};

struct rig {
	struct loop *loop;
	struct virtio_model *model;
	struct drv_mem *mem;
	struct rig_queue q[RIG_QUEUES];
	struct loop_idle idle;
	bool (*condition)(struct rig *r, void *arg);
	void *arg;
	bool holds;
	uint64_t deadline_ns;
	unsigned rounds;
	unsigned config_changes;
};

static inline void rig_init(struct rig *r)
{
	*r = (struct rig){ 0 };
	if (loop_new(&r->loop))
		abort();
	r->mem = drv_mem_new(4 * MIB);
	for (unsigned i = 0; i < RIG_QUEUES; i++)
		r->q[i].kick = r->q[i].call = r->q[i].err = -1;
}

static inline void rig_count_change(struct virtio_model *m, void *arg)
{
	((struct rig *)arg)->config_changes++;
}

/* The ring of a queue, not started. */
static inline void rig_queue(struct rig *r, unsigned i, const struct drv_config *config)
{
	struct rig_queue *q = &r->q[i];

	r->model->on_config = rig_count_change;
	r->model->on_config_arg = r;
	q->drv = drv_new(r->mem, config);
	q->kick = fd_eventfd();
	q->call = fd_eventfd();
	q->err = fd_eventfd();
	if (q->kick < 0 || q->call < 0 || q->err < 0 || vq_new(&q->vq, i, config->size))
		abort();
}

/* Start it with another base than that of a new ring, or 0 for that. */
static inline int rig_start_as(struct rig *r, unsigned i, const struct vq_setup *s)
{
	struct rig_queue *q = &r->q[i];
	struct err err = { 0 };
	int rc = vq_setup(q->vq, s, &r->mem->mem, &err);

	if (rc)
		return rc;
	vq_set_kick(q->vq, q->kick);
	vq_set_call(q->vq, q->call);
	vq_set_err(q->vq, q->err);
	rc = r->model->ops->queue_start(r->model, i, q->vq);
	q->running = rc == 0;
	return rc;
}

static inline int rig_start(struct rig *r, unsigned i)
{
	struct vq_setup s = drv_setup(r->q[i].drv);

	return rig_start_as(r, i, &s);
}

static inline bool rig_look(struct loop_idle *idle)
{
	struct rig *r = container_of(idle, struct rig, idle);

	r->rounds++;
	r->holds = r->condition(r, r->arg);
	if (!r->holds && clock_now_ns() < r->deadline_ns)
		return true;
	loop_quit(r->loop, 0);
	return false;
}

/* Serve the loop until the condition holds. False: it did not within the deadline. */
static inline bool rig_until(struct rig *r, bool (*condition)(struct rig *r, void *arg), void *arg)
{
	r->condition = condition;
	r->arg = arg;
	r->rounds = 0;
	r->deadline_ns = clock_now_ns() + RIG_DEADLINE_NS;
	loop_idle_set(r->loop, &r->idle, rig_look);
	loop_run(r->loop);
	/* Not asked again: what held may have passed, as a thread's sleep. */
	return r->holds;
}

static inline bool rig_quiet(struct rig *r, void *arg)
{
	return r->rounds >= 3;
}

/* Serve the loop until no source of it is ready. */
static inline void rig_settle(struct rig *r)
{
	rig_until(r, rig_quiet, NULL);
}

static inline void rig_kick(struct rig *r, unsigned i)
{
	if (drv_must_kick(r->q[i].drv))
		fd_signal(r->q[i].kick);
}

static inline void rig_stopped(void *arg, unsigned queue)
{
	((struct rig *)arg)->q[queue].running = false;
}

static inline bool rig_queue_rests(struct rig *r, void *arg)
{
	return !r->q[*(unsigned *)arg].running;
}

/* The base to go on from. */
static inline uint32_t rig_stop(struct rig *r, unsigned i)
{
	r->model->ops->queue_stop(r->model, i, rig_stopped, r);
	if (!rig_until(r, rig_queue_rests, &i))
		abort();
	return vq_stop(r->q[i].vq);
}

static inline void rig_fini(struct rig *r)
{
	for (unsigned i = 0; i < RIG_QUEUES; i++)
		if (r->q[i].running)
			rig_stop(r, i);
	if (r->model)
		r->model->on_config = NULL;
	virtio_model_free(r->model);
	for (unsigned i = 0; i < RIG_QUEUES; i++) {
		struct rig_queue *q = &r->q[i];

		vq_free(q->vq);
		if (q->drv)
			drv_free(q->drv);
		fd_close(&q->kick);
		fd_close(&q->call);
		fd_close(&q->err);
	}
	loop_free(r->loop);
	drv_mem_free(r->mem);
}

/* Whether the driver has a used buffer: cookie and length of the next one. */
struct rig_used {
	unsigned queue;
	void *cookie;
	uint32_t written;
};

static inline bool rig_got(struct rig *r, void *arg)
{
	struct rig_used *u = arg;

	return u->cookie || drv_get(r->q[u->queue].drv, &u->cookie, &u->written);
}

/* Wait for the next used buffer of a queue, whose cookie is not NULL. False: none came. */
static inline bool rig_take(struct rig *r, unsigned queue, struct rig_used *u)
{
	*u = (struct rig_used){ .queue = queue };
	return rig_until(r, rig_got, u);
}

#endif
