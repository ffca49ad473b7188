/*
 * vvu_proxy_mem.c - memory, log and inflight area in shared-memory regions; our guest's memory
 *
 * What the sibling passes as descriptors is laid into regions of our guest's BARs, and where it
 * lies is written into the message that the driver gets: mmap_offset becomes the offset in the
 * region.
 *
 * A memory table is laid as all readings of the drafts have it: one region after the other, in
 * the table's order. What a new table has at the same place as the one before stays mapped, so that
 * a driver that is at work there does not lose it for a moment. Single regions (ADD_MEM_REG) go
 * into the first gap that is large enough.
 *
 * The inflight area is the proxy's: a guest can make no descriptor of its memory. The front-end
 * that asks for one gets a memfd, which comes back with SET_INFLIGHT_FD and is mapped then, so that
 * it outlives the driver.
 *
 * Our guest's own memory, for the two queues, is RAM by its address, or what the guest's IOMMU
 * makes of it. There nothing is pointed to that is not held: the guest that takes back a ring is
 * told that it has it when the ring has stopped, and a message's buffer when the message is copied.
 *
 * Trusts: nothing about a descriptor. Its kind and size are looked at; that the file can still
 *         lose its end is virtio_pci_shm.c's concern.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attach/vvu_proxy_priv.h"
#include "base/fd.h"

/* --- our guest's memory --- */

/* A part of a ring is no longer than this. */
#define MAX_PART (2 * PAGE_SIZE_4K)

static struct vvu_ram *ram_of(struct guest_mem *mem)
{
	return container_of(mem, struct vvu_ram, mem);
}

/* On the thread of the guest's request: whoever uses the ring lets go of it. */
static void taken(void *arg)
{
	struct vvu_ram *ram = arg;

	atomic_store(&ram->taken, true);
	vvu_wake(ram->p);
}

/* A message is copied, then its buffer is let go of; the guest waits for as long. */
static void wait_for_copy(void *arg)
{
}

static void *hold(struct vvu_ram *ram, uint64_t iova, uint64_t len, unsigned access)
{
	bool part = ram->nr_parts == 0;
	struct iovec iov;

	if (ram->nr_holds == VVU_MAX_HOLDS ||
		dma_export(ram->dma, &ram->holds[ram->nr_holds], iova, len, access, &iov, 1,
			part ? taken : wait_for_copy, ram) < 0)
		return NULL;
	ram->nr_holds++;
	return iov.iov_base;
}

/* Mappings are pages, more or less: what is short may be in several and one piece all the same. */
static void *dma_piece(struct vvu_ram *ram, uint64_t iova, size_t *len, unsigned access)
{
	uint64_t n = *len, gpa;
	void *p;

	if (!n)
		return NULL;
	/* Held as far as it goes; the fault of what goes nowhere is reported by that. */
	if (!dma_translate(ram->dma, iova, &n, access, &gpa) && n < *len && *len <= MAX_PART) {
		p = hold(ram, iova, *len, access);
		if (p)
			return p;
	}
	*len = n;
	return hold(ram, iova, n, access);
}

static void *ram_piece(const struct memory *m, uint64_t gpa, size_t *len)
{
	for (unsigned i = 0; i < memory_nr_ranges(m); i++) {
		const struct mem_range *r = memory_range(m, i);

		if (gpa < r->gpa || gpa - r->gpa >= r->size)
			continue;
		*len = MIN(*len, r->size - (gpa - r->gpa));
		return (char *)r->hva + (gpa - r->gpa);
	}
	return NULL;
}

static void *ram_ptr(struct guest_mem *mem, uint64_t iova, size_t *len, bool write)
{
	struct vvu_ram *ram = ram_of(mem);

	return ram->dma ? dma_piece(ram, iova, len, write ? DMA_CAN_WRITE : DMA_CAN_READ)
			: ram_piece(ram->memory, iova, len);
}

static int ram_read(struct guest_mem *mem, uint64_t iova, void *buf, size_t len)
{
	struct vvu_ram *ram = ram_of(mem);

	return ram->dma ? dma_read(ram->dma, iova, buf, len)
			: memory_read(ram->memory, iova, buf, len);
}

static int ram_write(struct guest_mem *mem, uint64_t iova, const void *buf, size_t len)
{
	struct vvu_ram *ram = ram_of(mem);

	return ram->dma ? dma_write(ram->dma, iova, buf, len)
			: memory_write(ram->memory, iova, buf, len);
}

/* By the queue itself: it goes when the queue stops. */
static void ram_held(struct guest_mem *mem)
{
}

static const struct guest_mem_ops ram_ops = {
	.read = ram_read,
	.write = ram_write,
	.ptr = ram_ptr,
	.get = ram_held,
	.put = ram_held,
};

void vvu_ram_init(struct vvu_ram *ram, struct vvu_proxy *p, const struct vvu_proxy_params *params)
{
	*ram = (struct vvu_ram){
		.mem.ops = &ram_ops, .memory = params->memory, .dma = params->dma, .p = p
	};
}

void vvu_ram_let_go(struct vvu_ram *ram, unsigned first)
{
	while (ram->nr_holds > first)
		dma_release(&ram->holds[--ram->nr_holds]);
}

/* --- regions --- */

static int lay(struct vvu_proxy *p, uint8_t shmid, uint64_t at, uint64_t size, int fd,
	uint64_t fd_offset, bool writable, struct err *err)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	int rc = copy < 0 ? -errno
			  : p->owner->ops->shm_map(
				    p->owner, shmid, at, size, copy, fd_offset, writable);

	return rc ? err_set(err, rc, "0x%" PRIx64 " bytes cannot be mapped: %s", size, strerror(-rc))
		  : 0;
}

/* What has lost its file's end is out already. */
static void unlay(struct vvu_proxy *p, uint8_t shmid, uint64_t at, uint64_t size)
{
	p->owner->ops->shm_map(p->owner, shmid, at, size, -1, 0, false);
}

/* Whether [offset, offset + size) of this descriptor is memory that can be laid somewhere. */
static int check_file(int fd, uint64_t offset, uint64_t size, struct fd_memory *id, struct err *err)
{
	uint64_t file_size;
	int rc = fd_memory_identify(fd, id, &file_size, err);

	if (rc)
		return rc;
	if (!size || (offset | size) % PAGE_SIZE_4K)
		return err_set(err, -EINVAL,
			"offset 0x%" PRIx64 " and size 0x%" PRIx64 ", expected multiples of 4096",
			offset, size);
	if (!range_ok(offset, size, align_up(MIN(file_size, (uint64_t)INT64_MAX), PAGE_SIZE_4K)))
		return err_set(err, -EINVAL,
			"0x%" PRIx64 "+0x%" PRIx64 " of a file of 0x%" PRIx64 " bytes", offset,
			size, file_size);
	return 0;
}

static int lay_region(struct vvu_proxy *p, const struct vvu_region *g, int fd, struct err *err)
{
	return lay(p, VVU_SHM_MEMORY, g->at, g->r.size, fd, g->r.mmap_offset, g->id.writable, err);
}

static bool same_place(const struct vvu_region *a, const struct vvu_region *b)
{
	return a->at == b->at && a->r.size == b->r.size && a->r.mmap_offset == b->r.mmap_offset &&
	       fd_memory_same(&a->id, &b->id);
}

static bool is_in(const struct vvu_region *g, const struct vvu_region *list, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		if (same_place(g, &list[i]))
			return true;
	return false;
}

static void clear_regions(struct vvu_proxy *p)
{
	for (unsigned i = 0; i < p->nr_regions; i++)
		unlay(p, VVU_SHM_MEMORY, p->regions[i].at, p->regions[i].r.size);
	p->nr_regions = 0;
}

/* Where each region of a table goes. 0 or -errno with a text; nothing has changed then. */
static int place_table(const struct vvu_proxy *p, const struct vhost_user_mem_table *t,
	const int *fds, struct vvu_region *out, struct err *err)
{
	uint64_t at = 0;

	for (unsigned i = 0; i < t->nr; i++) {
		const struct vhost_user_mem_region *r = &t->regions[i];
		int rc = check_file(fds[i], r->mmap_offset, r->size, &out[i].id, err);

		if (rc)
			return rc;
		if (!range_ok(at, r->size, p->shmem_size))
			return err_set(err, -ENOSPC,
				"region %u of 0x%" PRIx64 " bytes after 0x%" PRIx64
				" of others, but there is room for 0x%" PRIx64 " (shmem-size)",
				i, r->size, at, p->shmem_size);
		out[i].r = *r;
		out[i].at = at;
		at += r->size;
	}
	return 0;
}

int vvu_set_table(
	struct vvu_proxy *p, struct vhost_user_mem_table *t, const int *fds, struct err *err)
{
	struct vvu_region fresh[VHOST_USER_MAX_TABLE_REGIONS], old[VHOST_USER_MAX_TABLE_REGIONS];
	unsigned nr_old = 0;
	int rc = place_table(p, t, fds, fresh, err);

	if (rc)
		return rc;
	for (unsigned i = 0; i < p->nr_regions; i++)
		if (nr_old < ARRAY_SIZE(old) && is_in(&p->regions[i], fresh, t->nr))
			old[nr_old++] = p->regions[i];
		else
			unlay(p, VVU_SHM_MEMORY, p->regions[i].at, p->regions[i].r.size);
	memcpy(p->regions, old, nr_old * sizeof(old[0]));
	p->nr_regions = nr_old;
	for (unsigned i = 0; i < t->nr && !rc; i++) {
		if (!is_in(&fresh[i], old, nr_old))
			rc = lay_region(p, &fresh[i], fds[i], err);
		if (!rc && !is_in(&fresh[i], old, nr_old))
			p->regions[p->nr_regions++] = fresh[i];
		t->regions[i].mmap_offset = fresh[i].at;
	}
	if (rc) {
		clear_regions(p);
		return rc;
	}
	memcpy(p->regions, fresh, t->nr * sizeof(fresh[0]));
	return 0;
}

/* The first gap. At most as many steps as there are regions: each moves behind one. */
static uint64_t find_gap(const struct vvu_proxy *p, uint64_t size)
{
	uint64_t at = 0;
	bool moved = true;

	while (moved) {
		moved = false;
		for (unsigned i = 0; i < p->nr_regions; i++) {
			const struct vvu_region *g = &p->regions[i];

			if (ranges_overlap(g->at, g->r.size, at, size)) {
				at = g->at + g->r.size;
				moved = true;
			}
		}
	}
	return at;
}

int vvu_add_region(struct vvu_proxy *p, struct vhost_user_mem_region *r, int fd, struct err *err)
{
	struct vvu_region g = { .r = *r };
	int rc = vhost_user_check_region(r, err);

	if (!rc)
		rc = check_file(fd, r->mmap_offset, r->size, &g.id, err);
	if (rc)
		return rc;
	if (p->nr_regions == ARRAY_SIZE(p->regions))
		return err_set(err, -ENOSPC, "more than %zu regions", ARRAY_SIZE(p->regions));
	/* A region that is larger than all would make the search for a gap wrap. */
	if (r->size <= p->shmem_size)
		g.at = find_gap(p, r->size);
	if (!range_ok(g.at, r->size, p->shmem_size))
		return err_set(err, -ENOSPC,
			"a region of 0x%" PRIx64 " bytes, of 0x%" PRIx64
			" (shmem-size) no such piece is left",
			r->size, p->shmem_size);
	rc = lay_region(p, &g, fd, err);
	if (rc)
		return rc;
	p->regions[p->nr_regions++] = g;
	r->mmap_offset = g.at;
	return 0;
}

int vvu_find_region(struct vvu_proxy *p, struct vhost_user_mem_region *r, struct err *err)
{
	for (unsigned i = 0; i < p->nr_regions; i++) {
		const struct vvu_region *g = &p->regions[i];

		if (g->r.gpa != r->gpa || g->r.size != r->size || g->r.user_addr != r->user_addr)
			continue;
		r->mmap_offset = g->at;
		return 0;
	}
	return err_set(err, -ENOENT, "no region of 0x%" PRIx64 " bytes at 0x%" PRIx64, r->size,
		r->gpa);
}

void vvu_remove_at(struct vvu_proxy *p, uint64_t at)
{
	for (unsigned i = 0; i < p->nr_regions; i++)
		if (p->regions[i].at == at) {
			unlay(p, VVU_SHM_MEMORY, at, p->regions[i].r.size);
			p->regions[i] = p->regions[--p->nr_regions];
			return;
		}
}

/* --- log and inflight area: one piece each, at the beginning of its region --- */

static void clear_piece(struct vvu_proxy *p, uint8_t shmid, uint64_t *size)
{
	if (*size)
		unlay(p, shmid, 0, *size);
	*size = 0;
}

/* Lay it, whole pages of it. The one before goes first. */
static int lay_piece(struct vvu_proxy *p, uint8_t shmid, uint64_t *have, uint64_t room, int fd,
	uint64_t offset, uint64_t size, struct err *err)
{
	struct fd_memory id;
	int rc;

	if (size > room)
		return err_set(err, -ENOSPC, "0x%" PRIx64 " bytes, there is room for 0x%" PRIx64,
			size, room);
	size = align_up(size, PAGE_SIZE_4K);
	rc = check_file(fd, offset, size, &id, err);
	if (rc)
		return rc;
	if (!id.writable)
		return err_set(err, -EACCES, "the descriptor cannot be written");
	clear_piece(p, shmid, have);
	rc = lay(p, shmid, 0, size, fd, offset, true, err);
	if (!rc)
		*have = size;
	return rc;
}

int vvu_set_log(struct vvu_proxy *p, struct vhost_user_log *log, int fd, struct err *err)
{
	int rc = lay_piece(p, VVU_SHM_LOG, &p->log_size, VVU_LOG_SIZE, fd, log->offset, log->size,
		err);

	log->offset = 0;
	return rc;
}

int vvu_set_inflight(struct vvu_proxy *p, struct vhost_user_inflight *i, int fd, struct err *err)
{
	int rc = lay_piece(p, VVU_SHM_INFLIGHT, &p->inflight_size, VVU_INFLIGHT_SIZE, fd,
		i->mmap_offset, i->mmap_size, err);

	i->mmap_offset = 0;
	return rc;
}

/* For the kind of ring that needs more: the driver's choice comes later. */
static uint64_t inflight_area(const struct vhost_user_inflight *i, uint16_t queue_size)
{
	return i->num_queues * MAX(vhost_user_inflight_region(true, queue_size),
				       vhost_user_inflight_region(false, queue_size));
}

/*
 * Front-ends ask by the size that their user chose; their guest may choose a larger one. So each
 * queue gets room for this many, if there is room for all of them.
 */
#define INFLIGHT_ROOM 1024

int vvu_make_inflight(struct vvu_proxy *p, struct vhost_user_inflight *i, struct err *err)
{
	uint64_t size = inflight_area(i, MAX(i->queue_size, INFLIGHT_ROOM));
	FD_AUTO fd = -1;

	if (size > VVU_INFLIGHT_SIZE)
		size = inflight_area(i, i->queue_size);
	if (!i->num_queues || i->num_queues > p->nr_queues || size > VVU_INFLIGHT_SIZE)
		return err_set(err, -ENOSPC,
			"%u queues of %u, expected at most %u queues and 0x%x bytes", i->num_queues,
			i->queue_size, p->nr_queues, VVU_INFLIGHT_SIZE);
	size = align_up(size, PAGE_SIZE_4K);
	fd = memfd_create("vvu-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)size) ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return err_set(err, -errno, "0x%" PRIx64 " bytes of memory: %s", size,
			strerror(errno));
	i->mmap_size = size;
	i->mmap_offset = 0;
	return fd_take(&fd);
}

void vvu_clear_memory(struct vvu_proxy *p)
{
	p->stale = false;
	clear_regions(p);
	clear_piece(p, VVU_SHM_LOG, &p->log_size);
	clear_piece(p, VVU_SHM_INFLIGHT, &p->inflight_size);
}
