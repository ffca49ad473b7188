#!/bin/bash
#
# boot.sh - Linux boots, sees the machine it was promised, reboots, and goes away in every way there is
#
# One L1, a guest after the other, each with the lab's small kernel. What the guest says about itself is compared with
# what the command line asked for.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 26

if lab_outside; then
	"$lab_dir/mkguest" "$work/look.cpio" <<'END'
echo "cpus $(nproc)"
echo "memory $(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)"
echo "clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "x2apic $(dmesg | grep -c -i 'x2apic enabled\|x2apic: enabled\|Switched APIC routing to.*x2apic')"
echo "hypervisor $(grep -m 1 -c hypervisor /proc/cpuinfo)"
echo "deadline $(grep -m 1 -c tsc_deadline_timer /proc/cpuinfo)"
echo "topology $(sort -u /sys/devices/system/cpu/cpu*/topology/thread_siblings_list | xargs)"
echo "packages $(sort -u /sys/devices/system/cpu/cpu*/topology/physical_package_id | wc -l)"
echo "segments $(ls -d /sys/devices/pci* | wc -l)"
echo "bridge $(cat /sys/bus/pci/devices/0000:00:00.0/class)"
echo "serial $(grep -c '16550A\|16550' /proc/tty/driver/serial)"
echo "complaints:"
dmesg -r | grep '^<[0-4]>' | grep -v -i 'kvm_intel\|kvm_amd\|amd_pstate\|tsc\|speculat\|mitigat\|retbleed\|spectre\|retpoline\|rtc\|hrtimer: interrupt took'
echo "complaints end"
END
	"$lab_dir/mkguest" "$work/obey.cpio" <<'END'
# Who holds the power button down ends the machine, as acpid or logind would have it.
# It is listened to before anybody is told that it can be pressed.
exec 3</dev/input/event0
(dd bs=24 count=1 <&3 >/dev/null 2>&1 && echo "the button was pressed" && poweroff -f) &
echo "at your orders"
while read -r order; do
	case $order in
	reboot) reboot -f ;;
	off) exit 0 ;;
	crash) echo c >/proc/sysrq-trigger ;;
	esac
	echo "obeyed $order"
done
END
	# The 3 GiB of a guest are lent, not used; but L1 lends no more than it has.
	lab_boot --memory 4096 --timeout 600
fi

# run_guest ARG...: to its end; the status is in status.
run_guest()
{
	vmm_start "$@"
	status=0
	vmm_wait 180 || status=$?
}

# said WORDS: the guest has said just this line.
said()
{
	# Not by a pipe, whose status would be that of tr if grep has seen enough before tr is done.
	grep -q -x -F -- "$1" <(tr -d '\r' <"$work/guest.out")
}

# between LOW VALUE HIGH
between()
{
	[ "$1" -le "${2:-0}" ] && [ "${2:-0}" -le "$3" ]
}

heard()
{
	tr -d '\r' <"$work/guest.out" | awk -v key="$1" '$1 == key { $1 = ""; print substr($0, 2); exit }'
}

usual=(--initramfs "$work/look.cpio" --cmdline "console=ttyS0 panic=-1" --console off --serial tty)
run_guest --kernel "$kernel" "${usual[@]}" --cpus 4 --memory size=512M
check "a bzImage guest boots and powers off, and outboard ends with 0" test $status = 0
check "it ran its script to the end" said "guest: ended with 0"
check "it has four CPUs" said "cpus 4"
check "it has its memory" between 460 "$(heard memory)" 512
check "its clock is KVM's" said "clock kvm-clock"
check "its APICs are x2APICs" between 1 "$(heard x2apic)" 9
check "it knows that it is a guest" said "hypervisor 1"
check "it has the TSC deadline timer" said "deadline 1"
check "it has one host bridge" said "bridge 0x060000"
check "it has a serial port" between 1 "$(heard serial)" 4
check "its kernel complains of nothing" test "$(tr -d '\r' <"$work/guest.out" |
	sed -n '/^complaints:$/,/^complaints end$/p' | wc -l)" = 2

run_guest --kernel "$vmlinux" "${usual[@]}" --cpus boot=4,max=4,topology=2:1:1:2 --memory size=3G \
	--platform num_pci_segments=3
check "a vmlinux guest boots by PVH and powers off" test $status = 0
check "it has the threads it was promised" said "topology 0-1 2-3"
check "it has the packages it was promised" said "packages 2"
check "it has the PCI segments it was promised" said "segments 3"
check "it has 3 GiB of memory, around the hole" between 2900 "$(heard memory)" 3072

guest_said_button()
{
	[ "$status" = 0 ] && grep -q "the button was pressed" "$work/guest.out"
}

usual=(--kernel "$kernel" --initramfs "$work/obey.cpio" --console off --serial tty --memory size=256M)
vmm_start "${usual[@]}" --cmdline "console=ttyS0 quiet panic=-1"
check "a guest waits for orders" guest_says "^at your orders"
guest_type reboot
check "it reboots in place" within 180 eval "[ \$(grep -c '^at your orders' \"$work/guest.out\") = 2 ]"
guest_type off
status=0
vmm_wait 180 || status=$?
check "it powers off after that" test $status = 0

vmm_start "${usual[@]}" --cmdline "console=ttyS0 quiet panic=-1"
guest_says "^at your orders"
kill -TERM "$vmm_pid"
status=0
vmm_wait 180 || status=$?
check "SIGTERM presses the button, and the guest ends itself" guest_said_button

vmm_start "${usual[@]}" --cmdline "console=ttyS0 quiet panic=0 reboot=t"
guest_says "^at your orders"
: >"$work/vmm.log"
guest_type reboot
status=0
vmm_wait 180 || status=$?
check "a triple fault ends it with a failure, not a time-out" between 1 $status 123
check "and with one line that says so" test "$(grep -c -i 'triple fault' "$work/vmm.log")" = 1

vmm_start "${usual[@]}" --cmdline "console=ttyS0 quiet panic=-1"
guest_says "^at your orders"
guest_type crash
check "a guest that panics reboots" within 180 eval "[ \$(grep -c '^at your orders' \"$work/guest.out\") = 2 ]"
guest_type off
status=0
vmm_wait 180 || status=$?
check "and can power off then" test $status = 0

vmm_start run -i "$work/obey.cpio" -m 256 -p quiet -p panic=-1 "$kernel"
check "crosvm's words boot it too, with its console at the terminal" guest_says "^at your orders"
guest_type off
status=0
vmm_wait 180 || status=$?
check "and it powers off" test $status = 0
lab_done
