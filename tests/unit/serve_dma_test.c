#include "serve/dma.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"

#define PAGE 4096ull
#define RW   (DMA_READ | DMA_WRITE)

static int fds_at_start;

static int memory(uint64_t size)
{
	int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static int map(struct dma *d, uint64_t iova, uint64_t size, uint64_t offset, int fd)
{
	struct err err = { 0 };
	int rc = dma_map(d, iova, size, RW, offset, fd, &err);

	assert_int_equal(rc != 0, err.text[0] != 0);
	return rc;
}

static bool faulted(const struct dma *d)
{
	struct pollfd pfd = { .fd = dma_fault_fd(d), .events = POLLIN };

	return poll(&pfd, 1, 0) == 1;
}

static int set_up(void **state)
{
	struct dma *d = calloc(1, sizeof(*d));

	*state = d;
	fds_at_start = fd_count();
	return dma_init(d, 1000, NULL, NULL);
}

static int tear_down(void **state)
{
	dma_fini(*state);
	free(*state);
	return fd_count() != fds_at_start;
}

static void memory_is_read_and_written_where_it_is_mapped(void **state)
{
	struct dma *d = *state;
	FD_AUTO fd = memory(8 * PAGE);
	char buf[16] = "";

	assert_int_equal(map(d, 0x100000, 2 * PAGE, 4 * PAGE, dup(fd)), 0);
	assert_int_equal(guest_mem_write(&d->mem, 0x100010, "hello", 6), 0);
	assert_int_equal(pread(fd, buf, 6, 4 * PAGE + 0x10), 6);
	assert_string_equal(buf, "hello");
	assert_int_equal(pwrite(fd, "back", 5, 6 * PAGE - 5), 5);
	assert_int_equal(guest_mem_read(&d->mem, 0x100000 + 2 * PAGE - 5, buf, 5), 0);
	assert_string_equal(buf, "back");
}

static void an_access_crosses_mappings_that_touch_and_no_others(void **state)
{
	struct dma *d = *state;
	FD_AUTO fd = memory(8 * PAGE);
	char buf[3 * PAGE];

	assert_int_equal(map(d, PAGE, PAGE, 3 * PAGE, dup(fd)), 0);
	assert_int_equal(map(d, 2 * PAGE, PAGE, 0, dup(fd)), 0);
	assert_int_equal(map(d, 4 * PAGE, PAGE, PAGE, dup(fd)), 0);
	assert_int_equal(guest_mem_write(&d->mem, 2 * PAGE - 2, "abcd", 4), 0);
	assert_int_equal(guest_mem_read(&d->mem, 2 * PAGE - 2, buf, 4), 0);
	assert_memory_equal(buf, "abcd", 4);
	assert_int_equal(guest_mem_read(&d->mem, PAGE, buf, 2 * PAGE), 0);
	assert_int_equal(guest_mem_read(&d->mem, PAGE, buf, 2 * PAGE + 1), -EFAULT);
	assert_int_equal(guest_mem_read(&d->mem, PAGE - 1, buf, 2), -EFAULT);
	assert_int_equal(guest_mem_read(&d->mem, 3 * PAGE, buf, 1), -EFAULT);
	assert_int_equal(guest_mem_read(&d->mem, 0, buf, 0), 0);
}

static void the_last_page_of_the_address_space_can_be_mapped(void **state)
{
	struct dma *d = *state;
	char buf[16];

	assert_int_equal(map(d, 0 - PAGE, PAGE, 0, memory(PAGE)), 0);
	assert_int_equal(guest_mem_write(&d->mem, UINT64_MAX, "x", 1), 0);
	assert_int_equal(guest_mem_read(&d->mem, UINT64_MAX, buf, 1), 0);
	assert_int_equal(guest_mem_read(&d->mem, UINT64_MAX, buf, 2), -EFAULT);
	assert_int_equal(map(d, 0 - PAGE, PAGE, PAGE, memory(2 * PAGE)), -EINVAL);
	assert_int_equal(dma_unmap(d, 0 - PAGE, PAGE), 0);
}

static void bad_ranges_are_refused_and_their_descriptor_closed(void **state)
{
	static const struct {
		uint64_t iova, size, offset;
	} bad[] = {
		{ 0, 0, 0 },
		{ 0 - PAGE, 2 * PAGE, 0 },
		{ PAGE, 0 - PAGE, 0 },
		{ PAGE, UINT64_MAX, 0 },
		{ 1, PAGE, 0 },
		{ 0, PAGE + 1, 0 },
		{ 0, PAGE, 512 },
		{ 0, 3 * PAGE, 0 },    /* longer than the file */
		{ 0, PAGE, 2 * PAGE }, /* behind it */
		{ 0, PAGE, 0 - PAGE }, /* wraps */
		{ 0, 1ull << 62, 0 },
	};
	struct dma *d = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(
			map(d, bad[i].iova, bad[i].size, bad[i].offset, memory(2 * PAGE)), -EINVAL);
	assert_int_equal(dma_map(d, 0, PAGE, 0, 0, memory(PAGE), NULL), -EINVAL);
	assert_int_equal(fd_count(), fds_at_start + 1); /* the fault eventfd */
}

static void overlaps_are_refused_and_repeats_are_not(void **state)
{
	struct dma *d = *state;
	FD_AUTO fd = memory(16 * PAGE);
	uint64_t at = 16 * PAGE;

	assert_int_equal(map(d, at, 4 * PAGE, 0, dup(fd)), 0);
	assert_int_equal(map(d, at, 4 * PAGE, 0, dup(fd)), 0);
	assert_int_equal(d->nr, 1);
	assert_int_equal(map(d, at, 4 * PAGE, PAGE, dup(fd)), -EINVAL);
	assert_int_equal(map(d, at, 4 * PAGE, 0, memory(16 * PAGE)), -EINVAL);
	assert_int_equal(map(d, at, 4 * PAGE, 0, -1), -EINVAL);
	assert_int_equal(dma_map(d, at, 4 * PAGE, DMA_READ, 0, dup(fd), NULL), -EINVAL);
	assert_int_equal(map(d, at + PAGE, PAGE, 0, dup(fd)), -EINVAL);
	assert_int_equal(map(d, at - PAGE, 2 * PAGE, 0, dup(fd)), -EINVAL);
	assert_int_equal(map(d, at + 3 * PAGE, 2 * PAGE, 0, dup(fd)), -EINVAL);
	assert_int_equal(map(d, at - PAGE, 6 * PAGE, 0, dup(fd)), -EINVAL);
	assert_int_equal(map(d, at - PAGE, PAGE, 0, dup(fd)), 0);
	assert_int_equal(map(d, at + 4 * PAGE, PAGE, 0, dup(fd)), 0);
	assert_int_equal(d->nr, 3);
}

static void only_whole_mappings_are_unmapped(void **state)
{
	struct dma *d = *state;

	assert_int_equal(map(d, 4 * PAGE, 4 * PAGE, 0, memory(4 * PAGE)), 0);
	assert_int_equal(dma_unmap(d, 4 * PAGE, PAGE), -ENOENT);
	assert_int_equal(dma_unmap(d, 5 * PAGE, 3 * PAGE), -ENOENT);
	assert_int_equal(dma_unmap(d, 4 * PAGE, 5 * PAGE), -ENOENT);
	assert_int_equal(dma_unmap(d, 0, 4 * PAGE), -ENOENT);
	assert_int_equal(dma_unmap(d, 4 * PAGE, 0), -ENOENT);
	assert_int_equal(dma_unmap(d, 100 * PAGE, PAGE), -ENOENT);
	assert_int_equal(dma_unmap(d, 4 * PAGE, 4 * PAGE), 0);
	assert_int_equal(dma_unmap(d, 4 * PAGE, 4 * PAGE), -ENOENT);
	assert_int_equal(guest_mem_read(&d->mem, 4 * PAGE, &(char){ 0 }, 1), -EFAULT);
}

static int open_or_skip(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);

	if (fd < 0)
		skip();
	return fd;
}

static void a_descriptor_that_is_no_memory_is_refused(void **state)
{
	struct dma *d = *state;
	int ends[2];

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(map(d, 0, PAGE, 0, ends[0]), -EINVAL);
	assert_int_equal(map(d, 0, PAGE, 0, ends[1]), -EINVAL);
	assert_int_equal(map(d, 0, PAGE, 0, eventfd(0, EFD_CLOEXEC)), -EINVAL);
	assert_int_equal(map(d, 0, PAGE, 0, open_or_skip("/", O_RDONLY | O_DIRECTORY)), -EINVAL);
	assert_int_equal(map(d, 0, PAGE, 0, open_or_skip("/dev/zero", O_RDWR)), -EINVAL);
	assert_int_equal(map(d, 0, PAGE, 0, open_or_skip("/proc/self/maps", O_RDONLY)), -EINVAL);
	assert_int_equal(map(d, 0, PAGE, 0, open_or_skip("/proc/self/exe", O_PATH)), -EINVAL);
	assert_int_equal(fd_count(), fds_at_start + 1);
}

static void a_file_on_a_disk_is_memory_too(void **state)
{
	struct dma *d = *state;
	char name[] = "dma_test.XXXXXX";
	FD_AUTO fd = mkostemp(name, O_CLOEXEC);
	struct statx st;
	int rc;

	assert_true(fd >= 0);
	unlink(name);
	assert_int_equal(ftruncate(fd, PAGE), 0);
	assert_int_equal(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st), 0);
	rc = map(d, 0, PAGE, 0, dup(fd));
	/* A build directory on an overlay or in the network is no disk. */
	assert_int_equal(rc, st.stx_dev_major || fcntl(fd, F_GET_SEALS) >= 0 ? 0 : -EINVAL);
}

static void memory_that_may_not_be_written_is_not(void **state)
{
	struct dma *d = *state;
	FD_AUTO sealed = memory(PAGE);
	FD_AUTO fd = memory(PAGE);
	char path[64];

	assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE), 0);
	assert_int_equal(map(d, 0, PAGE, 0, dup(sealed)), -EACCES);
	assert_int_equal(dma_map(d, 0, PAGE, DMA_READ, 0, dup(sealed), NULL), 0);
	assert_int_equal(guest_mem_write(&d->mem, 0, "x", 1), -EACCES);
	assert_int_equal(guest_mem_read(&d->mem, 0, path, 1), 0);

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	assert_int_equal(map(d, PAGE, PAGE, 0, open_or_skip(path, O_RDONLY)), -EACCES);
	assert_int_equal(map(d, PAGE, PAGE, 0, open_or_skip(path, O_WRONLY)), -EINVAL);
	/* The same file twice, with and without the right to write. */
	assert_int_equal(map(d, PAGE, PAGE, 0, dup(fd)), 0);
	assert_int_equal(
		dma_map(d, 2 * PAGE, PAGE, DMA_READ, 0, open_or_skip(path, O_RDONLY), NULL), 0);
	assert_int_equal(guest_mem_write(&d->mem, PAGE, "x", 1), 0);
	assert_int_equal(dma_map(d, 3 * PAGE, PAGE, DMA_WRITE, 0, dup(fd), NULL), 0);
	assert_int_equal(guest_mem_read(&d->mem, 3 * PAGE, path, 1), -EACCES);
}

static void truncated_memory_fails_cleanly(void **state)
{
	struct dma *d = *state;
	FD_AUTO fd = memory(4 * PAGE);
	FD_AUTO other = memory(PAGE);
	char buf[PAGE];

	assert_int_equal(map(d, 0, 4 * PAGE, 0, dup(fd)), 0);
	assert_int_equal(map(d, 8 * PAGE, PAGE, 0, dup(other)), 0);
	assert_int_equal(ftruncate(fd, PAGE), 0);
	assert_int_equal(guest_mem_read(&d->mem, 0, buf, PAGE), 0);
	assert_false(faulted(d));
	assert_int_equal(guest_mem_read(&d->mem, 3 * PAGE, buf, PAGE), -EIO);
	assert_true(faulted(d));
	assert_int_equal(guest_mem_write(&d->mem, 2 * PAGE, buf, PAGE), -EIO);
	/* From now on that file is not to be relied upon; another one is. */
	assert_int_equal(guest_mem_read(&d->mem, 0, buf, PAGE), -EIO);
	assert_int_equal(guest_mem_read(&d->mem, 8 * PAGE, buf, PAGE), 0);
	dma_unmap_all(d);
	assert_false(faulted(d));
	assert_int_equal(map(d, 0, PAGE, 0, dup(fd)), 0);
	assert_int_equal(guest_mem_read(&d->mem, 0, buf, PAGE), 0);
}

static void a_hole_punched_into_memory_is_just_zeros(void **state)
{
	struct dma *d = *state;
	FD_AUTO fd = memory(4 * PAGE);
	char c = 1;

	assert_int_equal(map(d, 0, 4 * PAGE, 0, dup(fd)), 0);
	assert_int_equal(guest_mem_write(&d->mem, PAGE, "x", 1), 0);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, PAGE), 0);
	assert_int_equal(guest_mem_read(&d->mem, PAGE, &c, 1), 0);
	assert_int_equal(c, 0);
	assert_false(faulted(d));
}

static void memory_that_has_grown_is_mapped_to_its_new_end(void **state)
{
	struct dma *d = *state;
	FD_AUTO fd = memory(PAGE);
	char c;

	assert_int_equal(map(d, 0, PAGE, 0, dup(fd)), 0);
	assert_int_equal(map(d, PAGE, PAGE, PAGE, dup(fd)), -EINVAL);
	assert_int_equal(ftruncate(fd, 2 * PAGE), 0);
	assert_int_equal(map(d, PAGE, PAGE, PAGE, dup(fd)), 0);
	assert_int_equal(guest_mem_read(&d->mem, 2 * PAGE - 1, &c, 1), 0);
	assert_int_equal(dma_unmap(d, 0, PAGE), 0);
	assert_int_equal(guest_mem_read(&d->mem, 2 * PAGE - 1, &c, 1), 0);
}

static void the_table_has_an_end_and_one_mapping_of_a_file(void **state)
{
	struct dma *d = *state;
	FD_AUTO fd = memory(2000 * PAGE);
	uint64_t i;

	/* Backwards and with holes: every insertion is at the front. */
	for (i = 0; i < 1000; i++)
		assert_int_equal(map(d, (2000 - 2 * i) * PAGE, PAGE, i * PAGE, dup(fd)), 0);
	assert_int_equal(d->nr_files, 1);
	assert_int_equal(map(d, 5000 * PAGE, PAGE, 0, dup(fd)), -ENOSPC);
	for (i = 0; i < 1000; i++) {
		uint64_t v = i;

		assert_int_equal(guest_mem_write(&d->mem, (2000 - 2 * i) * PAGE, &v, 8), 0);
		assert_int_equal(pread(fd, &v, 8, (off_t)(i * PAGE)), 8);
		assert_int_equal(v, i);
	}
	for (i = 0; i < 1000; i++)
		assert_int_equal(dma_unmap(d, (2 + 2 * i) * PAGE, PAGE), 0);
	assert_int_equal(d->nr_files, 0);
	assert_int_equal(d->nr, 0);
}

static void there_is_an_end_to_different_files(void **state)
{
	struct dma d;
	int rc = 0, i;

	assert_int_equal(dma_init(&d, 10000, NULL, NULL), 0);
	for (i = 0; !rc && i < 5000; i++)
		rc = map(&d, (uint64_t)i * PAGE, PAGE, 0, memory(PAGE));
	assert_int_equal(rc, -ENOSPC);
	assert_int_equal(i, 4097);
	assert_int_equal(dma_unmap(&d, 0, PAGE), 0);
	assert_int_equal(map(&d, 0, PAGE, 0, memory(PAGE)), 0);
	dma_fini(&d);
}

/* Memory without a descriptor */

static struct {
	int calls;
	bool write;
	uint64_t iova;
	size_t len;
	int rc;
} asked;

static int ask(void *arg, bool write, uint64_t iova, void *buf, size_t len)
{
	assert_ptr_equal(arg, &asked);
	asked.calls++;
	asked.write = write;
	asked.iova = iova;
	asked.len = len;
	if (!write)
		memset(buf, 0x5a, len);
	return asked.rc;
}

static void memory_without_a_descriptor_is_asked_for(void **state)
{
	struct dma d;
	uint8_t buf[2 * PAGE];

	assert_int_equal(dma_init(&d, 10, ask, &asked), 0);
	assert_int_equal(map(&d, PAGE, PAGE, 0, -1), 0);
	assert_int_equal(map(&d, PAGE, PAGE, 0, -1), 0);
	assert_int_equal(map(&d, 2 * PAGE, PAGE, 0, memory(PAGE)), 0);
	assert_int_equal(guest_mem_read(&d.mem, 2 * PAGE - 100, buf, 200), 0);
	assert_int_equal(asked.calls, 1);
	assert_false(asked.write);
	assert_int_equal(asked.iova, 2 * PAGE - 100);
	assert_int_equal(asked.len, 100);
	assert_int_equal(buf[99], 0x5a);
	assert_int_equal(buf[100], 0);
	asked.rc = -EIO;
	assert_int_equal(guest_mem_write(&d.mem, PAGE, buf, 8), -EIO);
	assert_true(asked.write);
	dma_fini(&d);
}

static void nobody_to_ask_is_an_error(void **state)
{
	struct dma *d = *state;

	assert_int_equal(map(d, 0, PAGE, 0, -1), 0);
	assert_int_equal(guest_mem_read(&d->mem, 0, &(char){ 0 }, 1), -EIO);
}

/* Threads */

static atomic_bool finish;
static atomic_uint accesses;

static void *reader(void *arg)
{
	struct dma *d = arg;
	char buf[PAGE];

	while (!atomic_load(&finish)) {
		int rc = guest_mem_read(&d->mem, 0, buf, sizeof(buf));

		if (rc && rc != -EFAULT)
			return (void *)"neither read nor refused";
		if (!rc && buf[0] != 'x')
			return (void *)"read something else";
		atomic_fetch_add(&accesses, 1);
	}
	return NULL;
}

static void memory_may_go_while_another_thread_uses_it(void **state)
{
	struct dma *d = *state;
	FD_AUTO fd = memory(PAGE);
	pthread_t thread;
	void *complaint;

	assert_int_equal(pwrite(fd, "x", 1, 0), 1);
	atomic_store(&finish, false);
	atomic_store(&accesses, 0);
	assert_int_equal(pthread_create(&thread, NULL, reader, d), 0);
	while (atomic_load(&accesses) < 2000) {
		assert_int_equal(map(d, 0, PAGE, 0, dup(fd)), 0);
		assert_int_equal(dma_unmap(d, 0, PAGE), 0);
	}
	atomic_store(&finish, true);
	pthread_join(thread, &complaint);
	assert_null(complaint);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(memory_is_read_and_written_where_it_is_mapped),
		TEST(an_access_crosses_mappings_that_touch_and_no_others),
		TEST(the_last_page_of_the_address_space_can_be_mapped),
		TEST(bad_ranges_are_refused_and_their_descriptor_closed),
		TEST(overlaps_are_refused_and_repeats_are_not),
		TEST(only_whole_mappings_are_unmapped),
		TEST(a_descriptor_that_is_no_memory_is_refused),
		TEST(a_file_on_a_disk_is_memory_too),
		TEST(memory_that_may_not_be_written_is_not),
		TEST(truncated_memory_fails_cleanly),
		TEST(a_hole_punched_into_memory_is_just_zeros),
		TEST(memory_that_has_grown_is_mapped_to_its_new_end),
		TEST(the_table_has_an_end_and_one_mapping_of_a_file),
		TEST(there_is_an_end_to_different_files),
		TEST(memory_without_a_descriptor_is_asked_for),
		TEST(nobody_to_ask_is_an_error),
		TEST(memory_may_go_while_another_thread_uses_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
