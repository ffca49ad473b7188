/*
 * vfio_transport.h - what the PCI side of the vfio route asks of a device, and hears from it
 *
 * One PCI side (vfio_pci), two ways to reach the device: messages over a socket (vfio_user) and the
 * kernel's system calls (vfio_kernel). A transport brings the device up, tells what it is made of
 * (struct vfio_info), carries register accesses and interrupt set-up, and reports when the device
 * is lost and when it is back.
 *
 * Life, as the owner sees it, all on the loop thread:
 *
 *   prepare() -> restore() -> ready(first) -> lost() -> prepare(again) -> restore() -> ready() ...
 *        \___________\_______ failed()           \__________________________________/
 *
 * Between ready() and lost() the calls of struct vfio_transport_ops reach the device, at all
 * other times they return -ENOTCONN at once. lost() comes once for each loss; the transport then
 * tries by itself, for ever, to get the device back.
 */
#ifndef ATTACH_VFIO_TRANSPORT_H
#define ATTACH_VFIO_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/vfio_user.h"

/* Region and interrupt indexes are VFIO's: enum VFIO_USER_REGION_*, VFIO_USER_IRQ_*. */
#define VFIO_NR_REGIONS VFIO_USER_REGION_COUNT
#define VFIO_NR_IRQS	VFIO_USER_IRQ_COUNT

/* A part of a region that may be mmapped. */
struct vfio_area {
	uint64_t offset; /* in the region; page-aligned like size, inside the region, sorted */
	uint64_t size;
	int fd; /* borrowed from the transport */
	uint64_t fd_offset;
};

/* A register of a region whose writes can be signalled by an eventfd. */
struct vfio_doorbell {
	uint64_t offset; /* in the region */
	uint32_t size;	 /* 1, 2, 4, 8, or 0: a write of any size */
	bool match;	 /* only writes of `value` */
	uint64_t value;
	int fd; /* borrowed from the transport */
};

struct vfio_region {
	uint64_t size; /* 0: there is none; at most 2^62 */
	bool readable, writable;
	unsigned nr_areas, nr_doorbells;
	struct vfio_area *areas;
	struct vfio_doorbell *doorbells;
	/*
	 * A region smaller than a page whose page holds nothing else can be mmapped as that page:
	 * 4096 bytes from offset 0, beyond the region's end. size 0: it can not.
	 */
	struct vfio_area page;
	/*
	 * Areas may cover the MSI-X table too: the host sees to it that a guest's writes there do
	 * no harm.
	 */
	bool msix_mappable;
};

struct vfio_irq {
	uint32_t flags; /* VFIO_USER_IRQ_FLAG_* */
	uint32_t count;
};

/*
 * What the device is made of. Sizes, access rights and interrupts stay as they are from the first
 * prepare() on and may be read by any thread; areas and doorbells are replaced with
 * each prepare() and belong to the loop thread.
 */
struct vfio_info {
	bool can_reset;
	/*
	 * Hardware of this host, whose kernel sets up interrupts and BARs itself: it need not be
	 * told of them by configuration writes, and a SET_IRQS may say -1 for a vector without an
	 * eventfd. One that finds fewer vectors than were asked for fails with -ENOSPC.
	 */
	bool host;
	struct vfio_region regions[VFIO_NR_REGIONS];
	struct vfio_irq irqs[VFIO_NR_IRQS];
};

/* How a call deals with its answer. */
enum vfio_call {
	/* Wait for it, with a deadline. Any thread; on the loop thread only where the machine
	   stands. */
	VFIO_CALL_WAIT,
	/*
	 * None is wanted. region_write: order against other calls of the same thread is kept; it
	 * may wait, with a deadline, until there is room. set_irqs: never waits, loop thread.
	 */
	VFIO_CALL_POST,
	/* Only inside restore(): the call returns at once, the transport checks the answers
	   afterwards. */
	VFIO_CALL_QUEUE,
};

/* One DEVICE_SET_IRQS: flags of VFIO_USER_IRQ_SET_*. */
struct vfio_irq_request {
	uint32_t index;
	uint32_t flags;
	uint32_t start, count;
	/* With DATA_EVENTFD: `count` of them, borrowed; a queued request needs them until ready().
	 */
	const int *fds;
};

struct vfio_transport;

/*
 * All return 0 or -errno: -ENOTCONN the device is not there (or was lost under the call),
 * -ETIMEDOUT it is lost now because it did not answer, else the device's own error reply.
 */
struct vfio_transport_ops {
	/* len is at most 8. */
	int (*region_read)(
		struct vfio_transport *t, unsigned region, uint64_t off, void *buf, unsigned len);
	int (*region_write)(struct vfio_transport *t, unsigned region, uint64_t off,
		const void *buf, unsigned len, enum vfio_call call);
	/* Split into as many messages as the device's limits ask for. */
	int (*set_irqs)(
		struct vfio_transport *t, const struct vfio_irq_request *rq, enum vfio_call call);
	int (*reset)(struct vfio_transport *t);
	/* Tell the transport whether the guest lets the device be bus master. Any thread, never
	 * waits. */
	void (*bus_master)(struct vfio_transport *t, bool on);
	/* From ready() alone: calls reach the device from now on. */
	void (*open)(struct vfio_transport *t);
	/*
	 * A part of a BAR, mmapped at hva, has come to lie at gpa: let other devices reach it;
	 * dma_unmap() follows before it moves. Both are begun only, and never wait; topology lock
	 * held. dma_take takes the mapping at hva, after the last dma_unmap(). dma_settle waits,
	 * with a deadline of its own, until what was begun is done: vCPU thread, no lock held. All
	 * four NULL: this transport's device process maps nothing of others.
	 */
	void (*dma_map)(struct vfio_transport *t, uint64_t gpa, uint64_t size, void *hva);
	void (*dma_unmap)(struct vfio_transport *t, uint64_t gpa, uint64_t size);
	void (*dma_take)(struct vfio_transport *t, void *hva, uint64_t size);
	void (*dma_settle)(struct vfio_transport *t);
	/*
	 * DEVICE_FEATURE: *feature is a struct vfio_device_feature (linux/vfio.h) and its data,
	 * argsz bytes in all, in and out. May be NULL, and -ENOTTY: not this feature.
	 */
	int (*feature)(struct vfio_transport *t, void *feature);
};

struct vfio_transport {
	const struct vfio_transport_ops *ops;
	const char *id; /* the device's name in log lines; borrowed */
	struct vfio_info info;
};

struct vfio_owner;

enum vfio_leave {
	VFIO_LEAVE_ERROR,   /* an uncorrectable error of PCIe */
	VFIO_LEAVE_REQUEST, /* somebody on the host unbinds it */
	VFIO_LEAVE_GONE,    /* it answers no more: it was pulled out */
};

/* Loop thread, all of them; none may wait. */
struct vfio_owner_ops {
	/*
	 * The device said what it is: transport->info, and size bytes of its configuration space.
	 * The first time the owner builds its PCI function; again, it checks that the device is the
	 * one it knows. 0 or -errno with a text: the attach is given up, or tried again later.
	 */
	int (*prepare)(struct vfio_owner *o, const uint8_t *config, unsigned size, bool again,
		struct err *err);
	/* Queue (VFIO_CALL_QUEUE) what brings the device into the state the guest knows it in. */
	void (*restore)(struct vfio_owner *o);
	/* A queued SET_IRQS was refused. Return true to go on without it, false to give the attach
	 * up. */
	bool (*irqs_refused)(struct vfio_owner *o, uint32_t index, uint32_t flags);
	/*
	 * Everything queued was answered. If the guest changed anything since restore(), return
	 * false, and restore() comes again. Else call the transport's open(), under the lock that
	 * such changes are made under, so that none falls between, and return true.
	 */
	bool (*ready)(struct vfio_owner *o, bool again);
	/* The device is gone. Calls fail already; mappings and descriptors of info become invalid
	 * after this. */
	void (*lost)(struct vfio_owner *o);
	/* The first attach was given up; why is in err. The transport is idle and waits to be
	 * freed. */
	void (*failed)(struct vfio_owner *o, int rc, const struct err *err);
	/*
	 * Why lost() follows: the device reported an error that it can not go on after, or the host
	 * wants it back. May be NULL. Calls fail already.
	 */
	void (*leaving)(struct vfio_owner *o, enum vfio_leave why);
};

struct vfio_owner {
	const struct vfio_owner_ops *ops;
};

#endif
