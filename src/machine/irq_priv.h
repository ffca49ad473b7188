/*
 * irq_priv.h - what irq.c (vectors, taps, the table) and irq_pins.c (the IOAPIC that is not KVM's)
 * share
 *
 * All with irqs->lock held.
 */
#ifndef MACHINE_IRQ_PRIV_H
#define MACHINE_IRQ_PRIV_H

#include <pthread.h>

#include "base/log.h"
#include "machine/ioapic.h"
#include "machine/irq.h"

struct irq_route {
	uint32_t source;
	struct msi_message msg; /* the guest's */
	struct msi_message out; /* KVM's */
};

/* A descriptor that raises a pin. */
struct irq_line {
	int trigger, resample; /* -1: none */
	bool live;
	struct irq_line *next;
};

struct irq_pin {
	bool routed; /* it is in the table: since its first use */
	struct irq_route route;
	struct irq_line *lines;
};

struct irqs {
	struct kvm *kvm;
	pthread_mutex_t lock;
	const struct irq_remapper *remapper; /* NULL: KVM gets what the guest wrote */
	struct log_limit limit;
	unsigned nr_msi;       /* length of msi[] */
	struct msi_route {
		bool used; /* the GSI belongs to a vector */
		bool routed;
		bool fresh; /* the table under way is the first with this route */
		struct irq_route route;
	} *msi; /* [gsi - GSI_MSI_BASE] */
	struct kvm_irq_routing *table; /* room for all routes */
	bool stale; /* KVM has refused the last one */
	struct kvm_irqchip kvm_ioapic; /* as KVM made it, if it has one */
	struct ioapic ioapic;	       /* ours, if it has none */
	struct irq_pin pins[GSI_IOAPIC_COUNT];
	unsigned sharers[GSI_IOAPIC_COUNT]; /* of irq_line_share(), who hold the line up now */
};

/* Look the message up. True: what KVM is to have is another one than before. */
bool irq_route_resolve(struct irqs *irqs, struct irq_route *r, bool report);
/* Send the table. 0 or -errno. */
int irq_send_routes(struct irqs *irqs);
/* Connect or disconnect a descriptor of a GSI; flags, resample as in KVM_IRQFD. 0 or -errno. */
int irq_irqfd(struct irqs *irqs, unsigned gsi, int fd, int resample, uint32_t flags);

/* --- irq_pins.c, where KVM has no IOAPIC --- */

void irq_pins_init(struct irqs *irqs);
void irq_pins_fini(struct irqs *irqs);
void irq_pins_reset(struct irqs *irqs);
/* Look the pins' messages up again. True: the table is another one. */
bool irq_pins_resolve(struct irqs *irqs);
int irq_pin_connect(struct irqs *irqs, unsigned pin, int trigger, int resample);
void irq_pin_disconnect(struct irqs *irqs, unsigned pin, int trigger);

#endif
