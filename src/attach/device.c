/*
 * device.c - the life of a device, which is the same for all routes
 *
 * Owns:    the head and what it points at; a route's parts by its operations.
 * Threads: loop thread, but for the last step: forget() runs where io_retire() says.
 */
#include "attach/device.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/viommu.h"
#include "base/log.h"
#include "base/util.h"
#include "machine/iommu.h"

/* --- attach --- */

void *device_new(size_t size, const struct device_ops *ops, struct machine *m, const char *kind,
	const struct device_params *p, struct err *err)
{
	char *id = strdup(p->id);
	struct device *dev = id ? calloc(1, size) : NULL;

	assert(size >= sizeof(*dev));
	if (!dev) {
		free(id);
		err_set(err, -ENOMEM, "%s %s: out of memory", kind, p->id);
		return NULL;
	}
	dev->ops = ops;
	dev->kind = kind;
	dev->id = id;
	dev->m = m;
	dev->iommu = p->iommu;
	dev->segment = p->segment;
	dev->slot = p->slot;
	dev->attached = p->attached;
	dev->arg = p->arg;
	return dev;
}

void device_set_function(
	struct device *dev, const struct device_function_ops *ops, void *function)
{
	dev->function_ops = ops;
	dev->function = function;
}

int device_make_dma(struct device *dev)
{
	int rc;

	pci_lock(dev->m->pci);
	rc = dma_space_new(dev->m->memory, dev->id, &dev->dma);
	pci_unlock(dev->m->pci);
	if (!rc && dev->iommu)
		dma_will_be_translated(dev->dma);
	return rc;
}

int device_begun(struct device *dev, int rc, struct device **out, struct err *err)
{
	if (!rc) {
		*out = dev;
		return 0;
	}
	/* If nobody said more. */
	err_set(err, rc, "%s", rc == -ENOMEM ? "out of memory" : strerror(-rc));
	err_prefix(err, rc, "%s %s", dev->kind, dev->id);
	device_free(dev);
	return rc;
}

static void report(struct loop_work *work)
{
	struct device *dev = container_of(work, struct device, report_work);

	dev->attached(dev->arg, dev, dev->rc, &dev->err);
}

void device_attached(void *arg, int rc, const struct err *err)
{
	struct device *dev = arg;

	dev->connected = !rc;
	dev->rc = rc;
	if (err)
		dev->err = *err;
	if (rc)
		err_prefix(&dev->err, rc, "%s %s", dev->kind, dev->id);
	loop_post(dev->m->loop, &dev->report_work, report);
}

/* --- in the machine --- */

int device_plug(struct device *dev, struct err *err)
{
	int rc;

	assert(dev->connected && (dev->dma || !dev->iommu));
	rc = dev->ops->may_plug ? dev->ops->may_plug(dev, err) : 0;
	if (!rc)
		rc = dev->function_ops->plug(dev->function, dev->segment, dev->slot, err);
	if (!rc && dev->iommu)
		rc = viommu_add(dev->iommu, device_bdf(dev), dev->dma, err);
	return rc;
}

const char *device_bdf(const struct device *dev)
{
	return dev->function ? dev->function_ops->bdf(dev->function) : "";
}

enum device_state device_state(const struct device *dev)
{
	if (!dev->connected)
		return DEVICE_CONNECTING;
	return dev->ops->is_ready(dev) ? DEVICE_ATTACHED : DEVICE_BROKEN;
}

/* --- the end --- */

void device_withdraw(struct device *dev)
{
	dev->ops->stop(dev);
	if (dev->dma)
		iommu_remove(dev->dma);
	if (dev->function)
		dev->function_ops->unplug(dev->function);
}

static void forget(void *arg)
{
	struct device *dev = arg;

	dev->ops->free_parts(dev);
	dma_space_free(dev->dma);
	free((char *)dev->id);
	free(dev);
}

void device_free(struct device *dev)
{
	struct machine *m;

	if (!dev)
		return;
	m = dev->m;
	device_withdraw(dev);
	loop_unpost(m->loop, &dev->report_work);
	pci_lock(m->pci);
	if (io_retire(m->bus, forget, dev))
		log_err("%s: out of memory: the device's own stays allocated", dev->id);
	io_reap(m->bus);
	pci_unlock(m->pci);
}
