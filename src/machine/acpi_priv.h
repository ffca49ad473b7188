/*
 * acpi_priv.h - how tables are begun and ended, for the files that build them
 */
#ifndef MACHINE_ACPI_PRIV_H
#define MACHINE_ACPI_PRIV_H

#include "machine/acpi.h"
#include "machine/aml.h"

/* The offset of the new table. */
size_t acpi_table_begin(struct aml *a, const char *signature, uint8_t revision);
/* Fill in its length and checksum. */
void acpi_table_end(struct aml *a, size_t start);

/* acpi_dsdt.c: its devices, and the little code that goes with them */
size_t acpi_add_dsdt(struct aml *a, const struct acpi_params *p);

/* acpi_iommu.c: what translates addresses, and what remaps interrupts */
size_t acpi_add_viot(struct aml *a, const struct acpi_viot *v);
size_t acpi_add_dmar(struct aml *a, const struct acpi_params *p);

#endif
