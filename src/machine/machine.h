/*
 * machine.h - one virtual machine: its parts, its life and its end
 *
 * The machine is built on the main thread (machine_new), devices are attached to its
 * PCI segments, then machine_start() loads the guest and sets the vCPUs going. From then on the
 * main thread serves the loop. What ends a run, a guest's shutdown, a reset, a failure, is posted
 * to the loop by whoever sees it; resets are carried out there, in place.
 */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "machine/io.h"
#include "machine/irq.h"
#include "machine/kvm.h"
#include "machine/memory.h"
#include "machine/pci.h"

struct boot;
struct intremap;
struct iommu;
struct platform;
struct serial;
struct vcpus;

struct vcpu_topology {
	/* per core, per die, per package, in all; all 0: not given */
	unsigned threads, cores, dies, packages;
};

/* A vCPU that may run on the listed host CPUs only. */
struct vcpu_cpus {
	unsigned vcpu;
	const uint32_t *cpus;
	size_t nr;
};

/* How a machine came to its end, as an exit status. */
enum machine_exit { MACHINE_EXIT_OK = 0, MACHINE_EXIT_FAILED = 1 };

/* What its owner is told, on the loop thread, from the top of the loop. */
struct machine_events {
	/* machine_pause() is done: all vCPUs stand. */
	void (*paused)(void *arg);
	/* A reset is done: the guest begins anew, in place. */
	void (*was_reset)(void *arg);
	/* The guest goes on no more. The machine may be freed here. */
	void (*ended)(void *arg, enum machine_exit how);
};

struct machine_params {
	struct memory_params memory;
	unsigned boot_vcpus, max_vcpus;
	struct vcpu_topology topology;
	unsigned max_phys_bits; /* 0: LAYOUT_DEFAULT_PHYS_BITS */
	const struct vcpu_cpus *affinity;
	unsigned nr_affinity;
	unsigned nr_segments;
	bool intremap; /* the guest has interrupt remapping units */
	const char *kernel, *firmware, *initramfs, *cmdline; /* borrowed; NULL: none */
	bool has_serial;
	unsigned serial_mode; /* enum serial_mode */
	const char *serial_path;
	const struct machine_events *events; /* all of them set */
	void *events_arg;
};

struct machine {
	struct loop *loop;
	struct kvm kvm;
	struct memory *memory;
	struct io_bus *bus;
	struct irqs *irqs;
	struct intremap *intremap; /* NULL: none */
	struct irq_remapper remapper;
	struct pci *pci;
	struct iommu *iommu;   /* the guest's; NULL: none. Borrowed, as are */
	const char *iommu_bdf; /* the address of its function */
	struct vcpus *vcpus;
	struct platform *platform;
	struct serial *serial; /* NULL: none */
	struct boot *boot;
	const struct machine_params *params;
	unsigned phys_bits;

	/*
	 * What a vCPU thread wants done on the loop thread. Posted
	 * once; the first wish of a run wins.
	 */
	struct loop_work reset_work, reset_done_work, shutdown_work, failure_work, paused_work;
	struct log_limit reset_limit;
	bool ending;	/* the guest was asked to end; loop thread */
	bool pausing;	/* it is to stand; loop thread */
	bool standing;	/* it does; loop thread */
	bool clock_saved;
	uint64_t clock; /* the guest's kvmclock when it came to a stand */
	bool resetting; /* vCPUs are parking or parked for a reset; atomic */
};

/*
 * Build everything but devices and guest image. loop and params are
 * borrowed. 0 or -errno with a text.
 */
int machine_new(struct loop *loop, const struct machine_params *params, struct machine **out,
	struct err *err);
/* Let the guest not go on. Waits for nothing: vCPUs may still be inside a device. For good. */
void machine_halt(struct machine *m);
/*
 * Halts, waits until each vCPU has left what it was in. Devices must have been freed. NULL is fine.
 */
void machine_free(struct machine *m);

/* Load the guest and start the vCPUs' threads, parked. 0 or -errno with a text. */
int machine_start(struct machine *m, struct err *err);
/* Let the guest run. */
void machine_run(struct machine *m);

/*
 * Let the vCPUs stand; events->paused() follows when all do, unless the guest ends before. A guest
 * that resets meanwhile stands when that is done. Loop thread.
 */
void machine_pause(struct machine *m);
/* After paused(): go on. The guest's kvmclock is the one it had. Loop thread. */
void machine_resume(struct machine *m);

/*
 * KVM could not reach some memory of the guest. Each function checks what it has laid into
 * the guest's memory. True if one took something out: the access can be tried again. vCPU thread.
 */
bool machine_memory_fault(struct machine *m);

/*
 * Any thread: the guest asked for a reset / switched itself off /
 * cannot go on (logged by the caller).
 */
void machine_request_reset(struct machine *m);
void machine_request_shutdown(struct machine *m);
void machine_request_failure(struct machine *m);

/*
 * Loop thread: press the power button. False: the guest has no driver for it, or is being reset, so
 * nobody would hear of it.
 */
bool machine_power_button(struct machine *m);
/* Loop thread: a non-maskable interrupt for every vCPU. 0 or -errno. */
int machine_nmi(struct machine *m);

/*
 * Loop thread: press the power button, and take a reset for an end from now on. False as
 * machine_power_button().
 */
bool machine_ask_to_end(struct machine *m);

#endif
