#!/bin/bash
#
# vfio-noiommu.sh - host devices where there is no IOMMU: only if the user says that it is meant
#
# The device is the one for teaching, whose DMA nobody starts: without an IOMMU it would go to the host's memory.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=vfio-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vfio-lib.sh"
lab_plan 7

if lab_outside; then
	vfio_guest
	lab_boot --iommu none --timeout 300 --device edu
fi

not_bound()
{
	! vfio_bind "$edu" && ! bound "$edu" vfio-pci
}

by_override()
{
	echo vfio-pci >"$sys/$edu/driver_override" && echo "$edu" >/sys/bus/pci/drivers_probe && bound "$edu" vfio-pci
}

check "the helper does not bind where there is no IOMMU" not_bound
check "a device without a group" refused "$edu has no IOMMU group" --device "path=$sys/$edu/"
echo 1 >/sys/module/vfio/parameters/enable_unsafe_noiommu_mode
check "with the kernel's mode for that it is bound by hand" by_override
check "the device is refused all the same" refused "$edu has no IOMMU, .*vfio_unsafe_noiommu=on" --device "path=$sys/$edu/"
vfio_start "" "$edu" -- --memory size=128M --platform vfio_unsafe_noiommu=on
check "but not to who asks for it" guest_says '^ready'
check "its registers and its line work" ask edu
guest_type "poweroff -f"
check "the guest ends, and outboard with 0" vmm_wait 60
lab_done
