/*
 * vfio_pci_priv.h - what the files of the PCI side of the vfio route share
 *
 *   vfio_pci.c         the function: attach, loss and return, reset, plug and unplug
 *   vfio_pci_config.c  configuration space: what is ours, what is the device's
 *   vfio_pci_quirks.c  what of it a guest must not see, and what it is given in addition
 *   vfio_pci_bar.c     BARs: what they are, accesses that trap
 *   vfio_pci_map.c     what is laid over them: mmapped parts, doorbells
 *   vfio_pci_rom.c     the copy of an expansion ROM
 *   vfio_pci_irq.c     INTx, MSI and MSI-X
 *   vfio_pci_msix.c    where the MSI-X table is, for the device and for the guest
 *
 * Locks, in this order:
 *   vp->lock   interrupts and what the guest wrote; held while the device is waited for, so the
 *              loop thread takes it only while the transport is away, or all vCPUs stand
 *   topology   (pci_lock) BAR addresses and what is laid over BARs
 *   fn.lock    bytes of config[] outside of command and BARs, for the time of a copy
 */
#ifndef ATTACH_VFIO_PCI_PRIV_H
#define ATTACH_VFIO_PCI_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "attach/vfio_pci.h"
#include "base/log.h"
#include "base/util.h"
#include "machine/msix.h"

/* A piece of an area, as it is laid into guest memory. */
struct vp_map {
	uint64_t offset, size;
	void *hva;
	int fd; /* borrowed from the transport's info; -1: a copy, of no file */
	uint64_t fd_offset;
	bool readonly;
	bool traps;	/* for other devices alone, not for the guest */
	int slot;	/* -1: not in guest memory now */
	uint64_t gpa;	/* where it was laid last */
	bool for_peers; /* other devices are to reach it there */
	bool lent;	/* to the transport for that, now or once */
};

struct vp_bar {
	struct vp_map *maps;
	unsigned nr_maps;
	/* Of transport->info's doorbells of this region: registered at KVM now. */
	bool *doorbell_on;
	uint64_t doorbell_base; /* the BAR's address when they were registered */
};

/* Where the MSI-X table or the pending bits are. */
struct vp_msix_place {
	unsigned bar;
	uint64_t off, size;
};

/* Which kind of interrupt the server has eventfds for. */
enum vp_irq_mode { VP_IRQ_NONE, VP_IRQ_INTX, VP_IRQ_MSI, VP_IRQ_MSIX };

/* How the level of INTx gets back to the device after the guest's EOI. */
enum vp_intx_kind {
	VP_INTX_ABSENT,
	VP_INTX_DIRECT, /* the device masks itself, and takes KVM's eventfd as its unmask signal */
	VP_INTX_UNMASK, /* the device masks itself, the loop turns the eventfd into a message */
	VP_INTX_RELAY,	/* it does not mask itself: the loop keeps edges that come before the EOI */
};

struct vp_intx {
	enum vp_intx_kind kind;
	int line;     /* KVM raises the line on it */
	int resample; /* KVM signals the guest's EOI on it */
	int edge;     /* RELAY: what the device signals */
	bool connected;
	struct loop_source edge_src, resample_src;
	bool asserted, again; /* RELAY; loop thread */
};

/* A register of the device's that is written again when the device comes back. */
struct vp_kept {
	unsigned off, size; /* 1 or 2 bytes */
	uint16_t mask;	    /* bits that are written as they were; the others as 0 */
	bool written;	    /* by the guest */
};

#define VP_MAX_KEPT 8
#define VP_D3HOT    3u

struct vfio_pci {
	struct pci_function fn;
	struct vfio_owner owner;
	struct machine *m;
	struct vfio_transport *t;
	char *id;
	char bdf[16];
	vfio_pci_attached_fn attached;
	void *attached_arg;
	struct vfio_pci_options options;
	vfio_pci_leave_fn left;
	void *left_arg;
	_Atomic bool gone; /* for good: reads are all-ones */
	_Atomic bool unsettled; /* what other devices reach of it has been asked to change */

	pthread_mutex_t lock;
	bool stale; /* the guest changed something that the device was not told of */
	struct msi msi;
	struct msix msix; /* nr 0: none */
	enum vp_irq_mode pushed;
	unsigned room; /* MSI, MSI-X: vectors that the device has been told of and can be given */
	struct vp_kept kept[VP_MAX_KEPT];
	unsigned nr_kept;
	unsigned power; /* D0 to D3hot, as the guest wrote it; 0 where there is no choice */
	struct log_limit refusals;

	/* Made by the first prepare(), constant after it. */
	unsigned config_size;
	unsigned msi_pos, msix_pos, exp_pos, pm_pos, af_pos; /* 0: none */
	unsigned msi_len;
	struct vp_msix_place table, pba; /* as the guest sees them */
	bool msix_moved;		 /* not where the device has them */
	uint8_t local[PCI_CONFIG_SIZE];	 /* bits that are read from config[], not from the device */
	uint8_t fixed[PCI_CONFIG_SIZE];	 /* bits that must be the same when the device comes back */
	uint8_t first[PCI_CONFIG_SIZE];	 /* what the device said the first time */
	uint8_t initial[PCI_CONFIG_SIZE]; /* config[] as a reset of the machine restores it */

	/* Topology lock. */
	bool laid;
	bool asleep; /* the guest put it into a power state in which its memory does not answer */
	struct vp_bar bars[PCI_NR_BARS];
	uint64_t cut_ns; /* when a mapped part was last found to have lost its file's end */

	struct vp_intx intx;
	_Atomic bool direct; /* some part of a BAR is reached without a message */
	_Atomic bool may_post;
};

static inline struct vfio_pci *vp_of(struct pci_function *fn)
{
	return container_of(fn, struct vfio_pci, fn);
}

/* --- vfio_pci_config.c --- */

/* First time: fill fn.config and the masks, find the capabilities. 0 or -errno with a text. */
int vp_config_build(struct vfio_pci *vp, const uint8_t *config, unsigned size, struct err *err);
/* Again: is it the same device? */
int vp_config_same(
	const struct vfio_pci *vp, const uint8_t *config, unsigned size, struct err *err);
/* Send what the guest wrote to the registers that a device process may have forgotten. vp->lock
 * held. */
void vp_config_push(struct vfio_pci *vp, enum vfio_call call);
/* config[] back to its initial value but for BARs. vp->lock held. */
void vp_config_reset(struct vfio_pci *vp);

uint32_t vp_config_read(struct pci_function *fn, unsigned off, unsigned size);
void vp_config_write(struct pci_function *fn, unsigned off, unsigned size, uint32_t value);

/* --- vfio_pci_quirks.c --- */

/* All of the PCI Express capability. PCI Express 5.0, 7.5.3 */
#define VP_CAP_EXP_V2_LEN 0x3cu

/* A capability that the guest must not see. */
struct vp_hidden {
	bool extended;
	uint16_t id;
	unsigned len; /* extended: bytes that read as 0, at least the header's 4 */
	const char *why;
};

/* NULL: it may stay. */
const struct vp_hidden *vp_hidden_cap(bool extended, unsigned id);
/* Gives the list, and how long it is. */
unsigned vp_nr_hidden_caps(const struct vp_hidden **list);
/* After the capabilities were found: NVIDIA's for GPUs of a clique, if the user said so. 0 or
 * -errno with a text. */
int vp_add_clique(struct vfio_pci *vp, struct err *err);

/* --- vfio_pci_bar.c --- */

/* The largest BAR of 32 bits. */
#define VP_MEM32_MAX (2 * GIB)

/* First time: the BARs by their registers and regions. config as the device gave it. */
int vp_bars_build(struct vfio_pci *vp, const uint8_t *config, struct err *err);

uint64_t vp_bar_read(struct pci_function *fn, unsigned bar, uint64_t off, unsigned size);
void vp_bar_write(
	struct pci_function *fn, unsigned bar, uint64_t off, unsigned size, uint64_t value);

/* --- vfio_pci_map.c --- */

/* Lay mmapped parts and doorbells over the BARs / take them away. Loop thread. */
void vp_bars_lay(struct vfio_pci *vp);
void vp_bars_clear(struct vfio_pci *vp);
/* The device is about to sleep / was woken. No lock but vp->lock. */
void vp_bars_sleep(struct vfio_pci *vp, bool asleep);
/* Wait for what other devices reach to be as the guest laid it. vCPU thread, no lock held. */
void vp_bars_settle(struct vfio_pci *vp);
/* The end of it: nothing is laid any more. */
void vp_bars_free(struct vfio_pci *vp);

void vp_bar_mapped(struct pci_function *fn, unsigned bar);
void vp_bar_unmapped(struct pci_function *fn, unsigned bar);
bool vp_memory_fault(struct pci_function *fn);

/* --- vfio_pci_rom.c --- */

/*
 * A read of the ROM that trapped, by a vCPU and without a lock.
 * False: not from the copy; ask the device.
 */
bool vp_rom_read(struct vfio_pci *vp, uint64_t off, unsigned size, uint64_t *value);

/* --- vfio_pci_msix.c --- */

/* First time, after vp_bars_build(): find table, pba and their number of vectors; may enlarge a
 * BAR. */
int vp_msix_place(struct vfio_pci *vp, unsigned *nr, struct err *err);

/* --- vfio_pci_irq.c --- */

/* First time, after vp_config_build() and vp_bars_build(): check and prepare what the device has.
 */
int vp_irqs_build(struct vfio_pci *vp, struct err *err);
void vp_irqs_fini(struct vfio_pci *vp);
/* Connect INTx to KVM. The function is in its slot. */
int vp_intx_connect(struct vfio_pci *vp, struct err *err);
void vp_intx_disconnect(struct vfio_pci *vp);

/* vp->lock held, all of these. */
/* The guest wrote the command register, or control words of MSI or MSI-X: config[] has the new
 * values. */
void vp_irqs_update(struct vfio_pci *vp);
/* Tell the device all over. fresh: it has no eventfds at all. */
void vp_irqs_push(struct vfio_pci *vp, bool fresh, enum vfio_call call);
void vp_irqs_reset(struct vfio_pci *vp, enum vfio_call call);

bool vp_irqs_refused(struct vfio_pci *vp, uint32_t index, uint32_t flags);
/*
 * As if the guest had ended its interrupt: the device is back, or the machine was reset, and a
 * level that still stands is to be signalled again.
 */
void vp_intx_kick(struct vfio_pci *vp);

static inline bool vp_in_place(
	const struct vp_msix_place *p, unsigned bar, uint64_t off, uint64_t size)
{
	return p->bar == bar && p->size && ranges_overlap(off, size, p->off, p->size);
}

/* Note that a call did not reach the device. Returns rc. */
static inline int vp_note(struct vfio_pci *vp, int rc)
{
	if (rc == -ENOTCONN || rc == -ETIMEDOUT)
		vp->stale = true;
	return rc;
}

#endif
