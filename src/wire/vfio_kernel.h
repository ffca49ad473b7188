/*
 * vfio_kernel.h - what Linux's VFIO and IOMMUFD can do that older headers do not say
 *
 * linux/vfio.h of 6.1 ends before devices could be opened by themselves (6.6), and
 * <linux/iommufd.h> may be missing altogether. Numbers and structures here are those of the
 * kernel's user interface, Documentation/userspace-api/iommufd.rst and vfio.rst; where the header
 * has them, the header's count. All structures begin with their size (argsz or size), by which
 * kernel and program of different age understand one another.
 *
 * The structure of a region (struct vfio_region_info and its capabilities) is that of vfio-user:
 * vfio_user_parse_region_info() checks both.
 */
#ifndef WIRE_VFIO_KERNEL_H
#define WIRE_VFIO_KERNEL_H

#include <assert.h>
#include <linux/kvm.h>
#include <linux/types.h>
#include <linux/vfio.h>

/* --- a device opened by itself, by /dev/vfio/devices/vfioN --- */

#ifndef VFIO_DEVICE_BIND_IOMMUFD
struct vfio_device_bind_iommufd {
	__u32 argsz;
	__u32 flags;
	__s32 iommufd;
	__u32 out_devid;
};

#define VFIO_DEVICE_BIND_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 18)
#endif

/* The same with a VF token (6.18): token points to its 16 bytes. */
#define VFIO_BIND_WITH_TOKEN (1 << 0)

struct vfio_bind_with_token {
	struct vfio_device_bind_iommufd bind;
	__aligned_u64 token;
};

#ifndef VFIO_DEVICE_ATTACH_IOMMUFD_PT
struct vfio_device_attach_iommufd_pt {
	__u32 argsz;
	__u32 flags;
	__u32 pt_id;
};

#define VFIO_DEVICE_ATTACH_IOMMUFD_PT _IO(VFIO_TYPE, VFIO_BASE + 19)
#endif

#ifndef VFIO_DEVICE_DETACH_IOMMUFD_PT
struct vfio_device_detach_iommufd_pt {
	__u32 argsz;
	__u32 flags;
};

#define VFIO_DEVICE_DETACH_IOMMUFD_PT _IO(VFIO_TYPE, VFIO_BASE + 20)
#endif

/*
 * In the flags of struct vfio_pci_hot_reset_info: it names devices, not groups; all of them are
 * ours.
 */
#ifndef VFIO_PCI_HOT_RESET_FLAG_DEV_ID
#define VFIO_PCI_HOT_RESET_FLAG_DEV_ID	     (1 << 0)
#define VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED (1 << 1)
#endif

/* --- KVM's list of VFIO files: groups, or devices opened by themselves --- */

#ifndef KVM_DEV_VFIO_FILE
#define KVM_DEV_VFIO_FILE     KVM_DEV_VFIO_GROUP
#define KVM_DEV_VFIO_FILE_ADD KVM_DEV_VFIO_GROUP_ADD
#define KVM_DEV_VFIO_FILE_DEL KVM_DEV_VFIO_GROUP_DEL
#endif

/* --- /dev/iommu --- */

#if __has_include(<linux/iommufd.h>)
#include <linux/iommufd.h>
#else
#define IOMMUFD_TYPE (';')

struct iommu_destroy {
	__u32 size;
	__u32 id;
};

#define IOMMU_DESTROY _IO(IOMMUFD_TYPE, 0x80)

struct iommu_ioas_alloc {
	__u32 size;
	__u32 flags;
	__u32 out_ioas_id;
};

#define IOMMU_IOAS_ALLOC _IO(IOMMUFD_TYPE, 0x81)

struct iommu_iova_range {
	__aligned_u64 start;
	__aligned_u64 last;
};

struct iommu_ioas_iova_ranges {
	__u32 size;
	__u32 ioas_id;
	__u32 num_iovas; /* in: room, out: how many there are */
	__u32 __reserved;
	__aligned_u64 allowed_iovas; /* pointer to struct iommu_iova_range */
	__aligned_u64 out_iova_alignment;
};

#define IOMMU_IOAS_IOVA_RANGES _IO(IOMMUFD_TYPE, 0x84)

#define IOMMU_IOAS_MAP_FIXED_IOVA (1 << 0)
#define IOMMU_IOAS_MAP_WRITEABLE  (1 << 1)
#define IOMMU_IOAS_MAP_READABLE	  (1 << 2)

struct iommu_ioas_map {
	__u32 size;
	__u32 flags;
	__u32 ioas_id;
	__u32 __reserved;
	__aligned_u64 user_va;
	__aligned_u64 length;
	__aligned_u64 iova;
};

#define IOMMU_IOAS_MAP _IO(IOMMUFD_TYPE, 0x85)

struct iommu_ioas_unmap {
	__u32 size;
	__u32 ioas_id;
	__aligned_u64 iova;
	__aligned_u64 length;
};

#define IOMMU_IOAS_UNMAP _IO(IOMMUFD_TYPE, 0x86)
#endif

/* Page tables that note what was written (6.7). */
#ifndef IOMMU_HWPT_ALLOC
#define IOMMU_HWPT_ALLOC_DIRTY_TRACKING (1 << 1)

struct iommu_hwpt_alloc {
	__u32 size;
	__u32 flags;
	__u32 dev_id;
	__u32 pt_id;
	__u32 out_hwpt_id;
	__u32 __reserved;
	__u32 data_type;
	__u32 data_len;
	__aligned_u64 data_uptr;
};

#define IOMMU_HWPT_ALLOC _IO(IOMMUFD_TYPE, 0x89)
#endif

#ifndef IOMMU_HWPT_SET_DIRTY_TRACKING
#define IOMMU_HWPT_DIRTY_TRACKING_ENABLE 1

struct iommu_hwpt_set_dirty_tracking {
	__u32 size;
	__u32 flags;
	__u32 hwpt_id;
	__u32 __reserved;
};

#define IOMMU_HWPT_SET_DIRTY_TRACKING _IO(IOMMUFD_TYPE, 0x8b)
#endif

#ifndef IOMMU_HWPT_GET_DIRTY_BITMAP
struct iommu_hwpt_get_dirty_bitmap {
	__u32 size;
	__u32 hwpt_id;
	__u32 flags;
	__u32 __reserved;
	__aligned_u64 iova;
	__aligned_u64 length;
	__aligned_u64 page_size;
	__aligned_u64 data; /* pointer to u64; bits are added */
};

#define IOMMU_HWPT_GET_DIRTY_BITMAP _IO(IOMMUFD_TYPE, 0x8c)
#endif

static_assert(sizeof(struct vfio_device_bind_iommufd) == 16, "BIND_IOMMUFD");
static_assert(sizeof(struct vfio_bind_with_token) == 24, "BIND_IOMMUFD with a token");
static_assert(sizeof(struct iommu_ioas_alloc) == 12, "IOAS_ALLOC");
static_assert(sizeof(struct iommu_ioas_iova_ranges) == 32, "IOAS_IOVA_RANGES");
static_assert(sizeof(struct iommu_ioas_map) == 40, "IOAS_MAP");
static_assert(sizeof(struct iommu_ioas_unmap) == 24, "IOAS_UNMAP");
static_assert(sizeof(struct iommu_hwpt_set_dirty_tracking) == 16, "SET_DIRTY_TRACKING");
static_assert(sizeof(struct iommu_hwpt_get_dirty_bitmap) == 48, "GET_DIRTY_BITMAP");

#endif
