/*
 * net.c - virtio network device: features, configuration, and which pairs of queues are in use
 *
 * A pair of queues has a tap queue, which is switched on while the pair is in use, so that the host
 * steers no packet to where nobody reads. In use is what the driver has asked for over its control
 * queue (one pair to begin with) and has set up; without a control queue, all that is set up.
 *
 * Threads: the loop's, and one for each pair (net_pair.c).
 * Spec:    virtio 1.3, 5.1.
 */
#include "device/net.h"

#include <assert.h>
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "device/net_priv.h"
#include "wire/virtio.h"

/* Younger than the oldest kernel headers we build with (virtio 1.3, 5.1.3) */
#define F_GUEST_USO4 54
#define F_GUEST_USO6 55
#define F_HOST_USO   56
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

/* Up to and including mtu: what comes after it belongs to features that are not offered. */
#define CONFIG_SIZE (offsetof(struct virtio_net_config, mtu) + 2)

/* Features */

static uint64_t offload_features(const struct net_config *config, const struct tap *tap)
{
	uint64_t f = 0;

	if (!config->csum)
		return 0;
	f |= VIRTIO_BIT(VIRTIO_NET_F_CSUM) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_CSUM) |
	     VIRTIO_BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
	if (config->tso)
		f |= VIRTIO_BIT(VIRTIO_NET_F_HOST_TSO4) | VIRTIO_BIT(VIRTIO_NET_F_HOST_TSO6) |
		     VIRTIO_BIT(VIRTIO_NET_F_HOST_ECN) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_TSO4) |
		     VIRTIO_BIT(VIRTIO_NET_F_GUEST_TSO6) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_ECN);
	if (config->ufo)
		f |= VIRTIO_BIT(VIRTIO_NET_F_HOST_UFO) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_UFO);
	if (config->ufo && tap->segments_udp)
		f |= VIRTIO_BIT(F_HOST_USO) | VIRTIO_BIT(F_GUEST_USO4) | VIRTIO_BIT(F_GUEST_USO6);
	return f;
}

static uint64_t features_of(const struct net *n, const struct net_config *config)
{
	uint64_t f = VIRTIO_MODEL_RING_FEATURES | offload_features(config, &n->tap) |
		     VIRTIO_BIT(VIRTIO_NET_F_STATUS) | VIRTIO_BIT(VIRTIO_NET_F_MRG_RXBUF) |
		     VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |
		     VIRTIO_BIT(VIRTIO_NET_F_GUEST_ANNOUNCE);

	if (memcmp(n->mac, (uint8_t[TAP_MAC_SIZE]){ 0 }, TAP_MAC_SIZE) != 0)
		f |= VIRTIO_BIT(VIRTIO_NET_F_MAC);
	if (n->tap.mtu)
		f |= VIRTIO_BIT(VIRTIO_NET_F_MTU);
	if (n->nr_pairs > 1)
		f |= VIRTIO_BIT(VIRTIO_NET_F_MQ);
	/* Whoever offers filters filters; without, a driver expects everything. */
	if (n->tap.filters)
		f |= VIRTIO_BIT(VIRTIO_NET_F_CTRL_RX) | VIRTIO_BIT(VIRTIO_NET_F_CTRL_RX_EXTRA);
	return f;
}

int net_update_offloads(struct net *n)
{
	static const struct {
		unsigned feature, flag;
	} map[] = {
		{ VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM },
		{ VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4 },
		{ VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6 },
		{ VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN },
		{ VIRTIO_NET_F_GUEST_UFO, TUN_F_UFO },
		{ F_GUEST_USO4, TUN_F_USO4 },
		{ F_GUEST_USO6, TUN_F_USO6 },
	};
	unsigned flags = 0;
	int rc;

	for (size_t i = 0; i < ARRAY_SIZE(map); i++)
		if (n->offloads & VIRTIO_BIT(map[i].feature))
			flags |= map[i].flag;
	if (!(flags & TUN_F_CSUM))
		flags = 0; /* the others need it */
	/* The kernel knows USO for both or for none. */
	if ((flags & (TUN_F_USO4 | TUN_F_USO6)) != (TUN_F_USO4 | TUN_F_USO6))
		flags &= ~(unsigned)(TUN_F_USO4 | TUN_F_USO6);
	rc = tap_set_offload(&n->tap, flags);
	if (rc)
		log_limited(&n->limit, LOG_WARN, "%s: tap %s: offloads 0x%x: %s", n->model.name,
			n->tap.name, flags, strerror(-rc));
	return rc;
}

static void set_features(struct virtio_model *m, uint64_t features)
{
	struct net *n = net_of(m);

	/* The same driver, after a reconnect: what it has switched off since stays so. */
	if (!n->known || features != n->features)
		n->offloads = features;
	n->features = features;
	for (unsigned i = 0; i < n->nr_pairs; i++) {
		n->pairs[i].mergeable = net_has(n, VIRTIO_NET_F_MRG_RXBUF);
		n->pairs[i].guest_csum = net_has(n, VIRTIO_NET_F_GUEST_CSUM);
	}
	net_update_offloads(n);
}

/* Configuration and link */

void net_update_config(struct net *n)
{
	struct virtio_net_config config = {
		.status = (uint16_t)((n->tap.up ? VIRTIO_NET_S_LINK_UP : 0) |
				     (n->announce ? VIRTIO_NET_S_ANNOUNCE : 0)),
		.max_virtqueue_pairs = (uint16_t)n->nr_pairs,
		.mtu = n->tap.mtu,
	};

	memcpy(config.mac, n->filter.mac, TAP_MAC_SIZE);
	if (!memcmp(n->model.config, &config, CONFIG_SIZE))
		return;
	memcpy(n->model.config, &config, CONFIG_SIZE);
	virtio_model_config_changed(&n->model);
}

static void link_changed(void *arg)
{
	struct net *n = arg;

	log_info("%s: the link of tap %s is %s", n->model.name, n->tap.name,
		n->tap.up ? "up" : "down");
	net_update_config(n);
}

static void tap_is_gone(struct loop_work *work)
{
	tap_gone(&container_of(work, struct net, gone)->tap);
}

void net_tap_gone(struct net *n)
{
	loop_post(n->model.loop, &n->gone, tap_is_gone);
}

/* Queues */

/* virtio 1.3, 5.1.2: behind all pairs that there are, or the only one that the driver knows of. */
static unsigned control_queue(const struct net *n)
{
	return net_has(n, VIRTIO_NET_F_MQ) ? 2 * n->nr_pairs : 2;
}

static bool is_control(const struct net *n, unsigned queue)
{
	return net_has(n, VIRTIO_NET_F_CTRL_VQ) ? queue == control_queue(n)
						: queue == 2 * n->nr_pairs;
}

void net_update_pairs(struct net *n)
{
	for (unsigned i = 1; i < n->nr_pairs; i++)
		net_pair_attach(&n->pairs[i],
			net_pair_serves(&n->pairs[i], NET_RX) && (i < n->active || !n->control.vq));
}

static int start_data(struct net *n, unsigned queue, struct vq *vq)
{
	struct net_pair *p = &n->pairs[queue / 2];
	enum net_dir dir = queue & 1 ? NET_TX : NET_RX;
	/* Only a ring that the driver uses has been served before, or has buffers in it. */
	bool in_use = !vq_is_new(vq) || vq_ready(vq);
	int rc = net_pair_start(p, dir, vq);

	if (rc || dir == NET_TX)
		return rc;
	p->in_use = in_use;
	net_update_pairs(n);
	return 0;
}

static int queue_start(struct virtio_model *m, unsigned queue, struct vq *vq)
{
	struct net *n = net_of(m);
	int rc;

	if (is_control(n, queue))
		rc = net_control_start(n, vq);
	else if (queue < 2 * n->nr_pairs)
		rc = start_data(n, queue, vq);
	else
		rc = -EINVAL;
	if (rc)
		log_warn("%s: queue %u cannot be served: %s", m->name, queue, strerror(-rc));
	return rc;
}

static void queue_stop(struct virtio_model *m, unsigned queue, virtio_stopped_fn stopped, void *arg)
{
	struct net *n = net_of(m);

	if (is_control(n, queue)) {
		loop_queue_stop(&n->control);
		stopped(arg, queue);
		return;
	}
	assert(queue < 2 * n->nr_pairs);
	net_pair_stop(&n->pairs[queue / 2], queue & 1 ? NET_TX : NET_RX, queue, stopped, arg);
	net_update_pairs(n);
}

static void pause(struct virtio_model *m)
{
	struct net *n = net_of(m);

	for (unsigned i = 0; i < n->nr_pairs; i++)
		net_pair_pause(&n->pairs[i]);
}

static void resume(struct virtio_model *m)
{
	struct net *n = net_of(m);

	for (unsigned i = 0; i < n->nr_pairs; i++)
		net_pair_resume(&n->pairs[i]);
}

/* Life */

static void reset(struct virtio_model *m)
{
	net_control_reset(net_of(m));
}

static void free_net(struct virtio_model *m)
{
	struct net *n = net_of(m);

	loop_queue_stop(&n->control);
	for (unsigned i = 0; n->pairs && i < n->nr_pairs; i++)
		net_pair_fini(&n->pairs[i]);
	free(n->pairs);
	for (int dir = NET_RX; dir <= NET_TX; dir++)
		rate_limit_fini(&n->limits[dir]);
	loop_unpost(m->loop, &n->gone);
	tap_close(&n->tap);
	free(n);
}

static const struct virtio_model_ops ops = {
	.set_features = set_features,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.pause = pause,
	.resume = resume,
	.reset = reset,
	.save = net_save,
	.load = net_load,
	.free = free_net,
};

/* The guest's side of a cable whose other end has this address; the same one after each restart. */
static void make_mac(uint8_t mac[TAP_MAC_SIZE], const uint8_t tap[TAP_MAC_SIZE])
{
	static const uint8_t none[TAP_MAC_SIZE];

	memcpy(mac, tap, TAP_MAC_SIZE);
	if (!memcmp(tap, none, TAP_MAC_SIZE))
		return;
	mac[0] = (uint8_t)((mac[0] | 2) & ~1); /* locally administered, unicast */
	mac[TAP_MAC_SIZE - 1] ^= 1;
}

static int make_pairs(struct net *n, struct err *err)
{
	int rc = 0;

	n->pairs = calloc(n->nr_pairs, sizeof(*n->pairs));
	if (!n->pairs)
		return err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; !rc && i < n->nr_pairs; i++)
		rc = net_pair_init(&n->pairs[i], n, i, err);
	return rc;
}

/* The tap's source of events keeps its address from here on. */
static struct net *new_net(struct tap *tap)
{
	struct net *n = calloc(1, sizeof(*n));

	if (!n) {
		tap_close(tap);
		return NULL;
	}
	n->tap = *tap;
	tap->nr = 0;
	n->nr_pairs = n->tap.nr;
	return n;
}

int net_new(struct virtio_model **out, struct loop *loop, const struct net_config *config,
	struct tap *tap, struct err *err)
{
	struct net *n = new_net(tap);
	int rc;

	if (!n)
		return err_set(err, -ENOMEM, "out of memory");
	n->model = (struct virtio_model){
		.ops = &ops,
		.name = config->name,
		.type = VIRTIO_ID_NET,
		.nr_queues = (uint16_t)(2 * n->nr_pairs + 1),
		.max_queue_size = config->queue_size,
		.config_size = CONFIG_SIZE,
		.loop = loop,
	};
	for (int dir = NET_RX; dir <= NET_TX; dir++)
		rate_limit_init(&n->limits[dir], &config->limit, clock_now_ns());
	if (config->mtu)
		n->tap.mtu = config->mtu;
	if (config->mac)
		memcpy(n->mac, config->mac, TAP_MAC_SIZE);
	else
		make_mac(n->mac, n->tap.mac);
	n->model.features = features_of(n, config);
	rc = make_pairs(n, err);
	if (!rc)
		rc = tap_watch(&n->tap, loop, link_changed, n, err);
	if (rc) {
		free_net(&n->model);
		return rc;
	}
	net_control_reset(n);
	*out = &n->model;
	return 0;
}
