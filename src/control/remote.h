/*
 * remote.h - the commands of outboard-remote
 *
 * A command is one row; the parser, --help, the completions and the manual page's test are readings
 * of it. Names are ch-remote's.
 */
#ifndef CONTROL_REMOTE_H
#define CONTROL_REMOTE_H

#include <stdio.h>

#include "base/err.h"

enum remote_body {
	REMOTE_NOTHING,
	REMOTE_FILE,   /* what is in a file, or on standard input */
	REMOTE_OPTION, /* an option's argument, as outboard takes it: the option is what comes after
			  "add-" */
	REMOTE_ID,     /* a device's name */
};

struct remote_command {
	const char *name;
	const char *method, *endpoint; /* endpoint NULL: known elsewhere, not in this version */
	enum remote_body body;
	const char *arg; /* as help writes it */
	const char *help;
};

/* In the order of help; ends with a row without a name. */
extern const struct remote_command remote_commands[];

#define for_each_command(c) for (const struct remote_command *c = remote_commands; (c)->name; (c)++)

const struct remote_command *remote_find(const char *name);

struct remote_request {
	const struct remote_command *command;
	const char *socket_path;
	char *body; /* NULL: none */
	size_t len;
	int *fds; /* borrowed by it: descriptors of the caller's that the body needs */
	int nr_fds;
};

/*
 * Make the body of a REMOTE_OPTION or REMOTE_ID from its argument. Gives body and fds in *req
 * (remote_fini()). 0 or -errno with a text: then the argument is wrong.
 */
int remote_make_body(struct remote_request *req, const char *argument, struct err *err);
void remote_fini(struct remote_request *req);

/*
 * Send the command and print its answer, if there is one, to out. 0; or -errno with a text: that of
 * the server, if it refused.
 */
int remote_run(const struct remote_request *req, FILE *out, struct err *err);

void remote_print_help(FILE *out);
/* The completion script for "bash" or "zsh". 0 or -EINVAL with a text. */
int remote_print_completion(FILE *out, const char *shell, struct err *err);

#endif
