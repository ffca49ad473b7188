/*
 * block_store.h - where a virtual disk keeps its bytes
 *
 * A store carries out whole operations: what the kernel does in part it continues, so an operation
 * is done entirely or has failed. The model has checked before that the range lies in the disk.
 *
 *	file  an image file or a block device
 *	nbd   an export of an NBD server
 *	ram   memory that is gone with the process: for tests and scratch disks
 *	null  keeps nothing and gives whatever lay in the buffer: for measuring everything else
 *
 * Threads: block_store_submit() on the iothread that the operation names, done likewise, perhaps
 * from within; the rest on the loop's thread.
 */
#ifndef DEVICE_BLOCK_STORE_H
#define DEVICE_BLOCK_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "device/iothread.h"

/* Units of virtio-blk's addresses, whatever the disk's block size is. */
#define BLOCK_SECTOR 512u

enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,   /* everything that was done before is on stable storage */
	BLOCK_DISCARD, /* the bytes are not needed any more */
	BLOCK_ZERO,
};

struct block_io {
	/* 0: all of it; or -errno. */
	void (*done)(struct block_io *io, int error);
	struct iothread *t;
	unsigned thread; /* t's number among the disk's */
	enum block_op op;
	bool durable; /* BLOCK_WRITE, _ZERO: on stable storage when done */
	bool unmap;   /* BLOCK_ZERO: the space may be given back */
	/*
	 * Set later: nobody waits for it, and it must not be begun
	 * (again). done is called all the same.
	 */
	bool dropped;
	/* BLOCK_READ, _WRITE: len bytes in pieces, of which none is empty. Borrowed, not changed.
	 */
	const struct iovec *iov;
	unsigned nr_iov;
	uint64_t off, len; /* bytes */

	/* The store's own */
	struct block_store *store;
	struct iothread_op file;
	struct iovec rest;
	uint64_t moved;
	unsigned at;	 /* piece that byte `moved` lies in, */
	uint64_t at_off; /* and how many of its bytes are done */
	uint8_t step, tries;
	bool buffered, unheld;
};

struct block_store;

struct block_store_ops {
	void (*submit)(struct block_store *s, struct block_io *io);
	/* Bring s->size up to date. NULL: it never changes. */
	void (*refresh)(struct block_store *s);
	/* Of all of an I/O thread's operations none is open, and no more comes; on it. May be NULL.
	 */
	void (*leave)(struct block_store *s, unsigned thread);
	void (*free)(struct block_store *s);
};

struct block_store {
	const struct block_store_ops *ops;
	uint64_t size; /* bytes; the last sector may be a part of one, its rest reads as zeros */
	uint32_t block_size;	/* smallest unit that costs nothing extra; 512 or more */
	uint32_t physical_size; /* unit of the medium; block_size or more */
	uint32_t opt_size;	/* best size of a request, in bytes; 0: unknown */
	bool read_only, can_discard, can_zero;
};

static inline void block_store_submit(struct block_store *s, struct block_io *io)
{
	s->ops->submit(s, io);
}

/* NULL is fine. */
static inline void block_store_free(struct block_store *s)
{
	if (s)
		s->ops->free(s);
}

struct block_file_config {
	const char *path; /* NULL: fd */
	int fd;		  /* taken, also on failure; path NULL */
	const char *name; /* with fd, of the image, for messages; NULL: its number */
	bool read_only;
	bool direct; /* past the page cache */
	bool sparse; /* what is discarded is given back */
	/* how long writes of a process before this one are waited for; 0: 15000 */
	uint32_t turn_ms;
};

/*
 * Opens and locks the image: for as long as the store lives, nobody else who locks images, in this
 * process or another, opens it for writing, nor opens it at all if this one is for writing. Gives
 * *out. 0 or -errno with a text; -EBUSY: it is locked.
 */
int block_file_new(
	struct block_store **out, const struct block_file_config *config, struct err *err);
/* size: bytes, a multiple of BLOCK_SECTOR. */
int block_ram_new(struct block_store **out, uint64_t size, struct err *err);
int block_null_new(struct block_store **out, uint64_t size, struct err *err);
/* uri: nbd://host:port/export, nbd+unix:///export?socket=PATH, ... -ENOTSUP: built without libnbd.
 */
int block_nbd_new(struct block_store **out, const char *uri, unsigned nr_threads, bool read_only,
	struct err *err);

/* Go on in the list of pieces after n more bytes. */
void block_io_advance(struct block_io *io, uint64_t n);
/* What is left of the pieces, in one call's worth: 1 or more of them in *iov. */
unsigned block_io_rest(struct block_io *io, const struct iovec **iov);

#endif
