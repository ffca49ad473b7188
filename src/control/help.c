/*
 * help.c - the option table as text: --help and --version
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

		if (f->refused)
			continue;
		if (f->type == FIELD_CHOICE)
			print_choices(out, o, f);
		if (f->word_only || o->kind == OPTION_VALUE)
			continue;
		snprintf(label, sizeof(label), "%s=%s", f->name, f->arg);
		print_entry(out, FIELD_AT, label, f->help, f->fallback);
	}
}

static void print_option(FILE *out, const struct option_row *o)
{
	char label[100];

	if (o->letter)
		snprintf(label, sizeof(label), "-%c, --%s", o->letter, o->name);
	else
		snprintf(label, sizeof(label), "--%s%s%s", o->name, o->arg ? " " : "",
			o->arg ? o->arg : "");
	print_entry(out, OPTION_AT, label, o->help, NULL);
	print_fields(out, o);
}

/* Names of what is refused, so that a reader need not try. */
static void print_refused(FILE *out)
{
	char text[2000] = "";
	size_t used = 0;

	for_each_option (o) {
		int n;

		if (o->kind != OPTION_REFUSED || o->hidden || used >= sizeof(text))
			continue;
		n = snprintf(text + used, sizeof(text) - used, "%s--%s", used ? ", " : "", o->name);
		used += n > 0 ? (size_t)n : 0;
	}
	fprintf(out, "Known from Cloud Hypervisor, not available in this version:\n%*s", OPTION_AT,
		"");
	print_wrapped(out, text, OPTION_AT, OPTION_AT);
}

void options_print_help(FILE *out)
{
	fputs("Usage: outboard --kernel PATH [OPTION]...\n"
	      "       outboard --firmware PATH [OPTION]...\n"
	      "       outboard --api-socket PATH [OPTION]...\n"
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
	for (int group = 0; group < NR_GROUPS; group++) {
		fprintf(out, "\n%s:\n", option_group_titles[group]);
		for_each_option (o)
			if (o->kind != OPTION_REFUSED && !o->hidden && (int)o->group == group)
				print_option(out, o);
	}
	fputc('\n', out);
	print_refused(out);
}
