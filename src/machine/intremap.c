/*
 * intremap.c - the registers of interrupt remapping units, and their commands
 *
 * A register is one or two doublewords; rows[] says of each what a write changes, what it clears
 * and what follows. Reads of what is not there give 0, as reserved registers do.
 *
 * A command is done when the write returns: its bit in the status register is what the guest asked
 * for.
 *
 * Owns:    the units. Guest memory and the operations are borrowed.
 * Trusts:  nothing that is written. The table's place counts when the guest says so (SIRTP), not
 *          before.
 * Spec:    Intel VT-d 3.3, 10.4.
 */
#include "machine/intremap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "machine/intremap_priv.h"

#define PAGE 4096u

/* --- what the unit says of itself --- */

#define VERSION 0x10 /* 1.0 */

#define CAP_MGAW_SHIFT 16
#define CAP_FRO_SHIFT  24 /* in 16 bytes */
#define CAP_NFR_SHIFT  40
/* No supported adjusted guest address width (SAGAW): it translates no addresses. */

#define ECAP_COHERENT  (1u << 0)
#define ECAP_QI	       (1u << 1)
#define ECAP_IR	       (1u << 3)
#define ECAP_EIM       (1u << 4)
#define ECAP_IRO_SHIFT 8 /* in 16 bytes */
#define ECAP_MHMV      (15u << 20)

#define IRTA_SIZE 0xfull
#define IRTA_EIME (1ull << 11)

static void say_what_it_is(struct ir_unit *u)
{
	uint64_t cap = (uint64_t)(u->ir->p.phys_bits - 1) << CAP_MGAW_SHIFT |
		       (uint64_t)(R_FRCD / 16) << CAP_FRO_SHIFT |
		       (uint64_t)(NR_FRCD - 1) << CAP_NFR_SHIFT;

	ir_set(u, R_VER, VERSION);
	ir_set(u, R_CAP, (uint32_t)cap);
	ir_set(u, R_CAP + 4, (uint32_t)(cap >> 32));
	ir_set(u, R_ECAP,
		ECAP_COHERENT | ECAP_QI | ECAP_IR | ECAP_EIM | ECAP_MHMV |
			(R_IOTLB / 16) << ECAP_IRO_SHIFT);
	ir_set(u, R_FECTL, EVENT_MASK);
	ir_set(u, R_IECTL, EVENT_MASK);
}

/* --- what follows a write; write_lock held, lock not --- */

static void changed(struct ir_unit *u)
{
	u->ir->p.ops->changed(u->ir->p.arg);
}

/* lock held. */
static void take_table(struct ir_unit *u)
{
	uint64_t irta = ir_reg64(u, R_IRTA);

	u->table = irta & ~(uint64_t)(PAGE - 1);
	u->nr_entries = 2u << (irta & IRTA_SIZE);
	u->eim = irta & IRTA_EIME;
}

static void wrote_command(struct ir_unit *u, uint32_t command)
{
	const uint32_t states = G_QIE | G_IRE | G_CFI;
	uint32_t before, now;

	pthread_mutex_lock(&u->lock);
	before = ir_reg(u, R_GSTS);
	/* The pointers, once set, say so for ever. */
	now = (before & ~states) | (command & (states | G_SIRTP | G_SRTP));
	ir_set(u, R_GSTS, now);
	if (command & G_SIRTP)
		take_table(u);
	if ((before ^ now) & G_QIE)
		ir_set(u, R_IQH, 0);
	pthread_mutex_unlock(&u->lock);
	if (command & G_SIRTP || (before ^ now) & (G_IRE | G_CFI))
		changed(u);
	ir_run_queue(u);
}

static bool fault_waits(const struct ir_unit *u)
{
	return ir_reg(u, R_FSTS) & (FSTS_PFO | FSTS_PPF | FSTS_IQE);
}

static void wrote_fault_control(struct ir_unit *u, uint32_t value)
{
	pthread_mutex_lock(&u->lock);
	ir_unmasked(u, R_FECTL, fault_waits(u));
	pthread_mutex_unlock(&u->lock);
}

/* An error of the queue may have been cleared: it goes on. */
static void wrote_fault_status(struct ir_unit *u, uint32_t value)
{
	wrote_fault_control(u, value);
	ir_run_queue(u);
}

/* A fault is pending as long as one record is. */
static void wrote_record(struct ir_unit *u, uint32_t value)
{
	bool any = false;

	pthread_mutex_lock(&u->lock);
	for (unsigned i = 0; i < NR_FRCD; i++)
		any |= ir_reg(u, R_FRCD + i * 16 + 12) >> 31;
	if (!any)
		ir_set(u, R_FSTS, ir_reg(u, R_FSTS) & ~FSTS_PPF);
	ir_unmasked(u, R_FECTL, fault_waits(u));
	pthread_mutex_unlock(&u->lock);
}

static void wrote_tail(struct ir_unit *u, uint32_t value)
{
	ir_run_queue(u);
}

static void wrote_wait_control(struct ir_unit *u, uint32_t value)
{
	pthread_mutex_lock(&u->lock);
	ir_unmasked(u, R_IECTL, ir_reg(u, R_ICS) & ICS_IWC);
	pthread_mutex_unlock(&u->lock);
}

/* --- accesses --- */

static const struct row {
	uint16_t off;
	uint32_t changes; /* bits that take what is written */
	uint32_t clears;  /* bits that a 1 clears */
	void (*wrote)(struct ir_unit *u, uint32_t value);
} rows[] = {
	{ R_GCMD, 0, 0, wrote_command },
	{ R_RTADDR, 0xfffffc00, 0, NULL },
	{ R_RTADDR + 4, UINT32_MAX, 0, NULL },
	{ R_FSTS, 0, FSTS_PFO | FSTS_IQE, wrote_fault_status },
	{ R_FECTL, EVENT_MASK, 0, wrote_fault_control },
	{ R_FEDATA, 0xffff, 0, NULL },
	{ R_FEADDR, 0xfffffffc, 0, NULL },
	{ R_FEUADDR, UINT32_MAX, 0, NULL },
	{ R_IQT, 0x7fff0, 0, wrote_tail },
	{ R_IQA, 0xfffff807, 0, NULL },
	{ R_IQA + 4, UINT32_MAX, 0, NULL },
	{ R_ICS, 0, ICS_IWC, wrote_wait_control },
	{ R_IECTL, EVENT_MASK, 0, wrote_wait_control },
	{ R_IEDATA, 0xffff, 0, NULL },
	{ R_IEADDR, 0xfffffffc, 0, NULL },
	{ R_IEUADDR, UINT32_MAX, 0, NULL },
	{ R_IRTA, 0xfffff80f, 0, NULL },
	{ R_IRTA + 4, UINT32_MAX, 0, NULL },
};
static const struct row record_row = { 0, 0, 1u << 31, wrote_record };

static const struct row *row_at(uint64_t off)
{
	if (off >= R_FRCD && off < R_END)
		return (off - R_FRCD) % 16 == 12 ? &record_row : NULL;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].off == off)
			return &rows[i];
	return NULL;
}

static void write_dword(struct ir_unit *u, uint64_t off, uint32_t value)
{
	const struct row *row = row_at(off);
	uint32_t before;

	if (!row)
		return;
	pthread_mutex_lock(&u->lock);
	before = ir_reg(u, (unsigned)off) & ~(value & row->clears);
	ir_set(u, (unsigned)off, (before & ~row->changes) | (value & row->changes));
	pthread_mutex_unlock(&u->lock);
	if (row->wrote)
		row->wrote(u, value);
}

/* Registers are written by doublewords and quadwords; anything else is dropped. */
void intremap_write(
	struct intremap *ir, unsigned segment, uint64_t off, unsigned size, uint64_t value)
{
	struct ir_unit *u = &ir->units[segment];

	if (size < 4 || off % size || off >= R_END)
		return;
	pthread_mutex_lock(&u->write_lock);
	for (unsigned i = 0; i < size; i += 4)
		write_dword(u, off + i, (uint32_t)(value >> i * 8));
	pthread_mutex_unlock(&u->write_lock);
}

uint64_t intremap_read(struct intremap *ir, unsigned segment, uint64_t off, unsigned size)
{
	struct ir_unit *u = &ir->units[segment];
	uint64_t value = 0;

	if (!range_ok(off, size, R_END))
		return 0;
	pthread_mutex_lock(&u->lock);
	memcpy(&value, (const char *)u->regs + off, size);
	pthread_mutex_unlock(&u->lock);
	return value;
}

static uint64_t bus_read(void *self, uint64_t off, unsigned size)
{
	struct ir_unit *u = self;

	return intremap_read(u->ir, u->segment, off, size);
}

static void bus_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct ir_unit *u = self;

	intremap_write(u->ir, u->segment, off, size, value);
}

static const struct io_ops bus_ops = { bus_read, bus_write };

int intremap_register(struct intremap *ir, struct io_bus *bus)
{
	int rc = 0;

	for (unsigned i = 0; i < ir->p.nr_segments && !rc; i++) {
		const struct io_region region = {
			.base = LAYOUT_INTREMAP + i * LAYOUT_INTREMAP_UNIT,
			.size = LAYOUT_INTREMAP_UNIT,
			.ops = &bus_ops,
			.self = &ir->units[i],
			.name = "interrupt remapping",
		};

		rc = io_add(bus, IO_MMIO, &region);
	}
	return rc;
}

/* --- messages --- */

bool intremap_resolve(struct intremap *ir, uint32_t source, const struct msi_message *msg,
	struct msi_message *out, bool report)
{
	struct ir_unit *u;
	enum ir_fault fault;
	uint16_t index;
	bool quiet;

	if (source >> 16 >= ir->p.nr_segments)
		return false;
	u = &ir->units[source >> 16];
	pthread_mutex_lock(&u->lock);
	fault = ir_lookup(u, (uint16_t)source, msg, out, &index, &quiet);
	if (fault && report && !quiet)
		ir_record(u, (uint16_t)source, fault, index);
	pthread_mutex_unlock(&u->lock);
	return !fault;
}

/* --- life --- */

static void reset_unit(struct ir_unit *u)
{
	pthread_mutex_lock(&u->write_lock);
	pthread_mutex_lock(&u->lock);
	memset(u->regs, 0, sizeof(u->regs));
	u->table = 0;
	u->nr_entries = 0;
	u->eim = false;
	u->next_frcd = 0;
	say_what_it_is(u);
	pthread_mutex_unlock(&u->lock);
	pthread_mutex_unlock(&u->write_lock);
}

void intremap_reset(struct intremap *ir)
{
	for (unsigned i = 0; i < ir->p.nr_segments; i++)
		reset_unit(&ir->units[i]);
	ir->p.ops->changed(ir->p.arg);
}

int intremap_new(const struct intremap_params *p, struct intremap **out)
{
	struct intremap *ir = calloc(1, sizeof(*ir));

	if (ir)
		ir->units = calloc(p->nr_segments, sizeof(*ir->units));
	if (!ir || !ir->units) {
		free(ir);
		return -ENOMEM;
	}
	ir->p = *p;
	for (unsigned i = 0; i < p->nr_segments; i++) {
		struct ir_unit *u = &ir->units[i];

		u->ir = ir;
		u->segment = i;
		pthread_mutex_init(&u->write_lock, NULL);
		pthread_mutex_init(&u->lock, NULL);
		reset_unit(u);
	}
	*out = ir;
	return 0;
}

void intremap_free(struct intremap *ir)
{
	if (!ir)
		return;
	for (unsigned i = 0; i < ir->p.nr_segments; i++) {
		pthread_mutex_destroy(&ir->units[i].write_lock);
		pthread_mutex_destroy(&ir->units[i].lock);
	}
	free(ir->units);
	free(ir);
}
