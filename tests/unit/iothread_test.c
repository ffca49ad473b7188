/* iothread_test.c - a thread that serves queues, over io_uring and over epoll with helpers */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"
#include "device/iothread_priv.h"

#define DEPTH 64

struct fixture {
	struct iothread *t;
	int fds_at_start;
	int file, event;
	sem_t sem; /* posted by callbacks */
	struct iothread_watch watch;
	struct iothread_poller poller;
	struct iothread_timer timers[3];
	atomic_int ready, gone, polls, sleeps;
	atomic_uint events;
	atomic_bool work;
	char order[8];
};

static struct fixture f;

static void await(void)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += 20;
	while (sem_timedwait(&f.sem, &end))
		assert_int_equal(errno, EINTR);
}

static int start(bool no_uring)
{
	const struct iothread_config config = {
		.name = "_disk0_q0",
		.depth = DEPTH,
		.poll_us = 50,
		.may_look = true,
		.no_uring = no_uring,
	};
	struct err err = { 0 };

	memset(&f, 0, sizeof(f));
	f.fds_at_start = fd_count();
	f.event = fd_eventfd();
	f.file = memfd_create("file", MFD_CLOEXEC);
	sem_init(&f.sem, 0, 0);
	if (iothread_new(&f.t, &config, &err))
		return -1;
	return iothread_start(f.t);
}

static int with_uring(void **state)
{
	return start(false);
}

static int without_uring(void **state)
{
	return start(true);
}

static int teardown(void **state)
{
	iothread_free(f.t);
	fd_close(&f.event);
	fd_close(&f.file);
	sem_destroy(&f.sem);
	return fd_count() == f.fds_at_start ? 0 : -1;
}

/* Calls and pauses */

static void get_name(void *arg)
{
	prctl(PR_GET_NAME, arg);
}

static void a_call_runs_on_the_named_thread(void **state)
{
	char name[16] = "";

	iothread_call(f.t, get_name, name);
	assert_string_equal(name, "_disk0_q0");
}

static unsigned count_poll(struct iothread_poller *p)
{
	atomic_fetch_add(&f.polls, 1);
	return 1; /* always busy */
}

static void add_poller(void *arg)
{
	iothread_poller_add(f.t, &f.poller);
}

static void del_poller(void *arg)
{
	iothread_poller_del(f.t, &f.poller);
}

static void a_paused_thread_stands_still(void **state)
{
	int polls;

	f.poller.poll = count_poll;
	iothread_call(f.t, add_poller, NULL);
	for (int i = 0; i < 100; i++) {
		iothread_pause(f.t);
		polls = atomic_load(&f.polls);
		sched_yield();
		assert_int_equal(atomic_load(&f.polls), polls);
		iothread_resume(f.t);
	}
	iothread_call(f.t, del_poller, NULL);
}

static void pausing_what_was_never_started_is_nothing(void **state)
{
	const struct iothread_config config = { .name = "idle", .depth = 1 };
	struct iothread *t;

	assert_int_equal(iothread_new(&t, &config, NULL), 0);
	iothread_pause(t);
	iothread_resume(t);
	iothread_free(t);
}

/* Operations */

struct transfer {
	struct iothread_op op;
	struct iovec iov[2];
	uint8_t bytes[64];
	int result;
	bool within; /* done came while it was submitted */
};

static struct transfer transfers[DEPTH];
static bool submitting; /* the thread's */

static void transfer_done(struct iothread_op *op, int result)
{
	struct transfer *x = container_of(op, struct transfer, op);

	x->result = result;
	x->within = submitting;
	sem_post(&f.sem);
}

static void write_all(void *arg)
{
	submitting = true;
	for (unsigned i = 0; i < DEPTH; i++) {
		struct transfer *x = &transfers[i];

		*x = (struct transfer){ .op.done = transfer_done };
		memset(x->bytes, (int)i + 1, sizeof(x->bytes));
		x->iov[0] = (struct iovec){ x->bytes, 16 };
		x->iov[1] = (struct iovec){ x->bytes + 16, 48 };
		/* with and without a list, plain and durable */
		if (i % 2)
			x->iov[0].iov_len = 64;
		iothread_writev(f.t, &x->op, f.file, x->iov, i % 2 ? 1 : 2, i * 64ull, i % 4 > 1);
	}
	submitting = false;
}

static void read_all(void *arg)
{
	submitting = true;
	for (unsigned i = 0; i < DEPTH; i++) {
		struct transfer *x = &transfers[i];

		memset(x->bytes, 0xff, sizeof(x->bytes));
		iothread_readv(f.t, &x->op, f.file, x->iov, i % 2 ? 1 : 2, i * 64ull);
	}
	submitting = false;
}

static void await_all(int result)
{
	for (unsigned i = 0; i < DEPTH; i++)
		await();
	for (unsigned i = 0; i < DEPTH; i++) {
		assert_int_equal(transfers[i].result, result);
		assert_false(transfers[i].within);
	}
}

static void as_many_operations_as_agreed_go_at_once(void **state)
{
	for (int round = 0; round < 20; round++) {
		iothread_call(f.t, write_all, NULL);
		await_all(64);
		iothread_call(f.t, read_all, NULL);
		await_all(64);
		for (unsigned i = 0; i < DEPTH; i++)
			for (unsigned k = 0; k < 64; k++)
				assert_int_equal(transfers[i].bytes[k], i + 1);
	}
}

static void flush_and_punch(void *arg)
{
	transfers[0].op.done = transfers[1].op.done = transfer_done;
	iothread_fdatasync(f.t, &transfers[0].op, f.file);
	iothread_fallocate(f.t, &transfers[1].op, f.file,
		FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 6ull << 30);
}

static void a_flush_and_a_hole_of_more_than_4_gib(void **state)
{
	uint8_t byte = 1;

	assert_int_equal(ftruncate(f.file, 8ll << 30), 0);
	assert_int_equal(pwrite(f.file, &byte, 1, 5ll << 30), 1);
	iothread_call(f.t, flush_and_punch, NULL);
	await();
	await();
	assert_int_equal(transfers[0].result, 0);
	assert_int_equal(transfers[1].result, 0);
	assert_int_equal(pread(f.file, &byte, 1, 5ll << 30), 1);
	assert_int_equal(byte, 0);
}

static void read_nowhere(void *arg)
{
	transfers[0].op.done = transfer_done;
	transfers[0].iov[0] = (struct iovec){ transfers[0].bytes, 64 };
	iothread_readv(f.t, &transfers[0].op, *(int *)arg, transfers[0].iov, 1, 0);
}

static void an_error_comes_by_done(void **state)
{
	int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	iothread_call(f.t, read_nowhere, &fd);
	await();
	assert_int_equal(transfers[0].result, -EISDIR);
	close(fd);
}

/* Watches */

static void on_ready(struct iothread_watch *w, uint32_t events)
{
	atomic_fetch_add(&f.ready, 1);
	atomic_fetch_or(&f.events, events);
	sem_post(&f.sem);
}

static void on_gone(struct iothread_watch *w)
{
	atomic_fetch_add(&f.gone, 1);
	sem_post(&f.sem);
}

static void watch_event(void *arg)
{
	assert_int_equal(iothread_watch(f.t, &f.watch, f.event, EPOLLIN, on_ready), 0);
}

static void unwatch(void *arg)
{
	int ready = atomic_load(&f.ready);

	iothread_unwatch(&f.watch, on_gone);
	assert_int_equal(atomic_load(&f.ready), ready);
}

static void each_signal_of_an_eventfd_that_nobody_reads_is_told(void **state)
{
	fd_signal(f.event); /* before the watch */
	iothread_call(f.t, watch_event, NULL);
	await();
	for (int i = 0; i < 1000; i++) {
		fd_signal(f.event);
		await();
	}
	assert_int_equal(atomic_load(&f.events) & ~(unsigned)(EPOLLIN | EPOLLRDNORM | EPOLLOUT), 0);
	iothread_call(f.t, unwatch, NULL);
	await();
	assert_int_equal(atomic_load(&f.gone), 1);
	assert_null(f.watch.t);
	fd_signal(f.event);
	iothread_call(f.t, watch_event, NULL); /* the storage is ours again */
	await();
	iothread_call(f.t, unwatch, NULL);
	await();
	assert_int_equal(atomic_load(&f.gone), 2);
}

static void a_peer_that_hangs_up_is_told_once(void **state)
{
	int ends[2], ready;

	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	fd_close(&f.event);
	f.event = ends[0];
	iothread_call(f.t, watch_event, NULL);
	close(ends[1]);
	await();
	assert_true(atomic_load(&f.events) & EPOLLHUP);
	iothread_call(f.t, unwatch, NULL);
	await();
	/* no storm of events meanwhile */
	ready = atomic_load(&f.ready);
	assert_in_range(ready, 1, 2);
}

static struct iothread_watch many[IOTHREAD_MAX_WATCHES];
static int many_fds[IOTHREAD_MAX_WATCHES];

static void watch_many(void *arg)
{
	unsigned nr = 0;

	/* the thread itself watches one */
	for (; nr < ARRAY_SIZE(many); nr++) {
		int rc = iothread_watch(f.t, &many[nr], many_fds[nr], EPOLLIN, on_ready);

		if (rc) {
			assert_int_equal(rc, -ENOSPC);
			break;
		}
	}
	*(unsigned *)arg = nr;
	for (unsigned i = 0; i < nr; i++)
		iothread_unwatch(&many[i], on_gone);
}

static void more_watches_than_there_is_room_for_are_refused(void **state)
{
	unsigned nr = 0;

	memset(many, 0, sizeof(many));
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
		many_fds[i] = fd_eventfd();
	iothread_call(f.t, watch_many, &nr);
	assert_int_equal(nr, IOTHREAD_MAX_WATCHES - 1);
	while (atomic_load(&f.gone) < (int)nr)
		await();
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
		close(many_fds[i]);
}

/* Pollers and sleep */

static unsigned take_work(struct iothread_poller *p)
{
	if (!atomic_exchange(&f.work, false))
		return 0;
	sem_post(&f.sem);
	return 1;
}

/* Work that comes while the driver is being asked for kicks must not be slept over. */
static bool work_comes_late(struct iothread_poller *p, bool asleep)
{
	if (asleep && atomic_fetch_add(&f.sleeps, 1) < 10) {
		atomic_store(&f.work, true);
		return true;
	}
	return false;
}

static void work_between_the_last_look_and_sleep_is_found(void **state)
{
	f.poller = (struct iothread_poller){ .poll = take_work, .sleep = work_comes_late };
	iothread_call(f.t, add_poller, NULL);
	for (int i = 0; i < 10; i++)
		await();
	iothread_call(f.t, del_poller, NULL);
}

static uint64_t longest_look(const struct iothread_config *config)
{
	struct err err = { 0 };
	struct iothread *t;
	uint64_t ns;

	assert_int_equal(iothread_new(&t, config, &err), 0);
	ns = t->spin_max_ns;
	iothread_free(t);
	return ns;
}

static void where_the_driver_cannot_run_meanwhile_it_never_looks(void **state)
{
	struct iothread_config config = { .name = "looks", .poll_us = 50 };

	assert_int_equal(longest_look(&config), 0);
	config.may_look = true;
	assert_int_equal(longest_look(&config), 50 * NS_PER_US);
	config.poll_us = 0;
	assert_int_equal(longest_look(&config), 0);
}

static bool about_to_sleep(struct iothread_poller *p, bool asleep)
{
	if (asleep)
		sem_post(&f.sem);
	return false;
}

static void look_from_now_on(void *arg)
{
	f.t->spin_max_ns = 1000;
	iothread_poller_add(f.t, &f.poller);
}

static void do_nothing(void *arg)
{
}

static void looks_that_find_nothing_get_rarer(void **state)
{
	unsigned penalty = 0;

	f.poller = (struct iothread_poller){ .poll = take_work, .sleep = about_to_sleep };
	iothread_call(f.t, look_from_now_on, NULL);
	/* Each call wakes it, and it has looked, or not, when it is about to sleep again. */
	for (unsigned i = 0; i < 200; i++) {
		await();
		iothread_call(f.t, do_nothing, NULL);
	}
	await();
	iothread_pause(f.t);
	penalty = f.t->penalty;
	iothread_resume(f.t);
	/* 1 + 2 + 4 + ... + 64 sleeps without a look, and 7 looks, are 134 */
	assert_in_range(penalty, 32, 128);
	iothread_call(f.t, del_poller, NULL);
}

static void long_looks_cost_a_usual_one_for_each_request_or_a_seventh_of_the_time(void **state)
{
	const uint64_t look = IOTHREAD_LONG_LOOK_NS, usual = 2000;
	struct iothread t = { .spin_max_ns = usual };
	uint64_t now = 0;

	assert_false(iothread_may_look_long(&t, now));
	/* A batch of as many requests as pay for one, all at the same time */
	t.served = look / usual;
	assert_true(iothread_may_look_long(&t, now));
	assert_true(iothread_may_look_long(&t, now)); /* it costs when it is over */
	t.long_ns -= look;
	assert_false(iothread_may_look_long(&t, now));
	/* One request at a time, and only the time that goes by */
	assert_false(iothread_may_look_long(&t, now += look));
	t.served = 1;
	assert_false(iothread_may_look_long(&t, now));
	assert_false(iothread_may_look_long(&t, now += 5 * look));
	assert_true(iothread_may_look_long(&t, now += look));
	/* A busy hour pays for a millisecond of looks and no more. */
	t.served = 1u << 30;
	assert_true(iothread_may_look_long(&t, now += 3600 * NS_PER_S));
	assert_int_equal(t.long_ns, NS_PER_MS);
	/* Nor without a usual look: then the time alone counts. */
	t = (struct iothread){ .served = 1u << 30 };
	assert_false(iothread_may_look_long(&t, 0));
}

/* Timers */

static void on_timer(struct iothread_timer *timer)
{
	f.order[strlen(f.order)] = (char)('0' + (timer - f.timers));
	sem_post(&f.sem);
}

static void set_timers(void *arg)
{
	uint64_t now = clock_now_ns();

	for (int i = 0; i < 3; i++)
		f.timers[i].fn = on_timer;
	iothread_timer_set(f.t, &f.timers[0], now + 3 * NS_PER_MS);
	iothread_timer_set(f.t, &f.timers[1], now + NS_PER_MS);
	iothread_timer_set(f.t, &f.timers[2], now + 2 * NS_PER_MS);
	iothread_timer_set(f.t, &f.timers[1], now + 4 * NS_PER_MS);
	iothread_timer_del(&f.timers[2]);
	iothread_timer_del(&f.timers[2]);
}

static void timers_fire_in_order_and_not_when_deleted(void **state)
{
	iothread_call(f.t, set_timers, NULL);
	await();
	await();
	assert_string_equal(f.order, "01");
}

/* The ring's restrictions */

static void open_by_the_ring(void *arg)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&f.t->ring);

	io_uring_prep_openat(sqe, AT_FDCWD, "/", O_RDONLY, 0);
	transfers[0].op.done = transfer_done;
	io_uring_sqe_set_data(sqe, &transfers[0].op);
}

static void register_with_the_ring(void *arg)
{
	*(int *)arg = io_uring_register_eventfd(&f.t->ring, f.event);
}

static void the_ring_does_nothing_but_what_it_is_for(void **state)
{
	int rc;

	if (!iothread_has_uring(f.t)) {
		print_message("io_uring is not allowed here\n");
		skip();
	}
	iothread_call(f.t, open_by_the_ring, NULL);
	await();
	assert_int_equal(transfers[0].result, -EACCES);
	iothread_call(f.t, register_with_the_ring, &rc);
	assert_int_equal(rc, -EACCES);
}

#define URING(name)                                                                                \
	{                                                                                          \
		"uring: " #name, name, with_uring, teardown, NULL                                  \
	}
#define POOL(name)                                                                                 \
	{                                                                                          \
		"pool: " #name, name, without_uring, teardown, NULL                                \
	}
#define BOTH(name) URING(name), POOL(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(a_call_runs_on_the_named_thread),
		BOTH(a_paused_thread_stands_still),
		BOTH(pausing_what_was_never_started_is_nothing),
		BOTH(as_many_operations_as_agreed_go_at_once),
		BOTH(a_flush_and_a_hole_of_more_than_4_gib),
		BOTH(an_error_comes_by_done),
		BOTH(each_signal_of_an_eventfd_that_nobody_reads_is_told),
		BOTH(a_peer_that_hangs_up_is_told_once),
		BOTH(more_watches_than_there_is_room_for_are_refused),
		BOTH(work_between_the_last_look_and_sleep_is_found),
		BOTH(where_the_driver_cannot_run_meanwhile_it_never_looks),
		BOTH(looks_that_find_nothing_get_rarer),
		cmocka_unit_test(
			long_looks_cost_a_usual_one_for_each_request_or_a_seventh_of_the_time),
		BOTH(timers_fire_in_order_and_not_when_deleted),
		URING(the_ring_does_nothing_but_what_it_is_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
