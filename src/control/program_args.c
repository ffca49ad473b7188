#include "control/program_args.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "control/supervisor.h"

/* Takes text, NULL: out of memory. */
static void append(struct program_args *a, char *text)
{
	if (text && a->nr < PROGRAM_MAX_ARGS) {
		a->args[a->nr++] = text;
		return;
	}
	a->rc = text ? -E2BIG : -ENOMEM;
	free(text);
}

void program_args_init(struct program_args *a, const char *model)
{
	*a = (struct program_args){ 0 };
	append(a, strdup(model));
}

void program_args_fini(struct program_args *a)
{
	for (unsigned i = 0; i < a->nr; i++)
		free(a->args[i]);
	for (unsigned i = 0; i < a->nr_fds; i++)
		close(a->fds[i]);
	*a = (struct program_args){ 0 };
}

void program_arg(struct program_args *a, const char *format, ...)
{
	char *text = NULL;
	va_list list;

	if (a->rc)
		return;
	va_start(list, format);
	if (vasprintf(&text, format, list) < 0)
		text = NULL;
	va_end(list);
	append(a, text);
}

int program_fd(struct program_args *a, int fd)
{
	if (a->nr_fds == ARRAY_SIZE(a->fds)) {
		a->rc = -E2BIG;
		close(fd);
		return -1;
	}
	a->fds[a->nr_fds] = fd;
	return SUPERVISED_FD((int)a->nr_fds++);
}

int program_fd_copy(struct program_args *a, int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (copy >= 0)
		return program_fd(a, copy);
	a->rc = -errno;
	return -1;
}

int program_args_check(const struct program_args *a, struct err *err)
{
	if (!a->rc)
		return 0;
	if (a->rc == -E2BIG)
		return err_set(err, a->rc, "too many arguments");
	return err_set(err, a->rc, "%s", strerror(-a->rc));
}
