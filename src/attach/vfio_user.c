/*
 * vfio_user.c - a device behind a vfio-user socket: its object, its loss and its return
 *
 * States: IDLE -> CONNECTING -> READY -> BROKEN -> IDLE -> CONNECTING ...
 *
 * Any thread may find that the connection is of no use any more (hang-up, time-out, nonsense).
 * The first to do so turns READY into BROKEN, logs the one line, and shuts the socket down, which
 * wakes whoever waits for it; requests fail at once from then on. The loop thread then takes the
 * lock (nobody waits under it any more), closes the sockets, tells the owner, and connects again
 * with a pause that doubles from 10 ms to 1 s, for ever. A reconnect runs the same
 * steps as the first attach (vfio_user_attach.c), told apart by was_ready.
 *
 * Owns:    the sockets, descriptors that the server sent, everything unsent.
 * Threads: the loop thread for all that is not a request; see vfio_user_io.c for those.
 * Trusts:  nothing that arrives.
 */
#include "attach/vfio_user.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "attach/vfio_user_priv.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/fd_drop.h"
#include "base/log.h"

#define DEFAULT_ATTACH_MS    4000
#define DEFAULT_REQUEST_MS   2000
#define DEFAULT_RETRY_MIN_MS 10
#define DEFAULT_RETRY_MAX_MS 1000
#define DEFAULT_SPIN_US	     40

static uint32_t or_default(uint32_t value, uint32_t by_default)
{
	return value ? value : by_default;
}

int vfio_user_new(const struct vfio_user_params *p, struct vfio_user **out)
{
	struct vfio_user *vu = calloc(1, sizeof(*vu));
	const struct vfio_user_times *t = &p->times;

	if (!vu)
		return -ENOMEM;
	vu->id = strdup(p->id);
	vu->path = strdup(p->socket);
	if (!vu->id || !vu->path) {
		free(vu->id);
		free(vu->path);
		free(vu);
		return -ENOMEM;
	}
	vu->t = (struct vfio_transport){ .ops = &vu_transport_ops, .id = vu->id };
	vu->loop = p->loop;
	vu->owner = p->owner;
	vu->times = (struct vfio_user_times){
		.attach_ms = or_default(t->attach_ms, DEFAULT_ATTACH_MS),
		.request_ms = or_default(t->request_ms, DEFAULT_REQUEST_MS),
		.retry_min_ms = or_default(t->retry_min_ms, DEFAULT_RETRY_MIN_MS),
		.retry_max_ms = or_default(t->retry_max_ms, DEFAULT_RETRY_MAX_MS),
		.spin_us = or_default(t->spin_us, DEFAULT_SPIN_US),
	};
	vu->spin_every = VU_SPIN_EVERY_MIN;
	vu->spin_ns = loop_may_spin(p->loop) ? vu->times.spin_us * NS_PER_US : 0;
	vu->loop_thread = pthread_self();
	vu->max_fds = 1;
	vu->mail_last = &vu->mail;
	pthread_mutex_init(&vu->lock, NULL);
	pthread_mutex_init(&vu->watch_lock, NULL);
	pthread_mutex_init(&vu->mail_lock, NULL);
	if (vu_dma_listen(vu, p)) {
		vfio_user_free(vu);
		return -ENOMEM;
	}
	*out = vu;
	return 0;
}

struct vfio_transport *vfio_user_transport(struct vfio_user *vu)
{
	return &vu->t;
}

static void close_fds(struct vfio_user *vu)
{
	for (unsigned i = 0; i < vu->nr_fds; i++)
		fd_drop(vu->fds[i]);
	free(vu->fds);
	vu->fds = NULL;
	vu->nr_fds = 0;
}

/* Descriptors of the last connection, and what points at them. */
void vu_forget_info(struct vfio_user *vu)
{
	vu_info_fini(&vu->t.info);
	vu_info_fini(&vu->attach.info);
	close_fds(vu);
}

/* --- loss --- */

static void clean_up(struct loop_work *work)
{
	struct vfio_user *vu = container_of(work, struct vfio_user, park_work);

	if (atomic_load(&vu->state) != VU_BROKEN)
		return;
	vu_hangup(vu);
	vu->owner->ops->lost(vu->owner);
	vu_forget_info(vu);
	vu->lost_ns = clock_now_ns();
	vu->retry_ms = vu->times.retry_min_ms;
	vu->last_reason.text[0] = 0;
	vu_connect_later(vu);
}

void vu_break(struct vfio_user *vu, const char *fmt, ...)
{
	int ready = VU_READY;
	char why[256];
	va_list ap;

	if (!atomic_compare_exchange_strong(&vu->state, &ready, VU_BROKEN))
		return;
	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	log_warn("%s: %s; the device is away until %s answers again", vu->id, why, vu->path);
	shutdown(vu->chan.fd, SHUT_RDWR);
	loop_post(vu->loop, &vu->park_work, clean_up);
}

void vu_hangup(struct vfio_user *vu)
{
	vu_unwatch(vu);
	/* Whoever has the lock is on its way out: requests fail, and the socket is shut down. */
	vu_lock(vu);
	atomic_store(&vu->state, VU_IDLE);
	vu_chan_fini(&vu->chan);
	vu->nr_pending = 0;
	vu->nr_multi = 0;
	vu_io_drop_mail(vu);
	pthread_mutex_unlock(&vu->lock);
	vu_chan_fini(&vu->twin);
	atomic_store(&vu->has_twin, false);
	vu_dma_forget(vu);
}

/* --- connecting, for the first time and again --- */

static void connect_now(struct loop_timer *timer)
{
	struct vfio_user *vu = container_of(timer, struct vfio_user, timer);
	uint64_t now = clock_now_ns();
	struct err err = { 0 };
	int fd = sock_connect(vu->path, &err);

	if (fd >= 0)
		vu_attach_begin(vu, fd,
			vu->was_ready ? now + vu->times.attach_ms * NS_PER_MS
				      : vu->first_deadline_ns);
	else if (vu->was_ready || (fd == -EAGAIN && now < vu->first_deadline_ns))
		vu_connect_later(vu);
	else
		vu_attach_failed(vu, fd, &err);
}

void vu_connect_later(struct vfio_user *vu)
{
	loop_timer_set(
		vu->loop, &vu->timer, clock_now_ns() + vu->retry_ms * NS_PER_MS, connect_now);
	vu->retry_ms = MIN(vu->retry_ms * 2, vu->times.retry_max_ms);
}

int vfio_user_start(struct vfio_user *vu, struct err *err)
{
	int fd = sock_connect(vu->path, err);

	vu->retry_ms = vu->times.retry_min_ms;
	vu->first_deadline_ns = clock_now_ns() + vu->times.attach_ms * NS_PER_MS;
	if (fd >= 0)
		vu_attach_begin(vu, fd, vu->first_deadline_ns);
	else if (fd == -EAGAIN) /* it listens, but was slow to accept others */
		vu_connect_later(vu);
	else
		return fd;
	return 0;
}

bool vfio_user_is_ready(const struct vfio_user *vu)
{
	return atomic_load(&vu->state) == VU_READY;
}

/* --- the end --- */

void vfio_user_stop(struct vfio_user *vu)
{
	int ready = VU_READY;

	if (vu->stopped)
		return;
	vu->stopped = true;
	if (atomic_compare_exchange_strong(&vu->state, &ready, VU_BROKEN))
		shutdown(vu->chan.fd, SHUT_RDWR);
	loop_timer_del(&vu->timer);
	vu_dma_unlisten(vu);
	vu_hangup(vu);
	loop_unpost(vu->loop, &vu->park_work);
	free(vu->attach.config);
	vu->attach.config = NULL;
}

void vfio_user_free(struct vfio_user *vu)
{
	if (!vu)
		return;
	vfio_user_stop(vu);
	if (vu->own_dma)
		dma_space_free(vu->dma);
	vu_forget_info(vu);
	free(vu->pending);
	free(vu->id);
	free(vu->path);
	pthread_mutex_destroy(&vu->lock);
	pthread_mutex_destroy(&vu->watch_lock);
	pthread_mutex_destroy(&vu->mail_lock);
	free(vu);
}
