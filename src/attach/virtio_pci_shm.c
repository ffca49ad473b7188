/*
 * virtio_pci_shm.c - shared-memory regions: a BAR that a device fills with pieces of files
 *
 * A BAR holds its regions one after the other; usually BAR 2 holds all. The device asks for a piece
 * of a file to be laid into a region; we map the file and, while the BAR is decoded, give KVM a
 * memory slot there. Where nothing is laid, accesses trap and read all-ones.
 *
 * The file may lose its end at any time. We never touch such a mapping ourselves; KVM says
 * that it could not, and then what cannot be read any more is taken out (vio_memory_fault). A
 * look at each mapping's last page finds a truncated file; if none is, all pages are looked at.
 *
 * Owns:    the mappings. Descriptors are closed once mapped.
 * Threads: the back-end's changes, the BAR moves on vCPU threads; all under the topology lock.
 * Spec:    virtio 1.3, 2.10 and 4.1.4.7; vhost-user, "Shared memory".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "attach/virtio_pci_priv.h"
#include "base/clock.h"
#include "base/fd.h"

/* So that a guest may map a region by large pages. */
#define REGION_ALIGN (2 * MIB)
#define REGION_MAX   (1ull << 40)
/* Pieces of all regions together; each is a memory slot. */
#define MAPS_MAX 4096u

static bool is_paged(uint64_t value)
{
	return !(value & (PAGE_SIZE_4K - 1));
}

static int check_region(const struct virtio_info *info, unsigned i, struct err *err)
{
	uint64_t size = info->shm[i].size;

	if (!is_paged(size) || size > REGION_MAX)
		return err_set(err, -EPROTO,
			"shared memory region %u: 0x%llx bytes, expected a multiple of 4096 "
			"up to 0x%llx",
			info->shm[i].id, (unsigned long long)size, REGION_MAX);
	for (unsigned j = 0; j < i; j++)
		if (info->shm[j].size && info->shm[j].id == info->shm[i].id)
			return err_set(err, -EPROTO, "shared memory region %u is there twice",
				info->shm[i].id);
	return 0;
}

int vio_shm_build(struct virtio_pci *v, struct err *err)
{
	uint64_t ends[PCI_NR_BARS] = { 0 };

	for (unsigned i = 0; i < VIRTIO_MAX_SHM; i++) {
		uint64_t size = v->b->info.shm[i].size;
		unsigned bar = v->layout.shm[i].bar;
		bool narrow = v->layout.shm[i].narrow;

		if (!size)
			continue;
		if (check_region(&v->b->info, i, err))
			return -EPROTO;
		v->shm_at[i] = ends[bar];
		ends[bar] = align_up(ends[bar] + size, REGION_ALIGN);
		v->fn.bars[bar] = (struct pci_bar){
			.kind = narrow ? PCI_BAR_MEM32 : PCI_BAR_MEM64,
			.prefetchable = !narrow,
			.size = pow2_up(ends[bar]),
		};
	}
	return 0;
}

/* --- slots: topology lock held --- */

static int lay(struct virtio_pci *v, struct vio_map *map)
{
	int slot = memory_slot_add(v->m->memory, v->fn.bars[map->bar].addr + map->at, map->size,
		map->hva, map->readonly);

	map->slot = MAX(slot, -1);
	return MIN(slot, 0);
}

static void unlay(struct virtio_pci *v, struct vio_map *map)
{
	if (map->slot >= 0)
		memory_slot_remove(v->m->memory, map->slot);
	map->slot = -1;
}

void vio_shm_mapped(struct virtio_pci *v, unsigned bar)
{
	for (unsigned i = 0; i < v->nr_maps; i++) {
		struct vio_map *map = &v->maps[i];
		int rc = map->bar == bar ? lay(v, map) : 0;

		if (rc)
			log_limited(&v->complaints, LOG_WARN,
				"%s: shared memory 0x%llx+0x%llx gets no memory slot: %s", v->id,
				(unsigned long long)map->at, (unsigned long long)map->size,
				strerror(-rc));
	}
}

void vio_shm_unmapped(struct virtio_pci *v, unsigned bar)
{
	for (unsigned i = 0; i < v->nr_maps; i++)
		if (v->maps[i].bar == bar)
			unlay(v, &v->maps[i]);
}

static void drop(struct virtio_pci *v, unsigned i)
{
	unlay(v, &v->maps[i]);
	munmap(v->maps[i].hva, v->maps[i].size);
	v->maps[i] = v->maps[--v->nr_maps];
}

void vio_shm_drop(struct virtio_pci *v)
{
	while (v->nr_maps)
		drop(v, v->nr_maps - 1);
}

/* --- what the device asks for --- */

static bool overlaps(const struct virtio_pci *v, const struct vio_map *map)
{
	for (unsigned i = 0; i < v->nr_maps; i++)
		if (v->maps[i].bar == map->bar &&
			ranges_overlap(v->maps[i].at, v->maps[i].size, map->at, map->size))
			return true;
	return false;
}

static int room_for_one(struct virtio_pci *v)
{
	struct vio_map *more;

	if (v->nr_maps == MAPS_MAX)
		return -ENOSPC;
	more = realloc(v->maps, (v->nr_maps + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	v->maps = more;
	return 0;
}

static int add(struct virtio_pci *v, struct vio_map *map, int fd, uint64_t fd_off)
{
	int prot = PROT_READ | (map->readonly ? 0 : PROT_WRITE);
	int rc = overlaps(v, map) ? -EEXIST : room_for_one(v);

	if (rc)
		return rc;
	map->hva = mmap(NULL, map->size, prot, MAP_SHARED, fd, (off_t)fd_off);
	if (map->hva == MAP_FAILED)
		return -errno;
	if (v->fn.bars[map->bar].mapped)
		rc = lay(v, map);
	if (rc)
		munmap(map->hva, map->size);
	else
		v->maps[v->nr_maps++] = *map;
	return rc;
}

/* Only whole pieces, as they were laid. */
static int take_out(struct virtio_pci *v, const struct vio_map *what)
{
	uint64_t at = what->at, size = what->size;
	unsigned removed = 0;

	for (unsigned i = v->nr_maps; i-- > 0;)
		if (v->maps[i].bar == what->bar && v->maps[i].at >= at &&
			range_ok(v->maps[i].at - at, v->maps[i].size, size)) {
			drop(v, i);
			removed++;
		}
	return removed ? 0 : -ENOENT;
}

/* Where [off, off + map->size) of a region lies. 0 or -EINVAL. */
static int place(const struct virtio_pci *v, uint8_t shmid, uint64_t off, struct vio_map *map)
{
	uint64_t len = map->size;
	const struct virtio_info *info = &v->b->info;

	for (unsigned i = 0; i < VIRTIO_MAX_SHM; i++) {
		if (info->shm[i].id != shmid || !range_ok(off, len, info->shm[i].size))
			continue;
		map->bar = v->layout.shm[i].bar;
		map->at = v->shm_at[i] + off;
		return len && is_paged(off | len) ? 0 : -EINVAL;
	}
	return -EINVAL;
}

int vio_shm_map(struct virtio_owner *o, uint8_t shmid, uint64_t off, uint64_t len, int fd_in,
	uint64_t fd_off, bool writable)
{
	struct virtio_pci *v = container_of(o, struct virtio_pci, owner);
	struct vio_map map = { .size = len, .readonly = !writable, .slot = -1 };
	FD_AUTO fd = fd_in;
	int rc = place(v, shmid, off, &map);

	if (rc || !is_paged(fd_off) || fd_off > INT64_MAX - len)
		return -EINVAL;
	pci_lock(v->m->pci);
	rc = fd < 0 ? take_out(v, &map) : add(v, &map, fd, fd_off);
	pci_unlock(v->m->pci);
	return rc;
}

void vio_shm_clear(struct virtio_owner *o)
{
	struct virtio_pci *v = container_of(o, struct virtio_pci, owner);

	pci_lock(v->m->pci);
	vio_shm_drop(v);
	pci_unlock(v->m->pci);
}

/* --- files that lost their end --- */

#define PROBES 256u

/*
 * One byte of each page of [off, off + size), up to PROBES pages. By a system call, for which a
 * page that is not there is an error, not a signal.
 */
static bool readable(const struct vio_map *map, uint64_t off, uint64_t size)
{
	char bytes[PROBES];
	struct iovec from[PROBES], to = { bytes, size / PAGE_SIZE_4K };

	for (unsigned i = 0; i < to.iov_len; i++)
		from[i] = (struct iovec){ (char *)map->hva + off + i * PAGE_SIZE_4K, 1 };
	return process_vm_readv(getpid(), &to, 1, from, to.iov_len, 0) == (ssize_t)to.iov_len;
}

static bool end_readable(const struct vio_map *map)
{
	return readable(map, map->size - PAGE_SIZE_4K, PAGE_SIZE_4K);
}

static bool all_readable(const struct vio_map *map)
{
	const uint64_t step = PROBES * PAGE_SIZE_4K;

	for (uint64_t off = 0; off < map->size; off += step)
		if (!readable(map, off, MIN(step, map->size - off)))
			return false;
	return true;
}

static void drop_unless(struct virtio_pci *v, bool (*fine)(const struct vio_map *map))
{
	for (unsigned i = v->nr_maps; i-- > 0;) {
		if (v->maps[i].slot < 0 || fine(&v->maps[i]))
			continue;
		log_limited(&v->complaints, LOG_WARN,
			"%s: the file behind shared memory 0x%llx+0x%llx is cut short, it is mapped "
			"no more",
			v->id, (unsigned long long)v->maps[i].at,
			(unsigned long long)v->maps[i].size);
		drop(v, i);
		v->cut_ns = clock_now_ns();
	}
}

/* More than one vCPU may have found the same piece gone: the later ones may try again as well. */
static bool cut_lately(const struct virtio_pci *v)
{
	return v->cut_ns && clock_now_ns() - v->cut_ns < NS_PER_S;
}

bool vio_memory_fault(struct pci_function *fn)
{
	struct virtio_pci *v = vio_of(fn);

	drop_unless(v, end_readable);
	if (!cut_lately(v))
		drop_unless(v, all_readable);
	return cut_lately(v);
}
