/*
 * vhost_user_iotlb.c - the front-end's translations, and memory that is reached through them
 *
 * Owns:    the entries.
 * Trusts:  nothing: an entry may name addresses that are not shared, and is of no use then.
 */
#include "serve/vhost_user_iotlb.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/vhost_types.h>
#include <stdlib.h>

#include "base/util.h"

struct entry {
	struct range_node node;
	uint64_t user;
	uint8_t perm; /* VHOST_ACCESS_ bits */
};

struct translated {
	struct guest_mem mem;
	atomic_uint refs;
	struct vhu_iotlb *t;
	struct vhu_mem *base;
};

/* --- entries --- */

void vhu_iotlb_init(struct vhu_iotlb *t)
{
	*t = (struct vhu_iotlb){ 0 };
	pthread_rwlock_init(&t->lock, NULL);
}

/* Every entry that has a part of [first, last]. Lock held for writing. */
static void drop(struct vhu_iotlb *t, uint64_t first, uint64_t last)
{
	struct range_node *n;

	while ((n = range_tree_first(&t->entries, first, last))) {
		range_tree_remove(&t->entries, n);
		free(container_of(n, struct entry, node));
	}
}

void vhu_iotlb_clear(struct vhu_iotlb *t)
{
	pthread_rwlock_wrlock(&t->lock);
	drop(t, 0, UINT64_MAX);
	pthread_rwlock_unlock(&t->lock);
}

void vhu_iotlb_fini(struct vhu_iotlb *t)
{
	vhu_iotlb_clear(t);
	pthread_rwlock_destroy(&t->lock);
}

/* A piece whose meaning has changed is told of anew: the old entry goes. */
static int update(struct vhu_iotlb *t, const struct vhost_user_iotlb *m, struct err *err)
{
	struct entry *e = calloc(1, sizeof(*e));
	int rc = 0;

	if (!e)
		return err_set(err, -ENOMEM, "out of memory");
	*e = (struct entry){
		.node = { .first = m->iova, .last = m->iova + (m->size - 1) },
		.user = m->user_addr,
		.perm = m->perm,
	};
	pthread_rwlock_wrlock(&t->lock);
	drop(t, e->node.first, e->node.last);
	if (t->entries.nr < VHU_MAX_IOTLB)
		range_tree_insert(&t->entries, &e->node);
	else
		rc = -ENOSPC;
	pthread_rwlock_unlock(&t->lock);
	if (rc) {
		free(e);
		return err_set(err, rc, "more than %u entries", VHU_MAX_IOTLB);
	}
	return 0;
}

int vhu_iotlb_message(struct vhu_iotlb *t, const struct vhost_user_iotlb *m, struct err *err)
{
	uint64_t more = m->size - 1;

	if (!m->size || more > UINT64_MAX - m->iova)
		return err_set(err, -EINVAL, "a range of 0x%" PRIx64 " bytes at 0x%" PRIx64,
			m->size, m->iova);
	if (m->type == VHOST_IOTLB_INVALIDATE) {
		pthread_rwlock_wrlock(&t->lock);
		drop(t, m->iova, m->iova + more);
		pthread_rwlock_unlock(&t->lock);
		return 0;
	}
	if (m->type != VHOST_IOTLB_UPDATE)
		return err_set(
			err, -EINVAL, "type %u, expected an update or an invalidation", m->type);
	if (!m->perm || m->perm & ~VHOST_ACCESS_RW || more > UINT64_MAX - m->user_addr)
		return err_set(
			err, -EINVAL, "access 0x%x, address 0x%" PRIx64, m->perm, m->user_addr);
	return update(t, m, err);
}

/* --- memory --- */

static struct translated *of(struct guest_mem *mem)
{
	return container_of(mem, struct translated, mem);
}

/*
 * The front-end's address of iova, and how far the entry goes: *len is lowered to it. What goes
 * beyond 2^64 is nowhere.
 */
static bool find_user(
	struct translated *x, uint64_t iova, uint64_t *len, bool write, uint64_t *user)
{
	const struct range_node *n;
	const struct entry *e;
	bool found = false;

	if (*len && *len - 1 > UINT64_MAX - iova)
		return false;
	pthread_rwlock_rdlock(&x->t->lock);
	n = range_tree_find(&x->t->entries, iova);
	e = n ? container_of(n, struct entry, node) : NULL;
	if (e && e->perm & (write ? VHOST_ACCESS_WO : VHOST_ACCESS_RO)) {
		uint64_t more = n->last - iova;

		found = true;
		*user = e->user + (iova - n->first);
		if (more < *len)
			*len = more + 1;
	}
	pthread_rwlock_unlock(&x->t->lock);
	return found;
}

/*
 * What the base calls it; *len is lowered to one entry. Whether all
 * of that is memory, the base says.
 */
static bool find_gpa(struct translated *x, uint64_t iova, uint64_t *len, bool write, uint64_t *gpa)
{
	uint64_t user;

	return find_user(x, iova, len, write, &user) && vhu_mem_from_user(x->base, user, gpa);
}

static void *piece(struct translated *x, uint64_t iova, size_t *len, bool write)
{
	uint64_t some = *len, gpa;

	if (!find_gpa(x, iova, &some, write, &gpa))
		return NULL;
	*len = (size_t)some;
	return guest_mem_ptr(&x->base->mem, gpa, len, write);
}

/* Mappings are pages; what touches in memory, a ring for one, is one piece. */
static void *mem_ptr(struct guest_mem *mem, uint64_t iova, size_t *len, bool write)
{
	struct translated *x = of(mem);
	size_t all = *len, have = all;
	char *hva = piece(x, iova, &have, write);

	while (hva && have < all) {
		size_t more = all - have;

		if (iova > UINT64_MAX - have || piece(x, iova + have, &more, write) != hva + have)
			break;
		have += more;
	}
	*len = have;
	return hva;
}

static int mem_read(struct guest_mem *mem, uint64_t iova, void *buf, size_t len)
{
	struct translated *x = of(mem);

	for (uint8_t *to = buf; len;) {
		uint64_t some = len, gpa;
		int rc = find_gpa(x, iova, &some, false, &gpa)
				 ? guest_mem_read(&x->base->mem, gpa, to, (size_t)some)
				 : -EFAULT;

		if (rc)
			return rc;
		to += some;
		iova += some;
		len -= (size_t)some;
	}
	return 0;
}

static int mem_write(struct guest_mem *mem, uint64_t iova, const void *buf, size_t len)
{
	struct translated *x = of(mem);

	for (const uint8_t *from = buf; len;) {
		uint64_t some = len, gpa;
		int rc = find_gpa(x, iova, &some, true, &gpa)
				 ? guest_mem_write(&x->base->mem, gpa, from, (size_t)some)
				 : -EFAULT;

		if (rc)
			return rc;
		from += some;
		iova += some;
		len -= (size_t)some;
	}
	return 0;
}

/* An entry that is gone meanwhile says nothing any more: its page is lost to the log. */
static void mem_dirty(struct guest_mem *mem, uint64_t iova, size_t len)
{
	struct translated *x = of(mem);

	while (len) {
		uint64_t some = len, gpa;

		if (!find_gpa(x, iova, &some, true, &gpa))
			return;
		guest_mem_dirty(&x->base->mem, gpa, (size_t)some);
		iova += some;
		len -= (size_t)some;
	}
}

static void mem_get(struct guest_mem *mem)
{
	atomic_fetch_add_explicit(&of(mem)->refs, 1, memory_order_relaxed);
}

static void mem_put(struct guest_mem *mem)
{
	struct translated *x = of(mem);

	if (atomic_fetch_sub_explicit(&x->refs, 1, memory_order_acq_rel) != 1)
		return;
	vhu_mem_put(x->base);
	free(x);
}

static const struct guest_mem_ops translated_ops = {
	.read = mem_read,
	.write = mem_write,
	.ptr = mem_ptr,
	.get = mem_get,
	.put = mem_put,
	.dirty = mem_dirty,
};

int vhu_iotlb_mem_new(struct vhu_iotlb *t, struct vhu_mem *base, struct guest_mem **out)
{
	struct translated *x = calloc(1, sizeof(*x));

	if (!x)
		return -ENOMEM;
	x->mem.ops = &translated_ops;
	atomic_init(&x->refs, 1);
	x->t = t;
	x->base = base;
	guest_mem_get(&base->mem);
	*out = &x->mem;
	return 0;
}
