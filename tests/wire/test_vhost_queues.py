"""Queues set up wrongly, moved, or filled with what makes no sense: the others are served."""
import random
import struct

import pytest

from vhost_user import *


@pytest.fixture
def pair(echo):
    """A front-end with queue 1 running; queue 0 is the test's to spoil."""
    with echo.client() as c:
        c.share()
        good = Ring(c, 1)
        good.echo(b"before")
        yield c, good
        good.echo(b"after")
        assert c.alive()


def nack(c, request, payload, fds=()):
    with pytest.raises(Nack) as why:
        c.ack(request, payload, fds)
    return why.value.errno


def test_indexes_and_sizes_that_do_not_exist_are_refused(pair):
    c, _ = pair
    for index in (4, 255, 256, 0x7fffffff, 0xffffffff):
        for request in (SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ENABLE):
            nack(c, request, struct.pack("=II", index, 1))
        nack(c, SET_VRING_ADDR, struct.pack("=IIQQQQ", index, 0, USER, USER, USER, 0))
    for num in (0, 32769, 65535, 65536, 65536 + 64, 0xffffffff):
        nack(c, SET_VRING_NUM, struct.pack("=II", 0, num))
    fd = c.keep(eventfd())
    for index in (4, 255, 0xff00 | 4):
        for request in (SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR):
            nack(c, request, struct.pack("=Q", index), [fd])
    nack(c, SET_VRING_ENABLE, struct.pack("=II", 0, 2))


@pytest.mark.parametrize("index", [4, 256, 0xffffffff])
def test_the_base_of_a_queue_that_does_not_exist_has_no_answer(echo, index):
    with echo.client() as c:
        c.send(GET_VRING_BASE, struct.pack("=II", index, 0))
        c.expect_gone()


@pytest.mark.parametrize("desc,avail,used", [
    (8, 0x1000, 0x2000), (0, 0x1001, 0x2000), (0, 0x1000, 0x2002),  # not aligned
    (0xffff0, 0x1000, 0x2000), (0, 0xffffe, 0x2000), (0, 0x1000, 0xffffc),  # past the end
    (1 << 20, 0x1000, 0x2000), (0, 1 << 40, 0x2000), (0, 0x1000, 1 << 62),  # nowhere
    (-USER, 0x1000, 0x2000), (-1, 0x1000, 0x2000),
])
def test_a_ring_that_does_not_fit_does_not_start(pair, desc, avail, used):
    c, _ = pair
    ring = Ring(c, 0, enable=False)
    err = c.keep(eventfd())
    c.vring_fd(SET_VRING_ERR, 0, err)
    ring.set_addr(desc, avail, used)
    nack(c, SET_VRING_ENABLE, struct.pack("=II", 0, 1))
    assert take(err) == 1
    # Nobody is dropped for it who did not want to know.
    c.send(SET_VRING_ENABLE, struct.pack("=II", 0, 1))
    assert c.alive()
    ring.set_addr()
    ring.echo(b"as it should be")


def test_a_size_that_is_no_power_of_two_does_not_start(pair):
    c, _ = pair
    ring = Ring(c, 0, enable=False)
    c.vring(SET_VRING_NUM, 0, 48)
    nack(c, SET_VRING_ENABLE, struct.pack("=II", 0, 1))
    c.vring(SET_VRING_NUM, 0, 64)
    ring.echo(b"as it should be")


def test_parts_of_a_queue_may_lie_over_each_other(pair):
    """Nonsense, but the guest's own: what it does to itself is not our trouble."""
    c, _ = pair
    ring = Ring(c, 0, enable=False)
    ring.set_addr(0, 0, 0)
    c.vring(SET_VRING_ENABLE, 0, 1)
    rng = random.Random(1)
    for _ in range(200):
        ring.put(0, rng.randbytes(1024))
        ring.ring()
        assert c.alive()


def test_rings_moved_while_running_stay(pair):
    c, _ = pair
    ring = Ring(c, 0)
    ring.echo(b"here")
    for desc, avail, used in ((0x10, 0x1000, 0x2000), (0, 0x1004, 0x2000), (0, 0x1000, 0x2004),
                              (1 << 40, 1 << 40, 1 << 40)):
        with pytest.raises(Nack) as why:
            ring.set_addr(desc, avail, used)
        assert why.value.errno == 16  # EBUSY
        ring.echo(b"still here")
    nack(c, SET_VRING_NUM, struct.pack("=II", 0, 32))
    nack(c, SET_VRING_BASE, struct.pack("=II", 0, 5))
    nack(c, SET_FEATURES, struct.pack("=Q", PROTOCOL_FEATURES))
    nack(c, SET_INFLIGHT_FD, struct.pack("=QQHHI", 4096, 0, 1, 64, 0), [c.memory_fd])
    ring.echo(b"still here")
    # Logging on and off again is a set of the same addresses.
    ring.set_addr(flags=1)
    ring.set_addr(flags=0)
    ring.echo(b"still here")


def test_who_moves_a_running_ring_without_asking_is_dropped(echo):
    with echo.client() as c:
        c.share()
        Ring(c, 0)
        c.send(SET_VRING_ADDR, struct.pack("=IIQQQQ", 0, 0, USER + 0x100, USER + 0x2000,
                                           USER + 0x1000, 0))
        c.expect_gone()
    echo.wait_for_log("running and cannot be moved")


def test_queues_start_and_stop_a_thousand_times(echo):
    with echo.client() as c:
        c.share()
        ring = Ring(c, 0)
        for i in range(1000):
            if i == 100:
                before = echo.fds(), echo.mappings(), echo.resident_kib()
            ring.echo(b"%d" % i)
            if i % 2:
                c.vring(SET_VRING_ENABLE, 0, 0)
                c.vring(SET_VRING_ENABLE, 0, 1)
            else:
                assert c.vring_base(0) == i + 1
                c.vring_fd(SET_VRING_KICK, 0, ring.kick)
        assert (echo.fds(), echo.mappings()) == before[:2]
        assert echo.resident_kib() <= before[2] + 128


def test_resets_in_every_state(echo):
    with echo.client() as c:
        c.share()
        for i in range(200):
            c.memory[:0x10000] = bytes(0x10000)
            for request, payload in ((RESET_DEVICE, b""), (SET_STATUS, bytes(8))):
                c.ack(request, payload)
            rings = [Ring(c, q, enable=i % 3 != 0) for q in range(i % 5)]
            for ring in rings if i % 3 else []:
                ring.echo(b"after a reset")
            for fd in c.own[1:]:
                os.close(fd)
            del c.own[1:]


def spoil(ring, rng):
    """One of the things that a driver should not do."""
    what = rng.randrange(8)
    gpa = GPA + ring.base
    if what == 0:
        ring.offer(rng.randrange(64, 65536))
    elif what == 1:
        ring.offer(0, idx=(ring.avail_idx + rng.randrange(65, 65000)) & 0xffff)
    elif what == 2:
        for i in range(64):
            ring.desc(i, gpa + 0x3000, 1, 1, (i + 1) % 64)
        ring.offer(0)
    elif what == 3:
        ring.desc(0, gpa + 0x3000, 16, 1, 1000)
        ring.offer(0)
    elif what == 4:
        ring.desc(0, gpa + 0x3000, 16, 4)  # indirect, which was not accepted
        ring.offer(0)
    elif what == 5:
        ring.desc(0, gpa + 0x3000, 16, 3, 1)
        ring.desc(1, gpa + 0x3000, 16, 0)
        ring.offer(0)
    elif what == 6:
        ring.put(0, rng.randbytes(1024))
        ring.offer(rng.randrange(64))
    else:
        ring.desc(0, gpa + 0x3000, 0xffffffff, 1, 1)
        ring.desc(1, gpa + 0x3800, 0xffffffff, 2)
        ring.offer(0)
    ring.ring()


def test_a_spoilt_ring_is_alone_and_works_again_when_set_up_anew(pair):
    c, good = pair
    rng = random.Random(2)
    for i in range(200):
        c.memory[:0x4000] = bytes(0x4000)
        bad = Ring(c, 0)
        spoil(bad, rng)
        good.echo(b"%d" % i)
        c.vring_base(0)
        c.memory[:0x4000] = bytes(0x4000)
        again = Ring(c, 0)
        again.echo(b"anew")
        c.vring_base(0)
        for fd in (bad.kick, bad.call, again.kick, again.call):
            c.own.remove(fd)
            os.close(fd)


def test_kicks_for_nothing_cost_little_and_stop_nobody(pair):
    c, good = pair
    ring = Ring(c, 0)
    for i in range(2000):
        ring.ring()
        if i % 100 == 0:
            good.echo(b"%d" % i)


def test_the_dirty_log_names_what_was_written_and_nothing_else(echo):
    with echo.client() as c:
        c.share()
        log = c.keep(memfd(4096))
        c.send(SET_LOG_BASE, struct.pack("=QQ", 4096, 0), [log])
        c.reply(SET_LOG_BASE)
        c.ack(SET_FEATURES, struct.pack("=Q", VERSION_1 | PROTOCOL_FEATURES | LOG_ALL))
        Ring(c, 1).echo(b"logged")
        bits = os.pread(log, 4096, 0)
        pages = {8 * i + b for i, byte in enumerate(bits) for b in range(8) if byte >> b & 1}
        base = (GPA + 0x4000) // 4096
        assert pages == {base + 2, base + 3}, "the used ring, and the buffer"
