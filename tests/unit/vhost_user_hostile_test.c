/* vhost_user_hostile_test.c - back-ends that answer wrongly: one line, and the device is away */
#include "slow_file.h"
#include "vhost_fixture.h"

/* --- ways to answer wrongly; hook_arg is the request that is answered so --- */

static bool is_the_one(struct fake *f, const struct rec *r)
{
	return r->h.request == atomic_load(&f->hook_arg);
}

/* From the one on, for the rest of the connection. */
static bool silent(struct fake *f, const struct rec *r)
{
	if (is_the_one(f, r))
		f->mute = r->connection;
	return f->mute == r->connection;
}

static bool closes(struct fake *f, const struct rec *r)
{
	if (!is_the_one(f, r))
		return false;
	shutdown(f->conn, SHUT_RDWR);
	return true;
}

static bool half_a_header(struct fake *f, const struct rec *r)
{
	if (!is_the_one(f, r))
		return false;
	send_all(f->conn, "\1\0\0\0\5", 5, NULL, 0);
	return closes(f, r);
}

static bool half_a_payload(struct fake *f, const struct rec *r)
{
	struct vhost_user_header h = { r->h.request, 5, 8 };

	if (!is_the_one(f, r))
		return false;
	send_all(f->conn, &h, sizeof(h), NULL, 0);
	send_all(f->conn, "abc", 3, NULL, 0);
	return closes(f, r);
}

/* A header by itself, with what is wrong about it. */
static bool header(struct fake *f, const struct rec *r, struct vhost_user_header h)
{
	if (!is_the_one(f, r))
		return false;
	send_all(f->conn, &h, sizeof(h), NULL, 0);
	return true;
}

static bool other_version(struct fake *f, const struct rec *r)
{
	return header(f, r, (struct vhost_user_header){ r->h.request, 4 | 2, 8 });
}

static bool no_reply_flag(struct fake *f, const struct rec *r)
{
	return header(f, r, (struct vhost_user_header){ r->h.request, 1, 8 });
}

static bool huge(struct fake *f, const struct rec *r)
{
	return header(f, r, (struct vhost_user_header){ r->h.request, 5, 0xfffffff0 });
}

static bool too_short(struct fake *f, const struct rec *r)
{
	return header(f, r, (struct vhost_user_header){ r->h.request, 5, 4 });
}

static bool too_long(struct fake *f, const struct rec *r)
{
	return header(f, r, (struct vhost_user_header){ r->h.request, 5, 16 });
}

static bool other_request(struct fake *f, const struct rec *r)
{
	return header(f, r, (struct vhost_user_header){ r->h.request + 1, 5, 8 });
}

/* In one piece, so that one read finds both. */
static bool twice(struct fake *f, const struct rec *r)
{
	struct {
		struct vhost_user_header h;
		uint8_t payload[64];
	} m[2];
	uint32_t size = r->h.request == VHOST_USER_GET_CONFIG ? r->h.size : 8;

	if (!is_the_one(f, r))
		return false;
	m[0].h = (struct vhost_user_header){ r->h.request, 5, size };
	memset(m[0].payload, 0xff, sizeof(m[0].payload));
	memcpy(m[0].payload, r->data, MIN(size, (uint32_t)VHOST_USER_CONFIG_HEADER));
	memcpy((uint8_t *)m + sizeof(m[0].h) + size, &m[0], sizeof(m[0].h) + size);
	send_all(f->conn, m, 2 * (sizeof(m[0].h) + size), NULL, 0);
	return true;
}

static bool with_descriptors(struct fake *f, const struct rec *r)
{
	uint64_t value = f->features;
	int fds[3] = { f->wake, f->wake, f->wake };

	if (!is_the_one(f, r))
		return false;
	fake_reply(f, r, &value, sizeof(value), fds, 3);
	return true;
}

static bool zero(struct fake *f, const struct rec *r)
{
	if (!is_the_one(f, r))
		return false;
	reply_u64(f, r, 0);
	return true;
}

static bool random_bytes(struct fake *f, const struct rec *r)
{
	uint8_t bytes[3000];

	if (!is_the_one(f, r))
		return false;
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7 + (i >> 4));
	send_all(f->conn, bytes, sizeof(bytes), NULL, 0);
	return true;
}

/* --- at the attach --- */

static const struct refusal {
	fake_hook hook;
	uint32_t request;
	int rc;
	const char *text;
} refusals[] = {
	{ silent, VHOST_USER_GET_FEATURES, -ETIMEDOUT, "no answer within 1000 ms (GET_FEATURES)" },
	{ silent, VHOST_USER_GET_QUEUE_NUM, -ETIMEDOUT, "(asking for its limits)" },
	{ closes, VHOST_USER_GET_FEATURES, -ECONNRESET, "hung up" },
	{ closes, VHOST_USER_SET_PROTOCOL_FEATURES, -ECONNRESET, "hung up" },
	{ half_a_header, VHOST_USER_GET_FEATURES, -ECONNRESET, "hung up" },
	{ half_a_payload, VHOST_USER_GET_FEATURES, -ECONNRESET, "hung up" },
	{ other_version, VHOST_USER_GET_FEATURES, -EINVAL, "version 2, expected 1" },
	{ no_reply_flag, VHOST_USER_GET_FEATURES, -EINVAL, "a request where a reply" },
	{ huge, VHOST_USER_GET_FEATURES, -EINVAL, "payload of 4294967280 bytes" },
	{ too_short, VHOST_USER_GET_FEATURES, -EINVAL, "GET_FEATURES: reply of 4 bytes" },
	{ too_long, VHOST_USER_GET_FEATURES, -EINVAL, "GET_FEATURES: reply of 16 bytes" },
	{ other_request, VHOST_USER_GET_FEATURES, -EINVAL, "the reply is to request 2" },
	{ twice, VHOST_USER_GET_FEATURES, -EPROTO, "(GET_FEATURES) that nobody asked for" },
	{ with_descriptors, VHOST_USER_GET_FEATURES, -EPROTO, "3 descriptors with the answer" },
	{ random_bytes, VHOST_USER_GET_FEATURES, -EINVAL, "version" },
	{ zero, VHOST_USER_GET_FEATURES, -EPROTO, "without VIRTIO_F_VERSION_1" },
	{ zero, VHOST_USER_GET_QUEUE_NUM, -EPROTO, "GET_QUEUE_NUM: 0 queues" },
	{ zero, VHOST_USER_GET_MAX_MEM_SLOTS, -EPROTO, "GET_MAX_MEM_SLOTS: 0 regions" },
	{ with_descriptors, VHOST_USER_SET_BACKEND_REQ_FD, -EPROTO, "3 descriptors" },
};

static void what_is_wrong_at_the_attach_is_said(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(refusals); i++) {
		const struct refusal *r = &refusals[i];
		struct fix *x = fix_new();

		x->p.times.handshake_ms = 1000;
		x->p.times.connect_ms = 30;
		atomic_store(&x->f.hook_arg, r->request);
		atomic_store(&x->f.hook, r->hook);
		attach_fails(x, r->rc, r->text);
		assert_int_equal(x->w.attached, 0);
		fix_free(x);
	}
}

static void a_device_that_cannot_be_is_refused(void **state)
{
	struct fix *x = fix_new();

	x->p.type = VIRTIO_ID_FS;
	x->f.queue_num = 1;
	attach_fails(x, -EINVAL, "fs");
	fix_free(x);

	x = fix_new();
	x->p.type = VIRTIO_ID_FS;
	x->p.force = true;
	x->f.queue_num = 1;
	attach(x);
	fix_free(x);

	x = fix_new();
	x->p.queue_sizes = x->sizes;
	x->p.nr_queues = 3;
	x->sizes[0] = x->sizes[1] = x->sizes[2] = 16;
	attach_fails(x, -EINVAL, "3 queues asked for, the back-end has 2");
	fix_free(x);

	x = fix_new();
	x->p.queue_sizes = x->sizes;
	x->p.nr_queues = 2;
	x->sizes[0] = 100;
	attach_fails(x, -EINVAL, "queue 0: size 100, expected a power of two");
	fix_free(x);

	x = fix_new();
	x->f.refuse = VHOST_USER_SET_BACKEND_REQ_FD;
	attach_fails(x, -EPROTO, "refused SET_BACKEND_REQ_FD");
	fix_free(x);

	x = fix_new();
	x->f.protocol |= P(SHMEM_MAP);
	x->f.shmem.sizes[7] = 100;
	attach_fails(x, -EPROTO, "region 7 of 0x64 bytes");
	fix_free(x);
}

static void a_queue_number_beyond_all_measure_is_cut(void **state)
{
	struct fix *x = fix_new();

	x->f.queue_num = UINT64_MAX;
	attach(x);
	assert_int_equal(backend(x)->info.nr_queues, VUF_MAX_QUEUES);
	fix_free(x);

	x = fix_new();
	x->f.queue_num = UINT64_MAX;
	x->p.type = VIRTIO_ID_NET;
	attach(x);
	assert_int_equal(backend(x)->info.nr_queues, 2);
	fix_free(x);
}

/* --- while the device is in use --- */

static void use_config(struct fix *x)
{
	uint64_t value = 0;

	backend(x)->ops->config_read(backend(x), 0, &value, 8);
	assert_true(value == UINT64_MAX || value == *(uint64_t *)x->f.config);
}

static void use_start(struct fix *x)
{
	assert_int_equal(start(x, 0), 0); /* lost is no refusal */
}

static void use_stop(struct fix *x)
{
	stop(x);
}

static void use_call(struct fix *x)
{
	backend(x)->ops->queue_call(backend(x), 1, x->q[0].call_fd);
}

static bool config_of_other_size(struct fake *f, const struct rec *r)
{
	struct vhost_user_config c = { .size = 5 };

	if (!is_the_one(f, r))
		return false;
	fake_reply(f, r, &c, VHOST_USER_CONFIG_HEADER + 5, NULL, 0);
	return true;
}

static bool config_that_lies(struct fake *f, const struct rec *r)
{
	struct vhost_user_config c = { .size = 8 };

	if (!is_the_one(f, r))
		return false;
	fake_reply(f, r, &c, VHOST_USER_CONFIG_HEADER + 4, NULL, 0);
	return true;
}

static bool base_of_other_queue(struct fake *f, const struct rec *r)
{
	struct vhost_user_vring_state s = { 77, 0 };

	if (!is_the_one(f, r))
		return false;
	fake_reply(f, r, &s, sizeof(s), NULL, 0);
	return true;
}

static bool area(struct fake *f, const struct rec *r, uint64_t size, uint64_t offset, int fd)
{
	struct vhost_user_inflight a = { .mmap_size = size, .mmap_offset = offset };

	if (!is_the_one(f, r))
		return false;
	fake_reply(f, r, &a, sizeof(a), &fd, fd >= 0);
	return true;
}

static bool area_without_fd(struct fake *f, const struct rec *r)
{
	return area(f, r, 4096, 0, -1);
}

static bool area_beyond_file(struct fake *f, const struct rec *r)
{
	return area(f, r, 16 * RAM_SIZE, UINT64_MAX - 4096, ram.fd);
}

static bool area_of_nothing(struct fake *f, const struct rec *r)
{
	return area(f, r, 0, 0, ram.fd);
}

static bool area_in_a_socket(struct fake *f, const struct rec *r)
{
	return area(f, r, 4096, 0, f->conn);
}

static const struct misuse {
	void (*use)(struct fix *x);
	bool runs; /* before it is used so */
	fake_hook hook;
	uint32_t request;
	const char *text;
} misuses[] = {
	{ use_config, false, silent, VHOST_USER_GET_CONFIG, "GET_CONFIG was not answered in time" },
	{ use_config, true, closes, VHOST_USER_GET_CONFIG, "hung up" },
	{ use_config, false, half_a_header, VHOST_USER_GET_CONFIG, "hung up" },
	{ use_config, false, other_version, VHOST_USER_GET_CONFIG, "version 2" },
	{ use_config, false, huge, VHOST_USER_GET_CONFIG, "payload of" },
	{ use_config, false, random_bytes, VHOST_USER_GET_CONFIG, "version" },
	{ use_config, false, twice, VHOST_USER_GET_CONFIG, "nobody asked for" },
	{ use_config, false, with_descriptors, VHOST_USER_GET_CONFIG, "3 descriptors" },
	{ use_config, false, config_of_other_size, VHOST_USER_GET_CONFIG, "answered by 5 in 17" },
	{ use_config, false, config_that_lies, VHOST_USER_GET_CONFIG, "answered by 8 in 16" },
	{ use_start, false, silent, VHOST_USER_SET_VRING_ADDR, "SET_VRING_ADDR was not answered" },
	{ use_start, false, closes, VHOST_USER_SET_VRING_ENABLE, "hung up" },
	{ use_start, false, too_short, VHOST_USER_SET_VRING_KICK, "reply of 4 bytes" },
	{ use_start, false, area_without_fd, VHOST_USER_GET_INFLIGHT_FD, "descriptor is missing" },
	{ use_start, false, area_beyond_file, VHOST_USER_GET_INFLIGHT_FD, "not what its file has" },
	{ use_start, false, area_of_nothing, VHOST_USER_GET_INFLIGHT_FD, "not what its file has" },
	{ use_start, false, area_in_a_socket, VHOST_USER_GET_INFLIGHT_FD, "is no memory" },
	{ use_start, false, too_short, VHOST_USER_GET_INFLIGHT_FD, "reply of 4 bytes" },
	{ use_stop, true, silent, VHOST_USER_GET_VRING_BASE, "GET_VRING_BASE was not answered" },
	{ use_stop, true, closes, VHOST_USER_GET_VRING_BASE, "hung up" },
	{ use_stop, true, base_of_other_queue, VHOST_USER_GET_VRING_BASE, "queue 0 answered for" },
	{ use_call, true, silent, VHOST_USER_SET_VRING_CALL, "SET_VRING_CALL was not answered" },
	{ use_call, true, other_request, VHOST_USER_SET_VRING_CALL, "the reply is to request 14" },
};

/*
 * Each is one line in the log, after which the device is away, and back when the back-end behaves;
 * the driver's wishes hold.
 */
static void what_is_wrong_in_use_breaks_the_connection_and_no_more(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(misuses); i++) {
		const struct misuse *m = &misuses[i];
		struct fix *x = fix_new();

		x->p.times.handshake_ms = x->p.times.request_ms = 1000;
		x->f.protocol |= P(INFLIGHT_SHMFD);
		attach(x);
		if (m->runs)
			assert_int_equal(start(x, 0), 0);
		atomic_store(&x->f.hook_arg, m->request);
		atomic_store(&x->f.hook, m->hook);
		m->use(x);
		run_until(x->loop, is_lost, x);
		if (logged(x, m->text) != 1 || logged(x, "is away until") != 1)
			fail_msg("misuse %u: '%s' is not there once", i, m->text);
		atomic_store(&x->f.hook, NULL);
		run_until(x->loop, is_back, x);
		assert_int_equal(atomic_load(&x->w.needs_reset), 0);
		if (m->use == use_start)
			assert_int_equal(
				count(&x->f, VHOST_USER_SET_VRING_ENABLE, x->f.connections), NR);
		stop(x);
		assert_int_equal(start(x, 0), 0);
		fix_free(x);
	}
}

static int slow_fd;

static bool area_in_a_slow_file(struct fake *f, const struct rec *r)
{
	return area(f, r, 4096, 0, slow_fd);
}

static void an_area_in_a_file_that_cannot_be_closed_holds_nobody_up(void **state)
{
	struct slow_file slow;
	struct fix *x;

	slow_fd = slow_file_open(&slow);
	if (slow_fd < 0)
		skip();
	x = fix_new();
	x->f.protocol |= P(INFLIGHT_SHMFD);
	attach(x);
	atomic_store(&x->f.hook_arg, VHOST_USER_GET_INFLIGHT_FD);
	atomic_store(&x->f.hook, area_in_a_slow_file);
	use_start(x);
	run_until(x->loop, is_lost, x);
	assert_int_equal(logged(x, "neither memory nor on a block device"), 1);
	atomic_store(&x->f.hook, NULL);
	run_until(x->loop, is_back, x);
	assert_false(atomic_load(&slow.state->late));
	slow_file_answer(&slow);
	fix_free(x);
	close(slow_fd);
	slow_file_end(&slow);
}

/* It greets well each time, and misbehaves as soon as it is asked something. */
static void a_back_end_that_never_behaves_is_asked_less_and_less(void **state)
{
	struct fix *x = fix_new();
	unsigned losses = 0;

	x->p.times.retry_max_ms = 10000;
	attach(x);
	atomic_store(&x->f.hook_arg, VHOST_USER_GET_CONFIG);
	atomic_store(&x->f.hook, random_bytes);
	for (uint32_t retry_ms = 1; retry_ms < 64; retry_ms *= 2, losses++) {
		assert_int_equal(x->vu->retry_ms, retry_ms);
		x->vu->ready_ns = clock_now_ns() + 3600 * NS_PER_S; /* however slow we are */
		x->w.lost = x->w.back = 0;
		use_config(x);
		run_until(x->loop, is_lost, x);
		run_until(x->loop, is_back, x);
	}
	assert_int_equal(losses, 6);
	x->vu->ready_ns = 0;
	x->w.lost = x->w.back = 0;
	use_config(x);
	run_until(x->loop, is_back, x);
	assert_int_equal(x->vu->retry_ms, 2);
	assert_true(logged(x, "is away until") <= 5);
	fix_free(x);
}

static bool wrong_on_reconnect(struct fake *f, const struct rec *r)
{
	return r->connection > 1 && random_bytes(f, r);
}

static bool has_reason(void *arg)
{
	return logged(arg, "but the device stays away");
}

static void a_reason_is_logged_once_however_often_it_is_tried(void **state)
{
	struct fix *x = fix_new();
	struct arrival tries = { &x->f, VHOST_USER_GET_FEATURES, 0, 8 };

	attach(x);
	assert_int_equal(start(x, 0), 0);
	atomic_store(&x->f.hook_arg, VHOST_USER_GET_FEATURES);
	atomic_store(&x->f.hook, wrong_on_reconnect);
	fake_hang_up(&x->f);
	run_until(x->loop, has_reason, x);
	run_until(x->loop, has_arrived, &tries);
	assert_int_equal(logged(x, "but the device stays away"), 1);
	assert_int_equal(logged(x, "warning"), 2);
	fix_free(x);
}

/* --- the back-end's own socket --- */

static void send_back(struct fix *x, const void *buf, size_t len)
{
	pthread_mutex_lock(&x->f.lock);
	send_all(x->f.back_fd, buf, len, NULL, 0);
	pthread_mutex_unlock(&x->f.lock);
}

static void nonsense_over_its_own_socket_breaks_the_connection(void **state)
{
	static const struct {
		struct vhost_user_header h;
		const char *text;
	} rows[] = {
		{ { 2, 2, 0 }, "version 2" },
		{ { 2, 5, 8 }, "a reply to nothing" },
		{ { 2, 1, 1u << 30 }, "payload of 1073741824 bytes" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fix *x = fix_new();

		attach(x);
		send_back(x, &rows[i].h, sizeof(rows[i].h));
		run_until(x->loop, is_lost, x);
		assert_int_equal(logged(x, rows[i].text), 1);
		run_until(x->loop, is_back, x);
		fix_free(x);
	}
}

static void the_end_of_its_own_socket_is_the_end_of_the_connection(void **state)
{
	struct fix *x = fix_new();

	attach(x);
	pthread_mutex_lock(&x->f.lock);
	fd_close(&x->f.back_fd);
	pthread_mutex_unlock(&x->f.lock);
	run_until(x->loop, is_lost, x);
	assert_int_equal(logged(x, "hung up (at the socket"), 1);
	run_until(x->loop, is_back, x);
	fix_free(x);
}

static bool is_full(void *arg)
{
	struct fix *x = arg;
	struct vhost_user_header h = { VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 1 | 8, 0 };
	struct iovec iov = { &h, sizeof(h) };
	int rc = 0;

	pthread_mutex_lock(&x->f.lock);
	for (unsigned i = 0; i < 64 && rc != -EAGAIN; i++)
		rc = (int)sock_send(x->f.back_fd, &iov, 1, NULL, 0);
	pthread_mutex_unlock(&x->f.lock);
	return rc == -EAGAIN;
}

/* Requests for ever, whose answers nobody reads. */
static void a_flood_of_requests_is_read_no_further_than_its_answers_are(void **state)
{
	struct fix *x = fix_new();

	attach(x);
	run_until(x->loop, is_full, x);
	assert_true(x->vu->back.out_bytes < 8192);
	use_config(x);
	assert_true(vhost_user_connected(x->vu));
	fix_free(x);
}

static void a_foul_doorbell_breaks_the_connection(void **state)
{
	struct fix *x = fix_new();
	uint64_t full = UINT64_MAX - 1;

	attach(x);
	/* What a back-end that has the descriptor can do with it. */
	assert_int_equal(write(x->q[0].kick_fd, &full, sizeof(full)), sizeof(full));
	assert_int_equal(fcntl(x->q[0].kick_fd, F_SETFL, 0), 0);
	assert_int_equal(start(x, 0), 0);
	run_until(x->loop, is_lost, x);
	assert_int_equal(logged(x, "doorbell cannot be signalled"), 1);
	fix_free(x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_wrong_at_the_attach_is_said),
		cmocka_unit_test(a_device_that_cannot_be_is_refused),
		cmocka_unit_test(a_queue_number_beyond_all_measure_is_cut),
		cmocka_unit_test(what_is_wrong_in_use_breaks_the_connection_and_no_more),
		cmocka_unit_test(an_area_in_a_file_that_cannot_be_closed_holds_nobody_up),
		cmocka_unit_test(a_back_end_that_never_behaves_is_asked_less_and_less),
		cmocka_unit_test(a_reason_is_logged_once_however_often_it_is_tried),
		cmocka_unit_test(nonsense_over_its_own_socket_breaks_the_connection),
		cmocka_unit_test(the_end_of_its_own_socket_is_the_end_of_the_connection),
		cmocka_unit_test(a_flood_of_requests_is_read_no_further_than_its_answers_are),
		cmocka_unit_test(a_foul_doorbell_breaks_the_connection),
	};

	log_init("test", LOG_INFO);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
