/*
 * vsock_connector.c - where a guest's connections may lead: PREFIX_PORT in one folder
 *
 * The folder is the process's working directory, so that a name without a slash is all that
 * connect() gets. A full backlog of the host's program is an answer like any other: nothing is
 * waited for.
 *
 * Trusts: the port number is the guest's choice, the folder and the prefix are not.
 */
#include "device/vsock_connector.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/fd.h"

static int dial(const void *prefix, const struct connector_ask *ask)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	FD_AUTO fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if ((size_t)snprintf(at.sun_path, sizeof(at.sun_path), "%s_%" PRIu32, (const char *)prefix,
		    ask->to) >= sizeof(at.sun_path))
		return -ENAMETOOLONG;
	if (connect(fd, (struct sockaddr *)&at, sizeof(at)))
		return -errno;
	return fd_take(&fd);
}

int vsock_connector_start(struct connector *out, int dir_fd, const char *prefix, struct err *err)
{
	const struct connector_config config = {
		.name = "vsock-connect", .dir_fd = dir_fd, .dial = dial, .arg = prefix
	};

	*out = (struct connector){ .fd = -1 };
	if (!*prefix || strchr(prefix, '/') || strlen(prefix) > VSOCK_PREFIX_MAX)
		return err_set(err, -EINVAL,
			"a socket's name: '%.32s', expected 1 to %d bytes, no '/'", prefix,
			VSOCK_PREFIX_MAX);
	return connector_start(out, &config, err);
}
