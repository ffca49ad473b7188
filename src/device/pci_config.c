#include "device/pci_config.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"

static void put16(uint8_t *at, uint16_t v)
{
	memcpy(at, &v, sizeof(v));
}

static void put32(uint8_t *at, uint32_t v)
{
	memcpy(at, &v, sizeof(v));
}

/* The model's own setting of a register: what is there now and after a reset. */
static void preset(struct pci_config *c, uint32_t off, const void *value, size_t len)
{
	assert(range_ok(off, len, c->size));
	memcpy(c->bytes + off, value, len);
	memcpy(c->initial + off, value, len);
}

void pci_config_init(struct pci_config *c, uint32_t size, const struct pci_ids *ids)
{
	uint8_t header[PCI_STD_HEADER_SIZEOF] = { 0 };

	assert(size == PCI_CONFIG_CONVENTIONAL || size == PCI_CONFIG_EXPRESS);
	*c = (struct pci_config){ .size = size, .cap_end = PCI_STD_HEADER_SIZEOF };
	put16(header + PCI_VENDOR_ID, ids->vendor);
	put16(header + PCI_DEVICE_ID, ids->device);
	put32(header + PCI_CLASS_REVISION, ids->class_code << 8 | ids->revision);
	put16(header + PCI_SUBSYSTEM_VENDOR_ID, ids->subvendor);
	put16(header + PCI_SUBSYSTEM_ID, ids->subdevice);
	preset(c, 0, header, sizeof(header));

	put16(c->mask + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
					     PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
					     PCI_COMMAND_INTX_DISABLE);
	c->mask[PCI_CACHE_LINE_SIZE] = 0xff;
	c->mask[PCI_LATENCY_TIMER] = 0xff;
	c->mask[PCI_INTERRUPT_LINE] = 0xff;
}

void pci_config_add_bar(struct pci_config *c, unsigned idx, uint64_t size, uint32_t type)
{
	uint32_t off = PCI_BASE_ADDRESS_0 + 4 * idx;
	bool io = type & PCI_BASE_ADDRESS_SPACE_IO;
	bool wide = !io && type & PCI_BASE_ADDRESS_MEM_TYPE_64;
	uint64_t mask = ~(size - 1);

	assert(idx < (wide ? 5 : 6) && is_pow2(size) && size >= (io ? 4 : 16));
	preset(c, off, &type, sizeof(type));
	put32(c->mask + off, (uint32_t)mask);
	if (wide)
		put32(c->mask + off + 4, (uint32_t)(mask >> 32));
}

void pci_config_set_pin(struct pci_config *c, uint8_t pin)
{
	preset(c, PCI_INTERRUPT_PIN, &pin, 1);
}

uint32_t pci_config_add_cap(
	struct pci_config *c, uint8_t id, const void *body, const void *mask, size_t len)
{
	uint32_t at = (uint32_t)align_up(c->cap_end, 4);
	uint32_t link = c->last_cap ? c->last_cap + PCI_CAP_LIST_NEXT : PCI_CAPABILITY_LIST;
	uint8_t next = (uint8_t)at, head[2] = { id, 0 };
	uint16_t status = pci_config_get16(c, PCI_STATUS) | PCI_STATUS_CAP_LIST;

	assert(range_ok(at, sizeof(head) + len, PCI_CONFIG_CONVENTIONAL));
	preset(c, PCI_STATUS, &status, sizeof(status));
	preset(c, link, &next, 1);
	preset(c, at, head, sizeof(head));
	preset(c, at + sizeof(head), body, len);
	if (mask)
		memcpy(c->mask + at + sizeof(head), mask, len);
	c->last_cap = at;
	c->cap_end = at + (uint32_t)(sizeof(head) + len);
	return at;
}

void pci_config_read(const struct pci_config *c, uint32_t off, void *buf, size_t len)
{
	memcpy(buf, c->bytes + off, len);
}

void pci_config_write(struct pci_config *c, uint32_t off, const void *buf, size_t len)
{
	const uint8_t *src = buf;

	for (size_t i = 0; i < len; i++) {
		uint8_t mask = c->mask[off + i];

		c->bytes[off + i] = (c->bytes[off + i] & ~mask) | (src[i] & mask);
	}
}

uint16_t pci_config_get16(const struct pci_config *c, uint32_t off)
{
	uint16_t v;

	memcpy(&v, c->bytes + off, sizeof(v));
	return v;
}

void pci_config_set16(struct pci_config *c, uint32_t off, uint16_t value)
{
	put16(c->bytes + off, value);
}

void pci_config_reset(struct pci_config *c)
{
	memcpy(c->bytes, c->initial, c->size);
}

void pci_config_to_hex(const struct pci_config *c, char *text)
{
	static const char digits[] = "0123456789abcdef";

	for (uint32_t i = 0; i < c->size; i++) {
		*text++ = digits[c->bytes[i] >> 4];
		*text++ = digits[c->bytes[i] & 15];
	}
	*text = 0;
}

static int digit(char ch)
{
	return ch >= '0' && ch <= '9' ? ch - '0' : ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

int pci_config_from_hex(struct pci_config *c, const char *text)
{
	uint8_t bytes[PCI_CONFIG_EXPRESS];

	if (strlen(text) != 2 * (size_t)c->size)
		return -EINVAL;
	for (uint32_t i = 0; i < c->size; i++) {
		int hi = digit(text[2 * i]), lo = digit(text[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -EINVAL;
		bytes[i] = (uint8_t)(hi << 4 | lo);
	}
	pci_config_write(c, 0, bytes, c->size);
	return 0;
}
