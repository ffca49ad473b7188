/*
 * supervisor.h - device processes that belong to a machine: started, and started again
 *
 * One of our own device programs is a vhost-user back-end like any other, but nobody else
 * starts it: this is the struct vhost_user_source that does. To connect is to make a socket pair
 * and to have a new process take the other end; the one before, if it still lives, is killed first.
 * So a process that died is replaced at once, and the front-end's ordinary way back (inflight area,
 * used index) makes up for what it did not finish.
 *
 * A process that dies more than five times within ten seconds is given up, as is one that ends by
 * itself before its device was ever there: its own message on standard error says why.
 *
 * Threads: loop thread.
 */
#ifndef CONTROL_SUPERVISOR_H
#define CONTROL_SUPERVISOR_H

#include "attach/vhost_user.h"
#include "control/spawner.h"

/* What a process is started with. Copied, descriptors duplicated. */
struct supervised_params {
	const char *id; /* of the device, for log lines */
	/*
	 * outboard-device's arguments from the model's name on, NULL ends. --fd, --name (id) and
	 * what says where its log goes, which is where ours goes, are added.
	 */
	const char *const *args;
	/* They are its descriptors 4, 5, ... each time. */
	const int *fds;
	unsigned nr_fds;
};

/* Descriptor i of struct supervised_params as the process sees it. */
#define SUPERVISED_FD(i) (SPAWN_FIRST_FD + 1 + (i))

/* Borrows spawner until the source is freed. Gives *out. 0 or -errno with a text. */
int supervised_source_new(struct spawner *spawner, const struct supervised_params *p,
	struct vhost_user_source **out, struct err *err);

#endif
