/*
 * block.h - a virtio disk
 *
 * The model of `outboard-device block`: requests of the guest become operations of a store
 * (block_store.h), on one or more I/O threads (iothread.h), among which the queues are spread.
 *
 * Spec: virtio 1.3, 5.2.
 */
#ifndef DEVICE_BLOCK_H
#define DEVICE_BLOCK_H

#include "device/rate_limit.h"
#include "device/block_store.h"
#include "device/virtio_model.h"

#define BLOCK_MAX_QUEUES     64
#define BLOCK_MAX_QUEUE_SIZE 1024

struct block_config {
	const char *name; /* for log lines and threads, "_disk0"; borrowed */
	uint16_t nr_queues, queue_size;
	uint16_t nr_threads; /* at most nr_queues */
	uint32_t poll_us;
	uint32_t block_size; /* 0: the store's */
	char serial[20];     /* padded with zeros */
	bool write_through;  /* at first; the driver may change it */
	bool no_uring;	     /* tests */
	uint32_t stop_ms;    /* how long a stop waits for the store; 0: 30000 */
	struct rate_limit_config limit;
};

/* Takes store, also on failure. Gives *out. 0 or -errno with a text. */
int block_new(struct virtio_model **out, struct loop *loop, struct block_store *store,
	const struct block_config *config, struct err *err);

#endif
