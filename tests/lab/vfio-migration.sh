#!/bin/bash
#
# vfio-migration.sh - a device's state goes from one into another: the kernel's sample of one that can migrate
#
# The functions that do it have no command yet, so a program of the test's own calls them, on two of the kernel's mtty.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 5

if lab_outside; then
	gcc -std=gnu17 -D_GNU_SOURCE -O1 -g -Wall -Werror -Wno-unused-parameter -I"$tree/src" -o "$work/vfio-migration" \
		"$tree"/tests/lab/vfio-migration.c "$tree"/src/attach/vfio_{migration,dirty}.c \
		"$tree"/src/base/{err,fd,log}.c || exit 1
	lab_boot --cpus 1
fi

type=/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1
first=6a8d4c1e-0000-4000-8000-000000000001
second=6a8d4c1e-0000-4000-8000-000000000002

# moves CASE: on two devices of its own.
moves()
{
	local status

	echo "$first" >"$type/create" && echo "$second" >"$type/create" || return
	"$work/vfio-migration" "$1" "$first" "$second" >>"$work/moves.out" 2>&1
	status=$?
	echo 1 >"/sys/bus/mdev/devices/$first/remove"
	echo 1 >"/sys/bus/mdev/devices/$second/remove"
	return "$status"
}

check "a device that is stopped gives its state to another" moves stop-copy
check "so does one that runs on meanwhile, in two parts" moves pre-copy
check "a move can be called off from each state" moves called-off
check "a state that is none, or half of one, is refused, and a reset makes up for it" moves wrong-state
check "a device logs its writes, and can be asked again" moves log
lab_done
