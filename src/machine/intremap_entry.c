/*
 * intremap_entry.c - what a message means: the entry that it names, and whether its sender may use
 * it
 *
 * Trusts: nothing. The table may be anywhere, its entries anything; an entry is read once.
 * Spec: Intel VT-d 3.3, 5.1.2 (messages), 5.1.3 (checks), 9.10 (entries).
 */
#include "machine/intremap_priv.h"

/* A message's address */
#define MSG_BASE	0xfee00000u
#define MSG_BASE_MASK	0xfff00000u
#define MSG_REMAPPABLE	(1u << 4)
#define MSG_SUBHANDLE	(1u << 3)

/* An entry's low half */
#define ENTRY_PRESENT	    (1ull << 0)
#define ENTRY_QUIET	    (1ull << 1) /* its faults are not recorded */
#define ENTRY_LOGICAL	    (1ull << 2)
#define ENTRY_REDIRECT	    (1ull << 3)
#define ENTRY_LEVEL	    (1ull << 4)
#define ENTRY_MODE_SHIFT    5
#define ENTRY_VECTOR_SHIFT  16
#define ENTRY_DEST_SHIFT    32
#define ENTRY_RESERVED	    0xff00f000ull /* the one for posted interrupts among them */
#define ENTRY_RESERVED_XAPIC 0xffff00ff00000000ull /* without 32-bit destinations */
/* and its high half */
#define ENTRY_HIGH_RESERVED 0xfffffffffff00000ull

/* What KVM takes */
#define MSI_REDIRECT (1u << 3)
#define MSI_LOGICAL  (1u << 2)
#define MSI_LEVEL    (1u << 15)
#define MSI_ASSERT   (1u << 14)

/* 9.10, SVT and SQ: which bits of the sender's id have to be those of the entry. */
static bool may_use(uint64_t high, uint16_t sid)
{
	static const uint16_t compared[] = { 0xffff, 0xfffb, 0xfff9, 0xfff8 };
	uint16_t owner = (uint16_t)high, mask = compared[high >> 16 & 3];

	switch (high >> 18 & 3) {
	case 0:
		return true;
	case 1:
		return (sid & mask) == (owner & mask);
	case 2:
		return sid >> 8 >= owner >> 8 && sid >> 8 <= (owner & 0xff);
	default: /* refused as reserved before */
		return false;
	}
}

static bool has_reserved(const struct ir_unit *u, uint64_t low, uint64_t high)
{
	return low & ENTRY_RESERVED || (!u->eim && low & ENTRY_RESERVED_XAPIC) ||
	       high & ENTRY_HIGH_RESERVED || (high >> 18 & 3) == 3;
}

static void to_message(const struct ir_unit *u, uint64_t low, struct msi_message *out)
{
	uint32_t dest = (uint32_t)(low >> ENTRY_DEST_SHIFT), addr = MSG_BASE;
	uint32_t data = (uint32_t)(low >> ENTRY_VECTOR_SHIFT & 0xff) | MSI_ASSERT;

	if (!u->eim)
		dest >>= 8;
	addr |= (dest & 0xff) << 12;
	addr |= low & ENTRY_REDIRECT ? MSI_REDIRECT : 0;
	addr |= low & ENTRY_LOGICAL ? MSI_LOGICAL : 0;
	data |= (uint32_t)(low >> ENTRY_MODE_SHIFT & 7) << 8;
	data |= low & ENTRY_LEVEL ? MSI_LEVEL : 0;
	out->addr = (uint64_t)(dest & 0xffffff00) << 32 | addr;
	out->data = data;
}

static enum ir_fault by_entry(struct ir_unit *u, uint16_t sid, uint16_t index,
	struct msi_message *out, bool *quiet)
{
	uint64_t entry[2], low, high;

	if (u->table > UINT64_MAX - index * sizeof(entry) ||
		memory_read(
			u->ir->p.memory, u->table + index * sizeof(entry), entry, sizeof(entry)))
		return IR_FAULT_TABLE;
	low = entry[0];
	high = entry[1];
	*quiet = low & ENTRY_QUIET;
	if (!(low & ENTRY_PRESENT))
		return IR_FAULT_ABSENT;
	if (has_reserved(u, low, high))
		return IR_FAULT_ENTRY;
	if (!may_use(high, sid))
		return IR_FAULT_SOURCE;
	to_message(u, low, out);
	return IR_OK;
}

/* One that names its processor and vector itself. */
static enum ir_fault compatible(
	const struct ir_unit *u, const struct msi_message *msg, struct msi_message *out)
{
	uint32_t status = ir_reg(u, R_GSTS);

	if (status & G_IRE && (u->eim || !(status & G_CFI)))
		return IR_FAULT_COMPAT;
	*out = *msg;
	return IR_OK;
}

enum ir_fault ir_lookup(struct ir_unit *u, uint16_t sid, const struct msi_message *msg,
	struct msi_message *out, uint16_t *index, bool *quiet)
{
	uint32_t addr = (uint32_t)msg->addr, handle;

	*index = 0;
	*quiet = false;
	/* Anything else is a write to memory, which raises nothing. */
	if (msg->addr >> 32 || (addr & MSG_BASE_MASK) != MSG_BASE) {
		*quiet = true;
		return IR_FAULT_REQUEST;
	}
	if (!(ir_reg(u, R_GSTS) & G_IRE) || !(addr & MSG_REMAPPABLE))
		return compatible(u, msg, out);
	handle = (addr >> 5 & 0x7fff) | (addr >> 2 & 1) << 15;
	*index = (uint16_t)handle;
	if (addr & MSG_SUBHANDLE) {
		if (msg->data & 0xffff0000)
			return IR_FAULT_REQUEST;
		handle += msg->data;
		*index = (uint16_t)handle;
	}
	if (handle >= u->nr_entries)
		return IR_FAULT_INDEX;
	return by_entry(u, sid, (uint16_t)handle, out, quiet);
}
