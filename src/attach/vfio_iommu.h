/*
 * vfio_iommu.h - an address space for host devices of a machine: guest RAM as they see it
 *
 * An IOVA is a guest physical address. The first device that is attached opens what stands behind
 * it and maps (and so pins) all of RAM, the last one that leaves closes it, after which nothing of
 * the guest is pinned or bound. Two ways, which look the same from outside:
 *
 *   container  /dev/vfio/vfio and /dev/vfio/GROUP: type 1 version 2 (vfio_container.c)
 *   iommufd    /dev/iommu and /dev/vfio/devices/vfioN: an I/O address space (vfio_iommufd.c)
 *
 * The second is taken when it was asked for and is there, else the first; the log says which and
 * why.
 *
 * RAM is followed as a listener of the machine's memory: what is added later is mapped at once.
 *
 * Parts of a device's BARs can be mapped too, so that another device reaches them (peer to peer).
 * Where the kernel cannot, this is said once and the guest goes on without. A device behind the
 * guest's IOMMU is in an address space of its own, and has no such peers.
 *
 * Threads: any, with a lock inside; attach and detach may take seconds (memory is pinned) and are
 * therefore not called on the loop thread.
 */
#ifndef ATTACH_VFIO_IOMMU_H
#define ATTACH_VFIO_IOMMU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "attach/vfio_dirty.h"
#include "attach/vfio_sys.h"
#include "base/err.h"
#include "base/worker.h"
#include "machine/dma.h"
#include "machine/kvm.h"
#include "machine/memory.h"

struct vfio_iommu;

struct vfio_iommu_params {
	const struct vfio_sys *sys; /* borrowed; NULL: the kernel's */
	const struct kvm *kvm;	    /* borrowed until vfio_iommu_free() */
	struct memory *memory;	    /* likewise */
	bool iommufd;		    /* asked for */
	int iommufd_fd;		    /* /dev/iommu opened by the caller, borrowed; -1: none */
	bool no_p2p;		    /* vfio_iommu_map() does nothing */
	struct worker *worker; /* maps BARs; borrowed while there are users. NULL: who asks does */
	bool unsafe_noiommu;	    /* a device without an IOMMU is let in: its DMA can not work */
};

/*
 * Opens nothing yet. Gives *out, which counts its users: the maker is the first. 0 or -ENOMEM with
 * a text. Under the topology lock: RAM is listened to.
 */
int vfio_iommu_new(const struct vfio_iommu_params *p, struct vfio_iommu **out, struct err *err);
/*
 * Another one beside it, for one device that is behind the guest's IOMMU: it follows dma, which
 * shows all of RAM at first, instead. `of` is the machine's, whose settings hold and who still has
 * its maker; dma is borrowed until the device is detached, and the attach gives it the limits of
 * the host's IOMMU (dma_space_limit()). Its end is vfio_iommu_drop(). Gives *out. 0 or -ENOMEM.
 */
int vfio_iommu_new_behind(struct vfio_iommu *of, struct dma_space *dma, struct vfio_iommu **out);
/*
 * Of such a one: dma goes now, before the device has been detached, whose user has been stopped.
 * What is mapped stays until then.
 */
void vfio_iommu_unfollow(struct vfio_iommu *io);
/* The maker lets go: memory is no longer followed. Under the topology lock. NULL is fine. */
void vfio_iommu_free(struct vfio_iommu *io);
/* Another user, and its end. Any thread. */
struct vfio_iommu *vfio_iommu_hold(struct vfio_iommu *io);
void vfio_iommu_drop(struct vfio_iommu *io);

/* Which device it is: what its kind of attaching needs to know. All borrowed. */
struct vfio_iommu_device {
	const char *name; /* "0000:00:05.0", as its group knows it, or for texts alone */
	int group;	  /* number of its IOMMU group, -1: none */
	const char *cdev; /* "vfio3", as below /dev/vfio/devices; NULL: none */
	int fd;		  /* that device opened by the caller; -1: none */
	const char *vf_token; /* a UUID as text; NULL: none */
};

struct vfio_group;

/* A device in the address space. */
struct vfio_binding {
	int device_fd;
	bool borrowed;		  /* device_fd is the caller's */
	uint32_t devid;		  /* iommufd */
	bool was_bound;		  /* by a run before, with the same descriptor */
	struct vfio_group *group; /* container */
	int group_number;	  /* in vfio_shared; -1: none */
};

/*
 * Let the device in. *cancel is looked at between steps: true ends it with -ECANCELED. Gives *out,
 * to be handed to vfio_iommu_detach(). 0 or -errno with a text that names the step, the numbers
 * and, where there is one, the cure. After a failure nothing is left open or pinned that was not so
 * before.
 */
int vfio_iommu_attach(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	const atomic_bool *cancel, struct vfio_binding *out, struct err *err);
/* Close the device and take it out. Its mappings of BARs must be gone. */
void vfio_iommu_detach(struct vfio_iommu *io, struct vfio_binding *b);

/*
 * Reset everything behind the bus that the device is on. All of that must be in this address space.
 * 0; -EPERM when some of it is not, -ENOTTY when the device is on no bus that can be reset,
 * -ETIMEDOUT while another device comes or goes, after a second; with a text.
 */
int vfio_iommu_hot_reset(struct vfio_iommu *io, const struct vfio_binding *b, struct err *err);

/*
 * Let other devices reach [iova, iova + size), which is the memory of a BAR mapped at hva.
 * Page-aligned, all. It is begun, and waits for nobody: the worker does it, and says why if it
 * cannot. With one device in the address space there is nobody to reach it, and nothing is mapped.
 * hva is lent until vfio_iommu_take().
 */
void vfio_iommu_map(struct vfio_iommu *io, const char *id, uint64_t iova, uint64_t size, void *hva);
/* Undo it, as it was asked for; begun likewise. */
void vfio_iommu_unmap(struct vfio_iommu *io, uint64_t iova, uint64_t size);
/* Takes the mapping of size bytes at hva, which ends when nothing of what was begun needs it. */
void vfio_iommu_take(struct vfio_iommu *io, void *hva, uint64_t size);
/* Wait for what was begun, VFIO_SETTLE_MS at most. Not on the loop thread; no lock held. */
void vfio_iommu_settle(struct vfio_iommu *io);
#define VFIO_SETTLE_MS 1000

/*
 * What the IOMMU can tell of pages that devices have written; self is the struct vfio_iommu. By
 * iommufd it notes them in page tables of its own (-EOPNOTSUPP: this IOMMU cannot, or a device was
 * bound by an earlier run), in a container all that is pinned counts as written. A report covers
 * whole ranges of RAM. -EOPNOTSUPP also for a device behind the guest's IOMMU.
 */
extern const struct vfio_dirty_iommu vfio_iommu_dirty;

/* What the pages of RAM come to, in bytes: what has to be lockable. For texts. */
uint64_t vfio_iommu_pinned(const struct vfio_iommu *io);

#endif
