#include "console_rig.h"

/* Several ports */

static void make_ports(void)
{
	const struct console_port_config ports[] = {
		{ .end = null_end, .name = "" },
		{ .end = socket_end(), .name = "org.example.agent" },
		{ .end = null_end, .name = "", .console = true },
	};

	make(ports, 3);
	assert_int_equal(r.model->nr_queues, 8);
	assert_true(r.model->features & MULTIPORT);
}

static void shake_hands(void)
{
	start_all(MULTIPORT);
	give_control_buffers();
	nothing_used(CONTROL_RX);
	tell(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	for (unsigned i = 0; i < 3; i++)
		told(i, VIRTIO_CONSOLE_PORT_ADD, 0, NULL, 0);
	tell(1, VIRTIO_CONSOLE_PORT_READY, 1);
	told(1, VIRTIO_CONSOLE_PORT_NAME, 1, "org.example.agent", 17);
	told(1, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL, 0);
}

static void ports_are_announced(void **state)
{
	make_ports();
	shake_hands();
	tell(2, VIRTIO_CONSOLE_PORT_READY, 1);
	told(2, VIRTIO_CONSOLE_CONSOLE_PORT, 1, NULL, 0);
	told(2, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL, 0);
	/* A second time: nothing is added twice. */
	tell(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	nothing_used(CONTROL_RX);
}

static void clients_are_announced(void **state)
{
	FD_AUTO fd = -1;

	make_ports();
	shake_hands();
	fd = client();
	told(1, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL, 0);
	fd_close(&fd);
	rig_settle(&r);
	told(1, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL, 0);
	nothing_used(CONTROL_RX);
}

static void a_flood_of_clients_takes_no_memory(void **state)
{
	unsigned told_of = 0;
	struct rig_used u;
	FD_AUTO fd = -1;

	make_ports();
	shake_hands();
	/* As many as the driver has buffers for, then no more. */
	for (unsigned i = 0; i < 100; i++) {
		fd = client();
		fd_close(&fd);
		rig_settle(&r);
	}
	fd = client();
	while (r.q[CONTROL_RX].drv->nr_open) {
		assert_true(rig_take(&r, CONTROL_RX, &u));
		told_of++;
	}
	give_buffer(CONTROL_RX, 64);
	assert_in_range(told_of, 20, 32);
	/* The next thing it hears is how it is now. */
	told(1, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL, 0);
}

static void input_waits_until_the_guest_opens_the_port(void **state)
{
	FD_AUTO fd = -1;

	make_ports();
	shake_hands();
	fd = client();
	give_buffer(RX1, 16);
	assert_int_equal(send(fd, "early", 5, 0), 5);
	nothing_used(RX1);
	tell(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	received(RX1, "early");
	tell(1, VIRTIO_CONSOLE_PORT_OPEN, 0);
	give_buffer(RX1, 16);
	assert_int_equal(send(fd, "late", 4, 0), 4);
	nothing_used(RX1);
	tell(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	received(RX1, "late");
}

/* 1 MiB to a client that reads now and then: every byte, in order, while another port goes on. */
static void a_slow_client_slows_its_port_alone(void **state)
{
	const uint32_t piece = 16 * KIB;
	unsigned sent = 0, taken = 0, other = 0;
	size_t got = 0, n;
	char buf[8192];
	FD_AUTO fd = -1;
	void *cookie;
	uint32_t written;

	make_ports();
	shake_hands();
	fd = client();
	tell(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	for (uint32_t i = 0; i < 64 * piece / 4; i++)
		((uint32_t *)drv_at(r.mem, DRV_IOVA + 2 * MIB))[i] = i;
	for (; sent < 64; sent++) {
		struct drv_buf piece_buf = { DRV_IOVA + 2 * MIB + sent * (uint64_t)piece, piece };

		assert_int_equal(drv_add(r.q[TX1].drv, &piece_buf, 1, 0, COOKIE(sent + 1)), 0);
	}
	rig_kick(&r, TX1);
	rig_settle(&r);
	while (drv_get(r.q[TX1].drv, &cookie, &written))
		taken++;
	assert_true(taken < 64); /* the socket is full */
	while (got < 64 * (size_t)piece) {
		send_text(TX2, "z", ++other);
		used(TX2, other);
		rig_settle(&r);
		n = read_some(fd, buf, sizeof(buf) - got % 4);
		for (size_t i = 0; i < n; i++)
			assert_int_equal((uint8_t)buf[i],
				*((uint8_t *)drv_at(r.mem, DRV_IOVA + 2 * MIB) + got + i));
		got += n;
		assert_int_not_equal(n, 0);
		if (other > 60)
			other = 0;
	}
	rig_settle(&r);
	while (drv_get(r.q[TX1].drv, &cookie, &written))
		taken++;
	assert_int_equal(taken, 64);
}

static void what_waits_for_a_client_that_leaves_is_dropped(void **state)
{
	struct drv_buf big = { DRV_IOVA + 2 * MIB, 1 * MIB };
	FD_AUTO fd = -1;

	make_ports();
	shake_hands();
	fd = client();
	assert_int_equal(drv_add(r.q[TX1].drv, &big, 1, 0, COOKIE(1)), 0);
	rig_kick(&r, TX1);
	nothing_used(TX1);
	fd_close(&fd);
	used(TX1, 1);
	/* The next client gets what is sent to it, and no rest. */
	fd = client();
	send_text(TX1, "fresh", 2);
	used(TX1, 2);
	client_reads(fd, "fresh");
}

static void a_stop_in_the_middle_loses_nothing(void **state)
{
	const size_t size = 1 * MIB;
	struct drv_buf big = { DRV_IOVA + 2 * MIB, (uint32_t)size };
	struct vq_setup s;
	FD_AUTO fd = -1;
	char buf[8192];
	size_t got = 0, n;

	make_ports();
	shake_hands();
	fd = client();
	for (size_t i = 0; i < size; i++)
		*((uint8_t *)drv_at(r.mem, DRV_IOVA + 2 * MIB) + i) = (uint8_t)(i * 7 + i / 251);
	send_text(TX1, "!", 2);
	used(TX1, 2);
	client_reads(fd, "!");
	assert_int_equal(drv_add(r.q[TX1].drv, &big, 1, 0, COOKIE(1)), 0);
	rig_kick(&r, TX1);
	nothing_used(TX1);
	s = drv_setup(r.q[TX1].drv);
	s.base = rig_stop(&r, TX1);
	assert_int_equal(s.base, 1);
	assert_int_equal(rig_start_as(&r, TX1, &s), 0);
	while (got < size) {
		rig_settle(&r);
		n = read_some(fd, buf, sizeof(buf));
		assert_int_not_equal(n, 0);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(
				(uint8_t)buf[i], (uint8_t)((got + i) * 7 + (got + i) / 251));
		got += n;
	}
	used(TX1, 1);
	rig_settle(&r);
	assert_int_equal(read_some(fd, buf, sizeof(buf)), 0);
}

/* A port that waits takes its request out of the ring and puts it back, again and again. */
static void every_kind_of_ring_works(void **state)
{
	const struct drv_config usual = rings;

	for (unsigned kind = 0; kind < 16; kind++) {
		rings = (struct drv_config){
			.size = 64,
			.packed = kind & 1,
			.event_idx = kind & 2,
			.indirect = kind & 4,
			.in_order = kind & 8,
		};
		if (kind != 2) /* the usual one */
			a_slow_client_slows_its_port_alone(state);
		rig_fini(&r);
		unlink(path);
		rig_init(&r);
	}
	rings = usual;
}

static void bad_control_messages_are_ignored(void **state)
{
	static const struct virtio_console_control bad[] = {
		{ .id = 3, .event = VIRTIO_CONSOLE_PORT_READY, .value = 1 },
		{ .id = UINT32_MAX, .event = VIRTIO_CONSOLE_PORT_OPEN, .value = 1 },
		{ .id = 1, .event = VIRTIO_CONSOLE_PORT_ADD },
		{ .id = 1, .event = 4711, .value = 3 },
		{ .id = 0, .event = VIRTIO_CONSOLE_DEVICE_READY, .value = 0 },
	};
	struct rig_used u;

	make_ports();
	start_all(MULTIPORT);
	give_control_buffers();
	/* Before the device is ready there are no ports. */
	tell(1, VIRTIO_CONSOLE_PORT_READY, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		tell(bad[i].id, bad[i].event, bad[i].value);
	send_bytes(CONTROL_TX, "short", 5, 1);
	used(CONTROL_TX, 1);
	give_buffer(CONTROL_TX, 64);
	assert_true(rig_take(&r, CONTROL_TX, &u));
	assert_int_equal(u.written, 0);
	nothing_used(CONTROL_RX);
	tell(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	told(0, VIRTIO_CONSOLE_PORT_ADD, 0, NULL, 0);
}

static void control_buffers_that_are_too_small_are_given_back(void **state)
{
	struct rig_used u;

	make_ports();
	start_all(MULTIPORT);
	give_buffer(CONTROL_RX, 7);
	give_buffer(CONTROL_RX, 64);
	tell(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	assert_true(rig_take(&r, CONTROL_RX, &u));
	assert_int_equal(u.written, 0);
	told(0, VIRTIO_CONSOLE_PORT_ADD, 0, NULL, 0);
}

static void a_driver_that_begins_anew_is_told_anew(void **state)
{
	make_ports();
	shake_hands();
	for (unsigned i = 0; i < r.model->nr_queues; i++) {
		rig_stop(&r, i);
		drv_reset(r.q[i].drv);
	}
	shake_hands();
}

/* The process before this one has heard it all: the messages do not come again. */
static void after_a_restart_ports_are_open(void **state)
{
	FD_AUTO fd = -1;

	make_ports();
	r.model->ops->set_features(r.model, MULTIPORT);
	for (unsigned i = 0; i < r.model->nr_queues; i++) {
		r.q[i].drv->used->idx = r.q[i].drv->avail->idx = 5;
		r.q[i].drv->avail_idx = r.q[i].drv->used_idx = 5;
		assert_int_equal(rig_start(&r, i), 0);
	}
	give_buffer(RX1, 16);
	fd = client();
	assert_int_equal(send(fd, "hello", 5, 0), 5);
	received(RX1, "hello");
	send_text(TX1, "answer", 1);
	client_reads(fd, "answer");
}

static void state_is_saved_and_loaded(void **state)
{
	struct err err = { 0 };
	char buf[4096];
	FD_AUTO fd = -1;
	ssize_t n;

	make_ports();
	shake_hands();
	tell(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	n = r.model->ops->save(r.model, buf, sizeof(buf));
	assert_in_range(n, 1, sizeof(buf));
	assert_int_equal(r.model->ops->save(r.model, buf, 10), -ENOSPC);
	r.model->ops->reset(r.model);
	assert_int_equal(r.model->ops->load(r.model, buf, (size_t)n, &err), 0);
	give_buffer(RX1, 16);
	fd = client();
	assert_int_equal(send(fd, "kept", 4, 0), 4);
	received(RX1, "kept");
}

static void bad_state_is_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"{}",
		"[]",
		"{\"model\":\"console\",\"version\":2,\"multiport\":true,\"ready\":true,\"ports\":[]}",
		"{\"model\":\"console\",\"version\":1,\"multiport\":true,\"ready\":true,\"ports\":[]}",
		("{\"model\":\"console\",\"version\":1,\"multiport\":true,\"ready\":true,\"ports\":"
		 "[{},{},{}]}"),
		"{\"model\":\"console\",\"version\":1,\"multiport\":true,\"ready\":true,\"ports\":3}",
	};

	make_ports();
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = { 0 };

		assert_int_equal(
			r.model->ops->load(r.model, bad[i], strlen(bad[i]), &err), -EINVAL);
		assert_true(err.text[0]);
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(ports_are_announced),
		TEST(clients_are_announced),
		TEST(a_flood_of_clients_takes_no_memory),
		TEST(input_waits_until_the_guest_opens_the_port),
		TEST(a_slow_client_slows_its_port_alone),
		TEST(what_waits_for_a_client_that_leaves_is_dropped),
		TEST(a_stop_in_the_middle_loses_nothing),
		TEST(every_kind_of_ring_works),
		TEST(bad_control_messages_are_ignored),
		TEST(control_buffers_that_are_too_small_are_given_back),
		TEST(a_driver_that_begins_anew_is_told_anew),
		TEST(after_a_restart_ports_are_open),
		TEST(state_is_saved_and_loaded),
		TEST(bad_state_is_refused),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("console_ports", tests, NULL, NULL);
}
