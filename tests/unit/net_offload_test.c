/* Frames to and from the kernel, and the work that is left to it or to the guest */
#include "net_tap_rig.h"

static void a_tap_is_made_and_set_up(void **state)
{
	static const uint8_t derived[6] = { 0x52, 0x54, 0, 9, 9, 8 };
	FD_AUTO sock = -1;
	struct ifreq req = { .ifr_name = "t0" };
	char text[32] = "";

	make(OPTIONS("tap", "t0", "ip", "10.9.0.1", "mask", "255.255.255.0", "host-mac",
		     "52:54:00:09:09:09", "mtu", "1400"),
		BIT(STATUS));
	sock = inet_socket();
	assert_int_equal(ioctl(sock, SIOCGIFADDR, &req), 0);
	inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)&req.ifr_addr)->sin_addr, text,
		sizeof(text));
	assert_string_equal(text, "10.9.0.1");
	assert_int_equal(ioctl(sock, SIOCGIFNETMASK, &req), 0);
	inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)&req.ifr_addr)->sin_addr, text,
		sizeof(text));
	assert_string_equal(text, "255.255.255.0");
	assert_int_equal(ioctl(sock, SIOCGIFMTU, &req), 0);
	assert_int_equal(req.ifr_mtu, 1400);
	assert_int_equal(config().mtu, 1400);
	assert_true(r.model->features & BIT(MTU));
	assert_memory_equal(config().mac, derived, 6);
	assert_int_equal(config().status, VIRTIO_NET_S_LINK_UP);
}

static void the_kernel_makes_up_a_name(void **state)
{
	make(OPTIONS("tap", ""), 0);
	assert_int_not_equal(index_of("tap0"), 0);
}

static void frames_go_both_ways(void **state)
{
	uint8_t arp[42] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	const uint8_t *frame;
	uint32_t len;

	make(ORDINARY, BIT(MRG_RXBUF));
	give_buffers(RX, 32, 1526);
	memcpy(arp + 6, guest_mac, 6);
	memcpy(arp + 12, (uint8_t[]){ 8, 6, 0, 1, 8, 0, 6, 4, 0, 1 }, 10);
	memcpy(arp + 22, guest_mac, 6);
	memcpy(arp + 28, (uint8_t[]){ 10, 9, 0, 2 }, 4);
	memcpy(arp + 38, (uint8_t[]){ 10, 9, 0, 1 }, 4);
	send_packet(TX, NULL, arp, sizeof(arp));
	frame = next_frame(RX, ETH_P_ARP, &len) + HEADER;
	assert_memory_equal(frame, guest_mac, 6);
	assert_int_equal(frame[21], 2); /* a reply */
	assert_memory_equal(frame + 22, host_mac, 6);
}

static void the_device_completes_checksums(void **state)
{
	const struct virtio_net_hdr head = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.csum_start = ETH_HLEN + 20,
		.csum_offset = 6,
	};
	uint8_t frame[256];
	char got[64];
	FD_AUTO sock = -1;

	make(ORDINARY, BIT(CSUM));
	sock = host_listens();
	send_packet(TX, &head, frame, make_udp(frame, "Hello, host", 11));
	assert_int_equal(host_reads(sock, got, sizeof(got)), 11);
	assert_memory_equal(got, "Hello, host", 11);
}

static void checksums_are_left_to_a_guest_that_takes_them(void **state)
{
	for (int takes = 0; takes < 2; takes++) {
		FD_AUTO sock = -1;
		const uint8_t *packet, *ip;
		uint32_t len;

		make(ORDINARY, BIT(MRG_RXBUF) | (takes ? BIT(GUEST_CSUM) : 0));
		add_neighbour();
		give_buffers(RX, 32, 1526);
		sock = inet_socket();
		host_sends(sock, "Hello, guest", 12);
		packet = next_frame(RX, ETH_P_IP, &len);
		ip = packet + HEADER + ETH_HLEN;
		assert_int_equal(len, ETH_HLEN + 28 + 12);
		assert_memory_equal(ip + 28, "Hello, guest", 12);
		if (takes)
			assert_int_equal(packet[0], VIRTIO_NET_HDR_F_NEEDS_CSUM);
		else
			assert_int_equal(packet[0], 0);
		/* Complete: the sum over all of it and the pseudo header is all ones. */
		assert_int_equal(sum16(ip + 12, 16 + 12, IPPROTO_UDP + 20) == 0xffff, !takes);
		rig_fini(&r);
		rig_init(&r);
	}
}

static void large_datagrams_are_cut_by_the_host(void **state)
{
	struct virtio_net_hdr head = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = GSO_UDP_L4,
		.hdr_len = ETH_HLEN + 28,
		.gso_size = 1000,
		.csum_start = ETH_HLEN + 20,
		.csum_offset = 6,
	};
	static uint8_t frame[4096], payload[2500];
	char got[2000];
	FD_AUTO sock = -1;

	make(ORDINARY, BIT(CSUM) | VIRTIO_BIT(56));
	if (!(r.model->features & VIRTIO_BIT(56)))
		skip(); /* a kernel without USO */
	sock = host_listens();
	send_packet(TX, &head, frame, make_udp(frame, payload, sizeof(payload)));
	assert_int_equal(host_reads(sock, got, sizeof(got)), 1000);
	assert_int_equal(host_reads(sock, got, sizeof(got)), 1000);
	assert_int_equal(host_reads(sock, got, sizeof(got)), 500);
}

static void large_datagrams_are_cut_unless_the_guest_takes_them(void **state)
{
	static const uint8_t payload[3000];
	uint64_t uso = BIT(GUEST_CSUM) | VIRTIO_BIT(54) | VIRTIO_BIT(55);

	for (int takes = 0; takes < 2; takes++) {
		FD_AUTO sock = -1;
		int segment = 1000;
		const uint8_t *packet;
		uint32_t len;

		make(ORDINARY, BIT(MRG_RXBUF) | (takes ? uso : 0));
		if (!(r.model->features & VIRTIO_BIT(54)))
			skip();
		add_neighbour();
		give_buffers(RX, 64, 4096);
		sock = inet_socket();
		assert_int_equal(
			setsockopt(sock, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment)), 0);
		host_sends(sock, payload, sizeof(payload));
		packet = next_frame(RX, ETH_P_IP, &len);
		if (takes) {
			assert_int_equal(packet[1], GSO_UDP_L4);
			assert_int_equal(len, ETH_HLEN + 28 + 3000);
		} else {
			assert_int_equal(packet[1], VIRTIO_NET_HDR_GSO_NONE);
			assert_int_equal(len, ETH_HLEN + 28 + 1000);
			next_frame(RX, ETH_P_IP, &len);
			next_frame(RX, ETH_P_IP, &len);
			assert_int_equal(len, ETH_HLEN + 28 + 1000);
		}
		rig_fini(&r);
		rig_init(&r);
	}
}

static void the_guest_can_switch_offloads_off(void **state)
{
	uint64_t none = 0, too_much = BIT(GUEST_CSUM) | BIT(GUEST_TSO4);
	const uint8_t *packet;
	FD_AUTO sock = -1;
	uint32_t len;

	make(ORDINARY, BIT(MRG_RXBUF) | BIT(GUEST_CSUM) | BIT(CTRL_VQ) | BIT(CTRL_GUEST_OFFLOADS));
	add_neighbour();
	give_buffers(RX, 32, 1526);
	assert_int_equal(command(VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET,
				 &too_much, 8),
		VIRTIO_NET_ERR);
	assert_int_equal(command(VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET,
				 &none, 8),
		VIRTIO_NET_OK);
	sock = inet_socket();
	host_sends(sock, "x", 1);
	packet = next_frame(RX, ETH_P_IP, &len);
	assert_int_equal(packet[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM, 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(a_tap_is_made_and_set_up),
		TEST(the_kernel_makes_up_a_name),
		TEST(frames_go_both_ways),
		TEST(the_device_completes_checksums),
		TEST(checksums_are_left_to_a_guest_that_takes_them),
		TEST(large_datagrams_are_cut_by_the_host),
		TEST(large_datagrams_are_cut_unless_the_guest_takes_them),
		TEST(the_guest_can_switch_offloads_off),
	};

	signal(SIGPIPE, SIG_IGN);
	unavailable = enter_namespace();
	if (unavailable)
		fprintf(stderr, "skipped: %s\n", unavailable);
	return cmocka_run_group_tests_name("net_offload", tests, NULL, NULL);
}
