/*
 * vsock_hostile_test.c - the socket device under packets that make no sense, and under too many
 */
#include "vsock_rig.h"

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

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(what_belongs_to_nothing_is_reset),
		TEST(packets_for_others),
		TEST(packets_that_are_no_packets),
		TEST(ops_out_of_place),
		TEST(buffers_that_are_too_small),
		TEST(a_guest_without_buffers_waits),
		TEST(no_more_connections_than_it_may_have),
		TEST(windows_together_stay_within_the_budget),
		TEST(a_thousand_at_once),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("vsock_hostile", tests, NULL, NULL);
}
