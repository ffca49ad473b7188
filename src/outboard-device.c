/*
 * outboard-device.c - one device as a process
 *
 * `outboard-device MODEL (--socket-path=PATH | --fd=N | --vfio=ADDRESS) [options]`. Steps: parse ->
 * make the model -> open (log, saved state, socket or PCI function) -> drop capabilities ->
 * Landlock -> seccomp -> serve. Nothing of a client is read before the last step.
 *
 * Follows the conventions for back-end programs of the vfio-user and vhost-user
 * specifications: it never daemonises, SIGTERM ends it with 0, --print-capabilities. Who runs
 * back-ends by their binary's path alone finds each model as a program of its own:
 * outboard-device-MODEL.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/pci_address.h"
#include "base/sandbox.h"
#include "base/sock.h"
#include "base/util.h"
#include "device/model.h"
#include "device/state_file.h"
#include "serve/vfio_user.h"
#include "serve/vhost_user.h"
#include "serve/vvu.h"

#define EXIT_USAGE 2

enum {
	OPT_SOCKET_PATH,
	OPT_SOCKET,
	OPT_FD,
	OPT_VFIO,
	OPT_NAME,
	OPT_STATE,
	OPT_IOMMU,
	OPT_SECCOMP,
	OPT_LOG_FILE,
	OPT_LOG_FD,
	OPT_VERBOSE,
	OPT_PRINT_CAPABILITIES,
	OPT_HELP,
	OPT_VERSION,
	NR_COMMON,
};

static const struct device_option common[NR_COMMON] = {
	[OPT_SOCKET_PATH] = { "socket-path", "PATH", "listen at PATH" },
	[OPT_SOCKET] = { "socket", "PATH", "the same, as crosvm has it" },
	[OPT_FD] = { "fd", "N", "serve on descriptor N: connected, or listening" },
	[OPT_VFIO] = { "vfio", "ADDRESS",
		"serve another machine by this PCI function (a virtio device)" },
	[OPT_NAME] = { "name", "TEXT", "what the device is called in messages" },
	[OPT_STATE] = { "state", "FILE", "keep the device's state in FILE, and start from it" },
	[OPT_IOMMU] = { "iommu", NULL,
		"the device can be behind the guest's IOMMU (a virtio device, of outboard)" },
	[OPT_SECCOMP] = { "seccomp", "MODE", "true (default), false, log or errno" },
	[OPT_LOG_FILE] = { "log-file", "FILE", "append to FILE instead of writing to stderr" },
	[OPT_LOG_FD] = { "log-fd", "N", "write to descriptor N instead, likewise" },
	[OPT_VERBOSE] = { "verbose", NULL, "say more; twice: still more (also -v)" },
	[OPT_PRINT_CAPABILITIES] = { "print-capabilities", NULL,
		"print what this model is, as JSON" },
	[OPT_HELP] = { "help", NULL, "print this text (also -h)" },
	[OPT_VERSION] = { "version", NULL, "print the version (also -V)" },
};

/* What this program's own work needs beyond what the base does. */
static const struct sandbox_call own_calls[] = {
	{ SYS_socketpair, "a twin socket for a client that asks for one" },
	{ SYS_getsockopt, "what kind of socket --fd is" },
	{ SYS_openat, "the new state file" },
	{ SYS_renameat, "it takes the old one's place" },
	{ SYS_unlinkat, "it could not be written" },
	{ SYS_unlink, "the socket, at the end" },
};
#define MAX_CALLS 64

struct args {
	const struct device_model *model;
	const char *values[NR_COMMON];
	const char *model_values[DEVICE_MODEL_MAX_OPTIONS];
	int verbose;
	enum sandbox_mode sandbox;
	int fd;
	int log_fd; /* with OPT_LOG_FD */
};

/* A PCI model with its port, or a virtio model with its: the others are NULL. */
struct program {
	struct loop *loop;
	struct pci_model *pci;
	struct vfio_user_port *pci_port;
	struct state_file *state;
	struct virtio_model *virtio;
	struct vhost_user_port *virtio_port;
	struct vvu_port *vvu_port;
	bool iommu;
	const char *socket_path; /* made by us: to be removed */
};

/* Help */

static void print_option(FILE *out, const struct device_option *o)
{
	char name[40];

	snprintf(name, sizeof(name), "--%s%s%s", o->name, o->arg ? "=" : "", o->arg ? o->arg : "");
	fprintf(out, "  %-24s %s\n", name, o->help);
}

static void print_help(FILE *out)
{
	size_t nr;
	const struct device_model *const *models = device_models(&nr);

	fprintf(out, "usage: outboard-device MODEL (--socket-path=PATH | --fd=N | --vfio=ADDRESS) [OPTIONS]\n\n"
		     "Serve one device over a socket: a PCI device by vfio-user, a virtio device "
		     "by vhost-user;\nor a virtio device by a virtio-vhost-user function of this "
		     "machine.\n\noptions:\n");
	for (size_t i = 0; i < ARRAY_SIZE(common); i++)
		print_option(out, &common[i]);
	for (size_t m = 0; m < nr; m++) {
		fprintf(out, "\nmodel %s: %s\n", models[m]->name, models[m]->summary);
		for (size_t i = 0; i < models[m]->nr_options; i++)
			print_option(out, &models[m]->options[i]);
	}
}

static int print_capabilities(const struct device_model *model)
{
	json_t *options = json_array();
	json_t *root;
	int rc;

	for (size_t i = 0; i < model->nr_options; i++)
		json_array_append_new(options, json_string(model->options[i].name));
	/* What vhost-user.json calls features are names of options, for a block device at least. */
	root = json_pack("{s:s, s:s, s:s, s:s, s:[s], s:O, s:o}", "type", model->name,
		"description", model->summary, "program", "outboard-device", "version",
		OUTBOARD_VERSION, "protocols", model->new_pci ? "vfio-user" : "vhost-user",
		"features", options, "options", options);
	rc = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
	putchar('\n');
	json_decref(root);
	return rc || fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Command line */

/* Under this name the program is the model that the rest of it says, as `outboard-device MODEL` is.
 */
#define NAME_OF_MODEL "outboard-device-"

/* The model's name and the arguments after it; NULL: none is given. */
static const char *take_model_name(int *argc, char ***argv)
{
	const char *slash = *argc ? strrchr(**argv, '/') : NULL;
	const char *base = slash ? slash + 1 : *argc ? **argv : "";

	if (!strncmp(base, NAME_OF_MODEL, strlen(NAME_OF_MODEL)))
		return base + strlen(NAME_OF_MODEL);
	if (*argc < 2 || (*argv)[1][0] == '-')
		return NULL;
	--*argc;
	return *++*argv;
}

/* Codes of the table made for getopt_long: the short options' letters, then our own. */
#define CODE_COMMON 256
#define CODE_MODEL  512

static void fill_long(struct option *at, const struct device_option *o, int code)
{
	*at = (struct option){
		.name = o->name,
		.has_arg = o->arg ? required_argument : no_argument,
		.val = code,
	};
}

static int take_option(struct args *a, int code, const char *text, struct err *err)
{
	const char **value = code >= CODE_MODEL ? &a->model_values[code - CODE_MODEL]
						: &a->values[code - CODE_COMMON];

	if (code == CODE_COMMON + OPT_VERBOSE)
		a->verbose++;
	else if (*value)
		return err_set(err, -EINVAL, "--%s is given twice",
			code >= CODE_MODEL ? a->model->options[code - CODE_MODEL].name
					   : common[code - CODE_COMMON].name);
	*value = text ? text : "";
	return 0;
}

/* The model's option of that name, or NULL. */
static const struct device_option *own_option(const struct device_model *model, const char *name)
{
	for (size_t i = 0; model && i < model->nr_options; i++)
		if (!strcmp(model->options[i].name, name))
			return &model->options[i];
	return NULL;
}

/* What users of crosvm's devices know by another name. */
static const struct {
	const char *name, *ours;
} elsewhere[] = {
	{ "device", "--socket=PATH --ip=ADDRESS --mask=MASK --mac=MAC" },
	{ "vvu-device", "--vfio=ADDRESS --ip=ADDRESS --mask=MASK --mac=MAC" },
	{ "vvu-tap-fd", "--vfio=ADDRESS --tap-fd=N" },
	{ "output-file", "--file=PATH" },
	{ "input-file", "--in-fd=N" },
	{ "syslog", "--file=PATH" },
	{ "cid", "--guest-cid=N" },
};

static int unknown_option(const char *argument, struct err *err)
{
	const char *name = argument + strspn(argument, "-");

	for (size_t i = 0; i < ARRAY_SIZE(elsewhere); i++)
		if (strlen(elsewhere[i].name) == strcspn(name, "=") &&
			!strncmp(elsewhere[i].name, name, strcspn(name, "=")))
			return err_set(err, -EINVAL, "--%s: unknown option; use %s",
				elsewhere[i].name, elsewhere[i].ours);
	return err_set(err, -EINVAL, "%.64s: unknown option, or a value for one that has none",
		argument);
}

static int parse_options(struct args *a, int argc, char **argv, struct err *err)
{
	struct option table[NR_COMMON + DEVICE_MODEL_MAX_OPTIONS + 1] = { 0 };
	size_t nr = 0, nr_model = a->model ? a->model->nr_options : 0;
	int code;

	for (int i = 0; i < NR_COMMON; i++)
		if (!own_option(a->model, common[i].name))
			fill_long(&table[nr++], &common[i], CODE_COMMON + i);
	for (size_t i = 0; i < nr_model; i++)
		fill_long(&table[nr++], &a->model->options[i], CODE_MODEL + (int)i);
	opterr = 0;
	while ((code = getopt_long(argc, argv, ":vhV", table, NULL)) >= 0) {
		int rc = 0;

		switch (code) {
		case 'v':
			code = CODE_COMMON + OPT_VERBOSE;
			break;
		case 'h':
			code = CODE_COMMON + OPT_HELP;
			break;
		case 'V':
			code = CODE_COMMON + OPT_VERSION;
			break;
		case ':':
			return err_set(err, -EINVAL, "%s: expected a value", argv[optind - 1]);
		case '?':
			return unknown_option(argv[optind - 1], err);
		}
		rc = take_option(a, code, optarg, err);
		if (rc)
			return rc;
	}
	if (optind < argc)
		return err_set(err, -EINVAL, "unexpected argument '%.64s'", argv[optind]);
	return 0;
}

static int parse_fd(const char *option, const char *text, int *fd, struct err *err)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 10);
	if (errno || end == text || *end || n < 0 || n > INT32_MAX)
		return err_set(err, -EINVAL, "--%s: '%.32s', expected a descriptor's number", option,
			text);
	if (fcntl((int)n, F_GETFD) < 0)
		return err_set(err, -EBADF, "--%s: descriptor %ld is not open", option, n);
	if (n <= STDERR_FILENO)
		return err_set(err, -EINVAL, "--%s: descriptor %ld is a standard stream", option, n);
	*fd = (int)n;
	return 0;
}

/*
 * --socket is the device's, as crosvm has it. A console has one by that name for its own end: there
 * it is the device's where nothing else is.
 */
static int take_socket(struct args *a, struct err *err)
{
	const struct device_option *own = own_option(a->model, "socket");
	const char **value =
		own ? &a->model_values[own - a->model->options] : &a->values[OPT_SOCKET];

	if (!*value)
		return 0;
	if (a->values[OPT_SOCKET_PATH] || a->values[OPT_FD] || a->values[OPT_VFIO])
		return own ? 0 : err_set(err, -EINVAL, "exactly one of --socket or --vfio is required");
	a->values[OPT_SOCKET_PATH] = *value;
	*value = NULL;
	return 0;
}

/* One place to serve at. */
static int check_place(const struct args *a, struct err *err)
{
	int nr = !!a->values[OPT_SOCKET_PATH] + !!a->values[OPT_FD] + !!a->values[OPT_VFIO];
	struct pci_address address;

	if (a->model->new_pci && a->values[OPT_VFIO])
		return err_set(err, -EINVAL, "--vfio: %s is no virtio device", a->model->name);
	if (nr != 1)
		return err_set(err, -EINVAL, "%s",
			a->model->new_pci
				? "expected either --socket-path=PATH or --fd=N"
				: "exactly one of --socket or --vfio is required (or --fd)");
	if (a->values[OPT_VFIO] && pci_address_of_path(a->values[OPT_VFIO], &address))
		return err_set(err, -EINVAL, "--vfio: '%.64s', expected a PCI address, as 0000:00:10.0",
			a->values[OPT_VFIO]);
	return 0;
}

static int check_args(struct args *a, struct err *err)
{
	const char *mode = a->values[OPT_SECCOMP];
	int rc = 0;

	a->sandbox = SANDBOX_KILL;
	a->fd = -1;
	rc = take_socket(a, err);
	if (!rc)
		rc = check_place(a, err);
	if (rc)
		return rc;
	if (a->values[OPT_SOCKET_PATH])
		rc = sock_check_path(a->values[OPT_SOCKET_PATH], err);
	if (rc)
		return err_prefix(err, rc, "--socket-path");
	if (mode && sandbox_parse_mode(mode, &a->sandbox, err))
		return err_prefix(err, -EINVAL, "--seccomp");
	if (a->values[OPT_STATE] && !a->model->new_pci)
		return err_set(
			err, -EINVAL, "--state: %s keeps no state of its own", a->model->name);
	if (a->values[OPT_IOMMU] && a->model->new_pci)
		return err_set(err, -EINVAL,
			"--iommu: %s needs no word for that: it is told what it may reach",
			a->model->name);
	if (a->values[OPT_LOG_FILE] && a->values[OPT_LOG_FD])
		return err_set(err, -EINVAL, "expected at most one of --log-file and --log-fd");
	if (a->values[OPT_LOG_FD])
		rc = parse_fd("log-fd", a->values[OPT_LOG_FD], &a->log_fd, err);
	if (!rc && a->values[OPT_FD])
		rc = parse_fd("fd", a->values[OPT_FD], &a->fd, err);
	return rc;
}

static int unknown_model(const char *name, struct err *err)
{
	size_t nr, len = 0;
	const struct device_model *const *models = device_models(&nr);
	char names[200] = "";

	for (size_t i = 0; i < nr && len < sizeof(names); i++)
		len += (size_t)snprintf(
			names + len, sizeof(names) - len, "%s%s", i ? ", " : "", models[i]->name);
	return err_set(err, -EINVAL, "unknown model '%.32s', expected one of: %s", name, names);
}

/* Serving */

static void on_signal(void *arg, int signo)
{
	struct program *prog = arg;
	struct virtio_model *m = prog->virtio;

	/* What the model is made of may have changed: an image that grew. */
	if (signo == SIGHUP && m && m->ops->config_read) {
		m->ops->config_read(m);
		return;
	}
	log_info("%s, ending", signo == SIGTERM	 ? "SIGTERM"
			       : signo == SIGINT ? "SIGINT"
						 : "SIGHUP");
	loop_quit(prog->loop, EXIT_SUCCESS);
}

static void deserted(void *arg)
{
	struct program *prog = arg;

	loop_quit(prog->loop, EXIT_SUCCESS);
}

static void lost(void *arg)
{
	struct program *prog = arg;

	loop_quit(prog->loop, EXIT_FAILURE);
}

static int open_dir_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	FREE_AUTO char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	int fd = dir ? open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;

	return fd < 0 ? -errno : fd;
}

/* The lists of whoever has a part in the device, as one. */
struct call_list {
	struct sandbox_call calls[MAX_CALLS];
	size_t nr;
};

static void add_calls(struct call_list *list, const struct sandbox_call *calls, size_t nr)
{
	assert(nr <= ARRAY_SIZE(list->calls) - list->nr);
	if (nr)
		memcpy(&list->calls[list->nr], calls, nr * sizeof(*calls));
	list->nr += nr;
}

static int confine_calls(const struct args *a, struct err *err)
{
	struct call_list list = { .nr = 0 };

	add_calls(&list, own_calls, ARRAY_SIZE(own_calls));
	add_calls(&list, a->model->calls, a->model->nr_calls);
	if (a->model->new_virtio)
		add_calls(&list, vhost_user_port_calls, ARRAY_SIZE(vhost_user_port_calls));
	if (a->values[OPT_VFIO])
		add_calls(&list, vvu_port_calls, ARRAY_SIZE(vvu_port_calls));
	return sandbox_calls(list.calls, list.nr, a->sandbox, err);
}

/* What the model's option made_file was given; NULL: nothing. */
static const char *made_file(const struct args *a)
{
	for (size_t i = 0; a->model->made_file && i < a->model->nr_options; i++)
		if (!strcmp(a->model->options[i].name, a->model->made_file))
			return a->model_values[i];
	return NULL;
}

static int confine(const struct program *prog, const struct args *a, struct err *err)
{
	struct sandbox_dir dirs[3];
	FD_AUTO socket_dir = -1;
	FD_AUTO made_dir = made_file(a) ? open_dir_of(made_file(a)) : -1;
	size_t nr = 0;
	/* A state file may lie in a directory that belongs to another user than root. */
	uint64_t keep = prog->state ? 1ull << CAP_DAC_OVERRIDE : 0;
	int rc;

	if (prog->state)
		dirs[nr++] = (struct sandbox_dir){ state_file_dir(prog->state), SANDBOX_REPLACE };
	if (prog->socket_path) {
		socket_dir = open_dir_of(prog->socket_path);
		if (socket_dir >= 0)
			dirs[nr++] = (struct sandbox_dir){ socket_dir, SANDBOX_REMOVE };
	}
	if (made_dir >= 0)
		dirs[nr++] = (struct sandbox_dir){ made_dir, SANDBOX_REMOVE };
	rc = sandbox_privileges(keep, err);
	if (!rc)
		rc = sandbox_files(dirs, nr, err);
	if (!rc)
		rc = confine_calls(a, err);
	return rc;
}

static int make_model(struct program *prog, const struct args *a, struct err *err)
{
	int rc;

	if (a->model->new_virtio)
		return a->model->new_virtio(a->model_values, prog->loop, &prog->virtio, err);
	rc = a->model->new_pci(a->model_values, &prog->pci, err);
	if (!rc && a->values[OPT_STATE])
		rc = state_file_open(&prog->state, a->values[OPT_STATE], prog->pci, err);
	return rc;
}

/* Takes fd, also on failure. */
static int make_port(struct program *prog, int fd, struct err *err)
{
	const struct vfio_user_port_config pci = { .deserted = deserted, .arg = prog };
	const struct vhost_user_port_config virtio = {
		.deserted = deserted, .arg = prog, .iommu = prog->iommu
	};

	if (prog->virtio)
		return vhost_user_port_new(
			&prog->virtio_port, prog->loop, prog->virtio, fd, &virtio, err);
	return vfio_user_port_new(&prog->pci_port, prog->loop, prog->pci, fd, &pci, err);
}

/* Where the device is served. */
static int open_place(struct program *prog, const struct args *a, struct err *err)
{
	const struct vvu_port_config vvu = { .iommu = prog->iommu, .lost = lost, .arg = prog };
	FD_AUTO fd = a->fd;

	if (a->values[OPT_VFIO])
		return vvu_port_new(&prog->vvu_port, prog->loop, prog->virtio,
			a->values[OPT_VFIO], &vvu, err);
	if (a->values[OPT_SOCKET_PATH]) {
		fd = sock_listen(a->values[OPT_SOCKET_PATH], 16, err);
		if (fd < 0)
			return fd;
		prog->socket_path = a->values[OPT_SOCKET_PATH];
	} else if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
		return err_set(err, -errno, "--fd: %s", strerror(errno));
	}
	return make_port(prog, fd_take(&fd), err);
}

static int set_up(struct program *prog, const struct args *a, struct err *err)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, 0 };
	int rc;

	/* Made now: the JSON library wants random numbers from a file. */
	json_object_seed(0);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a state or log file at its limit is an error, not the end */
	rc = loop_new(&prog->loop);
	if (!rc)
		rc = loop_signals(prog->loop, signals, on_signal, prog);
	if (rc)
		return err_set(err, rc, "event loop: %s", strerror(-rc));
	if (a->values[OPT_VFIO])
		loop_peer_is_elsewhere(prog->loop);
	prog->iommu = a->values[OPT_IOMMU];
	rc = make_model(prog, a, err);
	if (!rc)
		rc = open_place(prog, a, err);
	if (!rc)
		rc = confine(prog, a, err);
	if (!rc && prog->state)
		rc = state_file_write(prog->state, err);
	return rc;
}

static void port_freed(void *arg)
{
	struct program *prog = arg;

	prog->virtio_port = NULL;
	prog->vvu_port = NULL;
	loop_quit(prog->loop, 0);
}

/* Requests that are under way are finished first. */
static void tear_down(struct program *prog)
{
	vfio_user_port_free(prog->pci_port);
	if (prog->virtio_port) {
		vhost_user_port_free(prog->virtio_port, port_freed, prog);
		while (prog->virtio_port)
			loop_run(prog->loop);
	}
	if (prog->vvu_port) {
		vvu_port_free(prog->vvu_port, port_freed, prog);
		while (prog->vvu_port)
			loop_run(prog->loop);
	}
	if (prog->socket_path)
		unlink(prog->socket_path);
	state_file_close(prog->state);
	pci_model_free(prog->pci);
	virtio_model_free(prog->virtio);
	loop_free(prog->loop);
}

static int serve(const struct args *a)
{
	struct program prog = { 0 };
	struct err err = { 0 };
	const char *name = a->values[OPT_NAME] ? a->values[OPT_NAME] : "outboard-device";
	int code = EXIT_FAILURE;

	log_init(name, (enum log_level)MIN(LOG_WARN + a->verbose, LOG_DEBUG));
	if (a->values[OPT_LOG_FILE] && log_open(a->values[OPT_LOG_FILE])) {
		fprintf(stderr, "outboard-device: --log-file %s: %s\n", a->values[OPT_LOG_FILE],
			strerror(errno));
		return EXIT_FAILURE;
	}
	if (a->values[OPT_LOG_FD]) {
		fcntl(a->log_fd, F_SETFD, FD_CLOEXEC);
		log_to(a->log_fd);
	}
	if (set_up(&prog, a, &err))
		fprintf(stderr, "outboard-device: %s: %s\n", a->model->name, err.text);
	else
		code = loop_run(prog.loop);
	tear_down(&prog);
	return code;
}

int main(int argc, char **argv)
{
	struct args a = { 0 };
	struct err err = { 0 };
	const char *name = take_model_name(&argc, &argv);
	int rc = 0;

	if (fd_standard())
		return EXIT_FAILURE; /* and nowhere to say so */
	if (name) {
		a.model = device_model_find(name);
		if (!a.model)
			rc = unknown_model(name, &err);
	}
	if (!rc)
		rc = parse_options(&a, argc, argv, &err);
	if (!rc && a.values[OPT_HELP]) {
		print_help(stdout);
		return fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
	}
	if (!rc && a.values[OPT_VERSION]) {
		printf("outboard-device %s\n", OUTBOARD_VERSION);
		return fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
	}
	if (!rc && !a.model)
		rc = err_set(&err, -EINVAL, "expected a model; see outboard-device --help");
	if (!rc && a.values[OPT_PRINT_CAPABILITIES])
		return print_capabilities(a.model);
	if (!rc)
		rc = check_args(&a, &err);
	if (rc) {
		fprintf(stderr, "outboard-device: %s\n", err.text);
		return EXIT_USAGE;
	}
	return serve(&a);
}
