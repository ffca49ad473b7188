/*
 * vhost_user.h - offer a virtio model over a vhost-user socket
 *
 * One front-end at a time; another one is closed at once, with a line in the log. The model
 * outlives its front-ends; memory, descriptors and ring addresses go with the one that
 * brought them.
 */
#ifndef SERVE_VHOST_USER_H
#define SERVE_VHOST_USER_H

#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/sandbox.h"
#include "device/virtio_model.h"

struct vhost_user_port;

/* System calls of this port beyond those of the base. */
#define VHOST_USER_PORT_NR_CALLS 4
extern const struct sandbox_call vhost_user_port_calls[VHOST_USER_PORT_NR_CALLS];

struct vhost_user_port_config {
	/* How long a front-end may take over the rest of a message, and over reading our answers.
	 * 0: 5000. */
	uint32_t patience_ms;
	/*
	 * The device may be behind the guest's IOMMU. Then the front-end has to tell of each
	 * mapping unasked.
	 */
	bool iommu;
	/* The front-end has gone and there is no listening socket to bring another. May be NULL. */
	void (*deserted)(void *arg);
	/*
	 * For a front-end in another machine, whose messages come by way of this process
	 * (serve/vvu), which has put descriptors where the front-end passed none: memory is pieces
	 * of a device's descriptor, known to be there; a queue that has a call descriptor is called
	 * by this register instead. NULL: descriptors are what they are. Loop thread.
	 */
	volatile uint16_t *(*bell)(void *arg, unsigned queue);
	void *arg;
};

/*
 * Serve model on fd, a UNIX stream socket: one that listens, or one that is connected already; -1:
 * vhost_user_port_connect() brings it. Takes fd, also on failure. Borrows loop and model until the
 * port is free. Gives *out. 0 or
 * -errno with a text. All of it on the loop thread.
 */
int vhost_user_port_new(struct vhost_user_port **out, struct loop *loop, struct virtio_model *model,
	int fd, const struct vhost_user_port_config *config, struct err *err);
/*
 * Serve the front-end on fd, a connected stream socket, non-blocking. There is none now: either
 * there has been none since the port was made, or deserted() was called. Takes fd, also on failure.
 * 0 or
 * -errno with a text.
 */
int vhost_user_port_connect(struct vhost_user_port *port, int fd, struct err *err);
/*
 * Stop serving. The queues of a front-end that is there are stopped first, which may take a while:
 * freed (may be NULL) is called when the model is the caller's again, from the loop or before this
 * returns. NULL port: called at once.
 */
void vhost_user_port_free(struct vhost_user_port *port, void (*freed)(void *arg), void *arg);

#endif
