/*
 * vhost_user_priv.h - what the files of the vhost-user front-end (vuf) share
 *
 *   vhost_user.c         the object, its states, loss and return
 *   vhost_user_chan.c    who may touch the socket when; sending, taking answers, waiting for them
 *   vhost_user_attach.c  the steps from a connected socket to a device that serves
 *   vhost_user_shape.c   what the device is made of: features, queues, shared memory
 *   vhost_user_calls.c   what the PCI side asks: struct virtio_backend_ops
 *   vhost_user_rings.c   starting and stopping queues
 *   vhost_user_config.c  the device configuration
 *   vhost_user_mem.c     guest RAM for the back-end
 *   vhost_user_iotlb.c   what of it a device behind an IOMMU reaches
 *   vhost_user_back.c    what the back-end asks
 *   vhost_user_source.c  where connections come from
 */
#ifndef ATTACH_VHOST_USER_PRIV_H
#define ATTACH_VHOST_USER_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "attach/vhost_user.h"
#include "attach/vu_chan.h"
#include "base/log.h"
#include "wire/vhost_user.h"

enum vuf_state {
	VUF_IDLE,	/* no connection; the retry timer may run */
	VUF_CONNECTING, /* the loop thread sets the connection up, nobody else uses the socket */
	VUF_READY,
	VUF_BROKEN, /* lost, the loop thread has not cleaned up yet */
};

/* Queue indices travel in 8 bits (SET_VRING_KICK). */
#define VUF_MAX_QUEUES 256

/*
 * The "user address" of guest-physical address 0 in what we send. A region's user address is but a
 * key that ring addresses refer to; ours tells nobody where the VMM has its memory, and is never 0.
 */
#define VUF_USER_BASE (1ull << 44)

struct vuf_pending;

/* A whole reply in the channel's buffer. */
struct vuf_msg {
	struct vhost_user_header h;
	const uint8_t *payload;
	struct fd_list *fds; /* NULL: none; what is not taken out is closed */
};

/*
 * The answer came. The socket's holder. An acknowledgement has been checked to be a u64.
 * Non-zero: the back-end talks nonsense, err says what.
 */
typedef int (*vuf_reply_fn)(struct vhost_user *vu, const struct vuf_pending *p,
	const struct vuf_msg *m, struct err *err);

/* A request that waits for its answer. Answers come in the order of requests. */
struct vuf_pending {
	uint32_t request;
	bool ack; /* by the number of REPLY_ACK */
	vuf_reply_fn reply;
	unsigned index; /* the request's own */
	void *ptr;
};

struct vuf_request {
	uint32_t request;
	const void *payload;
	uint32_t len;
	int fd;		/* that goes with it; 0 and below: none */
	const int *fds; /* or several */
	int nr_fds;
	/* NULL: an acknowledgement that is not 0 is a refusal (vhu->refusal). */
	vuf_reply_fn reply;
	unsigned index;
	void *ptr;
};

/* One queue. */
struct vuf_ring {
	/* What the driver wants; under want_lock. */
	bool on;
	/* Was served since the driver turned it on: who serves it next goes on where it stands. */
	bool ran;
	uint16_t size;
	uint64_t desc, driver, device;
	int kick_fd, call_fd;
	/* What this connection's back-end was told; the socket's holder. */
	bool started;
};

/* Where the first bytes of the configuration go. */
struct vuf_config_answer {
	uint8_t *buf;
	uint32_t len;
	bool good;
};

/* One set-up of a connection under way. Loop thread. */
struct vuf_attach {
	unsigned step;
	uint64_t deadline_ns;
	uint64_t queue_num;
	struct vhost_user_shmem_config shmem;
	uint32_t config_size; /* what was asked for again, to compare */
	struct vuf_config_answer again;
	uint8_t config[VHOST_USER_MAX_CONFIG];
};

struct vhost_user {
	struct virtio_backend b; /* the head; its id is ours */
	char *where;
	bool force, config_is_ours;
	uint16_t *queue_sizes;
	unsigned nr_queue_sizes;
	uint16_t default_queue_size;
	uint8_t *given_config; /* NULL: none */
	uint32_t given_config_size;
	uint64_t features_off, features_ours;
	struct loop *loop;
	struct memory *memory;
	struct dma_space *dma; /* NULL: not behind an IOMMU */
	struct dma_listener dma_listener;
	struct virtio_owner *owner;
	struct vhost_user_times times;
	struct vhost_user_source *source;
	_Atomic int state; /* enum vuf_state */
	_Atomic bool gave_up;

	/* The socket and what was said over it; see vhost_user_chan.c. */
	pthread_mutex_t lock;
	struct vu_chan chan;
	struct vuf_pending *pending;
	unsigned first_pending, nr_pending, max_pending;
	uint64_t offered, protocol; /* by its back-end; protocol: and acknowledged */
	uint64_t max_slots;
	struct err refusal;	/* the first thing that it refused in this batch */
	struct mem_range *sent; /* RAM that it was told of; it changes under mem_lock, too */
	unsigned nr_sent;
	bool reset_since_mem;
	/* this connection's back-end, of all mappings; changes under want_lock, too */
	bool iotlb_told;
	bool iotlb_left; /* not yet of those from iotlb_next on */
	uint64_t iotlb_next;
	int iotlb_error; /* it refused one */
	bool iotlb_anew; /* it holds what may have gone meanwhile */
	unsigned told; /* the last generation of the driver's wishes that it heard of */

	/* What the driver wants. Held for a moment only. */
	pthread_mutex_t want_lock;
	unsigned generation; /* counts changes of what follows */
	bool running;	     /* between DRIVER_OK and reset */
	bool unfit;	     /* what came back cannot serve this run: wait for the driver's reset */
	uint64_t features;
	unsigned run; /* counts starts and stops */
	uint64_t settled_by_ns; /* a connection under way is set up by then, or is none any more */
	bool iotlb_missed; /* a mapping changed while a connection was set up, for too long */
	pthread_cond_t iotlb_settled; /* the set-up is over, or iotlb_told has changed */
	struct vuf_ring *rings;
	int inflight_fd; /* -1: none */
	struct vhost_user_inflight inflight;
	int err_fd;
	uint8_t config[VHOST_USER_MAX_CONFIG]; /* as last read, for when the device is away */
	uint32_t config_known;

	/* Guest RAM, as the listener heard of it. */
	pthread_mutex_t mem_lock;
	struct memory_listener listener;
	struct mem_range *ranges;
	unsigned nr_ranges;
	_Atomic bool mem_stale; /* ranges differ from sent: a note for whoever leaves the socket */

	_Atomic bool has_config;
	atomic_flag config_said; /* logged that it cannot be read */
	struct log_limit refusal_limit, loss_limit, back_limit;

	/* Loop thread from here on. */
	struct loop_source src;
	struct vu_chan back;
	struct loop_source back_src;
	struct loop_work back_work;
	struct loop_source err_src;
	struct loop_timer timer;
	struct loop_work park_work;
	bool stopped, source_waits;
	bool was_ready; /* attached once: what comes now is a reconnect */
	bool waiting_said;
	struct vuf_attach attach;
	uint64_t lost_ns, ready_ns, first_deadline_ns;
	uint32_t retry_ms;
	struct err last_reason;
};

/* --- vhost_user.c --- */

/* Lost: whoever holds vu->lock, or the loop thread. The first call of a connection counts. */
void vuf_break(struct vhost_user *vu, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Close the sockets, forget what was under way. Loop thread, state not READY. */
void vuf_hangup(struct vhost_user *vu);
/* This attempt failed, rc and err say why: tell the owner, or try again. Loop thread. */
void vuf_attempt_failed(struct vhost_user *vu, int rc, struct err *err);
/* The device serves. Loop thread. */
void vuf_attempt_done(struct vhost_user *vu);

/* --- vhost_user_chan.c --- */

extern const struct vu_framing vuf_framing;

static inline bool vuf_is_ready(const struct vhost_user *vu)
{
	return atomic_load(&vu->state) == VUF_READY;
}

static inline bool vuf_speaks(const struct vhost_user *vu, enum vhost_user_protocol_feature bit)
{
	return vu->protocol >> bit & 1;
}

/* Bit 30: enable messages, and protocol features. */
static inline bool vuf_has_protocol(const struct vhost_user *vu)
{
	return vu->offered >> VHOST_USER_F_PROTOCOL_FEATURES & 1;
}

/* Send or queue one request. The socket's holder. 0 or -errno with a text. */
int vuf_send(struct vhost_user *vu, const struct vuf_request *rq, struct err *err);
/* One with a u64, or with a vring state, as payload. */
int vuf_send_u64(struct vhost_user *vu, uint32_t request, uint64_t value, int fd, struct err *err);
int vuf_send_state(struct vhost_user *vu, uint32_t request, unsigned index, uint32_t num,
	vuf_reply_fn reply, struct err *err);
/* The number in a reply's payload. */
uint64_t vuf_u64(const struct vuf_msg *m);

/* Take what is there, send what is queued. 0; or -errno with a text. The socket's holder. */
int vuf_pump(struct vhost_user *vu, struct err *err);
/* Until all is sent and answered. 0, -ENOTCONN, -ETIMEDOUT, or -errno with a text. Lock held. */
int vuf_await(struct vhost_user *vu, uint64_t deadline, struct err *err);

/*
 * A call of a vCPU: begin it, false when the device is away; send and await; end it with
 * what went wrong (0: nothing), which breaks the connection. Returns rc.
 */
bool vuf_call_begin(struct vhost_user *vu);
int vuf_call_end(struct vhost_user *vu, int rc, const struct err *err);
/* Let go of the socket, and see to notes left meanwhile. */
void vuf_unlock(struct vhost_user *vu);

/* Answers that do not come in time. */
uint64_t vuf_deadline(uint32_t ms);

/* --- vhost_user_attach.c --- */

/* A socket is connected: go. Takes fd. */
void vuf_attach_begin(struct vhost_user *vu, int fd, uint64_t deadline_ns);
/* Something happened on the socket. */
void vuf_attach_event(struct vhost_user *vu);

/* --- vhost_user_shape.c --- */

/* Fill vu->b.info by what the back-end said. 0 or -EPROTO, -EINVAL with a text. */
int vuf_take_shape(struct vhost_user *vu, struct err *err);
/* What came back: has it got the queues and regions of the one before? 0 or -EPROTO with a text. */
int vuf_same_shape(struct vhost_user *vu, struct err *err);
/* Device features of the back-end that a driver may accept. */
uint64_t vuf_offer(const struct vhost_user *vu, unsigned nr_queues);

/* --- vhost_user_calls.c --- */

extern const struct virtio_backend_ops vuf_backend_ops;

/* --- vhost_user_rings.c --- */

#define VUF_ALL_QUEUES UINT32_MAX

/* Two batches, after each of which all answers are awaited. index: one queue, or all. */
int vuf_rings_prepare(struct vhost_user *vu, unsigned index, struct err *err);
int vuf_rings_run(struct vhost_user *vu, unsigned index, struct err *err);
/* After them: what the driver put into the rings meanwhile. */
void vuf_rings_kick(struct vhost_user *vu, unsigned index);
/* After a return: what the driver was not told of. */
void vuf_rings_call(struct vhost_user *vu);
/* One batch. */
int vuf_rings_stop(struct vhost_user *vu, unsigned index, struct err *err);
/* Check that the rings lie in RAM. 0 or -EFAULT with a text. */
int vuf_ring_check(const struct vhost_user *vu, uint64_t features, unsigned index,
	const struct virtio_queue *q, struct err *err);
/* Queues are not those of the run before. want_lock held. */
void vuf_rings_forget(struct vhost_user *vu);
/* An eventfd that the back-end signals when a queue makes no sense to it. Loop thread. */
int vuf_watch_errors(struct vhost_user *vu);
void vuf_unwatch_errors(struct vhost_user *vu);
/* Another descriptor: what was signalled on the old one is of the past. */
void vuf_renew_errors(struct vhost_user *vu);

/* --- vhost_user_config.c --- */

void vuf_config_read(struct virtio_backend *b, uint32_t off, void *buf, uint32_t len);
void vuf_config_write(struct virtio_backend *b, uint32_t off, const void *buf, uint32_t len);
/* As part of a reconnect: ask for what is known, and judge the answer. */
int vuf_config_ask_again(struct vhost_user *vu, struct err *err);
/* 0: as it was; 1: changed; -EPROTO with a text: a driver cannot go on with that. */
int vuf_config_compare(struct vhost_user *vu, struct err *err);

/* --- vhost_user_mem.c --- */

/*
 * Tell the back-end what changed. 0; 1 with a text: it cannot take it; -errno with a text. The
 * socket's holder.
 */
int vuf_mem_sync(struct vhost_user *vu, struct err *err);
/* What a start may take longer because the back-end has to be told of RAM. Any thread. */
uint32_t vuf_mem_patience_ms(struct vhost_user *vu);
/* A connection ended. The socket's holder. */
void vuf_mem_forget(struct vhost_user *vu);
void vuf_mem_listen(struct vhost_user *vu);
void vuf_mem_unlisten(struct vhost_user *vu);

/* --- vhost_user_iotlb.c --- */

bool vuf_is_translated(const struct vhost_user *vu);
/*
 * A back-end that was not told of all mappings is to be, by portions. The socket's holder,
 * want_lock held.
 */
void vuf_iotlb_begin(struct vhost_user *vu);
/*
 * The next portion, as long as there is one (vu->iotlb_left): each is to be answered before the
 * next one is sent, for which there is so much more time. 0 or -errno with a text. The socket's
 * holder.
 */
#define VUF_PORTION_MS 25
int vuf_iotlb_portion(struct vhost_user *vu, struct err *err);
/* When the set-up of a connection will be over, well or not. */
void vuf_iotlb_settled_by(struct vhost_user *vu, uint64_t deadline_ns);
/* Mappings have changed since, and it is to be told of all once more. As above. */
bool vuf_iotlb_missed(struct vhost_user *vu);
/* The connection is set up. want_lock held. */
void vuf_iotlb_settled(struct vhost_user *vu);
/* A connection ended: who waits for it waits no longer. The socket's holder. */
void vuf_iotlb_forget(struct vhost_user *vu);
void vuf_iotlb_listen(struct vhost_user *vu);
/* There is no connection, and will be none. */
void vuf_iotlb_unlisten(struct vhost_user *vu);
/* As the device sees it: whether it is RAM, in one piece; and a copy of it, 0 or -EFAULT. */
bool vuf_is_ram(const struct vhost_user *vu, uint64_t addr, uint64_t len);
int vuf_ram_read(const struct vhost_user *vu, uint64_t addr, void *buf, uint64_t len);

/* --- vhost_user_back.c --- */

/* A socket for the back-end's requests: watched here, *peer is for the back-end. 0 or -errno. */
int vuf_back_open(struct vhost_user *vu, int *peer);
void vuf_back_close(struct vhost_user *vu);

#endif
