/*
 * rng.c - virtio entropy device: random bytes from the kernel or from a file
 *
 * A request is answered with what one read of the source gives, up to 64 KiB: a driver looks how
 * much it was. A source that has nothing for now keeps the request in the ring until it has: epoll
 * tells of a FIFO or a device, a timer looks at what epoll cannot watch. The watch is for edges, so
 * a FIFO whose writers are gone costs nothing until there is a new one.
 *
 * Owns:    the source's descriptor.
 * Threads: the loop's; no read waits.
 * Trusts:  nothing in the ring. Readable parts are ignored; a request without room is given back.
 * Spec:    virtio 1.3, 5.4.
 */
#include "device/rng.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "device/loop_queue.h"
#include "device/model.h"
#include "device/number.h"
#include "wire/virtio.h"

#define REQUEST_MAX   (64 * KIB)
#define TURN_BYTES    (64 * KIB)
#define TURN_REQUESTS 64
#define MAX_PIECES    64
#define RETRY_NS      (100 * NS_PER_MS)

struct rng {
	struct virtio_model model;
	struct rng_config config;
	struct loop_queue queue;

	int fd;	     /* -1: getrandom() */
	bool polled; /* epoll tells when the source has more */
	struct loop_source ready;
	struct loop_timer retry;
	struct log_limit limit;

	uint64_t left; /* bytes of this period */
	uint64_t period_end_ns;
};

static struct rng *rng_of(struct virtio_model *m)
{
	return container_of(m, struct rng, model);
}

/* The source */

static void source_ready(struct loop_source *src, uint32_t events)
{
	loop_queue_wake(&container_of(src, struct rng, ready)->queue);
}

static void retry_now(struct loop_timer *timer)
{
	loop_queue_wake(&container_of(timer, struct rng, retry)->queue);
}

/* Bytes given, 0: none for now, or -errno. */
static ssize_t source_read(struct rng *g, struct iovec *iov, unsigned nr)
{
	ssize_t n;

	do {
		if (g->fd >= 0)
			n = readv(g->fd, iov, (int)nr);
		else
			n = getrandom(iov[0].iov_base, iov[0].iov_len, GRND_NONBLOCK);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	return n;
}

/* The writable pieces, cut to len bytes: their number. */
static unsigned cut_pieces(struct vq_req *req, uint64_t len, struct iovec *out)
{
	unsigned nr = 0;

	for (unsigned i = req->nr_out; i < (unsigned)req->nr_out + req->nr_in && len; i++) {
		size_t piece = MIN(req->iov[i].iov_len, len);

		if (!piece)
			continue;
		out[nr++] = (struct iovec){ req->iov[i].iov_base, piece };
		len -= piece;
	}
	return nr;
}

/* The limit */

static uint64_t allowance(struct rng *g)
{
	uint64_t now = clock_now_ns();

	if (!g->config.max_bytes)
		return REQUEST_MAX;
	if (now >= g->period_end_ns) {
		g->left = g->config.max_bytes;
		g->period_end_ns = now + g->config.period_ms * NS_PER_MS;
	}
	return MIN(g->left, REQUEST_MAX);
}

static void await_period(struct rng *g)
{
	loop_timer_set(g->model.loop, &g->retry, g->period_end_ns, retry_now);
}

static void await_source(struct rng *g)
{
	if (!g->polled)
		loop_timer_set(g->model.loop, &g->retry, clock_now_ns() + RETRY_NS, retry_now);
}

/* The queue */

enum outcome { SERVED, NOTHING_YET };

static enum outcome serve_request(struct rng *g, struct vq_req *req, uint64_t *given)
{
	struct iovec pieces[MAX_PIECES];
	uint64_t len = MIN(req->in_len, allowance(g));
	unsigned nr = cut_pieces(req, len, pieces);
	ssize_t n = 0;

	if (req->in_len && !len) {
		vq_unpop(g->queue.vq, req);
		await_period(g);
		return NOTHING_YET;
	}
	if (nr)
		n = source_read(g, pieces, nr);
	if (nr && (n == 0 || (n < 0 && n != -EFAULT))) {
		if (n < 0)
			log_limited(&g->limit, LOG_WARN, "%s: source %s: %s", g->config.name,
				g->config.source ? g->config.source : "getrandom()",
				strerror((int)-n));
		vq_unpop(g->queue.vq, req);
		await_source(g);
		return NOTHING_YET;
	}
	/* EFAULT: the memory was taken away meanwhile. Its owner will not miss the bytes. */
	*given = n > 0 ? (uint64_t)n : 0;
	if (g->config.max_bytes)
		g->left -= *given;
	vq_push(g->queue.vq, req, (uint32_t)*given);
	return SERVED;
}

static bool serve(struct loop_queue *q)
{
	struct rng *g = container_of(q, struct rng, queue);
	uint64_t bytes = 0, given;
	bool more = true;

	for (unsigned i = 0; more && i < TURN_REQUESTS && bytes < TURN_BYTES; i++) {
		struct iovec iov[MAX_PIECES];
		uint64_t iova[MAX_PIECES];
		struct vq_req req = { .iov = iov, .iova = iova, .max_iov = MAX_PIECES };
		int bad = 0;

		more = loop_queue_pop(q, &req, &bad) > 0;
		if (!more)
			break;
		given = 0;
		if (bad)
			vq_push(q->vq, &req, 0);
		else
			more = serve_request(g, &req, &given) == SERVED;
		bytes += given;
	}
	vq_notify(q->vq);
	return more;
}

static int queue_start(struct virtio_model *m, unsigned queue, struct vq *vq)
{
	struct rng *g = rng_of(m);
	int rc = loop_queue_start(&g->queue, m->loop, vq, g->config.name, serve);

	if (rc)
		log_warn("%s: its queue's kicks cannot be watched: %s", g->config.name,
			strerror(-rc));
	return rc;
}

static void queue_stop(struct virtio_model *m, unsigned queue, virtio_stopped_fn stopped, void *arg)
{
	struct rng *g = rng_of(m);

	loop_queue_stop(&g->queue);
	loop_timer_del(&g->retry);
	stopped(arg, queue);
}

/* Life */

static void free_rng(struct virtio_model *m)
{
	struct rng *g = rng_of(m);

	loop_queue_stop(&g->queue);
	loop_timer_del(&g->retry);
	loop_del(&g->ready);
	fd_close(&g->fd);
	free(g);
}

static const struct virtio_model_ops ops = {
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.free = free_rng,
};

/* A FIFO opened for both directions does not end when its writer does. */
static int open_source(const char *path)
{
	struct stat st;
	int fd;

	if (stat(path, &st) == 0 && S_ISFIFO(st.st_mode)) {
		fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0)
			return fd;
	}
	fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int set_up_source(struct rng *g, struct err *err)
{
	const char *path = g->config.source;
	struct stat st;

	if (!path)
		return 0;
	g->fd = open_source(path);
	if (g->fd < 0)
		return err_set(err, g->fd, "source %s: %s", path, strerror(-g->fd));
	if (fstat(g->fd, &st) || S_ISDIR(st.st_mode))
		return err_set(err, -EISDIR, "source %s: is a directory", path);
	g->polled = !loop_add(g->model.loop, &g->ready, g->fd, EPOLLIN | EPOLLET, source_ready);
	return 0;
}

int rng_new(struct virtio_model **out, struct loop *loop, const struct rng_config *config,
	struct err *err)
{
	struct rng *g = calloc(1, sizeof(*g));
	int rc;

	if (!g)
		return err_set(err, -ENOMEM, "out of memory");
	g->model = (struct virtio_model){
		.ops = &ops,
		.name = config->name,
		.type = VIRTIO_ID_RNG,
		.features = VIRTIO_MODEL_RING_FEATURES,
		.nr_queues = 1,
		.max_queue_size = 256,
		.loop = loop,
	};
	g->config = *config;
	g->fd = -1;
	rc = set_up_source(g, err);
	if (rc) {
		free_rng(&g->model);
		return rc;
	}
	*out = &g->model;
	return 0;
}

/* The row of the table */

enum { OPT_SOURCE, OPT_MAX_BYTES, OPT_PERIOD };

static const struct device_option options[] = {
	[OPT_SOURCE] = { "source", "PATH", "read random bytes from PATH; default: getrandom()" },
	[OPT_MAX_BYTES] = { "max-bytes", "N", "give at most N bytes in each period" },
	[OPT_PERIOD] = { "period-ms", "N", "length of a period; default 1000" },
};

static const struct sandbox_call calls[] = {
	{ SYS_readv, "the source, straight into the guest's memory" },
	{ SYS_getrandom, "the source, if it is the kernel" },
};

static int new_virtio(
	const char *const *values, struct loop *loop, struct virtio_model **out, struct err *err)
{
	struct rng_config config = { .name = "rng", .source = values[OPT_SOURCE] };
	uint64_t period_ms;
	int rc = number_option(
		"max-bytes", values[OPT_MAX_BYTES], 0, 1, UINT32_MAX, &config.max_bytes, err);

	if (!rc)
		rc = number_option(
			"period-ms", values[OPT_PERIOD], 1000, 1, 1000000, &period_ms, err);
	if (rc)
		return rc;
	config.period_ms = (uint32_t)period_ms;
	return rng_new(out, loop, &config, err);
}

const struct device_model rng_model = {
	.name = "rng",
	.summary = "virtio entropy device",
	.options = options,
	.nr_options = ARRAY_SIZE(options),
	.calls = calls,
	.nr_calls = ARRAY_SIZE(calls),
	.new_virtio = new_virtio,
};
