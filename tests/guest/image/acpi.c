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

#define AML_EXT	      0x5b
#define AML_OP_REGION 0x80
#define AML_MEMORY    0x00
#define AML_ONE	      0x01
#define AML_DWORD     0x0c
#define AML_QWORD     0x0e

/*
 * No interpreter: the bytes of DefOpRegion (ACPI 6.3, 20.2.5.2) with a plain name, a constant
 * address and length One are looked for.
 */
static uint64_t one_byte_region(const uint8_t *p)
{
	unsigned width = p[7] == AML_QWORD ? 8 : p[7] == AML_DWORD ? 4 : 0;
	uint64_t addr = 0;

	if (p[0] != AML_EXT || p[1] != AML_OP_REGION || p[6] != AML_MEMORY || !width ||
		p[8 + width] != AML_ONE)
		return 0;
	memcpy(&addr, p + 8, width);
	return addr;
}

uint64_t acpi_event_device(void)
{
	uint64_t fadt = acpi_table("FACP", 0), dsdt = fadt ? read64(fadt + 140) : 0, found = 0;

	if (!dsdt || !length_sane(dsdt))
		return 0;
	for (uint32_t i = ACPI_HEADER_SIZE; i + 17 <= read32(dsdt + 4) && !found; i++)
		found = one_byte_region((const uint8_t *)dsdt + i);
	return found;
}
