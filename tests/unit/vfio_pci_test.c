/* vfio_pci_test.c - configuration space, BARs and interrupts of a device that another process has
 */
#include "vfio_fake.h"

#include "attach/vfio_pci_priv.h"

#define MSIX_POS 0x40
#define MSI_POS	 0x50
#define PM_POS	 0x70
#define EXP_POS	 0x80

static int memfd(uint64_t size)
{
	int fd = memfd_create("bar", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static void cap(struct fake *f, unsigned pos, unsigned id, unsigned next)
{
	put16(f->config + PCI_STATUS, PCI_STATUS_CAP_LIST);
	f->config[pos] = (uint8_t)id;
	f->config[pos + 1] = (uint8_t)next;
}

/* A PCIe device with every capability we deal with, and 4 KiB of configuration space. */
static struct fake *rich(void)
{
	struct fake *f = fake_new();

	f->config[PCI_CAPABILITY_LIST] = MSIX_POS;
	cap(f, MSIX_POS, PCI_CAP_ID_MSIX, MSI_POS);
	put16(f->config + MSIX_POS + 2, 7);
	put32(f->config + MSIX_POS + 4, 4 | 0x2000); /* BAR 4 */
	put32(f->config + MSIX_POS + 8, 4 | 0x3000);
	cap(f, MSI_POS, PCI_CAP_ID_MSI, PM_POS);
	put16(f->config + MSI_POS + 2, PCI_MSI_FLAGS_64BIT | 2 << 1); /* 4 vectors */
	cap(f, PM_POS, PCI_CAP_ID_PM, EXP_POS);
	cap(f, EXP_POS, PCI_CAP_ID_EXP, 0);
	put16(f->config + EXP_POS + 2, 2);
	f->regions[CONFIG].size = 4096;
	f->regions[4] = no_region();
	f->regions[4].size = 0x4000;
	f->regions[4].flags = VFIO_USER_REGION_FLAG_READ | VFIO_USER_REGION_FLAG_WRITE;
	f->config[PCI_BASE_ADDRESS_4] = 0xc; /* 64 bits, prefetchable */
	f->irqs[VFIO_USER_IRQ_MSI] = (struct vfio_user_irq_info){ .flags = 1, .count = 4 };
	f->irqs[VFIO_USER_IRQ_MSIX] = (struct vfio_user_irq_info){ .flags = 1, .count = 8 };
	return f;
}

static void end(struct world *w, struct fake *f)
{
	world_free(w);
	for (unsigned i = 0; i < 6; i++)
		for (unsigned k = 0; k < 4; k++)
			fd_close(&f->regions[i].fds[k]);
	fake_free(f);
}

/* Interrupt requests that the server got, as text: "INTx+1 MSI-X-" and so on. */
static void irq_story(struct fake *f, char *text, size_t size)
{
	static const char *const names[] = { "INTx", "MSI", "MSI-X", "ERR", "REQ" };

	text[0] = 0;
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++) {
		struct vfio_user_irq_set s;
		size_t at = strlen(text);

		if (f->recs[i].h.command != VFIO_USER_DEVICE_SET_IRQS)
			continue;
		memcpy(&s, f->recs[i].data, sizeof(s));
		snprintf(text + at, size - at, "%s%s%s", at ? " " : "", names[MIN(s.index, 4u)],
			s.flags & VFIO_USER_IRQ_SET_ACTION_UNMASK ? ".unmask" : "");
		at = strlen(text);
		if (s.flags & VFIO_USER_IRQ_SET_DATA_EVENTFD)
			snprintf(text + at, size - at, "+%u:%u", s.start, s.count);
		else if (!(s.flags & VFIO_USER_IRQ_SET_ACTION_UNMASK))
			snprintf(text + at, size - at, "-");
	}
	pthread_mutex_unlock(&f->lock);
}

static void check_story(struct fake *f, const char *expected)
{
	char text[512];

	irq_story(f, text, sizeof(text));
	assert_string_equal(text, expected);
	fake_forget(f);
}

/* --- configuration space --- */

static void job_caps(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;
	unsigned reads;

	fake_forget(f);
	assert_int_equal(cfg_read(w, r, PCI_VENDOR_ID, 4), 0x0dc8494f);
	assert_int_equal(cfg_read(w, r, PCI_CAPABILITY_LIST, 1), MSIX_POS);
	assert_int_equal(cfg_read(w, r, MSIX_POS, 2), PCI_CAP_ID_MSIX | MSI_POS << 8);
	assert_int_equal(cfg_read(w, r, PM_POS, 2), PCI_CAP_ID_PM | EXP_POS << 8);
	assert_int_equal(cfg_read(w, r, PCI_COMMAND, 2), 0);
	assert_int_equal(cfg_read(w, r, PCI_INTERRUPT_PIN, 1), 1);
	/* None of that costs a message; what only the device knows does. */
	reads = fake_count(f, VFIO_USER_REGION_READ);
	assert_int_equal(reads, 0);
	cfg_read(w, r, PCI_STATUS, 2);
	cfg_read(w, r, PM_POS + PCI_PM_CTRL, 2);
	assert_int_equal(fake_count(f, VFIO_USER_REGION_READ), 2);
}

static void job_single_function(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(cfg_read(w, r, PCI_HEADER_TYPE, 1), 0);
	assert_int_equal(cfg_read(w, r, PCI_INTERRUPT_PIN, 1), 1);
	decode_on(w, r);
	assert_int_equal(cfg_read(w, r, PCI_COMMAND, 2), 3);
	cfg_write(w, r, PCI_LATENCY_TIMER, 1, 0x40);
	assert_int_equal(cfg_read(w, r, PCI_LATENCY_TIMER, 1), 0x40);
}

static void one_of_several_functions_is_one_of_its_own_here(void **state)
{
	struct fake *f = rich();
	struct world *w;

	f->config[PCI_HEADER_TYPE] = 0x80;
	f->config[PCI_INTERRUPT_PIN] = 3;
	/* A hidden capability that would pass the end */
	put32(f->config + 0x100, 0xff010001);
	put32(f->config + 0xff0, 0x00010000 | PCI_EXT_CAP_ID_SRIOV);
	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_single_function, NULL);
	end(w, f);
}

static void what_is_ours_is_read_without_a_message(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_caps, f);
	end(w, f);
}

struct write {
	unsigned off, size;
	uint32_t value;
	const char *seen; /* by the server: "off:size=value" */
};

static void config_story(struct fake *f, char *text, size_t size)
{
	text[0] = 0;
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++) {
		struct vfio_user_region_access a;
		uint64_t value = 0;
		size_t at = strlen(text);

		memcpy(&a, f->recs[i].data, sizeof(a));
		if (f->recs[i].h.command != VFIO_USER_REGION_WRITE || a.region != CONFIG)
			continue;
		memcpy(&value, f->recs[i].data + sizeof(a), MIN(a.count, 8u));
		snprintf(text + at, size - at, "%s%llx:%u=%llx", at ? " " : "",
			(unsigned long long)a.offset, a.count, (unsigned long long)value);
	}
	pthread_mutex_unlock(&f->lock);
}

static void job_writes(struct world *w, struct io_reader *r, void *arg)
{
	static const struct write writes[] = {
		{ PCI_VENDOR_ID, 4, 0x12345678, "" },
		{ PCI_COMMAND, 2, 0x7, "4:2=7" },
		{ PCI_COMMAND + 1, 1, 0x4, "4:2=407" },
		{ PCI_COMMAND, 4, 0xf9000003, "4:2=3 6:2=f900" },
		{ PCI_COMMAND, 2, 0xffff, "4:2=557" },
		{ PCI_CACHE_LINE_SIZE, 4, 0xffff2010, "c:2=2010 f:1=ff" },
		{ PCI_BASE_ADDRESS_0, 4, 0xffffffff, "" },
		{ PCI_ROM_ADDRESS, 4, 0xffffffff, "" },
		{ PCI_INTERRUPT_LINE, 4, 0xffffff0a, "3c:1=a" },
		{ MSIX_POS, 4, 0x4000ffff, "42:2=4007" },
		{ MSI_POS + 4, 4, 0xfee00000, "" },
		{ PM_POS, 4, 0x11223344, "72:2=1122" },
		{ PM_POS + PCI_PM_CTRL, 2, 0x8003, "74:2=8003" },
		{ EXP_POS + PCI_EXP_DEVCTL, 4, 0x000f2810, "88:4=f2810" },
		{ 0xc1, 1, 0x55, "c1:1=55" },
		{ 0x100, 4, 0x55, "100:4=55" },
	};
	struct fake *f = arg;

	for (unsigned i = 0; i < ARRAY_SIZE(writes); i++) {
		char seen[256];

		fake_forget(f);
		cfg_write(w, r, writes[i].off, writes[i].size, writes[i].value);
		config_story(f, seen, sizeof(seen));
		if (strcmp(seen, writes[i].seen))
			fail_msg("write of %u bytes at 0x%x: '%s', not '%s'", writes[i].size,
				writes[i].off, seen, writes[i].seen);
	}
	assert_int_equal(cfg_read(w, r, PCI_VENDOR_ID, 4), 0x0dc8494f);
	assert_int_equal(cfg_read(w, r, PCI_COMMAND, 2), 0x557);
	assert_int_equal(cfg_read(w, r, PCI_BASE_ADDRESS_0, 4), 0xfffff000);
	assert_int_equal(cfg_read(w, r, MSI_POS + 4, 4), 0xfee00000);
}

static void writes_reach_the_device_register_by_register(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_writes, f);
	end(w, f);
}

static void job_short_space(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(cfg_read(w, r, 0x100, 4), 0xffffffff);
	assert_int_equal(cfg_read(w, r, 0xffc, 4), 0xffffffff);
	cfg_write(w, r, 0x100, 4, 0);
	assert_int_equal(cfg_read(w, r, 0x100, 4), 0xffffffff);
}

static void beyond_a_short_space_all_is_ones(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_short_space, NULL);
	end(w, f);
}

static void job_walk(struct world *w, struct io_reader *r, void *arg)
{
	unsigned *ids = arg, n = 0;

	for (unsigned pos = cfg_read(w, r, PCI_CAPABILITY_LIST, 1); pos;
		pos = cfg_read(w, r, pos + 1, 1)) {
		assert_true(n < 8);
		ids[n++] = cfg_read(w, r, pos, 1);
	}
	ids[n] = 0;
}

static void a_list_that_loops_or_leaves_is_cut_with_one_line(void **state)
{
	static const uint8_t next[] = { MSIX_POS, 0x20, 0xfd };

	for (unsigned i = 0; i < ARRAY_SIZE(next); i++) {
		struct fake *f = rich();
		unsigned ids[9];
		struct world *w;

		f->regions[CONFIG].size = 254;
		f->config[EXP_POS + 1] = next[i];
		fake_start(f);
		w = world_with(f);
		as_vcpu(w, job_walk, ids);
		assert_int_equal(ids[0], PCI_CAP_ID_MSIX);
		assert_int_equal(ids[3], PCI_CAP_ID_EXP);
		assert_int_equal(ids[4], 0);
		assert_int_equal(world_log(w, "its capability list"), 1);
		assert_int_equal(world_log(w, i ? "leaves the" : "loops"), 1);
		end(w, f);
	}
}

static void interrupts_that_the_server_does_not_have_are_not_offered(void **state)
{
	struct fake *f = rich();
	unsigned ids[9];
	struct world *w;

	f->irqs[VFIO_USER_IRQ_MSIX].count = 0;
	f->irqs[VFIO_USER_IRQ_MSI].flags = 0; /* not by an eventfd */
	f->irqs[VFIO_USER_IRQ_INTX].count = 0;
	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_walk, ids);
	assert_int_equal(ids[0], PCI_CAP_ID_PM);
	assert_int_equal(ids[1], PCI_CAP_ID_EXP);
	assert_int_equal(ids[2], 0);
	assert_null(kvm_line());
	end(w, f);
}

static void job_ext(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(cfg_read(w, r, 0x100, 4), 0x14010001);
	assert_int_equal(cfg_read(w, r, 0x140, 4), 0x18010000);
	/* What is hidden can be neither read nor written. */
	assert_int_equal(cfg_read(w, r, 0x148, 4), 0);
	fake_forget(arg);
	cfg_write(w, r, 0x148, 4, 1);
	assert_int_equal(fake_count(arg, VFIO_USER_REGION_WRITE), 0);
	assert_int_equal(cfg_read(w, r, 0x180, 4), 0x00010003);
}

static void sriov_is_hidden_and_the_rest_of_the_list_stays(void **state)
{
	struct fake *f = rich();
	struct world *w;

	put32(f->config + 0x100, 0x14010001);
	put32(f->config + 0x140, 0x18010000 | PCI_EXT_CAP_ID_SRIOV);
	put32(f->config + 0x148, 0xabcd);
	put32(f->config + 0x180, 0x10010003); /* back to 0x100 */
	fake_start(f);
	w = world_with(f);
	assert_int_equal(world_log(w, "extended capability list loops at 0x180"), 1);
	as_vcpu(w, job_ext, f);
	end(w, f);
}

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

static bool is_back(struct world *w, void *arg)
{
	return world_log(w, "is back after") >= 1;
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
	world_until(w, is_back, NULL);
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

static bool came_back(struct world *w, void *arg)
{
	return world_log(w, "is back after") >= *(unsigned *)arg;
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
		world_until(w, came_back, &i);
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

/* --- MSI-X --- */

static void program_vector(struct world *w, struct io_reader *r, unsigned i, uint32_t control)
{
	reg_write(w, r, 4, 0x2000 + 16 * i, 4, 0xfee00000);
	reg_write(w, r, 4, 0x2000 + 16 * i + 8, 4, 0x40 + i);
	reg_write(w, r, 4, 0x2000 + 16 * i + 12, 4, control);
}

static void job_msix_on(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;

	decode_on(w, r);
	fake_forget(f);
	cfg_write(w, r, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	check_story(f, "INTx-");
	for (unsigned i = 0; i < 3; i++)
		program_vector(w, r, i, 0);
	program_vector(w, r, 5, 0);
	check_story(f, "");
	cfg_write(w, r, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	check_story(f, "MSI-X+0:3 MSI-X+5:1");
	program_vector(w, r, 4, 0);
	check_story(f, "MSI-X+4:1");
	/* Masked and unmasked again: nothing to tell. */
	program_vector(w, r, 4, 1);
	program_vector(w, r, 4, 0);
	check_story(f, "");
	assert_int_equal(reg_read(w, r, 4, 0x2000 + 4 * 16 + 8, 4), 0x44);
}

static void job_msix_pending(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;

	assert_int_equal(reg_read(w, r, 4, 0x3000, 8) & ~0x5a5a5a5a5a5a5a5aull, 0);
	program_vector(w, r, 2, 1);
	fd_signal(fake_irq_fd(f, VFIO_USER_IRQ_MSIX, 2));
	/* Ours, or the device's own (the server says 0x5a everywhere). */
	assert_int_equal(reg_read(w, r, 4, 0x3000, 1), 0x5a | 1 << 2);
	program_vector(w, r, 0, 1);
	fd_signal(fake_irq_fd(f, VFIO_USER_IRQ_MSIX, 0));
	assert_int_equal(reg_read(w, r, 4, 0x3000, 1), 0x5a | 1 << 2 | 1);
	/* Read-only, and next to it the device's */
	fake_forget(f);
	reg_write(w, r, 4, 0x3000, 8, 0);
	assert_int_equal(fake_count(f, VFIO_USER_REGION_WRITE), 0);
	reg_write(w, r, 4, 0x3008, 4, 0);
	assert_int_equal(reg_read(w, r, 4, 0x3004, 8), UINT64_MAX); /* half of it */
	assert_int_equal(reg_read(w, r, 4, 0x2000 + 8 * 16, 4), 0x5a5a5a5a);
	assert_int_equal(fake_count(f, VFIO_USER_REGION_WRITE), 1);
}

static void job_msix_off_and_on(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;

	fake_forget(f);
	cfg_write(w, r, MSIX_POS + 2, 2, 0);
	check_story(f, "MSI-X- INTx+0:1 INTx.unmask+0:1");
	cfg_write(w, r, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	check_story(f, "INTx- MSI-X+0:3 MSI-X+4:2");
}

static void msix_vectors_reach_the_device_as_the_guest_opens_them(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_msix_on, f);
	assert_int_equal(fake_byte(f, CONFIG, MSIX_POS + 3) & 0x80, 0x80);
	as_vcpu(w, job_msix_pending, f);
	as_vcpu(w, job_msix_off_and_on, f);
	/* And again to one that comes back. */
	fake_kill(f);
	put16(f->config + MSIX_POS + 2, 7);
	f->nr_recs = 0;
	fake_start(f);
	world_until(w, is_back, NULL);
	assert_true(fake_irq_fd(f, VFIO_USER_IRQ_MSIX, 5) >= 0);
	assert_true(fake_irq_fd(f, VFIO_USER_IRQ_MSIX, 3) < 0);
	assert_int_equal(fake_byte(f, CONFIG, MSIX_POS + 3) & 0x80, 0x80);
	check_story(f, "MSI-X+0:3 MSI-X+4:2");
	end(w, f);
}

static void job_all_vectors(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	for (unsigned i = 0; i < 8; i++)
		program_vector(w, r, i, 0);
	fake_forget(arg);
	cfg_write(w, r, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	check_story(arg, "INTx- MSI-X+0:5");
}

static void vectors_that_the_server_does_not_know_stay_silent(void **state)
{
	struct fake *f = rich();
	struct world *w;

	f->irqs[VFIO_USER_IRQ_MSIX].count = 5;
	fake_start(f);
	w = world_with(f);
	assert_int_equal(world_log(w, "5 of its 8 MSI-X vectors can be signalled"), 1);
	as_vcpu(w, job_all_vectors, f);
	end(w, f);
}

static void job_msix_while_away(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	cfg_write(w, r, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	program_vector(w, r, 1, 0);
}

static bool is_lost(struct world *w, void *arg)
{
	return world_log(w, "is away until") >= 1;
}

static void what_the_guest_sets_up_while_the_device_is_away_is_not_lost(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	fake_kill(f);
	world_until(w, is_lost, NULL);
	as_vcpu(w, job_msix_while_away, f);
	f->nr_recs = 0;
	fake_start(f);
	world_until(w, is_back, NULL);
	check_story(f, "MSI-X+1:1");
	assert_int_equal(fake_byte(f, CONFIG, PCI_COMMAND), 3);
	end(w, f);
}

/* Keeps the answer to the last request of an attach back, until it is told to go on. */
static bool holds_command(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_access a;

	memcpy(&a, r->data, sizeof(a));
	if (r->h.command != VFIO_USER_REGION_WRITE || a.region != CONFIG || a.offset != PCI_COMMAND)
		return false;
	f->hook_arg = r->h.id + 1u;
	f->hook = NULL;
	return true;
}

static bool is_held(struct world *w, void *arg)
{
	return fake_hook_arg(arg) > 0;
}

static void let_go(struct fake *f)
{
	struct rec r = { .h.command = VFIO_USER_REGION_WRITE };
	const struct vfio_user_region_access a = { PCI_COMMAND, CONFIG, 2 };

	pthread_mutex_lock(&f->lock);
	r.h.id = (uint16_t)(f->hook_arg - 1);
	fake_reply(f, &r, &a, sizeof(a), NULL, 0);
	pthread_mutex_unlock(&f->lock);
}

static void job_change(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	cfg_write(w, r, PCI_CACHE_LINE_SIZE, 1, 0x20);
}

static void what_the_guest_changes_while_the_device_is_restored_is_not_lost(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	fake_kill(f);
	world_until(w, is_lost, NULL);
	fake_set_hook(f, holds_command, 0);
	fake_start(f);
	world_until(w, is_held, f);
	as_vcpu(w, job_change, NULL);
	let_go(f);
	world_until(w, is_back, NULL);
	assert_int_equal(fake_byte(f, CONFIG, PCI_COMMAND), 3);
	assert_int_equal(fake_byte(f, CONFIG, PCI_CACHE_LINE_SIZE), 0x20);
	end(w, f);
}

/* --- MSI --- */

static void job_msi(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;

	decode_on(w, r);
	fake_forget(f);
	cfg_write(w, r, MSI_POS + PCI_MSI_ADDRESS_LO, 4, 0xfee00000);
	cfg_write(w, r, MSI_POS + PCI_MSI_DATA_64, 2, 0x60);
	check_story(f, "");
	cfg_write(w, r, MSI_POS + 2, 2, PCI_MSI_FLAGS_ENABLE | 1 << 4);
	check_story(f, "INTx- MSI+0:2");
	assert_int_equal(
		fake_byte(f, CONFIG, MSI_POS + 2), PCI_MSI_FLAGS_64BIT | 2 << 1 | 1 << 4 | 1);
	cfg_write(w, r, MSI_POS + 2, 2, PCI_MSI_FLAGS_ENABLE | 2 << 4);
	check_story(f, "MSI+0:4");
	cfg_write(w, r, MSI_POS + 2, 2, 0);
	check_story(f, "MSI- INTx+0:1 INTx.unmask+0:1");
}

static void msi_vectors_reach_the_device_all_at_once(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_msi, f);
	end(w, f);
}

/* --- INTx --- */

static void job_intx_disable(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;

	fake_forget(f);
	cfg_write(w, r, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
	check_story(f, "INTx-");
	cfg_write(w, r, PCI_COMMAND, 2, 0);
	check_story(f, "INTx+0:1 INTx.unmask+0:1");
}

static void intx_goes_straight_between_kvm_and_a_device_that_masks_itself(void **state)
{
	struct fake *f = fake_new();
	const struct kvm_irqfd *line;
	struct world *w;

	fake_start(f);
	w = world_with(f);
	line = kvm_line();
	assert_non_null(line);
	assert_int_equal(line->gsi, GSI_INTX_BASE + 5);
	/* The same eventfds at both ends */
	fd_signal(fake_irq_fd(f, VFIO_USER_IRQ_INTX, 0));
	assert_true(fd_clear((int)line->fd));
	fd_signal((int)line->resamplefd);
	assert_true(fd_clear(fake_unmask_fd(f)));
	as_vcpu(w, job_intx_disable, f);
	end(w, f);
}

static bool refuses_unmask_fd(struct fake *f, const struct rec *r)
{
	struct vfio_user_irq_set s;

	memcpy(&s, r->data, sizeof(s));
	if (r->h.command != VFIO_USER_DEVICE_SET_IRQS ||
		!(s.flags & VFIO_USER_IRQ_SET_ACTION_UNMASK) || !r->nr_fds)
		return false;
	fake_error(f, r, EINVAL);
	return true;
}

static bool unmasked(struct world *w, void *arg)
{
	struct fake *f = arg;
	unsigned n = 0;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++) {
		struct vfio_user_irq_set s;

		memcpy(&s, f->recs[i].data, sizeof(s));
		n += f->recs[i].h.command == VFIO_USER_DEVICE_SET_IRQS &&
		     s.flags == (VFIO_USER_IRQ_SET_DATA_NONE | VFIO_USER_IRQ_SET_ACTION_UNMASK) &&
		     f->recs[i].h.flags == VFIO_USER_FLAG_NO_REPLY;
	}
	pthread_mutex_unlock(&f->lock);
	return n > 0;
}

static void intx_is_unmasked_by_message_where_an_eventfd_is_refused(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	f->hook = refuses_unmask_fd;
	fake_start(f);
	w = world_with(f);
	fake_forget(f);
	fd_signal((int)kvm_line()->resamplefd);
	world_until(w, unmasked, f);
	/* Also while a vCPU waits for the device, and to one that came back */
	fake_kill(f);
	f->nr_recs = 0;
	fake_start(f);
	world_until(w, is_back, NULL);
	world_until(w, unmasked, f);
	end(w, f);
}

static bool line_raised(struct world *w, void *arg)
{
	return fd_clear((int)kvm_line()->fd);
}

static void edges_of_a_device_that_does_not_mask_itself_are_kept(void **state)
{
	struct fake *f = fake_new();
	struct world *w;
	int edge;

	f->irqs[VFIO_USER_IRQ_INTX].flags = VFIO_USER_IRQ_FLAG_EVENTFD;
	fake_start(f);
	w = world_with(f);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_SET_IRQS), 1);
	edge = fake_irq_fd(f, VFIO_USER_IRQ_INTX, 0);
	fd_signal(edge);
	world_until(w, line_raised, NULL);
	/* A second one before the guest has ended the first: it comes after the end. */
	fd_signal(edge);
	fd_signal((int)kvm_line()->resamplefd);
	world_until(w, line_raised, NULL);
	fd_signal((int)kvm_line()->resamplefd);
	fd_signal(edge);
	world_until(w, line_raised, NULL);
	end(w, f);
}

/* --- reset --- */

static void job_setup_for_reset(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	cfg_write(w, r, PCI_CACHE_LINE_SIZE, 1, 16);
	cfg_write(w, r, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	program_vector(w, r, 1, 0);
}

static void job_reset(struct world *w, struct io_reader *r, void *arg)
{
	pci_reset(w->m.pci);
}

static void job_after_reset(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(cfg_read(w, r, PCI_COMMAND, 2), 0);
	assert_int_equal(cfg_read(w, r, PCI_CACHE_LINE_SIZE, 1), 0);
	assert_int_equal(cfg_read(w, r, MSIX_POS + 2, 2), 7);
	decode_on(w, r);
	assert_int_equal(reg_read(w, r, 4, 0x2000 + 16 + 12, 4), 1);
}

static void a_reset_of_the_machine_resets_the_device_and_its_interrupts(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_setup_for_reset, NULL);
	fake_forget(f);
	as_vcpu(w, job_reset, NULL);
	as_vcpu(w, job_after_reset, NULL);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_RESET), 1);
	check_story(f, "MSI-X- INTx+0:1 INTx.unmask+0:1");
	assert_int_equal(fake_byte(f, CONFIG, PCI_CACHE_LINE_SIZE), 0);
	assert_int_equal(fake_count(f, VFIO_USER_VERSION), 0);
	end(w, f);
}

static bool ignores_reset(struct fake *f, const struct rec *r)
{
	return r->h.command == VFIO_USER_DEVICE_RESET;
}

static void a_reset_that_is_not_answered_is_a_loss_and_made_up_for(void **state)
{
	struct fake *f = rich();
	struct world *w = world_new();
	struct user_device_params p = world_params(f);
	struct err err = { 0 };

	fake_start(f);
	p.times.request_ms = 100;
	assert_int_equal(world_attach_with(w, &p), 0);
	assert_int_equal(device_plug(w->dev, &err), 0);
	fake_set_hook(f, ignores_reset, 0);
	as_vcpu(w, job_reset, NULL);
	fake_set_hook(f, NULL, 0);
	fake_hang_up(f);
	world_until(w, is_back, NULL);
	assert_int_equal(world_log(w, "DEVICE_RESET was not answered within 100 ms"), 1);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_RESET), 1);
	end(w, f);
}

static void a_reset_during_a_reconnect_reaches_the_device(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_setup_for_reset, NULL);
	fake_kill(f);
	world_until(w, is_lost, NULL);
	fake_forget(f);
	fake_set_hook(f, holds_command, 0);
	fake_start(f);
	world_until(w, is_held, f);
	as_vcpu(w, job_reset, NULL);
	let_go(f);
	world_until(w, is_back, NULL);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_RESET), 1);
	assert_int_equal(fake_byte(f, CONFIG, PCI_CACHE_LINE_SIZE), 0);
	assert_int_equal(fake_byte(f, CONFIG, PCI_COMMAND), 0);
	assert_true(fake_irq_fd(f, VFIO_USER_IRQ_INTX, 0) >= 0);
	as_vcpu(w, job_after_reset, NULL);
	end(w, f);
}

static void job_flr(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	fake_forget(arg);
	cfg_write(w, r, EXP_POS + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR);
}

static void after_a_function_level_reset_the_device_is_told_its_state_again(void **state)
{
	struct fake *f = rich();
	char seen[256];
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_flr, f);
	config_story(f, seen, sizeof(seen));
	assert_string_equal(seen, "88:2=8000 88:2=0 52:2=84 42:2=7 4:2=3");
	check_story(f, "INTx- INTx+0:1 INTx.unmask+0:1");
	end(w, f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_ours_is_read_without_a_message),
		cmocka_unit_test(one_of_several_functions_is_one_of_its_own_here),
		cmocka_unit_test(writes_reach_the_device_register_by_register),
		cmocka_unit_test(beyond_a_short_space_all_is_ones),
		cmocka_unit_test(a_list_that_loops_or_leaves_is_cut_with_one_line),
		cmocka_unit_test(interrupts_that_the_server_does_not_have_are_not_offered),
		cmocka_unit_test(sriov_is_hidden_and_the_rest_of_the_list_stays),
		cmocka_unit_test(bars_have_the_kind_of_the_register_and_the_size_of_the_region),
		cmocka_unit_test(mapped_parts_and_doorbells_follow_the_guest_and_the_device),
		cmocka_unit_test(bars_move_while_the_device_comes_and_goes),
		cmocka_unit_test(a_doorbell_that_kvm_refuses_is_a_message),
		cmocka_unit_test(a_file_that_is_cut_short_traps),
		cmocka_unit_test(memory_writes_are_posted_where_nothing_can_overtake_them),
		cmocka_unit_test(msix_vectors_reach_the_device_as_the_guest_opens_them),
		cmocka_unit_test(vectors_that_the_server_does_not_know_stay_silent),
		cmocka_unit_test(what_the_guest_sets_up_while_the_device_is_away_is_not_lost),
		cmocka_unit_test(what_the_guest_changes_while_the_device_is_restored_is_not_lost),
		cmocka_unit_test(msi_vectors_reach_the_device_all_at_once),
		cmocka_unit_test(intx_goes_straight_between_kvm_and_a_device_that_masks_itself),
		cmocka_unit_test(intx_is_unmasked_by_message_where_an_eventfd_is_refused),
		cmocka_unit_test(edges_of_a_device_that_does_not_mask_itself_are_kept),
		cmocka_unit_test(a_reset_of_the_machine_resets_the_device_and_its_interrupts),
		cmocka_unit_test(a_reset_that_is_not_answered_is_a_loss_and_made_up_for),
		cmocka_unit_test(a_reset_during_a_reconnect_reaches_the_device),
		cmocka_unit_test(after_a_function_level_reset_the_device_is_told_its_state_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
