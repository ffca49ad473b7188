/*
 * vm_devices_priv.h - what the routes of vm_devices share
 *
 * For vm_devices.c and the files that begin devices of one family.
 */
#ifndef CONTROL_VM_DEVICES_PRIV_H
#define CONTROL_VM_DEVICES_PRIV_H

#include "base/char_end.h"
#include "control/vm_devices.h"

struct vfio_iommu;
struct viommu;

struct held {
	struct device *dev;
	bool named_slot; /* the user said which */
};

struct vm_devices {
	struct machine *m;
	struct spawner *spawner;
	struct worker *closer;
	struct vfio_iommu *iommu; /* of host devices; NULL: there are none */
	struct viommu *viommu; /* the guest's IOMMU; NULL: it has none */
	struct char_end console; /* what --console is wired to: its program has copies */
	int vsock_fd;		 /* where --vsock listens, likewise; -1: nowhere */
	char *vsock_path;	 /* of that socket, which is removed at the end */
	vm_devices_done_fn done;
	void *arg;
	struct held *held;
	size_t nr;
	size_t nr_pending; /* of which the attach goes on */
	struct loop_work none_work;
};

/* The device_attached_fn of every route; arg is the struct vm_devices. */
void vm_device_attached(void *arg, struct device *dev, int rc, const struct err *err);

/* Takes dev, whose attach was begun; also on failure. 0 or -ENOMEM with a text. */
int vm_devices_add(struct vm_devices *d, struct device *dev, const struct device_config *at,
	struct err *err);

/* What the user said of any device's place, and vm_device_attached(). Borrows the id. */
struct device_params vm_device_params(struct vm_devices *d, const struct device_config *at);

/* vm_host_device.c */
int vm_begin_host_devices(struct vm_devices *d, const struct vm_config *c, struct err *err);
/* After all of them were freed. */
void vm_end_host_devices(struct vm_devices *d);

/* vm_vhost_user.c: begin every device of one option. 0 or -errno with a text. */
int vm_begin_generic_vhost_users(
	struct vm_devices *d, const struct vm_config *c, struct err *err);
int vm_begin_fs(struct vm_devices *d, const struct vm_config *c, struct err *err);
/* One of --disk, --net or --vsock, with vhost_user=on. */
int vm_begin_foreign_disk(struct vm_devices *d, const struct disk_config *disk, struct err *err);
int vm_begin_foreign_net(struct vm_devices *d, const struct net_config *net, struct err *err);
/*
 * The guest's address: the one that is given, or one made up. 0, or -EIO: there is no randomness.
 */
int vm_net_mac(const struct net_config *net, uint8_t mac[6]);
int vm_begin_foreign_vsock(struct vm_devices *d, const struct vsock_config *v, struct err *err);

/* 64 pairs of a network device and its control queue: no typed option has more. */
#define VM_MAX_QUEUES 129

/* nr queues, at most VM_MAX_QUEUES, of one size. */
static inline void vm_fill_sizes(uint16_t *sizes, unsigned nr, uint16_t size)
{
	for (unsigned i = 0; i < nr; i++)
		sizes[i] = size;
}

/* vm_programs.c: a device that a program of ours serves. */
struct vm_program {
	const char *kind; /* of the option, for texts */
	uint32_t type;	  /* virtio id */
	const struct device_config *at;
	/* nr_queues 0: as many as the program has, of the usual size */
	const uint16_t *queue_sizes;
	unsigned nr_queues;
};

/* Start it and attach what it serves. Takes a, also on failure. */
struct program_args;
int vm_begin_program(struct vm_devices *d, const struct vm_program *program,
	struct program_args *a, struct err *err);
/* Its limits, for models that have them. */
void vm_add_rate(struct program_args *a, const struct rate_config *r);
int vm_begin_disks(struct vm_devices *d, const struct vm_config *c, struct err *err);
int vm_begin_rng(struct vm_devices *d, const struct vm_config *c, struct err *err);
int vm_begin_vsock(struct vm_devices *d, const struct vm_config *c, struct err *err);
int vm_begin_console(struct vm_devices *d, const struct vm_config *c, struct err *err);

/* vm_vvu.c */
int vm_begin_vvu_proxies(struct vm_devices *d, const struct vm_config *c, struct err *err);

/* vm_net.c */
int vm_begin_nets(struct vm_devices *d, const struct vm_config *c, struct err *err);

#endif
