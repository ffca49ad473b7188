#include "net_rig.h"

/* Packets */

static void a_frame_is_sent_as_it_is(void **state)
{
	uint8_t got[256];

	make_and_start(MRG);
	send_frame(TX, "0123456789abcdef", 16, 1);
	used(TX, 1);
	assert_int_equal(peer_read(peers[0], got, sizeof(got)), HEADER + 16);
	assert_memory_equal(got + HEADER, "0123456789abcdef", 16);
}

static void a_frame_is_received(void **state)
{
	make_and_start(MRG);
	give_buffer(RX, 1526);
	peer_send(peers[0], 1500, 3);
	/* Without GUEST_CSUM nothing is said of checksums. */
	assert_int_equal(received(RX, 1500, 3, 1), 0);
}

static void flags_pass_with_guest_csum(void **state)
{
	make_and_start(MRG | VIRTIO_BIT(VIRTIO_NET_F_GUEST_CSUM));
	give_buffer(RX, 1526);
	peer_send(peers[0], 60, 9);
	assert_int_equal(received(RX, 60, 9, 1), VIRTIO_NET_HDR_F_DATA_VALID);
}

static void packets_wait_for_buffers(void **state)
{
	make_and_start(MRG);
	for (unsigned i = 0; i < 5; i++)
		peer_send(peers[0], 100 + i, (uint8_t)i);
	nothing_used(RX);
	for (unsigned i = 0; i < 5; i++) {
		give_buffer(RX, 1526);
		received(RX, 100 + i, (uint8_t)i, 1);
	}
	nothing_used(RX);
}

static void a_large_packet_is_spread_over_buffers(void **state)
{
	make_and_start(MRG);
	for (unsigned round = 0; round < 50; round++) {
		/* The first is held and put together, the others go straight into the buffers. */
		for (unsigned i = 0; i < 44; i++)
			give_buffer(RX, 1526);
		peer_send(peers[0], 65535, (uint8_t)round);
		received(RX, 65535, (uint8_t)round, 43);
		peer_send(peers[0], 42, 7);
		received(RX, 42, 7, 1);
		r.mem->next -= 44 * 1528;
	}
	nothing_used(RX);
}

static void a_large_packet_waits_for_all_its_buffers(void **state)
{
	make_and_start(MRG);
	peer_send(peers[0], 10000, 1);
	for (unsigned i = 0; i < 9; i++) {
		give_buffer(RX, 1024);
		nothing_used(RX);
	}
	give_buffer(RX, 1024);
	received(RX, 10000, 1, 10);
}

static void a_packet_that_the_ring_cannot_hold_is_dropped(void **state)
{
	make(1, &(struct drv_config){ .size = 4 });
	start(MRG, 2);
	for (unsigned i = 0; i < 4; i++)
		give_buffer(RX, 1024);
	peer_send(peers[0], 10000, 1);
	peer_send(peers[0], 2000, 2);
	received(RX, 2000, 2, 2);
}

static void without_merging_a_packet_that_does_not_fit_is_dropped(void **state)
{
	make_and_start(0);
	give_buffer(RX, 512);
	peer_send(peers[0], 1000, 1);
	peer_send(peers[0], 500, 2);
	received(RX, 500, 2, 1);
}

static void buffers_taken_for_long_packets_come_back_for_short_ones(void **state)
{
	make_and_start(MRG);
	for (unsigned i = 0; i < 48; i++)
		give_buffer(RX, 1526);
	peer_send(peers[0], 60000, 1);
	received(RX, 60000, 1, 40);
	for (unsigned i = 0; i < 8; i++) {
		peer_send(peers[0], 100, (uint8_t)i);
		received(RX, 100, (uint8_t)i, 1);
	}
	nothing_used(RX);
}

/* The peer takes nothing: packets wait in the ring, in order, and nothing spins. */
static void a_full_tap_is_waited_for(void **state)
{
	uint8_t got[4096], frame[2048];
	unsigned sent = 0, taken = 0;
	ssize_t n;

	make(1, &(struct drv_config){ .size = 256 });
	start(MRG, 2);
	for (unsigned round = 0;
		round < 20 &&
		drv_add(r.q[TX].drv, (struct drv_buf[]){ { DRV_IOVA, 1 } }, 1, 0, COOKIE(1)) == 0;
		round++)
		sent++; /* cut short: all of these are dropped */
	rig_kick(&r, TX);
	while (taken < sent) {
		used(TX, 1);
		taken++;
	}
	sent = taken = 0;
	for (; sent < 128; sent++) {
		memset(frame, (int)sent, sizeof(frame));
		if (r.mem->next > 3 * MIB)
			break;
		send_frame(TX, frame, sizeof(frame), sent + 1);
	}
	for (unsigned extra = 0; extra < 2; extra++)
		all_quiet();
	assert_true(r.q[TX].drv->nr_open > 0);
	while (taken < sent) {
		n = peer_read(peers[0], got, sizeof(got));
		assert_int_equal(n, HEADER + sizeof(frame));
		assert_int_equal(got[HEADER], (uint8_t)taken);
		taken++;
	}
	for (unsigned i = 1; i <= sent; i++)
		used(TX, i);
}

/* Buffers are taken and go back into the ring all the time; every kind of ring bears that. */
static void every_kind_of_ring_works(void **state)
{
	uint8_t got[4096];

	for (unsigned kind = 0; kind < 16; kind++) {
		const struct drv_config config = {
			.size = 64,
			.packed = kind & 1,
			.event_idx = kind & 2,
			.indirect = kind & 4,
			.in_order = kind & 8,
		};

		make(1, &config);
		start(MRG, 3);
		for (unsigned round = 0; round < 100; round++) {
			uint32_t len = round % 3 ? 60 + round : 9000 + round;
			uint64_t next = r.mem->next;

			for (unsigned i = 0; i < 7 && r.q[RX].drv->nr_free; i++)
				give_buffer(RX, 1526);
			send_frame(TX, &round, sizeof(round), round + 1);
			used(TX, round + 1);
			assert_int_equal(peer_read(peers[0], got, sizeof(got)), HEADER + 4);
			assert_memory_equal(got + HEADER, &round, 4);
			peer_send(peers[0], len, (uint8_t)round);
			received(RX, len, (uint8_t)round, (HEADER + len + 1525) / 1526);
			if (!r.q[RX].drv->nr_open)
				r.mem->next = next;
			else if (r.mem->next > 3 * MIB)
				break;
		}
		assert_null(r.q[RX].drv->error);
		assert_null(r.q[TX].drv->error);
		fd_close(&peers[0]);
		rig_fini(&r);
		rig_init(&r);
	}
}

/* The limit */

/* 20 packets at 5 in 20 ms, after the 5 that go at once: no less than 60 ms, on however slow a
 * machine. */
static const struct rate_limit_config five = { .ops = { .size = 5, .refill_ms = 20 } };

static void sending_keeps_to_its_limit(void **state)
{
	uint64_t start_ns = clock_now_ns();
	uint8_t got[64];

	make_limited(1, &plain, &five);
	start(MRG, 3);
	for (unsigned i = 1; i <= 20; i++)
		send_frame(TX, &i, sizeof(i), i);
	for (unsigned i = 1; i <= 20; i++) {
		used(TX, i);
		assert_int_equal(peer_read(peers[0], got, sizeof(got)), HEADER + sizeof(i));
		assert_int_equal(got[HEADER], i);
	}
	assert_true(clock_now_ns() - start_ns >= 60 * NS_PER_MS);
}

static void receiving_keeps_to_its_limit(void **state)
{
	uint64_t start_ns = clock_now_ns();

	for (unsigned mergeable = 0; mergeable < 2; mergeable++) {
		make_limited(1, &plain, &five);
		start(mergeable ? MRG : 0, 3);
		for (unsigned i = 0; i < 40; i++)
			give_buffer(RX, 1526);
		for (unsigned i = 0; i < 20; i++)
			peer_send(peers[0], mergeable ? 2000 + i : 1000 + i, (uint8_t)i);
		for (unsigned i = 0; i < 20; i++)
			received(RX, mergeable ? 2000 + i : 1000 + i, (uint8_t)i, 1 + mergeable);
		nothing_used(RX);
		fd_close(&peers[0]);
		rig_fini(&r);
		rig_init(&r);
	}
	assert_true(clock_now_ns() - start_ns >= 120 * NS_PER_MS);
}

/* As long as it would have to wait, a stop does not. */
static void a_stop_does_not_wait_for_the_limit(void **state)
{
	const struct rate_limit_config once = { .bytes = { .size = 1, .refill_ms = 3600000 } };

	make_limited(1, &plain, &once);
	start(MRG, 3);
	for (unsigned i = 0; i < 4; i++)
		give_buffer(RX, 1526);
	peer_send(peers[0], 100, 1);
	peer_send(peers[0], 100, 2);
	received(RX, 100, 1, 1);
	send_frame(TX, "first", 5, 1);
	send_frame(TX, "second", 6, 2);
	used(TX, 1);
	nothing_used(TX);
	nothing_used(RX);
	assert_int_equal(rig_stop(&r, RX), 1);
	assert_int_equal(rig_stop(&r, TX), 1);
}

/* Hostile drivers */

static void bad_frames_are_dropped(void **state)
{
	struct drv_buf short_header = { DRV_IOVA + 2 * MIB, HEADER - 1 };
	struct drv_buf huge[] = { { DRV_IOVA + 2 * MIB, 1 * MIB } };
	struct drv_buf wrong_way = { DRV_IOVA + 2 * MIB, 100 };
	struct drv_buf nowhere = { 0xdeadbeef000, 100 };
	struct drv_buf length = { DRV_IOVA, UINT32_MAX };
	uint8_t got[256];

	make_and_start(MRG);
	assert_int_equal(drv_add(r.q[TX].drv, &short_header, 1, 0, COOKIE(1)), 0);
	assert_int_equal(drv_add(r.q[TX].drv, huge, 1, 0, COOKIE(2)), 0);
	assert_int_equal(drv_add(r.q[TX].drv, &wrong_way, 0, 1, COOKIE(3)), 0);
	assert_int_equal(drv_add(r.q[TX].drv, &nowhere, 1, 0, COOKIE(4)), 0);
	assert_int_equal(drv_add(r.q[TX].drv, &length, 1, 0, COOKIE(5)), 0);
	rig_kick(&r, TX);
	for (unsigned i = 1; i <= 5; i++)
		used(TX, i);
	send_frame(TX, "good", 4, 6);
	used(TX, 6);
	assert_int_equal(peer_read(peers[0], got, sizeof(got)), HEADER + 4);
}

static bool is_broken(struct rig *rig, void *arg)
{
	struct pollfd pfd = { .fd = rig->q[*(unsigned *)arg].err, .events = POLLIN };

	return poll(&pfd, 1, 0) == 1;
}

/* As a driver does that resets the queue. */
static void start_anew(unsigned queue)
{
	rig_stop(&r, queue);
	drv_reset(r.q[queue].drv);
	fd_clear(r.q[queue].err);
	assert_int_equal(rig_start(&r, queue), 0);
}

/* Behind good buffers that are taken already, or first of all. */
static void a_bad_receive_buffer_ends_its_queue(void **state)
{
	static const struct {
		struct drv_buf buf[2];
		unsigned nr_out, nr_in;
	} bad[] = {
		{ { { DRV_IOVA + 2 * MIB, 100 }, { DRV_IOVA + 2 * MIB, 100 } }, 1, 1 },
		{ { { DRV_IOVA + 2 * MIB, 100 } }, 1, 0 },
		{ { { DRV_IOVA + 2 * MIB, HEADER - 1 } }, 0, 1 },
		{ { { 0xdeadbeef000, 1526 } }, 0, 1 },
		{ { { UINT64_MAX - 10, 1526 } }, 0, 1 },
		{ { { DRV_IOVA, UINT32_MAX } }, 0, 1 },
	};
	unsigned rx = RX;

	make_and_start(MRG);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(bad); i++) {
		unsigned b = i / 2;

		if (i & 1)
			give_buffer(RX, 1526);
		assert_int_equal(
			drv_add(r.q[RX].drv, bad[b].buf, bad[b].nr_out, bad[b].nr_in, COOKIE(1)),
			0);
		peer_send(peers[0], 5000, 1);
		rig_kick(&r, RX);
		assert_true(rig_until(&r, is_broken, &rx));
		all_quiet();
		send_frame(TX, "others go on", 12, i + 1);
		used(TX, i + 1);
		start_anew(RX);
		for (unsigned n = 0; n < 10; n++)
			give_buffer(RX, 1526);
		/* What had begun to be received went with the stop. */
		if (!(i & 1))
			received(RX, 5000, 1, 4);
		peer_send(peers[0], 77, 2);
		received(RX, 77, 2, 1);
		start_anew(RX);
	}
}

static void a_broken_queue_leaves_the_others(void **state)
{
	unsigned tx = TX;

	make_and_start(MRG);
	/* A chain that is a ring of its own. */
	r.q[TX].drv->desc[0] = (struct vring_desc){ DRV_IOVA, 16, VRING_DESC_F_NEXT, 0 };
	r.q[TX].drv->avail->ring[0] = 0;
	__atomic_store_n(&r.q[TX].drv->avail->idx, 1, __ATOMIC_RELEASE);
	fd_signal(r.q[TX].kick);
	assert_true(rig_until(&r, is_broken, &tx));
	give_buffer(RX, 1526);
	peer_send(peers[0], 100, 1);
	received(RX, 100, 1, 1);
	all_quiet();
	/* And it works again when it is set up again. */
	start_anew(TX);
	send_frame(TX, "again", 5, 1);
	used(TX, 1);
}

/* Stops, pauses, hang-ups */

static void a_stop_gives_taken_buffers_back(void **state)
{
	struct vq_setup s;

	make_and_start(MRG);
	for (unsigned i = 0; i < 8; i++)
		give_buffer(RX, 1526);
	peer_send(peers[0], 100, 1);
	received(RX, 100, 1, 1);
	all_quiet();
	s = drv_setup(r.q[RX].drv);
	s.base = rig_stop(&r, RX);
	assert_int_equal(s.base, 1);
	peer_send(peers[0], 200, 2);
	assert_int_equal(rig_start_as(&r, RX, &s), 0);
	received(RX, 200, 2, 1);
}

static void memory_can_be_mapped_anew_while_it_runs(void **state)
{
	struct err err = { 0 };

	make_and_start(MRG);
	for (unsigned i = 0; i < 40; i++)
		give_buffer(RX, 1526);
	for (unsigned i = 0; i < 30; i++) {
		peer_send(peers[0], 100, (uint8_t)i);
		r.model->ops->pause(r.model);
		assert_int_equal(vq_set_mem(r.q[RX].vq, &r.mem->mem, &err), 0);
		assert_int_equal(vq_set_mem(r.q[TX].vq, &r.mem->mem, &err), 0);
		/* Whoever held the memory before has let go of it: one hold for each queue. */
		assert_int_equal(r.mem->refs, 3);
		r.model->ops->resume(r.model);
		received(RX, 100, (uint8_t)i, 1);
	}
}

static void a_peer_that_hangs_up_takes_the_link_down(void **state)
{
	struct virtio_net_config config;

	make_and_start(MRG | VIRTIO_BIT(VIRTIO_NET_F_STATUS));
	memcpy(&config, r.model->config, r.model->config_size);
	assert_int_equal(config.status, VIRTIO_NET_S_LINK_UP);
	give_buffer(RX, 1526);
	fd_close(&peers[0]);
	all_quiet();
	rig_settle(&r);
	memcpy(&config, r.model->config, r.model->config_size);
	assert_int_equal(config.status, 0);
	assert_int_equal(r.config_changes, 1);
	/* What is sent without a link is lost; the guest does not wait for it. */
	send_frame(TX, "lost", 4, 1);
	used(TX, 1);
	nothing_used(RX);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(a_frame_is_sent_as_it_is),
		TEST(a_frame_is_received),
		TEST(flags_pass_with_guest_csum),
		TEST(packets_wait_for_buffers),
		TEST(a_large_packet_is_spread_over_buffers),
		TEST(a_large_packet_waits_for_all_its_buffers),
		TEST(a_packet_that_the_ring_cannot_hold_is_dropped),
		TEST(without_merging_a_packet_that_does_not_fit_is_dropped),
		TEST(buffers_taken_for_long_packets_come_back_for_short_ones),
		TEST(a_full_tap_is_waited_for),
		TEST(every_kind_of_ring_works),
		TEST(sending_keeps_to_its_limit),
		TEST(receiving_keeps_to_its_limit),
		TEST(a_stop_does_not_wait_for_the_limit),
		TEST(bad_frames_are_dropped),
		TEST(a_bad_receive_buffer_ends_its_queue),
		TEST(a_broken_queue_leaves_the_others),
		TEST(a_stop_gives_taken_buffers_back),
		TEST(memory_can_be_mapped_anew_while_it_runs),
		TEST(a_peer_that_hangs_up_takes_the_link_down),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
