/*
 * grammar.c - split and convert option strings
 *
 * One scanner, next_cut(), walks a string with the two facts that matter (inside
 * quotes? how deep in brackets?) and finds the next separator outside of both.
 * Everything else is cutting at its answers. A quoted part toggles at each
 * quote, so a doubled quote inside one toggles twice and needs no rule of its
 * own until dequoting.
 *
 * Trusts: nothing but the terminating NUL. Work and memory are linear in the
 * text, but for integer ranges, which GRAMMAR_MAX_INTS bounds.
 */
#include "control/grammar.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/util.h"

/* The bytes of the printable character at s: 1 for ASCII, 2 to 4 for UTF-8, 0 for neither. */
static size_t printable(const unsigned char *s)
{
	size_t len = *s < 0x80		       ? 1
		     : *s >= 0xc2 && *s < 0xe0 ? 2
		     : *s >= 0xe0 && *s < 0xf0 ? 3
		     : *s >= 0xf0 && *s < 0xf5 ? 4
					       : 0;

	if (len == 1)
		return *s >= 0x20 && *s != 0x7f;
	for (size_t i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	/* C1 control characters move a terminal's cursor as well as the ASCII ones do */
	return len == 2 && *s == 0xc2 && s[1] < 0xa0 ? 0 : len;
}

struct grammar_shown grammar_show(const char *text)
{
	struct grammar_shown shown = { 0 };
	size_t room = sizeof(shown.text) - sizeof("..."), used = 0;
	const unsigned char *s = (const unsigned char *)text;

	while (*s) {
		size_t len = printable(s);

		if (used + MAX(len, 1u) > room) {
			strcpy(shown.text + used, "...");
			return shown;
		}
		if (len)
			memcpy(shown.text + used, s, len);
		else
			shown.text[used] = '?';
		used += MAX(len, 1u);
		s += MAX(len, 1u);
	}
	return shown;
}

static bool is_blank(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Cut blanks off both ends, in place. */
static char *trim(char *s)
{
	size_t len;

	while (is_blank(*s))
		s++;
	len = strlen(s);
	while (len && is_blank(s[len - 1]))
		s[--len] = '\0';
	return s;
}

/*
 * The first separator in s outside quotes and brackets, or the end of s.
 * NULL when the text ends inside quotes or brackets or closes one it never opened.
 */
static char *next_cut(char *s, char separator)
{
	bool quoted = false;
	size_t depth = 0;

	for (; *s; s++) {
		if (*s == '"')
			quoted = !quoted;
		else if (quoted)
			continue;
		else if (*s == separator && !depth)
			return s;
		else if (*s == '[')
			depth++;
		else if (*s == ']' && !depth--)
			return NULL;
	}
	return quoted || depth ? NULL : s;
}

/* How many parts a string has at most when it is cut at separators. */
static size_t count_parts(const char *s, char separator)
{
	size_t nr = 1;

	for (; *s; s++)
		nr += *s == separator;
	return nr;
}

/* Take the part before the next comma off *rest, NULL after the last. -EINVAL: unbalanced. */
static int take_part(char **rest, char **part)
{
	char *cut = next_cut(*rest, ',');

	if (!cut)
		return -EINVAL;
	*part = *rest;
	*rest = *cut ? cut + 1 : NULL;
	*cut = '\0';
	return 0;
}

int grammar_split(const char *text, struct grammar_items *out)
{
	char *rest, *part;
	int rc = 0;

	*out = (struct grammar_items){ 0 };
	if (!*text)
		return 0;
	out->text = rest = strdup(text);
	out->items = calloc(count_parts(text, ','), sizeof(*out->items));
	if (!out->text || !out->items)
		rc = -ENOMEM;
	while (!rc && rest) {
		struct grammar_item *item = &out->items[out->nr];
		char *equals;

		rc = take_part(&rest, &part);
		if (rc)
			break;
		if (!*part) {
			rc = -ENODATA;
			break;
		}
		item->name = part;
		equals = strchr(part, '=');
		if (equals) {
			*equals = '\0';
			item->value = trim(equals + 1);
		}
		out->nr++;
	}
	if (rc)
		grammar_items_fini(out);
	return rc;
}

void grammar_items_fini(struct grammar_items *items)
{
	free(items->items);
	free(items->text);
	*items = (struct grammar_items){ 0 };
}

int grammar_dequote(const char *raw, char **out)
{
	bool quoted = false;
	char *to;

	*out = to = malloc(strlen(raw) + 1);
	if (!to)
		return -ENOMEM;
	for (; *raw; raw++) {
		if (*raw != '"') {
			*to++ = *raw;
		} else if (quoted && raw[1] == '"') {
			*to++ = '"';
			raw++;
		} else {
			quoted = !quoted;
		}
	}
	*to = '\0';
	if (!quoted)
		return 0;
	free(*out);
	*out = NULL;
	return -EINVAL;
}

int grammar_toggle(const char *text, bool *out)
{
	if (!strcasecmp(text, "on") || !strcasecmp(text, "true"))
		*out = true;
	else if (!*text || !strcasecmp(text, "off") || !strcasecmp(text, "false"))
		*out = false;
	else
		return -EINVAL;
	return 0;
}

static int digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return 16;
}

/* Read digits of the base and leave *end behind them. 0; -EINVAL none there; -ERANGE. */
static int read_digits(const char *s, int base, uint64_t *out, const char **end)
{
	uint64_t v = 0;
	int rc = -EINVAL;

	for (; digit_value(*s) < base; s++) {
		if (rc == -EINVAL)
			rc = 0;
		if (__builtin_mul_overflow(v, (uint64_t)base, &v) ||
			__builtin_add_overflow(v, (uint64_t)digit_value(*s), &v))
			rc = -ERANGE;
	}
	*end = s;
	*out = v;
	return rc;
}

int grammar_uint(const char *text, uint64_t *out)
{
	bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
	const char *end;
	int rc = read_digits(hex ? text + 2 : text, hex ? 16 : 10, out, &end);

	return *end ? -EINVAL : rc;
}

int grammar_size(const char *text, uint64_t *out)
{
	const char *end;
	int shift = 0, rc = read_digits(text, 10, out, &end);

	if (*end == 'K')
		shift = 10;
	else if (*end == 'M')
		shift = 20;
	else if (*end == 'G')
		shift = 30;
	if (rc == -EINVAL || end[shift ? 1 : 0])
		return -EINVAL;
	if (!rc && __builtin_mul_overflow(*out, UINT64_C(1) << shift, out))
		rc = -ERANGE;
	return rc;
}

/* Cut "[" and "]" off both ends in place. NULL when there is one without the other. */
static char *unbracket(char *s)
{
	size_t len = strlen(s);

	if (*s != '[')
		return len && s[len - 1] == ']' ? NULL : s;
	if (len < 2 || s[len - 1] != ']')
		return NULL;
	s[len - 1] = '\0';
	return s + 1;
}

static int append_range(struct grammar_ints *out, uint64_t first, uint64_t last)
{
	uint64_t *values;

	if (last - first >= GRAMMAR_MAX_INTS - out->nr)
		return -E2BIG;
	values = reallocarray(out->values, out->nr + (last - first) + 1, sizeof(*values));
	if (!values)
		return -ENOMEM;
	out->values = values;
	for (uint64_t v = first; v <= last; v++) {
		values[out->nr++] = v;
		if (v == UINT64_MAX)
			break;
	}
	return 0;
}

/* One element: "7" or "2-4". */
static int append_element(struct grammar_ints *out, char *part, uint64_t max)
{
	char *dash = strchr(part, '-');
	uint64_t first, last;
	int rc;

	if (dash)
		*dash = '\0';
	rc = grammar_uint(part, &first);
	last = first;
	if (!rc && dash)
		rc = grammar_uint(dash + 1, &last);
	if (rc)
		return rc;
	if (dash && last <= first)
		return -EINVAL;
	if (last > max)
		return -ERANGE;
	return append_range(out, first, last);
}

int grammar_int_list(const char *text, uint64_t max, struct grammar_ints *out)
{
	FREE_AUTO char *copy = strdup(text);
	char *rest;
	int rc = 0;

	*out = (struct grammar_ints){ 0 };
	if (!copy)
		return -ENOMEM;
	rest = unbracket(copy);
	if (!rest)
		return -EINVAL;
	while (!rc && rest) {
		char *part = strsep(&rest, ",");

		rc = append_element(out, part, max);
	}
	if (rc)
		grammar_ints_fini(out);
	return rc;
}

void grammar_ints_fini(struct grammar_ints *ints)
{
	free(ints->values);
	*ints = (struct grammar_ints){ 0 };
}

int grammar_tuple_list(const char *text, struct grammar_tuples *out)
{
	char *rest = NULL, *part, *at;
	int rc = 0;

	*out = (struct grammar_tuples){ 0 };
	out->text = strdup(text);
	out->items = calloc(count_parts(text, ','), sizeof(*out->items));
	if (!out->text || !out->items)
		rc = -ENOMEM;
	else if (*text != '[' || !(rest = unbracket(out->text)))
		rc = -EINVAL;
	while (!rc && rest) {
		rc = take_part(&rest, &part);
		at = rc ? NULL : next_cut(part, '@');
		if (!at || at == part || !*at || !at[1]) {
			rc = -EINVAL;
			break;
		}
		*at = '\0';
		out->items[out->nr++] = (struct grammar_tuple){ part, at + 1 };
	}
	if (rc)
		grammar_tuples_fini(out);
	return rc;
}

void grammar_tuples_fini(struct grammar_tuples *tuples)
{
	free(tuples->items);
	free(tuples->text);
	*tuples = (struct grammar_tuples){ 0 };
}

int grammar_string_list(const char *text, struct grammar_strings *out)
{
	char *rest = NULL, *part;
	int rc = 0;

	*out = (struct grammar_strings){ 0 };
	out->text = strdup(text);
	out->items = calloc(count_parts(text, ','), sizeof(*out->items));
	if (!out->text || !out->items)
		rc = -ENOMEM;
	else if (!(rest = unbracket(out->text)))
		rc = -EINVAL;
	else if (!*rest)
		rest = NULL; /* an empty list */
	while (!rc && rest) {
		rc = take_part(&rest, &part);
		if (!rc)
			out->items[out->nr++] = part;
	}
	if (rc)
		grammar_strings_fini(out);
	return rc;
}

void grammar_strings_fini(struct grammar_strings *strings)
{
	free(strings->items);
	free(strings->text);
	*strings = (struct grammar_strings){ 0 };
}
