/*
 * vfio_dirty.h - which pages of guest memory a VFIO device has written
 *
 * Two can know: the device, by logging its own DMA (a DEVICE_FEATURE), and the IOMMU that it goes
 * through, which notes it in its page tables. The device is asked first, as its log is of itself
 * alone.
 *
 * A log is of ranges, started and stopped once. A report adds to a bitmap and clears the log of
 * what it covers; after one that failed, all pages have to be taken for written, as what the log
 * held is lost.
 *
 * Threads: one at a time, not the loop thread: a report walks the device's log.
 */
#ifndef ATTACH_VFIO_DIRTY_H
#define ATTACH_VFIO_DIRTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct vfio_dirty_range {
	uint64_t iova, size; /* multiples of the page size */
};

/* The IOMMU's half. All return 0 or -errno. */
struct vfio_dirty_iommu {
	/* -ENOTTY or -EOPNOTSUPP: it cannot. */
	int (*start)(void *self);
	void (*stop)(void *self);
	int (*report)(
		void *self, uint64_t iova, uint64_t size, uint64_t page_size, uint64_t *bitmap);
};

struct vfio_dirty_params {
	const char *id; /* borrowed, as all of it */
	/* DEVICE_FEATURE: *feature is a struct vfio_device_feature and its data. NULL: the device
	 * has none. */
	int (*feature)(void *self, void *feature);
	void *self;
	const struct vfio_dirty_iommu *iommu; /* NULL: it tells nothing */
	void *iommu_self;
	/*
	 * It is behind the guest's IOMMU: what it and the host's IOMMU note are addresses of the
	 * guest's making, which the guest changes meanwhile. Nothing starts.
	 */
	bool translated;
};

enum vfio_dirty_source { VFIO_DIRTY_NONE, VFIO_DIRTY_DEVICE, VFIO_DIRTY_IOMMU };

struct vfio_dirty {
	struct vfio_dirty_params p;
	enum vfio_dirty_source source; /* NONE: not started */
};

/* Nothing is asked yet. */
void vfio_dirty_init(struct vfio_dirty *d, const struct vfio_dirty_params *p);

/*
 * Log what is written in nr ranges (1 or more, ascending, not overlapping) from now on. A device
 * that cannot keep as many apart gets fewer and larger ones that cover them. 0; -EBUSY started
 * already; -EOPNOTSUPP neither can, or it is translated; -errno; with a text.
 */
int vfio_dirty_start(struct vfio_dirty *d, const struct vfio_dirty_range *ranges, unsigned nr,
	uint64_t page_size, struct err *err);
/* If it was started. A device that refuses is said in the log. */
void vfio_dirty_stop(struct vfio_dirty *d);

/* uint64_t that the bitmap of a range has. */
static inline size_t vfio_dirty_words(uint64_t size, uint64_t page_size)
{
	return (size_t)(size / page_size / 64 + !!(size / page_size % 64));
}

/*
 * Set bit n of bitmap for the n-th page of [iova, iova + size) if it was written since the last
 * report; others stay as they are. page_size is a power of two from 4096 on, iova and size are
 * multiples of it. 0; -EINVAL also: not started; -errno: see above; with a text.
 */
int vfio_dirty_report(struct vfio_dirty *d, uint64_t iova, uint64_t size, uint64_t page_size,
	uint64_t *bitmap, struct err *err);

#endif
