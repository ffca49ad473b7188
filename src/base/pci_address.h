/*
 * pci_address.h - how a PCI function of the host is called: DDDD:BB:DD.F
 *
 * Domains of Linux have 32 bits (those behind a Volume Management Device begin at 0x10000).
 */
#ifndef BASE_PCI_ADDRESS_H
#define BASE_PCI_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

struct pci_address {
	uint32_t domain;
	uint8_t bus;
	uint8_t device;	  /* 0 to 31 */
	uint8_t function; /* 0 to 7 */
};

/* "10000:e1:00.0" with its NUL. */
#define PCI_ADDRESS_ROOM 18

/*
 * Read DDDD:BB:DD.F or BB:DD.F (domain 0), hexadecimal in either case, and nothing behind it. 0 or
 * -EINVAL. Any thread.
 */
int pci_address_parse(const char *text, struct pci_address *out);

/*
 * The same for what stands behind the last slash of a path, slashes at its end left out:
 * "/sys/bus/pci/devices/0000:00:05.0/". 0 or -EINVAL. Any thread.
 */
int pci_address_of_path(const char *path, struct pci_address *out);

/* As the kernel writes it, domain first. text has PCI_ADDRESS_ROOM bytes. */
void pci_address_print(const struct pci_address *address, char *text);

bool pci_address_equal(const struct pci_address *a, const struct pci_address *b);

#endif
