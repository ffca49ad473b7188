/*
 * vsock_conn.c - one stream between the guest and a socket of the host
 *
 * Towards the guest nothing is kept: when there is a buffer of the guest's and the guest has given
 * credit, the host's socket is read straight into it. From the guest, what the host does not take
 * at once is kept in a ring of at most the window that the guest was told of; more than that is a
 * guest that breaks the rules, and its connection is reset.
 *
 * What the guest must be told is a set of flags, not a list of packets, so nothing grows while the
 * guest gives no buffers.
 *
 *	HELLO -> REQUESTED ----> OPEN -> SHUT -> DEAD -> gone
 *	         CONNECTING ---/
 *
 * The host's socket is watched for edges, both ways at once and never changed: `readable` and
 * `writable` are what it said last. That a socket without a reader keeps saying so costs nothing.
 *
 * Trusts: nothing of the guest's but that its credit is its own affair.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"
#include "device/vsock_priv.h"

/* A guest that has heard of the end answers; Linux itself waits that long. */
#define SHUT_WAIT_NS (8 * NS_PER_S)
#define BOTH_WAYS    (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

/* --- telling --- */

static void tell(struct vsock_conn *c, unsigned what)
{
	struct vsock *v = c->v;

	if (c->state == VSOCK_ORPHAN)
		return;
	c->tell |= what;
	if (!c->ready && vsock_conn_has_news(c)) {
		c->ready = true;
		TAILQ_INSERT_TAIL(&v->ready, c, turn);
		vsock_wake_rx(v);
	}
}

void vsock_conn_news(struct vsock_conn *c)
{
	tell(c, 0);
}

void vsock_conn_deadline(struct vsock_conn *c, uint64_t in_ns)
{
	c->deadline_ns = clock_now_ns() + in_ns;
	vsock_sweep_later(c->v);
}

/* --- life --- */

/* Ports are the guest's choice; a chain gets longer by that, and the guest waits for itself. */
static unsigned bucket(uint32_t guest_port, uint32_t host_port)
{
	uint32_t mixed = (guest_port * 0x9e3779b1u) ^ (host_port * 0x85ebca6bu);

	return (mixed >> 16 ^ mixed) % VSOCK_BUCKETS;
}

struct vsock_conn *vsock_conn_find(const struct vsock *v, uint32_t guest_port, uint32_t host_port)
{
	struct vsock_conn *c;

	LIST_FOREACH(c, &v->hash[bucket(guest_port, host_port)], same_hash) {
		if (c->guest_port == guest_port && c->host_port == host_port)
			return c;
	}
	return NULL;
}

void vsock_conn_name(struct vsock_conn *c, uint32_t guest_port, uint32_t host_port)
{
	assert(!c->hashed);
	c->guest_port = guest_port;
	c->host_port = host_port;
	c->hashed = true;
	LIST_INSERT_HEAD(&c->v->hash[bucket(guest_port, host_port)], c, same_hash);
}

static void unname(struct vsock_conn *c)
{
	if (c->hashed)
		LIST_REMOVE(c, same_hash);
	c->hashed = false;
}

static void detach(struct vsock_conn *c)
{
	loop_del(&c->source);
	fd_close(&c->fd);
	c->readable = c->writable = false;
	free(c->buf);
	c->buf = NULL;
	c->forwarded = c->received; /* there is nobody to hand it to */
}

static uint32_t choose_window(const struct vsock *v)
{
	uint64_t others = (uint64_t)(v->config.max_conns - v->nr_conns - 1) * VSOCK_SMALL_WINDOW;

	return v->reserved + VSOCK_WINDOW + others <= VSOCK_BUDGET ? VSOCK_WINDOW
								   : VSOCK_SMALL_WINDOW;
}

struct vsock_conn *vsock_conn_new(struct vsock *v, enum vsock_state state, int fd)
{
	struct vsock_conn *c;

	if (v->nr_conns >= v->config.max_conns)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->v = v;
	c->fd = -1;
	c->state = state;
	c->serial = v->next_serial++;
	c->window = choose_window(v);
	v->nr_conns++;
	v->reserved += c->window;
	LIST_INSERT_HEAD(&v->all, c, all);
	if (fd >= 0 && vsock_conn_attach(c, fd)) {
		c->fd = -1; /* not taken */
		vsock_conn_free(c);
		return NULL;
	}
	return c;
}

void vsock_conn_free(struct vsock_conn *c)
{
	struct vsock *v = c->v;

	detach(c);
	unname(c);
	if (c->ready)
		TAILQ_REMOVE(&v->ready, c, turn);
	if (c->to_ask)
		TAILQ_REMOVE(&v->to_ask, c, turn);
	LIST_REMOVE(c, all);
	v->nr_conns--;
	v->reserved -= c->window;
	free(c);
	vsock_host_resume(v);
}

/* Whether the guest has heard of it, so that it must hear of its end. */
static bool guest_knows(const struct vsock_conn *c)
{
	return c->hashed && !(c->tell & VSOCK_TELL_REQUEST);
}

/* The host's part is over; the guest gets a reset if it knows of the connection at all. */
void vsock_conn_reset(struct vsock_conn *c)
{
	if (!guest_knows(c)) {
		vsock_conn_free(c);
		return;
	}
	if (c->to_ask)
		TAILQ_REMOVE(&c->v->to_ask, c, turn);
	c->to_ask = false;
	detach(c);
	c->state = VSOCK_DEAD;
	c->deadline_ns = 0;
	c->tell = 0;
	tell(c, VSOCK_TELL_RESET);
}

bool vsock_conn_done(const struct vsock_conn *c)
{
	return c->state == VSOCK_DEAD && !c->tell;
}

/* --- from the guest to the host --- */

static uint32_t buffered(const struct vsock_conn *c)
{
	return c->received - c->forwarded;
}

/* What the guest knows it may send. Never less than 0, as it may send no more. */
static uint32_t credit(const struct vsock_conn *c)
{
	return c->window - (c->received - c->told_forwarded);
}

/* A guest that thinks it has less than half of its window left is told that there is more. */
static void tell_credit(struct vsock_conn *c)
{
	if (c->told_forwarded != c->forwarded && credit(c) < c->window / 2)
		tell(c, VSOCK_TELL_CREDIT);
}

/* Nobody reads any more at the host: what the guest writes vanishes, and it is told so. */
static void lose_reader(struct vsock_conn *c)
{
	c->no_reader = true;
	c->forwarded = c->received;
	tell(c, VSOCK_TELL_SHUTDOWN);
}

/* As sendmsg() gives it; -EAGAIN: no room now. */
static ssize_t host_write(struct vsock_conn *c, struct iovec *iov, unsigned nr)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = nr };
	ssize_t n;

	do
		n = sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* The first piece of the ring, and the second where it wraps. */
static unsigned ring_pieces(const struct vsock_conn *c, struct iovec iov[2])
{
	uint32_t len = buffered(c), first = MIN(len, c->window - c->buf_at);

	iov[0] = (struct iovec){ c->buf + c->buf_at, first };
	iov[1] = (struct iovec){ c->buf, len - first };
	return len > first ? 2 : 1;
}

/* What the guest has finished with is finished with the host, too. c may be gone afterwards. */
static void finish_writing(struct vsock_conn *c)
{
	if (buffered(c) || !(c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND))
		return;
	if (c->state == VSOCK_ORPHAN)
		vsock_conn_free(c);
	else if (c->guest_shut == BOTH_WAYS)
		vsock_conn_reset(c);
	else if (!c->no_reader && c->fd >= 0 && !c->shut_writing) {
		/* Once: the call itself is an edge for whoever watches the socket. */
		c->shut_writing = true;
		shutdown(c->fd, SHUT_WR);
	}
}

/* Hand over what is kept. */
static void flush(struct vsock_conn *c)
{
	while (buffered(c) && c->writable && !c->no_reader) {
		struct iovec iov[2];
		ssize_t n = host_write(c, iov, ring_pieces(c, iov));

		if (n > 0) {
			c->forwarded += (uint32_t)n;
			c->buf_at = (uint32_t)((c->buf_at + (size_t)n) % c->window);
		} else if (n == -EAGAIN) {
			c->writable = false;
		} else {
			lose_reader(c);
		}
	}
	if (!buffered(c)) {
		free(c->buf);
		c->buf = NULL;
	}
	tell_credit(c);
}

/* Keep what the host did not take: `len` bytes of the request from `off`. -ENOMEM or 0. */
static int keep(struct vsock_conn *c, const struct vq_req *req, uint64_t off, uint32_t len)
{
	uint32_t held = buffered(c), at, first;

	if (!c->buf) {
		c->buf = malloc(c->window);
		c->buf_at = 0;
		if (!c->buf)
			return -ENOMEM;
	}
	at = (c->buf_at + held) % c->window;
	first = MIN(len, c->window - at);
	vq_req_read(req, off, c->buf + at, first);
	vq_req_read(req, off + first, c->buf, len - first);
	c->received += len;
	return 0;
}

/* Straight to the host, as much as it takes. */
static uint32_t pass_on(struct vsock_conn *c, const struct vq_req *req, uint32_t len)
{
	struct iovec iov[VSOCK_PIECES];
	unsigned nr = vsock_cut(req->iov, req->nr_out, VSOCK_HDR, len, iov);
	ssize_t n = host_write(c, iov, nr);

	if (n == -EAGAIN)
		c->writable = false;
	else if (n < 0)
		lose_reader(c);
	n = MAX(n, 0);
	c->received += (uint32_t)n;
	c->forwarded += (uint32_t)n;
	return (uint32_t)n;
}

/* Data. False: against the rules, or no memory. */
static bool take_data(struct vsock_conn *c, const struct vq_req *req, uint32_t len)
{
	uint32_t passed = 0;

	if (c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND || len > req->out_len - VSOCK_HDR ||
		len > credit(c))
		return false;
	if (len && !c->no_reader && !buffered(c) && c->writable)
		passed = pass_on(c, req, len);
	if (c->no_reader) {
		c->received += len - passed;
		c->forwarded = c->received;
	} else if (passed < len) {
		if (keep(c, req, VSOCK_HDR + passed, len - passed))
			return false;
		/* A part may have been taken only because of how it lay in memory. */
		flush(c);
	}
	tell_credit(c);
	return true;
}

/* --- from the host to the guest --- */

static uint32_t guest_room(const struct vsock_conn *c)
{
	uint32_t under_way = c->sent - c->peer_fwd;

	return under_way < c->peer_alloc ? c->peer_alloc - under_way : 0;
}

static bool wants_data(const struct vsock_conn *c)
{
	return c->state == VSOCK_OPEN && c->readable && !c->eof &&
	       !(c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV);
}

/* What the guest is to know: which ways nothing will go any more. */
static uint32_t shut_flags(const struct vsock_conn *c)
{
	return (c->eof ? (uint32_t)VIRTIO_VSOCK_SHUTDOWN_SEND : 0) |
	       (c->no_reader || (c->eof && c->hup) ? (uint32_t)VIRTIO_VSOCK_SHUTDOWN_RCV : 0);
}

bool vsock_conn_has_news(const struct vsock_conn *c)
{
	return c->tell || (wants_data(c) && guest_room(c));
}

static void host_has_ended(struct vsock_conn *c)
{
	c->eof = true;
	c->tell |= VSOCK_TELL_SHUTDOWN;
}

/* Read into the guest's buffer behind the header: bytes, 0: nothing now or ever. */
static uint32_t read_data(struct vsock_conn *c, const struct vq_req *req)
{
	uint64_t len = MIN(req->in_len - VSOCK_HDR, guest_room(c));
	struct iovec iov[VSOCK_PIECES];
	struct msghdr m = {
		.msg_iov = iov,
		.msg_iovlen = vsock_cut(req->iov + req->nr_out, req->nr_in, VSOCK_HDR, len, iov),
	};
	ssize_t n;

	do
		n = recvmsg(c->fd, &m, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return (uint32_t)n;
	c->readable = false;
	if (n == 0 || errno != EAGAIN)
		host_has_ended(c);
	return 0;
}

/* The op of the next packet, but for data, and 0 if there is none. */
static uint16_t next_word(struct vsock_conn *c, uint32_t *flags)
{
	static const struct {
		unsigned tell;
		uint16_t op;
	} words[] = {
		{ VSOCK_TELL_RESET, VIRTIO_VSOCK_OP_RST },
		{ VSOCK_TELL_REQUEST, VIRTIO_VSOCK_OP_REQUEST },
		{ VSOCK_TELL_RESPONSE, VIRTIO_VSOCK_OP_RESPONSE },
		{ VSOCK_TELL_SHUTDOWN, VIRTIO_VSOCK_OP_SHUTDOWN },
		{ VSOCK_ASK_CREDIT, VIRTIO_VSOCK_OP_CREDIT_REQUEST },
		{ VSOCK_TELL_CREDIT, VIRTIO_VSOCK_OP_CREDIT_UPDATE },
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (!(c->tell & words[i].tell))
			continue;
		c->tell &= ~words[i].tell;
		if (words[i].op == VIRTIO_VSOCK_OP_SHUTDOWN)
			*flags = c->told_shut = shut_flags(c);
		return words[i].op;
	}
	return 0;
}

/* The guest has heard the last of the host's end. */
static void after_word(struct vsock_conn *c, uint16_t op)
{
	if (op == VIRTIO_VSOCK_OP_SHUTDOWN && c->told_shut == BOTH_WAYS) {
		detach(c);
		c->state = VSOCK_SHUT;
		vsock_conn_deadline(c, SHUT_WAIT_NS);
	}
}

static void fill_header(
	struct vsock_conn *c, const struct vq_req *req, uint16_t op, uint32_t flags, uint32_t len)
{
	const struct virtio_vsock_hdr hdr = {
		.src_cid = VSOCK_HOST_CID,
		.dst_cid = c->v->config.guest_cid,
		.src_port = c->host_port,
		.dst_port = c->guest_port,
		.len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.flags = flags,
		.buf_alloc = c->window,
		.fwd_cnt = c->forwarded,
	};

	c->told_forwarded = c->forwarded;
	c->tell &= ~(unsigned)VSOCK_TELL_CREDIT; /* each packet says it */
	vq_req_write(req, 0, &hdr, sizeof(hdr));
}

ssize_t vsock_conn_fill(struct vsock_conn *c, const struct vq_req *req)
{
	const unsigned before_data = VSOCK_TELL_RESET | VSOCK_TELL_REQUEST | VSOCK_TELL_RESPONSE;
	uint32_t flags = 0, len = 0;
	uint16_t op = 0;

	if (!(c->tell & before_data) && wants_data(c) && guest_room(c)) {
		if (req->in_len <= VSOCK_HDR)
			return -ENOBUFS;
		len = read_data(c, req);
		c->sent += len;
		op = len ? VIRTIO_VSOCK_OP_RW : 0;
		if (len && !guest_room(c))
			c->tell |= VSOCK_ASK_CREDIT;
	}
	if (!op)
		op = next_word(c, &flags);
	if (!op)
		return 0;
	fill_header(c, req, op, flags, len);
	after_word(c, op);
	return (ssize_t)VSOCK_HDR + len;
}

/* --- what the guest says --- */

void vsock_conn_open(struct vsock_conn *c)
{
	c->state = VSOCK_OPEN;
	c->deadline_ns = 0;
	c->readable = c->writable = true;
	vsock_conn_news(c);
}

static void guest_shuts(struct vsock_conn *c, uint32_t flags)
{
	c->guest_shut |= flags & BOTH_WAYS;
	if (c->state == VSOCK_SHUT && c->guest_shut == BOTH_WAYS) {
		vsock_conn_reset(c);
		return;
	}
	if (c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV && c->guest_shut != BOTH_WAYS && c->fd >= 0)
		shutdown(c->fd, SHUT_RD);
	finish_writing(c);
}

/* It is over for the guest. */
static void guest_resets(struct vsock_conn *c)
{
	if (c->state == VSOCK_OPEN && c->guest_shut == BOTH_WAYS && buffered(c)) {
		unname(c);
		if (c->ready)
			TAILQ_REMOVE(&c->v->ready, c, turn);
		c->ready = false;
		c->tell = 0;
		c->state = VSOCK_ORPHAN;
	} else {
		vsock_conn_free(c);
	}
}

static void in_open(
	struct vsock_conn *c, const struct virtio_vsock_hdr *hdr, const struct vq_req *req)
{
	switch (hdr->op) {
	case VIRTIO_VSOCK_OP_RW:
		if (take_data(c, req, hdr->len))
			break;
		log_limited(&c->v->limit, LOG_WARN,
			"%s: port %u: %u bytes against the rules of credit, reset",
			c->v->config.name, c->guest_port, hdr->len);
		vsock_conn_reset(c);
		return;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		tell(c, VSOCK_TELL_CREDIT);
		break;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		guest_shuts(c, hdr->flags);
		return;
	default:
		vsock_conn_reset(c);
		return;
	}
	vsock_conn_news(c);
}

static void in_requested(struct vsock_conn *c, const struct virtio_vsock_hdr *hdr)
{
	if (hdr->op != VIRTIO_VSOCK_OP_RESPONSE || !guest_knows(c) || vsock_host_welcome(c))
		vsock_conn_reset(c);
	else
		vsock_conn_open(c);
}

/* What comes after the end is of no use; only the guest's own end matters. */
static void in_shut(struct vsock_conn *c, const struct virtio_vsock_hdr *hdr)
{
	if (hdr->op == VIRTIO_VSOCK_OP_SHUTDOWN)
		guest_shuts(c, hdr->flags);
}

void vsock_conn_packet(
	struct vsock_conn *c, const struct virtio_vsock_hdr *hdr, const struct vq_req *req)
{
	c->peer_alloc = hdr->buf_alloc;
	c->peer_fwd = hdr->fwd_cnt;
	if (hdr->op == VIRTIO_VSOCK_OP_RST) {
		guest_resets(c);
		return;
	}
	switch (c->state) {
	case VSOCK_OPEN:
		in_open(c, hdr, req);
		break;
	case VSOCK_REQUESTED:
		in_requested(c, hdr);
		break;
	case VSOCK_SHUT:
		in_shut(c, hdr);
		break;
	case VSOCK_DEAD:
		break;
	default:
		vsock_conn_reset(c);
	}
}

/* --- what the host's socket says --- */

/* The host's program has closed: what it wrote is read first, unless the guest will not. */
static void host_hangs_up(struct vsock_conn *c)
{
	if (c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV)
		c->eof = true;
	if (shut_flags(c) != c->told_shut)
		tell(c, VSOCK_TELL_SHUTDOWN);
}

static void in_use(struct vsock_conn *c)
{
	flush(c);
	if (c->hup)
		host_hangs_up(c);
	vsock_conn_news(c);
	finish_writing(c);
}

static void on_socket(struct loop_source *source, uint32_t events)
{
	struct vsock_conn *c = container_of(source, struct vsock_conn, source);

	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		c->readable = true;
	if (events & EPOLLOUT)
		c->writable = true;
	if (events & (EPOLLHUP | EPOLLERR))
		c->hup = true;
	if (c->state == VSOCK_HELLO)
		vsock_host_hello(c);
	else if (c->state == VSOCK_REQUESTED && c->hup)
		vsock_conn_reset(c);
	else if (c->state == VSOCK_OPEN || c->state == VSOCK_ORPHAN)
		in_use(c);
}

int vsock_conn_attach(struct vsock_conn *c, int fd)
{
	int rc;

	assert(c->fd < 0);
	rc = loop_add(c->v->model.loop, &c->source, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
		on_socket);
	c->fd = fd;
	return rc;
}

void vsock_conn_late(struct vsock_conn *c)
{
	vsock_conn_reset(c);
}
