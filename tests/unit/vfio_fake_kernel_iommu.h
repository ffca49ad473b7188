/*
 * vfio_fake_kernel_iommu.h - the fake kernel's ways into the IOMMU: containers with their groups,
 * iommufd
 *
 * A part of vfio_fake_kernel.h.
 */
#ifndef TESTS_VFIO_FAKE_KERNEL_IOMMU_H
#define TESTS_VFIO_FAKE_KERNEL_IOMMU_H

#include "vfio_fake_kernel_core.h"

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

#endif
