/*
 * vfio_host_fake.h - a transport that behaves as the kernel does for real hardware, and a PCI
 * function on it
 *
 * What is asked of the device is written down as a text, in order. The rules are the kernel's: only
 * memory that the device decodes, awake, may be in a guest's memory or be mapped for others; MSI-X
 * is as large as its first SET_IRQS made it, unless it can grow; one kind of interrupt is on at a
 * time.
 */
#ifndef TESTS_VFIO_HOST_FAKE_H
#define TESTS_VFIO_HOST_FAKE_H

#include "vfio_world.h"

#include <sched.h>

#include "attach/vfio_pci.h"
#include "attach/vfio_pci_priv.h"

#define MSIX_POS 0x40
#define MSI_POS	 0x50
#define PM_POS	 0x70
#define EXP_POS	 0x80
#define AF_POS	 0xc0

struct host {
	struct vfio_transport t;
	struct world *w;
	struct vfio_pci *vp;
	uint8_t config[PCI_CONFIG_SIZE];
	unsigned config_size;
	char story[1024];
	struct vfio_area areas[6][4];
	int files[6];
	bool attached, gone;
	int rc;
	struct err err;
	unsigned nr_left;
	enum vfio_leave why;
	/* Interrupts as the kernel has them. */
	int on; /* -1, or the kind */
	unsigned room, host_vectors;
	int fds[3][64];
	int unmask_fd;
	bool no_intx;
	/* What other devices reach. */
	unsigned nr_peers;
	uint64_t peer_gpa, peer_size;
	void *peer_hva;
	_Atomic bool unsettled;
	unsigned nr_taken;
	unsigned resets;
	/* Several vCPUs at once: no story, and no memory in the guest's while it does not answer.
	 */
	bool crowd;
	pthread_mutex_t lock; /* config[] */
};

static struct host *host_now; /* whom fake_kvm.on_slot() asks */

static void host_tell(struct host *h, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void host_tell(struct host *h, const char *format, ...)
{
	size_t at = h->crowd ? 0 : strlen(h->story);
	va_list ap;

	if (h->crowd)
		return;
	if (at && at < sizeof(h->story) - 1)
		h->story[at++] = ' ';
	va_start(ap, format);
	vsnprintf(h->story + at, sizeof(h->story) - at, format, ap);
	va_end(ap);
}

/* The story since the last time. */
static MAYBE_UNUSED void host_story(struct host *h, const char *expected)
{
	char got[sizeof(h->story)];

	memcpy(got, h->story, sizeof(got));
	h->story[0] = 0;
	if (strcmp(got, expected)) {
		fprintf(stderr, "the device was asked '%s', expected '%s'\n", got, expected);
		abort();
	}
}

static bool host_answers(struct host *h)
{
	bool answers;

	pthread_mutex_lock(&h->lock);
	answers = !h->gone && h->config[PCI_COMMAND] & PCI_COMMAND_MEMORY &&
		  !(h->config[PM_POS + PCI_PM_CTRL] & 3);
	pthread_mutex_unlock(&h->lock);
	return answers;
}

static struct host *host_of(struct vfio_transport *t)
{
	return container_of(t, struct host, t);
}

static int host_read(
	struct vfio_transport *t, unsigned region, uint64_t off, void *buf, unsigned len)
{
	struct host *h = host_of(t);

	if (h->gone)
		return -EIO;
	if (region == CONFIG) {
		pthread_mutex_lock(&h->lock);
		memcpy(buf, h->config + off, len);
		pthread_mutex_unlock(&h->lock);
		return 0;
	}
	if (!host_answers(h))
		return -EIO;
	if (region == VFIO_USER_REGION_ROM)
		host_tell(h, "ROM+%llx:%u", (unsigned long long)off, len);
	memset(buf, 0x5a, len);
	return 0;
}

static int host_write(struct vfio_transport *t, unsigned region, uint64_t off, const void *buf,
	unsigned len, enum vfio_call call)
{
	struct host *h = host_of(t);
	uint64_t value = 0;

	if (h->gone)
		return -ENOTCONN;
	memcpy(&value, buf, len);
	if (region == CONFIG) {
		pthread_mutex_lock(&h->lock);
		memcpy(h->config + off, buf, len);
		pthread_mutex_unlock(&h->lock);
		/* RAM is one slot. */
		if (h->crowd && !host_answers(h))
			assert_int_equal(kvm_nr_slots(), 1);
		/* Others come in between, as in a system call that takes its time. */
		if (h->crowd)
			sched_yield();
		host_tell(
			h, "%llx:%u=%llx", (unsigned long long)off, len, (unsigned long long)value);
	} else {
		host_tell(h, "BAR%u+%llx:%u=%llx", region, (unsigned long long)off, len,
			(unsigned long long)value);
	}
	return 0;
}

static int host_eventfds(struct host *h, const struct vfio_irq_request *rq)
{
	bool resizes = !(h->t.info.irqs[rq->index].flags & VFIO_USER_IRQ_FLAG_NORESIZE);
	unsigned end = rq->start + rq->count;

	if (end > h->t.info.irqs[rq->index].count || (h->on >= 0 && h->on != (int)rq->index))
		return -EINVAL;
	if (rq->index == VFIO_USER_IRQ_INTX && h->no_intx)
		return -EBUSY;
	if (h->on >= 0 && end > h->room && !resizes)
		return -EINVAL;
	if (end > h->host_vectors && end > h->room)
		return -ENOSPC;
	if (h->on < 0)
		memset(h->fds[rq->index], 0xff, sizeof(h->fds[0]));
	h->on = (int)rq->index;
	h->room = MAX(h->room, end);
	memcpy(h->fds[rq->index] + rq->start, rq->fds, rq->count * sizeof(int));
	return 0;
}

static int host_set_irqs(
	struct vfio_transport *t, const struct vfio_irq_request *rq, enum vfio_call call)
{
	static const char *const names[] = { "INTx", "MSI", "MSI-X" };
	struct host *h = host_of(t);
	int rc;

	if (h->gone)
		return -ENOTCONN;
	assert_true(rq->index < 3);
	if (rq->flags == (VFIO_USER_IRQ_SET_DATA_NONE | VFIO_USER_IRQ_SET_ACTION_TRIGGER) &&
		!rq->count) {
		host_tell(h, "%s-", names[rq->index]);
		rc = h->on == (int)rq->index ? 0 : -EINVAL;
		h->on = -1;
		h->room = 0;
		return rc;
	}
	if (rq->flags & VFIO_USER_IRQ_SET_ACTION_UNMASK) {
		host_tell(h, "INTx.unmask");
		h->unmask_fd = rq->fds ? rq->fds[0] : -1;
		return h->on == VFIO_USER_IRQ_INTX ? 0 : -EINVAL;
	}
	rc = host_eventfds(h, rq);
	host_tell(h, "%s+%u:%u%s", names[rq->index], rq->start, rq->count,
		rc				   ? "!"
		: rq->count == 1 && rq->fds[0] < 0 ? "(none)"
						   : "");
	return rc;
}

static int host_reset(struct vfio_transport *t)
{
	struct host *h = host_of(t);

	if (h->gone)
		return -ENOTCONN;
	h->resets++;
	host_tell(h, "reset");
	h->config[PM_POS + PCI_PM_CTRL] &= (uint8_t)~3;
	return 0;
}

static void host_bus_master(struct vfio_transport *t, bool on)
{
}

static void host_open(struct vfio_transport *t)
{
}

static void host_dma_map(struct vfio_transport *t, uint64_t gpa, uint64_t size, void *hva)
{
	struct host *h = host_of(t);

	assert_true(host_answers(h));
	h->nr_peers++;
	h->peer_gpa = gpa;
	h->peer_size = size;
	h->peer_hva = hva;
	h->unsettled = true;
}

static void host_dma_unmap(struct vfio_transport *t, uint64_t gpa, uint64_t size)
{
	struct host *h = host_of(t);

	assert_true(h->nr_peers);
	h->nr_peers--;
	h->unsettled = true;
}

static void host_dma_take(struct vfio_transport *t, void *hva, uint64_t size)
{
	munmap(hva, size);
	host_of(t)->nr_taken++;
}

static void host_dma_settle(struct vfio_transport *t)
{
	host_of(t)->unsettled = false;
}

static const struct vfio_transport_ops host_ops = {
	.region_read = host_read,
	.region_write = host_write,
	.set_irqs = host_set_irqs,
	.reset = host_reset,
	.bus_master = host_bus_master,
	.open = host_open,
	.dma_map = host_dma_map,
	.dma_unmap = host_dma_unmap,
	.dma_take = host_dma_take,
	.dma_settle = host_dma_settle,
};

/* While the device's memory is in the guest's, it has to answer. */
static void host_slot(const struct kvm_userspace_memory_region *r)
{
	if (r->guest_phys_addr < RAM_SIZE)
		return;
	if (!host_answers(host_now) && r->memory_size) {
		fprintf(stderr, "memory of a device that does not answer came into the guest's\n");
		abort();
	}
}

/* --- the device: described by the test before host_attach() --- */

static MAYBE_UNUSED void host_cap(struct host *h, unsigned pos, unsigned id, unsigned next)
{
	put16(h->config + PCI_STATUS, PCI_STATUS_CAP_LIST);
	h->config[pos] = (uint8_t)id;
	h->config[pos + 1] = (uint8_t)next;
}

/* A memory BAR whose whole pages can be mapped. */
static MAYBE_UNUSED void host_bar(
	struct host *h, unsigned bar, uint64_t size, uint32_t reg, bool mapped)
{
	struct vfio_region *r = &h->t.info.regions[bar];

	r->size = size;
	r->readable = r->writable = true;
	put32(h->config + PCI_BASE_ADDRESS_0 + 4 * bar, reg);
	r->areas = h->areas[bar];
	if (!mapped)
		return;
	h->files[bar] = memfd_create("bar", MFD_CLOEXEC);
	assert_int_equal(ftruncate(h->files[bar], (off_t)MAX(size, PAGE_SIZE_4K)), 0);
	if (size < PAGE_SIZE_4K)
		r->page = (struct vfio_area){ 0, PAGE_SIZE_4K, h->files[bar], 0 };
	else
		r->areas[r->nr_areas++] = (struct vfio_area){ 0, size, h->files[bar], 0 };
	r->msix_mappable = true;
}

/*
 * A PCIe function with BAR 0 of 64 bits and 16 KiB (MSI-X table at 0x2000 for 8 vectors, pending
 * bits at 0x3000), INTx, four vectors of MSI, power management, resets of the function in two ways.
 */
static MAYBE_UNUSED struct host *host_new(void)
{
	struct host *h = calloc(1, sizeof(*h));

	pthread_mutex_init(&h->lock, NULL);
	h->t.ops = &host_ops;
	h->t.id = "host0";
	h->t.info.host = h->t.info.can_reset = true;
	h->config_size = PCI_CONFIG_SIZE;
	h->on = -1;
	h->host_vectors = 64;
	memset(h->files, 0xff, sizeof(h->files));
	put16(h->config + PCI_VENDOR_ID, 0x8086);
	put16(h->config + PCI_DEVICE_ID, 0x10d3);
	h->config[PCI_INTERRUPT_PIN] = 1;
	h->config[PCI_CAPABILITY_LIST] = MSIX_POS;
	host_cap(h, MSIX_POS, PCI_CAP_ID_MSIX, MSI_POS);
	put16(h->config + MSIX_POS + 2, 7);
	put32(h->config + MSIX_POS + 4, 0x2000);
	put32(h->config + MSIX_POS + 8, 0x3000);
	host_cap(h, MSI_POS, PCI_CAP_ID_MSI, PM_POS);
	put16(h->config + MSI_POS + 2, PCI_MSI_FLAGS_64BIT | 2 << 1);
	host_cap(h, PM_POS, PCI_CAP_ID_PM, EXP_POS);
	host_cap(h, EXP_POS, PCI_CAP_ID_EXP, AF_POS);
	put16(h->config + EXP_POS + 2, 2);
	host_cap(h, AF_POS, PCI_CAP_ID_AF, 0);
	h->t.info.irqs[VFIO_USER_IRQ_INTX] =
		(struct vfio_irq){ VFIO_USER_IRQ_FLAG_EVENTFD | VFIO_USER_IRQ_FLAG_MASKABLE |
					   VFIO_USER_IRQ_FLAG_AUTOMASKED,
			1 };
	h->t.info.irqs[VFIO_USER_IRQ_MSI] =
		(struct vfio_irq){ VFIO_USER_IRQ_FLAG_EVENTFD | VFIO_USER_IRQ_FLAG_NORESIZE, 4 };
	h->t.info.irqs[VFIO_USER_IRQ_MSIX] = (struct vfio_irq){ VFIO_USER_IRQ_FLAG_EVENTFD, 8 };
	h->t.info.regions[CONFIG] =
		(struct vfio_region){ .size = PCI_CONFIG_SIZE, .readable = true, .writable = true };
	host_bar(h, 0, 0x4000, PCI_BASE_ADDRESS_MEM_TYPE_64, true);
	return h;
}

static void host_attached(void *arg, int rc, const struct err *err)
{
	struct host *h = arg;

	h->attached = true;
	h->rc = rc;
}

static void host_left(void *arg, enum vfio_leave why)
{
	struct host *h = arg;

	h->nr_left++;
	h->why = why;
}

/* As a transport brings a device up. 0, or why it is refused. */
static MAYBE_UNUSED int host_try(struct host *h, const struct vfio_pci_options *options)
{
	struct vfio_owner *o;
	int rc;

	h->w = world_new();
	host_now = h;
	fake_kvm.on_slot = host_slot;
	assert_int_equal(vfio_pci_new(&h->w->m, "host0", host_attached, h, &h->vp), 0);
	o = vfio_pci_owner(h->vp);
	vfio_pci_set_transport(h->vp, &h->t);
	vfio_pci_on_leave(h->vp, host_left, h);
	if (options)
		vfio_pci_set_options(h->vp, options);
	rc = o->ops->prepare(o, h->config, h->config_size, false, &h->err);
	if (rc)
		return rc;
	o->ops->restore(o);
	if (h->no_intx)
		assert_true(o->ops->irqs_refused(o, VFIO_USER_IRQ_INTX,
			VFIO_USER_IRQ_SET_DATA_EVENTFD | VFIO_USER_IRQ_SET_ACTION_TRIGGER));
	assert_true(o->ops->ready(o, false));
	assert_true(h->attached);
	rc = vfio_pci_plug(h->vp, 0, 5, &h->err);
	host_now = h;
	h->story[0] = 0;
	return rc;
}

static MAYBE_UNUSED struct host *host_attach(struct host *h)
{
	if (host_try(h, NULL))
		fail_msg("%s", h->err.text);
	return h;
}

/* The transport lost it. */
static MAYBE_UNUSED void host_lose(struct host *h, enum vfio_leave why)
{
	struct vfio_owner *o = vfio_pci_owner(h->vp);

	h->gone = true;
	o->ops->leaving(o, why);
	o->ops->lost(o);
}

static MAYBE_UNUSED void host_end(struct host *h)
{
	vfio_pci_unplug(h->vp);
	assert_int_equal(h->nr_peers, 0);
	vfio_pci_free(h->vp);
	fake_kvm.on_slot = NULL;
	world_free(h->w);
	for (unsigned i = 0; i < 6; i++)
		fd_close(&h->files[i]);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

/* --- its guest, on the test's own thread: nothing here waits --- */

static MAYBE_UNUSED struct io_reader *host_vcpu(struct host *h)
{
	return io_bus_reader(h->w->m.bus, 0);
}

static MAYBE_UNUSED uint32_t hcfg(struct host *h, unsigned off, unsigned size)
{
	return cfg_read(h->w, host_vcpu(h), off, size);
}

static MAYBE_UNUSED void hcfg_set(struct host *h, unsigned off, unsigned size, uint32_t value)
{
	cfg_write(h->w, host_vcpu(h), off, size, value);
}

static MAYBE_UNUSED uint64_t hreg(struct host *h, unsigned bar, uint64_t off, unsigned size)
{
	return reg_read(h->w, host_vcpu(h), bar, off, size);
}

static MAYBE_UNUSED void hreg_set(
	struct host *h, unsigned bar, uint64_t off, unsigned size, uint64_t value)
{
	reg_write(h->w, host_vcpu(h), bar, off, size, value);
}

static MAYBE_UNUSED void hdecode(struct host *h)
{
	hcfg_set(h, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
	h->story[0] = 0;
}

static MAYBE_UNUSED uint64_t hbar(struct host *h, unsigned bar)
{
	return bar_addr(h->w, host_vcpu(h), bar);
}

/* Its table is in BAR 0. */
static MAYBE_UNUSED void host_open_vector(struct host *h, unsigned i)
{
	hreg_set(h, 0, 0x2000 + 16 * i, 4, 0xfee00000);
	hreg_set(h, 0, 0x2000 + 16 * i + 8, 4, 0x40 + i);
	hreg_set(h, 0, 0x2000 + 16 * i + 12, 4, 0);
}

#endif
