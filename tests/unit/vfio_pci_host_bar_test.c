/* vfio_pci_host_bar_test.c - BARs, the MSI-X table in them and the ROM of real hardware */
#include "vfio_host_fake.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			memory_is_there_while_the_device_answers_and_for_other_devices_too),
		cmocka_unit_test(a_bar_that_is_left_out_traps_but_is_there_for_others),
		cmocka_unit_test(a_bar_of_less_than_a_page_gets_its_page),
		cmocka_unit_test(a_huge_bar_can_have_huge_pages),
		cmocka_unit_test(an_area_within_a_huge_bar_is_off_by_as_much_on_both_sides),
		cmocka_unit_test(ports_trap),
		cmocka_unit_test(a_table_among_registers_moves_behind_its_bar),
		cmocka_unit_test(a_table_that_cannot_or_need_not_move_stays),
		cmocka_unit_test(pending_bits_outside_of_their_bar_get_a_place),
		cmocka_unit_test(a_rom_is_read_once_and_lies_in_the_guests_memory),
		cmocka_unit_test(a_rom_below_a_page_traps_and_is_read_once),
		cmocka_unit_test(a_rom_that_cannot_be_read_is_asked_for_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
