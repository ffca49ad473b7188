/*
 * command_line.h - command lines for the tests of both grammars: taken, or refused with their text
 *
 * Who includes it names the words' parser before: COMMAND_LINE_PROGRAM (its argv[0]) and COMMAND_LINE_PARSE.
 */
#ifndef TESTS_COMMAND_LINE_H
#define TESTS_COMMAND_LINE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/util.h"
#include "control/options.h"

/* Parses what follows the program's name; the caller frees config. Gives the text in err. */
static int parse(struct vm_config *config, struct err *err, const char *const *arguments)
{
	char *argv[80] = { (char *)COMMAND_LINE_PROGRAM };
	int argc = 1;

	for (; arguments[argc - 1]; argc++) {
		assert_true(argc < (int)ARRAY_SIZE(argv) - 1);
		argv[argc] = (char *)arguments[argc - 1];
	}
	*err = (struct err){ 0 };
	assert_int_equal(config_init(config), 0);
	return COMMAND_LINE_PARSE(argc, argv, config, err);
}

#define ARGS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void accept_args(struct vm_config *config, const char *const *arguments)
{
	struct err err;
	int rc = parse(config, &err, arguments);

	if (rc)
		print_error("%s\n", err.text);
	assert_int_equal(rc, 0);
}

static void refuse_args(const char *expected, const char *const *arguments)
{
	struct vm_config config;
	struct err err;

	assert_true(parse(&config, &err, arguments) < 0);
	config_fini(&config);
	assert_string_equal(err.text, expected);
}

#endif
