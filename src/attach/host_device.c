/*
 * host_device.c - one --device: a PCI function and its way to the kernel's VFIO
 *
 * What sysfs says is looked at first: most of what is wrong can be said from there, with its cure.
 * Then the transport attaches on its thread. Their life is device.c's, but for one turn of it:
 *
 * A device that leaves for good (an error, a wish of the host's, pulled out) is taken from its slot
 * and given back to the host while the machine goes on: when no vCPU is inside any more (nobody
 * tells, so a timer looks), the closer closes it. The host's driver can have it then.
 */
#include "attach/host_device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_kernel.h"
#include "attach/vfio_sysfs.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"

#define KIND "device"

struct host_device {
	struct device dev; /* the head */
	struct vfio_iommu *iommu; /* its own, behind the guest's IOMMU; else NULL */
	struct vfio_kernel *vk;
	struct vfio_pci *vp;
	struct worker *closer;
	struct loop_work leave_work;
	bool leaves; /* it waits for that; topology lock */
	struct loop_timer leave_timer;
};

/* How often it is looked whether vCPUs have left a device that leaves. */
#define LEAVE_NS (5 * NS_PER_MS)

static struct host_device *host_device_of(const struct device *dev)
{
	return container_of(dev, struct host_device, dev);
}

/* --- leaving for good --- */

static void close_device(void *arg)
{
	vfio_kernel_give_back(arg);
}

static void free_device(void *arg)
{
	vfio_kernel_free(arg);
}

/* What closes the device. */
static void beside(struct host_device *hd, void (*fn)(void *vk))
{
	if (!hd->closer || worker_do(hd->closer, fn, hd->vk))
		fn(hd->vk);
}

/* Topology lock held; no vCPU is inside the device any more. */
static void give_back(void *arg)
{
	struct host_device *hd = arg;

	hd->leaves = false;
	beside(hd, close_device);
}

static void look_again(struct loop_timer *timer)
{
	struct host_device *hd = container_of(timer, struct host_device, leave_timer);
	struct machine *m = hd->dev.m;
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
	struct machine *m = hd->dev.m;

	device_withdraw(&hd->dev);
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

	loop_post(hd->dev.m->loop, &hd->leave_work, leave);
}

/* --- what differs from other routes --- */

static void stop(struct device *dev)
{
	struct host_device *hd = host_device_of(dev);

	if (hd->vk)
		vfio_kernel_stop(hd->vk);
	loop_unpost(dev->m->loop, &hd->leave_work);
	loop_timer_del(&hd->leave_timer);
}

static int may_plug(const struct device *dev, struct err *err)
{
	if (vfio_kernel_is_ready(host_device_of(dev)->vk))
		return 0;
	return err_set(err, -ENODEV, KIND " %s: it was lost before the guest had it", dev->id);
}

static bool is_ready(const struct device *dev)
{
	return vfio_kernel_is_ready(host_device_of(dev)->vk);
}

static void free_parts(struct device *dev)
{
	struct host_device *hd = host_device_of(dev);

	vfio_pci_free(hd->vp);
	if (hd->iommu)
		vfio_iommu_unfollow(hd->iommu);
	beside(hd, free_device);
	vfio_iommu_drop(hd->iommu);
}

static const struct device_ops ops = {
	.stop = stop,
	.may_plug = may_plug,
	.is_ready = is_ready,
	.free_parts = free_parts,
};

/* --- attach --- */

/* What the attach is told of the device; host holds its texts. */
static int look(const struct host_device_params *p, struct vfio_host *host,
	struct vfio_iommu_device *out, char name[32], struct err *err)
{
	int rc;

	*out = (struct vfio_iommu_device){ .group = -1, .fd = p->fd, .vf_token = p->vf_token };
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

/* Its addresses are the guest's to give. */
static int make_iommu(struct host_device *hd, const struct host_device_params *p)
{
	int rc = device_make_dma(&hd->dev);

	return rc ? rc : vfio_iommu_new_behind(p->iommu, hd->dev.dma, &hd->iommu);
}

static int make_parts(struct host_device *hd, const struct host_device_params *p,
	const struct vfio_iommu_device *device)
{
	const struct vfio_pci_options options = {
		.unmapped_bars = p->unmapped_bars,
		.gpudirect_clique = p->gpudirect_clique,
	};
	struct vfio_kernel_params kp = {
		.id = hd->dev.id,
		.sys = p->sys,
		.loop = hd->dev.m->loop,
		.iommu = p->iommu,
		.device = *device,
	};
	int rc = vfio_pci_make(&hd->dev, &hd->vp);

	if (!rc && hd->dev.iommu)
		rc = make_iommu(hd, p);
	if (rc)
		return rc;
	if (hd->iommu)
		kp.iommu = hd->iommu;
	kp.owner = vfio_pci_owner(hd->vp);
	rc = vfio_kernel_new(&kp, &hd->vk);
	if (rc)
		return rc;
	vfio_pci_set_transport(hd->vp, vfio_kernel_transport(hd->vk));
	vfio_pci_set_options(hd->vp, &options);
	vfio_pci_on_leave(hd->vp, left, hd);
	return 0;
}

int host_device_attach(
	struct machine *m, const struct host_device_params *p, struct device **out, struct err *err)
{
	struct vfio_iommu_device device;
	struct host_device *hd;
	struct vfio_host host;
	char name[32];
	int rc = look(p, &host, &device, name, err);

	if (rc)
		return err_prefix(err, rc, KIND " %s", p->dev.id);
	hd = device_new(sizeof(*hd), &ops, m, KIND, &p->dev, err);
	if (!hd)
		return -ENOMEM;
	hd->closer = p->fd < 0 ? p->closer : NULL;
	rc = make_parts(hd, p, &device);
	if (!rc)
		rc = vfio_kernel_start(hd->vk, err);
	return device_begun(&hd->dev, rc, out, err);
}
