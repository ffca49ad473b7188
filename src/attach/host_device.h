/*
 * host_device.h - --device: a PCI device of this host, handed to the guest by the kernel's VFIO
 *
 * What one is held by is device.h's: plug, state, end. Texts begin with `device ID: `.
 *
 * The attach goes on beside the loop: opening, mapping and pinning all of guest RAM take their
 * time. Ending a device whose attach is still under way waits until the kernel has come back from
 * the step it is in. Closing resets it, which can take a second: it is done by `closer`, in the
 * order in which devices end, and a device is the host's again when that is idle. Only a descriptor
 * of the caller's has been cleaned when the device is freed.
 */
#ifndef ATTACH_HOST_DEVICE_H
#define ATTACH_HOST_DEVICE_H

#include "attach/device.h"
#include "attach/vfio_iommu.h"
#include "attach/vfio_pci.h"
#include "base/worker.h"

struct host_device_params {
	struct device_params dev;
	const char *path; /* of sysfs, or "0000:00:05.0"; NULL: fd */
	/* An opened /dev/vfio/devices/vfioN, borrowed until the device is freed; -1: path. */
	int fd;
	const char *vf_token; /* a UUID as text, or NULL */
	int gpudirect_clique;	  /* 0 to 15, or VFIO_PCI_NO_CLIQUE */
	uint32_t unmapped_bars;	  /* bit n: accesses to BAR n always trap */
	bool unsafe_noiommu;	  /* also one that no IOMMU confines */
	/* Of the machine; held. A device behind the guest's IOMMU gets one of its own beside it. */
	struct vfio_iommu *iommu;
	/*
	 * Where the device is given back to the host, borrowed until that is done; NULL: at once.
	 */
	struct worker *closer;
	const struct vfio_sys *sys; /* NULL: the kernel's */
	const char *sysroot;	    /* "" or NULL: sysfs at /sys; a test's own tree else */
};

/*
 * Start the attach. m is borrowed until the device is freed (device_free()). Gives *out. 0:
 * `attached` will be called; else -errno with a text, and it will not. Loop thread.
 */
int host_device_attach(struct machine *m, const struct host_device_params *p, struct device **out,
	struct err *err);

#endif
