# shellcheck shell=bash
#
# vfio-lib.sh - what the tests of host devices share: the devices of L1, a guest that drives them, orders to it
#
# The guest says `ready` and then obeys: each line it reads is a command of its shell, among them the functions below, and
# after each it says `done STATUS`. So a check is mostly `ask COMMAND`, and what the command has printed is there for
# `heard KEY`.
#
# L1's devices are those of lab/run --device; vfio_devices says which group each is in and how it can be reset.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The IOMMU of L1: those who source a test, or OUTBOARD_IOMMU, can have it run with another one (amd).
iommu=${iommu:-${OUTBOARD_IOMMU:-intel}}
# By lab/run.
nvme=0000:00:05.0 e1000e=0000:00:06.0 edu=0000:00:07.0 ahci=0000:00:08.0 igb_port=0000:00:09.0
bridge=0000:00:0a.0 pair0=0000:00:0b.0 pair1=0000:00:0b.1
export nvme e1000e edu ahci igb_port bridge pair0 pair1
sys=/sys/bus/pci/devices

# vfio_guest [OPTION of lab/mkguest]...: makes $work/guest.cpio.
vfio_guest()
{
	"$lab_dir/mkguest" "$@" "$work/guest.cpio" <<'GUEST'
pci=/sys/bus/pci/devices

# at VENDOR:DEVICE [N]: the address of the Nth device with these numbers.
at()
{
	for d in $pci/*; do
		[ "$(cat $d/vendor):$(cat $d/device)" != "0x${1%:*}:0x${1#*:}" ] || basename $d
	done | sed -n "${2:-1}p"
}

# eventually COMMAND...: for what the kernel does in the background; ten seconds and more.
eventually()
{
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		[ $tries -lt 500 ] || return 1
		usleep 20000
	done
}

# irq NAME: of which kind its interrupts are, and how many have come.
irq()
{
	awk -v name="$1" 'NR == 1 { cpus = NF; next }
		$0 ~ name { kind = $(cpus + 2); sub(/-[0-9a-f:.]*$/, "", kind); for (i = 2; i <= cpus + 1; i++) n += $i }
		END { print "irq", kind, n + 0; exit !n }' /proc/interrupts
}

sum()
{
	md5sum | cut -d' ' -f1
}

# disk_write DISK MIB: random bytes, past the page cache.
disk_write()
{
	eventually test -b /dev/$1 || return
	dd if=/dev/urandom of=/tmp/data bs=1M count=$2 2>/dev/null
	dd if=/tmp/data of=/dev/$1 bs=64k oflag=direct conv=fsync 2>/dev/null || return
	echo "wrote $(sum </tmp/data)"
	rm /tmp/data
}

# disk_read DISK MIB
disk_read()
{
	eventually test -b /dev/$1 || return
	dd if=/dev/$1 of=/tmp/data bs=64k count=$(($2 * 16)) iflag=direct 2>/dev/null || return
	echo "read $(sum </tmp/data)"
	rm /tmp/data
}

# load DISK: four at once write 4 MiB each, from 8 MiB on.
load()
{
	writers=
	for n in 0 1 2 3; do
		dd if=/dev/urandom of=/tmp/load$n bs=1M count=4 2>/dev/null
		dd if=/tmp/load$n of=/dev/$1 bs=64k seek=$((128 + 64 * n)) oflag=direct conv=notrunc 2>/dev/null &
		writers="$writers $!"
	done
	for writer in $writers; do
		wait $writer || return
	done
	echo "load $(cat /tmp/load[0-3] | sum)"
	rm /tmp/load[0-3]
}

# group VENDOR:DEVICE: of its IOMMU group the type of domain, and what is reserved.
group()
{
	group=$(readlink -f $pci/$(at $1)/iommu_group) || return
	echo "type $(cat $group/type)"
	sed 's/^/reserved /' $group/reserved_regions
}

# net VENDOR:DEVICE [N]: the emulator's network answers.
net()
{
	eventually test -d $pci/$(at $1 $2)/net || return
	if=$(ls $pci/$(at $1 $2)/net)
	ip link set $if up && ip addr add 10.0.2.15/24 dev $if && eventually grep -q 1 /sys/class/net/$if/carrier &&
		ping -c 3 -W 10 -I $if 10.0.2.2
	pinged=$?
	irq $if
	ip addr flush dev $if
	ip link set $if down
	return $pinged
}

# edu [N]: the device for teaching, by uio: registers, and two interrupts of its line.
edu()
{
	dev=$(at 1234:11e8 $1)
	[ -e $pci/$dev/driver ] || echo "1234 11e8" >/sys/bus/pci/drivers/uio_pci_generic/new_id
	eventually test -d $pci/$dev/uio || return
	base=$(sed -n '1s/ .*//p' $pci/$dev/resource)
	echo "edu id $(devmem $base)"
	devmem $((base + 4)) 32 0x12345678
	echo "edu not $(devmem $((base + 4)))"
	exec 3</dev/$(ls $pci/$dev/uio)
	devmem $((base + 0x20)) 32 0x80
	for n in 5 10; do
		# The driver turns the line off in the command register at each interrupt.
		printf '\006\000' | dd of=$pci/$dev/config bs=1 seek=4 conv=notrunc 2>/dev/null
		devmem $((base + 8)) 32 $n
		timeout 20 dd bs=4 count=1 <&3 2>/dev/null | hexdump -e '"edu interrupts %d\n"'
		echo "edu $n! $(devmem $((base + 8)))"
		devmem $((base + 0x64)) 32 1
	done
	exec 3<&-
	irq uio
}

# rom VENDOR:DEVICE
rom()
{
	echo 1 >$pci/$(at $1)/rom
	echo "rom $(cat $pci/$(at $1)/rom | sum)"
	echo 0 >$pci/$(at $1)/rom
}

dmesg -n 4
echo ready
while read -r order; do
	eval "$order"
	echo "done $?"
done
GUEST
}

# below BRIDGE: the address of the one device there.
below()
{
	basename "$sys/$1"/????:??:??.?
}

# vfio_vf: a virtual function of the igb; prints its address. The physical function must be up for it to have a link.
vfio_vf()
{
	local pf

	pf=$sys/$(below $igb_port)
	ip link set "$(ls "$pf/net")" up && echo 1 >"$pf/sriov_numvfs" && basename "$(readlink "$pf/virtfn0")"
}

# driver_of ADDRESS
driver_of()
{
	local link

	link=$(readlink "$sys/$1/driver") && basename "$link"
}

# bound ADDRESS DRIVER
bound()
{
	[ "$(driver_of "$1")" = "$2" ]
}

# vfio_bind ADDRESS...: each of them.
vfio_bind()
{
	local device

	for device; do
		"$build/src/outboard" device-bind "$device" >>"$work/bind.log" 2>&1 && bound "$device" vfio-pci || return
	done
}

vfio_unbind()
{
	local device

	for device; do
		"$build/src/outboard" device-unbind "$device" >>"$work/bind.log" 2>&1 || return
	done
}

# vfio_start CMDLINE ADDRESS[,FIELD=VALUE]... [-- ARG...]: boots the guest with these devices.
vfio_start()
{
	local devices=() line="console=ttyS0 quiet panic=-1 $1"

	shift
	while [ $# -gt 0 ] && [ "$1" != -- ]; do
		devices+=("path=$sys/${1%%,*}/${1#"${1%%,*}"}")
		shift
	done
	[ $# = 0 ] || shift
	: >"$work/vmm.log"
	vmm_start --kernel "$kernel" --initramfs "$work/guest.cpio" --cmdline "$line" --console off --serial tty \
		--device "${devices[@]}" "$@"
}

# ask COMMAND: the guest runs it; its status.
ask()
{
	: >"$work/guest.out"
	! gone "$vmm_pid" && guest_type "$1" &&
		guest_says '^done [0-9]' "${2:-120}" && [ "$(heard "done")" = 0 ]
}

# heard KEY...: the rest of the last line that begins with these words. The first may be the terminal's echo of the order.
heard()
{
	tr -d '\r' <"$work/guest.out" | sed -n "s/^$* //p" | tail -n 1
}

# interrupts KIND: those of the last order were of that kind, and there were some.
interrupts()
{
	[[ "$(heard irq)" =~ ^$1\ [1-9] ]]
}

# counts NAME KIND: the interrupts of that name are of that kind, and some have come.
counts()
{
	ask "irq '$1'" && interrupts "$2"
}

# reads SUM: so the NVMe's first 2 MiB are, as the guest reads them.
reads()
{
	ask "disk_read nvme0n1 2" && [ "$(heard read)" = "$1" ]
}

# host_interrupts: how many the host has taken for its VMMs.
host_interrupts()
{
	awk 'NR == 1 { cpus = NF } /vfio/ { for (i = 2; i <= cpus + 1; i++) n += $i } END { print n + 0 }' /proc/interrupts
}

busy_since()
{
	[ "$(host_interrupts)" -gt $(($1 + 200)) ]
}

# killed_at_work MIB: the guest writes to its NVMe, from there on, and in the midst of it the VMM is killed.
killed_at_work()
{
	local before

	: >"$work/guest.out"
	before=$(host_interrupts)
	guest_type "while dd if=/dev/zero of=/dev/nvme0n1 bs=64k seek=$(($1 * 16)) count=500 oflag=direct 2>/dev/null; do :; done" &&
		within 60 busy_since "$before" &&
		kill -9 "$vmm_pid" && within 20 gone "$vmm_pid"
}

# ends: the guest powers off, and the VMM ends with 0.
ends()
{
	! gone "$vmm_pid" && guest_type "poweroff -f" && vmm_wait 60
}

sum_of()
{
	md5sum | cut -d' ' -f1
}

# refused REGEX [COMMAND... --] ARG...: outboard (run by COMMAND, if there is one) ends with a failure and says one line, which
# the regular expression describes; nothing of VFIO is open or pinned afterwards.
refused()
{
	local regex=$1 by=() status=0

	shift
	if [[ " $* " = *" -- "* ]]; then
		while [ "$1" != -- ]; do
			by+=("$1")
			shift
		done
		shift
	fi
	timeout -k 5 60 "${by[@]}" "$build/src/outboard" --kernel "$kernel" --memory size=128M --console off --serial null "$@" \
		</dev/null >"$work/vmm.log" 2>&1 || status=$?
	[ "$status" -ge 1 ] && [ "$status" -le 2 ] && [ "$(wc -l <"$work/vmm.log")" = 1 ] &&
		grep -q -E -- "$regex" "$work/vmm.log" && nothing_left
}

nothing_open()
{
	[ -z "$(find /proc/[0-9]*/fd -lname '/dev/vfio/*' -o -lname /dev/iommu 2>/dev/null)" ]
}

# pinned: pages that are, whoever did it. CPUs count for themselves and add up now and then, or when told.
pinned()
{
	echo 1 >/proc/sys/vm/stat_refresh
	awk '/^nr_foll_pin_acquired/ { n += $2 } /^nr_foll_pin_released/ { n -= $2 } END { print n }' /proc/vmstat
}

# nothing_left: a VMM that has ended left neither files of VFIO open nor memory pinned, as far as this boot of L1 goes.
nothing_left()
{
	nothing_open && [ "$(pinned)" = 0 ]
}
