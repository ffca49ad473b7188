/*
 * irq.h - interrupt lines, MSI routes and the descriptors that raise them
 *
 * Everything that interrupts the guest is an eventfd that KVM watches (irqfd). A
 * vector of MSI or MSI-X gets its GSI and eventfd on its first use. The order is
 * fixed: masking removes the irqfd and then the route, unmasking sets the route
 * and then the irqfd. Signals that arrive while a vector is masked stay counted in
 * the eventfd and are delivered when it is unmasked: that counter is the pending bit.
 *
 * Threads: any; an irq_vector itself belongs to its function's lock.
 */
#ifndef MACHINE_IRQ_H
#define MACHINE_IRQ_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/kvm.h"

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
	struct irq_tap *taps; /* further descriptors that raise it; irqs' own lock */
};

/* A descriptor of somebody else's that raises a vector as well. Zeroed but for fd -1 before its use. */
struct irq_tap {
	int fd; /* borrowed; -1: none */
	struct irq_vector *vector; /* NULL: none */
	bool live;
	struct irq_tap *next;
};
#define IRQ_VECTOR_INIT { .eventfd = -1 }

int irqs_new(struct kvm *kvm, struct irqs **out);
void irqs_free(struct irqs *irqs);
/* The guest is reset: the IOAPIC as at power-on, all pins masked. No vCPU runs. 0 or -errno. */
int irqs_reset(struct irqs *irqs);

/* Make eventfd and GSI of a vector exist. 0 or -errno (-ENOSPC: KVM has no routes left). */
int irq_vector_prepare(struct irqs *irqs, struct irq_vector *v);
/* Release both. A zero eventfd field is not "none": initialise with IRQ_VECTOR_INIT. */
void irq_vector_release(struct irqs *irqs, struct irq_vector *v);

/*
 * Deliver from now on: route every vector to its msg, in one table update, then
 * connect the eventfds. Vectors that are live are re-routed without losing a signal.
 * Each must be prepared. 0; or -errno when KVM refused one, which is masked then as its `live` says;
 * the others are delivered.
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
/* Drive a line of a platform device. */
void irq_line_set(struct irqs *irqs, unsigned gsi, bool level);
/*
 * Hold up, or let go of, a level-triggered line that several devices share: it is up while one of them
 * holds it. Each calls in turns, beginning with a raise.
 */
void irq_line_share(struct irqs *irqs, unsigned gsi, bool raise);

#endif
