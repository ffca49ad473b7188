/*
 * virtio_model.h - what a virtio device is, and how a port serves it
 *
 * A model of a virtio type is a struct virtio_model: features, configuration, and queues that it
 * serves on threads of its own. A port (vhost-user today) finds out nothing else about it. The
 * port sets queues up and hands them over; from queue_start() until the stop is done the
 * queue is the model's.
 *
 * A model outlives its clients: a client that goes has its queues stopped, and the next one sets
 * them up again.
 *
 * Threads: the port calls all ops on its loop's thread, one at a time; none may wait
 * for a host file or a peer. virtio_model_config_changed() is the loop thread's too.
 */
#ifndef DEVICE_VIRTIO_MODEL_H
#define DEVICE_VIRTIO_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "device/virtqueue.h"
#include "wire/virtio.h"

/* What virtqueue.h does with a ring, for models whose requests bear all of it. */
#define VIRTIO_MODEL_RING_FEATURES                                                                 \
	(VIRTIO_BIT(VIRTIO_BIT_INDIRECT) | VIRTIO_BIT(VIRTIO_BIT_EVENT_IDX) |                      \
		VIRTIO_BIT(VIRTIO_BIT_RING_PACKED) | VIRTIO_BIT(VIRTIO_BIT_IN_ORDER))

struct virtio_model;

/* The stop of a queue is complete: no request is open, nobody touches it. From the loop. */
typedef void (*virtio_stopped_fn)(void *arg, unsigned queue);

struct virtio_model_ops {
	/*
	 * The driver accepted these of m->features. Before any queue
	 * starts; queues rest. May be NULL.
	 */
	void (*set_features)(struct virtio_model *m, uint64_t features);
	/*
	 * The driver wrote [off, off + len) of the configuration (inside config_size); m->config
	 * still holds the old bytes, and the op changes what may be changed. NULL: writes are
	 * dropped.
	 */
	void (*config_write)(struct virtio_model *m, size_t off, const void *buf, size_t len);
	/*
	 * The driver is about to read the configuration: bring m->config up to date (a file that
	 * grew). May be NULL.
	 */
	void (*config_read)(struct virtio_model *m);
	/*
	 * Serve this queue from now on: it is set up, has its kick and call descriptors, and may
	 * hold requests already. 0 or -errno, logged by the model.
	 */
	int (*queue_start)(struct virtio_model *m, unsigned queue, struct vq *vq);
	/*
	 * Take no more requests, finish those that are open, let go of the queue, call stopped.
	 * Calling it from within is fine.
	 */
	void (*queue_stop)(struct virtio_model *m, unsigned queue, virtio_stopped_fn stopped,
		void *arg);
	/*
	 * The port changes something under running queues (memory, call descriptors): when pause
	 * returns, no thread of the model is inside a vq function until resume; requests that are
	 * open go on. Both return within a moment. NULL when the queues are served on the loop
	 * thread.
	 */
	void (*pause)(struct virtio_model *m);
	void (*resume)(struct virtio_model *m);
	/* Back to what power-on gives; all queues are stopped. May be NULL. */
	void (*reset)(struct virtio_model *m);
	/*
	 * The state beyond configuration and queues, in the model's one versioned form. As in
	 * pci_model_ops. Both NULL: there is none.
	 */
	ssize_t (*save)(struct virtio_model *m, void *buf, size_t size);
	int (*load)(struct virtio_model *m, const void *buf, size_t len, struct err *err);
	/* All queues are stopped. */
	void (*free)(struct virtio_model *m);
};

#define VIRTIO_MODEL_MAX_CONFIG 256

struct virtio_model {
	const struct virtio_model_ops *ops;
	const char *name;  /* for log lines; borrowed for the model's life */
	uint32_t type;	   /* virtio id */
	/* the type's own and ring features; the port adds VERSION_1 and its own */
	uint64_t features;
	uint16_t nr_queues;
	/* what it is made for; a front-end may make them smaller or larger */
	uint16_t max_queue_size;
	uint16_t config_size;
	uint8_t config[VIRTIO_MODEL_MAX_CONFIG];
	struct loop *loop; /* the process's; borrowed */

	/* the port's; NULL: nobody serves it */
	void (*on_config)(struct virtio_model *m, void *arg);
	void *on_config_arg;
};

/* m->config has changed by itself: the driver is told. Loop thread. */
static inline void virtio_model_config_changed(struct virtio_model *m)
{
	if (m->on_config)
		m->on_config(m, m->on_config_arg);
}

/* NULL is fine. */
static inline void virtio_model_free(struct virtio_model *m)
{
	if (m)
		m->ops->free(m);
}

#endif
