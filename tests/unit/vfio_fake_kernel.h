/*
 * vfio_fake_kernel.h - the kernel's VFIO and IOMMUFD, as far as outboard uses them, behind struct
 * vfio_sys
 *
 * It keeps to the order the kernel asks for (a group is in a container before its device is handed
 * out, an address space has a device before it can be mapped, ...) and fails a test that does not.
 * What is open, mapped and known to KVM is counted, so that a test can ask for nothing to be left.
 * Any call can be made to fail: the nth of one kind, or the nth of all.
 *
 * Descriptors are real ones (of memory files), so a device's regions can be mapped, and a leak can
 * also be seen in /proc/self/fd.
 */
#ifndef TESTS_VFIO_FAKE_KERNEL_H
#define TESTS_VFIO_FAKE_KERNEL_H

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

/* --- container and group --- */

static int fk_iommu_info(struct fake_kernel *k, const struct fk_file *f, void *arg)
{
	struct vfio_iommu_type1_info *info = arg;
	struct vfio_iommu_type1_info_cap_iova_range *cap = (void *)(info + 1);
	uint32_t need =
		(uint32_t)(sizeof(*info) + sizeof(*cap) + k->nr_ranges * sizeof(k->ranges[0]));

	if (!f->has_iommu)
		return -EINVAL;
	info->flags = k->page_size ? VFIO_IOMMU_INFO_PGSIZES : 0;
	info->iova_pgsizes = -k->page_size;
	if (!k->nr_ranges)
		return 0;
	if (info->argsz < need) {
		info->argsz = need;
		return 0;
	}
	info->flags |= VFIO_IOMMU_INFO_CAPS;
	info->cap_offset = sizeof(*info);
	cap->header.id = k->iova_caps_loop ? 99 : VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
	cap->header.version = 1;
	cap->header.next = k->iova_caps_loop ? sizeof(*info) : 0;
	cap->nr_iovas = k->nr_ranges;
	memcpy(cap->iova_ranges, k->ranges, k->nr_ranges * sizeof(k->ranges[0]));
	return 0;
}

static void fk_dirty_bit(
	const struct fake_kernel *k, uint64_t iova, uint64_t size, uint64_t page, uint64_t *bitmap)
{
	uint64_t n = (k->dirty_iova - iova) / page;

	if (k->dirty_iova >= iova && k->dirty_iova - iova < size)
		bitmap[n / 64] |= 1ull << (n % 64);
}

static int fk_dirty_pages(struct fake_kernel *k, struct vfio_iommu_type1_dirty_bitmap *arg)
{
	const struct vfio_iommu_type1_dirty_bitmap_get *get = (const void *)arg->data;

	if (k->no_dirty)
		return -ENOTTY;
	if (arg->flags != VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP) {
		k->dirty = arg->flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_START;
		return 0;
	}
	if (!k->dirty || get->bitmap.pgsize != 4096)
		return -EINVAL;
	assert_int_equal(get->bitmap.size, (get->size / 4096 + 63) / 64 * 8);
	memset(get->bitmap.data, 0, get->bitmap.size);
	fk_dirty_bit(k, get->iova, get->size, 4096, (uint64_t *)get->bitmap.data);
	return 0;
}

static int fk_map_dma(
	struct fake_kernel *k, const struct fk_file *f, const struct vfio_iommu_type1_dma_map *map)
{
	const struct fk_map m = {
		.space = (uint32_t)f->fd,
		.iova = map->iova,
		.size = map->size,
		.hva = (void *)(uintptr_t)map->vaddr,
		.read = map->flags & VFIO_DMA_MAP_FLAG_READ,
		.write = map->flags & VFIO_DMA_MAP_FLAG_WRITE,
	};

	assert_true(f->has_iommu && !k->noiommu && (m.read || m.write));
	return fk_map(k, &m);
}

static int fk_unmap_dma(
	struct fake_kernel *k, const struct fk_file *f, struct vfio_iommu_type1_dma_unmap *unmap)
{
	if (unmap->flags & VFIO_DMA_UNMAP_FLAG_ALL) {
		assert_int_equal(unmap->iova | unmap->size, 0);
		fk_drop_maps(k, (uint32_t)f->fd);
		return 0;
	}
	unmap->size = fk_unmap(k, (uint32_t)f->fd, unmap->iova, unmap->size);
	return 0;
}

static int fk_container(
	struct fake_kernel *k, struct fk_file *f, unsigned long request, void *arg)
{

	switch (request) {
	case VFIO_GET_API_VERSION:
		return VFIO_API_VERSION;
	case VFIO_SET_IOMMU:
		assert_int_not_equal(fk_nr_in(k, FK_GROUP), 0);
		assert_false(f->has_iommu);
		assert_int_equal(
			(uintptr_t)arg, k->noiommu ? VFIO_NOIOMMU_IOMMU : VFIO_TYPE1v2_IOMMU);
		if (k->no_msi_remapping)
			return -EPERM;
		f->has_iommu = true;
		return 0;
	case VFIO_IOMMU_GET_INFO:
		return fk_iommu_info(k, f, arg);
	case VFIO_IOMMU_MAP_DMA:
		return fk_map_dma(k, f, arg);
	case VFIO_IOMMU_UNMAP_DMA:
		return fk_unmap_dma(k, f, arg);
	case VFIO_IOMMU_DIRTY_PAGES:
		return fk_dirty_pages(k, arg);
	default:
		return -ENOTTY;
	}
}

/* As the physical function says. */
static int fk_check_token(const struct fake_kernel *k, const char *given)
{
	if (!k->vf_token)
		return given ? -EINVAL : 0;
	return given && !strcmp(given, k->vf_token) ? 0 : -EACCES;
}

static int fk_hand_out(struct fake_kernel *k, const struct fk_file *group, const char *text)
{
	char name[64], token[64] = "";
	int rc, n = sscanf(text, "%63s vf_token=%63s", name, token);

	rc = fk_check_token(k, n == 2 ? token : NULL);
	if (rc)
		return rc;
	if (!group->in || !fk_file(k, group->container)->has_iommu)
		return -EINVAL;
	for (unsigned i = 0; i < k->nr_devices; i++)
		if (k->devices[i].group == group->group && !strcmp(k->devices[i].name, name)) {
			int fd = fk_device_file(k, i);

			fk_file(k, fd)->was_kvm = group->kvm;
			k->devices[i].opens++;
			return fd;
		}
	return -ENODEV;
}

static int fk_group(struct fake_kernel *k, struct fk_file *f, unsigned long request, void *arg)
{
	struct vfio_group_status *status = arg;

	switch (request) {
	case VFIO_GROUP_GET_STATUS:
		status->flags = (k->not_viable ? 0 : VFIO_GROUP_FLAGS_VIABLE) |
				(k->container_set ? VFIO_GROUP_FLAGS_CONTAINER_SET : 0);
		return 0;
	case VFIO_GROUP_SET_CONTAINER:
		assert_int_equal(fk_file(k, *(int *)arg)->kind, FK_CONTAINER);
		f->in = true;
		f->container = *(int *)arg;
		return 0;
	case VFIO_GROUP_UNSET_CONTAINER:
		f->in = false;
		fk_settle(k, f->container);
		return 0;
	case VFIO_GROUP_GET_DEVICE_FD:
		return fk_hand_out(k, f, arg);
	default:
		return -ENOTTY;
	}
}

/* --- iommufd --- */

static int fk_ioas_ranges(struct fake_kernel *k, struct iommu_ioas_iova_ranges *ask)
{
	struct iommu_iova_range *to = (void *)(uintptr_t)ask->allowed_iovas;
	uint32_t nr = k->nr_ranges ? k->nr_ranges : 1, room = ask->num_iovas;

	for (uint32_t i = 0; i < MIN(nr, room); i++)
		to[i] = (struct iommu_iova_range){ k->nr_ranges ? k->ranges[i].start : 0,
			k->nr_ranges ? k->ranges[i].end : UINT64_MAX };
	ask->num_iovas = nr;
	ask->out_iova_alignment = k->page_size ? k->page_size : 1;
	return nr > room ? -EMSGSIZE : 0;
}

static int fk_destroy(struct fake_kernel *k, uint32_t id)
{
	for (unsigned i = 0; i < FK_FILES; i++)
		if (k->files[i].kind == FK_DEVICE && k->files[i].in)
			assert_int_not_equal(k->files[i].table, id);
	if (id >= FK_TABLES) {
		k->nr_tables--;
		return 0;
	}
	assert_true(id >= FK_IOAS && id < FK_IOAS + FK_SPACES && k->ioas[id - FK_IOAS]);
	assert_int_equal(k->nr_tables, 0);
	fk_drop_ioas(k, id - FK_IOAS);
	return 0;
}

static int fk_hwpt_alloc(struct fake_kernel *k, struct iommu_hwpt_alloc *alloc)
{
	assert_int_equal(alloc->pt_id, FK_IOAS);
	assert_int_equal(alloc->flags, IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
	if (k->no_dirty || !alloc->dev_id)
		return -EOPNOTSUPP;
	alloc->out_hwpt_id = FK_TABLES + k->nr_tables++;
	return 0;
}

static int fk_ioas_alloc(struct fake_kernel *k, const struct fk_file *f, uint32_t *out)
{
	for (unsigned i = 0; i < FK_SPACES; i++)
		if (!k->ioas[i]) {
			k->ioas[i] = f->fd;
			*out = FK_IOAS + i;
			return 0;
		}
	fail_msg("too many address spaces");
	return -ENOMEM;
}

static void fk_check_ioas(const struct fake_kernel *k, const struct fk_file *f, uint32_t id)
{
	assert_true(id >= FK_IOAS && id < FK_IOAS + FK_SPACES && k->ioas[id - FK_IOAS] == f->fd);
}

static int fk_ioas_map(
	struct fake_kernel *k, const struct fk_file *f, const struct iommu_ioas_map *map)
{
	const struct fk_map m = {
		.space = map->ioas_id,
		.iova = map->iova,
		.size = map->length,
		.hva = (void *)(uintptr_t)map->user_va,
		.read = map->flags & IOMMU_IOAS_MAP_READABLE,
		.write = map->flags & IOMMU_IOAS_MAP_WRITEABLE,
	};

	fk_check_ioas(k, f, map->ioas_id);
	assert_true(map->flags & IOMMU_IOAS_MAP_FIXED_IOVA && (m.read || m.write));
	if (k->iommufd_no_bar && map->iova >= 0xc0000000)
		return -EFAULT;
	return fk_map(k, &m);
}

static int fk_ioas_unmap(
	struct fake_kernel *k, const struct fk_file *f, struct iommu_ioas_unmap *unmap)
{
	fk_check_ioas(k, f, unmap->ioas_id);
	unmap->length = fk_unmap(k, unmap->ioas_id, unmap->iova, unmap->length);
	return unmap->length ? 0 : -ENOENT;
}

static int fk_iommufd(
	struct fake_kernel *k, const struct fk_file *f, unsigned long request, void *arg)
{
	const struct iommu_hwpt_get_dirty_bitmap *get = arg;
	struct iommu_ioas_alloc *alloc = arg;

	switch (request) {
	case IOMMU_IOAS_ALLOC:
		return fk_ioas_alloc(k, f, &alloc->out_ioas_id);
	case IOMMU_DESTROY:
		return fk_destroy(k, ((struct iommu_destroy *)arg)->id);
	case IOMMU_HWPT_ALLOC:
		return fk_hwpt_alloc(k, arg);
	case IOMMU_HWPT_SET_DIRTY_TRACKING:
		return 0;
	case IOMMU_HWPT_GET_DIRTY_BITMAP:
		fk_dirty_bit(k, get->iova, get->length, get->page_size,
			(uint64_t *)(uintptr_t)get->data);
		return 0;
	case IOMMU_IOAS_IOVA_RANGES:
		return fk_ioas_ranges(k, arg);
	case IOMMU_IOAS_MAP:
		return fk_ioas_map(k, f, arg);
	case IOMMU_IOAS_UNMAP:
		return fk_ioas_unmap(k, f, arg);
	default:
		return -ENOTTY;
	}
}

/* --- device --- */

static int fk_region_info(struct fake_kernel *k, struct fk_device *d, struct vfio_region_info *info)
{
	struct fk_region *r = &d->regions[info->index];
	size_t sparse = r->nr_areas ? sizeof(struct vfio_region_info_cap_sparse_mmap) +
					      r->nr_areas * sizeof(r->areas[0])
				    : 0;
	size_t need = sizeof(*info) + sparse + (r->msix_mappable ? 8 : 0);
	uint32_t at = sizeof(*info);

	if (info->index >= d->num_regions)
		return -EINVAL;
	info->size = r->size;
	info->offset = (uint64_t)info->index << FK_OFFSET;
	info->flags = r->flags;
	if (k->argsz_grows) {
		info->argsz += 64;
		return 0;
	}
	if (need == sizeof(*info))
		return 0;
	info->flags |= VFIO_REGION_INFO_FLAG_CAPS;
	if (info->argsz < need) {
		info->argsz = (uint32_t)need;
		return 0;
	}
	info->cap_offset = at;
	if (sparse) {
		struct vfio_region_info_cap_sparse_mmap *cap = (void *)((uint8_t *)info + at);

		cap->header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
		cap->header.version = 1;
		cap->nr_areas = r->nr_areas;
		memcpy(cap->areas, r->areas, r->nr_areas * sizeof(r->areas[0]));
		at += (uint32_t)sparse;
		cap->header.next = r->msix_mappable ? at : 0;
	}
	if (r->msix_mappable) {
		struct vfio_info_cap_header *cap = (void *)((uint8_t *)info + at);

		*cap = (struct vfio_info_cap_header){ VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, 0 };
	}
	return 0;
}

static int fk_set_irqs(struct fake_kernel *k, struct fk_device *d, const struct vfio_irq_set *set)
{
	const int32_t *fds = (const void *)set->data;

	if (set->index >= FK_IRQS || set->start + set->count > d->irqs[set->index].count)
		return -EINVAL;
	if (set->flags & VFIO_IRQ_SET_DATA_NONE) {
		if (!set->count && set->flags & VFIO_IRQ_SET_ACTION_TRIGGER)
			fk_close_eventfds(d, set->index);
		return 0;
	}
	assert_int_equal(set->argsz, sizeof(*set) + set->count * sizeof(int32_t));
	if (k->max_vectors && (int)(set->start + set->count) > k->max_vectors)
		return k->max_vectors;
	for (uint32_t i = 0; i < set->count; i++) {
		int *to = set->flags & VFIO_IRQ_SET_ACTION_UNMASK
				  ? &d->unmask_fd
				  : &d->eventfds[set->index][set->start + i];

		if (*to)
			close(*to);
		*to = fds[i] < 0 ? 0 : dup(fds[i]);
	}
	return 0;
}

static int fk_hot_reset_info(
	struct fake_kernel *k, const struct fk_file *f, struct vfio_pci_hot_reset_info *info)
{
	unsigned nr = k->bus_of_others ? 2 : 1;

	if (k->no_bus)
		return -ENODEV;
	if (info->argsz < sizeof(*info) + nr * sizeof(info->devices[0])) {
		info->count = nr;
		return -ENOSPC;
	}
	info->count = nr;
	info->flags = 0;
	info->devices[0] =
		(struct vfio_pci_dependent_device){ .group_id =
							    (uint32_t)k->devices[f->device].group };
	if (f->bound) {
		info->flags = VFIO_PCI_HOT_RESET_FLAG_DEV_ID |
			      (k->bus_of_others ? 0 : VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED);
		info->devices[0].group_id = 1;
	}
	if (nr == 2)
		info->devices[1] = (struct vfio_pci_dependent_device){
			.group_id = f->bound ? UINT32_MAX : 99, .bus = 3, .devfn = 1
		};
	return 0;
}

static int fk_hot_reset(
	struct fake_kernel *k, const struct fk_file *f, const struct vfio_pci_hot_reset *reset)
{
	assert_int_equal(reset->count, f->bound ? 0 : 1);
	assert_int_equal(reset->argsz, sizeof(*reset) + reset->count * 4);
	if (!f->bound)
		assert_int_equal(
			fk_file(k, reset->group_fds[0])->group, k->devices[f->device].group);
	if (k->busy_resets) {
		k->busy_resets--;
		return -EBUSY;
	}
	k->hot_resets++;
	return 0;
}

static int fk_bind_token(
	const struct fake_kernel *k, const struct vfio_device_bind_iommufd *bind)
{
	const struct vfio_bind_with_token *with = (const void *)bind;
	const uint8_t *b = (const void *)(uintptr_t)(bind->flags ? with->token : 0);
	char text[40];

	if (!bind->flags)
		return fk_check_token(k, NULL);
	assert_int_equal(bind->flags, VFIO_BIND_WITH_TOKEN);
	assert_int_equal(bind->argsz, sizeof(*with));
	snprintf(text, sizeof(text),
		"%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
		b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
		b[15]);
	return fk_check_token(k, text);
}

static int fk_bind(struct fake_kernel *k, struct fk_file *f, struct vfio_device_bind_iommufd *bind)
{
	int rc = fk_bind_token(k, bind);

	if (rc)
		return rc;
	assert_int_equal(fk_file(k, bind->iommufd)->kind, FK_IOMMU);
	if (f->bound)
		return -EINVAL;
	f->bound = true;
	f->was_kvm = f->kvm;
	k->devices[f->device].opens++;
	bind->out_devid = 1 + f->device;
	return 0;
}

static int fk_attach(struct fake_kernel *k, struct fk_file *f, uint32_t ioas)
{
	if (!f->bound)
		return -EINVAL;
	if (k->no_msi_remapping)
		return -EPERM;
	if (ioas < FK_TABLES ? ioas >= FK_IOAS + FK_SPACES || !k->ioas[ioas - FK_IOAS] :
			       ioas >= FK_TABLES + k->nr_tables)
		return -ENOENT;
	/* The first device's tables are not for the others. */
	if (k->tables_unlike && ioas >= FK_TABLES && ioas != FK_TABLES + f->device)
		return -EINVAL;
	f->in = true;
	f->table = ioas;
	return 0;
}

static int fk_device_ioctl(
	struct fake_kernel *k, struct fk_file *f, unsigned long request, void *arg)
{
	struct fk_device *d = &k->devices[f->device];
	struct vfio_device_info *info = arg;
	struct vfio_irq_info *irq = arg;

	switch (request) {
	case VFIO_DEVICE_BIND_IOMMUFD:
		return fk_bind(k, f, arg);
	case VFIO_DEVICE_ATTACH_IOMMUFD_PT:
		return fk_attach(k, f, ((struct vfio_device_attach_iommufd_pt *)arg)->pt_id);
	case VFIO_DEVICE_DETACH_IOMMUFD_PT:
		f->in = false;
		return 0;
	case VFIO_DEVICE_GET_INFO:
		info->flags = d->flags;
		info->num_regions = d->num_regions;
		info->num_irqs = d->num_irqs;
		return 0;
	case VFIO_DEVICE_GET_REGION_INFO:
		return fk_region_info(k, d, arg);
	case VFIO_DEVICE_GET_IRQ_INFO:
		if (irq->index >= d->num_irqs)
			return -EINVAL;
		irq->flags = d->irqs[irq->index].flags;
		irq->count = d->irqs[irq->index].count;
		return 0;
	case VFIO_DEVICE_SET_IRQS:
		return fk_set_irqs(k, d, arg);
	case VFIO_DEVICE_RESET:
		assert_true(d->flags & VFIO_DEVICE_FLAGS_RESET);
		d->resets++;
		return 0;
	case VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
		return fk_hot_reset_info(k, f, arg);
	case VFIO_DEVICE_PCI_HOT_RESET:
		return fk_hot_reset(k, f, arg);
	default:
		return -ENOTTY;
	}
}

static int fk_kvm_list(
	struct fake_kernel *k, unsigned long request, const struct kvm_device_attr *attr)
{
	struct fk_file *f = fk_file(k, *(const int32_t *)(uintptr_t)attr->addr);

	assert_int_equal(request, KVM_SET_DEVICE_ATTR);
	assert_int_equal(attr->group, KVM_DEV_VFIO_FILE);
	if (f->kvm != (attr->attr == KVM_DEV_VFIO_FILE_DEL))
		return f->kvm ? -EEXIST : -ENOENT;
	f->kvm = attr->attr == KVM_DEV_VFIO_FILE_ADD;
	return 0;
}

#define FK_VM_FD 1000000

static int fk_ioctl_file(struct fake_kernel *k, int fd, unsigned long request, void *arg)
{
	struct kvm_create_device *create = arg;
	struct fk_file *f;

	if (fd == FK_VM_FD) {
		assert_int_equal(request, KVM_CREATE_DEVICE);
		/* A machine has one. */
		assert_int_equal(fk_nr_open(k, FK_KVM_LIST), 0);
		create->fd = (uint32_t)fk_new_file(k, FK_KVM_LIST)->fd;
		return 0;
	}
	f = fk_file(k, fd);
	switch (f->kind) {
	case FK_CONTAINER:
		return fk_container(k, f, request, arg);
	case FK_GROUP:
		return fk_group(k, f, request, arg);
	case FK_IOMMU:
		return fk_iommufd(k, f, request, arg);
	case FK_DEVICE:
		return fk_device_ioctl(k, f, request, arg);
	default:
		return fk_kvm_list(k, request, arg);
	}
}

static int fk_ioctl(const struct vfio_sys *sys, int fd, unsigned long request, void *arg)
{
	struct fake_kernel *k = fk_of(sys);
	int rc = fk_call(k, request);

	if (!rc)
		rc = fk_ioctl_file(k, fd, request, arg);
	pthread_mutex_unlock(&k->lock);
	return rc;
}

/* --- accesses --- */

static ssize_t fk_access(
	struct fake_kernel *k, int fd, void *buf, size_t len, uint64_t off, bool write)
{
	struct fk_device *d = fk_device(k, fd);
	uint64_t region = off >> FK_OFFSET, at = off & ((1ull << FK_OFFSET) - 1);

	assert_true(region < FK_REGIONS);
	if (d->gone || (d->bar_eio && region != VFIO_PCI_CONFIG_REGION_INDEX))
		return -EIO;
	if (!range_ok(at, len, d->regions[region].size))
		return -EINVAL;
	if (region != VFIO_PCI_CONFIG_REGION_INDEX)
		return write ? pwrite(fd, buf, len, (off_t)off) : pread(fd, buf, len, (off_t)off);
	if (write)
		memcpy(d->config + at, buf, len);
	else
		memcpy(buf, d->config + at, len);
	return (ssize_t)len;
}

static ssize_t fk_pread(const struct vfio_sys *sys, int fd, void *buf, size_t len, uint64_t off)
{
	struct fake_kernel *k = fk_of(sys);
	ssize_t n = fk_call(k, FK_PREAD);

	if (!n)
		n = fk_access(k, fd, buf, len, off, false);
	pthread_mutex_unlock(&k->lock);
	return n;
}

static ssize_t fk_pwrite(
	const struct vfio_sys *sys, int fd, const void *buf, size_t len, uint64_t off)
{
	struct fake_kernel *k = fk_of(sys);
	ssize_t n = fk_call(k, FK_PWRITE);

	if (!n)
		n = fk_access(k, fd, (void *)buf, len, off, true);
	pthread_mutex_unlock(&k->lock);
	return n;
}

static uint64_t fk_memlock(const struct vfio_sys *sys)
{
	return fk_of(sys)->memlock;
}

/* --- setting it up --- */

static FK_UNUSED void fk_init(struct fake_kernel *k)
{
	*k = (struct fake_kernel){
		.sys = { fk_open, fk_close, fk_ioctl, fk_pread, fk_pwrite, fk_memlock },
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.memlock = UINT64_MAX,
	};
}

/*
 * A device like a simple network card: BAR 0 of 16 KiB that can be mmapped, MSI-X, a reset of its
 * own.
 */
static FK_UNUSED struct fk_device *fk_add_device(
	struct fake_kernel *k, const char *name, int group, const char *cdev)
{
	struct fk_device *d = &k->devices[k->nr_devices++];
	const uint32_t rw = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

	assert_true(k->nr_devices <= FK_DEVICES);
	*d = (struct fk_device){
		.name = name,
		.cdev = cdev,
		.group = group,
		.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
		.num_regions = 9,
		.num_irqs = 5,
	};
	d->regions[0] =
		(struct fk_region){ .flags = rw | VFIO_REGION_INFO_FLAG_MMAP, .size = 0x4000 };
	d->regions[VFIO_PCI_CONFIG_REGION_INDEX] = (struct fk_region){ .flags = rw, .size = 256 };
	d->irqs[VFIO_PCI_INTX_IRQ_INDEX] = (struct vfio_irq_info){ .count = 1,
		.flags =
			VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED };
	d->irqs[VFIO_PCI_MSIX_IRQ_INDEX] =
		(struct vfio_irq_info){ .count = 4, .flags = VFIO_IRQ_INFO_EVENTFD };
	for (unsigned i = VFIO_PCI_ERR_IRQ_INDEX; i <= VFIO_PCI_REQ_IRQ_INDEX; i++)
		d->irqs[i] = (struct vfio_irq_info){ .count = 1, .flags = VFIO_IRQ_INFO_EVENTFD };
	memcpy(d->config, "\x86\x80\xd3\x10", 4);
	d->config[PCI_CLASS_DEVICE + 1] = 2;
	d->config[PCI_INTERRUPT_PIN] = 1;
	return d;
}

/* Nothing of it is left. */
static FK_UNUSED void fk_check_empty(const struct fake_kernel *k)
{
	for (unsigned i = 0; i < FK_FILES; i++)
		assert_int_equal(k->files[i].kind, FK_CLOSED);
	assert_int_equal(k->nr_maps, 0);
}

#endif
