/*
 * vq_driver.h - guest memory and a driver of virtqueues, for tests of devices
 *
 * The memory is a buffer at an IOVA other than 0, as a struct guest_mem. The driver lays out a ring
 * in it, split or packed, adds requests, and takes back used ones; it checks what a device
 * may get wrong (`error` says so) and leaves all else to the test:
 *
 *	struct drv_mem *m = drv_mem_new(1 << 20);
 *	struct drv *d = drv_new(m, &(struct drv_config){ .size = 8, .packed = true });
 *	struct vq_setup s = drv_setup(d);
 *	vq_setup(vq, &s, &m->mem, &err);
 *	uint64_t at = drv_alloc(m, 512, 16);
 *	drv_add(d, (struct drv_buf[]){ { at, 16 }, { at + 16, 496 } }, 1, 1, cookie);
 *	if (drv_must_kick(d)) ...
 *	while (drv_get(d, &cookie, &written)) ...
 *
 * All functions are static inline, so that a test uses what it needs. Driver and device may run in
 * threads of their own; one thread for each.
 */
#ifndef TESTS_VQ_DRIVER_H
#define TESTS_VQ_DRIVER_H

#include <assert.h>
#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "device/guest_mem.h"
#include "device/virtqueue.h"

/* Memory */

#define DRV_IOVA      0x10000ull
#define DRV_MAX_TABLE 64u /* descriptors of an indirect table */

struct drv_mem {
	struct guest_mem mem; /* first */
	uint8_t *hva;
	uint64_t size;
	uint64_t next;	 /* to allocate */
	atomic_int refs; /* beyond the test's own */
	/* Mappings end at each multiple of this (of the IOVA); 0: it is all one. */
	uint64_t seam;
	/* This range of IOVAs can only be read. */
	uint64_t ro_iova, ro_len;
	uint8_t *dirty; /* a byte per byte, or NULL: nobody wants to know */
};

static inline struct drv_mem *drv_mem_of(struct guest_mem *mem)
{
	return (struct drv_mem *)(void *)mem;
}

static inline void *drv_mem_ptr(struct guest_mem *mem, uint64_t iova, size_t *len, bool write)
{
	struct drv_mem *m = drv_mem_of(mem);
	uint64_t off = iova - DRV_IOVA;

	if (iova < DRV_IOVA || off >= m->size || !*len)
		return NULL;
	if (write && m->ro_len && iova - m->ro_iova < m->ro_len)
		return NULL;
	*len = MIN(*len, m->size - off);
	if (m->seam)
		*len = MIN(*len, m->seam - iova % m->seam);
	return m->hva + off;
}

static inline int drv_mem_copy(
	struct guest_mem *mem, uint64_t iova, void *to, const void *from, size_t len)
{
	while (len) {
		size_t n = len;
		void *p = drv_mem_ptr(mem, iova, &n, to == NULL);

		if (!p)
			return -EFAULT;
		memcpy(to ? to : p, to ? p : from, n);
		to = to ? (uint8_t *)to + n : NULL;
		from = from ? (const uint8_t *)from + n : NULL;
		iova += n;
		len -= n;
	}
	return 0;
}

static inline int drv_mem_read(struct guest_mem *mem, uint64_t iova, void *buf, size_t len)
{
	return drv_mem_copy(mem, iova, buf, NULL, len);
}

static inline int drv_mem_write(struct guest_mem *mem, uint64_t iova, const void *buf, size_t len)
{
	return drv_mem_copy(mem, iova, NULL, buf, len);
}

static inline void drv_mem_get(struct guest_mem *mem)
{
	drv_mem_of(mem)->refs++;
}

static inline void drv_mem_put(struct guest_mem *mem)
{
	drv_mem_of(mem)->refs--;
}

static inline void drv_mem_dirty(struct guest_mem *mem, uint64_t iova, size_t len)
{
	struct drv_mem *m = drv_mem_of(mem);

	assert(iova >= DRV_IOVA && range_ok(iova - DRV_IOVA, len, m->size));
	memset(m->dirty + (iova - DRV_IOVA), 1, len);
}

#define DRV_MEM_OPS                                                                                \
	.read = drv_mem_read, .write = drv_mem_write, .ptr = drv_mem_ptr, .get = drv_mem_get,      \
	.put = drv_mem_put

/* Shared with children of the process, zeroed. */
static inline struct drv_mem *drv_mem_new(uint64_t size)
{
	static const struct guest_mem_ops ops = { DRV_MEM_OPS };
	struct drv_mem *m = calloc(1, sizeof(*m));

	if (!m)
		abort();
	m->mem.ops = &ops;
	m->size = size;
	m->hva = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (m->hva == MAP_FAILED)
		abort();
	return m;
}

/* From now on m->dirty tells which bytes the device said it wrote. */
static inline void drv_mem_log(struct drv_mem *m)
{
	static const struct guest_mem_ops ops = { DRV_MEM_OPS, .dirty = drv_mem_dirty };

	free(m->dirty);
	m->dirty = calloc(1, m->size);
	if (!m->dirty)
		abort();
	m->mem.ops = &ops;
}

static inline void drv_mem_free(struct drv_mem *m)
{
	assert(!m->refs);
	munmap(m->hva, m->size);
	free(m->dirty);
	free(m);
}

/* The IOVA of len bytes that nobody else gets. */
static inline uint64_t drv_alloc(struct drv_mem *m, uint64_t len, uint64_t align)
{
	m->next = align_up(m->next, align);
	assert(range_ok(m->next, len, m->size));
	m->next += len;
	return DRV_IOVA + m->next - len;
}

/* Where the test reaches an IOVA. */
static inline void *drv_at(struct drv_mem *m, uint64_t iova)
{
	assert(iova >= DRV_IOVA && iova - DRV_IOVA < m->size);
	return m->hva + (iova - DRV_IOVA);
}

/* The driver */

struct drv_config {
	uint16_t size;
	bool packed, event_idx, indirect, in_order;
};

struct drv_buf {
	uint64_t iova;
	uint32_t len;
};

struct drv_req {
	bool open;
	void *cookie;
	uint16_t nr_desc;
	uint64_t in_len;
	uint32_t seq;
};

struct drv {
	struct drv_mem *m;
	struct drv_config config;
	uint64_t desc_iova, driver_iova, device_iova, table_iova;
	const char *error; /* what the device did wrong, first of all */

	/* split */
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t *used_event, *avail_event;
	uint16_t *next_free; /* of each descriptor */
	uint16_t free_head;

	/* packed */
	struct vring_packed_desc *ring;
	struct vring_packed_desc_event *driver, *device;
	uint16_t *ids; /* a queue of free ones */
	uint16_t ids_head;
	bool avail_wrap, used_wrap;

	uint16_t avail_idx, used_idx; /* split: modulo 2^16; packed: positions */
	uint16_t nr_free;
	uint16_t unkicked; /* made available since drv_must_kick() */
	unsigned nr_open;
	uint32_t seq_next, seq_used;
	struct drv_req *reqs; /* by head or id */
};

/* Where the ring lies in the test's process. */
static inline void drv_point(struct drv *d)
{
	struct drv_mem *m = d->m;
	uint64_t n = d->config.size;

	d->desc = drv_at(m, d->desc_iova);
	d->avail = drv_at(m, d->driver_iova);
	d->used = drv_at(m, d->device_iova);
	d->used_event = &d->avail->ring[n];
	d->avail_event = (uint16_t *)&d->used->ring[n];
	d->ring = drv_at(m, d->desc_iova);
	d->driver = drv_at(m, d->driver_iova);
	d->device = drv_at(m, d->device_iova);
}

static inline void drv_layout(struct drv *d)
{
	struct drv_mem *m = d->m;
	uint64_t n = d->config.size;

	d->desc_iova = drv_alloc(m, 16 * n, 16);
	d->driver_iova = drv_alloc(m, d->config.packed ? 4 : 6 + 2 * n, 64);
	d->device_iova = drv_alloc(m, d->config.packed ? 4 : 6 + 8 * n, 64);
	d->table_iova = d->config.indirect ? drv_alloc(m, n * DRV_MAX_TABLE * 16, 16) : 0;
	drv_point(d);
}

/* As after a reset of the device: an empty ring. */
static inline void drv_reset(struct drv *d)
{
	uint16_t n = d->config.size;

	memset(d->desc, 0, 16ull * n);
	memset(d->avail, 0, d->config.packed ? 4 : 6 + 2ull * n);
	memset(d->used, 0, d->config.packed ? 4 : 6 + 8ull * n);
	memset(d->reqs, 0, n * sizeof(d->reqs[0]));
	for (uint16_t i = 0; i < n; i++) {
		d->next_free[i] = (uint16_t)(i + 1);
		d->ids[i] = i;
	}
	d->free_head = d->ids_head = 0;
	d->avail_wrap = d->used_wrap = true;
	d->avail_idx = d->used_idx = 0;
	d->nr_free = n;
	d->unkicked = 0;
	d->nr_open = 0;
	d->seq_next = d->seq_used = 0;
	d->error = NULL;
}

static inline struct drv *drv_new(struct drv_mem *m, const struct drv_config *config)
{
	struct drv *d = calloc(1, sizeof(*d));

	if (!d)
		abort();
	d->m = m;
	d->config = *config;
	d->reqs = calloc(config->size, sizeof(d->reqs[0]));
	d->next_free = calloc(config->size, sizeof(uint16_t));
	d->ids = calloc(config->size, sizeof(uint16_t));
	if (!d->reqs || !d->next_free || !d->ids)
		abort();
	drv_layout(d);
	drv_reset(d);
	return d;
}

/* The same driver at the same moment, with a copy of its memory, or of bytes that its memory held.
 */
static inline struct drv *drv_clone(const struct drv *from, const void *bytes)
{
	struct drv *d = calloc(1, sizeof(*d));
	uint16_t n = from->config.size;

	if (!d)
		abort();
	*d = *from;
	d->m = drv_mem_new(from->m->size);
	d->m->next = from->m->next;
	memcpy(d->m->hva, bytes ? bytes : from->m->hva, from->m->size);
	d->reqs = calloc(n, sizeof(d->reqs[0]));
	d->next_free = calloc(n, sizeof(uint16_t));
	d->ids = calloc(n, sizeof(uint16_t));
	if (!d->reqs || !d->next_free || !d->ids)
		abort();
	memcpy(d->reqs, from->reqs, n * sizeof(d->reqs[0]));
	memcpy(d->next_free, from->next_free, n * sizeof(uint16_t));
	memcpy(d->ids, from->ids, n * sizeof(uint16_t));
	drv_point(d);
	return d;
}

static inline void drv_free(struct drv *d)
{
	free(d->reqs);
	free(d->next_free);
	free(d->ids);
	free(d);
}

/* A set-up for the device, of a ring that has not been used yet. */
static inline struct vq_setup drv_setup(const struct drv *d)
{
	return (struct vq_setup){
		.size = d->config.size,
		.packed = d->config.packed,
		.event_idx = d->config.event_idx,
		.indirect = d->config.indirect,
		.in_order = d->config.in_order,
		.desc = d->desc_iova,
		.driver = d->driver_iova,
		.device = d->device_iova,
		.base = d->config.packed ? 0x80008000u : 0,
	};
}

static inline uint16_t drv_packed_flags(const struct drv *d, bool wrap)
{
	return (uint16_t)(wrap ? 1u << VRING_PACKED_DESC_F_AVAIL : 1u << VRING_PACKED_DESC_F_USED);
}

static inline struct vring_desc drv_split_desc(const struct drv_buf *b, bool write)
{
	return (struct vring_desc){
		.addr = b->iova,
		.len = b->len,
		.flags = write ? VRING_DESC_F_WRITE : 0,
	};
}

/* The table of request id, filled. */
static inline uint64_t drv_fill_table(
	struct drv *d, uint16_t id, const struct drv_buf *bufs, unsigned nr_out, unsigned nr_in)
{
	uint64_t at = d->table_iova + 16ull * DRV_MAX_TABLE * id;
	struct vring_packed_desc *p = drv_at(d->m, at);
	struct vring_desc *s = drv_at(d->m, at);
	unsigned nr = nr_out + nr_in;

	assert(nr <= DRV_MAX_TABLE);
	for (unsigned i = 0; i < nr; i++) {
		uint16_t write = i >= nr_out ? VRING_DESC_F_WRITE : 0;

		if (d->config.packed) {
			p[i] = (struct vring_packed_desc){
				.addr = bufs[i].iova, .len = bufs[i].len, .flags = write
			};
			continue;
		}
		s[i] = drv_split_desc(&bufs[i], write);
		if (i + 1 < nr) {
			s[i].flags |= VRING_DESC_F_NEXT;
			s[i].next = (uint16_t)(i + 1);
		}
	}
	return at;
}

static inline void drv_note(struct drv *d, uint16_t id, const struct drv_buf *bufs, unsigned nr_out,
	unsigned nr_in, unsigned nr_desc, void *cookie)
{
	struct drv_req *r = &d->reqs[id];

	assert(!r->open);
	*r = (struct drv_req){
		.open = true, .cookie = cookie, .nr_desc = (uint16_t)nr_desc, .seq = d->seq_next++
	};
	for (unsigned i = 0; i < nr_in; i++)
		r->in_len += bufs[nr_out + i].len;
	d->nr_free -= nr_desc;
	d->nr_open++;
}

static inline void drv_add_split(struct drv *d, const struct drv_buf *bufs, unsigned nr_out,
	unsigned nr_in, bool indirect, void *cookie)
{
	unsigned nr = indirect ? 1 : nr_out + nr_in;
	uint16_t head = d->free_head, at = head;

	if (indirect) {
		d->desc[at] = (struct vring_desc){
			.addr = drv_fill_table(d, head, bufs, nr_out, nr_in),
			.len = 16 * (nr_out + nr_in),
			.flags = VRING_DESC_F_INDIRECT,
		};
		at = d->next_free[at];
	}
	for (unsigned i = 0; !indirect && i < nr; i++) {
		d->desc[at] = drv_split_desc(&bufs[i], i >= nr_out);
		if (i + 1 < nr) {
			d->desc[at].flags |= VRING_DESC_F_NEXT;
			d->desc[at].next = d->next_free[at];
		}
		at = d->next_free[at];
	}
	d->free_head = at;
	drv_note(d, head, bufs, nr_out, nr_in, nr, cookie);
	__atomic_store_n(&d->avail->ring[d->avail_idx % d->config.size], head, __ATOMIC_RELAXED);
	/* Pairs with the device's acquire of the index. */
	__atomic_store_n(&d->avail->idx, ++d->avail_idx, __ATOMIC_RELEASE);
	d->unkicked++;
}

static inline void drv_advance(const struct drv *d, uint16_t *idx, bool *wrap, unsigned n)
{
	unsigned at = *idx + n;

	if (at >= d->config.size) {
		at -= d->config.size;
		*wrap = !*wrap;
	}
	*idx = (uint16_t)at;
}

static inline void drv_add_packed(struct drv *d, const struct drv_buf *bufs, unsigned nr_out,
	unsigned nr_in, bool indirect, void *cookie)
{
	unsigned nr = indirect ? 1 : nr_out + nr_in;
	uint16_t id = d->ids[d->ids_head], first = d->avail_idx, first_flags = 0;

	d->ids_head = (uint16_t)((d->ids_head + 1) % d->config.size);
	for (unsigned i = 0; i < nr; i++) {
		struct vring_packed_desc *p = &d->ring[d->avail_idx];
		uint16_t flags = drv_packed_flags(d, d->avail_wrap);

		if (indirect) {
			p->addr = drv_fill_table(d, id, bufs, nr_out, nr_in);
			p->len = 16 * (nr_out + nr_in);
			flags |= VRING_DESC_F_INDIRECT;
		} else {
			p->addr = bufs[i].iova;
			p->len = bufs[i].len;
			flags |= i >= nr_out ? VRING_DESC_F_WRITE : 0;
			flags |= i + 1 < nr ? VRING_DESC_F_NEXT : 0;
		}
		p->id = id;
		if (i)
			__atomic_store_n(&p->flags, flags, __ATOMIC_RELAXED);
		else
			first_flags = flags;
		drv_advance(d, &d->avail_idx, &d->avail_wrap, 1);
	}
	drv_note(d, id, bufs, nr_out, nr_in, nr, cookie);
	/* Pairs with the device's acquire of these flags. */
	__atomic_store_n(&d->ring[first].flags, first_flags, __ATOMIC_RELEASE);
	d->unkicked = (uint16_t)(d->unkicked + nr);
}

/* Direct or indirect as said. 0; -ENOSPC: the ring has no room. */
static inline int drv_add_as(struct drv *d, const struct drv_buf *bufs, unsigned nr_out,
	unsigned nr_in, bool indirect, void *cookie)
{
	assert(nr_out + nr_in);
	if ((indirect ? 1 : nr_out + nr_in) > d->nr_free)
		return -ENOSPC;
	if (d->config.packed)
		drv_add_packed(d, bufs, nr_out, nr_in, indirect, cookie);
	else
		drv_add_split(d, bufs, nr_out, nr_in, indirect, cookie);
	return 0;
}

/* Indirect when the feature is on and there is more than one buffer. */
static inline int drv_add(
	struct drv *d, const struct drv_buf *bufs, unsigned nr_out, unsigned nr_in, void *cookie)
{
	return drv_add_as(d, bufs, nr_out, nr_in, d->config.indirect && nr_out + nr_in > 1, cookie);
}

/* Whether the device wants to hear of what was added since the last call. */
static inline bool drv_must_kick(struct drv *d)
{
	uint16_t since = d->unkicked, event, flags;
	uint32_t both;

	d->unkicked = 0;
	/* Pairs with the device's barrier between its request for kicks and its look at the ring.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	if (!since)
		return false;
	if (!d->config.packed) {
		if (!d->config.event_idx)
			return !(__atomic_load_n(&d->used->flags, __ATOMIC_RELAXED) &
				 VRING_USED_F_NO_NOTIFY);
		event = __atomic_load_n(d->avail_event, __ATOMIC_RELAXED);
		return vring_need_event(event, d->avail_idx, (uint16_t)(d->avail_idx - since));
	}
	both = __atomic_load_n((uint32_t *)(void *)d->device, __ATOMIC_RELAXED);
	flags = both >> 16;
	if (flags != VRING_PACKED_EVENT_FLAG_DESC)
		return flags == VRING_PACKED_EVENT_FLAG_ENABLE;
	event = both & 0x7fff;
	if (!!(both & 0x8000) != d->avail_wrap)
		event = (uint16_t)(event - d->config.size);
	return vring_need_event(event, d->avail_idx, (uint16_t)(d->avail_idx - since));
}

/*
 * Ask for a signal at the next used buffer (event_idx: `after` buffers later), or say that none are
 * wanted. Look for used ones after asking.
 */
static inline void drv_want_signals(struct drv *d, bool want, uint16_t after)
{
	uint32_t both = VRING_PACKED_EVENT_FLAG_DISABLE << 16;
	uint16_t at = d->used_idx;
	bool wrap = d->used_wrap;

	if (d->config.packed) {
		drv_advance(d, &at, &wrap, after);
		if (want && d->config.event_idx)
			both = at | (wrap ? 0x8000u : 0) | VRING_PACKED_EVENT_FLAG_DESC << 16;
		else if (want)
			both = VRING_PACKED_EVENT_FLAG_ENABLE << 16;
		__atomic_store_n((uint32_t *)(void *)d->driver, both, __ATOMIC_RELAXED);
	} else if (d->config.event_idx) {
		at = (uint16_t)(want ? at + after : at - 1);
		__atomic_store_n(d->used_event, at, __ATOMIC_RELAXED);
	} else {
		__atomic_store_n(
			&d->avail->flags, want ? 0 : VRING_AVAIL_F_NO_INTERRUPT, __ATOMIC_RELAXED);
	}
	/* Pairs with the device's barrier between used buffers and its look at what is wanted. */
	atomic_thread_fence(memory_order_seq_cst);
}

static inline bool drv_wrong(struct drv *d, const char *what)
{
	if (!d->error)
		d->error = what;
	return false;
}

static inline bool drv_take_back(
	struct drv *d, uint32_t id, uint32_t len, void **cookie, uint32_t *written)
{
	struct drv_req *r = &d->reqs[id];

	if (id >= d->config.size || !r->open)
		return drv_wrong(d, "used: not a request that is open");
	if (len > r->in_len)
		return drv_wrong(d, "used: more bytes written than there was room for");
	if (d->config.in_order && r->seq != d->seq_used)
		return drv_wrong(d, "used: out of order");
	d->seq_used++;
	r->open = false;
	d->nr_open--;
	d->nr_free += r->nr_desc;
	*cookie = r->cookie;
	*written = len;
	return true;
}

static inline bool drv_get_split(struct drv *d, void **cookie, uint32_t *written)
{
	struct vring_used_elem e;
	uint16_t at;

	/* Pairs with the device's release of the index. */
	if (__atomic_load_n(&d->used->idx, __ATOMIC_ACQUIRE) == d->used_idx)
		return false;
	if (!d->nr_open)
		return drv_wrong(d, "used: more than were made available");
	e = d->used->ring[d->used_idx % d->config.size];
	if (!drv_take_back(d, e.id, e.len, cookie, written))
		return false;
	d->used_idx++;
	at = (uint16_t)e.id;
	while (d->desc[at].flags & VRING_DESC_F_NEXT)
		at = d->desc[at].next;
	d->next_free[at] = d->free_head;
	for (at = (uint16_t)e.id; d->desc[at].flags & VRING_DESC_F_NEXT; at = d->desc[at].next)
		d->next_free[at] = d->desc[at].next;
	d->free_head = (uint16_t)e.id;
	return true;
}

static inline bool drv_get_packed(struct drv *d, void **cookie, uint32_t *written)
{
	struct vring_packed_desc *p = &d->ring[d->used_idx];
	/* Pairs with the device's release of these flags. */
	uint16_t flags = __atomic_load_n(&p->flags, __ATOMIC_ACQUIRE), id;
	bool avail = flags & 1u << VRING_PACKED_DESC_F_AVAIL;
	bool used = flags & 1u << VRING_PACKED_DESC_F_USED;

	if (!d->nr_open || avail != d->used_wrap || used != d->used_wrap)
		return false;
	id = p->id;
	if (!drv_take_back(d, id, flags & VRING_DESC_F_WRITE ? p->len : 0, cookie, written))
		return false;
	drv_advance(d, &d->used_idx, &d->used_wrap, d->reqs[id].nr_desc);
	d->ids[(d->ids_head + d->config.size - 1 - d->nr_open) % d->config.size] = id;
	return true;
}

/* Take one used request back. False: there is none, or it is wrong (d->error). */
static inline bool drv_get(struct drv *d, void **cookie, uint32_t *written)
{
	if (d->error)
		return false;
	return d->config.packed ? drv_get_packed(d, cookie, written)
				: drv_get_split(d, cookie, written);
}

#endif
