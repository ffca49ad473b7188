/*
 * net_control.c - the control queue: addresses, receive modes, pairs, offloads; and the saved state
 *
 * A command is a class, a command, data, and a byte for the answer. The filter is the kernel's
 * (TUNSETTXFILTER), which knows a list of addresses and "all multicast", so modes are translated
 * into these: what cannot be said that way lets more through, never less, as the standard allows.
 *
 * The state is lost with the process, unless somebody saves it. A process that finds a control ring
 * that has been used takes all packets, since the driver will not repeat what it wanted, and the
 * pairs whose rings have been used.
 *
 * Trusts: no command: lengths are checked, counts compared with the bytes that are there.
 * Spec:   virtio 1.3, 5.1.6.5.
 */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "device/net_priv.h"
#include "wire/virtio.h"

#define MAX_PIECES    32
#define TURN_COMMANDS 32
#define STATE_VERSION 1

static const uint8_t broadcast[TAP_MAC_SIZE] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

/* The filter */

static void add_address(uint8_t (*list)[TAP_MAC_SIZE], unsigned *nr, const uint8_t *mac)
{
	memcpy(list[(*nr)++], mac, TAP_MAC_SIZE);
}

int net_apply_filter(struct net *n)
{
	const struct net_filter *f = &n->filter;
	uint8_t list[2 + 2 * NET_MAX_MACS][TAP_MAC_SIZE];
	unsigned nr = 0;
	int rc;

	/* Unicast first: the kernel wants these among the first few, or lets everything in. */
	if (!f->nouni) {
		add_address(list, &nr, f->mac);
		for (unsigned i = 0; i < f->nr_uni; i++)
			add_address(list, &nr, f->uni[i]);
	}
	if (!f->nobcast)
		add_address(list, &nr, broadcast);
	for (unsigned i = 0; !f->nomulti && i < f->nr_multi; i++)
		add_address(list, &nr, f->multi[i]);
	/* An empty list would be no filter at all. */
	if (!nr)
		add_address(list, &nr, f->mac);
	if (f->promisc || f->alluni || f->uni_overflow)
		nr = 0;
	rc = tap_set_filter(
		&n->tap, list[0], nr, !f->nomulti && (f->allmulti || f->multi_overflow));
	if (rc)
		log_limited(&n->limit, LOG_WARN, "%s: tap %s: the filter of %u addresses: %s",
			n->model.name, n->tap.name, nr, strerror(-rc));
	return rc;
}

/* Commands: true when done */

static bool receive_mode(struct net *n, uint8_t command, const struct vq_req *req)
{
	bool *const modes[] = {
		[VIRTIO_NET_CTRL_RX_PROMISC] = &n->filter.promisc,
		[VIRTIO_NET_CTRL_RX_ALLMULTI] = &n->filter.allmulti,
		[VIRTIO_NET_CTRL_RX_ALLUNI] = &n->filter.alluni,
		[VIRTIO_NET_CTRL_RX_NOMULTI] = &n->filter.nomulti,
		[VIRTIO_NET_CTRL_RX_NOUNI] = &n->filter.nouni,
		[VIRTIO_NET_CTRL_RX_NOBCAST] = &n->filter.nobcast,
	};
	uint8_t on;

	if (!n->tap.filters || command >= ARRAY_SIZE(modes) || req->out_len != 2 + 1)
		return false;
	vq_req_read(req, 2, &on, 1);
	*modes[command] = on != 0;
	return net_apply_filter(n) == 0;
}

/*
 * One of the two tables, at *off of the command: as many addresses as there is place for, the
 * rest makes it overflow. False: it is longer than the command.
 */
static bool read_table(const struct vq_req *req, uint64_t *off, uint8_t (*list)[TAP_MAC_SIZE],
	unsigned *nr, bool *overflow)
{
	uint32_t entries;

	if (vq_req_read(req, *off, &entries, sizeof(entries)) != sizeof(entries))
		return false;
	*off += sizeof(entries);
	if (entries > (req->out_len - *off) / TAP_MAC_SIZE)
		return false;
	*nr = MIN(entries, NET_MAX_MACS);
	*overflow = entries > NET_MAX_MACS;
	vq_req_read(req, *off, list, *nr * TAP_MAC_SIZE);
	*off += (uint64_t)entries * TAP_MAC_SIZE;
	return true;
}

static bool set_table(struct net *n, const struct vq_req *req)
{
	struct net_filter f = n->filter;
	uint64_t off = 2;

	if (!read_table(req, &off, f.uni, &f.nr_uni, &f.uni_overflow) ||
		!read_table(req, &off, f.multi, &f.nr_multi, &f.multi_overflow) ||
		off != req->out_len)
		return false;
	n->filter = f;
	return net_apply_filter(n) == 0;
}

static bool set_address(struct net *n, const struct vq_req *req)
{
	uint8_t mac[TAP_MAC_SIZE];

	if (req->out_len != 2 + TAP_MAC_SIZE)
		return false;
	vq_req_read(req, 2, mac, sizeof(mac));
	if (mac[0] & 1)
		return false; /* a group's, which nobody can have */
	memcpy(n->filter.mac, mac, sizeof(mac));
	/* The driver knows: it is told of no change. */
	memcpy(n->model.config, mac, sizeof(mac));
	return net_apply_filter(n) == 0;
}

static bool set_pairs(struct net *n, uint8_t command, const struct vq_req *req)
{
	uint16_t pairs;

	if (!net_has(n, VIRTIO_NET_F_MQ) || command != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET ||
		req->out_len != 2 + sizeof(pairs))
		return false;
	vq_req_read(req, 2, &pairs, sizeof(pairs));
	if (pairs < VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN || pairs > n->nr_pairs)
		return false;
	n->active = pairs;
	net_update_pairs(n);
	return true;
}

static bool set_offloads(struct net *n, uint8_t command, const struct vq_req *req)
{
	uint64_t offloads, old = n->offloads;

	if (!net_has(n, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) ||
		command != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || req->out_len != 2 + 8)
		return false;
	vq_req_read(req, 2, &offloads, sizeof(offloads));
	/* Only what was accepted can be switched on again (virtio 1.3, 5.1.6.5.6.1). */
	if (offloads & ~n->features)
		return false;
	n->offloads = offloads;
	if (!net_update_offloads(n))
		return true;
	n->offloads = old;
	return false;
}

static bool announced(struct net *n, uint8_t command, const struct vq_req *req)
{
	if (command != VIRTIO_NET_CTRL_ANNOUNCE_ACK || req->out_len != 2)
		return false;
	n->announce = false;
	net_update_config(n);
	return true;
}

static bool run_command(struct net *n, const struct vq_req *req)
{
	struct virtio_net_ctrl_hdr head;

	if (vq_req_read(req, 0, &head, sizeof(head)) != sizeof(head))
		return false;
	switch (head.class) {
	case VIRTIO_NET_CTRL_RX:
		return receive_mode(n, head.cmd, req);
	case VIRTIO_NET_CTRL_MAC:
		if (head.cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET)
			return n->tap.filters && set_table(n, req);
		return head.cmd == VIRTIO_NET_CTRL_MAC_ADDR_SET && set_address(n, req);
	case VIRTIO_NET_CTRL_ANNOUNCE:
		return announced(n, head.cmd, req);
	case VIRTIO_NET_CTRL_MQ:
		return set_pairs(n, head.cmd, req);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
		return set_offloads(n, head.cmd, req);
	default:
		return false; /* not offered: VLAN filters among others */
	}
}

static bool serve(struct loop_queue *q)
{
	struct net *n = container_of(q, struct net, control);
	unsigned i;

	for (i = 0; i < TURN_COMMANDS; i++) {
		struct iovec iov[MAX_PIECES];
		uint64_t iova[MAX_PIECES];
		struct vq_req req = { .iov = iov, .iova = iova, .max_iov = MAX_PIECES };
		uint8_t answer = VIRTIO_NET_ERR;
		int bad = 0;

		if (loop_queue_pop(q, &req, &bad) <= 0)
			break;
		/* A command without a place for its answer is none. */
		if (!bad && req.in_len && run_command(n, &req))
			answer = VIRTIO_NET_OK;
		vq_push(q->vq, &req, (uint32_t)vq_req_write(&req, 0, &answer, sizeof(answer)));
	}
	vq_notify(q->vq);
	return i == TURN_COMMANDS;
}

/* Starting */

void net_control_reset(struct net *n)
{
	n->active = 1;
	n->announce = false;
	n->filter = (struct net_filter){ .promisc = true };
	memcpy(n->filter.mac, n->mac, TAP_MAC_SIZE);
	net_apply_filter(n);
	if (n->offloads != n->features) {
		n->offloads = n->features;
		net_update_offloads(n);
	}
	net_update_pairs(n);
	net_update_config(n);
}

/* The driver has said what it wants, to the process before this one. */
static void assume_pairs(struct net *n)
{
	for (unsigned i = 1; i < n->nr_pairs; i++)
		if (n->pairs[i].in_use && net_pair_serves(&n->pairs[i], NET_RX))
			n->active = i + 1;
}

int net_control_start(struct net *n, struct vq *vq)
{
	int rc;

	if (vq_is_new(vq))
		net_control_reset(n);
	else if (!n->known)
		assume_pairs(n);
	n->known = true;
	rc = loop_queue_start(&n->control, n->model.loop, vq, n->model.name, serve);
	net_update_pairs(n);
	return rc;
}

/* State */

static json_t *hex(const uint8_t (*macs)[TAP_MAC_SIZE], unsigned nr)
{
	static const char digits[] = "0123456789abcdef";
	char text[NET_MAX_MACS * TAP_MAC_SIZE * 2 + 1], *at = text;
	const uint8_t *bytes = macs[0];

	for (unsigned i = 0; i < nr * TAP_MAC_SIZE; i++) {
		*at++ = digits[bytes[i] >> 4];
		*at++ = digits[bytes[i] & 15];
	}
	*at = '\0';
	return json_string(text);
}

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The number of addresses, at most max; or -EINVAL. */
static int unhex(const char *text, uint8_t (*macs)[TAP_MAC_SIZE], unsigned max)
{
	size_t len = strlen(text);
	uint8_t *bytes = macs[0];

	if (len % (2 * TAP_MAC_SIZE) || len / (2 * TAP_MAC_SIZE) > max)
		return -EINVAL;
	for (size_t i = 0; i < len / 2; i++) {
		int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		bytes[i] = (uint8_t)(high << 4 | low);
	}
	return (int)(len / (2 * TAP_MAC_SIZE));
}

/* The modes as bits, in the order of the receive commands; then the overflows. */
static unsigned mode_bits(const struct net_filter *f)
{
	return (unsigned)f->promisc | f->allmulti << 1 | f->alluni << 2 | f->nomulti << 3 |
	       f->nouni << 4 | f->nobcast << 5 | f->uni_overflow << 6 | f->multi_overflow << 7;
}

static void set_mode_bits(struct net_filter *f, unsigned bits)
{
	f->promisc = bits & 1;
	f->allmulti = bits & 2;
	f->alluni = bits & 4;
	f->nomulti = bits & 8;
	f->nouni = bits & 16;
	f->nobcast = bits & 32;
	f->uni_overflow = bits & 64;
	f->multi_overflow = bits & 128;
}

ssize_t net_save(struct virtio_model *m, void *buf, size_t size)
{
	struct net *n = net_of(m);
	const struct net_filter *f = &n->filter;
	json_t *root = json_pack("{s:s, s:i, s:o, s:i, s:i, s:o, s:o, s:I}", "model", "net",
		"version", STATE_VERSION, "mac", hex(&f->mac, 1), "pairs", n->active, "modes",
		mode_bits(f), "unicast", hex(f->uni, f->nr_uni), "multicast",
		hex(f->multi, f->nr_multi), "offloads", (json_int_t)n->offloads);
	size_t len = root ? json_dumpb(root, buf, size, JSON_COMPACT) : 0;

	json_decref(root);
	if (!len)
		return -ENOMEM;
	return len <= size ? (ssize_t)len : -ENOSPC;
}

static int load_root(struct net *n, json_t *root, struct err *err)
{
	struct net_filter f = { 0 };
	const char *model, *mac, *uni, *multi;
	int version, pairs, modes, nr_uni, nr_multi;
	json_int_t offloads;

	if (json_unpack_ex(root, NULL, JSON_STRICT, "{s:s, s:i, s:s, s:i, s:i, s:s, s:s, s:I}",
		    "model", &model, "version", &version, "mac", &mac, "pairs", &pairs, "modes",
		    &modes, "unicast", &uni, "multicast", &multi, "offloads", &offloads))
		return err_set(err, -EINVAL, "a key is missing, unknown or of another kind");
	if (strcmp(model, "net") || version != STATE_VERSION)
		return err_set(err, -EINVAL, "model %.32s version %d, expected net version %d",
			model, version, STATE_VERSION);
	if (pairs < 1 || (unsigned)pairs > n->nr_pairs)
		return err_set(err, -EINVAL, "%d pairs, expected 1 to %u", pairs, n->nr_pairs);
	nr_uni = unhex(uni, f.uni, NET_MAX_MACS);
	nr_multi = unhex(multi, f.multi, NET_MAX_MACS);
	if (unhex(mac, &f.mac, 1) != 1 || nr_uni < 0 || nr_multi < 0)
		return err_set(err, -EINVAL, "an address is no %d bytes as hexadecimal digits",
			TAP_MAC_SIZE);
	set_mode_bits(&f, (unsigned)modes);
	f.nr_uni = (unsigned)nr_uni;
	f.nr_multi = (unsigned)nr_multi;
	n->filter = f;
	n->active = (unsigned)pairs;
	n->offloads = (uint64_t)offloads;
	return 0;
}

int net_load(struct virtio_model *m, const void *buf, size_t len, struct err *err)
{
	struct net *n = net_of(m);
	json_t *root = json_loadb(buf, len, JSON_REJECT_DUPLICATES, NULL);
	int rc = root ? load_root(n, root, err) : err_set(err, -EINVAL, "not JSON");

	json_decref(root);
	if (rc)
		return rc;
	n->known = true;
	/* The guest may be at another port of the network now: let it be heard there. */
	n->announce = net_has(n, VIRTIO_NET_F_GUEST_ANNOUNCE);
	net_apply_filter(n);
	net_update_offloads(n);
	net_update_pairs(n);
	net_update_config(n);
	return 0;
}
