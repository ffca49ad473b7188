/*
 * virtqueue.h - a queue of requests in guest memory, as a device consumes it
 *
 * Split and packed rings, indirect tables, event index, in-order use, and the
 * inflight area that lets a restarted process know which requests the one before it had
 * taken. The model pops requests, works on them in any order, pushes
 * them back and then tells the driver, once for a batch:
 *
 *	do {
 *		while ((rc = vq_pop(vq, &req, &bad)) > 0)
 *			... vq_push(vq, &req, bytes_written);
 *		vq_notify(vq);
 *	} while (rc == 0 && vq_want_kicks(vq, true));
 *
 * A queue that is never asked for kicks gets none: before a model waits for the kick
 * descriptor it calls vq_want_kicks(vq, true) and looks once more if that says so.
 *
 * Everything in the ring belongs to the guest, who may change it at any time: each
 * word is read once, checked and used from a local; each walk is bounded by the size of the
 * table it walks. A ring that makes no sense is broken: vq_pop() says so once, with a text,
 * and the queue gives nothing more until it is set up anew.
 *
 * Threads: one at a time, the one that the model serves the queue on. vq_setup() and
 * vq_set_mem() while the queue rests.
 *
 * Spec: virtio 1.3, 2.7 (split), 2.8 (packed); vhost-user, "Inflight I/O tracking".
 */
#ifndef DEVICE_VIRTQUEUE_H
#define DEVICE_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "device/guest_mem.h"

struct vq;

/* What the port knows about a queue when it starts. */
struct vq_setup {
	uint16_t size;
	bool packed, event_idx, indirect, in_order; /* features the driver accepted */
	uint64_t desc, driver, device; /* IOVAs: descriptor table, available ring, used ring */
	/*
	 * Where to go on. split: the next available index. packed: bits 0-14 available offset, 15
	 * its wrap counter, 16-30 used offset, 31 its wrap counter (as SET_VRING_BASE). What the
	 * driver has seen counts for more: a split ring goes on from the used index in its memory,
	 * a packed one from the used half; and an inflight area that was in use when its process
	 * died counts for more than either.
	 */
	uint32_t base;
	/*
	 * This queue's region of the inflight area, or NULL; borrowed while it runs. 8-byte
	 * aligned, vhost_user_inflight_region() bytes or more. All zero, or left behind by a queue
	 * that was stopped: as good as new.
	 */
	void *inflight;
	uint64_t inflight_size;
};

/*
 * A request: what the driver gives the device to read, then what it may write. The caller sets iov,
 * iova and max_iov before vq_pop(), which fills in the rest. All of it stays as it is until
 * the request is pushed: a model that wants to shorten its pieces does so on a copy.
 */
struct vq_req {
	struct vq *vq;
	struct guest_mem *mem; /* what iov points into: held until the request is pushed */
	uint16_t max_iov;
	uint16_t nr_out, nr_in;	  /* iov[0 .. nr_out - 1] readable, the next nr_in writable */
	uint16_t id;		  /* head (split) or buffer id (packed) */
	uint64_t out_len, in_len; /* bytes in all */
	struct iovec *iov;	  /* the caller's, max_iov of them: no piece is empty */
	uint64_t
		*iova; /* the caller's, max_iov of them, too: where each piece lies for the guest */

	/* The queue's own */
	struct vq_mem *hold;
	uint32_t seq;	  /* order in which it was taken */
	uint32_t epoch;	  /* the set-up that it belongs to */
	uint16_t nr_desc; /* ring entries it takes (packed) */
	uint16_t entry;	  /* its first one in the inflight area (packed) */
	bool again;	  /* taken by a process before this one */
};

/* max_size: of any set-up to come. Gives *out. 0 or -ENOMEM. */
int vq_new(struct vq **out, unsigned index, uint16_t max_size);
/* No request of it may be open: not pushed, unpopped or forgotten. NULL is fine. */
void vq_free(struct vq *vq);

/*
 * The ring lies there now. mem, one with in-place access, is held until the next vq_setup(),
 * vq_set_mem() or vq_free(). 0; -EINVAL or -EFAULT with a text: size, alignment, or a part that is
 * not mapped in one piece; -ENOMEM. After a failure the queue is broken.
 * Requests that the inflight area says were taken before are popped first, in their order.
 * Requests that are still open are the model's to forget: pushing them comes to the same.
 */
int vq_setup(struct vq *vq, const struct vq_setup *s, struct guest_mem *mem, struct err *err);
/* Guest memory was mapped anew: the same ring in other memory. 0 or as above, the queue is broken
 * then. */
int vq_set_mem(struct vq *vq, struct guest_mem *mem, struct err *err);
/*
 * Stop: the base to go on from, which the front-end is told (GET_VRING_BASE), so that the inflight
 * area becomes as good as new. No request is open. The queue lets go of memory and area and gives
 * nothing until the next vq_setup(). Requests of a process before this one that have not been
 * popped yet stay in the area. Never set up: 0.
 */
uint32_t vq_stop(struct vq *vq);
/*
 * The same, but the front-end has gone and knows nothing: the inflight area keeps saying where the
 * ring stands. (Of a packed ring nothing else does.)
 */
void vq_leave(struct vq *vq);
/*
 * Nothing was ever taken from this ring: its driver has just set it up. After a restart or a
 * reconnect it says false, but for a split ring whose index has come round to 0.
 */
bool vq_is_new(const struct vq *vq);
/* The number of requests popped and not pushed yet. */
unsigned vq_open(const struct vq *vq);

/* Descriptors: borrowed, -1 for none. The port may change call at any time, from its own thread. */
void vq_set_call(struct vq *vq, int call_fd);
/*
 * The driver is in another machine: a call is a write of 1 to this register instead. Borrowed, NULL
 * for none. While the queue rests or its model pauses.
 */
void vq_set_bell(struct vq *vq, volatile uint16_t *bell);
void vq_set_kick(struct vq *vq, int kick_fd);
void vq_set_err(struct vq *vq, int err_fd);
/* What the driver signals when it has made requests available; -1: watch the ring without. */
int vq_kick_fd(const struct vq *vq);

/*
 * Take the next request. 1 and req filled; 0: there is none; -EINVAL, with a text in
 * vq_broken(): the ring makes no sense, now or since long. A request whose pieces are more than
 * max_iov, or not in guest memory, is given with nr_out = nr_in = 0 and -E... in *bad: the
 * model answers it as its type says, or pushes it with 0 bytes (-E2BIG: too many pieces; -EFAULT).
 * Otherwise *bad is 0. bad may be NULL: such a request breaks the queue.
 */
int vq_pop(struct vq *vq, struct vq_req *req, int *bad);
/* Give it back untaken: it is the last one popped (then the one before it, and so on). */
void vq_unpop(struct vq *vq, struct vq_req *req);
/*
 * Done: the first `written` bytes of its writable part are valid, at most in_len. Lets go of its
 * memory. The driver sees it after vq_notify(); with IN_ORDER, not before all that were taken
 * earlier.
 */
void vq_push(struct vq *vq, struct vq_req *req, uint32_t written);
/* Let the request go without an answer: the queue is broken, or was set up anew under it. */
void vq_forget(struct vq *vq, struct vq_req *req);

/* Make what was pushed visible, and signal the driver if it wants to hear of it. */
void vq_notify(struct vq *vq);

/* Whether a request waits. Cheap: for polling. */
bool vq_ready(struct vq *vq);
/*
 * Ask the driver for kicks, or say that none are needed because the ring is watched. After asking,
 * look once more: true from vq_want_kicks(true) means that a request waits already. From
 * vq_setup() on kicks are wanted.
 */
bool vq_want_kicks(struct vq *vq, bool want);

/* NULL, or why the queue gives nothing more. Valid until the next vq_setup(). */
const char *vq_broken(const struct vq *vq);
/* The model found that the driver broke its rules on this queue: nothing more comes from it. text:
 * borrowed literal. */
void vq_break(struct vq *vq, const char *text);
unsigned vq_index(const struct vq *vq);
/* Entries of the ring, as set up last. */
uint16_t vq_size(const struct vq *vq);

/* Byte copies out of and into a request, from `off` in its readable or writable part. The bytes
 * copied. */
size_t vq_req_read(const struct vq_req *req, uint64_t off, void *buf, size_t len);
size_t vq_req_write(const struct vq_req *req, uint64_t off, const void *buf, size_t len);

#endif
