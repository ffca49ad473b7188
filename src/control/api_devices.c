/*
 * api_devices.c - one element more or less in a list of the configuration (see api_devices.h)
 *
 * Trusts: nothing in the body. A change that does not pass options_check() is taken back.
 */
#include "control/api_devices.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/config_json.h"
#include "control/field.h"
#include "control/grammar.h"
#include "control/option_table.h"
#include "control/options.h"

static struct any_list *list_of(struct vm_config *config, const struct option_row *o)
{
	return (struct any_list *)((char *)config + o->offset);
}

/* --- adding --- */

/* A network's taps. Where the client does not say how many queues it wants, it wants theirs. */
static int name_fds(
	struct net_config *net, const json_t *object, const struct fd_list *fds, struct err *err)
{
	if (!fds->nr)
		return 0;
	net->fds.items = calloc((size_t)fds->nr, sizeof(*net->fds.items));
	if (!net->fds.items)
		return err_set(err, -ENOMEM, "out of memory");
	for (; net->fds.nr < (size_t)fds->nr; net->fds.nr++)
		net->fds.items[net->fds.nr] = (uint32_t)fds->fds[net->fds.nr];
	if (!json_object_get(object, "num_queues"))
		net->num_queues = (uint16_t)(2 * fds->nr);
	return 0;
}

/* A host device's. */
static int name_fd(struct host_device_config *device, const struct fd_list *fds, struct err *err)
{
	if (fds->nr > 1)
		return err_set(err, -EINVAL, "expected at most one descriptor beside it, got %d",
			fds->nr);
	if (fds->nr)
		device->fd = (uint32_t)fds->fds[0];
	return 0;
}

static bool takes_fds(const struct option_row *o)
{
	return !strcmp(o->name, "net") || !strcmp(o->name, "device");
}

static int add(struct vm *vm, struct vm_config *config, const struct option_row *o,
	const json_t *object, struct fd_list *fds, struct err *err)
{
	struct any_list *list = list_of(config, o);
	void *item;
	int rc = fields_append(o, list, &item);

	if (rc)
		return err_set(err, rc, "out of memory");
	rc = item_from_json(o, object, "", item, err);
	if (!rc && !strcmp(o->name, "net"))
		rc = name_fds(item, object, fds, err);
	if (!rc && !strcmp(o->name, "device"))
		rc = name_fd(item, fds, err);
	if (!rc)
		rc = options_check(config, err);
	if (!rc && takes_fds(o))
		rc = vm_keep_fds(vm, fds, err);
	if (rc)
		fields_drop_last(o, list);
	return rc;
}

/* One of which there is none or one. */
static void *only_one_of(struct vm_config *config, const struct option_row *o)
{
	return (char *)config + o->offset;
}

static void forget_only_one(const struct option_row *o, void *item)
{
	fields_fini(o, item);
	if (fields_init(o, item))
		fields_fini(o, item);
}

static int add_only_one(struct vm_config *config, const struct option_row *o, const json_t *object,
	struct err *err)
{
	/* what every device begins with */
	const struct device_config *at = only_one_of(config, o);
	int rc;

	if (at->id)
		return err_set(err, -EEXIST, "expected no %s yet, got a second one beside %s", o->name,
			grammar_show(at->id).text);
	rc = item_from_json(o, object, "", only_one_of(config, o), err);
	if (!rc)
		rc = options_check(config, err);
	if (rc)
		forget_only_one(o, only_one_of(config, o));
	return rc;
}

int api_add_device(struct vm *vm, const char *option, struct http_request *req, struct err *err)
{
	const struct option_row *o = option_find(option);
	struct vm_config *config = vm_change(vm, "a device more", err);
	json_t *object = NULL;
	int rc;

	if (!config)
		return VM_WRONG_STATE;
	rc = json_parse(req->body, req->body_len, &object, err);
	if (!rc && o->kind == OPTION_LIST)
		rc = add(vm, config, o, object, &req->fds, err);
	else if (!rc)
		rc = add_only_one(config, o, object, err);
	json_decref(object);
	return rc;
}

/* --- removing --- */

static bool holds_devices(const struct option_row *o)
{
	return o->kind == OPTION_LIST && o->group == GROUP_DEVICES;
}

static void forget_fds(struct vm *vm, const struct int_list *fds)
{
	for (size_t i = 0; i < fds->nr; i++)
		vm_release_fd(vm, (int)fds->items[i]);
}

static bool remove_only_one(struct vm_config *config, const struct option_row *o, const char *id)
{
	const struct device_config *at = only_one_of(config, o);

	if (o->kind != OPTION_FIELDS || o->group != GROUP_DEVICES || !at->id || strcmp(at->id, id))
		return false;
	forget_only_one(o, only_one_of(config, o));
	return true;
}

static int remove_one(struct vm *vm, struct vm_config *config, const char *id, struct err *err)
{
	for_each_option (o) {
		if (remove_only_one(config, o, id))
			return 0;
	}
	for_each_option (o) {
		struct any_list *list = list_of(config, o);

		for (size_t i = 0; holds_devices(o) && i < list->nr; i++) {
			/* what every device begins with */
			const struct device_config *at =
				(void *)((char *)list->items + i * o->item_size);

			if (!at->id || strcmp(at->id, id))
				continue;
			if (!strcmp(o->name, "net"))
				forget_fds(vm, &config->nets.items[i].fds);
			if (!strcmp(o->name, "device"))
				vm_release_fd(vm, (int)config->devices.items[i].fd);
			fields_remove(o, list, i);
			return 0;
		}
	}
	return err_set(err, -ENOENT, "%s: there is no such device", grammar_show(id).text);
}

int api_remove_device(struct vm *vm, const struct http_request *req, struct err *err)
{
	struct vm_config *config = vm_change(vm, "a device less", err);
	json_t *object = NULL;
	const char *id;
	int rc;

	if (!config)
		return VM_WRONG_STATE;
	rc = json_parse(req->body, req->body_len, &object, err);
	if (rc)
		return rc;
	id = json_string_value(json_object_get(object, "id"));
	if (id && json_object_size(object) == 1)
		rc = remove_one(vm, config, id, err);
	else
		rc = err_set(err, -EINVAL, "expected an object with the key id, a string");
	json_decref(object);
	return rc;
}
