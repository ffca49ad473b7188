# shellcheck shell=bash disable=SC2016,SC2034  # words for the guests' shells; what the scripts use
#
# vvu-lib.sh - guests that serve, and guests that are served: what the tests of the VVU route share
#
# Several guests in one L1, each with a name: start NAME ARG... starts outboard for one, in the folder $work/NAME, and
# vm NAME COMMAND... is a command of lib.sh (guest_says, guest_type, vmm_wait, ...) for it. Every guest
# does what it is told on its console, `do COMMAND...`, until it is told `off`. A guest that serves has a
# static outboard-device and the functions of $serving.
#
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
static=${OUTBOARD_STATIC_BUILD:-$build/static}
declare -A vm_pid=() vm_keys=()

# What guests that serve can do. An address is that of a VVU function.
serving='
of=/sys/bus/pci/devices
bind()
{
	for bdf; do
		echo vfio-pci >$of/$bdf/driver_override
		[ ! -e $of/$bdf/driver ] || echo $bdf >$of/$bdf/driver/unbind
		echo $bdf >/sys/bus/pci/drivers_probe
		echo "driver of $bdf $(basename $(readlink $of/$bdf/driver))"
	done
}
# serve NAME MODEL ADDRESS ARG...
serve()
{
	name=$1 model=$2 bdf=$3
	shift 3
	outboard device $model --vfio $bdf --verbose "$@" 2>&1 &
	eval "server_$name=$!"
}
# killed NAME
killed()
{
	eval "server=\$server_$1"
	kill -9 $server
	wait $server
	echo "server $1 ended with $?"
}'

orders='
echo ready
while read -r order rest; do
	case $order in
	do) eval "$rest" ;;
	off) poweroff -f & ;;
	esac
done'

# static_programs: makes those that a guest's initramfs can run, in a build of its own. One test at a time does; the lock
# is the subshell's, not that of the lab.
static_programs()
(
	local log

	take_lock "$static.lock"
	log=$(build_static "$static" 2>&1) || die "no static programs: $(tail -n 3 <<<"$log")"
)

# guests: makes $work/device.cpio, which serves, and $work/sibling.cpio; standard input is what both do first.
guests()
{
	local first

	first=$(cat)
	static_programs || exit
	printf '%s\n' "$serving" "$first" "$orders" |
		"$lab_dir/mkguest" --file "$static/src/outboard" --file "$static/src/outboard-device" "$work/device.cpio"
	printf '%s\n' "$first" "$orders" | "$lab_dir/mkguest" "$work/sibling.cpio"
}

# start NAME ARG...
start()
{
	local name=$1 part

	shift
	mkdir -p "$work/$name"
	# What is shown of it when a check fails.
	for part in guest.out vmm.log; do
		ln -sf "$name/$part" "$work/$name-$part"
	done
	vm "$name" vmm_start "$@"
	vm_pid[$name]=$vmm_pid vm_keys[$name]=$keys_fd
}

# vm NAME COMMAND...
vm()
{
	local name=$1

	shift
	if [ "$1" = vmm_start ]; then
		work=$work/$name "$@"
	else
		work=$work/$name vmm_pid=${vm_pid[$name]} keys_fd=${vm_keys[$name]} "$@"
	fi
}

# serving_vm ARG...: the VM called device. $work/device.cpio is its initramfs.
serving_vm()
{
	start device --console off --serial tty --kernel "$kernel" --initramfs "$work/device.cpio" --cpus 1 \
		--cmdline "console=ttyS0 panic=-1 vfio_iommu_type1.allow_unsafe_interrupts=1" "$@"
}

# sibling_vm NAME ARG...
sibling_vm()
{
	local name=$1

	shift
	start "$name" --console off --serial tty --kernel "$kernel" --initramfs "$work/sibling.cpio" --cmdline "console=ttyS0 panic=-1" "$@"
}

# tell NAME COMMAND: to the guest, which carries it out.
tell()
{
	vm "$1" guest_type "do $2"
}

# says NAME REGEX [SECONDS]
says()
{
	local name=$1

	shift
	vm "$name" guest_says "$@"
}

# sum NAME FILE MIB [MARK]: prints what the guest NAME finds in the beginning of FILE, not from its cache. MARK tells
# one sum from another. No guest_says in a $(...): what it starts would hold the pipe.
ask_sum()
{
	tell "$1" "echo 3 >/proc/sys/vm/drop_caches; echo \"$4 \$(head -c $(($3 * 1048576)) $2 | md5sum | cut -d ' ' -f 1)\""
	says "$1" "^$4 [0-9a-f]{32}$" 120
}

said_sum()
{
	tr -d '\r' <"$work/$1/guest.out" | awk -v mark="$2" '$1 == mark { sum = $2 } END { print sum }'
}

# same_sums SIBLING FILE MIB MARK: the sibling's FILE begins as the serving guest's /disk.img does, not with zeros.
same_sums()
{
	ask_sum "$1" "$2" "$3" "$4" && ask_sum device /disk.img "$3" "$4" &&
		[ "$(said_sum "$1" "$4")" = "$(said_sum device "$4")" ] &&
		[ "$(said_sum "$1" "$4")" != "$(head -c "$3M" /dev/zero | md5sum | cut -d ' ' -f 1)" ]
}

# kill_vm NAME: as if its host had lost it.
kill_vm()
{
	local keys=${vm_keys[$1]}

	kill -9 "${vm_pid[$1]}"
	wait "${vm_pid[$1]}" 2>/dev/null
	exec {keys}>&-
}

# power_off NAME: and the status of its VMM.
power_off()
{
	vm "$1" guest_type off
	vm "$1" vmm_wait 120
}
