/*
 * vfio_kernel.c - a host device behind the kernel's VFIO: calls, loss, end
 *
 * States: IDLE -> ATTACHING -> READY -> BROKEN. A call is a system call on the device's descriptor,
 * made by the thread that needs it; the kernel sorts out who comes first. There is nothing to wait
 * for but the kernel itself.
 *
 * A device is lost in three ways, each final: the kernel signals an uncorrectable error, or that
 * the host wants it back, or an access fails and the device's vendor id can not be read any more.
 * An access alone proves nothing: the kernel refuses BARs while memory decoding is off or the
 * device sleeps. Whoever finds the loss turns READY into BROKEN, from when on calls fail; the loop
 * tells the owner, who ends the device (and so gives it back to the host).
 *
 * The kernel resets a device when its first user opens it and when the last one has closed it, also
 * if that user was killed. Explicit resets are for what it cannot do alone (the whole bus) and for
 * guests that restart.
 *
 * Owns:    the binding, notifiers, descriptions. The loop and the owner are borrowed.
 * Threads: calls from any; the rest on the loop thread.
 * Spec:    linux/vfio.h.
 */
#include "attach/vfio_kernel.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_kernel_priv.h"
#include "base/fd.h"
#include "base/log.h"
#include "wire/vfio_kernel.h"

static struct vfio_kernel *kernel_of(struct vfio_transport *t)
{
	return container_of(t, struct vfio_kernel, t);
}

/* --- loss --- */

static void lost(struct loop_work *work)
{
	struct vfio_kernel *vk = container_of(work, struct vfio_kernel, lost_work);
	const struct vfio_owner_ops *ops = vk->owner->ops;

	if (ops->leaving)
		ops->leaving(vk->owner, (enum vfio_leave)atomic_load(&vk->why));
	ops->lost(vk->owner);
}

void vk_break(struct vfio_kernel *vk, enum vfio_leave why)
{
	int ready = VK_READY;

	/* Together, so that nothing is posted any more when the loop has stopped it. */
	pthread_mutex_lock(&vk->break_lock);
	if (atomic_compare_exchange_strong(&vk->state, &ready, VK_BROKEN)) {
		atomic_store(&vk->why, why);
		loop_post(vk->loop, &vk->lost_work, lost);
	}
	pthread_mutex_unlock(&vk->break_lock);
}

static bool answers(struct vfio_kernel *vk)
{
	uint16_t vendor = UINT16_MAX;
	ssize_t n = vk->sys->pread(vk->sys, vk->binding.device_fd, &vendor, sizeof(vendor),
		vk->offsets[VFIO_PCI_CONFIG_REGION_INDEX]);

	return n == sizeof(vendor) && vendor != UINT16_MAX;
}

/* A call failed with rc. What to return. */
static int failed(struct vfio_kernel *vk, int rc)
{
	if ((rc != -EIO && rc != -ENODEV) || atomic_load(&vk->state) != VK_READY || answers(vk))
		return rc;
	vk_break(vk, VFIO_LEAVE_GONE);
	return -ENOTCONN;
}

/* --- calls --- */

/* Inside restore() the device is the owner's already, though not yet ready. */
static bool may_call(struct vfio_kernel *vk, enum vfio_call call)
{
	int state = atomic_load_explicit(&vk->state, memory_order_relaxed);

	return state == VK_READY || (state == VK_ATTACHING && call == VFIO_CALL_QUEUE);
}

static int done(struct vfio_kernel *vk, ssize_t n, unsigned len)
{
	if (n == (ssize_t)len)
		return 0;
	return failed(vk, n < 0 ? (int)n : -EIO);
}

static int region_read(
	struct vfio_transport *t, unsigned region, uint64_t off, void *buf, unsigned len)
{
	struct vfio_kernel *vk = kernel_of(t);

	assert(region < VFIO_NR_REGIONS);
	if (!may_call(vk, VFIO_CALL_WAIT))
		return -ENOTCONN;
	return done(vk,
		vk->sys->pread(vk->sys, vk->binding.device_fd, buf, len, vk->offsets[region] + off),
		len);
}

static int region_write(struct vfio_transport *t, unsigned region, uint64_t off, const void *buf,
	unsigned len, enum vfio_call call)
{
	struct vfio_kernel *vk = kernel_of(t);

	assert(region < VFIO_NR_REGIONS);
	if (!may_call(vk, call))
		return -ENOTCONN;
	return done(vk,
		vk->sys->pwrite(
			vk->sys, vk->binding.device_fd, buf, len, vk->offsets[region] + off),
		len);
}

int vk_set_irqs(struct vfio_kernel *vk, const struct vfio_irq_request *rq)
{
	size_t fds = rq->flags & VFIO_IRQ_SET_DATA_EVENTFD ? rq->count * sizeof(int32_t) : 0;
	FREE_AUTO struct vfio_irq_set *set = calloc(1, sizeof(*set) + fds);
	int rc;

	if (!set)
		return -ENOMEM;
	set->argsz = (uint32_t)(sizeof(*set) + fds);
	set->flags = rq->flags;
	set->index = rq->index;
	set->start = rq->start;
	set->count = rq->count;
	if (fds)
		memcpy(set->data, rq->fds, fds);
	rc = vk_ioctl(vk, VFIO_DEVICE_SET_IRQS, set);
	/* So many vectors it could have, and has none now. */
	return rc > 0 ? -ENOSPC : rc;
}

static int set_irqs(
	struct vfio_transport *t, const struct vfio_irq_request *rq, enum vfio_call call)
{
	struct vfio_kernel *vk = kernel_of(t);
	int rc;

	if (!may_call(vk, call))
		return -ENOTCONN;
	rc = vk_set_irqs(vk, rq);
	if (rc && call == VFIO_CALL_QUEUE && !vk->refused) {
		vk->refused = true;
		vk->refused_index = rq->index;
		vk->refused_flags = rq->flags;
		vk->refused_rc = rc;
	}
	if (call == VFIO_CALL_QUEUE)
		return 0;
	return rc ? failed(vk, rc) : 0;
}

/* Another thread is inside one of the devices just now: the kernel does not wait for it. */
#define BUSY_TRIES 200
#define BUSY_MS	   2

static int hot_reset(struct vfio_kernel *vk, struct err *err)
{
	int rc = vfio_iommu_hot_reset(vk->iommu, &vk->binding, err);

	for (int i = 0; i < BUSY_TRIES && (rc == -EBUSY || rc == -EAGAIN); i++) {
		poll(NULL, 0, BUSY_MS);
		err_clear(err);
		rc = vfio_iommu_hot_reset(vk->iommu, &vk->binding, err);
	}
	return rc;
}

int vk_reset(struct vfio_kernel *vk, struct err *err)
{
	int rc;

	if (vk->has_reset) {
		rc = vk_ioctl(vk, VFIO_DEVICE_RESET, NULL);
		return rc ? err_set(err, rc, "its reset failed: %s", strerror(-rc)) : 0;
	}
	rc = hot_reset(vk, err);
	if (rc != -ENOTTY && rc != -EPERM)
		return rc;
	if (!atomic_exchange(&vk->reset_said, true))
		log_warn(
			"%s: the device cannot be reset: it has no reset of its own, and %s. The guest "
			"finds it as it was left",
			vk->id, err->text);
	return 0;
}

static int reset(struct vfio_transport *t)
{
	struct vfio_kernel *vk = kernel_of(t);
	struct err err = { 0 };
	int rc;

	if (!may_call(vk, VFIO_CALL_WAIT))
		return -ENOTCONN;
	rc = vk_reset(vk, &err);
	if (rc)
		log_debug("%s: %s", vk->id, err.text);
	return rc ? failed(vk, rc) : 0;
}

/* The kernel sees the bit itself, in the command register. */
static void bus_master(struct vfio_transport *t, bool on)
{
}

static void open_device(struct vfio_transport *t)
{
	struct vfio_kernel *vk = kernel_of(t);
	int attaching = VK_ATTACHING;

	atomic_compare_exchange_strong(&vk->state, &attaching, VK_READY);
}

/* The kernel maps only memory that the device decodes now, and its owner lays nothing else. */
static void dma_map(struct vfio_transport *t, uint64_t gpa, uint64_t size, void *hva)
{
	struct vfio_kernel *vk = kernel_of(t);

	vfio_iommu_map(vk->iommu, vk->id, gpa, size, hva);
}

static void dma_unmap(struct vfio_transport *t, uint64_t gpa, uint64_t size)
{
	vfio_iommu_unmap(kernel_of(t)->iommu, gpa, size);
}

static void dma_take(struct vfio_transport *t, void *hva, uint64_t size)
{
	vfio_iommu_take(kernel_of(t)->iommu, hva, size);
}

static void dma_settle(struct vfio_transport *t)
{
	vfio_iommu_settle(kernel_of(t)->iommu);
}

static int feature(struct vfio_transport *t, void *arg)
{
	struct vfio_kernel *vk = kernel_of(t);
	int rc;

	if (!may_call(vk, VFIO_CALL_WAIT))
		return -ENOTCONN;
	rc = vk_ioctl(vk, VFIO_DEVICE_FEATURE, arg);
	return rc < 0 ? failed(vk, rc) : 0;
}

static const struct vfio_transport_ops transport_ops = {
	.region_read = region_read,
	.region_write = region_write,
	.set_irqs = set_irqs,
	.reset = reset,
	.bus_master = bus_master,
	.open = open_device,
	.dma_map = dma_map,
	.dma_unmap = dma_unmap,
	.dma_take = dma_take,
	.dma_settle = dma_settle,
	.feature = feature,
};

/* --- life --- */

static void free_texts(struct vfio_kernel *vk)
{
	free(vk->id);
	free((char *)vk->device.name);
	free((char *)vk->device.cdev);
	free((char *)vk->device.vf_token);
}

static char *copy(const char *text)
{
	return text ? strdup(text) : NULL;
}

int vfio_kernel_new(const struct vfio_kernel_params *p, struct vfio_kernel **out)
{
	struct vfio_kernel *vk = calloc(1, sizeof(*vk));

	if (!vk)
		return -ENOMEM;
	vk->id = strdup(p->id);
	vk->device = p->device;
	vk->device.name = copy(p->device.name);
	vk->device.cdev = copy(p->device.cdev);
	vk->device.vf_token = copy(p->device.vf_token);
	if (!vk->id || !vk->device.name || (p->device.cdev && !vk->device.cdev) ||
		(p->device.vf_token && !vk->device.vf_token)) {
		free_texts(vk);
		free(vk);
		return -ENOMEM;
	}
	vk->t = (struct vfio_transport){ .ops = &transport_ops, .id = vk->id };
	vk->sys = p->sys ? p->sys : &vfio_sys_kernel;
	vk->loop = p->loop;
	vk->owner = p->owner;
	pthread_mutex_init(&vk->break_lock, NULL);
	vk->iommu = vfio_iommu_hold(p->iommu);
	vk->binding.device_fd = -1;
	vk->error.fd = vk->request.fd = -1;
	*out = vk;
	return 0;
}

int vfio_kernel_start(struct vfio_kernel *vk, struct err *err)
{
	assert(atomic_load(&vk->state) == VK_IDLE);
	return vk_attach_begin(vk, err);
}

struct vfio_transport *vfio_kernel_transport(struct vfio_kernel *vk)
{
	return &vk->t;
}

bool vfio_kernel_is_ready(const struct vfio_kernel *vk)
{
	return atomic_load(&vk->state) == VK_READY;
}

/*
 * A device that is about to be closed is at work until then, on memory that the guest may take for
 * something else.
 */
static void quiet(struct vfio_kernel *vk)
{
	uint64_t at = vk->offsets[VFIO_PCI_CONFIG_REGION_INDEX] + PCI_COMMAND;
	uint16_t command;

	if (vk->binding.device_fd < 0 || !vk->config_size ||
		vk->sys->pread(vk->sys, vk->binding.device_fd, &command, sizeof(command), at) !=
			sizeof(command) ||
		!(command & PCI_COMMAND_MASTER) || command == UINT16_MAX)
		return;
	command &= (uint16_t)~PCI_COMMAND_MASTER;
	vk->sys->pwrite(vk->sys, vk->binding.device_fd, &command, sizeof(command), at);
}

void vfio_kernel_stop(struct vfio_kernel *vk)
{
	vk_attach_end(vk);
	pthread_mutex_lock(&vk->break_lock);
	atomic_store(&vk->state, VK_BROKEN);
	pthread_mutex_unlock(&vk->break_lock);
	/* The first time; later it may have been given back, or just be. */
	if (!vk->stopped)
		quiet(vk);
	vk->stopped = true;
	loop_unpost(vk->loop, &vk->attached_work);
	loop_unpost(vk->loop, &vk->lost_work);
	loop_del(&vk->error.src);
	loop_del(&vk->request.src);
}

/*
 * The caller's descriptor stays open, and with it the device as it is: what closing would do has to
 * be asked for, so that the next one who takes the descriptor finds a clean device.
 */
static void clean_borrowed(struct vfio_kernel *vk)
{
	struct err err = { 0 };

	for (uint32_t i = 0; i < VFIO_NR_IRQS; i++) {
		const struct vfio_irq_request off = {
			.index = i,
			.flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
		};

		/* Of a kind that is not on this is an error, which says nothing. */
		if (vk->t.info.irqs[i].count)
			vk_set_irqs(vk, &off);
	}
	if (vk_reset(vk, &err))
		log_warn("%s: %s", vk->id, err.text);
}

void vfio_kernel_give_back(struct vfio_kernel *vk)
{
	assert(!vk->has_thread);
	if (vk->binding.device_fd >= 0 && vk->binding.borrowed)
		clean_borrowed(vk);
	vfio_iommu_detach(vk->iommu, &vk->binding);
}

void vfio_kernel_free(struct vfio_kernel *vk)
{
	if (!vk)
		return;
	vfio_kernel_give_back(vk);
	vfio_iommu_drop(vk->iommu);
	vk_info_fini(vk);
	fd_close(&vk->error.fd);
	fd_close(&vk->request.fd);
	pthread_mutex_destroy(&vk->break_lock);
	free_texts(vk);
	free(vk);
}
