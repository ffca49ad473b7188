/*
 * vm_vhost_user.c - options that come down to a vhost-user back-end of somebody else's
 *
 * --generic-vhost-user says everything itself; a typed option (--fs) knows its virtio type, its
 * queues and what of its configuration the VMM answers for. The rest is one route.
 */
#include <errno.h>
#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vhost_user_device.h"
#include "base/util.h"
#include "control/grammar.h"
#include "control/vm_devices_priv.h"
#include "wire/virtio.h"

/* What one device of this family is made from. */
struct wanted {
	const char *kind;
	const struct device_config *at;
	const char *socket;
	const struct backend_config *backend;
	uint32_t type;
	uint16_t *queue_sizes; /* borrowed */
	unsigned nr_queues;
	const uint8_t *config; /* borrowed */
	uint32_t config_size;
	bool config_is_ours; /* the back-end is not asked for its configuration */
	uint64_t features_ours;
	bool listen;	     /* at the socket, the back-end connects */
};

/* "on", "off" or seconds, as options_check() has let it pass. */
static void fill_reconnect(struct vhost_user_times *times, const char *text)
{
	uint64_t seconds;

	if (!strcmp(text, "off"))
		times->no_reconnect = true;
	else if (!grammar_uint(text, &seconds))
		times->reconnect_s = (uint32_t)seconds;
}

static int begin(struct vm_devices *d, const struct wanted *w, struct err *err)
{
	struct vhost_user_device_params p = {
		.kind = w->kind,
		.dev = vm_device_params(d, w->at),
		.vu = {
			.where = w->socket,
			.type = w->type,
			.queue_sizes = w->queue_sizes,
			.nr_queues = w->nr_queues,
			.force = w->backend->force,
			.config = w->config,
			.config_size = w->config_size,
			.config_is_ours = w->config_is_ours,
			.features_ours = w->features_ours,
			/* 0 is a user's "do not wait" */
			.times.connect_ms = MAX(w->backend->connect_timeout_s * 1000, 1u),
		},
	};
	struct vhost_user_source *source;
	struct device *dev;
	int rc = w->listen ? vhost_user_source_listen(d->m->loop, w->socket, &source, err) :
			     vhost_user_source_connect(w->socket, &source, err);

	if (rc)
		return err_prefix(err, rc, "%s %s", w->kind, w->at->id);
	fill_reconnect(&p.vu.times, w->backend->reconnect);
	rc = vhost_user_device_attach(d->m, &p, source, &dev, err);
	return rc ? rc : vm_devices_add(d, dev, w->at, err);
}

/* --- --generic-vhost-user --- */

static uint8_t *bytes_of_hex(const char *hex, uint32_t *size)
{
	uint8_t *bytes;

	*size = (uint32_t)(strlen(hex) / 2);
	bytes = malloc(MAX(*size, 1u));
	for (uint32_t i = 0; bytes && i < *size; i++)
		bytes[i] = config_byte(hex + 2 * i);
	return bytes;
}

static uint16_t *sizes_of_list(const struct int_list *list)
{
	uint16_t *sizes = calloc(MAX(list->nr, (size_t)1), sizeof(*sizes));

	for (size_t i = 0; sizes && i < list->nr; i++)
		sizes[i] = (uint16_t)list->items[i];
	return sizes;
}

static int begin_generic(
	struct vm_devices *d, const struct generic_vhost_user_config *g, struct err *err)
{
	struct wanted w = {
		.kind = "generic-vhost-user",
		.at = &g->at,
		.socket = g->socket,
		.backend = &g->backend,
		.nr_queues = (unsigned)g->queue_sizes.nr,
	};
	FREE_AUTO uint16_t *sizes = sizes_of_list(&g->queue_sizes);
	FREE_AUTO uint8_t *config = g->config ? bytes_of_hex(g->config, &w.config_size) : NULL;
	int rc = virtio_type_parse(g->type, &w.type, err);

	if (rc)
		return rc;
	if (!sizes || (g->config && !config))
		return err_set(err, -ENOMEM, "out of memory");
	w.queue_sizes = sizes;
	w.config = config;
	return begin(d, &w, err);
}

int vm_begin_generic_vhost_users(
	struct vm_devices *d, const struct vm_config *c, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; i < c->generic_vhost_users.nr && !rc; i++)
		rc = begin_generic(d, &c->generic_vhost_users.items[i], err);
	return rc;
}

/* --- --fs --- */

/*
 * The tag is what the user says here, whatever virtiofsd was told or not told. virtio 1.3, 5.11.4.
 */
static int begin_one_fs(struct vm_devices *d, const struct fs_config *fs, struct err *err)
{
	struct virtio_fs_config config = { .num_request_queues = fs->num_queues };
	uint16_t sizes[VM_MAX_QUEUES];
	struct wanted w = {
		.kind = "fs",
		.at = &fs->at,
		.socket = fs->socket,
		.backend = &fs->backend,
		.type = VIRTIO_ID_FS,
		.queue_sizes = sizes,
		.nr_queues = fs->num_queues + 1u,
		.config = (const uint8_t *)&config,
		.config_size = sizeof(config),
		.config_is_ours = true,
	};

	memcpy(config.tag, fs->tag, strlen(fs->tag));
	vm_fill_sizes(sizes, w.nr_queues, fs->queue_size);
	return begin(d, &w, err);
}

int vm_begin_fs(struct vm_devices *d, const struct vm_config *c, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; i < c->fs.nr && !rc; i++)
		rc = begin_one_fs(d, &c->fs.items[i], err);
	return rc;
}

/* --- --disk, --net and --vsock with vhost_user=on --- */

int vm_begin_foreign_disk(struct vm_devices *d, const struct disk_config *disk, struct err *err)
{
	uint16_t sizes[VM_MAX_QUEUES];
	const struct wanted w = {
		.kind = "disk",
		.at = &disk->at,
		.socket = disk->socket,
		.backend = &disk->backend,
		.type = VIRTIO_ID_BLOCK,
		.queue_sizes = sizes,
		.nr_queues = disk->num_queues,
	};

	vm_fill_sizes(sizes, w.nr_queues, disk->queue_size);
	return begin(d, &w, err);
}

/*
 * Back-ends for networks (passt, DPDK) seldom have a configuration: what the guest must know of it
 * is told here.
 */
int vm_begin_foreign_net(struct vm_devices *d, const struct net_config *net, struct err *err)
{
	struct virtio_net_config config = {
		.status = VIRTIO_NET_S_LINK_UP,
		.max_virtqueue_pairs = net->num_queues / 2,
		.mtu = net->mtu,
	};
	uint16_t sizes[VM_MAX_QUEUES];
	struct wanted w = {
		.kind = "net",
		.at = &net->at,
		.socket = net->socket,
		.backend = &net->backend,
		.type = VIRTIO_ID_NET,
		.queue_sizes = sizes,
		.nr_queues = net->num_queues,
		.config = (const uint8_t *)&config,
		.config_size = sizeof(config),
		.config_is_ours = true,
		.features_ours = VIRTIO_BIT(VIRTIO_NET_F_STATUS) | VIRTIO_BIT(VIRTIO_NET_F_MAC),
		.listen = net->vhost_mode == VHOST_MODE_SERVER,
	};

	/*
	 * A back-end that offers an address of its own would otherwise be believed that it is ours.
	 */
	if (vm_net_mac(net, config.mac))
		return err_set(err, -EIO, "%s: no random numbers for an address", net->at.id);
	if (net->mtu)
		w.features_ours |= VIRTIO_BIT(VIRTIO_NET_F_MTU);
	vm_fill_sizes(sizes, w.nr_queues, net->queue_size);
	return begin(d, &w, err);
}

/* Its configuration is one number, which the back-end was told. */
int vm_begin_foreign_vsock(struct vm_devices *d, const struct vsock_config *v, struct err *err)
{
	const struct wanted w = {
		.kind = "vsock",
		.at = &v->at,
		.socket = v->socket,
		.backend = &v->backend,
		.type = VIRTIO_ID_VSOCK,
	};

	return begin(d, &w, err);
}
