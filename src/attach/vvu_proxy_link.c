/*
 * vvu_proxy_link.c - the sibling: its arrival, its leaving, messages in and out
 *
 * All work of the thread is one function, serve(), which does what can be done now: close what
 * is to be closed, pay a buffer that is owed, accept, and move messages, until nothing moves. Every
 * event leads there, so no order of events is special. Then it says what it waits for.
 *
 *   a front-end's message   when no earlier one waits for the driver, a buffer is there, and the
 *                           sibling reads what it was sent
 *   an answer to the driver when a buffer is there
 *   a driver's message      when the sibling reads what it was sent
 *
 * So nobody's flood makes anything here grow.
 *
 * One sibling at a time; the next one waits in the socket's queue until the driver is up (again).
 *
 * Owns:   the sockets.
 * Trusts: nothing that arrives.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "attach/vvu_proxy_priv.h"
#include "base/fd.h"

/* Messages in one turn; more wait for the next one. */
#define MAX_MESSAGES 64
/* Bytes that the sibling has not read, beyond which nothing that may be answered is taken. */
#define MAX_OUT 65536

static uint32_t message_size(const void *header)
{
	const struct vhost_user_header *h = header;

	return (uint32_t)sizeof(*h) + h->size;
}

static const struct vu_framing framing = { sizeof(struct vhost_user_header), message_size };

/* --- its leaving --- */

static void close_back(struct vvu_proxy *p)
{
	if (!p->back_open)
		return;
	loop_del(&p->back_src);
	vu_chan_fini(&p->back);
	p->back_open = false;
}

void vvu_close(struct vvu_proxy *p)
{
	loop_del(&p->chan_src);
	vu_chan_fini(&p->chan);
	close_back(p);
	p->leaving = false;
}

/* Its eventfds. Memory stays: the driver may still be at work in it. */
static void cut(struct vvu_proxy *p)
{
	for (unsigned i = 0; i < VVU_NR_DOORBELLS(p->nr_queues); i++)
		p->owner->ops->bell(p->owner, i, -1);
	for (unsigned i = 0; i < p->nr_queues; i++)
		p->owner->ops->notification(p->owner, i, -1);
	p->pending = (struct vvu_pending){ 0 };
	p->protocol = p->back_protocol = 0;
	p->back_known = false;
	p->asked = 0;
	p->connected = false;
	p->config.status &= ~VVU_STATUS_FRONTEND_UP;
}

void vvu_expel(struct vvu_proxy *p)
{
	if (p->connected) {
		cut(p);
		p->leaving = true;
	}
	p->owed = false;
	vvu_clear_memory(p);
	vvu_wake(p);
}

/*
 * The driver hears of it as it was agreed on, and can be had again by the next one when it is up.
 */
static void gone(struct vvu_proxy *p)
{
	cut(p);
	p->leaving = true;
	if (p->disconnect != VVU_DISCONNECT_ZERO_LEN)
		p->config.status &= ~VVU_STATUS_BACKEND_UP;
	p->owed = p->disconnect != VVU_DISCONNECT_STATUS;
	p->owner->ops->config_changed(p->owner);
}

void vvu_hang_up(struct vvu_proxy *p, const char *fmt, ...)
{
	char why[256];
	va_list args;

	if (!p->connected)
		return;
	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	log_limited(&p->complaints, LOG_WARN, "%s: the sibling is hung up on: %s", p->id, why);
	gone(p);
}

/* By itself, or by a signal: what the socket says of it. */
static void lost(struct vvu_proxy *p, int rc)
{
	if (rc != -ECONNRESET && rc != -EPIPE) {
		vvu_hang_up(p, "socket: %s", strerror(-rc));
	} else if (p->connected) {
		log_info("%s: the sibling has gone", p->id);
		gone(p);
	}
}

/* --- its arrival --- */

static void on_chan(struct loop_source *src, uint32_t events);
static void on_back(struct loop_source *src, uint32_t events);

static bool may_come(const struct vvu_proxy *p)
{
	return !p->stopped && !p->connected && !p->leaving && !p->owed && vvu_served(p) &&
	       p->config.status & VVU_STATUS_BACKEND_UP;
}

static int accept_one(struct vvu_proxy *p)
{
	int fd = acceptor_take(&p->acceptor);
	int rc = fd < 0 ? fd : loop_add(p->loop, &p->chan_src, fd, EPOLLRDHUP, on_chan);

	if (rc) {
		fd_close(&fd);
		return rc;
	}
	vu_chan_init(&p->chan, fd, &framing);
	return 0;
}

/* True: one came. */
static bool welcome(struct vvu_proxy *p)
{
	int rc = may_come(p) ? accept_one(p) : -EAGAIN;

	if (rc == -EAGAIN)
		return false;
	if (rc) {
		log_limited(&p->complaints, LOG_WARN, "%s: a sibling cannot be let in: %s", p->id,
			strerror(-rc));
		return false;
	}
	log_info("%s: a sibling has come", p->id);
	/*
	 * A driver that is up again is done with the one before. One that was told by a buffer
	 * alone may be in the midst of a request, until it has turned to this one.
	 */
	p->stale = true;
	if (p->disconnect != VVU_DISCONNECT_ZERO_LEN)
		vvu_clear_memory(p);
	p->connected = true;
	p->config.status |= VVU_STATUS_FRONTEND_UP;
	p->owner->ops->config_changed(p->owner);
	return true;
}

/* --- messages out --- */

static int send_to(
	struct vu_chan *ch, const struct vhost_user_header *h, const void *payload, int fd)
{
	const struct iovec iov[2] = {
		{ (void *)h, sizeof(*h) },
		{ (void *)payload, h->size },
	};

	return vu_chan_send(ch, iov, 2, &fd, fd >= 0, true);
}

void vvu_reply(struct vvu_proxy *p, uint32_t request, const void *payload, uint32_t size, int fd)
{
	const struct vhost_user_header h = {
		.request = request,
		.flags = VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY,
		.size = size,
	};
	int rc;

	rc = send_to(&p->chan, &h, payload, fd);
	if (rc)
		lost(p, rc);
}

int vvu_ask(struct vvu_proxy *p, const struct vhost_user_header *h, const void *payload)
{
	bool answered = h->flags & VHOST_USER_FLAG_NEED_REPLY &&
			vvu_speaks(p, VHOST_USER_PROTOCOL_F_REPLY_ACK);
	struct vhost_user_header out = *h;

	if (!p->back_open || p->asked > MAX_MESSAGES)
		return -ENOTCONN;
	out.flags = VHOST_USER_FLAG_VERSION | (answered ? VHOST_USER_FLAG_NEED_REPLY : 0);
	/* It listens no more, but may do all else. */
	if (send_to(&p->back, &out, payload, -1)) {
		close_back(p);
		return -ENOTCONN;
	}
	p->asked += answered;
	return 0;
}

/* --- messages in --- */

/* 1: something came; 0: nothing is there; -errno. */
static int read_more(struct vu_chan *ch)
{
	ssize_t n = vu_chan_recv(ch);

	if (n == -EAGAIN)
		return 0;
	return n > 0 ? 1 : n ? (int)n : -ECONNRESET;
}

/*
 * The header can be trusted as far as the message's length. *h is a copy: the buffer has any
 * alignment.
 */
static bool judge(struct vvu_proxy *p, const void *header, bool reply, struct vhost_user_header *h)
{
	memcpy(h, header, sizeof(*h));
	if ((h->flags & VHOST_USER_FLAG_VERSION_MASK) == VHOST_USER_FLAG_VERSION &&
		h->size <= VHOST_USER_MAX_PAYLOAD && !(h->flags & VHOST_USER_FLAG_REPLY) == !reply)
		return true;
	vvu_hang_up(p, "what it sends is no %s: number %u, flags 0x%x, %u bytes",
		reply ? "answer" : "request", h->request, h->flags, h->size);
	return false;
}

/* The sibling reads what it was sent, more or less. */
static bool has_ear(const struct vvu_proxy *p)
{
	return p->chan.out_bytes <= MAX_OUT && p->back.out_bytes <= MAX_OUT;
}

/*
 * What is refused, and an inflight area, is answered here, so there must be an end to that, too: an
 * answer that waits may hold a descriptor.
 */
static bool may_read_front(struct vvu_proxy *p)
{
	return p->connected && !p->pending.rule && !vu_chan_out_pending(&p->chan) &&
	       vvu_rx_ready(p);
}

/* Requests of the front-end. True: something moved. */
static bool front_moves(struct vvu_proxy *p)
{
	const void *header;
	struct vvu_msg m;

	if (!may_read_front(p))
		return false;
	header = vu_chan_header(&p->chan);
	if (header && !judge(p, header, false, &m.h))
		return true;
	if (!header || !vu_chan_whole(&p->chan)) {
		int rc = read_more(&p->chan);

		if (rc < 0)
			lost(p, rc);
		return rc != 0;
	}
	memset(&m.p, 0, sizeof(m.p));
	memcpy(&m.p, (const uint8_t *)header + sizeof(m.h), m.h.size);
	m.fds = vu_chan_fds(&p->chan);
	m.rule = vhost_user_rule(m.h.request);
	/* Also of a sibling that was hung up on: its sockets are open until serve() goes round. */
	if (vvu_front_request(p, &m))
		vu_chan_done(&p->chan);
	return true;
}

/* Its answers to what the driver asked. */
static bool answers_move(struct vvu_proxy *p)
{
	const void *header;
	struct vhost_user_header h;
	int rc;

	if (!p->connected || !p->back_open || !vvu_rx_ready(p))
		return false;
	header = vu_chan_header(&p->back);
	if (header && !judge(p, header, true, &h))
		return true;
	if (header && vu_chan_whole(&p->back)) {
		if (!p->asked) {
			vvu_hang_up(p, "it answers %s, which nobody asked",
				vhost_user_backend_name(h.request));
			return true;
		}
		/* Nothing else is asked for (driver_request()), or has the driver room for. */
		if (h.size != sizeof(uint64_t)) {
			vvu_hang_up(p, "it answers %s with %u bytes, expected a number of %zu",
				vhost_user_backend_name(h.request), h.size, sizeof(uint64_t));
			return true;
		}
		p->asked--;
		vvu_rx_give(p, &h, (const uint8_t *)header + sizeof(h));
		vu_chan_done(&p->back);
		return true;
	}
	rc = read_more(&p->back);
	/* It listens no more; that is all. */
	if (rc < 0)
		close_back(p);
	return rc != 0;
}

static bool driver_moves(struct vvu_proxy *p)
{
	union vhost_user_payload payload;
	struct vhost_user_header h;

	if (!has_ear(p))
		return false;
	switch (vvu_tx_take(p, &h, &payload)) {
	case 0:
		return false;
	case 1:
		vvu_driver_message(p, &h, &payload);
	}
	return true;
}

int vvu_open_back(struct vvu_proxy *p, int fd)
{
	int rc;

	close_back(p);
	p->asked = 0;
	rc = loop_add(p->loop, &p->back_src, fd, EPOLLIN | EPOLLRDHUP, on_back);
	if (rc) {
		fd_close(&fd);
		return rc;
	}
	vu_chan_init(&p->back, fd, &framing);
	p->back_open = true;
	return 0;
}

/* --- all of it --- */

static void pay(struct vvu_proxy *p)
{
	if (p->owed && vvu_served(p) && vvu_rx_ready(p)) {
		p->owed = false;
		vvu_rx_give(p, NULL, NULL);
	}
}

static bool move(struct vvu_proxy *p)
{
	bool moved;

	if (p->leaving)
		vvu_close(p);
	if (!vvu_served(p))
		return false;
	pay(p);
	/* What the driver said to the one before is out of the way when the next one comes. */
	moved = driver_moves(p) || welcome(p);
	moved |= front_moves(p);
	moved |= answers_move(p);
	return moved || p->leaving;
}

static void flush(struct vvu_proxy *p)
{
	int rc = vu_chan_flush(&p->chan);

	if (rc && rc != -EAGAIN)
		lost(p, rc);
	rc = vu_chan_flush(&p->back);
	if (rc && rc != -EAGAIN)
		close_back(p);
}

static void watch(struct loop_source *src, uint32_t events)
{
	if (src->loop && src->events != events)
		loop_mod(src, events);
}

static uint32_t out_of(const struct vu_chan *ch)
{
	return vu_chan_out_pending(ch) ? EPOLLOUT : 0;
}

/* What is read now or later wakes us when it comes; what cannot be read now must not. */
static void watch_all(struct vvu_proxy *p)
{
	bool room = vvu_served(p) && vvu_rx_ready(p);

	if (may_come(p))
		acceptor_go_on(&p->acceptor);
	else
		acceptor_hold(&p->acceptor);
	watch(&p->chan_src,
		EPOLLRDHUP | (vvu_served(p) && may_read_front(p) ? EPOLLIN : 0) | out_of(&p->chan));
	watch(&p->back_src, EPOLLRDHUP | (room ? EPOLLIN : 0) | out_of(&p->back));
}

static void on_listen(struct acceptor *acceptor);
static void on_kick(struct loop_source *src, uint32_t events);

static void add_sources(struct vvu_proxy *p)
{
	if (!p->acceptor.loop)
		acceptor_start(&p->acceptor, p->loop, p->listener, on_listen);
	for (unsigned i = 0; i < VVU_NR_QUEUES; i++) {
		struct vvu_ring *r = &p->rings[i];

		if (!r->src.loop && r->kick_fd >= 0)
			loop_add(p->loop, &r->src, r->kick_fd, EPOLLIN, on_kick);
	}
}

static bool waits_for_buffer(const struct vvu_proxy *p)
{
	return p->owed || (p->connected && !p->pending.rule) || p->asked;
}

static void serve(struct vvu_proxy *p)
{
	unsigned n = 0;

	for (unsigned i = 0; i < VVU_NR_QUEUES; i++)
		vvu_ring_look(p, i);
	add_sources(p);
	flush(p);
	while (n < MAX_MESSAGES && move(p))
		n++;
	if (vvu_rings_notify(p, waits_for_buffer(p), has_ear(p)) || n == MAX_MESSAGES)
		vvu_wake(p);
	watch_all(p);
}

static void locked_serve(struct vvu_proxy *p, bool hung_up)
{
	pthread_mutex_lock(&p->lock);
	if (hung_up)
		lost(p, -ECONNRESET);
	serve(p);
	pthread_mutex_unlock(&p->lock);
}

static void on_work(struct loop_work *work)
{
	locked_serve(container_of(work, struct vvu_proxy, work), false);
}

void vvu_wake(struct vvu_proxy *p)
{
	loop_post(p->loop, &p->work, on_work);
}

static void on_listen(struct acceptor *acceptor)
{
	locked_serve(container_of(acceptor, struct vvu_proxy, acceptor), false);
}

static void on_kick(struct loop_source *src, uint32_t events)
{
	struct vvu_ring *r = container_of(src, struct vvu_ring, src);

	fd_clear(src->fd);
	locked_serve(r->p, false);
}

/* What it said last does not matter any more. */
static void on_chan(struct loop_source *src, uint32_t events)
{
	locked_serve(container_of(src, struct vvu_proxy, chan_src),
		events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
}

static void on_back(struct loop_source *src, uint32_t events)
{
	struct vvu_proxy *p = container_of(src, struct vvu_proxy, back_src);

	pthread_mutex_lock(&p->lock);
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		close_back(p);
	pthread_mutex_unlock(&p->lock);
	locked_serve(p, false);
}
