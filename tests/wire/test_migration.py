"""Device features: stop-and-copy migration, and everything that is none."""
import struct

import pytest

from vfio_user import *

MIGRATION, DEVICE_STATE = 1, 2
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
ST_ERROR, ST_STOP, ST_RUNNING, ST_STOP_COPY, ST_RESUMING, ST_P2P, ST_PRE_COPY = range(7)


def feature(c, flags, data=b"", argsz=64):
    return c.call(FEATURE, struct.pack("=II", argsz, flags) + data)


def set_state(c, state):
    return feature(c, DEVICE_STATE | SET, struct.pack("=Ii", state, -1))


def get_state(c):
    return struct.unpack("=IIIi", feature(c, DEVICE_STATE | GET))[2]


def mig_read(c, size=1 << 20):
    reply = c.call(MIG_READ, struct.pack("=II", 8 + size, size))
    argsz, got = struct.unpack_from("=II", reply)
    assert argsz == len(reply) == 8 + got
    return reply[8:]


def mig_write(c, data):
    assert c.call(MIG_WRITE, struct.pack("=II", 8 + len(data), len(data)) + data) == b""


def save(c, piece=1 << 20):
    set_state(c, ST_STOP_COPY)
    state = b""
    while True:
        part = mig_read(c, piece)
        state += part
        if len(part) < piece:
            return state


def refused(errno, call, *args, **kwargs):
    with pytest.raises(Refused) as why:
        call(*args, **kwargs)
    assert why.value.errno == errno


def test_what_is_offered(gpio):
    with gpio.client() as c:
        assert feature(c, MIGRATION | GET) == struct.pack("=IIQ", 16, MIGRATION | GET, 1)
        assert feature(c, MIGRATION | GET | PROBE)[:8] == struct.pack("=II", 64,
                                                                      MIGRATION | GET | PROBE)
        feature(c, DEVICE_STATE | GET | SET | PROBE)
        refused(95, feature, c, MIGRATION | SET | PROBE)
        for number in (0, 3, 6, 7, 8, 0xffff):
            for method in (GET, SET, PROBE, GET | PROBE):
                refused(95, feature, c, number | method)
        refused(22, feature, c, DEVICE_STATE | GET | SET, b"\0" * 8)
        refused(22, feature, c, DEVICE_STATE | GET, argsz=15)
        refused(22, feature, c, DEVICE_STATE | GET, argsz=7)
        refused(22, feature, c, DEVICE_STATE)
        refused(22, feature, c, DEVICE_STATE | SET, b"\0" * 7)
        refused(22, feature, c, DEVICE_STATE | SET, b"\0" * 9)


def test_a_model_that_cannot_be_saved_offers_nothing(probe):
    with probe.client() as c:
        refused(95, feature, c, MIGRATION | GET)
        refused(95, set_state, c, ST_STOP)
        refused(22, mig_read, c)
        refused(22, mig_write, c, b"x")


@pytest.mark.parametrize("piece", [1, 7, 100, 1 << 20])
def test_a_device_moves_to_another_process(start, piece):
    source, target = start("gpio", "--loopback"), start("gpio", "--loopback")
    with source.client() as a, target.client() as b:
        a.write(2, 0, b"\x0f")
        a.read(2, 2, 1)
        a.write(2, 4, b"\xf0")
        a.write(CONFIG, 0x18, struct.pack("=I", 0xc001))
        state = save(a, piece)
        assert mig_read(a) == b"", "the end stays the end"
        set_state(b, ST_RESUMING)
        for at in range(0, len(state), 100):
            mig_write(b, state[at:at + 100])
        fd = eventfd()
        b.set_irqs(EVENTFD | TRIGGER, fds=[fd])
        set_state(b, ST_RUNNING)
        assert take(fd) == 1, "its interrupt was pending"
        os.close(fd)
        assert b.read(2, 0, 7) == a.read(2, 0, 7) == b"\x0f\x0f\0\0\xf0\xf0\x06"
        assert b.read(CONFIG, 0x18, 4) == struct.pack("=I", 0xc001)
        set_state(a, ST_RUNNING)
        a.write(2, 0, b"\1")


def test_the_states_and_ways_between_them(gpio):
    with gpio.client() as c:
        assert get_state(c) == ST_RUNNING
        for state in (ST_STOP, ST_STOP_COPY, ST_STOP, ST_RUNNING, ST_STOP_COPY, ST_RUNNING,
                      ST_RUNNING, ST_STOP_COPY, ST_STOP_COPY):
            set_state(c, state)
            assert get_state(c) == state
        for state in (ST_ERROR, ST_P2P, ST_PRE_COPY, 7, 0xffffffff):
            refused(22, set_state, c, state)
            assert get_state(c) == ST_STOP_COPY


def test_data_flows_only_in_its_state(gpio):
    with gpio.client() as c:
        refused(22, mig_read, c)
        refused(22, mig_write, c, b"x")
        set_state(c, ST_STOP_COPY)
        refused(22, mig_write, c, b"x")
        refused(22, c.call, MIG_READ, struct.pack("=II", 7, 0))
        refused(22, c.call, MIG_READ, struct.pack("=II", 100, 101))
        refused(22, c.call, MIG_READ, struct.pack("=II", 0xffffffff, 0xfffffff0))
        set_state(c, ST_RESUMING)
        refused(22, mig_read, c)
        for size in (0, 2, 0xffffffff):
            refused(22, c.call, MIG_WRITE, struct.pack("=II", 9, size) + b"x")
        mig_write(c, b"")


def test_nothing_is_written_to_a_device_that_has_been_copied(gpio):
    with gpio.client() as c:
        save(c)
        refused(16, c.write, 2, 0, b"\1")
        assert c.read(2, 0, 1) == b"\0"
        set_state(c, ST_RUNNING)
        c.write(2, 0, b"\1")


def test_a_state_that_is_none_is_refused_and_changes_nothing(gpio):
    with gpio.client() as c:
        c.write(2, 0, b"\x77")
        good = save(c)
        set_state(c, ST_RUNNING)
        edits = [
            (b'"version":1', b'"version":2'), (b'"version":1', b'"version":0'),
            (b'"model":"gpio"', b'"model":"nvme"'), (b'"outputs":119', b'"outputs":65536'),
            (b'"outputs":119', b'"outputs":-1'), (b'"outputs":119', b'"outputs":"119"'),
            (b'"outputs":119', b'"outputs":1.5'), (b'"outputs":119', b'"outputs":119,"more":1'),
            (b'"outputs":119', b'"outputs":119,"outputs":1'), (b'"outputs":119,', b''),
            (b'"irq_status":0', b'"irq_status":8'), (b'"filters":0', b'"filters":256'),
            (b'"sample_reads":0', b'"sample_reads":4294967296'),
            (b'"sample_writes":"', b'"sample_writes":"0'),
            (b'"sample_writes":"', b'"sample_writes":"3'),
            (b'"config":"4f', b'"config":"zz'), (b'"config":"4f', b'"config":"'),
        ]
        for old, new in edits:
            assert old in good
            bad = good.replace(old, new, 1)
            if old.startswith(b'"sample_writes') and new.endswith(b"3"):
                bad = bad.replace(b'"sample_writes":"30', b'"sample_writes":"3', 1)
            check_refused_state(c, bad)
        for bad in (b"", b"{", b"null", b"[]", good[:-3], good + b"x", b"\0" * 100, b"\xff" * 65536):
            check_refused_state(c, bad)
        set_state(c, ST_RESUMING)
        mig_write(c, good)
        set_state(c, ST_RUNNING)


def check_refused_state(c, data):
    set_state(c, ST_RESUMING)
    mig_write(c, data)
    refused(22, set_state, c, ST_RUNNING)
    assert get_state(c) == ST_ERROR
    refused(5, set_state, c, ST_RUNNING)
    refused(16, c.write, 2, 0, b"\1")
    assert c.read(2, 0, 1) == b"\x77"
    c.reset()
    assert get_state(c) == ST_RUNNING
    c.write(2, 0, b"\x77")


def test_more_state_than_any_device_has(gpio):
    with gpio.client() as c:
        set_state(c, ST_RESUMING)
        mig_write(c, b" " * 65536)
        refused(28, mig_write, c, b" ")
        c.reset()
        c.info()


def test_a_client_that_leaves_in_the_middle(gpio):
    for state in (ST_STOP, ST_STOP_COPY, ST_RESUMING):
        with gpio.client() as c:
            c.write(2, 0, b"\x11")
            set_state(c, state)
            if state == ST_RESUMING:
                mig_write(c, b'{"model"')
        with gpio.client() as c:
            assert get_state(c) == ST_RUNNING
            assert c.read(2, 0, 1) == b"\x11"
            c.write(2, 0, b"\x22")
