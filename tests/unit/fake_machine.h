/*
 * fake_machine.h - a machine with a PCI bus and without KVM (fake_kvm.h)
 */
#ifndef TESTS_FAKE_MACHINE_H
#define TESTS_FAKE_MACHINE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/loop.h"
#include "fake_kvm.h"
#include "machine/machine.h"

/* One segment, ram_size bytes of RAM, and so many vCPUs on the I/O bus. */
static inline void fake_machine_init(struct machine *m, uint64_t ram_size, unsigned nr_vcpus)
{
	struct memory_params mp = { .size = ram_size };
	struct pci_params pp = { .nr_segments = 1, .phys_bits = 40, .ram_top = ram_size };
	struct err err = { 0 };

	fake_kvm_reset();
	m->kvm.nr_slots = KVM_MAX;
	m->kvm.nr_gsi_routes = 1024;
	assert_int_equal(loop_new(&m->loop), 0);
	assert_int_equal(memory_new(&m->kvm, &mp, &m->memory, &err), 0);
	assert_int_equal(irqs_new(&m->kvm, &m->irqs), 0);
	assert_int_equal(io_bus_new(nr_vcpus, &m->bus), 0);
	assert_int_equal(pci_new(m->bus, &pp, &m->pci, &err), 0);
}

static inline void fake_machine_fini(struct machine *m)
{
	pci_free(m->pci);
	io_bus_free(m->bus);
	irqs_free(m->irqs);
	memory_free(m->memory);
	loop_free(m->loop);
}

#endif
