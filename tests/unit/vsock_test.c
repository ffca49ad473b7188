/*
 * vsock_test.c - the socket device between a driver written here and real sockets of the host
 *
 * The connector is the real process in most tests; where what it says matters, the test plays it.
 */
#include "device/vsock.h"

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
#include "device/vsock_priv.h"
#include "virtio_rig.h"

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

static struct vsock *inner(void)
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

static void shut(uint32_t guest_port, uint32_t host_port, uint32_t flags)
{
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_SHUTDOWN, guest_port, host_port);

	h.flags = flags;
	send_header(h);
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

static bool one_comes(struct rig *rig, void *arg)
{
	int *fds = arg;

	if (fds[1] < 0)
		fds[1] = accept4(fds[0], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	return fds[1] >= 0;
}

/* The guest connects from a port of its own to port 52: the host's end. */
static int guest_connects(uint32_t guest_port)
{
	char name[128];
	struct err err = { 0 };
	int fds[2] = { -1, -1 };

	snprintf(name, sizeof(name), "%s_52", path);
	remove_port(52);
	fds[0] = sock_listen(name, 4, &err);
	assert_true(fds[0] >= 0);
	say(VIRTIO_VSOCK_OP_REQUEST, guest_port, 52);
	assert_true(rig_until(&r, one_comes, fds));
	expect(VIRTIO_VSOCK_OP_RESPONSE);
	close(fds[0]);
	return fds[1];
}

/* --- connections --- */

static void is_a_socket_device_with_the_guests_id(void **state)
{
	make();
	assert_int_equal(r.model->type, VIRTIO_ID_VSOCK);
	assert_int_equal(r.model->nr_queues, 3);
	assert_int_equal(r.model->config_size, 8);
	assert_int_equal(r.model->config[0], CID);
}

static void the_host_connects_and_bytes_go_both_ways(void **state)
{
	FD_AUTO fd = -1;
	uint32_t local;
	struct got g;

	make();
	fd = host_connects(1024, &local);
	put(fd, "hello guest");
	g = expect(VIRTIO_VSOCK_OP_RW);
	assert_int_equal(g.h.src_port, local);
	assert_int_equal(g.h.dst_port, 1024);
	assert_memory_equal(g.data, "hello guest", 11);
	send_data(1024, local, "hello host", 10);
	host_reads(fd, "hello host");
}

static void the_same_with_packed_rings(void **state)
{
	FD_AUTO fd = -1;
	uint32_t local;

	make_with(
		64, false, &(struct drv_config){ .size = RING, .packed = true, .event_idx = true });
	post_many(16);
	fd = host_connects(1, &local);
	put(fd, "x");
	expect(VIRTIO_VSOCK_OP_RW);
	send_data(1, local, "y", 1);
	host_reads(fd, "y");
}

static void the_guest_connects_to_a_socket_beside(void **state)
{
	FD_AUTO fd = -1;

	make();
	fd = guest_connects(7000);
	send_data(7000, 52, "from guest", 10);
	host_reads(fd, "from guest");
	put(fd, "from host");
	assert_memory_equal(expect(VIRTIO_VSOCK_OP_RW).data, "from host", 9);
}

static void nobody_listens(void **state)
{
	struct got g;

	make();
	say(VIRTIO_VSOCK_OP_REQUEST, 7000, 53);
	g = expect(VIRTIO_VSOCK_OP_RST);
	assert_int_equal(g.h.src_port, 53);
	assert_int_equal(g.h.dst_port, 7000);
	assert_int_equal(inner()->nr_conns, 0);
}

static void bytes_right_behind_the_greeting_are_the_streams(void **state)
{
	FD_AUTO fd = -1;
	struct got g;

	make();
	fd = dial();
	put(fd, "CONN");
	nothing_for_the_guest();
	put(fd, "ECT 9\nearly");
	g = expect(VIRTIO_VSOCK_OP_REQUEST);
	nothing_for_the_guest();
	say(VIRTIO_VSOCK_OP_RESPONSE, 9, g.h.src_port);
	g = expect(VIRTIO_VSOCK_OP_RW);
	assert_int_equal(g.h.len, 5);
	assert_memory_equal(g.data, "early", 5);
}

static void greetings_that_are_none(void **state)
{
	static const char *const texts[] = { "CONNECT\n", "CONNECT x\n", "CONNECT 4294967296\n",
		"CONNECT -1\n", "CONNECT 1 2\n", "HELLO 1\n", "\n",
		"CONNECT 000000000000000000000000000000001\n" };

	make();
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		FD_AUTO fd = dial();

		put(fd, texts[i]);
		host_sees_the_end(fd);
	}
	nothing_for_the_guest();
	assert_int_equal(inner()->nr_conns, 0);
}

static void clients_that_leave_early(void **state)
{
	struct got g;
	int fd;

	make();
	fd = dial();
	close(fd);
	fd = dial();
	put(fd, "CONNECT 1");
	close(fd);
	nothing_for_the_guest();
	assert_int_equal(inner()->nr_conns, 0);

	/* The guest was asked already. */
	fd = dial();
	put(fd, "CONNECT 1\n");
	g = expect(VIRTIO_VSOCK_OP_REQUEST);
	close(fd);
	assert_int_equal(expect(VIRTIO_VSOCK_OP_RST).h.src_port, g.h.src_port);
	assert_int_equal(inner()->nr_conns, 0);
}

static void the_guest_refuses(void **state)
{
	FD_AUTO fd = -1;
	struct got g;

	make();
	fd = dial();
	put(fd, "connect 1024\r\n");
	g = expect(VIRTIO_VSOCK_OP_REQUEST);
	say(VIRTIO_VSOCK_OP_RST, 1024, g.h.src_port);
	host_sees_the_end(fd);
	nothing_for_the_guest();
	assert_int_equal(inner()->nr_conns, 0);
}

static void a_guest_that_does_not_answer(void **state)
{
	FD_AUTO fd = -1;
	struct got g;

	make();
	fd = dial();
	put(fd, "CONNECT 1024\n");
	g = expect(VIRTIO_VSOCK_OP_REQUEST);
	host_sees_the_end(fd);
	assert_int_equal(expect(VIRTIO_VSOCK_OP_RST).h.src_port, g.h.src_port);
}

static void a_guest_without_buffers_does_not_hold_clients_for_ever(void **state)
{
	FD_AUTO fd = -1;

	make_with(64, false, &(struct drv_config){ .size = RING });
	fd = dial();
	put(fd, "CONNECT 1024\n");
	host_sees_the_end(fd);
	assert_int_equal(inner()->nr_conns, 0);
	post_many(1);
	nothing_for_the_guest();
}

/* --- credit --- */

static void the_guest_gets_no_more_than_it_has_room_for(void **state)
{
	struct virtio_vsock_hdr h;
	FD_AUTO fd = -1;
	uint32_t local;

	make();
	fd = host_connects(5, &local);
	h = header(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 5, local);
	h.buf_alloc = 10;
	send_header(h);
	put(fd, "0123456789abcdefghij");
	assert_int_equal(expect(VIRTIO_VSOCK_OP_RW).h.len, 10);
	expect(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	nothing_for_the_guest();
	h.fwd_cnt = 4;
	send_header(h);
	assert_memory_equal(expect(VIRTIO_VSOCK_OP_RW).data, "abcd", 4);
	expect(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	/* A window that shrank below what is under way is no window. */
	h.buf_alloc = 2;
	send_header(h);
	nothing_for_the_guest();
	h.buf_alloc = 10;
	h.fwd_cnt = 14;
	send_header(h);
	assert_memory_equal(expect(VIRTIO_VSOCK_OP_RW).data, "efghij", 6);
}

static void a_guest_asks_for_credit(void **state)
{
	FD_AUTO fd = -1;
	uint32_t local;
	struct got g;

	make();
	fd = host_connects(5, &local);
	send_data(5, local, "abc", 3);
	host_reads(fd, "abc");
	say(VIRTIO_VSOCK_OP_CREDIT_REQUEST, 5, local);
	g = expect(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	assert_int_equal(g.h.fwd_cnt, 3);
	assert_int_equal(g.h.buf_alloc, VSOCK_WINDOW);
}

static uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 7 + i / 251);
}

static void fill_pattern(uint8_t *to, size_t from, size_t len)
{
	for (size_t i = 0; i < len; i++)
		to[i] = pattern(from + i);
}

/* More than socket and window hold passes, though the host reads late; nothing is lost or mixed up.
 */
static void a_host_that_reads_late(void **state)
{
	static uint8_t chunk[30000], all[3 << 20];
	struct reading w = { .to = all };
	FD_AUTO fd = -1;
	uint32_t local, sent = 0, fwd = 0;

	make();
	w.fd = fd = host_connects(5, &local);
	while (sent < sizeof(all)) {
		uint32_t room = VSOCK_WINDOW - (sent - fwd), n = MIN(room, sizeof(chunk));
		void *cookie;
		uint32_t written;

		n = MIN(n, sizeof(all) - sent);
		fill_pattern(chunk, sent, n);
		if (n)
			send_data(5, local, chunk, n);
		sent += n;
		if (!n) { /* the guest may not: the host begins to read, and the guest hears of it
			   */
			w.len = MIN(w.got + 100000, sizeof(all));
			assert_true(rig_until(&r, read_some, &w));
			assert_false(w.ended);
		}
		rig_settle(&r);
		while (drv_get(r.q[RX].drv, &cookie, &written)) {
			struct virtio_vsock_hdr *h = drv_at(r.mem, (uintptr_t)cookie);
			struct drv_buf buf = { (uintptr_t)cookie, BUFFER };

			assert_int_equal(h->op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
			fwd = h->fwd_cnt;
			assert_true(sent - fwd <= VSOCK_WINDOW);
			assert_int_equal(drv_add(r.q[RX].drv, &buf, 0, 1, cookie), 0);
		}
		rig_kick(&r, RX);
	}
	w.len = sizeof(all);
	assert_true(rig_until(&r, read_some, &w));
	for (size_t i = 0; i < sizeof(all); i++)
		if (all[i] != pattern(i))
			fail_msg("byte %zu is %u", i, all[i]);
}

/* What it sent is kept up to the window; one byte more ends its connection, and no other. */
static void a_guest_that_sends_more_than_it_may(void **state)
{
	static const uint8_t zeros[64 * KIB];
	FD_AUTO fd = -1;
	FD_AUTO other = -1;
	uint32_t local, other_local;

	make();
	other = host_connects(6, &other_local);
	fd = host_connects(5, &local);
	for (unsigned i = 0; inner()->nr_conns == 2; i++) {
		assert_true(i < 100);
		send_data(5, local, zeros, sizeof(zeros));
		rig_settle(&r);
	}
	expect(VIRTIO_VSOCK_OP_RST);
	put(other, "!");
	expect(VIRTIO_VSOCK_OP_RW);
}

static void a_length_beyond_the_packet(void **state)
{
	struct virtio_vsock_hdr h;
	FD_AUTO fd = -1;
	uint32_t local;

	make();
	fd = host_connects(5, &local);
	h = header(VIRTIO_VSOCK_OP_RW, 5, local);
	h.len = UINT32_MAX;
	send_header(h);
	expect(VIRTIO_VSOCK_OP_RST);
	host_sees_the_end(fd);
}

/* --- ends --- */

static void the_host_closes_its_half(void **state)
{
	FD_AUTO fd = -1;
	uint32_t local;

	make();
	fd = host_connects(5, &local);
	put(fd, "last");
	shutdown(fd, SHUT_WR);
	assert_int_equal(expect(VIRTIO_VSOCK_OP_RW).h.len, 4);
	assert_int_equal(expect(VIRTIO_VSOCK_OP_SHUTDOWN).h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	send_data(5, local, "answer", 6);
	host_reads(fd, "answer");
	shut(5, local, VIRTIO_VSOCK_SHUTDOWN_SEND);
	host_sees_the_end(fd);
	assert_int_equal(expect(VIRTIO_VSOCK_OP_SHUTDOWN).h.flags,
		VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	say(VIRTIO_VSOCK_OP_RST, 5, local);
	nothing_for_the_guest();
	assert_int_equal(inner()->nr_conns, 0);
}

static void the_guest_closes_its_half(void **state)
{
	FD_AUTO fd = -1;
	uint32_t local;

	make();
	fd = host_connects(5, &local);
	send_data(5, local, "last", 4);
	shut(5, local, VIRTIO_VSOCK_SHUTDOWN_SEND);
	host_reads(fd, "last");
	host_sees_the_end(fd);
	put(fd, "still");
	assert_int_equal(expect(VIRTIO_VSOCK_OP_RW).h.len, 5);
	/* And not a byte after its end. */
	send_data(5, local, "x", 1);
	expect(VIRTIO_VSOCK_OP_RST);
}

static void the_guest_reads_no_more(void **state)
{
	FD_AUTO fd = -1;
	uint32_t local;

	make();
	fd = host_connects(5, &local);
	shut(5, local, VIRTIO_VSOCK_SHUTDOWN_RCV);
	rig_settle(&r);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	send_data(5, local, "but writes", 10);
	host_reads(fd, "but writes");
	close(fd_take(&fd));
	assert_int_equal(expect(VIRTIO_VSOCK_OP_SHUTDOWN).h.flags,
		VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
}

/* The host takes its time; the guest hears that it is over when the host has everything. */
static void the_guest_closes_with_bytes_under_way(void **state)
{
	static uint8_t chunk[64 * KIB], all[20 * sizeof(chunk)];
	FD_AUTO fd = -1;
	struct reading w = { .to = all };
	uint32_t local;
	unsigned nr = 0;

	make();
	w.fd = fd = host_connects(5, &local);
	/* Until the host's socket is full and some are kept. */
	for (; nr < 20 && !(nr && LIST_FIRST(&inner()->all)->buf); nr++) {
		fill_pattern(chunk, nr * sizeof(chunk), sizeof(chunk));
		send_data(5, local, chunk, sizeof(chunk));
	}
	assert_in_range(nr, 2, 19);
	shut(5, local, VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	nothing_for_the_guest();
	w.len = nr * sizeof(chunk);
	assert_true(rig_until(&r, read_some, &w));
	for (size_t i = 0; i < w.len; i++)
		if (all[i] != pattern(i))
			fail_msg("byte %zu is %u", i, all[i]);
	expect(VIRTIO_VSOCK_OP_RST);
	host_sees_the_end(fd);
	assert_int_equal(inner()->nr_conns, 0);
}

/* It does not wait for that: the host gets everything all the same. */
static void a_guest_that_is_gone_before_its_bytes(void **state)
{
	static uint8_t chunk[64 * KIB], all[20 * sizeof(chunk)];
	FD_AUTO fd = -1;
	struct reading w = { .to = all };
	uint32_t local;
	unsigned nr = 0;

	make();
	w.fd = fd = host_connects(5, &local);
	for (; nr < 20 && !(nr && LIST_FIRST(&inner()->all)->buf); nr++)
		send_data(5, local, chunk, sizeof(chunk));
	shut(5, local, VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	say(VIRTIO_VSOCK_OP_RST, 5, local);
	w.len = nr * sizeof(chunk);
	assert_true(rig_until(&r, read_some, &w));
	assert_int_equal(w.got, w.len);
	host_sees_the_end(fd);
	nothing_for_the_guest();
	assert_int_equal(inner()->nr_conns, 0);
}

static void the_host_closes(void **state)
{
	uint32_t local;
	int fd;

	make();
	fd = host_connects(5, &local);
	put(fd, "goodbye");
	close(fd);
	assert_int_equal(expect(VIRTIO_VSOCK_OP_RW).h.len, 7);
	assert_int_equal(expect(VIRTIO_VSOCK_OP_SHUTDOWN).h.flags,
		VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	send_data(5, local, "too late", 8);
	shut(5, local, VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
	expect(VIRTIO_VSOCK_OP_RST);
	assert_int_equal(inner()->nr_conns, 0);
}

static void a_reset_ends_it_at_once(void **state)
{
	FD_AUTO fd = -1;
	uint32_t local;

	make();
	fd = host_connects(5, &local);
	say(VIRTIO_VSOCK_OP_RST, 5, local);
	host_sees_the_end(fd);
	nothing_for_the_guest();
	assert_int_equal(inner()->nr_conns, 0);
}

/* --- packets that make no sense --- */

static void what_belongs_to_nothing_is_reset(void **state)
{
	static const uint16_t ops[] = { VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_SHUTDOWN,
		VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST,
		0, 99 };

	make();
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		say(ops[i], 100, 200);
		expect(VIRTIO_VSOCK_OP_RST);
	}
	say(VIRTIO_VSOCK_OP_RST, 100, 200);
	nothing_for_the_guest();
}

static void packets_for_others(void **state)
{
	struct virtio_vsock_hdr h;
	struct got g;

	make();
	h = header(VIRTIO_VSOCK_OP_REQUEST, 100, 52);
	h.dst_cid = 77;
	send_header(h);
	g = next_packet();
	assert_int_equal(g.h.op, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(g.h.src_cid, 77);
	h = header(VIRTIO_VSOCK_OP_REQUEST, 100, 52);
	h.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	send_header(h);
	g = next_packet();
	assert_int_equal(g.h.op, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(g.h.type, VIRTIO_VSOCK_TYPE_SEQPACKET);
	/* Not this guest: whoever it is gets no answer. */
	h = header(VIRTIO_VSOCK_OP_REQUEST, 100, 52);
	h.src_cid = 1;
	send_header(h);
	nothing_for_the_guest();
}

static void packets_that_are_no_packets(void **state)
{
	struct drv_buf nowhere = { 0xdead0000, 4096 };
	struct rig_used u;

	make();
	send_raw("short", 5, 1);
	assert_int_equal(drv_add(r.q[TX].drv, &nowhere, 1, 0, (void *)1), 0);
	rig_kick(&r, TX);
	assert_true(rig_take(&r, TX, &u));
	nothing_for_the_guest();
	say(VIRTIO_VSOCK_OP_RW, 1, 2);
	expect(VIRTIO_VSOCK_OP_RST);
}

static void ops_out_of_place(void **state)
{
	FD_AUTO fd = -1;
	uint32_t local;

	make();
	fd = host_connects(5, &local);
	say(VIRTIO_VSOCK_OP_REQUEST, 5, local);
	expect(VIRTIO_VSOCK_OP_RST);
	host_sees_the_end(fd);
	fd_close(&fd);
	fd = host_connects(5, &local);
	say(VIRTIO_VSOCK_OP_RESPONSE, 5, local);
	expect(VIRTIO_VSOCK_OP_RST);
	host_sees_the_end(fd);
}

static void buffers_that_are_too_small(void **state)
{
	struct rig_used u;

	make_with(64, false, &(struct drv_config){ .size = RING, .indirect = true });
	say(VIRTIO_VSOCK_OP_RW, 1, 2);
	post(RX, HDR - 1, false);
	assert_true(rig_take(&r, RX, &u));
	assert_int_equal(u.written, 0);
	post(RX, HDR, true);
	expect(VIRTIO_VSOCK_OP_RST);
}

/* It does not get an answer, so no more of its packets are taken until it does. */
static void a_guest_without_buffers_waits(void **state)
{
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_RW, 1, 2);
	uint64_t at;
	unsigned taken = 0, back = 0, sent = 0;
	struct rig_used u;

	make_with(64, false, &(struct drv_config){ .size = 512 });
	at = drv_alloc(r.mem, sizeof(h), 64);
	memcpy(drv_at(r.mem, at), &h, sizeof(h));
	for (; sent < 500; sent++)
		assert_int_equal(
			drv_add(r.q[TX].drv, &(struct drv_buf){ at, HDR }, 1, 0, (void *)1), 0);
	rig_kick(&r, TX);
	rig_settle(&r);
	for (void *cookie; drv_get(r.q[TX].drv, &cookie, &u.written);)
		taken++;
	assert_int_equal(taken, VSOCK_MAX_RESETS);
	for (; back < 500; back++) {
		post(RX, HDR, false);
		expect(VIRTIO_VSOCK_OP_RST);
	}
	rig_settle(&r);
	for (void *cookie; drv_get(r.q[TX].drv, &cookie, &u.written);)
		taken++;
	assert_int_equal(taken, 500);
}

/* --- many --- */

static void no_more_connections_than_it_may_have(void **state)
{
	FD_AUTO a = -1;
	FD_AUTO b = -1;
	FD_AUTO c = -1;
	uint32_t local_a, local_b;

	make_with(2, false, &(struct drv_config){ .size = RING });
	post_many(16);
	a = host_connects(1, &local_a);
	b = host_connects(2, &local_b);
	say(VIRTIO_VSOCK_OP_REQUEST, 3, 52);
	expect(VIRTIO_VSOCK_OP_RST);
	c = dial();
	put(c, "CONNECT 3\n");
	nothing_for_the_guest();
	close(fd_take(&a));
	expect(VIRTIO_VSOCK_OP_SHUTDOWN);
	say(VIRTIO_VSOCK_OP_RST, 1, local_a);
	assert_int_equal(expect(VIRTIO_VSOCK_OP_REQUEST).h.dst_port, 3);
}

static void take_all_answers(unsigned *nr, uint16_t op)
{
	void *cookie;
	uint32_t written;

	while (drv_get(r.q[RX].drv, &cookie, &written)) {
		struct virtio_vsock_hdr *h = drv_at(r.mem, (uintptr_t)cookie);
		struct drv_buf buf = { (uintptr_t)cookie, BUFFER };

		assert_int_equal(h->op, op);
		++*nr;
		assert_int_equal(drv_add(r.q[RX].drv, &buf, 0, 1, cookie), 0);
	}
	rig_kick(&r, RX);
}

/* However many there are, they were never promised more memory than there is for all. */
static void windows_together_stay_within_the_budget(void **state)
{
	unsigned resets = 0;

	make_with(VSOCK_MAX_CONNS, true, &(struct drv_config){ .size = RING });
	post_many(32);
	for (unsigned i = 0; i < VSOCK_MAX_CONNS + 10; i++) {
		say(VIRTIO_VSOCK_OP_REQUEST, 1000 + i, 52);
		rig_settle(&r);
		take_all_answers(&resets, VIRTIO_VSOCK_OP_RST);
	}
	assert_int_equal(inner()->nr_conns, VSOCK_MAX_CONNS);
	assert_true(inner()->reserved <= VSOCK_BUDGET);
	assert_int_equal(resets, 10);
	assert_int_equal(inner()->nr_asked, VSOCK_MAX_ASKED);
}

static void a_thousand_at_once(void **state)
{
	enum { MANY = 1000 };
	static int fds[MANY];
	static uint32_t locals[MANY];
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	if (limit.rlim_max < 3 * MANY)
		skip();
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	make_with(VSOCK_MAX_CONNS, false, &(struct drv_config){ .size = RING });
	for (unsigned i = 0; i < MANY; i++) {
		/* Room for all the driver's buffers: its memory does not grow. */
		r.mem->next = MIN(r.mem->next, 2 * MIB);
		post_many(1);
		fds[i] = host_connects(i, &locals[i]);
	}
	for (unsigned i = 0; i < MANY; i++) {
		r.mem->next = MIN(r.mem->next, 2 * MIB);
		send_data(i, locals[i], "ping", 4);
		host_reads(fds[i], "ping");
		put(fds[i], "pong");
		post_many(1);
		assert_int_equal(expect(VIRTIO_VSOCK_OP_RW).h.dst_port, i);
	}
	for (unsigned i = 0; i < MANY; i++) {
		say(VIRTIO_VSOCK_OP_RST, i, locals[i]);
		host_sees_the_end(fds[i]);
		close(fds[i]);
	}
	assert_int_equal(inner()->nr_conns, 0);
}

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

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(is_a_socket_device_with_the_guests_id),
		TEST(the_host_connects_and_bytes_go_both_ways),
		TEST(the_same_with_packed_rings),
		TEST(the_guest_connects_to_a_socket_beside),
		TEST(nobody_listens),
		TEST(bytes_right_behind_the_greeting_are_the_streams),
		TEST(greetings_that_are_none),
		TEST(clients_that_leave_early),
		TEST(the_guest_refuses),
		TEST(a_guest_that_does_not_answer),
		TEST(a_guest_without_buffers_does_not_hold_clients_for_ever),
		TEST(the_guest_gets_no_more_than_it_has_room_for),
		TEST(a_guest_asks_for_credit),
		TEST(a_host_that_reads_late),
		TEST(a_guest_that_sends_more_than_it_may),
		TEST(a_length_beyond_the_packet),
		TEST(the_host_closes_its_half),
		TEST(the_guest_closes_its_half),
		TEST(the_guest_reads_no_more),
		TEST(the_guest_closes_with_bytes_under_way),
		TEST(a_guest_that_is_gone_before_its_bytes),
		TEST(the_host_closes),
		TEST(a_reset_ends_it_at_once),
		TEST(what_belongs_to_nothing_is_reset),
		TEST(packets_for_others),
		TEST(packets_that_are_no_packets),
		TEST(ops_out_of_place),
		TEST(buffers_that_are_too_small),
		TEST(a_guest_without_buffers_waits),
		TEST(no_more_connections_than_it_may_have),
		TEST(windows_together_stay_within_the_budget),
		TEST(a_thousand_at_once),
		TEST(an_answer_nobody_waits_for_any_more),
		TEST(a_device_without_its_connector_ends),
		TEST(names_that_the_connector_refuses),
		TEST(the_next_process_tells_that_all_are_gone),
		TEST(connections_outlive_a_stop_of_the_queues),
		TEST(a_driver_that_begins_anew_has_no_connections),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("vsock", tests, NULL, NULL);
}
