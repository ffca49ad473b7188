/*
 * tty.c - the terminal on standard input, in raw mode for a while
 *
 * The child, in a session of its own, waits for the end of a pipe whose other end only
 * this process holds. When it comes, this process is no more, however it ended, and the child
 * puts the terminal back, if nobody has done so yet.
 *
 * Owns: the child and the pipe.
 */
#include "base/tty.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

bool tty_in_background(void)
{
	pid_t foreground = tcgetpgrp(STDIN_FILENO);

	return foreground > 0 && foreground != getpgrp();
}

void tty_raw_mode(struct termios *t)
{
	cfmakeraw(t);
	t->c_cc[VMIN] = 1;
	t->c_cc[VTIME] = 0;
}

static bool still_raw(const struct termios *t)
{
	return !(t->c_lflag & (ICANON | ECHO | ISIG));
}

/*
 * The child's life. In its own session it gets no signal meant for the process group of the
 * program, and none from the terminal. A mode that somebody has set since, such as a shell's, is
 * left alone.
 */
static void __attribute__((noreturn)) keep_terminal(int pipe_fd, const struct termios *saved)
{
	struct termios now;
	char byte;

	setsid();
	prctl(PR_SET_NAME, "outboard-tty");
	signal(SIGTTOU, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	if (dup2(pipe_fd, STDOUT_FILENO) < 0)
		_exit(1);
	close_range(STDERR_FILENO, ~0u, 0);
	while (read(STDOUT_FILENO, &byte, 1) < 0 && errno == EINTR)
		;
	if (tcgetattr(STDIN_FILENO, &now) == 0 && still_raw(&now))
		tcsetattr(STDIN_FILENO, TCSANOW, saved);
	_exit(0);
}

static int start_keeper(struct tty *tty, struct err *err)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		return err_set(err, -errno, "pipe: %s", strerror(errno));
	pid = fork();
	if (pid == 0)
		keep_terminal(fds[0], &tty->saved);
	fd_close(&fds[0]);
	if (pid < 0) {
		fd_close(&fds[1]);
		return err_set(err, -errno, "fork: %s", strerror(errno));
	}
	tty->keeper = pid;
	tty->keeper_pipe = fds[1];
	return 0;
}

int tty_raw(struct tty *tty, struct err *err)
{
	struct termios raw;
	int rc;

	if (tcgetattr(STDIN_FILENO, &tty->saved))
		return err_set(err, -errno, "the terminal's mode: %s", strerror(errno));
	rc = start_keeper(tty, err);
	if (rc)
		return rc;
	raw = tty->saved;
	tty_raw_mode(&raw);
	if (tcsetattr(STDIN_FILENO, TCSANOW, &raw))
		return err_set(err, -errno, "the terminal cannot be made raw: %s", strerror(errno));
	tty->raw = true;
	return 0;
}

void tty_restore(struct tty *tty)
{
	if (tty->raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &tty->saved);
	tty->raw = false;
	if (!tty->keeper)
		return;
	kill(tty->keeper, SIGKILL);
	while (waitpid(tty->keeper, NULL, 0) < 0 && errno == EINTR)
		;
	tty->keeper = 0;
	fd_close(&tty->keeper_pipe);
}
