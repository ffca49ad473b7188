/*
 * acceptor.h - a listening socket on the loop, whose owner takes one connection after the other
 *
 * The owner is called when somebody has come, and takes as many as it likes; who is not taken stays
 * in the backlog, and it is called again. While it takes nobody (one is being served, there is no
 * room), it holds the acceptor. When the host is short of descriptors or memory, nobody is taken
 * for a tenth of a second: the connection stays ready, and the loop must not spin on it.
 *
 * Threads: the loop's.
 */
#ifndef BASE_ACCEPTOR_H
#define BASE_ACCEPTOR_H

#include <stdbool.h>

#include "base/loop.h"

struct acceptor;
typedef void (*acceptor_fn)(struct acceptor *a);

/* Storage of the owner's, zeroed before its first start. */
struct acceptor {
	struct loop *loop; /* non-NULL while started */
	int fd;		   /* borrowed */
	acceptor_fn fn;
	bool held;
	struct loop_source source; /* added while somebody may be taken */
	struct loop_timer again;   /* set while the host is short of something */
};

/*
 * Have fn called when somebody has come. Borrows fd, a listening, non-blocking socket, until
 * acceptor_stop(), which fn may call. 0 or -errno; then it is not started.
 */
int acceptor_start(struct acceptor *a, struct loop *loop, int fd, acceptor_fn fn);
/* No call comes after this. Not started: nothing happens. */
void acceptor_stop(struct acceptor *a);

/*
 * Gives the next connection, non-blocking and close-on-exec. -EAGAIN: there is none, it has gone
 * again, something was short a moment ago, or the acceptor is not started. Any other -errno:
 * something is short now, which is the owner's to log; fn is called when that may have changed.
 */
int acceptor_take(struct acceptor *a);

/* fn is not called until acceptor_go_on(). Either one twice, or not started: nothing happens. */
void acceptor_hold(struct acceptor *a);
void acceptor_go_on(struct acceptor *a);

#endif
