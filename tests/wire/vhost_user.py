"""A vhost-user front-end that says whatever a test wants it to say."""
import array
import mmap
import os
import socket
import struct

from vfio_user import DEADLINE, Gone, eventfd, memfd, readable, take

GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE, SET_LOG_BASE, SET_LOG_FD, \
    SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, \
    SET_VRING_CALL, SET_VRING_ERR, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, \
    SET_VRING_ENABLE, SEND_RARP, NET_SET_MTU, SET_BACKEND_REQ_FD, IOTLB_MSG, SET_VRING_ENDIAN, \
    GET_CONFIG, SET_CONFIG, CREATE_CRYPTO_SESSION, CLOSE_CRYPTO_SESSION, POSTCOPY_ADVISE, \
    POSTCOPY_LISTEN, POSTCOPY_END, GET_INFLIGHT_FD, SET_INFLIGHT_FD, GPU_SET_SOCKET, \
    RESET_DEVICE, VRING_KICK, GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG, SET_STATUS, \
    GET_STATUS, GET_SHARED_OBJECT, SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE, GET_SHMEM_CONFIG \
    = range(1, 45)

VERSION, REPLY, NEED_REPLY = 1, 4, 8
NOFD = 1 << 8
LOG_ALL, PROTOCOL_FEATURES, VERSION_1 = 1 << 26, 1 << 30, 1 << 32

PAGE = 4096
USER = 0x7f0000000000
GPA = 0x100000


class Nack(Exception):
    """The number of REPLY_ACK was not 0; .errno is it."""

    def __init__(self, errno):
        super().__init__(os.strerror(errno))
        self.errno = errno


def header(request, size, flags=VERSION):
    return struct.pack("=III", request, flags, size)


def region(gpa, size, user, offset=0):
    return struct.pack("=QQQQ", gpa, size, user, offset)


class FrontEnd:
    def __init__(self, path=None, sock=None, handshake=True, features=VERSION_1 | PROTOCOL_FEATURES):
        if sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(str(path))
        self.sock = sock
        self.sock.settimeout(DEADLINE)
        self.received = []
        self.own = []
        self.memory = None
        if handshake:
            self.handshake(features)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()

    def close(self):
        self.sock.close()
        for fd in self.received + self.own:
            os.close(fd)
        self.received, self.own = [], []
        if self.memory:
            self.memory.close()
            self.memory = None

    def keep(self, fd):
        """Closed with the front-end."""
        self.own.append(fd)
        return fd

    # Bytes

    def send_raw(self, data, fds=()):
        data = memoryview(bytes(data))
        try:
            if fds:
                n = self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                                array.array("i", fds))])
                data = data[n:]
            if data:
                self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as why:
            raise Gone from why

    def recv_exact(self, n):
        data = b""
        while len(data) < n:
            try:
                part, anc, _, _ = self.sock.recvmsg(n - len(data), socket.CMSG_SPACE(4 * 16))
            except ConnectionError as why:
                raise Gone from why
            for level, kind, fds in anc:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    got = array.array("i")
                    got.frombytes(fds[:len(fds) - len(fds) % 4])
                    self.received += list(got)
            if not part:
                raise Gone
            data += part
        return data

    # Messages

    def send(self, request, payload=b"", fds=(), flags=0, size=None):
        size = len(payload) if size is None else size
        self.send_raw(header(request, size, VERSION | flags) + payload, fds)

    def reply(self, request):
        got, flags, size = struct.unpack("=III", self.recv_exact(12))
        assert (got, flags) == (request, VERSION | REPLY)
        return self.recv_exact(size)

    def ask(self, request, payload=b"", fds=()):
        self.send(request, payload, fds)
        return self.reply(request)

    def ask_u64(self, request, payload=b"", fds=()):
        return struct.unpack("=Q", self.ask(request, payload, fds))[0]

    def ack(self, request, payload=b"", fds=()):
        self.send(request, payload, fds, NEED_REPLY)
        errno = struct.unpack("=Q", self.reply(request))[0]
        if errno:
            raise Nack(errno)

    def vring(self, request, index, num):
        self.ack(request, struct.pack("=II", index, num))

    def vring_fd(self, request, index, fd=None):
        self.ack(request, struct.pack("=Q", index | (NOFD if fd is None else 0)),
                 () if fd is None else (fd,))

    # The usual way

    def handshake(self, features=VERSION_1 | PROTOCOL_FEATURES):
        self.offered = self.ask_u64(GET_FEATURES)
        self.protocol = self.ask_u64(GET_PROTOCOL_FEATURES)
        self.send(SET_PROTOCOL_FEATURES, struct.pack("=Q", self.protocol))
        self.send(SET_OWNER)
        self.ack(SET_FEATURES, struct.pack("=Q", features))

    def share(self, size=1 << 20):
        """One region of memory, also mapped here."""
        self.memory_fd = self.keep(memfd(size))
        self.memory = mmap.mmap(self.memory_fd, size)
        self.set_mem_table([(GPA, size, USER, 0)], [self.memory_fd])

    def set_mem_table(self, regions, fds):
        self.ack(SET_MEM_TABLE, struct.pack("=II", len(regions), 0) +
                 b"".join(region(*r) for r in regions), fds)

    def add_region(self, gpa, size, user, offset, fd):
        self.ack(ADD_MEM_REG, bytes(8) + region(gpa, size, user, offset), [fd])

    def remove_region(self, gpa, size, user):
        self.ack(REM_MEM_REG, bytes(8) + region(gpa, size, user))

    def vring_base(self, index):
        got, base = struct.unpack("=II", self.ask(GET_VRING_BASE, struct.pack("=II", index, 0)))
        assert got == index
        return base

    def alive(self):
        """It still answers."""
        return self.ask_u64(GET_FEATURES) == self.offered

    def expect_gone(self, timeout=DEADLINE):
        self.sock.settimeout(timeout)
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionError:
            pass


class Ring:
    """A split ring in the front-end's memory: 0x4000 bytes for each index."""

    def __init__(self, front, index, size=64, enable=True, call_flags=os.O_NONBLOCK):
        self.front, self.index, self.size = front, index, size
        self.base = index * 0x4000
        self.avail_idx = 0
        self.kick = front.keep(eventfd())
        self.call = front.keep(eventfd(0, call_flags))
        front.vring(SET_VRING_NUM, index, size)
        front.vring(SET_VRING_BASE, index, 0)
        self.set_addr()
        front.vring_fd(SET_VRING_CALL, index, self.call)
        front.vring_fd(SET_VRING_KICK, index, self.kick)
        if enable:
            front.vring(SET_VRING_ENABLE, index, 1)

    def set_addr(self, desc=0, avail=0x1000, used=0x2000, flags=0):
        at = USER + self.base
        self.front.ack(SET_VRING_ADDR, struct.pack("=IIQQQQ", self.index, flags, at + desc,
                                                   at + used, at + avail, 0))

    def put(self, offset, data):
        at = self.base + offset
        self.front.memory[at:at + len(data)] = data

    def get(self, offset, n):
        at = self.base + offset
        return self.front.memory[at:at + n]

    def desc(self, i, addr, size, flags, link=0):
        self.put(16 * i, struct.pack("<QIHH", addr, size, flags, link))

    def offer(self, head, idx=None):
        self.put(0x1004 + 2 * (self.avail_idx % self.size), struct.pack("<H", head))
        self.avail_idx = (self.avail_idx + 1) & 0xffff if idx is None else idx
        self.put(0x1002, struct.pack("<H", self.avail_idx))

    def ring(self):
        os.write(self.kick, struct.pack("=Q", 1))

    def used_idx(self):
        return struct.unpack("<H", self.get(0x2002, 2))[0]

    def used(self, i):
        """(id, bytes written)"""
        return struct.unpack("<II", self.get(0x2004 + 8 * (i % self.size), 8))

    def wait_used(self):
        """Until all that was offered is used."""
        while self.used_idx() != self.avail_idx:
            take(self.call)

    def echo(self, data, kick=True):
        """Have the echo device write back data."""
        self.put(0x3000, data)
        self.put(0x3800, bytes(len(data)))
        gpa = GPA + self.base
        self.desc(0, gpa + 0x3000, len(data), 1, 1)
        self.desc(1, gpa + 0x3800, len(data), 2)
        self.offer(0)
        if kick:
            self.ring()
        self.wait_used()
        assert self.get(0x3800, len(data)) == data

    def fill(self, n):
        """Have a device that only writes fill n bytes: what it wrote."""
        self.put(0x3000, bytes(n))
        self.desc(0, GPA + self.base + 0x3000, n, 2)
        self.offer(0)
        self.ring()
        self.wait_used()
        return self.get(0x3000, self.used(self.avail_idx - 1)[1])


__all__ = [name for name in dir() if not name.startswith("_")]
