/*
 * pci_bar.c - BARs: their registers, where they are, whether they answer
 *
 * The guest places BARs where it likes. A BAR is decoded when its decode bit is
 * on, its address lies in a window of its segment and it overlaps no other. One
 * that cannot be decoded stays wanted: each change of topology tries again, so the order in which
 * a guest moves BARs past each other does not matter.
 *
 * Spec: PCI Local Bus 3.0, 6.2.5.
 */
#include "machine/pci.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "machine/pci_priv.h"

/* --- registers --- */

static unsigned bar_offset(unsigned bar)
{
	return bar == PCI_BAR_ROM ? PCI_ROM_ADDRESS : PCI_BASE_ADDRESS_0 + 4 * bar;
}

static uint32_t bar_flags(const struct pci_bar *b, unsigned bar)
{
	uint32_t flags = 0;

	if (bar == PCI_BAR_ROM)
		return 0;
	if (b->kind == PCI_BAR_IO)
		return PCI_BASE_ADDRESS_SPACE_IO;
	if (b->kind == PCI_BAR_MEM64)
		flags |= PCI_BASE_ADDRESS_MEM_TYPE_64;
	if (b->prefetchable)
		flags |= PCI_BASE_ADDRESS_MEM_PREFETCH;
	return flags;
}

static void set_wmask(struct pci_function *fn, unsigned off, uint32_t mask)
{
	memcpy(fn->wmask + off, &mask, sizeof(mask));
}

/* Write address and flags of a BAR into config[], and which bits of it a guest can change. */
static void bar_to_config(struct pci_function *fn, unsigned bar)
{
	const struct pci_bar *b = &fn->bars[bar];
	unsigned off = bar_offset(bar);
	uint64_t mask = ~(b->size - 1);

	if (b->kind == PCI_BAR_NONE)
		return;
	pci_config_set(fn, off, 4, (uint32_t)b->addr | bar_flags(b, bar));
	/*
	 * I/O BARs decode 16 bits on a PC, but the upper half must read back as written when sized.
	 */
	set_wmask(fn, off, (uint32_t)mask | (bar == PCI_BAR_ROM ? PCI_ROM_ADDRESS_ENABLE : 0));
	if (b->kind == PCI_BAR_MEM64) {
		pci_config_set(fn, off + 4, 4, (uint32_t)(b->addr >> 32));
		set_wmask(fn, off + 4, (uint32_t)(mask >> 32));
	}
}

static uint64_t bar_from_config(const struct pci_function *fn, unsigned bar)
{
	const struct pci_bar *b = &fn->bars[bar];
	uint64_t raw = pci_config_get(fn, bar_offset(bar), 4);

	if (b->kind == PCI_BAR_MEM64)
		raw |= (uint64_t)pci_config_get(fn, bar_offset(bar) + 4, 4) << 32;
	return raw & ~(b->size - 1);
}

static bool bar_wanted(const struct pci_function *fn, unsigned bar)
{
	const struct pci_bar *b = &fn->bars[bar];
	uint32_t command = pci_config_get(fn, PCI_COMMAND, 2);

	if (b->kind == PCI_BAR_NONE)
		return false;
	if (b->kind == PCI_BAR_IO)
		return command & PCI_COMMAND_IO;
	if (!(command & PCI_COMMAND_MEMORY))
		return false;
	return bar != PCI_BAR_ROM ||
	       pci_config_get(fn, PCI_ROM_ADDRESS, 4) & PCI_ROM_ADDRESS_ENABLE;
}

static bool in_window(const struct pci_windows *w, const struct pci_bar *b)
{
	if (b->kind == PCI_BAR_IO)
		return b->addr >= w->io && range_ok(b->addr - w->io, b->size, w->io_size);
	if (b->addr >= w->mmio32 && range_ok(b->addr - w->mmio32, b->size, w->mmio32_size))
		return true;
	return b->addr >= w->mmio64 && range_ok(b->addr - w->mmio64, b->size, w->mmio64_size);
}

/* --- decoding --- */

static uint64_t bar_read(void *self, uint64_t off, unsigned size)
{
	struct pci_bar_io *io = self;

	return io->fn->ops->bar_read(io->fn, io->bar, off, size);
}

static void bar_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_bar_io *io = self;

	io->fn->ops->bar_write(io->fn, io->bar, off, size, value);
}

static const struct io_ops bar_io_ops = { .read = bar_read, .write = bar_write };

static enum io_space bar_space(const struct pci_bar *b)
{
	return b->kind == PCI_BAR_IO ? IO_PORT : IO_MMIO;
}

static void bar_map(struct pci_function *fn, unsigned bar)
{
	struct pci_bar *b = &fn->bars[bar];
	struct pci *pci = fn->pci;
	struct io_region region = {
		.base = b->addr,
		.size = b->size,
		.ops = &bar_io_ops,
		.self = &fn->bar_io[bar],
		.name = fn->id,
	};

	int rc;

	if (b->mapped || !in_window(&pci->segments[fn->segment].windows, b))
		return;
	rc = io_add(pci->bus, bar_space(b), &region);
	if (rc && rc != -EEXIST)
		log_limited(&pci->busy_limit, LOG_WARN, "%s: BAR %u is not decoded for now: %s",
			fn->id, bar, strerror(-rc));
	if (rc)
		return;
	b->mapped = true;
	if (fn->ops->bar_mapped)
		fn->ops->bar_mapped(fn, bar);
}

static void bar_unmap(struct pci_function *fn, unsigned bar)
{
	struct pci_bar *b = &fn->bars[bar];

	if (!b->mapped)
		return;
	if (fn->ops->bar_unmapped)
		fn->ops->bar_unmapped(fn, bar);
	io_remove(fn->pci->bus, bar_space(b), b->addr);
	b->mapped = false;
}

void pci_bars_map_wanted(struct pci *pci)
{
	for (unsigned s = 0; s < pci->nr_segments; s++)
		for (unsigned i = 0; i < LAYOUT_PCI_SLOTS; i++) {
			struct pci_function *fn = pci->segments[s].slots[i];

			for (unsigned bar = 0; fn && bar < PCI_NR_BARS; bar++)
				if (bar_wanted(fn, bar))
					bar_map(fn, bar);
		}
}

/* Bring the decoded BARs in line with config[]. Topology lock held. */
void pci_bars_update(struct pci_function *fn)
{
	bool moved = false;

	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++) {
		struct pci_bar *b = &fn->bars[bar];
		uint64_t addr;

		if (b->kind == PCI_BAR_NONE)
			continue;
		addr = bar_from_config(fn, bar);
		if (b->mapped && bar_wanted(fn, bar) && addr == b->addr)
			continue;
		moved = moved || b->mapped || bar_wanted(fn, bar);
		bar_unmap(fn, bar);
		b->addr = addr;
	}
	if (moved)
		pci_bars_map_wanted(fn->pci);
}

void pci_bars_unmap(struct pci_function *fn)
{
	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++)
		bar_unmap(fn, bar);
}

void pci_bars_go_home(struct pci_function *fn)
{
	pci_bars_unmap(fn);
	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++) {
		fn->bars[bar].addr = fn->bars[bar].home;
		bar_to_config(fn, bar);
	}
}

static bool touches_bars(unsigned off, unsigned size)
{
	return ranges_overlap(off, size, PCI_COMMAND, 2) ||
	       ranges_overlap(off, size, PCI_BASE_ADDRESS_0, 24) ||
	       ranges_overlap(off, size, PCI_ROM_ADDRESS, 4);
}

static void apply_wmask(struct pci_function *fn, unsigned off, unsigned size, uint32_t value)
{
	for (unsigned i = 0; i < size; i++) {
		uint8_t mask = fn->wmask[off + i], *byte = &fn->config[off + i];

		*byte = (uint8_t)((*byte & ~mask) | ((value >> (8 * i)) & mask));
	}
}

void pci_config_write_owned(struct pci_function *fn, unsigned off, unsigned size, uint32_t value)
{
	struct pci *pci;

	if (!touches_bars(off, size)) {
		pthread_mutex_lock(&fn->lock);
		apply_wmask(fn, off, size, value);
		pthread_mutex_unlock(&fn->lock);
		return;
	}
	/*
	 * Command and BAR registers are guarded by topology alone:
	 * mapping must not wait for fn->lock.
	 */
	pci = __atomic_load_n(&fn->pci, __ATOMIC_ACQUIRE);
	if (!pci)
		return;
	pci_lock(pci);
	/* It may have been removed while this vCPU was on its way. */
	if (fn->pci) {
		apply_wmask(fn, off, size, value);
		pci_bars_update(fn);
	}
	pci_unlock(pci);
}

void pci_remap_bars(struct pci_function *fn)
{
	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++) {
		if (!fn->bars[bar].mapped)
			continue;
		if (fn->ops->bar_unmapped)
			fn->ops->bar_unmapped(fn, bar);
		if (fn->ops->bar_mapped)
			fn->ops->bar_mapped(fn, bar);
	}
}

/* --- places --- */

static bool overlaps_bar_of(const struct pci_function *fn, const struct pci_bar *b)
{
	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++) {
		const struct pci_bar *o = &fn->bars[bar];

		if (o != b && o->kind != PCI_BAR_NONE && o->addr && bar_space(o) == bar_space(b) &&
			ranges_overlap(o->addr, o->size, b->addr, b->size))
			return true;
	}
	return false;
}

/* fn, whose BAR b is, is in no slot yet. */
static bool overlaps_any(struct pci *pci, const struct pci_function *fn, const struct pci_bar *b)
{
	if (overlaps_bar_of(fn, b))
		return true;
	for (unsigned s = 0; s < pci->nr_segments; s++)
		for (unsigned i = 0; i < LAYOUT_PCI_SLOTS; i++) {
			const struct pci_function *other = pci->segments[s].slots[i];

			if (other && overlaps_bar_of(other, b))
				return true;
		}
	return false;
}

/*
 * Every BAR gets an address, so that guests without firmware find it there. Memory of less than a
 * page gets a page of its own. First fit, on steps of the BAR's size: the windows hold few BARs.
 */
static int place_in(struct pci *pci, const struct pci_function *fn, struct pci_bar *b,
	uint64_t window, uint64_t window_size)
{
	uint64_t step = b->kind == PCI_BAR_IO ? b->size : MAX(b->size, PAGE_SIZE_4K);

	if (!window_size || b->size > window_size)
		return -ENOSPC;
	for (uint64_t addr = align_up(window, step);
		addr >= window && range_ok(addr - window, b->size, window_size); addr += step) {
		b->addr = addr;
		if (!overlaps_any(pci, fn, b))
			return 0;
	}
	b->addr = 0;
	return -ENOSPC;
}

static int place_bar(struct pci *pci, const struct pci_windows *w, const struct pci_function *fn,
	struct pci_bar *b)
{
	int rc;

	switch (b->kind) {
	case PCI_BAR_IO:
		/* Ports below LAYOUT_PCI_IO belong to the platform. */
		return place_in(pci, fn, b, w->io + LAYOUT_PCI_IO,
			w->io_size > LAYOUT_PCI_IO ? w->io_size - LAYOUT_PCI_IO : 0);
	case PCI_BAR_MEM64:
		rc = place_in(pci, fn, b, w->mmio64, w->mmio64_size);
		return rc ? place_in(pci, fn, b, w->mmio32, w->mmio32_size) : 0;
	case PCI_BAR_MEM32:
		return place_in(pci, fn, b, w->mmio32, w->mmio32_size);
	default:
		return 0;
	}
}

int pci_bars_place(struct pci_function *fn, struct err *err)
{
	struct pci *pci = fn->pci;
	const struct pci_windows *w = &pci->segments[fn->segment].windows;

	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++) {
		struct pci_bar *b = &fn->bars[bar];
		int rc;

		if (b->kind == PCI_BAR_NONE)
			continue;
		assert(is_pow2(b->size));
		rc = place_bar(pci, w, fn, b);
		/*
		 * Without I/O space (segments above 0) a device may still work by its memory BARs.
		 */
		if (rc && b->kind == PCI_BAR_IO)
			log_warn("%s: no I/O space for BAR %u in segment %u", fn->id, bar, fn->segment);
		else if (rc)
			return err_set(err, rc,
				"%s: no room for BAR %u of %llu bytes in PCI segment %u", fn->id, bar,
				(unsigned long long)b->size, fn->segment);
		b->home = b->addr;
		bar_to_config(fn, bar);
	}
	return 0;
}
