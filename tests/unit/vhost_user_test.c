/* vhost_user_test.c - a back-end that behaves: handshake, queues, memory, configuration */
#include "slow_file.h"
#include "vhost_fixture.h"

/* --- the handshake --- */

static void a_handshake_takes_what_is_known_and_masks_the_rest(void **state)
{
	struct fix *x = fix_new();

	x->f.protocol = ~0ull;
	x->f.features = ~0ull;
	attach(x);
	assert_int_equal(x->f.acked, P(MQ) | P(LOG_SHMFD) | P(REPLY_ACK) | P(BACKEND_REQ) |
					     P(CONFIG) | P(BACKEND_SEND_FD) | P(INFLIGHT_SHMFD) |
					     P(RESET_DEVICE) | P(CONFIGURE_MEM_SLOTS) | P(STATUS) |
					     P(DEVICE_STATE) | P(SHMEM_MAP));
	/* The type's own from 0 to 23 and from 50; and of the rest those that need nobody's help.
	 */
	assert_int_equal(backend(x)->info.features, 0xffffffull | BIT(28) | BIT(29) | BIT(32) |
							    BIT(34) | BIT(35) | BIT(36) | BIT(38) |
							    BIT(40) | ~0ull << 50);
	fix_free(x);
}

static void queues_are_as_many_as_the_back_end_has(void **state)
{
	struct fix *x = fix_new();

	x->f.queue_num = 5;
	attach(x);
	assert_int_equal(backend(x)->info.nr_queues, 5);
	assert_int_equal(backend(x)->info.queue_sizes[4], 256);
	fix_free(x);
}

static void a_start_tells_everything_in_order(void **state)
{
	struct fix *x = fix_new();
	struct fake *f = &x->f;
	struct rec r;

	x->f.protocol |= P(INFLIGHT_SHMFD);
	attach(x);
	assert_int_equal(start(x, BIT(9)), 0);
	assert_int_equal(f->last_features, BIT(32) | BIT(30) | BIT(9));
	assert_int_equal(count(f, VHOST_USER_ADD_MEM_REG, 1), 1);
	for (unsigned i = 0; i < NR; i++) {
		r = nth(f, VHOST_USER_SET_VRING_NUM, 1, i);
		assert_int_equal(r.state.num, RING_SIZE);
		assert_true(place(f, VHOST_USER_SET_VRING_NUM, 1, i) <
			    place(f, VHOST_USER_GET_INFLIGHT_FD, 1, 0));
		assert_int_equal(nth(f, VHOST_USER_SET_VRING_BASE, 1, i).state.num, 0);
		r = nth(f, VHOST_USER_SET_VRING_ADDR, 1, i);
		assert_int_equal(r.addr.desc, VUF_USER_BASE + x->q[i].desc);
		assert_int_equal(r.addr.avail, VUF_USER_BASE + x->q[i].driver);
		assert_int_equal(r.addr.used, VUF_USER_BASE + x->q[i].device);
		assert_int_equal(nth(f, VHOST_USER_SET_VRING_KICK, 1, i).nr_fds, 1);
		assert_true(place(f, VHOST_USER_SET_INFLIGHT_FD, 1, 0) <
			    place(f, VHOST_USER_SET_VRING_KICK, 1, i));
		assert_int_equal(nth(f, VHOST_USER_SET_VRING_ENABLE, 1, i).state.num, 1);
		assert_true(fd_clear(x->q[i].kick_fd));
	}
	assert_true(place(f, VHOST_USER_SET_VRING_KICK, 1, 1) <
		    place(f, VHOST_USER_SET_VRING_ENABLE, 1, 0));
	fix_free(x);
}

static void a_stop_drains_and_the_connection_stays(void **state)
{
	struct fix *x = fix_new();

	x->f.protocol |= P(RESET_DEVICE);
	attach(x);
	for (unsigned n = 1; n <= 3; n++) {
		assert_int_equal(start(x, 0), 0);
		stop(x);
		assert_int_equal(count(&x->f, VHOST_USER_GET_VRING_BASE, 0), n * NR);
		assert_int_equal(count(&x->f, VHOST_USER_RESET_DEVICE, 0), n);
		assert_int_equal(count(&x->f, VHOST_USER_ADD_MEM_REG, 0), 1);
	}
	assert_int_equal(x->f.connections, 1);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_BASE, 1, 2).state.num, 0);
	fix_free(x);
}

static void only_queues_that_the_driver_made_ready_are_set_up(void **state)
{
	struct fix *x = fix_new();

	attach(x);
	x->q[0].enabled = false;
	assert_int_equal(start(x, 0), 0);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_KICK, 0), 1);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_NUM, 1, 0).state.index, 1);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_ENABLE, 0), 1);
	fix_free(x);
}

static void one_queue_is_reset_and_started_while_the_other_runs(void **state)
{
	struct fix *x = fix_new();
	struct virtio_backend *b;

	attach(x);
	b = backend(x);
	assert_int_equal(start(x, 0), 0);
	assert_int_equal(b->ops->queue_stop(b, 1), 0);
	assert_int_equal(count(&x->f, VHOST_USER_GET_VRING_BASE, 0), 1);
	assert_int_equal(nth(&x->f, VHOST_USER_GET_VRING_BASE, 1, 0).state.index, 1);
	x->q[1].size = 16;
	fd_clear(x->q[0].kick_fd);
	fd_clear(x->q[1].kick_fd);
	assert_int_equal(b->ops->queue_start(b, 1, &x->q[1]), 0);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_NUM, 1, 2).state.num, 16);
	assert_int_equal(count(&x->f, VHOST_USER_SET_FEATURES, 0), 1);
	assert_false(fd_clear(x->q[0].kick_fd));
	assert_true(fd_clear(x->q[1].kick_fd));
	fix_free(x);
}

static void a_queue_gets_another_descriptor_to_call(void **state)
{
	struct fix *x = fix_new();
	struct virtio_backend *b;
	struct rec r;

	attach(x);
	b = backend(x);
	b->ops->queue_call(b, 0, x->q[1].call_fd); /* not started: said with the start */
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_CALL, 0), 0);
	assert_int_equal(start(x, 0), 0);
	b->ops->queue_call(b, 1, -1);
	r = nth(&x->f, VHOST_USER_SET_VRING_CALL, 1, 2);
	assert_int_equal(r.u64, 1 | VHOST_USER_NOFD);
	assert_int_equal(r.nr_fds, 0);
	b->ops->queue_call(b, 1, x->q[0].call_fd);
	r = nth(&x->f, VHOST_USER_SET_VRING_CALL, 1, 3);
	assert_int_equal(r.u64, 1);
	assert_int_equal(r.nr_fds, 1);
	fix_free(x);
}

static void a_back_end_without_acknowledgements_is_told_all_the_same(void **state)
{
	struct fix *x = fix_new();
	struct arrival kicks = { &x->f, VHOST_USER_SET_VRING_ENABLE, 1, NR };

	x->f.protocol = P(MQ);
	attach(x);
	assert_int_equal(start(x, 0), 0);
	run_until(x->loop, has_arrived, &kicks);
	stop(x);
	assert_int_equal(count(&x->f, VHOST_USER_GET_VRING_BASE, 0), NR);
	fix_free(x);
}

static void a_back_end_without_protocol_features_runs_without_enable(void **state)
{
	struct fix *x = fix_new();

	x->f.features &= ~BIT(30);
	x->p.type = VIRTIO_ID_NET;
	attach(x);
	assert_int_equal(backend(x)->info.nr_queues, 2); /* as the type usually has */
	assert_int_equal(start(x, BIT(9)), 0);
	stop(x);
	assert_int_equal(x->f.last_features, BIT(32) | BIT(9));
	assert_int_equal(count(&x->f, VHOST_USER_SET_PROTOCOL_FEATURES, 0), 0);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_ENABLE, 0), 0);
	assert_int_equal(count(&x->f, VHOST_USER_SET_MEM_TABLE, 0), 1);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_KICK, 0), NR);
	fix_free(x);
}

static void a_network_device_without_control_queue_offers_no_features_of_it(void **state)
{
	struct fix *x = fix_new();

	x->p.type = VIRTIO_ID_NET;
	x->f.features |= BIT(5) | BIT(17) | BIT(22);
	attach(x);
	assert_int_equal(backend(x)->info.features, BIT(VIRTIO_BIT_VERSION_1) | BIT(5) | BIT(9));
	fix_free(x);

	x = fix_new();
	x->p.type = VIRTIO_ID_NET;
	x->p.queue_sizes = x->sizes;
	x->p.nr_queues = 3;
	for (unsigned i = 0; i < 3; i++)
		x->sizes[i] = 64;
	x->f.features |= BIT(17);
	attach(x);
	assert_true(backend(x)->info.features & BIT(17));
	assert_int_equal(backend(x)->info.queue_sizes[2], 64);
	fix_free(x);
}

static void many_queues_fit_through_a_socket(void **state)
{
	struct fix *x = fix_new();
	unsigned nr = VUF_MAX_QUEUES;

	x->f.queue_num = nr;
	attach(x);
	for (unsigned i = NR; i < nr; i++) {
		x->q[i] = x->q[0];
		x->q[i].kick_fd = fd_eventfd();
		x->q[i].call_fd = fd_eventfd();
	}
	assert_int_equal(start(x, 0), 0);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_ENABLE, 1), nr);
	lose_and_return(x);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_ENABLE, 2), nr);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_KICK, 2, nr - 1).nr_fds, 1);
	stop(x);
	assert_int_equal(count(&x->f, VHOST_USER_GET_VRING_BASE, 2), nr);
	fix_free(x);
}

static void a_refused_start_is_undone(void **state)
{
	struct fix *x = fix_new();

	x->f.refuse = VHOST_USER_SET_VRING_ADDR;
	attach(x);
	assert_int_equal(start(x, 0), -EIO);
	assert_int_equal(logged(x, "refused SET_VRING_ADDR"), 1);
	assert_int_equal(count(&x->f, VHOST_USER_GET_VRING_BASE, 0), NR);
	assert_true(vhost_user_connected(x->vu));
	x->f.refuse = 0;
	assert_int_equal(start(x, 0), 0);
	assert_int_equal(start(x, BIT(11)), -EIO); /* was not offered */
	fix_free(x);
}

static void a_ring_outside_ram_is_refused_before_the_back_end_hears_of_it(void **state)
{
	struct fix *x = fix_new();

	attach(x);
	x->q[1].device = RAM_SIZE - 6 - 8 * RING_SIZE + 1;
	assert_int_equal(start(x, 0), -EFAULT);
	assert_int_equal(logged(x, "queue 1: device's part"), 1);
	assert_int_equal(count(&x->f, VHOST_USER_SET_FEATURES, 0), 0);
	x->q[1].device--;
	assert_int_equal(start(x, 0), 0);
	fix_free(x);
}

static void status_goes_to_a_back_end_that_wants_it(void **state)
{
	struct fix *x = fix_new();

	x->f.protocol |= P(STATUS);
	attach(x);
	assert_int_equal(start(x, 0), 0);
	stop(x);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_STATUS, 1, 0).u64, 15);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_STATUS, 1, 1).u64, 0);
	fix_free(x);
}

/* --- memory --- */

static void memory_goes_as_a_table_to_a_back_end_without_slots(void **state)
{
	struct fix *x = fix_new();
	struct rec r;

	ram_add();
	x->f.protocol &= ~P(CONFIGURE_MEM_SLOTS);
	attach(x);
	assert_int_equal(start(x, 0), 0);
	r = nth(&x->f, VHOST_USER_SET_MEM_TABLE, 1, 0);
	assert_int_equal(r.h.size, 8 + 2 * 32);
	assert_int_equal(r.nr_fds, 2);
	assert_int_equal(r.table.nr, 2);
	assert_int_equal(r.table.regions[1].gpa, HIGH_GPA + RAM_SIZE);
	assert_int_equal(r.table.regions[1].user_addr, VUF_USER_BASE + HIGH_GPA + RAM_SIZE);
	assert_int_equal(r.table.regions[1].mmap_offset, RAM_SIZE);
	assert_int_equal(count(&x->f, VHOST_USER_ADD_MEM_REG, 0), 0);
	fix_free(x);
}

static void memory_that_changes_is_told_while_queues_run(void **state)
{
	struct fix *x = fix_new();
	struct arrival added = { &x->f, VHOST_USER_ADD_MEM_REG, 1, 2 };
	struct arrival removed = { &x->f, VHOST_USER_REM_MEM_REG, 1, 1 };
	uint32_t value;

	attach(x);
	ram_add();
	ram_remove(); /* before the first start: nobody's business */
	assert_int_equal(start(x, 0), 0);
	ram_add();
	run_until(x->loop, has_arrived, &added);
	assert_int_equal(
		nth(&x->f, VHOST_USER_ADD_MEM_REG, 1, 1).reg.region.gpa, HIGH_GPA + RAM_SIZE);
	ram_remove();
	run_until(x->loop, has_arrived, &removed);
	assert_int_equal(nth(&x->f, VHOST_USER_REM_MEM_REG, 1, 0).nr_fds, 0);
	/* Their answers are taken on the way. */
	backend(x)->ops->config_read(backend(x), 0, &value, 4);
	assert_true(vhost_user_connected(x->vu));
	fix_free(x);
}

static void more_memory_than_the_back_end_takes_is_refused(void **state)
{
	struct fix *x = fix_new();

	for (unsigned i = 0; i < VHOST_USER_MAX_TABLE_REGIONS; i++)
		ram_add();
	x->f.protocol &= ~P(CONFIGURE_MEM_SLOTS);
	attach(x);
	assert_int_equal(start(x, 0), -EIO);
	assert_int_equal(logged(x, "takes 8 memory regions, guest RAM has 9"), 1);
	ram_remove();
	assert_int_equal(start(x, 0), 0);
	ram_add();
	assert_int_equal(logged(x, "does not reach all of it"), 1);
	fix_free(x);

	x = fix_new();
	ram_add();
	x->f.slots = 1;
	attach(x);
	assert_int_equal(start(x, 0), -EIO);
	fix_free(x);
}

static void a_table_is_told_again_after_a_reset(void **state)
{
	struct fix *x = fix_new();

	x->f.protocol &= ~P(CONFIGURE_MEM_SLOTS);
	attach(x);
	for (unsigned n = 1; n <= 2; n++) {
		assert_int_equal(start(x, 0), 0);
		assert_int_equal(count(&x->f, VHOST_USER_SET_MEM_TABLE, 0), n);
		stop(x);
	}
	fix_free(x);
}

static void a_back_end_has_longer_for_more_memory(void **state)
{
	struct fix *x = fix_new();

	ram.ranges[1] = (struct mem_range){ .gpa = HIGH_GPA, .size = 16 * GIB, .fd = ram.fd };
	ram.nr = 2;
	attach(x);
	assert_int_equal(vuf_mem_patience_ms(x->vu), 16000);
	assert_int_equal(start(x, 0), 0);
	assert_int_equal(vuf_mem_patience_ms(x->vu), 0); /* once */
	lose_and_return(x);
	assert_int_equal(vuf_mem_patience_ms(x->vu), 0);
	fix_free(x);
}

/* --- configuration --- */

static uint32_t config32(struct fix *x, uint32_t off)
{
	uint32_t value = 0x12345678;

	backend(x)->ops->config_read(backend(x), off, &value, sizeof(value));
	return value;
}

static void configuration_is_asked_for_from_its_beginning_and_no_further(void **state)
{
	struct fix *x = fix_new();
	uint32_t expected;
	struct rec r;

	attach(x);
	memcpy(&expected, x->f.config + 56, 4);
	assert_int_equal(config32(x, 56), expected);
	r = nth(&x->f, VHOST_USER_GET_CONFIG, 1, 0);
	assert_int_equal(r.config.offset, 0);
	assert_int_equal(r.config.size, 60);
	assert_int_equal(r.h.size, VHOST_USER_CONFIG_HEADER + 60);
	/* More than it has is refused, more than a message holds is not asked for. */
	assert_int_equal(config32(x, 60), UINT32_MAX);
	assert_int_equal(config32(x, 64), UINT32_MAX);
	assert_int_equal(logged(x, "refused to read its device configuration"), 1);
	assert_int_equal(config32(x, 256), UINT32_MAX);
	assert_int_equal(config32(x, UINT32_MAX - 1), UINT32_MAX);
	assert_int_equal(count(&x->f, VHOST_USER_GET_CONFIG, 0), 3);
	assert_int_equal(config32(x, 254), UINT32_MAX);
	assert_int_equal(nth(&x->f, VHOST_USER_GET_CONFIG, 1, 3).config.size, 256);
	assert_true(vhost_user_connected(x->vu));
	fix_free(x);
}

static void configuration_is_written_where_it_is(void **state)
{
	struct fix *x = fix_new();
	uint16_t value = 0xabcd;
	struct rec r;

	attach(x);
	backend(x)->ops->config_write(backend(x), 32, &value, 2);
	r = nth(&x->f, VHOST_USER_SET_CONFIG, 1, 0);
	assert_int_equal(r.config.offset, 32);
	assert_int_equal(r.config.size, 2);
	assert_int_equal(r.config.flags, 0);
	assert_memory_equal(r.config.bytes, &value, 2);
	backend(x)->ops->config_write(backend(x), 255, &value, 2);
	assert_int_equal(count(&x->f, VHOST_USER_SET_CONFIG, 0), 1);
	x->f.refuse = VHOST_USER_SET_CONFIG;
	backend(x)->ops->config_write(backend(x), 32, &value, 2);
	backend(x)->ops->config_write(backend(x), 32, &value, 2);
	assert_int_equal(logged(x, "refused to write"), 1);
	assert_true(vhost_user_connected(x->vu));
	fix_free(x);
}

static void a_back_end_without_configuration_has_the_given_bytes(void **state)
{
	struct fix *x = fix_new();
	static const uint8_t given[6] = { 1, 2, 3, 4, 5, 6 };

	x->f.protocol &= ~P(CONFIG);
	x->p.config = given;
	x->p.config_size = sizeof(given);
	attach(x);
	assert_int_equal(config32(x, 0), 0x04030201);
	assert_int_equal(config32(x, 4), 0xffff0605);
	assert_int_equal(config32(x, 8), UINT32_MAX);
	assert_int_equal(logged(x, "warning"), 0);
	fix_free(x);

	x = fix_new(); /* which has one, but is not to be asked */
	x->p.config = given;
	x->p.config_size = sizeof(given);
	x->p.config_is_ours = true;
	attach(x);
	assert_false(x->f.acked & P(CONFIG));
	assert_int_equal(config32(x, 0), 0x04030201);
	fix_free(x);

	x = fix_new();
	x->f.protocol &= ~P(CONFIG);
	attach(x);
	assert_int_equal(config32(x, 0), UINT32_MAX);
	assert_int_equal(config32(x, 0), UINT32_MAX);
	assert_int_equal(logged(x, "no device configuration"), 1);
	fix_free(x);
}

/* --- what the back-end asks --- */

struct back_answer {
	struct fake *f;
	struct {
		struct vhost_user_header h;
		uint64_t value;
	} __attribute__((packed)) m;
	struct fd_list fds;
};

static bool back_answered(void *arg)
{
	struct back_answer *a = arg;
	ssize_t n;

	pthread_mutex_lock(&a->f->lock);
	n = sock_recv(a->f->back_fd, &a->m, sizeof(a->m), &a->fds);
	pthread_mutex_unlock(&a->f->lock);
	return n == sizeof(a->m);
}

/* Send one over the back-end's socket, and return the number that is the answer. */
static uint64_t ask_front(
	struct fix *x, uint32_t request, const void *payload, uint32_t len, int fd, bool need_reply)
{
	struct vhost_user_header h = {
		.request = request,
		.flags = VHOST_USER_FLAG_VERSION | (need_reply ? VHOST_USER_FLAG_NEED_REPLY : 0),
	};
	struct back_answer a = { .f = &x->f };

	pthread_mutex_lock(&x->f.lock);
	fake_message(x->f.back_fd, h, payload, len, &fd, fd >= 0);
	pthread_mutex_unlock(&x->f.lock);
	if (!need_reply)
		return 0;
	run_until(x->loop, back_answered, &a);
	assert_int_equal(a.m.h.flags, VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY);
	assert_int_equal(a.m.h.request, request);
	assert_int_equal(a.fds.nr, 0);
	return a.m.value;
}

static bool has_changed(void *arg)
{
	return ((struct fix *)arg)->w.changed;
}

static void a_change_of_configuration_reaches_the_owner(void **state)
{
	struct fix *x = fix_new();

	attach(x);
	assert_int_equal(ask_front(x, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, NULL, 0, -1, true), 0);
	assert_int_equal(x->w.changed, 1);
	ask_front(x, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, NULL, 0, -1, false);
	x->w.changed = 0;
	run_until(x->loop, has_changed, x);
	fix_free(x);
}

static void shared_memory_is_mapped_by_the_owner(void **state)
{
	struct fix *x = fix_new();
	struct vhost_user_mmap map = {
		.shmid = 3, .fd_offset = 8192, .shm_offset = 4096, .len = 12288, .flags = 1
	};

	x->f.protocol |= P(SHMEM_MAP) | P(BACKEND_SEND_FD);
	x->f.shmem = (struct vhost_user_shmem_config){ .nr = 1 };
	x->f.shmem.sizes[3] = 1 * MIB;
	attach(x);
	assert_int_equal(backend(x)->info.shm[0].id, 3);
	assert_int_equal(backend(x)->info.shm[0].size, 1 * MIB);
	assert_int_equal(backend(x)->info.shm[1].size, 0);
	assert_int_equal(
		ask_front(x, VHOST_USER_BACKEND_SHMEM_MAP, &map, sizeof(map), ram.fd, true), 0);
	assert_int_equal(x->w.maps, 1);
	assert_int_equal(x->w.shmid, 3);
	assert_int_equal(x->w.shm_off, 4096);
	assert_int_equal(x->w.shm_len, 12288);
	assert_int_equal(x->w.fd_off, 8192);
	assert_true(x->w.writable);
	assert_int_equal(
		ask_front(x, VHOST_USER_BACKEND_SHMEM_UNMAP, &map, sizeof(map), -1, true), 0);
	assert_int_equal(x->w.unmaps, 1);
	x->w.map_rc = -EEXIST;
	assert_int_equal(
		ask_front(x, VHOST_USER_BACKEND_SHMEM_MAP, &map, sizeof(map), ram.fd, true),
		EINVAL);
	map.len = 100;
	assert_int_equal(
		ask_front(x, VHOST_USER_BACKEND_SHMEM_MAP, &map, sizeof(map), ram.fd, true),
		EINVAL);
	assert_int_equal(x->w.maps, 2);
	fix_free(x);
}

/* Whoever touches such a mapping waits for its owner, a vCPU too. */
static void a_file_that_may_not_answer_is_not_mapped(void **state)
{
	struct vhost_user_mmap map = { .shmid = 3, .len = 4096 };
	struct slow_file slow;
	int fd = slow_file_open(&slow);
	struct fix *x;

	if (fd < 0)
		skip();
	x = fix_new();
	x->f.protocol |= P(SHMEM_MAP) | P(BACKEND_SEND_FD);
	x->f.shmem = (struct vhost_user_shmem_config){ .nr = 1 };
	x->f.shmem.sizes[3] = 1 * MIB;
	attach(x);
	assert_int_equal(
		ask_front(x, VHOST_USER_BACKEND_SHMEM_MAP, &map, sizeof(map), fd, true), EINVAL);
	assert_int_equal(x->w.maps, 0);
	assert_int_equal(logged(x, "neither memory nor on a block device"), 1);
	assert_false(atomic_load(&slow.state->late));
	slow_file_answer(&slow);
	fix_free(x);
	close(fd);
	slow_file_end(&slow);
}

static void other_requests_of_the_back_end_are_refused(void **state)
{
	struct fix *x = fix_new();
	static const uint8_t bytes[200];

	attach(x);
	assert_int_equal(ask_front(x, VHOST_USER_BACKEND_VRING_CALL, bytes, 8, -1, true), EINVAL);
	assert_int_equal(
		ask_front(x, VHOST_USER_BACKEND_SHMEM_MAP, bytes, 40, ram.fd, true), EINVAL);
	assert_int_equal(
		ask_front(x, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, bytes, 8, -1, true), EINVAL);
	assert_int_equal(
		ask_front(x, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, NULL, 0, ram.fd, true), EINVAL);
	for (uint32_t request = 0; request < 100; request++)
		if (request != VHOST_USER_BACKEND_CONFIG_CHANGE_MSG)
			assert_int_equal(ask_front(x, request, bytes, 200, -1, true), EINVAL);
	assert_true(vhost_user_connected(x->vu));
	assert_true(logged(x, "refused") <= 5);
	fix_free(x);
}

static void an_error_of_a_queue_is_told_once(void **state)
{
	struct fix *x = fix_new();

	attach(x);
	for (int n = 1; n <= 2; n++) {
		assert_int_equal(start(x, 0), 0);
		pthread_mutex_lock(&x->f.lock);
		fd_signal(x->f.err_fd);
		pthread_mutex_unlock(&x->f.lock);
		atomic_store(&x->w.needs_reset, 0);
		run_until(x->loop, needs_reset, x);
		assert_int_equal(logged(x, "cannot make sense of a queue"), n);
		stop(x);
	}
	fix_free(x);
}

/* --- the list --- */

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_handshake_takes_what_is_known_and_masks_the_rest),
		cmocka_unit_test(queues_are_as_many_as_the_back_end_has),
		cmocka_unit_test(a_start_tells_everything_in_order),
		cmocka_unit_test(a_stop_drains_and_the_connection_stays),
		cmocka_unit_test(only_queues_that_the_driver_made_ready_are_set_up),
		cmocka_unit_test(one_queue_is_reset_and_started_while_the_other_runs),
		cmocka_unit_test(a_queue_gets_another_descriptor_to_call),
		cmocka_unit_test(a_back_end_without_acknowledgements_is_told_all_the_same),
		cmocka_unit_test(a_back_end_without_protocol_features_runs_without_enable),
		cmocka_unit_test(a_network_device_without_control_queue_offers_no_features_of_it),
		cmocka_unit_test(many_queues_fit_through_a_socket),
		cmocka_unit_test(a_refused_start_is_undone),
		cmocka_unit_test(a_ring_outside_ram_is_refused_before_the_back_end_hears_of_it),
		cmocka_unit_test(status_goes_to_a_back_end_that_wants_it),
		cmocka_unit_test(memory_goes_as_a_table_to_a_back_end_without_slots),
		cmocka_unit_test(memory_that_changes_is_told_while_queues_run),
		cmocka_unit_test(more_memory_than_the_back_end_takes_is_refused),
		cmocka_unit_test(a_table_is_told_again_after_a_reset),
		cmocka_unit_test(a_back_end_has_longer_for_more_memory),
		cmocka_unit_test(configuration_is_asked_for_from_its_beginning_and_no_further),
		cmocka_unit_test(configuration_is_written_where_it_is),
		cmocka_unit_test(a_back_end_without_configuration_has_the_given_bytes),
		cmocka_unit_test(a_change_of_configuration_reaches_the_owner),
		cmocka_unit_test(shared_memory_is_mapped_by_the_owner),
		cmocka_unit_test(a_file_that_may_not_answer_is_not_mapped),
		cmocka_unit_test(other_requests_of_the_back_end_are_refused),
		cmocka_unit_test(an_error_of_a_queue_is_told_once),
	};

	log_init("test", LOG_INFO);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
