/*
 * vmm.h - the program's life: at most one VM, whoever asks for it, until the end
 *
 * vmm_run() is the program; the rest is what the REST API (api.h) may do to it.
 *
 * Threads: loop thread.
 */
#ifndef CONTROL_VMM_H
#define CONTROL_VMM_H

#include "base/err.h"
#include "control/config.h"
#include "control/vm.h"

struct vmm;

/*
 * Run what the command line asks for, until it ends. Takes what config owns. The exit status; what
 * went wrong has been printed.
 */
int vmm_run(struct vm_config *config);

/* NULL: there is none. */
struct vm *vmm_vm(struct vmm *vmm);

/* There must be none. Takes what config (checked) owns. 0 or -errno with a text. */
int vmm_create_vm(struct vmm *vmm, struct vm_config *config, struct err *err);
/* There must be one. */
void vmm_delete_vm(struct vmm *vmm);

/* End the VM, and the program when what was answered has been sent. */
void vmm_shutdown(struct vmm *vmm);

#endif
