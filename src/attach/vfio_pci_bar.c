/*
 * vfio_pci_bar.c - BARs: accesses that trap, parts that are mapped, doorbells
 *
 * The register says what kind a BAR is, the region how large. A region that is no power of two
 * gets the next larger BAR; what lies beyond its end reads all-ones.
 *
 * Over a decoded BAR lie, where the device offers them, memory slots with the device's own pages
 * and ioeventfds; everything else traps and becomes a message. The pages that hold the MSI-X table
 * and the pending bits always trap: the table is ours, its neighbours go to the device.
 * bar_mapped() and bar_unmapped() keep this in step with where the guest puts a BAR; while the
 * device is away
 * (`laid` false) nothing lies there, so that reads give all-ones and doorbells are not
 * swallowed by an eventfd that nobody reads.
 *
 * Posting: PCI lets a memory write be posted, so it is sent without waiting for a reply. Not,
 * however, when the device has any mapped part or doorbell: a store into a mapped page, or a
 * doorbell's eventfd, would overtake the message that was written before it, and PCI promises a
 * device writes in order, also across its BARs. The eventfd that says "the guest has ended its
 * interrupt" is such a short cut too, so nothing is posted while INTx is in use. I/O and
 * configuration writes are not posted on PCI.
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

/* The smallest expansion ROM that its register can describe. PCI 3.0, 6.2.5.2 */
#define ROM_MIN	  2048u
#define MEM_MIN	  16u
#define IO_MIN	  4u
#define IO_MAX	  0x10000ull
#define MEM32_MAX (2 * GIB)

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
		.size = bar_size(size, MEM_MIN),
		.prefetchable = reg & PCI_BASE_ADDRESS_MEM_PREFETCH,
	};
	if ((reg & PCI_BASE_ADDRESS_MEM_TYPE_MASK) != PCI_BASE_ADDRESS_MEM_TYPE_64)
		return size > MEM32_MAX ? too_large(bar, size, "a 32-bit", err) : 0;
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
	if (size > MEM32_MAX)
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

/* --- mapped parts --- */

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
		.slot = -1,
	};
	struct vp_map *more;

	if (from >= to)
		return;
	more = realloc(b->maps, (b->nr_maps + 1) * sizeof(*more));
	if (!more)
		return; /* it traps instead */
	b->maps = more;
	map.hva = mmap(NULL, map.size, PROT_READ | (map.readonly ? 0 : PROT_WRITE), MAP_SHARED,
		map.fd, (off_t)map.fd_offset);
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

static void unmap_all(struct vp_bar *b)
{
	for (unsigned i = 0; i < b->nr_maps; i++)
		munmap(b->maps[i].hva, b->maps[i].size);
	free(b->maps);
	free(b->doorbell_on);
	*b = (struct vp_bar){ 0 };
}

static void map_all(struct vfio_pci *vp)
{
	const struct vp_msix_place *places[] = { &vp->table, &vp->pba };
	bool direct = false;

	for (unsigned bar = 0; bar < 6; bar++) {
		const struct vfio_region *r = &vp->t->info.regions[bar];
		enum pci_bar_kind kind = vp->fn.bars[bar].kind;

		/* Slots can not be write-only, and ports are not memory. */
		for (unsigned i = 0; i < r->nr_areas && r->readable && kind != PCI_BAR_IO; i++)
			add_around(vp, bar, &r->areas[i], r->areas[i].offset,
				r->areas[i].offset + r->areas[i].size, places, ARRAY_SIZE(places));
		if (r->nr_doorbells)
			vp->bars[bar].doorbell_on = calloc(r->nr_doorbells, sizeof(bool));
		direct = direct || vp->bars[bar].nr_maps || vp->bars[bar].doorbell_on;
	}
	atomic_store(&vp->direct, direct);
}

void vp_bars_lay(struct vfio_pci *vp)
{
	/* Nobody looks at bars[] while it is not laid. */
	map_all(vp);
	pci_lock(vp->m->pci);
	vp->laid = true;
	if (vp->fn.pci)
		pci_remap_bars(&vp->fn);
	pci_unlock(vp->m->pci);
}

void vp_bars_free(struct vfio_pci *vp)
{
	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++)
		unmap_all(&vp->bars[bar]);
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

/* --- following the guest: topology lock held --- */

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

static bool in_place(const struct vp_msix_place *p, unsigned bar, uint64_t off, uint64_t size)
{
	return p->bar == bar && p->size && ranges_overlap(off, size, p->off, p->size);
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
		if (in_place(&vp->table, bar, d->offset, size) ||
			in_place(&vp->pba, bar, d->offset, size))
			continue;
		rc = ioeventfd(vp, bar, base, d, 0);
		b->doorbell_on[i] = !rc;
		if (rc)
			log_limited(&vp->refusals, LOG_WARN,
				"%s: BAR %u: KVM refuses the doorbell at 0x%llx (%s), it is slow now",
				vp->id, bar, (unsigned long long)d->offset, strerror(-rc));
	}
}

/* False: the device process has cut the file behind it short; the guest must not touch that. */
static bool is_whole(const struct vp_map *m)
{
	struct stat st;

	return fstat(m->fd, &st) || !S_ISREG(st.st_mode) ||
	       range_ok(m->fd_offset, m->size, (uint64_t)st.st_size);
}

static void lay_map(struct vfio_pci *vp, unsigned bar, struct vp_map *m)
{
	if (!is_whole(m))
		return;
	m->slot = memory_slot_add(
		vp->m->memory, vp->fn.bars[bar].addr + m->offset, m->size, m->hva, m->readonly);
	if (m->slot < 0)
		log_limited(&vp->refusals, LOG_WARN,
			"%s: BAR %u: 0x%llx+0x%llx gets no memory slot (%s), accesses are slow",
			vp->id, bar, (unsigned long long)m->offset, (unsigned long long)m->size,
			strerror(-m->slot));
}

void vp_bar_mapped(struct pci_function *fn, unsigned bar)
{
	struct vfio_pci *vp = vp_of(fn);

	if (!vp->laid || bar == PCI_BAR_ROM)
		return;
	for (unsigned i = 0; i < vp->bars[bar].nr_maps; i++)
		lay_map(vp, bar, &vp->bars[bar].maps[i]);
	doorbells_on(vp, bar, fn->bars[bar].addr);
}

static void clear_map(struct vfio_pci *vp, struct vp_map *m)
{
	if (m->slot >= 0)
		memory_slot_remove(vp->m->memory, m->slot);
	m->slot = -1;
}

void vp_bar_unmapped(struct pci_function *fn, unsigned bar)
{
	struct vfio_pci *vp = vp_of(fn);
	const struct vfio_region *r = &vp->t->info.regions[bar];
	struct vp_bar *b = &vp->bars[bar];

	if (!vp->laid)
		return;
	for (unsigned i = 0; i < b->nr_maps; i++)
		clear_map(vp, &b->maps[i]);
	for (unsigned i = 0; b->doorbell_on && i < r->nr_doorbells; i++) {
		if (b->doorbell_on[i])
			ioeventfd(vp, bar, b->doorbell_base, &r->doorbells[i],
				KVM_IOEVENTFD_FLAG_DEASSIGN);
		b->doorbell_on[i] = false;
	}
}

/*
 * What was cut short traps from now on, and the device process answers for it. Several vCPUs may
 * have run into it at once, and only the first finds it: the others are told to try again too, for
 * a while.
 */
bool vp_memory_fault(struct pci_function *fn)
{
	struct vfio_pci *vp = vp_of(fn);
	uint64_t now = clock_now_ns();

	for (unsigned bar = 0; vp->laid && bar < 6; bar++)
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
	return vp->cut_ns && now - vp->cut_ns < NS_PER_S;
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
	if (vp->t->info.regions[vp->pba.bar].readable) {
		uint64_t got = 0;

		if (!vp->t->ops->region_read(vp->t, vp->pba.bar, off, &got, size))
			value |= got;
	}
	return value;
}

uint64_t vp_bar_read(struct pci_function *fn, unsigned bar, uint64_t off, unsigned size)
{
	struct vfio_pci *vp = vp_of(fn);

	if (atomic_load(&vp->gone))
		return io_ones(size);
	if (in_place(&vp->table, bar, off, size))
		return read_table(vp, off, size);
	if (in_place(&vp->pba, bar, off, size))
		return read_pba(vp, off, size);
	return read_device(vp, bar, off, size);
}

void vp_bar_write(
	struct pci_function *fn, unsigned bar, uint64_t off, unsigned size, uint64_t value)
{
	struct vfio_pci *vp = vp_of(fn);
	const struct vfio_region *r = &vp->t->info.regions[bar];
	bool post = fn->bars[bar].kind != PCI_BAR_IO && atomic_load(&vp->may_post);

	if (in_place(&vp->table, bar, off, size)) {
		if (!inside(&vp->table, off, size))
			return;
		pthread_mutex_lock(&vp->lock);
		msix_table_write(&vp->msix, off - vp->table.off, size, value);
		pthread_mutex_unlock(&vp->lock);
		return;
	}
	/* Pending bits are read-only. */
	if (in_place(&vp->pba, bar, off, size) || !r->writable || !range_ok(off, size, r->size))
		return;
	vp->t->ops->region_write(
		vp->t, bar, off, &value, size, post ? VFIO_CALL_POST : VFIO_CALL_WAIT);
}
