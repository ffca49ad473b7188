/*
 * options.c - a configuration from a command line: its beginning, its end, and what the walk fills
 *
 * The walk itself is option_walk.h, what one option does option_apply.h.
 */
#include "control/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/field.h"
#include "control/option_apply.h"
#include "control/option_table.h"
#include "control/option_walk.h"

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
	machine->api_socket = machine->event_monitor =
		(struct endpoint_config){ NULL, CONFIG_NO_FD };
	machine->log_file = NULL;
	*all = program;
}

int options_apply(struct vm_config *config, const char *name, const char *value, struct err *err)
{
	const struct option_row *o = option_find(name);

	if (!o)
		return option_unknown(NULL, name, err);
	if (o->kind == OPTION_REFUSED)
		return option_refuse(o, err);
	return option_apply(o, config, value, err);
}

static bool has_endpoint(const struct endpoint_config *e)
{
	return e->path || e->fd != CONFIG_NO_FD;
}

int options_check_program(const struct vm_config *config, struct err *err)
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
static bool wants_machine(const struct option_walk *w)
{
	for_each_option (o)
		if (option_walk_given(w, o) && o->group != GROUP_CONTROL &&
			o->group != GROUP_PROGRAM)
			return true;
	return false;
}

int options_parse(int argc, char **argv, struct vm_config *config, struct err *err)
{
	struct option_walk w = { .config = config, .print_help = options_print_help };
	int rc = option_walk(&w, argc, argv, err);

	if (!rc)
		rc = options_check_program(config, err);
	if (!rc && (wants_machine(&w) || !has_endpoint(&config->api_socket)))
		rc = options_check(config, err);
	option_walk_fini(&w);
	return rc;
}
