/*
 * virtio_pci_common.c - the common configuration: features, status, queues
 *
 * A read builds the whole structure and takes its bytes from there, so that every size and
 * alignment is answered. A write acts on the fields that it covers as a whole, in their order; a
 * part of a field is no field and does nothing.
 *
 * The driver's way through the status register is enforced: features are checked when it sets
 * FEATURES_OK and are fixed from then on; DRIVER_OK counts only after that. Bits once set stay
 * until a reset. Queues are checked when they are enabled and are fixed until they are reset. What
 * is refused keeps its old value, which the driver can read back.
 *
 * The back-end is called in four moments: DRIVER_OK (start), reset (stop), and when one queue is
 * enabled or reset while the others run.
 *
 * Threads: vCPU threads, or the one that resets the machine; v->lock held.
 * Spec:    virtio 1.3, 2.1, 2.2, 2.6.1, 2.7, 2.8, 3.1 and 4.1.4.3.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "attach/virtio_pci_priv.h"

/* The structure as virtio 1.3 knows it: the kernel's, and what came after. */
struct common {
	struct virtio_pci_common_cfg c;
	uint16_t queue_notif_config_data;
	uint16_t queue_reset;
	uint16_t admin_queue_index, admin_queue_num;
};
static_assert(sizeof(struct common) == VIO_COMMON_SIZE, "4.1.4.3");

static bool accepted(const struct virtio_pci *v, unsigned bit)
{
	return v->driver_features & VIRTIO_BIT(bit);
}

static uint32_t status_of(struct virtio_pci *v)
{
	return atomic_load(&v->status) & 0xff;
}

/* --- queues --- */

/* A split ring's number of elements is a power of two, whatever the device has room for. */
static uint16_t largest(const struct virtio_pci *v, unsigned i)
{
	uint16_t size = v->b->info.queue_sizes[i];

	if (accepted(v, VIRTIO_BIT_RING_PACKED) || is_pow2(size))
		return size;
	return (uint16_t)(pow2_up(size) / 2);
}

static void queue_init(struct virtio_pci *v, unsigned i)
{
	struct virtio_queue *q = &v->queues[i];

	/* Not as a whole: kick_fd is constant and read by whoever rings, without the lock. */
	q->size = largest(v, i);
	q->enabled = false;
	q->desc = q->driver = q->device = 0;
	v->vectors[i] = VIRTIO_MSI_NO_VECTOR;
}

/* The one that queue_select names and the driver may set up; NULL: there is none. */
static struct virtio_queue *selected(struct virtio_pci *v)
{
	if (v->queue_select >= v->nr_queues || !v->b->info.queue_sizes[v->queue_select])
		return NULL;
	return &v->queues[v->queue_select];
}

static void complain(struct virtio_pci *v, unsigned queue, const char *what)
{
	log_limited(&v->complaints, LOG_WARN, "%s: the driver enables queue %u, but %s", v->id,
		queue, what);
}

/* 2.7 and 2.8.10: alignments of the three areas. Whether they are RAM is for the back-end. */
static bool queue_sound(struct virtio_pci *v, unsigned i)
{
	const struct virtio_queue *q = &v->queues[i];
	bool packed = accepted(v, VIRTIO_BIT_RING_PACKED);

	if (!(status_of(v) & VIRTIO_CONFIG_S_FEATURES_OK))
		complain(v, i, "has not set FEATURES_OK");
	else if (q->desc & 15 || q->driver & (packed ? 3 : 1) || q->device & 3)
		complain(v, i, "its addresses are not aligned");
	else
		return true;
	return false;
}

static void queue_enable(struct virtio_pci *v, unsigned i)
{
	struct virtio_queue *q = &v->queues[i];

	if (q->enabled || !queue_sound(v, i))
		return;
	q->enabled = true;
	if (v->started && v->b->ops->queue_start(v->b, i, q)) {
		q->enabled = false;
		vio_needs_reset(v);
	}
}

/* 2.6.1: done when the write is. */
static void queue_reset(struct virtio_pci *v, unsigned i)
{
	bool failed;

	failed = v->started && v->queues[i].enabled && v->b->ops->queue_stop(v->b, i);
	queue_init(v, i);
	vio_irqs_update(v);
	if (failed)
		vio_needs_reset(v);
}

/* --- status --- */

static bool features_fine(struct virtio_pci *v)
{
	uint64_t more = v->driver_features & ~v->offered;

	if (more)
		log_limited(&v->complaints, LOG_WARN,
			"%s: the driver accepts features 0x%llx, which were not offered", v->id,
			(unsigned long long)more);
	else if (!accepted(v, VIRTIO_BIT_VERSION_1))
		log_limited(&v->complaints, LOG_WARN,
			"%s: the driver does not accept VERSION_1, but the device is no legacy device",
			v->id);
	else
		return true;
	return false;
}

/* Now it is known which kind of ring it is, and so which sizes there are. */
static void fix_features(struct virtio_pci *v)
{
	for (unsigned i = 0; i < v->nr_queues; i++)
		v->queues[i].size = largest(v, i);
}

static void start(struct virtio_pci *v)
{
	vio_irqs_run(v, true);
	if (v->b->ops->start(v->b, v->driver_features, v->queues))
		vio_needs_reset(v);
	else
		v->started = true;
}

void vio_registers_init(struct virtio_pci *v)
{
	v->device_feature_select = v->driver_feature_select = 0;
	v->driver_features = 0;
	v->config_vector = VIRTIO_MSI_NO_VECTOR;
	v->queue_select = 0;
	for (unsigned i = 0; i < v->nr_queues; i++)
		queue_init(v, i);
	vio_aux_reset(v);
}

void vio_reset(struct virtio_pci *v)
{
	if (v->started)
		v->b->ops->stop(v->b);
	v->started = false;
	vio_irqs_run(v, false);
	vio_registers_init(v);
	vio_irqs_update(v);
	atomic_store(&v->status, 0);
	if (v->b->ops->status)
		v->b->ops->status(v->b, 0);
}

static void write_status(struct virtio_pci *v, uint32_t value)
{
	uint32_t old = status_of(v), fresh = value & ~old;

	if (!value) {
		vio_reset(v);
		return;
	}
	if (fresh & VIRTIO_CONFIG_S_FEATURES_OK) {
		if (features_fine(v))
			fix_features(v);
		else
			fresh &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
	}
	if (!((old | fresh) & VIRTIO_CONFIG_S_FEATURES_OK))
		fresh &= ~(uint32_t)VIRTIO_CONFIG_S_DRIVER_OK;
	/* This one is the device's. */
	fresh &= ~(uint32_t)VIRTIO_CONFIG_S_NEEDS_RESET;
	atomic_fetch_or(&v->status, fresh);
	if (fresh & VIRTIO_CONFIG_S_DRIVER_OK)
		start(v);
	if (v->b->ops->status)
		v->b->ops->status(v->b, (uint8_t)status_of(v));
}

/* --- reading --- */

static uint32_t feature_word(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

static void show_queue(struct virtio_pci *v, struct common *s)
{
	const struct virtio_queue *q = selected(v);

	s->c.queue_msix_vector = htole16(VIRTIO_MSI_NO_VECTOR);
	if (!q)
		return;
	s->c.queue_size = htole16(q->size);
	s->c.queue_msix_vector = htole16(v->vectors[v->queue_select]);
	s->c.queue_enable = htole16(q->enabled);
	s->c.queue_notify_off = htole16(v->queue_select);
	s->c.queue_desc_lo = htole32((uint32_t)q->desc);
	s->c.queue_desc_hi = htole32((uint32_t)(q->desc >> 32));
	s->c.queue_avail_lo = htole32((uint32_t)q->driver);
	s->c.queue_avail_hi = htole32((uint32_t)(q->driver >> 32));
	s->c.queue_used_lo = htole32((uint32_t)q->device);
	s->c.queue_used_hi = htole32((uint32_t)(q->device >> 32));
	s->queue_notif_config_data = htole16(v->queue_select);
}

uint64_t vio_common_read(struct virtio_pci *v, unsigned off, unsigned size)
{
	struct common s = {
		.c.device_feature_select = htole32(v->device_feature_select),
		.c.device_feature = htole32(feature_word(v->offered, v->device_feature_select)),
		.c.guest_feature_select = htole32(v->driver_feature_select),
		.c.guest_feature =
			htole32(feature_word(v->driver_features, v->driver_feature_select)),
		.c.msix_config = htole16(v->config_vector),
		.c.num_queues = htole16((uint16_t)v->nr_queues),
		.c.device_status = (uint8_t)status_of(v),
		.c.config_generation = v->generation,
		.c.queue_select = htole16(v->queue_select),
	};
	uint64_t value = 0;

	show_queue(v, &s);
	memcpy(&value, (const char *)&s + off, size);
	return le64toh(value);
}

/* --- writing --- */

static void write_device_feature_select(struct virtio_pci *v, uint32_t value)
{
	v->device_feature_select = value;
}

static void write_driver_feature_select(struct virtio_pci *v, uint32_t value)
{
	v->driver_feature_select = value;
}

static void write_driver_feature(struct virtio_pci *v, uint32_t value)
{
	unsigned shift = 32 * v->driver_feature_select;

	/* 3.1.1: no new features after that step. No bit beyond 63 is ever offered. */
	if (v->driver_feature_select > 1 || status_of(v) & VIRTIO_CONFIG_S_FEATURES_OK)
		return;
	v->driver_features &= ~((uint64_t)UINT32_MAX << shift);
	v->driver_features |= (uint64_t)value << shift;
}

static void write_config_vector(struct virtio_pci *v, uint32_t value)
{
	v->config_vector = vio_vector_take(v, (uint16_t)value);
	vio_irqs_update(v);
}

static void write_queue_select(struct virtio_pci *v, uint32_t value)
{
	v->queue_select = (uint16_t)value;
}

static void write_queue_size(struct virtio_pci *v, uint32_t value)
{
	struct virtio_queue *q = selected(v);

	if (!q || q->enabled || !value || value > largest(v, v->queue_select))
		return;
	if (accepted(v, VIRTIO_BIT_RING_PACKED) || is_pow2(value))
		q->size = (uint16_t)value;
}

static void write_queue_vector(struct virtio_pci *v, uint32_t value)
{
	if (!selected(v))
		return;
	v->vectors[v->queue_select] = vio_vector_take(v, (uint16_t)value);
	vio_irqs_update(v);
}

static void write_queue_enable(struct virtio_pci *v, uint32_t value)
{
	if (selected(v) && value == 1)
		queue_enable(v, v->queue_select);
}

static void write_queue_reset(struct virtio_pci *v, uint32_t value)
{
	if (selected(v) && value == 1 && accepted(v, VIRTIO_BIT_RING_RESET))
		queue_reset(v, v->queue_select);
}

/* Half of an area's address. */
static void write_half(uint64_t *address, unsigned shift, uint32_t value)
{
	*address &= ~((uint64_t)UINT32_MAX << shift);
	*address |= (uint64_t)value << shift;
}

static void write_address(struct virtio_pci *v, unsigned off, uint32_t value)
{
	struct virtio_queue *q = selected(v);
	unsigned shift = off & 4 ? 32 : 0;

	if (!q || q->enabled)
		return;
	if (off < VIRTIO_PCI_COMMON_Q_AVAILLO)
		write_half(&q->desc, shift, value);
	else if (off < VIRTIO_PCI_COMMON_Q_USEDLO)
		write_half(&q->driver, shift, value);
	else
		write_half(&q->device, shift, value);
}

static const struct field {
	uint8_t off, size;
	void (*write)(struct virtio_pci *v, uint32_t value); /* NULL: an address */
} fields[] = {
	{ VIRTIO_PCI_COMMON_DFSELECT, 4, write_device_feature_select },
	{ VIRTIO_PCI_COMMON_GFSELECT, 4, write_driver_feature_select },
	{ VIRTIO_PCI_COMMON_GF, 4, write_driver_feature },
	{ VIRTIO_PCI_COMMON_MSIX, 2, write_config_vector },
	{ VIRTIO_PCI_COMMON_STATUS, 1, write_status },
	{ VIRTIO_PCI_COMMON_Q_SELECT, 2, write_queue_select },
	{ VIRTIO_PCI_COMMON_Q_SIZE, 2, write_queue_size },
	{ VIRTIO_PCI_COMMON_Q_MSIX, 2, write_queue_vector },
	{ VIRTIO_PCI_COMMON_Q_ENABLE, 2, write_queue_enable },
	{ VIRTIO_PCI_COMMON_Q_DESCLO, 4, NULL },
	{ VIRTIO_PCI_COMMON_Q_DESCHI, 4, NULL },
	{ VIRTIO_PCI_COMMON_Q_AVAILLO, 4, NULL },
	{ VIRTIO_PCI_COMMON_Q_AVAILHI, 4, NULL },
	{ VIRTIO_PCI_COMMON_Q_USEDLO, 4, NULL },
	{ VIRTIO_PCI_COMMON_Q_USEDHI, 4, NULL },
	{ offsetof(struct common, queue_reset), 2, write_queue_reset },
};

void vio_common_write(struct virtio_pci *v, unsigned off, unsigned size, uint64_t value)
{
	for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
		const struct field *f = &fields[i];
		uint32_t part;

		if (f->off < off || f->off + f->size > off + size)
			continue;
		part = (uint32_t)(value >> (8 * (f->off - off)) & io_ones(f->size));
		if (f->write)
			f->write(v, part);
		else
			write_address(v, f->off, part);
	}
}
