/*
 * vfio_pci_irq.c - the device's interrupts: eventfds from the device process to KVM
 *
 * A device has eventfds of one kind at a time: INTx, or MSI, or MSI-X, as the guest has
 * switched them on. A change first takes the old kind away (some servers keep all kinds
 * in one table), then gives the new one. MSI-X vectors are given as the guest opens them;
 * their eventfds stay when MSI-X is switched off, and are given again when it comes back.
 *
 * Hardware of the host's costs a vector of the host's for each that the kernel has made room for,
 * and its MSI-X is on from the first one. So it is switched on with one vector, whether that has an
 * eventfd or not, and grows as the guest opens more. Where the kernel can not add to what is on
 * (NORESIZE), all of it is switched off and on again with more room, doubled each time; what came
 * in between is lost in the hardware, so each vector that the guest had is signalled once to make
 * up for it: an interrupt too many does no harm, one too few may hang a driver. MSI, whose vectors
 * come all at once, is switched off and on likewise.
 *
 * INTx is a level, an eventfd an edge. KVM raises the line on the edge and lowers it at the
 * guest's end of interrupt, which it tells by another eventfd (resample). What follows depends on
 * the device:
 *   - it masks its interrupt when it signals (AUTOMASKED), and signals again when it is unmasked
 * and the level still stands: the resample eventfd is given to it as its unmask signal (DIRECT).
 * One that refuses an eventfd for this is sent a message by the loop (UNMASK).
 *   - it does not. Then an edge that comes while the line is still raised would be lost in KVM, and
 * nobody would repeat it. Its edges go through the loop, which keeps one back until the end of the
 * interrupt (RELAY). Slower, but nothing is lost.
 *
 * Threads: changes on vCPU threads under vp->lock, waiting for the device with the transport's
 *          deadline. The loop thread only forwards INTx signals.
 * Spec:    PCI Local Bus 3.0, 2.2.6, 6.8; vfio-user 0.9.2, "VFIO_USER_DEVICE_SET_IRQS".
 */
#include <errno.h>
#include <string.h>

#include "attach/vfio_pci_priv.h"
#include "base/fd.h"
#include "base/kick.h"

#define TRIGGER_FD   (VFIO_USER_IRQ_SET_DATA_EVENTFD | VFIO_USER_IRQ_SET_ACTION_TRIGGER)
#define TRIGGER_NONE (VFIO_USER_IRQ_SET_DATA_NONE | VFIO_USER_IRQ_SET_ACTION_TRIGGER)
#define UNMASK_FD    (VFIO_USER_IRQ_SET_DATA_EVENTFD | VFIO_USER_IRQ_SET_ACTION_UNMASK)
#define UNMASK_NONE  (VFIO_USER_IRQ_SET_DATA_NONE | VFIO_USER_IRQ_SET_ACTION_UNMASK)

/* Descriptors handed to the transport in one call; it splits further by the server's limit. */
#define BATCH 64u

static const struct {
	const char *name;
	uint32_t index;
} kinds[] = {
	[VP_IRQ_INTX] = { "INTx", VFIO_USER_IRQ_INTX },
	[VP_IRQ_MSI] = { "MSI", VFIO_USER_IRQ_MSI },
	[VP_IRQ_MSIX] = { "MSI-X", VFIO_USER_IRQ_MSIX },
};

/* --- telling the device --- */

static int try_irqs(struct vfio_pci *vp, enum vp_irq_mode kind, uint32_t flags, unsigned start,
	unsigned count, const int *fds, enum vfio_call call)
{
	struct vfio_irq_request rq = { kinds[kind].index, flags, start, count, fds };

	return vp_note(vp, vp->t->ops->set_irqs(vp->t, &rq, call));
}

static int note_refusal(
	struct vfio_pci *vp, enum vp_irq_mode kind, unsigned start, unsigned count, int rc)
{
	if (rc && rc != -ENOTCONN && rc != -ETIMEDOUT)
		log_limited(&vp->refusals, LOG_WARN,
			"%s: the device refused to set %s interrupts %u to %u: %s", vp->id,
			kinds[kind].name, start, start + MAX(count, 1u) - 1, strerror(-rc));
	return rc;
}

static int set_irqs(struct vfio_pci *vp, enum vp_irq_mode kind, uint32_t flags, unsigned start,
	unsigned count, const int *fds, enum vfio_call call)
{
	int rc = try_irqs(vp, kind, flags, start, count, fds, call);

	return note_refusal(vp, kind, start, count, rc);
}

static void switch_off(struct vfio_pci *vp, enum vp_irq_mode kind, enum vfio_call call)
{
	set_irqs(vp, kind, TRIGGER_NONE, 0, 0, NULL, call);
	vp->room = 0;
}

static bool can_grow(const struct vfio_pci *vp, enum vp_irq_mode kind)
{
	return !(vp->t->info.irqs[kinds[kind].index].flags & VFIO_USER_IRQ_FLAG_NORESIZE);
}

static void push_intx(struct vfio_pci *vp, enum vfio_call call)
{
	const struct vp_intx *x = &vp->intx;
	int fd = x->kind == VP_INTX_RELAY ? x->edge : x->line;

	set_irqs(vp, VP_IRQ_INTX, TRIGGER_FD, 0, 1, &fd, call);
	if (x->kind == VP_INTX_DIRECT)
		set_irqs(vp, VP_IRQ_INTX, UNMASK_FD, 0, 1, &x->resample, call);
}

/* Of vectors [first, first + nr), those that have an eventfd, in runs. The device knows `limit`. */
static void push_vectors(struct vfio_pci *vp, enum vp_irq_mode kind, const struct irq_vector *v,
	unsigned first, unsigned nr, enum vfio_call call)
{
	unsigned limit = vp->t->info.irqs[kinds[kind].index].count;
	unsigned end = MIN(first + nr, limit);
	int fds[BATCH];
	unsigned n = 0;

	for (unsigned i = first; i <= end; i++) {
		bool has = i < end && v[i].eventfd >= 0;

		if (n && (!has || n == BATCH)) {
			set_irqs(vp, kind, TRIGGER_FD, i - n, n, fds, call);
			n = 0;
		}
		if (has)
			fds[n++] = v[i].eventfd;
	}
}

static unsigned msix_limit(const struct vfio_pci *vp)
{
	return MIN(vp->t->info.irqs[VFIO_USER_IRQ_MSIX].count, vp->msix.nr);
}

/* The kernel makes as much room as the first call asks for; its vector may be without an eventfd.
 */
static int open_room(struct vfio_pci *vp, unsigned room, enum vfio_call call)
{
	return try_irqs(vp, VP_IRQ_MSIX, TRIGGER_FD, room - 1, 1,
		&vp->msix.vectors[room - 1].eventfd, call);
}

/*
 * Room in the device for vectors [0, need). Returns whether it was switched off for that, so that
 * all are to be given again.
 */
static bool make_room(struct vfio_pci *vp, unsigned need, enum vfio_call call)
{
	bool on = vp->room, host = vp->t->info.host, fixed = !can_grow(vp, VP_IRQ_MSIX);
	unsigned room = need;
	int rc = 0;

	if (vp->room >= need)
		return false;
	if (host && fixed)
		room = (unsigned)MIN(pow2_up(need), (uint64_t)msix_limit(vp));
	else if (host && !on)
		room = 1;
	if (on && fixed)
		switch_off(vp, VP_IRQ_MSIX, call);
	if (host && (!on || fixed))
		rc = open_room(vp, room, call);
	/* Then just what is needed. */
	if (rc && room > need) {
		room = need;
		rc = open_room(vp, room, call);
	}
	if (!note_refusal(vp, VP_IRQ_MSIX, 0, room, rc))
		vp->room = room;
	/* What grows by itself grows with what is given now. */
	if (!rc && !fixed)
		vp->room = need;
	return on && fixed;
}

/* All vectors that are in use below `end`, after the device's MSI-X was off for a moment. */
static void signal_again(struct vfio_pci *vp, unsigned end)
{
	for (unsigned i = 0; i < end; i++)
		if (vp->msix.vectors[i].live)
			kick(vp->msix.vectors[i].eventfd);
}

/* One past the last vector below `end` that has an eventfd. */
static unsigned last_in_use(const struct vfio_pci *vp, unsigned end)
{
	while (end && vp->msix.vectors[end - 1].eventfd < 0)
		end--;
	return end;
}

static void push_msix(struct vfio_pci *vp, unsigned first, unsigned nr, enum vfio_call call)
{
	unsigned limit = msix_limit(vp), end = last_in_use(vp, MIN(first + nr, limit));
	bool again;

	if (!limit)
		return;
	/* Even if none is in use yet: for the hardware it is on. */
	again = make_room(vp, MAX(end, 1u), call);
	if (again) {
		first = 0;
		end = last_in_use(vp, limit);
	}
	if (end > first)
		push_vectors(vp, VP_IRQ_MSIX, vp->msix.vectors, first, end - first, call);
	if (again)
		signal_again(vp, end);
}

/* All at once; a host that has fewer says so, and the vectors above those stay silent. */
static void push_msi(struct vfio_pci *vp, unsigned nr, enum vfio_call call)
{
	unsigned wanted_nr = MIN(nr, vp->t->info.irqs[VFIO_USER_IRQ_MSI].count), n = wanted_nr;
	int fds[ARRAY_SIZE(vp->msi.vectors)];
	int rc = n ? -ENOSPC : 0;

	for (unsigned i = 0; i < n; i++)
		fds[i] = vp->msi.vectors[i].eventfd;
	if (vp->room && vp->room != n && !can_grow(vp, VP_IRQ_MSI))
		switch_off(vp, VP_IRQ_MSI, call);
	vp->room = n;
	while (n && rc == -ENOSPC) {
		rc = try_irqs(vp, VP_IRQ_MSI, TRIGGER_FD, 0, n, fds, call);
		if (rc == -ENOSPC)
			n /= 2;
	}
	if (!note_refusal(vp, VP_IRQ_MSI, 0, wanted_nr, rc) && n < wanted_nr)
		log_limited(&vp->refusals, LOG_WARN,
			"%s: the host has %u MSI vectors for it, not the %u that the guest enabled",
			vp->id, n, wanted_nr);
}

/* What the guest wants, by what it wrote. */
static enum vp_irq_mode wanted(struct vfio_pci *vp)
{
	const uint8_t *c = vp->fn.config;

	if (vp->msix_pos && c[vp->msix_pos + PCI_MSIX_FLAGS + 1] & PCI_MSIX_FLAGS_ENABLE >> 8)
		return VP_IRQ_MSIX;
	if (vp->msi_pos && c[vp->msi_pos + PCI_MSI_FLAGS] & PCI_MSI_FLAGS_ENABLE)
		return VP_IRQ_MSI;
	if (vp->intx.kind == VP_INTX_ABSENT ||
		pci_config_get(&vp->fn, PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE)
		return VP_IRQ_NONE;
	return VP_IRQ_INTX;
}

static void push_kind(struct vfio_pci *vp, enum vp_irq_mode kind, enum vfio_call call)
{
	if (kind == VP_IRQ_INTX)
		push_intx(vp, call);
	else if (kind == VP_IRQ_MSIX)
		push_msix(vp, 0, vp->msix.nr, call);
	else if (kind == VP_IRQ_MSI)
		push_msi(vp, vp->msi.nr_enabled, call);
}

static void switch_to(struct vfio_pci *vp, enum vp_irq_mode kind, enum vfio_call call)
{
	if (vp->pushed == kind)
		return;
	if (vp->pushed != VP_IRQ_NONE)
		switch_off(vp, vp->pushed, call);
	vp->pushed = kind;
	/* See the head of vfio_pci_bar.c for why not together with INTx. */
	atomic_store(&vp->may_post, kind != VP_IRQ_INTX && !atomic_load(&vp->direct));
	push_kind(vp, kind, call);
}

void vp_irqs_update(struct vfio_pci *vp)
{
	uint32_t msix =
		vp->msix_pos ? pci_config_get(&vp->fn, vp->msix_pos + PCI_MSIX_FLAGS, 2) : 0;
	enum vp_irq_mode want = wanted(vp);

	if (vp->msix_pos)
		msix_set_flags(&vp->msix, (uint16_t)msix);
	if (vp->msi_pos)
		msi_update(&vp->msi, vp->fn.config + vp->msi_pos);
	/* Also gives the vectors that have just come into use; used() gives later ones. */
	switch_to(vp, want, VFIO_CALL_WAIT);
}

void vp_irqs_push(struct vfio_pci *vp, bool fresh, enum vfio_call call)
{
	enum vp_irq_mode want = wanted(vp);

	if (fresh) {
		vp->pushed = VP_IRQ_NONE;
		vp->room = 0;
	} else {
		switch_to(vp, VP_IRQ_NONE, call);
	}
	switch_to(vp, want, call);
}

void vp_irqs_reset(struct vfio_pci *vp, enum vfio_call call)
{
	if (vp->msix_pos)
		msix_reset(&vp->msix);
	if (vp->msi_pos)
		msi_reset(&vp->msi);
	vp_irqs_push(vp, false, call);
	/* The guest that would have ended its interrupt is no more. */
	vp_intx_kick(vp);
}

static void msix_used(struct msix *msix, unsigned first, unsigned nr)
{
	struct vfio_pci *vp = container_of(msix, struct vfio_pci, msix);

	if (vp->pushed == VP_IRQ_MSIX)
		push_msix(vp, first, nr, VFIO_CALL_WAIT);
}

static void msi_used(struct msi *msi, unsigned nr)
{
	struct vfio_pci *vp = container_of(msi, struct vfio_pci, msi);

	if (vp->pushed == VP_IRQ_MSI)
		push_msi(vp, nr, VFIO_CALL_WAIT);
}

/* --- INTx signals on the loop --- */

static void unmask_by_message(struct vfio_pci *vp)
{
	const struct vfio_irq_request rq = { VFIO_USER_IRQ_INTX, UNMASK_NONE, 0, 1, NULL };

	/* Not answered, so a failure is one of the connection, and then the device is told all
	 * anew. */
	vp->t->ops->set_irqs(vp->t, &rq, VFIO_CALL_POST);
}

static void raise_line(struct vp_intx *x)
{
	x->asserted = true;
	x->again = false;
	fd_signal(x->line);
}

static void on_edge(struct loop_source *src, uint32_t events)
{
	struct vp_intx *x = container_of(src, struct vp_intx, edge_src);

	if (!fd_clear(x->edge))
		return;
	if (x->asserted)
		x->again = true;
	else
		raise_line(x);
}

static void on_resample(struct loop_source *src, uint32_t events)
{
	struct vp_intx *x = container_of(src, struct vp_intx, resample_src);
	struct vfio_pci *vp = container_of(x, struct vfio_pci, intx);

	if (!fd_clear(x->resample))
		return;
	if (x->kind == VP_INTX_UNMASK) {
		unmask_by_message(vp);
		return;
	}
	x->asserted = false;
	if (x->again)
		raise_line(x);
}

void vp_intx_kick(struct vfio_pci *vp)
{
	if (vp->intx.kind == VP_INTX_UNMASK)
		unmask_by_message(vp);
	else if (vp->intx.kind != VP_INTX_ABSENT)
		kick(vp->intx.resample);
}

/*
 * Hardware whose interrupt pin is not connected, or whose line another device of the host's has for
 * itself, works by messages where it can. Before the function is in its slot.
 */
static bool go_on_without_intx(struct vfio_pci *vp)
{
	if (vp->intx.kind != VP_INTX_ABSENT)
		log_warn("%s: the host has no interrupt line for it%s", vp->id,
			vp->msix_pos || vp->msi_pos ? ", only messages (MSI) work"
						    : ": it has no interrupts at all");
	vp->intx.kind = VP_INTX_ABSENT;
	vp->fn.config[PCI_INTERRUPT_PIN] = 0;
	vp->pushed = VP_IRQ_NONE;
	return true;
}

bool vp_irqs_refused(struct vfio_pci *vp, uint32_t index, uint32_t flags)
{
	struct vp_intx *x = &vp->intx;

	if (index == VFIO_USER_IRQ_INTX && vp->t->info.host)
		return go_on_without_intx(vp);
	if (index != VFIO_USER_IRQ_INTX || !(flags & VFIO_USER_IRQ_SET_ACTION_UNMASK) ||
		x->kind != VP_INTX_DIRECT)
		return false;
	x->kind = VP_INTX_UNMASK;
	/* Not connected yet: vp_intx_connect() does this. */
	return !x->connected ||
	       !loop_add(vp->m->loop, &x->resample_src, x->resample, EPOLLIN, on_resample);
}

/* --- building --- */

static int build_intx(struct vfio_pci *vp, struct err *err)
{
	const struct vfio_irq *irq = &vp->t->info.irqs[VFIO_USER_IRQ_INTX];
	struct vp_intx *x = &vp->intx;
	bool relay = !(irq->flags & VFIO_USER_IRQ_FLAG_AUTOMASKED);

	if (!vp->fn.config[PCI_INTERRUPT_PIN] || !irq->count) {
		vp->fn.config[PCI_INTERRUPT_PIN] = 0;
		return 0;
	}
	x->line = fd_eventfd();
	x->resample = fd_eventfd();
	if (relay)
		x->edge = fd_eventfd();
	if (x->line < 0 || x->resample < 0 || (relay && x->edge < 0))
		return err_set(err, -EMFILE, "INTx: no descriptors left");
	x->kind = relay ? VP_INTX_RELAY : VP_INTX_DIRECT;
	return 0;
}

static int build_msix(struct vfio_pci *vp, struct err *err)
{
	unsigned nr, count = vp->t->info.irqs[VFIO_USER_IRQ_MSIX].count;
	int rc;

	if (!vp->msix_pos)
		return 0;
	rc = vp_msix_place(vp, &nr, err);
	if (rc)
		return rc;
	if (count < nr)
		log_warn("%s: %u of its %u MSI-X vectors can be signalled", vp->id, count, nr);
	rc = msix_init(&vp->msix, vp->m->irqs, nr);
	if (rc)
		return err_set(err, rc, "MSI-X: out of memory");
	vp->msix.used = msix_used;
	vp->msix.fn = &vp->fn;
	return 0;
}

int vp_irqs_build(struct vfio_pci *vp, struct err *err)
{
	int rc = build_intx(vp, err);

	if (!rc && vp->msi_pos) {
		uint32_t flags = pci_config_get(&vp->fn, vp->msi_pos + PCI_MSI_FLAGS, 2);

		msi_init(&vp->msi, vp->m->irqs, 1u << ((flags & PCI_MSI_FLAGS_QMASK) >> 1));
		vp->msi.used = msi_used;
		vp->msi.fn = &vp->fn;
	}
	return rc ? rc : build_msix(vp, err);
}

void vp_irqs_fini(struct vfio_pci *vp)
{
	if (vp->msi_pos)
		msi_fini(&vp->msi);
	if (vp->msix_pos)
		msix_fini(&vp->msix);
	fd_close(&vp->intx.line);
	fd_close(&vp->intx.resample);
	fd_close(&vp->intx.edge);
}

int vp_intx_connect(struct vfio_pci *vp, struct err *err)
{
	struct vp_intx *x = &vp->intx;
	int rc;

	if (x->kind == VP_INTX_ABSENT)
		return 0;
	if (x->kind == VP_INTX_RELAY) {
		rc = loop_add(vp->m->loop, &x->edge_src, x->edge, EPOLLIN, on_edge);
		if (rc)
			goto fail;
	}
	/* With DIRECT the device process alone reads it. */
	if (x->kind != VP_INTX_DIRECT) {
		rc = loop_add(vp->m->loop, &x->resample_src, x->resample, EPOLLIN, on_resample);
		if (rc)
			goto fail;
	}
	rc = irq_line_connect(vp->m->irqs, pci_intx_gsi(&vp->fn), x->line, x->resample);
	if (rc)
		goto fail;
	x->connected = true;
	return 0;
fail:
	loop_del(&x->edge_src);
	loop_del(&x->resample_src);
	return err_set(err, rc, "%s: cannot connect INTx to interrupt line %u: %s", vp->id,
		pci_intx_gsi(&vp->fn), strerror(-rc));
}

void vp_intx_disconnect(struct vfio_pci *vp)
{
	struct vp_intx *x = &vp->intx;

	loop_del(&x->edge_src);
	loop_del(&x->resample_src);
	if (x->connected)
		irq_line_disconnect(vp->m->irqs, pci_intx_gsi(&vp->fn), x->line);
	x->connected = false;
}
