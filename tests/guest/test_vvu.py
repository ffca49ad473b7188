"""A guest that serves a device of another machine: image/test_vvu.c, and who connects to it."""

import contextlib
import os
import signal
import socket
import struct
import sys

import pytest

from harness import TREE, readable

sys.path.insert(0, str(TREE / "tests" / "wire"))
import vhost_user as vu  # noqa: E402  (the wire tests' own front-end)

ECHO = "virtio_id=62,queue_sizes=[64,64,64]"
MIB = 1 << 20


class Machine:
    """Either of the two; `guest` is its VMM."""

    def is_killed(self):
        self.guest.signal(signal.SIGKILL)
        self.guest.wait()

    def ends_well(self):
        self.guest.send("q")
        self.guest.passes()


class Server(Machine):
    """The machine whose guest is the back-end."""

    def __init__(self, vmm, path, options="", **keywords):
        self.path = path
        self.guest = vmm("vvu", "--vvu-proxy", f"{path},shmem-size=256M{options}", **keywords)
        self.at = 0
        self.wait("^# up$")

    def wait(self, pattern):
        self.at = self.guest.out.wait(pattern, self.at)[0] + 1

    def command(self, key, answer):
        os.write(self.guest.process.stdin.fileno(), key.encode())
        self.wait(answer)

    def ends_after_the_last(self):
        self.wait("^# sibling [0-9]+ has gone$")
        self.ends_well()

    def refused(self, text):
        """The VMM said why, at least once."""
        self.guest.err.wait(text)

    def has(self):
        """What a sibling may not leave behind: descriptors, mappings."""
        return sum(self.guest.fds().values()), self.guest.mappings()


class Sibling(Machine):
    """The machine that is served: outboard with its own front-end."""

    def __init__(self, vmm, path, test="virtio-poll", **keywords):
        self.guest = vmm(test, "--generic-vhost-user", f"socket={path},{ECHO}", **keywords)
        self.at = 0

    def works(self):
        """Requests that it makes all the time were answered again."""
        self.at = self.guest.out.wait(r"^# \d+ requests$", self.at)[0] + 1

    def works_from_now(self):
        """What it said until now does not count, nor what was under way."""
        self.at = len(self.guest.out.lines)
        self.works()
        self.works()


@pytest.fixture
def server(vmm, folder):
    def start(options="", **keywords):
        return Server(vmm, folder / "vvu.sock", options, **keywords)

    return start


def connect(server, **keywords):
    front = vu.FrontEnd(server.path, **keywords)
    server.wait("^# sibling [0-9]+ has come$")
    return front


def leave(server, front):
    front.close()
    server.wait("^# sibling [0-9]+ has gone$")


@contextlib.contextmanager
def last(server):
    """The only front-end, or the last one. When it has gone the machine ends, and well."""
    with connect(server) as front:
        yield front
    server.ends_after_the_last()


def serves(front, index=0):
    """Memory, a ring, requests."""
    front.share()
    ring = vu.Ring(front, index)
    for n in range(20):
        ring.echo(b"%d" % n * 50)
    return ring


def serves_the_last(server):
    with last(server) as front:
        serves(front)


def all_equal(counts):
    assert max(counts) == min(counts), counts


# --- what works ---


@pytest.mark.parametrize("options", ["", ",iommu=on"])
def test_a_machine_serves_another(vmm, server, options):
    """The other one is larger, and is outboard with its own front-end."""
    host = server(options)
    sibling = Sibling(vmm, host.path, memory="128M")
    sibling.works()
    sibling.works()
    sibling.ends_well()
    host.ends_after_the_last()


def test_the_whole_transport(vmm, server):
    """All that the test of a virtio function does, served from the other guest."""
    host = server()
    Sibling(vmm, host.path, "virtio").guest.passes()
    host.ends_after_the_last()


def test_resets_in_the_middle(vmm, server):
    """Of the function while a sibling works: that sees a pause."""
    host = server()
    sibling = Sibling(vmm, host.path)
    sibling.works()
    for key in "rd" * 10:
        host.command(key, "^# up$")
        host.wait("has come")
        sibling.works()
        sibling.works()
    sibling.ends_well()
    host.ends_after_the_last()


def test_the_other_machine_is_killed(vmm, server):
    """Again and again: what it had is taken back, and the next one is served."""
    host = server()
    counts = []
    for n in range(20):
        sibling = Sibling(vmm, host.path)
        host.wait("has come")
        sibling.works()
        sibling.is_killed()
        host.wait("has gone")
        if n:
            counts.append(host.has())
    all_equal(counts)
    serves_the_last(host)


def test_the_serving_machine_is_killed(vmm, server):
    """The one that is served goes on when the next server comes, however often that is."""
    host = server()
    sibling = Sibling(vmm, host.path)
    sibling.works()
    counts = []
    for n in range(20):
        host.is_killed()
        host = server()
        host.wait("has come")
        sibling.works_from_now()
        if n:
            counts.append(sum(sibling.guest.fds().values()))
    all_equal(counts)
    sibling.ends_well()
    host.ends_after_the_last()


@pytest.mark.parametrize("mode", ["both", "zero-len", "status"])
def test_one_sibling_after_the_other(server, mode):
    """A hundred; nothing of them stays."""
    host = server(f",disconnect={mode}")
    counts = []
    for n in range(100):
        front = connect(host)
        serves(front, n % 3)
        leave(host, front)
        if n >= 10:
            counts.append(host.has())
    # The last one's memory stays until the next one comes, or the function is reset.
    all_equal(counts)
    host.ends_well()


def test_siblings_wait_for_their_turn(server):
    host = server()
    first = connect(host)
    second = vu.FrontEnd(host.path, handshake=False)
    second.send(vu.GET_FEATURES)
    serves(first)
    assert not readable(second.sock, 0.01)
    leave(host, first)
    assert struct.unpack("=Q", second.reply(vu.GET_FEATURES))[0]
    host.wait("has come")
    leave(host, second)
    host.ends_well()


# --- single messages ---


def test_regions_come_and_go(server):
    host = server()
    with last(host) as front:
        front.share()
        assert front.protocol & 1 << 15
        for _ in range(50):
            fds = [vu.memfd(64 * MIB) for _ in range(3)]
            for i, fd in enumerate(fds):
                front.add_region((i + 1) << 32, 64 * MIB, (i + 1) << 40, 0, fd)
            # 256 MiB: 1, and three times 64, are there
            with pytest.raises(vu.Nack):
                front.add_region(5 << 32, 64 * MIB, 5 << 40, 0, fds[0])
            for i, fd in enumerate(fds):
                front.remove_region((i + 1) << 32, 64 * MIB, (i + 1) << 40)
                os.close(fd)
        with pytest.raises(vu.Nack):
            front.remove_region(1 << 32, 64 * MIB, 1 << 40)
        vu.Ring(front, 0).echo(b"still here")


def test_a_table_that_grows_under_a_ring(server):
    """What stays in its place is not taken out for a moment."""
    host = server()
    with last(host) as front:
        ring = serves(front)
        more = front.keep(vu.memfd(MIB))
        for n in range(20):
            front.set_mem_table(
                [(vu.GPA, MIB, vu.USER, 0), (1 << 32, MIB, 1 << 40, 0)][: 1 + n % 2],
                [front.memory_fd, more][: 1 + n % 2],
            )
            ring.set_addr()
            ring.echo(b"%d" % n * 30)


def test_kicks_and_calls_change(server):
    """Front-ends set another call descriptor whenever a vector is masked."""
    host = server()
    with last(host) as front:
        ring = serves(front)
        for n in range(20):
            ring.call = front.keep(vu.eventfd())
            front.vring_fd(vu.SET_VRING_CALL, 0, ring.call)
            ring.echo(b"call")
            ring.kick = front.keep(vu.eventfd())
            front.vring_fd(vu.SET_VRING_KICK, 0, ring.kick)
            ring.echo(b"kick")
        front.vring_fd(vu.SET_VRING_CALL, 0)
        front.vring_fd(vu.SET_VRING_KICK, 0)
        assert front.alive()


def test_err_and_log_doorbells(server):
    host = server()
    with last(host) as front:
        errs = [front.keep(vu.eventfd()) for _ in range(16)]
        for i, fd in enumerate(errs):
            front.vring_fd(vu.SET_VRING_ERR, i, fd)
        log = front.keep(vu.eventfd())
        front.ack(vu.SET_LOG_FD, fds=[log])
        host.command("e", "rung")
        host.command("l", "rung")
        for fd in errs + [log]:
            assert vu.take(fd)


def test_log_and_inflight_area(server):
    """The guest writes into both."""
    host = server()
    host.command("m", "marking")
    with last(host) as front:
        log = front.keep(vu.memfd(8192))
        front.ask(vu.SET_LOG_BASE, struct.pack("=QQ", 4096, 4096), [log])
        assert os.pread(log, 8, 4096) == struct.pack("=Q", 0x1066)
        reply = front.ask(vu.GET_INFLIGHT_FD, struct.pack("=QQHHI", 0, 0, 3, 64, 0))
        size, offset, queues, length, _ = struct.unpack("=QQHHI", reply)
        area = front.received[-1]
        assert offset == 0 and (queues, length) == (3, 64) and os.fstat(area).st_size >= size
        front.ack(vu.SET_INFLIGHT_FD, struct.pack("=QQHHI", size, 0, 3, 64, 0), [area])
        assert os.pread(area, 8, 0) == struct.pack("=Q", 0x1AF1)
        # none for more than there is room for
        reply = front.ask(vu.GET_INFLIGHT_FD, struct.pack("=QQHHI", 0, 0, 999, 32768, 0))
        assert struct.unpack("=QQHHI", reply)[0] == 0


def test_the_guest_asks(server):
    """CONFIG_CHANGE_MSG comes by the socket for that."""
    host = server()
    with last(host) as front:
        ours, theirs = socket.socketpair()
        front.ack(vu.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        theirs.close()
        host.command("c", "changed")
        assert readable(ours)
        assert ours.recv(100) == vu.header(2, 0)
        ours.close()
        host.command("c", "changed")
        assert front.alive()


def test_the_guest_asks_what_an_address_means(server):
    """IOTLB_MISS goes one way, what it means the other."""
    host = server()
    with last(host) as front:
        ours, theirs = socket.socketpair()
        front.ack(vu.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        theirs.close()
        host.command("i", "asked")
        assert readable(ours)
        miss = struct.pack("=QQQBB6x", 0x1AF4000, 4096, 0, 3, 1)
        assert ours.recv(100) == vu.header(1, 32) + miss
        update = struct.pack("=QQQBB6x", 0x1AF4000, 4096, vu.USER, 3, 2)
        assert front.ask(vu.IOTLB_MSG, update) == struct.pack("=Q", 0)
        host.wait(f"^# 0x1af4000 is 0x{vu.USER:x}$")
        ours.close()


# --- a sibling that means no good ---


def nack(front, request, payload=b"", fds=()):
    with pytest.raises(vu.Nack):
        front.ack(request, payload, fds)


def table(*regions):
    return struct.pack("=II", len(regions), 0) + b"".join(vu.region(*r) for r in regions)


def test_memory_that_is_none(server):
    host = server()
    with last(host) as front:
        good = front.keep(vu.memfd(MIB))
        pipe = os.pipe()
        for fd in pipe:
            front.keep(fd)
        event = front.keep(vu.eventfd())
        null = front.keep(os.open("/dev/null", os.O_RDWR))
        proc = front.keep(os.open("/proc/self/status", os.O_RDONLY))  # closed by a thread
        nack(front, vu.SET_MEM_TABLE, table((0, 1 << 63, 0, 0)), [good])
        nack(front, vu.SET_MEM_TABLE, table((0, 1 << 30, 0, 0)), [good])
        nack(front, vu.SET_MEM_TABLE, table((0, MIB, 0, (1 << 64) - 4096)), [good])
        nack(front, vu.SET_MEM_TABLE, table((0, MIB, 0, 1 << 62)), [good])
        nack(front, vu.SET_MEM_TABLE, table((0, 4095, 0, 0)), [good])
        nack(front, vu.SET_MEM_TABLE, table((0, 4096, 0, 8)), [good])
        nack(front, vu.SET_MEM_TABLE, table((0, 0, 0, 0)), [good])
        nack(front, vu.SET_MEM_TABLE, table((0, 4096, 0, 0)), [])
        nack(front, vu.SET_MEM_TABLE, table((0, 4096, 0, 0)), [good, good])
        nack(front, vu.SET_MEM_TABLE, table((0, 8192, 0, 0), (4096, 4096, 0, 0)), [good, good])
        for fd in (*pipe, event, null, proc):
            nack(front, vu.SET_MEM_TABLE, table((0, 4096, 0, 0)), [fd])
            nack(front, vu.ADD_MEM_REG, bytes(8) + vu.region(0, 4096, 0, 0), [fd])
            nack(front, vu.SET_INFLIGHT_FD, struct.pack("=QQHHI", 4096, 0, 1, 8, 0), [fd])
        large = front.keep(vu.memfd(1 << 40))
        nack(front, vu.SET_MEM_TABLE, table((0, 1 << 40, 0, 0)), [large])
        nack(front, vu.ADD_MEM_REG, bytes(8) + vu.region(0, (1 << 28) + 4096, 0, 0), [large])
        nack(front, vu.SET_INFLIGHT_FD, struct.pack("=QQHHI", 1 << 39, 0, 1, 8, 0), [large])
        serves(front)


def test_eventfds_that_are_none(server):
    host = server()
    with last(host) as front:
        memory = front.keep(vu.memfd(4096))
        event = front.keep(vu.eventfd())
        for request in (vu.SET_VRING_KICK, vu.SET_VRING_CALL, vu.SET_VRING_ERR):
            nack(front, request, struct.pack("=Q", 0), [memory])
            nack(front, request, struct.pack("=Q", 16), [event])
            nack(front, request, struct.pack("=Q", 255), [event])
            nack(front, request, struct.pack("=Q", 0))
            nack(front, request, struct.pack("=Q", 0 | vu.NOFD), [event])
        nack(front, vu.SET_LOG_FD, b"", [memory])
        nack(front, vu.SET_BACKEND_REQ_FD, b"", [memory])
        nack(front, vu.SET_BACKEND_REQ_FD, b"", [event])
        # one for two queues: KVM raises one interrupt only
        front.vring_fd(vu.SET_VRING_KICK, 0, event)
        nack(front, vu.SET_VRING_KICK, struct.pack("=Q", 1), [event])
        front.vring_fd(vu.SET_VRING_KICK, 1, front.keep(vu.eventfd()))
        serves(front)


def test_kicks_before_there_is_anything(server):
    host = server()
    with last(host) as front:
        for i in range(16):
            kick = front.keep(vu.eventfd(1 << 20))
            front.vring_fd(vu.SET_VRING_KICK, i, kick)
            os.write(kick, struct.pack("=Q", 1))
        serves(front)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(vu.header(1, 0, 2), id="another version"),
        pytest.param(vu.header(1, 1 << 31), id="2 GiB"),
        pytest.param(vu.header(1, 0, 5), id="an answer"),
        pytest.param(vu.header(77, 0), id="no number"),
        pytest.param(vu.header(2, 4) + bytes(4), id="too short"),
        pytest.param(vu.header(5, 8) + struct.pack("=II", 9, 0), id="nine regions"),
        pytest.param(vu.header(vu.SET_DEVICE_STATE_FD, 8) + bytes(8), id="not to be had"),
    ],
)
def test_bytes_that_make_no_sense(server, data):
    """Without an answer in the protocol, that is the end; the next one is served."""
    host = server()
    front = connect(host)
    front.send_raw(data)
    front.expect_gone()
    host.refused("the sibling is hung up on")
    leave(host, front)
    serves_the_last(host)


def test_half_a_message(server):
    host = server()
    front = connect(host)
    front.send_raw(vu.header(5, 40) + bytes(11))
    leave(host, front)
    serves_the_last(host)


def test_memory_that_is_cut_off(server):
    """The guest reads ones there, and nobody's process minds."""
    host = server()
    front = connect(host)
    ring = serves(front)
    front.memory.close()
    front.memory = None
    os.ftruncate(front.memory_fd, 0)
    ring.ring()
    host.refused("cut short")
    leave(host, front)
    serves_the_last(host)


def test_descriptors_by_the_hundred(server):
    host = server()
    with last(host) as front:
        before = sum(host.guest.fds().values())
        event = front.keep(vu.eventfd())
        for _ in range(20):
            nack(front, vu.SET_MEM_TABLE, table((0, 4096, 0, 0)), [event] * 200)
        # what came with a message is closed when the next one is read
        assert front.alive()
        assert sum(host.guest.fds().values()) == before


# --- a driver that means no good ---


def test_a_driver_without_room(server):
    """A message finds a buffer of 8 bytes."""
    host = server()
    host.command("s", "^# up$")
    front = vu.FrontEnd(host.path, handshake=False)
    front.send(vu.GET_FEATURES)
    host.wait("^# a reset is due$")
    front.expect_gone()
    front.close()
    host.wait("^# up$")
    serves_the_last(host)


def test_doorbells_that_are_nobodys(server):
    """All there could be, while a sibling has its own among them."""
    host = server()
    with last(host) as front:
        ring = serves(front)
        for _ in range(3):
            host.command("b", "rung")
            ring.echo(b"still here")


def test_a_driver_that_talks_nonsense(server):
    """To a sibling, which is left alone until the driver breaks its own rules."""
    host = server()
    front = connect(host)
    ours, theirs = socket.socketpair()
    front.ack(vu.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
    theirs.close()
    serves(front)
    host.command("g", "^# a reset is due$")
    front.expect_gone()
    front.close()
    ours.close()
    host.wait("^# up$")
    serves_the_last(host)


def test_a_hostile_driver(vmm, folder):
    vmm("vvu-hostile", "--vvu-proxy", f"{folder}/vvu.sock,addr=0000:00:10.0").passes()


def test_many_queues(vmm, folder):
    """More vectors than the usual place of their table has room for."""
    vmm("cpuid", "--vvu-proxy", f"{folder}/vvu.sock,max-queues=256").passes()


def test_two_proxies(vmm, folder):
    vmm("vvu-hostile", "--vvu-proxy", f"{folder}/a.sock", f"{folder}/b.sock").passes()


def test_the_socket_is_gone_afterwards(vmm, folder):
    vmm("cpuid", "--vvu-proxy", f"{folder}/vvu.sock").passes()
    assert not (folder / "vvu.sock").exists()


# --- behind the guest's IOMMU ---


def test_rings_that_the_guest_takes_back(vmm, folder):
    """As its kernel does with those of a program that was killed."""
    path = folder / "vvu.sock"
    guest = vmm("viommu-vvu", "--vvu-proxy", f"{path},iommu=on")
    at = 0
    # The first time it is up without memory.
    for features in (None, 0x1AF4, 0x1AF5):
        at = guest.out.wait("^# up$", at)[0] + 1
        if features is None:
            continue
        front = vu.FrontEnd(path, handshake=False)
        front.send(vu.GET_FEATURES)
        assert struct.unpack("=Q", front.reply(vu.GET_FEATURES))[0] == features
        front.expect_gone()
        front.close()
    guest.passes()


# --- the option ---


@pytest.mark.parametrize(
    "options, text",
    [
        ("addr=0000:00:00.0", "addr: expected segment:00:slot.0 with a slot 01 to 1f"),
        ("addr=0000:01:02.0", "addr: expected segment:00:slot.0"),
        ("addr=0000:00:02.1", "addr: expected segment:00:slot.0"),
        ("addr=0000:00:02.0,pci_device_id=3", "addr: expected no pci_segment"),
        ("uuid=1234", "uuid: expected one like"),
        ("shmem-size=3M", "shmem-size: expected a power of two"),
        ("max-queues=0", "max-queues"),
        ("max-queues=257", "max-queues"),
        ("disconnect=never", "disconnect"),
    ],
)
def test_options_that_are_refused(vmm, folder, options, text):
    guest = vmm("cpuid", "--vvu-proxy", f"{folder}/vvu.sock,{options}")
    assert guest.wait() == 2, guest.said()
    assert text in guest.err.text(), guest.said()


def test_a_socket_that_somebody_listens_at(vmm, folder):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "vvu.sock"))
        listener.listen()
        guest = vmm("cpuid", "--vvu-proxy", f"{folder}/vvu.sock")
        assert guest.wait() == 1, guest.said()
        assert "vvu-proxy _vvu_proxy0" in guest.err.text(), guest.said()
