/*
 * pci.h - configuration space by ECAM and by ports, BARs, capabilities, MSI-X
 *
 * A function is named by the address of its configuration space in ECAM.
 */
#ifndef GUEST_PCI_H
#define GUEST_PCI_H

#include "x86.h"

#define PCI_COMMAND	    0x04
#define PCI_COMMAND_IO	    0x1
#define PCI_COMMAND_MEM	    0x2
#define PCI_COMMAND_MASTER  0x4
#define PCI_COMMAND_NO_INTX 0x400
#define PCI_STATUS	    0x06
#define PCI_STATUS_INTX	    0x8
#define PCI_STATUS_CAPS	    0x10
#define PCI_BAR0	    0x10
#define PCI_ROM		    0x30
#define PCI_CAP_PTR	    0x34
#define PCI_INT_LINE	    0x3c
#define PCI_INT_PIN	    0x3d
#define PCI_CAP_MSI	    0x05
#define PCI_CAP_MSIX	    0x11

/* The ECAM address of a function, or 0 if the segment is not in MCFG. */
uint64_t pci_function(unsigned segment, unsigned bus, unsigned slot, unsigned function);
/* The n-th function with these ids on any segment, or 0. */
uint64_t pci_find(uint16_t vendor, uint16_t device, unsigned n);
unsigned pci_slot(uint64_t fn);
/* The IOAPIC pin of its interrupt pin A: eight lines, shared by slots. */
unsigned pci_intx_pin(uint64_t fn);

/* Set and clear bits of the command register. */
void pci_command(uint64_t fn, uint16_t set, uint16_t clear);

/* Configuration mechanism 1; segment 0 only. off may be unaligned within its dword. */
uint32_t pci_port_read(unsigned bus, unsigned slot, unsigned off, unsigned size);
void pci_port_write(unsigned bus, unsigned slot, unsigned off, unsigned size, uint32_t value);

struct bar {
	bool io, wide, prefetch;
	uint64_t addr, size; /* size 0: there is none */
};

/* Size a BAR (6: the ROM); decoding is off meanwhile. A memory BAR is made reachable. */
struct bar pci_bar(uint64_t fn, unsigned index);
/* Give it another address. Decoding is left alone. */
void pci_bar_move(uint64_t fn, unsigned index, const struct bar *bar, uint64_t addr);
/* Read or write a register of a BAR with an access of 1, 2, 4 bytes (8 for memory). */
uint64_t bar_read(const struct bar *bar, uint64_t off, unsigned size);
void bar_write(const struct bar *bar, uint64_t off, unsigned size, uint64_t value);

/* The offset of a capability, or 0; a list that does not end is ended. */
unsigned pci_capability(uint64_t fn, uint8_t id);

#endif
