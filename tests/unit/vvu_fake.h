/*
 * vvu_fake.h - a virtio-vhost-user function behind a fake VFIO, for the tests of its driver
 *
 * The device's descriptor is a memfd: BARs of memory and doorbells can be mapped from it, registers
 * are answered here. The test is the sibling: it fills the driver's rx buffers, takes its tx buffers,
 * and raises the vectors. What the driver does comes on its own thread; what it has done is waited
 * for by a condition.
 */
#ifndef TESTS_VVU_FAKE_H
#define TESTS_VVU_FAKE_H

#include <cmocka.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "serve/vfio_dev.h"
#include "wire/vfio_kernel.h"
#include "wire/virtio.h"
#include "wire/vvu.h"

#define FAKE_NAME      "0000:00:10.0"
#define FAKE_QUEUES    4
#define FAKE_MEMORY    (4 * MIB)
#define FAKE_SMALL     (2 * MIB)
#define FAKE_AT(r)     ((uint64_t)(r) << 30)
#define FAKE_IOVA      0x200000ull
#define FAKE_DEADLINE  30
#define FAKE_NO_VECTOR 0xffff

struct fake_queue {
	uint16_t size, vector, enabled;
	uint32_t addr[6]; /* desc, driver, device: low and high */
	uint16_t avail, used;
};

struct vvu_fake {
	struct vfio_calls calls;
	char root[64];
	int memfd;
	uint8_t *memory, *small, *bells;
	uint8_t config[256];
	unsigned nr_vectors, granted;
	bool cdev;	  /* the kernel has iommufd */
	bool refuses;	  /* FEATURES_OK */
	bool unsafe;	  /* interrupts are not remapped, and the kernel minds */
	bool minds_iommufd; /* it does so for iommufd */
	bool slow;	  /* a reset takes some time */
	unsigned resets, hang_ups;
	uint64_t last_iova; /* of the only range that is allowed */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* All of it under the lock */
	uint8_t status;
	uint16_t feature_select, queue_select, notify_select, config_vector;
	uint64_t accepted;
	struct vvu_config vvu;
	uint16_t kick_vector[FAKE_QUEUES];
	struct fake_queue queues[VVU_NR_QUEUES];
	uint8_t *dma;
	size_t dma_size;
	uint64_t dma_iova;
	int irqs[64];
	unsigned nr_irqs;
};

static inline struct vvu_fake *fake_of(const struct vfio_calls *c)
{
	return container_of((struct vfio_calls *)(uintptr_t)c, struct vvu_fake, calls);
}

/* --- registers --- */

static inline void fake_reset(struct vvu_fake *f)
{
	memset(f->queues, 0, sizeof(f->queues));
	for (unsigned i = 0; i < VVU_NR_QUEUES; i++)
		f->queues[i] = (struct fake_queue){ .size = 64, .vector = FAKE_NO_VECTOR };
	for (unsigned i = 0; i < FAKE_QUEUES; i++)
		f->kick_vector[i] = FAKE_NO_VECTOR;
	f->vvu.status = 0;
	f->status = 0;
	f->config_vector = FAKE_NO_VECTOR;
	f->resets++;
}

#define FAKE_IS(field) (off == offsetof(struct virtio_pci_common_cfg, field))

static inline uint32_t fake_common_read(struct vvu_fake *f, uint64_t off)
{
	const struct fake_queue *q = &f->queues[f->queue_select % VVU_NR_QUEUES];
	uint64_t features = VIRTIO_BIT(VIRTIO_BIT_VERSION_1) | VIRTIO_BIT(VIRTIO_BIT_EVENT_IDX) |
			    VIRTIO_BIT(VIRTIO_BIT_ACCESS_PLATFORM);

	if (FAKE_IS(device_feature))
		return (uint32_t)(features >> (f->feature_select ? 32 : 0));
	if (FAKE_IS(device_status)) {
		uint8_t was = f->status;

		if (f->slow && was == 0x40)
			f->status = 0;
		return was;
	}
	if (FAKE_IS(msix_config))
		return f->config_vector;
	if (FAKE_IS(queue_size))
		return q->size;
	if (FAKE_IS(queue_msix_vector))
		return q->vector;
	if (FAKE_IS(queue_notify_off))
		return f->queue_select;
	return 0;
}

static inline void fake_set_status(struct vvu_fake *f, uint8_t value)
{
	if (!value) {
		fake_reset(f);
		f->status = f->slow ? 0x40 : 0;
		return;
	}
	if (f->refuses)
		value &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	f->status = value;
}

static inline void fake_common_write(struct vvu_fake *f, uint64_t off, uint32_t value)
{
	struct fake_queue *q = &f->queues[f->queue_select % VVU_NR_QUEUES];

	if (FAKE_IS(device_feature_select))
		f->feature_select = (uint16_t)value;
	else if (FAKE_IS(guest_feature_select))
		f->feature_select = (uint16_t)value;
	else if (FAKE_IS(guest_feature))
		f->accepted |= (uint64_t)value << (f->feature_select ? 32 : 0);
	else if (FAKE_IS(device_status))
		fake_set_status(f, (uint8_t)value);
	else if (FAKE_IS(msix_config))
		f->config_vector = (uint16_t)value;
	else if (FAKE_IS(queue_select))
		f->queue_select = (uint16_t)value;
	else if (FAKE_IS(queue_size))
		q->size = (uint16_t)value;
	else if (FAKE_IS(queue_msix_vector))
		q->vector = (uint16_t)value;
	else if (FAKE_IS(queue_enable))
		q->enabled = (uint16_t)value;
	else if (off >= offsetof(struct virtio_pci_common_cfg, queue_desc_lo) && off < 0x38)
		q->addr[(off - offsetof(struct virtio_pci_common_cfg, queue_desc_lo)) / 4] = value;
}

static inline uint32_t fake_register(struct vvu_fake *f, uint64_t at, uint32_t value, bool write)
{
	uint64_t off = at % (1 << 30);

	if (at >= FAKE_AT(VVU_BAR_BELLS)) {
		assert_true(off >= VVU_NOTIFY && off < VVU_NOTIFY + sizeof(struct vvu_notify));
		if (off == VVU_NOTIFY && write)
			f->notify_select = (uint16_t)value;
		else if (write && f->notify_select < FAKE_QUEUES)
			f->kick_vector[f->notify_select] = (uint16_t)value;
		return f->notify_select < FAKE_QUEUES ? f->kick_vector[f->notify_select]
						      : FAKE_NO_VECTOR;
	}
	if (off < 0x1000) {
		if (write)
			fake_common_write(f, off, value);
		return write ? 0 : fake_common_read(f, off);
	}
	if (off >= 0x3000)
		return 0; /* a kick: whoever waits is woken by the caller */
	assert_true(off >= 0x2000 && off < 0x2000 + sizeof(f->vvu));
	if (off == 0x2000 && write) {
		/* Without a back-end nobody is connected. */
		f->hang_ups += f->vvu.status & VVU_STATUS_FRONTEND_UP && !value;
		f->vvu.status = value ? f->vvu.status | value : 0;
	}
	return off == 0x2000 ? f->vvu.status : f->vvu.max_queues;
}

static inline ssize_t fake_pread(
	const struct vfio_calls *c, int fd, void *buf, size_t len, uint64_t off)
{
	struct vvu_fake *f = fake_of(c);
	uint32_t value;

	if (off >= FAKE_AT(VFIO_DEV_CONFIG)) {
		memcpy(buf, f->config + off - FAKE_AT(VFIO_DEV_CONFIG), len);
		return (ssize_t)len;
	}
	pthread_mutex_lock(&f->lock);
	value = fake_register(f, off, 0, false);
	pthread_mutex_unlock(&f->lock);
	memcpy(buf, &value, len);
	return (ssize_t)len;
}

static inline ssize_t fake_pwrite(
	const struct vfio_calls *c, int fd, const void *buf, size_t len, uint64_t off)
{
	struct vvu_fake *f = fake_of(c);
	uint32_t value = 0;

	if (off >= FAKE_AT(VFIO_DEV_CONFIG)) {
		memcpy(f->config + off - FAKE_AT(VFIO_DEV_CONFIG), buf, len);
		return (ssize_t)len;
	}
	assert_true(len <= sizeof(value));
	memcpy(&value, buf, len);
	pthread_mutex_lock(&f->lock);
	fake_register(f, off, value, true);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	return (ssize_t)len;
}

/* --- the kernel --- */

static inline int fake_open(const struct vfio_calls *c, const char *path)
{
	struct vvu_fake *f = fake_of(c);

	if (!strcmp(path, "/dev/iommu"))
		return f->cdev ? fd_eventfd() : -ENOENT;
	if (!strcmp(path, "/dev/vfio/devices/vfio0"))
		return dup(f->memfd);
	if (!strcmp(path, "/dev/vfio/vfio") || !strcmp(path, "/dev/vfio/7"))
		return fd_eventfd();
	return -ENOENT;
}

static inline int fake_region(struct vvu_fake *f, struct vfio_region_info *r)
{
	static const uint64_t sizes[] = { VVU_REGS_SIZE, FAKE_SMALL, VVU_BELLS_SIZE, 0, FAKE_MEMORY };

	r->offset = FAKE_AT(r->index);
	r->size = r->index < ARRAY_SIZE(sizes) ? sizes[r->index] : 0;
	r->flags = r->index && r->size ? VFIO_REGION_INFO_FLAG_MMAP : 0;
	if (r->index == VFIO_PCI_CONFIG_REGION_INDEX) {
		r->size = sizeof(f->config);
		r->offset = FAKE_AT(VFIO_DEV_CONFIG);
	}
	return 0;
}

static inline int fake_iommu_info(struct vvu_fake *f, struct vfio_iommu_type1_info *info)
{
	struct vfio_iommu_type1_info_cap_iova_range *cap = (void *)(info + 1);

	info->flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
	info->iova_pgsizes = PAGE_SIZE_4K;
	info->cap_offset = (uint32_t)align_up(sizeof(*info), 8);
	cap = (void *)((uint8_t *)info + info->cap_offset);
	cap->header = (struct vfio_info_cap_header){ VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 2, 0 };
	cap->nr_iovas = 1;
	cap->iova_ranges[0].start = FAKE_IOVA;
	cap->iova_ranges[0].end = f->last_iova;
	return 0;
}

static inline int fake_map(struct vvu_fake *f, uint64_t vaddr, uint64_t iova, uint64_t size)
{
	assert_true(iova >= FAKE_IOVA && size && size - 1 <= f->last_iova - iova);
	f->dma = (uint8_t *)(uintptr_t)vaddr;
	f->dma_size = size;
	f->dma_iova = iova;
	return 0;
}

static inline int fake_irqs(struct vvu_fake *f, const struct vfio_irq_set *set)
{
	if (set->index != VFIO_PCI_MSIX_IRQ_INDEX)
		return -EINVAL;
	/* What Linux says when it has fewer. */
	if (set->count > f->granted)
		return (int)f->granted;
	memcpy(f->irqs, set->data, set->count * sizeof(int));
	f->nr_irqs = set->count;
	return 0;
}

static inline int fake_ioas(struct vvu_fake *f, unsigned long request, void *arg)
{
	struct iommu_ioas_iova_ranges *ranges = arg;
	const struct iommu_ioas_map *map = arg;

	switch (request) {
	case IOMMU_IOAS_ALLOC:
		((struct iommu_ioas_alloc *)arg)->out_ioas_id = 5;
		return 0;
	case IOMMU_IOAS_IOVA_RANGES:
		*(struct iommu_iova_range *)(uintptr_t)ranges->allowed_iovas =
			(struct iommu_iova_range){ FAKE_IOVA, f->last_iova };
		ranges->num_iovas = 1;
		return 0;
	case IOMMU_IOAS_MAP:
		assert_int_equal(map->ioas_id, 5);
		return fake_map(f, map->user_va, map->iova, map->length);
	}
	return -ENOTTY;
}

static inline int fake_ioctl(const struct vfio_calls *c, int fd, unsigned long request, void *arg)
{
	struct vvu_fake *f = fake_of(c);
	const struct vfio_iommu_type1_dma_map *map = arg;

	switch (request) {
	case VFIO_GROUP_GET_STATUS:
		((struct vfio_group_status *)arg)->flags = VFIO_GROUP_FLAGS_VIABLE;
		return 0;
	case VFIO_SET_IOMMU:
		return f->unsafe ? -EPERM : 0;
	case VFIO_DEVICE_BIND_IOMMUFD:
		return f->minds_iommufd ? -EPERM : 0;
	case VFIO_GROUP_SET_CONTAINER:
	case VFIO_DEVICE_ATTACH_IOMMUFD_PT:
		return 0;
	case VFIO_GROUP_GET_DEVICE_FD:
		assert_string_equal(arg, FAKE_NAME);
		return dup(f->memfd);
	case VFIO_DEVICE_GET_REGION_INFO:
		return fake_region(f, arg);
	case VFIO_DEVICE_GET_IRQ_INFO:
		((struct vfio_irq_info *)arg)->count = f->nr_vectors;
		return 0;
	case VFIO_DEVICE_SET_IRQS:
		return fake_irqs(f, arg);
	case VFIO_IOMMU_GET_INFO:
		return fake_iommu_info(f, arg);
	case VFIO_IOMMU_MAP_DMA:
		return fake_map(f, map->vaddr, map->iova, map->size);
	}
	return fake_ioas(f, request, arg);
}

/* --- making --- */

static inline uint8_t fake_cap(struct vvu_fake *f, uint8_t at, uint8_t type, uint8_t bar,
	uint8_t id, uint64_t off, uint64_t len, uint8_t cap_len, uint32_t more)
{
	struct virtio_pci_cap64 cap = {
		.cap = {
			.cap_vndr = PCI_CAP_ID_VNDR,
			.cap_next = (uint8_t)(at + 24),
			.cap_len = cap_len,
			.cfg_type = type,
			.bar = bar,
			.id = id,
			.offset = (uint32_t)off,
			.length = (uint32_t)len,
		},
		.offset_hi = more,
	};

	memcpy(f->config + at, &cap, cap_len);
	return (uint8_t)(at + 24);
}

static inline void fake_config(struct vvu_fake *f)
{
	const uint16_t id[2] = { 0x1af4, 0x1040 + VVU_TYPE };
	uint8_t at = 0x40, last;

	memcpy(f->config, id, sizeof(id));
	f->config[PCI_CAPABILITY_LIST] = at;
	at = fake_cap(f, at, VIRTIO_PCI_CAP_COMMON_CFG, 0, 0, 0, 56, 16, 0);
	at = fake_cap(f, at, VIRTIO_PCI_CAP_DEVICE_CFG, 0, 0, 0x2000, 0x1000, 16, 0);
	at = fake_cap(f, at, VIRTIO_PCI_CAP_NOTIFY_CFG, 0, 0, 0x3000, 0x1000, 20, 4);
	at = fake_cap(f, at, VVU_CAP_DOORBELL, 2, 0, 0, VVU_DOORBELLS_LEN, 20, VVU_DOORBELL_STEP);
	at = fake_cap(f, at, VVU_CAP_NOTIFICATION, 2, 0, VVU_NOTIFY, VVU_NOTIFY_LEN, 16, 0);
	at = fake_cap(f, at, VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, 1, VVU_SHM_LOG, 0, MIB, 16, 0);
	last = at;
	at = fake_cap(f, at, VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, 1, VVU_SHM_INFLIGHT, MIB, MIB, 16, 0);
	last = at;
	fake_cap(f, at, VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, 4, VVU_SHM_MEMORY, 0, FAKE_MEMORY, 24, 0);
	f->config[last + 1] = 0;
}

static inline void fake_tree(struct vvu_fake *f)
{
	char path[256], *end;
	static const char *const dirs[] = { "/sys", "/bus", "/pci", "/devices", "/" FAKE_NAME,
		"/vfio-dev", "/vfio0" };

	snprintf(f->root, sizeof(f->root), "/tmp/vvu-fake-XXXXXX");
	assert_non_null(mkdtemp(f->root));
	end = path + snprintf(path, sizeof(path), "%s", f->root);
	for (unsigned i = 0; i < ARRAY_SIZE(dirs); i++) {
		end += snprintf(end, (size_t)(path + sizeof(path) - end), "%s", dirs[i]);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/" FAKE_NAME "/driver", f->root);
	assert_int_equal(symlink("../drivers/vfio-pci", path), 0);
	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/" FAKE_NAME "/iommu_group", f->root);
	assert_int_equal(symlink("../../kernel/iommu_groups/7", path), 0);
}

static inline void fake_untree(struct vvu_fake *f)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r %s", f->root);
	assert_int_equal(system(command), 0);
}

static inline void *fake_mmap(struct vvu_fake *f, unsigned region, size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, f->memfd,
		(off_t)FAKE_AT(region));

	assert_ptr_not_equal(at, MAP_FAILED);
	return at;
}

static inline void fake_init(struct vvu_fake *f)
{
	memset(f, 0, sizeof(*f));
	fake_tree(f);
	f->calls = (struct vfio_calls){ f->root, fake_open, fake_ioctl, fake_pread, fake_pwrite };
	f->memfd = memfd_create("function", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->memfd, (off_t)FAKE_AT(8)), 0);
	f->memory = fake_mmap(f, VVU_BAR_MEMORY, FAKE_MEMORY);
	f->small = fake_mmap(f, VVU_BAR_SMALL, FAKE_SMALL);
	f->bells = fake_mmap(f, VVU_BAR_BELLS, VVU_BELLS_SIZE);
	f->nr_vectors = f->granted = VVU_NR_VECTORS(FAKE_QUEUES);
	f->vvu.max_queues = FAKE_QUEUES;
	f->last_iova = UINT32_MAX;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	fake_reset(f);
	fake_config(f);
}

static inline void fake_fini(struct vvu_fake *f)
{
	munmap(f->memory, FAKE_MEMORY);
	munmap(f->small, FAKE_SMALL);
	munmap(f->bells, VVU_BELLS_SIZE);
	fd_close(&f->memfd);
	fake_untree(f);
}

/* --- what the test does as the device --- */

static inline void *fake_dma(struct vvu_fake *f, uint64_t iova, size_t len)
{
	assert_true(iova >= f->dma_iova && range_ok(iova - f->dma_iova, len, f->dma_size));
	return f->dma + (iova - f->dma_iova);
}

static inline uint64_t fake_addr(const struct fake_queue *q, unsigned part)
{
	return q->addr[2 * part] | (uint64_t)q->addr[2 * part + 1] << 32;
}

static inline struct vring_avail *fake_avail(struct vvu_fake *f, unsigned q)
{
	return fake_dma(f, fake_addr(&f->queues[q], 1), 4);
}

static inline struct vring_used *fake_used(struct vvu_fake *f, unsigned q)
{
	return fake_dma(f, fake_addr(&f->queues[q], 2), 4);
}

static inline void fake_raise(struct vvu_fake *f, unsigned vector)
{
	assert_true(vector < f->nr_irqs);
	fd_signal(f->irqs[vector]);
}

/* The driver has something to say: until then, or a second deadline too many. Lock held. */
static inline void fake_wait(struct vvu_fake *f)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += FAKE_DEADLINE;
	assert_int_equal(pthread_cond_timedwait(&f->changed, &f->lock, &until), 0);
}

/* The status has all these bits. */
static inline void fake_wait_up(struct vvu_fake *f, uint32_t bits)
{
	pthread_mutex_lock(&f->lock);
	while ((f->vvu.status & bits) != bits)
		fake_wait(f);
	pthread_mutex_unlock(&f->lock);
}

static inline bool fake_has(struct vvu_fake *f, unsigned queue)
{
	struct fake_queue *q = &f->queues[queue];

	return q->enabled && f->status & VIRTIO_CONFIG_S_DRIVER_OK &&
	       __atomic_load_n(&fake_avail(f, queue)->idx, __ATOMIC_ACQUIRE) != q->avail;
}

/* The next entry that the driver has posted. */
static inline unsigned fake_pop(struct vvu_fake *f, unsigned queue, struct vring_desc *d)
{
	struct fake_queue *q = &f->queues[queue];
	unsigned id;

	pthread_mutex_lock(&f->lock);
	while (!fake_has(f, queue))
		fake_wait(f);
	id = fake_avail(f, queue)->ring[q->avail++ % q->size];
	pthread_mutex_unlock(&f->lock);
	assert_true(id < q->size);
	*d = ((struct vring_desc *)fake_dma(f, fake_addr(q, 0), 16))[id];
	return id;
}

static inline void fake_push(struct vvu_fake *f, unsigned queue, uint32_t id, uint32_t len)
{
	struct fake_queue *q = &f->queues[queue];
	struct vring_used *used = fake_used(f, queue);

	used->ring[q->used++ % q->size] = (struct vring_used_elem){ id, len };
	__atomic_store_n(&used->idx, q->used, __ATOMIC_RELEASE);
	fake_raise(f, q->vector);
}

static inline void fake_give(struct vvu_fake *f, const void *bytes, size_t len)
{
	struct vring_desc d;
	unsigned id = fake_pop(f, VVU_QUEUE_RX, &d);

	assert_true(d.flags & VRING_DESC_F_WRITE && len <= d.len);
	if (len)
		memcpy(fake_dma(f, d.addr, d.len), bytes, len);
	fake_push(f, VVU_QUEUE_RX, id, (uint32_t)len);
}

static inline void fake_take(struct vvu_fake *f, struct vhost_user_msg *m)
{
	struct vring_desc d;
	unsigned id = fake_pop(f, VVU_QUEUE_TX, &d);

	assert_false(d.flags & VRING_DESC_F_WRITE);
	memset(m, 0, sizeof(*m));
	assert_true(d.len >= sizeof(m->header) && d.len <= sizeof(*m));
	memcpy(m, fake_dma(f, d.addr, d.len), d.len);
	assert_int_equal(m->header.size, d.len - sizeof(m->header));
	fake_push(f, VVU_QUEUE_TX, id, 0);
}

static inline void fake_set_vvu(struct vvu_fake *f, uint32_t status)
{
	pthread_mutex_lock(&f->lock);
	f->vvu.status = status;
	pthread_mutex_unlock(&f->lock);
	fake_raise(f, f->config_vector);
}

#endif
