/*
 * vfio_user_io.c - the socket: who may touch it when, what goes out, what came in
 *
 * vu->lock stands for the socket: its holder sends, reads and understands. A thread
 * that waits for a reply keeps the lock (vfio_user_call.c), so there is one waited-for request at
 * a time, and serves what the server asks meanwhile.
 *
 * The loop thread never waits for the lock while the connection is in use. When it has something
 * to send it leaves it as mail, which whoever has the lock posts on leaving. When the
 * socket is readable and the lock taken, it stops watching; whoever has the lock turns that on
 * again on leaving. In both cases the loop thread first leaves its note and then tries the lock,
 * and the holder first unlocks and then looks for notes, so one of the two sees the other.
 *
 * In normal operation the loop watches for a hang-up only, so that a vCPU's reply does not wake
 * it: what else may arrive unasked are the server's own commands, and those come over the twin
 * socket, or not before the guest has made the device a bus master.
 *
 * Trusts: nothing that arrives. A reply must be one to a pending request, by id and command;
 * anything else ends the connection.
 * Spec: vfio-user 0.9.2, "Header".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_user_priv.h"
#include "base/clock.h"
#include "base/log.h"

/* Rounds of reading in one call of the loop; more waits for its next turn. */
#define PUMP_ROUNDS 16
/* Requests without a reply, and mail: far above what an attach of a large machine needs. */
#define MAX_PENDING 8192
#define MAX_MAIL    8192

struct vu_mail {
	struct vu_mail *next;
	struct vu_request rq;
	int fds[];
};

bool vu_is_ready(const struct vfio_user *vu)
{
	return atomic_load(&vu->state) == VU_READY;
}

/* --- requests and replies --- */

int vu_reply_error(const struct vu_msg *m)
{
	uint32_t error = m->h.error;

	if (!error || error > 4095 || error == ENOTCONN || error == ETIMEDOUT)
		error = EIO;
	return -(int)error;
}

static struct vu_pending *pending_find(struct vfio_user *vu, uint16_t id)
{
	for (unsigned i = 0; i < vu->nr_pending; i++)
		if (vu->pending[i].id == id)
			return &vu->pending[i];
	return NULL;
}

void vu_pending_remove(struct vfio_user *vu, uint16_t id)
{
	struct vu_pending *p = pending_find(vu, id);

	if (!p)
		return;
	vu->nr_pending--;
	memmove(p, p + 1, (size_t)(vu->pending + vu->nr_pending - p) * sizeof(*p));
}

static int pending_add(struct vfio_user *vu, const struct vu_pending *p)
{
	if (vu->nr_pending == vu->max_pending) {
		unsigned max = MAX(16u, 2 * vu->max_pending);
		struct vu_pending *more;

		if (max > MAX_PENDING)
			return -ENOBUFS;
		more = realloc(vu->pending, max * sizeof(*more));
		if (!more)
			return -ENOMEM;
		vu->pending = more;
		vu->max_pending = max;
	}
	vu->pending[vu->nr_pending++] = *p;
	return 0;
}

/* Number a request, remember it, send it or queue it. *id: its number. Lock held. */
int vu_send_request(struct vfio_user *vu, const struct vu_request *rq, bool queue, uint16_t *id)
{
	struct vfio_user_header h = {
		.command = rq->command,
		.size = (uint32_t)sizeof(h) + rq->head_len + rq->data_len,
		.flags = VFIO_USER_TYPE_COMMAND | (rq->no_reply ? VFIO_USER_FLAG_NO_REPLY : 0),
	};
	const struct iovec iov[3] = {
		{ &h, sizeof(h) },
		{ (void *)rq->head, rq->head_len },
		{ (void *)rq->data, rq->data_len },
	};
	int rc = 0;

	do
		h.id = vu->next_id++;
	while (pending_find(vu, h.id));
	if (!rq->no_reply) {
		struct vu_pending p = rq->p;

		p.id = h.id;
		p.command = h.command;
		rc = pending_add(vu, &p);
	}
	if (!rc)
		rc = vu_chan_send(&vu->chan, iov, rq->data_len ? 3 : 2, rq->fds, rq->nr_fds, queue);
	if (rc)
		vu_pending_remove(vu, h.id);
	*id = h.id;
	return rc;
}

static int take_reply(struct vfio_user *vu, const struct vu_msg *m, struct err *err)
{
	const struct vu_pending *found = pending_find(vu, m->h.id);
	struct vu_pending p;
	int rc;

	if (!found)
		return err_set(err, -EPROTO, "a reply to %s with id %u, which was not asked",
			vfio_user_command_name(m->h.command), m->h.id);
	p = *found;
	if (p.command != m->h.command)
		return err_set(err, -EPROTO, "a reply to %s where one to %s was expected",
			vfio_user_command_name(m->h.command), vfio_user_command_name(p.command));
	vu_pending_remove(vu, p.id);
	rc = p.reply(vu, &p, m, err);
	if (p.step)
		vu->attach.outstanding--;
	return rc;
}

/* A message with more descriptors than its kind may carry comes from a peer that is confused or
 * hostile. */
static int check_fds(const struct vu_msg *m, struct err *err)
{
	const struct vfio_user_msg_rule *rule = vfio_user_rule(m->h.command);
	bool reply = (m->h.flags & VFIO_USER_FLAG_TYPE) == VFIO_USER_TYPE_REPLY;
	uint32_t most = !rule ? 0 : reply ? rule->reply_fds : rule->cmd_fds;

	if (!m->fds || (uint32_t)m->fds->nr <= most)
		return 0;
	return err_set(err, -EPROTO, "%d descriptors with a %s of %s, expected at most %u",
		m->fds->nr, reply ? "reply" : "command", vfio_user_command_name(m->h.command),
		most);
}

static int dispatch(
	struct vfio_user *vu, struct vu_chan *ch, const struct vu_msg *m, struct err *err)
{
	int rc = check_fds(m, err);

	if (rc)
		return rc;
	if ((m->h.flags & VFIO_USER_FLAG_TYPE) == VFIO_USER_TYPE_COMMAND)
		return vu_serve(vu, ch, m, err);
	if (ch != &vu->chan)
		return err_set(err, -EPROTO, "a reply over the socket for the server's commands");
	return take_reply(vu, m, err);
}

/* Put the gathered posted writes into the output queue, as one message. */
int vu_queue_multi(struct vfio_user *vu)
{
	struct vfio_user_write_multi head = { vu->nr_multi };
	const struct vfio_user_multi_write *w = vu->multi;
	struct vfio_user_region_access one = { w->offset, w->region, w->count };
	struct vu_request rq = {
		.command = VFIO_USER_REGION_WRITE_MULTI,
		.no_reply = true,
		.head = &head,
		.head_len = sizeof(head),
		.data = w,
		.data_len = vu->nr_multi * (uint32_t)sizeof(*w),
	};
	uint16_t id;

	if (!vu->nr_multi)
		return 0;
	if (vu->nr_multi == 1)
		rq = (struct vu_request){
			.command = VFIO_USER_REGION_WRITE,
			.no_reply = true,
			.head = &one,
			.head_len = sizeof(one),
			.data = w->data,
			.data_len = w->count,
		};
	vu->nr_multi = 0;
	return vu_send_request(vu, &rq, true, &id);
}

static int flush(struct vfio_user *vu, struct vu_chan *ch)
{
	int rc = vu_chan_flush(ch);

	if (!rc && ch == &vu->chan && vu->nr_multi)
		rc = vu_queue_multi(vu);
	return rc == -EAGAIN ? 0 : rc;
}

int vu_io_failed(int rc, struct err *err)
{
	if (!rc || rc == -EPIPE || rc == -ECONNRESET)
		return err_set(err, -ECONNRESET, "the device process hung up");
	return err_set(err, rc, "socket: %s", strerror(-rc));
}

/* All complete messages in the buffer. 1: stopped because the server does not read our answers. */
static int pump_buffered(struct vfio_user *vu, struct vu_chan *ch, struct err *err)
{
	struct vu_msg m;
	int rc;

	for (;;) {
		if (vu_chan_out_full(ch))
			return 1;
		rc = vu_chan_next(ch, &m, err);
		if (rc <= 0)
			return rc;
		rc = dispatch(vu, ch, &m, err);
		vu_chan_done(ch);
		if (rc)
			return rc;
	}
}

typedef ssize_t (*recv_fn)(struct vu_chan *ch);

static int pump(struct vfio_user *vu, struct vu_chan *ch, const bool *until, recv_fn first,
	struct err *err)
{
	int rc = 0;

	/* Gathered writes are the main channel's, and only its user may look at them. */
	if (vu_chan_out_pending(ch) || (ch == &vu->chan && vu->nr_multi))
		rc = flush(vu, ch);
	if (rc)
		return vu_io_failed(rc, err);
	for (unsigned round = 0; round < PUMP_ROUNDS; round++) {
		ssize_t n;

		/* The buffer is always emptied: the loop is not woken for what was read already. */
		rc = pump_buffered(vu, ch, err);
		if (rc)
			return MIN(rc, 0);
		if (until && *until)
			return 0;
		n = round ? vu_chan_recv(ch) : first(ch);
		if (n == -EAGAIN)
			return 0;
		if (n <= 0)
			return vu_io_failed((int)n, err);
	}
	return 0;
}

int vu_pump(struct vfio_user *vu, struct vu_chan *ch, const bool *until, struct err *err)
{
	return pump(vu, ch, until, vu_chan_recv, err);
}

int vu_pump_wait(struct vfio_user *vu, const bool *until, struct err *err)
{
	return pump(vu, &vu->chan, until, vu_chan_recv_wait, err);
}

/* --- lock, mail and watch --- */

void vu_lock(struct vfio_user *vu)
{
	pthread_mutex_lock(&vu->lock);
}

static struct vu_mail *take_mail(struct vfio_user *vu)
{
	struct vu_mail *mail;

	if (!atomic_load(&vu->nr_mail))
		return NULL;
	pthread_mutex_lock(&vu->mail_lock);
	mail = vu->mail;
	vu->mail = NULL;
	vu->mail_last = &vu->mail;
	atomic_store(&vu->nr_mail, 0);
	pthread_mutex_unlock(&vu->mail_lock);
	return mail;
}

void vu_post_mail(struct vfio_user *vu)
{
	struct vu_mail *mail = take_mail(vu);
	uint16_t id;

	while (mail) {
		struct vu_mail *next = mail->next;

		struct err err = { 0 };
		int rc = vu_send_request(vu, &mail->rq, true, &id);

		/* While an attach is under way this does nothing; that ends by its deadline. */
		if (rc && vu_io_failed(rc, &err))
			vu_break(vu, "%s", err.text);
		free(mail);
		mail = next;
	}
}

void vu_io_drop_mail(struct vfio_user *vu)
{
	struct vu_mail *mail, *next;

	/*
	 * Who looked at the state before it changed has left his by now, and is not to be missed.
	 */
	pthread_mutex_lock(&vu->mail_lock);
	pthread_mutex_unlock(&vu->mail_lock);
	mail = take_mail(vu);

	for (; mail; mail = next) {
		next = mail->next;
		free(mail);
	}
}

static bool has_connection(const struct vfio_user *vu)
{
	int state = atomic_load(&vu->state);

	return state == VU_CONNECTING || state == VU_READY;
}

/* Whether mail can be left for the connection that there is. mail_lock held. */
static int may_post(const struct vfio_user *vu, const struct vu_request *rq)
{
	if (!has_connection(vu) || (rq->of_maps && !vu->maps_sent))
		return -ENOTCONN;
	return atomic_load(&vu->nr_mail) >= MAX_MAIL ? -ENOBUFS : 0;
}

/* Lock held. */
static uint32_t events_wanted(const struct vfio_user *vu)
{
	bool unasked = atomic_load(&vu->bus_master) && !vu->has_twin;
	uint32_t events = EPOLLRDHUP;

	if (vu_chan_out_pending(&vu->chan) || vu->nr_multi)
		events |= EPOLLOUT;
	if (vu_chan_out_full(&vu->chan))
		return events;
	if (unasked || vu->nr_pending || atomic_load(&vu->state) == VU_CONNECTING)
		events |= EPOLLIN;
	return events;
}

static void update_watch(struct vfio_user *vu)
{
	uint32_t events;

	if (!has_connection(vu))
		return;
	events = events_wanted(vu);
	if (events == vu->watch_wanted)
		return;
	pthread_mutex_lock(&vu->watch_lock);
	vu->watch_wanted = events;
	if (vu->src.loop && !atomic_load(&vu->watch_off))
		loop_mod(&vu->src, events);
	pthread_mutex_unlock(&vu->watch_lock);
}

static void watch_off(struct vfio_user *vu)
{
	pthread_mutex_lock(&vu->watch_lock);
	if (vu->src.loop)
		loop_mod(&vu->src, EPOLLRDHUP);
	atomic_store(&vu->watch_off, true);
	pthread_mutex_unlock(&vu->watch_lock);
}

static void watch_on(struct vfio_user *vu)
{
	if (!atomic_load(&vu->watch_off))
		return;
	pthread_mutex_lock(&vu->watch_lock);
	atomic_store(&vu->watch_off, false);
	if (vu->src.loop)
		loop_mod(&vu->src, vu->watch_wanted);
	pthread_mutex_unlock(&vu->watch_lock);
}

void vu_unlock(struct vfio_user *vu)
{
	do {
		atomic_store(&vu->watch_stale, false);
		if (atomic_load(&vu->nr_mail) && has_connection(vu))
			vu_post_mail(vu);
		update_watch(vu);
		pthread_mutex_unlock(&vu->lock);
		/* Unlock first, look for notes then; the other side does it the other way round. */
		atomic_thread_fence(memory_order_seq_cst);
	} while ((atomic_load(&vu->nr_mail) || atomic_load(&vu->watch_stale)) &&
		 has_connection(vu) && !pthread_mutex_trylock(&vu->lock));
	watch_on(vu);
}

int vu_async(struct vfio_user *vu, const struct vu_request *rq)
{
	size_t fds_len = (size_t)rq->nr_fds * sizeof(int);
	struct vu_mail *mail;
	char *bytes;
	int rc;

	if (!has_connection(vu))
		return -ENOTCONN;
	mail = malloc(sizeof(*mail) + fds_len + rq->head_len + rq->data_len);
	if (!mail)
		return -ENOMEM;
	mail->next = NULL;
	mail->rq = *rq;
	bytes = (char *)mail->fds + fds_len;
	if (fds_len)
		memcpy(mail->fds, rq->fds, fds_len);
	if (rq->head_len)
		memcpy(bytes, rq->head, rq->head_len);
	if (rq->data_len)
		memcpy(bytes + rq->head_len, rq->data, rq->data_len);
	mail->rq.fds = mail->fds;
	mail->rq.head = bytes;
	mail->rq.data = bytes + rq->head_len;

	pthread_mutex_lock(&vu->mail_lock);
	rc = may_post(vu, rq);
	if (rc) {
		pthread_mutex_unlock(&vu->mail_lock);
		free(mail);
		return rc;
	}
	*vu->mail_last = mail;
	vu->mail_last = &mail->next;
	atomic_fetch_add(&vu->nr_mail, 1);
	pthread_mutex_unlock(&vu->mail_lock);
	if (rq->p.step)
		vu->attach.outstanding++;
	atomic_thread_fence(memory_order_seq_cst);
	if (!pthread_mutex_trylock(&vu->lock))
		vu_unlock(vu);
	return 0;
}

void vu_rewatch(struct vfio_user *vu)
{
	/* A note to whoever has the lock, as with mail. */
	atomic_store(&vu->watch_stale, true);
	atomic_thread_fence(memory_order_seq_cst);
	if (!pthread_mutex_trylock(&vu->lock))
		vu_unlock(vu);
}

static void pump_in_loop(struct vfio_user *vu)
{
	struct err err = { 0 };

	if (pthread_mutex_trylock(&vu->lock)) {
		watch_off(vu);
		atomic_thread_fence(memory_order_seq_cst);
		if (pthread_mutex_trylock(&vu->lock))
			return; /* its holder sees watch_off when it leaves */
	}
	if (vu_is_ready(vu) && vu_pump(vu, &vu->chan, NULL, &err))
		vu_break(vu, "%s", err.text);
	vu_unlock(vu);
}

static void on_event(struct loop_source *src, uint32_t events)
{
	struct vfio_user *vu = container_of(src, struct vfio_user, src);

	switch (atomic_load(&vu->state)) {
	case VU_CONNECTING:
		vu_attach_event(vu);
		break;
	case VU_READY:
		if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
			vu_break(vu, "the device process hung up");
		else
			pump_in_loop(vu);
		break;
	default:
		/* Broken a moment ago by a vCPU; what it posted to the loop is about to clean up.
		 */
		vu_unwatch(vu);
	}
}

int vu_watch(struct vfio_user *vu)
{
	int rc;

	pthread_mutex_lock(&vu->watch_lock);
	vu->watch_wanted = EPOLLIN | EPOLLRDHUP;
	atomic_store(&vu->watch_off, false);
	rc = loop_add(vu->loop, &vu->src, vu->chan.fd, vu->watch_wanted, on_event);
	pthread_mutex_unlock(&vu->watch_lock);
	return rc;
}

void vu_unwatch(struct vfio_user *vu)
{
	pthread_mutex_lock(&vu->watch_lock);
	loop_del(&vu->src);
	pthread_mutex_unlock(&vu->watch_lock);
	loop_del(&vu->twin_src);
}

/* The server's own commands. Loop thread, without vu->lock: nobody else uses this channel. */
int vu_pump_twin(struct vfio_user *vu, struct err *err)
{
	uint32_t events = EPOLLRDHUP;
	int rc = vu_pump(vu, &vu->twin, NULL, err);

	if (vu_chan_out_pending(&vu->twin))
		events |= EPOLLOUT;
	if (!vu_chan_out_full(&vu->twin))
		events |= EPOLLIN;
	if (!rc && vu->twin_src.loop && vu->twin_src.events != events)
		loop_mod(&vu->twin_src, events);
	return rc;
}

static void on_twin_event(struct loop_source *src, uint32_t events)
{
	struct vfio_user *vu = container_of(src, struct vfio_user, twin_src);
	struct err err = { 0 };
	int rc = vu_pump_twin(vu, &err);

	if (!rc)
		return;
	if (atomic_load(&vu->state) == VU_CONNECTING) {
		vu_attach_failed(vu, rc, &err);
		return;
	}
	vu_break(vu, "%s", err.text);
	loop_del(&vu->twin_src);
}

int vu_watch_twin(struct vfio_user *vu)
{
	return loop_add(vu->loop, &vu->twin_src, vu->twin.fd, EPOLLIN | EPOLLRDHUP, on_twin_event);
}
