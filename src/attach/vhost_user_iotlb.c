/*
 * vhost_user_iotlb.c - what a device behind the guest's IOMMU may reach, for its back-end
 *
 * The back-end has all of RAM by the memory table; what it finds at an IOVA the IOTLB says: entries
 * that name RAM by the addresses of that table. It is told of each mapping before the guest's
 * request is done, and has answered by then; so it never needs to ask. One that drops entries and
 * asks again (BACKEND_IOTLB_MSG) is refused: such requests of the guest fail.
 *
 * All there is goes out with the set-up of the first queues of a connection, by whoever holds the
 * socket, in portions: a guest may have mapped a great deal, and the loop has others to serve. A
 * change that comes meanwhile has been made in the space's tables before its listener gets the
 * socket: it is told twice rather than not at all, and an IOTLB bears that.
 *
 * Threads: the listener on the thread that changes the IOMMU's tables.
 * Spec:    vhost-user, "IOMMU support".
 */
#include <errno.h>
#include <linux/vhost_types.h>
#include <string.h>

#include "attach/vhost_user_priv.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"

/* Mappings that a back-end is told of at once. */
#define PORTION 256

static struct vhost_user *of(struct dma_listener *l)
{
	return container_of(l, struct vhost_user, dma_listener);
}

bool vuf_is_translated(const struct vhost_user *vu)
{
	return vu->dma && dma_is_translated(vu->dma);
}

/* A mapping that it refuses fails the guest's request; one that it keeps ends the connection. */
static int update_reply(struct vhost_user *vu, const struct vuf_pending *p, const struct vuf_msg *m,
	struct err *err)
{
	if (vuf_u64(m))
		vu->iotlb_error = -ENOSPC;
	return 0;
}

static int invalidate_reply(struct vhost_user *vu, const struct vuf_pending *p,
	const struct vuf_msg *m, struct err *err)
{
	if (!vuf_u64(m))
		return 0;
	return err_set(err, -EPROTO, "the back-end refused to forget a mapping (%llu)",
		(unsigned long long)vuf_u64(m));
}

/* The socket's holder. */
static int send_entry(
	struct vhost_user *vu, uint8_t type, const struct dma_range *r, struct err *err)
{
	const struct vhost_user_iotlb entry = {
		.iova = r->iova,
		.size = r->size,
		.user_addr = VUF_USER_BASE + r->gpa,
		.perm = (r->access & DMA_CAN_READ ? VHOST_ACCESS_RO : 0) |
			(r->access & DMA_CAN_WRITE ? VHOST_ACCESS_WO : 0),
		.type = type,
	};
	const struct vuf_request rq = {
		.request = VHOST_USER_IOTLB_MSG,
		.payload = &entry,
		.len = sizeof(entry),
		.reply = type == VHOST_IOTLB_UPDATE ? update_reply : invalidate_reply,
	};

	return vuf_send(vu, &rq, err);
}

/* want_lock held. */
static bool is_unsettled(const struct vhost_user *vu)
{
	return vu->iotlb_told && atomic_load(&vu->state) == VUF_CONNECTING;
}

/*
 * A back-end that was told of all mappings, or is being told, but cannot be told of more yet: its
 * queues are being started, and would find a hole. The guest waits for as long as a set-up may
 * take, so that this has ended, well or not, before all would have to be said once more.
 */
static void wait_settled(struct vhost_user *vu)
{
	struct timespec at;
	uint64_t until;

	pthread_mutex_lock(&vu->want_lock);
	while (is_unsettled(vu)) {
		/* It may be put off while we wait. */
		until = vu->settled_by_ns + vu->times.handshake_ms * NS_PER_MS;
		if (clock_now_ns() >= until)
			break;
		at = clock_timespec(until);
		pthread_cond_timedwait(&vu->iotlb_settled, &vu->want_lock, &at);
	}
	vu->iotlb_missed |= is_unsettled(vu);
	pthread_mutex_unlock(&vu->want_lock);
}

void vuf_iotlb_settled_by(struct vhost_user *vu, uint64_t deadline_ns)
{
	pthread_mutex_lock(&vu->want_lock);
	vu->settled_by_ns = deadline_ns;
	pthread_mutex_unlock(&vu->want_lock);
}

void vuf_iotlb_settled(struct vhost_user *vu)
{
	pthread_cond_broadcast(&vu->iotlb_settled);
}

/* A change, for a back-end that was told of the rest already. */
static void tell(struct dma_listener *l, uint8_t type, const struct dma_range *r)
{
	struct vhost_user *vu = of(l);
	struct err err = { 0 };
	int rc = 0;

	wait_settled(vu);
	if (!vuf_call_begin(vu))
		return;
	if (vu->iotlb_told)
		rc = send_entry(vu, type, r, &err);
	vuf_call_end(vu, rc, &err);
}

static int on_map(struct dma_listener *l, const struct dma_range *r)
{
	tell(l, VHOST_IOTLB_UPDATE, r);
	return 0;
}

static void on_unmap(struct dma_listener *l, const struct dma_range *r)
{
	tell(l, VHOST_IOTLB_INVALIDATE, r);
}

static int on_sync(struct dma_listener *l)
{
	struct vhost_user *vu = of(l);
	struct err err = { 0 };
	int rc;

	if (!vuf_call_begin(vu))
		return 0;
	rc = vuf_await(vu, vuf_deadline(vu->times.request_ms), &err);
	if (!rc) {
		rc = vu->iotlb_error;
		vu->iotlb_error = 0;
		vuf_unlock(vu);
		return rc;
	}
	vuf_call_end(vu, rc, &err);
	return 0;
}

struct walk {
	struct vhost_user *vu;
	struct err *err;
};

static int send_one(void *arg, const struct dma_range *r)
{
	struct walk *w = arg;

	return send_entry(w->vu, VHOST_IOTLB_UPDATE, r, w->err);
}

void vuf_iotlb_begin(struct vhost_user *vu)
{
	if (!vuf_is_translated(vu) || vu->iotlb_told)
		return;
	vu->iotlb_missed = false;
	vu->iotlb_told = vu->iotlb_left = true;
	vu->iotlb_next = 0;
}

int vuf_iotlb_portion(struct vhost_user *vu, struct err *err)
{
	const struct dma_range all = { .size = UINT64_MAX };
	struct walk walk = { vu, err };
	int rc = 0;

	if (vu->iotlb_anew)
		rc = send_entry(vu, VHOST_IOTLB_INVALIDATE, &all, err);
	vu->iotlb_anew = false;
	if (!rc)
		rc = dma_walk(vu->dma, &vu->iotlb_next, PORTION, send_one, &walk);
	vu->iotlb_left = rc == 1;
	return MIN(rc, 0);
}

bool vuf_iotlb_missed(struct vhost_user *vu)
{
	/* One that was told of nothing hears of all with its first queues. */
	if (!vu->iotlb_missed || !vu->iotlb_told)
		return false;
	vu->iotlb_told = false;
	vu->iotlb_anew = true;
	return true;
}

void vuf_iotlb_forget(struct vhost_user *vu)
{
	pthread_mutex_lock(&vu->want_lock);
	vu->iotlb_anew = vu->iotlb_told = vu->iotlb_left = false;
	vu->iotlb_error = 0;
	pthread_cond_broadcast(&vu->iotlb_settled);
	pthread_mutex_unlock(&vu->want_lock);
}

void vuf_iotlb_listen(struct vhost_user *vu)
{
	if (!vu->dma)
		return;
	vu->dma_listener =
		(struct dma_listener){ .map = on_map, .unmap = on_unmap, .sync = on_sync };
	dma_listen(vu->dma, &vu->dma_listener);
}

void vuf_iotlb_unlisten(struct vhost_user *vu)
{
	if (vu->dma)
		dma_unlisten(vu->dma, &vu->dma_listener);
}

/* --- rings, which lie at IOVAs --- */

bool vuf_is_ram(const struct vhost_user *vu, uint64_t addr, uint64_t len)
{
	uint64_t expected = 0;

	if (!vuf_is_translated(vu))
		return memory_ptr(vu->memory, addr, len);
	/* The back-end looks at it as one piece. */
	for (bool first = true; len; first = false) {
		uint64_t some = len, gpa;

		if (dma_translate(vu->dma, addr, &some, DMA_CAN_READ, &gpa) ||
			(!first && gpa != expected))
			return false;
		expected = gpa + some;
		addr += some;
		len -= some;
	}
	return true;
}

int vuf_ram_read(const struct vhost_user *vu, uint64_t addr, void *buf, uint64_t len)
{
	return vuf_is_translated(vu) ? dma_read(vu->dma, addr, buf, len)
				     : memory_read(vu->memory, addr, buf, len);
}
