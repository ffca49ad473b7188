/*
 * vhost_user_mem.c - guest RAM as a vhost-user back-end is told of it
 *
 * The listener keeps a list of what there is; another list holds what this connection's back-end
 * was told. Whoever holds the socket makes the second equal the first: a back-end with
 * CONFIGURE_MEM_SLOTS by ADD_MEM_REG and REM_MEM_REG for what differs, one without by the whole
 * table, of 8 regions at most. It is first told with the first start of its queues, and not
 * again as long as nothing changes: some map all of it at once, which takes seconds.
 *
 * A change while queues run is sent without waiting, by whoever has the socket next (vuf_unlock()).
 *
 * Owns:    the two lists. The descriptor of RAM is borrowed.
 * Spec:    vhost-user, "Memory access", "VHOST_USER_SET_MEM_TABLE", "VHOST_USER_ADD_MEM_REG".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vhost_user_priv.h"
#include "base/log.h"
#include "base/util.h"

/* How long a back-end may take to map memory: some touch each page of it at once. */
#define MS_PER_GIB	1000u
#define MAX_PATIENCE_MS 60000u

/* Told while nobody waits: what is wrong with it is only logged. */
static int change_reply(struct vhost_user *vu, const struct vuf_pending *p, const struct vuf_msg *m,
	struct err *err)
{
	if (vuf_u64(m))
		log_limited(&vu->refusal_limit, LOG_WARN,
			"%s: the back-end refused %s (%llu): RAM at 0x%llx", vu->b.id,
			vhost_user_name(p->request), (unsigned long long)vuf_u64(m),
			(unsigned long long)p->index << 12);
	return 0;
}

static struct vhost_user_mem_region region_of(const struct mem_range *r)
{
	return (struct vhost_user_mem_region){
		.gpa = r->gpa,
		.size = r->size,
		.user_addr = VUF_USER_BASE + r->gpa,
		.mmap_offset = r->fd_offset,
	};
}

static bool same_range(const struct mem_range *a, const struct mem_range *b)
{
	return a->gpa == b->gpa && a->size == b->size && a->fd == b->fd &&
	       a->fd_offset == b->fd_offset;
}

static bool among(const struct mem_range *r, const struct mem_range *list, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		if (same_range(r, &list[i]))
			return true;
	return false;
}

/* --- one by one --- */

static int send_reg(struct vhost_user *vu, uint32_t request, const struct mem_range *r, int fd,
	vuf_reply_fn reply, struct err *err)
{
	const struct vhost_user_mem_reg reg = { .region = region_of(r) };
	const struct vuf_request rq = {
		.request = request,
		.payload = &reg,
		.len = sizeof(reg),
		.fd = fd,
		.reply = reply,
		.index = (unsigned)(r->gpa >> 12),
	};

	return vuf_send(vu, &rq, err);
}

static int send_slots(struct vhost_user *vu, const struct mem_range *now, unsigned nr,
	vuf_reply_fn reply, struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; i < vu->nr_sent && !rc; i++)
		if (!among(&vu->sent[i], now, nr))
			rc = send_reg(vu, VHOST_USER_REM_MEM_REG, &vu->sent[i], -1, reply, err);
	for (unsigned i = 0; i < nr && !rc; i++)
		if (!among(&now[i], vu->sent, vu->nr_sent))
			rc = send_reg(vu, VHOST_USER_ADD_MEM_REG, &now[i], now[i].fd, reply, err);
	return rc;
}

/* --- as a whole --- */

static bool same_ranges(const struct vhost_user *vu, const struct mem_range *now, unsigned nr)
{
	if (nr != vu->nr_sent)
		return false;
	for (unsigned i = 0; i < nr; i++)
		if (!same_range(&now[i], &vu->sent[i]))
			return false;
	return true;
}

static int send_table(struct vhost_user *vu, const struct mem_range *now, unsigned nr,
	vuf_reply_fn reply, struct err *err)
{
	struct vhost_user_mem_table table = { .nr = nr };
	int fds[VHOST_USER_MAX_TABLE_REGIONS];
	const struct vuf_request rq = {
		.request = VHOST_USER_SET_MEM_TABLE,
		.payload = &table,
		.len = (uint32_t)(offsetof(struct vhost_user_mem_table, regions) +
				  nr * sizeof(table.regions[0])),
		.fds = fds,
		.nr_fds = (int)nr,
		.reply = reply,
	};

	for (unsigned i = 0; i < nr; i++) {
		table.regions[i] = region_of(&now[i]);
		fds[i] = now[i].fd;
	}
	return vuf_send(vu, &rq, err);
}

/* --- both --- */

/* 1: there are more than it takes. */
static int send_ranges(
	struct vhost_user *vu, const struct mem_range *now, unsigned nr, struct err *err)
{
	bool slots = vuf_speaks(vu, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS);
	uint64_t most = slots ? vu->max_slots : VHOST_USER_MAX_TABLE_REGIONS;
	vuf_reply_fn reply = vuf_is_ready(vu) && vu->nr_sent ? change_reply : NULL;

	/* A reset may have cost a back-end its table; regions it keeps until they are removed. */
	if (same_ranges(vu, now, nr) && (slots || !vu->reset_since_mem))
		return 0;
	if (nr > most) {
		err_set(err, -ENOSPC, "the back-end takes %llu memory regions, guest RAM has %u",
			(unsigned long long)most, nr);
		return 1;
	}
	vu->reset_since_mem = false;
	return slots ? send_slots(vu, now, nr, reply, err) : send_table(vu, now, nr, reply, err);
}

/* What send_ranges() said is what it knows now. */
static int remember(struct vhost_user *vu, const struct mem_range *now, unsigned nr)
{
	struct mem_range *copy = malloc(MAX(nr, 1u) * sizeof(*copy));

	if (!copy)
		return -ENOMEM;
	if (nr)
		memcpy(copy, now, nr * sizeof(*copy));
	free(vu->sent);
	vu->sent = copy;
	vu->nr_sent = nr;
	return 0;
}

int vuf_mem_sync(struct vhost_user *vu, struct err *err)
{
	int rc;

	pthread_mutex_lock(&vu->mem_lock);
	rc = send_ranges(vu, vu->ranges, vu->nr_ranges, err);
	if (!rc && remember(vu, vu->ranges, vu->nr_ranges))
		rc = err_set(err, -ENOMEM, "out of memory");
	pthread_mutex_unlock(&vu->mem_lock);
	return rc;
}

uint32_t vuf_mem_patience_ms(struct vhost_user *vu)
{
	uint64_t size = 0;

	pthread_mutex_lock(&vu->mem_lock);
	for (unsigned i = 0; i < vu->nr_ranges && !vu->nr_sent; i++)
		size += vu->ranges[i].size;
	pthread_mutex_unlock(&vu->mem_lock);
	return (uint32_t)MIN(size / GIB * MS_PER_GIB, (uint64_t)MAX_PATIENCE_MS);
}

void vuf_mem_forget(struct vhost_user *vu)
{
	pthread_mutex_lock(&vu->mem_lock);
	vu->nr_sent = 0;
	pthread_mutex_unlock(&vu->mem_lock);
	vu->reset_since_mem = false;
}

/* --- the listener: topology lock held, any thread --- */

static void range_added(struct memory_listener *l, const struct mem_range *r)
{
	struct vhost_user *vu = container_of(l, struct vhost_user, listener);
	struct mem_range *more;

	pthread_mutex_lock(&vu->mem_lock);
	more = realloc(vu->ranges, (vu->nr_ranges + 1) * sizeof(*more));
	if (more) {
		vu->ranges = more;
		more[vu->nr_ranges++] = *r;
	}
	pthread_mutex_unlock(&vu->mem_lock);
	if (!more)
		log_err("%s: out of memory: RAM at 0x%llx is out of the device's reach", vu->b.id,
			(unsigned long long)r->gpa);
}

static void range_removed(struct memory_listener *l, const struct mem_range *r)
{
	struct vhost_user *vu = container_of(l, struct vhost_user, listener);

	pthread_mutex_lock(&vu->mem_lock);
	for (unsigned i = 0; i < vu->nr_ranges; i++)
		if (vu->ranges[i].gpa == r->gpa && vu->ranges[i].size == r->size) {
			memmove(&vu->ranges[i], &vu->ranges[i + 1],
				(--vu->nr_ranges - i) * sizeof(*vu->ranges));
			break;
		}
	pthread_mutex_unlock(&vu->mem_lock);
}

static void changed(struct memory_listener *l)
{
	struct vhost_user *vu = container_of(l, struct vhost_user, listener);

	/* A note to whoever has the socket, then the try to be that oneself. */
	atomic_store(&vu->mem_stale, true);
	atomic_thread_fence(memory_order_seq_cst);
	if (vuf_is_ready(vu) && !pthread_mutex_trylock(&vu->lock))
		vuf_unlock(vu);
}

void vuf_mem_listen(struct vhost_user *vu)
{
	vu->listener.add = range_added;
	vu->listener.remove = range_removed;
	vu->listener.commit = changed;
	memory_listen(vu->memory, &vu->listener);
}

void vuf_mem_unlisten(struct vhost_user *vu)
{
	memory_unlisten(vu->memory, &vu->listener);
}
