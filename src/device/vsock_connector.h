/* vsock_connector.h - where a guest's connections may lead: PREFIX_PORT in one folder */
#ifndef DEVICE_VSOCK_CONNECTOR_H
#define DEVICE_VSOCK_CONNECTOR_H

#include "device/connector.h"

/* The longest prefix: with '_', ten digits and a NUL it fits a socket's address. */
#define VSOCK_PREFIX_MAX 96

/*
 * A process that connects to PREFIX_PORT in the folder; a question's `to` is the port. Borrows both
 * for the call. As connector_start().
 */
int vsock_connector_start(struct connector *out, int dir_fd, const char *prefix, struct err *err);

#endif
