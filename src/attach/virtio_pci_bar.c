/*
 * virtio_pci_bar.c - who answers in BAR 0; doorbells
 *
 * BAR 0 is a row of parts at fixed places. An access that does not lie inside one part as a whole
 * reads all-ones and writes nothing. BAR 2, the shared memory, answers here only where nothing
 * is laid over it: all-ones.
 *
 * A doorbell is an ioeventfd that signals the queue's kick descriptor, so the guest's write never
 * comes here. KVM matches it for every length and value, or, where it cannot, for the two lengths
 * that a driver uses. What gets past (another length, the configuration window, a KVM out of room)
 * is signalled by us; the device holds the other end and may have filled it, hence kick().
 * NOTIFICATION_DATA's value, where the driver is in its ring, is a hint
 * that an eventfd cannot carry; the ring says the same.
 *
 * Threads: accesses on vCPU threads; doorbells are laid under the topology lock.
 * Spec:    virtio 1.3, 4.1.4.4, 4.1.4.5, 4.1.4.6 and 4.1.5.2.
 */
#include <endian.h>
#include <linux/kvm.h>
#include <string.h>

#include "attach/virtio_pci_priv.h"
#include "base/kick.h"

/* --- the parts; off is relative to the part, v->lock held --- */

static uint64_t isr_read(struct virtio_pci *v, unsigned off, unsigned size)
{
	return off ? 0 : vio_isr_take(v);
}

/* 4.1.4.3.1: the generation differs after a read of what has changed since the last one. */
static uint64_t device_read(struct virtio_pci *v, unsigned off, unsigned size)
{
	uint64_t value = 0;

	if (atomic_exchange(&v->config_dirty, false))
		v->generation++;
	v->b->ops->config_read(v->b, off, &value, size);
	return le64toh(value);
}

static void device_write(struct virtio_pci *v, unsigned off, unsigned size, uint64_t value)
{
	uint64_t bytes = htole64(value);

	v->b->ops->config_write(v->b, off, &bytes, size);
}

static uint64_t pba_read(struct virtio_pci *v, unsigned off, unsigned size)
{
	return msix_pba_read(&v->msix, off, size);
}

static uint64_t table_read(struct virtio_pci *v, unsigned off, unsigned size)
{
	return msix_table_read(&v->msix, off, size);
}

static void table_write(struct virtio_pci *v, unsigned off, unsigned size, uint64_t value)
{
	msix_table_write(&v->msix, off, size, value);
}

static const struct part {
	unsigned off, size;
	uint64_t (*read)(struct virtio_pci *v, unsigned off, unsigned size); /* NULL: all-ones */
	void (*write)(struct virtio_pci *v, unsigned off, unsigned size, uint64_t value);
} parts[] = {
	{ VIO_COMMON, VIO_COMMON_SIZE, vio_common_read, vio_common_write },
	{ VIO_ISR, VIO_ISR_SIZE, isr_read, NULL },
	{ VIO_DEVICE, VIRTIO_CONFIG_ROOM, device_read, device_write },
	{ VIO_PBA, VIO_MSIX - VIO_PBA, pba_read, NULL },
	{ VIO_MSIX, VIO_REGS_SIZE - VIO_MSIX, table_read, table_write },
};

static const struct part *part_at(unsigned bar, uint64_t off, unsigned size)
{
	for (unsigned i = 0; bar == VIO_BAR_REGS && i < ARRAY_SIZE(parts); i++)
		if (off >= parts[i].off && range_ok(off - parts[i].off, size, parts[i].size))
			return &parts[i];
	return NULL;
}

uint64_t vio_bar_read(struct pci_function *fn, unsigned bar, uint64_t off, unsigned size)
{
	const struct part *p = part_at(bar, off, size);
	struct virtio_pci *v = vio_of(fn);
	uint64_t value;

	if (!p)
		return io_ones(size);
	pthread_mutex_lock(&v->lock);
	value = p->read(v, (unsigned)(off - p->off), size);
	pthread_mutex_unlock(&v->lock);
	return value & io_ones(size);
}

/* A doorbell that KVM did not take. False: off is none. */
static bool ring(struct virtio_pci *v, unsigned bar, uint64_t off)
{
	uint64_t queue = (off - VIO_NOTIFY) / VIO_NOTIFY_STEP;

	if (bar != VIO_BAR_REGS || off < VIO_NOTIFY || queue >= v->nr_queues)
		return false;
	kick(v->queues[queue].kick_fd);
	return true;
}

void vio_bar_write(
	struct pci_function *fn, unsigned bar, uint64_t off, unsigned size, uint64_t value)
{
	const struct part *p = part_at(bar, off, size);
	struct virtio_pci *v = vio_of(fn);

	if (ring(v, bar, off) || !p || !p->write)
		return;
	pthread_mutex_lock(&v->lock);
	p->write(v, (unsigned)(off - p->off), size, value);
	pthread_mutex_unlock(&v->lock);
}

/* --- doorbells: topology lock held --- */

static int ioeventfd(struct virtio_pci *v, unsigned queue, uint32_t len, uint32_t flags)
{
	struct kvm_ioeventfd arg = {
		.addr = v->doorbell_base + VIO_NOTIFY + queue * VIO_NOTIFY_STEP,
		.len = len,
		.fd = v->queues[queue].kick_fd,
		.flags = flags,
	};

	return kvm_vm_ioctl(&v->m->kvm, KVM_IOEVENTFD, &arg);
}

static int doorbell_on(struct virtio_pci *v, unsigned queue)
{
	int rc;

	if (v->m->kvm.ioeventfd_any_length)
		return ioeventfd(v, queue, 0, 0);
	rc = ioeventfd(v, queue, 2, 0);
	if (rc)
		return rc;
	rc = ioeventfd(v, queue, 4, 0);
	if (rc)
		ioeventfd(v, queue, 2, KVM_IOEVENTFD_FLAG_DEASSIGN);
	return rc;
}

static void doorbell_off(struct virtio_pci *v, unsigned queue)
{
	if (v->m->kvm.ioeventfd_any_length) {
		ioeventfd(v, queue, 0, KVM_IOEVENTFD_FLAG_DEASSIGN);
		return;
	}
	ioeventfd(v, queue, 2, KVM_IOEVENTFD_FLAG_DEASSIGN);
	ioeventfd(v, queue, 4, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

void vio_bar_mapped(struct pci_function *fn, unsigned bar)
{
	struct virtio_pci *v = vio_of(fn);

	if (bar == VIO_BAR_SHM)
		vio_shm_mapped(v);
	if (bar != VIO_BAR_REGS)
		return;
	v->doorbell_base = fn->bars[bar].addr;
	for (unsigned i = 0; i < v->nr_queues; i++) {
		int rc = doorbell_on(v, i);

		v->doorbells[i] = !rc;
		if (rc)
			log_limited(&v->complaints, LOG_WARN,
				"%s: KVM refuses the doorbell of queue %u (%s), it is slow now",
				v->id, i, strerror(-rc));
	}
}

void vio_bar_unmapped(struct pci_function *fn, unsigned bar)
{
	struct virtio_pci *v = vio_of(fn);

	if (bar == VIO_BAR_SHM)
		vio_shm_unmapped(v);
	for (unsigned i = 0; bar == VIO_BAR_REGS && i < v->nr_queues; i++) {
		if (v->doorbells[i])
			doorbell_off(v, i);
		v->doorbells[i] = false;
	}
}
