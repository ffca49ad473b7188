/*
 * vfio_user_call.c - the operations of the transport: ask, wait with a deadline, or post
 *
 * Everybody who waits holds vu->lock (vfio_user_io.c), does so with a deadline, and is woken by the
 * shutdown of a socket that is given up.
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
 * Threads: any; see enum vfio_call.
 * Spec: vfio-user 0.9.2, "VFIO_USER_REGION_READ" and following.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "attach/vfio_user_priv.h"
#include "base/clock.h"
#include "base/log.h"

/* Spinning is done while it pays off once in four times. */
#define SPIN_WORTH_ALL 256
#define SPIN_WORTH_MIN 64

static bool on_loop_thread(const struct vfio_user *vu)
{
	return pthread_equal(pthread_self(), vu->loop_thread);
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
		rc = vu_pump_twin(vu, err);
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

/* Look again and again for as long as that may pay off. 0, or as vu_pump(). */
static int spin(struct vfio_user *vu, const bool *done, struct err *err)
{
	uint64_t budget = spin_budget(vu), end;
	int rc = budget ? pump_all(vu, done, err) : 0;

	/* A reply that is there at the first look is no reason to spin: a server on our own CPU can
	 * do that. */
	if (rc || *done || !budget)
		return rc;
	end = clock_now_ns() + budget;
	do
		rc = pump_all(vu, done, err);
	while (!rc && !*done && vu_is_ready(vu) && clock_now_ns() < end);
	spin_learn(vu, *done);
	return rc;
}

/* Sleeping in recvmsg() saves a poll() and a look in vain, where nothing else is to be watched. */
static bool may_sleep_in_recv(const struct vfio_user *vu)
{
	return vu->chan_waits && !vu_chan_out_pending(&vu->chan) && !vu->nr_multi &&
	       !(vu->has_twin && on_loop_thread(vu));
}

/* Until *done. 0, -ENOTCONN, -ETIMEDOUT or another -errno with a text. Lock held. */
static int await(struct vfio_user *vu, const bool *done, uint64_t deadline, struct err *err)
{
	int rc = spin(vu, done, err);

	/* Once: its time-out is that of a whole request. */
	if (!rc && !*done && may_sleep_in_recv(vu))
		rc = vu_pump_wait(vu, done, err);
	while (!rc && !*done) {
		if (!vu_is_ready(vu))
			return -ENOTCONN;
		if (clock_now_ns() >= deadline)
			return -ETIMEDOUT;
		wait_io(vu, deadline);
		rc = pump_all(vu, done, err);
	}
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
	int rc = -ENOTCONN;
	struct err err;
	uint16_t id;

	err_clear(&err);
	if (!vu_is_ready(vu))
		return -ENOTCONN;
	rq->p.ptr = answer;
	vu_lock(vu);
	if (vu_is_ready(vu)) {
		uint64_t deadline = request_deadline(vu);

		/* What was left for us to send came first. */
		if (atomic_load(&vu->nr_mail))
			vu_post_mail(vu);
		rc = vu->nr_multi ? vu_queue_multi(vu) : 0;
		if (!rc)
			rc = vu_send_request(vu, rq, true, &id);
		if (rc) {
			rc = vu_io_failed(rc, &err);
		} else {
			rc = await(vu, &answer->done, deadline, &err);
			/* The answer leaves the stack: nothing may point at it. */
			if (!answer->done)
				vu_pending_remove(vu, id);
		}
		if (rc)
			rc = lost(vu, rq->command, rc, &err);
	}
	vu_unlock(vu);
	return rc ? rc : answer->rc;
}

/* For the thread that changes the IOMMU's tables. */
void vu_await_dma(struct vfio_user *vu)
{
	struct err err = { 0 };
	int rc = 0;

	vu_lock(vu);
	if (atomic_load(&vu->nr_mail) && vu_is_ready(vu))
		vu_post_mail(vu);
	vu->dma_done = !atomic_load(&vu->dma_pending);
	if (!vu->dma_done && vu_is_ready(vu))
		rc = await(vu, &vu->dma_done, request_deadline(vu), &err);
	if (rc)
		lost(vu, VFIO_USER_DMA_UNMAP, rc, &err);
	vu_unlock(vu);
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
		if (!vu_is_ready(vu))
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
		rc = vu_send_request(vu, &rq, false, &id);
	if (rc != -EAGAIN)
		return rc ? vu_io_failed(rc, err) : 0;
	if (vu->nr_multi < vu->max_multi && a->count <= VFIO_USER_MULTI_DATA) {
		gather(vu, a, buf);
		return 0;
	}
	rc = wait_sent(vu, request_deadline(vu), err);
	if (rc)
		return rc;
	rc = vu_send_request(vu, &rq, true, &id);
	return rc ? vu_io_failed(rc, err) : 0;
}

static int region_post(
	struct vfio_user *vu, const struct vfio_user_region_access *a, const void *buf)
{
	int rc = -ENOTCONN;
	struct err err;

	err_clear(&err);
	if (!vu_is_ready(vu))
		return -ENOTCONN;
	vu_lock(vu);
	if (vu_is_ready(vu)) {
		if (atomic_load(&vu->nr_mail))
			vu_post_mail(vu);
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
		atomic_store(&vu->reset_wanted, true); /* when it is back */
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
