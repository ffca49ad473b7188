/*
 * user_device.c - one --user-device: a PCI function and its vfio-user transport
 *
 * Only puts the two together; their life is device.c's.
 */
#include "attach/user_device.h"

#include <errno.h>

#include "attach/vfio_pci.h"
#include "base/util.h"

struct user_device {
	struct device dev; /* the head */
	struct vfio_user *vu;
	struct vfio_pci *vp;
};

static struct user_device *user_device_of(const struct device *dev)
{
	return container_of(dev, struct user_device, dev);
}

static void stop(struct device *dev)
{
	struct user_device *ud = user_device_of(dev);

	pci_lock(dev->m->pci);
	if (ud->vu)
		vfio_user_stop(ud->vu);
	pci_unlock(dev->m->pci);
}

static bool is_ready(const struct device *dev)
{
	return vfio_user_is_ready(user_device_of(dev)->vu);
}

static void free_parts(struct device *dev)
{
	struct user_device *ud = user_device_of(dev);

	vfio_pci_free(ud->vp);
	vfio_user_free(ud->vu);
}

static const struct device_ops ops = {
	.stop = stop,
	.is_ready = is_ready,
	.free_parts = free_parts,
};

static int make_parts(struct user_device *ud, const struct user_device_params *p)
{
	struct machine *m = ud->dev.m;
	struct vfio_user_params vp = {
		.id = ud->dev.id,
		.socket = p->socket,
		.loop = m->loop,
		.memory = m->memory,
		.times = p->times,
	};
	int rc = vfio_pci_make(&ud->dev, &ud->vp);

	if (!rc)
		rc = device_make_dma(&ud->dev);
	if (rc)
		return rc;
	vp.owner = vfio_pci_owner(ud->vp);
	vp.dma = ud->dev.dma;
	pci_lock(m->pci);
	rc = vfio_user_new(&vp, &ud->vu);
	pci_unlock(m->pci);
	if (!rc)
		vfio_pci_set_transport(ud->vp, vfio_user_transport(ud->vu));
	return rc;
}

int user_device_attach(
	struct machine *m, const struct user_device_params *p, struct device **out, struct err *err)
{
	struct user_device *ud = device_new(sizeof(*ud), &ops, m, "user-device", &p->dev, err);
	int rc;

	if (!ud)
		return -ENOMEM;
	rc = make_parts(ud, p);
	if (!rc)
		rc = vfio_user_start(ud->vu, err);
	return device_begun(&ud->dev, rc, out, err);
}
