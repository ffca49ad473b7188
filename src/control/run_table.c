/*
 * run_table.c - the options of `outboard run`, in crosvm's words
 *
 * A row fills the struct of the row of option_table that it names in `of`, or one of run_priv.h's.
 * What crosvm has and this version has not is a row too, with the nearest that there is.
 */
#include <stddef.h>

#include "base/util.h"
#include "control/option_rows.h"
#include "control/run_priv.h"

/* a table is read by rows */
/* clang-format off */

#define IN_RUN(member) .offset = offsetof(struct run_config, member)
#define PLACE(own) .type = FIELD_PLACE, .arg = "DDDD:00:DD.0", MEMBER(own, at)

/* --- the machine --- */

static const struct field_row mem_fields[] = {
	{ .name = "size", .type = FIELD_UINT, .arg = "MIB", .fallback = "256", .min = 2,
	  .max = 1 << 24, .unit = MIB, MEMBER(memory_config, size), .help = "so many MiB" },
	{ 0 },
};

#define ALL_ALIKE "processors are all alike"

static const struct field_row cpus_fields[] = {
	{ .name = "num-cores", .type = FIELD_UINT, .arg = "N", .fallback = "1", .min = 1,
	  .max = CONFIG_MAX_CPUS, MEMBER(cpus_config, boot), .help = "1 to 254" },
	{ .name = "clusters", .type = FIELD_STRING, .refused = ALL_ALIKE },
	{ .name = "core-types", .type = FIELD_STRING, .refused = ALL_ALIKE },
	{ .name = "boot-cpu", .type = FIELD_UINT, .fallback = "0", .max = CONFIG_MAX_CPUS,
	  .refused = "processor 0 boots" },
	{ .name = "freq-domains", .type = FIELD_STRING, .refused = ALL_ALIKE },
	{ 0 },
};

static const struct field_row initrd_fields[] = {
	{ .name = "initrd", .type = FIELD_PATH, MEMBER(payload_config, initramfs) },
	{ 0 },
};

static const struct field_row params_fields[] = {
	{ .name = "params", .type = FIELD_STRING },
	{ 0 },
};

static const struct field_row huge[] = {
	{ .name = "thp", .type = FIELD_TOGGLE, .fallback = "on", MEMBER(memory_config, thp) },
	{ 0 },
};

/* --- ports --- */

static const struct choice serial_types[] = {
	{ "stdout", NULL, CONSOLE_TTY, .help = "the terminal, or what standard input and output are" },
	{ "sink", NULL, CONSOLE_NULL, .help = "output is dropped" },
	{ "file", NULL, CONSOLE_FILE, .help = "output is appended to path=" },
	{ "syslog", NULL, CONSOLE_OFF, .refused = "use type=file" },
	{ "unix", NULL, CONSOLE_SOCKET, .refused = "use --console socket=PATH, which listens" },
	{ "unix-stream", NULL, CONSOLE_UNSAID, .refused = "use --console socket=PATH, which listens" },
	{ 0 },
};

static const struct choice serial_hardware[] = {
	{ "serial", NULL, RUN_UART, .help = "the serial port, the guest's ttyS0" },
	{ "virtio-console", NULL, RUN_VIRTIO_CONSOLE, .help = "the virtio console, its hvc0" },
	{ "debugcon", NULL, RUN_DEBUGCON, .refused = "use hardware=serial" },
	{ "legacy-virtio-console", NULL, RUN_DEBUGCON + 1, .refused = "use hardware=virtio-console" },
	{ 0 },
};

static const struct field_row serial_fields[] = {
	{ .name = "type", .type = FIELD_CHOICE, .arg = "stdout|sink|file", .fallback = "sink",
	  .choices = serial_types, MEMBER(run_serial, type), .help = "where it leads to" },
	{ .name = "hardware", .type = FIELD_CHOICE, .arg = "serial|virtio-console",
	  .fallback = "serial", .choices = serial_hardware, MEMBER(run_serial, hardware),
	  .help = "what the guest sees" },
	{ .name = "num", .type = FIELD_UINT, .arg = "N", .fallback = "1", .min = 1, .max = 4,
	  MEMBER(run_serial, num), .help = "there is one of each" },
	{ .name = "path", .type = FIELD_PATH, .arg = "PATH", MEMBER(run_serial, path),
	  .help = "of the file" },
	{ .name = "console", .type = FIELD_TOGGLE, .arg = ON_OFF, .fallback = "off", .flag = true,
	  MEMBER(run_serial, console), .help = "the kernel's console (otherwise the serial port is it)" },
	{ .name = "earlycon", .type = FIELD_TOGGLE, .arg = ON_OFF, .fallback = "off", .flag = true,
	  MEMBER(run_serial, earlycon), .help = "the kernel's early console" },
	{ .name = "stdin", .type = FIELD_TOGGLE, .arg = ON_OFF, .fallback = "off", .flag = true,
	  MEMBER(run_serial, input), .help = "input too; type=stdout always has it" },
	{ .name = "input", .type = FIELD_STRING, .refused = "use type=stdout, which reads standard input" },
	{ .name = "input-unix-stream", .type = FIELD_STRING, .refused = "use --console socket=PATH" },
	{ .name = "out-timestamp", .type = FIELD_TOGGLE, .fallback = "off",
	  .refused = "output goes out as it comes" },
	{ .name = "out_timestamp", .type = FIELD_TOGGLE, .fallback = "off",
	  .refused = "output goes out as it comes" },
	{ .name = "debugcon_port", .type = FIELD_STRING, .refused = "use hardware=serial" },
	{ 0 },
};

/* --- disks and networks --- */

#define BLOCK_FIELDS(ro_default)                                                                   \
	{ .name = "path", .type = FIELD_PATH, .arg = "PATH", .required = true,                     \
	  MEMBER(disk_config, path), .help = "raw image file or block device" },                   \
	{ .name = "ro", .type = FIELD_TOGGLE, .arg = ON_OFF, .fallback = ro_default, .flag = true, \
	  MEMBER(disk_config, readonly), .help = "the guest may not write" },                      \
	{ .name = "root", .type = FIELD_TOGGLE, .arg = ON_OFF, .fallback = "off", .flag = true,    \
	  MEMBER(disk_config, root), .help = "the kernel finds its root there" },                  \
	{ .name = "direct", .type = FIELD_TOGGLE, .arg = ON_OFF, .fallback = "off", .flag = true,  \
	  MEMBER(disk_config, direct), .help = "past the host's page cache" },                     \
	{ .name = "o_direct", .type = FIELD_TOGGLE, .arg = ON_OFF, .fallback = "off", .flag = true,\
	  MEMBER(disk_config, direct), .help = "the same" },                                       \
	{ .name = "id", .type = FIELD_STRING, .arg = "TEXT", MEMBER(disk_config, serial),          \
	  .help = "serial number that the guest sees, 1 to 20 bytes" },                            \
	{ .name = "pci-address", PLACE(disk_config), .help = "its place in the guest" },           \
	{ .name = "sparse", .type = FIELD_TOGGLE, .arg = ON_OFF, .fallback = "on",                 \
	  .refused = "discarded blocks are given back to the host" },                              \
	{ .name = "block-size", .type = FIELD_UINT, .fallback = "512", .max = UINT32_MAX,          \
	  .refused = BLOCK_SIZE },                                                                 \
	{ .name = "block_size", .type = FIELD_UINT, .fallback = "512", .max = UINT32_MAX,          \
	  .refused = BLOCK_SIZE },                                                                 \
	{ .name = "multiple-workers", .type = FIELD_TOGGLE, .fallback = "off",                     \
	  .refused = "use --vhost-user-blk and outboard device block --threads" },                 \
	{ .name = "async-executor", .type = FIELD_STRING,                                          \
	  .refused = "the disk's program takes io_uring where the host has it" },                  \
	{ .name = "packed-queue", .type = FIELD_TOGGLE, .fallback = "off",                         \
	  .refused = "the guest chooses its queues' form" },                                       \
	{ .name = "bootindex", .type = FIELD_UINT, .max = UINT32_MAX,                              \
	  .refused = "a kernel is booted, not a disk" }

#define BLOCK_SIZE "a disk has its image's; or use --vhost-user-blk and outboard device block --block-size"

static const struct field_row block_fields[] = { BLOCK_FIELDS("off"), { 0 } };
static const struct field_row disk_ro_fields[] = { BLOCK_FIELDS("on"), { 0 } };

static const struct field_row root_preset[] = {
	{ .name = "root", .type = FIELD_TOGGLE, .fallback = "on", MEMBER(disk_config, root) },
	{ 0 },
};

static const struct field_row run_net_fields[] = {
	{ .name = "tap-name", .type = FIELD_STRING, .arg = "NAME", MEMBER(net_config, tap),
	  .help = "network interface of the host" },
	{ .name = "tap-fd", .type = FIELD_INT_LIST, .arg = "N", .min = 3, .max = INT32_MAX,
	  MEMBER(net_config, fds), .help = "an open tap" },
	{ .name = "host-ip", .type = FIELD_STRING, .arg = "ADDRESS", MEMBER(net_config, ip),
	  .help = "IPv4 address of the host's end, for a new interface" },
	{ .name = "netmask", .type = FIELD_STRING, .arg = "MASK", MEMBER(net_config, mask),
	  .help = "and its netmask" },
	{ .name = "mac", .type = FIELD_STRING, .arg = "MAC", MEMBER(net_config, mac),
	  .help = "the guest's address (default: a random one)" },
	{ .name = "pci-address", PLACE(net_config), .help = "its place in the guest" },
	{ .name = "vq-pairs", .type = FIELD_UINT, .fallback = "1", .max = UINT16_MAX,
	  .refused = "use --vhost-user-net and outboard device net --queues" },
	{ .name = "vhost-net", .type = FIELD_TOGGLE, .fallback = "off", .flag = true,
	  .refused = "the device is a program of its own" },
	{ .name = "packed-queue", .type = FIELD_TOGGLE, .fallback = "off", .flag = true,
	  .refused = "the guest chooses its queues' form" },
	{ 0 },
};

/* --- devices of others --- */

static const struct choice iommus[] = {
	{ "off", NULL, 0, .help = "the device reaches all of the guest's memory" },
	{ "viommu", NULL, 1, .help = "it is behind the guest's IOMMU" },
	{ "coiommu", NULL, 2, .refused = "use iommu=viommu" },
	{ "pkvm-iommu", NULL, 3, .refused = "use iommu=viommu" },
	{ 0 },
};

static const struct field_row vfio_fields[] = {
	{ .name = "path", .type = FIELD_PATH, .arg = "PATH", .required = true,
	  MEMBER(host_device_config, path), .help = "the device's directory in sysfs, or its address" },
	{ .name = "guest-address", PLACE(host_device_config),
	  .help = "its place in the guest (default: the first free one)" },
	{ .name = "iommu", .type = FIELD_CHOICE, .arg = "off|viommu", .fallback = "off",
	  .choices = iommus, MEMBER(host_device_config, at.iommu), .help = "what it reaches" },
	{ 0 },
};

#define QUEUES "queues have 256 entries; or use --generic-vhost-user socket=PATH,virtio_id=TYPE,queue_sizes=[N,...]"

#define VHOST_USER_FIELDS(own)                                                                     \
	{ .name = "socket", .type = FIELD_SOCKET, .arg = "PATH", .required = true,                 \
	  MEMBER(own, socket), .help = "where the back-end listens" },                             \
	{ .name = "pci-address", PLACE(own), .help = "its place in the guest" },                   \
	{ .name = "max-queue-size", .type = FIELD_UINT, .max = 32768, .refused = QUEUES }

static const struct field_row vhost_user_fields[] = {
	{ .name = "type", .type = FIELD_STRING, .arg = "TYPE", .required = true,
	  MEMBER(generic_vhost_user_config, virtio_id),
	  .help = "block, net, fs, console, rng, vsock, gpu, sound, ..., or a number" },
	VHOST_USER_FIELDS(generic_vhost_user_config),
	{ 0 },
};

static const struct field_row vhost_user_kind_fields[] = {
	VHOST_USER_FIELDS(generic_vhost_user_config), { 0 } };
static const struct field_row vhost_user_net_fields[] = { VHOST_USER_FIELDS(net_config), { 0 } };

static const struct field_row vhost_user_fs_fields[] = {
	VHOST_USER_FIELDS(fs_config),
	{ .name = "tag", .type = FIELD_STRING, .arg = "NAME", MEMBER(fs_config, tag),
	  .help = "what the guest mounts, instead of :TAG" },
	{ 0 },
};

/* The type that an option's name says. */
#define TYPE_PRESET(virtio_name)                                                                   \
	(const struct field_row[]) { { .name = "type", .type = FIELD_STRING,                       \
		.fallback = virtio_name, MEMBER(generic_vhost_user_config, virtio_id) }, { 0 } }

static const struct field_row foreign_preset[] = {
	{ .name = "vhost_user", .type = FIELD_TOGGLE, .fallback = "on", MEMBER(net_config, vhost_user) },
	{ 0 },
};

static const struct field_row timeout_fields[] = {
	{ .name = "vhost-user-connect-timeout-ms", .type = FIELD_UINT, .min = 1, .max = 86400000,
	  MEMBER(run_config, connect_timeout_ms) },
	{ 0 },
};

/* A driver in the guest reaches the function by vfio-pci, which asks for an IOMMU. */
static const struct field_row behind_iommu[] = {
	{ .name = "iommu", .type = FIELD_TOGGLE, .fallback = "on", MEMBER(vvu_proxy_config, at.iommu) },
	{ 0 },
};

/* --- the program --- */

#define SECCOMP_PRESET(mode)                                                                       \
	(const struct field_row[]) { { .name = "seccomp", .type = FIELD_CHOICE, .fallback = mode,  \
		.choices = seccomp_modes, MEMBER(vm_config, seccomp) }, { 0 } }

static const struct choice seccomp_modes[] = {
	{ "off", NULL, SECCOMP_OFF },
	{ "log", NULL, SECCOMP_LOG },
	{ 0 },
};

#define DISK_ROW(option, short_name, its_fields, text, ...)                                        \
	{ .name = option, .letter = short_name, .kind = OPTION_LIST, .group = GROUP_DEVICES,       \
	  .of = "disk", .fields = its_fields, .bare = "path", IN_RUN(vm.disks),                    \
	  .item_size = sizeof(struct disk_config), .arg = "PATH[,FIELD=VALUE]...", .help = text,   \
	  __VA_ARGS__ }
#define VHOST_USER_ROW(option, virtio_name, text)                                                  \
	{ .name = option, .kind = OPTION_LIST, .group = GROUP_DEVICES, .of = "generic-vhost-user", \
	  .fields = vhost_user_kind_fields, .bare = "socket", IN_RUN(vm.generic_vhost_users),      \
	  .item_size = sizeof(struct generic_vhost_user_config),                                   \
	  .arg = "SOCKET[,FIELD=VALUE]...", .like = "vhost-user",                               \
	  .presets = TYPE_PRESET(virtio_name), .help = text }
/* What asks for what is the case anyway. */
#define NOTHING(option, text)                                                                      \
	{ .name = option, .kind = OPTION_FLAG, .group = GROUP_PROGRAM, .help = text }
#define NOT_HERE(option, instead)                                                                  \
	{ .name = option, .kind = OPTION_REFUSED, .refused = instead }

#define INPUT "use --vhost-user input,socket=PATH"
#define GPU   "use --vhost-user gpu,socket=PATH"
#define SOUND "use --vhost-user sound,socket=PATH"
#define VSOCK "use --vsock cid=N,socket=PATH"

const struct option_row run_table[] = {
	{ .name = "initrd", .letter = 'i', .kind = OPTION_VALUE, .group = GROUP_PAYLOAD,
	  .of = "initramfs", .fields = initrd_fields, IN_RUN(vm.payload), .arg = "PATH",
	  .help = "Initial RAM disk for the kernel." },
	{ .name = "params", .letter = 'p', .kind = OPTION_TEXTS, .group = GROUP_PAYLOAD,
	  .fields = params_fields, IN_RUN(params), .arg = "TEXT",
	  .help = "More for the kernel's command line; may be repeated." },

	{ .name = "cpus", .letter = 'c', .kind = OPTION_FIELDS, .group = GROUP_MACHINE, .of = "cpus",
	  .fields = cpus_fields, .bare = "num-cores", IN_RUN(vm.cpus), .arg = "[num-cores=]N",
	  .help = "Virtual processors." },
	{ .name = "mem", .letter = 'm', .kind = OPTION_FIELDS, .group = GROUP_MACHINE, .of = "memory",
	  .fields = mem_fields, .bare = "size", IN_RUN(vm.memory), .arg = "[size=]MIB",
	  .help = "Guest memory." },
	{ .name = "hugepages", .kind = OPTION_FLAG, .group = GROUP_MACHINE, .of = "memory",
	  .presets = huge, IN_RUN(vm.memory),
	  .help = "Advise the host to back guest memory with huge pages; it is advised to anyway." },

	{ .name = "serial", .kind = OPTION_LIST, .group = GROUP_PORTS, .fields = serial_fields,
	  IN_RUN(serials), .item_size = sizeof(struct run_serial), .arg = "FIELD=VALUE[,...]",
	  .help = "A port; may be repeated. Without one, the serial port is at the terminal." },

	DISK_ROW("block", 'b', block_fields, "Disks.", .like = NULL),
	DISK_ROW("root", 'r', disk_ro_fields, "The same with ro and root.", .like = "block",
		.presets = root_preset),
	DISK_ROW("rwroot", 0, block_fields, "The same with root.", .like = "block",
		.presets = root_preset),
	DISK_ROW("disk", 'd', disk_ro_fields, "The same with ro.", .like = "block"),
	DISK_ROW("rwdisk", 0, block_fields, "The same as --block.", .like = "block"),
	{ .name = "net", .kind = OPTION_LIST, .group = GROUP_DEVICES, .of = "net",
	  .fields = run_net_fields, IN_RUN(vm.nets), .item_size = sizeof(struct net_config),
	  .arg = "FIELD=VALUE[,...]", .help = "Networks: taps of the host." },
	{ .name = "vfio", .kind = OPTION_LIST, .group = GROUP_DEVICES, .of = "device",
	  .fields = vfio_fields, .bare = "path", IN_RUN(vm.devices),
	  .item_size = sizeof(struct host_device_config), .arg = "PATH[,FIELD=VALUE]...",
	  .help = "PCI devices of the host, bound to vfio-pci by outboard device-bind." },
	{ .name = "vhost-user", .kind = OPTION_LIST, .group = GROUP_DEVICES,
	  .of = "generic-vhost-user", .fields = vhost_user_fields, .bare = "type",
	  IN_RUN(vm.generic_vhost_users), .item_size = sizeof(struct generic_vhost_user_config),
	  .arg = "TYPE,socket=PATH[,FIELD=VALUE]...",
	  .help = "Virtio devices whose back-ends are other processes, or programs in other guests." },
	VHOST_USER_ROW("vhost-user-blk", "block", "A disk of that kind."),
	{ .name = "vhost-user-net", .kind = OPTION_LIST, .group = GROUP_DEVICES, .of = "net",
	  .fields = vhost_user_net_fields, .bare = "socket", IN_RUN(vm.nets),
	  .item_size = sizeof(struct net_config), .arg = "SOCKET[,FIELD=VALUE]...",
	  .like = "vhost-user", .presets = foreign_preset, .help = "A network of that kind." },
	{ .name = "vhost-user-fs", .kind = OPTION_LIST, .group = GROUP_DEVICES, .of = "fs",
	  .fields = vhost_user_fs_fields, .bare = "socket", IN_RUN(vm.fs),
	  .item_size = sizeof(struct fs_config), .like = "vhost-user", .arg = "SOCKET:TAG[,FIELD=VALUE]...",
	  .help = "A shared directory, served by a virtiofsd; the tag as tag=NAME, too." },
	VHOST_USER_ROW("vhost-user-console", "console", "A console of that kind."),
	VHOST_USER_ROW("vhost-user-rng", "rng", "Random numbers of that kind."),
	VHOST_USER_ROW("vhost-user-vsock", "vsock", "A socket device of that kind."),
	{ .name = "vhost-user-connect-timeout-ms", .kind = OPTION_VALUE, .group = GROUP_DEVICES,
	  .fields = timeout_fields, .arg = "MS",
	  .help = "How long back-ends that are not there yet are waited for (default: 10000)." },
	{ .name = "vvu-proxy", .kind = OPTION_LIST, .group = GROUP_DEVICES, .of = "vvu-proxy",
	  .fields = vvu_proxy_fields, .bare = "socket", .presets = behind_iommu,
	  IN_RUN(vm.vvu_proxies), .item_size = sizeof(struct vvu_proxy_config),
	  .arg = "SOCKET[,FIELD=VALUE]...",
	  .help = "Devices of other machines that a program in this guest serves." },

	{ .name = "disable-sandbox", .kind = OPTION_FLAG, .group = GROUP_PROGRAM, .of = "seccomp",
	  .presets = SECCOMP_PRESET("off"), .help = "No system call filter." },
	{ .name = "seccomp-log-failures", .kind = OPTION_FLAG, .group = GROUP_PROGRAM,
	  .of = "seccomp", .presets = SECCOMP_PRESET("log"),
	  .help = "The kernel's audit log names calls outside the filter." },
	NOTHING("no-balloon", "There is no memory balloon."),
	NOTHING("no-rng", "There is none without --rng or --vhost-user-rng."),
	NOTHING("no-usb", "There is no USB."),

	NOT_HERE("acpi-table", NULL),
	NOT_HERE("android-fstab", NULL),
	NOT_HERE("async-executor", NULL),
	NOT_HERE("balloon-control", NULL),
	NOT_HERE("battery", NULL),
	NOT_HERE("bios", "use --firmware"),
	NOT_HERE("cfg", NULL),
	NOT_HERE("cid", VSOCK),
	NOT_HERE("core-scheduling", NULL),
	NOT_HERE("cpu-affinity", "use taskset on the threads vcpu0, vcpu1, ..."),
	NOT_HERE("cpu-cluster", NULL),
	NOT_HERE("evdev", INPUT),
	NOT_HERE("file-backed-mapping", NULL),
	NOT_HERE("fw-cfg", NULL),
	NOT_HERE("gpu", GPU),
	NOT_HERE("gpu-display", GPU),
	NOT_HERE("host-cpu-topology", NULL),
	NOT_HERE("host-ip", "use --net host-ip=ADDRESS,netmask=MASK,mac=MAC"),
	NOT_HERE("hypervisor", NULL),
	NOT_HERE("input", INPUT),
	NOT_HERE("irqchip", NULL),
	NOT_HERE("keyboard", INPUT),
	NOT_HERE("kvm-device", NULL),
	NOT_HERE("lock-guest-memory", "use --memory size=SIZE,prefault=on instead of --mem"),
	NOT_HERE("mac", "use --net mac=MAC"),
	NOT_HERE("mouse", INPUT),
	NOT_HERE("multi-touch", INPUT),
	NOT_HERE("name", NULL),
	NOT_HERE("net-vq-pairs", "use --vhost-user-net and outboard device net --queues"),
	NOT_HERE("netmask", "use --net host-ip=ADDRESS,netmask=MASK,mac=MAC"),
	NOT_HERE("no-rtc", NULL),
	NOT_HERE("no-smt", "use --cpus N; each is a core"),
	NOT_HERE("oem-strings", NULL),
	NOT_HERE("per-vm-core-scheduling", NULL),
	NOT_HERE("pflash", NULL),
	NOT_HERE("pmem", "use --block"),
	NOT_HERE("pmem-device", "use --block"),
	NOT_HERE("protected-vm", NULL),
	NOT_HERE("pstore", NULL),
	NOT_HERE("pvclock", NULL),
	NOT_HERE("rt-cpus", "use chrt on the threads vcpu0, vcpu1, ..."),
	NOT_HERE("rw-pmem-device", "use --block"),
	NOT_HERE("scsi-block", "use --block"),
	NOT_HERE("seccomp-policy-dir", "use --seccomp"),
	NOT_HERE("shared-dir", "use --vhost-user-fs and a virtiofsd"),
	NOT_HERE("simple-media-device", NULL),
	NOT_HERE("single-touch", INPUT),
	NOT_HERE("smbios", NULL),
	{ .name = "socket", .letter = 's', .kind = OPTION_REFUSED, .refused = "use --api-socket" },
	NOT_HERE("software-tpm", NULL),
	NOT_HERE("sound", SOUND),
	NOT_HERE("split-irqchip", NULL),
	NOT_HERE("suspended", "use --api-socket and outboard remote"),
	NOT_HERE("swap", NULL),
	NOT_HERE("swiotlb", "use -p swiotlb=SLABS"),
	NOT_HERE("switches", INPUT),
	NOT_HERE("syslog-tag", "use --log-file"),
	NOT_HERE("tap-fd", "use --net tap-fd=N"),
	NOT_HERE("tap-name", "use --net tap-name=NAME"),
	NOT_HERE("trackpad", INPUT),
	NOT_HERE("vfio-platform", "use --vfio for PCI devices"),
	NOT_HERE("vhost-net", NULL),
	NOT_HERE("vhost-user-gpu", GPU),
	NOT_HERE("vhost-user-mac80211-hwsim", "use --vhost-user mac80211-hwsim,socket=PATH"),
	NOT_HERE("vhost-user-snd", SOUND),
	NOT_HERE("vhost-user-video-decoder", "use --vhost-user video-decoder,socket=PATH"),
	NOT_HERE("vhost-user-wl", NULL),
	NOT_HERE("vhost-vsock-device", VSOCK),
	NOT_HERE("vhost-vsock-fd", VSOCK),
	NOT_HERE("virtio-snd", SOUND),
	NOT_HERE("wayland-sock", NULL),
	NOT_HERE("x-display", NULL),
	{ 0 },
};
