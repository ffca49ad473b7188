/*
 * api.c - the endpoints (see api.h)
 *
 * A request is checked against its row first: method, is there a VM, does its state allow it. Then
 * its function runs, and answers at once or when the VM has called back. A client that leaves
 * meanwhile changes nothing: the request is carried out, and its answer dropped.
 *
 * Trusts: nothing that clients send.
 */
#include "control/api.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "control/api_devices.h"
#include "control/config_json.h"
#include "control/field_json.h"
#include "control/grammar.h"
#include "control/http.h"
#include "control/options.h"

#define API_PREFIX "/api/v1/"

struct api {
	struct vmm *vmm;
	struct http_server *http;
};

/* --- answers --- */

static void answer_nothing(struct http_request *req)
{
	http_reply(req, 204, NULL, NULL, 0);
}

/* Takes json; NULL: there was no memory for it. */
static void answer_json(struct http_request *req, int status, json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	if (text)
		http_reply(req, status, "application/json", text, strlen(text));
	else
		http_reply(req, 500, NULL, NULL, 0);
	free(text);
	json_decref(json);
}

static void answer_error(struct http_request *req, int status, const char *text)
{
	log_debug("api: %s %s: %d %s", req->method, grammar_show(req->path).text, status, text);
	answer_json(req, status, json_pack("[o]", json_text(text)));
}

static void answer_rc(struct http_request *req, int rc, const struct err *err)
{
	if (rc)
		answer_error(req, rc == VM_WRONG_STATE ? 405 : 500, err->text);
	else
		answer_nothing(req);
}

/* The vm_done_fn of what takes its time; arg is the request. */
static void answer_when_done(void *arg, int rc, const struct err *err)
{
	if (rc)
		answer_error(arg, 500, err->text);
	else
		answer_nothing(arg);
}

/* --- endpoints --- */

static void vmm_ping(struct api *api, struct http_request *req)
{
	answer_json(req, 200,
		json_pack("{s:s,s:s,s:I,s:[s]}", "version", OUTBOARD_VERSION, "build_version",
			"outboard v" OUTBOARD_VERSION, "pid", (json_int_t)getpid(), "features",
			"kvm"));
}

static void end_vmm(struct api *api, struct http_request *req)
{
	answer_nothing(req);
	vmm_shutdown(api->vmm);
}

static int read_config(const struct http_request *req, struct vm_config *config, struct err *err)
{
	json_t *json = NULL;
	int rc = config_init(config);

	if (rc)
		return err_set(err, rc, "out of memory");
	rc = json_parse(req->body, req->body_len, &json, err);
	if (!rc)
		rc = config_from_json(json, config, err);
	if (!rc)
		rc = options_check(config, err);
	json_decref(json);
	if (rc)
		config_fini(config);
	return rc;
}

static void vm_create(struct api *api, struct http_request *req)
{
	struct vm_config config;
	struct err err = { 0 };
	int rc;

	if (vmm_vm(api->vmm)) {
		answer_error(req, 405, "vm.create: there is a VM already; delete it first");
		return;
	}
	rc = read_config(req, &config, &err);
	if (rc) {
		answer_error(req, rc == -ENOMEM ? 500 : 400, err.text);
		return;
	}
	rc = vmm_create_vm(api->vmm, &config, &err);
	answer_rc(req, rc, &err);
}

static void vm_delete(struct api *api, struct http_request *req)
{
	vmm_delete_vm(api->vmm);
	answer_nothing(req);
}

typedef int (*vm_begin_fn)(struct vm *vm, vm_done_fn done, void *arg, struct err *err);

static void begin(struct api *api, struct http_request *req, vm_begin_fn fn)
{
	struct err err = { 0 };
	int rc = fn(vmm_vm(api->vmm), answer_when_done, req, &err);

	if (rc)
		answer_rc(req, rc, &err);
}

static void boot(struct api *api, struct http_request *req)
{
	begin(api, req, vm_boot);
}

static void pause_vm(struct api *api, struct http_request *req)
{
	begin(api, req, vm_pause);
}

static void reboot_vm(struct api *api, struct http_request *req)
{
	begin(api, req, vm_reboot);
}

static void at_once(
	struct api *api, struct http_request *req, int (*fn)(struct vm *vm, struct err *err))
{
	struct err err = { 0 };
	int rc = fn(vmm_vm(api->vmm), &err);

	answer_rc(req, rc, &err);
}

static void resume(struct api *api, struct http_request *req)
{
	at_once(api, req, vm_resume);
}

static void shut_down(struct api *api, struct http_request *req)
{
	at_once(api, req, vm_shutdown);
}

static void power_button(struct api *api, struct http_request *req)
{
	at_once(api, req, vm_power_button);
}

static void nmi(struct api *api, struct http_request *req)
{
	at_once(api, req, vm_nmi);
}

/* --- devices, before a boot --- */

static void answer_change(struct http_request *req, int rc, const struct err *err)
{
	if (!rc)
		answer_nothing(req);
	else
		/* a running VM could be changed elsewhere, not here */
		answer_error(req,
			rc == VM_WRONG_STATE ? 501
			: rc == -EEXIST	     ? 409
			: rc == -ENOENT	     ? 404
			: rc == -ENOMEM	     ? 500
					     : 400,
			err->text);
}

/* vm.add-net: the option is what comes after "add-". */
static void add_device(struct api *api, struct http_request *req)
{
	const char *option = strstr(req->path, "vm.add-") + strlen("vm.add-");
	struct err err = { 0 };
	int rc = api_add_device(vmm_vm(api->vmm), option, req, &err);

	answer_change(req, rc, &err);
}

static void remove_device(struct api *api, struct http_request *req)
{
	struct err err = { 0 };
	int rc = api_remove_device(vmm_vm(api->vmm), req, &err);

	answer_change(req, rc, &err);
}

/* --- what there is to know --- */

static void name_pty(json_t *config, const char *key, const char *pty)
{
	if (pty)
		json_object_set_new(json_object_get(config, key), "file", json_text(pty));
}

/* The configuration as it was given, and the names that only the running machine knows. */
static json_t *config_now(const struct vm *vm)
{
	json_t *json;

	if (config_to_json(vm_config(vm), &json))
		return NULL;
	name_pty(json, "serial", vm_serial_pty(vm));
	name_pty(json, "console", vm_console_pty(vm));
	return json;
}

static const char *state_of(const struct device *dev)
{
	static const char *const names[] = {
		[DEVICE_CONNECTING] = "connecting",
		[DEVICE_ATTACHED] = "attached",
		[DEVICE_BROKEN] = "broken",
	};

	return names[device_state(dev)];
}

/* An object with a member for each device, made by fn. */
static json_t *each_device(const struct vm *vm, json_t *(*fn)(const struct device *dev))
{
	json_t *tree = json_object();

	for (size_t i = 0; tree && i < vm_nr_devices(vm); i++) {
		const struct device *dev = vm_device(vm, i);

		if (json_object_set_new(tree, dev->id, fn(dev))) {
			json_decref(tree);
			return NULL;
		}
	}
	return tree;
}

static json_t *device_node(const struct device *dev)
{
	const char *bdf = device_bdf(dev);

	return json_pack("{s:s,s:[],s:[],s:s*,s:s}", "id", dev->id, "resources", "children",
		"pci_bdf", *bdf ? bdf : NULL, "state", state_of(dev));
}

static void info(struct api *api, struct http_request *req)
{
	const struct vm *vm = vmm_vm(api->vmm);

	answer_json(req, 200,
		json_pack("{s:o,s:s,s:I,s:o}", "config", config_now(vm), "state",
			vm_state_name(vm_state(vm)), "memory_actual_size",
			(json_int_t)vm_config(vm)->memory.size, "device_tree",
			each_device(vm, device_node)));
}

/* No route counts anything yet: each device is there, and empty. */
static json_t *device_counters(const struct device *dev)
{
	return json_object();
}

static void counters(struct api *api, struct http_request *req)
{
	answer_json(req, 200, each_device(vmm_vm(api->vmm), device_counters));
}

/* --- the table --- */

struct endpoint {
	const char *name;
	const char *method;
	bool needs_vm;
	void (*call)(struct api *api, struct http_request *req); /* NULL: not in this version */
};

static const struct endpoint endpoints[] = {
	{ "vmm.ping", "GET", false, vmm_ping },
	{ "vmm.shutdown", "PUT", false, end_vmm },
	{ "vm.create", "PUT", false, vm_create },
	{ "vm.delete", "PUT", true, vm_delete },
	{ "vm.boot", "PUT", true, boot },
	{ "vm.info", "GET", true, info },
	{ "vm.counters", "GET", true, counters },
	{ "vm.pause", "PUT", true, pause_vm },
	{ "vm.resume", "PUT", true, resume },
	{ "vm.shutdown", "PUT", true, shut_down },
	{ "vm.reboot", "PUT", true, reboot_vm },
	{ "vm.power-button", "PUT", true, power_button },
	{ "vm.nmi", "PUT", true, nmi },
	{ "vm.add-device", "PUT", true, add_device },
	{ "vm.add-disk", "PUT", true, add_device },
	{ "vm.add-fs", "PUT", true, add_device },
	{ "vm.add-generic-vhost-user", "PUT", true, add_device },
	{ "vm.add-net", "PUT", true, add_device },
	{ "vm.add-pmem", "PUT" },
	{ "vm.add-user-device", "PUT", true, add_device },
	{ "vm.add-vdpa", "PUT" },
	{ "vm.add-vsock", "PUT", true, add_device },
	{ "vm.coredump", "PUT" },
	{ "vm.receive-migration", "PUT" },
	{ "vm.remove-device", "PUT", true, remove_device },
	{ "vm.resize", "PUT" },
	{ "vm.resize-disk", "PUT" },
	{ "vm.resize-zone", "PUT" },
	{ "vm.restore", "PUT" },
	{ "vm.send-migration", "PUT" },
	{ "vm.snapshot", "PUT" },
};

static const struct endpoint *find(const char *path)
{
	size_t skip = strlen(API_PREFIX);

	if (strncmp(path, API_PREFIX, skip))
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(endpoints); i++)
		if (!strcmp(endpoints[i].name, path + skip))
			return &endpoints[i];
	return NULL;
}

static void refuse(
	struct http_request *req, int status, const char *fmt, const char *a, const char *b)
{
	struct err err = { 0 };

	err_set(&err, -EINVAL, fmt, a, b);
	answer_error(req, status, err.text);
}

static void on_request(void *arg, struct http_request *req)
{
	struct api *api = arg;
	const struct endpoint *e = find(req->path);

	if (!e)
		refuse(req, 404, "%s: no such endpoint%s", grammar_show(req->path).text, "");
	else if (strcmp(e->method, req->method))
		refuse(req, 405, "%s: expected the method %s", e->name, e->method);
	else if (!e->call)
		refuse(req, 501, "%s is not available in this version%s", e->name, "");
	else if (e->needs_vm && !vmm_vm(api->vmm))
		refuse(req, 404, "%s: no VM is created%s", e->name, "");
	else
		e->call(api, req);
}

/* --- life --- */

int api_new(struct vmm *vmm, struct loop *loop, int listen_fd, struct api **out)
{
	struct api *api = calloc(1, sizeof(*api));
	int rc;

	if (!api) {
		close(listen_fd);
		return -ENOMEM;
	}
	api->vmm = vmm;
	rc = http_server_new(loop, listen_fd, NULL, on_request, api, &api->http);
	if (rc) {
		free(api);
		return rc;
	}
	*out = api;
	return 0;
}

void api_free(struct api *api)
{
	if (!api)
		return;
	http_server_free(api->http);
	free(api);
}

void api_finish(struct api *api, void (*done)(void *arg), void *arg)
{
	http_server_finish(api->http, done, arg);
}
