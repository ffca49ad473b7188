/*
 * device_bind.c - the steps from one driver to another, and back (see device_bind.h)
 *
 * sysfs answers a write to drivers_probe with success when no driver wanted the device, so what
 * happened is looked up afterwards, not believed.
 *
 * Trusts: the user, who is root; nothing in sysfs or in the notes beyond its being bounded.
 */
#include "control/device_bind.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "control/device_use.h"

/* --- writing --- */

static int really_write(const char *path, const char *text)
{
	FD_AUTO fd = open(path, O_WRONLY | O_CLOEXEC);
	size_t len = strlen(text);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, text, len);
	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EIO;
}

static int put(const struct device_binder *b, const char *path, const char *text)
{
	return b->write ? b->write(b->arg, path, text) : really_write(path, text);
}

static const char *whose_right(int rc)
{
	return rc == -EACCES || rc == -EPERM ? "; expected to be run by root" : "";
}

/* The file name in dir. The text says which one it was, and whose right it is. */
static int put_in(const struct device_binder *b, const char *dir, const char *name,
	const char *text, struct err *err)
{
	char path[VFIO_PATH];
	int rc = vfio_sysfs_path(path, dir, "/%s", name);

	if (!rc)
		rc = put(b, path, text);
	if (!rc)
		return 0;
	return err_set(err, rc, "%s/%s: %s%s", dir, name, strerror(-rc), whose_right(rc));
}

__attribute__((format(printf, 3, 4))) static void step(
	const struct device_binder *b, const struct vfio_host *h, const char *format, ...)
{
	va_list list;

	fprintf(b->out, "%s: ", h->name);
	va_start(list, format);
	vfprintf(b->out, format, list);
	va_end(list);
	fputc('\n', b->out);
	fflush(b->out);
}

/* --- notes: which driver a device came from; "" is none --- */

static int note_path(const struct device_binder *b, const struct vfio_host *h, char path[VFIO_PATH])
{
	return vfio_sysfs_path(path, b->sysroot, DEVICE_BIND_NOTES "/%s", h->name);
}

/* A driver's name as the kernel has them: nothing that would lead out of a directory. */
static bool is_driver_name(const char *name)
{
	return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. ") ==
		       strlen(name) &&
	       name[0] != '.';
}

static int make_folders(const struct device_binder *b)
{
	static const char *const folders[] = { "/run", "/run/outboard", DEVICE_BIND_NOTES };
	char path[VFIO_PATH];

	for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
		if (vfio_sysfs_path(path, b->sysroot, "%s", folders[i]) ||
			(mkdir(path, 0755) && errno != EEXIST))
			return -errno;
	return 0;
}

static int write_note(const struct device_binder *b, const struct vfio_host *h, struct err *err)
{
	char path[VFIO_PATH], line[VFIO_NAME + 16];
	FD_AUTO fd = -1;
	int rc = make_folders(b), n;

	if (!rc)
		rc = note_path(b, h, path);
	if (rc)
		return err_set(
			err, rc, "%s: %s%s", DEVICE_BIND_NOTES, strerror(-rc), whose_right(rc));
	n = snprintf(line, sizeof(line), "driver %s\n", h->driver);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, line, (size_t)n) != n)
		return err_set(err, -errno, "%s: %s%s", path, strerror(errno), whose_right(-errno));
	return 0;
}

/* False: there is none that makes sense, driver is "". */
static bool read_note(
	const struct device_binder *b, const struct vfio_host *h, char driver[VFIO_NAME])
{
	char path[VFIO_PATH], line[VFIO_NAME + 16];

	driver[0] = '\0';
	if (note_path(b, h, path) || vfio_sysfs_read(path, "", line, sizeof(line)) ||
		strncmp(line, "driver", 6))
		return false;
	snprintf(driver, VFIO_NAME, "%s", line + 6 + strspn(line + 6, " "));
	if (is_driver_name(driver))
		return true;
	driver[0] = '\0';
	return false;
}

static void drop_note(const struct device_binder *b, const struct vfio_host *h)
{
	char path[VFIO_PATH];

	if (!note_path(b, h, path))
		unlink(path);
}

/* --- drivers --- */

static bool has_driver(const struct device_binder *b, const char *driver)
{
	char path[VFIO_PATH];

	return !vfio_sysfs_path(path, b->sysroot, "/sys/bus/pci/drivers/%s", driver) &&
	       !access(path, F_OK);
}

static int really_load(const char *module, struct err *err)
{
	static const char *const places[] = { "/sbin/modprobe", "/usr/sbin/modprobe",
		"/bin/modprobe" };
	/* what it says would be a second line */
	char *argv[] = { (char *)"modprobe", (char *)"-q", (char *)module, NULL };
	char *environment[] = { NULL };
	int rc = ENOENT, status;
	pid_t pid;

	for (size_t i = 0; i < ARRAY_SIZE(places) && rc == ENOENT; i++)
		rc = posix_spawn(&pid, places[i], NULL, NULL, argv, environment);
	if (rc)
		return err_set(err, -rc, "modprobe: %s", strerror(rc));
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_set(err, -errno, "modprobe: %s", strerror(errno));
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	return err_set(err, -ENODEV, "modprobe %s failed%s", module,
		geteuid() ? "; expected to be run by root"
			  : "; expected this kernel to have a module of that name");
}

/* The driver is there, loaded if need be. */
static int need_driver(const struct device_binder *b, const struct vfio_host *h, struct err *err)
{
	struct err why = { 0 };
	int rc;

	if (has_driver(b, b->driver))
		return 0;
	step(b, h, "this kernel has no driver %s yet: modprobe %s", b->driver, b->driver);
	rc = b->load ? b->load(b->arg, b->driver, &why) : really_load(b->driver, &why);
	if (!rc && !has_driver(b, b->driver))
		rc = err_set(&why, -ENODEV, "the module has brought no driver of this name");
	return rc ? err_set(err, rc, "driver %s: %s", b->driver, why.text) : 0;
}

/* Which driver has the device now. */
static void look_again(struct vfio_host *h)
{
	if (vfio_sysfs_link(h->dir, "driver", h->driver))
		h->driver[0] = '\0';
}

/* Take it from whoever has it. */
static int take(const struct device_binder *b, struct vfio_host *h, struct err *err)
{
	char from[VFIO_NAME];
	int rc;

	look_again(h);
	if (!*h->driver)
		return 0;
	strcpy(from, h->driver);
	rc = put_in(b, h->dir, "driver/unbind", h->name, err);
	look_again(h);
	if (!rc && *h->driver)
		rc = err_set(err, -EBUSY, "%s keeps it", h->driver);
	if (!rc)
		step(b, h, "taken from %s", from);
	return rc;
}

/* "" leaves the choice to the kernel. */
static int set_override(const struct device_binder *b, const struct vfio_host *h,
	const char *driver, struct err *err)
{
	/* an empty write would not reach the kernel */
	return put_in(b, h->dir, "driver_override", *driver ? driver : "\n", err);
}

/* Let the kernel find a driver. */
static int probe(const struct device_binder *b, struct vfio_host *h, struct err *err)
{
	char bus[VFIO_PATH];
	int rc = vfio_sysfs_path(bus, b->sysroot, "/sys/bus/pci");

	if (!rc)
		rc = put_in(b, bus, "drivers_probe", h->name, err);
	look_again(h);
	return rc;
}

/* Give it to one driver, the way new_id's users do; the kernel asks whether it fits. */
static int give(
	const struct device_binder *b, struct vfio_host *h, const char *driver, struct err *err)
{
	char dir[VFIO_PATH];
	int rc = vfio_sysfs_path(dir, b->sysroot, "/sys/bus/pci/drivers/%s", driver);

	if (!rc)
		rc = put_in(b, dir, "bind", h->name, err);
	look_again(h);
	return rc;
}

/* --- binding --- */

static bool noiommu_wanted(const struct device_binder *b)
{
	char path[VFIO_PATH], text[8];

	return !vfio_sysfs_path(path, b->sysroot,
		       "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode") &&
	       !vfio_sysfs_read(path, "", text, sizeof(text)) && *text == 'Y';
}

static int check_holder(const struct device_binder *b, const struct vfio_host *h, struct err *err)
{
	struct device_use use;

	if (b->force || !device_use_holder(b->sysroot, h, &use))
		return 0;
	return err_set(err, -EBUSY,
		"%s is in use: %s; expected that it has ended (with --force it is asked to let go, and "
		"waited for)",
		h->name, use.text);
}

static int check_device(const struct device_binder *b, const struct vfio_host *h, struct err *err)
{
	const char *bridge = vfio_class_bridge(h->class);
	struct device_use use;

	if (!h->pci)
		return err_set(err, -EINVAL, "%s is no PCI device", h->name);
	if (bridge)
		return err_set(err, -EINVAL,
			"%s is a %s; expected a device: what is behind a bridge has addresses of its own",
			h->name, bridge);
	if (vfio_driver_hands_on(h->driver))
		return check_holder(b, h, err);
	if (b->force || !device_use_find(b->sysroot, h, &use))
		return 0;
	return err_set(err, -EBUSY,
		"%s is in use: %s; expected a device that this host can do without%s%s%s", h->name,
		use.text, *use.cure ? " (" : ", or --force", use.cure,
		*use.cure ? ", or --force)" : "");
}

/* Without an IOMMU the driver of VFIO refuses, and says so to nobody. */
static int check_iommu(const struct device_binder *b, const struct vfio_host *h, struct err *err)
{
	if (h->group >= 0 || noiommu_wanted(b))
		return 0;
	return err_set(err, -ENODEV,
		"%s has no IOMMU group: this host has no IOMMU, or it is off; expected VT-d or AMD-Vi to "
		"be on in the firmware, and intel_iommu=on on the command line of an Intel host's kernel",
		h->name);
}

static int rebind(const struct device_binder *b, struct vfio_host *h, struct err *err)
{
	int rc = set_override(b, h, b->driver, err);

	if (!rc)
		rc = take(b, h, err);
	if (!rc)
		rc = probe(b, h, err);
	if (!rc && strcmp(h->driver, b->driver))
		rc = err_set(err, -ENODEV, "%s does not take it%s; the kernel's log may say why",
			b->driver, *h->driver ? ", another driver has" : "");
	return rc;
}

/* As it was: the failure that led here is told, not those of the way back. */
static void undo(const struct device_binder *b, struct vfio_host *h, const char *driver,
	const char *override)
{
	set_override(b, h, override, NULL);
	look_again(h);
	if (strcmp(h->driver, driver)) {
		take(b, h, NULL);
		if (*driver && give(b, h, driver, NULL))
			probe(b, h, NULL);
	}
	drop_note(b, h);
	step(b, h, strcmp(h->driver, driver) ? "could not be given back to %s" : "given back to %s",
		*driver ? driver : "nobody");
}

static void say_found(const struct device_binder *b, const struct vfio_host *h)
{
	char group[32] = "no IOMMU group";

	if (h->group >= 0)
		snprintf(group, sizeof(group), "IOMMU group %d", h->group);
	step(b, h, "device %04x:%04x, %s, %s%s", h->vendor, h->device, group,
		*h->driver ? "bound to " : "without a driver", h->driver);
}

static int bind_found(const struct device_binder *b, struct vfio_host *h, struct err *err)
{
	char driver[VFIO_NAME], override[VFIO_NAME];
	int rc = need_driver(b, h, err);

	if (!rc)
		rc = check_iommu(b, h, err);
	if (!rc)
		rc = write_note(b, h, err);
	if (rc)
		return rc;
	step(b, h, "noted in " DEVICE_BIND_NOTES ": it came from %s",
		*h->driver ? h->driver : "no driver");
	strcpy(driver, h->driver);
	strcpy(override, h->driver_override);
	rc = rebind(b, h, err);
	if (rc)
		undo(b, h, driver, override);
	else
		step(b, h, "bound to %s: --device path=/sys/bus/pci/devices/%s/", h->driver,
			h->name);
	return rc;
}

int device_bind(const struct device_binder *b, const char *what, struct err *err)
{
	struct err why = { 0 };
	struct vfio_host h;
	int rc = vfio_host_find(b->sysroot, what, &h, err);

	if (!rc)
		rc = check_device(b, &h, err);
	if (rc)
		return rc;
	say_found(b, &h);
	if (!strcmp(h.driver, b->driver)) {
		step(b, &h, "nothing to do");
		return 0;
	}
	rc = bind_found(b, &h, &why);
	return rc ? err_set(err, rc, "%s: %s", h.name, why.text) : 0;
}

int device_bind_check_group(
	const struct device_binder *b, const char *what, bool *ready, struct err *err)
{
	struct err others = { 0 };
	struct vfio_host h;
	int rc = vfio_host_find(b->sysroot, what, &h, err);

	if (rc)
		return rc;
	*ready = !vfio_host_check_group(b->sysroot, &h, &others);
	if (!*ready)
		fprintf(b->out, "%s\n", others.text);
	return 0;
}

/* --- giving back --- */

/* To whom it belongs, as far as that is known. */
static int give_back(const struct device_binder *b, struct vfio_host *h, struct err *err)
{
	char driver[VFIO_NAME];
	bool noted = read_note(b, h, driver);
	int rc = set_override(b, h, "", err);

	if (!rc)
		rc = take(b, h, err);
	if (rc)
		return rc;
	if (noted && !*driver)
		return 0; /* nobody had it */
	if (!*driver || !has_driver(b, driver) || give(b, h, driver, NULL))
		rc = probe(b, h, err);
	if (!rc && vfio_driver_hands_on(h->driver))
		rc = err_set(err, -EBUSY,
			"%s has taken it again: it knows its numbers; expected them to be gone: echo %04x "
			"%04x >/sys/bus/pci/drivers/%s/remove_id",
			h->driver, h->vendor, h->device, h->driver);
	else if (!rc && noted && !*h->driver)
		rc = err_set(err, -ENODEV, "%s, which had it, does not take it back", driver);
	return rc;
}

int device_unbind(const struct device_binder *b, const char *what, struct err *err)
{
	struct err why = { 0 };
	struct vfio_host h;
	int rc = vfio_host_find(b->sysroot, what, &h, err);

	if (rc)
		return rc;
	if (!h.pci)
		return err_set(err, -EINVAL, "%s is no PCI device", h.name);
	say_found(b, &h);
	if (*h.driver && !vfio_driver_hands_on(h.driver)) {
		step(b, &h, "nothing to do");
		return 0;
	}
	rc = check_holder(b, &h, err);
	if (rc)
		return rc;
	rc = give_back(b, &h, &why);
	if (rc)
		return err_set(err, rc, "%s: %s", h.name, why.text);
	drop_note(b, &h);
	step(b, &h, *h.driver ? "bound to %s" : "has no driver%s, and nobody wants it", h.driver);
	return 0;
}
