/*
 * vvu_proxy_device.c - one device of the VVU route: a PCI function and the proxy
 *
 * Only puts the two together; their life is device.c's.
 */
#include "attach/vvu_proxy_device.h"

#include <errno.h>

#include "attach/virtio_pci.h"
#include "base/util.h"

#define DEFAULT_SHMEM (64 * GIB)

struct vvu_device {
	struct device dev; /* the head */
	struct vvu_proxy *proxy;
	struct virtio_pci *vp;
};

static struct vvu_device *of(const struct device *dev)
{
	return container_of(dev, struct vvu_device, dev);
}

static void stop(struct device *dev)
{
	struct vvu_device *vd = of(dev);

	if (vd->proxy)
		vvu_proxy_stop(vd->proxy);
}

/* The function is ours: it is there whether a sibling is or not. */
static bool is_ready(const struct device *dev)
{
	return true;
}

static void free_parts(struct device *dev)
{
	struct vvu_device *vd = of(dev);

	virtio_pci_free(vd->vp);
	vvu_proxy_free(vd->proxy);
}

static const struct device_ops ops = {
	.stop = stop,
	.is_ready = is_ready,
	.free_parts = free_parts,
};

static int make_parts(
	struct vvu_device *vd, const struct vvu_proxy_device_params *params, struct err *err)
{
	struct machine *m = vd->dev.m;
	struct vvu_proxy_params p = params->vvu;
	struct virtio_pci_layout layout;
	int rc = virtio_pci_make(&vd->dev, &vd->vp);

	if (!rc && vd->dev.iommu)
		rc = device_make_dma(&vd->dev);
	if (rc)
		return rc;
	p.id = vd->dev.id;
	p.memory = m->memory;
	p.dma = vd->dev.dma;
	p.owner = virtio_pci_owner(vd->vp);
	if (!p.shmem_size)
		p.shmem_size = MIN(DEFAULT_SHMEM, 1ull << (m->phys_bits - 2));
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
	struct vvu_device *vd = device_new(sizeof(*vd), &ops, m, "vvu-proxy", &p->dev, err);
	int rc;

	if (!vd)
		return -ENOMEM;
	rc = make_parts(vd, p, err);
	if (!rc)
		rc = vvu_proxy_start(vd->proxy, err);
	return device_begun(&vd->dev, rc, out, err);
}
