/*
 * vfio_iommufd.c - host devices by their own files and /dev/iommu
 *
 * A device's file (/dev/vfio/devices/vfioN) can be used once it is bound to an iommufd and attached
 * to an I/O address space of it. All devices of a machine share one such space; the kernel makes
 * and shares the page tables. Both kinds of files may come from the caller, opened by somebody with
 * more rights: then those are not closed here, and the address space is destroyed instead, which
 * lets go of all memory likewise.
 *
 * Locks: io->lock, all of it.
 * Spec:  Documentation/userspace-api/iommufd.rst, Documentation/driver-api/vfio.rst.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_iommu_priv.h"

/* --- what all share --- */

static void iommufd_close(struct vfio_iommu *io)
{
	struct iommu_destroy destroy = { .size = sizeof(destroy), .id = io->ioas };

	if (io->given_iommufd < 0) {
		vfio_close(io, &io->fd);
		return;
	}
	if (io->ioas)
		vfio_ioctl(io, io->fd, IOMMU_DESTROY, &destroy);
	io->fd = -1;
	io->ioas = 0;
}

static int iommufd_open(struct vfio_iommu *io, struct err *err)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	int rc;

	io->ioas = 0;
	io->fd = rc = io->given_iommufd >= 0 ? io->given_iommufd
					     : io->sys->open(io->sys, VFIO_IOMMU_FILE);
	if (rc < 0) {
		io->fd = -1;
		return vfio_cannot_open(VFIO_IOMMU_FILE, rc, err);
	}
	rc = vfio_ioctl(io, io->fd, IOMMU_IOAS_ALLOC, &alloc);
	if (rc) {
		iommufd_close(io);
		return err_set(err, rc, "%s: no I/O address space: %s%s",
			io->given_iommufd >= 0 ? "--platform iommufd_fd" : VFIO_IOMMU_FILE,
			strerror(-rc), rc == -ENOTTY ? " (it is not /dev/iommu)" : "");
	}
	io->ioas = alloc.out_ioas_id;
	return 0;
}

/* --- devices --- */

static int open_device(struct vfio_iommu *io, const struct vfio_iommu_device *dev, struct err *err)
{
	char path[64];
	int fd;

	if (dev->fd >= 0)
		return dev->fd;
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", dev->cdev);
	fd = io->sys->open(io->sys, path);
	return fd < 0 ? vfio_cannot_open(path, fd, err) : fd;
}

/* "c36aa4f3-50fd-..." as bytes. It was checked. */
static void token_bytes(const char *text, uint8_t out[16])
{
	for (unsigned i = 0; i < 16; i++, text += 2) {
		unsigned byte = 0;

		text += *text == '-';
		sscanf(text, "%2x", &byte);
		out[i] = (uint8_t)byte;
	}
}

static int bind_device(
	struct vfio_iommu *io, const struct vfio_iommu_device *dev, int fd, uint32_t *devid)
{
	uint8_t token[16];
	struct vfio_bind_with_token arg = { .bind = {
						    .argsz = sizeof(arg.bind),
						    .iommufd = io->fd,
					    } };
	int rc;

	if (dev->vf_token) {
		token_bytes(dev->vf_token, token);
		arg.bind.argsz = sizeof(arg);
		arg.bind.flags = VFIO_BIND_WITH_TOKEN;
		arg.token = (uintptr_t)token;
	}
	rc = vfio_ioctl(io, fd, VFIO_DEVICE_BIND_IOMMUFD, &arg);
	*devid = rc ? 0 : arg.bind.out_devid;
	return rc;
}

static const char *bind_hint(const struct vfio_iommu_device *dev, int rc)
{
	switch (rc) {
	case -EINVAL:
		if (dev->vf_token)
			return " (it needs no vf_token, or the kernel takes one by groups and container only)";
		/* fall through */
	case -EBUSY:
		return " (it is in use by another program, or a device of its group is bound to a host driver)";
	case -ENOTTY:
		return " (it is not a file of /dev/vfio/devices)";
	case -EPERM:
		return " (without interrupt remapping: allow_unsafe_interrupts of the module iommufd)";
	default:
		return vfio_token_hint(dev, rc);
	}
}

static int bind(struct vfio_iommu *io, const struct vfio_iommu_device *dev, struct vfio_binding *b,
	struct err *err)
{
	int rc = bind_device(io, dev, b->device_fd, &b->devid);

	/*
	 * Bound by a run of this machine before: the caller's file is still open. Attaching tells
	 * whether it fits.
	 */
	b->was_bound = rc == -EINVAL && b->borrowed && io->given_iommufd >= 0;
	if (!rc || b->was_bound)
		return 0;
	return err_set(err, rc, "%s cannot be bound to the iommufd: %s%s", dev->name, strerror(-rc),
		bind_hint(dev, rc));
}

static int attach(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	struct vfio_binding *b, struct err *err)
{
	struct vfio_device_attach_iommufd_pt pt = { .argsz = sizeof(pt), .pt_id = io->ioas };
	int rc = vfio_ioctl(io, b->device_fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &pt);

	if (!rc)
		return 0;
	return err_set(err, rc, "%s cannot be attached to the I/O address space: %s%s", dev->name,
		strerror(-rc),
		rc == -EPERM
			? " (without interrupt remapping: allow_unsafe_interrupts of the module iommufd)"
		: rc == -EADDRINUSE ? " (its IOMMU reserves addresses that guest RAM has)"
				    : "");
}

/* For those who ask about all of them later. A device that comes while writes are noted is not. */
static int remember(struct vfio_iommu *io, const struct vfio_binding *b, struct err *err)
{
	struct vfio_bound *more = reallocarray(io->bound, io->nr_bound + 1, sizeof(*more));

	if (!more)
		return err_set(err, -ENOMEM, "out of memory");
	io->bound = more;
	more[io->nr_bound++] = (struct vfio_bound){ .fd = b->device_fd, .devid = b->devid };
	return 0;
}

static void forget(struct vfio_iommu *io, int fd)
{
	for (unsigned i = 0; i < io->nr_bound; i++)
		if (io->bound[i].fd == fd) {
			io->bound[i] = io->bound[--io->nr_bound];
			return;
		}
}

static int iommufd_join(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	struct vfio_binding *b, struct err *err)
{
	int rc = open_device(io, dev, err);

	if (rc < 0)
		return rc;
	b->device_fd = rc;
	b->borrowed = dev->fd >= 0;
	/* The device takes hold of KVM when it is bound. */
	vfio_shared_kvm_add(io->shared, b->device_fd);
	rc = bind(io, dev, b, err);
	if (!rc)
		rc = attach(io, dev, b, err);
	return rc ? rc : remember(io, b, err);
}

static void iommufd_leave(struct vfio_iommu *io, struct vfio_binding *b)
{
	struct vfio_device_detach_iommufd_pt pt = { .argsz = sizeof(pt) };

	if (b->device_fd < 0)
		return;
	forget(io, b->device_fd);
	/* First: KVM's list keeps a file open. */
	vfio_shared_kvm_remove(io->shared, b->device_fd);
	if (b->borrowed)
		vfio_ioctl(io, b->device_fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &pt);
	else
		vfio_close(io, &b->device_fd);
	b->device_fd = -1;
}

/* --- maps --- */

static int iommufd_ranges(struct vfio_iommu *io, struct vfio_iova_ranges *out, struct err *err)
{
	struct iommu_iova_range list[ARRAY_SIZE(out->r)];
	struct iommu_ioas_iova_ranges ask = {
		.size = sizeof(ask),
		.ioas_id = io->ioas,
		.num_iovas = ARRAY_SIZE(list),
		.allowed_iovas = (uintptr_t)list,
	};
	int rc = vfio_ioctl(io, io->fd, IOMMU_IOAS_IOVA_RANGES, &ask);

	out->nr = 0;
	out->page_size = rc ? 0 : ask.out_iova_alignment;
	/* There are more than fit: what came is true as far as it goes. */
	if (rc && rc != -EMSGSIZE)
		return err_set(err, rc, "IOMMU_IOAS_IOVA_RANGES: %s", strerror(-rc));
	for (uint32_t i = 0; i < MIN(ask.num_iovas, (uint32_t)ARRAY_SIZE(list)); i++) {
		out->r[out->nr].start = list[i].start;
		out->r[out->nr++].last = list[i].last;
	}
	return 0;
}

static int iommufd_map(
	struct vfio_iommu *io, uint64_t iova, uint64_t size, void *hva, unsigned access)
{
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA |
			 (access & DMA_CAN_READ ? IOMMU_IOAS_MAP_READABLE : 0) |
			 (access & DMA_CAN_WRITE ? IOMMU_IOAS_MAP_WRITEABLE : 0),
		.ioas_id = io->ioas,
		.user_va = (uintptr_t)hva,
		.length = size,
		.iova = iova,
	};

	return vfio_ioctl(io, io->fd, IOMMU_IOAS_MAP, &map);
}

static int iommufd_unmap(struct vfio_iommu *io, uint64_t iova, uint64_t size, uint64_t *done)
{
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = io->ioas,
		.iova = iova,
		.length = size,
	};
	int rc = vfio_ioctl(io, io->fd, IOMMU_IOAS_UNMAP, &unmap);

	if (done)
		*done = rc ? 0 : unmap.length;
	return rc;
}

static int iommufd_unmap_all(struct vfio_iommu *io)
{
	int rc = iommufd_unmap(io, 0, UINT64_MAX, NULL);

	return rc == -ENOENT ? 0 : rc;
}

/* --- hot reset --- */

/* A device's number in the list: it is not in this iommufd, nor is another of its group. */
#define NOT_OWNED UINT32_MAX

static int whose(const struct vfio_pci_hot_reset_info *info, struct err *err)
{
	for (uint32_t i = 0; i < info->count; i++) {
		const struct vfio_pci_dependent_device *d = &info->devices[i];

		if (d->group_id == NOT_OWNED)
			return err_set(err, -EPERM,
				"its bus cannot be reset: %04x:%02x:%02x.%x is on it too, and not this machine's",
				d->segment, d->bus, d->devfn >> 3, d->devfn & 7);
	}
	return err_set(
		err, -EPERM, "its bus cannot be reset: not all devices on it are this machine's");
}

static int iommufd_hot_reset(struct vfio_iommu *io, const struct vfio_binding *b, struct err *err)
{
	FREE_AUTO struct vfio_pci_hot_reset_info *info = NULL;
	/* No group: the kernel looks at who is bound to our iommufd. */
	struct vfio_pci_hot_reset reset = { .argsz = sizeof(reset) };
	int rc = vfio_ask_bus(io, b, &info, err);

	if (rc)
		return rc;
	if (!(info->flags & VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED))
		return whose(info, err);
	return vfio_reset_bus(io, b, &reset, err);
}

const struct vfio_backend vfio_iommufd = {
	.name = "iommufd",
	.open = iommufd_open,
	.close = iommufd_close,
	.join = iommufd_join,
	.leave = iommufd_leave,
	.ranges = iommufd_ranges,
	.map = iommufd_map,
	.unmap = iommufd_unmap,
	.unmap_all = iommufd_unmap_all,
	.hot_reset = iommufd_hot_reset,
	.dirty_start = vfio_iommufd_dirty_start,
	.dirty_stop = vfio_iommufd_dirty_stop,
	.dirty_report = vfio_iommufd_dirty_report,
};
