/*
 * check_devices.c - what no device's option can see alone
 *
 * Every kind of device begins with a struct device_config, so names and places are checked for all
 * of them by one table of kinds; what only one kind knows follows.
 *
 * Ids: a device without one is called by its kind's prefix and a number, _disk0, _fs1, as users
 * know it, skipping names that somebody has taken.
 */
#include "control/check_devices.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/grammar.h"
#include "wire/virtio.h"

#define NO_SOCKET SIZE_MAX

struct kind {
	const char *option;
	const char *prefix; /* of names we make */
	size_t list;	    /* offset in struct vm_config */
	size_t item_size;
	size_t socket; /* offset of its path, or NO_SOCKET */
	int (*check)(void *item, struct err *err);
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

static int check_fs(void *item, struct err *err)
{
	const struct fs_config *fs = item;

	if (!*fs->tag || strlen(fs->tag) > 36)
		return err_set(err, -EINVAL, "tag: expected 1 to 36 bytes, got %zu",
			strlen(fs->tag));
	if (fs->queue_size & (fs->queue_size - 1))
		return err_set(err, -EINVAL, "queue_size: Queue size must be a power of 2, got %u",
			fs->queue_size);
	return check_reconnect(&fs->backend, err);
}

#define KIND(name, made, member, type, sock, fn)                                                   \
	{                                                                                          \
		.option = name, .prefix = made, .list = offsetof(struct vm_config, member),        \
		.item_size = sizeof(struct type), .socket = sock, .check = fn                      \
	}

static const struct kind kinds[] = {
	KIND("user-device", "_vfio_user", user_devices, user_device_config,
		offsetof(struct user_device_config, socket), NULL),
	KIND("generic-vhost-user", "_generic_vhost_user", generic_vhost_users,
		generic_vhost_user_config, offsetof(struct generic_vhost_user_config, socket),
		check_generic),
	KIND("fs", "_fs", fs, fs_config, offsetof(struct fs_config, socket), check_fs),
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

static bool each_next(struct each *e)
{
	for (e->i++; e->kind < kinds + ARRAY_SIZE(kinds); e->kind++, e->i = 0) {
		const struct any_list *list =
			(const void *)((const char *)e->config + e->kind->list);

		if (e->i < list->nr) {
			e->item = list->items + e->i * e->kind->item_size;
			e->at = e->item;
			return true;
		}
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
	int rc = 0;

	/* places first: they bound the number of devices, and so the pairs */
	for (struct each e = each_begin(config); !rc && each_next(&e);)
		rc = check_place(&e, used, err);
	for (struct each e = each_begin(config); !rc && each_next(&e);)
		rc = check_own(&e, err);
	for (struct each a = each_begin(config); !rc && each_next(&a);)
		for (struct each b = a; !rc && each_next(&b);)
			rc = check_pair(&a, &b, err);
	for (struct each e = each_begin(config); !rc && each_next(&e);)
		rc = name_device(&e, err);
	return rc;
}
