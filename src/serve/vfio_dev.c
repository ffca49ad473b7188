/*
 * vfio_dev.c - a PCI device that this program drives itself, through VFIO
 *
 * Owns:    the descriptors. Mappings for DMA end with them.
 * Trusts:  the kernel, and of the device nothing but what the kernel says of it.
 * Spec:    the kernel's Documentation/driver-api/vfio.rst, userspace-api/iommufd.rst.
 */
#include "serve/vfio_dev.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/pci_regs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "serve/vfio_dma.h"
#include "wire/vfio_kernel.h"

#define PATH_ROOM 512

/* --- the kernel's --- */

static int call_open(const struct vfio_calls *c, const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int call_ioctl(const struct vfio_calls *c, int fd, unsigned long request, void *arg)
{
	int rc = ioctl(fd, request, arg);

	return rc < 0 ? -errno : rc;
}

static ssize_t call_pread(const struct vfio_calls *c, int fd, void *buf, size_t len, uint64_t off)
{
	ssize_t n = pread(fd, buf, len, (off_t)off);

	return n < 0 ? -errno : n;
}

static ssize_t call_pwrite(
	const struct vfio_calls *c, int fd, const void *buf, size_t len, uint64_t off)
{
	ssize_t n = pwrite(fd, buf, len, (off_t)off);

	return n < 0 ? -errno : n;
}

const struct vfio_calls vfio_calls_kernel = {
	.root = "",
	.open = call_open,
	.ioctl = call_ioctl,
	.pread = call_pread,
	.pwrite = call_pwrite,
};

static int call(const struct vfio_dev *d, int fd, unsigned long request, void *arg)
{
	return d->calls->ioctl(d->calls, fd, request, arg);
}

static int failed(const struct vfio_dev *d, int rc, const char *what, struct err *err)
{
	return err_set(err, rc, "%s: %s: %s", d->name, what, strerror(-rc));
}

/* --- sysfs --- */

static void sysfs_path(const struct vfio_dev *d, const char *file, char *path)
{
	snprintf(path, PATH_ROOM, "%s/sys/bus/pci/devices/%s/%s", d->calls->root, d->name, file);
}

/* What stands behind the last slash of the link; -errno. */
static int link_name(const struct vfio_dev *d, const char *file, char *name, size_t room)
{
	char path[PATH_ROOM], target[PATH_ROOM], *slash;
	ssize_t n;

	sysfs_path(d, file, path);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = 0;
	slash = strrchr(target, '/');
	snprintf(name, room, "%.63s", slash ? slash + 1 : target);
	return 0;
}

/* The device's own character device, if the kernel makes such: "vfio3". */
static bool cdev_name(const struct vfio_dev *d, char *name, size_t room)
{
	char path[PATH_ROOM];
	struct dirent *e;
	bool found = false;
	DIR *dir;

	sysfs_path(d, "vfio-dev", path);
	dir = opendir(path);
	while (dir && !found && (e = readdir(dir))) {
		found = !strncmp(e->d_name, "vfio", 4);
		if (found)
			snprintf(name, room, "%.63s", e->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

static int check_driver(const struct vfio_dev *d, struct err *err)
{
	char driver[64], path[PATH_ROOM];
	int rc = link_name(d, "driver", driver, sizeof(driver));

	sysfs_path(d, "", path);
	if (rc == -ENOENT && access(path, F_OK))
		return err_set(err, -ENODEV, "there is no PCI device %s", d->name);
	if (rc == -ENOENT)
		return err_set(err, -ENODEV, "%s has no driver, expected vfio-pci", d->name);
	if (rc)
		return failed(d, rc, "driver", err);
	if (strcmp(driver, "vfio-pci"))
		return err_set(err, -EBUSY, "%s is bound to %s, expected vfio-pci", d->name, driver);
	return 0;
}

/* --- opening --- */

/* 0; -ENOENT: not to be had this way; or -errno with a text. */
static int open_by_itself(struct vfio_dev *d, struct err *err)
{
	char name[64], path[PATH_ROOM];
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	int rc;

	if (!cdev_name(d, name, sizeof(name)))
		return -ENOENT;
	d->iommufd = d->calls->open(d->calls, "/dev/iommu");
	if (d->iommufd < 0)
		return -ENOENT;
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", name);
	d->fd = d->calls->open(d->calls, path);
	if (d->fd < 0)
		return failed(d, d->fd, path, err);
	bind.iommufd = d->iommufd;
	rc = call(d, d->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind);
	if (rc == -EPERM) {
		/* Interrupts that are not remapped may be allowed for containers alone. */
		fd_close(&d->fd);
		return -ENOENT;
	}
	if (rc)
		return failed(d, rc, "VFIO_DEVICE_BIND_IOMMUFD", err);
	rc = call(d, d->iommufd, IOMMU_IOAS_ALLOC, &ioas);
	if (rc)
		return failed(d, rc, "IOMMU_IOAS_ALLOC", err);
	d->ioas = attach.pt_id = ioas.out_ioas_id;
	rc = call(d, d->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach);
	return rc ? failed(d, rc, "VFIO_DEVICE_ATTACH_IOMMUFD_PT", err) : 0;
}

static int open_group(struct vfio_dev *d, struct err *err)
{
	char name[64], path[PATH_ROOM];
	struct vfio_group_status status = { .argsz = sizeof(status) };
	int rc = link_name(d, "iommu_group", name, sizeof(name));

	if (rc)
		return err_set(err, rc,
			"%s has no IOMMU group: the machine has no IOMMU, and the kernel's "
			"vfio.enable_unsafe_noiommu_mode is not set",
			d->name);
	snprintf(path, sizeof(path), "/dev/vfio/%s", name);
	d->group = d->calls->open(d->calls, path);
	if (d->group == -ENOENT) {
		snprintf(path, sizeof(path), "/dev/vfio/noiommu-%s", name);
		d->group = d->calls->open(d->calls, path);
		d->physical = d->group >= 0;
	}
	if (d->group < 0)
		return failed(d, d->group, path, err);
	rc = call(d, d->group, VFIO_GROUP_GET_STATUS, &status);
	if (rc)
		return failed(d, rc, "VFIO_GROUP_GET_STATUS", err);
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		return err_set(err, -EBUSY,
			"%s: another device of IOMMU group %s is not bound to vfio-pci", d->name,
			name);
	return 0;
}

static int open_by_group(struct vfio_dev *d, struct err *err)
{
	unsigned long kind;
	int rc = open_group(d, err);

	if (rc)
		return rc;
	d->container = d->calls->open(d->calls, "/dev/vfio/vfio");
	if (d->container < 0)
		return failed(d, d->container, "/dev/vfio/vfio", err);
	rc = call(d, d->group, VFIO_GROUP_SET_CONTAINER, &d->container);
	if (rc)
		return failed(d, rc, "VFIO_GROUP_SET_CONTAINER", err);
	kind = d->physical ? VFIO_NOIOMMU_IOMMU : VFIO_TYPE1v2_IOMMU;
	rc = call(d, d->container, VFIO_SET_IOMMU, (void *)kind);
	if (rc == -EPERM && !d->physical)
		return err_set(err, rc,
			"%s: its interrupts are not remapped, and the kernel's "
			"vfio_iommu_type1.allow_unsafe_interrupts is not set",
			d->name);
	if (rc)
		return failed(d, rc, "VFIO_SET_IOMMU", err);
	rc = call(d, d->group, VFIO_GROUP_GET_DEVICE_FD, d->name);
	if (rc < 0)
		return failed(d, rc, "VFIO_GROUP_GET_DEVICE_FD", err);
	d->fd = rc;
	if (d->physical)
		log_warn("%s has no IOMMU: nothing keeps it from all of this machine's memory",
			d->name);
	return 0;
}

static int ask_regions(struct vfio_dev *d, struct err *err)
{
	for (unsigned i = 0; i <= VFIO_DEV_CONFIG; i++) {
		struct vfio_region_info info = {
			.argsz = sizeof(info),
			.index = i < VFIO_DEV_BARS ? VFIO_PCI_BAR0_REGION_INDEX + i
						   : VFIO_PCI_CONFIG_REGION_INDEX,
		};
		int rc = call(d, d->fd, VFIO_DEVICE_GET_REGION_INFO, &info);

		if (rc)
			return failed(d, rc, "VFIO_DEVICE_GET_REGION_INFO", err);
		d->regions[i] = (struct vfio_dev_region){
			.at = info.offset,
			.size = info.size,
			.mappable = info.flags & VFIO_REGION_INFO_FLAG_MMAP,
		};
	}
	return 0;
}

static int ask_vectors(struct vfio_dev *d, struct err *err)
{
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = VFIO_PCI_MSIX_IRQ_INDEX };
	int rc = call(d, d->fd, VFIO_DEVICE_GET_IRQ_INFO, &info);

	if (rc)
		return failed(d, rc, "VFIO_DEVICE_GET_IRQ_INFO", err);
	if (!info.count)
		return err_set(err, -ENODEV, "%s has no MSI-X", d->name);
	d->nr_vectors = info.count;
	return 0;
}

static int turn_on(struct vfio_dev *d, struct err *err)
{
	uint16_t command;
	int rc = vfio_dev_read(d, VFIO_DEV_CONFIG, PCI_COMMAND, &command, sizeof(command));

	command |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE;
	if (!rc)
		rc = vfio_dev_write(
			d, VFIO_DEV_CONFIG, PCI_COMMAND, &command, sizeof(command));
	return rc ? failed(d, rc, "command register", err) : 0;
}

int vfio_dev_open(struct vfio_dev *d, const struct vfio_calls *calls,
	const struct pci_address *address, struct err *err)
{
	int rc;

	*d = (struct vfio_dev){
		.calls = calls, .fd = -1, .group = -1, .container = -1, .iommufd = -1
	};
	pci_address_print(address, d->name);
	rc = check_driver(d, err);
	if (rc)
		return rc;
	rc = open_by_itself(d, err);
	if (rc == -ENOENT && d->fd < 0) {
		fd_close(&d->iommufd);
		rc = open_by_group(d, err);
	}
	if (!rc)
		rc = ask_regions(d, err);
	if (!rc)
		rc = ask_vectors(d, err);
	return rc ? rc : turn_on(d, err);
}

void vfio_dev_close(struct vfio_dev *d)
{
	if (!d->calls)
		return;
	fd_close(&d->fd);
	fd_close(&d->group);
	fd_close(&d->container);
	fd_close(&d->iommufd);
	d->calls = NULL;
}

/* --- registers --- */

static int whole(ssize_t n, size_t len)
{
	return n < 0 ? (int)n : (size_t)n == len ? 0 : -EIO;
}

int vfio_dev_read(const struct vfio_dev *d, unsigned region, uint64_t off, void *buf, size_t len)
{
	const struct vfio_dev_region *r = &d->regions[region];

	if (!range_ok(off, len, r->size))
		return -ERANGE;
	return whole(d->calls->pread(d->calls, d->fd, buf, len, r->at + off), len);
}

int vfio_dev_write(
	const struct vfio_dev *d, unsigned region, uint64_t off, const void *buf, size_t len)
{
	const struct vfio_dev_region *r = &d->regions[region];

	if (!range_ok(off, len, r->size))
		return -ERANGE;
	return whole(d->calls->pwrite(d->calls, d->fd, buf, len, r->at + off), len);
}

/* --- DMA and interrupts --- */

int vfio_dev_map_dma(struct vfio_dev *d, void *mem, size_t size, uint64_t *pages, struct err *err)
{
	uint64_t iova = 0;
	int rc;

	if (d->physical)
		rc = vfio_dma_physical(mem, size, pages, err);
	else if (d->iommufd >= 0)
		rc = vfio_dma_iommufd(d->calls, d->iommufd, d->ioas, mem, size, &iova, err);
	else
		rc = vfio_dma_container(d->calls, d->container, mem, size, &iova, err);
	if (rc)
		return err_prefix(err, rc, "%s", d->name);
	for (size_t i = 0; !d->physical && i < size / PAGE_SIZE_4K; i++)
		pages[i] = iova + i * PAGE_SIZE_4K;
	return 0;
}

static int set_irqs(struct vfio_dev *d, unsigned index, const int *eventfds, unsigned nr)
{
	size_t bytes = sizeof(struct vfio_irq_set) + nr * sizeof(int32_t);
	FREE_AUTO struct vfio_irq_set *set = calloc(1, bytes);

	if (!set)
		return -ENOMEM;
	set->argsz = (uint32_t)bytes;
	set->flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
	set->index = index;
	set->count = nr;
	memcpy(set->data, eventfds, nr * sizeof(int32_t));
	return call(d, d->fd, VFIO_DEVICE_SET_IRQS, set);
}

int vfio_dev_vectors(struct vfio_dev *d, const int *eventfds, unsigned nr, struct err *err)
{
	int rc;

	nr = MIN(nr, d->nr_vectors);
	rc = set_irqs(d, VFIO_PCI_MSIX_IRQ_INDEX, eventfds, nr);
	/* The kernel has fewer, and says how many. */
	if (rc > 0 && (unsigned)rc < nr) {
		nr = (unsigned)rc;
		rc = set_irqs(d, VFIO_PCI_MSIX_IRQ_INDEX, eventfds, nr);
	}
	if (rc > 0)
		rc = -ENOSPC;
	return rc ? failed(d, rc, "interrupts", err) : (int)nr;
}

void vfio_dev_on_request(struct vfio_dev *d, int eventfd)
{
	int rc = set_irqs(d, VFIO_PCI_REQ_IRQ_INDEX, &eventfd, 1);

	if (rc)
		log_debug("%s: the host cannot ask for it back: %s", d->name, strerror(-rc));
}
