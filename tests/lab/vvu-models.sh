#!/bin/bash
#
# vvu-models.sh - one guest serves two others: disks of one and of four queues, a network, a console, randomness
#
# The device VM has five VVU functions behind its IOMMU and a program for each; one of the siblings has four of
# the devices, and is the larger machine. The disk of four queues lies on a disk of the device VM, and is
# asked for direct access, which the memory of another machine is no good for: it goes without, and says so.
# shellcheck disable=SC2016,SC2317  # words for the guests' shells; functions called by check
# shellcheck source-path=SCRIPTDIR source=vvu-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vvu-lib.sh"
lab_plan 23

if lab_outside; then
	guests <<'END'
# fill FILE PLACE: 4 MiB there, in pieces of 4 KiB.
fill()
{
	dd if=/dev/urandom of=$1 bs=4k count=1024 seek=$(($2 * 1024)) conv=fsync,notrunc 2>/dev/null
}
# fill_all FILE: as four processes, each on a CPU of its own.
fill_all()
{
	for cpu in 0 1 2 3; do
		taskset -c $cpu sh -c "dd if=/dev/urandom of=$1 bs=4k count=1024 seek=$((cpu * 1024)) oflag=direct 2>/dev/null" &
	done
	wait
	sync
}
END
	lab_boot --memory 3584 --timeout 900
fi

# vvu_functions NUMBER...: arguments that make VVU functions with these slots.
vvu_functions()
{
	local slot

	functions=(--vvu-proxy)
	for slot; do
		functions+=("$work/$slot.sock,addr=0000:00:$slot.0,iommu=on,shmem-size=2G")
	done
}

truncate -s 16M "$work/back.img"
vvu_functions 10 11 12 13 14
serving_vm --memory size=320M --disk "path=$work/back.img" "${functions[@]}"
must "the device VM boots" says device '^ready'
tell device 'bind 0000:00:10.0 0000:00:11.0 0000:00:12.0 0000:00:13.0 0000:00:14.0'
check "vfio-pci takes the first function" says device '^driver of 0000:00:10.0 vfio-pci'
check "and the last" says device '^driver of 0000:00:14.0 vfio-pci'
tell device 'truncate -s 16M /disk.img; mkfifo /tmp/keys /tmp/said; exec 5<>/tmp/keys 6<>/tmp/said'
tell device 'serve wide block 0000:00:10.0 --file=/dev/vda --direct --queues=4 --threads=2 --id=wide'
tell device 'serve plain block 0000:00:11.0 --file=/disk.img --id=plain'
tell device 'serve net net 0000:00:12.0 --tap=vvu0 --ip=192.168.77.1 --mask=255.255.255.0'
tell device 'serve console console 0000:00:13.0 --in-fd=5 --out-fd=6'
tell device 'serve rng rng 0000:00:14.0'

sibling_vm large --cpus 4 --memory size=512M --disk "vhost_user=on,socket=$work/10.sock,num_queues=4" \
	--net "vhost_user=on,socket=$work/12.sock" \
	--generic-vhost-user "socket=$work/13.sock,virtio_id=console" "socket=$work/14.sock,virtio_id=rng"
check "a sibling with four devices boots" says large '^ready'
sibling_vm small --cpus 1 --memory size=160M --disk "vhost_user=on,socket=$work/11.sock"
check "and one with a disk" says small '^ready'

tell large 'echo "disk $(cat /sys/block/vda/size) queues $(ls /sys/block/vda/mq | wc -l)"'
check "the disk has four queues" says large '^disk 32768 queues 4'
tell large 'fill_all /dev/vda; echo filled'
tell small 'for i in 0 1 2 3; do fill /dev/vda $i; done; echo filled'
check "both write at the same time: the one" says large '^filled'
check "and the other" says small '^filled'
check "the small one's data is in its file" same_sums small /dev/vda 16 plain
check "the large one's is what it reads" ask_sum large /dev/vda 16 wide
check "and on the device VM's disk" ask_sum device /dev/vda 16 wide
check "they are the same" test "$(said_sum large wide)" = "$(said_sum device wide)"
tell large 'echo "busy queues $(grep req /proc/interrupts | awk "{ n = 0; for (i = 2; i <= 5; i++) n += \$i; if (n) busy++ } END { print busy }")"'
check "all four queues had interrupts" says large '^busy queues 4'
check "direct access was given up, with a word" says device "cannot be used for direct access"

tell large 'ip link set eth0 up; ip addr add 192.168.77.2/24 dev eth0; ping -c 3 -w 60 192.168.77.1 | sed -n "s/.* \([0-9]\) packets received.*/pings \1/p"'
check "the network answers pings" says large '^pings 3'
# In the foreground: with an input that ends at once, as in the background, it would hang up half-way.
tell device '(until grep -q ":1389 .* 0A " /proc/net/tcp*; do usleep 20000; done; echo "it listens") & nc -l -p 5001 -w 120 | md5sum | sed "s/^/took /"'
check "a program listens" says device '^it listens'
tell large 'head -c 4194304 /dev/urandom >/tmp/data; echo "gave $(md5sum </tmp/data)"; nc 192.168.77.1 5001 </tmp/data'
check "data goes through it" says large '^gave [0-9a-f]{32}'
check "and is the same at its end" says device "^took $(tr -d '\r' <"$work/large/guest.out" | sed -n 's/^gave //p')"

tell large 'exec 3<>/dev/hvc0; stty -echo <&3; echo "from the sibling" >&3; read -r line <&3; echo "heard $line"'
tell device 'read -r line <&6; echo "$line"; echo "to the sibling" >&5'
check "the console's line is heard" says device '^from the sibling'
check "and answered" says large '^heard to the sibling'
tell large 'echo "source $(cat /sys/class/misc/hw_random/rng_current), $(head -c 64 /dev/hwrng | wc -c) bytes"'
check "there is randomness" says large '^source virtio_rng.0, 64 bytes'

power_off small
check "the siblings power off" power_off large
check "the device VM powers off" power_off device
lab_done
