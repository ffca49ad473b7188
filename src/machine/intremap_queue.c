/*
 * intremap_queue.c - the queue by which the guest says that entries have changed
 *
 * What lies between head and tail is taken at once, in two passes: first all descriptors are
 * checked, then, if one of them was for interrupt entries, messages are looked up again, once;
 * last, those who wait are told. A waiter is told of all that came before it, and of some that came
 * after, which it cannot know. So the work of one write is bounded by the queue's length, whatever
 * is in it.
 *
 * The first that makes no sense stops the queue, with the head at it, until the guest clears the
 * error. Descriptors of address translation are accepted: there is nothing to be invalidated.
 *
 * Trusts: nothing; descriptors are read from wherever the guest says, each pass checks what it
 * read.
 * Spec: Intel VT-d 3.3, 6.5.2.
 */
#include "machine/intremap_priv.h"

#define DESC_SIZE	16
#define IQA_SIZE	0x7ull	/* as a power of two of pages */
#define IQA_RESERVED	0xff8ull /* wide descriptors among them */
#define IQ_OFFSET	0x7fff0u /* of head and tail */

enum { DESC_CONTEXT = 1, DESC_IOTLB = 2, DESC_ENTRIES = 4, DESC_WAIT = 5 };

#define ENTRIES_RESERVED 0xffff000007fff1e0ull
#define WAIT_IRQ	 (1u << 4)
#define WAIT_STATUS	 (1u << 5)
#define WAIT_RESERVED	 0xfffff180ull /* of the low half; fences change nothing here */

struct queue {
	uint64_t base;
	uint32_t size, head, tail; /* in descriptors */
};

/* False: there is nothing to be done. lock held. */
static bool look(const struct ir_unit *u, struct queue *q)
{
	uint64_t iqa = ir_reg64(u, R_IQA);

	if (!(ir_reg(u, R_GSTS) & G_QIE) || ir_reg(u, R_FSTS) & FSTS_IQE)
		return false;
	q->base = iqa & ~0xfffull;
	q->size = 256u << (iqa & IQA_SIZE);
	q->head = (ir_reg(u, R_IQH) & IQ_OFFSET) / DESC_SIZE;
	q->tail = (ir_reg(u, R_IQT) & IQ_OFFSET) / DESC_SIZE;
	return q->head != q->tail;
}

/* The type of descriptor i, or 0 for one that is none. */
static unsigned take(const struct ir_unit *u, const struct queue *q, uint32_t i, uint64_t desc[2])
{
	uint64_t at = (uint64_t)i * DESC_SIZE;
	unsigned type;

	if (q->base > UINT64_MAX - at ||
		memory_read(u->ir->p.memory, q->base + at, desc, DESC_SIZE))
		return 0;
	type = desc[0] & 0xf;
	if (desc[0] & 0xe00) /* the type's upper bits */
		return 0;
	switch (type) {
	case DESC_CONTEXT:
	case DESC_IOTLB:
		return type;
	case DESC_ENTRIES:
		return desc[0] & ENTRIES_RESERVED || desc[1] ? 0 : type;
	case DESC_WAIT:
		return desc[0] & WAIT_RESERVED || desc[1] & 3 ? 0 : type;
	default:
		return 0;
	}
}

/* From head up to tail, or to the first that is none: *stale if messages are to be looked up. */
static uint32_t check(const struct ir_unit *u, const struct queue *q, bool *stale)
{
	uint64_t desc[2];
	uint32_t i = q->head;

	for (; i != q->tail; i = (i + 1) % q->size) {
		unsigned type = take(u, q, i, desc);

		if (!type)
			break;
		*stale |= type == DESC_ENTRIES;
	}
	return i;
}

static void finish_wait(struct ir_unit *u, const uint64_t desc[2])
{
	uint32_t *status;

	if (desc[0] & WAIT_STATUS) {
		status = memory_ptr(u->ir->p.memory, desc[1], sizeof(*status));
		/* Seen by the guest after all that it waited for. */
		if (status)
			__atomic_store_n(status, (uint32_t)(desc[0] >> 32), __ATOMIC_RELEASE);
	}
	if (!(desc[0] & WAIT_IRQ))
		return;
	pthread_mutex_lock(&u->lock);
	if (!(ir_reg(u, R_ICS) & ICS_IWC)) {
		ir_set(u, R_ICS, ICS_IWC);
		ir_raise(u, R_IECTL);
	}
	pthread_mutex_unlock(&u->lock);
}

static void finish(struct ir_unit *u, const struct queue *q, uint32_t end)
{
	uint64_t desc[2];

	for (uint32_t i = q->head; i != end; i = (i + 1) % q->size)
		if (take(u, q, i, desc) == DESC_WAIT)
			finish_wait(u, desc);
}

void ir_run_queue(struct ir_unit *u)
{
	struct queue q;
	bool stale = false, sane;
	uint32_t end;

	pthread_mutex_lock(&u->lock);
	if (!look(u, &q)) {
		pthread_mutex_unlock(&u->lock);
		return;
	}
	sane = q.tail < q.size && q.head < q.size && !(ir_reg64(u, R_IQA) & IQA_RESERVED);
	pthread_mutex_unlock(&u->lock);
	end = sane ? check(u, &q, &stale) : q.head;
	if (stale)
		u->ir->p.ops->changed(u->ir->p.arg);
	if (sane)
		finish(u, &q, end);
	pthread_mutex_lock(&u->lock);
	ir_set(u, R_IQH, end * DESC_SIZE);
	if (end != q.tail)
		ir_fault_event(u, FSTS_IQE);
	pthread_mutex_unlock(&u->lock);
}
