/*
 * io.c - region tables that are read without a lock
 *
 * A reader announces the epoch it entered in, looks the table up, calls the
 * region's ops and leaves. A writer publishes a new table, then raises the
 * epoch; what it took out of use is retired under the epoch before. It is freed
 * when no reader is inside with an epoch that old. Both sides use sequentially
 * consistent accesses: a reader that was not seen inside sees the new table.
 *
 * Removal must not fail, as what belongs to the region goes away in any case: it needs no memory,
 * but marks the entry as gone in the table that is in use. The next table is made without it.
 */
#include "machine/io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

struct entry {
	struct io_region region;
	bool gone; /* changes once, while readers look */
};

struct table {
	unsigned nr; /* those that are gone included */
	struct entry entries[];
};

struct retired {
	uint64_t epoch;
	void (*fn)(void *arg);
	void *arg;
	struct retired *next;
};

/* Readers are written by their own threads all the time: one cache line each. */
struct reader_line {
	struct io_reader reader;
} __attribute__((aligned(64)));

/*
 * Tables that wait for a reader who waits for a slow device. More are not made, so that a guest
 * that moves BARs meanwhile takes no more than some megabytes of ours.
 */
#define MAX_RETIRED 4096

struct io_bus {
	struct table *tables[2]; /* by enum io_space */
	uint64_t epoch;
	unsigned nr_readers;
	struct reader_line *readers;
	struct retired *retired, **retired_tail; /* oldest first */
	unsigned nr_retired;
};

int io_bus_new(unsigned nr_readers, struct io_bus **out)
{
	struct io_bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return -ENOMEM;
	bus->epoch = 1;
	bus->retired_tail = &bus->retired;
	bus->nr_readers = nr_readers;
	bus->readers = aligned_alloc(64, MAX(nr_readers, 1u) * sizeof(*bus->readers));
	bus->tables[IO_PORT] = calloc(1, sizeof(struct table));
	bus->tables[IO_MMIO] = calloc(1, sizeof(struct table));
	if (!bus->readers || !bus->tables[0] || !bus->tables[1]) {
		io_bus_free(bus);
		return -ENOMEM;
	}
	memset(bus->readers, 0, MAX(nr_readers, 1u) * sizeof(*bus->readers));
	*out = bus;
	return 0;
}

void io_bus_free(struct io_bus *bus)
{
	if (!bus)
		return;
	for (struct retired *r = bus->retired, *next; r; r = next) {
		next = r->next;
		r->fn(r->arg);
		free(r);
	}
	free(bus->tables[0]);
	free(bus->tables[1]);
	free(bus->readers);
	free(bus);
}

struct io_reader *io_bus_reader(struct io_bus *bus, unsigned index)
{
	return &bus->readers[index].reader;
}

/* The index of the first region that ends after addr. */
static unsigned lower_bound(const struct table *t, uint64_t addr)
{
	unsigned lo = 0, hi = t->nr;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (t->entries[mid].region.base + (t->entries[mid].region.size - 1) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void publish(struct io_bus *bus, enum io_space space, struct table *new_table)
{
	struct table *old = bus->tables[space];

	__atomic_store_n(&bus->tables[space], new_table, __ATOMIC_SEQ_CST);
	/*
	 * Without memory for the note, the old table stays allocated:
	 * a few hundred bytes, never wrong.
	 */
	io_retire(bus, free, old);
	io_reap(bus);
}

/* Does any region that is not gone have an address in [base, last]? */
static bool overlaps(const struct table *t, uint64_t base, uint64_t last)
{
	for (unsigned i = lower_bound(t, base); i < t->nr; i++) {
		if (t->entries[i].region.base > last)
			break;
		if (!t->entries[i].gone)
			return true;
	}
	return false;
}

/* Append those that are not gone and begin in [from, to]. */
static void copy_entries(struct table *t, const struct table *old, uint64_t from, uint64_t to)
{
	for (unsigned i = 0; i < old->nr; i++) {
		const struct entry *e = &old->entries[i];

		if (!e->gone && e->region.base >= from && e->region.base <= to)
			t->entries[t->nr++] = *e;
	}
}

int io_add(struct io_bus *bus, enum io_space space, const struct io_region *region)
{
	const struct table *old = bus->tables[space];
	uint64_t last = region->base + (region->size - 1);
	struct table *t;

	if (!region->size || last < region->base)
		return -EINVAL;
	if (overlaps(old, region->base, last))
		return -EEXIST;
	if (bus->nr_retired >= MAX_RETIRED)
		io_reap(bus);
	if (bus->nr_retired >= MAX_RETIRED)
		return -EBUSY;
	t = malloc(sizeof(*t) + (old->nr + 1) * sizeof(t->entries[0]));
	if (!t)
		return -ENOMEM;
	t->nr = 0;
	copy_entries(t, old, 0, region->base);
	t->entries[t->nr++] = (struct entry){ .region = *region };
	copy_entries(t, old, last, UINT64_MAX);
	publish(bus, space, t);
	return 0;
}

int io_remove(struct io_bus *bus, enum io_space space, uint64_t base)
{
	struct table *t = bus->tables[space];
	unsigned at = lower_bound(t, base);

	if (at == t->nr || t->entries[at].region.base != base || t->entries[at].gone)
		return -ENOENT;
	__atomic_store_n(&t->entries[at].gone, true, __ATOMIC_SEQ_CST);
	io_reap(bus);
	return 0;
}

static uint64_t oldest_reader(struct io_bus *bus)
{
	uint64_t oldest = UINT64_MAX;

	for (unsigned i = 0; i < bus->nr_readers; i++) {
		uint64_t epoch = __atomic_load_n(&bus->readers[i].reader.epoch, __ATOMIC_SEQ_CST);

		if (epoch)
			oldest = MIN(oldest, epoch);
	}
	return oldest;
}

int io_retire(struct io_bus *bus, void (*fn)(void *arg), void *arg)
{
	struct retired *r = malloc(sizeof(*r));

	if (!r)
		return -ENOMEM;
	/* Readers that enter from here on announce a later epoch and see the new table. */
	*r = (struct retired){
		.epoch = __atomic_fetch_add(&bus->epoch, 1, __ATOMIC_SEQ_CST),
		.fn = fn,
		.arg = arg,
	};
	*bus->retired_tail = r;
	bus->retired_tail = &r->next;
	bus->nr_retired++;
	return 0;
}

void io_reap(struct io_bus *bus)
{
	struct retired *r;
	uint64_t oldest;

	if (!bus->retired)
		return;
	oldest = oldest_reader(bus);
	while ((r = bus->retired) && r->epoch < oldest) {
		bus->retired = r->next;
		if (!bus->retired)
			bus->retired_tail = &bus->retired;
		bus->nr_retired--;
		r->fn(r->arg);
		free(r);
	}
}

void io_enter(struct io_bus *bus, struct io_reader *reader)
{
	__atomic_store_n(&reader->epoch, __atomic_load_n(&bus->epoch, __ATOMIC_SEQ_CST),
		__ATOMIC_SEQ_CST);
}

void io_leave(struct io_reader *reader)
{
	__atomic_store_n(&reader->epoch, 0, __ATOMIC_RELEASE);
}

/* Between io_enter() and io_leave(). */
static const struct io_region *find(struct io_bus *bus, enum io_space space, uint64_t addr,
	unsigned size)
{
	const struct table *t = __atomic_load_n(&bus->tables[space], __ATOMIC_SEQ_CST);
	unsigned at = lower_bound(t, addr);

	const struct io_region *r = &t->entries[at].region;

	if (at == t->nr || r->base > addr || !range_ok(addr - r->base, size, r->size) ||
		__atomic_load_n(&t->entries[at].gone, __ATOMIC_SEQ_CST))
		return NULL;
	return r;
}

bool io_read(struct io_bus *bus, struct io_reader *reader, enum io_space space, uint64_t addr,
	unsigned size, uint64_t *value)
{
	const struct io_region *r;

	io_enter(bus, reader);
	r = find(bus, space, addr, size);
	*value = io_ones(size);
	if (r)
		*value &= r->ops->read(r->self, addr - r->base, size);
	io_leave(reader);
	return r;
}

bool io_write(struct io_bus *bus, struct io_reader *reader, enum io_space space, uint64_t addr,
	unsigned size, uint64_t value)
{
	const struct io_region *r;

	io_enter(bus, reader);
	r = find(bus, space, addr, size);
	if (r)
		r->ops->write(r->self, addr - r->base, size, value & io_ones(size));
	io_leave(reader);
	return r;
}
