/*
 * vsock_test.c - connections of the socket device, from the first packet to the end
 */
#include "vsock_rig.h"

static void shut(uint32_t guest_port, uint32_t host_port, uint32_t flags)
{
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_SHUTDOWN, guest_port, host_port);

	h.flags = flags;
	send_header(h);
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
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("vsock", tests, NULL, NULL);
}
