/*
 * pci_priv.h - what the files of the PCI core share
 *
 *   pci.c          segments, slots, windows, reset
 *   pci_bar.c      BARs: registers, places, decoding
 *   pci_access.c   how a guest reaches configuration space
 */
#ifndef MACHINE_PCI_PRIV_H
#define MACHINE_PCI_PRIV_H

#include "base/log.h"
#include "machine/layout.h"
#include "machine/pci.h"

struct segment {
	struct pci_windows windows;
	struct pci_function *slots[LAYOUT_PCI_SLOTS];
	struct ecam {
		struct pci *pci;
		unsigned segment;
	} ecam;
};

struct pci {
	struct io_bus *bus;
	pthread_mutex_t topology;
	unsigned nr_segments;
	struct segment *segments;
	uint64_t platform_base;
	uint32_t config_address; /* port 0xcf8 */
	uint8_t reset_control;	 /* port 0xcf9 */
	void (*wants_reset)(void *arg);
	void *reset_arg;
	struct log_limit busy_limit;
	struct pci_function host_bridge;
};

/* All with the topology lock held. */

/* Give each BAR of a function an address that is free. 0; -ENOSPC with a text. */
int pci_bars_place(struct pci_function *fn, struct err *err);
/* Bring the decoded BARs in line with config[]. */
void pci_bars_update(struct pci_function *fn);
/* Stop decoding all of them. */
void pci_bars_unmap(struct pci_function *fn);
/* Put them back to where they were placed first; none is decoded. */
void pci_bars_go_home(struct pci_function *fn);
/* Decode what wants to be and can, now that something has moved. */
void pci_bars_map_wanted(struct pci *pci);

/* Put ECAM and the ports on the bus. 0 or -errno with a text. */
int pci_access_register(struct pci *pci, struct err *err);

#endif
