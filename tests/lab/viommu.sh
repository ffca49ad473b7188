#!/bin/bash
#
# viommu.sh - a guest's IOMMU: Linux finds it, puts devices behind it and uses them through what it maps
#
# The card's driver makes no DMA: that it is in a group of its own and interrupts is what there is to see. The disk's
# data go through mappings of the guest's, also after its process was killed.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 13

if lab_outside; then
	"$lab_dir/mkguest" "$work/guest.cpio" <<'END'
echo "endpoints $(ls /sys/class/iommu/*/devices 2>/dev/null | xargs)"
for dev in /sys/bus/pci/devices/*; do
	[ ! -e "$dev/iommu_group" ] || echo "$(basename $dev) in group $(basename $(readlink $dev/iommu_group)) type $(cat $dev/iommu_group/type)"
done
cat /sys/bus/pci/devices/*/iommu_group/reserved_regions | sort -u | sed 's/^/reserved /'
while read -r order rest; do
	case $order in
	do) eval "$rest" ;;
	reboot) echo b >/proc/sysrq-trigger ;;
	off) exit 0 ;;
	esac
done
END
	lab_boot
fi

gpio=$work/gpio.sock
image=$work/image

# sum_of COUNT: of the image's first pieces of 64 KiB, as the guest has written them.
sum_of()
{
	head -c $((65536 * $1)) "$image" | md5sum | cut -d " " -f 1
}

# same_sum NAME COUNT: the guest has printed it under that name.
same_sum()
{
	guest_says "^$1 $(sum_of "$2")"
}

truncate -s 16M "$image"

check "the card listens" device_start gpio "$gpio" --loopback
vmm_start --kernel "$kernel" --initramfs "$work/guest.cpio" --cmdline "console=ttyS0 panic=-1" --cpus 2 \
	--memory size=256M --console off --serial tty --user-device "socket=$gpio,id=gpio0,iommu=on" \
	--disk "path=$image,iommu=on"
check "the guest's IOMMU has the card behind it" guest_says "^endpoints 0000:00:02.0"
check "the card is in a group, and translated" guest_says "^0000:00:02.0 in group 0 type DMA"
check "interrupts have their window" guest_says "^reserved 0x00000000fee00000 0x00000000feefffff msi"
# shellcheck disable=SC2016
{
	guest_type 'do d=/sys/bus/pci/devices/0000:00:02.0; echo "driver $(basename $(readlink $d/driver))"'
	check "the card has its driver" guest_says "^driver 104-idio-16|^driver .*idio"
	guest_type 'do dd if=/dev/urandom of=/dev/vda bs=65536 count=64 conv=fsync 2>/dev/null && echo "written"'
	check "the guest writes to a disk that is behind it" guest_says "^written"
	guest_type 'do echo 3 >/proc/sys/vm/drop_caches; echo "read $(head -c $((65536 * 64)) /dev/vda | md5sum | cut -d " " -f 1)"'
	check "and reads what is in the image" same_sum read 64
	check "its process is killed" kill -9 "$(pgrep -f 'outboard-device block' | head -n 1)"
	guest_type 'do dd if=/dev/urandom of=/dev/vda bs=65536 count=32 conv=fsync 2>/dev/null && echo "written again"'
	check "the next one serves it" guest_says "^written again"
	guest_type 'do echo 3 >/proc/sys/vm/drop_caches; echo "read again $(head -c $((65536 * 64)) /dev/vda | md5sum | cut -d " " -f 1)"'
	check "through the same mappings" same_sum "read again" 64
	: >"$work/guest.out"
	guest_type reboot
	check "after a reboot the same is there" guest_says "^0000:00:02.0 in group 0 type DMA"
}
guest_type off
check "the guest powers off" vmm_wait 180
check "nothing was complained of but the loss" test "$(grep -c . "$work/vmm.log")" -le 3
lab_done
