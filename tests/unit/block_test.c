/* block_test.c - the virtio disk: requests and refusals, on every store, cut in every way */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block_disk.h"
#include "device/block_priv.h"

#define OK     0
#define IOERR  1
#define UNSUPP 2

#define ALL_FEATURES UINT64_MAX
#define FLUSH_BIT    VIRTIO_BIT(VIRTIO_BLK_F_FLUSH)

enum kind { RAM, FILE_URING, FILE_POOL, FILE_DIRECT, FILE_IN_MEMORY, NR_KINDS };

struct fixture {
	struct disk d;
	int fds_at_start, memory;
	char path[64], memory_path[64];
	struct block_config config;
	struct block_file_config file;
	struct drv_config ring;
};

static struct fixture f;

static const char *path_of(enum kind kind)
{
	return kind == FILE_IN_MEMORY ? f.memory_path : f.path;
}

static struct block_store *make_store(enum kind kind)
{
	struct block_store *store;
	struct err err = { 0 };
	int rc;

	if (kind == RAM) {
		rc = block_ram_new(&store, DISK_BYTES, &err);
	} else {
		f.file.path = path_of(kind);
		f.file.direct = kind == FILE_DIRECT;
		rc = block_file_new(&store, &f.file, &err);
	}
	if (rc)
		fail_msg("%s", err.text);
	f.config.no_uring = kind == FILE_POOL;
	return store;
}

static void open_disk(enum kind kind)
{
	disk_open(&f.d, make_store(kind), &f.config, ALL_FEATURES, &f.ring);
}

static void close_disk(void)
{
	disk_stop(&f.d);
	disk_close(&f.d);
}

static int setup(void **state)
{
	int fd;

	memset(&f, 0, sizeof(f));
	f.fds_at_start = fd_count();
	f.config = (struct block_config){
		.name = "_disk0",
		.nr_queues = 1,
		.queue_size = DISK_QUEUE,
		.nr_threads = 1,
		.poll_us = 20,
		.serial = "a serial of 20 bytes",
	};
	f.file.sparse = true;
	f.ring = (struct drv_config){ .size = DISK_QUEUE, .event_idx = true, .indirect = true };
	snprintf(f.path, sizeof(f.path), "block_test.XXXXXX");
	fd = mkstemp(f.path);
	if (fd < 0 || ftruncate(fd, DISK_BYTES))
		return -1;
	close(fd);
	f.memory = memfd_create("block_test", MFD_CLOEXEC);
	if (f.memory < 0 || ftruncate(f.memory, DISK_BYTES))
		return -1;
	snprintf(f.memory_path, sizeof(f.memory_path), "/proc/self/fd/%d", f.memory);
	return loop_new(&f.d.loop);
}

static int teardown(void **state)
{
	loop_free(f.d.loop);
	unlink(f.path);
	close(f.memory);
	return fd_count() == f.fds_at_start ? 0 : -1;
}

static void fill(uint8_t *bytes, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)(seed + i * 7 + i / 512);
}

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

/* Sizes */

static uint64_t capacity(void)
{
	return le64toh(((struct virtio_blk_config *)f.d.model->config)->capacity);
}

static void the_tail_of_an_odd_image_reads_as_zeros_and_can_be_written(void **state)
{
	uint8_t in[1024], out[512];
	struct stat st;

	memset(out, 9, sizeof(out));
	for (enum kind kind = FILE_URING; kind < NR_KINDS; kind++) {
		int fd = open(path_of(kind), O_RDWR | O_TRUNC);

		assert_int_equal(ftruncate(fd, 0), 0);
		memset(in, 7, sizeof(in));
		assert_int_equal(write(fd, in, 1000), 1000);
		close(fd);
		open_disk(kind);
		assert_int_equal(capacity(), 2);
		assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_IN, 0, NULL, 0, in, 1024, CUT_ODD), OK);
		for (unsigned i = 0; i < 1024; i++)
			assert_int_equal(in[i], i < 1000 ? 7 : 0);
		assert_int_equal(
			disk_do(&f.d, VIRTIO_BLK_T_OUT, 1, out, 512, NULL, 0, CUT_USUAL), OK);
		assert_int_equal(
			disk_do(&f.d, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, NULL, 0, CUT_USUAL), OK);
		stat(path_of(kind), &st);
		assert_int_equal(st.st_size, 1024);
		close_disk();
	}
}

static void an_image_that_is_cut_under_the_guest_is_an_error(void **state)
{
	for (enum kind kind = FILE_URING; kind < NR_KINDS; kind++) {
		open_disk(kind);
		assert_int_equal(truncate(path_of(kind), 4096), 0);
		assert_int_equal(
			disk_do(&f.d, VIRTIO_BLK_T_IN, 8, NULL, 0, NULL, 512, CUT_USUAL), IOERR);
		assert_int_equal(
			disk_do(&f.d, VIRTIO_BLK_T_IN, 7, NULL, 0, NULL, 512, CUT_USUAL), OK);
		close_disk();
		assert_int_equal(truncate(path_of(kind), DISK_BYTES), 0);
	}
}

static void an_image_that_grows_is_a_larger_disk(void **state)
{
	open_disk(FILE_URING);
	f.d.model->ops->config_read(f.d.model);
	assert_int_equal(f.d.config_changes, 0);
	assert_int_equal(truncate(f.path, 2 * DISK_BYTES), 0);
	f.d.model->ops->config_read(f.d.model);
	assert_int_equal(f.d.config_changes, 1);
	assert_int_equal(capacity(), 2 * DISK_SECTORS);
	assert_int_equal(
		disk_do(&f.d, VIRTIO_BLK_T_IN, 2 * DISK_SECTORS - 1, NULL, 0, NULL, 512, CUT_USUAL),
		OK);
	f.d.model->ops->config_read(f.d.model);
	assert_int_equal(f.d.config_changes, 1);
	close_disk();
}

/* Cache mode */

static uint8_t wce(void)
{
	return ((struct virtio_blk_config *)f.d.model->config)->wce;
}

static void set_wce(uint8_t value)
{
	f.d.model->ops->config_write(f.d.model, offsetof(struct virtio_blk_config, wce), &value, 1);
}

static bool is_write_through(void)
{
	return atomic_load(&container_of(f.d.model, struct block_disk, model)->write_through);
}

static void the_cache_mode_follows_features_and_configuration(void **state)
{
	const uint64_t both = FLUSH_BIT | VIRTIO_BIT(VIRTIO_BLK_F_CONFIG_WCE);
	uint8_t four[4] = { 0 };

	open_disk(RAM);
	assert_false(is_write_through());
	set_wce(0);
	assert_true(is_write_through());
	assert_int_equal(wce(), 0);
	set_wce(2);
	assert_false(is_write_through());
	assert_int_equal(wce(), 1);
	/* A write that covers other bytes as well changes just this one. */
	f.d.model->ops->config_write(
		f.d.model, offsetof(struct virtio_blk_config, wce) - 1, four, 4);
	assert_true(is_write_through());
	assert_int_equal(capacity(), DISK_SECTORS);
	f.d.model->ops->config_write(f.d.model, 0, four, 4);
	assert_int_equal(capacity(), DISK_SECTORS);
	disk_stop(&f.d);
	f.d.model->ops->reset(f.d.model);
	assert_int_equal(wce(), 1);
	f.d.model->ops->set_features(f.d.model, both & ~FLUSH_BIT);
	assert_int_equal(wce(), 0);
	assert_true(is_write_through());
	f.d.model->ops->reset(f.d.model);
	f.d.model->ops->set_features(f.d.model, 0);
	assert_true(is_write_through());
	f.d.model->ops->set_features(f.d.model, FLUSH_BIT);
	assert_false(is_write_through());
	disk_close(&f.d);
	f.config.write_through = true;
	open_disk(RAM);
	assert_int_equal(wce(), 0);
	assert_true(is_write_through());
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

/* Locks */

static int try_image(bool read_only, struct err *err)
{
	const struct block_file_config config = { .path = f.path, .read_only = read_only };
	struct block_store *store = NULL;
	int rc = block_file_new(&store, &config, err);

	block_store_free(store);
	return rc;
}

static void an_image_that_is_written_is_nobody_elses(void **state)
{
	for (int direct = 0; direct < 2; direct++) {
		struct err err = { 0 };

		open_disk(direct ? FILE_DIRECT : FILE_URING);
		assert_int_equal(try_image(false, &err), -EBUSY);
		assert_non_null(strstr(err.text, "in use"));
		assert_int_equal(try_image(true, &err), -EBUSY);
		close_disk();
		assert_int_equal(try_image(false, NULL), 0);
	}
}

/* A page of ours that the kernel copies from and to, but does not hold: as the BAR of a device. */
static void *find_unheld(void)
{
	unsigned long first, last;
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];
	void *found = NULL;

	assert_non_null(maps);
	while (!found && fgets(line, sizeof(line), maps))
		if (strstr(line, "[vvar]") && sscanf(line, "%lx-%lx", &first, &last) == 2)
			found = (void *)first;
	fclose(maps);
	return found;
}

static void *unheld;

static void *ptr_unheld(struct guest_mem *mem, uint64_t iova, size_t *len, bool write)
{
	bool data = *len == 4096;
	void *p = drv_mem_ptr(mem, iova, len, write);

	return p && data ? unheld : p;
}

static void memory_that_cannot_be_held_goes_through_the_page_cache(void **state)
{
	uint8_t mark[4096], in[4096];
	struct guest_mem_ops ops;
	int image;

	unheld = find_unheld();
	if (!unheld)
		skip();
	image = open(f.path, O_RDONLY | O_CLOEXEC);
	fill(mark, sizeof(mark), 1);
	open_disk(FILE_DIRECT);
	assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_OUT, 8, mark, sizeof(mark), NULL, 0, CUT_USUAL), OK);
	ops = *f.d.m->mem.ops;
	ops.ptr = ptr_unheld;
	f.d.m->mem.ops = &ops;
	for (unsigned sector = 0; sector <= 16; sector += 8) {
		assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_OUT, sector, mark, sizeof(mark), NULL, 0,
					 CUT_USUAL),
			OK);
		assert_int_equal(pread(image, in, sizeof(in), sector * 512), sizeof(in));
		assert_memory_not_equal(in, mark, sizeof(in));
	}
	close(image);
	close_disk();
}

static void readers_share_an_image(void **state)
{
	f.file.read_only = true;
	open_disk(FILE_URING);
	assert_int_equal(try_image(true, NULL), 0);
	assert_int_equal(try_image(false, NULL), -EBUSY);
	close_disk();
}

static void a_descriptor_brings_its_lock_along(void **state)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct block_file_config config = { .fd = open(f.path, O_RDWR | O_CLOEXEC) };
	struct block_store *store;

	assert_int_equal(fcntl(config.fd, F_OFD_SETLK, &lock), 0);
	assert_int_equal(block_file_new(&store, &config, NULL), 0);
	assert_int_equal(try_image(true, NULL), -EBUSY);
	block_store_free(store);
	assert_int_equal(try_image(true, NULL), 0);
}

/* Writes of a process that was killed go on until the kernel closes what they go through. */
static void the_process_before_is_waited_for(void **state)
{
	int image = open(f.path, O_RDWR | O_CLOEXEC);

	for (int direct = 0; direct < 2; direct++) {
		struct block_file_config config = {
			.fd = dup(image), .direct = direct, .turn_ms = 20
		};
		struct block_store *before, *next;
		struct err err = { 0 };

		assert_int_equal(block_file_new(&before, &config, NULL), 0);
		config.fd = dup(image);
		assert_int_equal(block_file_new(&next, &config, &err), -EBUSY);
		assert_non_null(strstr(err.text, "writes under way"));
		block_store_free(before);
		config.fd = dup(image);
		assert_int_equal(block_file_new(&next, &config, NULL), 0);
		block_store_free(next);
	}
	close(image);
}

static void what_is_no_image_is_refused(void **state)
{
	const struct {
		struct block_file_config config;
		int rc;
	} bad[] = {
		{ { .path = "/dev/null" }, -EINVAL },
		{ { .path = "." }, -EISDIR },
		{ { .path = ".", .read_only = true }, -EINVAL },
		{ { .path = "no-such-file" }, -ENOENT },
		{ { .fd = open(f.path, O_RDONLY | O_CLOEXEC) }, -EACCES },
		{ { .fd = open(f.path, O_WRONLY | O_CLOEXEC) }, -EACCES },
	};
	struct block_store *store;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = { 0 };

		assert_int_equal(block_file_new(&store, &bad[i].config, &err), bad[i].rc);
		assert_true(err.text[0]);
	}
}

/* Limits, stops, broken rings */

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

static void a_model_that_never_ran_can_be_freed(void **state)
{
	struct virtio_model *model;

	assert_int_equal(block_new(&model, f.d.loop, make_store(FILE_URING), &f.config, NULL), 0);
	virtio_model_free(model);
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
		T(the_tail_of_an_odd_image_reads_as_zeros_and_can_be_written),
		T(an_image_that_is_cut_under_the_guest_is_an_error),
		T(an_image_that_grows_is_a_larger_disk),
		T(the_cache_mode_follows_features_and_configuration),
		T(durable_writes_and_zeroes_work_on_every_store),
		T(memory_that_cannot_be_held_goes_through_the_page_cache),
		T(an_image_that_is_written_is_nobody_elses),
		T(readers_share_an_image),
		T(the_process_before_is_waited_for),
		T(a_descriptor_brings_its_lock_along),
		T(what_is_no_image_is_refused),
		T(a_request_over_the_limit_goes_when_the_disk_stops),
		T(a_held_request_goes_by_itself_when_its_time_comes),
		T(a_stopped_disk_can_start_again_with_what_was_added_meanwhile),
		T(a_pause_keeps_the_queue_still_and_loses_nothing),
		T(a_ring_without_kicks_is_looked_at),
		T(a_broken_ring_stops_giving_and_can_be_stopped),
		T(a_model_that_never_ran_can_be_freed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
