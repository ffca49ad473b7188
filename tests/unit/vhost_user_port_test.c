/* vhost_user_port_test.c - what else a port is asked for, what it refuses, and its end */
#include "vhost_user_port_rig.h"

/* Features */

static void it_offers_what_model_and_port_can_do(void **test)
{
	struct end e;
	uint64_t f, p;

	start(&e);
	f = ask_u64(&e, VHOST_USER_GET_FEATURES);
	assert_int_equal(f, e.echo->model.features | VERSION_1 | PROTOCOL | LOG_ALL |
				    VIRTIO_BIT(VIRTIO_BIT_RING_RESET));
	p = ask_u64(&e, VHOST_USER_GET_PROTOCOL_FEATURES);
	assert_int_equal(p,
		VHOST_USER_PROTOCOL_BIT(MQ) | VHOST_USER_PROTOCOL_BIT(LOG_SHMFD) |
			VHOST_USER_PROTOCOL_BIT(REPLY_ACK) | VHOST_USER_PROTOCOL_BIT(BACKEND_REQ) |
			VHOST_USER_PROTOCOL_BIT(CONFIG) | VHOST_USER_PROTOCOL_BIT(INFLIGHT_SHMFD) |
			VHOST_USER_PROTOCOL_BIT(RESET_DEVICE) |
			VHOST_USER_PROTOCOL_BIT(CONFIGURE_MEM_SLOTS) |
			VHOST_USER_PROTOCOL_BIT(STATUS) | VHOST_USER_PROTOCOL_BIT(DEVICE_STATE));
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_QUEUE_NUM), ECHO_QUEUES);
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_MAX_MEM_SLOTS), VHOST_USER_MAX_MEM_SLOTS);
	finish(&e);
}

/* Configuration */

static void configuration_is_read_and_written(void **test)
{
	struct vhost_user_config c = { .offset = 4, .size = 4 };
	struct end e;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	put(&e, VHOST_USER_GET_CONFIG, &c, 12 + 4);
	assert_int_equal(get_fd(&e, VHOST_USER_GET_CONFIG, &c, sizeof(c), NULL), 12 + 4);
	assert_memory_equal(c.bytes, "\xa4\xa5\xa6\xa7", 4);

	/* A front-end that knows more fields reads zeros there. */
	c = (struct vhost_user_config){ .offset = 0, .size = 200 };
	put(&e, VHOST_USER_GET_CONFIG, &c, sizeof(c));
	assert_int_equal(get_fd(&e, VHOST_USER_GET_CONFIG, &c, sizeof(c), NULL), sizeof(c));
	assert_int_equal(c.bytes[15], 0xaf);
	assert_int_equal(c.bytes[16], 0);

	c = (struct vhost_user_config){ .offset = 14, .size = 2, .bytes = { 1, 2 } };
	assert_int_equal(ack(&e, VHOST_USER_SET_CONFIG, &c, 12 + 2), 0);
	assert_memory_equal(e.echo->model.config + 14, "\x01\x02", 2);
	c.offset = 15;
	assert_int_equal(ack(&e, VHOST_USER_SET_CONFIG, &c, 12 + 2), EINVAL);

	c = (struct vhost_user_config){ .offset = 255, .size = 2 };
	put(&e, VHOST_USER_GET_CONFIG, &c, 12 + 2);
	assert_int_equal(get_fd(&e, VHOST_USER_GET_CONFIG, &c, sizeof(c), NULL), 0);
	finish(&e);
}

static void on_config_work(struct loop_work *work)
{
	virtio_model_config_changed(&container_of(work, struct echo, release)->model);
}

static void a_change_of_the_configuration_is_told(void **test)
{
	struct vhost_user_header h;
	struct end e;
	int socks[2];

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	assert_int_equal(sock_pair(socks), 0);
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &socks[1], 1), 0);
	fd_close(&socks[1]);
	loop_post(e.loop, &e.echo->release, on_config_work);
	assert_int_equal(recv(socks[0], &h, sizeof(h), MSG_WAITALL), sizeof(h));
	assert_int_equal(h.request, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
	assert_int_equal(h.flags, VHOST_USER_FLAG_VERSION);
	assert_int_equal(h.size, 0);

	/* A front-end that does not listen holds up nobody. */
	for (int i = 0; i < 20000; i++) {
		loop_post(e.loop, &e.echo->release, on_config_work);
		if (i % 64 == 0)
			ask_u64(&e, VHOST_USER_GET_STATUS);
	}
	fd_close(&socks[0]);
	loop_post(e.loop, &e.echo->release, on_config_work);
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_STATUS), 0);
	finish(&e);
}

/* Reset */

static void a_reset_stops_everything_and_keeps_the_call(void **test)
{
	struct end e;

	start_running(&e);
	echo_once(&e, 0, "before");
	assert_int_equal(ack(&e, VHOST_USER_RESET_DEVICE, NULL, 0), 0);
	assert_int_equal(atomic_load(&e.echo->running), 0);
	assert_int_equal(atomic_load(&e.echo->resets), 1);

	memset(e.mem, 0, RING(1));
	e.avail[0] = 0;
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, 0, 16), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_BASE, 0, 0), 0);
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR,
				 &(struct vhost_user_vring_addr){ .index = 0,
					 .desc = USER,
					 .avail = USER + AVAIL,
					 .used = USER + USED },
				 sizeof(struct vhost_user_vring_addr)),
		0);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, 0, e.kick[0]), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	echo_once(&e, 0, "after");
	/* The model has heard of its features again. */
	assert_int_equal(e.echo->features, VERSION_1);
	finish(&e);
}

static void status_0_stops_the_queues_and_keeps_the_model(void **test)
{
	struct end e;

	start_running(&e);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_STATUS, 0xf), 0);
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_STATUS), 0xf);
	assert_int_equal(atomic_load(&e.echo->running), 1);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_STATUS, 0), 0);
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_STATUS), 0);
	assert_int_equal(atomic_load(&e.echo->running), 0);
	assert_int_equal(atomic_load(&e.echo->resets), 0);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_STATUS, 256), EINVAL);
	finish(&e);
}

static void status_0_is_the_reset_of_who_has_no_other(void **test)
{
	uint64_t protocol = VHOST_USER_PROTOCOL_BIT(REPLY_ACK) | VHOST_USER_PROTOCOL_BIT(STATUS);
	struct end e;

	start_running(&e);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_PROTOCOL_FEATURES, protocol), 0);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_STATUS, 0), 0);
	assert_int_equal(atomic_load(&e.echo->running), 0);
	assert_int_equal(atomic_load(&e.echo->resets), 1);
	finish(&e);
}

/* State */

static uint64_t state_fd(struct end *e, uint32_t direction, int fd)
{
	struct vhost_user_device_state s = { direction, VHOST_USER_STATE_STOPPED };

	put_fds(e, VHOST_USER_SET_DEVICE_STATE_FD, 0, &s, sizeof(s), &fd, 1);
	return get_u64(e, VHOST_USER_SET_DEVICE_STATE_FD);
}

static void the_state_goes_through_a_pipe(void **test)
{
	uint8_t saved[ECHO_CONFIG + 1];
	struct end e;
	int fds[2];

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_SAVE, fds[1]), VHOST_USER_NOFD);
	fd_close(&fds[1]);
	assert_int_equal(read(fds[0], saved, sizeof(saved)), ECHO_CONFIG);
	assert_int_equal(read(fds[0], saved + ECHO_CONFIG, 1), 0);
	fd_close(&fds[0]);
	assert_int_equal(ask_u64(&e, VHOST_USER_CHECK_DEVICE_STATE), 0);
	assert_int_equal(saved[0], 0xa0);

	saved[0] = 0x55;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_LOAD, fds[0]), VHOST_USER_NOFD);
	fd_close(&fds[0]);
	assert_int_equal(write(fds[1], saved, 3), 3);
	assert_int_equal(write(fds[1], saved + 3, ECHO_CONFIG - 3), ECHO_CONFIG - 3);
	/* Not at its end yet */
	assert_int_equal(ask_u64(&e, VHOST_USER_CHECK_DEVICE_STATE), EAGAIN);
	fd_close(&fds[1]);
	assert_int_equal(ask_u64(&e, VHOST_USER_CHECK_DEVICE_STATE), 0);
	assert_int_equal(e.echo->model.config[0], 0x55);
	finish(&e);
}

static void a_state_that_is_none_is_refused(void **test)
{
	struct end e;
	int fds[2];

	start_running(&e);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	/* Queues are running. */
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_LOAD, fds[0]), VHOST_USER_NOFD | EBUSY);
	assert_int_equal(ack(&e, VHOST_USER_RESET_DEVICE, NULL, 0), 0);
	assert_int_equal(ask_u64(&e, VHOST_USER_CHECK_DEVICE_STATE), EINVAL);
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_LOAD, fds[1]), VHOST_USER_NOFD | EINVAL);
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_SAVE, fds[0]), VHOST_USER_NOFD | EINVAL);
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_SAVE, e.memfd), VHOST_USER_NOFD | EINVAL);
	assert_int_equal(state_fd(&e, 2, fds[0]), VHOST_USER_NOFD | EINVAL);
	/* Too short for the model */
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_LOAD, fds[0]), VHOST_USER_NOFD);
	assert_int_equal(write(fds[1], "x", 1), 1);
	fd_close(&fds[1]);
	assert_int_equal(ask_u64(&e, VHOST_USER_CHECK_DEVICE_STATE), EINVAL);
	fd_close(&fds[0]);
	finish(&e);
}

/* Refusals */

static void what_cannot_be_answered_ends_the_connection(void **test)
{
	uint64_t odd = 1ull << 5;
	struct end e;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_FEATURES, odd), EINVAL);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_PROTOCOL_FEATURES, odd << 50), EINVAL);
	put(&e, VHOST_USER_SET_FEATURES, &odd, sizeof(odd));
	assert_dropped(&e);
	finish(&e);
}

static void requests_are_checked_before_they_are_carried_out(void **test)
{
	struct end e;
	int fds[2] = { fd_eventfd(), memory(4096) };
	uint64_t v = 0;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, ECHO_QUEUES, 16), EINVAL);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, UINT32_MAX, 16), EINVAL);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, 0, 0), EINVAL);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, 0, 65536 + 16), EINVAL);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 2), EINVAL);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, 255, fds[0]), EINVAL);
	/* No descriptor, none announced; one though none was; the wrong kind; too many */
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, 0, -1), EINVAL);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_CALL, VHOST_USER_NOFD, fds[0]), EINVAL);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_CALL, 0, fds[1]), EINVAL);
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_VRING_ERR, &v, sizeof(v), fds, 2), EPROTO);
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_OWNER, NULL, 0, fds, 2), EPROTO);
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, fds, 1), EINVAL);
	/* Sizes, and requests that are not offered or not known */
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_NUM, &v, 4), EPROTO);
	assert_int_equal(ack_u64(&e, VHOST_USER_SEND_RARP, 0), ENOTSUP);
	assert_int_equal(ack_u64(&e, VHOST_USER_NET_SET_MTU, 1500), ENOTSUP);
	assert_int_equal(ack_u64(&e, 77, 0), EPROTO);
	finish(&e);
	fd_close(&fds[0]);
	fd_close(&fds[1]);
}

static void a_frame_that_is_lost_ends_the_connection(void **test)
{
	const struct vhost_user_header bad[] = {
		{ VHOST_USER_GET_FEATURES, 0, 0 },
		{ VHOST_USER_GET_FEATURES, VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY, 0 },
		{ VHOST_USER_SET_FEATURES, VHOST_USER_FLAG_VERSION, UINT32_MAX },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct end e;

		start(&e);
		assert_int_equal(
			send(e.sock, &bad[i], sizeof(bad[i]), MSG_NOSIGNAL), sizeof(bad[i]));
		assert_dropped(&e);
		finish(&e);
	}
}

static void a_device_that_cannot_serve_a_queue_says_so(void **test)
{
	struct end e;

	start(&e);
	e.echo->refuse_start = true;
	shake_hands(&e, VERSION_1 | PROTOCOL);
	share_memory(&e);
	set_up_queue(&e, 0, 64);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), EIO);
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_QUEUE_NUM), ECHO_QUEUES);
	finish(&e);
}

/* The end */

static void a_front_end_that_leaves_is_waited_for_by_what_is_under_way(void **test)
{
	struct end e;

	start_running(&e);
	run_queue(&e, 1);
	offer_and_hold(&e);
	fd_close(&e.sock);
	/* Its memory stays until the request is done. */
	while (atomic_load(&e.echo->running) != 1)
		sched_yield();
	echo_release(e.echo);
	finish(&e);
}

static void a_front_end_may_leave_in_the_middle_of_a_stop(void **test)
{
	struct vhost_user_vring_state s = { 0, 0 };
	struct end e;

	start_running(&e);
	offer_and_hold(&e);
	put(&e, VHOST_USER_GET_VRING_BASE, &s, sizeof(s));
	fd_close(&e.sock);
	echo_release(e.echo);
	finish(&e);
}

static void quit_when_freed(void *arg)
{
	loop_quit(arg, 9);
}

static void a_port_is_free_when_its_queues_are(void **test)
{
	struct end e;
	bool freed = false;
	void *code;

	start_running(&e);
	offer_and_hold(&e);
	loop_quit(e.loop, 3);
	pthread_join(e.thread, &code);
	assert_int_equal((intptr_t)code, 3);
	vhost_user_port_free(e.port, quit_when_freed, e.loop);
	echo_release(e.echo);
	assert_int_equal(loop_run(e.loop), 9);
	assert_dropped(&e);
	fd_close(&e.sock);
	virtio_model_free(&e.echo->model);
	loop_free(e.loop);
	munmap(e.mem, MEM_SIZE);
	fd_close(&e.memfd);
	fd_close(&e.kick[0]);
	fd_close(&e.call[0]);
	assert_int_equal(fd_count(), e.fds_before);
	vhost_user_port_free(NULL, note_freed, &freed);
	assert_true(freed);
}

static void descriptors_of_a_flood_are_closed(void **test)
{
	struct end e;
	int many[SOCK_MAX_FDS], fd = fd_eventfd();

	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = fd;
	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	for (int i = 0; i < 4; i++)
		assert_int_equal(
			ack_fds(&e, VHOST_USER_SET_OWNER, NULL, 0, many, ARRAY_SIZE(many)), EPROTO);
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_QUEUE_NUM), ECHO_QUEUES);
	finish(&e);
	fd_close(&fd);
}

static void a_full_blocking_call_descriptor_holds_up_nobody(void **test)
{
	struct end e;
	uint64_t full = UINT64_MAX - 1;

	start_running(&e);
	run_queue(&e, 1);
	fd_close(&e.call[0]);
	e.call[0] = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(write(e.call[0], &full, sizeof(full)), sizeof(full));
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_CALL, 0, e.call[0]), 0);
	for (int i = 0; i < 20; i++) {
		offer(&e, 0, "unheard");
		fd_signal(e.kick[0]);
		echo_once(&e, 1, "heard");
	}
	finish(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_offers_what_model_and_port_can_do),
		cmocka_unit_test(configuration_is_read_and_written),
		cmocka_unit_test(a_change_of_the_configuration_is_told),
		cmocka_unit_test(a_reset_stops_everything_and_keeps_the_call),
		cmocka_unit_test(status_0_stops_the_queues_and_keeps_the_model),
		cmocka_unit_test(status_0_is_the_reset_of_who_has_no_other),
		cmocka_unit_test(the_state_goes_through_a_pipe),
		cmocka_unit_test(a_state_that_is_none_is_refused),
		cmocka_unit_test(what_cannot_be_answered_ends_the_connection),
		cmocka_unit_test(requests_are_checked_before_they_are_carried_out),
		cmocka_unit_test(a_frame_that_is_lost_ends_the_connection),
		cmocka_unit_test(a_device_that_cannot_serve_a_queue_says_so),
		cmocka_unit_test(a_front_end_that_leaves_is_waited_for_by_what_is_under_way),
		cmocka_unit_test(a_front_end_may_leave_in_the_middle_of_a_stop),
		cmocka_unit_test(a_port_is_free_when_its_queues_are),
		cmocka_unit_test(descriptors_of_a_flood_are_closed),
		cmocka_unit_test(a_full_blocking_call_descriptor_holds_up_nobody),
	};

	signal(SIGPIPE, SIG_IGN);
	log_init("test", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
