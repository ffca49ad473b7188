/*
 * test_device.c - a function in another process that has one of everything (device/exerciser.h)
 *
 * Interrupts of all kinds and their masks, BARs that are trapped, mapped, moved and
 * switched off, doorbells, DMA, the ROM, and accesses of every width.
 */
#include "../device/exerciser.h"
#include "apic.h"
#include "boot.h"
#include "pci.h"
#include "print.h"
#include "sys.h"
#include "tests.h"

#define VECTOR_DEVICE 0x90 /* to 0x97 */

static uint64_t fn;
static struct bar bar0, table, ports, whole, rom;

static uint32_t get(unsigned reg)
{
	return read32(bar0.addr + reg);
}

static void put(unsigned reg, uint32_t value)
{
	write32(bar0.addr + reg, value);
}

static bool find_device(void)
{
	fn = pci_find(EXERCISER_VENDOR, EXERCISER_DEVICE, 0);
	if (!ok(fn != 0, "there is an exerciser"))
		return false;
	bar0 = pci_bar(fn, 0);
	table = pci_bar(fn, 2);
	ports = pci_bar(fn, 3);
	whole = pci_bar(fn, 4);
	rom = pci_bar(fn, 6);
	ok(bar0.wide && !bar0.io && bar0.size == EXERCISER_BAR0_SIZE, "BAR 0: 64-bit memory");
	ok(!table.wide && !table.io && table.size == EXERCISER_BAR2_SIZE, "BAR 2: 32-bit memory");
	ok(ports.io && ports.size == EXERCISER_BAR3_SIZE, "BAR 3: I/O");
	ok(whole.prefetch && whole.size == EXERCISER_BAR4_SIZE, "BAR 4: prefetchable memory");
	equal(rom.size, EXERCISER_ROM_SIZE, "the ROM");
	pci_command(fn, PCI_COMMAND_IO | PCI_COMMAND_MEM | PCI_COMMAND_MASTER, 0);
	return equal(get(EXERCISER_REG_ID), EXERCISER_ID, "it answers");
}

/* --- accesses --- */

static void check_width(unsigned off, unsigned size, uint64_t value)
{
	uint64_t mask = size == 8 ? ~0ull : (1ull << 8 * size) - 1, want = 0;

	for (unsigned i = size; i--;)
		want = want << 8 | (uint8_t)(off + i);
	bar_write(&bar0, off, size, value);
	ok(get(EXERCISER_REG_LAST_OFF) == off && get(EXERCISER_REG_LAST_LEN) == size &&
			read64(bar0.addr + EXERCISER_REG_LAST_DATA) == (value & mask),
		"a write of %u bytes at 0x%x arrives as it is", size, off);
	equal(bar_read(&bar0, off, size), want, "a read of %u bytes at 0x%x", size, off);
}

static void check_widths(void)
{
	uint32_t writes;

	for (unsigned size = 1; size <= 8; size *= 2)
		check_width(EXERCISER_WINDOW + 0x10 * size, size, 0x1122334455667788);
	check_width(EXERCISER_WINDOW + 0x101, 2, 0xabcd);
	check_width(EXERCISER_WINDOW + 0x103, 4, 0x89abcdef);
	/* Across the page: KVM makes two of it, each whole. */
	writes = get(EXERCISER_REG_WRITES);
	write32(bar0.addr + EXERCISER_WINDOW + EXERCISER_WINDOW_SIZE - 2, 0x11223344);
	equal(get(EXERCISER_REG_WRITES), writes + 1, "a write across pages: the first half");
	equal(read16(bar0.addr + EXERCISER_SHARED), 0x1122, "and the second");
	/* 16 bytes at once */
	writes = get(EXERCISER_REG_WRITES);
	asm volatile("movdqu (%0), %%xmm0; movdqu %%xmm0, 16(%0)"
		     :
		     : "r"(bar0.addr + EXERCISER_WINDOW)
		     : "memory");
	ok(get(EXERCISER_REG_WRITES) > writes, "16 bytes at once arrive in parts");
	put(EXERCISER_REG_SCRATCH, 0xdeadbeef);
	equal(read16(bar0.addr + EXERCISER_REG_SCRATCH + 2), 0xdead, "half a register");
}

static void check_ports(void)
{
	for (unsigned i = 0; i < EXERCISER_BAR3_SIZE; i++)
		bar_write(&ports, i, 1, i * 3);
	equal(bar_read(&ports, 8, 4), 0x211e1b18, "I/O: bytes written, a dword read");
	bar_write(&ports, 13, 2, 0xa55a);
	equal(bar_read(&ports, 13, 1), 0x5a, "I/O: an unaligned word");
	pci_command(fn, 0, PCI_COMMAND_MEM);
	equal(bar_read(&ports, 8, 4), 0x211e1b18, "I/O: does not depend on memory decode");
	pci_command(fn, PCI_COMMAND_MEM, PCI_COMMAND_IO);
	equal(bar_read(&ports, 8, 4), UINT32_MAX, "I/O: switched off: all ones");
	pci_command(fn, PCI_COMMAND_IO, 0);
}

static void check_mapped(void)
{
	bool same = true;

	for (unsigned i = 0; i < EXERCISER_SHARED_SIZE; i += 8)
		write64(bar0.addr + EXERCISER_SHARED + i, i * 0x0101010101010101ull);
	for (unsigned i = 0; i < EXERCISER_SHARED_SIZE; i += 8)
		same = same &&
		       read64(bar0.addr + EXERCISER_SHARED + i) == i * 0x0101010101010101ull;
	ok(same, "the shared page of BAR 0 keeps what is written");
	for (unsigned i = 0; i < EXERCISER_BAR4_SIZE; i += 512)
		write32(whole.addr + i, ~i);
	same = true;
	for (unsigned i = 0; i < EXERCISER_BAR4_SIZE; i += 512)
		same = same && read32(whole.addr + i) == ~i;
	ok(same, "and so does BAR 4");
}

static void check_doorbells(void)
{
	put(EXERCISER_REG_RUNG, 0);
	put(EXERCISER_REG_RUNG_MATCH, 0);
	put(EXERCISER_REG_MESSAGES, 0);
	for (unsigned i = 0; i < 10; i++)
		put(EXERCISER_DOORBELL, i);
	write8(bar0.addr + EXERCISER_DOORBELL, 1);
	equal(get(EXERCISER_REG_RUNG), 11, "11 rings of the doorbell");
	put(EXERCISER_DOORBELL_MATCH, EXERCISER_MATCH);
	put(EXERCISER_DOORBELL_MATCH, EXERCISER_MATCH + 1);
	put(EXERCISER_DOORBELL_MATCH, EXERCISER_MATCH);
	equal(get(EXERCISER_REG_RUNG_MATCH), 2, "two of three match");
	equal(get(EXERCISER_REG_MESSAGES), 1, "only the third was a message");
}

static void check_rom(void)
{
	write32(fn + PCI_ROM, (uint32_t)rom.addr | 1);
	equal(read32(rom.addr), 0x0302aa55, "the ROM can be read");
	write32(rom.addr, 0);
	equal(read32(rom.addr), 0x0302aa55, "and not written");
	write32(fn + PCI_ROM, (uint32_t)rom.addr);
	equal(read32(rom.addr), UINT32_MAX, "switched off: all ones");
}

static void check_dma(void)
{
	static uint8_t buffer[EXERCISER_BUFFER_SIZE] __attribute__((aligned(16)));
	bool same = true;

	for (unsigned i = 0; i < sizeof(buffer); i++)
		buffer[i] = (uint8_t)(i * 5 + 1);
	write64(bar0.addr + EXERCISER_REG_DMA_ADDR, (uint64_t)buffer);
	put(EXERCISER_REG_DMA_LEN, sizeof(buffer));
	put(EXERCISER_REG_DMA_GO, 1);
	equal(get(EXERCISER_REG_DMA_STATUS), 0, "the device reads RAM");
	equal(get(EXERCISER_BUFFER + 0x100), 0x100b0601, "what it read");
	memset(buffer, 0, sizeof(buffer));
	put(EXERCISER_REG_DMA_GO, 2);
	equal(get(EXERCISER_REG_DMA_STATUS), 0, "the device writes RAM");
	for (unsigned i = 0; i < sizeof(buffer); i++)
		same = same && *(volatile uint8_t *)&buffer[i] == (uint8_t)(i * 5 + 1);
	ok(same, "what it wrote");
	/* Not RAM: the ECAM, a hole, the end of everything. */
	for (unsigned i = 0; i < 3; i++) {
		static const uint64_t nowhere[] = { 0xe8000000, 0xd0000000, ~0ull - 16 };

		write64(bar0.addr + EXERCISER_REG_DMA_ADDR, nowhere[i]);
		put(EXERCISER_REG_DMA_GO, 1);
		ok(get(EXERCISER_REG_DMA_STATUS) != 0, "DMA at 0x%lx is refused", nowhere[i]);
	}
}

/* --- BARs on the move --- */

static void check_moves(void)
{
	uint64_t home = bar0.addr, away = home + 0x100000, low = whole.addr;

	sys_map(away, EXERCISER_BAR0_SIZE);
	put(EXERCISER_REG_SCRATCH, 0x600d600d);
	write32(home + EXERCISER_SHARED, 0x5a5a5a5a);
	pci_bar_move(fn, 0, &bar0, away);
	equal(read32(home + EXERCISER_REG_SCRATCH), UINT32_MAX, "moved: the old place is all ones");
	equal(read32(home + EXERCISER_SHARED), UINT32_MAX, "also where it was mapped");
	equal(read32(away + EXERCISER_REG_SCRATCH), 0x600d600d, "the new place answers");
	equal(read32(away + EXERCISER_SHARED), 0x5a5a5a5a, "also what is mapped");
	bar0.addr = away;
	check_doorbells();

	/* Onto another BAR: one of the two goes on, and both come back. */
	pci_bar_move(fn, 0, &bar0, low);
	ok(read32(low) == EXERCISER_ID || read32(low) == UINT32_MAX,
		"moved onto BAR 4: one of them is there");
	/* Onto RAM: the RAM stays. */
	write32(0x80000, 0x12345678);
	pci_bar_move(fn, 0, &bar0, 0x80000);
	equal(read32(0x80000), 0x12345678, "moved onto RAM: the RAM stays");
	pci_bar_move(fn, 0, &bar0, 0xfee00000);
	ok(read32(LAPIC_BASE + LAPIC_VERSION) != EXERCISER_ID,
		"moved onto the local APIC: that stays");
	pci_bar_move(fn, 0, &bar0, 0xe8000000);
	equal(read32(0xe8000000), 0x0d578086, "moved onto ECAM: that stays");
	pci_bar_move(fn, 0, &bar0, home);
	bar0.addr = home;
	equal(get(EXERCISER_REG_SCRATCH), 0x600d600d, "and home again");
	equal(read32(home + EXERCISER_SHARED), 0x5a5a5a5a, "with what is mapped");
	equal(read32(low + 512), ~512u, "BAR 4 is there too");

	pci_command(fn, 0, PCI_COMMAND_MEM);
	equal(get(EXERCISER_REG_SCRATCH), UINT32_MAX, "decode off: all ones");
	equal(get(EXERCISER_SHARED), UINT32_MAX, "also what is mapped");
	equal(read32(whole.addr + 512), UINT32_MAX, "in every memory BAR");
	put(EXERCISER_SHARED, 0);
	pci_command(fn, PCI_COMMAND_MEM, 0);
	equal(get(EXERCISER_SHARED), 0x5a5a5a5a, "decode on: as before");
}

/* --- interrupts --- */

static void set_entry(unsigned i, uint8_t vector, bool masked)
{
	uint64_t entry = table.addr + 16 * i;

	write32(entry + 12, 1);
	write32(entry, LAPIC_BASE | apic_id() << 12);
	write32(entry + 4, 0);
	write32(entry + 8, vector);
	write32(entry + 12, masked);
}

static void check_msix(void)
{
	unsigned cap = pci_capability(fn, PCI_CAP_MSIX), wrong = 0;
	uint32_t before;

	if (!ok(cap != 0, "MSI-X: capability"))
		return;
	equal(read16(fn + cap + 2) & 0x7ff, EXERCISER_NR_MSIX - 1, "MSI-X: size of the table");
	equal(read32(fn + cap + 4), 2, "MSI-X: the table is in BAR 2");
	equal(read32(fn + cap + 8), EXERCISER_PBA | 2, "MSI-X: and so are the pending bits");
	equal(read32(table.addr + 12) & 1, 1, "MSI-X: entries are masked at first");
	for (unsigned i = 0; i < EXERCISER_NR_MSIX; i++)
		set_entry(i, (uint8_t)(VECTOR_DEVICE + i), false);
	equal(read64(table.addr + 16 * 3 + 8), VECTOR_DEVICE + 3, "MSI-X: entries read back");
	write16(fn + cap + 2, 0x8000);
	for (unsigned round = 1; round <= 10; round++)
		for (unsigned i = 0; i < EXERCISER_NR_MSIX; i++) {
			uint8_t vector = (uint8_t)(VECTOR_DEVICE + i);

			before = irq_count[vector];
			put(EXERCISER_REG_MSIX, i);
			wrong += !irq_wait(vector, before + 1, 5000) ||
				 irq_count[vector] != before + 1;
		}
	equal(wrong, 0, "MSI-X: each of 8 vectors ten times");

	/* Masked: pending, and delivered once when unmasked, also if fired twice. */
	write32(table.addr + 12, 1);
	before = irq_count[VECTOR_DEVICE];
	put(EXERCISER_REG_MSIX, 0);
	put(EXERCISER_REG_MSIX, 0);
	get(EXERCISER_REG_ID);
	equal(read64(table.addr + EXERCISER_PBA) & 1, 1, "MSI-X: masked: the pending bit is set");
	ok(!irq_wait(VECTOR_DEVICE, before + 1, 20), "MSI-X: masked: nothing comes");
	write32(table.addr + 12, 0);
	ok(irq_wait(VECTOR_DEVICE, before + 1, 5000), "MSI-X: unmasked: it comes");
	equal(read64(table.addr + EXERCISER_PBA) & 1, 0, "MSI-X: and is pending no more");
	ok(!irq_wait(VECTOR_DEVICE, before + 2, 20), "MSI-X: once");

	/* The function's mask. */
	write16(fn + cap + 2, 0xc000);
	before = irq_count[VECTOR_DEVICE + 1];
	put(EXERCISER_REG_MSIX, 1);
	ok(!irq_wait(VECTOR_DEVICE + 1, before + 1, 20), "MSI-X: function masked: nothing comes");
	equal(read64(table.addr + EXERCISER_PBA) & 2, 2, "MSI-X: it is pending");
	write16(fn + cap + 2, 0x8000);
	ok(irq_wait(VECTOR_DEVICE + 1, before + 1, 5000), "MSI-X: unmasked: it comes");

	/* A vector moved to another interrupt while enabled. */
	set_entry(2, VECTOR_DEVICE + 7, false);
	before = irq_count[VECTOR_DEVICE + 7];
	put(EXERCISER_REG_MSIX, 2);
	ok(irq_wait(VECTOR_DEVICE + 7, before + 1, 5000),
		"MSI-X: a vector moved to another interrupt");
	write16(fn + cap + 2, 0);
	before = irq_count[VECTOR_DEVICE + 3];
	put(EXERCISER_REG_MSIX, 3);
	ok(!irq_wait(VECTOR_DEVICE + 3, before + 1, 20), "MSI-X: switched off: nothing comes");
}

static void check_msi(void)
{
	unsigned cap = pci_capability(fn, PCI_CAP_MSI), wrong = 0;
	uint32_t before;

	if (!ok(cap != 0, "MSI: capability"))
		return;
	equal(read16(fn + cap + 2) & 0xfe, 0x84, "MSI: 64-bit, four vectors");
	write32(fn + cap + 4, (uint32_t)LAPIC_BASE | apic_id() << 12);
	write32(fn + cap + 8, 0);
	write16(fn + cap + 12, VECTOR_DEVICE);
	write16(fn + cap + 2, 2 << 4 | 1);
	for (unsigned i = 0; i < EXERCISER_NR_MSI; i++) {
		uint8_t vector = (uint8_t)(VECTOR_DEVICE + i);

		before = irq_count[vector];
		put(EXERCISER_REG_MSI, i);
		wrong += !irq_wait(vector, before + 1, 5000) || irq_count[vector] != before + 1;
	}
	equal(wrong, 0, "MSI: each of four vectors");
	write16(fn + cap + 2, 0);
	before = irq_count[VECTOR_DEVICE];
	put(EXERCISER_REG_MSI, 0);
	ok(!irq_wait(VECTOR_DEVICE, before + 1, 20), "MSI: switched off: nothing comes");
}

static volatile uint32_t handled, spurious;

/* Ring 0, before the EOI. */
static void lower_line(void)
{
	if (!get(EXERCISER_REG_INTX)) {
		spurious++;
		return;
	}
	put(EXERCISER_REG_INTX, 0);
	handled++;
}

static void check_intx(void)
{
	unsigned pin = pci_intx_pin(fn);
	bool exact = !apic_ends_by_itself();
	uint32_t before;

	irq_hook[VECTOR_DEVICE] = lower_line;
	ioapic_route(pin, VECTOR_DEVICE, IOAPIC_LEVEL | IOAPIC_LOW);
	for (unsigned i = 1; i <= 50; i++) {
		put(EXERCISER_REG_INTX, 1);
		if (!irq_wait_for(&handled, i, 5000))
			break;
	}
	equal(handled, 50, "INTx: 50 times up, 50 interrupts");
	ok(!irq_wait_for(&handled, 51, 20), "INTx: no more");
	if (exact)
		equal(spurious, 0, "INTx: none without a cause");
	else
		skip("this KVM ends level interrupts by itself", "INTx: none without a cause (%u)",
			spurious);
	irq_hook[VECTOR_DEVICE] = NULL;

	/* A line that stays up interrupts again and again; the handler alone ends it. */
	before = irq_count[VECTOR_DEVICE];
	put(EXERCISER_REG_INTX, 1);
	ok(irq_wait(VECTOR_DEVICE, before + 3, 5000),
		"INTx: a line that stays up comes again after each end");
	put(EXERCISER_REG_INTX, 0);
	do {
		before = irq_count[VECTOR_DEVICE];
	} while (irq_wait(VECTOR_DEVICE, before + 1, 20));
	ioapic_write(0x10 + 2 * pin, IOAPIC_MASKED);
}

static void open_msix(void)
{
	for (unsigned i = 0; i < EXERCISER_NR_MSIX; i++)
		set_entry(i, (uint8_t)(VECTOR_DEVICE + i), false);
	write16(fn + pci_capability(fn, PCI_CAP_MSIX) + 2, 0x8000);
}

/* How many vectors do not do as they should. */
static unsigned fire_all(void)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < EXERCISER_NR_MSIX; i++) {
		uint32_t before = irq_count[VECTOR_DEVICE + i];

		put(EXERCISER_REG_MSIX, i);
		wrong += !irq_wait((uint8_t)(VECTOR_DEVICE + i), before + 1, 5000);
	}
	return wrong;
}

/* Until the id register reads as it should, or all ones, by what is wanted. */
static void wait_for_device(bool there)
{
	while ((get(EXERCISER_REG_ID) == EXERCISER_ID) != there)
		cpu_relax();
}

/*
 * While the device is away. Registers are all ones from the first access that fails; what is mapped
 * becomes so a moment later.
 */
static void check_away(void)
{
	while (get(EXERCISER_SHARED) != UINT32_MAX || read32(whole.addr) != UINT32_MAX)
		cpu_relax();
	ok(true, "away: what was mapped is all ones");
	equal(get(EXERCISER_REG_SCRATCH), UINT32_MAX, "away: and so are registers");
	put(EXERCISER_SHARED, 1);
	put(EXERCISER_DOORBELL, 1);
	equal(read32(fn), EXERCISER_VENDOR | EXERCISER_DEVICE << 16,
		"away: the function itself can be seen");
	equal(read32(table.addr + 8), VECTOR_DEVICE, "away: and its MSI-X table");
}

/*
 * After a return. A doorbell may come as a message until it is an eventfd again, but it comes; and
 * what was rung while the device was away does not.
 */
static void check_back(uint64_t round)
{
	uint32_t rings = 0;

	if (fire_all())
		ok(false, "round %lu: all vectors", round);
	do {
		put(EXERCISER_DOORBELL, 1);
		rings++;
		if (get(EXERCISER_REG_RUNG) + get(EXERCISER_REG_MESSAGES) != rings) {
			ok(false, "round %lu: ring %u is lost", round, rings);
			return;
		}
	} while (!get(EXERCISER_REG_RUNG));
	write32(bar0.addr + EXERCISER_SHARED, (uint32_t)round);
	if (get(EXERCISER_SHARED) != round)
		ok(false, "round %lu: the mapped page", round);
}

/*
 * The device process dies and comes back, rounds= times, as the host is asked to arrange. It has
 * forgotten its registers, but what the guest set up in configuration space goes on.
 */
void test_device_return(void)
{
	uint64_t rounds = boot_number("rounds", 1);

	if (!find_device())
		return;
	open_msix();
	equal(fire_all(), 0, "all vectors at first");
	for (uint64_t round = 1; round <= rounds; round++) {
		write32(bar0.addr + EXERCISER_SHARED, 0x5a5a5a5a);
		note("take it away");
		wait_for_device(false);
		if (round == 1)
			check_away();
		note("bring it back");
		wait_for_device(true);
		check_back(round);
	}
	ok(true, "%lu rounds", rounds);
	check_doorbells();
	check_dma();
	write16(fn + pci_capability(fn, PCI_CAP_MSIX) + 2, 0);
	check_intx();
}

void test_device(void)
{
	if (!find_device())
		return;
	check_widths();
	/* Segments other than the first have no I/O space. */
	if (boot_number("io", 1))
		check_ports();
	check_mapped();
	check_doorbells();
	check_rom();
	check_dma();
	check_moves();
	check_intx();
	check_msi();
	check_msix();
}
