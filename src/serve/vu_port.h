/*
 * vu_port.h - what the parts of the vfio-user port share; for serve/ alone
 *
 * vfio_user.c owns the connection and the order of things, vu_command.c answers the
 * commands, vu_ask.c reaches memory that has no descriptor, vu_migration.c moves state.
 */
#ifndef SERVE_VU_PORT_H
#define SERVE_VU_PORT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "device/pci_model.h"
#include "serve/dma.h"
#include "serve/listener.h"
#include "serve/vfio_user.h"
#include "serve/vu_irq.h"
#include "serve/vu_stream.h"
#include "wire/vfio_user.h"

/* States of DEVICE_FEATURE's MIG_DEVICE_STATE, as in linux/vfio.h. */
enum vu_mig_state {
	VU_MIG_ERROR,
	VU_MIG_STOP,
	VU_MIG_RUNNING,
	VU_MIG_STOP_COPY,
	VU_MIG_RESUMING,
};

struct vu_migration {
	enum vu_mig_state state;
	uint8_t *data; /* in STOP_COPY what is left to read, in RESUMING what has come */
	size_t len, at;
};

/* Does it pay to look at the socket for a while before sleeping? */
struct vu_spin {
	struct loop_idle idle;
	uint64_t last_ns; /* when the last message was done with */
	uint32_t rest;	  /* messages to sleep after, when spinning was in vain */
	uint32_t resting; /* how many of them are left */
	bool possible;
};

struct vfio_user_port {
	struct loop *loop;
	struct pci_model *model; /* borrowed */
	struct pci_port pci_port;
	struct vfio_user_port_config config;

	struct listener listener;
	struct loop_source fault_src;
	struct log_limit complaints;

	struct dma dma;
	struct vu_irqs irqs;

	/* The client, while `connected` */
	bool connected, negotiated;
	bool hung_up; /* what is left in the socket is all there will be */
	bool doomed; /* to be dropped as soon as no function works for it; doom.text says why */
	struct err doom;
	struct vu_stream main, twin; /* twin.rx is NULL without a twin socket */
	struct loop_source main_src;
	struct loop_work doom_work, run_work;
	struct loop_timer deadline; /* of VERSION, or of a client that does not read */
	struct vfio_user_caps peer;
	int reply_fds[SOCK_MAX_FDS];
	int nr_reply_fds;
	int twin_client_fd; /* the client's end, until it has been sent */
	const struct vu_msg *current;
	uint16_t next_id;
	struct vu_migration mig;
	struct vu_spin spin;
};

/* Drop the client once the work under way is done. The first reason wins. Loop thread. */
void vu_doom(struct vfio_user_port *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Work off what is in the receive buffer from the loop, soon. */
void vu_run_soon(struct vfio_user_port *p);

/*
 * Carry out a command of the client and write the payload of its reply to out, which has
 * room for what msg_rules[] allows. Returns its length, or -errno with a text. Descriptors for the
 * reply are put into reply_fds.
 */
ssize_t vu_command(struct vfio_user_port *p, struct vu_msg *msg, uint8_t *out, struct err *err);

/*
 * dma_ask_fn: arg is the port. Waits for the client, with a deadline; a client that misses it is
 * doomed.
 */
int vu_ask(void *arg, bool write, uint64_t iova, void *buf, size_t len);

/* DEVICE_FEATURE and MIG_DATA_*, as vu_command(). */
ssize_t vu_migration_feature(
	struct vfio_user_port *p, const struct vu_msg *msg, uint8_t *out, struct err *err);
ssize_t vu_migration_read(
	struct vfio_user_port *p, const struct vu_msg *msg, uint8_t *out, struct err *err);
ssize_t vu_migration_write(struct vfio_user_port *p, const struct vu_msg *msg, struct err *err);
/* Back to RUNNING: after a reset, and when the client has gone. */
void vu_migration_reset(struct vfio_user_port *p);

#endif
