"""The guest's IOMMU: what a guest may say to it, and what it is answered."""

RNG = ("--rng", "src=/dev/urandom,iommu=on")


def test_viommu(vmm):
    """See image/test_viommu.c."""
    guest = vmm("viommu", *RNG)
    guest.passes()
    assert any("does not accept ACCESS_PLATFORM" in line for line in guest.err.lines), guest.said()


def test_viommu_beside_a_device_that_is_not_behind_it(vmm, gpio):
    vmm("viommu", *RNG, "--user-device", gpio().option).passes()


def test_many_mappings(vmm):
    """As many as there can be, told to a device; then all of them go at once."""
    guest = vmm("viommu-many", *RNG, words="n=100000")
    guest.passes()
