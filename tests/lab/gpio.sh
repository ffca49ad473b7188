#!/bin/bash
#
# gpio.sh - a guest drives the GPIO card by vfio-user, and keeps it when the card's process dies, stops, and returns
#
# The guest takes orders on its serial port: `do COMMAND` runs it, `watch` prints IIN3 whenever it changes. A lost device
# reads all-ones, so IIN3, which is 0 as long as OUT3 is, shows a loss as a 1.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 19

if lab_outside; then
	"$lab_dir/mkguest" "$work/guest.cpio" <<'END'
gpio=/sys/class/gpio
value()
{
	dd if=$gpio/$1/value bs=8 count=1 2>/dev/null
}
interrupts()
{
	awk '/idio|gpiolib/ { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }' /proc/interrupts
}
# counted N: an interrupt comes when it comes: look until there were N, some seconds at most.
counted()
{
	tries=0
	while [ $tries -lt 500 ] && [ "$(interrupts)" -lt "$1" ]; do
		tries=$((tries + 1))
	done
	[ "$(interrupts)" -ge "$1" ]
}
watch()
{
	last=
	while :; do
		now=$(value IIN3)
		[ "$now" = "$last" ] || echo "IIN3 is $now"
		last=$now
	done
}
for chip in $gpio/gpiochip*; do
	[ ! -e "$chip/base" ] || base=$(cat $chip/base)
done
echo "chip at ${base:-nowhere}"
for line in 0 3; do
	echo $((base + line)) >$gpio/export
done
# All inputs get an interrupt once: see ask_for_inputs() in lab/demo-steps.
for line in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
	echo $((base + 16 + line)) >$gpio/export
	echo both >$gpio/IIN$line/edge
	echo none >$gpio/IIN$line/edge
done
echo "lines $(ls $gpio | grep -e IN -e OUT | xargs)"
while read -r order rest; do
	case $order in
	do) eval "$rest" ;;
	watch) watch & ;;
	off) exit 0 ;;
	esac
done
END
	lab_boot
fi

socket=$work/gpio.sock
state=$work/gpio.state
card()
{
	device_start gpio "$socket" --loopback --state="$state"
}

check "the card listens" card
vmm_start --kernel "$kernel" --initramfs "$work/guest.cpio" --cmdline "console=ttyS0 quiet panic=-1" --cpus 2 \
	--memory size=256M --console off --serial tty --user-device "socket=$socket,id=gpio0"
check "a gpiochip appears" guest_says "^chip at 512"
check "its lines have their names" guest_says "^lines IIN0 IIN1 .*IIN9 OUT0 OUT3"
# shellcheck disable=SC2016
{
	guest_type 'do echo "OUT0 reads $(for i in 1 2 3 4 5 6 7 8 9 10 11 12; do value OUT0; done | xargs)"'
	check "OUT0 reads as on the reference card" guest_says "^OUT0 reads 0 0 0 0 0 0 0 0 0 0 0 0$"
	guest_type 'do echo both >$gpio/IIN3/edge; before=$(interrupts); echo 1 >$gpio/OUT3/value; echo "IIN3 $(value IIN3)"'
	check "an output comes back at its input" guest_says "^IIN3 1"
	guest_type 'do counted $((before + 1)) && echo "interrupts counted"'
	check "its change interrupts the guest" guest_says "^interrupts counted"
	guest_type 'do before=$(interrupts); for i in $(seq 20); do echo 0 >$gpio/OUT3/value; echo 1 >$gpio/OUT3/value; done'
	guest_type 'do counted $((before + 2)) && echo "more interrupts"'
	check "and again: the line is not stuck" guest_says "^more interrupts"
	guest_type 'do echo 0 >$gpio/OUT3/value; echo "low $(value IIN3)"'
	check "the output falls again" guest_says "^low 0"
}

guest_type watch
check "the guest watches its input" guest_says "^IIN3 is 0"
: >"$work/vmm.log"
kill -9 "$device_pid"
check "with the card killed it reads all-ones" guest_says "^IIN3 is 1"
check "the loss is logged" vmm_says "gpio0|$socket"
: >"$work/guest.out"
check "the card starts again" card
check "the guest's reads are right again" guest_says "^IIN3 is 0"
check "loss and return are one line each" test "$(wc -l <"$work/vmm.log")" = 2
# shellcheck disable=SC2016
guest_type 'do kill $!; before=$(interrupts); echo 1 >$gpio/OUT3/value; echo "after the return: $(value IIN3)"'
check "writes reach the new process" guest_says "^after the return: 1"
# shellcheck disable=SC2016
guest_type 'do counted $((before + 1)) && echo "interrupted"'
check "interrupts come from the new process" guest_says "^interrupted"

: >"$work/guest.out"
kill -STOP "$device_pid"
# shellcheck disable=SC2016
guest_type 'do echo "IIN0 of a stopped card: $(value IIN0)"'
check "a stopped card delays the guest no longer than its deadline" guest_says "^IIN0 of a stopped card: 1" 60
kill -CONT "$device_pid"
guest_type off
status=0
vmm_wait 180 || status=$?
check "the guest powers off" test $status = 0
kill -TERM "$device_pid"
status=0
within 60 gone "$device_pid" && { wait "$device_pid" || status=$?; }
check "the card ends cleanly" test $status = 0
lab_done
