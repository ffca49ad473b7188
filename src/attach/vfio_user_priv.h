/*
 * vfio_user_priv.h - what the files of the vfio-user client share
 *
 *   vfio_user.c         the object, its states, hanging up and coming back
 *   vfio_user_io.c      who may touch the socket when; sending, and taking what arrives
 *   vfio_user_call.c    calls that wait for a reply, and writes that do not
 *   vfio_user_attach.c  the steps from a connected socket to a working device
 *   vfio_user_info.c    what the device says it is made of
 *   vfio_user_dma.c     guest RAM for the server: maps, and reads and writes it asks for
 *   vfio_user_chan.c    bytes to messages, over vu_chan.c
 */
#ifndef ATTACH_VFIO_USER_PRIV_H
#define ATTACH_VFIO_USER_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "attach/vfio_user.h"
#include "attach/vfio_user_chan.h"
#include "base/util.h"

enum vu_state {
	VU_IDLE,       /* no connection; the retry timer may run */
	VU_CONNECTING, /* the loop thread attaches, nobody else uses the socket */
	VU_READY,
	VU_BROKEN, /* lost, the loop thread has not cleaned up yet */
};

struct vu_pending;

/*
 * The reply to a request came. vu->lock held, loop thread while CONNECTING, else any. An error
 * reply has VFIO_USER_FLAG_ERROR in m->h.flags and no payload. Non-zero: the
 * server talks nonsense, err says what.
 */
typedef int (*vu_reply_fn)(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err);

/* A request that waits for its reply. */
struct vu_pending {
	uint16_t id, command;
	bool step; /* counted in attach.outstanding */
	vu_reply_fn reply;
	void *ptr; /* the request's own */
	uint32_t arg, arg2;
};

/* One request: payload = head, then data. */
struct vu_request {
	uint16_t command;
	bool no_reply;
	const void *head, *data;
	uint32_t head_len, data_len;
	const int *fds; /* borrowed until sent */
	int nr_fds;
	bool of_maps; /* only for a server that was told of maps; -ENOTCONN else */
	struct vu_pending p; /* id and command are filled in */
};

struct vu_mail;

#define VU_MAX_MULTI   64 /* posted writes kept for one REGION_WRITE_MULTI */
#define VU_MAX_REFUSED 8

/* While spinning does not pay off, every so many requests it is tried again; more while the tries
 * are in vain. */
#define VU_SPIN_EVERY_MIN 32
#define VU_SPIN_EVERY_MAX 1024

/* A SET_IRQS of the restore step that was answered by an error. */
struct vu_refused {
	uint32_t index, flags;
	int error;
};

/* One attach under way. Loop thread. */
struct vu_attach {
	unsigned step;
	unsigned outstanding; /* requests of this step without a reply */
	uint64_t deadline_ns;
	struct vfio_info info; /* being filled */
	unsigned nr_regions, nr_irqs;
	unsigned io_fds_asked; /* bits of regions */
	uint8_t *config;
	unsigned config_size, config_chunk;
	bool config_retry;
	bool maps_left; /* the server was not told of all */
	bool reset_sent; /* that was wanted */
	struct vu_refused refused[VU_MAX_REFUSED];
	unsigned nr_refused;
};

struct vfio_user {
	struct vfio_transport t;
	char *id, *path;
	struct loop *loop;
	struct vfio_owner *owner;
	struct vfio_user_times times;
	pthread_t loop_thread;
	_Atomic int state; /* enum vu_state */

	/* The socket and all that goes over it; see vfio_user_io.c. */
	pthread_mutex_t lock;
	struct vu_chan chan;
	bool chan_waits;	    /* vu_chan_recv_wait() has a time-out */
	struct vfio_user_caps caps; /* what the server said */
	_Atomic uint32_t max_fds;   /* that one SET_IRQS may carry */
	_Atomic bool has_twin;
	uint16_t next_id;
	struct vu_pending *pending;
	unsigned nr_pending, max_pending;
	unsigned max_multi, nr_multi;
	struct vfio_user_multi_write multi[VU_MAX_MULTI];
	uint64_t spin_ns; /* 0: never */
	unsigned spin_worth, spin_skipped, spin_every;

	/* What the loop watches the socket for. */
	pthread_mutex_t watch_lock;
	struct loop_source src;
	uint32_t watch_wanted; /* also under lock */
	_Atomic bool watch_off;
	_Atomic bool bus_master, watch_stale;
	_Atomic bool reset_wanted; /* the machine was reset while the device was away */

	/* Requests of threads that may not wait for lock. */
	pthread_mutex_t mail_lock;
	struct vu_mail *mail, **mail_last;
	_Atomic unsigned nr_mail;

	/* What the device sees of guest RAM. */
	struct dma_space *dma;
	bool own_dma;
	struct dma_listener listener;
	/* Under mail_lock: whether changes are sent, and how many maps the server has. */
	bool maps_sent;
	unsigned nr_maps;
	_Atomic unsigned dma_pending; /* maps and unmaps without an answer, outside of an attach */
	bool dma_done;		      /* there are none; lock */
	_Atomic int dma_error;	      /* what the first map that was refused said */

	/* Loop thread from here on. */
	struct vu_chan twin;
	struct loop_source twin_src;
	struct loop_timer timer;
	struct loop_work park_work;
	bool stopped;
	bool was_ready; /* attached once: what comes now is a reconnect */
	bool skip_io_fds;
	bool attaching;
	struct vu_attach attach;
	int *fds; /* owned descriptors that info's areas and doorbells borrow */
	unsigned nr_fds;
	uint64_t lost_ns, first_deadline_ns;
	uint32_t retry_ms;
	struct err last_reason; /* of the last failed reconnect, so that it is logged once */
};

/* --- vfio_user.c --- */

/* Lost: any thread that holds vu->lock, or the loop thread. The first call of a connection counts.
 */
void vu_break(struct vfio_user *vu, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Close the sockets, forget what was under way. Loop thread, state not READY. */
void vu_hangup(struct vfio_user *vu);
/* Connect after the pause that is due. */
void vu_connect_later(struct vfio_user *vu);
/* Close descriptors that the server sent, and drop the areas and doorbells that point at them. */
void vu_forget_info(struct vfio_user *vu);

/* --- vfio_user_io.c --- */

void vu_lock(struct vfio_user *vu);
void vu_unlock(struct vfio_user *vu);

/* What the loop should watch for has changed. Never waits; any thread. */
void vu_rewatch(struct vfio_user *vu);

/* Watch vu->chan in the loop / stop. Loop thread. */
int vu_watch(struct vfio_user *vu);
void vu_unwatch(struct vfio_user *vu);
/* The same for vu->twin. */
int vu_watch_twin(struct vfio_user *vu);

/*
 * Read and act on what is there, and send what is queued, without waiting; until *until is true
 * (NULL: all). 0; or -errno with a text: the connection is of no use any more. vu->lock held for
 * the main channel, loop thread for the twin.
 */
int vu_pump(struct vfio_user *vu, struct vu_chan *ch, const bool *until, struct err *err);
/*
 * The same for the main channel, but wait for something to read, no longer than times.request_ms.
 */
int vu_pump_wait(struct vfio_user *vu, const bool *until, struct err *err);

/* Forget what waits to be sent. Lock held, no connection. */
void vu_io_drop_mail(struct vfio_user *vu);

/* Send without waiting, at once or when whoever has the lock leaves it. 0, -ENOMEM, -ENOBUFS. Any
 * thread. */
int vu_async(struct vfio_user *vu, const struct vu_request *rq);

/* The errno of an error reply as a negative number, never one that means "lost" to our callers. */
int vu_reply_error(const struct vu_msg *m);

/* The guest's calls reach the device now. Any thread. */
bool vu_is_ready(const struct vfio_user *vu);

/* What a call needs of the socket, vu->lock held. */

/* Number a request, remember it, send it, or with `queue` take it even if the socket is full. *id:
 * its number. */
int vu_send_request(struct vfio_user *vu, const struct vu_request *rq, bool queue, uint16_t *id);
/* The request is not waited for any more. */
void vu_pending_remove(struct vfio_user *vu, uint16_t id);
/* Send what others left, and the gathered posted writes, before anything else. */
void vu_post_mail(struct vfio_user *vu);
int vu_queue_multi(struct vfio_user *vu);
/* vu_pump() for the twin; loop thread. */
int vu_pump_twin(struct vfio_user *vu, struct err *err);
/* What a failed send or receive means, as text. Returns rc, or -ECONNRESET for a hang-up. */
int vu_io_failed(int rc, struct err *err);

/* --- vfio_user_call.c --- */

extern const struct vfio_transport_ops vu_transport_ops;
/* Wait until the server has answered all maps and unmaps, or is lost. */
void vu_await_dma(struct vfio_user *vu);

/* --- vfio_user_attach.c --- */

/* A socket is connected: go. Takes fd. */
void vu_attach_begin(struct vfio_user *vu, int fd, uint64_t deadline_ns);
/* Something happened on the socket. */
void vu_attach_event(struct vfio_user *vu);
/* Give this attempt up; rc and err say why. */
void vu_attach_failed(struct vfio_user *vu, int rc, struct err *err);

/* --- vfio_user_info.c --- */

/* What a reply may bring along; descriptors that are kept go to vu->fds. */
int vu_take_region(struct vfio_user *vu, unsigned index, const struct vu_msg *m, uint32_t *argsz,
	struct err *err);
int vu_take_doorbells(struct vfio_user *vu, unsigned index, const struct vu_msg *m, uint32_t *argsz,
	struct err *err);
int vu_take_irq(struct vfio_user *vu, unsigned index, const struct vu_msg *m, struct err *err);
/* Is the device that came back made like the one before? 0 or -EINVAL with a text. */
int vu_same_shape(const struct vfio_info *was, const struct vfio_info *is, struct err *err);
void vu_info_fini(struct vfio_info *info);
/* Keep a descriptor until the connection ends. Takes fd, also on failure (-1). */
int vu_keep_fd(struct vfio_user *vu, int fd);

/* --- vfio_user_dma.c --- */

/* Serve a DMA_READ or DMA_WRITE, and refuse other commands. As vu_pump(). */
int vu_serve(struct vfio_user *vu, struct vu_chan *ch, const struct vu_msg *m, struct err *err);
/*
 * Queue DMA_MAPs for what the device sees of RAM, as part of an attach: the first of them, and, as
 * often as attach.maps_left says, more when these are answered. 0 or -errno with a text.
 */
int vu_dma_map_first(struct vfio_user *vu, struct err *err);
int vu_dma_map_more(struct vfio_user *vu, struct err *err);
void vu_dma_forget(struct vfio_user *vu);
/* 0 or -ENOMEM. Topology lock held. */
int vu_dma_listen(struct vfio_user *vu, const struct vfio_user_params *p);
void vu_dma_unlisten(struct vfio_user *vu);

#endif
