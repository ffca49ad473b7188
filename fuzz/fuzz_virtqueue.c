/*
 * fuzz_virtqueue.c - split and packed rings against what drivers may write
 *
 * The input is what a driver, and a model that echoes, do one after another. Bytes 0 and 1 choose
 * the ring and its features, then come actions: a control byte, whose low bits say which, and what
 * it asks for:
 *
 *   0  pop a request               1  push an open one (which), echoing what it gives to read
 *   2  notify                      3  give the last one back
 *   4  write a byte (offset 2, value), anywhere in guest memory or the inflight area
 *   5  write a descriptor (place, address 2, length 2, flags, next or id): a plausible one
 *   6  make something available    7  ask for kicks, or say that none are needed
 *   8  stop, and set up again      9  die: set up again with what lies in memory
 *  13  the same, but with everything answered and nothing said of where it stood
 *  10  the same ring in memory of another mapping, or of none
 *  11  write 16 bytes              12 a descriptor with addresses and lengths of 8 and 4 bytes
 *
 * What must hold: no crash, no hang, no leak; pieces lie in guest memory, writable ones are those
 * that the lengths say, and no more requests are open than the ring has entries.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "device/virtqueue.h"
#include "wire/vhost_user.h"

#define MEM_SIZE 8192u
#define MAX_SIZE 32u
#define MAX_IOV	 6
#define DRIVER	 0x400u
#define DEVICE	 0x600u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require_at(bool holds, int line)
{
	if (holds)
		return;
	fprintf(stderr, "line %d: does not hold\n", line);
	abort();
}
#define require(holds) require_at(holds, __LINE__)

struct input {
	const uint8_t *at;
	size_t left;
};

static uint8_t take(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static uint64_t take_number(struct input *in, int bytes)
{
	uint64_t v = 0;

	while (bytes--)
		v = v << 8 | take(in);
	return v;
}

/* Guest memory: [0, MEM_SIZE), in mappings of `seam` bytes; the last quarter can only be read. */
struct memory {
	struct guest_mem mem; /* first */
	uint8_t *bytes;
	uint64_t seam;
	bool gone;
	int refs;
};

static struct memory *memory_of(struct guest_mem *mem)
{
	return (struct memory *)(void *)mem;
}

static void *mem_ptr(struct guest_mem *mem, uint64_t iova, size_t *len, bool write)
{
	struct memory *m = memory_of(mem);

	if (m->gone || iova >= MEM_SIZE || (write && iova >= MEM_SIZE / 4 * 3))
		return NULL;
	*len = MIN(*len, (write ? MEM_SIZE / 4 * 3 : MEM_SIZE) - iova);
	if (m->seam)
		*len = MIN(*len, m->seam - iova % m->seam);
	return m->bytes + iova;
}

static int mem_read(struct guest_mem *mem, uint64_t iova, void *buf, size_t len)
{
	if (!range_ok(iova, len, MEM_SIZE))
		return -1;
	memcpy(buf, memory_of(mem)->bytes + iova, len);
	return 0;
}

static int mem_write(struct guest_mem *mem, uint64_t iova, const void *buf, size_t len)
{
	return -1; /* a queue writes in place */
}

static void mem_get(struct guest_mem *mem)
{
	memory_of(mem)->refs++;
}

static void mem_put(struct guest_mem *mem)
{
	memory_of(mem)->refs--;
}

static void mem_dirty(struct guest_mem *mem, uint64_t iova, size_t len)
{
	require(range_ok(iova, len, MEM_SIZE));
}

static const struct guest_mem_ops plain_ops = {
	.read = mem_read, .write = mem_write, .ptr = mem_ptr, .get = mem_get, .put = mem_put
};
static const struct guest_mem_ops logging_ops = {
	.read = mem_read,
	.write = mem_write,
	.ptr = mem_ptr,
	.get = mem_get,
	.put = mem_put,
	.dirty = mem_dirty,
};

struct work {
	struct vq_req req;
	struct iovec iov[MAX_IOV];
	uint64_t iova[MAX_IOV];
};

struct world {
	struct memory mem[2]; /* two mappings of the same memory */
	uint8_t *area;
	uint64_t area_size;
	struct vq *vq;
	struct vq_setup s;
	struct work *open[MAX_SIZE + 1]; /* in the order of taking */
	unsigned nr_open;
	uint32_t next_seq;
	uint16_t avail; /* the driver's index, or place in the ring with the wrap counter in bit 15
			 */
	bool no_reason; /* bad requests break the queue */
};

static void check_request(const struct world *w, const struct vq_req *req, int bad)
{
	uint64_t len[2] = { 0, 0 };

	require(req->nr_out + req->nr_in <= MAX_IOV);
	require(!bad || req->nr_out + req->nr_in == 0);
	for (unsigned i = 0; i < (unsigned)req->nr_out + req->nr_in; i++) {
		const uint8_t *at = req->iov[i].iov_base;

		require(range_ok(req->iova[i], req->iov[i].iov_len, MEM_SIZE));
		require(at == w->mem[0].bytes + req->iova[i] && req->iov[i].iov_len);
		require(i < req->nr_out || req->iova[i] < MEM_SIZE / 4 * 3);
		len[i >= req->nr_out] += req->iov[i].iov_len;
	}
	require(req->out_len == len[0] && req->in_len == len[1]);
}

static void pop(struct world *w)
{
	struct work *k = malloc(sizeof(*k));
	int bad = 0, rc;

	require(k != NULL);
	k->req = (struct vq_req){ .iov = k->iov, .iova = k->iova, .max_iov = MAX_IOV };
	rc = vq_pop(w->vq, &k->req, w->no_reason ? NULL : &bad);
	require((rc < 0) == (vq_broken(w->vq) != NULL));
	if (rc <= 0) {
		free(k);
		return;
	}
	check_request(w, &k->req, bad);
	w->open[w->nr_open++] = k;
	w->next_seq = k->req.seq + 1;
	require(w->nr_open <= w->s.size && vq_open(w->vq) == w->nr_open);
}

static struct work *take_open(struct world *w, unsigned i)
{
	struct work *k = w->open[i];

	memmove(&w->open[i], &w->open[i + 1], (--w->nr_open - i) * sizeof(w->open[0]));
	return k;
}

static void push(struct world *w, unsigned which)
{
	uint8_t bytes[256];
	struct work *k;
	size_t n;

	if (!w->nr_open)
		return;
	k = take_open(w, which % w->nr_open);
	n = vq_req_read(&k->req, which, bytes, sizeof(bytes));
	n = vq_req_write(&k->req, which / 16, bytes, n);
	vq_push(w->vq, &k->req, (uint32_t)MIN(n, k->req.in_len));
	free(k);
}

/* Only the last one popped may be given back; if it is pushed already, nothing is. */
static void unpop(struct world *w)
{
	struct work *k = w->nr_open ? w->open[w->nr_open - 1] : NULL;

	if (!k || k->req.seq != w->next_seq - 1)
		return;
	w->nr_open--;
	w->next_seq--;
	vq_unpop(w->vq, &k->req);
	free(k);
}

static void forget_all(struct world *w)
{
	while (w->nr_open) {
		struct work *k = take_open(w, 0);

		vq_forget(w->vq, &k->req);
		free(k);
	}
}

/* The driver */

static void poke(struct world *w, uint64_t at, uint64_t value, unsigned len)
{
	for (unsigned i = 0; i < len; i++, value >>= 8) {
		uint64_t off = (at + i) % (MEM_SIZE + w->area_size);

		if (off < MEM_SIZE)
			w->mem[0].bytes[off] = (uint8_t)value;
		else
			w->area[off - MEM_SIZE] = (uint8_t)value;
	}
}

/* In the table, or (from place MAX_SIZE) in a table for indirect descriptors at MEM_SIZE / 2. */
static void write_desc(struct world *w, unsigned place, uint64_t addr, uint32_t len, uint16_t flags,
	uint16_t other)
{
	uint64_t at = place % (2 * MAX_SIZE) * 16;

	if (at >= 16 * MAX_SIZE)
		at += MEM_SIZE / 2 - 16 * MAX_SIZE;
	poke(w, at, addr, 8);
	poke(w, at + 8, len, 4);
	poke(w, at + 12, w->s.packed ? other : flags, 2);
	poke(w, at + 14, w->s.packed ? flags : other, 2);
}

static void make_available(struct world *w, uint8_t which)
{
	uint16_t place = w->avail & 0x7fff;
	uint64_t flags = 16ull * place + 14;

	if (!w->s.packed) {
		poke(w, DRIVER + 4 + 2ull * (w->avail % w->s.size), which % (w->s.size + 1u), 2);
		poke(w, DRIVER + 2, ++w->avail, 2);
		return;
	}
	/* The flags of one more descriptor: what links it stays. */
	w->mem[0].bytes[flags] &= 0x7f;
	w->mem[0].bytes[flags + 1] &= 0x7f;
	w->mem[0].bytes[w->avail & 0x8000 ? flags : flags + 1] |= 0x80;
	w->avail++;
	if ((w->avail & 0x7fff) >= w->s.size)
		w->avail = ~w->avail & 0x8000;
}

/* Set-ups */

static void set_up(struct world *w)
{
	struct err err = { 0 };

	w->next_seq = 0;
	if (vq_setup(w->vq, &w->s, &w->mem[0].mem, &err))
		require(err.text[0] && vq_broken(w->vq));
}

static void stop(struct world *w)
{
	uint32_t base;

	while (w->nr_open)
		push(w, 0);
	base = vq_stop(w->vq);
	if (!w->s.packed || ((base & 0x7fff) < w->s.size && (base >> 16 & 0x7fff) < w->s.size))
		w->s.base = base;
}

static void move(struct world *w, unsigned to)
{
	struct err err = { 0 };
	int rc;

	w->mem[1].gone = to & 2;
	rc = vq_set_mem(w->vq, &w->mem[to & 1].mem, &err);
	require(!rc == !err.text[0]);
	/* What is open came to nothing; the model gives it up. */
	if (rc)
		forget_all(w);
}

static void act(struct world *w, struct input *in)
{
	uint64_t a, b;
	uint8_t c;

	switch (take(in) & 15) {
	case 1:
		push(w, take(in));
		break;
	case 2:
		vq_notify(w->vq);
		break;
	case 3:
		unpop(w);
		break;
	case 4:
		a = take_number(in, 2);
		poke(w, a, take(in), 1);
		break;
	case 5:
		c = take(in);
		a = take_number(in, 2);
		b = take_number(in, 2);
		write_desc(w, c, a % MEM_SIZE, b % 1024, take(in) & 7, take(in) % MAX_SIZE);
		break;
	case 6:
		make_available(w, take(in));
		break;
	case 7:
		vq_want_kicks(w->vq, take(in) & 1);
		break;
	case 8:
		stop(w);
		set_up(w);
		break;
	case 9:
		forget_all(w);
		set_up(w);
		break;
	case 10:
		move(w, take(in));
		break;
	case 11:
		a = take_number(in, 2);
		poke(w, a, take_number(in, 8), 8);
		poke(w, a + 8, take_number(in, 8), 8);
		break;
	case 12:
		c = take(in);
		a = take_number(in, 8);
		b = take_number(in, 4);
		write_desc(w, c, a, (uint32_t)b, take(in) & 7, take(in));
		break;
	case 13:
		while (w->nr_open)
			push(w, 0);
		vq_leave(w->vq);
		require(!w->mem[0].refs && !w->mem[1].refs);
		set_up(w);
		break;
	default:
		pop(w);
	}
	require(vq_open(w->vq) == w->nr_open);
	require(!vq_ready(w->vq) || !vq_broken(w->vq));
}

static void choose(struct world *w, uint8_t features, uint8_t size)
{
	static const uint16_t sizes[] = { 1, 2, 4, 8, 16, 32, 3, 29 };

	w->s = (struct vq_setup){
		.size = sizes[size & 7],
		.packed = features & 1,
		.event_idx = features & 2,
		.indirect = features & 4,
		.in_order = features & 8,
		.driver = DRIVER,
		.device = DEVICE,
		.base = features & 1 ? 0x80008000 : 0,
	};
	w->avail = features & 1 ? 0x8000 : 0;
	w->area_size = vhost_user_inflight_region(w->s.packed, w->s.size);
	w->area = calloc(1, w->area_size);
	w->mem[0].bytes = w->mem[1].bytes = calloc(1, MEM_SIZE);
	require(w->area && w->mem[0].bytes);
	w->s.inflight = features & 16 ? w->area : NULL;
	w->s.inflight_size = w->area_size;
	w->no_reason = size & 8;
	w->mem[0].mem.ops = &plain_ops;
	w->mem[1].mem.ops = features & 32 ? &logging_ops : &plain_ops;
	w->mem[0].seam = w->mem[1].seam = features & 64 ? 2048 : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct world w = { 0 };
	uint8_t features = take(&in);

	choose(&w, features, take(&in));
	require(vq_new(&w.vq, 0, MAX_SIZE) == 0);
	set_up(&w);
	for (unsigned i = 0; in.left && i < 2000; i++)
		act(&w, &in);
	forget_all(&w);
	vq_free(w.vq);
	require(!w.mem[0].refs && !w.mem[1].refs);
	free(w.area);
	free(w.mem[0].bytes);
	return 0;
}
