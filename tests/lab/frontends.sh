#!/bin/bash
#
# frontends.sh - our device programs under other people's front-ends: libblkio (by qemu-io and qemu-img) and QEMU
#
# No L1 is needed: libblkio drives the block program without any guest, and QEMU's guest runs by its emulator. The guest
# finds a disk with two queues and a random number device, each served by outboard-device.
# shellcheck disable=SC2317  # called by check
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 15
"$lab_dir/setup" peers qemu busybox kernel

blkio()
{
	local program=$1

	shift
	timeout 120 "$(peers_dir)/bin/$program" "$@" --image-opts \
		"driver=virtio-blk-vhost-user,path=$work/block.sock,cache.direct=on" >>"$work/blkio.out" 2>&1
}

io()
{
	local commands=() command

	for command; do
		commands+=(-c "$command")
	done
	blkio qemu-io "${commands[@]}" && ! grep -q -i -e fail -e error "$work/blkio.out"
}

# in_image OFFSET LENGTH OCTAL: these bytes of the image are all that one.
in_image()
{
	cmp -s -n "$2" -i 0:"$1" <(head -c "$2" /dev/zero | tr '\0' "\\$3") "$work/disk.img"
}

truncate -s 64M "$work/disk.img"
check "the block program listens" device_start block "$work/block.sock" --file="$work/disk.img" --queues=2 --serial=peer
block_pid=$device_pid
check "libblkio writes, flushes and reads" io "write -P 0x5a 1M 2M" flush "read -P 0x5a 1M 2M"
check "the image has it" in_image 1M 2097152 132
check "zeroes, discards, and requests at the same time" io "write -z 1M 1M" "read -P 0 1M 1M" "discard 2M 1M" \
	"aio_write -P 7 4k 64k" "aio_write -P 8 128k 64k" aio_flush "read -P 7 4k 64k" "read -P 8 128k 64k"
check "the image has these" in_image 4096 65536 007
check "20,000 reads, 32 at a time" blkio qemu-img bench -c 20000 -d 32 -s 4096
check "and as many writes" blkio qemu-img bench -w -c 20000 -d 32 -s 4096
kill "$block_pid"
check "the program ends in order" wait "$block_pid"

# --- QEMU ---

"$lab_dir/mkguest" "$work/guest.cpio" <<'END'
echo "disk $(cat /sys/block/vda/size) $(cat /sys/block/vda/serial) queues $(ls /sys/block/vda/mq | wc -l)"
dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null
dd if=/tmp/data of=/dev/vda bs=64k seek=16 oflag=direct 2>/dev/null && sync
echo "wrote $(md5sum </tmp/data)"
echo "read $(dd if=/dev/vda bs=64k skip=16 count=64 iflag=direct 2>/dev/null | md5sum)"
echo "random $(dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c)"
echo "rng $(cat /sys/class/misc/hw_random/rng_current)"
END
device_start block "$work/block.sock" --file="$work/disk.img" --queues=2 --serial=peer
device_start rng "$work/rng.sock"
: >"$work/qemu.out"
timeout 200 "$(lab_qemu)" -M q35,memory-backend=ram -accel tcg -cpu max -m 256 -smp 2 -nodefaults -display none -no-reboot \
	-object memory-backend-memfd,id=ram,size=256M,share=on -serial stdio \
	-chardev "socket,id=b,path=$work/block.sock" -device vhost-user-blk-pci,chardev=b,num-queues=2 \
	-chardev "socket,id=r,path=$work/rng.sock" -device vhost-user-rng-pci,chardev=r \
	-kernel "$kernel" -initrd "$work/guest.cpio" -append "console=ttyS0 quiet panic=-1" </dev/null >>"$work/qemu.out" 2>&1 &
qemu_pid=$!
pids+=("$qemu_pid")
vmm_pid=$qemu_pid
says() { line_in "$work/qemu.out" "$@"; }
check "QEMU's guest sees the disk and its queues" says "^disk 131072 peer queues 2"
check "it writes" says "^wrote "
sum=$(tr -d '\r' <"$work/qemu.out" | sed -n 's/^wrote \([0-9a-f]*\).*/\1/p')
check "and reads the same" says "^read $sum"
check "random numbers come from our program" says "^random 64"
check "by virtio" says "^rng virtio_rng"
check "QEMU ends with 0" wait "$qemu_pid"
check "the image has what the guest wrote" [ "$(dd if="$work/disk.img" bs=64k skip=16 count=64 2>/dev/null | md5sum | cut -d' ' -f1)" = "$sum" ]
lab_done
