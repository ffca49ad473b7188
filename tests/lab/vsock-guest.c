/*
 * vsock-guest.c - both ends of AF_VSOCK connections, for a guest that has nothing else that knows them
 *
 * usage: vsock listen PORT           take one connection
 *        vsock connect CID PORT      make one
 *        vsock many PORT COUNT       take COUNT connections, all open at once, then echo a line on each
 *
 * Standard input goes into the connection and ends its half of it, what comes out goes to standard output, until
 * both are over. Exit status 0; 1 when something failed, with the reason on standard error.
 */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what)
{
	fprintf(stderr, "vsock: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int bound(unsigned port, int backlog)
{
	struct sockaddr_vm at = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, backlog))
		fail("listen");
	printf("listening\n");
	fflush(stdout);
	return fd;
}

static int taken(int listener)
{
	int fd = accept(listener, NULL, NULL);

	if (fd < 0)
		fail("accept");
	return fd;
}

static int connected(unsigned cid, unsigned port)
{
	struct sockaddr_vm at = { .svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof(at)))
		fail("connect");
	return fd;
}

static void put(int fd, const char *buf, ssize_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, buf, (size_t)len);

		if (n < 0)
			fail("write");
		buf += n;
		len -= n;
	}
}

static void pump(int fd)
{
	static char buf[65536];
	struct pollfd p[] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = fd, .events = POLLIN } };

	while (p[0].fd >= 0 || p[1].fd >= 0) {
		if (poll(p, 2, -1) < 0)
			fail("poll");
		for (int i = 0; i < 2; i++) {
			ssize_t n;

			if (p[i].fd < 0 || !p[i].revents)
				continue;
			n = read(p[i].fd, buf, sizeof(buf));
			if (n < 0)
				fail("read");
			if (n == 0 && i == 0)
				shutdown(fd, SHUT_WR);
			if (n == 0)
				p[i].fd = -1;
			put(i ? STDOUT_FILENO : fd, buf, n);
		}
	}
}

static void many(unsigned port, int count)
{
	struct rlimit limit = { (rlim_t)count + 64, (rlim_t)count + 64 };
	int *fds = calloc((size_t)count, sizeof(*fds)), listener;
	char line[100];

	if (!fds || setrlimit(RLIMIT_NOFILE, &limit))
		fail("descriptors");
	listener = bound(port, 4096);
	for (int i = 0; i < count; i++)
		fds[i] = taken(listener);
	for (int i = 0; i < count; i++) {
		ssize_t n = read(fds[i], line, sizeof(line));

		if (n < 0)
			fail("read");
		put(fds[i], line, n);
		close(fds[i]);
	}
	free(fds);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "listen"))
		pump(taken(bound((unsigned)atoi(argv[2]), 1)));
	else if (argc == 4 && !strcmp(argv[1], "connect"))
		pump(connected((unsigned)atoi(argv[2]), (unsigned)atoi(argv[3])));
	else if (argc == 4 && !strcmp(argv[1], "many"))
		many((unsigned)atoi(argv[2]), atoi(argv[3]));
	else
		return 2;
	return 0;
}
