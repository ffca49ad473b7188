/*
 * The network device on real taps, in a network namespace of its own: nothing of the machine's
 * network is touched. Skipped where such a namespace or a tap cannot be had.
 */
#include "device/net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/virtio_net.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"
#include "device/model.h"
#include "virtio_rig.h"
#include "wire/virtio.h"

#define HEADER TAP_HEADER_SIZE
#define BIT(f) VIRTIO_BIT(VIRTIO_NET_F_##f)

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#define GSO_UDP_L4 5 /* VIRTIO_NET_HDR_GSO_UDP_L4 */

enum { RX, TX };

static const char *unavailable; /* why, or NULL */
static struct rig r;
static int fds_at_start;
static const uint8_t guest_mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
static const uint8_t host_mac[6] = { 0x52, 0x54, 0, 9, 9, 9 };

static int set_up(void **state)
{
	fds_at_start = fd_count();
	rig_init(&r);
	return 0;
}

static int tear_down(void **state)
{
	rig_fini(&r);
	assert_int_equal(fd_count(), fds_at_start);
	return 0;
}

static int make_by(const char *const *pairs, struct err *err)
{
	const char *values[DEVICE_MODEL_MAX_OPTIONS] = { 0 };

	for (; *pairs; pairs += 2)
		for (size_t i = 0; i < net_model.nr_options; i++)
			if (!strcmp(net_model.options[i].name, pairs[0]))
				values[i] = pairs[1];
	err->text[0] = '\0';
	return net_model.new_virtio(values, r.loop, &r.model, err);
}

#define OPTIONS(...) ((const char *[]){ __VA_ARGS__, NULL })
#define ORDINARY                                                                                   \
	OPTIONS("tap", "t0", "ip", "10.9.0.1", "mask", "255.255.255.0", "host-mac",                \
		"52:54:00:09:09:09", "mac", "52:54:00:01:02:03")

static void make(const char *const *options, uint64_t features)
{
	struct err err;

	if (unavailable)
		skip();
	assert_int_equal(make_by(options, &err), 0);
	r.model->ops->set_features(r.model, features);
	for (unsigned i = 0; i < r.model->nr_queues; i++) {
		rig_queue(&r, i, &(struct drv_config){ .size = 256 });
		assert_int_equal(rig_start(&r, i), 0);
	}
}

static struct virtio_net_config config(void)
{
	struct virtio_net_config c = { 0 };

	memcpy(&c, r.model->config, r.model->config_size);
	return c;
}

/* The host's side */

static int inet_socket(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	return fd;
}

static void set_up_link(const char *name, bool up)
{
	FD_AUTO sock = inet_socket();
	struct ifreq req = { 0 };

	strcpy(req.ifr_name, name);
	assert_int_equal(ioctl(sock, SIOCGIFFLAGS, &req), 0);
	req.ifr_flags = (short)(up ? req.ifr_flags | IFF_UP : req.ifr_flags & ~IFF_UP);
	assert_int_equal(ioctl(sock, SIOCSIFFLAGS, &req), 0);
}

static int index_of(const char *name)
{
	FD_AUTO sock = inet_socket();
	struct ifreq req = { 0 };

	strcpy(req.ifr_name, name);
	return ioctl(sock, SIOCGIFINDEX, &req) ? 0 : req.ifr_ifindex;
}

static void delete_link(const char *name)
{
	FD_AUTO fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	struct {
		struct nlmsghdr head;
		struct ifinfomsg info;
	} msg = {
		.head = { .nlmsg_len = sizeof(msg),
			.nlmsg_type = RTM_DELLINK,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK },
		.info = { .ifi_index = index_of(name) },
	};
	uint32_t answer[256];

	assert_int_equal(send(fd, &msg, sizeof(msg), 0), sizeof(msg));
	assert_true(recv(fd, answer, sizeof(answer), 0) > 0);
	assert_int_equal(((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)answer))->error, 0);
}

/* The host knows the guest's address without asking. */
static void add_neighbour(void)
{
	FD_AUTO sock = inet_socket();
	struct arpreq req = { .arp_flags = ATF_COM | ATF_PERM };
	struct sockaddr_in in = { .sin_family = AF_INET };

	inet_pton(AF_INET, "10.9.0.2", &in.sin_addr);
	memcpy(&req.arp_pa, &in, sizeof(in));
	req.arp_ha.sa_family = ARPHRD_ETHER;
	memcpy(req.arp_ha.sa_data, guest_mac, 6);
	strcpy(req.arp_dev, "t0");
	assert_int_equal(ioctl(sock, SIOCSARP, &req), 0);
}

static void host_sends(int sock, const void *bytes, size_t len)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(5000) };

	inet_pton(AF_INET, "10.9.0.2", &to.sin_addr);
	assert_int_equal(sendto(sock, bytes, len, 0, (struct sockaddr *)&to, sizeof(to)), len);
}

/* A frame straight onto the tap. */
static void host_sends_frame(const uint8_t *to, uint16_t protocol)
{
	FD_AUTO fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_ifindex = index_of("t0") };
	uint8_t frame[64] = { 0 };

	memcpy(frame, to, 6);
	memcpy(frame + 6, host_mac, 6);
	frame[12] = (uint8_t)(protocol >> 8);
	frame[13] = (uint8_t)protocol;
	assert_int_equal(
		sendto(fd, frame, sizeof(frame), 0, (struct sockaddr *)&addr, sizeof(addr)),
		sizeof(frame));
}

/* The guest's side */

static void give_buffers(unsigned queue, unsigned nr, uint32_t len)
{
	for (unsigned i = 0; i < nr; i++) {
		uint64_t at = drv_alloc(r.mem, len, 8);
		struct drv_buf buf = { at, len };

		assert_int_equal(drv_add(r.q[queue].drv, &buf, 0, 1, drv_at(r.mem, at)), 0);
	}
	rig_kick(&r, queue);
}

static void send_packet(
	unsigned queue, const struct virtio_net_hdr *head, const void *frame, uint32_t len)
{
	uint64_t at = drv_alloc(r.mem, HEADER + len, 8);
	struct drv_buf buf = { at, HEADER + len };
	struct rig_used u;

	memset(drv_at(r.mem, at), 0, HEADER);
	if (head)
		memcpy(drv_at(r.mem, at), head, sizeof(*head));
	memcpy(drv_at(r.mem, at + HEADER), frame, len);
	assert_int_equal(drv_add(r.q[queue].drv, &buf, 1, 0, drv_at(r.mem, at)), 0);
	rig_kick(&r, queue);
	assert_true(rig_take(&r, queue, &u));
}

/*
 * The next frame for the guest of this protocol: the kernel also sends things of its own, such as
 * neighbour discovery. NULL when the rest of a large packet is to be skipped.
 */
static const uint8_t *next_frame(unsigned queue, uint16_t protocol, uint32_t *len)
{
	struct rig_used u;

	for (;;) {
		const uint8_t *bytes;

		assert_true(rig_take(&r, queue, &u));
		bytes = u.cookie;
		assert_int_equal(bytes[10] | bytes[11] << 8, 1);
		if ((bytes[HEADER + 12] << 8 | bytes[HEADER + 13]) == protocol) {
			*len = u.written - HEADER;
			return bytes;
		}
	}
}

static uint16_t sum16(const uint8_t *p, size_t len, uint32_t sum)
{
	for (size_t i = 0; i + 1 < len; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	if (len & 1)
		sum += (uint32_t)p[len - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/*
 * A UDP datagram of the guest whose checksum is left to the device: only the pseudo header's is in
 * it. The length of the frame.
 */
static uint32_t make_udp(uint8_t *frame, const void *payload, uint16_t len)
{
	uint8_t *ip = frame + ETH_HLEN, *udp = ip + 20;

	memset(frame, 0, ETH_HLEN + 28);
	memcpy(frame, host_mac, 6);
	memcpy(frame + 6, guest_mac, 6);
	put16(frame + 12, ETH_P_IP);
	ip[0] = 0x45;
	put16(ip + 2, 28u + len);
	ip[8] = 64;
	ip[9] = IPPROTO_UDP;
	inet_pton(AF_INET, "10.9.0.2", ip + 12);
	inet_pton(AF_INET, "10.9.0.1", ip + 16);
	put16(ip + 10, (uint16_t)~sum16(ip, 20, 0));
	put16(udp, 5000);
	put16(udp + 2, 6000);
	put16(udp + 4, 8u + len);
	put16(udp + 6, sum16(ip + 12, 8, IPPROTO_UDP + 8u + len));
	memcpy(udp + 8, payload, len);
	return ETH_HLEN + 28u + len;
}

static int host_listens(void)
{
	int fd = inet_socket();
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(6000) };

	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

static ssize_t host_reads(int fd, void *buf, size_t size)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, 10000) == 1 ? recv(fd, buf, size, 0) : -1;
}

static uint8_t command(uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
	unsigned queue = r.model->nr_queues - 1u;
	uint64_t at = drv_alloc(r.mem, len + 16, 8);
	uint8_t *place = drv_at(r.mem, at);
	struct drv_buf bufs[] = { { at, 2 }, { at + 8, len }, { at + 2, 1 } };
	struct rig_used u;

	place[0] = class;
	place[1] = cmd;
	memcpy(place + 8, data, len);
	assert_int_equal(drv_add(r.q[queue].drv, bufs, 2, 1, place), 0);
	rig_kick(&r, queue);
	assert_true(rig_take(&r, queue, &u));
	return place[2];
}

/* Tests */

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

/* A namespace of our own, with loopback down and nothing else in it. */
static const char *enter_namespace(void)
{
	FD_AUTO tun = -1;

	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return "no network namespace of its own";
	tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (tun < 0)
		return "no /dev/net/tun";
	if (ioctl(tun, TUNSETIFF,
		    &(struct ifreq){ .ifr_name = "probe", .ifr_flags = IFF_TAP | IFF_NO_PI }))
		return "no tap can be made";
	return NULL;
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
