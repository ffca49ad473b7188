/*
 * smp.h - other processors, for tests that want several at once
 *
 * They stay in ring 0, halted, and run one function at a time when called.
 */
#ifndef GUEST_SMP_H
#define GUEST_SMP_H

#include <stdbool.h>
#include <stdint.h>

#define SMP_MAX 254

/* How many other enabled processors ACPI names. */
unsigned smp_count(void);
/* Start them all by INIT and SIPI, one after the other. Gives how many came up. */
unsigned smp_start(void);
/* The APIC id ACPI gives for processor i, and the one it found itself. */
uint32_t smp_acpi_id(unsigned i);
uint32_t smp_own_id(unsigned i);
/* Have processor i run fn(a, b), by an IPI. It must be idle. */
void smp_call(unsigned i, uint64_t (*fn)(uint64_t, uint64_t), uint64_t a, uint64_t b);
/* Wait until it is idle again and give what fn returned. False: not within ten seconds. */
bool smp_wait(unsigned i, uint64_t *result);

#endif
