/*
 * virtqueue_priv.h - what the files of the virtqueue share
 *
 * virtqueue.c owns the struct and everything that both kinds of ring have in common;
 * virtqueue_split.c and virtqueue_packed.c know one ring each; virtqueue_inflight.c keeps the
 * region that survives the process.
 *
 * A request that was pushed is `pending` until the next publication. With IN_ORDER it waits in
 * `order` before that, until all that were taken earlier are pushed, too.
 */
#ifndef DEVICE_VIRTQUEUE_PRIV_H
#define DEVICE_VIRTQUEUE_PRIV_H

#include <linux/virtio_ring.h>
#include <stdatomic.h>

#include "device/virtqueue.h"
#include "wire/vhost_user.h"

/*
 * Memory shared with the driver. Each word of it is loaded once, by one of these, into a local.
 */
#define vq_load(p)	       __atomic_load_n((p), __ATOMIC_RELAXED)
#define vq_load_acquire(p)     __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define vq_store(p, v)	       __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define vq_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

/* More descriptors than one request may have, whatever a table says. */
#define VQ_MAX_CHAIN 32768u

/* A descriptor of either ring, read once. */
struct vq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t other; /* split: next; packed: buffer id */
};

/* Guest memory, held once for the queue and all its requests. One thread counts, so plainly. */
struct vq_mem {
	struct guest_mem *mem;
	unsigned refs;
};

/* A pushed request. */
struct vq_done {
	uint32_t written;
	uint16_t id, nr_desc, entry;
	bool ready; /* in `order`: it has been pushed */
};

struct vq_split {
	const struct vring_desc *desc;
	const struct vring_avail *avail;
	const uint16_t *used_event;
	struct vring_used *used;
	uint16_t *avail_event;
	uint16_t mask;
	uint16_t last_avail; /* next to take */
	uint16_t seen_avail; /* the driver's index as last read */
	uint16_t used_idx;
	uint16_t signalled; /* used_idx when the driver was last thought of */
	uint8_t *taken;	    /* per head: taken and not used yet */
};

struct vq_packed {
	struct vring_packed_desc *desc;
	const struct vring_packed_desc_event *driver;
	struct vring_packed_desc_event *device;
	uint16_t avail_idx, used_idx;
	bool avail_wrap, used_wrap;
	uint16_t unsignalled; /* ring entries used since the driver was last thought of */
};

struct vq_inflight {
	struct vhost_user_inflight_split *split; /* both NULL: there is no area */
	struct vhost_user_inflight_packed *packed;
	uint64_t counter;
	uint16_t last_batch_head; /* split; as in the area, which is not read back */
	/* Entries of the packed area: those that are free, and how a request's are linked. */
	uint16_t *free, *next;
	unsigned nr_free;
	/* What an earlier process took: heads or entries in the order of taking. */
	uint16_t *again;
	unsigned nr_again, at_again;
};

struct vq {
	bool packed, event_idx, indirect, in_order;
	bool signal_once; /* whatever is wanted: an earlier process may owe the driver one */
	uint16_t size, max_size;
	unsigned index;
	unsigned open;	/* requests popped and not pushed */
	unsigned taken; /* ring entries (split: heads) taken and not used */
	uint32_t epoch; /* of the set-up */
	uint32_t seq_next, seq_done;
	const char *broken;
	struct vq_mem *mem; /* NULL: at rest */
	union {
		struct vq_split split;
		struct vq_packed ring;
	};
	struct vq_done *pending;
	unsigned nr_pending;
	struct vq_done *order; /* by seq & order_mask */
	uint32_t order_mask;
	struct vq_inflight inflight;
	struct vq_setup setup;
	uint8_t *taken_heads;
	int kick_fd, err_fd;
	atomic_int call_fd;
	volatile uint16_t *bell;
};

/*
 * A request while its descriptors are walked: what vq_pop() turns into the caller's struct. The
 * room for pieces is the caller's.
 */
struct vq_gather {
	struct vq *vq;
	struct guest_mem *mem;
	struct iovec *iov;
	uint64_t *iova;
	unsigned nr, max_iov;
	unsigned nr_out;       /* pieces up to the first writable descriptor */
	uint64_t len, out_len; /* bytes likewise */
	int bad;	       /* -E...: no piece is added any more */
	bool writable;	       /* a writable descriptor was seen */
	uint16_t id, nr_desc, entry;
};

/* Break the queue. Always false. */
bool vq_fail(struct vq *vq, const char *text);

/* A descriptor that crosses mappings, has no room, or is not in guest memory. */
void vq_gather_slowly(struct vq_gather *g, const struct vq_desc *d);

/* Add what a descriptor points to. False: the queue is broken. */
static inline bool vq_gather_piece(struct vq_gather *g, const struct vq_desc *d)
{
	bool write = d->flags & VRING_DESC_F_WRITE;
	size_t n = d->len;
	void *p;

	if (write && !g->writable) {
		g->writable = true;
		g->nr_out = g->nr;
		g->out_len = g->len;
	} else if (!write && g->writable) {
		return vq_fail(g->vq, "a descriptor to read comes after one to write");
	}
	if (g->bad || !n)
		return true;
	p = guest_mem_ptr(g->mem, d->addr, &n, write);
	/* Whole and in one mapping, which does not wrap. */
	if (p && n == d->len && g->nr < g->max_iov) {
		g->iov[g->nr] = (struct iovec){ .iov_base = p, .iov_len = n };
		g->iova[g->nr++] = d->addr;
		g->len += n;
	} else {
		vq_gather_slowly(g, d);
	}
	return true;
}

/* The table that an indirect descriptor points to, to be read entry by entry. */
struct vq_table {
	struct guest_mem *mem;
	uint64_t addr;
	unsigned nr;
	const uint8_t *at; /* its first `whole` bytes lie here */
	size_t whole;
};

/* False: the queue is broken. g->bad: the table is not in guest memory. */
bool vq_table_open(struct vq_gather *g, struct vq_table *t, const struct vq_desc *d);
/* 16 bytes, each read once, wherever they are aligned. */
static inline void vq_desc_load(const void *p, bool packed, struct vq_desc *d)
{
	uint64_t addr, rest;

	__builtin_memcpy(&addr, p, sizeof(addr));
	__builtin_memcpy(&rest, (const uint8_t *)p + sizeof(addr), sizeof(rest));
	/* The compiler knows nothing of these values any more, and cannot read them again. */
	__asm__ volatile("" : "+r"(addr), "+r"(rest));
	d->addr = addr;
	d->len = (uint32_t)rest;
	d->flags = (uint16_t)(packed ? rest >> 48 : rest >> 32);
	d->other = (uint16_t)(packed ? rest >> 32 : rest >> 48);
}

/* An entry that lies, or comes after one that lies, in another mapping than the table's begin. */
int vq_table_read_slowly(const struct vq_table *t, unsigned i, bool packed, struct vq_desc *d);

/* 0 or -EFAULT. i < t->nr */
static inline int vq_table_read(
	const struct vq_table *t, unsigned i, bool packed, struct vq_desc *d)
{
	size_t off = i * sizeof(struct vring_desc);

	if (off + sizeof(struct vring_desc) > t->whole)
		return vq_table_read_slowly(t, i, packed, d);
	vq_desc_load(t->at + off, packed, d);
	return 0;
}

/* One kind of ring. map: 0 or -errno with a text; start: after map, where to go on. */
int vq_split_map(struct vq *vq, struct err *err);
int vq_split_start(struct vq *vq, struct err *err);
int vq_split_pop(struct vq *vq, struct vq_gather *g);
int vq_split_pop_again(struct vq *vq, struct vq_gather *g, uint16_t head);
void vq_split_unpop(struct vq *vq, const struct vq_req *req);
void vq_split_publish(struct vq *vq);
bool vq_split_must_signal(struct vq *vq);
bool vq_split_ready(struct vq *vq);
void vq_split_ask_kicks(struct vq *vq, bool want);
uint32_t vq_split_base(const struct vq *vq);

int vq_packed_map(struct vq *vq, struct err *err);
int vq_packed_start(struct vq *vq, struct err *err);
int vq_packed_pop(struct vq *vq, struct vq_gather *g);
int vq_packed_pop_again(struct vq *vq, struct vq_gather *g, uint16_t entry);
void vq_packed_unpop(struct vq *vq, const struct vq_req *req);
void vq_packed_publish(struct vq *vq);
bool vq_packed_must_signal(struct vq *vq);
bool vq_packed_ready(struct vq *vq);
void vq_packed_ask_kicks(struct vq *vq, bool want);
uint32_t vq_packed_base(const struct vq *vq);
/* Whether the ring entry at position pos (wrap counter in bit 15) is still the driver's request. */
bool vq_packed_is_available(const struct vq *vq, uint16_t pos);
/* n entries further in the ring */
void vq_packed_advance(const struct vq *vq, uint16_t *idx, bool *wrap, unsigned n);

/* Map [iova, iova + len) of the queue's memory. Gives *out. 0 or -errno with a text. */
int vq_map(struct vq *vq, const char *what, uint64_t iova, uint64_t len, unsigned align, bool write,
	void **out, struct err *err);
/* The device has written [off, off + len) of a ring part at iova. */
static inline void vq_dirty(struct vq *vq, uint64_t iova, uint64_t off, size_t len)
{
	guest_mem_dirty(vq->mem->mem, iova + off, len);
}

/*
 * The inflight area. Open: after the ring's map; 0, or -EINVAL with a text. *resumed: it was in use
 * by a process that is gone, its requests are to be popped again, and the ring's position is set.
 */
int vq_inflight_open(struct vq *vq, const struct vq_setup *s, bool *resumed, struct err *err);
/* The ring stops where it is. vq_inflight_leave(): or is lost, and the area stays as it is. */
void vq_inflight_close(struct vq *vq);
void vq_inflight_leave(struct vq *vq);

/* split: head is taken; given back; the pending ones are about to be, and have been, published. */
void vq_inflight_split_take(struct vq *vq, uint16_t head);
void vq_inflight_split_untake(struct vq *vq, uint16_t head);
void vq_inflight_split_push(struct vq *vq, uint16_t head);
void vq_inflight_split_commit(struct vq *vq);

/*
 * packed: the k-th descriptor of the request that is being taken is d; all nr are known: the first
 * entry; given back; will be
 * published at this place; have been published.
 */
void vq_inflight_packed_note(struct vq *vq, unsigned k, const struct vq_desc *d);
uint16_t vq_inflight_packed_take(struct vq *vq, unsigned nr);
void vq_inflight_packed_untake(struct vq *vq, uint16_t entry);
void vq_inflight_packed_push(struct vq *vq, uint16_t entry, uint16_t place);
void vq_inflight_packed_commit(struct vq *vq);
/* An entry's descriptor and the entry after it, as an earlier process noted them. */
void vq_inflight_packed_read(
	const struct vq *vq, uint16_t entry, struct vq_desc *d, uint16_t *next);

#endif
