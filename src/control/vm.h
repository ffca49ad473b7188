/*
 * vm.h - one virtual machine made from a struct vm_config, as users command it
 *
 *            vm_boot()                      vm_pause()
 *   CREATED ----------> (BOOTING) -> RUNNING ---------> PAUSED
 *      ^                    |           ^ vm_resume() <---'
 *      |                    v           |
 *      '--- failed     SHUTDOWN <-------'  vm_shutdown(), or the guest's own end
 *
 * Everything here returns at once. What takes time ends in a callback from the top of the loop:
 * devices connect, vCPUs leave what they are in, a reset waits for device processes. One such
 * request is under way at a time; vm_shutdown(), vm_free() and the guest's own end break it off,
 * and its callback then says so.
 *
 * A request that the state does not allow fails with VM_WRONG_STATE and a text, and nothing
 * happens.
 *
 * Threads: loop thread, all of it.
 */
#ifndef CONTROL_VM_H
#define CONTROL_VM_H

#include <errno.h>

#include "attach/device.h"
#include "base/loop.h"
#include "base/worker.h"
#include "base/sock.h"
#include "control/config.h"
#include "control/spawner.h"
#include "machine/machine.h"

/* A negative errno that nothing else returns here. */
#define VM_WRONG_STATE (-EBADFD)
/* What becomes of a request that somebody's end overtakes. No request fails with it by itself. */
#define VM_OVERTAKEN (-EOWNERDEAD)

enum vm_state {
	VM_CREATED, /* a configuration, and nothing else */
	VM_BOOTING, /* devices connect */
	VM_RUNNING,
	VM_PAUSED,
	VM_SHUTDOWN, /* as VM_CREATED, but it has run */
};

/* "Created", "Running", ... as REST clients know them; BOOTING is Created to them. */
const char *vm_state_name(enum vm_state state);

struct vm_events {
	/*
	 * The machine is complete, its threads stand: the last moment before the guest's first
	 * instruction. 0; or -errno with a text to give up. May be NULL.
	 */
	int (*ready)(void *arg, struct err *err);
	/* The guest has come to its end by itself, the state is VM_SHUTDOWN. vm_free() is allowed
	 * here. */
	void (*ended)(void *arg, enum machine_exit how);
	/* A step, for those who watch: "booting", "booted", "pausing", "paused", ... May be NULL.
	 */
	void (*step)(void *arg, const char *step);
};

/* A request has ended: 0, or -errno and a text in err. Once. The VM must not be freed here. */
typedef void (*vm_done_fn)(void *arg, int rc, const struct err *err);

struct vm;

/*
 * Takes what config (checked, see options_check()) owns and leaves it empty, also on failure. loop,
 * spawner (NULL: config_wants_programs() is false), closer and events are borrowed. What closer is
 * given may outlive the VM; a boot waits for it. Gives *out. 0 or -ENOMEM with a text.
 */
int vm_new(struct loop *loop, struct spawner *spawner, struct worker *closer,
	struct vm_config *config, const struct vm_events *events, void *arg, struct vm **out,
	struct err *err);

/* In any state; first as vm_shutdown(). NULL is fine. */
void vm_free(struct vm *vm);

enum vm_state vm_state(const struct vm *vm);
const struct vm_config *vm_config(const struct vm *vm);
/*
 * The configuration, to be changed before the next boot; who changes it sees to it that
 * options_check() holds. From CREATED or SHUTDOWN. NULL with a text in err.
 */
struct vm_config *vm_change(struct vm *vm, const char *what, struct err *err);
/* Keep received descriptors that the configuration names, as long as the VM exists. 0; or -ENOSPC,
 * nothing is taken. */
int vm_keep_fds(struct vm *vm, struct fd_list *fds, struct err *err);
/* Close one that is kept; another one is left alone. */
void vm_release_fd(struct vm *vm, int fd);
/* The name of the serial port's, and of the console's, pseudo-terminal, or NULL. */
const char *vm_serial_pty(const struct vm *vm);
const char *vm_console_pty(const struct vm *vm);
/* Devices, none unless the machine exists. */
size_t vm_nr_devices(const struct vm *vm);
const struct device *vm_device(const struct vm *vm, size_t i);

/* From CREATED or SHUTDOWN. 0: done() follows, on success in RUNNING. Else -errno with a text. */
int vm_boot(struct vm *vm, vm_done_fn done, void *arg, struct err *err);
/* From RUNNING. Likewise. */
int vm_pause(struct vm *vm, vm_done_fn done, void *arg, struct err *err);
/* From PAUSED. 0 or VM_WRONG_STATE with a text. */
int vm_resume(struct vm *vm, struct err *err);
/* From RUNNING: reset in place; done() when the guest begins again. Likewise. */
int vm_reboot(struct vm *vm, vm_done_fn done, void *arg, struct err *err);
/*
 * From BOOTING, RUNNING, PAUSED: off, as by the switch. Waits only until the vCPUs have left the
 * guest; all that they could be waiting for is hung up on. 0 or VM_WRONG_STATE with a text.
 */
int vm_shutdown(struct vm *vm, struct err *err);
/* From RUNNING. 0; VM_WRONG_STATE; -EOPNOTSUPP the guest does not know the button; with a text. */
int vm_power_button(struct vm *vm, struct err *err);
/* From RUNNING: the button, and a reset of the guest's from now on is an end. False: nobody would
 * hear of it. */
bool vm_ask_to_end(struct vm *vm);
/* From RUNNING. 0 or -errno with a text. */
int vm_nmi(struct vm *vm, struct err *err);

#endif
