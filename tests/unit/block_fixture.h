/*
 * block_fixture.h - a disk under test with each store that it can have, and an image for it
 *
 * The image is a file in the working directory, and another one in memory; each test has them anew,
 * and leaves no descriptor open.
 */
#ifndef TESTS_BLOCK_FIXTURE_H
#define TESTS_BLOCK_FIXTURE_H

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

#define OK     0
#define IOERR  1
#define UNSUPP 2

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

static inline const char *path_of(enum kind kind)
{
	return kind == FILE_IN_MEMORY ? f.memory_path : f.path;
}

static inline struct block_store *make_store(enum kind kind)
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

static inline void open_disk(enum kind kind)
{
	disk_open(&f.d, make_store(kind), &f.config, UINT64_MAX, &f.ring);
}

static inline void close_disk(void)
{
	disk_stop(&f.d);
	disk_close(&f.d);
}

static inline int setup(void **state)
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

static inline int teardown(void **state)
{
	loop_free(f.d.loop);
	unlink(f.path);
	close(f.memory);
	return fd_count() == f.fds_at_start ? 0 : -1;
}

static inline void fill(uint8_t *bytes, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)(seed + i * 7 + i / 512);
}

#endif
