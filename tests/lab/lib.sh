# shellcheck shell=bash
#
# lib.sh - frame of the lab tests
#
# A lab test is one script that runs twice. Outside it says what it will check, makes its guest's initramfs in $work, and
# calls lab_boot, which boots L1 and runs the script again in there, where it starts devices and VMMs and prints a TAP
# line per check. Several checks share one boot.
#
#	. "$(dirname "$0")/lib.sh"
#	lab_plan 3
#	if lab_outside; then
#		"$lab_dir/mkguest" "$work/guest.cpio" <<'END'
#		...
#	END
#		lab_boot --cpus 1
#	fi
#	device_start gpio ...; vmm_start --kernel "$kernel" ...
#	check "the guest sees the card" guest_says 'gpiochip'
#	lab_done
#
# Output of programs goes to files in $work and is shown when a check fails. $work outside is a folder of the host, in
# L1 the same folder, with what outside put there; what L1 writes into it is forgotten.
set -uo pipefail
me=$(basename "$0" .sh)
# shellcheck source-path=SCRIPTDIR source=../../lab/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../lab/lib.sh"

build=${OUTBOARD_BUILD:-$tree/build}
# The small kernel, for most guests: everything built in.
kernel=$(kernel_dir)/bzImage
vmlinux=$(kernel_dir)/vmlinux
export kernel vmlinux
cases=0 planned=0
pids=()
vmm_pid='' device_pid=''

lab_outside()
{
	[ -z "${OUTBOARD_LAB_WORK:-}" ]
}

if lab_outside; then
	work=$(mktemp -d "${TMPDIR:-/tmp}/outboard-$me.XXXXXX")
else
	work=$OUTBOARD_LAB_WORK
fi

lab_cleanup()
{
	[ ${#pids[@]} = 0 ] || kill -9 "${pids[@]}" 2>/dev/null
	! lab_outside || rm -rf "$work"
}
trap lab_cleanup EXIT
trap 'exit 130' INT TERM HUP

# lab_plan N: how many checks there will be; fewer is a failure.
lab_plan()
{
	planned=$1
	! lab_outside || echo "1..$1"
}

# lab_boot [OPTION of lab/run]...: runs this script in L1 and ends as it ends.
lab_boot()
{
	OUTBOARD_LAB_WORK=$work OUTBOARD_BUILD=$build "$lab_dir/run" --timeout 600 "$@" -- "$(readlink -f "$0")"
	exit
}

# with_libraries PROGRAM: the options of lab/mkguest, a line each, that give a guest this program of ours and what it
# is linked with.
with_libraries()
{
	{
		echo "$1"
		ldd "$1" | grep -o '/[^ ]*' | sed 's/.*/&:&/'
	} | sed 's/^/--file\n/'
}

# lab_skip_all WHY: nothing of this test can run here.
lab_skip_all()
{
	echo "1..0 # SKIP $*"
	exit 0
}

ok()
{
	cases=$((cases + 1))
	echo "ok $cases - $1"
}

# not_ok NAME: shows the ends of what the programs said, too.
not_ok()
{
	local file

	cases=$((cases + 1))
	echo "not ok $cases - $1"
	for file in "$work"/*.out "$work"/*.log; do
		[ -s "$file" ] || continue
		echo "# the end of $(basename "$file"):"
		tail -n 15 "$file" | tr -d '\r' | sed 's/^/#   /'
	done
}

# skip NAME WHY
skip()
{
	cases=$((cases + 1))
	echo "ok $cases - $1 # SKIP $2"
}

# check NAME COMMAND...: a case that passes if the command succeeds; its status says which.
check()
{
	local name=$1

	shift
	if "$@"; then
		ok "$name"
	else
		not_ok "$name"
		return 1
	fi
}

# must NAME COMMAND...: a case without which those after it would only wait for what cannot come.
must()
{
	check "$@" && return
	echo "# it ends here: what comes after this needs it"
	exit 1
}

lab_done()
{
	[ $cases = "$planned" ] || echo "# $cases checks ran, $planned were announced"
	[ $cases = "$planned" ]
	exit
}

# within SECONDS COMMAND...: repeats the command until it succeeds; false after that time. For states that give no event.
within()
{
	local deadline=$((SECONDS + $1))

	shift
	until "$@"; do
		[ $SECONDS -lt $deadline ] || return 1
		sleep 0.1
	done
}

# listening SOCKET: a connect to that path would succeed.
listening()
{
	grep -q -F " 00010000 " <(grep -F -- "$1" /proc/net/unix)
}

# device_start NAME SOCKET ARG...: starts `outboard-device NAME --socket-path=SOCKET ARG...` with its output in
# $work/NAME.log and waits until it listens; its pid is in device_pid.
device_start()
{
	local name=$1 socket=$2

	shift 2
	"$build/src/outboard-device" "$name" --socket-path="$socket" "$@" >>"$work/$name.log" 2>&1 </dev/null &
	device_pid=$!
	pids+=("$device_pid")
	within 20 listening "$socket"
}

# The command that starts outboard, if it is not to be started as it is: setpriv and its options.
vmm_by=()

# vmm_start ARG...: starts outboard; what the guest writes on --serial tty is in $work/guest.out, the VMM's own lines in
# $work/vmm.log; guest_type writes to the guest. Its pid is in vmm_pid.
vmm_start()
{
	rm -f "$work/keys"
	mkfifo "$work/keys"
	: >"$work/guest.out"
	"${vmm_by[@]}" "$build/src/outboard" "$@" <"$work/keys" >>"$work/guest.out" 2>>"$work/vmm.log" &
	vmm_pid=$!
	pids+=("$vmm_pid")
	exec {keys_fd}>"$work/keys"
}

# vmm_wait SECONDS: waits for the VMM to end and gives its status; 124 if it still runs then.
vmm_wait()
{
	within "$1" gone "$vmm_pid" || return 124
	exec {keys_fd}>&-
	wait "$vmm_pid"
}

gone()
{
	! kill -0 "$1" 2>/dev/null
}

guest_type()
{
	printf '%s\n' "$1" >&"$keys_fd"
}

# guest_says REGEX [SECONDS]: waits until the guest has written such a line (an extended regular expression).
guest_says()
{
	line_in "$work/guest.out" "$@"
}

# vmm_says REGEX [SECONDS]
vmm_says()
{
	line_in "$work/vmm.log" "$@"
}

# line_in FILE REGEX [SECONDS]: waits until such a line is in the file; at most until the VMM has ended.
line_in()
{
	local lines found=0

	# Opened here, so that tail is no child of timeout: in L1 nothing above us has our session, and the end of a
	# parent in another process group would then hang up the whole group if one in it is stopped.
	exec {lines}< <(exec tail -n +1 -s 0.1 -f --pid="$vmm_pid" "$1" 2>/dev/null | sed -u 's,\r$,,')
	timeout "${3:-240}" grep -q -m 1 -E -- "$2" <&"$lines" || found=1
	exec {lines}<&-
	return $found
}
