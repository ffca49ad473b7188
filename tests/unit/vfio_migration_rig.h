/*
 * vfio_migration_rig.h - a device that migrates as linux/vfio.h has it, and keeps to the rules as long
 * as nobody says otherwise
 */
#ifndef TESTS_VFIO_MIGRATION_RIG_H
#define TESTS_VFIO_MIGRATION_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "attach/vfio_migration.h"
#include "base/fd.h"
#include "base/util.h"

#define PRE_COPY_FLAG 4u
#define ALL_FLAGS     (VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | PRE_COPY_FLAG)

/* The arcs of linux/vfio.h, and no others. */
static const uint8_t arcs[][2] = {
	{ VFIO_MIG_RUNNING_P2P, VFIO_MIG_STOP },
	{ VFIO_MIG_STOP_COPY, VFIO_MIG_STOP },
	{ VFIO_MIG_RESUMING, VFIO_MIG_STOP },
	{ VFIO_MIG_RUNNING_P2P, VFIO_MIG_RUNNING },
	{ VFIO_MIG_RUNNING, VFIO_MIG_RUNNING_P2P },
	{ VFIO_MIG_STOP, VFIO_MIG_RUNNING_P2P },
	{ VFIO_MIG_STOP, VFIO_MIG_STOP_COPY },
	{ VFIO_MIG_STOP, VFIO_MIG_RESUMING },
	{ VFIO_MIG_RUNNING, VFIO_MIG_PRE_COPY },
	{ VFIO_MIG_RUNNING_P2P, VFIO_MIG_PRE_COPY_P2P },
	{ VFIO_MIG_PRE_COPY, VFIO_MIG_RUNNING },
	{ VFIO_MIG_PRE_COPY_P2P, VFIO_MIG_RUNNING_P2P },
	{ VFIO_MIG_PRE_COPY, VFIO_MIG_PRE_COPY_P2P },
	{ VFIO_MIG_PRE_COPY_P2P, VFIO_MIG_PRE_COPY },
	{ VFIO_MIG_PRE_COPY_P2P, VFIO_MIG_STOP_COPY },
};

/* What stands for them in a device without P2P. */
static const uint8_t arcs_without_p2p[][2] = {
	{ VFIO_MIG_RUNNING, VFIO_MIG_STOP },
	{ VFIO_MIG_STOP, VFIO_MIG_RUNNING },
	{ VFIO_MIG_PRE_COPY, VFIO_MIG_STOP_COPY },
};

struct dev {
	uint64_t flags;
	uint32_t state;
	char path[256];
	int session[2]; /* [0]: the device's end */
	unsigned nr_sessions;
	/* Wrong things */
	int feature_rc;
	uint32_t fails_into; /* a change to this state fails ... */
	uint32_t fails_as;   /* ... and leaves the device in this one */
	int get_rc;
	uint32_t says; /* GET: not the state it is in, but this */
	bool no_fd;
	uint32_t after_reset;
	int reset_rc;
	/* Data of read() and write(): pieces of a text */
	const char *script; /* '.': 4 bytes, 'a': EAGAIN, 'e': the end, 'm': ENOMSG, 'x': EIO, 'i':
			       EINTR, 'z': 0, 'L': a lie */
	unsigned nr_asked;
	uint8_t taken[64];
	size_t nr_taken;
};

static bool listed(const uint8_t (*list)[2], unsigned nr, uint32_t from, uint32_t to)
{
	for (unsigned i = 0; i < nr; i++)
		if (list[i][0] == from && list[i][1] == to)
			return true;
	return false;
}

static bool allowed(const struct dev *d, uint32_t from, uint32_t to)
{
	bool p2p = d->flags & VFIO_MIGRATION_P2P;

	if ((to == VFIO_MIG_RUNNING_P2P || to == VFIO_MIG_PRE_COPY_P2P) && !p2p)
		return false;
	if ((to == VFIO_MIG_PRE_COPY || to == VFIO_MIG_PRE_COPY_P2P) && !(d->flags & PRE_COPY_FLAG))
		return false;
	return listed(arcs, ARRAY_SIZE(arcs), from, to) ||
	       (!p2p && listed(arcs_without_p2p, ARRAY_SIZE(arcs_without_p2p), from, to));
}

static bool in_session(uint32_t state)
{
	return state == VFIO_MIG_STOP_COPY || state == VFIO_MIG_RESUMING ||
	       state == VFIO_MIG_PRE_COPY || state == VFIO_MIG_PRE_COPY_P2P;
}

static int change(struct dev *d, struct vfio_device_feature_mig_state *s)
{
	uint32_t to = s->device_state;
	bool begins = in_session(to) && !in_session(d->state);

	if (!allowed(d, d->state, to)) {
		fprintf(stderr, "there is no arc from %s to %s\n", vfio_mig_state_name(d->state),
			vfio_mig_state_name(to));
		abort();
	}
	if (d->fails_into && to == d->fails_into) {
		d->state = d->fails_as;
		return -EIO;
	}
	snprintf(d->path + strlen(d->path), sizeof(d->path) - strlen(d->path), "%s%s",
		d->path[0] ? " " : "", vfio_mig_state_name(to));
	if (!in_session(to))
		fd_close(&d->session[0]);
	d->state = to;
	s->data_fd = -1;
	if (!begins || d->no_fd)
		return 0;
	d->nr_sessions++;
	assert_int_equal(pipe2(d->session, O_CLOEXEC), 0);
	if (to == VFIO_MIG_RESUMING) {
		s->data_fd = d->session[1];
	} else {
		s->data_fd = d->session[0];
		d->session[0] = d->session[1];
	}
	return 0;
}

static int dev_feature(void *self, void *arg)
{
	struct dev *d = self;
	struct vfio_device_feature *f = arg;
	struct vfio_device_feature_mig_state *s = (void *)f->data;

	if (d->feature_rc)
		return d->feature_rc;
	switch (f->flags) {
	case VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION:
		assert_int_equal(f->argsz, 16);
		memcpy(f->data, &d->flags, sizeof(d->flags));
		return 0;
	case VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
		s->device_state = d->says ? d->says : d->state;
		return d->get_rc;
	case VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
		assert_int_equal(f->argsz, 16);
		return change(d, s);
	case VFIO_DEVICE_FEATURE_GET | 9:
		memcpy(f->data, &(uint64_t){ 12345 }, 8);
		return 0;
	default:
		return -ENOTTY;
	}
}

static ssize_t scripted(struct dev *d, void *buf, size_t len)
{
	d->nr_asked++;
	switch (*d->script ? *d->script++ : 'e') {
	case '.':
		len = MIN(len, (size_t)4);
		if (buf)
			memset(buf, 'd', len);
		return (ssize_t)len;
	case 'a':
		return -EAGAIN;
	case 'i':
		return -EINTR;
	case 'm':
		return -ENOMSG;
	case 'x':
		return -EIO;
	case 'L':
		return (ssize_t)len + 1;
	default:
		return 0;
	}
}

static ssize_t dev_read(void *self, int fd, void *buf, size_t len)
{
	return scripted(self, buf, len);
}

static ssize_t dev_write(void *self, int fd, const void *buf, size_t len)
{
	struct dev *d = self;
	ssize_t n = scripted(d, NULL, len);

	if (n > 0 && (size_t)n <= len && d->nr_taken + (size_t)n <= sizeof(d->taken)) {
		memcpy(d->taken + d->nr_taken, buf, (size_t)n);
		d->nr_taken += (size_t)n;
	}
	return n;
}

static int dev_precopy_info(void *self, int fd, uint64_t *initial, uint64_t *dirty)
{
	*initial = 100;
	*dirty = 7;
	return 0;
}

static int dev_reset(void *self)
{
	struct dev *d = self;

	if (!d->reset_rc)
		d->state = d->after_reset ? d->after_reset : VFIO_MIG_RUNNING;
	return d->reset_rc;
}

static const struct vfio_migration_ops by_script = { dev_feature, dev_read, dev_write,
	dev_precopy_info, dev_reset, true };

static void begin(struct dev *d, struct vfio_migration *m)
{
	const struct vfio_migration_params p = {
		.id = "net1", .ops = &by_script, .self = d, .timeout_ms = 20, .cancel_fd = -1
	};
	struct err err = { 0 };

	d->session[0] = d->session[1] = -1;
	if (!d->state)
		d->state = VFIO_MIG_RUNNING;
	if (vfio_migration_init(m, &p, &err))
		fail_msg("%s", err.text);
}

static void end(struct dev *d, struct vfio_migration *m)
{
	vfio_migration_fini(m);
	fd_close(&d->session[0]);
}

static void enter(struct vfio_migration *m, enum vfio_mig_state state)
{
	struct err err = { 0 };

	if (vfio_migration_enter(m, state, &err))
		fail_msg("%s", err.text);
	assert_int_equal(m->state, state);
}

#endif
