/*
 * virtio_pci_priv.h - what the files of the virtio PCI function share
 *
 *   virtio_pci.c         the function: attach, reset, plug and unplug
 *   virtio_pci_config.c  configuration space: identity, capabilities, the access window
 *   virtio_pci_common.c  common configuration: features, status, queues
 *   virtio_pci_bar.c     who answers in BAR 0; doorbells
 *   virtio_pci_aux.c     doorbells and notifications of others
 *   virtio_pci_irq.c     vectors, INTx and ISR, configuration interrupts
 *   virtio_pci_shm.c     shared-memory regions
 *
 * Locks, in this order:
 *   v->lock       registers, queues, MSI-X. Held while the back-end is waited for, so the loop
 *                 thread never takes it
 *   topology      (pci_lock) BAR addresses, doorbells, what is laid over BARs
 *   fn.lock       bytes of config[] outside of command and BARs, for the time of a copy
 *   v->intr.lock  what raises an interrupt; never held while anything is waited for. Only
 *                 irqs->lock is taken inside
 */
#ifndef ATTACH_VIRTIO_PCI_PRIV_H
#define ATTACH_VIRTIO_PCI_PRIV_H

#include <assert.h>
#include <linux/virtio_pci.h>
#include <pthread.h>
#include <stdatomic.h>

#include "attach/virtio_pci.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "machine/msix.h"

/* BAR 0. Each part has pages of its own; the queues' table has room for as many as there can be. */
#define VIO_BAR_REGS	0u
#define VIO_COMMON	0x0000u
#define VIO_COMMON_SIZE 64u
#define VIO_ISR		0x1000u
#define VIO_ISR_SIZE	4u
#define VIO_DEVICE	0x2000u
#define VIO_NOTIFY	0x3000u
#define VIO_NOTIFY_STEP 4u /* a doorbell with NOTIFICATION_DATA is 32 bits wide */
#define VIO_PBA		0x4000u
#define VIO_MSIX	0x8000u
#define VIO_REGS_SIZE	0x10000u
/* BAR 2 and 3, if there is shared memory. */
#define VIO_BAR_SHM 2u

static_assert(VIO_NOTIFY + VIRTIO_MAX_QUEUES * VIO_NOTIFY_STEP <= VIO_PBA, "doorbells");
static_assert(VIO_MSIX + (VIRTIO_MAX_QUEUES + 1) * MSIX_ENTRY_SIZE <= VIO_REGS_SIZE, "vectors");
static_assert(VIO_DEVICE + VIRTIO_CONFIG_ROOM <= VIO_NOTIFY, "device configuration");

/* A piece of a shared-memory region, as it is laid into guest memory. */
struct vio_map {
	unsigned bar;
	uint64_t at, size; /* of the BAR */
	void *hva;
	bool readonly;
	int slot; /* -1: the BAR is not decoded now */
};

/* Doorbells and notifications of others; nr 0: there are none. */
struct vio_aux {
	uint16_t select;   /* v->lock */
	uint16_t *vectors; /* of notifications; v->lock */
	struct irq_tap *taps; /* irqs' own lock */
	/* the taps' descriptors; one caller of vio_aux_notification() at a time */
	int *kicks;
	int *bells;	   /* topology lock */
	bool *laid;	   /* registered at KVM; topology lock */
};

struct virtio_pci {
	struct pci_function fn;
	struct virtio_owner owner;
	struct machine *m;
	struct virtio_backend *b;
	char *id;
	char bdf[16];
	virtio_pci_attached_fn attached;
	void *attached_arg;
	struct virtio_pci_layout layout;
	bool special; /* the layout was given */

	/* Made by attached(), constant after it. */
	uint64_t offered;
	unsigned nr_queues;
	unsigned msix_pos, window_pos;
	uint64_t shm_at[VIRTIO_MAX_SHM];  /* where in the BAR */
	uint8_t initial[PCI_CONFIG_SIZE]; /* config[] as a reset of the machine restores it */

	pthread_mutex_t lock;
	struct msix msix;
	uint32_t device_feature_select, driver_feature_select;
	uint64_t driver_features;
	uint16_t config_vector, queue_select;
	uint16_t *vectors; /* of the queues */
	struct virtio_queue *queues;
	bool started; /* the back-end serves the queues */
	uint8_t generation;
	struct log_limit complaints;

	/* Written under v->lock, and by whoever finds that the device cannot go on. */
	_Atomic uint32_t status;
	_Atomic bool config_dirty; /* it changed since the driver read it last */

	/* Topology lock. */
	bool *doorbells; /* registered at KVM, one a queue */
	uint64_t doorbell_base;
	struct vio_map *maps;
	unsigned nr_maps;
	struct vio_aux aux;
	uint64_t cut_ns; /* when a piece was last found to have lost its file's end */

	struct vio_intr {
		pthread_mutex_t lock;
		int call_fd;	/* what the device signals when there is no MSI-X; constant */
		int config_fd;	/* of the configuration's vector, -1: none */
		bool running;	/* DRIVER_OK: the driver may be interrupted */
		bool msix, off; /* MSI-X is enabled; the driver disabled INTx */
		bool raised;	/* our share of the line */
		uint8_t isr;
		struct loop_source src; /* call_fd; loop thread */
	} intr;
};

static inline struct virtio_pci *vio_of(struct pci_function *fn)
{
	return container_of(fn, struct virtio_pci, fn);
}

/* --- virtio_pci_config.c --- */

/* Fill config[] and the masks. The BARs and v->msix are made. */
void vio_config_build(struct virtio_pci *v);
/* config[] back to its initial value but for BARs. v->lock held. */
void vio_config_reset(struct virtio_pci *v);
uint32_t vio_config_read(struct pci_function *fn, unsigned off, unsigned size);
void vio_config_write(struct pci_function *fn, unsigned off, unsigned size, uint32_t value);

/* --- virtio_pci_common.c: v->lock held --- */

/* Accesses of the common configuration; [off, off + size) lies in it. */
uint64_t vio_common_read(struct virtio_pci *v, unsigned off, unsigned size);
void vio_common_write(struct virtio_pci *v, unsigned off, unsigned size, uint64_t value);
/* All registers as after power-on. */
void vio_registers_init(struct virtio_pci *v);
/* The driver, or the machine, resets the device. */
void vio_reset(struct virtio_pci *v);

/* --- virtio_pci_bar.c --- */

uint64_t vio_bar_read(struct pci_function *fn, unsigned bar, uint64_t off, unsigned size);
void vio_bar_write(
	struct pci_function *fn, unsigned bar, uint64_t off, unsigned size, uint64_t value);
void vio_bar_mapped(struct pci_function *fn, unsigned bar);
void vio_bar_unmapped(struct pci_function *fn, unsigned bar);

/*
 * Have KVM signal fd for writes at addr, of nr_lengths of the lengths 2, 4 and 1 where it cannot do
 * it for all; or end that. Topology lock held. 0 or -errno.
 */
int vio_doorbell_on(struct virtio_pci *v, uint64_t addr, int fd, unsigned nr_lengths);
void vio_doorbell_off(struct virtio_pci *v, uint64_t addr, int fd, unsigned nr_lengths);

/* --- virtio_pci_aux.c --- */

int vio_aux_build(struct virtio_pci *v, struct err *err);
void vio_aux_free(struct virtio_pci *v);
/* As after power-on: no vectors. What others have given stays. v->lock held. */
void vio_aux_reset(struct virtio_pci *v);
/* Accesses of the BAR that holds them. v->lock held. */
uint64_t vio_aux_read(struct virtio_pci *v, uint64_t off, unsigned size);
void vio_aux_write(struct virtio_pci *v, uint64_t off, unsigned size, uint64_t value);
/* A doorbell that KVM did not take; false: off is none. No lock held. */
bool vio_aux_ring(struct virtio_pci *v, uint64_t off);
/* Topology lock held. */
void vio_aux_mapped(struct virtio_pci *v);
void vio_aux_unmapped(struct virtio_pci *v);
int vio_aux_bell(struct virtio_owner *o, unsigned index, int fd);
int vio_aux_notification(struct virtio_owner *o, unsigned index, int fd);

/* --- virtio_pci_irq.c --- */

/* v->lock held, these. */

/* The vector if it can be had, or VIRTIO_MSI_NO_VECTOR. */
uint16_t vio_vector_take(struct virtio_pci *v, uint16_t vector);
/* Vectors, or the control bits of MSI-X or INTx, have changed. */
void vio_irqs_update(struct virtio_pci *v);
/* The driver may be interrupted from now on, or no more; the latter clears what is pending. */
void vio_irqs_run(struct virtio_pci *v, bool running);

/* Any thread, these. */

/* The ISR register as the driver reads it, which clears it. */
uint8_t vio_isr_take(struct virtio_pci *v);
/* True if the function asks for its interrupt by INTx (the bit in PCI's status register). */
bool vio_intx_pending(struct virtio_pci *v);
void vio_config_interrupt(struct virtio_pci *v);
void vio_needs_reset(struct virtio_pci *v);

/* Loop thread: listen to what the device signals, from plug to unplug. 0 or -errno with a text. */
int vio_intx_connect(struct virtio_pci *v, struct err *err);
void vio_intx_disconnect(struct virtio_pci *v);

/* --- virtio_pci_shm.c: any thread unless said otherwise --- */

/* Lay out the regions, give the function its BAR. 0 or -errno with a text. */
int vio_shm_build(struct virtio_pci *v, struct err *err);
int vio_shm_map(struct virtio_owner *o, uint8_t shmid, uint64_t off, uint64_t len, int fd,
	uint64_t fd_off, bool writable);
void vio_shm_clear(struct virtio_owner *o);
/* Topology lock held, these. */
void vio_shm_mapped(struct virtio_pci *v, unsigned bar);
void vio_shm_unmapped(struct virtio_pci *v, unsigned bar);
void vio_shm_drop(struct virtio_pci *v);
bool vio_memory_fault(struct pci_function *fn);

#endif
