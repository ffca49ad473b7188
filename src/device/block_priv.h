/*
 * block_priv.h - what the files of the virtio disk share
 *
 *	block.c		the model: features, configuration, threads
 *	block_queue.c	one queue on its thread: taking requests, limits, stopping
 *	block_request.c	one request: what it asks for, whether it may, its answer
 *
 * A request belongs to its queue, and a queue to its thread, from start to stop.
 */
#ifndef DEVICE_BLOCK_PRIV_H
#define DEVICE_BLOCK_PRIV_H

#include <linux/virtio_blk.h>
#include <stdatomic.h>

#include "base/log.h"
#include "device/block.h"

/* Pieces that a request has room for itself, and those of one with more (as many as any is
 * allowed). */
#define BLOCK_FEW_PIECES 6
#define BLOCK_MAX_PIECES 272
/* Data pieces of a request, as the driver is told. Mappings that end inside one may make it more.
 */
#define BLOCK_SEG_MAX  254
#define BLOCK_SIZE_MAX (4 * MIB)

/* Ranges of a discard or a write of zeroes, and the sectors of each */
#define BLOCK_MAX_RANGES	32
#define BLOCK_MAX_RANGE_SECTORS ((uint32_t)(2 * GIB / BLOCK_SECTOR))

struct block_queue;

/* For a request of many pieces: its own, and a copy of the data's without header and status. */
struct block_pieces {
	struct block_pieces *next;
	struct iovec iov[BLOCK_MAX_PIECES], data[BLOCK_MAX_PIECES];
	uint64_t iova[BLOCK_MAX_PIECES];
};

struct block_request {
	struct vq_req req;
	struct block_queue *q;
	struct block_request *next;
	struct block_pieces *many; /* NULL: the few suffice */
	uint8_t *status;
	uint32_t type;
	unsigned range, nr_ranges;
	uint64_t cost; /* bytes that count for the limit */
	bool at_store;
	/*
	 * It has failed for the driver, but the store may still use
	 * its memory, which is held so long.
	 */
	struct guest_mem *late;
	struct block_io io;
	struct iovec iov[BLOCK_FEW_PIECES], data[BLOCK_FEW_PIECES];
	uint64_t iova[BLOCK_FEW_PIECES];
};

struct block_disk;

struct block_queue {
	struct block_disk *disk;
	unsigned index;
	struct iothread *t;
	unsigned thread;
	struct vq *vq; /* NULL: not served */

	struct iothread_poller poller;
	struct iothread_watch kick;
	struct iothread_timer timer; /* the limit's, or a look at a ring without kicks */
	struct iothread_timer deadline; /* of a stop */
	struct block_request *requests, *free;
	unsigned nr_requests, nr_fresh; /* those from nr_fresh on were never used */
	struct block_pieces *free_pieces;
	unsigned open;		    /* requests taken and not answered */
	unsigned late;		    /* those that were answered without the store */
	struct block_request *held; /* taken, waits for the limit */
	bool used;		    /* something was pushed since the last notification, */
	uint64_t untold;	    /* which moved so many bytes */
	bool stopping, watching, told_broken;
	struct log_limit limit;

	virtio_stopped_fn stopped;
	void *stopped_arg;
	struct loop_work stopped_work;
};

struct block_disk {
	struct virtio_model model;
	struct block_config config;
	struct block_store *store;
	struct rate_limit limit;
	/* What requests are checked against; changed by the loop's thread. */
	_Atomic uint64_t sectors;
	atomic_bool write_through;
	_Atomic uint64_t features; /* that the driver accepted */

	struct iothread *threads[BLOCK_MAX_QUEUES];
	bool started[BLOCK_MAX_QUEUES];
	struct block_queue *queues; /* config.nr_queues */
};

/* The queue has taken r, whose pieces are bad if that is not 0. Answers it, now or later. */
void block_request_begin(struct block_request *r, int bad);
/* It may go now, as far as the limit is concerned. */
void block_request_go(struct block_request *r);
/* It fails now, whatever the store may do. */
void block_request_give_up(struct block_request *r);

/* r has been answered: push it. `written`: bytes of its writable part. */
void block_queue_answer(struct block_queue *q, struct block_request *r, uint64_t written);
/* The store is done with one that was given up. */
void block_queue_end_late(struct block_queue *q, struct block_request *r);
/* Whether r may go now; if not it is held, and goes later. */
bool block_queue_may_go(struct block_queue *q, struct block_request *r);

/* On the queue's thread. */
int block_queue_start(struct block_queue *q, struct vq *vq);
void block_queue_stop(struct block_queue *q);
/* Nothing is open. */
void block_queue_fini(struct block_queue *q);

#endif
