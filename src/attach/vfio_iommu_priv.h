/*
 * vfio_iommu_priv.h - what the files of the address space share
 *
 *   vfio_iommu.c      devices coming and going, RAM mapped
 *   vfio_iommu_map.c  RAM mapped: checks before, pieces, reasons
 *   vfio_peers.c      BARs for other devices
 *   vfio_behind.c     the address space of a device behind the guest's IOMMU
 *   vfio_container.c  by group and container
 *   vfio_iommufd.c    by /dev/iommu and the devices' own files
 *   vfio_iommufd_dirty.c  what devices wrote, as their page tables note it
 *
 * One lock, io->lock, guards all of it; the functions of struct vfio_backend are called with it
 * held.
 */
#ifndef ATTACH_VFIO_IOMMU_PRIV_H
#define ATTACH_VFIO_IOMMU_PRIV_H

#include <pthread.h>

#include "attach/vfio_iommu.h"
#include "attach/vfio_shared.h"
#include "base/log.h"
#include "base/util.h"
#include "wire/vfio_kernel.h"

/* Addresses that the IOMMU can translate; both ends are included. */
struct vfio_iova_ranges {
	unsigned nr; /* 0: the kernel does not say */
	struct {
		uint64_t start, last;
	} r[64];
	uint64_t page_size; /* the smallest there is; 0: the kernel does not say */
};

struct vfio_backend {
	const char *name;
	/* What all devices share. For the first of them. */
	int (*open)(struct vfio_iommu *io, struct err *err);
	void (*close)(struct vfio_iommu *io);
	/* Let a device in, as far as it takes for maps to be made. */
	int (*join)(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
		struct vfio_binding *b, struct err *err);
	/* RAM is mapped: make the device usable. May be NULL. */
	int (*use)(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
		struct vfio_binding *b, struct err *err);
	/* Undo both, as far as they got. */
	void (*leave)(struct vfio_iommu *io, struct vfio_binding *b);
	/* What can be mapped, now that a device is in. */
	int (*ranges)(struct vfio_iommu *io, struct vfio_iova_ranges *out, struct err *err);
	/* access: DMA_CAN_ bits. */
	int (*map)(struct vfio_iommu *io, uint64_t iova, uint64_t size, void *hva, unsigned access);
	/*
	 * What lies in it, whole maps. *done, unless NULL: how many bytes went. -ENOENT is allowed
	 * for none.
	 */
	int (*unmap)(struct vfio_iommu *io, uint64_t iova, uint64_t size, uint64_t *done);
	/* All there is. */
	int (*unmap_all)(struct vfio_iommu *io);
	int (*hot_reset)(struct vfio_iommu *io, const struct vfio_binding *b, struct err *err);
	/* Of struct vfio_dirty_iommu. stop: after start, also after one that failed. */
	int (*dirty_start)(struct vfio_iommu *io);
	void (*dirty_stop)(struct vfio_iommu *io);
	int (*dirty_report)(struct vfio_iommu *io, uint64_t iova, uint64_t size, uint64_t page_size,
		uint64_t *bitmap);
};

struct vfio_peer_map;

struct vfio_group {
	int number;
	int fd;
	unsigned users;
	struct vfio_group *next;
};

/* iommufd: a device that is attached. */
struct vfio_bound {
	int fd;
	uint32_t devid; /* 0: not known */
	bool tracked;	/* attached to one of hwpts[] */
};

struct vfio_iommu {
	const struct vfio_sys *sys;
	struct vfio_shared *shared; /* with the machine's other address spaces */
	struct memory *memory;	    /* NULL: the maker has let go */
	bool want_iommufd, unsafe_noiommu;
	atomic_bool no_p2p;
	int given_iommufd;
	atomic_uint users;

	pthread_mutex_t lock;
	struct memory_listener listener;
	struct mem_range *ram; /* nr_ram of them */
	unsigned nr_ram;

	const struct vfio_backend *backend; /* NULL: no device is in */
	unsigned nr_devices;
	bool mapped;   /* all of ram[] is */
	bool noiommu;  /* nothing can be mapped */
	bool p2p_said; /* that BARs can not be mapped */
	struct vfio_iova_ranges ranges;
	int fd;		/* of the container, or /dev/iommu; -1: not open */
	uint32_t ioas;	/* iommufd */
	bool has_iommu; /* container: SET_IOMMU was done */
	struct vfio_group *groups;
	struct vfio_bound *bound; /* iommufd; nr_bound of them */
	unsigned nr_bound;
	bool dirty;	 /* what is written is noted */
	uint32_t *hwpts; /* iommufd: page tables that do so, nr_hwpts of them */
	unsigned nr_hwpts;
	uint64_t pinned; /* counted in shared */

	/* BARs; see vfio_peers.c. */
	struct worker *worker;
	pthread_mutex_t peers_lock;
	pthread_cond_t peers_done;
	struct vfio_peer_map *peers;
	bool peers_posted, peers_busy; /* the worker will see to them; somebody does */

	/* Of a device behind the guest's IOMMU; see vfio_behind.c. */
	struct dma_space *dma; /* NULL: RAM as it is */
	struct dma_listener follower;
	uint64_t followed_size;	   /* bytes of RAM */
	uint64_t mapped_bytes;	   /* at the moment */
	const atomic_bool *cancel; /* of the attach that goes on */
	struct err map_err;	   /* what it failed with */
	bool follows;		   /* there is something to map in */
	bool cut;		   /* nothing may be mapped any more */
	bool unfollowed;	   /* dma is gone */
	char name[32];		   /* the device's, for the log */
	struct log_limit complaints;
};

extern const struct vfio_backend vfio_container, vfio_iommufd;

static inline int vfio_ioctl(const struct vfio_iommu *io, int fd, unsigned long request, void *arg)
{
	return io->sys->ioctl(io->sys, fd, request, arg);
}

static inline void vfio_close(const struct vfio_iommu *io, int *fd)
{
	if (*fd >= 0)
		io->sys->close(io->sys, *fd);
	*fd = -1;
}

/* --- vfio_iommu.c --- */

/* A device comes in as far as it takes for maps to be made, is made usable, and leaves. enter
 * undoes itself when it fails; after any other failure the caller does, by vfio_leave(). */
int vfio_enter(struct vfio_iommu *io, const struct vfio_iommu_device *dev, struct vfio_binding *b,
	struct err *err);
int vfio_use(struct vfio_iommu *io, const struct vfio_iommu_device *dev, const atomic_bool *cancel,
	struct vfio_binding *b, struct err *err);
void vfio_leave(struct vfio_iommu *io, struct vfio_binding *b);
/* So many bytes more, or less, are pinned for RAM as a whole. */
void vfio_count_pinned(struct vfio_iommu *io, int64_t more);

/* --- vfio_peers.c --- */

void vfio_peers_init(struct vfio_iommu *io);
void vfio_peers_fini(struct vfio_iommu *io);
/* Do all that was begun. */
void vfio_peers_see_to(struct vfio_iommu *io);

/* --- vfio_behind.c --- */

int vfio_behind_attach(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	const atomic_bool *cancel, struct vfio_binding *out, struct err *err);
void vfio_behind_detach(struct vfio_iommu *io, struct vfio_binding *b);

/* --- vfio_iommu_map.c --- */

uint64_t vfio_ram_size(const struct vfio_iommu *io);
int vfio_check_memlock(struct vfio_iommu *io, struct err *err);
bool vfio_in_ranges(const struct vfio_iova_ranges *ranges, uint64_t iova, uint64_t size);
int vfio_check_ram(struct vfio_iommu *io, const struct mem_range *r, struct err *err);
/* What helps against a map that failed with rc, or "". */
const char *vfio_map_hint(int rc);
/* cancel may be NULL. */
int vfio_map_ram(struct vfio_iommu *io, const struct mem_range *r, const atomic_bool *cancel,
	struct err *err);
void vfio_unmap_ram(struct vfio_iommu *io, const struct mem_range *r);

/* --- what both ways use --- */

#define VFIO_IOMMU_FILE "/dev/iommu"

/* What a refusal to open a device has to do with its VF token, or "". */
const char *vfio_token_hint(const struct vfio_iommu_device *dev, int rc);
/* Why a file of VFIO's cannot be opened. Returns rc. */
int vfio_cannot_open(const char *path, int rc, struct err *err);

/* vfio_iommufd_dirty.c */
int vfio_iommufd_dirty_start(struct vfio_iommu *io);
void vfio_iommufd_dirty_stop(struct vfio_iommu *io);
int vfio_iommufd_dirty_report(
	struct vfio_iommu *io, uint64_t iova, uint64_t size, uint64_t page_size, uint64_t *bitmap);

/* vfio_hot_reset.c */
/*
 * The devices that a reset of b's bus concerns. Gives *out, to be freed. 0; -ENOTTY it is on no bus
 * that can be reset; or another -errno; with a text.
 */
int vfio_ask_bus(struct vfio_iommu *io, const struct vfio_binding *b,
	struct vfio_pci_hot_reset_info **out, struct err *err);
/* Do it; reset says by whose right. 0 or -errno with a text. */
int vfio_reset_bus(struct vfio_iommu *io, const struct vfio_binding *b,
	struct vfio_pci_hot_reset *reset, struct err *err);

/* Room for a list of the kernel's whose length it only says once it was asked. */
#define VFIO_LIST_TRIES 4
#define VFIO_LIST_MAX	(64 * 1024u)

/*
 * Ask with a buffer that begins with head's head_len bytes, and again with a larger one if the
 * kernel says so in the size that the structure begins with. Gives *out, of *size bytes. 0 or
 * -errno; -EPROTO: it wants ever more.
 */
int vfio_ask_list(const struct vfio_sys *sys, int fd, unsigned long request, const void *head,
	size_t head_len, void **out, uint32_t *size);

#endif
