#!/bin/bash
#
# backends.sh - other people's back-ends: qemu-storage-daemon's disk and passt's network
#
# The storage daemon offers no inflight area: after it was killed and is back, the rings go on from their used index, and a
# request may be made twice, which reads and writes of a disk bear. Passt has neither configuration nor memory slots.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 13

if lab_outside; then
	"$lab_dir/setup" peers
	"$lab_dir/mkguest" "$work/guest.cpio" <<'END'
for disk in vda vdb; do
	echo "$disk $(cat /sys/block/$disk/size) queues $(ls /sys/block/$disk/mq | wc -l)"
done
dd if=/dev/urandom of=/tmp/data bs=64k count=128 2>/dev/null
sum=$(md5sum </tmp/data)
for disk in vda vdb; do
	dd if=/tmp/data of=/dev/$disk bs=64k oflag=direct 2>/dev/null
	echo "$disk has $(dd if=/dev/$disk bs=64k count=128 iflag=direct 2>/dev/null | md5sum), should have $sum"
done
ip link set eth0 up
udhcpc -i eth0 -n -q -s /bin/true >/tmp/dhcp 2>&1
echo "dhcp: $(grep -c -i 'lease of' /tmp/dhcp)"
echo "eth0 is $(cat /sys/class/net/eth0/address)"
echo "ready"
while read -r order; do
	case $order in
	load)
		# a pass takes as long as it takes: the daemon dies in the middle
		for i in 1 2 3 4 5 6; do
			dd if=/tmp/data of=/dev/vda bs=4k oflag=direct 2>/dev/null || echo "load: a write failed"
		done
		echo "load: $(dd if=/dev/vda bs=64k count=128 iflag=direct 2>/dev/null | md5sum), should have $sum"
		;;
	off) exit 0 ;;
	esac
done
END
	lab_boot --memory 2560
fi

# storage NAME: QEMU's storage daemon with an image of that name; its pid in storage_pid.
storage()
{
	"$(peers_dir)/bin/qemu-storage-daemon" --blockdev "driver=file,node-name=f,filename=$work/$1.img" \
		--blockdev driver=raw,node-name=d,file=f \
		--export "vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=$work/$1.sock,writable=on,num-queues=2" \
		>>"$work/storage.log" 2>&1 </dev/null &
	storage_pid=$!
	pids+=("$storage_pid")
	within 90 listening "$work/$1.sock"
}

both_same()
{
	guest_says "^$1 ([0-9a-f]{32})  -, should have \1" 300
}

all_written()
{
	both_same "load:" && ! grep -q "a write failed" "$work/guest.out"
}

network()
{
	"$(peers_dir)/bin/passt" --foreground --vhost-user --socket "$work/net.sock" --runas 0 >>"$work/passt.log" 2>&1 </dev/null &
	pids+=($!)
	within 90 listening "$work/net.sock"
}

truncate -s 64M "$work/one.img" "$work/two.img"
check "qemu-storage-daemon listens" storage one
first=$storage_pid
check "another one" storage two
ip link set lo up
check "passt listens" network
vmm_start --kernel "$kernel" --initramfs "$work/guest.cpio" --cmdline "console=ttyS0 quiet panic=-1" --cpus 2 \
	--memory size=256M --console off --serial tty --disk "vhost_user=on,socket=$work/one.sock,num_queues=2,id=one" \
	--generic-vhost-user "socket=$work/two.sock,virtio_id=block,id=two" \
	--net "vhost_user=on,socket=$work/net.sock,mac=2e:89:a8:e4:bf:97,id=net"
check "the guest sees --disk vhost_user=on" guest_says "^vda 131072 queues 2"
check "and the generic device, with the queues of the back-end" guest_says "^vdb 131072 queues 2"
check "it reads from the first what it wrote" both_same "vda has"
check "and from the second" both_same "vdb has"
check "passt gives it an address" guest_says "^dhcp: 1"
check "its own address is the one of --net" guest_says "^eth0 is 2e:89:a8:e4:bf:97"
check "the guest is done" guest_says "^ready"
: >"$work/guest.out"
guest_type load
kill -9 "$first"
wait "$first" 2>/dev/null
check "the storage daemon is killed under load, and back" storage one
check "no write failed, and the data is right" all_written
guest_type off
check "the guest shuts down and the VMM ends with 0" vmm_wait 180
lab_done
