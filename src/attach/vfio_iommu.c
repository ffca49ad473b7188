/*
 * vfio_iommu.c - guest RAM for host devices: pinned when the first one comes, let go with the last
 *
 * A device comes in three steps. It joins (group into container, or file bound to iommufd), after
 * which the IOMMU's ranges are known; RAM is mapped if it is not yet; then it can be used. An empty
 * container forgets its maps, so nothing outlives the last device: what it stood on is closed, and
 * the next device begins anew.
 *
 * What can be known before is checked before: how much memory has to be locked against the limit,
 * and RAM against the addresses that the IOMMU translates.
 *
 * Owns:    container or iommufd, groups, maps, KVM's list. Devices' descriptors belong to their
 * bindings. Threads: any; see vfio_iommu_priv.h. Trusts:  the kernel's numbers, but not their
 * sizes.
 */
#include "attach/vfio_iommu.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_iommu_priv.h"
#include "base/log.h"

/* --- what both ways use --- */

int vfio_cannot_open(const char *path, int rc, struct err *err)
{
	switch (rc) {
	case -EACCES:
	case -EPERM:
		return err_set(err, rc,
			"%s: no permission to read and write it: run as root, or give it to this user "
			"(chown USER %s)",
			path, path);
	case -EBUSY:
		return err_set(err, rc, "%s is in use by another program", path);
	case -ENOENT:
	case -ENODEV:
	case -ENXIO:
		if (!strcmp(path, VFIO_IOMMU_FILE))
			return err_set(err, rc,
				"%s is missing: is the module iommufd loaded (modprobe iommufd)? Many kernels "
				"are built without it",
				path);
		return err_set(err, rc,
			"%s is missing: is the module vfio-pci loaded (modprobe vfio-pci), and the device "
			"bound to it (outboard device-bind)?",
			path);
	default:
		return err_set(err, rc, "%s: %s", path, strerror(-rc));
	}
}

int vfio_ask_list(const struct vfio_sys *sys, int fd, unsigned long request, const void *head,
	size_t head_len, void **out, uint32_t *size)
{
	uint32_t argsz = 4096;

	for (int i = 0; i < VFIO_LIST_TRIES; i++) {
		FREE_AUTO uint32_t *buf = calloc(1, argsz);
		int rc;

		if (!buf)
			return -ENOMEM;
		memcpy(buf, head, head_len);
		buf[0] = argsz;
		rc = sys->ioctl(sys, fd, request, buf);
		if (rc < 0)
			return rc;
		if (buf[0] <= argsz) {
			*size = argsz;
			*out = buf;
			buf = NULL;
			return 0;
		}
		if (buf[0] > VFIO_LIST_MAX)
			break;
		argsz = buf[0];
	}
	return -EPROTO;
}

/* --- KVM's list --- */

static int kvm_attr(struct vfio_iommu *io, uint64_t what, int fd)
{
	int32_t file = fd;
	struct kvm_device_attr attr = {
		.group = KVM_DEV_VFIO_FILE,
		.attr = what,
		.addr = (uintptr_t)&file,
	};

	return vfio_ioctl(io, io->kvm_fd, KVM_SET_DEVICE_ATTR, &attr);
}

static bool open_kvm_list(struct vfio_iommu *io)
{
	struct kvm_create_device create = { .type = KVM_DEV_TYPE_VFIO };
	int rc;

	if (io->kvm_fd >= 0 || io->no_kvm_list || !io->kvm)
		return io->kvm_fd >= 0;
	rc = vfio_ioctl(io, io->kvm->vm_fd, KVM_CREATE_DEVICE, &create);
	if (!rc)
		io->kvm_fd = (int)create.fd;
	else
		log_debug("KVM cannot be told of VFIO's devices: %s", strerror(-rc));
	io->no_kvm_list = rc;
	return !rc;
}

/* It looks at them for what their DMA does to caches; most devices work without. */
void vfio_kvm_add(struct vfio_iommu *io, int fd)
{
	int rc = open_kvm_list(io) ? kvm_attr(io, KVM_DEV_VFIO_FILE_ADD, fd) : 0;

	if (rc && rc != -EEXIST)
		log_debug("KVM does not take a VFIO file into its list: %s", strerror(-rc));
}

void vfio_kvm_remove(struct vfio_iommu *io, int fd)
{
	if (io->kvm_fd >= 0)
		kvm_attr(io, KVM_DEV_VFIO_FILE_DEL, fd);
}

/* --- RAM --- */

static uint64_t ram_size(const struct vfio_iommu *io)
{
	uint64_t size = 0;

	for (unsigned i = 0; i < io->nr_ram; i++)
		size += io->ram[i].size;
	return size;
}

uint64_t vfio_iommu_pinned(const struct vfio_iommu *io)
{
	struct vfio_iommu *locked = (struct vfio_iommu *)io;
	uint64_t size;

	pthread_mutex_lock(&locked->lock);
	size = ram_size(io);
	pthread_mutex_unlock(&locked->lock);
	return size;
}

static int check_memlock(struct vfio_iommu *io, struct err *err)
{
	uint64_t limit = io->sys->memlock(io->sys), need = ram_size(io);

	if (io->noiommu || need <= limit)
		return 0;
	return err_set(err, -ENOMEM,
		"all of guest RAM has to be locked in memory, %llu bytes, and the limit is %llu: raise it (ulimit -l "
		"%llu, or LimitMEMLOCK=%llu in a systemd unit) or start with CAP_IPC_LOCK",
		(unsigned long long)need, (unsigned long long)limit,
		(unsigned long long)((need + 1023) / 1024), (unsigned long long)need);
}

static bool in_ranges(const struct vfio_iova_ranges *ranges, uint64_t iova, uint64_t size)
{
	for (unsigned i = 0; i < ranges->nr; i++)
		if (iova >= ranges->r[i].start && iova + (size - 1) <= ranges->r[i].last)
			return true;
	return !ranges->nr;
}

/*
 * The first address of [iova, iova + size) that can not be translated, and the last of that hole.
 */
static void find_hole(
	const struct vfio_iova_ranges *ranges, uint64_t iova, uint64_t *from, uint64_t *to)
{
	*from = iova;
	/* Ranges come in ascending order. */
	for (unsigned i = 0; i < ranges->nr; i++)
		if (*from >= ranges->r[i].start && *from <= ranges->r[i].last)
			*from = ranges->r[i].last + 1;
	*to = UINT64_MAX;
	for (unsigned i = ranges->nr; i-- > 0;)
		if (ranges->r[i].start > *from)
			*to = ranges->r[i].start - 1;
}

static int check_range(struct vfio_iommu *io, const struct mem_range *r, struct err *err)
{
	uint64_t from, to;

	if (io->noiommu || in_ranges(&io->ranges, r->gpa, r->size))
		return 0;
	find_hole(&io->ranges, r->gpa, &from, &to);
	return err_set(err, -ERANGE,
		"guest RAM at 0x%llx to 0x%llx does not fit into what the host's IOMMU can translate: 0x%llx to 0x%llx is "
		"reserved or out of its reach; give the guest less memory",
		(unsigned long long)r->gpa, (unsigned long long)(r->gpa + r->size - 1),
		(unsigned long long)from, (unsigned long long)to);
}

static const char *map_hint(int rc)
{
	switch (rc) {
	case -ENOMEM:
		return " (the limit of locked memory, ulimit -l, or the host's memory is exhausted)";
	case -EFAULT:
		return " (it cannot be pinned: too few huge pages?)";
	case -ENOSPC:
		return " (too many maps: see dma_entry_limit of the module vfio_iommu_type1)";
	case -EINVAL:
		return " (an address that the IOMMU cannot translate?)";
	default:
		return "";
	}
}

/*
 * Pinning cannot be interrupted, so a large range is mapped in pieces: an attach that is called off
 * ends after one of them. Large enough that the IOMMU's pages are the largest it has.
 */
#define PIECE (16 * GIB)

static int map_pieces(
	struct vfio_iommu *io, const struct mem_range *r, const atomic_bool *cancel, uint64_t *done)
{
	for (*done = 0; *done < r->size;) {
		uint64_t size = MIN(PIECE, r->size - *done);
		int rc = cancel && atomic_load(cancel) ? -ECANCELED : 0;

		if (!rc)
			rc = io->backend->map(io, r->gpa + *done, size, (char *)r->hva + *done);
		if (rc)
			return rc;
		*done += size;
	}
	return 0;
}

/* cancel may be NULL. */
static int map_range(struct vfio_iommu *io, const struct mem_range *r, const atomic_bool *cancel,
	struct err *err)
{
	uint64_t done = 0;
	int rc = io->noiommu ? 0 : map_pieces(io, r, cancel, &done);

	if (!rc || rc == -ECANCELED)
		return rc;
	if (done && io->mapped)
		io->backend->unmap(io, r->gpa, done);
	return err_set(err, rc,
		"the IOMMU does not map guest RAM at 0x%llx to 0x%llx (%llu of %llu bytes): %s%s",
		(unsigned long long)r->gpa + done, (unsigned long long)(r->gpa + r->size - 1),
		(unsigned long long)(r->size - done), (unsigned long long)ram_size(io),
		strerror(-rc), map_hint(rc));
}

static void unmap_range(struct vfio_iommu *io, const struct mem_range *r)
{
	int rc = io->noiommu ? 0 : io->backend->unmap(io, r->gpa, r->size);

	if (rc)
		log_warn("the IOMMU does not unmap guest RAM at 0x%llx: %s",
			(unsigned long long)r->gpa, strerror(-rc));
}

static int map_ram(struct vfio_iommu *io, const atomic_bool *cancel, struct err *err)
{
	unsigned i;
	int rc = 0;

	for (i = 0; i < io->nr_ram && !rc; i++)
		rc = check_range(io, &io->ram[i], err);
	if (rc || io->mapped)
		return rc;
	for (i = 0; i < io->nr_ram && !rc; i++)
		rc = map_range(io, &io->ram[i], cancel, err);
	/* What was mapped before a failure goes with the address space. */
	io->mapped = !rc;
	return rc;
}

/* --- the listener: topology lock held --- */

static void ram_added(struct memory_listener *l, const struct mem_range *r)
{
	struct vfio_iommu *io = container_of(l, struct vfio_iommu, listener);
	struct mem_range *more;
	struct err err = { 0 };
	int rc = 0;

	pthread_mutex_lock(&io->lock);
	more = reallocarray(io->ram, io->nr_ram + 1, sizeof(*more));
	if (more) {
		io->ram = more;
		more[io->nr_ram++] = *r;
		if (io->mapped)
			rc = check_range(io, r, &err);
		if (io->mapped && !rc)
			rc = map_range(io, r, NULL, &err);
		/* Known as not mapped. */
		io->nr_ram -= rc != 0;
	}
	pthread_mutex_unlock(&io->lock);
	if (!more)
		log_err("out of memory: RAM at 0x%llx is out of host devices' reach",
			(unsigned long long)r->gpa);
	else if (rc)
		log_err("%s", err.text);
}

static void ram_removed(struct memory_listener *l, const struct mem_range *r)
{
	struct vfio_iommu *io = container_of(l, struct vfio_iommu, listener);

	pthread_mutex_lock(&io->lock);
	for (unsigned i = 0; i < io->nr_ram; i++) {
		if (io->ram[i].gpa != r->gpa)
			continue;
		if (io->mapped)
			unmap_range(io, &io->ram[i]);
		memmove(&io->ram[i], &io->ram[i + 1], (--io->nr_ram - i) * sizeof(*io->ram));
		break;
	}
	pthread_mutex_unlock(&io->lock);
}

/* --- devices --- */

static int open_backend(struct vfio_iommu *io, const struct vfio_iommu_device *dev, struct err *err)
{
	const char *why = NULL;
	int rc;

	if (dev->fd >= 0 && !io->want_iommufd)
		return err_set(err, -EINVAL,
			"a device's descriptor can only be used by /dev/iommu: --platform iommufd=on");
	if (io->want_iommufd && dev->fd < 0 && !dev->cdev)
		why = "the device has no file in /dev/vfio/devices (CONFIG_VFIO_DEVICE_CDEV)";
	if (io->want_iommufd && !why) {
		io->backend = &vfio_iommufd;
		rc = io->backend->open(io, err);
		if (!rc)
			log_info("host devices are attached by iommufd, as asked for");
		if (!rc || dev->fd >= 0 || (rc != -ENOENT && rc != -ENODEV))
			return rc;
		err_clear(err);
		why = VFIO_IOMMU_FILE " is missing (CONFIG_IOMMUFD)";
	}
	if (why)
		log_warn("host devices are attached by group and container, not iommufd: %s", why);
	else
		log_info(
			"host devices are attached by group and container: iommufd was not asked for");
	io->backend = &vfio_container;
	return io->backend->open(io, err);
}

static void close_backend(struct vfio_iommu *io)
{
	if (io->dirty)
		io->backend->dirty_stop(io);
	io->dirty = false;
	io->backend->close(io);
	io->backend = NULL;
	io->mapped = false;
	io->noiommu = false;
	io->ranges.nr = 0;
}

/* It is in: what the IOMMU can do is known, and may be less than it was. */
static int settle(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	const atomic_bool *cancel, struct vfio_binding *b, struct err *err)
{
	int rc = io->noiommu ? 0 : io->backend->ranges(io, &io->ranges, err);

	if (!rc)
		rc = map_ram(io, cancel, err);
	if (!rc && atomic_load(cancel))
		rc = -ECANCELED;
	if (!rc && io->backend->use)
		rc = io->backend->use(io, dev, b, err);
	return rc;
}

static int attach_locked(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	const atomic_bool *cancel, struct vfio_binding *out, struct err *err)
{
	int rc = io->mapped ? 0 : check_memlock(io, err);

	if (rc)
		return rc;
	if (!io->nr_devices) {
		rc = open_backend(io, dev, err);
		if (rc) {
			io->backend = NULL;
			return rc;
		}
	} else if (dev->fd >= 0 && io->backend != &vfio_iommufd) {
		return err_set(err, -EINVAL,
			"a device's descriptor can only be used by iommufd, and the "
			"machine's other devices are in a container");
	} else if (io->backend == &vfio_iommufd && dev->fd < 0 && !dev->cdev) {
		return err_set(err, -ENODEV,
			"it has no file in /dev/vfio/devices, and the machine's other "
			"devices are attached by iommufd");
	}
	rc = io->backend->join(io, dev, out, err);
	if (!rc)
		rc = settle(io, dev, cancel, out, err);
	if (rc)
		io->backend->leave(io, out);
	io->nr_devices += !rc;
	if (!io->nr_devices)
		close_backend(io);
	return rc;
}

int vfio_iommu_attach(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	const atomic_bool *cancel, struct vfio_binding *out, struct err *err)
{
	int rc;

	*out = (struct vfio_binding){ .device_fd = -1 };
	pthread_mutex_lock(&io->lock);
	rc = atomic_load(cancel) ? -ECANCELED : attach_locked(io, dev, cancel, out, err);
	pthread_mutex_unlock(&io->lock);
	return rc == -ECANCELED ? err_set(err, rc, "the attach was called off") : rc;
}

/*
 * The device is closed first: the kernel resets it, and it touches memory no more when the maps go,
 * all at once with the address space.
 */
void vfio_iommu_detach(struct vfio_iommu *io, struct vfio_binding *b)
{
	if (b->device_fd < 0)
		return;
	pthread_mutex_lock(&io->lock);
	assert(io->nr_devices);
	io->backend->leave(io, b);
	if (!--io->nr_devices)
		close_backend(io);
	pthread_mutex_unlock(&io->lock);
}

int vfio_iommu_hot_reset(struct vfio_iommu *io, const struct vfio_binding *b, struct err *err)
{
	int rc;

	pthread_mutex_lock(&io->lock);
	rc = io->backend->hot_reset(io, b, err);
	pthread_mutex_unlock(&io->lock);
	return rc;
}

/* --- BARs --- */

static const char *p2p_hint(const struct vfio_backend *backend, int rc)
{
	switch (rc) {
	case -EFAULT:
		return backend == &vfio_iommufd ? "this kernel's iommufd maps no device memory"
						: "it does not answer now";
	case -ERANGE:
		return "it lies where the IOMMU cannot translate";
	default:
		return strerror(-rc);
	}
}

/* A device alone has no peer, and some kernels take seconds to map a large BAR, page by page. */
static bool maps_bars(const struct vfio_iommu *io)
{
	return io->nr_devices > 1 && !io->noiommu && !io->no_p2p;
}

bool vfio_iommu_maps_bars(struct vfio_iommu *io)
{
	bool maps;

	pthread_mutex_lock(&io->lock);
	maps = maps_bars(io);
	pthread_mutex_unlock(&io->lock);
	return maps;
}

bool vfio_iommu_map(struct vfio_iommu *io, const char *id, uint64_t iova, uint64_t size, void *hva)
{
	const struct vfio_backend *backend;
	int rc = -ENODEV;
	bool say;

	pthread_mutex_lock(&io->lock);
	backend = io->backend;
	if (maps_bars(io))
		rc = in_ranges(&io->ranges, iova, size) ? io->backend->map(io, iova, size, hva)
							: -ERANGE;
	say = rc && rc != -ENODEV && !io->p2p_said;
	io->p2p_said |= say;
	/* It will not be able to later. */
	io->no_p2p |= rc == -EFAULT && backend == &vfio_iommufd;
	pthread_mutex_unlock(&io->lock);
	if (say)
		log_warn(
			"%s: other devices cannot reach its memory at 0x%llx (%llu bytes) directly: %s",
			id, (unsigned long long)iova, (unsigned long long)size,
			p2p_hint(backend, rc));
	return !rc;
}

void vfio_iommu_unmap(struct vfio_iommu *io, uint64_t iova, uint64_t size)
{
	int rc = 0;

	pthread_mutex_lock(&io->lock);
	if (io->backend)
		rc = io->backend->unmap(io, iova, size);
	pthread_mutex_unlock(&io->lock);
	if (rc)
		log_warn("the IOMMU does not unmap device memory at 0x%llx: %s",
			(unsigned long long)iova, strerror(-rc));
}

/* --- what was written --- */

static int dirty_start(void *self)
{
	struct vfio_iommu *io = self;
	int rc;

	pthread_mutex_lock(&io->lock);
	if (!io->backend || io->noiommu)
		rc = -EOPNOTSUPP;
	else
		rc = io->dirty ? -EBUSY : io->backend->dirty_start(io);
	if (!rc)
		io->dirty = true;
	else if (rc != -EBUSY && io->backend)
		io->backend->dirty_stop(io);
	pthread_mutex_unlock(&io->lock);
	return rc;
}

static void dirty_stop(void *self)
{
	struct vfio_iommu *io = self;

	pthread_mutex_lock(&io->lock);
	if (io->dirty)
		io->backend->dirty_stop(io);
	io->dirty = false;
	pthread_mutex_unlock(&io->lock);
}

static int dirty_report(
	void *self, uint64_t iova, uint64_t size, uint64_t page_size, uint64_t *bitmap)
{
	struct vfio_iommu *io = self;
	int rc;

	pthread_mutex_lock(&io->lock);
	rc = io->dirty ? io->backend->dirty_report(io, iova, size, page_size, bitmap) : -EINVAL;
	pthread_mutex_unlock(&io->lock);
	return rc;
}

const struct vfio_dirty_iommu vfio_iommu_dirty = {
	.start = dirty_start,
	.stop = dirty_stop,
	.report = dirty_report,
};

/* --- life --- */

int vfio_iommu_new(const struct vfio_iommu_params *p, struct vfio_iommu **out, struct err *err)
{
	struct vfio_iommu *io = calloc(1, sizeof(*io));

	if (!io)
		return err_set(err, -ENOMEM, "out of memory");
	*io = (struct vfio_iommu){
		.sys = p->sys ? p->sys : &vfio_sys_kernel,
		.kvm = p->kvm,
		.memory = p->memory,
		.want_iommufd = p->iommufd,
		.given_iommufd = p->iommufd_fd,
		.no_p2p = p->no_p2p,
		.unsafe_noiommu = p->unsafe_noiommu,
		.users = 1,
		.fd = -1,
		.kvm_fd = -1,
		.listener = { .add = ram_added, .remove = ram_removed },
	};
	pthread_mutex_init(&io->lock, NULL);
	memory_listen(io->memory, &io->listener);
	*out = io;
	return 0;
}

struct vfio_iommu *vfio_iommu_hold(struct vfio_iommu *io)
{
	atomic_fetch_add(&io->users, 1);
	return io;
}

void vfio_iommu_drop(struct vfio_iommu *io)
{
	if (!io || atomic_fetch_sub(&io->users, 1) != 1)
		return;
	assert(!io->nr_devices);
	vfio_close(io, &io->kvm_fd);
	pthread_mutex_destroy(&io->lock);
	free(io->bound);
	free(io->ram);
	free(io);
}

void vfio_iommu_free(struct vfio_iommu *io)
{
	if (!io)
		return;
	memory_unlisten(io->memory, &io->listener);
	pthread_mutex_lock(&io->lock);
	io->memory = NULL;
	io->kvm = NULL;
	pthread_mutex_unlock(&io->lock);
	vfio_iommu_drop(io);
}
