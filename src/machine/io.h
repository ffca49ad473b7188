/*
 * io.h - who answers a port or memory access that leaves the guest
 *
 * A space is a table of disjoint regions sorted by address. vCPU threads look
 * up without a lock: a change builds a new table and publishes it whole. The
 * old table, and what a removed region belonged to, may be in use by a vCPU for
 * as long as its access takes, so both are retired: freed when every reader that
 * could have seen them has left (io_reader epochs).
 *
 * Threads: io_read() and io_write() on any thread that owns an io_reader.
 * Changes under the machine's topology lock.
 */
#ifndef MACHINE_IO_H
#define MACHINE_IO_H

#include <stdbool.h>
#include <stdint.h>

/* off is relative to the region; size is 1, 2, 4 or 8 and lies inside it. */
struct io_ops {
	uint64_t (*read)(void *self, uint64_t off, unsigned size);
	void (*write)(void *self, uint64_t off, unsigned size, uint64_t value);
};

struct io_region {
	uint64_t base;
	uint64_t size;
	const struct io_ops *ops;
	void *self; /* borrowed until the region is removed and its grace period is over */
	const char *name;
};

/* One a vCPU thread: tells writers what this thread may be looking at. */
struct io_reader {
	uint64_t epoch; /* 0: outside of any access */
};

struct io_bus;

/* A bus has a port space and a memory space, and up to nr_readers readers. 0 or -errno. */
int io_bus_new(unsigned nr_readers, struct io_bus **out);
void io_bus_free(struct io_bus *bus);
struct io_reader *io_bus_reader(struct io_bus *bus, unsigned index);

enum io_space { IO_PORT, IO_MMIO };

/*
 * The region is copied. 0; -EEXIST when it overlaps another; -EINVAL when it wraps or is empty;
 * -ENOMEM;
 * -EBUSY when thousands of changes were made while one access went on.
 */
int io_add(struct io_bus *bus, enum io_space space, const struct io_region *region);
/* Remove the region that starts at base; it needs no memory. 0 or -ENOENT. */
int io_remove(struct io_bus *bus, enum io_space space, uint64_t base);

/*
 * Call fn(arg) once no reader can still be inside a region removed before now:
 * at once when none is inside any access, else from a later io_add, io_remove, io_reap.
 * -ENOMEM calls nothing.
 */
int io_retire(struct io_bus *bus, void (*fn)(void *arg), void *arg);
/* Run what has become due. */
void io_reap(struct io_bus *bus);

/*
 * One access of 1, 2, 4 or 8 bytes at addr. Nobody there, or only for a part of it: reads give
 * all-ones and writes vanish; false is returned then.
 */
bool io_read(struct io_bus *bus, struct io_reader *reader, enum io_space space, uint64_t addr,
	unsigned size, uint64_t *value);
bool io_write(struct io_bus *bus, struct io_reader *reader, enum io_space space, uint64_t addr,
	unsigned size, uint64_t value);

/*
 * Between these two, what the reader's thread finds (functions, regions) stays allocated, as it
 * does during an access. They do not nest, also not with accesses.
 */
void io_enter(struct io_bus *bus, struct io_reader *reader);
void io_leave(struct io_reader *reader);

/* All-ones of an access size. */
static inline uint64_t io_ones(unsigned size)
{
	return size >= 8 ? UINT64_MAX : (1ull << (size * 8)) - 1;
}

#endif
