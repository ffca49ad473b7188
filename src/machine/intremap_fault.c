/*
 * intremap_fault.c - how a remapping unit tells the guest: fault records and the two events
 *
 * A record stays until the guest clears it. When the next one in turn is still there, the fault is
 * counted as an overflow and lost. The event is sent when nothing that was told before is left.
 *
 * Spec: Intel VT-d 3.3, 7.2 and 7.3 (recording and reporting), 10.4.9 to 10.4.14.
 */
#include "machine/intremap_priv.h"

/* Offsets from an event's control register */
enum { EVENT_DATA = 4, EVENT_ADDR = 8, EVENT_UPPER = 12 };

#define FSTS_ANY (FSTS_PFO | FSTS_PPF | FSTS_IQE)
#define FRCD_F	 (1u << 31)

void ir_raise(struct ir_unit *u, unsigned ctl)
{
	struct msi_message msg = {
		.addr = ir_reg(u, ctl + EVENT_ADDR) |
			(uint64_t)(u->eim ? ir_reg(u, ctl + EVENT_UPPER) : 0) << 32,
		.data = ir_reg(u, ctl + EVENT_DATA),
	};

	if (ir_reg(u, ctl) & EVENT_MASK) {
		ir_set(u, ctl, ir_reg(u, ctl) | EVENT_PENDING);
		return;
	}
	/* Elsewhere it is no interrupt; KVM would refuse it. */
	if ((msg.addr & 0xfffff00000ull) == 0xfee00000)
		u->ir->p.ops->send(u->ir->p.arg, &msg);
}

void ir_unmasked(struct ir_unit *u, unsigned ctl, bool waits)
{
	bool pending = ir_reg(u, ctl) & EVENT_PENDING;

	/* Cleared by being sent, or by the guest's clearing what it was for. */
	if (ir_reg(u, ctl) & EVENT_MASK && waits)
		return;
	ir_set(u, ctl, ir_reg(u, ctl) & ~EVENT_PENDING);
	if (pending && waits)
		ir_raise(u, ctl);
}

void ir_fault_event(struct ir_unit *u, uint32_t bit)
{
	bool told = ir_reg(u, R_FSTS) & FSTS_ANY;

	ir_set(u, R_FSTS, ir_reg(u, R_FSTS) | bit);
	if (!told)
		ir_raise(u, R_FECTL);
}

void ir_record(struct ir_unit *u, uint16_t sid, enum ir_fault fault, uint16_t index)
{
	unsigned at = R_FRCD + u->next_frcd * 16;
	uint32_t fsts = ir_reg(u, R_FSTS);

	if (fsts & FSTS_PFO)
		return;
	if (ir_reg(u, at + 12) & FRCD_F) {
		ir_fault_event(u, FSTS_PFO);
		return;
	}
	ir_set(u, at, 0);
	ir_set(u, at + 4, (uint32_t)index << 16);
	ir_set(u, at + 8, sid);
	ir_set(u, at + 12, FRCD_F | (uint32_t)fault);
	/* The oldest one that is there: the guest reads on from it. */
	if (!(fsts & FSTS_PPF))
		ir_set(u, R_FSTS, (fsts & ~FSTS_FRI) | u->next_frcd << FSTS_FRI_SHIFT);
	u->next_frcd = (u->next_frcd + 1) % NR_FRCD;
	ir_fault_event(u, FSTS_PPF);
}
