/*
 * virtio_pci.h - a PCI function made of a virtio device that somebody else serves
 *
 * The modern transport only: common configuration, notifications, ISR, device configuration,
 * shared memory, MSI-X with a vector per queue and one for the configuration, INTx where the
 * driver has no MSI-X. A doorbell is an ioeventfd per queue, an interrupt an irqfd.
 *
 * The object is the back-end's owner (virtio_pci_owner()) and holds the struct pci_function
 * that the guest sees.
 *
 * Spec: virtio 1.3, 4.1.
 */
#ifndef ATTACH_VIRTIO_PCI_H
#define ATTACH_VIRTIO_PCI_H

#include "attach/device.h"
#include "attach/virtio_backend.h"
#include "machine/machine.h"

/*
 * How a function looks that is not laid out as usual. The usual one: a 64-bit BAR 0 of registers, a
 * vector for the configuration and one for each queue, shared memory in a 64-bit BAR 2.
 */
struct virtio_pci_layout {
	uint8_t class_code, subclass;
	uint16_t subsystem;
	/*
	 * BAR 0, of 32 bits; powers of two, and the common
	 * configuration's neighbours stay where they are
	 */
	uint32_t regs_size, msix, pba;
	uint32_t notify_size; /* as its capability says */
	uint16_t nr_vectors;
	struct {
		uint8_t bar;
		bool narrow; /* a 32-bit BAR, and the capability without upper halves */
	} shm[VIRTIO_MAX_SHM];
	/*
	 * Doorbells that signal descriptors of others, and notifications: descriptors of others
	 * that interrupt the driver; in a BAR of their own, as wire/vvu.h has it.
	 */
	uint16_t nr_bells, nr_notifications;
};

struct virtio_pci;

/* The attach ended: rc 0, the function can be plugged; or -errno, and err says why. Loop thread. */
typedef void (*virtio_pci_attached_fn)(void *arg, int rc, const struct err *err);

/* m is borrowed, id copied. Gives *out. 0 or -ENOMEM. */
int virtio_pci_new(struct machine *m, const char *id, virtio_pci_attached_fn attached, void *arg,
	struct virtio_pci **out);

/* The same as the function of a device of ours, which hears of the attach's end. */
int virtio_pci_make(struct device *dev, struct virtio_pci **out);

/* Another layout than the usual one, copied. Before the back-end starts. */
void virtio_pci_set_layout(struct virtio_pci *vp, const struct virtio_pci_layout *layout);

struct virtio_owner *virtio_pci_owner(struct virtio_pci *vp);
/* Once, before the back-end starts. Borrows b until virtio_pci_free(). */
void virtio_pci_set_backend(struct virtio_pci *vp, struct virtio_backend *b);

/* As vfio_pci_plug() and its siblings. */
int virtio_pci_plug(struct virtio_pci *vp, unsigned segment, int slot, struct err *err);
void virtio_pci_unplug(struct virtio_pci *vp);
void virtio_pci_free(struct virtio_pci *vp);
const char *virtio_pci_bdf(const struct virtio_pci *vp);

#endif
