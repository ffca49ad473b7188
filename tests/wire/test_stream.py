"""Framing: bytes cut anywhere, floods, garbage, silence."""
import os
import random
import resource
import socket
import struct

import pytest

from vfio_user import *


def header(command, size, flags=0, mid=7):
    return struct.pack("=HHIII", mid, command, size, flags, 0)


def test_messages_may_come_byte_by_byte(gpio):
    with gpio.client() as c:
        message = header(REGION_READ, 32) + struct.pack("=QII", 0, CONFIG, 4)
        for byte in message:
            c.send_raw(bytes([byte]))
        assert c.reply(7, REGION_READ)[16:] == b"\x4f\x49\xc8\x0d"


def test_pipelined_messages_are_answered_in_order(gpio):
    with gpio.client() as c:
        ids = []
        for i in range(100):
            ids.append(c.send(REGION_WRITE, struct.pack("=QII", 0, 2, 1) + bytes([i & 0xff])))
            ids.append(c.send(REGION_READ, struct.pack("=QII", 0, 2, 1)))
        for i, mid in enumerate(ids):
            reply = c.reply(mid, REGION_READ if i % 2 else REGION_WRITE)
            if i % 2:
                assert reply[16] == i // 2 & 0xff


def test_messages_cut_at_random_places_are_understood(gpio):
    rng = random.Random(1)
    stream = b"".join(header(REGION_READ, 32, mid=i) + struct.pack("=QII", i % 64, CONFIG, 1)
                      for i in range(2000))
    with gpio.client() as c:
        want = c.read(CONFIG, 0, 64)
        at = replies = 0
        while at < len(stream):
            n = rng.choice((1, 3, 16, 17, 31, 33, 100, 4000))
            c.send_raw(stream[at:at + n])
            at += n
            while replies < min(at, len(stream)) // 32:
                assert c.reply(replies, REGION_READ)[16] == want[replies % 64]
                replies += 1


def test_posted_writes_are_not_answered_but_done(gpio):
    with gpio.client() as c:
        for i in range(1000):
            c.write(2, 0, bytes([i & 0xff]), flags=NO_REPLY)
        assert c.read(2, 0, 1) == bytes([999 & 0xff])


def test_a_posted_message_that_fails_is_not_answered_either(gpio):
    with gpio.client() as c:
        c.send(REGION_WRITE, struct.pack("=QII", 1 << 40, 2, 1) + b"x", flags=NO_REPLY)
        c.send(99, b"", flags=NO_REPLY)
        c.send(GET_INFO, b"", flags=NO_REPLY)
        c.info()
    gpio.wait_for_log("REGION_WRITE refused")


@pytest.mark.parametrize("head", [
    header(GET_INFO, 15), header(GET_INFO, 0), header(GET_INFO, 0xffffffff),
    header(GET_INFO, (1 << 20) + 65), header(GET_INFO, 32, flags=2),
    header(GET_INFO, 32, flags=0xf), header(GET_INFO, 32, flags=REPLY),
    header(DMA_READ, 48, flags=REPLY),
], ids=range(8))
def test_a_stream_without_frame_is_dropped(gpio, head):
    with gpio.client() as c:
        c.send_raw(head + b"\0" * 64)
        c.expect_gone()
    gpio.wait_for_log("client dropped")
    with gpio.client() as c:
        c.info()


@pytest.mark.parametrize("command", [0, DIRTY_PAGES, 19, 99, 65535, DMA_READ, DMA_WRITE])
def test_an_unknown_command_is_refused_and_skipped(gpio, command):
    with gpio.client() as c:
        for payload in (b"", b"x" * 16, b"y" * 70000):
            with pytest.raises(Refused) as why:
                c.call(command, payload)
            assert why.value.errno == 22
        c.info()


def test_unknown_flags_are_refused(gpio):
    with gpio.client() as c:
        for flags in (1 << 6, 1 << 31, ERROR):
            with pytest.raises(Refused):
                c.call(RESET, flags=flags)
        c.info()


@pytest.mark.parametrize("command,right", [
    (VERSION, 4), (DMA_MAP, 32), (DMA_UNMAP, 24), (GET_INFO, 16), (GET_REGION_INFO, 32),
    (GET_REGION_IO_FDS, 16), (GET_IRQ_INFO, 16), (SET_IRQS, 20), (REGION_READ, 16),
    (REGION_WRITE, 16), (WRITE_MULTI, 8), (FEATURE, 8), (MIG_READ, 8), (MIG_WRITE, 8)])
def test_payloads_that_are_too_short_are_refused(gpio, command, right):
    with gpio.client() as c:
        for size in range(right):
            with pytest.raises(Refused) as why:
                c.call(command, b"\0" * size)
            assert why.value.errno == 22
        c.info()


def test_a_reset_has_no_payload(gpio):
    with gpio.client() as c:
        with pytest.raises(Refused):
            c.call(RESET, b"x")


def test_100_mb_of_garbage(gpio):
    before = gpio.resident_kib()
    rng = random.Random(2)
    for _ in range(20):
        with gpio.client() as c:
            block = rng.randbytes(1 << 20)
            try:
                for _ in range(5):
                    c.send_raw(block)
            except ConnectionError:
                pass
    with gpio.client() as c:
        c.info()
    assert gpio.resident_kib() < before + 8192


def test_100_mb_that_look_like_messages(gpio):
    """Well-formed, refused, nobody listens to the refusals: bounded on both sides."""
    with gpio.client() as c:
        message = header(99, 1 << 20, flags=NO_REPLY) + b"z" * ((1 << 20) - 16)
        for _ in range(100):
            c.send_raw(message)
        c.info()


def test_half_a_message_and_gone(gpio):
    before = gpio.fds()
    for cut in (1, 15, 16, 17, 40, 47):
        with gpio.client() as c:
            fd = memfd(4096)
            message = header(DMA_MAP, 48) + struct.pack("=IIQQQ", 32, 3, 0, 0, 4096)
            c.send_raw(message[:cut], [fd])
            os.close(fd)
    gpio.wait_for_log("left in the middle of a message")
    gpio.settled_fds(before)


def test_half_a_message_and_half_a_connection(gpio):
    with gpio.client() as c:
        c.send_raw(header(GET_INFO, 32))
        c.sock.shutdown(socket.SHUT_WR)
        c.expect_gone()


def test_a_client_that_hangs_up_after_asking_still_has_its_writes_done(gpio):
    for value in range(1, 20):
        with gpio.client() as c:
            c.write(2, 0, bytes([value]), flags=NO_REPLY)
            c.send(REGION_READ, struct.pack("=QII", 0, 2, 1))
        with gpio.client() as c:
            assert c.read(2, 0, 1) == bytes([value])


# Descriptors


@pytest.mark.parametrize("command,payload", [
    (RESET, b""), (GET_INFO, struct.pack("=IIII", 16, 0, 0, 0)),
    (REGION_READ, struct.pack("=QII", 0, CONFIG, 4))])
def test_descriptors_nobody_asked_for_are_closed(gpio, command, payload):
    with gpio.client() as c:
        c.info()
        before = gpio.fds()
        fds = [memfd(4096) for _ in range(3)]
        for _ in range(50):
            with pytest.raises(Refused):
                c.call(command, payload, fds)
        for fd in fds:
            os.close(fd)
        assert gpio.fds() == before
        c.info()


def test_a_flood_of_descriptors_is_closed(gpio):
    with gpio.client() as c:
        c.info()
        before = gpio.fds()
        fd = memfd(4096)
        for _ in range(40):
            with pytest.raises(Refused):
                c.call(RESET, b"", [fd] * 253)
        os.close(fd)
        assert gpio.fds() == before


def test_a_flood_of_descriptors_over_one_message_is_dropped(gpio):
    before = gpio.fds()
    with gpio.client() as c:
        fd = memfd(4096)
        try:
            for byte in header(SET_IRQS, 36):
                c.send_raw(bytes([byte]), [fd] * 200)
            c.expect_gone()
        except ConnectionError:
            pass
        os.close(fd)
    gpio.settled_fds(before)
    gpio.wait_for_log("a flood of descriptors")


def test_descriptors_stay_with_their_message(gpio):
    """Two maps and a read in between, cut so that the reads of the server join them."""
    with gpio.client() as c:
        a, b = memfd(4096), memfd(8192)
        first = header(DMA_MAP, 48, mid=1) + struct.pack("=IIQQQ", 32, 3, 0, 0, 4096)
        second = header(DMA_MAP, 48, mid=2) + struct.pack("=IIQQQ", 32, 3, 4096, 0x10000, 4096)
        c.send_raw(first[:20], [a])
        c.send_raw(first[20:] + header(GET_INFO, 32, mid=3) + struct.pack("=IIII", 16, 0, 0, 0))
        c.send_raw(second[:30])
        c.send_raw(second[30:], [b])
        # The second is only right with its own file: the first one ends at 4096.
        for mid, command in ((1, DMA_MAP), (3, GET_INFO), (2, DMA_MAP)):
            c.reply(mid, command)
        os.close(a)
        os.close(b)


def test_when_the_server_is_out_of_descriptors_it_refuses_and_recovers(gpio):
    with gpio.client() as c:
        c.info()
        soft = gpio.fds() + 2
        resource.prlimit(gpio.process.pid, resource.RLIMIT_NOFILE, (soft, 4096))
        fd = memfd(4096)
        with pytest.raises(Refused):
            c.call(SET_IRQS, struct.pack("=IIIII", 20, EVENTFD | TRIGGER, INTX, 0, 16), [fd] * 16)
        os.close(fd)
        c.info()
        # Now it cannot accept either, and must neither spin nor die of it.
        resource.prlimit(gpio.process.pid, resource.RLIMIT_NOFILE, (gpio.fds(), 4096))
        other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        other.connect(str(gpio.path))
        gpio.wait_for_log("accept: Too many open files")
        ticks = gpio.cpu_ticks()
        c.info()
        assert gpio.cpu_ticks() - ticks < 20
        resource.prlimit(gpio.process.pid, resource.RLIMIT_NOFILE, (1024, 4096))
        gpio.wait_for_log("another client refused")
        other.close()


# Clients that do not read


def test_a_client_that_does_not_read_is_dropped_in_time(short_probe):
    before = short_probe.fds()
    with short_probe.client() as c:
        base = short_probe.resident_kib()
        c.sock.setblocking(False)
        read = header(REGION_READ, 32) + struct.pack("=QII", 0, 0, 0x4000)
        sent = 0
        try:
            while sent < 100000:
                try:
                    sent += c.sock.send(read * 64)
                except BlockingIOError:
                    if not select.select([], [c.sock], [], DEADLINE)[1]:
                        raise AssertionError("neither read nor dropped") from None
        except ConnectionError:
            pass
        short_probe.wait_for_log("does not read its replies")
        assert short_probe.resident_kib() < base + 6000
    short_probe.settled_fds(before)


def test_a_slow_reader_gets_everything(probe):
    with probe.client() as c:
        read = header(REGION_READ, 32) + struct.pack("=QII", 0, 1, 0x1000)
        n = 2000
        left = memoryview(read * n)
        c.sock.setblocking(False)
        while left:
            try:
                left = left[c.sock.send(left):]
            except BlockingIOError:
                break
        c.sock.setblocking(True)
        # The server stands, with its buffer full; go on sending and reading by turns.
        got = 0
        want = 32 + 0x1000
        data = bytearray()
        while got < n:
            if left:
                ready = select.select([c.sock], [c.sock], [], DEADLINE)
                if ready[1]:
                    left = left[c.sock.send(left, socket.MSG_DONTWAIT):]
                if not ready[0]:
                    continue
            data += c.sock.recv(65536)
            while len(data) >= want:
                assert data[32:want] == b"\xa5" * 0x1000
                del data[:want]
                got += 1


def test_a_client_that_leaves_without_reading_is_noticed(probe):
    before = probe.fds()
    for _ in range(20):
        with probe.client() as c:
            c.sock.setblocking(False)
            read = header(REGION_READ, 32) + struct.pack("=QII", 0, 1, 0x1000)
            try:
                for _ in range(100):
                    c.sock.send(read * 10)
            except BlockingIOError:
                pass
    with probe.client() as c:
        c.info()
    probe.settled_fds(before)
