/*
 * fd_kind.h - what kind of file a peer has passed
 *
 * A descriptor that is written or watched must be of the kind that was expected: a write to
 * a file or a pipe of the peer's could wait for ever. Any thread.
 */
#ifndef BASE_FD_KIND_H
#define BASE_FD_KIND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/*
 * What fd_is_eventfd() looks at. To be opened before the process gives up the file system. Gives a
 * descriptor, or -errno.
 */
int fd_kind_open(void);

bool fd_is_eventfd(int kinds, int fd);
/* A pipe, or a FIFO. */
bool fd_is_pipe(int fd);
/* A regular file. Whether its file system answers is another question. */
bool fd_is_regular(int fd);
/* A connected UNIX stream socket. */
bool fd_is_stream(int fd);

/* Which memory it is, and what may be done to it. Two descriptors of one file have the same. */
struct fd_memory {
	uint32_t dev_major, dev_minor;
	uint64_t ino;
	bool writable;
};

static inline bool fd_memory_same(const struct fd_memory *a, const struct fd_memory *b)
{
	return a->dev_major == b->dev_major && a->dev_minor == b->dev_minor && a->ino == b->ino &&
	       a->writable == b->writable;
}

/*
 * Is this descriptor memory, and which? That may be: memfd, shared memory, hugetlbfs, or a regular
 * file on a block device. Anything else is refused, files of FUSE and of the network too: an access
 * to a mapping of such would wait for as long as its owner likes. Asks no file system that may not
 * answer. 0, and *size the file's; -EINVAL: it is not; or what the kernel said. With a text.
 */
int fd_memory_identify(int fd, struct fd_memory *id, uint64_t *size, struct err *err);

#endif
