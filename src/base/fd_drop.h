/*
 * fd_drop.h - close a descriptor that a peer passed, without being held up by it
 *
 * close() may ask whoever is behind a file: the daemon of a FUSE mount, a server on the network.
 * It waits for the answer however long that takes, and there is no other way to get rid of a
 * descriptor. A peer can pass one whose answer never comes, of a file system of its own. So what is
 * not known to be closed at once is closed by a thread for that, which is there while there is
 * something to close.
 */
#ifndef BASE_FD_DROP_H
#define BASE_FD_DROP_H

#include "base/sock.h"

/* Takes fd; -1 is nothing. Closed when it returns, or by that thread. Never waits, any thread. */
void fd_drop(int fd);
/* Moves all of `from` to the end of `to`; what there is no room for is dropped. */
void fd_list_move(struct fd_list *to, struct fd_list *from);
/* All that is left in the list, which is empty then. */
void fd_drop_list(struct fd_list *fds);

#endif
