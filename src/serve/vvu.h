/*
 * vvu.h - offer a virtio model to another machine, by a virtio-vhost-user function of this one
 *
 * This machine is a guest. The function (wire/vvu.h) brings the messages of a vhost-user front-end
 * in another guest's VMM, its memory and its eventfds; what a front-end at a socket can do, this
 * one can do as well. One front-end after the other; the model outlives them.
 *
 * The function is bound to vfio-pci. It is driven from here, through a container or iommufd.
 */
#ifndef SERVE_VVU_H
#define SERVE_VVU_H

#include <stdbool.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/sandbox.h"
#include "device/virtio_model.h"

struct vfio_calls;
struct vvu_port;

/* System calls of this port beyond those of the base and of the vhost-user port. */
#define VVU_PORT_NR_CALLS 3
extern const struct sandbox_call vvu_port_calls[VVU_PORT_NR_CALLS];

struct vvu_port_config {
	/* The device may be behind the IOMMU of the sibling's guest: vhost_user_port_config's. */
	bool iommu;
	/* The function is gone or does not come back from a reset: nothing is served any more. */
	void (*lost)(void *arg);
	void *arg;
	const struct vfio_calls *calls; /* NULL: the kernel's */
};

/*
 * Serve model by the function at this PCI address ("0000:00:10.0", "00:10.0", or a path that ends
 * so). What has to be opened and mapped is now; a front-end is let in when the loop runs. Takes up
 * to a second. Borrows loop, model and what config names until the port is free. Gives *out. 0 or
 * -errno with a text. All of it on the loop thread.
 */
int vvu_port_new(struct vvu_port **out, struct loop *loop, struct virtio_model *model,
	const char *address, const struct vvu_port_config *config, struct err *err);
/*
 * Stop serving. Requests that are under way are finished, then the function is reset: freed (may be
 * NULL) is called when the model is the caller's again, from the loop or before this returns. NULL
 * port: called at once.
 */
void vvu_port_free(struct vvu_port *port, void (*freed)(void *arg), void *arg);

#endif
