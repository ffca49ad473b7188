/* vfio_migration_test.c - the states that a device migrates through, and the ways between them */
#include "vfio_migration_rig.h"

static void check_path(struct dev *d, const char *expected)
{
	assert_string_equal(d->path, expected);
	d->path[0] = 0;
}

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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
