/*
 * gpio.h - ACCES PCI-IDIO-16: 16 FET outputs, 16 isolated inputs, change-of-state interrupt
 *
 * PCI 494f:0dc8, conventional PCI, BAR2 is 256 bytes of I/O space of which the card
 * decodes eight, INTx.
 *
 * | offset | read                          | write                     |
 * |--------|-------------------------------|---------------------------|
 * | 0      | outputs 0-7                   | outputs 0-7               |
 * | 1      | inputs 0-7                    | clear the interrupt       |
 * | 2      | enable the interrupt          | disable it                |
 * | 3      | filters of all inputs on      | and off                   |
 * | 4      | outputs 8-15                  | outputs 8-15              |
 * | 5      | inputs 8-15                   | -                         |
 * | 6      | interrupt status              | -                         |
 * | 7      | filters of inputs 0-7         | filters of inputs 0-7     |
 *
 * Interrupt status: bit 0 and 1: an input of the low, the high byte has changed; bit 2: the
 * interrupt is pending. The filters only suppress noise on wires, so here they are mere state.
 */
#ifndef DEVICE_GPIO_H
#define DEVICE_GPIO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "device/pci_model.h"

struct gpio_config {
	bool loopback;	 /* outputs are wired to the inputs of the same number */
	uint16_t inputs; /* else the inputs are these, for ever */
	/*
	 * Or they follow a well-known example program: an input is high when the number of times
	 * that a 1 was written to its output is a multiple of 3, and register 0 reads as the number
	 * of its reads so far, divided by 3.
	 */
	bool sample;
	bool watch; /* print each change of a pin to stdout: `OUT3 1` */
};

/* Gives *out, to be freed with pci_model_free(). 0 or -ENOMEM. */
int gpio_new(struct pci_model **out, const struct gpio_config *config);

#endif
