/*
 * acpi_test.c - the tables as a guest finds them: checksums, links, and what they say
 *
 * With an argument it writes the tables of several machines into that directory instead,
 * one file each, for acpi_iasl.sh.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>

#include "fake_memory.h"
#include "machine/acpi.h"

#define BASE 0xa0000ull

static const struct pci_windows window = {
	.io = 0x1000,
	.io_size = 0xf000,
	.mmio32 = LAYOUT_MMIO32,
	.mmio32_size = LAYOUT_MMIO32_SIZE,
	.mmio64 = 0x100000000,
	.mmio64_size = 0x3000000000,
};
static const struct pci_windows small_window = { .mmio32 = LAYOUT_MMIO32, .mmio32_size = 4 * MIB };
static const struct pci_windows *windows[LAYOUT_MAX_SEGMENTS];
static uint32_t sparse_ids[LAYOUT_MAX_VCPUS];

static struct acpi_params params(unsigned vcpus, unsigned segments)
{
	for (unsigned i = 0; i < LAYOUT_MAX_SEGMENTS; i++)
		windows[i] = i == 0 ? &window : &small_window;
	return (struct acpi_params){
		.boot_vcpus = vcpus,
		.max_vcpus = vcpus,
		.nr_segments = segments,
		.windows = windows,
		.platform_base = 0x3fffffef0000,
		.serial = true,
	};
}

struct tables {
	uint8_t *bytes;
	size_t size;
};

static struct tables build(const struct acpi_params *p)
{
	struct tables t = { 0 };

	assert_int_equal(acpi_build(p, BASE, &t.bytes, &t.size), 0);
	return t;
}

static uint32_t u32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t u64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint8_t sum(const uint8_t *p, size_t size)
{
	uint8_t s = 0;

	while (size--)
		s = (uint8_t)(s + *p++);
	return s;
}

/* The table at guest address gpa, with its length inside the image. */
static const uint8_t *table_at(const struct tables *t, uint64_t gpa)
{
	assert_true(gpa >= BASE && range_ok(gpa - BASE, 36, t->size));
	assert_true(range_ok(gpa - BASE, u32(t->bytes + (gpa - BASE) + 4), t->size));
	return t->bytes + (gpa - BASE);
}

static const uint8_t *find(const struct tables *t, const char *signature)
{
	const uint8_t *xsdt = table_at(t, u64(t->bytes + 24));

	for (size_t off = 36; off < u32(xsdt + 4); off += 8) {
		const uint8_t *table = table_at(t, u64(xsdt + off));

		if (!memcmp(table, signature, 4))
			return table;
		if (!memcmp(table, "FACP", 4) && !memcmp(signature, "DSDT", 4))
			return table_at(t, u64(table + 140));
	}
	fail_msg("no %s", signature);
	return NULL;
}

static void all_checksums_are_right(void **state)
{
	static const char *const signatures[] = { "FACP", "DSDT", "APIC", "MCFG" };
	struct acpi_params p = params(4, 2);
	struct tables t = build(&p);

	assert_memory_equal(t.bytes, "RSD PTR ", 8);
	assert_int_equal(t.bytes[15], 2);
	assert_int_equal(u32(t.bytes + 20), 36);
	assert_int_equal(sum(t.bytes, 20), 0);
	assert_int_equal(sum(t.bytes, 36), 0);
	assert_memory_equal(table_at(&t, u64(t.bytes + 24)), "XSDT", 4);
	for (size_t i = 0; i < ARRAY_SIZE(signatures); i++) {
		const uint8_t *table = find(&t, signatures[i]);

		assert_memory_equal(table, signatures[i], 4);
		assert_int_equal(sum(table, u32(table + 4)), 0);
	}
	free(t.bytes);
}

static void fadt_describes_a_hardware_reduced_machine(void **state)
{
	struct acpi_params p = params(1, 1);
	struct tables t = build(&p);
	const uint8_t *fadt = find(&t, "FACP");

	assert_int_equal(u32(fadt + 4), 276);
	assert_int_equal(fadt[8], 6);
	assert_int_equal(fadt[131], 3);
	assert_true(u32(fadt + 112) & (1 << 20)); /* HW_REDUCED_ACPI */
	assert_true(u32(fadt + 112) & (1 << 10)); /* RESET_REG_SUP */
	assert_int_equal(fadt[109] & 2, 0);	  /* no keyboard controller */
	assert_int_equal(fadt[116], 1);		  /* reset register: I/O space */
	assert_int_equal(u64(fadt + 120), PORT_SLEEP);
	assert_int_equal(fadt[128], 1); /* its value */
	assert_int_equal(u64(fadt + 208 + 4), PORT_PM_TIMER);
	assert_int_equal(u64(fadt + 244 + 4), PORT_SLEEP);
	assert_int_equal(u64(fadt + 256 + 4), PORT_SLEEP_STATUS);
	assert_int_equal(u32(fadt + 40), u64(fadt + 140)); /* DSDT, both forms */
	free(t.bytes);
}

/* Call fn for each entry of the MADT's list. */
static void each_madt_entry(
	const uint8_t *madt, void (*fn)(const uint8_t *entry, void *arg), void *arg)
{
	size_t off = 44;

	while (off < u32(madt + 4)) {
		assert_true(madt[off + 1] >= 6 && off + madt[off + 1] <= u32(madt + 4));
		fn(madt + off, arg);
		off += madt[off + 1];
	}
}

struct madt {
	unsigned cpus, enabled, online_capable, x2apic, ioapics, overrides;
	uint32_t last_id;
};

static void count_entry(const uint8_t *e, void *arg)
{
	struct madt *m = arg;
	uint32_t flags = e[0] == 9 ? u32(e + 8) : u32(e + 4);

	switch (e[0]) {
	case 9:
		m->x2apic++;
		__attribute__((fallthrough));
	case 0:
		m->cpus++;
		m->enabled += flags == 1;
		m->online_capable += flags == 2;
		m->last_id = e[0] == 9 ? u32(e + 4) : e[3];
		break;
	case 1:
		m->ioapics++;
		assert_int_equal(u32(e + 4), LAYOUT_IOAPIC);
		break;
	case 2:
		m->overrides++;
		assert_int_equal(e[3], u32(e + 4)); /* one to one */
		break;
	}
}

static void madt_lists_present_and_possible_processors(void **state)
{
	struct acpi_params p = params(4, 1);
	struct tables t;
	struct madt m = { 0 };

	p.max_vcpus = 8;
	t = build(&p);
	each_madt_entry(find(&t, "APIC"), count_entry, &m);
	assert_int_equal(m.cpus, 8);
	assert_int_equal(m.enabled, 4);
	assert_int_equal(m.online_capable, 4);
	assert_int_equal(m.x2apic, 0);
	assert_int_equal(m.last_id, 7);
	assert_int_equal(m.ioapics, 1);
	assert_int_equal(m.overrides, 2); /* COM1, GED */
	free(t.bytes);
}

static void ids_from_255_on_are_x2apic_entries(void **state)
{
	struct acpi_params p = params(254, 1);
	struct tables t;
	struct madt m = { 0 };

	for (unsigned i = 0; i < 254; i++)
		sparse_ids[i] = i / 3 * 4 + i % 3; /* three cores in room for four */
	p.apic_ids = sparse_ids;
	t = build(&p);
	each_madt_entry(find(&t, "APIC"), count_entry, &m);
	assert_int_equal(m.cpus, 254);
	assert_int_equal(m.last_id, sparse_ids[253]);
	assert_int_equal(m.x2apic, 254 - 192); /* vCPU 192 is the first with an id of 256 */
	free(t.bytes);
}

static void mcfg_has_one_bus_a_segment(void **state)
{
	struct acpi_params p = params(1, 96);
	struct tables t = build(&p);
	const uint8_t *mcfg = find(&t, "MCFG");

	assert_int_equal(u32(mcfg + 4), 44 + 16 * 96);
	for (unsigned i = 0; i < 96; i++) {
		const uint8_t *e = mcfg + 44 + 16 * i;

		assert_int_equal(u64(e), LAYOUT_ECAM + i * MIB);
		assert_int_equal(e[8] | e[9] << 8, i);
		assert_int_equal(e[10], 0);
		assert_int_equal(e[11], 0);
	}
	free(t.bytes);
}

static bool contains(const uint8_t *table, const char *bytes, size_t size)
{
	return memmem(table, u32(table + 4), bytes, size);
}

static void serial_port_is_named_only_when_there_is_one(void **state)
{
	struct acpi_params p = params(1, 1);
	struct tables t = build(&p);
	struct madt m = { 0 };

	assert_true(contains(find(&t, "DSDT"), "COM1", 4));
	free(t.bytes);
	p.serial = false;
	t = build(&p);
	assert_false(contains(find(&t, "DSDT"), "COM1", 4));
	each_madt_entry(find(&t, "APIC"), count_entry, &m);
	assert_int_equal(m.overrides, 1);
	free(t.bytes);
}

static void interrupt_routes_are_those_of_the_pci_core(void **state)
{
	for (unsigned slot = 0; slot < LAYOUT_PCI_SLOTS; slot++) {
		struct pci_function fn = { .slot = (uint8_t)slot, .segment = 3 };

		assert_int_equal(acpi_intx_gsi(slot), pci_intx_gsi(&fn));
	}
}

static void tables_are_installed_where_the_rsdp_says(void **state)
{
	struct memory *m = fake_memory_new(2 * MIB);
	struct acpi_params p = params(2, 1);
	struct err err = { 0 };
	uint64_t rsdp = 0;
	uint8_t *smbios;

	assert_int_equal(acpi_install(&p, m, &rsdp, &err), 0);
	assert_int_equal(rsdp, LAYOUT_RSDP);
	assert_memory_equal(memory_ptr(m, rsdp, 8), "RSD PTR ", 8);
	assert_memory_equal(memory_ptr(m, u64(memory_ptr(m, rsdp + 24, 8)), 4), "XSDT", 4);
	smbios = memory_ptr(m, LAYOUT_SMBIOS, 4096);
	assert_memory_equal(smbios, "_SM3_", 5);
	assert_int_equal(sum(smbios, smbios[6]), 0);
	assert_int_equal(u64(smbios + 16), LAYOUT_SMBIOS + 32);
	fake_memory_free(m);
}

static void largest_machine_fits_and_ram_must_reach_there(void **state)
{
	struct memory *m = fake_memory_new(512 * KIB);
	struct acpi_params p = params(LAYOUT_MAX_VCPUS, LAYOUT_MAX_SEGMENTS);
	struct tables t;
	struct err err = { 0 };
	uint64_t rsdp;

	p.intremap = true;
	t = build(&p);
	assert_true(t.size <= LAYOUT_ACPI_MAX);
	free(t.bytes);
	assert_int_equal(acpi_install(&p, m, &rsdp, &err), -EFAULT);
	assert_non_null(strstr(err.text, "guest RAM"));
	fake_memory_free(m);
}

static void dmar_has_a_unit_a_segment_and_the_ioapic_in_the_first(void **state)
{
	struct acpi_params p = params(1, 3);
	struct tables t = build(&p);
	const uint8_t *dmar, *unit;

	for (const uint8_t *xsdt = table_at(&t, u64(t.bytes + 24)), *e = xsdt + 36;
		e < xsdt + u32(xsdt + 4); e += 8)
		assert_memory_not_equal(table_at(&t, u64(e)), "DMAR", 4);
	free(t.bytes);
	p.intremap = true;
	p.phys_bits = 46;
	t = build(&p);
	dmar = find(&t, "DMAR");
	assert_int_equal(u32(dmar + 4), 48 + 3 * 16 + 8);
	assert_int_equal(dmar[36], 45);
	assert_int_equal(dmar[37], 1); /* interrupts are remapped, x2APIC is not opted out of */
	unit = dmar + 48;
	for (unsigned i = 0; i < 3; i++) {
		unsigned size = i ? 16 : 24;

		assert_int_equal(u32(unit), size << 16);
		assert_int_equal(u32(unit + 4), 1 | i << 16); /* all functions of the segment */
		assert_int_equal(u64(unit + 8), LAYOUT_INTREMAP + i * 0x1000);
		if (!i)
			assert_memory_equal(unit + 16, "\3\10\0\0\0\377\0\0", 8);
		unit += size;
	}
	free(t.bytes);
}

/* ---- for iasl ---- */

static int dump_table(const char *dir, unsigned machine, const uint8_t *table)
{
	uint32_t size = u32(table + 4);
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%u-%.4s.aml", dir, machine, (const char *)table);
	f = fopen(path, "w");
	if (!f || fwrite(table, 1, size, f) != size || fclose(f)) {
		perror(path);
		return 1;
	}
	return 0;
}

static int dump(const char *dir)
{
	struct acpi_params machines[] = { params(1, 1), params(4, 2),
		params(LAYOUT_MAX_VCPUS, LAYOUT_MAX_SEGMENTS) };

	machines[0].serial = false;
	machines[1].max_vcpus = 8;
	for (unsigned i = 0; i < LAYOUT_MAX_VCPUS; i++)
		sparse_ids[i] = 2 * i;
	machines[2].apic_ids = sparse_ids;
	for (unsigned i = 1; i <= 2; i++) {
		machines[i].intremap = true;
		machines[i].phys_bits = 46;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(machines); i++) {
		struct tables t = build(&machines[i]);
		const uint8_t *xsdt = table_at(&t, u64(t.bytes + 24));
		int failed = dump_table(dir, i, xsdt) | dump_table(dir, i, find(&t, "DSDT"));

		for (size_t off = 36; off < u32(xsdt + 4); off += 8)
			failed |= dump_table(dir, i, table_at(&t, u64(xsdt + off)));
		free(t.bytes);
		if (failed)
			return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_checksums_are_right),
		cmocka_unit_test(fadt_describes_a_hardware_reduced_machine),
		cmocka_unit_test(madt_lists_present_and_possible_processors),
		cmocka_unit_test(ids_from_255_on_are_x2apic_entries),
		cmocka_unit_test(mcfg_has_one_bus_a_segment),
		cmocka_unit_test(serial_port_is_named_only_when_there_is_one),
		cmocka_unit_test(interrupt_routes_are_those_of_the_pci_core),
		cmocka_unit_test(tables_are_installed_where_the_rsdp_says),
		cmocka_unit_test(largest_machine_fits_and_ram_must_reach_there),
		cmocka_unit_test(dmar_has_a_unit_a_segment_and_the_ioapic_in_the_first),
	};

	if (argc > 1)
		return dump(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
