/*
 * vfio_behind.c - the address space of a host device that is behind the guest's IOMMU
 *
 * It follows the device's DMA space (machine/dma.h): first all of RAM, which is what a device
 * reaches that the guest has not attached to anything, then what the guest maps. Each range is one
 * map in the host's IOMMU, which picks the largest pages that fit; a map has been made, and an
 * unmap has taken effect, when the system call returns, so there is nothing to sync.
 *
 * What the host's IOMMU cannot translate the guest is told of before it maps anything: the DMA
 * space has limits. A map that the host refuses, for these or for want of room, fails the guest's
 * request and is said in the log. How much a guest can have mapped at once is bounded, as the same
 * memory can be mapped many times, and each time costs page tables of the host's.
 *
 * An unmap that fails cannot be left at that, since the guest takes the memory for its own: then
 * everything is unmapped, and nothing is mapped any more.
 *
 * Between the attach's steps io->lock is let go of: the DMA space has locks of its own around the
 * follower's calls, which take io->lock. Nobody else comes in: the device is alone here.
 *
 * Threads: attach and detach from theirs, the follower on the thread that changes the guest's
 *          IOMMU.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "attach/vfio_iommu_priv.h"
#include "machine/iommu.h"

/* Of RAM's size. A Linux guest maps a page for each transfer under way, hardly ever twice. */
#define MAX_TIMES 4

/* --- limits --- */

static int add_hole(struct dma_limits *to, uint64_t first, uint64_t last, struct err *err)
{
	if (to->nr_holes == ARRAY_SIZE(to->holes))
		return err_set(err, -E2BIG,
			"the host's IOMMU reserves more than %zu ranges of addresses for it: a guest's "
			"IOMMU cannot pass that on",
			ARRAY_SIZE(to->holes));
	to->holes[to->nr_holes++] = (struct dma_hole){ first, last };
	return 0;
}

/* What lies between the ranges that can be translated is a hole, what lies above is no address. */
static int find_limits(
	const struct vfio_iova_ranges *ranges, struct dma_limits *to, struct err *err)
{
	uint64_t next = 0;
	int rc = 0;

	*to = (struct dma_limits){ .last = UINT64_MAX };
	for (unsigned i = 0; i < ranges->nr && !rc; i++) {
		if (ranges->r[i].start < next || ranges->r[i].last < ranges->r[i].start)
			return err_set(err, -EPROTO,
				"the host's IOMMU: its ranges of addresses are not in ascending order");
		if (ranges->r[i].start > next)
			rc = add_hole(to, next, ranges->r[i].start - 1, err);
		to->last = ranges->r[i].last;
		next = to->last + 1;
		if (!next)
			break;
	}
	return rc;
}

static int set_limits(struct vfio_iommu *io, struct err *err)
{
	struct dma_limits limits;
	int rc;

	if (io->noiommu)
		return err_set(err, -EINVAL,
			"it has no IOMMU on the host, and cannot be behind the guest's (iommu=on)");
	if (io->ranges.page_size > IOMMU_PAGE)
		return err_set(err, -EOPNOTSUPP,
			"the host's IOMMU has pages of %llu bytes at least, expected %u for a device behind the "
			"guest's IOMMU (iommu=on)",
			(unsigned long long)io->ranges.page_size, IOMMU_PAGE);
	rc = find_limits(&io->ranges, &limits, err);
	if (!rc)
		dma_space_limit(io->dma, &limits);
	return rc;
}

/* --- the follower: io->lock --- */

/* All of RAM, while the device is attached: may take seconds, and be called off. */
static int map_first(struct vfio_iommu *io, const struct dma_range *r)
{
	const struct mem_range ram = { .gpa = r->iova, .size = r->size, .hva = r->hva };
	int rc = vfio_check_ram(io, &ram, &io->map_err);

	return rc ? rc : vfio_map_ram(io, &ram, io->cancel, &io->map_err);
}

static int map_more(struct vfio_iommu *io, const struct dma_range *r)
{
	if (io->cut)
		return -EIO;
	if (!vfio_in_ranges(&io->ranges, r->iova, r->size))
		return -EINVAL;
	if (r->size > MAX_TIMES * io->followed_size - io->mapped_bytes)
		return -ENOSPC;
	return io->backend->map(io, r->iova, r->size, r->hva, r->access);
}

static int map_range(struct vfio_iommu *io, const struct dma_range *r)
{
	int rc = io->cancel ? map_first(io, r) : map_more(io, r);

	if (!rc)
		io->mapped_bytes += r->size;
	else if (!io->cancel)
		log_limited(&io->complaints, LOG_WARN,
			"%s: the host's IOMMU does not map 0x%llx to 0x%llx for the guest: %s%s",
			io->name, (unsigned long long)r->iova,
			(unsigned long long)(r->iova + (r->size - 1)), strerror(-rc),
			vfio_map_hint(rc));
	return rc;
}

static void cut_off(struct vfio_iommu *io, const struct dma_range *r, int why)
{
	int rc = io->backend->unmap_all(io);

	io->cut = true;
	io->mapped_bytes = 0;
	log_err("%s: the host's IOMMU does not unmap 0x%llx: %s; the device is cut off from memory%s",
		io->name, (unsigned long long)r->iova, strerror(-why),
		rc ? ", as far as the host does that" : "");
}

static int on_map(struct dma_listener *l, const struct dma_range *r)
{
	struct vfio_iommu *io = container_of(l, struct vfio_iommu, follower);
	int rc;

	pthread_mutex_lock(&io->lock);
	rc = io->follows ? map_range(io, r) : 0;
	pthread_mutex_unlock(&io->lock);
	return rc;
}

/* Also of what was never mapped: then there is nothing to unmap. */
static void on_unmap(struct dma_listener *l, const struct dma_range *r)
{
	struct vfio_iommu *io = container_of(l, struct vfio_iommu, follower);
	uint64_t done;
	int rc;

	pthread_mutex_lock(&io->lock);
	if (io->follows && !io->cut) {
		rc = io->backend->unmap(io, r->iova, r->size, &done);
		io->mapped_bytes -= MIN(done, io->mapped_bytes);
		if (rc && rc != -ENOENT)
			cut_off(io, r, rc);
	}
	pthread_mutex_unlock(&io->lock);
}

/* --- coming and going --- */

static int enter(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	const atomic_bool *cancel, struct vfio_binding *b, struct err *err)
{
	int rc = vfio_enter(io, dev, b, err);

	if (rc)
		return rc;
	rc = set_limits(io, err);
	if (rc) {
		vfio_leave(io, b);
		return rc;
	}
	snprintf(io->name, sizeof(io->name), "%s", dev->name);
	io->follower = (struct dma_listener){ .map = on_map, .unmap = on_unmap };
	io->cancel = cancel;
	io->mapped_bytes = 0;
	io->cut = false;
	io->follows = true;
	err_clear(&io->map_err);
	return 0;
}

static void leave(struct vfio_iommu *io, struct vfio_binding *b)
{
	io->follows = false;
	vfio_leave(io, b);
}

int vfio_behind_attach(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	const atomic_bool *cancel, struct vfio_binding *out, struct err *err)
{
	int rc;

	pthread_mutex_lock(&io->lock);
	assert(!io->nr_devices);
	rc = enter(io, dev, cancel, out, err);
	pthread_mutex_unlock(&io->lock);
	if (rc)
		return rc;
	rc = dma_listen(io->dma, &io->follower);
	pthread_mutex_lock(&io->lock);
	io->cancel = NULL;
	if (rc)
		err_set(err, rc, "%s", io->map_err.text);
	else
		rc = vfio_use(io, dev, cancel, out, err);
	if (rc)
		leave(io, out);
	else
		vfio_count_pinned(io, (int64_t)io->followed_size);
	pthread_mutex_unlock(&io->lock);
	if (rc)
		dma_unlisten(io->dma, &io->follower);
	return rc;
}

/* Until the device is closed the guest's changes reach it. */
void vfio_behind_detach(struct vfio_iommu *io, struct vfio_binding *b)
{
	pthread_mutex_lock(&io->lock);
	leave(io, b);
	pthread_mutex_unlock(&io->lock);
	if (!io->unfollowed)
		dma_unlisten(io->dma, &io->follower);
}

void vfio_iommu_unfollow(struct vfio_iommu *io)
{
	pthread_mutex_lock(&io->lock);
	io->follows = false;
	io->unfollowed = true;
	pthread_mutex_unlock(&io->lock);
	dma_unlisten(io->dma, &io->follower);
}
