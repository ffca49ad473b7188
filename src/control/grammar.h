/*
 * grammar.h - the grammar of option strings: size=512M,affinity=[0@[1,2]],socket="a,b"
 *
 *   options   = "" | option *( "," option )     split at commas outside quotes and brackets
 *   option    = name "=" value | word           split at the first "="
 *   value     = *( char | quoted | bracketed )  blanks around it do not count; empty means unset
 *   quoted    = DQUOTE *any DQUOTE              only a doubled quote is special inside
 *   bracketed = "[" ... "]"                     nests; only outside quotes
 *
 * Users bring command lines in this grammar from other VMMs, so it is kept
 * to the letter; what is silently misread elsewhere (a size that overflows,
 * "1KM") is refused. The functions below know nothing of options: they return
 * -errno without a text, and the caller says whose value was wrong.
 *
 * Any thread. All of them accept any NUL-terminated bytes.
 */
#ifndef CONTROL_GRAMMAR_H
#define CONTROL_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Room for a user's text in a one-line message. */
struct grammar_shown {
	char text[100];
};

/*
 * The text as it may be printed in one line: bytes that are not printable
 * ASCII or UTF-8 become "?", what is too long ends in "...".
 */
struct grammar_shown grammar_show(const char *text);

/* One element of an option string. value is trimmed and still quoted; NULL: there was no "=". */
struct grammar_item {
	const char *name;
	const char *value;
};

struct grammar_items {
	struct grammar_item *items;
	size_t nr;
	char *text; /* what the items point into */
};

/* Gives *out. 0; -EINVAL unbalanced quotes or brackets; -ENODATA two commas side by side; -ENOMEM.
 */
int grammar_split(const char *text, struct grammar_items *out);
void grammar_items_fini(struct grammar_items *items);

/* Remove the quoting: a"b""c" becomes ab"c. Gives *out. 0; -EINVAL unbalanced quotes; -ENOMEM. */
int grammar_dequote(const char *raw, char **out);

/* on, true, off, false in any case; empty is off. 0 or -EINVAL. */
int grammar_toggle(const char *text, bool *out);

/* Digits, or 0x and hexadecimal digits. 0; -EINVAL no number; -ERANGE more than 64 bits. */
int grammar_uint(const char *text, uint64_t *out);

/* Digits and at most one of K, M, G (powers of 1024). 0; -EINVAL; -ERANGE more than 64 bits. */
int grammar_size(const char *text, uint64_t *out);

struct grammar_ints {
	uint64_t *values;
	size_t nr;
};

#define GRAMMAR_MAX_INTS 4096

/*
 * [0,2-4] or 0,2-4 or 7: numbers and ascending ranges, each at most max. Gives *out.
 * 0; -EINVAL not such a list; -ERANGE an element above max; -E2BIG more than
 * GRAMMAR_MAX_INTS elements; -ENOMEM.
 */
int grammar_int_list(const char *text, uint64_t max, struct grammar_ints *out);
void grammar_ints_fini(struct grammar_ints *ints);

struct grammar_tuple {
	const char *key;   /* raw */
	const char *value; /* raw, often a list in brackets */
};

struct grammar_tuples {
	struct grammar_tuple *items;
	size_t nr;
	char *text;
};

/* [key@value,key2@[1,2]], the outer brackets mandatory. Gives *out. 0; -EINVAL; -ENOMEM. */
int grammar_tuple_list(const char *text, struct grammar_tuples *out);
void grammar_tuples_fini(struct grammar_tuples *tuples);

struct grammar_strings {
	const char **items; /* not dequoted */
	size_t nr;
	char *text;
};

/* [a,b] or a,b: cut at commas outside quotes and inner brackets. Gives *out. 0; -EINVAL; -ENOMEM.
 */
int grammar_string_list(const char *text, struct grammar_strings *out);
void grammar_strings_fini(struct grammar_strings *strings);

#endif
