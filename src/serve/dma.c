/*
 * dma.c - the table of guest memory and the files behind it
 *
 * Owns:    the files' mappings (mem_file.h). Descriptors are closed as soon as they are mapped.
 */
#include "serve/dma.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/util.h"
#include "serve/mem_file.h"

#define MAX_FILES 4096u

struct dma_region {
	uint64_t iova, size, offset;
	uint32_t flags;
	struct mem_file *file; /* NULL: reached by message */
};

/* The index of the first region that ends after iova; nr when there is none. */
static uint32_t first_after(const struct dma *d, uint64_t iova)
{
	uint32_t lo = 0, hi = d->nr;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct dma_region *r = &d->regions[mid];

		/* r->iova + (r->size - 1) does not wrap, r->iova + r->size may be 2^64. */
		if (r->iova + (r->size - 1) < iova)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Files */

static struct mem_file *find_file(const struct dma *d, const struct fd_memory *id, uint64_t end)
{
	for (struct mem_file *f = d->files; f; f = f->next)
		if (f->size >= end && fd_memory_same(&f->id, id))
			return f;
	return NULL;
}

static int new_file(struct dma *d, int fd, const struct fd_memory *id, uint64_t size,
	struct mem_file **out, struct err *err)
{
	int rc;

	if (d->nr_files == MAX_FILES)
		return err_set(err, -ENOSPC, "already %u different files are mapped", MAX_FILES);
	rc = mem_file_new(out, fd, id, size, d->fault_fd, err);
	if (rc)
		return rc;
	(*out)->next = d->files;
	d->files = *out;
	d->nr_files++;
	return 0;
}

/* All references are the table's own. */
static void put_file(struct dma *d, struct mem_file *f)
{
	struct mem_file **at = &d->files;

	if (f && atomic_load(&f->refs) == 1) {
		while (*at != f)
			at = &(*at)->next;
		*at = f->next;
		d->nr_files--;
	}
	mem_file_put(f);
}

/* The file behind a mapping of [offset, offset + size) of fd, with one more reference. */
static int get_file(struct dma *d, int fd, uint32_t flags, uint64_t offset, uint64_t size,
	struct mem_file **out, struct err *err)
{
	struct fd_memory id;
	uint64_t file_size;
	int rc = fd_memory_identify(fd, &id, &file_size, err);

	if (rc)
		return rc;
	if (!range_ok(offset, size, file_size))
		return err_set(err, -EINVAL,
			"offset 0x%" PRIx64 " + size 0x%" PRIx64
			" is past the file's end 0x%" PRIx64,
			offset, size, file_size);
	if (flags & DMA_WRITE && !id.writable)
		return err_set(err, -EACCES, "writable memory asked for, the file is read-only");
	*out = find_file(d, &id, offset + size);
	if (!*out)
		return new_file(d, fd, &id, file_size, out, err);
	mem_file_get(*out);
	return 0;
}

/* The table */

static int grow(struct dma *d)
{
	uint32_t room = d->room ? d->room * 2 : 64;
	struct dma_region *regions;

	if (d->nr < d->room)
		return 0;
	regions = realloc(d->regions, room * sizeof(*regions));
	if (!regions)
		return -ENOMEM;
	d->regions = regions;
	d->room = room;
	return 0;
}

static int check_range(
	uint64_t iova, uint64_t size, uint32_t flags, uint64_t offset, struct err *err)
{
	if (!size || size - 1 > UINT64_MAX - iova)
		return err_set(err, -EINVAL, "the range is empty or wraps");
	if ((iova | size | offset) & (PAGE_SIZE_4K - 1))
		return err_set(err, -EINVAL, "address, size and offset must be multiples of 4096");
	if (!(flags & (DMA_READ | DMA_WRITE)))
		return err_set(err, -EINVAL, "neither readable nor writable");
	return 0;
}

/* A client that is not sure repeats itself; that is no overlap. */
static bool is_repeat(const struct dma_region *r, const struct dma_region *want, int fd)
{
	struct fd_memory id;
	uint64_t size;

	if (r->iova != want->iova || r->size != want->size || r->offset != want->offset ||
		r->flags != want->flags || !r->file != (fd < 0))
		return false;
	return fd < 0 ||
	       (!fd_memory_identify(fd, &id, &size, NULL) && fd_memory_same(&id, &r->file->id));
}

int dma_map(struct dma *d, uint64_t iova, uint64_t size, uint32_t flags, uint64_t offset, int fd_in,
	struct err *err)
{
	FD_AUTO fd = fd_in;
	struct dma_region r = { .iova = iova, .size = size, .offset = offset, .flags = flags };
	uint32_t at;
	int rc = check_range(iova, size, flags, offset, err);

	if (rc)
		return rc;
	at = first_after(d, iova);
	if (at < d->nr && (d->regions[at].iova <= iova || d->regions[at].iova - iova < size)) {
		if (is_repeat(&d->regions[at], &r, fd))
			return 0;
		return err_set(
			err, -EINVAL, "overlaps the mapping at 0x%" PRIx64, d->regions[at].iova);
	}
	if (d->nr == d->max)
		return err_set(err, -ENOSPC, "already %u mappings", d->max);
	if (fd >= 0)
		rc = get_file(d, fd, flags, offset, size, &r.file, err);
	if (rc)
		return rc;
	pthread_rwlock_wrlock(&d->lock);
	rc = grow(d);
	if (!rc) {
		memmove(d->regions + at + 1, d->regions + at, (d->nr - at) * sizeof(r));
		d->regions[at] = r;
		d->nr++;
	} else {
		put_file(d, r.file);
		err_set(err, rc, "out of memory");
	}
	pthread_rwlock_unlock(&d->lock);
	return rc;
}

int dma_unmap(struct dma *d, uint64_t iova, uint64_t size)
{
	uint32_t at = first_after(d, iova);
	struct dma_region *r = d->regions + at;

	if (at == d->nr || r->iova != iova || r->size != size)
		return -ENOENT;
	/* With the lock, accesses that found the region are over. */
	pthread_rwlock_wrlock(&d->lock);
	put_file(d, r->file);
	memmove(r, r + 1, (d->nr - at - 1) * sizeof(*r));
	d->nr--;
	pthread_rwlock_unlock(&d->lock);
	return 0;
}

void dma_unmap_all(struct dma *d)
{
	pthread_rwlock_wrlock(&d->lock);
	for (uint32_t i = 0; i < d->nr; i++)
		put_file(d, d->regions[i].file);
	free(d->regions);
	d->regions = NULL;
	d->nr = d->room = 0;
	pthread_rwlock_unlock(&d->lock);
	fd_clear(d->fault_fd);
}

int dma_fault_fd(const struct dma *d)
{
	return d->fault_fd;
}

/* Access */

static int copy(const struct dma_region *r, bool write, uint64_t iova, void *buf, size_t len)
{
	uint8_t *hva = r->file->hva + r->offset + (iova - r->iova);

	if (write)
		memcpy(hva, buf, len);
	else
		memcpy(buf, hva, len);
	return sigbus_hit(&r->file->guard) ? -EIO : 0;
}

/* Up to len bytes from iova on, as far as one region goes. Returns how many, or -errno. */
static ssize_t access_some(struct dma *d, bool write, uint64_t iova, void *buf, size_t len)
{
	bool by_message = false;
	uint32_t at;
	int rc = 0;

	pthread_rwlock_rdlock(&d->lock);
	at = first_after(d, iova);
	if (at == d->nr || d->regions[at].iova > iova) {
		rc = -EFAULT;
	} else if (!(d->regions[at].flags & (write ? DMA_WRITE : DMA_READ))) {
		rc = -EACCES;
	} else {
		const struct dma_region *r = &d->regions[at];

		len = (size_t)MIN((uint64_t)len, r->size - (iova - r->iova));
		by_message = !r->file;
		if (!by_message)
			rc = copy(r, write, iova, buf, len);
	}
	pthread_rwlock_unlock(&d->lock);
	if (by_message)
		rc = d->ask ? d->ask(d->ask_arg, write, iova, buf, len) : -EIO;
	return rc ? rc : (ssize_t)len;
}

static int access_all(struct dma *d, bool write, uint64_t iova, uint8_t *buf, size_t len)
{
	while (len) {
		ssize_t n = access_some(d, write, iova, buf, MIN(len, (size_t)INT64_MAX));

		if (n < 0)
			return (int)n;
		buf += n;
		len -= (size_t)n;
		iova += (uint64_t)n;
		if (len && !iova)
			return -EFAULT; /* past the end of the address space */
	}
	return 0;
}

static int mem_read(struct guest_mem *mem, uint64_t iova, void *buf, size_t len)
{
	return access_all(container_of(mem, struct dma, mem), false, iova, buf, len);
}

static int mem_write(struct guest_mem *mem, uint64_t iova, const void *buf, size_t len)
{
	/* A write only reads from buf, all the way down. */
	return access_all(
		container_of(mem, struct dma, mem), true, iova, (void *)(uintptr_t)buf, len);
}

static const struct guest_mem_ops mem_ops = { .read = mem_read, .write = mem_write };

int dma_init(struct dma *d, uint32_t max, dma_ask_fn ask, void *arg)
{
	pthread_rwlockattr_t attr;

	*d = (struct dma){ .mem.ops = &mem_ops, .max = max, .ask = ask, .ask_arg = arg };
	d->fault_fd = fd_eventfd();
	if (d->fault_fd < 0)
		return d->fault_fd;
	/* Threads that access memory all the time must not keep a change of the table out. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&d->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	return 0;
}

void dma_fini(struct dma *d)
{
	if (!d->mem.ops)
		return;
	dma_unmap_all(d);
	fd_close(&d->fault_fd);
	pthread_rwlock_destroy(&d->lock);
	d->mem.ops = NULL;
}
