/*
 * aml.c - write ACPI machine language
 *
 * A package length stands before what it counts and takes 1 to 4 bytes by its own value, so
 * begin functions only remember where it belongs, and aml_end() moves the contents up to make room.
 *
 * Spec: ACPI 6.3, 20.2 (encoding), 6.4 (resource data types).
 */
#include "machine/aml.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

#define OP_NAME		0x08
#define OP_BYTE		0x0a
#define OP_WORD		0x0b
#define OP_DWORD	0x0c
#define OP_STRING	0x0d
#define OP_QWORD	0x0e
#define OP_SCOPE	0x10
#define OP_BUFFER	0x11
#define OP_PACKAGE	0x12
#define OP_METHOD	0x14
#define OP_DUAL_NAME	0x2e
#define OP_MULTI_NAME	0x2f
#define OP_EXT		0x5b
#define OP_EXT_MUTEX	0x01
#define OP_EXT_REGION	0x80
#define OP_EXT_FIELD	0x81
#define OP_EXT_DEVICE	0x82
#define OP_LOCAL0	0x60
#define OP_ARG0		0x68
#define OP_STORE	0x70
#define OP_AND		0x7b
#define OP_OR		0x7d
#define OP_NOTIFY	0x86
#define OP_CREATE_DWORD 0x8a
#define OP_LNOT		0x92
#define OP_LEQUAL	0x93
#define OP_IF		0xa0
#define OP_ELSE		0xa1
#define OP_WHILE	0xa2
#define OP_RETURN	0xa4

static void fail(struct aml *a, int rc)
{
	if (!a->status)
		a->status = rc;
}

void aml_fini(struct aml *a)
{
	free(a->data);
	memset(a, 0, sizeof(*a));
}

int aml_status(const struct aml *a)
{
	if (a->status)
		return a->status;
	return a->depth ? -EINVAL : 0;
}

static bool reserve(struct aml *a, size_t more)
{
	size_t capacity = a->capacity ? a->capacity : 1024;
	uint8_t *data;

	if (a->status)
		return false;
	if (more <= a->capacity - a->size)
		return true;
	while (capacity - a->size < more)
		capacity *= 2;
	data = realloc(a->data, capacity);
	if (!data) {
		fail(a, -ENOMEM);
		return false;
	}
	a->data = data;
	a->capacity = capacity;
	return true;
}

void aml_bytes(struct aml *a, const void *bytes, size_t size)
{
	if (!size || !reserve(a, size))
		return;
	memcpy(a->data + a->size, bytes, size);
	a->size += size;
}

static void insert(struct aml *a, size_t at, const void *bytes, size_t size)
{
	if (!reserve(a, size))
		return;
	memmove(a->data + at + size, a->data + at, a->size - at);
	memcpy(a->data + at, bytes, size);
	a->size += size;
}

void aml_u8(struct aml *a, uint8_t v)
{
	aml_bytes(a, &v, sizeof(v));
}

void aml_u16(struct aml *a, uint16_t v)
{
	aml_bytes(a, &v, sizeof(v));
}

void aml_u32(struct aml *a, uint32_t v)
{
	aml_bytes(a, &v, sizeof(v));
}

void aml_u64(struct aml *a, uint64_t v)
{
	aml_bytes(a, &v, sizeof(v));
}

void aml_patch_u32(struct aml *a, size_t at, uint32_t v)
{
	if (!a->status)
		memcpy(a->data + at, &v, sizeof(v));
}

void aml_checksum(struct aml *a, size_t start, size_t size, size_t at)
{
	uint8_t sum = 0;

	if (a->status)
		return;
	a->data[start + at] = 0;
	for (size_t i = 0; i < size; i++)
		sum = (uint8_t)(sum + a->data[start + i]);
	a->data[start + at] = (uint8_t)-sum;
}

/* ---- lengths ---- */

/* Encode a PkgLength; returns its number of bytes, 0 when the value has no encoding. */
static size_t encode_length(uint8_t out[4], size_t value)
{
	size_t extra = value < 0x40 ? 0 : value < 0x1000 ? 1 : value < 0x100000 ? 2 : 3;

	if (value >= 0x10000000)
		return 0;
	if (!extra) {
		out[0] = (uint8_t)value;
		return 1;
	}
	out[0] = (uint8_t)(extra << 6 | (value & 0xf));
	for (size_t i = 1; i <= extra; i++)
		out[i] = (uint8_t)(value >> (4 + 8 * (i - 1)));
	return 1 + extra;
}

static void begin(struct aml *a)
{
	if (a->depth == AML_MAX_DEPTH) {
		fail(a, -EOVERFLOW);
		return;
	}
	a->open[a->depth++] = (struct aml_open){ .start = a->size };
}

static void end_buffer(struct aml *a, size_t start)
{
	struct aml size = { 0 };

	aml_u8(a, 0x79); /* end tag; checksum 0: not used */
	aml_u8(a, 0);
	aml_int(&size, a->size - start);
	if (size.status)
		fail(a, size.status);
	else
		insert(a, start, size.data, size.size);
	aml_fini(&size);
}

void aml_end(struct aml *a)
{
	struct aml_open *open;
	size_t content, n;
	uint8_t length[4];

	if (a->status)
		return;
	if (!a->depth) {
		fail(a, -EINVAL);
		return;
	}
	open = &a->open[--a->depth];
	if (open->buffer)
		end_buffer(a, open->start);
	content = a->size - open->start;
	/* The length counts its own bytes too. */
	n = content + 1 < 0x40 ? 1 : content + 2 < 0x1000 ? 2 : content + 3 < 0x100000 ? 3 : 4;
	if (encode_length(length, content + n) != n)
		fail(a, -EOVERFLOW);
	else
		insert(a, open->start, length, n);
}

/* ---- names ---- */

static void name_segment(struct aml *a, const char *s, size_t len)
{
	char seg[4] = { '_', '_', '_', '_' };

	if (!len || len > 4 || isdigit((unsigned char)s[0])) {
		fail(a, -EINVAL);
		return;
	}
	for (size_t i = 0; i < len; i++) {
		if (!isupper((unsigned char)s[i]) && !isdigit((unsigned char)s[i]) && s[i] != '_')
			fail(a, -EINVAL);
		seg[i] = s[i];
	}
	aml_bytes(a, seg, sizeof(seg));
}

void aml_path(struct aml *a, const char *path)
{
	size_t segments = *path && path[strspn(path, "\\^")] ? 1 : 0;

	for (; *path == '\\' || *path == '^'; path++)
		aml_u8(a, (uint8_t)*path);
	for (const char *p = path; *p; p++)
		segments += *p == '.';
	if (segments > 255)
		fail(a, -EINVAL);
	if (segments == 0)
		aml_u8(a, 0);
	else if (segments == 2)
		aml_u8(a, OP_DUAL_NAME);
	else if (segments > 2) {
		aml_u8(a, OP_MULTI_NAME);
		aml_u8(a, (uint8_t)segments);
	}
	while (segments--) {
		size_t len = strcspn(path, ".");

		name_segment(a, path, len);
		path += len + (path[len] == '.');
	}
}

/* ---- data ---- */

void aml_int(struct aml *a, uint64_t v)
{
	if (v <= 1) { /* ZeroOp, OneOp */
		aml_u8(a, (uint8_t)v);
	} else if (v <= UINT8_MAX) {
		aml_u8(a, OP_BYTE);
		aml_u8(a, (uint8_t)v);
	} else if (v <= UINT16_MAX) {
		aml_u8(a, OP_WORD);
		aml_u16(a, (uint16_t)v);
	} else if (v <= UINT32_MAX) {
		aml_u8(a, OP_DWORD);
		aml_u32(a, (uint32_t)v);
	} else {
		aml_u8(a, OP_QWORD);
		aml_u64(a, v);
	}
}

void aml_string(struct aml *a, const char *s)
{
	aml_u8(a, OP_STRING);
	aml_bytes(a, s, strlen(s) + 1);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* Three letters of 5 bits, four hexadecimal digits, the most significant byte first in memory */
void aml_eisaid(struct aml *a, const char *id)
{
	uint32_t v = 0;

	if (strlen(id) != 7) {
		fail(a, -EINVAL);
		return;
	}
	for (unsigned i = 0; i < 3; i++) {
		if (id[i] < 'A' || id[i] > 'Z')
			fail(a, -EINVAL);
		v = v << 5 | ((uint32_t)(id[i] - 'A' + 1) & 0x1f);
	}
	for (unsigned i = 3; i < 7; i++) {
		int digit = hex_digit(id[i]);

		if (digit < 0)
			fail(a, -EINVAL);
		v = v << 4 | ((uint32_t)digit & 0xf);
	}
	aml_u8(a, OP_DWORD);
	aml_u32(a, __builtin_bswap32(v));
}

void aml_uuid(struct aml *a, const char *uuid)
{
	/* The place of each byte's digits in the text: the first three fields are little-endian. */
	static const uint8_t place[16] = { 6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32,
		34 };
	uint8_t bytes[16];

	if (strlen(uuid) != 36) {
		fail(a, -EINVAL);
		return;
	}
	for (unsigned i = 0; i < 16; i++) {
		int hi = hex_digit(uuid[place[i]]), lo = hex_digit(uuid[place[i] + 1]);

		if (hi < 0 || lo < 0)
			fail(a, -EINVAL);
		bytes[i] = (uint8_t)((unsigned)hi << 4 | ((unsigned)lo & 0xf));
	}
	aml_buffer(a, bytes, sizeof(bytes));
}

void aml_buffer(struct aml *a, const void *bytes, size_t size)
{
	aml_u8(a, OP_BUFFER);
	begin(a);
	aml_int(a, size);
	aml_bytes(a, bytes, size);
	aml_end(a);
}

void aml_package(struct aml *a)
{
	aml_u8(a, OP_PACKAGE);
	begin(a);
	if (a->status)
		return;
	a->open[a->depth - 1].count = a->size;
	aml_u8(a, 0);
}

void aml_element(struct aml *a)
{
	struct aml_open *open = a->depth ? &a->open[a->depth - 1] : NULL;

	if (a->status)
		return;
	if (!open || !open->count)
		fail(a, -EINVAL);
	else if (++a->data[open->count] == 0)
		fail(a, -EOVERFLOW);
}

/* ---- named objects ---- */

void aml_name(struct aml *a, const char *name)
{
	aml_u8(a, OP_NAME);
	aml_path(a, name);
}

void aml_scope(struct aml *a, const char *path)
{
	aml_u8(a, OP_SCOPE);
	begin(a);
	aml_path(a, path);
}

void aml_device(struct aml *a, const char *name)
{
	aml_u8(a, OP_EXT);
	aml_u8(a, OP_EXT_DEVICE);
	begin(a);
	aml_path(a, name);
}

void aml_method(struct aml *a, const char *name, unsigned nr_args, enum aml_sync sync)
{
	assert(nr_args <= 7);
	aml_u8(a, OP_METHOD);
	begin(a);
	aml_path(a, name);
	aml_u8(a, (uint8_t)(nr_args | (sync == AML_SERIALIZED ? 8 : 0)));
}

void aml_mutex(struct aml *a, const char *name)
{
	aml_u8(a, OP_EXT);
	aml_u8(a, OP_EXT_MUTEX);
	aml_path(a, name);
	aml_u8(a, 0); /* sync level */
}

void aml_region(struct aml *a, const char *name, enum aml_space space, uint64_t addr, uint64_t len)
{
	aml_u8(a, OP_EXT);
	aml_u8(a, OP_EXT_REGION);
	aml_path(a, name);
	aml_u8(a, (uint8_t)space);
	aml_int(a, addr);
	aml_int(a, len);
}

void aml_field(struct aml *a, const char *region, uint8_t flags)
{
	aml_u8(a, OP_EXT);
	aml_u8(a, OP_EXT_FIELD);
	begin(a);
	aml_path(a, region);
	aml_u8(a, flags);
}

void aml_field_unit(struct aml *a, const char *name, unsigned bits)
{
	uint8_t length[4];
	size_t n = encode_length(length, bits);

	if (!n)
		fail(a, -EOVERFLOW);
	if (name)
		name_segment(a, name, strlen(name));
	else
		aml_u8(a, 0);
	aml_bytes(a, length, n);
}

void aml_create_dword_field(struct aml *a)
{
	aml_u8(a, OP_CREATE_DWORD);
}

/* ---- terms ---- */

void aml_local(struct aml *a, unsigned n)
{
	assert(n < 8);
	aml_u8(a, (uint8_t)(OP_LOCAL0 + n));
}

void aml_arg(struct aml *a, unsigned n)
{
	assert(n < 7);
	aml_u8(a, (uint8_t)(OP_ARG0 + n));
}

void aml_store(struct aml *a)
{
	aml_u8(a, OP_STORE);
}

void aml_and(struct aml *a)
{
	aml_u8(a, OP_AND);
}

void aml_or(struct aml *a)
{
	aml_u8(a, OP_OR);
}

void aml_equal(struct aml *a)
{
	aml_u8(a, OP_LEQUAL);
}

void aml_not(struct aml *a)
{
	aml_u8(a, OP_LNOT);
}

void aml_if(struct aml *a)
{
	aml_u8(a, OP_IF);
	begin(a);
}

void aml_else(struct aml *a)
{
	aml_u8(a, OP_ELSE);
	begin(a);
}

void aml_while(struct aml *a)
{
	aml_u8(a, OP_WHILE);
	begin(a);
}

void aml_return(struct aml *a)
{
	aml_u8(a, OP_RETURN);
}

void aml_notify(struct aml *a, const char *object, uint64_t value)
{
	aml_u8(a, OP_NOTIFY);
	aml_path(a, object);
	aml_int(a, value);
}

void aml_null(struct aml *a)
{
	aml_u8(a, 0);
}

/* ---- resources ---- */

#define RES_IO		   0x47
#define RES_MEMORY32_FIXED 0x86
#define RES_DWORD_SPACE	   0x87
#define RES_WORD_SPACE	   0x88
#define RES_INTERRUPT	   0x89
#define RES_QWORD_SPACE	   0x8a

enum { SPACE_MEMORY = 0, SPACE_IO = 1, SPACE_BUS = 2 };

#define SPACE_CONSUMER 0x01
#define SPACE_FIXED    0x0c /* minimum and maximum are */
#define MEMORY_RW      0x01 /* read-write, not cacheable, not prefetchable: any BAR may go there */
#define IO_ENTIRE      0x03

void aml_resources(struct aml *a)
{
	aml_u8(a, OP_BUFFER);
	begin(a);
	if (!a->status)
		a->open[a->depth - 1].buffer = true;
}

void aml_res_io(struct aml *a, uint16_t port, uint8_t len)
{
	aml_u8(a, RES_IO);
	aml_u8(a, 1); /* decodes 16 bits */
	aml_u16(a, port);
	aml_u16(a, port);
	aml_u8(a, 0); /* alignment: the place is fixed */
	aml_u8(a, len);
}

void aml_res_interrupt(struct aml *a, enum aml_trigger trigger, uint32_t gsi)
{
	aml_u8(a, RES_INTERRUPT);
	aml_u16(a, 6);
	aml_u8(a, 1 | (trigger == AML_EDGE ? 2 : 0)); /* consumer */
	aml_u8(a, 1);
	aml_u32(a, gsi);
}

void aml_res_memory32_fixed(struct aml *a, uint32_t base, uint32_t size)
{
	aml_u8(a, RES_MEMORY32_FIXED);
	aml_u16(a, 9);
	aml_u8(a, MEMORY_RW);
	aml_u32(a, base);
	aml_u32(a, size);
}

static void space_header(
	struct aml *a, uint8_t tag, uint16_t len, uint8_t type, uint8_t flags, uint8_t type_flags)
{
	aml_u8(a, tag);
	aml_u16(a, len);
	aml_u8(a, type);
	aml_u8(a, flags);
	aml_u8(a, type_flags);
}

static void word_space(
	struct aml *a, uint8_t type, uint8_t type_flags, uint16_t base, uint32_t size)
{
	if (!size || size > UINT16_MAX || size - 1 > (uint32_t)UINT16_MAX - base)
		fail(a, -EINVAL);
	space_header(a, RES_WORD_SPACE, 13, type, SPACE_FIXED, type_flags);
	aml_u16(a, 0); /* granularity */
	aml_u16(a, base);
	aml_u16(a, (uint16_t)(base + size - 1));
	aml_u16(a, 0); /* translation */
	aml_u16(a, (uint16_t)size);
}

void aml_res_bus(struct aml *a, uint16_t first, uint16_t last)
{
	word_space(a, SPACE_BUS, 0, first, (uint32_t)last - first + 1);
}

void aml_res_io_window(struct aml *a, uint16_t base, uint32_t size)
{
	word_space(a, SPACE_IO, IO_ENTIRE, base, size);
}

void aml_res_memory32_window(struct aml *a, uint32_t base, uint32_t size)
{
	if (!size || size - 1 > UINT32_MAX - base)
		fail(a, -EINVAL);
	space_header(a, RES_DWORD_SPACE, 23, SPACE_MEMORY, SPACE_FIXED, MEMORY_RW);
	aml_u32(a, 0);
	aml_u32(a, base);
	aml_u32(a, base + size - 1);
	aml_u32(a, 0);
	aml_u32(a, size);
}

static void qword_memory(struct aml *a, uint8_t flags, uint64_t base, uint64_t size)
{
	if (!size || size - 1 > UINT64_MAX - base)
		fail(a, -EINVAL);
	space_header(a, RES_QWORD_SPACE, 43, SPACE_MEMORY, flags, MEMORY_RW);
	aml_u64(a, 0);
	aml_u64(a, base);
	aml_u64(a, base + size - 1);
	aml_u64(a, 0);
	aml_u64(a, size);
}

void aml_res_memory64_window(struct aml *a, uint64_t base, uint64_t size)
{
	qword_memory(a, SPACE_FIXED, base, size);
}

void aml_res_memory64(struct aml *a, uint64_t base, uint64_t size)
{
	qword_memory(a, SPACE_FIXED | SPACE_CONSUMER, base, size);
}
