/* vhost_user_port_queue_test.c - queues that a front-end sets up, stops and changes */
#include "vhost_user_port_rig.h"

static void a_request_goes_through_a_split_ring(void **test)
{
	struct end e;

	start_running(&e);
	for (int i = 0; i < 200; i++)
		echo_once(&e, 0, i % 2 ? "ping" : "pong, and a little longer");
	assert_int_equal(atomic_load(&e.echo->served), 200);
	assert_int_equal(e.echo->features, VERSION_1);
	finish(&e);
}

static void queues_are_served_beside_each_other(void **test)
{
	struct end e;

	start_running(&e);
	for (unsigned q = 1; q < ECHO_QUEUES; q++)
		run_queue(&e, q);
	for (int i = 0; i < 50; i++)
		for (unsigned q = 0; q < ECHO_QUEUES; q++)
			echo_once(&e, q, "all of us");
	finish(&e);
}

static void a_kick_before_the_enable_is_not_lost(void **test)
{
	struct end e;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	share_memory(&e);
	set_up_queue(&e, 0, 64);
	offer(&e, 0, "early");
	fd_signal(e.kick[0]);
	/* Disabled: nothing comes of it yet. */
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_STATUS), 0);
	assert_int_equal(used_idx(&e, 0), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	expect_echo(&e, 0, "early");
	finish(&e);
}

static void without_bit_30_rings_need_no_enable(void **test)
{
	struct end e;

	start(&e);
	shake_hands(&e, VERSION_1);
	share_memory(&e);
	set_up_queue(&e, 0, 64);
	echo_once(&e, 0, "enabled from the start");
	finish(&e);
}

static void the_order_of_the_set_up_does_not_matter(void **test)
{
	struct end e;
	struct vhost_user_vring_addr a = ring_addr(0);

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	e.kick[0] = fd_eventfd();
	e.call[0] = fd_eventfd();
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, 0, e.kick[0]), 0);
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_CALL, 0, e.call[0]), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, 0, 16), 0);
	assert_int_equal(atomic_load(&e.echo->running), 0);
	share_memory(&e);
	assert_int_equal(atomic_load(&e.echo->running), 1);
	offer(&e, 0, "memory came last");
	fd_signal(e.kick[0]);
	expect_echo(&e, 0, "memory came last");
	finish(&e);
}

static void get_vring_base_stops_the_queue_and_says_where(void **test)
{
	struct end e;
	struct vhost_user_vring_state s = { 0, 0 };

	start_running(&e);
	for (int i = 0; i < 3; i++)
		echo_once(&e, 0, "one of three");
	put(&e, VHOST_USER_GET_VRING_BASE, &s, sizeof(s));
	assert_int_equal(get_fd(&e, VHOST_USER_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
	assert_int_equal(s.index, 0);
	assert_int_equal(s.num, 3);
	assert_int_equal(atomic_load(&e.echo->running), 0);

	/* It goes on from there with the next kick descriptor. */
	offer(&e, 0, "the fourth");
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, 0, e.kick[0]), 0);
	expect_echo(&e, 0, "the fourth");
	finish(&e);
}

static void get_vring_base_waits_for_what_is_under_way(void **test)
{
	struct end e;
	struct vhost_user_vring_state s = { 0, 0 };
	struct pollfd pfd;

	start_running(&e);
	run_queue(&e, 1);
	offer_and_hold(&e);
	atomic_store(&e.echo->hold, false);
	put(&e, VHOST_USER_GET_VRING_BASE, &s, sizeof(s));
	put(&e, VHOST_USER_GET_STATUS, NULL, 0);

	/* The other queue goes on, the socket is quiet. */
	echo_once(&e, 1, "the other one");
	pfd = (struct pollfd){ .fd = e.sock, .events = POLLIN };
	assert_int_equal(poll(&pfd, 1, 0), 0);

	echo_release(e.echo);
	assert_int_equal(get_fd(&e, VHOST_USER_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
	assert_int_equal(s.num, 1);
	assert_int_equal(get_u64(&e, VHOST_USER_GET_STATUS), 0);
	expect_echo(&e, 0, "slow");
	finish(&e);
}

static void a_disabled_queue_rests_and_goes_on(void **test)
{
	struct end e;

	start_running(&e);
	echo_once(&e, 0, "before");
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 0), 0);
	assert_int_equal(atomic_load(&e.echo->running), 0);
	offer(&e, 0, "meanwhile");
	fd_signal(e.kick[0]);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	expect_echo(&e, 0, "meanwhile");
	finish(&e);
}

static void a_new_call_descriptor_replaces_the_old_one(void **test)
{
	struct end e;
	int old;

	start_running(&e);
	echo_once(&e, 0, "old");
	old = e.call[0];
	e.call[0] = fd_eventfd();
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_CALL, 0, e.call[0]), 0);
	echo_once(&e, 0, "new");
	assert_false(fd_clear(old));
	fd_close(&old);
	/* None at all: the ring is looked at. */
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_CALL, VHOST_USER_NOFD, -1), 0);
	offer(&e, 0, "unheard");
	fd_signal(e.kick[0]);
	while (used_idx(&e, 0) != e.avail[0])
		ask_u64(&e, VHOST_USER_GET_STATUS);
	assert_false(fd_clear(e.call[0]));
	finish(&e);
}

static void a_new_kick_descriptor_works_on_a_running_queue(void **test)
{
	struct end e;
	int old;

	start_running(&e);
	echo_once(&e, 0, "old");
	old = e.kick[0];
	e.kick[0] = fd_eventfd();
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, 0, e.kick[0]), 0);
	echo_once(&e, 0, "new");
	fd_close(&old);
	finish(&e);
}

static void a_ring_without_kicks_is_watched(void **test)
{
	struct end e;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	share_memory(&e);
	set_up_queue(&e, 0, 64);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, VHOST_USER_NOFD, -1), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	offer(&e, 0, "no kick");
	expect_echo(&e, 0, "no kick");
	finish(&e);
}

static void echo_packed(uint32_t base)
{
	struct end e;
	struct vring_packed_desc *ring;
	uint16_t flags;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL | VIRTIO_BIT(VIRTIO_BIT_RING_PACKED));
	share_memory(&e);
	set_up_queue(&e, 0, 5);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_BASE, 0, base), 0);
	ring = (struct vring_packed_desc *)e.mem;
	strcpy((char *)e.mem + OUT_AT, "packed");
	ring[1] = (struct vring_packed_desc){ MEM_GPA + IN_AT, 7, 3,
		VRING_DESC_F_WRITE | 1 << VRING_PACKED_DESC_F_AVAIL };
	ring[0] = (struct vring_packed_desc){ MEM_GPA + OUT_AT, 7, 3,
		VRING_DESC_F_NEXT | 1 << VRING_PACKED_DESC_F_AVAIL };
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	await_call(&e, 0);
	flags = __atomic_load_n(&ring[0].flags, __ATOMIC_ACQUIRE);
	assert_true(flags & 1 << VRING_PACKED_DESC_F_USED);
	assert_int_equal(ring[0].len, 7);
	assert_string_equal((char *)e.mem + IN_AT, "packed");
	finish(&e);
}

static void a_packed_ring_works_too(void **test)
{
	echo_packed(0x80008000);
}

static void a_packed_ring_works_with_half_a_base(void **test)
{
	echo_packed(0x8000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_goes_through_a_split_ring),
		cmocka_unit_test(queues_are_served_beside_each_other),
		cmocka_unit_test(a_kick_before_the_enable_is_not_lost),
		cmocka_unit_test(without_bit_30_rings_need_no_enable),
		cmocka_unit_test(the_order_of_the_set_up_does_not_matter),
		cmocka_unit_test(get_vring_base_stops_the_queue_and_says_where),
		cmocka_unit_test(get_vring_base_waits_for_what_is_under_way),
		cmocka_unit_test(a_disabled_queue_rests_and_goes_on),
		cmocka_unit_test(a_new_call_descriptor_replaces_the_old_one),
		cmocka_unit_test(a_new_kick_descriptor_works_on_a_running_queue),
		cmocka_unit_test(a_ring_without_kicks_is_watched),
		cmocka_unit_test(a_packed_ring_works_too),
		cmocka_unit_test(a_packed_ring_works_with_half_a_base),
	};

	signal(SIGPIPE, SIG_IGN);
	log_init("test", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
