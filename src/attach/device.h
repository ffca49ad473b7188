/*
 * device.h - one device on its way to the guest, whichever route it takes
 *
 * A route (user_device_attach(), vhost_user_device_attach(), ...) puts two parts together: a PCI
 * function, which the guest sees, and who serves it, over there. What both live through is the same
 * for all routes and is here. Whoever holds devices of several routes needs nothing else.
 *
 *   device_new()       the route: the head; then it makes its parts
 *   device_begun()     the route: the attach goes on, or could not begin
 *   device_attached()  the function: the attach ended. The holder hears of it from the top of the
 *                      loop, not from inside the parts, so that he may free the device there
 *   device_plug()      the holder: into its slot, and behind the guest's IOMMU
 *   device_withdraw()  away from the guest while the machine goes on; part of the end
 *   device_free()      the holder, in any state; waits for no vCPU
 *
 * Threads: loop thread, all of it. The parts are freed when no vCPU is inside the device any more,
 * by whatever thread notices that.
 */
#ifndef ATTACH_DEVICE_H
#define ATTACH_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/loop.h"
#include "machine/dma.h"
#include "machine/machine.h"

enum device_state {
	DEVICE_CONNECTING, /* attach goes on */
	DEVICE_ATTACHED,
	DEVICE_BROKEN, /* its process is gone or answers nonsense: recovery goes on */
};

struct device;
struct viommu;

/* The attach ended: 0, or -errno with a text in err. From the loop, once. dev may be freed here. */
typedef void (*device_attached_fn)(void *arg, struct device *dev, int rc, const struct err *err);

/* What every route wants to know. */
struct device_params {
	const char *id;	      /* copied */
	/* that it is behind, borrowed until the device is freed; NULL: none */
	struct viommu *iommu;
	unsigned segment;
	int slot; /* 1 to 31, or PCI_SLOT_ANY */
	device_attached_fn attached;
	void *arg;
};

/* --- for who holds devices --- */

/* Put it into its slot. After its attach succeeded. 0 or -errno with a text. */
int device_plug(struct device *dev, struct err *err);
/* "0000:00:05.0", or "" before it is plugged. Borrowed. */
const char *device_bdf(const struct device *dev);
enum device_state device_state(const struct device *dev);
/*
 * Unplug and hang up, in any state. Waits for nothing: what a vCPU may still be inside of goes
 * when that has left (io_retire()). Before machine_free(). NULL is fine.
 */
void device_free(struct device *dev);

/* --- for routes --- */

/* What the guest sees: a struct vfio_pci or virtio_pci, each of which has such a table. */
struct device_function_ops {
	/* Into a slot, as pci_add() has it. 0 or -errno with a text. */
	int (*plug)(void *self, unsigned segment, int slot, struct err *err);
	/* Out of it, if it is in one. vCPUs may still be inside a call. */
	void (*unplug)(void *self);
	/* "0000:00:05.0", or "" while not plugged. */
	const char *(*bdf)(const void *self);
};

/* What differs. Each is called for a device that may have only some of its parts, or none. */
struct device_ops {
	/*
	 * Hang up on who serves it, for good: a vCPU that waits in there comes back at once, and
	 * device_attached() is not called any more. Also for one that is stopped. Takes the
	 * topology lock itself where it needs it.
	 */
	void (*stop)(struct device *dev);
	/* Whether it may still be plugged: 0 or -errno with a text. NULL: it always may. */
	int (*may_plug)(const struct device *dev, struct err *err);
	/* Whether its process, or whatever it is, answers. After the attach. */
	bool (*is_ready)(const struct device *dev);
	/*
	 * Free the parts, function first. They are stopped and out of the slot, and no vCPU is
	 * inside. Topology lock held, any thread.
	 */
	void (*free_parts)(struct device *dev);
};

/* The head of every route's device. */
struct device {
	const struct device_ops *ops;
	const char *kind; /* of the option, for texts: "disk" */
	const char *id;	  /* its own */
	struct machine *m;
	struct viommu *iommu;
	unsigned segment;
	int slot;
	device_attached_fn attached;
	void *arg;
	const struct device_function_ops *function_ops;
	void *function;	       /* device_set_function(); NULL: not made yet */
	struct dma_space *dma; /* device_make_dma(); NULL: all of memory */
	struct loop_work report_work;
	int rc; /* of the attach */
	struct err err;
	bool connected; /* the attach ended well */
};

/*
 * size zeroed bytes that begin with the head. m is borrowed until the device is freed, kind is a
 * literal. NULL: -ENOMEM, with a text. Ends with device_begun().
 */
void *device_new(size_t size, const struct device_ops *ops, struct machine *m, const char *kind,
	const struct device_params *p, struct err *err);

/* The function, which was told to call device_attached() when the attach ends. Borrows it. */
void device_set_function(
	struct device *dev, const struct device_function_ops *ops, void *function);

/*
 * Its view of memory: the identity, or, behind an IOMMU, what the guest will map. Whoever reads and
 * writes memory for it is given dev->dma, which lives until the parts are freed. A device without
 * an IOMMU may do without. Takes the topology lock. 0 or -ENOMEM.
 */
int device_make_dma(struct device *dev);

/*
 * The last of a route's attach, whose parts are made and started (rc 0) or were not: gives *out and
 * returns 0, or frees the device and returns rc with what text there is, which gets the device's
 * name.
 */
int device_begun(struct device *dev, int rc, struct device **out, struct err *err);

/*
 * The attach ended: 0, or -errno with a text, to which the device's name is added. arg is the
 * struct device: this is the function's call-back (vfio_pci_attached_fn, virtio_pci_attached_fn).
 */
void device_attached(void *arg, int rc, const struct err *err);

/*
 * Stop it, take it from its IOMMU and out of its slot, in the order in which nobody waits for it.
 * vCPUs may still be inside. A second time nothing happens.
 */
void device_withdraw(struct device *dev);

#endif
