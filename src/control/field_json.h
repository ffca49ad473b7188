/*
 * field_json.h - one field of the option table from and to JSON
 *
 * Used by config_json.c, which walks the table.
 */
#ifndef CONTROL_FIELD_JSON_H
#define CONTROL_FIELD_JSON_H

#include <jansson.h>

#include "base/err.h"
#include "control/option_table.h"

/*
 * Set the field in base, its option's struct, from a JSON value; null sets the default. Of a field
 * that is refused in this version only its default is accepted, or what asks for nothing
 * (json_asks_nothing()). path is the value's place in the body, "cpus.boot_vcpus": the text of an
 * error begins with it. 0 or -errno.
 */
int field_from_json(const struct option_row *option, const struct field_row *field,
	const json_t *value, const char *path, void *base, struct err *err);

/* Gives *out: NULL if the field is unset. Of a refused field, its default. 0 or -ENOMEM. */
int field_to_json(const struct option_row *option, const struct field_row *field, const void *base,
	json_t **out);

/* null, false, [], {} and objects with nothing but such members: a client says that it does not
 * want something. */
bool json_asks_nothing(const json_t *value);

/* Any bytes as a JSON string: what is no UTF-8 becomes "?". Gives it, or NULL (no memory). */
json_t *json_text(const char *text);

#endif
