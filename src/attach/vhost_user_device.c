/*
 * vhost_user_device.c - one device of the vhost-user route: a PCI function and its front-end
 *
 * Only puts the two together; their life is device.c's.
 */
#include "attach/vhost_user_device.h"

#include <errno.h>

#include "attach/virtio_pci.h"
#include "base/util.h"

struct vhost_user_device {
	struct device dev; /* the head */
	struct vhost_user *vu;
	struct virtio_pci *vp;
};

static struct vhost_user_device *of(const struct device *dev)
{
	return container_of(dev, struct vhost_user_device, dev);
}

static void stop(struct device *dev)
{
	struct vhost_user_device *vd = of(dev);

	pci_lock(dev->m->pci);
	if (vd->vu)
		vhost_user_stop(vd->vu);
	pci_unlock(dev->m->pci);
}

static bool is_ready(const struct device *dev)
{
	return vhost_user_connected(of(dev)->vu);
}

static void free_parts(struct device *dev)
{
	struct vhost_user_device *vd = of(dev);

	virtio_pci_free(vd->vp);
	vhost_user_free(vd->vu);
}

static const struct device_ops ops = {
	.stop = stop,
	.is_ready = is_ready,
	.free_parts = free_parts,
};

/* Takes source, also on failure. */
static int make_parts(struct vhost_user_device *vd, const struct vhost_user_device_params *p,
	struct vhost_user_source *source)
{
	struct machine *m = vd->dev.m;
	struct vhost_user_params vp = p->vu;
	int rc = virtio_pci_make(&vd->dev, &vd->vp);

	if (!rc && vd->dev.iommu)
		rc = device_make_dma(&vd->dev);
	if (rc) {
		source->free(source);
		return rc;
	}
	vp.id = vd->dev.id;
	vp.loop = m->loop;
	vp.memory = m->memory;
	vp.dma = vd->dev.dma;
	vp.owner = virtio_pci_owner(vd->vp);
	pci_lock(m->pci);
	rc = vhost_user_new(&vp, source, &vd->vu);
	pci_unlock(m->pci);
	if (!rc)
		virtio_pci_set_backend(vd->vp, vhost_user_backend(vd->vu));
	return rc;
}

int vhost_user_device_attach(struct machine *m, const struct vhost_user_device_params *p,
	struct vhost_user_source *source, struct device **out, struct err *err)
{
	struct vhost_user_device *vd = device_new(sizeof(*vd), &ops, m, p->kind, &p->dev, err);
	int rc;

	if (!vd) {
		source->free(source);
		return -ENOMEM;
	}
	rc = make_parts(vd, p, source);
	if (!rc)
		rc = vhost_user_start(vd->vu, err);
	return device_begun(&vd->dev, rc, out, err);
}
