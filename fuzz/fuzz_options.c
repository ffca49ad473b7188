/*
 * fuzz_options.c - the option grammar and the whole option table under libFuzzer
 *
 * The input is a command line, one argument on each line of it. Its first byte chooses: the
 * grammar's functions on the rest, one option with the rest as its argument, or the
 * rest as a whole command line, in either grammar. What must hold: no crash, no leak, no reading of
 * uninitialised bytes; a refusal has a text, of one line; what is accepted passes
 * the same checks when they are made again.
 */
#include "control/grammar.h"
#include "control/option_table.h"
#include "control/options.h"
#include "control/run.h"
#include "fuzz.h"

#define MAX_ARGS 64

static void fuzz_grammar(const char *text)
{
	struct grammar_strings strings;
	struct grammar_tuples tuples;
	struct grammar_items items;
	struct grammar_ints ints;
	FREE_AUTO char *plain = NULL;
	uint64_t number;
	bool on;

	if (!grammar_split(text, &items))
		for (size_t i = 0; i < items.nr; i++)
			require(items.items[i].name[0] || items.items[i].value);
	grammar_items_fini(&items);
	if (!grammar_dequote(text, &plain))
		require(strlen(plain) <= strlen(text));
	grammar_toggle(text, &on);
	grammar_uint(text, &number);
	grammar_size(text, &number);
	if (!grammar_int_list(text, UINT32_MAX, &ints))
		require(ints.nr && ints.nr <= GRAMMAR_MAX_INTS);
	grammar_ints_fini(&ints);
	grammar_tuple_list(text, &tuples);
	grammar_tuples_fini(&tuples);
	grammar_string_list(text, &strings);
	grammar_strings_fini(&strings);
	require(strlen(grammar_show(text).text) < sizeof(struct grammar_shown));
}

static void fuzz_option(size_t choice, const char *text)
{
	const struct option_row *options[100];
	struct vm_config config;
	struct err err = { 0 };
	size_t nr = 0;

	for_each_option (o)
		if (nr < ARRAY_SIZE(options))
			options[nr++] = o;
	require(!config_init(&config));
	require_text(options_apply(&config, options[choice % nr]->name, text, &err), &err);
	err = (struct err){ 0 };
	require_text(options_check(&config, &err), &err);
	config_fini(&config);
}

/* Options that print would fill the screen; what they print does not depend on the input. */
static bool prints(const char *argument)
{
	const struct option_row *o;

	if (argument[0] == '-' && argument[1] != '-')
		return strpbrk(argument, "hV") != NULL;
	o = argument[0] == '-' ? option_find(argument + 2) : NULL;
	return (o && (o->kind == OPTION_HELP || o->kind == OPTION_VERSION)) ||
	       !strncmp(argument, "--print-completion", 18);
}

static void fuzz_command_line(char *text,
	int (*parse)(int argc, char **argv, struct vm_config *config, struct err *err))
{
	char *argv[MAX_ARGS + 2] = { (char *)"outboard" };
	struct vm_config config;
	struct err err = { 0 };
	int argc = 1, rc;

	for (char *part; argc <= MAX_ARGS && (part = strsep(&text, "\n"));)
		if (!prints(part))
			argv[argc++] = part;
	require(!config_init(&config));
	rc = parse(argc, argv, &config, &err);
	require_text(rc, &err);
	if (!rc)
		require(!options_check(&config, &err));
	config_fini(&config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	FREE_AUTO char *text = NULL;

	if (!size || size > 4096)
		return 0;
	text = strndup((const char *)data + 1, size - 1);
	require(text != NULL);
	if (data[0] < 0x20)
		fuzz_grammar(text);
	else if (data[0] < 0x80)
		fuzz_option(data[0] - 0x20u, text);
	else if (data[0] < 0xc0)
		fuzz_command_line(text, options_parse);
	else
		fuzz_command_line(text, run_parse);
	return 0;
}
