"""Interrupts: every form of SET_IRQS, level semantics of INTx, eventfds that are traps."""
import os
import struct

import pytest

from vfio_user import *

TRIGGER_CMD, INTX_CMD = 2, 3
FULL = (1 << 64) - 2


def fire(c, kind, vector):
    c.write(0, 0, struct.pack("=QQI", kind, vector, 0))
    c.write(0, 0x14, struct.pack("=I", TRIGGER_CMD))


def level(c, high):
    c.write(0, 0x10, struct.pack("=II", high, INTX_CMD))


def quiet(*fds):
    return not any(readable(fd, 0) for fd in fds)


def listeners(c):
    return struct.unpack("=I", c.read(0, 0x1c, 4))[0]


@pytest.fixture
def efd():
    made = []

    def make(*args, **kwargs):
        made.append(eventfd(*args, **kwargs))
        return made[-1]

    yield make
    for fd in made:
        os.close(fd)


def test_information(probe):
    with probe.client() as c:
        assert [c.irq_info(i) for i in range(5)] == [
            (16, 7, INTX, 1), (16, 3, MSI, 4), (16, 3, MSIX, 40), (16, 1, ERR, 1), (16, 1, REQ, 1)]
        for index in (5, 0xffffffff):
            with pytest.raises(Refused):
                c.irq_info(index)
        with pytest.raises(Refused):
            c.call(GET_IRQ_INFO, struct.pack("=IIII", 15, 0, 0, 0))


@pytest.mark.parametrize("kind,vector", [(MSI, 3), (MSIX, 0), (MSIX, 39)])
def test_a_vector_fires_once_per_trigger(probe, efd, kind, vector):
    with probe.client() as c:
        fd = efd()
        c.set_irqs(EVENTFD | TRIGGER, kind, vector, 1, fds=[fd])
        assert listeners(c) == 1
        for _ in range(3):
            fire(c, kind, vector)
        assert take(fd) == 3
        c.set_irqs(EVENTFD | TRIGGER, kind, vector, 1)
        assert listeners(c) == 0
        c.info()
        assert quiet(fd)


def test_sixteen_at_a_time_whatever_was_announced(probe, efd):
    with probe.client(caps={"max_msg_fds": 1}) as c:
        fds = [efd() for _ in range(40)]
        for start in (0, 16, 32):
            part = fds[start:start + 16]
            c.set_irqs(EVENTFD | TRIGGER, MSIX, start, len(part), fds=part)
        for vector in range(40):
            fire(c, MSIX, vector)
            assert take(fds[vector]) == 1
        assert quiet(*fds)
        # Another set over the first: the old ones are let go.
        before = probe.fds()
        fresh = [efd() for _ in range(40)]
        c.set_irqs(EVENTFD | TRIGGER, MSIX, 0, 40, fds=fresh)
        assert probe.fds() == before
        fire(c, MSIX, 7)
        assert take(fresh[7]) == 1 and quiet(*fds)


def test_masked_vectors_stay_pending(probe, efd):
    with probe.client() as c:
        fds = [efd() for _ in range(4)]
        c.set_irqs(EVENTFD | TRIGGER, MSI, 0, 4, fds=fds)
        c.set_irqs(BOOL | MASK, MSI, 0, 4, data=b"\0\1\0\1")
        for vector in range(4):
            fire(c, MSI, vector)
            fire(c, MSI, vector)
        assert [take(fds[0]), take(fds[2])] == [2, 2]
        assert quiet(fds[1], fds[3])
        c.set_irqs(NONE | UNMASK, MSI, 0, 4)
        assert [take(fds[1]), take(fds[3])] == [1, 1]
        c.set_irqs(NONE | UNMASK, MSI, 0, 4)
        assert quiet(*fds)


def test_a_vector_without_listener_is_not_forgotten(probe, efd):
    with probe.client() as c:
        fd = efd()
        fire(c, MSIX, 5)
        c.set_irqs(EVENTFD | TRIGGER, MSIX, 5, 1, fds=[fd])
        assert take(fd) == 1
        c.set_irqs(EVENTFD | TRIGGER, MSIX, 5, 1)
        fire(c, MSIX, 5)
        c.set_irqs(NONE | TRIGGER, MSIX, 0, 0)
        c.set_irqs(EVENTFD | TRIGGER, MSIX, 5, 1, fds=[fd])
        assert quiet(fd), "switching the whole type off does forget"


def test_a_client_may_fire_them_itself(probe, efd):
    with probe.client() as c:
        for kind, n in ((INTX, 1), (MSI, 4), (MSIX, 40), (ERR, 1), (REQ, 1)):
            fds = [efd() for _ in range(min(n, 16))]
            c.set_irqs(EVENTFD | TRIGGER, kind, 0, len(fds), fds=fds)
            c.set_irqs(NONE | TRIGGER, kind, 0, len(fds))
            assert [take(fd) for fd in fds] == [1] * len(fds)
            pattern = bytes(i % 2 for i in range(len(fds)))
            c.set_irqs(BOOL | TRIGGER, kind, 0, len(fds), data=pattern)
            assert [readable(fd, 0) for fd in fds] == [bool(b) for b in pattern]
            c.set_irqs(NONE | TRIGGER, kind, 0, 0)
        c.set_irqs(NONE | TRIGGER, MSIX, 0, 40)


def test_intx_masks_itself_until_it_is_unmasked(probe, efd):
    with probe.client() as c:
        fd = efd()
        c.set_irqs(EVENTFD | TRIGGER, fds=[fd])
        level(c, 1)
        assert take(fd) == 1
        level(c, 0)
        level(c, 1)
        assert quiet(fd), "still masked"
        c.set_irqs(NONE | UNMASK)
        assert take(fd) == 1, "still high"
        level(c, 0)
        c.set_irqs(BOOL | UNMASK, data=b"\1")
        assert quiet(fd), "low by now"
        c.set_irqs(BOOL | MASK, data=b"\1")
        level(c, 1)
        assert quiet(fd)
        c.set_irqs(BOOL | UNMASK, data=b"\0")
        assert quiet(fd), "not this one"
        c.set_irqs(NONE | UNMASK)
        assert take(fd) == 1


def test_intx_is_unmasked_and_masked_by_eventfd(probe, efd):
    with probe.client() as c:
        fd, unmask, mask = efd(), efd(), efd(flags=0)
        c.set_irqs(EVENTFD | TRIGGER, fds=[fd])
        c.set_irqs(EVENTFD | UNMASK, fds=[unmask])
        c.set_irqs(EVENTFD | MASK, fds=[mask])
        level(c, 1)
        # A line that stays high interrupts again after each acknowledgement.
        for _ in range(100):
            assert take(fd) == 1
            os.write(unmask, struct.pack("=Q", 1))
        assert take(fd) == 1
        level(c, 0)
        os.write(unmask, struct.pack("=Q", 1))
        c.info()
        os.write(mask, struct.pack("=Q", 1))
        wait_until(lambda: (level(c, 1), level(c, 0), quiet(fd) or not take(fd))[-1],
                   "never masked by eventfd")
        level(c, 1)
        assert quiet(fd)
        # Without the watch the eventfd means nothing any more.
        c.set_irqs(EVENTFD | UNMASK)
        os.write(unmask, struct.pack("=Q", 1))
        c.info()
        assert quiet(fd)
        c.set_irqs(NONE | UNMASK)
        assert take(fd) == 1


def test_a_line_that_is_high_already_interrupts_a_new_listener(probe, efd):
    with probe.client() as c:
        level(c, 1)
        one, two = efd(), efd()
        c.set_irqs(EVENTFD | TRIGGER, fds=[one])
        assert take(one) == 1
        c.set_irqs(NONE | TRIGGER, INTX, 0, 0)
        c.set_irqs(EVENTFD | TRIGGER, fds=[two])
        assert take(two) == 1
    with probe.client() as c:
        three = efd()
        c.set_irqs(EVENTFD | TRIGGER, fds=[three])
        assert take(three) == 1, "and a new client"
        level(c, 0)


def test_intx_can_be_disabled_in_the_command_register(probe, efd):
    with probe.client() as c:
        fd = efd()
        c.set_irqs(EVENTFD | TRIGGER, fds=[fd])
        c.write(CONFIG, 4, struct.pack("=H", 0x400))
        level(c, 1)
        assert quiet(fd)
        assert c.read(CONFIG, 6, 1) == b"\x08", "the status register tells nevertheless"
        c.write(CONFIG, 4, struct.pack("=H", 0))
        assert take(fd) == 1
        level(c, 0)
        assert c.read(CONFIG, 6, 1) == b"\x00"


@pytest.mark.parametrize("flags,index,first,count,data,nfds", [
    (0, INTX, 0, 1, b"", 0), (NONE, INTX, 0, 1, b"", 0), (TRIGGER, INTX, 0, 1, b"", 0),
    (NONE | BOOL | TRIGGER, INTX, 0, 1, b"\1", 0), (NONE | MASK | UNMASK, INTX, 0, 1, b"", 0),
    (NONE | TRIGGER | 64, INTX, 0, 1, b"", 0), (NONE | TRIGGER, 5, 0, 1, b"", 0),
    (NONE | TRIGGER, 0xffffffff, 0, 1, b"", 0), (NONE | TRIGGER, INTX, 0, 2, b"", 0),
    (NONE | TRIGGER, INTX, 1, 1, b"", 0), (NONE | TRIGGER, MSIX, 40, 1, b"", 0),
    (NONE | TRIGGER, MSIX, 39, 2, b"", 0), (NONE | TRIGGER, MSIX, 0xffffffff, 2, b"", 0),
    (NONE | TRIGGER, MSIX, 2, 0xffffffff, b"", 0), (NONE | TRIGGER, MSIX, 1, 0, b"", 0),
    (NONE | MASK, MSIX, 0, 0, b"", 0), (EVENTFD | TRIGGER, MSIX, 0, 0, b"", 0),
    (BOOL | TRIGGER, MSIX, 0, 4, b"\1\1\1", 0), (BOOL | TRIGGER, MSIX, 0, 4, b"\1" * 5, 0),
    (BOOL | TRIGGER, MSIX, 0, 4, b"", 0), (NONE | TRIGGER, MSIX, 0, 4, b"\1", 0),
    (EVENTFD | TRIGGER, MSIX, 0, 4, b"", 3), (EVENTFD | TRIGGER, MSIX, 0, 4, b"", 5),
    (NONE | TRIGGER, MSIX, 0, 1, b"", 1), (BOOL | TRIGGER, MSIX, 0, 1, b"\1", 1),
    (NONE | MASK, ERR, 0, 1, b"", 0), (NONE | UNMASK, REQ, 0, 1, b"", 0),
    (EVENTFD | UNMASK, MSIX, 0, 1, b"", 1), (EVENTFD | MASK, MSI, 0, 1, b"", 1),
    (EVENTFD | TRIGGER, ERR, 0, 2, b"", 2)])
def test_senseless_requests_are_refused(probe, efd, flags, index, first, count, data, nfds):
    with probe.client() as c:
        c.info()
        before = probe.fds()
        with pytest.raises(Refused) as why:
            c.set_irqs(flags, index, first, count, data, [efd() for _ in range(nfds)])
        assert why.value.errno == 22
        assert probe.fds() == before
        assert listeners(c) == 0


def test_argsz_is_looked_at(probe):
    with probe.client() as c:
        with pytest.raises(Refused):
            c.set_irqs(NONE | TRIGGER, argsz=19)


def test_what_is_no_eventfd_is_refused(probe, efd):
    with probe.client() as c:
        c.info()
        before = probe.fds()
        pipe = os.pipe()
        others = [*pipe, memfd(4096), os.open("/dev/null", os.O_RDWR),
                  select.epoll().fileno(), os.open("/proc/self/mem", os.O_RDWR),
                  os.open("/", os.O_RDONLY)]
        for fd in others:
            for flags in (EVENTFD | TRIGGER, EVENTFD | UNMASK, EVENTFD | MASK):
                try:
                    with pytest.raises(Refused) as why:
                        c.set_irqs(flags, fds=[fd])
                    assert why.value.errno == 22
                except OSError as error:
                    assert error.errno == 9  # the epoll object is gone by now
        # One among good ones: none of them is taken.
        with pytest.raises(Refused):
            c.set_irqs(EVENTFD | TRIGGER, MSIX, 0, 3, fds=[efd(), pipe[1], efd()])
        assert listeners(c) == 0
        assert probe.fds() == before
        for fd in others:
            try:
                os.close(fd)
            except OSError:
                pass


def test_a_file_that_calls_itself_an_eventfd_is_refused(probe, tmp_path):
    name = tmp_path / "anon_inode:[eventfd]"
    name.write_bytes(b"")
    fd = os.open(name, os.O_RDWR)
    with probe.client() as c:
        with pytest.raises(Refused):
            c.set_irqs(EVENTFD | TRIGGER, fds=[fd])
    os.close(fd)


def test_a_full_eventfd_counts_as_rung(probe, efd):
    with probe.client() as c:
        fd = efd()
        os.write(fd, struct.pack("=Q", FULL))
        c.set_irqs(EVENTFD | TRIGGER, MSIX, 0, 1, fds=[fd])
        for _ in range(10):
            fire(c, MSIX, 0)
        assert take(fd) == FULL


@pytest.mark.parametrize("kind", [INTX, MSIX])
def test_a_full_and_blocking_eventfd_drops_the_client(probe, efd, kind):
    before = probe.fds()
    with probe.client() as c:
        fd = efd(flags=0)
        os.write(fd, struct.pack("=Q", FULL))
        c.set_irqs(EVENTFD | TRIGGER, kind, 0, 1, fds=[fd])
        try:
            if kind == INTX:
                level(c, 1)
            else:
                fire(c, kind, 0)
            c.expect_gone()
        except ConnectionError:
            pass
    probe.wait_for_log("an interrupt's eventfd is full and would block")
    probe.settled_fds(before)
    with probe.client() as c:
        c.info()


def test_one_that_turns_blocking_later_drops_the_client_too(probe, efd):
    with probe.client() as c:
        fd = efd()
        c.set_irqs(EVENTFD | TRIGGER, MSIX, 0, 1, fds=[fd])
        fire(c, MSIX, 0)
        take(fd)
        os.write(fd, struct.pack("=Q", FULL))
        os.set_blocking(fd, True)
        try:
            c.set_irqs(NONE | TRIGGER, MSIX, 0, 1)
            c.expect_gone()
        except ConnectionError:
            pass
    probe.wait_for_log("an interrupt's eventfd is full and would block")


def test_a_blocking_eventfd_with_room_is_fine(probe, efd):
    with probe.client() as c:
        fd = efd(flags=0)
        c.set_irqs(EVENTFD | TRIGGER, MSIX, 0, 1, fds=[fd])
        fire(c, MSIX, 0)
        assert take(fd) == 1


def test_an_eventfd_that_unmasks_itself_does_not_starve_others(probe, efd):
    """The line is high and its own eventfd acknowledges it: a loop, but not an endless one."""
    with probe.client() as c:
        fd = efd()
        c.set_irqs(EVENTFD | TRIGGER, fds=[fd])
        c.set_irqs(EVENTFD | UNMASK, fds=[fd])
        level(c, 1)
        for _ in range(100):
            c.info()
        level(c, 0)
        c.info()


def test_a_full_unmask_eventfd_never_blocks_us(probe, efd):
    with probe.client() as c:
        fd, unmask = efd(), efd(flags=0)
        os.write(unmask, struct.pack("=Q", FULL))
        c.set_irqs(EVENTFD | TRIGGER, fds=[fd])
        c.set_irqs(EVENTFD | UNMASK, fds=[unmask])
        for _ in range(2):
            c.info()  # what the counter held before is one unmask, and over now
        level(c, 1)
        assert take(fd) == 1
        c.set_irqs(NONE | UNMASK)
        assert take(fd) == 1
        level(c, 0)


def test_everything_goes_with_the_client(probe, efd):
    before = probe.fds()
    with probe.client() as c:
        c.set_irqs(EVENTFD | TRIGGER, MSIX, 0, 40, fds=[efd() for _ in range(40)])
        c.set_irqs(EVENTFD | TRIGGER, fds=[efd()])
        c.set_irqs(EVENTFD | UNMASK, fds=[efd()])
        c.set_irqs(EVENTFD | MASK, fds=[efd()])
        c.set_irqs(EVENTFD | TRIGGER, ERR, fds=[efd()])
        c.set_irqs(EVENTFD | TRIGGER, REQ, fds=[efd()])
        c.set_irqs(NONE | MASK, MSIX, 0, 40)
    probe.settled_fds(before)
    with probe.client() as c:
        assert listeners(c) == 0
        fd = efd()
        c.set_irqs(EVENTFD | TRIGGER, MSIX, 3, 1, fds=[fd])
        fire(c, MSIX, 3)
        assert take(fd) == 1, "and so do masks"
