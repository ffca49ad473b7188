/*
 * plain_server.c - a vfio-user server as plain as can be: poll, recvmsg, handle, sendmsg
 *
 * The peer that the project's own ends are measured against: it sleeps whenever there is nothing to
 * read, and spends no instruction on anything but the answer. It offers the card of card.h on a
 * listening socket that it inherits, serves one client, and when that has left prints how many
 * requests of each kind came:
 *
 *   plain_server --fd=N [--doorbell]
 *   {"bar_read": 20000, "bar_write": 0, "doorbell": 0}
 *
 * With --doorbell a byte of the card's registers can be written through an eventfd, which is what
 * "doorbell" counts; a write of it that comes as a message is counted by "bar_write".
 *
 * Trusts the client: this is a measuring rod, not a server to be used.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"
#include "card.h"
#include "wire/vfio_user.h"

#define CONFIG_SIZE 256
#define MAX_MSG	    65536

struct server {
	int sock;
	int doorbell; /* eventfd; -1: none is offered */
	uint8_t in[MAX_MSG];
	size_t nr_in;
	uint8_t config[CONFIG_SIZE], bar[CARD_BAR_SIZE];
	unsigned long bar_reads, bar_writes;
};

/* A reply under construction. */
struct reply {
	struct vfio_user_header h;
	uint8_t payload[MAX_MSG];
	uint32_t len;
	int fd; /* -1: none */
};

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *fmt, ...)
{
	va_list ap;

	fputs("plain_server: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

/* --- the card --- */

static void fill_config(uint8_t *config)
{
	const uint16_t ids[] = { CARD_VENDOR_ID, CARD_DEVICE_ID };
	const uint32_t class_code = 0x06800000, io_bar = 1;

	memcpy(config, ids, sizeof(ids));
	memcpy(config + 0x08, &class_code, sizeof(class_code));
	memcpy(config + 0x10 + 4 * CARD_BAR, &io_bar, sizeof(io_bar));
	memcpy(config + 0x2c, ids, sizeof(ids));
	config[0x3d] = 1; /* INTA */
}

/* The bytes of a region that an access names; NULL: there are none. */
static uint8_t *region_bytes(struct server *s, const struct vfio_user_region_access *a)
{
	if (a->region == CARD_BAR && range_ok(a->offset, a->count, CARD_BAR_SIZE))
		return s->bar + a->offset;
	if (a->region == VFIO_USER_REGION_CONFIG && range_ok(a->offset, a->count, CONFIG_SIZE))
		return s->config + a->offset;
	return NULL;
}

/* --- commands: 0, or the errno of an error reply --- */

static int put(struct reply *r, const void *bytes, size_t len)
{
	memcpy(r->payload + r->len, bytes, len);
	r->len += (uint32_t)len;
	return 0;
}

static int do_version(const uint8_t *payload, size_t len, struct reply *r)
{
	static const char caps[] =
		"{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576}}";
	struct vfio_user_version v;

	memcpy(&v, payload, sizeof(v));
	v.minor = MIN(v.minor, VFIO_USER_VERSION_MINOR);
	put(r, &v, sizeof(v));
	return len > sizeof(v) ? put(r, caps, sizeof(caps)) : 0;
}

static int do_info(struct reply *r)
{
	const struct vfio_user_device_info info = {
		.argsz = sizeof(info),
		.flags = VFIO_USER_DEVICE_FLAG_PCI | VFIO_USER_DEVICE_FLAG_RESET,
		.num_regions = VFIO_USER_REGION_COUNT,
		.num_irqs = VFIO_USER_IRQ_COUNT,
	};

	return put(r, &info, sizeof(info));
}

static int do_region_info(const uint8_t *payload, struct reply *r)
{
	struct vfio_user_region_info info;

	memcpy(&info, payload, sizeof(info));
	info.argsz = sizeof(info);
	info.flags = info.cap_offset = 0;
	info.size = info.offset = 0;
	if (info.index == CARD_BAR || info.index == VFIO_USER_REGION_CONFIG) {
		info.flags = VFIO_USER_REGION_FLAG_READ | VFIO_USER_REGION_FLAG_WRITE;
		info.size = info.index == CARD_BAR ? CARD_BAR_SIZE : CONFIG_SIZE;
	}
	return put(r, &info, sizeof(info));
}

static int do_io_fds(const struct server *s, const uint8_t *payload, struct reply *r)
{
	struct vfio_user_region_io_fds info;
	const struct vfio_user_sub_region bell = {
		.offset = CARD_DOORBELL,
		.size = 1,
		.type = VFIO_USER_IO_FD_TYPE_IOEVENTFD,
	};
	uint32_t room;

	memcpy(&info, payload, sizeof(info));
	room = info.argsz;
	info.count = info.index == CARD_BAR && s->doorbell >= 0;
	info.argsz = (uint32_t)(sizeof(info) + info.count * sizeof(bell));
	put(r, &info, sizeof(info));
	if (!info.count || room < info.argsz)
		return 0;
	r->fd = s->doorbell;
	return put(r, &bell, sizeof(bell));
}

static int do_irq_info(const uint8_t *payload, struct reply *r)
{
	struct vfio_user_irq_info info;

	memcpy(&info, payload, sizeof(info));
	info.argsz = sizeof(info);
	info.count = info.index == VFIO_USER_IRQ_INTX;
	info.flags = info.count ? VFIO_USER_IRQ_FLAG_EVENTFD | VFIO_USER_IRQ_FLAG_MASKABLE |
					  VFIO_USER_IRQ_FLAG_AUTOMASKED
				: 0;
	return put(r, &info, sizeof(info));
}

static int do_read(struct server *s, const uint8_t *payload, struct reply *r)
{
	struct vfio_user_region_access a;
	const uint8_t *bytes;

	memcpy(&a, payload, sizeof(a));
	bytes = region_bytes(s, &a);
	if (!bytes)
		return EINVAL;
	s->bar_reads += a.region == CARD_BAR;
	put(r, &a, sizeof(a));
	return put(r, bytes, a.count);
}

static int do_write(struct server *s, const uint8_t *payload, struct reply *r)
{
	struct vfio_user_region_access a;
	uint8_t *bytes;

	memcpy(&a, payload, sizeof(a));
	bytes = region_bytes(s, &a);
	if (!bytes)
		return EINVAL;
	s->bar_writes += a.region == CARD_BAR;
	memcpy(bytes, payload + sizeof(a), a.count);
	return put(r, &a, sizeof(a));
}

static int do_command(
	struct server *s, uint16_t command, const uint8_t *payload, size_t len, struct reply *r)
{
	switch (command) {
	case VFIO_USER_REGION_READ:
		return do_read(s, payload, r);
	case VFIO_USER_REGION_WRITE:
		return do_write(s, payload, r);
	case VFIO_USER_VERSION:
		return do_version(payload, len, r);
	case VFIO_USER_DEVICE_GET_INFO:
		return do_info(r);
	case VFIO_USER_DEVICE_GET_REGION_INFO:
		return do_region_info(payload, r);
	case VFIO_USER_DEVICE_GET_REGION_IO_FDS:
		return do_io_fds(s, payload, r);
	case VFIO_USER_DEVICE_GET_IRQ_INFO:
		return do_irq_info(payload, r);
	case VFIO_USER_DMA_UNMAP:
		return put(r, payload, len);
	case VFIO_USER_DMA_MAP:
	case VFIO_USER_DEVICE_SET_IRQS:
	case VFIO_USER_DEVICE_RESET:
		return 0;
	default:
		return EINVAL;
	}
}

/* --- messages --- */

static void send_reply(struct server *s, struct reply *r)
{
	struct iovec iov = { &r->h, sizeof(r->h) + r->len };
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (r->fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
		*CMSG_FIRSTHDR(&m) = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(sizeof(int)) };
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &r->fd, sizeof(int));
	}
	if (sendmsg(s->sock, &m, MSG_NOSIGNAL) != (ssize_t)iov.iov_len)
		die("sendmsg: %s", strerror(errno));
}

static void handle(struct server *s, const uint8_t *message, const struct vfio_user_header *h)
{
	static struct reply r;

	r.h = (struct vfio_user_header){
		.id = h->id, .command = h->command, .flags = VFIO_USER_TYPE_REPLY
	};
	r.len = 0;
	r.fd = -1;
	r.h.error =
		(uint32_t)do_command(s, h->command, message + sizeof(*h), h->size - sizeof(*h), &r);
	if (h->flags & VFIO_USER_FLAG_NO_REPLY)
		return;
	if (r.h.error) {
		r.h.flags |= VFIO_USER_FLAG_ERROR;
		r.len = 0;
	}
	r.h.size = (uint32_t)sizeof(r.h) + r.len;
	send_reply(s, &r);
}

/* One recvmsg; descriptors are of no use here. The bytes, 0 at the end. */
static size_t receive(struct server *s)
{
	struct iovec iov = { s->in + s->nr_in, sizeof(s->in) - s->nr_in };
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(64 * sizeof(int))];
	} control;
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(s->sock, &m, MSG_CMSG_CLOEXEC);

	if (n < 0 && errno == ECONNRESET)
		return 0;
	if (n < 0)
		die("recvmsg: %s", strerror(errno));
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			close(fd);
		}
	return (size_t)n;
}

static void handle_all(struct server *s)
{
	struct vfio_user_header h;
	size_t at = 0;

	while (s->nr_in - at >= sizeof(h)) {
		memcpy(&h, s->in + at, sizeof(h));
		if (h.size < sizeof(h) || h.size > MAX_MSG / 2)
			die("a message of %u bytes", h.size);
		if (s->nr_in - at < h.size)
			break;
		handle(s, s->in + at, &h);
		at += h.size;
	}
	s->nr_in -= at;
	if (s->nr_in && at)
		memmove(s->in, s->in + at, s->nr_in);
}

static void serve(struct server *s)
{
	struct pollfd p = { .fd = s->sock, .events = POLLIN };
	size_t n;

	for (;;) {
		if (poll(&p, 1, -1) < 0)
			die("poll: %s", strerror(errno));
		n = receive(s);
		if (!n)
			return;
		s->nr_in += n;
		handle_all(s);
	}
}

static void print_counts(const struct server *s)
{
	uint64_t rung = 0;

	if (s->doorbell >= 0 && eventfd_read(s->doorbell, &rung))
		rung = 0; /* EAGAIN: never */
	printf("{\"bar_read\": %lu, \"bar_write\": %lu, \"doorbell\": %llu}\n", s->bar_reads,
		s->bar_writes, (unsigned long long)rung);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "doorbell", no_argument, NULL, 'd' },
		{ "fd", required_argument, NULL, 'f' },
		{ 0 },
	};
	static struct server s = { .doorbell = -1 };
	int opt, listener = -1;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'd')
			s.doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		else if (opt == 'f')
			listener = atoi(optarg);
		else
			return 2;
	}
	if (listener < 0 || optind != argc)
		die("usage: plain_server --fd=N [--doorbell]");
	fill_config(s.config);
	s.sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (s.sock < 0)
		die("accept: %s", strerror(errno));
	serve(&s);
	print_counts(&s);
	return 0;
}
