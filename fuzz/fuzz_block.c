/*
 * fuzz_block.c - the virtio disk under a hostile driver (fuzz_virtio.h)
 *
 * The first byte says what its store is: memory, a file by io_uring or by helpers, a file that may
 * not be written; and whether it is limited. What must hold besides: a read-only image keeps its
 * bytes, and no image gets larger than to the end of its last sector.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/block.h"
#include "fuzz_virtio.h"

#define DISK_SIZE 65636u /* its last sector is not whole */

enum store { RAM, FILE_URING, FILE_POOL, FILE_READ_ONLY };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_virtio_init();
	return 0;
}

static int make_image(void)
{
	static uint8_t bytes[DISK_SIZE];
	int fd = memfd_create("image", MFD_CLOEXEC);

	memset(bytes, 7, sizeof(bytes));
	require(fd >= 0 && write(fd, bytes, sizeof(bytes)) == sizeof(bytes));
	return fd;
}

static void check_image(int fd, bool read_only)
{
	static uint8_t bytes[DISK_SIZE];
	struct stat st;

	require(!fstat(fd, &st));
	require(st.st_size >= DISK_SIZE);
	require((uint64_t)st.st_size <= align_up(DISK_SIZE, BLOCK_SECTOR));
	if (!read_only)
		return;
	require(st.st_size == DISK_SIZE);
	require(pread(fd, bytes, sizeof(bytes), 0) == sizeof(bytes));
	for (size_t i = 0; i < sizeof(bytes); i++)
		require(bytes[i] == 7);
}

static struct block_store *make_store(enum store kind, int image)
{
	const struct block_file_config config = {
		.fd = fcntl(image, F_DUPFD_CLOEXEC, 3),
		.read_only = kind == FILE_READ_ONLY,
		.sparse = true,
	};
	struct block_store *store;
	struct err err = { 0 };

	if (kind != RAM) {
		require(block_file_new(&store, &config, &err) == 0);
		return store;
	}
	close(config.fd);
	require(block_ram_new(&store, align_up(DISK_SIZE, BLOCK_SECTOR), &err) == 0);
	return store;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct fuzz_virtio f = { .hosts = { -1, -1 }, .threads = true };
	uint8_t how = take8(&in);
	enum store kind = how & 3;
	struct block_config config = {
		.name = "disk",
		.nr_queues = how & 4 ? 2 : 1,
		.queue_size = FUZZ_RING,
		.nr_threads = how & 8 ? (how & 4 ? 2 : 1) : 1,
		.no_uring = kind == FILE_POOL,
		.write_through = how & 16,
	};
	int image = make_image();
	struct err err = { 0 };

	if (how & 32)
		config.limit.bytes = (struct rate_bucket_config){ 4096, 100, 1 };
	if (how & 64)
		config.limit.ops = (struct rate_bucket_config){ 2, 1, 1 };
	rig_init(&f.r);
	require(block_new(&f.r.model, f.r.loop, make_store(kind, image), &config, &err) == 0);
	fuzz_virtio_run(&f, how & 128 ? 0 : UINT64_MAX, &in);
	check_image(image, kind == FILE_READ_ONLY);
	close(image);
	return 0;
}
