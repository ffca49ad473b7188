/*
 * vcpu_state.h - the register state of a vCPU: as created, and as a boot entry wants it
 */
#ifndef MACHINE_VCPU_STATE_H
#define MACHINE_VCPU_STATE_H

#include <linux/kvm.h>

#include "machine/boot.h"
#include "machine/kvm.h"

/* What a vCPU was like before it ran for the first time. */
struct vcpu_state;

/* 0 or -errno; gives *out. */
int vcpu_state_capture(const struct kvm *kvm, int vcpu_fd, struct vcpu_state **out);
/* Put a vCPU back. 0 or -errno. */
int vcpu_state_restore(const struct vcpu_state *s, int vcpu_fd);
void vcpu_state_free(struct vcpu_state *s);

/* Make a vCPU in its first state enter a loaded image (boot.h). 0 or -errno. */
int vcpu_state_enter(int vcpu_fd, const struct boot_entry *entry);

#endif
