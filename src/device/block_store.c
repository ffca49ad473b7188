/*
 * block_store.c - the stores that need no file, and the list of pieces that all of them walk
 *
 * Threads: as block_store.h. Several threads may be inside the ram store; if their guest overlaps
 *          requests, it gets the bytes that it asked for.
 */
#include "device/block_store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"

/* Pieces */

void block_io_advance(struct block_io *io, uint64_t n)
{
	io->moved += n;
	while (n) {
		uint64_t left = io->iov[io->at].iov_len - io->at_off;

		if (n < left) {
			io->at_off += n;
			return;
		}
		n -= left;
		io->at++;
		io->at_off = 0;
	}
}

/* In the middle of a piece, the rest of that piece alone: the list itself is never changed. */
unsigned block_io_rest(struct block_io *io, const struct iovec **iov)
{
	const struct iovec *piece = &io->iov[io->at];

	if (!io->at_off) {
		*iov = piece;
		return io->nr_iov - io->at;
	}
	io->rest.iov_base = (uint8_t *)piece->iov_base + io->at_off;
	io->rest.iov_len = piece->iov_len - io->at_off;
	*iov = &io->rest;
	return 1;
}

/* Where no image and no server sets limits. */
static struct block_store without_image(const struct block_store_ops *ops, uint64_t size)
{
	return (struct block_store){
		.ops = ops,
		.size = size,
		.block_size = BLOCK_SECTOR,
		.physical_size = PAGE_SIZE_4K,
		.can_discard = true,
		.can_zero = true,
	};
}

/* ram */

struct ram {
	struct block_store store;
	uint8_t *bytes;
};

/* Whole pages are given back to the kernel, which is as good as zeroing them and takes no time. */
static int clear(uint8_t *bytes, uint64_t off, uint64_t len)
{
	uint64_t first = align_up(off, PAGE_SIZE_4K), end = align_down(off + len, PAGE_SIZE_4K);

	if (first >= end) {
		memset(bytes + off, 0, len);
		return 0;
	}
	memset(bytes + off, 0, first - off);
	memset(bytes + end, 0, off + len - end);
	return madvise(bytes + first, end - first, MADV_DONTNEED) ? -errno : 0;
}

static void ram_submit(struct block_store *s, struct block_io *io)
{
	uint8_t *at = container_of(s, struct ram, store)->bytes + io->off;
	int rc = 0;

	switch (io->op) {
	case BLOCK_READ:
		for (unsigned i = 0; i < io->nr_iov; at += io->iov[i++].iov_len)
			memcpy(io->iov[i].iov_base, at, io->iov[i].iov_len);
		break;
	case BLOCK_WRITE:
		for (unsigned i = 0; i < io->nr_iov; at += io->iov[i++].iov_len)
			memcpy(at, io->iov[i].iov_base, io->iov[i].iov_len);
		break;
	case BLOCK_FLUSH:
		break;
	case BLOCK_DISCARD:
	case BLOCK_ZERO:
		rc = clear(at - io->off, io->off, io->len);
		break;
	}
	io->done(io, rc);
}

static void ram_free(struct block_store *s)
{
	struct ram *r = container_of(s, struct ram, store);

	munmap(r->bytes, r->store.size);
	free(r);
}

static const struct block_store_ops ram_ops = { .submit = ram_submit, .free = ram_free };

int block_ram_new(struct block_store **out, uint64_t size, struct err *err)
{
	struct ram *r = calloc(1, sizeof(*r));

	if (!r)
		return err_set(err, -ENOMEM, "out of memory");
	r->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (r->bytes == MAP_FAILED) {
		int rc = -errno;

		free(r);
		return err_set(err, rc, "ram:%" PRIu64 ": %s", size, strerror(-rc));
	}
	r->store = without_image(&ram_ops, size);
	*out = &r->store;
	return 0;
}

/* null */

static void null_submit(struct block_store *s, struct block_io *io)
{
	io->done(io, 0);
}

static void null_free(struct block_store *s)
{
	free(s);
}

static const struct block_store_ops null_ops = { .submit = null_submit, .free = null_free };

int block_null_new(struct block_store **out, uint64_t size, struct err *err)
{
	struct block_store *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	*s = without_image(&null_ops, size);
	*out = s;
	return 0;
}
