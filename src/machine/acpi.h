/*
 * acpi.h - the tables by which the guest learns what the machine consists of
 *
 * Hardware-reduced ACPI 6.3: RSDP, XSDT, FADT, DSDT, MADT, MCFG, VIOT, DMAR, laid one after another
 * from LAYOUT_RSDP on. Built anew for each start of the guest, since guests may use the tables'
 * memory for something else.
 *
 * Threads: any; no state is kept.
 */
#ifndef MACHINE_ACPI_H
#define MACHINE_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "machine/layout.h"
#include "machine/memory.h"
#include "machine/pci.h"

/* An IOMMU of virtio, and the functions behind it. */
struct acpi_viot {
	uint16_t bdf; /* its own, on segment 0 */
	unsigned nr_endpoints;
	uint32_t endpoints[LAYOUT_MAX_SEGMENTS * LAYOUT_PCI_SLOTS]; /* segment << 16 | address */
};

struct acpi_params {
	unsigned boot_vcpus, max_vcpus; /* vCPUs boot_vcpus and up can be brought online later */
	const uint32_t *apic_ids;	/* of max_vcpus vCPUs; NULL: vCPU n has id n */
	unsigned nr_segments;
	const struct pci_windows *const *windows; /* of each segment: pci_segment_windows() */
	uint64_t platform_base;			  /* pci_platform_base() */
	bool serial;				  /* there is a COM1 */
	const struct acpi_viot *viot;		  /* NULL: no IOMMU */
	bool intremap;				  /* interrupts are remapped (intremap.h) */
	unsigned phys_bits;			  /* of guest physical addresses; with intremap */
};

/*
 * Build RSDP and tables as they lie at guest address base (a multiple of 16). Gives *out (free())
 * and its size; -ENOMEM. The XSDT holds what leads to each table.
 */
int acpi_build(const struct acpi_params *p, uint64_t base, uint8_t **out, size_t *size);

/*
 * Write the tables, and SMBIOS (smbios.h), where layout.h says. Gives the RSDP's guest address. 0
 * or -errno with a text (no memory; too many segments and vCPUs for the space below 1 MiB).
 */
int acpi_install(
	const struct acpi_params *p, struct memory *memory, uint64_t *rsdp, struct err *err);

/* The GSI that _PRT gives pin A of a slot, the same on each segment. */
unsigned acpi_intx_gsi(unsigned slot);

#endif
