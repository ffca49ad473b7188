/*
 * rng.h - virtio entropy device: random bytes from the kernel or from a file
 *
 * Spec: virtio 1.3, 5.4.
 */
#ifndef DEVICE_RNG_H
#define DEVICE_RNG_H

#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "device/virtio_model.h"

struct rng_config {
	const char *name;   /* for log lines; borrowed */
	const char *source; /* a file, device or FIFO; NULL: getrandom() */
	uint64_t max_bytes; /* given in each period_ms, at most; 0: no limit */
	uint32_t period_ms;
};

/* Gives *out. 0 or -errno with a text. */
int rng_new(struct virtio_model **out, struct loop *loop, const struct rng_config *config,
	struct err *err);

#endif
