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
 * Owns:    container or iommufd, groups, maps. Devices' descriptors belong to their bindings.
 * Threads: any; see vfio_iommu_priv.h.
 * Trusts:  the kernel's numbers, but not their sizes.
 */
#include "attach/vfio_iommu.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_iommu_priv.h"
#include "base/clock.h"
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

/* The token is a secret between the user of a physical function and those of its virtual ones. */
const char *vfio_token_hint(const struct vfio_iommu_device *dev, int rc)
{
	if (rc == -EACCES && !dev->vf_token)
		return " (its physical function, or a virtual one of its, is used by vfio-pci, too: vf_token=UUID, "
		       "the same for both)";
	if (rc == -EACCES)
		return " (vf_token is not the one that its physical function, or its virtual ones, are used with)";
	if (rc == -EINVAL && dev->vf_token)
		return " (vf_token is given, but it needs none: no physical function is bound to vfio-pci here)";
	return "";
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

/* --- RAM --- */

static int map_ram(struct vfio_iommu *io, const atomic_bool *cancel, struct err *err)
{
	unsigned i;
	int rc = 0;

	for (i = 0; i < io->nr_ram && !rc; i++)
		rc = vfio_check_ram(io, &io->ram[i], err);
	if (rc || io->mapped)
		return rc;
	for (i = 0; i < io->nr_ram && !rc; i++)
		rc = vfio_map_ram(io, &io->ram[i], cancel, err);
	/* What was mapped before a failure goes with the address space. */
	io->mapped = !rc;
	if (!rc && !io->noiommu)
		vfio_count_pinned(io, (int64_t)vfio_ram_size(io));
	return rc;
}

void vfio_count_pinned(struct vfio_iommu *io, int64_t more)
{
	io->pinned += (uint64_t)more;
	vfio_shared_pin(io->shared, more);
}

uint64_t vfio_iommu_pinned(const struct vfio_iommu *io)
{
	struct vfio_iommu *locked = (struct vfio_iommu *)io;
	uint64_t size;

	pthread_mutex_lock(&locked->lock);
	size = vfio_ram_size(io);
	pthread_mutex_unlock(&locked->lock);
	return size;
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
			rc = vfio_check_ram(io, r, &err);
		if (io->mapped && !rc)
			rc = vfio_map_ram(io, r, NULL, &err);
		if (io->mapped && !io->noiommu && !rc)
			vfio_count_pinned(io, (int64_t)r->size);
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
			vfio_unmap_ram(io, &io->ram[i]);
		if (io->mapped && !io->noiommu)
			vfio_count_pinned(io, -(int64_t)r->size);
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
	vfio_count_pinned(io, -(int64_t)io->pinned);
}

/* What a device needs that comes to others, or the first one. */
static int open_for(struct vfio_iommu *io, const struct vfio_iommu_device *dev, struct err *err)
{
	int rc;

	if (!io->nr_devices) {
		rc = open_backend(io, dev, err);
		if (rc)
			io->backend = NULL;
		return rc;
	}
	if (dev->fd >= 0 && io->backend != &vfio_iommufd)
		return err_set(err, -EINVAL,
			"a device's descriptor can only be used by iommufd, and the "
			"machine's other devices are in a container");
	if (io->backend == &vfio_iommufd && dev->fd < 0 && !dev->cdev)
		return err_set(err, -ENODEV,
			"it has no file in /dev/vfio/devices, and the machine's other "
			"devices are attached by iommufd");
	return 0;
}

static int join(struct vfio_iommu *io, const struct vfio_iommu_device *dev, struct vfio_binding *b,
	struct err *err)
{
	int rc = vfio_shared_join_group(
		io->shared, dev->group, io, io->dma != NULL, dev->name, err);

	if (rc)
		return rc;
	b->group_number = dev->group;
	rc = io->backend->join(io, dev, b, err);
	/* What the IOMMU can do is known now, and may be less than it was. */
	if (!rc && !io->noiommu)
		rc = io->backend->ranges(io, &io->ranges, err);
	return rc;
}

int vfio_enter(struct vfio_iommu *io, const struct vfio_iommu_device *dev, struct vfio_binding *b,
	struct err *err)
{
	int rc = io->mapped ? 0 : vfio_check_memlock(io, err);

	if (!rc)
		rc = open_for(io, dev, err);
	if (rc)
		return rc;
	io->nr_devices++;
	rc = join(io, dev, b, err);
	if (rc)
		vfio_leave(io, b);
	return rc;
}

int vfio_use(struct vfio_iommu *io, const struct vfio_iommu_device *dev, const atomic_bool *cancel,
	struct vfio_binding *b, struct err *err)
{
	if (atomic_load(cancel))
		return -ECANCELED;
	return io->backend->use ? io->backend->use(io, dev, b, err) : 0;
}

/*
 * The device is closed first: the kernel resets it, and it touches memory no more when the maps go,
 * all at once with the address space.
 */
void vfio_leave(struct vfio_iommu *io, struct vfio_binding *b)
{
	assert(io->nr_devices);
	io->backend->leave(io, b);
	vfio_shared_leave_group(io->shared, b->group_number);
	b->group_number = -1;
	if (!--io->nr_devices)
		close_backend(io);
}

static int attach_locked(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	const atomic_bool *cancel, struct vfio_binding *out, struct err *err)
{
	int rc = vfio_enter(io, dev, out, err);

	if (rc)
		return rc;
	rc = map_ram(io, cancel, err);
	if (!rc)
		rc = vfio_use(io, dev, cancel, out, err);
	if (rc)
		vfio_leave(io, out);
	return rc;
}

int vfio_iommu_attach(struct vfio_iommu *io, const struct vfio_iommu_device *dev,
	const atomic_bool *cancel, struct vfio_binding *out, struct err *err)
{
	int rc = -ECANCELED;

	*out = (struct vfio_binding){ .device_fd = -1, .group_number = -1 };
	if (!atomic_load(cancel) && io->dma) {
		rc = vfio_behind_attach(io, dev, cancel, out, err);
	} else if (!atomic_load(cancel)) {
		pthread_mutex_lock(&io->lock);
		rc = attach_locked(io, dev, cancel, out, err);
		pthread_mutex_unlock(&io->lock);
	}
	return rc == -ECANCELED ? err_set(err, rc, "the attach was called off") : rc;
}

void vfio_iommu_detach(struct vfio_iommu *io, struct vfio_binding *b)
{
	if (b->device_fd < 0)
		return;
	if (io->dma) {
		vfio_behind_detach(io, b);
		return;
	}
	pthread_mutex_lock(&io->lock);
	vfio_peers_see_to(io);
	vfio_leave(io, b);
	pthread_mutex_unlock(&io->lock);
}

/* A vCPU may ask for it while somebody attaches a device, or gives one back. */
#define LOCK_MS 1000

int vfio_iommu_hot_reset(struct vfio_iommu *io, const struct vfio_binding *b, struct err *err)
{
	const struct timespec until = clock_timespec(clock_now_ns() + LOCK_MS * NS_PER_MS);
	int rc = pthread_mutex_clocklock(&io->lock, CLOCK_MONOTONIC, &until);

	if (rc)
		return err_set(err, -rc,
			"its bus cannot be reset while another device comes or goes");
	rc = io->backend->hot_reset(io, b, err);
	pthread_mutex_unlock(&io->lock);
	return rc;
}

/* --- what was written --- */

static int dirty_start(void *self)
{
	struct vfio_iommu *io = self;
	int rc;

	pthread_mutex_lock(&io->lock);
	/*
	 * Of a device behind the guest's IOMMU it would name the
	 * guest's addresses, not those of RAM.
	 */
	if (!io->backend || io->noiommu || io->dma)
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

static void init(struct vfio_iommu *io, const struct vfio_sys *sys)
{
	io->sys = sys;
	io->fd = -1;
	atomic_init(&io->users, 1);
	pthread_mutex_init(&io->lock, NULL);
	vfio_peers_init(io);
}

int vfio_iommu_new(const struct vfio_iommu_params *p, struct vfio_iommu **out, struct err *err)
{
	struct vfio_iommu *io = calloc(1, sizeof(*io));
	const struct vfio_sys *sys = p->sys ? p->sys : &vfio_sys_kernel;
	int rc = io ? vfio_shared_new(sys, p->kvm, &io->shared) : -ENOMEM;

	if (rc) {
		free(io);
		return err_set(err, rc, "out of memory");
	}
	init(io, sys);
	io->memory = p->memory;
	io->want_iommufd = p->iommufd;
	io->given_iommufd = p->iommufd_fd;
	atomic_init(&io->no_p2p, p->no_p2p);
	io->worker = p->worker;
	io->unsafe_noiommu = p->unsafe_noiommu;
	io->listener = (struct memory_listener){ .add = ram_added, .remove = ram_removed };
	memory_listen(io->memory, &io->listener);
	*out = io;
	return 0;
}

int vfio_iommu_new_behind(
	struct vfio_iommu *of, struct dma_space *dma, struct vfio_iommu **out)
{
	struct vfio_iommu *io = calloc(1, sizeof(*io));

	if (!io)
		return -ENOMEM;
	init(io, of->sys);
	io->shared = vfio_shared_hold(of->shared);
	io->want_iommufd = of->want_iommufd;
	io->given_iommufd = of->given_iommufd;
	atomic_init(&io->no_p2p, true);
	io->unsafe_noiommu = of->unsafe_noiommu;
	io->dma = dma;
	io->memory = of->memory;
	io->followed_size = memory_size(of->memory);
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
	vfio_shared_drop(io->shared);
	vfio_peers_fini(io);
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
	io->memory = NULL;
	vfio_shared_leave_kvm(io->shared);
	vfio_iommu_drop(io);
}
