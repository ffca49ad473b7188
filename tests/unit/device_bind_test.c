/*
 * device_bind_test.c - devices taken from their drivers and given back, with a kernel that is a
 * tree of files
 *
 * The fake kernel does what Linux does with what is written to driver_override, unbind, bind and
 * drivers_probe, and fails when it is told to.
 */
#include "control/device_bind.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/util.h"
#include "control/device_use.h"
#include "fake_sysfs.h"

#define DEV  "0000:00:05.0"
#define NVME "0x010802\n"

struct kernel {
	const struct fake_sysfs *fs;
	const char *native;  /* who wants the device by its numbers; NULL: nobody */
	const char *refuses; /* a driver that does not take it */
	const char *keeps;   /* a driver that does not let it go */
	bool no_module;
	int fail_at; /* which write from now on fails; 0: none */
	unsigned nr_writes;
};

static const char *driver_of(const struct kernel *k, const char *name)
{
	static char driver[VFIO_NAME];
	const char *dir = fs_path(k->fs, FS_DEV, name);

	return vfio_sysfs_link(dir, "driver", driver) ? "" : driver;
}

static const char *override_of(const struct kernel *k, const char *name)
{
	static char text[VFIO_NAME];
	const char *dir = fs_path(k->fs, FS_DEV, name);

	assert_int_equal(vfio_sysfs_read(dir, "driver_override", text, sizeof(text)), 0);
	return strcmp(text, "(null)") ? text : "";
}

static void set_driver(const struct kernel *k, const char *name, const char *driver)
{
	const char *link = fs_path(k->fs, FS_DEV "/driver", name);
	char target[PATH_MAX];

	snprintf(target, sizeof(target), "../../../bus/pci/drivers/%s", driver);
	fs_link(link, target);
}

static bool driver_is_there(const struct kernel *k, const char *driver)
{
	return !access(fs_path(k->fs, "/sys/bus/pci/drivers/%s", driver), F_OK);
}

static int probe(const struct kernel *k, const char *name)
{
	const char *override = override_of(k, name);
	const char *driver = *override ? override : k->native;

	if (driver && !*driver_of(k, name) && driver_is_there(k, driver) &&
		(!k->refuses || strcmp(driver, k->refuses)))
		set_driver(k, name, driver);
	return 0; /* whatever came of it */
}

static int unbind(const struct kernel *k, const char *name)
{
	const char *driver = driver_of(k, name);

	if (!*driver)
		return -ENODEV;
	if (!k->keeps || strcmp(driver, k->keeps))
		assert_int_equal(unlink(fs_path(k->fs, FS_DEV "/driver", name)), 0);
	return 0;
}

static int bind_to(const struct kernel *k, const char *path, const char *name)
{
	char driver[VFIO_NAME];
	const char *end = strrchr(path, '/'), *start = end;

	while (start[-1] != '/')
		start--;
	snprintf(driver, sizeof(driver), "%.*s", (int)(end - start), start);
	if (*driver_of(k, name) || (k->refuses && !strcmp(driver, k->refuses)))
		return -ENODEV;
	set_driver(k, name, driver);
	return 0;
}

static bool ends_in(const char *path, const char *end)
{
	size_t len = strlen(path), wanted = strlen(end);

	return len >= wanted && !strcmp(path + len - wanted, end);
}

static int kernel_write(void *arg, const char *path, const char *text)
{
	struct kernel *k = arg;

	k->nr_writes++;
	if (k->fail_at && !--k->fail_at)
		return -EIO;
	if (ends_in(path, "/driver_override")) {
		fs_file(path, strcmp(text, "\n") ? text : "(null)\n");
		return 0;
	}
	if (ends_in(path, "/driver/unbind"))
		return unbind(k, text);
	if (ends_in(path, "/drivers_probe"))
		return probe(k, text);
	if (ends_in(path, "/bind"))
		return bind_to(k, path, text);
	fail_msg("%s is written", path);
	return -ENOENT;
}

static int kernel_load(void *arg, const char *module, struct err *err)
{
	struct kernel *k = arg;

	if (k->no_module)
		return err_set(err, -ENODEV, "modprobe %s failed", module);
	fs_dir(fs_path(k->fs, "/sys/bus/pci/drivers/%s", module));
	return 0;
}

/* What is said goes into a text of the test's. */
struct world {
	struct kernel kernel;
	struct device_binder binder;
	char *said;
	size_t said_len;
	struct err err;
};

static void world_init(struct world *w, const struct fake_sysfs *fs)
{
	*w = (struct world){ .kernel = { .fs = fs, .native = "nvme" } };
	w->binder = (struct device_binder){
		.sysroot = fs->root,
		.driver = "vfio-pci",
		.out = open_memstream(&w->said, &w->said_len),
		.write = kernel_write,
		.load = kernel_load,
		.arg = &w->kernel,
	};
	assert_non_null(w->binder.out);
}

static void world_fini(struct world *w)
{
	fclose(w->binder.out);
	free(w->said);
}

static const char *said(struct world *w)
{
	fflush(w->binder.out);
	return w->said;
}

static bool noted(const struct fake_sysfs *fs)
{
	return !access(fs_path(fs, DEVICE_BIND_NOTES "/" DEV), F_OK);
}

static void a_device_is_bound_and_given_back(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 5, "nvme");
	assert_int_equal(device_bind(&w.binder, "00:05.0", &w.err), 0);
	assert_string_equal(driver_of(&w.kernel, DEV), "vfio-pci");
	assert_string_equal(override_of(&w.kernel, DEV), "vfio-pci");
	assert_string_equal(said(&w), DEV
		": device 8086:10d3, IOMMU group 5, bound to nvme\n" DEV
		": this kernel has no driver vfio-pci yet: modprobe vfio-pci\n" DEV
		": noted in /run/outboard/bound: it came from nvme\n" DEV ": taken from nvme\n" DEV
		": bound to vfio-pci: --device path=/sys/bus/pci/devices/" DEV "/\n");
	assert_true(noted(fs));
	w.kernel.native = "other"; /* who would be asked first now */
	fs_dir(fs_path(fs, "/sys/bus/pci/drivers/other"));
	assert_int_equal(device_unbind(&w.binder, "00:05.0", &w.err), 0);
	assert_string_equal(driver_of(&w.kernel, DEV), "nvme");
	assert_string_equal(override_of(&w.kernel, DEV), "");
	assert_non_null(strstr(said(&w), DEV ": taken from vfio-pci\n" DEV ": bound to nvme\n"));
	assert_false(noted(fs));
	world_fini(&w);
}

static void doing_it_twice_does_nothing(void **state)
{
	struct fake_sysfs *fs = *state;
	unsigned writes;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 5, "nvme");
	assert_int_equal(device_unbind(&w.binder, DEV, &w.err), 0);
	assert_int_equal(w.kernel.nr_writes, 0);
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), 0);
	writes = w.kernel.nr_writes;
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), 0);
	assert_int_equal(w.kernel.nr_writes, writes);
	assert_int_equal(device_unbind(&w.binder, DEV, &w.err), 0);
	assert_string_equal(driver_of(&w.kernel, DEV), "nvme"); /* the note was that of the first */
	world_fini(&w);
}

static void a_device_without_a_driver_gets_none_back(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 5, NULL);
	fs_dir(fs_path(fs, "/sys/bus/pci/drivers/nvme"));
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), 0);
	assert_string_equal(driver_of(&w.kernel, DEV), "vfio-pci");
	assert_int_equal(device_unbind(&w.binder, DEV, &w.err), 0);
	assert_string_equal(driver_of(&w.kernel, DEV), "");
	assert_false(noted(fs));
	world_fini(&w);
}

static void without_a_note_the_kernel_chooses(void **state)
{
	struct fake_sysfs *fs = *state;
	static const char *const notes[] = { NULL, "", "driver ../../../etc\n", "driver gone\n",
		"x", "driver .\n" };
	struct world w;

	world_init(&w, fs);
	fs_dir(fs_path(fs, "/sys/bus/pci/drivers/nvme"));
	for (size_t i = 0; i < ARRAY_SIZE(notes); i++) {
		fs_device(fs, DEV, NVME, 5, "vfio-pci");
		if (notes[i])
			fs_file(fs_path(fs, DEVICE_BIND_NOTES "/" DEV), notes[i]);
		assert_int_equal(device_unbind(&w.binder, DEV, &w.err), 0);
		assert_string_equal(driver_of(&w.kernel, DEV), "nvme");
	}
	w.kernel.native = NULL;
	fs_device(fs, DEV, NVME, 5, "vfio-pci");
	assert_int_equal(device_unbind(&w.binder, DEV, &w.err), 0);
	assert_non_null(strstr(said(&w), DEV ": has no driver, and nobody wants it\n"));
	world_fini(&w);
}

/* Each write in turn fails; the device is where it was, or where it should go. */
static void whichever_step_fails_the_device_is_where_it_was(void **state)
{
	struct fake_sysfs *fs = *state;
	int failures = 0;
	struct world w;

	world_init(&w, fs);
	for (int at = 1;; at++) {
		int fds = fd_count(), rc;

		fs_device(fs, DEV, NVME, 5, "nvme");
		w.kernel.fail_at = at;
		w.err = (struct err){ 0 };
		rc = device_bind(&w.binder, DEV, &w.err);
		assert_int_equal(fd_count(), fds);
		if (!rc)
			break;
		failures++;
		assert_int_equal(rc, -EIO);
		assert_non_null(strstr(w.err.text, "Input/output error"));
		assert_string_equal(driver_of(&w.kernel, DEV), "nvme");
		assert_string_equal(override_of(&w.kernel, DEV), "");
		assert_false(noted(fs));
	}
	assert_int_equal(failures, 3); /* driver_override, unbind, drivers_probe */
	world_fini(&w);
}

static void a_driver_that_does_not_take_it_is_named(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 5, "nvme");
	w.kernel.refuses = "vfio-pci";
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), -ENODEV);
	assert_string_equal(
		w.err.text, DEV ": vfio-pci does not take it; the kernel's log may say why");
	assert_string_equal(driver_of(&w.kernel, DEV), "nvme");
	assert_string_equal(override_of(&w.kernel, DEV), "");
	assert_non_null(strstr(said(&w), DEV ": given back to nvme\n"));
	world_fini(&w);
}

static void a_driver_that_keeps_it_is_named(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 5, "nvme");
	w.kernel.keeps = "nvme";
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), -EBUSY);
	assert_string_equal(w.err.text, DEV ": nvme keeps it");
	assert_string_equal(driver_of(&w.kernel, DEV), "nvme");
	assert_string_equal(override_of(&w.kernel, DEV), "");
	world_fini(&w);
}

static void a_way_back_that_is_closed_is_said(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 5, "nvme");
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), 0);
	w.kernel.refuses = "nvme";
	assert_int_equal(device_unbind(&w.binder, DEV, &w.err), -ENODEV);
	assert_string_equal(w.err.text, DEV ": nvme, which had it, does not take it back");
	assert_true(noted(fs)); /* it can be tried again */
	w.kernel.refuses = NULL;
	w.err = (struct err){ 0 };
	assert_int_equal(device_unbind(&w.binder, DEV, &w.err), 0);
	assert_string_equal(driver_of(&w.kernel, DEV), "nvme");
	world_fini(&w);
}

static void numbers_left_in_new_id_are_found(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 5, "vfio-pci");
	w.kernel.native = "vfio-pci";
	assert_int_equal(device_unbind(&w.binder, DEV, &w.err), -EBUSY);
	assert_string_equal(w.err.text, DEV
		": vfio-pci has taken it again: it knows its numbers; expected them to be gone: "
		"echo 8086 10d3 >/sys/bus/pci/drivers/vfio-pci/remove_id");
	world_fini(&w);
}

static void refuses(struct world *w, const char *what, int rc, const char *text)
{
	unsigned writes = w->kernel.nr_writes;

	w->err = (struct err){ 0 };
	assert_int_equal(device_bind(&w->binder, what, &w->err), rc);
	assert_string_equal(w->err.text, text);
	assert_int_equal(w->kernel.nr_writes, writes);
	assert_false(noted(w->kernel.fs));
}

static void what_cannot_be_is_refused_before_anything_is_written(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	refuses(&w, "00:15.0", -ENOENT,
		"0000:00:15.0: this host has no such PCI device; `outboard device-bind --list` shows "
		"them");
	fs_device(fs, "0000:00:1c.0", "0x060400\n", 5, "pcieport");
	refuses(&w, "00:1c.0", -EINVAL,
		"0000:00:1c.0 is a bridge to another PCI bus; expected a device: what is behind a "
		"bridge has addresses of its own");
	w.binder.force = true;
	w.err = (struct err){ 0 };
	assert_int_equal(device_bind(&w.binder, "00:1c.0", &w.err), -EINVAL);
	w.binder.force = false;
	fs_device(fs, DEV, NVME, -1, "nvme");
	refuses(&w, DEV, -ENODEV,
		DEV
		": " DEV " has no IOMMU group: this host has no IOMMU, or it is off; expected VT-d "
		"or AMD-Vi to be on in the firmware, and intel_iommu=on on the command line of an "
		"Intel host's kernel");
	fs_device(fs, DEV, NVME, 5, "nvme");
	w.kernel.no_module = true;
	rmdir(fs_path(fs, "/sys/bus/pci/drivers/vfio-pci"));
	refuses(&w, DEV, -ENODEV, DEV ": driver vfio-pci: modprobe vfio-pci failed");
	world_fini(&w);
}

static void a_module_that_is_not_there_is_said(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 5, "nvme");
	w.binder.load = NULL; /* really */
	w.binder.driver = "vfio-nosuch";
	assert_true(device_bind(&w.binder, DEV, &w.err) < 0);
	assert_non_null(strstr(w.err.text, DEV ": driver vfio-nosuch: modprobe"));
	assert_int_equal(w.kernel.nr_writes, 0);
	assert_string_equal(driver_of(&w.kernel, DEV), "nvme");
	assert_false(noted(fs));
	world_fini(&w);
}

static void without_an_iommu_it_has_to_be_wanted(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, -1, "nvme");
	fs_file(fs_path(fs, "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"), "N\n");
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), -ENODEV);
	fs_file(fs_path(fs, "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"), "Y\n");
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), 0);
	assert_string_equal(driver_of(&w.kernel, DEV), "vfio-pci");
	world_fini(&w);
}

static void others_in_the_group_are_named_when_all_are_bound(void **state)
{
	struct fake_sysfs *fs = *state;
	bool ready = true;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 9, "nvme");
	fs_device(fs, "0000:00:05.1", NVME, 9, "nvme");
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), 0);
	assert_int_equal(device_bind_check_group(&w.binder, DEV, &ready, &w.err), 0);
	assert_false(ready);
	assert_non_null(strstr(said(&w), DEV
		": its IOMMU group 9 is in use by the host: 0000:00:05.1 (nvme); expected vfio-pci "
		"or no driver for each: outboard device-bind 0000:00:05.1\n"));
	assert_int_equal(device_bind(&w.binder, "00:05.1", &w.err), 0);
	assert_int_equal(device_bind_check_group(&w.binder, DEV, &ready, &w.err), 0);
	assert_true(ready);
	world_fini(&w);
}

/* --- what the host uses --- */

#define MOUNTS(line) "22 1 0:20 / /proc rw - proc proc rw\n" line "\n"

static void add_disk(
	const struct fake_sysfs *fs, const char *below, const char *name, const char *number)
{
	char target[PATH_MAX];

	fs_file(fs_path(fs, "/sys/devices/%s/%s/dev", below, name), number);
	fs_dir(fs_path(fs, "/sys/devices/%s/%s/holders", below, name));
	snprintf(target, sizeof(target), "../../devices/%s/%s", below, name);
	fs_link(fs_path(fs, "/sys/class/block/%s", name), target);
}

static void in_use(struct world *w, const char *use)
{
	char text[600];

	snprintf(text, sizeof(text), DEV " is in use: %s", use);
	refuses(w, DEV, -EBUSY, text);
}

#define NVME_BELOW "pci0000:00/" DEV "/nvme/nvme0"

static void a_mounted_disk_is_not_taken(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 5, "nvme");
	add_disk(fs, NVME_BELOW, "nvme0n1", "259:0\n");
	add_disk(fs, NVME_BELOW "/nvme0n1", "nvme0n1p2", "259:2\n");
	add_disk(fs, "pci0000:00/0000:00:06.0/nvme/nvme1", "nvme1n1", "259:3\n");
	fs_file(fs_path(fs, "/proc/self/mountinfo"),
		MOUNTS("30 1 259:3 / /other rw - ext4 /dev/nvme1n1 rw"));
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), 0);
	assert_int_equal(device_unbind(&w.binder, DEV, &w.err), 0);
	fs_file(fs_path(fs, "/proc/self/mountinfo"),
		MOUNTS("30 1 259:2 / /srv/my\\040data rw shared:1 - ext4 /dev/root rw"));
	in_use(&w,
		"/dev/nvme0n1p2 is mounted at /srv/my data; expected a device that this host can "
		"do without (umount /srv/my data, or --force)");
	fs_file(fs_path(fs, "/proc/self/mountinfo"),
		MOUNTS("30 1 259:2 /x /srv rw - ext4 /dev/root rw\n31 1 259:2 / / rw - ext4 /dev/root rw"));
	in_use(&w,
		"/dev/nvme0n1p2 is mounted at /; expected a device that this host can do without, "
		"or --force");
	/* a file system whose number is its own */
	fs_file(fs_path(fs, "/proc/self/mountinfo"),
		MOUNTS("30 1 0:31 /@ / rw - btrfs /dev/nvme0n1p2 rw"));
	in_use(&w,
		"/dev/nvme0n1p2 is mounted at /; expected a device that this host can do without, "
		"or --force");
	w.binder.force = true;
	w.err = (struct err){ 0 };
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), 0);
	world_fini(&w);
}

static void a_disk_under_others_is_not_taken(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 5, "nvme");
	add_disk(fs, NVME_BELOW, "nvme0n1", "259:0\n");
	add_disk(fs, "virtual/block", "dm-0", "254:0\n");
	add_disk(fs, "virtual/block", "dm-1", "254:1\n");
	fs_link(fs_path(fs, "/sys/devices/" NVME_BELOW "/nvme0n1/holders/dm-0"), "nowhere");
	fs_link(fs_path(fs, "/sys/devices/virtual/block/dm-0/holders/dm-1"), "nowhere");
	/* round in a circle */
	fs_link(fs_path(fs, "/sys/devices/virtual/block/dm-1/holders/dm-0"), "nowhere");
	in_use(&w, "nvme0n1 is part of dm-0; expected a device that this host can do without, or "
		   "--force");
	fs_file(fs_path(fs, "/proc/self/mountinfo"),
		MOUNTS("30 1 254:1 / /home rw - xfs /dev/mapper/home rw"));
	in_use(&w, "/dev/dm-1 is mounted at /home; expected a device that this host can do without "
		   "(umount /home, or --force)");
	fs_file(fs_path(fs, "/proc/self/mountinfo"), "");
	fs_file(fs_path(fs, "/proc/swaps"),
		"Filename Type Size Used Priority\n/dev/dm-0 partition 1 0 -2\n");
	in_use(&w, "/dev/dm-0 is swap; expected a device that this host can do without (swapoff "
		   "/dev/dm-0, or --force)");
	world_fini(&w);
}

static void a_disk_with_several_ways_to_it_is_not_taken(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 5, "nvme");
	fs_dir(fs_path(fs, "/sys/devices/" NVME_BELOW));
	add_disk(fs, "virtual/nvme-subsystem/nvme-subsys0", "nvme0n1", "259:0\n");
	fs_link(fs_path(fs, "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0"),
		"../../../" NVME_BELOW);
	fs_link(fs_path(fs, "/sys/class/nvme-subsystem/nvme-subsys0"),
		"../../devices/virtual/nvme-subsystem/nvme-subsys0");
	fs_file(fs_path(fs, "/proc/self/mountinfo"),
		MOUNTS("30 1 259:0 / /data rw - ext4 /dev/nvme0n1 rw"));
	in_use(&w,
		"/dev/nvme0n1 is mounted at /data; expected a device that this host can do without "
		"(umount /data, or --force)");
	world_fini(&w);
}

static void interfaces_functions_and_screens_are_uses(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, "0x020000\n", 5, "e1000e");
	fs_file(fs_path(fs, FS_DEV "/net/eth1/flags", DEV), "0x1003\n");
	fs_link(fs_path(fs, "/sys/class/net/eth1"), "../../devices/pci0000:00/" DEV "/net/eth1");
	in_use(&w,
		"network interface eth1 is up; expected a device that this host can do without (ip "
		"link set eth1 down, or --force)");
	fs_file(fs_path(fs, FS_DEV "/net/eth1/flags", DEV), "0x1002\n");
	fs_file(fs_path(fs, FS_DEV "/sriov_numvfs", DEV), "7\n");
	w.err = (struct err){ 0 };
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), -EBUSY);
	assert_non_null(strstr(w.err.text, "it has 7 virtual functions, which would go with it; "));
	fs_file(fs_path(fs, FS_DEV "/sriov_numvfs", DEV), "0\n");
	fs_file(fs_path(fs, FS_DEV "/boot_vga", DEV), "1\n");
	in_use(&w,
		"it shows this host's console; expected a device that this host can do without, or "
		"--force");
	world_fini(&w);
}

static void a_share_that_is_mounted_is_a_use(void **state)
{
	struct fake_sysfs *fs = *state;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, "0x000200\n", 5, "virtio-pci");
	fs_bytes(fs_path(fs, FS_DEV "/virtio3/mount_tag", DEV), "root\0", 5);
	fs_file(fs_path(fs, "/proc/self/mountinfo"),
		MOUNTS("30 1 0:17 / / ro - 9p root ro,access=client"));
	in_use(&w, "root is mounted at /; expected a device that this host can do without, or "
		   "--force");
	fs_bytes(fs_path(fs, FS_DEV "/virtio3/mount_tag", DEV), "\0", 1);
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), 0);
	world_fini(&w);
}

static void what_a_program_holds_is_not_given_back(void **state)
{
	struct fake_sysfs *fs = *state;
	unsigned writes;
	struct world w;

	world_init(&w, fs);
	fs_device(fs, DEV, NVME, 5, "nvme");
	assert_int_equal(device_bind(&w.binder, DEV, &w.err), 0);
	fs_file(fs_path(fs, "/proc/4711/comm"), "outboard\n");
	fs_link(fs_path(fs, "/proc/4711/fd/7"), "/dev/vfio/55");
	fs_link(fs_path(fs, "/proc/4711/fd/8"), "/dev/vfio/5");
	writes = w.kernel.nr_writes;
	assert_int_equal(device_unbind(&w.binder, DEV, &w.err), -EBUSY);
	assert_string_equal(w.err.text, DEV
		" is in use: process 4711 (outboard) has /dev/vfio/5 open; expected that it has "
		"ended (with --force it is asked to let go, and waited for)");
	assert_int_equal(w.kernel.nr_writes, writes);
	fs_link(fs_path(fs, "/proc/4711/fd/8"), "/dev/vfio/devices/vfio3");
	fs_dir(fs_path(fs, FS_DEV "/vfio-dev/vfio3", DEV));
	w.err = (struct err){ 0 };
	assert_int_equal(device_unbind(&w.binder, DEV, &w.err), -EBUSY);
	assert_non_null(strstr(w.err.text, "has /dev/vfio/devices/vfio3 open"));
	w.binder.force = true;
	assert_int_equal(device_unbind(&w.binder, DEV, &w.err), 0);
	assert_string_equal(driver_of(&w.kernel, DEV), "nvme");
	world_fini(&w);
}

static void files_of_proc_that_make_no_sense_are_no_use(void **state)
{
	struct fake_sysfs *fs = *state;
	static const char bits[16] = "259:0 /-\\\n\0\xff%s ";
	FREE_AUTO char *garbage = malloc(MIB);
	struct device_use use;
	struct vfio_host h;
	struct err err = { 0 };

	assert_non_null(garbage);
	fs_device(fs, DEV, NVME, 5, "nvme");
	add_disk(fs, NVME_BELOW, "nvme0n1", "259:0\n");
	assert_int_equal(vfio_host_find(fs->root, DEV, &h, &err), 0);
	for (unsigned i = 0; i < MIB; i++)
		garbage[i] = bits[(i * 2654435761u) >> 28];
	fs_bytes(fs_path(fs, "/proc/self/mountinfo"), garbage, MIB);
	fs_bytes(fs_path(fs, "/proc/swaps"), garbage, MIB);
	assert_false(device_use_find(fs->root, &h, &use));
	memset(garbage, 'x', MIB); /* one line without end */
	fs_bytes(fs_path(fs, "/proc/self/mountinfo"), garbage, MIB);
	fs_bytes(fs_path(fs, "/proc/swaps"), garbage, MIB);
	assert_false(device_use_find(fs->root, &h, &use));
}

/* --- the list --- */

static void the_list_says_what_each_is_good_for(void **state)
{
	struct fake_sysfs *fs = *state;
	struct err err = { 0 };
	struct world w;

	world_init(&w, fs);
	fs_device(fs, "0000:00:00.0", "0x060000\n", 0, NULL);
	fs_device(fs, "0000:00:05.0", NVME, 5, "vfio-pci");
	fs_file(fs_path(fs, FS_DEV "/reset_method", "0000:00:05.0"), "flr bus\n");
	fs_device(fs, "0000:00:06.0", "0x020000\n", 6, "e1000e");
	fs_device(fs, "0000:00:1f.2", "0x010601\n", 9, "vfio-pci");
	fs_device(fs, "0000:00:1f.3", "0x0c0500\n", 9, "i801_smbus");
	fs_device(fs, "0000:00:10.0", "0xff0000\n", -1, NULL);
	assert_int_equal(device_bind_list(fs->root, w.binder.out, &err), 0);
	assert_string_equal(said(&w),
		"ADDRESS       KIND        NUMBERS   GROUP  DRIVER       RESETS       STATE\n"
		"0000:00:05.0  nvme        8086:10d3     5  vfio-pci     flr bus      ready\n"
		"0000:00:06.0  network     8086:10d3     6  e1000e       none         can be bound\n"
		"0000:00:10.0  other       8086:10d3     -  -            none         no IOMMU\n"
		"0000:00:1f.2  sata        8086:10d3     9  vfio-pci     none         0000:00:1f.3 of its "
		"group has i801_smbus\n"
		"0000:00:1f.3  smbus       8086:10d3     9  i801_smbus   none         can be bound\n");
	world_fini(&w);
}

#define ON_TREE(test) cmocka_unit_test_setup_teardown(test, fs_new, fs_free)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_TREE(a_device_is_bound_and_given_back),
		ON_TREE(doing_it_twice_does_nothing),
		ON_TREE(a_device_without_a_driver_gets_none_back),
		ON_TREE(without_a_note_the_kernel_chooses),
		ON_TREE(whichever_step_fails_the_device_is_where_it_was),
		ON_TREE(a_driver_that_does_not_take_it_is_named),
		ON_TREE(a_driver_that_keeps_it_is_named),
		ON_TREE(a_way_back_that_is_closed_is_said),
		ON_TREE(numbers_left_in_new_id_are_found),
		ON_TREE(what_cannot_be_is_refused_before_anything_is_written),
		ON_TREE(a_module_that_is_not_there_is_said),
		ON_TREE(without_an_iommu_it_has_to_be_wanted),
		ON_TREE(others_in_the_group_are_named_when_all_are_bound),
		ON_TREE(a_mounted_disk_is_not_taken),
		ON_TREE(a_disk_under_others_is_not_taken),
		ON_TREE(a_disk_with_several_ways_to_it_is_not_taken),
		ON_TREE(interfaces_functions_and_screens_are_uses),
		ON_TREE(a_share_that_is_mounted_is_a_use),
		ON_TREE(what_a_program_holds_is_not_given_back),
		ON_TREE(files_of_proc_that_make_no_sense_are_no_use),
		ON_TREE(the_list_says_what_each_is_good_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
