/*
 * vhost_user_back.c - what a vhost-user back-end asks of the front-end
 *
 * It has a socket of its own for that, one end of a pair that we make. The loop reads it; nothing
 * here waits, or needs the lock of the other socket. A back-end that does not read our
 * answers is not read either.
 *
 *   CONFIG_CHANGE_MSG          the driver hears of it; it reads what it wants to know
 *   SHMEM_MAP, SHMEM_UNMAP     the PCI side maps, or says why not
 *   everything else            is not negotiated and refused: an answer that is not 0
 *
 * A message that is refused for its form alone (its size within the limits, its number or
 * length wrong) is answered in the same way. One after which the stream makes no sense, or an
 * end of this socket, ends the connection.
 *
 * Threads: loop thread.
 * Trusts:  nothing that arrives.
 * Spec:    vhost-user, "Back-end message types".
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "attach/vhost_user_priv.h"
#include "base/fd.h"
#include "base/fd_kind.h"
#include "base/log.h"
#include "base/util.h"

/* Messages in one call of the loop; more wait for its next turn. */
#define MAX_MESSAGES 64
/* Unread answers beyond which nothing more is read. */
#define MAX_OUT 4096

struct back_msg {
	struct vhost_user_header h;
	union vhost_user_payload p;
	struct fd_list *fds;
	int refused; /* for its form: -errno */
};

/* The refusals of one connection are alike; some are said, the rest is counted. */
static int refuse(struct vhost_user *vu, const struct back_msg *m, const char *why)
{
	log_limited(&vu->refusal_limit, LOG_WARN, "%s: %s of the back-end refused: %s", vu->b.id,
		vhost_user_backend_name(m->h.request), why);
	return -EINVAL;
}

/* --- requests --- */

static int check_mmap(const struct vhost_user_mmap *map)
{
	uint64_t all = map->fd_offset | map->shm_offset | map->len;

	if (!map->len || all % PAGE_SIZE_4K || map->fd_offset > INT64_MAX - map->len ||
		map->shm_offset > UINT64_MAX - map->len)
		return -EINVAL;
	return 0;
}

static int shmem_map(struct vhost_user *vu, const struct back_msg *m)
{
	const struct vhost_user_mmap *map = &m->p.mmap;
	struct fd_memory memory;
	struct err err = { 0 };
	uint64_t size;
	int rc;

	if (check_mmap(map))
		return refuse(vu, m, "offsets and length have to be multiples of 4096");
	/* Before it is taken: the connection can get rid of any, without being held up by it. */
	if (fd_memory_identify(m->fds->fds[0], &memory, &size, &err))
		return refuse(vu, m, err.text);
	rc = vu->owner->ops->shm_map(vu->owner, map->shmid, map->shm_offset, map->len,
		fd_list_take(m->fds), map->fd_offset, map->flags & VHOST_USER_MMAP_RW);
	return rc ? refuse(vu, m, strerror(-rc)) : 0;
}

static int shmem_unmap(struct vhost_user *vu, const struct back_msg *m)
{
	const struct vhost_user_mmap *map = &m->p.mmap;
	int rc;

	if (check_mmap(map))
		return refuse(vu, m, "offsets and length have to be multiples of 4096");
	rc = vu->owner->ops->shm_map(
		vu->owner, map->shmid, map->shm_offset, map->len, -1, 0, false);
	return rc ? refuse(vu, m, strerror(-rc)) : 0;
}

static int serve(struct vhost_user *vu, const struct back_msg *m, bool *changed)
{
	const struct vhost_user_rule *rule = vhost_user_backend_rule(m->h.request);
	unsigned nr_fds = m->fds ? (unsigned)m->fds->nr : 0;

	if (m->refused)
		return refuse(vu, m, "it is not well-formed, or not known");
	if (nr_fds < rule->min_fds || nr_fds > rule->max_fds)
		return refuse(vu, m, "too many descriptors with it, or too few");
	if (rule->feature >= 0 && !(vu->protocol >> rule->feature & 1))
		return refuse(vu, m, "it was not negotiated");
	switch (m->h.request) {
	case VHOST_USER_BACKEND_CONFIG_CHANGE_MSG:
		*changed = true;
		return 0;
	case VHOST_USER_BACKEND_SHMEM_MAP:
		return shmem_map(vu, m);
	case VHOST_USER_BACKEND_SHMEM_UNMAP:
		return shmem_unmap(vu, m);
	default:
		return refuse(vu, m, "it is not supported");
	}
}

/* --- the socket --- */

static int answer(struct vhost_user *vu, const struct back_msg *m, int rc)
{
	const struct vhost_user_rule *rule = vhost_user_backend_rule(m->h.request);
	uint64_t value = rc ? (uint64_t)-rc : 0;
	struct vhost_user_header h = {
		.request = m->h.request,
		.flags = VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY,
		.size = sizeof(value),
	};
	const struct iovec iov[2] = { { &h, sizeof(h) }, { &value, sizeof(value) } };
	bool asked = m->h.flags & VHOST_USER_FLAG_NEED_REPLY &&
		     vuf_speaks(vu, VHOST_USER_PROTOCOL_F_REPLY_ACK);

	if (!asked && !(rule && rule->replies))
		return 0;
	return vu_chan_send(&vu->back, iov, 2, NULL, 0, true);
}

/* 1: *m is the next whole message; 0: not yet; -errno with a text. */
static int next(struct vhost_user *vu, struct back_msg *m, struct err *err)
{
	const void *header = vu_chan_header(&vu->back);
	struct err why = { 0 };

	if (!header)
		return 0;
	memcpy(&m->h, header, sizeof(m->h));
	m->refused = vhost_user_check_request(&m->h, vhost_user_backend_rule(m->h.request), &why);
	if (m->refused && m->refused != -EPROTO)
		return err_set(
			err, m->refused, "%s: %s", vhost_user_backend_name(m->h.request), why.text);
	if (!vu_chan_whole(&vu->back))
		return 0;
	memset(&m->p, 0, sizeof(m->p));
	memcpy(&m->p, (const uint8_t *)header + sizeof(m->h), m->h.size);
	m->fds = vu_chan_fds(&vu->back);
	return 1;
}

static int read_more(struct vhost_user *vu, struct err *err)
{
	ssize_t n = vu_chan_recv(&vu->back);

	if (n == -EAGAIN)
		return 0;
	if (!n || n == -ECONNRESET)
		return err_set(
			err, -ECONNRESET, "the back-end hung up (at the socket for its requests)");
	return n > 0 ? 1 : err_set(err, (int)n, "socket: %s", strerror((int)-n));
}

/* What is there, up to a bound. *changed: the configuration did. 0 or -errno with a text. */
static int pump(struct vhost_user *vu, bool *changed, struct err *err)
{
	struct back_msg m;
	int rc = vu_chan_flush(&vu->back);

	if (rc && rc != -EAGAIN)
		return err_set(err, rc, "socket: %s", strerror(-rc));
	for (unsigned n = 0; n < MAX_MESSAGES && vu->back.out_bytes <= MAX_OUT; n++) {
		rc = next(vu, &m, err);
		if (!rc) {
			rc = read_more(vu, err);
			if (rc <= 0)
				return rc;
			continue;
		}
		if (rc < 0)
			return rc;
		rc = answer(vu, &m, serve(vu, &m, changed));
		vu_chan_done(&vu->back);
		if (rc)
			return err_set(err, rc, "socket: %s", strerror(-rc));
	}
	/* What is buffered wakes nobody: as if something had come. */
	return vu->back.out_bytes <= MAX_OUT ? 1 : 0;
}

static void on_back(struct loop_source *src, uint32_t events);

static void again(struct loop_work *work)
{
	struct vhost_user *vu = container_of(work, struct vhost_user, back_work);

	if (vu->back_src.loop)
		on_back(&vu->back_src, 0);
}

static void on_back(struct loop_source *src, uint32_t events)
{
	struct vhost_user *vu = container_of(src, struct vhost_user, back_src);
	struct err err = { 0 };
	bool changed = false;
	int rc = pump(vu, &changed, &err);

	if (changed)
		vu->owner->ops->config_changed(vu->owner);
	if (rc < 0) {
		if (atomic_load(&vu->state) == VUF_CONNECTING)
			vuf_attempt_failed(vu, rc, &err);
		else
			vuf_break(vu, "%s", err.text);
		loop_del(&vu->back_src);
		return;
	}
	if (rc)
		loop_post(vu->loop, &vu->back_work, again);
	loop_mod(&vu->back_src, EPOLLRDHUP | (vu_chan_out_pending(&vu->back) ? EPOLLOUT : 0) |
					(vu->back.out_bytes <= MAX_OUT ? EPOLLIN : 0));
}

int vuf_back_open(struct vhost_user *vu, int *peer)
{
	int pair[2], rc = sock_pair(pair);

	if (rc)
		return rc;
	vu_chan_init(&vu->back, pair[0], &vuf_framing);
	*peer = pair[1];
	return loop_add(vu->loop, &vu->back_src, pair[0], EPOLLIN | EPOLLRDHUP, on_back);
}

void vuf_back_close(struct vhost_user *vu)
{
	loop_del(&vu->back_src);
	loop_unpost(vu->loop, &vu->back_work);
	vu_chan_fini(&vu->back);
}
