/*
 * option_apply.c - one option with its argument, applied to a configuration
 *
 * The row says what the argument is made of and where it goes; what a field's text means is
 * field.h's.
 *
 * Trusts: nothing in the argument.
 */
#include "control/option_apply.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/config.h"
#include "control/field.h"
#include "control/grammar.h"
#include "control/hint.h"

static int unknown_field(const struct option_row *o, const char *typed, struct err *err)
{
	struct hint best = HINT_NONE;
	char names[200] = "";
	size_t used = 0;

	for_each_field (f, o) {
		int n;

		if (f->word_only)
			continue;
		hint_offer(&best, typed, f->name);
		if (f->refused || used >= sizeof(names))
			continue;
		n = snprintf(names + used, sizeof(names) - used, "%s%s", used ? ", " : "", f->name);
		used += n > 0 ? (size_t)n : 0;
	}
	if (best.name)
		return err_set(err, -EINVAL, "%s: unknown field; did you mean %s=?",
			grammar_show(typed).text, best.name);
	return err_set(err, -EINVAL, "%s: unknown field; expected one of %s",
		grammar_show(typed).text, names);
}

/* Apply one element. *chooser is the element that has chosen between the option's modes so far. */
static int apply_item(const struct option_row *o, const struct grammar_item *item, bool first,
	void *base, const char **chooser, struct err *err)
{
	const struct field_row *bare = o->bare ? field_find(o, o->bare) : NULL;
	const struct field_row *f = field_find(o, item->name);
	int rc;

	if (!item->value && f && !f->word_only && !f->flag)
		return err_set(err, -EINVAL, "%s: expected %s=%s", f->name, f->name, f->arg);
	if (!item->value && first && bare) {
		f = bare;
		rc = field_set_plain(o, f, item->name, base, err);
	} else if (f && f->flag && !item->value) {
		rc = field_set_plain(o, f, "on", base, err);
	} else if (f && !f->word_only && item->value) {
		rc = field_set(o, f, item->value, base, err);
	} else {
		return unknown_field(o, item->name, err);
	}
	if (rc || (!f->word_only && !f->implies))
		return rc;
	if (*chooser && strcmp(*chooser, item->name))
		return err_set(err, -EINVAL, "%s: expected only one of %s and %s", item->name,
			*chooser, item->name);
	*chooser = item->name;
	return 0;
}

static int apply_string(const struct option_row *o, const char *text, void *base, struct err *err)
{
	struct grammar_items items;
	const char *chooser = NULL;
	int rc = grammar_split(text, &items);

	if (rc == -ENOMEM)
		return err_set(err, rc, "out of memory");
	if (rc == -ENODATA)
		return err_set(err, -EINVAL, "expected FIELD=VALUE between commas, got nothing");
	if (rc)
		return err_set(err, rc, "expected balanced quotes and brackets");
	for (size_t i = 0; !rc && i < items.nr; i++)
		rc = apply_item(o, &items.items[i], i == 0, base, &chooser, err);
	grammar_items_fini(&items);
	for_each_field (f, o)
		if (!rc && f->required && !field_is_set(f, base))
			rc = err_set(err, -EINVAL, "%s: expected %s=%s, got none", f->name, f->name,
				f->arg);
	return rc;
}

/* A row of another table leaves the list to the row that owns it. */
static int apply_list_element(
	const struct option_row *o, const char *text, struct any_list *list, struct err *err)
{
	const struct option_row *owner = o->of ? option_find(o->of) : o;
	void *item;
	int rc = fields_append(owner, list, &item);

	if (rc)
		return err_set(err, rc, "out of memory");
	if (o->of)
		rc = fields_default(o, o->fields, item);
	if (!rc)
		rc = fields_default(o, o->presets, item);
	if (rc)
		rc = err_set(err, rc, "out of memory");
	else
		rc = apply_string(o, text, item, err);
	if (rc)
		fields_drop_last(owner, list);
	return rc;
}

static int apply_text(const char *text, struct string_list *list, struct err *err)
{
	char **items = reallocarray(list->items, list->nr + 1, sizeof(*items));

	if (items)
		list->items = items;
	if (!items || !(items[list->nr] = strdup(text)))
		return err_set(err, -ENOMEM, "out of memory");
	list->nr++;
	return 0;
}

int option_apply(const struct option_row *o, void *config, const char *value, struct err *err)
{
	void *base = (char *)config + o->offset;
	struct err why = { 0 };
	int rc;

	switch (o->kind) {
	case OPTION_VALUE:
		rc = field_set_plain(o, o->fields, value, base, &why);
		return rc ? err_set(err, rc, "--%s", why.text) : 0;
	case OPTION_FIELDS:
		rc = apply_string(o, value, base, &why);
		break;
	case OPTION_LIST:
		rc = apply_list_element(o, value, base, &why);
		break;
	case OPTION_TEXTS:
		rc = apply_text(value, base, &why);
		break;
	case OPTION_COUNT:
		*(uint32_t *)base += *(uint32_t *)base < UINT32_MAX;
		return 0;
	case OPTION_FLAG:
		rc = fields_default(o, o->presets, base);
		return rc ? err_set(err, rc, "--%s: out of memory", o->name) : 0;
	default:
		return err_set(err, -EINVAL, "--%s sets nothing", o->name);
	}
	return rc ? err_set(err, rc, "--%s %s: %s", o->name, grammar_show(value).text, why.text)
		  : 0;
}
