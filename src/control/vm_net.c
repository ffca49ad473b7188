/*
 * vm_net.c - --net: a tap of the host, and the program that moves packets between it and the guest
 *
 * The tap is opened and set up here, and its queues are handed to the program: it lives as long as
 * the machine does, whatever becomes of the program, and keeps its place in a bridge.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <sys/random.h>

#include "control/program_args.h"
#include "control/vm_devices_priv.h"
#include "device/tap.h"

static int open_tap(const struct net_config *net, struct tap *tap, struct err *err)
{
	uint8_t mac[TAP_MAC_SIZE];
	const struct tap_host host = {
		.ip = net->ip,
		.mask = net->ip && !net->mask ? "255.255.255.0" : net->mask,
		.mac = net->host_mac ? mac : NULL,
		.mtu = net->mtu,
	};
	int rc = tap_open(tap, net->tap ? net->tap : "", net->num_queues / 2u, err);

	if (rc)
		return rc;
	if (net->host_mac)
		config_mac(net->host_mac, mac);
	rc = tap_set_up(tap, &host, err);
	if (rc)
		tap_close(tap);
	return rc;
}

/* What they are, the program finds out. */
static int check_given(const struct net_config *net, struct err *err)
{
	for (size_t i = 0; i < net->fds.nr; i++)
		if (fcntl((int)net->fds.items[i], F_GETFD) < 0)
			return err_set(err, -EBADF, "fd: descriptor %u is not open",
				net->fds.items[i]);
	return 0;
}

/* --tap-fd=4,5,...: those of a tap of ours, or what the user gave. */
static void pass_tap(struct program_args *a, const int *fds, unsigned nr)
{
	char list[16 * TAP_MAX_QUEUES] = "";
	size_t used = 0;

	for (unsigned i = 0; i < nr; i++)
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%d", i ? "," : "",
			program_fd_copy(a, fds[i]));
	program_arg(a, "--tap-fd=%s", list);
}

int vm_net_mac(const struct net_config *net, uint8_t mac[TAP_MAC_SIZE])
{
	if (net->mac)
		config_mac(net->mac, mac);
	else if (getrandom(mac, TAP_MAC_SIZE, 0) != TAP_MAC_SIZE)
		return -EIO;
	if (!net->mac)
		mac[0] = (uint8_t)((mac[0] & ~1u) | 2u); /* of one station, local */
	return 0;
}

/* The guest's address stays the same however often the program is started. */
static void pass_mac(struct program_args *a, const struct net_config *net)
{
	uint8_t mac[TAP_MAC_SIZE] = { 0 };

	if (vm_net_mac(net, mac))
		a->rc = -EIO;
	program_arg(a, "--mac=%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
		mac[4], mac[5]);
}

static void add_net_args(struct program_args *a, const struct net_config *net)
{
	pass_mac(a, net);
	program_arg(a, "--queues=%u", net->num_queues / 2u);
	program_arg(a, "--queue-size=%u", net->queue_size);
	if (net->mtu)
		program_arg(a, "--mtu=%u", net->mtu);
	program_arg(a, "--offload-tso=%s", net->offload_tso ? "on" : "off");
	program_arg(a, "--offload-ufo=%s", net->offload_ufo ? "on" : "off");
	program_arg(a, "--offload-csum=%s", net->offload_csum ? "on" : "off");
	vm_add_rate(a, &net->rate);
}

static int begin_net(struct vm_devices *d, const struct net_config *net, struct err *err)
{
	uint16_t sizes[VM_MAX_QUEUES];
	const struct vm_program program = {
		.kind = "net",
		.type = VIRTIO_ID_NET,
		.at = &net->at,
		.queue_sizes = sizes,
		.nr_queues = net->num_queues + 1u, /* and the one for control */
	};
	struct program_args a;
	struct tap tap;
	int rc;

	if (net->vhost_user)
		return vm_begin_foreign_net(d, net, err);
	vm_fill_sizes(sizes, program.nr_queues, net->queue_size);
	rc = net->fds.nr ? check_given(net, err) : open_tap(net, &tap, err);
	if (rc)
		return err_prefix(err, rc, "%s", net->at.id);
	program_args_init(&a, "net");
	add_net_args(&a, net);
	if (net->fds.nr) {
		pass_tap(&a, (const int *)net->fds.items, (unsigned)net->fds.nr);
	} else {
		pass_tap(&a, tap.fds, tap.nr);
		tap_close(&tap);
	}
	return vm_begin_program(d, &program, &a, err);
}

int vm_begin_nets(struct vm_devices *d, const struct vm_config *c, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; i < c->nets.nr && !rc; i++)
		rc = begin_net(d, &c->nets.items[i], err);
	return rc;
}
