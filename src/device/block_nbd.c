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
 * A connection that is lost stays lost: this process has given up what it takes to make another
 * one. Its requests fail, and one line says so.
 *
 * Owns:    the handles and buffers.
 * Threads: a connection is its thread's after the first operation.
 * Trusts:  the server with the contents of the disk, and libnbd with the server.
 */
#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "device/block.h"

/* Without any size from the server: what all of them take in one command. */
#define MAX_COMMAND (32 * MIB)
#define BOUNCE_SIZE (1 * MIB)
#define MAX_BOUNCES 16u
/* Events taken in a row before others have their turn. */
#define MAX_EVENTS 256

/* The functions of libnbd that are used: X(name) */
#define FUNCTIONS(X)                                                                               \
	X(create)                                                                                  \
	X(close)                                                                                   \
	X(get_error)                                                                               \
	X(get_errno)                                                                               \
	X(set_uri_allow_local_file)                                                                \
	X(connect_uri)                                                                             \
	X(get_size)                                                                                \
	X(get_block_size)                                                                          \
	X(is_read_only)                                                                            \
	X(can_flush)                                                                               \
	X(can_fua)                                                                                 \
	X(can_trim)                                                                                \
	X(can_zero)                                                                                \
	X(can_multi_conn)                                                                          \
	X(aio_get_fd)                                                                              \
	X(aio_get_direction)                                                                       \
	X(aio_notify_read)                                                                         \
	X(aio_notify_write)                                                                        \
	X(aio_is_ready)                                                                            \
	X(aio_is_processing)                                                                       \
	X(aio_pread)                                                                               \
	X(aio_pwrite)                                                                              \
	X(aio_flush)                                                                               \
	X(aio_trim)                                                                                \
	X(aio_zero)

#define POINTER(name) __typeof__(nbd_##name) *name;
struct functions {
	void *library;
	FUNCTIONS(POINTER)
};

struct nbd;

struct bounce {
	struct bounce *next;
	uint8_t bytes[BOUNCE_SIZE];
};

struct job {
	struct block_io *io;
	struct job *next;
	struct connection *c;
	struct bounce *bounce;
	uint64_t chunk; /* bytes of the command under way */
	bool flushing;	/* that is what is under way, for a durable write */
	int error;
};

struct connection {
	struct nbd *n;
	struct nbd_handle *h;
	struct iothread_watch watch;
	struct iothread_timer again; /* there are more events */
	struct job *free;
	struct job *done, **done_end;
	struct job *waiting, **waiting_end; /* for a bounce buffer */
	struct bounce *bounces;
	unsigned nr_bounces;
	bool answering, lost;
};

struct nbd {
	struct block_store store;
	struct functions f;
	bool can_flush, can_fua;
	uint64_t max_command;
	unsigned nr;
	struct connection *connections;
};

static void next_chunk(struct job *j);

/* Answers */

static int on_complete(void *arg, int *error)
{
	struct job *j = arg;
	struct connection *c = j->c;

	j->error = *error;
	j->next = NULL;
	*c->done_end = j;
	c->done_end = &j->next;
	return 1; /* libnbd may forget the command */
}

static void wake_waiting(struct connection *c)
{
	struct job *j = c->waiting;

	c->waiting = j->next;
	if (!c->waiting)
		c->waiting_end = &c->waiting;
	next_chunk(j);
}

static void finish(struct job *j, int error)
{
	struct connection *c = j->c;
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
static void copy_chunk(struct job *j, bool out)
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
static bool must_flush(const struct job *j)
{
	bool writes = j->io->op == BLOCK_WRITE || j->io->op == BLOCK_ZERO;

	return writes && j->io->durable && !j->c->n->can_fua && j->c->n->can_flush;
}

static void chunk_done(struct job *j)
{
	struct block_io *io = j->io;

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

static void answer_done(struct connection *c)
{
	struct job *j;

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
		chunk_done(j);
	}
	c->answering = false;
}

/* Commands */

static int64_t start_transfer(struct job *j, nbd_completion_callback done)
{
	struct functions *f = &j->c->n->f;
	struct block_io *io = j->io;
	uint64_t off = io->off + io->moved;
	uint8_t *at;
	uint32_t flags = 0;

	j->chunk = MIN(io->len - io->moved, j->bounce ? BOUNCE_SIZE : j->c->n->max_command);
	at = j->bounce ? j->bounce->bytes : (uint8_t *)io->iov->iov_base + io->moved;
	if (io->op == BLOCK_READ)
		return f->aio_pread(j->c->h, at, j->chunk, off, done, 0);
	if (io->durable && j->c->n->can_fua)
		flags = LIBNBD_CMD_FLAG_FUA;
	if (j->bounce)
		copy_chunk(j, true);
	return f->aio_pwrite(j->c->h, at, j->chunk, off, done, flags);
}

static int64_t start(struct job *j)
{
	struct functions *f = &j->c->n->f;
	struct block_io *io = j->io;
	nbd_completion_callback done = { .callback = on_complete, .user_data = j };
	uint32_t fua = io->durable && j->c->n->can_fua ? LIBNBD_CMD_FLAG_FUA : 0;

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

static bool take_bounce(struct job *j)
{
	struct connection *c = j->c;

	if (c->bounces) {
		j->bounce = c->bounces;
		c->bounces = j->bounce->next;
	} else if (c->nr_bounces < MAX_BOUNCES) {
		j->bounce = malloc(sizeof(*j->bounce));
		c->nr_bounces += !!j->bounce;
	}
	return j->bounce;
}

static void next_chunk(struct job *j)
{
	struct connection *c = j->c;
	int error;

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
	if (start(j) >= 0)
		return;
	error = c->lost ? ENOTCONN : c->n->f.get_errno();
	finish(j, error ? -error : -EIO);
}

/* The socket */

static void check_lost(struct connection *c)
{
	struct functions *f = &c->n->f;

	if (c->lost || f->aio_is_ready(c->h) == 1 || f->aio_is_processing(c->h) == 1)
		return;
	c->lost = true;
	log_err("NBD: the connection to the server is lost; its disk answers with errors");
}

/* The watch tells of edges, libnbd takes one event at a time. */
static void on_socket(struct iothread_watch *w, uint32_t events)
{
	struct connection *c = container_of(w, struct connection, watch);
	struct functions *f = &c->n->f;

	for (int i = 0; !c->lost; i++) {
		unsigned direction = f->aio_get_direction(c->h);
		struct pollfd pfd = { .fd = w->fd };

		if (direction & LIBNBD_AIO_DIRECTION_READ)
			pfd.events |= POLLIN;
		if (direction & LIBNBD_AIO_DIRECTION_WRITE)
			pfd.events |= POLLOUT;
		if (poll(&pfd, 1, 0) <= 0)
			break;
		if (i == MAX_EVENTS) {
			iothread_timer_set(w->t, &c->again, 0);
			break;
		}
		if (pfd.revents & (POLLIN | POLLHUP | POLLERR) && pfd.events & POLLIN)
			f->aio_notify_read(c->h);
		else
			f->aio_notify_write(c->h);
		answer_done(c);
		check_lost(c);
	}
}

static void on_again(struct iothread_timer *timer)
{
	on_socket(&container_of(timer, struct connection, again)->watch, 0);
}

static struct job *take_job(struct connection *c)
{
	struct job *j = c->free;

	if (j)
		c->free = j->next;
	else
		j = calloc(1, sizeof(*j));
	return j;
}

static void nbd_submit(struct block_store *s, struct block_io *io)
{
	struct nbd *n = container_of(s, struct nbd, store);
	struct connection *c = &n->connections[io->thread];
	struct job *j;
	int rc = 0;

	if (io->op == BLOCK_FLUSH && !n->can_flush) {
		io->done(io, 0);
		return;
	}
	if (!c->watch.t)
		rc = iothread_watch(
			io->t, &c->watch, n->f.aio_get_fd(c->h), EPOLLIN | EPOLLOUT, on_socket);
	j = rc ? NULL : take_job(c);
	if (!j) {
		io->done(io, rc ? rc : -ENOMEM);
		return;
	}
	*j = (struct job){ .io = io, .c = c };
	io->moved = io->at_off = 0;
	io->at = 0;
	next_chunk(j);
	answer_done(c);
	/* What came with the answers that this call took has had its edge already. */
	on_socket(&c->watch, 0);
}

static void nbd_leave(struct block_store *s, unsigned thread)
{
	struct nbd *n = container_of(s, struct nbd, store);
	struct connection *c = &n->connections[thread];

	iothread_timer_del(&c->again);
	if (c->watch.t)
		iothread_unwatch(&c->watch, NULL);
}

/* Set-up */

static void free_connection(struct connection *c)
{
	if (c->h)
		c->n->f.close(c->h);
	while (c->free) {
		struct job *j = c->free;

		c->free = j->next;
		free(j);
	}
	while (c->bounces) {
		struct bounce *b = c->bounces;

		c->bounces = b->next;
		free(b);
	}
}

static void nbd_free(struct block_store *s)
{
	struct nbd *n = container_of(s, struct nbd, store);

	for (unsigned i = 0; n->connections && i < n->nr; i++)
		free_connection(&n->connections[i]);
	free(n->connections);
	if (n->f.library)
		dlclose(n->f.library);
	free(n);
}

static const struct block_store_ops nbd_ops = {
	.submit = nbd_submit,
	.leave = nbd_leave,
	.free = nbd_free,
};

static int load(struct functions *f, struct err *err)
{
	f->library = dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);
	if (!f->library)
		return err_set(err, -ENOENT, "libnbd cannot be loaded: %s", dlerror());
#define LOOK_UP(name)                                                                              \
	f->name = (__typeof__(nbd_##name) *)dlsym(f->library, "nbd_" #name);                       \
	if (!f->name)                                                                              \
		return err_set(err, -ENOENT, "libnbd has no nbd_" #name);
	FUNCTIONS(LOOK_UP)
	return 0;
}

static int failed(struct nbd *n, struct err *err)
{
	int error = n->f.get_errno();
	const char *text = n->f.get_error();

	return err_set(err, error ? -error : -EIO, "%s", text ? text : "libnbd failed");
}

static int connect_all(struct nbd *n, const char *uri, struct err *err)
{
	for (unsigned i = 0; i < n->nr; i++) {
		struct connection *c = &n->connections[i];

		c->n = n;
		c->again.fn = on_again;
		c->done_end = &c->done;
		c->waiting_end = &c->waiting;
		c->h = n->f.create();
		if (!c->h || n->f.set_uri_allow_local_file(c->h, true) ||
			n->f.connect_uri(c->h, uri))
			return failed(n, err);
		if (n->nr > 1 && n->f.can_multi_conn(c->h) != 1)
			return err_set(err, -ENOTSUP,
				"the server wants a single connection: expected --threads=1");
	}
	return 0;
}

static int learn(struct nbd *n, bool read_only, struct err *err)
{
	struct nbd_handle *h = n->connections[0].h;
	int64_t size = n->f.get_size(h);
	int64_t min = n->f.get_block_size(h, LIBNBD_SIZE_MINIMUM);
	int64_t preferred = n->f.get_block_size(h, LIBNBD_SIZE_PREFERRED);
	int64_t max = n->f.get_block_size(h, LIBNBD_SIZE_MAXIMUM);

	if (size < 0)
		return failed(n, err);
	if (!read_only && n->f.is_read_only(h) != 0)
		return err_set(err, -EROFS, "the export is read-only: expected --read-only");
	n->can_flush = n->f.can_flush(h) == 1;
	n->can_fua = n->f.can_fua(h) == 1;
	n->max_command = max >= (int64_t)MIB ? MIN((uint64_t)max, MAX_COMMAND) : MAX_COMMAND;
	n->store = (struct block_store){
		.ops = &nbd_ops,
		.size = align_down((uint64_t)size, BLOCK_SECTOR),
		.block_size =
			min > BLOCK_SECTOR && is_pow2((uint64_t)min) ? (uint32_t)min : BLOCK_SECTOR,
		.physical_size = preferred > 0 && is_pow2((uint64_t)preferred)
					 ? (uint32_t)MIN(preferred, (int64_t)MIB)
					 : 4096,
		.read_only = read_only,
		.can_discard = !read_only && n->f.can_trim(h) == 1,
		.can_zero = !read_only && n->f.can_zero(h) == 1,
	};
	return 0;
}

int block_nbd_new(struct block_store **out, const char *uri, unsigned nr_threads, bool read_only,
	struct err *err)
{
	struct nbd *n = calloc(1, sizeof(*n));
	int rc;

	if (!n)
		return err_set(err, -ENOMEM, "out of memory");
	n->nr = nr_threads;
	n->connections = calloc(nr_threads, sizeof(*n->connections));
	rc = n->connections ? load(&n->f, err) : err_set(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = connect_all(n, uri, err);
	if (!rc)
		rc = learn(n, read_only, err);
	if (rc) {
		nbd_free(&n->store);
		return err_prefix(err, rc, "--file %s", uri);
	}
	*out = &n->store;
	return 0;
}
