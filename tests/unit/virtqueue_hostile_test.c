/* Drivers, and processes before this one, that write into shared memory what they like. */
#include "vq_fixture.h"

#include <pthread.h>

#include "wire/virtio.h"

#define NEXT	 VRING_DESC_F_NEXT
#define WRITE	 VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT

/* Split: make head available, whatever it is. */
static void offer(struct fix *f, uint16_t head)
{
	f->d->avail->ring[f->d->avail_idx++ % SIZE] = head;
	f->d->avail->idx = f->d->avail_idx;
}

static void set_desc(
	struct vring_desc *at, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	*at = (struct vring_desc){ .addr = addr, .len = len, .flags = flags, .next = next };
}

/* Packed: a descriptor in ring place i of the first lap, made available. */
static void set_packed(struct fix *f, unsigned i, uint64_t addr, uint32_t len, uint16_t flags)
{
	f->d->ring[i] = (struct vring_packed_desc){
		.addr = addr,
		.len = len,
		.id = (uint16_t)(100 + i),
		.flags = flags | 1u << VRING_PACKED_DESC_F_AVAIL,
	};
}

static void broken_because(struct fix *f, const char *text)
{
	assert_int_equal(pop(f), -EINVAL);
	if (!vq_broken(f->vq) || !strstr(vq_broken(f->vq), text))
		fail_msg("'%s' does not say '%s'", vq_broken(f->vq), text);
	assert_int_equal(signals(f->err_fd), 1);
	/* once and for all */
	assert_int_equal(pop(f), -EINVAL);
	assert_int_equal(signals(f->err_fd), 0);
	assert_false(vq_ready(f->vq));
	vq_notify(f->vq);
	free_fix(f);
}

static struct fix *split(void)
{
	return new_fix((struct drv_config){ .indirect = true });
}

static struct fix *packed(void)
{
	return new_fix((struct drv_config){ .packed = true, .indirect = true });
}

/* Rings */

static void an_available_index_that_jumps_breaks_the_queue(void **state)
{
	struct fix *f = split();

	f->d->avail->idx = SIZE + 1;
	broken_because(f, "ahead by more than the queue's size");
	f = split();
	f->d->avail->idx = UINT16_MAX; /* back by one */
	broken_because(f, "ahead by more than the queue's size");
}

static void a_head_beyond_the_table_breaks_the_queue(void **state)
{
	struct fix *f = split();

	offer(f, SIZE);
	broken_because(f, "names a descriptor beyond the table");
	f = split();
	offer(f, UINT16_MAX);
	broken_because(f, "names a descriptor beyond the table");
}

static void a_head_that_is_taken_cannot_be_offered_again(void **state)
{
	struct fix *f = split();

	set_desc(&f->d->desc[2], f->buf, 8, 0, 0);
	offer(f, 2);
	offer(f, 2);
	assert_int_equal(pop(f), 1);
	vq_forget(f->vq, &f->req);
	broken_because(f, "made available again before it was used");
	/* Pushed, but not published yet, is taken, too. */
	f = split();
	set_desc(&f->d->desc[2], f->buf, 8, 0, 0);
	offer(f, 2);
	offer(f, 2);
	assert_int_equal(pop(f), 1);
	push(f, 0);
	broken_because(f, "made available again before it was used");
}

static void a_packed_ring_has_no_more_descriptors_than_its_size(void **state)
{
	struct fix *f = packed();

	for (unsigned i = 0; i < SIZE; i++)
		set_packed(f, i, f->buf, 8, NEXT);
	broken_because(f, "more descriptors are available than the ring has");

	/* Those of the first lap are open, and are made available for the second one. */
	f = packed();
	for (unsigned i = 0; i < SIZE; i++)
		set_packed(f, i, f->buf, 8, 0);
	for (unsigned i = 0; i < SIZE; i++) {
		assert_int_equal(pop(f), 1);
		assert_int_equal(f->req.id, 100 + i);
		vq_forget(f->vq, &f->req);
	}
	f->d->ring[0].flags = 1u << VRING_PACKED_DESC_F_USED;
	broken_because(f, "more descriptors are available than the ring has");
}

/* Chains */

static void a_loop_of_descriptors_breaks_the_queue(void **state)
{
	struct fix *f = split();

	set_desc(&f->d->desc[0], f->buf, 8, NEXT, 1);
	set_desc(&f->d->desc[1], f->buf, 8, NEXT, 0);
	offer(f, 0);
	broken_because(f, "form a loop");
	f = split();
	set_desc(&f->d->desc[3], f->buf, 0, NEXT, 3);
	offer(f, 3);
	broken_because(f, "form a loop");
}

static void a_link_out_of_the_table_breaks_the_queue(void **state)
{
	struct fix *f = split();

	set_desc(&f->d->desc[0], f->buf, 8, NEXT, SIZE);
	offer(f, 0);
	broken_because(f, "link leads out of the table");
}

static void readable_after_writable_breaks_the_queue(void **state)
{
	struct fix *f = split();

	set_desc(&f->d->desc[0], f->buf, 8, NEXT | WRITE, 1);
	set_desc(&f->d->desc[1], f->buf, 8, 0, 0);
	offer(f, 0);
	broken_because(f, "a descriptor to read comes after one to write");
	f = packed();
	set_packed(f, 0, f->buf, 8, NEXT | WRITE);
	set_packed(f, 1, f->buf, 8, 0);
	broken_because(f, "a descriptor to read comes after one to write");
}

/* Indirect tables */

static struct fix *split_table(uint32_t len, uint16_t flags, struct vring_desc **table)
{
	struct fix *f = split();

	set_desc(&f->d->desc[0], f->d->table_iova, len, INDIRECT | flags, 1);
	set_desc(&f->d->desc[1], f->buf, 8, 0, 0);
	*table = drv_at(f->m, f->d->table_iova);
	set_desc(*table, f->buf, 8, 0, 0);
	offer(f, 0);
	return f;
}

static struct fix *packed_table(uint32_t len, uint16_t flags)
{
	struct fix *f = packed();
	struct vring_packed_desc *table = drv_at(f->m, f->d->table_iova);

	set_packed(f, 0, f->d->table_iova, len, INDIRECT | flags);
	set_packed(f, 1, f->buf, 8, 0);
	table[0] = (struct vring_packed_desc){ .addr = f->buf, .len = 8 };
	table[1] = table[0];
	return f;
}

static void a_table_is_a_whole_number_of_descriptors(void **state)
{
	static const uint32_t lens[] = { 0, 1, 15, 17, UINT32_MAX };
	struct vring_desc *t;

	for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
		broken_because(split_table(lens[i], 0, &t), "no whole number of descriptors");
		broken_because(packed_table(lens[i], 0), "no whole number of descriptors");
	}
	broken_because(split_table(16 * 32769, 0, &t), "more descriptors than any queue");
	broken_because(packed_table(UINT32_MAX - 15, 0), "more descriptors than any queue");
}

static void a_table_without_the_feature_breaks_the_queue(void **state)
{
	struct fix *f = new_fix((struct drv_config){ 0 });

	set_desc(&f->d->desc[0], f->buf, 16, INDIRECT, 0);
	offer(f, 0);
	broken_because(f, "the feature was not accepted");
	f = new_fix((struct drv_config){ .packed = true });
	set_packed(f, 0, f->buf, 16, INDIRECT);
	broken_because(f, "the feature was not accepted");
}

static void a_table_is_the_last_of_its_chain(void **state)
{
	struct vring_desc *t;
	struct fix *f;

	broken_because(split_table(16, NEXT, &t), "with another one after it");
	broken_because(packed_table(16, NEXT), "in a list with others");
	/* split: descriptors before it are fine. packed: a list is all of one kind. */
	f = split_table(16, 0, &t);
	set_desc(&f->d->desc[1], f->buf + 64, 8, NEXT, 0);
	offer(f, 1);
	f->d->avail->ring[0] = 1;
	f->d->avail->idx = 1;
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->req.nr_out, 2);
	push(f, 0);
	free_fix(f);
	f = packed();
	set_packed(f, 0, f->buf, 8, NEXT);
	set_packed(f, 1, f->d->table_iova, 16, INDIRECT);
	broken_because(f, "in a list with others");
}

static void links_in_a_table_stay_in_it(void **state)
{
	struct vring_desc *t;
	struct fix *f = split_table(32, 0, &t);

	set_desc(&t[0], f->buf, 8, NEXT, 2);
	broken_because(f, "leads out of an indirect table");
	f = split_table(32, 0, &t);
	set_desc(&t[0], f->buf, 8, NEXT, 1);
	set_desc(&t[1], f->buf, 0, NEXT, 1);
	broken_because(f, "of an indirect table form a loop");
	f = split_table(32, 0, &t);
	set_desc(&t[0], f->buf, 16, INDIRECT, 0);
	broken_because(f, "an indirect descriptor in an indirect table");
	f = split_table(32, 0, &t);
	set_desc(&t[0], f->buf, 8, NEXT | WRITE, 1);
	set_desc(&t[1], f->buf, 8, 0, 0);
	broken_because(f, "a descriptor to read comes after one to write");
}

/* virtio 1.3, 2.8.7: all flags but WRITE are reserved there, and ignored. */
static void a_packed_table_has_one_flag(void **state)
{
	struct fix *f = packed_table(32, WRITE);
	struct vring_packed_desc *table = drv_at(f->m, f->d->table_iova);

	table[0].flags = INDIRECT | NEXT;
	table[1].flags = WRITE;
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->req.nr_out, 1);
	assert_int_equal(f->req.nr_in, 1);
	push(f, 0);
	free_fix(f);
}

/* Addresses */

/* The request is given, empty, with a reason, and can be answered; the queue goes on. */
static void bad_request(struct fix *f, int bad, uint16_t id)
{
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->bad, bad);
	assert_int_equal(f->req.id, id);
	assert_int_equal(f->req.nr_out + f->req.nr_in, 0);
	assert_int_equal(f->req.out_len + f->req.in_len, 0);
	push(f, 0);
	vq_notify(f->vq);
	assert_null(vq_broken(f->vq));
	assert_int_equal(pop(f), 0);
	free_fix(f);
}

static void addresses_outside_memory_spoil_only_their_request(void **state)
{
	const uint64_t end = DRV_IOVA + (1 << 18);
	const struct drv_buf bad[] = { { 0, 1 }, { DRV_IOVA - 1, 2 }, { end - 1, 2 }, { end, 1 },
		{ UINT64_MAX, 1 }, { UINT64_MAX - 7, 8 }, { UINT64_MAX - 7, 64 },
		{ UINT64_MAX - UINT32_MAX + 1, UINT32_MAX }, { DRV_IOVA, UINT32_MAX } };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vring_desc *t;
		struct fix *f = split();

		set_desc(&f->d->desc[0], f->buf, 8, NEXT, 1);
		set_desc(&f->d->desc[1], bad[i].iova, bad[i].len, WRITE, 0);
		offer(f, 0);
		bad_request(f, -EFAULT, 0);
		f = split_table(32, 0, &t);
		set_desc(&t[0], bad[i].iova, bad[i].len, 0, 0);
		bad_request(f, -EFAULT, 0);
		/* the id is in the last descriptor, which is looked for all the same */
		f = packed();
		set_packed(f, 0, bad[i].iova, bad[i].len, NEXT);
		set_packed(f, 1, f->buf, 8, 0);
		bad_request(f, -EFAULT, 101);
	}
}

static void a_table_outside_memory_spoils_only_its_request(void **state)
{
	static const uint64_t at[] = { 0, UINT64_MAX - 15, DRV_IOVA + (1 << 18) - 16 };

	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		struct vring_desc *t;
		struct fix *f = split_table(32, 0, &t);

		f->d->desc[0].addr = at[i];
		if (at[i] > DRV_IOVA && at[i] < UINT32_MAX) /* the first of two is there */
			set_desc(drv_at(f->m, at[i]), f->buf, 8, NEXT, 1);
		bad_request(f, -EFAULT, 0);
		f = packed_table(32, 0);
		f->d->ring[0].addr = at[i];
		f->d->ring[1].flags = 0;
		bad_request(f, -EFAULT, 100);
	}
}

static void what_can_only_be_read_is_not_given_to_write(void **state)
{
	struct fix *f = split();

	f->m->ro_iova = f->buf;
	f->m->ro_len = 64;
	set_desc(&f->d->desc[0], f->buf, 8, WRITE, 1);
	offer(f, 0);
	bad_request(f, -EFAULT, 0);
	f = split();
	f->m->ro_iova = f->buf;
	f->m->ro_len = 64;
	set_desc(&f->d->desc[0], f->buf, 8, 0, 1);
	offer(f, 0);
	assert_int_equal(pop(f), 1);
	assert_int_equal(f->bad, 0);
	push(f, 0);
	free_fix(f);
}

static void too_many_pieces_spoil_only_their_request(void **state)
{
	for (int kind = 0; kind < 2; kind++) {
		struct fix *f = new_fix((struct drv_config){ .packed = kind, .size = 16 });
		uint16_t last = MAX_IOV;

		for (uint16_t i = 0; i <= last; i++) {
			uint16_t flags = i < last ? NEXT : 0;

			if (kind)
				set_packed(f, i, f->buf, 8, flags);
			else
				set_desc(&f->d->desc[i], f->buf, 8, flags, (uint16_t)(i + 1));
		}
		f->d->ring[last].id = 100;
		if (!kind) {
			set_desc(&f->d->desc[last], f->buf, 8, 0, 0);
			f->d->avail->idx = 1;
		}
		bad_request(f, -E2BIG, kind ? 100 : 0);
	}
}

static void a_model_that_asks_for_no_reason_gets_a_broken_queue(void **state)
{
	for (int kind = 0; kind < 2; kind++) {
		struct fix *f = kind ? packed() : split();

		if (kind) {
			set_packed(f, 0, 1, 1, 0);
		} else {
			set_desc(&f->d->desc[0], 1, 1, 0, 0);
			offer(f, 0);
		}
		prepare(f, &f->req);
		assert_int_equal(vq_pop(f->vq, &f->req, NULL), -EINVAL);
		assert_string_equal(vq_broken(f->vq), "a request is not in guest memory");
		free_fix(f);
	}
}

/* Memory without end, all of it at one place: for lengths that no test has memory for. */
static void *endless_ptr(struct guest_mem *mem, uint64_t iova, size_t *len, bool write)
{
	struct drv_mem *m = drv_mem_of(mem);

	return iova >= DRV_IOVA + m->size ? m->hva : drv_mem_ptr(mem, iova, len, write);
}

static void lengths_of_4_gib_are_added_up_without_wrapping(void **state)
{
	static const struct guest_mem_ops ops = { .read = drv_mem_read,
		.write = drv_mem_write,
		.ptr = endless_ptr,
		.get = drv_mem_get,
		.put = drv_mem_put };

	for (int kind = 0; kind < 2; kind++) {
		struct fix *f = kind ? packed() : split();

		f->m->mem.ops = &ops;
		for (uint16_t i = 0; i < SIZE; i++) {
			uint16_t flags = (i ? WRITE : 0) | (i < SIZE - 1 ? NEXT : 0);

			if (kind)
				set_packed(f, i, 1ull << 40, UINT32_MAX, flags);
			else
				set_desc(&f->d->desc[i], 1ull << 40, UINT32_MAX, flags,
					(uint16_t)(i + 1));
		}
		if (!kind)
			offer(f, 0);
		assert_int_equal(pop(f), 1);
		assert_int_equal(f->bad, 0);
		assert_int_equal(f->req.out_len, UINT32_MAX);
		assert_true(f->req.in_len == (SIZE - 1) * (uint64_t)UINT32_MAX);
		push(f, UINT32_MAX);
		free_fix(f);
	}
}

/* Changes between reads */

static struct fix *changing;

/* The driver changes the descriptor as soon as its address is looked at. */
static void *changing_ptr(struct guest_mem *mem, uint64_t iova, size_t *len, bool write)
{
	struct fix *f = changing;

	if (f && iova == f->buf) {
		set_desc(&f->d->desc[0], 0, UINT32_MAX, WRITE | INDIRECT, 77);
		f->d->ring[0].flags = NEXT | WRITE | 1u << VRING_PACKED_DESC_F_AVAIL;
		f->d->avail->ring[0] = 99;
	}
	return drv_mem_ptr(mem, iova, len, write);
}

static void what_was_read_once_is_not_read_again(void **state)
{
	static const struct guest_mem_ops ops = { .read = drv_mem_read,
		.write = drv_mem_write,
		.ptr = changing_ptr,
		.get = drv_mem_get,
		.put = drv_mem_put };

	for (int kind = 0; kind < 2; kind++) {
		struct fix *f = kind ? packed() : split();
		uint16_t id = kind ? 100 : 0;

		if (kind) {
			set_packed(f, 0, f->buf, 16, 0);
		} else {
			set_desc(&f->d->desc[0], f->buf, 16, 0, 0);
			offer(f, 0);
		}
		f->m->mem.ops = &ops;
		changing = f;
		assert_int_equal(pop(f), 1);
		changing = NULL;
		assert_int_equal(f->bad, 0);
		assert_int_equal(f->req.id, id);
		assert_int_equal(f->req.nr_out, 1);
		assert_int_equal(f->req.nr_in, 0);
		assert_int_equal(f->req.out_len, 16);
		push(f, 0);
		free_fix(f);
	}
}

struct scribbler {
	uint8_t *at[3]; /* ring, table, inflight area */
	uint64_t len[3];
	atomic_bool stop;
};

/* Mostly small numbers, so that some of it makes sense. */
static void *scribble(void *arg)
{
	struct scribbler *s = arg;
	uint64_t r = 88172645463325252u;

	while (!s->stop)
		for (unsigned i = 0; i < 4096; i++) {
			unsigned where = i % 3;

			r ^= r << 13;
			r ^= r >> 7;
			r ^= r << 17;
			s->at[where][(r >> 32) % s->len[where]] =
				(uint8_t)(r & 63 ? r % (SIZE + 1) : r);
		}
	return NULL;
}

/* What is open may have been taken from anywhere, but it lies in memory and adds up. */
static void check_scribbled(struct fix *f)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < (unsigned)f->req.nr_out + f->req.nr_in; i++) {
		assert_true(range_ok(f->iova[i] - DRV_IOVA, f->iov[i].iov_len, f->m->size));
		assert_ptr_equal(f->iov[i].iov_base, drv_at(f->m, f->iova[i]));
		sum += f->iov[i].iov_len;
	}
	assert_true(sum == f->req.out_len + f->req.in_len);
	assert_true(vq_open(f->vq) <= SIZE);
}

static unsigned serve_scribbled(struct fix *f)
{
	unsigned taken = 0;

	while (taken < SIZE && pop(f) > 0) {
		check_scribbled(f);
		if (taken++ == 2)
			vq_unpop(f->vq, &f->req);
		else
			push(f, 0);
	}
	vq_notify(f->vq);
	vq_want_kicks(f->vq, taken % 2);
	signals(f->err_fd);
	signals(f->call_fd);
	/* dropped, stopped, or dead */
	if (taken % 3 == 1)
		vq_leave(f->vq);
	else if (taken % 3 == 2)
		vq_stop(f->vq);
	return taken;
}

static void a_driver_may_scribble_while_the_queue_is_served(void **state)
{
	for (int kind = 0; kind < 2; kind++) {
		struct fix *f = kind ? packed() : split();
		uint64_t len = f->buf - DRV_IOVA;
		FREE_AUTO uint8_t *good = malloc(len);
		struct scribbler s = { 0 };
		unsigned taken = 0;
		pthread_t thread;

		while (f->d->nr_free >= 2)
			add(f, 1, f->d->nr_free % 2, 1);
		memcpy(good, f->m->hva, len);
		f->s.inflight_size = vhost_user_inflight_region(kind, SIZE);
		f->s.inflight = calloc(1, f->s.inflight_size);
		s = (struct scribbler){
			.at = { (uint8_t *)f->d->desc, drv_at(f->m, f->d->table_iova),
				f->s.inflight },
			.len = { f->d->table_iova - DRV_IOVA, 16 * DRV_MAX_TABLE * SIZE,
				f->s.inflight_size },
		};
		assert_int_equal(pthread_create(&thread, NULL, scribble, &s), 0);
		for (unsigned i = 0; i < 50000; i++) {
			memcpy(f->m->hva, good, len);
			if (i % 2)
				memset(f->s.inflight, 0, f->s.inflight_size);
			vq_setup(f->vq, &f->s, &f->m->mem, NULL);
			taken += serve_scribbled(f);
		}
		s.stop = true;
		pthread_join(thread, NULL);
		assert_true(taken > 50000);
		free(f->s.inflight);
		free_fix(f);
	}
}

/* Inflight areas */

/*
 * Whatever is in the area: the set-up refuses it or goes on, each request that is popped can be
 * pushed, and there are never more of them than the ring has.
 */
static void serve_garbage(struct fix *f)
{
	struct vq_req reqs[SIZE];
	struct iovec iov[SIZE][MAX_IOV];
	uint64_t iova[SIZE][MAX_IOV];
	unsigned nr = 0;

	if (vq_setup(f->vq, &f->s, &f->m->mem, NULL)) {
		assert_non_null(vq_broken(f->vq));
		return;
	}
	while (nr < SIZE) {
		int bad, rc;

		reqs[nr] = (struct vq_req){ .iov = iov[nr], .iova = iova[nr], .max_iov = MAX_IOV };
		rc = vq_pop(f->vq, &reqs[nr], &bad);
		if (rc <= 0)
			break;
		nr++;
	}
	if (nr == SIZE)
		assert_true(pop(f) <= 0);
	while (nr--)
		vq_push(f->vq, &reqs[nr], 0);
	vq_notify(f->vq);
	vq_stop(f->vq);
}

static void an_inflight_area_full_of_nonsense_harms_nobody(void **state)
{
	unsigned accepted = 0;

	srand(1);
	for (int kind = 0; kind < 2; kind++) {
		struct fix *f = kind ? packed() : split();
		uint64_t size = vhost_user_inflight_region(kind, SIZE);
		/* as many bytes as it says, so that the sanitizer sees the one after them */
		uint8_t *area = malloc(size);
		uint16_t *head = (uint16_t *)(void *)area;

		f->s.inflight = area;
		f->s.inflight_size = size;
		for (unsigned i = 0; i < 20000; i++) {
			unsigned limit = i % 2 ? 256 : SIZE + 2;

			for (uint64_t k = 0; k < size; k++)
				area[k] = rand() % 3 ? 0 : (uint8_t)((unsigned)rand() % limit);
			head[4] = VHOST_USER_INFLIGHT_VERSION;
			head[5] = SIZE;
			for (uint64_t k = 0; k < 16 * SIZE; k++)
				f->m->hva[k] = (uint8_t)rand();
			f->d->avail->idx = f->d->used->idx = 0;
			serve_garbage(f);
			accepted += strcmp(vq_broken(f->vq), "it has been stopped") == 0;
		}
		free_fix(f);
		free(area);
	}
	assert_true(accepted > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_available_index_that_jumps_breaks_the_queue),
		cmocka_unit_test(a_head_beyond_the_table_breaks_the_queue),
		cmocka_unit_test(a_head_that_is_taken_cannot_be_offered_again),
		cmocka_unit_test(a_packed_ring_has_no_more_descriptors_than_its_size),
		cmocka_unit_test(a_loop_of_descriptors_breaks_the_queue),
		cmocka_unit_test(a_link_out_of_the_table_breaks_the_queue),
		cmocka_unit_test(readable_after_writable_breaks_the_queue),
		cmocka_unit_test(a_table_is_a_whole_number_of_descriptors),
		cmocka_unit_test(a_table_without_the_feature_breaks_the_queue),
		cmocka_unit_test(a_table_is_the_last_of_its_chain),
		cmocka_unit_test(links_in_a_table_stay_in_it),
		cmocka_unit_test(a_packed_table_has_one_flag),
		cmocka_unit_test(addresses_outside_memory_spoil_only_their_request),
		cmocka_unit_test(a_table_outside_memory_spoils_only_its_request),
		cmocka_unit_test(what_can_only_be_read_is_not_given_to_write),
		cmocka_unit_test(too_many_pieces_spoil_only_their_request),
		cmocka_unit_test(a_model_that_asks_for_no_reason_gets_a_broken_queue),
		cmocka_unit_test(lengths_of_4_gib_are_added_up_without_wrapping),
		cmocka_unit_test(what_was_read_once_is_not_read_again),
		cmocka_unit_test(a_driver_may_scribble_while_the_queue_is_served),
		cmocka_unit_test(an_inflight_area_full_of_nonsense_harms_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
