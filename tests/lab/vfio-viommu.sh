#!/bin/bash
#
# vfio-viommu.sh - host devices behind the guest's IOMMU: by container and by iommufd
#
# An NVMe and an e1000e with iommu=on, an edu beside them that is not. The guest's kernel maps for each transfer and unmaps
# after it (iommu.strict=1), so each byte goes through what it has mapped: if an unmap were late or a map lost, sums
# would differ or the device report errors. Then the same with a domain that bypasses, reboots, and a VMM that is killed at work.
#
# vfio-viommu-amd.sh is the same with the other IOMMU.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=vfio-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vfio-lib.sh"
lab_plan 42

if lab_outside; then
	vfio_guest
	mkdir "$work/disks"
	truncate -s 64M "$work/disks/nvme.img"
	lab_boot --iommu "${iommu:-intel}" --write "$work/disks" --timeout 900 --device nvme="$work/disks/nvme.img" \
		--device e1000e --device edu --device pair
fi

on_host()
{
	tail -c "+$(($1 * 1048576 + 1))" "$work/disks/nvme.img" | head -c "$2M" | sum_of
}

# In the guest, of the device with these numbers.
translated()
{
	ask "group $1" && [ "$(heard type)" = "$2" ] &&
		grep -q -x 'reserved 0x00000000fee00000 0x00000000feefffff msi' <(tr -d '\r' <"$work/guest.out")
}

alone()
{
	ask "[ ! -e \$pci/\$(at 1234:11e8)/iommu_group ]"
}

survives_load()
{
	ask "load nvme0n1" 240 && [ "$(heard load)" = "$(on_host 8 16)" ]
}

reboots()
{
	: >"$work/guest.out"
	! gone "$vmm_pid" && guest_type "echo b >/proc/sysrq-trigger" && guest_says '^ready' && reads "$1"
}

host_reads()
{
	vfio_unbind "$nvme" && bound "$nvme" nvme && within 20 test -b /dev/nvme0n1 &&
		[ "$(dd if=/dev/nvme0n1 bs=64k count=32 iflag=direct 2>/dev/null | sum_of)" = "$1" ]
}

edu_works()
{
	ask "edu" && [ "$(heard edu id)" = 0x010000ED ] && [ "$(heard edu 10!)" = 0x00375F00 ]
}

# behind WHAT ARG...
behind()
{
	local what=$1 sum

	shift
	check "$what: the devices are bound" vfio_bind "$nvme" "$e1000e" "$edu"
	vfio_start "iommu.passthrough=0 iommu.strict=1" "$nvme,iommu=on" "$e1000e,iommu=on" "$edu" -- --cpus 2 \
		--memory size=512M "$@"
	must "a guest has the devices" guest_says '^ready'
	check "the NVMe is translated" translated 1b36:0010 DMA
	check "so is the e1000e" translated 8086:10d3 DMA
	check "the edu is not" alone
	check "what its nvme driver writes is in the image" ask "disk_write nvme0n1 2"
	sum=$(heard wrote)
	check "byte for byte" test "$sum" = "$(on_host 0 2)"
	check "and is what it reads" reads "$sum"
	check "four writers at once get all through" survives_load
	check "the NVMe's interrupts are MSI-X" counts nvme0q PCI-MSIX
	check "the network answers" ask "net 8086:10d3"
	check "the device that is not behind works" edu_works
	check "after a reboot the mark is read" reboots "$sum"
	check "and after another" reboots "$sum"
	check "the host was asked for nothing it could not do" test ! -s "$work/vmm.log" -o "$(grep -c 'does not' "$work/vmm.log")" = 0
	check "the VMM is killed while the guest writes" killed_at_work 32
	check "the NVMe goes back to the host, which reads the mark" host_reads "$sum"

	check "the NVMe is bound again" vfio_bind "$nvme"
	vfio_start "iommu.passthrough=1" "$nvme,iommu=on" -- --cpus 2 --memory size=256M "$@"
	check "a guest that lets it pass reads the mark" bypassed "$sum"
	check "the guest ends, and outboard with 0" ends
}

bypassed()
{
	guest_says '^ready' && translated 1b36:0010 identity && reads "$1"
}

# Which of the two comes first is left to chance, and so what else is said.
group_refused()
{
	local status=0

	timeout -k 5 60 "$build/src/outboard" --kernel "$kernel" --memory size=128M --console off --serial null \
		--device "path=$sys/$pair0/,iommu=on" "path=$sys/$pair1/" </dev/null >"$work/vmm.log" 2>&1 || status=$?
	[ "$status" = 1 ] && [ "$(grep -c "in group [0-9]* of the host's IOMMU" "$work/vmm.log")" = 1 ] && nothing_open
}

behind container
behind iommufd --platform iommufd=on
check "two devices of one group are bound" vfio_bind "$pair0" "$pair1"
check "one of them alone cannot be behind the guest's IOMMU" group_refused
lab_done
