/*
 * vfio_pci_rom.c - the expansion ROM of a host's device: read once, kept
 *
 * For the host's kernel each read of a ROM is a mapping of it that it makes and takes away, and for
 * the guest an exit, while guests and their firmware read a ROM by four bytes: hundreds of
 * milliseconds on hardware, minutes under an emulator. What is in it does not change. So the first
 * access that traps reads all of it, and where the BAR is a page or more the copy is laid over it
 * as read-only memory from then on. Over a socket a read is one message, and the server may do
 * with its ROM what it likes: it is asked each time.
 *
 * Locks: the copy is made under vp->lock; where it lies is guarded by the topology lock.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "attach/vfio_pci_priv.h"

/* "ROM images can be up to 16 MiB": the register leaves no more. PCI 3.0, 6.2.5.2 */
#define ROM_MAX (16 * MIB)

/* All of the ROM, at least as large as its BAR and a page. NULL: it cannot be read now. */
static uint8_t *read_all(struct vfio_pci *vp, uint64_t bar_size)
{
	const struct vfio_region *r = &vp->t->info.regions[VFIO_USER_REGION_ROM];
	uint64_t size = MAX(bar_size, (uint64_t)PAGE_SIZE_4K);
	uint8_t *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (bytes == MAP_FAILED)
		return NULL;
	memset(bytes, 0xff, size);
	if (vp->t->ops->region_read(vp->t, VFIO_USER_REGION_ROM, 0, bytes, (unsigned)r->size)) {
		munmap(bytes, size);
		return NULL;
	}
	vp->rom.mapped = size;
	return bytes;
}

bool vp_rom_read(struct vfio_pci *vp, uint64_t off, unsigned size, uint64_t *value)
{
	const struct vfio_region *r = &vp->t->info.regions[VFIO_USER_REGION_ROM];
	uint64_t bar_size = vp->fn.bars[PCI_BAR_ROM].size;
	bool fresh = false, kept;

	if (!vp->t->info.host || !r->readable || r->size > ROM_MAX || !range_ok(off, size, r->size))
		return false;
	pthread_mutex_lock(&vp->lock);
	if (!vp->rom.bytes) {
		vp->rom.bytes = read_all(vp, bar_size);
		fresh = vp->rom.bytes;
	}
	kept = vp->rom.bytes;
	*value = 0;
	if (kept)
		memcpy(value, vp->rom.bytes + off, size);
	pthread_mutex_unlock(&vp->lock);
	if (fresh) {
		pci_lock(vp->m->pci);
		vp->rom.ready = true;
		if (vp->fn.bars[PCI_BAR_ROM].mapped)
			vp_bar_mapped(&vp->fn, PCI_BAR_ROM);
		pci_unlock(vp->m->pci);
	}
	return kept;
}

void vp_rom_lay(struct vfio_pci *vp)
{
	const struct pci_bar *bar = &vp->fn.bars[PCI_BAR_ROM];
	int slot;

	if (!vp->rom.ready || vp->rom.laid || bar->size < PAGE_SIZE_4K)
		return;
	slot = memory_slot_add(vp->m->memory, bar->addr, bar->size, vp->rom.bytes, true);
	/* Without one it goes on to trap. */
	vp->rom.laid = slot >= 0;
	vp->rom.slot = slot;
}

void vp_rom_clear(struct vfio_pci *vp)
{
	if (vp->rom.laid)
		memory_slot_remove(vp->m->memory, vp->rom.slot);
	vp->rom.laid = false;
}

void vp_rom_free(struct vfio_pci *vp)
{
	if (vp->rom.bytes)
		munmap(vp->rom.bytes, vp->rom.mapped);
	vp->rom.bytes = NULL;
}
