/* pci_address_test.c - names of PCI functions, as people write them and as the kernel does */
#include "base/pci_address.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"

static void addresses_are_read_and_written(void **state)
{
	static const struct {
		const char *text, *written;
	} cases[] = {
		{ "0000:00:05.0", "0000:00:05.0" },
		{ "00:05.0", "0000:00:05.0" },
		{ "0001:FF:1f.7", "0001:ff:1f.7" },
		{ "10000:e1:00.0", "10000:e1:00.0" },
		{ "ffffffff:ff:1f.7", "ffffffff:ff:1f.7" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char text[PCI_ADDRESS_ROOM];
		struct pci_address address;

		assert_int_equal(pci_address_parse(cases[i].text, &address), 0);
		pci_address_print(&address, text);
		assert_string_equal(text, cases[i].written);
	}
}

static void what_is_no_address_is_refused(void **state)
{
	static const char *const texts[] = { "", ":", "::", "::.", "05.0", "0:05.0", "000:00:05.0",
		"000000000:00:05.0", "00:05.8", "00:20.0", "00:05.0 ", " 00:05.0", "00:05.0/",
		"00:05", "00:05.", "00:05.00", "00:g5.0", "0000:00:05.0:", "0000:0000:00:05.0",
		"-001:00:05.0", "0x00:00:05.0" };

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct pci_address address;

		assert_int_equal(pci_address_parse(texts[i], &address), -EINVAL);
	}
}

static void the_last_word_of_a_path_counts(void **state)
{
	static const char *const same[] = { "0000:01:00.0", "01:00.0",
		"/sys/bus/pci/devices/0000:01:00.0", "/sys/bus/pci/devices/0000:01:00.0///",
		"devices/0000:01:00.0/" };
	static const char *const none[] = { "", "/", "///", "/sys/bus/pci/devices/",
		"/sys/bus/pci/devices/0000:01:00.0/driver", "/a/0000:01:00.00000000000000000000" };
	struct pci_address first, other;

	assert_int_equal(pci_address_parse(same[0], &first), 0);
	for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
		assert_int_equal(pci_address_of_path(same[i], &other), 0);
		assert_true(pci_address_equal(&first, &other));
	}
	for (size_t i = 0; i < ARRAY_SIZE(none); i++)
		assert_int_equal(pci_address_of_path(none[i], &other), -EINVAL);
	assert_int_equal(pci_address_of_path("0000:01:00.1", &other), 0);
	assert_false(pci_address_equal(&first, &other));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_are_read_and_written),
		cmocka_unit_test(what_is_no_address_is_refused),
		cmocka_unit_test(the_last_word_of_a_path_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
