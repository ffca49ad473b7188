/*
 * vvu_proxy.h - a device of another machine that this machine's guest serves
 *
 * The VMM's part of virtio-vhost-user (VVU): a virtio function by which a program in our guest is
 * the vhost-user back-end of another machine, the sibling. For the sibling's VMM we are an ordinary
 * back-end at a socket; what it says goes to the guest, and the guest's answers back.
 *
 * A struct virtio_backend like others, but the device is ourselves.
 *
 * Spec: wire/vvu.h; vhost-user.
 */
#ifndef ATTACH_VVU_PROXY_H
#define ATTACH_VVU_PROXY_H

#include "attach/virtio_backend.h"
#include "attach/virtio_pci.h"
#include "machine/dma.h"
#include "machine/memory.h"
#include "wire/vvu.h"

struct vvu_proxy_params {
	const char *id;	    /* copied */
	const char *socket; /* where siblings connect; copied */
	uint8_t uuid[16];
	uint64_t shmem_size; /* room for the sibling's memory: a power of two, 1 MiB or more */
	unsigned max_queues; /* 1 to VVU_MAX_QUEUES */
	enum vvu_disconnect disconnect;
	struct memory *memory; /* our guest's; borrowed */
	/*
	 * What the function sees of it, behind an IOMMU; NULL: all.
	 * Borrowed, until vvu_proxy_free().
	 */
	struct dma_space *dma;
	struct virtio_owner *owner;
};

struct vvu_proxy;

/* What the function looks like that it is shown through. */
void vvu_proxy_layout(const struct vvu_proxy_params *p, struct virtio_pci_layout *layout);

/* Listen at the socket. Gives *out. 0 or -errno with a text. Loop thread. */
int vvu_proxy_new(const struct vvu_proxy_params *p, struct vvu_proxy **out, struct err *err);
/* Tell the owner attached(), and begin to serve. 0 or -errno with a text. Loop thread. */
int vvu_proxy_start(struct vvu_proxy *p, struct err *err);
/* Hang up for good; the socket is gone. Loop thread, no lock held. */
void vvu_proxy_stop(struct vvu_proxy *p);
/* No vCPU may be inside a call. NULL is fine. */
void vvu_proxy_free(struct vvu_proxy *p);

struct virtio_backend *vvu_proxy_backend(struct vvu_proxy *p);

#endif
