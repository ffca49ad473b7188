/*
 * completion.c - the option tables as completion scripts for bash and zsh
 *
 * The scripts are printed by the built program (--print-completion) and installed with it, so
 * they know exactly its options. For bash the table becomes two case statements
 * (which fields has an option, which values a field) under a fixed piece of shell; zsh
 * has _arguments and _values, and the table becomes their arguments.
 *
 * A first word that is no option is another program of ours, or the other grammar, `run`;
 * device-bind and device-unbind are completed here, the others have scripts of their own.
 */
#include "control/options.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "control/option_table.h"
#include "control/run.h"

/* One of the two grammars: a table, and what names made from it begin with. */
struct command {
	const char *prefix;
	const struct option_row *own; /* before option_table; ends with a row without a name */
};

static const struct option_row none[] = { { 0 } };
static const struct command commands[] = { { "_outboard", none }, { "_outboard_run", run_table } };

/*
 * The first row from o on, in the own table or the shared one, that
 * is not hidden by an own one; NULL: none.
 */
static const struct option_row *next_row(
	const struct command *c, const struct option_row *o, bool own)
{
	if (own && !o->name) {
		o = option_table;
		own = false;
	}
	while (!own && o->name && option_find_in(c->own, o->name))
		o++;
	return o->name ? o : NULL;
}

static bool is_own(const struct command *c, const struct option_row *o)
{
	return option_find_in(c->own, o->name) == o;
}

#define for_each_of(o, c)                                                                          \
	for (const struct option_row *o = next_row(c, (c)->own, true); o;                          \
		o = next_row(c, o + 1, is_own(c, o)))

static bool is_offered(const struct option_row *o)
{
	return o->kind != OPTION_REFUSED && !o->hidden;
}

static bool is_path(const struct field_row *f)
{
	return f->type == FIELD_PATH || f->type == FIELD_SOCKET;
}

/* A choice that is written as a word of its own, not as name=value. */
static bool is_word(const struct option_row *o, const struct field_row *f, const struct choice *c)
{
	return f->word_only && !c->refused && !field_find(o, c->name);
}

/* What can be typed after an option: names with "=" and bare words. */
static void bash_field_names(FILE *out, const struct option_row *o)
{
	fprintf(out, "\t--%s", o->name);
	if (o->letter)
		fprintf(out, " | -%c", o->letter);
	fputs(") printf '%s '", out);
	for_each_field (f, o) {
		for_each_choice (c, f)
			if (is_word(o, f, c))
				fprintf(out, " %s", c->name);
		if (!f->refused && f->flag)
			fprintf(out, " %s", f->name);
		if (!f->refused && !f->word_only)
			fprintf(out, " %s=", f->name);
	}
	fputs(" ;;\n", out);
}

/* A case of OPTION.FIELD; of an option that is its only field, the shell has OPTION twice. */
static void bash_field_case(FILE *out, const struct option_row *o, const struct field_row *f)
{
	fprintf(out, "\t--%s.%s", o->name, f->name);
	if (o->letter && o->kind == OPTION_VALUE)
		fprintf(out, " | -%c.-%c", o->letter, o->letter);
	else if (o->letter)
		fprintf(out, " | -%c.%s", o->letter, f->name);
	fputs(") ", out);
}

/* What can be typed after OPTION FIELD=. */
static void bash_field_values(FILE *out, const struct option_row *o, const struct field_row *f)
{
	if (f->refused || f->word_only ||
		!(is_path(f) || f->type == FIELD_TOGGLE || f->type == FIELD_CHOICE))
		return;
	bash_field_case(out, o, f);
	if (is_path(f)) {
		fputs("compgen -f -- \"$2\" ;;\n", out);
	} else if (f->type == FIELD_TOGGLE) {
		fputs("compgen -W 'on off' -- \"$2\" ;;\n", out);
	} else {
		fputs("compgen -W '", out);
		for_each_choice (c, f)
			if (!c->refused)
				fprintf(out, "%s ", c->name);
		fputs("' -- \"$2\" ;;\n", out);
	}
}

static bool has_fields(const struct option_row *o)
{
	return o->kind == OPTION_FIELDS || o->kind == OPTION_LIST;
}

/* What a grammar's options are, as three pieces of shell. */
static void bash_command(FILE *out, const struct command *c)
{
	fprintf(out, "%s_fields()\n{\n\tcase $1 in\n", c->prefix);
	for_each_of(o, c)
		if (is_offered(o) && has_fields(o))
			bash_field_names(out, o);
	fprintf(out, "\tesac\n}\n\n%s_values()\n{\n\tcase $1 in\n", c->prefix);
	for_each_of(o, c)
		if (is_offered(o))
			for_each_field (f, o)
				bash_field_values(out, o, f);
	fprintf(out, "\tesac\n}\n\n%s_options='", c->prefix);
	for_each_of(o, c)
		if (is_offered(o))
			fprintf(out, "--%s ", o->name);
	fputs("'\n\n", out);
}

/* shell, line by line */
/* clang-format off */
static void print_bash(FILE *out)
{
	fputs("# bash completion for outboard, printed by: outboard --print-completion bash\n\n", out);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		bash_command(out, &commands[i]);
	fputs("_outboard_words='run device remote device-bind device-unbind'\n"
	      "\n"
	      "# device-bind and device-unbind: addresses as sysfs has them.\n"
	      "_outboard_bind()\n"
	      "{\n"
	      "\tlocal options='--force --help' devices\n"
	      "\t[[ $1 == device-bind ]] && options+=' --list --driver='\n"
	      "\tif [[ $2 == -* ]]; then\n"
	      "\t\tcompgen -W \"$options\" -- \"$2\"\n"
	      "\telse\n"
	      "\t\tdevices=$(cd /sys/bus/pci/devices 2>/dev/null && echo *)\n"
	      "\t\tcompgen -W \"$devices\" -- \"$2\"\n"
	      "\tfi\n"
	      "}\n"
	      "\n"
	      "# Readline splits at = and : as well as at blanks, so the word is taken from the\n"
	      "# line and what lies before its last = or : is cut off each candidate again.\n"
	      "_outboard()\n"
	      "{\n"
	      "\tlocal line=${COMP_LINE:0:COMP_POINT} word option= value head name i of=_outboard options\n"
	      "\tlocal -a before found=()\n"
	      "\tword=${line##*[[:space:]]}\n"
	      "\tread -ra before <<<\"${line%\"$word\"}\"\n"
	      "\tfor ((i = ${#before[@]} - 1; i > 0; i--)); do\n"
	      "\t\tif [[ ${before[i]} == -* ]]; then\n"
	      "\t\t\toption=${before[i]}\n"
	      "\t\t\tbreak\n"
	      "\t\tfi\n"
	      "\tdone\n"
	      "\tvalue=$word\n"
	      "\tif [[ ${before[1]} == device-bind || ${before[1]} == device-unbind ]]; then\n"
	      "\t\tmapfile -t found < <(_outboard_bind \"${before[1]}\" \"$word\")\n"
	      "\t\thead=${word%\"${word##*[=:]}\"}\n"
	      "\t\tCOMPREPLY=(\"${found[@]#\"$head\"}\")\n"
	      "\t\treturn\n"
	      "\tfi\n"
	      "\tif [[ ${before[1]} == device ]]; then\n"
	      "\t\tdeclare -F _outboard_device >/dev/null || _completion_loader outboard-device\n"
	      "\t\thead=\"${before[0]}-device ${line#*[[:space:]]device[[:space:]]}\"\n"
	      "\t\tCOMP_LINE=$head COMP_POINT=${#head} _outboard_device\n"
	      "\t\treturn\n"
	      "\tfi\n"
	      "\t[[ ${before[1]} == run ]] && of=_outboard_run\n"
	      "\toptions=${of}_options\n"
	      "\toptions=${!options}\n"
	      "\tif [[ $word == --*=* ]]; then\n"
	      "\t\toption=${word%%=*}\n"
	      "\t\tvalue=${word#*=}\n"
	      "\tfi\n"
	      "\thead=${word%\"$value\"}\n"
	      "\tif [[ $of == _outboard_run && $word != -* && ${before[-1]} != -* ]]; then\n"
	      "\t\tmapfile -t COMPREPLY < <(compgen -f -- \"$word\") # the kernel\n"
	      "\t\treturn\n"
	      "\tfi\n"
	      "\tif [[ ${#before[@]} == 1 && $word != -* ]]; then\n"
	      "\t\tmapfile -t found < <(compgen -W \"$_outboard_words $options\" -- \"$value\")\n"
	      "\telif [[ $value == -* || -z $option ]]; then\n"
	      "\t\tmapfile -t found < <(compgen -W \"$options\" -- \"$value\")\n"
	      "\telif [[ -n $(${of}_fields \"$option\") ]]; then\n"
	      "\t\tcompopt -o nospace 2>/dev/null\n"
	      "\t\tif [[ $value == *,* ]]; then\n"
	      "\t\t\thead+=${value%,*},\n"
	      "\t\t\tvalue=${value##*,}\n"
	      "\t\tfi\n"
	      "\t\tif [[ $value == *=* ]]; then\n"
	      "\t\t\tname=${value%%=*}\n"
	      "\t\t\thead+=$name=\n"
	      "\t\t\tmapfile -t found < <(${of}_values \"$option.$name\" \"${value#*=}\")\n"
	      "\t\telse\n"
	      "\t\t\tname=$(${of}_fields \"$option\")\n"
	      "\t\t\tmapfile -t found < <(compgen -W \"$name\" -- \"$value\")\n"
	      "\t\tfi\n"
	      "\telse\n"
	      "\t\tmapfile -t found < <(${of}_values \"$option.${option#--}\" \"$value\")\n"
	      "\t\t[[ ${#found[@]} == 1 && -d ${found[0]} ]] && compopt -o nospace 2>/dev/null\n"
	      "\tfi\n"
	      "\thead=${head#\"${word%\"${word##*[=:]}\"}\"}\n"
	      "\tCOMPREPLY=(\"${found[@]/#/$head}\")\n"
	      "}\n"
	      "\n"
	      "complete -F _outboard outboard\n",
		out);
}

/* clang-format on */

/* Inside single quotes of zsh, where [ ] : \ end or divide a specification. */
static void zsh_text(FILE *out, const char *text)
{
	for (; text && *text; text++) {
		if (strchr("[]:\\", *text))
			fprintf(out, "\\%c", *text);
		else if (*text == '\'')
			fputs("'\\''", out);
		else
			fputc(*text, out);
	}
}

/* ":message:action" of a value. */
static void zsh_action(FILE *out, const struct field_row *f)
{
	fputc(':', out);
	zsh_text(out, f->arg ? f->arg : "value");
	if (is_path(f)) {
		fputs(":_files", out);
	} else if (f->type == FIELD_TOGGLE) {
		fputs(":(on off)", out);
	} else if (f->type == FIELD_CHOICE) {
		fputs(":(", out);
		for_each_choice (c, f)
			if (!c->refused)
				fprintf(out, "%s ", c->name);
		fputc(')', out);
	} else {
		fputs(": ", out);
	}
}

/* A function that completes the fields of one option. */
static void zsh_fields(FILE *out, const struct command *command, const struct option_row *o)
{
	fprintf(out, "%s_%s()\n{\n\t_values -s , -S = field", command->prefix, o->name);
	for_each_field (f, o) {
		for_each_choice (c, f) {
			if (!is_word(o, f, c))
				continue;
			fprintf(out, " \\\n\t\t'%s[", c->name);
			zsh_text(out, c->help);
			fputs("]'", out);
		}
		if (f->refused || f->word_only)
			continue;
		fprintf(out, " \\\n\t\t'%s[", f->name);
		zsh_text(out, f->help);
		fputs(f->flag ? "]:" : "]", out); /* its value may be left out */
		zsh_action(out, f);
		fputc('\'', out);
	}
	fputs("\n}\n\n", out);
}

/* What an option is for, and what follows it. */
static void zsh_argument(FILE *out, const struct command *c, const struct option_row *o)
{
	zsh_text(out, o->help);
	fputc(']', out);
	if (has_fields(o))
		fprintf(out, ":fields:%s_%s", c->prefix, o->name);
	else if (o->kind == OPTION_VALUE || o->kind == OPTION_TEXTS)
		zsh_action(out, o->fields);
	fputc('\'', out);
}

static void zsh_option(FILE *out, const struct command *c, const struct option_row *o)
{
	bool fields = has_fields(o), value = o->kind == OPTION_VALUE || o->kind == OPTION_TEXTS;
	bool repeats = o->kind == OPTION_LIST || o->kind == OPTION_COUNT || o->kind == OPTION_TEXTS;

	fprintf(out, " \\\n\t'%s--%s%s[", repeats ? "*" : "", o->name, fields || value ? "=" : "");
	zsh_argument(out, c, o);
	if (!o->letter)
		return;
	fprintf(out, " \\\n\t'%s-%c%s[", repeats ? "*" : "", o->letter, fields || value ? "+" : "");
	zsh_argument(out, c, o);
}

static void zsh_options(FILE *out, const struct command *c)
{
	for_each_of(o, c)
		if (is_offered(o))
			zsh_option(out, c, o);
}

static void print_zsh(FILE *out)
{
	fputs("#compdef outboard\n"
	      "# zsh completion for outboard, printed by: outboard --print-completion zsh\n\n",
		out);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		for_each_of(o, &commands[i])
			if (is_offered(o) && has_fields(o))
				zsh_fields(out, &commands[i], o);
	fputs("_outboard_bind()\n"
	      "{\n"
	      "\tlocal -a devices=(/sys/bus/pci/devices/*(N:t))\n"
	      "\t_arguments '--force[also what this host uses]' '(-h --help)'{-h,--help}'[print the help]' \\\n"
	      "\t\t'--list[print the devices of this host]' '--driver=[another driver of VFIO]:NAME: ' \\\n"
	      "\t\t'*:device:_values device ${devices//:/\\\\:}'\n"
	      "}\n"
	      "\n"
	      "case ${words[2]} in\n"
	      "(device-bind | device-unbind)\n"
	      "\tshift words\n"
	      "\t(( CURRENT-- ))\n"
	      "\t_outboard_bind\n"
	      "\treturn\n"
	      "\t;;\n"
	      "(device)\n"
	      "\twords[2]=${words[1]}-device\n"
	      "\tshift words\n"
	      "\t(( CURRENT-- ))\n"
	      "\t_outboard-device\n"
	      "\treturn\n"
	      "\t;;\n"
	      "(run)\n"
	      "\tshift words\n"
	      "\t(( CURRENT-- ))\n"
	      "\t_arguments '*:kernel:_files'",
		out);
	zsh_options(out, &commands[1]);
	fputs("\n"
	      "\treturn\n"
	      "\t;;\n"
	      "esac\n"
	      "\n"
	      "_arguments \\\n"
	      "\t'1::program:(run device remote device-bind device-unbind)'",
		out);
	zsh_options(out, &commands[0]);
	fputc('\n', out);
}

int options_print_completion(FILE *out, const char *shell, struct err *err)
{
	if (!strcmp(shell, "bash"))
		print_bash(out);
	else if (!strcmp(shell, "zsh"))
		print_zsh(out);
	else
		return err_set(err, -EINVAL, "--print-completion: expected bash or zsh");
	return 0;
}
