/*
 * vfio_dirty.c - the log of a VFIO device's writes
 *
 * The kernel promises room for as many ranges as fit into a page, a device may have less: it is
 * offered ever fewer, the two that are nearest to each other becoming one, down to a single one. A
 * log of more than was asked for costs the device room and harms nobody.
 *
 * Spec: linux/vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_START, _STOP and _REPORT.
 */
#include "attach/vfio_dirty.h"

#include <assert.h>
#include <errno.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"

#define PAGE_MIN 4096ull

typedef struct vfio_device_feature_dma_logging_range kernel_range;

static_assert(PAGE_MIN % sizeof(kernel_range) == 0, "a page holds whole ranges");

/* A struct vfio_device_feature and the data of a log's requests. */
struct request {
	__u32 argsz;
	__u32 flags;
	union {
		struct vfio_device_feature_dma_logging_control control;
		struct vfio_device_feature_dma_logging_report report;
	};
};

static_assert(offsetof(struct request, control) == sizeof(struct vfio_device_feature),
	"data follows the head");

static int ask(struct vfio_dirty *d, uint32_t flags, size_t data, struct request *rq)
{
	rq->argsz = (uint32_t)(sizeof(struct vfio_device_feature) + data);
	rq->flags = flags;
	return d->p.feature(d->p.self, rq);
}

void vfio_dirty_init(struct vfio_dirty *d, const struct vfio_dirty_params *p)
{
	*d = (struct vfio_dirty){ .p = *p };
}

/* --- starting --- */

static int check_ranges(const struct vfio_dirty_range *r, unsigned nr, uint64_t page_size)
{
	uint64_t end = 0;

	if (!nr || page_size < PAGE_MIN || !is_pow2(page_size))
		return -EINVAL;
	for (unsigned i = 0; i < nr; i++) {
		if (!r[i].size || (r[i].iova | r[i].size) & (page_size - 1) || r[i].iova < end ||
			r[i].size > UINT64_MAX - r[i].iova)
			return -EINVAL;
		end = r[i].iova + r[i].size;
	}
	return 0;
}

/* The two with the smallest gap between them become one. */
static void join_nearest(kernel_range *r, unsigned *nr)
{
	unsigned best = 0;
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i + 1 < *nr; i++) {
		uint64_t gap = r[i + 1].iova - (r[i].iova + r[i].length);

		if (gap < least) {
			least = gap;
			best = i;
		}
	}
	r[best].length = r[best + 1].iova + r[best + 1].length - r[best].iova;
	memmove(&r[best + 1], &r[best + 2], (*nr - best - 2) * sizeof(*r));
	--*nr;
}

static int start_with(
	struct vfio_dirty *d, const kernel_range *ranges, unsigned nr, uint64_t page_size)
{
	struct request rq = { .control = {
				      .page_size = page_size,
				      .num_ranges = nr,
				      .ranges = (uintptr_t)ranges,
			      } };

	return ask(d, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
		sizeof(rq.control), &rq);
}

static bool too_many(int rc)
{
	return rc == -E2BIG || rc == -ENOSPC || rc == -EINVAL || rc == -EOPNOTSUPP;
}

static bool device_logs(struct vfio_dirty *d)
{
	struct request rq = { 0 };

	return d->p.feature && !ask(d,
				       VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_SET |
					       VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
				       sizeof(rq.control), &rq);
}

static int start_device(struct vfio_dirty *d, const struct vfio_dirty_range *ranges, unsigned nr,
	uint64_t page_size)
{
	FREE_AUTO kernel_range *r = calloc(nr, sizeof(*r));
	int rc;

	if (!r)
		return -ENOMEM;
	for (unsigned i = 0; i < nr; i++)
		r[i] = (kernel_range){ ranges[i].iova, ranges[i].size };
	while (nr > PAGE_MIN / sizeof(*r))
		join_nearest(r, &nr);
	for (;;) {
		rc = start_with(d, r, nr, page_size);
		if (nr == 1 || !too_many(rc))
			return rc;
		join_nearest(r, &nr);
	}
}

int vfio_dirty_start(struct vfio_dirty *d, const struct vfio_dirty_range *ranges, unsigned nr,
	uint64_t page_size, struct err *err)
{
	int rc = check_ranges(ranges, nr, page_size);

	if (rc)
		return err_set(
			err, rc, "device %s: these ranges of memory cannot be logged", d->p.id);
	if (d->source != VFIO_DIRTY_NONE)
		return err_set(err, -EBUSY, "device %s: its writes are logged already", d->p.id);
	if (d->p.translated)
		return err_set(err, -EOPNOTSUPP,
			"device %s cannot migrate: it is behind the guest's IOMMU, and which memory it writes "
			"the guest's mappings say",
			d->p.id);
	if (device_logs(d)) {
		rc = start_device(d, ranges, nr, page_size);
		if (!rc)
			d->source = VFIO_DIRTY_DEVICE;
		return rc ? err_set(err, rc, "device %s: its log of writes does not start: %s",
				    d->p.id, strerror(-rc))
			  : 0;
	}
	rc = d->p.iommu ? d->p.iommu->start(d->p.iommu_self) : -ENOTTY;
	if (!rc)
		d->source = VFIO_DIRTY_IOMMU;
	if (rc == -ENOTTY || rc == -EOPNOTSUPP)
		return err_set(err, -EOPNOTSUPP,
			"device %s cannot migrate: neither it nor its IOMMU tells which pages it writes",
			d->p.id);
	return rc ? err_set(err, rc, "device %s: the IOMMU's log of writes does not start: %s",
			    d->p.id, strerror(-rc))
		  : 0;
}

/* --- stopping, reporting --- */

void vfio_dirty_stop(struct vfio_dirty *d)
{
	struct request rq = { 0 };
	int rc = 0;

	if (d->source == VFIO_DIRTY_DEVICE)
		rc = ask(d, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, 0, &rq);
	else if (d->source == VFIO_DIRTY_IOMMU)
		d->p.iommu->stop(d->p.iommu_self);
	d->source = VFIO_DIRTY_NONE;
	if (rc)
		log_warn("%s: its log of writes does not stop: %s", d->p.id, strerror(-rc));
}

static int report_device(
	struct vfio_dirty *d, uint64_t iova, uint64_t size, uint64_t page_size, uint64_t *bitmap)
{
	struct request rq = { .report = {
				      .iova = iova,
				      .length = size,
				      .page_size = page_size,
				      .bitmap = (uintptr_t)bitmap,
			      } };

	return ask(d, VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
		sizeof(rq.report), &rq);
}

int vfio_dirty_report(struct vfio_dirty *d, uint64_t iova, uint64_t size, uint64_t page_size,
	uint64_t *bitmap, struct err *err)
{
	const struct vfio_dirty_range all = { iova, size };
	int rc = d->source == VFIO_DIRTY_NONE ? -EINVAL : check_ranges(&all, 1, page_size);

	if (!rc && d->source == VFIO_DIRTY_DEVICE)
		rc = report_device(d, iova, size, page_size, bitmap);
	else if (!rc)
		rc = d->p.iommu->report(d->p.iommu_self, iova, size, page_size, bitmap);
	return rc ? err_set(err, rc,
			    "device %s: which pages it wrote in 0x%llx+0x%llx is not known: %s",
			    d->p.id, (unsigned long long)iova, (unsigned long long)size,
			    strerror(-rc))
		  : 0;
}
