/*
 * mem_file.h - a file that a client passed as memory, mapped whole
 *
 * However many pieces of a file a client uses, they share one mapping, so a piece costs no system
 * calls and no descriptor stays open. The file may be truncated by its owner at any time: then
 * the mapping reads as zeros and the descriptor that was given for it becomes readable
 * (base/sigbus.h).
 *
 * What may be memory, fd_memory_identify() says. A device's descriptor is none; who knows that a
 * piece of it is memory has that piece mapped alone.
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
#include "base/fd_kind.h"
#include "base/sigbus.h"

struct mem_file {
	struct fd_memory id;
	uint64_t start; /* where in the file the mapping begins: 0, but for a piece of a device */
	uint64_t size;	/* bytes mapped: the file's size when it came */
	uint8_t *hva;
	size_t mapped; /* size in whole pages */
	atomic_uint refs;
	struct sigbus_area guard;
	struct mem_file *next; /* of the list that its owner may keep */
};

/*
 * Map it, as identified. Borrows both descriptors; fault_fd (a non-blocking eventfd, or -1) stays
 * open as long as the file. Gives *out with one reference. 0 or -errno with a text.
 */
int mem_file_new(struct mem_file **out, int fd, const struct fd_memory *id, uint64_t size,
	int fault_fd, struct err *err);

/*
 * Map [offset, offset + size) of a device's descriptor and what is needed around it to have whole
 * pages. Nothing is asked about it: its giver knows that the range is memory, not empty, and does
 * not wrap. Otherwise as above.
 */
int mem_file_new_piece(struct mem_file **out, int fd, uint64_t offset, uint64_t size, int fault_fd,
	struct err *err);

/* Where the byte at this offset of the file lies. It is among those that are mapped. */
static inline uint8_t *mem_file_at(const struct mem_file *f, uint64_t offset)
{
	return f->hva + (offset - f->start);
}

static inline struct mem_file *mem_file_get(struct mem_file *f)
{
	atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
	return f;
}

/* The last one unmaps it. NULL is fine. */
void mem_file_put(struct mem_file *f);

#endif
