"""Descriptors of the wrong kind, in the wrong number, at the wrong time."""
import resource
import select
import socket
import struct

import pytest

from vhost_user import *


def wrong_kinds(tmp_path, but=()):
    """One of each kind of file; those of `but` are left out."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    inet = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    epoll = select.epoll()
    r, w = os.pipe()
    plain = os.open(tmp_path / "plain", os.O_RDWR | os.O_CREAT)
    all_of_them = {
        "memfd": memfd(1 << 20), "null": os.open("/dev/null", os.O_RDWR),
        "datagram socket": a.detach(), "its other end": b.detach(), "inet": inet.detach(),
        "epoll": os.dup(epoll.fileno()), "pipe": r, "other end": w, "file": plain,
        "directory": os.open(tmp_path, os.O_RDONLY), "path": os.open("/", os.O_PATH),
        "eventfd": eventfd(), "tty": os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY),
    }
    epoll.close()
    for name in but:
        os.close(all_of_them.pop(name))
    return all_of_them


@pytest.mark.parametrize("request_", [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR])
def test_only_an_eventfd_is_an_eventfd(echo, tmp_path, request_):
    with echo.client() as c:
        before = echo.fds()
        for name, fd in wrong_kinds(tmp_path, ["eventfd"]).items():
            c.keep(fd)
            with pytest.raises(Nack):
                c.vring_fd(request_, 0, fd)
            assert echo.fds() == before, name
        assert c.alive()


def test_only_memory_is_memory(echo, tmp_path):
    # A plain file on a disk is memory, too; on a file system without a device it is not.
    with echo.client() as c:
        before = echo.fds(), echo.mappings()
        for name, fd in wrong_kinds(tmp_path, ["memfd", "file"]).items():
            c.keep(fd)
            with pytest.raises(Nack):
                c.set_mem_table([(GPA, 4096, USER, 0)], [fd])
            with pytest.raises(Nack):
                c.add_region(GPA, 4096, USER, 0, fd)
            with pytest.raises(Nack):
                c.ack(SET_INFLIGHT_FD, struct.pack("=QQHHI", 4096, 0, 1, 16, 0), [fd])
            assert (echo.fds(), echo.mappings()) == before, name
        assert c.alive()


def test_only_a_stream_is_a_channel(echo, tmp_path):
    with echo.client() as c:
        before = echo.fds()
        for name, fd in wrong_kinds(tmp_path).items():
            c.keep(fd)
            with pytest.raises(Nack):
                c.ack(SET_BACKEND_REQ_FD, b"", [fd])
            assert echo.fds() == before, name
        assert c.alive()


def test_only_a_pipe_takes_the_state(echo, tmp_path):
    with echo.client() as c:
        before = echo.fds(), echo.mappings()
        for name, fd in wrong_kinds(tmp_path, ["pipe", "other end"]).items():
            c.keep(fd)
            for direction in (0, 1):
                answer = c.ask_u64(SET_DEVICE_STATE_FD, struct.pack("=II", direction, 0), [fd])
                assert answer & NOFD and answer & 0xff, name
            assert (echo.fds(), echo.mappings()) == before, name
        assert c.ask_u64(CHECK_DEVICE_STATE) != 0
        assert c.alive()


def test_a_log_that_is_none_ends_the_connection(echo, tmp_path):
    for name, fd in wrong_kinds(tmp_path, ["memfd", "file"]).items():
        with echo.client() as c:
            c.keep(fd)
            c.send(SET_LOG_BASE, struct.pack("=QQ", 4096, 0), [fd])
            c.expect_gone()


def test_a_thousand_descriptors_at_once(echo):
    """In four messages: the kernel lets no more than 253 travel together."""
    fd = eventfd()
    with echo.client() as c:
        before = echo.fds()
        for _ in range(4):
            c.send(SET_OWNER, b"", [fd] * 250, NEED_REPLY)
        for _ in range(4):
            assert struct.unpack("=Q", c.reply(SET_OWNER))[0] == 71
        for request in (SET_VRING_CALL, SET_VRING_KICK, SET_VRING_ERR):
            with pytest.raises(Nack):
                c.ack(request, bytes(8), [fd] * 253)
        with pytest.raises(Nack):
            c.ack(SET_MEM_TABLE, struct.pack("=II", 8, 0) +
                  b"".join(region(i << 20, 4096, i << 20) for i in range(8)), [fd] * 253)
        assert echo.fds() == before
        assert c.alive()
    os.close(fd)


def test_a_thousand_descriptors_in_one_message(echo):
    """With each byte of it as many as go."""
    fd = eventfd()
    before = echo.fds()
    with echo.client() as c:
        for byte in header(SET_OWNER, 0, VERSION | NEED_REPLY):
            c.send_raw(bytes([byte]), [fd] * 253)
        assert struct.unpack("=Q", c.reply(SET_OWNER))[0] == 71
        assert echo.fds() == before + 1
    os.close(fd)
    echo.settled_fds(before)


def test_who_has_no_room_for_descriptors_serves_on(echo):
    """The kernel drops those that do not fit: the message is refused, not misread."""
    limit = echo.fds() + 4
    resource.prlimit(echo.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    fds = [memfd(4096) for _ in range(8)]
    with echo.client() as c:
        with pytest.raises(Nack):
            c.set_mem_table([(i << 20, 4096, USER + (i << 20), 0) for i in range(8)], fds)
        c.set_mem_table([(0, 4096, USER, 0)], fds[:1])
        assert c.alive()
    for fd in fds:
        os.close(fd)


def test_a_missing_or_surplus_descriptor_is_refused(echo):
    fd = eventfd()
    with echo.client() as c:
        before = echo.fds()
        for request, payload, fds in (
                (SET_VRING_CALL, struct.pack("=Q", 0), []),
                (SET_VRING_CALL, struct.pack("=Q", NOFD), [fd]),
                (SET_VRING_KICK, struct.pack("=Q", 0), [fd, fd]),
                (SET_MEM_TABLE, struct.pack("=II", 1, 0) + region(0, 4096, 0), []),
                (SET_MEM_TABLE, struct.pack("=II", 1, 0) + region(0, 4096, 0), [fd, fd]),
                (ADD_MEM_REG, bytes(8) + region(0, 4096, 0), []),
                (SET_INFLIGHT_FD, bytes(24), []),
                (SET_BACKEND_REQ_FD, b"", []),
                (SET_VRING_NUM, struct.pack("=II", 0, 16), [fd]),
                (SET_FEATURES, struct.pack("=Q", VERSION_1), [fd])):
            with pytest.raises(Nack):
                c.ack(request, payload, fds)
            assert echo.fds() == before
        assert c.alive()
    os.close(fd)


def test_descriptors_of_a_queue_are_replaced_not_collected(echo):
    with echo.client() as c:
        c.share()
        ring = Ring(c, 0)
        ring.echo(b"one")
        before = echo.fds()
        for _ in range(500):
            fd = eventfd()
            c.vring_fd(SET_VRING_CALL, 0, fd)
            c.vring_fd(SET_VRING_ERR, 0, fd)
            os.close(fd)
        assert echo.fds() == before + 1
        c.vring_fd(SET_VRING_ERR, 0)
        c.vring_fd(SET_VRING_CALL, 0, ring.call)
        ring.echo(b"two")
        for _ in range(200):
            fd = eventfd()
            c.vring_fd(SET_VRING_KICK, 0, fd)
            os.close(fd)
        c.vring_fd(SET_VRING_KICK, 0, ring.kick)
        ring.echo(b"three")
        assert echo.fds() == before


@pytest.mark.parametrize("full", [0, 0xfffffffffffffffe])
def test_a_full_blocking_call_descriptor_holds_up_nobody(echo, full):
    with echo.client() as c:
        c.share()
        trap, free = Ring(c, 0, call_flags=0), Ring(c, 1)
        if full:
            os.write(trap.call, struct.pack("=Q", full))
        for i in range(50):
            trap.put(0x3000, b"unheard")
            trap.desc(0, GPA + 0x3000, 7, 1, 1)
            trap.desc(1, GPA + 0x3800, 7, 2)
            trap.offer(0)
            trap.ring()
            free.echo(b"heard %d" % i)
        assert c.alive()


def test_a_kick_descriptor_may_be_read_by_somebody_else(echo):
    """A blocking one, emptied before the server looks: it must not wait for it."""
    with echo.client() as c:
        c.share()
        ring, free = Ring(c, 0), Ring(c, 1)
        os.close(ring.kick)
        c.own.remove(ring.kick)
        ring.kick = c.keep(eventfd(0, 0))
        c.vring_fd(SET_VRING_KICK, 0, ring.kick)
        for i in range(200):
            ring.ring()
            os.read(ring.kick, 8)
            free.echo(b"%d" % i)
        ring.echo(b"still served")
