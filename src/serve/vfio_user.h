/*
 * vfio_user.h - offer a PCI model over a vfio-user socket
 *
 * One client at a time; another one is closed at once, with a line in the log. The model
 * outlives its clients, what a client brought along (memory, eventfds, masks) goes with it.
 */
#ifndef SERVE_VFIO_USER_H
#define SERVE_VFIO_USER_H

#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "device/pci_model.h"

struct vfio_user_port;

struct vfio_user_port_config {
	/*
	 * How long a client may take over its VERSION, over reading what it asked for, and over
	 * answering a DMA_READ or DMA_WRITE, before it is dropped. 0: 5000.
	 */
	uint32_t patience_ms;
	/* Never poll the socket before sleeping. It is never done on a single processor. */
	bool no_spin;
	/* The client has gone and there is no listening socket to bring another. May be NULL. */
	void (*deserted)(void *arg);
	void *arg;
};

/*
 * Serve model on fd, a UNIX stream socket: one that listens, or one that is connected already.
 * Takes fd, also on failure. Borrows loop and model until vfio_user_port_free(). Gives *out. 0 or
 * -errno with a text. All of it on the loop thread.
 */
int vfio_user_port_new(struct vfio_user_port **out, struct loop *loop, struct pci_model *model,
	int fd, const struct vfio_user_port_config *config, struct err *err);
/*
 * Drop the client, if there is one, and stop serving. NULL is fine. Not from a callback of the
 * model.
 */
void vfio_user_port_free(struct vfio_user_port *port);

#endif
