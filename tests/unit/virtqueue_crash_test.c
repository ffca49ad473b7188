/*
 * A device process that dies between any two instructions. A device serves a queue by a script, in
 * memory (ring and inflight area) that is write-protected: each store faults, is let through alone,
 * and the memory after it is copied. Each copy is what the next process would find, had this one
 * been killed there. A new device is set up on it, which must find exactly those requests that the
 * driver has not got back, in their order and with their pieces; then driver and device must agree
 * for some more laps of the ring. For some of these moments the new device is watched in the same
 * way, as it may be killed while it recovers.
 */
#include "device/virtqueue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/util.h"
#include "vq_driver.h"
#include "wire/vhost_user.h"

#define SIZE	 16
#define MEM_SIZE (24 * KIB)
#define MAX_IOV	 8
#define BUF_LEN	 16u
#define MAX_BUFS 3u

/* Requests have cookies 1, 2, ...; cookie c's buffers lie in place c % (2 * SIZE) of the pool. */
struct world {
	struct drv *d;
	struct vq_setup setup;
	uint64_t pool, area;
	uintptr_t next_cookie;
	unsigned moments, nested; /* looked at */
};

struct work {
	struct vq_req req;
	struct iovec iov[MAX_IOV];
	uint64_t iova[MAX_IOV];
};

/* The driver's side */

static unsigned nr_bufs(uintptr_t cookie)
{
	return 1 + (unsigned)(cookie * 7 / 3 % MAX_BUFS);
}

static uint64_t place(const struct world *w, uintptr_t cookie)
{
	return w->pool + cookie % (2 * SIZE) * MAX_BUFS * BUF_LEN;
}

static bool add_one(struct world *w)
{
	uintptr_t cookie = w->next_cookie;
	struct drv_buf b[MAX_BUFS];
	unsigned nr = nr_bufs(cookie);

	for (unsigned i = 0; i < nr; i++)
		b[i] = (struct drv_buf){ place(w, cookie) + i * BUF_LEN, BUF_LEN };
	/* by turns direct and, with the feature, indirect */
	if (drv_add_as(w->d, b, nr - 1, 1, w->d->config.indirect && cookie % 2, (void *)cookie))
		return false;
	w->next_cookie++;
	return true;
}

static unsigned collect(struct drv *d)
{
	uint32_t written;
	unsigned nr = 0;
	void *cookie;

	while (drv_get(d, &cookie, &written)) {
		assert_int_equal(written, (uintptr_t)cookie % BUF_LEN);
		nr++;
	}
	if (d->error)
		fail_msg("%s", d->error);
	return nr;
}

/* The device's side */

static struct vq *new_device(struct world *w)
{
	struct vq_setup s = w->setup;
	struct err err = { 0 };
	struct vq *vq;

	assert_int_equal(vq_new(&vq, 0, SIZE), 0);
	s.inflight = drv_at(w->d->m, w->area);
	if (vq_setup(vq, &s, &w->d->m->mem, &err))
		fail_msg("%s", err.text);
	return vq;
}

static bool pop(struct vq *vq, struct work *k)
{
	int rc;

	k->req.iov = k->iov;
	k->req.iova = k->iova;
	k->req.max_iov = MAX_IOV;
	rc = vq_pop(vq, &k->req, NULL);
	if (rc < 0)
		fail_msg("%s", vq_broken(vq));
	return rc;
}

static void push(struct world *w, struct vq *vq, struct work *k)
{
	uintptr_t cookie = (uintptr_t)w->d->reqs[k->req.id].cookie;

	vq_push(vq, &k->req, cookie % BUF_LEN);
}

/* What the device does: batches of one and of several, out of order, with requests given back. */
static void script(struct world *w, struct vq *vq)
{
	struct work k[5];
	unsigned nr = 0;

	while (nr < 3 && pop(vq, &k[nr]))
		nr++;
	if (nr < 3) {
		/* It dies with all of them open. */
		while (nr--)
			vq_forget(vq, &k[nr].req);
		return;
	}
	push(w, vq, &k[1]);
	push(w, vq, &k[0]);
	vq_notify(vq);
	if (pop(vq, &k[3]))
		vq_unpop(vq, &k[3].req);
	push(w, vq, &k[2]);
	vq_notify(vq);
	vq_want_kicks(vq, true);
	for (;;) {
		nr = 0;
		while (nr < 5 && pop(vq, &k[nr]))
			nr++;
		if (!nr)
			return;
		while (nr--)
			push(w, vq, &k[nr]);
		vq_notify(vq);
	}
}

/* After the crash */

static void check_pieces(const struct world *w, const struct vq_req *req)
{
	uintptr_t cookie = (uintptr_t)w->d->reqs[req->id].cookie;
	unsigned nr = nr_bufs(cookie);

	assert_int_equal(req->nr_out, nr - 1);
	assert_int_equal(req->nr_in, 1);
	for (unsigned i = 0; i < nr; i++)
		assert_int_equal(req->iova[i], place(w, cookie) + i * BUF_LEN);
}

/* The device finds all that is open, in the order in which it was made available. */
static unsigned pop_all(const struct world *w, struct vq *vq, struct work *k)
{
	unsigned nr = 0;

	while (pop(vq, &k[nr])) {
		const struct drv_req *r = &w->d->reqs[k[nr].req.id];

		assert_true(r->open);
		check_pieces(w, &k[nr].req);
		if (nr)
			assert_true(r->seq > w->d->reqs[k[nr - 1].req.id].seq);
		nr++;
		assert_true(nr <= SIZE);
	}
	return nr;
}

static void serve_all(struct world *w, struct vq *vq, unsigned turn)
{
	struct work k[SIZE + 1];
	unsigned nr = pop_all(w, vq, k);

	assert_int_equal(nr, w->d->nr_open);
	for (unsigned i = 0; i < nr; i++) {
		push(w, vq, &k[turn & 1 ? nr - 1 - i : i]);
		if (turn & 2)
			vq_notify(vq);
	}
	vq_notify(vq);
	assert_int_equal(collect(w->d), nr);
	assert_int_equal(w->d->nr_open, 0);
}

/* What the driver does before the new process is there. */
enum meanwhile { DRIVER_COLLECTS, DRIVER_ADDS, MEANWHILE_END };

static struct world at_this_moment(const struct world *w, const void *bytes, enum meanwhile what)
{
	struct world now = *w;

	now.d = drv_clone(w->d, bytes);
	collect(now.d);
	while (what == DRIVER_ADDS && add_one(&now))
		continue;
	return now;
}

static void end_moment(struct world *now)
{
	struct drv_mem *m = now->d->m;

	drv_free(now->d);
	drv_mem_free(m);
}

static void check_moment(struct world *w, const void *bytes, enum meanwhile what)
{
	struct world now = at_this_moment(w, bytes, what);
	struct vq *vq = new_device(&now);

	serve_all(&now, vq, w->moments);
	for (unsigned turn = 0; turn < 8; turn++) {
		while (add_one(&now))
			continue;
		serve_all(&now, vq, turn);
	}
	vq_stop(vq);
	vq_free(vq);
	end_moment(&now);
}

/* One store at a time */

#define MAX_MOMENTS 2048u
#define TRAP_FLAG   0x100

/* For the signal handlers. Only one device is watched at a time. */
static struct {
	uint8_t *memory; /* NULL: nobody */
	uint8_t *copies;
	unsigned nr;
} watched;

static void on_fault(int signo, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)info->si_addr - (uintptr_t)watched.memory;
	ucontext_t *uc = context;

	if (!watched.memory || at >= MEM_SIZE || watched.nr == MAX_MOMENTS) {
		signal(SIGSEGV, SIG_DFL);
		return;
	}
	mprotect(watched.memory, MEM_SIZE, PROT_READ | PROT_WRITE);
	uc->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

/* The store has been made. */
static void on_trap(int signo, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	memcpy(watched.copies + watched.nr++ * MEM_SIZE, watched.memory, MEM_SIZE);
	mprotect(watched.memory, MEM_SIZE, PROT_READ);
	uc->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
}

typedef void (*moment_fn)(struct world *w, const void *bytes);

/* The script, with each store to the memory seen. */
static void run_watched(struct world *w)
{
	struct sigaction fault = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO }, old_fault;
	struct sigaction trap = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO }, old_trap;
	struct vq *vq;

	sigaction(SIGSEGV, &fault, &old_fault);
	sigaction(SIGTRAP, &trap, &old_trap);
	watched.nr = 0;
	watched.memory = w->d->m->hva;
	mprotect(watched.memory, MEM_SIZE, PROT_READ);
	vq = new_device(w);
	script(w, vq);
	mprotect(watched.memory, MEM_SIZE, PROT_READ | PROT_WRITE);
	watched.memory = NULL;
	sigaction(SIGSEGV, &old_fault, NULL);
	sigaction(SIGTRAP, &old_trap, NULL);
	vq_free(vq);
}

/* Run the script to its end, then look at each moment of it. */
static void watch(struct world *w, moment_fn moment)
{
	size_t size = (size_t)MAX_MOMENTS * MEM_SIZE;
	uint8_t *copies = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	unsigned nr;

	assert_ptr_not_equal(copies, MAP_FAILED);
	watched.copies = copies;
	run_watched(w);
	nr = watched.nr;
	for (unsigned i = 0; i < nr; i++)
		moment(w, copies + i * MEM_SIZE);
	munmap(copies, size);
}

static void plain_moment(struct world *w, const void *bytes)
{
	w->moments++;
	for (int what = 0; what < MEANWHILE_END; what++)
		check_moment(w, bytes, what);
}

static void moment_and_nested(struct world *w, const void *bytes)
{
	plain_moment(w, bytes);
	/* The device that recovers dies, too. */
	if (w->moments % 13 == 5) {
		struct world now = at_this_moment(w, bytes, w->nested++ % MEANWHILE_END);

		watch(&now, plain_moment);
		end_moment(&now);
	}
}

/* Some requests come and go before, so that the ring is somewhere in its second or third lap. */
static void warm_up(struct world *w, unsigned nr)
{
	struct vq *vq = new_device(w);

	while (nr--) {
		assert_true(add_one(w));
		serve_all(w, vq, 0);
	}
	vq_free(vq); /* no vq_stop(): it dies, at rest */
}

static unsigned crash_everywhere(const struct drv_config *c, unsigned warm)
{
	uint64_t size = vhost_user_inflight_region(c->packed, SIZE);
	struct world w = { .next_cookie = 1 };
	struct drv_mem *m = drv_mem_new(MEM_SIZE);

	w.d = drv_new(m, c);
	w.pool = drv_alloc(m, 2 * SIZE * MAX_BUFS * BUF_LEN, 16);
	w.area = drv_alloc(m, size, 64);
	w.setup = drv_setup(w.d);
	w.setup.inflight_size = size;
	if (warm)
		warm_up(&w, warm);
	while (add_one(&w))
		continue;
	watch(&w, moment_and_nested);
	collect(w.d);
	assert_int_equal(w.d->nr_open, 0);
	drv_free(w.d);
	drv_mem_free(m);
	return w.moments;
}

static void crash(bool packed)
{
	for (unsigned bits = 0; bits < 4; bits++)
		for (unsigned warm = 0; warm <= 6; warm += 2) {
			struct drv_config c = {
				.size = SIZE,
				.packed = packed,
				.event_idx = true,
				.indirect = bits & 1,
				.in_order = bits & 2,
			};

			/* A script whose stores nobody sees would prove nothing. */
			assert_true(crash_everywhere(&c, warm) > 60);
		}
}

static void a_split_queue_loses_and_doubles_nothing_wherever_its_process_dies(void **state)
{
	crash(false);
}

static void a_packed_queue_loses_and_doubles_nothing_wherever_its_process_dies(void **state)
{
	crash(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_split_queue_loses_and_doubles_nothing_wherever_its_process_dies),
		cmocka_unit_test(
			a_packed_queue_loses_and_doubles_nothing_wherever_its_process_dies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
