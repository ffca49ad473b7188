/*
 * value.c - what a field of the option table can hold: read it from a text, keep it, free it
 *
 * Each type has a reader, which knows what was expected and says so.
 *
 * Trusts: nothing in the text. The table is ours: a row that cannot be is an assertion.
 */
#include "control/value.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/pci_address.h"
#include "base/sock.h"
#include "base/util.h"
#include "control/grammar.h"

bool value_is_string(const struct field_row *f)
{
	return f->type == FIELD_STRING || f->type == FIELD_PATH || f->type == FIELD_SOCKET ||
	       f->type == FIELD_ID;
}

bool value_is_number(const struct field_row *f)
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

static void strings_fini(struct string_list *list)
{
	for (size_t i = 0; i < list->nr; i++)
		free(list->items[i]);
	free(list->items);
	*list = (struct string_list){ 0 };
}

void value_fini(struct value *value)
{
	free(value->string);
	affinity_fini(&value->affinity);
	free(value->ints.items);
	strings_fini(&value->strings);
}

int value_expected(
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

	if (!rc && value->number >= f->min && value->number <= f->max) {
		value->number *= f->unit ? f->unit : 1; /* max is ours, and leaves room */
		return 0;
	}
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
	return value_expected(f, rc ? rc : -ERANGE, what, text, err);
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
	return value_expected(f, -EINVAL, what, text, err);
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
	return value_expected(f, -EINVAL,
		"a name of 1 to 64 printable characters without blank, slash and quote that does "
		"not begin with __",
		text, err);
}

static int read_string(
	const struct field_row *f, const char *text, struct value *value, struct err *err)
{
	value->string = strdup(text);
	if (!value->string)
		return value_expected(f, -ENOMEM, "memory", text, err);
	if (f->type == FIELD_ID)
		return check_id(f, text, err);
	if (f->type == FIELD_PATH && !*text)
		return value_expected(f, -EINVAL, "a path", text, err);
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
	return value_expected(f, rc,
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
	return value_expected(f, rc, what, text, err);
}

static int read_ints(
	const struct field_row *f, const char *text, struct value *value, struct err *err)
{
	struct grammar_ints ints = { 0 };
	char what[100];
	int rc = grammar_int_list(text, f->max, &ints);

	for (size_t i = 0; !rc && i < ints.nr; i++)
		if (ints.values[i] < f->min)
			rc = -ERANGE;
	if (!rc)
		rc = value_take_ints(f, ints.values, ints.nr, value);
	grammar_ints_fini(&ints);
	if (!rc)
		return 0;
	snprintf(what, sizeof(what),
		"a list of whole numbers from %" PRIu64 " to %" PRIu64 " ([1,2])", f->min, f->max);
	return value_expected(f, rc, what, text, err);
}

static int read_strings(
	const struct field_row *f, const char *text, struct value *value, struct err *err)
{
	struct grammar_strings strings;
	int rc = grammar_string_list(text, &strings);

	if (!rc) {
		rc = value_take_strings(strings.items, strings.nr, value);
		grammar_strings_fini(&strings);
	}
	return rc ? value_expected(f, rc, "a list of words ([a,b])", text, err) : 0;
}

int value_place(const char *text, uint16_t *segment, uint8_t *slot)
{
	struct pci_address at;

	if (pci_address_parse(text, &at) || at.domain >= CONFIG_MAX_SEGMENTS || at.bus ||
		!at.device || at.function)
		return -EINVAL;
	*segment = (uint16_t)at.domain;
	*slot = at.device;
	return 0;
}

int value_take_ints(const struct field_row *f, const uint64_t *from, size_t nr, struct value *value)
{
	assert(f->max <= UINT32_MAX);
	value->ints.items = calloc(MAX(nr, (size_t)1), sizeof(*value->ints.items));
	if (!value->ints.items)
		return -ENOMEM;
	for (size_t i = 0; i < nr; i++)
		value->ints.items[i] = (uint32_t)from[i];
	value->ints.nr = nr;
	return 0;
}

int value_take_strings(const char *const *from, size_t nr, struct value *value)
{
	struct string_list *list = &value->strings;

	list->items = calloc(MAX(nr, (size_t)1), sizeof(*list->items));
	if (!list->items)
		return -ENOMEM;
	for (; list->nr < nr; list->nr++) {
		list->items[list->nr] = strdup(from[list->nr]);
		if (!list->items[list->nr])
			return -ENOMEM;
	}
	return 0;
}

int value_read(const struct option_row *option, const struct field_row *f, const char *text,
	struct value *value, struct err *err)
{
	bool on;

	switch (f->type) {
	case FIELD_STRING:
	case FIELD_PATH:
	case FIELD_SOCKET:
	case FIELD_ID:
		return read_string(f, text, value, err);
	case FIELD_INT_LIST:
		return read_ints(f, text, value, err);
	case FIELD_STRING_LIST:
		return read_strings(f, text, value, err);
	case FIELD_TOGGLE:
		if (grammar_toggle(text, &on))
			return value_expected(f, -EINVAL, "on or off", text, err);
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
	case FIELD_PLACE:
		if (value_place(text, &value->place.segment, &value->place.slot))
			return value_expected(f, -EINVAL, VALUE_PLACE_EXPECTED, text, err);
		return 0;
	}
	assert(!"a type that nobody reads");
	return -EINVAL;
}

void value_store_number(const struct field_row *f, void *base, uint64_t number)
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

uint64_t value_number(const struct field_row *f, const void *base)
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

void value_store(const struct field_row *f, void *base, struct value *value)
{
	void *member = (char *)base + f->offset;

	if (value_is_number(f)) {
		value_store_number(f, base, value->number);
	} else if (value_is_string(f)) {
		free(*(char **)member);
		*(char **)member = value->string;
		value->string = NULL;
	} else if (f->type == FIELD_TOPOLOGY) {
		*(struct cpu_topology *)member = value->topology;
	} else if (f->type == FIELD_AFFINITY) {
		affinity_fini(member);
		*(struct affinity_list *)member = value->affinity;
		value->affinity = (struct affinity_list){ 0 };
	} else if (f->type == FIELD_INT_LIST) {
		free(((struct int_list *)member)->items);
		*(struct int_list *)member = value->ints;
		value->ints = (struct int_list){ 0 };
	} else if (f->type == FIELD_STRING_LIST) {
		strings_fini(member);
		*(struct string_list *)member = value->strings;
		value->strings = (struct string_list){ 0 };
	} else if (f->type == FIELD_PLACE) {
		((struct device_config *)member)->pci_segment = value->place.segment;
		((struct device_config *)member)->pci_device_id = value->place.slot;
	}
}

/* The fallback is ours, so it can be read. */
int value_default(const struct option_row *option, const struct field_row *f, struct value *value)
{
	struct err why = { 0 };
	int rc;

	*value = (struct value){ .number = f->unset, .place.slot = CONFIG_SLOT_ANY };
	if (!f->fallback)
		return 0;
	rc = value_read(option, f, f->fallback, value, &why);
	assert(!rc || rc == -ENOMEM);
	return rc;
}
