/*
 * program_args.h - the command line and the descriptors of a device program, under construction
 *
 * Failures are kept and told once, by program_args_check(), so that whoever builds one need not
 * look at each step.
 */
#ifndef CONTROL_PROGRAM_ARGS_H
#define CONTROL_PROGRAM_ARGS_H

#include "base/err.h"
#include "control/spawner.h"

#define PROGRAM_MAX_ARGS 48

struct program_args {
	char *args[PROGRAM_MAX_ARGS + 1]; /* NULL-terminated; owned */
	unsigned nr;
	int fds[SPAWN_MAX_FDS - 1]; /* owned */
	unsigned nr_fds;
	int rc;
};

/* Zeroed storage. model: the first argument. */
void program_args_init(struct program_args *a, const char *model);
void program_args_fini(struct program_args *a);
/* Add "--name" or "--name=..." as printf() would write it. */
void program_arg(struct program_args *a, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* Takes fd. The number under which the program will find it. */
int program_fd(struct program_args *a, int fd);
/* The same for a copy of fd. */
int program_fd_copy(struct program_args *a, int fd);
/* 0 or -errno with a text: the first thing that failed. */
int program_args_check(const struct program_args *a, struct err *err);

#endif
