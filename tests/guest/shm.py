"""A virtio device with a shared-memory region, as a vhost-user back-end (device/shm.h).

It obeys commands that the driver writes into its configuration, and looks at no ring.
"""

import os
import socket
import struct
import threading

from tamper import GET_FEATURES, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, GET_VRING_BASE, \
    SET_BACKEND_REQ_FD, VERSION, Hangup, message, receive, send

SET_FEATURES, GET_CONFIG, SET_CONFIG, GET_SHMEM_CONFIG = 2, 24, 25, 44
BACKEND_MAP, BACKEND_UNMAP = 9, 10
NEED_REPLY = 8
# VERSION_1 and the protocol's own; REPLY_ACK, BACKEND_REQ, CONFIG, BACKEND_SEND_FD, SHMEM_MAP
FEATURES = 1 << 32 | 1 << 30
PROTOCOL = 1 << 3 | 1 << 5 | 1 << 9 | 1 << 10 | 1 << 22

TYPE, REGION, REGION_SIZE, FILE_SIZE = 61, 3, 0x1000000, 0x10000
ID, CONFIG_SIZE = 0x5A3E0001, 0x1C
MAP, MAP_RO, UNMAP, READ, TRUNCATE = 1, 2, 3, 4, 5


class Shm:
    """Serves one connection at a time, on a thread of its own, until close()."""

    def __init__(self, path):
        self.config = bytearray(struct.pack("=7I", ID, 0, 0, 0, 0, 0, 0))
        self.file = os.memfd_create("shm")
        os.ftruncate(self.file, FILE_SIZE)
        self.back = None
        self.conn = None
        self.failure = None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.option = f"socket={path},virtio_id={TYPE},queue_sizes=[64]"
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self):
        for sock in (self.listener, self.conn):
            if sock:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:  # not connected any more
                    pass
        self.thread.join()
        self.listener.close()
        os.close(self.file)
        assert not self.failure, self.failure

    def _run(self):
        while True:
            try:
                self.conn, _ = self.listener.accept()
            except OSError:  # shut down
                return
            try:
                while True:
                    self._serve(*receive(self.conn))
            except (Hangup, OSError):
                pass
            except Exception as error:  # told by close(), in the test's own thread
                self.failure = error
            self.conn.close()
            if self.back:
                self.back.close()
                self.back = None

    def _serve(self, request, flags, payload, fds):
        if request == SET_BACKEND_REQ_FD:
            self.back = socket.socket(fileno=fds.pop())
        for fd in fds:
            os.close(fd)
        answer = self._answer(request, payload)
        if answer is None and flags & NEED_REPLY:
            answer = bytes(8)
        if answer is not None:
            send(self.conn, message(request, answer))
        if request == SET_CONFIG:
            self._obey()

    def _answer(self, request, payload):
        if request == GET_FEATURES:
            return struct.pack("=Q", FEATURES)
        if request == GET_PROTOCOL_FEATURES:
            return struct.pack("=Q", PROTOCOL)
        if request == GET_QUEUE_NUM:
            return struct.pack("=Q", 1)
        if request == GET_VRING_BASE:
            return payload
        if request == GET_SHMEM_CONFIG:
            sizes = [REGION_SIZE if i == REGION else 0 for i in range(256)]
            return struct.pack("=II256Q", 1, 0, *sizes)
        if request in (GET_CONFIG, SET_CONFIG):
            at, size, flags = struct.unpack_from("=III", payload)
            if request == GET_CONFIG:
                data = bytes(self.config[at:at + size]).ljust(size, b"\0")
                return struct.pack("=III", at, size, flags) + data
            self.config[at:at + size] = payload[12:12 + size]
            del self.config[CONFIG_SIZE:]
        return None

    def _obey(self):
        number, command, offset, size, fd_offset, done, _ = struct.unpack("=7I", self.config)
        if not command:
            return
        if command in (MAP, MAP_RO):
            result = self._ask(BACKEND_MAP, offset, size, fd_offset, command == MAP, [self.file])
        elif command == UNMAP:
            result = self._ask(BACKEND_UNMAP, offset, size, 0, False, [])
        elif command == TRUNCATE:
            os.ftruncate(self.file, size)
            result = 0
        else:
            result = struct.unpack("=I", os.pread(self.file, 4, fd_offset))[0]
        self.config[:] = struct.pack("=7I", number, 0, offset, size, fd_offset, done + 1, result)

    def _ask(self, request, offset, size, fd_offset, writable, fds):
        """What the VMM answers: 0, or an error of whatever number."""
        payload = struct.pack("=B7xQQQQ", REGION, fd_offset, offset, size, writable)
        send(self.back, message(request, payload, flags=VERSION | NEED_REPLY), fds)
        _, _, answer, _ = receive(self.back)
        return 1 if struct.unpack("=Q", answer)[0] else 0
