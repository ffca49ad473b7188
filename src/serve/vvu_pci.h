/*
 * vvu_pci.h - the virtio-vhost-user function as its driver sees it; for vvu*.c
 *
 * Where its registers lie, told by its capabilities, and what the driver does with them. Registers
 * are read and written by system calls: none is on the way of data. Doorbells are mapped.
 *
 * Threads: the loop's, one at a time.
 * Spec:    virtio 1.3, 4.1; wire/vvu.h.
 */
#ifndef SERVE_VVU_PCI_H
#define SERVE_VVU_PCI_H

#include <stdint.h>

#include "serve/vfio_dev.h"
#include "wire/vvu.h"

/* A piece of a BAR. len 0: there is none. */
struct vvu_place {
	uint8_t bar;
	uint64_t off, len;
};

struct vvu_pci {
	struct vfio_dev dev;
	struct vvu_place common, notify, config, bells, notification;
	struct vvu_place shm[VVU_SHM_INFLIGHT + 1]; /* by id; 0 is not in use */
	uint32_t notify_step, bell_step;
	unsigned max_queues; /* vhost queues */
	uint8_t *bells_at;   /* the doorbells, mapped */
	size_t bells_mapped;
};

/* One of the function's two queues, as it is told of. */
struct vvu_pci_ring {
	uint16_t size, vector;
	uint64_t desc, driver, device;
	uint64_t doorbell; /* out: where its kick is written to, in the BAR of p->notify */
};

/*
 * Take p->dev, which is open, for what it says to be. 0 or -errno with a text; vvu_pci_fini() in
 * any case, after which p->dev is closed.
 */
int vvu_pci_init(struct vvu_pci *p, struct err *err);
void vvu_pci_fini(struct vvu_pci *p);

/* Begin a reset. 0 or -errno. */
int vvu_pci_reset(struct vvu_pci *p);
/* 0: it is done; -EAGAIN: not yet; or -errno. */
int vvu_pci_reset_done(struct vvu_pci *p);
/* After a reset: features are agreed on. 0 or -errno with a text. */
int vvu_pci_begin(struct vvu_pci *p, struct err *err);
/* How many entries the queue may have, a power of two. 0 or -errno with a text. */
int vvu_pci_queue_size(struct vvu_pci *p, unsigned queue, uint16_t *size, struct err *err);
int vvu_pci_set_ring(struct vvu_pci *p, unsigned queue, struct vvu_pci_ring *ring, struct err *err);
/* Kicks of a vhost queue raise this vector from now on. 0 or -errno with a text. */
int vvu_pci_set_notification(struct vvu_pci *p, unsigned queue, uint16_t vector, struct err *err);
/* Changes of the configuration raise this one; then all is said: the function works. */
int vvu_pci_finish(struct vvu_pci *p, uint16_t config_vector, struct err *err);

int vvu_pci_kick(struct vvu_pci *p, const struct vvu_pci_ring *ring, uint16_t queue);
/* The status bits of virtio. Those of a function that is gone are all set. */
int vvu_pci_device_status(struct vvu_pci *p, uint8_t *status);
/* VVU_STATUS_... */
int vvu_pci_status(struct vvu_pci *p, uint32_t *status);
int vvu_pci_set_status(struct vvu_pci *p, uint32_t status);

/* The doorbell's register: write anything. index is below VVU_NR_DOORBELLS(p->max_queues). */
volatile uint16_t *vvu_pci_bell(const struct vvu_pci *p, unsigned index);

#endif
