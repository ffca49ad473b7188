#include "serve/vu_irq.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/fd_kind.h"
#include "base/kick.h"
#include "base/util.h"

#define DATA_TYPES                                                                                 \
	(VFIO_USER_IRQ_SET_DATA_NONE | VFIO_USER_IRQ_SET_DATA_BOOL | VFIO_USER_IRQ_SET_DATA_EVENTFD)
#define ACTIONS                                                                                    \
	(VFIO_USER_IRQ_SET_ACTION_MASK | VFIO_USER_IRQ_SET_ACTION_UNMASK |                         \
		VFIO_USER_IRQ_SET_ACTION_TRIGGER)

static const char *type_name(uint32_t type)
{
	static const char *const names[] = { "INTx", "MSI", "MSI-X", "ERR", "REQ" };

	return type < ARRAY_SIZE(names) ? names[type] : "?";
}

/* Firing; all with the lock held */

static void fire(struct vu_irqs *q, struct vu_vector *v)
{
	if (kick(v->fd) == 0)
		return;
	/* Full and blocking, or it was never a descriptor that takes 8 bytes. */
	fd_close(&v->fd);
	q->foul(q->foul_arg);
}

static void intx_update(struct vu_irqs *q)
{
	struct vu_vector *v = q->vectors[PCI_IRQ_INTX];

	if (!v || !q->intx_level || v->masked || v->fd < 0)
		return;
	v->masked = true; /* it asks again with an unmask */
	fire(q, v);
}

static void vector_update(struct vu_irqs *q, struct vu_vector *v)
{
	if (!v->pending || v->masked || v->fd < 0)
		return;
	v->pending = false;
	fire(q, v);
}

static void update(struct vu_irqs *q, enum pci_irq type, uint32_t i)
{
	if (type == PCI_IRQ_INTX)
		intx_update(q);
	else
		vector_update(q, &q->vectors[type][i]);
}

void vu_irqs_set_intx(struct vu_irqs *q, bool level)
{
	pthread_mutex_lock(&q->lock);
	q->intx_level = level;
	intx_update(q);
	pthread_mutex_unlock(&q->lock);
}

void vu_irqs_trigger(struct vu_irqs *q, enum pci_irq type, unsigned vector)
{
	if (vector >= q->count[type])
		return;
	pthread_mutex_lock(&q->lock);
	q->vectors[type][vector].pending = true;
	update(q, type, vector);
	pthread_mutex_unlock(&q->lock);
}

/* Masking INTx by eventfd */

static void watch_stop(struct vu_irq_watch *w)
{
	loop_del(&w->src);
	fd_close(&w->fd);
}

static void intx_set_masked(struct vu_irqs *q, bool masked)
{
	pthread_mutex_lock(&q->lock);
	q->vectors[PCI_IRQ_INTX]->masked = masked;
	intx_update(q);
	pthread_mutex_unlock(&q->lock);
}

static void on_unmask(struct loop_source *src, uint32_t events)
{
	intx_set_masked(container_of(src, struct vu_irq_watch, src)->irqs, false);
}

static void on_mask(struct loop_source *src, uint32_t events)
{
	intx_set_masked(container_of(src, struct vu_irq_watch, src)->irqs, true);
}

/* Takes *fd when it can be watched. */
static int watch_start(struct vu_irq_watch *w, int *fd, loop_fd_fn fn, struct err *err)
{
	int rc;

	watch_stop(w);
	rc = loop_add(w->irqs->loop, &w->src, *fd, EPOLLIN | EPOLLET, fn);
	if (rc)
		return err_set(err, rc, "watching the eventfd: %s", strerror(-rc));
	w->fd = fd_take(fd);
	return 0;
}

/* Setting */

static int check(const struct vu_irqs *q, const struct vfio_user_irq_set *set, size_t len,
	const int *fds, int nr_fds, struct err *err)
{
	uint32_t data = set->flags & DATA_TYPES, action = set->flags & ACTIONS;

	if (!is_pow2(data) || !is_pow2(action) || set->flags & ~(DATA_TYPES | ACTIONS))
		return err_set(err, -EINVAL, "flags 0x%x, expected one kind of data and one action",
			set->flags);
	if (set->index >= PCI_IRQ_TYPES)
		return err_set(err, -EINVAL, "interrupt type %u, expected 0 to %d", set->index,
			PCI_IRQ_TYPES - 1);
	if (!range_ok(set->start, set->count, q->count[set->index]))
		return err_set(err, -EINVAL, "%s %u+%u, there are %u", type_name(set->index),
			set->start, set->count, q->count[set->index]);
	if (!set->count && (set->start || data != VFIO_USER_IRQ_SET_DATA_NONE ||
				   action != VFIO_USER_IRQ_SET_ACTION_TRIGGER))
		return err_set(err, -EINVAL, "count 0 only switches a whole type off");
	if (set->index >= PCI_IRQ_ERR && action != VFIO_USER_IRQ_SET_ACTION_TRIGGER)
		return err_set(err, -EINVAL, "%s can not be masked", type_name(set->index));
	if (len != (data == VFIO_USER_IRQ_SET_DATA_BOOL ? set->count : 0))
		return err_set(
			err, -EINVAL, "%zu bytes of data for %u interrupts", len, set->count);
	if (nr_fds && (data != VFIO_USER_IRQ_SET_DATA_EVENTFD || (uint32_t)nr_fds != set->count))
		return err_set(
			err, -EINVAL, "%d descriptors for %u interrupts", nr_fds, set->count);
	if (data == VFIO_USER_IRQ_SET_DATA_EVENTFD && action != VFIO_USER_IRQ_SET_ACTION_TRIGGER &&
		set->index != PCI_IRQ_INTX)
		return err_set(err, -EINVAL, "%s is masked by message only", type_name(set->index));
	for (int i = 0; i < nr_fds; i++)
		if (!fd_is_eventfd(q->self_fds, fds[i]))
			return err_set(
				err, -EINVAL, "descriptor %d of %d is not an eventfd", i, nr_fds);
	return 0;
}

static void listen_to(struct vu_irqs *q, enum pci_irq type, uint32_t i, int fd)
{
	struct vu_vector *v = &q->vectors[type][i];
	bool had = v->fd >= 0;

	pthread_mutex_lock(&q->lock);
	fd_close(&v->fd);
	v->fd = fd;
	/* A line that masked itself for the last listener must not stay mute for the next. */
	if (!had && type == PCI_IRQ_INTX)
		v->masked = false;
	update(q, type, i);
	pthread_mutex_unlock(&q->lock);
	if (q->model->ops->irq_state && had != (fd >= 0))
		q->model->ops->irq_state(q->model, type, i, fd >= 0);
}

static void switch_off(struct vu_irqs *q, enum pci_irq type)
{
	for (uint32_t i = 0; i < q->count[type]; i++) {
		listen_to(q, type, i, -1);
		q->vectors[type][i].masked = q->vectors[type][i].pending = false;
	}
	if (type == PCI_IRQ_INTX) {
		watch_stop(&q->unmask);
		watch_stop(&q->mask);
	}
}

static int set_by_eventfd(struct vu_irqs *q, const struct vfio_user_irq_set *set, int *fds,
	int nr_fds, struct err *err)
{
	bool unmask = set->flags & VFIO_USER_IRQ_SET_ACTION_UNMASK;
	struct vu_irq_watch *w = unmask ? &q->unmask : &q->mask;

	if (set->flags & VFIO_USER_IRQ_SET_ACTION_TRIGGER) {
		for (uint32_t i = 0; i < set->count; i++)
			listen_to(q, set->index, set->start + i, nr_fds ? fd_take(&fds[i]) : -1);
		return 0;
	}
	if (nr_fds)
		return watch_start(w, fds, unmask ? on_unmask : on_mask, err);
	watch_stop(w);
	return 0;
}

static void act(struct vu_irqs *q, enum pci_irq type, uint32_t i, uint32_t action)
{
	struct vu_vector *v = &q->vectors[type][i];

	pthread_mutex_lock(&q->lock);
	if (action == VFIO_USER_IRQ_SET_ACTION_TRIGGER) {
		if (v->fd >= 0)
			fire(q, v);
	} else {
		v->masked = action == VFIO_USER_IRQ_SET_ACTION_MASK;
		update(q, type, i);
	}
	pthread_mutex_unlock(&q->lock);
}

int vu_irqs_set(struct vu_irqs *q, const struct vfio_user_irq_set *set, const uint8_t *bools,
	size_t len, int *fds, int nr_fds, struct err *err)
{
	int rc = check(q, set, len, fds, nr_fds, err);

	if (rc)
		return rc;
	if (!set->count) {
		switch_off(q, set->index);
		return 0;
	}
	if (set->flags & VFIO_USER_IRQ_SET_DATA_EVENTFD)
		return set_by_eventfd(q, set, fds, nr_fds, err);
	for (uint32_t i = 0; i < set->count; i++)
		if (!len || bools[i])
			act(q, set->index, set->start + i, set->flags & ACTIONS);
	return 0;
}

uint32_t vu_irqs_flags(const struct vu_irqs *q, enum pci_irq type)
{
	switch (type) {
	case PCI_IRQ_INTX:
		return VFIO_USER_IRQ_FLAG_EVENTFD | VFIO_USER_IRQ_FLAG_MASKABLE |
		       VFIO_USER_IRQ_FLAG_AUTOMASKED;
	case PCI_IRQ_MSI:
	case PCI_IRQ_MSIX:
		return VFIO_USER_IRQ_FLAG_EVENTFD | VFIO_USER_IRQ_FLAG_MASKABLE;
	default:
		return VFIO_USER_IRQ_FLAG_EVENTFD;
	}
}

void vu_irqs_reset(struct vu_irqs *q)
{
	for (int type = 0; type < PCI_IRQ_TYPES; type++)
		switch_off(q, type);
}

int vu_irqs_init(struct vu_irqs *q, struct loop *loop, struct pci_model *model,
	void (*foul)(void *arg), void *arg, struct err *err)
{
	*q = (struct vu_irqs){
		.loop = loop,
		.model = model,
		.foul = foul,
		.foul_arg = arg,
		.unmask = { .irqs = q, .fd = -1 },
		.mask = { .irqs = q, .fd = -1 },
	};
	pthread_mutex_init(&q->lock, NULL);
	q->self_fds = fd_kind_open();
	if (q->self_fds < 0)
		return err_set(err, q->self_fds, "/proc/self/fd: %s", strerror(-q->self_fds));
	for (int type = 0; type < PCI_IRQ_TYPES; type++) {
		/* Error and request are the port's to offer; every device has one of each. */
		uint32_t count = type < PCI_IRQ_ERR ? model->irq_count[type] : 1;

		if (!count)
			continue;
		q->vectors[type] = calloc(count, sizeof(*q->vectors[type]));
		if (!q->vectors[type])
			return err_set(err, -ENOMEM, "out of memory");
		q->count[type] = count;
		for (uint32_t i = 0; i < count; i++)
			q->vectors[type][i].fd = -1;
	}
	return 0;
}

void vu_irqs_fini(struct vu_irqs *q)
{
	if (!q->loop)
		return;
	vu_irqs_reset(q);
	for (int type = 0; type < PCI_IRQ_TYPES; type++)
		free(q->vectors[type]);
	fd_close(&q->self_fds);
	pthread_mutex_destroy(&q->lock);
	q->loop = NULL;
}
