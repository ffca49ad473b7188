#include "base/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"

union control {
	struct cmsghdr align;
	char room[CMSG_SPACE(SOCK_MAX_FDS * sizeof(int))];
};

void fd_list_close(struct fd_list *list)
{
	for (int i = 0; i < list->nr; i++)
		fd_close(&list->fds[i]);
	list->nr = 0;
}

int fd_list_take(struct fd_list *list)
{
	int fd;

	if (!list->nr)
		return -1;
	fd = list->fds[0];
	list->nr--;
	memmove(list->fds, list->fds + 1, list->nr * sizeof(int));
	return fd;
}

int sock_check_path(const char *path, struct err *err)
{
	size_t max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;

	if (!*path)
		return err_set(err, -EINVAL, "socket path is empty");
	if (strlen(path) > max)
		return err_set(err, -ENAMETOOLONG,
			"socket path is %zu bytes long, a UNIX socket's may have %zu: %s", strlen(path),
			max, path);
	return 0;
}

static int address(const char *path, struct sockaddr_un *addr, struct err *err)
{
	int rc = sock_check_path(path, err);

	if (rc)
		return rc;
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(addr->sun_path, path, strlen(path) + 1);
	return 0;
}

/* A leftover of a program that died is removed; a live socket or another file is not. */
static int remove_stale(const char *path, const struct sockaddr_un *addr, struct err *err)
{
	struct stat st;
	FD_AUTO probe = -1;

	if (lstat(path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST, "%s exists and is not a socket", path);
	probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (probe < 0)
		return err_set(err, -errno, "socket: %s", strerror(errno));
	if (!connect(probe, (const struct sockaddr *)addr, sizeof(*addr)) || errno == EAGAIN)
		return err_set(err, -EADDRINUSE, "%s is in use by a running program", path);
	unlink(path);
	return 0;
}

int sock_listen(const char *path, int backlog, struct err *err)
{
	struct sockaddr_un addr;
	FD_AUTO fd = -1;
	int rc = address(path, &addr, err);

	if (!rc)
		rc = remove_stale(path, &addr, err);
	if (rc)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(err, -errno, "socket: %s", strerror(errno));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, backlog) < 0)
		return err_set(err, -errno, "cannot listen at %s: %s", path, strerror(errno));
	return fd_take(&fd);
}

int sock_connect(const char *path, struct err *err)
{
	struct sockaddr_un addr;
	FD_AUTO fd = -1;
	int rc = address(path, &addr, err);

	if (rc)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(err, -errno, "socket: %s", strerror(errno));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		rc = -errno;
		return err_set(err, rc, "cannot connect to %s: %s", path,
			rc == -ECONNREFUSED ? "nobody listens there" :
			rc == -ENOENT	    ? "no such socket" :
			rc == -EAGAIN	    ? "the listener's queue is full" :
			rc == -EPROTOTYPE   ? "not a stream socket" :
					      strerror(-rc));
	}
	return fd_take(&fd);
}

int sock_pair(int fds[2])
{
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) ? -errno : 0;
}

ssize_t sock_send(int sock, const struct iovec *iov, int iovcnt, const int *fds, int nr_fds)
{
	union control control;
	struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = iovcnt };
	ssize_t n;

	if (nr_fds) {
		struct cmsghdr *c = &control.align;

		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(nr_fds * sizeof(int));
		memset(&control, 0, msg.msg_controllen);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nr_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nr_fds * sizeof(int));
	}
	do
		n = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static void keep_fds(struct msghdr *msg, struct fd_list *list)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t nr;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		nr = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < nr; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (list && list->nr < SOCK_MAX_FDS)
				list->fds[list->nr++] = fd;
			else
				close(fd);
		}
	}
}

static ssize_t receive(int sock, void *buf, size_t len, struct fd_list *list, int flags)
{
	union control control;
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return -errno;
	if (msg.msg_controllen)
		keep_fds(&msg, list);
	return n;
}

ssize_t sock_recv(int sock, void *buf, size_t len, struct fd_list *list)
{
	ssize_t n;

	do
		n = receive(sock, buf, len, list, MSG_DONTWAIT);
	while (n == -EINTR);
	return n;
}

ssize_t sock_recv_wait(int sock, void *buf, size_t len, struct fd_list *list)
{
	return receive(sock, buf, len, list, 0);
}

int sock_set_timeout(int sock, uint32_t timeout_ms)
{
	struct timeval t = { timeout_ms / 1000, timeout_ms % 1000 * 1000 };
	int flags = fcntl(sock, F_GETFL);

	if (flags < 0 || setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)) ||
		fcntl(sock, F_SETFL, flags & ~O_NONBLOCK))
		return -errno;
	return 0;
}

bool sock_hung_up(int sock)
{
	struct pollfd pfd = { .fd = sock, .events = POLLRDHUP };
	int n;

	/* A signal that breaks off a kick may come here too. */
	do
		n = poll(&pfd, 1, 0);
	while (n < 0 && errno == EINTR);
	return n == 1 && pfd.revents & (POLLRDHUP | POLLHUP | POLLERR);
}
