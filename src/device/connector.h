/*
 * connector.h - a process that connects to sockets for one that may not
 *
 * A device process gives up connecting before it hears of its client: whoever takes it over must
 * not reach every socket of the host. Where a device has to connect all the same, now and then, a
 * second process does it, which was told before where to, sees nothing of the guest's, and hands
 * the descriptor over. It ends when its asker has closed its end.
 *
 * A datagram is a question, or its answer with a descriptor if rc is 0.
 */
#ifndef DEVICE_CONNECTOR_H
#define DEVICE_CONNECTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct connector_ask {
	uint64_t serial; /* the asker's own, comes back; as does */
	uint32_t from;
	uint32_t to; /* of the places it may connect to, where there are several */
};

struct connector_answer {
	struct connector_ask ask;
	int32_t rc; /* 0 or -errno */
	uint32_t reserved;
};

struct connector {
	int fd;	   /* SOCK_SEQPACKET, non-blocking; -1: there is none */
	pid_t pid; /* 0: nobody's to wait for */
};

struct connector_config {
	const char *name; /* of the process, at most 15 bytes */
	int dir_fd; /* its working directory, an O_PATH descriptor will do; -1: it does not matter
		     */
	bool tcp;   /* it may open TCP connections, not only UNIX sockets */
	/* In the process: the connected descriptor, or -errno. It may make socket calls only. */
	int (*dial)(const void *arg, const struct connector_ask *ask);
	const void *arg;
};

/*
 * Fork it. Everything in config is borrowed for the call. Before threads start. Gives *out. 0 or
 * -errno with a text; the process is confined by then.
 */
int connector_start(struct connector *out, const struct connector_config *config, struct err *err);
/* Close our end and wait for the process, which takes but a moment. None: nothing happens. */
void connector_stop(struct connector *c);

/* The asker's side; neither waits. 0; -EAGAIN: too much is under way; -errno. */
int connector_ask(const struct connector *c, const struct connector_ask *ask);
/* 1, and *fd is -1 or given; 0: no answer is there; -EPIPE: the process has ended. */
int connector_answer(const struct connector *c, struct connector_answer *answer, int *fd);

#endif
