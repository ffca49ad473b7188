/*
 * console_end.h - the host end of a console port: watched, with flow control
 *
 * Input is read only when its user asks for it. Output goes out in one of two ways, as the port
 * needs it: console_end_writev() takes what the end takes and says when there is room again;
 * console_end_put() takes everything and keeps the latest 64 KiB that nobody took.
 *
 * Threads: the loop's. The program ignores SIGPIPE.
 */
#ifndef DEVICE_CONSOLE_END_H
#define DEVICE_CONSOLE_END_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/loop.h"

enum console_end_kind {
	CONSOLE_NULL,	/* output vanishes, no input */
	CONSOLE_TTY,	/* standard input and output */
	CONSOLE_PTY,	/* a new pseudo-terminal */
	CONSOLE_FILE,	/* output is appended, no input */
	CONSOLE_SOCKET, /* a listening UNIX socket; one client at a time, others are closed */
	CONSOLE_FDS,	/* given: input, output, or one for both */
};

struct console_end_config {
	enum console_end_kind kind;
	const char *path; /* of FILE and SOCKET; borrowed for the call */
	/* Of FDS, -1: none; SOCKET without a path: in_fd is a listening one. Taken on success. */
	int in_fd, out_fd;
};

struct console_end_user {
	/* Input may be there: read it, or say that none is wanted. */
	void (*readable)(void *arg);
	/* After -EAGAIN: there may be room. */
	void (*writable)(void *arg);
	/* A client has come or gone. */
	void (*connected)(void *arg, bool connected);
	/* The terminal's size may have changed. */
	void (*resized)(void *arg);
	void *arg;
};

struct console_end;

/*
 * Open it. name: of the device, for log lines, borrowed like loop. Forks for a terminal on standard
 * input: before threads exist. Gives *out. 0 or -errno with a text.
 */
int console_end_new(struct console_end **out, struct loop *loop, const char *name,
	const struct console_end_config *config, const struct console_end_user *user,
	struct err *err);
/* Output that is held is written, waiting up to a second for a slow reader. NULL is fine. */
void console_end_free(struct console_end *e);

/* Whether readable is called. Starts with false. */
void console_end_want_input(struct console_end *e, bool want);
/* Bytes read; 0: none for now, or for ever; -EFAULT: iov points at nothing. Never waits. */
ssize_t console_end_readv(struct console_end *e, const struct iovec *iov, unsigned nr);
/*
 * Bytes taken; -EAGAIN: none now, writable will be called; -ENOTCONN: there is no client. What can
 * never be written counts as taken, which is logged.
 */
ssize_t console_end_writev(struct console_end *e, const struct iovec *iov, unsigned nr);
/* Take all of it: the oldest bytes make place for the latest. */
void console_end_put(struct console_end *e, const struct iovec *iov, unsigned nr);

/* False only for a socket without a client. */
bool console_end_connected(const struct console_end *e);
/* Of the terminal, if the end is one and has a size; else they are left alone. */
void console_end_size(const struct console_end *e, uint16_t *cols, uint16_t *rows);
/* "/dev/pts/7" for a new pseudo-terminal, else NULL. */
const char *console_end_pty_path(const struct console_end *e);

#endif
