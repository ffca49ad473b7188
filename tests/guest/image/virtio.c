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
	/* A packed ring is one table that both write. */
	struct {
		uint64_t addr;
		uint32_t len;
		uint16_t id, flags;
	} packed[RING_MAX] __attribute__((aligned(16)));
	struct {
		uint16_t where, flags;
	} driver_event __attribute__((aligned(4))), device_event __attribute__((aligned(4)));
};

#define DESC_NEXT  1
#define DESC_WRITE 2
/* Of a packed ring: equal to the wrap counter, or not. 2.8.1 */
#define DESC_AVAIL (1u << 7)
#define DESC_USED  (1u << 15)

static struct ring_memory memories[VIRTIO_MAX_AT_ONCE][VIRTIO_MAX_QUEUES]
	__attribute__((aligned(4096)));

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
	v->packed = features & FEATURE_PACKED;
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

	*r = (struct ring){ .index = index, .size = size, .memory = &memories[v->bank][index] };
	memset(r->memory, 0, sizeof(*r->memory));
	write16(v->common + COMMON_QUEUE_SELECT, (uint16_t)index);
	write16(v->common + COMMON_QUEUE_SIZE, (uint16_t)size);
	write16(v->common + COMMON_QUEUE_VECTOR, vector);
	if (v->packed) {
		write_address(v, COMMON_QUEUE_DESC, r->memory->packed);
		write_address(v, COMMON_QUEUE_DRIVER, &r->memory->driver_event);
		write_address(v, COMMON_QUEUE_DEVICE, &r->memory->device_event);
	} else {
		write_address(v, COMMON_QUEUE_DESC, r->memory->desc);
		write_address(v, COMMON_QUEUE_DRIVER, &r->memory->avail);
		write_address(v, COMMON_QUEUE_DEVICE, &r->memory->used);
	}
	r->doorbell = v->notify + v->notify_step * read16(v->common + COMMON_QUEUE_NOTIFY);
	write16(v->common + COMMON_QUEUE_ENABLE, 1);
}

/* Request i uses descriptors 2i and 2i + 1, in turns. */
static unsigned first_of(const struct ring *r, uint16_t request)
{
	return request % (r->size / 2) * 2;
}

static void give_split(struct ring *r, const void *out, uint32_t out_len, void *in, uint32_t in_len)
{
	struct ring_memory *m = r->memory;
	unsigned first = first_of(r, r->given);

	m->desc[first].addr = (uint64_t)out;
	m->desc[first].len = out_len;
	m->desc[first].flags = DESC_NEXT;
	m->desc[first].next = (uint16_t)(first + 1);
	m->desc[first + 1].addr = (uint64_t)in;
	m->desc[first + 1].len = in_len;
	m->desc[first + 1].flags = DESC_WRITE;
	m->avail.ring[r->given % r->size] = (uint16_t)first;
	/* The entry before the index that covers it: 2.7.13.2 */
	__atomic_store_n(&m->avail.index, (uint16_t)(r->given + 1), __ATOMIC_RELEASE);
}

/* The wrap counter when the ring comes to a request: 1 the first time round, then in turns. */
static bool wrap_of(const struct ring *r, uint16_t request)
{
	return !(request / (r->size / 2) & 1);
}

static void give_packed(
	struct ring *r, const void *out, uint32_t out_len, void *in, uint32_t in_len)
{
	struct ring_memory *m = r->memory;
	unsigned first = first_of(r, r->given);
	uint16_t flags = wrap_of(r, r->given) ? DESC_AVAIL : DESC_USED;

	m->packed[first].addr = (uint64_t)out;
	m->packed[first].len = out_len;
	m->packed[first].id = m->packed[first + 1].id = (uint16_t)(first / 2);
	m->packed[first + 1].addr = (uint64_t)in;
	m->packed[first + 1].len = in_len;
	m->packed[first + 1].flags = flags | DESC_WRITE;
	/* The flags of the first are what makes the chain available: 2.8.21.1 */
	__atomic_store_n(&m->packed[first].flags, (uint16_t)(flags | DESC_NEXT), __ATOMIC_RELEASE);
}

bool virtio_give(struct virtio *v, unsigned queue, const void *out, uint32_t out_len, void *in,
	uint32_t in_len)
{
	struct ring *r = &v->rings[queue];

	if ((uint16_t)(r->given - r->taken) >= r->size / 2)
		return false;
	if (v->packed)
		give_packed(r, out, out_len, in, in_len);
	else
		give_split(r, out, out_len, in, in_len);
	r->given++;
	return true;
}

static bool wants_kicks(const struct virtio *v, const struct ring *r)
{
	if (v->packed)
		return __atomic_load_n(&r->memory->device_event.flags, __ATOMIC_RELAXED) != 1;
	return !(__atomic_load_n(&r->memory->used.flags, __ATOMIC_RELAXED) & 1);
}

void virtio_kick(const struct virtio *v, unsigned queue)
{
	const struct ring *r = &v->rings[queue];

	/* What was given is visible before the device's wish is looked at: 2.7.13.4.1 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (wants_kicks(v, r))
		write16(r->doorbell, (uint16_t)queue);
}

static bool is_used(const struct ring *r, uint16_t request)
{
	uint16_t flags =
		__atomic_load_n(&r->memory->packed[first_of(r, request)].flags, __ATOMIC_ACQUIRE);
	bool wrap = wrap_of(r, request);

	return !!(flags & DESC_AVAIL) == wrap && !!(flags & DESC_USED) == wrap;
}

unsigned virtio_waiting(const struct virtio *v, unsigned queue)
{
	const struct ring *r = &v->rings[queue];
	uint16_t used = r->taken;

	if (!v->packed)
		return (uint16_t)(__atomic_load_n(&r->memory->used.index, __ATOMIC_ACQUIRE) -
				  r->taken);
	while (used != r->given && is_used(r, used))
		used++;
	return (uint16_t)(used - r->taken);
}

uint32_t virtio_take(struct virtio *v, unsigned queue)
{
	struct ring *r = &v->rings[queue];
	uint16_t request = r->taken++;

	if (v->packed)
		return r->memory->packed[first_of(r, request)].len;
	return r->memory->used.ring[request % r->size].len;
}
