/*
 * fuzz_vvu_proxy.c - the VVU proxy, against what a sibling and a driver may say
 *
 * The input is what both do, in turns, one step after the other: a control byte, then what it asks
 * for
 *   0  a sibling comes, or goes if there is one
 *   1  a message of the sibling: its number, flags, payload's length and bytes, descriptors
 *   2  bytes of the sibling as they are: length and bytes
 *   3  a message of the driver: number, flags, length, bytes
 *   4  bytes of the driver as they are
 *   5  buffers of the driver: a size, in steps of 9 bytes
 *   6  the status: a write of one byte
 *   7  the driver resets the function and starts it again
 *   8  a word of a ring changes: which, where, value
 *   9  the driver takes what it was given, and answers a request with a number
 *
 * What must hold: no crash, no hang, no leak, and as many descriptors after it as before; nothing
 * stays mapped after a reset.
 */
#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "../tests/unit/vvu_rig.h"
#include "fuzz.h"

#define MAX_STEPS 200

static struct rig rig, *const r = &rig;
static int kinds[3]; /* memory, an eventfd, a socket */
static bool spoiled; /* a ring was changed: the driver cannot use it either, until the reset */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int pair[2];

	log_init("fuzz", LOG_ERR);
	kinds[0] = memfd_create("fuzz", MFD_CLOEXEC);
	kinds[1] = fd_eventfd();
	require(kinds[0] >= 0 && kinds[1] >= 0 && !sock_pair(pair));
	require(!ftruncate(kinds[0], 1 << 20));
	kinds[2] = pair[0];
	return 0;
}

/* --- the sibling --- */

static void come_or_go(void)
{
	struct err err = { 0 };

	if (r->sock >= 0)
		fd_close(&r->sock);
	else
		r->sock = sock_connect(r->path, &err);
}

static void sibling_sends(const void *header, size_t header_len, const void *bytes, size_t len,
	const int *fds, int nr_fds)
{
	const struct iovec iov[2] = { { (void *)header, header_len }, { (void *)bytes, len } };

	/* What it does not take now is lost; the stream is the worse for it. */
	if (r->sock >= 0)
		sock_send(r->sock, iov, 2, fds, nr_fds);
}

static void message(struct input *in)
{
	struct vhost_user_header h = { .request = take8(in), .flags = take8(in) };
	uint8_t what = take8(in);
	size_t len = take16(in) % 2100;
	const uint8_t *bytes;
	int fds[16], nr = what >> 2 & 15;

	for (int i = 0; i < nr; i++)
		fds[i] = kinds[(what + i) % 3];
	bytes = take_bytes(in, &len);
	h.size = (uint32_t)len;
	/* Half of them as they should be. */
	if (what & 0x40)
		h.flags = VHOST_USER_FLAG_VERSION | (h.flags & VHOST_USER_FLAG_NEED_REPLY);
	sibling_sends(&h, sizeof(h), bytes, len, fds, nr);
}

static void raw(struct input *in)
{
	size_t len = take8(in);
	const uint8_t *bytes = take_bytes(in, &len);

	sibling_sends(bytes, len, NULL, 0, NULL, 0);
}

/* --- the driver --- */

static void driver_sends(const void *bytes, uint32_t len)
{
	const struct drv_buf buf = { r->tx_at, len };
	void *cookie;
	uint32_t written;

	if (spoiled)
		return;
	memcpy(drv_at(r->mem, r->tx_at), bytes, len);
	while (drv_get(r->drv[VVU_QUEUE_TX], &cookie, &written))
		;
	if (len && !drv_add(r->drv[VVU_QUEUE_TX], &buf, 1, 0, r))
		fd_signal(r->queues[VVU_QUEUE_TX].kick_fd);
}

static void driver_message(struct input *in)
{
	struct vhost_user_msg m = { .header = { take8(in), take8(in), 0 } };
	size_t len = take16(in) % 2100;
	const uint8_t *bytes = take_bytes(in, &len);

	len = MIN(len, sizeof(m.payload));
	m.header.size = (uint32_t)len;
	memcpy(&m.payload, bytes, len);
	driver_sends(&m, (uint32_t)(sizeof(m.header) + len));
}

static void driver_raw(struct input *in)
{
	size_t len = take8(in);
	const uint8_t *bytes = take_bytes(in, &len);

	driver_sends(bytes, (uint32_t)len);
}

static void give(unsigned i, uint32_t size)
{
	const struct drv_buf buf = { r->rx_at[i], size };

	if (size && !spoiled && !drv_add(r->drv[VVU_QUEUE_RX], &buf, 0, 1, &r->rx_at[i]))
		fd_signal(r->queues[VVU_QUEUE_RX].kick_fd);
}

static void take_and_answer(struct input *in)
{
	struct vhost_user_msg m;
	uint64_t value = take64(in);
	void *cookie;
	uint32_t len;

	if (spoiled || !drv_get(r->drv[VVU_QUEUE_RX], &cookie, &len) || !cookie)
		return;
	memcpy(&m.header, drv_at(r->mem, *(uint64_t *)cookie), sizeof(m.header));
	give((unsigned)((uint64_t *)cookie - r->rx_at), RIG_BUF_SIZE);
	m.header.flags = VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY;
	m.header.size = 8;
	m.payload.u64 = value;
	driver_sends(&m, sizeof(m.header) + 8);
}

static void reset(uint8_t buffers)
{
	r->b->ops->stop(r->b);
	r->b->ops->status(r->b, 0);
	require(!r->owner.nr_maps);
	spoiled = false;
	rig_new_rings(r);
	r->b->ops->start(
		r->b, VIRTIO_BIT(VIRTIO_BIT_VERSION_1) | VIRTIO_BIT(VIRTIO_BIT_EVENT_IDX), r->queues);
	for (unsigned i = 0; i < buffers % RIG_BUFFERS; i++)
		give(i, RIG_BUF_SIZE);
	rig_set_status(r, VVU_STATUS_BACKEND_UP);
}

static void change_ring(struct input *in)
{
	struct drv *d = r->drv[take8(in) & 1];
	uint64_t at = take16(in) % 1024;
	uint16_t value = take16(in);

	spoiled = true;
	memcpy(drv_at(r->mem, d->desc_iova + at), &value, sizeof(value));
	fd_signal(r->queues[d == r->drv[VVU_QUEUE_TX]].kick_fd);
}

/* The proxy has read what it was sent, or will not for now. */
static void settle(void)
{
	int unread = 0;

	for (unsigned i = 0; i < 100 && r->sock >= 0; i++) {
		if (ioctl(r->sock, SIOCOUTQ, &unread) || !unread)
			break;
		sched_yield();
	}
}

static void step(struct input *in)
{
	switch (take8(in) % 10) {
	case 0:
		come_or_go();
		break;
	case 1:
		message(in);
		break;
	case 2:
		raw(in);
		break;
	case 3:
		driver_message(in);
		break;
	case 4:
		driver_raw(in);
		break;
	case 5:
		give(take8(in) % RIG_BUFFERS, take8(in) * 9u);
		break;
	case 6:
		rig_set_status(r, take8(in));
		break;
	case 7:
		reset(take8(in));
		break;
	case 8:
		change_ring(in);
		break;
	default:
		take_and_answer(in);
	}
	settle();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };

	spoiled = false;
	rig_init(r, take8(&in) % 3);
	rig_start(r, 4);
	rig_set_status(r, VVU_STATUS_BACKEND_UP);
	come_or_go();
	for (unsigned i = 0; i < MAX_STEPS && in.left; i++)
		step(&in);
	r->b->ops->stop(r->b);
	require(!r->owner.nr_maps);
	require(rig_fini(r));
	return 0;
}
