/*
 * fuzz_net.c - the network device under a hostile driver and a hostile network (fuzz_virtio.h)
 *
 * Two pairs of queues on packet sockets; the first byte chooses the features, and whether there
 * is a limit. The device's threads read rings while the input rewrites them, as with a guest.
 */
#include "device/net.h"

#include <linux/virtio_net.h>

#include "fuzz_virtio.h"
#include "wire/virtio.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_virtio_init();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
	struct net_config config = {
		.name = "net",
		.mac = mac,
		.queue_size = FUZZ_RING,
		.csum = true,
		.tso = true,
		.ufo = true,
	};
	struct input in = { data, size };
	struct fuzz_virtio f = { .threads = true };
	uint8_t how = take8(&in);
	uint64_t features = VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_BIT(VIRTIO_NET_F_MQ) |
			    (how & 1 ? VIRTIO_BIT(VIRTIO_NET_F_MRG_RXBUF) : 0) |
			    (how & 2 ? VIRTIO_BIT(VIRTIO_NET_F_GUEST_CSUM) : 0) |
			    (how & 4 ? UINT64_MAX : 0);
	struct err err = { 0 };
	struct tap tap;
	int ours[2];

	for (int i = 0; i < 2; i++) {
		int fds[2];

		require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0);
		ours[i] = fds[0];
		f.hosts[i] = fds[1];
	}
	if (how & 8)
		config.limit.ops = (struct rate_bucket_config){ .size = 3, .refill_ms = 1 };
	rig_init(&f.r);
	require(tap_adopt(&tap, ours, 2, &err) == 0);
	require(net_new(&f.r.model, f.r.loop, &config, &tap, &err) == 0);
	fuzz_virtio_run(&f, features, &in);
	return 0;
}
