/*
 * test_pci.c - configuration space of every segment, and the BARs of what is there
 *
 * Option devices= says how many functions there must be besides the host bridge.
 */
#include "acpi.h"
#include "boot.h"
#include "pci.h"
#include "print.h"
#include "sys.h"
#include "tests.h"

static void check_bridge(uint64_t fn)
{
	equal(read16(fn), 0x8086, "host bridge: vendor");
	equal(read16(fn + 2), 0x0d57, "host bridge: device");
	equal(read16(fn + 0x0a), 0x0600, "host bridge: class");
	equal(read8(fn + 0x0e), 0, "host bridge: header type");
	for (unsigned i = 0; i < 6; i++)
		if (read32(fn + PCI_BAR0 + 4 * i))
			ok(false, "host bridge: BAR %u is not zero", i);
	write32(fn, 0);
	equal(read32(fn), 0x0d578086, "host bridge: its ids cannot be written");
}

/* Each register by each width, aligned or not, gives the same bytes. */
static void check_widths(uint64_t fn, const char *name)
{
	unsigned wrong[4] = { 0 };
	uint8_t bytes[264];

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = read8(fn + i);
	for (unsigned i = 0; i < 256; i++) {
		wrong[0] += read8(fn + i) != bytes[i];
		wrong[1] += read16(fn + i) != *(uint16_t *)(bytes + i);
		wrong[2] += read32(fn + i) != *(uint32_t *)(bytes + i);
		wrong[3] += read64(fn + i) != *(uint64_t *)(bytes + i);
	}
	for (unsigned i = 0; i < 4; i++)
		equal(wrong[i], 0, "%s: ECAM reads of %u bytes agree with bytes", name, 1u << i);
}

static void check_ports(uint64_t fn, const char *name)
{
	unsigned slot = pci_slot(fn), wrong = 0;
	uint8_t line = read8(fn + PCI_INT_LINE);

	for (unsigned off = 0; off < 256; off += 4)
		wrong += pci_port_read(0, slot, off, 4) != read32(fn + off);
	equal(wrong, 0, "%s: ports and ECAM give the same dwords", name);
	wrong = 0;
	for (unsigned off = 0; off < 64; off++) {
		wrong += pci_port_read(0, slot, off, 1) != read8(fn + off);
		if ((off & 3) != 3)
			wrong += pci_port_read(0, slot, off, 2) != read16(fn + off);
	}
	equal(wrong, 0, "%s: and bytes and words, also unaligned ones", name);
	pci_port_write(0, slot, PCI_INT_LINE, 1, 0x77);
	equal(read8(fn + PCI_INT_LINE), 0x77, "%s: a byte written by the ports", name);
	pci_port_write(0, slot, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	equal(read16(fn + PCI_COMMAND), PCI_COMMAND_MASTER, "%s: a word", name);
	pci_port_write(0, slot, PCI_COMMAND, 4, 0);
	equal(read16(fn + PCI_COMMAND), 0, "%s: a dword", name);
	pci_port_write(0, slot, PCI_INT_LINE, 1, line);
}

/* The address register by odd accesses, and data accesses that leave the data port. */
static void check_port_edges(void)
{
	outl(0xcf8, 0x80000000);
	equal(inl(0xcf8), 0x80000000, "0xcf8 reads back");
	outb(0xcf8, 0x08);
	outw(0xcf9, 0x00);
	equal(inl(0xcf8), 0x80000000, "0xcf8 takes dwords only");
	equal(inl(0xcfc), 0x0d578086, "0xcfc shows the host bridge");
	outl(0xcf8, 0);
	equal(inl(0xcfc), UINT32_MAX, "without the enable bit all ones");
	outl(0xcf8, 0x80000000);
	inl(0xcfd);
	inl(0xcff);
	outl(0xcfe, 0);
	ok(true, "accesses across the end of the data port do no harm");
	equal(inl(0xcfc), 0x0d578086, "0xcfc still works");
}

static void check_absent(uint64_t base)
{
	unsigned present = 0, functions = 0;

	for (unsigned slot = 0; slot < 32; slot++) {
		uint64_t fn = base + (slot << 15);

		if (read32(fn) == UINT32_MAX) {
			write32(fn + PCI_COMMAND, UINT32_MAX);
			present += read32(fn + PCI_COMMAND) != UINT32_MAX;
		}
		for (unsigned f = 1; f < 8; f++)
			functions += read32(fn + (f << 12)) != UINT32_MAX;
	}
	equal(present, 0, "absent slots stay all ones");
	equal(functions, 0, "functions 1 to 7 are all ones");
	equal(read64(base + (31 << 15 | 7 << 12) + 0xff8), UINT64_MAX,
		"up to the end of the segment");
}

static void check_other_buses(void)
{
	unsigned found = 0;

	for (unsigned bus = 1; bus < 256; bus += 51)
		for (unsigned slot = 0; slot < 32; slot += 3)
			found += pci_port_read(bus, slot, 0, 4) != UINT32_MAX;
	equal(found, 0, "other buses by the ports: all ones");
}

/* Move a BAR about and leave it where it was. `reg` is a place in it that reads otherwise than all
 * ones. */
static void check_bar_moves(uint64_t fn, unsigned index, const struct bar *bar)
{
	uint64_t io_places[] = { 0x0, 0x60, 0x3f8 & ~(bar->size - 1), 0xc00, 0xff00, 0xcf8 };
	uint64_t mem_places[] = { 0, 0x1000000, 0xe8000000, 0xfec00000, 0xfee00000, 0xfffff000,
		0xc0000000, 1ull << 33, 1ull << 45, ~0ull << 20 };
	const uint64_t *places = bar->io ? io_places : mem_places;
	unsigned n = bar->io ? ARRAY_SIZE(io_places) : ARRAY_SIZE(mem_places);

	for (unsigned i = 0; i < n; i++)
		pci_bar_move(fn, index, bar, places[i]);
	outb(0x80, 0);
	pci_bar_move(fn, index, bar, bar->addr);
}

/* All BARs so far, as found: no two may share an address. */
static struct bar placed[256];
static unsigned nr_placed;

static bool shares_address(const struct bar *bar)
{
	for (unsigned i = 0; i < nr_placed; i++)
		if (placed[i].io == bar->io && bar->addr < placed[i].addr + placed[i].size &&
			placed[i].addr < bar->addr + bar->size)
			return true;
	if (nr_placed < ARRAY_SIZE(placed))
		placed[nr_placed++] = *bar;
	return false;
}

static void check_bars(uint64_t fn, unsigned segment, const char *name)
{
	for (unsigned i = 0; i < 7; i++) {
		struct bar bar = pci_bar(fn, i), again;

		if (!bar.size)
			continue;
		note("%s: BAR %u %s 0x%lx + 0x%lx%s%s", name, i, bar.io ? "I/O" : "memory",
			bar.addr, bar.size, bar.wide ? " 64-bit" : "",
			bar.prefetch ? " prefetchable" : "");
		ok(!(bar.size & (bar.size - 1)), "%s: BAR %u: the size is a power of two", name, i);
		if (bar.io && segment) {
			equal(bar.addr, 0, "%s: BAR %u: there is no I/O space here", name, i);
			continue;
		}
		ok(bar.addr && !(bar.addr & (bar.size - 1)),
			"%s: BAR %u: it has an aligned address", name, i);
		ok(!shares_address(&bar), "%s: BAR %u: it shares no address with another", name, i);
		pci_command(fn, PCI_COMMAND_IO | PCI_COMMAND_MEM, 0);
		check_bar_moves(fn, i, &bar);
		again = pci_bar(fn, i);
		ok(again.addr == bar.addr && again.size == bar.size,
			"%s: BAR %u: moved all over and back", name, i);
		pci_command(fn, 0, PCI_COMMAND_IO | PCI_COMMAND_MEM);
		if (bar.wide)
			i++;
	}
}

static void check_capabilities(uint64_t fn, const char *name)
{
	unsigned off = read8(fn + PCI_CAP_PTR), n = 0;

	if (!(read16(fn + PCI_STATUS) & PCI_STATUS_CAPS))
		return;
	for (; off && n < 49; n++) {
		note("%s: capability 0x%x at 0x%x", name, read8(fn + off), off);
		if (!ok(off >= 0x40 && !(off & 3), "%s: capability %u is in its place", name, n))
			return;
		off = read8(fn + off + 1);
	}
	ok(n < 49, "%s: the list of capabilities ends", name);
}

static void check_function(uint64_t fn, unsigned segment)
{
	char name[] = "function 00.00";
	uint8_t line;

	name[9] = (char)('0' + segment / 10);
	name[10] = (char)('0' + segment % 10);
	name[12] = (char)('0' + pci_slot(fn) / 10);
	name[13] = (char)('0' + pci_slot(fn) % 10);
	note("%s: %04x:%04x class 0x%06x header 0x%x", name, read16(fn), read16(fn + 2),
		read32(fn + 8) >> 8, read8(fn + 0x0e));
	equal(read8(fn + 0x0e), 0, "%s: header type", name);
	check_widths(fn, name);
	if (!segment)
		check_ports(fn, name);
	check_bars(fn, segment, name);
	check_capabilities(fn, name);
	if (read8(fn + PCI_INT_PIN))
		equal(read8(fn + PCI_INT_LINE), pci_intx_pin(fn), "%s: interrupt line", name);
	line = read8(fn + PCI_INT_LINE);
	write8(fn + PCI_INT_LINE, (uint8_t)~line);
	equal(read8(fn + PCI_INT_LINE), (uint8_t)~line, "%s: the interrupt line can be written",
		name);
	write8(fn + PCI_INT_LINE, line);
}

void test_pci(void)
{
	unsigned segment, last_bus, devices = 0;
	uint64_t base, end = 0;

	check_bridge(pci_function(0, 0, 0, 0));
	check_port_edges();
	check_other_buses();
	for (unsigned i = 0; (base = acpi_ecam(i, &segment, &last_bus)); i++) {
		for (unsigned slot = segment ? 0 : 1; slot < 32; slot++) {
			if (read32(base + (slot << 15)) == UINT32_MAX)
				continue;
			devices++;
			check_function(base + (slot << 15), segment);
		}
		check_absent(base);
		end = base + 0x100000;
	}
	equal(devices, boot_number("devices", devices), "functions besides the host bridge");
	if (end && end < 0xf8000000) {
		equal(read32(end), UINT32_MAX, "past the last segment: all ones");
		equal(read64(end - 4) >> 32, UINT32_MAX, "also across its edge");
	}
}
