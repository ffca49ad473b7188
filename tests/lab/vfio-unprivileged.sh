#!/bin/bash
#
# vfio-unprivileged.sh - host devices for a caller without any privilege: by descriptors, and by the files of groups
#
# Somebody with more rights opens /dev/iommu and the devices' files, or gives the files of the groups away; outboard
# runs as nobody, without capabilities. What it still needs is to be allowed to lock the guest's memory: without that it
# says in one line how much is needed, and exactly that is enough.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=vfio-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vfio-lib.sh"
lab_plan 27

if lab_outside; then
	vfio_guest
	mkdir "$work/disks"
	truncate -s 64M "$work/disks/nvme.img"
	# Where nobody can read them.
	mkdir -p "$work/bin/src"
	cp "$build/src/outboard" "$work/bin/src/"
	cp "$kernel" "$work/bzImage"
	chmod -R a+rX "$work"
	lab_boot --iommu "$iommu" --write "$work/disks" --timeout 600 --device nvme="$work/disks/nvme.img" --device e1000e
fi

build=$work/bin kernel=$work/bzImage
nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all)

cdev()
{
	echo "/dev/vfio/devices/$(ls "$sys/$1/vfio-dev")"
}

group()
{
	echo "/dev/vfio/$(basename "$(readlink "$sys/$1/iommu_group")")"
}

# limited HOW ARG...: 64 KiB are too little, which HOW (one of the two below) finds; how much would do is in needed, as an
# argument of ulimit -l.
limited()
{
	local how=$1 status=0

	shift
	ulimit -S -l 64
	"$how" "bytes, and the limit is 65536: .*ulimit -l [0-9]" "$@" || status=$?
	ulimit -S -l unlimited
	needed=$(sed -n 's/.*ulimit -l \([0-9]*\).*/\1/p' "$work/vmm.log")
	return "$status"
}

# refused_to_nobody REGEX ARG...
refused_to_nobody()
{
	local regex=$1

	shift
	refused "$regex" "${nobody[@]}" -- "$@"
}

# wrong REGEX ARG...: the same where the caller's own files are open, so that only what is pinned can be looked at.
wrong()
{
	local regex=$1 status=0

	shift
	timeout -k 5 60 "${nobody[@]}" "$build/src/outboard" --kernel "$kernel" --memory size=128M --console off --serial null "$@" \
		</dev/null >"$work/vmm.log" 2>&1 || status=$?
	[ "$status" -ge 1 ] && [ "$status" -le 2 ] && [ "$(wc -l <"$work/vmm.log")" = 1 ] &&
		grep -q -E -- "$regex" "$work/vmm.log" && nothing_pinned
}

# boots ARG...: as nobody, with the limit that limited() was told of, in a guest of the same size.
boots()
{
	: >"$work/vmm.log"
	ulimit -S -l "$needed" || return
	vmm_by=("${nobody[@]}")
	vmm_start --kernel "$kernel" --initramfs "$work/guest.cpio" --cmdline "console=ttyS0 quiet panic=-1" --console off \
		--serial tty --cpus 2 --memory size=128M "$@"
	vmm_by=()
	ulimit -S -l unlimited
	guest_says '^ready'
}

is_nobody()
{
	[ "$(awk '/^Uid:/ { print $2 $3 $4 $5 }' "/proc/$vmm_pid/status")" = 65534655346553465534 ] &&
		[ "$(awk '/^Cap(Prm|Eff|Bnd):/ { print $2 }' "/proc/$vmm_pid/status" | sort -u)" = 0000000000000000 ]
}

uses_nvme()
{
	ask "disk_write nvme0n1 2" && [ "$(heard wrote)" = "$(head -c 2M "$work/disks/nvme.img" | sum_of)" ] &&
		ask "disk_read nvme0n1 2" && [ "$(heard read)" = "$(head -c 2M "$work/disks/nvme.img" | sum_of)" ]
}

reboots()
{
	: >"$work/guest.out"
	! gone "$vmm_pid" && guest_type "reboot -f" && guest_says '^ready' && uses_nvme
}

nothing_pinned()
{
	[ "$(pinned)" = 0 ]
}

chmod 666 /dev/kvm
ulimit -l unlimited
check "the devices are bound" vfio_bind "$nvme" "$e1000e"
check "container: nobody may not open the group" refused_to_nobody "$(group "$nvme"): .*ermission" \
	--device "$nvme"
chown 65534 "$(group "$nvme")" "$(group "$e1000e")"
check "who has the group, but may lock too little: how much is needed" limited refused_to_nobody --device "$nvme" "$e1000e"
must "with that much a guest has the devices" boots --device "$nvme" "$e1000e"
check "of a VMM that nobody runs, without capabilities" is_nobody
check "it uses the NVMe" uses_nvme
check "and the network" ask "net 8086:10d3"
check "also after a reboot" reboots
check "it ends, and outboard with 0" ends
check "nothing is open or pinned any more" nothing_left
chown 0 "$(group "$nvme")" "$(group "$e1000e")"

check "iommufd: nobody may not open /dev/iommu" refused_to_nobody "/dev/iommu: .*ermission" \
	--platform iommufd=on --device "$nvme"
exec {iommu_fd}<>/dev/iommu {nvme_fd}<>"$(cdev "$nvme")" {net_fd}<>"$(cdev "$e1000e")" {null_fd}<>/dev/null
platform=(--platform "iommufd=on,iommufd_fd=$iommu_fd")
check "descriptors of all, but too little may be locked: how much is needed" limited wrong "${platform[@]}" --device "fd=$nvme_fd"
check "a device's descriptor without iommufd" wrong "iommufd=on" --device "fd=$nvme_fd"
check "a descriptor that is no device's" wrong "descriptor $null_fd.*not a file of /dev/vfio/devices" "${platform[@]}" \
	--device "fd=$null_fd"
check "a descriptor that is not /dev/iommu" wrong "iommufd_fd.*not /dev/iommu" --platform "iommufd=on,iommufd_fd=$null_fd" \
	--device "fd=$nvme_fd"
check "a descriptor that is not open" wrong "descriptor 99 is not open" "${platform[@]}" --device fd=99
must "with enough a guest has the devices" boots "${platform[@]}" --device "fd=$nvme_fd" "fd=$net_fd"
check "of a VMM that nobody runs, without capabilities" is_nobody
check "it uses the NVMe" uses_nvme
check "and the network" ask "net 8086:10d3"
check "also after a reboot" reboots
check "it ends, and outboard with 0" ends
check "nothing is pinned any more" nothing_pinned
check "another guest has the same descriptors" boots "${platform[@]}" --device "fd=$nvme_fd" "fd=$net_fd"
check "and uses the NVMe" uses_nvme
ends
exec {iommu_fd}>&- {nvme_fd}>&- {net_fd}>&-
check "nothing is open any more" nothing_left
check "and the devices go back" vfio_unbind "$nvme" "$e1000e"
lab_done
