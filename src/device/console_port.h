/*
 * console_port.h - the bytes of one console port, both ways
 *
 * Between a pair of queues and a host end. What ports tell the driver about themselves is
 * console.c's.
 */
#ifndef DEVICE_CONSOLE_PORT_H
#define DEVICE_CONSOLE_PORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "device/console_end.h"
#include "device/loop_queue.h"

struct console_port {
	struct loop *loop;
	const char *name; /* of the device */
	struct console_end *end;
	struct loop_queue rx, tx; /* to the guest, from the guest */
	bool console;
	bool open; /* the guest takes input: console_port_open() */
	/* Bytes of the first request in tx that the end has taken already. */
	uint64_t sent;
};

/*
 * Zeroed before. Borrows loop and name. user's `connected` and `resized` are passed through, its
 * arg is p. 0 or -errno with a text.
 */
int console_port_init(struct console_port *p, struct loop *loop, const char *name, bool console,
	const struct console_end_config *end, const struct console_end_user *user, struct err *err);
/* Zeroed is fine. */
void console_port_fini(struct console_port *p);

/* Whether input is given to the guest; it waits in the host otherwise. */
void console_port_open(struct console_port *p, bool open);

/* Serve one of its queues; the ring goes on where it was. 0 or -errno. */
int console_port_start_rx(struct console_port *p, struct vq *vq);
int console_port_start_tx(struct console_port *p, struct vq *vq);
void console_port_stop_rx(struct console_port *p);
void console_port_stop_tx(struct console_port *p);

/* A client came or went. */
void console_port_connected(struct console_port *p);

#endif
