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
 * The copy is the one mapped part of that BAR (vfio_pci_map.c lays it). It is made under vp->lock,
 * as a vCPU then waits for the device, and is looked at under the topology lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "attach/vfio_pci_priv.h"

/* The largest that there can be. PCI 3.0, 6.2.5.2 */
#define ROM_MAX (16 * MIB)

/* From the copy, if there is one. */
static bool read_copy(struct vfio_pci *vp, uint64_t off, unsigned size, uint64_t *value)
{
	const struct vp_bar *rom = &vp->bars[PCI_BAR_ROM];
	bool there;

	pci_lock(vp->m->pci);
	there = vp->laid && rom->nr_maps;
	*value = 0;
	if (there)
		memcpy(value, (char *)rom->maps[0].hva + off, size);
	pci_unlock(vp->m->pci);
	return there;
}

/* All of the ROM into the map; what it has less than its BAR is ones. */
static bool read_all(struct vfio_pci *vp, struct vp_map *map)
{
	const struct vfio_region *r = &vp->t->info.regions[VFIO_USER_REGION_ROM];

	map->hva = mmap(
		NULL, map->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map->hva == MAP_FAILED)
		return false;
	memset(map->hva, 0xff, map->size);
	if (!vp->t->ops->region_read(
		    vp->t, VFIO_USER_REGION_ROM, 0, map->hva, (unsigned)r->size))
		return true;
	munmap(map->hva, map->size);
	return false;
}

/* vp->lock held. */
static void make_copy(struct vfio_pci *vp)
{
	const struct pci_bar *bar = &vp->fn.bars[PCI_BAR_ROM];
	struct vp_map *map = calloc(1, sizeof(*map));

	if (!map)
		return;
	*map = (struct vp_map){
		.size = MAX(bar->size, (uint64_t)PAGE_SIZE_4K),
		.fd = -1,
		.readonly = true,
		.traps = bar->size < PAGE_SIZE_4K,
		.slot = -1,
	};
	if (!read_all(vp, map)) {
		free(map);
		return;
	}
	pci_lock(vp->m->pci);
	if (vp->laid) {
		vp->bars[PCI_BAR_ROM] = (struct vp_bar){ .maps = map, .nr_maps = 1 };
		if (bar->mapped)
			vp_bar_mapped(&vp->fn, PCI_BAR_ROM);
		map = NULL;
	}
	pci_unlock(vp->m->pci);
	if (map)
		munmap(map->hva, map->size);
	free(map);
}

bool vp_rom_read(struct vfio_pci *vp, uint64_t off, unsigned size, uint64_t *value)
{
	const struct vfio_region *r = &vp->t->info.regions[VFIO_USER_REGION_ROM];
	bool kept;

	if (!vp->t->info.host || !r->readable || r->size > ROM_MAX || !range_ok(off, size, r->size))
		return false;
	pthread_mutex_lock(&vp->lock);
	kept = read_copy(vp, off, size, value);
	if (!kept) {
		make_copy(vp);
		kept = read_copy(vp, off, size, value);
	}
	pthread_mutex_unlock(&vp->lock);
	return kept;
}
