#!/bin/bash
#
# vfio.sh - real devices of the host in a guest: by container and by iommufd, with every kind of interrupt
#
# One L1 with all the devices the lab has, all of them in each guest: an NVMe (MSI-X), an e1000e (MSI-X), an AHCI with a
# disk (MSI), a virtual function of an igb (MSI-X), an e1000 behind a bridge (its line, and only a bus to reset), two edu (their
# lines, and no reset at all), one of these in a group with another e1000. Then a guest that may use no MSI. What the
# guest writes is compared with the image on the machine outside, and what its lspci says with what the host's does.
#
# vfio-amd.sh is the same with the other IOMMU.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=vfio-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vfio-lib.sh"
lab_plan 51

if lab_outside; then
	need lspci=pciutils /usr/share/misc/pci.ids=pci.ids
	mapfile -t lspci < <(with_libraries "$(command -v lspci)")
	vfio_guest "${lspci[@]}" --file /usr/share/misc/pci.ids:/usr/share/misc/pci.ids
	mkdir "$work/disks"
	truncate -s 64M "$work/disks/nvme.img"
	head -c 1M /dev/urandom >"$work/disks/sata.img"
	truncate -s 16M "$work/disks/sata.img"
	lab_boot --iommu "$iommu" --memory 2560 --write "$work/disks" --timeout 600 --device nvme="$work/disks/nvme.img" \
		--device e1000e --device edu --device ahci="$work/disks/sata.img" --device pair --device igb --device e1000
fi

# on_host IMAGE MIB: the sum of an image's first MIB, read on the machine outside.
on_host()
{
	head -c "$2M" "$work/disks/$1.img" | sum_of
}

wrote_nvme()
{
	ask "disk_write nvme0n1 2" && [ "$(heard wrote)" = "$(on_host nvme 2)" ]
}

reads_nvme()
{
	ask "disk_read nvme0n1 2" && [ "$(heard read)" = "$(on_host nvme 2)" ]
}

reads_sata()
{
	ask "disk_read sda 1" && [ "$(heard read)" = "$(on_host sata 1)" ]
}

edu_works()
{
	ask "edu $1" && [ "$(heard edu id)" = 0x010000ED ] && [ "$(heard edu not)" = 0xEDCBA987 ] &&
		[ "$(heard edu 5!)" = 0x00000078 ] && [ "$(heard edu 10!)" = 0x00375F00 ] &&
		[ "$(tr -d '\r' <"$work/guest.out" | grep -c -x -e 'edu interrupts [12]')" = 2 ]
}

same_rom()
{
	ask "rom 8086:10d3" && [ "$(heard rom)" = "$rom" ]
}

# Each of the host's lines is one of the guest's, but for the addresses.
lists_all()
{
	local device

	ask "lspci -nn" || return
	tr -d '\r' <"$work/guest.out" | grep -E '^[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] ' >"$work/lspci"
	sed 's/^/# /' "$work/lspci"
	for device in "${all[@]}"; do
		lspci -nn -s "$device"
	done | without_address >"$work/expected"
	[ "$(wc -l <"$work/expected")" = ${#all[@]} ] &&
		[ -z "$(without_address <"$work/lspci" | comm -23 "$work/expected" -)" ]
}

without_address()
{
	cut -d' ' -f2- | sort
}

# all_devices WHAT ARG...: everything at once.
all_devices()
{
	local what=$1

	shift
	vfio_start "" "${all[@]}" -- --cpus 2 --memory size=512M "$@"
	must "$what: a guest has all the devices" guest_says '^ready'
	check "its lspci lists them as the host's does" lists_all
	check "what its nvme driver writes is in the image" wrote_nvme
	check "and is what it reads" reads_nvme
	check "the NVMe's interrupts are MSI-X" counts nvme0q PCI-MSIX
	check "the network answers through the e1000e" ask "net 8086:10d3"
	check "its interrupts are MSI-X" interrupts PCI-MSIX
	check "the AHCI's disk reads as it is" reads_sata
	check "its interrupts are MSI" counts ahci PCI-MSI
	check "the network answers through a virtual function" ask "net 8086:10ca"
	check "its interrupts are MSI-X" interrupts PCI-MSIX
	check "the network answers through a device behind a bridge" ask "net 8086:100e"
	check "its interrupts are those of a line" interrupts IO-APIC
	check "a device that cannot be reset works, with its line" edu_works 1
	check "the network answers through one of a group's two devices" ask "net 8086:100e 2"
	check "the other one works, too" edu_works 2
	check "a ROM is what it is on the host" same_rom
	check "the guest ends, and outboard with 0" ends
}

# without_msi WHAT ARG...
without_msi()
{
	local what=$1

	shift
	vfio_start "pci=nomsi" "$nvme" "$e1000e" "$ahci" -- --cpus 2 --memory size=256M "$@"
	must "$what, without MSI: a guest has its devices" guest_says '^ready'
	check "what its nvme driver writes is in the image" wrote_nvme
	check "the NVMe's interrupts are those of a line" counts nvme0q IO-APIC
	check "the AHCI's disk reads as it is" reads_sata
	check "the network answers through the e1000e" ask "net 8086:10d3"
	check "its interrupts are those of a line" interrupts IO-APIC
	check "the guest ends, and outboard with 0" ends
}

echo 1 >$sys/$e1000e/rom && rom=$(sum_of <$sys/$e1000e/rom) && echo 0 >$sys/$e1000e/rom
all=("$nvme" "$e1000e" "$edu" "$ahci" "$(vfio_vf)" "$(below $bridge)" "$pair0" "$pair1")
check "each device is bound" vfio_bind "${all[@]}"

all_devices container
all_devices iommufd --platform iommufd=on

without_msi container
without_msi iommufd --platform iommufd=on
lab_done
