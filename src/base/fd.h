/*
 * fd.h - descriptors with one owner
 *
 * A local descriptor that must not leak is `FD_AUTO fd = ...;`; handing it on
 * is spelled fd_take(&fd). Everything made here is close-on-exec.
 */
#ifndef BASE_FD_H
#define BASE_FD_H

#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

static inline int fd_take(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* Close *fd if it is open and mark it closed. errno is kept. */
void fd_close(int *fd);

/* A local that is closed when it leaves its scope. */
#define FD_AUTO int __attribute__((cleanup(fd_close)))

/* A non-blocking eventfd with counter 0. Gives it, or -errno. */
int fd_eventfd(void);

/*
 * Open those of descriptors 0 to 2 that the program was started without on /dev/null, so that no
 * other descriptor gets their number, and with it what is meant for a standard stream. First thing
 * in
 * main(). 0 or -errno.
 */
int fd_standard(void);

/*
 * Add 1 to an eventfd without ever waiting. A full counter counts as
 * signalled: the reader will wake up anyway. 0 or -errno.
 */
int fd_signal(int fd);

/*
 * Read and clear an eventfd. True if it had been signalled. Never waits, also where a peer that
 * shares it has taken O_NONBLOCK from it.
 */
bool fd_clear(int fd);

/* How many descriptors this process has open, or -errno. For leak checks. */
int fd_count(void);

#endif
