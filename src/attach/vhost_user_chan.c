/*
 * vhost_user_chan.c - the socket: who may touch it when, what goes out, what was answered
 *
 * The socket has one holder: while CONNECTING the loop thread, while READY whoever has vu->lock.
 * Messages carry no numbers, so an answer belongs to the oldest request that waits for one, and a
 * batch of requests is sent before the first answer is looked at. A vCPU that waits for a
 * batch keeps the lock, in poll() with a deadline; a connection that is given up is shut down,
 * which wakes it.
 *
 * The loop thread never waits for the lock while the connection is in use. What it has to say
 * then (RAM changed) it leaves as a note, which the holder sees to on leaving. It first leaves
 * the note and then tries the lock, the holder first unlocks and then looks for notes,
 * so one of the two sees the other. It watches for a hang-up only: nothing is sent to us
 * unasked over this socket, and what is nevertheless is found with the next answer.
 *
 * Trusts: nothing that arrives.
 * Spec:   vhost-user, "Communication", "VHOST_USER_PROTOCOL_F_REPLY_ACK".
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vhost_user_priv.h"
#include "base/clock.h"
#include "base/util.h"

/* Rounds of reading in one call; more waits for the loop's next turn. */
#define PUMP_ROUNDS 16
/*
 * One start of as many queues as there can be is less, and so is a portion of an IOMMU's mappings.
 */
#define MAX_PENDING 16384

static uint32_t message_size(const void *header)
{
	struct vhost_user_header h;

	memcpy(&h, header, sizeof(h));
	return (uint32_t)sizeof(h) + h.size;
}

const struct vu_framing vuf_framing = { sizeof(struct vhost_user_header), message_size };

uint64_t vuf_deadline(uint32_t ms)
{
	return clock_now_ns() + ms * NS_PER_MS;
}

/* --- requests --- */

static int pending_add(struct vhost_user *vu, const struct vuf_pending *p)
{
	unsigned end = vu->first_pending + vu->nr_pending;

	if (end == vu->max_pending) {
		unsigned max = MAX(64u, 2 * vu->max_pending);
		struct vuf_pending *more;

		if (max > MAX_PENDING)
			return -ENOBUFS;
		more = realloc(vu->pending, max * sizeof(*more));
		if (!more)
			return -ENOMEM;
		vu->pending = more;
		vu->max_pending = max;
	}
	vu->pending[end] = *p;
	vu->nr_pending++;
	return 0;
}

static struct vuf_pending pending_take(struct vhost_user *vu)
{
	struct vuf_pending p = vu->pending[vu->first_pending++];

	if (!--vu->nr_pending)
		vu->first_pending = 0;
	return p;
}

static int io_failed(int rc, struct err *err)
{
	if (!rc || rc == -EPIPE || rc == -ECONNRESET)
		return err_set(err, -ECONNRESET, "the back-end hung up");
	return err_set(err, rc, "socket: %s", strerror(-rc));
}

int vuf_send(struct vhost_user *vu, const struct vuf_request *rq, struct err *err)
{
	const struct vhost_user_rule *rule = vhost_user_rule(rq->request);
	bool ack = !rule->replies && vuf_speaks(vu, VHOST_USER_PROTOCOL_F_REPLY_ACK);
	struct vhost_user_header h = {
		.request = rq->request,
		.flags = VHOST_USER_FLAG_VERSION | (ack ? VHOST_USER_FLAG_NEED_REPLY : 0),
		.size = rq->len,
	};
	const struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)rq->payload, rq->len } };
	const int *fds = rq->fd > 0 ? &rq->fd : rq->fds;
	int rc = 0;

	if (rule->replies || ack) {
		struct vuf_pending p = { rq->request, ack, rq->reply, rq->index, rq->ptr };

		rc = pending_add(vu, &p);
	}
	if (rc)
		return err_set(err, rc, "%s: %s", rule->name, strerror(-rc));
	rc = vu_chan_send(&vu->chan, iov, rq->len ? 2 : 1, fds, rq->fd > 0 ? 1 : rq->nr_fds, true);
	return rc ? io_failed(rc, err) : 0;
}

int vuf_send_u64(struct vhost_user *vu, uint32_t request, uint64_t value, int fd, struct err *err)
{
	const struct vuf_request rq = {
		.request = request, .payload = &value, .len = sizeof(value), .fd = fd
	};

	return vuf_send(vu, &rq, err);
}

int vuf_send_state(struct vhost_user *vu, uint32_t request, unsigned index, uint32_t num,
	vuf_reply_fn reply, struct err *err)
{
	const struct vhost_user_vring_state state = { index, num };
	const struct vuf_request rq = {
		.request = request,
		.payload = &state,
		.len = sizeof(state),
		.reply = reply,
		.index = index,
	};

	return vuf_send(vu, &rq, err);
}

/* --- answers --- */

uint64_t vuf_u64(const struct vuf_msg *m)
{
	uint64_t value;

	memcpy(&value, m->payload, sizeof(value));
	return value;
}

static int check_fds(const struct vuf_pending *p, const struct vuf_msg *m, struct err *err)
{
	int most = p->ack ? 0 : vhost_user_rule(p->request)->reply_fds;

	if (!m->fds || m->fds->nr <= most)
		return 0;
	return err_set(err, -EPROTO, "%d descriptors with the answer to %s, expected at most %d",
		m->fds->nr, vhost_user_name(p->request), most);
}

static int dispatch(struct vhost_user *vu, const struct vuf_msg *m, struct err *err)
{
	struct vuf_pending p = pending_take(vu);
	int rc = check_fds(&p, m, err);

	if (rc)
		return rc;
	if (p.reply)
		return p.reply(vu, &p, m, err);
	if (vuf_u64(m))
		err_set(&vu->refusal, -EIO, "the back-end refused %s (%llu)",
			vhost_user_name(p.request), (unsigned long long)vuf_u64(m));
	return 0;
}

/* 1: *m is the next whole answer; 0: not yet; -errno with a text. */
static int next(struct vhost_user *vu, struct vuf_msg *m, struct err *err)
{
	const void *header = vu_chan_header(&vu->chan);
	const struct vuf_pending *p = &vu->pending[vu->first_pending];
	int rc;

	if (!header)
		return 0;
	memcpy(&m->h, header, sizeof(m->h));
	if (!vu->nr_pending)
		return err_set(err, -EPROTO, "a message (%s) that nobody asked for",
			vhost_user_name(m->h.request));
	rc = vhost_user_check_reply(&m->h, p->request, vhost_user_rule(p->request), p->ack, err);
	if (rc)
		return rc;
	if (!vu_chan_whole(&vu->chan))
		return 0;
	m->payload = (const uint8_t *)header + sizeof(m->h);
	m->fds = vu_chan_fds(&vu->chan);
	return 1;
}

static int pump_buffered(struct vhost_user *vu, struct err *err)
{
	struct vuf_msg m;
	int rc;

	for (;;) {
		rc = next(vu, &m, err);
		if (rc <= 0)
			return rc;
		rc = dispatch(vu, &m, err);
		vu_chan_done(&vu->chan);
		if (rc)
			return rc;
	}
}

int vuf_pump(struct vhost_user *vu, struct err *err)
{
	int rc = vu_chan_flush(&vu->chan);

	if (rc && rc != -EAGAIN)
		return io_failed(rc, err);
	for (unsigned round = 0; round < PUMP_ROUNDS; round++) {
		ssize_t n = vu_chan_recv(&vu->chan);

		if (n == -EAGAIN)
			return 0;
		if (n <= 0)
			return io_failed((int)n, err);
		rc = pump_buffered(vu, err);
		if (rc)
			return rc;
	}
	return 0;
}

/* --- calls that wait --- */

static bool quiet(const struct vhost_user *vu)
{
	return !vu->nr_pending && !vu_chan_out_pending(&vu->chan);
}

int vuf_await(struct vhost_user *vu, uint64_t deadline, struct err *err)
{
	while (!quiet(vu)) {
		struct pollfd p = { .fd = vu->chan.fd, .events = POLLIN };
		int rc;

		if (!vuf_is_ready(vu))
			return -ENOTCONN;
		if (clock_now_ns() >= deadline)
			return -ETIMEDOUT;
		if (vu_chan_out_pending(&vu->chan))
			p.events |= POLLOUT;
		/* An interrupted wait is one round more; the deadline stays. */
		poll(&p, 1, clock_ms_until(deadline));
		rc = vuf_pump(vu, err);
		if (rc)
			return rc;
	}
	return 0;
}

bool vuf_call_begin(struct vhost_user *vu)
{
	if (!vuf_is_ready(vu))
		return false;
	pthread_mutex_lock(&vu->lock);
	if (!vuf_is_ready(vu)) {
		vuf_unlock(vu);
		return false;
	}
	vu->refusal.text[0] = 0;
	return true;
}

int vuf_call_end(struct vhost_user *vu, int rc, const struct err *err)
{
	if (rc == -ETIMEDOUT)
		vuf_break(vu, "%s was not answered in time",
			vu->nr_pending ? vhost_user_name(vu->pending[vu->first_pending].request)
				       : "a message");
	else if (rc && rc != -ENOTCONN)
		vuf_break(vu, "%s", err->text);
	/* Answers that are still due may point at the caller's stack. */
	if (rc)
		vu->nr_pending = vu->first_pending = 0;
	vuf_unlock(vu);
	return rc ? -ENOTCONN : 0;
}

static void see_to_notes(struct vhost_user *vu)
{
	struct err err = { 0 };
	int rc;

	/* RAM is told of with the first start; until then a change is nobody's business. */
	if (!vuf_is_ready(vu) || !vu->nr_sent)
		return;
	rc = vuf_mem_sync(vu, &err);
	if (rc < 0)
		vuf_break(vu, "%s", err.text);
	else if (rc)
		log_warn("%s: %s; the device does not reach all of it", vu->b.id, err.text);
}

void vuf_unlock(struct vhost_user *vu)
{
	do {
		if (atomic_exchange(&vu->mem_stale, false))
			see_to_notes(vu);
		pthread_mutex_unlock(&vu->lock);
		/* Unlock first, look for notes then; the other side does it the other way round. */
		atomic_thread_fence(memory_order_seq_cst);
	} while (atomic_load(&vu->mem_stale) && vuf_is_ready(vu) &&
		 !pthread_mutex_trylock(&vu->lock));
}
