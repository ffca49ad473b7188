/*
 * block.c - a virtio disk: features, configuration, threads
 *
 * Queue i is served by thread i modulo the number of threads. Threads and their rings are made with
 * the model, before the process is confined, and started with the first queue (iothread.h).
 *
 * A disk that is write-through has every write on stable storage before it is answered. It is so
 * if the driver knows neither flushes nor the cache's mode, or has set that mode; a driver that
 * flushes gets a write-back disk.
 *
 * The size of the image is looked at when the driver reads the configuration, and whenever
 * the program is told to (config_read): a file that grew is a larger disk at once.
 *
 * Owns:    the store, the threads, the queues.
 * Threads: the loop's. What requests need to know is atomic.
 * Spec:    virtio 1.3, 5.2.3 to 5.2.5.
 */
#include "device/block.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/util.h"
#include "device/block_priv.h"

/* Offsets up to here are the same for all: later fields belong to features that are not offered. */
#define CONFIG_SIZE offsetof(struct virtio_blk_config, max_secure_erase_sectors)

static struct block_disk *disk_of(struct virtio_model *m)
{
	return container_of(m, struct block_disk, model);
}

static struct virtio_blk_config *config_of(struct block_disk *d)
{
	return (struct virtio_blk_config *)d->model.config;
}

/* Cache mode */

static void set_cache_mode(struct block_disk *d)
{
	uint64_t features = atomic_load(&d->features);
	bool write_through = d->config.write_through;

	if (!(features & VIRTIO_BIT(VIRTIO_BLK_F_FLUSH)))
		write_through = true;
	else if (features & VIRTIO_BIT(VIRTIO_BLK_F_CONFIG_WCE))
		write_through = !config_of(d)->wce;
	atomic_store(&d->write_through, write_through);
}

static void set_features(struct virtio_model *m, uint64_t features)
{
	struct block_disk *d = disk_of(m);

	atomic_store(&d->features, features);
	/* virtio 1.3, 5.2.5.2: no flushes, so the mode at first is write-through */
	if (features & VIRTIO_BIT(VIRTIO_BLK_F_CONFIG_WCE) &&
		!(features & VIRTIO_BIT(VIRTIO_BLK_F_FLUSH)))
		config_of(d)->wce = 0;
	set_cache_mode(d);
}

static void config_write(struct virtio_model *m, size_t off, const void *buf, size_t len)
{
	const size_t wce = offsetof(struct virtio_blk_config, wce);
	struct block_disk *d = disk_of(m);

	if (!(m->features & VIRTIO_BIT(VIRTIO_BLK_F_CONFIG_WCE)) || !range_ok(wce, 1, off + len) ||
		off > wce)
		return;
	config_of(d)->wce = !!((const uint8_t *)buf)[wce - off];
	set_cache_mode(d);
}

/* Size */

static void take_size(struct block_disk *d)
{
	uint64_t sectors = d->store->size / BLOCK_SECTOR + !!(d->store->size % BLOCK_SECTOR);

	atomic_store(&d->sectors, sectors);
	config_of(d)->capacity = htole64(sectors);
}

static void config_read(struct virtio_model *m)
{
	struct block_disk *d = disk_of(m);
	uint64_t old = d->store->size;

	if (!d->store->ops->refresh)
		return;
	d->store->ops->refresh(d->store);
	if (d->store->size == old)
		return;
	log_info("%s: the image's size is %llu bytes now", m->name,
		(unsigned long long)d->store->size);
	take_size(d);
	virtio_model_config_changed(m);
}

/* Queues */

struct queue_call {
	struct block_queue *q;
	struct vq *vq;
	int rc;
};

static void start_on_thread(void *arg)
{
	struct queue_call *call = arg;

	call->rc = block_queue_start(call->q, call->vq);
}

static void stop_on_thread(void *arg)
{
	block_queue_stop(((struct queue_call *)arg)->q);
}

static int queue_start(struct virtio_model *m, unsigned queue, struct vq *vq)
{
	struct block_disk *d = disk_of(m);
	struct queue_call call = { .q = &d->queues[queue], .vq = vq };
	int rc = iothread_start(call.q->t);

	if (!rc) {
		d->started[call.q->thread] = true;
		iothread_call(call.q->t, start_on_thread, &call);
		rc = call.rc;
	}
	if (rc)
		log_warn("%s queue %u: it cannot be served: %s", m->name, queue, strerror(-rc));
	return rc;
}

static void queue_stop(struct virtio_model *m, unsigned queue, virtio_stopped_fn stopped, void *arg)
{
	struct block_disk *d = disk_of(m);
	struct queue_call call = { .q = &d->queues[queue] };

	call.q->stopped = stopped;
	call.q->stopped_arg = arg;
	iothread_call(call.q->t, stop_on_thread, &call);
}

static void pause_threads(struct virtio_model *m)
{
	struct block_disk *d = disk_of(m);

	for (unsigned i = 0; i < d->config.nr_threads; i++)
		iothread_pause(d->threads[i]);
}

static void resume_threads(struct virtio_model *m)
{
	struct block_disk *d = disk_of(m);

	for (unsigned i = 0; i < d->config.nr_threads; i++)
		iothread_resume(d->threads[i]);
}

static void reset(struct virtio_model *m)
{
	struct block_disk *d = disk_of(m);

	atomic_store(&d->features, 0);
	config_of(d)->wce = !d->config.write_through;
	set_cache_mode(d);
}

/* Life */

struct leave_call {
	struct block_store *store;
	unsigned thread;
};

static void leave_on_thread(void *arg)
{
	struct leave_call *call = arg;

	call->store->ops->leave(call->store, call->thread);
}

static void end_thread(struct block_disk *d, unsigned i)
{
	struct leave_call call = { d->store, i };

	if (d->started[i] && d->store->ops->leave)
		iothread_call(d->threads[i], leave_on_thread, &call);
	iothread_free(d->threads[i]);
}

/* Requests that the store has not let go of, though their queues have stopped. */
static unsigned late_requests(struct block_disk *d)
{
	unsigned nr = 0;

	if (!d->queues)
		return 0;
	pause_threads(&d->model);
	for (unsigned i = 0; i < d->config.nr_queues; i++)
		nr += d->queues[i].late;
	resume_threads(&d->model);
	return nr;
}

static void free_disk(struct virtio_model *m)
{
	struct block_disk *d = disk_of(m);
	unsigned nr = late_requests(d);

	if (nr) {
		/* The program ends; threads and memory are the kernel's to clear away. */
		log_warn("%s: ends with %u requests under way", m->name, nr);
		return;
	}
	for (unsigned i = 0; i < d->config.nr_threads; i++)
		end_thread(d, i);
	for (unsigned i = 0; d->queues && i < d->config.nr_queues; i++)
		block_queue_fini(&d->queues[i]);
	rate_limit_fini(&d->limit);
	block_store_free(d->store);
	free(d->queues);
	free(d);
}

static const struct virtio_model_ops ops = {
	.set_features = set_features,
	.config_write = config_write,
	.config_read = config_read,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.pause = pause_threads,
	.resume = resume_threads,
	.reset = reset,
	.free = free_disk,
};

/*
 * Without IN_ORDER: requests of a disk take unlike times, and the quick ones would wait for the
 * slow ones.
 */
static uint64_t features_of(const struct block_disk *d)
{
	uint64_t features = VIRTIO_MODEL_RING_FEATURES & ~VIRTIO_BIT(VIRTIO_BIT_IN_ORDER);

	features |= VIRTIO_BIT(VIRTIO_BLK_F_SIZE_MAX) | VIRTIO_BIT(VIRTIO_BLK_F_SEG_MAX) |
		    VIRTIO_BIT(VIRTIO_BLK_F_BLK_SIZE) | VIRTIO_BIT(VIRTIO_BLK_F_TOPOLOGY) |
		    VIRTIO_BIT(VIRTIO_BLK_F_FLUSH) | VIRTIO_BIT(VIRTIO_BLK_F_CONFIG_WCE);
	if (d->config.nr_queues > 1)
		features |= VIRTIO_BIT(VIRTIO_BLK_F_MQ);
	if (d->store->can_discard)
		features |= VIRTIO_BIT(VIRTIO_BLK_F_DISCARD);
	if (d->store->can_zero)
		features |= VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	if (d->store->read_only)
		features |= VIRTIO_BIT(VIRTIO_BLK_F_RO);
	return features;
}

static uint8_t log2_of(uint32_t pow2)
{
	return (uint8_t)__builtin_ctz(pow2);
}

static void fill_config(struct block_disk *d)
{
	uint32_t block = d->config.block_size ? d->config.block_size : d->store->block_size;
	uint32_t physical = MAX(d->store->physical_size, block);

	*config_of(d) = (struct virtio_blk_config){
		.size_max = htole32(BLOCK_SIZE_MAX),
		.seg_max = htole32(MIN(MAX(d->config.queue_size, 3u) - 2u, BLOCK_SEG_MAX)),
		.blk_size = htole32(block),
		.physical_block_exp = log2_of(physical / block),
		.min_io_size = htole16((uint16_t)MIN(physical / block, (uint32_t)UINT16_MAX)),
		.opt_io_size = htole32(d->store->opt_size / block),
		.wce = !d->config.write_through,
		.num_queues = htole16(d->config.nr_queues),
	};
	if (d->store->can_discard) {
		config_of(d)->max_discard_sectors = htole32(BLOCK_MAX_RANGE_SECTORS);
		config_of(d)->max_discard_seg = htole32(BLOCK_MAX_RANGES);
		config_of(d)->discard_sector_alignment = htole32(physical / BLOCK_SECTOR);
	}
	if (d->store->can_zero) {
		config_of(d)->max_write_zeroes_sectors = htole32(BLOCK_MAX_RANGE_SECTORS);
		config_of(d)->max_write_zeroes_seg = htole32(BLOCK_MAX_RANGES);
		config_of(d)->write_zeroes_may_unmap = d->store->can_discard;
	}
	take_size(d);
}

static int make_threads(struct block_disk *d, struct err *err)
{
	unsigned nr = d->config.nr_threads;

	for (unsigned i = 0; i < nr; i++) {
		unsigned queues = (d->config.nr_queues + nr - 1 - i) / nr;
		char name[16];
		struct iothread_config config = {
			.name = name,
			.depth = queues * d->config.queue_size,
			.poll_us = d->config.poll_us,
			.may_look = loop_may_spin(d->model.loop),
			.no_uring = d->config.no_uring,
		};
		int rc;

		snprintf(name, sizeof(name), "%.10s_q%u", d->config.name, i % BLOCK_MAX_QUEUES);
		rc = iothread_new(&d->threads[i], &config, err);
		if (rc)
			return rc;
	}
	if (!iothread_has_uring(d->threads[0]) && !d->config.no_uring)
		log_info("%s: io_uring is not allowed here, using threads instead", d->config.name);
	return 0;
}

static int make_queues(struct block_disk *d, struct err *err)
{
	d->queues = calloc(d->config.nr_queues, sizeof(*d->queues));
	for (unsigned i = 0; d->queues && i < d->config.nr_queues; i++) {
		struct block_queue *q = &d->queues[i];

		q->disk = d;
		q->index = i;
		q->thread = i % d->config.nr_threads;
		q->t = d->threads[q->thread];
		q->nr_requests = d->config.queue_size;
		q->requests = calloc(q->nr_requests, sizeof(*q->requests));
		if (!q->requests)
			return err_set(err, -ENOMEM, "out of memory");
	}
	return d->queues ? 0 : err_set(err, -ENOMEM, "out of memory");
}

int block_new(struct virtio_model **out, struct loop *loop, struct block_store *store,
	const struct block_config *config, struct err *err)
{
	struct block_disk *d = calloc(1, sizeof(*d));
	int rc;

	if (!d) {
		block_store_free(store);
		return err_set(err, -ENOMEM, "out of memory");
	}
	assert(config->nr_queues && config->nr_queues <= BLOCK_MAX_QUEUES && config->queue_size &&
		config->queue_size <= BLOCK_MAX_QUEUE_SIZE && config->nr_threads &&
		config->nr_threads <= config->nr_queues);
	d->config = *config;
	d->store = store;
	rate_limit_init(&d->limit, &config->limit, clock_now_ns());
	d->model = (struct virtio_model){
		.ops = &ops,
		.name = config->name,
		.type = VIRTIO_ID_BLOCK,
		.features = features_of(d),
		.nr_queues = config->nr_queues,
		.max_queue_size = config->queue_size,
		.config_size = CONFIG_SIZE,
		.loop = loop,
	};
	fill_config(d);
	reset(&d->model);
	rc = make_threads(d, err);
	if (!rc)
		rc = make_queues(d, err);
	if (rc) {
		free_disk(&d->model);
		return rc;
	}
	*out = &d->model;
	return 0;
}
