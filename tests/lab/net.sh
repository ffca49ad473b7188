#!/bin/bash
#
# net.sh - two networks by --net: one with offloads and two pairs of queues, one with neither
#
# Data goes both ways through each of them and has the same sum on the other end; the host's end goes down and up
# 10,000 times; the process of the first is killed while data flows, and TCP makes up for what was lost.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 17

if lab_outside; then
	"$lab_dir/mkguest" "$work/guest.cpio" <<'END'
for i in 0 1; do
	ip link set eth$i up
	ip addr add 192.168.7$i.2/24 dev eth$i
	echo "eth$i $(cat /sys/class/net/eth$i/address) queues $(ls /sys/class/net/eth$i/queues | grep -c rx)"
done
dd if=/dev/urandom of=/tmp/data bs=1M count=16 2>/dev/null
echo "data $(md5sum </tmp/data)"
while read -r order arg; do
	case $order in
	take) nc -l -p 5001 -w 60 | md5sum | sed "s/^/took /" ;;
	give) nc 192.168.7$arg.1 5002 </tmp/data && echo "gave to $arg" ;;
	link) echo "link is $(cat /sys/class/net/eth$arg/carrier)" ;;
	off) exit 0 ;;
	esac
done
END
	lab_boot --memory 2048
fi

# talk take|give ADDRESS FILE: sends the file to port 5001 there, or receives one on 5002 here.
talk()
{
	timeout 300 /usr/bin/python3 - "$@" <<'END'
import socket, sys
verb, address, path = sys.argv[1:]
if verb == "give":
    while True:
        s = socket.socket()
        try:
            s.connect((address, 5001))
            break
        except OSError:
            s.close()
    with s, open(path, "rb") as f:
        s.sendfile(f)
else:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, 5002))
    server.listen()
    print("listening", flush=True)
    s, _ = server.accept()
    with s, open(path, "wb") as f:
        while data := s.recv(1 << 20):
            f.write(data)
END
}

# fresh: what the guest has said so far is forgotten, so that only new lines are found.
fresh()
{
	: >"$work/guest.out"
}

to_guest()
{
	fresh
	guest_type take
	talk give "192.168.7$1.2" "$work/host.data" && guest_says "^took $(md5sum <"$work/host.data" | cut -d' ' -f1)"
}

# from_guest N: what the guest sends is what it said it has.
from_guest()
{
	local receiver

	fresh
	rm -f "$work/got"
	talk take "192.168.7$1.1" "$work/got" >"$work/talk.out" &
	receiver=$!
	within 90 grep -q listening "$work/talk.out"
	guest_type "give $1"
	guest_says "^gave to $1" && wait "$receiver" || return
	[ "$(md5sum <"$work/got" | cut -d' ' -f1)" = "$data_sum" ]
}

# flap NAME TIMES: the interface goes down and up.
flap()
{
	timeout 300 /usr/bin/python3 - "$@" <<'END'
import fcntl, socket, struct, sys
name, times = sys.argv[1].encode(), int(sys.argv[2])
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flags = struct.unpack("16xH", fcntl.ioctl(s, SIOCGIFFLAGS, struct.pack("16sH14x", name, 0))[:18])[0]
for _ in range(times):
    fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH14x", name, flags & ~IFF_UP))
    fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH14x", name, flags | IFF_UP))
END
}

# net_pid N: the process that serves network N.
net_pid()
{
	pgrep -f "outboard-device net --name=net$1"
}

idle()
{
	local pid before

	pid=$(net_pid 0) || return
	before=$(cut -d' ' -f14,15 "/proc/$pid/stat")
	sleep 2
	[ "$before" = "$(cut -d' ' -f14,15 "/proc/$pid/stat")" ]
}

killed_under_load()
{
	local pid talker

	fresh
	guest_type take
	talk give 192.168.70.2 "$work/host.data" &
	talker=$!
	pid=$(net_pid 0) && kill -9 "$pid"
	wait "$talker" && guest_says "^took $(md5sum <"$work/host.data" | cut -d' ' -f1)" 200 && [ "$(net_pid 0)" != "$pid" ]
}

link_is()
{
	fresh
	guest_type "link 0"
	guest_says "^link is $1" 20
}

head -c 16M /dev/urandom >"$work/host.data"
vmm_start --kernel "$kernel" --initramfs "$work/guest.cpio" --cmdline "console=ttyS0 quiet panic=-1" --cpus 2 \
	--memory size=256M --console off --serial tty \
	--net "tap=ob0,id=net0,ip=192.168.70.1,mask=255.255.255.0,mac=2e:89:a8:e4:bf:95,num_queues=4" \
	"tap=ob1,id=net1,ip=192.168.71.1,mac=2e:89:a8:e4:bf:96,offload_tso=off,offload_ufo=off,offload_csum=off"
check "the first network has its address and two pairs of queues" guest_says "^eth0 2e:89:a8:e4:bf:95 queues 2"
check "the second has one" guest_says "^eth1 2e:89:a8:e4:bf:96 queues 1"
check "the guest has data to send" guest_says "^data "
data_sum=$(tr -d '\r' <"$work/guest.out" | sed -n 's/^data \([0-9a-f]*\).*/\1/p')
check "the host's end has its address" grep -q 192.168.70.1 <(ip -4 addr show dev ob0)
check "data to the guest, with offloads" to_guest 0
check "data from the guest, with offloads" from_guest 0
check "data to the guest, without" to_guest 1
check "data from the guest, without" from_guest 1
check "an idle network's process uses no CPU" idle
check "the link is up" link_is 1
check "the host's end goes down and up 10,000 times" flap ob0 10000
check "the link is up afterwards" link_is 1
check "data still flows" to_guest 0
check "the process is killed under load, and all data arrives" killed_under_load
check "the host's end kept its address" grep -q 192.168.70.1 <(ip -4 addr show dev ob0)
guest_type off
check "the guest shuts down and the VMM ends with 0" vmm_wait 180
check "the taps are gone" [ ! -e /sys/class/net/ob0 ]
lab_done
