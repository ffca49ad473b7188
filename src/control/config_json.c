/*
 * config_json.c - walk a JSON body along the option table, and the table into JSON
 *
 * A body is an object of objects and arrays; each has a row in the table (option_row.json), or
 * several: kernel, initramfs and the others are options of their own and keys of one object,
 * "payload". A row that is refused in this version has a place too, so that clients which only say
 * "no, thanks" are understood.
 *
 * In a body, unlike on a command line, order means nothing. So a mode that is given wins over the
 * one that a file or a socket implies, wherever it stands.
 *
 * Trusts: nothing in the body.
 */
#include "control/config_json.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "control/field.h"
#include "control/field_json.h"
#include "control/grammar.h"
#include "control/hint.h"
#include "control/value.h"

/* The place of something in the body; longer ones end in "...". */
struct path {
	char text[200];
};

static struct path join(const char *path, const char *key)
{
	struct path p;

	snprintf(p.text, sizeof(p.text), "%s%s%s", path, *path ? "." : "", grammar_show(key).text);
	return p;
}

static struct path at_index(const char *path, size_t i)
{
	struct path p;

	snprintf(p.text, sizeof(p.text), "%.160s[%zu]", path, i);
	return p;
}

int json_parse(const char *bytes, size_t len, json_t **out, struct err *err)
{
	json_error_t why;

	*out = json_loadb(bytes, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
	if (*out)
		return 0;
	if (json_error_code(&why) == json_error_out_of_memory)
		return err_set(err, -ENOMEM, "JSON: out of memory");
	return err_set(err, -EINVAL, "JSON: line %d, column %d: %s", why.line, why.column,
		grammar_show(why.text).text);
}

/* --- unknown keys --- */

/* Where the row's object is, seen from the one at path: the last word of it, or NULL. */
static const char *key_below(const struct option_row *o, const char *path)
{
	size_t len = strlen(path);

	if (!o->json || strncmp(o->json, path, len))
		return NULL;
	if (len && o->json[len] != '.')
		return NULL;
	return strchr(o->json + len + (len > 0), '.') ? NULL : o->json + len + (len > 0);
}

static const struct option_row *option_at(const char *path, const char *key)
{
	for_each_option (o) {
		const char *last = key_below(o, path);

		if (last && !strcmp(last, key))
			return o;
	}
	return NULL;
}

static int unknown_key(const struct option_row *only, const char *table_path, const char *path,
	const char *key, struct err *err)
{
	struct hint hint = HINT_NONE;

	for_each_option (o) {
		const char *last = only ? NULL : key_below(o, table_path);

		if (last)
			hint_offer(&hint, key, last);
		if (only ? o != only : !o->json || strcmp(o->json, table_path))
			continue;
		for_each_field (f, o)
			if (f->json)
				hint_offer(&hint, key, f->json);
	}
	if (hint.name)
		return err_set(err, -EINVAL, "%s: unknown key; did you mean %s?",
			join(path, key).text, hint.name);
	return err_set(err, -EINVAL, "%s: unknown key", join(path, key).text);
}

static const struct field_row *field_of_key(const struct option_row *o, const char *key)
{
	for_each_field (f, o)
		if (f->json && !strcmp(f->json, key))
			return f;
	return NULL;
}

/* --- reading --- */

static int expected(const char *path, const char *what, struct err *err)
{
	return err_set(err, -EINVAL, "%s: expected %s", *path ? path : "body", what);
}

/* Fields that choose a mode do so where the body does not. */
static void set_implied(const struct option_row *o, const json_t *object, void *base)
{
	for_each_field (f, o) {
		const struct field_row *mode = f->implies ? field_find(o, f->implies) : NULL;
		const json_t *given = mode ? json_object_get(object, mode->json) : NULL;

		if (mode && (!given || json_is_null(given)) && field_is_set(f, base))
			value_store_number(mode, base, f->implied);
	}
}

static int check_required(
	const struct option_row *o, const char *path, const void *base, struct err *err)
{
	for_each_field (f, o)
		if (f->required && !field_is_set(f, base))
			return err_set(err, -EINVAL, "%s: expected %s, got none",
				join(path, f->json).text, f->arg);
	return 0;
}

/* Whether fields of the option are in an object at that key. */
static bool has_below(const struct option_row *o, const char *key)
{
	size_t len = strlen(key);

	for_each_field (f, o)
		if (f->json && !strncmp(f->json, key, len) && f->json[len] == '.')
			return true;
	return false;
}

/* The members of an object, or of one in it: above is "" or what stands before their names in the
 * table. */
static int members_from_json(const struct option_row *option, const json_t *object,
	const char *above, const char *path, void *base, struct err *err)
{
	const char *key;
	json_t *member;
	int rc = 0;

	if (!json_is_object(object))
		return expected(path, "an object", err);
	json_object_foreach ((json_t *)object, key, member) {
		struct path place = join(path, key);
		struct path in_table = join(above, key);
		const struct field_row *f = field_of_key(option, in_table.text);

		if (f)
			rc = field_from_json(option, f, member, place.text, base, err);
		else if (!has_below(option, in_table.text))
			return unknown_key(option, "", path, key, err);
		else if (!json_is_null(member))
			rc = members_from_json(
				option, member, in_table.text, place.text, base, err);
		if (rc)
			return rc;
	}
	return 0;
}

int item_from_json(const struct option_row *option, const json_t *object, const char *path,
	void *base, struct err *err)
{
	int rc = members_from_json(option, object, "", path, base, err);

	if (rc)
		return rc;
	set_implied(option, object, base);
	return check_required(option, path, base, err);
}

static int refused_from_json(
	const struct option_row *o, const json_t *value, const char *path, struct err *err)
{
	if (json_asks_nothing(value))
		return 0;
	if (o->fields && json_is_object(value))
		return item_from_json(o, value, path, NULL, err);
	return err_set(err, -EOPNOTSUPP, "%s is not available in this version%s%s", path,
		o->refused ? "; " : "", o->refused ? o->refused : "");
}

static int list_from_json(const struct option_row *o, const json_t *value, const char *path,
	struct any_list *list, struct err *err)
{
	size_t i;
	json_t *item;

	if (!json_is_array(value))
		return expected(path, "an array", err);
	json_array_foreach (value, i, item) {
		void *base;
		int rc = fields_append(o, list, &base);

		if (rc)
			return err_set(err, rc, "%s: out of memory", path);
		rc = item_from_json(o, item, at_index(path, i).text, base, err);
		if (rc)
			return rc;
	}
	return 0;
}

static int key_from_json(struct vm_config *config, const struct option_row *o, const json_t *value,
	const char *path, struct err *err);

/* One key of an object that several rows may share. */
static int member_from_json(struct vm_config *config, const char *path, const char *key,
	const json_t *value, struct err *err)
{
	const struct option_row *below = option_at(path, key);

	for_each_option (o) {
		const struct field_row *f =
			o->json && !strcmp(o->json, path) ? field_of_key(o, key) : NULL;

		if (f)
			return field_from_json(
				o, f, value, join(path, key).text, (char *)config + o->offset, err);
	}
	if (below)
		return key_from_json(config, below, value, join(path, key).text, err);
	return unknown_key(NULL, path, path, key, err);
}

static int object_from_json(
	struct vm_config *config, const json_t *value, const char *path, struct err *err)
{
	const char *key;
	json_t *member;

	if (!json_is_object(value))
		return expected(path, "an object", err);
	json_object_foreach ((json_t *)value, key, member) {
		int rc = member_from_json(config, path, key, member, err);

		if (rc)
			return rc;
	}
	for_each_option (o)
		if (o->kind == OPTION_FIELDS && o->json && !strcmp(o->json, path))
			set_implied(o, value, (char *)config + o->offset);
	return 0;
}

static int key_from_json(struct vm_config *config, const struct option_row *o, const json_t *value,
	const char *path, struct err *err)
{
	if (o->kind == OPTION_REFUSED)
		return refused_from_json(o, value, path, err);
	if (json_is_null(value))
		return 0;
	if (o->kind == OPTION_LIST)
		return list_from_json(
			o, value, path, (struct any_list *)((char *)config + o->offset), err);
	return object_from_json(config, value, path, err);
}

int config_from_json(const json_t *body, struct vm_config *config, struct err *err)
{
	return object_from_json(config, body, "", err);
}

/* --- writing --- */

/* Put value at a key that may be in an object in object. Takes value. 0 or -ENOMEM. */
static int set_at(json_t *object, const char *key, json_t *value)
{
	const char *dot = strchr(key, '.');
	struct path first;
	json_t *inner;

	if (!dot)
		return json_object_set_new(object, key, value) ? -ENOMEM : 0;
	snprintf(first.text, sizeof(first.text), "%.*s", (int)(dot - key), key);
	inner = json_object_get(object, first.text);
	if (!inner) {
		inner = json_object();
		if (json_object_set_new(object, first.text, inner)) {
			json_decref(value);
			return -ENOMEM;
		}
	}
	return set_at(inner, dot + 1, value);
}

/* What is in an inner object is left out where it says nothing: nobody asked for limits of 0. */
static bool is_silent(const struct option_row *o, const struct field_row *f, const void *base)
{
	struct value fallback = { 0 };
	bool same = false;

	if (strchr(f->json, '.') && value_is_number(f) && !value_default(o, f, &fallback))
		same = value_number(f, base) == fallback.number;
	value_fini(&fallback);
	return same;
}

/* Add the option's fields to object. 0 or -ENOMEM. */
static int fields_to_json(const struct option_row *o, const void *base, json_t *object)
{
	for_each_field (f, o) {
		json_t *value = NULL;
		int rc = 0;

		if (!f->json || (!f->refused && is_silent(o, f, base)))
			continue;
		rc = field_to_json(o, f, base, &value);
		if (!rc && value)
			rc = set_at(object, f->json, value);
		if (rc)
			return rc;
	}
	return 0;
}

/* A device of which there is at most one, and which nobody asked for. */
static bool is_absent(const struct option_row *o, const void *base)
{
	for_each_field (f, o)
		if (f->makes && !field_is_set(f, base))
			return true;
	return false;
}

static int list_to_json(const struct option_row *o, const struct any_list *list, json_t *config)
{
	json_t *array = list->nr ? json_array() : NULL;

	if (list->nr && json_object_set_new(config, o->json, array))
		return -ENOMEM;
	for (size_t i = 0; i < list->nr; i++) {
		json_t *item = json_object();
		int rc = json_array_append_new(array, item)
				 ? -ENOMEM
				 : fields_to_json(o, (char *)list->items + i * o->item_size, item);

		if (rc)
			return rc;
	}
	return 0;
}

static int object_to_json(const struct option_row *o, const void *base, json_t *config)
{
	json_t *object = json_object_get(config, o->json);

	if (is_absent(o, base))
		return 0;
	if (!object) {
		object = json_object();
		if (json_object_set_new(config, o->json, object))
			return -ENOMEM;
	}
	return fields_to_json(o, base, object);
}

int config_to_json(const struct vm_config *config, json_t **out)
{
	json_t *json = json_object();
	int rc = json ? 0 : -ENOMEM;

	for_each_option (o) {
		const void *base = (const char *)config + o->offset;

		if (rc || !o->json || o->kind == OPTION_REFUSED)
			continue;
		assert(!strchr(o->json, '.'));
		rc = o->kind == OPTION_LIST ? list_to_json(o, base, json)
					    : object_to_json(o, base, json);
	}
	if (rc) {
		json_decref(json);
		return rc;
	}
	*out = json;
	return 0;
}
