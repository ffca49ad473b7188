/*
 * iommu.h - an IOMMU's tables: domains, their mappings, and the functions attached to them
 *
 * What every IOMMU that a guest can have comes down to, whatever it looks like to the guest. A
 * function is an endpoint, with a number; its addresses (dma.h) are translated by the domain it is
 * attached to. An endpoint that is attached to none is bypassed or cut off, as iommu_set_bypass()
 * says. A domain exists from its first attach to its last detach and is either a table of mappings
 * or a bypass.
 *
 * A change is complete when the call returns: all who follow the spaces concerned have said so, or
 * were cut off, and all exports that it hits were released. All that a guest can pile up is bounded
 * (IOMMU_MAX_).
 *
 * Ranges are given by first and last address, so that the whole of 2^64 can be said.
 *
 * Threads: changes from any thread that may wait for devices, one after another by a lock inside;
 * iommu_add() and iommu_remove() wait for nobody but the function's own device.
 */
#ifndef MACHINE_IOMMU_H
#define MACHINE_IOMMU_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/dma.h"

#define IOMMU_PAGE	   4096u
#define IOMMU_MAX_MAPPINGS (1u << 18) /* of all domains together */
#define IOMMU_MAX_RESV	   4
/* Of one endpoint: the IOMMU's own, and where its device has holes. */
#define IOMMU_MAX_ENDPOINT_RESV (IOMMU_MAX_RESV + DMA_MAX_HOLES)

struct iommu;

/* Addresses that can not be mapped. */
struct iommu_resv {
	uint64_t first, last;
	bool msi; /* interrupts go there */
};

struct iommu_params {
	uint64_t last;		       /* the highest address that can be mapped */
	const struct iommu_resv *resv; /* copied */
	unsigned nr_resv;
	/* An endpoint touched what it may not. attached: it has a domain. Any thread, often; must
	 * not wait. May be NULL. */
	void (*fault)(void *arg, uint32_t endpoint, bool attached, uint64_t iova, unsigned access);
	void *arg;
};

/* Gives *out; bypassed. 0 or -ENOMEM. */
int iommu_new(const struct iommu_params *p, struct iommu **out);
/* No endpoint is left. NULL is fine. */
void iommu_free(struct iommu *io);

/*
 * The function's addresses are translated from now on. If its device has limits
 * (dma_space_limit()), the highest address becomes what it bears. 0; -EEXIST: the number is taken.
 */
int iommu_add(struct iommu *io, uint32_t endpoint, struct dma_space *s);
/* Back to the identity without telling who follows: its device has been stopped. Not added is fine.
 */
void iommu_remove(struct dma_space *s);
/* The highest address that can be mapped. */
uint64_t iommu_last(const struct iommu *io);
/* What cannot be mapped for this endpoint. How many, at most IOMMU_MAX_ENDPOINT_RESV; -ENOENT: no
 * such endpoint. */
int iommu_reserved(
	struct iommu *io, uint32_t endpoint, struct iommu_resv out[IOMMU_MAX_ENDPOINT_RESV]);
/*
 * The number of a PCI function ("0000:00:05.0"): segment in the upper
 * half, bus, slot and function below. 0 or -EINVAL.
 */
int iommu_endpoint_of(const char *bdf, uint32_t *endpoint);
/* All endpoints, at most max. How many. */
unsigned iommu_endpoints(struct iommu *io, uint32_t *out, unsigned max);

/*
 * Attach to a domain, which is made if it does not exist; detached from another one first. 0;
 * -ENOENT no such endpoint; -EINVAL the domain exists and is of the other kind; -ENOMEM; or what a
 * follower said: then it is attached to nothing.
 */
int iommu_attach(struct iommu *io, uint32_t domain, uint32_t endpoint, bool bypass);
/* 0; -ENOENT no such endpoint; -EINVAL it is not attached to that domain. */
int iommu_detach(struct iommu *io, uint32_t domain, uint32_t endpoint);
/*
 * [first, last] is [gpa, ...] for who is in the domain. What is not RAM is mapped to nothing. 0;
 * -ENOENT no such domain; -EINVAL it is a bypass, or overlaps a mapping or reserved addresses;
 * -ERANGE alignment or limits; -ENOSPC too many mappings; -ENOMEM; or what a follower said: then
 * nothing is mapped.
 */
int iommu_map(struct iommu *io, uint32_t domain, uint64_t first, uint64_t last, uint64_t gpa,
	unsigned access);
/* All mappings in it. 0, also for none; -ENOENT and -EINVAL likewise; -ERANGE it would split one:
 * nothing was done. */
int iommu_unmap(struct iommu *io, uint32_t domain, uint64_t first, uint64_t last);

bool iommu_bypass(struct iommu *io);
/* Endpoints without a domain are the identity, or cut off. */
void iommu_set_bypass(struct iommu *io, bool bypass);
/* Detach all endpoints. */
void iommu_reset(struct iommu *io);

#endif
