/*
 * field.h - one field of the option table: read its text, store, compare, free
 *
 * Used by what walks the option table; others want options.h.
 */
#ifndef CONTROL_FIELD_H
#define CONTROL_FIELD_H

#include "base/err.h"
#include "control/option_table.h"

/*
 * Read raw (the text after "=", quoted or not) as the field's type and store it in base, the
 * option's struct, freeing what was there. An empty text sets the default. A field
 * that is refused in this version accepts its default only and stores nothing.
 * 0 or -errno; the text starts with the field's name.
 */
int field_set(const struct option_row *option, const struct field_row *field, const char *raw,
	void *base, struct err *err);

/*
 * Of a field that is refused in this version: 0 if text is its default, else -errno with a text.
 */
int field_refuse_unless_default(const struct option_row *option, const struct field_row *f,
	const char *text, struct err *err);

/* Back to the default. 0 or -ENOMEM. */
int field_reset(const struct option_row *option, const struct field_row *f, void *base);

/* As field_set() for a text that is not in the grammar: quotes are ordinary, an empty one is a
 * value. */
int field_set_plain(const struct option_row *option, const struct field_row *field,
	const char *text, void *base, struct err *err);

/* Store the default of each field. base's bytes need not mean anything before. 0 or -ENOMEM. */
int fields_init(const struct option_row *option, void *base);

/*
 * The same for those of fields that have a default, in storage that
 * means something; the others keep theirs.
 */
int fields_default(const struct option_row *option, const struct field_row *fields, void *base);

/* Free each field. */
void fields_fini(const struct option_row *option, void *base);

/* Every list in struct vm_config has this shape. */
struct any_list {
	void *items;
	size_t nr;
};

/* One more element, at its defaults, at the end of an OPTION_LIST. Lends *item. 0 or -ENOMEM. */
int fields_append(const struct option_row *option, struct any_list *list, void **item);
/* Take element i out and free it. */
void fields_remove(const struct option_row *option, struct any_list *list, size_t i);
/* The same for the last one. */
void fields_drop_last(const struct option_row *option, struct any_list *list);

/* Whether a field has been given (a string or list that is there, a number that is not the unset
 * value). */
bool field_is_set(const struct field_row *field, const void *base);

#endif
