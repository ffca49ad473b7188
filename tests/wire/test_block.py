"""The disk over its socket: guests that use it as they should, and guests that break every rule."""
import ctypes
import fcntl
import mmap
import os
import random
import shutil
import signal
import socket
import struct
import subprocess

import pytest

from conftest import listens
from vhost_user import *
from vfio_user import DEADLINE, memfd, wait_until

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
NEXT, WRITE, INDIRECT = 1, 2, 4
F_INDIRECT, F_FLUSH = 1 << 28, 1 << 9
FEATURES = VERSION_1 | PROTOCOL_FEATURES | F_INDIRECT | F_FLUSH
MIB = 1 << 20
SECTORS = 2048


class Queue(Ring):
    """A queue of the disk with a region of 256 KiB for its requests, behind all rings."""

    def __init__(self, front, index=0, size=64, **kwargs):
        super().__init__(front, index, size, **kwargs)
        self.err = front.keep(eventfd())
        front.vring_fd(SET_VRING_ERR, index, self.err)
        self.room = 0x40000 + index * 0x40000

    def place(self, offset, data):
        at = self.room + offset
        self.front.memory[at:at + len(data)] = data
        return GPA + at

    def request(self, kind, sector=0, out=b"", room=0):
        """Make it available: descriptors 0 to 3."""
        header = self.place(0, struct.pack("<IIQ", kind, 0, sector))
        status = self.place(0x100, b"\xff")
        descs = [(header, 16, 0)]
        if out:
            descs.append((self.place(0x1000, out), len(out), 0))
        if room:
            descs.append((self.place(0x20000, bytes(room)), room, WRITE))
        descs.append((status, 1, WRITE))
        for i, (addr, size, flags) in enumerate(descs):
            last = i == len(descs) - 1
            self.desc(i, addr, size, flags | (0 if last else NEXT), 0 if last else i + 1)
        self.offer(0)
        self.ring()

    def do(self, kind, sector=0, out=b"", room=0):
        """(status, bytes read) of one request"""
        self.request(kind, sector, out, room)
        return self.answer(room)

    def answer(self, room=0):
        self.wait_used()
        at = self.room + 0x20000
        return self.front.memory[self.room + 0x100], self.front.memory[at:at + room]

    def works(self):
        data = os.urandom(1024)
        assert self.do(OUT, 5, data) == (OK, b"")
        assert self.do(IN, 5, room=1024) == (OK, data)

    def restart(self):
        """As a driver that resets its queue."""
        self.front.vring_base(self.index)
        self.put(0, bytes(0x4000))
        self.avail_idx = 0
        self.front.vring(SET_VRING_BASE, self.index, 0)
        self.set_addr()
        self.front.vring_fd(SET_VRING_CALL, self.index, self.call)
        self.front.vring_fd(SET_VRING_KICK, self.index, self.kick)
        self.front.vring(SET_VRING_ENABLE, self.index, 1)


def connect(server):
    front = server.client(features=FEATURES)
    front.share(MIB)
    return front


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.truncate(SECTORS * 512)
    return path


@pytest.fixture(params=["ram", "file", "direct"])
def disk(request, start, image):
    options = {"ram": [f"--file=ram:{SECTORS * 512}"], "file": [f"--blk-file={image}"],
               "direct": [f"--blk-file={image}", "--direct"]}[request.param]
    return start("block", "--queues=2", "--serial=wire", *options)


@pytest.fixture
def pair(disk):
    """A queue to spoil, and another one that has to go on."""
    with connect(disk) as front:
        bad, good = Queue(front, 0), Queue(front, 1)
        good.works()
        yield bad, good
        good.works()
        bad.restart()
        bad.works()


def test_a_disk_is_read_written_flushed_and_named(disk):
    with connect(disk) as front:
        queue = Queue(front)
        queue.works()
        assert queue.do(FLUSH) == (OK, b"")
        assert queue.do(GET_ID, room=20) == (OK, b"wire" + bytes(16))
        assert queue.do(IN, SECTORS, room=512)[0] == IOERR
        assert queue.do(99)[0] == UNSUPP
        config = struct.unpack_from("=III", front.ask(GET_CONFIG, struct.pack("=III", 0, 60, 0) + bytes(60)))
        assert config[1] == 60


def broken(queue):
    """The ring is given up: what is offered afterwards is not used, and the queue can be stopped."""
    assert take(queue.err) == 1
    used = queue.used_idx()
    queue.request(IN, room=512)
    queue.front.vring_base(queue.index)
    assert queue.used_idx() == used


@pytest.mark.parametrize("spoil", [
    "loop", "next outside", "head outside", "index jumps", "index goes back", "table in a table",
    "table of no entries", "table of odd length", "readable after writable", "table with next",
    "endless table"])
def test_a_ring_that_breaks_the_rules_is_given_up_alone(pair, spoil):
    bad, _ = pair
    table = bad.place(0x200, bytes(0x100))
    header = bad.place(0, struct.pack("<IIQ", IN, 0, 0))
    head, index = 0, None
    if spoil == "loop":
        for i in range(64):
            bad.desc(i, header, 16, NEXT, (i + 1) % 64)
    elif spoil == "next outside":
        bad.desc(0, header, 16, NEXT, 64)
    elif spoil == "head outside":
        head = 0xffff
    elif spoil == "index jumps":
        index = 65
    elif spoil == "index goes back":
        index = 0xffff
    elif spoil == "table in a table":
        bad.desc(0, table, 16, INDIRECT)
        bad.place(0x200, struct.pack("<QIHH", table, 16, INDIRECT, 0))
    elif spoil == "table of no entries":
        bad.desc(0, table, 0, INDIRECT)
    elif spoil == "table of odd length":
        bad.desc(0, table, 17, INDIRECT)
    elif spoil == "readable after writable":
        bad.desc(0, header, 16, WRITE | NEXT, 1)
        bad.desc(1, header, 16, 0)
    elif spoil == "table with next":
        bad.desc(0, table, 16, INDIRECT | NEXT, 1)
        bad.desc(1, header, 16, WRITE)
    elif spoil == "endless table":
        bad.desc(0, table, 0xfffffff0, INDIRECT)
    bad.offer(head, index)
    bad.ring()
    broken(bad)


@pytest.mark.parametrize("descs", [
    [(GPA, 16, 0), (GPA + MIB - 1, 2, WRITE)],  # goes beyond the end
    [(GPA, 16, 0), (0, 4096, WRITE), (GPA, 1, WRITE)],  # before the beginning
    [(GPA, 16, 0), (2 ** 64 - 1, 2 ** 32 - 1, WRITE)],  # wraps
    [(2 ** 64 - 16, 16, 0), (GPA, 1, WRITE)],
    [(GPA, 16, 0), (GPA, 2 ** 32 - 1, WRITE)],
    [(GPA, 16, 0)],  # nowhere to write a status
    [(GPA, 0, 0), (GPA, 0, 0)],
    [(GPA, 15, 0), (GPA + 100, 1, WRITE)],  # header cut off
    [(GPA + 100, 1, WRITE)],
])
def test_a_request_that_makes_no_sense_comes_back(pair, descs):
    bad, _ = pair
    for i, (addr, size, flags) in enumerate(descs):
        last = i == len(descs) - 1
        bad.desc(i, addr, size, flags | (0 if last else NEXT), i + 1)
    for _ in range(3):
        bad.offer(0)
        bad.ring()
        bad.wait_used()
    bad.works()


@pytest.mark.parametrize("seed", range(8))
def test_rings_of_noise_hurt_nobody(pair, seed):
    bad, good = pair
    rng = random.Random(seed)
    for _ in range(60):
        for i in range(64):
            flags = rng.choice((0, NEXT, WRITE, NEXT | WRITE, INDIRECT, 0xffff))
            addr = rng.choice((GPA + bad.room, GPA + bad.room + 0x200, GPA + MIB - 8, 0, 2 ** 64 - 4))
            size = rng.choice((0, 1, 16, 48, 512, 513, 4096, 2 ** 31, 2 ** 32 - 1))
            bad.desc(i, addr, size, flags, rng.choice((i + 1, rng.randrange(64), 0xffff)))
        bad.place(0, struct.pack("<IIQ", rng.choice((IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES, 77)), 0,
                                 rng.choice((0, 1, SECTORS - 1, SECTORS, 2 ** 64 - 1))))
        bad.place(0x200, rng.randbytes(0x200))
        for _ in range(rng.randrange(1, 20)):
            bad.offer(rng.choice((0, rng.randrange(64), rng.randrange(65536))))
        bad.ring()
        # what else the guest does while its ring is read
        bad.desc(rng.randrange(64), rng.getrandbits(64), rng.getrandbits(32), rng.getrandbits(16), rng.getrandbits(16))
        if rng.random() < 0.2:
            good.works()
        bad.restart()


def test_memory_that_is_cut_off_under_a_request_hurts_nobody(disk):
    with connect(disk) as front:
        queue = Queue(front)
        queue.works()
        os.ftruncate(front.memory_fd, 0x40000)
        try:
            front.vring_base(0)
        except Gone:
            pass
    with connect(disk) as front:
        Queue(front).works()


def hand_over(front, memory_fd, area_fd, size):
    """The same guest memory and inflight area as the front-end before this one had."""
    front.memory_fd = front.keep(os.dup(memory_fd))
    front.memory = mmap.mmap(front.memory_fd, MIB)
    front.set_mem_table([(GPA, MIB, USER, 0)], [front.memory_fd])
    front.ack(SET_INFLIGHT_FD, struct.pack("=QQHHI", size, 0, 1, 64, 0), [area_fd])


@pytest.mark.parametrize("rounds", [1, 5])
def test_requests_open_when_the_program_is_killed_are_done_once(start, image, rounds):
    """A limit that lets two go and holds the rest, and SIGKILL, again and again."""
    memory_fd = memfd(MIB)
    area = os.memfd_create("area")
    os.ftruncate(area, 65536)
    try:
        for i in range(rounds):
            server = start("block", f"--blk-file={image}", "--ops-size=2", "--ops-refill-time=86400000")
            with server.client(features=FEATURES) as front:
                hand_over(front, memory_fd, area, 65536)
                queue = Queue(front)
                if i == 0:
                    for head in range(0, 60, 3):
                        data = bytes([head + 1]) * 512
                        descs = [(queue.place(16 * head, struct.pack("<IIQ", OUT, 0, head)), 16, NEXT, head + 1),
                                 (queue.place(0x1000 + 512 * head, data), 512, NEXT, head + 2),
                                 (queue.place(0x800 + head, b"\xff"), 1, WRITE, 0)]
                        for k, (addr, size, flags, link) in enumerate(descs):
                            queue.desc(head + k, addr, size, flags, link)
                        queue.offer(head)
                queue.ring()
                wait_until(lambda: queue.used_idx() >= 2 * (i + 1), "two more are not done")
                server.kill()
        server = start("block", f"--blk-file={image}")
        with server.client(features=FEATURES) as front:
            hand_over(front, memory_fd, area, 65536)
            queue = Queue(front)
            queue.avail_idx = 20
            queue.wait_used()
            assert sorted(queue.used(i)[0] for i in range(20)) == list(range(0, 60, 3))
            assert front.memory[queue.room + 0x800:queue.room + 0x800 + 60:3] == bytes(20)
        content = image.read_bytes()
        for head in range(0, 60, 3):
            assert content[512 * head:512 * (head + 1)] == bytes([head + 1]) * 512
    finally:
        os.close(memory_fd)
        os.close(area)


# Images


def test_an_image_has_one_writer(start, image, programs):
    start("block", f"--blk-file={image}")
    for options in ([], ["--read-only"], ["--direct"]):
        done = subprocess.run([programs["block"], "block", f"--blk-file={image}", f"--socket-path={image}.sock",
                               *options], stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 1
        assert "the image is in use" in done.stderr


def test_an_image_by_descriptor_keeps_the_lock_of_its_sender(start, image):
    fd = os.open(image, os.O_RDWR)
    try:
        fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))  # F_OFD_SETLK
        server = start("block", f"--file-fd={fd}", pass_fds=[fd])
    finally:
        os.close(fd)
    with connect(server) as front:
        Queue(front).works()


@pytest.mark.parametrize("options,text", [
    ([], "expected one of"),
    (["--file=ram:1M", "--blk-file=x"], "expected one of"),
    (["--blk-file=/nowhere/image"], "/nowhere/image: No such file"),
    (["--blk-file=/dev/null"], "expected a file or a block device"),
    (["--file=ram:0"], "expected a size"),
    (["--file=ram:1000"], "expected a size"),
    (["--file=null:99999999999G"], "expected a size"),
    (["--file=ram:1M", "--queues=65"], "1 to 64"),
    (["--file=ram:1M", "--queue-size=3"], "not a power of 2"),
    (["--file=ram:1M", "--threads=2"], "more than there are queues"),
    (["--file=ram:1M", "--queues=64", "--queue-size=1024"], "more --threads"),
    (["--file=ram:1M", "--block-size=1024"], "512 or 4096"),
    (["--file=ram:1M", "--serial=" + "x" * 21], "1 to 20 bytes"),
    (["--file=ram:1M", "--bw-size=1"], "belong together"),
    (["--file=ram:1M", "--ops-one-time-burst=1"], "needs --ops-size"),
    (["--file-fd=999"], "not open"),
])
def test_options_that_make_no_sense_are_refused(programs, tmp_path, options, text):
    done = subprocess.run([programs["block"], "block", f"--socket-path={tmp_path}/s", *options],
                          stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode in (1, 2)
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def device(image):
    """A block device with the image behind it."""
    losetup = shutil.which("losetup", path="/usr/sbin:/sbin:/usr/bin")
    made = losetup and subprocess.run([losetup, "-f", "--show", image], stdout=subprocess.PIPE,
                                      stderr=subprocess.DEVNULL, text=True, check=False)
    if not made or made.returncode:
        pytest.skip("no loop device can be made here")
    yield made.stdout.strip()
    subprocess.run([losetup, "-d", made.stdout.strip()], check=True)


@pytest.mark.parametrize("options", [[], ["--direct"], ["--write-through"]])
def test_a_block_device_is_a_disk(start, device, options):
    server = start("block", f"--blk-file={device}", *options)
    with connect(server) as front:
        queue = Queue(front)
        queue.works()
        data = os.urandom(65536)
        assert queue.do(OUT, 64, data) == (OK, b"")
        for unmap, sector, count in ((0, 66, 3), (1, 72, 8), (0, 81, 16), (1, 101, 7)):
            assert queue.do(WRITE_ZEROES, out=struct.pack("<QII", sector, count, unmap)) == (OK, b"")
            at = (sector - 64) * 512
            data = data[:at] + bytes(count * 512) + data[at + count * 512:]
        assert queue.do(DISCARD, out=struct.pack("<QII", 160, 16, 0))[0] == OK
        assert queue.do(FLUSH) == (OK, b"")
        assert queue.do(IN, 64, room=48 * 1024) == (OK, data[:48 * 1024])
        assert queue.do(IN, SECTORS - 1, room=512)[0] == OK
        assert queue.do(IN, SECTORS, room=512)[0] == IOERR
    server.stop()  # before the device can go


def test_an_image_that_grew_is_told_after_a_signal(start, image):
    server = start("block", f"--blk-file={image}")
    with connect(server) as front:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(DEADLINE)
            front.ack(SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
            os.truncate(image, 2 * SECTORS * 512)
            server.process.send_signal(signal.SIGHUP)
            assert struct.unpack("=III", ours.recv(12))[0] == 2  # CONFIG_CHANGE_MSG
        config = front.ask(GET_CONFIG, struct.pack("=III", 0, 8, 0) + bytes(8))
        assert struct.unpack_from("<Q", config, 12)[0] == 2 * SECTORS
        queue = Queue(front)
        assert queue.do(IN, 2 * SECTORS - 1, room=512)[0] == OK


# Where io_uring is forbidden


def forbid_io_uring():
    """io_uring_setup() fails with EPERM from now on, as in many containers."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = struct.pack("<" + "HBBI" * 4,
                          0x20, 0, 0, 0,  # load the system call's number
                          0x15, 0, 1, 425,  # io_uring_setup, else skip
                          0x06, 0, 0, 0x50001,  # fail with EPERM
                          0x06, 0, 0, 0x7fff0000)  # allow
    buf = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", 4, ctypes.addressof(buf))
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.create_string_buffer(header)) == 0  # PR_SET_SECCOMP, a filter


@pytest.mark.parametrize("options", [[], ["--direct"], ["--write-through"]])
def test_without_io_uring_helpers_do_the_work(programs, image, tmp_path, options):
    path, log = tmp_path / "socket", tmp_path / "log"
    with open(log, "wb") as stderr, \
            subprocess.Popen([programs["block"], "block", "-v", "--queues=2", f"--blk-file={image}",
                              f"--socket-path={path}", *options], stderr=stderr, preexec_fn=forbid_io_uring) as process:
        try:
            wait_until(lambda: listens(path) or process.poll() is not None, "it did not start")
            with FrontEnd(path, features=FEATURES) as front:
                front.share(MIB)
                one, other = Queue(front, 0), Queue(front, 1)
                for _ in range(20):
                    one.works()
                    assert other.do(FLUSH)[0] == OK
                zero = struct.pack("<QII", 5, 2, 0)
                assert one.do(WRITE_ZEROES, out=zero) == (OK, b"")
                assert other.do(IN, 5, room=1024) == (OK, bytes(1024))
        finally:
            process.terminate()
        assert process.wait(DEADLINE) == 0, log.read_text()
    assert "io_uring is not allowed here" in log.read_text()


# NBD


class NbdServer:
    """A server of an image that can be killed and started again at the same place."""

    def __init__(self, kind, folder, image):
        self.path = folder / "nbd.sock"
        self.image = image
        self.program = kind.partition(" ")[0]
        self.port = 0
        self.process = None
        if kind.endswith("TCP"):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        self.uri = (f"nbd://127.0.0.1:{self.port}/disk" if self.port
                    else f"nbd+unix:///disk?socket={self.path}")
        self.start()

    def listens(self):
        if not self.port:
            return self.path.exists()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def start(self, image=None):
        at = ["-p", self.port, "-b", "127.0.0.1"] if self.port else ["-k", self.path]
        argv = {"qemu-nbd": ["-f", "raw", *at, "-t", "-e", "4", "-x", "disk", image or self.image],
                "nbdkit": ["-f", "-U", self.path, "-e", "disk", "file", image or self.image]}
        self.path.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [shutil.which(self.program)] + [str(a) for a in argv[self.program]])
        wait_until(self.listens, "the NBD server did not start")

    def stop(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        if how == signal.SIGKILL:
            self.process.wait()


@pytest.fixture(params=["qemu-nbd", "qemu-nbd by TCP", "nbdkit"])
def nbd(request, tmp_path, image):
    """A server of the image."""
    if not shutil.which(request.param.partition(" ")[0]):
        pytest.skip(f"no {request.param} here")
    server = NbdServer(request.param, tmp_path, image)
    yield server
    server.stop()


def start_on_nbd(start, uri, *options):
    try:
        return start("block", f"--file={uri}", *options, own_sockets=2)
    except AssertionError as why:
        if "without libnbd" in str(why) or "libnbd cannot be loaded" in str(why):
            pytest.skip("no libnbd here")
        raise


def test_an_nbd_export_is_a_disk(start, nbd, image):
    server = start_on_nbd(start, nbd.uri, "--queues=2")
    data = os.urandom(8192)
    with connect(server) as front:
        queue, other = Queue(front, 0), Queue(front, 1)
        assert queue.do(OUT, 8, data) == (OK, b"")
        assert queue.do(FLUSH) == (OK, b"")
        assert other.do(IN, 8, room=8192) == (OK, data)
        assert other.do(IN, SECTORS, room=512)[0] == IOERR
        zero = struct.pack("<QII", 9, 2, 0)
        assert other.do(WRITE_ZEROES, out=zero) == (OK, b"")
        assert queue.do(FLUSH) == (OK, b"")
    assert image.read_bytes()[8 * 512:24 * 512] == data[:512] + bytes(1024) + data[1536:]


def test_pieces_go_through_a_buffer(start, nbd):
    server = start_on_nbd(start, nbd.uri)
    with connect(server) as front:
        queue = Queue(front)
        data = os.urandom(4096)
        header = queue.place(0, struct.pack("<IIQ", OUT, 0, 100))
        at = queue.place(0x1000, data)
        status = queue.place(0x100, b"\xff")
        descs = [(header, 16, 0), (at, 100, 0), (at + 100, 1900, 0), (at + 2000, 2096, 0), (status, 1, WRITE)]
        for i, (addr, size, flags) in enumerate(descs):
            queue.desc(i, addr, size, flags | (NEXT if i < 4 else 0), i + 1)
        queue.offer(0)
        queue.ring()
        queue.wait_used()
        assert queue.do(IN, 100, room=4096) == (OK, data)


def test_a_lost_nbd_server_is_waited_for(start, nbd):
    """What the driver asks for meanwhile is done when it is back, as often as that happens."""
    server = start_on_nbd(start, nbd.uri)
    with connect(server) as front:
        queue = Queue(front)
        for i in range(5):
            data = os.urandom(4096)
            assert queue.do(OUT, 8 * i, data) == (OK, b"")
            nbd.stop()
            server.wait_for_log("the connection to the server is lost", i + 1)
            queue.request(IN, 8 * i, room=4096)
            nbd.start()
            assert queue.answer(4096) == (OK, data)
            server.wait_for_log("the server is back", i + 1)
        assert queue.do(FLUSH) == (OK, b"")


def connectors_of(server):
    """The processes that dial for it."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as file:
                name, _, rest = file.read().rpartition(") ")
        except OSError:  # no process, or gone meanwhile
            continue
        if name.endswith("(nbd-connect") and int(rest.split()[1]) == server.process.pid:
            found.append(int(entry))
    return found


def test_a_connection_outlives_the_process_that_made_it(start, nbd):
    server = start_on_nbd(start, nbd.uri)
    with connect(server) as front:
        queue = Queue(front)
        data = os.urandom(4096)
        assert queue.do(OUT, 0, data) == (OK, b"")
        nbd.stop()
        server.wait_for_log("the connection to the server is lost")
        nbd.start()
        server.wait_for_log("the server is back")
        (pid,) = connectors_of(server)
        os.kill(pid, signal.SIGKILL)
        for _ in range(100):
            assert queue.do(IN, 0, room=4096) == (OK, data)
        # The next loss is for good.
        nbd.stop()
        server.wait_for_log("its disk answers with errors")
        nbd.start()
        assert queue.do(IN, 0, room=4096)[0] == IOERR


def many_reads(queue, nr, size=512):
    """Reads of several pieces, more of them than there are buffers for, from one place to one each."""
    header = queue.place(0, struct.pack("<IIQ", IN, 0, 0))
    for head in range(nr):
        data, status = GPA + queue.room + 0x8000 + 2 * size * head, queue.place(0x100 + head, b"\xff")
        table = struct.pack("<" + "QIHH" * 4, header, 16, NEXT, 1, data, size, WRITE | NEXT, 2,
                            data + size, size, WRITE | NEXT, 3, status, 1, WRITE, 0)
        queue.desc(head, queue.place(0x4000 + 64 * head, table), len(table), INDIRECT)
        queue.offer(head)
    queue.ring()


def test_all_that_is_open_when_the_server_is_lost_is_done_by_the_next(start, nbd, image):
    server = start_on_nbd(start, nbd.uri)
    with connect(server) as front:
        queue = Queue(front, size=128)
        data = os.urandom(1024)
        assert queue.do(OUT, 0, data) == (OK, b"")
        nbd.stop(signal.SIGSTOP)
        before = queue.used_idx()
        many_reads(queue, 100)
        nbd.stop()
        server.wait_for_log("the connection to the server is lost")
        nbd.start()
        wait_until(lambda: queue.used_idx() == (before + 100) & 0xffff, "not all came back")
        assert front.memory[queue.room + 0x100:queue.room + 0x100 + 100] == bytes(100)
        for head in range(100):
            at = queue.room + 0x8000 + 1024 * head
            assert front.memory[at:at + 1024] == data


def test_writes_of_several_pieces_that_are_sent_again(start, nbd, image):
    """The driver may use their memory as soon as they are done; not before."""
    server = start_on_nbd(start, nbd.uri)
    with connect(server) as front:
        queue = Queue(front, size=128)
        nbd.stop(signal.SIGSTOP)
        before = queue.used_idx()
        blocks = [os.urandom(1024) for _ in range(60)]
        for head, block in enumerate(blocks):
            header = queue.place(0x200 + 16 * head, struct.pack("<IIQ", OUT, 0, 2 * head))
            at, status = queue.place(0x8000 + 1024 * head, block), queue.place(0x100 + head, b"\xff")
            table = struct.pack("<" + "QIHH" * 4, header, 16, NEXT, 1, at, 100, NEXT, 2,
                                at + 100, 924, NEXT, 3, status, 1, WRITE, 0)
            queue.desc(head, queue.place(0x4000 + 64 * head, table), len(table), INDIRECT)
            queue.offer(head)
        queue.ring()
        nbd.stop()
        server.wait_for_log("the connection to the server is lost")
        nbd.start()
        wait_until(lambda: queue.used_idx() == (before + 60) & 0xffff, "not all came back")
        assert front.memory[queue.room + 0x100:queue.room + 0x100 + 60] == bytes(60)
        assert queue.do(FLUSH) == (OK, b"")
    assert image.read_bytes()[:60 * 1024] == b"".join(blocks)


def test_another_export_in_its_place_is_not_used(start, nbd, tmp_path):
    server = start_on_nbd(start, nbd.uri)
    other = tmp_path / "other"
    other.write_bytes(b"x" * 65536)
    with connect(server) as front:
        queue = Queue(front)
        data = os.urandom(512)
        assert queue.do(OUT, 0, data) == (OK, b"")
        nbd.stop()
        server.wait_for_log("the connection to the server is lost")
        queue.request(IN, 0, room=512)
        nbd.start(other)
        server.wait_for_log("the server has another export than before")
        nbd.stop()
        nbd.start()
        assert queue.answer(512) == (OK, data)


def test_a_front_end_that_leaves_while_the_server_is_lost(start, nbd):
    """The next one is served when the server is back."""
    server = start_on_nbd(start, nbd.uri)
    with connect(server) as front:
        Queue(front).works()
        nbd.stop()
        server.wait_for_log("the connection to the server is lost")
    nbd.start()
    server.wait_for_log("the server is back")
    with connect(server) as front:
        Queue(front).works()


def test_the_program_ends_while_the_server_is_lost(start, nbd):
    server = start_on_nbd(start, nbd.uri)
    with connect(server) as front:
        Queue(front).works()
        nbd.stop()
        server.wait_for_log("the connection to the server is lost")
    server.stop()
