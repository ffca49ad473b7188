/*
 * iothread_priv.h - what the loop of an iothread and its two engines share
 *
 * An engine brings operations and watches to the kernel and their completions back: by io_uring,
 * or by epoll and helper threads. All of its functions but init and fini run on the thread.
 */
#ifndef DEVICE_IOTHREAD_PRIV_H
#define DEVICE_IOTHREAD_PRIV_H

#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "device/iothread.h"

enum iothread_kind {
	IOTHREAD_READ,
	IOTHREAD_WRITE,
	IOTHREAD_FDATASYNC,
	IOTHREAD_FALLOCATE,
};

enum iothread_watch_state {
	WATCH_NONE,
	WATCH_ARMED,
	WATCH_BROKEN,	  /* the kernel gave it up: EPOLLERR was told */
	WATCH_CANCELLING, /* gone follows */
};

struct iothread_engine {
	int (*init)(struct iothread *t, struct err *err);
	/* Also after an init that failed, and if begin never ran. */
	void (*fini)(struct iothread *t);
	/* First on the thread. 0 or -errno. */
	int (*begin)(struct iothread *t);
	void (*submit)(struct iothread *t, struct iothread_op *op);
	int (*watch)(struct iothread *t, struct iothread_watch *w);
	void (*unwatch)(struct iothread *t, struct iothread_watch *w);
	/* Pass on what was submitted and call back for what is complete. True: there was some. */
	bool (*reap)(struct iothread *t);
	/* Pass on what was submitted, sleep until something is complete, or timeout_ns has passed.
	 */
	void (*wait)(struct iothread *t, uint64_t timeout_ns);
};

extern const struct iothread_engine iothread_uring, iothread_pool;

#define IOTHREAD_FOREVER UINT64_MAX

/* Helpers for a thread without io_uring. */
#define IOTHREAD_HELPERS 4

struct iothread_helpers {
	int epoll_fd, done_fd;
	pthread_t threads[IOTHREAD_HELPERS];
	unsigned nr_threads;
	unsigned reaps; /* since the kernel was last asked for events */
	pthread_mutex_t lock;
	pthread_cond_t more;
	bool ending;
	struct iothread_op *todo, **todo_end;
	struct iothread_op *finished, **finished_end;
	atomic_bool any_finished;
};

struct iothread_call_req;

struct iothread {
	const struct iothread_engine *engine;
	char name[16];
	unsigned depth;
	pthread_t thread;
	bool started, ending;

	/* Calls from outside */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int wake_fd;
	struct iothread_watch wake;
	atomic_bool called; /* there is a call, or a pause is wanted */
	struct iothread_call_req *calls, **calls_end;
	bool pause_wanted, standing;
	int begun; /* 1: not yet; else what begin returned */

	/* The thread's own */
	struct iothread_poller *pollers;
	struct iothread_timer *timers; /* the next one first */
	struct iothread_watch *watches;
	unsigned nr_watches;
	uint64_t spin_max_ns;	     /* longest look for work; 0: none */
	uint64_t idle_since_ns;	     /* looking since then; 0: not */
	uint64_t look_ns;	     /* how long this look may take */
	uint64_t long_ns, long_at_ns; /* what long looks may cost now; when that was right */
	uint64_t served;	      /* requests since then */
	unsigned sleeps_before_look; /* after looks that found nothing */
	unsigned penalty;	     /* what it was set to last */

	struct io_uring ring;
	bool ring_open;
	struct iothread_helpers helpers;
};

/* A look that lasts as long as a driver needs to wake up and to send more. */
#define IOTHREAD_LONG_LOOK_NS (60 * NS_PER_US)

/*
 * Whether it may be one now, for what was served and for the time
 * that went by since the last question.
 */
bool iothread_may_look_long(struct iothread *t, uint64_t now_ns);

/* For engines: w is the caller's again. */
void iothread_watch_gone(struct iothread *t, struct iothread_watch *w);

#endif
