/*
 * vvu_priv.h - what the parts of the VVU port share; for vvu*.c
 *
 *   vvu.c       life: the function and its resets, siblings one after the other
 *   vvu_link.c  messages between the function's queues and the vhost-user port
 *   vvu_pci.c   the function's registers
 *   vvu_ring.c  its queues
 */
#ifndef SERVE_VVU_PRIV_H
#define SERVE_VVU_PRIV_H

#include "base/log.h"
#include "base/sock.h"
#include "serve/vhost_user.h"
#include "serve/vvu.h"
#include "serve/vvu_pci.h"
#include "serve/vvu_ring.h"
#include "wire/vhost_user.h"

/* Our vectors: changes of the configuration and messages; buffers that are free again; kicks. */
#define VVU_VECTOR_RX	   0
#define VVU_VECTOR_TX	   1
#define VVU_VECTOR_KICKS   2
#define VVU_FIXED_VECTORS  2

enum vvu_state {
	VVU_RESETTING, /* the function has to be set up anew */
	VVU_ALONE,     /* nobody is there, the next one is welcome */
	VVU_SERVING,   /* a sibling is there, the vhost-user port has the other end */
	VVU_PARTING,   /* its end is closed, its queues are being stopped */
};

/* One of our ends of a socketpair, and the message that comes over it. */
struct vvu_end {
	int fd; /* -1: closed */
	struct loop_source src;
	uint8_t in[VVU_BUFFER];
	size_t have;
};

/* What becomes of an eventfd of the vhost-user port that we watch: a doorbell. */
struct vvu_relay {
	struct vvu_port *port;
	unsigned bell;
	int fd;
	struct loop_source src;
};

struct vvu_port {
	struct loop *loop;
	struct virtio_model *model; /* borrowed */
	struct vvu_port_config config;
	void (*freed)(void *arg);
	void *freed_arg;
	bool freeing;
	struct vhost_user_port *port;
	struct log_limit complaints;

	struct vvu_pci pci;
	void *rings_at; /* VVU_NR_QUEUES times VVU_RING_BYTES */
	uint64_t *pages;
	struct vvu_ring rings[VVU_NR_QUEUES];
	struct vvu_pci_ring places[VVU_NR_QUEUES];

	/*
	 * Eventfds of our vectors, and of kicks: those that have no vector of their own share one.
	 */
	int fixed[VVU_FIXED_VECTORS], request_fd;
	struct loop_source fixed_src[VVU_FIXED_VECTORS], request_src;
	int *kicks;
	unsigned nr_kicks, nr_own; /* vhost queues; those with a vector of their own */
	struct vvu_relay *errs;
	int placeholder; /* where the port wants a descriptor that nobody uses */

	struct loop_work work;
	struct loop_timer again; /* the function did not come back from its reset yet */
	unsigned looks;		 /* how often we looked */
	bool given_up;		 /* nothing is served any more */

	enum vvu_state state;
	bool busy;    /* the vhost-user port has a front-end, or is about to get rid of it */
	bool swept;   /* VVU_ALONE: what is in the rx queue is of the next sibling */
	bool dropped; /* the sibling that is parting is to be hung up on */
	bool up_seen; /* FRONTEND_UP, of this sibling */
	bool discard; /* messages of a sibling that has gone, until the buffer of no bytes */
	struct vvu_end main, channel;
	/* A message for the port that its socket did not take whole. */
	uint8_t out[VVU_BUFFER];
	size_t out_at, out_len;
};

/* vvu.c */

#define vvu_complain(p, fmt, ...)                                                                  \
	log_limited(&(p)->complaints, LOG_WARN, "%s vvu %s: " fmt, (p)->model->name,               \
		(p)->pci.dev.name, ##__VA_ARGS__)

/* The function makes no sense: it is set up anew. */
void vvu_reset(struct vvu_port *p);
/* The first message of a sibling has come. 0 or -errno, logged. */
int vvu_welcome(struct vvu_port *p);
/* The sibling has gone: the vhost-user port sees its front-end leave. */
void vvu_part(struct vvu_port *p);
/* The vhost-user port has hung up on its front-end: so do we on the sibling, when all is done. */
void vvu_hang_up(struct vvu_port *p);
/* Look at everything once more, from the top of the loop. */
void vvu_wake(struct vvu_port *p);

/* vvu_link.c */

/* Move messages either way, as many as go now. */
void vvu_link_run(struct vvu_port *p);
/* Take every message out of the rx queue unread: they are a gone sibling's. */
void vvu_link_drain(struct vvu_port *p);
void vvu_link_close(struct vvu_port *p);
/* A socketpair: *out is the vhost-user port's. Our end is watched. 0 or -errno. */
int vvu_link_open(struct vvu_port *p, struct vvu_end *end, int *out);

#endif
