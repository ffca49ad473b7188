/*
 * vfio_iommufd_dirty.c - which pages devices wrote, as noted in page tables
 *
 * The page tables that an address space makes by itself note nothing. To start, each device is
 * moved to ones that do, of the same address space: the kernel replaces them under a device that
 * works. Devices behind the same IOMMU share them. To stop, all move back.
 *
 * A device that joins while writes are noted would not be: a report fails then, and all pages have
 * to be taken for written.
 *
 * Locks: io->lock, all of it.
 * Spec:  Documentation/userspace-api/iommufd.rst, IOMMU_HWPT_ALLOC, ..._SET_DIRTY_TRACKING,
 *        ..._GET_DIRTY_BITMAP.
 */
#include <errno.h>
#include <stdlib.h>

#include "attach/vfio_iommu_priv.h"

static int move(struct vfio_iommu *io, const struct vfio_bound *b, uint32_t to)
{
	struct vfio_device_attach_iommufd_pt pt = { .argsz = sizeof(pt), .pt_id = to };

	return vfio_ioctl(io, b->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &pt);
}

static void destroy(struct vfio_iommu *io, uint32_t id)
{
	struct iommu_destroy arg = { .size = sizeof(arg), .id = id };

	vfio_ioctl(io, io->fd, IOMMU_DESTROY, &arg);
}

/* Page tables for this device and others like it; they note from now on. */
static int make_tables(struct vfio_iommu *io, const struct vfio_bound *b, uint32_t *out)
{
	struct iommu_hwpt_alloc alloc = {
		.size = sizeof(alloc),
		.flags = IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
		.dev_id = b->devid,
		.pt_id = io->ioas,
	};
	struct iommu_hwpt_set_dirty_tracking set = { .size = sizeof(set),
		.flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE };
	uint32_t *more = reallocarray(io->hwpts, io->nr_hwpts + 1, sizeof(*more));
	int rc;

	if (!more)
		return -ENOMEM;
	io->hwpts = more;
	rc = vfio_ioctl(io, io->fd, IOMMU_HWPT_ALLOC, &alloc);
	if (rc)
		return rc;
	more[io->nr_hwpts++] = *out = set.hwpt_id = alloc.out_hwpt_id;
	return vfio_ioctl(io, io->fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &set);
}

static int track(struct vfio_iommu *io, struct vfio_bound *b)
{
	uint32_t id;
	int rc = -EINVAL;

	if (!b->devid)
		return -EOPNOTSUPP;
	/* -EINVAL: these are not for its IOMMU. */
	for (unsigned i = 0; i < io->nr_hwpts && rc == -EINVAL; i++)
		rc = move(io, b, io->hwpts[i]);
	if (rc == -EINVAL) {
		rc = make_tables(io, b, &id);
		if (!rc)
			rc = move(io, b, id);
	}
	b->tracked = !rc;
	return rc;
}

int vfio_iommufd_dirty_start(struct vfio_iommu *io)
{
	int rc = 0;

	for (unsigned i = 0; i < io->nr_bound && !rc; i++)
		rc = track(io, &io->bound[i]);
	/* Older kernels know neither the call nor the flag. */
	return rc == -ENOTTY || rc == -EINVAL ? -EOPNOTSUPP : rc;
}

void vfio_iommufd_dirty_stop(struct vfio_iommu *io)
{
	for (unsigned i = 0; i < io->nr_bound; i++) {
		if (io->bound[i].tracked)
			move(io, &io->bound[i], io->ioas);
		io->bound[i].tracked = false;
	}
	while (io->nr_hwpts)
		destroy(io, io->hwpts[--io->nr_hwpts]);
	free(io->hwpts);
	io->hwpts = NULL;
}

int vfio_iommufd_dirty_report(
	struct vfio_iommu *io, uint64_t iova, uint64_t size, uint64_t page_size, uint64_t *bitmap)
{
	int rc = 0;

	for (unsigned i = 0; i < io->nr_bound; i++)
		if (!io->bound[i].tracked)
			return -EOPNOTSUPP;
	for (unsigned i = 0; i < io->nr_hwpts && !rc; i++) {
		struct iommu_hwpt_get_dirty_bitmap get = {
			.size = sizeof(get),
			.hwpt_id = io->hwpts[i],
			.iova = iova,
			.length = size,
			.page_size = page_size,
			.data = (uintptr_t)bitmap,
		};

		rc = vfio_ioctl(io, io->fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &get);
	}
	return rc;
}
