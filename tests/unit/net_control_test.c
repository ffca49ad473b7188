#include "net_rig.h"

/* The control queue */

static uint8_t command(uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
	unsigned queue = r.model->nr_queues - 1u;
	uint64_t at = drv_alloc(r.mem, len + 16, 8);
	uint8_t *place = drv_at(r.mem, at);
	struct drv_buf bufs[] = { { at, 2 }, { at + 8, len }, { at + 2, 1 } };
	struct rig_used u;

	place[0] = class;
	place[1] = cmd;
	place[2] = 0x55;
	memcpy(place + 8, data, len);
	if (len) {
		assert_int_equal(drv_add(r.q[queue].drv, bufs, 2, 1, place), 0);
	} else {
		bufs[1] = bufs[2];
		assert_int_equal(drv_add(r.q[queue].drv, bufs, 1, 1, place), 0);
	}
	rig_kick(&r, queue);
	assert_true(rig_take(&r, queue, &u));
	assert_ptr_equal(u.cookie, place);
	assert_int_equal(u.written, 1);
	return place[2];
}

static void the_address_can_be_set(void **state)
{
	static const uint8_t group[6] = { 1, 2, 3, 4, 5, 6 }, fine[6] = { 2, 2, 3, 4, 5, 6 };

	make_and_start(CVQ);
	assert_memory_equal(r.model->config, mac, 6);
	assert_int_equal(
		command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, fine, 6), VIRTIO_NET_OK);
	assert_memory_equal(r.model->config, fine, 6);
	assert_int_equal(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, group, 6),
		VIRTIO_NET_ERR);
	assert_memory_equal(r.model->config, fine, 6);
	/* A driver that begins anew finds the first address. */
	rig_stop(&r, 2);
	drv_reset(r.q[2].drv);
	assert_int_equal(rig_start(&r, 2), 0);
	assert_memory_equal(r.model->config, mac, 6);
}

static void bad_commands_are_refused(void **state)
{
	static const uint8_t zeros[64];
	static const uint16_t pairs[] = { 0, 3, 0x8000, 0xffff };
	static const uint64_t offloads = VIRTIO_BIT(VIRTIO_NET_F_GUEST_CSUM);

	make(2, &plain);
	start(CVQ | VIRTIO_BIT(VIRTIO_NET_F_MQ), 5);
	for (unsigned class = 0; class < 256; class += class < 8 ? 1 : 61)
		for (unsigned cmd = 0; cmd < 8; cmd++)
			for (uint32_t len = 0; len < 12; len++)
				if (class != VIRTIO_NET_CTRL_MAC &&
					class != VIRTIO_NET_CTRL_ANNOUNCE)
					assert_int_equal(
						command((uint8_t) class, (uint8_t)cmd, zeros, len),
						VIRTIO_NET_ERR);
	for (unsigned i = 0; i < ARRAY_SIZE(pairs); i++)
		assert_int_equal(
			command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs[i], 2),
			VIRTIO_NET_ERR);
	/* Not accepted, so it cannot be switched on. */
	assert_int_equal(command(VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET,
				 &offloads, 8),
		VIRTIO_NET_ERR);
}

static void a_command_without_an_answer_is_not_run(void **state)
{
	uint64_t at;
	struct drv_buf buf;
	static const uint8_t other[6] = { 2, 2, 3, 4, 5, 6 };

	make_and_start(CVQ);
	at = drv_alloc(r.mem, 16, 8);
	buf = (struct drv_buf){ at, 8 };
	memcpy(drv_at(r.mem, at), (uint8_t[]){ VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET },
		2);
	memcpy(drv_at(r.mem, at + 2), other, 6);
	assert_int_equal(drv_add(r.q[2].drv, &buf, 1, 0, COOKIE(1)), 0);
	rig_kick(&r, 2);
	used(2, 1);
	assert_memory_equal(r.model->config, mac, 6);
}

static void pairs_are_switched_on_and_off(void **state)
{
	uint16_t two = 2, one = 1;

	make(2, &plain);
	start(CVQ | MRG | VIRTIO_BIT(VIRTIO_NET_F_MQ), 5);
	assert_int_equal(command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &two, 2),
		VIRTIO_NET_OK);
	give_buffer(2, 1526);
	peer_send(peers[1], 300, 4);
	received(2, 300, 4, 1);
	send_frame(3, "two", 3, 1);
	used(3, 1);
	assert_int_equal(command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &one, 2),
		VIRTIO_NET_OK);
}

static void the_control_queue_is_the_third_without_mq(void **state)
{
	uint64_t at;
	struct drv_buf bufs[2];
	uint8_t *place;

	make(2, &plain);
	start(CVQ, 3);
	at = drv_alloc(r.mem, 16, 8);
	place = drv_at(r.mem, at);
	memcpy(place,
		(uint8_t[]){
			VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 2, 0, 0, 0, 0, 9, 0x55 },
		9);
	bufs[0] = (struct drv_buf){ at, 8 };
	bufs[1] = (struct drv_buf){ at + 8, 1 };
	assert_int_equal(drv_add(r.q[2].drv, bufs, 1, 1, COOKIE(1)), 0);
	rig_kick(&r, 2);
	used(2, 1);
	assert_int_equal(place[8], VIRTIO_NET_OK);
	assert_int_equal(r.model->config[5], 9);
}

static void state_is_saved_and_loaded(void **state)
{
	static const uint8_t fine[6] = { 2, 2, 3, 4, 5, 6 };
	uint64_t features =
		CVQ | VIRTIO_BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) | VIRTIO_BIT(VIRTIO_NET_F_STATUS);
	struct virtio_net_config config;
	struct err err = { 0 };
	char buf[4096];
	ssize_t n;

	make_and_start(features);
	assert_int_equal(
		command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, fine, 6), VIRTIO_NET_OK);
	n = r.model->ops->save(r.model, buf, sizeof(buf));
	assert_in_range(n, 1, sizeof(buf));
	assert_int_equal(r.model->ops->save(r.model, buf + n, 10), -ENOSPC);
	r.model->ops->reset(r.model);
	assert_memory_equal(r.model->config, mac, 6);
	assert_int_equal(r.model->ops->load(r.model, buf, (size_t)n, &err), 0);
	memcpy(&config, r.model->config, r.model->config_size);
	assert_memory_equal(config.mac, fine, 6);
	/* At a new place the guest is to make itself known; it says when it has. */
	assert_int_equal(config.status, VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(command(VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, "", 0),
		VIRTIO_NET_OK);
	memcpy(&config, r.model->config, r.model->config_size);
	assert_int_equal(config.status, VIRTIO_NET_S_LINK_UP);
}

static void bad_state_is_refused(void **state)
{
	static const char format[] =
		"{\"model\":\"%s\",\"version\":%d,\"mac\":\"%s\",\"pairs\":%d,"
		"\"modes\":1,\"unicast\":\"%s\",\"multicast\":\"\",\"offloads\":0}";
	static const struct {
		const char *model;
		int version;
		const char *mac;
		int pairs;
		const char *unicast;
	} bad[] = {
		{ "nut", 1, "525400010203", 1, "" },
		{ "net", 2, "525400010203", 1, "" },
		{ "net", 1, "52540001020", 1, "" },
		{ "net", 1, "52540001020g", 1, "" },
		{ "net", 1, "", 1, "" },
		{ "net", 1, "525400010203", 0, "" },
		{ "net", 1, "525400010203", 2, "" },
		{ "net", 1, "525400010203", 1, "5254000102" },
	};
	char text[512];
	struct err err;

	make_and_start(CVQ);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		int n = snprintf(text, sizeof(text), format, bad[i].model, bad[i].version,
			bad[i].mac, bad[i].pairs, bad[i].unicast);

		err.text[0] = '\0';
		assert_int_equal(r.model->ops->load(r.model, text, (size_t)n, &err), -EINVAL);
		assert_true(err.text[0]);
	}
	assert_int_equal(r.model->ops->load(r.model, "{", 1, &err), -EINVAL);
	assert_memory_equal(r.model->config, mac, 6);
}

/* The row */

static void bad_options_are_refused(void **state)
{
	static const char *const bad[][7] = {
		{ NULL },
		{ "tap", "t0", "tap-fd", "5" },
		{ "tap-fd", "1" },
		{ "tap-fd", "777" },
		{ "tap-fd", "" },
		{ "tap-fd", "5,5" },
		{ "tap-fd", "5,6", "queues", "3" },
		{ "tap-fd", "5", "ip", "10.0.0.1" },
		{ "tap", "t0", "mac", "52:54:00:12:34" },
		{ "tap", "t0", "mac", "52:54:00:12:34:5" },
		{ "tap", "t0", "mac", "52:54:00:12:34:567" },
		{ "tap", "t0", "mac", "53:54:00:12:34:56" },
		{ "tap", "t0", "mac", "52-54-00-12-34-56" },
		{ "tap", "t0", "mtu", "67" },
		{ "tap", "t0", "mtu", "65536" },
		{ "tap", "t0", "queues", "0" },
		{ "tap", "t0", "queue-size", "100" },
		{ "tap", "t0", "ip", "10.0.0" },
		{ "tap", "t0", "mask", "24" },
		{ "tap", "t0", "offload-tso", "yes" },
		{ "tap", "t0", "bw-size", "0" },
		{ "tap", "t0", "bw-size", "5" },
		{ "tap", "t0", "ops-refill-time", "5" },
		{ "tap", "t0", "ops-one-time-burst", "5" },
		{ "tap", "a-name-that-is-too-long" },
	};
	struct err err;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *values[DEVICE_MODEL_MAX_OPTIONS] = { 0 };

		for (const char *const *pair = bad[i]; *pair; pair += 2)
			for (size_t o = 0; o < net_model.nr_options; o++)
				if (!strcmp(net_model.options[o].name, pair[0]))
					values[o] = pair[1];
		err.text[0] = '\0';
		assert_true(net_model.new_virtio(values, r.loop, &r.model, &err) < 0);
		assert_true(err.text[0]);
		assert_null(strchr(err.text, '\n'));
	}
	assert_null(r.model);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(the_address_can_be_set),
		TEST(bad_commands_are_refused),
		TEST(a_command_without_an_answer_is_not_run),
		TEST(pairs_are_switched_on_and_off),
		TEST(the_control_queue_is_the_third_without_mq),
		TEST(state_is_saved_and_loaded),
		TEST(bad_state_is_refused),
		TEST(bad_options_are_refused),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("net_control", tests, NULL, NULL);
}
