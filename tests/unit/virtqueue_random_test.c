/*
 * A driver and a device that know nothing of each other but the ring, for all combinations of
 * features: whatever is added comes back once, with the right bytes, and neither side ever waits
 * for a notification that does not come.
 */
#include "device/virtqueue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/util.h"
#include "vq_driver.h"
#include "wire/vhost_user.h"

#define MAX_BUFS   6
#define SLOT_BYTES 4096u
#define MAX_OPEN   32
#define MAX_IOV	   64

static uint64_t rng_state;

static uint32_t random_below(uint32_t n)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)(rng_state >> 16) % n;
}

/* A request as the driver made it. */
struct slot {
	bool busy;
	uint32_t seed; /* 4 bytes of it are the first to read, if there is room */
	uint64_t area;
	unsigned nr_out, nr_in;
	struct drv_buf bufs[MAX_BUFS];
	uint64_t out_len, in_len;
};

/* What the device has open. */
struct work {
	struct vq_req req;
	struct iovec iov[MAX_IOV];
	uint64_t iova[MAX_IOV];
};

struct world {
	struct drv_mem *m;
	struct drv *d;
	struct vq *vq;
	int call_fd;
	bool kicked;
	struct slot *slots;
	struct work works[MAX_OPEN];
	unsigned order[MAX_OPEN], nr_open; /* indices of works */
	unsigned idle[MAX_OPEN], nr_idle;
	uint64_t added, returned;
	uint8_t buf[SLOT_BYTES], answer[SLOT_BYTES];
};

static uint8_t out_byte(uint32_t seed, uint64_t i)
{
	return (uint8_t)(seed >> (i % 4 * 8)) ^ (uint8_t)(i / 4);
}

static uint8_t in_byte(uint32_t sum, uint64_t i)
{
	return (uint8_t)(sum + i * 7);
}

static uint32_t sum_of(const uint8_t *bytes, uint64_t len)
{
	uint32_t sum = 17;

	for (uint64_t i = 0; i < len; i++)
		sum = sum * 31 + bytes[i];
	return sum;
}

/* The driver's side */

static void make_bufs(struct world *w, struct slot *s)
{
	unsigned most = w->d->config.indirect ? MAX_BUFS : MIN(MAX_BUFS, w->d->config.size);
	unsigned nr = 1 + random_below(most);
	uint64_t at = s->area;

	s->nr_out = random_below(nr + 1);
	s->nr_in = nr - s->nr_out;
	s->out_len = s->in_len = 0;
	for (unsigned i = 0; i < nr; i++) {
		uint32_t len = random_below(8) ? random_below(SLOT_BYTES / MAX_BUFS) : 0;

		s->bufs[i] = (struct drv_buf){ at, len };
		at += len;
		if (i < s->nr_out)
			s->out_len += len;
		else
			s->in_len += len;
	}
}

static bool add_one(struct world *w)
{
	struct slot *s = NULL;
	uint8_t *bytes;

	for (unsigned i = 0; i < w->d->config.size && !s; i++)
		s = w->slots[i].busy ? NULL : &w->slots[i];
	if (!s)
		return false;
	make_bufs(w, s);
	s->seed = random_below(UINT32_MAX);
	bytes = drv_at(w->m, s->area);
	for (uint64_t i = 0; i < s->out_len; i++)
		bytes[i] = out_byte(s->seed, i);
	memset(bytes + s->out_len, 0xee, s->in_len);
	if (drv_add_as(w->d, s->bufs, s->nr_out, s->nr_in,
		    w->d->config.indirect &&
			    (random_below(2) || s->nr_out + s->nr_in > w->d->config.size),
		    s))
		return false;
	s->busy = true;
	w->added++;
	return true;
}

static void check_answer(struct world *w, const struct slot *s, uint32_t written)
{
	const uint8_t *bytes = drv_at(w->m, s->area);
	uint32_t sum = sum_of(bytes, s->out_len);

	for (uint64_t i = 0; i < s->out_len; i++)
		assert_int_equal(bytes[i], out_byte(s->seed, i));
	assert_int_equal(written, sum % (s->in_len + 1));
	for (uint64_t i = 0; i < s->in_len; i++)
		assert_int_equal(bytes[s->out_len + i], i < written ? in_byte(sum, i) : 0xee);
}

static void collect(struct world *w)
{
	uint32_t written;
	void *cookie;

	while (drv_get(w->d, &cookie, &written)) {
		struct slot *s = cookie;

		assert_true(s->busy);
		check_answer(w, s, written);
		s->busy = false;
		w->returned++;
	}
	if (w->d->error)
		fail_msg("%s", w->d->error);
}

/* True: something came in between. */
static bool signalled(struct world *w)
{
	uint64_t count;

	return read(w->call_fd, &count, sizeof(count)) == sizeof(count);
}

/* The device's side */

static uint32_t answer(struct world *w, struct vq_req *req)
{
	uint32_t sum, len;

	assert_true(req->out_len <= SLOT_BYTES && req->in_len <= SLOT_BYTES);
	assert_int_equal(vq_req_read(req, 0, w->buf, SLOT_BYTES), req->out_len);
	sum = sum_of(w->buf, req->out_len);
	len = sum % (uint32_t)(req->in_len + 1);
	for (uint32_t i = 0; i < len; i++)
		w->answer[i] = in_byte(sum, i);
	/* in two parts, for the sake of the offset */
	assert_int_equal(vq_req_write(req, 0, w->answer, len / 2), len / 2);
	assert_int_equal(
		vq_req_write(req, len / 2, w->answer + len / 2, len - len / 2), len - len / 2);
	return len;
}

static bool take(struct world *w)
{
	unsigned i = w->idle[w->nr_idle - 1];
	struct work *k = &w->works[i];
	int bad = -1, rc;

	k->req.iov = k->iov;
	k->req.iova = k->iova;
	k->req.max_iov = MAX_IOV;
	rc = vq_pop(w->vq, &k->req, &bad);
	if (rc < 0)
		fail_msg("%s", vq_broken(w->vq));
	if (!rc)
		return false;
	assert_int_equal(bad, 0);
	if (!random_below(16)) {
		vq_unpop(w->vq, &k->req);
		return true;
	}
	w->nr_idle--;
	w->order[w->nr_open++] = i;
	return true;
}

static void finish_one(struct world *w)
{
	unsigned at = random_below(w->nr_open), i = w->order[at];
	struct work *k = &w->works[i];

	vq_push(w->vq, &k->req, answer(w, &k->req));
	w->order[at] = w->order[--w->nr_open];
	w->idle[w->nr_idle++] = i;
}

/* A turn of the device: returns only after it has asked for kicks or taken all it can. */
static void device_turn(struct world *w)
{
	bool more = true;

	w->kicked = false;
	if (random_below(2))
		vq_want_kicks(w->vq, false);
	do {
		while (w->nr_idle && (more = take(w)))
			if (w->nr_open && !random_below(3))
				finish_one(w);
		while (w->nr_open && random_below(4))
			finish_one(w);
		vq_notify(w->vq);
	} while (w->nr_idle && vq_want_kicks(w->vq, true));
	assert_int_equal(vq_open(w->vq), w->nr_open);
}

static void device_drain(struct world *w)
{
	while (w->nr_open)
		finish_one(w);
	vq_notify(w->vq);
}

/* Both */

static void stop_and_go_on(struct world *w, struct vq_setup *s, void *area)
{
	struct err err = { 0 };

	device_drain(w);
	s->base = vq_stop(w->vq);
	assert_non_null(vq_broken(w->vq));
	assert_int_equal(w->m->refs, 0);
	s->inflight = area;
	if (vq_setup(w->vq, s, &w->m->mem, &err))
		fail_msg("%s", err.text);
	w->kicked = true;
}

static void run(const struct drv_config *config, bool inflight, uint64_t seam, unsigned rounds)
{
	uint64_t area_size = vhost_user_inflight_region(config->packed, config->size);
	struct world *w = calloc(1, sizeof(*w));
	void *area = calloc(1, area_size);
	struct err err = { 0 };
	struct vq_setup s;

	w->m = drv_mem_new(1 << 21);
	w->d = drv_new(w->m, config);
	w->slots = calloc(config->size, sizeof(*w->slots));
	for (unsigned i = 0; i < config->size; i++)
		w->slots[i].area = drv_alloc(w->m, SLOT_BYTES, 64) + 3;
	for (unsigned i = 0; i < MAX_OPEN; i++)
		w->idle[w->nr_idle++] = i;
	w->call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(vq_new(&w->vq, 3, config->size), 0);
	vq_set_call(w->vq, w->call_fd);
	s = drv_setup(w->d);
	s.inflight = inflight ? area : NULL;
	s.inflight_size = area_size;
	if (vq_setup(w->vq, &s, &w->m->mem, &err))
		fail_msg("%s", err.text);
	w->m->seam = seam; /* the ring itself is one piece */

	for (unsigned i = 0; i < rounds; i++) {
		unsigned n = random_below(config->size + 2u);
		bool wants;

		while (n-- && add_one(w))
			if (!random_below(3))
				w->kicked |= drv_must_kick(w->d);
		w->kicked |= drv_must_kick(w->d);
		if (w->kicked || w->nr_open)
			device_turn(w);
		wants = random_below(4);
		drv_want_signals(w->d, wants, (uint16_t)random_below(MIN(4, config->size)));
		collect(w);
		if (!random_below(64)) {
			w->m->seam = 0;
			stop_and_go_on(w, &s, inflight ? area : NULL);
			w->m->seam = seam;
		}
	}
	/* The end: only who was notified moves. */
	for (;;) {
		drv_want_signals(w->d, true, 0);
		collect(w);
		if (w->added == w->returned)
			break;
		w->kicked |= drv_must_kick(w->d);
		if (w->kicked)
			device_turn(w);
		signalled(w);
		device_drain(w);
		if (!signalled(w))
			fail_msg("no signal: added %llu, returned %llu",
				(unsigned long long)w->added, (unsigned long long)w->returned);
	}
	device_drain(w);
	vq_stop(w->vq);
	vq_free(w->vq);
	assert_int_equal(w->m->refs, 0);
	close(w->call_fd);
	drv_free(w->d);
	drv_mem_free(w->m);
	free(w->slots);
	free(area);
	free(w);
}

static void every_request_comes_back_once_with_all_features(void **state)
{
	static const uint16_t sizes[] = { 1, 2, 4, 8, 32, 7, 13 }; /* the last ones packed only */

	rng_state = 0x9e3779b97f4a7c15u;
	for (unsigned bits = 0; bits < 64; bits++) {
		struct drv_config c = {
			.packed = bits & 1,
			.event_idx = bits & 2,
			.indirect = bits & 4,
			.in_order = bits & 8,
		};
		unsigned nr = c.packed ? ARRAY_SIZE(sizes) : ARRAY_SIZE(sizes) - 2;

		for (unsigned i = 0; i < nr; i++) {
			c.size = sizes[i];
			run(&c, bits & 16, bits & 32 ? 128 : 0, 300);
		}
	}
}

/* Two threads */

struct thread_world {
	struct drv *d;
	struct vq *vq;
	int kick_fd, call_fd, failed;
	uint32_t nr;
};

static bool await(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t count;
	int rc;

	do /* the timer behind kick() interrupts */
		rc = poll(&p, 1, 30000);
	while (rc < 0 && errno == EINTR);
	return rc == 1 && read(fd, &count, sizeof(count)) == sizeof(count);
}

/* Answers each request with its own first word plus one. */
static void *device_thread(void *arg)
{
	struct thread_world *t = arg;
	uint32_t served = 0;

	while (served < t->nr) {
		struct iovec iov[4];
		uint64_t iova[4];
		struct vq_req req = { .iov = iov, .iova = iova, .max_iov = 4 };
		uint32_t value;
		int rc;

		while ((rc = vq_pop(t->vq, &req, NULL)) > 0) {
			vq_req_read(&req, 0, &value, sizeof(value));
			value++;
			vq_req_write(&req, 0, &value, sizeof(value));
			vq_push(t->vq, &req, sizeof(value));
			if (!(++served & 7))
				vq_notify(t->vq);
		}
		vq_notify(t->vq);
		if (rc < 0 ||
			(served < t->nr && !vq_want_kicks(t->vq, true) && !await(t->kick_fd))) {
			t->failed = 1;
			break;
		}
	}
	return NULL;
}

static void drive(struct thread_world *t, uint64_t area, unsigned slots)
{
	uint32_t next = 0, back = 0, written, *word;
	bool *busy = calloc(slots, sizeof(*busy));
	void *cookie;

	while (back < t->nr) {
		uint32_t before = back;

		for (unsigned i = 0; i < slots && next < t->nr; i++) {
			struct drv_buf b[2] = { { area + 8ull * i, 4 },
				{ area + 8ull * i + 4, 4 } };

			if (busy[i])
				continue;
			word = drv_at(t->d->m, b[0].iova);
			word[0] = next;
			word[1] = 0;
			if (drv_add(t->d, b, 1, 1, (void *)(uintptr_t)(i + 1)))
				break;
			busy[i] = true;
			next++;
		}
		if (drv_must_kick(t->d))
			assert_int_equal(eventfd_write(t->kick_fd, 1), 0);
		for (int again = 0; again < 2; again++) {
			while (drv_get(t->d, &cookie, &written)) {
				unsigned i = (unsigned)(uintptr_t)cookie - 1;

				word = drv_at(t->d->m, area + 8ull * i);
				assert_int_equal(written, 4);
				assert_int_equal(word[1], word[0] + 1);
				busy[i] = false;
				back++;
			}
			assert_null(t->d->error);
			if (!again)
				drv_want_signals(t->d, true, 0);
		}
		if (back == before && back < t->nr)
			assert_true(await(t->call_fd));
	}
	free(busy);
}

static void threads(const struct drv_config *c, uint32_t nr)
{
	struct thread_world t = { .nr = nr };
	struct drv_mem *m = drv_mem_new(1 << 18);
	struct err err = { 0 };
	struct vq_setup s;
	pthread_t thread;
	uint64_t area;

	t.d = drv_new(m, c);
	area = drv_alloc(m, 8ull * c->size, 8);
	t.kick_fd = eventfd(0, EFD_CLOEXEC);
	t.call_fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(vq_new(&t.vq, 0, c->size), 0);
	vq_set_call(t.vq, t.call_fd);
	s = drv_setup(t.d);
	assert_int_equal(vq_setup(t.vq, &s, &m->mem, &err), 0);
	assert_int_equal(pthread_create(&thread, NULL, device_thread, &t), 0);
	drive(&t, area, c->size);
	pthread_join(thread, NULL);
	assert_int_equal(t.failed, 0);
	vq_stop(t.vq);
	vq_free(t.vq);
	close(t.kick_fd);
	close(t.call_fd);
	drv_free(t.d);
	drv_mem_free(m);
}

static void no_notification_is_missed_between_threads(void **state)
{
	for (unsigned bits = 0; bits < 8; bits++)
		for (uint16_t size = 2; size <= 64; size = (uint16_t)(size * 32)) {
			struct drv_config c = {
				.size = size,
				.packed = bits & 1,
				.event_idx = bits & 2,
				.indirect = bits & 4,
			};

			threads(&c, 20000);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_request_comes_back_once_with_all_features),
		cmocka_unit_test(no_notification_is_missed_between_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
