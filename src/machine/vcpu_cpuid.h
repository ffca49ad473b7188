/*
 * vcpu_cpuid.h - what the guest's processors say of themselves
 *
 * APIC ids follow the topology: bits for thread, core and die, so that ids may have gaps. Without a
 * topology all vCPUs are cores of one package.
 */
#ifndef MACHINE_VCPU_CPUID_H
#define MACHINE_VCPU_CPUID_H

#include <linux/kvm.h>
#include <stdint.h>

#include "base/err.h"
#include "machine/kvm.h"
#include "machine/machine.h"

/* The APIC id of a vCPU. */
unsigned cpuid_apic_id(const struct vcpu_topology *t, unsigned vcpu);

struct cpuid_params {
	struct vcpu_topology topology;
	unsigned nr_vcpus; /* of which max_vcpus */
	unsigned phys_bits;
};

struct cpuid;

/*
 * What this KVM supports, with what is the same for all vCPUs filled in. 0 or -errno with a text.
 */
int cpuid_new(const struct kvm *kvm, const struct cpuid_params *p, struct cpuid **out,
	struct err *err);
void cpuid_free(struct cpuid *c);

/* Fill in one vCPU's ids and give it to KVM. 0 or -errno. */
int cpuid_set(struct cpuid *c, int vcpu_fd, unsigned vcpu);

/* The physical address bits that a guest gets: the host's, at most max (0: the default). */
unsigned cpuid_phys_bits(const struct kvm *kvm, unsigned max);

#endif
