/*
 * vvu_proxy_priv.h - what the files of the VVU proxy share
 *
 *   vvu_proxy.c        life, configuration, what the driver does with the function
 *   vvu_proxy_link.c   the sibling: arrival, leaving, messages in and out
 *   vvu_proxy_front.c  what has to be done for a front-end's message, and what for its answer
 *   vvu_proxy_mem.c    memory, log and inflight area in shared-memory regions; our guest's memory
 *   vvu_proxy_ring.c   messages in the driver's buffers
 *
 * Threads: "vvu", one a proxy, does all that concerns the sibling. The driver's wishes come on
 *          vCPU threads; what they change at once is guarded by p->lock, what needs the sockets is
 *          left to the thread (vvu_wake()). p->lock is taken inside the function's lock and
 *          outside the topology lock.
 */
#ifndef ATTACH_VVU_PROXY_PRIV_H
#define ATTACH_VVU_PROXY_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "attach/vu_chan.h"
#include "attach/vvu_proxy.h"
#include "base/acceptor.h"
#include "base/fd_kind.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "device/virtqueue.h"
#include "wire/vvu.h"

/* Memory of the sibling, as it lies in our shared-memory region. */
struct vvu_region {
	struct vhost_user_mem_region r; /* as the sibling said it */
	uint64_t at;
	struct fd_memory id;
};

/* Parts of a ring, and pieces of a message. One piece more is asked for before it is too many. */
#define VVU_RING_PARTS 3
#define VVU_MAX_PIECES 32
#define VVU_MAX_HOLDS  (VVU_RING_PARTS + VVU_MAX_PIECES + 1)

/*
 * Our guest's memory for one queue. Behind an IOMMU all that the queue has a pointer to is held
 * (dma_export()): its ring while it runs, a message's buffer until it is used.
 */
struct vvu_ram {
	struct guest_mem mem;
	struct memory *memory;
	struct dma_space *dma; /* NULL: not behind an IOMMU */
	struct vvu_proxy *p;
	struct dma_export holds[VVU_MAX_HOLDS];
	unsigned nr_holds, nr_parts; /* the first nr_parts are the ring's, which runs */
	atomic_bool taken;	     /* the guest wants a part back */
};

/* A message of the front-end that the driver has to answer. The next one waits for it. */
struct vvu_pending {
	const struct vhost_user_rule *rule; /* NULL: none */
	uint32_t request;
	bool ack;	 /* by the number of REPLY_ACK */
	bool own;	 /* the proxy asks, not the front-end */
	/* Memory goes when the driver has let go of it, or would not have it. */
	bool removes, adds;
	uint64_t at; /* this */
};

struct vvu_proxy {
	struct virtio_backend b;
	struct virtio_owner *owner;
	char *id, *path;
	unsigned nr_queues; /* vhost queues of the sibling's device, at most */
	uint64_t shmem_size;
	enum vvu_disconnect disconnect;
	int kinds; /* fd_kind_open()'s */

	struct loop *loop; /* the thread's */
	pthread_t thread;
	bool threaded; /* it runs */
	struct loop_work work;

	pthread_mutex_t lock;
	struct log_limit complaints;
	bool stopped; /* for good */

	/* The driver's side. */
	struct vvu_config config; /* host byte order */
	uint64_t features; /* that it accepted */
	bool broken; /* DEVICE_NEEDS_RESET: nothing moves until then */
	struct vvu_ring {
		struct vvu_proxy *p;
		struct vq *vq;
		struct vvu_ram ram;
		bool running;
		int kick_fd; /* -1: not known yet */
		struct loop_source src; /* loop thread */
	} rings[VVU_NR_QUEUES];
	bool owed; /* a buffer without bytes, which says that the sibling has gone */

	/* What lies in shared memory. */
	struct vvu_region regions[VHOST_USER_MAX_MEM_SLOTS];
	unsigned nr_regions;
	uint64_t log_size, inflight_size;

	/* The sibling. */
	bool connected;
	bool leaving; /* not connected any more, but its sockets are still open */
	bool stale;   /* what lies in shared memory is of the one before */
	uint64_t protocol;	   /* features that the front-end accepted */
	uint64_t back_protocol;	   /* features that the driver offers, when it has said so */
	bool back_known;
	struct vvu_pending pending;
	unsigned asked; /* requests of the driver whose answers the sibling owes */

	/* Loop thread. */
	int listener;
	struct acceptor acceptor; /* of its socket; held unless a sibling may come */
	struct vu_chan chan, back; /* its requests; ours */
	struct loop_source chan_src, back_src;
	bool back_open;
};

/* A whole message of the front-end. */
struct vvu_msg {
	struct vhost_user_header h;
	union vhost_user_payload p;
	struct fd_list *fds; /* NULL: none */
	const struct vhost_user_rule *rule;
};

static inline struct vvu_proxy *vvu_of(struct virtio_backend *b)
{
	return container_of(b, struct vvu_proxy, b);
}

static inline bool vvu_speaks(const struct vvu_proxy *p, unsigned feature)
{
	return p->protocol >> feature & 1;
}

/* All of what follows: p->lock held. */

/* --- vvu_proxy.c --- */

/* The driver did what it may not, or its buffers cannot be used: DEVICE_NEEDS_RESET. */
void vvu_break(struct vvu_proxy *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Both queues can be used. */
bool vvu_served(const struct vvu_proxy *p);

/* --- vvu_proxy_link.c --- */

/* Have the thread look at everything. Any thread. */
void vvu_wake(struct vvu_proxy *p);
/*
 * The driver wants no sibling any more, or none of this one. Any thread: its doorbells, kicks
 * and memory are gone at once, the sockets soon.
 */
void vvu_expel(struct vvu_proxy *p);
/* Close what is open. Loop thread, or no thread. */
void vvu_close(struct vvu_proxy *p);
/* The sibling has to go; why is logged. Loop thread. */
void vvu_hang_up(struct vvu_proxy *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Send a reply to the front-end. fd: borrowed, -1: none. Loop thread. */
void vvu_reply(struct vvu_proxy *p, uint32_t request, const void *payload, uint32_t size, int fd);
/* Send the driver's request to the front-end. -ENOTCONN: it has no ear for those. Loop thread. */
int vvu_ask(struct vvu_proxy *p, const struct vhost_user_header *h, const void *payload);
/* From now on the driver's requests go there. Takes fd. 0 or -errno. Loop thread. */
int vvu_open_back(struct vvu_proxy *p, int fd);

/* --- vvu_proxy_front.c; loop thread --- */

/*
 * Act on a request of the front-end, then give it to the driver, refuse it or answer it. False: it
 * has to wait, come again with it when nothing is pending.
 */
bool vvu_front_request(struct vvu_proxy *p, struct vvu_msg *m);
/* A message of the driver. payload: h->size bytes. */
void vvu_driver_message(
	struct vvu_proxy *p, const struct vhost_user_header *h, union vhost_user_payload *payload);

/* --- vvu_proxy_mem.c --- */

/* memory, dma: as in struct vvu_proxy_params. */
void vvu_ram_init(struct vvu_ram *ram, struct vvu_proxy *p, const struct vvu_proxy_params *params);
/* All from this one on is not pointed to any more. */
void vvu_ram_let_go(struct vvu_ram *ram, unsigned first);

/*
 * They change what the driver reads of the message; the descriptors are borrowed. 0 or -errno with
 * a text.
 */
int vvu_set_table(
	struct vvu_proxy *p, struct vhost_user_mem_table *t, const int *fds, struct err *err);
int vvu_add_region(struct vvu_proxy *p, struct vhost_user_mem_region *r, int fd, struct err *err);
/* The region that is to go, which stays until vvu_remove_at(). */
int vvu_find_region(struct vvu_proxy *p, struct vhost_user_mem_region *r, struct err *err);
void vvu_remove_at(struct vvu_proxy *p, uint64_t at);
int vvu_set_log(struct vvu_proxy *p, struct vhost_user_log *log, int fd, struct err *err);
int vvu_set_inflight(struct vvu_proxy *p, struct vhost_user_inflight *i, int fd, struct err *err);
/*
 * A new inflight area for a front-end that asks for one. Gives a descriptor, or -errno with a text.
 */
int vvu_make_inflight(struct vvu_proxy *p, struct vhost_user_inflight *i, struct err *err);
/* Take everything out. */
void vvu_clear_memory(struct vvu_proxy *p);

/* --- vvu_proxy_ring.c --- */

int vvu_ring_start(struct vvu_proxy *p, unsigned i, uint64_t features,
	const struct virtio_queue *q, struct err *err);
void vvu_ring_stop(struct vvu_proxy *p, unsigned i);
/* A ring of which the guest takes memory back runs no more. */
void vvu_ring_look(struct vvu_proxy *p, unsigned i);
/* A buffer for a message to the driver is there. */
bool vvu_rx_ready(struct vvu_proxy *p);
/*
 * Give the driver a message; there is a buffer. h NULL: one of no bytes. False: it was too small.
 */
bool vvu_rx_give(struct vvu_proxy *p, const struct vhost_user_header *h, const void *payload);
/*
 * Take a message of the driver. 1; 0: there is none; -EINVAL: the driver has broken its rules, the
 * device needs a reset.
 */
int vvu_tx_take(
	struct vvu_proxy *p, struct vhost_user_header *h, union vhost_user_payload *payload);
/*
 * Tell the driver what was given and taken, and to kick for what is wanted: a buffer, a message.
 * True: it is there already.
 */
bool vvu_rings_notify(struct vvu_proxy *p, bool rx_wanted, bool tx_wanted);

#endif
