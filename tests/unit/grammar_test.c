/* grammar_test.c - the option string grammar, example by example */
#include "control/grammar.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"

/* Split and write the items as name=value;word; for one comparison. */
static void assert_split(const char *text, const char *expected)
{
	struct grammar_items items;
	char got[300] = "";

	assert_int_equal(grammar_split(text, &items), 0);
	for (size_t i = 0; i < items.nr; i++) {
		strcat(got, items.items[i].name);
		if (items.items[i].value) {
			strcat(got, "=");
			strcat(got, items.items[i].value);
		}
		strcat(got, ";");
	}
	grammar_items_fini(&items);
	assert_string_equal(got, expected);
}

static void assert_not_split(const char *text, int rc)
{
	struct grammar_items items;

	assert_int_equal(grammar_split(text, &items), rc);
	assert_null(items.items);
	assert_null(items.text);
	assert_int_equal(items.nr, 0);
}

static void assert_dequoted(const char *raw, const char *expected)
{
	char *text;

	assert_int_equal(grammar_dequote(raw, &text), 0);
	assert_string_equal(text, expected);
	free(text);
}

static void assert_int_list(const char *text, const char *expected)
{
	struct grammar_ints ints;
	char got[300] = "";

	assert_int_equal(grammar_int_list(text, UINT64_MAX, &ints), 0);
	for (size_t i = 0; i < ints.nr; i++)
		sprintf(got + strlen(got), "%llu ", (unsigned long long)ints.values[i]);
	grammar_ints_fini(&ints);
	assert_string_equal(got, expected);
}

static void assert_no_int_list(const char *text, int rc)
{
	struct grammar_ints ints;

	assert_int_equal(grammar_int_list(text, 8191, &ints), rc);
	assert_null(ints.values);
}

static void assert_tuples(const char *text, const char *expected)
{
	struct grammar_tuples tuples;
	char got[300] = "";

	assert_int_equal(grammar_tuple_list(text, &tuples), 0);
	for (size_t i = 0; i < tuples.nr; i++)
		sprintf(got + strlen(got), "%s -> %s; ", tuples.items[i].key,
			tuples.items[i].value);
	grammar_tuples_fini(&tuples);
	assert_string_equal(got, expected);
}

static void assert_no_tuples(const char *text)
{
	struct grammar_tuples tuples;

	assert_int_equal(grammar_tuple_list(text, &tuples), -EINVAL);
	assert_null(tuples.items);
}

static void assert_strings(const char *text, const char *expected)
{
	struct grammar_strings strings;
	char got[300] = "";

	assert_int_equal(grammar_string_list(text, &strings), 0);
	for (size_t i = 0; i < strings.nr; i++)
		sprintf(got + strlen(got), "%s; ", strings.items[i]);
	grammar_strings_fini(&strings);
	assert_string_equal(got, expected);
}

static void an_empty_string_has_no_items(void **state)
{
	assert_split("", "");
}

static void items_are_split_at_commas(void **state)
{
	assert_split("size=512M", "size=512M;");
	assert_split("size=512M,shared=on", "size=512M;shared=on;");
	assert_split("tty", "tty;");
	assert_split("off,iommu=on", "off;iommu=on;");
}

static void an_item_is_split_at_its_first_equals_sign(void **state)
{
	assert_split("cmdline=console=ttyS0", "cmdline=console=ttyS0;");
	assert_split("=x", "=x;");
}

static void commas_in_quotes_and_brackets_do_not_split(void **state)
{
	assert_split("cmdline=\"console=ttyS0,9600n8\"", "cmdline=\"console=ttyS0,9600n8\";");
	assert_split("affinity=[0@[0,1],1@[2-3]],boot=2", "affinity=[0@[0,1],1@[2-3]];boot=2;");
	assert_split("a=[\"]\",1],b=2", "a=[\"]\",1];b=2;");
	assert_split("a=\"[\",b=\"]\"", "a=\"[\";b=\"]\";");
}

static void a_doubled_quote_does_not_end_a_quoted_part(void **state)
{
	assert_split("socket=\"/tmp/a\"\",b\",id=x", "socket=\"/tmp/a\"\",b\";id=x;");
}

static void values_are_trimmed_and_names_are_not(void **state)
{
	assert_split("size= 512M\t,shared=on ", "size=512M;shared=on;");
	assert_split(" size=1", " size=1;");
	assert_split("a=\" x \"", "a=\" x \";");
}

static void an_empty_value_is_kept_as_such(void **state)
{
	assert_split("max=,boot=1", "max=;boot=1;");
	assert_split("max=  ", "max=;");
}

static void a_repeated_name_is_kept_for_the_last_to_win(void **state)
{
	assert_split("size=1M,size=2M", "size=1M;size=2M;");
}

static void nothing_between_commas_is_refused(void **state)
{
	assert_not_split(",", -ENODATA);
	assert_not_split("a=1,", -ENODATA);
	assert_not_split(",a=1", -ENODATA);
	assert_not_split("a=1,,b=2", -ENODATA);
}

static void unbalanced_quotes_and_brackets_are_refused(void **state)
{
	assert_not_split("\"", -EINVAL);
	assert_not_split("\"\"\"", -EINVAL);
	assert_not_split("a=\"b", -EINVAL);
	assert_not_split("a=[b", -EINVAL);
	assert_not_split("a=b]", -EINVAL);
	assert_not_split("a=]b[", -EINVAL);
	assert_not_split("a=[[b]", -EINVAL);
	assert_not_split("a=[\"]", -EINVAL);
	assert_not_split("a=1,b=[", -EINVAL);
}

static void quoting_is_removed(void **state)
{
	assert_dequoted("", "");
	assert_dequoted("\"\"", "");
	assert_dequoted("\"\"\"\"", "\"");
	assert_dequoted("a\"b\"\"c\"", "ab\"c");
	assert_dequoted("a=\"b\"", "a=b");
	assert_dequoted("a\xce\xb2\"a\"\"\"", "a\xce\xb2"
					      "a\"");
	assert_dequoted("\"a\"b\"c\"", "abc");
	assert_dequoted("[\"a,b\"]", "[a,b]");
}

static void an_odd_quote_cannot_be_removed(void **state)
{
	char *text;

	assert_int_equal(grammar_dequote("\"", &text), -EINVAL);
	assert_int_equal(grammar_dequote("\"\"\"", &text), -EINVAL);
	assert_int_equal(grammar_dequote("a\"b\"\"c", &text), -EINVAL);
	assert_null(text);
}

static void toggles_are_read_in_any_case(void **state)
{
	const char *on[] = { "on", "true", "ON", "True", "oN" };
	const char *off[] = { "off", "false", "OFF", "False", "" };
	const char *neither[] = { "yes", "1", "0", "on ", "offf", "tru" };
	bool value;

	for (size_t i = 0; i < ARRAY_SIZE(on); i++) {
		value = false;
		assert_int_equal(grammar_toggle(on[i], &value), 0);
		assert_true(value);
	}
	for (size_t i = 0; i < ARRAY_SIZE(off); i++) {
		value = true;
		assert_int_equal(grammar_toggle(off[i], &value), 0);
		assert_false(value);
	}
	for (size_t i = 0; i < ARRAY_SIZE(neither); i++)
		assert_int_equal(grammar_toggle(neither[i], &value), -EINVAL);
}

static void sizes_have_at_most_one_suffix(void **state)
{
	const struct {
		const char *text;
		uint64_t bytes;
	} good[] = { { "0", 0 }, { "4096", 4096 }, { "1K", 1024 }, { "512M", 512 * MIB },
		{ "3G", 3 * GIB }, { "0512M", 512 * MIB }, { "17179869183G", 17179869183ull << 30 },
		{ "18446744073709551615", UINT64_MAX } };
	const char *bad[] = { "", "M", "1KM", "1KK", "1T", "1m", "1 M", " 1M", "-1", "+1", "1.5G",
		"0x10", "1MB", "M1" };
	const char *large[] = { "18446744073709551616", "17179869184G", "18014398509481984K",
		"99999999999999999999999G" };
	uint64_t value;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(grammar_size(good[i].text, &value), 0);
		assert_int_equal(value, good[i].bytes);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(grammar_size(bad[i], &value), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(large); i++)
		assert_int_equal(grammar_size(large[i], &value), -ERANGE);
}

static void numbers_are_decimal_or_hexadecimal(void **state)
{
	const char *bad[] = { "", "0x", "x1", "1x", "0xg", "-1", "+1", " 1", "1 ", "1_000", "1K" };
	uint64_t value;

	assert_int_equal(grammar_uint("0", &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(grammar_uint("042", &value), 0);
	assert_int_equal(value, 42);
	assert_int_equal(grammar_uint("0xE9", &value), 0);
	assert_int_equal(value, 0xe9);
	assert_int_equal(grammar_uint("0XffffffffFFFFFFFF", &value), 0);
	assert_int_equal(value, UINT64_MAX);
	assert_int_equal(grammar_uint("0x10000000000000000", &value), -ERANGE);
	assert_int_equal(grammar_uint("18446744073709551616", &value), -ERANGE);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(grammar_uint(bad[i], &value), -EINVAL);
}

static void integer_lists_hold_numbers_and_ascending_ranges(void **state)
{
	assert_int_list("[0,2-4]", "0 2 3 4 ");
	assert_int_list("0,2-4", "0 2 3 4 ");
	assert_int_list("7", "7 ");
	assert_int_list("[512,512]", "512 512 ");
	assert_int_list("[18446744073709551614-18446744073709551615]",
		"18446744073709551614 18446744073709551615 ");
}

static void malformed_integer_lists_are_refused(void **state)
{
	const char *bad[] = { "", "[]", "[", "]", "[1", "1]", "[1,]", "[,1]", "[1,,2]", "[4-2]",
		"[2-2]", "[1-2-3]", "[-1]", "[1-]", "[ 1]", "[1, 2]", "[a]", "[[1]]", "[1.0]" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_no_int_list(bad[i], -EINVAL);
}

static void an_integer_above_the_limit_is_refused(void **state)
{
	assert_no_int_list("8192", -ERANGE);
	assert_no_int_list("[0-8192]", -ERANGE);
	assert_no_int_list("[0-18446744073709551615]", -ERANGE);
	assert_no_int_list("[99999999999999999999]", -ERANGE);
}

static void a_few_bytes_cannot_ask_for_much_memory(void **state)
{
	assert_no_int_list("[0-4096]", -E2BIG);
	assert_no_int_list("[0-4095,0]", -E2BIG);
	assert_no_int_list("[0-2000,0-2000,0-2000]", -E2BIG);
}

static void tuple_lists_pair_keys_and_values(void **state)
{
	assert_tuples("[k@v,k2@[1,2]]", "k -> v; k2 -> [1,2]; ");
	assert_tuples("[0@[0,1],1@[2-3]]", "0 -> [0,1]; 1 -> [2-3]; ");
	assert_tuples("[\"a@b\"@c]", "\"a@b\" -> c; ");
	assert_tuples("[a@b@c]", "a -> b@c; ");
}

static void malformed_tuple_lists_are_refused(void **state)
{
	const char *bad[] = { "", "[]", "[", "k@v", "[k]", "[k@]", "[@v]", "[k@v", "k@v]", "[k@v,]",
		"[k@v]]", "[k@v],[l@w]", "[\"k@v\"]", "[k@[v]", "[[k@v]]" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_no_tuples(bad[i]);
}

static void string_lists_keep_their_quotes(void **state)
{
	struct grammar_strings strings;

	assert_strings("[a,b]", "a; b; ");
	assert_strings("a,b", "a; b; ");
	assert_strings("[]", "");
	assert_strings("[\"a,b\",c]", "\"a,b\"; c; ");
	assert_int_equal(grammar_string_list("[a", &strings), -EINVAL);
	assert_int_equal(grammar_string_list("[\"a]", &strings), -EINVAL);
	assert_null(strings.items);
}

static void what_is_shown_fits_one_line(void **state)
{
	char text[300];

	assert_string_equal(grammar_show("plain").text, "plain");
	assert_string_equal(grammar_show("a\nb\tc\x1b[1m\x7f").text, "a?b?c?[1m?");
	assert_string_equal(grammar_show("\xc3\xa4\xe2\x82\xac").text, "\xc3\xa4\xe2\x82\xac");
	assert_string_equal(grammar_show("\xc3\xff\xc2\x9b\x80").text, "?????");
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(strlen(grammar_show(text).text), sizeof(struct grammar_shown) - 1);
	assert_string_equal(grammar_show(text).text + sizeof(struct grammar_shown) - 5, "x...");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_string_has_no_items),
		cmocka_unit_test(items_are_split_at_commas),
		cmocka_unit_test(an_item_is_split_at_its_first_equals_sign),
		cmocka_unit_test(commas_in_quotes_and_brackets_do_not_split),
		cmocka_unit_test(a_doubled_quote_does_not_end_a_quoted_part),
		cmocka_unit_test(values_are_trimmed_and_names_are_not),
		cmocka_unit_test(an_empty_value_is_kept_as_such),
		cmocka_unit_test(a_repeated_name_is_kept_for_the_last_to_win),
		cmocka_unit_test(nothing_between_commas_is_refused),
		cmocka_unit_test(unbalanced_quotes_and_brackets_are_refused),
		cmocka_unit_test(quoting_is_removed),
		cmocka_unit_test(an_odd_quote_cannot_be_removed),
		cmocka_unit_test(toggles_are_read_in_any_case),
		cmocka_unit_test(sizes_have_at_most_one_suffix),
		cmocka_unit_test(numbers_are_decimal_or_hexadecimal),
		cmocka_unit_test(integer_lists_hold_numbers_and_ascending_ranges),
		cmocka_unit_test(malformed_integer_lists_are_refused),
		cmocka_unit_test(an_integer_above_the_limit_is_refused),
		cmocka_unit_test(a_few_bytes_cannot_ask_for_much_memory),
		cmocka_unit_test(tuple_lists_pair_keys_and_values),
		cmocka_unit_test(malformed_tuple_lists_are_refused),
		cmocka_unit_test(string_lists_keep_their_quotes),
		cmocka_unit_test(what_is_shown_fits_one_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
