#!/bin/bash
#
# viommu.sh - a guest's IOMMU: Linux finds it, puts devices behind it and uses them through what it maps
#
# The card's driver makes no DMA: that it is in a group of its own and interrupts is what there is to see.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 8

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

check "the card listens" device_start gpio "$gpio" --loopback
vmm_start --kernel "$kernel" --initramfs "$work/guest.cpio" --cmdline "console=ttyS0 panic=-1" --cpus 2 \
	--memory size=256M --console off --serial tty --user-device "socket=$gpio,id=gpio0,iommu=on"
check "the guest's IOMMU has the card behind it" guest_says "^endpoints 0000:00:02.0"
check "the card is in a group, and translated" guest_says "^0000:00:02.0 in group 0 type DMA"
check "interrupts have their window" guest_says "^reserved 0x00000000fee00000 0x00000000feefffff msi"
# shellcheck disable=SC2016
{
	guest_type 'do d=/sys/bus/pci/devices/0000:00:02.0; echo "driver $(basename $(readlink $d/driver))"'
	check "the card has its driver" guest_says "^driver 104-idio-16|^driver .*idio"
	: >"$work/guest.out"
	guest_type reboot
	check "after a reboot the same is there" guest_says "^0000:00:02.0 in group 0 type DMA"
}
guest_type off
check "the guest powers off" vmm_wait 180
check "nothing was complained of" test ! -s "$work/vmm.log"
lab_done
