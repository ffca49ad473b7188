/*
 * vmm.c - from a command line's configuration to an exit status
 *
 * With a machine on the command line it is built and booted at once. With --api-socket clients may
 * do the rest, and make one where there is none. The end comes by the guest (unless --no-shutdown),
 * by a signal, or by a client; in each case the loop is left, and everything is freed in one place.
 *
 * Owns:    the loop, the VM, the API's server, the stream of events.
 * Threads: loop thread.
 */
#include "control/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/sock.h"
#include "base/util.h"
#include "control/api.h"
#include "control/confine.h"
#include "control/events.h"
#include "control/grammar.h"

#define API_BACKLOG 64

struct vmm {
	struct loop *loop;
	struct spawner *spawner; /* NULL: no device process can be wanted */
	struct worker *closer;	 /* gives host devices back, and what else they take time over */
	struct vm_config config; /* the program's part; the machine's goes to the VM */
	struct vm *vm;
	struct api *api;
	char *api_path; /* the socket we made; to be removed */
	struct events *events;
	struct err err;	   /* why it ends, when something failed */
	bool asked_to_end; /* one signal came already */
};

/* --- the VM --- */

/* A new terminal is of no use to somebody who does not know its name. */
static void announce(const struct vm *vm)
{
	const char *serial = vm_serial_pty(vm), *console = vm_console_pty(vm);

	if (serial)
		fprintf(stderr, "outboard: --serial pty: %s\n", serial);
	if (console)
		fprintf(stderr, "outboard: --console pty: %s\n", console);
}

static int vm_is_ready(void *arg, struct err *err)
{
	struct vmm *vmm = arg;

	announce(vmm->vm);
	return vmm->api ? 0 : confine(CONFINE_RUN, vmm->config.seccomp, err);
}

static void vm_has_ended(void *arg, enum machine_exit how)
{
	struct vmm *vmm = arg;

	vmm->asked_to_end = false;
	if (!vmm->config.no_shutdown)
		loop_quit(vmm->loop, (int)how);
}

static void vm_step(void *arg, const char *step)
{
	struct vmm *vmm = arg;

	events_tell(vmm->events, "vm", step);
}

static const struct vm_events vm_events = {
	.ready = vm_is_ready,
	.ended = vm_has_ended,
	.step = vm_step,
};

/* Of the boot that the command line asked for. */
static void first_boot_done(void *arg, int rc, const struct err *err)
{
	struct vmm *vmm = arg;

	if (rc && rc != VM_OVERTAKEN) {
		vmm->err = *err;
		loop_quit(vmm->loop, MACHINE_EXIT_FAILED);
	}
}

struct vm *vmm_vm(struct vmm *vmm)
{
	return vmm->vm;
}

int vmm_create_vm(struct vmm *vmm, struct vm_config *config, struct err *err)
{
	return vm_new(vmm->loop, vmm->spawner, vmm->closer, config, &vm_events, vmm, &vmm->vm, err);
}

void vmm_delete_vm(struct vmm *vmm)
{
	vm_free(vmm->vm);
	vmm->vm = NULL;
	events_tell(vmm->events, "vm", "deleted");
}

static void answers_sent(void *arg)
{
	struct vmm *vmm = arg;

	loop_quit(vmm->loop, MACHINE_EXIT_OK);
}

void vmm_shutdown(struct vmm *vmm)
{
	vm_free(vmm->vm);
	vmm->vm = NULL;
	api_finish(vmm->api, answers_sent, vmm);
}

/* --- signals --- */

/*
 * The first request to end presses the power button; a guest that has no driver for it cannot
 * answer and is switched off at once. The second request does not ask.
 */
static void on_signal(void *arg, int signo)
{
	struct vmm *vmm = arg;
	enum vm_state state = vmm->vm ? vm_state(vmm->vm) : VM_SHUTDOWN;

	if (state != VM_RUNNING && vmm->api) {
		log_info("ended by signal %d", signo);
		loop_quit(vmm->loop, MACHINE_EXIT_OK);
	} else if (state != VM_RUNNING) {
		err_set(&vmm->err, -EINTR, "ended by signal %d", signo);
		loop_quit(vmm->loop, MACHINE_EXIT_FAILED);
	} else if (vmm->asked_to_end) {
		log_warn("second request to end: the guest is stopped as it is");
		loop_quit(vmm->loop, MACHINE_EXIT_FAILED);
	} else if (vm_ask_to_end(vmm->vm)) {
		log_info("power button pressed for signal %d", signo);
		vmm->asked_to_end = true;
	} else {
		log_info("the guest does not know the power button: switched off");
		loop_quit(vmm->loop, MACHINE_EXIT_OK);
	}
}

static int take_signals(struct vmm *vmm)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, 0 };
	int rc = loop_signals(vmm->loop, signals, on_signal, vmm);

	signal(SIGPIPE, SIG_IGN);
	return rc ? err_set(&vmm->err, rc, "signals: %s", strerror(-rc)) : 0;
}

/* --- the API's socket --- */

static bool wants_api(const struct vmm *vmm)
{
	const struct endpoint_config *api = &vmm->config.api_socket;

	return api->path || api->fd != CONFIG_NO_FD;
}

/* An inherited descriptor: what is it? Gives it, or -errno with a text. */
static int inherited_listener(int fd, struct err *err)
{
	struct sockaddr_storage addr = { 0 };
	socklen_t len = sizeof(addr), int_len = sizeof(int);
	int listens = 0, type = 0, flags = fcntl(fd, F_GETFL);

	if (flags < 0 || getsockname(fd, (struct sockaddr *)&addr, &len) ||
		getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &int_len) ||
		getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &int_len) || !listens ||
		type != SOCK_STREAM || addr.ss_family != AF_UNIX)
		return err_set(err, -ENOTSOCK,
			"--api-socket: fd: expected a UNIX stream socket that listens, got %d", fd);
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_set(err, -errno, "--api-socket: fd: %s", strerror(errno));
	return fd;
}

static int open_listener(struct vmm *vmm)
{
	struct endpoint_config *api = &vmm->config.api_socket;
	int fd;

	if (!api->path)
		return inherited_listener((int)api->fd, &vmm->err);
	fd = sock_listen(api->path, API_BACKLOG, &vmm->err);
	if (fd < 0)
		return err_prefix(&vmm->err, fd, "--api-socket");
	vmm->api_path = api->path;
	return fd;
}

/* The filter is on before the first request is read. */
static int open_api(struct vmm *vmm)
{
	int fd, rc;

	if (!wants_api(vmm))
		return 0;
	fd = open_listener(vmm);
	if (fd < 0)
		return fd;
	rc = api_new(vmm, vmm->loop, fd, &vmm->api);
	if (rc)
		return err_set(&vmm->err, rc, "--api-socket: %s", strerror(-rc));
	return confine(CONFINE_BOOT, vmm->config.seccomp, &vmm->err);
}

static int open_events(struct vmm *vmm)
{
	const struct endpoint_config *where = &vmm->config.event_monitor;

	if (!where->path && where->fd == CONFIG_NO_FD)
		return 0;
	return events_new(vmm->loop, where, &vmm->events, &vmm->err);
}

/* --- life --- */

/* The machine's part of the command line, if it has one. */
static int boot_first(struct vmm *vmm)
{
	struct vm_config config;
	int rc;

	if (!vmm->config.payload.kernel && !vmm->config.payload.firmware)
		return 0;
	config_split(&vmm->config, &config);
	rc = vmm_create_vm(vmm, &config, &vmm->err);
	return rc ? rc : vm_boot(vmm->vm, first_boot_done, vmm, &vmm->err);
}

/* Early, before there is memory to copy or a filter that forbids it. */
static int open_spawner(struct vmm *vmm)
{
	if (!wants_api(vmm) && !config_wants_programs(&vmm->config))
		return 0;
	return spawner_new(vmm->loop, &vmm->spawner, &vmm->err);
}

static int begin(struct vmm *vmm)
{
	int rc = loop_new(&vmm->loop);

	if (rc)
		return err_set(&vmm->err, rc, "event loop: %s", strerror(-rc));
	rc = take_signals(vmm);
	if (!rc && worker_new(vmm->loop, "closer", &vmm->closer))
		rc = err_set(&vmm->err, -ENOMEM, "out of memory");
	if (!rc)
		rc = open_spawner(vmm);
	if (!rc)
		rc = open_events(vmm);
	events_tell(vmm->events, "vmm", "starting");
	if (!rc)
		rc = open_api(vmm);
	return rc ? rc : boot_first(vmm);
}

static void end(struct vmm *vmm)
{
	vm_free(vmm->vm);
	worker_free(vmm->closer);
	spawner_free(vmm->spawner);
	api_free(vmm->api);
	events_tell(vmm->events, "vmm", "shutdown");
	events_free(vmm->events);
	if (vmm->api_path)
		unlink(vmm->api_path);
	loop_free(vmm->loop);
	config_fini(&vmm->config);
}

int vmm_run(struct vm_config *config)
{
	struct vmm vmm = { .config = *config };
	int code;

	*config = (struct vm_config){ 0 };
	code = begin(&vmm) ? MACHINE_EXIT_FAILED : loop_run(vmm.loop);
	if (vmm.err.text[0])
		fprintf(stderr, "outboard: %s\n", vmm.err.text);
	end(&vmm);
	return code;
}
