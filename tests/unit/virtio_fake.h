/*
 * virtio_fake.h - a virtio device that notes what it is told, and a machine without KVM
 *
 * The back-end is a struct virtio_backend of counters and copies, KVM a fake (fake_kvm.h). One thread is
 * the loop thread and the vCPU in turns.
 */
#ifndef TESTS_VIRTIO_FAKE_H
#define TESTS_VIRTIO_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_pci.h>
#include <poll.h>
#include <stdio.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_kvm.h"
#include "fake_machine.h"
#include "log_lines.h"

#include "attach/virtio_pci.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "machine/layout.h"

#define RAM_SIZE     (16 * MIB)
#define SLOT	     5
#define NO_VECTOR    VIRTIO_MSI_NO_VECTOR

/* The descriptor that a write of len bytes to an address signals; -1: none. */
static MAYBE_UNUSED int doorbell_at(uint64_t gpa, unsigned len)
{
	for (unsigned i = 0; i < fake_kvm.nr_io; i++)
		if (fake_kvm.io[i].addr == gpa &&
			(!fake_kvm.io[i].len || fake_kvm.io[i].len == len))
			return fake_kvm.io[i].fd;
	return -1;
}

static MAYBE_UNUSED bool is_irqfd(int fd)
{
	for (unsigned i = 0; i < fake_kvm.nr_irq; i++)
		if ((int)fake_kvm.irq[i].fd == fd)
			return true;
	return false;
}

/* --- the back-end --- */

struct fake {
	struct virtio_backend b;
	uint8_t config[VIRTIO_CONFIG_ROOM];
	bool running;
	unsigned starts, stops, queue_starts, queue_stops, queue_calls, config_reads, config_writes;
	unsigned index; /* of the last call about one queue */
	uint64_t features;
	uint8_t status;
	struct virtio_queue queues[VIRTIO_MAX_QUEUES]; /* as they were last told */
	int start_rc, queue_rc;
};

static struct fake *fake_of(struct virtio_backend *b)
{
	return container_of(b, struct fake, b);
}

static void fake_config_read(struct virtio_backend *b, uint32_t off, void *buf, uint32_t len)
{
	struct fake *f = fake_of(b);

	assert_true(range_ok(off, len, VIRTIO_CONFIG_ROOM));
	f->config_reads++;
	memcpy(buf, f->config + off, len);
}

static void fake_config_write(struct virtio_backend *b, uint32_t off, const void *buf, uint32_t len)
{
	struct fake *f = fake_of(b);

	assert_true(range_ok(off, len, VIRTIO_CONFIG_ROOM));
	f->config_writes++;
	memcpy(f->config + off, buf, len);
}

static int fake_start(
	struct virtio_backend *b, uint64_t features, const struct virtio_queue *queues)
{
	struct fake *f = fake_of(b);

	assert_false(f->running);
	f->starts++;
	f->features = features;
	memcpy(f->queues, queues, b->info.nr_queues * sizeof(*queues));
	f->running = !f->start_rc;
	return f->start_rc;
}

static void fake_stop(struct virtio_backend *b)
{
	assert_true(fake_of(b)->running);
	fake_of(b)->running = false;
	fake_of(b)->stops++;
}

static int fake_queue_start(struct virtio_backend *b, unsigned index, const struct virtio_queue *q)
{
	struct fake *f = fake_of(b);

	assert_true(f->running && index < b->info.nr_queues && q->enabled);
	f->queue_starts++;
	f->index = index;
	f->queues[index] = *q;
	return f->queue_rc;
}

static int fake_queue_stop(struct virtio_backend *b, unsigned index)
{
	struct fake *f = fake_of(b);

	assert_true(f->running && index < b->info.nr_queues);
	f->queue_stops++;
	f->index = index;
	f->queues[index].enabled = false;
	return f->queue_rc;
}

static void fake_queue_call(struct virtio_backend *b, unsigned index, int call_fd)
{
	struct fake *f = fake_of(b);

	assert_true(f->running && index < b->info.nr_queues && f->queues[index].enabled);
	f->queue_calls++;
	f->index = index;
	f->queues[index].call_fd = call_fd;
}

static void fake_status(struct virtio_backend *b, uint8_t status)
{
	fake_of(b)->status = status;
}

static const struct virtio_backend_ops fake_ops = {
	.config_read = fake_config_read,
	.config_write = fake_config_write,
	.start = fake_start,
	.stop = fake_stop,
	.queue_start = fake_queue_start,
	.queue_stop = fake_queue_stop,
	.queue_call = fake_queue_call,
	.status = fake_status,
};

/* --- the machine --- */

struct world {
	struct machine m;
	struct fake f;
	struct virtio_pci *vp;
	struct virtio_owner *owner;
	struct io_reader *r;
	unsigned slot;
	int rc; /* of the attach */
	unsigned reports;
	struct err err;
	struct log_lines log;
	struct loop_timer watchdog;
};

static void world_attached(void *arg, int rc, const struct err *err)
{
	struct world *w = arg;

	w->rc = rc;
	w->reports++;
	if (err)
		w->err = *err;
}

/* A device: block, four features, two queues. The test may change it before world_plug(). */
static MAYBE_UNUSED struct world *world_new(void)
{
	struct world *w = calloc(1, sizeof(*w));

	log_init("test", LOG_WARN);
	log_lines_begin(&w->log);
	w->m.kvm.ioeventfd_any_length = true;
	fake_machine_init(&w->m, RAM_SIZE, 4);
	w->r = io_bus_reader(w->m.bus, 0);
	w->slot = SLOT;
	w->f.b.ops = &fake_ops;
	w->f.b.id = "dev0";
	w->f.b.info = (struct virtio_info){
		.type = 2,
		.features = VIRTIO_BIT(VIRTIO_BIT_VERSION_1) | VIRTIO_BIT(VIRTIO_BIT_RING_PACKED) |
			    VIRTIO_BIT(VIRTIO_BIT_RING_RESET) | VIRTIO_BIT(5),
		.nr_queues = 2,
		.queue_sizes = { 256, 200 },
	};
	assert_int_equal(virtio_pci_new(&w->m, "dev0", world_attached, w, &w->vp), 0);
	virtio_pci_set_backend(w->vp, &w->f.b);
	w->owner = virtio_pci_owner(w->vp);
	return w;
}

static MAYBE_UNUSED void world_free(struct world *w)
{
	virtio_pci_unplug(w->vp);
	virtio_pci_free(w->vp);
	assert_int_equal(fake_kvm.nr_io, 0);
	assert_int_equal(fake_kvm.nr_irq, 0);
	for (unsigned i = 0; i < GSI_IOAPIC_COUNT; i++)
		assert_int_equal(fake_kvm.line[i], 0);
	fake_machine_fini(&w->m);
	log_lines_end(&w->log);
	free(w);
}

/* Lines of the log that hold the text. */
static MAYBE_UNUSED unsigned world_log(struct world *w, const char *text)
{
	return log_lines_with(&w->log, text);
}

static void world_quit(struct loop_timer *t)
{
	struct world *w = container_of(t, struct world, watchdog);

	loop_quit(w->m.loop, 0);
}

/* Serve what is ready on the loop. */
static MAYBE_UNUSED void world_serve(struct world *w)
{
	/* A timer that is due already fires after the sources of its round: two rounds see all. */
	for (unsigned i = 0; i < 2; i++) {
		loop_timer_set(w->m.loop, &w->watchdog, clock_now_ns(), world_quit);
		loop_run(w->m.loop);
	}
}

/* --- the guest's accesses --- */

static uint64_t ecam(const struct world *w, unsigned off)
{
	return LAYOUT_ECAM + ((uint64_t)w->slot << 15) + off;
}

static MAYBE_UNUSED uint32_t cfg_read(struct world *w, unsigned off, unsigned size)
{
	uint64_t v;

	io_read(w->m.bus, w->r, IO_MMIO, ecam(w, off), size, &v);
	return (uint32_t)v;
}

static MAYBE_UNUSED void cfg_write(struct world *w, unsigned off, unsigned size, uint32_t v)
{
	io_write(w->m.bus, w->r, IO_MMIO, ecam(w, off), size, v);
}

static uint64_t bar_addr(struct world *w, unsigned bar)
{
	unsigned off = PCI_BASE_ADDRESS_0 + 4 * bar;

	return (cfg_read(w, off, 4) & ~15u) | (uint64_t)cfg_read(w, off + 4, 4) << 32;
}

static MAYBE_UNUSED uint64_t reg_read(struct world *w, uint64_t off, unsigned size)
{
	uint64_t v;

	io_read(w->m.bus, w->r, IO_MMIO, bar_addr(w, 0) + off, size, &v);
	return v;
}

static MAYBE_UNUSED void reg_write(struct world *w, uint64_t off, unsigned size, uint64_t v)
{
	io_write(w->m.bus, w->r, IO_MMIO, bar_addr(w, 0) + off, size, v);
}

/* Where the n-th (from 0) virtio capability of a kind lies; 0: there is none. */
static MAYBE_UNUSED unsigned cap_find(struct world *w, unsigned type, unsigned n)
{
	unsigned pos = cfg_read(w, PCI_CAPABILITY_LIST, 1);

	for (unsigned i = 0; pos && i < 48; i++, pos = cfg_read(w, pos + 1, 1))
		if (cfg_read(w, pos, 1) == PCI_CAP_ID_VNDR && cfg_read(w, pos + 3, 1) == type &&
			!n--)
			return pos;
	return 0;
}

static uint64_t cap_place(struct world *w, unsigned type)
{
	unsigned pos = cap_find(w, type, 0);

	assert_true(pos);
	assert_int_equal(cfg_read(w, pos + VIRTIO_PCI_CAP_BAR, 1), 0);
	return cfg_read(w, pos + VIRTIO_PCI_CAP_OFFSET, 4);
}

static MAYBE_UNUSED unsigned msix_cap(struct world *w)
{
	unsigned pos = cfg_read(w, PCI_CAPABILITY_LIST, 1);

	while (cfg_read(w, pos, 1) != PCI_CAP_ID_MSIX)
		pos = cfg_read(w, pos + 1, 1);
	return pos;
}

static MAYBE_UNUSED uint64_t com_read(struct world *w, unsigned off, unsigned size)
{
	return reg_read(w, cap_place(w, VIRTIO_PCI_CAP_COMMON_CFG) + off, size);
}

static MAYBE_UNUSED void com_write(struct world *w, unsigned off, unsigned size, uint64_t v)
{
	reg_write(w, cap_place(w, VIRTIO_PCI_CAP_COMMON_CFG) + off, size, v);
}

static MAYBE_UNUSED uint8_t isr_read(struct world *w)
{
	return (uint8_t)reg_read(w, cap_place(w, VIRTIO_PCI_CAP_ISR_CFG), 1);
}

static MAYBE_UNUSED bool signalled(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return fd >= 0 && poll(&p, 1, 0) == 1;
}

/* Attached, plugged, BARs decoded. */
static MAYBE_UNUSED void world_plug(struct world *w)
{
	if (w->owner->ops->attached(w->owner, &w->err))
		fail_msg("%s", w->err.text);
	assert_int_equal(w->reports, 1);
	assert_int_equal(w->rc, 0);
	if (virtio_pci_plug(w->vp, 0, (int)w->slot, &w->err))
		fail_msg("%s", w->err.text);
	cfg_write(w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static MAYBE_UNUSED struct world *world_plugged(void)
{
	struct world *w = world_new();

	world_plug(w);
	return w;
}

static MAYBE_UNUSED uint8_t status(struct world *w)
{
	return (uint8_t)com_read(w, VIRTIO_PCI_COMMON_STATUS, 1);
}

static MAYBE_UNUSED void set_status(struct world *w, uint8_t value)
{
	com_write(w, VIRTIO_PCI_COMMON_STATUS, 1, value);
}

static MAYBE_UNUSED void accept_features(struct world *w, uint64_t features)
{
	set_status(w, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	for (unsigned i = 0; i < 2; i++) {
		com_write(w, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		com_write(w, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(features >> (32 * i)));
	}
	set_status(w,
		VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
}

static MAYBE_UNUSED void set_queue(struct world *w, unsigned queue, uint16_t vector)
{
	com_write(w, VIRTIO_PCI_COMMON_Q_SELECT, 2, queue);
	com_write(w, VIRTIO_PCI_COMMON_Q_SIZE, 2, 64);
	com_write(w, VIRTIO_PCI_COMMON_Q_MSIX, 2, vector);
	for (unsigned i = 0; i < 3; i++) {
		com_write(w, VIRTIO_PCI_COMMON_Q_DESCLO + 8 * i, 4,
			0x10000 * (queue + 1) + 0x1000 * i);
		com_write(w, VIRTIO_PCI_COMMON_Q_DESCHI + 8 * i, 4, 0);
	}
	com_write(w, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

#define VERSION_1 VIRTIO_BIT(VIRTIO_BIT_VERSION_1)
#define DRIVER_OK                                                                                  \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |      \
		VIRTIO_CONFIG_S_DRIVER_OK)

/* A driver that has both queues, without MSI-X. */
static MAYBE_UNUSED struct world *world_driven_with(struct world *w, uint64_t features)
{
	world_plug(w);
	accept_features(w, features);
	set_queue(w, 0, NO_VECTOR);
	set_queue(w, 1, NO_VECTOR);
	set_status(w, DRIVER_OK);
	assert_true(w->f.running);
	return w;
}

static MAYBE_UNUSED struct world *world_driven(void)
{
	return world_driven_with(world_new(), VERSION_1 | VIRTIO_BIT(VIRTIO_BIT_RING_RESET));
}

/* --- shared memory --- */

#define PIECE 0x4000ull

static MAYBE_UNUSED uint64_t shm_at(struct world *w, unsigned n)
{
	unsigned pos = cap_find(w, VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, n);
	uint64_t off = cfg_read(w, pos + VIRTIO_PCI_CAP_OFFSET, 4);

	assert_true(pos);
	assert_int_equal(cfg_read(w, pos + VIRTIO_PCI_CAP_BAR, 1), 2);
	off |= (uint64_t)cfg_read(w, pos + 16, 4) << 32;
	return bar_addr(w, 2) + off;
}

/* Two regions: 7, of 16 MiB, and 0, of 6 GiB. */
static MAYBE_UNUSED struct world *world_with_shm(void)
{
	struct world *w = world_new();

	w->f.b.info.shm[0].id = 7;
	w->f.b.info.shm[0].size = 16 * MIB;
	w->f.b.info.shm[2].id = 0;
	w->f.b.info.shm[2].size = 6 * GIB;
	world_plug(w);
	return w;
}

static MAYBE_UNUSED int memfd(uint64_t size)
{
	int fd = memfd_create("shm", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static MAYBE_UNUSED int map(
	struct world *w, uint8_t id, uint64_t off, uint64_t len, int fd, uint64_t fd_off)
{
	return w->owner->ops->shm_map(w->owner, id, off, len, fd, fd_off, true);
}

#endif
