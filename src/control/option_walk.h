/*
 * option_walk.h - walk a command line whose options are rows of tables
 *
 * Both of the program's grammars are walked here: option_table alone, or a table of another
 * grammar's words (run.h) before it. For those two; others want options.h and run.h.
 */
#ifndef CONTROL_OPTION_WALK_H
#define CONTROL_OPTION_WALK_H

#include <stdio.h>

#include "base/err.h"
#include "control/option_table.h"

struct option_walk {
	const struct option_row *own; /* looked at before option_table; NULL: none */
	/* option_table's row that a word without dashes sets; NULL: none is expected */
	const char *positional;
	bool single; /* a list option takes one value at each use, not all that follow */
	void (*print_help)(FILE *out);
	void *config; /* what all offsets are of: a struct that begins with a struct vm_config */
	/* the walk's: which row has set what option_table's nth sets */
	const struct option_row **given;
};

/*
 * Apply the whole command line but argv[0] to config. 0; OPTIONS_PRINTED (options.h); else -errno
 * with a text. Borrows argv. In each case the caller ends with option_walk_fini().
 */
int option_walk(struct option_walk *w, int argc, char **argv, struct err *err);
/* Whether a row of option_table was said, by its own name or in the other table's words. */
bool option_walk_given(const struct option_walk *w, const struct option_row *o);
void option_walk_fini(struct option_walk *w);

/* "unknown option; did you mean ...?" of own (may be NULL) and option_table. -EINVAL. */
int option_unknown(const struct option_row *own, const char *typed, struct err *err);
/* Why a row that is OPTION_REFUSED cannot be had. -EOPNOTSUPP. */
int option_refuse(const struct option_row *o, struct err *err);

#endif
