/*
 * irq_pins.c - the pins of an IOAPIC that is the VMM's: where their interrupts go
 *
 * A line that the VMM drives is the IOAPIC's: it sends one message for each interrupt. A line that
 * a descriptor raises is KVM's: an irqfd on the pin's route, which is there while the pin is not
 * masked. What is signalled meanwhile stays in the descriptor. KVM delivers each signal as one
 * interrupt; at its end, which KVM tells for a level-triggered one, or the guest by the EOI
 * register, the resample descriptor is signalled.
 *
 * A route stays in the table when its pin is masked, since KVM tells of ends by the table.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/kick.h"
#include "base/util.h"
#include "machine/io.h"
#include "machine/irq_priv.h"

static struct irqs *owner(struct ioapic *io)
{
	return container_of(io, struct irqs, ioapic);
}

/* --- lines that descriptors raise --- */

static int line_connect(struct irqs *irqs, unsigned pin, struct irq_line *l)
{
	int rc;

	if (l->live || !irqs->pins[pin].routed || ioapic_masked(&irqs->ioapic, pin))
		return 0;
	rc = irq_irqfd(irqs, pin, l->trigger, 0, 0);
	l->live = !rc;
	return rc;
}

static void line_disconnect(struct irqs *irqs, unsigned pin, struct irq_line *l)
{
	if (l->live)
		irq_irqfd(irqs, pin, l->trigger, 0, KVM_IRQFD_FLAG_DEASSIGN);
	l->live = false;
}

static void lines_update(struct irqs *irqs, unsigned pin)
{
	for (struct irq_line *l = irqs->pins[pin].lines; l; l = l->next) {
		if (ioapic_masked(&irqs->ioapic, pin))
			line_disconnect(irqs, pin, l);
		else if (line_connect(irqs, pin, l))
			log_limited(&irqs->limit, LOG_WARN,
				"irq: KVM does not take a descriptor that raises line %u", pin);
	}
}

int irq_pin_connect(struct irqs *irqs, unsigned pin, int trigger, int resample)
{
	struct irq_line *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return -ENOMEM;
	l->trigger = trigger;
	l->resample = resample;
	rc = line_connect(irqs, pin, l);
	if (rc) {
		free(l);
		return rc;
	}
	l->next = irqs->pins[pin].lines;
	irqs->pins[pin].lines = l;
	return 0;
}

void irq_pin_disconnect(struct irqs *irqs, unsigned pin, int trigger)
{
	struct irq_line **at = &irqs->pins[pin].lines, *l;

	while (*at && (*at)->trigger != trigger)
		at = &(*at)->next;
	l = *at;
	if (!l)
		return;
	line_disconnect(irqs, pin, l);
	*at = l->next;
	free(l);
}

/* --- what the IOAPIC has to say --- */

static void pin_send(struct ioapic *io, unsigned pin)
{
	struct irqs *irqs = owner(io);
	struct irq_route r = { .source = IRQ_SOURCE_IOAPIC, .msg = ioapic_message(io, pin) };

	irq_route_resolve(irqs, &r, true);
	irqs_send(irqs, &r.out);
}

static void pin_changed(struct ioapic *io, unsigned pin)
{
	struct irqs *irqs = owner(io);
	struct irq_pin *p = &irqs->pins[pin];

	p->route.msg = ioapic_message(io, pin);
	if (!ioapic_masked(io, pin) && (irq_route_resolve(irqs, &p->route, true) || !p->routed)) {
		p->routed = true;
		if (irq_send_routes(irqs))
			log_limited(&irqs->limit, LOG_WARN, "irq: KVM refuses the route of line %u",
				pin);
	}
	lines_update(irqs, pin);
}

static void pin_ended(struct ioapic *io, unsigned pin)
{
	for (struct irq_line *l = owner(io)->pins[pin].lines; l; l = l->next)
		if (l->resample >= 0)
			kick(l->resample);
}

static const struct ioapic_ops ops = {
	.send = pin_send,
	.changed = pin_changed,
	.ended = pin_ended,
};

bool irq_pins_resolve(struct irqs *irqs)
{
	bool changed = false;

	for (unsigned pin = 0; pin < GSI_IOAPIC_COUNT; pin++)
		if (irqs->pins[pin].routed && !ioapic_masked(&irqs->ioapic, pin))
			changed |= irq_route_resolve(irqs, &irqs->pins[pin].route, false);
	return changed;
}

/* --- life --- */

void irq_pins_init(struct irqs *irqs)
{
	irqs->ioapic.ops = &ops;
	ioapic_reset(&irqs->ioapic);
	for (unsigned pin = 0; pin < GSI_IOAPIC_COUNT; pin++)
		irqs->pins[pin].route.source = IRQ_SOURCE_IOAPIC;
}

void irq_pins_reset(struct irqs *irqs)
{
	ioapic_reset(&irqs->ioapic);
	for (unsigned pin = 0; pin < GSI_IOAPIC_COUNT; pin++) {
		lines_update(irqs, pin);
		irqs->pins[pin].routed = false;
	}
}

void irq_pins_fini(struct irqs *irqs)
{
	for (unsigned pin = 0; pin < GSI_IOAPIC_COUNT; pin++)
		while (irqs->pins[pin].lines)
			irq_pin_disconnect(irqs, pin, irqs->pins[pin].lines->trigger);
}

/* --- its registers --- */

static uint64_t bus_read(void *self, uint64_t off, unsigned size)
{
	struct irqs *irqs = self;
	uint64_t value;

	pthread_mutex_lock(&irqs->lock);
	value = ioapic_read(&irqs->ioapic, off, size);
	pthread_mutex_unlock(&irqs->lock);
	return value;
}

static void bus_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct irqs *irqs = self;

	pthread_mutex_lock(&irqs->lock);
	ioapic_write(&irqs->ioapic, off, size, value);
	pthread_mutex_unlock(&irqs->lock);
}

int irqs_register(struct irqs *irqs, struct io_bus *bus)
{
	static const struct io_ops io_ops = { bus_read, bus_write };
	const struct io_region region = {
		.base = LAYOUT_IOAPIC,
		.size = 0x1000,
		.ops = &io_ops,
		.self = irqs,
		.name = "IOAPIC",
	};

	return irqs->kvm->split_irqchip ? io_add(bus, IO_MMIO, &region) : 0;
}

void irqs_eoi(struct irqs *irqs, uint8_t vector)
{
	pthread_mutex_lock(&irqs->lock);
	ioapic_eoi(&irqs->ioapic, vector);
	pthread_mutex_unlock(&irqs->lock);
}
