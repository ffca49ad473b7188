/*
 * probe.h - a device with one of everything, for a hostile client to try
 *
 * Unlike the real models it does whatever its client tells it to: copy memory, raise any
 * interrupt, from a message or from a timer.
 *
 *   BAR0  16 KiB; 0x1000 and 0x3000 may be mapped, a page each; doorbells at 0x800, 0x804 (one
 *         eventfd, two values) and 0x808 (another one); struct registers of probe.c at 0
 *   BAR1  4 KiB, read-only, reads as 0xa5
 *   BAR5  4 KiB, may be mapped whole
 *   INTx, 4 MSI, 40 MSI-X
 */
#ifndef TESTS_WIRE_PROBE_H
#define TESTS_WIRE_PROBE_H

#include "base/loop.h"
#include "device/pci_model.h"

/* Borrows loop. Gives *out, to be freed with pci_model_free(). 0 or -errno. */
int probe_new(struct pci_model **out, struct loop *loop);

#endif
