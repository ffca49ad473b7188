/*
 * kvm.h - /dev/kvm, the VM descriptor and what they can do
 */
#ifndef MACHINE_KVM_H
#define MACHINE_KVM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct kvm {
	int fd;	   /* /dev/kvm */
	int vm_fd; /* the virtual machine */
	size_t run_size;
	unsigned nr_slots;
	unsigned nr_gsi_routes;
	unsigned max_vcpus;
	bool ioeventfd_any_length; /* an ioeventfd of length 0 is one for every length */
	/* local APICs only: the IOAPIC is the VMM's, destinations have 32 bits */
	bool split_irqchip;
	bool host_is_amd; /* or Hygon: the HyperTransport hole applies */
	/* KVM without hardware virtualisation: only guests that enter in long mode run */
	bool host_is_pvm;
	unsigned host_phys_bits;
};

/*
 * Open /dev/kvm, check it, create the VM with the in-kernel interrupt
 * controllers (local APICs and IOAPIC). 0 or -errno with a text that says what to
 * do (module, group). kvm_close() works on a zeroed object.
 */
int kvm_open(struct kvm *kvm, struct err *err);
/* The same with local APICs alone, as interrupt remapping needs it. */
int kvm_open_split(struct kvm *kvm, struct err *err);
void kvm_close(struct kvm *kvm);

/* ioctl on the VM descriptor. The result or -errno. */
int kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *arg);

#endif
