/*
 * msix.c - MSI-X: a table in guest-visible memory, a vector per entry
 *
 * A vector is delivered while MSI-X is enabled, the function is not masked and
 * its entry is not masked. Its eventfd and GSI come into being when that first holds, so that a
 * device with thousands of vectors costs what its driver uses.
 *
 * Spec: PCI Local Bus 3.0, 6.8.2 and 6.8.3.2 to 6.8.3.5.
 */
#include "machine/msix.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "machine/pci.h"

static bool entry_open(const struct msix *msix, unsigned i)
{
	return msix->enabled && !msix->masked &&
	       !(msix->entries[i].control & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

int msix_init(struct msix *msix, struct irqs *irqs, unsigned nr)
{
	msix->irqs = irqs;
	msix->nr = nr;
	msix->entries = calloc(nr, sizeof(*msix->entries));
	msix->vectors = calloc(nr, sizeof(*msix->vectors));
	if (!msix->entries || !msix->vectors) {
		free(msix->entries);
		free(msix->vectors);
		*msix = (struct msix){ 0 };
		return -ENOMEM;
	}
	for (unsigned i = 0; i < nr; i++) {
		msix->entries[i].control = PCI_MSIX_ENTRY_CTRL_MASKBIT;
		msix->vectors[i].eventfd = -1;
	}
	return 0;
}

void msix_fini(struct msix *msix)
{
	if (msix->nr)
		irq_vectors_mask(msix->irqs, msix->vectors, msix->nr);
	for (unsigned i = 0; i < msix->nr; i++)
		irq_vector_release(msix->irqs, &msix->vectors[i]);
	free(msix->entries);
	free(msix->vectors);
	*msix = (struct msix){ 0 };
}

/*
 * Make eventfds for open entries of [first, first + nr) that have
 * none, and tell the owner of each run.
 */
static void prepare(struct msix *msix, unsigned first, unsigned nr)
{
	unsigned run = 0;

	for (unsigned i = first; i <= first + nr; i++) {
		bool fresh = false;

		if (i < first + nr && entry_open(msix, i)) {
			struct irq_vector *v = &msix->vectors[i];

			fresh = v->eventfd < 0 || !v->gsi;
			if (fresh && irq_vector_prepare(msix->irqs, v)) {
				log_limited(&msix->limit, LOG_WARN,
					"MSI-X vector %u: no eventfd or route left, it stays silent",
					i);
				fresh = false;
			}
		}
		if (fresh) {
			run++;
		} else if (run) {
			if (msix->used)
				msix->used(msix, i - run, run);
			run = 0;
		}
	}
}

/* Those that KVM refuses stay masked, until the guest writes to their entries again. */
static void unmask(struct msix *msix, struct irq_vector *const *batch, unsigned n)
{
	int rc = irq_vectors_unmask(msix->irqs, batch, n);

	for (unsigned i = 0; i < n && rc; i++)
		if (!batch[i]->live) {
			log_limited(&msix->limit, LOG_WARN,
				"MSI-X vector %u: KVM does not deliver it: %s; it stays masked",
				(unsigned)(batch[i] - msix->vectors), strerror(-rc));
			break;
		}
}

/* Bring the vectors of [first, first + nr) in line with the table. */
static void update(struct msix *msix, unsigned first, unsigned nr)
{
	struct irq_vector *batch[64];
	unsigned n = 0;

	/* Off or masked as a whole: all at once. */
	if (!msix->enabled || msix->masked) {
		irq_vectors_mask(msix->irqs, msix->vectors + first, nr);
		return;
	}
	prepare(msix, first, nr);
	for (unsigned i = first; i < first + nr; i++) {
		const struct msix_entry *e = &msix->entries[i];
		struct irq_vector *v = &msix->vectors[i];

		if (!entry_open(msix, i)) {
			irq_vector_mask(msix->irqs, v);
			continue;
		}
		if (v->eventfd < 0 || !v->gsi)
			continue;
		v->msg = (struct msi_message){ (uint64_t)e->addr_hi << 32 | e->addr_lo, e->data };
		v->source = pci_source(msix->fn);
		batch[n++] = v;
		if (n == ARRAY_SIZE(batch)) {
			unmask(msix, batch, n);
			n = 0;
		}
	}
	if (n)
		unmask(msix, batch, n);
}

/*
 * The table is accessed by aligned doublewords or quadwords; others read all-ones and are dropped.
 */
uint64_t msix_table_read(struct msix *msix, uint64_t off, unsigned size)
{
	uint64_t value = 0;

	if (!range_ok(off, size, (uint64_t)msix->nr * MSIX_ENTRY_SIZE))
		return UINT64_MAX;
	memcpy(&value, (const char *)msix->entries + off, size);
	return value;
}

void msix_table_write(struct msix *msix, uint64_t off, unsigned size, uint64_t value)
{
	unsigned index = (unsigned)(off / MSIX_ENTRY_SIZE);

	if (!range_ok(off, size, (uint64_t)msix->nr * MSIX_ENTRY_SIZE) || off % size || size < 4)
		return;
	memcpy((char *)msix->entries + off, &value, size);
	msix->entries[index].control &= PCI_MSIX_ENTRY_CTRL_MASKBIT;
	update(msix, index, 1);
}

uint64_t msix_pba_read(struct msix *msix, uint64_t off, unsigned size)
{
	uint64_t value = 0;

	for (unsigned bit = 0; bit < size * 8; bit++) {
		uint64_t i = off * 8 + bit;

		if (i < msix->nr && irq_vector_pending(msix->irqs, &msix->vectors[i]))
			value |= 1ull << bit;
	}
	return value;
}

void msix_set_flags(struct msix *msix, uint16_t flags)
{
	bool enabled = flags & PCI_MSIX_FLAGS_ENABLE, masked = flags & PCI_MSIX_FLAGS_MASKALL;
	bool was = msix->enabled;

	if (enabled == msix->enabled && masked == msix->masked)
		return;
	msix->enabled = enabled;
	msix->masked = masked;
	update(msix, 0, msix->nr);
	if (was && !enabled && msix->disabled)
		msix->disabled(msix);
}

void msix_reset(struct msix *msix)
{
	if (!msix->nr)
		return;
	msix_set_flags(msix, 0);
	for (unsigned i = 0; i < msix->nr; i++) {
		msix->entries[i] = (struct msix_entry){ .control = PCI_MSIX_ENTRY_CTRL_MASKBIT };
		if (msix->vectors[i].eventfd >= 0)
			fd_clear(msix->vectors[i].eventfd); /* nothing is pending */
	}
}
