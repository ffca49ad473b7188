/*
 * option_rows.h - the option table's rows, where they are spread over several files
 *
 * For option_table.c and the files that hold fields; readers want option_table.h.
 */
#ifndef CONTROL_OPTION_ROWS_H
#define CONTROL_OPTION_ROWS_H

#include "control/option_table.h"

#define MEMBER(type, member)                                                                       \
	.offset = offsetof(struct type, member), .size = sizeof(((struct type *)0)->member)
#define ON_OFF "on|off"

/* option_devices.c */
extern const struct field_row user_device_fields[];
extern const struct field_row generic_vhost_user_fields[];
extern const struct field_row fs_fields[];

#endif
