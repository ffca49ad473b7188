/*
 * device.h - what every route's device looks like to the one who builds the machine
 *
 * A device is begun (by its route: user_device_attach(), vhost_user_device_attach(), ...), connects
 * on the loop, calls back once, is plugged into its slot, and is freed. Whoever
 * holds devices of several routes needs nothing else.
 *
 * Threads: loop thread, all of it.
 */
#ifndef ATTACH_DEVICE_H
#define ATTACH_DEVICE_H

#include "base/err.h"

enum device_state {
	DEVICE_CONNECTING, /* attach goes on */
	DEVICE_ATTACHED,
	DEVICE_BROKEN, /* its process is gone or answers nonsense: recovery goes on */
};

struct device;

struct device_ops {
	/* Put it into its slot. After its attach succeeded. 0 or -errno with a text. */
	int (*plug)(struct device *dev, struct err *err);
	/* "0000:00:05.0", or "" before it is plugged. Borrowed. */
	const char *(*bdf)(const struct device *dev);
	enum device_state (*state)(const struct device *dev);
	/*
	 * Unplug and hang up, in any state. Waits for nothing: what a vCPU may still be inside of goes
	 * when that has left (io_retire()). Before machine_free().
	 */
	void (*free)(struct device *dev);
};

/* The head of every route's device. */
struct device {
	const struct device_ops *ops;
	const char *id; /* the device's own */
};

/* The attach ended: 0, or -errno with a text in err. From the loop, once. dev may be freed here. */
typedef void (*device_attached_fn)(
	void *arg, struct device *dev, int rc, const struct err *err);

static inline int device_plug(struct device *dev, struct err *err)
{
	return dev->ops->plug(dev, err);
}

static inline const char *device_bdf(const struct device *dev)
{
	return dev->ops->bdf(dev);
}

static inline enum device_state device_state(const struct device *dev)
{
	return dev->ops->state(dev);
}

/* NULL is fine. */
static inline void device_free(struct device *dev)
{
	if (dev)
		dev->ops->free(dev);
}

#endif
