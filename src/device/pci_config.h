/*
 * pci_config.h - the configuration space of a PCI function, type 0 header
 *
 * Bytes, and for each byte the bits that a write may change. What a model puts in at
 * start is what a reset brings back. The front-end keeps its own idea of BARs and
 * interrupt routing; here they are plain registers.
 */
#ifndef DEVICE_PCI_CONFIG_H
#define DEVICE_PCI_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PCI_CONFIG_CONVENTIONAL 256u
#define PCI_CONFIG_EXPRESS	4096u

struct pci_config {
	uint32_t size; /* 256 or 4096 */
	uint32_t cap_end, last_cap;
	uint8_t bytes[PCI_CONFIG_EXPRESS];
	uint8_t mask[PCI_CONFIG_EXPRESS];    /* bits that a write changes */
	uint8_t initial[PCI_CONFIG_EXPRESS]; /* what a reset brings back */
};

struct pci_ids {
	uint16_t vendor, device;
	uint16_t subvendor, subdevice;
	uint32_t class_code; /* base class, sub-class, programming interface */
	uint8_t revision;
};

/* A header with identity, command, cache line and interrupt line registers. */
void pci_config_init(struct pci_config *c, uint32_t size, const struct pci_ids *ids);

/*
 * BAR idx of size bytes (a power of two; I/O at least 4, memory at least 16).
 * type holds PCI_BASE_ADDRESS_* bits; a 64-bit BAR takes idx + 1 too.
 */
void pci_config_add_bar(struct pci_config *c, unsigned idx, uint64_t size, uint32_t type);

/* The function interrupts on pin 1 (INTA#) to 4. */
void pci_config_set_pin(struct pci_config *c, uint8_t pin);

/*
 * Append a capability: its id, then len bytes of body and which of their bits may be
 * written (NULL: none). Returns its offset; the caller is expected to fit them all (assert).
 */
uint32_t pci_config_add_cap(
	struct pci_config *c, uint8_t id, const void *body, const void *mask, size_t len);

/* [off, off + len) lies inside the space: the caller has checked. Any length and alignment. */
void pci_config_read(const struct pci_config *c, uint32_t off, void *buf, size_t len);
void pci_config_write(struct pci_config *c, uint32_t off, const void *buf, size_t len);

uint16_t pci_config_get16(const struct pci_config *c, uint32_t off);
/* Set without regard to the mask: for what the device itself changes. */
void pci_config_set16(struct pci_config *c, uint32_t off, uint16_t value);

void pci_config_reset(struct pci_config *c);

/* The space as text, two digits a byte, for a saved state; text holds 2 * c->size + 1 bytes. */
void pci_config_to_hex(const struct pci_config *c, char *text);
/* Take the writable bits from such a text. 0 or -EINVAL: wrong length or digits. */
int pci_config_from_hex(struct pci_config *c, const char *text);

#endif
