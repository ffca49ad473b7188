/* ioapic.c - see ioapic.h */
#include "machine/ioapic.h"

#include "base/util.h"

/* Offsets in its page */
enum { SELECT = 0x00, WINDOW = 0x10, END_OF_INTERRUPT = 0x40 };
/* Registers behind the window; entries are two each */
enum { REG_ID = 0, REG_VERSION = 1, REG_ARBITRATION = 2, REG_ENTRIES = 0x10 };

#define VERSION (0x20u | (GSI_IOAPIC_COUNT - 1) << 16)

#define ENTRY_STATUS	 (1ull << 12)
#define ENTRY_REMOTE_IRR (1ull << 14) /* a level-triggered one was sent and has not ended */
#define ENTRY_LEVEL	 (1ull << 15)
#define ENTRY_MASKED	 (1ull << 16)
#define ENTRY_READ_ONLY	 (ENTRY_STATUS | ENTRY_REMOTE_IRR)
#define ENTRY_LOW	 0x1ffffull /* of the low half; the rest is reserved */

#define MSI_ASSERT (1u << 14)

void ioapic_reset(struct ioapic *io)
{
	io->select = io->id = 0;
	for (unsigned pin = 0; pin < GSI_IOAPIC_COUNT; pin++)
		io->entries[pin] = ENTRY_MASKED;
}

bool ioapic_masked(const struct ioapic *io, unsigned pin)
{
	return io->entries[pin] & ENTRY_MASKED;
}

/*
 * Bit 11 of an entry is the destination mode, or the index' uppermost
 * bit: bit 2 of the address, both.
 */
struct msi_message ioapic_message(const struct ioapic *io, unsigned pin)
{
	uint64_t e = io->entries[pin];

	return (struct msi_message){
		.addr = LAYOUT_LAPIC | (e >> 48) << 4 | (e >> 11 & 1) << 2,
		.data = (uint32_t)(e & 0x87ff) | MSI_ASSERT,
	};
}

/* A level stands, or an edge has come. */
static void service(struct ioapic *io, unsigned pin)
{
	if (io->entries[pin] & (ENTRY_MASKED | ENTRY_REMOTE_IRR))
		return;
	if (io->entries[pin] & ENTRY_LEVEL)
		io->entries[pin] |= ENTRY_REMOTE_IRR;
	io->ops->send(io, pin);
}

static void service_level(struct ioapic *io, unsigned pin)
{
	if (io->up[pin] && io->entries[pin] & ENTRY_LEVEL)
		service(io, pin);
}

void ioapic_set_line(struct ioapic *io, unsigned pin, bool up)
{
	bool rises = up && !io->up[pin];

	io->up[pin] = up;
	if (rises)
		service(io, pin);
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
	for (unsigned pin = 0; pin < GSI_IOAPIC_COUNT; pin++) {
		if (!(io->entries[pin] & ENTRY_LEVEL) || (io->entries[pin] & 0xff) != vector)
			continue;
		io->entries[pin] &= ~ENTRY_REMOTE_IRR;
		io->ops->ended(io, pin);
		service_level(io, pin);
	}
}

static void write_entry(struct ioapic *io, unsigned reg, uint32_t value)
{
	unsigned pin = (reg - REG_ENTRIES) / 2;
	uint64_t *e = &io->entries[pin], before = *e;

	if (reg & 1)
		*e = (*e & UINT32_MAX) | (uint64_t)value << 32;
	else
		*e = (*e & ~(uint64_t)UINT32_MAX) | (*e & ENTRY_READ_ONLY) |
		     (value & ENTRY_LOW & ~ENTRY_READ_ONLY);
	/* What waits for its end waits no more as an edge. */
	if (!(*e & ENTRY_LEVEL))
		*e &= ~ENTRY_REMOTE_IRR;
	if ((*e ^ before) & ~ENTRY_READ_ONLY)
		io->ops->changed(io, pin);
	service_level(io, pin);
}

static void write_window(struct ioapic *io, uint32_t value)
{
	if (io->select == REG_ID)
		io->id = value >> 24 & 0xf;
	else if (io->select >= REG_ENTRIES && io->select < REG_ENTRIES + 2 * GSI_IOAPIC_COUNT)
		write_entry(io, io->select, value);
}

static uint32_t read_window(const struct ioapic *io)
{
	unsigned reg = io->select;

	if (reg == REG_ID || reg == REG_ARBITRATION)
		return (uint32_t)io->id << 24;
	if (reg == REG_VERSION)
		return VERSION;
	if (reg >= REG_ENTRIES && reg < REG_ENTRIES + 2 * GSI_IOAPIC_COUNT)
		return (uint32_t)(io->entries[(reg - REG_ENTRIES) / 2] >> (reg & 1 ? 32 : 0));
	return 0;
}

uint64_t ioapic_read(const struct ioapic *io, uint64_t off, unsigned size)
{
	if (off == SELECT)
		return io->select;
	return off == WINDOW ? read_window(io) : 0;
}

void ioapic_write(struct ioapic *io, uint64_t off, unsigned size, uint64_t value)
{
	if (off == SELECT)
		io->select = (uint8_t)value;
	else if (off == WINDOW)
		write_window(io, (uint32_t)value);
	else if (off == END_OF_INTERRUPT)
		ioapic_eoi(io, (uint8_t)value);
}
