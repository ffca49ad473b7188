/*
 * vfio_pci.h - a PCI function made of a device behind a vfio transport
 *
 * The object is the transport's owner (vfio_pci_owner()) and holds the struct
 * pci_function that the guest sees.
 */
#ifndef ATTACH_VFIO_PCI_H
#define ATTACH_VFIO_PCI_H

#include "attach/device.h"
#include "attach/vfio_transport.h"
#include "machine/machine.h"

struct vfio_pci;

/* The first attach ended: rc 0, the function can be plugged; or -errno, and err says why. Loop
 * thread. */
typedef void (*vfio_pci_attached_fn)(void *arg, int rc, const struct err *err);

/* m is borrowed, id copied. Gives *out. 0 or -ENOMEM. */
int vfio_pci_new(struct machine *m, const char *id, vfio_pci_attached_fn attached, void *arg,
	struct vfio_pci **out);

/* The same as the function of a device of ours, which hears of the attach's end. */
int vfio_pci_make(struct device *dev, struct vfio_pci **out);

struct vfio_owner *vfio_pci_owner(struct vfio_pci *vp);
/* Once, before the transport starts. Borrows t until vfio_pci_free(). */
void vfio_pci_set_transport(struct vfio_pci *vp, struct vfio_transport *t);

#define VFIO_PCI_NO_CLIQUE (-1)

/* What the user wants of a device of the host's. */
struct vfio_pci_options {
	uint32_t unmapped_bars; /* bit n: accesses to BAR n always trap; other devices may still
				   reach it */
	int gpudirect_clique; /* 0 to 15: NVIDIA's peer-to-peer capability, or VFIO_PCI_NO_CLIQUE */
};

/* Before the transport starts; without it: nothing special. */
void vfio_pci_set_options(struct vfio_pci *vp, const struct vfio_pci_options *options);

/*
 * The device leaves for good, as an error or a wish of the host's wants it: the guest has lost it
 * already (all it reads is all-ones), a line was logged. The owner ends the device, from the top of
 * the loop. Loop thread.
 */
typedef void (*vfio_pci_leave_fn)(void *arg, enum vfio_leave why);
void vfio_pci_on_leave(struct vfio_pci *vp, vfio_pci_leave_fn fn, void *arg);

/*
 * Put the function into a slot, after it was attached. slot as for pci_add(). 0 or -errno with
 * a text. Loop thread.
 */
int vfio_pci_plug(struct vfio_pci *vp, unsigned segment, int slot, struct err *err);

/*
 * Take the function out of its slot, its BARs out of guest memory, its interrupts out of KVM. vCPUs
 * may still be inside a call when this returns. Loop thread.
 */
void vfio_pci_unplug(struct vfio_pci *vp);

/* No vCPU may be inside a call (io_retire()), the transport is stopped but not freed. NULL is fine.
 */
void vfio_pci_free(struct vfio_pci *vp);

/* "0000:00:05.0", or "" while not plugged. */
const char *vfio_pci_bdf(const struct vfio_pci *vp);

#endif
