/*
 * config.h - what a machine is to be made of
 *
 * Plain data between those who ask (command line, later the REST API) and the one
 * who builds (main). The option table (option_table.c) says for each member which option
 * and field it comes from, so a new member comes with its row there.
 *
 * A struct vm_config owns every string and list in it. Strings are NULL when
 * they were not given. config_init() sets each member to its default,
 * options_parse() fills it, options_check() completes it (cpus.max, device
 * ids), after which it holds together and is only read.
 */
#ifndef CONTROL_CONFIG_H
#define CONTROL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_MAX_CPUS	    254	 /* xAPIC ids 0 to 253; 254 is the I/O APIC, 255 all */
#define CONFIG_MAX_SEGMENTS 96	 /* what the ECAM space below 4 GiB has room for */
#define CONFIG_MAX_SLOT	    31	 /* slot 0 of each segment is its host bridge */
#define CONFIG_MAX_HOST_CPU 8191 /* the largest Linux is built for */
#define CONFIG_SLOT_ANY	    0xff /* pci_device_id: the first free slot */
#define CONFIG_NO_FD	    UINT32_MAX
#define CONFIG_MAX_CLIQUE   15
#define CONFIG_NO_CLIQUE    0xff

/* What FIELD_INT_LIST and FIELD_STRING_LIST make. */
struct int_list {
	uint32_t *items;
	size_t nr;
};

struct string_list {
	char **items;
	size_t nr;
};

/* First in every device's struct: what it is called and where it goes. */
struct device_config {
	char *id; /* unique among all devices; never NULL after options_check() */
	uint16_t pci_segment;
	uint8_t pci_device_id; /* slot 1 to 31 or CONFIG_SLOT_ANY */
	/* behind the guest's IOMMU; after options_check() also for its segment's sake */
	bool iommu;
};

/* All 0: the guest sees one package with max cores. */
struct cpu_topology {
	uint16_t threads_per_core;
	uint16_t cores_per_die;
	uint16_t dies_per_package;
	uint16_t packages;
};

/* vcpu may run on these host CPUs only. */
struct vcpu_affinity {
	uint32_t vcpu;
	uint32_t *host_cpus;
	size_t nr_host_cpus;
};

struct affinity_list {
	struct vcpu_affinity *items;
	size_t nr;
};

struct cpus_config {
	uint32_t boot; /* 1 to CONFIG_MAX_CPUS */
	uint32_t max;  /* boot to CONFIG_MAX_CPUS */
	struct cpu_topology topology;
	uint8_t max_phys_bits; /* upper limit of the guest's physical address width */
	struct affinity_list affinity;
};

struct memory_config {
	uint64_t size;		/* bytes, a multiple of 4 KiB or of the huge page size */
	bool shared;		/* as the user said it; guest RAM is shared memory in any case */
	bool hugepages;		/* from hugetlbfs */
	uint64_t hugepage_size; /* bytes; 0: the host's default */
	bool prefault;		/* populate at start */
	bool thp;		/* ask for transparent huge pages where hugepages is off */
};

struct payload_config {
	char *kernel; /* exactly one of kernel and firmware is given */
	char *firmware;
	char *initramfs;
	char *cmdline;
};

enum console_mode {
	CONSOLE_OFF,	/* no port at all */
	CONSOLE_NULL,	/* output dropped, no input */
	CONSOLE_TTY,	/* the terminal outboard runs in */
	CONSOLE_PTY,	/* a new pseudo-terminal */
	CONSOLE_FILE,	/* output to .file, no input */
	CONSOLE_SOCKET, /* listening UNIX socket at .socket */
	/* --console only, until options_check(): TTY, or OFF where --serial has it */
	CONSOLE_UNSAID,
};

struct console_config {
	uint32_t mode; /* enum console_mode */
	char *file;
	char *socket;
};

struct virtio_console_config {
	struct device_config at;
	uint32_t mode; /* enum console_mode */
	char *file;
	char *socket;
};

struct platform_config {
	uint16_t num_pci_segments; /* 1 to CONFIG_MAX_SEGMENTS */
	/* those of which all devices are behind the guest's IOMMU */
	struct int_list iommu_segments;
	uint8_t iommu_address_width; /* 32 to 64 */
	bool intremap; /* the guest has interrupt remapping */
	bool iommufd; /* host devices by /dev/iommu; set where one of its descriptors is given */
	uint32_t iommufd_fd; /* an open /dev/iommu, or CONFIG_NO_FD */
	bool vfio_p2p_dma; /* host devices may reach each other's BARs */
	bool vfio_unsafe_noiommu; /* host devices without an IOMMU: nothing bounds their DMA */
};

/* A PCI device of the host, by VFIO. */
struct host_device_config {
	struct device_config at;
	char *path; /* directory in sysfs, or address; exactly one of path and fd */
	uint32_t fd; /* its open VFIO character device, or CONFIG_NO_FD */
	uint8_t x_nv_gpudirect_clique; /* up to CONFIG_MAX_CLIQUE, or CONFIG_NO_CLIQUE */
	struct int_list x_exclude_mmap_bars; /* each 0 to 5 */
	char *vf_token; /* a UUID, or NULL */
};

struct host_device_list {
	struct host_device_config *items;
	size_t nr;
};

struct user_device_config {
	struct device_config at;
	char *socket;
};

/* What every attachment to a vhost-user back-end of somebody else's can say. */
struct backend_config {
	uint32_t connect_timeout_s; /* how long a back-end that is not there yet is waited for */
	/* "on", "off", or for how many seconds after a loss it is tried */
	char *reconnect;
	bool force;		    /* queue counts that drivers do not bear */
};

struct generic_vhost_user_config {
	struct device_config at;
	char *socket;
	char *type;	/* a virtio id or its name */
	char *virtio_id; /* the same, by its older name */
	struct int_list queue_sizes; /* none: as the back-end says */
	char *config;	/* hexadecimal device configuration, for a back-end that has none */
	struct backend_config backend;
};

struct generic_vhost_user_list {
	struct generic_vhost_user_config *items;
	size_t nr;
};

struct fs_config {
	struct device_config at;
	char *tag;
	char *socket;
	uint16_t num_queues; /* of requests, beside the high priority one */
	uint16_t queue_size;
	struct backend_config backend;
};

struct fs_list {
	struct fs_config *items;
	size_t nr;
};

/* Another machine's device that this guest serves. */
struct vvu_proxy_config {
	struct device_config at;
	char *socket; /* where the other machine connects */
	char *addr;   /* its place: 0000:00:10.0; read into `at` by options_check() */
	char *uuid;   /* NULL: none */
	uint64_t shmem_size; /* room for the other machine's memory; 0: 64 GiB, or what there is */
	uint16_t max_queues;
	uint32_t disconnect; /* enum vvu_disconnect */
};

struct vvu_proxy_list {
	struct vvu_proxy_config *items;
	size_t nr;
};

/* Token buckets; all 0: no limit. */
struct rate_config {
	uint64_t bw_size, bw_one_time_burst; /* bytes */
	uint64_t bw_refill_time;	     /* milliseconds */
	uint64_t ops_size, ops_one_time_burst;
	uint64_t ops_refill_time;
};

struct disk_config {
	struct device_config at;
	char *path; /* exactly one of path and, with vhost_user, socket */
	bool readonly;
	bool root; /* outboard run: the kernel is told to find its root there */
	bool direct;
	uint16_t num_queues;
	uint16_t queue_size;
	char *serial;
	bool vhost_user;
	char *socket;
	struct rate_config rate;
	struct backend_config backend; /* with vhost_user */
};

struct disk_list {
	struct disk_config *items;
	size_t nr;
};

enum vhost_mode { VHOST_MODE_CLIENT, VHOST_MODE_SERVER };

struct net_config {
	struct device_config at;
	char *tap; /* at most one of tap, fds and, with vhost_user, socket; none: a new tap */
	struct int_list fds;
	char *ip; /* of the host's end */
	char *mask;
	char *mac; /* of the guest's end; NULL: a random one */
	char *host_mac;
	uint16_t mtu; /* 0: the tap's */
	uint16_t num_queues; /* receive and transmit queues together */
	uint16_t queue_size;
	bool offload_tso, offload_ufo, offload_csum;
	struct rate_config rate; /* each way for itself */
	bool vhost_user;
	char *socket;
	uint32_t vhost_mode; /* enum vhost_mode */
	struct backend_config backend; /* with vhost_user */
};

struct net_list {
	struct net_config *items;
	size_t nr;
};

struct rng_config {
	struct device_config at;
	char *src; /* NULL: no such device */
};

struct vsock_config {
	struct device_config at;
	uint32_t cid; /* 0, and no socket: no such device */
	char *socket; /* a listening one of ours; with vhost_user, the back-end's */
	bool vhost_user;
	struct backend_config backend; /* with vhost_user */
};

struct user_device_list {
	struct user_device_config *items;
	size_t nr;
};

/* Something that is given by its name or as an open descriptor; both unset: not given. */
struct endpoint_config {
	char *path;
	uint32_t fd; /* CONFIG_NO_FD: unset */
};

enum seccomp_mode { SECCOMP_OFF, SECCOMP_KILL, SECCOMP_LOG, SECCOMP_ERRNO };

struct vm_config {
	struct cpus_config cpus;
	struct memory_config memory;
	struct payload_config payload;
	struct console_config serial;
	struct virtio_console_config console;
	struct platform_config platform;
	struct host_device_list devices;
	struct user_device_list user_devices;
	struct generic_vhost_user_list generic_vhost_users;
	struct fs_list fs;
	struct vvu_proxy_list vvu_proxies;
	struct disk_list disks;
	struct net_list nets;
	struct rng_config rng;
	struct vsock_config vsock;
	struct endpoint_config api_socket;
	struct endpoint_config event_monitor;
	uint32_t no_shutdown; /* not 0: go on when the guest has ended */
	char *log_file;
	uint32_t verbosity; /* number of -v: 0 warnings, 1 and information, 2 and debugging */
	uint32_t seccomp;   /* enum seccomp_mode */
};

/* Texts that options_check() has let pass: two hexadecimal digits; "2e:89:a8:e4:bf:95". */
uint8_t config_byte(const char *hex);
void config_mac(const char *text, uint8_t mac[6]);
/* "c36aa4f3-50fd-4a0b-9e43-d2d3e5be7e6c", or NULL: zeros. */
void config_uuid(const char *text, uint8_t uuid[16]);

/* Whether the guest has an IOMMU. After options_check(). */
bool config_wants_iommu(const struct vm_config *config);
/* Whether a program of ours has to be started for a device of it. */
bool config_wants_programs(const struct vm_config *config);

/* Every member at its default. Accepts any storage. 0 or -ENOMEM (then nothing is owned). */
int config_init(struct vm_config *config);

/*
 * Move the machine's part of all into *machine: what a REST body could have said too. The program's
 * (log, API, filter) stays in all, whose machine is empty then.
 */
void config_split(struct vm_config *all, struct vm_config *machine);

/* Free what config owns. A zeroed one is fine. */
void config_fini(struct vm_config *config);

#endif
