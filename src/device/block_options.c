/*
 * block_options.c - the row of the disk in the table of models: its options
 *
 * --blk-file and --read-only are the names that the conventions for vhost-user back-ends give;
 * limits are called as Cloud Hypervisor's --disk calls them.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"
#include "device/block.h"
#include "device/model.h"
#include "device/number.h"

enum {
	OPT_BLK_FILE,
	OPT_FILE,
	OPT_FILE_FD,
	OPT_FILE_NAME,
	OPT_READ_ONLY,
	OPT_DIRECT,
	OPT_SPARSE,
	OPT_QUEUES,
	OPT_QUEUE_SIZE,
	OPT_THREADS,
	OPT_POLL_US,
	OPT_BLOCK_SIZE,
	OPT_SERIAL,
	OPT_WRITE_THROUGH,
	OPT_ID,
	OPT_BW_SIZE,
	OPT_BW_BURST,
	OPT_BW_REFILL,
	OPT_OPS_SIZE,
	OPT_OPS_BURST,
	OPT_OPS_REFILL,
};

static const struct device_option options[] = {
	[OPT_BLK_FILE] = { "blk-file", "PATH", "image file or block device" },
	[OPT_FILE] = { "file", "WHAT",
		"PATH[:read-only], nbd://..., nbd+unix://..., ram:SIZE or null:SIZE" },
	[OPT_FILE_FD] = { "file-fd", "N", "the image is open as descriptor N" },
	[OPT_FILE_NAME] = { "file-name", "TEXT", "and is called this in messages" },
	[OPT_READ_ONLY] = { "read-only", NULL, "the guest may not write" },
	[OPT_DIRECT] = { "direct", NULL, "past the page cache (O_DIRECT)" },
	[OPT_SPARSE] = { "sparse", "on|off", "give discarded blocks back; default on" },
	[OPT_QUEUES] = { "queues", "N", "number of queues, 1 to 64; default 1" },
	[OPT_QUEUE_SIZE] = { "queue-size", "N", "requests in each, 2 to 1024; default 128" },
	[OPT_THREADS] = { "threads", "N", "threads among which the queues are spread; default 1" },
	[OPT_POLL_US] = { "poll-us", "N", "look for work up to N us before sleep; default 2" },
	[OPT_BLOCK_SIZE] = { "block-size", "N", "512 or 4096; default: the image's" },
	[OPT_SERIAL] = { "serial", "TEXT", "serial number, up to 20 bytes" },
	[OPT_WRITE_THROUGH] = { "write-through", NULL,
		"writes are stable when they are done; the guest may change that" },
	[OPT_ID] = { "id", "NAME", "name in log lines and of threads; default _disk0" },
	[OPT_BW_SIZE] = { "bw-size", "N", "bytes in each bw-refill-time; default: no limit" },
	[OPT_BW_BURST] = { "bw-one-time-burst", "N", "bytes more, once" },
	[OPT_BW_REFILL] = { "bw-refill-time", "MS", "milliseconds" },
	[OPT_OPS_SIZE] = { "ops-size", "N",
		"operations in each ops-refill-time; default: no limit" },
	[OPT_OPS_BURST] = { "ops-one-time-burst", "N", "operations more, once" },
	[OPT_OPS_REFILL] = { "ops-refill-time", "MS", "milliseconds" },
};
static_assert(ARRAY_SIZE(options) <= DEVICE_MODEL_MAX_OPTIONS, "the parser's table");

/* A thread's ring has 32768 entries at most (iothread_uring.c needs one for each, and a few more).
 */
#define MAX_REQUESTS_PER_THREAD 16384u

static const struct sandbox_call calls[] = {
	IOTHREAD_CALLS,
	{ SYS_lseek, "how large the image is now" },
	{ SYS_preadv, "an image in memory" },
	{ SYS_pwritev2, "likewise" },
	{ SYS_mincore, "likewise, where it is mapped" },
#ifdef HAVE_LIBNBD
	{ SYS_recvfrom, "the NBD server" },
	{ SYS_sendto, "likewise" },
	{ SYS_shutdown, "likewise, at the end" },
	{ SYS_wait4, "the end of who connects to it" },
#endif
};

/* The store */

static int parse_size(const char *text, uint64_t *size, struct err *err)
{
	static const char units[] = "KMGT";
	char *end;
	const char *unit;
	unsigned shift = 0;

	errno = 0;
	*size = strtoull(text, &end, 10);
	unit = *end ? strchr(units, *end) : NULL;
	if (unit) {
		shift = 10u * (unsigned)(unit - units + 1);
		end++;
	}
	if (errno || *end || *text < '0' || *text > '9' || *size > (uint64_t)INT64_MAX >> shift ||
		!(*size << shift) || *size << shift & (BLOCK_SECTOR - 1))
		return err_set(err, -EINVAL,
			"--file: '%.32s', expected a size, a multiple of 512 bytes, as in 10G",
			text);
	*size <<= shift;
	return 0;
}

static int open_sized(const char *what, struct block_store **out, struct err *err)
{
	uint64_t size;
	bool ram = !strncmp(what, "ram:", 4);
	int rc = parse_size(strchr(what, ':') + 1, &size, err);

	if (rc)
		return rc;
	return ram ? block_ram_new(out, size, err) : block_null_new(out, size, err);
}

static int parse_fd(const char *text, int *fd, struct err *err)
{
	uint64_t n;
	int rc = number_option("file-fd", text, 0, STDERR_FILENO + 1, INT32_MAX, &n, err);

	if (rc)
		return rc;
	if (fcntl((int)n, F_SETFD, FD_CLOEXEC) < 0)
		return err_set(err, -EBADF, "--file-fd: descriptor %s is not open", text);
	*fd = (int)n;
	return 0;
}

/* crosvm's --file PATH:read-only. */
#define READ_ONLY ":read-only"

/* What is before the word, NULL without it: freed by the caller. */
static char *before_read_only(const char *what)
{
	size_t len = what ? strlen(what) : 0, end = strlen(READ_ONLY);

	if (len <= end || strcmp(what + len - end, READ_ONLY))
		return NULL;
	return strndup(what, len - end);
}

static int open_store(
	const char *const *values, unsigned nr_threads, struct block_store **out, struct err *err)
{
	FREE_AUTO char *read_only = before_read_only(values[OPT_FILE]);
	const char *what = read_only	      ? read_only
			   : values[OPT_FILE] ? values[OPT_FILE]
					      : values[OPT_BLK_FILE];
	struct block_file_config config = {
		.path = what,
		.fd = -1,
		.name = values[OPT_FILE_NAME],
		.read_only = values[OPT_READ_ONLY] || read_only,
		.direct = values[OPT_DIRECT],
	};
	int rc;

	if (!!values[OPT_FILE] + !!values[OPT_BLK_FILE] + !!values[OPT_FILE_FD] != 1)
		return err_set(err, -EINVAL,
			"expected one of --blk-file=PATH, --file=WHAT and --file-fd=N");
	rc = switch_option("sparse", values[OPT_SPARSE], true, &config.sparse, err);
	if (rc)
		return rc;
	if (values[OPT_FILE] && (!strncmp(what, "null:", 5) || !strncmp(what, "ram:", 4))) {
		rc = open_sized(what, out, err);
		if (!rc && config.read_only) {
			(*out)->read_only = true;
			(*out)->can_discard = (*out)->can_zero = false;
		}
		return rc;
	}
	if (values[OPT_FILE] && !strncmp(what, "nbd", 3) && strstr(what, "://"))
		return block_nbd_new(out, what, nr_threads, config.read_only, err);
	if (!what)
		rc = parse_fd(values[OPT_FILE_FD], &config.fd, err);
	return rc ? rc : block_file_new(out, &config, err);
}

/* The rest */

static int parse_numbers(const char *const *values, struct block_config *c, struct err *err)
{
	uint64_t queues, size, threads, poll, block;
	int rc = number_option("queues", values[OPT_QUEUES], 1, 1, BLOCK_MAX_QUEUES, &queues, err);

	if (!rc)
		rc = number_option("queue-size", values[OPT_QUEUE_SIZE], 128, 2,
			BLOCK_MAX_QUEUE_SIZE, &size, err);
	if (!rc)
		rc = number_option(
			"threads", values[OPT_THREADS], 1, 1, BLOCK_MAX_QUEUES, &threads, err);
	if (!rc)
		rc = number_option(
			"poll-us", values[OPT_POLL_US], IOTHREAD_POLL_US, 0, 1000000, &poll, err);
	if (!rc)
		rc = number_option("block-size", values[OPT_BLOCK_SIZE], 0, 512, 4096, &block, err);
	if (rc)
		return rc;
	if (block && block != 512 && block != 4096)
		return err_set(err, -EINVAL, "--block-size: '%.32s', expected 512 or 4096",
			values[OPT_BLOCK_SIZE]);
	if (threads > queues)
		return err_set(err, -EINVAL, "--threads: %u are more than there are queues",
			(unsigned)threads);
	if (!is_pow2(size))
		return err_set(
			err, -EINVAL, "--queue-size: %u is not a power of 2", (unsigned)size);
	if ((queues + threads - 1) / threads * size > MAX_REQUESTS_PER_THREAD)
		return err_set(err, -EINVAL,
			"--queues and --queue-size make more than %u requests for a thread: "
			"expected more --threads",
			MAX_REQUESTS_PER_THREAD);
	c->nr_queues = (uint16_t)queues;
	c->queue_size = (uint16_t)size;
	c->nr_threads = (uint16_t)threads;
	c->poll_us = (uint32_t)poll;
	c->block_size = (uint32_t)block;
	return 0;
}

static int parse_serial(const char *text, struct block_config *c, struct err *err)
{
	if (!text)
		return 0;
	if (!*text || strlen(text) > sizeof(c->serial))
		return err_set(err, -EINVAL, "--serial: '%.32s', expected 1 to %zu bytes", text,
			sizeof(c->serial));
	memcpy(c->serial, text, strlen(text));
	return 0;
}

static int new_virtio(
	const char *const *values, struct loop *loop, struct virtio_model **out, struct err *err)
{
	struct block_config config = {
		.name = values[OPT_ID] ? values[OPT_ID] : "_disk0",
		.write_through = values[OPT_WRITE_THROUGH],
	};
	struct block_store *store = NULL;
	int rc = parse_numbers(values, &config, err);

	if (!rc)
		rc = parse_serial(values[OPT_SERIAL], &config, err);
	if (!rc)
		rc = rate_limit_options(
			&options[OPT_BW_SIZE], &values[OPT_BW_SIZE], &config.limit.bytes, err);
	if (!rc)
		rc = rate_limit_options(
			&options[OPT_OPS_SIZE], &values[OPT_OPS_SIZE], &config.limit.ops, err);
	if (!rc)
		rc = open_store(values, config.nr_threads, &store, err);
	return rc ? rc : block_new(out, loop, store, &config, err);
}

const struct device_model block_model = {
	.name = "block",
	.summary = "virtio disk",
	.options = options,
	.nr_options = ARRAY_SIZE(options),
	.calls = calls,
	.nr_calls = ARRAY_SIZE(calls),
	.new_virtio = new_virtio,
};
