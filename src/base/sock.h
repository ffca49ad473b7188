/*
 * sock.h - UNIX stream sockets and the descriptors that travel over them
 *
 * Descriptors that arrive are close-on-exec and owned by the struct fd_list
 * they arrived in; one too many is closed at once, never kept.
 */
#ifndef BASE_SOCK_H
#define BASE_SOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"

#define SOCK_MAX_FDS 253 /* SCM_MAX_FD: the kernel's limit for one message */

struct fd_list {
	int fds[SOCK_MAX_FDS];
	int nr;
};

/* Close what is left in the list and empty it. */
void fd_list_close(struct fd_list *list);
/* Take the first descriptor out of the list; -1 when there is none. */
int fd_list_take(struct fd_list *list);

/*
 * Check that path fits a socket address (107 bytes). 0 or -ENAMETOOLONG with a text.
 */
int sock_check_path(const char *path, struct err *err);

/*
 * A listening, non-blocking socket at path. A socket file that nobody listens on
 * is replaced; anything else at path is refused. Gives the descriptor, or -errno with a text.
 */
int sock_listen(const char *path, int backlog, struct err *err);

/*
 * Connect, non-blocking, without waiting: a UNIX socket connects at once or
 * fails (-EAGAIN: the listener's queue is full). Gives the descriptor, or -errno with a text.
 */
int sock_connect(const char *path, struct err *err);

/* A connected pair, close-on-exec, blocking. 0 or -errno. */
int sock_pair(int fds[2]);

/*
 * sendmsg() with nr_fds borrowed descriptors (0 to SOCK_MAX_FDS), MSG_NOSIGNAL,
 * MSG_DONTWAIT. The bytes sent, or -errno (-EAGAIN: buffer full). Never waits.
 */
ssize_t sock_send(int sock, const struct iovec *iov, int iovcnt, const int *fds, int nr_fds);

/*
 * recvmsg(), MSG_DONTWAIT. Received descriptors are added to list (which must have been
 * initialised); list may be NULL: then they are closed. The bytes received, 0 at the end, or
 * -errno (-EAGAIN: nothing there). Never waits. The kernel joins bytes before a message
 * with descriptors to it but stops after it: the descriptors of one call belong
 * to the protocol message that holds the last byte received.
 */
ssize_t sock_recv(int sock, void *buf, size_t len, struct fd_list *list);

/*
 * Let sock_recv_wait() on this socket wait for at most timeout_ms, and make the socket a blocking
 * one; sock_send() and sock_recv() never wait all the same. 0 or -errno.
 */
int sock_set_timeout(int sock, uint32_t timeout_ms);

/* As sock_recv(), but wait until something is there. -EAGAIN: not in time; -EINTR: a signal. */
ssize_t sock_recv_wait(int sock, void *buf, size_t len, struct fd_list *list);

/*
 * Whether the peer of a connected socket has gone, though what it left may be unread. Never waits.
 */
bool sock_hung_up(int sock);

#endif
