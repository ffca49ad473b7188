/* vhost_user_loss_test.c - a back-end that comes later, goes, or comes back as another */
#include "vhost_fixture.h"

/* --- at the start --- */

/* Nobody is found at the path, until it is put back. */
static void put_away(struct fix *x)
{
	char away[80];

	snprintf(away, sizeof(away), "%s.away", x->f.path);
	assert_int_equal(rename(x->f.path, away), 0);
}

static void put_back(struct fix *x)
{
	char away[80];

	snprintf(away, sizeof(away), "%s.away", x->f.path);
	assert_int_equal(rename(away, x->f.path), 0);
}

static bool is_waiting(void *arg)
{
	return logged(arg, "waiting up to") == 1;
}

static void a_back_end_that_comes_later_is_waited_for(void **state)
{
	struct fix *x = fix_new();

	put_away(x);
	fake_run(&x->f);
	fix_make(x);
	run_until(x->loop, is_waiting, x);
	put_back(x);
	run_until(x->loop, is_connected, x);
	assert_int_equal(x->w.attached, 1);
	assert_int_equal(logged(x, "warning"), 1);
	assert_int_equal(logged(x, "no such socket; waiting up to 2.0 s"), 1);
	fix_free(x);
}

static void a_back_end_that_never_comes_is_an_error(void **state)
{
	struct fix *x = fix_new();

	put_away(x);
	x->p.times.connect_ms = 30;
	fake_run(&x->f);
	fix_make(x);
	run_until(x->loop, has_failed, x);
	assert_int_equal(x->w.rc, -ENOENT);
	assert_non_null(strstr(x->w.text, "no such socket"));
	put_back(x);
	fix_free(x);
}

static bool first_hangs_up(struct fake *f, const struct rec *r)
{
	if (r->connection > 2)
		return false;
	shutdown(f->conn, SHUT_RDWR);
	return true;
}

static void a_handshake_with_a_dying_back_end_is_tried_again(void **state)
{
	struct fix *x = fix_new();

	atomic_store(&x->f.hook, first_hangs_up);
	attach(x);
	assert_int_equal(x->f.connections, 3);
	assert_int_equal(logged(x, "warning"), 1);
	fix_free(x);
}

static void an_owner_that_refuses_ends_the_attach(void **state)
{
	struct fix *x = fix_new();

	x->w.refuse_rc = -EAGAIN;
	attach_fails(x, -EAGAIN, "not wanted");
	assert_int_equal(x->w.attached, 1);
	assert_int_equal(x->f.connections, 1);
	fix_free(x);
}

/* --- goes and comes back --- */

static void a_lost_back_end_is_replaced_and_goes_on_at_the_used_index(void **state)
{
	struct fix *x = fix_new();
	uint16_t used = 0xfffe;

	attach(x);
	assert_int_equal(start(x, 0), 0);
	memcpy(ram.hva + x->q[1].device + 2, &used, sizeof(used));
	fd_clear(x->q[1].kick_fd);
	fd_clear(x->q[0].call_fd);
	lose_and_return(x);
	assert_true(fd_clear(x->q[0].call_fd)); /* an answer's signal may have been lost */
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_BASE, 2, 0).state.num, 0);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_BASE, 2, 1).state.num, used);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_ENABLE, 2), NR);
	assert_int_equal(nth(&x->f, VHOST_USER_ADD_MEM_REG, 2, 0).reg.region.size, RAM_SIZE);
	assert_true(fd_clear(x->q[1].kick_fd));
	assert_int_equal(atomic_load(&x->w.needs_reset), 0);
	assert_int_equal(x->w.shm_clears, 1);
	assert_int_equal(logged(x, "is away until"), 1);
	assert_int_equal(logged(x, "is back"), 1);
	/* The driver's own start begins at 0, whatever an old ring says. */
	stop(x);
	assert_int_equal(start(x, 0), 0);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_BASE, 2, NR + 1).state.num, 0);
	fix_free(x);
}

static void the_inflight_area_goes_to_the_next_back_end(void **state)
{
	struct fix *x = fix_new();
	struct rec first, second;

	x->f.protocol |= P(INFLIGHT_SHMFD);
	attach(x);
	assert_int_equal(start(x, 0), 0);
	first = nth(&x->f, VHOST_USER_SET_INFLIGHT_FD, 1, 0);
	assert_int_equal(first.inflight.num_queues, 2);
	assert_int_equal(first.inflight.queue_size, RING_SIZE);
	lose_and_return(x);
	second = nth(&x->f, VHOST_USER_SET_INFLIGHT_FD, 2, 0);
	assert_int_equal(count(&x->f, VHOST_USER_GET_INFLIGHT_FD, 2), 0);
	assert_int_equal(second.ino, first.ino);
	assert_int_equal(second.inflight.mmap_size, first.inflight.mmap_size);
	/* A reset ends what was in flight. */
	stop(x);
	fd_close(&x->f.inflight_fd);
	assert_int_equal(start(x, 0), 0);
	assert_int_equal(count(&x->f, VHOST_USER_GET_INFLIGHT_FD, 2), 1);
	assert_true(nth(&x->f, VHOST_USER_SET_INFLIGHT_FD, 2, 1).ino != first.ino);
	fix_free(x);
}

static bool holds_greeting(struct fake *f, const struct rec *r)
{
	/* Answered by fake_release(). */
	return r->connection > 1 && r->h.request == VHOST_USER_GET_FEATURES;
}

/* Lose the device and stop half-way through the next handshake. */
static void lose_and_hold(struct fix *x)
{
	struct arrival greeting = { &x->f, VHOST_USER_GET_FEATURES, 2, 1 };

	x->w.lost = x->w.back = 0;
	atomic_store(&x->f.hook, holds_greeting);
	fake_hang_up(&x->f);
	run_until(x->loop, is_lost, x);
	run_until(x->loop, has_arrived, &greeting);
}

static void release(struct fix *x)
{
	struct rec r = nth(&x->f, VHOST_USER_GET_FEATURES, 2, 0);

	atomic_store(&x->f.hook, NULL);
	fake_answer(&x->f, &r);
	run_until(x->loop, is_back, x);
}

static void a_start_while_the_device_is_away_is_told_later(void **state)
{
	struct fix *x = fix_new();

	attach(x);
	lose_and_hold(x);
	assert_int_equal(start(x, BIT(9)), 0);
	release(x);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_ENABLE, 2), NR);
	assert_true(x->f.last_features & BIT(9));
	assert_true(fd_clear(x->q[0].kick_fd));
	stop(x);
	assert_int_equal(count(&x->f, VHOST_USER_GET_VRING_BASE, 2), NR);
	fix_free(x);
}

static void a_reset_while_the_device_is_away_starts_nothing(void **state)
{
	struct fix *x = fix_new();

	attach(x);
	assert_int_equal(start(x, 0), 0);
	lose_and_hold(x);
	stop(x);
	release(x);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_KICK, 2), 0);
	assert_int_equal(start(x, 0), 0);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_KICK, 2), NR);
	fix_free(x);
}

/* In the middle of setting the queues up again, the driver resets the device and starts it anew. */
static struct fix *busy;

static bool driver_is_faster(struct fake *f, const struct rec *r)
{
	if (r->connection != 2 || r->h.request != VHOST_USER_SET_VRING_ENABLE || r->state.index)
		return false;
	atomic_store(&f->hook, NULL);
	stop(busy);
	busy->q[0].size = 32;
	assert_int_equal(start(busy, 0), 0);
	return false;
}

static void a_driver_that_overtakes_the_restore_has_the_last_word(void **state)
{
	struct fix *x = fix_new();
	uint16_t used = 9;

	attach(x);
	assert_int_equal(start(x, 0), 0);
	memcpy(ram.hva + x->q[0].device + 2, &used, sizeof(used));
	busy = x;
	atomic_store(&x->f.hook, driver_is_faster);
	lose_and_return(x);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_BASE, 2, 0).state.num, 9);
	assert_int_equal(count(&x->f, VHOST_USER_GET_VRING_BASE, 2), NR);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_NUM, 2, NR).state.num, 32);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_BASE, 2, NR).state.num, 0);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_ENABLE, 2), 3 * NR);
	fix_free(x);
}

static void configuration_of_a_device_that_is_away_reads_as_it_was(void **state)
{
	struct fix *x = fix_new();
	uint32_t before, value;
	uint64_t tail = 0;

	attach(x);
	backend(x)->ops->config_read(backend(x), 8, &before, 4);
	lose_and_hold(x);
	backend(x)->ops->config_read(backend(x), 8, &value, 4);
	assert_int_equal(value, before);
	backend(x)->ops->config_read(backend(x), 8, &tail, 8);
	assert_int_equal(tail, 0xffffffff00000000 | before);
	backend(x)->ops->config_write(backend(x), 8, &value, 4);
	release(x);
	assert_int_equal(count(&x->f, VHOST_USER_SET_CONFIG, 0), 0);
	fix_free(x);
}

static void an_error_of_a_back_end_that_is_gone_is_of_the_past(void **state)
{
	struct fix *x = fix_new();
	int old;

	attach(x);
	assert_int_equal(start(x, 0), 0);
	pthread_mutex_lock(&x->f.lock);
	old = dup(x->f.err_fd);
	pthread_mutex_unlock(&x->f.lock);
	lose_and_return(x);
	fd_signal(old);
	lose_and_return(x);
	assert_int_equal(atomic_load(&x->w.needs_reset), 0);
	close(old);
	fix_free(x);
}

/* --- comes back as another --- */

static void a_changed_configuration_interrupts_the_driver(void **state)
{
	struct fix *x = fix_new();
	uint64_t value;

	attach(x);
	assert_int_equal(start(x, 0), 0);
	backend(x)->ops->config_read(backend(x), 0, &value, 8);
	lose_and_return(x);
	assert_int_equal(x->w.changed, 0);
	x->f.config[1]++; /* capacity */
	lose_and_return(x);
	assert_int_equal(x->w.changed, 1);
	assert_int_equal(atomic_load(&x->w.needs_reset), 0);
	fix_free(x);
}

static void another_file_system_needs_a_reset(void **state)
{
	struct fix *x = fix_new();
	uint8_t tag[36];

	x->p.type = VIRTIO_ID_FS;
	attach(x);
	assert_int_equal(start(x, 0), 0);
	backend(x)->ops->config_read(backend(x), 0, tag, sizeof(tag));
	x->f.config[5]++;
	lose_and_return(x);
	assert_int_equal(atomic_load(&x->w.needs_reset), 1);
	assert_int_equal(logged(x, "another tag; the driver has to reset"), 1);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_KICK, 2), 0);
	lose_and_return(x); /* said once */
	assert_int_equal(atomic_load(&x->w.needs_reset), 1);
	stop(x);
	assert_int_equal(start(x, 0), 0);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_KICK, 3), NR);
	fix_free(x);
}

static void a_back_end_that_lacks_a_feature_needs_a_reset(void **state)
{
	struct fix *x = fix_new();

	attach(x);
	assert_int_equal(start(x, BIT(9)), 0);
	x->f.features &= ~BIT(9);
	lose_and_return(x);
	assert_int_equal(atomic_load(&x->w.needs_reset), 1);
	assert_int_equal(count(&x->f, VHOST_USER_SET_FEATURES, 2), 0);
	stop(x);
	assert_int_equal(start(x, BIT(9)), -EIO);
	assert_int_equal(start(x, 0), 0);
	fix_free(x);
}

static bool has_reason(void *arg)
{
	return logged(arg, "but the device stays away");
}

static void a_back_end_of_another_shape_stays_away(void **state)
{
	struct fix *x = fix_new();
	struct arrival more = { &x->f, VHOST_USER_GET_QUEUE_NUM, 0, 5 };

	attach(x);
	assert_int_equal(start(x, 0), 0);
	atomic_store(&x->f.queue_num, 1);
	fake_hang_up(&x->f);
	run_until(x->loop, has_reason, x);
	run_until(x->loop, has_arrived, &more);
	assert_int_equal(logged(x, "came back with 1 queues, it had 2"), 1); /* once */
	atomic_store(&x->f.queue_num, 2);
	run_until(x->loop, is_back, x);
	fix_free(x);
}

/* --- packed rings --- */

static struct fix *packed(uint64_t protocol)
{
	struct fix *x = fix_new();

	x->f.features |= BIT(VIRTIO_BIT_RING_PACKED);
	x->f.protocol |= protocol;
	attach(x);
	assert_int_equal(start(x, BIT(VIRTIO_BIT_RING_PACKED)), 0);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_BASE, 1, 0).state.num, 0x80008000);
	return x;
}

static void set_flags(struct fix *x, unsigned queue, uint16_t flags)
{
	memcpy(ram.hva + x->q[queue].desc + 14, &flags, sizeof(flags));
}

static void a_packed_ring_that_nobody_answered_on_goes_on(void **state)
{
	struct fix *x = packed(0);

	set_flags(x, 1, 1 << 7); /* available, in the first lap */
	lose_and_return(x);
	assert_int_equal(atomic_load(&x->w.needs_reset), 0);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_BASE, 2, 1).state.num, 0x80008000);
	fix_free(x);
}

static void a_packed_ring_that_was_used_needs_tracking_or_a_reset(void **state)
{
	struct fix *x = packed(0);

	set_flags(x, 1, 1 << 7 | 1 << 15); /* used, in the first lap */
	lose_and_return(x);
	assert_int_equal(atomic_load(&x->w.needs_reset), 1);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_KICK, 2), 0);
	stop(x);
	assert_int_equal(start(x, BIT(VIRTIO_BIT_RING_PACKED)), 0);
	fix_free(x);

	x = packed(P(INFLIGHT_SHMFD));
	set_flags(x, 1, 1 << 7 | 1 << 15);
	lose_and_return(x);
	assert_int_equal(atomic_load(&x->w.needs_reset), 0);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_KICK, 2), NR);
	fix_free(x);
}

static void one_packed_queue_is_reset_while_the_others_are_in_use(void **state)
{
	struct fix *x = packed(0);
	struct virtio_backend *b = backend(x);

	set_flags(x, 0, 1 << 7 | 1 << 15);
	assert_int_equal(b->ops->queue_stop(b, 1), 0);
	assert_int_equal(b->ops->queue_start(b, 1, &x->q[1]), 0);
	assert_int_equal(atomic_load(&x->w.needs_reset), 0);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_KICK, 1), NR + 1);
	fix_free(x);
}

/* --- how long it is tried --- */

static void without_reconnect_a_loss_is_for_good(void **state)
{
	struct fix *x = fix_new();

	x->p.times.no_reconnect = true;
	attach(x);
	assert_int_equal(start(x, 0), 0);
	fake_hang_up(&x->f);
	run_until(x->loop, needs_reset, x);
	assert_int_equal(x->f.connections, 1);
	stop(x);
	assert_int_equal(start(x, 0), -ENOTCONN);
	assert_int_equal(logged(x, "stays away"), 1);
	fix_free(x);
}

static void after_the_time_for_reconnecting_a_loss_is_for_good(void **state)
{
	struct fix *x = fix_new();

	x->p.times.reconnect_s = 1;
	attach(x);
	put_away(x);
	fake_hang_up(&x->f);
	run_until(x->loop, needs_reset, x);
	assert_int_equal(logged(x, "given up after 1 s"), 1);
	assert_int_equal(logged(x, "but the device stays away"), 0);
	put_back(x);
	fix_free(x);
}

/* --- sources --- */

static int dial(const char *path)
{
	struct err err = { 0 };
	int fd = sock_connect(path, &err);

	assert_true(fd >= 0);
	return fd;
}

static void a_back_end_may_connect_to_us(void **state)
{
	struct fix *x = fix_new();
	struct vhost_user_source *source;
	struct err err = { 0 };
	char path[80];

	snprintf(path, sizeof(path), "%s.server", x->f.path);
	assert_int_equal(vhost_user_source_listen(x->loop, path, &source, &err), 0);
	assert_int_equal(vhost_user_new(&x->p, source, &x->vu), 0);
	assert_int_equal(vhost_user_start(x->vu, &err), 0);
	run_until(x->loop, is_waiting, x);
	for (int n = 1; n <= 2; n++) {
		x->f.conn = dial(path);
		x->f.connections++;
		fake_run_connected(&x->f);
		run_until(x->loop, n == 1 ? is_connected : is_back, x);
		fake_hang_up(&x->f);
		pthread_join(x->f.thread, NULL);
		run_until(x->loop, is_lost, x);
	}
	assert_int_equal(x->w.attached, 1);
	vhost_user_free(x->vu);
	x->vu = NULL;
	assert_int_equal(access(path, F_OK), -1);
	fake_run(&x->f);
	fix_free(x);
}

struct script {
	struct vhost_user_source s;
	struct fake *f;
	int rc; /* instead of a connection */
	void (*again)(void *arg);
	void *arg;
	bool freed;
};

static int script_connect(struct vhost_user_source *s, struct err *err)
{
	struct script *c = container_of(s, struct script, s);

	return c->rc ? err_set(err, c->rc, "the process is gone") : sock_connect(c->f->path, err);
}

static void script_wait(struct vhost_user_source *s, void (*again)(void *arg), void *arg)
{
	struct script *c = container_of(s, struct script, s);

	assert_null(c->again);
	c->again = again;
	c->arg = arg;
}

static void script_free(struct vhost_user_source *s)
{
	container_of(s, struct script, s)->freed = true;
}

static void script_tell(struct script *c)
{
	void (*again)(void *arg) = c->again;

	c->again = NULL;
	again(c->arg);
}

static void a_source_says_when_to_try_and_when_to_give_up(void **state)
{
	struct fix *x = fix_new();
	struct script c = {
		.s = { script_connect, script_wait, script_free }, .f = &x->f, .rc = -EAGAIN
	};
	struct err err = { 0 };

	fake_run(&x->f);
	assert_int_equal(vhost_user_new(&x->p, &c.s, &x->vu), 0);
	assert_int_equal(vhost_user_start(x->vu, &err), 0);
	run_until(x->loop, is_waiting, x);
	c.rc = 0;
	script_tell(&c);
	run_until(x->loop, is_connected, x);
	c.rc = -EAGAIN;
	fake_hang_up(&x->f);
	run_until(x->loop, is_lost, x);
	assert_non_null(c.again);
	c.rc = -ECANCELED;
	script_tell(&c);
	assert_int_equal(atomic_load(&x->w.needs_reset), 1);
	assert_null(c.again);
	assert_int_equal(logged(x, "the process is gone; the device stays away"), 1);
	fix_free(x);
	assert_true(c.freed);
}

/* --- many losses, with a driver at work --- */

struct driver {
	struct fix *x;
	pthread_t thread;
	_Atomic bool ending;
	unsigned rounds;
};

static void *drive(void *arg)
{
	struct driver *d = arg;
	struct virtio_backend *b = backend(d->x);
	uint32_t value;

	while (!atomic_load(&d->ending)) {
		start(d->x, 0);
		b->ops->config_read(b, 0, &value, 4);
		b->ops->queue_call(b, 0, d->x->q[1].call_fd);
		b->ops->queue_stop(b, 1);
		b->ops->queue_start(b, 1, &d->x->q[1]);
		b->ops->config_write(b, 0, &value, 4);
		stop(d->x);
		d->rounds++;
	}
	return NULL;
}

static bool sometimes_hangs_up(struct fake *f, const struct rec *r)
{
	if (atomic_fetch_add(&f->hook_arg, 1) % 97 != 96)
		return false;
	shutdown(f->conn, SHUT_RDWR);
	return true;
}

static bool was_lost_often(void *arg)
{
	return ((struct fix *)arg)->w.back >= 40;
}

static void a_driver_never_notices_that_the_device_comes_and_goes(void **state)
{
	struct fix *x = fix_new();
	struct driver d = { .x = x };

	x->f.protocol |= P(INFLIGHT_SHMFD);
	x->p.times.retry_max_ms = 1;
	attach(x);
	atomic_store(&x->f.forgets, true);
	atomic_store(&x->f.hook, sometimes_hangs_up);
	assert_int_equal(pthread_create(&d.thread, NULL, drive, &d), 0);
	run_until(x->loop, was_lost_often, x);
	atomic_store(&d.ending, true);
	pthread_join(d.thread, NULL);
	atomic_store(&x->f.hook, NULL);
	assert_true(d.rounds > 10);
	assert_int_equal(atomic_load(&x->w.needs_reset), 0);
	assert_true(logged(x, "is away until") <= 6); /* rate-limited */
	fix_free(x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_back_end_that_comes_later_is_waited_for),
		cmocka_unit_test(a_back_end_that_never_comes_is_an_error),
		cmocka_unit_test(a_handshake_with_a_dying_back_end_is_tried_again),
		cmocka_unit_test(an_owner_that_refuses_ends_the_attach),
		cmocka_unit_test(a_lost_back_end_is_replaced_and_goes_on_at_the_used_index),
		cmocka_unit_test(the_inflight_area_goes_to_the_next_back_end),
		cmocka_unit_test(a_start_while_the_device_is_away_is_told_later),
		cmocka_unit_test(a_reset_while_the_device_is_away_starts_nothing),
		cmocka_unit_test(a_driver_that_overtakes_the_restore_has_the_last_word),
		cmocka_unit_test(configuration_of_a_device_that_is_away_reads_as_it_was),
		cmocka_unit_test(an_error_of_a_back_end_that_is_gone_is_of_the_past),
		cmocka_unit_test(a_changed_configuration_interrupts_the_driver),
		cmocka_unit_test(another_file_system_needs_a_reset),
		cmocka_unit_test(a_back_end_that_lacks_a_feature_needs_a_reset),
		cmocka_unit_test(a_back_end_of_another_shape_stays_away),
		cmocka_unit_test(a_packed_ring_that_nobody_answered_on_goes_on),
		cmocka_unit_test(a_packed_ring_that_was_used_needs_tracking_or_a_reset),
		cmocka_unit_test(one_packed_queue_is_reset_while_the_others_are_in_use),
		cmocka_unit_test(without_reconnect_a_loss_is_for_good),
		cmocka_unit_test(after_the_time_for_reconnecting_a_loss_is_for_good),
		cmocka_unit_test(a_back_end_may_connect_to_us),
		cmocka_unit_test(a_source_says_when_to_try_and_when_to_give_up),
		cmocka_unit_test(a_driver_never_notices_that_the_device_comes_and_goes),
	};

	log_init("test", LOG_INFO);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
