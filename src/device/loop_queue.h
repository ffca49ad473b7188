/*
 * loop_queue.h - a virtqueue served on the event loop's thread
 *
 * For queues with little traffic: random numbers, terminals, control queues. Each turn
 * serves a bounded number of requests, so that no guest keeps the loop from its other sources.
 */
#ifndef DEVICE_LOOP_QUEUE_H
#define DEVICE_LOOP_QUEUE_H

#include <stdbool.h>

#include "base/loop.h"
#include "device/virtqueue.h"

struct loop_queue;

/*
 * Serve requests. True: there are more, call again when others have had their turn. False: call at
 * the next kick, or after loop_queue_wake(). May stop the queue.
 */
typedef bool (*loop_queue_fn)(struct loop_queue *q);

/* Storage of the caller's, zeroed before its first use. */
struct loop_queue {
	struct vq *vq;	  /* NULL: not served */
	const char *name; /* of the device, for log lines; borrowed */
	struct loop *loop;
	loop_queue_fn serve;
	struct loop_source kick;
	struct loop_work turn;
	struct loop_timer look; /* for a ring without kicks */
	bool told_broken;
};

/*
 * Serve vq from now on: serve is called soon, and at each kick. Borrows vq until loop_queue_stop().
 * 0 or -errno: the descriptor for kicks cannot be watched.
 */
int loop_queue_start(struct loop_queue *q, struct loop *loop, struct vq *vq, const char *name,
	loop_queue_fn serve);
/* serve is not called any more. Not served: nothing happens. */
void loop_queue_stop(struct loop_queue *q);
/* Call serve soon, if the queue is served: what it waited for may be there. */
void loop_queue_wake(struct loop_queue *q);

/*
 * vq_pop() that misses nothing: after 0 the driver has been asked for a kick. A broken ring is
 * logged, once.
 */
int loop_queue_pop(struct loop_queue *q, struct vq_req *req, int *bad);

#endif
