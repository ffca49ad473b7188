/* test_acpi.c - the tables; options cpus= and segments= say what to expect */
#include "acpi.h"
#include "apic.h"
#include "boot.h"
#include "print.h"
#include "sys.h"
#include "tests.h"

static bool in_usable_ram(uint64_t addr)
{
	for (unsigned i = 0; i < boot.nr_e820; i++)
		if (boot.e820[i].type == E820_RAM && addr >= boot.e820[i].addr &&
			addr - boot.e820[i].addr < boot.e820[i].size)
			return true;
	return false;
}

static void check_rsdp(void)
{
	ok(!memcmp((const void *)boot.rsdp, "RSD PTR ", 8), "RSDP: signature");
	equal(acpi_sum(boot.rsdp, 20), 0, "RSDP: checksum of the first part");
	ok(read8(boot.rsdp + 15) >= 2, "RSDP: revision 2 or later");
	equal(read32(boot.rsdp + 20), 36, "RSDP: length");
	equal(acpi_sum(boot.rsdp, 36), 0, "RSDP: extended checksum");
	ok(!in_usable_ram(boot.rsdp), "RSDP: not in RAM that a guest may use");
}

static void check_table(uint64_t table)
{
	char name[5] = "";
	uint32_t len = read32(table + 4);

	memcpy(name, (const void *)table, 4);
	equal(acpi_sum(table, len), 0, "%s: checksum of %u bytes", name, len);
	ok(!in_usable_ram(table) && !in_usable_ram(table + len - 1), "%s: not in usable RAM", name);
}

static void check_fadt(void)
{
	uint64_t fadt = acpi_table("FACP", 0), dsdt;
	uint32_t flags, ticks;
	bool moved = false;

	if (!ok(fadt != 0, "there is an FADT"))
		return;
	ok(read32(fadt + 4) >= 268, "FADT: of ACPI 6 size");
	flags = read32(fadt + 112);
	ok(flags & 1u << 20, "FADT: HW_REDUCED_ACPI");
	ok(flags & 1u << 10, "FADT: RESET_REG_SUP");
	equal(read8(fadt + 116), 1, "FADT: the reset register is a port");
	equal(read64(fadt + 120), 0x600, "FADT: reset register");
	equal(read8(fadt + 128), 1, "FADT: reset value");
	equal(read64(fadt + 248), 0x600, "FADT: sleep control register");
	equal(read64(fadt + 260), 0x601, "FADT: sleep status register");
	if (read64(fadt + 212)) {
		equal(read64(fadt + 212), 0x608, "FADT: PM timer");
		ticks = inl(0x608);
		for (unsigned i = 0; i < 1000000 && !moved; i++)
			moved = inl(0x608) != ticks;
		ok(moved, "the PM timer ticks");
	}
	dsdt = read64(fadt + 140);
	if (!dsdt)
		dsdt = read32(fadt + 40);
	if (ok(dsdt && !memcmp((const void *)dsdt, "DSDT", 4), "there is a DSDT"))
		check_table(dsdt);
}

static void check_madt(void)
{
	uint64_t madt = acpi_table("APIC", 0), end;
	unsigned enabled = 0, ioapics = 0, own = 0;
	uint64_t want = boot_number("cpus", 0);
	bool sane = true;

	if (!ok(madt != 0, "there is a MADT"))
		return;
	equal(read32(madt + 36), LAPIC_BASE, "MADT: local APIC address");
	end = madt + read32(madt + 4);
	for (uint64_t e = madt + 44; e + 2 <= end; e += read8(e + 1)) {
		uint8_t type = read8(e), len = read8(e + 1);
		uint32_t id = type == 9 ? read32(e + 4) : read8(e + 3);

		if (len < 2 || e + len > end) {
			sane = false;
			break;
		}
		if ((type == 9 && read32(e + 8) & 1) || (type == 0 && read32(e + 4) & 1)) {
			enabled++;
			own += id == apic_id();
		}
		if (type == 1) {
			ioapics++;
			equal(read32(e + 4), IOAPIC_BASE, "MADT: IOAPIC address");
			equal(read32(e + 8), 0, "MADT: its first GSI");
		}
	}
	ok(sane, "MADT: the entries have sane lengths");
	equal(ioapics, 1, "MADT: one IOAPIC");
	equal(own, 1, "MADT: this CPU is in it once");
	if (want)
		equal(enabled, want, "MADT: enabled CPUs");
	equal((ioapic_read(1) >> 16 & 0xff) + 1, 24, "the IOAPIC has 24 pins");
}

static void check_mcfg(void)
{
	unsigned n = 0, segment, last_bus;
	uint64_t base, want = boot_number("segments", 1);
	bool in_order = true, one_bus = true, bridge = false;

	for (; (base = acpi_ecam(n, &segment, &last_bus)); n++) {
		in_order = in_order && segment == n && base == 0xe8000000 + n * 0x100000ull;
		one_bus = one_bus && last_bus == 0;
		if (!n)
			bridge = read32(base) == 0x0d578086;
	}
	equal(n, want, "MCFG: segments");
	ok(in_order, "MCFG: segments in order, 1 MiB apart");
	ok(one_bus, "MCFG: one bus each");
	ok(bridge, "the host bridge is 8086:0d57 at 00:00.0 of segment 0");
}

static void check_smbios(void)
{
	const uint64_t anchor = 0xf0000;

	if (!ok(!memcmp((const void *)anchor, "_SM3_", 5), "SMBIOS 3 anchor at 0xf0000"))
		return;
	equal(acpi_sum(anchor, read8(anchor + 6)), 0, "SMBIOS: checksum");
	ok(read64(anchor + 16) != 0, "SMBIOS: structure table");
}

void test_acpi(void)
{
	uint64_t table;
	unsigned n = 0;

	check_rsdp();
	for (; (table = acpi_xsdt_entry(n)); n++)
		check_table(table);
	ok(n >= 3, "the XSDT has at least FADT, MADT and MCFG");
	check_fadt();
	check_madt();
	check_mcfg();
	check_smbios();
	ok(acpi_event_device() >= 0x100000000, "DSDT: the event device is above 4 GiB");
}
