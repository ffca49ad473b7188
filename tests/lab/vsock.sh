#!/bin/bash
#
# vsock.sh - streams between a Linux guest and UNIX sockets, by --vsock
#
# Data goes both ways over connections that either side makes and has the same sum on the other end; each side ends its
# half alone; 2,000 connections are open at once; who is not there is refused; the device's process is killed, the
# guest's connections end, and new ones work.
# shellcheck disable=SC2119,SC2317  # called by check; no arguments meant
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
lab_plan 14

if lab_outside; then
	gcc -static -O2 -Wall -Werror -o "$work/vsock" "$tree/tests/lab/vsock-guest.c" || exit 1
	"$lab_dir/mkguest" --file "$work/vsock" "$work/guest.cpio" <<'END'
dd if=/dev/urandom of=/tmp/data bs=1M count=16 2>/dev/null
mkfifo /tmp/quiet
echo "data $(md5sum </tmp/data)"
while read -r order arg; do
	case $order in
	take) vsock listen 5001 </dev/null | tail -c +11 | md5sum | sed "s/^/took /" & ;;
	serve) vsock listen 5001 </tmp/data >/dev/null; echo "served $?" ;;
	give) vsock connect 2 "$arg" </tmp/data | md5sum | sed "s/^/answer /" ;;
	many) vsock many 5002 "$arg"; echo "many $?" ;;
	hold) (vsock connect 2 "$arg" <>/tmp/quiet >/dev/null 2>/tmp/why; echo "held $? $(cat /tmp/why)") & ;;
	off) exit 0 ;;
	esac
done
END
	lab_boot --memory 2048
fi

cat >"$work/host.py" <<'END'
import os, socket, sys

def call(port):
    """A connection to the guest's port. Nobody may listen yet: then it is closed, and tried again."""
    while True:
        s = socket.socket(socket.AF_UNIX)
        s.connect("v")
        s.sendall(b"CONNECT %d\n" % port)
        answer = b""
        while not answer.endswith(b"\n"):
            byte = s.recv(1)
            if not byte:
                break
            answer += byte
        if answer.startswith(b"OK "):
            return s
        s.close()

def copy(s, path):
    with open(path, "wb") as f:
        while data := s.recv(1 << 20):
            f.write(data)

verb, *rest = sys.argv[1:]
if verb == "give":
    s = call(5001)
    with open(rest[0], "rb") as f:
        s.sendfile(f)
    s.shutdown(socket.SHUT_WR)
    assert s.recv(1) == b"", "the guest has nothing to say"
elif verb == "fetch":
    s = call(5001)
    s.shutdown(socket.SHUT_WR)
    copy(s, rest[0])
elif verb == "listen":
    path = "v_" + rest[0]
    if os.path.exists(path):
        os.unlink(path)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    print("listening", flush=True)
    s, _ = server.accept()
    print("connected", flush=True)
    copy(s, rest[1])
    if len(rest) > 2:
        with open(rest[2], "rb") as f:
            s.sendfile(f)
elif verb == "many":
    count = int(rest[0])
    calls = [call(5002) for _ in range(count)]
    for i, s in enumerate(calls):
        s.sendall(b"%d" % i)
    for i, s in enumerate(calls):
        assert s.recv(100) == b"%d" % i, i
        assert s.recv(1) == b""
END

# host VERB...: the host's side, in the folder of its sockets.
host()
{
	(cd "$work" && ulimit -n 8192 && exec timeout 300 /usr/bin/python3 host.py "$@")
}

# fresh: what the guest has said so far is forgotten, so that only new lines are found.
fresh()
{
	: >"$work/guest.out"
}

sum()
{
	md5sum <"$1" | cut -d' ' -f1
}

to_guest()
{
	fresh
	guest_type take
	host give host.data && guest_says "^took $(sum "$work/host.data")"
}

from_guest()
{
	fresh
	guest_type serve
	host fetch got && guest_says "^served 0" && [ "$(sum "$work/got")" = "$data_sum" ]
}

# host_listens FILE [ANSWER]: takes one connection, in the background.
host_listens()
{
	: >"$work/talk.out"
	rm -f "$work/got"
	host listen 6000 "$@" >"$work/talk.out" 2>&1 &
	receiver=$!
	within 90 grep -q listening "$work/talk.out"
}

guest_connects()
{
	fresh
	host_listens got host.data
	guest_type "give 6000"
	guest_says "^answer $(sum "$work/host.data")" && wait "$receiver" && [ "$(sum "$work/got")" = "$data_sum" ]
}

nobody_there()
{
	fresh
	guest_type "give 6001"
	guest_says "Connection reset by peer"
}

many()
{
	fresh
	guest_type "many $1"
	guest_says "^listening" && host many "$1" && guest_says "^many 0"
}

vsock_pid()
{
	pgrep -f "outboard-device vsock --name=_vsock0" | head -n 1
}

idle()
{
	local pid before

	pid=$(vsock_pid) || return
	before=$(cut -d' ' -f14,15 "/proc/$pid/stat")
	sleep 2
	[ "$before" = "$(cut -d' ' -f14,15 "/proc/$pid/stat")" ]
}

killed()
{
	local pid

	fresh
	host_listens got
	guest_type "hold 6000"
	within 60 grep -q connected "$work/talk.out" || return
	pid=$(vsock_pid) && kill -9 "$pid"
	wait "$receiver"
	guest_says "^held 1 vsock: read: " && [ "$(vsock_pid)" != "$pid" ]
}

head -c 16M /dev/urandom >"$work/host.data"
vmm_start --kernel "$kernel" --initramfs "$work/guest.cpio" --cmdline "console=ttyS0 quiet panic=-1" --cpus 2 \
	--memory size=512M --console off --serial tty --vsock "cid=42,socket=$work/v"
check "the guest has data to send" guest_says "^data "
data_sum=$(tr -d '\r' <"$work/guest.out" | sed -n 's/^data \([0-9a-f]*\).*/\1/p')
check "the host connects and sends, the guest has it all" to_guest
check "the host connects and fetches" from_guest
check "the guest connects, sends, and has its answer" guest_connects
check "a port where nobody listens is refused" nobody_there
check "2,000 connections at once" many 2000
check "an idle device uses no CPU" idle
check "data again" to_guest
check "its process is killed: the guest's connection is reset" killed
check "the host connects to the next one" to_guest
check "and so does the guest" guest_connects
check "2,000 connections again" many 2000
guest_type off
check "the guest shuts down and the VMM ends with 0" vmm_wait 180
check "the socket is gone" [ ! -e "$work/v" ]
lab_done
