/*
 * run.h - `outboard run`: a machine described in crosvm's words
 *
 * The second grammar of the program. It has a table of its own (run_table.c), whose rows fill the
 * same struct vm_config as those of option_table, and from there on nothing knows in which words a
 * machine was asked for. What crosvm's users get without asking, they get here: 256 MiB, the serial
 * port on standard output, a VVU proxy behind the guest's IOMMU. The other rows of option_table are
 * known too.
 *
 * Any thread, as long as nobody else uses the same config.
 */
#ifndef CONTROL_RUN_H
#define CONTROL_RUN_H

#include <stdio.h>

#include "base/err.h"
#include "control/config.h"
#include "control/option_table.h"

/* The rows, in the order help prints them; ends with a row without a name. */
extern const struct option_row run_table[];

/* As options_parse() (options.h); argv[0], skipped, is "run". */
int run_parse(int argc, char **argv, struct vm_config *config, struct err *err);

/* The whole help, 100 columns. */
void run_print_help(FILE *out);

#endif
