/*
 * vfio_kernel_info.c - what a host device is made of, as the kernel says
 *
 * A region's description has the layout that vfio-user took over, and goes through the same checks.
 * A region or kind of interrupt that the kernel does not know is one that the device does not have.
 *
 * Owns:   the lists of areas; their descriptor is the device's own.
 * Trusts: nothing but that mapped areas are the device's.
 * Spec:   linux/vfio.h, VFIO_DEVICE_GET_INFO, ..._GET_REGION_INFO, ..._GET_IRQ_INFO.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_iommu_priv.h"
#include "attach/vfio_kernel_priv.h"
#include "wire/vfio_kernel.h"

/* MSI-X has the most. */
#define MAX_IRQS 2048u

static_assert(sizeof(struct vfio_region_info) == sizeof(struct vfio_user_region_info),
	"one description of a region for both");

/* --- regions --- */

static int add_areas(struct vfio_kernel *vk, struct vfio_region *r, uint64_t offset,
	const struct vfio_user_sparse *sparse)
{
	unsigned nr = sparse->nr ? sparse->nr : 1;

	r->areas = calloc(nr, sizeof(*r->areas));
	if (!r->areas)
		return -ENOMEM;
	for (unsigned i = 0; i < nr; i++) {
		uint64_t at = sparse->nr ? sparse->areas[i].offset : 0;

		r->areas[i] = (struct vfio_area){
			.offset = at,
			.size = sparse->nr ? sparse->areas[i].size
					   : align_down(r->size, PAGE_SIZE_4K),
			.fd = vk->binding.device_fd,
			.fd_offset = offset + at,
		};
	}
	r->nr_areas = nr;
	return 0;
}

/* The chain was checked: it stays inside and comes to an end. */
static bool has_cap(const struct vfio_user_region_info *info, const uint8_t *reply, uint16_t id)
{
	uint32_t at = info->flags & VFIO_USER_REGION_FLAG_CAPS ? info->cap_offset : 0;

	while (at) {
		struct vfio_user_cap_header cap;

		memcpy(&cap, reply + at, sizeof(cap));
		if (cap.id == id)
			return true;
		at = cap.next;
	}
	return false;
}

static int take_region(
	struct vfio_kernel *vk, unsigned index, const void *reply, uint32_t size, struct err *err)
{
	struct vfio_region *r = &vk->t.info.regions[index];
	struct vfio_user_region_info info;
	struct vfio_user_sparse sparse;
	int rc = vfio_user_parse_region_info(reply, size, index, &info, &sparse, err);

	if (rc)
		return rc;
	r->size = info.size;
	r->readable = info.flags & VFIO_USER_REGION_FLAG_READ;
	r->writable = info.flags & VFIO_USER_REGION_FLAG_WRITE;
	r->msix_mappable = has_cap(&info, reply, VFIO_REGION_INFO_CAP_MSIX_MAPPABLE);
	vk->offsets[index] = info.offset;
	if (info.offset > INT64_MAX - info.size)
		return err_set(err, -EPROTO, "region %u: 0x%llx bytes at 0x%llx of its file", index,
			(unsigned long long)info.size, (unsigned long long)info.offset);
	if (!(info.flags & VFIO_USER_REGION_FLAG_MMAP) || index >= VFIO_USER_REGION_ROM ||
		!info.size)
		return 0;
	if (info.size < PAGE_SIZE_4K) {
		r->page = (struct vfio_area){
			.size = PAGE_SIZE_4K, .fd = vk->binding.device_fd, .fd_offset = info.offset
		};
		return 0;
	}
	rc = add_areas(vk, r, info.offset, &sparse);
	return rc ? err_set(err, rc, "region %u: out of memory", index) : 0;
}

static int get_region(struct vfio_kernel *vk, unsigned index, struct err *err)
{
	const struct vfio_region_info head = { .argsz = sizeof(head), .index = index };
	FREE_AUTO void *reply = NULL;
	uint32_t size;
	int rc = vfio_ask_list(vk->sys, vk->binding.device_fd, VFIO_DEVICE_GET_REGION_INFO, &head,
		sizeof(head), &reply, &size);

	if (rc == -EINVAL && index != VFIO_USER_REGION_CONFIG)
		return 0;
	if (rc)
		return err_set(err, rc, "VFIO_DEVICE_GET_REGION_INFO of region %u: %s", index,
			rc == -EPROTO ? "the kernel asks for ever more room" : strerror(-rc));
	return take_region(vk, index, reply, size, err);
}

/* --- interrupts --- */

static int get_irq(struct vfio_kernel *vk, unsigned index, struct err *err)
{
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = index };
	int rc = vk_ioctl(vk, VFIO_DEVICE_GET_IRQ_INFO, &info);

	if (rc == -EINVAL)
		return 0;
	if (rc)
		return err_set(
			err, rc, "VFIO_DEVICE_GET_IRQ_INFO of type %u: %s", index, strerror(-rc));
	if (info.count > MAX_IRQS)
		return err_set(err, -EPROTO,
			"interrupt type %u: %u interrupts, expected at most %u", index, info.count,
			MAX_IRQS);
	/* One that cannot be signalled by an eventfd can not be signalled at all. */
	if (info.flags & VFIO_IRQ_INFO_EVENTFD)
		vk->t.info.irqs[index] = (struct vfio_irq){ info.flags, info.count };
	return 0;
}

int vk_info_get(struct vfio_kernel *vk, struct err *err)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	int rc = vk_ioctl(vk, VFIO_DEVICE_GET_INFO, &info);

	if (rc)
		return err_set(err, rc, "VFIO_DEVICE_GET_INFO: %s", strerror(-rc));
	if (!(info.flags & VFIO_DEVICE_FLAGS_PCI))
		return err_set(err, -ENODEV, "%s is not a PCI device", vk->device.name);
	if (info.num_regions <= VFIO_PCI_CONFIG_REGION_INDEX)
		return err_set(err, -EPROTO, "%u regions, expected at least %d", info.num_regions,
			VFIO_PCI_CONFIG_REGION_INDEX + 1);
	vk->has_reset = info.flags & VFIO_DEVICE_FLAGS_RESET;
	vk->t.info.can_reset = true;
	vk->t.info.host = true;
	/* VGA's legacy ranges are nobody's here, so they are not asked for. */
	for (unsigned i = 0; i <= VFIO_PCI_CONFIG_REGION_INDEX && !rc; i++)
		rc = get_region(vk, i, err);
	for (unsigned i = 0; i < MIN(info.num_irqs, (uint32_t)VFIO_NR_IRQS) && !rc; i++)
		rc = get_irq(vk, i, err);
	return rc;
}

void vk_info_fini(struct vfio_kernel *vk)
{
	for (unsigned i = 0; i < VFIO_NR_REGIONS; i++) {
		struct vfio_region *r = &vk->t.info.regions[i];

		free(r->areas);
		r->areas = NULL;
		r->nr_areas = 0;
		r->page = (struct vfio_area){ 0 };
	}
}
