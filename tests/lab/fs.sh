#!/bin/bash
#
# fs.sh - shared directories: three virtiofsd of Debian's, as generic devices and by --fs
#
# One attaches by virtio_id=26, with the tag that virtiofsd was told; one by virtio_id=fs likewise; one by --fs, whose
# tag the VMM answers for, so that virtiofsd knows none. A file system is stateful: what a killed virtiofsd knew of
# its guest's open files is gone, so the mounts of then fail, and a new mount works. The VMM and the device live on.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 14

if lab_outside; then
	"$lab_dir/setup" peers
	"$lab_dir/mkguest" "$work/guest.cpio" <<'END'
try()
{
	if "$@"; then echo "good: $*"; else echo "bad: $*"; fi
}
mkdir /a /b /c
try mount -t virtiofs one /a
try mount -t virtiofs two /b
try mount -t virtiofs three /c
echo "from the host $(md5sum </a/host.bin)"
dd if=/a/host.bin of=/tmp/mixed bs=1M 2>/dev/null
# 64 MiB that are not the host's: the same blocks, the other way round
for i in $(seq 63 -1 0); do
	dd if=/tmp/mixed bs=1M skip=$i count=1 2>/dev/null
done >/a/guest.bin
sync
echo "from the guest $(md5sum </a/guest.bin)"
rm /tmp/mixed
mkdir /c/small
i=0
while [ $i -lt 1000 ]; do
	echo "file $i" >/c/small/$i
	i=$((i + 1))
done
echo "small files $(ls /c/small | wc -l) $(cat /c/small/999)"
echo hello >/b/from-guest
echo "b has $(cat /b/from-host)"
echo "ready"
read -r _
# virtiofsd of a was killed and is back
cat /a/host.bin >/dev/null 2>&1 && echo "the old mount works" || echo "the old mount fails"
umount -l /a
mkdir /d
try mount -t virtiofs one /d
echo "again $(md5sum </d/host.bin)"
echo "b still has $(cat /b/from-host)"
END
	lab_boot --memory 3072
fi

# share NAME SOCKET [ARG...]: a virtiofsd for $work/NAME; its pid in share_pid.
share()
{
	local name=$1 socket=$2

	shift 2
	"$(peers_dir)/bin/virtiofsd" --shared-dir "$work/$name" --socket-path "$socket" --sandbox none --inode-file-handles=never \
		"$@" >>"$work/virtiofsd-$name.log" 2>&1 </dev/null &
	share_pid=$!
	pids+=("$share_pid")
	within 90 listening "$socket"
}

same_sum()
{
	guest_says "^$1 $(md5sum <"$2" | cut -d' ' -f1)"
}

mkdir "$work"/{a,b,c}
head -c 64M /dev/urandom >"$work/a/host.bin"
echo "a line of the host" >"$work/b/from-host"
check "virtiofsd with a tag listens" share a "$work/a.sock" --tag one
first_pid=$share_pid
check "another one" share b "$work/b.sock" --tag two
check "virtiofsd without a tag listens" share c "$work/c.sock"
vmm_start --kernel "$kernel" --initramfs "$work/guest.cpio" --cmdline "console=ttyS0 quiet panic=-1" --cpus 2 \
	--memory size=384M --console off --serial tty \
	--generic-vhost-user "socket=\"$work/a.sock\",virtio_id=26,queue_sizes=[512,512]" "socket=$work/b.sock,virtio_id=fs" \
	--fs "tag=three,socket=$work/c.sock"
check "the guest mounts virtio_id=26" guest_says "^good: mount -t virtiofs one"
check "and virtio_id=fs" guest_says "^good: mount -t virtiofs two"
check "and --fs" guest_says "^good: mount -t virtiofs three"
check "64 MiB from the host have the same sum in the guest" same_sum "from the host" "$work/a/host.bin"
check "a thousand small files" guest_says "^small files 1000 file 999"
check "the guest is done" guest_says "^ready"
check "64 MiB from the guest have the same sum on the host" same_sum "from the guest" "$work/a/guest.bin"
check "what the guest wrote elsewhere is on the host" grep -q -x hello "$work/b/from-guest"

kill -9 "$first_pid"
wait "$first_pid" 2>/dev/null
share a "$work/a.sock" --tag one
guest_type go
check "a virtiofsd that was killed serves a new mount when it is back" same_sum again "$work/a/host.bin"
check "the others were not concerned" guest_says "^b still has a line of the host"
check "the guest shuts down and the VMM ends with 0" vmm_wait 180
lab_done
