/*
 * dma.h - guest memory as a server sees it
 *
 * A sorted table of mappings from IOVA ranges to parts of files that the client passed,
 * or to nothing but the client itself, who is then asked by message. Each access
 * translates its address anew, so a mapping may go at any time between two accesses.
 *
 * A file is mapped once, whole, and shared by all mappings into it (mem_file.h, which says what a
 * client may pass): one that moves thousands of small pieces of its RAM about costs a table entry
 * each. When its owner truncates the file, accesses fail with -EIO and dma_fault_fd() becomes
 * readable.
 *
 * Threads: changes on the loop thread; accesses by guest_mem on any, but for
 * memory that is reached by message: loop thread.
 */
#ifndef SERVE_DMA_H
#define SERVE_DMA_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "device/guest_mem.h"

#define DMA_READ  (1u << 0) /* the device may read */
#define DMA_WRITE (1u << 1)

/* Read or write memory that has no descriptor by asking its owner. 0 or -errno. */
typedef int (*dma_ask_fn)(void *arg, bool write, uint64_t iova, void *buf, size_t len);

struct mem_file;
struct dma_region;

struct dma {
	struct guest_mem mem;	    /* what the model gets */
	pthread_rwlock_t lock;	    /* readers: accesses; writer: a change of the table */
	struct dma_region *regions; /* sorted by iova, no overlap */
	uint32_t nr, room, max;
	struct mem_file *files;
	uint32_t nr_files;
	int fault_fd;
	dma_ask_fn ask;
	void *ask_arg;
};

/*
 * At most max mappings. ask may be NULL: memory without a descriptor can then not be reached. 0 or
 * -errno.
 */
int dma_init(struct dma *d, uint32_t max, dma_ask_fn ask, void *arg);
/* Accepts a zeroed one. */
void dma_fini(struct dma *d);

/*
 * Let [iova, iova + size) be the bytes of fd from offset on, or, when fd is -1, memory that is
 * reached by message. flags: DMA_READ, DMA_WRITE. Everything in multiples of 4096.
 *
 * Takes fd, also on failure. 0, also when the same mapping is there already; -EINVAL: a bad
 * range, not memory, past the file's end, or over another mapping; -EACCES: the file may not be
 * written; -ENOSPC: too many mappings or files; or what the kernel said. With a text.
 * Loop thread. vfio-user, VFIO_USER_DMA_MAP.
 */
int dma_map(struct dma *d, uint64_t iova, uint64_t size, uint32_t flags, uint64_t offset, int fd,
	struct err *err);

/*
 * Undo exactly one dma_map(). No access is under way in it when this returns. 0 or -ENOENT. Loop
 * thread.
 */
int dma_unmap(struct dma *d, uint64_t iova, uint64_t size);
void dma_unmap_all(struct dma *d);

/* Readable once a mapping has lost its memory; stays so until dma_unmap_all(). Borrowed. */
int dma_fault_fd(const struct dma *d);

#endif
