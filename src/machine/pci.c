/*
 * pci.c - segments and their windows, slots and who is in them
 *
 * Owns: the segments and the host bridge. Functions are borrowed.
 */
#include "machine/pci.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "machine/pci_priv.h"

#define HOST_BRIDGE_VENDOR 0x8086
#define HOST_BRIDGE_DEVICE 0x0d57

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

/* --- slots --- */

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
	rc = pci_bars_place(fn, err);
	if (rc) {
		fn->pci = NULL;
		goto out;
	}
	__atomic_store_n(&s->slots[fn->slot], fn, __ATOMIC_RELEASE);
	pci_bars_update(fn);
out:
	pci_unlock(pci);
	return rc;
}

void pci_remove(struct pci *pci, struct pci_function *fn)
{
	if (!fn->pci)
		return;
	pci_lock(pci);
	pci_bars_unmap(fn);
	__atomic_store_n(&pci->segments[fn->segment].slots[fn->slot], NULL, __ATOMIC_RELEASE);
	__atomic_store_n(&fn->pci, NULL, __ATOMIC_RELEASE);
	pci_bars_map_wanted(pci);
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

static void reset_function(struct pci *pci, struct pci_function *fn)
{
	if (fn->ops->reset)
		fn->ops->reset(fn);
	pci_lock(pci);
	/* Else it was removed meanwhile. */
	if (fn->pci) {
		pci_config_set(fn, PCI_COMMAND, 2, 0);
		pci_bars_go_home(fn);
	}
	pci_unlock(pci);
}

static void reset_functions(struct pci *pci, bool last)
{
	for (unsigned s = 0; s < pci->nr_segments; s++)
		for (unsigned i = 0; i < LAYOUT_PCI_SLOTS; i++) {
			struct pci_function *fn =
				__atomic_load_n(&pci->segments[s].slots[i], __ATOMIC_ACQUIRE);

			if (fn && fn->resets_last == last)
				reset_function(pci, fn);
		}
}

/* Functions are waited for, so topology is not held; the caller is an io_reader inside the bus. */
void pci_reset(struct pci *pci)
{
	__atomic_store_n(&pci->config_address, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&pci->reset_control, 0, __ATOMIC_RELAXED);
	reset_functions(pci, false);
	reset_functions(pci, true);
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
	if (*top > hole_end &&
		(*base >= LAYOUT_HT_HOLE || *top - hole_end > LAYOUT_HT_HOLE - *base))
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
	share = align_down((top - base) / pci->nr_segments,
		(top - base) / pci->nr_segments >= GIB ? GIB : MIB);
	for (unsigned s = 0; s < pci->nr_segments; s++) {
		pci->segments[s].windows.mmio64 = base + s * share;
		pci->segments[s].windows.mmio64_size = share;
	}
	/* The last segment gets what division left over. */
	pci->segments[pci->nr_segments - 1].windows.mmio64_size +=
		(top - base) - pci->nr_segments * share;
	return 0;
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
	pci->wants_reset = p->wants_reset;
	pci->reset_arg = p->arg;
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
		rc = pci_access_register(pci, err);
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
