/*
 * vfio_sysfs.c - read facts, judge them (see vfio_sysfs.h)
 *
 * Reading and judging are apart: vfio_host_find() has no opinion, vfio_host_check() reads nothing
 * but the group. The order of the judgements is that of the cures: there is no use in binding a
 * bridge, or what no IOMMU confines.
 */
#include "attach/vfio_sysfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"

#define FIRST_NAMES 64	  /* that there is room for at first; a power of two */

/* --- files, links, directories --- */

int vfio_sysfs_path(char path[VFIO_PATH], const char *sysroot, const char *format, ...)
{
	size_t used = sysroot ? strlen(sysroot) : 0;
	va_list list;
	int n;

	if (used >= VFIO_PATH)
		return -ENAMETOOLONG;
	memcpy(path, sysroot ? sysroot : "", used);
	va_start(list, format);
	n = vsnprintf(path + used, VFIO_PATH - used, format, list);
	va_end(list);
	return n < 0 || (size_t)n >= VFIO_PATH - used ? -ENAMETOOLONG : 0;
}

static void make_printable(char *text)
{
	for (; *text; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
}

int vfio_sysfs_read(const char *dir, const char *name, char *text, size_t size)
{
	char path[VFIO_PATH];
	FD_AUTO fd = -1;
	ssize_t n;
	size_t end, start;

	if (vfio_sysfs_path(path, dir, "%s%s", *name ? "/" : "", name))
		return -ENAMETOOLONG;
	/* a FIFO in its place would keep us waiting */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return -errno;
	n = read(fd, text, size);
	if (n < 0)
		return -errno;
	for (end = 0; end < (size_t)n && text[end] && text[end] != '\n';)
		end++;
	if (end == size)
		return -EFBIG;
	while (end && text[end - 1] == ' ')
		end--;
	text[end] = '\0';
	start = strspn(text, " ");
	memmove(text, text + start, end - start + 1);
	make_printable(text);
	return 0;
}

int vfio_sysfs_link(const char *dir, const char *name, char target[VFIO_NAME])
{
	char path[VFIO_PATH], link[PATH_MAX];
	const char *last;
	ssize_t n;

	if (vfio_sysfs_path(path, dir, "/%s", name))
		return -ENAMETOOLONG;
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return -errno;
	link[n] = '\0';
	last = strrchr(link, '/');
	last = last ? last + 1 : link;
	if (strlen(last) >= VFIO_NAME)
		return -EFBIG;
	strcpy(target, last);
	make_printable(target);
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* The room is doubled each time, so it is full at the powers of two. */
static int make_room(struct vfio_names *list)
{
	size_t room = list->nr ? 2 * list->nr : FIRST_NAMES;
	char(*names)[VFIO_NAME];

	if (list->nr && (list->nr < FIRST_NAMES || !is_pow2(list->nr)))
		return 0;
	names = reallocarray(list->names, room, sizeof(*names));
	if (!names)
		return -ENOMEM;
	list->names = names;
	return 0;
}

static int add_name(struct vfio_names *list, const char *name)
{
	int rc;

	if (strlen(name) >= VFIO_NAME)
		return -EFBIG;
	if (list->nr == VFIO_SYSFS_MAX_NAMES)
		return -E2BIG;
	rc = make_room(list);
	if (!rc)
		strcpy(list->names[list->nr++], name);
	return rc;
}

int vfio_sysfs_list(const char *dir, struct vfio_names *out)
{
	DIR *d = opendir(dir);
	struct dirent *entry;
	int rc = 0;

	*out = (struct vfio_names){ 0 };
	if (!d)
		return -errno;
	while (!rc && (entry = readdir(d)))
		if (entry->d_name[0] != '.')
			rc = add_name(out, entry->d_name);
	closedir(d);
	if (rc) {
		free(out->names);
		*out = (struct vfio_names){ 0 };
		return rc;
	}
	if (out->nr)
		qsort(out->names, out->nr, sizeof(*out->names), by_name);
	return 0;
}

/* --- facts --- */

/* 0x010802, or 0 of what is none. */
static uint32_t read_hex(const char *dir, const char *name)
{
	char text[16], *end;
	unsigned long value;

	if (vfio_sysfs_read(dir, name, text, sizeof(text)) || strncmp(text, "0x", 2))
		return 0;
	value = strtoul(text, &end, 16);
	return *end || value > UINT32_MAX ? 0 : (uint32_t)value;
}

/* The file's line, or "" of one that is not there or says (null). */
static void read_word(const char *dir, const char *name, char text[VFIO_NAME])
{
	if (vfio_sysfs_read(dir, name, text, VFIO_NAME) || !strcmp(text, "(null)"))
		text[0] = '\0';
}

static void read_link(const char *dir, const char *name, char target[VFIO_NAME])
{
	if (vfio_sysfs_link(dir, name, target))
		target[0] = '\0';
}

/* Its group, and whether VFIO has made it up. */
static int read_group(const char *sysroot, struct vfio_host *h, struct err *err)
{
	char number[VFIO_NAME] = "", dir[VFIO_PATH], name[VFIO_NAME], *end;
	unsigned long group;

	h->group = -1;
	read_link(h->dir, "iommu_group", number);
	if (!*number)
		return 0;
	errno = 0;
	group = strtoul(number, &end, 10);
	if (*number < '0' || *number > '9' || *end || errno || group > INT_MAX)
		return err_set(err, -EPROTO,
			"%s/iommu_group: expected a link to a group's number, got one to %s",
			h->dir, number);
	h->group = (int)group;
	if (vfio_sysfs_path(dir, sysroot, "/sys/kernel/iommu_groups/%d", h->group))
		return 0;
	read_word(dir, "name", name);
	h->noiommu = !strcmp(name, "vfio-noiommu");
	return 0;
}

/* vfioN, as it is called below /dev/vfio/devices. */
static bool is_cdev(const char *name)
{
	size_t digits = strncmp(name, "vfio", 4) ? 0 : strspn(name + 4, "0123456789");

	return digits && !name[4 + digits];
}

static void read_cdev(struct vfio_host *h)
{
	struct vfio_names names;
	char dir[VFIO_PATH];

	if (vfio_sysfs_path(dir, h->dir, "/vfio-dev") || vfio_sysfs_list(dir, &names))
		return;
	for (size_t i = 0; i < names.nr && !*h->cdev; i++)
		if (is_cdev(names.names[i]))
			strcpy(h->cdev, names.names[i]);
	free(names.names);
}

static int read_facts(const char *sysroot, struct vfio_host *h, struct err *err)
{
	read_link(h->dir, "driver", h->driver);
	read_word(h->dir, "driver_override", h->driver_override);
	h->vendor = (uint16_t)read_hex(h->dir, "vendor");
	h->device = (uint16_t)read_hex(h->dir, "device");
	h->class = read_hex(h->dir, "class");
	read_word(h->dir, "reset_method", h->reset_method);
	read_link(h->dir, "physfn", h->physfn);
	read_cdev(h);
	return read_group(sysroot, h, err);
}

/* A user's text as it may stand in a message. */
struct shown {
	char text[100];
};

static struct shown show(const char *text)
{
	struct shown s;

	snprintf(s.text, sizeof(s.text), "%.*s%s", strlen(text) < 96 ? 96 : 93, text,
		strlen(text) < 96 ? "" : "...");
	make_printable(s.text);
	return s;
}

/*
 * Follow path to a directory, by opening it: the machine monitor may do that behind its filter of
 * system calls, unlike much of what realpath() does. Gives its path in resolved, unless that is
 * NULL. 0 or -errno.
 */
static int follow(const char *path, char resolved[PATH_MAX])
{
	FD_AUTO fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	char link[32];
	ssize_t n;

	if (fd < 0)
		return -errno;
	if (!resolved)
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, resolved, PATH_MAX - 1);
	if (n < 0)
		return -errno;
	resolved[n] = '\0';
	return 0;
}

/* The device's directory where its address is known. */
static int find_pci(const char *sysroot, struct vfio_host *h, struct err *err)
{
	char path[VFIO_PATH], name[PCI_ADDRESS_ROOM];
	int rc;

	pci_address_print(&h->address, name);
	strcpy(h->name, name);
	h->pci = true;
	if (vfio_sysfs_path(path, sysroot, "/sys/bus/pci/devices/%s", name) ||
		strlen(path) >= sizeof(h->dir))
		return err_set(err, -ENAMETOOLONG, "%s: its path is too long", name);
	strcpy(h->dir, path);
	rc = follow(h->dir, NULL);
	if (!rc)
		return 0;
	if (rc != -ENOENT)
		return err_set(err, rc, "%s: %s", h->dir, strerror(-rc));
	return err_set(err, -ENOENT,
		"%s: this host has no such PCI device; `outboard device-bind --list` shows them",
		name);
}

/* A path leads to the device itself, by however many links. */
static int find_path(const char *sysroot, const char *what, struct vfio_host *h, struct err *err)
{
	char path[PATH_MAX], resolved[PATH_MAX];
	struct pci_address address;
	const char *last;
	int n, rc;

	n = snprintf(path, sizeof(path), "%s%s", *what == '/' && sysroot ? sysroot : "", what);
	if (n < 0 || (size_t)n >= sizeof(path))
		return err_set(err, -ENAMETOOLONG, "%s: the path is too long", show(what).text);
	rc = follow(path, resolved);
	/* a device that is not there has a better sentence than a path that is not */
	if (rc == -ENOENT && !pci_address_of_path(what, &h->address) && find_pci(sysroot, h, err))
		return -ENOENT;
	if (rc)
		return err_set(err, rc,
			"%s: %s; expected the directory of a device in sysfs, or its address "
			"(0000:01:00.0)",
			show(what).text, strerror(-rc));
	last = strrchr(resolved, '/');
	last = last ? last + 1 : resolved;
	if (!pci_address_parse(last, &address)) {
		h->address = address;
		return find_pci(sysroot, h, err);
	}
	if (strlen(last) >= sizeof(h->name) || strlen(resolved) >= sizeof(h->dir))
		return err_set(err, -ENAMETOOLONG, "%s: the path is too long", show(what).text);
	strcpy(h->name, last);
	strcpy(h->dir, resolved);
	return 0;
}

/* What is no PCI function is a device of VFIO if it is in a group. */
static int check_kind(const struct vfio_host *h, const char *what, struct err *err)
{
	if (h->pci || h->group >= 0)
		return 0;
	return err_set(err, -ENODEV,
		"%s is no device that VFIO knows; expected the directory of a device in sysfs, or its "
		"address (0000:01:00.0)",
		show(what).text);
}

int vfio_host_find(const char *sysroot, const char *what, struct vfio_host *out, struct err *err)
{
	int rc;

	*out = (struct vfio_host){ .group = -1 };
	if (!pci_address_parse(what, &out->address))
		rc = find_pci(sysroot, out, err);
	else
		rc = find_path(sysroot, what, out, err);
	if (!rc)
		rc = read_facts(sysroot, out, err);
	return rc ? rc : check_kind(out, what, err);
}

int vfio_group_members(const char *sysroot, int group, struct vfio_member **out, size_t *nr)
{
	char dir[VFIO_PATH], device[VFIO_PATH];
	struct vfio_names names;
	struct vfio_member *members;
	int rc = vfio_sysfs_path(dir, sysroot, "/sys/kernel/iommu_groups/%d/devices", group);

	if (!rc)
		rc = vfio_sysfs_list(dir, &names);
	if (rc)
		return rc;
	members = calloc(MAX(names.nr, (size_t)1), sizeof(*members));
	for (size_t i = 0; members && i < names.nr; i++) {
		strcpy(members[i].name, names.names[i]);
		make_printable(members[i].name);
		if (vfio_sysfs_path(device, dir, "/%s", names.names[i]))
			continue;
		read_link(device, "driver", members[i].driver);
		members[i].class = read_hex(device, "class");
	}
	*nr = names.nr;
	*out = members;
	free(names.names);
	return members ? 0 : -ENOMEM;
}

/* --- judgements --- */

const char *vfio_class_bridge(uint32_t class)
{
	switch (class >> 8) {
	case 0x0600:
		return "host bridge";
	case 0x0601:
	case 0x0602:
		return "bridge to an ISA bus";
	case 0x0604:
	case 0x0609:
		return "bridge to another PCI bus";
	case 0x0605:
	case 0x0607:
		return "bridge to a card slot";
	default:
		return NULL;
	}
}

/* vfio-pci and its kin of single vendors: mlx5_vfio_pci, nvgrace_gpu_vfio_pci, vfio_mdev ... */
bool vfio_driver_hands_on(const char *driver)
{
	return strstr(driver, "vfio") != NULL;
}

/* Those that leave DMA alone, as the kernel knows of them. */
bool vfio_driver_lets_group(const char *driver)
{
	return !*driver || vfio_driver_hands_on(driver) || !strcmp(driver, "pci-stub") ||
	       !strcmp(driver, "pcieport");
}

/* "0000:00:1f.0 (lpc_ich), 0000:00:1f.3 (i801_smbus)" and the commands' addresses, as far as they
 * fit. */
struct in_the_way {
	char who[200], addresses[120];
	size_t who_len, addresses_len;
	unsigned nr, told;
};

static void note(struct in_the_way *w, const struct vfio_member *m)
{
	struct pci_address address;
	bool pci = !pci_address_parse(m->name, &address);
	int n, a = 0;

	w->nr++;
	n = snprintf(NULL, 0, "%s%s (%s)", w->told ? ", " : "", m->name, m->driver);
	if (pci)
		a = snprintf(NULL, 0, " %s", m->name);
	if (n < 0 || a < 0 || w->who_len + (size_t)n >= sizeof(w->who) ||
		w->addresses_len + (size_t)a >= sizeof(w->addresses))
		return;
	snprintf(w->who + w->who_len, sizeof(w->who) - w->who_len, "%s%s (%s)", w->told ? ", " : "",
		m->name, m->driver);
	w->who_len += (size_t)n;
	if (pci)
		snprintf(w->addresses + w->addresses_len, sizeof(w->addresses) - w->addresses_len,
			" %s", m->name);
	w->addresses_len += (size_t)a;
	w->told++;
}

int vfio_host_check_group(const char *sysroot, const struct vfio_host *h, struct err *err)
{
	struct in_the_way w = { 0 };
	struct vfio_member *members;
	char more[32] = "";
	size_t nr;

	/* what cannot be listed is the kernel's to judge */
	if (h->group < 0 || vfio_group_members(sysroot, h->group, &members, &nr))
		return 0;
	for (size_t i = 0; i < nr; i++)
		if (!vfio_driver_lets_group(members[i].driver))
			note(&w, &members[i]);
	free(members);
	if (!w.nr)
		return 0;
	if (w.told < w.nr)
		snprintf(more, sizeof(more), " and %u more", w.nr - w.told);
	return err_set(err, -EBUSY,
		"%s: its IOMMU group %d is in use by the host: %s%s; expected vfio-pci or no driver for "
		"each%s%s",
		h->name, h->group, w.who, more, w.addresses_len ? ": outboard device-bind" : "",
		w.addresses);
}

static int check_iommu(const struct vfio_host *h, bool noiommu_ok, struct err *err)
{
	if (h->group < 0 && !noiommu_ok)
		return err_set(err, -ENODEV,
			"%s has no IOMMU group: this host has no IOMMU, or it is off; expected VT-d or "
			"AMD-Vi to be on in the firmware, and intel_iommu=on on the command line of an "
			"Intel host's kernel",
			h->name);
	if (h->group < 0 && vfio_driver_hands_on(h->driver))
		return err_set(err, -ENODEV, "%s is bound to %s, but in no IOMMU group", h->name,
			h->driver);
	if (h->group >= 0 && h->noiommu && !noiommu_ok)
		return err_set(err, -ENODEV,
			"%s has no IOMMU, so it could reach all of this host's memory; where that is "
			"wanted: --platform vfio_unsafe_noiommu=on",
			h->name);
	return 0;
}

static int check_driver(const struct vfio_host *h, struct err *err)
{
	if (vfio_driver_hands_on(h->driver))
		return 0;
	if (h->group < 0)
		return err_set(err, -ENODEV,
			"%s has no IOMMU group; expected vfio to make one up: echo 1 "
			">/sys/module/vfio/parameters/enable_unsafe_noiommu_mode, then outboard "
			"device-bind %s",
			h->name, h->name);
	if (!*h->driver)
		return err_set(err, -ENODEV,
			"%s has no driver, expected vfio-pci: outboard device-bind %s", h->name,
			h->name);
	return err_set(err, -EBUSY, "%s is bound to %s, expected vfio-pci: outboard device-bind %s",
		h->name, h->driver, h->name);
}

int vfio_host_check(
	const char *sysroot, const struct vfio_host *h, bool noiommu_ok, struct err *err)
{
	const char *bridge = vfio_class_bridge(h->class);
	int rc;

	if (bridge)
		return err_set(err, -EINVAL,
			"%s is a %s; expected a device: what is behind a bridge has addresses of its own",
			h->name, bridge);
	rc = check_iommu(h, noiommu_ok, err);
	if (!rc)
		rc = check_driver(h, err);
	return rc ? rc : vfio_host_check_group(sysroot, h, err);
}
