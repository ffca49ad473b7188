/*
 * option_walk.c - walk a command line whose options are rows of tables
 *
 * The walk knows the shapes (--name VALUE, --name=VALUE, -v, -vvv, -m VALUE, a list option that
 * takes every following value) and nothing of the options: each is a row of a table, and the row
 * says what happens. Nothing is opened, created or started here, so a command line that is refused
 * leaves no trace.
 *
 * An argument that begins with "-" is never taken as the value of the option before it: a
 * forgotten value is found here, not by a kernel called "--initramfs". Such values
 * are given as --cmdline=-x.
 *
 * Trusts: nothing in argv.
 */
#include "control/option_walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/grammar.h"
#include "control/hint.h"
#include "control/option_apply.h"
#include "control/options.h"

struct walk {
	struct option_walk *w;
	char **argv; /* NULL-terminated rest */
	struct err *err;
};

static const struct option_row no_rows[] = { { 0 } };

static const struct option_row *own_rows(const struct option_row *own)
{
	return own ? own : no_rows;
}

int option_unknown(const struct option_row *own, const char *typed, struct err *err)
{
	struct hint best = HINT_NONE;

	for_each_row (o, own_rows(own))
		hint_offer(&best, typed, o->name);
	for_each_option (o)
		if (!o->hidden)
			hint_offer(&best, typed, o->name);
	if (best.name)
		return err_set(err, -EINVAL, "--%s: unknown option; did you mean --%s?",
			grammar_show(typed).text, best.name);
	return err_set(
		err, -EINVAL, "--%s: unknown option; --help lists them", grammar_show(typed).text);
}

int option_refuse(const struct option_row *o, struct err *err)
{
	return err_set(err, -EOPNOTSUPP, "--%s is not available in this version%s%s", o->name,
		o->refused ? "; " : "", o->refused ? o->refused : "");
}

/* Where it is kept who has set what o sets: by the row that owns it. */
static const struct option_row **given_place(
	const struct option_walk *w, const struct option_row *o)
{
	const struct option_row *owner = o->of ? option_find(o->of) : o;
	size_t i = 0;

	for_each_option (p) {
		if (p == owner)
			break;
		i++;
	}
	if (!option_table[i].name)
		for_each_row (p, own_rows(w->own)) {
			if (p == owner)
				break;
			i++;
		}
	return &w->given[i];
}

bool option_walk_given(const struct option_walk *w, const struct option_row *o)
{
	return *given_place(w, o) != NULL;
}

static bool takes_value(const struct option_row *o)
{
	return o->kind == OPTION_VALUE || o->kind == OPTION_FIELDS || o->kind == OPTION_LIST ||
	       o->kind == OPTION_TEXTS || o->kind == OPTION_SCRIPT;
}

static int print(const struct walk *w, const struct option_row *o, const char *value)
{
	int rc = 0;

	if (o->kind == OPTION_HELP)
		w->w->print_help(stdout);
	else if (o->kind == OPTION_VERSION)
		options_print_version(stdout);
	else
		rc = options_print_completion(stdout, value, w->err);
	if (!rc && fflush(stdout))
		rc = err_set(w->err, -EIO, "standard output: %s", strerror(errno));
	return rc ? rc : OPTIONS_PRINTED;
}

/* The next argument if it can be a value. */
static const char *take_value(struct walk *w)
{
	return *w->argv && **w->argv != '-' ? *w->argv++ : NULL;
}

static int check_value(const struct walk *w, const struct option_row *o, const char *value)
{
	if (value || !takes_value(o))
		return 0;
	if (!*w->argv)
		return err_set(w->err, -EINVAL, "--%s: expected %s, got nothing", o->name, o->arg);
	return err_set(w->err, -EINVAL,
		"--%s: expected %s, got the option %s; as a value, write --%s=%s", o->name, o->arg,
		grammar_show(*w->argv).text, o->name, grammar_show(*w->argv).text);
}

/* What sets something that there is once is given once, by whatever name. */
static int check_given(struct walk *w, const struct option_row *o)
{
	const struct option_row **given = given_place(w->w, o);

	if (*given && (o->kind == OPTION_VALUE || o->kind == OPTION_FIELDS)) {
		if (*given == o)
			return err_set(w->err, -EINVAL, "--%s is given twice", o->name);
		return err_set(w->err, -EINVAL, "--%s: expected no --%s beside it", o->name,
			(*given)->name);
	}
	*given = o;
	return 0;
}

/* Act on one option; attached is what came after "=", or NULL. */
static int walk_option(struct walk *w, const struct option_row *o, const char *attached)
{
	const char *value = attached;
	int rc;

	if (o->kind == OPTION_REFUSED)
		return option_refuse(o, w->err);
	if (attached && !takes_value(o))
		return err_set(w->err, -EINVAL, "--%s takes no value, got \"%s\"", o->name,
			grammar_show(attached).text);
	if (takes_value(o) && !value)
		value = take_value(w);
	rc = check_value(w, o, value);
	if (!rc)
		rc = check_given(w, o);
	if (rc)
		return rc;
	if (o->kind == OPTION_HELP || o->kind == OPTION_VERSION || o->kind == OPTION_SCRIPT)
		return print(w, o, value);
	rc = option_apply(o, w->w->config, value, w->err);
	while (!rc && o->kind == OPTION_LIST && !attached && !w->w->single &&
		(value = take_value(w)))
		rc = option_apply(o, w->w->config, value, w->err);
	return rc;
}

static const struct option_row *find_letter(const struct walk *w, char letter)
{
	for_each_row (o, own_rows(w->w->own))
		if (o->letter == letter)
			return o;
	for_each_option (o)
		if (o->letter == letter)
			return o;
	return NULL;
}

/* -v, -vvv, -h, -V; of a letter that takes a value, the rest is the value, or else what follows. */
static int walk_letters(struct walk *w, const char *letters)
{
	int rc = 0;

	for (; !rc && *letters; letters++) {
		const struct option_row *found = find_letter(w, *letters);

		if (!found) {
			char letter[] = { *letters, '\0' };

			return err_set(w->err, -EINVAL, "-%s: unknown option; --help lists them",
				grammar_show(letter).text);
		}
		if (takes_value(found) && letters[1])
			return walk_option(w, found, letters + 1 + (letters[1] == '='));
		rc = walk_option(w, found, NULL);
	}
	return rc;
}

static int walk_long(struct walk *w, const char *argument)
{
	const char *equals = strchr(argument, '=');
	FREE_AUTO char *name =
		equals ? strndup(argument, (size_t)(equals - argument)) : strdup(argument);
	const struct option_row *o;

	if (!name)
		return err_set(w->err, -ENOMEM, "out of memory");
	o = option_find_in(own_rows(w->w->own), name);
	if (!o)
		o = option_find(name);
	return o ? walk_option(w, o, equals ? equals + 1 : NULL)
		 : option_unknown(w->w->own, name, w->err);
}

static int walk_word(struct walk *w, const char *word)
{
	const struct option_row *o = w->w->positional ? option_find(w->w->positional) : NULL;

	if (!o || *word == '-')
		return err_set(w->err, -EINVAL, "\"%s\": expected an option; --help lists them",
			grammar_show(word).text);
	if (option_walk_given(w->w, o))
		return err_set(w->err, -EINVAL, "\"%s\": expected an option, the %s is given already",
			grammar_show(word).text, o->name);
	return walk_option(w, o, word);
}

static int walk_all(struct walk *w)
{
	int rc = 0;

	while (!rc && *w->argv) {
		const char *argument = *w->argv++;

		if (argument[0] == '-' && argument[1] == '-' && argument[2])
			rc = walk_long(w, argument + 2);
		else if (argument[0] == '-' && argument[1] && argument[1] != '-')
			rc = walk_letters(w, argument + 1);
		else
			rc = walk_word(w, argument);
	}
	return rc;
}

int option_walk(struct option_walk *w, int argc, char **argv, struct err *err)
{
	struct walk walk = { .w = w, .argv = argv + (argc > 0), .err = err };
	size_t nr = 0;

	for_each_option (o)
		nr++;
	for_each_row (o, own_rows(w->own))
		nr++;
	w->given = calloc(nr, sizeof(*w->given));
	if (!w->given)
		return err_set(err, -ENOMEM, "out of memory");
	return walk_all(&walk);
}

void option_walk_fini(struct option_walk *w)
{
	free(w->given);
	w->given = NULL;
}
