/*
 * user_device.c - one --user-device: a PCI function, its vfio-user transport, and their common end
 *
 * Only puts the two together. What ends an attach is reported from the top of the loop, not
 * from inside the transport, so that the one who is told may free the device there.
 *
 * Threads: loop thread. The last part of its end runs when no vCPU is inside the device
 *          any more, on whatever thread notices that.
 */
#include "attach/user_device.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_pci.h"
#include "base/log.h"
#include "base/util.h"

struct user_device {
	struct device dev; /* the head; its id is ours */
	struct machine *m;
	unsigned segment;
	int slot;
	device_attached_fn attached;
	void *arg;
	struct dma_space *dma;
	struct viommu *iommu; /* NULL: not behind one */
	struct vfio_user *vu;
	struct vfio_pci *vp;
	struct loop_work report_work;
	int rc;		/* of the attach */
	bool connected; /* the attach ended well */
	struct err err;
};

static struct user_device *user_device_of(const struct device *dev)
{
	return container_of(dev, struct user_device, dev);
}

static void report(struct loop_work *work)
{
	struct user_device *ud = container_of(work, struct user_device, report_work);

	ud->attached(ud->arg, &ud->dev, ud->rc, &ud->err);
}

static void attached(void *arg, int rc, const struct err *err)
{
	struct user_device *ud = arg;

	ud->connected = !rc;
	ud->rc = rc;
	if (err)
		ud->err = *err;
	loop_post(ud->m->loop, &ud->report_work, report);
}

/* --- what its holder asks --- */

static int plug(struct device *dev, struct err *err)
{
	struct user_device *ud = user_device_of(dev);

	int rc;

	assert(ud->connected);
	rc = vfio_pci_plug(ud->vp, ud->segment, ud->slot, err);
	if (!rc && ud->iommu)
		rc = viommu_add(ud->iommu, vfio_pci_bdf(ud->vp), ud->dma, err);
	return rc;
}

static const char *bdf(const struct device *dev)
{
	return vfio_pci_bdf(user_device_of(dev)->vp);
}

static enum device_state state(const struct device *dev)
{
	const struct user_device *ud = user_device_of(dev);

	if (!ud->connected)
		return DEVICE_CONNECTING;
	return vfio_user_is_ready(ud->vu) ? DEVICE_ATTACHED : DEVICE_BROKEN;
}

static void free_parts(void *arg)
{
	struct user_device *ud = arg;

	vfio_pci_free(ud->vp);
	vfio_user_free(ud->vu);
	dma_space_free(ud->dma);
	free((char *)ud->dev.id);
	free(ud);
}

static void hang_up(struct device *dev)
{
	struct user_device *ud = user_device_of(dev);
	struct machine *m = ud->m;

	loop_unpost(m->loop, &ud->report_work);
	/* First the transport: whoever waits for the device in a vCPU comes back at once. */
	pci_lock(m->pci);
	if (ud->vu)
		vfio_user_stop(ud->vu);
	pci_unlock(m->pci);
	if (ud->dma)
		iommu_remove(ud->dma);
	if (ud->vp)
		vfio_pci_unplug(ud->vp);
	pci_lock(m->pci);
	if (io_retire(m->bus, free_parts, ud))
		log_err("%s: out of memory: the device's own stays allocated", dev->id);
	io_reap(m->bus);
	pci_unlock(m->pci);
}

static const struct device_ops ops = {
	.plug = plug,
	.bdf = bdf,
	.state = state,
	.free = hang_up,
};

/* --- attach --- */

static int make_parts(struct user_device *ud, const struct user_device_params *p)
{
	struct vfio_user_params vp = {
		.id = p->id,
		.socket = p->socket,
		.loop = ud->m->loop,
		.memory = ud->m->memory,
		.times = p->times,
	};
	int rc;

	ud->dev.id = strdup(p->id);
	if (!ud->dev.id)
		return -ENOMEM;
	rc = vfio_pci_new(ud->m, p->id, attached, ud, &ud->vp);
	if (rc)
		return rc;
	vp.owner = vfio_pci_owner(ud->vp);
	pci_lock(ud->m->pci);
	rc = dma_space_new(ud->m->memory, p->id, &ud->dma);
	vp.dma = ud->dma;
	if (!rc && p->iommu)
		dma_will_be_translated(ud->dma);
	if (!rc)
		rc = vfio_user_new(&vp, &ud->vu);
	pci_unlock(ud->m->pci);
	if (rc)
		return rc;
	vfio_pci_set_transport(ud->vp, vfio_user_transport(ud->vu));
	return 0;
}

int user_device_attach(
	struct machine *m, const struct user_device_params *p, struct device **out, struct err *err)
{
	struct user_device *ud = calloc(1, sizeof(*ud));
	int rc;

	if (!ud)
		return err_set(err, -ENOMEM, "user-device %s: out of memory", p->id);
	ud->dev.ops = &ops;
	ud->m = m;
	ud->iommu = p->iommu;
	ud->segment = p->segment;
	ud->slot = p->slot;
	ud->attached = p->attached;
	ud->arg = p->arg;
	rc = make_parts(ud, p);
	if (rc)
		err_set(err, rc, "user-device %s: out of memory", p->id);
	else
		rc = vfio_user_start(ud->vu, err);
	if (rc) {
		hang_up(&ud->dev);
		return rc;
	}
	*out = &ud->dev;
	return 0;
}
