#include "vq_fixture.h"

/* Set-up */

static void refused_with(struct fix *f, const struct vq_setup *s, int rc, const char *text)
{
	struct err err = { 0 };

	assert_int_equal(vq_setup(f->vq, s, &f->m->mem, &err), rc);
	if (!strstr(err.text, text))
		fail_msg("'%s' does not say '%s'", err.text, text);
	assert_non_null(vq_broken(f->vq));
	assert_int_equal(pop(f), -EINVAL);
	assert_false(vq_ready(f->vq));
	assert_false(vq_want_kicks(f->vq, true));
}

static void set_up_refuses_what_is_no_ring(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fix *f = new_fix((struct drv_config){ .packed = packed });
		struct vq_setup s = f->s;

		s.size = 0;
		refused_with(f, &s, -EINVAL, "size 0: expected 1 to 8");
		s.size = 16;
		refused_with(f, &s, -EINVAL, "size 16: expected 1 to 8");
		s = f->s;
		s.desc += 8;
		refused_with(f, &s, -EINVAL, "is not aligned to 16 bytes");
		s = f->s;
		s.driver += 1;
		refused_with(f, &s, -EINVAL, "is not aligned");
		s = f->s;
		s.device += 2;
		refused_with(f, &s, -EINVAL, "is not aligned to 4 bytes");
		s = f->s;
		s.desc = 0;
		refused_with(f, &s, -EFAULT, "is not in guest memory");
		s.desc = UINT64_MAX - 15;
		refused_with(f, &s, -EFAULT, "is not in guest memory");
		s.desc = DRV_IOVA + f->m->size - 16;
		refused_with(f, &s, -EFAULT, "does not lie in one piece");
		f->m->ro_iova = f->s.device;
		f->m->ro_len = 4;
		refused_with(f, &f->s, -EFAULT, "is not in guest memory");
		f->m->ro_len = 0;
		assert_int_equal(vq_setup(f->vq, &f->s, &f->m->mem, &f->err), 0);
		assert_int_equal(pop(f), 0);
		free_fix(f);
	}
}

static void only_packed_rings_have_other_sizes_than_powers_of_two(void **state)
{
	struct fix *f = new_fix((struct drv_config){ 0 });
	struct vq_setup s = f->s;

	s.size = 7;
	refused_with(f, &s, -EINVAL, "size 7 is not a power of two");
	free_fix(f);
	free_fix(new_fix((struct drv_config){ .packed = true, .size = 7 }));
}

static void a_packed_base_lies_in_the_ring(void **state)
{
	struct fix *f = new_fix((struct drv_config){ .packed = true });
	struct vq_setup s = f->s;

	s.base = 0x80008008;
	refused_with(f, &s, -EINVAL, "base 0x80008008: available offset 8");
	s.base = 0x80088000;
	refused_with(f, &s, -EINVAL, "used offset 8: expected less than 8");
	free_fix(f);
}

static void an_inflight_region_has_room_for_the_queue(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fix *f = new_fix((struct drv_config){ .packed = packed });
		uint64_t size = vhost_user_inflight_region(packed, SIZE);
		uint8_t *area = calloc(1, size + 8);
		struct vq_setup s = f->s;

		s.inflight = area;
		s.inflight_size = size - 1;
		refused_with(f, &s, -EINVAL, "an inflight region of");
		s.inflight = area + 4;
		s.inflight_size = size;
		refused_with(f, &s, -EINVAL, "not aligned to 8 bytes");
		s.inflight = area;
		assert_int_equal(vq_setup(f->vq, &s, &f->m->mem, &f->err), 0);
		vq_stop(f->vq);
		free_fix(f);
		free(area);
	}
}

/* Stop and go on */

static void a_stopped_queue_goes_on_from_its_base(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fix *f = new_fix((struct drv_config){ .packed = packed });

		for (unsigned i = 1; i <= 11; i++) {
			add(f, 1, 0, i);
			assert_int_equal(pop(f), 1);
			push(f, 0);
			vq_notify(f->vq);
			assert_int_equal(get(f, NULL), i);
		}
		add(f, 1, 0, 12);
		f->s.base = vq_stop(f->vq);
		/* packed: offset 3 of the second lap */
		assert_int_equal(f->s.base, packed ? 0x00030003 : 11);
		assert_int_equal(f->m->refs, 0);
		assert_int_equal(pop(f), -EINVAL);
		assert_int_equal(vq_stop(f->vq), 0);
		assert_int_equal(vq_setup(f->vq, &f->s, &f->m->mem, &f->err), 0);
		assert_int_equal(pop(f), 1);
		push(f, 0);
		assert_int_equal(pop(f), 0);
		vq_notify(f->vq);
		assert_int_equal(get(f, NULL), 12);
		free_fix(f);
	}
}

static void what_the_driver_has_not_seen_used_is_popped_again(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fix *f = new_fix((struct drv_config){ .packed = packed });

		add(f, 1, 0, 1);
		add(f, 1, 0, 2);
		assert_int_equal(pop(f), 1);
		vq_forget(f->vq, &f->req);
		f->s.base = vq_stop(f->vq);
		assert_int_equal(f->s.base, packed ? 0x80008001 : 1);
		assert_int_equal(vq_setup(f->vq, &f->s, &f->m->mem, &f->err), 0);
		for (unsigned i = 1; i <= 2; i++) {
			assert_int_equal(pop(f), 1);
			push(f, 0);
			vq_notify(f->vq);
			assert_int_equal(get(f, NULL), i);
		}
		free_fix(f);
	}
}

/*
 * A front-end that lost its connection asks for a packed ring from the beginning; one that stopped
 * the queue, and has reset it, does too.
 */
static void an_inflight_area_says_where_the_ring_stands_unless_the_base_was_told(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fix *f = new_fix((struct drv_config){ .packed = packed });

		f->s.inflight_size = vhost_user_inflight_region(packed, SIZE);
		f->s.inflight = calloc(1, f->s.inflight_size);
		assert_int_equal(vq_setup(f->vq, &f->s, &f->m->mem, &f->err), 0);
		for (unsigned i = 1; i <= 11; i++) {
			add(f, 1, 0, i);
			assert_int_equal(pop(f), 1);
			push(f, 0);
			if (i == 11)
				vq_leave(f->vq);
			else
				vq_notify(f->vq);
			assert_int_equal(get(f, NULL), i);
		}
		assert_int_equal(pop(f), -EINVAL);
		assert_int_equal(f->m->refs, 0);
		assert_int_equal(vq_setup(f->vq, &f->s, &f->m->mem, &f->err), 0);
		add(f, 1, 0, 12);
		assert_int_equal(pop(f), 1);
		push(f, 0);
		assert_int_equal(vq_stop(f->vq), packed ? 0x00040004 : 12);
		assert_int_equal(get(f, NULL), 12);
		drv_reset(f->d);
		add(f, 1, 0, 13);
		assert_int_equal(vq_setup(f->vq, &f->s, &f->m->mem, &f->err), 0);
		assert_int_equal(pop(f), 1);
		push(f, 0);
		vq_notify(f->vq);
		assert_int_equal(get(f, NULL), 13);
		assert_int_equal(pop(f), 0);
		vq_leave(f->vq);
		free(f->s.inflight);
		free_fix(f);
	}
}

/* Requests */

static void pieces_are_what_the_descriptors_say(void **state)
{
	for (unsigned bits = 0; bits < 4; bits++) {
		struct fix *f =
			new_fix((struct drv_config){ .packed = bits & 1, .indirect = bits & 2 });
		struct drv_buf b[5] = { { f->buf, 10 }, { f->buf + 100, 0 }, { f->buf + 200, 6 },
			{ f->buf + 300, 0 }, { f->buf + 400, 77 } };
		uint32_t written;

		assert_int_equal(drv_add(f->d, b, 3, 2, (void *)1), 0);
		assert_true(vq_ready(f->vq));
		assert_int_equal(pop(f), 1);
		assert_int_equal(f->bad, 0);
		assert_int_equal(f->req.nr_out, 2); /* the empty ones are left out */
		assert_int_equal(f->req.nr_in, 1);
		assert_int_equal(f->req.out_len, 16);
		assert_int_equal(f->req.in_len, 77);
		assert_int_equal(f->iova[1], f->buf + 200);
		assert_ptr_equal(f->iov[1].iov_base, drv_at(f->m, f->buf + 200));
		assert_int_equal(f->iov[2].iov_len, 77);
		assert_int_equal(vq_open(f->vq), 1);
		assert_false(vq_ready(f->vq));
		push(f, 70);
		assert_int_equal(vq_open(f->vq), 0);
		assert_int_equal(get(f, NULL), 0); /* not before vq_notify() */
		vq_notify(f->vq);
		assert_int_equal(get(f, &written), 1);
		assert_int_equal(written, 70);
		assert_int_equal(pop(f), 0);
		free_fix(f);
	}
}

static void a_descriptor_that_crosses_mappings_becomes_several_pieces(void **state)
{
	for (unsigned bits = 0; bits < 4; bits++) {
		struct fix *f =
			new_fix((struct drv_config){ .packed = bits & 1, .indirect = bits & 2 });
		struct drv_buf b[2] = { { f->buf + 4090, 12 }, { f->buf + 4000, 200 } };
		uint8_t bytes[256];

		/* The indirect table crosses one, too: it is read all the same. */
		f->m->seam = 4096;
		f->d->table_iova = align_up(f->d->table_iova, 4096) + 4096 - 24;
		memset(drv_at(f->m, f->buf + 4090), 7, 12);
		assert_int_equal(drv_add(f->d, b, 1, 1, (void *)1), 0);
		assert_int_equal(pop(f), 1);
		assert_int_equal(f->bad, 0);
		assert_int_equal(f->req.nr_out, 2);
		assert_int_equal(f->req.nr_in, 2);
		assert_int_equal(f->iov[0].iov_len, 6);
		assert_int_equal(f->iova[1], f->buf + 4096);
		assert_int_equal(f->iov[2].iov_len, 96);
		assert_int_equal(f->iov[3].iov_len, 104);
		assert_int_equal(f->req.out_len, 12);
		assert_int_equal(f->req.in_len, 200);
		assert_int_equal(vq_req_read(&f->req, 5, bytes, sizeof(bytes)), 7);
		assert_int_equal(bytes[6], 7);
		memset(bytes, 9, sizeof(bytes));
		assert_int_equal(vq_req_write(&f->req, 90, bytes, sizeof(bytes)), 110);
		assert_int_equal(*(uint8_t *)drv_at(f->m, f->buf + 4089), 0);
		assert_int_equal(*(uint8_t *)drv_at(f->m, f->buf + 4090), 9);
		assert_int_equal(*(uint8_t *)drv_at(f->m, f->buf + 4199), 9);
		assert_int_equal(*(uint8_t *)drv_at(f->m, f->buf + 4200), 0);
		assert_int_equal(vq_req_read(&f->req, 12, bytes, 1), 0);
		assert_int_equal(vq_req_write(&f->req, UINT64_MAX, bytes, 1), 0);
		push(f, 200);
		free_fix(f);
	}
}

static void a_request_given_back_is_popped_again(void **state)
{
	for (unsigned bits = 0; bits < 4; bits++) {
		struct drv_config c = { .packed = bits & 1, .size = 4 };
		uint64_t size = vhost_user_inflight_region(c.packed, 4);
		uint8_t *area = calloc(1, size);
		struct fix *f = new_fix(c);
		struct vq_req a, b;

		f->s.inflight = bits & 2 ? area : NULL;
		f->s.inflight_size = size;
		assert_int_equal(vq_setup(f->vq, &f->s, &f->m->mem, &f->err), 0);
		/* round the ring, so that positions wrap between taking and giving back */
		for (uintptr_t i = 1; i < 16; i += 2) {
			add(f, 2, 0, i);
			add(f, 1, 0, i + 1);
			assert_int_equal(pop(f), 1);
			a = f->req;
			assert_int_equal(pop(f), 1);
			b = f->req;
			vq_unpop(f->vq, &b);
			vq_unpop(f->vq, &a);
			assert_int_equal(vq_open(f->vq), 0);
			for (unsigned k = 0; k < 2; k++) {
				assert_int_equal(pop(f), 1);
				push(f, 0);
				vq_notify(f->vq);
				assert_int_equal(get(f, NULL), i + k);
			}
			assert_int_equal(pop(f), 0);
		}
		vq_stop(f->vq);
		free_fix(f);
		free(area);
	}
}

static void in_order_holds_back_what_is_early(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fix *f = new_fix((struct drv_config){ .packed = packed, .in_order = true });
		struct vq_req r[3];

		for (unsigned i = 0; i < 3; i++) {
			add(f, 1, 1, i + 1);
			assert_int_equal(pop(f), 1);
			r[i] = f->req;
		}
		vq_push(f->vq, &r[2], 3);
		vq_push(f->vq, &r[1], 2);
		vq_notify(f->vq);
		assert_int_equal(signals(f->call_fd), 0);
		assert_int_equal(get(f, NULL), 0);
		assert_int_equal(vq_open(f->vq), 1);
		vq_push(f->vq, &r[0], 1);
		vq_notify(f->vq);
		assert_int_equal(signals(f->call_fd), 1);
		for (unsigned i = 1; i <= 3; i++) {
			uint32_t written;

			assert_int_equal(get(f, &written), i);
			assert_int_equal(written, i);
		}
		free_fix(f);
	}
}

/* Notifications */

static void serve(struct fix *f, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		add(f, 1, 0, 1);
		assert_int_equal(pop(f), 1);
		push(f, 0);
	}
	vq_notify(f->vq);
	while (get(f, NULL))
		continue;
}

static void the_driver_is_signalled_once_per_batch_and_only_if_it_wants(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fix *f = new_fix((struct drv_config){ .packed = packed });

		drv_want_signals(f->d, true, 0);
		serve(f, 3);
		assert_int_equal(signals(f->call_fd), 1);
		vq_notify(f->vq); /* nothing new */
		assert_int_equal(signals(f->call_fd), 0);
		drv_want_signals(f->d, false, 0);
		serve(f, 3);
		assert_int_equal(signals(f->call_fd), 0);
		drv_want_signals(f->d, true, 0);
		serve(f, 1);
		assert_int_equal(signals(f->call_fd), 1);
		vq_set_call(f->vq, -1);
		serve(f, 1);
		assert_int_equal(signals(f->call_fd), 0);
		free_fix(f);
	}
}

static void with_the_event_index_the_signal_comes_when_it_is_passed(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fix *f = new_fix((struct drv_config){ .packed = packed, .event_idx = true });

		/* often enough for the packed ring to wrap at each place */
		for (unsigned round = 0; round < 20; round++) {
			drv_want_signals(f->d, true, 2);
			serve(f, 1);
			assert_int_equal(signals(f->call_fd), 0);
			serve(f, 1);
			assert_int_equal(signals(f->call_fd), 0);
			serve(f, 1);
			assert_int_equal(signals(f->call_fd), 1);
			serve(f, 2);
			assert_int_equal(signals(f->call_fd), 0);
			drv_want_signals(f->d, true, 2);
			serve(f, 5);
			assert_int_equal(signals(f->call_fd), 1);
		}
		free_fix(f);
	}
}

static void kicks_come_only_when_they_are_wanted(void **state)
{
	for (unsigned bits = 0; bits < 4; bits++) {
		struct fix *f =
			new_fix((struct drv_config){ .packed = bits & 1, .event_idx = bits & 2 });

		for (unsigned round = 0; round < 20; round++) {
			assert_false(vq_want_kicks(f->vq, true));
			add(f, 1, 0, 1);
			assert_true(drv_must_kick(f->d));
			assert_true(vq_want_kicks(f->vq, true)); /* it waits already */
			assert_int_equal(pop(f), 1);
			push(f, 0);
			assert_false(vq_want_kicks(f->vq, false));
			add(f, 1, 0, 1);
			assert_false(drv_must_kick(f->d));
			assert_int_equal(pop(f), 1);
			push(f, 0);
			vq_notify(f->vq);
			while (get(f, NULL))
				continue;
		}
		free_fix(f);
	}
}

static void a_new_process_wants_kicks_though_the_old_one_did_not(void **state)
{
	for (unsigned bits = 0; bits < 4; bits++) {
		struct fix *f =
			new_fix((struct drv_config){ .packed = bits & 1, .event_idx = bits & 2 });

		serve(f, 3);
		vq_want_kicks(f->vq, false);
		f->s.base = vq_stop(f->vq);
		assert_int_equal(vq_setup(f->vq, &f->s, &f->m->mem, &f->err), 0);
		add(f, 1, 0, 1);
		assert_true(drv_must_kick(f->d));
		free_fix(f);
	}
}

/* The process before may have died between its last used buffer and the signal. */
static void a_queue_that_goes_on_signals_once_whatever_is_wanted(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fix *f = new_fix((struct drv_config){ .packed = packed });

		drv_want_signals(f->d, false, 0);
		vq_notify(f->vq);
		assert_int_equal(signals(f->call_fd), 0);
		serve(f, 3);
		f->s.base = vq_stop(f->vq);
		assert_int_equal(vq_setup(f->vq, &f->s, &f->m->mem, &f->err), 0);
		vq_notify(f->vq);
		assert_int_equal(signals(f->call_fd), 1);
		vq_notify(f->vq);
		assert_int_equal(signals(f->call_fd), 0);
		free_fix(f);
	}
}

static void a_full_blocking_eventfd_holds_nobody_up(void **state)
{
	struct fix *f = new_fix((struct drv_config){ 0 });
	int full = eventfd(0, EFD_CLOEXEC);

	assert_int_equal(eventfd_write(full, UINT64_MAX - 1), 0);
	vq_set_call(f->vq, full);
	serve(f, 1);
	serve(f, 1);
	vq_set_call(f->vq, f->call_fd);
	serve(f, 1);
	assert_int_equal(signals(f->call_fd), 1);
	close(full);
	free_fix(f);
}

/* Memory */

static void an_open_request_keeps_its_memory(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fix *f = new_fix((struct drv_config){ .packed = packed });
		struct drv *clone;
		struct vq_req old;
		uint32_t written;

		add(f, 0, 1, 1);
		add(f, 0, 1, 2);
		assert_int_equal(pop(f), 1);
		old = f->req;
		assert_ptr_equal(old.mem, &f->m->mem);
		clone = drv_clone(f->d, NULL);
		assert_int_equal(vq_set_mem(f->vq, &clone->m->mem, &f->err), 0);
		assert_int_equal(clone->m->refs, 1);
		assert_int_equal(f->m->refs, 1); /* the request's */
		assert_int_equal(pop(f), 1);
		assert_ptr_equal(f->req.mem, &clone->m->mem);
		push(f, 2);
		vq_push(f->vq, &old, 1);
		assert_int_equal(f->m->refs, 0);
		vq_notify(f->vq);
		assert_int_equal(get(f, NULL), 0); /* the old ring is not touched */
		for (unsigned i = 2; i >= 1; i--) {
			void *cookie;

			assert_true(drv_get(clone, &cookie, &written));
			assert_int_equal(written, i);
		}
		vq_stop(f->vq);
		drv_mem_free(clone->m);
		drv_free(clone);
		free_fix(f);
	}
}

static void a_queue_whose_ring_lost_its_memory_is_broken(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fix *f = new_fix((struct drv_config){ .packed = packed });
		struct drv_mem *small = drv_mem_new(4096);

		small->ro_iova = DRV_IOVA;
		small->ro_len = 4096;
		add(f, 0, 1, 1);
		add(f, 0, 1, 2);
		assert_int_equal(pop(f), 1);
		assert_int_equal(vq_set_mem(f->vq, &small->mem, &f->err), -EFAULT);
		assert_non_null(strstr(f->err.text, "is not in guest memory"));
		assert_non_null(vq_broken(f->vq));
		assert_int_equal(signals(f->err_fd), 1);
		push(f, 1); /* comes to nothing */
		vq_notify(f->vq);
		assert_int_equal(vq_open(f->vq), 0);
		assert_int_equal(get(f, NULL), 0);
		assert_int_equal(pop(f), -EINVAL);
		/* Another set-up makes it whole. */
		f->s.base = packed ? 0x80008000 : 0;
		assert_int_equal(vq_setup(f->vq, &f->s, &f->m->mem, &f->err), 0);
		assert_int_equal(small->refs, 0);
		assert_int_equal(pop(f), 1);
		push(f, 0);
		drv_mem_free(small);
		free_fix(f);
	}
}

static void a_request_of_an_earlier_set_up_is_only_let_go(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fix *f = new_fix((struct drv_config){ .packed = packed });
		struct vq_req old, again;

		add(f, 0, 1, 1);
		assert_int_equal(pop(f), 1);
		old = f->req;
		assert_int_equal(vq_setup(f->vq, &f->s, &f->m->mem, &f->err), 0);
		assert_int_equal(vq_open(f->vq), 0);
		assert_int_equal(pop(f), 1);
		again = f->req;
		vq_push(f->vq, &old, 5);
		vq_notify(f->vq);
		assert_int_equal(get(f, NULL), 0);
		vq_push(f->vq, &again, 6);
		vq_notify(f->vq);
		assert_int_equal(get(f, NULL), 1);
		free_fix(f);
	}
}

/* Whoever copies guest memory meanwhile hears of each byte that has changed. */
static void all_that_is_written_is_marked_dirty(void **state)
{
	for (unsigned bits = 0; bits < 8; bits++) {
		struct fix *f = new_fix((struct drv_config){
			.packed = bits & 1, .event_idx = bits & 2, .indirect = bits & 4 });
		FREE_AUTO uint8_t *before = malloc(f->m->size);
		struct drv_buf b[2] = { { f->buf, 50 }, { f->buf + 4000, 200 } };
		uint8_t bytes[200];

		memset(bytes, 0x55, sizeof(bytes));
		drv_mem_log(f->m);
		/* batches of three, so that they cross the end of the ring */
		for (unsigned round = 0; round < 20; round++) {
			for (uintptr_t i = 1; i <= 3; i++)
				assert_int_equal(drv_add(f->d, b, 1, 1, (void *)i), 0);
			memset(drv_at(f->m, f->buf), 0, 8192);
			memcpy(before, f->m->hva, f->m->size);
			memset(f->m->dirty, 0, f->m->size);
			for (unsigned i = 0; i < 3; i++) {
				assert_int_equal(pop(f), 1);
				assert_int_equal(vq_req_write(&f->req, 0, bytes, 200), 200);
				push(f, 200);
			}
			vq_notify(f->vq);
			vq_want_kicks(f->vq, true);
			for (uint64_t i = 0; i < f->m->size; i++)
				if (before[i] != f->m->hva[i] && !f->m->dirty[i])
					fail_msg("0x%llx", (unsigned long long)(DRV_IOVA + i));
			/* and what may only be read is not */
			assert_int_equal(f->m->dirty[f->buf - DRV_IOVA], 0);
			assert_int_equal(f->m->dirty[f->buf + 4000 - DRV_IOVA], 1);
			for (unsigned i = 1; i <= 3; i++)
				assert_int_equal(get(f, NULL), i);
		}
		free_fix(f);
	}
}

/* The log begins between taking a request and answering it. */
static void a_log_that_begins_late_misses_nothing(void **state)
{
	struct fix *f = new_fix((struct drv_config){ 0 });
	struct drv *clone;

	add(f, 0, 1, 1);
	assert_int_equal(pop(f), 1);
	clone = drv_clone(f->d, NULL);
	drv_mem_log(clone->m);
	assert_int_equal(vq_set_mem(f->vq, &clone->m->mem, &f->err), 0);
	push(f, 1);
	assert_int_equal(clone->m->dirty[f->buf - DRV_IOVA], 1);
	vq_stop(f->vq);
	drv_mem_free(clone->m);
	drv_free(clone);
	free_fix(f);
}

static void descriptors_are_the_ports(void **state)
{
	struct fix *f = new_fix((struct drv_config){ 0 });

	assert_int_equal(vq_index(f->vq), 5);
	assert_int_equal(vq_kick_fd(f->vq), -1);
	vq_set_kick(f->vq, f->err_fd);
	assert_int_equal(vq_kick_fd(f->vq), f->err_fd);
	vq_break(f->vq, "the model says so");
	vq_break(f->vq, "and again");
	assert_string_equal(vq_broken(f->vq), "the model says so");
	assert_int_equal(signals(f->err_fd), 1);
	free_fix(f);
	vq_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set_up_refuses_what_is_no_ring),
		cmocka_unit_test(only_packed_rings_have_other_sizes_than_powers_of_two),
		cmocka_unit_test(a_packed_base_lies_in_the_ring),
		cmocka_unit_test(an_inflight_region_has_room_for_the_queue),
		cmocka_unit_test(a_stopped_queue_goes_on_from_its_base),
		cmocka_unit_test(what_the_driver_has_not_seen_used_is_popped_again),
		cmocka_unit_test(
			an_inflight_area_says_where_the_ring_stands_unless_the_base_was_told),
		cmocka_unit_test(pieces_are_what_the_descriptors_say),
		cmocka_unit_test(a_descriptor_that_crosses_mappings_becomes_several_pieces),
		cmocka_unit_test(a_request_given_back_is_popped_again),
		cmocka_unit_test(in_order_holds_back_what_is_early),
		cmocka_unit_test(the_driver_is_signalled_once_per_batch_and_only_if_it_wants),
		cmocka_unit_test(with_the_event_index_the_signal_comes_when_it_is_passed),
		cmocka_unit_test(kicks_come_only_when_they_are_wanted),
		cmocka_unit_test(a_new_process_wants_kicks_though_the_old_one_did_not),
		cmocka_unit_test(a_queue_that_goes_on_signals_once_whatever_is_wanted),
		cmocka_unit_test(a_full_blocking_eventfd_holds_nobody_up),
		cmocka_unit_test(an_open_request_keeps_its_memory),
		cmocka_unit_test(a_queue_whose_ring_lost_its_memory_is_broken),
		cmocka_unit_test(a_request_of_an_earlier_set_up_is_only_let_go),
		cmocka_unit_test(all_that_is_written_is_marked_dirty),
		cmocka_unit_test(a_log_that_begins_late_misses_nothing),
		cmocka_unit_test(descriptors_are_the_ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
