/*
 * field.c - one field of the option table: set it from the command line, reset, free
 *
 * A text is first read into a struct value (value.h) and then stored; so a refused text
 * leaves the configuration as it was.
 *
 * Trusts: nothing in the text.
 */
#include "control/field.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/grammar.h"
#include "control/value.h"

int field_reset(const struct option_row *option, const struct field_row *f, void *base)
{
	struct value value;
	int rc = value_default(option, f, &value);

	if (!rc)
		value_store(f, base, &value);
	value_fini(&value);
	return rc;
}

static bool same(const struct field_row *f, const struct value *a, const struct value *b)
{
	if (value_is_string(f))
		return a->string && b->string && !strcmp(a->string, b->string);
	return value_is_number(f) && a->number == b->number;
}

/* Of a field that this version does not have, only the default is accepted: it asks for nothing. */
int field_refuse_unless_default(const struct option_row *option, const struct field_row *f,
	const char *text, struct err *err)
{
	struct value given = { 0 }, fallback = { 0 };
	int rc;

	if (!f->fallback)
		return err_set(err, -EOPNOTSUPP, "%s is not available in this version: %s", f->name,
			f->refused);
	rc = value_read(option, f, text, &given, err);
	if (!rc && value_default(option, f, &fallback))
		rc = value_expected(f, -ENOMEM, "memory", text, err);
	if (!rc && !same(f, &given, &fallback))
		rc = err_set(err, -EOPNOTSUPP, "%s=%s is not available in this version: %s",
			f->name, grammar_show(text).text, f->refused);
	value_fini(&given);
	value_fini(&fallback);
	return rc;
}

static void set_implied(const struct option_row *option, const struct field_row *f, void *base)
{
	if (f->implies)
		value_store_number(field_find(option, f->implies), base, f->implied);
}

int field_set_plain(const struct option_row *option, const struct field_row *f, const char *text,
	void *base, struct err *err)
{
	struct value value = { 0 };
	int rc;

	if (f->refused)
		return field_refuse_unless_default(option, f, text, err);
	rc = value_read(option, f, text, &value, err);
	if (!rc) {
		value_store(f, base, &value);
		set_implied(option, f, base);
	}
	value_fini(&value);
	return rc;
}

/* Lists keep their quotes: the elements are cut first. */
static bool is_list(const struct field_row *f)
{
	return f->type == FIELD_AFFINITY || f->type == FIELD_INT_LIST ||
	       f->type == FIELD_STRING_LIST;
}

int field_set(const struct option_row *option, const struct field_row *f, const char *raw,
	void *base, struct err *err)
{
	char *text;
	int rc;

	/* file= would leave nothing to write to, rather than another mode */
	if (!*raw && f->implies)
		return value_expected(f, -EINVAL, f->arg, raw, err);
	if (!*raw)
		return f->refused ? 0 : field_reset(option, f, base);
	if (is_list(f))
		return field_set_plain(option, f, raw, base, err);
	rc = grammar_dequote(raw, &text);
	if (rc)
		return value_expected(f, rc, "balanced quotes", raw, err);
	rc = field_set_plain(option, f, text, base, err);
	free(text);
	return rc;
}

int fields_init(const struct option_row *option, void *base)
{
	int rc = 0;

	for_each_field (f, option)
		if (!f->refused)
			memset((char *)base + f->offset, 0, f->size);
	for_each_field (f, option)
		if (!f->refused && !rc)
			rc = field_reset(option, f, base);
	return rc;
}

int fields_default(const struct option_row *option, const struct field_row *fields, void *base)
{
	int rc = 0;

	for (const struct field_row *f = fields; f && f->name && !rc; f++)
		if (f->fallback && !f->refused)
			rc = field_reset(option, f, base);
	return rc;
}

void fields_fini(const struct option_row *option, void *base)
{
	for_each_field (f, option) {
		struct value nothing = { 0 };

		if (!f->refused && !value_is_number(f))
			value_store(f, base, &nothing);
	}
}

int fields_append(const struct option_row *option, struct any_list *list, void **item)
{
	void *items = reallocarray(list->items, list->nr + 1, option->item_size);
	int rc;

	if (!items)
		return -ENOMEM;
	list->items = items;
	*item = (char *)items + list->nr * option->item_size;
	memset(*item, 0, option->item_size);
	rc = fields_init(option, *item);
	if (rc)
		fields_fini(option, *item);
	else
		list->nr++;
	return rc;
}

void fields_remove(const struct option_row *option, struct any_list *list, size_t i)
{
	char *item = (char *)list->items + i * option->item_size;

	fields_fini(option, item);
	list->nr--;
	memmove(item, item + option->item_size, (list->nr - i) * option->item_size);
}

void fields_drop_last(const struct option_row *option, struct any_list *list)
{
	fields_remove(option, list, list->nr - 1);
}

bool field_is_set(const struct field_row *f, const void *base)
{
	const void *member = (const char *)base + f->offset;

	if (value_is_string(f))
		return *(char *const *)member != NULL;
	if (value_is_number(f))
		return value_number(f, base) != f->unset;
	if (f->type == FIELD_INT_LIST)
		return ((const struct int_list *)member)->nr > 0;
	if (f->type == FIELD_STRING_LIST)
		return ((const struct string_list *)member)->nr > 0;
	if (f->type == FIELD_AFFINITY)
		return ((const struct affinity_list *)member)->nr > 0;
	if (f->type == FIELD_PLACE)
		return ((const struct device_config *)member)->pci_device_id != CONFIG_SLOT_ANY;
	return ((const struct cpu_topology *)member)->threads_per_core > 0;
}
