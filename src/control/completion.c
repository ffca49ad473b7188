/*
 * completion.c - the option table as completion scripts for bash and zsh
 *
 * The scripts are printed by the built program (--print-completion) and installed with it, so
 * they know exactly its options. For bash the table becomes two case statements
 * (which fields has an option, which values a field) under a fixed piece of shell; zsh
 * has _arguments and _values, and the table becomes their arguments.
 *
 * A first word that is no option is another program of ours; device-bind and device-unbind are
 * completed here, the others have scripts of their own.
 */
#include "control/options.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "control/option_table.h"

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
	fprintf(out, "\t--%s) printf '%%s '", o->name);
	for_each_field (f, o) {
		for_each_choice (c, f)
			if (is_word(o, f, c))
				fprintf(out, " %s", c->name);
		if (!f->refused && !f->word_only)
			fprintf(out, " %s=", f->name);
	}
	fputs(" ;;\n", out);
}

/* What can be typed after OPTION FIELD=. */
static void bash_field_values(FILE *out, const struct option_row *o, const struct field_row *f)
{
	if (f->refused || f->word_only)
		return;
	if (is_path(f)) {
		fprintf(out, "\t--%s.%s) compgen -f -- \"$2\" ;;\n", o->name, f->name);
	} else if (f->type == FIELD_TOGGLE) {
		fprintf(out, "\t--%s.%s) compgen -W 'on off' -- \"$2\" ;;\n", o->name, f->name);
	} else if (f->type == FIELD_CHOICE) {
		fprintf(out, "\t--%s.%s) compgen -W '", o->name, f->name);
		for_each_choice (c, f)
			if (!c->refused)
				fprintf(out, "%s ", c->name);
		fputs("' -- \"$2\" ;;\n", out);
	}
}

/* shell, line by line */
/* clang-format off */
static void print_bash(FILE *out)
{
	fputs("# bash completion for outboard, printed by: outboard --print-completion bash\n"
	      "\n"
	      "_outboard_fields()\n{\n\tcase $1 in\n",
		out);
	for_each_option (o)
		if (is_offered(o) && (o->kind == OPTION_FIELDS || o->kind == OPTION_LIST))
			bash_field_names(out, o);
	fputs("\tesac\n}\n\n_outboard_values()\n{\n\tcase $1 in\n", out);
	for_each_option (o)
		if (is_offered(o))
			for_each_field (f, o)
				bash_field_values(out, o, f);
	fputs("\tesac\n}\n\n_outboard_words='device remote device-bind device-unbind'\n"
	      "_outboard_options='",
		out);
	for_each_option (o)
		if (is_offered(o))
			fprintf(out, "--%s ", o->name);
	fputs("'\n"
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
	      "\tlocal line=${COMP_LINE:0:COMP_POINT} word option= value head name i\n"
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
	      "\tif [[ $word == --*=* ]]; then\n"
	      "\t\toption=${word%%=*}\n"
	      "\t\tvalue=${word#*=}\n"
	      "\tfi\n"
	      "\thead=${word%\"$value\"}\n"
	      "\tif [[ ${#before[@]} == 1 && $word != -* ]]; then\n"
	      "\t\tmapfile -t found < <(compgen -W \"$_outboard_words $_outboard_options\" -- \"$value\")\n"
	      "\telif [[ $value == -* || -z $option ]]; then\n"
	      "\t\tmapfile -t found < <(compgen -W \"$_outboard_options\" -- \"$value\")\n"
	      "\telif [[ -n $(_outboard_fields \"$option\") ]]; then\n"
	      "\t\tcompopt -o nospace 2>/dev/null\n"
	      "\t\tif [[ $value == *,* ]]; then\n"
	      "\t\t\thead+=${value%,*},\n"
	      "\t\t\tvalue=${value##*,}\n"
	      "\t\tfi\n"
	      "\t\tif [[ $value == *=* ]]; then\n"
	      "\t\t\tname=${value%%=*}\n"
	      "\t\t\thead+=$name=\n"
	      "\t\t\tmapfile -t found < <(_outboard_values \"$option.$name\" \"${value#*=}\")\n"
	      "\t\telse\n"
	      "\t\t\tname=$(_outboard_fields \"$option\")\n"
	      "\t\t\tmapfile -t found < <(compgen -W \"$name\" -- \"$value\")\n"
	      "\t\tfi\n"
	      "\telse\n"
	      "\t\tmapfile -t found < <(_outboard_values \"$option.${option#--}\" \"$value\")\n"
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
static void zsh_fields(FILE *out, const struct option_row *o)
{
	fprintf(out, "_outboard_%s()\n{\n\t_values -s , -S = field", o->name);
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
		fputc(']', out);
		zsh_action(out, f);
		fputc('\'', out);
	}
	fputs("\n}\n\n", out);
}

static void zsh_option(FILE *out, const struct option_row *o)
{
	bool fields = o->kind == OPTION_FIELDS || o->kind == OPTION_LIST;
	bool repeats = o->kind == OPTION_LIST || o->kind == OPTION_COUNT;

	fprintf(out, " \\\n\t'%s--%s%s[", repeats ? "*" : "", o->name,
		fields || o->kind == OPTION_VALUE ? "=" : "");
	zsh_text(out, o->help);
	fputc(']', out);
	if (fields)
		fprintf(out, ":fields:_outboard_%s", o->name);
	else if (o->kind == OPTION_VALUE)
		zsh_action(out, o->fields);
	fputc('\'', out);
	if (!o->letter)
		return;
	fprintf(out, " \\\n\t'%s-%c[", repeats ? "*" : "", o->letter);
	zsh_text(out, o->help);
	fputs("]'", out);
}

static void print_zsh(FILE *out)
{
	fputs("#compdef outboard\n"
	      "# zsh completion for outboard, printed by: outboard --print-completion zsh\n\n",
		out);
	for_each_option (o)
		if (is_offered(o) && (o->kind == OPTION_FIELDS || o->kind == OPTION_LIST))
			zsh_fields(out, o);
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
	      "esac\n"
	      "\n"
	      "_arguments \\\n"
	      "\t'1::program:(device remote device-bind device-unbind)'",
		out);
	for_each_option (o)
		if (is_offered(o))
			zsh_option(out, o);
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
