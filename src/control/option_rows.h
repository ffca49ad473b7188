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

/* a table is read by rows */
/* clang-format off */

/* The fields that every device has. own: its struct, whose `at` is a struct device_config. */
#define DEVICE_FIELDS(own, default_ids)                                                           \
	{ .name = "id", .json = "id", .type = FIELD_ID, .arg = "NAME", MEMBER(own, at.id),        \
	  .help = "the device's name in messages (default: " default_ids ")" },                    \
	{ .name = "pci_segment", .json = "pci_segment", .type = FIELD_UINT, .arg = "N",            \
	  .fallback = "0", .max = CONFIG_MAX_SEGMENTS - 1, MEMBER(own, at.pci_segment),           \
	  .help = "PCI segment, below num_pci_segments of --platform" },                           \
	{ .name = "pci_device_id", .json = "pci_device_id", .type = FIELD_UINT, .arg = "N",        \
	  .unset = CONFIG_SLOT_ANY, .min = 1, .max = CONFIG_MAX_SLOT,                              \
	  .zero = "Given PCI device ID (0) is reserved", MEMBER(own, at.pci_device_id),           \
	  .help = "slot in the segment, 1 to 31 (default: the first free one)" }

/* For devices that can be behind the guest's IOMMU. */
#define IOMMU_FIELD_OF(own)                                                                       \
	{ .name = "iommu", .json = "iommu", .type = FIELD_TOGGLE, .arg = ON_OFF,                   \
	  .fallback = "off", MEMBER(own, at.iommu),                                               \
	  .help = "behind the guest's IOMMU: it reaches what the guest maps for it" }

/* The fields of an attachment to somebody else's back-end. */
#define BACKEND_FIELDS(own)                                                                       \
	{ .name = "connect_timeout", .json = "connect_timeout", .type = FIELD_UINT,                \
	  .arg = "SECONDS", .fallback = "10", .max = 86400,                                        \
	  MEMBER(own, backend.connect_timeout_s),                                                 \
	  .help = "how long a back-end that is not there yet is waited for at start" },            \
	{ .name = "reconnect", .json = "reconnect", .type = FIELD_STRING,                          \
	  .arg = "on|off|SECONDS", .fallback = "on", MEMBER(own, backend.reconnect),              \
	  .help = "whether, and for how long, a back-end that went away is connected to again" },  \
	{ .name = "force", .json = "force", .type = FIELD_TOGGLE, .arg = ON_OFF,                   \
	  .fallback = "off", MEMBER(own, backend.force),                                          \
	  .help = "allow a number of queues that drivers of this type do not bear" }

/* clang-format on */

/* option_devices.c */
extern const struct field_row host_device_fields[];
extern const struct field_row user_device_fields[];
extern const struct field_row generic_vhost_user_fields[];
extern const struct field_row fs_fields[];
extern const struct field_row vvu_proxy_fields[];

/* option_programs.c */
extern const struct field_row disk_fields[];
extern const struct field_row net_fields[];
extern const struct field_row rng_fields[];
extern const struct field_row vsock_fields[];
extern const struct field_row console_fields[];

#endif
