#!/bin/bash
#
# api.sh - a Linux guest that is commanded by outboard-remote
#
# What the test guest cannot tell: that Linux bears a pause without complaint, that its clock stood meanwhile, that it
# takes an NMI and the power button.
# shellcheck disable=SC2119  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 16

if lab_outside; then
	"$lab_dir/mkguest" "$work/obey.cpio" <<'END'
echo "at your orders"
while read -r order name; do
	case $order in
	clock) read -r up rest </proc/uptime; echo "clock $name ${up%.*}${up#*.}" ;;
	nmis) echo "nmis $name $(awk '$1 == "NMI:" { print $2 }' /proc/interrupts)" ;;
	complaints) echo "complaints $name $(dmesg | grep -c -i 'lockup\|stall')" ;;
	geds) echo "geds $name $(awk '/ACPI:Ged/ { print $2 + $3 }' /proc/interrupts)" ;;
	esac
done
END
	lab_boot --timeout 400
fi

socket=$work/api.sock

remote()
{
	"$build/src/outboard-remote" --api-socket "$socket" "$@" 2>>"$work/remote.log"
}

# answer ORDER NAME: the number in the guest's answer.
answer()
{
	guest_type "$1 $2"
	guest_says "^$1 $2 " && tr -d '\r' <"$work/guest.out" | awk -v a="$1" -v b="$2" '$1 == a && $2 == b { print $3 }'
}

# shellcheck disable=SC2317  # called by check
state_is()
{
	# Not by a pipe, whose status would be that of info if grep has seen enough before info is done.
	grep -q "\"state\": \"$1\"" <(remote info)
}

vmm_start --api-socket "$socket" --event-monitor path="$work/events.log"
check "the socket is there" within 180 listening "$socket"
cat >"$work/vm.json" <<END
{ "payload": { "kernel": "$kernel", "initramfs": "$work/obey.cpio", "cmdline": "console=ttyS0 quiet panic=-1" },
  "cpus": { "boot_vcpus": 2, "max_vcpus": 2 }, "memory": { "size": 268435456 }, "serial": { "mode": "Tty" } }
END
check "a VM is created from a file" remote create "$work/vm.json"
check "it boots" remote boot
check "Linux is there" guest_says "^at your orders"

complaints=$(answer complaints before)
guest_before=$(answer clock before)
host_before=$(date +%s%N)
check "it is paused" remote pause
check "and says so" state_is Paused
sleep 6 # what the guest is not to see
check "it goes on" remote resume
guest_after=$(answer clock after)
host_after=$(date +%s%N)
# In hundredths of a second: of at least six the guest has not seen five.
unseen=$(((host_after - host_before) / 10000000 - (guest_after - guest_before)))
check "its clock stood meanwhile" test "$unseen" -gt 500
check "it does not complain" test "$(answer complaints after)" = "$complaints"

nmis=$(answer nmis before)
check "it is sent an NMI" remote nmi
check "which reaches it" test "$(answer nmis after)" -gt "$nmis"

remote reboot
check "it is rebooted" within 240 eval "[ \$(grep -c '^at your orders' \"$work/guest.out\") = 2 ]"
check "its power button is pressed" remote power-button
check "it hears of that" test "$(answer geds after)" -gt 0
remote shutdown-vmm
status=0
vmm_wait 180 || status=$?
check "the VMM ends" test $status = 0
check "each step was told" test "$(sed 's/.*"event":"\([a-z]*\)".*/\1/' "$work/events.log" | xargs)" = \
	"starting booting booted pausing paused resuming resumed rebooting rebooted shutdown shutdown"
lab_done
