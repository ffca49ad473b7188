#include "serve/fd_kind.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int fd_kind_open(void)
{
	int fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

bool fd_is_eventfd(int kinds, int fd)
{
	char name[16], target[32];
	ssize_t n;

	snprintf(name, sizeof(name), "%d", fd);
	n = readlinkat(kinds, name, target, sizeof(target));
	return n == (ssize_t)strlen("anon_inode:[eventfd]") &&
	       !memcmp(target, "anon_inode:[eventfd]", (size_t)n);
}

bool fd_is_pipe(int fd)
{
	struct statx st;

	/* From the cache: fstat() of a FUSE file would ask the daemon behind it. */
	return !statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) &&
	       S_ISFIFO(st.stx_mode);
}

bool fd_is_stream(int fd)
{
	int domain = 0, type = 0;
	socklen_t len = sizeof(int);

	return !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) && domain == AF_UNIX &&
	       !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) && type == SOCK_STREAM;
}
