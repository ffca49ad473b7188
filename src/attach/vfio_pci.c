/*
 * vfio_pci.c - a PCI function whose device is behind a vfio transport
 *
 * The transport brings the device up and down; this file turns that into the life of a PCI
 * function. The first prepare() builds the function from what the device says; after ready() it
 * can be plugged. From then on the guest keeps its function whatever happens to the device
 * process: lost() takes mapped parts and doorbells away (BARs read all-ones, writes are dropped,
 * configuration reads come from our copy), and when the device is back, restore() writes
 * what the guest wrote and gives the eventfds of the interrupts that are in use, then ready() lays
 * the BARs anew.
 *
 * The guest goes on while its device is away. What it changes meanwhile is noted (`stale`), and
 * ready() sends restore() round again until nothing was; the check and the opening happen under
 * vp->lock, under which each change is made.
 *
 * A reset of the machine resets the device, by a message with a deadline. All that follows is sent
 * without waiting for answers, so a slow device costs a reset one deadline and not ten.
 *
 * Owns:    the function, vectors and eventfds, mappings of BARs. The transport is borrowed.
 * Threads: see vfio_pci_priv.h.
 */
#include "attach/vfio_pci.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_pci_priv.h"

static struct vfio_pci *owner_of(struct vfio_owner *o)
{
	return container_of(o, struct vfio_pci, owner);
}

/* --- what the transport tells --- */

static int prepare(
	struct vfio_owner *o, const uint8_t *config, unsigned size, bool again, struct err *err)
{
	struct vfio_pci *vp = owner_of(o);
	int rc;

	if (again)
		return vp_config_same(vp, config, size, err);
	rc = vp_config_build(vp, config, size, err);
	if (!rc)
		rc = vp_bars_build(vp, config, err);
	if (!rc)
		rc = vp_irqs_build(vp, err);
	return rc;
}

static void restore(struct vfio_owner *o)
{
	struct vfio_pci *vp = owner_of(o);

	pthread_mutex_lock(&vp->lock);
	vp->stale = false;
	vp_config_push(vp, VFIO_CALL_QUEUE);
	vp_irqs_push(vp, true, VFIO_CALL_QUEUE);
	pthread_mutex_unlock(&vp->lock);
}

static bool irqs_refused(struct vfio_owner *o, uint32_t index, uint32_t flags)
{
	struct vfio_pci *vp = owner_of(o);
	bool go_on;

	pthread_mutex_lock(&vp->lock);
	go_on = vp_irqs_refused(vp, index, flags);
	pthread_mutex_unlock(&vp->lock);
	return go_on;
}

static bool ready(struct vfio_owner *o, bool again)
{
	struct vfio_pci *vp = owner_of(o);

	pthread_mutex_lock(&vp->lock);
	if (vp->stale) {
		pthread_mutex_unlock(&vp->lock);
		return false;
	}
	vp->t->ops->open(vp->t);
	pthread_mutex_unlock(&vp->lock);
	vp_bars_lay(vp);
	if (again)
		vp_intx_kick(vp);
	else
		vp->attached(vp->attached_arg, 0, NULL);
	return true;
}

static void lost(struct vfio_owner *o)
{
	vp_bars_clear(owner_of(o));
}

static void failed(struct vfio_owner *o, int rc, const struct err *err)
{
	struct vfio_pci *vp = owner_of(o);

	vp->attached(vp->attached_arg, rc, err);
}

/*
 * There is no telling when it comes back, if ever: what its guest sees from now on is a slot whose
 * device was pulled out.
 */
static void leaving(struct vfio_owner *o, enum vfio_leave why)
{
	static const char *const reasons[] = {
		[VFIO_LEAVE_ERROR] = "the device reported an error that it cannot go on after",
		[VFIO_LEAVE_REQUEST] = "the host wants the device back",
		[VFIO_LEAVE_GONE] = "the device does not answer any more",
	};
	struct vfio_pci *vp = owner_of(o);

	log_warn("%s: %s: the guest loses it", vp->id, reasons[why]);
	atomic_store(&vp->gone, true);
	if (vp->left)
		vp->left(vp->left_arg, why);
}

static const struct vfio_owner_ops owner_ops = {
	.prepare = prepare,
	.restore = restore,
	.irqs_refused = irqs_refused,
	.ready = ready,
	.lost = lost,
	.failed = failed,
	.leaving = leaving,
};

/* --- what the machine asks --- */

static void reset(struct pci_function *fn)
{
	struct vfio_pci *vp = vp_of(fn);
	int rc;

	pthread_mutex_lock(&vp->lock);
	rc = vp_note(vp, vp->t->ops->reset(vp->t));
	if (rc && rc != -ENOTCONN && rc != -ETIMEDOUT)
		log_warn("%s: the device refused its reset: %s", vp->id, strerror(-rc));
	vp_config_reset(vp);
	vp_irqs_reset(vp, VFIO_CALL_POST);
	vp_config_push(vp, VFIO_CALL_POST);
	pthread_mutex_unlock(&vp->lock);
}

static const struct pci_ops pci_ops = {
	.config_read = vp_config_read,
	.config_write = vp_config_write,
	.bar_read = vp_bar_read,
	.bar_write = vp_bar_write,
	.bar_mapped = vp_bar_mapped,
	.bar_unmapped = vp_bar_unmapped,
	.reset = reset,
	.memory_fault = vp_memory_fault,
};

/* --- life --- */

int vfio_pci_new(struct machine *m, const char *id, vfio_pci_attached_fn attached, void *arg,
	struct vfio_pci **out)
{
	struct vfio_pci *vp = calloc(1, sizeof(*vp));

	if (!vp)
		return -ENOMEM;
	vp->id = strdup(id);
	if (!vp->id) {
		free(vp);
		return -ENOMEM;
	}
	vp->m = m;
	vp->attached = attached;
	vp->attached_arg = arg;
	vp->owner.ops = &owner_ops;
	vp->options.gpudirect_clique = VFIO_PCI_NO_CLIQUE;
	vp->intx.line = vp->intx.resample = vp->intx.edge = -1;
	pthread_mutex_init(&vp->lock, NULL);
	pci_function_init(&vp->fn, vp->id, &pci_ops);
	*out = vp;
	return 0;
}

struct vfio_owner *vfio_pci_owner(struct vfio_pci *vp)
{
	return &vp->owner;
}

void vfio_pci_set_transport(struct vfio_pci *vp, struct vfio_transport *t)
{
	assert(!vp->t);
	vp->t = t;
}

void vfio_pci_set_options(struct vfio_pci *vp, const struct vfio_pci_options *options)
{
	vp->options = *options;
}

void vfio_pci_on_leave(struct vfio_pci *vp, vfio_pci_leave_fn fn, void *arg)
{
	vp->left = fn;
	vp->left_arg = arg;
}

const char *vfio_pci_bdf(const struct vfio_pci *vp)
{
	return vp->bdf;
}

int vfio_pci_plug(struct vfio_pci *vp, unsigned segment, int slot, struct err *err)
{
	int rc = pci_add(vp->m->pci, &vp->fn, segment, slot, err);

	if (rc)
		return rc;
	rc = vp_intx_connect(vp, err);
	if (rc) {
		pci_remove(vp->m->pci, &vp->fn);
		return rc;
	}
	memcpy(vp->initial, vp->fn.config, sizeof(vp->initial));
	pci_bdf(&vp->fn, vp->bdf);
	return 0;
}

void vfio_pci_unplug(struct vfio_pci *vp)
{
	if (vp->fn.pci) {
		pci_remove(vp->m->pci, &vp->fn);
		vp_intx_disconnect(vp);
	}
	vp->bdf[0] = 0;
}

void vfio_pci_free(struct vfio_pci *vp)
{
	if (!vp)
		return;
	vp_bars_free(vp);
	vp_irqs_fini(vp);
	pthread_mutex_destroy(&vp->fn.lock);
	pthread_mutex_destroy(&vp->lock);
	free(vp->id);
	free(vp);
}

/* --- as a device's function --- */

static int plug(void *self, unsigned segment, int slot, struct err *err)
{
	return vfio_pci_plug(self, segment, slot, err);
}

static void unplug(void *self)
{
	vfio_pci_unplug(self);
}

static const char *bdf(const void *self)
{
	return vfio_pci_bdf(self);
}

static const struct device_function_ops function_ops = {
	.plug = plug,
	.unplug = unplug,
	.bdf = bdf,
};

int vfio_pci_make(struct device *dev, struct vfio_pci **out)
{
	int rc = vfio_pci_new(dev->m, dev->id, device_attached, dev, out);

	if (!rc)
		device_set_function(dev, &function_ops, *out);
	return rc;
}
