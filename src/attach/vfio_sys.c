/* vfio_sys.c - the kernel itself behind struct vfio_sys (see vfio_sys.h) */
#include "attach/vfio_sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static int sys_open(const struct vfio_sys *sys, const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static void sys_close(const struct vfio_sys *sys, int fd)
{
	close(fd);
}

static int sys_ioctl(const struct vfio_sys *sys, int fd, unsigned long request, void *arg)
{
	int rc;

	/* Pinning gives up when a signal comes. */
	do
		rc = ioctl(fd, request, arg);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : rc;
}

static ssize_t sys_pread(const struct vfio_sys *sys, int fd, void *buf, size_t len, uint64_t off)
{
	ssize_t n = pread(fd, buf, len, (off_t)off);

	return n < 0 ? -errno : n;
}

static ssize_t sys_pwrite(
	const struct vfio_sys *sys, int fd, const void *buf, size_t len, uint64_t off)
{
	ssize_t n = pwrite(fd, buf, len, (off_t)off);

	return n < 0 ? -errno : n;
}

/* The capability lifts the limit, for the process and for the one who counts by user. */
static uint64_t sys_memlock(const struct vfio_sys *sys)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = { 0 };
	struct rlimit limit;

	if (!syscall(SYS_capget, &head, caps) &&
		caps[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK))
		return UINT64_MAX;
	if (getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur == RLIM_INFINITY)
		return UINT64_MAX;
	return limit.rlim_cur;
}

const struct vfio_sys vfio_sys_kernel = {
	.open = sys_open,
	.close = sys_close,
	.ioctl = sys_ioctl,
	.pread = sys_pread,
	.pwrite = sys_pwrite,
	.memlock = sys_memlock,
};
