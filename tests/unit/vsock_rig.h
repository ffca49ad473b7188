/*
 * vsock_rig.h - the socket device on the test bench: its driver, and sockets of the host
 *
 * The connector is the real process in most tests; where what it says matters, the test plays it.
 */
#ifndef TESTS_VSOCK_RIG_H
#define TESTS_VSOCK_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_vsock.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sock.h"
#include "base/util.h"
#include "device/vsock.h"
#include "device/vsock_priv.h"
#include "virtio_rig.h"

#define MAYBE_UNUSED __attribute__((unused))

#define RX     0
#define TX     1
#define EVENT  2
#define CID    42
#define HDR    sizeof(struct virtio_vsock_hdr)
#define RING   64
#define BUFFER 4096u
#define WINDOW 100000u /* what the driver says it has room for */

static struct rig r;
static char dir[64], path[96];
static int fds_at_start, played; /* the connector's end, where the test plays it */
static uint64_t tx_area;	 /* for packets: each is done with when it comes back */

/* --- the driver --- */

static int set_up(void **state)
{
	fds_at_start = fd_count();
	played = -1;
	tx_area = 0;
	snprintf(dir, sizeof(dir), "/tmp/vsock-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/v", dir);
	rig_init(&r);
	return 0;
}

static void remove_port(unsigned port)
{
	char name[128];

	snprintf(name, sizeof(name), "%s_%u", path, port);
	unlink(name);
}

static int tear_down(void **state)
{
	rig_fini(&r);
	fd_close(&played);
	assert_int_equal(
		access(path, F_OK), -1); /* the model removes what it was told is its own */
	remove_port(52);
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(fd_count(), fds_at_start);
	return 0;
}

static MAYBE_UNUSED struct vsock *inner(void)
{
	return container_of(r.model, struct vsock, model);
}

static void start_queues(const struct drv_config *ring)
{
	for (unsigned i = 0; i < 3; i++) {
		rig_queue(&r, i, ring);
		assert_int_equal(rig_start(&r, i), 0);
	}
}

static void make_with(unsigned max_conns, bool play, const struct drv_config *ring)
{
	struct vsock_config config = {
		.name = "vsock",
		.guest_cid = CID,
		.connector.fd = -1,
		.max_conns = max_conns,
		.made_path = path,
	};
	struct err err = { 0 };

	config.listen_fd = sock_listen(path, 64, &err);
	assert_true(config.listen_fd >= 0);
	if (play) {
		int pair[2];

		assert_int_equal(
			socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			0);
		config.connector.fd = pair[0];
		played = pair[1];
	} else {
		FD_AUTO at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

		assert_int_equal(vsock_connector_start(&config.connector, at, "v", &err), 0);
	}
	assert_int_equal(vsock_new(&r.model, r.loop, &config, &err), 0);
	if (ring)
		start_queues(ring);
}

/* A receive buffer of the driver's, its header in a piece of its own if it is split. */
static void post(unsigned queue, uint32_t len, bool split)
{
	uint64_t at = drv_alloc(r.mem, len, 64);
	struct drv_buf bufs[] = { { at, split ? 30 : len }, { at + 30, len - 30 } };

	assert_int_equal(drv_add(r.q[queue].drv, bufs, 0, split ? 2 : 1, (void *)(uintptr_t)at), 0);
	rig_kick(&r, queue);
}

static void post_many(unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		post(RX, BUFFER, i & 1);
}

static void make(void)
{
	make_with(64, false, &(struct drv_config){ .size = RING, .indirect = true });
	post_many(16);
}

struct got {
	struct virtio_vsock_hdr h;
	uint8_t *data;
	uint32_t written;
};

/* The next packet for the guest; its buffer is posted anew later, by again(). */
static struct got next_packet(void)
{
	struct rig_used u;
	struct got g = { 0 };

	assert_true(rig_take(&r, RX, &u));
	g.written = u.written;
	assert_true(g.written >= HDR);
	memcpy(&g.h, drv_at(r.mem, (uintptr_t)u.cookie), HDR);
	g.data = (uint8_t *)drv_at(r.mem, (uintptr_t)u.cookie) + HDR;
	assert_int_equal(g.h.dst_cid, CID);
	assert_int_equal(g.written, HDR + (g.h.op == VIRTIO_VSOCK_OP_RW ? g.h.len : 0));
	return g;
}

/* News of credit may come at any time. */
static struct got expect(uint16_t op)
{
	struct got g;

	do
		g = next_packet();
	while (g.h.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE && op != VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	assert_int_equal(g.h.op, op);
	assert_int_equal(g.h.src_cid, 2);
	assert_int_equal(g.h.type, VIRTIO_VSOCK_TYPE_STREAM);
	return g;
}

static void nothing_for_the_guest(void)
{
	const struct virtio_vsock_hdr *h;
	void *cookie;
	uint32_t written;

	rig_settle(&r);
	while (drv_get(r.q[RX].drv, &cookie, &written)) {
		h = drv_at(r.mem, (uintptr_t)cookie);
		assert_int_equal(h->op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	}
	assert_null(r.q[RX].drv->error);
}

static void send_raw(const void *bytes, uint32_t len, unsigned nr_pieces)
{
	struct drv_buf bufs[4];
	struct rig_used u;
	uint32_t each = len / nr_pieces;

	if (!tx_area)
		tx_area = drv_alloc(r.mem, 300000, 64);
	memcpy(drv_at(r.mem, tx_area), bytes, len);
	for (unsigned i = 0; i < nr_pieces; i++)
		bufs[i] = (struct drv_buf){ tx_area + i * each,
			i + 1 < nr_pieces ? each : len - i * each };
	assert_int_equal(drv_add(r.q[TX].drv, bufs, nr_pieces, 0, (void *)1), 0);
	rig_kick(&r, TX);
	assert_true(rig_take(&r, TX, &u));
	assert_int_equal(u.written, 0);
}

static struct virtio_vsock_hdr header(uint16_t op, uint32_t guest_port, uint32_t host_port)
{
	return (struct virtio_vsock_hdr){
		.src_cid = CID,
		.dst_cid = 2,
		.src_port = guest_port,
		.dst_port = host_port,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.buf_alloc = WINDOW,
	};
}

static void send_header(struct virtio_vsock_hdr h)
{
	send_raw(&h, sizeof(h), 1);
}

static void say(uint16_t op, uint32_t guest_port, uint32_t host_port)
{
	send_header(header(op, guest_port, host_port));
}

static void send_data(uint32_t guest_port, uint32_t host_port, const void *data, uint32_t len)
{
	static uint8_t bytes[300000];
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_RW, guest_port, host_port);

	h.len = len;
	memcpy(bytes, &h, HDR);
	memcpy(bytes + HDR, data, len);
	send_raw(bytes, (uint32_t)HDR + len, 3);
}

/* --- the host --- */

static int dial(void)
{
	struct err err = { 0 };
	int fd = sock_connect(path, &err);

	assert_true(fd >= 0);
	return fd;
}

static void put(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

struct reading {
	int fd;
	uint8_t *to;
	size_t len, got;
	bool ended;
};

static bool read_some(struct rig *rig, void *arg)
{
	struct reading *w = arg;
	ssize_t n;

	while (w->got < w->len && !w->ended) {
		n = recv(w->fd, w->to + w->got, w->len - w->got, MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			return false;
		w->ended = n <= 0;
		w->got += (size_t)MAX(n, 0);
	}
	return true;
}

static void host_reads(int fd, const char *text)
{
	uint8_t buf[200] = "";
	struct reading w = { fd, buf, strlen(text), 0, false };

	assert_true(rig_until(&r, read_some, &w));
	assert_string_equal((char *)buf, text);
}

static void host_sees_the_end(int fd)
{
	uint8_t byte;
	struct reading w = { fd, &byte, 1, 0, false };

	assert_true(rig_until(&r, read_some, &w));
	assert_true(w.ended);
	assert_int_equal(w.got, 0);
}

/* A client of the host's, connected to the guest's port: its local one. */
static int host_connects(uint32_t guest_port, uint32_t *local)
{
	char text[40];
	int fd = dial();
	struct got g;

	snprintf(text, sizeof(text), "CONNECT %u\n", guest_port);
	put(fd, text);
	g = expect(VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(g.h.dst_port, guest_port);
	*local = g.h.src_port;
	say(VIRTIO_VSOCK_OP_RESPONSE, guest_port, *local);
	snprintf(text, sizeof(text), "OK %u\n", *local);
	host_reads(fd, text);
	return fd;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

#endif
