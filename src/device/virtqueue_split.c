/*
 * virtqueue_split.c - the split ring: a descriptor table, an available and a used ring
 *
 * The driver's index counts modulo 2^16 and may be ahead of what we took by the queue's size at
 * most. A head that is taken cannot be made available again before it was used; a driver that does
 * so breaks its queue, so that never more requests are open than the queue has entries.
 *
 * Spec: virtio 1.3, 2.7.
 */
#include <assert.h>
#include <errno.h>

#include "base/util.h"
#include "device/virtqueue_priv.h"

int vq_split_map(struct vq *vq, struct err *err)
{
	const struct vq_setup *s = &vq->setup;
	struct vq_split *r = &vq->split;
	uint64_t nr = s->size;
	void *desc, *avail, *used;
	int rc;

	rc = vq_map(vq, "descriptor table", s->desc, nr * sizeof(struct vring_desc), 16, false,
		&desc, err);
	if (!rc)
		rc = vq_map(vq, "available ring", s->driver, 6 + 2 * nr, 2, false, &avail, err);
	if (!rc)
		rc = vq_map(vq, "used ring", s->device, 6 + 8 * nr, 4, true, &used, err);
	if (rc)
		return rc;
	r->desc = desc;
	r->avail = avail;
	r->used = used;
	/* virtio 1.3, 2.7.10: each ring ends with the other side's event index. */
	r->used_event = &r->avail->ring[nr];
	r->avail_event = (uint16_t *)&r->used->ring[nr];
	return 0;
}

/*
 * Where the driver is with the used ring is where we go on: what it has not seen used is done
 * again, rather than never.
 */
int vq_split_start(struct vq *vq, struct err *err)
{
	struct vq_split *r = &vq->split;

	r->mask = vq->size - 1;
	r->taken = vq->taken_heads;
	r->used_idx = vq_load(&r->used->idx);
	r->signalled = r->used_idx;
	r->last_avail = r->seen_avail = r->used_idx;
	vq->signal_once = r->used_idx != 0;
	return 0;
}

uint32_t vq_split_base(const struct vq *vq)
{
	return vq->split.last_avail;
}

/* Chains */

/*
 * Following links in a table of nr descriptors takes at most nr steps, or there is a loop. False:
 * the queue is broken.
 */
static bool walk_table(struct vq_gather *g, const struct vq_table *t)
{
	struct vq_desc d;
	unsigned i = 0;

	for (unsigned steps = 0; steps < t->nr; steps++) {
		if (vq_table_read(t, i, false, &d)) {
			g->bad = -EFAULT;
			return true;
		}
		if (d.flags & VRING_DESC_F_INDIRECT)
			return vq_fail(g->vq, "an indirect descriptor in an indirect table");
		if (!vq_gather_piece(g, &d))
			return false;
		if (!(d.flags & VRING_DESC_F_NEXT) || g->bad)
			return true;
		i = d.other;
		if (i >= t->nr)
			return vq_fail(g->vq, "a link leads out of an indirect table");
	}
	return vq_fail(g->vq, "the links of an indirect table form a loop");
}

static bool walk_indirect(struct vq_gather *g, const struct vq_desc *d)
{
	struct vq_table t;

	if (d->flags & VRING_DESC_F_NEXT)
		return vq_fail(g->vq, "an indirect descriptor with another one after it");
	if (!vq_table_open(g, &t, d))
		return false;
	return g->bad || walk_table(g, &t);
}

static bool walk_chain(struct vq_gather *g, uint16_t head)
{
	struct vq *vq = g->vq;
	unsigned i = head;
	struct vq_desc d;

	for (unsigned steps = 0; steps < vq->size; steps++) {
		vq_desc_load(&vq->split.desc[i], false, &d);
		if (d.flags & VRING_DESC_F_INDIRECT)
			return walk_indirect(g, &d);
		if (!vq_gather_piece(g, &d))
			return false;
		/* The rest of a request that is not served matters to nobody. */
		if (!(d.flags & VRING_DESC_F_NEXT) || g->bad)
			return true;
		i = d.other;
		if (i >= vq->size)
			return vq_fail(vq, "a descriptor's link leads out of the table");
	}
	return vq_fail(vq, "the links of descriptors form a loop");
}

/* Taking */

/* Whether the driver is ahead of us. *more: it is. False: the queue is broken. */
static bool look(struct vq *vq, bool *more)
{
	struct vq_split *r = &vq->split;

	/* Acquire: the driver writes descriptors and ring entry before the index. */
	r->seen_avail = vq_load_acquire(&r->avail->idx);
	if ((uint16_t)(r->seen_avail - r->last_avail) > vq->size) {
		r->seen_avail = r->last_avail;
		return vq_fail(vq, "the available index is ahead by more than the queue's size");
	}
	*more = r->seen_avail != r->last_avail;
	return true;
}

static bool take_head(struct vq *vq, struct vq_gather *g, uint16_t head)
{
	if (!walk_chain(g, head))
		return false;
	g->id = head;
	g->nr_desc = 1;
	return true;
}

int vq_split_pop(struct vq *vq, struct vq_gather *g)
{
	struct vq_split *r = &vq->split;
	bool more = true;
	uint16_t head;

	if (r->seen_avail == r->last_avail && !look(vq, &more))
		return -EINVAL;
	if (!more)
		return 0;
	head = vq_load(&r->avail->ring[r->last_avail & r->mask]);
	if (head >= vq->size) {
		vq_fail(vq, "the available ring names a descriptor beyond the table");
		return -EINVAL;
	}
	if (r->taken[head]) {
		vq_fail(vq, "a descriptor was made available again before it was used");
		return -EINVAL;
	}
	if (!take_head(vq, g, head))
		return -EINVAL;
	if (vq->inflight.split)
		vq_inflight_split_take(vq, head);
	r->taken[head] = 1;
	r->last_avail++;
	vq->taken++;
	return 1;
}

/* It counts as taken since the area was opened. */
int vq_split_pop_again(struct vq *vq, struct vq_gather *g, uint16_t head)
{
	return take_head(vq, g, head) ? 1 : -EINVAL;
}

void vq_split_unpop(struct vq *vq, const struct vq_req *req)
{
	struct vq_split *r = &vq->split;

	if (vq->inflight.split)
		vq_inflight_split_untake(vq, req->id);
	r->taken[req->id] = 0;
	r->last_avail--;
	vq->taken--;
}

/* Publishing */

static void log_used(struct vq *vq, uint16_t first)
{
	unsigned at = first & vq->split.mask, nr = vq->nr_pending;
	unsigned to_end = MIN(nr, vq->size - at);
	uint64_t ring = vq->setup.device;

	vq_dirty(vq, ring, 4 + 8ull * at, 8ull * to_end);
	if (nr > to_end)
		vq_dirty(vq, ring, 4, 8ull * (nr - to_end));
	vq_dirty(vq, ring, 0, 4);
}

void vq_split_publish(struct vq *vq)
{
	struct vq_split *r = &vq->split;
	uint16_t first = r->used_idx;

	for (unsigned i = 0; i < vq->nr_pending; i++) {
		const struct vq_done *done = &vq->pending[i];
		struct vring_used_elem *e = &r->used->ring[r->used_idx++ & r->mask];

		vq_store(&e->id, done->id);
		vq_store(&e->len, done->written);
		r->taken[done->id] = 0;
		if (vq->inflight.split)
			vq_inflight_split_push(vq, done->id);
	}
	vq->taken -= vq->nr_pending;
	/* Release: the elements, and the data, before the index that the driver acquires. */
	vq_store_release(&r->used->idx, r->used_idx);
	if (vq->inflight.split)
		vq_inflight_split_commit(vq);
	if (vq->mem->mem->ops->dirty)
		log_used(vq, first);
}

bool vq_split_must_signal(struct vq *vq)
{
	struct vq_split *r = &vq->split;
	uint16_t old = r->signalled;

	r->signalled = r->used_idx;
	if (!vq->event_idx)
		return !(vq_load(&r->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	return vring_need_event(vq_load(r->used_event), r->used_idx, old);
}

/* Kicks */

bool vq_split_ready(struct vq *vq)
{
	const struct vq_split *r = &vq->split;

	return vq_load(&r->avail->idx) != r->last_avail;
}

/*
 * With the event index nothing is said when no kicks are wanted: the index that was asked for lies
 * behind, and the driver passes it once in 65536 requests.
 */
void vq_split_ask_kicks(struct vq *vq, bool want)
{
	struct vq_split *r = &vq->split;
	uint64_t off = 0;

	if (vq->event_idx) {
		if (!want)
			return;
		vq_store(r->avail_event, r->last_avail);
		off = 4 + 8ull * vq->size;
	} else {
		vq_store(&r->used->flags, want ? 0 : VRING_USED_F_NO_NOTIFY);
	}
	vq_dirty(vq, vq->setup.device, off, 2);
}
