/*
 * virtio_pci_aux.c - doorbells and notifications of others
 *
 * A function whose driver serves a device of another machine has, beside the doorbells and vectors
 * of its own queues, a BAR of doorbells that signal eventfds of that machine, and a vector for each
 * of that machine's kicks. Both are KVM's business once they are laid: a write of the driver
 * signals the other machine's device (ioeventfd), a kick of the other machine interrupts the driver
 * (irqfd).
 *
 * The descriptors come and go while the driver runs; the doorbells move with their BAR; the vectors
 * are the driver's choice and are masked and unmasked with their table. A descriptor that comes
 * before the driver has chosen waits, and what is signalled meanwhile with it.
 *
 * Owns:   the descriptors.
 * Trusts: that they are eventfds as far as their giver has looked; KVM looks again.
 * Spec:   wire/vvu.h.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attach/virtio_pci_priv.h"
#include "base/fd.h"
#include "base/kick.h"
#include "wire/vvu.h"

static_assert(VVU_DOORBELLS == 0, "the BAR begins with them");

/* A driver rings with one byte, or with more. */
#define BELL_LENGTHS 3

static void free_arrays(struct vio_aux *a)
{
	free(a->vectors);
	free(a->taps);
	free(a->kicks);
	free(a->bells);
	free(a->laid);
	*a = (struct vio_aux){ 0 };
}

int vio_aux_build(struct virtio_pci *v, struct err *err)
{
	struct vio_aux *a = &v->aux;
	unsigned bells = v->layout.nr_bells, nr = v->layout.nr_notifications;

	if (!bells)
		return 0;
	a->vectors = calloc(nr, sizeof(*a->vectors));
	a->taps = calloc(nr, sizeof(*a->taps));
	a->kicks = calloc(nr, sizeof(*a->kicks));
	a->bells = calloc(bells, sizeof(*a->bells));
	a->laid = calloc(bells, sizeof(*a->laid));
	if (!a->vectors || !a->taps || !a->kicks || !a->bells || !a->laid) {
		free_arrays(a);
		return err_set(err, -ENOMEM, "doorbells: out of memory");
	}
	for (unsigned i = 0; i < nr; i++) {
		a->taps[i].fd = a->kicks[i] = -1;
		a->vectors[i] = VIRTIO_MSI_NO_VECTOR;
	}
	for (unsigned i = 0; i < bells; i++)
		a->bells[i] = -1;
	v->fn.bars[VVU_BAR_BELLS] =
		(struct pci_bar){ .kind = PCI_BAR_MEM64, .size = VVU_BELLS_SIZE };
	return 0;
}

void vio_aux_free(struct virtio_pci *v)
{
	struct vio_aux *a = &v->aux;

	/* Never built */
	if (!a->bells)
		return;
	for (unsigned i = 0; i < v->layout.nr_notifications; i++) {
		irq_tap_vector(v->m->irqs, &a->taps[i], NULL);
		fd_close(&a->kicks[i]);
	}
	for (unsigned i = 0; i < v->layout.nr_bells; i++)
		fd_close(&a->bells[i]);
	free_arrays(a);
}

/* --- the notification configuration; v->lock held --- */

static void set_vector(struct virtio_pci *v, unsigned i, uint16_t vector)
{
	struct vio_aux *a = &v->aux;
	struct irq_vector *raised = NULL;
	int rc;

	a->vectors[i] = vio_vector_take(v, vector);
	if (a->vectors[i] != VIRTIO_MSI_NO_VECTOR)
		raised = &v->msix.vectors[a->vectors[i]];
	rc = irq_tap_vector(v->m->irqs, &a->taps[i], raised);
	if (rc)
		log_limited(&v->complaints, LOG_WARN, "%s: kicks of queue %u cannot raise vector %u: %s",
			v->id, i, vector, strerror(-rc));
}

void vio_aux_reset(struct virtio_pci *v)
{
	v->aux.select = 0;
	for (unsigned i = 0; i < v->layout.nr_notifications; i++) {
		v->aux.vectors[i] = VIRTIO_MSI_NO_VECTOR;
		irq_tap_vector(v->m->irqs, &v->aux.taps[i], NULL);
	}
}

static bool in_notify(uint64_t off, unsigned size)
{
	return off >= VVU_NOTIFY && range_ok(off - VVU_NOTIFY, size, sizeof(struct vvu_notify));
}

/*
 * Beside the configuration there is nothing: doorbells read as 0, as
 * a register that is only written.
 */
uint64_t vio_aux_read(struct virtio_pci *v, uint64_t off, unsigned size)
{
	const struct vio_aux *a = &v->aux;
	struct vvu_notify n = {
		.select = htole16(a->select),
		.vector = htole16(VIRTIO_MSI_NO_VECTOR),
	};
	uint64_t value = 0;

	if (!in_notify(off, size))
		return off < VVU_DOORBELLS_LEN ? 0 : UINT64_MAX;
	if (a->select < v->layout.nr_notifications)
		n.vector = htole16(a->vectors[a->select]);
	memcpy(&value, (const char *)&n + off - VVU_NOTIFY, size);
	return le64toh(value);
}

/* Whole fields, in their order; a part of one does nothing. */
void vio_aux_write(struct virtio_pci *v, uint64_t off, unsigned size, uint64_t value)
{
	uint64_t at = off - VVU_NOTIFY, vector_at = offsetof(struct vvu_notify, vector);

	if (!in_notify(off, size))
		return;
	if (!at && size >= 2)
		v->aux.select = (uint16_t)value;
	if (at <= vector_at && at + size >= vector_at + 2 &&
		v->aux.select < v->layout.nr_notifications)
		set_vector(v, v->aux.select, (uint16_t)(value >> 8 * (vector_at - at)));
}

int vio_aux_notification(struct virtio_owner *o, unsigned index, int fd_in)
{
	struct virtio_pci *v = container_of(o, struct virtio_pci, owner);
	struct vio_aux *a = &v->aux;
	FD_AUTO fd = fd_in;
	int rc;

	if (index >= v->layout.nr_notifications)
		return -EINVAL;
	rc = irq_tap_fd(v->m->irqs, &a->taps[index], fd);
	fd_close(&a->kicks[index]);
	if (!rc)
		a->kicks[index] = fd_take(&fd);
	return rc;
}

/* --- doorbells; topology lock held --- */

static uint64_t bell_at(const struct virtio_pci *v, unsigned i)
{
	return v->fn.bars[VVU_BAR_BELLS].addr + i * VVU_DOORBELL_STEP;
}

static int lay(struct virtio_pci *v, unsigned i)
{
	int rc;

	if (v->aux.bells[i] < 0 || !v->fn.bars[VVU_BAR_BELLS].mapped)
		return 0;
	rc = vio_doorbell_on(v, bell_at(v, i), v->aux.bells[i], BELL_LENGTHS);
	v->aux.laid[i] = !rc;
	return rc;
}

static void unlay(struct virtio_pci *v, unsigned i)
{
	if (v->aux.laid[i])
		vio_doorbell_off(v, bell_at(v, i), v->aux.bells[i], BELL_LENGTHS);
	v->aux.laid[i] = false;
}

void vio_aux_mapped(struct virtio_pci *v)
{
	for (unsigned i = 0; i < v->layout.nr_bells; i++) {
		int rc = lay(v, i);

		if (rc)
			log_limited(&v->complaints, LOG_WARN,
				"%s: KVM refuses doorbell %u (%s), it is slow now", v->id, i,
				strerror(-rc));
	}
}

void vio_aux_unmapped(struct virtio_pci *v)
{
	for (unsigned i = 0; i < v->layout.nr_bells; i++)
		unlay(v, i);
}

/* KVM without room for one more: each write comes to vio_aux_ring(). */
static bool is_slow(int rc)
{
	return rc == -ENOSPC;
}

int vio_aux_bell(struct virtio_owner *o, unsigned index, int fd_in)
{
	struct virtio_pci *v = container_of(o, struct virtio_pci, owner);
	FD_AUTO fd = fd_in;
	int rc;

	if (index >= v->layout.nr_bells)
		return -EINVAL;
	pci_lock(v->m->pci);
	/* KVM knows one eventfd for a place and value: the one before goes first. */
	unlay(v, index);
	fd_close(&v->aux.bells[index]);
	v->aux.bells[index] = fd_take(&fd);
	rc = lay(v, index);
	if (rc && !is_slow(rc))
		fd_close(&v->aux.bells[index]);
	pci_unlock(v->m->pci);
	return is_slow(rc) ? 0 : rc;
}

bool vio_aux_ring(struct virtio_pci *v, uint64_t off)
{
	uint64_t index = off / VVU_DOORBELL_STEP;
	FD_AUTO fd = -1;

	if (off >= VVU_DOORBELLS_LEN)
		return false;
	/* A copy, as a signal may take its time. */
	pci_lock(v->m->pci);
	if (index < v->layout.nr_bells && v->aux.bells[index] >= 0)
		fd = fcntl(v->aux.bells[index], F_DUPFD_CLOEXEC, 0);
	pci_unlock(v->m->pci);
	if (fd >= 0)
		kick(fd);
	return true;
}
