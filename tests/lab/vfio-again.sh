#!/bin/bash
#
# vfio-again.sh - an NVMe passed through, over and over: reboots of the guest, and a VMM that is killed
#
# One VMM boots its guest ten times more (or OUTBOARD_REBOOTS times), and each of them reads what the first one wrote; of
# more than ten, the VMM has to have at the end what it had after the first tenth: descriptors, maps, threads, memory.
# Then the VMM is killed while the guest writes. The device goes back to the host's driver, which finds what the guest left
# and can use it. By container, and by iommufd (or as OUTBOARD_WAYS says).
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=vfio-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vfio-lib.sh"
reboots=${OUTBOARD_REBOOTS:-10}
read -ra ways <<<"${OUTBOARD_WAYS:-container iommufd}"
lab_plan $(((10 + (reboots > 10)) * ${#ways[@]}))
settled=$(((reboots + 9) / 10))

if lab_outside; then
	vfio_guest
	mkdir "$work/disks"
	truncate -s 64M "$work/disks/nvme.img"
	lab_boot --iommu "$iommu" --write "$work/disks" --timeout $((600 + 20 * reboots)) --device nvme="$work/disks/nvme.img"
fi

on_host()
{
	head -c 2M "$work/disks/nvme.img" | sum_of
}

# in_status NAME: KiB
in_status()
{
	awk -v name="$1:" '$1 == name { print $2 }' "/proc/$vmm_pid/status"
}

# footprint: what the VMM has: descriptors, threads, maps of files (the heap's may be split), KiB locked and pinned by its
# own account; and what there is in all: pages pinned, and pages of the IOMMU's tables.
footprint()
{
	local fds=("/proc/$vmm_pid/fd"/*) threads=("/proc/$vmm_pid/task"/*)

	echo "${#fds[@]} descriptors, ${#threads[@]} threads, $(grep -c / "/proc/$vmm_pid/maps") maps, $(in_status VmLck) KiB locked," \
		"$(in_status VmPin) KiB pinned, $(pinned) pages pinned, $(awk '/^nr_iommu_pages/ { print $2 }' /proc/vmstat) of tables"
}

reboot_often()
{
	local i start=$SECONDS

	for ((i = 1; i <= reboots; i++)); do
		: >"$work/guest.out"
		! gone "$vmm_pid" && guest_type "reboot -f" && guest_says '^ready' && reads "$1" || return
		[ "$i" != "$settled" ] || { early=$(footprint) early_kib=$(in_status RssAnon); }
		[ $((i % 10)) != 0 ] || echo "# $i reboots, $((SECONDS - start)) s: $(footprint), $(in_status RssAnon) KiB"
	done
	late=$(footprint) late_kib=$(in_status RssAnon)
	[ $((reboots % 10)) = 0 ] || echo "# $reboots reboots, $((SECONDS - start)) s: $late, $late_kib KiB"
}

does_not_grow()
{
	[ -n "$late" ] && [ "$late" = "$early" ] && [ "$late_kib" -le $((early_kib + 256)) ]
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
	local what=$1 free sum early='' late='' early_kib late_kib

	shift
	check "$what: the NVMe is bound" vfio_bind "$nvme"
	free=$(free_kib)
	vfio_start "" "$nvme" -- --cpus 2 --memory size=512M "$@"
	must "a guest has the NVMe" guest_says '^ready'
	check "it writes its mark" ask "disk_write nvme0n1 2"
	sum=$(heard wrote)
	check "which is in the image" test "$sum" = "$(on_host)"
	check "$reboots reboots, and the mark is read after each" reboot_often "$sum"
	[ "$reboots" -le 10 ] || check "which leave nothing behind in the VMM" does_not_grow
	check "the VMM is killed while the guest writes" killed_at_work 2
	check "the guest's memory is the host's again" within 20 memory_is_back "$free"
	check "the device goes back to the host's driver" back_to_host
	check "the host reads the guest's mark" host_reads "$sum"
	check "and writes its own" host_writes
}

for way in "${ways[@]}"; do
	if [ "$way" = iommufd ]; then
		again iommufd --platform iommufd=on
	else
		again container
	fi
done
lab_done
