/*
 * vvu_pci.c - the virtio-vhost-user function as its driver sees it
 *
 * Owns:   the device and the mapping of its doorbells.
 * Trusts: nothing that the function says: a place lies inside its BAR, the list of capabilities is
 *         walked as far as the configuration space goes, what was written is read back where the
 *         function may refuse it.
 */
#include "serve/vvu_pci.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "wire/virtio.h"

#define VENDOR_RED_HAT 0x1af4
#define FIRST_MODERN   0x1040
/* As many as there is room for behind the header, so a list that bites its tail ends. */
#define MAX_CAPS ((PCI_CFG_SPACE_SIZE - PCI_STD_HEADER_SIZEOF) / 4)

static int cfg_read(struct vvu_pci *p, unsigned off, void *buf, size_t len)
{
	return vfio_dev_read(&p->dev, VFIO_DEV_CONFIG, off, buf, len);
}

static int gone(const struct vvu_pci *p, int rc, const char *what, struct err *err)
{
	return err_set(err, rc, "%s: %s: %s", p->dev.name, what, strerror(-rc));
}

/* --- places --- */

static int check_identity(struct vvu_pci *p, struct err *err)
{
	uint16_t id[2];
	int rc = cfg_read(p, PCI_VENDOR_ID, id, sizeof(id));

	if (rc)
		return gone(p, rc, "configuration space", err);
	if (id[0] != VENDOR_RED_HAT || id[1] != FIRST_MODERN + VVU_TYPE)
		return err_set(err, -ENODEV, "%s is %04x:%04x, expected %04x:%04x", p->dev.name,
			id[0], id[1], VENDOR_RED_HAT, FIRST_MODERN + VVU_TYPE);
	return 0;
}

/* What cap says, if it lies inside its BAR. */
static int to_place(struct vvu_pci *p, const struct virtio_pci_cap64 *cap, struct vvu_place *out,
	struct err *err)
{
	bool wide = cap->cap.cfg_type == VIRTIO_PCI_CAP_SHARED_MEMORY_CFG &&
		    cap->cap.cap_len >= sizeof(*cap);
	uint64_t off = cap->cap.offset | (wide ? (uint64_t)cap->offset_hi << 32 : 0);
	uint64_t len = cap->cap.length | (wide ? (uint64_t)cap->length_hi << 32 : 0), size;

	if (cap->cap.bar >= VFIO_DEV_BARS)
		return 0; /* reserved values are to be ignored */
	size = p->dev.regions[cap->cap.bar].size;
	/* Of a short capability 4 GiB have no bits left: the rest of the BAR is meant. */
	if (!len && cap->cap.cfg_type == VIRTIO_PCI_CAP_SHARED_MEMORY_CFG && off < size)
		len = size - off;
	if (!len || !range_ok(off, len, size))
		return err_set(err, -EINVAL,
			"%s: capability %u: 0x%" PRIx64 "+0x%" PRIx64 " of BAR %u of 0x%" PRIx64
			" bytes",
			p->dev.name, cap->cap.cfg_type, off, len, cap->cap.bar, size);
	*out = (struct vvu_place){ .bar = cap->cap.bar, .off = off, .len = len };
	return 0;
}

/* The first of a kind counts. */
static int take_place(struct vvu_pci *p, const struct virtio_pci_cap64 *cap, struct vvu_place *at,
	struct err *err)
{
	return at->len ? 0 : to_place(p, cap, at, err);
}

static int take_shm(struct vvu_pci *p, const struct virtio_pci_cap64 *cap, struct err *err)
{
	/* A function that has one only may leave its id out. */
	uint8_t id = cap->cap.id ? cap->cap.id : VVU_SHM_MEMORY;

	return id < ARRAY_SIZE(p->shm) ? take_place(p, cap, &p->shm[id], err) : 0;
}

/* Two kinds have a number of their own behind the rest. */
static int take_step(struct vvu_pci *p, unsigned at, const struct virtio_pci_cap64 *cap,
	struct vvu_place *place, uint32_t *step, struct err *err)
{
	if (place->len)
		return 0;
	if (cap->cap.cap_len < VVU_DOORBELL_CAP_LEN ||
		cfg_read(p, at + VVU_DOORBELL_CAP_STEP, step, sizeof(*step)))
		return err_set(err, -EINVAL, "%s: capability %u is too short", p->dev.name,
			cap->cap.cfg_type);
	return to_place(p, cap, place, err);
}

static int take_cap(struct vvu_pci *p, unsigned at, struct err *err)
{
	struct virtio_pci_cap64 cap = { 0 };
	size_t room = MIN(sizeof(cap), PCI_CFG_SPACE_SIZE - at);
	int rc = cfg_read(p, at, &cap, room);

	if (rc)
		return gone(p, rc, "capability", err);
	if (cap.cap.cap_len < sizeof(cap.cap))
		return 0;
	switch (cap.cap.cfg_type) {
	case VIRTIO_PCI_CAP_COMMON_CFG:
		return take_place(p, &cap, &p->common, err);
	case VIRTIO_PCI_CAP_NOTIFY_CFG:
		return take_step(p, at, &cap, &p->notify, &p->notify_step, err);
	case VIRTIO_PCI_CAP_DEVICE_CFG:
		return take_place(p, &cap, &p->config, err);
	case VVU_CAP_DOORBELL:
		return take_step(p, at, &cap, &p->bells, &p->bell_step, err);
	case VVU_CAP_NOTIFICATION:
		return take_place(p, &cap, &p->notification, err);
	case VIRTIO_PCI_CAP_SHARED_MEMORY_CFG:
		return take_shm(p, &cap, err);
	}
	return 0;
}

static int walk_caps(struct vvu_pci *p, struct err *err)
{
	uint8_t head[2], at = 0;
	int rc = cfg_read(p, PCI_CAPABILITY_LIST, &at, sizeof(at));

	for (unsigned n = 0; !rc && n < MAX_CAPS; n++) {
		at &= ~3;
		if (at < PCI_STD_HEADER_SIZEOF)
			return 0;
		rc = cfg_read(p, at, head, sizeof(head));
		if (!rc && head[0] == PCI_CAP_ID_VNDR) {
			rc = take_cap(p, at, err);
			if (rc)
				return rc;
		}
		at = head[1];
	}
	return rc ? gone(p, rc, "configuration space", err) : 0;
}

static int check_places(struct vvu_pci *p, struct err *err)
{
	const struct {
		const char *name;
		const struct vvu_place *place;
		uint64_t len;
	} all[] = {
		{ "common configuration", &p->common, offsetof(struct virtio_pci_common_cfg, queue_used_hi) + 4 },
		{ "notifications of queues", &p->notify, sizeof(uint16_t) },
		{ "device configuration", &p->config, sizeof(struct vvu_config) },
		{ "doorbells", &p->bells, sizeof(uint16_t) },
		{ "notification configuration", &p->notification, sizeof(struct vvu_notify) },
		{ "shared memory", &p->shm[VVU_SHM_MEMORY], PAGE_SIZE_4K },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].place->len < all[i].len)
			return err_set(err, -ENODEV, "%s has no %s, or too few bytes of it",
				p->dev.name, all[i].name);
	for (size_t i = VVU_SHM_MEMORY; i < ARRAY_SIZE(p->shm); i++) {
		const struct vvu_place *s = &p->shm[i];

		if (s->len && (s->off % PAGE_SIZE_4K || !p->dev.regions[s->bar].mappable))
			return err_set(err, -ENODEV, "%s: shared memory %zu cannot be mapped",
				p->dev.name, i);
	}
	return 0;
}

/* How many queues there are, and that their doorbells are where they are said to be. */
static int check_queues(struct vvu_pci *p, struct err *err)
{
	struct vvu_config c;
	int rc = vfio_dev_read(&p->dev, p->config.bar,
		p->config.off + offsetof(struct vvu_config, max_queues), &c.max_queues,
		sizeof(c.max_queues));
	uint64_t last;

	if (rc)
		return gone(p, rc, "device configuration", err);
	if (!c.max_queues)
		return err_set(err, -ENODEV, "%s serves no queue", p->dev.name);
	/* Messages cannot name more. */
	p->max_queues = MIN(c.max_queues, VVU_MAX_QUEUES);
	last = (uint64_t)(VVU_NR_DOORBELLS(p->max_queues) - 1) * p->bell_step;
	if (p->bell_step % 2 || p->bells.off % 2 || !range_ok(last, 2, p->bells.len))
		return err_set(err, -ENODEV,
			"%s: %u doorbells, %u bytes apart, in 0x%" PRIx64 " bytes", p->dev.name,
			VVU_NR_DOORBELLS(p->max_queues), p->bell_step, p->bells.len);
	return 0;
}

static int map_bells(struct vvu_pci *p, struct err *err)
{
	const struct vfio_dev_region *r = &p->dev.regions[p->bells.bar];
	uint64_t start = align_down(p->bells.off, PAGE_SIZE_4K);
	uint64_t end = align_up(p->bells.off + p->bells.len, PAGE_SIZE_4K);
	void *at = MAP_FAILED;

	errno = ENXIO;
	if (r->mappable && end <= align_up(r->size, PAGE_SIZE_4K))
		at = mmap(NULL, end - start, PROT_READ | PROT_WRITE, MAP_SHARED, p->dev.fd,
			(off_t)(r->at + start));
	if (at == MAP_FAILED)
		return gone(p, -errno, "doorbells cannot be mapped", err);
	p->bells_at = at;
	p->bells_mapped = end - start;
	return 0;
}

int vvu_pci_init(struct vvu_pci *p, struct err *err)
{
	int rc = check_identity(p, err);

	if (!rc)
		rc = walk_caps(p, err);
	if (!rc)
		rc = check_places(p, err);
	if (!rc)
		rc = check_queues(p, err);
	return rc ? rc : map_bells(p, err);
}

void vvu_pci_fini(struct vvu_pci *p)
{
	if (p->bells_at)
		munmap(p->bells_at, p->bells_mapped);
	p->bells_at = NULL;
	vfio_dev_close(&p->dev);
}

volatile uint16_t *vvu_pci_bell(const struct vvu_pci *p, unsigned index)
{
	uint64_t at = p->bells.off % PAGE_SIZE_4K + (uint64_t)index * p->bell_step;

	return (volatile uint16_t *)(void *)(p->bells_at + at);
}

/* --- registers --- */

#define COMMON(field)                                                                              \
	offsetof(struct virtio_pci_common_cfg, field),                                             \
		sizeof(((struct virtio_pci_common_cfg *)0)->field)

static int put(struct vvu_pci *p, size_t off, size_t len, uint32_t value)
{
	return vfio_dev_write(&p->dev, p->common.bar, p->common.off + off, &value, len);
}

static int get(struct vvu_pci *p, size_t off, size_t len, uint32_t *value)
{
	*value = 0;
	return vfio_dev_read(&p->dev, p->common.bar, p->common.off + off, value, len);
}

int vvu_pci_device_status(struct vvu_pci *p, uint8_t *status)
{
	uint32_t value;
	int rc = get(p, COMMON(device_status), &value);

	*status = (uint8_t)value;
	return rc;
}

int vvu_pci_reset(struct vvu_pci *p)
{
	return put(p, COMMON(device_status), 0);
}

int vvu_pci_reset_done(struct vvu_pci *p)
{
	uint8_t status;
	int rc = vvu_pci_device_status(p, &status);

	if (!rc && status == 0xff)
		rc = -ENODEV;
	return rc ? rc : status ? -EAGAIN : 0;
}

static int get_features(struct vvu_pci *p, uint64_t *features)
{
	uint32_t low, high;
	int rc = put(p, COMMON(device_feature_select), 0);

	if (!rc)
		rc = get(p, COMMON(device_feature), &low);
	if (!rc)
		rc = put(p, COMMON(device_feature_select), 1);
	if (!rc)
		rc = get(p, COMMON(device_feature), &high);
	if (!rc)
		*features = low | (uint64_t)high << 32;
	return rc;
}

static int set_features(struct vvu_pci *p, uint64_t features)
{
	int rc = put(p, COMMON(guest_feature_select), 0);

	if (!rc)
		rc = put(p, COMMON(guest_feature), (uint32_t)features);
	if (!rc)
		rc = put(p, COMMON(guest_feature_select), 1);
	return rc ? rc : put(p, COMMON(guest_feature), (uint32_t)(features >> 32));
}

int vvu_pci_begin(struct vvu_pci *p, struct err *err)
{
	const uint64_t wanted =
		VIRTIO_BIT(VIRTIO_BIT_VERSION_1) | VIRTIO_BIT(VIRTIO_BIT_ACCESS_PLATFORM);
	uint32_t steps = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	uint64_t features;
	uint8_t status = 0;
	int rc = put(p, COMMON(device_status), steps);

	if (!rc)
		rc = get_features(p, &features);
	if (rc)
		return gone(p, rc, "features", err);
	if (!(features & VIRTIO_BIT(VIRTIO_BIT_VERSION_1)))
		return err_set(err, -ENODEV, "%s: features 0x%" PRIx64 " without VERSION_1",
			p->dev.name, features);
	rc = set_features(p, features & wanted);
	if (!rc)
		rc = put(p, COMMON(device_status), steps | VIRTIO_CONFIG_S_FEATURES_OK);
	if (!rc)
		rc = vvu_pci_device_status(p, &status);
	if (rc)
		return gone(p, rc, "features", err);
	return status & VIRTIO_CONFIG_S_FEATURES_OK
		       ? 0
		       : err_set(err, -ENODEV, "%s does not take features 0x%" PRIx64, p->dev.name,
				 features & wanted);
}

int vvu_pci_queue_size(struct vvu_pci *p, unsigned queue, uint16_t *size, struct err *err)
{
	uint32_t value;
	int rc = put(p, COMMON(queue_select), queue);

	if (!rc)
		rc = get(p, COMMON(queue_size), &value);
	if (rc)
		return gone(p, rc, "queue", err);
	if (!is_pow2(value))
		return err_set(err, -ENODEV, "%s: queue %u has %u entries", p->dev.name, queue,
			value);
	*size = (uint16_t)value;
	return 0;
}

/* As the specification asks: the low half first. */
static int put_address(struct vvu_pci *p, size_t off, uint64_t value)
{
	int rc = put(p, off, 4, (uint32_t)value);

	return rc ? rc : put(p, off + 4, 4, (uint32_t)(value >> 32));
}

/* It was selected. A vector that the function cannot have reads back as none. */
static int put_vector(struct vvu_pci *p, size_t off, size_t len, uint16_t vector)
{
	uint32_t is;
	int rc = put(p, off, len, vector);

	if (!rc)
		rc = get(p, off, len, &is);
	return rc ? rc : is == vector ? 0 : -EBUSY;
}

int vvu_pci_set_ring(struct vvu_pci *p, unsigned queue, struct vvu_pci_ring *ring, struct err *err)
{
	uint32_t index;
	int rc = put(p, COMMON(queue_select), queue);

	if (!rc)
		rc = put(p, COMMON(queue_size), ring->size);
	if (!rc)
		rc = put_vector(p, COMMON(queue_msix_vector), ring->vector);
	if (!rc)
		rc = get(p, COMMON(queue_notify_off), &index);
	if (!rc)
		rc = put_address(
			p, offsetof(struct virtio_pci_common_cfg, queue_desc_lo), ring->desc);
	if (!rc)
		rc = put_address(
			p, offsetof(struct virtio_pci_common_cfg, queue_avail_lo), ring->driver);
	if (!rc)
		rc = put_address(
			p, offsetof(struct virtio_pci_common_cfg, queue_used_lo), ring->device);
	if (!rc)
		rc = put(p, COMMON(queue_enable), 1);
	if (rc)
		return gone(p, rc, "queue", err);
	if (!range_ok((uint64_t)index * p->notify_step, 2, p->notify.len))
		return err_set(err, -ENODEV, "%s: queue %u is notified behind the end",
			p->dev.name, queue);
	ring->doorbell = p->notify.off + (uint64_t)index * p->notify_step;
	return 0;
}

int vvu_pci_set_notification(struct vvu_pci *p, unsigned queue, uint16_t vector, struct err *err)
{
	const struct vvu_place *n = &p->notification;
	struct vvu_notify is = { .select = (uint16_t)queue, .vector = vector };
	uint64_t at = n->off + offsetof(struct vvu_notify, vector);
	int rc = vfio_dev_write(&p->dev, n->bar, n->off, &is.select, sizeof(is.select));

	if (!rc)
		rc = vfio_dev_write(&p->dev, n->bar, at, &is.vector, sizeof(is.vector));
	if (!rc)
		rc = vfio_dev_read(&p->dev, n->bar, at, &is.vector, sizeof(is.vector));
	if (rc)
		return gone(p, rc, "notification configuration", err);
	if (is.vector != vector)
		return err_set(err, -ENODEV, "%s: kicks of queue %u do not get vector %u",
			p->dev.name, queue, vector);
	return 0;
}

int vvu_pci_finish(struct vvu_pci *p, uint16_t config_vector, struct err *err)
{
	int rc = put_vector(p, COMMON(msix_config), config_vector);

	if (!rc)
		rc = put(p, COMMON(device_status),
			VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
				VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
	return rc ? gone(p, rc, "driver's status", err) : 0;
}

int vvu_pci_kick(struct vvu_pci *p, const struct vvu_pci_ring *ring, uint16_t queue)
{
	return vfio_dev_write(&p->dev, p->notify.bar, ring->doorbell, &queue, sizeof(queue));
}

int vvu_pci_status(struct vvu_pci *p, uint32_t *status)
{
	return vfio_dev_read(&p->dev, p->config.bar,
		p->config.off + offsetof(struct vvu_config, status), status, sizeof(*status));
}

int vvu_pci_set_status(struct vvu_pci *p, uint32_t status)
{
	return vfio_dev_write(&p->dev, p->config.bar,
		p->config.off + offsetof(struct vvu_config, status), &status, sizeof(status));
}
