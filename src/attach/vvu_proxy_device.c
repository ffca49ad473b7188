/*
 * vvu_proxy_device.c - one device of the VVU route: PCI function, proxy, and their end
 *
 * Only puts the two together.
 *
 * Threads: loop thread. The last part of its end runs when no vCPU is inside the device any
 *          more, on whatever thread notices that.
 */
#include "attach/vvu_proxy_device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/virtio_pci.h"
#include "base/log.h"
#include "base/util.h"

#define DEFAULT_SHMEM (64 * GIB)

struct vvu_device {
	struct device dev; /* the head; its id is ours */
	struct machine *m;
	unsigned segment;
	int slot;
	device_attached_fn attached;
	void *arg;
	struct dma_space *dma; /* NULL: not behind an IOMMU */
	struct viommu *iommu;
	struct vvu_proxy *proxy;
	struct virtio_pci *vp;
	struct loop_work report_work;
};

static struct vvu_device *of(const struct device *dev)
{
	return container_of(dev, struct vvu_device, dev);
}

static void report(struct loop_work *work)
{
	struct vvu_device *vd = container_of(work, struct vvu_device, report_work);
	struct err err = { 0 };

	vd->attached(vd->arg, &vd->dev, 0, &err);
}

/* What fails is told by vvu_proxy_start(), whose caller it interests. */
static void attached(void *arg, int rc, const struct err *err)
{
	struct vvu_device *vd = arg;

	if (!rc)
		loop_post(vd->m->loop, &vd->report_work, report);
}

/* --- what its holder asks --- */

static int plug(struct device *dev, struct err *err)
{
	struct vvu_device *vd = of(dev);
	int rc = virtio_pci_plug(vd->vp, vd->segment, vd->slot, err);

	if (!rc && vd->iommu)
		rc = viommu_add(vd->iommu, virtio_pci_bdf(vd->vp), vd->dma, err);
	return rc ? err_prefix(err, rc, "vvu-proxy %s", dev->id) : 0;
}

static const char *bdf(const struct device *dev)
{
	return virtio_pci_bdf(of(dev)->vp);
}

/* The function is ours: it is there whether a sibling is or not. */
static enum device_state state(const struct device *dev)
{
	return DEVICE_ATTACHED;
}

static void free_parts(void *arg)
{
	struct vvu_device *vd = arg;

	virtio_pci_free(vd->vp);
	vvu_proxy_free(vd->proxy);
	dma_space_free(vd->dma);
	free((char *)vd->dev.id);
	free(vd);
}

static void hang_up(struct device *dev)
{
	struct vvu_device *vd = of(dev);
	struct machine *m = vd->m;

	loop_unpost(m->loop, &vd->report_work);
	if (vd->proxy)
		vvu_proxy_stop(vd->proxy);
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

static int make_dma(struct vvu_device *vd, const char *id)
{
	int rc;

	pci_lock(vd->m->pci);
	rc = dma_space_new(vd->m->memory, id, &vd->dma);
	pci_unlock(vd->m->pci);
	if (!rc)
		dma_will_be_translated(vd->dma);
	return rc;
}

static int make_parts(
	struct vvu_device *vd, const struct vvu_proxy_device_params *params, struct err *err)
{
	struct vvu_proxy_params p = params->vvu;
	struct virtio_pci_layout layout;
	int rc = -ENOMEM;

	vd->dev.id = strdup(p.id);
	if (vd->dev.id)
		rc = virtio_pci_new(vd->m, p.id, attached, vd, &vd->vp);
	if (!rc && vd->iommu)
		rc = make_dma(vd, p.id);
	if (rc)
		return err_set(err, rc, "%s", strerror(-rc));
	p.memory = vd->m->memory;
	p.dma = vd->dma;
	p.owner = virtio_pci_owner(vd->vp);
	if (!p.shmem_size)
		p.shmem_size = MIN(DEFAULT_SHMEM, 1ull << (vd->m->phys_bits - 2));
	vvu_proxy_layout(&p, &layout);
	virtio_pci_set_layout(vd->vp, &layout);
	rc = vvu_proxy_new(&p, &vd->proxy, err);
	if (!rc)
		virtio_pci_set_backend(vd->vp, vvu_proxy_backend(vd->proxy));
	return rc;
}

int vvu_proxy_device_attach(struct machine *m, const struct vvu_proxy_device_params *p,
	struct device **out, struct err *err)
{
	struct vvu_device *vd = calloc(1, sizeof(*vd));
	int rc;

	if (!vd)
		return err_set(err, -ENOMEM, "vvu-proxy %s: out of memory", p->vvu.id);
	vd->dev.ops = &ops;
	vd->m = m;
	vd->iommu = p->iommu;
	vd->segment = p->segment;
	vd->slot = p->slot;
	vd->attached = p->attached;
	vd->arg = p->arg;
	rc = make_parts(vd, p, err);
	if (!rc)
		rc = vvu_proxy_start(vd->proxy, err);
	if (rc) {
		hang_up(&vd->dev);
		return err_prefix(err, rc, "vvu-proxy %s", p->vvu.id);
	}
	*out = &vd->dev;
	return 0;
}
