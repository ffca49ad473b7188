/*
 * iommu.c - domains, and the spaces attached to them
 *
 * A space that is attached elsewhere shows nothing in between: whoever holds what it showed lets
 * go, those who follow forget that, and hear of the new view then. Mappings are in iommu_map.c.
 *
 * A space can go away while it is being told (iommu_remove() on the loop thread): it is held
 * meanwhile, and what is said to it reaches nobody. A domain that has lost its last space that way
 * is freed by the next change.
 *
 * Owns:    domains and mappings. Spaces are borrowed from iommu_add() to iommu_remove().
 * Trusts:  no number that the guest gave.
 */
#include "machine/iommu.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/pci_address.h"
#include "machine/dma_priv.h"

static const struct dma_target nothing = { .view = DMA_NOTHING };

/* --- domains; io->change held --- */

/* One piece after another, not recursively: a domain may have many. */
static void free_mappings(struct iommu *io, struct domain *d)
{
	struct range_node *n;

	pthread_mutex_lock(&io->lock);
	while ((n = d->mappings.root)) {
		range_tree_remove(&d->mappings, n);
		free(container_of(n, struct mapping, node));
		io->nr_mappings--;
	}
	pthread_mutex_unlock(&io->lock);
}

static bool is_empty(struct iommu *io, const struct domain *d)
{
	bool empty;

	pthread_mutex_lock(&io->lock);
	empty = !d->nr_spaces;
	pthread_mutex_unlock(&io->lock);
	return empty;
}

/* Domains that nobody is attached to any more are no more. */
static void reap(struct iommu *io)
{
	struct domain **at = &io->domains, *d;

	while ((d = *at)) {
		if (!is_empty(io, d)) {
			at = &d->next;
			continue;
		}
		*at = d->next;
		free_mappings(io, d);
		free(d);
	}
}

void iommu_begin_change(struct iommu *io)
{
	pthread_mutex_lock(&io->change);
	reap(io);
}

void iommu_end_change(struct iommu *io)
{
	reap(io);
	pthread_mutex_unlock(&io->change);
}

struct domain *iommu_find_domain(struct iommu *io, uint32_t number)
{
	struct domain *d = io->domains;

	while (d && d->number != number)
		d = d->next;
	return d;
}

/* --- endpoints --- */

/* io->lock held. */
static struct dma_space *find_space(struct iommu *io, uint32_t endpoint)
{
	struct dma_space *s = io->spaces;

	while (s && s->endpoint != endpoint)
		s = s->next;
	return s;
}

/* Held; NULL: there is none. */
static struct dma_space *hold_space(struct iommu *io, uint32_t endpoint)
{
	struct dma_space *s;

	pthread_mutex_lock(&io->lock);
	s = find_space(io, endpoint);
	if (s)
		dma_space_hold(s);
	pthread_mutex_unlock(&io->lock);
	return s;
}

uint64_t iommu_last(const struct iommu *io)
{
	return atomic_load(&io->last);
}

/* A hole of the device's that is reserved for all endpoints anyway. */
static bool is_known(const struct iommu *io, const struct dma_hole *hole)
{
	for (unsigned i = 0; i < io->nr_resv; i++)
		if (hole->first >= io->resv[i].first && hole->last <= io->resv[i].last)
			return true;
	return false;
}

int iommu_reserved(
	struct iommu *io, uint32_t endpoint, struct iommu_resv out[IOMMU_MAX_ENDPOINT_RESV])
{
	const struct dma_space *s;
	int nr = 0;

	for (unsigned i = 0; i < io->nr_resv; i++)
		out[nr++] = io->resv[i];
	/* Limits do not change behind an IOMMU. */
	pthread_mutex_lock(&io->lock);
	s = find_space(io, endpoint);
	for (unsigned i = 0; s && i < s->limits.nr_holes; i++) {
		const struct dma_hole *hole = &s->limits.holes[i];

		if (!is_known(io, hole))
			out[nr++] = (struct iommu_resv){ hole->first, hole->last, false };
	}
	pthread_mutex_unlock(&io->lock);
	return s ? nr : -ENOENT;
}

int iommu_endpoint_of(const char *bdf, uint32_t *endpoint)
{
	struct pci_address a;
	int rc = pci_address_parse(bdf, &a);

	if (rc || a.domain > UINT16_MAX)
		return -EINVAL;
	*endpoint = a.domain << 16 | (uint32_t)a.bus << 8 | (uint32_t)a.device << 3 | a.function;
	return 0;
}

unsigned iommu_endpoints(struct iommu *io, uint32_t *out, unsigned max)
{
	unsigned nr = 0;

	pthread_mutex_lock(&io->lock);
	for (struct dma_space *s = io->spaces; s && nr < max; s = s->next)
		out[nr++] = s->endpoint;
	pthread_mutex_unlock(&io->lock);
	return nr;
}

static struct domain *domain_of(struct iommu *io, struct dma_space *s)
{
	struct domain *d;

	pthread_mutex_lock(&io->lock);
	d = s->domain;
	pthread_mutex_unlock(&io->lock);
	return d;
}

static struct dma_target unattached(struct iommu *io)
{
	return (struct dma_target){ .view = atomic_load(&io->bypass) ? DMA_IDENTITY : DMA_NOTHING };
}

/* What the space shows; `domain` is what it is attached to. False: it has been removed meanwhile.
 */
static bool set_view(
	struct dma_space *s, struct iommu *io, const struct dma_target *view, struct domain *domain)
{
	bool there;

	pthread_mutex_lock(&s->lock);
	there = s->io == io;
	if (there) {
		pthread_mutex_lock(&io->lock);
		if (s->domain)
			s->domain->nr_spaces--;
		if (domain)
			domain->nr_spaces++;
		s->domain = domain;
		pthread_mutex_unlock(&io->lock);
		s->view = view->view;
	}
	pthread_mutex_unlock(&s->lock);
	return there;
}

/*
 * From one view to another, by way of nothing: what was exported of the old one is taken back
 * first, and so is what was of the new one before a follower refused it. io->change held: both
 * domains live until the end of it. 0; or what that follower said, and the space shows nothing and
 * is attached to nothing.
 */
static int switch_view(
	struct dma_space *s, struct iommu *io, const struct dma_target *to, struct domain *domain)
{
	struct dma_target from;
	int rc = 0;

	pthread_mutex_lock(&s->notify);
	pthread_mutex_lock(&s->lock);
	from = (struct dma_target){ s->view, s->domain, io };
	pthread_mutex_unlock(&s->lock);
	if (from.view == to->view && from.view != DMA_TABLE) {
		set_view(s, io, to, domain);
		goto out;
	}
	if (!set_view(s, io, &nothing, NULL))
		goto out;
	dma_take_back(s, 0, UINT64_MAX);
	dma_untell_view(s, &from);
	if (!set_view(s, io, to, domain))
		goto out;
	rc = dma_tell_view(s, to);
	if (rc) {
		set_view(s, io, &nothing, NULL);
		dma_take_back(s, 0, UINT64_MAX);
		dma_untell_view(s, to);
	}
out:
	pthread_mutex_unlock(&s->notify);
	return rc;
}

static int detach(struct iommu *io, struct dma_space *s)
{
	struct dma_target to = unattached(io);

	return switch_view(s, io, &to, NULL);
}

int iommu_add(struct iommu *io, uint32_t endpoint, struct dma_space *s)
{
	int rc = 0;

	assert(!s->io);
	dma_will_be_translated(s);
	pthread_mutex_lock(&s->notify);
	pthread_mutex_lock(&s->lock);
	pthread_mutex_lock(&io->lock);
	if (find_space(io, endpoint)) {
		rc = -EEXIST;
	} else {
		s->io = io;
		s->endpoint = endpoint;
		s->view = unattached(io).view;
		atomic_store(&io->last, MIN(iommu_last(io), s->limits.last));
		s->next = io->spaces;
		io->spaces = s;
	}
	pthread_mutex_unlock(&io->lock);
	pthread_mutex_unlock(&s->lock);
	if (!rc && s->view == DMA_NOTHING)
		for (unsigned i = 0; i < memory_nr_ranges(s->memory); i++) {
			const struct mem_range *r = memory_range(s->memory, i);
			const struct dma_range gone = {
				.iova = r->gpa, .gpa = r->gpa, .size = r->size, .fd = -1
			};

			dma_tell_unmap(s, &gone);
		}
	pthread_mutex_unlock(&s->notify);
	return rc;
}

void iommu_remove(struct dma_space *s)
{
	struct dma_space **at;
	struct iommu *io;

	pthread_mutex_lock(&s->lock);
	io = s->io;
	if (io) {
		pthread_mutex_lock(&io->lock);
		for (at = &io->spaces; *at != s; at = &(*at)->next)
			;
		*at = s->next;
		if (s->domain)
			s->domain->nr_spaces--;
		s->domain = NULL;
		pthread_mutex_unlock(&io->lock);
		s->io = NULL;
		s->view = DMA_IDENTITY;
	}
	pthread_mutex_unlock(&s->lock);
}

/* --- attach and detach --- */

static struct domain *make_domain(struct iommu *io, uint32_t number, bool bypass)
{
	struct domain *d = calloc(1, sizeof(*d));

	if (d) {
		d->number = number;
		d->bypass = bypass;
		d->next = io->domains;
		io->domains = d;
	}
	return d;
}

static int attach(struct iommu *io, uint32_t number, struct dma_space *s, bool bypass)
{
	struct domain *d = iommu_find_domain(io, number);
	struct dma_target to = { .view = bypass ? DMA_IDENTITY : DMA_TABLE, .io = io };

	if (d && d->bypass != bypass)
		return -EINVAL;
	if (d && domain_of(io, s) == d)
		return 0;
	if (!d)
		d = make_domain(io, number, bypass);
	if (!d)
		return -ENOMEM;
	to.domain = bypass ? NULL : d;
	return switch_view(s, io, &to, d);
}

int iommu_attach(struct iommu *io, uint32_t domain, uint32_t endpoint, bool bypass)
{
	struct dma_space *s;
	int rc;

	iommu_begin_change(io);
	s = hold_space(io, endpoint);
	rc = s ? attach(io, domain, s, bypass) : -ENOENT;
	iommu_end_change(io);
	if (s)
		dma_space_drop(s);
	return rc;
}

int iommu_detach(struct iommu *io, uint32_t domain, uint32_t endpoint)
{
	struct dma_space *s;
	struct domain *d;
	int rc = -ENOENT;

	iommu_begin_change(io);
	s = hold_space(io, endpoint);
	d = iommu_find_domain(io, domain);
	if (s && (!d || domain_of(io, s) != d))
		rc = -EINVAL;
	else if (s)
		rc = detach(io, s);
	iommu_end_change(io);
	if (s)
		dma_space_drop(s);
	return rc;
}

/* --- all endpoints --- */

/* One that this sweep has not come by yet, held; NULL at the end. */
static struct dma_space *next_unswept(struct iommu *io)
{
	struct dma_space *s;

	pthread_mutex_lock(&io->lock);
	for (s = io->spaces; s && s->swept == io->sweep; s = s->next)
		;
	if (s) {
		s->swept = io->sweep;
		dma_space_hold(s);
	}
	pthread_mutex_unlock(&io->lock);
	return s;
}

/* What is attached to nothing shows what that means now; so does the rest, if it is to be detached.
 */
static void sweep(struct iommu *io, bool detach_all)
{
	struct dma_space *s;

	pthread_mutex_lock(&io->lock);
	io->sweep++;
	pthread_mutex_unlock(&io->lock);
	while ((s = next_unswept(io))) {
		if (detach_all || !domain_of(io, s))
			detach(io, s);
		dma_space_drop(s);
	}
}

bool iommu_bypass(struct iommu *io)
{
	return atomic_load(&io->bypass);
}

void iommu_set_bypass(struct iommu *io, bool bypass)
{
	iommu_begin_change(io);
	atomic_store(&io->bypass, bypass);
	sweep(io, false);
	iommu_end_change(io);
}

void iommu_reset(struct iommu *io)
{
	iommu_begin_change(io);
	sweep(io, true);
	iommu_end_change(io);
}

/* --- life --- */

int iommu_new(const struct iommu_params *p, struct iommu **out)
{
	struct iommu *io = calloc(1, sizeof(*io));

	if (!io)
		return -ENOMEM;
	assert(p->nr_resv <= IOMMU_MAX_RESV);
	io->last = p->last;
	io->nr_resv = p->nr_resv;
	if (p->nr_resv)
		memcpy(io->resv, p->resv, p->nr_resv * sizeof(*p->resv));
	io->fault = p->fault;
	io->arg = p->arg;
	io->bypass = true;
	pthread_mutex_init(&io->change, NULL);
	pthread_mutex_init(&io->lock, NULL);
	*out = io;
	return 0;
}

void iommu_free(struct iommu *io)
{
	if (!io)
		return;
	assert(!io->spaces);
	reap(io);
	pthread_mutex_destroy(&io->lock);
	pthread_mutex_destroy(&io->change);
	free(io);
}
