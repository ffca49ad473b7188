/* block_queue_test.c - a disk's queue: limits, stops, rings that are broken */
#include "block_fixture.h"

static void a_request_over_the_limit_goes_when_the_disk_stops(void **state)
{
	struct disk_request r[3];

	/* Two go, and the next one would a day later. */
	f.config.limit.ops = (struct rate_bucket_config){ .size = 2, .refill_ms = 86400000 };
	open_disk(FILE_URING);
	for (unsigned i = 0; i < 3; i++)
		disk_add(&f.d, &r[i], VIRTIO_BLK_T_IN, i, NULL, 0, 512, CUT_USUAL);
	disk_await(&f.d);
	disk_await(&f.d);
	assert_false(r[2].done);
	disk_stop(&f.d);
	disk_await(&f.d);
	assert_true(r[2].done);
	assert_int_equal(disk_status(&f.d, &r[2]), OK);
	disk_close(&f.d);
}

static void a_held_request_goes_by_itself_when_its_time_comes(void **state)
{
	struct disk_request r[6];

	f.config.limit.bytes = (struct rate_bucket_config){ .size = 512, .refill_ms = 1 };
	open_disk(RAM);
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++)
		disk_add(&f.d, &r[i], VIRTIO_BLK_T_IN, i, NULL, 0, 1024, CUT_USUAL);
	for (unsigned i = 0; i < ARRAY_SIZE(r); i++)
		disk_await(&f.d);
	close_disk();
}

static void a_stopped_disk_can_start_again_with_what_was_added_meanwhile(void **state)
{
	struct vq_setup s;
	struct disk_request r;

	for (enum kind kind = RAM; kind < NR_KINDS; kind++) {
		open_disk(kind);
		for (int i = 0; i < 20; i++) {
			f.d.m->next = f.d.mark;
			disk_stop(&f.d);
			s = drv_setup(f.d.drv);
			s.base = vq_stop(f.d.vq);
			disk_add(&f.d, &r, VIRTIO_BLK_T_IN, 0, NULL, 0, 512, CUT_USUAL);
			assert_int_equal(vq_setup(f.d.vq, &s, &f.d.m->mem, NULL), 0);
			assert_int_equal(f.d.model->ops->queue_start(f.d.model, 0, f.d.vq), 0);
			disk_await(&f.d);
		}
		close_disk();
	}
}

static void a_pause_keeps_the_queue_still_and_loses_nothing(void **state)
{
	struct disk_request r;

	open_disk(FILE_URING);
	for (int i = 0; i < 50; i++) {
		f.d.m->next = f.d.mark;
		f.d.model->ops->pause(f.d.model);
		disk_add(&f.d, &r, VIRTIO_BLK_T_IN, 0, NULL, 0, 512, CUT_USUAL);
		assert_int_equal(vq_set_mem(f.d.vq, &f.d.m->mem, NULL), 0);
		assert_int_equal(vq_open(f.d.vq), 0);
		f.d.model->ops->resume(f.d.model);
		disk_await(&f.d);
	}
	close_disk();
}

static void a_ring_without_kicks_is_looked_at(void **state)
{
	struct disk_request r;

	open_disk(RAM);
	disk_stop(&f.d);
	vq_set_kick(f.d.vq, -1);
	assert_int_equal(f.d.model->ops->queue_start(f.d.model, 0, f.d.vq), 0);
	for (int i = 0; i < 5; i++) {
		disk_add(&f.d, &r, VIRTIO_BLK_T_IN, 0, NULL, 0, 512, CUT_USUAL);
		disk_await(&f.d);
	}
	close_disk();
}

static void a_broken_ring_stops_giving_and_can_be_stopped(void **state)
{
	open_disk(RAM);
	/* A descriptor that is its own next one */
	f.d.drv->desc[0] = (struct vring_desc){
		.addr = DRV_IOVA, .len = 16, .flags = VRING_DESC_F_NEXT, .next = 0
	};
	f.d.drv->avail->ring[0] = 0;
	__atomic_store_n(&f.d.drv->avail->idx, 1, __ATOMIC_RELEASE);
	fd_signal(f.d.kick);
	for (;;) {
		const char *broken;

		f.d.model->ops->pause(f.d.model);
		broken = vq_broken(f.d.vq);
		f.d.model->ops->resume(f.d.model);
		if (broken)
			break;
	}
	close_disk();
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_request_over_the_limit_goes_when_the_disk_stops),
		T(a_held_request_goes_by_itself_when_its_time_comes),
		T(a_stopped_disk_can_start_again_with_what_was_added_meanwhile),
		T(a_pause_keeps_the_queue_still_and_loses_nothing),
		T(a_ring_without_kicks_is_looked_at),
		T(a_broken_ring_stops_giving_and_can_be_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
