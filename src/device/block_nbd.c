/*
 * block_nbd.c - a disk's bytes at an NBD server
 *
 * Each I/O thread has a connection, made before the process is confined and served by the thread
 * that watches its socket. libnbd does the protocol; it is loaded when a disk needs it, since its
 * own libraries would otherwise cost each device process more memory than all else that is in it.
 *
 * A command of NBD has one buffer. A request of one piece is that; one of several pieces
 * is copied through a buffer of its own, a chunk at a time. A connection has a few such buffers,
 * and whoever finds none waits for one.
 *
 * libnbd calls back with its lock held, so what is complete is put on a list, and answered when
 * the call that led to it has come back.
 *
 * A connection that is lost is made again, with back-off, for as long as it takes; the socket comes
 * from a process of its own (connector.h), since this one has given up what it takes. Requests wait
 * meanwhile, and what was under way is sent again: whether the server did it is not known, and all
 * of them come to the same when they are done twice before their driver hears of them. An export of
 * another size, or that can do less, is another disk and not used. With TLS there is no second
 * connection, whose certificates could not be read any more: then requests fail, and one line says
 * so.
 *
 *	UP -> (lost) DOWN -> (socket) SHAKING -> (ready) UP
 *
 * Owns:    the handles and buffers, and the processes that connect.
 * Threads: a connection is its thread's after the first operation.
 * Trusts:  the server with the contents of the disk, and libnbd with the server.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "device/block_nbd_priv.h"

/* Events taken in a row before others have their turn. */
#define MAX_EVENTS   256
#define MAX_DELAY_NS (5 * NS_PER_S)
/* A server that took the connection has that long to say what it has. */
#define SHAKE_NS (10 * NS_PER_S)

static void next_chunk(struct nbd_job *j);
static void check_state(struct nbd_connection *c);

/* Answers */

static int on_complete(void *arg, int *error)
{
	struct nbd_job *j = arg;
	struct nbd_connection *c = j->c;

	j->error = *error;
	j->complete = true;
	j->next = NULL;
	*c->done_end = j;
	c->done_end = &j->next;
	return 1; /* libnbd may forget the command */
}

static void wake_waiting(struct nbd_connection *c)
{
	struct nbd_job *j = c->waiting;

	c->waiting = j->next;
	if (!c->waiting)
		c->waiting_end = &c->waiting;
	next_chunk(j);
}

static void finish(struct nbd_job *j, int error)
{
	struct nbd_connection *c = j->c;
	struct block_io *io = j->io;

	if (j->bounce) {
		j->bounce->next = c->bounces;
		c->bounces = j->bounce;
		j->bounce = NULL;
	}
	j->next = c->free;
	c->free = j;
	io->done(io, error);
}

/* From or to the pieces, `len` bytes from where the operation is. */
static void copy_chunk(struct nbd_job *j, bool out)
{
	struct block_io *io = j->io;
	uint8_t *at = j->bounce->bytes;
	uint64_t left = j->chunk;

	while (left) {
		const struct iovec *piece = &io->iov[io->at];
		uint64_t n = MIN(left, piece->iov_len - io->at_off);

		if (out)
			memcpy(at, (uint8_t *)piece->iov_base + io->at_off, n);
		else
			memcpy((uint8_t *)piece->iov_base + io->at_off, at, n);
		at += n;
		left -= n;
		block_io_advance(io, n);
	}
}

/* A durable write at a server that knows no such thing has a flush behind it. */
static bool must_flush(const struct nbd_job *j)
{
	bool writes = j->io->op == BLOCK_WRITE || j->io->op == BLOCK_ZERO;

	return writes && j->io->durable && !j->c->n->can_fua && j->c->n->can_flush;
}

/* It is begun, or sent again, when there is a connection. */
static void park(struct nbd_job *j, bool again)
{
	struct nbd_connection *c = j->c;

	j->again = again;
	j->next = NULL;
	*c->parked_end = j;
	c->parked_end = &j->next;
}

static void chunk_done(struct nbd_job *j)
{
	struct block_io *io = j->io;

	/*
	 * Whether it has failed or only its connection: a call for
	 * another one may have found that out.
	 */
	if (j->error)
		check_state(j->c);
	if (j->error && j->c->state != NBD_UP && !j->c->lost) {
		park(j, true);
		return;
	}
	if (!j->error && !j->flushing) {
		if (j->bounce && io->op == BLOCK_READ)
			copy_chunk(j, false);
		else if (!j->bounce)
			io->moved += j->chunk;
	}
	if (j->error || (io->moved >= io->len && (j->flushing || !must_flush(j))))
		finish(j, -j->error);
	else
		next_chunk(j);
}

static void answer_done(struct nbd_connection *c)
{
	struct nbd_job *j;

	if (c->answering)
		return;
	c->answering = true;
	while (c->done || (c->waiting && c->bounces)) {
		j = c->done;
		if (!j) {
			wake_waiting(c);
			continue;
		}
		c->done = j->next;
		if (!c->done)
			c->done_end = &c->done;
		j->complete = false;
		chunk_done(j);
	}
	c->answering = false;
}

/* Commands */

static int64_t start_transfer(struct nbd_job *j, nbd_completion_callback done)
{
	struct nbd_functions *f = &j->c->n->f;
	struct block_io *io = j->io;
	/* What is to be written lies in the buffer already. */
	bool kept = j->again && j->bounce && io->op == BLOCK_WRITE;
	uint32_t flags = 0;
	uint8_t *at;

	if (!kept) {
		j->off = io->off + io->moved;
		j->chunk = MIN(
			io->len - io->moved, j->bounce ? NBD_BOUNCE_SIZE : j->c->n->max_command);
	}
	at = j->bounce ? j->bounce->bytes : (uint8_t *)io->iov->iov_base + io->moved;
	if (io->op == BLOCK_READ)
		return f->aio_pread(j->c->h, at, j->chunk, j->off, done, 0);
	if (io->durable && j->c->n->can_fua)
		flags = LIBNBD_CMD_FLAG_FUA;
	if (j->bounce && !kept)
		copy_chunk(j, true);
	return f->aio_pwrite(j->c->h, at, j->chunk, j->off, done, flags);
}

static int64_t start(struct nbd_job *j)
{
	struct nbd_functions *f = &j->c->n->f;
	struct block_io *io = j->io;
	nbd_completion_callback done = { .callback = on_complete, .user_data = j };
	uint32_t fua = io->durable && j->c->n->can_fua ? LIBNBD_CMD_FLAG_FUA : 0;

	if (!j->again)
		j->flushing = io->moved && io->moved >= io->len;
	if (j->flushing)
		return f->aio_flush(j->c->h, done, 0);
	switch (io->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		return start_transfer(j, done);
	case BLOCK_FLUSH:
		return f->aio_flush(j->c->h, done, 0);
	case BLOCK_DISCARD:
		j->chunk = io->len;
		return f->aio_trim(j->c->h, io->len, io->off, done, 0);
	case BLOCK_ZERO:
		j->chunk = io->len;
		return f->aio_zero(j->c->h, io->len, io->off, done,
			fua | (io->unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE));
	}
	return -1;
}

static bool take_bounce(struct nbd_job *j)
{
	struct nbd_connection *c = j->c;

	if (c->bounces) {
		j->bounce = c->bounces;
		c->bounces = j->bounce->next;
	} else if (c->nr_bounces < NBD_MAX_BOUNCES) {
		j->bounce = malloc(sizeof(*j->bounce));
		c->nr_bounces += !!j->bounce;
	}
	return j->bounce;
}

static void next_chunk(struct nbd_job *j)
{
	struct nbd_connection *c = j->c;
	int error;

	if (c->state != NBD_UP && !c->lost) {
		park(j, j->again);
		return;
	}
	if (j->io->nr_iov > 1 && !j->bounce && !take_bounce(j)) {
		if (!c->nr_bounces) {
			finish(j, -ENOMEM);
			return;
		}
		j->next = NULL;
		*c->waiting_end = j;
		c->waiting_end = &j->next;
		return;
	}
	if (!c->lost && start(j) >= 0) {
		j->again = false;
		return;
	}
	/* The call has failed, and been answered with the connection's end as well. */
	if (j->complete)
		return;
	error = c->lost ? ENOTCONN : c->n->f.get_errno();
	check_state(c);
	if (c->state != NBD_UP && !c->lost)
		park(j, true);
	else
		finish(j, error ? -error : -EIO);
}

/* Down and up again */

static void on_socket(struct iothread_watch *w, uint32_t events);

static void resume(struct nbd_connection *c)
{
	struct nbd_job *j = c->parked, *next;

	c->parked = NULL;
	c->parked_end = &c->parked;
	for (; j; j = next) {
		next = j->next;
		if (j->io->dropped)
			finish(j, -ECANCELED);
		else
			next_chunk(j);
	}
}

/* There will be no other. */
static void give_up(struct nbd_connection *c, const char *why)
{
	c->lost = true;
	log_err("NBD: the connection to the server is lost; its disk answers with errors: %s", why);
	resume(c);
	answer_done(c);
}

static void retry_later(struct nbd_connection *c)
{
	iothread_timer_set(c->t, &c->retry, clock_now_ns() + c->delay_ns);
	c->delay_ns = MIN(2 * c->delay_ns, (uint64_t)MAX_DELAY_NS);
}

/* Nobody looks at the old one any more. */
static void on_unwatched(struct iothread_watch *w)
{
	struct nbd_connection *c = container_of(w, struct nbd_connection, watch);

	if (c->leaving)
		return;
	c->n->f.close(c->h);
	c->h = NULL;
	answer_done(c);
	retry_later(c);
}

static void lose(struct nbd_connection *c)
{
	if (c->connector.fd < 0) {
		give_up(c, "there is no way to another");
		return;
	}
	if (c->state == NBD_UP)
		log_warn(
			"NBD: the connection to the server is lost; requests wait until there is another");
	c->state = NBD_DOWN;
	iothread_timer_del(&c->again);
	iothread_timer_del(&c->retry);
	if (c->watch.t)
		iothread_unwatch(&c->watch, on_unwatched);
	else
		on_unwatched(&c->watch);
}

static bool is_the_same(const struct nbd_connection *c)
{
	const struct nbd *n = c->n;

	return n->f.get_size(c->h) == n->export_size &&
	       (n->store.read_only || n->f.is_read_only(c->h) == 0) &&
	       (!n->can_flush || n->f.can_flush(c->h) == 1) &&
	       (!n->can_fua || n->f.can_fua(c->h) == 1) &&
	       (!n->store.can_discard || n->f.can_trim(c->h) == 1) &&
	       (!n->store.can_zero || n->f.can_zero(c->h) == 1);
}

static void come_up(struct nbd_connection *c)
{
	iothread_timer_del(&c->retry);
	if (!is_the_same(c)) {
		log_limited(&c->n->limit, LOG_WARN,
			"NBD: the server has another export than before (%lld bytes, expected %lld): it is "
			"asked again",
			(long long)c->n->f.get_size(c->h), (long long)c->n->export_size);
		lose(c);
		return;
	}
	c->state = NBD_UP;
	c->delay_ns = NBD_FIRST_DELAY_NS;
	log_warn("NBD: the server is back");
	resume(c);
}

static void check_state(struct nbd_connection *c)
{
	struct nbd_functions *f = &c->n->f;

	if (c->lost || c->state == NBD_DOWN)
		return;
	if (f->aio_is_ready(c->h) == 1) {
		if (c->state == NBD_SHAKING)
			come_up(c);
	} else if (f->aio_is_processing(c->h) != 1 &&
		   (c->state == NBD_UP || f->aio_is_connecting(c->h) != 1)) {
		lose(c);
	}
}

/* Takes fd. */
static void shake_hands(struct nbd_connection *c, int fd)
{
	struct nbd_functions *f = &c->n->f;
	int rc = -1;

	c->h = f->create();
	if (c->h && !f->set_export_name(c->h, c->n->export) && !f->aio_connect_socket(c->h, fd))
		rc = iothread_watch(
			c->t, &c->watch, f->aio_get_fd(c->h), EPOLLIN | EPOLLOUT, on_socket);
	else
		close(fd);
	if (rc) {
		if (c->h)
			f->close(c->h);
		c->h = NULL;
		retry_later(c);
		return;
	}
	c->state = NBD_SHAKING;
	iothread_timer_set(c->t, &c->retry, clock_now_ns() + SHAKE_NS);
	on_socket(&c->watch, 0);
}

static void on_answer(struct iothread_watch *w, uint32_t events)
{
	struct nbd_connection *c = container_of(w, struct nbd_connection, answers);
	struct connector_answer a;
	int fd, rc;

	while ((rc = connector_answer(&c->connector, &a, &fd)) > 0) {
		bool wanted = c->state == NBD_DOWN && a.ask.serial == c->serial;

		if (wanted && fd >= 0)
			shake_hands(c, fd);
		else if (wanted)
			retry_later(c);
		else
			fd_close(&fd);
	}
	/* Whoever has a connection uses that; the next loss finds out that there is no other. */
	if (rc < 0 && !c->lost && c->state == NBD_DOWN) {
		iothread_timer_del(&c->retry);
		give_up(c, "the process that connects is gone");
	}
}

static void on_retry(struct iothread_timer *timer)
{
	struct nbd_connection *c = container_of(timer, struct nbd_connection, retry);
	struct connector_ask ask = { .serial = ++c->serial };
	int rc = 0;

	if (c->state == NBD_SHAKING) {
		lose(c);
		return;
	}
	if (!c->answers.t)
		rc = iothread_watch(c->t, &c->answers, c->connector.fd, EPOLLIN, on_answer);
	if (!rc)
		rc = connector_ask(&c->connector, &ask);
	if (rc)
		give_up(c, "the process that connects cannot be asked");
}

/* The socket */

/* The watch tells of edges, libnbd takes one event at a time. */
static void on_socket(struct iothread_watch *w, uint32_t events)
{
	struct nbd_connection *c = container_of(w, struct nbd_connection, watch);
	struct nbd_functions *f = &c->n->f;

	for (int i = 0; !c->lost && c->state != NBD_DOWN; i++) {
		unsigned direction = f->aio_get_direction(c->h);
		struct pollfd pfd = { .fd = w->fd };

		if (direction & LIBNBD_AIO_DIRECTION_READ)
			pfd.events |= POLLIN;
		if (direction & LIBNBD_AIO_DIRECTION_WRITE)
			pfd.events |= POLLOUT;
		if (poll(&pfd, 1, 0) <= 0)
			break;
		if (i == MAX_EVENTS) {
			/* Not at a time in the past, which would be in the same round again. */
			iothread_timer_set(w->t, &c->again, clock_now_ns());
			break;
		}
		if (pfd.revents & (POLLIN | POLLHUP | POLLERR) && pfd.events & POLLIN)
			f->aio_notify_read(c->h);
		else
			f->aio_notify_write(c->h);
		check_state(c);
		answer_done(c);
	}
}

static void on_again(struct iothread_timer *timer)
{
	on_socket(&container_of(timer, struct nbd_connection, again)->watch, 0);
}

static struct nbd_job *take_job(struct nbd_connection *c)
{
	struct nbd_job *j = c->free;

	if (j)
		c->free = j->next;
	else
		j = calloc(1, sizeof(*j));
	return j;
}

static void nbd_submit(struct block_store *s, struct block_io *io)
{
	struct nbd *n = container_of(s, struct nbd, store);
	struct nbd_connection *c = &n->connections[io->thread];
	struct nbd_job *j;
	int rc = 0;

	if (io->op == BLOCK_FLUSH && !n->can_flush) {
		io->done(io, 0);
		return;
	}
	c->t = io->t;
	if (c->state == NBD_UP && !c->watch.t)
		rc = iothread_watch(
			io->t, &c->watch, n->f.aio_get_fd(c->h), EPOLLIN | EPOLLOUT, on_socket);
	j = rc ? NULL : take_job(c);
	if (!j) {
		io->done(io, rc ? rc : -ENOMEM);
		return;
	}
	*j = (struct nbd_job){ .io = io, .c = c };
	io->moved = io->at_off = 0;
	io->at = 0;
	next_chunk(j);
	answer_done(c);
	/* What came with the answers that this call took has had its edge already. */
	if (c->watch.t)
		on_socket(&c->watch, 0);
}

static void nbd_leave(struct block_store *s, unsigned thread)
{
	struct nbd *n = container_of(s, struct nbd, store);
	struct nbd_connection *c = &n->connections[thread];

	iothread_timer_del(&c->again);
	iothread_timer_del(&c->retry);
	c->leaving = true;
	/* A connection that is down has been let go of, or is being. */
	if (c->watch.t && c->state != NBD_DOWN)
		iothread_unwatch(&c->watch, NULL);
	if (c->answers.t)
		iothread_unwatch(&c->answers, NULL);
}

const struct block_store_ops block_nbd_ops = {
	.submit = nbd_submit,
	.leave = nbd_leave,
	.free = block_nbd_free,
};

void block_nbd_init_connection(struct nbd *n, struct nbd_connection *c)
{
	c->n = n;
	c->again.fn = on_again;
	c->retry.fn = on_retry;
	c->delay_ns = NBD_FIRST_DELAY_NS;
	c->connector.fd = -1;
	c->done_end = &c->done;
	c->waiting_end = &c->waiting;
	c->parked_end = &c->parked;
}
