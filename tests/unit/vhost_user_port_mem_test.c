/* vhost_user_port_mem_test.c - a front-end's memory, log and inflight area */
#include "vhost_user_port_rig.h"

/* Memory */

static uint64_t mem_reg(struct end *e, uint32_t request, struct vhost_user_mem_region r, int fd)
{
	struct vhost_user_mem_reg m = { 0, r };

	return ack_fds(e, request, &m, sizeof(m), &fd, fd >= 0);
}

static void memory_may_come_and_go_in_slots(void **test)
{
	struct vhost_user_mem_region low = { MEM_GPA, MEM_SIZE / 2, USER, 0 };
	struct vhost_user_mem_region high = { MEM_GPA + MEM_SIZE / 2, MEM_SIZE / 2, USER + 16 * GIB,
		MEM_SIZE / 2 };
	struct vhost_user_mem_region over = { MEM_GPA + 4096, 4096, USER + 32 * GIB, 0 };
	struct end e;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	e.memfd = memory(MEM_SIZE);
	e.mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, e.memfd, 0);
	assert_int_equal(mem_reg(&e, VHOST_USER_ADD_MEM_REG, high, e.memfd), 0);
	assert_int_equal(mem_reg(&e, VHOST_USER_ADD_MEM_REG, low, e.memfd), 0);
	assert_int_equal(mem_reg(&e, VHOST_USER_ADD_MEM_REG, low, e.memfd), EEXIST);
	assert_int_equal(mem_reg(&e, VHOST_USER_ADD_MEM_REG, over, e.memfd), EEXIST);
	run_queue(&e, 0);
	echo_once(&e, 0, "both");

	/* Under the running queue; one that is not there, one with a stray descriptor */
	assert_int_equal(mem_reg(&e, VHOST_USER_REM_MEM_REG, over, -1), ENOENT);
	assert_int_equal(mem_reg(&e, VHOST_USER_REM_MEM_REG, high, e.memfd), 0);
	echo_once(&e, 0, "the lower one");
	assert_int_equal(mem_reg(&e, VHOST_USER_ADD_MEM_REG, high, e.memfd), 0);
	echo_once(&e, 0, "both again");
	finish(&e);
}

static void a_new_table_moves_running_queues_along(void **test)
{
	struct vhost_user_mem_table t = {
		.nr = 2,
		.regions = {
			/* The same memory, elsewhere in the front-end, and more of it */
			{ MEM_GPA, MEM_SIZE, USER + 64 * GIB, 0 },
			{ 16 * GIB, MEM_SIZE, USER + 128 * GIB, 0 },
		},
	};
	struct vhost_user_vring_addr a = ring_addr(0);
	struct end e;
	int fds[2];

	start_running(&e);
	echo_once(&e, 0, "one table");
	fds[0] = fds[1] = e.memfd;
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 64, fds, 2), 0);
	echo_once(&e, 0, "another one");
	/* The ring's new address for the front-end is the old one for the guest. */
	a.desc += 64 * GIB;
	a.avail += 64 * GIB;
	a.used += 64 * GIB;
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), EBUSY);
	finish(&e);
}

static void a_queue_whose_memory_goes_is_alone_in_it(void **test)
{
	struct vhost_user_mem_table t = {
		.nr = 1,
		/* Queue 0's ring is below, queue 1's within */
		.regions = { { MEM_GPA + RING(1), MEM_SIZE - RING(1), USER, RING(1) } },
	};
	struct end e;

	start_running(&e);
	run_queue(&e, 1);
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32, &e.memfd, 1), 0);
	offer(&e, 0, "nobody hears");
	fd_signal(e.kick[0]);
	echo_once(&e, 1, "still there");
	assert_int_equal(used_idx(&e, 0), 0);
	finish(&e);
}

static void a_ring_outside_the_memory_is_that_queues_trouble(void **test)
{
	struct vhost_user_vring_addr a = ring_addr(1);
	struct end e;

	start_running(&e);
	set_up_queue(&e, 1, 64);
	a.used = USER + MEM_SIZE - 8;
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 1, 1), EFAULT);
	a.used = 0x1234;
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), EFAULT);
	/* The same without a wish for an answer: the front-end is not dropped for it. */
	put(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a));
	echo_once(&e, 0, "not my ring");
	a = ring_addr(1);
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	echo_once(&e, 1, "and now mine");
	finish(&e);
}

static void a_running_ring_cannot_be_moved(void **test)
{
	struct vhost_user_vring_addr a = ring_addr(0);
	struct end e;

	start_running(&e);
	echo_once(&e, 0, "here");
	a.flags = VHOST_USER_VRING_F_LOG;
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	a.desc += 0x10;
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), EBUSY);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, 0, 32), EBUSY);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, 0, 64), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_BASE, 0, 7), EBUSY);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_FEATURES, PROTOCOL), EBUSY);
	echo_once(&e, 0, "still here");
	finish(&e);
}

static void truncated_memory_ends_the_connection(void **test)
{
	struct end e;

	start_running(&e);
	echo_once(&e, 0, "still whole");
	offer(&e, 0, "no more");
	assert_int_equal(ftruncate(e.memfd, 0), 0);
	fd_signal(e.kick[0]);
	assert_dropped(&e);
	finish(&e);
}

static void shared_memory_must_be_memory(void **test)
{
	struct vhost_user_mem_table t = {
		.nr = 1,
		.regions = { { MEM_GPA, MEM_SIZE, USER, 0 } },
	};
	struct end e;
	int fd;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	fd = fd_eventfd();
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32, &fd, 1), EINVAL);
	fd_close(&fd);
	fd = memory(MEM_SIZE - 1);
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32, &fd, 1), EINVAL);
	fd_close(&fd);
	fd = memory(1ull << 50);
	t.regions[0].size = 1ull << 50;
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32, &fd, 1), ENOMEM);
	fd_close(&fd);
	assert_int_equal(ack(&e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32), EINVAL);
	finish(&e);
}

/* The log */

static bool logged(const uint8_t *log, uint64_t gpa)
{
	return log[gpa / 4096 / 8] & 1 << gpa / 4096 % 8;
}

static void writes_are_logged_while_that_is_wanted(void **test)
{
	struct vhost_user_log l = { .size = 4096, .offset = 4096 };
	struct end e;
	uint8_t *log, reply[8];
	int fd = memory(8192);

	log = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	start_running(&e);
	put_fds(&e, VHOST_USER_SET_LOG_BASE, 0, &l, sizeof(l), &fd, 1);
	get_fd(&e, VHOST_USER_SET_LOG_BASE, reply, sizeof(reply), NULL);
	echo_once(&e, 0, "not yet");
	assert_false(logged(log + 4096, MEM_GPA + IN_AT));

	assert_int_equal(ack_u64(&e, VHOST_USER_SET_FEATURES, VERSION_1 | PROTOCOL | LOG_ALL), 0);
	echo_once(&e, 0, "now");
	assert_true(logged(log + 4096, MEM_GPA + IN_AT));
	assert_true(logged(log + 4096, MEM_GPA + USED));
	assert_false(logged(log + 4096, MEM_GPA + OUT_AT));
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(log[i], 0);

	memset(log, 0, 8192);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_FEATURES, VERSION_1 | PROTOCOL), 0);
	echo_once(&e, 0, "no more");
	assert_false(logged(log + 4096, MEM_GPA + IN_AT));
	finish(&e);
	munmap(log, 8192);
	fd_close(&fd);
}

static void a_request_from_before_the_log_is_logged_when_it_ends(void **test)
{
	struct vhost_user_log l = { .size = 4096 };
	struct end e;
	uint8_t *log, reply[8];
	int fd = memory(4096);

	log = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	start_running(&e);
	offer_and_hold(&e);
	put_fds(&e, VHOST_USER_SET_LOG_BASE, 0, &l, sizeof(l), &fd, 1);
	get_fd(&e, VHOST_USER_SET_LOG_BASE, reply, sizeof(reply), NULL);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_FEATURES, VERSION_1 | PROTOCOL | LOG_ALL), 0);
	echo_release(e.echo);
	expect_echo(&e, 0, "slow");
	assert_true(logged(log, MEM_GPA + IN_AT));
	finish(&e);
	munmap(log, 4096);
	fd_close(&fd);
}

static void a_log_too_small_is_no_way_out_of_it(void **test)
{
	struct vhost_user_log l = { .size = 8 };
	struct end e;
	uint8_t reply[8];
	int fd = memory(8);

	start_running(&e);
	put_fds(&e, VHOST_USER_SET_LOG_BASE, 0, &l, sizeof(l), &fd, 1);
	get_fd(&e, VHOST_USER_SET_LOG_BASE, reply, sizeof(reply), NULL);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_FEATURES, VERSION_1 | PROTOCOL | LOG_ALL), 0);
	echo_once(&e, 0, "above what is logged");
	/* One that does not fit its file has no other answer than the end. */
	l.size = 9;
	put_fds(&e, VHOST_USER_SET_LOG_BASE, 0, &l, sizeof(l), &fd, 1);
	assert_dropped(&e);
	finish(&e);
	fd_close(&fd);
}

/* Inflight */

static void requests_under_way_outlive_the_process(void **test)
{
	struct vhost_user_inflight i = { .num_queues = ECHO_QUEUES, .queue_size = 64 }, got;
	struct vhost_user_inflight_split *area;
	struct end e, second;
	int fd, memfd;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	share_memory(&e);
	put(&e, VHOST_USER_GET_INFLIGHT_FD, &i, 20);
	assert_int_equal(get_fd(&e, VHOST_USER_GET_INFLIGHT_FD, &got, sizeof(got), &fd), 20);
	assert_int_equal(got.mmap_size, ECHO_QUEUES * vhost_user_inflight_region(false, 1024));
	assert_int_equal(got.num_queues, ECHO_QUEUES);
	got.padding = 0;
	run_queue(&e, 0);
	echo_once(&e, 0, "done");
	atomic_store(&e.echo->hold, true);
	offer(&e, 0, "under way");
	fd_signal(e.kick[0]);
	while (!atomic_load(&e.echo->queues[0].held))
		ask_u64(&e, VHOST_USER_GET_STATUS);
	area = mmap(NULL, got.mmap_size, PROT_READ, MAP_SHARED, fd, 0);
	assert_int_equal(area->desc[2].inflight, 1);
	assert_int_equal(area->desc[0].inflight, 0);
	munmap(area, got.mmap_size);

	/* Another device, the same memory and area; the first one never finishes in time. */
	start(&second);
	shake_hands(&second, VERSION_1 | PROTOCOL);
	memfd = e.memfd;
	second.mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	assert_int_equal(
		mem_reg(&second, VHOST_USER_ADD_MEM_REG,
			(struct vhost_user_mem_region){ MEM_GPA, MEM_SIZE, USER, 0 }, memfd),
		0);
	second.avail[0] = e.avail[0];
	assert_int_equal(
		ack_fds(&second, VHOST_USER_SET_INFLIGHT_FD, &got, sizeof(got), &fd, 1), 0);
	set_up_queue(&second, 0, 64);
	assert_int_equal(state(&second, VHOST_USER_SET_VRING_BASE, 0, 2), 0);
	assert_int_equal(state(&second, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	expect_echo(&second, 0, "under way");
	finish(&second);
	fd_close(&fd);
	echo_release(e.echo);
	finish(&e);
}

static void an_inflight_area_that_does_not_fit_is_refused(void **test)
{
	struct vhost_user_inflight i = { .num_queues = ECHO_QUEUES + 1, .queue_size = 64 };
	struct end e;
	int fd = memory(4096);

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	share_memory(&e);
	/* The protocol's way to say no */
	put(&e, VHOST_USER_GET_INFLIGHT_FD, &i, sizeof(i));
	assert_int_equal(get_fd(&e, VHOST_USER_GET_INFLIGHT_FD, &i, sizeof(i), NULL), sizeof(i));
	assert_int_equal(i.mmap_size, 0);

	i = (struct vhost_user_inflight){ 4097, 0, 1, 64, 0 };
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), EINVAL);
	i = (struct vhost_user_inflight){ 4096, UINT64_MAX - 7, 1, 64, 0 };
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), EINVAL);
	i = (struct vhost_user_inflight){ 4088, 4, 1, 64, 0 };
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), EINVAL);

	/* It says less than the queue turns out to need: that is not tracked. */
	i = (struct vhost_user_inflight){ 64, 0, 4, 64, 0 };
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), 0);
	run_queue(&e, 0);
	echo_once(&e, 0, "untracked");
	finish(&e);
	fd_close(&fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_may_come_and_go_in_slots),
		cmocka_unit_test(a_new_table_moves_running_queues_along),
		cmocka_unit_test(a_queue_whose_memory_goes_is_alone_in_it),
		cmocka_unit_test(a_ring_outside_the_memory_is_that_queues_trouble),
		cmocka_unit_test(a_running_ring_cannot_be_moved),
		cmocka_unit_test(truncated_memory_ends_the_connection),
		cmocka_unit_test(shared_memory_must_be_memory),
		cmocka_unit_test(writes_are_logged_while_that_is_wanted),
		cmocka_unit_test(a_request_from_before_the_log_is_logged_when_it_ends),
		cmocka_unit_test(a_log_too_small_is_no_way_out_of_it),
		cmocka_unit_test(requests_under_way_outlive_the_process),
		cmocka_unit_test(an_inflight_area_that_does_not_fit_is_refused),
	};

	signal(SIGPIPE, SIG_IGN);
	log_init("test", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
