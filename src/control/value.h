/*
 * value.h - what one field of the option table can hold, between its text and its member
 *
 * A struct value is zeroed, filled by a reader, moved into the option's struct by value_store(),
 * and freed by value_fini(), in each case. Used by what sets fields (field.h for command lines,
 * field_json.h for bodies); others want those.
 */
#ifndef CONTROL_VALUE_H
#define CONTROL_VALUE_H

#include "base/err.h"
#include "control/config.h"
#include "control/option_table.h"

/* The one that belongs to the field's type is used. */
struct value {
	uint64_t number;
	char *string;
	struct cpu_topology topology;
	struct affinity_list affinity;
	struct int_list ints;
	struct string_list strings;
	struct {
		uint16_t segment;
		uint8_t slot;
	} place;
};

/*
 * Where a device is to be in the guest, DDDD:BB:DD.F or BB:DD.F: each segment has one bus, each
 * slot one function, and slot 0 is the host bridge's. 0 or -EINVAL.
 */
int value_place(const char *text, uint16_t *segment, uint8_t *slot);
#define VALUE_PLACE_EXPECTED "segment:00:slot.0 with a slot 01 to 1f"

/* Whether the member is a char *, or one number. */
bool value_is_string(const struct field_row *f);
bool value_is_number(const struct field_row *f);

/*
 * Read text, as it is, as the field's type into *value, which must be zeroed. 0 or -errno; the
 * text of the error starts with the field's name.
 */
int value_read(const struct option_row *option, const struct field_row *f, const char *text,
	struct value *value, struct err *err);
/* What the field holds when nobody says anything. 0 or -ENOMEM. */
int value_default(const struct option_row *option, const struct field_row *f, struct value *value);
/* Copy a list whose elements have been checked (of numbers: at most f->max). 0 or -ENOMEM. */
int value_take_ints(
	const struct field_row *f, const uint64_t *from, size_t nr, struct value *value);
int value_take_strings(const char *const *from, size_t nr, struct value *value);
void value_fini(struct value *value);

/* Free what base, the option's struct, holds there and move value in. */
void value_store(const struct field_row *f, void *base, struct value *value);
/* A number into the member, and the number that is in it. */
void value_store_number(const struct field_row *f, void *base, uint64_t number);
uint64_t value_number(const struct field_row *f, const void *base);

/* `boot: expected a whole number from 1 to 254, got "x"`. Returns rc; of -ENOMEM it says that. */
int value_expected(
	const struct field_row *f, int rc, const char *what, const char *raw, struct err *err);

#endif
