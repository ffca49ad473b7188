/*
 * vfio_sysfs.h - what sysfs knows of a device of this host, and what keeps it from being handed on
 *
 * Facts are read once, into a struct; nothing is opened or changed for good. What the facts are
 * worth ends with the next hand that binds a driver, so the kernel's own answers count later on,
 * and these are here for the sentences: each says what, where, what was expected, and the command
 * that helps.
 *
 * sysroot stands before every path ("" or NULL: the host's own), also before the user's, so that a
 * test brings a tree of its own.
 *
 * Trusts: nothing in the tree. Files are read up to a bound, directories too, and bytes that are
 * not printable ASCII are read as "?".
 *
 * Threads: any; nothing is shared.
 */
#ifndef ATTACH_VFIO_SYSFS_H
#define ATTACH_VFIO_SYSFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/pci_address.h"

#define VFIO_NAME 64 /* room for a name in sysfs, with its NUL; longer ones are refused */

struct vfio_host {
	char name[VFIO_NAME]; /* 0000:01:00.0; a UUID of a mediated device: how its group knows it
			       */
	char dir[512];	      /* where its files are, sysroot and all */
	bool pci;	      /* a PCI function, whose address follows */
	struct pci_address address;
	char driver[VFIO_NAME];		 /* "": none */
	char driver_override[VFIO_NAME]; /* "": none */
	int group;			 /* IOMMU group, -1: none */
	bool noiommu;	      /* the group is one that VFIO has made up: no IOMMU confines it */
	char cdev[VFIO_NAME]; /* "vfio3", below /dev/vfio/devices; "": none */
	uint16_t vendor, device;
	uint32_t class;		      /* 0x010802: NVMe */
	char reset_method[VFIO_NAME]; /* "flr bus"; "": none */
	char physfn[VFIO_NAME];	      /* the physical function of a virtual one; "": it is none */
};

/*
 * Read the facts of the device that what names: an address (0000:01:00.0, 01:00.0), or a path that
 * leads to its directory. 0; -ENOENT no such device; -ENODEV the path leads elsewhere; -EPROTO
 * sysfs makes no sense; -errno; with a text.
 */
int vfio_host_find(const char *sysroot, const char *what, struct vfio_host *out, struct err *err);

/*
 * Whether it can be handed on by VFIO as it stands: an endpoint, in a group, bound to a driver of
 * VFIO, like all in its group. noiommu_ok: the user accepts a group without an IOMMU. 0; or
 * -EINVAL, -ENODEV, -EBUSY with a text.
 */
int vfio_host_check(
	const char *sysroot, const struct vfio_host *h, bool noiommu_ok, struct err *err);

/* The part of the above that is about the others in its group: 0 or -EBUSY with a text. */
int vfio_host_check_group(const char *sysroot, const struct vfio_host *h, struct err *err);

/* Whether it is a bridge, whose drivers the host needs; what kind, as in "is a %s". NULL: no. */
const char *vfio_class_bridge(uint32_t class);
/* Whether a device that this driver holds can be handed on, and its group too. */
bool vfio_driver_hands_on(const char *driver);
/* Whether this driver, or none, lets the other devices of the group be handed on. */
bool vfio_driver_lets_group(const char *driver);

struct vfio_member {
	char name[VFIO_NAME];
	char driver[VFIO_NAME]; /* "": none */
	uint32_t class;
};

/* The devices of a group, by name. Gives *out, *nr of them, to be freed. 0; -E2BIG; -errno. */
int vfio_group_members(const char *sysroot, int group, struct vfio_member **out, size_t *nr);

/* --- the small change: for those who look for more --- */

#define VFIO_PATH 640

/* sysroot and the rest, as printf() would write it. 0 or -ENAMETOOLONG. */
int vfio_sysfs_path(char path[VFIO_PATH], const char *sysroot, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/*
 * The first line of the file name in dir ("" or what is left out: dir is the file), blanks at its
 * ends cut. 0; -EFBIG it does not fit in size; -errno.
 */
int vfio_sysfs_read(const char *dir, const char *name, char *text, size_t size);
/* The last word of what the link name in dir points to. 0; -EFBIG; -errno: -ENOENT there is none.
 */
int vfio_sysfs_link(const char *dir, const char *name, char target[VFIO_NAME]);
/* More names than these in one directory are an error; /proc is the longest one that is read. */
#define VFIO_SYSFS_MAX_NAMES 65536

/* The names in a directory, sorted; those that begin with a dot left out. Gives *out, nr of them. 0
 * or -errno. */
struct vfio_names {
	char (*names)[VFIO_NAME];
	size_t nr;
};
int vfio_sysfs_list(const char *dir, struct vfio_names *out);

#endif
