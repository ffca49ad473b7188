/* vfio_pci_host_config_test.c - configuration space of real hardware: hidden and added parts */
#include "vfio_host_fake.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_cannot_work_is_hidden_and_has_a_reason),
		cmocka_unit_test(a_gpu_of_a_clique_has_nvidias_capability),
		cmocka_unit_test(a_clique_is_for_nvidias_gpus_with_room_for_it),
		cmocka_unit_test(accesses_of_all_sizes_reach_all_offsets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
