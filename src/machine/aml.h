/*
 * aml.h - write ACPI machine language
 *
 * Terms are appended to a growable buffer in the order of the grammar. What has a
 * package length (Device, Scope, Method, Package, If ...) is opened with a begin function,
 * filled, and closed with aml_end(), which works out the length: begin and end nest.
 * The first failure (no memory, nested too deep) sticks: aml_status() tells it once at the end.
 *
 *     aml_device(a, "PWRB");
 *     aml_name(a, "_HID"); aml_eisaid(a, "PNP0C0C");
 *     aml_end(a);
 *
 * Spec: ACPI 6.3, chapters 20 (grammar) and 6.4 (resource descriptors).
 */
#ifndef MACHINE_AML_H
#define MACHINE_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AML_MAX_DEPTH 16

struct aml {
	uint8_t *data; /* the owner may take it and free() it */
	size_t size, capacity;
	struct aml_open {
		size_t start;  /* of the package length's place, or of the buffer's size */
		size_t count;  /* of a package: where its number of elements stands; 0: none */
		bool buffer;   /* a resource template: gets an end tag and a size */
	} open[AML_MAX_DEPTH];
	unsigned depth;
	int status;
};

/* A zeroed struct aml is empty and ready. */
void aml_fini(struct aml *a);
/*
 * 0, or what went wrong first: -ENOMEM; -EOVERFLOW too deep or long; -EINVAL unbalanced, bad name
 */
int aml_status(const struct aml *a);

/* Raw bytes, for tables around the code. */
void aml_bytes(struct aml *a, const void *bytes, size_t size);
void aml_u8(struct aml *a, uint8_t v);
void aml_u16(struct aml *a, uint16_t v);
void aml_u32(struct aml *a, uint32_t v);
void aml_u64(struct aml *a, uint64_t v);
/* In place of what was written at an offset. */
void aml_patch_u32(struct aml *a, size_t at, uint32_t v);
/* The byte at start + at becomes what makes `size` bytes from start on sum up to 0. */
void aml_checksum(struct aml *a, size_t start, size_t size, size_t at);

/* Close what was opened last. */
void aml_end(struct aml *a);

/* A name: "FOO" (padded), "\\_SB.PCI0", "^X", "" (null name). */
void aml_path(struct aml *a, const char *path);

/* Data */
void aml_int(struct aml *a, uint64_t v); /* in its shortest form */
void aml_string(struct aml *a, const char *s);
void aml_eisaid(struct aml *a, const char *id); /* "PNP0A08" */
void aml_uuid(struct aml *a, const char *uuid); /* as ToUUID() does: a 16-byte buffer */
void aml_buffer(struct aml *a, const void *bytes, size_t size);
void aml_package(struct aml *a);  /* begin; its elements are counted by aml_element() */
void aml_element(struct aml *a);  /* before each element of the package opened last */

/* Named objects */
void aml_name(struct aml *a, const char *name); /* the data follows */
void aml_scope(struct aml *a, const char *path);  /* begin */
void aml_device(struct aml *a, const char *name); /* begin */
enum aml_sync { AML_NOT_SERIALIZED, AML_SERIALIZED };
void aml_method(struct aml *a, const char *name, unsigned nr_args, enum aml_sync sync); /* begin */
void aml_mutex(struct aml *a, const char *name);
enum aml_space { AML_SYSTEM_MEMORY = 0, AML_SYSTEM_IO = 1 };
void aml_region(struct aml *a, const char *name, enum aml_space space, uint64_t addr, uint64_t len);
/* begin; flags as in the grammar: access type | lock << 4 | update rule << 5 */
#define AML_ACCESS_BYTE	  1
#define AML_ACCESS_DWORD  3
#define AML_PRESERVE	  (0 << 5)
#define AML_WRITE_AS_ZEROS (2 << 5)
void aml_field(struct aml *a, const char *region, uint8_t flags);
void aml_field_unit(struct aml *a, const char *name, unsigned bits); /* NULL name: reserved */
/* CreateDWordField(source, index, name): the source and index terms follow, then aml_path(name). */
void aml_create_dword_field(struct aml *a);

/* Terms; operands follow in the order of the grammar */
void aml_local(struct aml *a, unsigned n); /* 0 to 7 */
void aml_arg(struct aml *a, unsigned n);   /* 0 to 6 */
void aml_store(struct aml *a);		   /* Store(value, target) */
void aml_and(struct aml *a);		   /* And(a, b, target) */
void aml_or(struct aml *a);		   /* Or(a, b, target) */
void aml_equal(struct aml *a);		   /* LEqual(a, b) */
void aml_not(struct aml *a);		   /* LNot(a) */
void aml_if(struct aml *a);		   /* begin; the predicate follows, then terms */
void aml_else(struct aml *a);		   /* begin; right after the end of an if */
void aml_while(struct aml *a);		   /* begin; the predicate follows, then terms */
void aml_return(struct aml *a);		   /* Return(value) */
void aml_notify(struct aml *a, const char *object, uint64_t value);
void aml_null(struct aml *a); /* no target */

/* Resource templates: begin with aml_resources(), descriptors, aml_end(). */
void aml_resources(struct aml *a);
void aml_res_io(struct aml *a, uint16_t port, uint8_t len);
enum aml_trigger { AML_LEVEL, AML_EDGE };
/* Active high, exclusive. */
void aml_res_interrupt(struct aml *a, enum aml_trigger trigger, uint32_t gsi);
void aml_res_memory32_fixed(struct aml *a, uint32_t base, uint32_t size);
void aml_res_bus(struct aml *a, uint16_t first, uint16_t last);
/* Windows that a bridge passes on. size must not be 0. */
void aml_res_io_window(struct aml *a, uint16_t base, uint32_t size);
void aml_res_memory32_window(struct aml *a, uint32_t base, uint32_t size);
void aml_res_memory64_window(struct aml *a, uint64_t base, uint64_t size);
/* A device's own registers above 4 GiB. */
void aml_res_memory64(struct aml *a, uint64_t base, uint64_t size);

#endif
