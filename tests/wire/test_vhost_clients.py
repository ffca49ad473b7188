"""One front-end after another, and only one at a time; the device as a program."""
import os
import socket
import struct

import pytest

from vfio_user import wait_until
from vhost_user import *


def test_another_front_end_is_refused_politely(echo):
    with echo.client() as c:
        c.share()
        ring = Ring(c, 0)
        for i in range(20):
            with echo.client(handshake=False) as other:
                other.expect_gone()
            ring.echo(b"%d" % i)
        echo.wait_for_log("another front-end refused, one is being served")
        assert echo.log().count("another front-end refused") <= 6, "said, but not every time"
    with echo.client() as c:
        assert c.alive()


def test_a_front_end_that_hangs_up_makes_room_at_once(echo):
    """The server may hear of the next one before it hears of the end of the last."""
    for i in range(300):
        with echo.client() as c:
            if i % 3 == 0:
                c.share()
            if i % 6 == 0:
                Ring(c, 0).ring()
    assert "refused" not in echo.log()


def test_nothing_stays_from_front_end_to_front_end(echo):
    with echo.client() as c:
        c.share()
        c.vring(SET_VRING_NUM, 0, 16)
        c.vring_fd(SET_VRING_CALL, 0, c.keep(eventfd()))
        c.ack(SET_STATUS, struct.pack("=Q", 7))
        c.ask(GET_INFLIGHT_FD, struct.pack("=QQHHI", 0, 0, 4, 64, 0))
    with echo.client() as c:
        assert c.ask_u64(GET_STATUS) == 0
        # Without memory of its own, no queue of it starts in that of the one before.
        ring = Ring.__new__(Ring)
        c.vring(SET_VRING_NUM, 0, 16)
        c.ack(SET_VRING_ADDR, struct.pack("=IIQQQQ", 0, 0, USER, USER + 0x2000, USER + 0x1000, 0))
        c.vring_fd(SET_VRING_KICK, 0, c.keep(eventfd()))
        c.vring(SET_VRING_ENABLE, 0, 1)
        assert c.vring_base(0) == 0


def attach(server, use):
    c = server.client()
    c.share(65536)
    use(c)
    c.close()


def leak_check(server, use, rounds):
    for _ in range(50):
        attach(server, use)
    wait_until(server.settled, "the end is not noticed")
    before = server.fds(), server.mappings(), server.resident_kib()
    for _ in range(rounds):
        attach(server, use)
    wait_until(server.settled, "the end is not noticed")
    server.settled_fds(before[0])
    assert server.mappings() <= before[1]
    assert server.resident_kib() <= before[2] + 128


def test_10000_connections_leak_nothing(echo):
    kick, call = eventfd(), eventfd()

    def use(c):
        for q in range(2):
            c.send(SET_VRING_NUM, struct.pack("=II", q, 64))
            c.send(SET_VRING_ADDR, struct.pack("=IIQQQQ", q, 0, USER + q * 0x4000,
                                               USER + q * 0x4000 + 0x2000,
                                               USER + q * 0x4000 + 0x1000, 0))
            c.send(SET_VRING_CALL, struct.pack("=Q", q), [call])
            c.send(SET_VRING_KICK, struct.pack("=Q", q), [kick])
        c.vring(SET_VRING_ENABLE, 0, 1)

    leak_check(echo, use, 10000)
    os.close(kick)
    os.close(call)


def test_1000_connections_with_all_there_is_leak_nothing(echo):
    def use(c):
        c.ask(GET_INFLIGHT_FD, struct.pack("=QQHHI", 0, 0, 4, 64, 0))
        log = c.keep(memfd(4096))
        c.send(SET_LOG_BASE, struct.pack("=QQ", 4096, 0), [log])
        c.reply(SET_LOG_BASE)
        ours, theirs = socket.socketpair()
        c.ack(SET_BACKEND_REQ_FD, b"", [theirs.fileno()])
        ours.close()
        theirs.close()
        r, w = os.pipe()
        c.keep(r)
        c.ask_u64(SET_DEVICE_STATE_FD, struct.pack("=II", 0, 0), [w])
        os.close(w)
        c.add_region(1 << 32, 4096, USER + (1 << 32), 0, log)
        Ring(c, 0).echo(b"and a queue")

    leak_check(echo, use, 1000)


@pytest.mark.parametrize("moment", range(9))
def test_the_end_may_come_at_any_moment(echo, moment):
    """After each step of a front-end's way: in the middle of a message, and by a hang-up."""
    before = None
    for cut in (False, True, True):
        with echo.client(handshake=moment > 0) as c:
            steps = [
                lambda: None,
                lambda: None,
                lambda: c.share(),
                lambda: c.ask(GET_INFLIGHT_FD, struct.pack("=QQHHI", 0, 0, 4, 64, 0)),
                lambda: c.vring(SET_VRING_NUM, 0, 64),
                lambda: setattr(c, "ring", Ring(c, 0, enable=False)),
                lambda: c.vring(SET_VRING_ENABLE, 0, 1),
                lambda: c.ring.ring(),
                lambda: c.send(GET_VRING_BASE, bytes(8)),
            ]
            for step in steps[:moment + 1]:
                step()
            if cut:
                c.send_raw(header(SET_VRING_CALL, 8)[:7])
        wait_until(echo.settled, "the end is not noticed")
        before = before or echo.fds()
        echo.settled_fds(before)
    with echo.client() as c:
        c.share()
        Ring(c, 0).echo(b"next")


def test_sigterm_in_the_middle_of_everything(echo):
    with echo.client() as c:
        c.share()
        for q in range(4):
            Ring(c, q).echo(b"running")
        echo.stop()
        c.expect_gone()


def test_an_idle_device_uses_no_cpu(echo):
    with echo.client() as c:
        c.share()
        Ring(c, 0).echo(b"then nothing")
        before = echo.cpu_ticks()
        assert not readable(c.sock, 1)
        assert echo.cpu_ticks() == before
