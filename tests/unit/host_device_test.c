/*
 * host_device_test.c - --device as a whole: sysfs, the kernel, the guest's function, and every way
 * it ends
 */
#include "vfio_world.h"

#include "attach/host_device.h"
#include "attach/viommu.h"
#include "fake_sysfs.h"
#include "vfio_fake_kernel.h"

struct rig {
	struct fake_kernel k;
	struct fk_device *d;
	struct fake_sysfs *fs;
	struct world *w;
	struct vfio_iommu *io;
	struct viommu *behind; /* what the next device is attached with */
	struct worker *closer;
};

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct vfio_iommu_params p = { .sys = &r->k.sys, .iommufd_fd = -1 };
	struct err err = { 0 };

	fk_init(&r->k);
	r->d = fk_add_device(&r->k, "0000:01:00.0", 11, NULL);
	fk_add_device(&r->k, "0000:02:00.0", 12, NULL);
	fs_new((void **)&r->fs);
	fs_device(r->fs, "0000:01:00.0", "0x020000\n", 11, "vfio-pci");
	fs_device(r->fs, "0000:02:00.0", "0x020000\n", 12, "vfio-pci");
	fs_device(r->fs, "0000:03:00.0", "0x020000\n", 13, "e1000e");
	r->w = world_new();
	r->w->m.kvm.vm_fd = FK_VM_FD;
	p.kvm = &r->w->m.kvm;
	p.memory = r->w->m.memory;
	assert_int_equal(vfio_iommu_new(&p, &r->io, &err), 0);
	assert_int_equal(worker_new(r->w->m.loop, "closer", &r->closer), 0);
	return r;
}

static void rig_end(struct rig *r)
{
	device_free(r->w->dev);
	r->w->dev = NULL;
	worker_free(r->closer);
	pci_lock(r->w->m.pci);
	vfio_iommu_free(r->io);
	pci_unlock(r->w->m.pci);
	world_free(r->w);
	fk_check_empty(&r->k);
	fs_free((void **)&r->fs);
	free(r);
}

static int begin(struct rig *r, const char *path, int slot, struct device **out)
{
	const struct host_device_params p = {
		.dev = {
			.id = "dev0",
			.iommu = r->behind,
			.slot = slot,
			.attached = world_attached,
			.arg = r->w,
		},
		.path = path,
		.fd = -1,
		.gpudirect_clique = VFIO_PCI_NO_CLIQUE,
		.iommu = r->io,
		.closer = r->closer,
		.sys = &r->k.sys,
		.sysroot = r->fs->root,
	};

	r->w->reported = false;
	r->w->err.text[0] = 0;
	return host_device_attach(&r->w->m, &p, out, &r->w->err);
}

/* The attach ends: the device, or NULL and w->err. */
static struct device *attach(struct rig *r, const char *path, int slot)
{
	struct device *dev;

	if (begin(r, path, slot, &dev))
		return NULL;
	assert_int_equal(device_state(dev), DEVICE_CONNECTING);
	world_run(r->w);
	assert_true(r->w->reported);
	if (!r->w->rc)
		return dev;
	device_free(dev);
	return NULL;
}

static void plugged(struct rig *r)
{
	struct err err = { 0 };

	r->w->dev = attach(r, "0000:01:00.0", 5);
	if (!r->w->dev)
		fail_msg("%s", r->w->err.text);
	if (device_plug(r->w->dev, &err))
		fail_msg("%s", err.text);
}

static void says(struct rig *r, const char *text)
{
	if (!strstr(r->w->err.text, text))
		fail_msg("'%s' does not say '%s'", r->w->err.text, text);
}

/* --- the good life --- */

static void job_look(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(cfg_read(w, r, 0, 4), 0x10d38086);
	decode_on(w, r);
}

static void the_guest_has_the_device(void **state)
{
	struct rig *r = rig_new();
	unsigned ram_slots = kvm_nr_slots();
	struct device *peer;

	plugged(r);
	peer = attach(r, "0000:02:00.0", 6);
	assert_non_null(peer);
	assert_int_equal(device_state(r->w->dev), DEVICE_ATTACHED);
	assert_string_equal(device_bdf(r->w->dev), "0000:00:05.0");
	assert_int_equal(r->k.nr_maps, 1);
	as_vcpu(r->w, job_look, NULL);
	/* Its BAR is memory of the guest's, and of the other device's. */
	assert_int_equal(kvm_nr_slots(), ram_slots + 1);
	assert_int_equal(r->k.nr_maps, 2);
	assert_int_equal(r->d->config[PCI_COMMAND] & PCI_COMMAND_MEMORY, PCI_COMMAND_MEMORY);
	device_free(peer);
	rig_end(r);
	assert_int_equal(kvm_nr_slots(), 0);
}

static void job_reset(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	io_enter(w->m.bus, r);
	pci_reset(w->m.pci);
	io_leave(r);
	assert_int_equal(cfg_read(w, r, PCI_COMMAND, 2), 0);
}

static void a_reset_of_the_machine_resets_the_device(void **state)
{
	struct rig *r = rig_new();

	plugged(r);
	for (unsigned i = 1; i <= 100; i++) {
		as_vcpu(r->w, job_reset, NULL);
		assert_int_equal(r->d->resets, i);
		assert_int_equal(r->d->config[PCI_COMMAND], 0);
		assert_int_equal(r->k.nr_maps, 1);
	}
	assert_int_equal(r->d->opens, 1);
	rig_end(r);
}

static bool is_closed(struct world *w, void *arg)
{
	return !worker_busy(((struct rig *)arg)->closer);
}

static void devices_share_the_address_space_and_leave_in_any_order(void **state)
{
	for (int order = 0; order < 2; order++) {
		struct rig *r = rig_new();
		struct device *dev[2] = { attach(r, "0000:01:00.0", 5), attach(r, "02:00.0", 6) };

		assert_non_null(dev[0]);
		assert_non_null(dev[1]);
		assert_int_equal(fk_nr_calls(&r->k, VFIO_IOMMU_MAP_DMA), 1);
		device_free(dev[order]);
		world_until(r->w, is_closed, r);
		assert_int_equal(r->k.nr_maps, 1);
		device_free(dev[!order]);
		world_until(r->w, is_closed, r);
		assert_int_equal(r->k.nr_maps, 0);
		rig_end(r);
	}
}

static bool is_given_back(struct world *w, void *arg)
{
	struct rig *r = arg;
	bool open;

	pthread_mutex_lock(&r->k.lock);
	open = fk_nr_open(&r->k, FK_DEVICE) || fk_nr_open(&r->k, FK_CONTAINER);
	pthread_mutex_unlock(&r->k.lock);
	return !open;
}

static void a_device_is_behind_the_guest_s_iommu(void **state)
{
	const struct viommu_params p = { .id = "_iommu", .address_bits = 48 };
	struct rig *r = rig_new();
	struct err err = { 0 };
	struct iommu *io;
	uint32_t endpoint;

	assert_int_equal(viommu_new(&r->w->m, &p, &r->behind, &err), 0);
	plugged(r);
	assert_int_equal(viommu_plug(r->behind, 1, &err), 0);
	io = r->w->m.iommu;
	assert_int_equal(iommu_endpoint_of("0000:00:05.0", &endpoint), 0);
	as_vcpu(r->w, job_look, NULL);
	assert_true(fk_has_map(&r->k, 0, RAM_SIZE));
	assert_int_equal(r->k.nr_maps, 1);
	assert_int_equal(iommu_attach(io, 1, endpoint, false), 0);
	assert_int_equal(iommu_map(io, 1, 0x10000, 0x11fff, 0x1000, DMA_CAN_READ), 0);
	assert_int_equal(r->k.nr_maps, 1);
	assert_true(fk_has_map(&r->k, 0x10000, 0x2000));
	/* What is lost is no endpoint any more, and reaches nothing. */
	fd_signal(r->d->eventfds[VFIO_PCI_REQ_IRQ_INDEX][0]);
	world_until(r->w, is_given_back, r);
	assert_int_equal(r->k.nr_maps, 0);
	assert_int_equal(iommu_attach(io, 1, endpoint, false), -ENOENT);
	device_free(r->w->dev);
	r->w->dev = NULL;
	viommu_free(r->behind);
	rig_end(r);
}

/* --- what is wrong --- */

static void what_sysfs_knows_is_said_before_anything_is_opened(void **state)
{
	struct rig *r = rig_new();

	assert_null(attach(r, "0000:09:00.0", 5));
	says(r, "device dev0: 0000:09:00.0");
	assert_null(attach(r, "0000:03:00.0", 5));
	says(r, "device dev0: 0000:03:00.0");
	says(r, "e1000e");
	assert_int_equal(r->k.nr_calls, 0);
	rig_end(r);
}

static void what_the_kernel_refuses_names_the_device(void **state)
{
	struct rig *r = rig_new();

	r->k.fail_request = VFIO_IOMMU_MAP_DMA;
	r->k.fail_rc = -ENOMEM;
	assert_null(attach(r, "0000:01:00.0", 5));
	assert_int_equal(r->w->rc, -ENOMEM);
	says(r, "device dev0: the IOMMU does not map guest RAM");
	assert_int_equal(strncmp(r->w->err.text, "device dev0: ", 13), 0);
	r->k.fail_rc = 0;
	plugged(r);
	rig_end(r);
}

static void any_call_may_fail_and_leaves_nothing(void **state)
{
	bool more = true;

	for (unsigned nth = 1; more; nth++) {
		struct rig *r = rig_new();
		struct device *dev;

		r->k.fail_nth = nth;
		r->k.fail_rc = -EIO;
		dev = attach(r, "0000:01:00.0", 5);
		world_until(r->w, is_closed, r);
		more = r->k.nr_calls >= nth;
		if (!dev)
			says(r, "device dev0: ");
		device_free(dev);
		rig_end(r);
	}
}

static void an_attach_that_nobody_waits_for_any_more_is_undone(void **state)
{
	for (int i = 0; i < 20; i++) {
		struct rig *r = rig_new();
		struct device *dev;

		assert_int_equal(begin(r, "0000:01:00.0", 5, &dev), 0);
		device_free(dev);
		assert_false(r->w->reported);
		rig_end(r);
	}
}

/* --- leaving --- */

static void job_all_ones(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(cfg_read(w, r, 0, 4), 0xffffffff);
	assert_int_equal(cfg_read(w, r, PCI_COMMAND, 2), 0xffff);
	cfg_write(w, r, PCI_COMMAND, 2, 7);
}

static bool left_its_slot(struct world *w, void *arg)
{
	return !*device_bdf(w->dev);
}

static void what_the_host_wants_back_it_gets_while_the_guest_runs(void **state)
{
	struct rig *r = rig_new();
	unsigned ram_slots = kvm_nr_slots();

	plugged(r);
	as_vcpu(r->w, job_look, NULL);
	r->d->config[PCI_COMMAND] |= PCI_COMMAND_MASTER;
	fd_signal(r->d->eventfds[VFIO_PCI_REQ_IRQ_INDEX][0]);
	world_until(r->w, left_its_slot, NULL);
	/* From here on the guest may use memory that the device worked on. */
	assert_int_equal(r->d->config[PCI_COMMAND] & PCI_COMMAND_MASTER, 0);
	world_until(r->w, is_given_back, r);
	assert_int_equal(kvm_nr_slots(), ram_slots);
	assert_int_equal(r->k.nr_maps, 0);
	assert_int_equal(device_state(r->w->dev), DEVICE_BROKEN);
	assert_int_equal(world_log(r->w, "the host wants the device back"), 1);
	as_vcpu(r->w, job_all_ones, NULL);
	rig_end(r);
}

struct held {
	struct rig *r;
	int at, go;
	atomic_bool armed;
};

static void hold_read(struct fake_kernel *k, unsigned long request)
{
	struct held *h = k->arg;
	uint64_t one;

	if (request != FK_PREAD || !atomic_exchange(&h->armed, false))
		return;
	fd_signal(h->at);
	assert_int_equal(read(h->go, &one, sizeof(one)), sizeof(one));
}

static void hold_close(struct fake_kernel *k, unsigned long request)
{
	struct held *h = k->arg;
	uint64_t one;

	if (request != FK_CLOSE || !atomic_exchange(&h->armed, false))
		return;
	fd_signal(h->at);
	assert_int_equal(read(h->go, &one, sizeof(one)), sizeof(one));
}

static void told(void *arg)
{
	*(bool *)arg = true;
}

/* As one whose bus has to be reset. Behind an IOMMU it may be the last that knows of the guest's memory. */
static void a_device_that_takes_its_time_to_close_holds_nobody_up(void **state)
{
	const struct viommu_params p = { .id = "_iommu", .address_bits = 48 };

	for (int behind = 0; behind < 2; behind++) {
		struct rig *r = rig_new();
		struct held h = { .r = r, .at = eventfd(0, 0), .go = eventfd(0, 0) };
		struct err err = { 0 };
		bool idle = false;
		uint64_t one;

		if (behind)
			assert_int_equal(viommu_new(&r->w->m, &p, &r->behind, &err), 0);
		plugged(r);
		r->k.arg = &h;
		r->k.before = hold_close;
		atomic_store(&h.armed, true);
		device_free(r->w->dev);
		r->w->dev = NULL;
		viommu_free(r->behind);
		assert_int_equal(read(h.at, &one, sizeof(one)), sizeof(one));
		assert_int_equal(fk_nr_open(&r->k, FK_DEVICE), 1);
		assert_true(worker_busy(r->closer));
		worker_when_idle(r->closer, told, &idle);
		fd_signal(h.go);
		world_until(r->w, is_closed, r);
		while (!idle)
			world_run(r->w);
		assert_int_equal(r->k.nr_maps, 0);
		close(h.at);
		close(h.go);
		rig_end(r);
	}
}

static void *slow_vcpu(void *arg)
{
	struct held *h = arg;
	struct world *w = h->r->w;

	/* Status is the device's own register. */
	cfg_read(w, io_bus_reader(w->m.bus, 3), PCI_STATUS, 2);
	return NULL;
}

static void a_device_is_closed_only_when_no_vcpu_is_inside(void **state)
{
	struct rig *r = rig_new();
	struct held h = { .r = r, .at = eventfd(0, 0), .go = eventfd(0, 0) };
	pthread_t thread;
	uint64_t one;

	plugged(r);
	r->k.arg = &h;
	r->k.before = hold_read;
	atomic_store(&h.armed, true);
	assert_int_equal(pthread_create(&thread, NULL, slow_vcpu, &h), 0);
	assert_int_equal(read(h.at, &one, sizeof(one)), sizeof(one));
	fd_signal(r->d->eventfds[VFIO_PCI_REQ_IRQ_INDEX][0]);
	world_until(r->w, left_its_slot, NULL);
	assert_int_equal(fk_nr_open(&r->k, FK_DEVICE), 1);
	fd_signal(h.go);
	pthread_join(thread, NULL);
	world_until(r->w, is_given_back, r);
	close(h.at);
	close(h.go);
	rig_end(r);
}

static void a_device_that_leaves_may_be_freed_at_once(void **state)
{
	for (int i = 0; i < 20; i++) {
		struct rig *r = rig_new();

		plugged(r);
		fd_signal(r->d->eventfds[VFIO_PCI_ERR_IRQ_INDEX][0]);
		world_until(r->w, left_its_slot, NULL);
		rig_end(r);
	}
}

static void job_lose(struct world *w, struct io_reader *r, void *arg)
{
	((struct rig *)arg)->d->gone = true;
	cfg_read(w, r, PCI_STATUS, 2);
}

static void a_device_that_was_pulled_out_reads_all_ones(void **state)
{
	struct rig *r = rig_new();

	plugged(r);
	as_vcpu(r->w, job_lose, r);
	world_until(r->w, is_given_back, r);
	assert_int_equal(
		world_log(r->w, "the device does not answer any more: the guest loses it"), 1);
	as_vcpu(r->w, job_all_ones, NULL);
	rig_end(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_guest_has_the_device),
		cmocka_unit_test(a_reset_of_the_machine_resets_the_device),
		cmocka_unit_test(devices_share_the_address_space_and_leave_in_any_order),
		cmocka_unit_test(a_device_is_behind_the_guest_s_iommu),
		cmocka_unit_test(what_sysfs_knows_is_said_before_anything_is_opened),
		cmocka_unit_test(what_the_kernel_refuses_names_the_device),
		cmocka_unit_test(any_call_may_fail_and_leaves_nothing),
		cmocka_unit_test(an_attach_that_nobody_waits_for_any_more_is_undone),
		cmocka_unit_test(what_the_host_wants_back_it_gets_while_the_guest_runs),
		cmocka_unit_test(a_device_is_closed_only_when_no_vcpu_is_inside),
		cmocka_unit_test(a_device_that_takes_its_time_to_close_holds_nobody_up),
		cmocka_unit_test(a_device_that_leaves_may_be_freed_at_once),
		cmocka_unit_test(a_device_that_was_pulled_out_reads_all_ones),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
