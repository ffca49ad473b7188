/*
 * vsock_connector.c - a process that connects to sockets of the host for one that may not
 *
 * Its working directory is the folder, so that a name without a slash is all that connect() gets.
 * Privileges, files and system calls are given up before the first question is read. A full backlog
 * of the host's program is an answer like any other: nothing is waited for.
 *
 * Trusts: the port number is the guest's choice, the folder and the prefix are not.
 */
#include "device/vsock_connector.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/sandbox.h"
#include "base/sock.h"
#include "base/util.h"

/* Where the process has its end: right behind the standard streams. */
#define OWN_FD 3

static const struct sandbox_call calls[] = {
	{ SYS_socket, "its work" },
	{ SYS_connect, "its work" },
};

/* --- the process --- */

/* The connected descriptor, or -errno. */
static int connect_to(const char *prefix, uint32_t port)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	FD_AUTO fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if ((size_t)snprintf(at.sun_path, sizeof(at.sun_path), "%s_%" PRIu32, prefix, port) >=
		sizeof(at.sun_path))
		return -ENAMETOOLONG;
	if (connect(fd, (struct sockaddr *)&at, sizeof(at)))
		return -errno;
	return fd_take(&fd);
}

/* Room comes as soon as the asker reads. */
static void answer(const struct vsock_answer *a, int fd)
{
	struct iovec iov = { (void *)(uintptr_t)a, sizeof(*a) };
	struct pollfd room = { .fd = OWN_FD, .events = POLLOUT };

	while (sock_send(OWN_FD, &iov, 1, &fd, fd >= 0) == -EAGAIN)
		poll(&room, 1, -1);
}

static void serve(const char *prefix)
{
	struct vsock_ask ask;

	for (;;) {
		struct vsock_answer a = { .rc = -EINVAL };
		ssize_t n = read(OWN_FD, &ask, sizeof(ask));
		FD_AUTO fd = -1;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		if (n != sizeof(ask))
			continue;
		a.ask = ask;
		fd = connect_to(prefix, ask.host_port);
		a.rc = fd < 0 ? fd : 0;
		answer(&a, fd);
	}
}

static int set_up(int end, int dir_fd, struct err *err)
{
	int rc = 0;

	if (fchdir(dir_fd))
		rc = err_set(err, -errno, "its folder: %s", strerror(errno));
	if (dup2(end, OWN_FD) < 0)
		_exit(1); /* then the asker finds its end closed */
	close_range(OWN_FD + 1, ~0u, 0);
	prctl(PR_SET_NAME, "vsock-connect");
	if (!rc)
		rc = sandbox_privileges(0, err);
	if (!rc)
		rc = sandbox_files(NULL, 0, err);
	if (!rc)
		rc = sandbox_calls(calls, ARRAY_SIZE(calls), SANDBOX_KILL, err);
	return rc;
}

/* The first datagram says whether it was set up: nothing, or why not. */
static void __attribute__((noreturn)) be_connector(int end, int dir_fd, const char *prefix)
{
	struct err err = { 0 };
	int rc = set_up(end, dir_fd, &err);

	if (write(OWN_FD, err.text, strlen(err.text) + 1) > 0 && !rc)
		serve(prefix);
	_exit(0);
}

/* --- the asker --- */

static int await_ready(struct vsock_connector *c, struct err *err)
{
	char why[sizeof(err->text)] = "";
	ssize_t n;

	do
		n = recv(c->fd, why, sizeof(why) - 1, 0);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return err_set(err, -EPIPE, "the process that connects has ended");
	if (why[0])
		return err_set(err, -EPERM, "the process that connects: %s", why);
	if (fcntl(c->fd, F_SETFL, O_NONBLOCK))
		return err_set(err, -errno, "a socket pair: %s", strerror(errno));
	return 0;
}

int vsock_connector_start(
	struct vsock_connector *out, int dir_fd, const char *prefix, struct err *err)
{
	int pair[2], rc;

	*out = (struct vsock_connector){ .fd = -1 };
	if (!*prefix || strchr(prefix, '/') || strlen(prefix) > VSOCK_PREFIX_MAX)
		return err_set(err, -EINVAL,
			"a socket's name: '%.32s', expected 1 to %d bytes, no '/'", prefix,
			VSOCK_PREFIX_MAX);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return err_set(err, -errno, "a socket pair: %s", strerror(errno));
	out->pid = fork();
	if (!out->pid) {
		close(pair[0]);
		be_connector(pair[1], dir_fd, prefix);
	}
	out->fd = pair[0];
	close(pair[1]);
	if (out->pid < 0) {
		out->pid = 0;
		rc = err_set(err, -errno, "the process that connects: %s", strerror(errno));
	} else {
		rc = await_ready(out, err);
	}
	if (rc)
		vsock_connector_stop(out);
	return rc;
}

void vsock_connector_stop(struct vsock_connector *c)
{
	if (c->fd >= 0)
		fd_close(&c->fd);
	while (c->pid > 0 && waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
		;
	c->pid = 0;
	c->fd = -1;
}
