/*
 * test_vvu_hostile.c - a driver of a VVU function that does what it may not
 *
 * Nothing but a refusal or DEVICE_NEEDS_RESET comes of it, and after a reset all is as before.
 */
#include "boot.h"
#include "print.h"
#include "tests.h"
#include "vvu.h"

#define GET_FEATURES	      1
#define BACKEND_CONFIG_CHANGE 2

static struct vvu vvu;

static void check_notify(void)
{
	for (unsigned i = 0; i < VVU_QUEUES; i++) {
		write16(vvu.notify, (uint16_t)i);
		equal(read16(vvu.notify + 2), 3 + i, "vector of queue %u", i);
	}
	write16(vvu.notify, 65535);
	equal(read16(vvu.notify), 65535, "any queue can be selected");
	equal(read16(vvu.notify + 2), NO_VECTOR, "one that is not there has no vector");
	write16(vvu.notify + 2, 1);
	equal(read16(vvu.notify + 2), NO_VECTOR, "and gets none");
	write16(vvu.notify, 0);
	write16(vvu.notify + 2, 3 + VVU_QUEUES);
	equal(read16(vvu.notify + 2), NO_VECTOR, "no queue gets a vector that is not there");
	write32(vvu.notify, 5 << 16 | 2);
	equal(read32(vvu.notify), 5 << 16 | 2, "both at once");
	write8(vvu.notify, 7);
	write8(vvu.notify + 3, 7);
	equal(read32(vvu.notify), 5 << 16 | 2, "half a field is none");
}

static void check_bells(void)
{
	vvu_ring_all(&vvu);
	for (unsigned size = 1; size <= 8; size *= 2)
		bar_write(&vvu.bells, 0, size, 1);
	equal(read32(vvu.bells.addr), 0, "doorbells read as 0");
	equal(virtio_status(&vvu.dev), 15, "doorbells that are nobody's do nothing");
}

static void check_config(void)
{
	uint32_t queues = read32(vvu.dev.config + 4);

	write32(vvu.dev.config, UINT32_MAX & ~VVU_BACKEND_UP);
	equal(read32(vvu.dev.config), 0, "bits of others are not written");
	write32(vvu.dev.config + 4, 77);
	write32(vvu.dev.config + 8, 77);
	equal(read32(vvu.dev.config + 4), queues, "nor are other fields");
	equal(read32(vvu.dev.config + 8), 0, "nor are these");
	write8(vvu.dev.config, VVU_BACKEND_UP);
	equal(read8(vvu.dev.config), VVU_BACKEND_UP, "one byte is enough to be up");
	write32(vvu.dev.config, 0);
}

static void check_tx(const char *what, uint32_t request, uint32_t flags, uint32_t size, uint32_t len)
{
	vvu_set_up(&vvu, VVU_BUFFERS);
	vvu_answer.request = request;
	vvu_answer.flags = flags;
	vvu_answer.size = size;
	vvu_send_raw(&vvu, len);
	ok(vvu_needs_reset(&vvu), "tx: %s: needs a reset", what);
	virtio_reset(&vvu.dev);
	equal(virtio_status(&vvu.dev), 0, "and gets it");
}

static void check_ring(const char *what, uint64_t at)
{
	virtio_negotiate(&vvu.dev, FEATURE_VERSION_1);
	virtio_queue(&vvu.dev, VVU_RX, 2 * VVU_BUFFERS, 1);
	virtio_queue(&vvu.dev, VVU_TX, 2 * VVU_BUFFERS, NO_VECTOR);
	virtio_set_status(&vvu.dev, 0);
	virtio_negotiate(&vvu.dev, FEATURE_VERSION_1);
	write16(vvu.dev.common + COMMON_QUEUE_SELECT, VVU_TX);
	for (unsigned i = 0; i < 3; i++) {
		write32(vvu.dev.common + COMMON_QUEUE_DESC + 8 * i, (uint32_t)at);
		write32(vvu.dev.common + COMMON_QUEUE_DESC + 8 * i + 4, (uint32_t)(at >> 32));
	}
	write16(vvu.dev.common + COMMON_QUEUE_ENABLE, 1);
	virtio_driver_ok(&vvu.dev);
	ok(vvu_needs_reset(&vvu), "ring at %s: needs a reset", what);
	virtio_reset(&vvu.dev);
}

void test_vvu_hostile(void)
{
	uint64_t resets;

	if (!vvu_find(&vvu))
		return;
	virtio_msix_on(&vvu.dev, VVU_VECTOR_FIRST, VVU_VECTORS);
	vvu_set_up(&vvu, VVU_BUFFERS);
	check_notify();
	check_bells();
	check_config();
	virtio_reset(&vvu.dev);
	check_tx("nothing", 1, 1, 0, 0);
	check_tx("half a header", 1, 1, 0, 8);
	check_tx("a payload that is not there", 1, 1 | VVU_REPLY, 8, 12);
	check_tx("more than there should be", 1, 1 | VVU_REPLY, 8, 28);
	check_tx("more than any message has", 1, 1 | VVU_REPLY, 4072, 4084);
	check_tx("no version", 1, 0, 0, 12);
	check_tx("4 GiB", 1, 1, UINT32_MAX, 12);
	check_ring("no memory", 0x700000000000);
	check_ring("its own BAR", vvu.memory_at);
	for (resets = 0; resets < 200; resets++) {
		vvu_set_up(&vvu, resets % VVU_BUFFERS);
		write32(vvu.dev.config, VVU_BACKEND_UP);
		virtio_reset(&vvu.dev);
	}
	equal(resets, 200, "resets, each right after the start");
	vvu_set_up(&vvu, VVU_BUFFERS);
	write32(vvu.dev.config, VVU_BACKEND_UP);
	equal(read32(vvu.dev.config), VVU_BACKEND_UP, "up again");
	equal(virtio_status(&vvu.dev), 15, "and well");
	/* Unanswered and unasked, but well-formed. */
	vvu_send(&vvu, GET_FEATURES, VVU_REPLY, 8);
	vvu_send(&vvu, BACKEND_CONFIG_CHANGE, 0, 0);
	equal(virtio_status(&vvu.dev), 15, "what nobody hears does no harm");
	virtio_reset(&vvu.dev);
}
