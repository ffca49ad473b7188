#!/bin/bash
#
# clock.sh - a host that measured its TSC anew after its KVM had begun, as busy machines do
#
# L1's kernel is told a rate that is a thousandth too low, which its KVM keeps; a second or two later it measures the
# right one. Guests of such a host have timers that come late by as long as the host has been up, if nobody asks KVM for
# the rate of today.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 3

if lab_outside; then
	"$lab_dir/mkguest" "$work/guest.cpio" <<'END'
sleep 1
echo "slept"
END
	# The emulator's TSC is the machine's own.
	lab_boot --append "tsc_early_khz=$(awk '/^cpu MHz/ { printf "%d", $4 * 999; exit }' /proc/cpuinfo)"
fi

# rate WORDS: kHz, of the kernel's line with these words.
rate()
{
	dmesg | awk -v words="$1" 'index($0, words) { sub(/ MHz.*/, ""); printf "%d", $NF * 1000; exit }'
}

measured_anew()
{
	[ -n "$(rate 'Refined TSC')" ]
}

within 60 measured_anew
first=$(rate 'tsc: Detected') second=$(rate 'Refined TSC')
# More than 250 ppm apart.
if [ -z "$second" ] || [ $((first * 4000)) -ge $((second * 3999)) ]; then
	for name in "a guest sleeps and wakes" "and a second one" "and ends"; do
		skip "$name" "L1 goes by ${first:-no} kHz, then by ${second:-no other} kHz"
	done
	lab_done
fi
for name in "a guest sleeps and wakes" "and a second one"; do
	vmm_start --kernel "$kernel" --initramfs "$work/guest.cpio" --cmdline "console=ttyS0 quiet panic=-1" \
		--console off --serial tty --cpus 2 --memory size=256M
	check "$name" guest_says "^slept" 120
	status=0
	vmm_wait 120 || status=$?
done
check "and ends" test "$status" = 0
lab_done
