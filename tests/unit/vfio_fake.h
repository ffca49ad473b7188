/*
 * vfio_fake.h - a scripted vfio-user server in a thread, and a machine without KVM
 *
 * The server answers every request well by what its struct fake says the device is; a test's hook
 * may answer some of them otherwise, or not at all. All that arrives is recorded, and a test waits
 * for the n-th request of a kind, with a deadline that only failures reach.
 *
 * kvm_vm_ioctl() stands here instead of the machine's, so slots, ioeventfds and irqfds are written
 * down and no /dev/kvm is needed. The test's own thread is the loop thread; threads made by
 * as_vcpu() act as vCPUs.
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
#include <linux/kvm.h>
#include <linux/pci_regs.h>
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

#include "attach/user_device.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/sock.h"
#include "base/util.h"
#include "machine/layout.h"
#include "wire/vfio_user.h"

#define MAYBE_UNUSED __attribute__((unused))
#define DEADLINE_NS  (20 * NS_PER_S)
#define RAM_SIZE     (16 * MIB)

/* --- KVM, as far as the attach side uses it --- */

#define KVM_MAX 256

static struct fake_kvm {
	pthread_mutex_t lock;
	struct kvm_userspace_memory_region slots[KVM_MAX];
	struct kvm_ioeventfd io[KVM_MAX];
	unsigned nr_io;
	struct kvm_irqfd irq[KVM_MAX];
	unsigned nr_irq;
	int refuse_ioeventfd; /* errno */
} fake_kvm = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int fake_ioeventfd(const struct kvm_ioeventfd *a)
{
	struct fake_kvm *k = &fake_kvm;

	if (!(a->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)) {
		if (k->refuse_ioeventfd)
			return -k->refuse_ioeventfd;
		k->io[k->nr_io++] = *a;
		return 0;
	}
	for (unsigned i = 0; i < k->nr_io; i++)
		if (k->io[i].addr == a->addr && k->io[i].fd == a->fd &&
			k->io[i].datamatch == a->datamatch && k->io[i].len == a->len) {
			k->io[i] = k->io[--k->nr_io];
			return 0;
		}
	return -ENOENT;
}

static int fake_irqfd(const struct kvm_irqfd *a)
{
	struct fake_kvm *k = &fake_kvm;

	if (!(a->flags & KVM_IRQFD_FLAG_DEASSIGN)) {
		k->irq[k->nr_irq++] = *a;
		return 0;
	}
	for (unsigned i = 0; i < k->nr_irq; i++)
		if (k->irq[i].fd == a->fd && k->irq[i].gsi == a->gsi) {
			k->irq[i] = k->irq[--k->nr_irq];
			return 0;
		}
	return -ENOENT;
}

int kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *arg)
{
	const struct kvm_userspace_memory_region *r = arg;
	int rc = 0;

	pthread_mutex_lock(&fake_kvm.lock);
	if (request == KVM_SET_USER_MEMORY_REGION)
		fake_kvm.slots[r->slot] = *r;
	else if (request == KVM_IOEVENTFD)
		rc = fake_ioeventfd(arg);
	else if (request == KVM_IRQFD)
		rc = fake_irqfd(arg);
	pthread_mutex_unlock(&fake_kvm.lock);
	return rc;
}

static MAYBE_UNUSED unsigned kvm_nr_slots(void)
{
	unsigned n = 0;

	pthread_mutex_lock(&fake_kvm.lock);
	for (unsigned i = 0; i < KVM_MAX; i++)
		n += fake_kvm.slots[i].memory_size != 0;
	pthread_mutex_unlock(&fake_kvm.lock);
	return n;
}

static MAYBE_UNUSED bool kvm_has_slot(uint64_t gpa, uint64_t size)
{
	bool found = false;

	pthread_mutex_lock(&fake_kvm.lock);
	for (unsigned i = 0; i < KVM_MAX; i++)
		found = found || (fake_kvm.slots[i].guest_phys_addr == gpa &&
					 fake_kvm.slots[i].memory_size == size);
	pthread_mutex_unlock(&fake_kvm.lock);
	return found;
}

static MAYBE_UNUSED unsigned kvm_nr_ioeventfds(void)
{
	unsigned n;

	pthread_mutex_lock(&fake_kvm.lock);
	n = fake_kvm.nr_io;
	pthread_mutex_unlock(&fake_kvm.lock);
	return n;
}

/* The irqfd of a line with resample, or NULL. */
static MAYBE_UNUSED const struct kvm_irqfd *kvm_line(void)
{
	for (unsigned i = 0; i < fake_kvm.nr_irq; i++)
		if (fake_kvm.irq[i].flags & KVM_IRQFD_FLAG_RESAMPLE)
			return &fake_kvm.irq[i];
	return NULL;
}

/* --- the server --- */

#define REC_MAX	 8192
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
	bool ending, paused;
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

static void send_all(int fd, const void *buf, size_t len, const int *fds, int nr_fds)
{
	const char *at = buf;

	while (len) {
		struct iovec iov = { (void *)at, len };
		ssize_t n = sock_send(fd, &iov, 1, fds, nr_fds);
		struct pollfd p = { .fd = fd, .events = POLLOUT };

		if (n == -EAGAIN) {
			poll(&p, 1, 1000);
			continue;
		}
		if (n < 0)
			return; /* the client has left */
		at += n;
		len -= (size_t)n;
		nr_fds = 0;
	}
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
	pthread_mutex_unlock(&f->lock);
	fd_signal(f->wake);
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

/* --- the machine --- */

struct world {
	struct machine m;
	struct device *dev;
	int rc; /* of the attach */
	bool reported;
	struct err err;
	char log_path[64];
	struct loop_timer watchdog;
};

static struct user_device_params world_params(struct fake *f);

static void world_watchdog(struct loop_timer *t)
{
	fail_msg("the loop waits for something that does not come");
}

static MAYBE_UNUSED struct world *world_new(void)
{
	static unsigned number;
	struct world *w = calloc(1, sizeof(*w));
	struct memory_params mp = { .size = RAM_SIZE };
	struct pci_params pp = { .nr_segments = 1, .phys_bits = 40, .ram_top = RAM_SIZE };
	struct err err = { 0 };

	snprintf(w->log_path, sizeof(w->log_path), "/tmp/vfio-log-%d-%u", (int)getpid(), number++);
	log_init("test", LOG_WARN);
	assert_int_equal(log_open(w->log_path), 0);
	memset(fake_kvm.slots, 0, sizeof(fake_kvm.slots));
	fake_kvm.nr_io = fake_kvm.nr_irq = 0;
	fake_kvm.refuse_ioeventfd = 0;
	w->m.kvm.nr_slots = KVM_MAX;
	w->m.kvm.nr_gsi_routes = 1024;
	assert_int_equal(loop_new(&w->m.loop), 0);
	assert_int_equal(memory_new(&w->m.kvm, &mp, &w->m.memory, &err), 0);
	assert_int_equal(irqs_new(&w->m.kvm, &w->m.irqs), 0);
	assert_int_equal(io_bus_new(8, &w->m.bus), 0);
	assert_int_equal(pci_new(w->m.bus, &pp, &w->m.pci, &err), 0);
	return w;
}

static MAYBE_UNUSED void world_free(struct world *w)
{
	loop_timer_del(&w->watchdog);
	device_free(w->dev);
	pci_free(w->m.pci);
	io_bus_free(w->m.bus);
	irqs_free(w->m.irqs);
	memory_free(w->m.memory);
	loop_free(w->m.loop);
	unlink(w->log_path);
	free(w);
}

/* Lines of the log that hold the text. */
static MAYBE_UNUSED unsigned world_log(struct world *w, const char *text)
{
	FILE *file = fopen(w->log_path, "r");
	char line[1024];
	unsigned n = 0;

	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		n += strstr(line, text) != NULL;
	fclose(file);
	return n;
}

static int world_run(struct world *w)
{
	int rc;

	loop_timer_set(w->m.loop, &w->watchdog, clock_now_ns() + DEADLINE_NS, world_watchdog);
	rc = loop_run(w->m.loop);
	loop_timer_del(&w->watchdog);
	return rc;
}

static void world_attached(void *arg, struct device *dev, int rc, const struct err *err)
{
	struct world *w = arg;

	w->rc = rc;
	w->err = *err;
	w->reported = true;
	loop_quit(w->m.loop, 0);
}

static MAYBE_UNUSED int world_attach_with(struct world *w, const struct user_device_params *p)
{
	struct user_device_params copy = *p;
	int rc;

	copy.attached = world_attached;
	copy.arg = w;
	rc = user_device_attach(&w->m, &copy, &w->dev, &w->err);
	if (rc)
		return rc;
	world_run(w);
	assert_true(w->reported);
	if (w->rc) {
		device_free(w->dev);
		w->dev = NULL;
	}
	return w->rc;
}

static struct user_device_params world_params(struct fake *f)
{
	struct user_device_params p = {
		.id = "dev0",
		.socket = f->path,
		.slot = 5,
		.times = { .retry_min_ms = 1, .retry_max_ms = 5 },
	};

	return p;
}

static MAYBE_UNUSED int world_attach(struct world *w, struct fake *f)
{
	struct user_device_params p = world_params(f);

	return world_attach_with(w, &p);
}

/* A machine with the device attached and plugged. */
static MAYBE_UNUSED struct world *world_with(struct fake *f)
{
	struct world *w = world_new();
	struct err err = { 0 };

	if (world_attach(w, f))
		fail_msg("%s", w->err.text);
	if (device_plug(w->dev, &err))
		fail_msg("%s", err.text);
	return w;
}

struct vcpu_job {
	struct world *w;
	void (*fn)(struct world *w, struct io_reader *r, void *arg);
	void *arg;
	unsigned index;
	pthread_t thread;
	_Atomic bool done;
};

static void *vcpu_main(void *arg)
{
	struct vcpu_job *job = arg;

	job->fn(job->w, io_bus_reader(job->w->m.bus, job->index), job->arg);
	atomic_store(&job->done, true);
	loop_quit(job->w->m.loop, 0);
	return NULL;
}

/* Run fn as a vCPU while this thread serves the loop. */
static MAYBE_UNUSED void as_vcpu(
	struct world *w, void (*fn)(struct world *, struct io_reader *, void *), void *arg)
{
	struct vcpu_job job = { .w = w, .fn = fn, .arg = arg };

	assert_int_equal(pthread_create(&job.thread, NULL, vcpu_main, &job), 0);
	/* Another thread's end may have ended a run too. */
	while (!atomic_load(&job.done))
		world_run(w);
	pthread_join(job.thread, NULL);
}

struct loop_until {
	struct loop_timer timer;
	struct world *w;
	bool (*fn)(struct world *w, void *arg);
	void *arg;
	bool done;
};

static void loop_until_check(struct loop_timer *timer)
{
	struct loop_until *u = container_of(timer, struct loop_until, timer);

	u->done = u->fn(u->w, u->arg);
	if (u->done)
		loop_quit(u->w->m.loop, 0);
	else
		loop_timer_set(
			u->w->m.loop, &u->timer, clock_now_ns() + NS_PER_MS, loop_until_check);
}

/* Serve the loop until the condition holds. */
static MAYBE_UNUSED void world_until(
	struct world *w, bool (*fn)(struct world *w, void *arg), void *arg)
{
	struct loop_until u = { .w = w, .fn = fn, .arg = arg };

	loop_timer_set(w->m.loop, &u.timer, clock_now_ns(), loop_until_check);
	while (!u.done)
		world_run(w);
	loop_timer_del(&u.timer);
}

/* --- the guest's accesses --- */

static MAYBE_UNUSED uint32_t cfg_read(
	struct world *w, struct io_reader *r, unsigned off, unsigned size)
{
	uint64_t v;

	io_read(w->m.bus, r, IO_MMIO, LAYOUT_ECAM + (5ull << 15) + off, size, &v);
	return (uint32_t)v;
}

static MAYBE_UNUSED void cfg_write(
	struct world *w, struct io_reader *r, unsigned off, unsigned size, uint32_t v)
{
	io_write(w->m.bus, r, IO_MMIO, LAYOUT_ECAM + (5ull << 15) + off, size, v);
}

static uint64_t bar_addr(struct world *w, struct io_reader *r, unsigned bar)
{
	uint64_t a = cfg_read(w, r, PCI_BASE_ADDRESS_0 + 4 * bar, 4);

	if (a & 1)
		return a & ~3ull;
	if ((a & 6) == 4)
		a |= (uint64_t)cfg_read(w, r, PCI_BASE_ADDRESS_0 + 4 * bar + 4, 4) << 32;
	return a & ~15ull;
}

static enum io_space bar_space(struct world *w, struct io_reader *r, unsigned bar)
{
	return cfg_read(w, r, PCI_BASE_ADDRESS_0 + 4 * bar, 4) & 1 ? IO_PORT : IO_MMIO;
}

static MAYBE_UNUSED uint64_t reg_read(
	struct world *w, struct io_reader *r, unsigned bar, uint64_t off, unsigned size)
{
	uint64_t v;

	io_read(w->m.bus, r, bar_space(w, r, bar), bar_addr(w, r, bar) + off, size, &v);
	return v;
}

static MAYBE_UNUSED void reg_write(
	struct world *w, struct io_reader *r, unsigned bar, uint64_t off, unsigned size, uint64_t v)
{
	io_write(w->m.bus, r, bar_space(w, r, bar), bar_addr(w, r, bar) + off, size, v);
}

static MAYBE_UNUSED void decode_on(struct world *w, struct io_reader *r)
{
	cfg_write(w, r, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
}

static MAYBE_UNUSED void job_decode_on(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
}

#endif
