/*
 * rate_limit.c - token buckets, in whole tokens and without rounding away time
 *
 * Tokens come in when somebody asks. Only the time of whole ones is taken off, so that asking
 * often costs nobody a part of one. Products are made in 128 bits: sizes and times are anything.
 */
#include "device/rate_limit.h"

#include <errno.h>

#include "base/clock.h"
#include "base/util.h"
#include "device/number.h"

int rate_limit_options(const struct device_option options[3], const char *const values[3],
	struct rate_bucket_config *b, struct err *err)
{
	int rc = number_option(options[0].name, values[0], 0, 1, RATE_LIMIT_MAX, &b->size, err);

	if (!rc)
		rc = number_option(
			options[1].name, values[1], 0, 0, RATE_LIMIT_MAX, &b->burst, err);
	if (!rc)
		rc = number_option(options[2].name, values[2], 0, 1, RATE_LIMIT_MAX_REFILL_MS,
			&b->refill_ms, err);
	if (rc)
		return rc;
	if (!b->size != !b->refill_ms)
		return err_set(err, -EINVAL, "--%s and --%s belong together", options[0].name,
			options[2].name);
	if (b->burst && !b->size)
		return err_set(
			err, -EINVAL, "--%s needs --%s", options[1].name, options[0].name);
	return 0;
}

static void bucket_init(
	struct rate_bucket *b, const struct rate_bucket_config *config, uint64_t now_ns)
{
	*b = (struct rate_bucket){
		.config = *config,
		.tokens = (int64_t)config->size,
		.burst = config->burst,
		.at_ns = now_ns,
	};
}

void rate_limit_init(
	struct rate_limit *l, const struct rate_limit_config *config, uint64_t now_ns)
{
	pthread_mutex_init(&l->lock, NULL);
	bucket_init(&l->bytes, &config->bytes, now_ns);
	bucket_init(&l->ops, &config->ops, now_ns);
	l->any = config->bytes.size || config->ops.size;
}

void rate_limit_fini(struct rate_limit *l)
{
	pthread_mutex_destroy(&l->lock);
}

static uint64_t refill_ns(const struct rate_bucket *b)
{
	return b->config.refill_ms * NS_PER_MS;
}

/* Whole tokens come in; the time of a part of one stays to be counted. */
static void refill(struct rate_bucket *b, uint64_t now_ns)
{
	unsigned __int128 came;
	uint64_t room = (uint64_t)((int64_t)b->config.size - b->tokens);

	if (now_ns <= b->at_ns)
		return;
	came = (unsigned __int128)(now_ns - b->at_ns) * b->config.size / refill_ns(b);
	if (came >= room) {
		b->tokens = (int64_t)b->config.size;
		b->at_ns = now_ns;
		return;
	}
	b->tokens += (int64_t)came;
	b->at_ns += (uint64_t)(came * refill_ns(b) / b->config.size);
}

/* Nanoseconds until there is a token; 0: there is. */
static uint64_t bucket_wait(struct rate_bucket *b, uint64_t now_ns)
{
	unsigned __int128 ns;

	if (!b->config.size || b->burst)
		return 0;
	refill(b, now_ns);
	if (b->tokens > 0)
		return 0;
	ns = (unsigned __int128)(uint64_t)(1 - b->tokens) * refill_ns(b) / b->config.size + 1;
	ns -= MIN(ns - 1, (unsigned __int128)(now_ns - b->at_ns));
	return ns > INT64_MAX ? INT64_MAX : (uint64_t)ns;
}

static void bucket_take(struct rate_bucket *b, uint64_t n)
{
	uint64_t from_burst = MIN(n, b->burst);
	int64_t floor = -(int64_t)RATE_LIMIT_MAX;

	if (!b->config.size)
		return;
	b->burst -= from_burst;
	n = MIN(n - from_burst, RATE_LIMIT_MAX);
	b->tokens = b->tokens - (int64_t)n < floor ? floor : b->tokens - (int64_t)n;
}

uint64_t rate_limit_take(struct rate_limit *l, uint64_t bytes, uint64_t now_ns)
{
	uint64_t wait;

	pthread_mutex_lock(&l->lock);
	wait = bytes ? bucket_wait(&l->bytes, now_ns) : 0;
	wait = MAX(wait, bucket_wait(&l->ops, now_ns));
	if (!wait) {
		bucket_take(&l->bytes, bytes);
		bucket_take(&l->ops, 1);
	}
	pthread_mutex_unlock(&l->lock);
	return wait;
}
