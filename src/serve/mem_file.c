/*
 * mem_file.c - map a file that was looked at (base/fd_kind.h)
 *
 * Owns:    the mapping. The descriptor is the caller's and may be closed.
 */
#include "serve/mem_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"

/* [start, start + size) of fd. */
static int map(struct mem_file **out, int fd, const struct fd_memory *id, uint64_t start,
	uint64_t size, int fault_fd, struct err *err)
{
	int prot = PROT_READ | (id->writable ? PROT_WRITE : 0), rc;
	struct mem_file *f = calloc(1, sizeof(*f));

	if (!f)
		return err_set(err, -ENOMEM, "out of memory");
	f->id = *id;
	f->start = start;
	f->size = size;
	f->mapped = align_up(size, PAGE_SIZE_4K);
	atomic_init(&f->refs, 1);
	f->hva = mmap(NULL, f->mapped, prot, MAP_SHARED | MAP_NORESERVE, fd, (off_t)start);
	if (f->hva == MAP_FAILED) {
		rc = err_set(err, -errno, "mmap of %" PRIu64 " bytes: %s", size, strerror(errno));
		goto free_file;
	}
	/* A core dump is for our own bugs, and guest memory is not ours to spill. */
	madvise(f->hva, f->mapped, MADV_DONTDUMP);
	rc = sigbus_guard(&f->guard, f->hva, f->mapped, fault_fd);
	if (rc) {
		err_set(err, rc, "SIGBUS handler: %s", strerror(-rc));
		goto unmap;
	}
	*out = f;
	return 0;
unmap:
	munmap(f->hva, f->mapped);
free_file:
	free(f);
	return rc;
}

int mem_file_new(struct mem_file **out, int fd, const struct fd_memory *id, uint64_t size,
	int fault_fd, struct err *err)
{
	return map(out, fd, id, 0, size, fault_fd, err);
}

int mem_file_new_piece(struct mem_file **out, int fd, uint64_t offset, uint64_t size, int fault_fd,
	struct err *err)
{
	const struct fd_memory id = { .writable = true };
	uint64_t start = align_down(offset, PAGE_SIZE_4K);

	return map(out, fd, &id, start, offset + size - start, fault_fd, err);
}

void mem_file_put(struct mem_file *f)
{
	if (!f || atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
		return;
	sigbus_unguard(&f->guard);
	munmap(f->hva, f->mapped);
	free(f);
}
