/*
 * acpi.h - find ACPI tables, starting at the RSDP that the loader named
 *
 * Nothing is believed that does not fit: a table is given only if its length is sane.
 */
#ifndef GUEST_ACPI_H
#define GUEST_ACPI_H

#include <stdint.h>

#define ACPI_HEADER_SIZE 36

/* The address of the n-th table with a signature, or 0. */
uint64_t acpi_table(const char *signature, unsigned n);
/* The address of entry i of the XSDT, or 0 past its end. */
uint64_t acpi_xsdt_entry(unsigned i);
/* The sum of len bytes at addr, modulo 256. */
uint8_t acpi_sum(uint64_t addr, uint64_t len);

/* The ECAM window of an MCFG entry; 0 past its end. */
uint64_t acpi_ecam(unsigned i, unsigned *segment, unsigned *last_bus);
/*
 * The address of the generic event device's status byte, or 0: the DSDT's operation region in
 * memory that is one byte long. It lies at the start of the platform device area.
 */
uint64_t acpi_event_device(void);

#endif
