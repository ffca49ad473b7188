#!/bin/bash
#
# vvu.sh - a disk that is served from within another guest, over virtio-vhost-user
#
# Two guests in one L1. In the device VM Linux gives a VVU function behind its IOMMU to vfio-pci, and a static
# outboard-device serves a file of that guest's by it. The sibling, which is larger, has its /dev/vda there. The commands
# are those of crosvm's guide, with only the program's name changed.
# shellcheck disable=SC2016,SC2317  # words for the guests' shells; functions called by check
# shellcheck source-path=SCRIPTDIR source=vvu-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vvu-lib.sh"
mib=64 less=24
lab_plan 17

if lab_outside; then
	need lspci=pciutils
	guests <<'END'
# fill FILE MIB: of which no two are the same.
fill()
{
	head -c 1048576 /dev/urandom >/tmp/mib
	for i in $(seq $2); do
		echo $i
		tail -c +$((${#i} + 2)) /tmp/mib
	done | dd of=$1 bs=1M iflag=fullblock conv=fsync,notrunc 2>/dev/null
}
END
	lab_boot --memory 3072
fi

socket=$work/vvu.sock

start_sibling()
{
	start sibling run --vhost-user-blk "$socket" -p panic=-1 -m 512 -i "$work/sibling.cpio" "$kernel"
}

# lspci_line: what lspci says of the function, from its configuration space as the guest has read it.
lspci_line()
{
	tell device "echo; echo '00:10.0 function'; hexdump -v -e '\"%02_ax:\" 16/1 \" %02x\" \"\n\"' -n 256 \$of/0000:00:10.0/config; echo dumped"
	says device '^dumped' || return
	sed -n '/^00:10.0 function/,/^dumped/p' "$work/device/guest.out" | tr -d '\r' | sed '$s/.*//' >"$work/config"
	lspci -F "$work/config" >"$work/lspci"
	sed 's/^/# /' "$work/lspci"
	grep -q -x '00:10.0 Unclassified device \[00ff\]: Red Hat, Inc. Device 107d (rev 01)' "$work/lspci"
}

start device run --vvu-proxy "$socket,addr=0000:00:10.0" -p "vfio_iommu_type1.allow_unsafe_interrupts=1" -p panic=-1 -m 384 \
	-i "$work/device.cpio" "$kernel"
must "the device VM boots" says device '^ready'
check "lspci has the function" lspci_line
tell device "truncate -s ${mib}M /disk.img; bind 0000:00:10.0"
check "vfio-pci takes it" says device '^driver of 0000:00:10.0 vfio-pci'
tell device 'echo "group $(cat $of/0000:00:10.0/iommu_group/type)"; serve disk block 0000:00:10.0 --file /disk.img'
check "it is behind the guest's IOMMU" says device '^group '
start_sibling
check "the sibling, larger than the device VM, boots" says sibling '^ready'
tell sibling 'echo "sectors $(cat /sys/block/vda/size)"'
check "it has the disk" says sibling "^sectors $((mib * 2048))"
tell sibling "fill /dev/vda $mib && echo written"
check "writes all of it" says sibling '^written'
check "what it reads is in the device VM's file" same_sums sibling /dev/vda $mib first
tell sibling "fill /dev/vda $less && echo 'written again'"
tell device 'killed disk'
check "the server in the device VM is killed meanwhile" says device '^server disk ended with 137'
tell device 'serve disk block 0000:00:10.0 --file /disk.img'
check "the next one serves on" says sibling '^written again'
check "what was written is right" same_sums sibling /dev/vda $less second
kill_vm sibling
start_sibling
check "the sibling is killed; another one boots" says sibling '^ready'
check "and finds the disk as it was" ask_sum sibling /dev/vda $less third
check "which is what the one before wrote" test "$(said_sum sibling third)" = "$(said_sum device second)"
check "the sibling powers off" power_off sibling
check "the device VM powers off" power_off device
check "no VMM told of an error" test -z "$(cat "$work"/*/vmm.log | grep "error:")"
lab_done
