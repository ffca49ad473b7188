/* acpi.c - see acpi.h. Offsets of ACPI 6.3, 5.2, and the PCI Firmware Specification 3.2, 4.1.2 */
#include "acpi.h"

#include "boot.h"
#include "print.h"
#include "sys.h"

uint8_t acpi_sum(uint64_t addr, uint64_t len)
{
	uint8_t sum = 0;

	for (uint64_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + read8(addr + i));
	return sum;
}

static bool length_sane(uint64_t table)
{
	uint32_t len = read32(table + 4);

	return len >= ACPI_HEADER_SIZE && len <= 0x100000;
}

uint64_t acpi_xsdt_entry(unsigned i)
{
	uint64_t xsdt = boot.rsdp ? read64(boot.rsdp + 24) : 0, table;

	if (!xsdt || memcmp((const void *)xsdt, "XSDT", 4) || !length_sane(xsdt) ||
		i >= (read32(xsdt + 4) - ACPI_HEADER_SIZE) / 8)
		return 0;
	table = read64(xsdt + ACPI_HEADER_SIZE + 8 * i);
	return table && table < 0x100000000 && length_sane(table) ? table : 0;
}

uint64_t acpi_table(const char *signature, unsigned n)
{
	uint64_t table;

	for (unsigned i = 0; (table = acpi_xsdt_entry(i)); i++)
		if (!memcmp((const void *)table, signature, 4) && n-- == 0)
			return table;
	return 0;
}

uint64_t acpi_ecam(unsigned i, unsigned *segment, unsigned *last_bus)
{
	uint64_t mcfg = acpi_table("MCFG", 0), entry = mcfg + 44 + 16 * i;

	if (!mcfg || i >= (read32(mcfg + 4) - 44) / 16)
		return 0;
	*segment = read16(entry + 8);
	*last_bus = read8(entry + 11);
	return read64(entry);
}

/* 64 KiB below the top of the address space are kept free, the area is the 1 MiB below them. */
uint64_t acpi_platform_base(void)
{
	uint64_t top = 1ull << (sys_cpuid(0x80000008, 0).eax & 0xff);

	return top - 0x10000 - 0x100000;
}
