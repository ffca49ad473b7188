/*
 * host_device.c - one --device: a PCI function, its way to the kernel's VFIO, and their common end
 *
 * What sysfs says is looked at first: most of what is wrong can be said from there, with its cure.
 * Then the transport attaches on its thread, and the report comes from the top of the loop, so that
 * the one who is told may free the device there.
 *
 * A device that leaves for good (an error, a wish of the host's, pulled out) is taken from its slot
 * and given back to the host while the machine goes on: when no vCPU is inside any more (nobody
 * tells, so a timer looks), a thread closes it, since that resets it and may take its time. The
 * host's driver can have it then.
 *
 * Threads: loop thread. The last part of its end runs when no vCPU is inside the device any more,
 * on whatever thread notices that.
 */
#include "attach/host_device.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_kernel.h"
#include "attach/vfio_pci.h"
#include "attach/vfio_sysfs.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"

static_assert(HOST_DEVICE_NO_CLIQUE == VFIO_PCI_NO_CLIQUE, "one value for none");

struct host_device {
	struct device dev; /* the head; its id is ours */
	struct machine *m;
	unsigned segment;
	int slot;
	device_attached_fn attached;
	void *arg;
	struct vfio_kernel *vk;
	struct vfio_pci *vp;
	struct loop_work report_work, leave_work;
	int rc;		/* of the attach */
	bool connected; /* the attach ended well */
	struct err err;
	pthread_t thread; /* gives the device back */
	bool has_thread;
	bool leaves; /* it waits for that; topology lock */
	struct loop_timer leave_timer;
};

/* How often it is looked whether vCPUs have left a device that leaves. */
#define LEAVE_NS (5 * NS_PER_MS)

static struct host_device *host_device_of(const struct device *dev)
{
	return container_of(dev, struct host_device, dev);
}

static void report(struct loop_work *work)
{
	struct host_device *hd = container_of(work, struct host_device, report_work);

	hd->attached(hd->arg, &hd->dev, hd->rc, &hd->err);
}

static void attached(void *arg, int rc, const struct err *err)
{
	struct host_device *hd = arg;

	hd->connected = !rc;
	hd->rc = rc;
	if (err)
		hd->err = *err;
	if (rc)
		err_prefix(&hd->err, rc, "device %s", hd->dev.id);
	loop_post(hd->m->loop, &hd->report_work, report);
}

/* --- leaving for good --- */

static void *give_back_thread(void *arg)
{
	struct host_device *hd = arg;

	vfio_kernel_give_back(hd->vk);
	return NULL;
}

/* Topology lock held; no vCPU is inside the device any more. */
static void give_back(void *arg)
{
	struct host_device *hd = arg;
	sigset_t all, before;

	hd->leaves = false;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	hd->has_thread = !pthread_create(&hd->thread, NULL, give_back_thread, hd);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!hd->has_thread)
		vfio_kernel_give_back(hd->vk);
}

static void look_again(struct loop_timer *timer)
{
	struct host_device *hd = container_of(timer, struct host_device, leave_timer);
	struct machine *m = hd->m;
	bool leaves;

	pci_lock(m->pci);
	io_reap(m->bus);
	leaves = hd->leaves;
	pci_unlock(m->pci);
	if (leaves)
		loop_timer_set(m->loop, timer, clock_now_ns() + LEAVE_NS, look_again);
}

static void leave(struct loop_work *work)
{
	struct host_device *hd = container_of(work, struct host_device, leave_work);
	struct machine *m = hd->m;

	vfio_kernel_stop(hd->vk);
	vfio_pci_unplug(hd->vp);
	pci_lock(m->pci);
	hd->leaves = !io_retire(m->bus, give_back, hd);
	if (!hd->leaves)
		log_err("%s: out of memory: the host gets the device back when the machine ends",
			hd->dev.id);
	pci_unlock(m->pci);
	look_again(&hd->leave_timer);
}

static void left(void *arg, enum vfio_leave why)
{
	struct host_device *hd = arg;

	loop_post(hd->m->loop, &hd->leave_work, leave);
}

/* --- what its holder asks --- */

static int plug(struct device *dev, struct err *err)
{
	struct host_device *hd = host_device_of(dev);

	assert(hd->connected);
	if (!vfio_kernel_is_ready(hd->vk))
		return err_set(
			err, -ENODEV, "device %s: it was lost before the guest had it", dev->id);
	return vfio_pci_plug(hd->vp, hd->segment, hd->slot, err);
}

static const char *bdf(const struct device *dev)
{
	return vfio_pci_bdf(host_device_of(dev)->vp);
}

static enum device_state state(const struct device *dev)
{
	const struct host_device *hd = host_device_of(dev);

	if (!hd->connected)
		return DEVICE_CONNECTING;
	return vfio_kernel_is_ready(hd->vk) ? DEVICE_ATTACHED : DEVICE_BROKEN;
}

static void free_parts(void *arg)
{
	struct host_device *hd = arg;

	if (hd->has_thread)
		pthread_join(hd->thread, NULL);
	vfio_pci_free(hd->vp);
	vfio_kernel_free(hd->vk);
	free((char *)hd->dev.id);
	free(hd);
}

static void hang_up(struct device *dev)
{
	struct host_device *hd = host_device_of(dev);
	struct machine *m = hd->m;

	if (hd->vk)
		vfio_kernel_stop(hd->vk);
	loop_unpost(m->loop, &hd->report_work);
	loop_unpost(m->loop, &hd->leave_work);
	loop_timer_del(&hd->leave_timer);
	if (hd->vp)
		vfio_pci_unplug(hd->vp);
	pci_lock(m->pci);
	if (io_retire(m->bus, free_parts, hd))
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

/* What the attach is told of the device; host holds its texts. */
static int look(const struct host_device_params *p, struct vfio_host *host,
	struct vfio_iommu_device *out, char name[32], struct err *err)
{
	int rc;

	*out = (struct vfio_iommu_device){ .group = -1, .fd = p->fd };
	if (!p->path) {
		snprintf(name, 32, "descriptor %d", p->fd);
		out->name = name;
		return 0;
	}
	out->fd = -1;
	rc = vfio_host_find(p->sysroot, p->path, host, err);
	if (!rc)
		rc = vfio_host_check(p->sysroot, host, p->unsafe_noiommu, err);
	if (rc)
		return rc;
	out->name = host->name;
	out->group = host->group;
	/* What no IOMMU confines has no address space to be attached to. */
	out->cdev = *host->cdev && !host->noiommu ? host->cdev : NULL;
	return 0;
}

static int make_parts(struct host_device *hd, const struct host_device_params *p,
	const struct vfio_iommu_device *device)
{
	const struct vfio_pci_options options = {
		.unmapped_bars = p->unmapped_bars,
		.gpudirect_clique = p->gpudirect_clique,
	};
	struct vfio_kernel_params kp = {
		.id = p->id,
		.sys = p->sys,
		.loop = hd->m->loop,
		.iommu = p->iommu,
		.device = *device,
	};
	int rc;

	hd->dev.id = strdup(p->id);
	if (!hd->dev.id)
		return -ENOMEM;
	rc = vfio_pci_new(hd->m, p->id, attached, hd, &hd->vp);
	if (rc)
		return rc;
	kp.owner = vfio_pci_owner(hd->vp);
	rc = vfio_kernel_new(&kp, &hd->vk);
	if (rc)
		return rc;
	vfio_pci_set_transport(hd->vp, vfio_kernel_transport(hd->vk));
	vfio_pci_set_options(hd->vp, &options);
	vfio_pci_on_leave(hd->vp, left, hd);
	return 0;
}

static int begin(struct machine *m, const struct host_device_params *p,
	const struct vfio_iommu_device *device, struct device **out, struct err *err)
{
	struct host_device *hd = calloc(1, sizeof(*hd));
	int rc;

	if (!hd)
		return err_set(err, -ENOMEM, "out of memory");
	hd->dev.ops = &ops;
	hd->m = m;
	hd->segment = p->segment;
	hd->slot = p->slot;
	hd->attached = p->attached;
	hd->arg = p->arg;
	rc = make_parts(hd, p, device);
	if (rc)
		err_set(err, rc, "out of memory");
	else
		rc = vfio_kernel_start(hd->vk, err);
	if (rc) {
		hang_up(&hd->dev);
		return rc;
	}
	*out = &hd->dev;
	return 0;
}

int host_device_attach(
	struct machine *m, const struct host_device_params *p, struct device **out, struct err *err)
{
	struct vfio_iommu_device device;
	struct vfio_host host;
	char name[32];
	int rc = look(p, &host, &device, name, err);

	if (!rc)
		rc = begin(m, p, &device, out, err);
	return rc ? err_prefix(err, rc, "device %s", p->id) : 0;
}
