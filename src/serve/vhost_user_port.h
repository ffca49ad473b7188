/*
 * vhost_user_port.h - what the parts of the vhost-user port share; for serve/ alone
 *
 * vhost_user.c owns the connection and the order of things, vhost_user_command.c answers the
 * requests, vhost_user_queue.c takes queues from their set-up to the model and back,
 * vhost_user_mem.c knows the memory, vhost_user_inflight.c the area that outlives a process,
 * vhost_user_channel.c tells the front-end what it did not ask for, vhost_user_state.c moves the
 * model's state.
 */
#ifndef SERVE_VHOST_USER_PORT_H
#define SERVE_VHOST_USER_PORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "device/virtio_model.h"
#include "device/virtqueue.h"
#include "serve/listener.h"
#include "serve/vhost_user.h"
#include "serve/vhost_user_iotlb.h"
#include "serve/vhost_user_mem.h"
#include "serve/vhost_user_stream.h"
#include "wire/vhost_user.h"

/* What SET_VRING_KICK can name. */
#define VHU_MAX_QUEUES 256u

enum vhu_queue_state {
	VHU_IDLE,     /* ours */
	VHU_RUNNING,  /* the model's */
	VHU_STOPPING, /* the model's for a moment longer */
};

struct vhu_queue {
	struct vhost_user_port *port;
	unsigned index;
	enum vhu_queue_state state;
	struct vq *vq; /* unless idle */

	/* As the front-end said; its own addresses */
	uint16_t num;
	uint64_t desc, driver, device;
	bool has_addr;
	uint32_t base;
	bool has_base;
	bool enabled; /* by SET_VRING_ENABLE */
	bool kicked;  /* SET_VRING_KICK has come: it may start, with kick_fd or without */
	int kick_fd, call_fd, err_fd;
	bool failed; /* told of it already */
};

/* The area of requests under way. */
struct vhu_inflight {
	struct mem_file *file; /* NULL: there is none */
	uint64_t offset, size;
	uint16_t nr_queues;
};

/* The socket for what the front-end did not ask for. */
struct vhu_channel {
	int fd;
	struct loop_source src;
	struct vhost_user_header message;
	size_t at, len; /* what is left of it */
	bool again;	/* the configuration has changed once more */
};

/* A transfer of the model's state through a pipe. */
struct vhu_state {
	int fd;
	bool loading;
	int result; /* 0: fine so far, or -errno */
	bool ended; /* nothing more will move */
	uint8_t *data;
	size_t len, at, room;
	struct loop_source src;
};

/* All queues that were being stopped rest. */
typedef void (*vhu_after_fn)(struct vhost_user_port *p);
/* What a request does: 0, VHU_LATER, or -errno with a text. */
typedef int (*vhu_then_fn)(struct vhost_user_port *p, struct err *err);

struct vhost_user_port {
	struct loop *loop;
	struct virtio_model *model; /* borrowed */
	struct vhost_user_port_config config;
	void (*freed)(void *arg);
	void *freed_arg;
	bool freeing;

	struct listener listener;
	struct loop_source fault_src;
	struct log_limit complaints;
	struct vhu_source source; /* of memory; the descriptor in it is ours */
	int kinds;		  /* fd_kind_open()'s */

	/* The front-end */
	enum { VHU_NOBODY, VHU_SERVING, VHU_LEAVING } client;
	bool doomed; /* to be dropped as soon as no function works for it; doom.text says why */
	struct err doom;
	struct vhu_stream main;
	struct loop_source main_src;
	struct loop_timer deadline; /* of the rest of a message, or of reading a reply */

	/*
	 * Queues that are being stopped, and what comes when all of them are. Until then no message
	 * is taken in: main_src is not watched.
	 */
	unsigned stopping;
	vhu_after_fn after;
	vhu_then_fn then;

	uint64_t features, protocol_features; /* that it acknowledged */
	bool features_set;
	bool features_told; /* to the model; it forgets them when it is reset */
	uint8_t status;
	struct vhu_mem *mem; /* NULL: none yet */
	/* what queues see of it: mem itself, or through the IOTLB. Counted */
	struct guest_mem *seen;
	struct vhu_iotlb iotlb;
	struct vhu_log log;
	struct vhu_inflight inflight;
	struct vhu_channel channel;
	struct vhu_state state;
	union vhost_user_payload reply;
	size_t reply_len;
	int reply_fd;
	bool forgiven; /* the request failed, but not by a fault of the front-end */

	unsigned nr_queues;
	struct vhu_queue queues[];
};

/* vhost_user.c */

/* Drop the front-end once the work under way is done. The first reason wins. Loop thread. */
void vhu_doom(struct vhost_user_port *p, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/*
 * A line about the front-end's doings: limited, so that it cannot fill the log.
 */
#define vhu_complain(p, fmt, ...)                                                                  \
	log_limited(&(p)->complaints, LOG_WARN, "%s vhost-user: " fmt, (p)->model->name,           \
		##__VA_ARGS__)
/* When all queues that are being stopped rest, do `then` and answer with what it returns.
 * VHU_LATER. */
int vhu_wait_then(struct vhost_user_port *p, vhu_then_fn then);

/* Nobody of the model is inside a queue between these two. */
void vhu_pause(struct vhost_user_port *p);
void vhu_resume(struct vhost_user_port *p);

/* vhost_user_command.c */

/* The request is not done yet: vhu_wait_then() was called. */
#define VHU_LATER 1

uint64_t vhu_features(const struct vhost_user_port *p);
/* The model has not heard yet which ones were acknowledged: it does now. */
void vhu_tell_features(struct vhost_user_port *p);
uint64_t vhu_protocol_features(const struct vhost_user_port *p);
/*
 * Carry out the request in p->main. 0, and p->reply filled if it has a reply of its own; VHU_LATER;
 * or -errno with a text.
 */
int vhu_command(struct vhost_user_port *p, struct err *err);
/* The answer to a request that failed, into p->reply. False: the protocol has no words for it. */
bool vhu_regret(struct vhost_user_port *p, int rc);

/* vhost_user_queue.c */

void vhu_queue_init(struct vhost_user_port *p, unsigned index);
bool vhu_queues_rest(const struct vhost_user_port *p);
/* Start it if all it needs is there. 0, also when something is missing; or -errno with a text. */
int vhu_queue_start(struct vhu_queue *q, struct err *err);
/* The same for all of them; what fails is logged. */
void vhu_queues_start(struct vhost_user_port *p);
/*
 * Begin to stop nr queues from `first` on. True: none is left running. False: p->after will be
 * called when they are.
 */
bool vhu_queues_stop(struct vhost_user_port *p, unsigned first, unsigned nr);
/* Change the descriptor while the queue may be running. Takes fd (or -1). */
void vhu_queue_set_call(struct vhu_queue *q, int fd);
void vhu_queue_set_err(struct vhu_queue *q, int fd);
/* It rests. Takes fd (or -1: the ring is to be watched). */
void vhu_queue_set_kick(struct vhu_queue *q, int fd);
/* Where its parts are said to be. A running queue cannot be moved: -EBUSY with a text. */
int vhu_queue_set_addr(struct vhu_queue *q, const struct vhost_user_vring_addr *a, struct err *err);
/* Let all queues work in this memory from now on. Takes mem. */
void vhu_queues_set_mem(struct vhost_user_port *p, struct vhu_mem *mem);
/* Features have changed: what the queues, which rest, see of the memory there is. 0 or -ENOMEM. */
int vhu_queues_see(struct vhost_user_port *p);
/* It rests. Back to what a new connection has, but for its call and error descriptors. */
void vhu_queue_reset(struct vhu_queue *q);
/* The front-end has gone: those as well. */
void vhu_queue_fini(struct vhu_queue *q);

/* vhost_user_inflight.c */

/* Make an area as *i asks, and fill in the rest. Gives *fd, for the front-end. 0 or -errno, a text.
 */
int vhu_inflight_new(
	struct vhost_user_port *p, struct vhost_user_inflight *i, int *fd, struct err *err);
/* Use this one. Borrows fd. 0 or -errno with a text. */
int vhu_inflight_set(
	struct vhost_user_port *p, const struct vhost_user_inflight *i, int fd, struct err *err);
/* The part of a queue that rests, *size bytes. NULL: there is none that fits it. */
void *vhu_inflight_region(const struct vhu_queue *q, uint64_t *size);
/* Nothing of this queue is under way any more. */
void vhu_inflight_clear(const struct vhu_queue *q);
void vhu_inflight_fini(struct vhost_user_port *p);

/* vhost_user_channel.c */

/* Takes fd. 0 or -errno with a text. */
int vhu_channel_set(struct vhost_user_port *p, int fd, struct err *err);
void vhu_channel_config_changed(struct vhost_user_port *p);
void vhu_channel_fini(struct vhost_user_port *p);

/* vhost_user_state.c */

/* Begin. All queues rest. Takes fd. 0 or -errno with a text. */
int vhu_state_begin(struct vhost_user_port *p, const struct vhost_user_device_state *s, int fd,
	struct err *err);
/* How it ended. 0 or -errno with a text. */
int vhu_state_check(struct vhost_user_port *p, struct err *err);
void vhu_state_fini(struct vhost_user_port *p);

#endif
