/*
 * msi.c - MSI: one message whose low data bits number up to 32 vectors
 *
 * Per-vector mask bits are taken from the capability when it has them.
 *
 * Spec: PCI Local Bus 3.0, 6.8.1.
 */
#include <linux/pci_regs.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "machine/msix.h"
#include "machine/pci.h"

void msi_init(struct msi *msi, struct irqs *irqs, unsigned nr)
{
	*msi = (struct msi){ .irqs = irqs, .nr = MIN(nr, 32u) };
	for (unsigned i = 0; i < ARRAY_SIZE(msi->vectors); i++)
		msi->vectors[i].eventfd = -1;
}

void msi_fini(struct msi *msi)
{
	for (unsigned i = 0; i < msi->nr; i++)
		irq_vector_release(msi->irqs, &msi->vectors[i]);
	*msi = (struct msi){ 0 };
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint16_t get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static void switch_off(struct msi *msi)
{
	bool was = msi->enabled;

	irq_vectors_mask(msi->irqs, msi->vectors, msi->nr);
	msi->enabled = false;
	msi->nr_enabled = 0;
	if (was && msi->disabled)
		msi->disabled(msi);
}

static bool prepare(struct msi *msi, unsigned nr)
{
	bool fresh = !msi->enabled || msi->nr_enabled != nr;

	for (unsigned i = 0; i < nr; i++)
		if (irq_vector_prepare(msi->irqs, &msi->vectors[i])) {
			log_limited(&msi->limit, LOG_WARN,
				"MSI vector %u: no eventfd or route left, MSI stays off", i);
			return false;
		}
	if (fresh && msi->used)
		msi->used(msi, nr);
	return true;
}

void msi_update(struct msi *msi, const uint8_t *cap)
{
	uint16_t flags = get16(cap + PCI_MSI_FLAGS);
	bool is64 = flags & PCI_MSI_FLAGS_64BIT;
	uint64_t addr = get32(cap + PCI_MSI_ADDRESS_LO);
	uint16_t data = get16(cap + (is64 ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32));
	unsigned nr = MIN(1u << ((flags & PCI_MSI_FLAGS_QSIZE) >> 4), msi->nr);
	uint32_t masked = 0;
	struct irq_vector *open[32];
	unsigned n = 0;
	int rc;

	if (!(flags & PCI_MSI_FLAGS_ENABLE) || !nr || !prepare(msi, nr)) {
		switch_off(msi);
		return;
	}
	if (is64)
		addr |= (uint64_t)get32(cap + PCI_MSI_ADDRESS_HI) << 32;
	if (flags & PCI_MSI_FLAGS_MASKBIT)
		masked = get32(cap + (is64 ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32));
	for (unsigned i = 0; i < msi->nr; i++) {
		struct irq_vector *v = &msi->vectors[i];

		if (i >= nr || masked & 1u << i) {
			irq_vector_mask(msi->irqs, v);
			continue;
		}
		v->msg = (struct msi_message){ addr, (data & ~(nr - 1)) | i };
		v->source = pci_source(msi->fn);
		open[n++] = v;
	}
	msi->enabled = true;
	msi->nr_enabled = nr;
	rc = irq_vectors_unmask(msi->irqs, open, n);
	if (rc)
		log_limited(&msi->limit, LOG_WARN,
			"MSI: KVM does not deliver all vectors: %s; they stay masked", strerror(-rc));
}

void msi_reset(struct msi *msi)
{
	if (!msi->nr)
		return;
	switch_off(msi);
	for (unsigned i = 0; i < msi->nr; i++)
		if (msi->vectors[i].eventfd >= 0)
			fd_clear(msi->vectors[i].eventfd); /* nothing is pending */
}
