/*
 * pci.h - segments, slots, functions and their BARs
 *
 * Up to 96 segments, each a host bridge with one bus of 32 slots, one function
 * a slot, no bridges. Configuration space is reached by ECAM, and for segment 0
 * by ports 0xcf8/0xcfc too. In the midst of these lies the reset control register, 0xcf9.
 *
 * A function keeps what the guest sees of its configuration space in config[];
 * the core owns BARs and the command register's decode bits there and calls the
 * owner's ops for the rest. While a BAR is decoded, the core has an io_region over
 * the whole of it; an owner may lay memory slots and ioeventfds over parts of that
 * from bar_mapped() to bar_unmapped().
 *
 * A BAR is decoded only inside the windows that the host bridge announces, and only
 * while it overlaps nothing: the guest may write what it likes.
 *
 * Locks: topology, then function. pci->topology guards slots, BAR addresses and
 * mappings (it is the machine's control lock); it is never held while a device is
 * waited for. fn->lock guards everything else of a function and belongs to its owner,
 * who may hold it while it waits, with a deadline, for its device process.
 */
#ifndef MACHINE_PCI_H
#define MACHINE_PCI_H

#include <linux/pci_regs.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "machine/io.h"
#include "machine/irq.h"
#include "machine/memory.h"

#define PCI_CONFIG_SIZE 4096
#define PCI_NR_BARS	7 /* six and the expansion ROM */
#define PCI_BAR_ROM	6

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_bar {
	enum pci_bar_kind kind; /* of a ROM: PCI_BAR_MEM32 */
	bool prefetchable;
	uint64_t size; /* power of two; I/O at least 4, memory at least 16 */
	uint64_t addr; /* where the guest put it; topology lock */
	uint64_t home; /* where pci_add() put it */
	bool mapped;   /* decoded now; topology lock */
};

struct pci_function;

struct pci_ops {
	/*
	 * A configuration access of 1, 2 or 4 bytes, aligned, inside the space. NULL: config[] is
	 * read, and written through pci_config_write_owned(). vCPU thread, no lock held.
	 */
	uint32_t (*config_read)(struct pci_function *fn, unsigned off, unsigned size);
	void (*config_write)(struct pci_function *fn, unsigned off, unsigned size, uint32_t value);
	/* An access to a decoded BAR, of 1, 2, 4 or 8 bytes. vCPU thread, no lock held. */
	uint64_t (*bar_read)(struct pci_function *fn, unsigned bar, uint64_t off, unsigned size);
	void (*bar_write)(struct pci_function *fn, unsigned bar, uint64_t off, unsigned size,
		uint64_t value);
	/* The BAR is decoded at bars[bar].addr now / no longer. May be NULL. Topology lock held. */
	void (*bar_mapped)(struct pci_function *fn, unsigned bar);
	void (*bar_unmapped)(struct pci_function *fn, unsigned bar);
	/*
	 * The machine is reset; all vCPUs stand. config[] must be back at its initial value
	 * afterwards but for BAR addresses. A vCPU's thread, no lock held: it may wait with a
	 * deadline.
	 */
	void (*reset)(struct pci_function *fn);
	/*
	 * KVM could not reach memory: if a slot of this function's has lost what lies behind it (a
	 * file that its device process truncated), take it away and return true. May be NULL.
	 * Topology lock held.
	 */
	bool (*memory_fault)(struct pci_function *fn);
};

struct pci_function {
	const char *id; /* the user's name of the device; borrowed */
	uint16_t segment;
	uint8_t slot;
	const struct pci_ops *ops;
	struct pci_bar bars[PCI_NR_BARS];
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t wmask[PCI_CONFIG_SIZE]; /* bits of config[] that a guest's write changes */
	pthread_mutex_t lock;
	bool resets_last; /* what other devices' addresses go through, while they still work */
	struct pci *pci; /* non-NULL while added; a vCPU may still be inside after pci_remove() */
	struct pci_bar_io {
		struct pci_function *fn;
		unsigned bar;
	} bar_io[PCI_NR_BARS]; /* what the core's io_regions point at */
};

struct pci_params {
	unsigned nr_segments; /* 1 to 96 */
	unsigned phys_bits;   /* of guest physical addresses */
	uint64_t ram_top;     /* 64-bit BARs start above, with room left for more RAM */
	bool ht_hole;	      /* keep out of the HyperTransport hole */
	/*
	 * The guest resets the machine by port 0xcf9. On vCPU threads, must not wait; may be NULL.
	 */
	void (*wants_reset)(void *arg);
	void *arg;
};

/* The windows of one segment that BARs may lie in; size 0: none. */
struct pci_windows {
	uint64_t io, io_size;
	uint64_t mmio32, mmio32_size;
	uint64_t mmio64, mmio64_size;
};

struct pci;

/* Lays out the windows and registers ECAM and the ports on the bus. 0 or -errno with a text. */
int pci_new(struct io_bus *bus, const struct pci_params *p, struct pci **out, struct err *err);
void pci_free(struct pci *pci);

unsigned pci_nr_segments(const struct pci *pci);
const struct pci_windows *pci_segment_windows(const struct pci *pci, unsigned segment);
/* Start of the platform device area (layout.h). */
uint64_t pci_platform_base(const struct pci *pci);

/* The lock named topology above; recursion is a mistake. */
void pci_lock(struct pci *pci);
void pci_unlock(struct pci *pci);

/* Prepare a zeroed function: lock, header type 0. Fill bars, config and wmask after this. */
void pci_function_init(struct pci_function *fn, const char *id, const struct pci_ops *ops);

#define PCI_SLOT_ANY (-1)
/*
 * Put a function into a slot (or any free one) and give its BARs addresses. Its id,
 * class, BAR kinds and sizes must be set. fn is borrowed until pci_remove().
 * 0; -EBUSY slot taken; -ENOSPC no free slot or no room for a BAR; with a text.
 */
int pci_add(struct pci *pci, struct pci_function *fn, unsigned segment, int slot, struct err *err);
/* Unmap its BARs and empty the slot. The caller frees after io_retire(). */
void pci_remove(struct pci *pci, struct pci_function *fn);

/* "0000:00:01.0"; buf holds 13 bytes. */
void pci_bdf(const struct pci_function *fn, char buf[16]);
/* What its messages are from: segment << 16 | bus, device, function. NULL: 0. */
static inline uint32_t pci_source(const struct pci_function *fn)
{
	return fn ? (uint32_t)fn->segment << 16 | (uint32_t)fn->slot << 3 : 0;
}
/* The GSI of the function's interrupt pin A. */
unsigned pci_intx_gsi(const struct pci_function *fn);

/* Call fn for every function present. Topology lock held by the caller. */
void pci_for_each(struct pci *pci, void (*fn)(struct pci_function *f, void *arg), void *arg);

/*
 * The core's part of a configuration write: change config[] by wmask, and carry
 * out what the change means for BARs and decode bits. Takes topology and fn->lock
 * itself. off, size as in config_write.
 */
void pci_config_write_owned(struct pci_function *fn, unsigned off, unsigned size, uint32_t value);

/* config[] as a little-endian value of 1, 2 or 4 bytes. */
uint32_t pci_config_get(const struct pci_function *fn, unsigned off, unsigned size);
void pci_config_set(struct pci_function *fn, unsigned off, unsigned size, uint32_t value);

/*
 * Have bar_unmapped() and bar_mapped() called for each decoded BAR, so that its owner lays it anew.
 */
void pci_remap_bars(struct pci_function *fn);

/*
 * Reset every function (machine reset); decode off, BARs where they
 * were first placed. All vCPUs stand.
 */
void pci_reset(struct pci *pci);

#endif
