/*
 * vfio_container.c - host devices by group and container: type 1 version 2
 *
 * What cannot be told apart by the IOMMU is one group, and a group is handed over as a whole: its
 * file is opened once, put into the container, and stays for as long as one of its devices is used.
 * The first group gives the container its IOMMU driver, the last one that leaves takes all maps
 * with it.
 *
 * A device without an IOMMU has a group of its own kind (/dev/vfio/noiommu-N). Nothing can be
 * mapped for it, and nothing bounds its DMA: it is let in only where that was asked for.
 *
 * Locks: io->lock, all of it.
 * Spec:  linux/vfio.h; Documentation/driver-api/vfio.rst.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attach/vfio_iommu_priv.h"
#include "base/log.h"

#define CONTAINER "/dev/vfio/vfio"

static int container_open(struct vfio_iommu *io, struct err *err)
{
	int version;

	io->fd = io->sys->open(io->sys, CONTAINER);
	if (io->fd < 0) {
		int rc = io->fd;

		io->fd = -1;
		return vfio_cannot_open(CONTAINER, rc, err);
	}
	version = vfio_ioctl(io, io->fd, VFIO_GET_API_VERSION, NULL);
	if (version == VFIO_API_VERSION)
		return 0;
	vfio_close(io, &io->fd);
	return err_set(err, -EPROTO, CONTAINER " has API version %d, expected %d", version,
		VFIO_API_VERSION);
}

static void container_close(struct vfio_iommu *io)
{
	vfio_close(io, &io->fd);
	io->has_iommu = false;
}

/* --- groups --- */

static int refuse_noiommu(int number, struct err *err)
{
	return err_set(err, -EPERM,
		"group %d has no IOMMU, so the device could read and write all of the host's memory: switch the IOMMU on "
		"(firmware; intel_iommu=on), or take the risk with --platform vfio_unsafe_noiommu=on",
		number);
}

/* The group's file, or -errno with a text. */
static int open_group(struct vfio_iommu *io, int number, bool *noiommu, struct err *err)
{
	char path[64], unsafe[64];
	int fd, rc;

	snprintf(path, sizeof(path), "/dev/vfio/%d", number);
	snprintf(unsafe, sizeof(unsafe), "/dev/vfio/noiommu-%d", number);
	*noiommu = false;
	fd = io->sys->open(io->sys, path);
	if (fd >= 0)
		return fd;
	if (fd != -ENOENT)
		return vfio_cannot_open(path, fd, err);
	rc = io->sys->open(io->sys, unsafe);
	if (rc == -ENOENT)
		return vfio_cannot_open(path, fd, err);
	if (rc >= 0 && !io->unsafe_noiommu) {
		io->sys->close(io->sys, rc);
		return refuse_noiommu(number, err);
	}
	*noiommu = true;
	return rc < 0 ? vfio_cannot_open(unsafe, rc, err) : rc;
}

static int check_viable(struct vfio_iommu *io, const struct vfio_group *g, struct err *err)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	int rc = vfio_ioctl(io, g->fd, VFIO_GROUP_GET_STATUS, &status);

	if (rc)
		return err_set(
			err, rc, "group %d: VFIO_GROUP_GET_STATUS: %s", g->number, strerror(-rc));
	if (status.flags & VFIO_GROUP_FLAGS_CONTAINER_SET)
		return err_set(err, -EBUSY, "group %d is in a container already", g->number);
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		return err_set(err, -EPERM,
			"group %d is not viable: a device in it is bound to a host driver; bind all of its devices to "
			"vfio-pci (outboard device-bind)",
			g->number);
	return 0;
}

static int put_into_container(
	struct vfio_iommu *io, struct vfio_group *g, bool noiommu, struct err *err)
{
	unsigned long type = noiommu ? VFIO_NOIOMMU_IOMMU : VFIO_TYPE1v2_IOMMU;
	int rc = vfio_ioctl(io, g->fd, VFIO_GROUP_SET_CONTAINER, &io->fd);

	if (rc)
		return err_set(err, rc, "group %d cannot be put into the container: %s%s",
			g->number, strerror(-rc),
			rc == -EINVAL && io->nr_devices
				? " (its IOMMU is of another kind than that of the machine's other devices, or "
				  "cannot translate some of guest RAM)"
				: "");
	if (io->has_iommu)
		return 0;
	rc = vfio_ioctl(io, io->fd, VFIO_SET_IOMMU, (void *)type);
	if (!rc) {
		io->has_iommu = true;
		io->noiommu = noiommu;
		return 0;
	}
	vfio_ioctl(io, g->fd, VFIO_GROUP_UNSET_CONTAINER, NULL);
	return err_set(err, rc, "group %d: the container does not take %s: %s%s", g->number,
		noiommu ? "a device without an IOMMU" : "the IOMMU (type 1, version 2)",
		strerror(-rc),
		rc == -EPERM
			? " (without interrupt remapping: allow_unsafe_interrupts of the module "
			  "vfio_iommu_type1)"
			: "");
}

static void group_free(struct vfio_iommu *io, struct vfio_group *g)
{
	vfio_close(io, &g->fd);
	free(g);
}

static int group_new(struct vfio_iommu *io, int number, struct vfio_group **out, struct err *err)
{
	struct vfio_group *g = calloc(1, sizeof(*g));
	bool noiommu;
	int rc;

	if (!g)
		return err_set(err, -ENOMEM, "out of memory");
	g->number = number;
	g->fd = rc = open_group(io, number, &noiommu, err);
	if (rc >= 0)
		rc = check_viable(io, g, err);
	if (!rc)
		rc = put_into_container(io, g, noiommu, err);
	if (rc) {
		group_free(io, g);
		return rc;
	}
	if (noiommu)
		log_warn(
			"group %d has no IOMMU: its device can read and write all of the host's memory",
			number);
	else
		/* Before a device of it is opened, which then holds on to KVM. */
		vfio_shared_kvm_add(io->shared, g->fd);
	g->next = io->groups;
	io->groups = g;
	*out = g;
	return 0;
}

static void group_drop(struct vfio_iommu *io, struct vfio_group *g)
{
	struct vfio_group **at = &io->groups;

	if (--g->users)
		return;
	while (*at != g)
		at = &(*at)->next;
	*at = g->next;
	if (!io->noiommu)
		vfio_shared_kvm_remove(io->shared, g->fd);
	/* Closing takes it out of the container. */
	group_free(io, g);
}

static struct vfio_group *find_group(struct vfio_iommu *io, int number)
{
	struct vfio_group *g = io->groups;

	while (g && g->number != number)
		g = g->next;
	return g;
}

/* --- devices --- */

static int container_join(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	struct vfio_binding *b, struct err *err)
{
	struct vfio_group *g;
	int rc;

	if (dev->group < 0)
		return err_set(err, -ENODEV,
			"%s has no IOMMU group: is the host's IOMMU switched on (firmware; intel_iommu=on)?",
			dev->name);
	g = find_group(io, dev->group);
	rc = g ? 0 : group_new(io, dev->group, &g, err);
	if (rc)
		return rc;
	g->users++;
	b->group = g;
	return 0;
}

static int container_use(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	struct vfio_binding *b, struct err *err)
{
	char name[128];
	int fd;

	snprintf(name, sizeof(name), dev->vf_token ? "%s vf_token=%s" : "%s", dev->name,
		dev->vf_token);
	fd = vfio_ioctl(io, b->group->fd, VFIO_GROUP_GET_DEVICE_FD, name);
	if (fd < 0)
		return err_set(err, fd, "%s: group %d does not hand it out: %s%s", dev->name,
			b->group->number, strerror(-fd),
			fd == -ENODEV  ? " (is it bound to vfio-pci?)"
			: fd == -EBUSY ? " (it is in use)"
			: fd == -EPERM ? " (the group is not viable)"
				       : vfio_token_hint(dev, fd));
	b->device_fd = fd;
	return 0;
}

static void container_leave(struct vfio_iommu *io, struct vfio_binding *b)
{
	vfio_close(io, &b->device_fd);
	if (b->group)
		group_drop(io, b->group);
	b->group = NULL;
}

/* --- maps --- */

/* The capability of that id in a reply of size bytes, or NULL; room: what it has at least. */
static const void *find_cap(const struct vfio_iommu_type1_info *info, uint32_t size, uint16_t id,
	size_t room, uint32_t *left)
{
	uint32_t at = info->flags & VFIO_IOMMU_INFO_CAPS ? info->cap_offset : 0;

	/* Each header takes room of its own, so a longer walk goes in circles. */
	for (uint32_t i = 0; at && i < size / sizeof(struct vfio_info_cap_header); i++) {
		const struct vfio_info_cap_header *cap = (const void *)((const uint8_t *)info + at);

		if (at % 8 || at < sizeof(*info) || !range_ok(at, sizeof(*cap), size))
			return NULL;
		if (cap->id == id && range_ok(at, room, size)) {
			*left = size - at;
			return cap;
		}
		at = cap->next;
	}
	return NULL;
}

static uint64_t smallest_page(const struct vfio_iommu_type1_info *info)
{
	return info->flags & VFIO_IOMMU_INFO_PGSIZES ? info->iova_pgsizes & -info->iova_pgsizes : 0;
}

static int container_ranges(struct vfio_iommu *io, struct vfio_iova_ranges *out, struct err *err)
{
	const struct vfio_iommu_type1_info_cap_iova_range *cap;
	struct vfio_iommu_type1_info head = { .argsz = sizeof(head) };
	FREE_AUTO void *info = NULL;
	uint32_t size, left;
	int rc = vfio_ask_list(
		io->sys, io->fd, VFIO_IOMMU_GET_INFO, &head, sizeof(head), &info, &size);

	out->nr = 0;
	out->page_size = 0;
	if (rc)
		return err_set(err, rc, "VFIO_IOMMU_GET_INFO: %s", strerror(-rc));
	out->page_size = smallest_page(info);
	cap = find_cap(info, size, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, sizeof(*cap), &left);
	if (!cap)
		return 0;
	for (uint32_t i = 0; i < cap->nr_iovas && out->nr < ARRAY_SIZE(out->r); i++) {
		if (!range_ok(sizeof(*cap) + (uint64_t)i * sizeof(cap->iova_ranges[0]),
			    sizeof(cap->iova_ranges[0]), left))
			break;
		out->r[out->nr].start = cap->iova_ranges[i].start;
		out->r[out->nr++].last = cap->iova_ranges[i].end;
	}
	return 0;
}

static int container_map(
	struct vfio_iommu *io, uint64_t iova, uint64_t size, void *hva, unsigned access)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = (access & DMA_CAN_READ ? VFIO_DMA_MAP_FLAG_READ : 0) |
			 (access & DMA_CAN_WRITE ? VFIO_DMA_MAP_FLAG_WRITE : 0),
		.vaddr = (uintptr_t)hva,
		.iova = iova,
		.size = size,
	};

	return vfio_ioctl(io, io->fd, VFIO_IOMMU_MAP_DMA, &map);
}

static int container_unmap(struct vfio_iommu *io, uint64_t iova, uint64_t size, uint64_t *done)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = iova,
		.size = size,
	};
	int rc = vfio_ioctl(io, io->fd, VFIO_IOMMU_UNMAP_DMA, &unmap);

	if (done)
		*done = rc ? 0 : unmap.size;
	return rc;
}

static int container_unmap_all(struct vfio_iommu *io)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.flags = VFIO_DMA_UNMAP_FLAG_ALL,
	};

	return vfio_ioctl(io, io->fd, VFIO_IOMMU_UNMAP_DMA, &unmap);
}

/* --- what was written --- */

static int dirty_pages(struct vfio_iommu *io, uint32_t flags)
{
	struct vfio_iommu_type1_dirty_bitmap arg = { .argsz = sizeof(arg), .flags = flags };

	return vfio_ioctl(io, io->fd, VFIO_IOMMU_DIRTY_PAGES, &arg);
}

static int container_dirty_start(struct vfio_iommu *io)
{
	int rc = dirty_pages(io, VFIO_IOMMU_DIRTY_PAGES_FLAG_START);

	return rc == -ENOTTY || rc == -EINVAL ? -EOPNOTSUPP : rc;
}

/* Also where it was not on: the kernel says so, and nobody needs to know. */
static void container_dirty_stop(struct vfio_iommu *io)
{
	dirty_pages(io, VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP);
}

/* The kernel writes the bits of its own, smallest pages over what was there. */
static int container_dirty_report(
	struct vfio_iommu *io, uint64_t iova, uint64_t size, uint64_t page_size, uint64_t *bitmap)
{
	uint64_t pages = size / PAGE_SIZE_4K, words = (pages + 63) / 64;
	FREE_AUTO uint64_t *got = calloc(words, sizeof(*got));
	const struct vfio_iommu_type1_dirty_bitmap_get get = {
		.iova = iova,
		.size = size,
		.bitmap = {
			.pgsize = PAGE_SIZE_4K,
			.size = words * sizeof(*got),
			.data = (void *)got,
		},
	};
	/* The head, with the request behind it. */
	union {
		struct vfio_iommu_type1_dirty_bitmap head;
		uint64_t room[(sizeof(struct vfio_iommu_type1_dirty_bitmap) + sizeof(get)) / 8];
	} arg = { .head = { sizeof(arg), VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP } };
	int rc;

	memcpy(arg.head.data, &get, sizeof(get));
	rc = got ? vfio_ioctl(io, io->fd, VFIO_IOMMU_DIRTY_PAGES, &arg) : -ENOMEM;

	for (uint64_t i = 0; i < pages && !rc; i++) {
		uint64_t to = i * PAGE_SIZE_4K / page_size;

		if (got[i / 64] >> (i % 64) & 1)
			bitmap[to / 64] |= 1ull << (to % 64);
	}
	return rc;
}

/* --- hot reset --- */

#define MAX_GROUPS 64u

static int add_group_fd(struct vfio_iommu *io, const struct vfio_pci_dependent_device *d,
	int32_t *fds, uint32_t *nr, struct err *err)
{
	const struct vfio_group *g = find_group(io, (int)d->group_id);

	if (!g)
		return err_set(err, -EPERM,
			"its bus cannot be reset: %04x:%02x:%02x.%x (group %u) is on it too, and not this machine's",
			d->segment, d->bus, d->devfn >> 3, d->devfn & 7, d->group_id);
	for (uint32_t i = 0; i < *nr; i++)
		if (fds[i] == g->fd)
			return 0;
	if (*nr == MAX_GROUPS)
		return err_set(err, -ENOSPC, "more than %u groups on one bus", MAX_GROUPS);
	fds[(*nr)++] = g->fd;
	return 0;
}

static int container_hot_reset(struct vfio_iommu *io, const struct vfio_binding *b, struct err *err)
{
	FREE_AUTO struct vfio_pci_hot_reset_info *info = NULL;
	union {
		struct vfio_pci_hot_reset head;
		uint32_t words[sizeof(struct vfio_pci_hot_reset) / 4 + MAX_GROUPS];
	} reset = { 0 };
	int rc = vfio_ask_bus(io, b, &info, err);

	if (rc)
		return rc;
	for (uint32_t i = 0; i < info->count && !rc; i++)
		rc = add_group_fd(
			io, &info->devices[i], reset.head.group_fds, &reset.head.count, err);
	if (rc)
		return rc;
	reset.head.argsz = (uint32_t)(sizeof(reset.head) + reset.head.count * sizeof(int32_t));
	return vfio_reset_bus(io, b, &reset.head, err);
}

const struct vfio_backend vfio_container = {
	.name = "container",
	.open = container_open,
	.close = container_close,
	.join = container_join,
	.use = container_use,
	.leave = container_leave,
	.ranges = container_ranges,
	.map = container_map,
	.unmap = container_unmap,
	.unmap_all = container_unmap_all,
	.hot_reset = container_hot_reset,
	.dirty_start = container_dirty_start,
	.dirty_stop = container_dirty_stop,
	.dirty_report = container_dirty_report,
};
