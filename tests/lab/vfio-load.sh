#!/bin/bash
#
# vfio-load.sh - DMA of an NVMe that was passed through, to a guest's memory on both sides of the hole below 4 GiB
#
# fio writes blocks with checksums and reads them back: by container, and by iommufd.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=vfio-lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/vfio-lib.sh"
lab_plan 15

if lab_outside; then
	"$lab_dir/setup" peers
	vfio_guest
	mkdir "$work/disks"
	truncate -s 64M "$work/disks/nvme.img"
	lab_boot --memory 5120 --write "$work/disks" --timeout 900 --device nvme="$work/disks/nvme.img"
fi

above_4g()
{
	ask "grep '^ *1[0-9a-f]\{8\}-.* System RAM' /proc/iomem"
}

lib=/peers/root/usr/lib/x86_64-linux-gnu
fio="/peers/root/lib64/ld-linux-x86-64.so.2 --library-path $lib:$lib/ceph /peers/root/usr/bin/fio --name=load
	--filename=/dev/nvme0n1 --size=16M --rw=randwrite --bsrange=4k-128k --ioengine=libaio --iodepth=16
	--direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 --eta=never"
fio=${fio//[$'\n\t']/ }

# load WHAT ARG...
load()
{
	local what=$1

	shift
	rm -f "$work/peers.sock"
	"$(peers_dir)/bin/virtiofsd" --shared-dir "$(peers_dir)" --socket-path "$work/peers.sock" --sandbox none \
		>>"$work/virtiofsd.log" 2>&1 </dev/null &
	pids+=($!)
	check "$what: virtiofsd listens" within 20 listening "$work/peers.sock"
	vfio_start "" "$nvme" -- --cpus 2 --memory size=3328M --fs "tag=peers,socket=$work/peers.sock" "$@"
	must "a guest of 3.25 GiB has the NVMe" guest_says '^ready' 300
	check "some of its memory is above 4 GiB" above_4g
	check "fio is there" ask "mkdir -p /peers && mount -t virtiofs peers /peers"
	check "fio finds what it wrote" ask "$fio >/tmp/fio.txt || { tail -n 20 /tmp/fio.txt; false; }" 600
	check "what it wrote came by interrupts" counts nvme0q PCI-MSIX
	check "the guest ends, and outboard with 0" ends
}

check "the NVMe is bound" vfio_bind "$nvme"
load container
load iommufd --platform iommufd=on
lab_done
