"""One client after another, and only one at a time."""
import os
import signal
import socket
import struct

import pytest

from vfio_user import *


def test_state_stays_from_client_to_client(gpio):
    with gpio.client() as c:
        c.write(2, 0, b"\x5a")
        c.write(2, 4, b"\xa5")
        c.write(CONFIG, 0x3c, b"\x0b")
    with gpio.client() as c:
        assert c.read(2, 0, 6) == b"\x5a\x5a\0\0\xa5\xa5"
        assert c.read(CONFIG, 0x3c, 1) == b"\x0b"


def test_another_client_is_refused_politely(gpio):
    with gpio.client() as c:
        for _ in range(20):
            with gpio.client(handshake=False) as other:
                other.expect_gone()
            c.info()
        gpio.wait_for_log("another client refused, one is being served")
        assert gpio.log().count("another client refused") <= 6, "said, but not every time"
    with gpio.client() as c:
        c.info()


def test_a_client_that_hangs_up_makes_room_at_once(gpio):
    """The server may hear of the next one before it hears of the end of the last."""
    for i in range(300):
        with gpio.client() as c:
            for _ in range(i % 7):
                c.write(2, 0, bytes([i & 0xff]), flags=NO_REPLY)
    assert "refused" not in gpio.log()


def test_10000_reattaches_leak_nothing(gpio):
    def attach():
        c = Client(gpio.path)
        fd, efd = memfd(8192), eventfd()
        c.map(0, 8192, fd)
        c.set_irqs(EVENTFD | TRIGGER, fds=[efd])
        c.set_irqs(EVENTFD | UNMASK, fds=[efd])
        c.write(2, 0, b"\1")
        os.close(fd)
        os.close(efd)
        c.close()

    for _ in range(100):
        attach()
    gpio.settled_fds(gpio.fds())
    before = gpio.fds(), gpio.mappings(), gpio.resident_kib()
    for _ in range(9900):
        attach()
    with gpio.client() as c:
        c.info()
    wait_until(lambda: gpio.fds() <= before[0], "descriptors leak")
    assert gpio.mappings() <= before[1] + 2
    assert gpio.resident_kib() <= before[2] + 512
    assert "refused" not in gpio.log()


def test_connecting_and_leaving_10000_times(gpio):
    before = gpio.fds()
    for _ in range(10000):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(gpio.path))
        sock.close()
    gpio.settled_fds(before)
    with gpio.client() as c:
        c.info()


def test_an_idle_server_uses_no_processor(gpio):
    with gpio.client() as c:
        for _ in range(2000):
            c.read(2, 0, 1)
        ticks = gpio.cpu_ticks()
        assert not readable(c.sock.fileno(), 2), "nothing was asked"
        assert gpio.cpu_ticks() - ticks <= 1


def test_signals_end_it_with_or_without_a_client(start):
    for signo in (signal.SIGTERM, signal.SIGINT):
        for with_client in (False, True):
            server = start("gpio")
            c = server.client() if with_client else None
            server.process.send_signal(signo)
            assert server.process.wait(DEADLINE) == 0
            assert not server.path.exists()
            if c:
                c.expect_gone()
                c.close()


def test_a_connected_descriptor_serves_one_client(start):
    ours, theirs = socket.socketpair()
    server = start("gpio", f"--fd={theirs.fileno()}", listen=False, pass_fds=[theirs.fileno()])
    theirs.close()
    with Client(sock=ours) as c:
        assert c.read(CONFIG, 0, 2) == b"\x4f\x49"
    assert server.process.wait(DEADLINE) == 0, "nobody can come after it"


def test_a_listening_descriptor_serves_one_after_another(start, tmp_path):
    path = tmp_path / "listening"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    start("gpio", f"--fd={listener.fileno()}", listen=False, pass_fds=[listener.fileno()])
    listener.close()
    for _ in range(3):
        with Client(path) as c:
            c.info()
    assert path.exists(), "it was not ours to remove"


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(start, programs):
    server = start("gpio")
    server.kill()
    assert server.path.exists()
    second = subprocess_run(programs, server.path)
    try:
        wait_until(lambda: connects(server.path), "a stale socket was not replaced")
        third = subprocess_run(programs, server.path)
        assert third.wait(DEADLINE) == 1
        assert b"is in use by a running program" in third.stderr.read()
        third.stderr.close()
    finally:
        second.terminate()
        assert second.wait(DEADLINE) == 0
        second.stderr.close()


def subprocess_run(programs, path):
    import subprocess
    return subprocess.Popen([programs["gpio"], "gpio", f"--socket-path={path}"],
                            stderr=subprocess.PIPE)


def connects(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(path))
        return True
    except OSError:
        return False
    finally:
        sock.close()


def test_a_client_that_is_killed_while_it_talks(gpio):
    before = gpio.fds()
    for _ in range(20):
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            c = Client(gpio.path)
            os.write(write, b"x")
            while True:
                c.write(2, 0, b"\1", flags=NO_REPLY)
                c.read(2, 0, 1)
        assert os.read(read, 1) == b"x"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)
        with gpio.client() as c:
            c.info()
    gpio.settled_fds(before)


def test_a_stopped_client_does_not_keep_us_busy(gpio):
    pid = os.fork()
    if not pid:
        c = Client(gpio.path)
        c.send_raw(struct.pack("=HHIII", 1, GET_INFO, 32, 0, 0))
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    ticks = gpio.cpu_ticks()
    with gpio.client(handshake=False) as other:
        other.expect_gone()
    assert gpio.cpu_ticks() - ticks <= 2
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with gpio.client() as c:
        c.info()
