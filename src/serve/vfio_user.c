/*
 * vfio_user.c - a vfio-user server on an event loop: one socket, one client, messages in order
 *
 * Whatever the socket holds is read at once and worked off message by message;
 * replies gather in the stream's buffer and leave when there is nothing left to do. While a
 * client does not read its replies no further message of it is taken, so what it can make us hold
 * is bounded; after a while it is dropped.
 *
 * After a message the next one is often only microseconds away, and sleeping in between costs both
 * ends a wake-up. So after two messages in quick succession the port looks at the socket for up to
 * SPIN_NS before it lets the loop sleep. What came of it is the only guide, since a client that is
 * slow looks like one that cannot run because we occupy its processor: each time in vain doubles
 * the number of messages until the next try, each message that came in time halves it. An idle port
 * uses no CPU at all.
 *
 * Owns:    the sockets, every descriptor received, the mappings of the client's memory.
 * Threads: the loop's; vu_irq.h says what a model's threads may call.
 * Trusts:  nothing that arrives. A bad message gets an error; one that breaks the frame of the
 *          stream, a flood of descriptors, a VERSION that is none, memory that is truncated, an
 *          eventfd that would block, or silence when an answer is due ends the connection. The
 *          model keeps its state and the port listens on. One thing is out of our hands: closing
 *          a descriptor of a FUSE file waits for the daemon behind it.
 * Spec:    vfio-user 0.9.2, "Socket", "Command Concurrency", "Socket Disconnection Behavior".
 */
#include "serve/vfio_user.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"
#include "serve/vu_port.h"

#define DEFAULT_PATIENCE_MS 5000u
#define MAX_DMA_MAPS	    65535u
/* Messages in a row before the loop sees to its other sources. */
#define MAX_RUN 256u
/* How long to look at a quiet socket, and how long at a busy one without going round the loop. */
#define SPIN_NS	      (50 * NS_PER_US)
#define SPIN_SLICE_NS (500 * NS_PER_US)
#define SPIN_REST_MAX 1023u
/*
 * Quick succession, as a sleeping server sees it: with two wake-ups in between, the client's and
 * its own.
 */
#define SPIN_NEAR_NS (200 * NS_PER_US)
/*
 * The client's socket is watched for what is new, which spares epoll a second look at it each
 * time. So whoever stops reading before the socket is empty sees to it that the rest is read.
 */
#define WATCH_IN (EPOLLIN | EPOLLRDHUP | EPOLLET)

static void client_event(struct loop_source *src, uint32_t events);

static uint64_t patience_ns(const struct vfio_user_port *p)
{
	return p->config.patience_ms * NS_PER_MS;
}

/* The end of a client */

void vu_doom(struct vfio_user_port *p, const char *fmt, ...)
{
	va_list ap;

	if (p->doomed)
		return;
	p->doomed = true;
	va_start(ap, fmt);
	vsnprintf(p->doom.text, sizeof(p->doom.text), fmt, ap);
	va_end(ap);
}

static void drop_client(struct vfio_user_port *p)
{
	if (p->doomed)
		log_limited(&p->complaints, LOG_WARN, "%s vfio-user: client dropped: %s",
			p->model->name, p->doom.text);
	else
		log_info("%s vfio-user: client has left", p->model->name);

	loop_idle_del(p->loop, &p->spin.idle);
	loop_del(&p->main_src);
	loop_timer_del(&p->deadline);
	loop_unpost(p->loop, &p->doom_work);
	loop_unpost(p->loop, &p->run_work);
	vu_migration_reset(p);
	/* Nothing of the model may be under way in memory that goes now. */
	if (p->model->ops->stop)
		p->model->ops->stop(p->model);
	vu_irqs_reset(&p->irqs);
	dma_unmap_all(&p->dma);
	if (p->model->ops->start)
		p->model->ops->start(p->model);

	vu_stream_fini(&p->main);
	vu_stream_fini(&p->twin);
	fd_close(&p->twin_client_fd);
	p->connected = p->negotiated = p->hung_up = p->doomed = false;
	p->doom.text[0] = 0;
	if (p->listener.fd < 0 && p->config.deserted)
		p->config.deserted(p->config.arg);
}

static void late(struct loop_timer *timer)
{
	struct vfio_user_port *p = container_of(timer, struct vfio_user_port, deadline);

	vu_doom(p, p->negotiated ? "does not read its replies" : "sent no VERSION in time");
	drop_client(p);
}

/* On any thread, and with the lock of the interrupts held: only leave word. */
static void on_doom_work(struct loop_work *work)
{
	struct vfio_user_port *p = container_of(work, struct vfio_user_port, doom_work);

	if (!p->connected)
		return;
	vu_doom(p, "an interrupt's eventfd is full and would block");
	drop_client(p);
}

static void irq_foul(void *arg)
{
	struct vfio_user_port *p = arg;

	loop_post(p->loop, &p->doom_work, on_doom_work);
}

static void memory_lost(struct loop_source *src, uint32_t events)
{
	struct vfio_user_port *p = container_of(src, struct vfio_user_port, fault_src);

	fd_clear(dma_fault_fd(&p->dma));
	if (!p->connected)
		return;
	vu_doom(p, "its memory was truncated under us");
	drop_client(p);
}

/* There is a client, and it reads its replies. */
static bool reading(const struct vfio_user_port *p)
{
	return p->connected && p->main_src.events == WATCH_IN;
}

/* Replies */

/*
 * 0: all sent. -EAGAIN: the client has to read first, and has been given a deadline. -EPIPE:
 * doomed.
 */
static int flush(struct vfio_user_port *p)
{
	size_t before = p->main.tx_end - p->main.tx_start;
	int rc = vu_stream_flush(&p->main);

	if (!rc) {
		if (p->twin_client_fd >= 0)
			fd_close(&p->twin_client_fd);
		return 0;
	}
	if (rc != -EAGAIN) {
		vu_doom(p, "cannot send: %s", strerror(-rc));
		return -EPIPE;
	}
	if (!p->deadline.loop || before != p->main.tx_end - p->main.tx_start)
		loop_timer_set(p->loop, &p->deadline, clock_now_ns() + patience_ns(p), late);
	loop_mod(&p->main_src, EPOLLOUT);
	return rc;
}

/* One message, from its checks to its reply in the send buffer `at`. */
static void handle(struct vfio_user_port *p, struct vu_msg *msg, uint8_t *at, struct err *err)
{
	struct vfio_user_header h = {
		.id = msg->h.id,
		.command = msg->h.command,
		.size = sizeof(h),
		.flags = VFIO_USER_TYPE_REPLY,
	};
	ssize_t rc = -EINVAL;

	p->nr_reply_fds = 0;
	if (!msg->refused)
		rc = vu_command(p, msg, at + sizeof(h), err);
	if (rc < 0) {
		h.flags |= VFIO_USER_FLAG_ERROR;
		h.error = (uint32_t)-rc;
		p->nr_reply_fds = 0;
	} else {
		h.size += (uint32_t)rc;
	}
	/* Some of several writes may have failed in a message that did not. */
	if (rc < 0 || err->text[0])
		log_limited(&p->complaints, LOG_WARN, "%s vfio-user: %s refused: %s",
			p->model->name, vfio_user_command_name(msg->h.command),
			err->text[0] ? err->text : strerror((int)-rc));
	err->text[0] = 0;
	if (msg->h.flags & VFIO_USER_FLAG_NO_REPLY)
		return;
	memcpy(at, &h, sizeof(h));
	if (p->nr_reply_fds)
		vu_stream_attach_fds(&p->main, p->reply_fds, p->nr_reply_fds);
	vu_stream_commit(&p->main, h.size);
}

/* The place for the reply to msg. NULL: what is in the buffer has to go first. */
static uint8_t *reply_room(struct vfio_user_port *p, const struct vu_msg *msg)
{
	const struct vfio_user_msg_rule *rule = vfio_user_rule(msg->h.command);
	size_t max = sizeof(msg->h);

	if (msg->refused || !rule)
		return vu_stream_reserve(&p->main, max);
	/* Descriptors go with the first byte of a send. */
	if (rule->reply_fds && vu_stream_pending(&p->main))
		return NULL;
	return vu_stream_reserve(&p->main, max + rule->reply_max);
}

/*
 * Work off the messages that are complete. 0: done; -EAGAIN: the client must read; -EPIPE: doomed.
 */
static int work_off(struct vfio_user_port *p, unsigned *handled)
{
	struct vu_msg msg;
	struct err err;
	uint8_t *at;
	int rc;

	err_clear(&err);
	while (!p->doomed) {
		rc = vu_stream_next(&p->main, &msg, &err);
		if (rc == -EAGAIN)
			return 0;
		if (rc) {
			vu_doom(p, "%s", err.text);
			break;
		}
		if ((msg.h.flags & VFIO_USER_FLAG_TYPE) == VFIO_USER_TYPE_REPLY) {
			vu_doom(p, "a reply to nothing");
			break;
		}
		at = reply_room(p, &msg);
		if (!at) {
			rc = flush(p);
			if (rc)
				return rc;
			continue;
		}
		p->current = &msg;
		handle(p, &msg, at, &err);
		p->current = NULL;
		vu_stream_done(&p->main, &msg);
		++*handled;
	}
	/* What was answered before is the client's; it may hold the reason. */
	vu_stream_flush(&p->main);
	return -EPIPE;
}

/*
 * Read and work until the socket is empty, the client has to read, or enough was done in
 * one go. Returns how many messages that were; the client may be gone afterwards.
 */
static unsigned run_client(struct vfio_user_port *p)
{
	unsigned handled = 0;
	bool more = true;
	ssize_t n;

	for (;;) {
		int rc = p->main.rx_start != p->main.rx_end ? work_off(p, &handled) : 0;

		if (!rc && vu_stream_pending(&p->main))
			rc = flush(p);
		if (rc == -EAGAIN)
			return handled;
		/* Only here the buffer holds no whole message; what comes now wakes the loop. */
		if (rc || (handled && !more && !p->hung_up))
			break;
		if (handled >= MAX_RUN) {
			vu_run_soon(p);
			break;
		}
		n = vu_stream_fill(&p->main);
		more = p->main.more;
		if (n == -EAGAIN)
			break;
		if (n == 0) {
			if (p->main.rx_start != p->main.rx_end)
				vu_doom(p, "left in the middle of a message");
			drop_client(p);
			return handled;
		}
		if (n == -ECONNRESET) {
			drop_client(p);
			return handled;
		}
		if (n < 0) {
			if (n == -EMFILE)
				vu_doom(p, "a flood of descriptors");
			else
				vu_doom(p, "cannot receive: %s", strerror((int)-n));
			break;
		}
	}
	if (p->doomed)
		drop_client(p);
	return handled;
}

/* Spinning */

static void spin_learn(struct vu_spin *s, bool hit)
{
	s->rest = hit ? s->rest / 2 : MIN(2 * s->rest + 1, SPIN_REST_MAX);
	s->resting = s->rest;
}

static bool spin(struct loop_idle *idle)
{
	struct vfio_user_port *p = container_of(idle, struct vfio_user_port, spin.idle);
	uint64_t now = clock_now_ns(), slice_end = now + SPIN_SLICE_NS, quiet_since = now;

	do {
		if (run_client(p)) {
			if (!reading(p))
				return false;
			spin_learn(&p->spin, true);
			quiet_since = p->spin.last_ns = clock_now_ns();
		} else if (!p->connected) {
			return false;
		}
		__builtin_ia32_pause();
		now = clock_now_ns();
		if (now - quiet_since >= SPIN_NS) {
			spin_learn(&p->spin, false);
			return false;
		}
	} while (now < slice_end);
	return true;
}

static void consider_spinning(struct vfio_user_port *p, uint64_t arrived_ns)
{
	struct vu_spin *s = &p->spin;
	bool near = arrived_ns - s->last_ns < SPIN_NEAR_NS;

	s->last_ns = clock_now_ns();
	if (!s->possible || !near)
		return;
	if (s->resting)
		s->resting--;
	else
		loop_idle_set(p->loop, &s->idle, spin);
}

/* Clients */

static void client_event(struct loop_source *src, uint32_t events)
{
	struct vfio_user_port *p = container_of(src, struct vfio_user_port, main_src);
	uint64_t now = clock_now_ns();

	/* Said once, maybe together with the last bytes. */
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		p->hung_up = true;
	if (src->events == EPOLLOUT) {
		if (flush(p) == -EAGAIN && !(events & (EPOLLHUP | EPOLLERR)))
			return;
		if (!p->doomed && vu_stream_pending(&p->main))
			vu_doom(p, "has left without reading its replies");
		if (p->doomed) {
			drop_client(p);
			return;
		}
		loop_timer_del(&p->deadline);
		loop_mod(src, WATCH_IN);
	}
	if (run_client(p) && p->connected)
		consider_spinning(p, now);
}

/* A model that did DMA outside of a message may have left messages in our buffer. */
static void on_run_work(struct loop_work *work)
{
	struct vfio_user_port *p = container_of(work, struct vfio_user_port, run_work);

	if (reading(p))
		run_client(p);
}

void vu_run_soon(struct vfio_user_port *p)
{
	loop_post(p->loop, &p->run_work, on_run_work);
}

static int adopt_client(struct listener *l, int fd, struct err *err)
{
	struct vfio_user_port *p = container_of(l, struct vfio_user_port, listener);
	int rc = vu_stream_init(&p->main, fd, VFIO_USER_SERVER);

	if (rc)
		return err_set(err, rc, "out of memory");
	rc = loop_add(p->loop, &p->main_src, fd, WATCH_IN, client_event);
	if (rc) {
		vu_stream_fini(&p->main);
		return err_set(err, rc, "cannot watch the socket: %s", strerror(-rc));
	}
	p->connected = true;
	p->spin.rest = p->spin.resting = 0;
	loop_timer_set(p->loop, &p->deadline, clock_now_ns() + patience_ns(p), late);
	log_info("%s vfio-user: client has connected", p->model->name);
	return 0;
}

/*
 * Is there still a client? One that hung up just before another connected may be noticed here
 * first: what it left is finite, so finish it.
 */
static enum listener_state state(struct listener *l)
{
	struct vfio_user_port *p = container_of(l, struct vfio_user_port, listener);

	while (p->connected && sock_hung_up(p->main.fd)) {
		if (p->main_src.events == EPOLLOUT) {
			vu_doom(p, "has left without reading its replies");
			drop_client(p);
		} else if (!run_client(p) && reading(p)) {
			drop_client(p);
		}
	}
	return p->connected ? LISTENER_BUSY : LISTENER_FREE;
}

static const struct listener_ops listener_ops = { .state = state, .adopt = adopt_client };

/* The port's interface to the model */

static void port_set_intx(struct pci_port *port, bool level)
{
	struct vfio_user_port *p = container_of(port, struct vfio_user_port, pci_port);

	vu_irqs_set_intx(&p->irqs, level);
}

static void port_trigger(struct pci_port *port, enum pci_irq type, unsigned vector)
{
	struct vfio_user_port *p = container_of(port, struct vfio_user_port, pci_port);

	vu_irqs_trigger(&p->irqs, type, vector);
}

static const struct pci_port_ops port_ops = { .set_intx = port_set_intx, .trigger = port_trigger };

int vfio_user_port_new(struct vfio_user_port **out, struct loop *loop, struct pci_model *model,
	int fd_in, const struct vfio_user_port_config *config, struct err *err)
{
	FD_AUTO fd = fd_in;
	struct vfio_user_port *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return err_set(err, -ENOMEM, "out of memory");
	p->loop = loop;
	p->model = model;
	p->config = *config;
	if (!p->config.patience_ms)
		p->config.patience_ms = DEFAULT_PATIENCE_MS;
	p->spin.possible = !p->config.no_spin && loop_may_spin(loop);
	p->twin_client_fd = -1;
	p->listener = (struct listener){
		.ops = &listener_ops,
		.loop = loop,
		.device = model->name,
		.protocol = "vfio-user",
		.peer = "client",
		.fd = -1,
	};
	p->pci_port.ops = &port_ops;
	p->mig.state = VU_MIG_RUNNING;

	rc = vu_irqs_init(&p->irqs, loop, model, irq_foul, p, err);
	if (rc)
		goto fail;
	rc = dma_init(&p->dma, MAX_DMA_MAPS, vu_ask, p);
	if (!rc)
		rc = loop_add(loop, &p->fault_src, dma_fault_fd(&p->dma), EPOLLIN, memory_lost);
	if (rc) {
		err_set(err, rc, "guest memory table: %s", strerror(-rc));
		goto fail;
	}
	rc = listener_start(&p->listener, fd_take(&fd), err);
	if (rc)
		goto fail;
	pci_model_attach(model, &p->pci_port, &p->dma.mem);
	*out = p;
	return 0;
fail:
	vfio_user_port_free(p);
	return rc;
}

void vfio_user_port_free(struct vfio_user_port *p)
{
	if (!p)
		return;
	p->config.deserted = NULL;
	if (p->connected)
		drop_client(p);
	pci_model_detach(p->model);
	listener_fini(&p->listener);
	loop_del(&p->fault_src);
	dma_fini(&p->dma);
	vu_irqs_fini(&p->irqs);
	/* A foul eventfd may have been reported between the client's end and here. */
	loop_unpost(p->loop, &p->doom_work);
	free(p);
}
