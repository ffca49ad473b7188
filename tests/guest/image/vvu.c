/* vvu.c - see vvu.h */
#include "vvu.h"

#include "apic.h"
#include "print.h"
#include "sys.h"

#define VVU_TYPE 61

struct message vvu_answer __attribute__((aligned(16)));
static uint8_t rx_buf[VVU_BUFFERS][VVU_BUF_SIZE] __attribute__((aligned(16)));
static uint8_t nothing[16], tx_dummy[16];

static bool find_shm(const struct vvu *vvu, unsigned id, struct bar *bar, uint64_t *at)
{
	uint64_t fn = vvu->dev.fn;

	for (unsigned n = 0;; n++) {
		unsigned cap = virtio_capability(fn, VVU_CAP_SHM, n);

		if (!cap)
			return false;
		if (read8(fn + cap + 5) != id)
			continue;
		if (!bar->size)
			*bar = pci_bar(fn, read8(fn + cap + 4));
		*at = bar->addr + read32(fn + cap + 8);
		return true;
	}
}

bool vvu_find(struct vvu *vvu)
{
	unsigned cap, note_cap;
	uint64_t fn;

	vvu->rx_size = VVU_BUF_SIZE;
	if (!ok(virtio_find(&vvu->dev, VVU_TYPE, 0), "there is a VVU function"))
		return false;
	fn = vvu->dev.fn;
	cap = virtio_capability(fn, VVU_CAP_DOORBELL, 0);
	note_cap = virtio_capability(fn, VVU_CAP_NOTIFICATION, 0);
	if (!ok(cap && note_cap, "with doorbells and notifications"))
		return false;
	vvu->bells = pci_bar(fn, read8(fn + cap + 4));
	vvu->bell_step = read32(fn + cap + 16);
	vvu->notify = vvu->bells.addr + read32(fn + note_cap + 8);
	return ok(find_shm(vvu, 1, &vvu->memory, &vvu->memory_at) &&
			  find_shm(vvu, 2, &vvu->small, &vvu->log_at) &&
			  find_shm(vvu, 3, &vvu->small, &vvu->inflight_at),
		"and three regions of shared memory");
}

static void give_rx(struct vvu *vvu, void *buf)
{
	virtio_give(&vvu->dev, VVU_RX, nothing, 1, buf, vvu->rx_size);
}

void vvu_set_up(struct vvu *vvu, unsigned buffers)
{
	struct virtio *dev = &vvu->dev;

	virtio_negotiate(dev, FEATURE_VERSION_1);
	write16(dev->common + COMMON_CONFIG_VECTOR, 0);
	virtio_queue(dev, VVU_RX, 2 * VVU_BUFFERS, 1);
	virtio_queue(dev, VVU_TX, 2 * VVU_BUFFERS, NO_VECTOR);
	for (unsigned i = 0; i < VVU_QUEUES; i++) {
		write16(vvu->notify, (uint16_t)i);
		write16(vvu->notify + 2, (uint16_t)(3 + i));
	}
	virtio_driver_ok(dev);
	vvu->rx_next = 0;
	for (unsigned i = 0; i < buffers; i++)
		give_rx(vvu, rx_buf[i]);
	virtio_kick(dev, VVU_RX);
}

struct message *vvu_receive(struct vvu *vvu, uint32_t *len)
{
	if (!virtio_waiting(&vvu->dev, VVU_RX))
		return NULL;
	*len = virtio_take(&vvu->dev, VVU_RX);
	return (struct message *)rx_buf[vvu->rx_next++ % VVU_BUFFERS];
}

void vvu_done(struct vvu *vvu, struct message *message)
{
	give_rx(vvu, message);
	virtio_kick(&vvu->dev, VVU_RX);
}

void vvu_send_raw(struct vvu *vvu, uint32_t len)
{
	virtio_give(&vvu->dev, VVU_TX, &vvu_answer, len, tx_dummy, 1);
	virtio_kick(&vvu->dev, VVU_TX);
}

void vvu_send(struct vvu *vvu, uint32_t request, uint32_t flags, uint32_t size)
{
	struct virtio *dev = &vvu->dev;

	vvu_answer.request = request;
	vvu_answer.flags = 1 | flags;
	vvu_answer.size = size;
	vvu_send_raw(vvu, 12 + size);
	/* The buffer is used again for the next one. */
	while (!virtio_waiting(dev, VVU_TX) && virtio_status(dev) == 15)
		cpu_relax();
	if (virtio_waiting(dev, VVU_TX))
		virtio_take(dev, VVU_TX);
}

void vvu_ring(const struct vvu *vvu, unsigned bell)
{
	write8(vvu->bells.addr + vvu->bell_step * bell, 1);
}

/* All but the notification registers, which lie in the middle. */
void vvu_ring_all(const struct vvu *vvu)
{
	for (uint64_t off = 0; off < vvu->bells.size; off += 4)
		if (off < 0x2000 || off >= 0x2004)
			bar_write(&vvu->bells, off, 4, UINT32_MAX);
}

/* The proxy's thread finds out in its own time; the status register says when. */
bool vvu_needs_reset(struct vvu *vvu)
{
	for (unsigned i = 0; i < 1000 && !(virtio_status(&vvu->dev) & STATUS_NEEDS_RESET); i++) {
		apic_timer_start(VECTOR_TIMEOUT, 10);
		sys_halt();
		apic_timer_stop();
	}
	return virtio_status(&vvu->dev) & STATUS_NEEDS_RESET;
}
