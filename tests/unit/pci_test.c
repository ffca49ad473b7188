/* pci_test.c - slots, configuration space, and BARs that a guest moves as it likes */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "machine/layout.h"
#include "machine/pci.h"

struct dev {
	struct pci_function fn;
	int mapped[PCI_NR_BARS];
	unsigned reads;
};

static uint64_t dev_bar_read(struct pci_function *fn, unsigned bar, uint64_t off, unsigned size)
{
	container_of(fn, struct dev, fn)->reads++;
	return 0x10 * bar + off;
}

static void dev_bar_write(struct pci_function *fn, unsigned bar, uint64_t off, unsigned size,
	uint64_t value)
{
}

static void dev_mapped(struct pci_function *fn, unsigned bar)
{
	container_of(fn, struct dev, fn)->mapped[bar]++;
}

static void dev_unmapped(struct pci_function *fn, unsigned bar)
{
	container_of(fn, struct dev, fn)->mapped[bar]--;
}

static const struct dev *last_reset;

static void dev_reset(struct pci_function *fn)
{
	last_reset = container_of(fn, struct dev, fn);
}

static const struct pci_ops dev_ops = {
	.reset = dev_reset,
	.bar_read = dev_bar_read,
	.bar_write = dev_bar_write,
	.bar_mapped = dev_mapped,
	.bar_unmapped = dev_unmapped,
};

struct world {
	struct io_bus *bus;
	struct pci *pci;
	struct io_reader *reader;
};

static void count_reset(void *arg)
{
	++*(unsigned *)arg;
}

static unsigned resets;

static struct world new_world(unsigned segments)
{
	struct pci_params p = {
		.nr_segments = segments,
		.phys_bits = 40,
		.ram_top = 5 * GIB,
		.wants_reset = count_reset,
		.arg = &resets,
	};
	struct world w = { 0 };
	struct err err = { 0 };

	assert_int_equal(io_bus_new(1, &w.bus), 0);
	assert_int_equal(pci_new(w.bus, &p, &w.pci, &err), 0);
	w.reader = io_bus_reader(w.bus, 0);
	return w;
}

static void free_world(struct world *w)
{
	pci_free(w->pci);
	io_bus_free(w->bus);
}

/* BAR 0: 64-bit, 64 KiB; BAR 2: I/O, 256 bytes; BAR 3: 32-bit, 4 KiB. */
static void init_dev(struct dev *d)
{
	memset(d, 0, sizeof(*d));
	pci_function_init(&d->fn, "dev", &dev_ops);
	pci_config_set(&d->fn, PCI_VENDOR_ID, 4, 0x56781234);
	d->fn.bars[0] = (struct pci_bar){ .kind = PCI_BAR_MEM64, .size = 64 * KIB };
	d->fn.bars[2] = (struct pci_bar){ .kind = PCI_BAR_IO, .size = 256 };
	d->fn.bars[3] = (struct pci_bar){ .kind = PCI_BAR_MEM32, .size = 4 * KIB };
}

static uint64_t ecam(unsigned segment, unsigned slot, unsigned reg)
{
	return LAYOUT_ECAM + segment * LAYOUT_ECAM_SEGMENT + slot * 0x8000ull + reg;
}

static uint64_t mem_read(struct world *w, uint64_t addr, unsigned size)
{
	uint64_t v;

	io_read(w->bus, w->reader, IO_MMIO, addr, size, &v);
	return v;
}

static void mem_write(struct world *w, uint64_t addr, unsigned size, uint64_t value)
{
	io_write(w->bus, w->reader, IO_MMIO, addr, size, value);
}

static void port_write(struct world *w, uint16_t port, unsigned size, uint32_t value)
{
	io_write(w->bus, w->reader, IO_PORT, port, size, value);
}

static uint64_t port_read(struct world *w, uint16_t port, unsigned size)
{
	uint64_t v;

	io_read(w->bus, w->reader, IO_PORT, port, size, &v);
	return v;
}

static void ecam_and_ports_show_the_same_functions(void **state)
{
	struct world w = new_world(2);
	struct dev d, e;
	struct err err = { 0 };

	init_dev(&d);
	init_dev(&e);
	assert_int_equal(pci_add(w.pci, &d.fn, 0, PCI_SLOT_ANY, &err), 0);
	assert_int_equal(d.fn.slot, 1);
	assert_int_equal(pci_add(w.pci, &e.fn, 1, 7, &err), 0);
	assert_int_equal(mem_read(&w, ecam(0, 0, 0), 4), 0x0d578086);
	assert_int_equal(mem_read(&w, ecam(0, 1, 0), 4), 0x56781234);
	assert_int_equal(mem_read(&w, ecam(0, 1, 1), 2), 0x7812); /* misaligned: in pieces */
	assert_int_equal(mem_read(&w, ecam(1, 7, 2), 2), 0x5678);
	assert_int_equal(mem_read(&w, ecam(1, 1, 0), 4), 0xffffffff);
	assert_int_equal(mem_read(&w, ecam(0, 1, 0) + 0x1000, 4), 0xffffffff); /* function 1 */
	port_write(&w, PORT_PCI_ADDRESS, 4, 0x80000000 | 1 << 11);
	assert_int_equal(port_read(&w, PORT_PCI_DATA, 4), 0x56781234);
	assert_int_equal(port_read(&w, PORT_PCI_DATA + 2, 2), 0x5678);
	port_write(&w, PORT_PCI_ADDRESS, 4, 1 << 11); /* enable bit off */
	assert_int_equal(port_read(&w, PORT_PCI_DATA, 4), 0xffffffff);
	pci_remove(w.pci, &d.fn);
	assert_int_equal(mem_read(&w, ecam(0, 1, 0), 4), 0xffffffff);
	free_world(&w);
}

/* A vCPU found the function in its slot, and arrives when that is empty. */
static void a_write_that_comes_after_the_removal_is_lost(void **state)
{
	struct world w = new_world(1);
	struct dev d;
	struct err err = { 0 };

	init_dev(&d);
	assert_int_equal(pci_add(w.pci, &d.fn, 0, 1, &err), 0);
	pci_remove(w.pci, &d.fn);
	pci_config_write_owned(&d.fn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++)
		assert_int_equal(d.mapped[bar], 0);
	assert_int_equal(mem_read(&w, d.fn.bars[3].addr + 4, 4), 0xffffffff);
	free_world(&w);
}

static void a_slot_is_taken_once_and_a_segment_has_31(void **state)
{
	struct world w = new_world(1);
	struct dev *d = calloc(32, sizeof(*d));
	struct err err = { 0 };

	for (unsigned i = 0; i < 32; i++) {
		init_dev(&d[i]);
		assert_int_equal(pci_add(w.pci, &d[i].fn, 0, PCI_SLOT_ANY, &err),
			i < 31 ? 0 : -ENOSPC);
	}
	err.text[0] = '\0';
	assert_int_equal(pci_add(w.pci, &d[31].fn, 0, 5, &err), -EBUSY);
	assert_non_null(strstr(err.text, "slot 5 of segment 0 is taken"));
	err.text[0] = '\0';
	assert_int_equal(pci_add(w.pci, &d[31].fn, 1, 5, &err), -EINVAL);
	free_world(&w);
	free(d);
}

static void bars_have_an_address_from_the_start_and_answer_once_decoded(void **state)
{
	struct world w = new_world(1);
	struct dev d;
	struct err err = { 0 };

	init_dev(&d);
	assert_int_equal(pci_add(w.pci, &d.fn, 0, PCI_SLOT_ANY, &err), 0);
	assert_true(d.fn.bars[0].addr >= 5 * GIB);
	assert_int_equal(d.fn.bars[0].addr % (64 * KIB), 0);
	assert_int_equal(mem_read(&w, d.fn.bars[3].addr + 4, 4), 0xffffffff);
	mem_write(&w, ecam(0, 1, PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
	assert_int_equal(d.mapped[0] + d.mapped[3], 2);
	assert_int_equal(d.mapped[2], 0);
	assert_int_equal(mem_read(&w, d.fn.bars[3].addr + 4, 4), 0x34);
	mem_write(&w, ecam(0, 1, PCI_COMMAND), 2, PCI_COMMAND_IO);
	assert_int_equal(d.mapped[0] + d.mapped[3], 0);
	assert_int_equal(port_read(&w, (uint16_t)d.fn.bars[2].addr + 1, 1), 0x21);
	pci_remove(w.pci, &d.fn);
	assert_int_equal(d.mapped[2], 0);
	free_world(&w);
}

static void sizing_shows_type_and_size(void **state)
{
	struct world w = new_world(1);
	struct dev d;
	struct err err = { 0 };

	init_dev(&d);
	assert_int_equal(pci_add(w.pci, &d.fn, 0, PCI_SLOT_ANY, &err), 0);
	for (unsigned bar = 0; bar < 6; bar++)
		mem_write(&w, ecam(0, 1, PCI_BASE_ADDRESS_0 + 4 * bar), 4, 0xffffffff);
	assert_int_equal(mem_read(&w, ecam(0, 1, PCI_BASE_ADDRESS_0), 4), 0xffff0004);
	assert_int_equal(mem_read(&w, ecam(0, 1, PCI_BASE_ADDRESS_1), 4), 0xffffffff);
	assert_int_equal(mem_read(&w, ecam(0, 1, PCI_BASE_ADDRESS_2), 4), 0xffffff01);
	assert_int_equal(mem_read(&w, ecam(0, 1, PCI_BASE_ADDRESS_3), 4), 0xfffff000);
	assert_int_equal(mem_read(&w, ecam(0, 1, PCI_BASE_ADDRESS_4), 4), 0);
	free_world(&w);
}

static void a_bar_follows_the_guest_and_never_leaves_the_windows(void **state)
{
	struct world w = new_world(1);
	struct dev d;
	struct err err = { 0 };
	uint64_t old;

	init_dev(&d);
	assert_int_equal(pci_add(w.pci, &d.fn, 0, PCI_SLOT_ANY, &err), 0);
	mem_write(&w, ecam(0, 1, PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
	old = d.fn.bars[3].addr;
	mem_write(&w, ecam(0, 1, PCI_BASE_ADDRESS_3), 4, 0xc8000000);
	assert_int_equal(mem_read(&w, old, 4), 0xffffffff);
	assert_int_equal(mem_read(&w, 0xc8000008, 4), 0x38);
	mem_write(&w, ecam(0, 1, PCI_BASE_ADDRESS_3), 4, 0x100000); /* onto RAM */
	assert_int_equal(d.mapped[3], 0);
	mem_write(&w, ecam(0, 1, PCI_BASE_ADDRESS_3), 4, (uint32_t)LAYOUT_ECAM); /* onto ECAM */
	assert_int_equal(d.mapped[3], 0);
	assert_int_equal(mem_read(&w, ecam(0, 1, 0), 4), 0x56781234);
	free_world(&w);
}

static void of_two_bars_at_one_place_the_second_waits_for_the_first_to_leave(void **state)
{
	struct world w = new_world(1);
	struct dev d, e;
	struct err err = { 0 };
	uint64_t home;

	init_dev(&d);
	init_dev(&e);
	assert_int_equal(pci_add(w.pci, &d.fn, 0, 1, &err), 0);
	assert_int_equal(pci_add(w.pci, &e.fn, 0, 2, &err), 0);
	mem_write(&w, ecam(0, 1, PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
	mem_write(&w, ecam(0, 2, PCI_COMMAND), 2, PCI_COMMAND_MEMORY);
	home = d.fn.bars[3].addr;
	mem_write(&w, ecam(0, 2, PCI_BASE_ADDRESS_3), 4, (uint32_t)home);
	assert_int_equal(e.mapped[3], 0);
	mem_read(&w, home, 4);
	assert_int_equal(d.reads, 1);
	assert_int_equal(e.reads, 0);
	mem_write(&w, ecam(0, 1, PCI_BASE_ADDRESS_3), 4, 0xc9000000);
	assert_int_equal(e.mapped[3], 1);
	mem_read(&w, home, 4);
	assert_int_equal(e.reads, 1);
	free_world(&w);
}

static void an_io_bar_cannot_cover_the_platforms_ports(void **state)
{
	struct world w = new_world(1);
	struct dev d;
	struct err err = { 0 };

	init_dev(&d);
	assert_int_equal(pci_add(w.pci, &d.fn, 0, PCI_SLOT_ANY, &err), 0);
	mem_write(&w, ecam(0, 1, PCI_COMMAND), 2, PCI_COMMAND_IO);
	assert_int_equal(d.mapped[2], 1);
	mem_write(&w, ecam(0, 1, PCI_BASE_ADDRESS_2), 4, 0xc01); /* 0xc00 to 0xcff: over 0xcf8 */
	assert_int_equal(d.mapped[2], 0);
	mem_write(&w, ecam(0, 1, PCI_BASE_ADDRESS_2), 4, 0x12001); /* above 64 KiB */
	assert_int_equal(d.mapped[2], 0);
	mem_write(&w, ecam(0, 1, PCI_BASE_ADDRESS_2), 4, 0xd001);
	assert_int_equal(d.mapped[2], 1);
	free_world(&w);
}

static void a_bar_that_fits_nowhere_is_refused_with_a_reason(void **state)
{
	struct world w = new_world(1);
	struct dev d;
	struct err err = { 0 };

	init_dev(&d);
	d.fn.bars[0].size = 1ull << 62;
	assert_int_equal(pci_add(w.pci, &d.fn, 0, PCI_SLOT_ANY, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "no room for BAR 0"));
	assert_int_equal(mem_read(&w, ecam(0, 1, 0), 4), 0xffffffff);
	free_world(&w);
}

static void the_windows_of_segments_do_not_touch(void **state)
{
	for (unsigned nr = 1; nr <= 96; nr++) {
		struct world w = new_world(nr);

		for (unsigned s = 0; s + 1 < nr; s++) {
			const struct pci_windows *a = pci_segment_windows(w.pci, s);
			const struct pci_windows *b = pci_segment_windows(w.pci, s + 1);

			assert_true(a->mmio32_size && a->mmio64_size);
			assert_true(a->mmio32 + a->mmio32_size <= b->mmio32);
			assert_true(a->mmio64 + a->mmio64_size <= b->mmio64);
			assert_true(b->mmio32 + b->mmio32_size <= LAYOUT_ECAM);
			assert_true(b->mmio64 + b->mmio64_size <= pci_platform_base(w.pci));
		}
		free_world(&w);
	}
}

static void the_hypertransport_hole_stays_free(void **state)
{
	static const unsigned bits[] = { 40, 42, 46, 48 };

	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++) {
		struct pci_params p = {
			.nr_segments = 1, .phys_bits = bits[i], .ram_top = 8 * GIB, .ht_hole = true
		};
		struct err err = { 0 };
		struct io_bus *bus;
		struct pci *pci;
		const struct pci_windows *win;

		assert_int_equal(io_bus_new(1, &bus), 0);
		assert_int_equal(pci_new(bus, &p, &pci, &err), 0);
		win = pci_segment_windows(pci, 0);
		assert_false(ranges_overlap(win->mmio64, win->mmio64_size, LAYOUT_HT_HOLE,
			LAYOUT_HT_HOLE_SIZE));
		assert_false(ranges_overlap(pci_platform_base(pci), MIB, LAYOUT_HT_HOLE,
			LAYOUT_HT_HOLE_SIZE));
		assert_true(win->mmio64_size > 900 * GIB);
		pci_free(pci);
		io_bus_free(bus);
	}
}

static void the_rise_of_one_bit_of_the_reset_control_register_resets(void **state)
{
	struct world w = new_world(1);

	resets = 0;
	assert_int_equal(port_read(&w, 0xcf9, 1), 0);
	port_write(&w, 0xcf9, 1, 0x02);
	port_write(&w, 0xcf9, 1, 0xf8);
	assert_int_equal(port_read(&w, 0xcf9, 1), 0x08);
	port_write(&w, 0xcf8, 4, 0x80000600); /* of the address */
	port_write(&w, 0xcf8, 2, 0x0600);
	port_write(&w, 0xcf9, 2, 0x0006);
	assert_int_equal(resets, 0);

	port_write(&w, 0xcf9, 1, 0x06);
	assert_int_equal(resets, 1);
	port_write(&w, 0xcf9, 1, 0x0e); /* it is up already */
	assert_int_equal(resets, 1);
	port_write(&w, 0xcf9, 1, 0x02);
	port_write(&w, 0xcf9, 1, 0x04);
	assert_int_equal(resets, 2);
	assert_int_equal(port_read(&w, 0xcf8, 4), 0x80000600 & 0x80fffffc);
	pci_reset(w.pci);
	assert_int_equal(port_read(&w, 0xcf9, 1), 0);
	free_world(&w);
}

static void what_others_go_through_is_reset_last(void **state)
{
	struct world w = new_world(2);
	struct dev d[3];
	struct err err = { 0 };

	for (unsigned i = 0; i < 3; i++)
		init_dev(&d[i]);
	d[1].fn.resets_last = true;
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pci_add(w.pci, &d[i].fn, i / 2, 1 + (int)i, &err), 0);
	io_enter(w.bus, w.reader);
	pci_reset(w.pci);
	io_leave(w.reader);
	assert_ptr_equal(last_reset, &d[1]);
	for (unsigned i = 0; i < 3; i++)
		pci_remove(w.pci, &d[i].fn);
	free_world(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ecam_and_ports_show_the_same_functions),
		cmocka_unit_test(a_write_that_comes_after_the_removal_is_lost),
		cmocka_unit_test(a_slot_is_taken_once_and_a_segment_has_31),
		cmocka_unit_test(bars_have_an_address_from_the_start_and_answer_once_decoded),
		cmocka_unit_test(sizing_shows_type_and_size),
		cmocka_unit_test(a_bar_follows_the_guest_and_never_leaves_the_windows),
		cmocka_unit_test(of_two_bars_at_one_place_the_second_waits_for_the_first_to_leave),
		cmocka_unit_test(an_io_bar_cannot_cover_the_platforms_ports),
		cmocka_unit_test(a_bar_that_fits_nowhere_is_refused_with_a_reason),
		cmocka_unit_test(the_windows_of_segments_do_not_touch),
		cmocka_unit_test(the_hypertransport_hole_stays_free),
		cmocka_unit_test(what_others_go_through_is_reset_last),
		cmocka_unit_test(the_rise_of_one_bit_of_the_reset_control_register_resets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
