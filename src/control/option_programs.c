/*
 * option_programs.c - the fields of options whose devices are programs of ours
 *
 * --disk, --net, --rng, --vsock and --console start an outboard-device each, unless they name
 * somebody else's back-end. Names and defaults as users know them from Cloud Hypervisor.
 */
#include "control/config.h"
#include "control/option_rows.h"
#include "wire/virtio.h"

/* a table is read by rows */
/* clang-format off */

/* own: a struct with a member `rate`. */
#define RATE_FIELDS(own)                                                                           \
	{ .name = "bw_size", .json = "rate_limiter_config.bandwidth.size", .type = FIELD_SIZE, .arg = "SIZE", .fallback = "0",                   \
	  .max = INT64_MAX, MEMBER(own, rate.bw_size),                                             \
	  .help = "bytes that may pass within bw_refill_time" },                                   \
	{ .name = "bw_one_time_burst", .json = "rate_limiter_config.bandwidth.one_time_burst", .type = FIELD_SIZE, .arg = "SIZE", .fallback = "0",         \
	  .max = INT64_MAX, MEMBER(own, rate.bw_one_time_burst),                                   \
	  .help = "and so many once beside it" },                                                  \
	{ .name = "bw_refill_time", .json = "rate_limiter_config.bandwidth.refill_time", .type = FIELD_UINT, .arg = "MS", .fallback = "0",              \
	  .max = 86400000, MEMBER(own, rate.bw_refill_time), .help = "milliseconds" },             \
	{ .name = "ops_size", .json = "rate_limiter_config.ops.size", .type = FIELD_UINT, .arg = "N", .fallback = "0", .max = INT64_MAX,   \
	  MEMBER(own, rate.ops_size), .help = "requests or packets that may pass within ops_refill_time" },   \
	{ .name = "ops_one_time_burst", .json = "rate_limiter_config.ops.one_time_burst", .type = FIELD_UINT, .arg = "N", .fallback = "0",           \
	  .max = INT64_MAX, MEMBER(own, rate.ops_one_time_burst),                                  \
	  .help = "and so many once beside it" },                                                  \
	{ .name = "ops_refill_time", .json = "rate_limiter_config.ops.refill_time", .type = FIELD_UINT, .arg = "MS", .fallback = "0",             \
	  .max = 86400000, MEMBER(own, rate.ops_refill_time), .help = "milliseconds" }

#define NO_FORMATS "use qemu-storage-daemon or qemu-nbd for other formats than raw"

static const struct choice image_types[] = {
	{ "raw", "Raw", 0 },
	{ "qcow2", "Qcow2", 1, .refused = NO_FORMATS },
	{ "vhd", "FixedVhd", 2, .refused = NO_FORMATS },
	{ "vhdx", "Vhdx", 3, .refused = NO_FORMATS },
	{ 0 },
};

static const struct choice lock_granularities[] = {
	{ "byte-range", "ByteRange", 0 },
	{ "full", "Full", 1 },
	{ 0 },
};

const struct field_row disk_fields[] = {
	{ .name = "path", .json = "path", .type = FIELD_PATH, .arg = "PATH",
	  MEMBER(disk_config, path), .help = "raw image file or block device" },
	{ .name = "readonly", .json = "readonly", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", MEMBER(disk_config, readonly), .help = "the guest may not write" },
	{ .name = "direct", .json = "direct", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", MEMBER(disk_config, direct), .help = "past the host's page cache" },
	{ .name = "num_queues", .json = "num_queues", .type = FIELD_UINT, .arg = "N",
	  .fallback = "1", .min = 1, .max = 64, MEMBER(disk_config, num_queues),
	  .help = "request queues" },
	{ .name = "queue_size", .json = "queue_size", .type = FIELD_UINT, .arg = "N",
	  .fallback = "128", .min = 2, .max = 1024, MEMBER(disk_config, queue_size),
	  .help = "their size, a power of two" },
	{ .name = "serial", .json = "serial", .type = FIELD_STRING, .arg = "TEXT",
	  MEMBER(disk_config, serial), .help = "serial number that the guest sees, 1 to 20 bytes" },
	{ .name = "vhost_user", .json = "vhost_user", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", MEMBER(disk_config, vhost_user),
	  .help = "a vhost-user back-end at socket= instead of path=" },
	{ .name = "socket", .json = "vhost_socket", .type = FIELD_SOCKET, .arg = "PATH",
	  MEMBER(disk_config, socket), .help = "where the back-end listens, with vhost_user=on" },
	RATE_FIELDS(disk_config),
	BACKEND_FIELDS(disk_config),
	{ .name = "image_type", .json = "image_type", .type = FIELD_CHOICE, .arg = "raw",
	  .fallback = "raw", .choices = image_types, .refused = NO_FORMATS,
	  .help = "format of the image" },
	{ .name = "sparse", .json = "sparse", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "on", .refused = "discarded blocks are given back to the host",
	  .help = "give discarded blocks back" },
	{ .name = "backing_files", .json = "backing_files", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", .refused = NO_FORMATS, .help = "images with backing files" },
	{ .name = "lock_granularity", .json = "lock_granularity", .type = FIELD_CHOICE,
	  .arg = "byte-range", .fallback = "byte-range", .choices = lock_granularities,
	  .refused = "images are locked by byte ranges", .help = "how the image is locked" },
	{ .name = "rate_limit_group", .json = "rate_limit_group", .type = FIELD_STRING,
	  .arg = "NAME", .refused = "each disk has limits of its own", .help = "shared limits" },
	{ .name = "queue_affinity", .json = "queue_affinity", .type = FIELD_STRING, .arg = "LIST",
	  .refused = "queues run where the host's scheduler puts them",
	  .help = "processors of each queue" },
	IOMMU_FIELD_OF(disk_config),
	DEVICE_FIELDS(disk_config, "_disk0, _disk1, ..."),
	{ 0 },
};

static const struct choice vhost_modes[] = {
	{ "client", "Client", VHOST_MODE_CLIENT, .help = "connect to the socket" },
	{ "server", "Server", VHOST_MODE_SERVER, .help = "listen at it, the back-end connects" },
	{ 0 },
};

const struct field_row net_fields[] = {
	{ .name = "tap", .json = "tap", .type = FIELD_STRING, .arg = "NAME",
	  MEMBER(net_config, tap), .help = "network interface of the host (default: a new one)" },
	/* not in a body: whoever sends one does not know our descriptors */
	{ .name = "fd", .type = FIELD_INT_LIST, .arg = "[N,...]", .min = 3,
	  .max = INT32_MAX, MEMBER(net_config, fds),
	  .help = "open taps, one for each pair of queues" },
	{ .name = "ip", .json = "ip", .type = FIELD_STRING, .arg = "ADDRESS",
	  MEMBER(net_config, ip), .help = "IPv4 address of the host's end, for a new interface" },
	{ .name = "mask", .json = "mask", .type = FIELD_STRING, .arg = "MASK",
	  MEMBER(net_config, mask), .help = "and its netmask (default: 255.255.255.0)" },
	{ .name = "mac", .json = "mac", .type = FIELD_STRING, .arg = "MAC",
	  MEMBER(net_config, mac), .help = "the guest's address (default: a random one)" },
	{ .name = "host_mac", .json = "host_mac", .type = FIELD_STRING, .arg = "MAC",
	  MEMBER(net_config, host_mac), .help = "the host's, for a new interface" },
	{ .name = "mtu", .json = "mtu", .type = FIELD_UINT, .arg = "N", .fallback = "0",
	  .max = 65535, MEMBER(net_config, mtu), .help = "largest packet, 68 to 65535" },
	{ .name = "num_queues", .json = "num_queues", .type = FIELD_UINT, .arg = "N",
	  .fallback = "2", .min = 2, .max = 128, MEMBER(net_config, num_queues),
	  .help = "queues for receiving and sending together, an even number" },
	{ .name = "queue_size", .json = "queue_size", .type = FIELD_UINT, .arg = "N",
	  .fallback = "256", .min = 2, .max = 1024, MEMBER(net_config, queue_size),
	  .help = "their size, a power of two" },
	{ .name = "offload_tso", .json = "offload_tso", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "on", MEMBER(net_config, offload_tso), .help = "let the host cut up TCP" },
	{ .name = "offload_ufo", .json = "offload_ufo", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "on", MEMBER(net_config, offload_ufo), .help = "let the host cut up UDP" },
	{ .name = "offload_csum", .json = "offload_csum", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "on", MEMBER(net_config, offload_csum), .help = "leave checksums to the host" },
	{ .name = "vhost_user", .json = "vhost_user", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", MEMBER(net_config, vhost_user),
	  .help = "a vhost-user back-end at socket= instead of a tap" },
	{ .name = "socket", .json = "vhost_socket", .type = FIELD_SOCKET, .arg = "PATH",
	  MEMBER(net_config, socket), .help = "where the back-end is, with vhost_user=on" },
	{ .name = "vhost_mode", .json = "vhost_mode", .type = FIELD_CHOICE, .arg = "client|server",
	  .fallback = "client", .choices = vhost_modes, MEMBER(net_config, vhost_mode),
	  .help = "who listens at the socket" },
	RATE_FIELDS(net_config),
	BACKEND_FIELDS(net_config),
	IOMMU_FIELD_OF(net_config),
	DEVICE_FIELDS(net_config, "_net0, _net1, ..."),
	{ 0 },
};

const struct field_row rng_fields[] = {
	{ .name = "src", .json = "src", .type = FIELD_PATH, .arg = "PATH", .makes = true,
	  MEMBER(rng_config, src),
	  .help = "where the host's end reads: /dev/urandom" },
	IOMMU_FIELD_OF(rng_config),
	DEVICE_FIELDS(rng_config, "_rng0"),
	{ 0 },
};

const struct field_row vsock_fields[] = {
	{ .name = "cid", .json = "cid", .type = FIELD_UINT, .arg = "N", .min = 3, .max = 0xfffffffe,
	  MEMBER(vsock_config, cid), .help = "the guest's context id, 3 to 4294967294" },
	{ .name = "socket", .json = "socket", .type = FIELD_SOCKET, .arg = "PATH", .makes = true,
	  MEMBER(vsock_config, socket),
	  .help = "listen there for the host's programs; the guest reaches PATH_PORT" },
	{ .name = "vhost_user", .json = "vhost_user", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", MEMBER(vsock_config, vhost_user),
	  .help = "socket is that of a vhost-user back-end, which knows the cid" },
	BACKEND_FIELDS(vsock_config),
	IOMMU_FIELD_OF(vsock_config),
	DEVICE_FIELDS(vsock_config, "_vsock0"),
	{ 0 },
};

static const struct choice console_modes[] = {
	{ "off", "Off", CONSOLE_OFF, .help = "no virtio console" },
	{ "null", "Null", CONSOLE_NULL, .help = "a console whose output is dropped" },
	{ "tty", "Tty", CONSOLE_TTY, .help = "the terminal outboard runs in (the default)" },
	{ "pty", "Pty", CONSOLE_PTY, .help = "a new pseudo-terminal, whose name is printed" },
	{ "file", "File", CONSOLE_FILE },
	{ "socket", "Socket", CONSOLE_SOCKET },
	{ 0 },
};

const struct field_row console_fields[] = {
	{ .name = "mode", .json = "mode", .type = FIELD_CHOICE, .unset = CONSOLE_UNSAID,
	  .choices = console_modes, .word_only = true, MEMBER(virtio_console_config, mode) },
	{ .name = "file", .json = "file", .type = FIELD_PATH, .arg = "PATH",
	  MEMBER(virtio_console_config, file), .implies = "mode", .implied = CONSOLE_FILE,
	  .help = "output to a file" },
	{ .name = "socket", .json = "socket", .type = FIELD_SOCKET, .arg = "PATH",
	  MEMBER(virtio_console_config, socket), .implies = "mode", .implied = CONSOLE_SOCKET,
	  .help = "listen at a UNIX socket, for one client at a time" },
	IOMMU_FIELD_OF(virtio_console_config),
	DEVICE_FIELDS(virtio_console_config, "_console0"),
	{ 0 },
};
