/*
 * vvu_proxy_device.h - one device of the VVU route: PCI function and proxy
 *
 * What --vvu-proxy comes down to. Life as in attach/device.h; it is attached at once, as nobody
 * outside takes part in that.
 */
#ifndef ATTACH_VVU_PROXY_DEVICE_H
#define ATTACH_VVU_PROXY_DEVICE_H

#include "attach/device.h"
#include "attach/vvu_proxy.h"

struct vvu_proxy_device_params {
	struct device_params dev;
	/*
	 * id, memory, dma and owner are filled in; shmem_size 0: as the machine's address space has
	 * room for.
	 */
	struct vvu_proxy_params vvu;
};

/*
 * m is borrowed until the device is freed. Gives *out. 0: `attached` will be called; else -errno
 * with a text, and it will not. Loop thread.
 */
int vvu_proxy_device_attach(struct machine *m, const struct vvu_proxy_device_params *p,
	struct device **out, struct err *err);

#endif
