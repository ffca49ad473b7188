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

#include "attach/virtio_backend.h"
#include "machine/machine.h"

struct virtio_pci;

/* The attach ended: rc 0, the function can be plugged; or -errno, and err says why. Loop thread. */
typedef void (*virtio_pci_attached_fn)(void *arg, int rc, const struct err *err);

/* m is borrowed, id copied. Gives *out. 0 or -ENOMEM. */
int virtio_pci_new(struct machine *m, const char *id, virtio_pci_attached_fn attached, void *arg,
	struct virtio_pci **out);

struct virtio_owner *virtio_pci_owner(struct virtio_pci *vp);
/* Once, before the back-end starts. Borrows b until virtio_pci_free(). */
void virtio_pci_set_backend(struct virtio_pci *vp, struct virtio_backend *b);

/* As vfio_pci_plug() and its siblings. */
int virtio_pci_plug(struct virtio_pci *vp, unsigned segment, int slot, struct err *err);
void virtio_pci_unplug(struct virtio_pci *vp);
void virtio_pci_free(struct virtio_pci *vp);
const char *virtio_pci_bdf(const struct virtio_pci *vp);

#endif
