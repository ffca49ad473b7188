/*
 * console_port.c - the bytes of one console port, both ways
 *
 * Bytes move between the host end and the guest's memory without a copy. No request stays open: one
 * that the host end cannot take yet goes back into the ring, and `sent` remembers how much of it is
 * done. A read that brings nothing gives its buffer back, too. So a stop is done at once, and a
 * restarted process finds everything in the ring.
 *
 * Trusts: nothing in the rings. Parts of a request in the wrong direction are ignored; one with
 *         too many pieces is given back.
 */
#include "device/console_port.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"

#define MAX_PIECES    64
#define TURN_REQUESTS 64
#define TURN_BYTES    (256 * KIB)

/* From the guest */

/* The readable pieces behind the first `skip` bytes: their number. */
static unsigned readable_pieces(const struct vq_req *req, uint64_t skip, struct iovec *out)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < req->nr_out; i++) {
		const struct iovec *piece = &req->iov[i];
		uint64_t done = MIN(skip, piece->iov_len);

		skip -= done;
		if (piece->iov_len > done)
			out[nr++] = (struct iovec){ (char *)piece->iov_base + done,
				piece->iov_len - done };
	}
	return nr;
}

/* True: the request is done. False: it waits for the end. */
static bool send_request(struct console_port *p, const struct vq_req *req)
{
	struct iovec pieces[MAX_PIECES];

	while (p->sent < req->out_len) {
		unsigned nr = readable_pieces(req, p->sent, pieces);
		ssize_t n = console_end_writev(p->end, pieces, nr);

		if (n == -EAGAIN)
			return false;
		if (n <= 0)
			break; /* no client: nobody is there to hear it */
		p->sent += (uint64_t)n;
	}
	p->sent = 0;
	return true;
}

static bool serve_tx(struct loop_queue *q)
{
	struct console_port *p = container_of(q, struct console_port, tx);
	uint64_t bytes = 0;
	bool more = true;

	for (unsigned i = 0; more && i < TURN_REQUESTS && bytes < TURN_BYTES; i++) {
		struct iovec iov[MAX_PIECES];
		uint64_t iova[MAX_PIECES];
		struct vq_req req = { .iov = iov, .iova = iova, .max_iov = MAX_PIECES };
		int bad = 0;

		more = loop_queue_pop(q, &req, &bad) > 0;
		if (!more)
			break;
		bytes += req.out_len;
		if (p->console) {
			console_end_put(p->end, req.iov, req.nr_out);
		} else if (!bad && !send_request(p, &req)) {
			vq_unpop(q->vq, &req);
			more = false;
			break;
		}
		vq_push(q->vq, &req, 0);
	}
	vq_notify(q->vq);
	return more;
}

static void writable(void *arg)
{
	struct console_port *p = arg;

	loop_queue_wake(&p->tx);
}

/* To the guest */

enum outcome { GIVEN, NO_INPUT };

static enum outcome fill_request(struct console_port *p, struct vq_req *req)
{
	ssize_t n = req->in_len ? console_end_readv(p->end, req->iov + req->nr_out, req->nr_in)
				: -EFAULT;

	if (n == 0) {
		vq_unpop(p->rx.vq, req);
		return NO_INPUT;
	}
	vq_push(p->rx.vq, req, n > 0 ? (uint32_t)n : 0);
	return GIVEN;
}

static bool serve_rx(struct loop_queue *q)
{
	struct console_port *p = container_of(q, struct console_port, rx);
	bool more = p->open, input_wanted = false;

	for (unsigned i = 0; more && i < TURN_REQUESTS; i++) {
		struct iovec iov[MAX_PIECES];
		uint64_t iova[MAX_PIECES];
		struct vq_req req = { .iov = iov, .iova = iova, .max_iov = MAX_PIECES };
		int bad = 0;

		more = loop_queue_pop(q, &req, &bad) > 0;
		if (!more)
			break;
		if (bad) {
			vq_push(q->vq, &req, 0);
		} else if (fill_request(p, &req) == NO_INPUT) {
			input_wanted = true;
			more = false;
		}
	}
	vq_notify(q->vq);
	console_end_want_input(p->end, input_wanted);
	return more;
}

/* The ring is looked at when there is input: what it holds may have changed since. */
static void readable(void *arg)
{
	struct console_port *p = arg;

	if (!p->rx.vq)
		console_end_want_input(p->end, false);
	else if (serve_rx(&p->rx))
		loop_queue_wake(&p->rx);
}

void console_port_open(struct console_port *p, bool open)
{
	p->open = open;
	loop_queue_wake(&p->rx);
}

void console_port_connected(struct console_port *p)
{
	/* A new client has no use for the second half of what was meant for another. */
	loop_queue_wake(&p->rx);
	loop_queue_wake(&p->tx);
}

/* Life */

int console_port_start_rx(struct console_port *p, struct vq *vq)
{
	return loop_queue_start(&p->rx, p->loop, vq, p->name, serve_rx);
}

int console_port_start_tx(struct console_port *p, struct vq *vq)
{
	if (vq_is_new(vq))
		p->sent = 0;
	return loop_queue_start(&p->tx, p->loop, vq, p->name, serve_tx);
}

void console_port_stop_rx(struct console_port *p)
{
	loop_queue_stop(&p->rx);
	console_end_want_input(p->end, false);
}

void console_port_stop_tx(struct console_port *p)
{
	loop_queue_stop(&p->tx);
}

int console_port_init(struct console_port *p, struct loop *loop, const char *name, bool console,
	const struct console_end_config *end, const struct console_end_user *user, struct err *err)
{
	struct console_end_user own = *user;

	own.readable = readable;
	own.writable = writable;
	p->loop = loop;
	p->name = name;
	p->console = console;
	return console_end_new(&p->end, loop, name, end, &own, err);
}

void console_port_fini(struct console_port *p)
{
	loop_queue_stop(&p->rx);
	loop_queue_stop(&p->tx);
	console_end_free(p->end);
	p->end = NULL;
}
