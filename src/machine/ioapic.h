/*
 * ioapic.h - the IOAPIC's registers, for a machine in which interrupts are remapped
 *
 * KVM's own IOAPIC knows no entries that name a remapping unit's, so with one the VMM has this.
 * Lines and the redirection table are kept here; what an entry means, and sending it, is the
 * owner's. An entry becomes a message as an IOAPIC on the bus sends it: its upper half is bits 4 to
 * 19 of the address.
 *
 * Threads: the owner's lock is held over each call, and while operations are called.
 * Spec: Intel 82093AA; I/O xAPIC with an EOI register (version 0x20); VT-d 3.3, 5.1.5.1.
 */
#ifndef MACHINE_IOAPIC_H
#define MACHINE_IOAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/irq.h"
#include "machine/layout.h"

struct ioapic;

struct ioapic_ops {
	/* A pin's interrupt is due. */
	void (*send)(struct ioapic *io, unsigned pin);
	/* A pin's entry is another one: its message, or whether it is masked. */
	void (*changed)(struct ioapic *io, unsigned pin);
	/* The guest has ended a level-triggered interrupt of a pin. */
	void (*ended)(struct ioapic *io, unsigned pin);
};

struct ioapic {
	const struct ioapic_ops *ops;
	uint8_t select, id;
	uint64_t entries[GSI_IOAPIC_COUNT];
	bool up[GSI_IOAPIC_COUNT]; /* the lines */
};

/* All pins masked; lines stay as they are. Calls nothing. */
void ioapic_reset(struct ioapic *io);

uint64_t ioapic_read(const struct ioapic *io, uint64_t off, unsigned size);
void ioapic_write(struct ioapic *io, uint64_t off, unsigned size, uint64_t value);
void ioapic_set_line(struct ioapic *io, unsigned pin, bool up);
/* A processor has ended an interrupt with this vector. */
void ioapic_eoi(struct ioapic *io, uint8_t vector);

bool ioapic_masked(const struct ioapic *io, unsigned pin);
struct msi_message ioapic_message(const struct ioapic *io, unsigned pin);

#endif
