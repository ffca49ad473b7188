/*
 * vhost_user_inflight.c - the area that says which requests are under way
 *
 * The back-end makes it, the front-end keeps it and gives it to the next back-end process. It is
 * divided evenly among the queues; what is in a queue's region is the virtqueue's affair
 * (device/virtqueue.h). Each region has room for at least ROOM entries: QEMU asks for an area by
 * the queue size that its user chose and then lets the guest choose a larger one.
 *
 * Trusts: nothing in it, and not its size: the front-end may bring another file than it was given.
 * Spec:   vhost-user, "Inflight I/O tracking".
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/util.h"
#include "serve/mem_file.h"
#include "serve/vhost_user_port.h"
#include "wire/virtio.h"

/* What begins a region is aligned; every back-end does so. */
#define REGION_ALIGN 64
#define ROOM	     1024

static bool is_packed(const struct vhost_user_port *p)
{
	/* Before features are set: the larger of the two. */
	uint64_t f = p->features_set ? p->features : vhu_features(p);

	return f & VIRTIO_BIT(VIRTIO_BIT_RING_PACKED);
}

static int check(
	const struct vhost_user_port *p, const struct vhost_user_inflight *i, struct err *err)
{
	if (!i->num_queues || i->num_queues > p->nr_queues)
		return err_set(
			err, -EINVAL, "%u queues, there are %u", i->num_queues, p->nr_queues);
	if (!i->queue_size || i->queue_size > VIRTIO_QUEUE_MAX_SIZE)
		return err_set(err, -EINVAL, "queue size %u, expected 1 to %u", i->queue_size,
			VIRTIO_QUEUE_MAX_SIZE);
	if (!vhu_queues_rest(p))
		return err_set(err, -EBUSY, "queues are running");
	return 0;
}

/* Map it, as the front-end's descriptors are to be treated. */
static int map(struct mem_file **out, const struct vhost_user_port *p,
	const struct vhost_user_inflight *i, int fd, struct err *err)
{
	struct fd_memory id;
	uint64_t size;
	int rc;

	if (p->source.pieces && i->mmap_size && !(i->mmap_offset & 7))
		return mem_file_new_piece(
			out, fd, i->mmap_offset, i->mmap_size, p->source.fault_fd, err);
	rc = fd_memory_identify(fd, &id, &size, err);
	if (rc)
		return rc;
	if (!i->mmap_size || i->mmap_offset & 7 || !range_ok(i->mmap_offset, i->mmap_size, size))
		return err_set(err, -EINVAL,
			"offset 0x%" PRIx64 " + size 0x%" PRIx64 " in a file of 0x%" PRIx64,
			i->mmap_offset, i->mmap_size, size);
	if (!id.writable)
		return err_set(err, -EACCES, "the area cannot be written");
	return mem_file_new(out, fd, &id, size, p->source.fault_fd, err);
}

static int use(
	struct vhost_user_port *p, const struct vhost_user_inflight *i, int fd, struct err *err)
{
	struct mem_file *file;
	int rc = map(&file, p, i, fd, err);

	if (rc)
		return rc;
	vhu_inflight_fini(p);
	p->inflight = (struct vhu_inflight){
		.file = file,
		.offset = i->mmap_offset,
		.size = i->mmap_size,
		.nr_queues = i->num_queues,
	};
	return 0;
}

static int make_file(uint64_t size, struct err *err)
{
	FD_AUTO fd = memfd_create("inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_set(
			err, -errno, "a file of %" PRIu64 " bytes: %s", size, strerror(errno));
	return fd_take(&fd);
}

int vhu_inflight_new(
	struct vhost_user_port *p, struct vhost_user_inflight *i, int *out, struct err *err)
{
	FD_AUTO fd = -1;
	int rc = check(p, i, err);

	if (rc)
		return rc;
	i->mmap_offset = 0;
	i->mmap_size =
		i->num_queues * vhost_user_inflight_region(is_packed(p), MAX(i->queue_size, ROOM));
	fd = make_file(i->mmap_size, err);
	if (fd < 0)
		return fd;
	/* In use from now on: not every front-end gives it back before its first crash. */
	rc = use(p, i, fd, err);
	if (!rc)
		*out = fd_take(&fd);
	return rc;
}

int vhu_inflight_set(
	struct vhost_user_port *p, const struct vhost_user_inflight *i, int fd, struct err *err)
{
	int rc = check(p, i, err);

	return rc ? rc : use(p, i, fd, err);
}

/* Where this queue's region is, and its bytes. NULL: it has none. */
static void *find_region(const struct vhu_queue *q, uint64_t *size)
{
	const struct vhu_inflight *i = &q->port->inflight;

	if (!i->file || q->index >= i->nr_queues)
		return NULL;
	*size = align_down(i->size / i->nr_queues, REGION_ALIGN);
	return mem_file_at(i->file, i->offset) + q->index * *size;
}

void *vhu_inflight_region(const struct vhu_queue *q, uint64_t *size)
{
	void *region = find_region(q, size);

	if (!region)
		return NULL;
	/* The queue works all the same; after a crash it goes on from its used index. */
	if (vhost_user_inflight_region(is_packed(q->port), q->num) > *size) {
		vhu_complain(q->port,
			"queue %u: its part of the inflight area, %" PRIu64
			" bytes, is too small for %u entries: they are not tracked",
			q->index, *size, q->num);
		return NULL;
	}
	return region;
}

void vhu_inflight_clear(const struct vhu_queue *q)
{
	uint64_t size;
	void *region = find_region(q, &size);

	/* Only what a queue of its size can have touched: the area may be vast. */
	if (region && q->num)
		memset(region, 0,
			MIN(size, vhost_user_inflight_region(is_packed(q->port), q->num)));
}

void vhu_inflight_fini(struct vhost_user_port *p)
{
	mem_file_put(p->inflight.file);
	p->inflight = (struct vhu_inflight){ 0 };
}
