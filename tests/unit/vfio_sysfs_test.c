/* vfio_sysfs_test.c - facts about host devices, and what is wrong with them, from trees of all
 * kinds */
#include "attach/vfio_sysfs.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/util.h"
#include "fake_sysfs.h"

#define NIC "0x020000\n"

static struct vfio_host found(const struct fake_sysfs *fs, const char *what)
{
	struct vfio_host h;
	struct err err = { 0 };
	int rc = vfio_host_find(fs->root, what, &h, &err);

	if (rc)
		print_error("%s\n", err.text);
	assert_int_equal(rc, 0);
	return h;
}

static void not_found(const struct fake_sysfs *fs, const char *what, int rc, const char *text)
{
	struct vfio_host h;
	struct err err = { 0 };
	int fds = fd_count();

	assert_int_equal(vfio_host_find(fs->root, what, &h, &err), rc);
	assert_string_equal(err.text, text);
	assert_int_equal(fd_count(), fds);
}

static void passes(const struct fake_sysfs *fs, const char *what, bool noiommu)
{
	struct vfio_host h = found(fs, what);
	struct err err = { 0 };
	int rc = vfio_host_check(fs->root, &h, noiommu, &err);

	if (rc)
		print_error("%s\n", err.text);
	assert_int_equal(rc, 0);
}

static void fails(
	const struct fake_sysfs *fs, const char *what, bool noiommu, int rc, const char *text)
{
	struct vfio_host h = found(fs, what);
	struct err err = { 0 };

	assert_int_equal(vfio_host_check(fs->root, &h, noiommu, &err), rc);
	assert_string_equal(err.text, text);
}

static void facts_are_those_in_the_tree(void **state)
{
	struct fake_sysfs *fs = *state;
	struct vfio_host h;

	fs_device(fs, "0000:00:05.0", "0x010802\n", 9, "vfio-pci");
	fs_file(fs_path(fs, FS_DEV "/reset_method", "0000:00:05.0"), "flr bus\n");
	fs_file(fs_path(fs, FS_DEV "/driver_override", "0000:00:05.0"), "vfio-pci\n");
	fs_dir(fs_path(fs, FS_DEV "/vfio-dev/vfio12", "0000:00:05.0"));
	fs_link(fs_path(fs, FS_DEV "/physfn", "0000:00:05.0"), "../0000:00:04.0");
	h = found(fs, "00:05.0");
	assert_string_equal(h.name, "0000:00:05.0");
	assert_true(h.pci);
	assert_int_equal(h.address.device, 5);
	assert_string_equal(h.driver, "vfio-pci");
	assert_string_equal(h.driver_override, "vfio-pci");
	assert_int_equal(h.group, 9);
	assert_false(h.noiommu);
	assert_string_equal(h.cdev, "vfio12");
	assert_int_equal(h.vendor, 0x8086);
	assert_int_equal(h.device, 0x10d3);
	assert_int_equal(h.class, 0x010802);
	assert_string_equal(h.reset_method, "flr bus");
	assert_string_equal(h.physfn, "0000:00:04.0");
	passes(fs, "00:05.0", false);
}

static void what_is_not_there_is_no_fact(void **state)
{
	struct fake_sysfs *fs = *state;
	struct vfio_host h;

	fs_device(fs, "0000:00:05.0", NIC, -1, NULL);
	h = found(fs, "0000:00:05.0");
	assert_string_equal(h.driver, "");
	assert_string_equal(h.driver_override, ""); /* (null) */
	assert_int_equal(h.group, -1);
	assert_string_equal(h.cdev, "");
	assert_string_equal(h.reset_method, "");
	assert_string_equal(h.physfn, "");
}

static void paths_of_all_kinds_lead_to_the_device(void **state)
{
	struct fake_sysfs *fs = *state;
	static const char *const paths[] = { "0000:00:05.0", "00:05.0",
		"/sys/bus/pci/devices/0000:00:05.0", "/sys/bus/pci/devices/0000:00:05.0/",
		"/sys/devices/pci0000:00/0000:00:05.0", "/mine",
		"/sys/kernel/iommu_groups/9/devices/0000:00:05.0",
		"/sys/bus/pci/devices/../devices/0000:00:05.0/." };

	fs_device(fs, "0000:00:05.0", NIC, 9, NULL);
	fs_link(fs_path(fs, "/mine"), "sys/bus/pci/devices/0000:00:05.0");
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		assert_string_equal(found(fs, paths[i]).name, "0000:00:05.0");
}

static void a_mediated_device_has_a_name_of_its_own(void **state)
{
	struct fake_sysfs *fs = *state;
	const char *uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
	char path[128];
	struct vfio_host h;

	fs_device(fs, uuid, "", 21, "vfio_mdev");
	snprintf(path, sizeof(path), "/sys/devices/pci0000:00/%s", uuid);
	h = found(fs, path);
	assert_false(h.pci);
	assert_string_equal(h.name, uuid);
	assert_int_equal(h.group, 21);
	passes(fs, path, false);
}

static void devices_that_are_not_there_are_named(void **state)
{
	struct fake_sysfs *fs = *state;
	static const char none[] = "0000:00:15.0: this host has no such PCI device; "
				   "`outboard device-bind --list` shows them";

	not_found(fs, "00:15.0", -ENOENT, none);
	not_found(fs, "/sys/bus/pci/devices/0000:00:15.0/", -ENOENT, none);
	not_found(fs, "/sys/bus/pci/devices/", -ENODEV,
		"/sys/bus/pci/devices/ is no device that VFIO knows; expected the directory of a "
		"device in sysfs, or its address (0000:01:00.0)");
	not_found(fs, "/dev/null", -ENOENT,
		"/dev/null: No such file or directory; expected the directory of a device in sysfs, "
		"or its address (0000:01:00.0)");
	not_found(fs, "/", -ENODEV,
		"/ is no device that VFIO knows; expected the directory of a device in sysfs, or its "
		"address (0000:01:00.0)");
	not_found(fs, "nvme\n0", -ENOENT,
		"nvme?0: No such file or directory; expected the directory of a device in sysfs, or "
		"its address (0000:01:00.0)");
	not_found(fs, "", -ENOENT,
		": No such file or directory; expected the directory of a device in sysfs, or its "
		"address (0000:01:00.0)");
}

static void a_path_that_is_too_long_is_no_trouble(void **state)
{
	struct fake_sysfs *fs = *state;
	char path[2 * PATH_MAX];
	struct vfio_host h;
	struct err err = { 0 };

	memset(path, '/', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(vfio_host_find(fs->root, path, &h, &err), -ENAMETOOLONG);
	assert_true(strlen(err.text) < 200);
	memset(path, 'x', sizeof(path) - 1);
	path[PATH_MAX - 2] = '\0';
	err = (struct err){ 0 };
	assert_int_equal(vfio_host_find(fs->root, path, &h, &err), -ENAMETOOLONG);
	assert_true(strlen(err.text) < 300);
}

static void the_command_that_helps_is_named(void **state)
{
	struct fake_sysfs *fs = *state;

	fs_device(fs, "0000:00:05.0", "0x010802\n", 5, "nvme");
	fails(fs, "00:05.0", false, -EBUSY,
		"0000:00:05.0 is bound to nvme, expected vfio-pci: outboard device-bind 0000:00:05.0");
	fs_device(fs, "0000:00:06.0", "0x010802\n", 6, NULL);
	fails(fs, "00:06.0", false, -ENODEV,
		"0000:00:06.0 has no driver, expected vfio-pci: outboard device-bind 0000:00:06.0");
}

static void bridges_are_refused_whoever_holds_them(void **state)
{
	struct fake_sysfs *fs = *state;
	static const struct {
		const char *class, *kind;
	} bridges[] = {
		{ "0x060000\n", "host bridge" },
		{ "0x060100\n", "bridge to an ISA bus" },
		{ "0x060400\n", "bridge to another PCI bus" },
		{ "0x060401\n", "bridge to another PCI bus" },
		{ "0x060700\n", "bridge to a card slot" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bridges); i++) {
		char text[200];

		fs_device(fs, "0000:00:1c.0", bridges[i].class, 5, i % 2 ? "pcieport" : "vfio-pci");
		snprintf(text, sizeof(text),
			"0000:00:1c.0 is a %s; expected a device: what is behind a bridge has "
			"addresses of its own",
			bridges[i].kind);
		fails(fs, "00:1c.0", false, -EINVAL, text);
	}
	fs_device(fs, "0000:00:1d.0", "0x068000\n", 6, "vfio-pci"); /* NVSwitch and the like */
	passes(fs, "00:1d.0", false);
}

static void no_group_means_no_iommu(void **state)
{
	struct fake_sysfs *fs = *state;

	fs_device(fs, "0000:00:05.0", NIC, -1, "e1000e");
	fails(fs, "00:05.0", false, -ENODEV,
		"0000:00:05.0 has no IOMMU group: this host has no IOMMU, or it is off; expected VT-d "
		"or AMD-Vi to be on in the firmware, and intel_iommu=on on the command line of an "
		"Intel host's kernel");
	fails(fs, "00:05.0", true, -ENODEV,
		"0000:00:05.0 has no IOMMU group; expected vfio to make one up: echo 1 "
		">/sys/module/vfio/parameters/enable_unsafe_noiommu_mode, then outboard device-bind "
		"0000:00:05.0");
	fs_device(fs, "0000:00:06.0", NIC, -1, "vfio-pci");
	fails(fs, "00:06.0", true, -ENODEV,
		"0000:00:06.0 is bound to vfio-pci, but in no IOMMU group");
}

static void a_group_without_an_iommu_has_to_be_wanted(void **state)
{
	struct fake_sysfs *fs = *state;

	fs_device(fs, "0000:00:05.0", NIC, 0, "vfio-pci");
	fs_file(fs_path(fs, "/sys/kernel/iommu_groups/0/name"), "vfio-noiommu\n");
	assert_true(found(fs, "00:05.0").noiommu);
	fails(fs, "00:05.0", false, -ENODEV,
		"0000:00:05.0 has no IOMMU, so it could reach all of this host's memory; where that is "
		"wanted: --platform vfio_unsafe_noiommu=on");
	passes(fs, "00:05.0", true);
}

static void whoever_is_in_the_way_in_the_group_is_named(void **state)
{
	struct fake_sysfs *fs = *state;

	fs_device(fs, "0000:00:1f.2", "0x010601\n", 9, "vfio-pci");
	fs_device(fs, "0000:00:1f.0", "0x060100\n", 9, "lpc_ich");
	fs_device(fs, "0000:00:1f.3", "0x0c0500\n", 9, "i801_smbus");
	fs_device(fs, "0000:00:1f.4", NIC, 9, NULL);
	fs_device(fs, "0000:00:1f.5", NIC, 9, "pci-stub");
	fs_device(fs, "0000:00:1f.6", "0x060400\n", 9, "pcieport");
	fs_device(fs, "0000:00:1f.7", NIC, 9, "mlx5_vfio_pci");
	fails(fs, "00:1f.2", false, -EBUSY,
		"0000:00:1f.2: its IOMMU group 9 is in use by the host: 0000:00:1f.0 (lpc_ich), "
		"0000:00:1f.3 (i801_smbus); expected vfio-pci or no driver for each: outboard "
		"device-bind 0000:00:1f.0 0000:00:1f.3");
}

static void a_crowd_in_the_group_is_counted(void **state)
{
	struct fake_sysfs *fs = *state;
	struct vfio_host h;
	struct err err = { 0 };
	char name[20];

	for (unsigned i = 0; i < 64; i++) {
		snprintf(name, sizeof(name), "0000:01:%02x.%x", i / 8, i % 8);
		fs_device(fs, name, NIC, 3, i ? "some_driver" : "vfio-pci");
	}
	h = found(fs, "01:00.0");
	assert_int_equal(vfio_host_check_group(fs->root, &h, &err), -EBUSY);
	assert_non_null(strstr(err.text, "0000:01:00.1 (some_driver), 0000:01:00.2 (some_driver)"));
	assert_non_null(strstr(err.text, " and 56 more; expected"));
	assert_non_null(strstr(err.text, "outboard device-bind 0000:01:00.1 0000:01:00.2"));
}

static void members_without_an_address_have_no_command(void **state)
{
	struct fake_sysfs *fs = *state;

	fs_device(fs, "0000:00:05.0", NIC, 9, "vfio-pci");
	fs_device(fs, "fsl-mc\n", NIC, 9, "fsl");
	fails(fs, "00:05.0", false, -EBUSY,
		"0000:00:05.0: its IOMMU group 9 is in use by the host: fsl-mc? (fsl); expected "
		"vfio-pci or no driver for each");
}

/* --- hostile trees --- */

static void groups_without_a_number_are_refused(void **state)
{
	struct fake_sysfs *fs = *state;
	static const char *const groups[] = { "../x", "../9x", "../-9", "../ 9", "../2147483648",
		"../99999999999999999999999", "../+9", "../9\n" };

	fs_device(fs, "0000:00:05.0", NIC, -1, "vfio-pci");
	for (size_t i = 0; i < ARRAY_SIZE(groups); i++) {
		struct vfio_host h;
		struct err err = { 0 };

		fs_link(fs_path(fs, FS_DEV "/iommu_group", "0000:00:05.0"), groups[i]);
		assert_int_equal(vfio_host_find(fs->root, "00:05.0", &h, &err), -EPROTO);
		assert_non_null(strstr(err.text, "expected a link to a group's number"));
		assert_null(strchr(err.text, '\n'));
	}
}

static void a_group_that_is_not_there_is_left_to_the_kernel(void **state)
{
	struct fake_sysfs *fs = *state;

	fs_device(fs, "0000:00:05.0", NIC, -1, "vfio-pci");
	fs_link(fs_path(fs, FS_DEV "/iommu_group", "0000:00:05.0"), "../nowhere/77");
	assert_int_equal(found(fs, "00:05.0").group, 77);
	passes(fs, "00:05.0", false);
}

static void links_that_dangle_still_have_names(void **state)
{
	struct fake_sysfs *fs = *state;
	char longest[300];

	fs_device(fs, "0000:00:05.0", NIC, 9, NULL);
	fs_link(fs_path(fs, FS_DEV "/driver", "0000:00:05.0"), "/gone/e1000e");
	assert_string_equal(found(fs, "00:05.0").driver, "e1000e");
	memset(longest, 'd', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	fs_link(fs_path(fs, FS_DEV "/driver", "0000:00:05.0"), longest);
	assert_string_equal(found(fs, "00:05.0").driver, "");
	fs_link(fs_path(fs, FS_DEV "/driver", "0000:00:05.0"), "e\033[31m");
	assert_string_equal(found(fs, "00:05.0").driver, "e?[31m");
	fs_link(fs_path(fs, "/loop"), "loop");
	not_found(fs, "/loop", -ELOOP,
		"/loop: Too many levels of symbolic links; expected the directory of a device in "
		"sysfs, or its address (0000:01:00.0)");
}

static void huge_and_strange_files_are_no_facts(void **state)
{
	struct fake_sysfs *fs = *state;
	FREE_AUTO char *huge = malloc(4 * MIB);
	const char *dev = "0000:00:05.0";
	struct vfio_host h;

	assert_non_null(huge);
	memset(huge, '0', 4 * MIB);
	fs_device(fs, dev, NIC, 9, "vfio-pci");
	fs_bytes(fs_path(fs, FS_DEV "/class", dev), huge, 4 * MIB);
	fs_bytes(fs_path(fs, FS_DEV "/reset_method", dev), huge, 4 * MIB);
	fs_file(fs_path(fs, FS_DEV "/vendor", dev), "");
	fs_file(fs_path(fs, FS_DEV "/device", dev), "0x12345678901234567\n");
	assert_int_equal(unlink(fs_path(fs, FS_DEV "/driver_override", dev)), 0);
	assert_int_equal(mkfifo(fs_path(fs, FS_DEV "/driver_override", dev), 0600), 0);
	h = found(fs, dev);
	assert_int_equal(h.class, 0);
	assert_int_equal(h.vendor, 0);
	assert_int_equal(h.device, 0);
	assert_string_equal(h.reset_method, "");
	assert_string_equal(h.driver_override, "");
	fs_bytes(fs_path(fs, FS_DEV "/reset_method", dev), "flr\0bus\n", 8);
	assert_string_equal(found(fs, dev).reset_method, "flr");
}

static void only_numbers_name_a_character_device(void **state)
{
	struct fake_sysfs *fs = *state;
	const char *dev = "0000:00:05.0";

	fs_device(fs, dev, NIC, 9, "vfio-pci");
	fs_dir(fs_path(fs, FS_DEV "/vfio-dev/vfio", dev));
	fs_dir(fs_path(fs, FS_DEV "/vfio-dev/vfio1x", dev));
	fs_dir(fs_path(fs, FS_DEV "/vfio-dev/power", dev));
	fs_dir(fs_path(fs, FS_DEV "/vfio-dev/..vfio7", dev));
	assert_string_equal(found(fs, dev).cdev, "");
	fs_dir(fs_path(fs, FS_DEV "/vfio-dev/vfio0", dev));
	assert_string_equal(found(fs, dev).cdev, "vfio0");
}

static void a_directory_without_end_is_cut(void **state)
{
	struct fake_sysfs *fs = *state;
	struct vfio_member *members;
	struct vfio_names names;
	char name[200];
	size_t nr;

	fs_dir(fs_path(fs, "/sys/kernel/iommu_groups/9/devices"));
	for (unsigned i = 0; i <= VFIO_SYSFS_MAX_NAMES; i++)
		assert_int_equal(symlink("nowhere",
					 fs_path(fs, "/sys/kernel/iommu_groups/9/devices/x%u", i)),
			0);
	assert_int_equal(vfio_group_members(fs->root, 9, &members, &nr), -E2BIG);
	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	fs_file(fs_path(fs, "/long/%s", name), "");
	assert_int_equal(vfio_sysfs_list(fs_path(fs, "/long"), &names), -EFBIG);
	assert_null(names.names);
	assert_int_equal(vfio_sysfs_list(fs_path(fs, "/none"), &names), -ENOENT);
}

#define ON_TREE(test) cmocka_unit_test_setup_teardown(test, fs_new, fs_free)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_TREE(facts_are_those_in_the_tree),
		ON_TREE(what_is_not_there_is_no_fact),
		ON_TREE(paths_of_all_kinds_lead_to_the_device),
		ON_TREE(a_mediated_device_has_a_name_of_its_own),
		ON_TREE(devices_that_are_not_there_are_named),
		ON_TREE(a_path_that_is_too_long_is_no_trouble),
		ON_TREE(the_command_that_helps_is_named),
		ON_TREE(bridges_are_refused_whoever_holds_them),
		ON_TREE(no_group_means_no_iommu),
		ON_TREE(a_group_without_an_iommu_has_to_be_wanted),
		ON_TREE(whoever_is_in_the_way_in_the_group_is_named),
		ON_TREE(a_crowd_in_the_group_is_counted),
		ON_TREE(members_without_an_address_have_no_command),
		ON_TREE(groups_without_a_number_are_refused),
		ON_TREE(a_group_that_is_not_there_is_left_to_the_kernel),
		ON_TREE(links_that_dangle_still_have_names),
		ON_TREE(huge_and_strange_files_are_no_facts),
		ON_TREE(only_numbers_name_a_character_device),
		ON_TREE(a_directory_without_end_is_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
