/*
 * net_pair.c - packets between a pair of queues and a queue of the tap
 *
 * Each packet is one writev() or readv() between the guest's memory and the tap, virtio header
 * included. The callbacks of the thread only note that something is ready; the poller
 * does the work, a bounded number of packets at a time, and signals the driver once for all of
 * them.
 *
 * Receiving, mergeable: how long the next packet is shows when it is there. So buffers are taken
 * for as long a packet as came lately, with `spill` behind them. What went into spill makes the
 * packet `held`: it is put together there, until the driver has given buffers enough. A driver
 * whose ring cannot hold it at all loses it. Buffers that are taken stay taken while nothing comes;
 * they go back into the ring when memory is changed, or at a stop.
 *
 * A limit lets a packet pass or says how long it is to wait. One that came from the tap is held
 * meanwhile.
 *
 * A tap that takes nothing is waited for. After EAGAIN it must be polled once: without, it does
 * not tell when there is room. Without buffers from the guest the tap is not read: its queue
 * fills, and the host's side drops, as a NIC without descriptors does.
 *
 * Owns:    the thread.
 * Trusts:  nothing in the rings. Buffers with parts to read, or without room for a header, are
 * given back unused; what a tap refuses (a header that makes no sense, a frame that is too long) is
 * dropped. Spec:    virtio 1.3, 5.1.6.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "device/net_priv.h"

#define BUDGET	      64
#define EXPECT_MIN    2048
#define SHORTER_MAX   32
#define LOOK_EVERY_NS NS_PER_MS

/* The tap */

static void tap_ready(struct iothread_watch *w, uint32_t events)
{
	struct net_pair *p = container_of(w, struct net_pair, tap);

	p->readable |= (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0;
	p->writable |= (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0;
}

static void kicked(struct iothread_watch *w, uint32_t events)
{
	/* The poller looks. */
}

static void lost(struct net_pair *p, int rc)
{
	if (p->attached && !p->gone) {
		p->gone = true;
		log_warn("%s: the tap is gone: %s", p->net->model.name, strerror(-rc));
		net_tap_gone(p->net);
	}
}

/* The limit */

static void rx_may_go_on(struct iothread_timer *timer)
{
	container_of(timer, struct net_pair, timers[NET_RX])->waiting[NET_RX] = false;
}

static void tx_may_go_on(struct iothread_timer *timer)
{
	container_of(timer, struct net_pair, timers[NET_TX])->waiting[NET_TX] = false;
}

/* False: this packet waits, and the queue with it. A packet is counted once, however often it is
 * asked for. */
static bool may_pass(struct net_pair *p, enum net_dir dir, uint64_t len)
{
	struct rate_limit *limit = &p->net->limits[dir];
	uint64_t now, wait;

	if (!limit->any || p->counted[dir])
		return true;
	now = clock_now_ns();
	wait = rate_limit_take(limit, len - TAP_HEADER_SIZE, now);
	p->counted[dir] = !wait;
	if (!wait)
		return true;
	p->waiting[dir] = true;
	p->timers[dir].fn = dir == NET_RX ? rx_may_go_on : tx_may_go_on;
	iothread_timer_set(p->thread, &p->timers[dir], now + wait);
	return false;
}

/* The packet has passed, or is no more. */
static void passed(struct net_pair *p, enum net_dir dir)
{
	p->counted[dir] = false;
}

/* vq_pop() that says once why a ring gives nothing more. */
static bool pop(struct net_pair *p, enum net_dir dir, struct vq_req *req, int *bad)
{
	struct vq *vq = p->vqs[dir];
	int rc = vq_pop(vq, req, bad);

	if (rc < 0 && !p->told_broken[dir]) {
		p->told_broken[dir] = true;
		log_warn("%s: queue %u: %s: it is not served any more", p->net->model.name,
			vq_index(vq), vq_broken(vq));
	}
	return rc > 0;
}

/* Receiving: buffers */

/* Give back the last ones taken, down to nr. */
static void untake(struct net_pair *p, unsigned nr)
{
	while (p->nr_reqs > nr) {
		struct vq_req *req = &p->reqs[--p->nr_reqs];

		p->room -= req->in_len;
		p->nr_pieces -= req->nr_in;
		vq_unpop(p->vqs[NET_RX], req);
	}
}

/*
 * Take one more. False: there is none, or no place for it. A buffer that breaks the driver's rules
 * (virtio 1.3, 5.1.6.3.1) ends the queue: it could not be given back alone, while those taken
 * before it may have to go back into the ring.
 */
static bool take(struct net_pair *p)
{
	struct vq *vq = p->vqs[NET_RX];
	struct vq_req *req = &p->reqs[p->nr_reqs];
	int bad = 0;

	if (p->nr_reqs == NET_MAX_BUFFERS)
		return false;
	*req = (struct vq_req){
		.iov = p->pieces + p->nr_pieces,
		.iova = p->iova + p->nr_pieces,
		.max_iov = (uint16_t)(NET_MAX_PIECES - p->nr_pieces),
	};
	if (!pop(p, NET_RX, req, &bad))
		return false;
	if (!bad && !req->nr_out && req->in_len >= TAP_HEADER_SIZE) {
		p->room += req->in_len;
		p->nr_pieces += req->nr_in;
		p->nr_reqs++;
		return true;
	}
	vq_unpop(vq, req);
	/* Too many pieces behind others: it is for the next packet. */
	if (bad != -E2BIG || !p->nr_pieces)
		vq_break(vq, "a receive buffer is not in memory, not writable or too small");
	return false;
}

static void take_for(struct net_pair *p, uint64_t len)
{
	while (p->room < len && take(p))
		;
}

/* The driver has no further buffers, or we no place for them. */
static bool can_take_no_more(const struct net_pair *p)
{
	return p->nr_reqs == NET_MAX_BUFFERS || p->nr_reqs == vq_size(p->vqs[NET_RX]) ||
	       p->nr_pieces == NET_MAX_PIECES;
}

/* Receiving: packets */

static void learn_length(struct net_pair *p, uint32_t len)
{
	if (len > p->expect) {
		p->expect = len;
		p->shorter = 0;
	} else if (len > p->expect / 2 || p->expect == EXPECT_MIN) {
		p->shorter = 0;
	} else if (++p->shorter == SHORTER_MAX) {
		p->expect = MAX(p->expect / 2, (uint32_t)EXPECT_MIN);
		p->shorter = 0;
	}
}

/* The first len bytes of the buffers taken are a packet. */
static void deliver(struct net_pair *p, uint32_t len)
{
	struct virtio_net_hdr_mrg_rxbuf head = { 0 };
	unsigned nr = 0;
	uint64_t left = len;

	while (left) {
		left -= MIN(left, p->reqs[nr].in_len);
		nr++;
	}
	untake(p, nr);
	/* virtio 1.3, 5.1.6.4.1: without the feature nothing may be said about checksums. */
	if (!p->guest_csum)
		vq_req_write(&p->reqs[0], offsetof(struct virtio_net_hdr, flags), &head.hdr.flags,
			sizeof(head.hdr.flags));
	head.num_buffers = (uint16_t)nr;
	vq_req_write(&p->reqs[0], offsetof(struct virtio_net_hdr_mrg_rxbuf, num_buffers),
		&head.num_buffers, sizeof(head.num_buffers));
	left = len;
	for (unsigned i = 0; i < nr; i++) {
		uint32_t written = (uint32_t)MIN(left, p->reqs[i].in_len);

		vq_push(p->vqs[NET_RX], &p->reqs[i], written);
		left -= written;
	}
	p->nr_reqs = p->nr_pieces = 0;
	p->room = 0;
	passed(p, NET_RX);
	learn_length(p, len);
}

static void copy_out(const struct net_pair *p, uint32_t len)
{
	uint32_t done = 0;

	for (unsigned i = 0; done < len; i++) {
		uint32_t n = (uint32_t)MIN(p->pieces[i].iov_len, len - done);

		memcpy(p->spill + done, p->pieces[i].iov_base, n);
		done += n;
	}
}

static void copy_in(const struct net_pair *p, uint32_t len)
{
	uint32_t done = 0;

	for (unsigned i = 0; done < len; i++) {
		uint32_t n = (uint32_t)MIN(p->pieces[i].iov_len, len - done);

		memcpy(p->pieces[i].iov_base, p->spill + done, n);
		done += n;
	}
}

static void drop(struct net_pair *p, const char *why, uint32_t len)
{
	log_limited(&p->limit, LOG_INFO, "%s: a packet of %u bytes for the guest is dropped: %s",
		p->net->model.name, len - TAP_HEADER_SIZE, why);
}

/* It waits: put it together in spill, where its end is if it was longer than the buffers taken. */
static void hold(struct net_pair *p, uint32_t len)
{
	uint32_t room = (uint32_t)MIN(p->room, len);

	memmove(p->spill + room, p->spill, len - room);
	copy_out(p, room);
	p->held = len;
}

/* False: it still waits. */
static bool deliver_held(struct net_pair *p)
{
	uint32_t len = p->held;

	if (p->room < len && !can_take_no_more(p))
		return false;
	p->held = 0;
	if (p->room < len) {
		drop(p, "the driver's ring cannot hold it", len);
		untake(p, 0);
		passed(p, NET_RX);
		return true;
	}
	copy_in(p, len);
	deliver(p, len);
	return true;
}

/* One packet into the buffers taken, and spill: its length. 0: none, or it was of no use. */
static uint32_t receive(struct net_pair *p)
{
	ssize_t n;

	p->pieces[p->nr_pieces] = (struct iovec){ p->spill, NET_MAX_PACKET };
	do
		n = readv(p->fd, p->pieces, (int)p->nr_pieces + 1);
	while (n < 0 && errno == EINTR);
	if (n >= TAP_HEADER_SIZE)
		return (uint32_t)n;
	if (n > 0)
		return 0;
	if (n < 0 && errno == EFAULT) {
		/* These buffers are in memory that is gone; the packet has gone with them. */
		for (unsigned i = 0; i < p->nr_reqs; i++)
			vq_push(p->vqs[NET_RX], &p->reqs[i], 0);
		p->nr_reqs = p->nr_pieces = 0;
		p->room = 0;
		return 0;
	}
	p->readable = false;
	if (n == 0 || errno != EAGAIN)
		lost(p, n == 0 ? -EPIPE : -errno);
	return 0;
}

/* What has been received: into the driver's hands, or kept. */
static void dispose(struct net_pair *p, uint32_t len)
{
	if (len > NET_MAX_PACKET)
		drop(p, "it is too long", len);
	else if (len > p->room && !p->mergeable)
		drop(p, "it does not fit its buffer", len);
	else if (!may_pass(p, NET_RX, len) || len > p->room)
		hold(p, len);
	else
		deliver(p, len);
}

static bool may_receive(const struct net_pair *p)
{
	return p->vqs[NET_RX] && (p->readable || p->held) && !p->waiting[NET_RX];
}

static bool receive_packets(struct net_pair *p)
{
	bool any = false;

	for (unsigned i = 0; i < BUDGET && may_receive(p); i++) {
		uint32_t len;

		take_for(p, p->held ? p->held : p->mergeable ? p->expect : 1);
		if (!p->nr_reqs)
			break;
		if (p->held) {
			if (!may_pass(p, NET_RX, p->held) || !deliver_held(p))
				break;
			any = true;
			continue;
		}
		len = receive(p);
		any |= p->readable;
		if (len)
			dispose(p, len);
	}
	return any;
}

/* Sending */

enum sent { SENT, WAITS };

static enum sent send_packet(struct net_pair *p, const struct vq_req *req)
{
	struct pollfd pfd = { .fd = p->fd, .events = POLLOUT };
	ssize_t n;

	if (req->out_len < TAP_HEADER_SIZE || req->out_len > NET_MAX_PACKET)
		return SENT; /* dropped */
	if (!may_pass(p, NET_TX, req->out_len))
		return WAITS;
	for (;;) {
		n = writev(p->fd, req->iov, req->nr_out);
		if (n >= 0)
			return SENT;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			break;
		if (poll(&pfd, 1, 0) != 1 || !(pfd.revents & POLLOUT)) {
			p->writable = false;
			return WAITS;
		}
	}
	/* EIO: the tap is down. Everything else that is not about the device is about this packet.
	 */
	if (errno == EBADFD || errno == EPIPE || errno == ECONNRESET || errno == ENODEV)
		lost(p, -errno);
	return SENT;
}

static bool send_packets(struct net_pair *p)
{
	struct vq *vq = p->vqs[NET_TX];
	struct iovec iov[NET_MAX_PIECES];
	uint64_t iova[NET_MAX_PIECES];
	unsigned i;

	for (i = 0; i < BUDGET && vq && p->writable && !p->waiting[NET_TX]; i++) {
		struct vq_req req = { .iov = iov, .iova = iova, .max_iov = NET_MAX_PIECES };
		int bad = 0;

		if (!pop(p, NET_TX, &req, &bad))
			break;
		if (!bad && send_packet(p, &req) == WAITS) {
			vq_unpop(vq, &req);
			break;
		}
		passed(p, NET_TX);
		vq_push(vq, &req, 0);
	}
	return i > 0;
}

/* The thread */

static void tell_driver(struct net_pair *p)
{
	for (int dir = NET_RX; dir <= NET_TX; dir++)
		if (p->vqs[dir])
			vq_notify(p->vqs[dir]);
}

static unsigned work(struct iothread_poller *poller)
{
	struct net_pair *p = container_of(poller, struct net_pair, poller);
	bool any = send_packets(p);

	any |= receive_packets(p);
	if (any)
		tell_driver(p);
	return any;
}

/* Kicks are of use only where the ring is what we wait for. */
static bool want_kicks(struct iothread_poller *poller, bool asleep)
{
	struct net_pair *p = container_of(poller, struct net_pair, poller);
	bool any = false;

	if (p->vqs[NET_TX])
		any |= vq_want_kicks(p->vqs[NET_TX], asleep && p->writable && !p->waiting[NET_TX]);
	if (p->vqs[NET_RX])
		any |= vq_want_kicks(p->vqs[NET_RX], asleep && may_receive(p));
	return any;
}

static void look_at_rings(struct iothread_timer *timer)
{
	struct net_pair *p = container_of(timer, struct net_pair, look);

	iothread_timer_set(p->thread, timer, clock_now_ns() + LOOK_EVERY_NS);
}

/* Starting and stopping, on the thread */

struct start {
	struct net_pair *p;
	enum net_dir dir;
	struct vq *vq;
	int rc;
};

static bool served(const struct net_pair *p)
{
	return p->vqs[NET_RX] || p->vqs[NET_TX];
}

static int watch_kicks(struct net_pair *p, enum net_dir dir, struct vq *vq)
{
	int fd = vq_kick_fd(vq);

	if (fd >= 0)
		return iothread_watch(p->thread, &p->kicks[dir], fd, EPOLLIN, kicked);
	p->look.fn = look_at_rings;
	look_at_rings(&p->look);
	return 0;
}

static void start(void *arg)
{
	struct start *s = arg;
	struct net_pair *p = s->p;
	bool first = !served(p);

	s->rc = watch_kicks(p, s->dir, s->vq);
	if (!s->rc && first) {
		p->readable = p->writable = true;
		s->rc = iothread_watch(p->thread, &p->tap, p->fd, EPOLLIN | EPOLLOUT, tap_ready);
		if (s->rc && p->kicks[s->dir].t)
			iothread_unwatch(&p->kicks[s->dir], NULL);
		else if (!s->rc)
			iothread_poller_add(p->thread, &p->poller);
	}
	if (!s->rc)
		p->vqs[s->dir] = s->vq;
	p->told_broken[s->dir] = false;
}

static void tell_stopped(struct loop_work *done)
{
	struct net_stop *stop = container_of(done, struct net_stop, done);
	virtio_stopped_fn fn = stop->fn;

	stop->fn = NULL;
	fn(stop->arg, stop->queue);
}

static void one_less(struct net_pair *p, struct net_stop *stop)
{
	if (!--stop->watches)
		loop_post(p->net->model.loop, &stop->done, tell_stopped);
}

static void rx_kick_gone(struct iothread_watch *w)
{
	struct net_pair *p = container_of(w, struct net_pair, kicks[NET_RX]);

	one_less(p, &p->stops[NET_RX]);
}

static void tx_kick_gone(struct iothread_watch *w)
{
	struct net_pair *p = container_of(w, struct net_pair, kicks[NET_TX]);

	one_less(p, &p->stops[NET_TX]);
}

/* The tap goes with the queue that is stopped last. */
static void tap_gone_with_rx(struct iothread_watch *w)
{
	struct net_pair *p = container_of(w, struct net_pair, tap);

	one_less(p, &p->stops[NET_RX]);
}

static void tap_gone_with_tx(struct iothread_watch *w)
{
	struct net_pair *p = container_of(w, struct net_pair, tap);

	one_less(p, &p->stops[NET_TX]);
}

static void stop(struct net_pair *p, enum net_dir dir)
{
	struct net_stop *s = &p->stops[dir];

	s->watches = 1; /* until all are on their way */
	if (dir == NET_RX) {
		untake(p, 0);
		p->held = 0;
	}
	iothread_timer_del(&p->timers[dir]);
	p->waiting[dir] = p->counted[dir] = false;
	vq_notify(p->vqs[dir]);
	p->vqs[dir] = NULL;
	if (p->kicks[dir].t) {
		s->watches++;
		iothread_unwatch(&p->kicks[dir], dir == NET_RX ? rx_kick_gone : tx_kick_gone);
	}
	if (!served(p)) {
		iothread_poller_del(p->thread, &p->poller);
		iothread_timer_del(&p->look);
		s->watches++;
		iothread_unwatch(&p->tap, dir == NET_RX ? tap_gone_with_rx : tap_gone_with_tx);
	}
	one_less(p, s);
}

static void stop_rx(void *arg)
{
	stop(arg, NET_RX);
}

static void stop_tx(void *arg)
{
	stop(arg, NET_TX);
}

/* From the loop */

bool net_pair_serves(const struct net_pair *p, enum net_dir dir)
{
	return p->serving[dir];
}

int net_pair_start(struct net_pair *p, enum net_dir dir, struct vq *vq)
{
	struct start s = { .p = p, .dir = dir, .vq = vq };
	int rc = iothread_start(p->thread);

	if (rc)
		return rc;
	iothread_call(p->thread, start, &s);
	p->serving[dir] = s.rc == 0;
	return s.rc;
}

void net_pair_stop(
	struct net_pair *p, enum net_dir dir, unsigned queue, virtio_stopped_fn fn, void *arg)
{
	p->stops[dir].fn = fn;
	p->stops[dir].arg = arg;
	p->stops[dir].queue = queue;
	p->serving[dir] = false;
	iothread_call(p->thread, dir == NET_RX ? stop_rx : stop_tx, p);
}

struct attach {
	struct net_pair *p;
	bool attach;
	int rc;
};

static void attach(void *arg)
{
	struct attach *a = arg;

	a->rc = tap_attach(&a->p->net->tap, a->p->index, a->attach);
	if (a->rc)
		return;
	/* Edges of a queue that was detached have not been seen; what it is to send is lost at
	 * once. */
	a->p->attached = a->p->readable = a->attach;
	a->p->writable = true;
}

void net_pair_attach(struct net_pair *p, bool on)
{
	struct attach a = { .p = p, .attach = on };

	if (p->attached == on)
		return;
	if (p->serving[NET_RX] || p->serving[NET_TX])
		iothread_call(p->thread, attach, &a);
	else
		attach(&a);
	if (a.rc)
		log_warn("%s: queue %u of the tap cannot be switched %s: %s", p->net->model.name,
			p->index, on ? "on" : "off", strerror(-a.rc));
}

void net_pair_pause(struct net_pair *p)
{
	iothread_pause(p->thread);
	/* Nothing of ours holds the old memory: what was taken is taken anew. */
	if (p->vqs[NET_RX])
		untake(p, 0);
}

void net_pair_resume(struct net_pair *p)
{
	iothread_resume(p->thread);
}

int net_pair_init(struct net_pair *p, struct net *n, unsigned index, struct err *err)
{
	char name[16];
	const struct iothread_config config = {
		.name = name,
		.poll_us = IOTHREAD_POLL_US,
		.may_look = loop_may_spin(n->model.loop),
	};

	snprintf(name, sizeof(name), "_%.8s_qp%u", n->model.name, index);
	p->net = n;
	p->index = index;
	p->fd = n->tap.fds[index];
	p->attached = true;
	p->expect = EXPECT_MIN;
	p->poller.poll = work;
	p->poller.sleep = want_kicks;
	p->spill = malloc(NET_MAX_PACKET);
	if (!p->spill)
		return err_set(err, -ENOMEM, "out of memory");
	return iothread_new(&p->thread, &config, err);
}

void net_pair_fini(struct net_pair *p)
{
	iothread_free(p->thread);
	if (p->net)
		for (int dir = NET_RX; dir <= NET_TX; dir++)
			loop_unpost(p->net->model.loop, &p->stops[dir].done);
	free(p->spill);
}
