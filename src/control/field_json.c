/*
 * field_json.c - one field of the option table from and to JSON
 *
 * Where a JSON value has an equal in the command line's grammar (numbers, switches, lists of
 * numbers, topology, affinity), it is written down as that and read by the same reader, so the same
 * bounds hold with the same words. Choices have a spelling of their own in JSON, and lists of
 * strings need no quoting there: those two are read directly.
 *
 * Trusts: nothing in the value. Its depth is bounded by the parser, its size by who received it.
 */
#include "control/field_json.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/field.h"
#include "control/grammar.h"
#include "control/value.h"

struct place {
	const struct option_row *option;
	const struct field_row *field;
	const char *path;
	struct err *err;
};

static const char *type_name(const json_t *value)
{
	static const char *const names[] = {
		[JSON_OBJECT] = "an object",
		[JSON_ARRAY] = "an array",
		[JSON_STRING] = "a string",
		[JSON_INTEGER] = "a number",
		[JSON_REAL] = "a fraction",
		[JSON_TRUE] = "true",
		[JSON_FALSE] = "false",
		[JSON_NULL] = "null",
	};

	return names[json_typeof(value)];
}

static int wrong_type(const struct place *p, const char *what, const json_t *value)
{
	return err_set(p->err, -EINVAL, "%s: expected %s, got %s", p->path, what, type_name(value));
}

static int no_memory(const struct place *p)
{
	return err_set(p->err, -ENOMEM, "%s: out of memory", p->path);
}

/* Readers begin their texts with the field's name; here it is the place in the body. */
static int relabel(const struct place *p, int rc, const struct err *why)
{
	size_t len = strlen(p->field->name);

	if (!strncmp(why->text, p->field->name, len))
		return err_set(p->err, rc, "%s%s", p->path, why->text + len);
	return err_set(p->err, rc, "%s: %s", p->path, why->text);
}

bool json_asks_nothing(const json_t *value)
{
	const char *key;
	json_t *member;

	if (json_is_null(value) || json_is_false(value))
		return true;
	if (json_is_array(value))
		return !json_array_size(value);
	if (!json_is_object(value))
		return false;
	json_object_foreach ((json_t *)value, key, member)
		if (!json_asks_nothing(member))
			return false;
	return true;
}

/* --- as the command line would write it --- */

static bool is_count(const json_t *value)
{
	return json_is_integer(value) && json_integer_value(value) >= 0;
}

static int write_ints(const struct place *p, const json_t *array, FILE *out)
{
	size_t i;
	json_t *item;

	if (!json_is_array(array))
		return wrong_type(p, "an array of numbers", array);
	fputc('[', out);
	json_array_foreach (array, i, item) {
		if (!is_count(item))
			return wrong_type(p, "whole numbers in the array", item);
		fprintf(out, "%s%lld", i ? "," : "", (long long)json_integer_value(item));
	}
	fputc(']', out);
	return 0;
}

static int check_keys(
	const struct place *p, const json_t *object, const char *const *keys, size_t nr)
{
	const char *key;
	json_t *member;

	json_object_foreach ((json_t *)object, key, member) {
		bool known = false;

		for (size_t i = 0; i < nr; i++)
			known |= !strcmp(key, keys[i]);
		if (!known)
			return err_set(p->err, -EINVAL, "%s.%s: unknown key", p->path,
				grammar_show(key).text);
	}
	return 0;
}

static const char *const topology_keys[] = { "threads_per_core", "cores_per_die",
	"dies_per_package", "packages" };

static int write_topology(const struct place *p, const json_t *value, FILE *out)
{
	int rc;

	if (!json_is_object(value))
		return wrong_type(p, "an object", value);
	rc = check_keys(p, value, topology_keys, ARRAY_SIZE(topology_keys));
	for (size_t i = 0; !rc && i < ARRAY_SIZE(topology_keys); i++) {
		const json_t *part = json_object_get(value, topology_keys[i]);

		if (!part || !is_count(part))
			return err_set(p->err, -EINVAL, "%s.%s: expected a whole number", p->path,
				topology_keys[i]);
		fprintf(out, "%s%lld", i ? ":" : "", (long long)json_integer_value(part));
	}
	return rc;
}

static int write_affinity(const struct place *p, const json_t *value, FILE *out)
{
	static const char *const keys[] = { "vcpu", "host_cpus" };
	size_t i;
	json_t *item;

	if (!json_is_array(value))
		return wrong_type(p, "an array", value);
	fputc('[', out);
	json_array_foreach (value, i, item) {
		const json_t *vcpu = json_object_get(item, keys[0]);
		const json_t *cpus = json_object_get(item, keys[1]);
		int rc = json_is_object(item) ? check_keys(p, item, keys, ARRAY_SIZE(keys)) : 0;

		if (rc)
			return rc;
		if (!vcpu || !is_count(vcpu) || !cpus)
			return err_set(p->err, -EINVAL,
				"%s: expected objects with the keys vcpu and host_cpus", p->path);
		fprintf(out, "%s%lld@", i ? "," : "", (long long)json_integer_value(vcpu));
		rc = write_ints(p, cpus, out);
		if (rc)
			return rc;
	}
	fputc(']', out);
	return 0;
}

static int write_text(const struct place *p, const json_t *value, FILE *out)
{
	switch (p->field->type) {
	case FIELD_STRING:
	case FIELD_PATH:
	case FIELD_SOCKET:
	case FIELD_ID:
		if (p->field->json_number && is_count(value)) {
			fprintf(out, "%lld", (long long)json_integer_value(value));
			return 0;
		}
		if (!json_is_string(value))
			return wrong_type(p, "a string", value);
		fputs(json_string_value(value), out);
		return 0;
	case FIELD_TOGGLE:
		if (!json_is_boolean(value))
			return wrong_type(p, "true or false", value);
		fputs(json_is_true(value) ? "on" : "off", out);
		return 0;
	case FIELD_UINT:
	case FIELD_SIZE:
		if (!json_is_integer(value))
			return wrong_type(p, "a number", value);
		fprintf(out, "%lld", (long long)json_integer_value(value));
		return 0;
	case FIELD_INT_LIST:
		return write_ints(p, value, out);
	case FIELD_TOPOLOGY:
		return write_topology(p, value, out);
	case FIELD_AFFINITY:
		return write_affinity(p, value, out);
	case FIELD_CHOICE:
	case FIELD_STRING_LIST:
	case FIELD_PLACE:
		break;
	}
	assert(!"a type that is read without a text");
	return -EINVAL;
}

/* Gives *text. */
static int as_text(const struct place *p, const json_t *value, char **text)
{
	size_t len = 0;
	FILE *out = open_memstream(text, &len);
	int rc;

	if (!out)
		return no_memory(p);
	rc = write_text(p, value, out);
	if (fclose(out) && !rc)
		rc = no_memory(p);
	if (rc) {
		free(*text);
		*text = NULL;
	}
	return rc;
}

/* --- reading --- */

static int read_as_text(const struct place *p, const json_t *value, struct value *out)
{
	FREE_AUTO char *text = NULL;
	struct err why = { 0 };
	int rc = as_text(p, value, &text);

	if (rc)
		return rc;
	rc = value_read(p->option, p->field, text, out, &why);
	return rc ? relabel(p, rc, &why) : 0;
}

static int unknown_choice(const struct place *p, const char *got)
{
	char what[160] = "";
	size_t used = 0;

	for_each_choice (c, p->field) {
		int n = snprintf(what + used, sizeof(what) - used, "%s%s",
			c == p->field->choices ? ""
			: c[1].name	       ? ", "
					       : " or ",
			c->json);

		if (n < 0 || (size_t)n >= sizeof(what) - used)
			break;
		used += (size_t)n;
	}
	return err_set(p->err, -EINVAL, "%s: expected %s, got \"%s\"", p->path, what,
		grammar_show(got).text);
}

static int read_choice(const struct place *p, const json_t *value, struct value *out)
{
	if (!json_is_string(value))
		return wrong_type(p, "a string", value);
	for_each_choice (c, p->field) {
		if (strcmp(c->json, json_string_value(value)))
			continue;
		if (c->refused)
			return err_set(p->err, -EOPNOTSUPP,
				"%s: %s is not available in this version: %s", p->path, c->json,
				c->refused);
		out->number = c->value;
		return 0;
	}
	return unknown_choice(p, json_string_value(value));
}

static int read_strings(const struct place *p, const json_t *value, struct value *out)
{
	FREE_AUTO const char **strings = NULL;
	size_t i;
	json_t *item;

	if (!json_is_array(value))
		return wrong_type(p, "an array of strings", value);
	strings = calloc(MAX(json_array_size(value), (size_t)1), sizeof(*strings));
	if (!strings)
		return no_memory(p);
	json_array_foreach (value, i, item) {
		if (!json_is_string(item))
			return wrong_type(p, "strings in the array", item);
		strings[i] = json_string_value(item);
	}
	return value_take_strings(strings, json_array_size(value), out) ? no_memory(p) : 0;
}

/* As on the command line: what it cannot do may be declined by name, but not asked for. */
static int read_refused(const struct place *p, const json_t *value)
{
	FREE_AUTO char *text = NULL;
	struct value given = { 0 }, fallback = { 0 };
	struct err why = { 0 };
	int rc;

	if (!p->field->fallback)
		return json_asks_nothing(value) ? 0
						: err_set(p->err, -EOPNOTSUPP,
							  "%s is not available in this version: %s",
							  p->path, p->field->refused);
	if (p->field->type != FIELD_CHOICE) {
		rc = as_text(p, value, &text);
		if (!rc)
			rc = field_refuse_unless_default(p->option, p->field, text, &why);
		return rc && why.text[0] ? relabel(p, rc, &why) : rc;
	}
	rc = read_choice(p, value, &given);
	if (!rc && value_default(p->option, p->field, &fallback))
		rc = no_memory(p);
	if (!rc && given.number != fallback.number)
		rc = err_set(p->err, -EOPNOTSUPP, "%s=%s is not available in this version: %s",
			p->path, json_string_value(value), p->field->refused);
	return rc;
}

int field_from_json(const struct option_row *option, const struct field_row *field,
	const json_t *value, const char *path, void *base, struct err *err)
{
	const struct place p = { option, field, path, err };
	struct value out = { 0 };
	int rc;

	if (json_is_null(value)) {
		rc = field->refused ? 0 : field_reset(option, field, base);
		return rc ? no_memory(&p) : 0;
	}
	if (field->refused)
		return read_refused(&p, value);
	if (json_is_array(value) && !json_array_size(value) &&
		(field->type == FIELD_INT_LIST || field->type == FIELD_AFFINITY))
		return field_reset(option, field, base) ? no_memory(&p) : 0;
	if (field->type == FIELD_CHOICE)
		rc = read_choice(&p, value, &out);
	else if (field->type == FIELD_STRING_LIST)
		rc = read_strings(&p, value, &out);
	else
		rc = read_as_text(&p, value, &out);
	if (!rc)
		value_store(field, base, &out);
	value_fini(&out);
	return rc;
}

/* --- writing --- */

json_t *json_text(const char *text)
{
	json_t *json = json_string(text);
	FREE_AUTO char *plain = NULL;

	if (json)
		return json;
	plain = strdup(text);
	for (char *at = plain; at && *at; at++)
		if (*at & 0x80)
			*at = '?';
	return plain ? json_string(plain) : NULL;
}

static json_t *ints_to_json(const uint32_t *items, size_t nr)
{
	json_t *array = json_array();

	for (size_t i = 0; array && i < nr; i++)
		if (json_array_append_new(array, json_integer(items[i]))) {
			json_decref(array);
			return NULL;
		}
	return array;
}

static json_t *strings_to_json(const struct string_list *list)
{
	json_t *array = json_array();

	for (size_t i = 0; array && i < list->nr; i++)
		if (json_array_append_new(array, json_text(list->items[i]))) {
			json_decref(array);
			return NULL;
		}
	return array;
}

static json_t *topology_to_json(const struct cpu_topology *t)
{
	return json_pack("{s:i,s:i,s:i,s:i}", topology_keys[0], t->threads_per_core,
		topology_keys[1], t->cores_per_die, topology_keys[2], t->dies_per_package,
		topology_keys[3], t->packages);
}

static json_t *affinity_to_json(const struct affinity_list *list)
{
	json_t *array = json_array();

	for (size_t i = 0; array && i < list->nr; i++) {
		const struct vcpu_affinity *a = &list->items[i];

		if (json_array_append_new(
			    array, json_pack("{s:I,s:o}", "vcpu", (json_int_t)a->vcpu, "host_cpus",
					   ints_to_json(a->host_cpus, a->nr_host_cpus)))) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}

static json_t *number_to_json(const struct field_row *f, uint64_t number)
{
	if (f->type == FIELD_TOGGLE)
		return json_boolean(number != 0);
	if (f->type != FIELD_CHOICE)
		return json_integer((json_int_t)number);
	for_each_choice (c, f)
		if (c->value == number)
			return json_string(c->json);
	assert(!"a choice that is in the table");
	return NULL;
}

static json_t *string_to_json(const struct field_row *f, const char *text)
{
	uint64_t number;

	if (f->json_number && !grammar_uint(text, &number) && number <= INT64_MAX)
		return json_integer((json_int_t)number);
	return json_text(text);
}

static json_t *refused_to_json(const struct option_row *option, const struct field_row *f)
{
	struct value fallback = { 0 };
	json_t *json;

	if (value_default(option, f, &fallback))
		return NULL;
	json = number_to_json(f, fallback.number);
	value_fini(&fallback);
	return json;
}

int field_to_json(
	const struct option_row *option, const struct field_row *f, const void *base, json_t **out)
{
	const void *member = (const char *)base + f->offset;

	*out = NULL;
	if (f->refused && (!f->fallback || !value_is_number(f)))
		return 0;
	if (f->refused) {
		*out = refused_to_json(option, f);
	} else if (value_is_number(f)) {
		if (!f->fallback && !field_is_set(f, base))
			return 0;
		*out = number_to_json(f, value_number(f, base));
	} else if (!field_is_set(f, base)) {
		return 0;
	} else if (value_is_string(f)) {
		*out = string_to_json(f, *(char *const *)member);
	} else if (f->type == FIELD_INT_LIST) {
		*out = ints_to_json(((const struct int_list *)member)->items,
			((const struct int_list *)member)->nr);
	} else if (f->type == FIELD_STRING_LIST) {
		*out = strings_to_json(member);
	} else if (f->type == FIELD_TOPOLOGY) {
		*out = topology_to_json(member);
	} else {
		*out = affinity_to_json(member);
	}
	return *out ? 0 : -ENOMEM;
}
