/*
 * fuzz_viommu.c - what a guest says to its IOMMU, under libFuzzer
 *
 * The input is a list of requests: bytes as they are, or with numbers small enough to meet each other. Two
 * devices are behind the IOMMU; one is followed.
 * What must hold: no crash, no leak; no more is written than there is room for; after each request the one who follows has
 * been told of just what a translation finds.
 *
 * RAM is a few pages of this program's own: they stand in for memory.c.
 */
#include <errno.h>

#include "attach/viommu_priv.h"
#include "fuzz.h"

#define PAGE	 4096u
#define RAM_SIZE (16 * PAGE)
#define NR_PAGES 64u /* of addresses that are looked at */

struct memory {
	struct mem_range ram;
};

static uint8_t ram[RAM_SIZE];
static struct memory memory = { .ram = { .size = RAM_SIZE, .fd = -1, .hva = ram } };

unsigned memory_nr_ranges(const struct memory *m)
{
	return 1;
}

const struct mem_range *memory_range(const struct memory *m, unsigned i)
{
	return &m->ram;
}

void memory_listen(struct memory *m, struct memory_listener *l)
{
	l->add(l, &m->ram);
}

void memory_unlisten(struct memory *m, struct memory_listener *l)
{
}

int memory_read(const struct memory *m, uint64_t gpa, void *buf, uint64_t len)
{
	require(false); /* only queues are read so */
	return 0;
}

int memory_write(struct memory *m, uint64_t gpa, const void *buf, uint64_t len)
{
	require(false);
	return 0;
}

/* --- the one who follows --- */

struct follower {
	struct dma_listener l;
	unsigned access[NR_PAGES];
	unsigned refuse; /* so many maps from now: the next is refused */
};

static void note(struct follower *f, const struct dma_range *r, unsigned access)
{
	require(r->size && r->size % PAGE == 0 && r->iova % PAGE == 0);
	require(range_ok(r->gpa, r->size, RAM_SIZE) || !access);
	for (uint64_t page = r->iova / PAGE; page < NR_PAGES && page < r->iova / PAGE + r->size / PAGE;
		page++)
		f->access[page] = access;
}

static int on_map(struct dma_listener *l, const struct dma_range *r)
{
	struct follower *f = container_of(l, struct follower, l);

	note(f, r, r->access);
	return f->refuse && !--f->refuse ? -ENOSPC : 0;
}

static void on_unmap(struct dma_listener *l, const struct dma_range *r)
{
	note(container_of(l, struct follower, l), r, 0);
}

static void check(struct dma_space *s, const struct follower *f)
{
	for (uint64_t page = 0; page < NR_PAGES; page++)
		for (unsigned access = DMA_CAN_READ; access <= DMA_CAN_WRITE; access++) {
			uint64_t len = PAGE, gpa;
			bool may = !dma_translate(s, page * PAGE, &len, access, &gpa);

			require(may == !!(f->access[page] & access));
		}
}

/* --- requests --- */

/* Numbers that meet each other: few domains, two endpoints, few pages. */
static size_t make_request(struct input *in, uint8_t *out)
{
	uint8_t type = take8(in) % 5 + 1;
	uint32_t domain = take8(in) % 3, rest = take8(in);
	uint64_t first = take8(in) % NR_PAGES * PAGE, last = take8(in) % NR_PAGES * PAGE + PAGE - 1;
	uint64_t gpa = take8(in) % 24 * PAGE;

	memset(out, 0, 128);
	out[0] = type;
	memcpy(out + 4, &domain, 4);
	if (type <= VIRTIO_IOMMU_T_DETACH) {
		uint32_t endpoint = rest % 3 * 8, flags = rest >> 6 & 1;

		memcpy(out + 8, &endpoint, 4);
		memcpy(out + 12, &flags, 4);
		return 20;
	}
	if (type == VIRTIO_IOMMU_T_PROBE)
		return 72;
	memcpy(out + 8, &first, 8);
	memcpy(out + 16, &last, 8);
	if (type == VIRTIO_IOMMU_T_UNMAP)
		return 28;
	memcpy(out + 24, &gpa, 8);
	rest &= 3;
	memcpy(out + 32, &rest, 4);
	return 36;
}

static void one_request(struct iommu *io, struct input *in)
{
	uint8_t out[128], answer[VIOMMU_PROBE_SIZE + 64];
	struct iovec iov[2] = { { .iov_base = out }, { .iov_base = answer } };
	struct vq_req req = { .iov = iov, .nr_out = 1, .nr_in = 1 };
	uint8_t how = take8(in);

	if (how & 1) {
		iov[0].iov_len = make_request(in, out);
		iov[1].iov_len = VIOMMU_PROBE_SIZE + 4;
	} else {
		iov[0].iov_len = take8(in) % sizeof(out) + 1;
		for (size_t i = 0; i < iov[0].iov_len; i++)
			out[i] = take8(in);
		iov[1].iov_len = take16(in) % sizeof(answer) + 1;
	}
	req.out_len = iov[0].iov_len;
	req.in_len = iov[1].iov_len;
	require(viommu_serve(io, &req) <= req.in_len);
	if (how >> 1 == 127)
		iommu_set_bypass(io, !iommu_bypass(io));
	else if (how >> 1 == 126)
		iommu_reset(io);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct iommu_resv msi = { VIOMMU_MSI_FIRST, VIOMMU_MSI_LAST, true };
	const struct iommu_params p = { .last = UINT64_MAX, .resv = &msi, .nr_resv = 1 };
	struct follower f = { .l = { .map = on_map, .unmap = on_unmap } };
	struct input in = { data, size };
	struct dma_space *s[2];
	struct iommu *io;

	require(!iommu_new(&p, &io));
	for (unsigned i = 0; i < 2; i++)
		require(!dma_space_new(&memory, "device", &s[i]) && !iommu_add(io, 8 * i, s[i]));
	require(!dma_listen(s[0], &f.l));
	while (in.left) {
		f.refuse = take8(&in) % 16;
		one_request(io, &in);
		f.refuse = 0;
		check(s[0], &f);
	}
	dma_unlisten(s[0], &f.l);
	for (unsigned i = 0; i < 2; i++) {
		iommu_remove(s[i]);
		dma_space_free(s[i]);
	}
	iommu_free(io);
	return 0;
}
