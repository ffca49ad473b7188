/* block_map_test.c - copies between guest memory and an image in memory, without the kernel */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"
#include "device/block_map.h"
#include "device/block_store.h"

#define SIZE (1024 * KIB)
#define PAGE PAGE_SIZE_4K

struct fixture {
	int fd;
	struct block_map map;
	uint8_t *image, *buf; /* what the file holds; the guest's memory */
};

static struct fixture f;

static int setup(void **state)
{
	f = (struct fixture){ .fd = memfd_create("image", MFD_CLOEXEC) };
	f.image = malloc(SIZE);
	f.buf = calloc(1, SIZE);
	for (size_t i = 0; i < SIZE; i++)
		f.image[i] = (uint8_t)(i * 7 + i / PAGE);
	assert_int_equal(pwrite(f.fd, f.image, SIZE, 0), SIZE);
	block_map_open(&f.map, f.fd, true);
	assert_non_null(f.map.bytes);
	return 0;
}

static int teardown(void **state)
{
	block_map_close(&f.map);
	block_map_close(&f.map); /* once more does nothing */
	close(f.fd);
	free(f.image);
	free(f.buf);
	return 0;
}

static uint64_t transfer(uint64_t off, uint64_t len, bool write)
{
	struct iovec iov = { f.buf, len };

	return block_map_copy(&f.map, &iov, 1, off, write);
}

/* The kernel has its turn now and then. */
static uint64_t write_mapped(const struct iovec *iov, unsigned nr, uint64_t off)
{
	uint64_t n = 0;

	for (int tries = 0; !n && tries < 1000; tries++)
		n = block_map_copy(&f.map, iov, nr, off, true);
	return n;
}

static blkcnt_t pages_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_blocks / 8;
}

static void punch(uint64_t off, uint64_t len)
{
	assert_int_equal(
		fallocate(f.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len),
		0);
}

/* Copies */

/* Offset and pieces fit neither pages nor each other nor what is asked about at once. */
static unsigned odd_pieces(struct iovec *iov, uint64_t *len)
{
	static const size_t sizes[] = { 1, 4095, 70001, 4096, 300007, 13 };
	uint8_t *at = f.buf;

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		iov[i] = (struct iovec){ at, sizes[i] };
		at += sizes[i] + 5;
		*len += sizes[i];
	}
	return ARRAY_SIZE(sizes);
}

static void reads_fill_the_pieces_one_after_the_other(void **state)
{
	struct iovec iov[8];
	uint64_t len = 0, off = 12289, at = off;
	unsigned nr = odd_pieces(iov, &len);

	assert_int_equal(block_map_copy(&f.map, iov, nr, off, false), len);
	for (unsigned i = 0; i < nr; i++) {
		uint8_t *end = (uint8_t *)iov[i].iov_base + iov[i].iov_len;

		assert_memory_equal(iov[i].iov_base, f.image + at, iov[i].iov_len);
		for (int gap = 0; gap < 5; gap++)
			assert_int_equal(end[gap], 0);
		at += iov[i].iov_len;
	}
}

static void writes_are_what_the_file_holds_then(void **state)
{
	uint8_t *now = malloc(SIZE);
	struct iovec iov[8];
	uint64_t len = 0, off = 12289, at = off;
	unsigned nr = odd_pieces(iov, &len);

	for (size_t i = 0; i < SIZE; i++)
		f.buf[i] = (uint8_t)(i * 11 + 3);
	assert_int_equal(write_mapped(iov, nr, off), len);
	for (unsigned i = 0; i < nr; i++) {
		memcpy(f.image + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	assert_int_equal(pread(f.fd, now, SIZE, 0), SIZE);
	assert_memory_equal(now, f.image, SIZE);
	free(now);
}

/* A write through a mapping moves none of the file's times. */
static void one_write_now_and_then_is_the_kernels(void **state)
{
	atomic_store(&f.map.kernel_ns, clock_now_ns() - NS_PER_S);
	assert_int_equal(transfer(0, BLOCK_MAP_MIN, true), 0);
	assert_true(clock_now_ns() - atomic_load(&f.map.kernel_ns) < NS_PER_S);
	/* Reads never are. */
	atomic_store(&f.map.kernel_ns, 0);
	assert_int_equal(transfer(0, BLOCK_MAP_MIN, false), BLOCK_MAP_MIN);
}

/* What is not there */

static void a_hole_stays_one(void **state)
{
	struct iovec iov = { f.buf, 4 * PAGE };
	blkcnt_t before;

	punch(8 * PAGE, 4 * PAGE);
	before = pages_of(f.fd);
	assert_int_equal(transfer(8 * PAGE, 4 * PAGE, false), 0);
	assert_int_equal(transfer(11 * PAGE + 5, PAGE, false), 0);
	assert_int_equal(write_mapped(&iov, 1, 8 * PAGE), 0);
	assert_int_equal(pages_of(f.fd), before);
}

static void what_lies_before_a_hole_is_copied(void **state)
{
	punch(100 * PAGE, PAGE);
	assert_int_equal(transfer(7, 200 * PAGE, false), 100 * PAGE - 7);
	assert_memory_equal(f.buf, f.image + 7, 100 * PAGE - 7);
	assert_int_equal(f.buf[100 * PAGE - 7], 0);
}

/* Reserved, so it has pages, but they were never written. */
static void an_unwritten_part_is_a_hole_too(void **state)
{
	punch(8 * PAGE, 4 * PAGE);
	assert_int_equal(fallocate(f.fd, 0, 8 * PAGE, 4 * PAGE), 0);
	assert_int_equal(transfer(8 * PAGE, 4 * PAGE, false), 0);
}

static void what_grows_later_is_the_kernels(void **state)
{
	assert_int_equal(pwrite(f.fd, f.image, SIZE, SIZE), SIZE);
	assert_int_equal(transfer(SIZE - PAGE, 2 * PAGE, false), PAGE);
	assert_int_equal(transfer(SIZE, PAGE, false), 0);
	assert_int_equal(transfer(UINT64_MAX - PAGE, PAGE, false), 0);
}

static void an_end_within_a_page_is_the_kernels(void **state)
{
	struct block_map map = { 0 };
	struct iovec iov = { f.buf, SIZE };

	assert_int_equal(ftruncate(f.fd, SIZE - 512), 0);
	block_map_open(&map, f.fd, true);
	assert_int_equal(block_map_copy(&map, &iov, 1, 0, false), SIZE - PAGE);
	block_map_close(&map);
}

static void a_file_that_was_shortened_is_left_to_the_kernel(void **state)
{
	/* In here, since the test's runner has a handler of its own since the one of setup(). */
	block_map_close(&f.map);
	block_map_open(&f.map, f.fd, true);
	assert_int_equal(ftruncate(f.fd, 10 * PAGE), 0);
	assert_int_equal(transfer(0, 20 * PAGE, false), 10 * PAGE);
	/* Who copies just then, touches it: */
	assert_int_equal(*(volatile uint8_t *)(f.map.bytes + 10 * PAGE), 0);
	/* and even what is there again does not go through what was put in its place. */
	assert_int_equal(pwrite(f.fd, f.image, SIZE, 0), SIZE);
	assert_int_equal(transfer(0, 20 * PAGE, false), 0);
	assert_int_equal(write_mapped(&(struct iovec){ f.buf, PAGE }, 1, 0), 0);
}

/* What is not mapped */

static void files_that_cannot_be_mapped_or_asked_about_are_not(void **state)
{
	struct block_map map = { 0 };
	struct iovec iov = { f.buf, BLOCK_MAP_MIN };

	block_map_open(&map, -1, false);
	assert_null(map.bytes);
	assert_int_equal(ftruncate(f.fd, BLOCK_MAP_MIN - 1), 0);
	block_map_open(&map, f.fd, false);
	assert_null(map.bytes);
	assert_int_equal(ftruncate(f.fd, SIZE), 0);
	if (!fchown(f.fd, geteuid() + 1, (gid_t)-1)) {
		block_map_open(&map, f.fd, false);
		assert_null(map.bytes);
	}
	assert_int_equal(block_map_copy(&map, &iov, 1, 0, false), 0);
	assert_int_equal(block_map_copy(&map, &iov, 1, 0, true), 0);
	block_map_close(&map);
}

static void a_file_for_reading_is_not_written(void **state)
{
	struct block_map map = { 0 };
	struct iovec iov = { f.buf, BLOCK_MAP_MIN };

	block_map_open(&map, f.fd, false);
	assert_non_null(map.bytes);
	atomic_store(&map.kernel_ns, clock_now_ns() + NS_PER_S);
	assert_int_equal(block_map_copy(&map, &iov, 1, 0, true), 0);
	assert_int_equal(block_map_copy(&map, &iov, 1, 0, false), BLOCK_MAP_MIN);
	block_map_close(&map);
}

/* In a store */

static int result;

static void on_done(struct block_io *io, int error)
{
	result = error;
}

static void store_transfer(
	struct block_store *s, enum block_op op, struct iovec *iov, unsigned nr, uint64_t off)
{
	struct block_io io = { .done = on_done, .op = op, .iov = iov, .nr_iov = nr, .off = off };

	for (unsigned i = 0; i < nr; i++)
		io.len += iov[i].iov_len;
	result = 1;
	block_store_submit(s, &io); /* in memory: done when it comes back */
	assert_int_equal(result, 0);
}

/* There and not there in turns, with an end that is no whole page, and holes that are read stay. */
static void a_store_carries_out_all_of_a_transfer(void **state)
{
	uint64_t size = SIZE - 512;
	struct block_file_config config = { .fd = f.fd };
	struct block_store *s;
	struct iovec iov[] = { { f.buf, 1000 }, { f.buf + 1000, size - 1000 } };
	uint8_t *now = malloc(SIZE);
	blkcnt_t pages;

	assert_int_equal(ftruncate(f.fd, (off_t)size), 0);
	config.fd = dup(f.fd);
	assert_int_equal(block_file_new(&s, &config, NULL), 0);
	for (unsigned i = 20; i < 240; i += 20) {
		punch(i * PAGE, 3 * PAGE);
		memset(f.image + i * PAGE, 0, 3 * PAGE);
	}
	pages = pages_of(f.fd);
	store_transfer(s, BLOCK_READ, iov, 2, 0);
	assert_memory_equal(f.buf, f.image, size);
	assert_int_equal(pages_of(f.fd), pages);
	for (int round = 0; round < 3; round++) {
		memset(f.buf, 0xa0 + round, size);
		store_transfer(s, BLOCK_WRITE, iov, 2, 0);
		assert_int_equal(pread(f.fd, now, SIZE, 0), size);
		assert_memory_equal(now, f.buf, size);
	}
	block_store_free(s);
	free(now);
}

/* An image that lost its end under the mapping fails as one that never was mapped. */
static void a_store_goes_on_after_its_image_was_shortened(void **state)
{
	struct block_file_config config = { .fd = dup(f.fd) };
	struct iovec iov = { f.buf, 32 * PAGE };
	struct block_store *s;

	assert_int_equal(block_file_new(&s, &config, NULL), 0);
	store_transfer(s, BLOCK_READ, &iov, 1, 0);
	assert_int_equal(ftruncate(f.fd, 0), 0);
	store_transfer(s, BLOCK_WRITE, &iov, 1, 0);
	memset(f.buf, 0, 32 * PAGE);
	store_transfer(s, BLOCK_READ, &iov, 1, 0);
	assert_memory_equal(f.buf, f.image, 32 * PAGE);
	block_store_free(s);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(reads_fill_the_pieces_one_after_the_other),
		T(writes_are_what_the_file_holds_then),
		T(one_write_now_and_then_is_the_kernels),
		T(a_hole_stays_one),
		T(what_lies_before_a_hole_is_copied),
		T(an_unwritten_part_is_a_hole_too),
		T(what_grows_later_is_the_kernels),
		T(an_end_within_a_page_is_the_kernels),
		T(a_file_that_was_shortened_is_left_to_the_kernel),
		T(files_that_cannot_be_mapped_or_asked_about_are_not),
		T(a_file_for_reading_is_not_written),
		T(a_store_carries_out_all_of_a_transfer),
		T(a_store_goes_on_after_its_image_was_shortened),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
