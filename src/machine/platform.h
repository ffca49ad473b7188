/*
 * platform.h - the few parts a PC cannot do without
 *
 *   0x60, 0x64     keyboard controller: nothing there, but command 0xfe resets
 *   0x61           system control port B
 *   0x70, 0x71     clock and CMOS memory
 *   0x80           boot progress codes, logged at debug level
 *   0x600, 0x601   ACPI sleep control and status; reset register
 *   0x608          ACPI PM timer
 *   platform area  generic event device (GED)
 *
 * Threads: ports on vCPU threads; platform_power_button() on any; the others when no vCPU runs.
 */
#ifndef MACHINE_PLATFORM_H
#define MACHINE_PLATFORM_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/io.h"

/* What the parts set off. On vCPU threads, ged_irq on the power button's too; must not wait. */
struct platform_ops {
	void (*reset)(void *arg);		  /* the guest asks for a reset */
	void (*shutdown)(void *arg);		  /* it has switched itself off (S5) */
	void (*ged_irq)(void *arg, bool level);	  /* line GSI_GED, edge-triggered */
	void (*progress)(void *arg, uint8_t code); /* a code on port 0x80; may be NULL */
};

struct platform_params {
	const struct platform_ops *ops; /* borrowed, as arg is */
	void *arg;
	uint64_t ram_low, ram_high; /* bytes of RAM below and above 4 GiB */
	uint64_t platform_base;	    /* pci_platform_base() */
};

struct platform;

/* Put all parts on the bus, which is borrowed. 0, gives *out; or -errno. */
int platform_new(struct io_bus *bus, const struct platform_params *p, struct platform **out);
/* NULL is fine. */
void platform_free(struct platform *pf);

/* The guest is reset. The clock goes on. */
void platform_reset(struct platform *pf);

/* Events of the generic event device, as the DSDT's _EVT reads them */
enum ged_event { GED_CPU = 1, GED_MEMORY = 2, GED_PCI = 4, GED_POWER_BUTTON = 8 };

/* Tell the guest of events, an or of enum ged_event. */
void platform_ged_notify(struct platform *pf, unsigned events);

/* Has the guest's operating system taken notice of the GED since its last reset? */
bool platform_ged_used(const struct platform *pf);

static inline void platform_power_button(struct platform *pf)
{
	platform_ged_notify(pf, GED_POWER_BUTTON);
}

#endif
