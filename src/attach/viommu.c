/*
 * viommu.c - the guest's IOMMU: a virtio device whose queues are walked here
 *
 * A thread, made with the device, sleeps until a queue is kicked or a fault is to be told of. It
 * takes one request at a time: an answer goes out when all devices concerned have followed. Whoever
 * changes its queues (a vCPU: start, stop) has it rest meanwhile, which takes as long as the
 * request that it is in.
 *
 * Rings and requests lie in guest RAM as it is: this device is not behind itself.
 *
 * Faults wait in a ring of their own for a buffer of the guest's; what finds it full is dropped.
 *
 * Owns:    the tables (machine/iommu.c), the function, the thread.
 * Trusts:  nothing in the queues.
 * Threads: loop thread for the life, vCPU threads for the back-end's ops, "viommu" for the rest; a
 *          fault comes from any.
 * Spec:    virtio 1.3, 5.13.
 */
#include "attach/viommu.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "attach/viommu_priv.h"
#include "attach/virtio_pci.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/pci_address.h"
#include "base/util.h"

enum { REQUESTS, EVENTS, NR_QUEUES };

#define QUEUE_SIZE 256
#define MAX_IOV	   16
#define MAX_FAULTS 64

struct viommu {
	struct virtio_backend b;
	struct guest_mem mem; /* RAM as it is */
	struct machine *m;
	struct iommu *io;
	struct virtio_pci *vp;
	char *id;
	struct vq *vqs[NR_QUEUES];
	struct log_limit complaints;

	pthread_t thread;
	bool has_thread;
	int wake_fd;
	pthread_mutex_t lock; /* what follows; held for moments */
	pthread_cond_t changed;
	unsigned holds; /* how many want the thread to rest */
	bool resting, quit;
	bool on[NR_QUEUES]; /* set up: changes while it rests */
	struct virtio_iommu_fault faults[MAX_FAULTS];
	unsigned first_fault, nr_faults;
};

static struct viommu *of(struct virtio_backend *b)
{
	return container_of(b, struct viommu, b);
}

/* --- RAM, for the queues --- */

static struct memory *memory_of(struct guest_mem *mem)
{
	return container_of(mem, struct viommu, mem)->m->memory;
}

static int mem_read(struct guest_mem *mem, uint64_t iova, void *buf, size_t len)
{
	return memory_read(memory_of(mem), iova, buf, len);
}

static int mem_write(struct guest_mem *mem, uint64_t iova, const void *buf, size_t len)
{
	return memory_write(memory_of(mem), iova, buf, len);
}

static void *mem_ptr(struct guest_mem *mem, uint64_t iova, size_t *len, bool write)
{
	const struct memory *m = memory_of(mem);

	for (unsigned i = 0; i < memory_nr_ranges(m); i++) {
		const struct mem_range *r = memory_range(m, i);

		if (iova < r->gpa || iova - r->gpa >= r->size)
			continue;
		*len = MIN(*len, r->size - (iova - r->gpa));
		return (char *)r->hva + (iova - r->gpa);
	}
	return NULL;
}

/* RAM lives as long as the machine, and so longer than this. */
static void mem_hold(struct guest_mem *mem)
{
}

static const struct guest_mem_ops mem_ops = {
	.read = mem_read,
	.write = mem_write,
	.ptr = mem_ptr,
	.get = mem_hold,
	.put = mem_hold,
};

/* --- the thread --- */

/* Between two requests. True: end. */
static bool rest(struct viommu *v)
{
	bool quit;

	pthread_mutex_lock(&v->lock);
	v->resting = true;
	pthread_cond_broadcast(&v->changed);
	while (v->holds && !v->quit)
		pthread_cond_wait(&v->changed, &v->lock);
	v->resting = false;
	quit = v->quit;
	pthread_mutex_unlock(&v->lock);
	return quit;
}

static bool is_wanted(struct viommu *v)
{
	bool wanted;

	pthread_mutex_lock(&v->lock);
	wanted = v->holds || v->quit;
	pthread_mutex_unlock(&v->lock);
	return wanted;
}

/* The ring makes no sense: nothing more comes from it until the driver resets the device. */
static void broken(struct viommu *v, struct vq *vq)
{
	log_limited(&v->complaints, LOG_WARN, "%s: %s", v->id, vq_broken(vq));
	virtio_pci_owner(v->vp)->ops->needs_reset(virtio_pci_owner(v->vp));
}

/* 1: a request was popped; 0: there is none. */
static int pop(
	struct viommu *v, struct vq *vq, struct vq_req *req, struct iovec *iov, uint64_t *iova)
{
	bool was = vq_broken(vq);
	int bad, rc;

	*req = (struct vq_req){ .iov = iov, .iova = iova, .max_iov = MAX_IOV };
	rc = vq_pop(vq, req, &bad);
	if (rc < 0 && !was)
		broken(v, vq);
	return rc > 0;
}

static void serve_requests(struct viommu *v)
{
	struct vq *vq = v->vqs[REQUESTS];
	struct iovec iov[MAX_IOV];
	uint64_t iova[MAX_IOV];
	struct vq_req req;

	do {
		while (!is_wanted(v) && pop(v, vq, &req, iov, iova)) {
			vq_push(vq, &req, viommu_serve(v->io, &req));
			vq_notify(vq);
		}
	} while (!is_wanted(v) && vq_want_kicks(vq, true));
}

static bool next_fault(struct viommu *v, struct virtio_iommu_fault *fault)
{
	bool any;

	pthread_mutex_lock(&v->lock);
	any = v->nr_faults;
	if (any)
		*fault = v->faults[v->first_fault];
	pthread_mutex_unlock(&v->lock);
	return any;
}

static void drop_fault(struct viommu *v)
{
	pthread_mutex_lock(&v->lock);
	v->first_fault = (v->first_fault + 1) % MAX_FAULTS;
	v->nr_faults--;
	pthread_mutex_unlock(&v->lock);
}

/* A buffer that is too small for one gets none, and the fault is told in the next. */
static void tell_faults(struct viommu *v)
{
	struct vq *vq = v->vqs[EVENTS];
	struct virtio_iommu_fault fault;
	struct iovec iov[MAX_IOV];
	uint64_t iova[MAX_IOV];
	struct vq_req req;

	do {
		while (!is_wanted(v) && next_fault(v, &fault) && pop(v, vq, &req, iov, iova)) {
			bool fits = req.in_len >= sizeof(fault);

			if (fits) {
				vq_req_write(&req, 0, &fault, sizeof(fault));
				drop_fault(v);
			}
			vq_push(vq, &req, fits ? sizeof(fault) : 0);
			vq_notify(vq);
		}
	} while (!is_wanted(v) && next_fault(v, &fault) && vq_want_kicks(vq, true));
}

static void *viommu_thread(void *arg)
{
	struct viommu *v = arg;

	pthread_setname_np(pthread_self(), "viommu");
	while (!rest(v)) {
		struct pollfd p[1 + NR_QUEUES] = { { .fd = v->wake_fd, .events = POLLIN } };

		for (unsigned i = 0; i < NR_QUEUES; i++)
			p[1 + i] = (struct pollfd){
				.fd = v->on[i] ? vq_kick_fd(v->vqs[i]) : -1,
				.events = POLLIN,
			};
		poll(p, ARRAY_SIZE(p), -1);
		fd_clear(v->wake_fd);
		for (unsigned i = 0; i < NR_QUEUES; i++)
			if (p[1 + i].revents)
				fd_clear(p[1 + i].fd);
		if (v->on[REQUESTS])
			serve_requests(v);
		if (v->on[EVENTS])
			tell_faults(v);
	}
	return NULL;
}

/* Have it rest, and go on. */
static void hold(struct viommu *v)
{
	pthread_mutex_lock(&v->lock);
	v->holds++;
	fd_signal(v->wake_fd);
	while (!v->resting && !v->quit)
		pthread_cond_wait(&v->changed, &v->lock);
	pthread_mutex_unlock(&v->lock);
}

static void go_on(struct viommu *v)
{
	pthread_mutex_lock(&v->lock);
	v->holds--;
	pthread_cond_broadcast(&v->changed);
	pthread_mutex_unlock(&v->lock);
	/* What came meanwhile. */
	fd_signal(v->wake_fd);
}

static int begin_thread(struct viommu *v)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = -pthread_create(&v->thread, NULL, viommu_thread, v);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	v->has_thread = !rc;
	return rc;
}

static void quit_thread(struct viommu *v)
{
	pthread_mutex_lock(&v->lock);
	v->quit = true;
	pthread_cond_broadcast(&v->changed);
	pthread_mutex_unlock(&v->lock);
	fd_signal(v->wake_fd);
}

/* --- faults --- */

static void on_fault(void *arg, uint32_t endpoint, bool attached, uint64_t iova, unsigned access)
{
	struct viommu *v = arg;
	const struct virtio_iommu_fault fault = {
		.reason = attached ? VIRTIO_IOMMU_FAULT_R_MAPPING : VIRTIO_IOMMU_FAULT_R_DOMAIN,
		.flags = htole32((access & DMA_CAN_READ ? VIRTIO_IOMMU_FAULT_F_READ : 0) |
				 (access & DMA_CAN_WRITE ? VIRTIO_IOMMU_FAULT_F_WRITE : 0) |
				 VIRTIO_IOMMU_FAULT_F_ADDRESS),
		.endpoint = htole32(endpoint),
		.address = htole64(iova),
	};

	pthread_mutex_lock(&v->lock);
	if (v->nr_faults < MAX_FAULTS)
		v->faults[(v->first_fault + v->nr_faults++) % MAX_FAULTS] = fault;
	pthread_mutex_unlock(&v->lock);
	fd_signal(v->wake_fd);
}

/* --- the device, as the driver sets it up --- */

static void config_read(struct virtio_backend *b, uint32_t off, void *buf, uint32_t len)
{
	struct viommu *v = of(b);
	const struct virtio_iommu_config config = {
		.page_size_mask = htole64(~(uint64_t)(IOMMU_PAGE - 1)),
		.input_range.end = htole64(iommu_last(v->io)),
		.domain_range.end = htole32(UINT32_MAX),
		.probe_size = htole32(VIOMMU_PROBE_SIZE),
		.bypass = iommu_bypass(v->io),
	};

	memset(buf, 0, len);
	if (off < sizeof(config))
		memcpy(buf, (const char *)&config + off, MIN(len, sizeof(config) - off));
}

/* One byte can be written, to 0 or 1. */
static void config_write(struct virtio_backend *b, uint32_t off, const void *buf, uint32_t len)
{
	struct viommu *v = of(b);
	const uint8_t *bytes = buf;
	uint32_t at = offsetof(struct virtio_iommu_config, bypass);

	if (off <= at && at - off < len && bytes[at - off] <= 1 &&
		bytes[at - off] != iommu_bypass(v->io))
		iommu_set_bypass(v->io, bytes[at - off]);
}

static int set_up_queue(
	struct viommu *v, unsigned i, uint64_t features, const struct virtio_queue *q)
{
	const struct vq_setup setup = {
		.size = q->size,
		.packed = features & VIRTIO_BIT(VIRTIO_BIT_RING_PACKED),
		.event_idx = features & VIRTIO_BIT(VIRTIO_BIT_EVENT_IDX),
		.indirect = features & VIRTIO_BIT(VIRTIO_BIT_INDIRECT),
		.in_order = features & VIRTIO_BIT(VIRTIO_BIT_IN_ORDER),
		.desc = q->desc,
		.driver = q->driver,
		.device = q->device,
		.base = features & VIRTIO_BIT(VIRTIO_BIT_RING_PACKED) ? 0x80008000u : 0,
	};
	struct err err = { 0 };
	int rc = vq_setup(v->vqs[i], &setup, &v->mem, &err);

	if (rc) {
		log_limited(&v->complaints, LOG_WARN, "%s: queue %u: %s", v->id, i, err.text);
		return rc;
	}
	vq_set_kick(v->vqs[i], q->kick_fd);
	vq_set_call(v->vqs[i], q->call_fd);
	v->on[i] = true;
	return 0;
}

static void leave_queues(struct viommu *v)
{
	for (unsigned i = 0; i < NR_QUEUES; i++) {
		if (v->on[i])
			vq_leave(v->vqs[i]);
		v->on[i] = false;
	}
}

static int start(struct virtio_backend *b, uint64_t features, const struct virtio_queue *queues)
{
	struct viommu *v = of(b);
	int rc = 0;

	hold(v);
	for (unsigned i = 0; i < NR_QUEUES && !rc; i++)
		if (queues[i].enabled)
			rc = set_up_queue(v, i, features, &queues[i]);
	if (rc)
		leave_queues(v);
	go_on(v);
	return rc;
}

/* 5.13.5: no endpoint is attached afterwards. */
static void stop(struct virtio_backend *b)
{
	struct viommu *v = of(b);

	hold(v);
	leave_queues(v);
	pthread_mutex_lock(&v->lock);
	v->nr_faults = 0;
	pthread_mutex_unlock(&v->lock);
	iommu_reset(v->io);
	go_on(v);
}

/* Queues are set up before DRIVER_OK and not reset one by one: RING_RESET is not offered. */
static int queue_start(struct virtio_backend *b, unsigned index, const struct virtio_queue *q)
{
	return -EOPNOTSUPP;
}

static int queue_stop(struct virtio_backend *b, unsigned index)
{
	return -EOPNOTSUPP;
}

static void queue_call(struct virtio_backend *b, unsigned index, int call_fd)
{
	vq_set_call(of(b)->vqs[index], call_fd);
}

static const struct virtio_backend_ops backend_ops = {
	.config_read = config_read,
	.config_write = config_write,
	.start = start,
	.stop = stop,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.queue_call = queue_call,
};

/* --- life --- */

static void free_parts(void *arg)
{
	struct viommu *v = arg;

	if (v->has_thread)
		pthread_join(v->thread, NULL);
	if (v->vqs[REQUESTS] && v->vqs[EVENTS])
		leave_queues(v);
	for (unsigned i = 0; i < NR_QUEUES; i++)
		vq_free(v->vqs[i]);
	virtio_pci_free(v->vp);
	iommu_free(v->io);
	fd_close(&v->wake_fd);
	pthread_cond_destroy(&v->changed);
	pthread_mutex_destroy(&v->lock);
	free(v->id);
	free(v);
}

/* The attach is done when it began. */
static void attached(void *arg, int rc, const struct err *err)
{
}

static void fill_info(struct virtio_info *info)
{
	info->type = VIRTIO_ID_IOMMU;
	info->features = VIRTIO_BIT(VIRTIO_BIT_VERSION_1) | VIRTIO_BIT(VIRTIO_BIT_INDIRECT) |
			 VIRTIO_BIT(VIRTIO_BIT_EVENT_IDX) | VIRTIO_BIT(VIRTIO_IOMMU_F_INPUT_RANGE) |
			 VIRTIO_BIT(VIRTIO_IOMMU_F_MAP_UNMAP) | VIRTIO_BIT(VIRTIO_IOMMU_F_PROBE) |
			 VIRTIO_BIT(VIRTIO_IOMMU_F_BYPASS_CONFIG);
	info->nr_queues = NR_QUEUES;
	for (unsigned i = 0; i < NR_QUEUES; i++)
		info->queue_sizes[i] = QUEUE_SIZE;
}

static int make_parts(struct viommu *v, const struct viommu_params *p, struct err *err)
{
	static const struct iommu_resv msi = { VIOMMU_MSI_FIRST, VIOMMU_MSI_LAST, true };
	const struct iommu_params ip = {
		.last = p->address_bits >= 64 ? UINT64_MAX : (1ull << p->address_bits) - 1,
		.resv = &msi,
		.nr_resv = 1,
		.fault = on_fault,
		.arg = v,
	};
	int rc = v->id ? iommu_new(&ip, &v->io) : -ENOMEM;

	for (unsigned i = 0; i < NR_QUEUES && !rc; i++)
		rc = vq_new(&v->vqs[i], i, QUEUE_SIZE);
	if (!rc)
		rc = v->wake_fd = fd_eventfd();
	if (rc >= 0)
		rc = virtio_pci_new(v->m, v->id, attached, v, &v->vp);
	if (rc < 0)
		return err_set(err, rc, "%s", strerror(-rc));
	virtio_pci_set_backend(v->vp, &v->b);
	rc = virtio_pci_owner(v->vp)->ops->attached(virtio_pci_owner(v->vp), err);
	if (rc)
		return rc;
	rc = begin_thread(v);
	return rc ? err_set(err, rc, "no thread: %s", strerror(-rc)) : 0;
}

int viommu_new(
	struct machine *m, const struct viommu_params *p, struct viommu **out, struct err *err)
{
	struct viommu *v = calloc(1, sizeof(*v));
	int rc;

	if (!v)
		return err_set(err, -ENOMEM, "iommu: out of memory");
	v->m = m;
	v->mem.ops = &mem_ops;
	v->wake_fd = -1;
	v->id = strdup(p->id);
	v->b = (struct virtio_backend){ .ops = &backend_ops, .id = v->id };
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->changed, NULL);
	fill_info(&v->b.info);
	rc = make_parts(v, p, err);
	if (rc) {
		free_parts(v);
		return err_prefix(err, rc, "iommu");
	}
	*out = v;
	return 0;
}

int viommu_plug(struct viommu *v, int slot, struct err *err)
{
	int rc = virtio_pci_plug(v->vp, 0, slot, err);

	if (!rc) {
		v->m->iommu = v->io;
		v->m->iommu_bdf = virtio_pci_bdf(v->vp);
	}
	return rc;
}

void viommu_free(struct viommu *v)
{
	struct machine *m;

	if (!v)
		return;
	m = v->m;
	m->iommu = NULL;
	m->iommu_bdf = NULL;
	quit_thread(v);
	virtio_pci_unplug(v->vp);
	pci_lock(m->pci);
	if (io_retire(m->bus, free_parts, v))
		log_err("%s: out of memory: the device's own stays allocated", v->id);
	io_reap(m->bus);
	pci_unlock(m->pci);
}

const char *viommu_bdf(const struct viommu *v)
{
	return virtio_pci_bdf(v->vp);
}

int viommu_add(struct viommu *v, const char *bdf, struct dma_space *s, struct err *err)
{
	uint32_t endpoint;
	int rc = iommu_endpoint_of(bdf, &endpoint);

	if (!rc)
		rc = iommu_add(v->io, endpoint, s);
	return rc ? err_set(err, rc, "%s: %s cannot be put behind the IOMMU: %s", v->id, bdf,
			    strerror(-rc))
		  : 0;
}
