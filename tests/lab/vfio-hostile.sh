#!/bin/bash
#
# vfio-hostile.sh - a guest that takes its devices away from under its own other processors
#
# The freestanding test guest (test_hostile.c) has an NVMe and an e1000e, or an e1000 and an edu of one group. Four
# processors switch decoding, move BARs, let the devices sleep and reset them while all of them read and write there.
# Whatever the guest gets, outboard lives, the host's kernel has nothing to complain of, and the devices work
# afterwards: for the host's drivers, and for the next guest. OUTBOARD_STEPS are for each of the four guests.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=vfio-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vfio-lib.sh"
steps=${OUTBOARD_STEPS:-8000}
lab_plan 27

if lab_outside; then
	vfio_guest
	truncate -s 64M "$work/nvme.img"
	# One CPU: with two threads the emulator can fail an assertion of its own (iotlb_to_section) where memory comes and goes.
	lab_boot --iommu "$iommu" --cpus 1 --timeout 600 --device nvme="$work/nvme.img" --device e1000e --device pair
fi

# hostile WORDS ADDRESS... [-- ARG...]: the guest begins. The words are test_hostile.c's.
hostile()
{
	local words=$1 devices=()

	shift
	while [ $# -gt 0 ] && [ "$1" != -- ]; do
		devices+=("path=$sys/$1/")
		shift
	done
	[ $# = 0 ] || shift
	: >"$work/vmm.log"
	vmm_start --kernel "$build/tests/guest/guest.bzimage" --cmdline "test=hostile n=$steps $words" --cpus 4 \
		--memory size=64M --console off --serial tty --device "${devices[@]}" "$@"
	guest_says '^# hostile n'
}

# borne WORDS ADDRESS... [-- ARG...]: the VMM lives until the guest switches it off.
borne()
{
	hostile "$@" && vmm_wait 300
}

# taken WORDS ADDRESS... [-- ARG...]: the e1000e is the host's again in the middle of it.
taken()
{
	hostile "$@" && timeout 120 "$build/src/outboard" device-unbind --force "$e1000e" >>"$work/bind.log" 2>&1 &&
		vmm_says "host wants the device back.*loses it" 60 && vmm_wait 300 && bound "$e1000e" e1000e
}

# all_good: the guest's report has what it planned, and nothing failed.
all_good()
{
	tr -d '\r' <"$work/guest.out" >"$work/report"
	sed -n 's/^ok .* - \(of the reads\)/# \1/p' "$work/report"
	! grep -q '^not ok' "$work/report" &&
		[ "$(sed -n 's/^1\.\.//p' "$work/report")" = "$(grep -c '^ok ' "$work/report")" ]
}

# What the kernel has to say of itself, and of DMA that it did not allow.
kernel_is_calm()
{
	dmesg >"$work/dmesg" && grep -q "Linux version" "$work/dmesg" &&
		! grep -E 'BUG|WARNING|Oops|general protection|Call Trace|DMAR: .*fault|AMD-Vi: .*(error|FAULT)' "$work/dmesg" \
			>"$work/kernel.log"
}

host_uses_nvme()
{
	vfio_unbind "$nvme" && bound "$nvme" nvme && within 20 test -b /dev/nvme0n1 &&
		dd if=/dev/urandom of="$work/data" bs=1M count=2 2>/dev/null &&
		dd if="$work/data" of=/dev/nvme0n1 bs=64k oflag=direct conv=fsync 2>/dev/null &&
		[ "$(dd if=/dev/nvme0n1 bs=64k count=32 iflag=direct 2>/dev/null | sum_of)" = "$(sum_of <"$work/data")" ] &&
		vfio_bind "$nvme"
}

# both WHAT ARG...
both()
{
	local what=$1

	shift
	check "$what: outboard bears what a guest does to an NVMe and an e1000e" \
		borne "a=0x00101b36 b=0x10d38086 bm=0" "$nvme" "$e1000e" -- "$@"
	check "and they answer afterwards" all_good
	check "it bears what one does to an e1000 and an edu" \
		borne "a=0x100e8086 am=0 b=0x11e81234" "$pair0" "$pair1" -- "$@"
	check "and they answer afterwards" all_good
	check "it bears that the host takes one of them meanwhile" \
		taken "a=0x00101b36 b=0x10d38086 bm=0" "$nvme" "$e1000e" -- "$@"
	check "which is bound once more" vfio_bind "$e1000e"
	check "the host's kernel has nothing to complain of" kernel_is_calm
	check "nothing is open or pinned any more" nothing_left
	check "the host's driver uses the NVMe" host_uses_nvme
	vfio_start "" "$nvme" "$e1000e" "$pair1" -- --cpus 2 --memory size=256M "$@"
	must "the next guest has the devices" guest_says '^ready'
	check "it uses the NVMe" ask "disk_write nvme0n1 1"
	check "and the network" ask "net 8086:10d3"
	check "and ends" ends
}

check "the devices are bound" vfio_bind "$nvme" "$e1000e" "$pair0" "$pair1"
both container
both iommufd --platform iommufd=on
lab_done
