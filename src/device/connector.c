/*
 * connector.c - a process that connects to sockets for one that may not
 *
 * Privileges, files and system calls are given up before the first question is read. One question
 * is dealt with at a time.
 */
#include "device/connector.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
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

/* Room comes as soon as the asker reads. */
static void answer(const struct connector_answer *a, int fd)
{
	struct iovec iov = { (void *)(uintptr_t)a, sizeof(*a) };
	struct pollfd room = { .fd = OWN_FD, .events = POLLOUT };

	while (sock_send(OWN_FD, &iov, 1, &fd, fd >= 0) == -EAGAIN)
		poll(&room, 1, -1);
}

static void serve(const struct connector_config *config)
{
	struct connector_ask ask;

	for (;;) {
		struct connector_answer a = { .rc = -EINVAL };
		ssize_t n = read(OWN_FD, &ask, sizeof(ask));
		FD_AUTO fd = -1;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		if (n != sizeof(ask))
			continue;
		a.ask = ask;
		fd = config->dial(config->arg, &ask);
		a.rc = fd < 0 ? fd : 0;
		answer(&a, fd);
	}
}

static int set_up(int end, const struct connector_config *config, struct err *err)
{
	const struct sandbox_dir tcp = { .fd = -1, .allow = SANDBOX_TCP };
	int rc = 0;

	if (config->dir_fd >= 0 && fchdir(config->dir_fd))
		rc = err_set(err, -errno, "its folder: %s", strerror(errno));
	if (dup2(end, OWN_FD) < 0)
		_exit(1); /* then the asker finds its end closed */
	close_range(OWN_FD + 1, ~0u, 0);
	prctl(PR_SET_NAME, config->name);
	if (!rc)
		rc = sandbox_privileges(0, err);
	if (!rc)
		rc = sandbox_files(&tcp, config->tcp, err);
	if (!rc)
		rc = sandbox_calls(calls, ARRAY_SIZE(calls), SANDBOX_KILL, err);
	return rc;
}

/* The first datagram says whether it was set up: nothing, or why not. */
static void __attribute__((noreturn)) be_connector(int end, const struct connector_config *config)
{
	struct err err = { 0 };
	int rc = set_up(end, config, &err);

	if (write(OWN_FD, err.text, strlen(err.text) + 1) > 0 && !rc)
		serve(config);
	_exit(0);
}

/* --- the asker --- */

static int await_ready(struct connector *c, struct err *err)
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

int connector_start(struct connector *out, const struct connector_config *config, struct err *err)
{
	int pair[2], rc;

	*out = (struct connector){ .fd = -1 };
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return err_set(err, -errno, "a socket pair: %s", strerror(errno));
	out->pid = fork();
	if (!out->pid) {
		close(pair[0]);
		be_connector(pair[1], config);
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
		connector_stop(out);
	return rc;
}

void connector_stop(struct connector *c)
{
	if (c->fd >= 0)
		fd_close(&c->fd);
	while (c->pid > 0 && waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
		;
	c->pid = 0;
	c->fd = -1;
}

int connector_ask(const struct connector *c, const struct connector_ask *ask)
{
	struct iovec iov = { (void *)(uintptr_t)ask, sizeof(*ask) };
	ssize_t n = sock_send(c->fd, &iov, 1, NULL, 0);

	return n < 0 ? (int)n : 0;
}

int connector_answer(const struct connector *c, struct connector_answer *answer_out, int *fd)
{
	struct fd_list fds = { .nr = 0 };
	ssize_t n = sock_recv(c->fd, answer_out, sizeof(*answer_out), &fds);

	*fd = -1;
	if (n == -EAGAIN || n == -EINTR)
		return 0;
	if (n == sizeof(*answer_out))
		*fd = fd_list_take(&fds);
	fd_list_close(&fds);
	return n == sizeof(*answer_out) ? 1 : -EPIPE;
}
