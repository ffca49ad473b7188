/*
 * vfio_kernel_attach.c - the thread that brings a host device up, and what the loop does with it
 * then
 *
 * Opening a device resets it, and the first one has all of guest RAM pinned: seconds, on large
 * machines. So this is done on a thread of its own, which ends with a report to the loop. The loop
 * has the owner build its function and restore what the guest set up, as for a device over a
 * socket; nothing of that waits.
 *
 * The owner's restore() sets interrupts up. One that is refused is reported after restore() has
 * come back, as the owner holds its lock inside.
 *
 * Threads: attach_thread() has the object to itself until its report is posted.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_kernel_priv.h"
#include "base/fd.h"
#include "base/log.h"
#include "wire/vfio_kernel.h"

/* --- on the thread --- */

static int read_config(struct vfio_kernel *vk, struct err *err)
{
	uint64_t size = vk->t.info.regions[VFIO_PCI_CONFIG_REGION_INDEX].size;
	ssize_t n;

	if (size < PCI_STD_HEADER_SIZEOF || size > sizeof(vk->config))
		return err_set(err, -EPROTO,
			"configuration space of %llu bytes, expected 64 to %zu",
			(unsigned long long)size, sizeof(vk->config));
	vk->config_size = (unsigned)size;
	n = vk->sys->pread(vk->sys, vk->binding.device_fd, vk->config, vk->config_size,
		vk->offsets[VFIO_PCI_CONFIG_REGION_INDEX]);
	if (n < 0)
		return err_set(err, (int)n, "configuration space: %s", strerror((int)-n));
	if ((uint64_t)n != size)
		return err_set(err, -EPROTO, "configuration space: %zd bytes, expected %u", n,
			vk->config_size);
	return 0;
}

/* Without a notifier nobody hears of the event; that is no reason not to use the device. */
static void arm(struct vfio_kernel *vk, struct vk_notifier *n, uint32_t index)
{
	struct vfio_irq_request rq = {
		.index = index,
		.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
		.count = 1,
		.fds = &n->fd,
	};
	int rc;

	if (!vk->t.info.irqs[index].count)
		return;
	n->fd = fd_eventfd();
	rc = n->fd < 0 ? n->fd : vk_set_irqs(vk, &rq);
	if (!rc)
		return;
	log_warn("%s: %s will not be noticed: %s", vk->id,
		index == VFIO_PCI_ERR_IRQ_INDEX ? "an error of the device"
						: "that the host wants the device back",
		strerror(-rc));
	if (n->fd >= 0)
		fd_close(&n->fd);
	n->fd = -1;
}

static int bring_up(struct vfio_kernel *vk, struct err *err)
{
	int rc = vfio_iommu_attach(vk->iommu, &vk->device, &vk->cancel, &vk->binding, err);

	if (!rc)
		rc = vk_info_get(vk, err);
	/* Opening has reset it, where it can be reset by itself, and where it was opened now. */
	if (!rc && (!vk->has_reset || vk->binding.was_bound))
		rc = vk_reset(vk, err);
	if (!rc)
		rc = read_config(vk, err);
	if (rc)
		return rc;
	arm(vk, &vk->error, VFIO_PCI_ERR_IRQ_INDEX);
	arm(vk, &vk->request, VFIO_PCI_REQ_IRQ_INDEX);
	return 0;
}

/* --- on the loop --- */

static void on_error(struct loop_source *src, uint32_t events)
{
	struct vfio_kernel *vk = container_of(src, struct vfio_kernel, error.src);

	if (fd_clear(vk->error.fd))
		vk_break(vk, VFIO_LEAVE_ERROR);
}

static void on_request(struct loop_source *src, uint32_t events)
{
	struct vfio_kernel *vk = container_of(src, struct vfio_kernel, request.src);

	if (fd_clear(vk->request.fd))
		vk_break(vk, VFIO_LEAVE_REQUEST);
}

static int watch(struct vfio_kernel *vk, struct vk_notifier *n, loop_fd_fn fn)
{
	return n->fd < 0 ? 0 : loop_add(vk->loop, &n->src, n->fd, EPOLLIN, fn);
}

static int refuse_irqs(struct vfio_kernel *vk, struct err *err)
{
	static const char *const names[VFIO_NR_IRQS] = { "INTx", "MSI", "MSI-X", "error",
		"request" };

	if (!vk->refused ||
		vk->owner->ops->irqs_refused(vk->owner, vk->refused_index, vk->refused_flags))
		return 0;
	return err_set(err, vk->refused_rc, "%s interrupts cannot be set up: %s%s",
		names[vk->refused_index], strerror(-vk->refused_rc),
		vk->refused_index == VFIO_PCI_INTX_IRQ_INDEX && vk->refused_rc == -EBUSY
			? " (its interrupt line is in use by a host driver that does not share it)"
			: "");
}

static int hand_over(struct vfio_kernel *vk, struct err *err)
{
	const struct vfio_owner_ops *ops = vk->owner->ops;
	int rc = ops->prepare(vk->owner, vk->config, vk->config_size, false, err);

	if (rc)
		return rc;
	do {
		vk->refused = false;
		ops->restore(vk->owner);
		rc = refuse_irqs(vk, err);
		if (rc)
			return rc;
	} while (!ops->ready(vk->owner, false));
	return 0;
}

static void attach_failed(struct vfio_kernel *vk, int rc, const struct err *err)
{
	atomic_store(&vk->state, VK_BROKEN);
	vk->owner->ops->failed(vk->owner, rc, err);
}

static void attached(struct loop_work *work)
{
	struct vfio_kernel *vk = container_of(work, struct vfio_kernel, attached_work);
	struct err err = vk->err;
	int rc = vk->rc;

	pthread_join(vk->thread, NULL);
	vk->has_thread = false;
	if (!rc)
		rc = hand_over(vk, &err);
	if (rc) {
		attach_failed(vk, rc, &err);
		return;
	}
	if (watch(vk, &vk->error, on_error) || watch(vk, &vk->request, on_request))
		log_warn("%s: out of memory: errors and requests of the host will not be noticed",
			vk->id);
}

static void *attach_thread(void *arg)
{
	struct vfio_kernel *vk = arg;

	vk->rc = bring_up(vk, &vk->err);
	loop_post(vk->loop, &vk->attached_work, attached);
	return NULL;
}

int vk_attach_begin(struct vfio_kernel *vk, struct err *err)
{
	sigset_t all, before;
	int rc;

	/* Signals are the loop's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	atomic_store(&vk->state, VK_ATTACHING);
	rc = pthread_create(&vk->thread, NULL, attach_thread, vk);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc) {
		atomic_store(&vk->state, VK_BROKEN);
		return err_set(err, -rc, "no thread: %s", strerror(rc));
	}
	vk->has_thread = true;
	return 0;
}

void vk_attach_end(struct vfio_kernel *vk)
{
	if (!vk->has_thread)
		return;
	atomic_store(&vk->cancel, true);
	pthread_join(vk->thread, NULL);
	vk->has_thread = false;
}
