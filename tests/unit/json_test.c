/* json_test.c - configurations as JSON: what clients send is understood, what is wrong is named */
#include "control/config_json.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "control/options.h"
#include "control/value.h"

/* Read a body and check it, as vm.create does; the caller frees config. */
static int read_body(const char *body, struct vm_config *config, struct err *err)
{
	json_t *json = NULL;
	int rc;

	*err = (struct err){ 0 };
	assert_int_equal(config_init(config), 0);
	rc = json_parse(body, strlen(body), &json, err);
	if (!rc)
		rc = config_from_json(json, config, err);
	if (!rc)
		rc = options_check(config, err);
	json_decref(json);
	return rc;
}

static void accept_body(struct vm_config *config, const char *body)
{
	struct err err;
	int rc = read_body(body, config, &err);

	if (rc)
		print_error("%s\n", err.text);
	assert_int_equal(rc, 0);
}

static void refuse_body(const char *body, const char *expected)
{
	struct vm_config config;
	struct err err;

	assert_true(read_body(body, &config, &err) < 0);
	config_fini(&config);
	assert_string_equal(err.text, expected);
}

static void the_body_of_libvirt_is_understood(void **state)
{
	struct vm_config config;

	accept_body(&config,
		"{\"cpus\":{\"boot_vcpus\":2,\"max_vcpus\":4},\"memory\":{\"size\":1073741824},"
		"\"payload\":{\"kernel\":\"/k\",\"cmdline\":\"console=ttyS0\",\"initramfs\":\"/i\"},"
		"\"serial\":{\"mode\":\"Pty\"},\"disks\":[],\"platform\":{\"sev_snp\":false}}");
	assert_int_equal(config.cpus.boot, 2);
	assert_int_equal(config.cpus.max, 4);
	assert_int_equal(config.memory.size, GIB);
	assert_string_equal(config.payload.kernel, "/k");
	assert_string_equal(config.payload.cmdline, "console=ttyS0");
	assert_string_equal(config.payload.initramfs, "/i");
	assert_int_equal(config.serial.mode, CONSOLE_PTY);
	config_fini(&config);
}

static void the_body_of_kata_is_understood_but_for_its_devices(void **state)
{
	struct vm_config config;

	accept_body(&config,
		"{\"payload\":{\"kernel\":\"/k\",\"cmdline\":\"a b\"},"
		"\"platform\":{\"num_pci_segments\":2,\"iommu_segments\":[],\"tdx\":false},"
		"\"memory\":{\"size\":2147483648,\"shared\":true,\"hugepages\":false,"
		"\"hotplug_size\":0,\"mergeable\":false,\"hotplug_method\":\"Acpi\"},"
		"\"cpus\":{\"boot_vcpus\":1,\"max_vcpus\":8,\"nested\":true,\"features\":{\"amx\":false},"
		"\"topology\":{\"threads_per_core\":1,\"cores_per_die\":8,\"dies_per_package\":1,"
		"\"packages\":1}},"
		"\"balloon\":{\"size\":0,\"free_page_reporting\":false},"
		"\"rng\":{\"src\":\"/dev/urandom\",\"iommu\":false},\"iommu\":false,"
		"\"serial\":{\"mode\":\"Off\"},\"console\":{\"mode\":\"Off\",\"iommu\":false},"
		"\"fs\":[{\"tag\":\"t\",\"socket\":\"/s\",\"num_queues\":1,\"queue_size\":1024,"
		"\"pci_segment\":1}],\"watchdog\":false,\"debug_console\":{\"mode\":\"Off\"},"
		"\"vsock\":null,\"devices\":[{\"path\":\"/sys/bus/pci/devices/0000:01:00.0\",\"id\":\"gpu\",\"iommu\":true}],\"net\":null,\"numa\":[]}");
	assert_int_equal(config.platform.num_pci_segments, 2);
	assert_int_equal(config.cpus.topology.cores_per_die, 8);
	assert_int_equal(config.serial.mode, CONSOLE_OFF);
	assert_int_equal(config.fs.nr, 1);
	assert_int_equal(config.fs.items[0].at.pci_segment, 1);
	assert_string_equal(config.fs.items[0].at.id, "_fs0");
	assert_int_equal(config.devices.nr, 1);
	assert_string_equal(config.devices.items[0].path, "/sys/bus/pci/devices/0000:01:00.0");
	assert_string_equal(config.devices.items[0].at.id, "gpu");
	assert_true(config.devices.items[0].at.iommu);
	config_fini(&config);
}

static void lists_have_elements_of_numbers_and_places(void **state)
{
	struct vm_config config;

	accept_body(&config,
		"{\"payload\":{\"firmware\":\"/f\"},\"cpus\":{\"boot_vcpus\":2,\"affinity\":"
		"[{\"vcpu\":1,\"host_cpus\":[3,5]}]},"
		"\"generic_vhost_user\":[{\"socket\":\"/v\",\"device_type\":26,"
		"\"queue_sizes\":[512,512,64],\"pci_device_id\":7},{\"socket\":\"/w\","
		"\"device_type\":\"rng\",\"queue_sizes\":[]}],"
		"\"user_devices\":[{\"socket\":\"/u\",\"id\":\"gpio\"}]}");
	assert_int_equal(config.cpus.affinity.nr, 1);
	assert_int_equal(config.cpus.affinity.items[0].host_cpus[1], 5);
	assert_int_equal(config.generic_vhost_users.nr, 2);
	assert_string_equal(config.generic_vhost_users.items[0].type, "26");
	assert_int_equal(config.generic_vhost_users.items[0].queue_sizes.nr, 3);
	assert_int_equal(config.generic_vhost_users.items[0].queue_sizes.items[2], 64);
	assert_int_equal(config.generic_vhost_users.items[0].at.pci_device_id, 7);
	assert_int_equal(config.generic_vhost_users.items[1].queue_sizes.nr, 0);
	assert_string_equal(config.user_devices.items[0].at.id, "gpio");
	config_fini(&config);
}

#define PAYLOAD "\"payload\":{\"kernel\":\"k\"}"

static void limits_are_objects_in_objects(void **state)
{
	struct vm_config config;
	json_t *json, *disks, *limits;

	accept_body(&config,
		"{\"payload\":{\"kernel\":\"k\"},\"disks\":[{\"path\":\"/a\",\"rate_limiter_config\":"
		"{\"bandwidth\":{\"size\":1000,\"one_time_burst\":0,\"refill_time\":100},\"ops\":null}},"
		"{\"path\":\"/b\",\"rate_limiter_config\":null}]}");
	assert_int_equal(config.disks.items[0].rate.bw_size, 1000);
	assert_int_equal(config.disks.items[0].rate.bw_refill_time, 100);
	assert_int_equal(config_to_json(&config, &json), 0);
	disks = json_object_get(json, "disks");
	limits = json_object_get(json_array_get(disks, 0), "rate_limiter_config");
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(limits, "bandwidth"), "size")),
		1000);
	assert_null(json_object_get(limits, "ops"));
	assert_null(json_object_get(json_array_get(disks, 1), "rate_limiter_config"));
	json_decref(json);
	config_fini(&config);
}

static void a_mode_that_is_given_wins_wherever_it_stands(void **state)
{
	struct vm_config config;

	accept_body(&config, "{" PAYLOAD ",\"serial\":{\"mode\":\"File\",\"file\":\"/f\"}}");
	assert_int_equal(config.serial.mode, CONSOLE_FILE);
	config_fini(&config);
	accept_body(&config, "{" PAYLOAD ",\"serial\":{\"file\":\"/f\",\"mode\":\"Null\"}}");
	assert_int_equal(config.serial.mode, CONSOLE_NULL);
	config_fini(&config);
	accept_body(&config, "{" PAYLOAD ",\"serial\":{\"mode\":null,\"socket\":\"/s\"}}");
	assert_int_equal(config.serial.mode, CONSOLE_SOCKET);
	config_fini(&config);
	refuse_body("{" PAYLOAD ",\"serial\":{\"mode\":\"File\"}}",
		"--serial: file: expected a path, got none");
	refuse_body("{" PAYLOAD ",\"serial\":{\"mode\":\"Socket\",\"socket\":null}}",
		"--serial: socket: expected a path, got none");
}

static void errors_name_the_place_and_what_was_expected(void **state)
{
	static const char *const cases[][2] = {
		{ "[]", "body: expected an object" },
		{ "7", "body: expected an object" },
		{ "{\"vcpus\":{}}", "vcpus: unknown key; did you mean cpus?" },
		{ "{\"cpu\":{}}", "cpu: unknown key; did you mean cpus?" },
		{ "{\"zzzzzz\":{}}", "zzzzzz: unknown key" },
		{ "{\"cpus\":{\"boot\":1}}", "cpus.boot: unknown key; did you mean boot_vcpus?" },
		{ "{\"cpus\":[]}", "cpus: expected an object" },
		{ "{\"cpus\":{\"boot_vcpus\":\"1\"}}",
			"cpus.boot_vcpus: expected a number, got a string" },
		{ "{\"cpus\":{\"boot_vcpus\":1.5}}",
			"cpus.boot_vcpus: expected a number, got a fraction" },
		{ "{\"cpus\":{\"boot_vcpus\":-1}}",
			"cpus.boot_vcpus: expected a whole number from 1 to 254, got \"-1\"" },
		{ "{\"cpus\":{\"boot_vcpus\":255}}",
			"cpus.boot_vcpus: expected a whole number from 1 to 254, got \"255\"" },
		{ "{\"cpus\":{\"topology\":{\"packages\":1}}}",
			"cpus.topology.threads_per_core: expected a whole number" },
		{ "{\"cpus\":{\"topology\":{\"dies\":1}}}", "cpus.topology.dies: unknown key" },
		{ "{\"cpus\":{\"affinity\":[{\"vcpu\":0}]}}",
			"cpus.affinity: expected objects with the keys vcpu and host_cpus" },
		{ "{\"cpus\":{\"affinity\":[3]}}",
			"cpus.affinity: expected objects with the keys vcpu and host_cpus" },
		{ "{\"cpus\":{\"affinity\":[{\"vcpu\":0,\"host_cpus\":[-1]}]}}",
			"cpus.affinity: expected whole numbers in the array, got a number" },
		{ "{\"cpus\":{\"nested\":false}}",
			"cpus.nested=off is not available in this version: the guest sees the "
			"host's virtualisation extensions whenever KVM offers them" },
		{ "{\"cpus\":{\"features\":{\"amx\":true}}}",
			"cpus.features is not available in this version: processor features follow "
			"the host" },
		{ "{\"cpus\":{\"core_scheduling\":\"Vcpu\"}}",
			"cpus.core_scheduling=Vcpu is not available in this version: processor "
			"threads are left to the host's scheduler" },
		{ "{\"memory\":{\"shared\":1}}",
			"memory.shared: expected true or false, got a number" },
		{ "{\"memory\":{\"hotplug_size\":1}}",
			"memory.hotplug_size=1 is not available in this version: memory cannot be "
			"added to a running guest" },
		{ "{\"memory\":{\"zones\":[{\"id\":\"m\"}]}}",
			"memory.zones is not available in this version; use --memory" },
		{ "{\"payload\":{\"igvm\":\"/x\"}}",
			"payload.igvm is not available in this version" },
		{ "{\"serial\":{\"mode\":\"pty\"}}",
			"serial.mode: expected Off, Null, Tty, Pty, File or Socket, got \"pty\"" },
		{ "{\"disks\":[{\"path\":\"/d\",\"image_type\":\"Qcow2\"}]}",
			"disks[0].image_type: Qcow2 is not available in this version: use "
			"qemu-storage-daemon or qemu-nbd for other formats than raw" },
		{ "{\"disks\":[{\"rate_limiter_config\":{\"ops\":{\"siz\":1}}}]}",
			"disks[0].rate_limiter_config.ops.siz: unknown key" },
		{ "{\"disks\":[{\"rate_limiter_config\":{\"ops\":[]}}]}",
			"disks[0].rate_limiter_config.ops: expected an object" },
		{ "{\"net\":[{\"fds\":[3]}]}", "net[0].fds: unknown key" },
		{ "{\"balloon\":{\"size\":1}}",
			"balloon.size=1 is not available in this version: there is no memory balloon" },
		{ "{\"rng\":{\"iomu\":\"x\"}}", "rng.iomu: unknown key; did you mean iommu?" },
		{ "{\"watchdog\":true}", "watchdog is not available in this version" },
		{ "{\"vsock\":{\"cid\":2,\"socket\":\"/s\"}}",
			"vsock.cid: expected a whole number from 3 to 4294967294, got \"2\"" },
		{ "{\"vdpa\":[{\"path\":\"/v\"}]}", "vdpa is not available in this version" },
		{ "{\"devices\":[{\"fd\":5}]}", "devices[0].fd: unknown key" },
		{ "{\"devices\":[{\"path\":\"/x\",\"iommu\":\"on\"}]}",
			"devices[0].iommu: expected true or false, got a string" },
		{ "{\"devices\":[{\"path\":\"/x\",\"x_exclude_mmap_bars\":[6]}]}",
			"devices[0].x_exclude_mmap_bars: expected a list of whole numbers from 0 to 5 "
			"([1,2]), got \"[6]\"" },
		{ "{\"platform\":{\"iommufd_fd\":5}}", "platform.iommufd_fd: unknown key; did you "
			"mean iommufd?" },
		{ "{\"user_devices\":{}}", "user_devices: expected an array" },
		{ "{\"user_devices\":[7]}", "user_devices[0]: expected an object" },
		{ "{\"user_devices\":[{\"socket\":\"/a\"},{\"id\":\"x\"}]}",
			"user_devices[1].socket: expected PATH, got none" },
		{ "{\"user_devices\":[{\"socket\":\"\"}]}",
			"user_devices[0].socket: expected a path of 1 to 107 bytes, got 0" },
		{ "{\"user_devices\":[{\"socket\":\"/a\",\"pci_device_id\":0}]}",
			"user_devices[0].pci_device_id: Given PCI device ID (0) is reserved; "
			"expected 1 to 31" },
		{ "{\"generic_vhost_user\":[{\"socket\":\"/a\",\"queue_sizes\":[1,0]}]}",
			"generic_vhost_user[0].queue_sizes: expected a list of whole numbers from 1 "
			"to 32768 ([1,2]), got \"[1,0]\"" },
		{ "{\"a\\nb\":1}", "a?b: unknown key" },
		{ "{\"payload\":{}}", "nothing to boot: expected --kernel or --firmware" },
		{ "{}", "nothing to boot: expected --kernel or --firmware" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		refuse_body(cases[i][0], cases[i][1]);
}

static void what_is_no_json_is_refused(void **state)
{
	static const char *const bodies[] = { "", "{", "{\"cpus\":}", "{'cpus':{}}", "nul",
		"{\"cpus\":{},\"cpus\":{}}", "{\"payload\":{\"kernel\":\"a\\u0000b\"}}",
		"{\"memory\":{\"size\":99999999999999999999999}}",
		"{\"payload\":{\"kernel\":\"\xff\"}}", "{} {}" };

	for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
		struct vm_config config;
		struct err err;

		assert_true(read_body(bodies[i], &config, &err) < 0);
		assert_non_null(strstr(err.text, "JSON: line "));
		assert_null(strchr(err.text, '\n'));
		config_fini(&config);
	}
}

static void deep_bodies_end_in_an_error(void **state)
{
	enum { DEPTH = 100000 };
	FREE_AUTO char *body = malloc(DEPTH + 1);
	struct vm_config config;
	struct err err;

	assert_non_null(body);
	memset(body, '[', DEPTH);
	body[DEPTH] = 0;
	assert_true(read_body(body, &config, &err) < 0);
	config_fini(&config);
}

static json_t *written(const struct vm_config *config)
{
	json_t *json;

	assert_int_equal(config_to_json(config, &json), 0);
	return json;
}

static void what_was_read_is_written_and_read_again(void **state)
{
	struct vm_config config, again;
	struct err err = { 0 };
	json_t *first, *second;

	accept_body(&config,
		"{" PAYLOAD ",\"cpus\":{\"boot_vcpus\":2,\"max_vcpus\":4,\"topology\":"
		"{\"threads_per_core\":2,\"cores_per_die\":2,\"dies_per_package\":1,\"packages\":1},"
		"\"affinity\":[{\"vcpu\":0,\"host_cpus\":[0,1]}]},\"serial\":{\"mode\":\"File\","
		"\"file\":\"/f\"},\"generic_vhost_user\":[{\"socket\":\"/v\",\"device_type\":26,"
		"\"queue_sizes\":[512,64]}],\"user_devices\":[{\"socket\":\"/u\",\"pci_device_id\":9}]}");
	first = written(&config);
	assert_int_equal(config_init(&again), 0);
	assert_int_equal(config_from_json(first, &again, &err), 0);
	assert_int_equal(options_check(&again, &err), 0);
	second = written(&again);
	assert_true(json_equal(first, second));
	assert_int_equal(json_integer_value(json_object_get(
				 json_array_get(json_object_get(first, "generic_vhost_user"), 0),
				 "device_type")),
		26);
	json_decref(first);
	json_decref(second);
	config_fini(&config);
	config_fini(&again);
}

static void defaults_are_written_and_what_is_unset_is_not(void **state)
{
	struct vm_config config;
	json_t *json, *memory, *cpus;

	accept_body(&config, "{" PAYLOAD "}");
	json = written(&config);
	memory = json_object_get(json, "memory");
	cpus = json_object_get(json, "cpus");
	assert_int_equal(json_integer_value(json_object_get(memory, "size")), 512 * MIB);
	assert_int_equal(json_integer_value(json_object_get(memory, "hotplug_size")), 0);
	assert_string_equal(json_string_value(json_object_get(memory, "hotplug_method")), "Acpi");
	assert_null(json_object_get(memory, "hugepage_size"));
	assert_int_equal(json_integer_value(json_object_get(cpus, "max_phys_bits")), 46);
	assert_int_equal(json_integer_value(json_object_get(cpus, "max_vcpus")), 1);
	assert_null(json_object_get(cpus, "topology"));
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(json, "serial"), "mode")),
		"Null");
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(json, "console"), "mode")),
		"Tty");
	assert_null(json_object_get(json, "user_devices"));
	assert_null(json_object_get(json, "rng"));
	json_decref(json);
	config_fini(&config);
}

static void bytes_that_are_no_utf8_do_not_stop_the_writing(void **state)
{
	struct vm_config config;
	struct err err = { 0 };
	json_t *json;

	assert_int_equal(config_init(&config), 0);
	assert_int_equal(options_apply(&config, "kernel", "/a\xff", &err), 0);
	json = written(&config);
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(json, "payload"), "kernel")),
		"/a?");
	json_decref(json);
	config_fini(&config);
}

/* On the command line; queue_sizes is the field that has this type. */
static void number_lists_are_read_with_their_bounds(void **state)
{
	static const struct field_row field = {
		.name = "list",
		.type = FIELD_INT_LIST,
		.min = 1,
		.max = 1000,
	};
	static const struct field_row words = { .name = "words", .type = FIELD_STRING_LIST };
	struct value value = { 0 };
	struct err err = { 0 };

	assert_int_equal(value_read(NULL, &field, "[512,512,2-4]", &value, &err), 0);
	assert_int_equal(value.ints.nr, 5);
	assert_int_equal(value.ints.items[4], 4);
	value_fini(&value);
	value = (struct value){ 0 };
	assert_int_equal(value_read(NULL, &field, "[1,1001]", &value, &err), -ERANGE);
	assert_string_equal(err.text, "list: expected a list of whole numbers from 1 to 1000 "
				      "([1,2]), got \"[1,1001]\"");
	value_fini(&value);
	value = (struct value){ 0 };
	assert_int_equal(value_read(NULL, &words, "[a,b c]", &value, NULL), 0);
	assert_int_equal(value.strings.nr, 2);
	assert_string_equal(value.strings.items[1], "b c");
	value_fini(&value);
}

static void every_refused_option_has_only_refused_fields(void **state)
{
	for_each_option (o) {
		if (o->kind != OPTION_REFUSED)
			continue;
		for_each_field (f, o) {
			assert_non_null(f->refused);
			assert_false(f->required);
			assert_null(f->implies);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_body_of_libvirt_is_understood),
		cmocka_unit_test(the_body_of_kata_is_understood_but_for_its_devices),
		cmocka_unit_test(lists_have_elements_of_numbers_and_places),
		cmocka_unit_test(limits_are_objects_in_objects),
		cmocka_unit_test(a_mode_that_is_given_wins_wherever_it_stands),
		cmocka_unit_test(errors_name_the_place_and_what_was_expected),
		cmocka_unit_test(what_is_no_json_is_refused),
		cmocka_unit_test(deep_bodies_end_in_an_error),
		cmocka_unit_test(what_was_read_is_written_and_read_again),
		cmocka_unit_test(defaults_are_written_and_what_is_unset_is_not),
		cmocka_unit_test(bytes_that_are_no_utf8_do_not_stop_the_writing),
		cmocka_unit_test(number_lists_are_read_with_their_bounds),
		cmocka_unit_test(every_refused_option_has_only_refused_fields),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
