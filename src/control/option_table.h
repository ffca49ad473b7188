/*
 * option_table.h - the one description of everything a user can say
 *
 * An option is one row: its name, how its argument is read, where the result goes in
 * struct vm_config, and its fields. A field is one row: name, type, range,
 * default, place, JSON key, help. The command line parser, --help, the completions, the
 * manual page's test and the REST API's bodies are all readings of this table,
 * so they cannot disagree. To add an option: a member in config.h, a row here, a line
 * in the manual page (a test asks for it).
 *
 * Options and fields that users of Cloud Hypervisor know, but that this version does not
 * have, are rows too: they are refused by name and with a reason, never ignored.
 *
 * `outboard run` has a table of its own beside this one, in crosvm's words (run.h): the same kinds
 * of rows, which fill the same structs. A row of it that fills what a row of option_table owns
 * names that one in `of`: its defaults are set first, and it frees what the other has stored.
 */
#ifndef CONTROL_OPTION_TABLE_H
#define CONTROL_OPTION_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum field_type {
	FIELD_STRING,	/* char *; any text */
	FIELD_PATH,	/* char *; not empty */
	FIELD_SOCKET,	/* char *; a path that fits a socket address */
	FIELD_ID,	/* char *; a device's name */
	FIELD_TOGGLE,	/* bool */
	FIELD_UINT,	/* uint8_t to uint64_t, by .size; min to max */
	FIELD_SIZE,	/* uint64_t, bytes; min to max */
	FIELD_CHOICE,	/* uint32_t; one of .choices */
	FIELD_INT_LIST, /* struct int_list; [1,2-4], each min to max */
	FIELD_STRING_LIST, /* struct string_list; [a,b] */
	FIELD_TOPOLOGY, /* struct cpu_topology; T:C:D:P */
	FIELD_AFFINITY, /* struct affinity_list; [vcpu@[host cpus]] */
	FIELD_PLACE,	/* segment and slot in a struct device_config; DDDD:00:DD.0 */
};

/* One value of a FIELD_CHOICE. The last one has no name. */
struct choice {
	const char *name; /* on the command line */
	const char *json; /* in a REST body */
	uint32_t value;
	const char *refused; /* why it cannot be had in this version; NULL: it can */
	const char *help;
};

struct field_row {
	const char *name;
	/* key in the option's JSON object, a.b in an object in it; NULL: not in JSON */
	const char *json;
	enum field_type type;
	const char *arg;      /* what stands for the value in help: SIZE, PATH, on|off */
	const char *fallback; /* default as the user would write it; NULL: unset */
	uint64_t unset;	      /* what a numeric member holds while unset */
	uint64_t min, max;
	uint64_t unit; /* FIELD_UINT: so many are stored for each one that is said; 0: one */
	const char *zero; /* why 0 in particular is refused, where that is worth saying */
	const struct choice *choices;
	size_t offset, size; /* the member in the option's struct */
	bool required;
	/*
	 * OPTION_FIELDS: while this one is unset there is no such thing, whatever the others hold
	 */
	bool makes;
	bool json_number; /* FIELD_STRING: a number is a number in JSON */
	bool word_only; /* a FIELD_CHOICE given as a bare word (tty), never as name=value */
	bool flag;	/* FIELD_TOGGLE: its name alone is on */
	/* This field also sets the FIELD_CHOICE `implies` to `implied` (file=PATH is mode File). */
	const char *implies;
	uint32_t implied;
	/* Not in this version: only the default is accepted, and this is the reason. */
	const char *refused;
	const char *help;
};

enum option_kind {
	OPTION_VALUE,	/* the argument as it is sets the one field */
	OPTION_FIELDS,	/* an option string sets the fields of one struct; at most once */
	OPTION_LIST,	/* each argument is an option string for one more element */
	OPTION_TEXTS,	/* each argument as it is is one more in a struct string_list */
	OPTION_COUNT,	/* no argument, counts its uses */
	OPTION_FLAG,	/* no argument, stands for its presets */
	OPTION_HELP,	/* print and leave */
	OPTION_VERSION, /* print and leave */
	OPTION_SCRIPT,	/* print the completion script for the shell in the argument and leave */
	/* known elsewhere, not in this version; its fields, if any, are refused ones */
	OPTION_REFUSED,
};

enum option_group {
	GROUP_PAYLOAD,
	GROUP_MACHINE,
	GROUP_PORTS,
	GROUP_DEVICES,
	GROUP_CONTROL,
	GROUP_PROGRAM,
	NR_GROUPS
};

struct option_row {
	const char *name;
	char letter; /* short form, 0: none */
	bool hidden; /* works, but is not in --help: for the build, not for users */
	enum option_kind kind;
	enum option_group group;
	const char *json;		/* JSON path of the object (or array) in a VmConfig body */
	const struct field_row *fields; /* ends with a row without a name */
	const char *bare;    /* the field that a first word without "=" sets (--cpus 4) */
	const char *of;	     /* outboard run: the row of option_table that owns the struct */
	const struct field_row *presets; /* set to their defaults before the fields; like fields */
	size_t offset;	     /* of the struct, list or counter in struct vm_config */
	size_t item_size;    /* OPTION_LIST: of one element */
	const char *arg;     /* how help writes the argument */
	const char *like;    /* help: its fields stand under this option, earlier in its table */
	const char *refused; /* OPTION_REFUSED: what to use instead, or NULL */
	const char *help;
};

/* The table, in the order help prints it; ends with a row without a name. */
extern const struct option_row option_table[];

extern const char *const option_group_titles[NR_GROUPS];

/* The row or field of that name, or NULL. */
const struct option_row *option_find(const char *name);
const struct option_row *option_find_in(const struct option_row *table, const char *name);
const struct field_row *field_find(const struct option_row *option, const char *name);

#define for_each_row(o, table) for (const struct option_row *o = (table); (o)->name; (o)++)
#define for_each_option(o) for_each_row (o, option_table)
#define for_each_field(f, option)                                                                  \
	for (const struct field_row *f = (option)->fields; f && (f)->name; (f)++)
#define for_each_choice(c, field)                                                                  \
	for (const struct choice *c = (field)->choices; c && (c)->name; (c)++)

#endif
