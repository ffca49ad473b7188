/*
 * vsock.c - virtio socket device: its three queues
 *
 * Connections that have news for the guest stand in a line and fill one buffer of the receive queue
 * each in their turn. Packets of the transmit queue are dealt with at once and whole. A packet for
 * which there is no connection is answered by a reset from a short ring; while that is full no
 * packet is taken, which is all that a guest that gives no buffers can bring about.
 *
 * A process that was restarted finds rings that have been used, and knows of no connection: the
 * guest is told by the event queue that all are gone. A driver that begins anew has new rings, and
 * its predecessor's connections are dropped.
 *
 * Owns:    the listening socket, the connector, all connections.
 * Threads: the loop's; nothing waits.
 * Trusts:  no header. What has another sender than this guest is dropped, what goes elsewhere
 *          than to the host is refused, as is what is no stream.
 * Spec:    virtio 1.3, 5.10.
 */
#include "device/vsock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/fd.h"
#include "base/util.h"
#include "device/vsock_priv.h"
#include "wire/virtio.h"

enum { QUEUE_RX, QUEUE_TX, QUEUE_EVENT, NR_QUEUES };

#define TURN_PACKETS   64
#define TURN_BYTES     (256 * KIB)
#define FEATURE_STREAM 0

static struct vsock *vsock_of(struct virtio_model *m)
{
	return container_of(m, struct vsock, model);
}

unsigned vsock_cut(
	const struct iovec *in, unsigned nr, uint64_t skip, uint64_t len, struct iovec *out)
{
	unsigned nr_out = 0;

	for (unsigned i = 0; i < nr && len; i++) {
		size_t off = MIN(in[i].iov_len, skip), piece = MIN(in[i].iov_len - off, len);

		skip -= off;
		if (!piece)
			continue;
		out[nr_out++] = (struct iovec){ (char *)in[i].iov_base + off, piece };
		len -= piece;
	}
	return nr_out;
}

/* --- resets for what is no connection --- */

static void wake_stalled_tx(struct vsock *v)
{
	loop_queue_wake(&v->tx);
}

static void answer_reset(struct vsock *v, const struct virtio_vsock_hdr *hdr)
{
	if (hdr->op == VIRTIO_VSOCK_OP_RST)
		return;
	assert(v->nr_resets < VSOCK_MAX_RESETS);
	v->resets[(v->first_reset + v->nr_resets++) % VSOCK_MAX_RESETS] = (struct vsock_reset){
		.host_cid = hdr->dst_cid,
		.host_port = hdr->dst_port,
		.guest_port = hdr->src_port,
		.type = hdr->type,
	};
	vsock_wake_rx(v);
}

static size_t fill_reset(struct vsock *v, const struct vq_req *req)
{
	const struct vsock_reset *r = &v->resets[v->first_reset];
	const struct virtio_vsock_hdr hdr = {
		.src_cid = r->host_cid,
		.dst_cid = v->config.guest_cid,
		.src_port = r->host_port,
		.dst_port = r->guest_port,
		.type = r->type,
		.op = VIRTIO_VSOCK_OP_RST,
	};

	if (v->nr_resets-- == VSOCK_MAX_RESETS)
		wake_stalled_tx(v);
	v->first_reset = (v->first_reset + 1) % VSOCK_MAX_RESETS;
	return vq_req_write(req, 0, &hdr, sizeof(hdr));
}

/* --- to the guest --- */

void vsock_wake_rx(struct vsock *v)
{
	loop_queue_wake(&v->rx);
}

/* The turn of the first in line: bytes written, 0: it has nothing after all, or -ENOBUFS. */
static ssize_t fill_from_first(struct vsock *v, const struct vq_req *req)
{
	struct vsock_conn *c = TAILQ_FIRST(&v->ready);
	ssize_t n;

	TAILQ_REMOVE(&v->ready, c, turn);
	c->ready = false;
	n = vsock_conn_fill(c, req);
	if (vsock_conn_done(c))
		vsock_conn_free(c);
	else
		vsock_conn_news(c);
	return n;
}

static bool anything_to_say(const struct vsock *v)
{
	return v->nr_resets || !TAILQ_EMPTY(&v->ready);
}

/* Fill one buffer. False: there is none. */
static bool serve_buffer(struct vsock *v, uint64_t *bytes)
{
	struct iovec iov[VSOCK_PIECES];
	uint64_t iova[VSOCK_PIECES];
	struct vq_req req = { .iov = iov, .iova = iova, .max_iov = VSOCK_PIECES };
	ssize_t n = -ENOBUFS;
	int bad = 0;

	if (loop_queue_pop(&v->rx, &req, &bad) <= 0)
		return false;
	if (!bad && req.in_len >= VSOCK_HDR) {
		/* Not for ever: each that has nothing leaves the line. */
		do
			n = v->nr_resets ? (ssize_t)fill_reset(v, &req) : fill_from_first(v, &req);
		while (!n && anything_to_say(v));
	}
	if (!n) {
		vq_unpop(v->rx.vq, &req);
		return true;
	}
	/* A buffer that is too small is given back empty. */
	vq_push(v->rx.vq, &req, (uint32_t)MAX(n, 0));
	*bytes += (uint64_t)MAX(n, 0);
	return true;
}

static bool serve_rx(struct loop_queue *q)
{
	struct vsock *v = container_of(q, struct vsock, rx);
	uint64_t bytes = 0;
	unsigned i = 0;
	bool buffers = true;

	while (i++ < TURN_PACKETS && bytes < TURN_BYTES && anything_to_say(v) && buffers)
		buffers = serve_buffer(v, &bytes);
	vq_notify(q->vq);
	return buffers && anything_to_say(v);
}

/* --- from the guest --- */

static void request(struct vsock *v, const struct virtio_vsock_hdr *hdr)
{
	struct vsock_conn *c = vsock_conn_new(v, VSOCK_CONNECTING, -1);

	if (!c) {
		log_limited(&v->limit, LOG_WARN, "%s: %u connections: the guest's next is refused",
			v->config.name, v->nr_conns);
		answer_reset(v, hdr);
		return;
	}
	c->peer_alloc = hdr->buf_alloc;
	c->peer_fwd = hdr->fwd_cnt;
	vsock_conn_name(c, hdr->src_port, hdr->dst_port);
	vsock_host_ask(c);
}

static void packet(struct vsock *v, const struct virtio_vsock_hdr *hdr, const struct vq_req *req)
{
	struct vsock_conn *c;

	if (hdr->src_cid != v->config.guest_cid) {
		log_limited(&v->limit, LOG_WARN,
			"%s: a packet from context %llu, which is not the guest's, dropped",
			v->config.name, (unsigned long long)hdr->src_cid);
		return;
	}
	if (hdr->dst_cid != VSOCK_HOST_CID || hdr->type != VIRTIO_VSOCK_TYPE_STREAM) {
		answer_reset(v, hdr);
		return;
	}
	c = vsock_conn_find(v, hdr->src_port, hdr->dst_port);
	if (c)
		vsock_conn_packet(c, hdr, req);
	else if (hdr->op == VIRTIO_VSOCK_OP_REQUEST)
		request(v, hdr);
	else
		answer_reset(v, hdr);
}

static bool serve_tx(struct loop_queue *q)
{
	struct vsock *v = container_of(q, struct vsock, tx);
	uint64_t bytes = 0;
	unsigned i;

	for (i = 0; i < TURN_PACKETS && bytes < TURN_BYTES; i++) {
		struct iovec iov[VSOCK_PIECES];
		uint64_t iova[VSOCK_PIECES];
		struct vq_req req = { .iov = iov, .iova = iova, .max_iov = VSOCK_PIECES };
		struct virtio_vsock_hdr hdr;
		int bad = 0;

		/* Room for a reset, which it may have to be answered with. */
		if (v->nr_resets == VSOCK_MAX_RESETS || loop_queue_pop(q, &req, &bad) <= 0)
			break;
		bytes += req.out_len;
		if (!bad && vq_req_read(&req, 0, &hdr, sizeof(hdr)) == sizeof(hdr))
			packet(v, &hdr, &req);
		else
			log_limited(&v->limit, LOG_WARN, "%s: a packet of %llu bytes %s, dropped",
				v->config.name, (unsigned long long)req.out_len,
				bad ? "that cannot be reached" : "is too short for its header");
		vq_push(q->vq, &req, 0);
	}
	vq_notify(q->vq);
	return i == TURN_PACKETS || bytes >= TURN_BYTES;
}

/* --- events --- */

static bool serve_event(struct loop_queue *q)
{
	static const struct virtio_vsock_event gone = { .id = VIRTIO_VSOCK_EVENT_TRANSPORT_RESET };
	struct vsock *v = container_of(q, struct vsock, event);

	for (unsigned i = 0; v->reset_event && i < TURN_PACKETS; i++) {
		struct iovec iov[VSOCK_PIECES];
		uint64_t iova[VSOCK_PIECES];
		struct vq_req req = { .iov = iov, .iova = iova, .max_iov = VSOCK_PIECES };
		size_t n = 0;
		int bad = 0;

		if (loop_queue_pop(q, &req, &bad) <= 0)
			break;
		if (!bad && req.in_len >= sizeof(gone))
			n = vq_req_write(&req, 0, &gone, sizeof(gone));
		v->reset_event = !n;
		vq_push(q->vq, &req, (uint32_t)n);
	}
	vq_notify(q->vq);
	return false;
}

/* --- the model --- */

static void drop_connections(struct vsock *v)
{
	struct vsock_conn *c;

	while ((c = LIST_FIRST(&v->all)))
		vsock_conn_free(c);
	v->nr_resets = 0;
	v->reset_event = false;
}

/* Whose connections are these? */
static void look_at_ring(struct vsock *v, unsigned queue, const struct vq *vq)
{
	if (vq_is_new(vq))
		drop_connections(v);
	else if (!(v->seen & 1u << queue))
		v->reset_event = true;
	v->seen |= 1u << queue;
}

static int queue_start(struct virtio_model *m, unsigned queue, struct vq *vq)
{
	static const loop_queue_fn serve[] = { serve_rx, serve_tx, serve_event };
	struct vsock *v = vsock_of(m);
	struct loop_queue *queues[] = { &v->rx, &v->tx, &v->event };
	int rc = loop_queue_start(queues[queue], m->loop, vq, v->config.name, serve[queue]);

	if (rc) {
		log_warn("%s: kicks of queue %u cannot be watched: %s", v->config.name, queue,
			strerror(-rc));
		return rc;
	}
	if (queue != QUEUE_EVENT)
		look_at_ring(v, queue, vq);
	loop_queue_wake(&v->event);
	return 0;
}

static void queue_stop(struct virtio_model *m, unsigned queue, virtio_stopped_fn stopped, void *arg)
{
	struct vsock *v = vsock_of(m);
	struct loop_queue *queues[] = { &v->rx, &v->tx, &v->event };

	loop_queue_stop(queues[queue]);
	stopped(arg, queue);
}

static void reset(struct virtio_model *m)
{
	drop_connections(vsock_of(m));
}

static void free_vsock(struct virtio_model *m)
{
	struct vsock *v = vsock_of(m);

	loop_queue_stop(&v->rx);
	loop_queue_stop(&v->tx);
	loop_queue_stop(&v->event);
	drop_connections(v);
	vsock_host_stop(v);
	free(v);
}

static const struct virtio_model_ops ops = {
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.reset = reset,
	.free = free_vsock,
};

/* Another one than the process before began with: its connections may linger in the guest. */
static uint32_t first_port(void)
{
	uint32_t port;

	return getrandom(&port, sizeof(port), GRND_NONBLOCK) == sizeof(port) ? port : 0;
}

int vsock_new(struct virtio_model **out, struct loop *loop, const struct vsock_config *config,
	struct err *err)
{
	struct vsock *v = calloc(1, sizeof(*v));
	const struct virtio_vsock_config guest = { .guest_cid = config->guest_cid };
	int rc;

	if (!v) {
		struct connector connector = config->connector;
		int listen_fd = config->listen_fd;

		fd_close(&listen_fd);
		connector_stop(&connector);
		return err_set(err, -ENOMEM, "out of memory");
	}
	assert(config->max_conns >= 1 && config->max_conns <= VSOCK_MAX_CONNS);
	v->model = (struct virtio_model){
		.ops = &ops,
		.name = config->name,
		.type = VIRTIO_ID_VSOCK,
		.features = VIRTIO_MODEL_RING_FEATURES | VIRTIO_BIT(FEATURE_STREAM),
		.nr_queues = NR_QUEUES,
		.max_queue_size = 256,
		.config_size = sizeof(guest),
		.loop = loop,
	};
	memcpy(v->model.config, &guest, sizeof(guest));
	v->config = *config;
	v->next_port = first_port();
	LIST_INIT(&v->all);
	TAILQ_INIT(&v->ready);
	TAILQ_INIT(&v->to_ask);
	v->made_path = config->made_path ? strdup(config->made_path) : NULL;
	rc = config->made_path && !v->made_path ? err_set(err, -ENOMEM, "out of memory")
						: vsock_host_start(v, err);
	if (rc) {
		free_vsock(&v->model);
		return rc;
	}
	*out = &v->model;
	return 0;
}
