/*
 * options.c - walk the command line and apply it to the configuration
 *
 * The walk knows the shapes (--name VALUE, --name=VALUE, -v, -vvv, a list option that takes
 * every following value) and nothing of the options: each is a row of the table, and
 * the row says what happens. Nothing is opened, created or started here, so a
 * command line that is refused leaves no trace.
 *
 * An argument that begins with "-" is never taken as the value of the option before it: a
 * forgotten value is found here, not by a kernel called "--initramfs". Such values
 * are given as --cmdline=-x.
 *
 * Trusts: nothing in argv.
 */
#include "control/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/field.h"
#include "control/grammar.h"
#include "control/hint.h"
#include "control/option_table.h"

struct walk {
	char **argv; /* NULL-terminated rest */
	struct vm_config *config;
	struct err *err;
	bool *given; /* by row: for options that may be given once */
};

static void *option_base(const struct option_row *o, struct vm_config *config)
{
	return (char *)config + o->offset;
}

int config_init(struct vm_config *config)
{
	int rc = 0;

	memset(config, 0, sizeof(*config));
	for_each_option (o)
		if (!rc && (o->kind == OPTION_VALUE || o->kind == OPTION_FIELDS))
			rc = fields_init(o, option_base(o, config));
	if (rc)
		config_fini(config);
	return rc;
}

void config_fini(struct vm_config *config)
{
	for_each_option (o) {
		struct any_list *list = option_base(o, config);

		if (o->kind == OPTION_VALUE || o->kind == OPTION_FIELDS)
			fields_fini(o, option_base(o, config));
		if (o->kind != OPTION_LIST)
			continue;
		for (size_t i = 0; i < list->nr; i++)
			fields_fini(o, (char *)list->items + i * o->item_size);
		free(list->items);
	}
	memset(config, 0, sizeof(*config));
}

void config_split(struct vm_config *all, struct vm_config *machine)
{
	struct vm_config program = { 0 };

	*machine = *all;
	program.api_socket = all->api_socket;
	program.event_monitor = all->event_monitor;
	program.no_shutdown = all->no_shutdown;
	program.log_file = all->log_file;
	program.verbosity = all->verbosity;
	program.seccomp = all->seccomp;
	machine->api_socket = machine->event_monitor = (struct endpoint_config){ NULL, CONFIG_NO_FD };
	machine->log_file = NULL;
	*all = program;
}

static int unknown_option(const char *typed, struct err *err)
{
	struct hint best = HINT_NONE;

	for_each_option (o)
		if (!o->hidden)
			hint_offer(&best, typed, o->name);
	if (best.name)
		return err_set(err, -EINVAL, "--%s: unknown option; did you mean --%s?",
			grammar_show(typed).text, best.name);
	return err_set(
		err, -EINVAL, "--%s: unknown option; --help lists them", grammar_show(typed).text);
}

static int unknown_field(const struct option_row *o, const char *typed, struct err *err)
{
	struct hint best = HINT_NONE;
	char names[200] = "";
	size_t used = 0;

	for_each_field (f, o) {
		int n;

		if (f->word_only)
			continue;
		hint_offer(&best, typed, f->name);
		if (f->refused || used >= sizeof(names))
			continue;
		n = snprintf(names + used, sizeof(names) - used, "%s%s", used ? ", " : "", f->name);
		used += n > 0 ? (size_t)n : 0;
	}
	if (best.name)
		return err_set(err, -EINVAL, "%s: unknown field; did you mean %s=?",
			grammar_show(typed).text, best.name);
	return err_set(err, -EINVAL, "%s: unknown field; expected one of %s",
		grammar_show(typed).text, names);
}

/* Apply one element. *chooser is the element that has chosen between the option's modes so far. */
static int apply_item(const struct option_row *o, const struct grammar_item *item, bool first,
	void *base, const char **chooser, struct err *err)
{
	const struct field_row *bare = o->bare ? field_find(o, o->bare) : NULL;
	const struct field_row *f = field_find(o, item->name);
	int rc;

	if (!item->value && f && !f->word_only)
		return err_set(err, -EINVAL, "%s: expected %s=%s", f->name, f->name, f->arg);
	if (!item->value && first && bare) {
		f = bare;
		rc = field_set_plain(o, f, item->name, base, err);
	} else if (f && !f->word_only && item->value) {
		rc = field_set(o, f, item->value, base, err);
	} else {
		return unknown_field(o, item->name, err);
	}
	if (rc || (!f->word_only && !f->implies))
		return rc;
	if (*chooser && strcmp(*chooser, item->name))
		return err_set(err, -EINVAL, "%s: expected only one of %s and %s", item->name,
			*chooser, item->name);
	*chooser = item->name;
	return 0;
}

static int apply_string(const struct option_row *o, const char *text, void *base, struct err *err)
{
	struct grammar_items items;
	const char *chooser = NULL;
	int rc = grammar_split(text, &items);

	if (rc == -ENOMEM)
		return err_set(err, rc, "out of memory");
	if (rc == -ENODATA)
		return err_set(err, -EINVAL, "expected FIELD=VALUE between commas, got nothing");
	if (rc)
		return err_set(err, rc, "expected balanced quotes and brackets");
	for (size_t i = 0; !rc && i < items.nr; i++)
		rc = apply_item(o, &items.items[i], i == 0, base, &chooser, err);
	grammar_items_fini(&items);
	for_each_field (f, o)
		if (!rc && f->required && !field_is_set(f, base))
			rc = err_set(err, -EINVAL, "%s: expected %s=%s, got none", f->name, f->name,
				f->arg);
	return rc;
}

static int apply_list_element(
	const struct option_row *o, const char *text, struct any_list *list, struct err *err)
{
	void *item;
	int rc = fields_append(o, list, &item);

	if (rc)
		return err_set(err, rc, "out of memory");
	rc = apply_string(o, text, item, err);
	if (rc)
		fields_drop_last(o, list);
	return rc;
}

static int apply(
	const struct option_row *o, struct vm_config *config, const char *value, struct err *err)
{
	void *base = option_base(o, config);
	struct err why = { 0 };
	int rc;

	switch (o->kind) {
	case OPTION_VALUE:
		rc = field_set_plain(o, o->fields, value, base, &why);
		return rc ? err_set(err, rc, "--%s", why.text) : 0;
	case OPTION_FIELDS:
		rc = apply_string(o, value, base, &why);
		break;
	case OPTION_LIST:
		rc = apply_list_element(o, value, base, &why);
		break;
	case OPTION_COUNT:
		*(uint32_t *)base += *(uint32_t *)base < UINT32_MAX;
		return 0;
	default:
		return err_set(err, -EINVAL, "--%s sets nothing", o->name);
	}
	return rc ? err_set(err, rc, "--%s %s: %s", o->name, grammar_show(value).text, why.text)
		  : 0;
}

static int refuse(const struct option_row *o, struct err *err)
{
	return err_set(err, -EOPNOTSUPP, "--%s is not available in this version%s%s", o->name,
		o->refused ? "; " : "", o->refused ? o->refused : "");
}

int options_apply(struct vm_config *config, const char *name, const char *value, struct err *err)
{
	const struct option_row *o = option_find(name);

	if (!o)
		return unknown_option(name, err);
	if (o->kind == OPTION_REFUSED)
		return refuse(o, err);
	return apply(o, config, value, err);
}

static bool takes_value(const struct option_row *o)
{
	return o->kind == OPTION_VALUE || o->kind == OPTION_FIELDS || o->kind == OPTION_LIST ||
	       o->kind == OPTION_SCRIPT;
}

static int print(const struct option_row *o, const char *value, struct err *err)
{
	int rc = 0;

	if (o->kind == OPTION_HELP)
		options_print_help(stdout);
	else if (o->kind == OPTION_VERSION)
		options_print_version(stdout);
	else
		rc = options_print_completion(stdout, value, err);
	if (!rc && fflush(stdout))
		rc = err_set(err, -EIO, "standard output: %s", strerror(errno));
	return rc ? rc : OPTIONS_PRINTED;
}

/* The next argument if it can be a value. */
static const char *take_value(struct walk *w)
{
	return *w->argv && **w->argv != '-' ? *w->argv++ : NULL;
}

/* Act on one option; attached is what came after "=", or NULL. */
static int walk_option(struct walk *w, const struct option_row *o, const char *attached)
{
	bool *given = &w->given[o - option_table];
	const char *value = attached;
	int rc;

	if (o->kind == OPTION_REFUSED)
		return refuse(o, w->err);
	if (attached && !takes_value(o))
		return err_set(w->err, -EINVAL, "--%s takes no value, got \"%s\"", o->name,
			grammar_show(attached).text);
	if (takes_value(o) && !value)
		value = take_value(w);
	if (takes_value(o) && !value && *w->argv)
		return err_set(w->err, -EINVAL,
			"--%s: expected %s, got the option %s; as a value, write --%s=%s", o->name,
			o->arg, grammar_show(*w->argv).text, o->name, grammar_show(*w->argv).text);
	if (takes_value(o) && !value)
		return err_set(w->err, -EINVAL, "--%s: expected %s, got nothing", o->name, o->arg);
	if (*given && (o->kind == OPTION_VALUE || o->kind == OPTION_FIELDS))
		return err_set(w->err, -EINVAL, "--%s is given twice", o->name);
	*given = true;
	if (o->kind == OPTION_HELP || o->kind == OPTION_VERSION || o->kind == OPTION_SCRIPT)
		return print(o, value, w->err);
	rc = apply(o, w->config, value, w->err);
	while (!rc && o->kind == OPTION_LIST && !attached && (value = take_value(w)))
		rc = apply(o, w->config, value, w->err);
	return rc;
}

/* -v, -vvv, -h, -V: letters of options without a value. */
static int walk_letters(struct walk *w, const char *letters)
{
	int rc = 0;

	for (; !rc && *letters; letters++) {
		const struct option_row *found = NULL;

		for_each_option (o)
			if (o->letter == *letters)
				found = o;
		if (!found) {
			char letter[] = { *letters, '\0' };

			return err_set(w->err, -EINVAL, "-%s: unknown option; --help lists them",
				grammar_show(letter).text);
		}
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
	o = option_find(name);
	return o ? walk_option(w, o, equals ? equals + 1 : NULL) : unknown_option(name, w->err);
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
			rc = err_set(w->err, -EINVAL,
				"\"%s\": expected an option; --help lists them",
				grammar_show(argument).text);
	}
	return rc;
}

static bool has_endpoint(const struct endpoint_config *e)
{
	return e->path || e->fd != CONFIG_NO_FD;
}

/* What concerns the program, not the machine: a REST body cannot say it. */
static int check_program(const struct vm_config *config, struct err *err)
{
	const struct endpoint_config *api = &config->api_socket, *events = &config->event_monitor;

	if (api->path && api->fd != CONFIG_NO_FD)
		return err_set(err, -EINVAL, "--api-socket: expected only one of path and fd");
	if (events->path && events->fd != CONFIG_NO_FD)
		return err_set(err, -EINVAL, "--event-monitor: expected only one of path and fd");
	if (config->no_shutdown && !has_endpoint(api))
		return err_set(err, -EINVAL,
			"--no-shutdown: expected --api-socket beside it, or nobody could end outboard");
	return 0;
}

/* Something was said about a machine, so there is to be one. */
static bool wants_machine(const struct walk *w)
{
	for_each_option (o)
		if (w->given[o - option_table] && o->group != GROUP_CONTROL &&
			o->group != GROUP_PROGRAM)
			return true;
	return false;
}

int options_parse(int argc, char **argv, struct vm_config *config, struct err *err)
{
	struct walk w = { .argv = argv + (argc > 0), .config = config, .err = err };
	size_t nr = 0;
	int rc;

	for_each_option (o)
		nr++;
	w.given = calloc(nr, sizeof(*w.given));
	if (!w.given)
		return err_set(err, -ENOMEM, "out of memory");
	rc = walk_all(&w);
	if (!rc)
		rc = check_program(config, err);
	if (!rc && (wants_machine(&w) || !has_endpoint(&config->api_socket)))
		rc = options_check(config, err);
	free(w.given);
	return rc;
}
