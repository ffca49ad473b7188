#!/bin/bash
#
# lab.sh - the lab itself: what goes in and comes out of L1, how it ends, and what L1 can do
#
# Runs lab/run from outside, a boot per handful of checks.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 13

# ended NAME WANTED OPTION...: lab/run ends with that status; its output is in $work/run.out and run.log.
ended()
{
	local name=$1 wanted=$2 status=0

	shift 2
	"$lab_dir/run" "$@" >"$work/run.out" 2>"$work/run.log" || status=$?
	check "$name" test $status = "$wanted"
}

# shellcheck disable=SC2016
script='printf "one\r\ntwo\n"; echo to stderr >&2; echo "$1" >"$0/written"; echo lost >/tmp/outboard-lab-lost; sleep 600 & exit 200'
ended "a status above 127 comes back, with a process left behind" 200 --write "$work" -- sh -c "$script" "$work" "a  'b' \$c"
check "output is passed through byte for byte" test "$(md5sum <"$work/run.out")" = "$(printf 'one\r\ntwo\n' | md5sum)"
check "stderr is kept apart" test "$(cat "$work/run.log")" = "to stderr"
check "arguments arrive as they were, and files come back from a --write folder" \
	test "$(cat "$work/written")" = "a  'b' \$c"
check "other writes stay in L1" test ! -e /tmp/outboard-lab-lost

ended "a command that outlives --timeout ends with 124" 124 --timeout 10 -- sleep 600
check "the time-out is named" grep -q '^lab/run: time-out' "$work/run.log"
ended "a panic of L1 ends with 120" 120 -- sh -c 'echo c >/proc/sysrq-trigger'
check "L1's last words are shown" grep -q 'sysrq triggered crash' "$work/run.log"
ended "wrong usage ends with 125" 125 --cpus none -- true

# shellcheck disable=SC2016
ended "L1 has KVM, an IOMMU with a group per device, and the devices" 0 --iommu intel --device nvme --device e1000e \
	--device edu -- sh -c 'test -c /dev/kvm && cd /sys/bus/pci/devices &&
	for d in 5 6 7; do readlink 0000:00:0$d.0/iommu_group | sed "s,.*/,,"; done'
check "each device is in a group of its own" test "$(sort -u "$work/run.out" | wc -l)" = 3
ended "the AMD IOMMU works too" 0 --iommu amd --device nvme -- test -e /sys/bus/pci/devices/0000:00:05.0/iommu_group
lab_done
