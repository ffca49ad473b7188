/* number.h - numbers and switches among a model's options */
#ifndef DEVICE_NUMBER_H
#define DEVICE_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/*
 * The decimal number in text, min to max; text NULL: missing. name: the option's, without dashes. 0
 * or -EINVAL with a text.
 */
int number_option(const char *name, const char *text, uint64_t missing, uint64_t min, uint64_t max,
	uint64_t *out, struct err *err);
/* "on" or "off". As above. */
int switch_option(const char *name, const char *text, bool missing, bool *out, struct err *err);

#endif
