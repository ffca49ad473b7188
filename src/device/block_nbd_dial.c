/*
 * block_nbd_dial.c - connecting to the same NBD server once more
 *
 * A server is found again at the address that it had, whatever its name resolves to meanwhile. A
 * UNIX socket's path is the URI's: a server may have been started with a path that begins in its
 * own folder.
 */
#include "device/block_nbd_dial.h"

#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/fd.h"

/* A host that does not even refuse is given up after that, and tried again. */
#define DIAL_S 10

/* The next character of a URI's part; *text goes on behind it. */
static char decoded(const char **text)
{
	const char *t = *text;
	char hex[3] = { 0 };

	*text = t + 1;
	if (t[0] != '%' || !isxdigit((unsigned char)t[1]) || !isxdigit((unsigned char)t[2]))
		return t[0];
	memcpy(hex, t + 1, 2);
	*text = t + 3;
	return (char)strtoul(hex, NULL, 16);
}

/* The parameter socket= of the query. 0; -ENOENT: there is none; -ENAMETOOLONG. */
static int path_of_uri(struct sockaddr_un *at, const char *uri)
{
	const char *query = strchr(uri, '?'), *text;
	size_t n = 0;

	text = query ? strstr(query, "socket=") : NULL;
	if (!text || (text[-1] != '?' && text[-1] != '&'))
		return -ENOENT;
	text += strlen("socket=");
	*at = (struct sockaddr_un){ .sun_family = AF_UNIX };
	while (*text && *text != '&' && *text != '#') {
		if (n == sizeof(at->sun_path) - 1)
			return -ENAMETOOLONG;
		at->sun_path[n++] = decoded(&text);
	}
	return 0;
}

int nbd_place_of(struct nbd_place *place, int fd, const char *uri)
{
	place->len = sizeof(place->at);
	if (getpeername(fd, (struct sockaddr *)&place->at, &place->len))
		return -errno;
	if (place->at.ss_family != AF_UNIX)
		return 0;
	place->len = sizeof(struct sockaddr_un);
	return path_of_uri((struct sockaddr_un *)&place->at, uri);
}

static int dial(const void *arg, const struct connector_ask *ask)
{
	const struct nbd_place *place = arg;
	const struct timeval patience = { .tv_sec = DIAL_S };
	FD_AUTO fd = socket(place->at.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const int on = 1;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (const struct sockaddr *)&place->at, place->len))
		return -errno;
	if (place->at.ss_family == AF_INET || place->at.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd_take(&fd);
}

int nbd_dialer_start(struct connector *out, const struct nbd_place *place, struct err *err)
{
	const struct connector_config config = {
		.name = "nbd-connect", .dir_fd = -1, .tcp = true, .dial = dial, .arg = place
	};

	return connector_start(out, &config, err);
}
