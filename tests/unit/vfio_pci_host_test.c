/* vfio_pci_host_test.c - what only real hardware has, with a transport that behaves as the kernel's
 */
#include "vfio_host_fake.h"

#define NO_FD (-1)

/* --- interrupts --- */

static void msix_on(struct host *h)
{
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
}

static void open_vector(struct host *h, unsigned i)
{
	hreg_set(h, 0, 0x2000 + 16 * i, 4, 0xfee00000);
	hreg_set(h, 0, 0x2000 + 16 * i + 8, 4, 0x40 + i);
	hreg_set(h, 0, 0x2000 + 16 * i + 12, 4, 0);
}

static void msix_is_on_with_one_vector_and_grows(void **state)
{
	struct host *h = host_attach(host_new());

	hdecode(h);
	msix_on(h);
	host_story(h, "INTx- MSI-X+0:1(none)");
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	host_story(h, "");
	open_vector(h, 0);
	open_vector(h, 1);
	open_vector(h, 6);
	host_story(h, "MSI-X+0:1 MSI-X+1:1 MSI-X+6:1");
	/* The same eventfd at KVM's end */
	assert_int_equal(h->fds[VFIO_USER_IRQ_MSIX][6], fake_kvm.irq[fake_kvm.nr_irq - 1].fd);
	assert_int_equal(h->fds[VFIO_USER_IRQ_MSIX][3], NO_FD);
	hcfg_set(h, MSIX_POS + 2, 2, 0);
	host_story(h, "MSI-X- INTx+0:1 INTx.unmask");
	/* Again: what is open is known. */
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	host_story(h, "INTx- MSI-X+0:1 MSI-X+0:2 MSI-X+6:1");
	host_end(h);
}

static void msix_that_cannot_grow_is_made_anew_and_loses_nothing(void **state)
{
	struct host *h = host_new();
	int first;

	h->t.info.irqs[VFIO_USER_IRQ_MSIX].flags |= VFIO_USER_IRQ_FLAG_NORESIZE;
	host_attach(h);
	hdecode(h);
	msix_on(h);
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	host_story(h, "INTx- MSI-X+0:1(none)");
	open_vector(h, 0);
	host_story(h, "MSI-X+0:1");
	first = h->fds[VFIO_USER_IRQ_MSIX][0];
	assert_false(fd_clear(first));
	open_vector(h, 2);
	host_story(h, "MSI-X- MSI-X+3:1(none) MSI-X+0:1 MSI-X+2:1");
	/* What it signalled while it was off is made up for. */
	assert_int_equal(h->fds[VFIO_USER_IRQ_MSIX][0], first);
	assert_true(fd_clear(first));
	open_vector(h, 3);
	host_story(h, "MSI-X+3:1");
	assert_false(fd_clear(first));
	open_vector(h, 7);
	host_story(h, "MSI-X- MSI-X+7:1 MSI-X+0:1 MSI-X+2:2 MSI-X+7:1");
	host_end(h);
}

static void a_host_short_of_vectors_gives_what_is_needed(void **state)
{
	struct host *h = host_new();

	h->t.info.irqs[VFIO_USER_IRQ_MSIX].flags |= VFIO_USER_IRQ_FLAG_NORESIZE;
	h->host_vectors = 3;
	host_attach(h);
	hdecode(h);
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	h->story[0] = 0;
	open_vector(h, 2);
	host_story(h, "MSI-X- MSI-X+3:1! MSI-X+2:1 MSI-X+2:1");
	open_vector(h, 3);
	assert_int_equal(world_log(h->w, "refused to set MSI-X interrupts 0 to 3"), 1);
	host_end(h);
}

static void enable_msi(struct host *h, unsigned log2)
{
	hcfg_set(h, MSI_POS + PCI_MSI_ADDRESS_LO, 4, 0xfee00000);
	hcfg_set(h, MSI_POS + PCI_MSI_DATA_64, 2, 0x60);
	hcfg_set(h, MSI_POS + 2, 2, PCI_MSI_FLAGS_ENABLE | log2 << 4);
}

static void msi_comes_all_at_once_and_is_made_anew(void **state)
{
	struct host *h = host_attach(host_new());

	hdecode(h);
	enable_msi(h, 1);
	/* The kernel writes the device's control word itself. */
	host_story(h, "INTx- MSI+0:2");
	hcfg_set(h, MSI_POS + 2, 2, PCI_MSI_FLAGS_ENABLE | 2 << 4);
	host_story(h, "MSI- MSI+0:4");
	hcfg_set(h, MSI_POS + 2, 2, 0);
	host_story(h, "MSI- INTx+0:1 INTx.unmask");
	host_end(h);
}

static void msi_takes_what_the_host_has(void **state)
{
	struct host *h = host_new();

	h->host_vectors = 1;
	host_attach(h);
	hdecode(h);
	enable_msi(h, 2);
	host_story(h, "INTx- MSI+0:4! MSI+0:2! MSI+0:1");
	assert_int_equal(world_log(h->w, "the host has 1 MSI vectors for it, not the 4"), 1);
	host_end(h);
}

static void intx_is_unmasked_by_the_guests_end_of_interrupt_alone(void **state)
{
	struct host *h = host_attach(host_new());
	const struct kvm_irqfd *line = kvm_line();

	hdecode(h);
	assert_non_null(line);
	assert_int_equal(h->fds[VFIO_USER_IRQ_INTX][0], line->fd);
	assert_int_equal(h->unmask_fd, line->resamplefd);
	fd_signal(h->fds[VFIO_USER_IRQ_INTX][0]);
	hreg(h, 0, 0x2ffc, 4);
	hreg_set(h, 0, 0x2ffc, 4, 0);
	host_story(h, "BAR0+2ffc:4=0");
	assert_false(fd_clear(h->unmask_fd));
	hcfg_set(h, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
	host_story(h, "4:2=402 INTx-");
	hcfg_set(h, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	host_story(h, "4:2=2 INTx+0:1 INTx.unmask");
	host_end(h);
}

static void a_host_without_a_line_for_it_is_no_obstacle(void **state)
{
	struct host *h = host_new();

	h->no_intx = true;
	host_attach(h);
	assert_int_equal(
		world_log(h->w, "the host has no interrupt line for it, only messages"), 1);
	assert_int_equal(hcfg(h, PCI_INTERRUPT_PIN, 1), 0);
	assert_null(kvm_line());
	hdecode(h);
	open_vector(h, 0);
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	host_story(h, "MSI-X+0:1 MSI-X+0:1");
	hcfg_set(h, MSIX_POS + 2, 2, 0);
	host_story(h, "MSI-X-");
	host_end(h);
}

/* --- leaving --- */

static void a_device_that_leaves_is_as_if_pulled_out(void **state)
{
	static const char *const lines[] = {
		[VFIO_LEAVE_ERROR] = "reported an error",
		[VFIO_LEAVE_REQUEST] = "the host wants the device back",
		[VFIO_LEAVE_GONE] = "does not answer any more",
	};

	for (unsigned why = 0; why < ARRAY_SIZE(lines); why++) {
		struct host *h = host_attach(host_new());
		uint64_t at = hbar(h, 0), value;

		hdecode(h);
		assert_int_equal(h->nr_peers, 1);
		host_lose(h, why);
		assert_int_equal(h->nr_left, 1);
		assert_int_equal(h->why, why);
		assert_int_equal(world_log(h->w, lines[why]), 1);
		assert_int_equal(kvm_nr_slots(), 1);
		assert_int_equal(h->nr_peers, 0);
		/* It is unmapped when nobody maps it for others any more. */
		assert_int_equal(h->nr_taken, 1);
		assert_int_equal(hcfg(h, PCI_VENDOR_ID, 4), UINT32_MAX);
		assert_int_equal(hcfg(h, MSIX_POS, 2), 0xffff);
		hcfg_set(h, PCI_COMMAND, 2, 0);
		/* The table, too, which is ours */
		io_read(h->w->m.bus, host_vcpu(h), IO_MMIO, at + 0x2000, 4, &value);
		assert_int_equal(value, UINT32_MAX);
		host_end(h);
	}
}

/* --- BARs --- */

static void memory_is_there_while_the_device_answers_and_for_other_devices_too(void **state)
{
	struct host *h = host_attach(host_new());
	uint64_t at = hbar(h, 0);

	assert_int_equal(kvm_nr_slots(), 1);
	hdecode(h); /* host_slot(), host_dma_map() look at the order */
	assert_true(kvm_has_slot(at, 0x2000));
	assert_int_equal(h->nr_peers, 1);
	assert_int_equal(h->peer_gpa, at);
	assert_int_equal(h->peer_size, 0x2000);
	hcfg_set(h, PCI_BASE_ADDRESS_0, 4, (uint32_t)at + 0x100000);
	assert_true(kvm_has_slot(at + 0x100000, 0x2000));
	assert_int_equal(h->nr_peers, 1);
	assert_int_equal(h->peer_gpa, at + 0x100000);
	/* The vCPU goes on when that is so. */
	assert_false(h->unsettled);
	hcfg_set(h, PCI_COMMAND, 2, 0);
	assert_int_equal(kvm_nr_slots(), 1);
	assert_int_equal(h->nr_peers, 0);
	assert_false(h->unsettled);
	host_end(h);
}

static void a_bar_that_is_left_out_traps_but_is_there_for_others(void **state)
{
	const struct vfio_pci_options options = { .unmapped_bars = 1,
		.gpudirect_clique = VFIO_PCI_NO_CLIQUE };
	struct host *h = host_new();

	assert_int_equal(host_try(h, &options), 0);
	hdecode(h);
	assert_int_equal(kvm_nr_slots(), 1);
	assert_int_equal(h->nr_peers, 1);
	hreg_set(h, 0, 0x10, 4, 7);
	host_story(h, "BAR0+10:4=7");
	host_end(h);
}

static void a_bar_of_less_than_a_page_gets_its_page(void **state)
{
	struct host *h = host_new();

	host_bar(h, 2, 256, 0, true);
	host_bar(h, 3, 256, 0, false);
	host_attach(h);
	hdecode(h);
	assert_true(kvm_has_slot(hbar(h, 2), 0x1000));
	hcfg_set(h, PCI_BASE_ADDRESS_2, 4, UINT32_MAX);
	assert_int_equal(hcfg(h, PCI_BASE_ADDRESS_2, 4), 0xfffff000);
	hcfg_set(h, PCI_BASE_ADDRESS_3, 4, UINT32_MAX);
	assert_int_equal(hcfg(h, PCI_BASE_ADDRESS_3, 4), 0xffffff00);
	host_end(h);
}

static void a_huge_bar_can_have_huge_pages(void **state)
{
	static const uint64_t sizes[] = { 4 * MIB, 2 * GIB };

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct host *h = host_new();
		uint64_t page = sizes[i] >= GIB ? GIB : 2 * MIB;

		host_bar(h, 2, sizes[i],
			PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH, true);
		host_attach(h);
		hdecode(h);
		assert_int_equal(h->peer_size, sizes[i]);
		assert_int_equal(h->peer_gpa & (page - 1), 0);
		assert_int_equal((uintptr_t)h->peer_hva & (page - 1), 0);
		host_end(h);
	}
}

static void an_area_within_a_huge_bar_is_off_by_as_much_on_both_sides(void **state)
{
	struct host *h = host_new();

	host_bar(h, 2, 8 * MIB, PCI_BASE_ADDRESS_MEM_TYPE_64, true);
	h->areas[2][0].offset = h->areas[2][0].fd_offset = 0x3000;
	h->areas[2][0].size = 6 * MIB;
	host_attach(h);
	hdecode(h);
	assert_int_equal(h->peer_size, 6 * MIB);
	assert_int_equal(h->peer_gpa & (2 * MIB - 1), 0x3000);
	assert_int_equal((uintptr_t)h->peer_hva & (2 * MIB - 1), 0x3000);
	host_end(h);
}

/* --- an MSI-X table among registers --- */

static void place_msix(struct host *h, uint32_t table, uint32_t pba)
{
	put32(h->config + MSIX_POS + 4, table);
	put32(h->config + MSIX_POS + 8, pba);
}

static void check_moved(struct host *h, unsigned bar, uint32_t table, uint32_t pba)
{
	assert_int_equal(hcfg(h, MSIX_POS + 4, 4), table | bar);
	assert_int_equal(hcfg(h, MSIX_POS + 8, 4), pba | bar);
	hdecode(h);
	assert_true(kvm_has_slot(hbar(h, bar), h->t.info.regions[bar].size));
	hreg_set(h, bar, table + 8, 4, 0x41);
	assert_int_equal(hreg(h, bar, table + 8, 4), 0x41);
	assert_int_equal(hreg(h, bar, pba, 8), 0);
	assert_int_equal(hreg(h, bar, table + 8 * 16, 4), UINT32_MAX);
	host_story(h, "");
}

static void a_table_among_registers_moves_behind_its_bar(void **state)
{
	struct host *h = host_new();

	place_msix(h, 0x2800, 0x3000);
	host_attach(h);
	check_moved(h, 0, 0x4000, 0x5000);
	hcfg_set(h, PCI_BASE_ADDRESS_0, 4, UINT32_MAX);
	assert_int_equal(hcfg(h, PCI_BASE_ADDRESS_0, 4), 0xffff8004);
	host_end(h);

	/* 32 bits, all of it in one page */
	h = host_new();
	host_bar(h, 2, 0x1000, 0, true);
	place_msix(h, 0x800 | 2, 0x900 | 2);
	host_attach(h);
	check_moved(h, 2, 0x1000, 0x2000);
	host_end(h);
}

static void a_table_that_cannot_or_need_not_move_stays(void **state)
{
	struct host *h = host_new();

	/* The host's kernel lets nobody map it. */
	h->t.info.regions[0].msix_mappable = false;
	place_msix(h, 0x2800, 0x3000);
	host_attach(h);
	assert_int_equal(hcfg(h, MSIX_POS + 4, 4), 0x2800);
	hdecode(h);
	hreg_set(h, 0, 0x2010, 4, 1);
	host_story(h, "BAR0+2010:4=1");
	host_end(h);

	/* Pending bits behind the table in the same page are no registers. */
	h = host_new();
	place_msix(h, 0x2000, 0x2800);
	host_attach(h);
	assert_int_equal(hcfg(h, MSIX_POS + 8, 4), 0x2800);
	host_end(h);

	/* The BAR would be too large. */
	h = host_new();
	host_bar(h, 2, 2 * GIB, PCI_BASE_ADDRESS_MEM_TYPE_64, true);
	place_msix(h, 0x2800 | 2, 0x3000 | 2);
	assert_int_equal(host_try(h, NULL), 0);
	assert_int_equal(hcfg(h, MSIX_POS + 4, 4), 0x2800 | 2);
	host_end(h);
}

static void pending_bits_outside_of_their_bar_get_a_place(void **state)
{
	struct host *h = host_new();

	place_msix(h, 0x2000, 0x10000);
	host_attach(h);
	check_moved(h, 0, 0x4000, 0x5000);
	host_end(h);

	/* A table has no such excuse. */
	h = host_new();
	place_msix(h, 0x3fc0, 0x2000);
	assert_int_equal(host_try(h, NULL), -EPROTO);
	assert_non_null(
		strstr(h->err.text, "MSI-X table (0x80 bytes at 0x3fc0) passes the end of BAR 0"));
	host_end(h);
}

/* --- power --- */

static void memory_is_out_of_reach_while_the_device_sleeps(void **state)
{
	struct host *h = host_attach(host_new());
	uint64_t at = hbar(h, 0);

	hdecode(h);
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 2, 3);
	host_story(h, "74:2=3");
	assert_int_equal(kvm_nr_slots(), 1);
	assert_int_equal(h->nr_peers, 0);
	assert_int_equal(hreg(h, 0, 0, 4), UINT32_MAX);
	/* Nor when it moves, or decodes anew. */
	hcfg_set(h, PCI_BASE_ADDRESS_0, 4, (uint32_t)at + 0x100000);
	hcfg_set(h, PCI_COMMAND, 2, 0);
	hcfg_set(h, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(kvm_nr_slots(), 1);
	h->story[0] = 0;
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 1, 0);
	/* It was a reset, which forgets what it was told. */
	host_story(h, "74:1=0 74:2=0 4:2=2 INTx- INTx+0:1 INTx.unmask");
	assert_true(kvm_has_slot(at + 0x100000, 0x2000));
	assert_int_equal(h->nr_peers, 1);
	host_end(h);
}

static void a_device_that_wakes_as_it_was_is_not_told_again(void **state)
{
	struct host *h = host_new();

	put16(h->config + PM_POS + PCI_PM_CTRL, PCI_PM_CTRL_NO_SOFT_RESET);
	host_attach(h);
	hdecode(h);
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 2, 3);
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 4, 0);
	host_story(h, "74:2=3 74:4=0");
	assert_int_equal(kvm_nr_slots(), 2);
	host_end(h);
}

static void a_reset_wakes_the_device(void **state)
{
	struct host *h = host_attach(host_new());

	hdecode(h);
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 2, 3);
	open_vector(h, 0);
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	h->story[0] = 0;
	pci_reset(h->w->m.pci);
	assert_int_equal(h->resets, 1);
	host_story(h, "reset MSI-X- INTx+0:1 INTx.unmask 74:2=0 4:2=0");
	assert_int_equal(kvm_nr_slots(), 1);
	assert_int_equal(hcfg(h, MSIX_POS + 2, 2), 7);
	hdecode(h);
	assert_int_equal(kvm_nr_slots(), 2);
	host_end(h);
}

static bool fault(struct host *h)
{
	bool taken;

	pci_lock(h->w->m.pci);
	taken = vp_memory_fault(&h->vp->fn);
	pci_unlock(h->w->m.pci);
	return taken;
}

static void memory_that_does_not_answer_is_taken_out(void **state)
{
	struct host *h = host_attach(host_new());

	hdecode(h);
	/* Somebody else's trouble */
	assert_false(fault(h));
	assert_int_equal(kvm_nr_slots(), 2);
	h->config[PCI_COMMAND] = 0;
	assert_true(fault(h));
	assert_int_equal(kvm_nr_slots(), 1);
	assert_int_equal(world_log(h->w, "memory does not answer"), 1);
	/* Another vCPU that ran into it at the same time */
	assert_true(fault(h));
	hcfg_set(h, PCI_COMMAND, 2, 0);
	hcfg_set(h, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(kvm_nr_slots(), 2);
	host_end(h);
}

/* --- configuration space --- */

static void resets_of_the_function_are_followed(void **state)
{
	struct host *h = host_attach(host_new());

	hdecode(h);
	hcfg_set(h, AF_POS + PCI_AF_CTRL, 1, PCI_AF_CTRL_FLR);
	host_story(h, "c4:1=1 4:2=3 INTx- INTx+0:1 INTx.unmask");
	hcfg_set(h, EXP_POS + PCI_EXP_DEVCTL, 4, PCI_EXP_DEVCTL_BCR_FLR | 0x10);
	host_story(h, "88:4=8010 88:2=10 4:2=3 INTx- INTx+0:1 INTx.unmask");
	hcfg_set(h, EXP_POS + PCI_EXP_DEVCTL, 1, 0x20);
	hcfg_set(h, AF_POS + PCI_AF_CTRL, 1, 0);
	host_story(h, "88:1=20 c4:1=0");
	host_end(h);
}

static void what_cannot_work_is_hidden_and_has_a_reason(void **state)
{
	const struct vp_hidden *list;
	unsigned nr = vp_nr_hidden_caps(&list), pos = 0x100;
	struct host *h = host_new();

	for (unsigned i = 0; i < nr; i++) {
		assert_true(strlen(list[i].why) > 10);
		if (!list[i].extended)
			continue;
		put32(h->config + pos, list[i].id | 1 << 16 | (pos + 0x80) << 20);
		memset(h->config + pos + 4, 0xab, 0x40);
		pos += 0x80;
	}
	put32(h->config + pos, PCI_EXT_CAP_ID_DSN | 1 << 16);
	/* And one of the standard list, in its midst */
	host_cap(h, AF_POS, PCI_CAP_ID_AF, 0xd0);
	host_cap(h, 0xd0, PCI_CAP_ID_EA, 0xe0);
	host_cap(h, 0xe0, PCI_CAP_ID_VNDR, 0);
	host_attach(h);
	for (unsigned at = 0x100; at < pos; at += 0x80) {
		assert_int_equal(hcfg(h, at, 4), 1 << 16 | (at + 0x80) << 20);
		/* From the length on it is the device's. */
		for (unsigned i = 0; i < nr; i++)
			if (list[i].extended && list[i].len > 4 &&
				(h->config[at] | h->config[at + 1] << 8) == list[i].id) {
				assert_int_equal(hcfg(h, at + 4, 4), 0);
				hcfg_set(h, at + 4, 4, 1);
			}
	}
	host_story(h, "");
	assert_int_equal(hcfg(h, pos, 2), PCI_EXT_CAP_ID_DSN);
	assert_int_equal(hcfg(h, AF_POS + 1, 1), 0xe0);
	host_end(h);
}

static int with_clique(struct host *h, int clique)
{
	const struct vfio_pci_options options = { .gpudirect_clique = clique };

	return host_try(h, &options);
}

static struct host *gpu(void)
{
	struct host *h = host_new();

	put16(h->config + PCI_VENDOR_ID, 0x10de);
	put16(h->config + PCI_CLASS_DEVICE, 0x0302);
	return h;
}

static void a_gpu_of_a_clique_has_nvidias_capability(void **state)
{
	static const struct {
		unsigned used, len, place;
	} cases[] = {
		{ 0, 0, 0xd4 }, { 0xd4, 12, 0xc8 }, /* a capability that others keep there */
		{ 0xc8, 0x38, 0x78 }, /* all of the end is used: between power management and PCI
					 Express */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct host *h = gpu();

		if (cases[i].used) {
			host_cap(h, AF_POS, PCI_CAP_ID_AF, cases[i].used);
			host_cap(h, cases[i].used, PCI_CAP_ID_VNDR, 0);
			h->config[cases[i].used + 2] = (uint8_t)cases[i].len;
		}
		assert_int_equal(with_clique(h, 5), 0);
		assert_int_equal(hcfg(h, PCI_CAPABILITY_LIST, 1), cases[i].place);
		assert_int_equal(hcfg(h, cases[i].place, 4), 0x50080009 | MSIX_POS << 8);
		assert_int_equal(hcfg(h, cases[i].place + 4, 4), 0x00280000 | 'P' << 8 | '2');
		hcfg_set(h, cases[i].place, 4, 0);
		host_story(h, "");
		host_end(h);
	}
}

static void a_clique_is_for_nvidias_gpus_with_room_for_it(void **state)
{
	struct host *h = host_new();

	assert_int_equal(with_clique(h, 5), -EINVAL);
	assert_string_equal(h->err.text,
		"x_nv_gpudirect_clique is for NVIDIA GPUs; this is 8086:10d3 of class 0000");
	host_end(h);

	h = gpu();
	memset(h->config + AF_POS + 6, 1, 0x100 - AF_POS - 6);
	memset(h->config + 0x68, 1, 8);
	memset(h->config + 0x78, 1, 8);
	assert_int_equal(with_clique(h, 0), -ENOSPC);
	host_end(h);
}

static void accesses_of_all_sizes_reach_all_offsets(void **state)
{
	struct host *h = host_attach(host_new());

	hdecode(h);
	for (unsigned off = 0; off < PCI_CONFIG_SIZE; off++)
		for (unsigned size = 1; size <= 8; size++) {
			uint64_t value = 0, byte;

			if (off + size > PCI_CONFIG_SIZE)
				continue;
			io_read(h->w->m.bus, host_vcpu(h), IO_MMIO,
				LAYOUT_ECAM + (5ull << 15) + off, size, &value);
			for (unsigned i = 0; i < size; i++) {
				io_read(h->w->m.bus, host_vcpu(h), IO_MMIO,
					LAYOUT_ECAM + (5ull << 15) + off + i, 1, &byte);
				assert_int_equal(value >> (8 * i) & 0xff, byte);
			}
		}
	for (unsigned size = 1; size <= 8; size++) {
		memset(h->config + 0xf1, 0, 15);
		io_write(h->w->m.bus, host_vcpu(h), IO_MMIO, LAYOUT_ECAM + (5ull << 15) + 0xf1,
			size, 0x8877665544332211);
		for (unsigned i = 0; i < 9; i++)
			assert_int_equal(h->config[0xf1 + i], i < size ? 0x11 * (i + 1) : 0);
		h->story[0] = 0;
	}
	host_end(h);
}

static void ports_trap(void **state)
{
	struct host *h = host_new();

	h->t.info.regions[4] =
		(struct vfio_region){ .size = 32, .readable = true, .writable = true };
	put32(h->config + PCI_BASE_ADDRESS_4, PCI_BASE_ADDRESS_SPACE_IO);
	host_attach(h);
	hdecode(h);
	hreg_set(h, 4, 4, 2, 0x1234);
	host_story(h, "BAR4+4:2=1234");
	assert_int_equal(hreg(h, 4, 0, 1), 0x5a);
	host_end(h);
}

/* --- the ROM --- */

static struct host *with_rom(uint64_t size)
{
	struct host *h = host_new();

	h->t.info.regions[VFIO_USER_REGION_ROM] =
		(struct vfio_region){ .size = size, .readable = true };
	host_attach(h);
	hdecode(h);
	hcfg_set(h, PCI_ROM_ADDRESS, 4, hcfg(h, PCI_ROM_ADDRESS, 4) | PCI_ROM_ADDRESS_ENABLE);
	assert_int_equal(kvm_nr_slots(), 2); /* RAM and BAR 0 */
	h->story[0] = 0;
	return h;
}

static uint64_t rom_read(struct host *h, uint64_t off, unsigned size)
{
	uint64_t value = 0;

	io_read(h->w->m.bus, host_vcpu(h), IO_MMIO, (hcfg(h, PCI_ROM_ADDRESS, 4) & ~1u) + off, size,
		&value);
	return value;
}

static void a_rom_is_read_once_and_lies_in_the_guests_memory(void **state)
{
	struct host *h = with_rom(0x9000);
	uint32_t reg = hcfg(h, PCI_ROM_ADDRESS, 4);

	assert_int_equal(rom_read(h, 0x8ffe, 2), 0x5a5a);
	host_story(h, "ROM+0:36864");
	assert_int_equal(kvm_nr_slots(), 3);
	/* The device has less than its BAR of 64 KiB: KVM gives all-ones from the copy. */
	assert_int_equal(rom_read(h, 0x9000, 4), 0xffffffff);
	hcfg_set(h, PCI_ROM_ADDRESS, 4, reg & ~PCI_ROM_ADDRESS_ENABLE);
	assert_int_equal(kvm_nr_slots(), 2);
	hcfg_set(h, PCI_ROM_ADDRESS, 4, reg);
	assert_int_equal(kvm_nr_slots(), 3);
	/* It sleeps: nothing of it is there. */
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 2, 3);
	assert_int_equal(kvm_nr_slots(), 1);
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 2, 0);
	hdecode(h);
	assert_int_equal(kvm_nr_slots(), 3);
	h->story[0] = 0;
	assert_int_equal(rom_read(h, 0, 4), 0x5a5a5a5a);
	host_story(h, "");
	host_end(h);
}

static void a_rom_below_a_page_traps_and_is_read_once(void **state)
{
	struct host *h = with_rom(2048);

	assert_int_equal(rom_read(h, 0, 4), 0x5a5a5a5a);
	assert_int_equal(rom_read(h, 2040, 8), 0x5a5a5a5a5a5a5a5a);
	assert_int_equal(rom_read(h, 2044, 8), UINT64_MAX);
	host_story(h, "ROM+0:2048");
	assert_int_equal(kvm_nr_slots(), 2);
	host_end(h);
}

static void a_rom_that_cannot_be_read_is_asked_for_again(void **state)
{
	struct host *h = with_rom(0x10000);

	h->config[PCI_COMMAND] &= (uint8_t)~PCI_COMMAND_MEMORY;
	assert_int_equal(rom_read(h, 0, 4), 0xffffffff);
	assert_int_equal(kvm_nr_slots(), 2);
	h->config[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
	assert_int_equal(rom_read(h, 0, 4), 0x5a5a5a5a);
	assert_int_equal(kvm_nr_slots(), 3);
	host_end(h);
}

/* --- anything --- */

static uint32_t random_state;

static uint32_t any(uint32_t below)
{
	random_state = random_state * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)random_state * below) >> 32);
}

static void scramble(struct host *h)
{
	for (unsigned i = 0; i < 4 + any(40); i++)
		h->config[PCI_STATUS + any(0x1fc)] = (uint8_t)any(256);
	for (unsigned i = 0; i < any(4); i++)
		h->config[0x100 + any(0xf00)] = (uint8_t)any(256);
	h->config[PCI_HEADER_TYPE] &= 0x80;
	for (unsigned i = 0; i < 3; i++)
		h->t.info.irqs[i] = (struct vfio_irq){ any(16), any(3) ? any(9) : 0 };
	h->t.info.irqs[0].count &= 1;
	h->host_vectors = any(9);
	h->config_size = any(4) ? PCI_CONFIG_SIZE : 256;
	h->t.info.regions[0].msix_mappable = any(2);
}

static void job_anything(struct host *h)
{
	for (unsigned i = 0; i < 400; i++) {
		unsigned size = 1u << any(4), off = any(any(2) ? 0x100 : 0x1000) & ~(size - 1);
		uint64_t value = (uint64_t)any(UINT32_MAX) << any(33), out;
		uint64_t at = any(2) ? LAYOUT_ECAM + (5ull << 15) + off
				     : h->vp->fn.bars[0].addr + any(0x8000);

		if (any(2))
			io_write(h->w->m.bus, host_vcpu(h), IO_MMIO, at, size, value);
		else
			io_read(h->w->m.bus, host_vcpu(h), IO_MMIO, at, size, &out);
		if (!any(100))
			pci_reset(h->w->m.pci);
		h->story[0] = 0;
	}
}

/* The device is what it likes, and the guest does what it likes: the sanitizers, the fake's rules
 * and asserts look on. */
static void no_device_and_no_guest_do_harm(void **state)
{
	unsigned attached = 0;

	for (random_state = 1; random_state < 400; random_state++) {
		uint32_t seed = random_state;
		struct host *h = host_new();

		scramble(h);
		if (!host_try(h, NULL)) {
			attached++;
			job_anything(h);
			if (any(2))
				host_lose(h, VFIO_LEAVE_ERROR);
			job_anything(h);
		} else {
			assert_true(h->err.text[0]);
		}
		host_end(h);
		random_state = seed;
	}
	assert_true(attached > 50);
}

/* --- several vCPUs --- */

#define CROWD	    4
#define CROWD_STEPS 4000u

struct crowd_vcpu {
	struct host *h;
	struct io_reader *reader;
	pthread_t thread;
	pthread_barrier_t *begin;
	uint32_t state;
};

static uint32_t its(struct crowd_vcpu *v, uint32_t below)
{
	v->state = v->state * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)v->state * below) >> 32);
}

static void crowd_config(struct crowd_vcpu *v, unsigned off, unsigned size, uint32_t value)
{
	cfg_write(v->h->w, v->reader, off, size, value);
}

static void crowd_changes(struct crowd_vcpu *v)
{
	static const uint64_t places[] = { 0x1000000000, 0x1000100000, 0xd0000000, 0x8000, 0 };
	uint64_t place = places[its(v, ARRAY_SIZE(places))];

	switch (its(v, 8)) {
	case 0:
		crowd_config(v, PCI_BASE_ADDRESS_0, 4, (uint32_t)place);
		break;
	case 1:
		crowd_config(v, PCI_BASE_ADDRESS_0 + 4, 4, (uint32_t)(place >> 32));
		break;
	case 2:
		crowd_config(v, PM_POS + PCI_PM_CTRL, 2, its(v, 3) ? 0 : 3);
		break;
	case 3:
		crowd_config(v, MSIX_POS + 2, 2, its(v, 4) << 14);
		break;
	case 4:
		crowd_config(v, its(v, 2) ? AF_POS + PCI_AF_CTRL : EXP_POS + PCI_EXP_DEVCTL + 1, 1,
			its(v, 2) ? 0x81 : 0);
		break;
	default:
		crowd_config(v, PCI_COMMAND, 1 + its(v, 2), its(v, 3) ? PCI_COMMAND_MEMORY : 0);
	}
}

static void crowd_uses(struct crowd_vcpu *v)
{
	struct io_bus *bus = v->h->w->m.bus;
	uint64_t at = 0x1000000000 + its(v, 2) * 0x100000, out;

	switch (its(v, 5)) {
	case 0:
		io_write(bus, v->reader, IO_MMIO, at + 0x2000 + 4 * its(v, 32), 4, its(v, 2));
		break;
	case 1:
		io_read(bus, v->reader, IO_MMIO, at + 0x3000, 8, &out);
		break;
	case 2:
		cfg_read(v->h->w, v->reader, its(v, 0x400) * 4, 4);
		break;
	case 3:
		/* As one whose access the kernel stopped. */
		fault(v->h);
		break;
	default:
		io_read(bus, v->reader, IO_MMIO, at + its(v, 0x1000), 4, &out);
	}
}

static void *crowd_main(void *arg)
{
	struct crowd_vcpu *v = arg;

	pthread_barrier_wait(v->begin);
	for (unsigned i = 0; i < CROWD_STEPS; i++)
		if (its(v, 2))
			crowd_changes(v);
		else
			crowd_uses(v);
	return NULL;
}

/* The fake looks on: nothing may be in the guest's memory while the device does not answer. */
static void vcpus_take_the_device_away_from_each_other(void **state)
{
	struct host *h = host_attach(host_new());
	struct crowd_vcpu crowd[CROWD];
	pthread_barrier_t begin;

	h->crowd = true;
	pthread_barrier_init(&begin, NULL, CROWD);
	for (unsigned i = 0; i < CROWD; i++) {
		crowd[i] = (struct crowd_vcpu){
			.h = h,
			.reader = io_bus_reader(h->w->m.bus, i),
			.begin = &begin,
			.state = i,
		};
		assert_int_equal(pthread_create(&crowd[i].thread, NULL, crowd_main, &crowd[i]), 0);
	}
	for (unsigned i = 0; i < CROWD; i++)
		pthread_join(crowd[i].thread, NULL);
	pthread_barrier_destroy(&begin);
	assert_int_equal(world_log(h->w, "does not answer"), 0);
	h->crowd = false;
	hcfg_set(h, PCI_COMMAND, 2, 0);
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 2, 0);
	hcfg_set(h, PCI_BASE_ADDRESS_0, 4, 0);
	hcfg_set(h, PCI_BASE_ADDRESS_0 + 4, 4, 0x10);
	hdecode(h);
	assert_int_equal(kvm_nr_slots(), 2);
	assert_int_equal(hreg(h, 0, 0x3ff8, 4), 0x5a5a5a5a);
	host_end(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(msix_is_on_with_one_vector_and_grows),
		cmocka_unit_test(msix_that_cannot_grow_is_made_anew_and_loses_nothing),
		cmocka_unit_test(a_host_short_of_vectors_gives_what_is_needed),
		cmocka_unit_test(msi_comes_all_at_once_and_is_made_anew),
		cmocka_unit_test(msi_takes_what_the_host_has),
		cmocka_unit_test(intx_is_unmasked_by_the_guests_end_of_interrupt_alone),
		cmocka_unit_test(a_host_without_a_line_for_it_is_no_obstacle),
		cmocka_unit_test(a_device_that_leaves_is_as_if_pulled_out),
		cmocka_unit_test(
			memory_is_there_while_the_device_answers_and_for_other_devices_too),
		cmocka_unit_test(a_bar_that_is_left_out_traps_but_is_there_for_others),
		cmocka_unit_test(a_bar_of_less_than_a_page_gets_its_page),
		cmocka_unit_test(a_huge_bar_can_have_huge_pages),
		cmocka_unit_test(an_area_within_a_huge_bar_is_off_by_as_much_on_both_sides),
		cmocka_unit_test(a_table_among_registers_moves_behind_its_bar),
		cmocka_unit_test(a_table_that_cannot_or_need_not_move_stays),
		cmocka_unit_test(pending_bits_outside_of_their_bar_get_a_place),
		cmocka_unit_test(memory_is_out_of_reach_while_the_device_sleeps),
		cmocka_unit_test(a_device_that_wakes_as_it_was_is_not_told_again),
		cmocka_unit_test(a_reset_wakes_the_device),
		cmocka_unit_test(memory_that_does_not_answer_is_taken_out),
		cmocka_unit_test(resets_of_the_function_are_followed),
		cmocka_unit_test(what_cannot_work_is_hidden_and_has_a_reason),
		cmocka_unit_test(a_gpu_of_a_clique_has_nvidias_capability),
		cmocka_unit_test(a_clique_is_for_nvidias_gpus_with_room_for_it),
		cmocka_unit_test(accesses_of_all_sizes_reach_all_offsets),
		cmocka_unit_test(ports_trap),
		cmocka_unit_test(a_rom_is_read_once_and_lies_in_the_guests_memory),
		cmocka_unit_test(a_rom_below_a_page_traps_and_is_read_once),
		cmocka_unit_test(a_rom_that_cannot_be_read_is_asked_for_again),
		cmocka_unit_test(no_device_and_no_guest_do_harm),
		cmocka_unit_test(vcpus_take_the_device_away_from_each_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
