/*
 * options.h - from a command line to a struct vm_config
 *
 *   config_init(&config);
 *   rc = options_parse(argc, argv, &config, &err);
 *   if (rc == 0) build and run; if (rc == OPTIONS_PRINTED) exit 0; else print err.text, exit 2
 *   config_fini(&config);
 *
 * `outboard run` fills the same struct in other words (run.h).
 *
 * Loop thread, or any other as long as nobody else uses the same config.
 */
#ifndef CONTROL_OPTIONS_H
#define CONTROL_OPTIONS_H

#include <stdio.h>

#include "base/err.h"
#include "control/config.h"

/* The user asked for the help, the version or a script, and has got it on standard output. */
#define OPTIONS_PRINTED 1

/*
 * Read the whole command line into config (which config_init() has set up) and check it
 * as options_check() does; with --api-socket and nothing said about a machine there need not be
 * one: then neither kernel nor firmware is set. argv[0] is skipped. Borrows argv.
 *
 * 0: config is complete. OPTIONS_PRINTED: nothing is left to do. Else -errno with one line
 * that names the option, the field and what was expected. The caller frees config in each case.
 */
int options_parse(int argc, char **argv, struct vm_config *config, struct err *err);

/*
 * Apply one option with its argument (ignored by OPTION_COUNT), as if --name=value had been
 * given. For options that set something in config, not those that print. 0 or -errno with a text.
 */
int options_apply(struct vm_config *config, const char *name, const char *value, struct err *err);

/*
 * Check what one option cannot see alone (boot <= max, two devices in one slot, something to
 * boot ...) and fill in what follows from the rest (cpus.max, device ids). 0 or -errno with a text.
 */
int options_check(struct vm_config *config, struct err *err);

/*
 * The same for what concerns the program, not the machine: a REST body cannot say it.
 */
int options_check_program(const struct vm_config *config, struct err *err);

/* `outboard v1.2.3`, as management tools parse it; by the other name for who is called by it. */
void options_print_version(FILE *out);

/* The whole help, 100 columns. */
void options_print_help(FILE *out);

/* The completion script for "bash" or "zsh". 0, or -EINVAL for another shell with a text. */
int options_print_completion(FILE *out, const char *shell, struct err *err);

#endif
