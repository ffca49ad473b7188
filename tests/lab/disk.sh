#!/bin/bash
#
# disk.sh - an ext4 on --disk while its process is killed, and stopped, under load
#
# fio (from a shared directory) writes blocks with checksums and reads them back; meanwhile the block process is
# killed 15 times, or $OUTBOARD_KILLS, and stopped and continued 10 times; the emulator is not sound for very long. The
# guest must not see one error, nor fio one wrong sum; the file system is clean afterwards, and what fio wrote last is in
# the image.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 14
kills=${OUTBOARD_KILLS:-15} stops=10

if lab_outside; then
	"$lab_dir/setup" peers
	"$lab_dir/mkguest" "$work/guest.cpio" <<'END'
mkdir /peers /mnt
mount -t virtiofs peers /peers
lib=/peers/root/usr/lib/x86_64-linux-gnu
fio()
{
	/peers/root/lib64/ld-linux-x86-64.so.2 --library-path $lib:$lib/ceph /peers/root/usr/bin/fio "$@"
}
echo "disk $(cat /sys/block/vda/size) $(cat /sys/block/vda/serial) queues $(ls /sys/block/vda/mq | wc -l)"
mount -t ext4 /dev/vda /mnt && echo "mounted"
echo "host file: $(cat /mnt/from-host)"
while read -r order seconds; do
	case $order in
	load)
		fio --name=load --directory=/mnt --size=24M --rw=randwrite --bs=4k --ioengine=libaio --iodepth=16 --direct=1 \
			--numjobs=2 --verify=crc32c --verify_fatal=1 --do_verify=1 --time_based --runtime="$seconds" \
			--group_reporting --eta=never --output=/tmp/fio.txt
		echo "load: fio ended with $?"
		grep -e err= -e verify /tmp/fio.txt
		;;
	last)
		echo "written last" >/mnt/last
		sync
		echo "last: synced"
		;;
	off) break ;;
	esac
done
umount /mnt && echo "unmounted"
dmesg | grep -c -i -e 'i/o error' -e 'ext4-fs error' -e 'blk_update' | sed 's/^/errors in the log: /'
END
	truncate -s 192M "$work/disk.img"
	mkdir "$work/content"
	echo "a line of the host" >"$work/content/from-host"
	PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -F -d "$work/content" "$work/disk.img"
	lab_boot --memory 3072 --timeout 900
fi

# block_pid: the process that serves the disk.
block_pid()
{
	pgrep -n -f 'outboard-device block'
}

other_than()
{
	local now

	now=$(block_pid) && [ "$now" != "$1" ]
}

# Not more than five times in ten seconds: that is given up on, for good.
kill_often()
{
	local i pid

	for ((i = 0; i < kills; i++)); do
		pid=$(block_pid) || return 1
		kill -9 "$pid"
		within 90 other_than "$pid" || return 1
		sleep 2
	done
}

stop_often()
{
	local i pid

	for ((i = 0; i < stops; i++)); do
		pid=$(block_pid) || return 1
		kill -STOP "$pid"
		within 30 stopped "$pid" || return 1
		kill -CONT "$pid"
	done
}

stopped()
{
	grep -q '^State:.*T' "/proc/$1/status"
}

"$(peers_dir)/bin/virtiofsd" --shared-dir "$(peers_dir)" --socket-path "$work/peers.sock" --sandbox none \
	>>"$work/virtiofsd.log" 2>&1 </dev/null &
pids+=($!)
check "virtiofsd listens" within 90 listening "$work/peers.sock"
vmm_start --kernel "$kernel" --initramfs "$work/guest.cpio" --cmdline "console=ttyS0 quiet panic=-1" --cpus 2 \
	--memory size=384M --console off --serial tty --fs "tag=peers,socket=$work/peers.sock" \
	--disk "path=$work/disk.img,num_queues=2,serial=outboard-1,id=disk0"
check "the guest sees the disk, its serial number and its queues" guest_says "^disk 393216 outboard-1 queues 2"
must "it mounts its ext4" guest_says "^mounted"
check "what the host put there is there" guest_says "^host file: a line of the host"
first=$(block_pid)

guest_type "load $((kills * 14 / 5))"
check "its process is killed $kills times under load, and there is a new one each time" kill_often
check "fio sees no error and no wrong checksum" guest_says "^load: fio ended with 0" 600
check "the process is another one" other_than "$first"
: >"$work/guest.out"
guest_type "load 5"
check "stopped and continued $stops times under load" stop_often
check "fio sees no error again" guest_says "^load: fio ended with 0" 600
guest_type last
check "the last write is acknowledged" guest_says "^last: synced"
kill -9 "$(block_pid)"
guest_type off
check "the file system is unmounted, by yet another process" guest_says "^unmounted"
check "the guest's log has no error" guest_says "^errors in the log: 0"
vmm_wait 180
check "the file system is clean" env PATH="$PATH:/usr/sbin:/sbin" e2fsck -f -n "$work/disk.img"
check "the last write is in the image" grep -q "written last" <(PATH=$PATH:/usr/sbin:/sbin debugfs -R 'cat /last' "$work/disk.img" 2>/dev/null)
lab_done
