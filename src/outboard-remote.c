/*
 * outboard-remote.c - commands for a running outboard: the client of its REST API
 *
 * Exit status: 0 it was done, 1 it could not be (the server's reason is printed), 2 the command
 * line is wrong.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/util.h"
#include "control/grammar.h"
#include "control/hint.h"
#include "control/remote.h"

#define BODY_MAX (1024u * 1024) /* as the server takes it */

enum exit_status { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2 };

struct request {
	struct remote_request to_send;
	const char *argument; /* NULL: none */
};

static int complain(enum exit_status status, const char *text)
{
	fprintf(stderr, "outboard-remote: %s\n", text);
	return status;
}

/* --- the command line: 0, -errno with a text, or PRINTED --- */

#define PRINTED 1

static int unknown(const char *what, const char *typed, struct err *err)
{
	struct hint hint = HINT_NONE;

	for_each_command (c)
		hint_offer(&hint, typed, c->name);
	if (hint.name)
		return err_set(err, -EINVAL, "\"%s\": unknown %s; did you mean %s?",
			grammar_show(typed).text, what, hint.name);
	return err_set(err, -EINVAL, "\"%s\": unknown %s; --help lists them",
		grammar_show(typed).text, what);
}

static int print_option(const char *option, const char *value, struct err *err)
{
	int rc = 0;

	if (!strcmp(option, "--help") || !strcmp(option, "-h"))
		remote_print_help(stdout);
	else if (!strcmp(option, "--version") || !strcmp(option, "-V"))
		printf("outboard-remote v%s\n", OUTBOARD_VERSION);
	else if (!strcmp(option, "--print-completion") && value)
		rc = remote_print_completion(stdout, value, err);
	else
		return unknown("option", option, err);
	if (!rc && fflush(stdout))
		rc = err_set(err, -EIO, "standard output: %s", strerror(errno));
	return rc ? rc : PRINTED;
}

static int take_word(struct request *r, const char *word, struct err *err)
{
	if (!r->to_send.command) {
		r->to_send.command = remote_find(word);
		if (!r->to_send.command)
			return unknown("command", word, err);
		if (!r->to_send.command->endpoint)
			return err_set(
				err, -EOPNOTSUPP, "%s is not available in this version", word);
		return 0;
	}
	if (r->argument || r->to_send.command->body == REMOTE_NOTHING)
		return err_set(err, -EINVAL, "%s: expected no further argument, got \"%s\"",
			r->to_send.command->name, grammar_show(word).text);
	r->argument = word;
	return 0;
}

static int parse(char **argv, struct request *r, struct err *err)
{
	static const char api_socket[] = "--api-socket";
	int rc = 0;

	while (!rc && *argv) {
		const char *word = *argv++;

		if (!strcmp(word, api_socket)) {
			if (!*argv)
				return err_set(
					err, -EINVAL, "--api-socket: expected PATH, got nothing");
			r->to_send.socket_path = *argv++;
		} else if (!strncmp(word, api_socket, sizeof(api_socket) - 1) &&
			   word[sizeof(api_socket) - 1] == '=') {
			r->to_send.socket_path = word + sizeof(api_socket);
		} else if (word[0] == '-' && word[1]) {
			rc = print_option(word, *argv, err);
		} else {
			rc = take_word(r, word, err);
		}
	}
	if (rc)
		return rc;
	if (!r->to_send.command)
		return err_set(err, -EINVAL, "expected a command; --help lists them");
	if (!r->to_send.socket_path)
		return err_set(
			err, -EINVAL, "%s: expected --api-socket PATH", r->to_send.command->name);
	if (!r->argument && (r->to_send.command->body == REMOTE_OPTION ||
				    r->to_send.command->body == REMOTE_ID))
		return err_set(err, -EINVAL, "%s: expected %s, got nothing",
			r->to_send.command->name, r->to_send.command->arg);
	return 0;
}

/* --- the body --- */

/* Gives *body. */
static int read_stream(FILE *in, const char *name, char **body, size_t *len, struct err *err)
{
	*body = malloc(BODY_MAX + 1);
	if (!*body)
		return err_set(err, -ENOMEM, "out of memory");
	*len = fread(*body, 1, BODY_MAX + 1, in);
	if (ferror(in))
		return err_set(err, -EIO, "%s: %s", name, strerror(errno));
	if (*len > BODY_MAX)
		return err_set(err, -EFBIG, "%s: expected at most %u bytes", name, BODY_MAX);
	return 0;
}

static int read_file(struct request *r, struct err *err)
{
	bool from_stdin = !r->argument || !strcmp(r->argument, "-");
	struct remote_request *to = &r->to_send;
	FILE *in;
	int rc;

	if (from_stdin)
		return read_stream(stdin, "standard input", &to->body, &to->len, err);
	in = fopen(r->argument, "re");
	if (!in)
		return err_set(
			err, -errno, "%s: %s", grammar_show(r->argument).text, strerror(errno));
	rc = read_stream(in, grammar_show(r->argument).text, &to->body, &to->len, err);
	fclose(in);
	return rc;
}

static int run(struct request *r)
{
	enum remote_body body = r->to_send.command->body;
	struct err err = { 0 };
	int rc = 0;

	if ((body == REMOTE_OPTION || body == REMOTE_ID) &&
		remote_make_body(&r->to_send, r->argument, &err))
		return complain(EXIT_USAGE, err.text);
	if (body == REMOTE_FILE)
		rc = read_file(r, &err);
	if (!rc)
		rc = remote_run(&r->to_send, stdout, &err);
	return rc ? complain(EXIT_REFUSED, err.text) : EXIT_DONE;
}

int main(int argc, char **argv)
{
	struct request r = { 0 };
	struct err err = { 0 };
	int rc, status;

	if (fd_standard())
		return EXIT_REFUSED;
	rc = parse(argv + (argc > 0), &r, &err);
	if (rc == PRINTED)
		return EXIT_DONE;
	if (rc)
		return complain(EXIT_USAGE, err.text);
	status = run(&r);
	remote_fini(&r.to_send);
	return status;
}
