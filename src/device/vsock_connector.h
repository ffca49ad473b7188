/*
 * vsock_connector.h - a process that connects to sockets of the host for one that may not
 *
 * What a guest asks for must not make its device process able to reach every UNIX socket of the
 * host. So a second process, which never sees a byte of the guest's but a port number, connects to
 * PREFIX_PORT in one folder, and hands the descriptor over. It ends when its asker has closed its
 * end.
 *
 * A datagram is a question, or its answer with a descriptor if rc is 0.
 */
#ifndef DEVICE_VSOCK_CONNECTOR_H
#define DEVICE_VSOCK_CONNECTOR_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* The longest prefix: with '_', ten digits and a NUL it fits a socket's address. */
#define VSOCK_PREFIX_MAX 96

struct vsock_ask {
	uint64_t serial; /* the asker's own, comes back */
	uint32_t guest_port;
	uint32_t host_port; /* the one to connect to */
};

struct vsock_answer {
	struct vsock_ask ask;
	int32_t rc; /* 0 or -errno of connect() */
	uint32_t reserved;
};

struct vsock_connector {
	int fd;	   /* SOCK_SEQPACKET, non-blocking; -1: there is none */
	pid_t pid; /* 0: nobody's to wait for */
};

/*
 * Fork it. dir_fd is borrowed, an O_PATH descriptor will do. Before threads start. Gives *out. 0 or
 * -errno with a text; the process is confined by then.
 */
int vsock_connector_start(
	struct vsock_connector *out, int dir_fd, const char *prefix, struct err *err);
/* Close our end and wait for the process, which takes but a moment. None: nothing happens. */
void vsock_connector_stop(struct vsock_connector *c);

#endif
