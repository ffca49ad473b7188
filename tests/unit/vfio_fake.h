/*
 * vfio_fake.h - a scripted vfio-user server in a thread
 *
 * The server answers every request well by what its struct fake says the device is; a test's hook
 * may answer some of them otherwise, or not at all. All that arrives is recorded, and a test waits
 * for the n-th request of a kind, with a deadline that only failures reach.
 */
#ifndef TESTS_VFIO_FAKE_H
#define TESTS_VFIO_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/sock.h"
#include "base/util.h"
#include "machine/pci.h"
#include "send_all.h"
#include "wire/vfio_user.h"

#define MAYBE_UNUSED __attribute__((unused))
#define DEADLINE_NS  (20 * NS_PER_S)

#define REC_MAX	 16384
#define REC_DATA 64
#define CONFIG	 VFIO_USER_REGION_CONFIG

struct rec {
	struct vfio_user_header h;
	uint8_t data[REC_DATA]; /* of the payload */
	uint32_t len;
	unsigned nr_fds, connection;
};

struct fake;
/* Called for each request before it is answered. True: the hook has seen to it. Server thread. */
typedef bool (*fake_hook)(struct fake *f, const struct rec *r);

struct fake_region {
	uint64_t size;
	uint32_t flags;
	uint64_t fd_offset;
	struct vfio_user_sparse_area areas[8];
	unsigned nr_areas;
	int fds[4]; /* -1 ends */
	struct vfio_user_sub_region doorbells[4];
	unsigned nr_doorbells;
	int doorbell_fds[4];
	unsigned nr_doorbell_fds;
};

struct fake {
	/* What the device is. */
	uint16_t major, minor;
	const char *json; /* NULL: none */
	bool twin;
	uint32_t flags, nr_regions, nr_irqs;
	struct fake_region regions[VFIO_USER_REGION_COUNT];
	struct vfio_user_irq_info irqs[VFIO_USER_IRQ_COUNT];
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t bytes[6][64]; /* registers at the start of each BAR */
	fake_hook hook;
	unsigned hook_arg;

	char path[64];
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t thread;
	int listen_fd, conn, twin_fd, wake;
	bool ending, paused, rests;
	unsigned connections;
	struct rec *recs;
	unsigned nr_recs;
	int irq_fds[3][16]; /* by interrupt type, as SET_IRQS TRIGGER gave them */
	int unmask_fd;
};

static struct fake_region no_region(void)
{
	struct fake_region r = { .fds = { -1, -1, -1, -1 } };

	return r;
}

static struct timespec deadline_ts(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += (time_t)(DEADLINE_NS / NS_PER_S);
	return t;
}

static MAYBE_UNUSED void fake_raw(
	struct fake *f, const void *buf, size_t len, const int *fds, int nr_fds)
{
	send_all(f->conn, buf, len, fds, nr_fds);
}

/* Header and payload leave in one piece. */
static void fake_message(int fd, struct vfio_user_header h, const void *payload, uint32_t len,
	const int *fds, int nr_fds)
{
	uint8_t *buf = malloc(sizeof(h) + len);

	h.size = (uint32_t)sizeof(h) + len;
	memcpy(buf, &h, sizeof(h));
	if (len)
		memcpy(buf + sizeof(h), payload, len);
	send_all(fd, buf, h.size, fds, nr_fds);
	free(buf);
}

static void fake_reply(struct fake *f, const struct rec *r, const void *payload, uint32_t len,
	const int *fds, int nr_fds)
{
	struct vfio_user_header h = r->h;

	h.flags = VFIO_USER_TYPE_REPLY;
	if (!(r->h.flags & VFIO_USER_FLAG_NO_REPLY))
		fake_message(f->conn, h, payload, len, fds, nr_fds);
}

static void fake_error(struct fake *f, const struct rec *r, int error)
{
	struct vfio_user_header h = r->h;

	h.flags = VFIO_USER_TYPE_REPLY | VFIO_USER_FLAG_ERROR;
	h.error = (uint32_t)error;
	if (!(r->h.flags & VFIO_USER_FLAG_NO_REPLY))
		fake_message(f->conn, h, NULL, 0, NULL, 0);
}

/* A command of the server, on the twin or the main socket. Not from a hook. */
static MAYBE_UNUSED void fake_command(struct fake *f, bool twin, uint16_t command, uint16_t id,
	uint32_t flags, const void *payload, uint32_t len)
{
	struct vfio_user_header h = { .id = id, .command = command, .flags = flags };

	pthread_mutex_lock(&f->lock);
	fake_message(twin ? f->twin_fd : f->conn, h, payload, len, NULL, 0);
	pthread_mutex_unlock(&f->lock);
}

static void answer_version(struct fake *f, const struct rec *r)
{
	struct {
		struct vfio_user_version v;
		char json[512];
	} p = { .v = { f->major, f->minor } };
	uint32_t len = f->json ? (uint32_t)strlen(f->json) + 1 : 0;
	int pair[2] = { -1, -1 };

	if (len)
		memcpy(p.json, f->json, len);
	if (f->twin) {
		assert_int_equal(sock_pair(pair), 0);
		fd_close(&f->twin_fd);
		f->twin_fd = pair[1];
	}
	fake_reply(f, r, &p, (uint32_t)sizeof(p.v) + len, pair, f->twin ? 1 : 0);
	fd_close(&pair[0]);
}

static void answer_region(struct fake *f, const struct rec *r)
{
	struct {
		struct vfio_user_region_info info;
		struct vfio_user_cap_header cap;
		uint32_t nr_areas, reserved;
		struct vfio_user_sparse_area areas[8];
	} p = { 0 };
	const struct fake_region *g;
	uint32_t len = sizeof(p.info), room;
	int nr_fds = 0;

	memcpy(&p.info, r->data, sizeof(p.info));
	room = p.info.argsz;
	if (p.info.index >= f->nr_regions) {
		fake_error(f, r, EINVAL);
		return;
	}
	g = &f->regions[p.info.index];
	p.info.flags = g->flags;
	p.info.size = g->size;
	p.info.offset = g->fd_offset;
	p.info.cap_offset = 0;
	if (g->nr_areas) {
		len = (uint32_t)(sizeof(p.info) + sizeof(struct vfio_user_cap_sparse) +
				 g->nr_areas * sizeof(p.areas[0]));
		p.cap.id = VFIO_USER_CAP_SPARSE_MMAP;
		p.nr_areas = g->nr_areas;
		memcpy(p.areas, g->areas, sizeof(p.areas));
	}
	p.info.argsz = len;
	while (nr_fds < 4 && g->fds[nr_fds] >= 0)
		nr_fds++;
	if (room < len) {
		len = sizeof(p.info);
		nr_fds = 0;
	} else if (g->nr_areas) {
		p.info.flags |= VFIO_USER_REGION_FLAG_CAPS;
		p.info.cap_offset = sizeof(p.info);
	}
	fake_reply(f, r, &p, len, g->fds, nr_fds);
}

static void answer_io_fds(struct fake *f, const struct rec *r)
{
	struct {
		struct vfio_user_region_io_fds head;
		struct vfio_user_sub_region list[4];
	} p = { 0 };
	const struct fake_region *g;
	uint32_t len, room;

	memcpy(&p.head, r->data, sizeof(p.head));
	room = p.head.argsz;
	g = &f->regions[MIN(p.head.index, 8u)];
	len = (uint32_t)(sizeof(p.head) + g->nr_doorbells * sizeof(p.list[0]));
	p.head.argsz = len;
	p.head.count = g->nr_doorbells;
	memcpy(p.list, g->doorbells, sizeof(p.list));
	if (room < len)
		fake_reply(f, r, &p, sizeof(p.head), NULL, 0);
	else
		fake_reply(f, r, &p, len, g->doorbell_fds, (int)g->nr_doorbell_fds);
}

static void answer_read(struct fake *f, const struct rec *r)
{
	struct {
		struct vfio_user_region_access a;
		uint8_t data[PCI_CONFIG_SIZE];
	} p;
	const uint8_t *from;
	uint64_t size;

	memcpy(&p.a, r->data, sizeof(p.a));
	memset(p.data, 0x5a, sizeof(p.data));
	from = p.a.region == CONFIG ? f->config : f->bytes[MIN(p.a.region, 5u)];
	size = p.a.region == CONFIG ? f->regions[CONFIG].size : sizeof(f->bytes[0]);
	if (p.a.count > sizeof(p.data)) {
		fake_error(f, r, EINVAL);
		return;
	}
	if (range_ok(p.a.offset, p.a.count, size))
		memcpy(p.data, from + p.a.offset, p.a.count);
	fake_reply(f, r, &p, (uint32_t)sizeof(p.a) + p.a.count, NULL, 0);
}

static void answer_write(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_access a;

	memcpy(&a, r->data, sizeof(a));
	if (a.region == CONFIG && range_ok(a.offset, a.count, f->regions[CONFIG].size))
		memcpy(f->config + a.offset, r->data + sizeof(a), MIN(a.count, 8u));
	else if (a.region < 6 && range_ok(a.offset, a.count, sizeof(f->bytes[0])))
		memcpy(f->bytes[a.region] + a.offset, r->data + sizeof(a), MIN(a.count, 8u));
	fake_reply(f, r, &a, sizeof(a), NULL, 0);
}

static void take_irqs(struct fake *f, const struct rec *r, struct fd_list *fds)
{
	struct vfio_user_irq_set s;

	memcpy(&s, r->data, sizeof(s));
	if (s.index > 2)
		return;
	if (s.flags & VFIO_USER_IRQ_SET_ACTION_UNMASK && fds->nr) {
		fd_close(&f->unmask_fd);
		f->unmask_fd = fd_list_take(fds);
	} else if (s.flags & VFIO_USER_IRQ_SET_ACTION_TRIGGER) {
		for (uint32_t i = 0; i < 16; i++)
			if (!s.count || (i >= s.start && i - s.start < s.count)) {
				fd_close(&f->irq_fds[s.index][i]);
				f->irq_fds[s.index][i] = s.count ? fd_list_take(fds) : -1;
			}
	}
}

static void answer_info(struct fake *f, const struct rec *r)
{
	struct vfio_user_device_info p = { sizeof(p), f->flags, f->nr_regions, f->nr_irqs };

	fake_reply(f, r, &p, sizeof(p), NULL, 0);
}

static void answer_irq(struct fake *f, const struct rec *r)
{
	struct vfio_user_irq_info p;

	memcpy(&p, r->data, sizeof(p));
	p.flags = f->irqs[MIN(p.index, 4u)].flags;
	p.count = f->irqs[MIN(p.index, 4u)].count;
	fake_reply(f, r, &p, sizeof(p), NULL, 0);
}

static void fake_answer(struct fake *f, const struct rec *r)
{
	switch (r->h.command) {
	case VFIO_USER_VERSION:
		answer_version(f, r);
		break;
	case VFIO_USER_DEVICE_GET_INFO:
		answer_info(f, r);
		break;
	case VFIO_USER_DEVICE_GET_REGION_INFO:
		answer_region(f, r);
		break;
	case VFIO_USER_DEVICE_GET_REGION_IO_FDS:
		answer_io_fds(f, r);
		break;
	case VFIO_USER_DEVICE_GET_IRQ_INFO:
		answer_irq(f, r);
		break;
	case VFIO_USER_REGION_READ:
		answer_read(f, r);
		break;
	case VFIO_USER_REGION_WRITE:
		answer_write(f, r);
		break;
	case VFIO_USER_DMA_UNMAP:
		fake_reply(f, r, r->data, sizeof(struct vfio_user_dma_unmap), NULL, 0);
		break;
	case VFIO_USER_DMA_MAP:
	case VFIO_USER_DEVICE_SET_IRQS:
	case VFIO_USER_DEVICE_RESET:
		fake_reply(f, r, NULL, 0, NULL, 0);
		break;
	default:
		fake_error(f, r, EINVAL);
	}
}

/* Exactly len bytes, waiting. False: the end. */
static bool recv_all(int fd, void *buf, size_t len, struct fd_list *fds)
{
	char *at = buf;

	while (len) {
		ssize_t n = sock_recv(fd, at, len, fds);
		struct pollfd p = { .fd = fd, .events = POLLIN };

		if (n == -EAGAIN) {
			poll(&p, 1, -1);
			continue;
		}
		if (n <= 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

/* One message. False: the client is gone. */
static bool serve_one(struct fake *f, int fd)
{
	struct rec r = { 0 };
	struct fd_list fds = { .nr = 0 };
	uint8_t *payload;
	bool reply;

	if (!recv_all(fd, &r.h, sizeof(r.h), &fds))
		return false;
	r.len = r.h.size - (uint32_t)sizeof(r.h);
	payload = malloc(r.len + 1);
	if (!recv_all(fd, payload, r.len, &fds)) {
		free(payload);
		fd_list_close(&fds);
		return false;
	}
	memcpy(r.data, payload, MIN(r.len, (uint32_t)sizeof(r.data)));
	free(payload);
	r.nr_fds = (unsigned)fds.nr;
	reply = (r.h.flags & VFIO_USER_FLAG_TYPE) == VFIO_USER_TYPE_REPLY;

	/* Whoever sees the record sees what was done about it. */
	pthread_mutex_lock(&f->lock);
	r.connection = f->connections;
	assert_true(f->nr_recs < REC_MAX);
	f->recs[f->nr_recs++] = r;
	if (!reply && r.h.command == VFIO_USER_DEVICE_SET_IRQS)
		take_irqs(f, &r, &fds);
	if (!reply && !(f->hook && f->hook(f, &r)))
		fake_answer(f, &r);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	fd_list_close(&fds);
	return true;
}

static void drop_irqs(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	for (unsigned t = 0; t < 3; t++)
		for (unsigned i = 0; i < 16; i++)
			fd_close(&f->irq_fds[t][i]);
	fd_close(&f->unmask_fd);
	pthread_mutex_unlock(&f->lock);
}

static void fake_close(struct fake *f, int *fd)
{
	pthread_mutex_lock(&f->lock);
	fd_close(fd);
	pthread_mutex_unlock(&f->lock);
}

static void take_connection(struct fake *f)
{
	int fd = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	fake_close(f, &f->conn);
	drop_irqs(f);
	pthread_mutex_lock(&f->lock);
	f->conn = fd;
	f->connections++;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

static void *fake_thread(void *arg)
{
	struct fake *f = arg;

	for (;;) {
		struct pollfd p[4] = { { .fd = f->wake, .events = POLLIN } };

		pthread_mutex_lock(&f->lock);
		p[1] = (struct pollfd){ .fd = f->listen_fd, .events = POLLIN };
		p[2] = (struct pollfd){ .fd = f->conn, .events = POLLIN };
		p[3] = (struct pollfd){ .fd = f->twin_fd, .events = POLLIN };
		if (f->paused)
			p[1].fd = p[2].fd = p[3].fd = -1;
		f->rests = f->paused;
		pthread_cond_broadcast(&f->changed);
		if (f->ending) {
			pthread_mutex_unlock(&f->lock);
			return NULL;
		}
		pthread_mutex_unlock(&f->lock);
		poll(p, 4, -1);
		fd_clear(f->wake);
		if (p[2].revents && !serve_one(f, p[2].fd))
			fake_close(f, &f->conn);
		if (p[3].revents && !serve_one(f, p[3].fd))
			fake_close(f, &f->twin_fd);
		if (p[1].revents)
			take_connection(f);
	}
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static MAYBE_UNUSED void put32(uint8_t *p, uint32_t v)
{
	put16(p, v & 0xffff);
	put16(p + 2, v >> 16);
}

/* A device with a memory BAR 0 of 4 KiB, an I/O BAR 2 of 256 bytes, and INTx. Not started. */
static MAYBE_UNUSED struct fake *fake_new(void)
{
	static unsigned number;
	struct fake *f = calloc(1, sizeof(*f));

	f->minor = 1;
	f->json = "{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576}}";
	f->flags = VFIO_USER_DEVICE_FLAG_PCI | VFIO_USER_DEVICE_FLAG_RESET;
	f->nr_regions = VFIO_USER_REGION_COUNT;
	f->nr_irqs = VFIO_USER_IRQ_COUNT;
	for (unsigned i = 0; i < VFIO_USER_REGION_COUNT; i++)
		f->regions[i] = no_region();
	f->regions[0].size = 4096;
	f->regions[2].size = 256;
	f->regions[CONFIG].size = 256;
	f->regions[0].flags = f->regions[2].flags = f->regions[CONFIG].flags =
		VFIO_USER_REGION_FLAG_READ | VFIO_USER_REGION_FLAG_WRITE;
	f->irqs[VFIO_USER_IRQ_INTX].flags = VFIO_USER_IRQ_FLAG_EVENTFD |
					    VFIO_USER_IRQ_FLAG_MASKABLE |
					    VFIO_USER_IRQ_FLAG_AUTOMASKED;
	f->irqs[VFIO_USER_IRQ_INTX].count = 1;
	put16(f->config + PCI_VENDOR_ID, 0x494f);
	put16(f->config + PCI_DEVICE_ID, 0x0dc8);
	f->config[PCI_INTERRUPT_PIN] = 1;
	f->config[PCI_BASE_ADDRESS_0 + 8] = 1; /* BAR 2: I/O */
	f->listen_fd = f->conn = f->twin_fd = f->unmask_fd = -1;
	memset(f->irq_fds, 0xff, sizeof(f->irq_fds));
	f->recs = calloc(REC_MAX, sizeof(*f->recs));
	f->wake = fd_eventfd();
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	snprintf(f->path, sizeof(f->path), "/tmp/vfio-fake-%d-%u", (int)getpid(), number++);
	return f;
}

static MAYBE_UNUSED void fake_start(struct fake *f)
{
	struct err err = { 0 };

	f->ending = false;
	f->listen_fd = sock_listen(f->path, 8, &err);
	assert_true(f->listen_fd >= 0);
	assert_int_equal(pthread_create(&f->thread, NULL, fake_thread, f), 0);
}

/* The server dies: its thread, connection and socket. What it recorded stays. */
static MAYBE_UNUSED void fake_kill(struct fake *f)
{
	if (f->listen_fd < 0)
		return;
	pthread_mutex_lock(&f->lock);
	f->ending = true;
	pthread_mutex_unlock(&f->lock);
	fd_signal(f->wake);
	pthread_join(f->thread, NULL);
	unlink(f->path);
	fd_close(&f->conn);
	fd_close(&f->twin_fd);
	fd_close(&f->listen_fd);
	drop_irqs(f);
}

static MAYBE_UNUSED void fake_free(struct fake *f)
{
	fake_kill(f);
	for (unsigned i = 0; i < ARRAY_SIZE(f->regions); i++)
		for (unsigned k = 0; k < ARRAY_SIZE(f->regions[i].fds); k++)
			fd_close(&f->regions[i].fds[k]);
	fd_close(&f->wake);
	free(f->recs);
	pthread_mutex_destroy(&f->lock);
	pthread_cond_destroy(&f->changed);
	free(f);
}

static MAYBE_UNUSED void fake_set_hook(struct fake *f, fake_hook hook, unsigned arg)
{
	pthread_mutex_lock(&f->lock);
	f->hook = hook;
	f->hook_arg = arg;
	pthread_mutex_unlock(&f->lock);
}

static MAYBE_UNUSED unsigned fake_hook_arg(struct fake *f)
{
	unsigned arg;

	pthread_mutex_lock(&f->lock);
	arg = f->hook_arg;
	pthread_mutex_unlock(&f->lock);
	return arg;
}

static MAYBE_UNUSED uint8_t fake_byte(struct fake *f, unsigned bar, unsigned off)
{
	uint8_t byte;

	pthread_mutex_lock(&f->lock);
	byte = bar < 6 ? f->bytes[bar][off] : f->config[off];
	pthread_mutex_unlock(&f->lock);
	return byte;
}

/* Forget what was recorded. */
static MAYBE_UNUSED void fake_forget(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	f->nr_recs = 0;
	pthread_mutex_unlock(&f->lock);
}

/* Drop the connection, and listen on. */
static MAYBE_UNUSED void fake_hang_up(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	if (f->conn >= 0)
		shutdown(f->conn, SHUT_RDWR);
	f->nr_recs = 0;
	pthread_mutex_unlock(&f->lock);
}

/* Stop reading, as a server that hangs does, or go on. */
static MAYBE_UNUSED void fake_pause(struct fake *f, bool on)
{
	pthread_mutex_lock(&f->lock);
	f->paused = on;
	fd_signal(f->wake);
	/* It may have been about to take a connection. */
	while (f->rests != on)
		pthread_cond_wait(&f->changed, &f->lock);
	pthread_mutex_unlock(&f->lock);
}

static MAYBE_UNUSED unsigned fake_count(struct fake *f, uint16_t command)
{
	unsigned n = 0;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++)
		n += f->recs[i].h.command == command;
	pthread_mutex_unlock(&f->lock);
	return n;
}

/* Wait for the n-th message (from 1) with this command, a reply to the server included. */
static MAYBE_UNUSED struct rec fake_wait(struct fake *f, uint16_t command, unsigned n)
{
	struct timespec t = deadline_ts();
	unsigned seen, from = 0;

	pthread_mutex_lock(&f->lock);
	for (seen = 0;;) {
		for (; from < f->nr_recs; from++)
			if (f->recs[from].h.command == command && ++seen == n) {
				struct rec r = f->recs[from];

				pthread_mutex_unlock(&f->lock);
				return r;
			}
		if (pthread_cond_timedwait(&f->changed, &f->lock, &t)) {
			pthread_mutex_unlock(&f->lock);
			fail_msg("only %u messages of command %u, not %u", seen, command, n);
		}
	}
}

/* The eventfd of an interrupt as the server has it; -1: none. */
static MAYBE_UNUSED int fake_irq_fd(struct fake *f, unsigned type, unsigned index)
{
	int fd;

	pthread_mutex_lock(&f->lock);
	fd = f->irq_fds[type][index];
	pthread_mutex_unlock(&f->lock);
	return fd;
}

static MAYBE_UNUSED int fake_unmask_fd(struct fake *f)
{
	int fd;

	pthread_mutex_lock(&f->lock);
	fd = f->unmask_fd;
	pthread_mutex_unlock(&f->lock);
	return fd;
}

#endif
