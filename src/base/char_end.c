/*
 * char_end.c - what a guest's terminal is wired to on the host: opening it, writing to it
 *
 * Standard output, like a descriptor that was given, is shared with other processes, so it must not
 * be made non-blocking itself: a terminal or pipe is opened anew for that, and where that is not
 * possible it is asked before each small write. The slave of a pseudo-terminal stays open here:
 * without any the master reports a hang-up for as long as nobody has it open.
 *
 * Owns: the descriptors, but standard input and output.
 */
#include "base/char_end.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/sock.h"
#include "base/util.h"

#define CAREFUL_WRITE 64

void char_end_init(struct char_end *e)
{
	*e = (struct char_end){ .in_fd = -1, .out_fd = -1, .listen_fd = -1, .pty_slave = -1 };
}

static void close_own(int *fd)
{
	if (*fd > STDERR_FILENO)
		fd_close(fd);
	*fd = -1;
}

void char_end_fini(struct char_end *e)
{
	tty_restore(&e->tty);
	if (e->out_fd != e->in_fd)
		close_own(&e->out_fd);
	close_own(&e->in_fd);
	fd_close(&e->pty_slave);
	if (e->listen_fd >= 0 && e->path)
		unlink(e->path);
	fd_close(&e->listen_fd);
	free(e->path);
	char_end_init(e);
}

/* Pseudo-terminal */

static int make_raw(int slave, const char *path, struct err *err)
{
	struct termios t;

	if (tcgetattr(slave, &t))
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	tty_raw_mode(&t);
	if (tcsetattr(slave, TCSANOW, &t))
		return err_set(err, -errno, "%s: cannot be made raw: %s", path, strerror(errno));
	return 0;
}

static int keep_path(struct char_end *e, const char *path, struct err *err)
{
	e->path = strdup(path);
	return e->path ? 0 : err_set(err, -ENOMEM, "out of memory");
}

int char_end_pty(struct char_end *e, struct err *err)
{
	char path[64];
	int rc;

	e->in_fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (e->in_fd < 0 || grantpt(e->in_fd) || unlockpt(e->in_fd) ||
		ptsname_r(e->in_fd, path, sizeof(path)))
		return err_set(err, -errno, "cannot make a pseudo-terminal: %s", strerror(errno));
	e->pty_slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (e->pty_slave < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	rc = make_raw(e->pty_slave, path, err);
	if (!rc)
		rc = keep_path(e, path, err);
	if (rc)
		return rc;
	e->out_fd = e->in_fd;
	e->out = CHAR_OUT_WRITE;
	return 0;
}

/* Standard input and output, and what was given */

/* The master of a pseudo-terminal: opening it anew would make another one. */
static bool is_master(int fd)
{
	unsigned number;

	return ioctl(fd, TIOCGPTN, &number) == 0;
}

/* How to write to fd, which others may share. out_fd is fd or one of our own in its place. */
static void use_output(struct char_end *e, int fd)
{
	char path[32];
	struct stat st;
	int own;

	e->out_fd = fd;
	if (fstat(fd, &st)) {
		e->out = CHAR_OUT_NONE;
	} else if (S_ISSOCK(st.st_mode)) {
		e->out = CHAR_OUT_SOCKET;
	} else if ((S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)) && !is_master(fd)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		own = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		e->out = own >= 0 ? CHAR_OUT_WRITE : CHAR_OUT_CAREFUL;
		e->out_fd = own >= 0 ? own : fd;
	} else {
		e->out = CHAR_OUT_WRITE;
	}
}

int char_end_tty(struct char_end *e, struct err *err)
{
	use_output(e, STDOUT_FILENO);
	if (fcntl(STDIN_FILENO, F_GETFD) < 0)
		return 0;
	if (isatty(STDIN_FILENO)) {
		int rc;

		if (tty_in_background())
			return 0;
		rc = tty_raw(&e->tty, err);
		if (rc)
			return rc;
	}
	e->in_fd = STDIN_FILENO;
	e->in_shared = true;
	return 0;
}

static int check_fd(int fd, struct err *err)
{
	if (fcntl(fd, F_GETFD) < 0)
		return err_set(err, -EBADF, "descriptor %d is not open", fd);
	if (fd <= STDERR_FILENO)
		return err_set(err, -EINVAL, "descriptor %d is a standard stream", fd);
	if (fcntl(fd, F_SETFD, FD_CLOEXEC))
		return err_set(err, -errno, "descriptor %d: %s", fd, strerror(errno));
	return 0;
}

/* Its flags are changed, and its slave is kept: a master has no other user. */
static int use_master(struct char_end *e, int fd, struct err *err)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return err_set(err, -errno, "descriptor %d: %s", fd, strerror(errno));
	e->pty_slave = ioctl(fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	return e->pty_slave < 0 ? 0 : make_raw(e->pty_slave, "pseudo-terminal", err);
}

int char_end_fds(struct char_end *e, int in_fd, int out_fd, struct err *err)
{
	int rc = in_fd >= 0 ? check_fd(in_fd, err) : 0;

	if (!rc && out_fd >= 0)
		rc = check_fd(out_fd, err);
	if (!rc && in_fd >= 0 && is_master(in_fd))
		rc = use_master(e, in_fd, err);
	if (rc)
		return rc;
	e->in_fd = in_fd;
	e->in_shared = true;
	if (out_fd >= 0)
		use_output(e, out_fd);
	/* One of our own is in its place. */
	if (out_fd >= 0 && e->out_fd != out_fd && out_fd != in_fd)
		close(out_fd);
	return 0;
}

/* File */

int char_end_file(struct char_end *e, const char *path, int flags, struct err *err)
{
	int rc = keep_path(e, path, err);

	if (rc)
		return rc;
	/* O_NONBLOCK: a FIFO without a reader is refused instead of waited for. */
	e->out_fd =
		open(path, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | flags, 0644);
	if (e->out_fd < 0)
		return err_set(err, -errno, "file %s: %s", path,
			errno == ENXIO ? "is a FIFO that nobody reads" : strerror(errno));
	e->out = CHAR_OUT_WRITE;
	return 0;
}

/* Socket */

int char_end_listener(struct char_end *e, int fd, struct err *err)
{
	int is = 0, flags, rc = check_fd(fd, err);
	socklen_t len = sizeof(is);

	if (rc)
		return rc;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is, &len) || !is)
		return err_set(err, -EINVAL, "descriptor %d is no listening socket", fd);
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return err_set(err, -errno, "descriptor %d: %s", fd, strerror(errno));
	e->listen_fd = fd;
	e->out = CHAR_OUT_SOCKET;
	return 0;
}

int char_end_listen(struct char_end *e, const char *path, struct err *err)
{
	int rc = keep_path(e, path, err), fd;

	if (rc)
		return rc;
	fd = sock_listen(path, 8, err);
	if (fd < 0)
		return fd;
	e->listen_fd = fd;
	e->out = CHAR_OUT_SOCKET;
	return 0;
}

int char_end_accept(const struct char_end *e, struct acceptor *acceptor, bool has_client,
	const char *name, struct log_limit *limit)
{
	const char *where = e->path ? e->path : "its socket";
	FD_AUTO fd = acceptor_take(acceptor);

	if (fd >= 0 && !has_client)
		return fd_take(&fd);
	if (fd >= 0) {
		log_limited(limit, LOG_INFO, "%s: %s: has a client already", name, where);
		return -EBUSY;
	}
	if (fd != -EAGAIN)
		log_limited(limit, LOG_WARN, "%s: %s: cannot accept a client: %s", name, where,
			strerror(-fd));
	return fd;
}

void char_end_client(struct char_end *e, int fd)
{
	e->in_fd = e->out_fd = fd;
}

void char_end_hang_up(struct char_end *e)
{
	fd_close(&e->in_fd);
	e->out_fd = -1;
}

/* Input */

bool char_end_may_read(const struct char_end *e)
{
	struct pollfd pfd = { .fd = e->in_fd, .events = POLLIN };

	return !e->in_shared || poll(&pfd, 1, 0) == 1;
}

/* Output */

static ssize_t write_carefully(const struct char_end *e, const struct iovec *iov, unsigned nr)
{
	struct pollfd pfd = { .fd = e->out_fd, .events = POLLOUT };

	while (nr && !iov->iov_len) {
		iov++;
		nr--;
	}
	if (!nr)
		return 0;
	if (poll(&pfd, 1, 0) != 1) {
		errno = EAGAIN;
		return -1;
	}
	return write(e->out_fd, iov->iov_base, MIN(iov->iov_len, (size_t)CAREFUL_WRITE));
}

ssize_t char_end_writev(const struct char_end *e, const struct iovec *iov, unsigned nr)
{
	struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = nr };
	ssize_t n;

	if (e->out == CHAR_OUT_SOCKET)
		n = sendmsg(e->out_fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	else if (e->out == CHAR_OUT_CAREFUL)
		n = write_carefully(e, iov, nr);
	else
		n = writev(e->out_fd, iov, (int)nr);
	return n < 0 ? -errno : n;
}

ssize_t char_end_write(const struct char_end *e, const void *bytes, size_t len)
{
	struct iovec iov = { (void *)bytes, len };

	return char_end_writev(e, &iov, 1);
}

/* The end */

#define DRAIN_NS     NS_PER_S
#define DRAIN_PTY_NS (100 * NS_PER_MS)

static void await_pty_reader(int slave, uint64_t deadline)
{
	int unread;

	while (ioctl(slave, FIONREAD, &unread) == 0 && unread && clock_ms_until(deadline))
		poll(NULL, 0, 1);
}

void char_end_drain(const struct char_end *e, bool pty, bool (*flush)(void *arg), void *arg)
{
	uint64_t deadline = clock_now_ns() + (pty ? DRAIN_PTY_NS : DRAIN_NS);

	while (flush(arg)) {
		struct pollfd pfd = { .fd = e->out_fd, .events = POLLOUT };
		int ms = clock_ms_until(deadline);

		if (!ms || (poll(&pfd, 1, ms) < 0 && errno != EINTR))
			break;
	}
	if (pty && e->pty_slave >= 0)
		await_pty_reader(e->pty_slave, deadline);
}
