/*
 * char_end.h - what a guest's terminal is wired to on the host: opening it, writing to it
 *
 * A pseudo-terminal, standard input and output, descriptors that were given, a file, or a listening
 * UNIX socket with one client at a time. Whoever uses it watches the descriptors, and decides what
 * becomes of output that nobody takes.
 *
 * Errors have no prefix: the caller says whose end it is. Any thread, one at a time.
 */
#ifndef BASE_CHAR_END_H
#define BASE_CHAR_END_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/acceptor.h"
#include "base/err.h"
#include "base/log.h"
#include "base/tty.h"

/* How out_fd is written to without waiting. */
enum char_out {
	CHAR_OUT_NONE,	  /* output vanishes */
	CHAR_OUT_WRITE,	  /* non-blocking, or a file, which does not block */
	CHAR_OUT_SOCKET,  /* send() */
	CHAR_OUT_CAREFUL, /* blocking and shared with others: poll first, then little at a time */
};

struct char_end {
	int in_fd, out_fd; /* -1: none. One descriptor for both: both have its number */
	int listen_fd;
	int pty_slave; /* kept open, so that the master never hangs up */
	enum char_out out;
	bool in_shared; /* in_fd may be a blocking one, and others may read from it */
	char *path; /* of the file, the socket or the pty; NULL: it has none */
	struct tty tty;
};

/* Nothing is open. */
void char_end_init(struct char_end *e);
/* Close what the end owns, put a terminal back, remove a socket. Then as after char_end_init(). */
void char_end_fini(struct char_end *e);

/* A new pseudo-terminal, raw, non-blocking; path is its name. 0 or -errno with a text. */
int char_end_pty(struct char_end *e, struct err *err);
/*
 * Standard input and output. Input that is a terminal is made raw, which forks: before threads
 * exist. A job in the background gets no input: in_fd is -1. 0 or -errno with a text.
 */
int char_end_tty(struct char_end *e, struct err *err);
/*
 * Descriptors that were given, for input, output (-1: none) or, with the same number, for both.
 * Takes them on success. 0 or -errno with a text.
 */
int char_end_fds(struct char_end *e, int in_fd, int out_fd, struct err *err);
/* Output to a file with these open() flags besides (O_TRUNC or O_APPEND). 0 or -errno with a text.
 */
int char_end_file(struct char_end *e, const char *path, int flags, struct err *err);
/* A listening socket. 0 or -errno with a text. */
int char_end_listen(struct char_end *e, const char *path, struct err *err);
/* The same with one that was given; taken on success. */
int char_end_listener(struct char_end *e, int fd, struct err *err);

/*
 * Somebody has come at listen_fd, which the acceptor watches. Gives the socket, or -errno: nobody
 * is there after all, something is short, or has_client, and who came is turned away. Logged but
 * for the first, under the name of whose end it is.
 */
int char_end_accept(const struct char_end *e, struct acceptor *acceptor, bool has_client,
	const char *name, struct log_limit *limit);
/* A client has come: takes fd, a connected socket, which is in_fd and out_fd from now on. */
void char_end_client(struct char_end *e, int fd);
/* The client, if there is one, is closed. */
void char_end_hang_up(struct char_end *e);

/*
 * Whether in_fd may be read now: a read does not wait. To be asked before each, whatever an event
 * has said: what others share they may have read.
 */
bool char_end_may_read(const struct char_end *e);

/*
 * At the end: wait for a slow reader, a second at most. flush(arg) writes what it can, and says
 * whether anything is left to write. pty: a pseudo-terminal of ours, which may have no reader at
 * all: a tenth of that, but until what was written is read, too, since it goes with the master.
 */
void char_end_drain(const struct char_end *e, bool pty, bool (*flush)(void *arg), void *arg);

/* Bytes taken, or -errno; -EAGAIN: nothing now. Never waits. */
ssize_t char_end_writev(const struct char_end *e, const struct iovec *iov, unsigned nr);
ssize_t char_end_write(const struct char_end *e, const void *bytes, size_t len);

#endif
