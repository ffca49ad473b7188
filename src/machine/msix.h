/*
 * msix.h - MSI-X and MSI as the guest programs them
 *
 * The table, its mask bits and the capability's control word live here; the
 * owner is told which vectors came into use, so that it can hand their eventfds to whoever
 * serves the device. PCI 3.0, 6.8.
 *
 * Threads: all under the function's lock.
 */
#ifndef MACHINE_MSIX_H
#define MACHINE_MSIX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "machine/irq.h"

#define MSIX_MAX_VECTORS 2048
#define MSIX_ENTRY_SIZE	 16

struct msix_entry {
	uint32_t addr_lo, addr_hi, data, control;
};

struct pci_function;

struct msix {
	struct irqs *irqs;
	const struct pci_function *fn; /* whose it is; NULL: it has no address */
	unsigned nr;
	struct msix_entry *entries;
	struct irq_vector *vectors;
	bool enabled, masked; /* the control word's bits */
	struct log_limit limit;
	/*
	 * Vectors [first, first + nr) have just got their eventfds (msix->vectors[i].eventfd).
	 * Called before they are connected. May be NULL.
	 */
	void (*used)(struct msix *msix, unsigned first, unsigned nr);
	/*
	 * The guest switched MSI-X off; the eventfds stay, the owner
	 * may take them back. May be NULL.
	 */
	void (*disabled)(struct msix *msix);
};

/* nr 1 to 2048. Zeroed storage. 0 or -ENOMEM. */
int msix_init(struct msix *msix, struct irqs *irqs, unsigned nr);
void msix_fini(struct msix *msix);

/* Access to the table (off < nr * 16) or the pending bits (off < (nr + 63) / 64 * 8). */
uint64_t msix_table_read(struct msix *msix, uint64_t off, unsigned size);
void msix_table_write(struct msix *msix, uint64_t off, unsigned size, uint64_t value);
uint64_t msix_pba_read(struct msix *msix, uint64_t off, unsigned size);

/* The capability's control word (PCI_MSIX_FLAGS) changed to flags. */
void msix_set_flags(struct msix *msix, uint16_t flags);

/* Back to the state after power-on: all masked, off, nothing pending. Eventfds are kept. */
void msix_reset(struct msix *msix);

/* MSI: one to 32 vectors whose messages differ in the low data bits. */
struct msi {
	struct irqs *irqs;
	const struct pci_function *fn;
	unsigned nr; /* that the device offers: 1, 2, 4 ... 32 */
	struct irq_vector vectors[32];
	bool enabled;
	unsigned nr_enabled;
	struct log_limit limit;
	void (*used)(struct msi *msi, unsigned nr); /* vectors [0, nr) are about to be connected */
	void (*disabled)(struct msi *msi);
};

void msi_init(struct msi *msi, struct irqs *irqs, unsigned nr);
void msi_fini(struct msi *msi);
/* The capability at cap (its bytes as the guest sees them, struct at most 24 bytes) was written. */
void msi_update(struct msi *msi, const uint8_t *cap);
void msi_reset(struct msi *msi);

#endif
