/*
 * vhost_user.c - a virtio device behind a vhost-user socket: its object, its loss and its return
 *
 * States: IDLE -> CONNECTING -> READY -> BROKEN -> IDLE -> CONNECTING ...
 *
 * Any thread may find that the connection is of no use any more (hang-up, time-out, nonsense).
 * The first to do so turns READY into BROKEN, logs the one line, and shuts the socket down, which
 * wakes whoever waits for it. The loop thread then takes the lock (nobody waits under it any more),
 * closes the sockets, tells the owner, and connects again: when the source says that it is
 * worthwhile, else with a pause that doubles up to 1 s, for ever or for as long as the user said.
 * The pause starts small again after a connection that lasted longer than it, so a back-end that
 * greets well and then misbehaves is not asked a hundred times a second.
 *
 * What the driver wants (features, rings, descriptors) is kept here and told to each new back-end
 * (vhost_user_attach.c). Doorbells meanwhile stay in their eventfds.
 *
 * At the start a back-end may come later than we do: what can be cured by waiting (nobody listens,
 * a listener of a dying process) is tried again for a while, after one line that says so.
 *
 * Owns:    the source, the sockets, the inflight area, everything unsent.
 * Threads: the loop thread for all that is not a call of struct virtio_backend_ops.
 * Trusts:  nothing that arrives.
 */
#include "attach/vhost_user.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "attach/vhost_user_priv.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"

#define DEFAULT_REQUEST_MS   2000
#define DEFAULT_HANDSHAKE_MS 4000
#define DEFAULT_CONNECT_MS   10000
#define DEFAULT_RETRY_MIN_MS 10
#define DEFAULT_RETRY_MAX_MS 1000
#define DEFAULT_QUEUE_SIZE   256

static uint32_t or_default(uint32_t value, uint32_t by_default)
{
	return value ? value : by_default;
}

static struct vhost_user_times times_of(const struct vhost_user_times *t)
{
	struct vhost_user_times times = *t;

	times.request_ms = or_default(t->request_ms, DEFAULT_REQUEST_MS);
	times.handshake_ms = or_default(t->handshake_ms, DEFAULT_HANDSHAKE_MS);
	times.connect_ms = or_default(t->connect_ms, DEFAULT_CONNECT_MS);
	times.retry_min_ms = or_default(t->retry_min_ms, DEFAULT_RETRY_MIN_MS);
	times.retry_max_ms = or_default(t->retry_max_ms, DEFAULT_RETRY_MAX_MS);
	return times;
}

static void *copy_of(const void *p, size_t size)
{
	void *copy = p && size ? malloc(size) : NULL;

	if (copy)
		memcpy(copy, p, size);
	return copy;
}

static int copy_params(struct vhost_user *vu, const struct vhost_user_params *p)
{
	vu->b.id = strdup(p->id);
	vu->where = strdup(p->where);
	vu->queue_sizes = copy_of(p->queue_sizes, p->nr_queues * sizeof(*p->queue_sizes));
	vu->given_config = copy_of(p->config, p->config_size);
	if (!vu->b.id || !vu->where || (p->nr_queues && !vu->queue_sizes) ||
		(p->config && p->config_size && !vu->given_config))
		return -ENOMEM;
	vu->nr_queue_sizes = p->nr_queues;
	vu->given_config_size = p->config ? p->config_size : 0;
	return 0;
}

int vhost_user_new(const struct vhost_user_params *p, struct vhost_user_source *source,
	struct vhost_user **out)
{
	struct vhost_user *vu = calloc(1, sizeof(*vu));
	pthread_condattr_t monotonic;
	int rc = -ENOMEM;

	if (!vu) {
		source->free(source);
		return rc;
	}
	vu->b.ops = &vuf_backend_ops;
	vu->b.info.type = p->type;
	vu->source = source;
	vu->force = p->force;
	vu->config_is_ours = p->config_is_ours;
	vu->default_queue_size = (uint16_t)or_default(p->default_queue_size, DEFAULT_QUEUE_SIZE);
	vu->features_off = p->features_off;
	vu->features_ours = p->features_ours;
	vu->loop = p->loop;
	vu->memory = p->memory;
	vu->dma = p->dma;
	vu->owner = p->owner;
	vu->times = times_of(&p->times);
	vu->inflight_fd = vu->err_fd = -1;
	atomic_flag_clear(&vu->config_said);
	pthread_mutex_init(&vu->lock, NULL);
	pthread_mutex_init(&vu->want_lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&vu->iotlb_settled, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&vu->mem_lock, NULL);
	rc = copy_params(vu, p);
	if (!rc)
		rc = vuf_watch_errors(vu);
	if (rc) {
		vu->stopped = true;
		vhost_user_free(vu);
		return rc;
	}
	vuf_mem_listen(vu);
	vuf_iotlb_listen(vu);
	*out = vu;
	return 0;
}

struct virtio_backend *vhost_user_backend(struct vhost_user *vu)
{
	return &vu->b;
}

bool vhost_user_connected(const struct vhost_user *vu)
{
	return vuf_is_ready(vu);
}

/* --- connecting, for the first time and again --- */

static void connect_later(struct vhost_user *vu);

/* Worth waiting for: nobody listens yet, or the one who does is about to go. */
static bool may_come(int rc)
{
	return rc == -ENOENT || rc == -ECONNREFUSED || rc == -EAGAIN || rc == -ECONNRESET;
}

/* There will be no other connection. */
static void give_up(struct vhost_user *vu, const char *why)
{
	log_warn("%s: %s; the device stays away", vu->b.id, why);
	atomic_store(&vu->gave_up, true);
	vu->owner->ops->needs_reset(vu->owner);
}

static bool time_is_up(const struct vhost_user *vu)
{
	return vu->times.no_reconnect ||
	       (vu->times.reconnect_s &&
		       clock_now_ns() - vu->lost_ns >= vu->times.reconnect_s * NS_PER_S);
}

static void first_failed(struct vhost_user *vu, int rc, struct err *err)
{
	if (may_come(rc) && clock_now_ns() < vu->first_deadline_ns) {
		if (!vu->waiting_said)
			log_warn("%s: %s; waiting up to %.1f s", vu->b.id, err->text,
				vu->times.connect_ms / 1000.0);
		vu->waiting_said = true;
		connect_later(vu);
		return;
	}
	vu->owner->ops->failed(vu->owner, rc, err);
}

static void again_failed(struct vhost_user *vu, int rc, const struct err *err)
{
	char why[600];

	if (rc == -ECANCELED) {
		give_up(vu, err->text);
		return;
	}
	if (time_is_up(vu)) {
		snprintf(why, sizeof(why), "given up after %u s: %s", vu->times.reconnect_s,
			err->text);
		give_up(vu, why);
		return;
	}
	if (!may_come(rc) && strcmp(vu->last_reason.text, err->text)) {
		vu->last_reason = *err;
		log_warn("%s: %s answers, but the device stays away: %s", vu->b.id, vu->where,
			err->text);
	}
	connect_later(vu);
}

void vuf_attempt_failed(struct vhost_user *vu, int rc, struct err *err)
{
	loop_timer_del(&vu->timer);
	vuf_hangup(vu);
	if (vu->was_ready)
		again_failed(vu, rc, err);
	else
		first_failed(vu, rc, err);
}

static void connect_now(struct vhost_user *vu)
{
	struct err err = { 0 };
	int fd = vu->source->connect(vu->source, &err);

	if (fd >= 0)
		vuf_attach_begin(vu, fd, vuf_deadline(vu->times.handshake_ms));
	else
		vuf_attempt_failed(vu, fd, &err);
}

static void timer_fired(struct loop_timer *timer)
{
	struct vhost_user *vu = container_of(timer, struct vhost_user, timer);

	connect_now(vu);
}

static void worthwhile(void *arg)
{
	struct vhost_user *vu = arg;

	vu->source_waits = false;
	/* A time-out may have come first, and with it an attempt that is under way. */
	if (vu->stopped || atomic_load(&vu->gave_up) || atomic_load(&vu->state) != VUF_IDLE)
		return;
	loop_timer_del(&vu->timer);
	connect_now(vu);
}

static uint64_t give_up_ns(const struct vhost_user *vu)
{
	if (!vu->was_ready)
		return vu->first_deadline_ns;
	if (vu->times.reconnect_s)
		return vu->lost_ns + vu->times.reconnect_s * NS_PER_S;
	return UINT64_MAX;
}

static void connect_later(struct vhost_user *vu)
{
	uint64_t at = clock_now_ns() + vu->retry_ms * NS_PER_MS, end = give_up_ns(vu);

	vu->retry_ms = MIN(vu->retry_ms * 2, vu->times.retry_max_ms);
	if (vu->source->wait) {
		if (!vu->source_waits) {
			vu->source_waits = true;
			vu->source->wait(vu->source, worthwhile, vu);
		}
		at = end; /* then one last attempt says why */
	}
	if (at != UINT64_MAX)
		loop_timer_set(vu->loop, &vu->timer, MIN(at, end), timer_fired);
}

int vhost_user_start(struct vhost_user *vu, struct err *err)
{
	vu->retry_ms = vu->times.retry_min_ms;
	vu->first_deadline_ns = vuf_deadline(vu->times.connect_ms);
	/* From the loop, so that every outcome is told in the same way. */
	loop_timer_set(vu->loop, &vu->timer, clock_now_ns(), timer_fired);
	return 0;
}

void vuf_attempt_done(struct vhost_user *vu)
{
	loop_timer_del(&vu->timer);
	vu->ready_ns = clock_now_ns();
	vu->last_reason.text[0] = 0;
	if (!vu->was_ready) {
		vu->was_ready = true;
		return;
	}
	log_limited(&vu->back_limit, LOG_WARN, "%s: the device is back after %.1f s", vu->b.id,
		(double)(vu->ready_ns - vu->lost_ns) / NS_PER_S);
	vu->owner->ops->back(vu->owner);
}

/* --- loss --- */

static void clean_up(struct loop_work *work)
{
	struct vhost_user *vu = container_of(work, struct vhost_user, park_work);
	uint64_t now = clock_now_ns();

	if (atomic_load(&vu->state) != VUF_BROKEN)
		return;
	vuf_hangup(vu);
	vu->lost_ns = now;
	/* retry_ms: the pause that would be next. */
	if (now >= vu->ready_ns + vu->retry_ms * NS_PER_MS)
		vu->retry_ms = vu->times.retry_min_ms;
	vu->owner->ops->lost(vu->owner);
	vu->owner->ops->shm_clear(vu->owner);
	if (vu->times.no_reconnect)
		give_up(vu, "it is not to be connected to again");
	else
		connect_later(vu);
}

void vuf_break(struct vhost_user *vu, const char *fmt, ...)
{
	int ready = VUF_READY;
	char why[512];
	va_list ap;

	if (!atomic_compare_exchange_strong(&vu->state, &ready, VUF_BROKEN))
		return;
	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	log_limited(&vu->loss_limit, LOG_WARN, "%s: %s; the device is away until %s answers again",
		vu->b.id, why, vu->where);
	shutdown(vu->chan.fd, SHUT_RDWR);
	loop_post(vu->loop, &vu->park_work, clean_up);
}

void vuf_hangup(struct vhost_user *vu)
{
	bool served = false;

	loop_del(&vu->src);
	vuf_back_close(vu);
	/* Whoever has the lock is on its way out: calls fail, and the socket is shut down. */
	pthread_mutex_lock(&vu->lock);
	atomic_store(&vu->state, VUF_IDLE);
	vu_chan_fini(&vu->chan);
	vu->nr_pending = vu->first_pending = 0;
	vu->protocol = vu->offered = 0;
	for (unsigned i = 0; i < vu->b.info.nr_queues && vu->rings; i++) {
		served |= vu->rings[i].started;
		vu->rings[i].started = false;
	}
	vuf_mem_forget(vu);
	vuf_iotlb_forget(vu);
	pthread_mutex_unlock(&vu->lock);
	/* What a back-end says of queues that it has no more is of the past. */
	if (served && !vu->stopped)
		vuf_renew_errors(vu);
}

/* --- the end --- */

void vhost_user_stop(struct vhost_user *vu)
{
	int ready = VUF_READY;

	if (vu->stopped)
		return;
	vu->stopped = true;
	if (atomic_compare_exchange_strong(&vu->state, &ready, VUF_BROKEN))
		shutdown(vu->chan.fd, SHUT_RDWR);
	loop_timer_del(&vu->timer);
	vuf_unwatch_errors(vu);
	vuf_mem_unlisten(vu);
	/* Whoever changes a mapping waits for the connection no longer. */
	vuf_hangup(vu);
	vuf_iotlb_unlisten(vu);
	loop_unpost(vu->loop, &vu->park_work);
	vu->source->free(vu->source);
	vu->source = NULL;
}

void vhost_user_free(struct vhost_user *vu)
{
	if (!vu)
		return;
	vhost_user_stop(vu);
	if (vu->source)
		vu->source->free(vu->source);
	vuf_unwatch_errors(vu);
	fd_close(&vu->inflight_fd);
	free(vu->pending);
	free(vu->ranges);
	free(vu->sent);
	free(vu->rings);
	free(vu->queue_sizes);
	free(vu->given_config);
	free((char *)vu->b.id);
	free(vu->where);
	pthread_mutex_destroy(&vu->lock);
	pthread_cond_destroy(&vu->iotlb_settled);
	pthread_mutex_destroy(&vu->want_lock);
	pthread_mutex_destroy(&vu->mem_lock);
	free(vu);
}
