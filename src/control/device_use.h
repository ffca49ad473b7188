/*
 * device_use.h - what this host is doing with a PCI device that somebody wants to take away from it
 *
 * Looked for, by what the kernel says in /proc and /sys: file systems mounted from block devices on
 * it, also through LVM, RAID and encryption; swap; network interfaces that are up; virtual
 * functions; the screen; and, of a device that is bound to VFIO, the program that holds it.
 *
 * Trusts: nothing in these files; what is read is bounded. Any thread.
 */
#ifndef CONTROL_DEVICE_USE_H
#define CONTROL_DEVICE_USE_H

#include <stdbool.h>

#include "attach/vfio_sysfs.h"

struct device_use {
	char text[200]; /* "/dev/nvme0n1p2 is mounted at /" */
	char cure[200]; /* "umount /", or "" */
};

/* Whether the host uses it, and for what: the first thing that is found. sysroot: as in
 * vfio_sysfs.h. */
bool device_use_find(const char *sysroot, const struct vfio_host *h, struct device_use *out);

/* Whether a program holds it by VFIO: "process 4711 (outboard) has /dev/vfio/9 open". */
bool device_use_holder(const char *sysroot, const struct vfio_host *h, struct device_use *out);

#endif
