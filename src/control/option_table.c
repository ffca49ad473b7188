/*
 * option_table.c - the rows (see option_table.h)
 *
 * Defaults and names are those users know from Cloud Hypervisor. Where a default
 * differs, or a value is refused, the row's help or reason says so.
 */
#include "control/option_table.h"

#include <string.h>

#include "base/util.h"
#include "control/config.h"
#include "control/option_rows.h"

/* a table is read by rows */
/* clang-format off */

#define IN_CONFIG(member) .offset = offsetof(struct vm_config, member)

static const struct field_row kernel_fields[] = {
	{ .name = "kernel", .json = "kernel", .type = FIELD_PATH, MEMBER(payload_config, kernel) },
	{ 0 },
};

static const struct field_row firmware_fields[] = {
	{ .name = "firmware", .json = "firmware", .type = FIELD_PATH,
	  MEMBER(payload_config, firmware) },
	{ 0 },
};

static const struct field_row initramfs_fields[] = {
	{ .name = "initramfs", .json = "initramfs", .type = FIELD_PATH,
	  MEMBER(payload_config, initramfs) },
	{ 0 },
};

static const struct field_row cmdline_fields[] = {
	{ .name = "cmdline", .json = "cmdline", .type = FIELD_STRING,
	  MEMBER(payload_config, cmdline) },
	{ 0 },
};

static const struct choice core_scheduling[] = {
	{ "off", "Off", 0 },
	{ "vm", "Vm", 1 },
	{ "vcpu", "Vcpu", 2 },
	{ 0 },
};

static const struct field_row cpus_fields[] = {
	{ .name = "boot", .json = "boot_vcpus", .type = FIELD_UINT, .arg = "N", .fallback = "1",
	  .min = 1, .max = CONFIG_MAX_CPUS, MEMBER(cpus_config, boot),
	  .help = "virtual processors at start, 1 to 254" },
	{ .name = "max", .json = "max_vcpus", .type = FIELD_UINT, .arg = "N", .min = 1,
	  .max = CONFIG_MAX_CPUS, MEMBER(cpus_config, max),
	  .help = "processors the guest's tables have room for, boot to 254 (default: boot)" },
	{ .name = "topology", .json = "topology", .type = FIELD_TOPOLOGY, .arg = "T:C:D:P",
	  MEMBER(cpus_config, topology),
	  .help = "threads per core, cores per die, dies per package, packages; their product is "
		  "max" },
	{ .name = "max_phys_bits", .json = "max_phys_bits", .type = FIELD_UINT, .arg = "N",
	  .fallback = "46", .min = 36, .max = 52, MEMBER(cpus_config, max_phys_bits),
	  .help = "upper limit of the guest's physical address width, 36 to 52" },
	{ .name = "affinity", .json = "affinity", .type = FIELD_AFFINITY, .arg = "[CPU@[LIST],...]",
	  .max = CONFIG_MAX_HOST_CPU, MEMBER(cpus_config, affinity),
	  .help = "the host processors each virtual one may run on: [0@[0,1],1@[2-3]]" },
	{ .name = "nested", .json = "nested", .type = FIELD_TOGGLE, .arg = ON_OFF, .fallback = "on",
	  .refused = "the guest sees the host's virtualisation extensions whenever KVM offers them",
	  .help = "nested virtualisation" },
	{ .name = "kvm_hyperv", .json = "kvm_hyperv", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", .refused = "there are no Hyper-V enlightenments",
	  .help = "Hyper-V enlightenments" },
	{ .name = "core_scheduling", .json = "core_scheduling", .type = FIELD_CHOICE,
	  .arg = "off|vm|vcpu", .fallback = "off", .choices = core_scheduling,
	  .refused = "processor threads are left to the host's scheduler",
	  .help = "share cores with nobody else's threads" },
	{ .name = "features", .json = "features", .type = FIELD_STRING, .arg = "LIST",
	  .refused = "processor features follow the host", .help = "processor features" },
	{ .name = "profile", .type = FIELD_STRING, .arg = "NAME",
	  .refused = "processor features follow the host", .help = "processor model" },
	{ 0 },
};

static const struct choice hotplug_methods[] = {
	{ "acpi", "Acpi", 0 },
	{ "virtio-mem", "VirtioMem", 1 },
	{ 0 },
};

#define NO_HOTPLUG "memory cannot be added to a running guest"

static const struct field_row memory_fields[] = {
	{ .name = "size", .json = "size", .type = FIELD_SIZE, .arg = "SIZE", .fallback = "512M",
	  .max = UINT64_MAX, MEMBER(memory_config, size),
	  .help = "guest memory; a multiple of 4K, at least 2M" },
	{ .name = "shared", .json = "shared", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", MEMBER(memory_config, shared),
	  .help = "accepted, makes no difference: guest memory is always shareable with devices" },
	{ .name = "hugepages", .json = "hugepages", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", MEMBER(memory_config, hugepages),
	  .help = "take it from the host's reserved huge pages" },
	{ .name = "hugepage_size", .json = "hugepage_size", .type = FIELD_SIZE, .arg = "SIZE",
	  .max = UINT64_MAX, MEMBER(memory_config, hugepage_size),
	  .help = "2M or 1G, with hugepages=on (default: the host's default size)" },
	{ .name = "prefault", .json = "prefault", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", MEMBER(memory_config, prefault),
	  .help = "take all of it from the host at start" },
	{ .name = "thp", .json = "thp", .type = FIELD_TOGGLE, .arg = ON_OFF, .fallback = "on",
	  MEMBER(memory_config, thp), .help = "ask for transparent huge pages" },
	{ .name = "mergeable", .json = "mergeable", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", .refused = "the host's kernel does not merge shared memory",
	  .help = "let the host merge equal pages" },
	{ .name = "reserve", .json = "reserve", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", .refused = "use prefault=on", .help = "reserve swap space" },
	{ .name = "hotplug_size", .json = "hotplug_size", .type = FIELD_SIZE, .arg = "SIZE",
	  .fallback = "0", .max = UINT64_MAX, .refused = NO_HOTPLUG,
	  .help = "memory that may be added later" },
	{ .name = "hotplugged_size", .json = "hotplugged_size", .type = FIELD_SIZE, .arg = "SIZE",
	  .fallback = "0", .max = UINT64_MAX, .refused = NO_HOTPLUG,
	  .help = "memory that has been added" },
	{ .name = "hotplug_method", .json = "hotplug_method", .type = FIELD_CHOICE,
	  .arg = "acpi|virtio-mem", .fallback = "acpi", .choices = hotplug_methods,
	  .refused = NO_HOTPLUG, .help = "how it is added" },
	{ 0 },
};

#define NO_SMBIOS "what the SMBIOS tables say is fixed"

static const struct field_row platform_fields[] = {
	{ .name = "num_pci_segments", .json = "num_pci_segments", .type = FIELD_UINT, .arg = "N",
	  .fallback = "1", .min = 1, .max = CONFIG_MAX_SEGMENTS,
	  MEMBER(platform_config, num_pci_segments),
	  .help = "PCI segments of 31 slots each, 1 to 96" },
	{ .name = "iommu_segments", .json = "iommu_segments", .type = FIELD_INT_LIST,
	  .arg = "[N,...]", .max = CONFIG_MAX_SEGMENTS - 1, MEMBER(platform_config, iommu_segments),
	  .help = "PCI segments of which all devices are behind the guest's IOMMU" },
	{ .name = "iommu_address_width", .json = "iommu_address_width_bits", .type = FIELD_UINT,
	  .arg = "N", .fallback = "64", .min = 32, .max = 64,
	  MEMBER(platform_config, iommu_address_width),
	  .help = "bits of the addresses that it translates, 32 to 64" },
	{ .name = "intremap", .json = "intremap", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", MEMBER(platform_config, intremap),
	  .help = "interrupt remapping: the guest may give devices away (VFIO) safely" },
	{ .name = "iommufd", .json = "iommufd", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", MEMBER(platform_config, iommufd),
	  .help = "host devices by /dev/iommu, where the host's kernel has it" },
	/* not in a body: whoever sends one does not know our descriptors */
	{ .name = "iommufd_fd", .type = FIELD_UINT, .arg = "N", .unset = CONFIG_NO_FD, .min = 3,
	  .max = INT32_MAX, MEMBER(platform_config, iommufd_fd),
	  .help = "/dev/iommu, opened by somebody else" },
	{ .name = "vfio_p2p_dma", .json = "vfio_p2p_dma", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "on", MEMBER(platform_config, vfio_p2p_dma),
	  .help = "host devices may reach each other's BARs, where the IOMMU lets them" },
	{ .name = "vfio_unsafe_noiommu", .json = "vfio_unsafe_noiommu", .type = FIELD_TOGGLE,
	  .arg = ON_OFF, .fallback = "off", MEMBER(platform_config, vfio_unsafe_noiommu),
	  .help = "allow host devices that no IOMMU confines: they reach all of the host's memory" },
	{ .name = "serial_number", .json = "serial_number", .type = FIELD_STRING, .arg = "TEXT",
	  .refused = NO_SMBIOS, .help = "SMBIOS serial number" },
	{ .name = "uuid", .json = "uuid", .type = FIELD_STRING, .arg = "UUID", .refused = NO_SMBIOS,
	  .help = "SMBIOS system UUID" },
	{ .name = "oem_strings", .json = "oem_strings", .type = FIELD_STRING, .arg = "LIST",
	  .refused = NO_SMBIOS, .help = "SMBIOS OEM strings" },
	{ .name = "system_manufacturer", .json = "system_manufacturer", .type = FIELD_STRING,
	  .arg = "TEXT", .refused = NO_SMBIOS, .help = "SMBIOS manufacturer" },
	{ .name = "system_serial_number", .json = "system_serial_number", .type = FIELD_STRING,
	  .arg = "TEXT", .refused = NO_SMBIOS, .help = "SMBIOS serial number" },
	{ .name = "system_uuid", .json = "system_uuid", .type = FIELD_STRING, .arg = "UUID",
	  .refused = NO_SMBIOS, .help = "SMBIOS system UUID" },
	{ .name = "system_product_name", .json = "system_product_name", .type = FIELD_STRING,
	  .arg = "TEXT", .refused = NO_SMBIOS, .help = "SMBIOS product name" },
	{ .name = "system_version", .json = "system_version", .type = FIELD_STRING,
	  .arg = "TEXT", .refused = NO_SMBIOS, .help = "SMBIOS version" },
	{ .name = "system_family", .json = "system_family", .type = FIELD_STRING,
	  .arg = "TEXT", .refused = NO_SMBIOS, .help = "SMBIOS family" },
	{ .name = "system_sku_number", .json = "system_sku_number", .type = FIELD_STRING,
	  .arg = "TEXT", .refused = NO_SMBIOS, .help = "SMBIOS SKU number" },
	{ .name = "chassis_asset_tag", .json = "chassis_asset_tag", .type = FIELD_STRING,
	  .arg = "TEXT", .refused = NO_SMBIOS, .help = "SMBIOS asset tag" },
	{ .name = "tdx", .json = "tdx", .type = FIELD_TOGGLE, .arg = ON_OFF, .fallback = "off",
	  .refused = "confidential guests cannot share memory with devices", .help = "Intel TDX" },
	{ .name = "sev_snp", .json = "sev_snp", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", .refused = "confidential guests cannot share memory with devices",
	  .help = "AMD SEV-SNP" },
	{ 0 },
};

static const struct choice serial_modes[] = {
	{ "off", "Off", CONSOLE_OFF, .help = "no serial port" },
	{ "null", "Null", CONSOLE_NULL, .help = "a port whose output is dropped" },
	{ "tty", "Tty", CONSOLE_TTY, .help = "the terminal outboard runs in" },
	{ "pty", "Pty", CONSOLE_PTY, .help = "a new pseudo-terminal, whose name is printed" },
	{ "file", "File", CONSOLE_FILE },
	{ "socket", "Socket", CONSOLE_SOCKET },
	{ 0 },
};

static const struct field_row serial_fields[] = {
	{ .name = "mode", .json = "mode", .type = FIELD_CHOICE, .fallback = "null",
	  .choices = serial_modes, .word_only = true, MEMBER(console_config, mode) },
	{ .name = "file", .json = "file", .type = FIELD_PATH, .arg = "PATH",
	  MEMBER(console_config, file), .implies = "mode", .implied = CONSOLE_FILE,
	  .help = "output to a file" },
	{ .name = "socket", .json = "socket", .type = FIELD_SOCKET, .arg = "PATH",
	  MEMBER(console_config, socket), .implies = "mode", .implied = CONSOLE_SOCKET,
	  .help = "listen at a UNIX socket, for one client at a time" },
	{ 0 },
};

static const struct field_row api_socket_fields[] = {
	{ .name = "path", .type = FIELD_SOCKET, .arg = "PATH", MEMBER(endpoint_config, path),
	  .help = "listen at a UNIX socket" },
	{ .name = "fd", .type = FIELD_UINT, .arg = "N", .unset = CONFIG_NO_FD, .max = INT32_MAX,
	  MEMBER(endpoint_config, fd), .help = "an inherited socket that listens already" },
	{ 0 },
};

static const struct field_row event_monitor_fields[] = {
	{ .name = "path", .type = FIELD_PATH, .arg = "PATH", MEMBER(endpoint_config, path),
	  .help = "a FIFO, a file or a terminal" },
	{ .name = "fd", .type = FIELD_UINT, .arg = "N", .unset = CONFIG_NO_FD, .max = INT32_MAX,
	  MEMBER(endpoint_config, fd), .help = "an inherited descriptor" },
	{ 0 },
};

static const struct field_row log_file_fields[] = {
	{ .name = "log-file", .type = FIELD_PATH, MEMBER(vm_config, log_file) },
	{ 0 },
};

static const struct choice seccomp_modes[] = {
	{ "false", NULL, SECCOMP_OFF, .help = "no system call filter" },
	{ "true", NULL, SECCOMP_KILL, .help = "a call outside the list ends the program" },
	{ "log", NULL, SECCOMP_LOG, .help = "the kernel's audit log names such a call" },
	{ "errno", NULL, SECCOMP_ERRNO, .help = "such a call fails with EPERM" },
	{ 0 },
};

static const struct field_row seccomp_fields[] = {
	{ .name = "seccomp", .type = FIELD_CHOICE, .fallback = "true", .choices = seccomp_modes,
	  MEMBER(vm_config, seccomp) },
	{ 0 },
};

/*
 * Fields of what is refused as a whole: clients send these with their defaults, which asks for
 * nothing (or, like a random number device, for something that a guest can do without).
 */
#define NO_BALLOON	 "there is no memory balloon"
#define NO_DEBUG_CONSOLE "use --serial"

static const struct field_row balloon_fields[] = {
	{ .name = "size", .json = "size", .type = FIELD_SIZE, .arg = "SIZE", .fallback = "0",
	  .max = UINT64_MAX, .refused = NO_BALLOON, .help = "memory taken from the guest" },
	{ .name = "deflate_on_oom", .json = "deflate_on_oom", .type = FIELD_TOGGLE, .arg = ON_OFF,
	  .fallback = "off", .refused = NO_BALLOON, .help = "give it back when the guest lacks it" },
	{ .name = "free_page_reporting", .json = "free_page_reporting", .type = FIELD_TOGGLE,
	  .arg = ON_OFF, .fallback = "off", .refused = NO_BALLOON, .help = "hear of free pages" },
	{ .name = "iommu", .json = "iommu", .type = FIELD_TOGGLE, .arg = ON_OFF, .fallback = "off",
	  .refused = NO_BALLOON, .help = "behind the virtual IOMMU" },
	{ .name = "id", .json = "id", .type = FIELD_STRING, .arg = "NAME", .refused = NO_BALLOON,
	  .help = "its name" },
	{ .name = "pci_segment", .json = "pci_segment", .type = FIELD_UINT, .arg = "N",
	  .fallback = "0", .max = UINT16_MAX, .refused = NO_BALLOON, .help = "its PCI segment" },
	{ .name = "pci_device_id", .json = "pci_device_id", .type = FIELD_STRING, .arg = "N",
	  .refused = NO_BALLOON, .help = "its slot" },
	{ 0 },
};

static const struct choice debug_console_modes[] = {
	{ "off", "Off", 0 },
	{ "tty", "Tty", 1 },
	{ "pty", "Pty", 2 },
	{ "file", "File", 3 },
	{ 0 },
};

static const struct field_row debug_console_fields[] = {
	{ .name = "mode", .json = "mode", .type = FIELD_CHOICE, .arg = "MODE", .fallback = "off",
	  .choices = debug_console_modes, .refused = NO_DEBUG_CONSOLE, .help = "where its output goes" },
	{ .name = "file", .json = "file", .type = FIELD_PATH, .arg = "PATH", .refused = NO_DEBUG_CONSOLE,
	  .help = "output to a file" },
	{ .name = "iobase", .json = "iobase", .type = FIELD_UINT, .arg = "PORT",
	  .fallback = "0xe9", .max = UINT16_MAX, .refused = NO_DEBUG_CONSOLE, .help = "its port" },
	{ 0 },
};

#define REFUSED(option_name, instead)                                                              \
	{ .name = option_name, .kind = OPTION_REFUSED, .refused = instead }
/* The same with its place in a body. */
#define REFUSED_KEY(option_name, key, instead, ...)                                                \
	{                                                                                          \
		.name = option_name, .kind = OPTION_REFUSED, .json = key, .refused = instead,      \
		__VA_ARGS__                                                                        \
	}

const struct option_row option_table[] = {
	{ .name = "kernel", .kind = OPTION_VALUE, .group = GROUP_PAYLOAD, .json = "payload",
	  .fields = kernel_fields, IN_CONFIG(payload), .arg = "PATH",
	  .help = "Linux kernel to boot: a bzImage, or an ELF vmlinux with a PVH entry." },
	{ .name = "initramfs", .kind = OPTION_VALUE, .group = GROUP_PAYLOAD, .json = "payload",
	  .fields = initramfs_fields, IN_CONFIG(payload), .arg = "PATH",
	  .help = "Initial RAM disk for the kernel." },
	{ .name = "cmdline", .kind = OPTION_VALUE, .group = GROUP_PAYLOAD, .json = "payload",
	  .fields = cmdline_fields, IN_CONFIG(payload), .arg = "TEXT",
	  .help = "Command line for the kernel, taken as it is." },
	{ .name = "firmware", .kind = OPTION_VALUE, .group = GROUP_PAYLOAD, .json = "payload",
	  .fields = firmware_fields, IN_CONFIG(payload), .arg = "PATH",
	  .help = "PVH firmware to start instead of a kernel." },

	{ .name = "cpus", .kind = OPTION_FIELDS, .group = GROUP_MACHINE, .json = "cpus",
	  .fields = cpus_fields, .bare = "boot", IN_CONFIG(cpus),
	  .arg = "[boot=]N[,FIELD=VALUE]...",
	  .help = "Virtual processors." },
	{ .name = "memory", .kind = OPTION_FIELDS, .group = GROUP_MACHINE, .json = "memory",
	  .fields = memory_fields, .bare = "size", IN_CONFIG(memory),
	  .arg = "[size=]SIZE[,FIELD=VALUE]...",
	  .help = "Guest memory. SIZE is in bytes or has a suffix K, M or G." },
	{ .name = "platform", .kind = OPTION_FIELDS, .group = GROUP_MACHINE, .json = "platform",
	  .fields = platform_fields, IN_CONFIG(platform), .arg = "FIELD=VALUE[,...]",
	  .help = "The machine as a whole." },

	{ .name = "serial", .kind = OPTION_FIELDS, .group = GROUP_PORTS, .json = "serial",
	  .fields = serial_fields, .bare = "mode", IN_CONFIG(serial), .arg = "MODE",
	  .help = "Serial port, the guest's ttyS0 (default: null)." },
	{ .name = "console", .kind = OPTION_FIELDS, .group = GROUP_PORTS, .json = "console",
	  .fields = console_fields, .bare = "mode", IN_CONFIG(console), .arg = "MODE",
	  .help = "Virtio console, the guest's hvc0 (default: tty, or off where --serial has it)." },

	{ .name = "disk", .kind = OPTION_LIST, .group = GROUP_DEVICES, .json = "disks",
	  .fields = disk_fields, IN_CONFIG(disks), .item_size = sizeof(struct disk_config),
	  .arg = "path=PATH[,FIELD=VALUE]... [...]",
	  .help = "Disks: raw images and block devices, or vhost-user back-ends." },
	{ .name = "net", .kind = OPTION_LIST, .group = GROUP_DEVICES, .json = "net",
	  .fields = net_fields, IN_CONFIG(nets), .item_size = sizeof(struct net_config),
	  .arg = "tap=NAME[,FIELD=VALUE]... [...]",
	  .help = "Networks: taps of the host, or vhost-user back-ends." },
	{ .name = "rng", .kind = OPTION_FIELDS, .group = GROUP_DEVICES, .json = "rng",
	  .fields = rng_fields, IN_CONFIG(rng), .arg = "src=PATH[,FIELD=VALUE]...",
	  .help = "Random numbers from the host." },
	{ .name = "vsock", .kind = OPTION_FIELDS, .group = GROUP_DEVICES, .json = "vsock",
	  .fields = vsock_fields, IN_CONFIG(vsock), .arg = "cid=N,socket=PATH[,FIELD=VALUE]...",
	  .help = "Streams between the guest's AF_VSOCK and UNIX sockets of the host." },
	{ .name = "device", .kind = OPTION_LIST, .group = GROUP_DEVICES, .json = "devices",
	  .fields = host_device_fields, .bare = "path", IN_CONFIG(devices),
	  .item_size = sizeof(struct host_device_config),
	  .arg = "[path=]PATH|BDF[,FIELD=VALUE]... [...]",
	  .help = "PCI devices of the host, bound to vfio-pci by outboard device-bind. Takes "
		  "several values and may be repeated." },
	{ .name = "user-device", .kind = OPTION_LIST, .group = GROUP_DEVICES,
	  .json = "user_devices", .fields = user_device_fields, IN_CONFIG(user_devices),
	  .item_size = sizeof(struct user_device_config),
	  .arg = "socket=PATH[,FIELD=VALUE]... [...]",
	  .help = "PCI devices that live in other processes and speak vfio-user. Takes several "
		  "values and may be repeated." },
	{ .name = "generic-vhost-user", .kind = OPTION_LIST, .group = GROUP_DEVICES,
	  .json = "generic_vhost_user", .fields = generic_vhost_user_fields,
	  IN_CONFIG(generic_vhost_users), .item_size = sizeof(struct generic_vhost_user_config),
	  .arg = "socket=PATH,virtio_id=TYPE[,FIELD=VALUE]... [...]",
	  .help = "Virtio devices of any type whose back-ends are other processes and speak vhost-user." },
	{ .name = "fs", .kind = OPTION_LIST, .group = GROUP_DEVICES, .json = "fs",
	  .fields = fs_fields, IN_CONFIG(fs), .item_size = sizeof(struct fs_config),
	  .arg = "tag=NAME,socket=PATH[,FIELD=VALUE]... [...]",
	  .help = "Shared directories, each served by a virtiofsd." },
	{ .name = "vvu-proxy", .kind = OPTION_LIST, .group = GROUP_DEVICES, .json = "vvu_proxies",
	  .fields = vvu_proxy_fields, .bare = "socket", IN_CONFIG(vvu_proxies),
	  .item_size = sizeof(struct vvu_proxy_config),
	  .arg = "[socket=]PATH[,FIELD=VALUE]... [...]",
	  .help = "Devices of other machines that a program in this guest serves." },

	{ .name = "api-socket", .kind = OPTION_FIELDS, .group = GROUP_CONTROL,
	  .fields = api_socket_fields, .bare = "path", IN_CONFIG(api_socket),
	  .arg = "[path=]PATH|fd=N",
	  .help = "Take commands over HTTP, as outboard-remote sends them. Without anything to boot on "
		  "the command line, wait for vm.create." },
	{ .name = "event-monitor", .kind = OPTION_FIELDS, .group = GROUP_CONTROL,
	  .fields = event_monitor_fields, IN_CONFIG(event_monitor), .arg = "path=PATH|fd=N",
	  .help = "Write what happens to the machine, as JSON objects." },
	{ .name = "no-shutdown", .kind = OPTION_COUNT, .group = GROUP_CONTROL,
	  IN_CONFIG(no_shutdown), .help = "Go on when the guest has shut down; with --api-socket." },

	{ .name = "log-file", .kind = OPTION_VALUE, .group = GROUP_PROGRAM,
	  .fields = log_file_fields,
	  .arg = "PATH", .help = "Append messages to a file instead of standard error." },
	{ .name = "verbose", .letter = 'v', .kind = OPTION_COUNT, .group = GROUP_PROGRAM,
	  IN_CONFIG(verbosity), .help = "Log information too; twice: debugging details as well." },
	{ .name = "seccomp", .kind = OPTION_VALUE, .group = GROUP_PROGRAM, .fields = seccomp_fields,
	  .arg = "MODE",
	  .help = "System call filter, in force before the guest runs (default: true)." },
	{ .name = "help", .letter = 'h', .kind = OPTION_HELP, .group = GROUP_PROGRAM,
	  .help = "Print this text." },
	{ .name = "version", .letter = 'V', .kind = OPTION_VERSION, .group = GROUP_PROGRAM,
	  .help = "Print the version." },
	{ .name = "print-completion", .kind = OPTION_SCRIPT, .group = GROUP_PROGRAM, .hidden = true,
	  .arg = "bash|zsh", .help = "Print the completion script for a shell." },

	REFUSED_KEY("balloon", "balloon", NULL, .fields = balloon_fields),
	REFUSED("dbus-object-path", NULL),
	REFUSED("dbus-service-name", NULL),
	REFUSED("dbus-system-bus", NULL),
	REFUSED_KEY("debug-console", "debug_console", "use --serial", .fields = debug_console_fields),
	REFUSED("fw-cfg-config", NULL),
	REFUSED("gdb", NULL),
	REFUSED_KEY("host-data", "payload.host_data", NULL),
	REFUSED_KEY("igvm", "payload.igvm", NULL),
	REFUSED_KEY("iommu", "iommu", NULL, .hidden = true), /* a key only */
	REFUSED_KEY("ivshmem", "ivshmem", NULL),
	REFUSED_KEY("landlock", "landlock_enable", NULL),
	REFUSED_KEY("landlock-rules", "landlock_rules", NULL),
	REFUSED("log-format", NULL),
	REFUSED_KEY("memory-zone", "memory.zones", "use --memory"),
	REFUSED_KEY("numa", "numa", NULL),
	REFUSED_KEY("pci-segment", "pci_segments", "use --platform num_pci_segments="),
	REFUSED_KEY("pmem", "pmem", NULL),
	REFUSED("pvmemcontrol", NULL),
	REFUSED_KEY("pvpanic", "pvpanic", NULL),
	REFUSED_KEY("rate-limit-group", "rate_limit_groups", NULL),
	REFUSED("restore", NULL),
	REFUSED_KEY("rtc", "rtc", NULL),
	REFUSED_KEY("tpm", "tpm", NULL),
	REFUSED_KEY("vdpa", "vdpa", NULL),
	REFUSED_KEY("watchdog", "watchdog", NULL),
	{ 0 },
};

const char *const option_group_titles[NR_GROUPS] = {
	[GROUP_PAYLOAD] = "What to boot",
	[GROUP_MACHINE] = "The machine",
	[GROUP_PORTS] = "Serial port and console",
	[GROUP_DEVICES] = "Devices outside the machine",
	[GROUP_CONTROL] = "Control from outside",
	[GROUP_PROGRAM] = "The program",
};

const struct option_row *option_find_in(const struct option_row *table, const char *name)
{
	for_each_row (o, table)
		if (!strcmp(o->name, name))
			return o;
	return NULL;
}

const struct option_row *option_find(const char *name)
{
	return option_find_in(option_table, name);
}

const struct field_row *field_find(const struct option_row *option, const char *name)
{
	for_each_field (f, option)
		if (!strcmp(f->name, name))
			return f;
	return NULL;
}
