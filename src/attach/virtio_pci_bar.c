/*
 * virtio_pci_bar.c - who answers in BAR 0; doorbells
 *
 * BAR 0 is a row of parts at fixed places. An access that does not lie inside one part as a whole
 * reads all-ones and writes nothing. BARs of shared memory answer here only where nothing
 * is laid over them: all-ones. The BAR of others' doorbells is virtio_pci_aux.c's.
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
#include "wire/vvu.h"

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

struct part {
	uint32_t off, size;
	uint64_t (*read)(struct virtio_pci *v, unsigned off, unsigned size); /* NULL: all-ones */
	void (*write)(struct virtio_pci *v, unsigned off, unsigned size, uint64_t value);
};

/* From one of the two parts that lie behind the others to the other one, or to the BAR's end. */
static uint32_t up_to(const struct virtio_pci *v, uint32_t at, uint32_t other)
{
	return (other > at ? other : v->layout.regs_size) - at;
}

/* The part that holds all of the access, or NULL. */
static const struct part *part_at(
	const struct virtio_pci *v, unsigned bar, uint64_t off, unsigned size, struct part *out)
{
	uint32_t pba = v->layout.pba, table = v->layout.msix;
	const struct part parts[] = {
		{ VIO_COMMON, VIO_COMMON_SIZE, vio_common_read, vio_common_write },
		{ VIO_ISR, VIO_ISR_SIZE, isr_read, NULL },
		{ VIO_DEVICE, VIRTIO_CONFIG_ROOM, device_read, device_write },
		{ pba, up_to(v, pba, table), pba_read, NULL },
		{ table, up_to(v, table, pba), table_read, table_write },
	};

	for (unsigned i = 0; bar == VIO_BAR_REGS && i < ARRAY_SIZE(parts); i++)
		if (off >= parts[i].off && range_ok(off - parts[i].off, size, parts[i].size)) {
			*out = parts[i];
			return out;
		}
	return NULL;
}

static bool is_aux(const struct virtio_pci *v, unsigned bar)
{
	return v->layout.nr_bells && bar == VVU_BAR_BELLS;
}

uint64_t vio_bar_read(struct pci_function *fn, unsigned bar, uint64_t off, unsigned size)
{
	struct virtio_pci *v = vio_of(fn);
	struct part part;
	const struct part *p = part_at(v, bar, off, size, &part);
	uint64_t value;

	if (!p && !is_aux(v, bar))
		return io_ones(size);
	pthread_mutex_lock(&v->lock);
	if (p)
		value = p->read(v, (unsigned)(off - p->off), size);
	else
		value = vio_aux_read(v, off, size);
	pthread_mutex_unlock(&v->lock);
	return value & io_ones(size);
}

/* A doorbell that KVM did not take. False: off is none. */
static bool ring(struct virtio_pci *v, unsigned bar, uint64_t off)
{
	uint64_t queue = (off - VIO_NOTIFY) / VIO_NOTIFY_STEP;

	if (is_aux(v, bar))
		return vio_aux_ring(v, off);
	if (bar != VIO_BAR_REGS || off < VIO_NOTIFY || queue >= v->nr_queues)
		return false;
	kick(v->queues[queue].kick_fd);
	return true;
}

void vio_bar_write(
	struct pci_function *fn, unsigned bar, uint64_t off, unsigned size, uint64_t value)
{
	struct virtio_pci *v = vio_of(fn);
	struct part part;
	const struct part *p = part_at(v, bar, off, size, &part);
	bool aux = is_aux(v, bar);

	if (ring(v, bar, off) || (!aux && (!p || !p->write)))
		return;
	pthread_mutex_lock(&v->lock);
	if (aux)
		vio_aux_write(v, off, size, value);
	else
		p->write(v, (unsigned)(off - p->off), size, value);
	pthread_mutex_unlock(&v->lock);
}

/* --- doorbells: topology lock held --- */

static int ioeventfd(struct virtio_pci *v, uint64_t addr, int fd, uint32_t len, uint32_t flags)
{
	struct kvm_ioeventfd arg = { .addr = addr, .len = len, .fd = fd, .flags = flags };

	return kvm_vm_ioctl(&v->m->kvm, KVM_IOEVENTFD, &arg);
}

static const uint8_t lengths[] = { 2, 4, 1 };

int vio_doorbell_on(struct virtio_pci *v, uint64_t addr, int fd, unsigned nr_lengths)
{
	int rc = 0;

	if (v->m->kvm.ioeventfd_any_length)
		return ioeventfd(v, addr, fd, 0, 0);
	for (unsigned i = 0; i < nr_lengths; i++) {
		rc = ioeventfd(v, addr, fd, lengths[i], 0);
		if (!rc)
			continue;
		vio_doorbell_off(v, addr, fd, i);
		break;
	}
	return rc;
}

void vio_doorbell_off(struct virtio_pci *v, uint64_t addr, int fd, unsigned nr_lengths)
{
	if (v->m->kvm.ioeventfd_any_length) {
		ioeventfd(v, addr, fd, 0, KVM_IOEVENTFD_FLAG_DEASSIGN);
		return;
	}
	for (unsigned i = 0; i < nr_lengths; i++)
		ioeventfd(v, addr, fd, lengths[i], KVM_IOEVENTFD_FLAG_DEASSIGN);
}

/* How a queue's is written: 16 bits, or 32 with NOTIFICATION_DATA. */
#define QUEUE_LENGTHS 2

static uint64_t doorbell_of(const struct virtio_pci *v, unsigned queue)
{
	return v->doorbell_base + VIO_NOTIFY + queue * VIO_NOTIFY_STEP;
}

void vio_bar_mapped(struct pci_function *fn, unsigned bar)
{
	struct virtio_pci *v = vio_of(fn);

	vio_shm_mapped(v, bar);
	if (is_aux(v, bar))
		vio_aux_mapped(v);
	if (bar != VIO_BAR_REGS)
		return;
	v->doorbell_base = fn->bars[bar].addr;
	for (unsigned i = 0; i < v->nr_queues; i++) {
		int rc = vio_doorbell_on(
			v, doorbell_of(v, i), v->queues[i].kick_fd, QUEUE_LENGTHS);

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

	vio_shm_unmapped(v, bar);
	if (is_aux(v, bar))
		vio_aux_unmapped(v);
	for (unsigned i = 0; bar == VIO_BAR_REGS && i < v->nr_queues; i++) {
		if (v->doorbells[i])
			vio_doorbell_off(
				v, doorbell_of(v, i), v->queues[i].kick_fd, QUEUE_LENGTHS);
		v->doorbells[i] = false;
	}
}
