/*
 * device_bind.h - `outboard device-bind` and `outboard device-unbind`: take a PCI device from the
 * host's driver, and give it back
 *
 * To bind:
 *   1. look: a device, not a bridge, that an IOMMU confines and that the host does not use
 *   2. load vfio-pci where it is lacking
 *   3. write down which driver has it, so that this one gets it back
 *   4. driver_override, driver/unbind, drivers_probe: nobody else can get hold of the device in
 * between, and no other device with the same numbers is meant, as it would be by new_id
 *   5. look whether vfio-pci has it; if not, undo
 *
 * The note is a file of the device's address below /run/outboard/bound. There, because it is worth
 * as much as the binding: both are gone when the host starts again.
 *
 * Threads: one, of a program that does nothing else.
 */
#ifndef CONTROL_DEVICE_BIND_H
#define CONTROL_DEVICE_BIND_H

#include <stdio.h>

#include "attach/vfio_sysfs.h"

#define DEVICE_BIND_NOTES "/run/outboard/bound"

struct device_binder {
	const char *sysroot; /* as in vfio_sysfs.h */
	const char *driver;  /* "vfio-pci" */
	bool force;	     /* also what the host uses */
	FILE *out;	     /* where each step is said */
	/* Write text to a file of sysfs that is there: 0 or -errno. NULL: really. */
	int (*write)(void *arg, const char *path, const char *text);
	/* Load a module: 0 or -errno with a text. NULL: really. */
	int (*load)(void *arg, const char *module, struct err *err);
	void *arg;
};

/* Bind the device that what names to b->driver, or give it back. 0 or -errno with a text. */
int device_bind(const struct device_binder *b, const char *what, struct err *err);
int device_unbind(const struct device_binder *b, const char *what, struct err *err);

/*
 * Of devices that were bound: say, for those whose group is not free yet, who else is in it. *ready
 * is false then. 0 or -errno with a text.
 */
int device_bind_check_group(
	const struct device_binder *b, const char *what, bool *ready, struct err *err);

/* One line for each PCI device that is no bridge: address, kind, numbers, group, driver, resets,
 * what it is good for. 0 or -errno with a text. */
int device_bind_list(const char *sysroot, FILE *out, struct err *err);

/* The two programs; argv[0] is their name. They return the exit status: 0 done, 1 not, 2 wrong
 * usage. */
int device_bind_main(int argc, char **argv);
int device_unbind_main(int argc, char **argv);

#endif
