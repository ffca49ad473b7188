/*
 * iommu_map.c - the mappings of a domain, and telling its spaces of them
 *
 * A change is made in the table first, so that translations see it, then the spaces concerned are
 * told, one after another, each under its own lock; those who follow answer, and the change is
 * complete. A mapping that a follower does not take is taken back from all.
 *
 * Owns:    the mappings, until they are unmapped or their domain is freed (iommu.c).
 * Trusts:  no number that the guest gave.
 */
#include "machine/iommu.h"

#include <errno.h>
#include <stdlib.h>

#include "machine/dma_priv.h"

/* --- telling a domain --- */

/* The spaces of a domain, held. *nr: how many. NULL: out of memory. */
static struct dma_space **spaces_of(struct iommu *io, const struct domain *d, unsigned *nr)
{
	struct dma_space **all, *s;

	*nr = 0;
	pthread_mutex_lock(&io->lock);
	all = calloc(MAX(d->nr_spaces, 1u), sizeof(*all));
	for (s = io->spaces; s && all; s = s->next)
		if (s->domain == d)
			all[(*nr)++] = dma_space_hold(s);
	pthread_mutex_unlock(&io->lock);
	return all;
}

static void drop_spaces(struct dma_space **all, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		dma_space_drop(all[i]);
	free(all);
}

static int tell_mapping(struct iommu *io, struct dma_space *s, const struct mapping *map)
{
	struct dma_range r;
	uint64_t at = map->node.first;
	int rc = 0;

	pthread_mutex_lock(&s->notify);
	pthread_mutex_lock(&io->lock);
	s->told = io->change_nr;
	pthread_mutex_unlock(&io->lock);
	while (!rc && dma_next_piece(s->memory, map, at, &r)) {
		rc = dma_tell_map(s, &r);
		at = r.iova + r.size;
		if (!at || at > map->node.last)
			break;
	}
	if (!rc)
		rc = dma_tell_sync(s);
	pthread_mutex_unlock(&s->notify);
	return rc;
}

/* All of a list of mappings, which are in the table no more. */
static void untell_mappings(struct dma_space *s, const struct mapping *map)
{
	struct dma_range r;
	unsigned nr = 0;

	pthread_mutex_lock(&s->notify);
	for (; map; map = map->next)
		for (uint64_t at = map->node.first; dma_next_piece(s->memory, map, at, &r);) {
			dma_tell_unmap(s, &r);
			if (++nr % DMA_SYNC_EVERY == 0)
				dma_tell_sync(s);
			at = r.iova + r.size;
			if (!at || at > map->node.last)
				break;
		}
	dma_tell_sync(s);
	pthread_mutex_unlock(&s->notify);
}

/* --- map --- */

static bool is_reserved(const struct iommu *io, uint64_t first, uint64_t last)
{
	for (unsigned i = 0; i < io->nr_resv; i++)
		if (first <= io->resv[i].last && last >= io->resv[i].first)
			return true;
	return false;
}

static int check_range(const struct iommu *io, uint64_t first, uint64_t last, uint64_t gpa)
{
	uint64_t mask = IOMMU_PAGE - 1;

	if (first >= last || first & mask || (last & mask) != mask || gpa & mask ||
		last > iommu_last(io) || gpa > UINT64_MAX - (last - first))
		return -ERANGE;
	return is_reserved(io, first, last) ? -EINVAL : 0;
}

static int insert(struct iommu *io, struct domain *d, struct mapping *map)
{
	int rc = 0;

	pthread_mutex_lock(&io->lock);
	if (io->nr_mappings >= IOMMU_MAX_MAPPINGS)
		rc = -ENOSPC;
	else if (!range_tree_insert(&d->mappings, &map->node))
		rc = -EINVAL;
	if (!rc) {
		io->nr_mappings++;
		io->fresh = map;
		io->change_nr++;
	}
	pthread_mutex_unlock(&io->lock);
	return rc;
}

static void take_out(struct iommu *io, struct domain *d, struct mapping *map)
{
	pthread_mutex_lock(&io->lock);
	range_tree_remove(&d->mappings, &map->node);
	io->nr_mappings--;
	io->fresh = NULL;
	pthread_mutex_unlock(&io->lock);
}

/* In the table already. */
static int tell_domain(struct iommu *io, struct domain *d, struct mapping *map)
{
	struct dma_space **all;
	unsigned nr;
	int rc = 0;

	all = spaces_of(io, d, &nr);
	if (!all)
		rc = -ENOMEM;
	for (unsigned i = 0; i < nr && !rc; i++)
		rc = tell_mapping(io, all[i], map);
	if (rc) {
		take_out(io, d, map);
		for (unsigned i = 0; i < nr; i++) {
			dma_take_back(all[i], map->node.first, map->node.last);
			untell_mappings(all[i], map);
		}
	}
	pthread_mutex_lock(&io->lock);
	io->fresh = NULL;
	pthread_mutex_unlock(&io->lock);
	if (all)
		drop_spaces(all, nr);
	return rc;
}

static int map_range(struct iommu *io, struct domain *d, uint64_t first, uint64_t last,
	uint64_t gpa, unsigned access)
{
	struct mapping *map = calloc(1, sizeof(*map));
	int rc;

	if (!map)
		return -ENOMEM;
	*map = (struct mapping){
		.node = { .first = first, .last = last }, .gpa = gpa, .access = access
	};
	rc = insert(io, d, map);
	if (!rc)
		rc = tell_domain(io, d, map);
	if (rc)
		free(map);
	return rc;
}

/* A domain that translates. A change has begun. */
static int find_table(struct iommu *io, uint32_t domain, struct domain **d)
{
	*d = iommu_find_domain(io, domain);
	if (!*d)
		return -ENOENT;
	return (*d)->bypass ? -EINVAL : 0;
}

int iommu_map(struct iommu *io, uint32_t domain, uint64_t first, uint64_t last, uint64_t gpa,
	unsigned access)
{
	int rc = check_range(io, first, last, gpa);
	struct domain *d;

	if (rc)
		return rc;
	iommu_begin_change(io);
	rc = find_table(io, domain, &d);
	if (!rc)
		rc = map_range(io, d, first, last, gpa, access);
	iommu_end_change(io);
	return rc;
}

/* --- unmap --- */

/* Does an end of [first, last] lie inside a mapping? io->lock held. */
static bool splits(const struct domain *d, uint64_t first, uint64_t last)
{
	const struct range_node *low = range_tree_find(&d->mappings, first);
	const struct range_node *high = range_tree_find(&d->mappings, last);

	return (low && low->first < first) || (high && high->last > last);
}

/* Take all of [first, last] out of the table, as a list. */
static int take_range(
	struct iommu *io, struct domain *d, uint64_t first, uint64_t last, struct mapping **list)
{
	struct mapping **end = list;
	struct range_node *n;
	int rc;

	*list = NULL;
	pthread_mutex_lock(&io->lock);
	rc = splits(d, first, last) ? -ERANGE : 0;
	while (!rc && (n = range_tree_first(&d->mappings, first, last))) {
		struct mapping *map = container_of(n, struct mapping, node);

		range_tree_remove(&d->mappings, n);
		io->nr_mappings--;
		map->next = NULL;
		*end = map;
		end = &map->next;
	}
	pthread_mutex_unlock(&io->lock);
	return rc;
}

static int unmap_range(struct iommu *io, struct domain *d, uint64_t first, uint64_t last)
{
	struct dma_space **all;
	struct mapping *list, *next;
	unsigned nr;
	int rc;

	all = spaces_of(io, d, &nr);
	if (!all)
		return -ENOMEM;
	rc = take_range(io, d, first, last, &list);
	for (unsigned i = 0; i < nr && list; i++) {
		dma_take_back(all[i], first, last);
		untell_mappings(all[i], list);
	}
	drop_spaces(all, nr);
	for (; list; list = next) {
		next = list->next;
		free(list);
	}
	return rc;
}

int iommu_unmap(struct iommu *io, uint32_t domain, uint64_t first, uint64_t last)
{
	struct domain *d;
	int rc;

	if (first > last)
		return -ERANGE;
	iommu_begin_change(io);
	rc = find_table(io, domain, &d);
	if (!rc)
		rc = unmap_range(io, d, first, last);
	iommu_end_change(io);
	return rc;
}
