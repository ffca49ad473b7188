/*
 * log_lines.h - what the code under test logs goes to a file, and its lines can be counted
 */
#ifndef TESTS_LOG_LINES_H
#define TESTS_LOG_LINES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

struct log_lines {
	char path[64];
};

/* From here on. */
static inline void log_lines_begin(struct log_lines *l)
{
	static unsigned number;

	snprintf(l->path, sizeof(l->path), "/tmp/test-log-%d-%u", (int)getpid(), number++);
	assert_int_equal(log_open(l->path), 0);
}

/* How many lines hold the text. */
static inline unsigned log_lines_with(const struct log_lines *l, const char *text)
{
	FILE *file = fopen(l->path, "re");
	char line[1024];
	unsigned n = 0;

	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		n += strstr(line, text) != NULL;
	fclose(file);
	return n;
}

/* The file is gone; lines still go there. */
static inline void log_lines_end(struct log_lines *l)
{
	unlink(l->path);
}

#endif
