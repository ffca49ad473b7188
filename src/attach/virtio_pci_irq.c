/*
 * virtio_pci_irq.c - vectors, INTx and ISR, configuration interrupts
 *
 * With MSI-X, the descriptor that the device signals for a queue is the eventfd of the queue's
 * vector, straight to KVM; without a vector there is none. A vector's eventfd comes into being when
 * the driver names the vector, so that a signal before it is unmasked is kept, and so that the
 * driver reads NO_VECTOR when there is none to be had.
 *
 * Without MSI-X, all queues share call_fd, which the loop listens to: it sets the ISR bit and
 * raises the line. The line is a level: raised as long as ISR is not 0, lowered by the read
 * of ISR, which every handler begins with. Several functions share a line; irqs counts who holds
 * it.
 *
 * Interrupts run from DRIVER_OK to the reset. Whether one may be raised is decided under intr.lock
 * alone, as the loop, which may not wait for the device, must be able to.
 *
 * Spec: virtio 1.3, 4.1.4.5 and 4.1.5.1.2 to 4.1.5.4; PCI Local Bus 3.0, 2.2.6.
 */
#include <errno.h>
#include <string.h>

#include "attach/virtio_pci_priv.h"
#include "base/kick.h"

/* virtio 1.3, 4.1.4.5; the other bit is the kernel's VIRTIO_PCI_ISR_CONFIG */
#define ISR_QUEUE 0x1

/* --- the line; intr.lock held --- */

static void update_line(struct virtio_pci *v)
{
	struct vio_intr *n = &v->intr;
	bool raise = n->isr && n->running && !n->msix && !n->off;

	if (raise == n->raised || !n->src.loop)
		return;
	n->raised = raise;
	irq_line_share(v->m->irqs, pci_intx_gsi(&v->fn), raise);
}

uint8_t vio_isr_take(struct virtio_pci *v)
{
	uint8_t isr;

	pthread_mutex_lock(&v->intr.lock);
	isr = v->intr.isr;
	v->intr.isr = 0;
	update_line(v);
	pthread_mutex_unlock(&v->intr.lock);
	return isr;
}

bool vio_intx_pending(struct virtio_pci *v)
{
	bool pending;

	pthread_mutex_lock(&v->intr.lock);
	pending = v->intr.isr && !v->intr.msix;
	pthread_mutex_unlock(&v->intr.lock);
	return pending;
}

/*
 * Each signal is an edge, also to a counter that is not 0. It is not read: the device has the
 * same descriptor, could empty it in between and make the read wait.
 */
static void on_call(struct loop_source *src, uint32_t events)
{
	struct vio_intr *n = container_of(src, struct vio_intr, src);
	struct virtio_pci *v = container_of(n, struct virtio_pci, intr);

	pthread_mutex_lock(&n->lock);
	if (n->running)
		n->isr |= ISR_QUEUE;
	update_line(v);
	pthread_mutex_unlock(&n->lock);
}

int vio_intx_connect(struct virtio_pci *v, struct err *err)
{
	int rc;

	pthread_mutex_lock(&v->intr.lock);
	rc = loop_add(v->m->loop, &v->intr.src, v->intr.call_fd, EPOLLIN | EPOLLET, on_call);
	pthread_mutex_unlock(&v->intr.lock);
	return rc ? err_set(err, rc, "%s: cannot listen for interrupts: %s", v->id, strerror(-rc))
		  : 0;
}

void vio_intx_disconnect(struct virtio_pci *v)
{
	pthread_mutex_lock(&v->intr.lock);
	v->intr.isr = 0;
	update_line(v);
	loop_del(&v->intr.src);
	pthread_mutex_unlock(&v->intr.lock);
}

/* --- vectors; v->lock held --- */

uint16_t vio_vector_take(struct virtio_pci *v, uint16_t vector)
{
	int rc;

	if (vector >= v->msix.nr)
		return VIRTIO_MSI_NO_VECTOR;
	rc = irq_vector_prepare(v->msix.irqs, &v->msix.vectors[vector]);
	if (!rc)
		return vector;
	log_limited(&v->complaints, LOG_WARN, "%s: MSI-X vector %u cannot be had: %s", v->id,
		vector, strerror(-rc));
	return VIRTIO_MSI_NO_VECTOR;
}

static int vector_fd(const struct virtio_pci *v, uint16_t vector)
{
	return v->msix.enabled && vector < v->msix.nr ? v->msix.vectors[vector].eventfd : -1;
}

static void update_calls(struct virtio_pci *v)
{
	for (unsigned i = 0; i < v->nr_queues; i++) {
		struct virtio_queue *q = &v->queues[i];
		int fd = v->msix.enabled ? vector_fd(v, v->vectors[i]) : v->intr.call_fd;

		if (fd == q->call_fd)
			continue;
		q->call_fd = fd;
		if (v->started && q->enabled)
			v->b->ops->queue_call(v->b, i, fd);
	}
}

void vio_irqs_update(struct virtio_pci *v)
{
	uint32_t flags = pci_config_get(&v->fn, v->msix_pos + PCI_MSIX_FLAGS, 2);
	uint32_t command = pci_config_get(&v->fn, PCI_COMMAND, 2);

	msix_set_flags(&v->msix, (uint16_t)flags);
	pthread_mutex_lock(&v->intr.lock);
	v->intr.msix = v->msix.enabled;
	v->intr.off = command & PCI_COMMAND_INTX_DISABLE;
	v->intr.config_fd = vector_fd(v, v->config_vector);
	update_line(v);
	pthread_mutex_unlock(&v->intr.lock);
	update_calls(v);
}

void vio_irqs_run(struct virtio_pci *v, bool running)
{
	pthread_mutex_lock(&v->intr.lock);
	v->intr.running = running;
	if (!running)
		v->intr.isr = 0;
	update_line(v);
	pthread_mutex_unlock(&v->intr.lock);
}

/* --- what the device has to say; any thread --- */

void vio_config_interrupt(struct virtio_pci *v)
{
	int fd = -1;

	pthread_mutex_lock(&v->intr.lock);
	if (v->intr.running) {
		v->intr.isr |= VIRTIO_PCI_ISR_CONFIG;
		fd = v->intr.config_fd;
	}
	update_line(v);
	pthread_mutex_unlock(&v->intr.lock);
	if (fd >= 0)
		kick(fd);
}

/*
 * 2.1.2. Only a device in use can need a reset: what is heard of a queue that was stopped since is
 * of the past, and one that cannot be had any more says so when it is started.
 */
void vio_needs_reset(struct virtio_pci *v)
{
	bool running;

	pthread_mutex_lock(&v->intr.lock);
	running = v->intr.running;
	if (running)
		atomic_fetch_or(&v->status, VIRTIO_CONFIG_S_NEEDS_RESET);
	pthread_mutex_unlock(&v->intr.lock);
	if (running)
		vio_config_interrupt(v);
}
