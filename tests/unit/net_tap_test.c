/* The tap: its link, its filter, its queues, and which ones are taken */
#include "net_tap_rig.h"

/* The link */

static bool link_is(struct rig *rig, void *arg)
{
	return config().status == *(uint16_t *)arg;
}

static void the_link_follows_the_tap(void **state)
{
	uint16_t up = VIRTIO_NET_S_LINK_UP, down = 0;

	make(ORDINARY, BIT(STATUS));
	for (unsigned i = 0; i < 100; i++) {
		set_up_link("t0", false);
		assert_true(rig_until(&r, link_is, &down));
		/* Frames are lost meanwhile; the guest does not wait. */
		send_packet(TX, NULL, "123456abcdef88", 14);
		set_up_link("t0", true);
		assert_true(rig_until(&r, link_is, &up));
	}
	assert_int_equal(r.config_changes, 200);
	/* Faster than anybody looks, and more messages than the socket holds. */
	for (unsigned i = 0; i < 3000; i++) {
		set_up_link("t0", false);
		set_up_link("t0", true);
	}
	set_up_link("t0", false);
	assert_true(rig_until(&r, link_is, &down));
	rig_settle(&r);
	assert_int_equal(config().status, 0);
}

static void a_tap_that_is_removed_takes_the_link_down(void **state)
{
	uint16_t down = 0;

	make(ORDINARY, BIT(STATUS) | BIT(MRG_RXBUF));
	give_buffers(RX, 8, 1526);
	delete_link("t0");
	assert_true(rig_until(&r, link_is, &down));
	send_packet(TX, NULL, "123456abcdef88", 14);
	send_packet(TX, NULL, "123456abcdef88", 14);
	rig_settle(&r);
}

/* Filters */

static bool passes(const uint8_t *mac, uint16_t protocol)
{
	const uint8_t *frame;
	uint32_t len;

	/* A frame that always passes comes after it. */
	host_sends_frame(mac, protocol);
	host_sends_frame(guest_mac, 0x88b6);
	for (;;) {
		struct rig_used u;

		assert_true(rig_take(&r, RX, &u));
		frame = (const uint8_t *)u.cookie + HEADER;
		len = (uint32_t)(frame[12] << 8 | frame[13]);
		if (len == protocol) {
			next_frame(RX, 0x88b6, &len);
			return true;
		}
		if (len == 0x88b6)
			return false;
	}
}

static void the_guest_gets_what_it_asks_for(void **state)
{
	static const uint8_t other[6] = { 0x52, 0x54, 0, 7, 7, 7 };
	static const uint8_t multicast[6] = { 1, 0, 0x5e, 1, 2, 3 };
	static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	struct {
		uint32_t nr_uni;
		uint8_t uni[6];
		uint32_t nr_multi;
		uint8_t multi[6];
	} __attribute__((packed)) table = { .nr_uni = 1, .nr_multi = 1 };
	uint8_t off = 0, on = 1;
	uint32_t too_many[2] = { UINT32_MAX, 0 };

	make(ORDINARY, BIT(MRG_RXBUF) | BIT(CTRL_VQ) | BIT(CTRL_RX) | BIT(CTRL_RX_EXTRA));
	assert_true(r.model->features & BIT(CTRL_RX));
	give_buffers(RX, 250, 200);
	assert_true(passes(other, 0x88b5));
	assert_int_equal(command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &off, 1), 0);
	assert_false(passes(other, 0x88b5));
	assert_false(passes(multicast, 0x88b5));
	assert_true(passes(all, 0x88b5));
	memcpy(table.uni, other, 6);
	memcpy(table.multi, multicast, 6);
	assert_int_equal(
		command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, &table, sizeof(table)),
		0);
	assert_true(passes(other, 0x88b5));
	assert_true(passes(multicast, 0x88b5));
	assert_int_equal(command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOBCAST, &on, 1), 0);
	assert_false(passes(all, 0x88b5));
	/* Tables that are longer than the command, or shorter. */
	assert_int_equal(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, too_many, 8),
		VIRTIO_NET_ERR);
	assert_int_equal(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, &table,
				 sizeof(table) - 1),
		VIRTIO_NET_ERR);
	assert_int_equal(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, too_many, 3),
		VIRTIO_NET_ERR);
	assert_true(passes(multicast, 0x88b5));
}

/* Several queues */

static unsigned frames_in(unsigned queue)
{
	struct drv *d = r.q[queue].drv;
	unsigned nr = 0;
	uint32_t written;
	void *cookie;

	while (drv_get(d, &cookie, &written))
		if (((uint8_t *)cookie)[HEADER + 12] == 8 && ((uint8_t *)cookie)[HEADER + 13] == 0)
			nr++;
	return nr;
}

struct count {
	unsigned first, second;
};

static bool all_flows_came(struct rig *rig, void *arg)
{
	struct count *c = arg;

	c->first += frames_in(0);
	c->second += frames_in(2);
	return c->first + c->second >= 64;
}

/* One datagram each from 64 sockets: which pairs they come by. */
static struct count send_flows(void)
{
	struct count c = { 0 };

	for (unsigned i = 0; i < 64; i++) {
		FD_AUTO sock = inet_socket();

		host_sends(sock, "flow", 4);
	}
	assert_true(rig_until(&r, all_flows_came, &c));
	return c;
}

static void flows_are_spread_over_the_pairs_in_use(void **state)
{
	const char *const options[] = { "tap", "t0", "ip", "10.9.0.1", "mask", "255.255.255.0",
		"mac", "52:54:00:01:02:03", "queues", "2", NULL };
	uint16_t one = 1, two = 2;
	struct count c;

	make(options, BIT(MRG_RXBUF) | BIT(CTRL_VQ) | BIT(MQ));
	assert_int_equal(config().max_virtqueue_pairs, 2);
	add_neighbour();
	give_buffers(0, 250, 200);
	give_buffers(2, 250, 200);
	c = send_flows();
	assert_int_equal(c.second, 0);
	assert_int_equal(command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &two, 2), 0);
	c = send_flows();
	assert_true(c.first && c.second); /* once in 2^63 runs it is not */
	assert_int_equal(command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &one, 2), 0);
	c = send_flows();
	assert_int_equal(c.second, 0);
}

static void a_process_that_was_restarted_uses_the_same_pairs(void **state)
{
	const char *const options[] = { "tap", "t0", "ip", "10.9.0.1", "mask", "255.255.255.0",
		"mac", "52:54:00:01:02:03", "queues", "2", NULL };
	struct err err;
	struct count c;

	if (unavailable)
		skip();
	assert_int_equal(make_by(options, &err), 0);
	r.model->ops->set_features(r.model, BIT(MRG_RXBUF) | BIT(CTRL_VQ) | BIT(MQ));
	for (unsigned i = 0; i < 5; i++) {
		struct drv *d;

		rig_queue(&r, i, &(struct drv_config){ .size = 256 });
		d = r.q[i].drv;
		d->used->idx = d->avail->idx = d->avail_idx = d->used_idx = 3;
		assert_int_equal(rig_start(&r, i), 0);
	}
	add_neighbour();
	give_buffers(0, 200, 200);
	give_buffers(2, 200, 200);
	c = send_flows();
	assert_true(c.first && c.second);
}

/* Opening */

static void what_is_no_usable_tap_is_refused(void **state)
{
	struct ifreq req = { .ifr_name = "t1", .ifr_flags = IFF_TAP | IFF_NO_PI };
	struct err err;
	char number[16];
	int tun;

	make(ORDINARY, 0);
	assert_int_equal(make_by(OPTIONS("tap", "t0"), &err), -EBUSY);
	assert_non_null(strstr(err.text, "another program uses it"));
	assert_int_equal(make_by(OPTIONS("tap", "lo"), &err), -EINVAL);
	assert_non_null(strstr(err.text, "is no tap"));
	assert_int_equal(make_by(OPTIONS("tap", "t0", "ip", "10.9.0.300"), &err), -EINVAL);
	tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	assert_true(tun >= 0);
	snprintf(number, sizeof(number), "%d", tun);
	assert_int_equal(make_by(OPTIONS("tap-fd", number), &err), -EINVAL);
	assert_non_null(strstr(err.text, "is no tap"));
	assert_int_equal(ioctl(tun, TUNSETIFF, &req), 0);
	assert_int_equal(make_by(OPTIONS("tap-fd", number), &err), -EINVAL);
	assert_non_null(strstr(err.text, "IFF_VNET_HDR"));
	close(tun);
}

static void a_given_tap_works(void **state)
{
	struct ifreq req = { .ifr_name = "t0", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	char number[16];
	int tun;

	if (unavailable)
		skip();
	tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	assert_int_equal(ioctl(tun, TUNSETIFF, &req), 0);
	snprintf(number, sizeof(number), "%d", tun);
	make(OPTIONS("tap-fd", number), BIT(MRG_RXBUF) | BIT(STATUS));
	assert_int_equal(config().status, 0); /* its owner brings it up */
	set_up_link("t0", true);
	assert_true(rig_until(&r, link_is, &(uint16_t){ VIRTIO_NET_S_LINK_UP }));
	give_buffers(RX, 32, 1526);
	host_sends_frame(guest_mac, 0x88b5);
	assert_non_null(next_frame(RX, 0x88b5, &(uint32_t){ 0 }));
}

/* The tap outlives the process that switched its second queue off. */
static void a_given_tap_is_as_new_after_a_restart(void **state)
{
	struct ifreq req = { .ifr_name = "t0",
		.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE };
	uint8_t off = 0;
	static const uint8_t other[6] = { 0x52, 0x54, 0, 7, 7, 7 };
	char numbers[32];
	int keep[2];

	if (unavailable)
		skip();
	for (int i = 0; i < 2; i++) {
		keep[i] = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
		assert_int_equal(ioctl(keep[i], TUNSETIFF, &req), 0);
	}
	for (int life = 0; life < 3; life++) {
		snprintf(numbers, sizeof(numbers), "%d,%d", dup(keep[0]), dup(keep[1]));
		make(OPTIONS("tap-fd", numbers, "mac", "52:54:00:01:02:03"),
			BIT(MRG_RXBUF) | BIT(CTRL_VQ) | BIT(CTRL_RX) | BIT(MQ));
		set_up_link("t0", true);
		give_buffers(0, 100, 200);
		give_buffers(2, 100, 200);
		/* The filter of the life before does not count. */
		assert_true(passes(other, 0x88b5));
		assert_int_equal(
			command(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &off, 1), 0);
		assert_false(passes(other, 0x88b5));
		rig_fini(&r);
		rig_init(&r);
	}
	close(keep[0]);
	close(keep[1]);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(the_link_follows_the_tap),
		TEST(a_tap_that_is_removed_takes_the_link_down),
		TEST(the_guest_gets_what_it_asks_for),
		TEST(flows_are_spread_over_the_pairs_in_use),
		TEST(a_process_that_was_restarted_uses_the_same_pairs),
		TEST(what_is_no_usable_tap_is_refused),
		TEST(a_given_tap_works),
		TEST(a_given_tap_is_as_new_after_a_restart),
	};

	signal(SIGPIPE, SIG_IGN);
	unavailable = enter_namespace();
	if (unavailable)
		fprintf(stderr, "skipped: %s\n", unavailable);
	return cmocka_run_group_tests_name("net_tap", tests, NULL, NULL);
}
