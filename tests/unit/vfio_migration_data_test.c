/* vfio_migration_data_test.c - what a device hands out and takes back when it migrates */
#include "vfio_migration_rig.h"

#include "attach/vfio_transport.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_state_is_read_to_its_end),
		cmocka_unit_test(a_full_sink_ends_the_transfer),
		cmocka_unit_test(no_progress_is_an_end),
		cmocka_unit_test(a_transfer_can_be_called_off),
		cmocka_unit_test(a_state_is_written_as_a_whole),
		cmocka_unit_test(how_much_there_is_can_be_asked),
		cmocka_unit_test(the_kernels_sessions_are_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
