/*
 * vvu_ring.h - a split virtqueue as its driver uses it, with a buffer for each entry; for vvu*.c
 *
 * An entry is a descriptor and its buffer of VVU_BUFFER bytes, under the same number. It is free,
 * or posted: the device's until vvu_ring_reap() gives it back.
 *
 * Descriptor table, available ring and used ring begin pages of their own and no part crosses one,
 * so the pages may lie anywhere for the device.
 *
 * Threads: one at a time.
 * Trusts:  nothing that the device writes.
 * Spec:    virtio 1.3, 2.7.
 */
#ifndef SERVE_VVU_RING_H
#define SERVE_VVU_RING_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"
#include "wire/vvu.h"

#define VVU_BUFFER	1024u
#define VVU_RING_MAX	VVU_QUEUE_SIZE
#define VVU_RING_PAGES	(3 + VVU_RING_MAX * VVU_BUFFER / PAGE_SIZE_4K)
#define VVU_RING_BYTES	(VVU_RING_PAGES * PAGE_SIZE_4K)

struct vvu_ring {
	uint16_t size;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint8_t *buffers;
	const uint64_t *pages; /* where the device finds each page */
	uint16_t next, seen;   /* indices: the next available one, the next used one */
	uint16_t nr_posted;
	bool posted[VVU_RING_MAX];
	bool unsaid; /* something was posted since the last kick */
};

/*
 * A new ring, nothing posted, in VVU_RING_BYTES at mem. Borrows mem and pages. size: a power of
 * two, at most VVU_RING_MAX.
 */
void vvu_ring_init(struct vvu_ring *r, void *mem, const uint64_t *pages, uint16_t size);
/* For the device. */
uint64_t vvu_ring_desc(const struct vvu_ring *r);
uint64_t vvu_ring_driver(const struct vvu_ring *r);
uint64_t vvu_ring_device(const struct vvu_ring *r);

static inline uint8_t *vvu_ring_buffer(const struct vvu_ring *r, unsigned id)
{
	return r->buffers + id * VVU_BUFFER;
}

/* A free entry's number, or -1. */
int vvu_ring_free(const struct vvu_ring *r);
/* Post the entry, which is free: for the device to read len bytes, or to write up to VVU_BUFFER. */
void vvu_ring_post_out(struct vvu_ring *r, unsigned id, uint32_t len);
void vvu_ring_post_in(struct vvu_ring *r, unsigned id);
/* Something was posted that the device wants to be told of; asked once, before it is. */
bool vvu_ring_must_kick(struct vvu_ring *r);
/*
 * 1: the entry *id is free again, the device wrote *len bytes, at most VVU_BUFFER; 0: none;
 * -EPROTO: what the device says makes no sense.
 */
int vvu_ring_reap(struct vvu_ring *r, unsigned *id, uint32_t *len);

#endif
