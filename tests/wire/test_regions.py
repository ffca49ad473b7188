"""Information about the device, and access to its regions."""
import mmap
import os
import struct

import pytest

from vfio_user import *


def test_device_information(gpio):
    with gpio.client() as c:
        assert c.info() == (16, 3, 9, 5)
        for argsz in (0, 15):
            with pytest.raises(Refused):
                c.call(GET_INFO, struct.pack("=IIII", argsz, 0, 0, 0))


def test_gpio_regions(gpio):
    with gpio.client() as c:
        for index in range(9):
            argsz, flags, i, cap, size, offset = struct.unpack("=IIIIQQ", c.region_info(index))
            assert (argsz, i, cap, offset) == (32, index, 0, 0)
            assert (flags, size) == ((3, 256) if index in (2, CONFIG) else (0, 0))


def test_region_information_is_cut_to_argsz(probe):
    with probe.client() as c:
        for argsz in (0, 31):
            with pytest.raises(Refused):
                c.region_info(0, argsz=argsz)
        # The fixed part alone says how much is needed, and no descriptor comes.
        for argsz in (32, 79):
            reply = c.region_info(0, argsz=argsz)
            assert len(reply) == 32
            need, flags, _, cap, size, _ = struct.unpack("=IIIIQQ", reply)
            assert (need, flags & 8, cap, size) == (80, 0, 0, 0x4000)
            assert c.fds == []
        reply = c.region_info(0, argsz=80)
        assert len(reply) == 80 and len(c.fds) == 1
        for index in (9, 100, 0xffffffff):
            with pytest.raises(Refused):
                c.region_info(index)


def test_sparse_areas_and_their_descriptor(probe):
    with probe.client() as c:
        reply = c.region_info(0)
        argsz, flags, _, cap, size, offset = struct.unpack_from("=IIIIQQ", reply)
        assert (argsz, flags, cap, size, offset) == (80, 15, 32, 0x4000, 0)
        assert struct.unpack_from("=HHIII", reply, 32) == (1, 1, 0, 2, 0)
        assert struct.unpack_from("=QQQQ", reply, 48) == (0x1000, 0x1000, 0x3000, 0x1000)
        with mmap.mmap(c.fds[0], 0x1000, offset=0x1000) as page:
            page[0] = 1
        reply = c.region_info(5)
        assert struct.unpack("=IIIIQQ", reply) == (32, 7, 5, 0, 0x1000, 0x1000)
        assert len(c.fds) == 2


def test_a_client_that_takes_no_descriptors_gets_no_mappings(probe):
    with probe.client(caps={"max_msg_fds": 0}) as c:
        assert struct.unpack("=IIIIQQ", c.region_info(0))[:2] == (32, 3)
        assert c.fds == []


def io_fds(c, index, argsz=4096, flags=0, count=0):
    return c.call(GET_REGION_IO_FDS, struct.pack("=IIII", argsz, flags, index, count))


def test_doorbells_by_eventfd(probe):
    with probe.client() as c:
        reply = io_fds(c, 0)
        assert struct.unpack_from("=IIII", reply) == (16 + 3 * 40, 0, 0, 3)
        sub = [struct.unpack_from("=QQIIIIQ", reply, 16 + 40 * i) for i in range(3)]
        assert sub == [(0x800, 4, 0, 0, 0, 0, 0), (0x804, 4, 0, 0, 1, 0, 7),
                       (0x808, 4, 1, 0, 0, 0, 0)]
        assert len(c.fds) == 2
        os.write(c.fds[0], struct.pack("=Q", 1))
        os.write(c.fds[1], struct.pack("=Q", 1))
        c.write(0, 0x14, struct.pack("=I", 5))
        assert struct.unpack("=I", c.read(0, 0x18, 4)) == (101,)


def test_doorbells_are_all_or_none(probe):
    with probe.client() as c:
        for argsz in (16, 16 + 3 * 40 - 1):
            reply = io_fds(c, 0, argsz=argsz)
            assert struct.unpack("=IIII", reply) == (136, 0, 0, 3)
            assert c.fds == []
        for bad in (dict(argsz=15), dict(flags=1), dict(count=1)):
            with pytest.raises(Refused):
                io_fds(c, 0, **bad)
        for index in (2, 9, 0xffffffff):
            with pytest.raises(Refused):
                io_fds(c, index)
        assert struct.unpack("=IIII", io_fds(c, 1)) == (16, 0, 1, 0)
    with probe.client(caps={"max_msg_fds": 1}) as c:
        assert struct.unpack_from("=IIII", io_fds(c, 0)) == (16 + 2 * 40, 0, 0, 2)
        assert len(c.fds) == 1


@pytest.mark.parametrize("region,offset,count", [
    (2, 0, 257), (2, 256, 1), (2, 255, 2), (2, 1 << 63, 1), (2, (1 << 64) - 1, 1),
    (2, (1 << 64) - 1, 2), (2, 0, 0xffffffff), (2, 0, (1 << 20) + 1), (0, 0, 1), (8, 0, 1),
    (9, 0, 1), (0xffffffff, 0, 1), (CONFIG, 0, 257), (CONFIG, 253, 4)])
def test_reads_out_of_bounds_are_refused(gpio, region, offset, count):
    with gpio.client() as c:
        with pytest.raises(Refused) as why:
            c.read(region, offset, count)
        assert why.value.errno == 22
        c.info()


@pytest.mark.parametrize("region,offset,length", [
    (2, 256, 1), (2, 255, 2), (2, (1 << 64) - 1, 2), (0, 0, 4), (9, 0, 4), (CONFIG, 254, 4)])
def test_writes_out_of_bounds_are_refused(gpio, region, offset, length):
    with gpio.client() as c:
        with pytest.raises(Refused) as why:
            c.write(region, offset, b"x" * length)
        assert why.value.errno == 22


def test_a_write_brings_what_it_says(gpio):
    with gpio.client() as c:
        for count in (0, 3, 5, 0xffffffff):
            with pytest.raises(Refused):
                c.call(REGION_WRITE, struct.pack("=QII", 0, 2, count) + b"abcd")
        assert c.read(2, 0, 1) == b"\0"


def test_a_read_only_region_is_not_written(probe):
    with probe.client() as c:
        assert c.read(1, 0xff0, 16) == b"\xa5" * 16
        with pytest.raises(Refused):
            c.write(1, 0, b"x")


def test_nothing_and_a_whole_region_can_be_accessed(probe):
    with probe.client() as c:
        assert c.read(0, 0x4000, 0) == b""
        assert c.call(REGION_WRITE, struct.pack("=QII", 0x4000, 0, 0)) == struct.pack(
            "=QII", 0x4000, 0, 0)
        assert len(c.read(0, 0, 0x4000)) == 0x4000
        c.write(0, 0x1000, b"z" * 0x3000)


def test_the_clients_own_limit_is_kept(probe):
    with probe.client(caps={"max_data_xfer_size": 4096}) as c:
        c.read(0, 0, 4096)
        with pytest.raises(Refused):
            c.read(0, 0, 4097)


def multi(*writes, count=None):
    return struct.pack("=Q", len(writes) if count is None else count) + b"".join(
        struct.pack("=QII8s", offset, region, size, data) for offset, region, size, data in writes)


def test_several_writes_in_one_message(gpio):
    with gpio.client() as c:
        reply = c.call(WRITE_MULTI, multi((0, 2, 1, b"\x55"), (4, 2, 1, b"\xaa"),
                                          (0x3c, CONFIG, 1, b"\x0b")))
        assert reply == struct.pack("=Q", 3)
        assert c.read(2, 0, 5)[::4] == b"\x55\xaa"
        assert c.read(CONFIG, 0x3c, 1) == b"\x0b"
        assert c.call(WRITE_MULTI, multi()) == struct.pack("=Q", 0)


def test_several_writes_end_at_the_first_bad_one(gpio):
    with gpio.client() as c:
        bad = (256, 2, 1, b"x")
        assert c.call(WRITE_MULTI, multi((0, 2, 1, b"\1"), bad, (0, 2, 1, b"\2"))) == struct.pack(
            "=Q", 1)
        assert c.read(2, 0, 1) == b"\1"
        for broken in (multi(bad), multi((0, 2, 9, b"x")), multi((0, 2, 0xffffffff, b"x")),
                       multi((0, 2, 1, b"x"), count=2), multi((0, 2, 1, b"x"), count=0),
                       multi(count=1 << 60), multi((0, 2, 1, b"x"), count=(1 << 64) - 1),
                       multi((0, 2, 1, b"x"))[:-1]):
            with pytest.raises(Refused) as why:
                c.call(WRITE_MULTI, broken)
            assert why.value.errno == 22
        assert c.read(2, 0, 1) == b"\1"


def test_several_writes_must_have_been_negotiated(gpio):
    with gpio.client(caps={}) as c:
        with pytest.raises(Refused):
            c.call(WRITE_MULTI, multi((0, 2, 1, b"\1")))
        assert c.read(2, 0, 1) == b"\0"


def test_configuration_space(gpio):
    with gpio.client() as c:
        head = c.read(CONFIG, 0, 64)
        assert struct.unpack_from("=HH", head) == (0x494f, 0x0dc8)
        assert struct.unpack_from("=I", head, 0x18) == (1,)
        assert head[0x3d] == 1
        c.write(CONFIG, 0x18, b"\xff\xff\xff\xff")
        assert struct.unpack("=I", c.read(CONFIG, 0x18, 4)) == (0xffffff01,)
        c.write(CONFIG, 0, b"\0" * 4)
        assert c.read(CONFIG, 0, 4) == head[:4]
        c.write(CONFIG, 4, b"\xff\xff")
        assert c.read(CONFIG, 4, 2) == b"\x47\x05"
        c.reset()
        assert c.read(CONFIG, 0, 64) == head
        # All of it at once, as hostile clients do.
        c.write(CONFIG, 0, b"\xff" * 256)
        assert c.read(CONFIG, 0, 4) == head[:4]
