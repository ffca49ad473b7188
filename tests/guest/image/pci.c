/* pci.c - see pci.h. PCI 3.0, chapter 6; PCI Express 5.0, 7.2.2 for ECAM */
#include "pci.h"

#include "acpi.h"
#include "sys.h"

uint64_t pci_function(unsigned segment, unsigned bus, unsigned slot, unsigned function)
{
	unsigned number, last_bus;
	uint64_t base;

	for (unsigned i = 0; (base = acpi_ecam(i, &number, &last_bus)); i++)
		if (number == segment && bus <= last_bus)
			return base + ((uint64_t)bus << 20 | slot << 15 | function << 12);
	return 0;
}

uint64_t pci_find(uint16_t vendor, uint16_t device, unsigned n)
{
	unsigned segment, last_bus;
	uint64_t base;

	for (unsigned i = 0; (base = acpi_ecam(i, &segment, &last_bus)); i++)
		for (unsigned slot = 0; slot < 32; slot++) {
			uint64_t fn = base + (slot << 15);

			if (read32(fn) == (vendor | (uint32_t)device << 16) && n-- == 0)
				return fn;
		}
	return 0;
}

unsigned pci_slot(uint64_t fn)
{
	return fn >> 15 & 31;
}

unsigned pci_intx_pin(uint64_t fn)
{
	return 16 + pci_slot(fn) % 8;
}

void pci_command(uint64_t fn, uint16_t set, uint16_t clear)
{
	uint16_t command = read16(fn + PCI_COMMAND);

	write16(fn + PCI_COMMAND, (uint16_t)((command | set) & ~clear));
}

static void port_address(unsigned bus, unsigned slot, unsigned off)
{
	outl(0xcf8, 0x80000000 | bus << 16 | slot << 11 | (off & 0xfc));
}

uint32_t pci_port_read(unsigned bus, unsigned slot, unsigned off, unsigned size)
{
	uint16_t port = (uint16_t)(0xcfc + (off & 3));

	port_address(bus, slot, off);
	return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}

void pci_port_write(unsigned bus, unsigned slot, unsigned off, unsigned size, uint32_t value)
{
	uint16_t port = (uint16_t)(0xcfc + (off & 3));

	port_address(bus, slot, off);
	if (size == 1)
		outb(port, (uint8_t)value);
	else if (size == 2)
		outw(port, (uint16_t)value);
	else
		outl(port, value);
}

struct bar pci_bar(uint64_t fn, unsigned index)
{
	uint64_t reg = fn + (index == 6 ? PCI_ROM : PCI_BAR0 + 4 * index);
	uint16_t command = read16(fn + PCI_COMMAND);
	uint32_t low = read32(reg), mask;
	struct bar bar = { 0 };

	pci_command(fn, 0, PCI_COMMAND_IO | PCI_COMMAND_MEM);
	write32(reg, index == 6 ? 0xfffff800 : UINT32_MAX);
	mask = read32(reg);
	write32(reg, low);
	bar.io = index != 6 && mask & 1;
	if (bar.io) {
		bar.addr = low & 0xfffc;
		bar.size = mask ? -(mask & 0xfffc) & 0xffff : 0;
	} else {
		uint64_t flags = index == 6 ? 0x7ff : 0xf;
		uint64_t size_mask = mask & ~flags;

		bar.addr = low & ~flags;
		bar.prefetch = index != 6 && mask & 8;
		if (index < 5 && (mask & 6) == 4) {
			uint32_t high = read32(reg + 4);

			bar.wide = true;
			write32(reg + 4, UINT32_MAX);
			size_mask |= (uint64_t)read32(reg + 4) << 32;
			write32(reg + 4, high);
			bar.addr |= (uint64_t)high << 32;
			bar.size = -size_mask;
		} else {
			bar.size = size_mask ? (uint32_t)-size_mask : 0;
		}
	}
	write16(fn + PCI_COMMAND, command);
	if (bar.size && !bar.io)
		sys_map(bar.addr, bar.size);
	return bar;
}

void pci_bar_move(uint64_t fn, unsigned index, const struct bar *bar, uint64_t addr)
{
	uint64_t reg = fn + (index == 6 ? PCI_ROM : PCI_BAR0 + 4 * index);

	write32(reg, (uint32_t)addr | (index == 6 ? 1 : 0));
	if (bar->wide)
		write32(reg + 4, (uint32_t)(addr >> 32));
}

uint64_t bar_read(const struct bar *bar, uint64_t off, unsigned size)
{
	uint64_t addr = bar->addr + off;

	switch (size) {
	case 1:
		return bar->io ? inb((uint16_t)addr) : read8(addr);
	case 2:
		return bar->io ? inw((uint16_t)addr) : read16(addr);
	case 4:
		return bar->io ? inl((uint16_t)addr) : read32(addr);
	default:
		return read64(addr);
	}
}

void bar_write(const struct bar *bar, uint64_t off, unsigned size, uint64_t value)
{
	uint64_t addr = bar->addr + off;

	if (bar->io) {
		if (size == 1)
			outb((uint16_t)addr, (uint8_t)value);
		else if (size == 2)
			outw((uint16_t)addr, (uint16_t)value);
		else
			outl((uint16_t)addr, (uint32_t)value);
	} else if (size == 1) {
		write8(addr, (uint8_t)value);
	} else if (size == 2) {
		write16(addr, (uint16_t)value);
	} else if (size == 4) {
		write32(addr, (uint32_t)value);
	} else {
		write64(addr, value);
	}
}

unsigned pci_capability(uint64_t fn, uint8_t id)
{
	unsigned off;

	if (!(read16(fn + PCI_STATUS) & PCI_STATUS_CAPS))
		return 0;
	off = read8(fn + PCI_CAP_PTR) & 0xfc;
	for (unsigned i = 0; off >= 0x40 && i < 48; i++) {
		if (read8(fn + off) == id)
			return off;
		off = read8(fn + off + 1) & 0xfc;
	}
	return 0;
}
