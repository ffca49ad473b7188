"""Interrupt remapping, and a machine that has it: its IOAPIC is not KVM's."""

import pytest

INTREMAP = ("--platform", "intremap=on")
RNG = ("--rng", "src=/dev/urandom")


def test_intremap(vmm):
    """See image/test_intremap.c."""
    vmm("intremap", *INTREMAP, *RNG).passes()


def test_intremap_is_not_there_unless_asked_for(vmm):
    guest = vmm("intremap", *RNG)
    guest.wait()
    assert "not ok 1 - there is a DMAR" in guest.out.lines, guest.said()


def test_whatever_a_guest_says_to_it(vmm):
    vmm("intremap-chaos", *INTREMAP, *RNG, words="n=20000").passes()


@pytest.mark.parametrize("test", ["acpi", "apic", "pci", "smp"])
def test_what_does_not_remap(vmm, test):
    vmm(test, *INTREMAP, cpus="2" if test == "smp" else "1").passes()


def test_lines_and_vectors_that_are_not_remapped(vmm, echo, exerciser):
    """The virtio function's line is driven here, the other's is a descriptor of its process."""
    vmm("virtio", *INTREMAP, "--generic-vhost-user", echo().option).passes()
    vmm("device", *INTREMAP, "--user-device", exerciser().option).passes()
