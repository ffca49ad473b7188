/*
 * vvu_link.c - messages between the function's queues and the vhost-user port
 *
 * The port speaks to a socket, and has one end of a pair: here is the other. A message passes as it
 * is, but where a front-end at a socket sends descriptors: this one's lie in the function's BARs,
 * and what the port gets with the message stands for them.
 *
 *   memory, log, inflight area   the function's own descriptor; offsets become those in it
 *   kick                         the eventfd of the vector that the kick raises
 *   call                         anything: the port rings the doorbell (bell() of its
 *                                configuration)
 *   err                          an eventfd, of which we make a write to the doorbell
 *   socket of the back-end       one end of another pair, whose messages go into the same queue
 *
 * A message that names what is not there, memory beyond the BAR for one, goes without the
 * descriptor: the port refuses that as it does for anybody, and the sibling hears of it.
 *
 * No more than one message waits for either side: while it does, no other is taken.
 *
 * Owns:   our ends of the pairs.
 * Trusts: neither the function nor the sibling, who wrote the messages. What the port gets is
 *         checked by it as what comes over a socket, but for the descriptors, which are ours.
 * Spec:   wire/vvu.h; vhost-user, "Front-end message types".
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/util.h"
#include "serve/vvu_priv.h"

/* Messages in a row before the loop sees to its other sources. */
#define MAX_RUN 64u

/* A message on its way to the port. */
struct msg {
	struct vhost_user_header h;
	union vhost_user_payload p;
	int fds[VHOST_USER_MAX_TABLE_REGIONS]; /* borrowed */
	int nr_fds;
	int own; /* one of them that is to be closed; -1: none */
};

/* --- stand-ins --- */

static void attach(struct msg *m, int fd)
{
	m->fds[m->nr_fds++] = fd;
}

/*
 * [*offset, *offset + size) of a shared-memory region: *offset becomes the one in the function's
 * descriptor. False: there is no such piece.
 */
static bool locate(struct vvu_port *p, unsigned shmid, uint64_t *offset, uint64_t size)
{
	const struct vvu_place *s = &p->pci.shm[shmid];

	if (!size || !range_ok(*offset, size, s->len)) {
		vvu_complain(p, "0x%" PRIx64 " bytes at 0x%" PRIx64
			" of shared memory %u, which has 0x%" PRIx64,
			size, *offset, shmid, s->len);
		return false;
	}
	*offset += p->pci.dev.regions[s->bar].at + s->off;
	return true;
}

static void attach_piece(
	struct vvu_port *p, struct msg *m, unsigned shmid, uint64_t *offset, uint64_t size)
{
	if (locate(p, shmid, offset, size))
		attach(m, p->pci.dev.fd);
}

static void set_mem_table(struct vvu_port *p, struct msg *m)
{
	struct vhost_user_mem_table *t = &m->p.mem_table;

	if (t->nr > ARRAY_SIZE(t->regions))
		return;
	for (uint32_t i = 0; i < t->nr; i++)
		attach_piece(p, m, VVU_SHM_MEMORY, &t->regions[i].mmap_offset, t->regions[i].size);
}

static void add_mem_reg(struct vvu_port *p, struct msg *m)
{
	struct vhost_user_mem_region *r = &m->p.mem_reg.region;

	attach_piece(p, m, VVU_SHM_MEMORY, &r->mmap_offset, r->size);
}

static void set_log_base(struct vvu_port *p, struct msg *m)
{
	attach_piece(p, m, VVU_SHM_LOG, &m->p.log.offset, m->p.log.size);
}

static void set_inflight_fd(struct vvu_port *p, struct msg *m)
{
	attach_piece(
		p, m, VVU_SHM_INFLIGHT, &m->p.inflight.mmap_offset, m->p.inflight.mmap_size);
}

/* The queue that the message is about, if it is to have a descriptor. */
static bool vring(const struct vvu_port *p, const struct msg *m, unsigned *index)
{
	*index = (unsigned)(m->p.u64 & VHOST_USER_VRING_IDX_MASK);
	return !(m->p.u64 & VHOST_USER_NOFD) && *index < p->nr_kicks;
}

static void set_vring_kick(struct vvu_port *p, struct msg *m)
{
	unsigned i;

	if (vring(p, m, &i))
		attach(m, p->kicks[i]);
}

static void set_vring_call(struct vvu_port *p, struct msg *m)
{
	unsigned i;

	if (vring(p, m, &i))
		attach(m, p->placeholder);
}

static void set_vring_err(struct vvu_port *p, struct msg *m)
{
	unsigned i;

	if (vring(p, m, &i))
		attach(m, p->errs[i].fd);
}

static void set_log_fd(struct vvu_port *p, struct msg *m)
{
	attach(m, p->placeholder);
}

static void set_backend_req_fd(struct vvu_port *p, struct msg *m)
{
	int rc = vvu_link_open(p, &p->channel, &m->own);

	if (rc)
		vvu_complain(p, "no socket for the port's own messages: %s", strerror(-rc));
	else
		attach(m, m->own);
}

/* --- to the port --- */

static const struct {
	uint32_t request;
	size_t size; /* of what is looked at */
	void (*attach)(struct vvu_port *p, struct msg *m);
} stand_ins[] = {
	{ VHOST_USER_SET_MEM_TABLE, 8, set_mem_table },
	{ VHOST_USER_ADD_MEM_REG, sizeof(struct vhost_user_mem_reg), add_mem_reg },
	{ VHOST_USER_SET_LOG_BASE, sizeof(struct vhost_user_log), set_log_base },
	{ VHOST_USER_SET_LOG_FD, 0, set_log_fd },
	{ VHOST_USER_SET_INFLIGHT_FD, 20, set_inflight_fd },
	{ VHOST_USER_SET_VRING_KICK, sizeof(uint64_t), set_vring_kick },
	{ VHOST_USER_SET_VRING_CALL, sizeof(uint64_t), set_vring_call },
	{ VHOST_USER_SET_VRING_ERR, sizeof(uint64_t), set_vring_err },
	{ VHOST_USER_SET_BACKEND_REQ_FD, 0, set_backend_req_fd },
};

static void add_stand_ins(struct vvu_port *p, struct msg *m)
{
	for (size_t i = 0; i < ARRAY_SIZE(stand_ins); i++)
		if (stand_ins[i].request == m->h.request && m->h.size >= stand_ins[i].size)
			stand_ins[i].attach(p, m);
}

/* What of p->out the socket takes. False: a rest is left, or the port has hung up. */
static bool flush(struct vvu_port *p, const int *fds, int nr_fds)
{
	while (p->out_at < p->out_len) {
		struct iovec iov = { p->out + p->out_at, p->out_len - p->out_at };
		ssize_t n = sock_send(p->main.fd, &iov, 1, fds, nr_fds);

		/* Descriptors go with the first byte or never. */
		if (n == -EAGAIN && !nr_fds)
			return false;
		if (n < 0) {
			vvu_hang_up(p);
			return false;
		}
		p->out_at += (size_t)n;
		nr_fds = 0;
	}
	p->out_len = 0;
	return true;
}

/* At least for the first byte of a message. */
static bool has_room(const struct vvu_port *p)
{
	struct pollfd f = { .fd = p->main.fd, .events = POLLOUT };

	return poll(&f, 1, 0) == 1 && f.revents & POLLOUT;
}

static void to_port(struct vvu_port *p, const uint8_t *bytes, uint32_t len)
{
	struct msg m = { .own = -1 };

	memcpy(&m.h, bytes, sizeof(m.h));
	memcpy(&m.p, bytes + sizeof(m.h), len - sizeof(m.h));
	add_stand_ins(p, &m);
	memcpy(p->out, &m.h, sizeof(m.h));
	memcpy(p->out + sizeof(m.h), &m.p, len - sizeof(m.h));
	p->out_at = 0;
	p->out_len = len;
	flush(p, m.fds, m.nr_fds);
	fd_close(&m.own);
}

/* --- from the function --- */

/* The device wrote len bytes: is it a message? */
static bool is_message(const uint8_t *bytes, uint32_t len)
{
	struct vhost_user_header h;

	if (len < sizeof(h))
		return false;
	memcpy(&h, bytes, sizeof(h));
	return h.size == len - sizeof(h);
}

static bool is_reply(const uint8_t *bytes)
{
	struct vhost_user_header h;

	memcpy(&h, bytes, sizeof(h));
	return h.flags & VHOST_USER_FLAG_REPLY;
}

static void take(struct vvu_port *p, const uint8_t *bytes, uint32_t len)
{
	if (!len) {
		p->discard = false;
		if (p->state == VVU_SERVING)
			vvu_part(p);
		return;
	}
	if (!is_message(bytes, len)) {
		vvu_complain(p, "%u bytes that are no message", len);
		vvu_reset(p);
		return;
	}
	/* We ask nothing, so an answer is to somebody before us. */
	if (p->discard || is_reply(bytes))
		return;
	if (p->state == VVU_ALONE && vvu_welcome(p))
		return;
	to_port(p, bytes, len);
}

/* The next entry that the device has filled; -1: none. */
static int reap_rx(struct vvu_port *p, uint32_t *len)
{
	unsigned id;
	int rc = vvu_ring_reap(&p->rings[VVU_QUEUE_RX], &id, len);

	if (rc < 0) {
		vvu_complain(p, "its rx queue makes no sense");
		vvu_reset(p);
	}
	return rc > 0 ? (int)id : -1;
}

static bool rx_moves(struct vvu_port *p)
{
	uint8_t bytes[VVU_BUFFER];
	uint32_t len;
	int id;

	if (p->state == VVU_SERVING && (p->out_len || !has_room(p)))
		return false;
	if (p->state != VVU_SERVING && (p->state != VVU_ALONE || !p->swept))
		return false;
	id = reap_rx(p, &len);
	if (id < 0)
		return false;
	/* Once: the device can write to it at any time. */
	memcpy(bytes, vvu_ring_buffer(&p->rings[VVU_QUEUE_RX], (unsigned)id), len);
	vvu_ring_post_in(&p->rings[VVU_QUEUE_RX], (unsigned)id);
	take(p, bytes, len);
	return true;
}

void vvu_link_drain(struct vvu_port *p)
{
	uint32_t len;
	int id;

	for (unsigned n = 0; n < VVU_RING_MAX; n++) {
		id = reap_rx(p, &len);
		if (id < 0)
			return;
		vvu_ring_post_in(&p->rings[VVU_QUEUE_RX], (unsigned)id);
	}
}

/* --- to the function --- */

static void reap_tx(struct vvu_port *p)
{
	unsigned id;
	uint32_t len;
	int rc;

	do
		rc = vvu_ring_reap(&p->rings[VVU_QUEUE_TX], &id, &len);
	while (rc > 0);
	if (rc) {
		vvu_complain(p, "its tx queue makes no sense");
		vvu_reset(p);
	}
}

/* 1: something came; 0: nothing is there; -EPIPE: the port has closed it, or speaks nonsense. */
static int receive(struct vvu_end *e, size_t want)
{
	ssize_t n = sock_recv(e->fd, e->in + e->have, want - e->have, NULL);

	if (n == -EAGAIN)
		return 0;
	if (n <= 0)
		return -EPIPE;
	e->have += (size_t)n;
	return 1;
}

/* 1: e->in is a whole message of *len bytes; 0: not yet; -EPIPE. */
static int whole(struct vvu_end *e, uint32_t *len)
{
	struct vhost_user_header h;
	int rc = 1;

	while (rc > 0 && e->have < sizeof(h))
		rc = receive(e, sizeof(h));
	if (rc <= 0)
		return rc;
	memcpy(&h, e->in, sizeof(h));
	if (h.size > sizeof(e->in) - sizeof(h))
		return -EPIPE;
	*len = (uint32_t)sizeof(h) + h.size;
	while (rc > 0 && e->have < *len)
		rc = receive(e, *len);
	return rc > 0 ? 1 : rc;
}

/* What can only be had with descriptors is not offered, whatever the function knows of that. */
static void adapt(struct vvu_end *e)
{
	struct vhost_user_header h;
	uint64_t features;

	memcpy(&h, e->in, sizeof(h));
	if (h.request != VHOST_USER_GET_PROTOCOL_FEATURES || h.size != sizeof(features))
		return;
	memcpy(&features, e->in + sizeof(h), sizeof(features));
	features &= VVU_PROTOCOL_FEATURES;
	memcpy(e->in + sizeof(h), &features, sizeof(features));
}

/* A message of the port. *closed: it has closed this end. */
static bool tx_moves(struct vvu_port *p, struct vvu_end *e, bool *closed)
{
	struct vvu_ring *r = &p->rings[VVU_QUEUE_TX];
	int id = vvu_ring_free(r), rc;
	uint32_t len;

	*closed = false;
	if (e->fd < 0 || id < 0)
		return false;
	rc = whole(e, &len);
	if (rc <= 0) {
		*closed = rc < 0;
		return *closed;
	}
	if (e == &p->main)
		adapt(e);
	memcpy(vvu_ring_buffer(r, (unsigned)id), e->in, len);
	vvu_ring_post_out(r, (unsigned)id, len);
	e->have = 0;
	return true;
}

/* --- all of it --- */

static void close_end(struct vvu_end *e)
{
	loop_del(&e->src);
	fd_close(&e->fd);
	e->have = 0;
}

void vvu_link_close(struct vvu_port *p)
{
	close_end(&p->main);
	close_end(&p->channel);
	p->out_len = 0;
}

/* The port has closed it, and what is left in it has to wait for the device: it is given up. */
static bool is_over(const struct vvu_port *p, uint32_t events)
{
	return events & (EPOLLHUP | EPOLLERR) && vvu_ring_free(&p->rings[VVU_QUEUE_TX]) < 0;
}

static void on_main(struct loop_source *src, uint32_t events)
{
	struct vvu_port *p = container_of(src, struct vvu_port, main.src);

	if (is_over(p, events))
		vvu_hang_up(p);
	vvu_link_run(p);
}

static void on_channel(struct loop_source *src, uint32_t events)
{
	struct vvu_port *p = container_of(src, struct vvu_port, channel.src);

	if (is_over(p, events))
		close_end(&p->channel);
	vvu_link_run(p);
}

int vvu_link_open(struct vvu_port *p, struct vvu_end *e, int *out)
{
	int fds[2], rc;

	close_end(e);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds))
		return -errno;
	rc = loop_add(p->loop, &e->src, fds[0], EPOLLIN, e == &p->main ? on_main : on_channel);
	if (rc) {
		fd_close(&fds[0]);
		fd_close(&fds[1]);
		return rc;
	}
	e->fd = fds[0];
	*out = fds[1];
	return 0;
}

/*
 * Messages wait in the socket while the device has all buffers, and
 * then the socket must not wake us.
 */
static void watch(struct vvu_end *e, bool in, bool out)
{
	uint32_t events = (in ? EPOLLIN : 0) | (out ? EPOLLOUT : 0);

	if (e->src.loop && e->src.events != events)
		loop_mod(&e->src, events);
}

static void watch_all(struct vvu_port *p)
{
	bool room = vvu_ring_free(&p->rings[VVU_QUEUE_TX]) >= 0;

	watch(&p->main, room, p->out_len || !has_room(p));
	watch(&p->channel, room, false);
}

static bool move(struct vvu_port *p)
{
	bool moved, closed;

	reap_tx(p);
	if (p->state == VVU_RESETTING)
		return false;
	if (p->out_len)
		flush(p, NULL, 0);
	moved = rx_moves(p);
	moved |= tx_moves(p, &p->channel, &closed);
	if (closed)
		close_end(&p->channel);
	if (p->state != VVU_SERVING)
		return moved;
	moved |= tx_moves(p, &p->main, &closed);
	if (closed)
		vvu_hang_up(p);
	return moved;
}

static void kick(struct vvu_port *p, unsigned queue)
{
	if (vvu_ring_must_kick(&p->rings[queue]))
		vvu_pci_kick(&p->pci, &p->places[queue], (uint16_t)queue);
}

void vvu_link_run(struct vvu_port *p)
{
	unsigned n = 0;

	if (p->state == VVU_RESETTING)
		return;
	while (n < MAX_RUN && p->state != VVU_RESETTING && move(p))
		n++;
	if (p->state == VVU_RESETTING)
		return;
	for (unsigned i = 0; i < VVU_NR_QUEUES; i++)
		kick(p, i);
	watch_all(p);
	if (n == MAX_RUN)
		vvu_wake(p);
}
