/*
 * smbios.h - what the machine calls itself: a minimal SMBIOS 3
 *
 * Threads: any; no state is kept.
 */
#ifndef MACHINE_SMBIOS_H
#define MACHINE_SMBIOS_H

#include <stddef.h>
#include <stdint.h>

/*
 * Build entry point and structures as they lie at guest address base. Gives *out (free()) and its
 * size; -ENOMEM.
 */
int smbios_build(uint64_t base, uint8_t **out, size_t *size);

#endif
