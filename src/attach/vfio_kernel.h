/*
 * vfio_kernel.h - a device of this host behind the kernel's VFIO: the transport by system calls
 *
 * vfio_kernel_new() makes the object, vfio_kernel_start() sets it going; from then on it talks to
 * its owner through struct vfio_owner_ops (vfio_transport.h). The attach runs on a thread of its
 * own that lives as long as it takes. A device that is lost stays lost: there is no other one to
 * come back.
 */
#ifndef ATTACH_VFIO_KERNEL_H
#define ATTACH_VFIO_KERNEL_H

#include "attach/vfio_iommu.h"
#include "attach/vfio_transport.h"
#include "base/loop.h"

struct vfio_kernel_params {
	const char *id;		    /* copied */
	const struct vfio_sys *sys; /* borrowed; NULL: the kernel's */
	struct loop *loop;	    /* borrowed */
	struct vfio_iommu *iommu;   /* held as long as it is needed */
	struct vfio_owner *owner;   /* borrowed */
	struct vfio_iommu_device
		device; /* its texts are copied; fd is borrowed until vfio_kernel_free() */
};

struct vfio_kernel;

/* Gives *out. 0 or -ENOMEM. */
int vfio_kernel_new(const struct vfio_kernel_params *p, struct vfio_kernel **out);

/*
 * Begin the attach, which ends with the owner's ready() or failed(). 0, or -errno with a text (then
 * neither comes). Loop thread.
 */
int vfio_kernel_start(struct vfio_kernel *vk, struct err *err);

/* What the owner calls the device through. */
struct vfio_transport *vfio_kernel_transport(struct vfio_kernel *vk);

/* Whether the device works: attached and not lost. Any thread. */
bool vfio_kernel_is_ready(const struct vfio_kernel *vk);

/*
 * For good: calls return -ENOTCONN, the owner hears nothing any more, the device is no bus master.
 * An attach under way is called off and waited for, which may take as long as the memory of one
 * range takes to be pinned. Loop thread.
 */
void vfio_kernel_stop(struct vfio_kernel *vk);

/*
 * Give the device back to the host, which resets it. Stopped, or never started; no call may be
 * under way, and all that was mapped of it must be unmapped. May take a second. Any thread; a
 * second time nothing happens.
 */
void vfio_kernel_give_back(struct vfio_kernel *vk);

/* Gives it back first. NULL is fine. Any thread. */
void vfio_kernel_free(struct vfio_kernel *vk);

#endif
