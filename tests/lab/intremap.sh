#!/bin/bash
#
# intremap.sh - interrupt remapping: a guest gives a device away without an exception from safety
#
# A device VM like vvu.sh's, but with interrupt remapping, and its kernel is not told to allow unsafe interrupts. Linux takes the
# units into use, one for each segment; interrupts of disk, network and serial port come by entries, and
# where they are to. A VVU function is given to vfio-pci, and a sibling has its disk from there.
# shellcheck disable=SC2016,SC2317  # words for the guests' shells; functions called by check
# shellcheck source-path=SCRIPTDIR source=vvu-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vvu-lib.sh"
mib=8
lab_plan 22

if lab_outside; then
	guests <<'END'
complaints() { dmesg | grep -E 'DMAR.*(fault|INTR-REMAP|[Ff]ail|[Ii]nvalid )|Firmware Bug|irq [0-9]+: nobody' | head -n 3 | xargs; }
echo "remapping $(dmesg | grep -o -E 'Enabled IRQ remapping in [a-z0-9]* mode')"
echo "unsafe $(cat /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts)"
echo "complaints: $(complaints)"
echo "chips $(awk '/IR-PCI-MSI|IR-IO-APIC/ { n++ } / PCI-MSI|  IO-APIC/ { bad++ } END { print (n > 6), bad + 0 }' /proc/interrupts)"
# Interrupts of a device: all of its queues', or on one processor.
count() { awk -v name="$1" -v cpu="$2" '$0 ~ name { n += cpu ? $(cpu + 1) : $2 + $3 } END { print n + 0 }' /proc/interrupts; }
some() { sed 's/^[1-9].*/some/'; }
# moves NAME COMMAND...: bind its interrupts to the second CPU; the command's come there, none to the first.
moves()
{
	name=$1
	shift
	for irq in $(awk -v name="$name" '$0 ~ name { sub(":", "", $1); print $1 }' /proc/interrupts); do
		echo 2 >/proc/irq/$irq/smp_affinity 2>/dev/null
	done
	"$@"
	first=$(count "$name" 1) second=$(count "$name" 2)
	"$@"
	[ $(count "$name" 1) = $first ] && [ $(count "$name" 2) -gt $second ]
}
# on CPU COMMAND...: there.
on()
{
	taskset -p $1 $$ >/dev/null
	shift
	"$@"
	taskset -p 3 $$ >/dev/null
}
write_disk() { dd if=/dev/urandom of=/dev/vda bs=64k count=32 conv=fsync 2>/dev/null; }
ping_host() { ping -c 3 -w 20 192.168.70.1 >/dev/null; }
END
	lab_boot --memory 3072
fi

socket=$work/vvu.sock
own=$work/own.img

# units: what the device VM tells of its own accord when it boots.
units()
{
	check "Linux remaps interrupts, with x2APIC$1" says device '^remapping Enabled IRQ remapping in x2apic mode'
	check "it complains of nothing$1" says device '^complaints: *$'
}

truncate -s 16M "$own"
start device --console off --serial tty --kernel "$kernel" --initramfs "$work/device.cpio" --cpus 2 --memory size=384M \
	--cmdline "console=ttyS0 panic=-1" --platform intremap=on,num_pci_segments=2 \
	--disk "path=$own,iommu=on,pci_segment=1,num_queues=2" --net "tap=ob0,ip=192.168.70.1,mask=255.255.255.0,iommu=on" \
	--vvu-proxy "$socket,addr=0000:00:10.0,iommu=on"
units ""
check "and allows no unsafe interrupts" says device '^unsafe N'
check "all interrupts but its own go through the units" says device '^chips 1 0'
must "it boots up" says device '^ready'
tell device 'on 1 write_disk; on 2 write_disk; echo "disk $(count virtio[0-9]-req 1 | some) $(count virtio[0-9]-req 2 | some)"'
check "the disk's queues interrupt each its processor" says device '^disk some some'
tell device 'ifconfig eth0 192.168.70.2 up; moves virtio[0-9]-input ping_host && echo "net moved"'
check "the network's follow a change of their processor" says device '^net moved'
tell device "truncate -s ${mib}M /disk.img; bind 0000:00:10.0"
check "vfio-pci takes the VVU function" says device '^driver of 0000:00:10.0 vfio-pci'
tell device 'echo "group $(cat $of/0000:00:10.0/iommu_group/type)"; serve disk block 0000:00:10.0 --file /disk.img'
check "it is behind the guest's IOMMU" says device '^group '
sibling_vm sibling --cpus 1 --memory size=256M --disk "vhost_user=on,socket=$socket"
check "the sibling boots" says sibling '^ready'
tell sibling 'echo "sectors $(cat /sys/block/vda/size)"'
check "it has the disk" says sibling "^sectors $((mib * 2048))"
tell sibling "dd if=/dev/urandom of=/dev/vda bs=1M count=$mib conv=fsync 2>/dev/null && echo written"
check "writes all of it" says sibling '^written'
check "what it reads is in the device VM's file" same_sums sibling /dev/vda $mib first
tell device 'echo "served $(count vfio-msix | some)"'
check "kicks come by interrupts that were given away" says device '^served some'
tell device 'echo "later: $(complaints)"'
check "no interrupt was refused" says device '^later: *$'
check "the sibling powers off" power_off sibling
: >"$work/device/guest.out"
tell device 'echo b >/proc/sysrq-trigger'
units ", after a reboot too"
must "and boots up" says device '^ready'
tell device 'write_disk; echo "again $(count virtio[0-9]-req | some)"'
check "with the disk's interrupts" says device '^again some'
check "the device VM powers off" power_off device
check "no VMM told of an error" test -z "$(cat "$work"/*/vmm.log | grep "error:")"
lab_done
