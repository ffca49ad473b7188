"""The network device as a process, confined as it is for users: on sockets and on a tap."""
import contextlib
import ctypes
import fcntl
import os
import random
import select
import socket
import struct
import threading

import pytest

from vhost_user import *

HEADER = 12
WRITE = 2
MRG_RXBUF, CTRL_VQ, MQ, STATUS = 1 << 15, 1 << 17, 1 << 22, 1 << 16
MAC = bytes.fromhex("525400010203")


class Queue(Ring):
    """Buffers of 2 KiB behind all rings, one descriptor each."""

    def __init__(self, front, index, **kwargs):
        super().__init__(front, index, 16, **kwargs)
        self.room = 0x40000 + index * 0x10000

    def make(self, data=None):
        i = self.avail_idx % 16
        at = self.room + 2048 * i
        if data is not None:
            self.front.memory[at:at + len(data)] = data
        self.desc(i, GPA + at, 2048 if data is None else len(data), WRITE if data is None else 0)
        self.offer(i)
        self.ring()
        return self.avail_idx - 1 & 0xffff

    def result(self, n):
        while (self.used_idx() - n - 1) & 0xffff > 0x7fff:
            take(self.call)
        i, size = self.used(n)
        return self.front.memory[self.room + 2048 * i:self.room + 2048 * i + size]

    def send(self, frame):
        self.result(self.make(bytes(HEADER) + frame))


def net(front):
    front.share()
    return Queue(front, 0), Queue(front, 1)


def features(bits=MRG_RXBUF):
    return {"features": VERSION_1 | PROTOCOL_FEATURES | bits}


@contextlib.contextmanager
def packet_pair():
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(DEADLINE)
    with ours, its:
        its.set_inheritable(True)
        yield ours, its


def frame(n):
    return MAC + bytes.fromhex("020000000001 88b5") + struct.pack("<I", n) + bytes(n % 1000)


def test_frames_pass_both_ways(start):
    with packet_pair() as (ours, its):
        server = start("net", f"--tap-fd={its.fileno()}", "--mac=52:54:00:01:02:03",
                       pass_fds=[its.fileno()], own_sockets=1)
        with FrontEnd(server.path, **features()) as front:
            rx, tx = net(front)
            for n in range(100):
                tx.send(frame(n))
                assert ours.recv(4096) == bytes(HEADER) + frame(n)
                buffer = rx.make()
                ours.send(bytes(HEADER) + frame(n))
                assert rx.result(buffer) == bytes(10) + b"\1\0" + frame(n)


def take_over(old, path, rings):
    """A front-end that goes on with the memory and the rings of one whose server has died."""
    front = FrontEnd(path, **features())
    front.memory, old.memory = old.memory, None
    front.own, old.own = old.own, []
    front.memory_fd = old.memory_fd
    old.close()
    front.set_mem_table([(GPA, 1 << 20, USER, 0)], [front.memory_fd])
    for ring in rings:
        ring.front = front
        front.vring(SET_VRING_NUM, ring.index, ring.size)
        front.vring(SET_VRING_BASE, ring.index, ring.used_idx())
        ring.set_addr()
        front.vring_fd(SET_VRING_CALL, ring.index, ring.call)
        front.vring_fd(SET_VRING_KICK, ring.index, ring.kick)
        front.vring(SET_VRING_ENABLE, ring.index, 1)
    return front


def test_nothing_is_lost_while_the_process_is_away(start):
    """Frames wait in the tap, buffers in the ring; what was sent is not sent twice."""
    with packet_pair() as (ours, its):
        options = ("net", f"--tap-fd={its.fileno()}")
        server = start(*options, pass_fds=[its.fileno()], own_sockets=1)
        front = FrontEnd(server.path, **features())
        with contextlib.ExitStack() as at_end:
            at_end.callback(lambda: front.close())
            rx, tx = net(front)
            for life in range(10):
                buffers = [rx.make() for _ in range(4)]
                ours.send(bytes(HEADER) + frame(life))
                assert rx.result(buffers[0])[HEADER:] == frame(life)
                tx.send(frame(life))
                assert ours.recv(4096)[HEADER:] == frame(life)
                server.kill()
                for n in range(3):
                    ours.send(bytes(HEADER) + frame(100 + n))
                waiting = tx.make(bytes(HEADER) + frame(77))
                server = start(*options, pass_fds=[its.fileno()], own_sockets=1)
                front = take_over(front, server.path, (rx, tx))
                assert ours.recv(4096)[HEADER:] == frame(77)
                tx.result(waiting)
                for n in range(3):
                    assert rx.result(buffers[1 + n])[HEADER:] == frame(100 + n)
            assert not select.select([ours], [], [], 0)[0]


# A tap in a network namespace that only its descriptor leads to

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454ca
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 2, 0x1000, 0x4000, 0x100
SIOCSIFFLAGS, SIOCGIFINDEX = 0x8914, 0x8933


class Tap:
    """Made by a thread in a namespace of its own, which stays there to send and receive."""

    def __init__(self, queues):
        self.fds, self.why, self.work, self.done = [], None, None, threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.thread = threading.Thread(target=self.live, args=(queues,))
        self.thread.start()
        self.done.acquire()
        if self.why:
            self.thread.join()
            pytest.skip(self.why)

    def live(self, queues):
        try:
            self.make(queues)
        except OSError as why:
            self.why = f"no tap in a network namespace of its own: {why}"
        self.done.release()
        while not self.why:
            self.go.acquire()
            if not self.work:
                break
            self.result = self.work()
            self.done.release()

    def make(self, queues):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if queues > 1 else 0)
        for _ in range(queues):
            fd = os.open("/dev/net/tun", os.O_RDWR)
            self.fds.append(fd)
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("=16sH22x", b"t0", flags))
            os.set_inheritable(fd, True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("=16sH22x", b"t0", 1))
        self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
        self.raw.bind(("t0", 0x88b5))
        self.raw.settimeout(DEADLINE)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.work = None
        self.go.release()
        self.thread.join()
        self.raw.close()
        for fd in self.fds:
            os.close(fd)

    def options(self):
        return f"--tap-fd={','.join(map(str, self.fds))}", f"--queues={len(self.fds)}"


def test_a_tap_works_within_the_sandbox(start):
    with Tap(1) as tap:
        server = start("net", *tap.options(), pass_fds=tap.fds)
        with FrontEnd(server.path, **features(MRG_RXBUF | CTRL_VQ)) as front:
            rx, tx = net(front)
            for n in range(20):
                tx.send(b"\xff" * 6 + frame(n)[6:])
                assert tap.raw.recv(4096) == b"\xff" * 6 + frame(n)[6:]
            # The kernel has things of its own to say: ours is among the first.
            buffers = [rx.make() for _ in range(16)]
            tap.raw.send(frame(5))
            assert any(rx.result(n)[HEADER:] == frame(5) for n in buffers)


def test_pairs_are_switched_and_come_back_after_a_kill(start):
    with Tap(2) as tap:
        for life in range(3):
            server = start("net", *tap.options(), pass_fds=tap.fds)
            with FrontEnd(server.path, **features(MRG_RXBUF | CTRL_VQ | MQ)) as front:
                front.share()
                queues = [Queue(front, i) for i in range(5)]
                for pairs in (2, 1, 2):
                    queues[4].send_command(bytes((4, 0)) + struct.pack("<H", pairs))
                queues[3].send(b"\xff" * 6 + frame(life)[6:])
                assert tap.raw.recv(4096) == b"\xff" * 6 + frame(life)[6:]
                queues[4].send_command(bytes((4, 0)) + struct.pack("<H", 1))
                queues[3].send(b"a queue that is not in use")
            server.kill()


def send_command(self, command):
    """A command and the byte for its answer, which must be OK."""
    at = self.room
    self.front.memory[at:at + len(command)] = command
    self.front.memory[at + 100:at + 101] = b"\xff"
    self.desc(0, GPA + at, len(command), 1, 1)
    self.desc(1, GPA + at + 100, 1, WRITE)
    self.offer(0)
    self.ring()
    self.wait_used()
    assert self.front.memory[at + 100] == 0


Queue.send_command = send_command


def test_rings_full_of_noise_end_nothing_but_themselves(start):
    rnd = random.Random(7)
    with packet_pair() as (ours, its):
        server = start("net", f"--tap-fd={its.fileno()}", pass_fds=[its.fileno()], own_sockets=1)
        fds = server.fds()
        for _ in range(30):
            with FrontEnd(server.path, **features(MRG_RXBUF | CTRL_VQ)) as front:
                front.share()
                queues = [Queue(front, i) for i in range(3)]
                for ring in queues:
                    ring.put(0, rnd.randbytes(256))
                    for i in range(16):
                        # Mostly plausible: addresses in memory, links in the table.
                        ring.desc(i, GPA + rnd.randrange(1 << 21), rnd.choice(
                            (0, 1, 12, 100, 1514, 65536, 0xffffffff)), rnd.randrange(8),
                            rnd.randrange(17))
                        ring.offer(rnd.randrange(16))
                    ring.ring()
                ours.send(bytes(HEADER) + frame(3))
                assert front.alive()
                for ring in queues:
                    front.vring_base(ring.index)
                while select.select([ours], [], [], 0)[0]:
                    ours.recv(1 << 17)
        server.settled_fds(fds)
        with FrontEnd(server.path, **features()) as front:
            rx, tx = net(front)
            tx.send(frame(1))
            assert ours.recv(4096)[HEADER:] == frame(1)
