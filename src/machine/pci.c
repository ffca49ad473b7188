/*
 * pci.c - configuration space, slots and BAR decoding
 *
 * The guest places BARs where it likes. A BAR is decoded when its decode bit is
 * on, its address lies in a window of its segment and it overlaps no other. One
 * that cannot be decoded stays wanted: each change of topology tries again, so the order in which
 * a guest moves BARs past each other does not matter.
 */
#include "machine/pci.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "machine/layout.h"

#define HOST_BRIDGE_VENDOR 0x8086
#define HOST_BRIDGE_DEVICE 0x0d57

struct segment {
	struct pci_windows windows;
	struct pci_function *slots[LAYOUT_PCI_SLOTS];
	struct ecam {
		struct pci *pci;
		unsigned segment;
	} ecam;
};

struct pci {
	struct io_bus *bus;
	pthread_mutex_t topology;
	unsigned nr_segments;
	struct segment *segments;
	uint64_t platform_base;
	uint32_t config_address; /* port 0xcf8 */
	struct log_limit busy_limit;
	struct pci_function host_bridge;
};

/* --- configuration space as bytes --- */

uint32_t pci_config_get(const struct pci_function *fn, unsigned off, unsigned size)
{
	uint32_t value = 0;

	assert(range_ok(off, size, PCI_CONFIG_SIZE));
	memcpy(&value, fn->config + off, size);
	return value;
}

void pci_config_set(struct pci_function *fn, unsigned off, unsigned size, uint32_t value)
{
	assert(range_ok(off, size, PCI_CONFIG_SIZE));
	memcpy(fn->config + off, &value, size);
}

void pci_function_init(struct pci_function *fn, const char *id, const struct pci_ops *ops)
{
	fn->id = id;
	fn->ops = ops;
	pthread_mutex_init(&fn->lock, NULL);
	for (unsigned i = 0; i < PCI_NR_BARS; i++)
		fn->bar_io[i] = (struct pci_bar_io){ fn, i };
}

void pci_bdf(const struct pci_function *fn, char buf[16])
{
	snprintf(buf, 16, "%04x:00:%02x.0", fn->segment, fn->slot);
}

unsigned pci_intx_gsi(const struct pci_function *fn)
{
	return GSI_INTX_BASE + fn->slot % GSI_INTX_COUNT;
}

/* --- BAR registers --- */

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
	/* I/O BARs decode 16 bits on a PC, but the upper half must read back as written when sized. */
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

static void map_wanted(struct pci *pci)
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
static void update_bars(struct pci_function *fn)
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
		map_wanted(fn->pci);
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
	if (!touches_bars(off, size)) {
		pthread_mutex_lock(&fn->lock);
		apply_wmask(fn, off, size, value);
		pthread_mutex_unlock(&fn->lock);
		return;
	}
	/* Command and BAR registers are guarded by topology alone: mapping must not wait for fn->lock. */
	pci_lock(fn->pci);
	apply_wmask(fn, off, size, value);
	update_bars(fn);
	pci_unlock(fn->pci);
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

/* --- access by the guest --- */

/* Called inside the reader's epoch of an ECAM or port region, so fn stays allocated. */
static struct pci_function *function_at(struct pci *pci, unsigned segment, unsigned bus,
	unsigned devfn)
{
	if (segment >= pci->nr_segments || bus || devfn & 7)
		return NULL;
	return __atomic_load_n(&pci->segments[segment].slots[devfn >> 3], __ATOMIC_ACQUIRE);
}

static uint32_t config_read(struct pci_function *fn, unsigned off, unsigned size)
{
	if (!fn)
		return (uint32_t)io_ones(size);
	if (fn->ops->config_read)
		return fn->ops->config_read(fn, off, size);
	return pci_config_get(fn, off, size);
}

static void config_write(struct pci_function *fn, unsigned off, unsigned size, uint32_t value)
{
	if (!fn)
		return;
	if (fn->ops->config_write)
		fn->ops->config_write(fn, off, size, value);
	else
		pci_config_write_owned(fn, off, size, value);
}

/* An access that is larger than 4 bytes or not aligned reaches the function in aligned pieces. */
static unsigned piece(uint64_t off, unsigned left)
{
	unsigned size = left >= 4 ? 4 : left >= 2 ? 2 : 1;

	while (off & (size - 1))
		size >>= 1;
	return size;
}

static uint64_t config_read_any(struct pci_function *fn, unsigned off, unsigned size)
{
	uint64_t value = 0;

	for (unsigned done = 0; done < size;) {
		unsigned n = piece(off + done, size - done);

		value |= (uint64_t)config_read(fn, off + done, n) << (8 * done);
		done += n;
	}
	return value;
}

static void config_write_any(struct pci_function *fn, unsigned off, unsigned size, uint64_t value)
{
	for (unsigned done = 0; done < size;) {
		unsigned n = piece(off + done, size - done);

		config_write(fn, off + done, n, (uint32_t)((value >> (8 * done)) & io_ones(n)));
		done += n;
	}
}

/* ECAM: bus in bits 20-27, device and function in 12-19, register in 0-11. PCIe 5.0, 7.2.2 */
static struct pci_function *ecam_function(struct ecam *e, uint64_t off)
{
	return function_at(e->pci, e->segment, (unsigned)(off >> 20), (unsigned)(off >> 12) & 0xff);
}

static uint64_t ecam_read(void *self, uint64_t off, unsigned size)
{
	unsigned reg = (unsigned)off & 0xfff;

	if (!range_ok(reg, size, PCI_CONFIG_SIZE))
		return UINT64_MAX;
	return config_read_any(ecam_function(self, off), reg, size);
}

static void ecam_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	unsigned reg = (unsigned)off & 0xfff;

	if (range_ok(reg, size, PCI_CONFIG_SIZE))
		config_write_any(ecam_function(self, off), reg, size, value);
}

static const struct io_ops ecam_ops = { .read = ecam_read, .write = ecam_write };

/* Configuration mechanism 1: the address at 0xcf8, the data at 0xcfc to 0xcff. PCI 3.0, 3.2.2.3.2 */
static uint64_t address_read(void *self, uint64_t off, unsigned size)
{
	struct pci *pci = self;

	if (size != 4)
		return UINT64_MAX;
	return __atomic_load_n(&pci->config_address, __ATOMIC_RELAXED);
}

static void address_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct pci *pci = self;

	if (size == 4)
		__atomic_store_n(&pci->config_address, (uint32_t)value & 0x80fffffc,
			__ATOMIC_RELAXED);
}

static struct pci_function *port_function(struct pci *pci, uint32_t address)
{
	if (!(address & 0x80000000))
		return NULL;
	return function_at(pci, 0, address >> 16 & 0xff, address >> 8 & 0xff);
}

static uint64_t data_read(void *self, uint64_t off, unsigned size)
{
	struct pci *pci = self;
	uint32_t address = __atomic_load_n(&pci->config_address, __ATOMIC_RELAXED);

	return config_read_any(port_function(pci, address), (address & 0xfc) + (unsigned)off, size);
}

static void data_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct pci *pci = self;
	uint32_t address = __atomic_load_n(&pci->config_address, __ATOMIC_RELAXED);

	config_write_any(port_function(pci, address), (address & 0xfc) + (unsigned)off, size, value);
}

static const struct io_ops address_ops = { .read = address_read, .write = address_write };
static const struct io_ops data_ops = { .read = data_read, .write = data_write };

/* --- slots --- */

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
 * Every BAR gets an address, so that guests without firmware find it there. Memory of less than a page
 * gets a page of its own. First fit, on steps of the BAR's size: the windows hold few BARs.
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

static int place_bars(struct pci *pci, struct pci_function *fn, struct err *err)
{
	const struct pci_windows *w = &pci->segments[fn->segment].windows;

	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++) {
		struct pci_bar *b = &fn->bars[bar];
		int rc;

		if (b->kind == PCI_BAR_NONE)
			continue;
		assert(is_pow2(b->size));
		rc = place_bar(pci, w, fn, b);
		/* Without I/O space (segments above 0) a device may still work by its memory BARs. */
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

static int find_slot(const struct segment *s, int slot)
{
	if (slot != PCI_SLOT_ANY)
		return s->slots[slot] ? -EBUSY : slot;
	for (int i = 1; i < LAYOUT_PCI_SLOTS; i++)
		if (!s->slots[i])
			return i;
	return -ENOSPC;
}

int pci_add(struct pci *pci, struct pci_function *fn, unsigned segment, int slot, struct err *err)
{
	uint32_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_IO | PCI_COMMAND_MASTER |
			   PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE;
	struct segment *s;
	int rc;

	if (segment >= pci->nr_segments)
		return err_set(err, -EINVAL, "%s: there is no PCI segment %u, the last is %u", fn->id,
			segment, pci->nr_segments - 1);
	s = &pci->segments[segment];
	pci_lock(pci);
	rc = find_slot(s, slot);
	if (rc < 0) {
		err_set(err, rc,
			rc == -EBUSY ? "%s: PCI slot %d of segment %u is taken" :
				       "%s: no free PCI slot (%d asked for) in segment %u",
			fn->id, slot, segment);
		goto out;
	}
	fn->segment = (uint16_t)segment;
	fn->slot = (uint8_t)rc;
	fn->pci = pci;
	fn->wmask[PCI_COMMAND] |= (uint8_t)command;
	fn->wmask[PCI_COMMAND + 1] |= (uint8_t)(command >> 8);
	fn->wmask[PCI_INTERRUPT_LINE] = 0xff;
	fn->wmask[PCI_CACHE_LINE_SIZE] = 0xff;
	if (fn->config[PCI_INTERRUPT_PIN])
		fn->config[PCI_INTERRUPT_LINE] = (uint8_t)pci_intx_gsi(fn);
	rc = place_bars(pci, fn, err);
	if (rc) {
		fn->pci = NULL;
		goto out;
	}
	__atomic_store_n(&s->slots[fn->slot], fn, __ATOMIC_RELEASE);
	update_bars(fn);
out:
	pci_unlock(pci);
	return rc;
}

void pci_remove(struct pci *pci, struct pci_function *fn)
{
	if (!fn->pci)
		return;
	pci_lock(pci);
	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++)
		bar_unmap(fn, bar);
	__atomic_store_n(&pci->segments[fn->segment].slots[fn->slot], NULL, __ATOMIC_RELEASE);
	fn->pci = NULL;
	map_wanted(pci);
	pci_unlock(pci);
}

void pci_lock(struct pci *pci)
{
	pthread_mutex_lock(&pci->topology);
}

void pci_unlock(struct pci *pci)
{
	pthread_mutex_unlock(&pci->topology);
}

void pci_for_each(struct pci *pci, void (*fn)(struct pci_function *f, void *arg), void *arg)
{
	for (unsigned s = 0; s < pci->nr_segments; s++)
		for (unsigned i = 0; i < LAYOUT_PCI_SLOTS; i++)
			if (pci->segments[s].slots[i])
				fn(pci->segments[s].slots[i], arg);
}

static void reset_function(struct pci_function *fn)
{
	if (fn->ops->reset)
		fn->ops->reset(fn);
	pci_lock(fn->pci);
	pci_config_set(fn, PCI_COMMAND, 2, 0);
	update_bars(fn);
	for (unsigned bar = 0; bar < PCI_NR_BARS; bar++) {
		fn->bars[bar].addr = fn->bars[bar].home;
		bar_to_config(fn, bar);
	}
	pci_unlock(fn->pci);
}

/* Functions are waited for, so topology is not held; the caller is an io_reader inside the bus. */
void pci_reset(struct pci *pci)
{
	__atomic_store_n(&pci->config_address, 0, __ATOMIC_RELAXED);
	for (unsigned s = 0; s < pci->nr_segments; s++)
		for (unsigned i = 0; i < LAYOUT_PCI_SLOTS; i++) {
			struct pci_function *fn =
				__atomic_load_n(&pci->segments[s].slots[i], __ATOMIC_ACQUIRE);

			if (fn)
				reset_function(fn);
		}
}

/* --- the windows --- */

static void split_mmio32(struct pci *pci)
{
	uint64_t share = align_down(LAYOUT_MMIO32_SIZE / pci->nr_segments, MIB);

	for (unsigned s = 0; s < pci->nr_segments; s++) {
		pci->segments[s].windows.mmio32 = LAYOUT_MMIO32 + s * share;
		pci->segments[s].windows.mmio32_size = share;
	}
}

/* The larger part of [base, top) that is clear of the HyperTransport hole. */
static void avoid_ht_hole(uint64_t *base, uint64_t *top)
{
	uint64_t hole_end = LAYOUT_HT_HOLE + LAYOUT_HT_HOLE_SIZE;

	if (*top <= LAYOUT_HT_HOLE || *base >= hole_end)
		return;
	if (*top > hole_end && (*base >= LAYOUT_HT_HOLE || *top - hole_end > LAYOUT_HT_HOLE - *base))
		*base = hole_end;
	else
		*top = MIN(*top, LAYOUT_HT_HOLE);
}

static int split_mmio64(struct pci *pci, const struct pci_params *p, struct err *err)
{
	uint64_t end = 1ull << p->phys_bits;
	uint64_t base = align_up(MAX(p->ram_top, LAYOUT_4G), GIB), top, share;

	/* The platform area must not fall into the hole either. */
	if (p->ht_hole && ranges_overlap(LAYOUT_HT_HOLE, LAYOUT_HT_HOLE_SIZE, end - MIB, MIB))
		end = LAYOUT_HT_HOLE;
	pci->platform_base = end - LAYOUT_TOP_RESERVED - LAYOUT_PLATFORM_SIZE;
	top = align_down(pci->platform_base, GIB);
	if (p->ht_hole)
		avoid_ht_hole(&base, &top);
	if (base >= top || align_down((top - base) / pci->nr_segments, MIB) == 0)
		return err_set(err, -ENOSPC,
			"no address space left for PCI devices: RAM ends at 0x%llx and the guest has %u "
			"physical address bits",
			(unsigned long long)p->ram_top, p->phys_bits);
	share = align_down((top - base) / pci->nr_segments, (top - base) / pci->nr_segments >= GIB ? GIB : MIB);
	for (unsigned s = 0; s < pci->nr_segments; s++) {
		pci->segments[s].windows.mmio64 = base + s * share;
		pci->segments[s].windows.mmio64_size = share;
	}
	/* The last segment gets what division left over. */
	pci->segments[pci->nr_segments - 1].windows.mmio64_size += (top - base) - pci->nr_segments * share;
	return 0;
}

static int register_access(struct pci *pci, struct err *err)
{
	const struct io_region ports[] = {
		{ PORT_PCI_ADDRESS, 4, &address_ops, pci, "pci address" },
		{ PORT_PCI_DATA, 4, &data_ops, pci, "pci data" },
	};
	int rc = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(ports) && !rc; i++)
		rc = io_add(pci->bus, IO_PORT, &ports[i]);
	for (unsigned s = 0; s < pci->nr_segments && !rc; s++) {
		struct io_region ecam = {
			.base = LAYOUT_ECAM + s * LAYOUT_ECAM_SEGMENT,
			.size = LAYOUT_ECAM_SEGMENT,
			.ops = &ecam_ops,
			.self = &pci->segments[s].ecam,
			.name = "ecam",
		};

		pci->segments[s].ecam = (struct ecam){ pci, s };
		rc = io_add(pci->bus, IO_MMIO, &ecam);
	}
	return rc ? err_set(err, rc, "PCI: cannot register configuration space") : 0;
}

static const struct pci_ops host_bridge_ops = { 0 };

static int add_host_bridge(struct pci *pci, struct err *err)
{
	struct pci_function *fn = &pci->host_bridge;

	pci_function_init(fn, "host bridge", &host_bridge_ops);
	pci_config_set(fn, PCI_VENDOR_ID, 2, HOST_BRIDGE_VENDOR);
	pci_config_set(fn, PCI_DEVICE_ID, 2, HOST_BRIDGE_DEVICE);
	pci_config_set(fn, PCI_CLASS_DEVICE, 2, 0x0600);
	return pci_add(pci, fn, 0, 0, err);
}

int pci_new(struct io_bus *bus, const struct pci_params *p, struct pci **out, struct err *err)
{
	struct pci *pci = calloc(1, sizeof(*pci));
	int rc;

	if (!pci)
		return err_set(err, -ENOMEM, "out of memory");
	pci->bus = bus;
	pci->nr_segments = p->nr_segments;
	pthread_mutex_init(&pci->topology, NULL);
	pci->segments = calloc(p->nr_segments, sizeof(*pci->segments));
	rc = pci->segments ? 0 : err_set(err, -ENOMEM, "out of memory");
	if (rc)
		goto fail;
	split_mmio32(pci);
	pci->segments[0].windows.io = 0;
	pci->segments[0].windows.io_size = LAYOUT_PCI_IO + LAYOUT_PCI_IO_SIZE;
	rc = split_mmio64(pci, p, err);
	if (!rc)
		rc = register_access(pci, err);
	if (!rc)
		rc = add_host_bridge(pci, err);
	if (rc)
		goto fail;
	*out = pci;
	return 0;
fail:
	pci_free(pci);
	return rc;
}

void pci_free(struct pci *pci)
{
	if (!pci)
		return;
	pthread_mutex_destroy(&pci->topology);
	free(pci->segments);
	free(pci);
}

unsigned pci_nr_segments(const struct pci *pci)
{
	return pci->nr_segments;
}

const struct pci_windows *pci_segment_windows(const struct pci *pci, unsigned segment)
{
	assert(segment < pci->nr_segments);
	return &pci->segments[segment].windows;
}

uint64_t pci_platform_base(const struct pci *pci)
{
	return pci->platform_base;
}
