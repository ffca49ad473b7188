/* block_request_test.c - requests of a disk and their refusals, on every store, cut in every way */
#include "block_fixture.h"

/* Reads, writes, flushes */

static void what_was_written_is_read_however_it_is_cut(void **state)
{
	uint8_t out[8 * 512], in[8 * 512];

	for (enum kind kind = RAM; kind < NR_KINDS; kind++) {
		open_disk(kind);
		for (enum cut w = 0; w < NR_CUTS; w++) {
			for (enum cut r = 0; r < NR_CUTS; r++) {
				fill(out, sizeof(out), kind * 100 + w * 10 + r);
				assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_OUT, 3, out,
							 sizeof(out), NULL, 0, w),
					OK);
				assert_int_equal(
					disk_do(&f.d, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL, 0, r),
					OK);
				assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_IN, 3, NULL, 0, in,
							 sizeof(in), r),
					OK);
				assert_memory_equal(in, out, sizeof(in));
			}
		}
		close_disk();
	}
}

static void a_read_counts_its_data_and_the_status_as_written(void **state)
{
	struct disk_request r;

	open_disk(RAM);
	disk_add(&f.d, &r, VIRTIO_BLK_T_IN, 0, NULL, 0, 1024, CUT_USUAL);
	disk_await(&f.d);
	assert_int_equal(r.written, 1025);
	disk_add(&f.d, &r, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, 0, CUT_USUAL);
	disk_await(&f.d);
	assert_int_equal(r.written, 1);
	close_disk();
}

static void more_pieces_than_few_are_as_good(void **state)
{
	uint8_t out[60 * 512], in[60 * 512];

	for (enum kind kind = RAM; kind < NR_KINDS; kind++) {
		open_disk(kind);
		fill(out, sizeof(out), kind);
		for (int i = 0; i < 3; i++) {
			assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_OUT, 100, out, sizeof(out),
						 NULL, 0, CUT_MANY),
				OK);
			assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_IN, 100, NULL, 0, in,
						 sizeof(in), CUT_MANY),
				OK);
			assert_memory_equal(in, out, sizeof(in));
		}
		close_disk();
	}
}

struct slot {
	struct disk_request r;
	bool busy, write;
	unsigned sector, nr;
};

/* Random reads and writes, several at once and never two of the same sector, against an array. */
static void random_traffic(enum kind kind, unsigned steps)
{
	static uint8_t model[DISK_BYTES];
	struct slot slots[8] = { 0 };
	bool locked[DISK_SECTORS] = { 0 };
	unsigned seed = kind + 1, open = 0;

	memset(model, 0, sizeof(model));
	assert_int_equal(truncate(path_of(kind), 0) | truncate(path_of(kind), DISK_BYTES), 0);
	open_disk(kind);
	for (unsigned step = 0; step < steps || open; step++) {
		struct slot *s = &slots[rand_r(&seed) % 8];
		unsigned nr = 1 + (unsigned)rand_r(&seed) % 16;
		unsigned sector = (unsigned)rand_r(&seed) % (DISK_SECTORS - nr);
		bool clash = s->busy || step >= steps;
		enum cut cut = (enum cut)(rand_r(&seed) % NR_CUTS);

		for (unsigned i = 0; i < nr; i++)
			clash |= locked[sector + i];
		if (!clash) {
			uint8_t out[16 * 512];

			if (!open)
				f.d.m->next = f.d.mark;
			*s = (struct slot){
				.busy = true, .write = rand_r(&seed) % 2, .sector = sector, .nr = nr
			};
			memset(locked + sector, true, nr);
			fill(out, nr * 512, (unsigned)rand_r(&seed));
			if (s->write)
				memcpy(model + sector * 512, out, nr * 512);
			disk_add(&f.d, &s->r, s->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, sector,
				out, s->write ? nr * 512 : 0, s->write ? 0 : nr * 512, cut);
			open++;
		}
		if (open && (clash || open == 8 || f.d.m->next > DISK_MEMORY - MIB)) {
			s = container_of(disk_await(&f.d), struct slot, r);
			assert_int_equal(disk_status(&f.d, &s->r), OK);
			if (!s->write)
				assert_memory_equal(disk_data(&f.d, &s->r), model + s->sector * 512,
					s->nr * 512);
			memset(locked + s->sector, false, s->nr);
			s->busy = false;
			open--;
			/* Memory is given out anew when nothing is open. */
			while (open && f.d.m->next > DISK_MEMORY - MIB) {
				s = container_of(disk_await(&f.d), struct slot, r);
				memset(locked + s->sector, false, s->nr);
				s->busy = false;
				open--;
			}
		}
	}
	close_disk();
}

static void random_requests_give_what_an_array_gives(void **state)
{
	static const struct drv_config rings[] = {
		{ .size = DISK_QUEUE, .event_idx = true, .indirect = true },
		{ .size = DISK_QUEUE, .indirect = true },
		{ .size = DISK_QUEUE, .packed = true, .event_idx = true, .indirect = true },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rings); i++) {
		f.ring = rings[i];
		for (enum kind kind = RAM; kind < NR_KINDS; kind++)
			random_traffic(kind, 3000);
	}
}

/* Refusals */

static void what_makes_no_sense_is_refused_and_nothing_else(void **state)
{
	static const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t out_len, in_len;
		uint8_t status;
	} bad[] = {
		{ VIRTIO_BLK_T_IN, DISK_SECTORS, 0, 512, IOERR },
		{ VIRTIO_BLK_T_IN, DISK_SECTORS - 1, 0, 1024, IOERR },
		{ VIRTIO_BLK_T_IN, UINT64_MAX, 0, 512, IOERR },
		{ VIRTIO_BLK_T_IN, UINT64_MAX / 512 + 1, 0, 512, IOERR }, /* wraps to 0 in bytes */
		{ VIRTIO_BLK_T_IN, 0, 0, 511, IOERR },
		{ VIRTIO_BLK_T_IN, 0, 0, 513, IOERR },
		{ VIRTIO_BLK_T_OUT, DISK_SECTORS, 512, 0, IOERR },
		{ VIRTIO_BLK_T_OUT, UINT64_MAX - 1, 1024, 0, IOERR },
		{ VIRTIO_BLK_T_OUT, 0, 100, 0, IOERR },
		{ VIRTIO_BLK_T_IN, DISK_SECTORS, 0, 0, OK }, /* nothing, at the very end */
		{ VIRTIO_BLK_T_OUT, 0, 0, 0, OK },
		{ VIRTIO_BLK_T_SCSI_CMD, 0, 0, 0, UNSUPP },
		{ 14 /* secure erase */, 0, 16, 0, UNSUPP },
		{ 10 /* lifetime */, 0, 0, 6, UNSUPP },
		{ 0x80000000u, 0, 0, 512, UNSUPP },
		{ UINT32_MAX, 0, 0, 0, UNSUPP },
	};
	static const uint8_t zeros[1024];

	for (enum kind kind = RAM; kind <= FILE_URING; kind++) {
		open_disk(kind);
		for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
			for (enum cut cut = 0; cut < NR_CUTS; cut++)
				assert_int_equal(disk_do(&f.d, bad[i].type, bad[i].sector, zeros,
							 bad[i].out_len, NULL, bad[i].in_len, cut),
					bad[i].status);
		assert_int_equal(
			disk_do(&f.d, VIRTIO_BLK_T_IN, 0, NULL, 0, NULL, 512, CUT_USUAL), OK);
		close_disk();
	}
}

static void a_header_that_is_cut_off_fails_alone(void **state)
{
	struct disk_request r;

	open_disk(RAM);
	for (unsigned len = 1; len < 16; len++) {
		f.d.m->next = f.d.mark;
		disk_add_raw(&f.d, &r, VIRTIO_BLK_T_IN, 0, len, NULL, 0, 512, CUT_USUAL);
		disk_await(&f.d);
		assert_int_equal(disk_status(&f.d, &r), IOERR);
	}
	close_disk();
}

static void a_request_without_room_for_a_status_comes_back_empty(void **state)
{
	struct drv_buf header = { .len = 16 };
	struct disk_request r = { 0 };

	open_disk(RAM);
	header.iova = drv_alloc(f.d.m, 16, 16);
	assert_int_equal(drv_add(f.d.drv, &header, 1, 0, &r), 0);
	fd_signal(f.d.kick);
	disk_await(&f.d);
	assert_int_equal(r.written, 0);
	assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_IN, 0, NULL, 0, NULL, 512, CUT_USUAL), OK);
	close_disk();
}

static void pieces_outside_of_memory_come_back_empty(void **state)
{
	struct drv_buf bufs[] = { { 0, 16 }, { UINT64_MAX - 100, UINT32_MAX }, { 0, 1 } };
	struct disk_request r = { 0 };

	open_disk(FILE_URING);
	bufs[0].iova = drv_alloc(f.d.m, 16, 16);
	bufs[2].iova = drv_alloc(f.d.m, 1, 1);
	assert_int_equal(drv_add(f.d.drv, bufs, 1, 2, &r), 0);
	fd_signal(f.d.kick);
	disk_await(&f.d);
	assert_int_equal(r.written, 0);
	assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_IN, 0, NULL, 0, NULL, 512, CUT_USUAL), OK);
	close_disk();
}

static void a_read_only_disk_refuses_all_that_writes(void **state)
{
	struct virtio_blk_discard_write_zeroes range = { .num_sectors = htole32(1) };
	uint8_t bytes[512] = { 1 };

	f.file.read_only = true;
	for (enum kind kind = FILE_URING; kind < NR_KINDS; kind++) {
		open_disk(kind);
		assert_true(f.d.model->features & VIRTIO_BIT(VIRTIO_BLK_F_RO));
		assert_false(f.d.model->features & VIRTIO_BIT(VIRTIO_BLK_F_DISCARD));
		assert_int_equal(
			disk_do(&f.d, VIRTIO_BLK_T_OUT, 0, bytes, 512, NULL, 0, CUT_USUAL), IOERR);
		assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_DISCARD, 0, &range, sizeof(range), NULL,
					 0, CUT_USUAL),
			IOERR);
		assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_WRITE_ZEROES, 0, &range, sizeof(range),
					 NULL, 0, CUT_USUAL),
			IOERR);
		assert_int_equal(
			disk_do(&f.d, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL, 0, CUT_USUAL), OK);
		assert_int_equal(
			disk_do(&f.d, VIRTIO_BLK_T_IN, 0, NULL, 0, bytes, 512, CUT_USUAL), OK);
		assert_int_equal(bytes[0], 0);
		close_disk();
	}
}

/* The serial */

static void the_serial_is_20_bytes_or_as_many_as_there_is_room_for(void **state)
{
	char id[32];

	open_disk(RAM);
	assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_GET_ID, 0, NULL, 0, id, 20, CUT_USUAL), OK);
	assert_memory_equal(id, "a serial of 20 bytes", 20);
	assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_GET_ID, 0, NULL, 0, id, 30, CUT_TOGETHER), OK);
	assert_memory_equal(id, "a serial of 20 bytes\xff\xff", 22);
	assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_GET_ID, 0, NULL, 0, id, 4, CUT_ODD), OK);
	assert_memory_equal(id, "a se", 4);
	assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_GET_ID, 0, NULL, 0, id, 0, CUT_USUAL), OK);
	close_disk();
}

/* Discards and zeroes */

static struct virtio_blk_discard_write_zeroes range(uint64_t sector, uint32_t nr, uint32_t flags)
{
	return (struct virtio_blk_discard_write_zeroes){
		.sector = htole64(sector), .num_sectors = htole32(nr), .flags = htole32(flags)
	};
}

static void zeroes_are_read_where_zeroes_were_written(void **state)
{
	uint8_t ones[64 * 512], in[64 * 512];

	memset(ones, 1, sizeof(ones));
	for (enum kind kind = RAM; kind < NR_KINDS; kind++) {
		open_disk(kind);
		for (uint32_t unmap = 0; unmap < 2; unmap++) {
			struct virtio_blk_discard_write_zeroes two[] = { range(17, 30, unmap),
				range(20, 0, 0), range(60, 3, 0) };

			assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_OUT, 0, ones, sizeof(ones),
						 NULL, 0, CUT_USUAL),
				OK);
			assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_WRITE_ZEROES, 0, two,
						 sizeof(two), NULL, 0, CUT_ODD),
				OK);
			assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_IN, 0, NULL, 0, in, sizeof(in),
						 CUT_USUAL),
				OK);
			for (unsigned i = 0; i < 64; i++)
				for (unsigned k = 0; k < 512; k++)
					assert_int_equal(in[i * 512 + k],
						!((i >= 17 && i < 47) || (i >= 60 && i < 63)));
		}
		close_disk();
	}
}

static void a_discard_gives_space_back_and_leaves_the_rest(void **state)
{
	struct virtio_blk_discard_write_zeroes one = range(256, 1024, 0);
	static uint8_t ones[DISK_BYTES / 8], in[512];
	struct stat before, after;

	memset(ones, 1, sizeof(ones));
	open_disk(FILE_URING);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_OUT, i * 256, ones, sizeof(ones), NULL,
					 0, CUT_USUAL),
			OK);
	assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL, 0, CUT_USUAL), OK);
	stat(f.path, &before);
	assert_int_equal(
		disk_do(&f.d, VIRTIO_BLK_T_DISCARD, 0, &one, sizeof(one), NULL, 0, CUT_USUAL), OK);
	stat(f.path, &after);
	assert_true(after.st_blocks < before.st_blocks);
	assert_int_equal(after.st_size, DISK_BYTES);
	assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_IN, 255, NULL, 0, in, 512, CUT_USUAL), OK);
	assert_memory_equal(in, ones, 512);
	assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_IN, 1280, NULL, 0, in, 512, CUT_USUAL), OK);
	assert_memory_equal(in, ones, 512);
	close_disk();
}

static void ranges_that_make_no_sense_are_refused(void **state)
{
	struct virtio_blk_discard_write_zeroes many[33];
	const struct {
		uint32_t type;
		struct virtio_blk_discard_write_zeroes range;
		uint8_t status;
	} bad[] = {
		{ VIRTIO_BLK_T_DISCARD, range(0, 1, 1), UNSUPP }, /* unmap is for zeroes */
		{ VIRTIO_BLK_T_DISCARD, range(0, 1, 2), UNSUPP },
		{ VIRTIO_BLK_T_WRITE_ZEROES, range(0, 1, 2), UNSUPP },
		{ VIRTIO_BLK_T_WRITE_ZEROES, range(0, 1, 0x80000001), UNSUPP },
		{ VIRTIO_BLK_T_WRITE_ZEROES, range(DISK_SECTORS, 1, 0), IOERR },
		{ VIRTIO_BLK_T_WRITE_ZEROES, range(UINT64_MAX, 2, 0), IOERR },
		{ VIRTIO_BLK_T_DISCARD, range(0, UINT32_MAX, 0), IOERR },
		{ VIRTIO_BLK_T_DISCARD, range(1, DISK_SECTORS, 0), IOERR },
	};

	open_disk(RAM);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(
			disk_do(&f.d, bad[i].type, 0, &bad[i].range, 16, NULL, 0, CUT_USUAL),
			bad[i].status);
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = range(i, 1, 0);
	assert_int_equal(
		disk_do(&f.d, VIRTIO_BLK_T_DISCARD, 0, many, 33 * 16, NULL, 0, CUT_USUAL), IOERR);
	assert_int_equal(
		disk_do(&f.d, VIRTIO_BLK_T_DISCARD, 0, many, 32 * 16, NULL, 0, CUT_USUAL), OK);
	assert_int_equal(
		disk_do(&f.d, VIRTIO_BLK_T_DISCARD, 0, many, 15, NULL, 0, CUT_USUAL), IOERR);
	assert_int_equal(
		disk_do(&f.d, VIRTIO_BLK_T_DISCARD, 0, NULL, 0, NULL, 0, CUT_USUAL), IOERR);
	close_disk();
}

static void what_was_not_offered_is_not_done(void **state)
{
	struct virtio_blk_discard_write_zeroes one = range(0, 1, 0);

	f.file.sparse = false;
	open_disk(FILE_URING);
	assert_int_equal(
		disk_do(&f.d, VIRTIO_BLK_T_DISCARD, 0, &one, 16, NULL, 0, CUT_USUAL), UNSUPP);
	assert_int_equal(
		disk_do(&f.d, VIRTIO_BLK_T_WRITE_ZEROES, 0, &one, 16, NULL, 0, CUT_USUAL), OK);
	close_disk();
}

static void durable_writes_and_zeroes_work_on_every_store(void **state)
{
	struct virtio_blk_discard_write_zeroes one = range(0, 1, 0);
	uint8_t out[512] = { 5 }, in[512];

	f.config.write_through = true;
	for (enum kind kind = RAM; kind < NR_KINDS; kind++) {
		open_disk(kind);
		assert_int_equal(
			disk_do(&f.d, VIRTIO_BLK_T_OUT, 1, out, 512, NULL, 0, CUT_USUAL), OK);
		assert_int_equal(
			disk_do(&f.d, VIRTIO_BLK_T_WRITE_ZEROES, 0, &one, 16, NULL, 0, CUT_USUAL),
			OK);
		assert_int_equal(
			disk_do(&f.d, VIRTIO_BLK_T_IN, 1, NULL, 0, in, 512, CUT_USUAL), OK);
		assert_memory_equal(in, out, 512);
		close_disk();
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(what_was_written_is_read_however_it_is_cut),
		T(a_read_counts_its_data_and_the_status_as_written),
		T(more_pieces_than_few_are_as_good),
		T(random_requests_give_what_an_array_gives),
		T(what_makes_no_sense_is_refused_and_nothing_else),
		T(a_header_that_is_cut_off_fails_alone),
		T(a_request_without_room_for_a_status_comes_back_empty),
		T(pieces_outside_of_memory_come_back_empty),
		T(a_read_only_disk_refuses_all_that_writes),
		T(the_serial_is_20_bytes_or_as_many_as_there_is_room_for),
		T(zeroes_are_read_where_zeroes_were_written),
		T(a_discard_gives_space_back_and_leaves_the_rest),
		T(ranges_that_make_no_sense_are_refused),
		T(what_was_not_offered_is_not_done),
		T(durable_writes_and_zeroes_work_on_every_store),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
