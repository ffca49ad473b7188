/*
 * vhost_user.c - a vhost-user back-end on an event loop: one socket, one front-end, messages in
 * order
 *
 * Each message is read, checked, carried out and answered before the next one is looked at. A
 * request that needs a queue to rest waits until the model has stopped it; the front-end's socket
 * is not read meanwhile, other queues go on. While a front-end does not read its replies, no
 * further message of it is taken, and after a while it is dropped.
 *
 * A request that fails is answered where the protocol has words for it (its own reply, or the
 * number of REPLY_ACK). Where it has none the front-end would go on in the belief that all is well,
 * so it is dropped: it comes back with a handshake, or its user is told.
 *
 * When the front-end goes, whatever the way, its queues are stopped first; its memory and
 * descriptors go when the model has let go of them. The model is reset then, and the next one is
 * let in.
 *
 * Owns:    the sockets, every descriptor received, the mappings of the front-end's memory.
 * Threads: the loop's. The model's threads see queues, memory and descriptors of a running queue,
 *          which change only under a pause.
 * Trusts:  nothing that arrives. One thing is out of our hands: closing a descriptor of a FUSE
 *          file waits for the daemon behind it.
 * Spec:    vhost-user, "Communication", "Ring states", "REPLY_ACK".
 */
#include "serve/vhost_user.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/fd_kind.h"
#include "base/util.h"
#include "serve/vhost_user_port.h"

#define DEFAULT_PATIENCE_MS 5000u
/* Messages in a row before the loop sees to its other sources. */
#define MAX_RUN 64u

const struct sandbox_call vhost_user_port_calls[VHOST_USER_PORT_NR_CALLS] = {
	{ SYS_getsockopt, "is it a socket that a front-end sent for our messages" },
	{ SYS_memfd_create, "the area of requests under way" },
	{ SYS_ftruncate, "its size" },
	{ SYS_vmsplice, "the model's state through a pipe" },
};

static void client_event(struct loop_source *src, uint32_t events);

/* Nobody of the model is inside a queue meanwhile */

void vhu_pause(struct vhost_user_port *p)
{
	if (p->model->ops->pause && !vhu_queues_rest(p))
		p->model->ops->pause(p->model);
}

void vhu_resume(struct vhost_user_port *p)
{
	if (p->model->ops->resume && !vhu_queues_rest(p))
		p->model->ops->resume(p->model);
}

/* The end of a front-end */

void vhu_doom(struct vhost_user_port *p, const char *fmt, ...)
{
	va_list ap;

	if (p->doomed)
		return;
	p->doomed = true;
	va_start(ap, fmt);
	vsnprintf(p->doom.text, sizeof(p->doom.text), fmt, ap);
	va_end(ap);
}

static void free_port(struct vhost_user_port *p)
{
	void (*freed)(void *arg) = p->freed;
	void *arg = p->freed_arg;

	listener_fini(&p->listener);
	loop_del(&p->fault_src);
	fd_close(&p->source.fault_fd);
	fd_close(&p->kinds);
	vhu_iotlb_fini(&p->iotlb);
	p->model->on_config = NULL;
	free(p);
	if (freed)
		freed(arg);
}

/* The model has let go of everything. */
static void client_gone(struct vhost_user_port *p)
{
	for (unsigned i = 0; i < p->nr_queues; i++)
		vhu_queue_fini(&p->queues[i]);
	vhu_state_fini(p);
	vhu_inflight_fini(p);
	guest_mem_put(p->seen);
	p->seen = NULL;
	vhu_mem_put(p->mem);
	p->mem = NULL;
	vhu_iotlb_clear(&p->iotlb);
	vhu_log_fini(&p->log);
	if (p->model->ops->reset)
		p->model->ops->reset(p->model);
	p->features = p->protocol_features = 0;
	p->features_set = p->features_told = false;
	p->status = 0;
	fd_clear(p->source.fault_fd);
	p->client = VHU_NOBODY;
	if (p->freeing)
		free_port(p);
	else if (p->listener.fd >= 0)
		listener_go_on(&p->listener);
	else if (p->config.deserted)
		p->config.deserted(p->config.arg);
}

/* p may be free afterwards. */
static void drop_client(struct vhost_user_port *p)
{
	if (p->doomed)
		log_limited(&p->complaints, LOG_WARN, "%s vhost-user: front-end dropped: %s",
			p->model->name, p->doom.text);
	else
		log_info("%s vhost-user: front-end has left", p->model->name);
	p->doomed = false;
	p->doom.text[0] = 0;
	p->client = VHU_LEAVING;
	loop_del(&p->main_src);
	loop_timer_del(&p->deadline);
	vhu_stream_fini(&p->main);
	vhu_channel_fini(p);
	/* A request that waits for a queue will not be answered any more. */
	p->then = NULL;
	p->after = client_gone;
	/* Else whoever comes next waits in the backlog. */
	if (!vhu_queues_stop(p, 0, p->nr_queues))
		return;
	p->after = NULL;
	client_gone(p);
}

static void late(struct loop_timer *timer)
{
	struct vhost_user_port *p = container_of(timer, struct vhost_user_port, deadline);

	vhu_doom(p, vhu_stream_pending(&p->main) ? "does not read its replies"
						 : "does not finish a message");
	drop_client(p);
}

static void memory_lost(struct loop_source *src, uint32_t events)
{
	struct vhost_user_port *p = container_of(src, struct vhost_user_port, fault_src);

	fd_clear(p->source.fault_fd);
	if (p->client != VHU_SERVING)
		return;
	vhu_doom(p, "its memory was truncated under us");
	drop_client(p);
}

/* Messages */

static void set_deadline(struct vhost_user_port *p)
{
	if (!p->deadline.loop)
		loop_timer_set(p->loop, &p->deadline,
			clock_now_ns() + p->config.patience_ms * NS_PER_MS, late);
}

/* 0: all sent. -EAGAIN: the front-end has to read first, with a deadline. -EPIPE: doomed. */
static int flush(struct vhost_user_port *p)
{
	int rc = vhu_stream_flush(&p->main);

	if (!rc) {
		loop_timer_del(&p->deadline);
		return 0;
	}
	if (rc != -EAGAIN) {
		vhu_doom(p, "cannot send: %s", strerror(-rc));
		return -EPIPE;
	}
	set_deadline(p);
	loop_mod(&p->main_src, EPOLLOUT);
	return rc;
}

/* The request is carried out, or refused: say so. */
static void answer(struct vhost_user_port *p, int rc, const struct err *err)
{
	const struct vhost_user_header *h = &p->main.header;
	const struct vhost_user_rule *rule = vhost_user_rule(h->request);
	const char *text = err->text[0] ? err->text : strerror(-rc);
	bool own = rule && rule->replies, ack;
	uint64_t number = (uint64_t)-rc;

	ack = !own && h->flags & VHOST_USER_FLAG_NEED_REPLY &&
	      p->protocol_features & VHOST_USER_PROTOCOL_BIT(REPLY_ACK);
	if (rc && !p->forgiven)
		vhu_complain(
			p, "%s (%u) refused: %s", vhost_user_name(h->request), h->request, text);
	if (own && (!rc || vhu_regret(p, rc)))
		vhu_stream_reply(&p->main, &p->reply, p->reply_len, fd_take(&p->reply_fd));
	else if (ack)
		vhu_stream_reply(&p->main, &number, sizeof(number), -1);
	else if (rc && !p->forgiven)
		vhu_doom(p, "%s: %s", vhost_user_name(h->request), text);
	fd_close(&p->reply_fd);
	vhu_stream_done(&p->main);
}

/*
 * Take in one message. 1: one was dealt with; 0: nothing is there, or the front-end has left, is
 * doomed, or has to wait for itself or for a queue.
 */
static int take_message(struct vhost_user_port *p, bool *left)
{
	struct err err = { 0 };
	int rc = vhu_stream_recv(&p->main, &err);

	if (rc == -EAGAIN) {
		if (vhu_stream_partial(&p->main))
			set_deadline(p);
		return 0;
	}
	if (rc <= 0) {
		*left = true;
		if (rc == -EPIPE)
			vhu_doom(p, "left in the middle of a message");
		else if (rc && rc != -ECONNRESET)
			vhu_doom(p, "%s", err.text[0] ? err.text : strerror(-rc));
		return 0;
	}
	loop_timer_del(&p->deadline);
	log_debug("%s vhost-user: %s, %u bytes (0x%" PRIx64 " ...), %d descriptors", p->model->name,
		vhost_user_name(p->main.header.request), p->main.header.size,
		p->main.header.size < 8 ? 0 : p->main.payload.u64, p->main.fds.nr);
	rc = vhu_command(p, &err);
	if (rc == VHU_LATER) {
		loop_del(&p->main_src);
		return 0;
	}
	answer(p, rc, &err);
	return !p->doomed && !flush(p);
}

/* Read and work until the socket is empty, or for a while. p may be free afterwards. */
static void run_client(struct vhost_user_port *p)
{
	bool left = false;

	for (unsigned n = 0; n < MAX_RUN && take_message(p, &left); n++)
		;
	if (p->doomed) {
		/* What was answered before is the front-end's; it may hold the reason. */
		vhu_stream_flush(&p->main);
		drop_client(p);
	} else if (left) {
		drop_client(p);
	}
}

static void stopped(struct vhost_user_port *p)
{
	struct err err = { 0 };
	vhu_then_fn then = p->then;
	int rc;

	p->then = NULL;
	rc = then(p, &err);
	answer(p, rc, &err);
	rc = loop_add(p->loop, &p->main_src, p->main.fd, EPOLLIN, client_event);
	if (rc)
		vhu_doom(p, "cannot watch the socket: %s", strerror(-rc));
	if (!p->doomed)
		flush(p);
	if (p->doomed)
		drop_client(p);
}

int vhu_wait_then(struct vhost_user_port *p, vhu_then_fn then)
{
	p->then = then;
	p->after = stopped;
	return VHU_LATER;
}

static void client_event(struct loop_source *src, uint32_t events)
{
	struct vhost_user_port *p = container_of(src, struct vhost_user_port, main_src);

	if (src->events == EPOLLOUT) {
		if (flush(p) == -EAGAIN && !(events & (EPOLLHUP | EPOLLERR)))
			return;
		if (!p->doomed && vhu_stream_pending(&p->main))
			vhu_doom(p, "has left without reading its replies");
		if (p->doomed) {
			drop_client(p);
			return;
		}
		loop_mod(src, EPOLLIN);
	}
	run_client(p);
}

/* Front-ends */

static int adopt_client(struct listener *l, int fd, struct err *err)
{
	struct vhost_user_port *p = container_of(l, struct vhost_user_port, listener);
	int rc;

	vhu_stream_init(&p->main, fd);
	rc = loop_add(p->loop, &p->main_src, fd, EPOLLIN, client_event);
	if (rc) {
		vhu_stream_fini(&p->main);
		return err_set(err, rc, "cannot watch the socket: %s", strerror(-rc));
	}
	p->client = VHU_SERVING;
	log_info("%s vhost-user: front-end has connected", p->model->name);
	return 0;
}

/* One that hung up just before another connected may be noticed here first. */
static enum listener_state state(struct listener *l)
{
	struct vhost_user_port *p = container_of(l, struct vhost_user_port, listener);

	if (p->client == VHU_SERVING && sock_hung_up(p->main.fd))
		drop_client(p);
	switch (p->client) {
	case VHU_SERVING:
		return LISTENER_BUSY;
	case VHU_LEAVING:
		return LISTENER_WAIT;
	default:
		return LISTENER_FREE;
	}
}

static const struct listener_ops listener_ops = { .state = state, .adopt = adopt_client };

static void config_changed(struct virtio_model *m, void *arg)
{
	struct vhost_user_port *p = arg;

	if (p->client == VHU_SERVING)
		vhu_channel_config_changed(p);
}

static int open_own(struct vhost_user_port *p, struct err *err)
{
	int rc;

	p->kinds = fd_kind_open();
	if (p->kinds < 0)
		return err_set(err, p->kinds, "/proc/self/fd: %s", strerror(-p->kinds));
	p->source.fault_fd = fd_eventfd();
	if (p->source.fault_fd < 0)
		return err_set(err, p->source.fault_fd, "eventfd: %s",
			strerror(-p->source.fault_fd));
	rc = loop_add(p->loop, &p->fault_src, p->source.fault_fd, EPOLLIN, memory_lost);
	return rc ? err_set(err, rc, "cannot watch an eventfd: %s", strerror(-rc)) : 0;
}

int vhost_user_port_new(struct vhost_user_port **out, struct loop *loop, struct virtio_model *model,
	int fd_in, const struct vhost_user_port_config *config, struct err *err)
{
	FD_AUTO fd = fd_in;
	unsigned nr = MIN(model->nr_queues, VHU_MAX_QUEUES);
	struct vhost_user_port *p = calloc(1, sizeof(*p) + nr * sizeof(p->queues[0]));
	int rc;

	if (!p)
		return err_set(err, -ENOMEM, "out of memory");
	vhu_iotlb_init(&p->iotlb);
	p->loop = loop;
	p->model = model;
	p->config = *config;
	if (!p->config.patience_ms)
		p->config.patience_ms = DEFAULT_PATIENCE_MS;
	p->listener = (struct listener){
		.ops = &listener_ops,
		.loop = loop,
		.device = model->name,
		.protocol = "vhost-user",
		.peer = "front-end",
		.fd = -1,
	};
	p->source = (struct vhu_source){ .fault_fd = -1, .pieces = config->bell != NULL };
	p->kinds = p->reply_fd = -1;
	p->channel.fd = p->state.fd = p->main.fd = p->main.out_fd = -1;
	p->nr_queues = nr;
	for (unsigned i = 0; i < nr; i++)
		vhu_queue_init(p, i);
	rc = open_own(p, err);
	if (!rc && fd >= 0)
		rc = listener_start(&p->listener, fd_take(&fd), err);
	if (rc) {
		free_port(p);
		return rc;
	}
	model->on_config = config_changed;
	model->on_config_arg = p;
	*out = p;
	return 0;
}

int vhost_user_port_connect(struct vhost_user_port *p, int fd, struct err *err)
{
	assert(p->client == VHU_NOBODY && !p->freeing);
	return adopt_client(&p->listener, fd, err);
}

void vhost_user_port_free(struct vhost_user_port *p, void (*freed)(void *arg), void *arg)
{
	if (!p) {
		if (freed)
			freed(arg);
		return;
	}
	p->freeing = true;
	p->freed = freed;
	p->freed_arg = arg;
	if (p->client == VHU_SERVING)
		drop_client(p);
	else if (p->client == VHU_NOBODY)
		free_port(p);
}
