/*
 * vfio-migration.c - moves the state of one migratable device into another, with the functions
 * outboard has for it
 *
 *   vfio-migration CASE UUID UUID    mediated devices of the kernel's mtty, each in a group of its
 * own
 *
 * Status 0: all was as expected; else a line says what was not. vfio-migration.sh runs it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "attach/vfio_dirty.h"
#include "attach/vfio_migration.h"
#include "attach/vfio_transport.h"
#include "base/util.h"

struct port {
	struct vfio_transport t;
	struct vfio_migration m;
	int device;
};

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	printf("\n");
	exit(1);
}

static struct port *port_of(struct vfio_transport *t)
{
	return container_of(t, struct port, t);
}

static int feature(struct vfio_transport *t, void *arg)
{
	return ioctl(port_of(t)->device, VFIO_DEVICE_FEATURE, arg) < 0 ? -errno : 0;
}

static int reset(struct vfio_transport *t)
{
	return ioctl(port_of(t)->device, VFIO_DEVICE_RESET) < 0 ? -errno : 0;
}

static const struct vfio_transport_ops ops = { .feature = feature, .reset = reset };

/* --- the device, by its group --- */

static int group_of(const char *uuid)
{
	char path[128], link[128], name[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/iommu_group", uuid);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		die("%s: %s", path, strerror(errno));
	link[n] = 0;
	snprintf(name, sizeof(name), "/dev/vfio/%s", strrchr(link, '/') + 1);
	fd = open(name, O_RDWR);
	if (fd < 0)
		die("%s: %s", name, strerror(errno));
	return fd;
}

static void open_port(struct port *p, const char *uuid, int container, bool first)
{
	const struct vfio_migration_params mp = {
		.id = uuid, .ops = &vfio_migration_by_transport, .self = &p->t, .cancel_fd = -1
	};
	int group = group_of(uuid);
	struct err err = { 0 };

	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) ||
		(first && ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)))
		die("container: %s", strerror(errno));
	p->device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, uuid);
	if (p->device < 0)
		die("device: %s", strerror(errno));
	p->t.ops = &ops;
	if (vfio_migration_init(&p->m, &mp, &err))
		die("%s", err.text);
}

/* Registers of its first port: what is sent comes back. */
static off_t bar0(void)
{
	return (off_t)VFIO_PCI_BAR0_REGION_INDEX << 40;
}

static void send_text(struct port *p, const char *text)
{
	for (; *text; text++)
		if (pwrite(p->device, text, 1, bar0()) != 1)
			die("write: %s", strerror(errno));
}

static void expect_text(struct port *p, const char *text)
{
	char got[32] = "";

	for (size_t i = 0; i < strlen(text); i++)
		if (pread(p->device, &got[i], 1, bar0()) != 1)
			die("read: %s", strerror(errno));
	if (strcmp(got, text))
		die("it has '%s', not '%s'", got, text);
}

/* --- a state on its way --- */

struct stream {
	char data[65536];
	size_t len;
};

static int keep(void *arg, const void *buf, size_t len)
{
	struct stream *s = arg;

	if (!range_ok(s->len, len, sizeof(s->data)))
		return -ENOSPC;
	memcpy(s->data + s->len, buf, len);
	s->len += len;
	return 0;
}

static void enter(struct port *p, enum vfio_mig_state state)
{
	struct err err = { 0 };

	if (vfio_migration_enter(&p->m, state, &err))
		die("%s", err.text);
}

static uint64_t save(struct port *p, struct stream *s)
{
	struct err err = { 0 };
	uint64_t bytes;

	if (vfio_migration_save(&p->m, sizeof(s->data), keep, s, &bytes, &err))
		die("%s", err.text);
	return bytes;
}

static void load(struct port *p, const struct stream *s)
{
	struct err err = { 0 };

	enter(p, VFIO_MIG_RESUMING);
	if (vfio_migration_load(&p->m, s->data, s->len, &err))
		die("%s", err.text);
	enter(p, VFIO_MIG_STOP);
	enter(p, VFIO_MIG_RUNNING);
}

static struct stream stream;

static void moves(struct port *from, struct port *to)
{
	uint64_t size;

	send_text(from, "stopped");
	enter(from, VFIO_MIG_STOP_COPY);
	if (vfio_migration_size(&from->m, &size) || !save(from, &stream))
		die("there is no state");
	printf("%zu bytes, of %llu announced\n", stream.len, (unsigned long long)size);
	enter(from, VFIO_MIG_STOP);
	load(to, &stream);
	expect_text(to, "stopped");
	/* The first one can be used further. */
	enter(from, VFIO_MIG_RUNNING);
	expect_text(from, "stopped");
}

static void moves_while_it_runs(struct port *from, struct port *to)
{
	uint64_t initial, dirty, before;

	if (!from->m.has_precopy || !from->m.has_p2p)
		die("it has no PRE_COPY or no P2P");
	send_text(from, "early");
	enter(from, VFIO_MIG_PRE_COPY);
	if (vfio_migration_left(&from->m, &initial, &dirty))
		die("it does not say how much is left");
	before = save(from, &stream);
	if (vfio_migration_left(&from->m, &initial, &dirty) || initial)
		die("%llu bytes are left of those at first", (unsigned long long)initial);
	send_text(from, "late");
	enter(from, VFIO_MIG_STOP_COPY);
	printf("%llu bytes before, %llu after it stopped\n", (unsigned long long)before,
		(unsigned long long)save(from, &stream));
	enter(from, VFIO_MIG_STOP);
	load(to, &stream);
	expect_text(to, "earlylate");
}

/* Called off in each state that can be, and nothing is lost. */
static void can_be_called_off(struct port *from, struct port *to)
{
	static const enum vfio_mig_state states[] = { VFIO_MIG_RUNNING_P2P, VFIO_MIG_STOP,
		VFIO_MIG_STOP_COPY, VFIO_MIG_PRE_COPY, VFIO_MIG_PRE_COPY_P2P };

	for (size_t i = 0; i < ARRAY_SIZE(states); i++) {
		send_text(from, "kept");
		enter(from, states[i]);
		enter(from, VFIO_MIG_RUNNING);
		expect_text(from, "kept");
	}
}

static void refuses_another_ones_state(struct port *from, struct port *to)
{
	struct err err = { 0 };
	int rc;

	memset(stream.data, 0x5a, 64);
	enter(to, VFIO_MIG_RESUMING);
	rc = vfio_migration_load(&to->m, stream.data, 64, &err);
	if (!rc)
		rc = vfio_migration_enter(&to->m, VFIO_MIG_STOP, &err);
	if (!rc)
		die("it takes anything");
	printf("%s\n", err.text);
	/* Half a state, which ends by a reset */
	if (vfio_migration_reset(&to->m, &err))
		die("%s", err.text);
	send_text(from, "x");
	enter(from, VFIO_MIG_STOP_COPY);
	stream.len = 0;
	save(from, &stream);
	enter(to, VFIO_MIG_RESUMING);
	if (!vfio_migration_load(&to->m, stream.data, stream.len / 2, &err) &&
		!vfio_migration_enter(&to->m, VFIO_MIG_STOP, &err))
		die("half a state is enough");
	if (vfio_migration_reset(&to->m, &err))
		die("%s", err.text);
	load(to, &stream);
	expect_text(to, "x");
}

static void logs_its_writes(struct port *from, struct port *to)
{
	static const struct vfio_dirty_range ranges[] = { { 0, 0x100000 },
		{ 0x100000000, 0x100000 } };
	const struct vfio_dirty_params p = {
		.id = "mtty", .feature = vfio_migration_by_transport.feature, .self = &from->t
	};
	struct vfio_dirty d;
	struct err err = { 0 };
	uint64_t map[4] = { 0 };

	vfio_dirty_init(&d, &p);
	for (int round = 0; round < 2; round++) {
		if (vfio_dirty_start(&d, ranges, 2, 4096, &err) ||
			vfio_dirty_report(&d, 0, 0x100000, 4096, map, &err))
			die("%s", err.text);
		if (d.source != VFIO_DIRTY_DEVICE)
			die("the device does not log");
		vfio_dirty_stop(&d);
	}
	/* It has no DMA. */
	if (map[0] | map[1] | map[2] | map[3])
		die("it has written");
}

static const struct {
	const char *name;
	void (*run)(struct port *from, struct port *to);
} cases[] = {
	{ "stop-copy", moves },
	{ "pre-copy", moves_while_it_runs },
	{ "called-off", can_be_called_off },
	{ "wrong-state", refuses_another_ones_state },
	{ "log", logs_its_writes },
};

int main(int argc, char **argv)
{
	static struct port ports[2];
	int container = open("/dev/vfio/vfio", O_RDWR);

	if (argc != 4 || container < 0)
		die("usage: vfio-migration CASE UUID UUID, and there has to be VFIO");
	open_port(&ports[0], argv[2], container, true);
	open_port(&ports[1], argv[3], container, false);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (!strcmp(cases[i].name, argv[1])) {
			cases[i].run(&ports[0], &ports[1]);
			vfio_migration_fini(&ports[0].m);
			vfio_migration_fini(&ports[1].m);
			return 0;
		}
	die("no such case: %s", argv[1]);
}
