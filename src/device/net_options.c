/*
 * net_options.c - the network device's row in the table of models
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "device/iothread.h"
#include "device/model.h"
#include "device/net.h"
#include "device/number.h"

enum {
	OPT_TAP,
	OPT_TAP_FD,
	OPT_MAC,
	OPT_MTU,
	OPT_QUEUES,
	OPT_QUEUE_SIZE,
	OPT_IP,
	OPT_MASK,
	OPT_HOST_MAC,
	OPT_CSUM,
	OPT_TSO,
	OPT_UFO,
	OPT_BW_SIZE,
	OPT_BW_BURST,
	OPT_BW_REFILL,
	OPT_OPS_SIZE,
	OPT_OPS_BURST,
	OPT_OPS_REFILL,
};

static const struct device_option options[] = {
	[OPT_TAP] = { "tap", "NAME",
		"the tap device, made if there is none; \"\": a name is made up" },
	[OPT_TAP_FD] = { "tap-fd", "N,...",
		"a tap (IFF_VNET_HDR) or packet sockets, one per pair of queues" },
	[OPT_MAC] = { "mac", "MAC", "the guest's address; default: made from the tap's" },
	[OPT_MTU] = { "mtu", "N", "of both sides; default: the tap's" },
	[OPT_QUEUES] = { "queues", "N", "pairs of queues; default 1" },
	[OPT_QUEUE_SIZE] = { "queue-size", "N", "default 256" },
	[OPT_IP] = { "ip", "ADDRESS", "the tap's IPv4 address" },
	[OPT_MASK] = { "mask", "MASK", "and its mask, as in 255.255.255.0" },
	[OPT_HOST_MAC] = { "host-mac", "MAC", "the tap's MAC address" },
	[OPT_CSUM] = { "offload-csum", "on|off", "offer checksum offloads; default on" },
	[OPT_TSO] = { "offload-tso", "on|off", "offer TCP segmentation offloads; default on" },
	[OPT_UFO] = { "offload-ufo", "on|off", "offer UDP segmentation offloads; default on" },
	[OPT_BW_SIZE] = { "bw-size", "N",
		"bytes each way in each bw-refill-time; default: no limit" },
	[OPT_BW_BURST] = { "bw-one-time-burst", "N", "bytes more, once" },
	[OPT_BW_REFILL] = { "bw-refill-time", "MS", "milliseconds" },
	[OPT_OPS_SIZE] = { "ops-size", "N",
		"packets each way in each ops-refill-time; default: no limit" },
	[OPT_OPS_BURST] = { "ops-one-time-burst", "N", "packets more, once" },
	[OPT_OPS_REFILL] = { "ops-refill-time", "MS", "milliseconds" },
};

static const struct sandbox_call calls[] = {
	IOTHREAD_CALLS,
	{ SYS_readv, "packets from the tap, straight into the guest's memory" },
	{ SYS_writev, "packets to it" },
	{ SYS_ioctl, "the tap's offloads, filter and queues" },
};

static int parse_mac(const char *name, const char *text, uint8_t mac[TAP_MAC_SIZE], struct err *err)
{
	int used = 0;

	if (sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2],
		    &mac[3], &mac[4], &mac[5], &used) != 6 ||
		text[used] || used != 17 || strspn(text, "0123456789abcdefABCDEF:") != 17)
		return err_set(err, -EINVAL,
			"--%s: '%.32s', expected an address as in 52:54:00:12:34:56", name, text);
	if (mac[0] & 1)
		return err_set(err, -EINVAL, "--%s: '%.32s' is the address of a group", name, text);
	return 0;
}

static int parse_fds(const char *text, int *fds, unsigned *nr, struct err *err)
{
	FREE_AUTO char *copy = strdup(text);
	char *rest = copy, *item;

	if (!copy)
		return err_set(err, -ENOMEM, "out of memory");
	while ((item = strsep(&rest, ","))) {
		uint64_t fd;
		int rc = number_option("tap-fd", item, 0, 3, INT32_MAX, &fd, err);

		if (rc)
			return rc;
		if (*nr == TAP_MAX_QUEUES)
			return err_set(err, -EINVAL, "--tap-fd: at most %d", TAP_MAX_QUEUES);
		for (unsigned i = 0; i < *nr; i++)
			if (fds[i] == (int)fd)
				return err_set(err, -EINVAL, "--tap-fd: %d is given twice", fds[i]);
		fds[(*nr)++] = (int)fd;
	}
	return 0;
}

static int check_ip(const char *name, const char *text, struct err *err)
{
	struct in_addr in;

	if (text && inet_pton(AF_INET, text, &in) != 1)
		return err_set(err, -EINVAL, "--%s: '%.32s', expected an IPv4 address", name, text);
	return 0;
}

/* All that can be told to be wrong before anything is opened. */
struct request {
	struct net_config net;
	struct tap_host host;
	uint8_t mac[TAP_MAC_SIZE], host_mac[TAP_MAC_SIZE];
	int fds[TAP_MAX_QUEUES];
	unsigned nr_fds, nr_queues;
};

static int parse_numbers(const char *const *values, struct request *r, struct err *err)
{
	uint64_t mtu, queues, size;
	int rc = number_option("mtu", values[OPT_MTU], 0, 68, 65535, &mtu, err);

	if (!rc)
		rc = number_option("queues", values[OPT_QUEUES], r->nr_fds ? r->nr_fds : 1, 1,
			TAP_MAX_QUEUES, &queues, err);
	if (!rc)
		rc = number_option("queue-size", values[OPT_QUEUE_SIZE], 256, 2, 32768, &size, err);
	if (rc)
		return rc;
	if (!is_pow2(size))
		return err_set(
			err, -EINVAL, "--queue-size: %u is not a power of two", (unsigned)size);
	if (r->nr_fds && r->nr_fds != queues)
		return err_set(err, -EINVAL, "--tap-fd has %u descriptors for %u pairs of queues",
			r->nr_fds, (unsigned)queues);
	r->net.mtu = r->host.mtu = (uint16_t)mtu;
	r->nr_queues = (unsigned)queues;
	r->net.queue_size = (uint16_t)size;
	return 0;
}

static int parse_macs(const char *const *values, struct request *r, struct err *err)
{
	int rc = 0;

	if (values[OPT_MAC]) {
		rc = parse_mac("mac", values[OPT_MAC], r->mac, err);
		r->net.mac = r->mac;
	}
	if (!rc && values[OPT_HOST_MAC]) {
		rc = parse_mac("host-mac", values[OPT_HOST_MAC], r->host_mac, err);
		r->host.mac = r->host_mac;
	}
	return rc;
}

static int parse_switches(const char *const *values, struct request *r, struct err *err)
{
	int rc = switch_option("offload-csum", values[OPT_CSUM], true, &r->net.csum, err);

	if (!rc)
		rc = switch_option("offload-tso", values[OPT_TSO], true, &r->net.tso, err);
	if (!rc)
		rc = switch_option("offload-ufo", values[OPT_UFO], true, &r->net.ufo, err);
	return rc;
}

static int parse(const char *const *values, struct request *r, struct err *err)
{
	int rc = 0;

	if (!!values[OPT_TAP] + !!values[OPT_TAP_FD] != 1)
		return err_set(err, -EINVAL, "expected either --tap=NAME or --tap-fd=N");
	if (values[OPT_TAP_FD] && (values[OPT_IP] || values[OPT_MASK] || values[OPT_HOST_MAC]))
		return err_set(err, -EINVAL,
			"--ip, --mask and --host-mac are for a tap that is opened by name");
	if (values[OPT_TAP_FD])
		rc = parse_fds(values[OPT_TAP_FD], r->fds, &r->nr_fds, err);
	if (!rc)
		rc = parse_numbers(values, r, err);
	if (!rc)
		rc = parse_macs(values, r, err);
	if (!rc)
		rc = check_ip("ip", values[OPT_IP], err);
	if (!rc)
		rc = check_ip("mask", values[OPT_MASK], err);
	if (!rc)
		rc = parse_switches(values, r, err);
	if (!rc)
		rc = rate_limit_options(
			&options[OPT_BW_SIZE], &values[OPT_BW_SIZE], &r->net.limit.bytes, err);
	if (!rc)
		rc = rate_limit_options(
			&options[OPT_OPS_SIZE], &values[OPT_OPS_SIZE], &r->net.limit.ops, err);
	r->host.ip = values[OPT_IP];
	r->host.mask = values[OPT_MASK];
	return rc;
}

static int open_tap(const char *name, const struct request *r, struct tap *tap, struct err *err)
{
	int rc;

	if (r->nr_fds)
		return tap_adopt(tap, r->fds, r->nr_fds, err);
	rc = tap_open(tap, name, r->nr_queues, err);
	if (!rc) {
		rc = tap_set_up(tap, &r->host, err);
		if (rc)
			tap_close(tap);
	}
	return rc;
}

static int new_virtio(
	const char *const *values, struct loop *loop, struct virtio_model **out, struct err *err)
{
	struct request r = { .net.name = "net" };
	struct tap tap;
	int rc = parse(values, &r, err);

	if (!rc)
		rc = open_tap(values[OPT_TAP], &r, &tap, err);
	return rc ? rc : net_new(out, loop, &r.net, &tap, err);
}

const struct device_model net_model = {
	.name = "net",
	.summary = "virtio network device on a tap",
	.options = options,
	.nr_options = ARRAY_SIZE(options),
	.calls = calls,
	.nr_calls = ARRAY_SIZE(calls),
	.new_virtio = new_virtio,
};
