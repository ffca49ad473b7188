/*
 * virtqueue_packed.c - the packed ring: descriptors that go back and forth
 *
 * A position is an index and a wrap counter. Ring entries from the used position up to the
 * available one are taken; there are never more of them than the ring has. A used element goes to
 * the used position, over whatever entry of the driver's lies there, so nothing of a request is
 * read from the ring after it was taken.
 *
 * Each used element is published by its own flags, in the order of the ring. Writing the flags of a
 * batch's first element last would hide the others for a moment longer, but then a process that
 * died in between would leave elements in the ring that look used.
 *
 * Spec: virtio 1.3, 2.8.
 */
#include <assert.h>
#include <errno.h>

#include "base/err.h"
#include "device/virtqueue_priv.h"

#define F_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define F_USED	(1u << VRING_PACKED_DESC_F_USED)
#define WRAP	(1u << VRING_PACKED_EVENT_F_WRAP_CTR)

int vq_packed_map(struct vq *vq, struct err *err)
{
	const struct vq_setup *s = &vq->setup;
	uint64_t nr = s->size;
	void *desc, *driver, *device;
	int rc;

	rc = vq_map(vq, "descriptor ring", s->desc, nr * sizeof(struct vring_packed_desc), 16, true,
		&desc, err);
	if (!rc)
		rc = vq_map(vq, "driver event structure", s->driver, 4, 4, false, &driver, err);
	if (!rc)
		rc = vq_map(vq, "device event structure", s->device, 4, 4, true, &device, err);
	if (rc)
		return rc;
	vq->ring.desc = desc;
	vq->ring.driver = driver;
	vq->ring.device = device;
	return 0;
}

/* What was taken and not used by whoever stopped here is taken again. */
int vq_packed_start(struct vq *vq, struct err *err)
{
	uint16_t avail = vq->setup.base & 0xffff, used = vq->setup.base >> 16;
	struct vq_packed *r = &vq->ring;

	if ((avail & ~WRAP) >= vq->size || (used & ~WRAP) >= vq->size)
		return err_set(err, -EINVAL,
			"base 0x%08x: available offset %u, used offset %u: expected less than %u",
			vq->setup.base, avail & ~WRAP, used & ~WRAP, vq->size);
	r->avail_idx = r->used_idx = used & ~WRAP;
	r->avail_wrap = r->used_wrap = used & WRAP;
	r->unsignalled = 0;
	vq->signal_once = used != WRAP;
	return 0;
}

static uint16_t position(uint16_t idx, bool wrap)
{
	return (uint16_t)(idx | (wrap ? WRAP : 0));
}

uint32_t vq_packed_base(const struct vq *vq)
{
	const struct vq_packed *r = &vq->ring;

	return position(r->avail_idx, r->avail_wrap) | (uint32_t)position(r->used_idx, r->used_wrap)
							       << 16;
}

void vq_packed_advance(const struct vq *vq, uint16_t *idx, bool *wrap, unsigned n)
{
	unsigned at = *idx + n;

	/* n is at most the size, so it wraps once at most. */
	if (at >= vq->size) {
		at -= vq->size;
		*wrap = !*wrap;
	}
	*idx = (uint16_t)at;
}

static bool flags_available(uint16_t flags, bool wrap)
{
	return (flags & (F_AVAIL | F_USED)) == (wrap ? F_AVAIL : F_USED);
}

bool vq_packed_is_available(const struct vq *vq, uint16_t pos)
{
	return flags_available(vq_load(&vq->ring.desc[pos & ~WRAP].flags), pos & WRAP);
}

/* Lists */

static bool walk_table(struct vq_gather *g, const struct vq_desc *d)
{
	struct vq_table t;
	struct vq_desc e;

	if (!vq_table_open(g, &t, d))
		return false;
	/* In a table of this ring, order links the entries; all flags but one are ignored. */
	for (unsigned i = 0; i < t.nr && !g->bad; i++) {
		if (vq_table_read(&t, i, true, &e))
			g->bad = -EFAULT;
		else if (!vq_gather_piece(g, &e))
			return false;
	}
	return true;
}

/* One descriptor of a list, the nr-th (from 0). False: the queue is broken. */
static bool gather_desc(struct vq_gather *g, const struct vq_desc *d, unsigned nr)
{
	if (!(d->flags & VRING_DESC_F_INDIRECT))
		return vq_gather_piece(g, d);
	if (nr || d->flags & VRING_DESC_F_NEXT)
		return vq_fail(g->vq, "an indirect descriptor in a list with others");
	return walk_table(g, d);
}

/*
 * The list that begins at the available position, whose first descriptor is d: the number of its
 * ring entries; 0: the queue is broken. The buffer's id is in the last one.
 */
static unsigned walk_ring(struct vq *vq, struct vq_gather *g, struct vq_desc *d)
{
	uint16_t idx = vq->ring.avail_idx;
	unsigned nr = 0;

	for (;;) {
		if (vq->taken + nr == vq->size)
			return vq_fail(vq, "more descriptors are available than the ring has");
		if (!gather_desc(g, d, nr))
			return 0;
		if (vq->inflight.packed)
			vq_inflight_packed_note(vq, nr, d);
		nr++;
		if (!(d->flags & VRING_DESC_F_NEXT))
			return nr;
		if (++idx == vq->size)
			idx = 0;
		vq_desc_load(&vq->ring.desc[idx], true, d);
	}
}

/* Taking */

int vq_packed_pop(struct vq *vq, struct vq_gather *g)
{
	struct vq_packed *r = &vq->ring;
	const struct vring_packed_desc *first = &r->desc[r->avail_idx];
	struct vq_desc d;
	unsigned nr;

	/* Acquire: the driver writes all of a list before the flags of its first descriptor. */
	if (!flags_available(vq_load_acquire(&first->flags), r->avail_wrap))
		return 0;
	vq_desc_load(first, true, &d);
	nr = walk_ring(vq, g, &d);
	if (!nr)
		return -EINVAL;
	g->id = d.other;
	g->nr_desc = (uint16_t)nr;
	if (vq->inflight.packed)
		g->entry = vq_inflight_packed_take(vq, nr);
	vq_packed_advance(vq, &r->avail_idx, &r->avail_wrap, nr);
	vq->taken += nr;
	return 1;
}

/* The ring entries may be overwritten; the inflight area has a copy. It counts as taken already. */
int vq_packed_pop_again(struct vq *vq, struct vq_gather *g, uint16_t entry)
{
	uint16_t next = entry;
	struct vq_desc d;
	unsigned nr = 0;

	do {
		vq_inflight_packed_read(vq, next, &d, &next);
		if (!gather_desc(g, &d, nr++))
			return -EINVAL;
	} while (next != entry);
	g->id = d.other;
	g->nr_desc = (uint16_t)nr;
	g->entry = entry;
	return 1;
}

void vq_packed_unpop(struct vq *vq, const struct vq_req *req)
{
	struct vq_packed *r = &vq->ring;

	if (vq->inflight.packed)
		vq_inflight_packed_untake(vq, req->entry);
	if (r->avail_idx < req->nr_desc) {
		r->avail_idx += vq->size;
		r->avail_wrap = !r->avail_wrap;
	}
	r->avail_idx -= req->nr_desc;
	vq->taken -= req->nr_desc;
}

/* Publishing */

static void write_used(struct vq *vq, const struct vq_done *done)
{
	struct vq_packed *r = &vq->ring;
	struct vring_packed_desc *d = &r->desc[r->used_idx];
	uint16_t flags = r->used_wrap ? F_AVAIL | F_USED : 0;

	if (done->written)
		flags |= VRING_DESC_F_WRITE;
	vq_store(&d->len, done->written);
	vq_store(&d->id, done->id);
	/* Release: the element, and the data, before the flags that the driver acquires. */
	vq_store_release(&d->flags, flags);
	if (vq->mem->mem->ops->dirty)
		vq_dirty(vq, vq->setup.desc, 16ull * r->used_idx, 16);
	vq_packed_advance(vq, &r->used_idx, &r->used_wrap, done->nr_desc);
	vq->taken -= done->nr_desc;
	r->unsignalled += done->nr_desc;
}

/* Before anything is published, the inflight area learns what will be, and where. */
static void announce(struct vq *vq)
{
	uint16_t idx = vq->ring.used_idx;
	bool wrap = vq->ring.used_wrap;

	for (unsigned i = 0; i < vq->nr_pending; i++) {
		const struct vq_done *done = &vq->pending[i];

		vq_inflight_packed_push(vq, done->entry, position(idx, wrap));
		vq_packed_advance(vq, &idx, &wrap, done->nr_desc);
	}
}

void vq_packed_publish(struct vq *vq)
{
	if (vq->inflight.packed)
		announce(vq);
	for (unsigned i = 0; i < vq->nr_pending; i++)
		write_used(vq, &vq->pending[i]);
	if (vq->inflight.packed)
		vq_inflight_packed_commit(vq);
}

bool vq_packed_must_signal(struct vq *vq)
{
	struct vq_packed *r = &vq->ring;
	uint16_t used = r->unsignalled, off_wrap, flags, event;
	/* One load of both halves: they belong together. */
	uint32_t both = vq_load((const uint32_t *)(const void *)r->driver);

	r->unsignalled = 0;
	off_wrap = both & 0xffff;
	flags = both >> 16 & 3;
	if (flags == VRING_PACKED_EVENT_FLAG_DISABLE)
		return false;
	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !vq->event_idx)
		return true;
	event = off_wrap & (WRAP - 1);
	/* An offset of the other lap lies a ring's length behind, modulo 2^16. */
	if (!!(off_wrap & WRAP) != r->used_wrap)
		event -= vq->size;
	return vring_need_event(event, r->used_idx, (uint16_t)(r->used_idx - used));
}

/* Kicks */

bool vq_packed_ready(struct vq *vq)
{
	const struct vq_packed *r = &vq->ring;

	return flags_available(vq_load(&r->desc[r->avail_idx].flags), r->avail_wrap);
}

void vq_packed_ask_kicks(struct vq *vq, bool want)
{
	struct vq_packed *r = &vq->ring;
	uint32_t both = VRING_PACKED_EVENT_FLAG_DISABLE << 16;

	if (want && vq->event_idx)
		both = position(r->avail_idx, r->avail_wrap) | VRING_PACKED_EVENT_FLAG_DESC << 16;
	else if (want)
		both = VRING_PACKED_EVENT_FLAG_ENABLE << 16;
	vq_store((uint32_t *)(void *)r->device, both);
	vq_dirty(vq, vq->setup.device, 0, 4);
}
