/* vfio_user_call_test.c - register accesses that wait, and writes that do not */
#include "vfio_mini.h"

/* --- register accesses --- */

static void registers_are_read_and_written(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_registers, NULL);
	assert_int_equal(fake_byte(f, 2, 4), 0xa5);
	world_free(w);
	fake_free(f);
}

static bool refuses_bar_reads(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_access a;

	memcpy(&a, r->data, sizeof(a));
	if (r->h.command != VFIO_USER_REGION_READ || a.region == CONFIG)
		return false;
	fake_error(f, r, EINVAL);
	return true;
}

static void job_read_ones(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	assert_int_equal(reg_read(w, r, 2, 0, 1), 0xff);
	assert_int_equal(reg_read(w, r, 0, 0, 8), UINT64_MAX);
}

static void a_refused_read_is_all_ones_and_no_loss(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	fake_set_hook(f, refuses_bar_reads, 0);
	as_vcpu(w, job_read_ones, NULL);
	assert_int_equal(world_log(w, ""), 0);
	assert_int_equal(fake_count(f, VFIO_USER_VERSION), 1);
	world_free(w);
	fake_free(f);
}

/* --- the transport alone --- */

static bool answers_with_error(struct fake *f, const struct rec *r)
{
	if (r->h.command == VFIO_USER_REGION_READ)
		fake_error(f, r, (int)f->hook_arg);
	return r->h.command == VFIO_USER_REGION_READ;
}

static void an_error_of_the_device_is_never_taken_for_a_loss(void **state)
{
	static const struct {
		unsigned error;
		int rc;
	} cases[] = { { EINVAL, -EINVAL }, { ENOTCONN, -EIO }, { ETIMEDOUT, -EIO }, { 0, -EIO },
		{ 70000, -EIO } };
	struct fake *f = fake_new();
	struct mini m = { 0 };
	struct vfio_transport *t;
	uint32_t value;

	fake_start(f);
	mini_start(&m, f, 0);
	t = vfio_user_transport(m.vu);
	/* In operation the loop waits for a hang-up, not for answers. */
	assert_int_equal(m.vu->watch_wanted, EPOLLRDHUP);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		fake_set_hook(f, answers_with_error, cases[i].error);
		assert_int_equal(t->ops->region_read(t, 0, 0, &value, 4), cases[i].rc);
	}
	assert_int_equal(m.lost, 0);
	mini_end(&m);
	fake_free(f);
}

/* Post writes until the socket takes no more and n are kept back. */
static void post_until_kept(struct mini *m, unsigned n)
{
	struct vfio_transport *t = vfio_user_transport(m->vu);
	uint32_t value = 0;

	while (m->vu->nr_multi < n) {
		value++;
		assert_int_equal(t->ops->region_write(t, 0, 4, &value, 4, VFIO_CALL_POST), 0);
		assert_true(value < 100000);
	}
}

static bool got_multi(struct world *w, void *arg)
{
	return fake_hook_arg(arg) > 0;
}

static bool takes_multi(struct fake *f, const struct rec *r)
{
	struct vfio_user_write_multi head;

	if (r->h.command != VFIO_USER_REGION_WRITE_MULTI)
		return false;
	memcpy(&head, r->data, sizeof(head));
	f->hook_arg = (unsigned)head.wr_cnt;
	return true;
}

static void posted_writes_are_gathered_while_the_socket_is_full(void **state)
{
	for (unsigned by_loop = 0; by_loop < 2; by_loop++) {
		struct fake *f = fake_new();
		struct mini m = { 0 };
		struct vfio_transport *t;
		uint32_t value;
		unsigned last;

		f->json = "{\"capabilities\":{\"write_multiple\":true}}";
		f->hook = takes_multi;
		fake_start(f);
		mini_start(&m, f, 0);
		t = vfio_user_transport(m.vu);
		fake_pause(f, true);
		/* What it may still read before it stops does not matter. */
		post_until_kept(&m, 3);
		fake_pause(f, false);
		/* Here it is this thread that waits, and the loop stands. */
		if (!by_loop)
			assert_int_equal(t->ops->region_read(t, 0, 0, &value, 4), 0);
		world_until(m.w, got_multi, f);
		assert_true(fake_hook_arg(f) >= 3);
		fake_kill(f);
		last = f->nr_recs - 1;
		assert_int_equal(f->recs[last].h.command,
			by_loop ? VFIO_USER_REGION_WRITE_MULTI : VFIO_USER_REGION_READ);
		for (unsigned i = 0; i < f->nr_recs; i++)
			if (f->recs[i].h.command == VFIO_USER_REGION_WRITE_MULTI ||
				f->recs[i].h.command == VFIO_USER_REGION_WRITE)
				assert_int_equal(f->recs[i].h.flags, VFIO_USER_FLAG_NO_REPLY);
		mini_end(&m);
		fake_free(f);
	}
}

static void posting_to_a_server_that_does_not_read_ends_by_the_deadline(void **state)
{
	struct fake *f = fake_new();
	struct mini m = { 0 };
	struct vfio_transport *t;
	uint32_t value = 0;
	int rc;

	fake_start(f);
	mini_start(&m, f, 50);
	t = vfio_user_transport(m.vu);
	fake_pause(f, true);
	do
		rc = t->ops->region_write(t, 0, 4, &value, 4, VFIO_CALL_POST);
	while (!rc && ++value < 100000);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_int_equal(t->ops->region_write(t, 0, 4, &value, 4, VFIO_CALL_POST), -ENOTCONN);
	world_run(m.w);
	assert_int_equal(m.lost, 1);
	fake_pause(f, false);
	mini_end(&m);
	fake_free(f);
}

/* A server may take eventfds only a few at a time. */
static void eventfds_are_sent_in_batches_of_the_servers_size(void **state)
{
	struct fake *f = fake_new();
	struct mini m = { 0 };
	struct vfio_transport *t;
	struct vfio_user_irq_set s;
	int fds[8];
	struct vfio_irq_request rq = {
		.index = VFIO_USER_IRQ_MSIX,
		.flags = VFIO_USER_IRQ_SET_DATA_EVENTFD | VFIO_USER_IRQ_SET_ACTION_TRIGGER,
		.start = 2,
		.count = 8,
		.fds = fds,
	};
	struct rec r;

	f->json = "{\"capabilities\":{\"max_msg_fds\":3}}";
	fake_start(f);
	mini_start(&m, f, 0);
	t = vfio_user_transport(m.vu);
	for (unsigned i = 0; i < 8; i++)
		fds[i] = f->wake;
	assert_int_equal(t->ops->set_irqs(t, &rq, VFIO_CALL_WAIT), 0);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_SET_IRQS), 3);
	r = fake_wait(f, VFIO_USER_DEVICE_SET_IRQS, 3);
	memcpy(&s, r.data, sizeof(s));
	assert_int_equal(s.start, 8);
	assert_int_equal(s.count, 2);
	assert_int_equal(r.nr_fds, 2);
	mini_end(&m);
	fake_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registers_are_read_and_written),
		cmocka_unit_test(a_refused_read_is_all_ones_and_no_loss),
		cmocka_unit_test(an_error_of_the_device_is_never_taken_for_a_loss),
		cmocka_unit_test(posted_writes_are_gathered_while_the_socket_is_full),
		cmocka_unit_test(posting_to_a_server_that_does_not_read_ends_by_the_deadline),
		cmocka_unit_test(eventfds_are_sent_in_batches_of_the_servers_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
