/*
 * vcpu.h - the processors: one thread each, run, parked and reset together
 *
 * Threads are called vcpu0, vcpu1, ... as management tools expect. A thread leaves the guest to
 * serve an exit, and when it is asked to park. Parking is asynchronous: a
 * thread may be waiting, with a deadline, for a device process.
 */
#ifndef MACHINE_VCPU_H
#define MACHINE_VCPU_H

#include "base/err.h"
#include "machine/boot.h"
#include "machine/machine.h"

struct vcpus;

/* Create the vCPUs, all stopped, with their CPUID. m->bus, m->kvm and the parameters are used. */
int vcpus_new(struct machine *m, struct vcpus **out, struct err *err);
/* Ask all threads to end and wait for that. NULL is fine. */
void vcpus_free(struct vcpus *v);

/* The BSP's entry for the next vcpus_run(). 0 or -errno with a text. */
int vcpus_enter(struct vcpus *v, const struct boot_entry *entry, struct err *err);

/* Start the threads, parked. 0 or -errno with a text. */
int vcpus_start(struct vcpus *v, struct err *err);
/* Let all run. */
void vcpus_run(struct vcpus *v);
/*
 * Ask all to park. The last one that does calls parked() on its thread, which may wait with a
 * deadline and sees to it that vcpus_run() or a request to end follows. Any thread; with NULL all
 * stand until somebody asks with a function.
 */
void vcpus_park(struct vcpus *v, void (*parked)(struct machine *m));
/* Any thread: let none go on, for the end of the machine. */
void vcpus_stop(struct vcpus *v);
/*
 * All parked: tell each guest processor that its time stood still, so
 * that its watchdogs do not bark.
 */
void vcpus_tell_of_pause(struct vcpus *v);
/* All parked: put every vCPU back to its first state. 0 or -errno with a text. */
int vcpus_reset(struct vcpus *v, struct err *err);

#endif
