/* smbios_test.c - the entry point and the structures behind it, as a guest reads them */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "machine/layout.h"
#include "machine/smbios.h"

static void the_entry_point_leads_to_the_structures(void **state)
{
	size_t size;
	uint64_t table;
	uint8_t *bytes, sum = 0;

	assert_int_equal(smbios_build(LAYOUT_SMBIOS, &bytes, &size), 0);
	assert_memory_equal(bytes, "_SM3_", 5);
	for (unsigned i = 0; i < bytes[6]; i++)
		sum = (uint8_t)(sum + bytes[i]);
	assert_int_equal(sum, 0);
	memcpy(&table, bytes + 16, sizeof(table));
	assert_int_equal(table, LAYOUT_SMBIOS + 32);
	free(bytes);
}

/* Each structure is its formatted part and strings up to two zeroes; the last is type 127. */
static void the_structures_end_where_the_entry_point_says(void **state)
{
	size_t size, off = 32, end, seen = 0;
	uint8_t *bytes, type;
	uint32_t nr;

	assert_int_equal(smbios_build(LAYOUT_SMBIOS, &bytes, &size), 0);
	memcpy(&nr, bytes + 12, sizeof(nr));
	end = off + nr;
	assert_int_equal(end, size);
	do {
		assert_true(off + 4 <= end);
		type = bytes[off];
		off += bytes[off + 1];
		while (off + 2 <= end && (bytes[off] || bytes[off + 1]))
			off++;
		off += 2;
		seen++;
	} while (type != 127);
	assert_int_equal(off, end);
	assert_int_equal(seen, 3);
	assert_non_null(memmem(bytes, size, "outboard", 9));
	free(bytes);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_entry_point_leads_to_the_structures),
		cmocka_unit_test(the_structures_end_where_the_entry_point_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
