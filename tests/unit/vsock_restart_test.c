/*
 * vsock_restart_test.c - what is around a socket device: its connector, a process before it, a driver anew
 */
#include "vsock_rig.h"

/* --- the connector --- */

/* arg: a zeroed question, until it is filled. */
static bool asked(struct rig *rig, void *arg)
{
	struct connector_ask *ask = arg;

	return ask->to || recv(played, ask, sizeof(*ask), MSG_DONTWAIT) == sizeof(*ask);
}

static void answer_as(const struct connector_ask *ask, int rc, int fd)
{
	const struct connector_answer a = { .ask = *ask, .rc = rc };
	struct iovec iov = { (void *)(uintptr_t)&a, sizeof(a) };

	assert_int_equal(sock_send(played, &iov, 1, &fd, fd >= 0), sizeof(a));
}

static void an_answer_nobody_waits_for_any_more(void **state)
{
	struct connector_ask first = { 0 }, second = { 0 };
	int pair[2];

	make_with(64, true, &(struct drv_config){ .size = RING });
	post_many(4);
	say(VIRTIO_VSOCK_OP_REQUEST, 7, 52);
	assert_true(rig_until(&r, asked, &first));
	assert_int_equal(first.to, 52);
	say(VIRTIO_VSOCK_OP_RST, 7, 52);
	say(VIRTIO_VSOCK_OP_REQUEST, 7, 52);
	assert_true(rig_until(&r, asked, &second));
	assert_int_equal(sock_pair(pair), 0);
	answer_as(&first, 0, pair[0]);
	close(pair[0]);
	host_sees_the_end(pair[1]);
	close(pair[1]);
	nothing_for_the_guest();
	answer_as(&second, -ECONNREFUSED, -1);
	expect(VIRTIO_VSOCK_OP_RST);
}

static void a_device_without_its_connector_ends(void **state)
{
	make_with(64, true, &(struct drv_config){ .size = RING });
	fd_close(&played);
	assert_int_equal(loop_run(r.loop), EXIT_FAILURE);
}

static void names_that_the_connector_refuses(void **state)
{
	char longest[VSOCK_PREFIX_MAX + 2];
	struct connector c;
	struct err err = { 0 };
	FD_AUTO at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	make();
	memset(longest, 'x', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	assert_int_equal(vsock_connector_start(&c, at, longest, &err), -EINVAL);
	assert_int_equal(vsock_connector_start(&c, at, "a/b", &err), -EINVAL);
	assert_int_equal(vsock_connector_start(&c, at, "", &err), -EINVAL);
	longest[VSOCK_PREFIX_MAX] = '\0';
	assert_int_equal(vsock_connector_start(&c, at, longest, &err), 0);
	connector_stop(&c);
}

/* --- restarts --- */

static bool event_comes(struct rig *rig, void *arg)
{
	return rig_got(rig, arg);
}

/* A process that finds rings in use knows of no connection, and says so. */
static void the_next_process_tells_that_all_are_gone(void **state)
{
	struct rig_used u = { .queue = EVENT };
	struct virtio_model *before;
	uint32_t local, base[3];
	FD_AUTO fd = -1;

	make();
	post(EVENT, 4, false);
	post(EVENT, 4, false);
	fd = host_connects(5, &local);
	for (unsigned i = 0; i < 3; i++)
		base[i] = rig_stop(&r, i);
	before = r.model;
	virtio_model_free(before);
	host_sees_the_end(fd);

	make_with(64, false, NULL);
	for (unsigned i = 0; i < 3; i++) {
		struct vq_setup s = drv_setup(r.q[i].drv);

		s.base = base[i];
		assert_int_equal(rig_start_as(&r, i, &s), 0);
	}
	assert_true(rig_until(&r, event_comes, &u));
	assert_int_equal(u.written, 4);
	assert_int_equal(*(uint32_t *)drv_at(r.mem, (uintptr_t)u.cookie), 0);
	send_data(5, local, "x", 1);
	expect(VIRTIO_VSOCK_OP_RST);
	u = (struct rig_used){ .queue = EVENT };
	rig_settle(&r);
	assert_false(rig_got(&r, &u)); /* once */
}

/* A pause of the machine, or its memory changed: nothing happened to the connections. */
static void connections_outlive_a_stop_of_the_queues(void **state)
{
	struct rig_used u = { .queue = EVENT };
	uint32_t local;
	FD_AUTO fd = -1;

	make();
	post(EVENT, 4, false);
	fd = host_connects(5, &local);
	for (unsigned i = 0; i < 3; i++) {
		struct vq_setup s = drv_setup(r.q[i].drv);

		s.base = rig_stop(&r, i);
		assert_int_equal(rig_start_as(&r, i, &s), 0);
	}
	put(fd, "on");
	assert_int_equal(expect(VIRTIO_VSOCK_OP_RW).h.len, 2);
	assert_false(rig_got(&r, &u));
}

static void a_driver_that_begins_anew_has_no_connections(void **state)
{
	struct rig_used u = { .queue = EVENT };
	uint32_t local;
	FD_AUTO fd = -1;

	make();
	fd = host_connects(5, &local);
	for (unsigned i = 0; i < 3; i++) {
		rig_stop(&r, i);
		drv_reset(r.q[i].drv);
	}
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(rig_start(&r, i), 0);
	post(EVENT, 4, false);
	host_sees_the_end(fd);
	rig_settle(&r);
	assert_false(rig_got(&r, &u));
	post_many(4);
	fd_close(&fd);
	fd = host_connects(5, &local);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(an_answer_nobody_waits_for_any_more),
		TEST(a_device_without_its_connector_ends),
		TEST(names_that_the_connector_refuses),
		TEST(the_next_process_tells_that_all_are_gone),
		TEST(connections_outlive_a_stop_of_the_queues),
		TEST(a_driver_that_begins_anew_has_no_connections),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("vsock_restart", tests, NULL, NULL);
}
