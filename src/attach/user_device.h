/*
 * user_device.h - --user-device: a PCI device in another process, reached by vfio-user
 *
 * For main: start the attach of all of them, run the loop until each has
 * called back, then plug them in the order of the command line, so that slots do not depend
 * on which server was faster:
 *
 *   for each:  user_device_attach(m, &params, &dev, &err)	rc != 0: print err, exit
 *   loop_run() until every callback came (it counts, and calls loop_quit())
 *   for each:  user_device_plug(dev, &err)
 *   machine_start() ...
 *   machine stopped; for each: user_device_free(dev); machine_free()
 *
 * An attach takes 4 s at most. The texts name device and socket: `user-device gpio0: cannot
 * connect to /tmp/x: nobody listens there`.
 */
#ifndef ATTACH_USER_DEVICE_H
#define ATTACH_USER_DEVICE_H

#include "attach/vfio_user.h"
#include "machine/machine.h"

struct user_device;

/* The attach ended. rc 0 or -errno with a text in err. From the loop, once. dev may be freed here.
 */
typedef void (*user_device_attached_fn)(
	void *arg, struct user_device *dev, int rc, const struct err *err);

struct user_device_params {
	const char *id;	    /* copied */
	const char *socket; /* path; copied */
	unsigned segment;
	int slot; /* 1 to 31, or PCI_SLOT_ANY */
	user_device_attached_fn attached;
	void *arg;
	struct vfio_user_times times; /* zero: the defaults */
};

/*
 * Start the attach. m is borrowed until the device is freed. Gives *out. 0: `attached` will be
 * called; else -errno with a text, and it will not. Loop thread.
 */
int user_device_attach(struct machine *m, const struct user_device_params *p,
	struct user_device **out, struct err *err);

/* Put it into its slot. After `attached` came with 0. 0 or -errno with a text. Loop thread. */
int user_device_plug(struct user_device *dev, struct err *err);

const char *user_device_id(const struct user_device *dev);
/* "0000:00:05.0", or "" before it is plugged. */
const char *user_device_bdf(const struct user_device *dev);

/*
 * Unplug and hang up, in any state. Waits for nothing: the memory goes when the last vCPU has left
 * the device (io_retire()). Detaching one from a running machine and freeing all at the end are the
 * same call. NULL is fine. Loop thread, before machine_free().
 */
void user_device_free(struct user_device *dev);

#endif
