/*
 * virtio_backend.h - what the PCI side of a virtio device asks of whoever serves it, and hears from
 * it
 *
 * One PCI side (virtio_pci), several who can serve it: a vhost-user back-end on a socket
 * (vhost_user), or the VMM itself as the other end of a device in another guest. The back-end
 * says what the device is (struct virtio_info); the PCI side tells it what the driver chose
 * and where the rings lie. Doorbells and interrupts are descriptors and pass by both of them.
 *
 * Life, as the owner sees it, all on the loop thread:
 *
 *	attached() -> [lost() -> back()] ...		or once  failed()
 *
 * The PCI side does not mind whether the device is there: what it tells a lost back-end
 * is kept by that and told to the device once it is back. So a driver sees a pause, not an error.
 *
 * Threads: the calls of struct virtio_backend_ops come from a vCPU thread (or, at a machine reset,
 *          from the thread that carries it out), under the function's lock, and may wait for
 *          the device, with a deadline. After a loss they return at once.
 */
#ifndef ATTACH_VIRTIO_BACKEND_H
#define ATTACH_VIRTIO_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/virtio.h"

#define VIRTIO_MAX_SHM	    3	/* shared-memory regions: more capabilities find no room */
#define VIRTIO_CONFIG_ROOM  4096 /* bytes of device configuration that the guest may reach */

/* What the device is. Set once by attached(); stays as it is from then on. */
struct virtio_info {
	uint32_t type;
	uint64_t features; /* offered to the driver; VERSION_1 is among them */
	uint16_t nr_queues;
	uint16_t queue_sizes[VIRTIO_MAX_QUEUES]; /* largest */
	struct {
		uint8_t id;
		uint64_t size; /* 0: there is none */
	} shm[VIRTIO_MAX_SHM];
};

/* One queue as the driver set it up. */
struct virtio_queue {
	uint16_t size;
	bool enabled;
	uint64_t desc, driver, device; /* guest-physical */
	int kick_fd; /* what a doorbell signals: one for the function's whole life; borrowed */
	int call_fd; /* what the device signals, -1: nothing; borrowed, see queue_call() */
};

struct virtio_backend;

struct virtio_backend_ops {
	/* [off, off + len) of the device configuration. What cannot be read is all-ones. */
	void (*config_read)(struct virtio_backend *b, uint32_t off, void *buf, uint32_t len);
	void (*config_write)(struct virtio_backend *b, uint32_t off, const void *buf, uint32_t len);
	/*
	 * The driver is ready (DRIVER_OK): it accepted `features`, the enabled ones among queues[0
	 * .. nr_queues - 1] are to be served. queues stays the caller's, changes under the
	 * function's lock only, and is read by the back-end during these calls alone. 0, also when
	 * the device is not there at the moment; or -errno: it refused, the driver is told
	 * DEVICE_NEEDS_RESET, nothing is served, and no stop() follows.
	 */
	int (*start)(
		struct virtio_backend *b, uint64_t features, const struct virtio_queue *queues);
	/*
	 * The driver resets the device. Queues are drained, nothing
	 * touches guest memory afterwards.
	 */
	void (*stop)(struct virtio_backend *b);
	/* A queue is enabled or reset (RING_RESET) while others run. 0 or -errno. */
	int (*queue_start)(struct virtio_backend *b, unsigned index, const struct virtio_queue *q);
	int (*queue_stop)(struct virtio_backend *b, unsigned index);
	/* The queue signals another descriptor, or none (-1), from now on. */
	void (*queue_call)(struct virtio_backend *b, unsigned index, int call_fd);
	/*
	 * The device status register as the driver wrote it, for
	 * back-ends that want to know. May be NULL.
	 */
	void (*status)(struct virtio_backend *b, uint8_t status);
};

struct virtio_backend {
	const struct virtio_backend_ops *ops;
	const char *id; /* the device's name in log lines; borrowed */
	struct virtio_info info;
};

struct virtio_owner;

/* Loop thread, or where it says so any thread; none may wait. */
struct virtio_owner_ops {
	/*
	 * backend->info is filled: build the function. 0: it can be plugged. Or -errno with a text:
	 * the back-end gives the attach up and says failed() with the same.
	 */
	int (*attached)(struct virtio_owner *o, struct err *err);
	/*
	 * The first attach was given up; why is in err. The back-end is idle and waits to be freed.
	 */
	void (*failed)(struct virtio_owner *o, int rc, const struct err *err);
	void (*lost)(struct virtio_owner *o);
	/*
	 * The device is back and has been told everything. The back-end has signalled each queue's
	 * kick and call descriptor once, as a signal may have been lost with the old process.
	 */
	void (*back)(struct virtio_owner *o);
	/* The device changed its configuration: generation and interrupt. Any thread. */
	void (*config_changed)(struct virtio_owner *o);
	/*
	 * The device cannot go on as it is: DEVICE_NEEDS_RESET. Nothing happens while no driver
	 * runs: what can never be had again refuses the next start(). Any thread.
	 */
	void (*needs_reset)(struct virtio_owner *o);
	/*
	 * Lay [fd_off, fd_off + len) of fd into a shared-memory region at off, or take what lies
	 * there out (fd -1). Everything a multiple of 4096. Takes fd. 0; -EEXIST overlaps;
	 * -EINVAL outside the region; -ENOENT no such mapping; or what the kernel said. Any thread.
	 */
	int (*shm_map)(struct virtio_owner *o, uint8_t shmid, uint64_t off, uint64_t len, int fd,
		uint64_t fd_off, bool writable);
	/* Take everything out of all regions. Any thread. */
	void (*shm_clear)(struct virtio_owner *o);
	/*
	 * For a function that has them (virtio_pci.h, struct virtio_pci_layout). The driver's
	 * writes to doorbell `index` signal this eventfd, or nothing any more (-1). A signal to
	 * this eventfd interrupts the driver by the vector it chose for notification `index`. Both
	 * take fd. 0; -EINVAL no such index; or what the kernel said: there is none then. Any
	 * thread, one at a time.
	 */
	int (*bell)(struct virtio_owner *o, unsigned index, int fd);
	int (*notification)(struct virtio_owner *o, unsigned index, int fd);
};

struct virtio_owner {
	const struct virtio_owner_ops *ops;
};

#endif
