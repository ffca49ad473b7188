/*
 * vfio_user_dma.c - guest RAM as the server of a vfio-user device sees it
 *
 * Two ways. All RAM is announced by DMA_MAP with the descriptor of its file, so that a server maps
 * it and does its transfers alone. One that can not, or does not want to, sends DMA_READ and
 * DMA_WRITE, which are served here by copying; over the twin socket where there is one, else over
 * the main one, also in the middle of a wait for a reply.
 *
 * Which RAM, and at what addresses, a DMA space says (machine/dma.h): all of it, or what the guest
 * has mapped. An attach announces it with other requests, so much at a time that no limit of
 * requests or of descriptors is met, whatever a guest has mapped; later changes are sent without
 * waiting, and the thread that changes an IOMMU waits then for all answers. A server that refuses a
 * map fails the guest's request; one that keeps what it is to let go of is hung up on. The channel
 * bounds what a server that does not read can pile up: its own commands are not read then.
 *
 * Trusts: nothing that arrives: addresses by dma_read() and dma_write(), sizes by the message
 * rules. Spec:   vfio-user 0.9.2, "VFIO_USER_DMA_MAP", "..._DMA_UNMAP", "..._DMA_READ",
 * "..._DMA_WRITE".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_user_priv.h"
#include "base/log.h"

/* DMA_MAPs of an attach that wait for their answers. */
#define MAPS_AT_ONCE 64

/* --- commands of the server --- */

static int answer(
	struct vu_chan *ch, const struct vu_msg *m, int error, const void *payload, uint32_t len)
{
	struct vfio_user_header h = {
		.id = m->h.id,
		.command = m->h.command,
		.size = (uint32_t)sizeof(h) + (error ? 0 : len),
		.flags = VFIO_USER_TYPE_REPLY | (error ? VFIO_USER_FLAG_ERROR : 0),
		.error = (uint32_t)-error,
	};
	const struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)payload, error ? 0 : len } };

	if (m->h.flags & VFIO_USER_FLAG_NO_REPLY)
		return 0;
	return vu_chan_send(ch, iov, error ? 1 : 2, NULL, 0, true);
}

static int serve_read(struct vfio_user *vu, struct vu_chan *ch, const struct vu_msg *m)
{
	struct vfio_user_dma_access a;
	FREE_AUTO uint8_t *reply = NULL;
	int rc;

	memcpy(&a, m->payload, sizeof(a));
	if (a.count > VFIO_USER_MAX_DATA)
		return answer(ch, m, -EINVAL, NULL, 0);
	reply = malloc(sizeof(a) + a.count);
	if (!reply)
		return answer(ch, m, -ENOMEM, NULL, 0);
	memcpy(reply, &a, sizeof(a));
	rc = dma_read(vu->dma, a.addr, reply + sizeof(a), a.count);
	return answer(ch, m, rc, reply, (uint32_t)(sizeof(a) + a.count));
}

static int serve_write(struct vfio_user *vu, struct vu_chan *ch, const struct vu_msg *m)
{
	struct vfio_user_dma_access a;
	int rc;

	memcpy(&a, m->payload, sizeof(a));
	if (a.count != m->len - sizeof(a))
		return answer(ch, m, -EINVAL, NULL, 0);
	rc = dma_write(vu->dma, a.addr, m->payload + sizeof(a), a.count);
	return answer(ch, m, rc, &a, sizeof(a));
}

int vu_serve(struct vfio_user *vu, struct vu_chan *ch, const struct vu_msg *m, struct err *err)
{
	int rc;

	if (m->refused)
		rc = answer(ch, m, -EINVAL, NULL, 0);
	else if (m->h.command == VFIO_USER_DMA_READ)
		rc = serve_read(vu, ch, m);
	else if (m->h.command == VFIO_USER_DMA_WRITE)
		rc = serve_write(vu, ch, m);
	else
		rc = answer(ch, m, -EINVAL, NULL, 0);
	if (rc == -EPIPE || rc == -ECONNRESET)
		return err_set(err, -ECONNRESET, "the device process hung up");
	return rc ? err_set(err, rc, "socket: %s", strerror(-rc)) : 0;
}

/* --- maps --- */

/* How many were left with it; 0: none were, the connection that they were of has gone. */
static unsigned one_less(struct vfio_user *vu)
{
	unsigned pending = atomic_load(&vu->dma_pending);

	while (pending && !atomic_compare_exchange_weak(&vu->dma_pending, &pending, pending - 1))
		;
	return pending;
}

/* vu->lock held. */
static void answered(struct vfio_user *vu, const struct vu_pending *p)
{
	if (!p->step && one_less(vu) == 1)
		vu->dma_done = true;
}

static unsigned long long iova_of(const struct vu_pending *p)
{
	return ((unsigned long long)p->arg2 << 32 | p->arg) << 12;
}

/* In an attach it is the end of that; else of what the guest asked for. */
static int map_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	int rc, none = 0;

	answered(vu, p);
	if (!(m->h.flags & VFIO_USER_FLAG_ERROR))
		return 0;
	rc = vu_reply_error(m);
	if (!p->step && dma_is_translated(vu->dma)) {
		atomic_compare_exchange_strong(&vu->dma_error, &none, rc);
		return 0;
	}
	return err_set(err, rc, "the device process refused DMA_MAP of RAM at 0x%llx: %s",
		iova_of(p), strerror(-rc));
}

/* -ENOENT: it has never heard of that range, see struct dma_listener. */
static int unmap_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	int rc = m->h.flags & VFIO_USER_FLAG_ERROR ? vu_reply_error(m) : 0;

	answered(vu, p);
	if (!rc || rc == -ENOENT)
		return 0;
	return err_set(err, rc, "the device process refused DMA_UNMAP of RAM at 0x%llx: %s",
		iova_of(p), strerror(-rc));
}

/* Send one of them; the head's contents are copied. 0 or -errno. */
static int send_dma(struct vfio_user *vu, struct vu_request *rq, const struct dma_range *r)
{
	bool step = vu->listener.anew;
	int rc;

	rq->p.step = step;
	rq->p.arg = (uint32_t)(r->iova >> 12);
	rq->p.arg2 = (uint32_t)(r->iova >> 44);
	if (!step)
		atomic_fetch_add(&vu->dma_pending, 1);
	rq->of_maps = true;
	rc = vu_async(vu, rq);
	if (rc && !step)
		one_less(vu);
	return rc;
}

static int send_map(struct vfio_user *vu, const struct dma_range *r)
{
	struct vfio_user_dma_map head = {
		.argsz = sizeof(head),
		.flags = (r->access & DMA_CAN_READ ? VFIO_USER_DMA_MAP_READ : 0) |
			 (r->access & DMA_CAN_WRITE ? VFIO_USER_DMA_MAP_WRITE : 0),
		.offset = r->fd_offset,
		.addr = r->iova,
		.size = r->size,
	};
	struct vu_request rq = {
		.command = VFIO_USER_DMA_MAP,
		.head = &head,
		.head_len = sizeof(head),
		.fds = &r->fd,
		.nr_fds = 1,
		.p.reply = map_reply,
	};

	return send_dma(vu, &rq, r);
}

static int send_unmap(struct vfio_user *vu, const struct dma_range *r)
{
	struct vfio_user_dma_unmap head = {
		.argsz = sizeof(head),
		.addr = r->iova,
		.size = r->size,
	};
	struct vu_request rq = {
		.command = VFIO_USER_DMA_UNMAP,
		.head = &head,
		.head_len = sizeof(head),
		.p.reply = unmap_reply,
	};

	return send_dma(vu, &rq, r);
}

/* --- the listener --- */

static struct vfio_user *of(struct dma_listener *l)
{
	return container_of(l, struct vfio_user, listener);
}

/* Whether the server is to hear of one map more or less. *fits: it has room. */
static bool count(struct vfio_user *vu, int change, bool *fits)
{
	bool sent;

	pthread_mutex_lock(&vu->mail_lock);
	if (change > 0 || vu->nr_maps)
		vu->nr_maps += (unsigned)change;
	*fits = vu->nr_maps <= vu->caps.max_dma_maps;
	sent = vu->maps_sent;
	pthread_mutex_unlock(&vu->mail_lock);
	return sent;
}

static int on_map(struct dma_listener *l, const struct dma_range *r)
{
	struct vfio_user *vu = of(l);
	bool fits;
	int rc;

	if (!count(vu, 1, &fits))
		return 0;
	rc = fits ? send_map(vu, r) : -ENOSPC;
	/* Away: it hears of all when it is back. */
	if (rc == -ENOTCONN)
		return 0;
	if (rc && !l->anew && !dma_is_translated(vu->dma))
		log_err("%s: DMA_MAP of RAM at 0x%llx: %s", vu->id, (unsigned long long)r->iova,
			strerror(-rc));
	return rc;
}

static void on_unmap(struct dma_listener *l, const struct dma_range *r)
{
	struct vfio_user *vu = of(l);
	bool fits;
	int rc = count(vu, -1, &fits) ? send_unmap(vu, r) : 0;

	if (!rc || rc == -ENOTCONN)
		return;
	/* It would keep what the guest has taken back. */
	vu_lock(vu);
	vu_break(vu, "DMA_UNMAP cannot be sent: %s", strerror(-rc));
	vu_unlock(vu);
}

static int on_sync(struct dma_listener *l)
{
	struct vfio_user *vu = of(l);

	if (atomic_load(&vu->dma_pending) && vu_is_ready(vu))
		vu_await_dma(vu);
	return atomic_exchange(&vu->dma_error, 0);
}

/* What changes from here on is sent. */
static void on_replay(struct dma_listener *l)
{
	struct vfio_user *vu = of(l);

	pthread_mutex_lock(&vu->mail_lock);
	vu->maps_sent = true;
	vu->nr_maps = 0;
	pthread_mutex_unlock(&vu->mail_lock);
}

static int map_some(
	struct vfio_user *vu, void (*begin)(struct dma_listener *l), struct err *err)
{
	int rc = dma_replay(vu->dma, &vu->listener, begin, MAPS_AT_ONCE);

	vu->attach.maps_left = rc == 1;
	if (rc >= 0)
		return 0;
	if (rc == -ENOSPC)
		return err_set(err, -EPROTO,
			"the device process takes %u DMA maps at most, guest RAM needs more",
			vu->caps.max_dma_maps);
	return err_set(err, rc, "DMA_MAP: %s", strerror(-rc));
}

int vu_dma_map_first(struct vfio_user *vu, struct err *err)
{
	return map_some(vu, on_replay, err);
}

int vu_dma_map_more(struct vfio_user *vu, struct err *err)
{
	return map_some(vu, NULL, err);
}

void vu_dma_forget(struct vfio_user *vu)
{
	pthread_mutex_lock(&vu->mail_lock);
	vu->maps_sent = false;
	pthread_mutex_unlock(&vu->mail_lock);
	atomic_store(&vu->dma_pending, 0);
	atomic_store(&vu->dma_error, 0);
}

int vu_dma_listen(struct vfio_user *vu, const struct vfio_user_params *p)
{
	int rc = 0;

	vu->dma = p->dma;
	if (!vu->dma) {
		vu->own_dma = true;
		rc = dma_space_new(p->memory, p->id, &vu->dma);
	}
	if (rc)
		return rc;
	vu->listener = (struct dma_listener){ .map = on_map, .unmap = on_unmap, .sync = on_sync };
	return dma_listen(vu->dma, &vu->listener);
}

void vu_dma_unlisten(struct vfio_user *vu)
{
	if (vu->dma)
		dma_unlisten(vu->dma, &vu->listener);
}
