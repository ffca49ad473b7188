/*
 * vhost_user_iotlb.h - guest memory as a device behind the guest's IOMMU sees it
 *
 * With VIRTIO_F_ACCESS_PLATFORM addresses are IOVAs, and the front-end says what they mean: each
 * entry of the IOTLB names a piece of the shared memory by the front-end's own addresses. Entries
 * are kept until the front-end takes them back, so a front-end that tells of each mapping before
 * its guest may use it is never asked for one. An address without an entry is a fault of the
 * guest's: its request fails.
 *
 * What a request points into stays shared memory after its entry is gone: the IOTLB says what may
 * be reached, it does not hold memory.
 *
 * Threads: changed on the loop thread, read on any.
 * Spec:    vhost-user, "IOMMU support", "VHOST_USER_IOTLB_MSG".
 */
#ifndef SERVE_VHOST_USER_IOTLB_H
#define SERVE_VHOST_USER_IOTLB_H

#include <pthread.h>

#include "base/range_tree.h"
#include "serve/vhost_user_mem.h"

/* What one front-end may have told us of at a time. */
#define VHU_MAX_IOTLB (1u << 19)

struct vhu_iotlb {
	pthread_rwlock_t lock;
	struct range_tree entries;
};

void vhu_iotlb_init(struct vhu_iotlb *t);
void vhu_iotlb_clear(struct vhu_iotlb *t);
void vhu_iotlb_fini(struct vhu_iotlb *t);
/* Carry a message out. 0; or -errno with a text. */
int vhu_iotlb_message(struct vhu_iotlb *t, const struct vhost_user_iotlb *m, struct err *err);

/*
 * Memory by IOVA: base through t. Takes a reference on base; t is borrowed for as long as it lives.
 * Gives *out with one reference (guest_mem_put()). 0 or -ENOMEM.
 */
int vhu_iotlb_mem_new(struct vhu_iotlb *t, struct vhu_mem *base, struct guest_mem **out);

#endif
