/* remote.c - the table of commands, and how one is carried out (see remote.h) */
#include "control/remote.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/sock.h"
#include "base/util.h"
#include "control/config_json.h"
#include "control/field_json.h"
#include "control/http_client.h"
#include "control/options.h"

/* a table is read by rows */
/* clang-format off */

const struct remote_command remote_commands[] = {
	{ "ping", "GET", "vmm.ping", .help = "ask whether it is there, and which version it is" },
	{ "create", "PUT", "vm.create", REMOTE_FILE, "[FILE|-]",
	  "create a VM from a configuration in JSON, from standard input without FILE" },
	{ "add-disk", "PUT", "vm.add-disk", REMOTE_OPTION, "OPTION", "before a boot, add a disk: path=PATH,..." },
	{ "add-net", "PUT", "vm.add-net", REMOTE_OPTION, "OPTION", "add a network: tap=NAME,... or fd=[N]" },
	{ "add-device", "PUT", "vm.add-device", REMOTE_OPTION, "OPTION",
	  "add a PCI device of the host: path=PATH or fd=N" },
	{ "add-fs", "PUT", "vm.add-fs", REMOTE_OPTION, "OPTION", "add a shared directory: tag=NAME,socket=PATH" },
	{ "add-generic-vhost-user", "PUT", "vm.add-generic-vhost-user", REMOTE_OPTION, "OPTION",
	  "add a virtio device by vhost-user" },
	{ "add-user-device", "PUT", "vm.add-user-device", REMOTE_OPTION, "OPTION",
	  "add a PCI device by vfio-user: socket=PATH" },
	{ "add-vsock", "PUT", "vm.add-vsock", REMOTE_OPTION, "OPTION",
	  "add streams to the guest: cid=N,socket=PATH" },
	{ "remove-device", "PUT", "vm.remove-device", REMOTE_ID, "ID", "before a boot, remove a device" },
	{ "boot", "PUT", "vm.boot", .help = "attach its devices and start it" },
	{ "info", "GET", "vm.info", .help = "print its configuration, state and devices" },
	{ "counters", "GET", "vm.counters", .help = "print the counters of its devices" },
	{ "pause", "PUT", "vm.pause", .help = "let its processors stand" },
	{ "resume", "PUT", "vm.resume", .help = "let them go on" },
	{ "reboot", "PUT", "vm.reboot", .help = "reset it" },
	{ "power-button", "PUT", "vm.power-button", .help = "press its power button" },
	{ "nmi", "PUT", "vm.nmi", .help = "send its processors a non-maskable interrupt" },
	{ "shutdown", "PUT", "vm.shutdown", .help = "switch it off; it can be booted again" },
	{ "delete", "PUT", "vm.delete", .help = "switch it off and forget it" },
	{ "shutdown-vmm", "PUT", "vmm.shutdown", .help = "end the VMM, and its VM with it" },

	{ "add-pmem" },
	{ "add-vdpa" },
	{ "coredump" },
	{ "receive-migration" },
	{ "resize" },
	{ "resize-disk" },
	{ "resize-zone" },
	{ "restore" },
	{ "send-migration" },
	{ "snapshot" },
	{ 0 },
};

/* clang-format on */

const struct remote_command *remote_find(const char *name)
{
	for_each_command (c)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

/* An error is an array of texts, each the reason of the one before. */
static int server_refused(const struct http_answer *answer, struct err *err)
{
	json_t *chain = json_loadb(answer->body, answer->len, JSON_REJECT_DUPLICATES, NULL);
	char text[400] = "";
	size_t used = 0, i;
	json_t *item;

	json_array_foreach (chain, i, item) {
		const char *one = json_string_value(item);
		int n = snprintf(
			text + used, sizeof(text) - used, "%s%s", i ? ": " : "", one ? one : "?");

		if (n < 0 || (size_t)n >= sizeof(text) - used)
			break;
		used += (size_t)n;
	}
	for (char *at = text; *at; at++)
		if ((unsigned char)*at < ' ')
			*at = ' ';
	json_decref(chain);
	if (*text)
		return err_set(err, -EREMOTEIO, "%s", text);
	return err_set(err, -EREMOTEIO, "the server answered %d", answer->status);
}

static int print_answer(const struct http_answer *answer, FILE *out, struct err *err)
{
	json_t *json;
	int rc;

	if (!answer->len)
		return 0;
	json = json_loadb(answer->body, answer->len, JSON_DECODE_ANY, NULL);
	if (!json)
		return err_set(err, -EBADMSG, "the server's answer is no JSON");
	rc = json_dumpf(json, out, JSON_INDENT(2) | JSON_ENCODE_ANY);
	json_decref(json);
	if (rc || fputc('\n', out) == EOF || fflush(out))
		return err_set(err, -EIO, "standard output: %s", strerror(errno));
	return 0;
}

/* Descriptors are no JSON: they go beside it. */
static int take_fds(struct vm_config *config, struct remote_request *req, struct err *err)
{
	if (config->nets.nr) {
		req->fds = (int *)config->nets.items[0].fds.items;
		req->nr_fds = (int)config->nets.items[0].fds.nr;
		config->nets.items[0].fds = (struct int_list){ 0 };
	}
	if (config->devices.nr && config->devices.items[0].fd != CONFIG_NO_FD) {
		req->fds = malloc(sizeof(*req->fds));
		if (!req->fds)
			return err_set(err, -ENOMEM, "out of memory");
		req->fds[0] = (int)config->devices.items[0].fd;
		req->nr_fds = 1;
	}
	return 0;
}

/* What the option's argument has made, of a list its one element, as the server takes it. */
static int option_body(struct remote_request *req, const char *argument, struct err *err)
{
	const struct option_row *o = option_find(req->command->name + strlen("add-"));
	struct vm_config config;
	json_t *json = NULL;
	int rc = config_init(&config);

	if (rc)
		return err_set(err, rc, "out of memory");
	rc = options_apply(&config, o->name, argument, err);
	if (!rc) {
		const json_t *made;

		rc = config_to_json(&config, &json);
		made = json_object_get(json, o->json);
		made = json_is_array(made) ? json_array_get(made, 0) : made;
		req->body = rc ? NULL : json_dumps(made, 0);
		rc = req->body ? 0 : err_set(err, -ENOMEM, "out of memory");
	}
	if (!rc)
		rc = take_fds(&config, req, err);
	json_decref(json);
	config_fini(&config);
	return rc;
}

int remote_make_body(struct remote_request *req, const char *argument, struct err *err)
{
	int rc = 0;

	if (req->command->body == REMOTE_OPTION) {
		rc = option_body(req, argument, err);
	} else {
		json_t *json = json_pack("{s:o}", "id", json_text(argument));

		req->body = json ? json_dumps(json, 0) : NULL;
		json_decref(json);
		rc = req->body ? 0 : err_set(err, -ENOMEM, "out of memory");
	}
	req->len = req->body ? strlen(req->body) : 0;
	if (req->nr_fds > SOCK_MAX_FDS)
		rc = err_set(err, -E2BIG, "fd: expected at most %d descriptors", SOCK_MAX_FDS);
	return rc;
}

void remote_fini(struct remote_request *req)
{
	free(req->body);
	free(req->fds);
}

int remote_run(const struct remote_request *req, FILE *out, struct err *err)
{
	struct http_answer answer;
	char target[100];
	const struct http_call call = {
		.socket_path = req->socket_path,
		.method = req->command->method,
		.target = target,
		.body = req->body,
		.len = req->len,
		.fds = req->fds,
		.nr_fds = req->nr_fds,
	};
	int rc;

	snprintf(target, sizeof(target), "/api/v1/%s", req->command->endpoint);
	rc = http_call(&call, &answer, err);
	if (rc)
		return rc;
	if (answer.status == 200 || answer.status == 204)
		rc = print_answer(&answer, out, err);
	else
		rc = server_refused(&answer, err);
	free(answer.body);
	return rc;
}

/* --- help and completions --- */

void remote_print_help(FILE *out)
{
	const char *join = "";

	fputs("Usage: outboard-remote --api-socket PATH COMMAND [ARGUMENT]\n"
	      "\n"
	      "Send a command to an outboard that was started with --api-socket.\n"
	      "\n"
	      "Commands:\n",
		out);
	for_each_command (c) {
		char label[40];

		if (!c->endpoint)
			continue;
		snprintf(label, sizeof(label), "%s%s%s", c->name, c->arg ? " " : "",
			c->arg ? c->arg : "");
		fprintf(out, strlen(label) > 16 ? "  %-16s\n%20s%s\n" : "  %-17s %s%s\n", label, "",
			c->help);
	}
	fputs("\n"
	      "Options:\n"
	      "  --api-socket PATH  the socket of the VMM\n"
	      "  -h, --help         print this text\n"
	      "  -V, --version      print the version\n"
	      "\n"
	      "Known from ch-remote, not available in this version:\n"
	      "  ",
		out);
	for_each_command (c)
		if (!c->endpoint) {
			fprintf(out, "%s%s", join, c->name);
			join = !strcmp(c->name, "resize") ? ",\n  " : ", ";
		}
	fputc('\n', out);
}

/* shell, line by line */
/* clang-format off */
static void print_bash(FILE *out)
{
	fputs("# bash completion for outboard-remote, printed by: outboard-remote --print-completion bash\n"
	      "\n"
	      "_outboard_remote()\n"
	      "{\n"
	      "\tlocal word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD - 1]}\n"
	      "\tcase $last in\n"
	      "\t--api-socket", out);
	for_each_command (c)
		if (c->body == REMOTE_FILE)
			fprintf(out, " | %s", c->name);
	fputs(") mapfile -t COMPREPLY < <(compgen -f -- \"$word\") ;;\n"
	      "\t*) mapfile -t COMPREPLY < <(compgen -W '--api-socket --help --version", out);
	for_each_command (c)
		if (c->endpoint)
			fprintf(out, " %s", c->name);
	fputs("' -- \"$word\") ;;\n"
	      "\tesac\n"
	      "}\n"
	      "\n"
	      "complete -F _outboard_remote outboard-remote\n", out);
}

static void print_zsh(FILE *out)
{
	fputs("#compdef outboard-remote\n"
	      "# zsh completion for outboard-remote, printed by: outboard-remote --print-completion zsh\n"
	      "\n"
	      "_outboard_remote_commands()\n"
	      "{\n"
	      "\tlocal -a commands=(\n", out);
	for_each_command (c)
		if (c->endpoint)
			fprintf(out, "\t\t'%s:%s'\n", c->name, c->help);
	fputs("\t)\n"
	      "\t_describe command commands\n"
	      "}\n"
	      "\n"
	      "_arguments \\\n"
	      "\t'--api-socket=[the socket of the VMM]:PATH:_files' \\\n"
	      "\t'(-h --help)'{-h,--help}'[print the help]' \\\n"
	      "\t'(-V --version)'{-V,--version}'[print the version]' \\\n"
	      "\t'1:command:_outboard_remote_commands' \\\n"
	      "\t'2:file:_files'\n", out);
}
/* clang-format on */

int remote_print_completion(FILE *out, const char *shell, struct err *err)
{
	if (!strcmp(shell, "bash"))
		print_bash(out);
	else if (!strcmp(shell, "zsh"))
		print_zsh(out);
	else
		return err_set(err, -EINVAL, "--print-completion: expected bash or zsh");
	return 0;
}
