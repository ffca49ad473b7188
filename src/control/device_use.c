/*
 * device_use.c - from a PCI device to those who would miss it (see device_use.h)
 *
 * What hangs off a device is below its directory, however deep:
 * /sys/devices/.../0000:00:05.0/nvme/nvme0/nvme0n1/nvme0n1p2. So each block device and network
 * interface is asked where it really is. A disk with several ways to it (NVMe multipath) is not
 * below any of them, but its subsystem names its controllers.
 *
 * Block devices make others: their holders are followed, up to a bound.
 */
#include "control/device_use.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"

#define MAX_DISKS  256 /* block devices that are, or are made from, what is on one device */
#define MAX_LINES  65536
#define MAX_NUMBER 24

static bool say(struct device_use *out, const char *what, const char *join, const char *where,
	const char *cure, const char *of)
{
	snprintf(out->text, sizeof(out->text), "%.60s %s %.110s", what, join, where);
	snprintf(out->cure, sizeof(out->cure), "%.30s%s%.120s", cure, *of ? " " : "", of);
	return true;
}

/* --- where things are --- */

/* Whether path, links followed, is the directory or in it. */
static bool is_below(const char *path, const char *directory)
{
	char resolved[PATH_MAX];
	size_t len = strlen(directory);

	if (!realpath(path, resolved) || strncmp(resolved, directory, len))
		return false;
	return resolved[len] == '/' || !resolved[len];
}

/* A disk of an NVMe subsystem, one of whose controllers is below the directory. */
static bool is_shared_disk(const char *sysroot, const char *path, const char *directory)
{
	static const char mark[] = "/nvme-subsystem/";
	char resolved[PATH_MAX], dir[VFIO_PATH], controller[VFIO_PATH];
	struct vfio_names names;
	bool found = false;
	char *subsystem;

	if (!realpath(path, resolved) || !(subsystem = strstr(resolved, mark)))
		return false;
	subsystem += strlen(mark);
	subsystem[strcspn(subsystem, "/")] = '\0';
	if (vfio_sysfs_path(dir, sysroot, "/sys/class/nvme-subsystem/%s", subsystem) ||
		vfio_sysfs_list(dir, &names))
		return false;
	for (size_t i = 0; i < names.nr && !found; i++)
		if (!strncmp(names.names[i], "nvme", 4) &&
			!vfio_sysfs_path(controller, dir, "/%s", names.names[i]))
			found = is_below(controller, directory);
	free(names.names);
	return found;
}

/* --- block devices --- */

struct disks {
	char names[MAX_DISKS][VFIO_NAME];
	size_t nr;
};

static void add_disk(struct disks *d, const char *name)
{
	for (size_t i = 0; i < d->nr; i++)
		if (!strcmp(d->names[i], name))
			return;
	if (d->nr < MAX_DISKS)
		strcpy(d->names[d->nr++], name);
}

static void find_disks(const char *sysroot, const char *directory, struct disks *d)
{
	char class[VFIO_PATH], path[VFIO_PATH];
	struct vfio_names names;

	if (vfio_sysfs_path(class, sysroot, "/sys/class/block") || vfio_sysfs_list(class, &names))
		return;
	for (size_t i = 0; i < names.nr; i++)
		if (!vfio_sysfs_path(path, class, "/%s", names.names[i]) &&
			(is_below(path, directory) || is_shared_disk(sysroot, path, directory)))
			add_disk(d, names.names[i]);
	free(names.names);
}

/* What is made from disk i, and what it is on. */
static void add_holders(const char *sysroot, struct disks *d, size_t i)
{
	char path[VFIO_PATH];
	struct vfio_names names;

	if (vfio_sysfs_path(path, sysroot, "/sys/class/block/%s/holders", d->names[i]) ||
		vfio_sysfs_list(path, &names))
		return;
	for (size_t n = 0; n < names.nr; n++)
		add_disk(d, names.names[n]);
	free(names.names);
}

/* mountinfo writes blanks as \040, and so on. In place. */
static void unescape(char *text)
{
	char *to = text;

	for (; *text; text++) {
		unsigned byte;

		if (*text == '\\' && sscanf(text + 1, "%3o", &byte) == 1 && byte && byte < 256) {
			*to++ = (char)byte;
			text += 3;
		} else {
			*to++ = *text;
		}
	}
	*to = '\0';
}

struct mount {
	char number[MAX_NUMBER]; /* 259:2 */
	char at[256];
	char source[256]; /* where the number is the file system's own: /dev/nvme0n1p2 */
};

/* "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue" */
static bool read_mount(char *line, struct mount *m)
{
	char *dash = strstr(line, " - ");

	if (!dash || sscanf(line, "%*u %*u %23s %*s %255s", m->number, m->at) != 2 ||
		sscanf(dash + 3, "%*s %255s", m->source) != 1)
		return false;
	unescape(m->at);
	return true;
}

/* The file's next line; what is longer than there is room for is cut. */
static bool next_line(FILE *in, char *line, size_t size)
{
	if (!fgets(line, (int)size, in))
		return false;
	if (!strchr(line, '\n'))
		for (int c = fgetc(in); c != EOF && c != '\n';)
			c = fgetc(in);
	line[strcspn(line, "\n")] = '\0';
	return true;
}

/* A file of /proc. NULL: it is not there. */
static FILE *open_proc(const char *sysroot, const char *name)
{
	char path[VFIO_PATH];

	return vfio_sysfs_path(path, sysroot, "/proc/%s", name) ? NULL : fopen(path, "re");
}

/* The mount whose device number or source it is; the root file system wins over the others. */
static bool find_mount(const char *sysroot, const char *number, const char *source, char at[256])
{
	FILE *in = open_proc(sysroot, "self/mountinfo");
	bool found = false;
	char line[2048];
	struct mount m;

	if (!in)
		return false;
	for (int i = 0; i < MAX_LINES && next_line(in, line, sizeof(line)); i++) {
		if (!read_mount(line, &m))
			continue;
		if (strcmp(m.number, number) && strcmp(m.source, source))
			continue;
		if (!found || !strcmp(m.at, "/"))
			strcpy(at, m.at);
		found = true;
	}
	fclose(in);
	return found;
}

static bool is_swap(const char *sysroot, const char *disk)
{
	char line[512], file[256], device[VFIO_NAME + 8];
	FILE *in = open_proc(sysroot, "swaps");
	bool found = false;

	if (!in)
		return false;
	snprintf(device, sizeof(device), "/dev/%s", disk);
	for (int i = 0; i < MAX_LINES && !found && next_line(in, line, sizeof(line)); i++)
		found = sscanf(line, "%255s", file) == 1 && !strcmp(file, device);
	fclose(in);
	return found;
}

static bool say_mounted(struct device_use *out, const char *what, const char *at)
{
	bool root = !strcmp(at, "/"); /* nobody unmounts that */

	return say(out, what, "is mounted at", at, root ? "" : "umount", root ? "" : at);
}

static bool use_of_disk(const char *sysroot, const char *disk, struct device_use *out)
{
	char dir[VFIO_PATH], number[MAX_NUMBER] = "", device[VFIO_NAME + 8], at[256];

	if (!vfio_sysfs_path(dir, sysroot, "/sys/class/block/%s", disk) &&
		vfio_sysfs_read(dir, "dev", number, sizeof(number)))
		number[0] = '\0';
	snprintf(device, sizeof(device), "/dev/%s", disk);
	if (find_mount(sysroot, number, device, at))
		return say_mounted(out, device, at);
	if (is_swap(sysroot, disk))
		return say(out, device, "is", "swap", "swapoff", device);
	return false;
}

static bool use_of_disks(const char *sysroot, const char *directory, struct device_use *out)
{
	struct disks *d = calloc(1, sizeof(*d));
	size_t nr_own;
	bool found = false;

	if (!d)
		return false;
	find_disks(sysroot, directory, d);
	nr_own = d->nr;
	for (size_t i = 0; i < d->nr && !found; i++) {
		found = use_of_disk(sysroot, d->names[i], out);
		if (!found)
			add_holders(sysroot, d, i);
	}
	if (!found && d->nr > nr_own)
		found = say(out, d->names[0], "is part of", d->names[nr_own], "", "");
	free(d);
	return found;
}

/* --- the others --- */

/* A directory that is shared with us by 9p over virtio: its tag is what is mounted. */
static bool use_of_shares(const char *sysroot, const struct vfio_host *h, struct device_use *out)
{
	char dir[VFIO_PATH], tag[VFIO_NAME], at[256];
	struct vfio_names names;
	bool found = false;

	if (vfio_sysfs_list(h->dir, &names))
		return false;
	for (size_t i = 0; i < names.nr && !found; i++)
		found = !strncmp(names.names[i], "virtio", 6) &&
			!vfio_sysfs_path(dir, h->dir, "/%s", names.names[i]) &&
			!vfio_sysfs_read(dir, "mount_tag", tag, sizeof(tag)) && *tag &&
			find_mount(sysroot, "", tag, at) && say_mounted(out, tag, at);
	free(names.names);
	return found;
}

static unsigned long read_number(const char *dir, const char *name)
{
	char text[MAX_NUMBER];

	return vfio_sysfs_read(dir, name, text, sizeof(text)) ? 0 : strtoul(text, NULL, 0);
}

static bool use_of_interfaces(const char *sysroot, const char *directory, struct device_use *out)
{
	char class[VFIO_PATH], path[VFIO_PATH], down[VFIO_NAME + 8];
	struct vfio_names names;
	bool found = false;

	if (vfio_sysfs_path(class, sysroot, "/sys/class/net") || vfio_sysfs_list(class, &names))
		return false;
	for (size_t i = 0; i < names.nr && !found; i++) {
		if (vfio_sysfs_path(path, class, "/%s", names.names[i]) ||
			!is_below(path, directory) ||
			!(read_number(path, "flags") & 1)) /* IFF_UP */
			continue;
		snprintf(down, sizeof(down), "%s down", names.names[i]);
		found = say(out, "network interface", names.names[i], "is up", "ip link set", down);
	}
	free(names.names);
	return found;
}

static bool use_of_functions(const struct vfio_host *h, struct device_use *out)
{
	unsigned long nr = read_number(h->dir, "sriov_numvfs");
	char count[40], file[VFIO_PATH + 24];

	if (!nr)
		return false;
	snprintf(count, sizeof(count), "%lu virtual", nr);
	snprintf(file, sizeof(file), "0 >%.90s/sriov_numvfs", h->dir);
	return say(out, "it has", count, "functions, which would go with it", "echo", file);
}

bool device_use_find(const char *sysroot, const struct vfio_host *h, struct device_use *out)
{
	char directory[PATH_MAX];

	*out = (struct device_use){ 0 };
	if (!realpath(h->dir, directory))
		return false;
	if (use_of_disks(sysroot, directory, out) || use_of_interfaces(sysroot, directory, out) ||
		use_of_shares(sysroot, h, out) || use_of_functions(h, out))
		return true;
	return read_number(h->dir, "boot_vga") &&
	       say(out, "it", "shows", "this host's console", "", "");
}

/* --- who holds it --- */

/* Whether one of the process's descriptors is the file. */
static bool has_open(const char *proc, const char *pid, const char *file)
{
	char dir[VFIO_PATH], path[VFIO_PATH], target[256];
	struct vfio_names fds;
	bool found = false;

	if (vfio_sysfs_path(dir, proc, "/%s/fd", pid) || vfio_sysfs_list(dir, &fds))
		return false;
	for (size_t i = 0; i < fds.nr && !found; i++) {
		ssize_t n = -1;

		if (!vfio_sysfs_path(path, dir, "/%s", fds.names[i]))
			n = readlink(path, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = '\0';
		found = !strcmp(target, file);
	}
	free(fds.names);
	return found;
}

static bool find_holder(const char *sysroot, const char *file, struct device_use *out)
{
	char proc[VFIO_PATH], dir[VFIO_PATH], comm[VFIO_NAME] = "?", who[VFIO_NAME * 3];
	struct vfio_names pids;
	bool found = false;

	if (vfio_sysfs_path(proc, sysroot, "/proc") || vfio_sysfs_list(proc, &pids))
		return false;
	for (size_t i = 0; i < pids.nr && !found; i++) {
		const char *pid = pids.names[i];

		/* what we were started with is not held by us */
		if (strspn(pid, "0123456789") != strlen(pid) || strtol(pid, NULL, 10) == getpid() ||
			!has_open(proc, pid, file))
			continue;
		if (!vfio_sysfs_path(dir, proc, "/%s", pid))
			vfio_sysfs_read(dir, "comm", comm, sizeof(comm));
		snprintf(who, sizeof(who), "process %.20s (%.30s)", pid, comm);
		found = say(out, who, "has", file, "", "");
		strncat(out->text, " open", sizeof(out->text) - strlen(out->text) - 1);
	}
	free(pids.names);
	return found;
}

bool device_use_holder(const char *sysroot, const struct vfio_host *h, struct device_use *out)
{
	char file[VFIO_NAME + 24];

	*out = (struct device_use){ 0 };
	if (h->group >= 0) {
		snprintf(file, sizeof(file), "/dev/vfio/%s%d", h->noiommu ? "noiommu-" : "",
			h->group);
		if (find_holder(sysroot, file, out))
			return true;
	}
	if (!*h->cdev)
		return false;
	snprintf(file, sizeof(file), "/dev/vfio/devices/%s", h->cdev);
	return find_holder(sysroot, file, out);
}
