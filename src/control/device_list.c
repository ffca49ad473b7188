/*
 * device_list.c - `outboard device-bind --list`: the PCI devices of this host, and what each is
 * good for
 *
 * Bridges are left out. The last column is the verdict of the checks that device-bind and the
 * machine make, in a few words; --device and device-bind say the whole sentence.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/device_bind.h"
#include "control/device_use.h"

/* By class and subclass; the first that fits. */
static const struct {
	uint32_t class, mask;
	const char *name;
} kinds[] = {
	{ 0x010800, 0xffff00, "nvme" },
	{ 0x010600, 0xffff00, "sata" },
	{ 0x010000, 0xff0000, "storage" },
	{ 0x020000, 0xff0000, "network" },
	{ 0x030000, 0xff0000, "display" },
	{ 0x040000, 0xff0000, "multimedia" },
	{ 0x050000, 0xff0000, "memory" },
	{ 0x060000, 0xff0000, "bridge" },
	{ 0x070000, 0xff0000, "serial" },
	{ 0x080000, 0xff0000, "system" },
	{ 0x0c0300, 0xffff00, "usb" },
	{ 0x0c0500, 0xffff00, "smbus" },
	{ 0x0d0000, 0xff0000, "wireless" },
	{ 0x120000, 0xff0000, "accelerator" },
};

static const char *kind_of(uint32_t class)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if ((class & kinds[i].mask) == kinds[i].class)
			return kinds[i].name;
	return "other";
}

/* What the first of the others is that keeps the group from a guest. False: none. */
static bool in_the_way(const char *sysroot, const struct vfio_host *h, char *text, size_t size)
{
	struct vfio_member *members;
	bool found = false;
	size_t nr;

	if (h->group < 0 || vfio_group_members(sysroot, h->group, &members, &nr))
		return false;
	for (size_t i = 0; i < nr && !found; i++) {
		found = strcmp(members[i].name, h->name) &&
			!vfio_driver_lets_group(members[i].driver);
		if (found)
			snprintf(text, size, "%s of its group has %s", members[i].name,
				members[i].driver);
	}
	free(members);
	return found;
}

static void verdict(const char *sysroot, const struct vfio_host *h, char *text, size_t size)
{
	bool bound = vfio_driver_hands_on(h->driver);
	struct device_use use;

	if (h->group < 0)
		snprintf(text, size, "no IOMMU");
	else if (bound && device_use_holder(sysroot, h, &use))
		snprintf(text, size, "%s", use.text);
	else if (!bound && device_use_find(sysroot, h, &use))
		snprintf(text, size, "in use: %s", use.text);
	else if (!in_the_way(sysroot, h, text, size))
		snprintf(text, size, "%s",
			!bound	     ? "can be bound"
			: h->noiommu ? "ready, without an IOMMU"
				     : "ready");
}

static void list_one(const char *sysroot, const struct vfio_host *h, FILE *out)
{
	char group[16] = "-", text[300] = "";

	if (h->group >= 0)
		snprintf(group, sizeof(group), "%d", h->group);
	verdict(sysroot, h, text, sizeof(text));
	fprintf(out, "%-13s %-11s %04x:%04x %5s  %-12s %-12s %s\n", h->name, kind_of(h->class),
		h->vendor, h->device, group, *h->driver ? h->driver : "-",
		*h->reset_method ? h->reset_method : "none", text);
}

int device_bind_list(const char *sysroot, FILE *out, struct err *err)
{
	char dir[VFIO_PATH];
	struct vfio_names names = { 0 };
	int rc = vfio_sysfs_path(dir, sysroot, "/sys/bus/pci/devices");

	if (!rc)
		rc = vfio_sysfs_list(dir, &names);
	if (rc)
		return err_set(err, rc, "/sys/bus/pci/devices: %s", strerror(-rc));
	fprintf(out, "%-13s %-11s %-9s %5s  %-12s %-12s %s\n", "ADDRESS", "KIND", "NUMBERS",
		"GROUP", "DRIVER", "RESETS", "STATE");
	for (size_t i = 0; i < names.nr; i++) {
		struct vfio_host h;

		/* one that has just gone, or makes no sense, is no candidate */
		if (!vfio_host_find(sysroot, names.names[i], &h, NULL) && h.pci &&
			!vfio_class_bridge(h.class))
			list_one(sysroot, &h, out);
	}
	free(names.names);
	return 0;
}
