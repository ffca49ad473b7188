/*
 * option_apply.h - one option with its argument, applied to a configuration
 *
 * For what walks command lines; others want options.h.
 */
#ifndef CONTROL_OPTION_APPLY_H
#define CONTROL_OPTION_APPLY_H

#include "base/err.h"
#include "control/option_table.h"

/*
 * Apply value (not looked at where the option takes none) to the struct that o's offset is of. A
 * list whose new element is refused is left as it was. 0 or -errno with a text that begins with the
 * option.
 */
int option_apply(const struct option_row *o, void *config, const char *value, struct err *err);

#endif
