/* vhost_user_iotlb_test.c - what a front-end's translations mean, and which it may not give */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <linux/vhost_types.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "serve/vhost_user_iotlb.h"

#define USER	 0x700000000000ull
#define MEM_SIZE 0x10000u
#define TOP	 (UINT64_MAX - 0xfff) /* the last page's */

/* 64 KiB of shared memory at 1 GiB, each page filled with its number. */
struct world {
	struct vhu_iotlb t;
	struct vhu_log log;
	struct vhu_mem *base;
	struct guest_mem *mem;
	int fd;
};

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	const struct vhost_user_mem_region r = { .gpa = GIB, .size = MEM_SIZE, .user_addr = USER };
	const struct vhu_source source = { .fault_fd = -1 };
	struct err err = { 0 };

	w->fd = memfd_create("memory", MFD_CLOEXEC);
	assert_int_equal(ftruncate(w->fd, MEM_SIZE), 0);
	for (unsigned page = 0; page < MEM_SIZE / 4096; page++) {
		char bytes[4096];

		memset(bytes, (int)page, sizeof(bytes));
		assert_int_equal(
			pwrite(w->fd, bytes, sizeof(bytes), (off_t)page * 4096), sizeof(bytes));
	}
	vhu_iotlb_init(&w->t);
	if (vhu_mem_new(&w->base, NULL, &w->log, &r, &w->fd, 1, &source, &err))
		fail_msg("%s", err.text);
	assert_int_equal(vhu_iotlb_mem_new(&w->t, w->base, &w->mem), 0);
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;

	guest_mem_put(w->mem);
	vhu_mem_put(w->base);
	vhu_iotlb_fini(&w->t);
	close(w->fd);
	free(w);
	return 0;
}

static int say(struct world *w, uint8_t type, uint64_t iova, uint64_t size, uint64_t user)
{
	const struct vhost_user_iotlb m = {
		.iova = iova,
		.size = size,
		.user_addr = user,
		.perm = VHOST_ACCESS_RW,
		.type = type,
	};
	struct err err = { 0 };
	int rc = vhu_iotlb_message(&w->t, &m, &err);

	assert_true(!rc == !err.text[0]);
	return rc;
}

static int map(struct world *w, uint64_t iova, uint64_t size, unsigned page)
{
	return say(w, VHOST_IOTLB_UPDATE, iova, size, USER + 4096ull * page);
}

static void a_read_goes_from_entry_to_entry_and_ends_at_a_hole(void **state)
{
	struct world *w = *state;
	uint8_t buf[8192];
	size_t len = 8192;

	assert_int_equal(map(w, 0x1000, 4096, 5), 0);
	assert_int_equal(map(w, 0x2000, 4096, 3), 0);
	assert_int_equal(guest_mem_read(w->mem, 0x1800, buf, 4096), 0);
	assert_int_equal(buf[0], 5);
	assert_int_equal(buf[4095], 3);
	assert_int_equal(guest_mem_read(w->mem, 0x2800, buf, 4096), -EFAULT);
	/* Apart in memory: as far as the first goes. */
	assert_non_null(guest_mem_ptr(w->mem, 0x1000, &len, true));
	assert_int_equal(len, 4096);
	assert_int_equal(say(w, VHOST_IOTLB_INVALIDATE, 0x1000, 4096, 0), 0);
	assert_int_equal(guest_mem_read(w->mem, 0x1800, buf, 1), -EFAULT);
}

static void an_entry_that_is_told_of_anew_is_the_new_one(void **state)
{
	struct world *w = *state;
	uint8_t byte;

	assert_int_equal(map(w, 0x1000, 8192, 5), 0);
	assert_int_equal(map(w, 0x2000, 4096, 9), 0);
	assert_int_equal(guest_mem_read(w->mem, 0x2000, &byte, 1), 0);
	assert_int_equal(byte, 9);
	assert_int_equal(guest_mem_read(w->mem, 0x1000, &byte, 1), -EFAULT);
}

static void entries_that_wrap_are_refused(void **state)
{
	struct world *w = *state;

	assert_int_equal(map(w, TOP, 4097, 0), -EINVAL);
	assert_int_equal(map(w, 0x1000, 0, 0), -EINVAL);
	assert_int_equal(say(w, VHOST_IOTLB_UPDATE, 0, 8192, TOP), -EINVAL);
	assert_int_equal(say(w, VHOST_IOTLB_INVALIDATE, TOP, 4097, 0), -EINVAL);
	assert_int_equal(say(w, 77, 0, 4096, USER), -EINVAL);
	assert_int_equal(w->t.entries.nr, 0);
}

/* There is memory at both ends of the address space, and none of it is one range. */
static void what_goes_beyond_the_last_address_is_nowhere(void **state)
{
	struct world *w = *state;
	uint8_t buf[8192] = { 0 };
	size_t len = 4097;

	assert_int_equal(map(w, TOP, 4096, 1), 0);
	assert_int_equal(map(w, 0, 4096, 2), 0);
	assert_int_equal(guest_mem_read(w->mem, TOP, buf, 4097), -EFAULT);
	assert_int_equal(guest_mem_write(w->mem, TOP, buf, 4097), -EFAULT);
	assert_null(guest_mem_ptr(w->mem, TOP, &len, true));
	assert_int_equal(guest_mem_read(w->mem, TOP, buf, 4096), 0);
	assert_int_equal(buf[0], 1);
	assert_int_equal(guest_mem_read(w->mem, 0, buf, 1), 0);
	assert_int_equal(buf[0], 2);
}

static void an_entry_beyond_the_memory_is_of_no_use(void **state)
{
	struct world *w = *state;
	uint8_t buf[8192];

	/* Its second half, and all of it. */
	assert_int_equal(map(w, 0x1000, 8192, MEM_SIZE / 4096 - 1), 0);
	assert_int_equal(map(w, 0x8000, 4096, MEM_SIZE / 4096), 0);
	assert_int_equal(guest_mem_read(w->mem, 0x1000, buf, 4096), 0);
	assert_int_equal(guest_mem_read(w->mem, 0x1000, buf, 4097), -EFAULT);
	assert_int_equal(guest_mem_read(w->mem, 0x8000, buf, 1), -EFAULT);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_read_goes_from_entry_to_entry_and_ends_at_a_hole),
		TEST(an_entry_that_is_told_of_anew_is_the_new_one),
		TEST(entries_that_wrap_are_refused),
		TEST(what_goes_beyond_the_last_address_is_nowhere),
		TEST(an_entry_beyond_the_memory_is_of_no_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
