/*
 * check_devices.c - what no device's option can see alone
 *
 * Every kind of device begins with a struct device_config, so names and places are checked for all
 * of them by one table of kinds; what only one kind knows follows.
 *
 * A text that is let pass here (an address, hexadecimal bytes) is read by the two functions at the
 * end.
 *
 * Ids: a device without one is called by its kind's prefix and a number, _disk0, _fs1, as users
 * know it, skipping names that somebody has taken.
 */
#include "control/check_devices.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pci_address.h"
#include "base/util.h"
#include "control/grammar.h"
#include "control/value.h"
#include "wire/virtio.h"

#define NO_SOCKET SIZE_MAX

struct kind {
	const char *option;
	const char *prefix; /* of names we make */
	size_t list;	    /* offset of the list in struct vm_config, or of the one device */
	size_t item_size;
	size_t socket; /* offset of its path, or NO_SOCKET */
	int (*check)(void *item, struct err *err);
	bool (*present)(const void *item); /* of the one device; NULL: there is a list */
};

struct any_list {
	char *items;
	size_t nr;
};

static int check_reconnect(const struct backend_config *b, struct err *err)
{
	uint64_t seconds;

	if (!strcmp(b->reconnect, "on") || !strcmp(b->reconnect, "off"))
		return 0;
	if (!grammar_uint(b->reconnect, &seconds) && seconds && seconds <= 86400)
		return 0;
	return err_set(err, -EINVAL, "reconnect: expected on, off or 1 to 86400 seconds, got \"%s\"",
		grammar_show(b->reconnect).text);
}

static bool is_hex(const char *text)
{
	return strspn(text, "0123456789abcdefABCDEF") == strlen(text) && strlen(text) % 2 == 0;
}

static int check_generic(void *item, struct err *err)
{
	struct generic_vhost_user_config *g = item;
	uint32_t id;
	int rc;

	if (!g->type == !g->virtio_id)
		return err_set(err, -EINVAL, "expected one of device_type=TYPE and virtio_id=TYPE");
	if (g->virtio_id) {
		g->type = g->virtio_id;
		g->virtio_id = NULL;
	}
	rc = virtio_type_parse(g->type, &id, err);
	if (rc)
		return err_prefix(err, rc, "virtio_id");
	if (g->queue_sizes.nr > VIRTIO_MAX_QUEUES)
		return err_set(err, -EINVAL, "queue_sizes: expected at most %d queues, got %zu",
			VIRTIO_MAX_QUEUES, g->queue_sizes.nr);
	if (g->queue_sizes.nr && !g->backend.force)
		rc = virtio_type_check_queues(id, (unsigned)g->queue_sizes.nr, err);
	if (rc)
		return err_prefix(err, rc, "queue_sizes");
	if (g->config && (!is_hex(g->config) || strlen(g->config) > 2 * 256))
		return err_set(err, -EINVAL,
			"config: expected up to 256 bytes of two hexadecimal digits each");
	return check_reconnect(&g->backend, err);
}

static int check_queue_size(uint16_t size, struct err *err)
{
	if (size & (size - 1))
		return err_set(err, -EINVAL, "queue_size: Queue size must be a power of 2, got %u",
			size);
	return 0;
}

static int check_fs(void *item, struct err *err)
{
	const struct fs_config *fs = item;

	if (!*fs->tag || strlen(fs->tag) > 36)
		return err_set(err, -EINVAL, "tag: expected 1 to 36 bytes, got %zu",
			strlen(fs->tag));
	if (check_queue_size(fs->queue_size, err))
		return -EINVAL;
	return check_reconnect(&fs->backend, err);
}

static int check_bucket(
	const char *what, uint64_t size, uint64_t burst, uint64_t ms, struct err *err)
{
	if (!size == !ms && (size || !burst))
		return 0;
	return err_set(err, -EINVAL, "%s_size: expected %s_refill_time beside it, and the other way round",
		what, what);
}

static int check_rate(const struct rate_config *r, struct err *err)
{
	int rc = check_bucket("bw", r->bw_size, r->bw_one_time_burst, r->bw_refill_time, err);

	if (rc)
		return rc;
	return check_bucket("ops", r->ops_size, r->ops_one_time_burst, r->ops_refill_time, err);
}

/* A back-end of somebody else's is a socket; a program of ours is not. */
static int check_whose(bool vhost_user, const char *socket, struct err *err)
{
	if (vhost_user && !socket)
		return err_set(err, -EINVAL, "vhost_user: expected socket=PATH beside it");
	if (!vhost_user && socket)
		return err_set(err, -EINVAL, "socket: expected vhost_user=on beside it");
	return 0;
}

static int check_disk(void *item, struct err *err)
{
	const struct disk_config *d = item;
	int rc = check_whose(d->vhost_user, d->socket, err);

	if (rc)
		return rc;
	if (!d->path == !d->vhost_user)
		return err_set(err, -EINVAL, "path: expected %s",
			d->path ? "no vhost_user=on beside it" : "path=PATH, got none");
	if (d->serial && strlen(d->serial) > 20)
		return err_set(err, -EINVAL, "serial: expected at most 20 bytes, got %zu",
			strlen(d->serial));
	rc = check_queue_size(d->queue_size, err);
	if (!rc)
		rc = check_rate(&d->rate, err);
	return rc ? rc : check_reconnect(&d->backend, err);
}

static int check_mac(const char *name, const char *text, struct err *err)
{
	unsigned byte[6];
	int end = 0;

	if (!text)
		return 0;
	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &byte[0], &byte[1], &byte[2], &byte[3],
		    &byte[4], &byte[5], &end) == 6 && end == 17 && !text[end] && !(byte[0] & 1))
		return 0;
	return err_set(err, -EINVAL,
		"%s: expected an address like 2e:89:a8:e4:bf:95, not a multicast one, got \"%s\"",
		name, grammar_show(text).text);
}

static int check_address(const char *name, const char *text, struct err *err)
{
	struct in_addr ip;

	if (!text || inet_pton(AF_INET, text, &ip) == 1)
		return 0;
	return err_set(err, -EINVAL, "%s: expected an IPv4 address like 192.168.249.1, got \"%s\"",
		name, grammar_show(text).text);
}

static int check_net_end(const struct net_config *n, struct err *err)
{
	if (!!n->tap + !!n->fds.nr + n->vhost_user > 1)
		return err_set(err, -EINVAL, "expected at most one of tap=, fd= and vhost_user=on");
	if (n->fds.nr && n->fds.nr != n->num_queues / 2u)
		return err_set(err, -EINVAL,
			"fd: expected %u descriptors (num_queues / 2), got %zu", n->num_queues / 2u,
			n->fds.nr);
	if (n->tap && (!*n->tap || strlen(n->tap) > 15))
		return err_set(err, -EINVAL, "tap: expected a name of 1 to 15 bytes, got %zu",
			strlen(n->tap));
	return check_whose(n->vhost_user, n->socket, err);
}

static int check_net(void *item, struct err *err)
{
	const struct net_config *n = item;
	int rc;

	if (n->num_queues % 2)
		return err_set(err, -EINVAL, "num_queues: expected an even number, got %u",
			n->num_queues);
	if (n->mtu && n->mtu < 68)
		return err_set(err, -EINVAL, "mtu: expected 68 to 65535, got %u", n->mtu);
	rc = check_queue_size(n->queue_size, err);
	if (!rc)
		rc = check_net_end(n, err);
	if (!rc)
		rc = check_mac("mac", n->mac, err);
	if (!rc)
		rc = check_mac("host_mac", n->host_mac, err);
	if (!rc)
		rc = check_address("ip", n->ip, err);
	if (!rc)
		rc = check_address("mask", n->mask, err);
	if (!rc)
		rc = check_rate(&n->rate, err);
	return rc ? rc : check_reconnect(&n->backend, err);
}

static int check_uuid(const char *field, const char *text, struct err *err)
{
	static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
	bool good = strlen(text) == strlen(form);

	for (size_t i = 0; good && form[i]; i++)
		good = form[i] == '-' ? text[i] == '-' : isxdigit((unsigned char)text[i]) != 0;
	return good ? 0 : err_set(err, -EINVAL, "%s: expected one like "
			"c36aa4f3-50fd-4a0b-9e43-d2d3e5be7e6c, got \"%s\"", field,
			grammar_show(text).text);
}

/* --- a guest that serves another machine --- */

/* The same as pci_segment and pci_device_id, as users of crosvm say it. */
static int check_addr(struct vvu_proxy_config *v, struct err *err)
{
	uint16_t segment;
	uint8_t slot;

	if (value_place(v->addr, &segment, &slot))
		return err_set(err, -EINVAL, "addr: expected " VALUE_PLACE_EXPECTED ", got \"%s\"",
			grammar_show(v->addr).text);
	if (v->at.pci_device_id != CONFIG_SLOT_ANY || v->at.pci_segment)
		return err_set(err, -EINVAL,
			"addr: expected no pci_segment and pci_device_id beside it");
	v->at.pci_segment = segment;
	v->at.pci_device_id = slot;
	free(v->addr);
	v->addr = NULL;
	return 0;
}

/* Places are looked at before anything else. */
static int check_addrs(const struct vvu_proxy_list *list, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; i < list->nr && !rc; i++)
		if (list->items[i].addr)
			rc = check_addr(&list->items[i], err);
	return rc ? err_prefix(err, rc, "--vvu-proxy") : 0;
}

static int check_vvu_proxy(void *item, struct err *err)
{
	struct vvu_proxy_config *v = item;
	int rc = v->addr ? check_addr(v, err) : 0;

	if (!rc && v->uuid)
		rc = check_uuid("uuid", v->uuid, err);
	if (rc)
		return rc;
	if (v->shmem_size && (!is_pow2(v->shmem_size) || v->shmem_size < MIB))
		return err_set(err, -EINVAL,
			"shmem-size: expected a power of two, 1M or more, got %llu",
			(unsigned long long)v->shmem_size);
	return 0;
}

/* --- host devices --- */

static int check_host_device(
	const struct host_device_config *h, const struct platform_config *p, struct err *err)
{
	if (!h->path == (h->fd == CONFIG_NO_FD))
		return err_set(err, -EINVAL,
			"VFIO device config must specify `path=` or `fd=`; expected one of them, got %s",
			h->path ? "both" : "none");
	if (h->fd != CONFIG_NO_FD && !p->iommufd)
		return err_set(err, -EINVAL,
			"fd: expected --platform iommufd=on or iommufd_fd=N beside it: the descriptor "
			"of a device works with /dev/iommu only");
	if (h->x_nv_gpudirect_clique != CONFIG_NO_CLIQUE && !p->vfio_p2p_dma)
		return err_set(err, -EINVAL,
			"Device with x_nv_gpudirect_clique requires vfio_p2p_dma=on");
	if (h->x_nv_gpudirect_clique != CONFIG_NO_CLIQUE && h->at.iommu)
		return err_set(err, -EINVAL,
			"x_nv_gpudirect_clique: expected a device that is not behind the guest's IOMMU "
			"(iommu=off): one that is cannot reach another's memory");
	return h->vf_token ? check_uuid("vf_token", h->vf_token, err) : 0;
}

static bool same_host_device(
	const struct host_device_config *a, const struct host_device_config *b)
{
	struct pci_address at_a, at_b;

	if (!a->path || !b->path)
		return a->fd == b->fd && a->fd != CONFIG_NO_FD;
	if (pci_address_of_path(a->path, &at_a) || pci_address_of_path(b->path, &at_b))
		return !strcmp(a->path, b->path);
	return pci_address_equal(&at_a, &at_b);
}

static int check_same(
	const struct host_device_config *a, const struct host_device_config *b, struct err *err)
{
	if (!same_host_device(a, b))
		return 0;
	if (b->path)
		return err_set(err, -EEXIST, "path: Duplicated device path %s",
			grammar_show(b->path).text);
	return err_set(err, -EEXIST, "fd: expected one device on each descriptor, got two on %u", b->fd);
}

static int check_host_devices(struct vm_config *config, struct err *err)
{
	const struct host_device_list *list = &config->devices;
	int rc = 0;

	config->platform.iommufd |= config->platform.iommufd_fd != CONFIG_NO_FD;
	for (size_t i = 0; i < list->nr && !rc; i++) {
		rc = check_host_device(&list->items[i], &config->platform, err);
		for (size_t j = 0; j < i && !rc; j++)
			rc = check_same(&list->items[j], &list->items[i], err);
	}
	return rc ? err_prefix(err, rc, "--device") : 0;
}

/* The room that a socket's address has, less "_", a port and a NUL. */
#define VSOCK_NAME_MAX 96

static int check_vsock(void *item, struct err *err)
{
	const struct vsock_config *v = item;
	const char *slash = v->socket ? strrchr(v->socket, '/') : NULL;
	const char *name = slash ? slash + 1 : v->socket;

	if (!v->socket)
		return err_set(err, -EINVAL, "socket: expected socket=PATH, got none");
	if (v->vhost_user && v->cid)
		return err_set(err, -EINVAL,
			"cid: expected none beside vhost_user=on: the back-end has it");
	if (!v->vhost_user && !v->cid)
		return err_set(err, -EINVAL, "cid: expected cid=N, got none");
	if (!v->vhost_user && (!*name || strlen(name) > VSOCK_NAME_MAX))
		return err_set(err, -EINVAL,
			"socket: expected a file's name of 1 to %d bytes, got %zu", VSOCK_NAME_MAX,
			strlen(name));
	return check_reconnect(&v->backend, err);
}

static bool has_vsock(const void *item)
{
	const struct vsock_config *v = item;

	return v->cid || v->socket || v->vhost_user;
}

static bool has_rng(const void *item)
{
	return ((const struct rng_config *)item)->src != NULL;
}

static bool has_console(const void *item)
{
	return ((const struct virtio_console_config *)item)->mode != CONSOLE_OFF;
}

#define KIND(name, made, member, type, sock, fn)                                                   \
	{                                                                                          \
		.option = name, .prefix = made, .list = offsetof(struct vm_config, member),        \
		.item_size = sizeof(struct type), .socket = sock, .check = fn                      \
	}

#define ONE(name, made, member, sock, fn, is)                                                      \
	{                                                                                          \
		.option = name, .prefix = made, .list = offsetof(struct vm_config, member),        \
		.socket = sock, .check = fn, .present = is                                         \
	}

static const struct kind kinds[] = {
	KIND("device", "_vfio", devices, host_device_config, NO_SOCKET, NULL),
	KIND("user-device", "_vfio_user", user_devices, user_device_config,
		offsetof(struct user_device_config, socket), NULL),
	KIND("generic-vhost-user", "_generic_vhost_user", generic_vhost_users,
		generic_vhost_user_config, offsetof(struct generic_vhost_user_config, socket),
		check_generic),
	KIND("fs", "_fs", fs, fs_config, offsetof(struct fs_config, socket), check_fs),
	KIND("vvu-proxy", "_vvu_proxy", vvu_proxies, vvu_proxy_config,
		offsetof(struct vvu_proxy_config, socket), check_vvu_proxy),
	KIND("disk", "_disk", disks, disk_config, offsetof(struct disk_config, socket), check_disk),
	KIND("net", "_net", nets, net_config, offsetof(struct net_config, socket), check_net),
	ONE("rng", "_rng", rng, NO_SOCKET, NULL, has_rng),
	ONE("vsock", "_vsock", vsock, offsetof(struct vsock_config, socket), check_vsock, has_vsock),
	ONE("console", "_console", console, NO_SOCKET, NULL, has_console),
};

/* --- all devices of all kinds, one after the other --- */

struct each {
	const struct vm_config *config;
	const struct kind *kind; /* of the device at hand */
	size_t i;		 /* its place in the kind's list */
	void *item;
	struct device_config *at;
};

static struct each each_begin(const struct vm_config *config)
{
	return (struct each){ .config = config, .kind = kinds, .i = SIZE_MAX };
}

/* Device i of the kind, or NULL. */
static void *item_of(const struct each *e)
{
	char *at = (char *)e->config + e->kind->list;
	const struct any_list *list = (const void *)at;

	if (e->kind->present)
		return !e->i && e->kind->present(at) ? at : NULL;
	return e->i < list->nr ? list->items + e->i * e->kind->item_size : NULL;
}

static bool each_next(struct each *e)
{
	for (e->i++; e->kind < kinds + ARRAY_SIZE(kinds); e->kind++, e->i = 0) {
		e->item = item_of(e);
		e->at = e->item;
		if (e->item)
			return true;
	}
	return false;
}

static const char *socket_of(const struct each *e)
{
	return e->kind->socket == NO_SOCKET ? NULL :
					      *(char *const *)((char *)e->item + e->kind->socket);
}

/* What identifies a device in a message. */
static const char *name_of(const struct each *e)
{
	const char *socket = socket_of(e);

	return e->at->id ? e->at->id : socket ? socket : e->kind->option;
}

/* --- rules --- */

static int check_place(const struct each *e, unsigned *used, struct err *err)
{
	unsigned nr_segments = e->config->platform.num_pci_segments, segment = e->at->pci_segment;

	if (segment >= nr_segments)
		return err_set(err, -EINVAL,
			"--%s: pci_segment: expected one below %u (num_pci_segments of --platform), "
			"got %u",
			e->kind->option, nr_segments, segment);
	if (++used[segment] > CONFIG_MAX_SLOT)
		return err_set(err, -ENOSPC,
			"--%s: pci_segment: expected at most %d devices in a segment, got more in "
			"segment %u",
			e->kind->option, CONFIG_MAX_SLOT, segment);
	return 0;
}

static bool is_behind(const struct each *e)
{
	const struct int_list *segments = &e->config->platform.iommu_segments;

	for (size_t i = 0; i < segments->nr; i++)
		if (segments->items[i] == e->at->pci_segment)
			return true;
	return e->at->iommu;
}

/* One that is in a segment of the IOMMU's says iommu=on from here on. */
static int check_iommu(struct vm_config *config, unsigned *used, struct err *err)
{
	const struct int_list *segments = &config->platform.iommu_segments;

	for (size_t i = 0; i < segments->nr; i++)
		if (segments->items[i] >= config->platform.num_pci_segments)
			return err_set(err, -EINVAL,
				"--platform: iommu_segments: expected segments below %u "
				"(num_pci_segments), got %u",
				config->platform.num_pci_segments, segments->items[i]);
	for (struct each e = each_begin(config); each_next(&e);)
		e.at->iommu = is_behind(&e);
	if (config_wants_iommu(config) && used[0] + 1 > CONFIG_MAX_SLOT)
		return err_set(err, -ENOSPC,
			"iommu: expected a slot of segment 0 left for the guest's IOMMU, got %d "
			"devices in it", CONFIG_MAX_SLOT);
	return 0;
}

static int check_pair(const struct each *a, const struct each *b, struct err *err)
{
	const char *socket_a = socket_of(a), *socket_b = socket_of(b);

	if (a->at->id && b->at->id && !strcmp(a->at->id, b->at->id))
		return err_set(err, -EEXIST, "--%s: id: Identifier %s is not unique",
			b->kind->option, a->at->id);
	if (socket_a && socket_b && !strcmp(socket_a, socket_b))
		return err_set(err, -EEXIST,
			"--%s: socket: expected one device on each socket, got two on %s",
			b->kind->option, grammar_show(socket_a).text);
	if (a->at->pci_segment == b->at->pci_segment &&
		a->at->pci_device_id == b->at->pci_device_id &&
		a->at->pci_device_id != CONFIG_SLOT_ANY)
		return err_set(err, -EEXIST,
			"--%s: pci_device_id: expected one device in a slot, got %s, %s in slot %u "
			"of segment %u",
			b->kind->option, grammar_show(name_of(a)).text,
			grammar_show(name_of(b)).text, a->at->pci_device_id, a->at->pci_segment);
	return 0;
}

static bool id_taken(const struct vm_config *config, const char *id)
{
	for (struct each e = each_begin(config); each_next(&e);)
		if (e.at->id && !strcmp(e.at->id, id))
			return true;
	return false;
}

/* A name for a device that has none; at most as many tries as there are devices. */
static int name_device(const struct each *e, struct err *err)
{
	char id[64];
	size_t n = 0;

	if (e->at->id)
		return 0;
	do
		snprintf(id, sizeof(id), "%s%zu", e->kind->prefix, n++);
	while (id_taken(e->config, id));
	e->at->id = strdup(id);
	return e->at->id ? 0 : err_set(err, -ENOMEM, "--%s: out of memory", e->kind->option);
}

static int check_own(const struct each *e, struct err *err)
{
	struct err why = { 0 };
	int rc = e->kind->check ? e->kind->check(e->item, &why) : 0;

	return rc ? err_set(err, rc, "--%s: %s", e->kind->option, why.text) : 0;
}

int check_devices(struct vm_config *config, struct err *err)
{
	unsigned used[CONFIG_MAX_SEGMENTS] = { 0 };
	int rc = check_addrs(&config->vvu_proxies, err);

	/* places first: they bound the number of devices, and so the pairs */
	for (struct each e = each_begin(config); !rc && each_next(&e);)
		rc = check_place(&e, used, err);
	for (struct each e = each_begin(config); !rc && each_next(&e);)
		rc = check_own(&e, err);
	if (!rc)
		rc = check_iommu(config, used, err);
	if (!rc)
		rc = check_host_devices(config, err);
	for (struct each a = each_begin(config); !rc && each_next(&a);)
		for (struct each b = a; !rc && each_next(&b);)
			rc = check_pair(&a, &b, err);
	for (struct each e = each_begin(config); !rc && each_next(&e);)
		rc = name_device(&e, err);
	return rc;
}

bool config_wants_iommu(const struct vm_config *config)
{
	if (config->platform.iommu_segments.nr)
		return true;
	for (struct each e = each_begin(config); each_next(&e);)
		if (e.at->iommu)
			return true;
	return false;
}

bool config_wants_programs(const struct vm_config *config)
{
	bool wanted = has_rng(&config->rng) || has_console(&config->console);

	wanted |= has_vsock(&config->vsock) && !config->vsock.vhost_user;
	for (size_t i = 0; i < config->disks.nr; i++)
		wanted |= !config->disks.items[i].vhost_user;
	for (size_t i = 0; i < config->nets.nr; i++)
		wanted |= !config->nets.items[i].vhost_user;
	return wanted;
}

static unsigned digit(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a' + 10);
}

uint8_t config_byte(const char *hex)
{
	return (uint8_t)(digit(hex[0]) << 4 | digit(hex[1]));
}

void config_mac(const char *text, uint8_t mac[6])
{
	for (unsigned i = 0; i < 6; i++)
		mac[i] = config_byte(text + 3 * i);
}

void config_uuid(const char *text, uint8_t uuid[16])
{
	memset(uuid, 0, 16);
	for (unsigned i = 0; text && i < 16; i++, text += 2) {
		text += *text == '-';
		uuid[i] = config_byte(text);
	}
}
