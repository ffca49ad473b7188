/*
 * boot.h - the images a guest starts from, and the state it starts in
 *
 * boot_open() takes the files named by the user and says at once what an unusable
 * one lacks. boot_load() lays them into guest RAM together with what their
 * boot protocol wants beside them (start info or zero page, memory map, command line,
 * GDT, page tables) and tells the registers that the first vCPU starts with. It
 * reads the files anew each time, so that every reset of the guest begins alike.
 *
 * Kinds, in the order they are tried:
 *   1. ELF64 with the Xen note PHYS32_ENTRY: PVH, flat 32-bit entry (kernels and firmware)
 *   2. bzImage with a 64-bit entry point: long mode, identity page tables
 *   3. bzImage with a 32-bit entry point only
 *
 * Spec: "The Linux/x86 Boot Protocol"; Xen, "x86/HVM direct boot ABI"; ELF-64.
 */
#ifndef MACHINE_BOOT_H
#define MACHINE_BOOT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "machine/memory.h"

struct boot_files {
	/* Borrowed. Exactly one of kernel and firmware; the others may be NULL. */
	const char *kernel, *firmware, *initramfs, *cmdline;
};

struct boot;

/*
 * Open and examine the files. They stay open, so that a later change of the path does
 * not matter. 0, gives *out; or -errno with a text that names the file and what
 * it lacks. Needs no machine.
 */
int boot_open(const struct boot_files *p, struct boot **out, struct err *err);
/* NULL is fine. */
void boot_free(struct boot *boot);

/* "PVH", "bzImage, 64-bit entry", "bzImage, 32-bit entry" */
const char *boot_kind(const struct boot *boot);

/*
 * True if the guest's first instruction runs in long mode: a host without hardware
 * virtualisation runs no other.
 */
bool boot_enters_long_mode(const struct boot *boot);

struct boot_range {
	uint64_t base, size;
};

struct boot_target {
	struct memory *memory;
	uint64_t rsdp; /* where acpi_install() put it; 0: none */
	/* What the memory map says is taken, beside RAM: ECAM, platform devices */
	const struct boot_range *reserved;
	unsigned nr_reserved;
	/* RAM has not been touched since it was allocated: what must read zero does already. */
	bool fresh;
};

/*
 * A segment register is flat (base 0, limit 4 GiB) and has the descriptor at its selector in the
 * GDT that boot_load() wrote. The rest of the state is the reset state with interrupts off
 * (RFLAGS 2), no IDT (limit 0), other general registers 0.
 */
struct boot_entry {
	enum boot_mode {
		BOOT_PROTECTED32, /* CR0 = PE (and ET), CR4 = 0, EFER = 0; CS: 32-bit code */
		/* CR0 = PE|PG (and ET), CR4 = PAE, EFER = LME|LMA; CS: 64-bit code (L, not D) */
		BOOT_LONG64,
	} mode;
	uint64_t rip, rsp, rbx, rsi;
	uint64_t cr3;	     /* BOOT_LONG64: identity map of the first 4 GiB */
	uint64_t gdt_base;
	uint16_t gdt_limit;
	/*
	 * Selectors. ds is for DS, ES, FS, GS, SS; tr: a busy TSS of the mode, base 0, limit 0x67
	 */
	uint16_t cs, ds, tr;
};

/*
 * Load everything. RAM must not be in use by vCPUs. May be called any number of
 * times. 0, fills *entry; or -errno with a text: does not fit into RAM, file became
 * shorter, read error.
 */
int boot_load(const struct boot *boot, const struct boot_target *target, struct boot_entry *entry,
	struct err *err);

#endif
