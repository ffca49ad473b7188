/*
 * vhost_user_shape.c - what a vhost-user device is made of: features, queues, shared memory
 *
 * Every feature that the back-end offers goes to the driver, but for those that it could not
 * deliver without the VMM's help: bits that vhost-user uses itself, translation of addresses,
 * functions of functions, transport features that nobody has defined yet.
 *
 * Queues: as many as the user said, else as the back-end has, else as the type usually has.
 * Back-ends of network devices count pairs in GET_QUEUE_NUM, so there it says little.
 *
 * The shape is taken once; a back-end that comes back has to have it too.
 *
 * Spec: vhost-user, "Multiple queue support"; virtio 1.3, 6 "Reserved Feature Bits".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vhost_user_priv.h"
#include "base/log.h"
#include "base/util.h"
#include "wire/virtio.h"

/* Transport features, defined and not, between the ranges of bits that are the type's own. */
#define TRANSPORT_FIRST 24
#define TRANSPORT_LAST	49

/* A shared-memory region beyond this is nonsense. */
#define MAX_SHM_SIZE (1ull << 40)

/* Features of a network device that are spoken of over its control queue (virtio 1.3, 5.1.3.1) */
#define NET_NEEDS_CONTROL                                                                          \
	(VIRTIO_BIT(2) | VIRTIO_BIT(17) | VIRTIO_BIT(18) | VIRTIO_BIT(19) | VIRTIO_BIT(20) |       \
		VIRTIO_BIT(21) | VIRTIO_BIT(22) | VIRTIO_BIT(23) | VIRTIO_BIT(52) |                \
		VIRTIO_BIT(53) | VIRTIO_BIT(57) | VIRTIO_BIT(60))

static uint64_t bits(unsigned first, unsigned last)
{
	return (VIRTIO_BIT(last - first + 1) - 1) << first;
}

/* Of the bits between the type's own, what a driver may see. */
static uint64_t transport_features(void)
{
	return VIRTIO_BIT(VIRTIO_BIT_INDIRECT) | VIRTIO_BIT(VIRTIO_BIT_EVENT_IDX) |
	       VIRTIO_BIT(VIRTIO_BIT_VERSION_1) | VIRTIO_BIT(VIRTIO_BIT_RING_PACKED) |
	       VIRTIO_BIT(VIRTIO_BIT_IN_ORDER) | VIRTIO_BIT(VIRTIO_BIT_ORDER_PLATFORM) |
	       VIRTIO_BIT(VIRTIO_BIT_NOTIFICATION_DATA) | VIRTIO_BIT(VIRTIO_BIT_RING_RESET);
}

uint64_t vuf_offer(const struct vhost_user *vu, unsigned nr_queues)
{
	uint64_t offer = vu->offered & ~vu->features_off;

	offer &= ~bits(TRANSPORT_FIRST, TRANSPORT_LAST) | transport_features();
	if (vu->b.info.type == VIRTIO_ID_NET && nr_queues % 2 == 0)
		offer &= ~NET_NEEDS_CONTROL;
	if (vuf_is_translated(vu))
		offer |= VIRTIO_BIT(VIRTIO_BIT_ACCESS_PLATFORM);
	return offer | vu->features_ours;
}

/* --- queues --- */

/* How many the back-end has room for. */
static uint64_t queue_limit(const struct vhost_user *vu)
{
	uint64_t num = vu->attach.queue_num;

	if (!vuf_speaks(vu, VHOST_USER_PROTOCOL_F_MQ) || vu->force)
		return VUF_MAX_QUEUES;
	if (vu->b.info.type == VIRTIO_ID_NET)
		num = MIN(num, (uint64_t)VUF_MAX_QUEUES) * 2 + 1;
	return MIN(num, (uint64_t)VUF_MAX_QUEUES);
}

static unsigned queue_count(const struct vhost_user *vu)
{
	const struct virtio_type *type = virtio_type_find(vu->b.info.type);
	unsigned usual = type ? type->default_queues : 1;

	if (vu->nr_queue_sizes)
		return vu->nr_queue_sizes;
	if (!vuf_speaks(vu, VHOST_USER_PROTOCOL_F_MQ) || vu->b.info.type == VIRTIO_ID_NET)
		return usual;
	return (unsigned)MIN(vu->attach.queue_num, (uint64_t)VUF_MAX_QUEUES);
}

static int take_sizes(struct vhost_user *vu, struct err *err)
{
	struct virtio_info *info = &vu->b.info;

	for (unsigned i = 0; i < info->nr_queues; i++) {
		uint16_t size = vu->nr_queue_sizes ? vu->queue_sizes[i] : vu->default_queue_size;

		if (!size || size > VIRTIO_QUEUE_MAX_SIZE || !is_pow2(size))
			return err_set(err, -EINVAL,
				"queue %u: size %u, expected a power of two up to %d", i, size,
				VIRTIO_QUEUE_MAX_SIZE);
		info->queue_sizes[i] = size;
	}
	return 0;
}

static int take_queues(struct vhost_user *vu, struct err *err)
{
	unsigned nr = queue_count(vu);
	int rc = 0;

	if (vuf_speaks(vu, VHOST_USER_PROTOCOL_F_MQ) && !vu->attach.queue_num)
		return err_set(err, -EPROTO, "GET_QUEUE_NUM: 0 queues");
	if (nr > queue_limit(vu))
		return err_set(err, -EINVAL, "%u queues asked for, the back-end has %llu", nr,
			(unsigned long long)queue_limit(vu));
	if (!vu->force)
		rc = virtio_type_check_queues(vu->b.info.type, nr, err);
	if (rc)
		return rc;
	vu->rings = calloc(MAX(nr, 1u), sizeof(*vu->rings));
	if (!vu->rings)
		return err_set(err, -ENOMEM, "out of memory");
	vu->b.info.nr_queues = (uint16_t)nr;
	return take_sizes(vu, err);
}

/* --- shared memory --- */

static int take_shm(struct vhost_user *vu, struct err *err)
{
	const struct vhost_user_shmem_config *c = &vu->attach.shmem;
	struct virtio_info *info = &vu->b.info;
	unsigned nr = 0;

	for (unsigned id = 0; id < VHOST_USER_MAX_SHMEM; id++) {
		if (!c->sizes[id])
			continue;
		if (c->sizes[id] % PAGE_SIZE_4K || c->sizes[id] > MAX_SHM_SIZE)
			return err_set(err, -EPROTO,
				"GET_SHMEM_CONFIG: region %u of 0x%llx bytes, expected a multiple of 4096 up to 0x%llx",
				id, (unsigned long long)c->sizes[id], MAX_SHM_SIZE);
		if (nr == VIRTIO_MAX_SHM) {
			log_warn("%s: more than %d shared-memory regions; the rest is left out",
				vu->b.id, VIRTIO_MAX_SHM);
			break;
		}
		info->shm[nr].id = (uint8_t)id;
		info->shm[nr++].size = c->sizes[id];
	}
	return 0;
}

/* --- the whole --- */

static int check_features(const struct vhost_user *vu, struct err *err)
{
	char name[16];

	if (vuf_is_translated(vu) && !(vu->offered >> VIRTIO_BIT_ACCESS_PLATFORM & 1))
		return err_set(err, -EPROTO,
			"the back-end offers features 0x%llx without VIRTIO_F_ACCESS_PLATFORM: it cannot be "
			"behind an IOMMU (one of outboard's own: --iommu)",
			(unsigned long long)vu->offered);
	if (vu->offered >> VIRTIO_BIT_VERSION_1 & 1)
		return 0;
	return err_set(err, -EPROTO,
		"the back-end offers features 0x%llx without VIRTIO_F_VERSION_1: it is a legacy %s device",
		(unsigned long long)vu->offered, virtio_type_name(vu->b.info.type, name));
}

int vuf_take_shape(struct vhost_user *vu, struct err *err)
{
	int rc = check_features(vu, err);

	if (!rc)
		rc = take_queues(vu, err);
	if (!rc)
		rc = take_shm(vu, err);
	if (rc)
		return rc;
	vu->b.info.features = vuf_offer(vu, vu->b.info.nr_queues);
	return 0;
}

int vuf_same_shape(struct vhost_user *vu, struct err *err)
{
	const struct virtio_info *info = &vu->b.info;

	if (info->nr_queues > queue_limit(vu))
		return err_set(err, -EPROTO, "it came back with %llu queues, it had %u",
			(unsigned long long)queue_limit(vu), info->nr_queues);
	for (unsigned i = 0; i < VIRTIO_MAX_SHM; i++)
		if (info->shm[i].size &&
			vu->attach.shmem.sizes[info->shm[i].id] != info->shm[i].size)
			return err_set(err, -EPROTO,
				"shared-memory region %u came back with 0x%llx bytes, it had 0x%llx",
				info->shm[i].id,
				(unsigned long long)vu->attach.shmem.sizes[info->shm[i].id],
				(unsigned long long)info->shm[i].size);
	return 0;
}
