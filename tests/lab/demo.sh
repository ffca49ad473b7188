#!/bin/bash
#
# demo.sh - what ./demo shows, with Debian's stock kernel
# shellcheck source-path=SCRIPTDIR source=vvu-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vvu-lib.sh"
lab_plan 8

if lab_outside; then
	"$lab_dir/setup" peers
	static_programs || exit
	make_demo_guests "$static" "$work" || exit
	mkdir "$work/disks"
	echo "a line on the disk" >"$work/disks/nvme.img"
	truncate -s 64M "$work/disks/nvme.img"
	lab_boot --timeout 600 --write "$work/disks" --device nvme="$work/disks/nvme.img"
fi

status=0
"$lab_dir/demo-guest" "$build" "$(stock_dir)/vmlinuz" "$work/guest.cpio" 0000:00:05.0 >"$work/demo.out" 2>"$work/demo.log" || status=$?
check "a stock Debian guest drives the card and finds all as it should be" test $status = 0
check "the card's chip is there" grep -q 'gpiochip512' "$work/demo.out"
check "its interrupt is counted" test "$(awk '$NF == "gpiolib" { n += $2 + $3 + $4 + $5 } END { print n + 0 }' \
	"$work/demo.out")" -gt 0
check "the boot is timed" grep -q -E "^from exec to the guest's user space: [0-9]+ ms$" "$work/demo.out"
check "the NVMe that was passed through has what the guest wrote" test "a line of the guest" = \
	"$(dd if="$work/disks/nvme.img" bs=4096 skip=1 count=1 2>/dev/null | tr -d '\0')"
own=$(awk '/^the VMM.s own memory:/ { print $5 }' "$work/demo.out")
check "the VMM needs at most 4 MiB of its own for a guest of 512 MiB" test "${own:-9999}" -le 4096
status=0
"$lab_dir/demo-vvu" "$build" "$(stock_dir)/vmlinuz" "$work/device.cpio" "$work/sibling.cpio" >"$work/vvu.out" 2>"$work/vvu.log" ||
	status=$?
check "a stock Debian guest is the disk of another one" test $status = 0
check "which finds the program's disk.img" grep -q -x "sibling| 32768" "$work/vvu.out"
lab_done
