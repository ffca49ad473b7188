/* vfio_dirty_test.c - who knows which pages were written: the device, the IOMMU, or nobody */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/vfio.h>
#include <string.h>

#include "attach/vfio_dirty.h"
#include "base/util.h"

struct logger {
	bool probes;
	unsigned max_ranges;
	int start_rc, stop_rc, report_rc;
	bool started;
	unsigned nr;
	struct vfio_device_feature_dma_logging_range ranges[8];
	struct vfio_device_feature_dma_logging_report asked;
	unsigned nr_starts;
	/* The IOMMU */
	int iommu_rc;
	bool iommu_on;
};

static int logger_feature(void *self, void *arg)
{
	struct logger *l = self;
	struct vfio_device_feature *f = arg;
	struct vfio_device_feature_dma_logging_control c;

	switch (f->flags) {
	case VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_SET |
		VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
		return l->probes ? 0 : -ENOTTY;
	case VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
		assert_int_equal(f->argsz, sizeof(*f) + sizeof(c));
		memcpy(&c, f->data, sizeof(c));
		l->nr_starts++;
		if (l->start_rc)
			return l->start_rc;
		if (c.num_ranges > l->max_ranges)
			return -E2BIG;
		assert_false(l->started);
		l->started = true;
		l->nr = c.num_ranges;
		memcpy(l->ranges, (void *)(uintptr_t)c.ranges,
			MIN(l->nr, 8u) * sizeof(l->ranges[0]));
		return 0;
	case VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
		l->started = false;
		return l->stop_rc;
	case VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
		memcpy(&l->asked, f->data, sizeof(l->asked));
		*(uint64_t *)(uintptr_t)l->asked.bitmap |= 1 << 3;
		return l->report_rc;
	default:
		return -ENOTTY;
	}
}

static int iommu_start(void *self)
{
	struct logger *l = self;

	l->iommu_on = !l->iommu_rc;
	return l->iommu_rc;
}

static void iommu_stop(void *self)
{
	((struct logger *)self)->iommu_on = false;
}

static int iommu_report(
	void *self, uint64_t iova, uint64_t size, uint64_t page_size, uint64_t *bitmap)
{
	*bitmap |= 1 << 5;
	return 0;
}

static const struct vfio_dirty_iommu iommu_ops = { iommu_start, iommu_stop, iommu_report };

static void dirty_new(struct vfio_dirty *d, struct logger *l, bool iommu)
{
	const struct vfio_dirty_params p = {
		.id = "net1",
		.feature = logger_feature,
		.self = l,
		.iommu = iommu ? &iommu_ops : NULL,
		.iommu_self = l,
	};

	vfio_dirty_init(d, &p);
}

static const struct vfio_dirty_range ram[] = {
	{ 0, 0xa0000 },
	{ 0x100000, 0xbff00000 },
	{ 0x100000000, 0x40000000 },
};

static void the_device_logs_as_many_ranges_as_it_can(void **state)
{
	struct logger l = { .probes = true, .max_ranges = 3 };
	struct vfio_dirty d;
	uint64_t map = 1;
	struct err err = { 0 };

	dirty_new(&d, &l, true);
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, &err), 0);
	assert_int_equal(l.nr, 3);
	assert_int_equal(d.source, VFIO_DIRTY_DEVICE);
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, &err), -EBUSY);
	assert_int_equal(vfio_dirty_report(&d, 0x100000, 64 * 4096, 4096, &map, &err), 0);
	assert_int_equal(map, 1 | 1 << 3);
	assert_int_equal(l.asked.iova, 0x100000);
	assert_int_equal(l.asked.length, 64 * 4096);
	l.report_rc = -EIO;
	err.text[0] = 0;
	assert_int_equal(vfio_dirty_report(&d, 0, 4096, 4096, &map, &err), -EIO);
	assert_string_equal(err.text,
		"device net1: which pages it wrote in 0x0+0x1000 is not known: Input/output error");
	vfio_dirty_stop(&d);
	assert_false(l.started);
	assert_int_equal(vfio_dirty_report(&d, 0, 4096, 4096, &map, NULL), -EINVAL);

	l.max_ranges = 2;
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, NULL), 0);
	assert_int_equal(l.nr, 2);
	assert_int_equal(l.ranges[0].length, 0xc0000000);
	assert_int_equal(l.ranges[1].iova, 0x100000000);
	vfio_dirty_stop(&d);
	l.max_ranges = 1;
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, NULL), 0);
	assert_int_equal(l.ranges[0].length, 0x140000000);
	l.stop_rc = -EIO; /* said in the log */
	vfio_dirty_stop(&d);
	vfio_dirty_stop(&d);

	l.start_rc = -ENOMEM;
	l.nr_starts = 0;
	err.text[0] = 0;
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, &err), -ENOMEM);
	assert_int_equal(l.nr_starts, 1);
	assert_string_equal(
		err.text, "device net1: its log of writes does not start: Cannot allocate memory");
	l.start_rc = -EINVAL; /* for ever */
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, NULL), -EINVAL);
	assert_int_equal(l.nr_starts, 1 + 3);
	assert_int_equal(d.source, VFIO_DIRTY_NONE);
}

static void more_ranges_than_the_kernel_takes_are_joined(void **state)
{
	struct logger l = { .probes = true, .max_ranges = 256 };
	struct vfio_dirty_range many[300];
	struct vfio_dirty d;

	for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = (struct vfio_dirty_range){ i * 0x10000ull, 0x1000 };
	dirty_new(&d, &l, false);
	assert_int_equal(vfio_dirty_start(&d, many, ARRAY_SIZE(many), 4096, NULL), 0);
	assert_int_equal(l.nr, 256);
	assert_int_equal(l.nr_starts, 1);
	vfio_dirty_stop(&d);
}

static void what_is_behind_the_guest_s_iommu_cannot_be_told_of(void **state)
{
	struct logger l = { 0 };
	struct vfio_dirty d;
	const struct vfio_dirty_range range = { 0, MIB };
	struct err err = { 0 };

	dirty_new(&d, &l, true);
	d.p.translated = true;
	assert_int_equal(vfio_dirty_start(&d, &range, 1, 4096, &err), -EOPNOTSUPP);
	assert_string_equal(err.text,
		"device net1 cannot migrate: it is behind the guest's IOMMU, and which memory it writes "
		"the guest's mappings say");
	assert_false(l.iommu_on);
	vfio_dirty_stop(&d);
}

static void else_the_iommu_knows_or_nobody(void **state)
{
	struct logger l = { 0 };
	struct vfio_dirty d;
	uint64_t map = 0;
	struct err err = { 0 };

	dirty_new(&d, &l, true);
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, &err), 0);
	assert_int_equal(d.source, VFIO_DIRTY_IOMMU);
	assert_int_equal(vfio_dirty_report(&d, 0, 4096, 4096, &map, &err), 0);
	assert_int_equal(map, 1 << 5);
	vfio_dirty_stop(&d);
	assert_false(l.iommu_on);
	l.iommu_rc = -EIO;
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, &err), -EIO);
	assert_string_equal(err.text,
		"device net1: the IOMMU's log of writes does not start: Input/output error");

	for (unsigned i = 0; i < 2; i++) {
		l.iommu_rc = -EOPNOTSUPP;
		dirty_new(&d, &l, i);
		err.text[0] = 0;
		assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, &err), -EOPNOTSUPP);
		assert_string_equal(err.text,
			"device net1 cannot migrate: neither it nor its IOMMU tells which pages it writes");
	}
	d.p.feature = NULL;
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, NULL), -EOPNOTSUPP);
}

static void ranges_that_make_no_sense_are_refused(void **state)
{
	static const struct {
		struct vfio_dirty_range r[2];
		unsigned nr;
		uint64_t page;
	} cases[] = {
		{ { { 0, 4096 } }, 0, 4096 },
		{ { { 0, 4096 } }, 1, 2048 },
		{ { { 0, 4096 * 3 } }, 1, 4096 * 3 },
		{ { { 0, 0 } }, 1, 4096 },
		{ { { 0, 4097 } }, 1, 4096 },
		{ { { 1, 4096 } }, 1, 4096 },
		{ { { 0, 8192 }, { 4096, 4096 } }, 2, 4096 },
		{ { { 8192, 4096 }, { 0, 4096 } }, 2, 4096 },
		{ { { UINT64_MAX - 4095, 8192 } }, 1, 4096 },
	};
	struct logger l = { .probes = true, .max_ranges = 9 };
	struct vfio_dirty d;

	dirty_new(&d, &l, true);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(vfio_dirty_start(&d, cases[i].r, cases[i].nr, cases[i].page, NULL),
			-EINVAL);
	assert_int_equal(l.nr_starts, 0);
	assert_int_equal(vfio_dirty_words(65 * 4096, 4096), 2);
	assert_int_equal(vfio_dirty_words(64 * 4096, 4096), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_device_logs_as_many_ranges_as_it_can),
		cmocka_unit_test(more_ranges_than_the_kernel_takes_are_joined),
		cmocka_unit_test(what_is_behind_the_guest_s_iommu_cannot_be_told_of),
		cmocka_unit_test(else_the_iommu_knows_or_nobody),
		cmocka_unit_test(ranges_that_make_no_sense_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
