"""A vhost-user back-end that answers wrongly: what stands between the VMM and a good one.

All messages are passed on, with their descriptors, but for the answers that a test tampers with.
"""

import contextlib
import mmap
import os
import random
import socket
import struct
import threading

HEADER = struct.Struct("=III")
VERSION, REPLY = 1, 4

GET_FEATURES, SET_FEATURES = 1, 2
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE, SET_BACKEND_REQ_FD = 15, 17, 18, 21
GET_INFLIGHT_FD, GET_MAX_MEM_SLOTS, ADD_MEM_REG = 31, 36, 37


class Hangup(Exception):
    pass


def receive(sock):
    """One message: request, flags, payload, descriptors."""
    fds = []

    def take(size):
        data = b""
        while len(data) < size:
            more, came, _, _ = socket.recv_fds(sock, size - len(data), 64)
            fds.extend(came)
            if not more:
                raise Hangup
            data += more
        return data

    request, flags, size = HEADER.unpack(take(HEADER.size))
    return request, flags, take(size), fds


def send(sock, data, fds=()):
    sent = socket.send_fds(sock, [data], fds) if fds else 0
    sock.sendall(data[sent:])


def message(request, payload, flags=VERSION | REPLY, size=None):
    return HEADER.pack(request, flags, len(payload) if size is None else size) + payload


# --- ways to answer wrongly: the bytes to send, and whether to hang up afterwards ---

WAYS = {
    "nothing": lambda request, payload: (b"", False),
    "closes": lambda request, payload: (b"", True),
    "half a header": lambda request, payload: (message(request, payload)[:5], True),
    "half a payload": lambda request, payload: (message(request, payload)[:-3], True),
    "short": lambda request, payload: (message(request, payload[:-4]), False),
    "long": lambda request, payload: (message(request, payload + bytes(8)), False),
    "empty": lambda request, payload: (message(request, b""), False),
    "huge": lambda request, payload: (message(request, payload, size=0xFFFFFFF0), False),
    "another request": lambda request, payload: (message(request + 1, payload), False),
    "another version": lambda request, payload: (message(request, payload, flags=6), False),
    "a request": lambda request, payload: (message(request, payload, flags=VERSION), False),
    "twice": lambda request, payload: (2 * message(request, payload), False),
    "noise": lambda request, payload: (random.Random(request).randbytes(5000), False),
}


class Tamperer:
    """Listens at a path; each connection is passed on to another."""

    def __init__(self, path, behind):
        self.behind = str(behind)
        self.lock = threading.Condition()
        self.request = self.way = None
        self.surplus = self.missing = False
        self.hits = 0
        self.ending = False
        self.pair = None
        self.regions = []
        self.rings = {}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while not self.ending:
            with contextlib.suppress(OSError):
                front, _ = self.listener.accept()
                back = socket.socket(socket.AF_UNIX)
                back.connect(self.behind)
                with self.lock:
                    self.pair = (front, back)
                there = threading.Thread(target=self._pass_on, args=(front, back), daemon=True)
                there.start()
                self._answer(front, back)
                self.hang_up()
                there.join()
                front.close()
                back.close()

    def _pass_on(self, front, back):
        try:
            while True:
                request, flags, payload, fds = receive(front)
                self._look(request, payload, fds)
                send(back, message(request, payload, flags), fds)
                for fd in fds:
                    os.close(fd)
        except (Hangup, OSError):
            self.hang_up()

    def _look(self, request, payload, fds):
        """Remember what is needed to write into the guest's rings."""
        if request == ADD_MEM_REG:
            _, gpa, size, user, offset = struct.unpack("=5Q", payload)
            self.regions.append((user, size, mmap.mmap(fds[0], size, offset=offset)))
        elif request == SET_VRING_ADDR:
            index, _, _, used, _, _ = struct.unpack("=IIQQQQ", payload)
            self.rings[index] = used

    def _answer(self, front, back):
        try:
            while True:
                request, _, payload, fds = receive(back)
                data, close = message(request, payload), False
                with self.lock:
                    if request == self.request:
                        self.hits += 1
                        self.lock.notify_all()
                        if self.way:
                            data, close = WAYS[self.way](request, payload)
                        fds += [os.dup(front.fileno()) for _ in range(3 * self.surplus)]
                        if self.missing:
                            while fds:
                                os.close(fds.pop())
                if data:
                    send(front, data, fds)
                for fd in fds:
                    os.close(fd)
                if close:
                    return
        except (Hangup, OSError):
            pass

    def hang_up(self):
        with self.lock:
            for sock in self.pair or ():
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def tamper(self, request, way=None, surplus=False, missing=False):
        with self.lock:
            self.request, self.way, self.hits = request, way, 0
            self.surplus, self.missing = surplus, missing

    def behave(self):
        self.tamper(None)

    def wait_hits(self, n, deadline):
        with self.lock:
            assert self.lock.wait_for(lambda: self.hits >= n, deadline), "was not asked again"

    def scribble(self, seed):
        """Random bytes all over the used rings."""
        noise = random.Random(seed)
        for used in self.rings.values():
            for user, size, memory in self.regions:
                if user <= used < user + size:
                    at = used - user
                    length = min(6 + 8 * 64, size - at)
                    memory[at:at + length] = noise.randbytes(length)

    def close(self):
        self.ending = True
        self.hang_up()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self.listener.close()
