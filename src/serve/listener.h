/*
 * listener.h - how a port comes by its clients: one at a time
 *
 * A port is given a socket. A connected one is its only client; at one that listens, whoever comes
 * while another is served is turned away, with a line.
 *
 * Threads: the loop's.
 */
#ifndef SERVE_LISTENER_H
#define SERVE_LISTENER_H

#include <stdbool.h>

#include "base/acceptor.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"

struct listener;

enum listener_state {
	LISTENER_FREE, /* the next one is welcome */
	LISTENER_BUSY, /* is turned away */
	LISTENER_WAIT, /* has to wait in the backlog: listener_go_on() comes later */
};

struct listener_ops {
	/* Asked when somebody has come: a client that has hung up may be noticed here first. */
	enum listener_state (*state)(struct listener *l);
	/* Serve this one. Takes fd, a connected UNIX stream socket. 0 or -errno with a text. */
	int (*adopt)(struct listener *l, int fd, struct err *err);
};

/* Storage of the port's. */
struct listener {
	const struct listener_ops *ops;
	struct loop *loop;
	const char *device, *protocol; /* for log lines; borrowed */
	const char *peer;	       /* what a client is called */
	int fd;			       /* -1: does not listen */
	struct acceptor acceptor;
	struct log_limit refusals, complaints;
};

/*
 * The first five members are set, the rest is zeroed. Takes fd: listens at it, or has it adopted.
 * 0 or -errno with a text. listener_fini() in any case.
 */
int listener_start(struct listener *l, int fd, struct err *err);
void listener_fini(struct listener *l);

/* After LISTENER_WAIT: state() is asked again. Nobody waits, or not listening: nothing happens. */
void listener_go_on(struct listener *l);

#endif
