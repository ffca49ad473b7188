/* vfio_pci_bar_test.c - BARs, their mapped parts and doorbells, and posted writes */
#include "vfio_rich.h"

#include "attach/vfio_pci_priv.h"

/* --- BARs --- */

static void job_bars(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(cfg_read(w, r, PCI_BASE_ADDRESS_0, 4) & 0xf, 0);
	assert_int_equal(cfg_read(w, r, PCI_BASE_ADDRESS_2, 4) & 3, 1);
	assert_int_equal(cfg_read(w, r, PCI_BASE_ADDRESS_4, 4) & 0xf, 0xc);
	decode_on(w, r);
	fake_forget(arg);
	/* The last register, and behind the region's end but in the BAR */
	assert_int_equal(reg_read(w, r, 0, 4096, 4), 0x5a5a5a5a);
	reg_write(w, r, 0, 4096, 4, 1);
	assert_int_equal(reg_read(w, r, 0, 4100, 4), 0xffffffff);
	reg_write(w, r, 0, 4100, 4, 1);
	assert_int_equal(fake_count(arg, VFIO_USER_REGION_WRITE), 1);
	cfg_write(w, r, PCI_BASE_ADDRESS_0, 4, UINT32_MAX);
	assert_int_equal(cfg_read(w, r, PCI_BASE_ADDRESS_0, 4), 0xffffe000);
	cfg_write(w, r, PCI_ROM_ADDRESS, 4, 0xfffff800);
	assert_int_equal(cfg_read(w, r, PCI_ROM_ADDRESS, 4), 0xfffff800);
}

static void bars_have_the_kind_of_the_register_and_the_size_of_the_region(void **state)
{
	struct fake *f = rich();
	struct world *w;

	f->regions[0].size = 4100; /* rounded up */
	f->regions[VFIO_USER_REGION_ROM].size = 512;
	f->regions[VFIO_USER_REGION_ROM].flags = VFIO_USER_REGION_FLAG_READ;
	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_bars, f);
	end(w, f);
}

static struct fake *mapped_device(void)
{
	struct fake *f = rich();

	/* The table's page (0x2000) and that of the pending bits (0x3000) are in the middle of
	 * areas. */
	f->regions[4].size = 0x8000;
	f->config[PCI_BASE_ADDRESS_4] = 0xc;
	f->regions[4].flags |= VFIO_USER_REGION_FLAG_MMAP;
	f->regions[4].fds[0] = memfd(0x9000);
	f->regions[4].fd_offset = 0x1000;
	f->regions[4].areas[0] = (struct vfio_user_sparse_area){ 0x1000, 0x6000 };
	f->regions[4].nr_areas = 1;
	f->regions[0].doorbells[0] =
		(struct vfio_user_sub_region){ .offset = 0x10, .size = 4, .fd_index = 0 };
	f->regions[0].doorbells[1] = (struct vfio_user_sub_region){
		.offset = 0x14,
		.size = 2,
		.fd_index = 0,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
		.datamatch = 5,
	};
	f->regions[0].doorbells[2] =
		(struct vfio_user_sub_region){ .offset = 0x18, .size = 4, .type = 1 };
	f->regions[0].nr_doorbells = 3;
	/* In the MSI-X table: the guest's writes there are not the device's. */
	f->regions[4].doorbells[0] =
		(struct vfio_user_sub_region){ .offset = 0x2004, .size = 4, .fd_index = 0 };
	f->regions[4].nr_doorbells = 1;
	f->regions[4].doorbell_fds[0] = f->wake;
	f->regions[4].nr_doorbell_fds = 1;
	f->regions[0].doorbell_fds[0] = f->wake;
	f->regions[0].nr_doorbell_fds = 1;
	return f;
}

static void job_where(struct world *w, struct io_reader *r, void *arg)
{
	uint64_t *where = arg;

	where[0] = bar_addr(w, r, 0);
	where[1] = bar_addr(w, r, 4);
}

static void job_decode_off(struct world *w, struct io_reader *r, void *arg)
{
	cfg_write(w, r, PCI_COMMAND, 2, 0);
}

static void job_move(struct world *w, struct io_reader *r, void *arg)
{
	uint64_t *where = arg;

	where[1] += 0x100000;
	cfg_write(w, r, PCI_BASE_ADDRESS_4, 4, (uint32_t)where[1]);
}

static void check_laid(const uint64_t *where)
{
	assert_int_equal(kvm_nr_slots(), 1 + 2);
	assert_true(kvm_has_slot(where[1] + 0x1000, 0x1000));
	assert_true(kvm_has_slot(where[1] + 0x4000, 0x3000));
	assert_int_equal(kvm_nr_ioeventfds(), 2);
}

static bool nothing_laid(struct world *w, void *arg)
{
	return kvm_nr_slots() == 1 && !kvm_nr_ioeventfds();
}

static void mapped_parts_and_doorbells_follow_the_guest_and_the_device(void **state)
{
	struct fake *f = mapped_device();
	uint64_t where[2];
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_where, where);
	assert_true(nothing_laid(w, NULL));
	as_vcpu(w, job_decode_on, NULL);
	check_laid(where);
	assert_int_equal(fake_kvm.io[0].addr, where[0] + 0x10);
	assert_int_equal(fake_kvm.io[1].flags, KVM_IOEVENTFD_FLAG_DATAMATCH);
	assert_int_equal(fake_kvm.io[1].datamatch, 5);
	as_vcpu(w, job_move, where);
	check_laid(where);
	as_vcpu(w, job_decode_off, NULL);
	assert_true(nothing_laid(w, NULL));
	as_vcpu(w, job_decode_on, NULL);
	check_laid(where);

	fake_kill(f);
	world_until(w, nothing_laid, NULL);
	fake_start(f);
	until_back(w, 1);
	check_laid(where);
	device_free(w->dev);
	w->dev = NULL;
	assert_true(nothing_laid(w, NULL));
	end(w, f);
}

static void ask_function(struct pci_function *fn, void *arg)
{
	bool *taken = arg;

	if (fn->ops->memory_fault && fn->ops->memory_fault(fn))
		*taken = true;
}

/* As the machine does when KVM_RUN could not reach memory. */
static bool fault(struct world *w)
{
	bool taken = false;

	pci_lock(w->m.pci);
	pci_for_each(w->m.pci, ask_function, &taken);
	pci_unlock(w->m.pci);
	return taken;
}

static void job_move_bars(struct world *w, struct io_reader *r, void *arg)
{
	_Atomic bool *stop = arg;
	uint64_t where[2];

	job_where(w, r, where);
	for (unsigned i = 0; !atomic_load(stop); i++) {
		cfg_write(w, r, PCI_COMMAND, 2, i & 1 ? PCI_COMMAND_MEMORY : 0);
		cfg_write(w, r, PCI_BASE_ADDRESS_4, 4, (uint32_t)where[1] + (i & 7) * 0x100000);
		reg_read(w, r, 4, 0, 4);
		fault(w);
	}
	cfg_write(w, r, PCI_COMMAND, 2, 0);
}

static void bars_move_while_the_device_comes_and_goes(void **state)
{
	struct fake *f = mapped_device();
	_Atomic bool stop = false;
	struct vcpu_job job = { .fn = job_move_bars, .arg = &stop };
	struct world *w;

	fake_start(f);
	w = world_with(f);
	job.w = w;
	assert_int_equal(pthread_create(&job.thread, NULL, vcpu_main, &job), 0);
	for (unsigned i = 1; i <= 30; i++) {
		fake_hang_up(f);
		until_back(w, i);
	}
	atomic_store(&stop, true);
	while (!atomic_load(&job.done))
		world_run(w);
	pthread_join(job.thread, NULL);
	assert_true(nothing_laid(w, NULL));
	end(w, f);
}

static void a_doorbell_that_kvm_refuses_is_a_message(void **state)
{
	struct fake *f = mapped_device();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	fake_kvm.refuse_ioeventfd = EEXIST;
	as_vcpu(w, job_decode_on, NULL);
	assert_int_equal(kvm_nr_ioeventfds(), 0);
	assert_int_equal(world_log(w, "KVM refuses the doorbell"), 2);
	end(w, f);
}

static void a_file_that_is_cut_short_traps(void **state)
{
	struct fake *f = mapped_device();
	uint64_t where[2];
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_where, where);
	as_vcpu(w, job_decode_on, NULL);
	assert_int_equal(ftruncate(f->regions[4].fds[0], 0x5800), 0);
	assert_true(fault(w));
	assert_true(kvm_has_slot(where[1] + 0x1000, 0x1000));
	assert_false(kvm_has_slot(where[1] + 0x4000, 0x3000));
	assert_int_equal(world_log(w, "cut its file short"), 1);
	/* Others that ran into it at the same time are sent back too. */
	assert_true(fault(w));
	as_vcpu(w, job_move, where);
	assert_false(kvm_has_slot(where[1] + 0x4000, 0x3000));
	end(w, f);
}

/* --- posting --- */

static void job_post(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;
	uint64_t addr = bar_addr(w, r, 0);

	cfg_write(w, r, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
	fake_forget(f);
	/* INTx is in use. */
	io_write(w->m.bus, r, IO_MMIO, addr, 4, 1);
	cfg_write(w, r, PCI_COMMAND, 2,
		PCI_COMMAND_MEMORY | PCI_COMMAND_IO | PCI_COMMAND_INTX_DISABLE);
	io_write(w->m.bus, r, IO_MMIO, addr, 4, 2);
	reg_write(w, r, 2, 0, 1, 3);
}

static unsigned posted(struct fake *f)
{
	unsigned n = 0;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++)
		n += f->recs[i].h.command == VFIO_USER_REGION_WRITE &&
		     f->recs[i].h.flags & VFIO_USER_FLAG_NO_REPLY;
	pthread_mutex_unlock(&f->lock);
	return n;
}

static void memory_writes_are_posted_where_nothing_can_overtake_them(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_post, f);
	assert_int_equal(posted(f), 1);
	end(w, f);

	f = mapped_device();
	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_post, f);
	assert_int_equal(posted(f), 0);
	end(w, f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bars_have_the_kind_of_the_register_and_the_size_of_the_region),
		cmocka_unit_test(mapped_parts_and_doorbells_follow_the_guest_and_the_device),
		cmocka_unit_test(bars_move_while_the_device_comes_and_goes),
		cmocka_unit_test(a_doorbell_that_kvm_refuses_is_a_message),
		cmocka_unit_test(a_file_that_is_cut_short_traps),
		cmocka_unit_test(memory_writes_are_posted_where_nothing_can_overtake_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
