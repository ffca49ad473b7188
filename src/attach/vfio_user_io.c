/*
 * vfio_user_io.c - requests over the socket, and who may touch it when
 *
 * vu->lock stands for the socket: its holder sends, reads and understands. A thread
 * that waits for a reply keeps the lock, so there is one waited-for request at
 * a time, and serves what the server asks meanwhile. Everybody who waits does so with a
 * deadline, and is woken by the shutdown of a socket that is given up.
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
 * Waiting begins with reading in a loop for some tens of microseconds, as a server that spins
 * or runs on another CPU answers sooner than a sleeping thread wakes up. A moving average of how
 * often that paid off decides whether it is worth it; now and then it is tried anyway, less often
 * as that is in vain: the server may be slow, or want the CPU that we spin on. In a machine with a
 * single CPU it is never done.
 *
 * Posted writes (NO_REPLY) that find the socket full are gathered and leave as one
 * REGION_WRITE_MULTI where the server takes that. Nothing overtakes them: all output is one queue.
 *
 * Trusts: nothing that arrives. A reply must be one to a pending request, by id and command;
 * anything else ends the connection. Spec:   vfio-user 0.9.2, "Header", "VFIO_USER_REGION_READ" and
 * following.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
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

/* Spinning is done while it pays off once in four times. */
#define SPIN_WORTH_ALL 256
#define SPIN_WORTH_MIN 64

struct vu_mail {
	struct vu_mail *next;
	struct vu_request rq;
	int fds[];
};

static bool on_loop_thread(const struct vfio_user *vu)
{
	return pthread_equal(pthread_self(), vu->loop_thread);
}

static bool is_ready(const struct vfio_user *vu)
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

static void pending_remove(struct vfio_user *vu, uint16_t id)
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
static int send_request(struct vfio_user *vu, const struct vu_request *rq, bool queue, uint16_t *id)
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
		pending_remove(vu, h.id);
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
	pending_remove(vu, p.id);
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
static int queue_multi(struct vfio_user *vu)
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
	return send_request(vu, &rq, true, &id);
}

static int flush(struct vfio_user *vu, struct vu_chan *ch)
{
	int rc = vu_chan_flush(ch);

	if (!rc && ch == &vu->chan && vu->nr_multi)
		rc = queue_multi(vu);
	return rc == -EAGAIN ? 0 : rc;
}

static int io_failed(int rc, struct err *err)
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

int vu_pump(struct vfio_user *vu, struct vu_chan *ch, const bool *until, struct err *err)
{
	int rc = flush(vu, ch);

	if (rc)
		return io_failed(rc, err);
	for (unsigned round = 0; round < PUMP_ROUNDS; round++) {
		ssize_t n;

		/* The buffer is always emptied: the loop is not woken for what was read already. */
		rc = pump_buffered(vu, ch, err);
		if (rc)
			return MIN(rc, 0);
		if (until && *until)
			return 0;
		n = vu_chan_recv(ch);
		if (n == -EAGAIN)
			return 0;
		if (n <= 0)
			return io_failed((int)n, err);
	}
	return 0;
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

static void post_mail(struct vfio_user *vu)
{
	struct vu_mail *mail = take_mail(vu);
	uint16_t id;

	while (mail) {
		struct vu_mail *next = mail->next;

		struct err err = { 0 };
		int rc = send_request(vu, &mail->rq, true, &id);

		/* While an attach is under way this does nothing; that ends by its deadline. */
		if (rc && io_failed(rc, &err))
			vu_break(vu, "%s", err.text);
		free(mail);
		mail = next;
	}
}

void vu_io_drop_mail(struct vfio_user *vu)
{
	struct vu_mail *mail = take_mail(vu), *next;

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
		if (has_connection(vu))
			post_mail(vu);
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
	if (atomic_load(&vu->nr_mail) >= MAX_MAIL) {
		pthread_mutex_unlock(&vu->mail_lock);
		free(mail);
		return -ENOBUFS;
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
	if (is_ready(vu) && vu_pump(vu, &vu->chan, NULL, &err))
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
static int pump_twin(struct vfio_user *vu, struct err *err)
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
	int rc = pump_twin(vu, &err);

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

/* --- waiting --- */

/* Until something can be read or sent, or the deadline. */
static void wait_io(struct vfio_user *vu, uint64_t deadline)
{
	struct pollfd p[2] = { { .fd = vu->chan.fd }, { .fd = -1 } };

	if (vu_chan_out_pending(&vu->chan))
		p[0].events |= POLLOUT;
	if (!vu_chan_out_full(&vu->chan))
		p[0].events |= POLLIN;
	/* While the loop thread waits here, nobody else serves the twin. */
	if (on_loop_thread(vu) && vu->has_twin) {
		p[1].fd = vu->twin.fd;
		p[1].events = (short)((vu_chan_out_pending(&vu->twin) ? POLLOUT : 0) |
				      (vu_chan_out_full(&vu->twin) ? 0 : POLLIN));
	}
	/* An interrupted wait is one round more; the deadline stays. */
	poll(p, ARRAY_SIZE(p), clock_ms_until(deadline));
}

static int pump_all(struct vfio_user *vu, const bool *until, struct err *err)
{
	int rc = vu_pump(vu, &vu->chan, until, err);

	if (!rc && on_loop_thread(vu) && vu->has_twin)
		rc = pump_twin(vu, err);
	return rc;
}

static uint64_t spin_budget(struct vfio_user *vu)
{
	if (!vu->spin_ns || vu_chan_out_pending(&vu->chan))
		return 0;
	if (vu->spin_worth >= SPIN_WORTH_MIN || ++vu->spin_skipped >= vu->spin_every) {
		vu->spin_skipped = 0;
		return vu->spin_ns;
	}
	return 0;
}

static void spin_learn(struct vfio_user *vu, bool paid_off)
{
	unsigned worth = vu->spin_worth - vu->spin_worth / 8;

	vu->spin_worth = paid_off ? worth + SPIN_WORTH_ALL / 8 : worth;
	if (paid_off) {
		vu->spin_every = VU_SPIN_EVERY_MIN;
		vu->spin_skipped = VU_SPIN_EVERY_MIN; /* and the next one at once */
	} else if (worth < SPIN_WORTH_MIN) {
		vu->spin_every = MIN(2 * vu->spin_every, VU_SPIN_EVERY_MAX);
	}
}

/* Until *done. 0, -ENOTCONN, -ETIMEDOUT or another -errno with a text. Lock held. */
static int await(struct vfio_user *vu, const bool *done, uint64_t deadline, struct err *err)
{
	uint64_t spin = spin_budget(vu), spin_end = spin ? clock_now_ns() + spin : 0, now;
	bool spun = false;
	int rc;

	for (;;) {
		rc = pump_all(vu, done, err);
		if (rc || *done)
			break;
		if (!is_ready(vu))
			return -ENOTCONN;
		now = clock_now_ns();
		if (now >= deadline)
			return -ETIMEDOUT;
		if (now < spin_end) {
			spun = true;
			continue;
		}
		spin_end = 0;
		wait_io(vu, deadline);
	}
	/* A reply that is there at the first look is no reason to spin: a server on our own CPU can
	 * do that. */
	if (spun)
		spin_learn(vu, spin_end);
	return rc;
}

static uint64_t request_deadline(const struct vfio_user *vu)
{
	return clock_now_ns() + vu->times.request_ms * NS_PER_MS;
}

/* What await() said, as a loss of the device. Lock held. */
static int lost(struct vfio_user *vu, uint16_t command, int rc, const struct err *err)
{
	if (rc == -ETIMEDOUT)
		vu_break(vu, "%s was not answered within %u ms", vfio_user_command_name(command),
			vu->times.request_ms);
	else if (rc != -ENOTCONN)
		vu_break(vu, "%s", err->text);
	return rc == -ETIMEDOUT ? rc : -ENOTCONN;
}

/* The waiting side of a request; lives on its stack. */
struct answer {
	bool done;
	int rc;
	void *buf; /* of a read */
	uint32_t len;
};

/* Send and wait. rq->p.ptr is the answer. Its rc, or -ENOTCONN, -ETIMEDOUT. */
static int request(struct vfio_user *vu, struct vu_request *rq, struct answer *answer)
{
	struct err err = { 0 };
	int rc = -ENOTCONN;
	uint16_t id;

	if (!is_ready(vu))
		return -ENOTCONN;
	rq->p.ptr = answer;
	vu_lock(vu);
	if (is_ready(vu)) {
		uint64_t deadline = request_deadline(vu);

		/* What was left for us to send came first. */
		post_mail(vu);
		rc = queue_multi(vu);
		if (!rc)
			rc = send_request(vu, rq, true, &id);
		if (rc) {
			rc = io_failed(rc, &err);
		} else {
			rc = await(vu, &answer->done, deadline, &err);
			/* The answer leaves the stack: nothing may point at it. */
			if (!answer->done)
				pending_remove(vu, id);
		}
		if (rc)
			rc = lost(vu, rq->command, rc, &err);
	}
	vu_unlock(vu);
	return rc ? rc : answer->rc;
}

/* --- the transport's operations --- */

static struct vfio_user *of(struct vfio_transport *t)
{
	return container_of(t, struct vfio_user, t);
}

static int read_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	struct answer *a = p->ptr;
	struct vfio_user_region_access got;

	a->done = true;
	if (m->h.flags & VFIO_USER_FLAG_ERROR) {
		a->rc = vu_reply_error(m);
		return 0;
	}
	memcpy(&got, m->payload, sizeof(got));
	if (m->len != sizeof(got) + a->len || got.count != a->len)
		return err_set(err, -EPROTO, "REGION_READ of %u bytes answered by %u", a->len,
			m->len - (uint32_t)sizeof(got));
	memcpy(a->buf, m->payload + sizeof(got), a->len);
	return 0;
}

static int region_read(
	struct vfio_transport *t, unsigned region, uint64_t off, void *buf, unsigned len)
{
	struct vfio_user_region_access head = { off, region, len };
	struct answer answer = { .buf = buf, .len = len };
	struct vu_request rq = {
		.command = VFIO_USER_REGION_READ,
		.head = &head,
		.head_len = sizeof(head),
		.p.reply = read_reply,
	};

	return request(of(t), &rq, &answer);
}

/* For requests whose reply says only "done" or an error. */
static int plain_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	struct answer *a = p->ptr;

	a->done = true;
	a->rc = m->h.flags & VFIO_USER_FLAG_ERROR ? vu_reply_error(m) : 0;
	return 0;
}

/* Wait for all queued output to leave. Lock held. */
static int wait_sent(struct vfio_user *vu, uint64_t deadline, struct err *err)
{
	int rc;

	for (;;) {
		rc = pump_all(vu, NULL, err);
		if (rc || (!vu_chan_out_pending(&vu->chan) && !vu->nr_multi))
			return rc;
		if (!is_ready(vu))
			return -ENOTCONN;
		if (clock_now_ns() >= deadline)
			return -ETIMEDOUT;
		wait_io(vu, deadline);
	}
}

static void gather(struct vfio_user *vu, const struct vfio_user_region_access *a, const void *buf)
{
	struct vfio_user_multi_write *w = &vu->multi[vu->nr_multi++];

	*w = (struct vfio_user_multi_write){ a->offset, a->region, a->count, { 0 } };
	memcpy(w->data, buf, a->count);
}

/* Lock held. */
static int post_write(struct vfio_user *vu, const struct vfio_user_region_access *a,
	const void *buf, struct err *err)
{
	struct vu_request rq = {
		.command = VFIO_USER_REGION_WRITE,
		.no_reply = true,
		.head = a,
		.head_len = sizeof(*a),
		.data = buf,
		.data_len = a->count,
	};
	int rc = -EAGAIN;
	uint16_t id;

	if (!vu->nr_multi && !vu_chan_out_pending(&vu->chan))
		rc = send_request(vu, &rq, false, &id);
	if (rc != -EAGAIN)
		return rc ? io_failed(rc, err) : 0;
	if (vu->nr_multi < vu->max_multi && a->count <= VFIO_USER_MULTI_DATA) {
		gather(vu, a, buf);
		return 0;
	}
	rc = wait_sent(vu, request_deadline(vu), err);
	if (rc)
		return rc;
	rc = send_request(vu, &rq, true, &id);
	return rc ? io_failed(rc, err) : 0;
}

static int region_post(
	struct vfio_user *vu, const struct vfio_user_region_access *a, const void *buf)
{
	struct err err = { 0 };
	int rc = -ENOTCONN;

	if (!is_ready(vu))
		return -ENOTCONN;
	vu_lock(vu);
	if (is_ready(vu)) {
		post_mail(vu);
		rc = post_write(vu, a, buf, &err);
		if (rc)
			rc = lost(vu, VFIO_USER_REGION_WRITE, rc, &err);
	}
	vu_unlock(vu);
	return rc;
}

/* Configuration writes of the restore step: a device may refuse registers that it does not have. */
static int restored_write(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	if (m->h.flags & VFIO_USER_FLAG_ERROR)
		log_debug("%s: write of register 0x%x in region %u refused: %s", vu->id, p->arg2,
			p->arg, strerror(-vu_reply_error(m)));
	return 0;
}

static int region_write(struct vfio_transport *t, unsigned region, uint64_t off, const void *buf,
	unsigned len, enum vfio_call call)
{
	struct vfio_user *vu = of(t);
	struct vfio_user_region_access head = { off, region, len };
	struct answer answer = { 0 };
	struct vu_request rq = {
		.command = VFIO_USER_REGION_WRITE,
		.head = &head,
		.head_len = sizeof(head),
		.data = buf,
		.data_len = len,
		.p.reply = plain_reply,
	};

	if (call == VFIO_CALL_POST)
		return region_post(vu, &head, buf);
	if (call == VFIO_CALL_WAIT)
		return request(vu, &rq, &answer);
	rq.p = (struct vu_pending){
		.step = true, .reply = restored_write, .arg = region, .arg2 = (uint32_t)off
	};
	return vu_async(vu, &rq);
}

static int restored_irqs(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	struct vu_attach *a = &vu->attach;

	if (!(m->h.flags & VFIO_USER_FLAG_ERROR))
		return 0;
	if (a->nr_refused == VU_MAX_REFUSED)
		return err_set(err, vu_reply_error(m),
			"DEVICE_SET_IRQS was refused again and again: %s",
			strerror(-vu_reply_error(m)));
	a->refused[a->nr_refused++] = (struct vu_refused){ p->arg, p->arg2, vu_reply_error(m) };
	return 0;
}

static int set_irqs_one(
	struct vfio_user *vu, const struct vfio_irq_request *irq, enum vfio_call call)
{
	struct vfio_user_irq_set head = {
		.argsz = sizeof(head),
		.flags = irq->flags,
		.index = irq->index,
		.start = irq->start,
		.count = irq->count,
	};
	struct answer answer = { 0 };
	struct vu_request rq = {
		.command = VFIO_USER_DEVICE_SET_IRQS,
		.no_reply = call == VFIO_CALL_POST,
		.head = &head,
		.head_len = sizeof(head),
		.fds = irq->fds,
		.nr_fds = irq->fds ? (int)irq->count : 0,
		.p.reply = plain_reply,
	};

	if (call == VFIO_CALL_WAIT)
		return request(vu, &rq, &answer);
	if (call == VFIO_CALL_QUEUE)
		rq.p = (struct vu_pending){
			.step = true, .reply = restored_irqs, .arg = irq->index, .arg2 = irq->flags
		};
	return vu_async(vu, &rq);
}

static int set_irqs(
	struct vfio_transport *t, const struct vfio_irq_request *rq, enum vfio_call call)
{
	struct vfio_user *vu = of(t);
	uint32_t most = atomic_load(&vu->max_fds), done = 0;

	assert(!rq->fds == !(rq->flags & VFIO_USER_IRQ_SET_DATA_EVENTFD));
	if (!rq->fds)
		return set_irqs_one(vu, rq, call);
	while (done < rq->count) {
		struct vfio_irq_request part = *rq;
		int rc;

		part.start += done;
		part.fds += done;
		part.count = MIN(most, rq->count - done);
		rc = set_irqs_one(vu, &part, call);
		if (rc)
			return rc;
		done += part.count;
	}
	return 0;
}

static int reset(struct vfio_transport *t)
{
	struct vfio_user *vu = of(t);
	struct answer answer = { 0 };
	struct vu_request rq = {
		.command = VFIO_USER_DEVICE_RESET,
		.p.reply = plain_reply,
	};
	int rc;

	if (!t->info.can_reset)
		return 0;
	rc = request(vu, &rq, &answer);
	if (rc == -ENOTCONN || rc == -ETIMEDOUT)
		vu->reset_wanted = true; /* when it is back */
	return rc;
}

static void bus_master(struct vfio_transport *t, bool on)
{
	struct vfio_user *vu = of(t);

	if (atomic_exchange(&vu->bus_master, on) == on)
		return;
	vu_rewatch(vu);
}

static void open_up(struct vfio_transport *t)
{
	atomic_store(&of(t)->state, VU_READY);
}

const struct vfio_transport_ops vu_transport_ops = {
	.region_read = region_read,
	.region_write = region_write,
	.set_irqs = set_irqs,
	.reset = reset,
	.bus_master = bus_master,
	.open = open_up,
};
