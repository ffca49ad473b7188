/*
 * sandbox.h - give up what a program does not need, once it has opened what it does
 *
 * In this order: sandbox_privileges(), sandbox_files(), sandbox_calls(). What cannot be
 * set up is an error. A kernel without Landlock only misses that step. Programs built with a
 * sanitizer are let off the last two: it opens files and makes calls of its own.
 */
#ifndef BASE_SANDBOX_H
#define BASE_SANDBOX_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* No way back to privileges by exec, and all capabilities gone but those in keep (1 << CAP_...). */
int sandbox_privileges(uint64_t keep, struct err *err);

/* What may be done below a directory; everything not granted is refused, everywhere. */
#define SANDBOX_REPLACE (1u << 0) /* create, write and rename plain files */
#define SANDBOX_REMOVE	(1u << 1) /* unlink files */
#define SANDBOX_READ	(1u << 2) /* open files for reading, list directories */
/* With fd -1, of no directory: open TCP connections. */
#define SANDBOX_TCP (1u << 3)

struct sandbox_dir {
	int fd; /* borrowed; an O_PATH descriptor will do */
	uint32_t allow;
};

/*
 * Keep the process from opening, making and removing files but below these directories, and from
 * opening TCP ports. Descriptors that are open already are not concerned. 0, also when the kernel
 * has no Landlock; or -errno with a text. Before threads start.
 */
int sandbox_files(const struct sandbox_dir *dirs, size_t nr, struct err *err);

struct sandbox_call {
	int nr;		 /* SYS_... */
	const char *why; /* for the reader of the list */
};

enum sandbox_mode {
	SANDBOX_OFF,
	/* the kernel's audit log names a call that is not in the list, and lets it pass */
	SANDBOX_LOG,
	SANDBOX_KILL, /* it ends the program with one line and status 159 (128 + SIGSYS) */
	SANDBOX_ERRNO, /* it fails with EPERM */
};

/* "true", "false", "log" or "errno". 0 or -EINVAL with a text. */
int sandbox_parse_mode(const char *text, enum sandbox_mode *mode, struct err *err);

/*
 * Allow the base's own calls and those of `calls`, nr of them, for all threads of the process.
 * 0 or -errno with a text.
 */
int sandbox_calls(const struct sandbox_call *calls, size_t nr, enum sandbox_mode mode,
	struct err *err);

#endif
