/*
 * vfio_pci_msix.c - where the MSI-X table and the pending bits are, and where the guest finds them
 *
 * The pages of both trap. That costs nothing as long as they have their pages for themselves, which
 * the specification asks for. Where registers come before one of them in its page, each access to
 * those would trap as well, if not for this: the guest's capability names another place, behind the
 * end of the BAR, which is made larger for it (BARs of 32 bits and of 64 alike). The page is mapped
 * then, if the host allows that (msix_mappable): the table that the guest could reach there by
 * stealth can signal only what the host's interrupt remapping lets it.
 *
 * Pending bits that lie outside of their BAR are a mistake of some hardware that works otherwise;
 * they are ours anyway and get a place in the same manner. From another process, both mistakes are
 * its own: it is refused.
 *
 * Spec: PCI Local Bus 3.0, 6.8.2.
 */
#include <errno.h>

#include "attach/vfio_pci_priv.h"

static int check_bar(const struct vfio_pci *vp, const char *what, unsigned bar, struct err *err)
{
	if (bar < 6 &&
		(vp->fn.bars[bar].kind == PCI_BAR_MEM32 || vp->fn.bars[bar].kind == PCI_BAR_MEM64))
		return 0;
	return err_set(
		err, -EPROTO, "the MSI-X %s lies in BAR %u, which is no memory BAR", what, bar);
}

static bool fits(const struct vfio_pci *vp, const struct vp_msix_place *p)
{
	return range_ok(p->off, p->size, vp->t->info.regions[p->bar].size);
}

static int refuse_place(
	const struct vfio_pci *vp, const char *what, const struct vp_msix_place *p, struct err *err)
{
	return err_set(err, -EPROTO,
		"the MSI-X %s (0x%llx bytes at 0x%llx) passes the end of BAR %u (0x%llx bytes)",
		what, (unsigned long long)p->size, (unsigned long long)p->off, p->bar,
		(unsigned long long)vp->t->info.regions[p->bar].size);
}

static int read_place(struct vfio_pci *vp, const char *what, unsigned reg, uint64_t size,
	struct vp_msix_place *out, struct err *err)
{
	uint32_t value = pci_config_get(&vp->fn, vp->msix_pos + reg, 4);

	*out = (struct vp_msix_place){
		.bar = value & PCI_MSIX_TABLE_BIR,
		.off = value & PCI_MSIX_TABLE_OFFSET,
		.size = size,
	};
	return check_bar(vp, what, out->bar, err);
}

/* True: registers of the device's come before it in its first page, and an area would map them. */
static bool among_registers(
	const struct vfio_pci *vp, const struct vp_msix_place *p, const struct vp_msix_place *other)
{
	const struct vfio_region *r = &vp->t->info.regions[p->bar];
	uint64_t page = align_down(p->off, PAGE_SIZE_4K);

	if (!r->msix_mappable || p->off == page)
		return false;
	/* The other half of MSI-X is no register; what comes before that is its own matter. */
	if (other->bar == p->bar && other->off < p->off && other->off + other->size > page)
		return false;
	for (unsigned i = 0; i < r->nr_areas; i++)
		if (ranges_overlap(r->areas[i].offset, r->areas[i].size, page, PAGE_SIZE_4K))
			return true;
	return ranges_overlap(0, r->page.size, page, PAGE_SIZE_4K);
}

static void tell_place(struct vfio_pci *vp, unsigned reg, const struct vp_msix_place *p)
{
	pci_config_set(&vp->fn, vp->msix_pos + reg, 4, (uint32_t)p->off | p->bar);
}

/* Both behind the end of the table's BAR, each from a page of its own. False: that would be too
 * large. */
static bool move(struct vfio_pci *vp)
{
	struct pci_bar *bar = &vp->fn.bars[vp->table.bar];
	uint64_t table = align_up(bar->size, PAGE_SIZE_4K);
	uint64_t pba = table + align_up(vp->table.size, PAGE_SIZE_4K);
	uint64_t size = pow2_up(pba + PAGE_SIZE_4K);

	/* Offsets in the capability have 32 bits in any BAR. */
	if (size > VP_MEM32_MAX)
		return false;
	bar->size = size;
	vp->pba.bar = vp->table.bar;
	vp->table.off = table;
	vp->pba.off = pba;
	vp->msix_moved = true;
	tell_place(vp, PCI_MSIX_TABLE, &vp->table);
	tell_place(vp, PCI_MSIX_PBA, &vp->pba);
	return true;
}

int vp_msix_place(struct vfio_pci *vp, unsigned *nr, struct err *err)
{
	struct vp_msix_place *table = &vp->table, *pba = &vp->pba;
	bool lost, host = vp->t->info.host;
	int rc;

	*nr = (pci_config_get(&vp->fn, vp->msix_pos + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_QSIZE) +
	      1;
	rc = read_place(vp, "table", PCI_MSIX_TABLE, (uint64_t)*nr * MSIX_ENTRY_SIZE, table, err);
	if (!rc && !fits(vp, table))
		rc = refuse_place(vp, "table", table, err);
	if (!rc)
		rc = read_place(
			vp, "pending bits", PCI_MSIX_PBA, (uint64_t)(*nr + 63) / 64 * 8, pba, err);
	if (rc)
		return rc;
	lost = !fits(vp, pba);
	if (host && (lost || among_registers(vp, table, pba) || among_registers(vp, pba, table)) &&
		move(vp))
		return 0;
	if (lost)
		return refuse_place(vp, "pending bits", pba, err);
	if (table->bar == pba->bar && ranges_overlap(table->off, table->size, pba->off, pba->size))
		return err_set(err, -EPROTO,
			"the MSI-X table and its pending bits overlap in BAR %u", table->bar);
	return 0;
}
