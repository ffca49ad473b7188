/*
 * vfio_kernel_test.c - a host device behind a kernel that says what it likes: attach, calls, loss,
 * end
 */
#include "vfio_fake_kernel.h"
#include "fake_kvm.h"

#include <stdlib.h>

#include "attach/vfio_iommu_priv.h"
#include "attach/vfio_kernel_priv.h"
#include "base/clock.h"
#include "base/log.h"

#define CONFIG VFIO_PCI_CONFIG_REGION_INDEX

struct rig {
	struct fake_kernel k;
	struct fk_device *d;
	struct kvm kvm;
	struct memory *memory;
	struct vfio_iommu *io;
	struct loop *loop;
	struct loop_timer watchdog;
	struct vfio_kernel *vk;
	struct vfio_transport *t;
	struct err err;
	int rc, fds;

	struct vfio_owner owner;
	unsigned prepared, restored, lost, left;
	enum vfio_leave why;
	bool stale;	      /* ready() says no, once */
	bool irqs_in_restore; /* restore() sets up INTx */
	bool bears_refusal;
	unsigned refused;
	int eventfd;
};

static struct rig *rig_of(struct vfio_owner *o)
{
	return container_of(o, struct rig, owner);
}

static int prepare(
	struct vfio_owner *o, const uint8_t *config, unsigned size, bool again, struct err *err)
{
	struct rig *r = rig_of(o);

	r->prepared++;
	assert_false(again);
	assert_int_equal(size, r->d->regions[CONFIG].size);
	assert_memory_equal(config, r->d->config, size);
	return 0;
}

static void restore(struct vfio_owner *o)
{
	struct rig *r = rig_of(o);
	const struct vfio_irq_request rq = {
		.index = VFIO_USER_IRQ_INTX,
		.flags = VFIO_USER_IRQ_SET_DATA_EVENTFD | VFIO_USER_IRQ_SET_ACTION_TRIGGER,
		.count = 1,
		.fds = &r->eventfd,
	};
	uint8_t line = 5;
	int rc;

	r->restored++;
	/* Not ready yet: nobody else's calls come through. */
	assert_int_equal(
		r->t->ops->region_write(r->t, CONFIG, PCI_INTERRUPT_LINE, &line, 1, VFIO_CALL_WAIT),
		-ENOTCONN);
	rc = r->t->ops->region_write(r->t, CONFIG, PCI_INTERRUPT_LINE, &line, 1, VFIO_CALL_QUEUE);
	assert_true(!rc || r->k.fail_nth);
	if (r->irqs_in_restore)
		assert_int_equal(r->t->ops->set_irqs(r->t, &rq, VFIO_CALL_QUEUE), 0);
}

static bool irqs_refused(struct vfio_owner *o, uint32_t index, uint32_t flags)
{
	assert_int_equal(index, VFIO_USER_IRQ_INTX);
	rig_of(o)->refused++;
	return rig_of(o)->bears_refusal;
}

static bool ready(struct vfio_owner *o, bool again)
{
	struct rig *r = rig_of(o);

	if (r->stale) {
		r->stale = false;
		return false;
	}
	r->t->ops->open(r->t);
	r->rc = 0;
	loop_quit(r->loop, 0);
	return true;
}

static void lost(struct vfio_owner *o)
{
	rig_of(o)->lost++;
	loop_quit(rig_of(o)->loop, 0);
}

static void leaving(struct vfio_owner *o, enum vfio_leave why)
{
	struct rig *r = rig_of(o);

	assert_int_equal(r->lost, 0);
	r->left++;
	r->why = why;
}

static void failed(struct vfio_owner *o, int rc, const struct err *err)
{
	struct rig *r = rig_of(o);

	r->rc = rc;
	r->err = *err;
	loop_quit(r->loop, 0);
}

static const struct vfio_owner_ops owner_ops = {
	.prepare = prepare,
	.restore = restore,
	.irqs_refused = irqs_refused,
	.ready = ready,
	.lost = lost,
	.failed = failed,
	.leaving = leaving,
};

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct memory_params mp = { .size = 16 * MIB };
	struct vfio_iommu_params ip = { .sys = &r->k.sys, .kvm = &r->kvm, .iommufd_fd = -1 };

	fk_init(&r->k);
	r->d = fk_add_device(&r->k, "0000:01:00.0", 11, "vfio0");
	r->kvm = (struct kvm){ .nr_slots = KVM_MAX, .vm_fd = FK_VM_FD };
	r->owner.ops = &owner_ops;
	r->rc = 1;
	assert_int_equal(memory_new(&r->kvm, &mp, &r->memory, &r->err), 0);
	assert_int_equal(loop_new(&r->loop), 0);
	r->eventfd = fd_eventfd();
	r->fds = fd_count();
	ip.memory = r->memory;
	assert_int_equal(vfio_iommu_new(&ip, &r->io, &r->err), 0);
	return r;
}

static void make(struct rig *r, int fd)
{
	const struct vfio_kernel_params p = {
		.id = "dev0",
		.sys = &r->k.sys,
		.loop = r->loop,
		.iommu = r->io,
		.owner = &r->owner,
		.device = { .name = "0000:01:00.0",
			.group = fd < 0 ? 11 : -1,
			.cdev = "vfio0",
			.fd = fd },
	};

	assert_int_equal(vfio_kernel_new(&p, &r->vk), 0);
	r->t = vfio_kernel_transport(r->vk);
	assert_int_equal(vfio_kernel_start(r->vk, &r->err), 0);
}

static void watchdog(struct loop_timer *t)
{
	fail_msg("the loop waits for something that does not come");
}

static void run(struct rig *r)
{
	loop_timer_set(r->loop, &r->watchdog, clock_now_ns() + 20 * NS_PER_S, watchdog);
	loop_run(r->loop);
	loop_timer_del(&r->watchdog);
}

/* The attach ends: 0, or -errno with r->err. */
static int attach(struct rig *r)
{
	make(r, -1);
	run(r);
	return r->rc;
}

static void unmake(struct rig *r)
{
	if (!r->vk)
		return;
	vfio_kernel_stop(r->vk);
	vfio_kernel_free(r->vk);
	r->vk = NULL;
}

static void rig_end(struct rig *r)
{
	unmake(r);
	vfio_iommu_free(r->io);
	fk_check_empty(&r->k);
	assert_int_equal(fd_count(), r->fds);
	close(r->eventfd);
	loop_free(r->loop);
	memory_free(r->memory);
	free(r);
}

static void says(const struct rig *r, const char *text)
{
	if (!strstr(r->err.text, text))
		fail_msg("'%s' does not say '%s'", r->err.text, text);
}

/* --- what it is made of --- */

static void knows_regions_areas_and_interrupts(void **state)
{
	struct rig *r = rig_new();
	const struct vfio_info *info;

	r->d->regions[1] = (struct fk_region){ .flags = 3, .size = 0x20 };
	r->d->regions[2] = (struct fk_region){ .flags = 7, .size = 0x100, .msix_mappable = true };
	r->d->regions[3] = (struct fk_region){ .flags = 7,
		.size = 0x10000,
		.nr_areas = 2,
		.areas = { { 0x8000, 0x8000 }, { 0, 0x1000 } },
		.msix_mappable = true };
	assert_int_equal(attach(r), 0);
	info = &r->t->info;
	assert_true(info->host && info->can_reset);
	assert_int_equal(info->regions[0].nr_areas, 1);
	assert_int_equal(info->regions[0].areas[0].size, 0x4000);
	assert_int_equal(info->regions[1].nr_areas, 0);
	assert_int_equal(info->regions[1].page.size, 0);
	assert_false(info->regions[1].msix_mappable);
	/* Smaller than a page, but nothing else is in that page. */
	assert_int_equal(info->regions[2].nr_areas, 0);
	assert_int_equal(info->regions[2].page.size, 4096);
	assert_int_equal(info->regions[2].page.fd_offset, 2ull << FK_OFFSET);
	assert_true(info->regions[2].msix_mappable);
	assert_int_equal(info->regions[3].nr_areas, 2);
	assert_int_equal(info->regions[3].areas[1].offset, 0x8000);
	assert_int_equal(info->regions[3].areas[1].fd_offset, (3ull << FK_OFFSET) + 0x8000);
	assert_int_equal(info->irqs[VFIO_USER_IRQ_MSIX].count, 4);
	assert_int_equal(info->irqs[VFIO_USER_IRQ_MSI].count, 0);
	rig_end(r);
}

static void refuses_a_device_that_makes_no_sense(void **state)
{
	static const struct {
		const char *text;
		struct fk_region bar; /* size 0: as it is */
		uint32_t flags, num_regions;
		uint64_t config_size;
		uint32_t msix_count;
	} cases[] = {
		{ "is not a PCI device", .flags = VFIO_DEVICE_FLAGS_PLATFORM },
		{ "3 regions, expected at least 8", .num_regions = 3 },
		{ "configuration space of 32 bytes", .config_size = 32 },
		{ "configuration space of 65536 bytes", .config_size = 65536 },
		{ "4096 interrupts, expected at most 2048", .msix_count = 4096 },
		{ "more than 2^62", .bar = { .flags = 7, .size = UINT64_MAX } },
		{ "region 0", .bar = { .flags = 7,
				      .size = 0x4000,
				      .nr_areas = 1,
				      .areas = { { 0x2000, 0x3000 } } } },
		{ "region 0", .bar = { .flags = 7,
				      .size = 0x4000,
				      .nr_areas = 2,
				      .areas = { { 0, 0x2000 }, { 0x1000, 0x1000 } } } },
		{ "region 0", .bar = { .flags = 7,
				      .size = 0x4000,
				      .nr_areas = 1,
				      .areas = { { UINT64_MAX - 0xfff, 0x2000 } } } },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rig *r = rig_new();

		if (cases[i].bar.size)
			r->d->regions[0] = cases[i].bar;
		if (cases[i].flags)
			r->d->flags = cases[i].flags;
		if (cases[i].num_regions)
			r->d->num_regions = cases[i].num_regions;
		if (cases[i].config_size)
			r->d->regions[CONFIG].size = cases[i].config_size;
		if (cases[i].msix_count)
			r->d->irqs[VFIO_PCI_MSIX_IRQ_INDEX].count = cases[i].msix_count;
		assert_true(attach(r) < 0);
		says(r, cases[i].text);
		assert_int_equal(r->prepared, 0);
		rig_end(r);
	}
}

static void gives_up_on_a_description_that_grows_for_ever(void **state)
{
	struct rig *r = rig_new();

	r->k.argsz_grows = true;
	assert_int_equal(attach(r), -EPROTO);
	says(r, "ever more room");
	assert_in_range(fk_nr_calls(&r->k, VFIO_DEVICE_GET_REGION_INFO), 1, 8);
	rig_end(r);
}

static void asks_for_no_more_than_it_uses(void **state)
{
	struct rig *r = rig_new();

	assert_int_equal(attach(r), 0);
	assert_int_equal(fk_nr_calls(&r->k, VFIO_DEVICE_GET_INFO), 1);
	assert_int_equal(fk_nr_calls(&r->k, VFIO_DEVICE_GET_REGION_INFO), 8);
	assert_int_equal(fk_nr_calls(&r->k, VFIO_DEVICE_GET_IRQ_INFO), 5);
	/* The kernel reset it when it was opened. */
	assert_int_equal(fk_nr_calls(&r->k, VFIO_DEVICE_RESET), 0);
	assert_int_equal(fk_nr_calls(&r->k, FK_PREAD), 1);
	rig_end(r);
}

static void any_call_may_fail_and_leaves_nothing(void **state)
{
	unsigned nth = 1;
	bool more = true;

	for (; more; nth++) {
		struct rig *r = rig_new();
		int rc;

		r->irqs_in_restore = true;
		r->d->flags = VFIO_DEVICE_FLAGS_PCI; /* hot reset */
		r->k.fail_nth = nth;
		r->k.fail_rc = -ENODEV;
		rc = attach(r);
		more = r->k.nr_calls >= nth;
		if (rc && !*r->err.text)
			fail_msg("call %u fails without a text", nth);
		rig_end(r);
	}
	assert_in_range(nth, 25, 60);
}

/* --- calls --- */

static void reads_and_writes_registers(void **state)
{
	struct rig *r = rig_new();
	uint64_t value = 0x1122334455667788, got = 0;

	assert_int_equal(attach(r), 0);
	assert_int_equal(r->t->ops->region_write(r->t, 0, 0x3ff8, &value, 8, VFIO_CALL_POST), 0);
	assert_int_equal(r->t->ops->region_read(r->t, 0, 0x3ff8, &got, 8), 0);
	assert_int_equal(got, value);
	assert_int_equal(r->t->ops->region_read(r->t, CONFIG, 0, &got, 4), 0);
	assert_int_equal((uint32_t)got, 0x10d38086);
	assert_true(vfio_kernel_is_ready(r->vk));
	rig_end(r);
}

static void sets_interrupts(void **state)
{
	struct rig *r = rig_new();
	int fds[3] = { r->eventfd, -1, r->eventfd };
	struct vfio_irq_request rq = {
		.index = VFIO_USER_IRQ_MSIX,
		.flags = VFIO_USER_IRQ_SET_DATA_EVENTFD | VFIO_USER_IRQ_SET_ACTION_TRIGGER,
		.start = 1,
		.count = 3,
		.fds = fds,
	};

	assert_int_equal(attach(r), 0);
	assert_int_equal(r->t->ops->set_irqs(r->t, &rq, VFIO_CALL_WAIT), 0);
	assert_int_equal(r->d->eventfds[VFIO_USER_IRQ_MSIX][0], 0);
	assert_int_not_equal(r->d->eventfds[VFIO_USER_IRQ_MSIX][1], 0);
	assert_int_equal(r->d->eventfds[VFIO_USER_IRQ_MSIX][2], 0);
	assert_int_not_equal(r->d->eventfds[VFIO_USER_IRQ_MSIX][3], 0);
	/* The kernel says how many it could have. */
	r->k.max_vectors = 2;
	assert_int_equal(r->t->ops->set_irqs(r->t, &rq, VFIO_CALL_WAIT), -ENOSPC);
	rq.count = 9;
	assert_int_equal(
		r->t->ops->set_irqs(r->t,
			&(struct vfio_irq_request){
				.index = 2, .start = 9, .count = 1, .flags = rq.flags, .fds = fds },
			VFIO_CALL_WAIT),
		-EINVAL);
	rig_end(r);
}

static void goes_round_again_when_the_owner_was_not_ready(void **state)
{
	struct rig *r = rig_new();

	r->stale = true;
	assert_int_equal(attach(r), 0);
	assert_int_equal(r->restored, 2);
	assert_int_equal(r->prepared, 1);
	assert_int_equal(r->d->config[PCI_INTERRUPT_LINE], 5);
	rig_end(r);
}

static void a_refused_interrupt_ends_the_attach_unless_the_owner_bears_it(void **state)
{
	for (int bears = 0; bears < 2; bears++) {
		struct rig *r = rig_new();

		r->irqs_in_restore = true;
		r->bears_refusal = bears;
		r->d->irqs[VFIO_PCI_ERR_IRQ_INDEX].count =
			r->d->irqs[VFIO_PCI_REQ_IRQ_INDEX].count = 0;
		r->k.fail_request = VFIO_DEVICE_SET_IRQS;
		r->k.fail_rc = -EBUSY;
		assert_int_equal(attach(r), bears ? 0 : -EBUSY);
		assert_int_equal(r->refused, 1);
		if (!bears)
			says(r, "INTx interrupts cannot be set up: Device or resource busy (its interrupt line");
		rig_end(r);
	}
}

static void without_notifiers_the_device_works(void **state)
{
	struct rig *r = rig_new();

	r->k.fail_request = VFIO_DEVICE_SET_IRQS;
	r->k.fail_rc = -EINVAL;
	assert_int_equal(attach(r), 0);
	rig_end(r);
}

static void maps_a_bar_for_others(void **state)
{
	const struct vfio_iommu_device peer = { .name = "0000:02:00.0", .group = 12, .fd = -1 };
	struct rig *r = rig_new();
	struct vfio_binding b;
	atomic_bool cancel = false;

	fk_add_device(&r->k, peer.name, peer.group, NULL);
	assert_int_equal(attach(r), 0);
	/* Nobody is there to reach it. */
	r->t->ops->dma_map(r->t, 0xc0000000, 0x4000, (void *)0x10000);
	assert_false(fk_has_map(&r->k, 0xc0000000, 0x4000));
	r->t->ops->dma_unmap(r->t, 0xc0000000, 0x4000);
	assert_int_equal(vfio_iommu_attach(r->io, &peer, &cancel, &b, &r->err), 0);
	r->t->ops->dma_map(r->t, 0xc0000000, 0x4000, (void *)0x10000);
	assert_true(fk_has_map(&r->k, 0xc0000000, 0x4000));
	r->t->ops->dma_unmap(r->t, 0xc0000000, 0x4000);
	assert_int_equal(r->k.nr_maps, 1);
	vfio_iommu_detach(r->io, &b);
	rig_end(r);
}

static void a_feature_that_the_kernel_lacks_is_no_loss(void **state)
{
	struct rig *r = rig_new();
	struct vfio_device_feature f = { .argsz = sizeof(f) };

	assert_int_equal(attach(r), 0);
	assert_int_equal(r->t->ops->feature(r->t, &f), -ENOTTY);
	assert_true(vfio_kernel_is_ready(r->vk));
	rig_end(r);
}

/* --- reset --- */

static void resets_by_itself_by_its_bus_or_not_at_all(void **state)
{
	struct rig *r = rig_new();

	assert_int_equal(attach(r), 0);
	assert_int_equal(r->t->ops->reset(r->t), 0);
	assert_int_equal(r->d->resets, 1);
	assert_int_equal(r->k.hot_resets, 0);
	rig_end(r);

	/* Without a reset of its own it is reset at the attach too: opening it did not. */
	r = rig_new();
	r->d->flags = VFIO_DEVICE_FLAGS_PCI;
	assert_int_equal(attach(r), 0);
	assert_int_equal(r->k.hot_resets, 1);
	assert_int_equal(r->t->ops->reset(r->t), 0);
	assert_int_equal(r->k.hot_resets, 2);
	rig_end(r);

	for (int others = 0; others < 2; others++) {
		r = rig_new();
		r->d->flags = VFIO_DEVICE_FLAGS_PCI;
		r->k.no_bus = !others;
		r->k.bus_of_others = others;
		assert_int_equal(attach(r), 0);
		assert_int_equal(r->t->ops->reset(r->t), 0);
		assert_int_equal(r->k.hot_resets, 0);
		rig_end(r);
	}
}

/* The kernel only tries the locks of the devices on the bus. */
static void a_bus_that_is_busy_is_asked_again_but_not_for_ever(void **state)
{
	struct rig *r = rig_new();

	r->d->flags = VFIO_DEVICE_FLAGS_PCI;
	r->k.busy_resets = 3;
	assert_int_equal(attach(r), 0);
	assert_int_equal(r->k.hot_resets, 1);
	r->k.busy_resets = 100000;
	assert_int_equal(r->t->ops->reset(r->t), -EBUSY);
	rig_end(r);
}

static void a_reset_that_fails_is_told(void **state)
{
	struct rig *r = rig_new();

	assert_int_equal(attach(r), 0);
	r->k.fail_request = VFIO_DEVICE_RESET;
	r->k.fail_rc = -ETIMEDOUT;
	assert_int_equal(r->t->ops->reset(r->t), -ETIMEDOUT);
	rig_end(r);
}

/* --- loss --- */

static void loses_a_device_that_answers_no_more(void **state)
{
	struct rig *r = rig_new();
	uint32_t value;

	assert_int_equal(attach(r), 0);
	r->d->gone = true;
	assert_int_equal(r->t->ops->region_read(r->t, 0, 0, &value, 4), -ENOTCONN);
	assert_false(vfio_kernel_is_ready(r->vk));
	assert_int_equal(r->lost, 0);
	run(r);
	assert_int_equal(r->lost, 1);
	assert_int_equal(r->left, 1);
	assert_int_equal(r->why, VFIO_LEAVE_GONE);
	assert_int_equal(r->t->ops->region_read(r->t, 0, 0, &value, 4), -ENOTCONN);
	assert_int_equal(r->t->ops->region_write(r->t, 0, 0, &value, 4, VFIO_CALL_WAIT), -ENOTCONN);
	assert_int_equal(r->t->ops->reset(r->t), -ENOTCONN);
	rig_end(r);
}

/* The kernel refuses BARs while memory decoding is off, or the device sleeps. */
static void a_bar_that_is_refused_alone_is_no_loss(void **state)
{
	struct rig *r = rig_new();
	uint32_t value;

	assert_int_equal(attach(r), 0);
	r->d->bar_eio = true;
	assert_int_equal(r->t->ops->region_read(r->t, 0, 0, &value, 4), -EIO);
	assert_true(vfio_kernel_is_ready(r->vk));
	memset(r->d->config, 0xff, 2);
	assert_int_equal(r->t->ops->region_read(r->t, 0, 0, &value, 4), -ENOTCONN);
	run(r);
	assert_int_equal(r->lost, 1);
	rig_end(r);
}

static void signal_irq(struct rig *r, uint32_t index)
{
	assert_int_not_equal(r->d->eventfds[index][0], 0);
	fd_signal(r->d->eventfds[index][0]);
}

static void an_error_or_a_request_ends_it(void **state)
{
	static const uint32_t index[] = { VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX };
	static const enum vfio_leave why[] = { VFIO_LEAVE_ERROR, VFIO_LEAVE_REQUEST };

	for (int i = 0; i < 2; i++) {
		struct rig *r = rig_new();

		assert_int_equal(attach(r), 0);
		signal_irq(r, index[i]);
		run(r);
		assert_int_equal(r->left, 1);
		assert_int_equal(r->why, why[i]);
		assert_int_equal(r->lost, 1);
		/* Again, as the kernel does every few seconds: said once. */
		signal_irq(r, index[i]);
		vfio_kernel_stop(r->vk);
		vfio_kernel_give_back(r->vk);
		assert_int_equal(fk_nr_open(&r->k, FK_DEVICE), 0);
		assert_int_equal(r->k.nr_maps, 0);
		assert_int_equal(r->left, 1);
		rig_end(r);
	}
}

/* --- the end --- */

static void hold(struct fake_kernel *k, unsigned long request)
{
	uint64_t one;

	if (request != VFIO_IOMMU_MAP_DMA)
		return;
	fd_signal(*(int *)k->arg);
	while (read(((int *)k->arg)[1], &one, sizeof(one)) != sizeof(one))
		;
}

static void an_attach_can_be_called_off_while_memory_is_pinned(void **state)
{
	struct rig *r = rig_new();
	int fds[2] = { eventfd(0, 0), eventfd(0, 0) };
	uint64_t one;

	r->k.before = hold;
	r->k.arg = fds;
	make(r, -1);
	assert_int_equal(read(fds[0], &one, sizeof(one)), sizeof(one));
	atomic_store(&r->vk->cancel, true);
	fd_signal(fds[1]);
	unmake(r);
	assert_int_equal(r->prepared, 0);
	assert_int_equal(r->rc, 1); /* neither ready nor failed */
	assert_int_equal(fk_nr_calls(&r->k, VFIO_GROUP_GET_DEVICE_FD), 0);
	close(fds[0]);
	close(fds[1]);
	rig_end(r);
}

static void an_attach_that_is_done_but_not_reported_is_undone(void **state)
{
	for (int i = 0; i < 20; i++) {
		struct rig *r = rig_new();

		make(r, -1);
		unmake(r);
		assert_int_equal(r->prepared, 0);
		rig_end(r);
	}
}

static void a_descriptor_of_the_caller_is_given_back_clean(void **state)
{
	struct rig *r = rig_new();
	const struct vfio_irq_request rq = {
		.index = VFIO_USER_IRQ_INTX,
		.flags = VFIO_USER_IRQ_SET_DATA_EVENTFD | VFIO_USER_IRQ_SET_ACTION_TRIGGER,
		.count = 1,
		.fds = &r->eventfd,
	};
	int iommu = fk_new_file(&r->k, FK_IOMMU)->fd, fd = fk_device_file(&r->k, 0);

	r->io->want_iommufd = true;
	r->io->given_iommufd = iommu;
	for (unsigned round = 1; round < 3; round++) {
		make(r, fd);
		run(r);
		assert_int_equal(r->rc, 0);
		assert_int_equal(r->t->ops->set_irqs(r->t, &rq, VFIO_CALL_WAIT), 0);
		unmake(r);
		assert_int_equal(fk_nr_open(&r->k, FK_DEVICE), 1);
		assert_int_equal(r->d->eventfds[0][0], 0);
		assert_int_equal(r->d->eventfds[VFIO_PCI_REQ_IRQ_INDEX][0], 0);
		/* At each end, and at the start of a run that did not open it. */
		assert_int_equal(r->d->resets, 2 * round - 1);
		r->rc = 1;
	}
	fk_close(&r->k.sys, fd);
	fk_close(&r->k.sys, iommu);
	rig_end(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(knows_regions_areas_and_interrupts),
		cmocka_unit_test(refuses_a_device_that_makes_no_sense),
		cmocka_unit_test(gives_up_on_a_description_that_grows_for_ever),
		cmocka_unit_test(asks_for_no_more_than_it_uses),
		cmocka_unit_test(any_call_may_fail_and_leaves_nothing),
		cmocka_unit_test(reads_and_writes_registers),
		cmocka_unit_test(sets_interrupts),
		cmocka_unit_test(goes_round_again_when_the_owner_was_not_ready),
		cmocka_unit_test(a_refused_interrupt_ends_the_attach_unless_the_owner_bears_it),
		cmocka_unit_test(without_notifiers_the_device_works),
		cmocka_unit_test(maps_a_bar_for_others),
		cmocka_unit_test(a_feature_that_the_kernel_lacks_is_no_loss),
		cmocka_unit_test(resets_by_itself_by_its_bus_or_not_at_all),
		cmocka_unit_test(a_bus_that_is_busy_is_asked_again_but_not_for_ever),
		cmocka_unit_test(a_reset_that_fails_is_told),
		cmocka_unit_test(loses_a_device_that_answers_no_more),
		cmocka_unit_test(a_bar_that_is_refused_alone_is_no_loss),
		cmocka_unit_test(an_error_or_a_request_ends_it),
		cmocka_unit_test(an_attach_can_be_called_off_while_memory_is_pinned),
		cmocka_unit_test(an_attach_that_is_done_but_not_reported_is_undone),
		cmocka_unit_test(a_descriptor_of_the_caller_is_given_back_clean),
	};

	log_init("test", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
