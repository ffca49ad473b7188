/*
 * vhost_fixture.h - a front-end with its fake back-end and owner, and a driver's two queues
 */
#ifndef TESTS_VHOST_FIXTURE_H
#define TESTS_VHOST_FIXTURE_H

#include "log_lines.h"
#include "vhost_fake.h"

#include "attach/vhost_user_priv.h"

#define NR	  2u
#define RING_SIZE 64

/* A front-end, its owner and a driver's queues. */
struct fix {
	struct fake f;
	struct owner w;
	struct loop *loop;
	struct vhost_user *vu;
	struct vhost_user_params p;
	struct virtio_queue q[VIRTIO_MAX_QUEUES];
	uint16_t sizes[VIRTIO_MAX_QUEUES];
	int fds_before;
	struct log_lines log;
};

static MAYBE_UNUSED struct fix *fix_new(void)
{
	struct fix *x = calloc(1, sizeof(*x));

	log_lines_begin(&x->log);
	x->fds_before = fd_count();
	ram_init();
	fake_init(&x->f);
	assert_int_equal(loop_new(&x->loop), 0);
	x->w.o.ops = &owner_ops;
	x->p = (struct vhost_user_params){
		.id = "dev0",
		.where = x->f.path,
		.type = VIRTIO_ID_BLOCK,
		.loop = x->loop,
		.memory = &ram,
		.owner = &x->w.o,
		.times = {
			.request_ms = 5000,
			.handshake_ms = 5000,
			.connect_ms = 2000,
			.retry_min_ms = 1,
			.retry_max_ms = 20,
		},
	};
	for (unsigned i = 0; i < NR; i++) {
		x->q[i] = (struct virtio_queue){
			.size = RING_SIZE,
			.enabled = true,
			.desc = 0x10000 * (i + 1),
			.driver = 0x10000 * (i + 1) + 0x4000,
			.device = 0x10000 * (i + 1) + 0x8000,
			.kick_fd = fd_eventfd(),
			.call_fd = fd_eventfd(),
		};
	}
	return x;
}

static MAYBE_UNUSED void fix_make(struct fix *x)
{
	struct vhost_user_source *source;
	struct err err = { 0 };

	assert_int_equal(vhost_user_source_connect(x->f.path, &source, &err), 0);
	assert_int_equal(vhost_user_new(&x->p, source, &x->vu), 0);
	assert_int_equal(vhost_user_start(x->vu, &err), 0);
}

static MAYBE_UNUSED void fix_free(struct fix *x)
{
	vhost_user_free(x->vu);
	fake_fini(&x->f);
	loop_free(x->loop);
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		if (x->q[i].kick_fd > 0)
			close(x->q[i].kick_fd);
		if (x->q[i].call_fd > 0)
			close(x->q[i].call_fd);
	}
	ram_fini();
	assert_int_equal(fd_count(), x->fds_before);
	log_lines_end(&x->log);
	free(x);
}

/* How many lines of the log hold text. */
static MAYBE_UNUSED unsigned logged(const struct fix *x, const char *text)
{
	return log_lines_with(&x->log, text);
}

/* --- conditions --- */

static MAYBE_UNUSED bool is_connected(void *arg)
{
	return vhost_user_connected(((struct fix *)arg)->vu) || ((struct fix *)arg)->w.failed;
}

static MAYBE_UNUSED bool has_failed(void *arg)
{
	return ((struct fix *)arg)->w.failed;
}

static MAYBE_UNUSED bool is_lost(void *arg)
{
	return ((struct fix *)arg)->w.lost;
}

static MAYBE_UNUSED bool is_back(void *arg)
{
	return ((struct fix *)arg)->w.back;
}

static MAYBE_UNUSED bool needs_reset(void *arg)
{
	return atomic_load(&((struct fix *)arg)->w.needs_reset);
}

static MAYBE_UNUSED void attach(struct fix *x)
{
	fake_run(&x->f);
	fix_make(x);
	run_until(x->loop, is_connected, x);
	assert_string_equal(x->w.text, "");
	assert_int_equal(x->w.attached, 1);
}

static MAYBE_UNUSED struct virtio_backend *backend(struct fix *x)
{
	return vhost_user_backend(x->vu);
}

static MAYBE_UNUSED int start(struct fix *x, uint64_t features)
{
	struct virtio_backend *b = backend(x);

	return b->ops->start(b, features | BIT(VIRTIO_BIT_VERSION_1), x->q);
}

static MAYBE_UNUSED void stop(struct fix *x)
{
	backend(x)->ops->stop(backend(x));
}

static MAYBE_UNUSED void lose_and_return(struct fix *x)
{
	x->w.lost = x->w.back = 0;
	fake_hang_up(&x->f);
	run_until(x->loop, is_lost, x);
	run_until(x->loop, is_back, x);
}

static MAYBE_UNUSED bool is_gone(void *arg)
{
	return !vhost_user_connected(((struct fix *)arg)->vu);
}

/* Wait for the n-th request of a kind over a connection. */
struct arrival {
	struct fake *f;
	uint32_t request;
	unsigned connection, n;
};

static MAYBE_UNUSED bool has_arrived(void *arg)
{
	const struct arrival *a = arg;

	return count(a->f, a->request, a->connection) >= a->n;
}

/* Attach, and see it fail: with rc, and a text that holds `text`. */
static MAYBE_UNUSED void attach_fails(struct fix *x, int rc, const char *text)
{
	fake_run(&x->f);
	fix_make(x);
	run_until(x->loop, has_failed, x);
	if (x->w.rc != rc || !strstr(x->w.text, text))
		fail_msg("%d '%s', expected %d '%s'", x->w.rc, x->w.text, rc, text);
	assert_int_equal(x->w.failed, 1);
}

#endif
