/* block_threads_test.c - several queues of a virtio disk on several threads, all at once */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <endian.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device/block.h"
#include "virtio_rig.h"

#define QUEUES	8
#define RING	16
#define AREA	64u /* sectors of each queue */
#define ROUNDS	200
#define SECTORS (QUEUES * AREA)

static struct rig r;
static char path[32];

/* A request of one sector, placed once; its data in `data`, its status behind it. */
struct slot {
	uint64_t header, data;
	bool write, busy;
	unsigned sector;
};

static struct slot slots[QUEUES][RING / 4];
static uint8_t bytes[SECTORS]; /* what each sector is full of */

static int setup(void **state)
{
	int fd;

	memset(bytes, 0, sizeof(bytes));
	strcpy(path, "block_threads.XXXXXX");
	fd = mkstemp(path);
	if (fd < 0 || ftruncate(fd, SECTORS * BLOCK_SECTOR))
		return -1;
	close(fd);
	rig_init(&r);
	return 0;
}

static int teardown(void **state)
{
	rig_fini(&r);
	return unlink(path);
}

static void open_disk(struct block_config *config, bool direct)
{
	const struct block_file_config file = { .path = path, .direct = direct, .sparse = true };
	struct block_store *store;
	struct err err = { 0 };

	config->name = "_disk0";
	config->nr_queues = QUEUES;
	config->queue_size = RING;
	if (block_file_new(&store, &file, &err) || block_new(&r.model, r.loop, store, config, &err))
		fail_msg("%s", err.text);
	r.model->ops->set_features(r.model, r.model->features);
	for (unsigned i = 0; i < QUEUES; i++) {
		rig_queue(&r, i, &(struct drv_config){ .size = RING, .event_idx = i % 2 });
		for (unsigned k = 0; k < ARRAY_SIZE(slots[i]); k++)
			slots[i][k] = (struct slot){
				.header = drv_alloc(r.mem, 16, 16),
				.data = drv_alloc(r.mem, BLOCK_SECTOR + 1, 512),
			};
		assert_int_equal(rig_start(&r, i), 0);
	}
}

/* Each slot of a queue has its own sectors, so that no two requests overlap. */
static void submit(unsigned queue, unsigned k, unsigned *seed)
{
	struct slot *s = &slots[queue][k];
	unsigned per_slot = AREA / ARRAY_SIZE(slots[queue]);
	struct virtio_blk_outhdr h = { 0 };
	struct drv_buf bufs[] = { { s->header, 16 }, { s->data, 512 }, { s->data + 512, 1 } };

	s->sector = queue * AREA + k * per_slot + (unsigned)rand_r(seed) % per_slot;
	s->write = rand_r(seed) % 2;
	s->busy = true;
	h.type = htole32(s->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN);
	h.sector = htole64(s->sector);
	memcpy(drv_at(r.mem, s->header), &h, sizeof(h));
	if (s->write)
		bytes[s->sector] = (uint8_t)rand_r(seed);
	memset(drv_at(r.mem, s->data), s->write ? bytes[s->sector] : 0xee, 512);
	assert_int_equal(drv_add(r.q[queue].drv, bufs, s->write ? 2 : 1, s->write ? 1 : 2, s), 0);
	rig_kick(&r, queue);
}

static void finish(unsigned queue)
{
	struct rig_used used;
	const uint8_t *data;
	struct slot *s;

	if (!rig_take(&r, queue, &used))
		fail_msg("queue %u: %s", queue,
			r.q[queue].drv->error ? r.q[queue].drv->error : "hangs");
	s = used.cookie;
	data = drv_at(r.mem, s->data);
	assert_int_equal(data[512], 0);
	for (unsigned i = 0; i < 512; i++)
		assert_int_equal(data[i], bytes[s->sector]);
	s->busy = false;
}

static void traffic(unsigned rounds)
{
	unsigned seed = 1;

	for (unsigned round = 0; round < rounds; round++) {
		for (unsigned i = 0; i < QUEUES; i++)
			for (unsigned k = 0; k < ARRAY_SIZE(slots[i]); k++)
				submit(i, k, &seed);
		/* The loop's thread meddles while they run. */
		if (round % 10 == 0) {
			r.model->ops->pause(r.model);
			r.model->ops->resume(r.model);
		}
		if (round % 16 == 0)
			r.model->ops->config_read(r.model);
		for (unsigned i = 0; i < QUEUES; i++)
			for (unsigned k = 0; k < ARRAY_SIZE(slots[i]); k++)
				finish(i);
	}
}

static void queues_on_any_number_of_threads_do_not_mix(void **state)
{
	struct block_config config = { .nr_threads = *(unsigned *)*state, .poll_us = 2 };

	open_disk(&config, false);
	traffic(ROUNDS);
}

static void nor_with_helpers_past_the_page_cache_and_a_limit(void **state)
{
	struct block_config config = {
		.nr_threads = 3,
		.no_uring = true,
		.limit = { .bytes = { 1 << 20, 0, 1 }, .ops = { 64, 0, 1 } },
	};

	open_disk(&config, true);
	traffic(ROUNDS / 4);
}

static void one_queue_stops_while_the_others_run(void **state)
{
	struct block_config config = { .nr_threads = 2, .poll_us = 2 };
	unsigned seed = 2;

	open_disk(&config, false);
	for (unsigned round = 0; round < ROUNDS / 4; round++) {
		struct vq_setup s = drv_setup(r.q[0].drv);

		for (unsigned i = 0; i < QUEUES; i++)
			submit(i, 0, &seed);
		s.base = rig_stop(&r, 0);
		assert_int_equal(rig_start_as(&r, 0, &s), 0);
		for (unsigned i = 0; i < QUEUES; i++)
			finish(i);
	}
}

int main(void)
{
	static unsigned one = 1, two = 2, eight = 8;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate_setup_teardown(
			queues_on_any_number_of_threads_do_not_mix, setup, teardown, &one),
		cmocka_unit_test_prestate_setup_teardown(
			queues_on_any_number_of_threads_do_not_mix, setup, teardown, &two),
		cmocka_unit_test_prestate_setup_teardown(
			queues_on_any_number_of_threads_do_not_mix, setup, teardown, &eight),
		cmocka_unit_test_setup_teardown(
			nor_with_helpers_past_the_page_cache_and_a_limit, setup, teardown),
		cmocka_unit_test_setup_teardown(
			one_queue_stops_while_the_others_run, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
