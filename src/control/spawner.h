/*
 * spawner.h - the process that starts device processes
 *
 * The VMM confines itself before the guest runs and can start nothing afterwards. So a
 * small process is forked before: asked over a socket, it starts programs, tells when they end,
 * and ends them all when the VMM is gone, however that came. A program whose number is
 * started again is killed first, and gone, before the new one begins; and as long as one that was
 * stopped still has its time to end, none begins: there are never two at work on the same image,
 * neither of one machine nor of it and the one after it.
 *
 * Threads: loop thread. Nothing here waits but spawner_new() and spawner_free().
 */
#ifndef CONTROL_SPAWNER_H
#define CONTROL_SPAWNER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"

struct spawner;

/* A program that was asked for. Storage of the caller's, zeroed before the first start. */
struct spawned {
	/*
	 * One of its starts, counted from 1, has ended: status as of wait(), exit status 127 when
	 * it could not be started. From the loop.
	 */
	void (*ended)(struct spawned *child, uint32_t start, int status);
	uint32_t id;	 /* the spawner's; 0: never started */
	uint32_t starts; /* so far */
	struct spawned *next;
};

#define SPAWN_MAX_FDS  80 /* a network of 64 pairs of queues, and more */
#define SPAWN_MAX_TEXT 32768 /* bytes of all arguments together */
/* Where a program finds the first of its descriptors; the others follow. */
#define SPAWN_FIRST_FD 3

/*
 * Fork the process. Before threads start; the earlier the smaller it is. Gives *out. 0 or -errno
 * with a text.
 */
int spawner_new(struct loop *loop, struct spawner **out, struct err *err);
/* End all programs and the process. NULL is fine. */
void spawner_free(struct spawner *s);

/*
 * Start argv[0] (a path) with nr_fds descriptors (borrowed) from SPAWN_FIRST_FD on, standard output
 * and error as the VMM's, standard input /dev/null. Asynchronous: what goes wrong
 * comes by `ended`. 0; -E2BIG; -EAGAIN: the process is behind, try later; -EPIPE: it is gone.
 */
int spawner_start(struct spawner *s, struct spawned *child, const char *const *argv,
	const int *fds, unsigned nr_fds);
/* Kill the program, if it runs. `ended` is not called any more, child is the caller's. */
void spawner_stop(struct spawner *s, struct spawned *child);
/* Whether programs that were stopped still end, and hold what they were given. */
bool spawner_ending(const struct spawner *s);
/* Call fn once, from the loop, when none does any more. One at a time; NULL: do not. */
void spawner_when_ended(struct spawner *s, void (*fn)(void *arg), void *arg);

/* Write the path of a program that lies beside this one into buf. 0 or -errno. */
int spawner_sibling(const char *name, char *buf, size_t size);

#endif
