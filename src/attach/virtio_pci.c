/*
 * virtio_pci.c - a PCI function made of a virtio device that somebody else serves
 *
 * The back-end finds out what the device is and calls attached(); the function is built then, once,
 * and can be plugged. From then on the guest keeps it whatever happens to the device: its
 * registers are ours, its doorbells go into eventfds of ours, and what the driver chooses is kept
 * by the back-end for a device that is away. Only a device that can never be had again is reported
 * to the driver (DEVICE_NEEDS_RESET).
 *
 * A reset of the machine is a reset of the device, and of MSI-X and configuration space; the
 * connection stays.
 *
 * Owns:    the function, queues and their kick descriptors, vectors. The back-end is borrowed.
 * Threads: see virtio_pci_priv.h.
 * Spec:    virtio 1.3, 4.1.
 */
#include "attach/virtio_pci.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/virtio_pci_priv.h"
#include "base/fd.h"

static struct virtio_pci *owner_of(struct virtio_owner *o)
{
	return container_of(o, struct virtio_pci, owner);
}

/* --- building --- */

/*
 * Bits that say nothing to a modern driver of this transport, or promise what nobody here keeps:
 * the old interface's (24, 27), the protocol's own, virtual functions, administration queues.
 */
#define NOT_OFFERED                                                                                \
	(VIRTIO_BIT(24) | VIRTIO_BIT(27) | VIRTIO_BIT(VIRTIO_BIT_VHOST_USER) |                     \
		VIRTIO_BIT(VIRTIO_BIT_SR_IOV) | VIRTIO_BIT(VIRTIO_BIT_ADMIN_VQ))

static int check_info(const struct virtio_info *info, struct err *err)
{
	/* 4.1.2: ids 0x1041 to 0x107f */
	if (info->type < 1 || info->type > 0x3f)
		return err_set(err, -EPROTO,
			"virtio type %u has no PCI device id, expected 1 to 63", info->type);
	if (!(info->features & VIRTIO_BIT(VIRTIO_BIT_VERSION_1)))
		return err_set(err, -EPROTO,
			"the device does not offer VERSION_1 (features 0x%llx): it is a legacy device",
			(unsigned long long)info->features);
	if (info->nr_queues > VIRTIO_MAX_QUEUES)
		return err_set(err, -EPROTO, "%u queues, expected at most %u", info->nr_queues,
			VIRTIO_MAX_QUEUES);
	for (unsigned i = 0; i < info->nr_queues; i++)
		if (info->queue_sizes[i] > VIRTIO_QUEUE_MAX_SIZE)
			return err_set(err, -EPROTO, "queue %u: size %u, expected at most %u", i,
				info->queue_sizes[i], VIRTIO_QUEUE_MAX_SIZE);
	return 0;
}

static int build_queues(struct virtio_pci *v, struct err *err)
{
	unsigned nr = v->b->info.nr_queues;

	v->queues = calloc(nr + 1, sizeof(*v->queues));
	v->vectors = calloc(nr + 1, sizeof(*v->vectors));
	v->doorbells = calloc(nr + 1, sizeof(*v->doorbells));
	if (!v->queues || !v->vectors || !v->doorbells)
		return err_set(err, -ENOMEM, "out of memory");
	for (; v->nr_queues < nr; v->nr_queues++) {
		struct virtio_queue *q = &v->queues[v->nr_queues];

		q->call_fd = -1;
		q->kick_fd = fd_eventfd();
		if (q->kick_fd < 0)
			return err_set(err, q->kick_fd, "no descriptor left for queue %u: %s",
				v->nr_queues, strerror(-q->kick_fd));
	}
	v->intr.call_fd = fd_eventfd();
	if (v->intr.call_fd < 0)
		return err_set(err, v->intr.call_fd, "no descriptor left for INTx: %s",
			strerror(-v->intr.call_fd));
	return 0;
}

static struct virtio_pci_layout usual_layout(const struct virtio_info *info)
{
	const struct virtio_type *type = virtio_type_find(info->type);

	return (struct virtio_pci_layout){
		.class_code = type ? type->class_code : 0xff,
		.subclass = type ? type->subclass : 0,
		/* 4.1.2.1: 0x40 or higher */
		.subsystem = (uint16_t)(0x40 + info->type),
		.regs_size = VIO_REGS_SIZE,
		.msix = VIO_MSIX,
		.pba = VIO_PBA,
		.notify_size = MAX(info->nr_queues, 1u) * VIO_NOTIFY_STEP,
		.nr_vectors = info->nr_queues + 1,
		.shm = { { .bar = VIO_BAR_SHM }, { .bar = VIO_BAR_SHM }, { .bar = VIO_BAR_SHM } },
	};
}

static int build(struct virtio_pci *v, struct err *err)
{
	int rc = check_info(&v->b->info, err);

	if (!v->special)
		v->layout = usual_layout(&v->b->info);
	if (!rc)
		rc = build_queues(v, err);
	if (!rc)
		rc = vio_shm_build(v, err);
	if (!rc)
		rc = vio_aux_build(v, err);
	if (!rc && msix_init(&v->msix, v->m->irqs, v->layout.nr_vectors))
		rc = err_set(err, -ENOMEM, "MSI-X: out of memory");
	if (rc)
		return rc;
	v->msix.fn = &v->fn;
	v->offered = v->b->info.features & ~NOT_OFFERED;
	v->fn.bars[VIO_BAR_REGS] = (struct pci_bar){
		.kind = v->special ? PCI_BAR_MEM32 : PCI_BAR_MEM64,
		.size = v->layout.regs_size,
	};
	vio_config_build(v);
	vio_registers_init(v);
	vio_irqs_update(v);
	return 0;
}

/* --- what the back-end tells --- */

static int attached(struct virtio_owner *o, struct err *err)
{
	struct virtio_pci *v = owner_of(o);
	int rc;

	assert(!v->queues);
	rc = build(v, err);
	if (!rc)
		v->attached(v->attached_arg, 0, NULL);
	return rc;
}

static void failed(struct virtio_owner *o, int rc, const struct err *err)
{
	struct virtio_pci *v = owner_of(o);

	v->attached(v->attached_arg, rc, err);
}

/* The driver sees a device that takes its time. */
static void lost(struct virtio_owner *o)
{
}

static void back(struct virtio_owner *o)
{
}

static void config_changed(struct virtio_owner *o)
{
	struct virtio_pci *v = owner_of(o);

	atomic_store(&v->config_dirty, true);
	vio_config_interrupt(v);
}

static void needs_reset(struct virtio_owner *o)
{
	vio_needs_reset(owner_of(o));
}

static const struct virtio_owner_ops owner_ops = {
	.attached = attached,
	.failed = failed,
	.lost = lost,
	.back = back,
	.config_changed = config_changed,
	.needs_reset = needs_reset,
	.shm_map = vio_shm_map,
	.shm_clear = vio_shm_clear,
	.bell = vio_aux_bell,
	.notification = vio_aux_notification,
};

/* --- what the machine asks --- */

static void reset(struct pci_function *fn)
{
	struct virtio_pci *v = vio_of(fn);

	pthread_mutex_lock(&v->lock);
	vio_reset(v);
	msix_reset(&v->msix);
	vio_config_reset(v);
	vio_irqs_update(v);
	pci_lock(v->m->pci);
	vio_shm_drop(v);
	pci_unlock(v->m->pci);
	pthread_mutex_unlock(&v->lock);
}

static const struct pci_ops pci_ops = {
	.config_read = vio_config_read,
	.config_write = vio_config_write,
	.bar_read = vio_bar_read,
	.bar_write = vio_bar_write,
	.bar_mapped = vio_bar_mapped,
	.bar_unmapped = vio_bar_unmapped,
	.reset = reset,
	.memory_fault = vio_memory_fault,
};

/* --- life --- */

int virtio_pci_new(struct machine *m, const char *id, virtio_pci_attached_fn fn, void *arg,
	struct virtio_pci **out)
{
	struct virtio_pci *v = calloc(1, sizeof(*v));

	if (!v)
		return -ENOMEM;
	v->id = strdup(id);
	if (!v->id) {
		free(v);
		return -ENOMEM;
	}
	v->m = m;
	v->attached = fn;
	v->attached_arg = arg;
	v->owner.ops = &owner_ops;
	v->intr.call_fd = v->intr.config_fd = -1;
	pthread_mutex_init(&v->lock, NULL);
	pthread_mutex_init(&v->intr.lock, NULL);
	pci_function_init(&v->fn, v->id, &pci_ops);
	*out = v;
	return 0;
}

void virtio_pci_set_layout(struct virtio_pci *v, const struct virtio_pci_layout *layout)
{
	v->layout = *layout;
	v->special = true;
}

struct virtio_owner *virtio_pci_owner(struct virtio_pci *v)
{
	return &v->owner;
}

void virtio_pci_set_backend(struct virtio_pci *v, struct virtio_backend *b)
{
	assert(!v->b);
	v->b = b;
}

const char *virtio_pci_bdf(const struct virtio_pci *v)
{
	return v->bdf;
}

int virtio_pci_plug(struct virtio_pci *v, unsigned segment, int slot, struct err *err)
{
	int rc;

	/* Without an IOMMU devices would write to memory at addresses that are its to translate. */
	v->fn.resets_last = v->b->info.type == VIRTIO_ID_IOMMU;
	rc = pci_add(v->m->pci, &v->fn, segment, slot, err);
	if (rc)
		return rc;
	rc = vio_intx_connect(v, err);
	if (rc) {
		pci_remove(v->m->pci, &v->fn);
		return rc;
	}
	memcpy(v->initial, v->fn.config, sizeof(v->initial));
	pci_bdf(&v->fn, v->bdf);
	return 0;
}

void virtio_pci_unplug(struct virtio_pci *v)
{
	if (v->fn.pci) {
		pci_remove(v->m->pci, &v->fn);
		vio_intx_disconnect(v);
	}
	v->bdf[0] = 0;
}

void virtio_pci_free(struct virtio_pci *v)
{
	if (!v)
		return;
	/* Not in the guest's memory any more, so nobody else looks at it. */
	vio_shm_drop(v);
	free(v->maps);
	vio_aux_free(v);
	msix_fini(&v->msix);
	for (unsigned i = 0; i < v->nr_queues; i++)
		fd_close(&v->queues[i].kick_fd);
	fd_close(&v->intr.call_fd);
	free(v->queues);
	free(v->vectors);
	free(v->doorbells);
	pthread_mutex_destroy(&v->fn.lock);
	pthread_mutex_destroy(&v->intr.lock);
	pthread_mutex_destroy(&v->lock);
	free(v->id);
	free(v);
}

/* --- as a device's function --- */

static int plug(void *self, unsigned segment, int slot, struct err *err)
{
	return virtio_pci_plug(self, segment, slot, err);
}

static void unplug(void *self)
{
	virtio_pci_unplug(self);
}

static const char *bdf(const void *self)
{
	return virtio_pci_bdf(self);
}

static const struct device_function_ops function_ops = {
	.plug = plug,
	.unplug = unplug,
	.bdf = bdf,
};

int virtio_pci_make(struct device *dev, struct virtio_pci **out)
{
	int rc = virtio_pci_new(dev->m, dev->id, device_attached, dev, out);

	if (!rc)
		device_set_function(dev, &function_ops, *out);
	return rc;
}
