/*
 * loop.h - the event loop of every program: epoll, timers, signals, posted calls
 *
 * A source is storage of the caller's, zeroed before its first use, that is
 * linked to the loop between loop_add() and loop_del(). All callbacks run on
 * the loop's thread and must not wait. A source may be removed, and its storage
 * freed, from any callback, its own included.
 *
 * Threads: loop thread only, but loop_post(), loop_quit() and loop_may_spin(), which any thread
 * may call, and loop_mod(), which any thread may call while the source stays added.
 */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

struct loop;
struct loop_source;

typedef void (*loop_fd_fn)(struct loop_source *src, uint32_t events);

struct loop_source {
	int fd;		 /* borrowed */
	uint32_t events; /* EPOLLIN ... */
	loop_fd_fn fn;
	struct loop *loop; /* non-NULL while added */
};

struct loop_timer;
typedef void (*loop_timer_fn)(struct loop_timer *timer);

struct loop_timer {
	uint64_t at_ns;
	loop_timer_fn fn;
	struct loop *loop; /* non-NULL while armed */
	struct loop_timer *next;
};

struct loop_work;
typedef void (*loop_work_fn)(struct loop_work *work);

/* A call to make on the loop thread. Storage of the caller's; posted at most once until it ran. */
struct loop_work {
	loop_work_fn fn;
	bool posted; /* guarded by the loop */
	struct loop_work *next;
};

/* 0 or -errno; gives *out. */
int loop_new(struct loop **out);
/* Sources, timers and work still linked are forgotten, not freed. NULL is fine. */
void loop_free(struct loop *loop);

/* Watch fd for events. src->loop must be NULL. 0 or -errno. */
int loop_add(struct loop *loop, struct loop_source *src, int fd, uint32_t events, loop_fd_fn fn);
/* Change the events of an added source. Any thread. 0 or -errno. */
int loop_mod(struct loop_source *src, uint32_t events);
/* Stop watching. No callback comes after this. Not added: nothing happens. */
void loop_del(struct loop_source *src);

/* (Re-)arm for an absolute clock_now_ns() time; fires once. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ns, loop_timer_fn fn);
/* Disarm. Not armed: nothing happens. */
void loop_timer_del(struct loop_timer *timer);

/*
 * Run work->fn soon on the loop thread. A work that is already posted
 * stays posted once. Any thread.
 */
void loop_post(struct loop *loop, struct loop_work *work, loop_work_fn fn);
/* Make sure that a posted work does not run. Loop thread. */
void loop_unpost(struct loop *loop, struct loop_work *work);

/*
 * True if the machine had more than one CPU when the loop was made: without another one for the
 * peer to run on, waiting for it by looking again and again only keeps it from its work. Asked
 * that early, since a program that has given up opening files can not ask any more.
 */
bool loop_may_spin(const struct loop *loop);
/* The peer runs on another machine's CPUs: it may. Loop thread, before there are others. */
void loop_peer_is_elsewhere(struct loop *loop);

struct loop_idle;
typedef bool (*loop_idle_fn)(struct loop_idle *idle);

struct loop_idle {
	loop_idle_fn fn;
};

/*
 * Instead of sleeping, call fn whenever no source is ready, for as long as it returns true: for
 * an owner who expects its source to become ready within microseconds and polls it by
 * itself. fn must come back within about a millisecond. One at a time; setting it again is fine.
 */
void loop_idle_set(struct loop *loop, struct loop_idle *idle, loop_idle_fn fn);
/* No call comes after this. Another one's, or none set: nothing happens. */
void loop_idle_del(struct loop *loop, struct loop_idle *idle);

/* Serve until loop_quit(); returns its code. May be entered again afterwards. */
int loop_run(struct loop *loop);
/*
 * Any thread. The first code of a run wins. Not async-signal-safe:
 * signals come by loop_add_signals().
 */
void loop_quit(struct loop *loop, int code);

typedef void (*loop_signal_fn)(void *arg, int signo);
/*
 * Block the listed signals in the calling thread (do it before others start,
 * they inherit the mask) and have fn called on the loop thread for each. Once a loop.
 * signals ends with 0. 0 or -errno.
 */
int loop_signals(struct loop *loop, const int *signals, loop_signal_fn fn, void *arg);

#endif
