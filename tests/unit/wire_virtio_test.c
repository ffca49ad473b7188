#include "wire/virtio.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"

static uint32_t parsed(const char *text)
{
	struct err err = { 0 };
	uint32_t id = 0;

	assert_int_equal(virtio_type_parse(text, &id, &err), 0);
	assert_string_equal(err.text, "");
	return id;
}

static bool legal(uint32_t id, unsigned nr)
{
	struct err err = { 0 };
	int rc = virtio_type_check_queues(id, nr, &err);

	assert_true(rc == 0 || rc == -EINVAL);
	assert_int_equal(rc != 0, err.text[0] != 0);
	return rc == 0;
}

static void a_type_is_found_by_number_name_and_alias(void **state)
{
	assert_int_equal(parsed("26"), 26);
	assert_int_equal(parsed("fs"), VIRTIO_ID_FS);
	assert_int_equal(parsed("block"), VIRTIO_ID_BLOCK);
	assert_int_equal(parsed("blk"), VIRTIO_ID_BLOCK);
	assert_int_equal(parsed("rng"), VIRTIO_ID_RNG);
	assert_int_equal(parsed("entropy"), VIRTIO_ID_RNG);
	assert_int_equal(parsed("vsock"), VIRTIO_ID_VSOCK);
	assert_int_equal(parsed("9p"), VIRTIO_ID_9P);
	assert_int_equal(parsed("061"), 61); /* not in the table: any number goes */
	assert_int_equal(parsed("63"), 63);
}

static void what_is_no_type_is_refused(void **state)
{
	static const char *const bad[] = { "", "0", "64", "-1", "+1", " 1", "1 ", "1x", "0x1a",
		"4294967297", "18446744073709551617", "filesystem", "FS", "%s%s%n" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = { 0 };
		uint32_t id = 77;

		assert_int_equal(virtio_type_parse(bad[i], &id, &err), -EINVAL);
		assert_non_null(strstr(err.text, "expected a number from 1 to 63"));
		assert_non_null(strstr(err.text, bad[i]));
		assert_int_equal(id, 77);
	}
}

static void ids_names_and_aliases_are_unique(void **state)
{
	unsigned found = 0;

	for (uint32_t id = 0; id <= VIRTIO_TYPE_MAX + 1; id++) {
		const struct virtio_type *t = virtio_type_find(id);

		if (!t)
			continue;
		found++;
		assert_int_equal(t->id, id);
		assert_ptr_equal(virtio_type_named(t->name), t);
		if (t->alias)
			assert_ptr_equal(virtio_type_named(t->alias), t);
		assert_true(t->default_queues >= 1);
		assert_true(legal(id, t->default_queues));
	}
	assert_true(found > 40);
	assert_null(virtio_type_find(0));
	assert_null(virtio_type_named(""));
}

static void queue_counts_are_those_that_drivers_bear(void **state)
{
	/* type, legal counts, illegal counts; 0 ends a list */
	static const struct {
		uint32_t id;
		unsigned good[5], bad[5];
	} rows[] = {
		{ VIRTIO_ID_NET, { 2, 3, 4, 5, 64 }, { 1 } },
		{ VIRTIO_ID_BLOCK, { 1, 2, 256 }, { 1025 } },
		{ VIRTIO_ID_CONSOLE, { 2, 4, 6 }, { 1, 3, 5 } },
		{ VIRTIO_ID_RNG, { 1 }, { 2 } },
		{ VIRTIO_ID_SCSI, { 3, 4, 9 }, { 1, 2 } },
		{ VIRTIO_ID_VSOCK, { 3 }, { 1, 2, 4 } },
		{ VIRTIO_ID_FS, { 2, 3, 17 }, { 1 } },
		{ VIRTIO_ID_GPIO, { 1, 2 }, { 3, 4 } },
		{ VIRTIO_ID_SOUND, { 4 }, { 3, 5 } },
		{ 61, { 1, 2, 3, 1024 }, { 1025 } },
		{ VIRTIO_ID_NITRO_SEC_MOD, { 1, 2, 3 }, { 1025 } },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		for (unsigned k = 0; k < 5 && rows[i].good[k]; k++)
			assert_true(legal(rows[i].id, rows[i].good[k]));
		for (unsigned k = 0; k < 5 && rows[i].bad[k]; k++)
			assert_false(legal(rows[i].id, rows[i].bad[k]));
		assert_false(legal(rows[i].id, 0));
	}
}

static void a_refused_count_names_the_legal_ones(void **state)
{
	struct err err = { 0 };

	virtio_type_check_queues(VIRTIO_ID_FS, 1, &err);
	assert_string_equal(err.text, "a fs device with 1 queue: expected 2 or more");
	err.text[0] = 0;
	virtio_type_check_queues(VIRTIO_ID_GPIO, 3, &err);
	assert_string_equal(err.text, "a gpio device with 3 queues: expected 1 or 2");
	err.text[0] = 0;
	virtio_type_check_queues(VIRTIO_ID_CONSOLE, 3, &err);
	assert_string_equal(
		err.text, "a console device with 3 queues: expected 2 and any multiple of 2 more");
}

static void what_needs_the_vmm_is_marked(void **state)
{
	static const char *const refused[] = { "iommu", "mem", "balloon", "watchdog" };
	static const char *const fine[] = { "net", "block", "gpu", "pmem", "fs", "media" };

	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		assert_non_null(virtio_type_named(refused[i])->refused);
	for (size_t i = 0; i < ARRAY_SIZE(fine); i++)
		assert_null(virtio_type_named(fine[i])->refused);
}

static void an_unknown_type_has_a_name_for_the_log(void **state)
{
	char buf[16];

	assert_string_equal(virtio_type_name(VIRTIO_ID_BLOCK, buf), "block");
	assert_string_equal(virtio_type_name(61, buf), "type61");
	assert_string_equal(virtio_type_name(UINT32_MAX, buf), "type4294967295");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_type_is_found_by_number_name_and_alias),
		cmocka_unit_test(what_is_no_type_is_refused),
		cmocka_unit_test(ids_names_and_aliases_are_unique),
		cmocka_unit_test(queue_counts_are_those_that_drivers_bear),
		cmocka_unit_test(a_refused_count_names_the_legal_ones),
		cmocka_unit_test(what_needs_the_vmm_is_marked),
		cmocka_unit_test(an_unknown_type_has_a_name_for_the_log),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
