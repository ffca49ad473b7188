/*
 * vsock.h - virtio socket device: streams between the guest and UNIX sockets of the host
 *
 * The hybrid form that users know from Firecracker and Cloud Hypervisor. The host's programs
 * connect to one listening socket, write "CONNECT PORT\n", and are told "OK LOCALPORT\n" when the
 * guest has taken the connection; from then on it is a stream like any other. A guest that connects
 * to port N of the host (context id 2) reaches whoever listens at that socket's path with "_N"
 * behind it.
 *
 * Spec: virtio 1.3, 5.10.
 */
#ifndef DEVICE_VSOCK_H
#define DEVICE_VSOCK_H

#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "device/virtio_model.h"
#include "device/vsock_connector.h"

#define VSOCK_CID_MIN	3	    /* 0 to 2 mean a hypervisor, this machine and the host */
#define VSOCK_CID_MAX	0xfffffffeu /* the one above means any */
#define VSOCK_MAX_CONNS 4096

struct vsock_config {
	const char *name; /* for log lines; borrowed */
	uint32_t guest_cid;
	int listen_fd;			  /* non-blocking; -1: the host cannot connect */
	const char *made_path;		  /* of it, to be removed at the end; NULL: not ours */
	struct connector connector; /* fd -1: the guest cannot */
	unsigned max_conns;		  /* 1 to VSOCK_MAX_CONNS: each takes a descriptor */
};

/* Takes listen_fd and connector, also on failure. Gives *out. 0 or -errno with a text. */
int vsock_new(struct virtio_model **out, struct loop *loop, const struct vsock_config *config,
	struct err *err);

#endif
