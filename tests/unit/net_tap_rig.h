/*
 * net_tap_rig.h - a network device on real taps, in a network namespace of its own
 *
 * Nothing of the machine's network is touched. Tests are skipped where such a namespace or a tap
 * cannot be had.
 */
#ifndef TESTS_NET_TAP_RIG_H
#define TESTS_NET_TAP_RIG_H

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
#include "device/net.h"
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

static inline int set_up(void **state)
{
	fds_at_start = fd_count();
	rig_init(&r);
	return 0;
}

static inline int tear_down(void **state)
{
	rig_fini(&r);
	assert_int_equal(fd_count(), fds_at_start);
	return 0;
}

static inline int make_by(const char *const *pairs, struct err *err)
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

static inline void make(const char *const *options, uint64_t features)
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

static inline struct virtio_net_config config(void)
{
	struct virtio_net_config c = { 0 };

	memcpy(&c, r.model->config, r.model->config_size);
	return c;
}

/* The host's side */

static inline int inet_socket(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	return fd;
}

static inline void set_up_link(const char *name, bool up)
{
	FD_AUTO sock = inet_socket();
	struct ifreq req = { 0 };

	strcpy(req.ifr_name, name);
	assert_int_equal(ioctl(sock, SIOCGIFFLAGS, &req), 0);
	req.ifr_flags = (short)(up ? req.ifr_flags | IFF_UP : req.ifr_flags & ~IFF_UP);
	assert_int_equal(ioctl(sock, SIOCSIFFLAGS, &req), 0);
}

static inline int index_of(const char *name)
{
	FD_AUTO sock = inet_socket();
	struct ifreq req = { 0 };

	strcpy(req.ifr_name, name);
	return ioctl(sock, SIOCGIFINDEX, &req) ? 0 : req.ifr_ifindex;
}

static inline void delete_link(const char *name)
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
static inline void add_neighbour(void)
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

static inline void host_sends(int sock, const void *bytes, size_t len)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(5000) };

	inet_pton(AF_INET, "10.9.0.2", &to.sin_addr);
	assert_int_equal(sendto(sock, bytes, len, 0, (struct sockaddr *)&to, sizeof(to)), len);
}

/* A frame straight onto the tap. */
static inline void host_sends_frame(const uint8_t *to, uint16_t protocol)
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

static inline void give_buffers(unsigned queue, unsigned nr, uint32_t len)
{
	for (unsigned i = 0; i < nr; i++) {
		uint64_t at = drv_alloc(r.mem, len, 8);
		struct drv_buf buf = { at, len };

		assert_int_equal(drv_add(r.q[queue].drv, &buf, 0, 1, drv_at(r.mem, at)), 0);
	}
	rig_kick(&r, queue);
}

static inline void send_packet(
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

static inline uint16_t sum16(const uint8_t *p, size_t len, uint32_t sum)
{
	for (size_t i = 0; i + 1 < len; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	if (len & 1)
		sum += (uint32_t)p[len - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static inline void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/*
 * A UDP datagram of the guest whose checksum is left to the device: only the pseudo header's is in
 * it. The length of the frame.
 */
static inline uint32_t make_udp(uint8_t *frame, const void *payload, uint16_t len)
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

static inline int host_listens(void)
{
	int fd = inet_socket();
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(6000) };

	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

static inline ssize_t host_reads(int fd, void *buf, size_t size)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, 10000) == 1 ? recv(fd, buf, size, 0) : -1;
}

static inline uint8_t command(uint8_t class, uint8_t cmd, const void *data, uint32_t len)
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

#endif
