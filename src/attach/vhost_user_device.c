/*
 * vhost_user_device.c - one device of the vhost-user route: PCI function, front-end, and their end
 *
 * Only puts the two together. What ends an attach is reported from the top of the loop, not
 * from inside the front-end, so that the one who is told may free the device there.
 *
 * Threads: loop thread. The last part of its end runs when no vCPU is inside the device
 *          any more, on whatever thread notices that.
 */
#include "attach/vhost_user_device.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/virtio_pci.h"
#include "base/log.h"
#include "base/util.h"

struct vhost_user_device {
	struct device dev; /* the head; its id is ours */
	const char *kind;
	struct machine *m;
	unsigned segment;
	int slot;
	device_attached_fn attached;
	void *arg;
	struct dma_space *dma; /* NULL: not behind an IOMMU */
	struct viommu *iommu;
	struct vhost_user *vu;
	struct virtio_pci *vp;
	struct loop_work report_work;
	int rc;		/* of the attach */
	bool connected; /* the attach ended well */
	struct err err;
};

static struct vhost_user_device *of(const struct device *dev)
{
	return container_of(dev, struct vhost_user_device, dev);
}

static void report(struct loop_work *work)
{
	struct vhost_user_device *vd = container_of(work, struct vhost_user_device, report_work);

	vd->attached(vd->arg, &vd->dev, vd->rc, &vd->err);
}

static void attached(void *arg, int rc, const struct err *err)
{
	struct vhost_user_device *vd = arg;

	vd->connected = !rc;
	vd->rc = rc;
	if (err)
		vd->err = *err;
	if (rc)
		err_prefix(&vd->err, rc, "%s %s", vd->kind, vd->dev.id);
	loop_post(vd->m->loop, &vd->report_work, report);
}

/* --- what its holder asks --- */

static int plug(struct device *dev, struct err *err)
{
	struct vhost_user_device *vd = of(dev);

	int rc;

	assert(vd->connected);
	rc = virtio_pci_plug(vd->vp, vd->segment, vd->slot, err);
	if (!rc && vd->iommu)
		rc = viommu_add(vd->iommu, virtio_pci_bdf(vd->vp), vd->dma, err);
	return rc;
}

static const char *bdf(const struct device *dev)
{
	return virtio_pci_bdf(of(dev)->vp);
}

static enum device_state state(const struct device *dev)
{
	const struct vhost_user_device *vd = of(dev);

	if (!vd->connected)
		return DEVICE_CONNECTING;
	return vhost_user_connected(vd->vu) ? DEVICE_ATTACHED : DEVICE_BROKEN;
}

static void free_parts(void *arg)
{
	struct vhost_user_device *vd = arg;

	virtio_pci_free(vd->vp);
	vhost_user_free(vd->vu);
	dma_space_free(vd->dma);
	free((char *)vd->dev.id);
	free(vd);
}

static void hang_up(struct device *dev)
{
	struct vhost_user_device *vd = of(dev);
	struct machine *m = vd->m;

	loop_unpost(m->loop, &vd->report_work);
	/* First the front-end: whoever waits for the device in a vCPU comes back at once. */
	pci_lock(m->pci);
	if (vd->vu)
		vhost_user_stop(vd->vu);
	pci_unlock(m->pci);
	if (vd->dma)
		iommu_remove(vd->dma);
	if (vd->vp)
		virtio_pci_unplug(vd->vp);
	pci_lock(m->pci);
	if (io_retire(m->bus, free_parts, vd))
		log_err("%s: out of memory: the device's own stays allocated", dev->id);
	io_reap(m->bus);
	pci_unlock(m->pci);
}

static const struct device_ops ops = {
	.bdf = bdf,
	.own_plug = plug,
	.own_state = state,
	.own_free = hang_up,
};

/* --- attach --- */

/* Takes source, also on failure. */
static int make_parts(struct vhost_user_device *vd, const struct vhost_user_device_params *p,
	struct vhost_user_source *source)
{
	struct vhost_user_params vp = p->vu;
	int rc = -ENOMEM;

	vd->dev.id = strdup(p->vu.id);
	if (vd->dev.id)
		rc = virtio_pci_new(vd->m, p->vu.id, attached, vd, &vd->vp);
	if (rc) {
		source->free(source);
		return rc;
	}
	vp.loop = vd->m->loop;
	vp.memory = vd->m->memory;
	vp.owner = virtio_pci_owner(vd->vp);
	pci_lock(vd->m->pci);
	if (vd->iommu)
		rc = dma_space_new(vd->m->memory, p->vu.id, &vd->dma);
	if (vd->dma)
		dma_will_be_translated(vd->dma);
	vp.dma = vd->dma;
	if (rc)
		source->free(source);
	else
		rc = vhost_user_new(&vp, source, &vd->vu);
	pci_unlock(vd->m->pci);
	if (!rc)
		virtio_pci_set_backend(vd->vp, vhost_user_backend(vd->vu));
	return rc;
}

int vhost_user_device_attach(struct machine *m, const struct vhost_user_device_params *p,
	struct vhost_user_source *source, struct device **out, struct err *err)
{
	struct vhost_user_device *vd = calloc(1, sizeof(*vd));
	int rc;

	if (!vd) {
		source->free(source);
		return err_set(err, -ENOMEM, "%s %s: out of memory", p->kind, p->vu.id);
	}
	vd->dev.ops = &ops;
	vd->kind = p->kind;
	vd->m = m;
	vd->iommu = p->iommu;
	vd->segment = p->segment;
	vd->slot = p->slot;
	vd->attached = p->attached;
	vd->arg = p->arg;
	rc = make_parts(vd, p, source);
	if (rc)
		err_set(err, rc, "%s %s: %s", p->kind, p->vu.id, strerror(-rc));
	else
		rc = vhost_user_start(vd->vu, err);
	if (rc) {
		hang_up(&vd->dev);
		return rc;
	}
	*out = &vd->dev;
	return 0;
}
