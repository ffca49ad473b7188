/*
 * mem_file.h - a file that a client passed as memory, mapped whole
 *
 * However many pieces of a file a client uses, they share one mapping, so a piece costs no system
 * calls and no descriptor stays open. The file may be truncated by its owner at any time: then
 * the mapping reads as zeros and the descriptor that was given for it becomes readable
 * (base/sigbus.h).
 *
 * What may be memory: memfd, shared memory, hugetlbfs, or a regular file on a block device.
 * Anything else is refused, files of FUSE and of the network too: an access to such a mapping would
 * wait for as long as its owner likes.
 *
 * Threads: any; a file is not changed after it was made.
 */
#ifndef SERVE_MEM_FILE_H
#define SERVE_MEM_FILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/sigbus.h"

/* Which file it is, and what may be done to it. Two descriptors of one file have the same. */
struct mem_file_id {
	uint32_t dev_major, dev_minor;
	uint64_t ino;
	bool writable;
};

struct mem_file {
	struct mem_file_id id;
	uint64_t size; /* bytes mapped: the file's size when it came */
	uint8_t *hva;
	size_t mapped; /* size in whole pages */
	atomic_uint refs;
	struct sigbus_area guard;
	struct mem_file *next; /* of the list that its owner may keep */
};

static inline bool mem_file_same(const struct mem_file_id *a, const struct mem_file_id *b)
{
	return a->dev_major == b->dev_major && a->dev_minor == b->dev_minor && a->ino == b->ino &&
	       a->writable == b->writable;
}

/*
 * Is this descriptor memory, and which? Borrows fd. Asks no file system that may not answer. 0, and
 * *size the file's; -EINVAL: it is not; or what the kernel said. With a text.
 */
int mem_file_identify(int fd, struct mem_file_id *id, uint64_t *size, struct err *err);

/*
 * Map it, as identified. Borrows both descriptors; fault_fd (a non-blocking eventfd, or -1) stays
 * open as long as the file. Gives *out with one reference. 0 or -errno with a text.
 */
int mem_file_new(struct mem_file **out, int fd, const struct mem_file_id *id, uint64_t size,
	int fault_fd, struct err *err);

static inline struct mem_file *mem_file_get(struct mem_file *f)
{
	atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
	return f;
}

/* The last one unmaps it. NULL is fine. */
void mem_file_put(struct mem_file *f);

#endif
