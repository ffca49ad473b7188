/* block_nbd_dial.h - connecting to the same NBD server once more */
#ifndef DEVICE_BLOCK_NBD_DIAL_H
#define DEVICE_BLOCK_NBD_DIAL_H

#include <sys/socket.h>

#include "device/connector.h"

struct nbd_place {
	struct sockaddr_storage at;
	socklen_t len;
};

/* Where fd, connected as uri says, has its far end. 0 or -errno. */
int nbd_place_of(struct nbd_place *place, int fd, const char *uri);

/* A process that connects there, whatever it is asked. Borrows place for the call. As
 * connector_start(). */
int nbd_dialer_start(struct connector *out, const struct nbd_place *place, struct err *err);

#endif
