/*
 * Driver and device each write and then look at what the other one wrote, at the same moment: one
 * asks to be notified and looks whether something is there already, the other one puts something
 * there and looks whether it has to notify. Without a full barrier on each side both may see
 * nothing, and then wait for each other for ever. Each round lets them meet once; on x86 a missing
 * barrier shows after some thousand rounds.
 */
#include "vq_fixture.h"

#include <pthread.h>
#include <sched.h>

#define ROUNDS 20000u

struct meeting {
	struct fix *f;
	atomic_uint arrived;
	bool device_saw; /* in this round, for the driver to look at after it */
	unsigned missed;
};

/* Both leave at once, as near as two threads can. n: how often they have met, this one counted. */
static void meet(struct meeting *m, unsigned n)
{
	unsigned spins = 0;

	m->arrived++;
	while (m->arrived < 2 * n)
		if (++spins % 4096 == 0)
			sched_yield();
}

/* The device asks for kicks while the driver adds. */
static void *device_asks(void *arg)
{
	struct meeting *m = arg;
	struct fix *f = m->f;

	for (unsigned i = 0, n = 0; i < ROUNDS; i++) {
		vq_want_kicks(f->vq, false);
		meet(m, ++n);
		m->device_saw = vq_want_kicks(f->vq, true);
		meet(m, ++n);
		if (pop(f) != 1)
			abort();
		push(f, 0);
		vq_notify(f->vq);
		meet(m, ++n);
	}
	return NULL;
}

static void driver_adds(struct meeting *m)
{
	struct fix *f = m->f;

	for (unsigned i = 0, n = 0; i < ROUNDS; i++) {
		bool kicked;

		meet(m, ++n);
		add(f, 1, 0, 1);
		kicked = drv_must_kick(f->d);
		meet(m, ++n);
		m->missed += !kicked && !m->device_saw;
		meet(m, ++n);
		assert_int_equal(get(f, NULL), 1);
	}
}

/* The device answers while the driver asks for signals. */
static void *device_answers(void *arg)
{
	struct meeting *m = arg;
	struct fix *f = m->f;

	for (unsigned i = 0, n = 0; i < ROUNDS; i++) {
		meet(m, ++n);
		if (pop(f) != 1)
			abort();
		push(f, 0);
		meet(m, ++n);
		vq_notify(f->vq);
		meet(m, ++n);
	}
	return NULL;
}

static void driver_asks(struct meeting *m)
{
	struct fix *f = m->f;

	for (unsigned i = 0, n = 0; i < ROUNDS; i++) {
		bool saw;

		drv_want_signals(f->d, false, 0);
		add(f, 1, 0, 1);
		meet(m, ++n);
		meet(m, ++n);
		drv_want_signals(f->d, true, 0);
		saw = get(f, NULL);
		meet(m, ++n);
		m->missed += !signals(f->call_fd) && !saw;
		if (!saw)
			assert_int_equal(get(f, NULL), 1);
	}
}

static void run(void *(*device)(void *), void (*driver)(struct meeting *))
{
	for (unsigned bits = 0; bits < 4; bits++) {
		struct meeting m = { .f = new_fix((struct drv_config){
					     .packed = bits & 1, .event_idx = bits & 2 }) };
		pthread_t thread;

		assert_int_equal(pthread_create(&thread, NULL, device, &m), 0);
		driver(&m);
		pthread_join(thread, NULL);
		assert_int_equal(m.missed, 0);
		free_fix(m.f);
	}
}

static void who_adds_kicks_or_who_asks_for_kicks_sees_it(void **state)
{
	run(device_asks, driver_adds);
}

static void who_answers_signals_or_who_asks_for_signals_sees_it(void **state)
{
	run(device_answers, driver_asks);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_adds_kicks_or_who_asks_for_kicks_sees_it),
		cmocka_unit_test(who_answers_signals_or_who_asks_for_signals_sees_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
