/*
 * console.h - virtio console: one port, or several with names
 *
 * Port 0 is always a console. With further ports, or with one and `multiport`, the driver may
 * use the control queues (VIRTIO_CONSOLE_F_MULTIPORT).
 *
 * A console never makes its guest wait for a reader on the host: Linux spins until a console's
 * output is taken. The latest 64 KiB that nobody took are kept. Any other port hands its guest's
 * bytes over one by one, at the pace of the host, and drops them only when there is no client.
 *
 * Spec: virtio 1.3, 5.3.
 */
#ifndef DEVICE_CONSOLE_H
#define DEVICE_CONSOLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "device/console_end.h"
#include "device/virtio_model.h"

#define CONSOLE_MAX_PORTS 31

struct console_port_config {
	struct console_end_config end;
	const char *name; /* for the guest, at most 63 bytes; "": none; borrowed for the call */
	bool console;	  /* port 0 is one in any case */
};

struct console_config {
	const char *name;  /* for log lines; borrowed */
	unsigned nr_ports; /* 1 to CONSOLE_MAX_PORTS */
	const struct console_port_config *ports;
	bool multiport;	     /* also when there is only one */
	uint16_t cols, rows; /* of port 0, for an end without a size of its own; 0: not known */
};

/* Takes the descriptors in config on success. Gives *out. 0 or -errno with a text. */
int console_new(struct virtio_model **out, struct loop *loop, const struct console_config *config,
	struct err *err);

/* The pseudo-terminal of a port, or NULL. */
const char *console_pty_path(const struct virtio_model *m, unsigned port);

#endif
