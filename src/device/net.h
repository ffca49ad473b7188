/*
 * net.h - virtio network device on a tap of the host
 *
 * Spec: virtio 1.3, 5.1.
 */
#ifndef DEVICE_NET_H
#define DEVICE_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "device/rate_limit.h"
#include "device/tap.h"
#include "device/virtio_model.h"

struct net_config {
	const char *name; /* for log lines and threads, borrowed */
	const uint8_t
		*mac; /* of the guest's side; NULL: made from the tap's; borrowed for the call */
	uint16_t mtu; /* 0: the tap's */
	uint16_t queue_size;
	struct rate_limit_config limit; /* each way for itself */
	bool csum, tso, ufo;		 /* offer these offloads; the latter two need the first */
};

/*
 * tap has a descriptor for each pair of queues; taken (and tap left empty), also on failure. Gives
 * *out. 0 or -errno with a text.
 */
int net_new(struct virtio_model **out, struct loop *loop, const struct net_config *config,
	struct tap *tap, struct err *err);

#endif
