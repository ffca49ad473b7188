/*
 * user_device.h - --user-device: a PCI device in another process, reached by vfio-user
 *
 * What one is held by is device.h's: plug, state, end.
 *
 * An attach takes 4 s at most. The texts name device and socket: `user-device gpio0: cannot
 * connect to /tmp/x: nobody listens there`.
 */
#ifndef ATTACH_USER_DEVICE_H
#define ATTACH_USER_DEVICE_H

#include "attach/device.h"
#include "attach/vfio_user.h"

struct user_device_params {
	struct device_params dev;
	const char *socket;	      /* path; copied */
	struct vfio_user_times times; /* zero: the defaults */
};

/*
 * Start the attach. m is borrowed until the device is freed (device_free()). Gives *out. 0:
 * `attached` will be called; else -errno with a text, and it will not. Loop thread.
 */
int user_device_attach(struct machine *m, const struct user_device_params *p, struct device **out,
	struct err *err);

#endif
