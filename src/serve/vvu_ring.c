#include "serve/vvu_ring.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define PAGE_DESC    0
#define PAGE_AVAIL   1
#define PAGE_USED    2
#define PAGE_BUFFERS 3

static_assert(VVU_RING_MAX * sizeof(struct vring_desc) <= PAGE_SIZE_4K, "a page");
static_assert(sizeof(struct vring_used) + VVU_RING_MAX * sizeof(struct vring_used_elem) <=
		      PAGE_SIZE_4K,
	"a page");
static_assert(PAGE_SIZE_4K % VVU_BUFFER == 0, "no buffer crosses a page");

void vvu_ring_init(struct vvu_ring *r, void *mem, const uint64_t *pages, uint16_t size)
{
	uint8_t *at = mem;

	assert(is_pow2(size) && size <= VVU_RING_MAX);
	memset(mem, 0, PAGE_BUFFERS * PAGE_SIZE_4K);
	*r = (struct vvu_ring){
		.size = size,
		.desc = (void *)(at + PAGE_DESC * PAGE_SIZE_4K),
		.avail = (void *)(at + PAGE_AVAIL * PAGE_SIZE_4K),
		.used = (void *)(at + PAGE_USED * PAGE_SIZE_4K),
		.buffers = at + PAGE_BUFFERS * PAGE_SIZE_4K,
		.pages = pages,
	};
}

uint64_t vvu_ring_desc(const struct vvu_ring *r)
{
	return r->pages[PAGE_DESC];
}

uint64_t vvu_ring_driver(const struct vvu_ring *r)
{
	return r->pages[PAGE_AVAIL];
}

uint64_t vvu_ring_device(const struct vvu_ring *r)
{
	return r->pages[PAGE_USED];
}

int vvu_ring_free(const struct vvu_ring *r)
{
	for (int i = 0; i < r->size; i++)
		if (!r->posted[i])
			return i;
	return -1;
}

static void post(struct vvu_ring *r, unsigned id, uint32_t len, uint16_t flags)
{
	uint64_t at = (uint64_t)id * VVU_BUFFER;

	assert(id < r->size && !r->posted[id]);
	r->desc[id] = (struct vring_desc){
		.addr = r->pages[PAGE_BUFFERS + at / PAGE_SIZE_4K] + at % PAGE_SIZE_4K,
		.len = len,
		.flags = flags,
	};
	r->avail->ring[r->next % r->size] = (uint16_t)id;
	r->next++;
	r->posted[id] = true;
	r->nr_posted++;
	r->unsaid = true;
	/* The device reads the index first, then what it covers. */
	__atomic_store_n(&r->avail->idx, r->next, __ATOMIC_RELEASE);
}

void vvu_ring_post_out(struct vvu_ring *r, unsigned id, uint32_t len)
{
	assert(len && len <= VVU_BUFFER);
	post(r, id, len, 0);
}

void vvu_ring_post_in(struct vvu_ring *r, unsigned id)
{
	post(r, id, VVU_BUFFER, VRING_DESC_F_WRITE);
}

bool vvu_ring_must_kick(struct vvu_ring *r)
{
	bool unsaid = r->unsaid;

	r->unsaid = false;
	if (!unsaid)
		return false;
	/* The device sets the flag, then looks at the index once more; we the other way round. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return !(__atomic_load_n(&r->used->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY);
}

int vvu_ring_reap(struct vvu_ring *r, unsigned *id, uint32_t *len)
{
	uint16_t idx = __atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE);
	struct vring_used_elem e;

	if (idx == r->seen)
		return 0;
	if ((uint16_t)(idx - r->seen) > r->nr_posted)
		return -EPROTO;
	e.id = __atomic_load_n(&r->used->ring[r->seen % r->size].id, __ATOMIC_RELAXED);
	e.len = __atomic_load_n(&r->used->ring[r->seen % r->size].len, __ATOMIC_RELAXED);
	if (e.id >= r->size || !r->posted[e.id] || e.len > VVU_BUFFER)
		return -EPROTO;
	r->seen++;
	r->posted[e.id] = false;
	r->nr_posted--;
	*id = e.id;
	*len = e.len;
	return 1;
}
