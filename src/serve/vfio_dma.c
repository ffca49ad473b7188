/*
 * vfio_dma.c - our memory in a device's address space, by each of the ways there are
 *
 * The IOMMU says which addresses can be used (the MSI window cannot, for one). The lowest piece
 * that is large enough is taken, but nothing below 1 MiB, so that 0 stays an address of nothing.
 *
 * Trusts: the kernel; its lists are walked within the buffer that they came in.
 */
#include "serve/vfio_dma.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "wire/vfio_kernel.h"

#define LOWEST	   MIB
#define ALIGN	   (64 * KIB)
#define INFO_ROOM  8192u
#define MAX_RANGES 128

/* True: it fits into [first, last], at *iova. */
static bool fits(uint64_t first, uint64_t last, size_t size, uint64_t *iova)
{
	uint64_t at = MAX(first, LOWEST);

	if (at > UINT64_MAX - ALIGN)
		return false;
	at = align_up(at, ALIGN);
	*iova = at;
	return at <= last && last - at >= size - 1;
}

static int no_room(size_t size, struct err *err)
{
	return err_set(err, -ENOSPC, "the IOMMU allows no range of 0x%zx bytes", size);
}

static int locked(int rc, const char *what, struct err *err)
{
	return rc == -ENOMEM
		       ? err_set(err, rc, "%s: more memory than may be locked (ulimit -l)", what)
		       : err_set(err, rc, "%s: %s", what, strerror(-rc));
}

/* --- container --- */

union info {
	struct vfio_iommu_type1_info info;
	uint8_t bytes[INFO_ROOM];
};

/* The capability of this kind, all of it within the answer; NULL: there is none. */
static const struct vfio_info_cap_header *find_cap(const union info *u, uint16_t id)
{
	uint32_t at = u->info.flags & VFIO_IOMMU_INFO_CAPS ? u->info.cap_offset : 0;
	const struct vfio_info_cap_header *h;

	for (unsigned n = 0; n < 64 && at; n++, at = h->next) {
		if (at % 8 || !range_ok(at, sizeof(*h), MIN(u->info.argsz, INFO_ROOM)))
			return NULL;
		h = (const void *)(u->bytes + at);
		if (h->id == id)
			return h;
	}
	return NULL;
}

static int pick_container(const union info *u, size_t size, uint64_t *iova, struct err *err)
{
	const struct vfio_iommu_type1_info_cap_iova_range *cap =
		(const void *)find_cap(u, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE);
	size_t room;

	/* A kernel that does not say has no holes to speak of above the first MiB. */
	if (!cap)
		return fits(0, UINT32_MAX / 2, size, iova) ? 0 : no_room(size, err);
	room = (size_t)(u->bytes + INFO_ROOM - (const uint8_t *)cap);
	if (room < sizeof(*cap) ||
		cap->nr_iovas > (room - sizeof(*cap)) / sizeof(cap->iova_ranges[0]))
		return err_set(err, -EPROTO, "%u ranges do not fit the kernel's answer",
			room < sizeof(*cap) ? 0 : cap->nr_iovas);
	for (uint32_t i = 0; i < cap->nr_iovas; i++)
		if (fits(cap->iova_ranges[i].start, cap->iova_ranges[i].end, size, iova))
			return 0;
	return no_room(size, err);
}

int vfio_dma_container(const struct vfio_calls *c, int container, void *mem, size_t size,
	uint64_t *iova, struct err *err)
{
	union info u = { .info.argsz = sizeof(u) };
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)mem,
		.size = size,
	};
	int rc = c->ioctl(c, container, VFIO_IOMMU_GET_INFO, &u);

	if (rc)
		return err_set(err, rc, "VFIO_IOMMU_GET_INFO: %s", strerror(-rc));
	if (u.info.flags & VFIO_IOMMU_INFO_PGSIZES && !(u.info.iova_pgsizes & PAGE_SIZE_4K))
		return err_set(err, -ENOTSUP, "the IOMMU has no pages of 4096 bytes");
	rc = pick_container(&u, size, iova, err);
	if (rc)
		return rc;
	map.iova = *iova;
	rc = c->ioctl(c, container, VFIO_IOMMU_MAP_DMA, &map);
	return rc ? locked(rc, "VFIO_IOMMU_MAP_DMA", err) : 0;
}

/* --- iommufd --- */

int vfio_dma_iommufd(const struct vfio_calls *c, int iommufd, uint32_t ioas, void *mem, size_t size,
	uint64_t *iova, struct err *err)
{
	struct iommu_iova_range ranges[MAX_RANGES];
	struct iommu_ioas_iova_ranges ask = {
		.size = sizeof(ask),
		.ioas_id = ioas,
		.num_iovas = MAX_RANGES,
		.allowed_iovas = (uintptr_t)ranges,
	};
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE |
			 IOMMU_IOAS_MAP_READABLE,
		.ioas_id = ioas,
		.user_va = (uintptr_t)mem,
		.length = size,
	};
	int rc = c->ioctl(c, iommufd, IOMMU_IOAS_IOVA_RANGES, &ask);
	bool found = false;

	/* More than there is room for: those that came will do. */
	if (rc && rc != -EMSGSIZE)
		return err_set(err, rc, "IOMMU_IOAS_IOVA_RANGES: %s", strerror(-rc));
	for (uint32_t i = 0; i < MIN(ask.num_iovas, MAX_RANGES) && !found; i++)
		found = fits(ranges[i].start, ranges[i].last, size, iova);
	if (!found)
		return no_room(size, err);
	map.iova = *iova;
	rc = c->ioctl(c, iommufd, IOMMU_IOAS_MAP, &map);
	return rc ? locked(rc, "IOMMU_IOAS_MAP", err) : 0;
}

/* --- no IOMMU --- */

#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_FRAME	((1ull << 55) - 1)

int vfio_dma_physical(void *mem, size_t size, uint64_t *pages, struct err *err)
{
	FD_AUTO fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_set(err, -errno, "/proc/self/pagemap: %s", strerror(errno));
	/* The kernel swaps none of it out. That it moves none, nobody promises. */
	if (mlock(mem, size))
		return locked(-errno, "mlock", err);
	for (size_t i = 0; i < size / PAGE_SIZE_4K; i++) {
		uint64_t entry, at = ((uintptr_t)mem / PAGE_SIZE_4K + i) * sizeof(entry);

		if (pread(fd, &entry, sizeof(entry), (off_t)at) != (ssize_t)sizeof(entry))
			return err_set(err, -EIO, "/proc/self/pagemap: cannot be read");
		if (!(entry & PAGEMAP_PRESENT) || !(entry & PAGEMAP_FRAME))
			return err_set(err, -EPERM,
				"/proc/self/pagemap: does not say where memory lies: "
				"CAP_SYS_ADMIN is needed without an IOMMU");
		pages[i] = (entry & PAGEMAP_FRAME) * PAGE_SIZE_4K;
	}
	return 0;
}
