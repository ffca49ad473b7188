"""A vfio-user client that says whatever a test wants it to say."""
import array
import ctypes
import json
import os
import select
import socket
import struct
import time

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO, GET_REGION_IO_FDS, GET_IRQ_INFO, SET_IRQS, \
    REGION_READ, REGION_WRITE, DMA_READ, DMA_WRITE, RESET, DIRTY_PAGES, WRITE_MULTI, FEATURE, \
    MIG_READ, MIG_WRITE = range(1, 19)

COMMAND, REPLY, NO_REPLY, ERROR = 0, 1, 1 << 4, 1 << 5

NONE, BOOL, EVENTFD = 1, 2, 4
MASK, UNMASK, TRIGGER = 8, 16, 32

INTX, MSI, MSIX, ERR, REQ = range(5)
CONFIG = 7

# Long enough for a slow machine under a sanitizer: it only runs out when something is wrong.
DEADLINE = 30

ALL_CAPS = {"max_msg_fds": 16, "max_data_xfer_size": 1 << 20, "max_dma_maps": 65535,
            "pgsizes": 4096, "write_multiple": True}


class Refused(Exception):
    """An error reply; .errno says which."""

    def __init__(self, errno):
        super().__init__(os.strerror(errno))
        self.errno = errno


class Gone(ConnectionError):
    """The server has closed the connection."""


libc = ctypes.CDLL(None, use_errno=True)


def eventfd(initial=0, flags=os.O_NONBLOCK):
    """A descriptor; flags 0 makes it one whose write blocks when it is full."""
    fd = libc.eventfd(initial, flags | os.O_CLOEXEC)
    assert fd >= 0
    return fd


def readable(fd, timeout):
    return bool(select.select([fd], [], [], timeout)[0])


def take(fd):
    """The counter of an eventfd, waited for."""
    assert readable(fd, DEADLINE), "no interrupt came"
    return struct.unpack("=Q", os.read(fd, 8))[0]


def memfd(size, name="guest"):
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    return fd


class Client:
    def __init__(self, path=None, sock=None, caps=ALL_CAPS, minor=1, handshake=True):
        if sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(str(path))
        self.sock = sock
        self.sock.settimeout(DEADLINE)
        self.id = 0
        self.fds = []
        self.serve = None  # answers the server's commands: f(command, payload) -> payload or errno
        if handshake:
            self.version_reply = self.version(caps, minor)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()

    def close(self):
        self.sock.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    # Bytes

    def send_raw(self, data, fds=()):
        data = memoryview(bytes(data))
        if fds:
            n = self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                            array.array("i", fds))])
            data = data[n:]
        if data:
            self.sock.sendall(data)

    def recv_exact(self, n):
        data = b""
        while len(data) < n:
            try:
                part, anc, _, _ = self.sock.recvmsg(n - len(data), socket.CMSG_SPACE(4 * 64))
            except (ConnectionResetError, BrokenPipeError) as why:
                raise Gone from why
            for level, kind, fds in anc:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    got = array.array("i")
                    got.frombytes(fds[:len(fds) - len(fds) % 4])
                    self.fds += list(got)
            if not part:
                raise Gone
            data += part
        return data

    # Messages

    def send(self, command, payload=b"", fds=(), flags=COMMAND, size=None, error=0, mid=None):
        if mid is None:
            self.id = (self.id + 1) & 0xffff
            mid = self.id
        size = 16 + len(payload) if size is None else size
        self.send_raw(struct.pack("=HHIII", mid, command, size, flags, error) + payload, fds)
        return mid

    def recv(self):
        """(id, command, flags, error, payload) of the next message."""
        mid, command, size, flags, error = struct.unpack("=HHIII", self.recv_exact(16))
        return mid, command, flags, error, self.recv_exact(size - 16)

    def answer(self, mid, command, payload):
        result = self.serve(command, payload)
        if isinstance(result, int):
            self.send(command, flags=REPLY | ERROR, error=result, mid=mid)
        else:
            self.send(command, result, flags=REPLY, mid=mid)

    def reply(self, mid, command):
        while True:
            got, cmd, flags, error, payload = self.recv()
            if flags & 0xf == COMMAND and self.serve:
                self.answer(got, cmd, payload)
                continue
            assert (got, cmd, flags & 0xf) == (mid, command, REPLY)
            if flags & ERROR:
                assert payload == b"", "an error reply is the header alone"
                raise Refused(error)
            return payload

    def call(self, command, payload=b"", fds=(), **kwargs):
        return self.reply(self.send(command, payload, fds, **kwargs), command)

    # Commands

    def version(self, caps=ALL_CAPS, minor=1, major=0):
        text = b"" if caps is None else json.dumps(
            {"capabilities": caps}, separators=(",", ":")).encode() + b"\0"
        reply = self.call(VERSION, struct.pack("=HH", major, minor) + text)
        self.minor = struct.unpack_from("=HH", reply)[1]
        return json.loads(reply[4:].rstrip(b"\0")) if len(reply) > 4 else None

    def map(self, addr, size, fd=None, offset=0, flags=3):
        return self.call(DMA_MAP, struct.pack("=IIQQQ", 32, flags, offset, addr, size),
                         [] if fd is None else [fd])

    def unmap(self, addr, size, flags=0):
        return self.call(DMA_UNMAP, struct.pack("=IIQQ", 24, flags, addr, size))

    def info(self):
        return struct.unpack("=IIII", self.call(GET_INFO, struct.pack("=IIII", 16, 0, 0, 0)))

    def region_info(self, index, argsz=4096):
        return self.call(GET_REGION_INFO, struct.pack("=IIIIQQ", argsz, 0, index, 0, 0, 0))

    def irq_info(self, index):
        reply = self.call(GET_IRQ_INFO, struct.pack("=IIII", 16, 0, index, 0))
        return struct.unpack("=IIII", reply)

    def set_irqs(self, flags, index=INTX, start=0, count=1, data=b"", fds=(), argsz=None):
        head = struct.pack("=IIIII", 20 + len(data) if argsz is None else argsz, flags, index,
                           start, count)
        return self.call(SET_IRQS, head + data, fds)

    def read(self, region, offset, count):
        reply = self.call(REGION_READ, struct.pack("=QII", offset, region, count))
        assert struct.unpack_from("=QII", reply) == (offset, region, count)
        assert len(reply) == 16 + count
        return reply[16:]

    def write(self, region, offset, data, **kwargs):
        payload = struct.pack("=QII", offset, region, len(data)) + data
        if kwargs.get("flags", 0) & NO_REPLY:
            return self.send(REGION_WRITE, payload, **kwargs)
        return self.call(REGION_WRITE, payload, **kwargs)

    def reset(self):
        return self.call(RESET)

    def expect_gone(self, timeout=DEADLINE):
        """The server hangs up; whatever it says before that is read."""
        self.sock.settimeout(timeout)
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionError:
            pass


def wait_until(condition, what, timeout=DEADLINE):
    """For what has no event of its own, like another process's table of descriptors."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, what
        select.select([], [], [], 0.002)
