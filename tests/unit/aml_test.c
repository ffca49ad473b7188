/* aml_test.c - encodings of AML terms and resources, byte for byte */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "machine/aml.h"

/* What was written is exactly these bytes. */
#define assert_aml(a, ...)                                                                         \
	do {                                                                                       \
		static const uint8_t expected[] = { __VA_ARGS__ };                                 \
		assert_int_equal(aml_status(a), 0);                                                \
		assert_int_equal((a)->size, sizeof(expected));                                     \
		assert_memory_equal((a)->data, expected, sizeof(expected));                        \
		aml_fini(a);                                                                       \
	} while (0)

static void integers_take_their_shortest_form(void **state)
{
	struct aml a = { 0 };

	aml_int(&a, 0);
	aml_int(&a, 1);
	aml_int(&a, 2);
	aml_int(&a, 0xff);
	aml_int(&a, 0x100);
	aml_int(&a, 0xffff);
	aml_int(&a, 0x10000);
	aml_int(&a, 0xffffffff);
	aml_int(&a, 0x100000000);
	assert_aml(&a, 0x00, 0x01, 0x0a, 2, 0x0a, 0xff, 0x0b, 0, 1, 0x0b, 0xff, 0xff, 0x0c, 0, 0, 1, 0,
		0x0c, 0xff, 0xff, 0xff, 0xff, 0x0e, 0, 0, 0, 0, 1, 0, 0, 0);
}

static void names_are_padded_and_prefixed(void **state)
{
	struct aml a = { 0 };

	aml_path(&a, "A");
	assert_aml(&a, 'A', '_', '_', '_');
	aml_path(&a, "\\_SB");
	assert_aml(&a, '\\', '_', 'S', 'B', '_');
	aml_path(&a, "^^PCI0.S1");
	assert_aml(&a, '^', '^', 0x2e, 'P', 'C', 'I', '0', 'S', '1', '_', '_');
	aml_path(&a, "\\A.B.C");
	assert_aml(&a, '\\', 0x2f, 3, 'A', '_', '_', '_', 'B', '_', '_', '_', 'C', '_', '_', '_');
	aml_path(&a, "\\");
	assert_aml(&a, '\\', 0);
	aml_path(&a, "");
	assert_aml(&a, 0);
}

static void names_that_are_none_are_refused(void **state)
{
	static const char *const bad[] = { "ABCDE", "abc", "1AB", "A..B", "A.", "A-B" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct aml a = { 0 };

		aml_path(&a, bad[i]);
		assert_int_equal(aml_status(&a), -EINVAL);
		aml_fini(&a);
	}
}

static void ids_are_packed(void **state)
{
	struct aml a = { 0 };

	aml_eisaid(&a, "PNP0A08");
	assert_aml(&a, 0x0c, 0x41, 0xd0, 0x0a, 0x08);
	aml_uuid(&a, "33db4d5b-1ff7-401c-9657-7441c03dd766");
	assert_aml(&a, 0x11, 0x13, 0x0a, 0x10, 0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40, 0x96, 0x57,
		0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66);
	aml_eisaid(&a, "PNP0A0");
	assert_int_equal(aml_status(&a), -EINVAL);
	aml_fini(&a);
	aml_eisaid(&a, "pnp0A08");
	assert_int_equal(aml_status(&a), -EINVAL);
	aml_fini(&a);
	aml_uuid(&a, "33db4d5b-1ff7-401c-9657-7441c03dd76g");
	assert_int_equal(aml_status(&a), -EINVAL);
	aml_fini(&a);
}

static void strings_and_names_follow_each_other(void **state)
{
	struct aml a = { 0 };

	aml_name(&a, "_HID");
	aml_string(&a, "AB");
	assert_aml(&a, 0x08, '_', 'H', 'I', 'D', 0x0d, 'A', 'B', 0);
}

static void packages_count_their_elements(void **state)
{
	struct aml a = { 0 };

	aml_package(&a);
	aml_element(&a);
	aml_int(&a, 5);
	aml_element(&a);
	aml_package(&a);
	aml_end(&a);
	aml_end(&a);
	assert_aml(&a, 0x12, 0x07, 2, 0x0a, 5, 0x12, 0x02, 0);

	aml_element(&a); /* of nothing */
	assert_int_equal(aml_status(&a), -EINVAL);
	aml_fini(&a);

	aml_package(&a);
	for (unsigned i = 0; i < 256; i++) {
		aml_element(&a);
		aml_int(&a, 0);
	}
	aml_end(&a);
	assert_int_equal(aml_status(&a), -EOVERFLOW);
	aml_fini(&a);
}

/* Decode what stands at a->data[at]: the length, and how many bytes it takes. */
static size_t length_at(const struct aml *a, size_t at, size_t *bytes)
{
	uint8_t lead = a->data[at];
	size_t v = lead & 0xf;

	*bytes = 1 + (lead >> 6);
	if (*bytes == 1)
		return lead & 0x3f;
	for (size_t i = 1; i < *bytes; i++)
		v |= (size_t)a->data[at + i] << (4 + 8 * (i - 1));
	return v;
}

static void package_lengths_grow_at_the_right_place(void **state)
{
	/* content bytes (four of them the name), bytes of the length */
	static const struct {
		size_t content, bytes;
	} cases[] = {
		{ 62, 1 },	{ 63, 2 },     { 0x0ffd, 2 },	{ 0x0ffe, 3 },
		{ 0xffffc, 3 }, { 0xffffd, 4 }, { 0x200000, 4 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct aml a = { 0 };
		size_t bytes;

		aml_scope(&a, "ABCD");
		for (size_t n = 4; n < cases[i].content; n++)
			aml_u8(&a, 0xa3); /* Noop */
		aml_end(&a);
		assert_int_equal(aml_status(&a), 0);
		assert_int_equal(length_at(&a, 1, &bytes), cases[i].content + cases[i].bytes);
		assert_int_equal(bytes, cases[i].bytes);
		assert_int_equal(a.size, 1 + cases[i].content + cases[i].bytes);
		assert_memory_equal(a.data + 1 + bytes, "ABCD", 4);
		aml_fini(&a);
	}
}

static void nesting_adds_up(void **state)
{
	struct aml a = { 0 };
	size_t bytes, inner;

	aml_scope(&a, "\\_SB");
	aml_device(&a, "DEV0");
	for (unsigned i = 0; i < 100; i++)
		aml_u8(&a, 0xa3);
	aml_end(&a);
	aml_end(&a);
	assert_int_equal(aml_status(&a), 0);
	assert_int_equal(length_at(&a, 1, &bytes), a.size - 1);
	inner = 1 + bytes + 5 + 2; /* ScopeOp, length, \_SB_, ExtOp DeviceOp */
	assert_int_equal(length_at(&a, inner, &bytes), a.size - inner);
	assert_memory_equal(a.data + inner + bytes, "DEV0", 4);
	aml_fini(&a);
}

static void begins_and_ends_must_match(void **state)
{
	struct aml a = { 0 };

	aml_end(&a);
	assert_int_equal(aml_status(&a), -EINVAL);
	aml_fini(&a);
	aml_scope(&a, "\\");
	assert_int_equal(aml_status(&a), -EINVAL); /* not closed yet */
	aml_fini(&a);
	for (unsigned i = 0; i <= AML_MAX_DEPTH; i++)
		aml_scope(&a, "\\");
	assert_int_equal(aml_status(&a), -EOVERFLOW);
	aml_end(&a); /* what comes after a failure does nothing */
	assert_int_equal(aml_status(&a), -EOVERFLOW);
	aml_fini(&a);
}

static void methods_fields_and_terms(void **state)
{
	struct aml a = { 0 };

	aml_method(&a, "_EVT", 1, AML_SERIALIZED);
	aml_store(&a);
	aml_path(&a, "GDAT");
	aml_local(&a, 0);
	aml_if(&a);
	aml_and(&a);
	aml_local(&a, 0);
	aml_int(&a, 8);
	aml_null(&a);
	aml_notify(&a, "PWRB", 0x80);
	aml_end(&a);
	aml_end(&a);
	assert_aml(&a, 0x14, 0x1a, '_', 'E', 'V', 'T', 9, 0x70, 'G', 'D', 'A', 'T', 0x60, 0xa0, 0x0d,
		0x7b, 0x60, 0x0a, 8, 0, 0x86, 'P', 'W', 'R', 'B', 0x0a, 0x80);

	aml_region(&a, "GDST", AML_SYSTEM_MEMORY, 0x100, 1);
	assert_aml(&a, 0x5b, 0x80, 'G', 'D', 'S', 'T', 0, 0x0b, 0, 1, 1);
	aml_field(&a, "GDST", AML_ACCESS_BYTE | AML_WRITE_AS_ZEROS);
	aml_field_unit(&a, "GDAT", 8);
	aml_field_unit(&a, NULL, 64);
	aml_end(&a);
	assert_aml(&a, 0x5b, 0x81, 0x0e, 'G', 'D', 'S', 'T', 0x41, 'G', 'D', 'A', 'T', 8, 0, 0x40, 0x04);
	aml_mutex(&a, "BLCK");
	assert_aml(&a, 0x5b, 0x01, 'B', 'L', 'C', 'K', 0);

	aml_create_dword_field(&a);
	aml_arg(&a, 3);
	aml_int(&a, 4);
	aml_path(&a, "CDW2");
	assert_aml(&a, 0x8a, 0x6b, 0x0a, 4, 'C', 'D', 'W', '2');
	aml_while(&a);
	aml_not(&a);
	aml_equal(&a);
	aml_arg(&a, 0);
	aml_int(&a, 1);
	aml_end(&a);
	assert_aml(&a, 0xa2, 5, 0x92, 0x93, 0x68, 1);
	aml_else(&a);
	aml_return(&a);
	aml_or(&a);
	aml_int(&a, 1);
	aml_int(&a, 0);
	aml_null(&a);
	aml_end(&a);
	assert_aml(&a, 0xa1, 6, 0xa4, 0x7d, 1, 0, 0);
}

static void resource_templates_have_size_and_end(void **state)
{
	struct aml a = { 0 };

	aml_resources(&a);
	aml_res_io(&a, 0x3f8, 8);
	aml_res_interrupt(&a, AML_EDGE, 4);
	aml_end(&a);
	assert_aml(&a, 0x11, 0x16, 0x0a, 19, 0x47, 1, 0xf8, 3, 0xf8, 3, 0, 8, 0x89, 6, 0, 3, 1, 4, 0, 0,
		0, 0x79, 0);
}

static void resource_descriptors(void **state)
{
	struct aml a = { 0 };

	aml_res_memory32_fixed(&a, 0xe8000000, 0x100000);
	assert_aml(&a, 0x86, 9, 0, 1, 0, 0, 0, 0xe8, 0, 0, 0x10, 0);
	aml_res_interrupt(&a, AML_LEVEL, 0x102);
	assert_aml(&a, 0x89, 6, 0, 1, 1, 2, 1, 0, 0);
	aml_res_bus(&a, 0, 0);
	assert_aml(&a, 0x88, 13, 0, 2, 0x0c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0);
	aml_res_io_window(&a, 0xd00, 0xf300);
	assert_aml(&a, 0x88, 13, 0, 1, 0x0c, 3, 0, 0, 0, 0xd, 0xff, 0xff, 0, 0, 0, 0xf3);
	aml_res_memory32_window(&a, 0xc0000000, 0x28000000);
	assert_aml(&a, 0x87, 23, 0, 0, 0x0c, 1, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff, 0xff, 0xe7, 0, 0,
		0, 0, 0, 0, 0, 0x28);
	aml_res_memory64_window(&a, 0x100000000, 0x200000000);
	assert_aml(&a, 0x8a, 43, 0, 0, 0x0c, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff,
		0xff, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0);
	aml_res_memory64(&a, 0x1000, 0x1000);
	assert_int_equal(a.data[4], 0x0d); /* a consumer */
	aml_fini(&a);
}

static void windows_that_are_empty_or_wrap_are_refused(void **state)
{
	struct aml a = { 0 };

	aml_res_io_window(&a, 0xf000, 0x1001);
	assert_int_equal(aml_status(&a), -EINVAL);
	aml_fini(&a);
	aml_res_io_window(&a, 0, 0);
	assert_int_equal(aml_status(&a), -EINVAL);
	aml_fini(&a);
	aml_res_memory32_window(&a, 0xfffff000, 0x1001);
	assert_int_equal(aml_status(&a), -EINVAL);
	aml_fini(&a);
	aml_res_memory64_window(&a, UINT64_MAX - 1, 3);
	assert_int_equal(aml_status(&a), -EINVAL);
	aml_fini(&a);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(integers_take_their_shortest_form),
		cmocka_unit_test(names_are_padded_and_prefixed),
		cmocka_unit_test(names_that_are_none_are_refused),
		cmocka_unit_test(ids_are_packed),
		cmocka_unit_test(strings_and_names_follow_each_other),
		cmocka_unit_test(packages_count_their_elements),
		cmocka_unit_test(package_lengths_grow_at_the_right_place),
		cmocka_unit_test(nesting_adds_up),
		cmocka_unit_test(begins_and_ends_must_match),
		cmocka_unit_test(methods_fields_and_terms),
		cmocka_unit_test(resource_templates_have_size_and_end),
		cmocka_unit_test(resource_descriptors),
		cmocka_unit_test(windows_that_are_empty_or_wrap_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
