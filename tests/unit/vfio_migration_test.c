/* vfio_migration_test.c - a device's states and its data, with a device that keeps to the rules,
 * and with others */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attach/vfio_dirty.h"
#include "attach/vfio_migration.h"
#include "attach/vfio_transport.h"
#include "base/fd.h"
#include "base/log.h"
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

static void check_path(struct dev *d, const char *expected)
{
	assert_string_equal(d->path, expected);
	d->path[0] = 0;
}

/* --- states --- */

/* Whatever a device has, from each of its states to each: by arcs alone (change() looks), each
 * session ended. */
static void every_state_can_be_reached_from_every_other(void **state)
{
	static const uint64_t flags[] = { VFIO_MIGRATION_STOP_COPY,
		VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P,
		VFIO_MIGRATION_STOP_COPY | PRE_COPY_FLAG, ALL_FLAGS };
	int fds = fd_count();

	for (unsigned i = 0; i < ARRAY_SIZE(flags); i++)
		for (unsigned from = VFIO_MIG_STOP; from < VFIO_MIG_NR_STATES; from++)
			for (unsigned to = VFIO_MIG_STOP; to < VFIO_MIG_NR_STATES; to++) {
				struct dev d = { .flags = flags[i] };
				struct vfio_migration m;
				struct err err = { 0 };
				int rc;

				begin(&d, &m);
				rc = vfio_migration_enter(&m, from, &err);
				if (!rc) {
					unsigned sessions = d.nr_sessions;

					rc = vfio_migration_enter(&m, to, &err);
					/* No data of another kind lies on the way. */
					assert_true(d.nr_sessions <= sessions + in_session(to));
				}
				assert_true(rc == 0 || rc == -EOPNOTSUPP);
				assert_int_equal(m.data_fd >= 0, in_session(d.state));
				assert_int_equal(m.state, d.state);
				end(&d, &m);
			}
	assert_int_equal(fd_count(), fds);
}

static void ways_are_those_of_the_specification(void **state)
{
	struct dev d = { .flags = ALL_FLAGS };
	struct vfio_migration m;

	begin(&d, &m);
	assert_true(m.has_p2p && m.has_precopy);
	enter(&m, VFIO_MIG_PRE_COPY);
	enter(&m, VFIO_MIG_STOP_COPY);
	check_path(&d, "PRE_COPY PRE_COPY_P2P STOP_COPY");
	assert_int_equal(d.nr_sessions, 1);
	enter(&m, VFIO_MIG_RUNNING);
	check_path(&d, "STOP RUNNING_P2P RUNNING");
	enter(&m, VFIO_MIG_RESUMING);
	check_path(&d, "RUNNING_P2P STOP RESUMING");
	enter(&m, VFIO_MIG_RUNNING);
	enter(&m, VFIO_MIG_PRE_COPY);
	d.path[0] = 0;
	enter(&m, VFIO_MIG_STOP);
	check_path(&d, "RUNNING RUNNING_P2P STOP");
	end(&d, &m);

	d = (struct dev){ .flags = VFIO_MIGRATION_STOP_COPY };
	begin(&d, &m);
	enter(&m, VFIO_MIG_STOP_COPY);
	check_path(&d, "STOP STOP_COPY");
	end(&d, &m);
}

static void a_state_that_the_device_does_not_have_is_refused(void **state)
{
	struct dev d = { .flags = VFIO_MIGRATION_STOP_COPY };
	struct vfio_migration m;
	struct err err = { 0 };

	begin(&d, &m);
	assert_int_equal(vfio_migration_enter(&m, VFIO_MIG_PRE_COPY, &err), -EOPNOTSUPP);
	assert_string_equal(err.text, "device net1: it has no state PRE_COPY");
	assert_int_equal(m.state, VFIO_MIG_RUNNING);
	end(&d, &m);
}

static void who_cannot_migrate_is_named_with_the_reason(void **state)
{
	static const struct {
		struct dev d;
		int rc;
		const char *text;
	} cases[] = {
		{ { .feature_rc = -ENOTTY }, -EOPNOTSUPP,
			"device net1 cannot migrate: its driver does not offer it" },
		{ { .feature_rc = -EIO }, -EIO, "device net1: can it migrate? Input/output error" },
		{ { .flags = VFIO_MIGRATION_P2P }, -EOPNOTSUPP,
			"device net1 cannot migrate: it offers 0x2, which is not even STOP_COPY" },
		{ { .flags = ALL_FLAGS, .get_rc = -EIO }, -EIO,
			"device net1: its state of migration: Input/output error" },
		{ { .flags = ALL_FLAGS, .says = 99 }, -EPROTO,
			"device net1: its state of migration: Protocol error" },
		{ { .flags = ALL_FLAGS, .says = VFIO_MIG_RESUMING }, -EBUSY,
			"device net1: it is RESUMING already" },
		{ { .flags = VFIO_MIGRATION_STOP_COPY, .says = VFIO_MIG_RUNNING_P2P }, -EBUSY,
			"device net1: it is RUNNING_P2P already" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct dev d = cases[i].d;
		const struct vfio_migration_params p = {
			.id = "net1", .ops = &by_script, .self = &d, .cancel_fd = -1
		};
		struct vfio_migration m;
		struct err err = { 0 };

		assert_int_equal(vfio_migration_init(&m, &p, &err), cases[i].rc);
		assert_string_equal(err.text, cases[i].text);
		vfio_migration_fini(&m);
	}
}

static void after_a_failure_it_is_known_where_the_device_is(void **state)
{
	struct dev d = {
		.flags = ALL_FLAGS, .fails_into = VFIO_MIG_STOP_COPY, .fails_as = VFIO_MIG_STOP
	};
	int fds = fd_count();
	struct vfio_migration m;
	struct err err = { 0 };

	begin(&d, &m);
	assert_int_equal(vfio_migration_enter(&m, VFIO_MIG_STOP_COPY, &err), -EIO);
	assert_string_equal(err.text,
		"device net1: its state cannot change from STOP to STOP_COPY: Input/output error; it is STOP");
	assert_int_equal(m.state, VFIO_MIG_STOP);
	/* And back */
	enter(&m, VFIO_MIG_RUNNING);
	/* In the midst of a session */
	enter(&m, VFIO_MIG_PRE_COPY);
	d.fails_as = VFIO_MIG_PRE_COPY_P2P;
	assert_int_equal(vfio_migration_enter(&m, VFIO_MIG_STOP_COPY, &err), -EIO);
	assert_int_equal(m.state, VFIO_MIG_PRE_COPY_P2P);
	assert_true(m.data_fd >= 0);
	d.fails_as = VFIO_MIG_STOP;
	assert_int_equal(vfio_migration_enter(&m, VFIO_MIG_STOP_COPY, &err), -EIO);
	assert_int_equal(m.data_fd, -1);
	end(&d, &m);
	assert_int_equal(fd_count(), fds);
}

static void from_error_only_a_reset_leads(void **state)
{
	struct dev d = {
		.flags = ALL_FLAGS, .fails_into = VFIO_MIG_STOP, .fails_as = VFIO_MIG_ERROR
	};
	struct vfio_migration m;
	struct err err = { 0 };

	begin(&d, &m);
	enter(&m, VFIO_MIG_RUNNING_P2P);
	assert_int_equal(vfio_migration_enter(&m, VFIO_MIG_STOP, &err), -EIO);
	assert_non_null(strstr(err.text, "; it is ERROR and has to be reset"));
	err.text[0] = 0;
	assert_int_equal(vfio_migration_enter(&m, VFIO_MIG_RUNNING, &err), -EIO);
	assert_string_equal(err.text, "device net1: its migration failed, it has to be reset");
	d.reset_rc = -ENOTTY;
	assert_int_equal(vfio_migration_reset(&m, NULL), -ENOTTY);
	assert_int_equal(m.state, VFIO_MIG_ERROR);
	d.reset_rc = 0;
	assert_int_equal(vfio_migration_reset(&m, NULL), 0);
	d.fails_into = 0;
	enter(&m, VFIO_MIG_RESUMING);
	/* An unfinished load, too */
	assert_int_equal(vfio_migration_reset(&m, NULL), 0);
	assert_int_equal(m.data_fd, -1);
	d.after_reset = VFIO_MIG_STOP;
	err.text[0] = 0;
	assert_int_equal(vfio_migration_reset(&m, &err), -EIO);
	assert_string_equal(err.text, "device net1: it is STOP after its reset, not RUNNING");
	end(&d, &m);
}

static void a_device_that_is_not_where_it_was_brought_is_found_out(void **state)
{
	struct dev d = { .flags = ALL_FLAGS };
	struct vfio_migration m;
	struct err err = { 0 };

	begin(&d, &m);
	d.says = VFIO_MIG_RUNNING;
	assert_int_equal(vfio_migration_enter(&m, VFIO_MIG_STOP, &err), -EPROTO);
	assert_string_equal(
		err.text, "device net1: it was brought into STOP and says it is RUNNING");
	d.says = 77;
	d.state = VFIO_MIG_RUNNING;
	assert_int_equal(vfio_migration_enter(&m, VFIO_MIG_STOP, NULL), -EPROTO);
	assert_int_equal(m.state, VFIO_MIG_ERROR);
	end(&d, &m);

	d = (struct dev){ .flags = ALL_FLAGS, .no_fd = true };
	begin(&d, &m);
	err.text[0] = 0;
	assert_int_equal(vfio_migration_enter(&m, VFIO_MIG_STOP_COPY, &err), -EPROTO);
	assert_non_null(
		strstr(err.text, "from STOP to STOP_COPY: Protocol error; it is STOP_COPY"));
	end(&d, &m);
}

/* --- data --- */

struct sunk {
	uint64_t bytes;
	int rc;
};

static int sink(void *arg, const void *buf, size_t len)
{
	struct sunk *s = arg;

	for (size_t i = 0; i < len; i++)
		assert_int_equal(((const char *)buf)[i], 'd');
	s->bytes += len;
	return s->rc;
}

static int save(struct dev *d, enum vfio_mig_state state, const char *script, uint64_t max,
	struct sunk *s, uint64_t *bytes, struct err *err)
{
	struct vfio_migration m;
	int rc;

	*d = (struct dev){ .flags = ALL_FLAGS };
	*err = (struct err){ 0 };
	begin(d, &m);
	enter(&m, state);
	d->script = script;
	rc = vfio_migration_save(&m, max, sink, s, bytes, err);
	end(d, &m);
	return rc;
}

static void a_state_is_read_to_its_end(void **state)
{
	static const struct {
		enum vfio_mig_state state;
		const char *script;
		uint64_t max, bytes;
		int rc;
		const char *text;
	} cases[] = {
		{ VFIO_MIG_STOP_COPY, "...e", 100, 12, 0, "" },
		{ VFIO_MIG_STOP_COPY, "e", 0, 0, 0, "" },
		{ VFIO_MIG_STOP_COPY, ".i.e", 8, 8, 0, "" },
		{ VFIO_MIG_STOP_COPY, "...e", 11, 8, -EFBIG,
			"device net1: its state is larger than 11 bytes" },
		{ VFIO_MIG_STOP_COPY, "..xe", 100, 8, -EIO,
			"device net1: transfer in STOP_COPY: Input/output error" },
		{ VFIO_MIG_STOP_COPY, ".L", UINT64_MAX, 4, -EPROTO,
			"device net1: transfer in STOP_COPY: Protocol error" },
		/* Only of PRE_COPY may there be more later. */
		{ VFIO_MIG_STOP_COPY, ".m", 100, 4, -ENOMSG, NULL },
		{ VFIO_MIG_PRE_COPY, "..m.", 100, 8, 0, "" },
		{ VFIO_MIG_PRE_COPY_P2P, ".m.", 100, 4, 0, "" },
		{ VFIO_MIG_RUNNING, "...", 100, 0, -EINVAL,
			"device net1: there is nothing to save in RUNNING" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct sunk s = { 0 };
		uint64_t bytes = 99;
		struct err err;
		struct dev d;

		assert_int_equal(
			save(&d, cases[i].state, cases[i].script, cases[i].max, &s, &bytes, &err),
			cases[i].rc);
		assert_int_equal(bytes, cases[i].bytes);
		assert_int_equal(s.bytes, bytes);
		if (cases[i].text)
			assert_string_equal(err.text, cases[i].text);
	}
}

static void a_full_sink_ends_the_transfer(void **state)
{
	struct sunk s = { .rc = -ENOSPC };
	uint64_t bytes;
	struct err err;
	struct dev d;

	assert_int_equal(save(&d, VFIO_MIG_STOP_COPY, "....e", 100, &s, &bytes, &err), -ENOSPC);
	assert_int_equal(d.nr_asked, 1);
	assert_string_equal(
		err.text, "device net1: its state cannot be kept: No space left on device");
}

static void no_progress_is_an_end(void **state)
{
	struct sunk s = { 0 };
	uint64_t bytes;
	struct err err;
	struct dev d;

	/* Nothing comes over the session's pipe, so that its descriptor is not ready. */
	assert_int_equal(save(&d, VFIO_MIG_STOP_COPY, ".a", 100, &s, &bytes, &err), -ETIMEDOUT);
	assert_string_equal(err.text, "device net1: no progress in STOP_COPY for 20 ms");
	assert_int_equal(bytes, 4);
}

static void a_transfer_can_be_called_off(void **state)
{
	struct dev d = { .flags = ALL_FLAGS, .script = "a" };
	struct vfio_migration m;
	struct sunk s = { 0 };
	struct err err = { 0 };
	int cancel = fd_eventfd();
	uint64_t bytes;

	begin(&d, &m);
	m.p.cancel_fd = cancel;
	m.p.timeout_ms = 60000;
	enter(&m, VFIO_MIG_STOP_COPY);
	fd_signal(cancel);
	assert_int_equal(vfio_migration_save(&m, 100, sink, &s, &bytes, &err), -ECANCELED);
	assert_string_equal(err.text, "device net1: called off in STOP_COPY");
	assert_int_equal(d.nr_asked, 0);
	end(&d, &m);
	fd_close(&cancel);
}

static void a_state_is_written_as_a_whole(void **state)
{
	struct dev d = { .flags = ALL_FLAGS };
	struct vfio_migration m;
	struct err err = { 0 };

	begin(&d, &m);
	assert_int_equal(vfio_migration_load(&m, "0123456789", 10, &err), -EINVAL);
	assert_string_equal(err.text, "device net1: RUNNING takes no state");
	enter(&m, VFIO_MIG_RESUMING);
	d.script = ".ai..";
	assert_int_equal(vfio_migration_load(&m, "0123456789", 10, NULL), 0);
	assert_int_equal(d.nr_taken, 10);
	assert_memory_equal(d.taken, "0123456789", 10);
	/* Takes nothing, for ever; more than there is; an error */
	d.script = "z";
	assert_int_equal(vfio_migration_load(&m, "0123456789", 10, NULL), -EPROTO);
	d.script = "L";
	assert_int_equal(vfio_migration_load(&m, "0123456789", 10, NULL), -EPROTO);
	d.script = ".x";
	err.text[0] = 0;
	assert_int_equal(vfio_migration_load(&m, "0123456789", 10, &err), -EIO);
	assert_string_equal(err.text, "device net1: transfer in RESUMING: Input/output error");
	/* What was wrong with it the device says when it leaves RESUMING. */
	d.fails_into = VFIO_MIG_STOP;
	d.fails_as = VFIO_MIG_ERROR;
	assert_int_equal(vfio_migration_enter(&m, VFIO_MIG_STOP, NULL), -EIO);
	assert_int_equal(m.data_fd, -1);
	end(&d, &m);
}

static void how_much_there_is_can_be_asked(void **state)
{
	struct dev d = { .flags = ALL_FLAGS };
	uint64_t initial, dirty, size;
	struct vfio_migration m;

	begin(&d, &m);
	assert_int_equal(vfio_migration_left(&m, &initial, &dirty), -EINVAL);
	enter(&m, VFIO_MIG_PRE_COPY);
	assert_int_equal(vfio_migration_left(&m, &initial, &dirty), 0);
	assert_int_equal(initial, 100);
	assert_int_equal(dirty, 7);
	assert_int_equal(vfio_migration_size(&m, &size), 0);
	assert_int_equal(size, 12345);
	end(&d, &m);
}

/* --- by the transport of the kernel: real descriptors --- */

struct by_kernel {
	struct vfio_transport t;
	struct dev d;
};

static int kernel_feature(struct vfio_transport *t, void *feature)
{
	return dev_feature(&container_of(t, struct by_kernel, t)->d, feature);
}

static int kernel_reset(struct vfio_transport *t)
{
	return dev_reset(&container_of(t, struct by_kernel, t)->d);
}

static const struct vfio_transport_ops kernel_ops = { .feature = kernel_feature,
	.reset = kernel_reset };
static const struct vfio_transport_ops ops_without = { .reset = kernel_reset };

static int collect(void *arg, const void *buf, size_t len)
{
	char *text = arg;

	memcpy(text + strlen(text), buf, len);
	return 0;
}

static void the_kernels_sessions_are_descriptors(void **state)
{
	struct by_kernel k = { .t.ops = &kernel_ops,
		.d = { .flags = ALL_FLAGS, .state = VFIO_MIG_RUNNING, .session = { -1, -1 } } };
	const struct vfio_migration_params p = { .id = "net1",
		.ops = &vfio_migration_by_transport,
		.self = &k.t,
		.timeout_ms = 20,
		.cancel_fd = -1 };
	struct vfio_migration m;
	struct err err = { 0 };
	uint64_t bytes, initial, dirty;
	char text[32] = "";
	int fds = fd_count();

	assert_int_equal(vfio_migration_init(&m, &p, &err), 0);
	enter(&m, VFIO_MIG_STOP_COPY);
	assert_int_equal(write(k.d.session[0], "hello", 5), 5);
	/* No more comes for now: it does not block. */
	assert_int_equal(vfio_migration_save(&m, 100, collect, text, &bytes, &err), -ETIMEDOUT);
	assert_string_equal(text, "hello");
	assert_int_equal(write(k.d.session[0], "!", 1), 1);
	fd_close(&k.d.session[0]);
	assert_int_equal(vfio_migration_save(&m, 100, collect, text, &bytes, &err), 0);
	assert_string_equal(text, "hello!");
	enter(&m, VFIO_MIG_RUNNING);
	enter(&m, VFIO_MIG_PRE_COPY);
	assert_int_equal(vfio_migration_left(&m, &initial, &dirty), -ENOTTY); /* it is a pipe */
	enter(&m, VFIO_MIG_RUNNING);
	enter(&m, VFIO_MIG_RESUMING);
	assert_int_equal(vfio_migration_load(&m, "world", 5, &err), 0);
	memset(text, 0, sizeof(text));
	assert_int_equal(read(k.d.session[0], text, sizeof(text)), 5);
	assert_string_equal(text, "world");
	{
		static const char much[1 << 20];

		/* More than it takes: no waiting for ever either */
		assert_int_equal(vfio_migration_load(&m, much, sizeof(much), &err), -ETIMEDOUT);
	}
	assert_int_equal(vfio_migration_reset(&m, NULL), 0);
	vfio_migration_fini(&m);
	fd_close(&k.d.session[0]);
	assert_int_equal(fd_count(), fds);

	k.t.ops = &ops_without;
	err.text[0] = 0;
	assert_int_equal(vfio_migration_init(&m, &p, &err), -EOPNOTSUPP);
	vfio_migration_fini(&m);
	vfio_migration_fini(&(struct vfio_migration){ 0 });
}

/* --- who wrote what --- */

struct logger {
	bool probes;
	unsigned max_ranges;
	int start_rc, stop_rc, report_rc;
	bool started;
	unsigned nr;
	struct vfio_device_feature_dma_logging_range ranges[8];
	struct vfio_device_feature_dma_logging_report asked;
	unsigned nr_starts;
	/* The IOMMU */
	int iommu_rc;
	bool iommu_on;
};

static int logger_feature(void *self, void *arg)
{
	struct logger *l = self;
	struct vfio_device_feature *f = arg;
	struct vfio_device_feature_dma_logging_control c;

	switch (f->flags) {
	case VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_SET |
		VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
		return l->probes ? 0 : -ENOTTY;
	case VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
		assert_int_equal(f->argsz, sizeof(*f) + sizeof(c));
		memcpy(&c, f->data, sizeof(c));
		l->nr_starts++;
		if (l->start_rc)
			return l->start_rc;
		if (c.num_ranges > l->max_ranges)
			return -E2BIG;
		assert_false(l->started);
		l->started = true;
		l->nr = c.num_ranges;
		memcpy(l->ranges, (void *)(uintptr_t)c.ranges,
			MIN(l->nr, 8u) * sizeof(l->ranges[0]));
		return 0;
	case VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
		l->started = false;
		return l->stop_rc;
	case VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
		memcpy(&l->asked, f->data, sizeof(l->asked));
		*(uint64_t *)(uintptr_t)l->asked.bitmap |= 1 << 3;
		return l->report_rc;
	default:
		return -ENOTTY;
	}
}

static int iommu_start(void *self)
{
	struct logger *l = self;

	l->iommu_on = !l->iommu_rc;
	return l->iommu_rc;
}

static void iommu_stop(void *self)
{
	((struct logger *)self)->iommu_on = false;
}

static int iommu_report(
	void *self, uint64_t iova, uint64_t size, uint64_t page_size, uint64_t *bitmap)
{
	*bitmap |= 1 << 5;
	return 0;
}

static const struct vfio_dirty_iommu iommu_ops = { iommu_start, iommu_stop, iommu_report };

static void dirty_new(struct vfio_dirty *d, struct logger *l, bool iommu)
{
	const struct vfio_dirty_params p = {
		.id = "net1",
		.feature = logger_feature,
		.self = l,
		.iommu = iommu ? &iommu_ops : NULL,
		.iommu_self = l,
	};

	vfio_dirty_init(d, &p);
}

static const struct vfio_dirty_range ram[] = {
	{ 0, 0xa0000 },
	{ 0x100000, 0xbff00000 },
	{ 0x100000000, 0x40000000 },
};

static void the_device_logs_as_many_ranges_as_it_can(void **state)
{
	struct logger l = { .probes = true, .max_ranges = 3 };
	struct vfio_dirty d;
	uint64_t map = 1;
	struct err err = { 0 };

	dirty_new(&d, &l, true);
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, &err), 0);
	assert_int_equal(l.nr, 3);
	assert_int_equal(d.source, VFIO_DIRTY_DEVICE);
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, &err), -EBUSY);
	assert_int_equal(vfio_dirty_report(&d, 0x100000, 64 * 4096, 4096, &map, &err), 0);
	assert_int_equal(map, 1 | 1 << 3);
	assert_int_equal(l.asked.iova, 0x100000);
	assert_int_equal(l.asked.length, 64 * 4096);
	l.report_rc = -EIO;
	err.text[0] = 0;
	assert_int_equal(vfio_dirty_report(&d, 0, 4096, 4096, &map, &err), -EIO);
	assert_string_equal(err.text,
		"device net1: which pages it wrote in 0x0+0x1000 is not known: Input/output error");
	vfio_dirty_stop(&d);
	assert_false(l.started);
	assert_int_equal(vfio_dirty_report(&d, 0, 4096, 4096, &map, NULL), -EINVAL);

	l.max_ranges = 2;
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, NULL), 0);
	assert_int_equal(l.nr, 2);
	assert_int_equal(l.ranges[0].length, 0xc0000000);
	assert_int_equal(l.ranges[1].iova, 0x100000000);
	vfio_dirty_stop(&d);
	l.max_ranges = 1;
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, NULL), 0);
	assert_int_equal(l.ranges[0].length, 0x140000000);
	l.stop_rc = -EIO; /* said in the log */
	vfio_dirty_stop(&d);
	vfio_dirty_stop(&d);

	l.start_rc = -ENOMEM;
	l.nr_starts = 0;
	err.text[0] = 0;
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, &err), -ENOMEM);
	assert_int_equal(l.nr_starts, 1);
	assert_string_equal(
		err.text, "device net1: its log of writes does not start: Cannot allocate memory");
	l.start_rc = -EINVAL; /* for ever */
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, NULL), -EINVAL);
	assert_int_equal(l.nr_starts, 1 + 3);
	assert_int_equal(d.source, VFIO_DIRTY_NONE);
}

static void more_ranges_than_the_kernel_takes_are_joined(void **state)
{
	struct logger l = { .probes = true, .max_ranges = 256 };
	struct vfio_dirty_range many[300];
	struct vfio_dirty d;

	for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = (struct vfio_dirty_range){ i * 0x10000ull, 0x1000 };
	dirty_new(&d, &l, false);
	assert_int_equal(vfio_dirty_start(&d, many, ARRAY_SIZE(many), 4096, NULL), 0);
	assert_int_equal(l.nr, 256);
	assert_int_equal(l.nr_starts, 1);
	vfio_dirty_stop(&d);
}

static void else_the_iommu_knows_or_nobody(void **state)
{
	struct logger l = { 0 };
	struct vfio_dirty d;
	uint64_t map = 0;
	struct err err = { 0 };

	dirty_new(&d, &l, true);
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, &err), 0);
	assert_int_equal(d.source, VFIO_DIRTY_IOMMU);
	assert_int_equal(vfio_dirty_report(&d, 0, 4096, 4096, &map, &err), 0);
	assert_int_equal(map, 1 << 5);
	vfio_dirty_stop(&d);
	assert_false(l.iommu_on);
	l.iommu_rc = -EIO;
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, &err), -EIO);
	assert_string_equal(err.text,
		"device net1: the IOMMU's log of writes does not start: Input/output error");

	for (unsigned i = 0; i < 2; i++) {
		l.iommu_rc = -EOPNOTSUPP;
		dirty_new(&d, &l, i);
		err.text[0] = 0;
		assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, &err), -EOPNOTSUPP);
		assert_string_equal(err.text,
			"device net1 cannot migrate: neither it nor its IOMMU tells which pages it writes");
	}
	d.p.feature = NULL;
	assert_int_equal(vfio_dirty_start(&d, ram, 3, 4096, NULL), -EOPNOTSUPP);
}

static void ranges_that_make_no_sense_are_refused(void **state)
{
	static const struct {
		struct vfio_dirty_range r[2];
		unsigned nr;
		uint64_t page;
	} cases[] = {
		{ { { 0, 4096 } }, 0, 4096 },
		{ { { 0, 4096 } }, 1, 2048 },
		{ { { 0, 4096 * 3 } }, 1, 4096 * 3 },
		{ { { 0, 0 } }, 1, 4096 },
		{ { { 0, 4097 } }, 1, 4096 },
		{ { { 1, 4096 } }, 1, 4096 },
		{ { { 0, 8192 }, { 4096, 4096 } }, 2, 4096 },
		{ { { 8192, 4096 }, { 0, 4096 } }, 2, 4096 },
		{ { { UINT64_MAX - 4095, 8192 } }, 1, 4096 },
	};
	struct logger l = { .probes = true, .max_ranges = 9 };
	struct vfio_dirty d;

	dirty_new(&d, &l, true);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(vfio_dirty_start(&d, cases[i].r, cases[i].nr, cases[i].page, NULL),
			-EINVAL);
	assert_int_equal(l.nr_starts, 0);
	assert_int_equal(vfio_dirty_words(65 * 4096, 4096), 2);
	assert_int_equal(vfio_dirty_words(64 * 4096, 4096), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_state_can_be_reached_from_every_other),
		cmocka_unit_test(ways_are_those_of_the_specification),
		cmocka_unit_test(a_state_that_the_device_does_not_have_is_refused),
		cmocka_unit_test(who_cannot_migrate_is_named_with_the_reason),
		cmocka_unit_test(after_a_failure_it_is_known_where_the_device_is),
		cmocka_unit_test(from_error_only_a_reset_leads),
		cmocka_unit_test(a_device_that_is_not_where_it_was_brought_is_found_out),
		cmocka_unit_test(a_state_is_read_to_its_end),
		cmocka_unit_test(a_full_sink_ends_the_transfer),
		cmocka_unit_test(no_progress_is_an_end),
		cmocka_unit_test(a_transfer_can_be_called_off),
		cmocka_unit_test(a_state_is_written_as_a_whole),
		cmocka_unit_test(how_much_there_is_can_be_asked),
		cmocka_unit_test(the_kernels_sessions_are_descriptors),
		cmocka_unit_test(the_device_logs_as_many_ranges_as_it_can),
		cmocka_unit_test(more_ranges_than_the_kernel_takes_are_joined),
		cmocka_unit_test(else_the_iommu_knows_or_nobody),
		cmocka_unit_test(ranges_that_make_no_sense_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
