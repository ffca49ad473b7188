/*
 * irq.c - KVM's GSI routing table and the irqfds that hang on it
 *
 * KVM takes the table whole, so a change sends all of it; setting several
 * vectors at once sends it once. A vector that a remapper blocks keeps route and irqfd: what it
 * is signalled is lost.
 *
 * Owns: GSI numbers, the copy of the table. Eventfds belong to their vectors.
 * Locks: `lock` guards table, numbers, taps and pins; inside it are a remapper's own locks alone.
 */
#include "machine/irq.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "machine/irq_priv.h"
#include "machine/layout.h"

/* --- remapping; lock held --- */

/* No processor has this id, with 32-bit destinations. */
static const struct msi_message nowhere = {
	.addr = 0x7fffff00ull << 32 | LAYOUT_LAPIC | 0xfe << 12,
	.data = 1u << 14 | 0xff,
};

static bool same_message(const struct msi_message *a, const struct msi_message *b)
{
	return a->addr == b->addr && a->data == b->data;
}

bool irq_route_resolve(struct irqs *irqs, struct irq_route *r, bool report)
{
	const struct irq_remapper *m = irqs->remapper;
	struct msi_message before = r->out;

	if (!m)
		r->out = r->msg;
	else if (!m->resolve(m->arg, r->source, &r->msg, &r->out, report))
		r->out = nowhere;
	return !same_message(&before, &r->out);
}

void irqs_set_remapper(struct irqs *irqs, const struct irq_remapper *remapper)
{
	pthread_mutex_lock(&irqs->lock);
	irqs->remapper = remapper;
	pthread_mutex_unlock(&irqs->lock);
}

int irqs_send(struct irqs *irqs, const struct msi_message *msg)
{
	struct kvm_msi msi = {
		.address_lo = (uint32_t)msg->addr,
		.address_hi = (uint32_t)(msg->addr >> 32),
		.data = msg->data,
	};
	int rc = kvm_vm_ioctl(irqs->kvm, KVM_SIGNAL_MSI, &msi);

	return MIN(rc, 0);
}

/* --- the table; lock held --- */

static struct kvm_irq_routing_entry msi_entry(unsigned gsi, const struct irq_route *r)
{
	return (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = {
			.address_lo = (uint32_t)r->out.addr,
			.address_hi = (uint32_t)(r->out.addr >> 32),
			.data = r->out.data,
		},
	};
}

/* The entry of a pin. False: there is none. */
static bool pin_entry(const struct irqs *irqs, unsigned pin, struct kvm_irq_routing_entry *e)
{
	if (irqs->kvm->split_irqchip) {
		*e = msi_entry(pin, &irqs->pins[pin].route);
		return irqs->pins[pin].routed;
	}
	*e = (struct kvm_irq_routing_entry){
		.gsi = pin,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = pin },
	};
	return true;
}

/* IOAPIC pins first, then every routed MSI. */
int irq_send_routes(struct irqs *irqs)
{
	struct kvm_irq_routing *t = irqs->table;
	unsigned n = 0;
	int rc;

	for (unsigned pin = 0; pin < GSI_IOAPIC_COUNT; pin++)
		n += pin_entry(irqs, pin, &t->entries[n]);
	for (unsigned i = 0; i < irqs->nr_msi; i++)
		if (irqs->msi[i].routed)
			t->entries[n++] = msi_entry(GSI_MSI_BASE + i, &irqs->msi[i].route);
	t->nr = n;
	t->flags = 0;
	rc = kvm_vm_ioctl(irqs->kvm, KVM_SET_GSI_ROUTING, t);
	irqs->stale = rc;
	return rc;
}

int irqs_new(struct kvm *kvm, struct irqs **out)
{
	struct irqs *irqs = calloc(1, sizeof(*irqs));
	/*
	 * KVM's own limit is 4096 routes; 1024 device vectors are plenty and keep the table small.
	 */
	unsigned routes = MIN(kvm->nr_gsi_routes, 1024u);
	int rc = -ENOMEM;

	if (!irqs)
		return -ENOMEM;
	pthread_mutex_init(&irqs->lock, NULL);
	irqs->kvm = kvm;
	irqs->nr_msi = routes > GSI_MSI_BASE ? routes - GSI_MSI_BASE : 0;
	irqs->msi = calloc(irqs->nr_msi, sizeof(*irqs->msi));
	irqs->table = calloc(1, sizeof(*irqs->table) + (GSI_IOAPIC_COUNT + irqs->nr_msi) *
							       sizeof(irqs->table->entries[0]));
	irq_pins_init(irqs);
	if (irqs->msi && irqs->table)
		rc = irq_send_routes(irqs);
	irqs->kvm_ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
	if (!rc && !kvm->split_irqchip)
		rc = kvm_vm_ioctl(kvm, KVM_GET_IRQCHIP, &irqs->kvm_ioapic);
	if (rc) {
		irqs_free(irqs);
		return rc;
	}
	*out = irqs;
	return 0;
}

void irqs_free(struct irqs *irqs)
{
	if (!irqs)
		return;
	irq_pins_fini(irqs);
	pthread_mutex_destroy(&irqs->lock);
	free(irqs->msi);
	free(irqs->table);
	free(irqs);
}

int irqs_reset(struct irqs *irqs)
{
	int rc;

	if (!irqs->kvm->split_irqchip)
		return kvm_vm_ioctl(irqs->kvm, KVM_SET_IRQCHIP, &irqs->kvm_ioapic);
	pthread_mutex_lock(&irqs->lock);
	irq_pins_reset(irqs);
	rc = irq_send_routes(irqs);
	pthread_mutex_unlock(&irqs->lock);
	return rc;
}

static int gsi_alloc(struct irqs *irqs)
{
	int gsi = -ENOSPC;

	pthread_mutex_lock(&irqs->lock);
	for (unsigned i = 0; i < irqs->nr_msi && gsi < 0; i++)
		if (!irqs->msi[i].used) {
			irqs->msi[i] = (struct msi_route){ .used = true };
			gsi = (int)(GSI_MSI_BASE + i);
		}
	pthread_mutex_unlock(&irqs->lock);
	return gsi;
}

int irq_vector_prepare(struct irqs *irqs, struct irq_vector *v)
{
	if (v->eventfd < 0) {
		int fd = fd_eventfd();

		if (fd < 0)
			return fd;
		v->eventfd = fd;
	}
	if (!v->gsi) {
		int gsi = gsi_alloc(irqs);

		if (gsi < 0)
			return gsi;
		v->gsi = gsi;
	}
	return 0;
}

/*
 * Connecting an eventfd that was signalled already raises the interrupt but leaves the count there,
 * where it would look like a second one at the next mask: take it out. A signal that comes after
 * the connection is read by KVM as it comes.
 */
int irq_irqfd(struct irqs *irqs, unsigned gsi, int fd, int resample, uint32_t flags)
{
	struct kvm_irqfd arg = {
		.fd = (uint32_t)fd,
		.gsi = gsi,
		.flags = flags,
		.resamplefd = (uint32_t)resample,
	};

	int rc = kvm_vm_ioctl(irqs->kvm, KVM_IRQFD, &arg);

	if (!rc && !(flags & KVM_IRQFD_FLAG_DEASSIGN))
		fd_clear(fd);
	return rc;
}

/*
 * --- taps; lock held ---
 *
 * A tap's eventfd is not ours: nothing is read from it, since that may wait. A count that stays
 * there makes an interrupt too many at the next unmask, which drivers bear.
 */

static int tap_irqfd(struct irqs *irqs, const struct irq_tap *tap, uint32_t flags)
{
	struct kvm_irqfd arg = {
		.fd = (uint32_t)tap->fd,
		.gsi = (uint32_t)tap->vector->gsi,
		.flags = flags,
	};

	return kvm_vm_ioctl(irqs->kvm, KVM_IRQFD, &arg);
}

static void tap_disconnect(struct irqs *irqs, struct irq_tap *tap)
{
	if (tap->live)
		tap_irqfd(irqs, tap, KVM_IRQFD_FLAG_DEASSIGN);
	tap->live = false;
}

static int tap_connect(struct irqs *irqs, struct irq_tap *tap)
{
	int rc;

	if (tap->live || tap->fd < 0 || !tap->vector->live)
		return 0;
	rc = tap_irqfd(irqs, tap, 0);
	tap->live = !rc;
	return rc;
}

static void taps_disconnect(struct irqs *irqs, struct irq_vector *v)
{
	for (struct irq_tap *tap = v->taps; tap; tap = tap->next)
		tap_disconnect(irqs, tap);
}

/* What KVM does not take was looked at when it came: nobody waits for it any more. */
static void taps_connect(struct irqs *irqs, struct irq_vector *v)
{
	for (struct irq_tap *tap = v->taps; tap; tap = tap->next)
		if (tap_connect(irqs, tap))
			log_debug("irq: KVM does not take a descriptor that raises GSI %d", v->gsi);
}

static void tap_unlink(struct irq_tap *tap)
{
	struct irq_tap **at;

	if (!tap->vector)
		return;
	for (at = &tap->vector->taps; *at != tap; at = &(*at)->next)
		assert(*at);
	*at = tap->next;
	tap->vector = NULL;
}

static int tap_move(struct irqs *irqs, struct irq_tap *tap, struct irq_vector *v, int fd)
{
	int rc = 0;

	tap_disconnect(irqs, tap);
	tap_unlink(tap);
	tap->fd = fd;
	if (v) {
		tap->vector = v;
		tap->next = v->taps;
		v->taps = tap;
		rc = tap_connect(irqs, tap);
	}
	if (rc)
		tap->fd = -1;
	return rc;
}

void irq_vectors_mask(struct irqs *irqs, struct irq_vector *v, unsigned nr)
{
	bool changed = false;

	for (unsigned i = 0; i < nr; i++)
		if (v[i].live)
			irq_irqfd(
				irqs, (unsigned)v[i].gsi, v[i].eventfd, 0, KVM_IRQFD_FLAG_DEASSIGN);
	pthread_mutex_lock(&irqs->lock);
	for (unsigned i = 0; i < nr; i++)
		if (v[i].live) {
			taps_disconnect(irqs, &v[i]);
			irqs->msi[v[i].gsi - GSI_MSI_BASE].routed = false;
			v[i].live = false;
			changed = true;
		}
	if (changed)
		irq_send_routes(irqs);
	pthread_mutex_unlock(&irqs->lock);
}

void irq_vector_mask(struct irqs *irqs, struct irq_vector *v)
{
	if (v->live)
		irq_vectors_mask(irqs, v, 1);
}

void irq_vector_release(struct irqs *irqs, struct irq_vector *v)
{
	irq_vector_mask(irqs, v);
	if (v->gsi) {
		pthread_mutex_lock(&irqs->lock);
		irqs->msi[v->gsi - GSI_MSI_BASE].used = false;
		pthread_mutex_unlock(&irqs->lock);
		v->gsi = 0;
	}
	fd_close(&v->eventfd);
}

static bool route_differs(const struct msi_route *r, const struct irq_vector *v)
{
	return !r->routed || !same_message(&r->route.msg, &v->msg) || r->route.source != v->source;
}

static struct msi_route *route_of(struct irqs *irqs, const struct irq_vector *v)
{
	return &irqs->msi[v->gsi - GSI_MSI_BASE];
}

/*
 * Route all of v, in one table update. KVM takes a table whole or not at all: if it does not, those
 * that would have changed are without a route, in the next table too.
 */
static int route(struct irqs *irqs, struct irq_vector *const *v, unsigned nr)
{
	bool changed = false;
	int rc = 0;

	pthread_mutex_lock(&irqs->lock);
	for (unsigned i = 0; i < nr; i++) {
		struct msi_route *r = route_of(irqs, v[i]);

		r->fresh = route_differs(r, v[i]);
		if (r->fresh) {
			r->routed = true;
			r->route.msg = v[i]->msg;
			r->route.source = v[i]->source;
			irq_route_resolve(irqs, &r->route, true);
			changed = true;
		}
	}
	if (changed)
		rc = irq_send_routes(irqs);
	for (unsigned i = 0; i < nr && rc; i++)
		if (route_of(irqs, v[i])->fresh)
			route_of(irqs, v[i])->routed = false;
	pthread_mutex_unlock(&irqs->lock);
	return rc;
}

/* KVM does not deliver it: what it is signalled stays pending. */
static void keep_masked(struct irqs *irqs, struct irq_vector *v)
{
	if (v->live)
		irq_irqfd(irqs, (unsigned)v->gsi, v->eventfd, 0, KVM_IRQFD_FLAG_DEASSIGN);
	pthread_mutex_lock(&irqs->lock);
	taps_disconnect(irqs, v);
	v->live = false;
	route_of(irqs, v)->routed = false;
	pthread_mutex_unlock(&irqs->lock);
}

static void set_live(struct irqs *irqs, struct irq_vector *v)
{
	pthread_mutex_lock(&irqs->lock);
	v->live = true;
	taps_connect(irqs, v);
	pthread_mutex_unlock(&irqs->lock);
}

int irq_vectors_unmask(struct irqs *irqs, struct irq_vector *const *v, unsigned nr)
{
	int first = route(irqs, v, nr);

	for (unsigned i = 0; i < nr; i++) {
		int rc = route_of(irqs, v[i])->routed ? 0 : first;

		if (!rc && !v[i]->live)
			rc = irq_irqfd(irqs, (unsigned)v[i]->gsi, v[i]->eventfd, 0, 0);
		if (rc)
			keep_masked(irqs, v[i]);
		else if (!v[i]->live)
			set_live(irqs, v[i]);
		if (!first)
			first = rc;
	}
	return first;
}

int irq_tap_vector(struct irqs *irqs, struct irq_tap *tap, struct irq_vector *v)
{
	int rc;

	pthread_mutex_lock(&irqs->lock);
	rc = tap_move(irqs, tap, v, tap->fd);
	pthread_mutex_unlock(&irqs->lock);
	return rc;
}

int irq_tap_fd(struct irqs *irqs, struct irq_tap *tap, int fd)
{
	int rc;

	pthread_mutex_lock(&irqs->lock);
	rc = tap_move(irqs, tap, tap->vector, fd);
	pthread_mutex_unlock(&irqs->lock);
	return rc;
}

static bool is_signalled(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return fd >= 0 && poll(&p, 1, 0) == 1 && p.revents & POLLIN;
}

bool irq_vector_pending(struct irqs *irqs, const struct irq_vector *v)
{
	bool pending;

	pthread_mutex_lock(&irqs->lock);
	pending = !v->live && is_signalled(v->eventfd);
	for (struct irq_tap *tap = v->taps; tap && !pending; tap = tap->next)
		pending = !v->live && is_signalled(tap->fd);
	pthread_mutex_unlock(&irqs->lock);
	return pending;
}

void irqs_remap(struct irqs *irqs)
{
	bool changed;

	pthread_mutex_lock(&irqs->lock);
	changed = irq_pins_resolve(irqs) || irqs->stale;
	for (unsigned i = 0; i < irqs->nr_msi; i++)
		if (irqs->msi[i].routed)
			changed |= irq_route_resolve(irqs, &irqs->msi[i].route, false);
	if (changed && irq_send_routes(irqs))
		log_limited(&irqs->limit, LOG_WARN,
			"irq: KVM refuses the routes of remapped interrupts: they go where they went");
	pthread_mutex_unlock(&irqs->lock);
}

/* --- lines --- */

int irq_line_connect(struct irqs *irqs, unsigned gsi, int trigger, int resample)
{
	int rc;

	if (irqs->kvm->split_irqchip) {
		pthread_mutex_lock(&irqs->lock);
		rc = irq_pin_connect(irqs, gsi, trigger, resample);
		pthread_mutex_unlock(&irqs->lock);
		return rc;
	}
	if (resample < 0)
		return irq_irqfd(irqs, gsi, trigger, 0, 0);
	return irq_irqfd(irqs, gsi, trigger, resample, KVM_IRQFD_FLAG_RESAMPLE);
}

void irq_line_disconnect(struct irqs *irqs, unsigned gsi, int trigger)
{
	if (irqs->kvm->split_irqchip) {
		pthread_mutex_lock(&irqs->lock);
		irq_pin_disconnect(irqs, gsi, trigger);
		pthread_mutex_unlock(&irqs->lock);
		return;
	}
	irq_irqfd(irqs, gsi, trigger, 0, KVM_IRQFD_FLAG_DEASSIGN);
}

bool irq_line_is_open(struct irqs *irqs, unsigned gsi)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	bool open;

	if (!irqs->kvm->split_irqchip)
		return !kvm_vm_ioctl(irqs->kvm, KVM_GET_IRQCHIP, &chip) &&
		       !chip.chip.ioapic.redirtbl[gsi].fields.mask;
	pthread_mutex_lock(&irqs->lock);
	open = !ioapic_masked(&irqs->ioapic, gsi);
	pthread_mutex_unlock(&irqs->lock);
	return open;
}

/* Lock held. */
static void drive(struct irqs *irqs, unsigned gsi, bool level)
{
	struct kvm_irq_level arg = { .irq = gsi, .level = level };

	if (irqs->kvm->split_irqchip)
		ioapic_set_line(&irqs->ioapic, gsi, level);
	else
		kvm_vm_ioctl(irqs->kvm, KVM_IRQ_LINE, &arg);
}

void irq_line_set(struct irqs *irqs, unsigned gsi, bool level)
{
	pthread_mutex_lock(&irqs->lock);
	drive(irqs, gsi, level);
	pthread_mutex_unlock(&irqs->lock);
}

void irq_line_share(struct irqs *irqs, unsigned gsi, bool raise)
{
	unsigned before;

	assert(gsi < GSI_IOAPIC_COUNT);
	pthread_mutex_lock(&irqs->lock);
	before = irqs->sharers[gsi];
	assert(raise || before);
	irqs->sharers[gsi] = raise ? before + 1 : before - 1;
	/* The first raises it, the last lowers it; in the order of the counting. */
	if (!before || !irqs->sharers[gsi])
		drive(irqs, gsi, raise);
	pthread_mutex_unlock(&irqs->lock);
}
