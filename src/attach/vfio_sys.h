/*
 * vfio_sys.h - the system calls by which VFIO is used, in one small table
 *
 * All that the kernel side of the vfio route (vfio_iommu, vfio_container, vfio_iommufd,
 * vfio_kernel) asks of the kernel goes through here, so that a test can be the kernel and let any
 * step of it fail. Mappings of BARs are not among it: they are made where the area's descriptor is
 * used.
 *
 * Threads: any.
 */
#ifndef ATTACH_VFIO_SYS_H
#define ATTACH_VFIO_SYS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct vfio_sys {
	/* For reading and writing, close-on-exec. A descriptor or -errno. */
	int (*open)(const struct vfio_sys *sys, const char *path);
	void (*close)(const struct vfio_sys *sys, int fd);
	/* What it returns (0 or above), or -errno. */
	int (*ioctl)(const struct vfio_sys *sys, int fd, unsigned long request, void *arg);
	/* How many bytes, or -errno. */
	ssize_t (*pread)(const struct vfio_sys *sys, int fd, void *buf, size_t len, uint64_t off);
	ssize_t (*pwrite)(
		const struct vfio_sys *sys, int fd, const void *buf, size_t len, uint64_t off);
	/*
	 * The limit of memory that this process may lock, in bytes; UINT64_MAX: there is none for
	 * it.
	 */
	uint64_t (*memlock)(const struct vfio_sys *sys);
};

/* The kernel's own. */
extern const struct vfio_sys vfio_sys_kernel;

#endif
