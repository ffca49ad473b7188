/*
 * vfio_iommu_map.c - guest RAM into a host's IOMMU: what is checked before, in which pieces, and
 * why it failed
 *
 * Locks: io->lock, all of it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "attach/vfio_iommu_priv.h"
#include "base/log.h"

/* --- before --- */

uint64_t vfio_ram_size(const struct vfio_iommu *io)
{
	uint64_t size = io->followed_size;

	for (unsigned i = 0; i < io->nr_ram; i++)
		size += io->ram[i].size;
	return size;
}

int vfio_check_memlock(struct vfio_iommu *io, struct err *err)
{
	uint64_t limit = io->sys->memlock(io->sys), more = vfio_ram_size(io);
	uint64_t already = vfio_shared_pinned(io->shared), need = already + more;
	char others[128] = "";

	if (io->noiommu || need <= limit)
		return 0;
	if (already)
		snprintf(others, sizeof(others),
			" once more, as devices behind the guest's IOMMU have address spaces of their own, together");
	return err_set(err, -ENOMEM,
		"all of guest RAM has to be locked in memory%s, %llu bytes, and the limit is %llu: raise it (ulimit -l "
		"%llu, or LimitMEMLOCK=%llu in a systemd unit) or start with CAP_IPC_LOCK",
		others, (unsigned long long)need, (unsigned long long)limit,
		(unsigned long long)((need + 1023) / 1024), (unsigned long long)need);
}

bool vfio_in_ranges(const struct vfio_iova_ranges *ranges, uint64_t iova, uint64_t size)
{
	for (unsigned i = 0; i < ranges->nr; i++)
		if (iova >= ranges->r[i].start && iova + (size - 1) <= ranges->r[i].last)
			return true;
	return !ranges->nr;
}

/*
 * The first address of [iova, iova + size) that can not be translated, and the last of that hole.
 */
static void find_hole(
	const struct vfio_iova_ranges *ranges, uint64_t iova, uint64_t *from, uint64_t *to)
{
	*from = iova;
	/* Ranges come in ascending order. */
	for (unsigned i = 0; i < ranges->nr; i++)
		if (*from >= ranges->r[i].start && *from <= ranges->r[i].last)
			*from = ranges->r[i].last + 1;
	*to = UINT64_MAX;
	for (unsigned i = ranges->nr; i-- > 0;)
		if (ranges->r[i].start > *from)
			*to = ranges->r[i].start - 1;
}

int vfio_check_ram(struct vfio_iommu *io, const struct mem_range *r, struct err *err)
{
	uint64_t from, to;

	if (io->noiommu || vfio_in_ranges(&io->ranges, r->gpa, r->size))
		return 0;
	find_hole(&io->ranges, r->gpa, &from, &to);
	return err_set(err, -ERANGE,
		"guest RAM at 0x%llx to 0x%llx does not fit into what the host's IOMMU can translate: 0x%llx to 0x%llx is "
		"reserved or out of its reach; give the guest less memory",
		(unsigned long long)r->gpa, (unsigned long long)(r->gpa + r->size - 1),
		(unsigned long long)from, (unsigned long long)to);
}

/* --- mapping --- */

const char *vfio_map_hint(int rc)
{
	switch (rc) {
	case -ENOMEM:
		return " (the limit of locked memory, ulimit -l, or the host's memory is exhausted)";
	case -EFAULT:
		return " (it cannot be pinned: too few huge pages?)";
	case -ENOSPC:
		return " (too many maps: see dma_entry_limit of the module vfio_iommu_type1)";
	case -EINVAL:
		return " (an address that the IOMMU cannot translate?)";
	default:
		return "";
	}
}

/*
 * Pinning cannot be interrupted, so a large range is mapped in pieces: an attach that is called off
 * ends after one of them. Large enough that the IOMMU's pages are the largest it has.
 */
#define PIECE (16 * GIB)
/* Of that, what is put into huge pages between two looks at whether it is called off. */
#define PART GIB

static int gather(
	struct vfio_iommu *io, uint64_t gpa, uint64_t size, const atomic_bool *cancel)
{
	for (uint64_t at = 0; at < size; at += PART) {
		if (cancel && atomic_load(cancel))
			return -ECANCELED;
		memory_gather(io->memory, gpa + at, MIN(PART, size - at));
	}
	return 0;
}

static int map_pieces(
	struct vfio_iommu *io, const struct mem_range *r, const atomic_bool *cancel, uint64_t *done)
{
	for (*done = 0; *done < r->size;) {
		uint64_t size = MIN(PIECE, r->size - *done);
		int rc = gather(io, r->gpa + *done, size, cancel);

		if (!rc)
			rc = io->backend->map(io, r->gpa + *done, size, (char *)r->hva + *done,
				DMA_CAN_READ | DMA_CAN_WRITE);
		if (rc)
			return rc;
		*done += size;
	}
	return 0;
}

int vfio_map_ram(struct vfio_iommu *io, const struct mem_range *r, const atomic_bool *cancel,
	struct err *err)
{
	uint64_t done = 0;
	int rc = io->noiommu ? 0 : map_pieces(io, r, cancel, &done);

	if (!rc || rc == -ECANCELED)
		return rc;
	if (done && io->mapped)
		io->backend->unmap(io, r->gpa, done, NULL);
	return err_set(err, rc,
		"the IOMMU does not map guest RAM at 0x%llx to 0x%llx (%llu of %llu bytes): %s%s",
		(unsigned long long)r->gpa + done, (unsigned long long)(r->gpa + r->size - 1),
		(unsigned long long)(r->size - done), (unsigned long long)vfio_ram_size(io),
		strerror(-rc), vfio_map_hint(rc));
}

void vfio_unmap_ram(struct vfio_iommu *io, const struct mem_range *r)
{
	int rc = io->noiommu ? 0 : io->backend->unmap(io, r->gpa, r->size, NULL);

	if (rc)
		log_warn("the IOMMU does not unmap guest RAM at 0x%llx: %s",
			(unsigned long long)r->gpa, strerror(-rc));
}
