/*
 * rate_limit.h - how many bytes and operations a second a device may do
 *
 * Two token buckets, each as Cloud Hypervisor's options describe it: `size` tokens come in every
 * `refill_ms`, no more than that many are kept, and `burst` more can be used up once. An
 * operation goes when both buckets have something left, and may take more than that: the
 * debt is paid before the next one goes, so that one larger than a bucket is slow, not stuck.
 *
 * Any thread: queues of one disk share its limit, each direction of a network has its own.
 */
#ifndef DEVICE_RATE_LIMIT_H
#define DEVICE_RATE_LIMIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "device/model.h"

struct rate_bucket_config {
	uint64_t size; /* tokens; 0: no limit */
	uint64_t burst;
	uint64_t refill_ms; /* not 0 if there is a size */
};

struct rate_limit_config {
	struct rate_bucket_config bytes, ops;
};

struct rate_bucket {
	struct rate_bucket_config config;
	int64_t tokens; /* negative: debt */
	uint64_t burst;
	uint64_t at_ns; /* when tokens was right */
};

struct rate_limit {
	bool any;
	pthread_mutex_t lock;
	struct rate_bucket bytes, ops;
};

void rate_limit_init(
	struct rate_limit *l, const struct rate_limit_config *config, uint64_t now_ns);
void rate_limit_fini(struct rate_limit *l);

/* Largest size and burst: their sums stay far from where numbers end. */
#define RATE_LIMIT_MAX		  (UINT64_C(1) << 60)
#define RATE_LIMIT_MAX_REFILL_MS (UINT64_C(1) << 32)

/*
 * What a model was given for a bucket's size, burst and refill time: three options that follow each
 * other in its table. 0 or -EINVAL with a text.
 */
int rate_limit_options(const struct device_option options[3], const char *const values[3],
	struct rate_bucket_config *bucket, struct err *err);

/*
 * One operation that moves so many bytes wants to go at now_ns, of clock_now_ns(). 0: it may,
 * and has been counted; else ask again in so many nanoseconds.
 */
uint64_t rate_limit_take(struct rate_limit *l, uint64_t bytes, uint64_t now_ns);

#endif
