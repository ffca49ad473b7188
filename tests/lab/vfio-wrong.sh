#!/bin/bash
#
# vfio-wrong.sh - host devices that cannot be passed on: one line each, and nothing is left bound, open or pinned;
# and those that a guest loses, since they report an error or the host wants them back
#
# All of it by container, and by iommufd. vfio-wrong-amd.sh is the same with the other IOMMU.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=vfio-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vfio-lib.sh"
lab_plan 50

if lab_outside; then
	vfio_guest
	lab_boot --iommu "$iommu" --timeout 600 --device nvme --device e1000e --device edu --device igb --device pair
fi

# path ADDRESS
path()
{
	echo "path=$sys/$1/"
}

# hands_off COMMAND...: it fails, says one line, and the devices are bound as they were.
hands_off()
{
	local before status=0

	before=$(drivers)
	"$build/src/outboard" "$@" >"$work/bind.log" 2>&1 || status=$?
	[ "$status" = 1 ] && [ "$(wc -l <"$work/bind.log")" = 1 ] && [ "$(drivers)" = "$before" ]
}

drivers()
{
	local device

	for device in "$sys"/*; do
		echo "$(basename "$device") $(driver_of "$(basename "$device")") $(cat "$device/driver_override")"
	done
}

# As the guide of other VMMs does it: the name of the driver, or the numbers of the device.
by_override()
{
	echo vfio-pci >"$sys/$e1000e/driver_override" && echo "$e1000e" >"$sys/$e1000e/driver/unbind" &&
		echo "$e1000e" >/sys/bus/pci/drivers_probe && bound "$e1000e" vfio-pci
}

by_new_id()
{
	echo "$nvme" >"$sys/$nvme/driver/unbind" && echo "1b36 0010" >/sys/bus/pci/drivers/vfio-pci/new_id &&
		bound "$nvme" vfio-pci
}

# unbound WHAT ARG...: what is wrong with devices as the host has them.
unbound()
{
	local what=$1

	shift
	check "$what: a device that does not exist" refused "0000:00:1e\.7.*no such" "$@" --device "$(path 0000:00:1e.7)"
	check "a path that leads elsewhere" refused "/dev/null" "$@" --device path=/dev/null
	check "a device that has its host's driver: the command that helps" refused \
		"$nvme is bound to nvme, .*outboard device-bind $nvme" "$@" --device "$(path "$nvme")"
	check "a device without a driver: the same" refused "$edu has no driver, .*outboard device-bind $edu" "$@" \
		--device "$(path "$edu")"
	check "a bridge" refused "0000:00:1f\.0 is a .*bridge" "$@" --device "$(path 0000:00:1f.0)"
}

# bound_ones WHAT ARG...: what can be wrong with those that are bound.
bound_ones()
{
	local what=$1

	shift
	check "$what: a device twice" refused "uplicate.*$edu" "$@" --device "$(path "$edu")" "$(path "$edu")"
	check "one of a group's two devices has its host's driver: which, and what helps" refused \
		"$pair0 \(e1000\).*outboard device-bind $pair0" "$@" --device "$(path "$pair1")"
	ulimit -S -l 64
	check "too little memory may be locked: how much is needed" refused "134217728 bytes.*ulimit -l 131072" \
		setpriv --bounding-set=-all -- "$@" --device "$(path "$nvme")"
	ulimit -S -l unlimited
}

# forbidden WHAT FILE ARG...: nobody may open it.
forbidden()
{
	local what=$1 file=$2 mode

	shift 2
	mode=$(stat -c %a "$file")
	chmod 0 "$file"
	check "$what" refused "$file: .*ermission" setpriv --bounding-set=-all -- "$@" --device "$(path "$nvme")"
	chmod "$mode" "$file"
}

# inject ADDRESS: the device reports that a completion did not come, an error that is not fatal to its link.
inject()
{
	timeout 60 /usr/bin/python3 - "$1" <<'END'
import re, struct, sys
COMPLETION_TIMEOUT = 0x4000
domain, bus, device, function = (int(part, 16) for part in re.split("[:.]", sys.argv[1]))
with open("/dev/aer_inject", "wb", buffering=0) as f:
    f.write(struct.pack("<BBBxIIIIIII", bus, device, function, COMPLETION_TIMEOUT, 0, 0, 0, 0, 0, domain))
END
}

error_is_seen()
{
	inject "$igb" && vmm_says "reported an error.*loses it" 60
}

in_use()
{
	local status=0

	timeout -k 5 60 "$build/src/outboard" --kernel "$kernel" --memory size=128M --console off --serial null \
		--device "$(path "$nvme")" "$@" </dev/null >"$work/second.log" 2>&1 || status=$?
	[ "$status" = 1 ] && [ "$(wc -l <"$work/second.log")" = 1 ] && grep -q "in use by another program" "$work/second.log"
}

# losses WHAT ARG...: a guest that has devices that others want, too, and that it loses.
losses()
{
	local what=$1

	shift
	vfio_start "" "$nvme" "$edu" "$e1000e" "$igb" -- --cpus 2 --memory size=128M "$@"
	must "$what: after all that a guest has the devices" guest_says '^ready'
	check "a device that another one has, by container" in_use
	check "and by iommufd" in_use --platform iommufd=on
	check "which is not disturbed" ask "disk_write nvme0n1 1 && edu"
	check "a device reports an error: the guest loses it, with a line" error_is_seen
	check "the host wants a device back, and gets it" timeout 120 "$build/src/outboard" device-unbind --force "$edu"
	check "the guest loses it, with a line" vmm_says "host wants the device back.*loses it" 60
	check "and still has the other one" ask "disk_write nvme0n1 1"
	guest_type "poweroff -f"
	check "the guest ends" vmm_wait 60
	check "nothing is open or pinned any more" within 10 nothing_left
}

before=$(drivers)
unbound container
unbound iommufd --platform iommufd=on
check "nothing of that was bound" test "$(drivers)" = "$before"
check "a bridge is not bound" hands_off device-bind 0000:00:1f.0
check "nor is what does not exist" hands_off device-bind 0000:00:1e.7

check "devices are bound by hand, by new_id" by_new_id
check "and by driver_override" by_override
check "and by our helper" vfio_bind "$edu" "$pair1"
ulimit -l unlimited
group=/dev/vfio/$(basename "$(readlink "$sys/$nvme/iommu_group")")
bound_ones container
forbidden "no permission for its group" "$group"
forbidden "no permission for /dev/vfio/vfio" /dev/vfio/vfio
bound_ones iommufd --platform iommufd=on
forbidden "no permission for the device" "/dev/vfio/devices/$(ls "$sys/$nvme/vfio-dev")" --platform iommufd=on
forbidden "no permission for /dev/iommu" /dev/iommu --platform iommufd=on

igb=$(below $igb_port)
check "one more is bound, behind a port" vfio_bind "$igb"
losses container
check "the device is bound once more" vfio_bind "$edu"
losses iommufd --platform iommufd=on

echo "1b36 0010" >/sys/bus/pci/drivers/vfio-pci/remove_id
check "the devices go back" vfio_unbind "$nvme" "$e1000e" "$pair1" "$igb"
check "all drivers are as they were" test "$(drivers)" = "$before"
lab_done
