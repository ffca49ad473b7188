/*
 * vfio_user_dma.c - guest RAM as the server of a vfio-user device sees it
 *
 * Two ways. All RAM is announced by DMA_MAP with the descriptor of its file, so that a server maps
 * it and does its transfers alone. One that can not, or does not want to, sends DMA_READ and
 * DMA_WRITE, which are served here by copying; over the twin socket where there is one, else over
 * the main one, also in the middle of a wait for a reply.
 *
 * The listener keeps a list of RAM ranges. An attach announces all of them, in one batch
 * with other requests; later changes are sent one by one without waiting. The channel bounds
 * what a server that does not read can pile up: its own commands are not read then.
 *
 * Trusts: nothing that arrives: addresses by memory_read() and memory_write(), sizes by the message
 * rules. Spec:   vfio-user 0.9.2, "VFIO_USER_DMA_MAP", "..._DMA_UNMAP", "..._DMA_READ",
 * "..._DMA_WRITE".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_user_priv.h"
#include "base/log.h"

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
	rc = memory_read(vu->memory, a.addr, reply + sizeof(a), a.count);
	return answer(ch, m, rc, reply, (uint32_t)(sizeof(a) + a.count));
}

static int serve_write(struct vfio_user *vu, struct vu_chan *ch, const struct vu_msg *m)
{
	struct vfio_user_dma_access a;
	int rc;

	memcpy(&a, m->payload, sizeof(a));
	if (a.count != m->len - sizeof(a))
		return answer(ch, m, -EINVAL, NULL, 0);
	rc = memory_write(vu->memory, a.addr, m->payload + sizeof(a), a.count);
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

static int map_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	int rc;

	if (!(m->h.flags & VFIO_USER_FLAG_ERROR))
		return 0;
	rc = vu_reply_error(m);
	return err_set(err, rc, "the device process refused DMA_MAP of RAM at 0x%llx: %s",
		(unsigned long long)p->arg << 12, strerror(-rc));
}

static int send_map(struct vfio_user *vu, const struct mem_range *r, bool step)
{
	struct vfio_user_dma_map head = {
		.argsz = sizeof(head),
		.flags = VFIO_USER_DMA_MAP_READ | VFIO_USER_DMA_MAP_WRITE,
		.offset = r->fd_offset,
		.addr = r->gpa,
		.size = r->size,
	};
	struct vu_request rq = {
		.command = VFIO_USER_DMA_MAP,
		.head = &head,
		.head_len = sizeof(head),
		.fds = &r->fd,
		.nr_fds = 1,
		.p = { .step = step, .reply = map_reply, .arg = (uint32_t)(r->gpa >> 12) },
	};

	return vu_async(vu, &rq);
}

static int unmap_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	if (m->h.flags & VFIO_USER_FLAG_ERROR)
		log_warn("%s: the device process refused DMA_UNMAP of RAM at 0x%llx: %s", vu->id,
			(unsigned long long)p->arg << 12, strerror(-vu_reply_error(m)));
	return 0;
}

static int send_unmap(struct vfio_user *vu, const struct mem_range *r)
{
	struct vfio_user_dma_unmap head = {
		.argsz = sizeof(head),
		.addr = r->gpa,
		.size = r->size,
	};
	struct vu_request rq = {
		.command = VFIO_USER_DMA_UNMAP,
		.head = &head,
		.head_len = sizeof(head),
		.p = { .reply = unmap_reply, .arg = (uint32_t)(r->gpa >> 12) },
	};

	return vu_async(vu, &rq);
}

int vu_dma_map_all(struct vfio_user *vu, struct err *err)
{
	struct mem_range *ranges;
	unsigned nr;
	int rc = 0;

	pthread_mutex_lock(&vu->mail_lock);
	nr = vu->nr_ranges;
	ranges = calloc(MAX(nr, 1u), sizeof(*ranges));
	if (ranges && nr)
		memcpy(ranges, vu->ranges, nr * sizeof(*ranges));
	/* From here on the listener sends what changes. */
	vu->ranges_sent = true;
	pthread_mutex_unlock(&vu->mail_lock);
	if (!ranges)
		return err_set(err, -ENOMEM, "DMA_MAP: out of memory");
	if (nr > vu->caps.max_dma_maps)
		rc = err_set(err, -EPROTO,
			"the device process takes %u DMA maps at most, guest RAM needs %u",
			vu->caps.max_dma_maps, nr);
	for (unsigned i = 0; i < nr && !rc; i++) {
		rc = send_map(vu, &ranges[i], true);
		if (rc)
			err_set(err, rc, "DMA_MAP: %s", strerror(-rc));
	}
	free(ranges);
	return rc;
}

void vu_dma_forget(struct vfio_user *vu)
{
	pthread_mutex_lock(&vu->mail_lock);
	vu->ranges_sent = false;
	pthread_mutex_unlock(&vu->mail_lock);
}

/* --- the listener: topology lock held, any thread --- */

static void range_added(struct memory_listener *l, const struct mem_range *r)
{
	struct vfio_user *vu = container_of(l, struct vfio_user, listener);
	struct mem_range *more;
	bool send;
	int rc;

	pthread_mutex_lock(&vu->mail_lock);
	more = realloc(vu->ranges, (vu->nr_ranges + 1) * sizeof(*more));
	if (more) {
		vu->ranges = more;
		more[vu->nr_ranges++] = *r;
	}
	send = vu->ranges_sent;
	pthread_mutex_unlock(&vu->mail_lock);
	if (!more)
		log_err("%s: out of memory: RAM at 0x%llx is out of the device's reach", vu->id,
			(unsigned long long)r->gpa);
	rc = send ? send_map(vu, r, false) : 0;
	if (rc && rc != -ENOTCONN)
		log_err("%s: DMA_MAP of RAM at 0x%llx: %s", vu->id, (unsigned long long)r->gpa,
			strerror(-rc));
}

static void range_removed(struct memory_listener *l, const struct mem_range *r)
{
	struct vfio_user *vu = container_of(l, struct vfio_user, listener);
	bool send;
	int rc;

	pthread_mutex_lock(&vu->mail_lock);
	for (unsigned i = 0; i < vu->nr_ranges; i++)
		if (vu->ranges[i].gpa == r->gpa && vu->ranges[i].size == r->size) {
			vu->ranges[i] = vu->ranges[--vu->nr_ranges];
			break;
		}
	send = vu->ranges_sent;
	pthread_mutex_unlock(&vu->mail_lock);
	rc = send ? send_unmap(vu, r) : 0;
	if (rc && rc != -ENOTCONN)
		log_err("%s: DMA_UNMAP of RAM at 0x%llx: %s", vu->id, (unsigned long long)r->gpa,
			strerror(-rc));
}

void vu_dma_listen(struct vfio_user *vu)
{
	vu->listener.add = range_added;
	vu->listener.remove = range_removed;
	memory_listen(vu->memory, &vu->listener);
}

void vu_dma_unlisten(struct vfio_user *vu)
{
	memory_unlisten(vu->memory, &vu->listener);
}
