/* options_test.c - the option table: that it is sound, and that command lines fill a configuration
 */
#include "control/options.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "control/field.h"
#include "control/option_table.h"

#define COMMAND_LINE_PROGRAM "outboard"
#define COMMAND_LINE_PARSE   options_parse
#include "command_line.h"

static void every_row_of_the_table_is_sound(void **state)
{
	for_each_option (o) {
		assert_ptr_equal(option_find(o->name), o); /* names are unique */
		assert_true(o->kind == OPTION_REFUSED || o->help);
		assert_true(!o->bare || field_find(o, o->bare));
		assert_true(o->kind != OPTION_LIST || o->item_size);
		assert_true(o->kind != OPTION_VALUE || (o->fields && !o->fields[1].name));
		for_each_field (f, o) {
			assert_ptr_equal(field_find(o, f->name), f);
			assert_true(f->help || f->word_only || o->kind == OPTION_VALUE);
			assert_true(f->arg || f->word_only || o->kind == OPTION_VALUE);
			assert_true(f->refused || f->size);
			assert_true(f->type != FIELD_CHOICE || f->choices);
			assert_true(!f->implies || field_find(o, f->implies));
			assert_true(f->type != FIELD_SIZE || f->refused || f->size == 8);
			for_each_choice (c, f)
				for_each_choice (d, f)
					assert_true(c == d || c->value != d->value);
		}
	}
}

static void every_default_is_accepted_when_it_is_given(void **state)
{
	for_each_option (o) {
		if (o->kind != OPTION_FIELDS)
			continue;
		for_each_field (f, o) {
			struct vm_config config;
			struct err err = { 0 };
			char text[100];

			if (!f->fallback)
				continue;
			snprintf(text, sizeof(text), "%s%s%s", f->word_only ? "" : f->name,
				f->word_only ? "" : "=", f->fallback);
			assert_int_equal(config_init(&config), 0);
			assert_int_equal(options_apply(&config, o->name, text, &err), 0);
			config_fini(&config);
		}
	}
}

static void json_keys_are_unique_in_their_object(void **state)
{
	for_each_option (o) {
		for_each_field (f, o)
			for_each_field (g, o)
				assert_true(
					f == g || !f->json || !g->json || strcmp(f->json, g->json));
		for_each_option (p)
			if (o != p && o->json && p->json && o->kind != OPTION_VALUE)
				assert_string_not_equal(o->json, p->json);
	}
}

static void every_choice_in_json_has_its_spelling(void **state)
{
	for_each_option (o)
		for_each_field (f, o)
			for_each_choice (c, f)
				assert_true(!f->json || c->json);
}

static void nothing_given_gives_the_documented_defaults(void **state)
{
	struct vm_config config;

	accept_args(&config, ARGS("--kernel", "k"));
	assert_int_equal(config.cpus.boot, 1);
	assert_int_equal(config.cpus.max, 1);
	assert_int_equal(config.cpus.max_phys_bits, 46);
	assert_int_equal(config.cpus.topology.packages, 0);
	assert_int_equal(config.cpus.affinity.nr, 0);
	assert_int_equal(config.memory.size, 512 * MIB);
	assert_int_equal(config.memory.hugepage_size, 0);
	assert_false(config.memory.shared);
	assert_false(config.memory.hugepages);
	assert_false(config.memory.prefault);
	assert_true(config.memory.thp);
	assert_string_equal(config.payload.kernel, "k");
	assert_null(config.payload.firmware);
	assert_null(config.payload.initramfs);
	assert_null(config.payload.cmdline);
	assert_int_equal(config.serial.mode, CONSOLE_NULL);
	assert_int_equal(config.console.mode, CONSOLE_TTY);
	assert_int_equal(config.platform.num_pci_segments, 1);
	assert_int_equal(config.user_devices.nr, 0);
	assert_int_equal(config.devices.nr, 0);
	assert_false(config.platform.intremap);
	assert_false(config.platform.iommufd);
	assert_true(config.platform.iommufd_fd == CONFIG_NO_FD);
	assert_true(config.platform.vfio_p2p_dma);
	assert_false(config.platform.vfio_unsafe_noiommu);
	assert_null(config.log_file);
	assert_int_equal(config.verbosity, 0);
	assert_int_equal(config.seccomp, SECCOMP_KILL);
	config_fini(&config);
}

static void a_usual_command_line_is_understood(void **state)
{
	struct vm_config config;

	accept_args(&config, ARGS("--kernel", "vmlinuz", "--initramfs", "initrd.img", "--cmdline",
				     "console=ttyS0,9600n8 root=\"x\"", "--cpus", "4", "--memory",
				     "size=1G", "--console", "off", "--serial", "tty",
				     "--user-device", "socket=/tmp/vfio-user.sock", "-v",
				     "--log-file=/tmp/log", "-vv", "--seccomp", "false"));
	assert_string_equal(config.payload.initramfs, "initrd.img");
	assert_string_equal(config.payload.cmdline, "console=ttyS0,9600n8 root=\"x\"");
	assert_int_equal(config.cpus.boot, 4);
	assert_int_equal(config.cpus.max, 4);
	assert_int_equal(config.memory.size, GIB);
	assert_int_equal(config.serial.mode, CONSOLE_TTY);
	assert_int_equal(config.user_devices.nr, 1);
	assert_string_equal(config.user_devices.items[0].socket, "/tmp/vfio-user.sock");
	assert_string_equal(config.user_devices.items[0].at.id, "_vfio_user0");
	assert_int_equal(config.user_devices.items[0].at.pci_device_id, CONFIG_SLOT_ANY);
	assert_string_equal(config.log_file, "/tmp/log");
	assert_int_equal(config.verbosity, 3);
	config_fini(&config);
}

static void processors_are_described_in_full(void **state)
{
	struct vm_config config;
	const struct affinity_list *affinity = &config.cpus.affinity;

	accept_args(&config,
		ARGS("--firmware", "fw", "--cpus",
			"boot=4,max=8,topology=1:2:2:2,max_phys_bits=40,affinity=[0@[0,1],7@[2-4]]"));
	assert_int_equal(config.cpus.boot, 4);
	assert_int_equal(config.cpus.max, 8);
	assert_int_equal(config.cpus.topology.threads_per_core, 1);
	assert_int_equal(config.cpus.topology.cores_per_die, 2);
	assert_int_equal(config.cpus.topology.dies_per_package, 2);
	assert_int_equal(config.cpus.topology.packages, 2);
	assert_int_equal(config.cpus.max_phys_bits, 40);
	assert_int_equal(affinity->nr, 2);
	assert_int_equal(affinity->items[0].vcpu, 0);
	assert_int_equal(affinity->items[0].nr_host_cpus, 2);
	assert_int_equal(affinity->items[1].vcpu, 7);
	assert_int_equal(affinity->items[1].nr_host_cpus, 3);
	assert_int_equal(affinity->items[1].host_cpus[2], 4);
	config_fini(&config);
}

static void an_empty_value_means_the_default(void **state)
{
	struct vm_config config;

	accept_args(&config, ARGS("--kernel", "k", "--cpus",
				     "boot=,max=,max_phys_bits=,affinity=,topology=,profile=",
				     "--memory", "size=,thp=,hotplug_size="));
	assert_int_equal(config.cpus.boot, 1);
	assert_int_equal(config.cpus.max_phys_bits, 46);
	assert_int_equal(config.memory.size, 512 * MIB);
	assert_true(config.memory.thp);
	config_fini(&config);
}

static void of_a_repeated_field_the_last_wins(void **state)
{
	struct vm_config config;

	accept_args(&config,
		ARGS("--kernel", "k", "--cpus", "boot=2,affinity=[0@[1]],boot=3,affinity=[1@[5]]",
			"--serial", "file=/a,file=/b", "--user-device",
			"socket=a,socket=b,id=x,id=y"));
	assert_int_equal(config.cpus.boot, 3);
	assert_int_equal(config.cpus.affinity.nr, 1);
	assert_int_equal(config.cpus.affinity.items[0].vcpu, 1);
	assert_string_equal(config.serial.file, "/b");
	assert_string_equal(config.user_devices.items[0].socket, "b");
	assert_string_equal(config.user_devices.items[0].at.id, "y");
	config_fini(&config);
}

static void a_list_option_takes_several_values_and_is_repeated(void **state)
{
	struct vm_config config;
	const struct user_device_list *list = &config.user_devices;

	accept_args(&config,
		ARGS("--user-device", "socket=a,pci_device_id=5", "socket=b,id=_vfio_user0",
			"--kernel", "k", "--user-device=socket=c,pci_segment=1,pci_device_id=0x5",
			"--platform", "num_pci_segments=2"));
	assert_int_equal(list->nr, 3);
	assert_string_equal(list->items[0].at.id, "_vfio_user1"); /* 0 is taken by the user */
	assert_int_equal(list->items[0].at.pci_device_id, 5);
	assert_string_equal(list->items[1].at.id, "_vfio_user0");
	assert_string_equal(list->items[2].at.id, "_vfio_user2");
	assert_int_equal(list->items[2].at.pci_segment, 1);
	assert_int_equal(list->items[2].at.pci_device_id, 5);
	config_fini(&config);
}

static void host_devices_are_named_by_path_address_or_descriptor(void **state)
{
	struct vm_config config;
	const struct host_device_config *d;

	accept_args(&config,
		ARGS("--kernel", "k", "--device", "path=/sys/bus/pci/devices/0000:01:00.0/,id=gpu,"
			"x_nv_gpudirect_clique=15,x_exclude_mmap_bars=[0,2-3],pci_device_id=8",
			"02:00.0", "fd=7,iommu=off", "--device=path=/sys/bus/pci/devices/0000:01:00.1/",
			"--platform", "iommufd_fd=6"));
	assert_int_equal(config.devices.nr, 4);
	d = config.devices.items;
	assert_string_equal(d[0].at.id, "gpu");
	assert_string_equal(d[0].path, "/sys/bus/pci/devices/0000:01:00.0/");
	assert_true(d[0].fd == CONFIG_NO_FD);
	assert_int_equal(d[0].x_nv_gpudirect_clique, 15);
	assert_int_equal(d[0].x_exclude_mmap_bars.nr, 3);
	assert_int_equal(d[0].x_exclude_mmap_bars.items[2], 3);
	assert_int_equal(d[0].at.pci_device_id, 8);
	assert_string_equal(d[1].path, "02:00.0");
	assert_string_equal(d[1].at.id, "_vfio0");
	assert_int_equal(d[1].x_nv_gpudirect_clique, CONFIG_NO_CLIQUE);
	assert_null(d[2].path);
	assert_int_equal(d[2].fd, 7);
	assert_string_equal(d[3].at.id, "_vfio2");
	assert_true(config.platform.iommufd); /* whoever gives a descriptor wants it used */
	assert_int_equal(config.platform.iommufd_fd, 6);
	config_fini(&config);
}

static void quotes_protect_commas_in_paths(void **state)
{
	struct vm_config config;

	accept_args(&config,
		ARGS("--kernel", "a,b=\"c", "--user-device", "socket=\"/tmp/a,\"\"b\"\" c\",id=x"));
	assert_string_equal(config.payload.kernel, "a,b=\"c"); /* not an option string */
	assert_string_equal(config.user_devices.items[0].socket, "/tmp/a,\"b\" c");
	config_fini(&config);
}

static void serial_ports_have_their_modes(void **state)
{
	const struct {
		const char *text;
		uint32_t mode;
	} modes[] = { { "off", CONSOLE_OFF }, { "null", CONSOLE_NULL }, { "tty", CONSOLE_TTY },
		{ "pty", CONSOLE_PTY }, { "file=/tmp/x", CONSOLE_FILE },
		{ "socket=/tmp/x", CONSOLE_SOCKET } };

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		struct vm_config config;

		accept_args(&config, ARGS("--kernel", "k", "--serial", modes[i].text));
		assert_int_equal(config.serial.mode, modes[i].mode);
		if (modes[i].mode == CONSOLE_FILE)
			assert_string_equal(config.serial.file, "/tmp/x");
		if (modes[i].mode == CONSOLE_SOCKET)
			assert_string_equal(config.serial.socket, "/tmp/x");
		config_fini(&config);
	}
}

static void the_terminal_is_the_console_s_unless_the_serial_port_has_it(void **state)
{
	struct vm_config config;

	accept_args(&config, ARGS("--kernel", "k", "--serial", "tty"));
	assert_int_equal(config.console.mode, CONSOLE_OFF);
	config_fini(&config);
	accept_args(&config, ARGS("--kernel", "k", "--serial", "off"));
	assert_int_equal(config.console.mode, CONSOLE_TTY);
	assert_true(config_wants_programs(&config));
	config_fini(&config);
}

static void a_segment_has_31_slots(void **state)
{
	struct vm_config config;
	struct err err = { 0 };
	char text[40];

	assert_int_equal(config_init(&config), 0);
	assert_int_equal(options_apply(&config, "kernel", "k", &err), 0);
	assert_int_equal(options_apply(&config, "console", "off", &err), 0);
	for (int i = 0; i < 31; i++) {
		snprintf(text, sizeof(text), "socket=/tmp/s%d", i);
		assert_int_equal(options_apply(&config, "user-device", text, &err), 0);
	}
	assert_int_equal(options_check(&config, &err), 0);
	assert_int_equal(options_apply(&config, "user-device", "socket=/tmp/s31", &err), 0);
	assert_int_equal(options_check(&config, &err), -ENOSPC);
	assert_string_equal(err.text,
		"--user-device: pci_segment: expected at most 31 devices in a segment, got more in "
		"segment 0");
	config_fini(&config);
}

static void a_refused_element_leaves_the_list_as_it_was(void **state)
{
	struct vm_config config;
	struct err err = { 0 };

	assert_int_equal(config_init(&config), 0);
	assert_int_equal(options_apply(&config, "user-device", "socket=a", &err), 0);
	assert_true(options_apply(&config, "user-device", "socket=b,pci_segment=x", &err) < 0);
	assert_int_equal(config.user_devices.nr, 1);
	config_fini(&config);
}

static void errors_name_option_field_and_what_was_expected(void **state)
{
	refuse_args("--cpus boot=0: boot: expected a whole number from 1 to 254, got \"0\"",
		ARGS("--kernel", "k", "--cpus", "boot=0"));
	refuse_args("--memory size=1KM: size: expected a size: digits and at most one of K, M, G "
		    "(512M), got \"1KM\"",
		ARGS("--kernel", "k", "--memory", "size=1KM"));
	refuse_args("--memory shared=maybe: shared: expected on or off, got \"maybe\"",
		ARGS("--memory", "shared=maybe"));
	refuse_args("--user-device: id: Identifier x is not unique",
		ARGS("--kernel", "k", "--user-device", "socket=a,id=x", "socket=b,id=x"));
}

static void a_long_line_of_errors_stays_one_line(void **state)
{
	static char value[4000];
	struct vm_config config;
	struct err err;

	memset(value, '\n', sizeof(value) - 1);
	memcpy(value, "size=", 5);
	value[sizeof(value) - 2] = 'x'; /* blanks at the end would be trimmed */
	assert_true(parse(&config, &err, ARGS("--kernel", "k", "--memory", value)) < 0);
	config_fini(&config);
	assert_null(strchr(err.text, '\n'));
	assert_non_null(strstr(err.text, "expected a size"));
}

static void there_may_be_no_arguments_at_all(void **state)
{
	struct vm_config config;
	struct err err = { 0 };
	char *argv[] = { NULL };

	assert_int_equal(config_init(&config), 0);
	assert_true(options_parse(0, argv, &config, &err) < 0);
	config_fini(&config);
	assert_string_equal(err.text, "nothing to boot: expected --kernel or --firmware");
}

/* The manual page, as text; its path comes from the build. */
static char *read_page(const char *name)
{
	static char text[200000];
	char path[1000];
	size_t len;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", getenv("OUTBOARD_DOC"), name);
	file = fopen(path, "r");
	if (!file)
		fail_msg("cannot open %s", path);
	len = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[len] = '\0';
	return text;
}

static bool page_says(const char *page, const char *format, const char *word)
{
	char text[200];

	snprintf(text, sizeof(text), format, word);
	return strstr(page, text) != NULL;
}

/* Between "*--name" at a line's start and the next such line. */
static char *section_of(char *page, const char *name)
{
	char head[100], *start, *end;

	snprintf(head, sizeof(head), "\n*--%s*", name);
	start = strstr(page, head);
	if (!start)
		return NULL;
	end = strstr(start + 1, "\n*--");
	return strndup(start, end ? (size_t)(end - start) : strlen(start));
}

static void the_manual_page_describes_every_option_and_field(void **state)
{
	char *page;

	if (!getenv("OUTBOARD_DOC"))
		fail_msg("OUTBOARD_DOC is not set: run this by meson test");
	page = read_page("outboard.1.scd");
	for_each_option (o) {
		FREE_AUTO char *section = NULL;

		if (o->hidden)
			continue;
		if (o->kind == OPTION_REFUSED || o->letter) {
			if (!page_says(page, "*--%s*", o->name))
				fail_msg("outboard.1 does not mention --%s", o->name);
			continue;
		}
		section = section_of(page, o->name);
		if (!section)
			fail_msg("outboard.1 has no entry *--%s*", o->name);
		for_each_field (f, o) {
			if (!f->word_only && o->kind != OPTION_VALUE &&
				!page_says(section, "*%s*=", f->name))
				fail_msg("outboard.1: --%s does not mention *%s*=", o->name,
					f->name);
			for_each_choice (c, f)
				if (!f->refused && !c->refused && !field_find(o, c->name) &&
					!page_says(section, "*%s*", c->name))
					fail_msg("outboard.1: --%s does not mention *%s*", o->name,
						c->name);
		}
	}
}

/* What is printed, as text; freed by the caller. */
static char *printed(void (*print)(FILE *out))
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	assert_non_null(out);
	print(out);
	fclose(out);
	return text;
}

static void help_lists_everything_in_100_columns(void **state)
{
	FREE_AUTO char *help = printed(options_print_help);
	size_t column = 0;

	for (const char *c = help; *c; c++) {
		column = *c == '\n' ? 0 : column + 1;
		assert_true(column <= 100);
	}
	for_each_option (o) {
		assert_int_equal(page_says(help, "--%s", o->name), !o->hidden);
		for_each_field (f, o)
			if (!f->refused && !f->word_only && o->kind != OPTION_VALUE)
				assert_true(page_says(help, "      %s=", f->name));
	}
}

static void the_version_is_one_line_that_tools_can_parse(void **state)
{
	FREE_AUTO char *version = printed(options_print_version);
	unsigned major, minor;
	int end = 0;

	assert_int_equal(sscanf(version, "outboard v%u.%u.%*u%n", &major, &minor, &end), 2);
	assert_string_equal(version + end, "\n");
}

static void a_configuration_can_be_freed_twice(void **state)
{
	struct vm_config config;

	accept_args(&config, ARGS("--kernel", "k", "--user-device", "socket=a"));
	config_fini(&config);
	config_fini(&config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_row_of_the_table_is_sound),
		cmocka_unit_test(every_default_is_accepted_when_it_is_given),
		cmocka_unit_test(json_keys_are_unique_in_their_object),
		cmocka_unit_test(every_choice_in_json_has_its_spelling),
		cmocka_unit_test(nothing_given_gives_the_documented_defaults),
		cmocka_unit_test(a_usual_command_line_is_understood),
		cmocka_unit_test(processors_are_described_in_full),
		cmocka_unit_test(an_empty_value_means_the_default),
		cmocka_unit_test(of_a_repeated_field_the_last_wins),
		cmocka_unit_test(a_list_option_takes_several_values_and_is_repeated),
		cmocka_unit_test(host_devices_are_named_by_path_address_or_descriptor),
		cmocka_unit_test(quotes_protect_commas_in_paths),
		cmocka_unit_test(serial_ports_have_their_modes),
		cmocka_unit_test(the_terminal_is_the_console_s_unless_the_serial_port_has_it),
		cmocka_unit_test(a_segment_has_31_slots),
		cmocka_unit_test(a_refused_element_leaves_the_list_as_it_was),
		cmocka_unit_test(errors_name_option_field_and_what_was_expected),
		cmocka_unit_test(a_long_line_of_errors_stays_one_line),
		cmocka_unit_test(there_may_be_no_arguments_at_all),
		cmocka_unit_test(the_manual_page_describes_every_option_and_field),
		cmocka_unit_test(help_lists_everything_in_100_columns),
		cmocka_unit_test(the_version_is_one_line_that_tools_can_parse),
		cmocka_unit_test(a_configuration_can_be_freed_twice),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
