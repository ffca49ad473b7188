/*
 * vvu.h - a small driver for a VVU function (src/wire/vvu.h)
 *
 * Its registers, its shared memory and its two queues: rx, in whose buffers messages of a sibling's
 * come, and tx, by which messages go there. What they say is the caller's to know. One function.
 */
#ifndef GUEST_VVU_H
#define GUEST_VVU_H

#include "virtio.h"

#define VVU_RX	   0
#define VVU_TX	   1
#define VVU_QUEUES 16 /* --vvu-proxy's default */

#define VVU_CAP_DOORBELL     6
#define VVU_CAP_NOTIFICATION 7
#define VVU_CAP_SHM	     8

#define VVU_BACKEND_UP	1u
#define VVU_FRONTEND_UP 2u

/* Of configuration, rx, tx, then one for each vhost queue */
#define VVU_VECTOR_FIRST 0xa0
#define VVU_VECTORS	 (3 + VVU_QUEUES)

#define VVU_BUFFERS  16
#define VVU_BUF_SIZE 4096

#define VVU_REPLY      4u
#define VVU_NEED_REPLY 8u

struct message {
	uint32_t request, flags, size;
	uint8_t payload[VVU_BUF_SIZE - 12];
} __attribute__((packed));

struct vvu {
	struct virtio dev;
	struct bar bells, memory, small;
	uint64_t memory_at, log_at, inflight_at; /* addresses, as is the next one */
	uint64_t notify;
	uint32_t bell_step;
	uint32_t rx_size; /* of each buffer, at most VVU_BUF_SIZE */
	unsigned rx_next;
};

/* The function that is there. False: there is none, or it lacks a part. */
bool vvu_find(struct vvu *vvu);

/* After a reset: the queues, with so many buffers in rx, and a vector for each vhost queue. */
void vvu_set_up(struct vvu *vvu, unsigned buffers);

/* The next message that has come, and its length, or NULL. It lasts until vvu_done(). */
struct message *vvu_receive(struct vvu *vvu, uint32_t *len);
void vvu_done(struct vvu *vvu, struct message *message);

/*
 * Send what is in vvu_answer, payload and all, as this request. It waits until that is taken or the
 * function wants a reset.
 */
extern struct message vvu_answer;
void vvu_send(struct vvu *vvu, uint32_t request, uint32_t flags, uint32_t size);

/* Give len bytes of vvu_answer to the function as they are. */
void vvu_send_raw(struct vvu *vvu, uint32_t len);

void vvu_ring(const struct vvu *vvu, unsigned bell);

/* Write to every doorbell there could be. */
void vvu_ring_all(const struct vvu *vvu);

/* Wait until the function wants a reset. False: it does not. */
bool vvu_needs_reset(struct vvu *vvu);

#endif
