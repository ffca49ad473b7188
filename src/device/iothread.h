/*
 * iothread.h - a thread that serves queues, built on one io_uring
 *
 * Reads and writes of files, readiness of descriptors (kicks, taps) and calls from other threads
 * are completions of one ring, so a busy thread makes one system call per batch and an idle one
 * sleeps in it. After work the thread looks for more, for about as long as a sleep would cost, if
 * another CPU could bring it, and less often when that brings nothing. Within a seventh of the
 * time, and within poll_us for each request, a look may last as long as it takes a driver to wake
 * up and to send its next requests. Where io_uring is forbidden, epoll and helpers with
 * preadv2/pwritev2 stand in; iothread_has_uring() tells.
 *
 * A program makes its threads in two steps. iothread_new() takes what a confined process may not
 * take; iothread_start() starts the thread proper, which inherits what the process has given up by
 * then. A model calls the first when it is made and the second in queue_start().
 *
 * Threads: iothread_new, _start, _call, _pause, _resume and _free from one other thread (the
 * loop's); everything else, and all callbacks, on the thread itself.
 */
#ifndef DEVICE_IOTHREAD_H
#define DEVICE_IOTHREAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/sandbox.h"

/* Longest polling before sleep, for models whose user does not say: what a sleep costs. */
#define IOTHREAD_POLL_US 2

struct iothread;

struct iothread_config {
	const char *name; /* of the thread, at most 15 bytes: "_disk0_q0"; copied */
	unsigned depth;	  /* operations under way at once, at most; 0: none, only watches */
	uint32_t poll_us; /* usual length of a look for work before sleep; 0: none */
	bool may_look;	  /* the driver can run meanwhile: loop_may_spin() */
	bool no_uring;	  /* tests: as if io_uring were forbidden */
};

/* Gives *out, not started. 0 or -errno with a text. */
int iothread_new(struct iothread **out, const struct iothread_config *config, struct err *err);
/* Started already: nothing happens. 0 or -errno. */
int iothread_start(struct iothread *t);
/*
 * No poller, timer or operation may be left, nor a watch but those that are on their way out: they
 * are gone when this returns. Ends and joins it. NULL is fine.
 */
void iothread_free(struct iothread *t);
/* False: this thread does without, see above. Any thread. */
bool iothread_has_uring(const struct iothread *t);

/* System calls of a confined process that starts and uses such threads: rows for a model's list. */
/* clang-format off */
#define IOTHREAD_CALLS                                                                             \
	{ SYS_clone3, "an I/O thread starts" },                                                    \
	{ SYS_clone, "likewise, where clone3 is not known" },                                      \
	{ SYS_set_robust_list, "likewise" },                                                       \
	{ SYS_rseq, "likewise" },                                                                  \
	{ SYS_prctl, "it names itself" },                                                          \
	{ SYS_io_uring_enter, "its ring, whose restrictions say what can be done with it" },       \
	{ SYS_io_uring_register, "it enables the ring" },                                          \
	{ SYS_preadv2, "reads without io_uring" },                                                 \
	{ SYS_pwritev2, "likewise, writes" },                                                      \
	{ SYS_fdatasync, "likewise, flushes" },                                                    \
	{ SYS_fallocate, "likewise, discards" }
/* clang-format on */

/*
 * Run fn on the thread and come back when it has run: the thread never waits, so this takes a
 * moment. Not from the thread itself; the thread is started and not paused.
 */
void iothread_call(struct iothread *t, void (*fn)(void *arg), void *arg);

/*
 * The thread stands still between pause and resume, outside all callbacks. What the kernel
 * has under way goes on; its completions are seen afterwards. Not started: nothing happens.
 */
void iothread_pause(struct iothread *t);
void iothread_resume(struct iothread *t);

/* One file operation. Storage of the caller's until done is called. */
struct iothread_op {
	void (*done)(struct iothread_op *op,
		int result); /* bytes (may be fewer than asked), or -errno */
	/* The rest is the thread's. */
	struct iothread *t;
	struct iothread_op *next;
	int kind, fd, flags;
	unsigned nr_iov;
	const struct iovec *iov;
	uint64_t off, len;
	int result;
};

/*
 * The caller has set op->done. iov is borrowed until then. With at most `depth` operations open
 * these cannot fail: errors come by done, which is never called from within.
 */
void iothread_readv(struct iothread *t, struct iothread_op *op, int fd, const struct iovec *iov,
	unsigned nr_iov, uint64_t off);
/* dsync: the bytes are on stable storage when done is called. */
void iothread_writev(struct iothread *t, struct iothread_op *op, int fd, const struct iovec *iov,
	unsigned nr_iov, uint64_t off, bool dsync);
void iothread_fdatasync(struct iothread *t, struct iothread_op *op, int fd);
/* mode: FALLOC_FL_... */
void iothread_fallocate(
	struct iothread *t, struct iothread_op *op, int fd, int mode, uint64_t off, uint64_t len);

/*
 * Be told when fd becomes ready for any of `events` (EPOLLIN, EPOLLOUT). Storage of the caller's,
 * zeroed before first use. Edge-triggered: ready is called once if it is ready now, and once at
 * least each time something new arrives. Nothing is read from fd: the counter of an eventfd may
 * just be left alone, of anything else the callee takes all there is, or remembers that there is
 * more.
 */
struct iothread_watch {
	void (*ready)(struct iothread_watch *w,
		uint32_t events); /* EPOLLERR, EPOLLHUP may be among them */
	void (*gone)(struct iothread_watch *w);
	struct iothread *t; /* non-NULL while watched */
	struct iothread_watch *next;
	int fd;
	uint32_t events;
	unsigned state; /* the thread's */
};

/* At one time, for one thread. */
#define IOTHREAD_MAX_WATCHES 64

/* Borrows fd until gone. 0, -ENOSPC, or -errno of who refuses to watch such a descriptor. */
int iothread_watch(struct iothread *t, struct iothread_watch *w, int fd, uint32_t events,
	void (*ready)(struct iothread_watch *w, uint32_t events));
/*
 * No ready comes after this call. `gone` (may be NULL) is called when w and its fd are the caller's
 * again, perhaps before this returns.
 */
void iothread_unwatch(struct iothread_watch *w, void (*gone)(struct iothread_watch *w));

/*
 * Look for work without being told. poll is called after each batch of completions, so that it is
 * also the place to tell a driver of everything that the batch finished; and again and again while
 * the thread polls. It takes a bounded amount of work at a time.
 */
struct iothread_poller {
	/* How many requests there were to do something for; 0: none, and nothing was done. */
	unsigned (*poll)(struct iothread_poller *p);
	/*
	 * asleep: ask the driver for kicks, true if work came in between; else kicks are not needed
	 * until the next sleep, the result does not matter. May be NULL.
	 */
	bool (*sleep)(struct iothread_poller *p, bool asleep);
	struct iothread_poller *next;
};

/* Not from within poll or sleep. */
void iothread_poller_add(struct iothread *t, struct iothread_poller *p);
void iothread_poller_del(struct iothread *t, struct iothread_poller *p);

/* Call fn at an absolute clock_now_ns() time, once. Re-arming replaces. Zeroed before first use. */
struct iothread_timer {
	void (*fn)(struct iothread_timer *timer);
	uint64_t at_ns;
	struct iothread_timer *next;
	struct iothread *t; /* non-NULL while armed */
};
void iothread_timer_set(struct iothread *t, struct iothread_timer *timer, uint64_t at_ns);
/* Not armed: nothing happens. */
void iothread_timer_del(struct iothread_timer *timer);

#endif
