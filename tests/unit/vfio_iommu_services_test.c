/*
 * vfio_iommu_services_test.c - what an address space of host devices is for besides RAM: BARs that
 * others reach, the pages that were written, a bus that is reset
 */
#include "vfio_iommu_rig.h"

#include <semaphore.h>

#include "base/loop.h"

/* --- BARs --- */

#define BAR	 0xc0000000ull
#define BAR_SIZE 0x1000u

/* Without a worker it is done at once. Whether it is mapped then. */
static bool map_bar(struct rig *r)
{
	vfio_iommu_map(r->io, "card", BAR, BAR_SIZE, (void *)0x1000);
	return fk_has_map(&r->k, BAR, BAR_SIZE);
}

static void attach_two(struct rig *r, struct vfio_binding b[2])
{
	assert_int_equal(attach(r, &card, &b[0]), 0);
	assert_int_equal(attach(r, &disk, &b[1]), 0);
}

static void detach_two(struct rig *r, struct vfio_binding b[2])
{
	vfio_iommu_detach(r->io, &b[0]);
	vfio_iommu_detach(r->io, &b[1]);
}

static void maps_bars_for_other_devices(void **state)
{
	struct rig *r = rig_begin(false);
	struct vfio_binding b[2];

	assert_false(map_bar(r));
	assert_int_equal(attach(r, &card, &b[0]), 0);
	/* There are none. */
	assert_false(map_bar(r));
	assert_int_equal(attach(r, &disk, &b[1]), 0);
	assert_true(map_bar(r));
	assert_int_equal(r->k.nr_maps, 2);
	vfio_iommu_detach(r->io, &b[1]);
	vfio_iommu_unmap(r->io, BAR, BAR_SIZE);
	assert_int_equal(r->k.nr_maps, 1);
	vfio_iommu_detach(r->io, &b[0]);
	rig_end(r);
}

static void an_iommufd_that_maps_no_bars_is_asked_once(void **state)
{
	struct rig *r = rig_begin(true);
	struct vfio_binding b[2];
	unsigned calls;

	r->k.iommufd_no_bar = true;
	attach_two(r, b);
	calls = r->k.nr_calls;
	assert_false(map_bar(r));
	assert_int_equal(r->k.nr_calls, calls + 1);
	assert_false(map_bar(r));
	assert_int_equal(r->k.nr_calls, calls + 1);
	detach_two(r, b);
	rig_end(r);
}

static void a_bar_outside_of_the_ranges_is_not_even_tried(void **state)
{
	struct rig *r = rig_begin(false);
	struct vfio_binding b[2];
	unsigned calls;

	r->k.nr_ranges = 1;
	r->k.ranges[0] = (struct vfio_iova_range){ 0, BAR - 1 };
	attach_two(r, b);
	calls = r->k.nr_calls;
	assert_false(map_bar(r));
	assert_int_equal(r->k.nr_calls, calls);
	detach_two(r, b);
	rig_end(r);
}

static void without_p2p_no_bar_is_mapped(void **state)
{
	struct rig *r = rig_new();
	struct vfio_iommu_params p = params(r);
	struct vfio_binding b[2];

	p.no_p2p = true;
	begin(r, &p);
	attach_two(r, b);
	assert_false(map_bar(r));
	assert_int_equal(r->k.nr_maps, 1);
	detach_two(r, b);
	rig_end(r);
}

/* --- BARs, while somebody else attaches a device --- */

struct attaching {
	struct rig *r;
	struct loop *loop;
	struct worker *worker;
	pthread_t thread;
	struct vfio_binding b[3];
	sem_t inside, go_on;
	atomic_bool holds;
};

static struct attaching *attaching;

/* The kernel takes its time to hand the third device out. */
static void hold(struct fake_kernel *k, unsigned long request)
{
	struct attaching *a = attaching;

	if (request != VFIO_GROUP_GET_DEVICE_FD || !atomic_exchange(&a->holds, false))
		return;
	sem_post(&a->inside);
	sem_wait(&a->go_on);
}

static void *attach_third(void *arg)
{
	struct attaching *a = arg;

	assert_int_equal(attach(a->r, &twin, &a->b[2]), 0);
	return NULL;
}

static void begin_attach(struct attaching *a)
{
	atomic_store(&a->holds, true);
	assert_int_equal(pthread_create(&a->thread, NULL, attach_third, a), 0);
	sem_wait(&a->inside);
}

static void end_attach(struct attaching *a)
{
	sem_post(&a->go_on);
	assert_int_equal(pthread_join(a->thread, NULL), 0);
	vfio_iommu_settle(a->r->io);
}

static struct attaching *attaching_new(void)
{
	struct attaching *a = attaching = calloc(1, sizeof(*a));
	struct vfio_iommu_params p;

	assert_int_equal(loop_new(&a->loop), 0);
	assert_int_equal(worker_new(a->loop, "worker", &a->worker), 0);
	sem_init(&a->inside, 0, 0);
	sem_init(&a->go_on, 0, 0);
	a->r = rig_new();
	a->r->k.before = hold;
	p = params(a->r);
	p.worker = a->worker;
	begin(a->r, &p);
	attach_two(a->r, a->b);
	return a;
}

static void attaching_free(struct attaching *a)
{
	vfio_iommu_detach(a->r->io, &a->b[2]);
	detach_two(a->r, a->b);
	worker_free(a->worker);
	rig_end(a->r);
	sem_destroy(&a->inside);
	sem_destroy(&a->go_on);
	loop_free(a->loop);
	free(a);
}

/* That it comes back at all is the test. */
static void a_bar_is_mapped_without_waiting_for_an_attach(void **state)
{
	struct attaching *a = attaching_new();

	begin_attach(a);
	vfio_iommu_map(a->r->io, "card", BAR, BAR_SIZE, (void *)0x1000);
	assert_int_equal(a->r->k.nr_maps, 1);
	end_attach(a);
	assert_true(fk_has_map(&a->r->k, BAR, BAR_SIZE));
	vfio_iommu_unmap(a->r->io, BAR, BAR_SIZE);
	attaching_free(a);
}

static void a_bar_that_has_moved_on_meanwhile_is_never_mapped(void **state)
{
	struct attaching *a = attaching_new();
	unsigned calls;

	begin_attach(a);
	calls = fk_nr_calls(&a->r->k, VFIO_IOMMU_MAP_DMA);
	vfio_iommu_map(a->r->io, "card", BAR, BAR_SIZE, (void *)0x1000);
	vfio_iommu_unmap(a->r->io, BAR, BAR_SIZE);
	vfio_iommu_map(a->r->io, "card", BAR + BAR_SIZE, BAR_SIZE, (void *)0x1000);
	end_attach(a);
	assert_int_equal(fk_nr_calls(&a->r->k, VFIO_IOMMU_MAP_DMA), calls + 1);
	assert_true(fk_has_map(&a->r->k, BAR + BAR_SIZE, BAR_SIZE));
	vfio_iommu_unmap(a->r->io, BAR + BAR_SIZE, BAR_SIZE);
	vfio_iommu_settle(a->r->io);
	assert_int_equal(a->r->k.nr_maps, 1);
	attaching_free(a);
}

/* Page-aligned memory of ours: is it still mapped? */
static bool is_there(void *page)
{
	return !msync(page, BAR_SIZE, MS_ASYNC);
}

static void a_bars_memory_stays_until_the_iommu_has_let_go_of_it(void **state)
{
	struct attaching *a = attaching_new();
	void *page = mmap(NULL, BAR_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(page != MAP_FAILED);
	vfio_iommu_map(a->r->io, "card", BAR, BAR_SIZE, page);
	vfio_iommu_settle(a->r->io);
	begin_attach(a);
	vfio_iommu_unmap(a->r->io, BAR, BAR_SIZE);
	vfio_iommu_take(a->r->io, page, BAR_SIZE);
	assert_true(is_there(page));
	end_attach(a);
	assert_false(is_there(page));
	assert_int_equal(a->r->k.nr_maps, 1);
	/* What is not mapped goes at once. */
	page = mmap(NULL, BAR_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	vfio_iommu_take(a->r->io, page, BAR_SIZE);
	assert_false(is_there(page));
	attaching_free(a);
}

static void wait_in_worker(void *arg)
{
	struct attaching *a = arg;

	sem_wait(&a->go_on);
}

/* The worker has something else to do: whoever closes the device does not wait for it. */
static void a_device_is_not_given_back_before_its_bars_are_out_of_reach(void **state)
{
	struct attaching *a = attaching_new();

	vfio_iommu_map(a->r->io, "card", BAR, BAR_SIZE, (void *)0x1000);
	vfio_iommu_settle(a->r->io);
	assert_int_equal(a->r->k.nr_maps, 2);
	assert_int_equal(worker_do(a->worker, wait_in_worker, a), 0);
	vfio_iommu_unmap(a->r->io, BAR, BAR_SIZE);
	assert_int_equal(a->r->k.nr_maps, 2);
	vfio_iommu_detach(a->r->io, &a->b[0]);
	assert_int_equal(a->r->k.nr_maps, 1);
	assert_int_equal(attach(a->r, &card, &a->b[0]), 0);
	assert_int_equal(attach(a->r, &twin, &a->b[2]), 0);
	sem_post(&a->go_on);
	attaching_free(a);
}

static void a_reset_of_the_bus_waits_for_an_attach_with_a_deadline(void **state)
{
	struct attaching *a = attaching_new();
	struct err err = { 0 };

	begin_attach(a);
	assert_int_equal(vfio_iommu_hot_reset(a->r->io, &a->b[0], &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "while another device comes or goes"));
	assert_int_equal(a->r->k.hot_resets, 0);
	end_attach(a);
	assert_int_equal(vfio_iommu_hot_reset(a->r->io, &a->b[0], &err), 0);
	assert_int_equal(a->r->k.hot_resets, 1);
	attaching_free(a);
}

/* --- what was written --- */

#define PAGES (RAM_SIZE / 4096)

static void tells_what_was_written(void **state)
{
	const struct vfio_dirty_iommu *d = &vfio_iommu_dirty;

	for (int kind = 0; kind < 3; kind++) {
		struct rig *r = rig_begin(kind);
		uint64_t bitmap[PAGES / 64] = { 0 }, coarse[PAGES / 512 / 64 + 1] = { 0 };
		struct vfio_binding b[2];

		assert_int_equal(d->start(r->io), -EOPNOTSUPP);
		r->k.tables_unlike = kind == 2;
		r->k.dirty_iova = 513 * 4096;
		attach_two(r, b);
		assert_int_equal(d->report(r->io, 0, RAM_SIZE, 4096, bitmap), -EINVAL);
		assert_int_equal(d->start(r->io), 0);
		assert_int_equal(r->k.nr_tables, kind);
		assert_int_equal(d->start(r->io), -EBUSY);
		bitmap[0] = 1;
		assert_int_equal(d->report(r->io, 0, RAM_SIZE, 4096, bitmap), 0);
		assert_int_equal(bitmap[0], 1);
		assert_int_equal(bitmap[8], 2);
		assert_int_equal(d->report(r->io, 0, RAM_SIZE, 2 * MIB, coarse), 0);
		assert_int_equal(coarse[0], 2);
		d->stop(r->io);
		assert_false(r->k.dirty);
		assert_int_equal(r->k.nr_tables, 0);
		assert_int_equal(d->report(r->io, 0, RAM_SIZE, 4096, bitmap), -EINVAL);
		detach_two(r, b);
		rig_end(r);
	}
}

static void any_call_may_fail_when_writes_are_noted(void **state)
{
	const struct vfio_dirty_iommu *d = &vfio_iommu_dirty;

	for (int iommufd = 0; iommufd < 2; iommufd++)
		for (unsigned nth = 1, more = 1; more; nth++) {
			struct rig *r = rig_begin(iommufd);
			struct vfio_binding b[2];
			int rc;

			r->k.tables_unlike = true;
			attach_two(r, b);
			r->k.nr_calls = 0;
			r->k.fail_nth = nth;
			r->k.fail_rc = -EIO;
			rc = d->start(r->io);
			more = r->k.nr_calls >= nth;
			assert_int_equal(rc, more ? -EIO : 0);
			r->k.fail_nth = 0;
			if (rc)
				assert_int_equal(r->k.nr_tables, 0);
			detach_two(r, b);
			assert_int_equal(r->k.nr_tables, 0);
			rig_end(r);
		}
}

static void an_iommu_that_cannot_note_writes_says_so(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = rig_begin(iommufd);
		struct vfio_binding b[2];

		r->k.no_dirty = true;
		attach_two(r, b);
		assert_int_equal(vfio_iommu_dirty.start(r->io), -EOPNOTSUPP);
		vfio_iommu_dirty.stop(r->io);
		detach_two(r, b);
		rig_end(r);
	}
}

static void a_device_that_came_late_makes_reports_fail(void **state)
{
	struct rig *r = rig_begin(true);
	uint64_t bitmap[PAGES / 64] = { 0 };
	struct vfio_binding a, b;

	assert_int_equal(attach(r, &card, &a), 0);
	assert_int_equal(vfio_iommu_dirty.start(r->io), 0);
	assert_int_equal(attach(r, &disk, &b), 0);
	assert_int_equal(vfio_iommu_dirty.report(r->io, 0, RAM_SIZE, 4096, bitmap), -EOPNOTSUPP);
	vfio_iommu_detach(r->io, &b);
	assert_int_equal(vfio_iommu_dirty.report(r->io, 0, RAM_SIZE, 4096, bitmap), 0);
	vfio_iommu_detach(r->io, &a);
	rig_end(r);
}

/* --- hot reset --- */

static void a_bus_is_reset_only_if_all_on_it_is_ours(void **state)
{
	for (int iommufd = 0; iommufd < 2; iommufd++) {
		struct rig *r = rig_begin(iommufd);
		struct vfio_binding a;

		assert_int_equal(attach(r, &card, &a), 0);
		assert_int_equal(vfio_iommu_hot_reset(r->io, &a, &r->err), 0);
		assert_int_equal(r->k.hot_resets, 1);
		r->k.bus_of_others = true;
		assert_int_equal(vfio_iommu_hot_reset(r->io, &a, &r->err), -EPERM);
		says(r, "0000:03:00.1");
		r->err.text[0] = 0;
		r->k.no_bus = true;
		assert_int_equal(vfio_iommu_hot_reset(r->io, &a, &r->err), -ENOTTY);
		says(r, "no bus that can be reset");
		assert_int_equal(r->k.hot_resets, 1);
		vfio_iommu_detach(r->io, &a);
		rig_end(r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(maps_bars_for_other_devices),
		cmocka_unit_test(an_iommufd_that_maps_no_bars_is_asked_once),
		cmocka_unit_test(a_bar_outside_of_the_ranges_is_not_even_tried),
		cmocka_unit_test(without_p2p_no_bar_is_mapped),
		cmocka_unit_test(a_bar_is_mapped_without_waiting_for_an_attach),
		cmocka_unit_test(a_bar_that_has_moved_on_meanwhile_is_never_mapped),
		cmocka_unit_test(a_bars_memory_stays_until_the_iommu_has_let_go_of_it),
		cmocka_unit_test(a_device_is_not_given_back_before_its_bars_are_out_of_reach),
		cmocka_unit_test(a_reset_of_the_bus_waits_for_an_attach_with_a_deadline),
		cmocka_unit_test(tells_what_was_written),
		cmocka_unit_test(any_call_may_fail_when_writes_are_noted),
		cmocka_unit_test(an_iommu_that_cannot_note_writes_says_so),
		cmocka_unit_test(a_device_that_came_late_makes_reports_fail),
		cmocka_unit_test(a_bus_is_reset_only_if_all_on_it_is_ours),
	};

	log_init("test", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
