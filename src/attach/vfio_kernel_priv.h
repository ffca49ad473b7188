/*
 * vfio_kernel_priv.h - what the files of the kernel's transport share
 *
 *   vfio_kernel.c         the object, its calls, its loss and its end
 *   vfio_kernel_attach.c  the thread that brings it up
 *   vfio_kernel_info.c    what the device is made of
 */
#ifndef ATTACH_VFIO_KERNEL_PRIV_H
#define ATTACH_VFIO_KERNEL_PRIV_H

#include <pthread.h>

#include "attach/vfio_kernel.h"
#include "base/util.h"

enum vk_state {
	VK_IDLE,
	VK_ATTACHING, /* the thread is at work, or its report is on its way */
	VK_READY,
	VK_BROKEN, /* for good */
};

/* An eventfd on which the kernel tells something of the device: an error, a request. */
struct vk_notifier {
	int fd; /* -1: the device has none */
	struct loop_source src;
};

#define VK_CONFIG_MAX 4096u

struct vfio_kernel {
	struct vfio_transport t;
	char *id;
	const struct vfio_sys *sys;
	struct loop *loop;
	struct vfio_iommu *iommu;
	struct vfio_owner *owner;
	struct vfio_iommu_device device; /* its texts are ours */

	atomic_int state; /* enum vk_state */
	bool stopped;	  /* loop thread */
	atomic_int why;	  /* of BROKEN: enum vfio_leave */
	pthread_mutex_t break_lock; /* READY becomes BROKEN, and that is posted */
	struct vfio_binding binding;
	uint64_t offsets[VFIO_NR_REGIONS]; /* of regions in the device's file */
	bool has_reset;			   /* the kernel knows how to reset this one device */
	atomic_bool reset_said; /* that nothing can reset it */
	struct vk_notifier error, request;

	/* The attach. */
	pthread_t thread;
	bool has_thread; /* not joined yet; loop thread */
	atomic_bool cancel;
	int rc;
	struct err err;
	uint8_t config[VK_CONFIG_MAX];
	unsigned config_size;
	struct loop_work attached_work, lost_work;
	/* A SET_IRQS that was refused inside restore(). */
	bool refused;
	uint32_t refused_index, refused_flags;
	int refused_rc;
};

static inline int vk_ioctl(struct vfio_kernel *vk, unsigned long request, void *arg)
{
	return vk->sys->ioctl(vk->sys, vk->binding.device_fd, request, arg);
}

/* --- vfio_kernel.c --- */

/* Once: READY becomes BROKEN, the loop does the rest. Any thread. */
void vk_break(struct vfio_kernel *vk, enum vfio_leave why);
/*
 * Reset the device by whatever there is. 0, also when nothing is there, said once; or -errno with a
 * text.
 */
int vk_reset(struct vfio_kernel *vk, struct err *err);
int vk_set_irqs(struct vfio_kernel *vk, const struct vfio_irq_request *rq);

/* --- vfio_kernel_attach.c --- */

int vk_attach_begin(struct vfio_kernel *vk, struct err *err);
/* Call it off and wait for it. Loop thread. */
void vk_attach_end(struct vfio_kernel *vk);

/* --- vfio_kernel_info.c --- */

/* Ask for regions and interrupts. 0 or -errno with a text. */
int vk_info_get(struct vfio_kernel *vk, struct err *err);
void vk_info_fini(struct vfio_kernel *vk);

#endif
