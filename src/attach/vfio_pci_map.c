/*
 * vfio_pci_map.c - what is laid over a BAR: memory of the device's own, and doorbells
 *
 * Over a decoded BAR lie, where the device offers them, memory slots with the device's own pages
 * and ioeventfds; everything else traps. The pages that hold the MSI-X table and the pending bits
 * always trap. bar_mapped() and bar_unmapped() keep this in step with where the guest puts a BAR.
 * Nothing lies there while the device is away (`laid` false), so that reads give all-ones and
 * doorbells are not swallowed by an eventfd that nobody reads; nor while it sleeps (`asleep`), when
 * its memory does not answer and the kernel would stop who touches it.
 *
 * What is mapped is mapped once and costs nothing before it is touched. Both of its addresses, ours
 * and the guest's, are the same in their low bits, as far as its size can make use of it: then the
 * host's page tables, and KVM's after them, use large pages. 128 GiB are 128 faults then.
 *
 * A mapped part can be reached by the DMA of the machine's other devices, too, if the transport
 * knows how. That takes its time, so it is begun only; the vCPU that moved a BAR waits for it, for
 * a while and without locks, before its guest goes on.
 *
 * Locks: what is laid over a BAR is guarded by the topology lock.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "attach/vfio_pci_priv.h"
#include "base/clock.h"

#define PAGE_SIZE_2M (2 * MIB)

/* --- mapping: nobody looks at bars[] while it is not laid --- */

/* What a part's place in the host's memory has to be a multiple of, as has the BAR's in the
 * guest's. */
static uint64_t alignment(uint64_t size)
{
	if (size >= GIB)
		return GIB;
	return size >= PAGE_SIZE_2M ? PAGE_SIZE_2M : PAGE_SIZE_4K;
}

/*
 * Room for size bytes whose address is off, but for multiples of align: of a larger one the ends
 * are given back. MAP_FAILED: there is none.
 */
static char *reserve(uint64_t size, uint64_t off, uint64_t align)
{
	uint64_t slack = align - PAGE_SIZE_4K;
	char *room = mmap(
		NULL, size + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t skip;

	if (room == MAP_FAILED || !slack)
		return room;
	skip = (off - (uintptr_t)room) & (align - 1);
	if (skip)
		munmap(room, skip);
	if (slack - skip)
		munmap(room + skip + size, slack - skip);
	return room + skip;
}

static void *map_part(const struct vp_map *m)
{
	char *at = reserve(m->size, m->offset, alignment(m->size));
	void *hva;
	int saved;

	if (at == MAP_FAILED)
		return at;
	hva = mmap(at, m->size, PROT_READ | (m->readonly ? 0 : PROT_WRITE), MAP_SHARED | MAP_FIXED,
		m->fd, (off_t)m->fd_offset);
	saved = errno;
	if (hva == MAP_FAILED)
		munmap(at, m->size);
	errno = saved;
	return hva;
}

static void add_map(
	struct vfio_pci *vp, unsigned bar, const struct vfio_area *a, uint64_t from, uint64_t to)
{
	const struct vfio_region *r = &vp->t->info.regions[bar];
	struct vp_bar *b = &vp->bars[bar];
	struct vp_map map = {
		.offset = from,
		.size = to - from,
		.fd = a->fd,
		.fd_offset = a->fd_offset + (from - a->offset),
		.readonly = !r->writable,
		.traps = vp->options.unmapped_bars & 1u << bar,
		.slot = -1,
	};
	struct vp_map *more;

	if (from >= to)
		return;
	more = realloc(b->maps, (b->nr_maps + 1) * sizeof(*more));
	if (!more)
		return; /* it traps instead */
	b->maps = more;
	map.hva = map_part(&map);
	if (map.hva == MAP_FAILED) {
		log_warn("%s: BAR %u: 0x%llx+0x%llx cannot be mapped (%s), accesses to it are slow",
			vp->id, bar, (unsigned long long)from, (unsigned long long)map.size,
			strerror(errno));
		return;
	}
	b->maps[b->nr_maps++] = map;
}

/* What is left of [from, to) without the pages of a trapped place, in up to two pieces. */
static void add_around(struct vfio_pci *vp, unsigned bar, const struct vfio_area *a, uint64_t from,
	uint64_t to, const struct vp_msix_place *const *places, unsigned nr)
{
	uint64_t hole, hole_end;

	if (!nr) {
		add_map(vp, bar, a, from, to);
		return;
	}
	hole = align_down(places[0]->off, PAGE_SIZE_4K);
	hole_end = align_up(places[0]->off + places[0]->size, PAGE_SIZE_4K);
	if (places[0]->bar != bar || !places[0]->size || hole >= to || hole_end <= from) {
		add_around(vp, bar, a, from, to, places + 1, nr - 1);
		return;
	}
	add_around(vp, bar, a, from, MAX(hole, from), places + 1, nr - 1);
	add_around(vp, bar, a, MIN(hole_end, to), to, places + 1, nr - 1);
}

static void map_bar(struct vfio_pci *vp, unsigned bar)
{
	const struct vp_msix_place *places[] = { &vp->table, &vp->pba };
	const struct vfio_region *r = &vp->t->info.regions[bar];

	/* Slots can not be write-only, and ports are not memory. */
	if (!r->readable || vp->fn.bars[bar].kind == PCI_BAR_IO ||
		vp->fn.bars[bar].kind == PCI_BAR_NONE)
		return;
	for (unsigned i = 0; i < r->nr_areas; i++)
		add_around(vp, bar, &r->areas[i], r->areas[i].offset,
			r->areas[i].offset + r->areas[i].size, places, ARRAY_SIZE(places));
	if (!r->nr_areas && r->page.size)
		add_around(vp, bar, &r->page, 0, r->page.size, places, ARRAY_SIZE(places));
}

static void map_all(struct vfio_pci *vp)
{
	bool direct = false;

	for (unsigned bar = 0; bar < 6; bar++) {
		const struct vfio_region *r = &vp->t->info.regions[bar];

		map_bar(vp, bar);
		if (r->nr_doorbells)
			vp->bars[bar].doorbell_on = calloc(r->nr_doorbells, sizeof(bool));
		direct = direct || vp->bars[bar].nr_maps || vp->bars[bar].doorbell_on;
	}
	atomic_store(&vp->direct, direct);
}

static void unmap_all(struct vfio_pci *vp, struct vp_bar *b)
{
	for (unsigned i = 0; i < b->nr_maps; i++)
		if (b->maps[i].lent)
			vp->t->ops->dma_take(vp->t, b->maps[i].hva, b->maps[i].size);
		else
			munmap(b->maps[i].hva, b->maps[i].size);
	free(b->maps);
	free(b->doorbell_on);
	*b = (struct vp_bar){ 0 };
}

void vp_bars_free(struct vfio_pci *vp)
{
	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++)
		unmap_all(vp, &vp->bars[bar]);
}

/* --- doorbells: topology lock held --- */

static int ioeventfd(struct vfio_pci *vp, unsigned bar, uint64_t base,
	const struct vfio_doorbell *d, uint32_t flags)
{
	struct kvm_ioeventfd arg = {
		.datamatch = d->value,
		.addr = base + d->offset,
		.len = d->size,
		.fd = d->fd,
		.flags = flags | (d->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
			 (vp->fn.bars[bar].kind == PCI_BAR_IO ? KVM_IOEVENTFD_FLAG_PIO : 0),
	};

	return kvm_vm_ioctl(&vp->m->kvm, KVM_IOEVENTFD, &arg);
}

static void doorbells_on(struct vfio_pci *vp, unsigned bar, uint64_t base)
{
	const struct vfio_region *r = &vp->t->info.regions[bar];
	struct vp_bar *b = &vp->bars[bar];

	b->doorbell_base = base;
	for (unsigned i = 0; b->doorbell_on && i < r->nr_doorbells; i++) {
		const struct vfio_doorbell *d = &r->doorbells[i];
		uint64_t size = MAX(d->size, 1u);
		int rc;

		/* The guest's writes to the MSI-X table are for us. */
		if (vp_in_place(&vp->table, bar, d->offset, size) ||
			vp_in_place(&vp->pba, bar, d->offset, size))
			continue;
		rc = ioeventfd(vp, bar, base, d, 0);
		b->doorbell_on[i] = !rc;
		if (rc)
			log_limited(&vp->refusals, LOG_WARN,
				"%s: BAR %u: KVM refuses the doorbell at 0x%llx (%s), it is slow now",
				vp->id, bar, (unsigned long long)d->offset, strerror(-rc));
	}
}

static void doorbells_off(struct vfio_pci *vp, unsigned bar)
{
	const struct vfio_region *r = &vp->t->info.regions[bar];
	struct vp_bar *b = &vp->bars[bar];

	for (unsigned i = 0; b->doorbell_on && i < r->nr_doorbells; i++) {
		if (b->doorbell_on[i])
			ioeventfd(vp, bar, b->doorbell_base, &r->doorbells[i],
				KVM_IOEVENTFD_FLAG_DEASSIGN);
		b->doorbell_on[i] = false;
	}
}

/* --- mapped parts: topology lock held --- */

/* False: the device process has cut the file behind it short; the guest must not touch that. */
static bool is_whole(const struct vp_map *m)
{
	struct stat st;

	return fstat(m->fd, &st) || !S_ISREG(st.st_mode) ||
	       range_ok(m->fd_offset, m->size, (uint64_t)st.st_size);
}

static void lay_map(struct vfio_pci *vp, unsigned bar, struct vp_map *m)
{
	const struct vfio_transport_ops *ops = vp->t->ops;

	m->gpa = vp->fn.bars[bar].addr + m->offset;
	if (!is_whole(m))
		return;
	if (!m->traps) {
		m->slot = memory_slot_add(vp->m->memory, m->gpa, m->size, m->hva, m->readonly);
		if (m->slot < 0)
			log_limited(&vp->refusals, LOG_WARN,
				"%s: BAR %u: 0x%llx+0x%llx gets no memory slot (%s), accesses are slow",
				vp->id, bar, (unsigned long long)m->offset,
				(unsigned long long)m->size, strerror(-m->slot));
	}
	if (!ops->dma_map || m->readonly)
		return;
	m->for_peers = m->lent = true;
	ops->dma_map(vp->t, m->gpa, m->size, m->hva);
	atomic_store(&vp->unsettled, true);
}

static void clear_map(struct vfio_pci *vp, struct vp_map *m)
{
	if (m->slot >= 0)
		memory_slot_remove(vp->m->memory, m->slot);
	m->slot = -1;
	if (!m->for_peers)
		return;
	vp->t->ops->dma_unmap(vp->t, m->gpa, m->size);
	m->for_peers = false;
	atomic_store(&vp->unsettled, true);
}

void vp_bars_settle(struct vfio_pci *vp)
{
	if (atomic_exchange(&vp->unsettled, false))
		vp->t->ops->dma_settle(vp->t);
}

void vp_bar_mapped(struct pci_function *fn, unsigned bar)
{
	struct vfio_pci *vp = vp_of(fn);

	if (!vp->laid || vp->asleep)
		return;
	for (unsigned i = 0; i < vp->bars[bar].nr_maps; i++)
		lay_map(vp, bar, &vp->bars[bar].maps[i]);
	doorbells_on(vp, bar, fn->bars[bar].addr);
}

void vp_bar_unmapped(struct pci_function *fn, unsigned bar)
{
	struct vfio_pci *vp = vp_of(fn);

	if (!vp->laid)
		return;
	for (unsigned i = 0; i < vp->bars[bar].nr_maps; i++)
		clear_map(vp, &vp->bars[bar].maps[i]);
	doorbells_off(vp, bar);
}

/* --- the device comes and goes, sleeps and wakes: no lock held --- */

void vp_bars_lay(struct vfio_pci *vp)
{
	map_all(vp);
	pci_lock(vp->m->pci);
	vp->laid = true;
	if (vp->fn.pci)
		pci_remap_bars(&vp->fn);
	pci_unlock(vp->m->pci);
}

void vp_bars_clear(struct vfio_pci *vp)
{
	pci_lock(vp->m->pci);
	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++)
		vp_bar_unmapped(&vp->fn, bar);
	vp->laid = false;
	pci_unlock(vp->m->pci);
	vp_bars_free(vp);
}

void vp_bars_sleep(struct vfio_pci *vp, bool asleep)
{
	pci_lock(vp->m->pci);
	if (vp->asleep != asleep) {
		vp->asleep = asleep;
		if (vp->fn.pci)
			pci_remap_bars(&vp->fn);
	}
	pci_unlock(vp->m->pci);
}

/* --- memory that is there no more --- */

/*
 * What was cut short traps from now on, and the device process answers for it. Several vCPUs may
 * have run into it at once, and only the first finds it: the others are told to try again too, for
 * a while.
 */
static void look_for_cuts(struct vfio_pci *vp, uint64_t now)
{
	for (unsigned bar = 0; bar < 6; bar++)
		for (unsigned i = 0; i < vp->bars[bar].nr_maps; i++) {
			struct vp_map *m = &vp->bars[bar].maps[i];

			if (m->slot < 0 || is_whole(m))
				continue;
			clear_map(vp, m);
			vp->cut_ns = now;
			log_warn("%s: BAR %u: the device process cut its file short, 0x%llx+0x%llx "
				 "is mapped no more",
				vp->id, bar, (unsigned long long)m->offset,
				(unsigned long long)m->size);
		}
}

/*
 * The kernel lets nobody touch the memory of a device that does not decode, sleeps or is gone; on
 * all paths that we know of it is taken away before. The guest's next change of its BARs lays them
 * anew.
 */
static void look_whether_it_decodes(struct vfio_pci *vp, uint64_t now)
{
	uint16_t command = 0;
	bool any = false;

	for (unsigned bar = 0; bar < 6; bar++)
		for (unsigned i = 0; i < vp->bars[bar].nr_maps; i++)
			any = any || vp->bars[bar].maps[i].slot >= 0;
	/* A system call of the kernel's, which waits for nobody. */
	if (!any || (!vp->t->ops->region_read(vp->t, VFIO_USER_REGION_CONFIG, PCI_COMMAND, &command,
			     sizeof(command)) &&
			    command != UINT16_MAX && command & PCI_COMMAND_MEMORY))
		return;
	for (unsigned bar = 0; bar < 6; bar++)
		vp_bar_unmapped(&vp->fn, bar);
	vp->cut_ns = now;
	log_limited(&vp->refusals, LOG_WARN,
		"%s: the device's memory does not answer, accesses to it trap", vp->id);
}

bool vp_memory_fault(struct pci_function *fn)
{
	struct vfio_pci *vp = vp_of(fn);
	uint64_t now = clock_now_ns();

	if (vp->laid && vp->t->info.host)
		look_whether_it_decodes(vp, now);
	else if (vp->laid)
		look_for_cuts(vp, now);
	return vp->cut_ns && now - vp->cut_ns < NS_PER_S;
}
