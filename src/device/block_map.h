/*
 * block_map.h - an image in memory, copied from and to without the kernel
 *
 * The kernel finds each page of a file on tmpfs anew, which takes as long as copying it. Through a
 * mapping a large transfer is nothing but the copy. Only pages that are there are used: touching
 * one that is not would make it, and take memory for a hole. Everything else is the kernel's, as
 * before.
 *
 * Threads: block_map_copy() on any, several at once; the rest while nobody copies.
 */
#ifndef DEVICE_BLOCK_MAP_H
#define DEVICE_BLOCK_MAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/sigbus.h"

/* Below that, to ask which pages are there costs more than it saves. */
#define BLOCK_MAP_MIN (64u << 10)

/* Zeroed: of nothing. Stays where it is while it is open. */
struct block_map {
	uint8_t *bytes;
	uint64_t size;
	bool writable;
	_Atomic uint64_t kernel_ns; /* when the kernel last wrote for us */
	struct sigbus_area guard;
};

/* Borrows fd for the call. What cannot be mapped, or asked about, is a map of nothing. */
void block_map_open(struct block_map *m, int fd, bool writable);
/* A zeroed one is fine. */
void block_map_close(struct block_map *m);

/*
 * Copy between the pieces and the file at off, to the file if `write`. The bytes done, perhaps
 * fewer than there are; 0: the kernel has to do it.
 */
uint64_t block_map_copy(
	struct block_map *m, const struct iovec *iov, unsigned nr, uint64_t off, bool write);

#endif
