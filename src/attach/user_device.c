/*
 * user_device.c - one --user-device: a PCI function, its vfio-user transport, and their common end
 *
 * Only puts the two together. What ends an attach is reported from the top of the loop, not
 * from inside the transport, so that the one who is told may free the device there.
 *
 * Threads: loop thread. The last part of user_device_free() runs when no vCPU is inside the device
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
	struct machine *m;
	char *id;
	unsigned segment;
	int slot;
	user_device_attached_fn attached;
	void *arg;
	struct vfio_user *vu;
	struct vfio_pci *vp;
	struct loop_work report_work;
	int rc; /* of the attach */
	struct err err;
};

static void report(struct loop_work *work)
{
	struct user_device *dev = container_of(work, struct user_device, report_work);

	dev->attached(dev->arg, dev, dev->rc, &dev->err);
}

static void attached(void *arg, int rc, const struct err *err)
{
	struct user_device *dev = arg;

	dev->rc = rc;
	if (err)
		dev->err = *err;
	loop_post(dev->m->loop, &dev->report_work, report);
}

static void free_parts(void *arg)
{
	struct user_device *dev = arg;

	vfio_pci_free(dev->vp);
	vfio_user_free(dev->vu);
	free(dev->id);
	free(dev);
}

static int make_parts(struct user_device *dev, const struct user_device_params *p)
{
	struct vfio_user_params vp = {
		.id = p->id,
		.socket = p->socket,
		.loop = dev->m->loop,
		.memory = dev->m->memory,
		.times = p->times,
	};
	int rc;

	dev->id = strdup(p->id);
	if (!dev->id)
		return -ENOMEM;
	rc = vfio_pci_new(dev->m, p->id, attached, dev, &dev->vp);
	if (rc)
		return rc;
	vp.owner = vfio_pci_owner(dev->vp);
	pci_lock(dev->m->pci);
	rc = vfio_user_new(&vp, &dev->vu);
	pci_unlock(dev->m->pci);
	if (rc)
		return rc;
	vfio_pci_set_transport(dev->vp, vfio_user_transport(dev->vu));
	return 0;
}

int user_device_attach(struct machine *m, const struct user_device_params *p,
	struct user_device **out, struct err *err)
{
	struct user_device *dev = calloc(1, sizeof(*dev));
	int rc;

	if (!dev)
		return err_set(err, -ENOMEM, "user-device %s: out of memory", p->id);
	dev->m = m;
	dev->segment = p->segment;
	dev->slot = p->slot;
	dev->attached = p->attached;
	dev->arg = p->arg;
	rc = make_parts(dev, p);
	if (rc)
		err_set(err, rc, "user-device %s: out of memory", p->id);
	else
		rc = vfio_user_start(dev->vu, err);
	if (rc) {
		user_device_free(dev);
		return rc;
	}
	*out = dev;
	return 0;
}

int user_device_plug(struct user_device *dev, struct err *err)
{
	assert(!dev->rc);
	return vfio_pci_plug(dev->vp, dev->segment, dev->slot, err);
}

const char *user_device_id(const struct user_device *dev)
{
	return dev->id;
}

const char *user_device_bdf(const struct user_device *dev)
{
	return vfio_pci_bdf(dev->vp);
}

void user_device_free(struct user_device *dev)
{
	struct machine *m;

	if (!dev)
		return;
	m = dev->m;
	loop_unpost(m->loop, &dev->report_work);
	/* First the transport: whoever waits for the device in a vCPU comes back at once. */
	pci_lock(m->pci);
	if (dev->vu)
		vfio_user_stop(dev->vu);
	pci_unlock(m->pci);
	if (dev->vp)
		vfio_pci_unplug(dev->vp);
	pci_lock(m->pci);
	if (io_retire(m->bus, free_parts, dev))
		log_err("%s: out of memory: the device's own stays allocated", dev->id);
	io_reap(m->bus);
	pci_unlock(m->pci);
}
