/*
 * vm.c - the states of a virtual machine, and who waits for the next one
 *
 * The machine (machine/machine.h) and its devices exist from the beginning of a boot until the end
 * of the run. Both are freed in one place, tear_down(), in the one order that waits for nobody: the
 * vCPUs are told to stop, devices are hung up on, so that whoever waits for one comes back, then
 * the machine is freed.
 *
 * Owns:    configuration, machine, devices.
 * Threads: loop thread.
 */
#include "control/vm.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/fd_drop.h"
#include "control/vm_devices.h"
#include "control/vm_params.h"
#include "machine/serial.h"

/* The request under way. */
struct pending {
	const char *what; /* NULL: none */
	vm_done_fn done;
	void *arg;
};

struct vm {
	struct loop *loop;
	struct spawner *spawner;
	struct worker *closer;
	const struct vm_events *events;
	void *arg;
	struct vm_config config;
	struct fd_list fds; /* that config names, when they came from a client */
	enum vm_state state;
	struct pending pending;

	struct machine_params params;
	struct machine *machine;
	struct vm_devices *devices;
};

const char *vm_state_name(enum vm_state state)
{
	static const char *const names[] = {
		[VM_CREATED] = "Created",
		[VM_BOOTING] = "Created",
		[VM_RUNNING] = "Running",
		[VM_PAUSED] = "Paused",
		[VM_SHUTDOWN] = "Shutdown",
	};

	return names[state];
}

/* --- requests --- */

static int refuse(const struct vm *vm, const char *what, struct err *err)
{
	if (vm->pending.what)
		return err_set(err, VM_WRONG_STATE, "%s: %s is under way", what, vm->pending.what);
	return err_set(err, VM_WRONG_STATE, "%s: the VM is %s", what,
		vm->state == VM_CREATED	  ? "not booted"
		: vm->state == VM_RUNNING ? "running"
		: vm->state == VM_PAUSED  ? "paused"
					  : "shut down");
}

static void expect(struct vm *vm, const char *what, vm_done_fn done, void *arg)
{
	assert(!vm->pending.what);
	vm->pending = (struct pending){ what, done, arg };
}

static void done(struct vm *vm, int rc, const struct err *err)
{
	struct pending p = vm->pending;

	vm->pending = (struct pending){ 0 };
	if (p.what)
		p.done(p.arg, rc, err);
}

/* As done(), for the request that somebody's end has overtaken. */
static void break_off(struct vm *vm, const char *why)
{
	struct err err = { 0 };
	int rc = VM_OVERTAKEN;

	if (vm->pending.what)
		rc = err_set(&err, rc, "%s: %s", vm->pending.what, why);
	done(vm, rc, &err);
}

static void tell(const struct vm *vm, const char *step)
{
	if (vm->events->step)
		vm->events->step(vm->arg, step);
}

static void tear_down(struct vm *vm)
{
	if (vm->spawner)
		spawner_when_ended(vm->spawner, NULL, NULL);
	worker_when_idle(vm->closer, NULL, NULL);
	if (vm->machine)
		machine_halt(vm->machine);
	vm_devices_free(vm->devices);
	vm->devices = NULL;
	machine_free(vm->machine);
	vm->machine = NULL;
	vm_params_fini(&vm->params);
}

/* --- what the machine says --- */

static void paused(void *arg)
{
	struct vm *vm = arg;

	vm->state = VM_PAUSED;
	tell(vm, "paused");
	done(vm, 0, NULL);
}

static void was_reset(void *arg)
{
	struct vm *vm = arg;
	bool ours = vm->pending.done && !strcmp(vm->pending.what, "vm.reboot");

	tell(vm, "rebooted");
	if (ours)
		done(vm, 0, NULL);
}

static void ended(void *arg, enum machine_exit how)
{
	struct vm *vm = arg;
	const struct vm_events *events = vm->events;
	void *events_arg = vm->arg;

	vm->state = VM_SHUTDOWN;
	tear_down(vm);
	tell(vm, "shutdown");
	break_off(vm, how == MACHINE_EXIT_OK ? "the guest has shut down" : "the guest has failed");
	events->ended(events_arg, how);
}

static const struct machine_events machine_events = {
	.paused = paused,
	.was_reset = was_reset,
	.ended = ended,
};

/* --- boot --- */

static void boot_ended(struct vm *vm, int rc, const struct err *err)
{
	vm->state = rc ? VM_CREATED : VM_RUNNING;
	if (rc) {
		tear_down(vm);
	} else {
		machine_run(vm->machine);
		tell(vm, "booted");
	}
	done(vm, rc, err);
}

static void devices_done(void *arg, int rc, const struct err *why)
{
	struct vm *vm = arg;
	struct err err = { 0 };

	if (rc)
		err = *why;
	else
		rc = machine_start(vm->machine, &err);
	if (!rc && vm->events->ready)
		rc = vm->events->ready(vm->arg, &err);
	boot_ended(vm, rc, &err);
}

static int begin_boot(struct vm *vm, struct err *err)
{
	int rc = vm_params_init(&vm->params, &vm->config);

	if (rc)
		return err_set(err, rc, "out of memory");
	vm->params.events = &machine_events;
	vm->params.events_arg = vm;
	rc = machine_new(vm->loop, &vm->params, &vm->machine, err);
	if (!rc)
		rc = vm_devices_begin(vm->machine, vm->spawner, vm->closer, &vm->config,
			devices_done, vm, &vm->devices, err);
	return rc;
}

/*
 * Programs of the run before hold what this one wants, a tap for one, until they have ended; and
 * host devices are in use until they are closed. True: fn comes when one of these has an end.
 */
static bool wait_for_last_run(struct vm *vm, void (*fn)(void *arg))
{
	if (vm->spawner && spawner_ending(vm->spawner))
		spawner_when_ended(vm->spawner, fn, vm);
	else if (worker_busy(vm->closer))
		worker_when_idle(vm->closer, fn, vm);
	else
		return false;
	return true;
}

static void boot_now(void *arg)
{
	struct vm *vm = arg;
	struct err err = { 0 };
	int rc;

	if (wait_for_last_run(vm, boot_now))
		return;
	rc = begin_boot(vm, &err);
	if (rc)
		boot_ended(vm, rc, &err);
}

int vm_boot(struct vm *vm, vm_done_fn fn, void *arg, struct err *err)
{
	int rc = 0;

	if (vm->state != VM_CREATED && vm->state != VM_SHUTDOWN)
		return refuse(vm, "vm.boot", err);
	tell(vm, "booting");
	if (!wait_for_last_run(vm, boot_now))
		rc = begin_boot(vm, err);
	if (rc) {
		tear_down(vm);
		return rc;
	}
	vm->state = VM_BOOTING;
	expect(vm, "vm.boot", fn, arg);
	return 0;
}

/* --- the other requests --- */

static int check_running(const struct vm *vm, const char *what, struct err *err)
{
	return vm->state != VM_RUNNING || vm->pending.what ? refuse(vm, what, err) : 0;
}

int vm_pause(struct vm *vm, vm_done_fn fn, void *arg, struct err *err)
{
	int rc = check_running(vm, "vm.pause", err);

	if (rc)
		return rc;
	expect(vm, "vm.pause", fn, arg);
	tell(vm, "pausing");
	machine_pause(vm->machine);
	return 0;
}

int vm_resume(struct vm *vm, struct err *err)
{
	if (vm->state != VM_PAUSED)
		return refuse(vm, "vm.resume", err);
	tell(vm, "resuming");
	vm->state = VM_RUNNING;
	machine_resume(vm->machine);
	tell(vm, "resumed");
	return 0;
}

int vm_reboot(struct vm *vm, vm_done_fn fn, void *arg, struct err *err)
{
	int rc = check_running(vm, "vm.reboot", err);

	if (rc)
		return rc;
	expect(vm, "vm.reboot", fn, arg);
	tell(vm, "rebooting");
	machine_request_reset(vm->machine);
	return 0;
}

int vm_shutdown(struct vm *vm, struct err *err)
{
	if (vm->state == VM_CREATED || vm->state == VM_SHUTDOWN)
		return refuse(vm, "vm.shutdown", err);
	vm->state = VM_SHUTDOWN;
	tear_down(vm);
	tell(vm, "shutdown");
	break_off(vm, "the VM was shut down");
	return 0;
}

int vm_power_button(struct vm *vm, struct err *err)
{
	if (vm->state != VM_RUNNING)
		return refuse(vm, "vm.power-button", err);
	if (!machine_power_button(vm->machine))
		return err_set(err, -EOPNOTSUPP,
			"vm.power-button: the guest has no driver for it (yet), it would hear nothing");
	return 0;
}

bool vm_ask_to_end(struct vm *vm)
{
	return vm->state == VM_RUNNING && machine_ask_to_end(vm->machine);
}

int vm_nmi(struct vm *vm, struct err *err)
{
	int rc;

	if (vm->state != VM_RUNNING)
		return refuse(vm, "vm.nmi", err);
	rc = machine_nmi(vm->machine);
	return rc ? err_set(err, rc, "vm.nmi: %s", strerror(-rc)) : 0;
}

/* --- life --- */

int vm_new(struct loop *loop, struct spawner *spawner, struct worker *closer,
	struct vm_config *config, const struct vm_events *events, void *arg, struct vm **out,
	struct err *err)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm) {
		config_fini(config);
		return err_set(err, -ENOMEM, "out of memory");
	}
	vm->loop = loop;
	vm->spawner = spawner;
	vm->closer = closer;
	vm->events = events;
	vm->arg = arg;
	vm->config = *config;
	*config = (struct vm_config){ 0 };
	*out = vm;
	return 0;
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	vm_shutdown(vm, NULL);
	config_fini(&vm->config);
	fd_drop_list(&vm->fds);
	free(vm);
}

enum vm_state vm_state(const struct vm *vm)
{
	return vm->state;
}

const struct vm_config *vm_config(const struct vm *vm)
{
	return &vm->config;
}

struct vm_config *vm_change(struct vm *vm, const char *what, struct err *err)
{
	if (vm->state == VM_CREATED || vm->state == VM_SHUTDOWN)
		return &vm->config;
	refuse(vm, what, err);
	return NULL;
}

int vm_keep_fds(struct vm *vm, struct fd_list *fds, struct err *err)
{
	if (vm->fds.nr + fds->nr > SOCK_MAX_FDS)
		return err_set(err, -ENOSPC, "more than %d descriptors for one VM", SOCK_MAX_FDS);
	while (fds->nr)
		vm->fds.fds[vm->fds.nr++] = fd_list_take(fds);
	return 0;
}

void vm_release_fd(struct vm *vm, int fd)
{
	for (int i = 0; i < vm->fds.nr; i++)
		if (vm->fds.fds[i] == fd) {
			fd_drop(vm->fds.fds[i]);
			vm->fds.fds[i] = vm->fds.fds[--vm->fds.nr];
			return;
		}
}

const char *vm_serial_pty(const struct vm *vm)
{
	return vm->machine && vm->machine->serial ? serial_pty_path(vm->machine->serial) : NULL;
}

const char *vm_console_pty(const struct vm *vm)
{
	return vm->devices ? vm_devices_console_pty(vm->devices) : NULL;
}

size_t vm_nr_devices(const struct vm *vm)
{
	return vm->devices ? vm_devices_nr(vm->devices) : 0;
}

const struct device *vm_device(const struct vm *vm, size_t i)
{
	return vm_devices_at(vm->devices, i);
}
