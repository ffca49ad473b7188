/* vvu_proxy_test.c - what the proxy does for a message, when, and what it never lets pass */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "slow_file.h"
#include "vvu_rig.h"

#define NEED_REPLY VHOST_USER_FLAG_NEED_REPLY
#define REPLY	   VHOST_USER_FLAG_REPLY
#define BIT(name)  VHOST_USER_PROTOCOL_BIT(name)
#define REGION	   (1 * MIB)

static struct rig rig, *const r = &rig;

/* The owner's word on something, which the proxy's thread may be about to change. */
static unsigned count(const unsigned *what)
{
	unsigned value;

	pthread_mutex_lock(&r->owner.lock);
	value = *what;
	pthread_mutex_unlock(&r->owner.lock);
	return value;
}

/* A descriptor that the owner was given, or -1. */
static int held(const int *fd)
{
	int value;

	pthread_mutex_lock(&r->owner.lock);
	value = *fd;
	pthread_mutex_unlock(&r->owner.lock);
	return value;
}

static void begin(enum vvu_disconnect disconnect)
{
	log_init("test", LOG_ERR);
	rig_init(r, disconnect);
	assert_int_equal(rig_start(r, RIG_BUFFERS), 0);
	rig_set_status(r, VVU_STATUS_BACKEND_UP);
}

static void end(void)
{
	assert_true(rig_fini(r));
	assert_int_equal(r->owner.nr_maps, 0);
}

static struct rig_msg heard(uint32_t request)
{
	struct rig_msg m;

	assert_true(rig_hear(r, &m) >= (int)sizeof(m.h));
	assert_int_equal(m.h.request, request);
	return m;
}

static struct rig_msg received(uint32_t request)
{
	struct rig_msg m;

	assert_true(rig_recv(r, &m));
	assert_int_equal(m.h.request, request);
	assert_true(m.h.flags & REPLY);
	return m;
}

/* From the sibling's arrival to its features; the driver offers `offered`. */
static uint64_t shake_hands(uint64_t offered, uint64_t accepted)
{
	uint64_t shown;

	rig_connect(r);
	rig_send(r, VHOST_USER_GET_PROTOCOL_FEATURES, 0, NULL, 0, NULL, 0);
	heard(VHOST_USER_GET_PROTOCOL_FEATURES);
	assert_true(rig_answer(r, VHOST_USER_GET_PROTOCOL_FEATURES, offered));
	shown = received(VHOST_USER_GET_PROTOCOL_FEATURES).p.u64;
	rig_send_u64(r, VHOST_USER_SET_PROTOCOL_FEATURES, 0, accepted, -1);
	assert_int_equal(heard(VHOST_USER_SET_PROTOCOL_FEATURES).p.u64, offered & accepted);
	return shown;
}

#define USUAL (BIT(REPLY_ACK) | BIT(CONFIGURE_MEM_SLOTS) | BIT(BACKEND_REQ) | BIT(INFLIGHT_SHMFD))

static int memory_of(uint64_t size)
{
	int fd = memfd_create("sibling", MFD_CLOEXEC);

	assert_true(fd >= 0 && !ftruncate(fd, (off_t)size));
	return fd;
}

static void send_table(unsigned nr, uint32_t flags, const int *fds)
{
	struct vhost_user_mem_table t = { .nr = nr };

	for (unsigned i = 0; i < nr; i++)
		t.regions[i] = (struct vhost_user_mem_region){
			.gpa = i * GIB, .size = REGION, .user_addr = (i + 1) * GIB };
	rig_send(r, VHOST_USER_SET_MEM_TABLE, flags, &t, 8 + nr * 32, fds, (int)nr);
}

static void send_region(uint32_t request, unsigned i, uint64_t size, int fd)
{
	const struct vhost_user_mem_reg reg = {
		.region = { .gpa = i * GIB, .size = size, .user_addr = (i + 1) * GIB } };

	rig_send(r, request, NEED_REPLY, &reg, sizeof(reg), &fd, fd >= 0);
}

/* --- features --- */

static void only_features_that_can_be_had_are_offered(void **state)
{
	uint64_t shown;

	begin(VVU_DISCONNECT_BOTH);
	shown = shake_hands(UINT64_MAX & ~BIT(REPLY_ACK), BIT(REPLY_ACK) | BIT(MQ));
	assert_true(shown & BIT(REPLY_ACK));
	assert_true(shown & BIT(MQ));
	assert_false(shown & (BIT(PAGEFAULT) | BIT(DEVICE_STATE) | BIT(SHMEM_MAP) | BIT(HOST_NOTIFIER) |
				     BIT(BACKEND_SEND_FD) | BIT(SHARED_OBJECT)));
	end();
}

static void inflight_is_offered_only_where_the_driver_knows_it(void **state)
{
	begin(VVU_DISCONNECT_BOTH);
	assert_false(shake_hands(BIT(MQ), BIT(MQ)) & BIT(INFLIGHT_SHMFD));
	end();
}

/* As front-ends do that come back: what they were offered the last time is good enough for them. */
static void features_may_be_accepted_unasked(void **state)
{
	begin(VVU_DISCONNECT_BOTH);
	rig_connect(r);
	rig_send_u64(r, VHOST_USER_SET_PROTOCOL_FEATURES, NEED_REPLY, USUAL | BIT(CONFIG), -1);
	/* The driver tells what it offers; whoever did not ask does not hear of it. */
	heard(VHOST_USER_GET_PROTOCOL_FEATURES);
	assert_true(rig_answer(r, VHOST_USER_GET_PROTOCOL_FEATURES, USUAL | BIT(MQ)));
	assert_int_equal(heard(VHOST_USER_SET_PROTOCOL_FEATURES).p.u64, USUAL);
	assert_true(rig_answer(r, VHOST_USER_SET_PROTOCOL_FEATURES, 0));
	assert_int_equal(received(VHOST_USER_SET_PROTOCOL_FEATURES).p.u64, 0);
	/* Once a sibling. */
	rig_send_u64(r, VHOST_USER_SET_PROTOCOL_FEATURES, 0, USUAL | BIT(MQ), -1);
	assert_int_equal(heard(VHOST_USER_SET_PROTOCOL_FEATURES).p.u64, USUAL | BIT(MQ));
	end();
}

/* Its messages may be longer than any that the driver has made room for. */
static void what_was_not_offered_is_not_negotiated(void **state)
{
	const struct vhost_user_shmem_config session = { .nr = 0 };
	struct rig_msg m;

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(BIT(MQ), BIT(MQ) | BIT(CRYPTO_SESSION));
	rig_send(r, VHOST_USER_CREATE_CRYPTO_SESSION, 0, &session, sizeof(session), NULL, 0);
	assert_false(rig_recv(r, &m));
	assert_int_equal(rig_hear(r, &m), 0);
	assert_int_equal(count(&r->owner.needs_resets), 0);
	end();
}

static void a_driver_without_reply_ack_is_answered_for(void **state)
{
	struct rig_msg m;
	int fd;

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(BIT(CONFIGURE_MEM_SLOTS), BIT(REPLY_ACK) | BIT(CONFIGURE_MEM_SLOTS));
	fd = memory_of(REGION);
	send_table(1, NEED_REPLY, &fd);
	m = heard(VHOST_USER_SET_MEM_TABLE);
	assert_int_equal(m.h.flags, VHOST_USER_FLAG_VERSION);
	assert_int_equal(received(VHOST_USER_SET_MEM_TABLE).p.u64, 0);
	send_region(VHOST_USER_REM_MEM_REG, 0, REGION, -1);
	/* Nobody will say when it has let go of it. */
	heard(VHOST_USER_REM_MEM_REG);
	assert_int_equal(count(&r->owner.nr_maps), 0);
	assert_int_equal(received(VHOST_USER_REM_MEM_REG).p.u64, 0);
	close(fd);
	end();
}

/* --- memory --- */

static void memory_is_there_before_the_driver_hears_of_it(void **state)
{
	struct rig_msg m;
	int fds[3];

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(USUAL, USUAL);
	for (unsigned i = 0; i < 3; i++)
		fds[i] = memory_of(REGION);
	send_table(3, 0, fds);
	m = heard(VHOST_USER_SET_MEM_TABLE);
	assert_int_equal(count(&r->owner.nr_maps), 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(m.p.mem_table.regions[i].mmap_offset, i * REGION);
	/* One less, one other: what is where it was stays. */
	close(fds[1]);
	fds[1] = memory_of(REGION);
	send_table(2, 0, fds);
	heard(VHOST_USER_SET_MEM_TABLE);
	assert_int_equal(count(&r->owner.nr_maps), 2);
	assert_int_equal(count(&r->owner.mapped), 4);
	assert_int_equal(count(&r->owner.unmapped), 2);
	for (unsigned i = 0; i < 3; i++)
		close(fds[i]);
	end();
}

static void regions_fill_gaps_and_go_when_the_driver_says_so(void **state)
{
	int fd;

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(USUAL, USUAL);
	fd = memory_of(RIG_SHMEM);
	for (unsigned i = 0; i < 3; i++) {
		send_region(VHOST_USER_ADD_MEM_REG, i, REGION, fd);
		assert_int_equal(
			heard(VHOST_USER_ADD_MEM_REG).p.mem_reg.region.mmap_offset, i * REGION);
		assert_true(rig_answer(r, VHOST_USER_ADD_MEM_REG, 0));
		received(VHOST_USER_ADD_MEM_REG);
	}
	send_region(VHOST_USER_REM_MEM_REG, 1, REGION, -1);
	assert_int_equal(heard(VHOST_USER_REM_MEM_REG).p.mem_reg.region.mmap_offset, REGION);
	assert_int_equal(count(&r->owner.nr_maps), 3);
	assert_true(rig_answer(r, VHOST_USER_REM_MEM_REG, 0));
	received(VHOST_USER_REM_MEM_REG);
	assert_int_equal(count(&r->owner.nr_maps), 2);
	/* One page too many for the gap, then one that fits. */
	send_region(VHOST_USER_ADD_MEM_REG, 5, REGION + 4096, fd);
	assert_int_equal(
		heard(VHOST_USER_ADD_MEM_REG).p.mem_reg.region.mmap_offset, 3 * REGION);
	assert_true(rig_answer(r, VHOST_USER_ADD_MEM_REG, 0));
	received(VHOST_USER_ADD_MEM_REG);
	send_region(VHOST_USER_ADD_MEM_REG, 6, REGION, fd);
	assert_int_equal(heard(VHOST_USER_ADD_MEM_REG).p.mem_reg.region.mmap_offset, REGION);
	assert_true(rig_answer(r, VHOST_USER_ADD_MEM_REG, 0));
	received(VHOST_USER_ADD_MEM_REG);
	close(fd);
	end();
}

static void a_region_that_the_driver_refuses_is_taken_out(void **state)
{
	int fd;

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(USUAL, USUAL);
	fd = memory_of(REGION);
	for (unsigned i = 0; i < 3; i++) {
		send_region(VHOST_USER_ADD_MEM_REG, i, REGION, fd);
		assert_int_equal(heard(VHOST_USER_ADD_MEM_REG).p.mem_reg.region.mmap_offset, 0);
		assert_true(rig_answer(r, VHOST_USER_ADD_MEM_REG, ENOSPC));
		assert_int_equal(received(VHOST_USER_ADD_MEM_REG).p.u64, ENOSPC);
		assert_int_equal(count(&r->owner.nr_maps), 0);
	}
	close(fd);
	end();
}

static void what_the_pci_side_refuses_is_refused(void **state)
{
	int fd = -1;

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(USUAL, USUAL);
	fd = memory_of(REGION);
	r->owner.refuse = ENOSPC;
	send_table(1, NEED_REPLY, &fd);
	assert_int_equal(received(VHOST_USER_SET_MEM_TABLE).p.u64, ENOSPC);
	r->owner.refuse = 0;
	/* The driver has not heard of it: the next thing it hears is this. */
	rig_send(r, VHOST_USER_SET_OWNER, 0, NULL, 0, NULL, 0);
	heard(VHOST_USER_SET_OWNER);
	close(fd);
	end();
}

static void without_reply_ack_a_refusal_is_the_end(void **state)
{
	struct rig_msg m;
	int fd;

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(BIT(MQ), BIT(MQ));
	fd = memory_of(REGION / 2);
	send_table(1, NEED_REPLY, &fd);
	assert_false(rig_recv(r, &m));
	assert_int_equal(rig_hear(r, &m), 0);
	close(fd);
	end();
}

/* --- order --- */

static void a_request_waits_for_the_answer_to_the_one_before(void **state)
{
	struct rig_msg m;
	void *cookie;
	uint32_t len;

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(USUAL, USUAL);
	rig_send(r, VHOST_USER_GET_FEATURES, 0, NULL, 0, NULL, 0);
	/* Refused by the proxy: its answer may not come first. */
	rig_send_u64(r, VHOST_USER_SET_VRING_CALL, NEED_REPLY, 99, -1);
	heard(VHOST_USER_GET_FEATURES);
	assert_false(rig_used(r, VVU_QUEUE_RX, &cookie, &len, 0));
	assert_true(rig_answer(r, VHOST_USER_GET_FEATURES, 42));
	assert_true(rig_recv(r, &m));
	assert_int_equal(m.h.request, VHOST_USER_GET_FEATURES);
	assert_int_equal(m.p.u64, 42);
	assert_int_equal(received(VHOST_USER_SET_VRING_CALL).p.u64, EINVAL);
	end();
}

static void messages_wait_for_buffers(void **state)
{
	log_init("test", LOG_ERR);
	rig_init(r, VVU_DISCONNECT_BOTH);
	assert_int_equal(rig_start(r, 0), 0);
	rig_set_status(r, VVU_STATUS_BACKEND_UP);
	rig_connect(r);
	for (unsigned i = 0; i < 20; i++)
		rig_send_u64(r, VHOST_USER_SET_FEATURES, 0, i, -1);
	rig_give_buffer(r, 0, RIG_BUF_SIZE);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(heard(VHOST_USER_SET_FEATURES).p.u64, i);
	end();
}

/* Requests that the proxy answers by itself, for as long as it takes any: how many. */
static unsigned flood(uint32_t request, const void *payload, uint32_t size, uint64_t most_bytes)
{
	const struct vhost_user_header h = { request, VHOST_USER_FLAG_VERSION | NEED_REPLY, size };
	const struct iovec iov[2] = { { (void *)&h, sizeof(h) }, { (void *)payload, size } };
	const ssize_t len = (ssize_t)(sizeof(h) + size);
	struct pollfd room = { .fd = r->sock, .events = POLLOUT };
	unsigned nr = 0;

	for (;;) {
		ssize_t n = sock_send(r->sock, iov, 2, NULL, 0);

		if (n == -EAGAIN && poll(&room, 1, 500) == 0)
			return nr;
		assert_true(n == len || n == -EAGAIN);
		nr += n == len;
		assert_true(nr * (uint64_t)len < most_bytes);
	}
}

static void answers_that_nobody_reads_are_not_piled_up(void **state)
{
	const uint64_t queue = 99;
	unsigned nr;

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(USUAL, USUAL);
	assert_int_equal(fcntl(r->sock, F_SETFL, O_NONBLOCK), 0);
	nr = flood(VHOST_USER_SET_VRING_CALL, &queue, sizeof(queue), 16 * MIB);
	/* All are answered when they are read. */
	for (unsigned i = 0; i < nr; i++)
		assert_int_equal(received(VHOST_USER_SET_VRING_CALL).p.u64, EINVAL);
	rig_send(r, VHOST_USER_SET_OWNER, 0, NULL, 0, NULL, 0);
	heard(VHOST_USER_SET_OWNER);
	end();
}

/* As by a back-end at a socket: the guest may make its queues larger than its user said. */
static void an_inflight_area_has_room_for_larger_queues(void **state)
{
	const struct vhost_user_inflight area = { .num_queues = RIG_QUEUES, .queue_size = 128 };
	struct rig_msg m;

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(USUAL, USUAL);
	rig_send(r, VHOST_USER_GET_INFLIGHT_FD, 0, &area, sizeof(area), NULL, 0);
	m = received(VHOST_USER_GET_INFLIGHT_FD);
	assert_true(m.p.inflight.mmap_size / RIG_QUEUES >= vhost_user_inflight_region(true, 1024));
	close(m.fd);
	end();
}

/* Each would be a descriptor of ours for as long as it waits. */
static void areas_that_nobody_fetches_are_not_piled_up(void **state)
{
	const struct vhost_user_inflight area = { .num_queues = 1, .queue_size = 16 };
	int before;

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(USUAL, USUAL);
	assert_int_equal(fcntl(r->sock, F_SETFL, O_NONBLOCK), 0);
	before = fd_count();
	flood(VHOST_USER_GET_INFLIGHT_FD, &area, sizeof(area), 16 * MIB);
	assert_true(fd_count() <= before + 2);
	end();
}

static void eventfds_are_connected_before_the_driver_hears_of_them(void **state)
{
	int fd;

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(USUAL, USUAL);
	fd = fd_eventfd();
	rig_send_u64(r, VHOST_USER_SET_VRING_CALL, 0, 1, fd);
	assert_int_equal(heard(VHOST_USER_SET_VRING_CALL).p.u64, 1);
	assert_true(held(&r->owner.bells[VVU_DOORBELL_CALL(RIG_QUEUES, 1)]) >= 0);
	rig_send_u64(r, VHOST_USER_SET_VRING_ERR, 0, 2, fd);
	heard(VHOST_USER_SET_VRING_ERR);
	assert_true(held(&r->owner.bells[VVU_DOORBELL_ERR(RIG_QUEUES, 2)]) >= 0);
	rig_send_u64(r, VHOST_USER_SET_VRING_KICK, 0, 3, fd);
	heard(VHOST_USER_SET_VRING_KICK);
	assert_true(held(&r->owner.kicks[3]) >= 0);
	rig_send(r, VHOST_USER_SET_LOG_FD, 0, NULL, 0, &fd, 1);
	heard(VHOST_USER_SET_LOG_FD);
	assert_true(held(&r->owner.bells[VVU_DOORBELL_LOG(RIG_QUEUES)]) >= 0);
	rig_send_u64(r, VHOST_USER_SET_VRING_CALL, 0, 1 | VHOST_USER_NOFD, -1);
	heard(VHOST_USER_SET_VRING_CALL);
	assert_int_equal(held(&r->owner.bells[VVU_DOORBELL_CALL(RIG_QUEUES, 1)]), -1);
	close(fd);
	/* All of it goes with the sibling, before the driver hears of that. */
	fd_close(&r->sock);
	assert_int_equal(rig_hear(r, &(struct rig_msg){ 0 }), 0);
	for (unsigned i = 0; i < VVU_NR_DOORBELLS(RIG_QUEUES); i++)
		assert_int_equal(held(&r->owner.bells[i]), -1);
	assert_int_equal(held(&r->owner.kicks[3]), -1);
	end();
}

/* One of a file system of the sibling's own: nobody waits for that, a vCPU least of all. */
static void a_descriptor_that_cannot_be_closed_holds_nobody_up(void **state)
{
	uint64_t deadline = clock_now_ns() + 2 * RIG_DEADLINE_MS * NS_PER_MS;
	struct slow_file f;
	int fd = slow_file_open(&f), before;

	if (fd < 0)
		skip();
	begin(VVU_DISCONNECT_BOTH);
	shake_hands(USUAL, USUAL);
	before = fd_count();
	rig_send_u64(r, VHOST_USER_SET_VRING_CALL, NEED_REPLY, 0, fd);
	assert_int_equal(received(VHOST_USER_SET_VRING_CALL).p.u64, EINVAL);
	rig_send(r, VHOST_USER_SET_OWNER, 0, NULL, 0, NULL, 0);
	heard(VHOST_USER_SET_OWNER);
	assert_int_equal(rig_status(r), VVU_STATUS_BACKEND_UP | VVU_STATUS_FRONTEND_UP);
	assert_false(atomic_load(&f.state->late));
	slow_file_answer(&f);
	while (fd_count() > before)
		assert_true(clock_now_ns() < deadline);
	end();
	close(fd);
	slow_file_end(&f);
}

/* --- the driver's mistakes --- */

static void wait_needs_reset(void)
{
	uint64_t deadline = clock_now_ns() + RIG_DEADLINE_MS * NS_PER_MS;

	while (!count(&r->owner.needs_resets) && clock_now_ns() < deadline)
		sched_yield();
	assert_int_equal(count(&r->owner.needs_resets), 1);
}

static void a_buffer_that_is_too_small_needs_a_reset(void **state)
{
	struct rig_msg m;

	log_init("test", LOG_ERR);
	rig_init(r, VVU_DISCONNECT_BOTH);
	assert_int_equal(rig_start(r, 0), 0);
	rig_give_buffer(r, 0, 19);
	rig_set_status(r, VVU_STATUS_BACKEND_UP);
	rig_connect(r);
	rig_send_u64(r, VHOST_USER_SET_FEATURES, 0, 1, -1);
	wait_needs_reset();
	assert_false(rig_recv(r, &m));
	/* And is as new after it. */
	r->b->ops->stop(r->b);
	r->b->ops->status(r->b, 0);
	assert_int_equal(rig_status(r), 0);
	rig_new_rings(r);
	assert_int_equal(rig_start(r, RIG_BUFFERS), 0);
	rig_set_status(r, VVU_STATUS_BACKEND_UP);
	fd_close(&r->sock);
	shake_hands(USUAL, USUAL);
	end();
}

static void an_answer_of_the_wrong_size_needs_a_reset(void **state)
{
	begin(VVU_DISCONNECT_BOTH);
	rig_connect(r);
	rig_send(r, VHOST_USER_GET_FEATURES, 0, NULL, 0, NULL, 0);
	heard(VHOST_USER_GET_FEATURES);
	rig_say(r, VHOST_USER_GET_FEATURES, REPLY, "1234", 4);
	wait_needs_reset();
	end();
}

static void an_answer_that_nobody_asked_is_dropped(void **state)
{
	begin(VVU_DISCONNECT_BOTH);
	shake_hands(USUAL, USUAL);
	assert_true(rig_answer(r, VHOST_USER_GET_FEATURES, 1));
	rig_send(r, VHOST_USER_GET_QUEUE_NUM, 0, NULL, 0, NULL, 0);
	fd_close(&r->sock);
	assert_int_equal(rig_hear(r, &(struct rig_msg){ 0 }), 0);
	assert_int_equal(count(&r->owner.needs_resets), 0);
	end();
}

static double cpu_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* A message that waits in one queue while the other is not enabled keeps nobody busy. */
static void half_a_pair_of_queues_costs_no_cpu_time(void **state)
{
	const struct vhost_user_header h = { VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
		VHOST_USER_FLAG_VERSION, 0 };
	struct drv_buf out = { .len = sizeof(h) };
	double before;
	void *cookie;
	uint32_t len;

	log_init("test", LOG_ERR);
	rig_init(r, VVU_DISCONNECT_BOTH);
	out.iova = r->tx_at;
	memcpy(drv_at(r->mem, out.iova), &h, sizeof(h));
	r->queues[VVU_QUEUE_RX].enabled = false;
	assert_int_equal(rig_start(r, 0), 0);
	before = cpu_ms();
	assert_int_equal(drv_add(r->drv[VVU_QUEUE_TX], &out, 1, 0, r), 0);
	fd_signal(r->queues[VVU_QUEUE_TX].kick_fd);
	rig_set_status(r, VVU_STATUS_BACKEND_UP);
	assert_false(rig_used(r, VVU_QUEUE_TX, &cookie, &len, 400));
	/* a busy loop would take all of it */
	assert_true(cpu_ms() - before < 100);
	/* What waited is looked at when the other one comes. */
	r->queues[VVU_QUEUE_RX].enabled = true;
	assert_int_equal(r->b->ops->queue_start(r->b, VVU_QUEUE_RX, &r->queues[VVU_QUEUE_RX]), 0);
	assert_true(rig_used(r, VVU_QUEUE_TX, &cookie, &len, RIG_DEADLINE_MS));
	end();
}

static void more_queues_than_there_are_doorbells_are_not_promised(void **state)
{
	begin(VVU_DISCONNECT_BOTH);
	shake_hands(BIT(MQ), BIT(MQ));
	rig_send(r, VHOST_USER_GET_QUEUE_NUM, 0, NULL, 0, NULL, 0);
	heard(VHOST_USER_GET_QUEUE_NUM);
	assert_true(rig_answer(r, VHOST_USER_GET_QUEUE_NUM, 1000));
	assert_int_equal(received(VHOST_USER_GET_QUEUE_NUM).p.u64, RIG_QUEUES);
	end();
}

/* --- the driver's requests --- */

static void requests_of_the_driver_go_their_own_way(void **state)
{
	int pair[2];
	struct rig_msg m;
	const uint64_t zero = 0;
	struct vhost_user_header h = { VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
		VHOST_USER_FLAG_VERSION | REPLY, 8 };
	const struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)&zero, 8 } };

	begin(VVU_DISCONNECT_BOTH);
	shake_hands(USUAL | BIT(CONFIG), USUAL | BIT(CONFIG));
	/* Without a socket for it: */
	assert_true(rig_say(r, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, NEED_REPLY, NULL, 0));
	assert_int_equal(heard(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG).p.u64, EOPNOTSUPP);
	assert_int_equal(sock_pair(pair), 0);
	rig_send(r, VHOST_USER_SET_BACKEND_REQ_FD, 0, NULL, 0, &pair[1], 1);
	heard(VHOST_USER_SET_BACKEND_REQ_FD);
	close(pair[1]);
	assert_true(rig_say(r, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, NEED_REPLY, NULL, 0));
	assert_true(rig_recv_at(pair[0], &m));
	assert_int_equal(m.h.request, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
	assert_int_equal(m.h.flags, VHOST_USER_FLAG_VERSION | NEED_REPLY);
	assert_int_equal(sock_send(pair[0], iov, 2, NULL, 0), 20);
	m = heard(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
	assert_true(m.h.flags & REPLY);
	assert_int_equal(m.p.u64, 0);
	/* What needs a descriptor cannot travel. */
	assert_true(rig_say(r, VHOST_USER_BACKEND_SHMEM_MAP, NEED_REPLY,
		&(struct vhost_user_mmap){ .len = 4096 }, sizeof(struct vhost_user_mmap)));
	assert_int_equal(heard(VHOST_USER_BACKEND_SHMEM_MAP).p.u64, EOPNOTSUPP);
	/* A second answer to one request is one too many. */
	assert_int_equal(sock_send(pair[0], iov, 2, NULL, 0), 20);
	assert_int_equal(rig_hear(r, &m), 0);
	close(pair[0]);
	end();
}

/* A socket for the driver's requests: our end. */
static int listen_to_the_driver(void)
{
	int pair[2];

	shake_hands(USUAL | BIT(CONFIG), USUAL | BIT(CONFIG));
	assert_int_equal(sock_pair(pair), 0);
	rig_send(r, VHOST_USER_SET_BACKEND_REQ_FD, 0, NULL, 0, &pair[1], 1);
	heard(VHOST_USER_SET_BACKEND_REQ_FD);
	close(pair[1]);
	return pair[0];
}

/* The driver has room for a number; it is the sibling who has to know. */
static void an_answer_that_is_no_number_is_the_end_of_the_sibling(void **state)
{
	static const uint8_t bytes[VHOST_USER_MAX_PAYLOAD];
	const struct vhost_user_header h = { VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
		VHOST_USER_FLAG_VERSION | REPLY, sizeof(bytes) };
	const struct iovec iov[2] = { { (void *)&h, sizeof(h) }, { (void *)bytes, sizeof(bytes) } };
	struct rig_msg m;
	int back;

	begin(VVU_DISCONNECT_BOTH);
	back = listen_to_the_driver();
	assert_true(rig_say(r, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, NEED_REPLY, NULL, 0));
	assert_true(rig_recv_at(back, &m));
	assert_int_equal(sock_send(back, iov, 2, NULL, 0), sizeof(h) + sizeof(bytes));
	assert_int_equal(rig_hear(r, &m), 0);
	assert_false(rig_recv(r, &m));
	assert_int_equal(count(&r->owner.needs_resets), 0);
	close(back);
	end();
}

/* That is all: it goes on being served. */
static void a_sibling_may_stop_listening_to_the_driver(void **state)
{
	int back;

	begin(VVU_DISCONNECT_BOTH);
	back = listen_to_the_driver();
	assert_int_equal(shutdown(back, SHUT_RD), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(rig_say(r, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, NEED_REPLY, NULL, 0));
		assert_int_equal(heard(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG).p.u64, EOPNOTSUPP);
	}
	rig_send(r, VHOST_USER_SET_OWNER, 0, NULL, 0, NULL, 0);
	heard(VHOST_USER_SET_OWNER);
	close(back);
	end();
}

#define MUCH 50000

static void a_sibling_that_does_not_read_holds_the_driver_up(void **state)
{
	struct vhost_user_header h = { VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
		VHOST_USER_FLAG_VERSION, 0 };
	struct drv_buf out = { .len = sizeof(h) };
	unsigned taken = 0;
	void *cookie;
	uint32_t len;
	int pair[2];

	begin(VVU_DISCONNECT_BOTH);
	out.iova = r->tx_at;
	shake_hands(USUAL | BIT(CONFIG), USUAL | BIT(CONFIG));
	assert_int_equal(sock_pair(pair), 0);
	rig_send(r, VHOST_USER_SET_BACKEND_REQ_FD, 0, NULL, 0, &pair[1], 1);
	heard(VHOST_USER_SET_BACKEND_REQ_FD);
	close(pair[1]);
	memcpy(drv_at(r->mem, out.iova), &h, sizeof(h));
	/* What the socket takes, then 64 KiB that wait. */
	for (; taken < MUCH; taken++) {
		assert_int_equal(drv_add(r->drv[VVU_QUEUE_TX], &out, 1, 0, r), 0);
		rig_kick(r, VVU_QUEUE_TX);
		if (!rig_used(r, VVU_QUEUE_TX, &cookie, &len, 1000))
			break;
	}
	assert_true(taken < MUCH);
	/* Once it has gone, the driver goes on. */
	close(pair[0]);
	assert_true(rig_used(r, VVU_QUEUE_TX, &cookie, &len, RIG_DEADLINE_MS));
	end();
}

/* --- coming and going --- */

static void leaves(enum vvu_disconnect how, bool zero_len, bool status)
{
	struct rig_msg m;
	unsigned before;

	begin(how);
	rig_connect(r);
	rig_send_u64(r, VHOST_USER_SET_FEATURES, 0, 1, -1);
	heard(VHOST_USER_SET_FEATURES);
	assert_int_equal(rig_status(r), VVU_STATUS_BACKEND_UP | VVU_STATUS_FRONTEND_UP);
	before = count(&r->owner.config_changes);
	assert_int_equal(before, 1);
	fd_close(&r->sock);
	while (count(&r->owner.config_changes) == before)
		sched_yield();
	if (zero_len)
		assert_int_equal(rig_hear(r, &m), 0);
	assert_int_equal(rig_status(r), status ? 0 : VVU_STATUS_BACKEND_UP);
	if (status)
		rig_set_status(r, VVU_STATUS_BACKEND_UP);
	shake_hands(USUAL, USUAL);
	end();
}

static void the_driver_hears_by_a_buffer(void **state)
{
	leaves(VVU_DISCONNECT_ZERO_LEN, true, false);
}

static void the_driver_hears_by_the_status(void **state)
{
	leaves(VVU_DISCONNECT_STATUS, false, true);
}

static void the_driver_hears_by_both(void **state)
{
	leaves(VVU_DISCONNECT_BOTH, true, true);
}

/*
 * A driver that was only told by a buffer may be in the midst of a request of the one before, whose
 * memory must not become another one's, or nothing, under it.
 */
static void memory_stays_until_the_driver_has_turned_to_the_next(void **state)
{
	struct rig_msg m;
	int fd;

	begin(VVU_DISCONNECT_ZERO_LEN);
	shake_hands(USUAL, USUAL);
	fd = memory_of(REGION);
	send_table(1, 0, &fd);
	heard(VHOST_USER_SET_MEM_TABLE);
	fd_close(&r->sock);
	assert_int_equal(rig_hear(r, &m), 0);
	rig_connect(r);
	rig_send(r, VHOST_USER_GET_FEATURES, 0, NULL, 0, NULL, 0);
	heard(VHOST_USER_GET_FEATURES);
	assert_int_equal(count(&r->owner.nr_maps), 1);
	assert_true(rig_answer(r, VHOST_USER_GET_FEATURES, 1));
	received(VHOST_USER_GET_FEATURES);
	assert_int_equal(count(&r->owner.nr_maps), 0);
	/* Who does not wait for an answer has memory of his own, and no other. */
	send_table(1, 0, &fd);
	heard(VHOST_USER_SET_MEM_TABLE);
	fd_close(&r->sock);
	assert_int_equal(rig_hear(r, &m), 0);
	rig_connect(r);
	send_table(1, 0, &fd);
	heard(VHOST_USER_SET_MEM_TABLE);
	assert_int_equal(count(&r->owner.nr_maps), 1);
	assert_int_equal(count(&r->owner.mapped), 3);
	close(fd);
	end();
}

static void a_reset_takes_everything_back_at_once(void **state)
{
	struct rig_msg m;
	int fd, area;

	for (unsigned round = 0; round < 50; round++) {
		begin(VVU_DISCONNECT_BOTH);
		shake_hands(USUAL, USUAL);
		fd = memory_of(REGION);
		send_table(1, 0, &fd);
		heard(VHOST_USER_SET_MEM_TABLE);
		rig_send(r, VHOST_USER_GET_INFLIGHT_FD, 0,
			&(struct vhost_user_inflight){ .num_queues = 2, .queue_size = 16 },
			sizeof(struct vhost_user_inflight), NULL, 0);
		m = received(VHOST_USER_GET_INFLIGHT_FD);
		area = m.fd;
		assert_true(area >= 0 && m.p.inflight.mmap_size >= 4096);
		rig_send(r, VHOST_USER_SET_INFLIGHT_FD, 0, &m.p.inflight,
			sizeof(m.p.inflight), &area, 1);
		heard(VHOST_USER_SET_INFLIGHT_FD);
		assert_int_equal(count(&r->owner.nr_maps), 2);
		/* In the midst of messages. */
		for (unsigned i = 0; i < round % 8; i++)
			rig_send_u64(r, VHOST_USER_SET_FEATURES, 0, i, -1);
		if (round % 2)
			rig_set_status(r, 0);
		else
			r->b->ops->stop(r->b);
		assert_int_equal(rig_status(r), 0);
		assert_int_equal(count(&r->owner.nr_maps), 0);
		assert_false(rig_recv(r, &m));
		close(fd);
		close(area);
		end();
	}
}

/* --- behind an IOMMU --- */

static void begin_behind(void)
{
	log_init("test", LOG_ERR);
	rig_init_behind(r, VVU_DISCONNECT_BOTH, true);
	assert_int_equal(rig_start(r, RIG_BUFFERS), 0);
	rig_set_status(r, VVU_STATUS_BACKEND_UP);
}

static void begin_anew(void)
{
	r->b->ops->stop(r->b);
	rig_new_rings(r);
	assert_int_equal(rig_start(r, RIG_BUFFERS), 0);
	rig_set_status(r, VVU_STATUS_BACKEND_UP);
}

static void behind_an_iommu_all_goes_by_what_is_mapped(void **state)
{
	begin_behind();
	assert_true(r->b->info.features & VIRTIO_BIT(VIRTIO_BIT_ACCESS_PLATFORM));
	shake_hands(USUAL, USUAL);
	assert_int_equal(count(&r->faults), 0);
	assert_int_equal(count(&r->owner.needs_resets), 0);
	end();
}

static void without_one_nothing_is_said_of_it(void **state)
{
	begin(VVU_DISCONNECT_BOTH);
	assert_false(r->b->info.features & VIRTIO_BIT(VIRTIO_BIT_ACCESS_PLATFORM));
	end();
}

/* As the guest's kernel does when the program that was the driver is killed. */
static void rings_that_are_taken_back_are_not_touched(void **state)
{
	struct rig_msg m;
	int fd;

	begin_behind();
	fd = memory_of(REGION);
	for (unsigned round = 0; round < 20; round++) {
		shake_hands(USUAL, USUAL);
		send_table(1, 0, &fd);
		heard(VHOST_USER_SET_MEM_TABLE);
		if (round % 2)
			assert_int_equal(rig_unmap(r, 0, r->mem->size), 0);
		else
			assert_int_equal(iommu_detach(r->io, RIG_DOMAIN, RIG_ENDPOINT), 0);
		/* By now it is done: the unmap has waited for it. */
		assert_int_equal(count(&r->owner.needs_resets), round + 1);
		memset(r->mem->hva, 0xa5, r->mem->size);
		assert_false(rig_recv(r, &m));
		assert_int_equal(count(&r->owner.nr_maps), 0);
		assert_int_equal(rig_status(r), 0);
		fd_close(&r->sock);
		for (uint64_t i = 0; i < r->mem->size; i++)
			assert_int_equal(((uint8_t *)r->mem->hva)[i], 0xa5);
		if (!(round % 2))
			assert_int_equal(
				iommu_attach(r->io, RIG_DOMAIN, RIG_ENDPOINT, false), 0);
		assert_int_equal(rig_map(r, 0, r->mem->size), 0);
		begin_anew();
	}
	close(fd);
	end();
}

static void rings_that_are_not_mapped_do_not_start(void **state)
{
	begin_behind();
	r->b->ops->stop(r->b);
	assert_int_equal(rig_unmap(r, 0, r->mem->size), 0);
	assert_int_equal(count(&r->owner.needs_resets), 0);
	assert_int_equal(rig_start(r, 0), -EFAULT);
	assert_true(count(&r->faults) > 0);
	assert_int_equal(rig_map(r, 0, r->mem->size), 0);
	begin_anew();
	shake_hands(USUAL, USUAL);
	end();
}

/* The page that a buffer begins in. */
static uint64_t page_of(uint64_t iova)
{
	return (iova - DRV_IOVA) / IOMMU_PAGE * IOMMU_PAGE;
}

/* Which the guest may do at any time with one that is not in use yet. */
static void a_buffer_that_is_taken_back_is_missed_when_it_is_used(void **state)
{
	uint64_t page;

	begin_behind();
	page = page_of(r->rx_at[RIG_BUFFERS - 1]);
	assert_int_equal(rig_unmap(r, page, IOMMU_PAGE), 0);
	assert_int_equal(count(&r->owner.needs_resets), 0);
	rig_connect(r);
	for (unsigned i = 0; i < RIG_BUFFERS; i++)
		rig_send_u64(r, VHOST_USER_SET_FEATURES, 0, i, -1);
	/* Hung up on, since the driver has to begin anew. */
	assert_false(rig_recv(r, &(struct rig_msg){ 0 }));
	assert_int_equal(count(&r->owner.needs_resets), 1);
	assert_true(count(&r->faults) > 0);
	fd_close(&r->sock);
	assert_int_equal(rig_map(r, page, IOMMU_PAGE), 0);
	begin_anew();
	shake_hands(USUAL, USUAL);
	end();
}

static void *unmap_and_map(void *arg)
{
	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(rig_unmap(r, 0, r->mem->size), 0);
		assert_int_equal(rig_map(r, 0, r->mem->size), 0);
	}
	return NULL;
}

static void resets_and_unmaps_may_meet(void **state)
{
	struct err err = { 0 };
	pthread_t thread;

	begin_behind();
	assert_int_equal(pthread_create(&thread, NULL, unmap_and_map, NULL), 0);
	for (unsigned i = 0; i < 200; i++) {
		r->b->ops->stop(r->b);
		rig_new_rings(r);
		rig_start(r, RIG_BUFFERS); /* if it is mapped just then */
		rig_set_status(r, VVU_STATUS_BACKEND_UP);
		/* None is let in until a driver is up, so there may be too many. */
		r->sock = sock_connect(r->path, &err);
		if (r->sock >= 0)
			rig_send(r, VHOST_USER_GET_FEATURES, 0, NULL, 0, NULL, 0);
		fd_close(&r->sock);
	}
	pthread_join(thread, NULL);
	begin_anew();
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_features_that_can_be_had_are_offered),
		cmocka_unit_test(inflight_is_offered_only_where_the_driver_knows_it),
		cmocka_unit_test(features_may_be_accepted_unasked),
		cmocka_unit_test(what_was_not_offered_is_not_negotiated),
		cmocka_unit_test(a_driver_without_reply_ack_is_answered_for),
		cmocka_unit_test(memory_is_there_before_the_driver_hears_of_it),
		cmocka_unit_test(regions_fill_gaps_and_go_when_the_driver_says_so),
		cmocka_unit_test(a_region_that_the_driver_refuses_is_taken_out),
		cmocka_unit_test(what_the_pci_side_refuses_is_refused),
		cmocka_unit_test(without_reply_ack_a_refusal_is_the_end),
		cmocka_unit_test(a_request_waits_for_the_answer_to_the_one_before),
		cmocka_unit_test(messages_wait_for_buffers),
		cmocka_unit_test(answers_that_nobody_reads_are_not_piled_up),
		cmocka_unit_test(an_inflight_area_has_room_for_larger_queues),
		cmocka_unit_test(areas_that_nobody_fetches_are_not_piled_up),
		cmocka_unit_test(eventfds_are_connected_before_the_driver_hears_of_them),
		cmocka_unit_test(a_descriptor_that_cannot_be_closed_holds_nobody_up),
		cmocka_unit_test(a_buffer_that_is_too_small_needs_a_reset),
		cmocka_unit_test(an_answer_of_the_wrong_size_needs_a_reset),
		cmocka_unit_test(an_answer_that_nobody_asked_is_dropped),
		cmocka_unit_test(half_a_pair_of_queues_costs_no_cpu_time),
		cmocka_unit_test(more_queues_than_there_are_doorbells_are_not_promised),
		cmocka_unit_test(requests_of_the_driver_go_their_own_way),
		cmocka_unit_test(an_answer_that_is_no_number_is_the_end_of_the_sibling),
		cmocka_unit_test(a_sibling_may_stop_listening_to_the_driver),
		cmocka_unit_test(a_sibling_that_does_not_read_holds_the_driver_up),
		cmocka_unit_test(the_driver_hears_by_a_buffer),
		cmocka_unit_test(the_driver_hears_by_the_status),
		cmocka_unit_test(the_driver_hears_by_both),
		cmocka_unit_test(memory_stays_until_the_driver_has_turned_to_the_next),
		cmocka_unit_test(a_reset_takes_everything_back_at_once),
		cmocka_unit_test(behind_an_iommu_all_goes_by_what_is_mapped),
		cmocka_unit_test(without_one_nothing_is_said_of_it),
		cmocka_unit_test(rings_that_are_taken_back_are_not_touched),
		cmocka_unit_test(rings_that_are_not_mapped_do_not_start),
		cmocka_unit_test(a_buffer_that_is_taken_back_is_missed_when_it_is_used),
		cmocka_unit_test(resets_and_unmaps_may_meet),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
