/*
 * option_devices.c - the fields of options that make devices
 *
 * Names and defaults as users know them from Cloud Hypervisor; what has no counterpart there is
 * marked (outboard) in the manual page.
 */
#include "control/config.h"
#include "control/option_rows.h"
#include "wire/virtio.h"
#include "wire/vvu.h"

/* a table is read by rows */
/* clang-format off */

const struct field_row host_device_fields[] = {
	{ .name = "path", .json = "path", .type = FIELD_PATH, .arg = "PATH|BDF",
	  MEMBER(host_device_config, path),
	  .help = "its directory in sysfs, or its address: 0000:01:00.0" },
	/* not in a body: whoever sends one does not know our descriptors */
	{ .name = "fd", .type = FIELD_UINT, .arg = "N", .unset = CONFIG_NO_FD, .min = 3,
	  .max = INT32_MAX, MEMBER(host_device_config, fd),
	  .help = "its character device of VFIO, opened by somebody else" },
	{ .name = "x_nv_gpudirect_clique", .json = "x_nv_gpudirect_clique", .type = FIELD_UINT,
	  .arg = "N", .unset = CONFIG_NO_CLIQUE, .max = CONFIG_MAX_CLIQUE,
	  MEMBER(host_device_config, x_nv_gpudirect_clique),
	  .help = "NVIDIA GPUs of one number, 0 to 15, may reach each other's memory" },
	{ .name = "x_exclude_mmap_bars", .json = "x_exclude_mmap_bars", .type = FIELD_INT_LIST,
	  .arg = "[N,...]", .max = 5, MEMBER(host_device_config, x_exclude_mmap_bars),
	  .help = "BARs of which each access is trapped" },
	{ .name = "vf_token", .json = "vf_token", .type = FIELD_STRING, .arg = "UUID",
	  MEMBER(host_device_config, vf_token),
	  .help = "of a physical function and its virtual ones, where vfio-pci has both" },
	IOMMU_FIELD_OF(host_device_config),
	DEVICE_FIELDS(host_device_config, "_vfio0, _vfio1, ..."),
	{ 0 },
};

const struct field_row user_device_fields[] = {
	{ .name = "socket", .json = "socket", .type = FIELD_SOCKET, .arg = "PATH", .required = true,
	  MEMBER(user_device_config, socket), .help = "where the vfio-user server listens" },
	IOMMU_FIELD_OF(user_device_config),
	DEVICE_FIELDS(user_device_config, "_vfio_user0, _vfio_user1, ..."),
	{ 0 },
};

const struct field_row generic_vhost_user_fields[] = {
	{ .name = "socket", .json = "socket", .type = FIELD_SOCKET, .arg = "PATH", .required = true,
	  MEMBER(generic_vhost_user_config, socket), .help = "where the vhost-user back-end listens" },
	{ .name = "device_type", .json = "device_type", .type = FIELD_STRING, .arg = "TYPE",
	  .json_number = true,
	  MEMBER(generic_vhost_user_config, type),
	  .help = "virtio device type: its number or name (26, fs, block, net, gpio, ...)" },
	{ .name = "virtio_id", .type = FIELD_STRING, .arg = "TYPE",
	  MEMBER(generic_vhost_user_config, virtio_id), .help = "the same" },
	{ .name = "queue_sizes", .json = "queue_sizes", .type = FIELD_INT_LIST, .arg = "[N,...]",
	  .min = 1, .max = VIRTIO_QUEUE_MAX_SIZE, MEMBER(generic_vhost_user_config, queue_sizes),
	  .help = "one queue of each size (default: as many as the back-end has, of 256)" },
	{ .name = "config", .type = FIELD_STRING, .arg = "HEX",
	  MEMBER(generic_vhost_user_config, config),
	  .help = "device configuration, for a back-end that has none of its own" },
	BACKEND_FIELDS(generic_vhost_user_config),
	IOMMU_FIELD_OF(generic_vhost_user_config),
	DEVICE_FIELDS(generic_vhost_user_config, "_generic_vhost_user0, ..."),
	{ 0 },
};

const struct field_row fs_fields[] = {
	{ .name = "tag", .json = "tag", .type = FIELD_STRING, .arg = "NAME", .required = true,
	  MEMBER(fs_config, tag), .help = "what the guest mounts, 1 to 36 bytes" },
	{ .name = "socket", .json = "socket", .type = FIELD_SOCKET, .arg = "PATH", .required = true,
	  MEMBER(fs_config, socket), .help = "where virtiofsd listens" },
	{ .name = "num_queues", .json = "num_queues", .type = FIELD_UINT, .arg = "N",
	  .fallback = "1", .min = 1, .max = 64, MEMBER(fs_config, num_queues),
	  .help = "request queues" },
	{ .name = "queue_size", .json = "queue_size", .type = FIELD_UINT, .arg = "N",
	  .fallback = "1024", .min = 1, .max = VIRTIO_QUEUE_MAX_SIZE, MEMBER(fs_config, queue_size),
	  .help = "their size, a power of two" },
	BACKEND_FIELDS(fs_config),
	IOMMU_FIELD_OF(fs_config),
	DEVICE_FIELDS(fs_config, "_fs0, _fs1, ..."),
	{ 0 },
};

static const struct choice disconnects[] = {
	{ "both", "Both", VVU_DISCONNECT_BOTH, .help = "by a buffer without bytes, and its status" },
	{ "zero-len", "ZeroLen", VVU_DISCONNECT_ZERO_LEN, .help = "by the buffer alone" },
	{ "status", "Status", VVU_DISCONNECT_STATUS, .help = "by the status alone" },
	{ 0 },
};

const struct field_row vvu_proxy_fields[] = {
	{ .name = "socket", .json = "socket", .type = FIELD_SOCKET, .arg = "PATH", .required = true,
	  MEMBER(vvu_proxy_config, socket),
	  .help = "where the other machine connects, with any option of a vhost-user device" },
	{ .name = "addr", .json = "addr", .type = FIELD_STRING, .arg = "BDF",
	  MEMBER(vvu_proxy_config, addr),
	  .help = "its place, segment:00:slot.0: 0000:00:10.0 (default: the first free one)" },
	{ .name = "uuid", .json = "uuid", .type = FIELD_STRING, .arg = "UUID",
	  MEMBER(vvu_proxy_config, uuid), .help = "by which the guest may know it (default: zeros)" },
	{ .name = "shmem-size", .json = "shmem_size", .type = FIELD_SIZE, .arg = "SIZE",
	  .max = 1ull << 40, MEMBER(vvu_proxy_config, shmem_size),
	  .help = "room for the other machine's memory, a power of two, 1M to 1T (default: 64G, or a "
		  "quarter of the guest's address space)" },
	{ .name = "max-queues", .json = "max_queues", .type = FIELD_UINT, .arg = "N",
	  .fallback = "16", .min = 1, .max = VVU_MAX_QUEUES, MEMBER(vvu_proxy_config, max_queues),
	  .help = "queues that the other machine's device may have, 1 to 256" },
	{ .name = "disconnect", .json = "disconnect", .type = FIELD_CHOICE,
	  .arg = "both|zero-len|status", .fallback = "both", .choices = disconnects,
	  MEMBER(vvu_proxy_config, disconnect),
	  .help = "how the driver hears that the other machine has gone" },
	IOMMU_FIELD_OF(vvu_proxy_config),
	DEVICE_FIELDS(vvu_proxy_config, "_vvu_proxy0, _vvu_proxy1, ..."),
	{ 0 },
};
