/* virtio.c - see virtio.h */
#include "virtio.h"

#include "apic.h"
#include "print.h"
#include "sys.h"

struct ring_memory {
	struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} desc[RING_MAX] __attribute__((aligned(16)));
	struct {
		uint16_t flags, index, ring[RING_MAX], event;
	} avail __attribute__((aligned(2)));
	struct {
		uint16_t flags, index;
		struct {
			uint32_t id, len;
		} ring[RING_MAX];
		uint16_t event;
	} used __attribute__((aligned(4)));
};

#define DESC_NEXT  1
#define DESC_WRITE 2

static struct ring_memory memories[VIRTIO_MAX_QUEUES] __attribute__((aligned(4096)));

/* --- registers --- */

unsigned virtio_capability(uint64_t fn, unsigned kind, unsigned n)
{
	unsigned off = read8(fn + PCI_CAP_PTR) & 0xfc;

	for (unsigned i = 0; off >= 0x40 && i < 48; i++) {
		if (read8(fn + off) == 0x09 && read8(fn + off + 3) == kind && n-- == 0)
			return off;
		off = read8(fn + off + 1) & 0xfc;
	}
	return 0;
}

static uint64_t place(const struct virtio *v, unsigned kind)
{
	unsigned cap = virtio_capability(v->fn, kind, 0);

	if (!cap || read8(v->fn + cap + 4) != 0)
		return 0;
	return v->bar.addr + read32(v->fn + cap + 8);
}

bool virtio_find(struct virtio *v, unsigned type, unsigned n)
{
	unsigned notify;

	memset(v, 0, sizeof(*v));
	v->fn = pci_find(VIRTIO_VENDOR, (uint16_t)(VIRTIO_DEVICE + type), n);
	if (!v->fn)
		return false;
	v->bar = pci_bar(v->fn, 0);
	v->common = place(v, VIRTIO_CAP_COMMON);
	v->isr = place(v, VIRTIO_CAP_ISR);
	v->config = place(v, VIRTIO_CAP_DEVICE);
	v->notify = place(v, VIRTIO_CAP_NOTIFY);
	notify = virtio_capability(v->fn, VIRTIO_CAP_NOTIFY, 0);
	v->msix = pci_capability(v->fn, PCI_CAP_MSIX);
	if (!v->common || !v->isr || !v->config || !notify || !v->msix)
		return false;
	v->notify_step = read32(v->fn + notify + 16);
	v->table = v->bar.addr + (read32(v->fn + v->msix + 4) & ~7u);
	pci_command(v->fn, PCI_COMMAND_MEM | PCI_COMMAND_MASTER, 0);
	for (unsigned i = 0; i < 2; i++) {
		write32(v->common + COMMON_DEVICE_SELECT, i);
		v->offered |= (uint64_t)read32(v->common + COMMON_DEVICE_FEATURE) << 32 * i;
	}
	return true;
}

uint8_t virtio_status(const struct virtio *v)
{
	return read8(v->common + COMMON_STATUS);
}

void virtio_set_status(const struct virtio *v, uint8_t status)
{
	write8(v->common + COMMON_STATUS, status);
}

void virtio_reset(struct virtio *v)
{
	uint8_t status;

	virtio_set_status(v, 0);
	do {
		status = virtio_status(v);
	} while (status && status != 0xff);
}

bool virtio_negotiate(struct virtio *v, uint64_t features)
{
	virtio_reset(v);
	virtio_set_status(v, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	for (unsigned i = 0; i < 2; i++) {
		write32(v->common + COMMON_DRIVER_SELECT, i);
		write32(v->common + COMMON_DRIVER_FEATURE, (uint32_t)(features >> 32 * i));
	}
	virtio_set_status(v, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	return virtio_status(v) & STATUS_FEATURES_OK;
}

void virtio_driver_ok(const struct virtio *v)
{
	virtio_set_status(v, (uint8_t)(virtio_status(v) | STATUS_DRIVER_OK));
}

void virtio_msix_on(struct virtio *v, uint8_t first, unsigned nr)
{
	write16(v->fn + v->msix + 2, 0x8000);
	for (unsigned i = 0; i < nr; i++) {
		uint64_t entry = v->table + 16 * i;

		write32(entry, (uint32_t)LAPIC_BASE | apic_id() << 12);
		write32(entry + 4, 0);
		write32(entry + 8, (uint32_t)(first + i));
		write32(entry + 12, 0);
	}
}

void virtio_msix_off(struct virtio *v)
{
	write16(v->fn + v->msix + 2, 0);
}

/* --- queues --- */

static void write_address(const struct virtio *v, unsigned at, const void *p)
{
	write32(v->common + at, (uint32_t)(uint64_t)p);
	write32(v->common + at + 4, (uint32_t)((uint64_t)p >> 32));
}

void virtio_queue(struct virtio *v, unsigned index, unsigned size, uint16_t vector)
{
	struct ring *r = &v->rings[index];

	*r = (struct ring){ .index = index, .size = size, .memory = &memories[index] };
	memset(r->memory, 0, sizeof(*r->memory));
	write16(v->common + COMMON_QUEUE_SELECT, (uint16_t)index);
	write16(v->common + COMMON_QUEUE_SIZE, (uint16_t)size);
	write16(v->common + COMMON_QUEUE_VECTOR, vector);
	write_address(v, COMMON_QUEUE_DESC, r->memory->desc);
	write_address(v, COMMON_QUEUE_DRIVER, &r->memory->avail);
	write_address(v, COMMON_QUEUE_DEVICE, &r->memory->used);
	r->doorbell = v->notify + v->notify_step * read16(v->common + COMMON_QUEUE_NOTIFY);
	write16(v->common + COMMON_QUEUE_ENABLE, 1);
}

/* Request i uses descriptors 2i and 2i + 1, in turns: the answers come in order. */
bool virtio_give(struct virtio *v, unsigned queue, const void *out, uint32_t out_len, void *in,
	uint32_t in_len)
{
	struct ring *r = &v->rings[queue];
	struct ring_memory *m = r->memory;
	unsigned first = r->given % (r->size / 2) * 2;

	if ((uint16_t)(r->given - r->taken) >= r->size / 2)
		return false;
	m->desc[first].addr = (uint64_t)out;
	m->desc[first].len = out_len;
	m->desc[first].flags = DESC_NEXT;
	m->desc[first].next = (uint16_t)(first + 1);
	m->desc[first + 1].addr = (uint64_t)in;
	m->desc[first + 1].len = in_len;
	m->desc[first + 1].flags = DESC_WRITE;
	m->avail.ring[r->given % r->size] = (uint16_t)first;
	r->given++;
	/* The entry before the index that covers it: 2.7.13.2 */
	__atomic_store_n(&m->avail.index, r->given, __ATOMIC_RELEASE);
	return true;
}

void virtio_kick(const struct virtio *v, unsigned queue)
{
	const struct ring *r = &v->rings[queue];

	/* The index is visible before the device's wish is looked at: 2.7.13.4.1 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(__atomic_load_n(&r->memory->used.flags, __ATOMIC_RELAXED) & 1))
		write16(r->doorbell, (uint16_t)queue);
}

unsigned virtio_waiting(const struct virtio *v, unsigned queue)
{
	const struct ring *r = &v->rings[queue];

	return (uint16_t)(__atomic_load_n(&r->memory->used.index, __ATOMIC_ACQUIRE) - r->taken);
}

uint32_t virtio_take(struct virtio *v, unsigned queue)
{
	struct ring *r = &v->rings[queue];

	return r->memory->used.ring[r->taken++ % r->size].len;
}
