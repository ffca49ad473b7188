/*
 * vhost_user_device.h - one device of the vhost-user route: PCI function and front-end
 *
 * What --generic-vhost-user, --fs, --disk, --net, ... come down to. Life as in attach/device.h.
 */
#ifndef ATTACH_VHOST_USER_DEVICE_H
#define ATTACH_VHOST_USER_DEVICE_H

#include "attach/device.h"
#include "attach/vhost_user.h"

struct vhost_user_device_params {
	const char *kind; /* for texts: "generic-vhost-user", "disk"; a literal */
	struct device_params dev;
	/* id, loop, memory, dma and owner are filled in. What the rest points at is copied. */
	struct vhost_user_params vu;
};

/*
 * Start the attach. m is borrowed until the device is freed; takes source, also on failure. Gives
 * *out. 0: `attached` will be called; else -errno with a text, and it will not. Loop thread.
 */
int vhost_user_device_attach(struct machine *m, const struct vhost_user_device_params *p,
	struct vhost_user_source *source, struct device **out, struct err *err);

#endif
