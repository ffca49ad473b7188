/*
 * tap.c - a tap device of the host: made or given, set up, and its link
 *
 * The link is that of the interface: up and with a carrier, as rtnetlink tells it. That needs the
 * namespace that the device is in; a descriptor from another one is used without.
 *
 * Owns: the descriptors. A device that was made here goes with them.
 */
#include "device/tap.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"

/* Younger than the oldest kernel headers we build with */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

/* Opening */

static int open_queue(struct tap *t, short flags, struct err *err)
{
	FD_AUTO fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	struct ifreq req = { .ifr_flags = flags };

	if (fd < 0)
		return err_set(err, -errno, "/dev/net/tun: %s", strerror(errno));
	memcpy(req.ifr_name, t->name, sizeof(t->name));
	if (ioctl(fd, TUNSETIFF, &req))
		return err_set(err, -errno, "tap %s: %s", t->name,
			errno == EPERM	 ? "not permitted: it needs CAP_NET_ADMIN, or to be owned"
			: errno == EBUSY ? "another program uses it"
			: errno == EINVAL
				? "is no tap, or one with another number of queues (multi_queue)"
				: strerror(errno));
	memcpy(t->name, req.ifr_name, sizeof(t->name));
	t->fds[t->nr++] = fd_take(&fd);
	return 0;
}

/* What is asked of each kind of device before it is used. */
static int prepare_tun(struct tap *t, int fd, struct err *err)
{
	int size = TAP_HEADER_SIZE;

	if (ioctl(fd, TUNSETVNETHDRSZ, &size))
		return err_set(err, -errno, "tap %s: header of %d bytes: %s", t->name, size,
			strerror(errno));
	return 0;
}

static void look_at_abilities(struct tap *t)
{
	struct tun_filter none = { 0 };

	t->filters = ioctl(t->fds[0], TUNSETTXFILTER, &none) == 0;
	t->segments_udp =
		ioctl(t->fds[0], TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6) == 0;
	ioctl(t->fds[0], TUNSETOFFLOAD, 0);
}

/* The interface of that name in our namespace. Its index, or 0. */
static int find_interface(struct tap *t, int sock)
{
	struct ifreq req = { 0 };
	int index;

	memcpy(req.ifr_name, t->name, sizeof(t->name));
	if (ioctl(sock, SIOCGIFINDEX, &req))
		return 0;
	index = req.ifr_ifindex;
	if (ioctl(sock, SIOCGIFMTU, &req) == 0 && req.ifr_mtu >= 68 && req.ifr_mtu <= UINT16_MAX)
		t->mtu = (uint16_t)req.ifr_mtu;
	return index;
}

static bool same_file(int fd, const char *path)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

/* A given descriptor may be of another namespace, where the name means another device. */
static bool in_our_namespace(const struct tap *t)
{
	FD_AUTO ns = ioctl(t->fds[0], TUNGETDEVNETNS);

	return ns < 0 || same_file(ns, "/proc/self/ns/net");
}

static void look_at_interface(struct tap *t)
{
	FD_AUTO sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq req = { 0 };

	if (sock >= 0 && in_our_namespace(t))
		t->ifindex = find_interface(t, sock);
	if (ioctl(t->fds[0], SIOCGIFHWADDR, &req) == 0)
		memcpy(t->mac, req.ifr_hwaddr.sa_data, TAP_MAC_SIZE);
}

static int finish_open(struct tap *t, struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < t->nr; i++)
		rc = prepare_tun(t, t->fds[i], err);
	if (rc)
		return rc;
	look_at_abilities(t);
	look_at_interface(t);
	return 0;
}

int tap_open(struct tap *t, const char *name, unsigned nr, struct err *err)
{
	const short flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
	int rc;

	*t = (struct tap){ .netlink_fd = -1, .up = true };
	if (strlen(name) >= sizeof(t->name))
		return err_set(err, -EINVAL, "tap %.32s: a name has at most %zu bytes", name,
			sizeof(t->name) - 1);
	memcpy(t->name, name, strlen(name));
	rc = open_queue(t, nr > 1 ? (short)(flags | IFF_MULTI_QUEUE) : flags, err);
	/* A device that somebody made for several queues may be used with one. */
	if (rc == -EINVAL && nr == 1) {
		if (err)
			err->text[0] = '\0';
		rc = open_queue(t, (short)(flags | IFF_MULTI_QUEUE), err);
	}
	while (!rc && t->nr < nr)
		rc = open_queue(t, (short)(flags | IFF_MULTI_QUEUE), err);
	if (!rc)
		rc = finish_open(t, err);
	if (rc)
		tap_close(t);
	return rc;
}

static bool is_packet_socket(int fd)
{
	int type = 0;
	socklen_t len = sizeof(type);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET;
}

/*
 * Whoever had it before may have switched this queue off: then the kernel says so, or that it
 * belongs to no device for now.
 */
static int ask_device(int fd, struct ifreq *req)
{
	struct ifreq on = { .ifr_flags = IFF_ATTACH_QUEUE };

	if (ioctl(fd, TUNGETIFF, req)) {
		if (errno != EBADFD)
			return -errno;
	} else if (!(req->ifr_flags & IFF_DETACH_QUEUE)) {
		return 0;
	}
	return ioctl(fd, TUNSETQUEUE, &on) || ioctl(fd, TUNGETIFF, req) ? -errno : 0;
}

static int check_given(struct tap *t, int fd, struct err *err)
{
	struct ifreq req = { 0 };
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return err_set(err, -EBADF, "descriptor %d is not open", fd);
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC))
		return err_set(err, -errno, "descriptor %d: %s", fd, strerror(errno));
	if (is_packet_socket(fd)) {
		t->socket = true;
		return 0;
	}
	if (ask_device(fd, &req))
		return err_set(err, -EINVAL, "descriptor %d is no tap", fd);
	if ((req.ifr_flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)) !=
		(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
		return err_set(err, -EINVAL,
			"descriptor %d: expected a tap with IFF_NO_PI and IFF_VNET_HDR", fd);
	if (t->name[0] && memcmp(t->name, req.ifr_name, sizeof(t->name)))
		return err_set(err, -EINVAL, "descriptor %d is of tap %.15s, others are of %s", fd,
			req.ifr_name, t->name);
	memcpy(t->name, req.ifr_name, sizeof(t->name));
	return 0;
}

int tap_adopt(struct tap *t, const int *fds, unsigned nr, struct err *err)
{
	int rc = 0;

	*t = (struct tap){ .netlink_fd = -1, .up = true };
	for (unsigned i = 0; !rc && i < nr; i++) {
		rc = check_given(t, fds[i], err);
		t->fds[i] = fds[i];
	}
	if (!rc && t->socket && t->name[0])
		rc = err_set(err, -EINVAL, "a tap and a socket do not go together");
	if (rc)
		return rc;
	t->nr = nr;
	rc = t->socket ? 0 : finish_open(t, err);
	if (rc)
		t->nr = 0;
	return rc;
}

void tap_close(struct tap *t)
{
	loop_del(&t->netlink);
	fd_close(&t->netlink_fd);
	while (t->nr)
		fd_close(&t->fds[--t->nr]);
}

/* Setting up the host's side */

static int set_address(int sock, const struct tap *t, unsigned long request, const char *what,
	const char *text, struct err *err)
{
	struct ifreq req = { 0 };
	struct sockaddr_in in = { .sin_family = AF_INET };

	memcpy(req.ifr_name, t->name, sizeof(t->name));
	if (inet_pton(AF_INET, text, &in.sin_addr) != 1)
		return err_set(err, -EINVAL, "%s '%.32s': expected an IPv4 address", what, text);
	memcpy(&req.ifr_addr, &in, sizeof(in));
	if (ioctl(sock, request, &req))
		return err_set(
			err, -errno, "tap %s: %s %s: %s", t->name, what, text, strerror(errno));
	return 0;
}

static int set_mac(int sock, struct tap *t, const uint8_t *mac, struct err *err)
{
	struct ifreq req = { .ifr_hwaddr.sa_family = 1 /* ARPHRD_ETHER */ };

	memcpy(req.ifr_name, t->name, sizeof(t->name));
	memcpy(req.ifr_hwaddr.sa_data, mac, TAP_MAC_SIZE);
	if (ioctl(sock, SIOCSIFHWADDR, &req))
		return err_set(
			err, -errno, "tap %s: its MAC address: %s", t->name, strerror(errno));
	memcpy(t->mac, mac, TAP_MAC_SIZE);
	return 0;
}

static int set_mtu(int sock, struct tap *t, uint16_t mtu, struct err *err)
{
	struct ifreq req = { .ifr_mtu = mtu };

	memcpy(req.ifr_name, t->name, sizeof(t->name));
	if (ioctl(sock, SIOCSIFMTU, &req))
		return err_set(err, -errno, "tap %s: MTU %u: %s", t->name, mtu, strerror(errno));
	t->mtu = mtu;
	return 0;
}

/* Somebody else may be in charge of it: then the guest's link is down until he brings it up. */
static void bring_up(int sock, const struct tap *t)
{
	struct ifreq req = { 0 };

	memcpy(req.ifr_name, t->name, sizeof(t->name));
	if (ioctl(sock, SIOCGIFFLAGS, &req) == 0 && !(req.ifr_flags & IFF_UP)) {
		req.ifr_flags |= IFF_UP;
		if (ioctl(sock, SIOCSIFFLAGS, &req))
			log_warn("tap %s: is down and cannot be brought up: %s", t->name,
				strerror(errno));
	}
}

int tap_set_up(struct tap *t, const struct tap_host *host, struct err *err)
{
	FD_AUTO sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int rc = 0;

	if (sock < 0)
		return err_set(err, -errno, "socket: %s", strerror(errno));
	if (host->mac)
		rc = set_mac(sock, t, host->mac, err);
	if (!rc && host->mtu && host->mtu != t->mtu)
		rc = set_mtu(sock, t, host->mtu, err);
	if (!rc && host->ip)
		rc = set_address(sock, t, SIOCSIFADDR, "address", host->ip, err);
	if (!rc && host->mask)
		rc = set_address(sock, t, SIOCSIFNETMASK, "mask", host->mask, err);
	if (!rc)
		bring_up(sock, t);
	return rc;
}

/* The link */

static void set_link(struct tap *t, bool up)
{
	if (t->up == up)
		return;
	t->up = up;
	if (t->link_changed)
		t->link_changed(t->arg);
}

void tap_gone(struct tap *t)
{
	set_link(t, false);
}

static int ask_link(const struct tap *t)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg info;
	} ask = {
		.head = { .nlmsg_len = sizeof(ask),
			.nlmsg_type = RTM_GETLINK,
			.nlmsg_flags = NLM_F_REQUEST },
		.info = { .ifi_index = t->ifindex },
	};
	struct iovec iov = { &ask, sizeof(ask) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	return sendmsg(t->netlink_fd, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void on_message(struct tap *t, const struct nlmsghdr *head)
{
	const struct nlmsgerr *error = NLMSG_DATA(head);
	const struct ifinfomsg *info = NLMSG_DATA(head);

	if (head->nlmsg_type == NLMSG_ERROR && head->nlmsg_len >= NLMSG_LENGTH(sizeof(*error)) &&
		error->error == -ENODEV) {
		set_link(t, false);
		return;
	}
	if ((head->nlmsg_type != RTM_NEWLINK && head->nlmsg_type != RTM_DELLINK) ||
		head->nlmsg_len < NLMSG_LENGTH(sizeof(*info)) || info->ifi_index != t->ifindex)
		return;
	/* A bridge tells of its ports in the same words: those are not about the device itself. */
	if (info->ifi_family != AF_UNSPEC)
		return;
	set_link(t, head->nlmsg_type == RTM_NEWLINK && info->ifi_flags & IFF_UP &&
			    info->ifi_flags & IFF_LOWER_UP);
}

/* One datagram of messages. False: there is none. */
static bool receive_link(struct tap *t)
{
	uint32_t buf[4096];
	struct iovec iov = { buf, sizeof(buf) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n = recvmsg(t->netlink_fd, &msg, MSG_DONTWAIT);
	size_t left = n > 0 ? (size_t)n : 0;

	if (n < 0 && errno == ENOBUFS) {
		t->missed = true;
		return true;
	}
	/* Some were lost: what counts is how it is now. There is room for the answer again. */
	if (n < 0 && t->missed)
		t->missed = ask_link(t) != 0;
	for (const struct nlmsghdr *head = (struct nlmsghdr *)buf;
		left >= sizeof(*head) && head->nlmsg_len >= sizeof(*head) &&
		head->nlmsg_len <= left;) {
		size_t step = NLMSG_ALIGN((size_t)head->nlmsg_len);

		on_message(t, head);
		if (step >= left)
			break;
		left -= step;
		head = (const struct nlmsghdr *)((const char *)head + step);
	}
	return n > 0;
}

static void link_ready(struct loop_source *src, uint32_t events)
{
	struct tap *t = container_of(src, struct tap, netlink);

	for (unsigned i = 0; i < 16 && receive_link(t); i++)
		;
}

int tap_watch(
	struct tap *t, struct loop *loop, void (*changed)(void *arg), void *arg, struct err *err)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };
	int rc;

	if (!t->ifindex) {
		t->link_changed = changed;
		t->arg = arg;
		return 0;
	}
	t->netlink_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (t->netlink_fd < 0 || bind(t->netlink_fd, (struct sockaddr *)&addr, sizeof(addr)))
		return err_set(
			err, -errno, "tap %s: watching its link: %s", t->name, strerror(errno));
	rc = ask_link(t);
	if (!rc)
		rc = loop_add(loop, &t->netlink, t->netlink_fd, EPOLLIN, link_ready);
	if (rc)
		return err_set(err, rc, "tap %s: watching its link: %s", t->name, strerror(-rc));
	/* The answer is there already: rtnetlink answers within the request. */
	link_ready(&t->netlink, EPOLLIN);
	t->link_changed = changed;
	t->arg = arg;
	return 0;
}

/* While it runs */

int tap_set_offload(struct tap *t, unsigned offload)
{
	if (t->socket)
		return 0;
	return ioctl(t->fds[0], TUNSETOFFLOAD, offload) ? -errno : 0;
}

int tap_set_filter(struct tap *t, const uint8_t *addresses, unsigned nr, bool all_multicast)
{
	FREE_AUTO struct tun_filter *filter = NULL;

	if (!t->filters)
		return 0;
	filter = calloc(1, sizeof(*filter) + (size_t)nr * TAP_MAC_SIZE);
	if (!filter)
		return -ENOMEM;
	filter->count = (uint16_t)nr;
	filter->flags = all_multicast ? TUN_FLT_ALLMULTI : 0;
	memcpy(filter->addr, addresses, (size_t)nr * TAP_MAC_SIZE);
	/* It returns how many of them are matched exactly rather than by a hash. */
	return ioctl(t->fds[0], TUNSETTXFILTER, filter) < 0 ? -errno : 0;
}

int tap_attach(struct tap *t, unsigned queue, bool attach)
{
	struct ifreq req = { .ifr_flags = attach ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

	if (t->socket || t->nr == 1)
		return 0;
	return ioctl(t->fds[queue], TUNSETQUEUE, &req) ? -errno : 0;
}
