/*
 * fake_sysfs.h - a tree in a temporary folder that looks like the part of sysfs where PCI devices
 * are
 *
 * Shapes are those of Linux: devices are directories below /sys/devices/pci0000:00, buses, drivers
 * and groups have links to them, and so has each device to its driver and group.
 */
#ifndef FAKE_SYSFS_H
#define FAKE_SYSFS_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fake_sysfs {
	char root[64];
};

/* The path of something in the tree, until the eighth next call. */
__attribute__((format(printf, 2, 3))) static inline const char *fs_path(
	const struct fake_sysfs *fs, const char *format, ...)
{
	static char paths[8][PATH_MAX];
	static unsigned next;
	char *path = paths[next++ % 8];
	int n = snprintf(path, PATH_MAX, "%s", fs->root);
	va_list list;

	va_start(list, format);
	vsnprintf(path + n, (size_t)(PATH_MAX - n), format, list);
	va_end(list);
	return path;
}

static inline void fs_parents(const char *path)
{
	char copy[PATH_MAX];

	snprintf(copy, sizeof(copy), "%s", path);
	for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(copy, 0755))
			assert_int_equal(errno, EEXIST);
		*slash = '/';
	}
}

static inline void fs_bytes(const char *path, const void *bytes, size_t len)
{
	int fd;

	fs_parents(path);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, len), (ssize_t)len);
	close(fd);
}

static inline void fs_file(const char *path, const char *text)
{
	fs_bytes(path, text, strlen(text));
}

static inline void fs_link(const char *path, const char *target)
{
	fs_parents(path);
	if (unlink(path))
		assert_int_equal(errno, ENOENT);
	assert_int_equal(symlink(target, path), 0);
}

static inline void fs_dir(const char *path)
{
	fs_parents(path);
	if (mkdir(path, 0755))
		assert_int_equal(errno, EEXIST);
}

#define FS_DEV "/sys/devices/pci0000:00/%s"

/* A device on the root bus. driver NULL: none. group below 0: none. */
static inline void fs_device(const struct fake_sysfs *fs, const char *name, const char *class,
	int group, const char *driver)
{
	char target[PATH_MAX];

	fs_file(fs_path(fs, FS_DEV "/vendor", name), "0x8086\n");
	fs_file(fs_path(fs, FS_DEV "/device", name), "0x10d3\n");
	fs_file(fs_path(fs, FS_DEV "/class", name), class);
	fs_file(fs_path(fs, FS_DEV "/driver_override", name), "(null)\n");
	snprintf(target, sizeof(target), "../../../devices/pci0000:00/%s", name);
	fs_link(fs_path(fs, "/sys/bus/pci/devices/%s", name), target);
	if (driver) {
		fs_dir(fs_path(fs, "/sys/bus/pci/drivers/%s", driver));
		snprintf(target, sizeof(target), "../../../bus/pci/drivers/%s", driver);
		fs_link(fs_path(fs, FS_DEV "/driver", name), target);
	}
	if (group < 0)
		return;
	snprintf(target, sizeof(target), "../../../kernel/iommu_groups/%d", group);
	fs_link(fs_path(fs, FS_DEV "/iommu_group", name), target);
	snprintf(target, sizeof(target), "../../../../devices/pci0000:00/%s", name);
	fs_link(fs_path(fs, "/sys/kernel/iommu_groups/%d/devices/%s", group, name), target);
}

static inline int fs_new(void **state)
{
	struct fake_sysfs *fs = calloc(1, sizeof(*fs));

	assert_non_null(fs);
	strcpy(fs->root, "/tmp/outboard-sysfs-XXXXXX");
	assert_non_null(mkdtemp(fs->root));
	fs_dir(fs_path(fs, "/sys/bus/pci/devices"));
	fs_dir(fs_path(fs, "/sys/bus/pci/drivers"));
	*state = fs;
	return 0;
}

static inline int fs_remove_one(
	const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)type, (void)where;
	return remove(path);
}

static inline int fs_free(void **state)
{
	struct fake_sysfs *fs = *state;

	assert_int_equal(nftw(fs->root, fs_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
	free(fs);
	return 0;
}

#endif
