/*
 * memory.h - guest RAM, its listeners, and KVM's memory slots
 *
 * RAM is one shared memfd called "guest-ram": its first 3 GiB at most lie
 * below the 32-bit hole, the rest from 4 GiB on. Whoever needs to know RAM (KVM, device
 * processes, ...) is a listener, told of ranges in transactions: begin, any number
 * of add and remove, commit. Device memory that a guest reaches without an exit
 * (mmapped BARs) is a slot, not RAM: listeners do not hear of it.
 *
 * Threads: changes and listeners under the machine's topology lock. Translation (memory_ptr)
 * from any thread: RAM of a running machine only grows.
 */
#ifndef MACHINE_MEMORY_H
#define MACHINE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "machine/kvm.h"

struct mem_range {
	uint64_t gpa;
	uint64_t size;
	int fd; /* borrowed, lives as long as the memory object */
	uint64_t fd_offset;
	void *hva;
};

struct memory_listener {
	void (*begin)(struct memory_listener *l);  /* may be NULL */
	void (*add)(struct memory_listener *l, const struct mem_range *r);
	void (*remove)(struct memory_listener *l, const struct mem_range *r);
	void (*commit)(struct memory_listener *l); /* may be NULL */
	struct memory_listener *next;
};

struct memory_params {
	uint64_t size;	       /* bytes, multiple of 4 KiB (of the huge page size with hugepages) */
	bool hugepages;
	uint64_t hugepage_size; /* 0: the host's default */
	bool prefault;
	bool thp;
};

struct memory;

/* Allocate RAM and give it to KVM. 0 or -errno with a text. Gives *out. */
int memory_new(struct kvm *kvm, const struct memory_params *p, struct memory **out,
	struct err *err);
void memory_free(struct memory *m);

/* The RAM ranges in ascending order. */
unsigned memory_nr_ranges(const struct memory *m);
const struct mem_range *memory_range(const struct memory *m, unsigned i);
uint64_t memory_size(const struct memory *m);
/* One past the highest RAM address. */
uint64_t memory_top(const struct memory *m);

/* Link a listener and tell it of all RAM in one transaction; unlink it, telling it nothing. */
void memory_listen(struct memory *m, struct memory_listener *l);
void memory_unlisten(struct memory *m, struct memory_listener *l);

/*
 * The host address of [gpa, gpa + len) if all of it is RAM of one range, else
 * NULL. The pointer stays valid as long as the memory object.
 */
void *memory_ptr(const struct memory *m, uint64_t gpa, uint64_t len);

/*
 * [gpa, gpa + size), of one range of RAM, is about to be pinned, page by page: with thp have it in
 * huge pages before, a third of the work. Where the kernel cannot (before 6.1) or has none free
 * nothing happens. May take a while: 0.1 s for a GiB. Any thread; the guest may run.
 */
void memory_gather(const struct memory *m, uint64_t gpa, uint64_t size);

/*
 * Copy between guest RAM and buf; ranges may be crossed. 0 or -EFAULT (nothing
 * outside RAM is touched; what lies before the hole may have been written).
 */
int memory_read(const struct memory *m, uint64_t gpa, void *buf, uint64_t len);
int memory_write(struct memory *m, uint64_t gpa, const void *buf, uint64_t len);

/*
 * Let the guest reach size bytes of host memory at gpa without an exit. All three
 * are multiples of 4 KiB; hva is borrowed until memory_slot_remove(). The slot's
 * number (>= 0), or -errno (-ENOSPC: no slot left; -EEXIST: overlaps RAM or another slot).
 */
int memory_slot_add(struct memory *m, uint64_t gpa, uint64_t size, void *hva, bool readonly);
void memory_slot_remove(struct memory *m, int slot);

#endif
