/*
 * vvu.c - offer a virtio model to another machine, by a virtio-vhost-user function of this one
 *
 *   sibling ══ function ── vvu_link ══ socketpair ══ vhost-user port ── model
 *                 └── doorbells, kicks, memory ────────────────────────┘
 *
 * The vhost-user port does here what it does at a socket; what a front-end is, messages and what
 * stands for descriptors, vvu_link makes of the function's queues. Data does not pass here: the
 * model has the sibling's memory mapped, its kicks are eventfds of our vectors, a call is a write
 * to a doorbell.
 *
 * A sibling begins with its first message, and ends with a buffer of no bytes or with status bits
 * that the device has cleared, whichever we see first. The order of the queue is what counts:
 * nothing in it is older than the buffer that ended the sibling before. We say BACKEND_UP only when
 * nobody is left, and after what a sibling left in the queue was thrown away; so the next one is
 * served from its first message.
 *
 * A function that asks for a reset, or whose queues make no sense, is set up anew, at most ten
 * times a second. Nothing of that needs a call which the sandbox does not let through: mappings for
 * DMA and eventfds of vectors outlast the reset.
 *
 * Owns:    the function, the queues' memory, eventfds, the vhost-user port.
 * Threads: the loop's. The model's write to doorbells.
 * Trusts:  nothing that the function or its sibling says.
 * Spec:    wire/vvu.h.
 */
#include "serve/vvu.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"
#include "serve/vvu_priv.h"

#define RESET_STEP_NS	(10 * NS_PER_MS)
#define RESET_TRIES	100u
#define RESET_PAUSE_NS	(100 * NS_PER_MS)
#define BLOCK_BYTES	(VVU_NR_QUEUES * VVU_RING_BYTES)

const struct sandbox_call vvu_port_calls[VVU_PORT_NR_CALLS] = {
	{ SYS_pread64, "registers of the function" },
	{ SYS_pwrite64, "likewise" },
	{ SYS_socketpair, "messages on their way to the vhost-user port" },
};

/* --- the function --- */

static void lost(struct vvu_port *p, const char *why)
{
	log_err("%s vvu %s: %s: given up", p->model->name, p->pci.dev.name, why);
	vvu_link_close(p);
	p->state = VVU_RESETTING;
	p->given_up = true;
	loop_timer_del(&p->again);
	if (p->config.lost && !p->freeing)
		p->config.lost(p->config.arg);
}

static int set_up_ring(struct vvu_port *p, unsigned i, struct err *err)
{
	struct vvu_ring *r = &p->rings[i];
	uint16_t size;
	int rc = vvu_pci_queue_size(&p->pci, i, &size, err);

	if (rc)
		return rc;
	vvu_ring_init(r, (uint8_t *)p->rings_at + i * VVU_RING_BYTES, p->pages + i * VVU_RING_PAGES,
		MIN(size, (uint16_t)VVU_RING_MAX));
	p->places[i] = (struct vvu_pci_ring){
		.size = r->size,
		.vector = i == VVU_QUEUE_RX ? VVU_VECTOR_RX : VVU_VECTOR_TX,
		.desc = vvu_ring_desc(r),
		.driver = vvu_ring_driver(r),
		.device = vvu_ring_device(r),
	};
	return vvu_pci_set_ring(&p->pci, i, &p->places[i], err);
}

/* Kicks of queues that have no vector of their own come by that of the tx queue. */
static uint16_t vector_of(const struct vvu_port *p, unsigned queue)
{
	return (uint16_t)(queue < p->nr_own ? VVU_VECTOR_KICKS + queue : VVU_VECTOR_TX);
}

/* It is reset. Afterwards it works, but the sibling is not let in. */
static int set_up(struct vvu_port *p, struct err *err)
{
	int rc = vvu_pci_begin(&p->pci, err);

	for (unsigned i = 0; !rc && i < VVU_NR_QUEUES; i++)
		rc = set_up_ring(p, i, err);
	for (unsigned i = 0; !rc && i < p->nr_kicks; i++)
		rc = vvu_pci_set_notification(&p->pci, i, vector_of(p, i), err);
	if (!rc)
		rc = vvu_pci_finish(&p->pci, VVU_VECTOR_RX, err);
	if (rc)
		return rc;
	for (unsigned i = 0; i < p->rings[VVU_QUEUE_RX].size; i++)
		vvu_ring_post_in(&p->rings[VVU_QUEUE_RX], i);
	p->discard = p->up_seen = p->swept = false;
	p->state = VVU_ALONE;
	return 0;
}

static void try_reset(struct loop_timer *timer)
{
	struct vvu_port *p = container_of(timer, struct vvu_port, again);
	struct err err = { 0 };
	int rc = p->looks ? 0 : vvu_pci_reset(&p->pci);

	if (!rc)
		rc = vvu_pci_reset_done(&p->pci);
	if (rc == -EAGAIN && ++p->looks < RESET_TRIES) {
		loop_timer_set(p->loop, timer, clock_now_ns() + RESET_STEP_NS, try_reset);
		return;
	}
	if (!rc)
		rc = set_up(p, &err);
	if (rc)
		lost(p, err.text[0] ? err.text : "does not come back from a reset");
	else
		vvu_wake(p);
}

void vvu_reset(struct vvu_port *p)
{
	if (p->state == VVU_RESETTING)
		return;
	p->state = VVU_RESETTING;
	p->looks = 0;
	vvu_link_close(p);
	vvu_wake(p);
}

/* --- siblings --- */

int vvu_welcome(struct vvu_port *p)
{
	struct err err = { 0 };
	uint32_t status = 0;
	int fd, rc = vvu_link_open(p, &p->main, &fd);

	if (rc)
		err_set(&err, rc, "%s", strerror(-rc));
	else
		rc = vhost_user_port_connect(p->port, fd, &err);
	if (rc) {
		vvu_complain(p, "a sibling cannot be served: %s", err.text);
		vvu_link_close(p);
		vvu_pci_set_status(&p->pci, 0);
		p->swept = false;
		vvu_wake(p);
		return rc;
	}
	p->state = VVU_SERVING;
	p->busy = true;
	vvu_pci_status(&p->pci, &status);
	p->up_seen = status & VVU_STATUS_FRONTEND_UP;
	return 0;
}

void vvu_part(struct vvu_port *p)
{
	vvu_link_close(p);
	p->state = VVU_PARTING;
	p->up_seen = false;
}

void vvu_hang_up(struct vvu_port *p)
{
	if (p->state != VVU_SERVING)
		return;
	vvu_part(p);
	p->dropped = true;
}

/* The model is free: the next one may come. What is in the queue now is not of the next one. */
static void let_in(struct vvu_port *p)
{
	uint32_t status = 0;
	int rc = vvu_pci_status(&p->pci, &status);

	if (!rc && !(status & VVU_STATUS_BACKEND_UP)) {
		vvu_link_drain(p);
		p->discard = false;
		if (p->state == VVU_ALONE)
			rc = vvu_pci_set_status(&p->pci, VVU_STATUS_BACKEND_UP);
	}
	p->swept = !rc;
	if (rc)
		lost(p, "its registers cannot be reached");
}

static void deserted(void *arg)
{
	struct vvu_port *p = arg;

	/* The port may have hung up first. */
	vvu_hang_up(p);
	p->busy = false;
	if (p->state == VVU_PARTING) {
		p->state = VVU_ALONE;
		p->swept = false;
		/* Its memory goes with it: not before the model is done with that. */
		if (p->dropped)
			vvu_pci_set_status(&p->pci, 0);
	}
	p->dropped = false;
	vvu_wake(p);
}

static void on_work(struct loop_work *work)
{
	struct vvu_port *p = container_of(work, struct vvu_port, work);

	if (p->freeing)
		return;
	if (p->state == VVU_RESETTING && !p->busy && !p->again.loop && !p->given_up)
		loop_timer_set(p->loop, &p->again, clock_now_ns() + RESET_PAUSE_NS, try_reset);
	if (p->state == VVU_ALONE)
		let_in(p);
	vvu_link_run(p);
}

void vvu_wake(struct vvu_port *p)
{
	loop_post(p->loop, &p->work, on_work);
}

/* --- what the device says --- */

/* After the queue was looked at: what ended the sibling there is known. */
static void look(struct vvu_port *p)
{
	uint8_t device = 0;
	uint32_t status = 0;
	int rc = vvu_pci_device_status(&p->pci, &device);

	if (p->state == VVU_RESETTING)
		return;
	if (!rc)
		rc = vvu_pci_status(&p->pci, &status);
	if (rc || device == 0xff) {
		lost(p, "its registers cannot be reached");
		return;
	}
	if (device & VIRTIO_CONFIG_S_NEEDS_RESET || !(device & VIRTIO_CONFIG_S_DRIVER_OK)) {
		vvu_complain(p, "asks for a reset");
		vvu_reset(p);
		return;
	}
	if (p->state == VVU_SERVING) {
		bool front = status & VVU_STATUS_FRONTEND_UP, back = status & VVU_STATUS_BACKEND_UP;

		/* A device that leaves BACKEND_UP ends the sibling in the queue as well. */
		if (!back || (p->up_seen && !front)) {
			p->discard = back;
			vvu_part(p);
		} else {
			p->up_seen = front;
		}
	}
	if (p->state == VVU_ALONE)
		vvu_wake(p);
}

static void on_rx(struct loop_source *src, uint32_t events)
{
	struct vvu_port *p = container_of(src, struct vvu_port, fixed_src[VVU_VECTOR_RX]);

	fd_clear(src->fd);
	vvu_link_run(p);
	look(p);
}

static void on_tx(struct loop_source *src, uint32_t events)
{
	struct vvu_port *p = container_of(src, struct vvu_port, fixed_src[VVU_VECTOR_TX]);

	fd_clear(src->fd);
	for (unsigned i = p->nr_own; i < p->nr_kicks; i++)
		fd_signal(p->kicks[i]);
	vvu_link_run(p);
}

static void on_request(struct loop_source *src, uint32_t events)
{
	loop_del(src);
	lost(container_of(src, struct vvu_port, request_src), "the host wants it back");
}

static void on_err(struct loop_source *src, uint32_t events)
{
	struct vvu_relay *r = container_of(src, struct vvu_relay, src);

	fd_clear(src->fd);
	*vvu_pci_bell(&r->port->pci, r->bell) = 1;
}

static volatile uint16_t *bell(void *arg, unsigned queue)
{
	const struct vvu_port *p = arg;

	/* A queue beyond does not get as far as a call descriptor. */
	assert(queue < p->nr_kicks);
	return vvu_pci_bell(&p->pci, VVU_DOORBELL_CALL(p->pci.max_queues, queue));
}

/* --- life --- */

static void close_all(int *fds, unsigned nr)
{
	for (unsigned i = 0; fds && i < nr; i++)
		fd_close(&fds[i]);
}

/* The vhost-user port is gone, or never was. */
static void finish(void *arg)
{
	struct vvu_port *p = arg;
	void (*freed)(void *arg) = p->freed;
	void *freed_arg = p->freed_arg;

	loop_timer_del(&p->again);
	loop_unpost(p->loop, &p->work);
	vvu_link_close(p);
	for (unsigned i = 0; i < VVU_FIXED_VECTORS; i++)
		loop_del(&p->fixed_src[i]);
	loop_del(&p->request_src);
	for (unsigned i = 0; p->errs && i < p->nr_kicks; i++) {
		loop_del(&p->errs[i].src);
		fd_close(&p->errs[i].fd);
	}
	/* The device lets go of our memory before it goes. */
	if (p->pci.common.len && !vvu_pci_reset(&p->pci))
		vvu_pci_reset_done(&p->pci);
	vvu_pci_fini(&p->pci);
	if (p->rings_at)
		munmap(p->rings_at, BLOCK_BYTES);
	close_all(p->kicks, p->nr_kicks);
	close_all(p->fixed, VVU_FIXED_VECTORS);
	fd_close(&p->request_fd);
	fd_close(&p->placeholder);
	free(p->kicks);
	free(p->errs);
	free(p->pages);
	free(p);
	if (freed)
		freed(freed_arg);
}

void vvu_port_free(struct vvu_port *p, void (*freed)(void *arg), void *arg)
{
	if (!p) {
		if (freed)
			freed(arg);
		return;
	}
	p->freeing = true;
	p->freed = freed;
	p->freed_arg = arg;
	vvu_link_close(p);
	p->state = VVU_RESETTING;
	vhost_user_port_free(p->port, finish, p);
}

/* --- making --- */

static int eventfd_to(int *fd, struct err *err)
{
	*fd = fd_eventfd();
	return *fd < 0 ? err_set(err, *fd, "eventfd: %s", strerror(-*fd)) : 0;
}

static int make_relay(struct vvu_port *p, unsigned i, struct err *err)
{
	struct vvu_relay *r = &p->errs[i];
	int rc;

	r->port = p;
	r->bell = VVU_DOORBELL_ERR(p->pci.max_queues, i);
	rc = eventfd_to(&r->fd, err);
	if (rc)
		return rc;
	rc = loop_add(p->loop, &r->src, r->fd, EPOLLIN, on_err);
	return rc ? err_set(err, rc, "cannot watch an eventfd: %s", strerror(-rc)) : 0;
}

static int make_eventfds(struct vvu_port *p, struct err *err)
{
	static const loop_fd_fn fns[VVU_FIXED_VECTORS] = { on_rx, on_tx };
	unsigned nr = MIN(p->pci.max_queues, (unsigned)p->model->nr_queues);
	int rc = 0;

	p->kicks = malloc(nr * sizeof(*p->kicks));
	p->errs = calloc(nr, sizeof(*p->errs));
	if (!p->kicks || !p->errs)
		return err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < nr; i++)
		p->kicks[i] = p->errs[i].fd = -1;
	p->nr_kicks = nr;
	for (unsigned i = 0; !rc && i < nr; i++) {
		rc = eventfd_to(&p->kicks[i], err);
		if (!rc)
			rc = make_relay(p, i, err);
	}
	for (unsigned i = 0; !rc && i < VVU_FIXED_VECTORS; i++) {
		rc = eventfd_to(&p->fixed[i], err);
		if (!rc)
			rc = loop_add(p->loop, &p->fixed_src[i], p->fixed[i], EPOLLIN, fns[i]);
	}
	if (!rc)
		rc = eventfd_to(&p->placeholder, err);
	if (!rc)
		rc = eventfd_to(&p->request_fd, err);
	return rc ? rc : loop_add(p->loop, &p->request_src, p->request_fd, EPOLLIN, on_request);
}

static int make_vectors(struct vvu_port *p, struct err *err)
{
	unsigned nr = VVU_FIXED_VECTORS + p->nr_kicks;
	FREE_AUTO int *fds = malloc(nr * sizeof(*fds));
	int rc;

	if (!fds)
		return err_set(err, -ENOMEM, "out of memory");
	memcpy(fds, p->fixed, sizeof(p->fixed));
	memcpy(fds + VVU_FIXED_VECTORS, p->kicks, p->nr_kicks * sizeof(*fds));
	rc = vfio_dev_vectors(&p->pci.dev, fds, nr, err);
	if (rc < 0)
		return rc;
	if (rc < VVU_FIXED_VECTORS)
		return err_set(err, -ENOSPC, "%s has %d interrupt vectors, expected %u or more",
			p->pci.dev.name, rc, VVU_FIXED_VECTORS);
	p->nr_own = (unsigned)rc - VVU_FIXED_VECTORS;
	if (p->nr_own < p->nr_kicks)
		log_warn("%s vvu %s: %u interrupt vectors: queues from %u on share one, and are "
			 "slower",
			p->model->name, p->pci.dev.name, (unsigned)rc, p->nr_own);
	vfio_dev_on_request(&p->pci.dev, p->request_fd);
	return 0;
}

static int make_memory(struct vvu_port *p, struct err *err)
{
	FD_AUTO fd = memfd_create("vvu", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, BLOCK_BYTES))
		return err_set(err, -errno, "memory for queues: %s", strerror(errno));
	p->rings_at = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
		0);
	if (p->rings_at == MAP_FAILED) {
		p->rings_at = NULL;
		return err_set(err, -errno, "memory for queues: %s", strerror(errno));
	}
	p->pages = calloc(BLOCK_BYTES / PAGE_SIZE_4K, sizeof(*p->pages));
	if (!p->pages)
		return err_set(err, -ENOMEM, "out of memory");
	return vfio_dev_map_dma(&p->pci.dev, p->rings_at, BLOCK_BYTES, p->pages, err);
}

/* The program has nothing else to do yet. */
static int first_reset(struct vvu_port *p, struct err *err)
{
	const struct timespec step = { .tv_nsec = (long)RESET_STEP_NS };
	int rc = vvu_pci_reset(&p->pci);

	if (!rc)
		rc = vvu_pci_reset_done(&p->pci);
	for (unsigned n = 0; rc == -EAGAIN && n < RESET_TRIES; n++) {
		nanosleep(&step, NULL);
		rc = vvu_pci_reset_done(&p->pci);
	}
	return rc ? err_set(err, rc, "%s does not come back from a reset: %s", p->pci.dev.name,
			    strerror(-rc))
		  : 0;
}

static int make_port(struct vvu_port *p, struct err *err)
{
	const struct vhost_user_port_config config = {
		.iommu = p->config.iommu, .deserted = deserted, .bell = bell, .arg = p
	};

	return vhost_user_port_new(&p->port, p->loop, p->model, -1, &config, err);
}

static int make(struct vvu_port *p, const struct pci_address *address, struct err *err)
{
	const struct vfio_calls *calls = p->config.calls ? p->config.calls : &vfio_calls_kernel;
	int rc = vfio_dev_open(&p->pci.dev, calls, address, err);

	if (!rc)
		rc = vvu_pci_init(&p->pci, err);
	if (!rc)
		rc = make_eventfds(p, err);
	if (!rc)
		rc = first_reset(p, err);
	if (!rc)
		rc = make_vectors(p, err);
	if (!rc)
		rc = make_memory(p, err);
	if (!rc)
		rc = make_port(p, err);
	return rc ? rc : set_up(p, err);
}

int vvu_port_new(struct vvu_port **out, struct loop *loop, struct virtio_model *model,
	const char *address, const struct vvu_port_config *config, struct err *err)
{
	struct pci_address at;
	struct vvu_port *p;
	int rc;

	if (pci_address_of_path(address, &at))
		return err_set(err, -EINVAL, "'%.64s', expected a PCI address, as 0000:00:10.0",
			address);
	p = calloc(1, sizeof(*p));
	if (!p)
		return err_set(err, -ENOMEM, "out of memory");
	p->loop = loop;
	p->model = model;
	p->config = *config;
	p->main.fd = p->channel.fd = p->request_fd = p->placeholder = -1;
	for (unsigned i = 0; i < VVU_FIXED_VECTORS; i++)
		p->fixed[i] = -1;
	p->state = VVU_RESETTING;
	rc = make(p, &at, err);
	if (rc) {
		vvu_port_free(p, NULL, NULL);
		return rc;
	}
	vvu_wake(p);
	*out = p;
	return 0;
}
