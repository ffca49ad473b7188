/*
 * worker.h - what takes its time is done beside the loop, one thing after another
 *
 * A thread that is made when there is first something to do. What it is given it does in order;
 * whoever needs all of it done is told by the loop.
 */
#ifndef BASE_WORKER_H
#define BASE_WORKER_H

#include <stdbool.h>

#include "base/loop.h"

struct worker;

/* loop is borrowed; name (copied, up to 15 bytes) is the thread's. Gives *out. 0 or -ENOMEM. */
int worker_new(struct loop *loop, const char *name, struct worker **out);
/* Waits until all is done. Loop thread. NULL is fine. */
void worker_free(struct worker *w);
/*
 * Have fn(arg) called by the thread, after all that was given to it before. 0; or -errno: it will
 * not be called. Any thread; waits for nothing.
 */
int worker_do(struct worker *w, void (*fn)(void *arg), void *arg);
/* Something is not done yet. */
bool worker_busy(struct worker *w);
/*
 * Call fn(arg) once, from the loop, when nothing is left to do. fn NULL: nobody waits any more.
 * Loop thread.
 */
void worker_when_idle(struct worker *w, void (*fn)(void *arg), void *arg);

#endif
