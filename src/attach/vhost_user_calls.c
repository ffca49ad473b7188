/*
 * vhost_user_calls.c - what the PCI side asks of a vhost-user device
 *
 * Each call first writes down what the driver wants; that is all if the device is away, since
 * whoever brings it back tells it (vhost_user_attach.c). Else the caller holds the socket, sends,
 * and waits with a deadline.
 *
 * Threads: a vCPU's, or the one that resets the machine; under the function's lock.
 */
#include <errno.h>
#include <string.h>

#include "attach/vhost_user_priv.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"

static struct vhost_user *of(struct virtio_backend *b)
{
	return container_of(b, struct vhost_user, b);
}

/* want_lock held. */
static void want_queue(struct vhost_user *vu, unsigned index, const struct virtio_queue *q)
{
	struct vuf_ring *r = &vu->rings[index];

	r->on = true;
	r->ran = false;
	r->size = q->size;
	r->desc = q->desc;
	r->driver = q->driver;
	r->device = q->device;
	r->kick_fd = q->kick_fd;
	r->call_fd = q->call_fd;
}

/*
 * Get the socket to tell of a wish; `wish` is its number. False: the device is away, or whoever
 * just brought it back has told it.
 */
static bool begin(struct vhost_user *vu, unsigned wish)
{
	if (!vuf_call_begin(vu))
		return false;
	if (vu->told == wish) {
		vuf_unlock(vu);
		return false;
	}
	vu->told = wish;
	return true;
}

/* What there is to be told of mappings. *deadline: more of them take more time. */
static int tell_mappings(struct vhost_user *vu, uint64_t *deadline, struct err *err)
{
	int rc = 0;

	while (vu->iotlb_left && !rc) {
		*deadline += VUF_PORTION_MS * NS_PER_MS;
		rc = vuf_iotlb_portion(vu, err);
		if (!rc)
			rc = vuf_await(vu, *deadline, err);
	}
	return rc;
}

/* The two batches of a start, and the kick. 0, or -EIO: the back-end refused. */
static int start_queues(struct vhost_user *vu, unsigned index, unsigned wish)
{
	struct err err = { 0 }, refusal;
	uint64_t deadline;
	int rc;

	if (!begin(vu, wish))
		return 0;
	deadline = vuf_deadline(vu->times.handshake_ms + vuf_mem_patience_ms(vu));
	rc = vuf_rings_prepare(vu, index, &err);
	if (!rc)
		rc = vuf_await(vu, deadline, &err);
	if (!rc)
		rc = tell_mappings(vu, &deadline, &err);
	if (!rc && !vu->refusal.text[0])
		rc = vuf_rings_run(vu, index, &err);
	if (!rc)
		rc = vuf_await(vu, deadline, &err);
	if (!rc && !vu->refusal.text[0])
		vuf_rings_kick(vu, index);
	refusal = vu->refusal;
	if (vuf_call_end(vu, rc, &err) || !refusal.text[0])
		return 0; /* lost meanwhile is as good as lost before */
	log_limited(&vu->refusal_limit, LOG_WARN, "%s: %s", vu->b.id, refusal.text);
	return -EIO;
}

static int check_queues(struct vhost_user *vu, uint64_t features, const struct virtio_queue *queues)
{
	struct err err = { 0 };
	int rc = 0;

	for (unsigned i = 0; i < vu->b.info.nr_queues && !rc; i++)
		if (queues[i].enabled)
			rc = vuf_ring_check(vu, features, i, &queues[i], &err);
	if (rc)
		log_limited(&vu->refusal_limit, LOG_WARN, "%s: %s", vu->b.id, err.text);
	return rc;
}

/* One batch that stops queues. */
static void stop_queues(struct vhost_user *vu, unsigned index, unsigned wish)
{
	struct err err = { 0 };
	int rc;

	if (!begin(vu, wish))
		return;
	rc = vuf_rings_stop(vu, index, &err);
	if (!rc)
		rc = vuf_await(vu, vuf_deadline(vu->times.handshake_ms), &err);
	vuf_call_end(vu, rc, &err);
}

static void stop(struct virtio_backend *b)
{
	struct vhost_user *vu = of(b);
	unsigned wish;

	pthread_mutex_lock(&vu->want_lock);
	vu->running = vu->unfit = false;
	vuf_rings_forget(vu);
	vu->run++;
	wish = ++vu->generation;
	pthread_mutex_unlock(&vu->want_lock);
	stop_queues(vu, VUF_ALL_QUEUES, wish);
}

static int start(struct virtio_backend *b, uint64_t features, const struct virtio_queue *queues)
{
	struct vhost_user *vu = of(b);
	int rc = check_queues(vu, features, queues);
	unsigned wish;

	if (rc)
		return rc;
	if (vuf_is_translated(vu) && !(features & VIRTIO_BIT(VIRTIO_BIT_ACCESS_PLATFORM))) {
		log_limited(&vu->refusal_limit, LOG_WARN,
			"%s: the driver does not accept ACCESS_PLATFORM, and the device is behind an IOMMU",
			vu->b.id);
		return -EINVAL;
	}
	if (atomic_load(&vu->gave_up))
		return -ENOTCONN;
	pthread_mutex_lock(&vu->want_lock);
	vuf_rings_forget(vu);
	for (unsigned i = 0; i < vu->b.info.nr_queues; i++)
		if (queues[i].enabled)
			want_queue(vu, i, &queues[i]);
	vu->features = features;
	vu->running = true;
	vu->unfit = false;
	vu->run++;
	wish = ++vu->generation;
	pthread_mutex_unlock(&vu->want_lock);
	rc = start_queues(vu, VUF_ALL_QUEUES, wish);
	if (rc)
		stop(b); /* what was begun; the driver's reset will not tell us */
	return rc;
}

static int queue_stop(struct virtio_backend *b, unsigned index)
{
	struct vhost_user *vu = of(b);
	unsigned wish;

	pthread_mutex_lock(&vu->want_lock);
	vu->rings[index].on = vu->rings[index].ran = false;
	wish = ++vu->generation;
	pthread_mutex_unlock(&vu->want_lock);
	stop_queues(vu, index, wish);
	return 0;
}

static int queue_start(struct virtio_backend *b, unsigned index, const struct virtio_queue *q)
{
	struct vhost_user *vu = of(b);
	struct err err = { 0 };
	int rc = vuf_ring_check(vu, vu->features, index, q, &err);
	unsigned wish;

	if (rc) {
		log_limited(&vu->refusal_limit, LOG_WARN, "%s: %s", vu->b.id, err.text);
		return rc;
	}
	pthread_mutex_lock(&vu->want_lock);
	want_queue(vu, index, q);
	wish = ++vu->generation;
	pthread_mutex_unlock(&vu->want_lock);
	rc = start_queues(vu, index, wish);
	if (rc)
		queue_stop(b, index);
	return rc;
}

static void queue_call(struct virtio_backend *b, unsigned index, int call_fd)
{
	struct vhost_user *vu = of(b);
	struct err err = { 0 };
	unsigned wish;
	int rc = 0;

	pthread_mutex_lock(&vu->want_lock);
	vu->rings[index].call_fd = call_fd;
	wish = ++vu->generation;
	pthread_mutex_unlock(&vu->want_lock);
	if (!begin(vu, wish))
		return;
	if (vu->rings[index].started)
		rc = vuf_send_u64(vu, VHOST_USER_SET_VRING_CALL,
			index | (call_fd < 0 ? VHOST_USER_NOFD : 0), call_fd, &err);
	if (!rc)
		rc = vuf_await(vu, vuf_deadline(vu->times.request_ms), &err);
	vuf_call_end(vu, rc, &err);
}

const struct virtio_backend_ops vuf_backend_ops = {
	.config_read = vuf_config_read,
	.config_write = vuf_config_write,
	.start = start,
	.stop = stop,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.queue_call = queue_call,
};
