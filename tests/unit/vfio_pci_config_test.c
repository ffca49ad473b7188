/* vfio_pci_config_test.c - configuration space of a device that another process has */
#include "vfio_rich.h"

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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
