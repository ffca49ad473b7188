/*
 * vfio_user.h - a device behind a vfio-user socket: the client end
 *
 * vfio_user_new() makes the object and vfio_user_start() sets it going; from then
 * on it talks to its owner through struct vfio_owner_ops (vfio_transport.h).
 */
#ifndef ATTACH_VFIO_USER_H
#define ATTACH_VFIO_USER_H

#include "attach/vfio_transport.h"
#include "base/loop.h"
#include "machine/dma.h"
#include "machine/memory.h"

/* Times, so that tests need not wait; a 0 stands for the default. */
struct vfio_user_times {
	uint32_t attach_ms;    /* the whole of one attach: 4000 */
	uint32_t request_ms;   /* one register access or other request: 2000 */
	uint32_t retry_min_ms; /* first pause before connecting again: 10 */
	uint32_t retry_max_ms; /* the pause doubles up to this: 1000 */
	uint32_t spin_us;      /* longest spinning for a reply: 40. Never with one CPU */
};

struct vfio_user_params {
	const char *id;	    /* copied */
	const char *socket; /* path; copied */
	struct loop *loop;
	struct memory *memory;
	struct dma_space *dma; /* what the device sees of it, borrowed; NULL: all RAM */
	struct vfio_owner *owner;
	struct vfio_user_times times;
};

struct vfio_user;

/* Loop, memory and owner are borrowed. Gives *out. 0 or -ENOMEM. Topology lock held. */
int vfio_user_new(const struct vfio_user_params *p, struct vfio_user **out);

/*
 * Connect and begin the attach, which ends with the owner's ready() or failed(). 0; or
 * -errno with a text when nobody can be connected to (then neither comes).
 * Loop thread.
 */
int vfio_user_start(struct vfio_user *vu, struct err *err);

/* What the owner calls the device through. */
struct vfio_transport *vfio_user_transport(struct vfio_user *vu);

/* Whether the device answers: it is attached and its server has not been lost. Any thread. */
bool vfio_user_is_ready(const struct vfio_user *vu);

/*
 * Hang up for good. Calls of other threads return -ENOTCONN at once, also those under way. The
 * owner hears nothing any more; descriptors of info stay open until vfio_user_free(). Loop thread.
 */
void vfio_user_stop(struct vfio_user *vu);

/* Stops first. No call may be under way. NULL is fine. Loop thread. */
void vfio_user_free(struct vfio_user *vu);

#endif
