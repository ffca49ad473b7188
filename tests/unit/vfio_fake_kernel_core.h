/*
 * vfio_fake_kernel_core.h - what the fake kernel's parts share: files, calls that can fail, mappings
 *
 * A part of vfio_fake_kernel.h.
 */
#ifndef TESTS_VFIO_FAKE_KERNEL_CORE_H
#define TESTS_VFIO_FAKE_KERNEL_CORE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/pci_regs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attach/vfio_sys.h"
#include "base/fd.h"
#include "base/util.h"
#include "wire/vfio_kernel.h"

#define FK_FILES    64
#define FK_MAPS	    256
#define FK_DEVICES  4
#define FK_REGIONS  9
#define FK_IRQS	    5
#define FK_CALLS    8192
#define FK_OFFSET   40 /* bits */
#define FK_UNUSED   __attribute__((unused))
#define FK_MAX_CAPS 256

enum fk_kind { FK_CLOSED, FK_CONTAINER, FK_GROUP, FK_IOMMU, FK_DEVICE, FK_KVM_LIST };

struct fk_file {
	enum fk_kind kind;
	int fd;
	unsigned device; /* DEVICE */
	int group;	 /* GROUP */
	bool in;	 /* GROUP: in the container; DEVICE: attached to the address space */
	bool bound;	 /* DEVICE, by its own file */
	bool kvm;	 /* KVM knows it */
	bool was_kvm;	 /* when it was bound or handed out */
	uint32_t table;	 /* DEVICE: what it is attached to */
	int container;	 /* GROUP: the file it is in */
	bool has_iommu;	 /* CONTAINER */
};

struct fk_region {
	uint32_t flags;
	uint64_t size;
	unsigned nr_areas; /* sparse */
	struct vfio_region_sparse_mmap_area areas[4];
	bool msix_mappable;
};

struct fk_device {
	const char *name, *cdev;
	int group;
	uint32_t flags; /* VFIO_DEVICE_FLAGS_*, instead of PCI and RESET */
	uint32_t num_regions, num_irqs;
	struct fk_region regions[FK_REGIONS];
	struct vfio_irq_info irqs[FK_IRQS];
	uint8_t config[4096];
	int eventfds[FK_IRQS][32]; /* copies; 0: none */
	int unmask_fd;
	unsigned resets, opens;
	bool gone; /* accesses fail with EIO */
	bool bar_eio;
};

struct fk_map {
	uint32_t space; /* a container's descriptor, or FK_IOAS and above */
	uint64_t iova, size;
	const void *hva;
	bool read, write;
};

/* Address spaces of iommufds, whose numbers begin here, above any descriptor's. */
#define FK_IOAS	   1000u
#define FK_SPACES  4
/* Tables that note what is written have the numbers from here on. */
#define FK_TABLES  2000u

struct fake_kernel {
	struct vfio_sys sys;
	pthread_mutex_t lock;
	struct fk_file files[FK_FILES];
	struct fk_map maps[FK_MAPS];
	unsigned nr_maps;
	int ioas[FK_SPACES]; /* the iommufd's descriptor; 0: none */
	uint64_t page_size;  /* of the IOMMU's, where it says it */
	unsigned max_maps;   /* 0: as many as there is room for */
	struct fk_device devices[FK_DEVICES];
	unsigned nr_devices;
	uint64_t memlock;

	/* What is to go wrong. */
	bool no_cdev, no_container, not_viable, container_set, no_msi_remapping;
	bool noiommu;	     /* groups are of the kind without an IOMMU */
	bool iommufd_no_bar; /* as 6.12's */
	bool argsz_grows;
	const char *vf_token; /* that devices ask for; NULL: none, and then it must not be given */
	bool bus_of_others; /* a hot reset would hit a stranger */
	bool no_bus;
	bool iova_caps_loop;
	int max_vectors;    /* 0: as many as asked for */
	unsigned nr_ranges; /* 0: one of all */
	struct vfio_iova_range ranges[8];
	unsigned long fail_request; /* this one ... */
	unsigned fail_after;	    /* ... after so many good ones ... */
	int fail_rc;		    /* ... fails so; 0: nothing does */
	unsigned fail_nth;	    /* this call of all, counted from 1, fails with fail_rc */
	void (*before)(struct fake_kernel *k, unsigned long request);
	void *arg;

	unsigned nr_calls;
	unsigned long calls[FK_CALLS];
	/* What devices wrote: one page, once it is noted. */
	bool dirty, no_dirty;
	uint64_t dirty_iova;
	unsigned nr_tables; /* that note it */
	bool tables_unlike; /* each device needs its own */

	unsigned hot_resets;
	unsigned busy_resets; /* so many find another thread inside */
};

static FK_UNUSED struct fake_kernel *fk_of(const struct vfio_sys *sys)
{
	return container_of((struct vfio_sys *)sys, struct fake_kernel, sys);
}

/* --- files --- */

static struct fk_file *fk_file(struct fake_kernel *k, int fd)
{
	for (unsigned i = 0; i < FK_FILES; i++)
		if (k->files[i].kind != FK_CLOSED && k->files[i].fd == fd)
			return &k->files[i];
	fail_msg("descriptor %d is none of the fake kernel's", fd);
	return NULL;
}

static struct fk_file *fk_new_file(struct fake_kernel *k, enum fk_kind kind)
{
	for (unsigned i = 0; i < FK_FILES; i++)
		if (k->files[i].kind == FK_CLOSED) {
			k->files[i] = (struct fk_file){ .kind = kind };
			k->files[i].fd = memfd_create("vfio", MFD_CLOEXEC);
			assert_true(k->files[i].fd >= 0);
			return &k->files[i];
		}
	fail_msg("too many files");
	return NULL;
}

static int fk_device_file(struct fake_kernel *k, unsigned device)
{
	struct fk_file *f = fk_new_file(k, FK_DEVICE);

	f->device = device;
	assert_int_equal(ftruncate(f->fd, (off_t)FK_REGIONS << FK_OFFSET), 0);
	return f->fd;
}

static FK_UNUSED unsigned fk_nr_open(const struct fake_kernel *k, enum fk_kind kind)
{
	unsigned n = 0;

	for (unsigned i = 0; i < FK_FILES; i++)
		n += k->files[i].kind == kind;
	return n;
}

static unsigned fk_nr_in(const struct fake_kernel *k, enum fk_kind kind)
{
	unsigned n = 0;

	for (unsigned i = 0; i < FK_FILES; i++)
		n += k->files[i].kind == kind && k->files[i].in;
	return n;
}

static FK_UNUSED unsigned fk_nr_kvm(const struct fake_kernel *k)
{
	unsigned n = 0;

	for (unsigned i = 0; i < FK_FILES; i++)
		n += k->files[i].kind != FK_CLOSED && k->files[i].kvm;
	return n;
}

static struct fk_device *fk_device(struct fake_kernel *k, int fd)
{
	struct fk_file *f = fk_file(k, fd);

	assert_int_equal(f->kind, FK_DEVICE);
	return &k->devices[f->device];
}

/* --- calls and their failures --- */

static int fk_call(struct fake_kernel *k, unsigned long request)
{
	unsigned before = 0;

	if (k->before)
		k->before(k, request);
	pthread_mutex_lock(&k->lock);
	for (unsigned i = 0; i < k->nr_calls; i++)
		before += k->calls[i] == request;
	assert_true(k->nr_calls < FK_CALLS);
	k->calls[k->nr_calls++] = request;
	if (k->fail_nth && k->nr_calls == k->fail_nth)
		return k->fail_rc;
	if (k->fail_request == request && k->fail_rc && !k->fail_nth && before >= k->fail_after)
		return k->fail_rc;
	return 0;
}

static FK_UNUSED unsigned fk_nr_calls(const struct fake_kernel *k, unsigned long request)
{
	unsigned n = 0;

	for (unsigned i = 0; i < k->nr_calls; i++)
		n += k->calls[i] == request;
	return n;
}

static int fk_open_path(struct fake_kernel *k, const char *path)
{
	int number;
	char cdev[32];

	for (unsigned i = 0; i < FK_FILES; i++)
		if (k->files[i].kind == FK_GROUP &&
			sscanf(path, "/dev/vfio/%d", &number) == 1 && k->files[i].group == number)
			return -EBUSY;

	if (!strcmp(path, "/dev/vfio/vfio"))
		return k->no_container ? -ENOENT : fk_new_file(k, FK_CONTAINER)->fd;
	if (!strcmp(path, "/dev/iommu"))
		return k->no_cdev ? -ENOENT : fk_new_file(k, FK_IOMMU)->fd;
	if (sscanf(path, k->noiommu ? "/dev/vfio/noiommu-%d" : "/dev/vfio/%d", &number) == 1) {
		struct fk_file *f = fk_new_file(k, FK_GROUP);

		f->group = number;
		return f->fd;
	}
	if (sscanf(path, "/dev/vfio/devices/%31s", cdev) == 1)
		for (unsigned i = 0; i < k->nr_devices; i++)
			if (k->devices[i].cdev && !strcmp(k->devices[i].cdev, cdev))
				return fk_device_file(k, i);
	return -ENOENT;
}

#define FK_OPEN	  1ul
#define FK_PREAD  2ul
#define FK_PWRITE 3ul
#define FK_CLOSE  4ul /* for before() alone */

static int fk_open(const struct vfio_sys *sys, const char *path)
{
	struct fake_kernel *k = fk_of(sys);
	int rc = fk_call(k, FK_OPEN);

	if (!rc)
		rc = fk_open_path(k, path);
	pthread_mutex_unlock(&k->lock);
	return rc;
}

static void fk_close_eventfds(struct fk_device *d, uint32_t index)
{
	for (unsigned i = 0; i < 32; i++)
		if (d->eventfds[index][i]) {
			close(d->eventfds[index][i]);
			d->eventfds[index][i] = 0;
		}
	if (!index && d->unmask_fd) {
		close(d->unmask_fd);
		d->unmask_fd = 0;
	}
}

static void fk_drop_maps(struct fake_kernel *k, uint32_t space)
{
	for (unsigned i = 0; i < k->nr_maps;)
		if (k->maps[i].space == space)
			k->maps[i] = k->maps[--k->nr_maps];
		else
			i++;
}

/* An empty container has no maps. */
static void fk_settle(struct fake_kernel *k, int container)
{
	for (unsigned i = 0; i < FK_FILES; i++)
		if (k->files[i].kind == FK_GROUP && k->files[i].in &&
			k->files[i].container == container)
			return;
	for (unsigned i = 0; i < FK_FILES; i++)
		if (k->files[i].kind == FK_CONTAINER && k->files[i].fd == container)
			k->files[i].has_iommu = false;
	fk_drop_maps(k, (uint32_t)container);
}

static void fk_drop_ioas(struct fake_kernel *k, unsigned n)
{
	k->ioas[n] = 0;
	fk_drop_maps(k, FK_IOAS + n);
}

static void fk_close(const struct vfio_sys *sys, int fd)
{
	struct fake_kernel *k = fk_of(sys);
	struct fk_file *f;

	if (k->before)
		k->before(k, FK_CLOSE);
	pthread_mutex_lock(&k->lock);
	f = fk_file(k, fd);
	if (f->kvm && !k->fail_nth)
		fail_msg("KVM's list keeps the file open");
	if (f->kind == FK_GROUP)
		for (unsigned i = 0; i < FK_FILES; i++)
			if (k->files[i].kind == FK_DEVICE && !k->files[i].bound)
				assert_int_not_equal(
					k->devices[k->files[i].device].group, f->group);
	if (f->kind == FK_DEVICE)
		for (uint32_t i = 0; i < FK_IRQS; i++)
			fk_close_eventfds(&k->devices[f->device], i);
	for (unsigned i = 0; f->kind == FK_IOMMU && i < FK_SPACES; i++)
		if (k->ioas[i] == fd)
			fk_drop_ioas(k, i);
	f->in = false;
	if (f->kind == FK_GROUP)
		fk_settle(k, f->container);
	f->kind = FK_CLOSED;
	close(fd);
	pthread_mutex_unlock(&k->lock);
}

/* --- maps --- */

static bool fk_iova_ok(const struct fake_kernel *k, uint64_t iova, uint64_t size)
{
	for (unsigned i = 0; i < k->nr_ranges; i++)
		if (iova >= k->ranges[i].start && iova + size - 1 <= k->ranges[i].end)
			return true;
	return !k->nr_ranges;
}

static int fk_map(struct fake_kernel *k, const struct fk_map *map)
{
	uint64_t iova = map->iova, size = map->size, va = (uintptr_t)map->hva;

	assert_true(size && !((iova | size | va) & 4095));
	if (!fk_iova_ok(k, iova, size))
		return -EINVAL;
	for (unsigned i = 0; i < k->nr_maps; i++)
		if (k->maps[i].space == map->space &&
			ranges_overlap(k->maps[i].iova, k->maps[i].size, iova, size))
			return -EEXIST;
	if (k->max_maps && k->nr_maps == k->max_maps)
		return -ENOSPC;
	assert_true(k->nr_maps < FK_MAPS);
	k->maps[k->nr_maps++] = *map;
	return 0;
}

/* Whole maps, any number of them; none may be cut. How many bytes. */
static uint64_t fk_unmap(struct fake_kernel *k, uint32_t space, uint64_t iova, uint64_t size)
{
	uint64_t done = 0;

	for (unsigned i = 0; i < k->nr_maps;) {
		const struct fk_map *m = &k->maps[i];

		if (m->space != space || !ranges_overlap(m->iova, m->size, iova, size)) {
			i++;
			continue;
		}
		assert_true(m->iova >= iova && range_ok(m->iova - iova, m->size, size));
		done += m->size;
		k->maps[i] = k->maps[--k->nr_maps];
	}
	return done;
}

static FK_UNUSED bool fk_has_map(const struct fake_kernel *k, uint64_t iova, uint64_t size)
{
	for (unsigned i = 0; i < k->nr_maps; i++)
		if (k->maps[i].iova == iova && k->maps[i].size == size)
			return true;
	return false;
}

#endif
