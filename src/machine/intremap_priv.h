/*
 * intremap_priv.h - one remapping unit: its registers, and what its files share
 *
 * Locks: write_lock is held over a whole write of a register, so that commands and the queue go one
 * at a time; inside it whoever looks up messages (irqs->lock); inside that `lock`, which guards the
 * registers and the table that is in use.
 */
#ifndef MACHINE_INTREMAP_PRIV_H
#define MACHINE_INTREMAP_PRIV_H

#include <pthread.h>

#include "machine/intremap.h"

/* Registers, by their offsets; 10.4 */
enum {
	R_VER = 0x00,
	R_CAP = 0x08,
	R_ECAP = 0x10,
	R_GCMD = 0x18,
	R_GSTS = 0x1c,
	R_RTADDR = 0x20,
	R_FSTS = 0x34,
	R_FECTL = 0x38,
	R_FEDATA = 0x3c,
	R_FEADDR = 0x40,
	R_FEUADDR = 0x44,
	R_IQH = 0x80,
	R_IQT = 0x88,
	R_IQA = 0x90,
	R_ICS = 0x9c,
	R_IECTL = 0xa0,
	R_IEDATA = 0xa4,
	R_IEADDR = 0xa8,
	R_IEUADDR = 0xac,
	R_IRTA = 0xb8,
	R_IOTLB = 0xf0, /* nothing to be invalidated here: reads 0 */
	R_FRCD = 0x220,
	R_END = 0x2a0,
};
#define NR_FRCD 8

/* Global command and status */
#define G_SRTP (1u << 30)
#define G_QIE  (1u << 26)
#define G_IRE  (1u << 25)
#define G_SIRTP (1u << 24)
#define G_CFI  (1u << 23)

/* Fault status */
#define FSTS_PFO (1u << 0)
#define FSTS_PPF (1u << 1)
#define FSTS_IQE (1u << 4)
#define FSTS_FRI_SHIFT 8
#define FSTS_FRI (0xffu << FSTS_FRI_SHIFT)

/* Control registers of the two events: masked, and one is waiting */
#define EVENT_MASK    (1u << 31)
#define EVENT_PENDING (1u << 30)
#define ICS_IWC	      (1u << 0)

/* Why a message is blocked; 7.1.3 */
enum ir_fault {
	IR_OK = 0,
	IR_FAULT_REQUEST = 0x20, /* reserved bits in the message */
	IR_FAULT_INDEX = 0x21,	 /* past the table's end */
	IR_FAULT_ABSENT = 0x22,
	IR_FAULT_TABLE = 0x23,	/* the table is not in memory */
	IR_FAULT_ENTRY = 0x24,	/* reserved bits in the entry */
	IR_FAULT_COMPAT = 0x25, /* a message that names no entry */
	IR_FAULT_SOURCE = 0x26, /* another's entry */
};

struct ir_unit {
	struct intremap *ir;
	unsigned segment;
	pthread_mutex_t write_lock;
	pthread_mutex_t lock;
	uint32_t regs[R_END / 4];
	uint64_t table;	     /* of entries, as it was at the last SIRTP */
	uint32_t nr_entries;
	bool eim;	     /* destinations have 32 bits */
	unsigned next_frcd;
};

struct intremap {
	struct intremap_params p;
	struct ir_unit *units; /* [p.nr_segments] */
};

static inline uint32_t ir_reg(const struct ir_unit *u, unsigned off)
{
	return u->regs[off / 4];
}

static inline uint64_t ir_reg64(const struct ir_unit *u, unsigned off)
{
	return ir_reg(u, off) | (uint64_t)ir_reg(u, off + 4) << 32;
}

static inline void ir_set(struct ir_unit *u, unsigned off, uint32_t value)
{
	u->regs[off / 4] = value;
}

/* --- lock held --- */

/* What a message means by the unit's table. *index is of the entry that it names. */
enum ir_fault ir_lookup(struct ir_unit *u, uint16_t sid, const struct msi_message *msg,
	struct msi_message *out, uint16_t *index, bool *quiet);
/* Write a fault record, and tell the guest. */
void ir_record(struct ir_unit *u, uint16_t sid, enum ir_fault fault, uint16_t index);
/* A bit of the fault status register other than of records is set: tell the guest. */
void ir_fault_event(struct ir_unit *u, uint32_t bit);
/* An event whose control, data and address registers begin at `ctl`. */
void ir_raise(struct ir_unit *u, unsigned ctl);
/* Its control register was written: what waited while it was masked goes now. */
void ir_unmasked(struct ir_unit *u, unsigned ctl, bool waits);

/* --- write_lock held, lock not --- */

/* Carry out what is in the queue. */
void ir_run_queue(struct ir_unit *u);

#endif
