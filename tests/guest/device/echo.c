/*
 * echo.c - a virtio device in a process, made to be used by the test guest
 *
 * usage: echo FD [quiet], FD a listening UNIX socket
 *
 * It copies each request's readable bytes to its writable ones and keeps count in its
 * configuration: echo.h. Served over vhost-user by the project's own port. A quiet one looks at no
 * ring, for a guest that writes addresses at random.
 *
 * Threads: one.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "device/loop_queue.h"
#include "device/virtio_model.h"
#include "echo.h"
#include "serve/vhost_user.h"
#include "wire/virtio.h"

#define MAX_PIECES 16
#define TURN	   32

struct echo {
	struct virtio_model model;
	struct loop_queue queues[ECHO_NR_QUEUES];
	bool quiet;
};

static struct echo *echo_of(struct virtio_model *m)
{
	return container_of(m, struct echo, model);
}

static uint32_t get(const struct virtio_model *m, size_t at)
{
	uint32_t value;

	memcpy(&value, m->config + at, sizeof(value));
	return value;
}

static void put(struct virtio_model *m, size_t at, uint32_t value)
{
	memcpy(m->config + at, &value, sizeof(value));
}

static void count(struct virtio_model *m, size_t at)
{
	put(m, at, get(m, at) + 1);
}

/* --- queues --- */

static uint32_t copy(const struct vq_req *req)
{
	char buf[256];
	uint64_t done = 0, len = MIN(req->out_len, req->in_len);

	while (done < len) {
		size_t n = vq_req_read(req, done, buf, MIN(sizeof(buf), len - done));

		if (!n || vq_req_write(req, done, buf, n) != n)
			break;
		done += n;
	}
	return (uint32_t)done;
}

static bool serve(struct loop_queue *q)
{
	struct loop_queue *first = q - vq_index(q->vq);
	struct virtio_model *m = &container_of(first, struct echo, queues[0])->model;
	unsigned n;

	for (n = 0; n < TURN; n++) {
		struct iovec iov[MAX_PIECES];
		uint64_t iova[MAX_PIECES];
		struct vq_req req = { .iov = iov, .iova = iova, .max_iov = MAX_PIECES };
		int bad = 0;

		if (loop_queue_pop(q, &req, &bad) <= 0)
			break;
		vq_push(q->vq, &req, bad ? 0 : copy(&req));
		count(m, ECHO_SERVED_AT);
	}
	vq_notify(q->vq);
	return n == TURN;
}

static int queue_start(struct virtio_model *m, unsigned queue, struct vq *vq)
{
	struct echo *e = echo_of(m);

	count(m, ECHO_STARTS_AT);
	return e->quiet ? 0 : loop_queue_start(&e->queues[queue], m->loop, vq, m->name, serve);
}

static void queue_stop(struct virtio_model *m, unsigned queue, virtio_stopped_fn stopped, void *arg)
{
	loop_queue_stop(&echo_of(m)->queues[queue]);
	stopped(arg, queue);
}

/* --- configuration --- */

static void set_features(struct virtio_model *m, uint64_t features)
{
	memcpy(m->config + ECHO_FEATURES_AT, &features, sizeof(features));
}

static bool is_writable(size_t at)
{
	return at - ECHO_COMMAND_AT < 4 || at - ECHO_SCRATCH_AT < 4;
}

static void config_write(struct virtio_model *m, size_t off, const void *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (is_writable(off + i))
			m->config[off + i] = ((const uint8_t *)buf)[i];
	if (get(m, ECHO_COMMAND_AT) != ECHO_CHANGE)
		return;
	put(m, ECHO_COMMAND_AT, 0);
	count(m, ECHO_CHANGES_AT);
	virtio_model_config_changed(m);
}

static void free_echo(struct virtio_model *m)
{
}

static const struct virtio_model_ops ops = {
	.set_features = set_features,
	.config_write = config_write,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.free = free_echo,
};

/* --- life --- */

static void on_signal(void *arg, int signo)
{
	loop_quit(arg, 0);
}

static void freed(void *arg)
{
	loop_quit(arg, 0);
}

static int run(struct echo *e, struct loop *loop, int fd, struct err *err)
{
	static const int signals[] = { SIGTERM, SIGINT, 0 };
	const struct vhost_user_port_config config = { 0 };
	struct vhost_user_port *port;
	int rc = loop_signals(loop, signals, on_signal, loop);

	if (rc)
		return err_set(err, rc, "%s", strerror(-rc));
	e->model.loop = loop;
	rc = vhost_user_port_new(&port, loop, &e->model, fd, &config, err);
	if (rc)
		return rc;
	loop_run(loop);
	vhost_user_port_free(port, freed, loop);
	loop_run(loop);
	return 0;
}

int main(int argc, char **argv)
{
	static struct echo e = {
		.model = {
			.ops = &ops,
			.name = "echo",
			.type = ECHO_TYPE,
			.features = VIRTIO_MODEL_RING_FEATURES | VIRTIO_BIT(ECHO_FEATURE),
			.nr_queues = ECHO_NR_QUEUES,
			.max_queue_size = ECHO_QUEUE_SIZE,
			.config_size = ECHO_CONFIG_SIZE,
		},
	};
	struct loop *loop;
	struct err err = { 0 };
	int rc;

	log_init("echo", LOG_INFO);
	if (argc < 2 || argc > 3 || (argc == 3 && strcmp(argv[2], "quiet"))) {
		fprintf(stderr, "usage: echo FD [quiet], FD a listening UNIX socket\n");
		return 2;
	}
	e.quiet = argc == 3;
	put(&e.model, ECHO_ID_AT, ECHO_ID);
	signal(SIGPIPE, SIG_IGN);
	if (loop_new(&loop))
		return 1;
	rc = run(&e, loop, atoi(argv[1]), &err);
	if (rc)
		fprintf(stderr, "echo: %s\n", err.text);
	loop_free(loop);
	return rc ? 1 : 0;
}
