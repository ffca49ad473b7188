/*
 * vvu_rig.h - a VVU proxy between a driver and a sibling of a test's
 *
 * The owner writes down what the proxy asks of the PCI side; guest memory is that of vq_driver.h,
 * which stands here instead of the machine's; behind an IOMMU it lies elsewhere, and is mapped page by
 * page to where the driver says it is. The test's thread is the vCPU, the driver and
 * the sibling in turns; the proxy's thread is its own.
 */
#ifndef TESTS_VVU_RIG_H
#define TESTS_VVU_RIG_H

#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attach/vvu_proxy.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/sock.h"
#include "machine/iommu.h"
#include "vq_driver.h"
#include "wire/vvu.h"

#define RIG_QUEUES	 4u
#define RIG_SHMEM	 (64 * MIB)
#define RIG_BUFFERS	 8
#define RIG_BUF_SIZE	 2100u
#define RIG_MAPS	 64
#define RIG_SHIFT	 (1ull << 40) /* behind an IOMMU: from a driver's address to the place in memory */
#define RIG_ENDPOINT	 8
#define RIG_DOMAIN	 1
#define RIG_DEADLINE_MS	 10000
#define RIG_UNUSED	 __attribute__((unused))

/* --- guest memory, instead of machine/memory.c --- */

struct memory {
	struct mem_range range;
};

unsigned memory_nr_ranges(const struct memory *m)
{
	return 1;
}

const struct mem_range *memory_range(const struct memory *m, unsigned i)
{
	return &m->range;
}

int memory_read(const struct memory *m, uint64_t gpa, void *buf, uint64_t len)
{
	if (gpa < m->range.gpa || !range_ok(gpa - m->range.gpa, len, m->range.size))
		return -EFAULT;
	memcpy(buf, (char *)m->range.hva + (gpa - m->range.gpa), len);
	return 0;
}

int memory_write(struct memory *m, uint64_t gpa, const void *buf, uint64_t len)
{
	if (gpa < m->range.gpa || !range_ok(gpa - m->range.gpa, len, m->range.size))
		return -EFAULT;
	memcpy((char *)m->range.hva + (gpa - m->range.gpa), buf, len);
	return 0;
}

/* RAM is there from the beginning, and stays. */
void memory_listen(struct memory *m, struct memory_listener *l)
{
	l->add(l, &m->range);
}

void memory_unlisten(struct memory *m, struct memory_listener *l)
{
}

/* --- the PCI side --- */

struct rig_map {
	uint8_t shmid;
	uint64_t at, size;
};

struct rig_owner {
	struct virtio_owner o;
	pthread_mutex_t lock;
	struct rig_map maps[RIG_MAPS];
	unsigned nr_maps, mapped, unmapped; /* now; ever */
	int bells[VVU_NR_DOORBELLS(RIG_QUEUES)];
	int kicks[RIG_QUEUES];
	unsigned config_changes, needs_resets;
	int refuse; /* errno for the next map */
};

static struct rig_owner *rig_owner_of(struct virtio_owner *o)
{
	return container_of(o, struct rig_owner, o);
}

static int rig_attached(struct virtio_owner *o, struct err *err)
{
	return 0;
}

static void rig_config_changed(struct virtio_owner *o)
{
	struct rig_owner *w = rig_owner_of(o);

	pthread_mutex_lock(&w->lock);
	w->config_changes++;
	pthread_mutex_unlock(&w->lock);
}

static void rig_needs_reset(struct virtio_owner *o)
{
	struct rig_owner *w = rig_owner_of(o);

	pthread_mutex_lock(&w->lock);
	w->needs_resets++;
	pthread_mutex_unlock(&w->lock);
}

static int rig_map_in(struct rig_owner *w, const struct rig_map *map)
{
	if (w->refuse)
		return -w->refuse;
	for (unsigned i = 0; i < w->nr_maps; i++)
		if (w->maps[i].shmid == map->shmid &&
			ranges_overlap(w->maps[i].at, w->maps[i].size, map->at, map->size))
			return -EEXIST;
	if (w->nr_maps == RIG_MAPS)
		return -ENOSPC;
	w->maps[w->nr_maps++] = *map;
	w->mapped++;
	return 0;
}

static int rig_map_out(struct rig_owner *w, const struct rig_map *map)
{
	for (unsigned i = 0; i < w->nr_maps; i++)
		if (!memcmp(&w->maps[i], map, sizeof(*map))) {
			w->maps[i] = w->maps[--w->nr_maps];
			w->unmapped++;
			return 0;
		}
	return -ENOENT;
}

static int rig_shm_map(struct virtio_owner *o, uint8_t shmid, uint64_t off, uint64_t len, int fd,
	uint64_t fd_off, bool writable)
{
	struct rig_owner *w = rig_owner_of(o);
	struct rig_map map;
	int rc;

	memset(&map, 0, sizeof(map));
	map.shmid = shmid;
	map.at = off;
	map.size = len;
	pthread_mutex_lock(&w->lock);
	rc = fd < 0 ? rig_map_out(w, &map) : rig_map_in(w, &map);
	pthread_mutex_unlock(&w->lock);
	fd_close(&fd);
	return rc;
}

static int rig_put_fd(struct rig_owner *w, int *fds, unsigned nr, unsigned index, int fd)
{
	int rc = index < nr ? 0 : -EINVAL;

	pthread_mutex_lock(&w->lock);
	if (!rc) {
		fd_close(&fds[index]);
		fds[index] = fd_take(&fd);
	}
	pthread_mutex_unlock(&w->lock);
	fd_close(&fd);
	return rc;
}

static int rig_bell(struct virtio_owner *o, unsigned index, int fd)
{
	struct rig_owner *w = rig_owner_of(o);

	return rig_put_fd(w, w->bells, ARRAY_SIZE(w->bells), index, fd);
}

static int rig_notification(struct virtio_owner *o, unsigned index, int fd)
{
	struct rig_owner *w = rig_owner_of(o);

	return rig_put_fd(w, w->kicks, ARRAY_SIZE(w->kicks), index, fd);
}

static const struct virtio_owner_ops rig_owner_ops = {
	.attached = rig_attached,
	.config_changed = rig_config_changed,
	.needs_reset = rig_needs_reset,
	.shm_map = rig_shm_map,
	.bell = rig_bell,
	.notification = rig_notification,
};

/* --- the whole --- */

struct rig_msg {
	struct vhost_user_header h;
	union vhost_user_payload p;
	int fd; /* that came with it, -1: none */
};

struct rig {
	struct rig_owner owner;
	struct memory memory;
	struct drv_mem *mem;
	struct drv *drv[VVU_NR_QUEUES];
	struct virtio_queue queues[VVU_NR_QUEUES];
	uint64_t rx_at[RIG_BUFFERS], tx_at;
	struct iommu *io; /* NULL: none */
	struct dma_space *dma;
	unsigned faults; /* by owner.lock */
	struct vvu_proxy *proxy;
	struct virtio_backend *b;
	char path[64];
	int sock; /* the sibling's, -1: none */
	int fds_before;
};

static inline void rig_new_rings(struct rig *r)
{
	for (unsigned i = 0; i < VVU_NR_QUEUES; i++) {
		struct vq_setup s;

		drv_reset(r->drv[i]);
		s = drv_setup(r->drv[i]);
		r->queues[i].size = s.size;
		r->queues[i].enabled = true;
		r->queues[i].desc = s.desc;
		r->queues[i].driver = s.driver;
		r->queues[i].device = s.device;
	}
}

/* --- behind an IOMMU --- */

/* Bytes [off, off + len) of memory, whole pages, are what the driver says they are. */
static inline int rig_map(struct rig *r, uint64_t off, uint64_t len)
{
	int rc = 0;

	for (uint64_t at = DRV_IOVA + off; at < DRV_IOVA + off + len && !rc; at += IOMMU_PAGE)
		rc = iommu_map(r->io, RIG_DOMAIN, at, at + IOMMU_PAGE - 1, at + RIG_SHIFT,
			DMA_CAN_READ | DMA_CAN_WRITE);
	return rc;
}

static inline int rig_unmap(struct rig *r, uint64_t off, uint64_t len)
{
	return iommu_unmap(r->io, RIG_DOMAIN, DRV_IOVA + off, DRV_IOVA + off + len - 1);
}

static void rig_fault(void *arg, uint32_t endpoint, bool attached, uint64_t iova, unsigned access)
{
	struct rig *r = arg;

	pthread_mutex_lock(&r->owner.lock);
	r->faults++;
	pthread_mutex_unlock(&r->owner.lock);
}

static inline void rig_put_behind(struct rig *r)
{
	const struct iommu_params p = { .last = UINT64_MAX, .fault = rig_fault, .arg = r };

	r->memory.range.gpa += RIG_SHIFT;
	if (iommu_new(&p, &r->io) || dma_space_new(&r->memory, "vvu0", &r->dma) ||
		iommu_add(r->io, RIG_ENDPOINT, r->dma) ||
		iommu_attach(r->io, RIG_DOMAIN, RIG_ENDPOINT, false) ||
		rig_map(r, 0, r->mem->size))
		abort();
}

static inline void rig_init_behind(struct rig *r, enum vvu_disconnect disconnect, bool behind)
{
	static unsigned number;
	const struct drv_config config = { .size = 16, .event_idx = true };
	struct vvu_proxy_params p = { .id = "vvu0", .shmem_size = RIG_SHMEM,
		.max_queues = RIG_QUEUES, .disconnect = disconnect };
	struct err err = { 0 };

	*r = (struct rig){ .sock = -1, .fds_before = fd_count() };
	pthread_mutex_init(&r->owner.lock, NULL);
	r->owner.o.ops = &rig_owner_ops;
	memset(r->owner.bells, -1, sizeof(r->owner.bells));
	memset(r->owner.kicks, -1, sizeof(r->owner.kicks));
	r->mem = drv_mem_new(1 * MIB);
	r->memory.range = (struct mem_range){ .gpa = DRV_IOVA, .size = r->mem->size,
		.hva = r->mem->hva };
	for (unsigned i = 0; i < VVU_NR_QUEUES; i++) {
		r->drv[i] = drv_new(r->mem, &config);
		r->queues[i].kick_fd = fd_eventfd();
		r->queues[i].call_fd = fd_eventfd();
	}
	for (unsigned i = 0; i < RIG_BUFFERS; i++)
		r->rx_at[i] = drv_alloc(r->mem, RIG_BUF_SIZE, 16);
	r->tx_at = drv_alloc(r->mem, 2 * RIG_BUF_SIZE, 16);
	rig_new_rings(r);
	snprintf(r->path, sizeof(r->path), "/tmp/vvu-rig-%d-%u", (int)getpid(), number++);
	p.socket = r->path;
	if (behind)
		rig_put_behind(r);
	p.memory = &r->memory;
	p.dma = r->dma;
	p.owner = &r->owner.o;
	if (vvu_proxy_new(&p, &r->proxy, &err) || vvu_proxy_start(r->proxy, &err)) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
	r->b = vvu_proxy_backend(r->proxy);
}

static inline void rig_init(struct rig *r, enum vvu_disconnect disconnect)
{
	rig_init_behind(r, disconnect, false);
}

/* As many descriptors as before, when all is given back. */
static inline bool rig_fini(struct rig *r)
{
	fd_close(&r->sock);
	vvu_proxy_stop(r->proxy);
	if (r->dma)
		iommu_remove(r->dma);
	vvu_proxy_free(r->proxy);
	dma_space_free(r->dma);
	iommu_free(r->io);
	for (unsigned i = 0; i < VVU_NR_QUEUES; i++) {
		drv_free(r->drv[i]);
		fd_close(&r->queues[i].kick_fd);
		fd_close(&r->queues[i].call_fd);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(r->owner.bells); i++)
		fd_close(&r->owner.bells[i]);
	for (unsigned i = 0; i < RIG_QUEUES; i++)
		fd_close(&r->owner.kicks[i]);
	drv_mem_free(r->mem);
	pthread_mutex_destroy(&r->owner.lock);
	return fd_count() == r->fds_before && access(r->path, F_OK);
}

/* --- the driver --- */

static inline void rig_kick(struct rig *r, unsigned queue)
{
	if (drv_must_kick(r->drv[queue]))
		fd_signal(r->queues[queue].kick_fd);
}

static inline void rig_give_buffer(struct rig *r, unsigned i, uint32_t size)
{
	const struct drv_buf buf = { r->rx_at[i], size };

	if (drv_add(r->drv[VVU_QUEUE_RX], &buf, 0, 1, &r->rx_at[i]))
		abort();
	rig_kick(r, VVU_QUEUE_RX);
}

static inline uint32_t rig_status(struct rig *r)
{
	uint32_t status;

	r->b->ops->config_read(r->b, 0, &status, sizeof(status));
	return status;
}

static inline void rig_set_status(struct rig *r, uint32_t status)
{
	r->b->ops->config_write(r->b, 0, &status, sizeof(status));
}

/* Start the queues with so many buffers. */
static inline int rig_start(struct rig *r, unsigned buffers)
{
	int rc = r->b->ops->start(
		r->b, VIRTIO_BIT(VIRTIO_BIT_VERSION_1) | VIRTIO_BIT(VIRTIO_BIT_EVENT_IDX), r->queues);

	for (unsigned i = 0; i < buffers; i++)
		rig_give_buffer(r, i, RIG_BUF_SIZE);
	return rc;
}

static inline bool rig_wait(int fd, uint64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int n;

	/* The timer of base/kick.h may come here, too. */
	do
		n = poll(&p, 1, clock_ms_until(deadline));
	while (n < 0 && errno == EINTR);
	return n == 1;
}

/* Whether the driver gets one more buffer back within ms. */
static inline bool rig_used(struct rig *r, unsigned queue, void **cookie, uint32_t *len, uint32_t ms)
{
	uint64_t deadline = clock_now_ns() + ms * NS_PER_MS;
	struct drv *d = r->drv[queue];

	for (;;) {
		drv_want_signals(d, true, 0);
		if (drv_get(d, cookie, len))
			return true;
		if (d->error || !rig_wait(r->queues[queue].call_fd, deadline))
			return false;
		fd_clear(r->queues[queue].call_fd);
	}
}

/* The next message for the driver, whose buffer is given back: its length, or -1: none came. */
static inline int rig_hear(struct rig *r, struct rig_msg *m)
{
	void *cookie;
	uint32_t len;

	memset(m, 0, sizeof(*m));
	m->fd = -1;
	if (!rig_used(r, VVU_QUEUE_RX, &cookie, &len, RIG_DEADLINE_MS))
		return -1;
	memcpy(&m->h, drv_at(r->mem, *(uint64_t *)cookie), MIN(len, sizeof(m->h)));
	if (len > sizeof(m->h))
		memcpy(&m->p, drv_at(r->mem, *(uint64_t *)cookie + sizeof(m->h)),
			MIN(len - sizeof(m->h), sizeof(m->p)));
	rig_give_buffer(r, (unsigned)((uint64_t *)cookie - r->rx_at), RIG_BUF_SIZE);
	return (int)len;
}

/* len bytes as the driver's message; returns when the proxy has taken them. False: it does not. */
static inline bool rig_say_bytes(struct rig *r, const void *bytes, uint32_t len)
{
	const struct drv_buf buf = { r->tx_at, len };
	void *cookie;
	uint32_t written;

	memcpy(drv_at(r->mem, r->tx_at), bytes, len);
	if (drv_add(r->drv[VVU_QUEUE_TX], &buf, 1, 0, r))
		abort();
	rig_kick(r, VVU_QUEUE_TX);
	return rig_used(r, VVU_QUEUE_TX, &cookie, &written, RIG_DEADLINE_MS);
}

static inline bool rig_say(
	struct rig *r, uint32_t request, uint32_t flags, const void *payload, uint32_t size)
{
	struct vhost_user_msg m = {
		.header = { request, VHOST_USER_FLAG_VERSION | flags, size } };

	if (size)
		memcpy(&m.payload, payload, size);
	return rig_say_bytes(r, &m, (uint32_t)sizeof(m.header) + size);
}

static inline bool rig_answer(struct rig *r, uint32_t request, uint64_t value)
{
	return rig_say(r, request, VHOST_USER_FLAG_REPLY, &value, sizeof(value));
}

/* --- the sibling --- */

static inline void rig_connect(struct rig *r)
{
	struct err err = { 0 };

	r->sock = sock_connect(r->path, &err);
	if (r->sock < 0) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
}

static inline void rig_send(struct rig *r, uint32_t request, uint32_t flags, const void *payload,
	uint32_t size, const int *fds, int nr_fds)
{
	struct vhost_user_header h = { request, VHOST_USER_FLAG_VERSION | flags, size };
	struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)payload, size } };

	if (sock_send(r->sock, iov, 2, fds, nr_fds) != (ssize_t)(sizeof(h) + size))
		abort();
}

static inline void rig_send_u64(struct rig *r, uint32_t request, uint32_t flags, uint64_t value, int fd)
{
	rig_send(r, request, flags, &value, sizeof(value), &fd, fd >= 0);
}

static inline bool rig_read(int sock, void *buf, size_t len, struct fd_list *fds)
{
	uint64_t deadline = clock_now_ns() + RIG_DEADLINE_MS * NS_PER_MS;
	char *at = buf;

	while (len) {
		ssize_t n = sock_recv(sock, at, len, fds);

		if (n == -EAGAIN && rig_wait(sock, deadline))
			continue;
		if (n <= 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

/* The next message for the sibling. False: it was hung up on, or none came. */
static inline bool rig_recv_at(int sock, struct rig_msg *m)
{
	struct fd_list fds = { .nr = 0 };
	bool good;

	memset(m, 0, sizeof(*m));
	good = rig_read(sock, &m->h, sizeof(m->h), &fds) && m->h.size <= sizeof(m->p) &&
	       rig_read(sock, &m->p, m->h.size, &fds);
	m->fd = fd_list_take(&fds);
	fd_list_close(&fds);
	return good;
}

static inline bool rig_recv(struct rig *r, struct rig_msg *m)
{
	return rig_recv_at(r->sock, m);
}

#endif
