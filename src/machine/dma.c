/*
 * dma.c - what a function's addresses mean: translating them, and holding what they mean
 *
 * A view is cut into pieces twice: by mappings, and by the ranges that RAM consists of. What is
 * mapped to something else than RAM is not there.
 *
 * A space is counted: whoever changes an IOMMU's tables holds those that it tells.
 */
#include "machine/dma.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "machine/dma_priv.h"

/* --- pieces --- */

/* RAM from gpa on, up to `size` bytes of it: where the first piece begins, how long it is. False:
 * none. */
static bool next_ram(const struct memory *m, uint64_t gpa, uint64_t last, struct dma_range *out)
{
	for (unsigned i = 0; i < memory_nr_ranges(m); i++) {
		const struct mem_range *r = memory_range(m, i);
		uint64_t from = MAX(gpa, r->gpa), to = MIN(last, r->gpa + (r->size - 1));

		if (from > to)
			continue;
		out->gpa = from;
		out->size = to - from + 1;
		out->fd = r->fd;
		out->fd_offset = r->fd_offset + (from - r->gpa);
		out->hva = (char *)r->hva + (from - r->gpa);
		return true;
	}
	return false;
}

bool dma_next_piece(
	const struct memory *m, const struct mapping *map, uint64_t at, struct dma_range *out)
{
	uint64_t gpa = map->gpa + (at - map->node.first);

	if (!next_ram(m, gpa, map->gpa + (map->node.last - map->node.first), out))
		return false;
	out->iova = map->node.first + (out->gpa - map->gpa);
	out->access = map->access;
	return true;
}

static bool next_identity(const struct dma_space *s, uint64_t at, struct dma_range *out)
{
	if (!next_ram(s->memory, at, UINT64_MAX, out))
		return false;
	out->iova = out->gpa;
	out->access = DMA_CAN_READ | DMA_CAN_WRITE;
	return true;
}

/* The mapping at or above `at` that this space knows of. io->lock held. */
static const struct mapping *next_mapping(
	const struct dma_space *s, const struct dma_target *view, uint64_t at)
{
	const struct range_tree *t = &view->domain->mappings;
	const struct range_node *n = range_tree_first(t, at, UINT64_MAX);
	const struct mapping *map;

	for (; n; n = range_tree_next(t, n)) {
		map = container_of(n, struct mapping, node);
		if (map != view->io->fresh || s->told == view->io->change_nr)
			return map;
	}
	return NULL;
}

bool dma_next_range(
	struct dma_space *s, const struct dma_target *view, uint64_t at, struct dma_range *out)
{
	const struct mapping *map;
	bool found = false;

	if (view->view != DMA_TABLE)
		return view->view == DMA_IDENTITY && next_identity(s, at, out);
	pthread_mutex_lock(&view->io->lock);
	map = next_mapping(s, view, at);
	while (map && !found) {
		found = dma_next_piece(s->memory, map, MAX(at, map->node.first), out);
		map = found || map->node.last == UINT64_MAX
			      ? NULL
			      : next_mapping(s, view, map->node.last + 1);
	}
	pthread_mutex_unlock(&view->io->lock);
	return found;
}

/* --- translating --- */

/* What holds iova, from there on. s->lock held. */
static int piece_at(struct dma_space *s, uint64_t iova, struct dma_range *out)
{
	const struct range_node *n;
	bool found;

	if (s->view != DMA_TABLE) {
		found = s->view == DMA_IDENTITY && next_identity(s, iova, out);
	} else {
		pthread_mutex_lock(&s->io->lock);
		n = range_tree_find(&s->domain->mappings, iova);
		found = n &&
			dma_next_piece(s->memory, container_of(n, struct mapping, node), iova, out);
		pthread_mutex_unlock(&s->io->lock);
	}
	return found && out->iova == iova ? 0 : -EFAULT;
}

/* The same with that access; out->size is at most len. What goes beyond 2^64 is nowhere. */
static int piece_for(
	struct dma_space *s, uint64_t iova, uint64_t len, unsigned access, struct dma_range *out)
{
	if (len && len - 1 > UINT64_MAX - iova)
		return -EFAULT;
	if (piece_at(s, iova, out) || access & ~out->access)
		return -EFAULT;
	out->size = MIN(out->size, len);
	return 0;
}

/* No lock held. */
static void report(struct dma_space *s, uint64_t iova, unsigned access)
{
	struct iommu *io;
	uint32_t endpoint;
	bool attached;

	pthread_mutex_lock(&s->lock);
	io = s->io;
	endpoint = s->endpoint;
	attached = s->domain;
	pthread_mutex_unlock(&s->lock);
	if (io && io->fault)
		io->fault(io->arg, endpoint, attached, iova, access);
}

static int piece(
	struct dma_space *s, uint64_t iova, uint64_t len, unsigned access, struct dma_range *out)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = piece_for(s, iova, len, access, out);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void *dma_ptr(struct dma_space *s, uint64_t iova, uint64_t *len, unsigned access)
{
	struct dma_range r;

	if (piece(s, iova, *len, access, &r)) {
		report(s, iova, access);
		return NULL;
	}
	*len = r.size;
	return r.hva;
}

int dma_translate(struct dma_space *s, uint64_t iova, uint64_t *len, unsigned access, uint64_t *gpa)
{
	struct dma_range r;
	int rc = piece(s, iova, *len, access, &r);

	if (rc)
		return rc;
	*len = r.size;
	*gpa = r.gpa;
	return 0;
}

int dma_read(struct dma_space *s, uint64_t iova, void *buf, uint64_t len)
{
	for (char *to = buf; len;) {
		uint64_t n = len;
		const void *from = dma_ptr(s, iova, &n, DMA_CAN_READ);

		if (!from)
			return -EFAULT;
		memcpy(to, from, n);
		to += n;
		iova += n;
		len -= n;
	}
	return 0;
}

int dma_write(struct dma_space *s, uint64_t iova, const void *buf, uint64_t len)
{
	for (const char *from = buf; len;) {
		uint64_t n = len;
		void *to = dma_ptr(s, iova, &n, DMA_CAN_WRITE);

		if (!to)
			return -EFAULT;
		memcpy(to, from, n);
		from += n;
		iova += n;
		len -= n;
	}
	return 0;
}

/* --- exports --- */

/* s->lock held. The number of pieces, or -errno and *iova is where it failed. */
static int fill_pieces(struct dma_space *s, uint64_t *iova, uint64_t len, unsigned access,
	struct iovec *iov, unsigned max)
{
	struct dma_range r;
	unsigned nr = 0;

	for (; len; len -= r.size, *iova += r.size) {
		int rc = piece_for(s, *iova, len, access, &r);

		if (rc)
			return rc;
		/* Mappings are pages; what touches in memory is one piece. */
		if (nr && (char *)iov[nr - 1].iov_base + iov[nr - 1].iov_len == r.hva)
			iov[nr - 1].iov_len += r.size;
		else if (nr == max)
			return -E2BIG;
		else
			iov[nr++] = (struct iovec){ r.hva, r.size };
	}
	return (int)nr;
}

int dma_export(struct dma_space *s, struct dma_export *e, uint64_t iova, uint64_t len,
	unsigned access, struct iovec *iov, unsigned max, void (*fault)(void *arg), void *arg)
{
	uint64_t at = iova;
	int rc;

	assert(len);
	*e = (struct dma_export){ 0 };
	pthread_mutex_lock(&s->lock);
	rc = fill_pieces(s, &at, len, access, iov, max);
	if (rc >= 0) {
		*e = (struct dma_export){ .s = s,
			.iova = iova,
			.len = len,
			.fault = fault,
			.arg = arg,
			.next = s->exports };
		s->exports = e;
	}
	pthread_mutex_unlock(&s->lock);
	if (rc == -EFAULT)
		report(s, at, access);
	return rc;
}

void dma_release(struct dma_export *e)
{
	struct dma_space *s = e->s;
	struct dma_export **at;

	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	for (at = &s->exports; *at != e; at = &(*at)->next)
		assert(*at);
	*at = e->next;
	e->s = NULL;
	pthread_cond_broadcast(&s->released);
	while (s->faulting == e && !pthread_equal(s->faulter, pthread_self()))
		pthread_cond_wait(&s->released, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

static bool hits(const struct dma_export *e, uint64_t first, uint64_t last)
{
	return e->iova <= last && e->iova + (e->len - 1) >= first;
}

/* s->lock held, let go of for each call. */
static void call_faults(struct dma_space *s, uint64_t first, uint64_t last)
{
	struct dma_export *e = s->exports;

	while (e) {
		if (e->faulted || !hits(e, first, last)) {
			e = e->next;
			continue;
		}
		void (*fault)(void *arg) = e->fault;
		void *arg = e->arg;

		e->faulted = true;
		s->faulting = e;
		s->faulter = pthread_self();
		pthread_mutex_unlock(&s->lock);
		fault(arg);
		pthread_mutex_lock(&s->lock);
		s->faulting = NULL;
		pthread_cond_broadcast(&s->released);
		/* The list is another one now. */
		e = s->exports;
	}
}

static bool any_hit(const struct dma_space *s, uint64_t first, uint64_t last)
{
	for (const struct dma_export *e = s->exports; e; e = e->next)
		if (hits(e, first, last))
			return true;
	return false;
}

void dma_take_back(struct dma_space *s, uint64_t first, uint64_t last)
{
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += DMA_RELEASE_MS / 1000;
	pthread_mutex_lock(&s->lock);
	call_faults(s, first, last);
	while (any_hit(s, first, last) && !rc)
		rc = pthread_cond_timedwait(&s->released, &s->lock, &until);
	pthread_mutex_unlock(&s->lock);
	if (rc)
		log_err("%s: memory at 0x%llx that the guest takes back is still in use after %d ms",
			s->id, (unsigned long long)first, DMA_RELEASE_MS);
}

/* --- life --- */

static bool is_identity(struct dma_space *s)
{
	bool identity;

	pthread_mutex_lock(&s->lock);
	identity = s->view == DMA_IDENTITY;
	pthread_mutex_unlock(&s->lock);
	return identity;
}

static void ram_added(struct memory_listener *l, const struct mem_range *r)
{
	struct dma_space *s = container_of(l, struct dma_space, ram);
	const struct dma_range range = {
		.iova = r->gpa,
		.gpa = r->gpa,
		.size = r->size,
		.access = DMA_CAN_READ | DMA_CAN_WRITE,
		.fd = r->fd,
		.fd_offset = r->fd_offset,
		.hva = r->hva,
	};

	pthread_mutex_lock(&s->notify);
	if (is_identity(s) && dma_tell_map(s, &range))
		log_err("%s: RAM at 0x%llx is out of the device's reach", s->id,
			(unsigned long long)r->gpa);
	pthread_mutex_unlock(&s->notify);
}

static void ram_removed(struct memory_listener *l, const struct mem_range *r)
{
	struct dma_space *s = container_of(l, struct dma_space, ram);
	const struct dma_range range = { .iova = r->gpa, .gpa = r->gpa, .size = r->size, .fd = -1 };

	pthread_mutex_lock(&s->notify);
	if (is_identity(s))
		dma_tell_unmap(s, &range);
	pthread_mutex_unlock(&s->notify);
}

int dma_space_new(struct memory *memory, const char *id, struct dma_space **out)
{
	struct dma_space *s = calloc(1, sizeof(*s));
	pthread_condattr_t monotonic;

	if (s)
		s->id = strdup(id);
	if (!s || !s->id) {
		free(s);
		return -ENOMEM;
	}
	s->memory = memory;
	s->limits.last = UINT64_MAX;
	s->refs = 1;
	s->ram = (struct memory_listener){ .add = ram_added, .remove = ram_removed };
	pthread_mutex_init(&s->notify, NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&s->released, &monotonic);
	pthread_condattr_destroy(&monotonic);
	memory_listen(memory, &s->ram);
	*out = s;
	return 0;
}

void dma_space_free(struct dma_space *s)
{
	if (!s)
		return;
	assert(!s->listeners && !s->exports && !s->io);
	memory_unlisten(s->memory, &s->ram);
	dma_space_drop(s);
}

struct dma_space *dma_space_hold(struct dma_space *s)
{
	atomic_fetch_add(&s->refs, 1);
	return s;
}

void dma_space_drop(struct dma_space *s)
{
	if (atomic_fetch_sub(&s->refs, 1) != 1)
		return;
	pthread_cond_destroy(&s->released);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->notify);
	free(s->id);
	free(s);
}

bool dma_is_translated(const struct dma_space *s)
{
	return atomic_load(&s->translated);
}

void dma_will_be_translated(struct dma_space *s)
{
	atomic_store(&s->translated, true);
}

void dma_space_limit(struct dma_space *s, const struct dma_limits *limits)
{
	assert(limits->nr_holes <= DMA_MAX_HOLES);
	pthread_mutex_lock(&s->lock);
	assert(!s->io);
	s->limits = *limits;
	pthread_mutex_unlock(&s->lock);
}
