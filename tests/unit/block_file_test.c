/* block_file_test.c - an image: its size, whose it is, and memory that it cannot be read to */
#include "block_fixture.h"

/* Sizes */

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
		assert_int_equal(disk_capacity(&f.d), 2);
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
	assert_int_equal(
		disk_do(&f.d, VIRTIO_BLK_T_OUT, 8, mark, sizeof(mark), NULL, 0, CUT_USUAL), OK);
	ops = *f.d.m->mem.ops;
	ops.ptr = ptr_unheld;
	f.d.m->mem.ops = &ops;
	for (unsigned sector = 0; sector <= 16; sector += 8) {
		assert_int_equal(disk_do(&f.d, VIRTIO_BLK_T_OUT, sector, mark, sizeof(mark), NULL,
					 0, CUT_USUAL),
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

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_tail_of_an_odd_image_reads_as_zeros_and_can_be_written),
		T(an_image_that_is_cut_under_the_guest_is_an_error),
		T(an_image_that_is_written_is_nobody_elses),
		T(memory_that_cannot_be_held_goes_through_the_page_cache),
		T(readers_share_an_image),
		T(a_descriptor_brings_its_lock_along),
		T(the_process_before_is_waited_for),
		T(what_is_no_image_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
