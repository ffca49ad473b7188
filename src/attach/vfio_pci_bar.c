/*
 * vfio_pci_bar.c - BARs: what they are, and accesses to them that trap
 *
 * The register says what kind a BAR is, the region how large. A region that is no power of two
 * gets the next larger BAR; what lies beyond its end reads all-ones. A region of less than a page
 * that has its page for itself gets a BAR of a page, so that it can be mapped; as BARs lie at
 * multiples of their size, no other BAR comes into that page.
 *
 * What is not laid over a BAR (vfio_pci_map.c) traps and goes to the device. The MSI-X table and
 * its pending bits are ours; what shares a page with them is the device's.
 *
 * Posting: PCI lets a memory write be posted, so it is sent without waiting for a reply. Not,
 * however, when the device has any mapped part or doorbell: a store into a mapped page, or a
 * doorbell's eventfd, would overtake the message that was written before it, and PCI promises a
 * device writes in order, also across its BARs. The eventfd that says "the guest has ended its
 * interrupt" is such a short cut too, so nothing is posted while INTx is in use. I/O and
 * configuration writes are not posted on PCI.
 */
#include <errno.h>
#include <string.h>

#include "attach/vfio_pci_priv.h"

/* The smallest expansion ROM that its register can describe. PCI 3.0, 6.2.5.2 */
#define ROM_MIN 2048u
#define MEM_MIN 16ull
#define IO_MIN	4u
#define IO_MAX	0x10000ull

/* --- building --- */

static uint64_t bar_size(uint64_t region_size, uint64_t least)
{
	return MAX(pow2_up(region_size), least);
}

static int too_large(unsigned bar, uint64_t size, const char *what, struct err *err)
{
	return err_set(err, -EPROTO, "BAR %u: 0x%llx bytes are too many for %s BAR", bar,
		(unsigned long long)size, what);
}

static int build_bar(struct vfio_pci *vp, unsigned bar, uint32_t reg, struct err *err)
{
	uint64_t size = vp->t->info.regions[bar].size;
	struct pci_bar *b = &vp->fn.bars[bar];

	if (reg & PCI_BASE_ADDRESS_SPACE_IO) {
		if (size > IO_MAX)
			return too_large(bar, size, "an I/O", err);
		*b = (struct pci_bar){ .kind = PCI_BAR_IO, .size = bar_size(size, IO_MIN) };
		return 0;
	}
	*b = (struct pci_bar){
		.kind = PCI_BAR_MEM32,
		.size = bar_size(size, MAX(vp->t->info.regions[bar].page.size, MEM_MIN)),
		.prefetchable = reg & PCI_BASE_ADDRESS_MEM_PREFETCH,
	};
	if ((reg & PCI_BASE_ADDRESS_MEM_TYPE_MASK) != PCI_BASE_ADDRESS_MEM_TYPE_64)
		return size > VP_MEM32_MAX ? too_large(bar, size, "a 32-bit", err) : 0;
	if (bar == 5 || vp->t->info.regions[bar + 1].size)
		return err_set(err, -EPROTO,
			bar == 5 ? "BAR 5 cannot have 64 bits"
				 : "BAR %u has 64 bits, so there can be no region %u",
			bar, bar + 1);
	b->kind = PCI_BAR_MEM64;
	return 0;
}

static int build_rom(struct vfio_pci *vp, struct err *err)
{
	uint64_t size = vp->t->info.regions[VFIO_USER_REGION_ROM].size;

	if (!size)
		return 0;
	if (size > VP_MEM32_MAX)
		return too_large(PCI_BAR_ROM, size, "an expansion ROM", err);
	vp->fn.bars[PCI_BAR_ROM] = (struct pci_bar){
		.kind = PCI_BAR_MEM32,
		.size = bar_size(size, ROM_MIN),
	};
	return 0;
}

int vp_bars_build(struct vfio_pci *vp, const uint8_t *config, struct err *err)
{
	for (unsigned bar = 0; bar < 6; bar++) {
		uint32_t reg;
		int rc;

		if (!vp->t->info.regions[bar].size)
			continue;
		memcpy(&reg, config + PCI_BASE_ADDRESS_0 + 4 * bar, sizeof(reg));
		rc = build_bar(vp, bar, reg, err);
		if (rc)
			return rc;
		if (vp->fn.bars[bar].kind == PCI_BAR_MEM64)
			vp->fixed[PCI_BASE_ADDRESS_0 + 4 * (bar + 1)] = 0;
	}
	/* The kind bits of a register without a region say nothing. */
	for (unsigned bar = 0; bar < 6; bar++)
		if (!vp->t->info.regions[bar].size)
			vp->fixed[PCI_BASE_ADDRESS_0 + 4 * bar] = 0;
	return build_rom(vp, err);
}

/* --- accesses that trap: vCPU thread, no lock --- */

static uint64_t read_device(struct vfio_pci *vp, unsigned bar, uint64_t off, unsigned size)
{
	const struct vfio_region *r = &vp->t->info.regions[bar];
	uint64_t value = 0;

	if (!r->readable || !range_ok(off, size, r->size) ||
		vp->t->ops->region_read(vp->t, bar, off, &value, size))
		return io_ones(size);
	return value;
}

/* An access that touches the place lies in it as a whole or is none. */
static bool inside(const struct vp_msix_place *p, uint64_t off, unsigned size)
{
	return off >= p->off && range_ok(off - p->off, size, p->size);
}

static uint64_t read_table(struct vfio_pci *vp, uint64_t off, unsigned size)
{
	uint64_t value;

	if (!inside(&vp->table, off, size))
		return io_ones(size);
	pthread_mutex_lock(&vp->lock);
	value = msix_table_read(&vp->msix, off - vp->table.off, size);
	pthread_mutex_unlock(&vp->lock);
	return value;
}

/* Pending is what waits in our masked vectors, and what the device itself holds back. */
static uint64_t read_pba(struct vfio_pci *vp, uint64_t off, unsigned size)
{
	uint64_t value;

	if (!inside(&vp->pba, off, size))
		return io_ones(size);
	pthread_mutex_lock(&vp->lock);
	value = msix_pba_read(&vp->msix, off - vp->pba.off, size);
	pthread_mutex_unlock(&vp->lock);
	if (!vp->msix_moved && vp->t->info.regions[vp->pba.bar].readable) {
		uint64_t got = 0;

		if (!vp->t->ops->region_read(vp->t, vp->pba.bar, off, &got, size))
			value |= got;
	}
	return value;
}

uint64_t vp_bar_read(struct pci_function *fn, unsigned bar, uint64_t off, unsigned size)
{
	struct vfio_pci *vp = vp_of(fn);
	uint64_t value;

	if (atomic_load(&vp->gone))
		return io_ones(size);
	if (bar == PCI_BAR_ROM && vp_rom_read(vp, off, size, &value))
		return value;
	if (vp_in_place(&vp->table, bar, off, size))
		return read_table(vp, off, size);
	if (vp_in_place(&vp->pba, bar, off, size))
		return read_pba(vp, off, size);
	return read_device(vp, bar, off, size);
}

void vp_bar_write(
	struct pci_function *fn, unsigned bar, uint64_t off, unsigned size, uint64_t value)
{
	struct vfio_pci *vp = vp_of(fn);
	const struct vfio_region *r = &vp->t->info.regions[bar];
	bool post = fn->bars[bar].kind != PCI_BAR_IO && atomic_load(&vp->may_post);

	if (vp_in_place(&vp->table, bar, off, size)) {
		if (!inside(&vp->table, off, size))
			return;
		pthread_mutex_lock(&vp->lock);
		msix_table_write(&vp->msix, off - vp->table.off, size, value);
		pthread_mutex_unlock(&vp->lock);
		return;
	}
	/* Pending bits are read-only. */
	if (vp_in_place(&vp->pba, bar, off, size) || !r->writable || !range_ok(off, size, r->size))
		return;
	vp->t->ops->region_write(
		vp->t, bar, off, &value, size, post ? VFIO_CALL_POST : VFIO_CALL_WAIT);
}
