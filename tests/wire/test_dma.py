"""Guest memory: mappings, what may not be one, access by message, truncation."""
import os
import socket
import struct
import threading

import pytest

from vfio_user import *

PAGE = 4096
COPY, COPY_LATER, FILL = 1, 4, 6


def command(c, cmd, src=0, dst=0, length=0):
    """Let the probe do it; returns the errno."""
    c.write(0, 0, struct.pack("=QQI", src, dst, length))
    c.write(0, 0x14, struct.pack("=I", cmd))
    return result(c)


def result(c):
    return struct.unpack("=I", c.read(0, 0x18, 4))[0]


def test_the_device_reaches_what_is_mapped(probe):
    with probe.client() as c:
        fd = memfd(16 * PAGE)
        os.pwrite(fd, b"hello", 3 * PAGE)
        c.map(0x100000, 4 * PAGE, fd, 2 * PAGE)
        c.map(0x200000, PAGE, fd, 8 * PAGE, flags=2)
        assert command(c, COPY, 0x101000, 0x200010, 5) == 0
        assert os.pread(fd, 5, 8 * PAGE + 16) == b"hello"
        assert command(c, COPY, 0x200000, 0x100000, 1) == 13, "not readable"
        assert command(c, COPY, 0x104000, 0x100000, 1) == 14, "not mapped"
        assert command(c, COPY, 0x103fff, 0x100000, 2) == 14, "half mapped"
        assert command(c, COPY, 0x100000, (1 << 64) - 1, 1) == 14
        os.close(fd)


def test_answers_to_map_and_unmap(probe):
    with probe.client() as c:
        fd = memfd(16 * PAGE)
        assert c.map(0, 4 * PAGE, fd) == b""
        assert c.map(0, 4 * PAGE, fd) == b"", "the same again is fine"

        def refused(errno, call, *args, **kwargs):
            with pytest.raises(Refused) as why:
                call(*args, **kwargs)
            assert why.value.errno == errno

        refused(22, c.map, 0, 4 * PAGE, fd, PAGE)
        refused(22, c.map, PAGE, PAGE, fd)
        refused(22, c.map, 3 * PAGE, 2 * PAGE, fd)
        refused(2, c.unmap, 0, PAGE)
        refused(2, c.unmap, PAGE, 3 * PAGE)
        refused(2, c.unmap, 8 * PAGE, PAGE)
        refused(22, c.unmap, 0, 4 * PAGE, flags=1)
        refused(22, c.unmap, 0, 4 * PAGE, flags=2)
        refused(22, c.unmap, 0, 4 * PAGE, flags=4)
        request = struct.pack("=IIQQ", 24, 0, 0, 4 * PAGE)
        assert c.unmap(0, 4 * PAGE) == request
        refused(2, c.unmap, 0, 4 * PAGE)
        for i in range(10):
            c.map(i * PAGE, PAGE, fd, i * PAGE)
        c.unmap(0, 0, flags=2)
        refused(2, c.unmap, 0, PAGE)
        c.map(0, 16 * PAGE, fd)
        os.close(fd)


@pytest.mark.parametrize("addr,size,offset,flags", [
    (0, 0, 0, 3), (PAGE, (1 << 64) - PAGE + 1, 0, 3), ((1 << 64) - PAGE, 2 * PAGE, 0, 3),
    (1, PAGE, 0, 3), (0, PAGE - 1, 0, 3), (0, PAGE, 1, 3), (0, PAGE, 0, 0), (0, PAGE, 0, 16),
    (0, PAGE, 0, 0xffffffff), (0, 3 * PAGE, 0, 3), (0, PAGE, 2 * PAGE, 3),
    (0, PAGE, (1 << 64) - PAGE, 3), (0, 1 << 63, 0, 3)])
def test_impossible_mappings_are_refused(probe, addr, size, offset, flags):
    with probe.client() as c:
        c.info()
        before = probe.fds(), probe.mappings()
        fd = memfd(2 * PAGE)
        with pytest.raises(Refused) as why:
            c.map(addr, size, fd, offset, flags)
        assert why.value.errno == 22
        os.close(fd)
        assert (probe.fds(), probe.mappings()) == before


def test_what_is_no_memory_is_refused(probe, tmp_path):
    with probe.client() as c:
        c.info()
        before = probe.fds()
        pipe = os.pipe()
        pair = socket.socketpair()
        readonly = memfd(PAGE)
        fds = [*pipe, pair[0].fileno(), eventfd(), os.open("/", os.O_RDONLY),
               os.open("/dev/zero", os.O_RDWR), os.open("/dev/null", os.O_RDWR),
               os.open("/proc/self/mem", os.O_RDWR), os.open("/proc/version", os.O_RDONLY),
               os.open("/dev/zero", os.O_PATH), os.open(f"/proc/self/fd/{readonly}", os.O_WRONLY)]
        for fd in fds:
            with pytest.raises(Refused) as why:
                c.map(0, PAGE, fd)
            assert why.value.errno == 22
        ro = os.open(f"/proc/self/fd/{readonly}", os.O_RDONLY)
        with pytest.raises(Refused) as why:
            c.map(0, PAGE, ro)
        assert why.value.errno == 13
        c.map(0, PAGE, ro, flags=1)
        for fd in fds + [readonly, ro]:
            os.close(fd)
        pair[0].detach()
        pair[1].close()
        assert probe.fds() == before


def test_two_descriptors_with_a_mapping_are_one_too_many(probe):
    with probe.client() as c:
        c.info()
        before = probe.fds()
        fd = memfd(PAGE)
        with pytest.raises(Refused):
            c.call(DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, 0, PAGE), [fd, fd])
        os.close(fd)
        assert probe.fds() == before


def test_truncated_memory_fails_and_drops_the_client(probe):
    before = probe.fds(), probe.mappings()
    for access in (COPY, FILL, COPY):
        with probe.client() as c:
            fd = memfd(16 * PAGE)
            c.map(0, 16 * PAGE, fd)
            assert command(c, COPY, 0, 8 * PAGE, PAGE) == 0
            os.ftruncate(fd, PAGE)
            c.write(0, 0, struct.pack("=QQI", 0, 8 * PAGE, PAGE))
            c.send(REGION_WRITE, struct.pack("=QIII", 0x14, 0, 4, access))
            c.expect_gone()
            os.close(fd)
        probe.wait_for_log("its memory was truncated under us")
    with probe.client() as c:
        assert result(c) == 5, "the access itself failed, too"
        c.info()
    probe.settled_fds(before[0])
    assert probe.mappings() <= before[1] + 3


def test_truncated_memory_that_nobody_touches_hurts_nobody(probe):
    with probe.client() as c:
        fd = memfd(16 * PAGE)
        c.map(0, 16 * PAGE, fd)
        os.ftruncate(fd, 0)
        c.info()
        c.unmap(0, 16 * PAGE)
        os.ftruncate(fd, 16 * PAGE)
        c.map(0, 16 * PAGE, fd)
        assert command(c, COPY, 0, PAGE, PAGE) == 0
        os.close(fd)


def test_memory_in_use_can_be_unmapped(probe):
    with probe.client() as c:
        fd = memfd(1024 * PAGE)
        for _ in range(50):
            c.map(0, 512 * PAGE, fd)
            c.write(0, 0, struct.pack("=QQI", 0, 256 * PAGE, 1 << 20))
            c.send(REGION_WRITE, struct.pack("=QIII", 0x14, 0, 4, COPY), flags=NO_REPLY)
            c.send(REGION_WRITE, struct.pack("=QIII", 0x14, 0, 4, COPY_LATER), flags=NO_REPLY)
            c.unmap(0, 512 * PAGE)
        wait_until(lambda: result(c) != 0xffff, "the late copy never ran")
        assert result(c) == 14
        os.close(fd)


def test_thousands_of_pieces_cost_no_descriptors_and_no_mappings(probe):
    with probe.client() as c:
        c.info()
        before = probe.fds(), probe.mappings()
        fd = memfd(20000 * PAGE)
        for base in range(0, 20000, 100):
            ids = [c.send(DMA_MAP, struct.pack("=IIQQQ", 32, 3, i * PAGE, (2 * i) * PAGE, PAGE),
                          [fd]) for i in range(base, base + 100)]
            for mid in ids:
                c.reply(mid, DMA_MAP)
        assert probe.fds() == before[0]
        assert probe.mappings() <= before[1] + 8
        os.pwrite(fd, b"there", 19999 * PAGE)
        assert command(c, COPY, 2 * 19999 * PAGE, 0, 5) == 0
        assert os.pread(fd, 5, 0) == b"there"
        c.unmap(0, 0, flags=2)
        os.close(fd)


def test_no_more_mappings_than_announced(probe):
    with probe.client() as c:
        for base in range(0, 65535, 255):
            ids = [c.send(DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, i * PAGE, PAGE))
                   for i in range(base, base + 255)]
            for mid in ids:
                c.reply(mid, DMA_MAP)
        with pytest.raises(Refused) as why:
            c.map(1 << 40, PAGE)
        assert why.value.errno == 28
        c.unmap(0, PAGE)
        c.map(1 << 40, PAGE)


# Memory without a descriptor


class Memory:
    """The client's own memory, reached by DMA_READ and DMA_WRITE."""

    def __init__(self, size):
        self.bytes = bytearray(size)
        self.asked = []

    def serve(self, cmd, payload):
        addr, count = struct.unpack_from("=QQ", payload)
        self.asked.append((cmd, addr, count))
        if cmd == DMA_READ:
            assert len(payload) == 16
            return payload[:16] + bytes(self.bytes[addr:addr + count])
        assert len(payload) == 16 + count
        self.bytes[addr:addr + count] = payload[16:]
        return payload[:16]


@pytest.mark.parametrize("length", [1, 5, 4096, 65536, 65537, 1 << 20])
def test_memory_is_asked_for_on_the_main_socket(probe, length):
    with probe.client() as c:
        memory = Memory(4 << 20)
        memory.bytes[0:length] = os.urandom(length)
        c.serve = memory.serve
        c.map(0, 2 << 20)
        c.map(2 << 20, 2 << 20)
        assert command(c, COPY, 0, 2 << 20, length) == 0
        assert memory.bytes[2 << 20:(2 << 20) + length] == memory.bytes[:length]
        assert all(count <= 65536 for _, _, count in memory.asked)
        c.serve = None
        c.info()


def test_the_clients_limit_is_kept_when_asking(probe):
    with probe.client(caps={"max_data_xfer_size": 1000}) as c:
        memory = Memory(1 << 20)
        c.serve = memory.serve
        c.map(0, 1 << 20)
        assert command(c, COPY, 0, 0x8000, 2500) == 0
        assert [n for _, _, n in memory.asked] == [1000, 1000, 500] * 2


def test_commands_sent_meanwhile_wait_their_turn(probe):
    """Posted writes and a map with its descriptor arrive between DMA_READ and its answer."""
    with probe.client() as c:
        memory = Memory(1 << 20)
        fd = memfd(PAGE)
        c.map(0, 1 << 20)
        c.write(0, 0, struct.pack("=QQI", 0, 0x8000, 4))
        memory.bytes[0:4] = b"data"
        start = c.send(REGION_WRITE, struct.pack("=QIII", 0x14, 0, 4, COPY))
        mid, cmd, flags, _, payload = c.recv()
        assert (cmd, flags) == (DMA_READ, COMMAND)
        c.write(0, 8, struct.pack("=Q", 0x1111), flags=NO_REPLY)
        mapped = c.send(DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, 1 << 30, PAGE), [fd])
        asked = c.send(GET_INFO, struct.pack("=IIII", 16, 0, 0, 0))
        c.send(DMA_READ, memory.serve(cmd, payload), flags=REPLY, mid=mid)
        later = c.send(GET_INFO, struct.pack("=IIII", 16, 0, 0, 0))
        c.serve = memory.serve
        c.reply(start, REGION_WRITE)
        c.reply(mapped, DMA_MAP)
        c.reply(asked, GET_INFO)
        c.reply(later, GET_INFO)
        assert memory.bytes[0x8000:0x8004] == b"data"
        assert c.read(0, 8, 8) == struct.pack("=Q", 0x1111)
        assert command(c, FILL, 0, 1 << 30, 4) == 0
        assert os.pread(fd, 4, 0) == b"ZZZZ"
        os.close(fd)


def test_a_model_may_ask_outside_of_any_command(probe):
    with probe.client() as c:
        memory = Memory(1 << 20)
        c.map(0, 1 << 20)
        memory.bytes[0:4] = b"late"
        c.write(0, 0, struct.pack("=QQI", 0, 0x8000, 4))
        c.write(0, 0x14, struct.pack("=I", COPY_LATER))
        mid, cmd, _, _, payload = c.recv()
        asked = c.send(GET_INFO, struct.pack("=IIII", 16, 0, 0, 0))
        c.send(cmd, memory.serve(cmd, payload), flags=REPLY, mid=mid)
        c.serve = memory.serve
        c.reply(asked, GET_INFO)
        assert memory.bytes[0x8000:0x8004] == b"late"
        assert result(c) == 0


@pytest.mark.parametrize("cmd", [COPY, COPY_LATER])
def test_the_twin_socket_carries_them(probe, cmd):
    with probe.client(caps={"twin_socket": {"supported": True}}) as c:
        twin = Client(sock=socket.socket(fileno=c.fds.pop()), handshake=False)
        memory = Memory(4 << 20)
        memory.bytes[0:1 << 20] = os.urandom(1 << 20)
        c.map(0, 4 << 20)

        def serve():
            for _ in range(2):
                mid, command_, _, _, payload = twin.recv()
                twin.send(command_, memory.serve(command_, payload), flags=REPLY, mid=mid)

        thread = threading.Thread(target=serve)
        thread.start()
        c.write(0, 0, struct.pack("=QQI", 0, 2 << 20, 1 << 20))
        c.write(0, 0x14, struct.pack("=I", cmd))
        thread.join()
        wait_until(lambda: result(c) != 0xffff, "the late copy never ran")
        assert result(c) == 0
        assert memory.bytes[2 << 20:3 << 20] == memory.bytes[:1 << 20]
        assert [n for _, _, n in memory.asked] == [1 << 20, 1 << 20]
        twin.close()


def test_a_refusal_of_the_client_fails_the_access_only(probe):
    with probe.client() as c:
        c.map(0, 1 << 20)
        c.serve = lambda cmd, payload: 22
        assert command(c, COPY, 0, 0x8000, 4) == 5
        c.info()


@pytest.mark.parametrize("short", [True, False])
def test_the_count_of_a_dma_writes_answer_may_be_four_bytes(probe, short):
    with probe.client() as c:
        c.map(0, 1 << 20)
        c.serve = lambda cmd, payload: payload[:12 if short else 16]
        assert command(c, FILL, 0, 0, 4) == 0


WRONG = {
    "other address": lambda a, n: struct.pack("=QQ", a + 1, n) + b"x" * n,
    "count too small": lambda a, n: struct.pack("=QQ", a, n - 1) + b"x" * (n - 1),
    "count too large": lambda a, n: struct.pack("=QQ", a, n + 1) + b"x" * (n + 1),
    "less than counted": lambda a, n: struct.pack("=QQ", a, n) + b"x" * (n - 1),
    "more than counted": lambda a, n: struct.pack("=QQ", a, n) + b"x" * (n + 1),
    "huge count": lambda a, n: struct.pack("=QQ", a, 1 << 63) + b"x" * n,
    "no data": lambda a, n: struct.pack("=QQ", a, n),
    "too short": lambda a, n: b"1234",
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_answer_drops_the_client(probe, how):
    before = probe.fds()
    with probe.client() as c:
        c.map(0, 1 << 20)
        c.serve = lambda cmd, payload: WRONG[how](*struct.unpack("=QQ", payload))
        with pytest.raises(ConnectionError):
            command(c, COPY, 0, 0x8000, 64)
            c.info()
        c.expect_gone()
    probe.settled_fds(before)
    probe.wait_for_log("client dropped")


@pytest.mark.parametrize("twist", ["id", "command", "descriptor"])
def test_an_answer_to_another_question_drops_the_client(probe, twist):
    before = probe.fds()
    with probe.client() as c:
        c.map(0, 1 << 20)
        c.write(0, 0, struct.pack("=QQI", 0, 0x8000, 4))
        c.send(REGION_WRITE, struct.pack("=QIII", 0x14, 0, 4, COPY))
        mid, cmd, _, _, payload = c.recv()
        fd = memfd(PAGE)
        c.send(DMA_WRITE if twist == "command" else cmd, payload + b"data",
               [fd] if twist == "descriptor" else [], flags=REPLY,
               mid=mid ^ 1 if twist == "id" else mid)
        os.close(fd)
        c.expect_gone()
    probe.settled_fds(before)


def test_a_client_that_never_answers_is_dropped_in_time(short_probe):
    for caps in ({}, {"twin_socket": {"supported": True}}):
        with short_probe.client(caps=caps) as c:
            c.map(0, 1 << 20)
            c.write(0, 0, struct.pack("=QQI", 0, 0x8000, 4))
            c.send(REGION_WRITE, struct.pack("=QIII", 0x14, 0, 4, COPY))
            c.expect_gone()
        short_probe.wait_for_log("does not answer our DMA commands")
    with short_probe.client() as c:
        assert result(c) == 5


def test_a_client_that_leaves_instead_of_answering(probe):
    before = probe.fds()
    for _ in range(20):
        with probe.client() as c:
            c.map(0, 1 << 20)
            c.write(0, 0, struct.pack("=QQI", 0, 0x8000, 4))
            c.send(REGION_WRITE, struct.pack("=QIII", 0x14, 0, 4, COPY))
            assert c.recv()[1] == DMA_READ
    with probe.client() as c:
        assert result(c) == 5
    probe.settled_fds(before)


def test_a_flood_instead_of_an_answer_is_bounded(probe):
    with probe.client() as c:
        base = probe.resident_kib()
        c.map(0, 1 << 20)
        c.write(0, 0, struct.pack("=QQI", 0, 0x8000, 4))
        c.send(REGION_WRITE, struct.pack("=QIII", 0x14, 0, 4, COPY))
        flood = b"".join(struct.pack("=HHIII", 1, GET_INFO, 32, NO_REPLY, 0) +
                         struct.pack("=IIII", 16, 0, 0, 0) for _ in range(2000))
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                c.send_raw(flood)
        assert probe.resident_kib() < base + 4000
    probe.wait_for_log("client dropped")


def test_the_answer_may_follow_many_other_messages(probe):
    with probe.client() as c:
        c.map(0, 1 << 20)
        c.write(0, 0, struct.pack("=QQI", 0, 0x80000, 65536))
        start = c.send(REGION_WRITE, struct.pack("=QIII", 0x14, 0, 4, COPY))
        memory = Memory(1 << 20)
        memory.bytes[:65536] = os.urandom(65536)
        for _ in range(2):
            mid, cmd, _, _, payload = c.recv()
            for value in range(1, 1000):
                c.write(0, 0x20, struct.pack("=I", value), flags=NO_REPLY)
            c.send(cmd, memory.serve(cmd, payload), flags=REPLY, mid=mid)
        c.reply(start, REGION_WRITE)
        c.info()
        assert memory.bytes[0x80000:0x80000 + 65536] == memory.bytes[:65536]
        assert result(c) == 0
