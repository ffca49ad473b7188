/*
 * vfio_iommu_rig.h - three host devices, two of them in one group, and guest RAM for them
 */
#ifndef TESTS_VFIO_IOMMU_RIG_H
#define TESTS_VFIO_IOMMU_RIG_H

#include "vfio_fake_kernel.h"
#include "fake_kvm.h"

#include "attach/vfio_iommu_priv.h"
#include "base/log.h"

#define RAM_SIZE (16 * MIB)

struct rig {
	struct fake_kernel k;
	struct kvm kvm;
	struct memory *memory;
	struct vfio_iommu *io;
	atomic_bool cancel;
	struct err err;
	int fds; /* open before */
};

static const struct vfio_iommu_device card = {
	.name = "0000:01:00.0", .group = 11, .cdev = "vfio0", .fd = -1
};
static const struct vfio_iommu_device disk = {
	.name = "0000:02:00.0", .group = 12, .cdev = "vfio1", .fd = -1
};
static const struct vfio_iommu_device twin = {
	.name = "0000:01:00.1", .group = 11, .cdev = "vfio2", .fd = -1
};

static const struct mem_range high = {
	.gpa = 4 * GIB, .size = 8 * MIB, .fd = -1, .hva = (void *)0x10000000
};
static const struct mem_range higher = {
	.gpa = 8 * GIB, .size = 8 * MIB, .fd = -1, .hva = (void *)0x20000000
};

static struct vfio_iommu_params params(struct rig *r)
{
	return (struct vfio_iommu_params){
		.sys = &r->k.sys, .kvm = &r->kvm, .memory = r->memory, .iommufd_fd = -1
	};
}

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct memory_params mp = { .size = RAM_SIZE };

	fk_init(&r->k);
	fk_add_device(&r->k, card.name, card.group, card.cdev);
	fk_add_device(&r->k, disk.name, disk.group, disk.cdev);
	fk_add_device(&r->k, twin.name, twin.group, twin.cdev);
	r->kvm.nr_slots = KVM_MAX;
	r->kvm.vm_fd = FK_VM_FD;
	assert_int_equal(memory_new(&r->kvm, &mp, &r->memory, &r->err), 0);
	r->fds = fd_count();
	return r;
}

static void begin(struct rig *r, const struct vfio_iommu_params *p)
{
	assert_int_equal(vfio_iommu_new(p, &r->io, &r->err), 0);
}

static struct rig *rig_begin(bool iommufd)
{
	struct rig *r = rig_new();
	struct vfio_iommu_params p = params(r);

	p.iommufd = iommufd;
	begin(r, &p);
	return r;
}

static void rig_end(struct rig *r)
{
	vfio_iommu_free(r->io);
	fk_check_empty(&r->k);
	assert_int_equal(fd_count(), r->fds);
	memory_free(r->memory);
	free(r);
}

static int attach_to(struct rig *r, struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	struct vfio_binding *b)
{
	r->err.text[0] = 0;
	return vfio_iommu_attach(io, dev, &r->cancel, b, &r->err);
}

static int attach(struct rig *r, const struct vfio_iommu_device *dev, struct vfio_binding *b)
{
	return attach_to(r, r->io, dev, b);
}

static void says(const struct rig *r, const char *text)
{
	if (!strstr(r->err.text, text))
		fail_msg("'%s' does not say '%s'", r->err.text, text);
}

#endif
