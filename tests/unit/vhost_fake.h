/*
 * vhost_fake.h - a scripted vhost-user back-end in a thread, guest RAM in ranges, and an owner that
 * notes what it hears
 *
 * The back-end answers every request well by what its struct fake says it is; a test's hook may
 * answer some of them otherwise, or not at all. All that arrives is recorded. The test's own thread
 * is the loop thread, and the vCPU in turns.
 */
#ifndef TESTS_VHOST_FAKE_H
#define TESTS_VHOST_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach/vhost_user.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/sock.h"
#include "base/util.h"
#include "send_all.h"
#include "wire/vhost_user.h"

#define MAYBE_UNUSED __attribute__((unused))
#define DEADLINE_NS  (20 * NS_PER_S)
#define RAM_SIZE     (1 * MIB)
#define HIGH_GPA     (4 * GIB)

#define BIT(n)	(1ull << (n))
#define P(name) VHOST_USER_PROTOCOL_BIT(name)

/* --- guest RAM: memory.h, as far as the front-end uses it; the last who listens is told --- */

struct memory {
	int fd;
	uint8_t *hva;
	unsigned nr;
	struct mem_range ranges[16];
	struct memory_listener *listener;
};

static struct memory ram;

static void ram_init(void)
{
	ram.fd = memfd_create("ram", MFD_CLOEXEC);
	assert_int_equal(ftruncate(ram.fd, 16 * RAM_SIZE), 0);
	ram.hva = mmap(NULL, 16 * RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ram.fd, 0);
	assert_true(ram.hva != MAP_FAILED);
	ram.nr = 1;
	ram.ranges[0] = (struct mem_range){ .size = RAM_SIZE, .fd = ram.fd, .hva = ram.hva };
}

static void ram_fini(void)
{
	assert_null(ram.listener);
	munmap(ram.hva, 16 * RAM_SIZE);
	fd_close(&ram.fd);
	ram = (struct memory){ 0 };
}

/* One MiB more, at HIGH_GPA + i MiB. */
static MAYBE_UNUSED void ram_add(void)
{
	struct mem_range *r = &ram.ranges[ram.nr];

	*r = (struct mem_range){
		.gpa = HIGH_GPA + ram.nr * RAM_SIZE,
		.size = RAM_SIZE,
		.fd = ram.fd,
		.fd_offset = ram.nr * RAM_SIZE,
		.hva = ram.hva + ram.nr * RAM_SIZE,
	};
	ram.nr++;
	if (!ram.listener)
		return;
	ram.listener->add(ram.listener, r);
	ram.listener->commit(ram.listener);
}

static MAYBE_UNUSED void ram_remove(void)
{
	struct mem_range r = ram.ranges[--ram.nr];

	ram.listener->remove(ram.listener, &r);
	ram.listener->commit(ram.listener);
}

void memory_listen(struct memory *m, struct memory_listener *l)
{
	m->listener = l;
	for (unsigned i = 0; i < m->nr; i++)
		l->add(l, &m->ranges[i]);
	if (l->commit)
		l->commit(l);
}

MAYBE_UNUSED unsigned memory_nr_ranges(const struct memory *m)
{
	return m->nr;
}

MAYBE_UNUSED const struct mem_range *memory_range(const struct memory *m, unsigned i)
{
	return &m->ranges[i];
}

void memory_unlisten(struct memory *m, struct memory_listener *l)
{
	if (m->listener == l)
		m->listener = NULL;
}

void *memory_ptr(const struct memory *m, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < m->nr; i++)
		if (gpa >= m->ranges[i].gpa &&
			range_ok(gpa - m->ranges[i].gpa, len, m->ranges[i].size))
			return (uint8_t *)m->ranges[i].hva + (gpa - m->ranges[i].gpa);
	return NULL;
}

int memory_read(const struct memory *m, uint64_t gpa, void *buf, uint64_t len)
{
	const void *from = memory_ptr(m, gpa, len);

	if (!from)
		return -EFAULT;
	memcpy(buf, from, len);
	return 0;
}

/* --- the back-end --- */

#define REC_MAX	 16384
#define REC_DATA 300

struct rec {
	struct vhost_user_header h;
	union {
		uint8_t data[REC_DATA]; /* of the payload */
		uint64_t u64;
		struct vhost_user_vring_state state;
		struct vhost_user_vring_addr addr;
		struct vhost_user_mem_table table;
		struct vhost_user_mem_reg reg;
		struct vhost_user_config config;
		struct vhost_user_inflight inflight;
	};
	unsigned nr_fds, connection;
	ino_t ino; /* of the first descriptor */
};

struct fake;
/* Called for each request before it is answered. True: the hook has seen to it. Server thread. */
typedef bool (*fake_hook)(struct fake *f, const struct rec *r);

struct fake {
	/* What the device is. */
	uint64_t features, protocol, slots;
	_Atomic uint64_t queue_num; /* a test may change it under a back-end that answers */
	uint8_t config[VHOST_USER_MAX_CONFIG];
	uint32_t config_size; /* more is refused */
	struct vhost_user_shmem_config shmem;
	uint32_t refuse; /* a request that is acknowledged by 1 */
	_Atomic(fake_hook) hook;
	_Atomic unsigned hook_arg;

	char path[64];
	pthread_mutex_t lock;
	pthread_t thread;
	int listen_fd, conn, back_fd, wake, inflight_fd, err_fd;
	uint64_t acked, last_features;
	_Atomic bool ending;
	unsigned connections, mute;
	struct rec *recs;
	unsigned nr_recs;
	_Atomic bool forgets; /* messages are not recorded: nobody asks, and there are too many */
};

static void fake_message(int fd, struct vhost_user_header h, const void *payload, uint32_t len,
	const int *fds, int nr_fds)
{
	uint8_t buf[sizeof(h) + VHOST_USER_MAX_PAYLOAD + 64];

	h.size = len;
	memcpy(buf, &h, sizeof(h));
	if (len)
		memcpy(buf + sizeof(h), payload, len);
	send_all(fd, buf, sizeof(h) + len, fds, nr_fds);
}

static void fake_reply(struct fake *f, const struct rec *r, const void *payload, uint32_t len,
	const int *fds, int nr_fds)
{
	struct vhost_user_header h = r->h;

	h.flags = VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY;
	fake_message(f->conn, h, payload, len, fds, nr_fds);
}

static void reply_u64(struct fake *f, const struct rec *r, uint64_t value)
{
	fake_reply(f, r, &value, sizeof(value), NULL, 0);
}

static void answer_config(struct fake *f, const struct rec *r)
{
	struct vhost_user_config c = r->config;

	if (c.size > f->config_size)
		c.size = 0;
	memcpy(c.bytes, f->config, c.size);
	fake_reply(f, r, &c, VHOST_USER_CONFIG_HEADER + c.size, NULL, 0);
}

static void answer_inflight(struct fake *f, const struct rec *r)
{
	struct vhost_user_inflight area = r->inflight;

	area.mmap_size = 8192;
	if (f->inflight_fd < 0)
		f->inflight_fd = memfd_create("inflight", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->inflight_fd, 8192), 0);
	fake_reply(f, r, &area, sizeof(area), &f->inflight_fd, 1);
}

static void fake_answer(struct fake *f, const struct rec *r)
{
	struct vhost_user_vring_state state = r->state;

	switch (r->h.request) {
	case VHOST_USER_GET_FEATURES:
		reply_u64(f, r, f->features);
		break;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		reply_u64(f, r, f->protocol);
		break;
	case VHOST_USER_GET_QUEUE_NUM:
		reply_u64(f, r, atomic_load(&f->queue_num));
		break;
	case VHOST_USER_GET_MAX_MEM_SLOTS:
		reply_u64(f, r, f->slots);
		break;
	case VHOST_USER_GET_VRING_BASE:
		state.num = 7;
		fake_reply(f, r, &state, sizeof(state), NULL, 0);
		break;
	case VHOST_USER_GET_CONFIG:
		answer_config(f, r);
		break;
	case VHOST_USER_GET_INFLIGHT_FD:
		answer_inflight(f, r);
		break;
	case VHOST_USER_GET_SHMEM_CONFIG:
		fake_reply(f, r, &f->shmem, sizeof(f->shmem), NULL, 0);
		break;
	default:
		if (r->h.flags & VHOST_USER_FLAG_NEED_REPLY ||
			r->h.request == VHOST_USER_IOTLB_MSG)
			reply_u64(f, r, r->h.request == f->refuse);
	}
}

static bool recv_all(struct fake *f, void *buf, size_t len, struct fd_list *fds)
{
	char *at = buf;

	while (len) {
		struct pollfd p[2] = { { .fd = f->conn, .events = POLLIN },
			{ .fd = f->wake, .events = POLLIN } };
		ssize_t n = sock_recv(f->conn, at, len, fds);

		if (n == -EAGAIN) {
			poll(p, 2, -1);
			if (p[1].revents)
				return false;
			continue;
		}
		if (n <= 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

static void record(struct fake *f, const struct rec *r)
{
	if (atomic_load(&f->forgets))
		return;
	pthread_mutex_lock(&f->lock);
	assert_true(f->nr_recs < REC_MAX);
	f->recs[f->nr_recs++] = *r;
	pthread_mutex_unlock(&f->lock);
}

static void take_fds(struct fake *f, const struct rec *r, struct fd_list *fds)
{
	if (r->h.request == VHOST_USER_SET_BACKEND_REQ_FD) {
		fd_close(&f->back_fd);
		f->back_fd = fd_list_take(fds);
	}
	if (r->h.request == VHOST_USER_SET_VRING_ERR) {
		fd_close(&f->err_fd);
		f->err_fd = fd_list_take(fds);
	}
	fd_list_close(fds);
}

static bool serve_one(struct fake *f)
{
	struct rec r = { .connection = f->connections };
	struct fd_list fds = { .nr = 0 };
	fake_hook hook;

	if (!recv_all(f, &r.h, sizeof(r.h), &fds))
		return false;
	assert_true(r.h.size <= REC_DATA);
	if (!recv_all(f, r.data, r.h.size, &fds)) {
		fd_list_close(&fds);
		return false;
	}
	r.nr_fds = (unsigned)fds.nr;
	if (fds.nr) {
		struct stat st;

		fstat(fds.fds[0], &st);
		r.ino = st.st_ino;
	}
	if (r.h.request == VHOST_USER_SET_PROTOCOL_FEATURES)
		f->acked = r.u64;
	if (r.h.request == VHOST_USER_SET_FEATURES)
		f->last_features = r.u64;
	pthread_mutex_lock(&f->lock);
	take_fds(f, &r, &fds);
	pthread_mutex_unlock(&f->lock);
	record(f, &r); /* before the answer, which is what tests wait for */
	hook = atomic_load(&f->hook);
	if (!hook || !hook(f, &r))
		fake_answer(f, &r);
	return true;
}

static void close_connection(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	fd_close(&f->conn);
	fd_close(&f->back_fd);
	fd_close(&f->err_fd);
	pthread_mutex_unlock(&f->lock);
}

/* One connection after the other. */
static void *serve(void *arg)
{
	struct fake *f = arg;

	for (;;) {
		struct pollfd p[2] = { { .fd = f->listen_fd, .events = POLLIN },
			{ .fd = f->wake, .events = POLLIN } };

		poll(p, 2, -1);
		if (p[1].revents) {
			pthread_mutex_lock(&f->lock);
			fd_clear(f->wake);
			pthread_mutex_unlock(&f->lock);
			if (f->ending)
				return NULL;
			continue;
		}
		pthread_mutex_lock(&f->lock);
		f->conn = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		f->connections++;
		f->acked = 0;
		pthread_mutex_unlock(&f->lock);
		while (f->conn >= 0 && serve_one(f))
			;
		close_connection(f);
	}
}

static MAYBE_UNUSED void fake_init(struct fake *f)
{
	static unsigned number;
	struct err err = { 0 };

	*f = (struct fake){
		.features = BIT(VIRTIO_BIT_VERSION_1) | BIT(30) | BIT(9),
		.protocol =
			P(MQ) | P(REPLY_ACK) | P(CONFIG) | P(BACKEND_REQ) | P(CONFIGURE_MEM_SLOTS),
		.queue_num = 2,
		.slots = 509,
		.config_size = 60,
		.conn = -1,
		.back_fd = -1,
		.inflight_fd = -1,
		.err_fd = -1,
	};
	for (unsigned i = 0; i < sizeof(f->config); i++)
		f->config[i] = (uint8_t)(i * 3 + 1);
	snprintf(f->path, sizeof(f->path), "/tmp/vhost-fake-%d-%u", (int)getpid(), number++);
	pthread_mutex_init(&f->lock, NULL);
	f->recs = calloc(REC_MAX, sizeof(*f->recs));
	f->wake = fd_eventfd();
	f->listen_fd = sock_listen(f->path, 8, &err);
	assert_true(f->listen_fd >= 0);
}

/* Serve one connection that there is already, until its end. */
static MAYBE_UNUSED void *serve_connected(void *arg)
{
	struct fake *f = arg;

	while (serve_one(f))
		;
	close_connection(f);
	return NULL;
}

static MAYBE_UNUSED void fake_run_connected(struct fake *f)
{
	assert_int_equal(pthread_create(&f->thread, NULL, serve_connected, f), 0);
}

static MAYBE_UNUSED void fake_run(struct fake *f)
{
	assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
}

static MAYBE_UNUSED void fake_fini(struct fake *f)
{
	f->ending = true;
	fd_signal(f->wake);
	pthread_join(f->thread, NULL);
	fd_close(&f->conn);
	fd_close(&f->back_fd);
	fd_close(&f->err_fd);
	fd_close(&f->listen_fd);
	fd_close(&f->inflight_fd);
	fd_close(&f->wake);
	unlink(f->path);
	free(f->recs);
	pthread_mutex_destroy(&f->lock);
}

/* The back-end dies; its successor listens already. */
static MAYBE_UNUSED void fake_hang_up(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	if (f->conn >= 0)
		shutdown(f->conn, SHUT_RDWR);
	pthread_mutex_unlock(&f->lock);
}

/* How many requests of a kind came, over connection n (0: any). */
static MAYBE_UNUSED unsigned count(struct fake *f, uint32_t request, unsigned connection)
{
	unsigned n = 0;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++)
		n += f->recs[i].h.request == request &&
		     (!connection || f->recs[i].connection == connection);
	pthread_mutex_unlock(&f->lock);
	return n;
}

/* The n-th of them, from 0. */
static MAYBE_UNUSED struct rec nth(
	struct fake *f, uint32_t request, unsigned connection, unsigned n)
{
	struct rec r = { 0 };

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++)
		if (f->recs[i].h.request == request &&
			(!connection || f->recs[i].connection == connection) && !n--) {
			r = f->recs[i];
			break;
		}
	pthread_mutex_unlock(&f->lock);
	return r;
}

/* Where in the order of all messages of a connection the n-th one of a kind stands; -1: nowhere. */
static MAYBE_UNUSED int place(struct fake *f, uint32_t request, unsigned connection, unsigned n)
{
	int at = -1;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs && at < 0; i++)
		if (f->recs[i].h.request == request && f->recs[i].connection == connection && !n--)
			at = (int)i;
	pthread_mutex_unlock(&f->lock);
	return at;
}

/* --- the owner --- */

struct owner {
	struct virtio_owner o;
	struct loop *loop;
	int attached, failed, lost, back, changed;
	_Atomic int needs_reset;
	int shm_clears, maps, unmaps, map_rc;
	uint8_t shmid;
	uint64_t shm_off, shm_len, fd_off;
	bool writable;
	int rc, refuse_rc;
	char text[512];
};

static struct owner *owner_of(struct virtio_owner *o)
{
	return container_of(o, struct owner, o);
}

static int owner_attached(struct virtio_owner *o, struct err *err)
{
	owner_of(o)->attached++;
	return owner_of(o)->refuse_rc ? err_set(err, owner_of(o)->refuse_rc, "not wanted") : 0;
}

static void owner_failed(struct virtio_owner *o, int rc, const struct err *err)
{
	struct owner *w = owner_of(o);

	w->failed++;
	w->rc = rc;
	snprintf(w->text, sizeof(w->text), "%s", err->text);
	assert_true(rc < 0 && err->text[0] && !strchr(err->text, '\n'));
}

static void owner_lost(struct virtio_owner *o)
{
	owner_of(o)->lost++;
}

static void owner_back(struct virtio_owner *o)
{
	owner_of(o)->back++;
}

static void owner_changed(struct virtio_owner *o)
{
	owner_of(o)->changed++;
}

static void owner_needs_reset(struct virtio_owner *o)
{
	atomic_fetch_add(&owner_of(o)->needs_reset, 1);
}

static int owner_map(struct virtio_owner *o, uint8_t shmid, uint64_t off, uint64_t len, int fd,
	uint64_t fd_off, bool writable)
{
	struct owner *w = owner_of(o);

	w->shmid = shmid;
	w->shm_off = off;
	w->shm_len = len;
	w->fd_off = fd_off;
	w->writable = writable;
	*(fd < 0 ? &w->unmaps : &w->maps) += 1;
	fd_close(&fd);
	return w->map_rc;
}

static void owner_clear(struct virtio_owner *o)
{
	owner_of(o)->shm_clears++;
}

static const struct virtio_owner_ops owner_ops = {
	.attached = owner_attached,
	.failed = owner_failed,
	.lost = owner_lost,
	.back = owner_back,
	.config_changed = owner_changed,
	.needs_reset = owner_needs_reset,
	.shm_map = owner_map,
	.shm_clear = owner_clear,
};

/* --- running the loop until something is so --- */

struct waiting {
	struct loop_timer timer;
	struct loop *loop;
	bool (*holds)(void *arg);
	void *arg;
	uint64_t deadline;
};

static void look(struct loop_timer *timer)
{
	struct waiting *w = container_of(timer, struct waiting, timer);

	if (w->holds(w->arg))
		loop_quit(w->loop, 0);
	else if (clock_now_ns() > w->deadline)
		loop_quit(w->loop, 1);
	else
		loop_timer_set(w->loop, timer, clock_now_ns() + NS_PER_MS, look);
}

static void run_until_at(
	struct loop *loop, bool (*holds)(void *arg), void *arg, const char *file, int line)
{
	struct waiting w = {
		.loop = loop, .holds = holds, .arg = arg, .deadline = clock_now_ns() + DEADLINE_NS
	};
	int rc;

	loop_timer_set(loop, &w.timer, clock_now_ns(), look);
	rc = loop_run(loop);
	loop_timer_del(&w.timer);
	if (rc) {
		print_error("%s:%d: waited in vain\n", file, line);
		fail();
	}
}
#define run_until(loop, holds, arg) run_until_at(loop, holds, arg, __FILE__, __LINE__)

#endif
