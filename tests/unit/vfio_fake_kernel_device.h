/*
 * vfio_fake_kernel_device.h - the fake kernel's devices, and which file gets which ioctl
 *
 * A part of vfio_fake_kernel.h.
 */
#ifndef TESTS_VFIO_FAKE_KERNEL_DEVICE_H
#define TESTS_VFIO_FAKE_KERNEL_DEVICE_H

#include "vfio_fake_kernel_iommu.h"

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

#endif
