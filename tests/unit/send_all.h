/*
 * send_all.h - for who plays one end of a protocol: all of a message, however slowly it is read
 */
#ifndef TESTS_SEND_ALL_H
#define TESTS_SEND_ALL_H

#include <errno.h>
#include <poll.h>
#include <stddef.h>

#include "base/sock.h"

/* With nr_fds borrowed descriptors. A peer that has left gets nothing. */
static inline void send_all(int fd, const void *buf, size_t len, const int *fds, int nr_fds)
{
	const char *at = buf;

	while (len) {
		struct iovec iov = { (void *)at, len };
		ssize_t n = sock_send(fd, &iov, 1, fds, nr_fds);
		struct pollfd p = { .fd = fd, .events = POLLOUT };

		if (n == -EAGAIN) {
			poll(&p, 1, 1000);
			continue;
		}
		if (n < 0)
			return;
		at += n;
		len -= (size_t)n;
		nr_fds = 0;
	}
}

#endif
