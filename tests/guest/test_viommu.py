"""The guest's IOMMU: what a guest may say to it, and what it is answered."""

import os
import signal

from harness import children_of

RNG = ("--rng", "src=/dev/urandom,iommu=on")


def test_viommu(vmm):
    """See image/test_viommu.c."""
    guest = vmm("viommu", *RNG)
    guest.passes()
    assert any("does not accept ACCESS_PLATFORM" in line for line in guest.err.lines), guest.said()


def test_viommu_beside_a_device_that_is_not_behind_it(vmm, gpio):
    vmm("viommu", *RNG, "--user-device", gpio().option).passes()


def test_many_mappings(vmm):
    """As many as there can be, told to a device, and to its successor; then all of them go at once."""
    guest = vmm("viommu-many", *RNG, words="n=100000")
    guest.out.wait("^# all are told")
    (spawner,) = children_of(guest.pid)
    (process,) = children_of(spawner)
    os.kill(process, signal.SIGKILL)
    guest.passes()


def test_a_killed_process_is_told_of_all_mappings_again(vmm):
    """While the guest maps, uses and unmaps a page, again and again."""
    guest = vmm("viommu-kill", *RNG)
    index = 0
    for rounds in (100, 200, 300, 400):
        index, _ = guest.out.wait(f"^# {rounds} rounds", index)
        (spawner,) = children_of(guest.pid)
        (process,) = children_of(spawner)
        os.kill(process, signal.SIGKILL)
    guest.passes()
