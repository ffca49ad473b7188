/*
 * virtqueue.c - what split and packed rings have in common
 *
 * A request's way: its descriptors are gathered into the caller's iov and checked; the ring and the
 * inflight area note it as taken; the model works in place; vq_push() puts it into `pending` (with
 * IN_ORDER by way of `order`, so that it waits for its turn); vq_notify() publishes all that is
 * pending, commits that to the inflight area and signals the driver if it asked for it.
 *
 * Each used buffer gets a used element of its own, also with IN_ORDER: the standard would let one
 * stand for a batch, but there are drivers that look at each.
 *
 * Owns:    one hold of the guest memory per mapping, which its requests count on; descriptors are
 *          borrowed.
 * Trusts:  nothing in guest memory and nothing in the inflight area. What the model does wrong is
 *          asserted.
 * Spec:    virtio 1.3, 2.7 and 2.8.
 */
#include "device/virtqueue.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/kick.h"
#include "base/util.h"
#include "device/virtqueue_priv.h"
#include "wire/virtio.h"

int vq_new(struct vq **out, unsigned index, uint16_t max_size)
{
	struct vq *vq = calloc(1, sizeof(*vq));
	uint32_t window;

	if (!vq)
		return -ENOMEM;
	assert(max_size && max_size <= VIRTIO_QUEUE_MAX_SIZE);
	window = (uint32_t)pow2_up(max_size);
	vq->index = index;
	vq->max_size = max_size;
	vq->order_mask = window - 1;
	vq->broken = "it has not been set up";
	vq->call_fd = vq->kick_fd = vq->err_fd = -1;
	vq->pending = calloc(max_size, sizeof(*vq->pending));
	vq->order = calloc(window, sizeof(*vq->order));
	vq->taken_heads = calloc(max_size, 1);
	vq->inflight.free = calloc(max_size, sizeof(uint16_t));
	vq->inflight.next = calloc(max_size, sizeof(uint16_t));
	vq->inflight.again = calloc(max_size, sizeof(uint16_t));
	if (!vq->pending || !vq->order || !vq->taken_heads || !vq->inflight.free ||
		!vq->inflight.next || !vq->inflight.again) {
		vq_free(vq);
		return -ENOMEM;
	}
	*out = vq;
	return 0;
}

/* Memory */

static void mem_free(struct vq_mem *m)
{
	guest_mem_put(m->mem);
	free(m);
}

static inline void mem_release(struct vq_mem *m)
{
	if (m && !--m->refs)
		mem_free(m);
}

static int mem_hold(struct vq *vq, struct guest_mem *mem)
{
	struct vq_mem *m = malloc(sizeof(*m));

	if (!m)
		return -ENOMEM;
	*m = (struct vq_mem){ .mem = guest_mem_get(mem), .refs = 1 };
	mem_release(vq->mem);
	vq->mem = m;
	return 0;
}

void vq_free(struct vq *vq)
{
	if (!vq)
		return;
	mem_release(vq->mem);
	free(vq->pending);
	free(vq->order);
	free(vq->taken_heads);
	free(vq->inflight.free);
	free(vq->inflight.next);
	free(vq->inflight.again);
	free(vq);
}

int vq_map(struct vq *vq, const char *what, uint64_t iova, uint64_t len, unsigned align, bool write,
	void **out, struct err *err)
{
	size_t n = len;
	void *p;

	if (iova & (align - 1))
		return err_set(err, -EINVAL, "the %s at 0x%" PRIx64 " is not aligned to %u bytes",
			what, iova, align);
	p = iova > UINT64_MAX - len ? NULL : guest_mem_ptr(vq->mem->mem, iova, &n, write);
	if (!p)
		return err_set(
			err, -EFAULT, "the %s at 0x%" PRIx64 " is not in guest memory", what, iova);
	if (n < len)
		return err_set(err, -EFAULT,
			"the %s at 0x%" PRIx64 ", %" PRIu64
			" bytes, does not lie in one piece of guest memory",
			what, iova, len);
	if ((uintptr_t)p & (align - 1))
		return err_set(err, -EINVAL,
			"the memory under the %s at 0x%" PRIx64 " is not aligned to %u bytes", what,
			iova, align);
	*out = p;
	return 0;
}

/* Set-up */

static int check_size(const struct vq *vq, const struct vq_setup *s, struct err *err)
{
	if (!s->size || s->size > vq->max_size)
		return err_set(err, -EINVAL, "size %u: expected 1 to %u", s->size, vq->max_size);
	if (!s->packed && !is_pow2(s->size))
		return err_set(err, -EINVAL, "size %u is not a power of two", s->size);
	return 0;
}

static int map_ring(struct vq *vq, struct err *err)
{
	return vq->packed ? vq_packed_map(vq, err) : vq_split_map(vq, err);
}

static void ask_kicks(struct vq *vq, bool want)
{
	if (vq->packed)
		vq_packed_ask_kicks(vq, want);
	else
		vq_split_ask_kicks(vq, want);
}

/* All but memory and descriptors is as after vq_new(). */
static void forget_ring(struct vq *vq)
{
	struct vq_inflight *f = &vq->inflight;

	vq->epoch++;
	vq->open = vq->taken = vq->nr_pending = 0;
	vq->seq_next = vq->seq_done = 0;
	vq->signal_once = false;
	memset(vq->order, 0, (vq->order_mask + 1) * sizeof(*vq->order));
	memset(vq->taken_heads, 0, vq->max_size);
	*f = (struct vq_inflight){ .free = f->free, .next = f->next, .again = f->again };
}

static int start(struct vq *vq, const struct vq_setup *s, struct err *err)
{
	bool resumed = false;
	int rc = map_ring(vq, err);

	if (!rc)
		rc = vq->packed ? vq_packed_start(vq, err) : vq_split_start(vq, err);
	if (!rc && s->inflight)
		rc = vq_inflight_open(vq, s, &resumed, err);
	vq->signal_once |= resumed;
	return rc;
}

int vq_setup(struct vq *vq, const struct vq_setup *s, struct guest_mem *mem, struct err *err)
{
	int rc;

	forget_ring(vq);
	vq->broken = "its set-up failed";
	rc = check_size(vq, s, err);
	if (rc)
		return rc;
	rc = mem_hold(vq, mem);
	if (rc)
		return err_set(err, rc, "no memory");
	vq->setup = *s;
	vq->size = s->size;
	vq->packed = s->packed;
	vq->event_idx = s->event_idx;
	vq->indirect = s->indirect;
	vq->in_order = s->in_order;
	rc = start(vq, s, err);
	if (rc)
		return rc;
	vq->broken = NULL;
	/* The process before may have died while it watched the ring and wanted no kicks. */
	ask_kicks(vq, true);
	return 0;
}

int vq_set_mem(struct vq *vq, struct guest_mem *mem, struct err *err)
{
	int rc;

	if (!vq->mem)
		return 0;
	rc = mem_hold(vq, mem);
	if (rc)
		err_set(err, rc, "no memory");
	else
		rc = map_ring(vq, err);
	if (!rc)
		return 0;
	/* Nobody may touch the old places any more, not even to finish what is open. */
	vq_fail(vq, "its ring is not in guest memory any more");
	vq->epoch++;
	vq->nr_pending = vq->open = 0;
	vq_inflight_leave(vq);
	return rc;
}

static void rest(struct vq *vq)
{
	forget_ring(vq);
	vq->broken = "it has been stopped";
	mem_release(vq->mem);
	vq->mem = NULL;
}

static bool finish(struct vq *vq)
{
	assert(!vq->open);
	if (vq->mem && !vq->broken)
		vq_notify(vq);
	return vq->mem;
}

uint32_t vq_stop(struct vq *vq)
{
	uint32_t base;

	if (!finish(vq))
		return 0;
	base = vq->packed ? vq_packed_base(vq) : vq_split_base(vq);
	vq_inflight_close(vq);
	rest(vq);
	return base;
}

void vq_leave(struct vq *vq)
{
	if (finish(vq))
		rest(vq);
}

/* A packed ring begins with both wrap counters 1 (virtio 1.3, 2.8.1). */
bool vq_is_new(const struct vq *vq)
{
	if (!vq->mem || vq->inflight.nr_again)
		return false;
	return vq->packed ? vq_packed_base(vq) == 0x80008000 : vq_split_base(vq) == 0;
}

unsigned vq_open(const struct vq *vq)
{
	return vq->open;
}

unsigned vq_index(const struct vq *vq)
{
	return vq->index;
}

uint16_t vq_size(const struct vq *vq)
{
	return vq->size;
}

/* Descriptors */

void vq_set_call(struct vq *vq, int call_fd)
{
	atomic_store_explicit(&vq->call_fd, call_fd, memory_order_relaxed);
}

void vq_set_bell(struct vq *vq, volatile uint16_t *bell)
{
	vq->bell = bell;
}

void vq_set_kick(struct vq *vq, int kick_fd)
{
	vq->kick_fd = kick_fd;
}

void vq_set_err(struct vq *vq, int err_fd)
{
	vq->err_fd = err_fd;
}

int vq_kick_fd(const struct vq *vq)
{
	return vq->kick_fd;
}

/* Broken rings */

bool vq_fail(struct vq *vq, const char *text)
{
	if (vq->broken)
		return false;
	vq->broken = text;
	if (vq->err_fd >= 0)
		kick(vq->err_fd);
	return false;
}

const char *vq_broken(const struct vq *vq)
{
	return vq->broken;
}

void vq_break(struct vq *vq, const char *text)
{
	vq_fail(vq, text);
}

/* Pieces */

void vq_gather_slowly(struct vq_gather *g, const struct vq_desc *d)
{
	bool write = d->flags & VRING_DESC_F_WRITE;
	uint64_t addr = d->addr, len = d->len;

	if (addr > UINT64_MAX - len)
		g->bad = -EFAULT;
	while (len && !g->bad) {
		size_t n = len;
		void *p = guest_mem_ptr(g->mem, addr, &n, write);

		if (!p || !n) {
			g->bad = -EFAULT;
		} else if (g->nr == g->max_iov) {
			g->bad = -E2BIG;
		} else {
			g->iov[g->nr] = (struct iovec){ .iov_base = p, .iov_len = n };
			g->iova[g->nr++] = addr;
			g->len += n;
			addr += n;
			len -= n;
		}
	}
}

bool vq_table_open(struct vq_gather *g, struct vq_table *t, const struct vq_desc *d)
{
	if (!g->vq->indirect)
		return vq_fail(g->vq, "an indirect descriptor, and the feature was not accepted");
	if (!d->len || d->len % sizeof(struct vring_desc))
		return vq_fail(
			g->vq, "an indirect table is empty, or no whole number of descriptors");
	if (d->len / sizeof(struct vring_desc) > VQ_MAX_CHAIN)
		return vq_fail(g->vq, "an indirect table has more descriptors than any queue");
	*t = (struct vq_table){
		.mem = g->mem,
		.addr = d->addr,
		.nr = d->len / sizeof(struct vring_desc),
		.whole = d->len,
	};
	if (d->addr > UINT64_MAX - d->len)
		g->bad = -EFAULT;
	else
		t->at = guest_mem_ptr(t->mem, d->addr, &t->whole, false);
	if (!t->at)
		g->bad = -EFAULT;
	return true;
}

int vq_table_read_slowly(const struct vq_table *t, unsigned i, bool packed, struct vq_desc *d)
{
	uint8_t copy[sizeof(struct vring_desc)];

	if (guest_mem_read(t->mem, t->addr + i * sizeof(copy), copy, sizeof(copy)))
		return -EFAULT;
	vq_desc_load(copy, packed, d);
	return 0;
}

/* Taking */

static inline void begin(struct vq_gather *g, struct vq *vq, const struct vq_req *req)
{
	assert(req->iov && req->iova);
	*g = (struct vq_gather){
		.vq = vq,
		.mem = vq->mem->mem,
		.iov = req->iov,
		.iova = req->iova,
		.max_iov = req->max_iov,
	};
}

/* The request has been taken from the ring. Its pieces stand only if all of them are good. */
static inline int give(struct vq_gather *g, struct vq_req *req, bool again, int *bad)
{
	struct vq *vq = g->vq;

	if (g->bad && !bad) {
		vq_fail(vq, g->bad == -E2BIG ? "a request has too many pieces"
					     : "a request is not in guest memory");
		return -EINVAL;
	}
	if (bad)
		*bad = g->bad;
	if (g->bad)
		g->nr = g->nr_out = g->len = g->out_len = 0;
	if (!g->writable || g->bad) {
		g->nr_out = g->nr;
		g->out_len = g->len;
	}
	req->vq = vq;
	req->mem = g->mem;
	req->nr_out = (uint16_t)g->nr_out;
	req->nr_in = (uint16_t)(g->nr - g->nr_out);
	req->out_len = g->out_len;
	req->in_len = g->len - g->out_len;
	req->id = g->id;
	req->nr_desc = g->nr_desc;
	req->entry = g->entry;
	req->again = again;
	req->seq = vq->seq_next++;
	req->epoch = vq->epoch;
	req->hold = vq->mem;
	vq->mem->refs++;
	vq->open++;
	return 1;
}

/* A request that the process before this one took and did not finish. */
static int pop_again(struct vq *vq, struct vq_req *req, int *bad)
{
	struct vq_inflight *f = &vq->inflight;
	struct vq_gather g;
	int rc;

	begin(&g, vq, req);
	rc = vq->packed ? vq_packed_pop_again(vq, &g, f->again[f->at_again])
			: vq_split_pop_again(vq, &g, f->again[f->at_again]);
	if (rc <= 0)
		return rc;
	f->at_again++;
	return give(&g, req, true, bad);
}

int vq_pop(struct vq *vq, struct vq_req *req, int *bad)
{
	struct vq_gather g;
	int rc;

	if (vq->broken)
		return -EINVAL;
	if (vq->inflight.at_again < vq->inflight.nr_again)
		return pop_again(vq, req, bad);
	begin(&g, vq, req);
	rc = vq->packed ? vq_packed_pop(vq, &g) : vq_split_pop(vq, &g);
	return rc > 0 ? give(&g, req, false, bad) : rc;
}

/* Giving back */

/*
 * What the model may have written is said to whoever copies memory now, which need not be who it
 * was when the request was taken. All of the writable part: a failed transfer may have
 * written more than it tells of.
 */
static inline void let_go(struct vq *vq, struct vq_req *req)
{
	struct guest_mem *mem = vq->mem ? vq->mem->mem : req->mem;

	if (mem->ops->dirty)
		for (unsigned i = req->nr_out; i < (unsigned)req->nr_out + req->nr_in; i++)
			guest_mem_dirty(mem, req->iova[i], req->iov[i].iov_len);
	mem_release(req->hold);
	req->hold = NULL;
	req->mem = NULL;
}

static bool is_current(const struct vq *vq, const struct vq_req *req)
{
	assert(req->vq == vq && req->hold);
	return req->epoch == vq->epoch;
}

void vq_unpop(struct vq *vq, struct vq_req *req)
{
	if (!is_current(vq, req)) {
		let_go(vq, req);
		return;
	}
	assert(req->seq == vq->seq_next - 1);
	vq->seq_next--;
	vq->open--;
	if (req->again)
		vq->inflight.at_again--;
	else if (vq->packed)
		vq_packed_unpop(vq, req);
	else
		vq_split_unpop(vq, req);
	let_go(vq, req);
}

void vq_forget(struct vq *vq, struct vq_req *req)
{
	if (is_current(vq, req))
		vq->open--;
	let_go(vq, req);
}

static inline void add_pending(struct vq *vq, const struct vq_done *done)
{
	/* All that is pending is taken, and never more is taken than the ring has. */
	assert(vq->nr_pending < vq->size);
	vq->pending[vq->nr_pending++] = *done;
}

/* It has been pushed; those whose turn it is are added. */
static void add_in_order(struct vq *vq, uint32_t seq, const struct vq_done *done)
{
	struct vq_done *o = &vq->order[seq & vq->order_mask];

	*o = *done;
	o->ready = true;
	while ((o = &vq->order[vq->seq_done & vq->order_mask])->ready) {
		o->ready = false;
		add_pending(vq, o);
		vq->seq_done++;
	}
}

void vq_push(struct vq *vq, struct vq_req *req, uint32_t written)
{
	struct vq_done done = {
		.written = written,
		.id = req->id,
		.nr_desc = req->nr_desc,
		.entry = req->entry,
	};

	assert(written <= req->in_len);
	if (is_current(vq, req)) {
		vq->open--;
		if (vq->in_order)
			add_in_order(vq, req->seq, &done);
		else
			add_pending(vq, &done);
	}
	let_go(vq, req);
}

/* Telling the driver */

static void signal_driver(struct vq *vq)
{
	int fd = atomic_load_explicit(&vq->call_fd, memory_order_relaxed);

	/* Registers are written in order with memory, so the used index is there before it. */
	if (vq->bell)
		*vq->bell = 1;
	/* Whoever lets it fill up and makes it blocking has had his signals. */
	if (fd >= 0 && kick(fd) == -ETIMEDOUT)
		atomic_compare_exchange_strong(&vq->call_fd, &fd, -1);
}

void vq_notify(struct vq *vq)
{
	bool must = vq->signal_once;

	if (vq->nr_pending) {
		if (vq->packed)
			vq_packed_publish(vq);
		else
			vq_split_publish(vq);
		vq->nr_pending = 0;
		/*
		 * The driver writes where it wants its next signal, then looks at the ring; we have
		 * written the ring, then look where it wants the signal. The other half is the
		 * driver's full barrier between the two.
		 */
		atomic_thread_fence(memory_order_seq_cst);
		must |= vq->packed ? vq_packed_must_signal(vq) : vq_split_must_signal(vq);
	}
	if (!must)
		return;
	vq->signal_once = false;
	signal_driver(vq);
}

bool vq_ready(struct vq *vq)
{
	if (vq->broken)
		return false;
	if (vq->inflight.at_again < vq->inflight.nr_again)
		return true;
	return vq->packed ? vq_packed_ready(vq) : vq_split_ready(vq);
}

bool vq_want_kicks(struct vq *vq, bool want)
{
	if (vq->broken)
		return false;
	ask_kicks(vq, want);
	if (!want)
		return false;
	/*
	 * We have asked, then look at the ring; the driver writes the ring, then looks whether we
	 * asked. The other half is the driver's full barrier between the two.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	return vq_ready(vq);
}

/* Copies */

static size_t copy_pieces(
	const struct iovec *iov, unsigned nr, uint64_t off, uint8_t *buf, size_t len, bool write)
{
	size_t done = 0;

	for (unsigned i = 0; i < nr && done < len; i++) {
		uint8_t *at = iov[i].iov_base;
		size_t n;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		n = MIN(iov[i].iov_len - off, len - done);
		memcpy(write ? at + off : buf + done, write ? buf + done : at + off, n);
		done += n;
		off = 0;
	}
	return done;
}

size_t vq_req_read(const struct vq_req *req, uint64_t off, void *buf, size_t len)
{
	return copy_pieces(req->iov, req->nr_out, off, buf, len, false);
}

size_t vq_req_write(const struct vq_req *req, uint64_t off, const void *buf, size_t len)
{
	/* The cast: the buffer is only read. */
	return copy_pieces(
		req->iov + req->nr_out, req->nr_in, off, (uint8_t *)(uintptr_t)buf, len, true);
}
