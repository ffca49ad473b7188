/*
 * block_stop_test.c - a disk whose store does not answer: queues stop all the same
 *
 * The store is the test's: it keeps what it is given until it is told to answer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <linux/virtio_blk.h>
#include <stdatomic.h>
#include <string.h>

#include "base/util.h"
#include "device/block.h"
#include "device/block_store.h"
#include "virtio_rig.h"

#define DISK_BYTES (1 * MIB)

static struct rig r;
static int fds_at_start;

/* The store */

static struct {
	struct block_store store;
	struct block_io *held[8];
	atomic_uint nr;
	atomic_bool answers;
	bool was_dropped;
} stuck;

static void stuck_submit(struct block_store *s, struct block_io *io)
{
	if (atomic_load(&stuck.answers))
		io->done(io, 0);
	else
		stuck.held[atomic_fetch_add(&stuck.nr, 1)] = io;
}

static void stuck_free(struct block_store *s)
{
}

static void answer_all(void *arg)
{
	for (unsigned i = 0; i < atomic_load(&stuck.nr); i++) {
		stuck.was_dropped |= stuck.held[i]->dropped;
		stuck.held[i]->done(stuck.held[i], 0);
	}
	atomic_store(&stuck.nr, 0);
}

static const struct block_store_ops stuck_ops = { .submit = stuck_submit, .free = stuck_free };

/* The driver */

static int set_up(void **state)
{
	const struct block_config config = {
		.name = "_disk0", .nr_queues = 1, .queue_size = 8, .nr_threads = 1, .stop_ms = 50,
	};
	struct err err = { 0 };

	fds_at_start = fd_count();
	memset(&stuck, 0, sizeof(stuck));
	stuck.store = (struct block_store){
		.ops = &stuck_ops, .size = DISK_BYTES, .block_size = 512, .physical_size = 4096,
	};
	rig_init(&r);
	assert_int_equal(block_new(&r.model, r.loop, &stuck.store, &config, &err), 0);
	r.model->ops->set_features(r.model, VIRTIO_BIT(VIRTIO_BLK_F_FLUSH));
	rig_queue(&r, 0, &(struct drv_config){ .size = 8 });
	assert_int_equal(rig_start(&r, 0), 0);
	return 0;
}

static int tear_down(void **state)
{
	rig_fini(&r);
	assert_int_equal(fd_count(), fds_at_start);
	return 0;
}

/* Where the status will be. */
static volatile uint8_t *request(uint32_t type)
{
	const struct virtio_blk_outhdr header = { .type = type };
	uint64_t head = drv_alloc(r.mem, 16, 16), data = drv_alloc(r.mem, 512, 16);
	uint64_t status = drv_alloc(r.mem, 1, 16);
	const bool out = type == VIRTIO_BLK_T_OUT;
	struct drv_buf bufs[] = { { head, 16 }, { data, 512 }, { status, 1 } };

	memcpy(drv_at(r.mem, head), &header, sizeof(header));
	*(uint8_t *)drv_at(r.mem, status) = 0xff;
	assert_int_equal(drv_add(r.q[0].drv, bufs, out ? 2 : 1, out ? 1 : 2, (void *)1), 0);
	rig_kick(&r, 0);
	return drv_at(r.mem, status);
}

static bool store_has(struct rig *rig, void *arg)
{
	return atomic_load(&stuck.nr) == *(unsigned *)arg;
}

static void wait_for_store(unsigned nr)
{
	assert_true(rig_until(&r, store_has, &nr));
}

/* On the disk's thread, as a store does. */
static void let_answer(void)
{
	struct iothread *t = stuck.held[0]->t;

	iothread_call(t, answer_all, NULL);
}

static void taken_back(void)
{
	struct rig_used u;

	assert_true(rig_take(&r, 0, &u));
	assert_null(r.q[0].drv->error);
}

static void what_is_not_answered_fails_at_a_stop(void **state)
{
	volatile uint8_t *read_status = request(VIRTIO_BLK_T_IN);
	volatile uint8_t *write_status = request(VIRTIO_BLK_T_OUT);

	wait_for_store(2);
	rig_stop(&r, 0);
	taken_back();
	taken_back();
	assert_int_equal(*read_status, VIRTIO_BLK_S_IOERR);
	assert_int_equal(*write_status, VIRTIO_BLK_S_IOERR);
	let_answer();
}

/* The store may write into it as long as it has not answered. */
static void the_guests_memory_stays_until_the_store_lets_go(void **state)
{
	int before = r.mem->refs;

	request(VIRTIO_BLK_T_IN);
	wait_for_store(1);
	rig_stop(&r, 0);
	assert_int_equal(r.mem->refs, before); /* one less for the ring, one for the request */
	let_answer();
	assert_int_equal(r.mem->refs, before - 1);
	assert_true(stuck.was_dropped);
}

static void the_queue_serves_again_beside_what_is_late(void **state)
{
	volatile uint8_t *status;
	struct vq_setup s;

	request(VIRTIO_BLK_T_IN);
	wait_for_store(1);
	s = drv_setup(r.q[0].drv);
	s.base = rig_stop(&r, 0);
	taken_back();
	atomic_store(&stuck.answers, true);
	assert_int_equal(rig_start_as(&r, 0, &s), 0);
	status = request(VIRTIO_BLK_T_IN);
	taken_back();
	assert_int_equal(*status, VIRTIO_BLK_S_OK);
	let_answer();
	*status = 0xff;
	status = request(VIRTIO_BLK_T_OUT);
	taken_back();
	assert_int_equal(*status, VIRTIO_BLK_S_OK);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(what_is_not_answered_fails_at_a_stop),
		TEST(the_guests_memory_stays_until_the_store_lets_go),
		TEST(the_queue_serves_again_beside_what_is_late),
	};

	return cmocka_run_group_tests_name("block_stop", tests, NULL, NULL);
}
