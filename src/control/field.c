/*
 * field.c - one field of the option table: read its text, store, free
 *
 * A text is first read into a struct value, by a reader per field type that knows what was
 * expected and says so, and then stored; so a refused text leaves the configuration as it was.
 *
 * Owns:   a struct value until value_store() has handed it to the configuration.
 * Trusts: nothing in the text. The table is ours: a row that cannot be is an assertion.
 */
#include "control/field.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/sock.h"
#include "base/util.h"
#include "control/config.h"
#include "control/grammar.h"

struct value {
	uint64_t number;
	char *string;
	struct cpu_topology topology;
	struct affinity_list affinity;
};

static bool is_string(const struct field_row *f)
{
	return f->type == FIELD_STRING || f->type == FIELD_PATH || f->type == FIELD_SOCKET ||
	       f->type == FIELD_ID;
}

static bool is_number(const struct field_row *f)
{
	return f->type == FIELD_TOGGLE || f->type == FIELD_UINT || f->type == FIELD_SIZE ||
	       f->type == FIELD_CHOICE;
}

static void affinity_fini(struct affinity_list *list)
{
	for (size_t i = 0; i < list->nr; i++)
		free(list->items[i].host_cpus);
	free(list->items);
	*list = (struct affinity_list){ 0 };
}

static void value_fini(struct value *value)
{
	free(value->string);
	affinity_fini(&value->affinity);
}

/* "boot: expected a whole number from 1 to 254, got "x"". Returns rc, but -ENOMEM as such. */
static int expected(
	const struct field_row *f, int rc, const char *what, const char *raw, struct err *err)
{
	if (rc == -ENOMEM)
		return err_set(err, rc, "%s: out of memory", f->name);
	return err_set(
		err, rc, "%s: expected %s, got \"%s\"", f->name, what, grammar_show(raw).text);
}

static int read_number(
	const struct field_row *f, const char *text, struct value *value, struct err *err)
{
	bool size = f->type == FIELD_SIZE;
	int rc = size ? grammar_size(text, &value->number) : grammar_uint(text, &value->number);
	char what[100];

	if (!rc && value->number >= f->min && value->number <= f->max)
		return 0;
	if (!rc && !value->number && f->zero)
		return err_set(err, -EINVAL, "%s: %s; expected %" PRIu64 " to %" PRIu64, f->name,
			f->zero, f->min, f->max);
	if (!size)
		snprintf(what, sizeof(what), "a whole number from %" PRIu64 " to %" PRIu64, f->min,
			f->max);
	else if (rc == -ERANGE)
		snprintf(what, sizeof(what), "a size below 16 EiB");
	else
		snprintf(what, sizeof(what), "a size: digits and at most one of K, M, G (512M)");
	return expected(f, rc ? rc : -ERANGE, what, text, err);
}

/* The names of a field's choices, "off, null, tty or file=PATH", into buf. */
static void list_choices(
	const struct option_row *option, const struct field_row *f, char *buf, size_t size)
{
	size_t used = 0;

	buf[0] = '\0';
	for_each_choice (c, f) {
		const struct field_row *valued = f->word_only ? field_find(option, c->name) : NULL;
		const char *join = c == f->choices ? "" : c[1].name ? ", " : " or ";
		int n;

		n = snprintf(buf + used, size - used, "%s%s%s%s", join, c->name, valued ? "=" : "",
			valued ? valued->arg : "");
		if (n < 0 || (size_t)n >= size - used)
			return;
		used += n;
	}
}

static int read_choice(const struct option_row *option, const struct field_row *f, const char *text,
	struct value *value, struct err *err)
{
	char what[160];

	for_each_choice (c, f) {
		if (strcmp(c->name, text))
			continue;
		if (f->word_only && field_find(option, text))
			return err_set(err, -EINVAL, "%s: expected %s=%s", text, text,
				field_find(option, text)->arg);
		if (c->refused)
			return err_set(err, -EOPNOTSUPP,
				"%s%s%s is not available in this version: %s",
				f->word_only ? "" : f->name, f->word_only ? "" : " ", c->name,
				c->refused);
		value->number = c->value;
		return 0;
	}
	list_choices(option, f, what, sizeof(what));
	return expected(f, -EINVAL, what, text, err);
}

/* Ids appear in messages and JSON; those that begin with __ name the machine's own parts. */
static int check_id(const struct field_row *f, const char *text, struct err *err)
{
	size_t len = strlen(text);

	if (!len || len > 64 || !strncmp(text, "__", 2))
		goto refused;
	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~' || strchr("/\\\"", text[i]))
			goto refused;
	return 0;
refused:
	return expected(f, -EINVAL,
		"a name of 1 to 64 printable characters without blank, slash and quote that does "
		"not begin with __",
		text, err);
}

/* Takes text into value, also on failure. */
static int read_string(const struct field_row *f, char *text, struct value *value, struct err *err)
{
	value->string = text;
	if (f->type == FIELD_ID)
		return check_id(f, text, err);
	if (f->type == FIELD_PATH && !*text)
		return expected(f, -EINVAL, "a path", text, err);
	if (f->type == FIELD_SOCKET && sock_check_path(text, NULL))
		return err_set(err, -EINVAL, "%s: expected a path of 1 to %zu bytes, got %zu",
			f->name, sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1, strlen(text));
	return 0;
}

/* T:C:D:P, each a number from 1 on. */
static int read_topology(
	const struct field_row *f, const char *text, struct value *value, struct err *err)
{
	uint16_t *part[] = { &value->topology.threads_per_core, &value->topology.cores_per_die,
		&value->topology.dies_per_package, &value->topology.packages };
	FREE_AUTO char *copy = strdup(text);
	char *rest = copy;
	int rc = copy ? 0 : -ENOMEM;

	for (size_t i = 0; !rc && i < ARRAY_SIZE(part); i++) {
		char *word = strsep(&rest, ":");
		uint64_t v;

		rc = word ? grammar_uint(word, &v) : -EINVAL;
		if (!rc && (!v || v > CONFIG_MAX_CPUS))
			rc = -ERANGE;
		if (!rc)
			*part[i] = (uint16_t)v;
	}
	if (!rc && rest)
		rc = -EINVAL;
	if (!rc)
		return 0;
	return expected(f, rc,
		"threads per core:cores per die:dies per package:packages, each from 1 to 254 "
		"(1:2:2:1)",
		text, err);
}

static int read_affinity_item(
	const struct field_row *f, const struct grammar_tuple *tuple, struct vcpu_affinity *item)
{
	struct grammar_ints ints;
	uint64_t vcpu;
	int rc = grammar_uint(tuple->key, &vcpu);

	if (!rc && vcpu >= CONFIG_MAX_CPUS)
		rc = -ERANGE;
	if (!rc)
		rc = grammar_int_list(tuple->value, f->max, &ints);
	if (rc)
		return rc;
	item->vcpu = (uint32_t)vcpu;
	item->host_cpus = calloc(ints.nr, sizeof(*item->host_cpus));
	if (item->host_cpus) {
		item->nr_host_cpus = ints.nr;
		for (size_t i = 0; i < ints.nr; i++)
			item->host_cpus[i] = (uint32_t)ints.values[i];
	} else {
		rc = -ENOMEM;
	}
	grammar_ints_fini(&ints);
	return rc;
}

static int read_affinity(
	const struct field_row *f, const char *text, struct value *value, struct err *err)
{
	struct affinity_list *list = &value->affinity;
	struct grammar_tuples tuples = { 0 };
	char what[120];
	int rc = grammar_tuple_list(text, &tuples);

	/* one row for each virtual processor there can be, so that the work stays bounded */
	if (!rc && tuples.nr > CONFIG_MAX_CPUS)
		rc = -E2BIG;
	if (!rc) {
		list->items = calloc(tuples.nr, sizeof(*list->items));
		rc = list->items ? 0 : -ENOMEM;
	}
	for (size_t i = 0; !rc && i < tuples.nr; i++) {
		rc = read_affinity_item(f, &tuples.items[i], &list->items[i]);
		list->nr += !rc;
	}
	grammar_tuples_fini(&tuples);
	if (!rc)
		return 0;
	snprintf(what, sizeof(what),
		"[CPU@[LIST],...] with CPU below %d and host processors up to %" PRIu64
		" ([0@[0,1],1@[2-3]])",
		CONFIG_MAX_CPUS, f->max);
	return expected(f, rc, what, text, err);
}

/* Read what is not a string. Gives *value, which the caller frees also on failure. */
static int value_read(const struct option_row *option, const struct field_row *f, char *text,
	struct value *value, struct err *err)
{
	bool on;

	switch (f->type) {
	case FIELD_TOGGLE:
		if (grammar_toggle(text, &on))
			return expected(f, -EINVAL, "on or off", text, err);
		value->number = on;
		return 0;
	case FIELD_UINT:
	case FIELD_SIZE:
		return read_number(f, text, value, err);
	case FIELD_CHOICE:
		return read_choice(option, f, text, value, err);
	case FIELD_TOPOLOGY:
		return read_topology(f, text, value, err);
	case FIELD_AFFINITY:
		return read_affinity(f, text, value, err);
	default:
		assert(!"a type that has no numbers and no parts");
		return -EINVAL;
	}
}

static void number_store(const struct field_row *f, void *base, uint64_t number)
{
	void *member = (char *)base + f->offset;

	switch (f->size) {
	case 1:
		*(uint8_t *)member = (uint8_t)number;
		break;
	case 2:
		*(uint16_t *)member = (uint16_t)number;
		break;
	case 4:
		*(uint32_t *)member = (uint32_t)number;
		break;
	case 8:
		*(uint64_t *)member = number;
		break;
	default:
		assert(!"a number has 1, 2, 4 or 8 bytes");
	}
}

static uint64_t number_load(const struct field_row *f, const void *base)
{
	const void *member = (const char *)base + f->offset;

	switch (f->size) {
	case 1:
		return *(const uint8_t *)member;
	case 2:
		return *(const uint16_t *)member;
	case 4:
		return *(const uint32_t *)member;
	default:
		return *(const uint64_t *)member;
	}
}

/* Free what base holds there and move value in. */
static void value_store(const struct field_row *f, void *base, struct value *value)
{
	void *member = (char *)base + f->offset;

	if (is_number(f)) {
		number_store(f, base, value->number);
	} else if (is_string(f)) {
		free(*(char **)member);
		*(char **)member = value->string;
		value->string = NULL;
	} else if (f->type == FIELD_TOPOLOGY) {
		*(struct cpu_topology *)member = value->topology;
	} else if (f->type == FIELD_AFFINITY) {
		affinity_fini(member);
		*(struct affinity_list *)member = value->affinity;
		value->affinity = (struct affinity_list){ 0 };
	}
}

/* What the field holds when nobody says anything. The fallback is ours, so it can be read. */
static int value_default(
	const struct option_row *option, const struct field_row *f, struct value *value)
{
	struct err why = { 0 };
	char *text;
	int rc;

	*value = (struct value){ .number = f->unset };
	if (!f->fallback)
		return 0;
	text = strdup(f->fallback);
	if (!text)
		return -ENOMEM;
	if (is_string(f)) {
		value->string = text;
		return 0;
	}
	rc = value_read(option, f, text, value, &why);
	free(text);
	assert(!rc || rc == -ENOMEM);
	return rc;
}

static int field_reset(const struct option_row *option, const struct field_row *f, void *base)
{
	struct value value;
	int rc = value_default(option, f, &value);

	if (!rc)
		value_store(f, base, &value);
	value_fini(&value);
	return rc;
}

/* Of a field that this version does not have, only the default is accepted: it asks for nothing. */
static int refuse_unless_default(
	const struct option_row *option, const struct field_row *f, char *text, struct err *err)
{
	struct value given = { 0 }, fallback;
	int rc;

	if (!f->fallback || !is_number(f))
		return err_set(err, -EOPNOTSUPP, "%s is not available in this version: %s", f->name,
			f->refused);
	rc = value_read(option, f, text, &given, err);
	if (rc)
		return rc;
	rc = value_default(option, f, &fallback);
	if (rc)
		return expected(f, rc, "memory", text, err);
	if (given.number == fallback.number)
		return 0;
	return err_set(err, -EOPNOTSUPP, "%s=%s is not available in this version: %s", f->name,
		grammar_show(text).text, f->refused);
}

static void set_implied(const struct option_row *option, const struct field_row *f, void *base)
{
	if (f->implies)
		number_store(field_find(option, f->implies), base, f->implied);
}

/* Takes text, which is read as it is. */
static int set_text(const struct option_row *option, const struct field_row *f, char *text,
	void *base, struct err *err)
{
	struct value value = { 0 };
	int rc;

	if (f->refused) {
		rc = refuse_unless_default(option, f, text, err);
	} else if (is_string(f)) {
		rc = read_string(f, text, &value, err);
		text = NULL; /* value has it */
	} else {
		rc = value_read(option, f, text, &value, err);
	}
	if (!rc && !f->refused) {
		value_store(f, base, &value);
		set_implied(option, f, base);
	}
	value_fini(&value);
	free(text);
	return rc;
}

int field_set(const struct option_row *option, const struct field_row *f, const char *raw,
	void *base, struct err *err)
{
	/* lists keep their quotes: the elements are cut first */
	bool list = f->type == FIELD_AFFINITY || f->type == FIELD_INT_LIST;
	char *text;
	int rc;

	/* file= would leave nothing to write to, rather than another mode */
	if (!*raw && f->implies)
		return expected(f, -EINVAL, f->arg, raw, err);
	if (!*raw)
		return f->refused ? 0 : field_reset(option, f, base);
	if (list)
		return field_set_plain(option, f, raw, base, err);
	rc = grammar_dequote(raw, &text);
	if (rc)
		return expected(f, rc, "balanced quotes", raw, err);
	return set_text(option, f, text, base, err);
}

int field_set_plain(const struct option_row *option, const struct field_row *f, const char *text,
	void *base, struct err *err)
{
	char *copy = strdup(text);

	if (!copy)
		return expected(f, -ENOMEM, "memory", text, err);
	return set_text(option, f, copy, base, err);
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

void fields_fini(const struct option_row *option, void *base)
{
	for_each_field (f, option) {
		struct value nothing = { 0 };

		if (!f->refused && !is_number(f))
			value_store(f, base, &nothing);
	}
}

bool field_is_set(const struct field_row *f, const void *base)
{
	const void *member = (const char *)base + f->offset;

	if (is_string(f))
		return *(char *const *)member != NULL;
	if (is_number(f))
		return number_load(f, base) != f->unset;
	return true;
}
