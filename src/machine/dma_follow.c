/*
 * dma_follow.c - telling those who follow a space what it shows
 *
 * A large view is told in parts, each of which is waited for: what is under way is bounded. A
 * listener that is told of a view while others go on changing it hears of a change if it lies below
 * what it was told of last; the rest it meets later as it is then.
 */
#include <assert.h>
#include <errno.h>
#include <limits.h>

#include "machine/dma_priv.h"

/* From one range to the next; 0 at the end of the address space. */
static uint64_t behind(const struct dma_range *r)
{
	return r->iova + r->size;
}

/* It will be met, or not, where the listener has not come to yet. */
static bool is_ahead(const struct dma_listener *l, const struct dma_range *r)
{
	return l->partly && r->iova >= l->told;
}

/* One range is not told of in two parts. */
static void pass(struct dma_listener *l, const struct dma_range *r)
{
	uint64_t last = r->iova + (r->size - 1);

	if (l->partly && last >= l->told)
		l->told = last == UINT64_MAX ? last : last + 1;
}

int dma_tell_map(struct dma_space *s, const struct dma_range *r)
{
	int rc = 0;

	for (struct dma_listener *l = s->listeners; l && !rc; l = l->next) {
		if (is_ahead(l, r))
			continue;
		pass(l, r);
		rc = l->map(l, r);
	}
	return rc;
}

void dma_tell_unmap(struct dma_space *s, const struct dma_range *r)
{
	for (struct dma_listener *l = s->listeners; l; l = l->next)
		if (!is_ahead(l, r))
			l->unmap(l, r);
}

int dma_tell_sync(struct dma_space *s)
{
	int first = 0;

	for (struct dma_listener *l = s->listeners; l; l = l->next) {
		int rc = l->sync ? l->sync(l) : 0;

		first = first ? first : rc;
	}
	return first;
}

int dma_tell_view(struct dma_space *s, const struct dma_target *view)
{
	struct dma_range r;
	uint64_t at = 0;
	unsigned nr = 0;
	int rc = 0;

	while (!rc && dma_next_range(s, view, at, &r)) {
		rc = dma_tell_map(s, &r);
		if (!rc && ++nr % DMA_SYNC_EVERY == 0)
			rc = dma_tell_sync(s);
		at = behind(&r);
		if (!at)
			break;
	}
	return rc ? rc : dma_tell_sync(s);
}

void dma_untell_view(struct dma_space *s, const struct dma_target *view)
{
	struct dma_range r;
	uint64_t at = 0;
	unsigned nr = 0;

	while (dma_next_range(s, view, at, &r)) {
		dma_tell_unmap(s, &r);
		if (++nr % DMA_SYNC_EVERY == 0)
			dma_tell_sync(s);
		at = behind(&r);
		if (!at)
			break;
	}
	dma_tell_sync(s);
}

/* --- coming and going --- */

/*
 * s->notify held, so the view stays. From l->told on. 1: there may be more than max; 0; or -errno.
 */
static int tell_one(struct dma_space *s, struct dma_listener *l, unsigned max)
{
	struct dma_target view;
	struct dma_range r;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	view = (struct dma_target){ s->view, s->domain, s->io };
	pthread_mutex_unlock(&s->lock);
	while (l->told != UINT64_MAX && dma_next_range(s, &view, l->told, &r)) {
		if (!max--)
			return 1;
		rc = l->map(l, &r);
		if (rc)
			return rc;
		pass(l, &r);
	}
	return 0;
}

int dma_listen(struct dma_space *s, struct dma_listener *l)
{
	int rc;

	pthread_mutex_lock(&s->notify);
	l->next = s->listeners;
	s->listeners = l;
	l->partly = true;
	l->told = 0;
	rc = tell_one(s, l, UINT_MAX);
	l->partly = false;
	pthread_mutex_unlock(&s->notify);
	return rc;
}

void dma_unlisten(struct dma_space *s, struct dma_listener *l)
{
	struct dma_listener **at;

	pthread_mutex_lock(&s->notify);
	for (at = &s->listeners; *at && *at != l; at = &(*at)->next)
		;
	if (*at)
		*at = l->next;
	pthread_mutex_unlock(&s->notify);
}

/* s->lock keeps the domain for the moment of each step. */
static bool next_now(struct dma_space *s, uint64_t at, struct dma_range *r)
{
	bool found;

	pthread_mutex_lock(&s->lock);
	found = dma_next_range(s, &(struct dma_target){ s->view, s->domain, s->io }, at, r);
	pthread_mutex_unlock(&s->lock);
	return found;
}

int dma_walk(struct dma_space *s, uint64_t *at, unsigned max,
	int (*fn)(void *arg, const struct dma_range *r), void *arg)
{
	struct dma_range r;

	while (next_now(s, *at, &r)) {
		int rc;

		if (!max--)
			return 1;
		rc = fn(arg, &r);
		if (rc)
			return rc;
		*at = behind(&r);
		if (!*at)
			break;
	}
	return 0;
}

int dma_replay(struct dma_space *s, struct dma_listener *l, void (*begin)(struct dma_listener *l),
	unsigned max)
{
	int rc;

	pthread_mutex_lock(&s->notify);
	if (begin) {
		begin(l);
		l->partly = true;
		l->told = 0;
	}
	l->anew = true;
	rc = l->partly ? tell_one(s, l, max) : 0;
	l->anew = false;
	l->partly = rc == 1;
	pthread_mutex_unlock(&s->notify);
	return rc;
}
