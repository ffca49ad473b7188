/*
 * vm_devices.h - the devices of one machine, of all routes: attach them, plug them, end them
 *
 * Which routes there are is the table routes[] in vm_devices.c. To add one: a function
 *
 *   static int begin_my_devices(struct vm_devices *d, const struct vm_config *c, struct err *err)
 *
 * that starts the attach of each of its devices, with vm_device_attached as the callback and d as
 * its argument, and hands each struct device to add_device(); and its row in routes[]. The rest,
 * waiting for all, the order of plugging, giving up, the end, is done here for every route.
 *
 * Threads: loop thread, all of it.
 */
#ifndef CONTROL_VM_DEVICES_H
#define CONTROL_VM_DEVICES_H

#include "attach/device.h"
#include "control/config.h"
#include "base/worker.h"
#include "control/spawner.h"
#include "machine/machine.h"

struct vm_devices;

/*
 * All are attached and plugged (rc 0), or one failed and err says
 * why. Once, from the loop. May free.
 */
typedef void (*vm_devices_done_fn)(void *arg, int rc, const struct err *err);

/*
 * Start the attach of every device in c. m, spawner (NULL: config_wants_programs() is false) and c
 * are borrowed until vm_devices_free(), after which closer may still be giving devices back. Gives
 * *out. 0: done() will be called; else -errno with a text, and it will not.
 */
int vm_devices_begin(struct machine *m, struct spawner *spawner, struct worker *closer,
	const struct vm_config *c,
	vm_devices_done_fn done, void *arg, struct vm_devices **out, struct err *err);

/* How many there are, and each of them: attached or not. */
size_t vm_devices_nr(const struct vm_devices *d);
const struct device *vm_devices_at(const struct vm_devices *d, size_t i);

/* The name of the console's pseudo-terminal, or NULL. */
const char *vm_devices_console_pty(const struct vm_devices *d);

/* Hang up on all, also in the middle of an attach: done() is not called then. NULL is fine. */
void vm_devices_free(struct vm_devices *d);

#endif
