/*
 * virtqueue_inflight.c - what survives the process: requests that were taken and not answered
 *
 * The front-end keeps a memory area and hands it to the next process. A process may be killed
 * between any two instructions, so between any two stores the area and the ring together
 * say for each request whether the driver has got it back. Stores of one process are seen in their
 * order by the next, so that only the compiler has to be held back: that is what the releases here
 * are for; the other half is recovery in the process after this one.
 *
 * split: used.idx moves a whole batch over to the driver at once. Before it moves, the batch is
 * linked from last_batch_head; after it, each `inflight` is cleared and used_idx follows. If
 * used_idx lags behind, as many of the batch as it lags have been used. (The layout and the order
 * of stores are the protocol's.)
 *
 * packed: each used element moves on its own, by its flags. Before the first of a batch moves,
 * each entry gets the place in the ring that its element will take, in `last`, and `inflight`
 * becomes PUSHED; after the last one, the used position follows, then each `inflight` is cleared. A
 * PUSHED entry has been used if the ring entry at its place is no longer what the driver made
 * available in that lap. The used index and its wrap counter are stored as one word. Free entries
 * are those that no inflight request links, so free_head and the old_... fields of the protocol's
 * own sketch are not needed; it can leave used elements in the ring that have not been counted, and
 * a driver would see them twice.
 *
 * Trusts:  nothing in the area when it is opened. Afterwards nothing is read back from it but
 *          copies of descriptors, which are as good as the ring's.
 * Spec:    vhost-user, "Inflight I/O tracking".
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "device/virtqueue_priv.h"

/* In `inflight` of a packed entry: taken, and about to be used at the place in `last` */
#define PUSHED 2

#define WRAP (1u << VRING_PACKED_EVENT_F_WRAP_CTR)

/* Recovery */

struct again {
	uint64_t counter;
	uint16_t entry;
};

static int by_counter(const void *a, const void *b)
{
	const struct again *x = a, *y = b;

	if (x->counter != y->counter)
		return x->counter < y->counter ? -1 : 1;
	return (int)x->entry - (int)y->entry;
}

/* These are to be popped again, in the order in which they were taken. */
static void take_again(struct vq_inflight *f, struct again *list, unsigned nr)
{
	qsort(list, nr, sizeof(*list), by_counter);
	for (unsigned i = 0; i < nr; i++)
		f->again[i] = list[i].entry;
	f->nr_again = nr;
	f->counter = nr ? list[nr - 1].counter + 1 : 0;
}

static void clear_last_batch(struct vhost_user_inflight_split *area, uint16_t size, uint16_t lag)
{
	uint16_t head = vq_load(&area->last_batch_head);

	while (lag-- && head < size) {
		vq_store(&area->desc[head].inflight, 0);
		head = vq_load(&area->desc[head].next);
	}
}

static void split_recover(struct vq *vq, struct again *list)
{
	struct vhost_user_inflight_split *area = vq->inflight.split;
	struct vq_split *r = &vq->split;
	unsigned nr = 0;

	clear_last_batch(area, vq->size, r->used_idx - vq_load(&area->used_idx));
	vq_store_release(&area->used_idx, r->used_idx);
	for (uint16_t i = 0; i < vq->size; i++) {
		if (!vq_load(&area->desc[i].inflight))
			continue;
		list[nr++] = (struct again){ vq_load(&area->desc[i].counter), i };
		r->taken[i] = 1;
	}
	take_again(&vq->inflight, list, nr);
	vq->taken = nr;
	r->last_avail = r->seen_avail = (uint16_t)(r->used_idx + nr);
}

static void split_init(struct vq *vq)
{
	struct vhost_user_inflight_split *area = vq->inflight.split;

	/* Whatever happens meanwhile: with version 0 the area says nothing. */
	vq_store_release(&area->version, 0);
	atomic_signal_fence(memory_order_seq_cst);
	memset(area->desc, 0, vq->size * sizeof(area->desc[0]));
	area->features = 0;
	area->desc_num = vq->size;
	area->last_batch_head = 0;
	area->used_idx = vq->split.used_idx;
	vq_store_release(&area->version, VHOST_USER_INFLIGHT_VERSION);
}

/*
 * Is the area that of this ring, left in the middle of its work? Its index may lag behind what
 * the driver has seen by a batch.
 */
static bool split_in_use(const struct vq *vq)
{
	const struct vhost_user_inflight_split *area = vq->inflight.split;
	uint16_t lag = vq->split.used_idx - vq_load(&area->used_idx);

	return vq_load(&area->version) == VHOST_USER_INFLIGHT_VERSION &&
	       vq_load(&area->desc_num) == vq->size && lag <= vq->size;
}

/* The packed area's used position: one word, as it must not be stored by halves */
union position {
	uint64_t word;
	struct {
		uint16_t idx, old_idx;
		uint8_t wrap, old_wrap;
		uint16_t padding;
	};
};
static_assert(offsetof(struct vhost_user_inflight_packed, used_idx) % 8 == 0, "used position");
static_assert(offsetof(struct vhost_user_inflight_packed, used_wrap_counter) -
			      offsetof(struct vhost_user_inflight_packed, used_idx) ==
		      4,
	"used position");

static uint64_t *position_word(struct vhost_user_inflight_packed *area)
{
	return (uint64_t *)(void *)&area->used_idx;
}

static void store_position(struct vq *vq)
{
	const struct vq_packed *r = &vq->ring;
	union position p = {
		.idx = r->used_idx,
		.old_idx = r->used_idx,
		.wrap = r->used_wrap,
		.old_wrap = r->used_wrap,
	};

	vq_store_release(position_word(vq->inflight.packed), p.word);
}

/*
 * Note a request's entries in next[]. free[] serves as the map of those that are linked already.
 * False: the links make no sense.
 */
static bool link_entries(struct vq *vq, uint16_t head, unsigned nr)
{
	const struct vhost_user_inflight_packed *area = vq->inflight.packed;
	struct vq_inflight *f = &vq->inflight;
	uint16_t at = head;

	if (!nr || nr > vq->size - vq->taken)
		return false;
	for (unsigned i = 0; i < nr; i++) {
		uint16_t next = i + 1 < nr ? vq_load(&area->desc[at].next) : head;

		if (f->free[at] || next >= vq->size)
			return false;
		f->free[at] = 1;
		f->next[at] = next;
		at = next;
	}
	vq->taken += nr;
	return true;
}

/* How far [place, place + nr) reaches beyond the position where the ring stands, if it does. */
static unsigned reach(const struct vq *vq, uint16_t place, unsigned nr)
{
	const struct vq_packed *r = &vq->ring;
	unsigned at = (place & ~WRAP) + (place & WRAP ? 0 : vq->size) + nr;
	unsigned from = r->used_idx + (r->used_wrap ? 0 : vq->size);
	unsigned lap = 2u * vq->size, distance = (at + lap - from) % lap;

	return distance <= vq->size ? distance : 0;
}

/* An entry whose element may have been used. True: it was; *far: the ring stands so much further.
 */
static bool was_used(const struct vq *vq, uint16_t head, unsigned nr, unsigned *far)
{
	uint16_t place = vq_load(&vq->inflight.packed->desc[head].last);

	if ((place & ~WRAP) >= vq->size || !nr || nr > vq->size ||
		vq_packed_is_available(vq, place))
		return false;
	*far = MAX(*far, reach(vq, place, nr));
	return true;
}

static bool packed_recover(struct vq *vq, struct again *list)
{
	struct vhost_user_inflight_packed *area = vq->inflight.packed;
	struct vq_packed *r = &vq->ring;
	struct vq_inflight *f = &vq->inflight;
	unsigned nr = 0, far = 0;

	memset(f->free, 0, vq->size * sizeof(f->free[0]));
	for (uint16_t i = 0; i < vq->size; i++) {
		uint8_t state = vq_load(&area->desc[i].inflight);
		unsigned num = vq_load(&area->desc[i].num);

		if (!state || (state == PUSHED && was_used(vq, i, num, &far)))
			continue;
		if (!link_entries(vq, i, num))
			return false;
		list[nr++] = (struct again){ vq_load(&area->desc[i].counter), i };
	}
	take_again(f, list, nr);
	for (unsigned i = 0; i < nr; i++)
		vq_store_release(&area->desc[f->again[i]].inflight, 1);
	/* What is still PUSHED was used: a commit that was broken off, in the order of a commit. */
	vq_packed_advance(vq, &r->used_idx, &r->used_wrap, far);
	store_position(vq);
	for (uint16_t i = 0; i < vq->size; i++)
		if (vq_load(&area->desc[i].inflight) == PUSHED)
			vq_store_release(&area->desc[i].inflight, 0);
	r->avail_idx = r->used_idx;
	r->avail_wrap = r->used_wrap;
	vq_packed_advance(vq, &r->avail_idx, &r->avail_wrap, vq->taken);
	return true;
}

static void packed_init(struct vq *vq)
{
	struct vhost_user_inflight_packed *area = vq->inflight.packed;

	vq_store_release(&area->version, 0);
	atomic_signal_fence(memory_order_seq_cst);
	memset(area->desc, 0, vq->size * sizeof(area->desc[0]));
	memset(vq->inflight.free, 0, vq->size * sizeof(vq->inflight.free[0]));
	area->features = 0;
	area->desc_num = vq->size;
	area->free_head = area->old_free_head = 0;
	store_position(vq);
	vq_store_release(&area->version, VHOST_USER_INFLIGHT_VERSION);
}

static bool packed_in_use(const struct vq *vq)
{
	const struct vhost_user_inflight_packed *area = vq->inflight.packed;

	return vq_load(&area->version) == VHOST_USER_INFLIGHT_VERSION &&
	       vq_load(&area->desc_num) == vq->size;
}

/* The position of the process before this one. False: there is no such place in the ring. */
static bool load_position(struct vq *vq)
{
	union position p = { .word = vq_load(position_word(vq->inflight.packed)) };

	if (p.idx >= vq->size)
		return false;
	vq->ring.used_idx = p.idx;
	vq->ring.used_wrap = p.wrap & 1;
	return true;
}

/* free[] turns from a map into a stack. What is written was read before. */
static void list_free(struct vq *vq)
{
	struct vq_inflight *f = &vq->inflight;

	for (uint16_t i = 0; i < vq->size; i++)
		if (!f->free[i])
			f->free[f->nr_free++] = i;
}

static int recover(struct vq *vq, struct err *err)
{
	FREE_AUTO struct again *list = calloc(vq->size, sizeof(*list));

	if (!list)
		return err_set(err, -ENOMEM, "no memory");
	if (!vq->packed)
		split_recover(vq, list);
	else if (!load_position(vq) || !packed_recover(vq, list))
		return err_set(err, -EINVAL, "the inflight region makes no sense");
	return 0;
}

static bool in_use(const struct vq *vq)
{
	return vq->packed ? packed_in_use(vq) : split_in_use(vq);
}

static void init(struct vq *vq)
{
	if (vq->packed)
		packed_init(vq);
	else
		split_init(vq);
}

static int check_area(const struct vq *vq, const struct vq_setup *s, struct err *err)
{
	uint64_t need = vhost_user_inflight_region(vq->packed, vq->size);

	if ((uintptr_t)s->inflight & 7)
		return err_set(err, -EINVAL, "the inflight region is not aligned to 8 bytes");
	if (s->inflight_size < need)
		return err_set(err, -EINVAL,
			"an inflight region of %llu bytes: expected %llu for a queue of %u",
			(unsigned long long)s->inflight_size, (unsigned long long)need, vq->size);
	return 0;
}

int vq_inflight_open(struct vq *vq, const struct vq_setup *s, bool *resumed, struct err *err)
{
	int rc = check_area(vq, s, err);

	if (rc)
		return rc;
	if (vq->packed)
		vq->inflight.packed = s->inflight;
	else
		vq->inflight.split = s->inflight;
	*resumed = in_use(vq);
	if (*resumed)
		rc = recover(vq, err);
	else
		init(vq);
	if (rc)
		vq_inflight_leave(vq);
	else if (vq->packed)
		list_free(vq);
	return rc;
}

void vq_inflight_leave(struct vq *vq)
{
	vq->inflight.split = NULL;
	vq->inflight.packed = NULL;
}

/*
 * The front-end goes on from the base that it is about to get, so the area need not say anything.
 * But for requests of an earlier process that nobody has looked at.
 */
void vq_inflight_close(struct vq *vq)
{
	struct vq_inflight *f = &vq->inflight;

	if (f->at_again < f->nr_again && !vq->broken)
		return;
	if (f->split)
		vq_store_release(&f->split->version, 0);
	if (f->packed)
		vq_store_release(&f->packed->version, 0);
}

/* Split */

void vq_inflight_split_take(struct vq *vq, uint16_t head)
{
	struct vhost_user_inflight_split_desc *d = &vq->inflight.split->desc[head];

	vq_store(&d->counter, vq->inflight.counter++);
	vq_store_release(&d->inflight, 1);
}

void vq_inflight_split_untake(struct vq *vq, uint16_t head)
{
	vq_store_release(&vq->inflight.split->desc[head].inflight, 0);
}

void vq_inflight_split_push(struct vq *vq, uint16_t head)
{
	struct vhost_user_inflight_split *area = vq->inflight.split;

	vq_store(&area->desc[head].next, vq->inflight.last_batch_head);
	vq->inflight.last_batch_head = head;
	vq_store_release(&area->last_batch_head, head);
}

void vq_inflight_split_commit(struct vq *vq)
{
	struct vhost_user_inflight_split *area = vq->inflight.split;

	for (unsigned i = 0; i < vq->nr_pending; i++)
		vq_store_release(&area->desc[vq->pending[i].id].inflight, 0);
	vq_store_release(&area->used_idx, vq->split.used_idx);
}

/* Packed */

void vq_inflight_packed_note(struct vq *vq, unsigned k, const struct vq_desc *d)
{
	struct vq_inflight *f = &vq->inflight;
	struct vhost_user_inflight_packed_desc *e;

	/* There are as many entries as the ring has, and those in use are as many as are taken. */
	assert(k < f->nr_free);
	e = &f->packed->desc[f->free[f->nr_free - 1 - k]];
	vq_store(&e->addr, d->addr);
	vq_store(&e->len, d->len);
	vq_store(&e->flags, d->flags);
	vq_store(&e->id, d->other);
}

uint16_t vq_inflight_packed_take(struct vq *vq, unsigned nr)
{
	struct vq_inflight *f = &vq->inflight;
	uint16_t head = f->free[f->nr_free - 1];
	struct vhost_user_inflight_packed_desc *e = &f->packed->desc[head];

	for (unsigned k = 0; k < nr; k++) {
		uint16_t at = f->free[f->nr_free - 1 - k];

		f->next[at] = k + 1 < nr ? f->free[f->nr_free - 2 - k] : head;
		vq_store(&f->packed->desc[at].next, f->next[at]);
	}
	f->nr_free -= nr;
	vq_store(&e->num, (uint16_t)nr);
	vq_store(&e->counter, f->counter++);
	vq_store_release(&e->inflight, 1);
	return head;
}

static void give_back(struct vq_inflight *f, uint16_t head)
{
	uint16_t at = head;

	do {
		f->free[f->nr_free++] = at;
		at = f->next[at];
	} while (at != head);
}

void vq_inflight_packed_untake(struct vq *vq, uint16_t entry)
{
	vq_store_release(&vq->inflight.packed->desc[entry].inflight, 0);
	give_back(&vq->inflight, entry);
}

void vq_inflight_packed_push(struct vq *vq, uint16_t entry, uint16_t place)
{
	struct vhost_user_inflight_packed_desc *e = &vq->inflight.packed->desc[entry];

	vq_store(&e->last, place);
	vq_store_release(&e->inflight, PUSHED);
}

void vq_inflight_packed_commit(struct vq *vq)
{
	struct vq_inflight *f = &vq->inflight;

	store_position(vq);
	for (unsigned i = 0; i < vq->nr_pending; i++) {
		uint16_t entry = vq->pending[i].entry;

		vq_store_release(&f->packed->desc[entry].inflight, 0);
		give_back(f, entry);
	}
}

void vq_inflight_packed_read(const struct vq *vq, uint16_t entry, struct vq_desc *d, uint16_t *next)
{
	const struct vhost_user_inflight_packed_desc *e = &vq->inflight.packed->desc[entry];

	d->addr = vq_load(&e->addr);
	d->len = vq_load(&e->len);
	d->flags = vq_load(&e->flags);
	d->other = vq_load(&e->id);
	*next = vq->inflight.next[entry];
}
