/*
 * help.c - the option tables as text: --help and --version
 *
 * Three columns: options start at 2, their fields at 6, explanations at 28 where the
 * name leaves room and on a line of their own where it does not. Nothing is
 * written here that is in the table.
 */
#include "control/options.h"

#include <errno.h> /* program_invocation_short_name */
#include <string.h>

#include "base/util.h"
#include "control/option_table.h"
#include "control/run.h"

#define WIDTH	     100
#define OPTION_AT    2
#define FIELD_AT     6
#define EXPLAINED_AT 30

/* libvirt runs a program of this name, and reads its version behind it. */
#define KNOWN_AS "cloud-hypervisor"

void options_print_version(FILE *out)
{
	bool known = !strcmp(program_invocation_short_name, KNOWN_AS);

	fprintf(out, "%s v%s\n", known ? KNOWN_AS : "outboard", OUTBOARD_VERSION);
}

/* Print text word by word between column `left` and WIDTH; the cursor is at column `at`. */
static void print_wrapped(FILE *out, const char *text, size_t left, size_t at)
{
	bool fresh = true;

	while (*text) {
		size_t word = strcspn(text, " ");

		if (at > left && at + 1 + word > WIDTH) {
			fprintf(out, "\n%*s", (int)left, "");
			at = left;
			fresh = true;
		}
		fprintf(out, "%s%.*s", fresh ? "" : " ", (int)word, text);
		at += word + !fresh;
		fresh = false;
		text += word;
		text += strspn(text, " ");
	}
	fputc('\n', out);
}

/* `label` at column `at`, its explanation beside or below it. */
static void print_entry(
	FILE *out, size_t at, const char *label, const char *help, const char *fallback)
{
	size_t end = at + strlen(label);
	char text[400];

	snprintf(text, sizeof(text), "%s%s%s%s", help ? help : "", fallback ? " (default: " : "",
		fallback ? fallback : "", fallback ? ")" : "");
	fprintf(out, "%*s%s", (int)at, "", label);
	if (!*text) {
		fputc('\n', out);
		return;
	}
	if (end + 2 > EXPLAINED_AT)
		fprintf(out, "\n%*s", EXPLAINED_AT, "");
	else
		fprintf(out, "%*s", (int)(EXPLAINED_AT - end), "");
	print_wrapped(out, text, EXPLAINED_AT, EXPLAINED_AT);
}

/* The default of a field, or what the option's name presets it to. */
static const char *fallback_of(const struct option_row *o, const struct field_row *f)
{
	for (const struct field_row *p = o->presets; p && p->name; p++)
		if (!strcmp(p->name, f->name))
			return p->fallback;
	return f->fallback;
}

static void print_choices(FILE *out, const struct option_row *o, const struct field_row *f)
{
	for_each_choice (c, f)
		if (!c->refused && !(f->word_only && field_find(o, c->name)))
			print_entry(out, FIELD_AT, c->name, c->help, NULL);
}

static void print_fields(FILE *out, const struct option_row *o)
{
	for_each_field (f, o) {
		char label[80];

		if (f->refused || o->like)
			continue;
		if (f->type == FIELD_CHOICE)
			print_choices(out, o, f);
		if (f->word_only || o->kind == OPTION_VALUE || o->kind == OPTION_TEXTS)
			continue;
		snprintf(label, sizeof(label), f->flag ? "%s[=%s]" : "%s=%s", f->name, f->arg);
		print_entry(out, FIELD_AT, label, f->help, fallback_of(o, f));
	}
}

static void print_option(FILE *out, const struct option_row *o)
{
	char label[100];

	char letter[] = { '-', o->letter, ',', ' ', '\0' };

	snprintf(label, sizeof(label), "%s--%s%s%s", o->letter ? letter : "", o->name,
		o->arg ? " " : "", o->arg ? o->arg : "");
	print_entry(out, OPTION_AT, label, o->help, NULL);
	print_fields(out, o);
}

static void print_names(FILE *out, const char *title, const struct option_row *table,
	bool (*wanted)(const struct option_row *o))
{
	char text[2000] = "";
	size_t used = 0;

	for_each_row (o, table) {
		int n;

		if (!wanted(o) || o->hidden || used >= sizeof(text))
			continue;
		n = snprintf(text + used, sizeof(text) - used, "%s--%s", used ? ", " : "", o->name);
		used += n > 0 ? (size_t)n : 0;
	}
	fprintf(out, "\n%s:\n%*s", title, OPTION_AT, "");
	print_wrapped(out, text, OPTION_AT, OPTION_AT);
}

static bool is_refused(const struct option_row *o)
{
	return o->kind == OPTION_REFUSED;
}

/* `outboard run` takes these as they are. */
static bool is_shared(const struct option_row *o)
{
	return o->kind != OPTION_REFUSED && !option_find_in(run_table, o->name);
}

static void print_groups(FILE *out, const struct option_row *table)
{
	for (int group = 0; group < NR_GROUPS; group++) {
		bool titled = false;

		for_each_row (o, table) {
			if (o->kind == OPTION_REFUSED || o->hidden || (int)o->group != group)
				continue;
			if (!titled)
				fprintf(out, "\n%s:\n", option_group_titles[group]);
			titled = true;
			print_option(out, o);
		}
	}
}

void options_print_help(FILE *out)
{
	fputs("Usage: outboard --kernel PATH [OPTION]...\n"
	      "       outboard --firmware PATH [OPTION]...\n"
	      "       outboard --api-socket PATH [OPTION]...\n"
	      "       outboard run [OPTION]... KERNEL      (crosvm's command line; run --help)\n"
	      "       outboard device MODEL [OPTION]...    (the program outboard-device)\n"
	      "       outboard remote COMMAND [OPTION]...  (the program outboard-remote)\n"
	      "       outboard device-bind --list|BDF...   (host devices for --device, to vfio-pci)\n"
	      "       outboard device-unbind BDF...        (and back)\n"
	      "\n"
	      "Run a virtual machine whose devices live in other processes.\n"
	      "\n"
	      "FIELD=VALUE lists are split at commas; a value that holds a comma is written in\n"
	      "double quotes (a quote in it is doubled) or, for lists, in brackets.\n",
		out);
	print_groups(out, option_table);
	/* names of what is refused, so that a reader need not try */
	print_names(out, "Known from Cloud Hypervisor, not available in this version", option_table,
		is_refused);
}

void run_print_help(FILE *out)
{
	fputs("Usage: outboard run [OPTION]... KERNEL\n"
	      "\n"
	      "Run a virtual machine whose devices live in other processes, or in other guests,\n"
	      "with the command line that users of crosvm know.\n"
	      "\n"
	      "KERNEL is a bzImage, or an ELF vmlinux with a PVH entry. FIELD=VALUE lists are split\n"
	      "at commas; a value that holds a comma is written in double quotes.\n",
		out);
	print_groups(out, run_table);
	print_names(out, "As outboard --help has them", option_table, is_shared);
	print_names(out, "Known from crosvm, not available in this version", run_table, is_refused);
}
