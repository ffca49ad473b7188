/*
 * dma.h - what the addresses mean that a function's device reads and writes
 *
 * A DMA space is one function's view of memory. Without an IOMMU it is the identity: an address
 * (IOVA) is guest-physical, and all RAM is within reach. Behind an IOMMU (iommu.h) it is what the
 * guest has mapped: the domain that the function is attached to, the identity while it is bypassed,
 * or nothing.
 *
 * Three ways to use one:
 *
 *   translate   dma_ptr(), dma_read(), dma_write(): at this moment. What is not allowed is a fault,
 *               of which the guest hears
 *   follow      a struct dma_listener is told of each range that comes and goes: for devices that
 *               translate themselves (DMA_MAP of vfio-user, maps of VFIO, IOTLB of vhost-user)
 *   export      dma_export(): pieces that stay translated until they are released. The guest may
 *               take them away at any time: then `fault` is called, and the guest's unmap is
 *               complete when they have been released
 *
 * RAM itself never goes away while the machine lives, so a pointer that is used too long harms no
 * one but the guest, who sees its memory changed after it took it back. That is what the rules
 * about completion are for.
 *
 * Threads: translation, export and release from any thread; none of them waits. Listeners are
 * called by the thread that makes the change, one at a time for each space; see struct
 * dma_listener.
 */
#ifndef MACHINE_DMA_H
#define MACHINE_DMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "machine/memory.h"

#define DMA_CAN_READ  1u /* the device reads memory */
#define DMA_CAN_WRITE 2u

/* A piece of RAM as the device sees it. fd is borrowed and lives as long as the memory. */
struct dma_range {
	uint64_t iova, size, gpa;
	unsigned access; /* DMA_CAN_ bits, at least one */
	int fd;
	uint64_t fd_offset;
	void *hva;
};

/*
 * One who follows. All calls for one space come one after another. map and unmap should only send;
 * what they began is done when sync returns. sync comes after each change, and within a large one
 * every DMA_SYNC_EVERY calls.
 *
 * Ranges do not overlap, unmap names one as map did, or one that this listener has not been
 * told of: one that it refused or failed to map, or that went while it was just linked.
 */
struct dma_listener {
	/* 0, or -errno: the guest's request fails. */
	int (*map)(struct dma_listener *l, const struct dma_range *r);
	void (*unmap)(struct dma_listener *l, const struct dma_range *r);
	/*
	 * Wait, with a deadline of the listener's own, until all of it is done. 0, or the first
	 * -errno of a map. An unmap never fails: whoever cannot do it is cut off from memory. NULL:
	 * nothing to wait for. Not called when a listener comes, or where RAM is added.
	 */
	int (*sync)(struct dma_listener *l);
	/* Inside dma_replay(): map is called for what has been mapped for a while. */
	bool anew;
	/*
	 * The space's. partly: it has been told of what lies below
	 * `told`, and hears of changes there.
	 */
	bool partly;
	uint64_t told;
	struct dma_listener *next;
};

#define DMA_SYNC_EVERY 64

/* What can be mapped for a device whatever the guest asks for, as the host's IOMMU is behind it. */
#define DMA_MAX_HOLES 16

struct dma_hole {
	uint64_t first, last;
};

struct dma_limits {
	uint64_t last; /* the highest address there can be */
	struct dma_hole holes[DMA_MAX_HOLES];
	unsigned nr_holes;
};

struct dma_space;

/*
 * The identity, until iommu_add(). id (copied) is the device's, for texts. Memory is borrowed until
 * dma_space_free() and becomes known to the space as to a listener of its. Gives *out. Topology
 * lock held. 0 or -ENOMEM.
 */
int dma_space_new(struct memory *memory, const char *id, struct dma_space **out);
/* No listener, no export, not behind an IOMMU any more. Topology lock held. NULL is fine. */
void dma_space_free(struct dma_space *s);
/* The device sees addresses that the guest's driver has to ask an IOMMU for
 * (VIRTIO_F_ACCESS_PLATFORM). */
bool dma_is_translated(const struct dma_space *s);
/* It is to be so: known before iommu_add(), which needs the function's place. */
void dma_will_be_translated(struct dma_space *s);
/* Before iommu_add(): the guest is told of limits, and those who follow refuse what is beyond them.
 * Copied. */
void dma_space_limit(struct dma_space *s, const struct dma_limits *limits);

/* --- translate --- */

/*
 * Where [iova, iova + *len) lies, all of it with this access (DMA_CAN_ bits), or as much as lies in
 * one piece: *len is lowered to that. NULL: not even the first byte may be reached so, or the range
 * goes beyond 2^64; a fault was reported.
 */
void *dma_ptr(struct dma_space *s, uint64_t iova, uint64_t *len, unsigned access);
/* The same in guest-physical terms. 0 or -EFAULT; reports no fault: for asking. */
int dma_translate(
	struct dma_space *s, uint64_t iova, uint64_t *len, unsigned access, uint64_t *gpa);

/* Copies; any number of pieces. 0 or -EFAULT: some of it may have been copied. */
int dma_read(struct dma_space *s, uint64_t iova, void *buf, uint64_t len);
int dma_write(struct dma_space *s, uint64_t iova, const void *buf, uint64_t len);

/* --- follow --- */

/* Link a listener and tell it what is mapped now, without sync. 0 or the first -errno of its map.
 * May wait for other callers. */
int dma_listen(struct dma_space *s, struct dma_listener *l);
/* Unlink: no call is under way or comes any more. Tells it nothing. If its sync can be waiting,
 * have that return first. */
void dma_unlisten(struct dma_space *s, struct dma_listener *l);
/*
 * Tell a linked listener of all that is mapped once more, from the lowest address on, `max` ranges
 * in a call: its device came back with nothing. With `begin` it is begun anew, which is called
 * first; with NULL it is gone on with. Between two calls the listener hears of changes to what it
 * was told of, and of no others. 1: there is more; 0: that was all; or the first -errno of its map.
 */
int dma_replay(struct dma_space *s, struct dma_listener *l, void (*begin)(struct dma_listener *l),
	unsigned max);

/*
 * Call fn for what is mapped at *at and above, `max` ranges at most, without being told of changes:
 * each is seen or not. 1: there is more, from *at on; 0: that was all; or the first -errno of fn's.
 */
int dma_walk(struct dma_space *s, uint64_t *at, unsigned max,
	int (*fn)(void *arg, const struct dma_range *r), void *arg);

/* --- export --- */

struct dma_export {
	struct dma_space *s; /* NULL: not exported */
	uint64_t iova, len;
	void (*fault)(void *arg); /* see dma_export() */
	void *arg;
	bool faulted;
	struct dma_export *next;
};

/*
 * Fill iov with the pieces of [iova, iova + len), max of them at most, and hold them. The number of
 * pieces, or -EFAULT (a fault was reported), -E2BIG.
 *
 * e is the caller's, linked until dma_release(). `fault` is called once, from the thread that
 * carries out the guest's request with nothing locked that a release needs, when the guest takes
 * any of it away: whoever holds it stops using it and calls dma_release(), at once or from another
 * thread, within DMA_RELEASE_MS. The guest's request completes then.
 */
int dma_export(struct dma_space *s, struct dma_export *e, uint64_t iova, uint64_t len,
	unsigned access, struct iovec *iov, unsigned max, void (*fault)(void *arg), void *arg);
/* Never exported, or released already, is fine. After it, fault is not called and not being called.
 * Not from `fault` of another export. */
void dma_release(struct dma_export *e);

#define DMA_RELEASE_MS 2000

#endif
