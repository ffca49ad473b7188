"""The console as a process, confined as it is for users: its host ends, and what a kill leaves."""
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import tty

import pytest

from vhost_user import *

NEXT, WRITE = 1, 2
MULTIPORT = 1 << 1
DEVICE_READY, DEVICE_ADD, _, PORT_READY, _, _, PORT_OPEN, PORT_NAME = range(8)


class Queue(Ring):
    """Requests of up to 256 bytes, each in a place of its own, one descriptor each."""

    def make(self, data=None, room=256):
        i = self.avail_idx % 16
        at = 0x3000 + 256 * i
        if data is None:
            self.put(at, bytes(room))
        else:
            self.put(at, data)
        self.desc(i, GPA + self.base + at, len(data) if data is not None else room,
                  0 if data is not None else WRITE)
        self.offer(i)
        self.ring()
        return self.avail_idx - 1 & 0xffff

    def result(self, n):
        """What the device wrote into the n-th request."""
        while (self.used_idx() - n - 1) & 0xffff > 0x7fff:
            take(self.call)
        i, size = self.used(n)
        return self.get(0x3000 + 256 * i, size)

    def send(self, data):
        self.result(self.make(data))

    def resume(self):
        """Go on where the ring stands, as after a reconnect."""
        self.front.vring(SET_VRING_BASE, self.index, self.used_idx())


def read_until(fd, n):
    data = b""
    while len(data) < n:
        assert select.select([fd], [], [], DEADLINE)[0], data
        data += os.read(fd, n - len(data))
    return data


def single(front):
    front.share()
    return Queue(front, 0), Queue(front, 1)


def test_a_socket_is_written_and_read(start, tmp_path):
    path = tmp_path / "console.sock"
    server = start("console", f"--socket={path}", own_sockets=1)
    with server.client() as front, socket.socket(socket.AF_UNIX) as client:
        rx, tx = single(front)
        tx.send(b"before anybody came\n")
        client.connect(str(path))
        client.settimeout(DEADLINE)
        assert client.recv(100) == b"before anybody came\n"
        tx.send(b"login: ")
        assert client.recv(100) == b"login: "
        n = rx.make()
        client.send(b"root\n")
        assert rx.result(n) == b"root\n"
    server.stop()
    assert not path.exists(), "the console's socket was left behind"


def test_a_pty_is_made_and_named(start, tmp_path):
    read_end, write_end = os.pipe()
    server = start("console", "--pty", stdout=write_end)
    os.close(write_end)
    with server.client() as front, os.fdopen(read_end) as out:
        rx, tx = single(front)
        fd = os.open(out.readline().strip(), os.O_RDWR | os.O_NOCTTY)
        tx.send(b"hello")
        assert read_until(fd, 5) == b"hello"
        n = rx.make()
        os.write(fd, b"there\r")
        assert rx.result(n) == b"there\r"
        os.close(fd)


def test_a_file_is_appended_to(start, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    with start("console", f"--file={path}").client() as front:
        _, tx = single(front)
        tx.send(b"new\n")
        assert path.read_bytes() == b"old\nnew\n"


def test_a_given_terminal_survives_the_program(start):
    """As the VMM does it: the terminal is its, the program comes and goes."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_inheritable(master, True)
    options = ("console", f"--in-fd={master}", f"--out-fd={master}")
    first = start(*options, pass_fds=[master])
    with first.client() as front:
        rx, tx = single(front)
        tx.send(b"first")
        assert read_until(slave, 5) == b"first"
        waiting = rx.make()
        first.process.kill()
        first.process.wait()
        os.write(slave, b"typed while it was away")
        second = start(*options, pass_fds=[master])
        with FrontEnd(second.path) as again:
            again.memory_fd = again.keep(os.dup(front.memory_fd))
            again.set_mem_table([(GPA, 1 << 20, USER, 0)], [again.memory_fd])
            for ring in (rx, tx):
                ring.front = again
                again.memory = front.memory
                again.vring(SET_VRING_NUM, ring.index, ring.size)
                ring.resume()
                ring.set_addr()
                again.vring_fd(SET_VRING_CALL, ring.index, ring.call)
                again.vring_fd(SET_VRING_KICK, ring.index, ring.kick)
                again.vring(SET_VRING_ENABLE, ring.index, 1)
            assert rx.result(waiting) == b"typed while it was away"
            tx.send(b"second")
            assert read_until(slave, 6) == b"second"
            again.memory = None
        second.stop()
    os.close(master)
    os.close(slave)


def control(event, port=0, value=1):
    return struct.pack("<IHH", port, event, value)


def test_ports_are_announced_and_opened(start, tmp_path):
    path = tmp_path / "agent.sock"
    server = start("console", f"--ports=agent=socket:{path}", own_sockets=1)
    with FrontEnd(server.path, features=VERSION_1 | PROTOCOL_FEATURES | MULTIPORT) as front, \
            socket.socket(socket.AF_UNIX) as client:
        front.share()
        queues = [Queue(front, i) for i in range(6)]
        to_driver, to_device = queues[2], queues[3]
        messages = [to_driver.make() for _ in range(12)]
        to_device.send(control(DEVICE_READY))
        assert to_driver.result(messages[0]) == control(DEVICE_ADD, 0, 0)
        assert to_driver.result(messages[1]) == control(DEVICE_ADD, 1, 0)
        to_device.send(control(PORT_READY, 1))
        assert to_driver.result(messages[2]) == control(PORT_NAME, 1) + b"agent"
        assert to_driver.result(messages[3]) == control(PORT_OPEN, 1, 0)
        client.connect(str(path))
        assert to_driver.result(messages[4]) == control(PORT_OPEN, 1)
        to_device.send(control(PORT_OPEN, 1))
        n = queues[4].make()
        client.send(b"question")
        assert queues[4].result(n) == b"question"
        queues[5].send(b"answer")
        client.settimeout(DEADLINE)
        assert client.recv(100) == b"answer"


def test_it_leaves_no_process_behind(start):
    server = start("console", "--null")
    pid = server.process.pid
    children = f"/proc/{pid}/task/{pid}/children"
    with open(children) as file:
        assert file.read() == ""
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(DEADLINE) == 0


@pytest.mark.parametrize("options,says", [
    (["--pty", "--null"], "exclude each other"),
    (["--size=80"], "expected COLSxROWS"),
    (["--ports=x"], "expected NAME=END"),
    (["--file=/nonexistent/x"], "port 0: file /nonexistent/x: No such file or directory"),
])
def test_bad_options_are_refused(programs, options, says):
    done = subprocess.run([programs["console"], "console", "--socket-path=/nonexistent/x", *options],
                          stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=DEADLINE,
                          check=False, text=True)
    assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1
