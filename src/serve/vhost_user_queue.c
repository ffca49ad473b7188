/*
 * vhost_user_queue.c - a queue, from what the front-end says of it to the model and back
 *
 * A queue runs from the moment when size, addresses, memory, a SET_VRING_KICK and an enable are
 * all there, in whatever order they came, until GET_VRING_BASE or a disable. Front-ends
 * differ in the order, and the guest may have filled the ring before its last piece
 * arrived: so a queue that starts is looked at once without a kick. While the model has
 * it, its memory and its call and error descriptors can change under a pause; anything else waits
 * until the model has stopped it.
 *
 * A ring that cannot start, its parts lie outside the memory for one, is that queue's trouble
 * alone: it is logged, its error descriptor is signalled, and the others are served.
 *
 * Spec: vhost-user, "Ring states", "Front-end message types".
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#include "base/fd.h"
#include "base/kick.h"
#include "base/util.h"
#include "serve/vhost_user_port.h"
#include "wire/virtio.h"

void vhu_queue_init(struct vhost_user_port *p, unsigned index)
{
	p->queues[index] = (struct vhu_queue){
		.port = p,
		.index = index,
		.kick_fd = -1,
		.call_fd = -1,
		.err_fd = -1,
	};
}

bool vhu_queues_rest(const struct vhost_user_port *p)
{
	for (unsigned i = 0; i < p->nr_queues; i++)
		if (p->queues[i].state != VHU_IDLE)
			return false;
	return true;
}

static bool has(const struct vhost_user_port *p, unsigned bit)
{
	return p->features & VIRTIO_BIT(bit);
}

/* Starting */

static bool is_ready(const struct vhu_queue *q)
{
	const struct vhost_user_port *p = q->port;

	return q->state == VHU_IDLE && q->kicked && q->num && q->has_addr && p->seen &&
	       p->features_set && (q->enabled || !has(p, VIRTIO_BIT_VHOST_USER));
}

static bool is_translated(const struct vhost_user_port *p)
{
	return has(p, VIRTIO_BIT_ACCESS_PLATFORM);
}

/* Behind an IOMMU addresses are what the driver said. */
static int translate(
	const struct vhu_queue *q, const char *part, uint64_t user, uint64_t *gpa, struct err *err)
{
	*gpa = user;
	if (is_translated(q->port))
		return 0;
	if (vhu_mem_from_user(q->port->mem, user, gpa))
		return 0;
	return err_set(err, -EFAULT, "%s: the front-end's address 0x%" PRIx64 " is not shared",
		part, user);
}

/*
 * Where a packed ring goes on: available place and wrap counter in the low half, used ones in the
 * high half. A new ring begins with both counters 1. Some front-ends (DPDK's) fill in the low half
 * only: a ring that was stopped has used all that it took, so both are the same.
 */
static uint32_t packed_base(const struct vhu_queue *q)
{
	if (!q->has_base)
		return 0x80008000;
	return q->base >> 16 ? q->base : q->base << 16 | q->base;
}

static int set_up(struct vhu_queue *q, struct err *err)
{
	const struct vhost_user_port *p = q->port;
	struct vq_setup s = {
		.size = q->num,
		.packed = has(p, VIRTIO_BIT_RING_PACKED),
		.event_idx = has(p, VIRTIO_BIT_EVENT_IDX),
		.indirect = has(p, VIRTIO_BIT_INDIRECT),
		.in_order = has(p, VIRTIO_BIT_IN_ORDER),
		.base = q->base,
	};
	int rc;

	if (s.packed)
		s.base = packed_base(q);
	rc = translate(q, "descriptor table", q->desc, &s.desc, err);

	if (!rc)
		rc = translate(q, "available ring", q->driver, &s.driver, err);
	if (!rc)
		rc = translate(q, "used ring", q->device, &s.device, err);
	if (rc)
		return rc;
	s.inflight = vhu_inflight_region(q, &s.inflight_size);
	return vq_setup(q->vq, &s, p->seen, err);
}

static void retire(struct vhu_queue *q)
{
	vq_free(q->vq);
	q->vq = NULL;
	q->state = VHU_IDLE;
}

/* The queue does not work: whoever looks at its error descriptor may know. */
static void report(struct vhu_queue *q, const char *text)
{
	if (!q->failed)
		vhu_complain(q->port, "queue %u does not start: %s", q->index, text);
	q->failed = true;
	if (q->err_fd >= 0)
		kick(q->err_fd);
}

static void tell_call(struct vhu_queue *q)
{
	const struct vhost_user_port_config *c = &q->port->config;

	if (c->bell)
		vq_set_bell(q->vq, q->call_fd >= 0 ? c->bell(c->arg, q->index) : NULL);
	else
		vq_set_call(q->vq, q->call_fd);
}

static void tell_err(struct vhu_queue *q)
{
	vq_set_err(q->vq, q->err_fd);
}

static int start(struct vhu_queue *q, struct err *err)
{
	struct virtio_model *m = q->port->model;
	int rc = vq_new(&q->vq, q->index, q->num);

	if (rc)
		return err_set(err, rc, "out of memory");
	vq_set_kick(q->vq, q->kick_fd);
	tell_call(q);
	tell_err(q);
	rc = set_up(q, err);
	if (!rc) {
		vhu_tell_features(q->port);
		q->state = VHU_RUNNING;
		rc = m->ops->queue_start(m, q->index, q->vq);
		if (rc)
			err_set(err, rc, "the device cannot serve it");
	}
	if (rc)
		retire(q);
	return rc;
}

int vhu_queue_start(struct vhu_queue *q, struct err *err)
{
	struct err why = { 0 };
	int rc;

	if (!is_ready(q))
		return 0;
	rc = start(q, &why);
	if (rc) {
		report(q, why.text);
		return err_set(err, rc, "queue %u does not start: %s", q->index, why.text);
	}
	q->failed = false;
	log_debug(
		"%s vhost-user: queue %u runs, %u entries", q->port->model->name, q->index, q->num);
	return 0;
}

void vhu_queues_start(struct vhost_user_port *p)
{
	for (unsigned i = 0; i < p->nr_queues; i++)
		vhu_queue_start(&p->queues[i], NULL);
}

/* Stopping */

static void on_stopped(void *arg, unsigned index)
{
	struct vhost_user_port *p = arg;
	struct vhu_queue *q = &p->queues[index];
	vhu_after_fn after = p->after;

	assert(q->state == VHU_STOPPING && p->stopping);
	/* A front-end that has gone does not hear of the base: the inflight area has to know. */
	if (p->client == VHU_LEAVING)
		vq_leave(q->vq);
	else
		q->base = vq_stop(q->vq);
	q->has_base = true;
	retire(q);
	if (--p->stopping || !after)
		return;
	p->after = NULL;
	after(p);
}

bool vhu_queues_stop(struct vhost_user_port *p, unsigned first, unsigned nr)
{
	vhu_after_fn after = p->after;

	/* A stop may be complete at once; what comes afterwards is for the last one. */
	p->after = NULL;
	for (unsigned i = first; i < first + nr; i++) {
		if (p->queues[i].state != VHU_RUNNING)
			continue;
		p->queues[i].state = VHU_STOPPING;
		p->stopping++;
		p->model->ops->queue_stop(p->model, i, on_stopped, p);
	}
	p->after = after;
	return !p->stopping;
}

/* Changing */

static void exchange(struct vhu_queue *q, int *at, int fd, void (*tell)(struct vhu_queue *q))
{
	int old = *at;

	*at = fd;
	if (q->vq) {
		vhu_pause(q->port);
		tell(q);
		vhu_resume(q->port);
	}
	/* Nobody can be about to write to it any more. */
	fd_close(&old);
}

void vhu_queue_set_call(struct vhu_queue *q, int fd)
{
	exchange(q, &q->call_fd, fd, tell_call);
}

void vhu_queue_set_err(struct vhu_queue *q, int fd)
{
	exchange(q, &q->err_fd, fd, tell_err);
}

void vhu_queue_set_kick(struct vhu_queue *q, int fd)
{
	assert(q->state == VHU_IDLE);
	fd_close(&q->kick_fd);
	q->kick_fd = fd;
	q->kicked = true;
}

static bool is_there(const struct vhu_queue *q, uint64_t user, uint64_t was)
{
	uint64_t new_gpa, gpa;

	if (is_translated(q->port))
		return user == was;
	return vhu_mem_from_user(q->port->mem, user, &new_gpa) &&
	       vhu_mem_from_user(q->port->mem, was, &gpa) && new_gpa == gpa;
}

int vhu_queue_set_addr(struct vhu_queue *q, const struct vhost_user_vring_addr *a, struct err *err)
{
	/* Logging begins and ends with the same addresses and another flag. */
	if (q->state != VHU_IDLE &&
		(!is_there(q, a->desc, q->desc) || !is_there(q, a->avail, q->driver) ||
			!is_there(q, a->used, q->device)))
		return err_set(err, -EBUSY, "queue %u is running and cannot be moved", q->index);
	q->desc = a->desc;
	q->driver = a->avail;
	q->device = a->used;
	q->has_addr = true;
	return 0;
}

int vhu_queues_see(struct vhost_user_port *p)
{
	struct guest_mem *seen = NULL;
	int rc = 0;

	if (p->mem && is_translated(p))
		rc = vhu_iotlb_mem_new(&p->iotlb, p->mem, &seen);
	else if (p->mem)
		seen = guest_mem_get(&p->mem->mem);
	if (rc)
		return rc;
	guest_mem_put(p->seen);
	p->seen = seen;
	return 0;
}

void vhu_queues_set_mem(struct vhost_user_port *p, struct vhu_mem *mem)
{
	struct vhu_mem *old = p->mem;

	vhu_pause(p);
	p->mem = mem;
	if (vhu_queues_see(p))
		vhu_doom(p, "out of memory");
	for (unsigned i = 0; i < p->nr_queues; i++) {
		struct vhu_queue *q = &p->queues[i];
		struct err why = { 0 };

		if (q->state != VHU_IDLE && vq_set_mem(q->vq, p->seen, &why)) {
			vhu_complain(p, "queue %u has lost its memory: %s", i, why.text);
			if (q->err_fd >= 0)
				kick(q->err_fd);
		}
	}
	vhu_resume(p);
	vhu_mem_put(old);
}

void vhu_queue_reset(struct vhu_queue *q)
{
	assert(q->state == VHU_IDLE);
	fd_close(&q->kick_fd);
	q->num = 0;
	q->base = 0;
	q->has_addr = q->has_base = q->enabled = q->kicked = q->failed = false;
}

void vhu_queue_fini(struct vhu_queue *q)
{
	vhu_queue_reset(q);
	fd_close(&q->call_fd);
	fd_close(&q->err_fd);
}
