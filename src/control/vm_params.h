/*
 * vm_params.h - from what the user said to what the machine wants
 *
 * Threads: any.
 */
#ifndef CONTROL_VM_PARAMS_H
#define CONTROL_VM_PARAMS_H

#include "control/config.h"
#include "machine/machine.h"

/*
 * Fill *params (but its events) from a checked configuration, whose strings and lists it borrows. 0
 * or -ENOMEM. vm_params_fini() afterwards in both cases.
 */
int vm_params_init(struct machine_params *params, const struct vm_config *c);
void vm_params_fini(struct machine_params *params);

#endif
