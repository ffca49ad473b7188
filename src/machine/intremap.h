/*
 * intremap.h - an interrupt remapping unit: who may raise what, said by a table in the guest's
 * memory
 *
 * The interrupt half of an Intel IOMMU, one unit for each PCI segment: a page of registers, a
 * table of interrupt entries, a queue by which the guest says that entries have changed. A device's
 * message then names an entry instead of a processor and a vector, and the entry says which device
 * may use it, so that a guest can give a device away (VFIO) without giving away all its interrupts
 * with it. Addresses are not translated here: that is the virtio-iommu's, and the unit says of
 * itself that it cannot (no address width is supported), upon which Linux (5.10 and later) uses it
 * for interrupts alone.
 *
 * Messages are looked up when they are set up and again when the guest has changed entries, not
 * when they are sent: KVM holds what came out, and interrupts pass nobody here. An interrupt that
 * an entry does not allow is lost, as it is in hardware. The guest is told of it (a fault record,
 * with its interrupt) when the message is set up; of one that stops being allowed later, it is not.
 *
 * Threads: any. The registers' writes are one at a time, and bounded: the queue has at most 32768
 * descriptors, and all that a write finds in it leads to one new table for KVM at most.
 * Spec: Intel VT-d 3.3, 5 (interrupt remapping), 6.5.2 (queued invalidation), 7 (faults), 10.4.
 */
#ifndef MACHINE_INTREMAP_H
#define MACHINE_INTREMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/io.h"
#include "machine/irq.h"
#include "machine/layout.h"
#include "machine/memory.h"

struct intremap;

struct intremap_ops {
	/* Entries have changed: each message that is in use is to be looked up again. */
	void (*changed)(void *arg);
	/* Send an interrupt of the unit itself, whose message is not remapped. May not wait. */
	void (*send)(void *arg, const struct msi_message *msg);
};

struct intremap_params {
	const struct intremap_ops *ops; /* borrowed, as arg and memory are */
	void *arg;
	struct memory *memory;
	unsigned nr_segments;
	unsigned phys_bits;
};

/* 0, gives *out; or -ENOMEM. */
int intremap_new(const struct intremap_params *p, struct intremap **out);
void intremap_free(struct intremap *ir);
/* Put all units' registers on the bus, at LAYOUT_INTREMAP, a page each. 0 or -errno. */
int intremap_register(struct intremap *ir, struct io_bus *bus);

/* The guest is reset: nothing is remapped. No vCPU runs. */
void intremap_reset(struct intremap *ir);

/*
 * What a message means that requester `source` (segment << 16 | bus, device, function) sends: in
 * *out, for KVM with 32-bit destinations. False: it is blocked; with `report` the guest is told.
 * Takes only locks of its own.
 */
bool intremap_resolve(struct intremap *ir, uint32_t source, const struct msi_message *msg,
	struct msi_message *out, bool report);

/* An access to a unit's registers, as from the bus. */
uint64_t intremap_read(struct intremap *ir, unsigned segment, uint64_t off, unsigned size);
void intremap_write(
	struct intremap *ir, unsigned segment, uint64_t off, unsigned size, uint64_t value);

#endif
