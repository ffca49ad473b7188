/*
 * dma_priv.h - what the files of DMA translation share
 *
 *   dma.c         a function's view: translating, exporting
 *   dma_follow.c  listeners: who is told of what, changes of a view
 *   iommu.c       domains, endpoints
 *   iommu_map.c   mappings
 *
 * Locks, in this order:
 *   io->change   one change at a time; held while devices are waited for. Never on the loop thread
 *   s->notify    the space's listeners and the calls to them; held while its own device is waited
 *                for
 *   s->lock      view, domain, exports of a space; never held while anything is waited for
 *   io->lock     trees of mappings, lists of domains and endpoints; likewise
 */
#ifndef MACHINE_DMA_PRIV_H
#define MACHINE_DMA_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/range_tree.h"
#include "base/util.h"
#include "machine/iommu.h"

enum dma_view {
	DMA_IDENTITY,
	DMA_NOTHING,
	DMA_TABLE, /* the domain's */
};

struct mapping {
	struct range_node node;
	uint64_t gpa;
	unsigned access;
	struct mapping *next; /* among those that are being removed */
};

struct domain {
	uint32_t number;
	bool bypass;
	struct range_tree mappings; /* io->lock */
	unsigned nr_spaces; /* io->lock; 0: it has ceased to exist, and goes with the next change */
	struct domain *next;
};

struct iommu {
	_Atomic uint64_t last;
	struct iommu_resv resv[IOMMU_MAX_RESV];
	unsigned nr_resv;
	void (*fault)(void *arg, uint32_t endpoint, bool attached, uint64_t iova, unsigned access);
	void *arg;

	pthread_mutex_t change;
	struct domain *domains;
	unsigned nr_mappings;
	_Atomic bool bypass;

	pthread_mutex_t lock;
	struct dma_space *spaces;
	/* The mapping that a change is adding: known to those spaces whose `told` is this change's
	 * number. */
	const struct mapping *fresh;
	uint64_t change_nr, sweep;
};

struct dma_space {
	struct memory *memory;
	struct memory_listener ram;
	char *id;
	atomic_uint refs;
	_Atomic bool translated; /* it is behind an IOMMU, or will be */

	pthread_mutex_t notify;
	struct dma_listener *listeners;
	uint64_t told;

	pthread_mutex_t lock;
	pthread_cond_t released; /* something of exports and faulting has changed */
	struct iommu *io;	 /* NULL: none */
	uint32_t endpoint;
	struct dma_limits limits;
	enum dma_view view;
	struct domain *domain; /* NULL: not attached. Changes under io->lock, too */
	struct dma_export *exports;
	struct dma_export *faulting; /* its fault() is being called, by */
	pthread_t faulter;

	struct dma_space *next; /* io->lock, and */
	uint64_t swept;		/* the last sweep that has come by */
};

/* A view and, of a table, whose. The space may leave its IOMMU meanwhile. */
struct dma_target {
	enum dma_view view;
	struct domain *domain;
	struct iommu *io;
};

/* --- dma.c --- */

struct dma_space *dma_space_hold(struct dma_space *s);
void dma_space_drop(struct dma_space *s);
/*
 * The lowest piece of RAM at or above `at` that a view shows. False: none. first: nothing that was
 * added by a change that the space does not know of yet.
 */
bool dma_next_range(
	struct dma_space *s, const struct dma_target *view, uint64_t at, struct dma_range *out);
/* The pieces of one mapping, from `at` on; likewise. */
bool dma_next_piece(
	const struct memory *m, const struct mapping *map, uint64_t at, struct dma_range *out);
/* Tell those who hold exports of [first, last] and wait until they let go. */
void dma_take_back(struct dma_space *s, uint64_t first, uint64_t last);

/* --- dma_follow.c: s->notify held --- */

/* For all listeners of a space. 0 or the first -errno. */
int dma_tell_map(struct dma_space *s, const struct dma_range *r);
void dma_tell_unmap(struct dma_space *s, const struct dma_range *r);
int dma_tell_sync(struct dma_space *s);
/* The whole of a view. Syncs. */
int dma_tell_view(struct dma_space *s, const struct dma_target *view);
void dma_untell_view(struct dma_space *s, const struct dma_target *view);

/* --- iommu.c --- */

/* One change at a time: io->change, taken and let go of. Domains that nobody is in any more go. */
void iommu_begin_change(struct iommu *io);
void iommu_end_change(struct iommu *io);
/* Within one. NULL: there is no such domain. */
struct domain *iommu_find_domain(struct iommu *io, uint32_t number);

#endif
