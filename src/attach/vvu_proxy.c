/*
 * vvu_proxy.c - a device of another machine that this machine's guest serves
 *
 *   sibling's VMM ══ socket ══ proxy ── virtio_pci ── driver in our guest, the back-end
 *         memory, eventfds ──────────────── BARs ───────┘
 *
 * The driver sets up two queues, says BACKEND_UP, and gets the messages of one sibling after the
 * other. Messages are all that passes here: the sibling's memory is mapped into our guest, its
 * doorbells and interrupts are between KVM and KVM.
 *
 * The driver may reset the function at any moment: then its sibling is hung up on and everything of
 * it is gone when the reset is done. The next one waits at the socket.
 *
 * Owns:    the socket, the thread, what the sibling gave.
 * Threads: see vvu_proxy_priv.h. Calls of the PCI side come on vCPU threads and wait for nobody.
 * Trusts:  neither the driver nor the sibling.
 * Spec:    wire/vvu.h.
 */
#include "attach/vvu_proxy.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attach/vvu_proxy_priv.h"
#include "base/fd.h"
#include "base/sock.h"

/* Siblings that wait for their turn. */
#define BACKLOG 16

bool vvu_served(const struct vvu_proxy *p)
{
	return !p->broken && p->rings[VVU_QUEUE_RX].running && p->rings[VVU_QUEUE_TX].running;
}

void vvu_break(struct vvu_proxy *p, const char *fmt, ...)
{
	char why[256];
	va_list args;

	if (p->broken)
		return;
	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	log_limited(&p->complaints, LOG_WARN, "%s: %s; the driver has to reset it", p->id, why);
	p->broken = true;
	p->config.status &= ~VVU_STATUS_BACKEND_UP;
	vvu_expel(p);
	p->owner->ops->needs_reset(p->owner);
}

/* --- what the driver does; vCPU threads --- */

static void config_read(struct virtio_backend *b, uint32_t off, void *buf, uint32_t len)
{
	struct vvu_proxy *p = vvu_of(b);
	struct vvu_config c;
	uint8_t bytes[VIRTIO_CONFIG_ROOM] = { 0 };

	assert(range_ok(off, len, sizeof(bytes)));
	pthread_mutex_lock(&p->lock);
	c = p->config;
	pthread_mutex_unlock(&p->lock);
	c.status = htole32(c.status);
	c.max_queues = htole32(c.max_queues);
	memcpy(bytes, &c, sizeof(c));
	memcpy(buf, bytes + off, len);
}

/* BACKEND_UP is the only bit that is the driver's. */
static void set_status(struct vvu_proxy *p, uint32_t status)
{
	bool was = p->config.status & VVU_STATUS_BACKEND_UP, is = status & VVU_STATUS_BACKEND_UP;

	if (status & ~(VVU_STATUS_BACKEND_UP | VVU_STATUS_FRONTEND_UP))
		log_limited(&p->complaints, LOG_WARN,
			"%s: the driver writes status 0x%x, of which only bit 0 is its own", p->id,
			status);
	if (was == is)
		return;
	p->config.status ^= VVU_STATUS_BACKEND_UP;
	if (was)
		vvu_expel(p);
	else
		vvu_wake(p);
}

static void config_write(struct virtio_backend *b, uint32_t off, const void *buf, uint32_t len)
{
	struct vvu_proxy *p = vvu_of(b);
	uint32_t status;

	pthread_mutex_lock(&p->lock);
	status = htole32(p->config.status);
	if (off < sizeof(status)) {
		memcpy((char *)&status + off, buf, MIN(len, sizeof(status) - off));
		set_status(p, le32toh(status));
	}
	if (off + len > sizeof(status))
		log_limited(&p->complaints, LOG_WARN,
			"%s: the driver writes %u bytes at %u of the configuration, where it may only "
			"read",
			p->id, len, off);
	pthread_mutex_unlock(&p->lock);
}

static int start(struct virtio_backend *b, uint64_t features, const struct virtio_queue *queues)
{
	struct vvu_proxy *p = vvu_of(b);
	struct err err;
	int rc = 0;

	err_clear(&err);
	pthread_mutex_lock(&p->lock);
	p->features = features;
	p->broken = false;
	for (unsigned i = 0; i < VVU_NR_QUEUES && !rc; i++)
		if (queues[i].enabled)
			rc = vvu_ring_start(p, i, features, &queues[i], &err);
	if (rc) {
		log_limited(&p->complaints, LOG_WARN, "%s: %s", p->id, err.text);
		for (unsigned i = 0; i < VVU_NR_QUEUES; i++)
			vvu_ring_stop(p, i);
	}
	vvu_wake(p);
	pthread_mutex_unlock(&p->lock);
	return rc;
}

static void down(struct vvu_proxy *p)
{
	for (unsigned i = 0; i < VVU_NR_QUEUES; i++)
		vvu_ring_stop(p, i);
	p->config.status = 0;
	p->broken = false;
	vvu_expel(p);
}

static void stop(struct virtio_backend *b)
{
	struct vvu_proxy *p = vvu_of(b);

	pthread_mutex_lock(&p->lock);
	down(p);
	pthread_mutex_unlock(&p->lock);
}

/* A driver may say BACKEND_UP before it starts the queues, and then reset what never started. */
static void status(struct virtio_backend *b, uint8_t status)
{
	if (!status)
		stop(b);
}

static int queue_start(struct virtio_backend *b, unsigned index, const struct virtio_queue *q)
{
	struct vvu_proxy *p = vvu_of(b);
	struct err err;
	int rc;

	err_clear(&err);
	pthread_mutex_lock(&p->lock);
	rc = vvu_ring_start(p, index, p->features, q, &err);
	if (rc)
		log_limited(&p->complaints, LOG_WARN, "%s: %s", p->id, err.text);
	vvu_wake(p);
	pthread_mutex_unlock(&p->lock);
	return rc;
}

static int queue_stop(struct virtio_backend *b, unsigned index)
{
	struct vvu_proxy *p = vvu_of(b);

	pthread_mutex_lock(&p->lock);
	vvu_ring_stop(p, index);
	pthread_mutex_unlock(&p->lock);
	return 0;
}

static void queue_call(struct virtio_backend *b, unsigned index, int call_fd)
{
	struct vvu_proxy *p = vvu_of(b);

	pthread_mutex_lock(&p->lock);
	vq_set_call(p->rings[index].vq, call_fd);
	pthread_mutex_unlock(&p->lock);
}

static const struct virtio_backend_ops ops = {
	.config_read = config_read,
	.config_write = config_write,
	.start = start,
	.stop = stop,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.queue_call = queue_call,
	.status = status,
};

/* --- life --- */

void vvu_proxy_layout(const struct vvu_proxy_params *params, struct virtio_pci_layout *layout)
{
	unsigned nr = params->max_queues;
	bool many = VVU_NR_VECTORS(nr) * 16 > VVU_PBA - VVU_MSIX;

	*layout = (struct virtio_pci_layout){
		.class_code = VVU_CLASS,
		.subclass = VVU_SUBCLASS,
		.subsystem = 0x1040 + VVU_TYPE,
		.regs_size = VVU_REGS_SIZE,
		.msix = many ? VVU_MSIX_MORE : VVU_MSIX,
		.pba = VVU_PBA,
		.notify_size = 0x1000,
		.nr_vectors = (uint16_t)VVU_NR_VECTORS(nr),
		/* The sibling's memory is the last of them: old drivers keep the last they see. */
		.shm = {
			{ .bar = VVU_BAR_SMALL, .narrow = true },
			{ .bar = VVU_BAR_SMALL, .narrow = true },
			{ .bar = VVU_BAR_MEMORY },
		},
		.nr_bells = (uint16_t)VVU_NR_DOORBELLS(nr),
		.nr_notifications = (uint16_t)nr,
	};
}

static void fill_info(struct vvu_proxy *p, const struct dma_space *dma)
{
	/* Addresses are translated for drivers that do not accept it, too: old ones do not. */
	uint64_t platform = dma && dma_is_translated(dma)
				    ? VIRTIO_BIT(VIRTIO_BIT_ACCESS_PLATFORM) : 0;

	p->b.info = (struct virtio_info){
		.type = VVU_TYPE,
		.features = VIRTIO_BIT(VIRTIO_BIT_VERSION_1) | VIRTIO_BIT(VIRTIO_BIT_EVENT_IDX) |
			    platform,
		.nr_queues = VVU_NR_QUEUES,
		.queue_sizes = { VVU_QUEUE_SIZE, VVU_QUEUE_SIZE },
		.shm = {
			{ VVU_SHM_LOG, VVU_LOG_SIZE },
			{ VVU_SHM_INFLIGHT, VVU_INFLIGHT_SIZE },
			{ VVU_SHM_MEMORY, p->shmem_size },
		},
	};
}

static int make(struct vvu_proxy *p, struct err *err)
{
	int rc = p->id && p->path ? loop_new(&p->loop) : -ENOMEM;

	for (unsigned i = 0; i < VVU_NR_QUEUES && !rc; i++)
		rc = vq_new(&p->rings[i].vq, i, VVU_QUEUE_SIZE);
	if (!rc)
		rc = p->kinds = fd_kind_open();
	if (rc < 0)
		return err_set(err, rc, "%s", strerror(-rc));
	p->listener = sock_listen(p->path, BACKLOG, err);
	return MIN(p->listener, 0);
}

int vvu_proxy_new(const struct vvu_proxy_params *params, struct vvu_proxy **out, struct err *err)
{
	struct vvu_proxy *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return err_set(err, -ENOMEM, "out of memory");
	p->id = strdup(params->id);
	p->path = strdup(params->socket);
	p->b.ops = &ops;
	p->b.id = p->id;
	p->owner = params->owner;
	p->nr_queues = params->max_queues;
	p->shmem_size = params->shmem_size;
	p->disconnect = params->disconnect;
	p->config.max_queues = params->max_queues;
	memcpy(p->config.uuid, params->uuid, sizeof(p->config.uuid));
	p->kinds = p->listener = -1;
	for (unsigned i = 0; i < VVU_NR_QUEUES; i++) {
		p->rings[i].p = p;
		p->rings[i].kick_fd = -1;
		vvu_ram_init(&p->rings[i].ram, p, params);
	}
	pthread_mutex_init(&p->lock, NULL);
	fill_info(p, params->dma);
	rc = make(p, err);
	if (rc) {
		vvu_proxy_free(p);
		return rc;
	}
	*out = p;
	return 0;
}

static void *run(void *arg)
{
	struct vvu_proxy *p = arg;

	pthread_setname_np(pthread_self(), "vvu");
	loop_run(p->loop);
	return NULL;
}

int vvu_proxy_start(struct vvu_proxy *p, struct err *err)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&p->thread, NULL, run, p);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	p->threaded = !rc;
	/* It has nothing to do yet: there is no driver before this. */
	return rc ? err_set(err, -rc, "no thread: %s", strerror(rc))
		  : p->owner->ops->attached(p->owner, err);
}

void vvu_proxy_stop(struct vvu_proxy *p)
{
	if (p->threaded) {
		loop_quit(p->loop, 0);
		pthread_join(p->thread, NULL);
		p->threaded = false;
	}
	pthread_mutex_lock(&p->lock);
	p->stopped = true;
	acceptor_stop(&p->acceptor);
	for (unsigned i = 0; i < VVU_NR_QUEUES; i++)
		vvu_ring_stop(p, i);
	vvu_expel(p);
	vvu_close(p);
	if (p->listener >= 0)
		unlink(p->path);
	fd_close(&p->listener);
	pthread_mutex_unlock(&p->lock);
}

void vvu_proxy_free(struct vvu_proxy *p)
{
	if (!p)
		return;
	if (p->listener >= 0)
		unlink(p->path);
	fd_close(&p->listener);
	fd_close(&p->kinds);
	for (unsigned i = 0; i < VVU_NR_QUEUES; i++) {
		vvu_ring_stop(p, i);
		vq_free(p->rings[i].vq);
	}
	loop_free(p->loop);
	pthread_mutex_destroy(&p->lock);
	free(p->id);
	free(p->path);
	free(p);
}

struct virtio_backend *vvu_proxy_backend(struct vvu_proxy *p)
{
	return &p->b;
}
