/*
 * irq.h - interrupt lines, MSI routes and the descriptors that raise them
 *
 * Everything that interrupts the guest is an eventfd that KVM watches (irqfd). A
 * vector of MSI or MSI-X gets its GSI and eventfd on its first use. The order is
 * fixed: masking removes the irqfd and then the route, unmasking sets the route
 * and then the irqfd. Signals that arrive while a vector is masked stay counted in
 * the eventfd and are delivered when it is unmasked: that counter is the pending bit.
 *
 * With interrupt remapping, what KVM gets is not a vector's message but what a remapper makes of
 * it; a message that is blocked goes to a processor that does not exist. The IOAPIC is not KVM's
 * then but the VMM's (ioapic.h), which sends what its pins' entries say through the remapper as
 * well.
 *
 * Threads: any; an irq_vector itself belongs to its function's lock.
 */
#ifndef MACHINE_IRQ_H
#define MACHINE_IRQ_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/kvm.h"

struct io_bus;
struct irqs;

struct msi_message {
	uint64_t addr;
	uint32_t data;
};

struct irq_tap;

struct irq_vector {
	int eventfd; /* -1: never used; whoever serves the device writes to it */
	int gsi;     /* 0: none yet */
	bool live;   /* route and irqfd in place */
	struct msi_message msg;
	uint32_t source; /* whose it is: segment << 16 | bus, device, function */
	struct irq_tap *taps; /* further descriptors that raise it; irqs' own lock */
};

/*
 * A descriptor of somebody else's that raises a vector as well.
 * Zeroed but for fd -1 before its use.
 */
struct irq_tap {
	int fd; /* borrowed; -1: none */
	struct irq_vector *vector; /* NULL: none */
	bool live;
	struct irq_tap *next;
};
#define IRQ_VECTOR_INIT { .eventfd = -1 }

/* Of the IOAPIC's messages: a function that no segment has. */
#define IRQ_SOURCE_IOAPIC 0xff00u

struct irq_remapper {
	/*
	 * What a message of `source` means, in *out. False: it is blocked; with `report` the guest
	 * is told. Called with irqs' lock held.
	 */
	bool (*resolve)(void *arg, uint32_t source, const struct msi_message *msg,
		struct msi_message *out, bool report);
	void *arg;
};

/* With an IOAPIC of its own if KVM has local APICs alone (kvm_open_split()). 0 or -errno. */
int irqs_new(struct kvm *kvm, struct irqs **out);
void irqs_free(struct irqs *irqs);
/* Put the IOAPIC's registers on the bus, if it is not KVM's. 0 or -errno. */
int irqs_register(struct irqs *irqs, struct io_bus *bus);
/* Before the first vector is used; borrowed. */
void irqs_set_remapper(struct irqs *irqs, const struct irq_remapper *remapper);
/* Messages mean something else now: look up all that are in use. Any thread. */
void irqs_remap(struct irqs *irqs);
/* Send a message, once, that is not remapped. May be called by the remapper. 0 or -errno. */
int irqs_send(struct irqs *irqs, const struct msi_message *msg);
/* A processor has ended a level-triggered interrupt of the IOAPIC (KVM_EXIT_IOAPIC_EOI). */
void irqs_eoi(struct irqs *irqs, uint8_t vector);
/* The guest is reset: the IOAPIC as at power-on, all pins masked. No vCPU runs. 0 or -errno. */
int irqs_reset(struct irqs *irqs);

/* Make eventfd and GSI of a vector exist. 0 or -errno (-ENOSPC: KVM has no routes left). */
int irq_vector_prepare(struct irqs *irqs, struct irq_vector *v);
/* Release both. A zero eventfd field is not "none": initialise with IRQ_VECTOR_INIT. */
void irq_vector_release(struct irqs *irqs, struct irq_vector *v);

/*
 * Deliver from now on: route every vector to its msg, in one table update, then
 * connect the eventfds. Vectors that are live are re-routed without losing a signal.
 * Each must be prepared. 0; or -errno when KVM refused one, which is masked then as its `live`
 * says; the others are delivered.
 */
int irq_vectors_unmask(struct irqs *irqs, struct irq_vector *const *v, unsigned nr);
void irq_vector_mask(struct irqs *irqs, struct irq_vector *v);
/* Mask v[0] to v[nr - 1], those that are live, in one table update. */
void irq_vectors_mask(struct irqs *irqs, struct irq_vector *v, unsigned nr);
/*
 * Let a tap raise another vector (NULL: none), or be another eventfd (-1: none); its other half
 * stays. A vector is masked and unmasked with its taps. 0; or KVM's refusal (-EINVAL: no eventfd;
 * -EBUSY: it raises something already): the tap has no descriptor then. Any thread; before the
 * vector is released, no tap may name it.
 */
int irq_tap_vector(struct irqs *irqs, struct irq_tap *tap, struct irq_vector *v);
int irq_tap_fd(struct irqs *irqs, struct irq_tap *tap, int fd);
/* True if a signal waits in a masked vector, or in a tap of it. */
bool irq_vector_pending(struct irqs *irqs, const struct irq_vector *v);

/*
 * Connect a level-triggered line of the IOAPIC: trigger (non-blocking) raises it; KVM lowers it
 * at the guest's EOI and signals resample (-1: edge-triggered, no resample). Both
 * borrowed until irq_line_disconnect(). 0 or -errno.
 */
int irq_line_connect(struct irqs *irqs, unsigned gsi, int trigger, int resample);
void irq_line_disconnect(struct irqs *irqs, unsigned gsi, int trigger);
/* Has the guest unmasked the line? */
bool irq_line_is_open(struct irqs *irqs, unsigned gsi);
/* Drive a line of a platform device. */
void irq_line_set(struct irqs *irqs, unsigned gsi, bool level);
/*
 * Hold up, or let go of, a level-triggered line that several devices share: it is up while one of
 * them holds it. Each calls in turns, beginning with a raise.
 */
void irq_line_share(struct irqs *irqs, unsigned gsi, bool raise);

#endif
