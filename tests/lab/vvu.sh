#!/bin/bash
#
# vvu.sh - a disk that is served from within another guest, over virtio-vhost-user
#
# Two guests in one L1. In the device VM Linux gives a VVU function behind its IOMMU to vfio-pci, and a static
# outboard-device serves a file of that guest's by it. The sibling, which is larger, has its /dev/vda there.
# shellcheck disable=SC2016,SC2317  # words for the guests' shells; functions called by check
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
static=${OUTBOARD_STATIC_BUILD:-$build/static}
mib=64
lab_plan 16

# static_device: the program that the device VM's initramfs can run, in a build of its own.
static_device()
{
	[ -f "$static/build.ninja" ] ||
		meson setup "$static" "$tree" -Dstatic=true -Dtests=false -Dbench=false -Dman=disabled || return
	ninja -C "$static" src/outboard-device
}

# Both guests do what they are told.
orders='
echo ready
while read -r order rest; do
	case $order in
	do) eval "$rest" ;;
	off) exit 0 ;;
	esac
done'

if lab_outside; then
	static_device >"$work/static" 2>&1 || die "no static outboard-device: $(tail -n 3 "$work/static")"
	{
		cat <<'END'
bdf=0000:00:10.0 d=/sys/bus/pci/devices/0000:00:10.0
echo "function $(cat $d/vendor $d/device $d/revision $d/class | xargs)"
bind()
{
	echo vfio-pci >$d/driver_override
	[ ! -e $d/driver ] || echo $bdf >$d/driver/unbind
	echo $bdf >/sys/bus/pci/drivers_probe
	echo "driver $(basename $(readlink $d/driver))"
}
serve()
{
	outboard-device block --vfio=$bdf --file=/disk.img --verbose 2>&1 &
	server=$!
}
killed()
{
	kill -9 $server
	wait $server
	echo "server ended with $?"
}
END
		echo "$orders"
	} | "$lab_dir/mkguest" --file "$static/src/outboard-device" "$work/device.cpio"
	echo "$orders" | "$lab_dir/mkguest" "$work/sibling.cpio"
	lab_boot --memory 3072
fi

socket=$work/vvu.sock
device=$work/device sibling=$work/sibling
device_vm='' device_keys='' sibling_vm='' sibling_keys=''
mkdir "$device" "$sibling"
# What is shown of both when a check fails.
for part in guest.out vmm.log; do
	ln -s "device/$part" "$work/device-$part"
	ln -s "sibling/$part" "$work/sibling-$part"
done

# in_device COMMAND..., in_sibling COMMAND...: of lib.sh, for that guest.
in_device()
{
	work=$device vmm_pid=$device_vm keys_fd=$device_keys "$@"
}

in_sibling()
{
	work=$sibling vmm_pid=$sibling_vm keys_fd=$sibling_keys "$@"
}

start_device()
{
	work=$device vmm_start --kernel "$kernel" --initramfs "$1" --cpus 1 --memory size=384M \
		--cmdline "console=ttyS0 panic=-1 vfio_iommu_type1.allow_unsafe_interrupts=1" \
		--console off --serial tty --vvu-proxy "$socket,addr=0000:00:10.0,iommu=on"
	device_vm=$vmm_pid device_keys=$keys_fd
}

start_sibling()
{
	work=$sibling vmm_start --kernel "$kernel" --initramfs "$1" --cpus 1 --memory size=512M \
		--cmdline "console=ttyS0 panic=-1" --console off --serial tty --disk "vhost_user=on,socket=$socket"
	sibling_vm=$vmm_pid sibling_keys=$keys_fd
}

# ask_sum NAME FILE: what the guest reads in it, not from its cache.
ask_sum()
{
	guest_type "do echo 3 >/proc/sys/vm/drop_caches; echo \"$1 \$(head -c $((mib * 1048576)) $2 | md5sum | cut -d ' ' -f 1)\""
	guest_says "^$1 [0-9a-f]{32}$" 120
}

# sum NAME: which the guest has said. No guest_says in here: what it starts would hold the caller's pipe.
sum()
{
	tr -d '\r' <"$work/guest.out" | awk -v name="$1" '$1 == name { sum = $2 } END { print sum }'
}

# same_sums NAME: of the disk, here and there; and it is not empty.
same_sums()
{
	in_sibling ask_sum "$1" /dev/vda && in_device ask_sum "$1" /disk.img &&
		[ "$(in_sibling sum "$1")" = "$(in_device sum "$1")" ] &&
		[ "$(in_sibling sum "$1")" != "$(head -c "${mib}M" /dev/zero | md5sum | cut -d ' ' -f 1)" ]
}

fill()
{
	in_sibling guest_type "do dd if=/dev/urandom of=/dev/vda bs=1M count=$mib conv=fsync 2>/dev/null && echo '$1'"
}

start_device "$work/device.cpio"
check "the device VM has the function" in_device guest_says '^function 0x1af4 0x107d 0x01 0x00ff00'
in_device guest_type "do truncate -s ${mib}M /disk.img; bind"
check "vfio-pci takes it" in_device guest_says '^driver vfio-pci'
in_device guest_type 'do echo "group $(cat $d/iommu_group/type)"; serve'
check "it is behind the guest's IOMMU" in_device guest_says '^group '
start_sibling "$work/sibling.cpio"
check "the sibling, larger than the device VM, boots" in_sibling guest_says '^ready'
in_sibling guest_type 'do echo "sectors $(cat /sys/block/vda/size)"'
check "it has the disk" in_sibling guest_says "^sectors $((mib * 2048))"
fill "written"
check "writes all of it" in_sibling guest_says '^written'
check "what it reads is in the device VM's file" same_sums first
fill "written again"
in_device guest_type 'do killed'
check "the server in the device VM is killed meanwhile" in_device guest_says '^server ended with 137'
in_device guest_type 'do serve'
check "the next one serves on" in_sibling guest_says '^written again'
check "what was written is right" same_sums second
kill -9 "$sibling_vm"
wait "$sibling_vm" 2>/dev/null
start_sibling "$work/sibling.cpio"
check "the sibling is killed; another one boots" in_sibling guest_says '^ready'
check "and finds the disk as it was" same_sums third
check "which is what the one before wrote" test "$(in_sibling sum third)" = "$(in_device sum second)"
in_sibling guest_type off
check "the sibling powers off" in_sibling vmm_wait 120
in_device guest_type off
check "the device VM powers off" in_device vmm_wait 120
check "no VMM told of an error" test -z "$(cat "$device/vmm.log" "$sibling/vmm.log" | grep "error:")"
lab_done
