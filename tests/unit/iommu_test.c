/* iommu_test.c - what a device behind an IOMMU sees, follows and holds; and what a guest may say */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <semaphore.h>

#include "fake_memory.h"
#include "machine/iommu.h"

#define RW (DMA_CAN_READ | DMA_CAN_WRITE)

void memory_listen(struct memory *m, struct memory_listener *l)
{
	for (unsigned i = 0; i < m->nr; i++)
		l->add(l, &m->ranges[i]);
}

void memory_unlisten(struct memory *m, struct memory_listener *l)
{
}

/* One who follows, and what it was told. */
struct follower {
	struct dma_listener l;
	struct dma_range ranges[64];
	unsigned nr, maps, unmaps, syncs;
	unsigned refuse_at; /* the n-th map from now, 0: none */
	int sync_rc;
	void (*mapped)(void *arg); /* called by each map, unless NULL */
	void *arg;
};

static int on_map(struct dma_listener *l, const struct dma_range *r)
{
	struct follower *f = container_of(l, struct follower, l);

	f->maps++;
	if (f->mapped)
		f->mapped(f->arg);
	if (f->refuse_at && !--f->refuse_at)
		return -ENOSPC;
	for (unsigned i = 0; i < MIN(f->nr, 64u); i++)
		assert_false(ranges_overlap(
			f->ranges[i].iova, f->ranges[i].size, r->iova, r->size));
	if (f->nr < 64)
		f->ranges[f->nr] = *r;
	f->nr++;
	return 0;
}

static void on_unmap(struct dma_listener *l, const struct dma_range *r)
{
	struct follower *f = container_of(l, struct follower, l);

	f->unmaps++;
	for (unsigned i = 0; i < f->nr && i < 64; i++)
		if (f->ranges[i].iova == r->iova && f->ranges[i].size == r->size) {
			f->ranges[i] = f->ranges[--f->nr];
			return;
		}
}

static int on_sync(struct dma_listener *l)
{
	struct follower *f = container_of(l, struct follower, l);
	int rc = f->sync_rc;

	f->syncs++;
	f->sync_rc = 0;
	return rc;
}

/* A machine of 3 GiB below the hole and 1 MiB above it, two devices, one of them followed. */
struct world {
	struct memory *m;
	struct iommu *io;
	struct dma_space *s, *t;
	struct follower f;
	struct {
		uint32_t endpoint;
		bool attached;
		uint64_t iova;
		unsigned access, nr;
	} fault;
};

static void on_fault(void *arg, uint32_t endpoint, bool attached, uint64_t iova, unsigned access)
{
	struct world *w = arg;

	w->fault.endpoint = endpoint;
	w->fault.attached = attached;
	w->fault.iova = iova;
	w->fault.access = access;
	w->fault.nr++;
}

static int set_up(void **state)
{
	static const struct iommu_resv msi = { 0xfee00000, 0xfeefffff, true };
	struct world *w = calloc(1, sizeof(*w));
	const struct iommu_params p = {
		.last = UINT64_MAX, .resv = &msi, .nr_resv = 1, .fault = on_fault, .arg = w
	};

	w->m = fake_memory_new(LAYOUT_HOLE + MIB);
	assert_int_equal(iommu_new(&p, &w->io), 0);
	assert_int_equal(dma_space_new(w->m, "a", &w->s), 0);
	assert_int_equal(dma_space_new(w->m, "b", &w->t), 0);
	w->f.l = (struct dma_listener){ .map = on_map, .unmap = on_unmap, .sync = on_sync };
	assert_int_equal(dma_listen(w->s, &w->f.l), 0);
	assert_int_equal(iommu_add(w->io, 8, w->s), 0);
	assert_int_equal(iommu_add(w->io, 16, w->t), 0);
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;

	iommu_remove(w->s);
	iommu_remove(w->t);
	dma_unlisten(w->s, &w->f.l);
	dma_space_free(w->s);
	dma_space_free(w->t);
	iommu_free(w->io);
	fake_memory_free(w->m);
	free(w);
	return 0;
}

static uint64_t gpa_of(struct dma_space *s, uint64_t iova, unsigned access)
{
	uint64_t len = 1, gpa;

	return dma_translate(s, iova, &len, access, &gpa) ? UINT64_MAX : gpa;
}

/* --- views --- */

static void a_device_that_is_bypassed_sees_ram_as_it_is(void **state)
{
	struct world *w = *state;
	uint64_t len = 2 * MIB;

	assert_true(dma_is_translated(w->s));
	assert_int_equal(w->f.nr, 2);
	assert_int_equal(w->f.ranges[1].iova, LAYOUT_4G);
	assert_ptr_equal(dma_ptr(w->s, LAYOUT_4G, &len, RW), w->m->ranges[1].hva);
	assert_int_equal(len, MIB);
	assert_null(dma_ptr(w->s, LAYOUT_HOLE, &len, RW));
}

static void a_device_that_is_not_bypassed_sees_nothing(void **state)
{
	struct world *w = *state;

	iommu_set_bypass(w->io, false);
	assert_int_equal(w->f.nr, 0);
	assert_int_equal(gpa_of(w->s, 0x1000, DMA_CAN_READ), UINT64_MAX);
	assert_int_equal(w->fault.nr, 0); /* asking is no access */
	assert_int_equal(dma_read(w->s, 0x1000, &(char){ 0 }, 1), -EFAULT);
	assert_int_equal(w->fault.nr, 1);
	assert_int_equal(w->fault.endpoint, 8);
	assert_int_equal(w->fault.iova, 0x1000);
	assert_int_equal(w->fault.access, DMA_CAN_READ);
	assert_false(w->fault.attached);
	iommu_set_bypass(w->io, true);
	assert_int_equal(w->f.nr, 2);
}

static void a_device_sees_what_its_domain_maps(void **state)
{
	struct world *w = *state;
	uint64_t len = 0x3000, gpa;

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	assert_int_equal(w->f.nr, 0);
	assert_int_equal(iommu_map(w->io, 1, 0x10000, 0x11fff, 0x400000, DMA_CAN_READ), 0);
	assert_int_equal(w->f.nr, 1);
	assert_int_equal(w->f.ranges[0].iova, 0x10000);
	assert_int_equal(w->f.ranges[0].gpa, 0x400000);
	assert_int_equal(w->f.ranges[0].access, DMA_CAN_READ);
	assert_ptr_equal(w->f.ranges[0].hva, memory_ptr(w->m, 0x400000, 1));
	assert_int_equal(dma_translate(w->s, 0x11000, &len, DMA_CAN_READ, &gpa), 0);
	assert_int_equal(gpa, 0x401000);
	assert_int_equal(len, 0x1000);
	assert_int_equal(gpa_of(w->s, 0x11000, DMA_CAN_WRITE), UINT64_MAX);
	assert_int_equal(gpa_of(w->s, 0x12000, DMA_CAN_READ), UINT64_MAX);
	assert_int_equal(gpa_of(w->t, 0x11000, DMA_CAN_READ), 0x11000);
	assert_int_equal(iommu_unmap(w->io, 1, 0, UINT64_MAX), 0);
	assert_int_equal(w->f.nr, 0);
	assert_int_equal(gpa_of(w->s, 0x11000, DMA_CAN_READ), UINT64_MAX);
}

static void a_copy_crosses_mappings_and_stops_at_the_first_hole(void **state)
{
	struct world *w = *state;
	char buf[0x3000];

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x10000, 0x10fff, 0x500000, RW), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x11000, 0x11fff, 0x300000, RW), 0);
	memset(buf, 7, sizeof(buf));
	assert_int_equal(dma_write(w->s, 0x10800, buf, 0x1000), 0);
	assert_int_equal(*(char *)memory_ptr(w->m, 0x500fff, 1), 7);
	assert_int_equal(*(char *)memory_ptr(w->m, 0x3007ff, 1), 7);
	assert_int_equal(*(char *)memory_ptr(w->m, 0x300800, 1), 0);
	assert_int_equal(dma_read(w->s, 0x10000, buf, sizeof(buf)), -EFAULT);
	assert_int_equal(w->fault.iova, 0x12000);
	assert_true(w->fault.attached);
}

static void two_devices_share_a_domain_until_each_leaves_it(void **state)
{
	struct world *w = *state;

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x10000, 0x10fff, 0x500000, RW), 0);
	assert_int_equal(iommu_attach(w->io, 1, 16, false), 0);
	assert_int_equal(gpa_of(w->t, 0x10000, RW), 0x500000);
	assert_int_equal(iommu_detach(w->io, 1, 8), 0);
	assert_int_equal(w->f.nr, 2);
	assert_int_equal(gpa_of(w->s, 0x10000, RW), 0x10000);
	assert_int_equal(gpa_of(w->t, 0x10000, RW), 0x500000);
	assert_int_equal(iommu_detach(w->io, 1, 16), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x20000, 0x20fff, 0x500000, RW), -ENOENT);
	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	assert_int_equal(gpa_of(w->s, 0x10000, RW), UINT64_MAX);
}

static void an_attach_elsewhere_detaches_first(void **state)
{
	struct world *w = *state;

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x10000, 0x10fff, 0x500000, RW), 0);
	assert_int_equal(iommu_attach(w->io, 2, 8, false), 0);
	assert_int_equal(gpa_of(w->s, 0x10000, RW), UINT64_MAX);
	assert_int_equal(w->f.nr, 0);
	assert_int_equal(iommu_detach(w->io, 1, 8), -EINVAL);
	assert_int_equal(iommu_detach(w->io, 2, 9), -ENOENT);
	assert_int_equal(iommu_attach(w->io, 2, 9, false), -ENOENT);
}

static void a_bypass_domain_has_no_mappings(void **state)
{
	struct world *w = *state;
	unsigned told;

	iommu_set_bypass(w->io, false);
	assert_int_equal(iommu_attach(w->io, 1, 8, true), 0);
	assert_int_equal(w->f.nr, 2);
	told = w->f.maps;
	assert_int_equal(iommu_map(w->io, 1, 0x10000, 0x10fff, 0x500000, RW), -EINVAL);
	assert_int_equal(iommu_unmap(w->io, 1, 0x10000, 0x10fff), -EINVAL);
	assert_int_equal(iommu_attach(w->io, 1, 16, false), -EINVAL);
	assert_int_equal(iommu_attach(w->io, 1, 16, true), 0);
	iommu_set_bypass(w->io, true);
	assert_int_equal(w->f.maps, told);
	iommu_reset(w->io);
	assert_int_equal(w->f.nr, 2);
}

static void a_mapping_of_everything_shows_ram_and_no_more(void **state)
{
	struct world *w = *state;
	uint64_t len = 4096, gpa;

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	assert_int_equal(iommu_map(w->io, 1, 0xfef00000, UINT64_MAX, 0, RW), 0);
	assert_int_equal(w->f.nr, 2);
	assert_int_equal(w->f.ranges[1].iova, 0xfef00000 + LAYOUT_4G);
	assert_int_equal(w->f.ranges[1].gpa, LAYOUT_4G);
	assert_int_equal(dma_translate(w->s, 0xfef00000 + LAYOUT_HOLE, &len, RW, &gpa), -EFAULT);
	assert_int_equal(iommu_unmap(w->io, 1, 0, UINT64_MAX), 0);
	assert_int_equal(w->f.nr, 0);
}

/* --- what the guest may not --- */

static void ranges_that_make_no_sense_are_refused(void **state)
{
	struct world *w = *state;
	static const struct {
		uint64_t first, last, gpa;
		int rc;
	} bad[] = {
		{ 0x1000, 0xfff, 0, -ERANGE },
		{ 0x1001, 0x1fff, 0, -ERANGE },
		{ 0x1000, 0x1ffe, 0, -ERANGE },
		{ 0x1000, 0x1fff, 0x800, -ERANGE },
		{ 0x1000, 0x2fff, UINT64_MAX - 0xfff, -ERANGE },
		{ 0x1000, UINT64_MAX, 0x2000, -ERANGE },
		{ 0, UINT64_MAX, 0, -EINVAL },
		{ 0xfee00000, 0xfee00fff, 0, -EINVAL },
		{ 0xfedff000, 0xfeefffff, 0, -EINVAL },
	};

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(
			iommu_map(w->io, 1, bad[i].first, bad[i].last, bad[i].gpa, RW), bad[i].rc);
	assert_int_equal(w->f.nr, 0);
	assert_int_equal(iommu_unmap(w->io, 1, 2, 1), -ERANGE);
	assert_int_equal(iommu_unmap(w->io, 7, 0, 1), -ENOENT);
	assert_int_equal(iommu_map(w->io, 7, 0x1000, 0x1fff, 0, RW), -ENOENT);
}

static void an_unmap_takes_whole_mappings_or_nothing(void **state)
{
	struct world *w = *state;

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	assert_int_equal(iommu_unmap(w->io, 1, 0, 4), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x1000, 0x2fff, 0, RW), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x3000, 0x3fff, 0, RW), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x2000, 0x3fff, 0, RW), -EINVAL);
	assert_int_equal(iommu_unmap(w->io, 1, 0x1000, 0x1fff), -ERANGE);
	assert_int_equal(iommu_unmap(w->io, 1, 0x2000, 0x3fff), -ERANGE);
	assert_int_equal(w->f.nr, 2);
	assert_int_equal(iommu_unmap(w->io, 1, 0x3000, 0x8fff), 0);
	assert_int_equal(w->f.nr, 1);
	assert_int_equal(iommu_unmap(w->io, 1, 0x0, 0x3fff), 0);
	assert_int_equal(w->f.nr, 0);
}

static void mappings_are_bounded_and_go_with_the_detach(void **state)
{
	struct world *w = *state;
	uint64_t at = 0;

	/* Not followed: it is the table that is looked at. */
	assert_int_equal(iommu_attach(w->io, 1, 16, false), 0);
	for (unsigned i = 0; i < IOMMU_MAX_MAPPINGS; i++, at += 0x2000)
		if (iommu_map(w->io, 1, at + 4 * GIB, at + 4 * GIB + 0xfff, 0x1000, RW))
			fail_msg("mapping %u", i);
	assert_int_equal(iommu_map(w->io, 1, 0x1000, 0x1fff, 0, RW), -ENOSPC);
	assert_int_equal(iommu_detach(w->io, 1, 16), 0);
	assert_int_equal(iommu_attach(w->io, 1, 16, false), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x1000, 0x1fff, 0, RW), 0);
}

/* --- followers --- */

static void a_mapping_that_a_follower_refuses_is_none(void **state)
{
	struct world *w = *state;

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	w->f.refuse_at = 1;
	assert_int_equal(iommu_map(w->io, 1, 0x1000, 0x1fff, 0, RW), -ENOSPC);
	assert_int_equal(gpa_of(w->s, 0x1000, RW), UINT64_MAX);
	w->f.sync_rc = -EIO;
	assert_int_equal(iommu_map(w->io, 1, 0x1000, 0x1fff, 0, RW), -EIO);
	assert_int_equal(w->f.nr, 0);
	assert_int_equal(iommu_map(w->io, 1, 0x1000, 0x1fff, 0, RW), 0);
}

static void a_follower_that_does_not_take_a_domain_is_attached_to_nothing(void **state)
{
	struct world *w = *state;

	assert_int_equal(iommu_attach(w->io, 1, 16, false), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x1000, 0x1fff, 0, RW), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x3000, 0x3fff, 0, RW), 0);
	w->f.refuse_at = 2;
	assert_int_equal(iommu_attach(w->io, 1, 8, false), -ENOSPC);
	assert_int_equal(w->f.nr, 0);
	assert_int_equal(gpa_of(w->s, 0x1000, RW), UINT64_MAX);
	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	assert_int_equal(w->f.nr, 2);
}

static void on_begin(struct dma_listener *l)
{
	container_of(l, struct follower, l)->nr = 0;
}

static void a_device_that_comes_back_hears_of_all_again(void **state)
{
	struct world *w = *state;

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x1000, 0x1fff, 0, RW), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x3000, 0x3fff, 0, RW), 0);
	assert_int_equal(dma_replay(w->s, &w->f.l, on_begin, 2), 0);
	assert_int_equal(w->f.nr, 2);
	assert_int_equal(dma_replay(w->s, &w->f.l, NULL, 2), 0);
	assert_int_equal(w->f.nr, 2);
	/* Its device may be lost in the midst of that. */
	assert_int_equal(dma_replay(w->s, &w->f.l, on_begin, 1), 1);
	assert_int_equal(dma_replay(w->s, &w->f.l, on_begin, 1), 1);
	assert_int_equal(dma_replay(w->s, &w->f.l, NULL, 1), 0);
	assert_int_equal(w->f.nr, 2);
}

/* That ranges do not overlap, and are unmapped as they were mapped, the follower sees to. */
static void what_changes_while_a_device_is_told_of_all_is_told_once(void **state)
{
	struct world *w = *state;

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	for (uint64_t at = 0x10000; at < 0x50000; at += 0x10000)
		assert_int_equal(iommu_map(w->io, 1, at, at + 0xfff, 0, RW), 0);
	assert_int_equal(dma_replay(w->s, &w->f.l, on_begin, 2), 1);
	assert_int_equal(w->f.nr, 2);
	w->f.unmaps = 0;
	/* Behind it: now. */
	assert_int_equal(iommu_map(w->io, 1, 0x14000, 0x14fff, 0, RW), 0);
	assert_int_equal(w->f.nr, 3);
	/* Before it: in its turn, or never. */
	assert_int_equal(iommu_map(w->io, 1, 0x34000, 0x34fff, 0, RW), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x38000, 0x38fff, 0, RW), 0);
	assert_int_equal(iommu_unmap(w->io, 1, 0x38000, 0x38fff), 0);
	assert_int_equal(iommu_unmap(w->io, 1, 0x40000, 0x40fff), 0);
	assert_int_equal(w->f.nr, 3);
	assert_int_equal(w->f.unmaps, 0);
	/* Across where it stands: now, and not once more. */
	assert_int_equal(iommu_unmap(w->io, 1, 0x20000, 0x20fff), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x20000, 0x27fff, 0, RW), 0);
	assert_int_equal(w->f.nr, 3);
	assert_int_equal(w->f.unmaps, 1);
	assert_int_equal(dma_replay(w->s, &w->f.l, NULL, 64), 0);
	/* 0x10000, 0x14000, 0x20000, 0x30000, 0x34000 */
	assert_int_equal(w->f.nr, 5);
	assert_int_equal(iommu_detach(w->io, 1, 8), 0);
	/* All of these are gone; bypassed, it sees both ranges of RAM. */
	assert_int_equal(w->f.nr, 2);
}

/* --- exports --- */

struct holder {
	struct dma_export e;
	unsigned faults;
	bool release; /* at once */
	sem_t faulted;
};

static void on_taken(void *arg)
{
	struct holder *h = arg;

	h->faults++;
	if (h->release)
		dma_release(&h->e);
	else
		sem_post(&h->faulted);
}

static void an_export_is_held_until_the_guest_takes_it(void **state)
{
	struct world *w = *state;
	struct holder h = { .release = true };
	struct iovec iov[2];

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x1000, 0x1fff, 0x5000, RW), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x2000, 0x2fff, 0x6000, RW), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x3000, 0x3fff, 0x9000, RW), 0);
	assert_int_equal(dma_export(w->s, &h.e, 0x1800, 0x2000, RW, iov, 2, on_taken, &h), 2);
	assert_int_equal(iov[0].iov_len, 0x1800); /* neighbours in memory are one */
	assert_ptr_equal(iov[1].iov_base, memory_ptr(w->m, 0x9000, 1));
	dma_release(&h.e);
	assert_int_equal(
		dma_export(w->s, &h.e, 0x1800, 0x2000, RW, iov, 1, on_taken, &h), -E2BIG);
	assert_int_equal(
		dma_export(w->s, &h.e, 0x1800, 0x3000, RW, iov, 2, on_taken, &h), -EFAULT);
	assert_int_equal(w->fault.iova, 0x4000);
	assert_int_equal(dma_export(w->s, &h.e, 0x1000, 0x1000, RW, iov, 2, on_taken, &h), 1);
	assert_int_equal(iommu_unmap(w->io, 1, 0x2000, 0x2fff), 0);
	assert_int_equal(h.faults, 0);
	assert_int_equal(iommu_unmap(w->io, 1, 0x1000, 0x1fff), 0);
	assert_int_equal(h.faults, 1);
	dma_release(&h.e);
	iommu_reset(w->io);
	assert_int_equal(h.faults, 1);
}

/* Another user of the space, who finds the domain before its follower has been told of all. */
struct early_user {
	struct dma_space *s;
	struct holder h;
	int rc;
};

static void export_early(void *arg)
{
	struct early_user *u = arg;
	struct iovec iov[1];

	if (!u->rc)
		u->rc = dma_export(u->s, &u->h.e, 0x1000, 0x1000, RW, iov, 1, on_taken, &u->h);
}

static void an_export_of_a_domain_that_is_not_taken_is_taken_back(void **state)
{
	struct world *w = *state;
	struct early_user user = { .s = w->s, .h.release = true };

	assert_int_equal(iommu_attach(w->io, 1, 16, false), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x1000, 0x1fff, 0, RW), 0);
	assert_int_equal(iommu_map(w->io, 1, 0x3000, 0x3fff, 0, RW), 0);
	w->f.mapped = export_early;
	w->f.arg = &user;
	w->f.refuse_at = 2;
	assert_int_equal(iommu_attach(w->io, 1, 8, false), -ENOSPC);
	w->f.mapped = NULL;
	assert_int_equal(user.rc, 1);
	assert_int_equal(user.h.faults, 1);
}

/* There is memory at both ends of the address space, and none of it is one range. */
static void what_goes_beyond_the_last_address_is_nowhere(void **state)
{
	struct world *w = *state;
	struct holder h = { .release = true };
	uint64_t top = UINT64_MAX - 0xfff, len = 0x2000, gpa;
	struct iovec iov[2];
	char buf[0x2000];

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	assert_int_equal(iommu_map(w->io, 1, top, UINT64_MAX, 0x5000, RW), 0);
	assert_int_equal(iommu_map(w->io, 1, 0, 0xfff, 0x6000, RW), 0);
	assert_int_equal(dma_export(w->s, &h.e, top, 0x1001, RW, iov, 2, on_taken, &h), -EFAULT);
	assert_int_equal(w->fault.iova, top);
	assert_int_equal(
		dma_export(w->s, &h.e, top, UINT64_MAX, RW, iov, 2, on_taken, &h), -EFAULT);
	assert_int_equal(dma_read(w->s, top, buf, sizeof(buf)), -EFAULT);
	assert_int_equal(dma_write(w->s, top, buf, sizeof(buf)), -EFAULT);
	assert_null(dma_ptr(w->s, top, &len, RW));
	assert_int_equal(dma_translate(w->s, top, &len, RW, &gpa), -EFAULT);
	/* Up to the last one it is, and is taken back like any other. */
	assert_int_equal(dma_read(w->s, top, buf, 0x1000), 0);
	assert_int_equal(
		dma_export(w->s, &h.e, top + 0x800, 0x800, RW, iov, 2, on_taken, &h), 1);
	assert_int_equal(iommu_unmap(w->io, 1, top, UINT64_MAX), 0);
	assert_int_equal(h.faults, 1);
}

static void *release_when_faulted(void *arg)
{
	struct holder *h = arg;

	sem_wait(&h->faulted);
	__atomic_store_n(&h->release, true, __ATOMIC_SEQ_CST);
	dma_release(&h->e);
	return NULL;
}

static void an_unmap_waits_for_the_release(void **state)
{
	struct world *w = *state;
	struct holder h = { 0 };
	struct iovec iov[1];
	pthread_t thread;

	sem_init(&h.faulted, 0, 0);
	assert_int_equal(dma_export(w->s, &h.e, 0x1000, 0x1000, RW, iov, 1, on_taken, &h), 1);
	pthread_create(&thread, NULL, release_when_faulted, &h);
	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	assert_true(__atomic_load_n(&h.release, __ATOMIC_SEQ_CST));
	pthread_join(thread, NULL);
	sem_destroy(&h.faulted);
}

/* --- two threads --- */

#define ROUNDS 3000

static void *map_and_unmap(void *arg)
{
	struct world *w = arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		iommu_map(w->io, 1, 0x1000, 0x1fff, 0x1000, RW);
		iommu_unmap(w->io, 1, 0x1000, 0x1fff);
	}
	return NULL;
}

/* A device that comes and goes while its mappings change has in the end what is mapped. */
static void replays_and_changes_do_not_lose_or_double_a_mapping(void **state)
{
	struct world *w = *state;
	struct follower late = { .l = w->f.l };
	pthread_t thread;

	late.l.next = NULL;
	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	pthread_create(&thread, NULL, map_and_unmap, w);
	for (unsigned i = 0; i < ROUNDS; i++) {
		late.nr = 0;
		assert_int_equal(dma_listen(w->s, &late.l), 0);
		dma_unlisten(w->s, &late.l);
		gpa_of(w->s, 0x1000, RW);
	}
	late.nr = 0;
	assert_int_equal(dma_listen(w->s, &late.l), 0);
	pthread_join(thread, NULL);
	assert_int_equal(iommu_map(w->io, 1, 0x5000, 0x5fff, 0x1000, RW), 0);
	assert_int_equal(late.nr, 1);
	assert_int_equal(w->f.nr, 1);
	dma_unlisten(w->s, &late.l);
}

static void a_device_may_leave_while_its_domain_changes(void **state)
{
	struct world *w = *state;
	pthread_t thread;

	assert_int_equal(iommu_attach(w->io, 1, 8, false), 0);
	pthread_create(&thread, NULL, map_and_unmap, w);
	for (unsigned i = 0; i < ROUNDS; i++) {
		iommu_attach(w->io, 1, 16, false);
		iommu_remove(w->t);
		assert_int_equal(iommu_add(w->io, 16, w->t), 0);
	}
	pthread_join(thread, NULL);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_device_that_is_bypassed_sees_ram_as_it_is),
		TEST(a_device_that_is_not_bypassed_sees_nothing),
		TEST(a_device_sees_what_its_domain_maps),
		TEST(a_copy_crosses_mappings_and_stops_at_the_first_hole),
		TEST(two_devices_share_a_domain_until_each_leaves_it),
		TEST(an_attach_elsewhere_detaches_first),
		TEST(a_bypass_domain_has_no_mappings),
		TEST(a_mapping_of_everything_shows_ram_and_no_more),
		TEST(ranges_that_make_no_sense_are_refused),
		TEST(an_unmap_takes_whole_mappings_or_nothing),
		TEST(mappings_are_bounded_and_go_with_the_detach),
		TEST(a_mapping_that_a_follower_refuses_is_none),
		TEST(a_follower_that_does_not_take_a_domain_is_attached_to_nothing),
		TEST(a_device_that_comes_back_hears_of_all_again),
		TEST(what_changes_while_a_device_is_told_of_all_is_told_once),
		TEST(an_export_is_held_until_the_guest_takes_it),
		TEST(an_export_of_a_domain_that_is_not_taken_is_taken_back),
		TEST(what_goes_beyond_the_last_address_is_nowhere),
		TEST(an_unmap_waits_for_the_release),
		TEST(replays_and_changes_do_not_lose_or_double_a_mapping),
		TEST(a_device_may_leave_while_its_domain_changes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
