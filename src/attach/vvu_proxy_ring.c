/*
 * vvu_proxy_ring.c - messages in the driver's buffers
 *
 * A buffer is one message: header and payload as on a socket. A message that finds no room in its
 * buffer, a buffer that holds no message, a ring that makes no sense: the driver has broken its
 * rules, and only a reset helps.
 *
 * Threads: see vvu_proxy_priv.h. A queue may be stopped by a vCPU at any time; it is used under
 *          p->lock alone, so nothing touches its memory afterwards.
 * Trusts:  nothing in the ring (device/virtqueue.h).
 */
#include <errno.h>
#include <string.h>

#include "attach/vvu_proxy_priv.h"

int vvu_ring_start(struct vvu_proxy *p, unsigned i, uint64_t features,
	const struct virtio_queue *q, struct err *err)
{
	struct vvu_ring *r = &p->rings[i];
	const struct vq_setup setup = {
		.size = q->size,
		.event_idx = features & VIRTIO_BIT(VIRTIO_BIT_EVENT_IDX),
		.indirect = features & VIRTIO_BIT(VIRTIO_BIT_INDIRECT),
		.desc = q->desc,
		.driver = q->driver,
		.device = q->device,
	};
	int rc;

	if (p->stopped)
		return err_set(err, -ENODEV, "the device is being removed");
	/* One that is already running begins anew. */
	vvu_ring_stop(p, i);
	atomic_store(&r->ram.taken, false);
	rc = vq_setup(r->vq, &setup, &r->ram.mem, err);
	r->kick_fd = q->kick_fd;
	if (rc) {
		vvu_ram_let_go(&r->ram, 0);
		return rc;
	}
	r->ram.nr_parts = r->ram.nr_holds;
	vq_set_call(r->vq, q->call_fd);
	vq_set_kick(r->vq, q->kick_fd);
	r->running = true;
	return 0;
}

void vvu_ring_stop(struct vvu_proxy *p, unsigned i)
{
	struct vvu_ring *r = &p->rings[i];

	if (r->running)
		vq_stop(r->vq);
	r->running = false;
	r->ram.nr_parts = 0;
	vvu_ram_let_go(&r->ram, 0);
}

void vvu_ring_look(struct vvu_proxy *p, unsigned i)
{
	struct vvu_ring *r = &p->rings[i];

	if (!atomic_load(&r->ram.taken) || !r->running)
		return;
	vvu_ring_stop(p, i);
	vvu_break(p, "queue %u: the guest took its memory back", i);
}

static void ring_broken(struct vvu_proxy *p, unsigned i)
{
	vvu_break(p, "queue %u: %s", i, vq_broken(p->rings[i].vq));
}

bool vvu_rx_ready(struct vvu_proxy *p)
{
	struct vvu_ring *r = &p->rings[VVU_QUEUE_RX];

	return !p->broken && r->running && vq_ready(r->vq);
}

/* The message's buffer is used. */
static void let_go(struct vvu_proxy *p, unsigned i)
{
	struct vvu_ram *ram = &p->rings[i].ram;

	vvu_ram_let_go(ram, ram->nr_parts);
}

static bool give(struct vvu_proxy *p, const struct vhost_user_header *h, const void *payload)
{
	struct vq *vq = p->rings[VVU_QUEUE_RX].vq;
	uint32_t size = h ? (uint32_t)sizeof(*h) + h->size : 0;
	uint64_t iova[VVU_MAX_PIECES];
	struct iovec iov[VVU_MAX_PIECES];
	struct vq_req req = { .iov = iov, .iova = iova, .max_iov = VVU_MAX_PIECES };
	int bad = 0, rc = vq_pop(vq, &req, &bad);

	if (rc <= 0) {
		if (rc)
			ring_broken(p, VVU_QUEUE_RX);
		return false;
	}
	if (bad || req.in_len < size) {
		vq_push(vq, &req, 0);
		vvu_break(p, "a buffer of %llu bytes for a message of %u",
			(unsigned long long)req.in_len, size);
		return false;
	}
	if (h) {
		vq_req_write(&req, 0, h, sizeof(*h));
		vq_req_write(&req, sizeof(*h), payload, h->size);
	}
	vq_push(vq, &req, size);
	return true;
}

bool vvu_rx_give(struct vvu_proxy *p, const struct vhost_user_header *h, const void *payload)
{
	bool given = give(p, h, payload);

	let_go(p, VVU_QUEUE_RX);
	return given;
}

static int take(struct vvu_proxy *p, struct vhost_user_header *h, union vhost_user_payload *payload)
{
	struct vq *vq = p->rings[VVU_QUEUE_TX].vq;
	uint64_t iova[VVU_MAX_PIECES], len;
	struct iovec iov[VVU_MAX_PIECES];
	struct vq_req req = { .iov = iov, .iova = iova, .max_iov = VVU_MAX_PIECES };
	int bad = 0, rc = p->broken ? 0 : vq_pop(vq, &req, &bad);

	if (rc <= 0) {
		if (rc)
			ring_broken(p, VVU_QUEUE_TX);
		return rc;
	}
	len = bad ? 0 : req.out_len;
	memset(payload, 0, sizeof(*payload));
	if (len >= sizeof(*h) && len <= VVU_MAX_MESSAGE) {
		vq_req_read(&req, 0, h, sizeof(*h));
		vq_req_read(&req, sizeof(*h), payload, len - sizeof(*h));
	}
	vq_push(vq, &req, 0);
	if (len < sizeof(*h) || len > VVU_MAX_MESSAGE || h->size != len - sizeof(*h) ||
		(h->flags & VHOST_USER_FLAG_VERSION_MASK) != VHOST_USER_FLAG_VERSION) {
		vvu_break(p, "the driver sends %llu bytes that are no message",
			(unsigned long long)len);
		return -EINVAL;
	}
	return 1;
}

int vvu_tx_take(struct vvu_proxy *p, struct vhost_user_header *h, union vhost_user_payload *payload)
{
	int rc = take(p, h, payload);

	let_go(p, VVU_QUEUE_TX);
	return rc;
}

/* A queue of which nothing is wanted now, or has it already, needs no kicks. */
static bool ask_kicks(struct vvu_proxy *p, unsigned i, bool wanted)
{
	struct vq *vq = p->rings[i].vq;

	vq_notify(vq);
	return vq_want_kicks(vq, wanted) && wanted;
}

bool vvu_rings_notify(struct vvu_proxy *p, bool rx_wanted, bool tx_wanted)
{
	bool more = false, served = vvu_served(p);

	if (p->broken)
		return false;
	/* One without the other is of no use yet: whatever waits in it, nothing is wanted. */
	if (p->rings[VVU_QUEUE_RX].running)
		more |= ask_kicks(p, VVU_QUEUE_RX, served && rx_wanted && !vvu_rx_ready(p));
	if (p->rings[VVU_QUEUE_TX].running)
		more |= ask_kicks(p, VVU_QUEUE_TX, served && tx_wanted);
	return more;
}
