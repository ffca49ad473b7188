/*
 * run.c - `outboard run`: crosvm's command line as a configuration
 *
 * The rows of run_table have put most of it where it belongs. What is left is put together here:
 * the kernel's command line out of several options, the ports (run_serial.c), SOCKET:TAG. Then the
 * whole is checked as any configuration is.
 *
 * Trusts: nothing in argv.
 */
#include "control/run.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/field.h"
#include "control/grammar.h"
#include "control/option_walk.h"
#include "control/options.h"
#include "control/run_priv.h"
#include "wire/virtio.h"

static_assert(offsetof(struct run_config, vm) == 0, "offsets of both tables hold");

/* What this grammar's users get without asking. config is at its defaults. Takes what is in it. */
static int run_init(struct run_config *run, struct vm_config *config)
{
	int rc = 0;

	*run = (struct run_config){ .vm = *config };
	memset(config, 0, sizeof(*config));
	for_each_row (o, run_table)
		if (o->kind == OPTION_FIELDS && !rc)
			rc = fields_default(o, o->fields, (char *)run + o->offset);
	return rc;
}

/* Gives config what belongs there. */
static void run_fini(struct run_config *run, struct vm_config *config)
{
	*config = run->vm;
	for (size_t i = 0; i < run->params.nr; i++)
		free(run->params.items[i]);
	free(run->params.items);
	for (size_t i = 0; i < run->serials.nr; i++)
		free(run->serials.items[i].path);
	free(run->serials.items);
}

/* --- what the options say together --- */

/* --vhost-user-fs SOCKET:TAG: the tag follows the last colon. */
static int split_tags(struct fs_list *list, struct err *err)
{
	for (size_t i = 0; i < list->nr; i++) {
		struct fs_config *fs = &list->items[i];
		char *colon = strrchr(fs->socket, ':');

		if (fs->tag)
			continue;
		if (!colon || colon == fs->socket)
			return err_set(err, -EINVAL,
				"--vhost-user-fs: expected SOCKET:TAG, or tag=NAME beside it, got \"%s\"",
				grammar_show(fs->socket).text);
		fs->tag = strdup(colon + 1);
		if (!fs->tag)
			return err_set(err, -ENOMEM, "out of memory");
		*colon = '\0';
	}
	return 0;
}

/* Whole seconds are what a device is told. */
static void set_timeouts(struct run_config *run)
{
	uint32_t seconds = (run->connect_timeout_ms + 999) / 1000;

	if (!seconds)
		return;
	for (size_t i = 0; i < run->vm.generic_vhost_users.nr; i++)
		run->vm.generic_vhost_users.items[i].backend.connect_timeout_s = seconds;
	for (size_t i = 0; i < run->vm.fs.nr; i++)
		run->vm.fs.items[i].backend.connect_timeout_s = seconds;
	for (size_t i = 0; i < run->vm.nets.nr; i++)
		run->vm.nets.items[i].backend.connect_timeout_s = seconds;
}

static bool is_block(const struct generic_vhost_user_config *g)
{
	const char *type = g->virtio_id ? g->virtio_id : g->type;
	uint32_t id;

	return type && !virtio_type_parse(type, &id, NULL) && id == VIRTIO_ID_BLOCK;
}

/* The guest counts its disks by their places, and those of other programs come first. */
static int print_root(const struct vm_config *vm, FILE *out, struct err *err)
{
	unsigned letter = 'a';
	const struct disk_config *root = NULL;

	for (size_t i = 0; i < vm->generic_vhost_users.nr; i++)
		letter += is_block(&vm->generic_vhost_users.items[i]);
	for (size_t i = 0; i < vm->disks.nr; i++) {
		if (vm->disks.items[i].root && root)
			return err_set(err, -EINVAL, "--block: root: expected one root, got two");
		if (vm->disks.items[i].root)
			root = &vm->disks.items[i];
		letter += !root;
	}
	if (root && letter > 'z')
		return err_set(err, -EINVAL, "--block: root: expected it among the first 26 disks");
	if (root)
		fprintf(out, " root=/dev/vd%c %s", letter, root->readonly ? "ro" : "rw");
	return 0;
}

/* --cmdline stands for what we would say about consoles. */
static int print_cmdline(const struct run_config *run, FILE *out, struct err *err)
{
	int rc;

	if (run->vm.payload.cmdline)
		fputs(run->vm.payload.cmdline, out);
	else
		run_print_consoles(run, out);
	rc = print_root(&run->vm, out, err);
	for (size_t i = 0; i < run->params.nr; i++)
		fprintf(out, " %s", run->params.items[i]);
	return rc;
}

static int make_cmdline(struct run_config *run, struct err *err)
{
	struct payload_config *payload = &run->vm.payload;
	char *text = NULL;
	size_t size;
	FILE *out;
	int rc;

	if (!payload->kernel && !payload->firmware)
		return err_set(err, -EINVAL, "nothing to boot: expected a kernel");
	if (payload->firmware && !payload->kernel && run->params.nr)
		return err_set(err, -EINVAL, "--params: expected a kernel beside it, got --firmware");
	if (payload->firmware)
		return 0;
	out = open_memstream(&text, &size);
	if (!out)
		return err_set(err, -ENOMEM, "out of memory");
	rc = print_cmdline(run, out, err);
	if (fclose(out) && !rc)
		rc = err_set(err, -ENOMEM, "out of memory");
	if (rc) {
		free(text);
		return rc;
	}
	free(payload->cmdline);
	payload->cmdline = text;
	return 0;
}

/* A text that begins with one of option_table's names goes on with ours for it. */
static void say_own_name(struct err *err)
{
	struct err said = *err;

	for_each_row (o, run_table) {
		size_t len = o->of ? strlen(o->of) : 0;

		if (!len || !strcmp(o->of, o->name) || strncmp(said.text, "--", 2) ||
			strncmp(said.text + 2, o->of, len) || said.text[2 + len] != ':')
			continue;
		err_clear(err);
		err_set(err, 0, "%.400s (here: --%s)", said.text, o->name);
		return;
	}
}

static int check(struct run_config *run, struct err *err)
{
	int rc = options_check_program(&run->vm, err);

	if (!rc)
		rc = options_check(&run->vm, err);
	if (rc)
		say_own_name(err);
	return rc;
}

static int finish(struct run_config *run, struct err *err)
{
	int rc = split_tags(&run->vm.fs, err);

	if (!rc)
		rc = run_serials(run, err);
	if (!rc)
		rc = make_cmdline(run, err);
	set_timeouts(run);
	return rc ? rc : check(run, err);
}

int run_parse(int argc, char **argv, struct vm_config *config, struct err *err)
{
	struct run_config run;
	struct option_walk w = {
		.own = run_table,
		.positional = "kernel",
		.single = true,
		.print_help = run_print_help,
		.config = &run,
	};
	int rc = run_init(&run, config);

	if (rc)
		rc = err_set(err, rc, "out of memory");
	else
		rc = option_walk(&w, argc, argv, err);
	if (!rc)
		rc = finish(&run, err);
	option_walk_fini(&w);
	run_fini(&run, config);
	return rc;
}
