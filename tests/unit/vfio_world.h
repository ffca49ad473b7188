/*
 * vfio_world.h - a machine without KVM (fake_kvm.h) that a scripted server (vfio_fake.h) is
 * attached to, and its guest's accesses
 *
 * The test's own thread is the loop thread; threads made by as_vcpu() act as vCPUs.
 */
#ifndef TESTS_VFIO_WORLD_H
#define TESTS_VFIO_WORLD_H

#include "fake_kvm.h"
#include "fake_machine.h"
#include "log_lines.h"
#include "vfio_fake.h"
#include "vfio_hooks.h"

#include <stdatomic.h>

#include "attach/user_device.h"
#include "base/log.h"
#include "machine/layout.h"

#define RAM_SIZE (16 * MIB)

struct world {
	struct machine m;
	struct device *dev;
	int rc; /* of the attach */
	bool reported;
	struct err err;
	struct log_lines log;
	struct loop_timer watchdog;
};

static struct user_device_params world_params(struct fake *f);

static void world_watchdog(struct loop_timer *t)
{
	fail_msg("the loop waits for something that does not come");
}

static MAYBE_UNUSED struct world *world_new(void)
{
	struct world *w = calloc(1, sizeof(*w));

	log_init("test", LOG_WARN);
	log_lines_begin(&w->log);
	fake_machine_init(&w->m, RAM_SIZE, 8);
	return w;
}

static MAYBE_UNUSED void world_free(struct world *w)
{
	loop_timer_del(&w->watchdog);
	device_free(w->dev);
	fake_machine_fini(&w->m);
	log_lines_end(&w->log);
	free(w);
}

/* Lines of the log that hold the text. */
static MAYBE_UNUSED unsigned world_log(struct world *w, const char *text)
{
	return log_lines_with(&w->log, text);
}

static int world_run(struct world *w)
{
	int rc;

	loop_timer_set(w->m.loop, &w->watchdog, clock_now_ns() + DEADLINE_NS, world_watchdog);
	rc = loop_run(w->m.loop);
	loop_timer_del(&w->watchdog);
	return rc;
}

static void world_attached(void *arg, struct device *dev, int rc, const struct err *err)
{
	struct world *w = arg;

	w->rc = rc;
	w->err = *err;
	w->reported = true;
	loop_quit(w->m.loop, 0);
}

static MAYBE_UNUSED int world_attach_with(struct world *w, const struct user_device_params *p)
{
	struct user_device_params copy = *p;
	int rc;

	copy.dev.attached = world_attached;
	copy.dev.arg = w;
	rc = user_device_attach(&w->m, &copy, &w->dev, &w->err);
	if (rc)
		return rc;
	world_run(w);
	assert_true(w->reported);
	if (w->rc) {
		device_free(w->dev);
		w->dev = NULL;
	}
	return w->rc;
}

static struct user_device_params world_params(struct fake *f)
{
	struct user_device_params p = {
		.dev = { .id = "dev0", .slot = 5 },
		.socket = f->path,
		.times = { .retry_min_ms = 1, .retry_max_ms = 5 },
	};

	return p;
}

static MAYBE_UNUSED int world_attach(struct world *w, struct fake *f)
{
	struct user_device_params p = world_params(f);

	return world_attach_with(w, &p);
}

/* A machine with the device attached and plugged. */
static MAYBE_UNUSED struct world *world_with(struct fake *f)
{
	struct world *w = world_new();
	struct err err = { 0 };

	if (world_attach(w, f))
		fail_msg("%s", w->err.text);
	if (device_plug(w->dev, &err))
		fail_msg("%s", err.text);
	return w;
}

struct vcpu_job {
	struct world *w;
	void (*fn)(struct world *w, struct io_reader *r, void *arg);
	void *arg;
	unsigned index;
	pthread_t thread;
	_Atomic bool done;
};

static void *vcpu_main(void *arg)
{
	struct vcpu_job *job = arg;

	job->fn(job->w, io_bus_reader(job->w->m.bus, job->index), job->arg);
	atomic_store(&job->done, true);
	loop_quit(job->w->m.loop, 0);
	return NULL;
}

/* Run fn as a vCPU while this thread serves the loop. */
static MAYBE_UNUSED void as_vcpu(
	struct world *w, void (*fn)(struct world *, struct io_reader *, void *), void *arg)
{
	struct vcpu_job job = { .w = w, .fn = fn, .arg = arg };

	assert_int_equal(pthread_create(&job.thread, NULL, vcpu_main, &job), 0);
	/* Another thread's end may have ended a run too. */
	while (!atomic_load(&job.done))
		world_run(w);
	pthread_join(job.thread, NULL);
}

struct loop_until {
	struct loop_timer timer;
	struct world *w;
	bool (*fn)(struct world *w, void *arg);
	void *arg;
	bool done;
};

static void loop_until_check(struct loop_timer *timer)
{
	struct loop_until *u = container_of(timer, struct loop_until, timer);

	u->done = u->fn(u->w, u->arg);
	if (u->done)
		loop_quit(u->w->m.loop, 0);
	else
		loop_timer_set(
			u->w->m.loop, &u->timer, clock_now_ns() + NS_PER_MS, loop_until_check);
}

/* Serve the loop until the condition holds. */
static MAYBE_UNUSED void world_until(
	struct world *w, bool (*fn)(struct world *w, void *arg), void *arg)
{
	struct loop_until u = { .w = w, .fn = fn, .arg = arg };

	loop_timer_set(w->m.loop, &u.timer, clock_now_ns(), loop_until_check);
	while (!u.done)
		world_run(w);
	loop_timer_del(&u.timer);
}

/* --- the guest's accesses --- */

static MAYBE_UNUSED uint32_t cfg_read(
	struct world *w, struct io_reader *r, unsigned off, unsigned size)
{
	uint64_t v;

	io_read(w->m.bus, r, IO_MMIO, LAYOUT_ECAM + (5ull << 15) + off, size, &v);
	return (uint32_t)v;
}

static MAYBE_UNUSED void cfg_write(
	struct world *w, struct io_reader *r, unsigned off, unsigned size, uint32_t v)
{
	io_write(w->m.bus, r, IO_MMIO, LAYOUT_ECAM + (5ull << 15) + off, size, v);
}

static uint64_t bar_addr(struct world *w, struct io_reader *r, unsigned bar)
{
	uint64_t a = cfg_read(w, r, PCI_BASE_ADDRESS_0 + 4 * bar, 4);

	if (a & 1)
		return a & ~3ull;
	if ((a & 6) == 4)
		a |= (uint64_t)cfg_read(w, r, PCI_BASE_ADDRESS_0 + 4 * bar + 4, 4) << 32;
	return a & ~15ull;
}

static enum io_space bar_space(struct world *w, struct io_reader *r, unsigned bar)
{
	return cfg_read(w, r, PCI_BASE_ADDRESS_0 + 4 * bar, 4) & 1 ? IO_PORT : IO_MMIO;
}

static MAYBE_UNUSED uint64_t reg_read(
	struct world *w, struct io_reader *r, unsigned bar, uint64_t off, unsigned size)
{
	uint64_t v;

	io_read(w->m.bus, r, bar_space(w, r, bar), bar_addr(w, r, bar) + off, size, &v);
	return v;
}

static MAYBE_UNUSED void reg_write(
	struct world *w, struct io_reader *r, unsigned bar, uint64_t off, unsigned size, uint64_t v)
{
	io_write(w->m.bus, r, bar_space(w, r, bar), bar_addr(w, r, bar) + off, size, v);
}

static MAYBE_UNUSED void decode_on(struct world *w, struct io_reader *r)
{
	cfg_write(w, r, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
}

static MAYBE_UNUSED void job_decode_on(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
}

static MAYBE_UNUSED void job_registers(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	reg_write(w, r, 2, 4, 1, 0xa5);
	assert_int_equal(reg_read(w, r, 2, 4, 1), 0xa5);
	reg_write(w, r, 0, 8, 8, 0x1122334455667788);
	assert_int_equal(reg_read(w, r, 0, 8, 8), 0x1122334455667788);
	assert_int_equal(reg_read(w, r, 0, 10, 2), 0x5566);
	/* Across the end of a BAR nobody answers. */
	assert_int_equal(reg_read(w, r, 2, 254, 4), 0xffffffff);
}

/* --- loss and return, as the log has them --- */

static MAYBE_UNUSED bool is_back(struct world *w, void *arg)
{
	return world_log(w, "is back after") >= *(unsigned *)arg;
}

static MAYBE_UNUSED void until_back(struct world *w, unsigned times)
{
	world_until(w, is_back, &times);
}

static MAYBE_UNUSED bool is_lost(struct world *w, void *arg)
{
	return world_log(w, "is away until") >= 1;
}

static MAYBE_UNUSED void until_lost(struct world *w)
{
	world_until(w, is_lost, NULL);
}

/* The answer that holds_command() keeps back is asked for. */
static MAYBE_UNUSED bool is_held(struct world *w, void *arg)
{
	return fake_hook_arg(arg) > 0;
}

#endif
