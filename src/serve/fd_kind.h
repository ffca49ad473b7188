/*
 * fd_kind.h - what kind of file a client has passed
 *
 * A descriptor that is written or watched must be of the kind that was expected: a write to
 * a file or a pipe of the client's could wait for ever. Any thread.
 */
#ifndef SERVE_FD_KIND_H
#define SERVE_FD_KIND_H

#include <stdbool.h>

/*
 * What fd_is_eventfd() looks at. To be opened before the process gives up the file system. Gives a
 * descriptor, or -errno.
 */
int fd_kind_open(void);

bool fd_is_eventfd(int kinds, int fd);
/* A pipe, or a FIFO. */
bool fd_is_pipe(int fd);
/* A connected UNIX stream socket. */
bool fd_is_stream(int fd);

#endif
