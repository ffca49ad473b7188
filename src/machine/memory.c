/*
 * memory.c - one memfd of RAM, its KVM slots, and those who follow it
 *
 * Owns: the memfd, its mapping, all KVM slots. Slots 0 and 1 are RAM.
 */
#include "machine/memory.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "machine/layout.h"

#define MAX_RANGES 2

#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

struct slot {
	bool used;
	uint64_t gpa, size;
};

struct memory {
	struct kvm *kvm;
	int fd;
	void *hva;
	uint64_t size;
	bool thp;
	unsigned nr_ranges;
	struct mem_range ranges[MAX_RANGES];
	struct memory_listener *listeners;
	struct slot *slots; /* by slot number; KVM offers thousands, few are ever used */
	unsigned nr_slots;  /* length of slots[] */
};

static void size_text(uint64_t size, char buf[32])
{
	if (size % GIB == 0)
		snprintf(buf, 32, "%lluG", (unsigned long long)(size / GIB));
	else
		snprintf(buf, 32, "%lluM", (unsigned long long)(size / MIB));
}

/*
 * More RAM than the host has at all is a slip of the hand, better said now than by the OOM killer.
 */
static int check_host(uint64_t size, struct err *err)
{
	struct sysinfo info;
	uint64_t host;
	char text[32];

	if (sysinfo(&info))
		return 0;
	host = ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
	if (size <= host)
		return 0;
	size_text(size, text);
	return err_set(err, -ENOMEM,
		"--memory size=%s: this host has %llu MiB of memory and swap in all", text,
		(unsigned long long)(host / MIB));
}

static int create_memfd(const struct memory_params *p, struct err *err)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	FD_AUTO fd = -1;

	if (p->hugepages) {
		flags |= MFD_HUGETLB;
		if (p->hugepage_size)
			flags |= (unsigned)__builtin_ctzll(p->hugepage_size) << MFD_HUGE_SHIFT;
	}
	fd = memfd_create("guest-ram", flags);
	if (fd < 0)
		return err_set(err, -errno, "guest RAM%s: memfd_create: %s",
			p->hugepages ? " in huge pages of that size" : "", strerror(errno));
	if (ftruncate(fd, (off_t)p->size) < 0)
		return err_set(err, -errno, "guest RAM of %llu MiB: %s",
			(unsigned long long)(p->size / MIB), strerror(errno));
	/* Peers map this file: a peer must not be able to shrink it under us. */
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_set(err, -errno, "guest RAM: cannot seal its size: %s", strerror(errno));
	return fd_take(&fd);
}

/* Of a huge page. */
#define ALIGNMENT (2 * MIB)

/*
 * Room for RAM at an address that is a multiple of 2 MiB, as its guest addresses are: without that
 * KVM can not map huge pages. The kernel by itself aligns a memfd only where it would give it some
 * now.
 */
static void *reserve(uint64_t size)
{
	uint64_t room = size + ALIGNMENT;
	char *p = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t before;

	if (p == MAP_FAILED)
		return NULL;
	before = align_up((uintptr_t)p, ALIGNMENT) - (uintptr_t)p;
	if (before)
		munmap(p, before);
	munmap(p + before + size, ALIGNMENT - before);
	return p + before;
}

/*
 * A memfd gets no huge pages by itself, unless the host's administrator allows it (shmem_enabled),
 * but what is there can be put together. A huge page of which nothing is there is left out, so one
 * page of each comes first; by a read, which takes nothing from a guest that writes to it.
 */
static void collapse(char *hva, uint64_t size)
{
	for (uint64_t at = 0; at < size; at += ALIGNMENT)
		if (madvise(hva + at, PAGE_SIZE_4K, MADV_POPULATE_READ))
			return;
	madvise(hva, size, MADV_COLLAPSE);
}

void memory_gather(const struct memory *m, uint64_t gpa, uint64_t size)
{
	char *hva = m->thp ? memory_ptr(m, gpa, size) : NULL;
	uint64_t from, to;

	if (!hva)
		return;
	from = align_up((uintptr_t)hva, ALIGNMENT) - (uintptr_t)hva;
	to = align_down((uintptr_t)hva + size, ALIGNMENT) - (uintptr_t)hva;
	if (from < size && to > from && to <= size)
		collapse(hva + from, to - from);
}

static int map_ram(struct memory *m, const struct memory_params *p, struct err *err)
{
	void *at = p->hugepages ? NULL : reserve(m->size);

	/*
	 * Huge pages are reserved here: too few are an error now, not
	 * a SIGBUS when they are touched.
	 */
	m->hva = mmap(at, m->size, PROT_READ | PROT_WRITE,
		MAP_SHARED | (p->hugepages ? 0 : MAP_NORESERVE) | (at ? MAP_FIXED : 0), m->fd, 0);
	if (m->hva == MAP_FAILED) {
		m->hva = NULL;
		if (at)
			munmap(at, m->size);
		return err_set(err, -errno,
			p->hugepages ? "guest RAM of %llu MiB: %s (too few free huge pages?)" :
				       "guest RAM of %llu MiB: %s",
			(unsigned long long)(m->size / MIB), strerror(errno));
	}
	m->thp = p->thp && !p->hugepages;
	if (m->thp)
		madvise(m->hva, m->size, MADV_HUGEPAGE); /* a hint: kernels without it do without */
	madvise(m->hva, m->size, MADV_DONTDUMP);
	if (p->prefault && madvise(m->hva, m->size, MADV_POPULATE_WRITE) < 0)
		return err_set(err, -errno, "cannot prefault %llu MiB of guest RAM: %s",
			(unsigned long long)(m->size / MIB), strerror(errno));
	return 0;
}

static void split_ranges(struct memory *m)
{
	uint64_t low = MIN(m->size, LAYOUT_HOLE);

	m->ranges[m->nr_ranges++] = (struct mem_range){
		.gpa = 0, .size = low, .fd = m->fd, .fd_offset = 0, .hva = m->hva
	};
	if (m->size > low)
		m->ranges[m->nr_ranges++] = (struct mem_range){
			.gpa = LAYOUT_4G,
			.size = m->size - low,
			.fd = m->fd,
			.fd_offset = low,
			.hva = (char *)m->hva + low,
		};
}

static int slot_set(struct memory *m, unsigned slot, uint64_t gpa, uint64_t size, void *hva,
	uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)hva,
	};

	return kvm_vm_ioctl(m->kvm, KVM_SET_USER_MEMORY_REGION, &region);
}

/* The number of a free slot, or -errno. */
static int slot_find(struct memory *m)
{
	unsigned grown = MIN(MAX(2 * m->nr_slots, 16u), m->kvm->nr_slots);
	struct slot *slots;
	unsigned i;

	for (i = 0; i < m->nr_slots; i++)
		if (!m->slots[i].used)
			return (int)i;
	if (i == m->kvm->nr_slots)
		return -ENOSPC;
	slots = realloc(m->slots, grown * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	memset(slots + m->nr_slots, 0, (grown - m->nr_slots) * sizeof(*slots));
	m->slots = slots;
	m->nr_slots = grown;
	return (int)i;
}

int memory_slot_add(struct memory *m, uint64_t gpa, uint64_t size, void *hva, bool readonly)
{
	int slot, rc;

	for (unsigned i = 0; i < m->nr_slots; i++)
		if (m->slots[i].used &&
			ranges_overlap(m->slots[i].gpa, m->slots[i].size, gpa, size))
			return -EEXIST;
	slot = slot_find(m);
	if (slot < 0)
		return slot;
	rc = slot_set(m, (unsigned)slot, gpa, size, hva, readonly ? KVM_MEM_READONLY : 0);
	if (rc)
		return rc;
	m->slots[slot] = (struct slot){ .used = true, .gpa = gpa, .size = size };
	return slot;
}

void memory_slot_remove(struct memory *m, int slot)
{
	struct slot *s = &m->slots[slot];

	assert(s->used);
	slot_set(m, (unsigned)slot, s->gpa, 0, NULL, 0);
	*s = (struct slot){ 0 };
}

int memory_new(struct kvm *kvm, const struct memory_params *p, struct memory **out,
	struct err *err)
{
	struct memory *m = calloc(1, sizeof(*m));
	int rc;

	if (!m)
		return err_set(err, -ENOMEM, "out of memory");
	m->kvm = kvm;
	m->size = p->size;
	m->fd = -1;
	rc = check_host(p->size, err);
	if (rc)
		goto fail;
	m->fd = rc = create_memfd(p, err);
	if (rc < 0)
		goto fail;
	rc = map_ram(m, p, err);
	if (rc)
		goto fail;
	split_ranges(m);
	for (unsigned i = 0; i < m->nr_ranges; i++) {
		const struct mem_range *r = &m->ranges[i];

		rc = memory_slot_add(m, r->gpa, r->size, r->hva, false);
		if (rc < 0) {
			err_set(err, rc, "KVM refuses %llu MiB of RAM at 0x%llx: %s",
				(unsigned long long)(r->size / MIB), (unsigned long long)r->gpa,
				strerror(-rc));
			goto fail;
		}
	}
	*out = m;
	return 0;
fail:
	memory_free(m);
	return rc;
}

void memory_free(struct memory *m)
{
	if (!m)
		return;
	for (unsigned i = 0; i < m->nr_slots; i++)
		if (m->slots[i].used)
			memory_slot_remove(m, (int)i);
	if (m->hva)
		munmap(m->hva, m->size);
	fd_close(&m->fd);
	free(m->slots);
	free(m);
}

unsigned memory_nr_ranges(const struct memory *m)
{
	return m->nr_ranges;
}

const struct mem_range *memory_range(const struct memory *m, unsigned i)
{
	assert(i < m->nr_ranges);
	return &m->ranges[i];
}

uint64_t memory_size(const struct memory *m)
{
	return m->size;
}

uint64_t memory_top(const struct memory *m)
{
	const struct mem_range *last = &m->ranges[m->nr_ranges - 1];

	return last->gpa + last->size;
}

void memory_listen(struct memory *m, struct memory_listener *l)
{
	l->next = m->listeners;
	m->listeners = l;
	if (l->begin)
		l->begin(l);
	for (unsigned i = 0; i < m->nr_ranges; i++)
		l->add(l, &m->ranges[i]);
	if (l->commit)
		l->commit(l);
}

void memory_unlisten(struct memory *m, struct memory_listener *l)
{
	struct memory_listener **at = &m->listeners;

	while (*at && *at != l)
		at = &(*at)->next;
	if (*at)
		*at = l->next;
}

static const struct mem_range *find(const struct memory *m, uint64_t gpa)
{
	for (unsigned i = 0; i < m->nr_ranges; i++)
		if (gpa >= m->ranges[i].gpa && gpa - m->ranges[i].gpa < m->ranges[i].size)
			return &m->ranges[i];
	return NULL;
}

void *memory_ptr(const struct memory *m, uint64_t gpa, uint64_t len)
{
	const struct mem_range *r = find(m, gpa);

	if (!r || !range_ok(gpa - r->gpa, len, r->size))
		return NULL;
	return (char *)r->hva + (gpa - r->gpa);
}

/* Walk [gpa, gpa + len) range by range. */
static int copy(const struct memory *m, uint64_t gpa, void *buf, uint64_t len, bool to_guest)
{
	char *p = buf;

	while (len) {
		const struct mem_range *r = find(m, gpa);
		uint64_t off, n;

		if (!r)
			return -EFAULT;
		off = gpa - r->gpa;
		n = MIN(len, r->size - off);
		if (to_guest)
			memcpy((char *)r->hva + off, p, n);
		else
			memcpy(p, (char *)r->hva + off, n);
		p += n;
		gpa += n;
		len -= n;
	}
	return 0;
}

int memory_read(const struct memory *m, uint64_t gpa, void *buf, uint64_t len)
{
	return copy(m, gpa, buf, len, false);
}

int memory_write(struct memory *m, uint64_t gpa, const void *buf, uint64_t len)
{
	return copy(m, gpa, (void *)buf, len, true);
}
