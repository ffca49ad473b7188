/*
 * block_disk.h - a disk under test: model, one queue, and a driver of it in the test's thread
 *
 * The model's queue runs on its own thread; the test waits for its call descriptor.
 */
#ifndef TESTS_BLOCK_DISK_H
#define TESTS_BLOCK_DISK_H

#include <endian.h>
#include <linux/virtio_blk.h>
#include <poll.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/loop.h"
#include "device/block.h"
#include "vq_driver.h"

#define DISK_SECTORS 2048u /* 1 MiB */
#define DISK_BYTES   (DISK_SECTORS * 512u)
#define DISK_QUEUE   32
#define DISK_MEMORY  (16 * MIB)

/* How a request is cut into pieces. */
enum cut {
	CUT_USUAL,    /* header, data, status */
	CUT_TOGETHER, /* header with data, data with status */
	CUT_ODD,      /* pieces of 7, 700, 7, 700 ... bytes */
	CUT_MANY,     /* header, sectors, status */
	NR_CUTS,
};

struct disk {
	struct loop *loop;
	struct virtio_model *model;
	struct vq *vq;
	struct drv_mem *m;
	struct drv *drv;
	int kick, call;
	unsigned config_changes;
	uint64_t mark; /* of the memory, for giving requests' memory back */
};

struct disk_request {
	uint64_t in_iova;
	uint32_t in_len;
	uint32_t written;
	bool done;
};

static inline void disk_config_changed(struct virtio_model *m, void *arg)
{
	((struct disk *)arg)->config_changes++;
}

static inline void disk_open(struct disk *d, struct block_store *store,
	const struct block_config *config, uint64_t features, const struct drv_config *ring)
{
	struct err err = { 0 };
	struct vq_setup setup;

	if (block_new(&d->model, d->loop, store, config, &err))
		fail_msg("%s", err.text);
	d->model->on_config = disk_config_changed;
	d->model->on_config_arg = d;
	d->kick = fd_eventfd();
	d->call = fd_eventfd();
	d->m = drv_mem_new(DISK_MEMORY);
	d->drv = drv_new(d->m, ring);
	d->mark = d->m->next;
	d->model->ops->set_features(d->model, features);
	assert_int_equal(vq_new(&d->vq, 0, DISK_QUEUE), 0);
	setup = drv_setup(d->drv);
	assert_int_equal(vq_setup(d->vq, &setup, &d->m->mem, &err), 0);
	vq_set_kick(d->vq, d->kick);
	vq_set_call(d->vq, d->call);
	assert_int_equal(d->model->ops->queue_start(d->model, 0, d->vq), 0);
}

static inline void disk_stopped(void *arg, unsigned queue)
{
	loop_quit(((struct disk *)arg)->loop, (int)queue + 1);
}

static inline void disk_too_late(struct loop_timer *timer)
{
	loop_quit(timer->loop, -1);
}

static inline void disk_stop(struct disk *d)
{
	struct loop_timer guard = { 0 };

	loop_timer_set(d->loop, &guard, clock_now_ns() + 20 * NS_PER_S, disk_too_late);
	d->model->ops->queue_stop(d->model, 0, disk_stopped, d);
	assert_int_equal(loop_run(d->loop), 1);
	loop_timer_del(&guard);
	assert_int_equal(vq_open(d->vq), 0);
}

/* Stopped before. */
static inline void disk_close(struct disk *d)
{
	virtio_model_free(d->model);
	vq_free(d->vq);
	drv_free(d->drv);
	drv_mem_free(d->m);
	fd_close(&d->kick);
	fd_close(&d->call);
	d->model = NULL;
}

static inline unsigned disk_cut(struct drv_buf *bufs, uint64_t iova, uint64_t len, uint64_t edge,
	enum cut cut, bool edge_first)
{
	unsigned n = 0;
	uint64_t at = 0;

	while (at < len) {
		uint64_t piece = len - at;

		if (cut == CUT_ODD)
			piece = MIN(piece, n % 2 ? 700ull : 7ull);
		else if (cut != CUT_TOGETHER && edge_first && !at)
			piece = edge;
		else if (cut == CUT_MANY && !edge_first)
			piece = piece > edge ? MIN(piece - edge, 512ull) : edge;
		else if (cut == CUT_MANY)
			piece = MIN(piece, 512ull);
		else if (cut == CUT_USUAL && !edge_first && piece > edge)
			piece -= edge;
		bufs[n++] = (struct drv_buf){ iova + at, (uint32_t)piece };
		at += piece;
	}
	return n;
}

/*
 * Add a request: header (header_len bytes of it), out_len bytes, then room for in_len bytes and a
 * status, which is set to 0xff; kicks if asked for.
 */
static inline void disk_add_raw(struct disk *d, struct disk_request *r, uint32_t type,
	uint64_t sector, unsigned header_len, const void *out, uint32_t out_len, uint32_t in_len,
	enum cut cut)
{
	struct virtio_blk_outhdr h = { .type = htole32(type), .sector = htole64(sector) };
	uint64_t out_iova = drv_alloc(d->m, header_len + out_len + 1, 4096);
	struct drv_buf bufs[DRV_MAX_TABLE * 4];
	unsigned nr_out, nr_in;

	*r = (struct disk_request){ .in_iova = drv_alloc(d->m, in_len + 1, 4096),
		.in_len = in_len };
	memcpy(drv_at(d->m, out_iova), &h, header_len);
	if (out_len)
		memcpy((uint8_t *)drv_at(d->m, out_iova) + header_len, out, out_len);
	memset(drv_at(d->m, r->in_iova), 0xff, in_len + 1);
	nr_out = disk_cut(bufs, out_iova, header_len + out_len, header_len, cut, true);
	nr_in = disk_cut(bufs + nr_out, r->in_iova, in_len + 1, 1, cut, false);
	assert_int_equal(drv_add(d->drv, bufs, nr_out, nr_in, r), 0);
	if (drv_must_kick(d->drv))
		fd_signal(d->kick);
}

static inline void disk_add(struct disk *d, struct disk_request *r, uint32_t type, uint64_t sector,
	const void *out, uint32_t out_len, uint32_t in_len, enum cut cut)
{
	disk_add_raw(
		d, r, type, sector, sizeof(struct virtio_blk_outhdr), out, out_len, in_len, cut);
}

/* Wait until some request is done, and mark it. */
static inline struct disk_request *disk_await(struct disk *d)
{
	struct pollfd pfd = { .fd = d->call, .events = POLLIN };
	struct disk_request *r;
	uint32_t written;
	void *cookie;

	for (;;) {
		drv_want_signals(d->drv, true, 0);
		if (drv_get(d->drv, &cookie, &written))
			break;
		if (d->drv->error)
			fail_msg("%s", d->drv->error);
		assert_int_equal(poll(&pfd, 1, 20000), 1);
		fd_clear(d->call);
	}
	r = cookie;
	r->done = true;
	r->written = written;
	return r;
}

static inline uint8_t disk_status(struct disk *d, const struct disk_request *r)
{
	return ((uint8_t *)drv_at(d->m, r->in_iova))[r->in_len];
}

static inline void *disk_data(struct disk *d, const struct disk_request *r)
{
	return drv_at(d->m, r->in_iova);
}

/* One request, alone: its status. `in` gets what was read. */
static inline uint8_t disk_do(struct disk *d, uint32_t type, uint64_t sector, const void *out,
	uint32_t out_len, void *in, uint32_t in_len, enum cut cut)
{
	struct disk_request r;

	d->m->next = d->mark;
	disk_add(d, &r, type, sector, out, out_len, in_len, cut);
	assert_ptr_equal(disk_await(d), &r);
	if (in_len && in)
		memcpy(in, disk_data(d, &r), in_len);
	return disk_status(d, &r);
}

/* In sectors, as its configuration says. */
static inline uint64_t disk_capacity(const struct disk *d)
{
	return le64toh(((struct virtio_blk_config *)d->model->config)->capacity);
}

#endif
