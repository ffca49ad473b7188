/*
 * fd_kind.c - look at a descriptor before trusting it
 *
 * Trusts:  nothing about a descriptor: its kind, size, seals and access mode are looked at, without
 *          asking a file system that may not answer.
 */
#include "base/fd_kind.h"

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

/* S_IF...; 0: none of these. From the cache: fstat() of a FUSE file would ask its daemon. */
static unsigned kind_of(int fd)
{
	struct statx st;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st))
		return 0;
	return st.stx_mode & S_IFMT;
}

bool fd_is_pipe(int fd)
{
	return kind_of(fd) == S_IFIFO;
}

bool fd_is_regular(int fd)
{
	return kind_of(fd) == S_IFREG;
}

bool fd_is_stream(int fd)
{
	int domain = 0, type = 0;
	socklen_t len = sizeof(int);

	return !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) && domain == AF_UNIX &&
	       !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) && type == SOCK_STREAM;
}

/*
 * F_GET_SEALS answers for memfd, shared memory and hugetlbfs only. Another regular file must lie on
 * a block device; statx gives what the kernel has cached of it and asks nobody.
 */
int fd_memory_identify(int fd, struct fd_memory *id, uint64_t *size, struct err *err)
{
	int seals = fcntl(fd, F_GET_SEALS), mode = fcntl(fd, F_GETFL);
	struct statx st;

	if (mode < 0 || mode & O_PATH)
		return err_set(err, -EINVAL, "the descriptor is not open for reading");
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &st) < 0)
		return err_set(err, -errno, "statx: %s", strerror(errno));
	if (!S_ISREG(st.stx_mode))
		return err_set(err, -EINVAL, "the descriptor is no memory and no regular file");
	if (seals < 0 && !st.stx_dev_major)
		return err_set(err, -EINVAL, "the file is neither memory nor on a block device");
	if ((mode & O_ACCMODE) == O_WRONLY)
		return err_set(err, -EINVAL, "the descriptor is not open for reading");
	*id = (struct fd_memory){
		.dev_major = st.stx_dev_major,
		.dev_minor = st.stx_dev_minor,
		.ino = st.stx_ino,
		.writable = (mode & O_ACCMODE) == O_RDWR &&
			    (seals < 0 || !(seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))),
	};
	*size = st.stx_size;
	return 0;
}
