#!/bin/bash
#
# vvu-kill.sh - each of those who have a part in a disk served from within another guest is killed, idle and at work
#
# The parts are the server (outboard-device in the device VM), the device VM, and the sibling that has the disk. At work means
# that the sibling's fio writes blocks with checksums and reads them back, pass after pass. When one is killed and
# there again, the others live, the work goes on, and there is no error and no wrong byte. Where the sibling itself is
# killed, the next one finds what the one before was told is written, and in all else whole blocks.
#
# The file lies on a disk of the device VM; the server is told to write through, since what the device VM's page cache
# has goes with it. Once each, or $OUTBOARD_KILLS times; all parts, or those in $OUTBOARD_KILL_WHO.
# shellcheck disable=SC2016,SC2317  # words for the guests' shells; functions called by check
# shellcheck source-path=SCRIPTDIR source=vvu-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vvu-lib.sh"
kills=${OUTBOARD_KILLS:-1}
read -r -a who <<<"${OUTBOARD_KILL_WHO:-server device sibling}"
lab_plan $((6 + 4 * ${#who[@]}))

if lab_outside; then
	"$lab_dir/setup" peers
	guests <<'END'
lib=/peers/root/usr/lib/x86_64-linux-gnu
fio()
{
	/peers/root/lib64/ld-linux-x86-64.so.2 --library-path $lib:$lib/ceph /peers/root/usr/bin/fio --name=load \
		--filename=/dev/vda --size=8M --bs=4k --direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 \
		--eta=never --output=/tmp/fio.txt "$@"
}
peers()
{
	mkdir /peers
	mount -t virtiofs peers /peers && echo "has fio"
}
# load NAME: until /tmp/stop is there (again).
load()
{
	status=0
	while [ ! -e /tmp/stop ] && [ $status = 0 ]; do
		fio --rw=randwrite --iodepth=16 --do_verify=1
		status=$?
	done
	echo "$1: fio ended with $status"
	[ $status = 0 ] || cat /tmp/fio.txt
}
written()
{
	set -- $(cat /sys/block/vda/stat)
	echo $7
}
# moves NAME: when some hundred blocks were written from now on.
moves()
{
	from=$(written)
	until [ $(($(written) - from)) -ge 2048 ] || [ -e /tmp/stop ]; do usleep 50000; done
	echo "$1 moves"
}
# mark WORD: behind what fio has. heard WORD: it is there.
mark()
{
	echo "$1" | dd of=/dev/vda bs=512 seek=20000 conv=sync,fsync,notrunc 2>/dev/null && echo "marked $1"
}
heard()
{
	echo 3 >/proc/sys/vm/drop_caches
	dd if=/dev/vda bs=512 skip=20000 count=1 2>/dev/null | head -n 1 | sed 's/^/heard /'
}
END
	lab_boot --memory 3584 --timeout $((600 + 150 * kills))
fi

start_device()
{
	serving_vm --memory size=256M --disk "path=$work/back.img" \
		--vvu-proxy "$work/vvu.sock,addr=0000:00:10.0,iommu=on" && says device '^ready' || return
	tell device 'bind 0000:00:10.0'
	says device '^driver of 0000:00:10.0 vfio-pci' && serve
}

serve()
{
	tell device 'serve disk block 0000:00:10.0 --file /dev/vda --write-through'
}

start_sibling()
{
	within 90 listening "$work/peers.sock" || return
	sibling_vm sibling --cpus 2 --memory size=384M --disk "vhost_user=on,socket=$work/vvu.sock" \
		--fs "tag=peers,socket=$work/peers.sock" && says sibling '^ready' || return
	tell sibling peers
	says sibling '^has fio'
}

# It ends with its client.
share_peers()
{
	"$(peers_dir)/bin/virtiofsd" --shared-dir "$(peers_dir)" --socket-path "$work/peers.sock" --sandbox none \
		>>"$work/virtiofsd.log" 2>&1 </dev/null &
	pids+=($!)
}

# kill_PART: and it comes back.
kill_server()
{
	: >"$work/device/guest.out"
	tell device 'killed disk'
	says device '^server disk ended with 137' && serve
}

kill_device()
{
	kill_vm device
	start_device
}

kill_sibling()
{
	kill_vm sibling
	share_peers
	start_sibling
}

# marked WORD, heard WORD: the sibling's disk has it.
marked()
{
	tell sibling "mark $1"
	says sibling "^marked $1"
}

heard()
{
	tell sibling heard
	says sibling "^heard $1"
}

idle_rounds()
{
	local i

	for ((i = 0; i < kills; i++)); do
		marked "$1-$i" && "kill_$1" && heard "$1-$i" || return
	done
}

moves()
{
	tell sibling "moves $1"
	says sibling "^$1 moves"
}

# Who is at work is not who is killed.
busy_rounds()
{
	local i

	tell sibling "rm -f /tmp/stop; load with-$1 &"
	for ((i = 0; i < kills; i++)); do
		moves "$1-$i" && "kill_$1" && moves "$1-$i-again" || return
	done
}

ends_well()
{
	tell sibling 'touch /tmp/stop'
	says sibling "^with-$1: fio ended with 0" 400
}

# Each of them leaves blocks that are whole, and what it was told is written.
busy_siblings()
{
	local i

	for ((i = 0; i < kills; i++)); do
		marked "busy-$i" || return
		tell sibling "rm -f /tmp/stop; load with-sibling &"
		moves "sibling-$i" && kill_sibling && heard "busy-$i" && verified "$i" || return
	done
	tell sibling "rm -f /tmp/stop; load with-sibling &"
	moves last
}

verified()
{
	tell sibling "fio --rw=read; echo \"read $1 ended with \$?\""
	says sibling "^read $1 ended with 0" 120
}

# has: the kinds of descriptors and of shared mappings that the device VM's VMM has, how many of each. Keyboards are this
# script's: each VMM has those of all that were started before it.
has()
{
	local proc=/proc/${vm_pid[device]}

	{
		find "$proc/fd" -mindepth 1 ! -lname '*/keys*' -printf 'descriptor %l\n'
		awk '/memfd/ { print "mapping", $6 }' "$proc/maps"
	} | sed 's/:\[[0-9]*\]$//; s/[0-9]*\/fd$/fd/' | sort | uniq -c
}

has_what_it_had()
{
	has | diff "$work/had" - >"$work/has" || { sed 's/^/# /' "$work/has"; false; }
}

truncate -s 16M "$work/back.img"
share_peers
check "the device VM serves" start_device
check "the sibling has the disk, and fio" start_sibling
tell sibling 'fio --rw=randwrite --iodepth=16 --do_verify=1; echo "first pass ended with $?"'
check "fio finds what it wrote" says sibling '^first pass ended with 0'
has >"$work/had"
for part in "${who[@]}"; do
	check "idle, the $part is killed, $kills times: the disk has what was written" idle_rounds "$part"
	if [ "$part" = sibling ]; then
		check "at work, the sibling is killed, $kills times: all blocks are whole" busy_siblings
	else
		check "at work, the $part is killed, $kills times: the work goes on" busy_rounds "$part"
	fi
	check "fio saw no error and no wrong byte" ends_well "$part"
	check "no VMM told of an error" test -z "$(cat "$work"/*/vmm.log | grep "error:")"
done
check "the device VM's VMM has the descriptors and mappings that it had" has_what_it_had
check "the sibling powers off" power_off sibling
check "the device VM powers off" power_off device
lab_done
