/*
 * iothread.h - a thread that serves queues, built on one io_uring
 *
 * Reads and writes of files, readiness of descriptors (kicks, taps) and calls from other threads
 * are completions of one ring, so a busy thread makes one system call per batch and an idle one
 * sleeps in it. After work the thread polls for a few tens of microseconds, if another CPU
 * could bring more, and less so when polling brings nothing. Where io_uring is forbidden, helpers
 * with preadv2/pwritev2 stand in, said once in the log.
 *
 * Threads: iothread_call() and iothread_free() from outside; everything else, and all
 * callbacks, on the thread itself.
 */
#ifndef DEVICE_IOTHREAD_H
#define DEVICE_IOTHREAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"

struct iothread;

struct iothread_config {
	const char *name;  /* of the thread, at most 15 bytes: "_disk0_q0" */
	unsigned depth;	   /* operations under way at once, at most */
	uint32_t poll_us;  /* longest polling before sleep; 0: never */
	bool no_uring;	   /* tests: as if io_uring were forbidden */
};

/* Starts it. Gives *out. 0 or -errno with a text. */
int iothread_new(struct iothread **out, const struct iothread_config *config, struct err *err);
/* No watch and no operation may be left. Ends and joins it. NULL is fine. */
void iothread_free(struct iothread *t);

/*
 * Run fn on the thread and come back when it has run: the thread never waits, so this takes a moment.
 * Not from the thread itself.
 */
void iothread_call(struct iothread *t, void (*fn)(void *arg), void *arg);

/* One file operation. Storage of the caller's until done is called. */
struct iothread_op {
	void (*done)(struct iothread_op *op, int result); /* bytes (may be fewer than asked), or -errno */
	struct iothread *t;
	struct iothread_op *next;
	int kind; /* the rest is the thread's */
	int fd;
	const struct iovec *iov;
	unsigned nr_iov;
	uint64_t off, len;
	int mode;
};

/* iov is borrowed until done. With room for `depth` operations these cannot fail: errors come by done. */
void iothread_readv(struct iothread *t, struct iothread_op *op, int fd, const struct iovec *iov,
	unsigned nr_iov, uint64_t off);
void iothread_writev(struct iothread *t, struct iothread_op *op, int fd, const struct iovec *iov,
	unsigned nr_iov, uint64_t off, bool dsync);
void iothread_fdatasync(struct iothread *t, struct iothread_op *op, int fd);
/* mode: FALLOC_FL_... */
void iothread_fallocate(struct iothread *t, struct iothread_op *op, int fd, int mode, uint64_t off,
	uint64_t len);

/* Be told when fd becomes readable. Storage of the caller's, zeroed before first use. */
struct iothread_watch {
	void (*ready)(struct iothread_watch *w);
	struct iothread *t; /* non-NULL while watched */
	int fd;
	uint64_t value; /* an eventfd's counter is read into this */
	bool eventfd;
	unsigned state; /* the thread's */
};

/* An eventfd is read (cleared) before `ready`; anything else is left to the callee. 0 or -errno. */
int iothread_watch(struct iothread *t, struct iothread_watch *w, int fd, bool eventfd,
	void (*ready)(struct iothread_watch *w));
/* `gone` is called when w is the caller's again; no ready comes after this call. */
void iothread_unwatch(struct iothread *t, struct iothread_watch *w,
	void (*gone)(struct iothread_watch *w));

/* Look for work without being told: return true if there was any. Called between batches and while polling. */
struct iothread_poller {
	bool (*poll)(struct iothread_poller *p);
	/* Polling ends or begins: ask the driver for kicks, or not. True: work came in between. May be NULL. */
	bool (*sleep)(struct iothread_poller *p, bool asleep);
	struct iothread_poller *next;
};

void iothread_poller_add(struct iothread *t, struct iothread_poller *p);
void iothread_poller_del(struct iothread *t, struct iothread_poller *p);

/* Call fn at an absolute clock_now_ns() time, once. Re-arming replaces. */
struct iothread_timer {
	void (*fn)(struct iothread_timer *timer);
	uint64_t at_ns;
	struct iothread_timer *next;
	struct iothread *t; /* non-NULL while armed */
};
void iothread_timer_set(struct iothread *t, struct iothread_timer *timer, uint64_t at_ns);
void iothread_timer_del(struct iothread_timer *timer);

#endif
