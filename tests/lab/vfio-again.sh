#!/bin/bash
#
# vfio-again.sh - an NVMe passed through, over and over: reboots of the guest, and a VMM that is killed
#
# One VMM boots its guest ten times more, and each of them reads what the first one wrote; then the VMM is killed while the
# guest writes. The device goes back to the host's driver, which finds what the guest left and can use it. By container,
# and by iommufd.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=vfio-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vfio-lib.sh"
lab_plan 20
reboots=10

if lab_outside; then
	vfio_guest
	mkdir "$work/disks"
	truncate -s 64M "$work/disks/nvme.img"
	lab_boot --write "$work/disks" --timeout 600 --device nvme="$work/disks/nvme.img"
fi

on_host()
{
	head -c 2M "$work/disks/nvme.img" | sum_of
}

reads()
{
	ask "disk_read nvme0n1 2" && [ "$(heard read)" = "$1" ]
}

reboot_often()
{
	local i

	for ((i = 0; i < reboots; i++)); do
		: >"$work/guest.out"
		! gone "$vmm_pid" && guest_type "reboot -f" && guest_says '^ready' && reads "$1" || return
	done
}

# host_interrupts: how many the host has taken for the VMM.
host_interrupts()
{
	awk '/vfio/ { for (i = 2; i <= 3; i++) n += $i } END { print n + 0 }' /proc/interrupts
}

busy_since()
{
	[ "$(host_interrupts)" -gt $(($1 + 200)) ]
}

killed_at_work()
{
	local before

	: >"$work/guest.out"
	before=$(host_interrupts)
	guest_type "while dd if=/dev/zero of=/dev/nvme0n1 bs=64k seek=32 count=500 oflag=direct 2>/dev/null; do :; done" &&
		within 60 busy_since "$before" &&
		kill -9 "$vmm_pid" && within 20 gone "$vmm_pid"
}

# free_kib: what programs could have.
free_kib()
{
	awk '/^MemAvailable:/ { print $2 }' /proc/meminfo
}

memory_is_back()
{
	[ "$(free_kib)" -gt $(($1 - 300 * 1024)) ]
}

back_to_host()
{
	vfio_unbind "$nvme" && bound "$nvme" nvme && within 20 test -b /dev/nvme0n1
}

host_reads()
{
	[ "$(dd if=/dev/nvme0n1 bs=64k count=32 iflag=direct 2>/dev/null | sum_of)" = "$1" ]
}

host_writes()
{
	dd if=/dev/urandom of="$work/data" bs=1M count=2 2>/dev/null &&
		dd if="$work/data" of=/dev/nvme0n1 bs=64k oflag=direct conv=fsync 2>/dev/null &&
		[ "$(sum_of <"$work/data")" = "$(on_host)" ]
}

# again WHAT ARG...
again()
{
	local what=$1 free sum

	shift
	check "$what: the NVMe is bound" vfio_bind "$nvme"
	free=$(free_kib)
	vfio_start "" "$nvme" -- --cpus 2 --memory size=512M "$@"
	check "a guest has the NVMe" guest_says '^ready'
	check "it writes its mark" ask "disk_write nvme0n1 2"
	sum=$(heard wrote)
	check "which is in the image" test "$sum" = "$(on_host)"
	check "$reboots reboots, and the mark is read after each" reboot_often "$sum"
	check "the VMM is killed while the guest writes" killed_at_work
	check "the guest's memory is the host's again" within 20 memory_is_back "$free"
	check "the device goes back to the host's driver" back_to_host
	check "the host reads the guest's mark" host_reads "$sum"
	check "and writes its own" host_writes
}

again container
again iommufd --platform iommufd=on
lab_done
