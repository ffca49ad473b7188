"""Memory that overlaps, wraps, ends too soon, or is taken away."""
import fcntl
import mmap
import struct

import pytest

from vfio_user import wait_until
from vhost_user import *

F_ADD_SEALS, F_SEAL_WRITE, F_SEAL_SHRINK = 1033, 8, 2
TOP = 1 << 64


@pytest.mark.parametrize("regions", [
    [(0, 0, USER, 0)],
    [(0, 8192, USER, 0), (4096, 4096, USER + 8192, 0)],
    [(4096, 4096, USER, 0), (0, 8192, USER + 8192, 0)],
    [(0, 4096, USER, 0), (0, 4096, USER + 8192, 0)],
    [(TOP - 4096, 4096, USER, 0)],
    [(TOP - 4096, 8192, USER, 0)],
    [(0, 4096, TOP - 4096, 0)],
    [(0, 4096, USER, TOP - 4096)],
    [(0, 4096, USER, 1 << 63)],
    [(0, 16384 + 1, USER, 0)],
    [(0, 4096, USER, 16384)],
    [(0, 4096, USER, 16384 - 4095)],
    [(0, 1 << 40, USER, 0)],
    [(0, TOP - 1, 0, 0)],
])
def test_regions_that_cannot_be_are_refused_whole(echo, regions):
    with echo.client() as c:
        c.share()
        ring = Ring(c, 0)
        before = echo.fds(), echo.mappings()
        fd = c.keep(memfd(16384))
        with pytest.raises(Nack):
            c.set_mem_table(regions, [fd] * len(regions))
        assert (echo.fds(), echo.mappings()) == before
        ring.echo(b"the old table holds")


def test_a_table_as_long_as_it_says_or_not_at_all(echo):
    fd = memfd(4096)
    with echo.client() as c:
        for nr, have in ((2, 1), (8, 7), (9, 8), (0xffffffff, 1)):
            with pytest.raises(Nack):
                c.ack(SET_MEM_TABLE, struct.pack("=II", nr, 0) +
                      b"".join(region(i << 20, 4096, i << 20) for i in range(have)),
                      [fd] * min(nr, 8))
        assert c.alive()
    os.close(fd)


def test_a_file_larger_than_the_address_space_is_refused(echo):
    with echo.client() as c:
        fd = c.keep(memfd(1 << 62))
        with pytest.raises(Nack):
            c.set_mem_table([(0, 1 << 62, USER, 0)], [fd])
        with pytest.raises(Nack):
            c.set_mem_table([(0, 4096, USER, 0)], [fd])
        assert c.alive()


def test_memory_to_the_last_byte_of_the_guest(echo):
    """The highest region there can be, in a sparse file of a terabyte; size and place are odd."""
    with echo.client() as c:
        fd = c.keep(memfd(1 << 40))
        c.set_mem_table([(TOP - (1 << 40) - 1, 1 << 40, 0x1003, 0)], [fd])
        assert c.alive()


def test_a_small_file_mapped_in_many_pieces_is_mapped_once(echo):
    with echo.client() as c:
        fd = c.keep(memfd(509 * 4096))
        before = echo.mappings()
        for i in range(509):
            c.add_region(i * 8192, 4096, USER + i * 8192, i * 4096, fd)
        assert echo.mappings() <= before + 1
        with pytest.raises(Nack):
            c.add_region(1 << 40, 4096, USER - 8192, 0, fd)
        for i in range(509):
            c.remove_region(i * 8192, 4096, USER + i * 8192)
        with pytest.raises(Nack):
            c.remove_region(0, 4096, USER)
        assert c.alive()
        wait_until(lambda: echo.mappings() <= before, "a mapping is left")


def test_a_region_to_remove_must_be_named_exactly(echo):
    with echo.client() as c:
        fd = c.keep(memfd(8192))
        c.add_region(GPA, 8192, USER, 0, fd)
        for gpa, size, user in ((GPA + 4096, 4096, USER + 4096), (GPA, 4096, USER),
                                (GPA, 8192, USER + 1), (0, 8192, USER), (GPA, 0, USER)):
            with pytest.raises(Nack):
                c.remove_region(gpa, size, user)
        c.remove_region(GPA, 8192, USER)


def test_memory_goes_and_comes_under_a_running_queue(echo):
    with echo.client() as c:
        c.share()
        ring = Ring(c, 0)
        more = c.keep(memfd(1 << 20))
        before = None
        for i in range(1000):
            c.add_region(1 << 32, 1 << 20, USER + (1 << 32), 0, more)
            ring.echo(b"more %d" % i)
            c.remove_region(1 << 32, 1 << 20, USER + (1 << 32))
            c.set_mem_table([(GPA, 1 << 20, USER, 0)], [c.memory_fd])
            ring.echo(b"less %d" % i)
            if i == 100:
                before = echo.fds(), echo.mappings(), echo.resident_kib()
        assert (echo.fds(), echo.mappings()) == before[:2]
        assert echo.resident_kib() <= before[2] + 256


def test_the_ring_may_lose_its_memory_and_others_not(echo):
    with echo.client() as c:
        c.share()
        lost, kept = Ring(c, 0), Ring(c, 1)
        lost.echo(b"both")
        kept.echo(b"both")
        err = c.keep(eventfd())
        c.vring_fd(SET_VRING_ERR, 0, err)
        c.set_mem_table([(GPA + 0x4000, 0x8000, USER + 0x4000, 0x4000)], [c.memory_fd])
        take(err)
        lost.ring()
        kept.echo(b"one of two")
        c.set_mem_table([], [])
        assert c.alive()


def test_a_request_outside_the_memory_is_the_guests_trouble(echo):
    with echo.client() as c:
        c.share()
        ring = Ring(c, 0)
        for addr in (0, GPA - 1, GPA + (1 << 20), GPA + (1 << 20) - 4, TOP - 8, 1 << 63):
            ring.desc(0, addr, 8, 1, 1)
            ring.desc(1, GPA + 0x3800, 8, 2)
            ring.offer(0)
            ring.ring()
            ring.wait_used()
            assert ring.used(ring.avail_idx - 1)[1] == 0
        ring.echo(b"goes on")


# Truncation

def truncated(server, c, fd, size=0):
    os.ftruncate(fd, size)


def dropped_and_served_again(server, c):
    c.expect_gone()
    server.wait_for_log("its memory was truncated under us")
    c.close()
    with server.client() as other:
        other.share()
        Ring(other, 0).echo(b"next")


def test_memory_truncated_under_a_running_queue(echo):
    before = echo.fds()
    with echo.client() as c:
        c.share()
        ring = Ring(c, 0)
        ring.echo(b"whole")
        c.memory.close()
        c.memory = None
        os.ftruncate(c.memory_fd, 0)
        ring.ring()
        dropped_and_served_again(echo, c)
    echo.settled_fds(before)


def test_memory_truncated_before_the_queue_starts(echo):
    with echo.client() as c:
        c.share()
        ring = Ring(c, 0, enable=False)
        c.memory.close()
        c.memory = None
        os.ftruncate(c.memory_fd, 0)
        try:
            c.vring(SET_VRING_ENABLE, 0, 1)
        except (Gone, Nack):
            pass
        dropped_and_served_again(echo, c)


def test_data_truncated_away_and_the_ring_not(echo):
    with echo.client() as c:
        c.share()
        ring = Ring(c, 0)
        ring.echo(b"whole")
        os.ftruncate(c.memory_fd, 0x80000)
        ring.desc(0, GPA + 0xf0000, 64, 1, 1)
        ring.desc(1, GPA + 0x3800, 64, 2)
        ring.offer(0)
        ring.ring()
        dropped_and_served_again(echo, c)


def test_a_file_truncated_between_identification_and_use_is_grown_in_vain(echo):
    """It shrinks and grows again: what was lost is lost, and that is noticed at the next touch."""
    with echo.client() as c:
        c.share()
        ring = Ring(c, 0)
        ring.echo(b"whole")
        os.ftruncate(c.memory_fd, 0)
        os.ftruncate(c.memory_fd, 1 << 20)
        ring2 = Ring(c, 1)
        ring2.echo(b"zeros again, but there")


def test_a_log_truncated_under_the_writer(echo):
    with echo.client() as c:
        c.share()
        log = c.keep(memfd(65536))
        c.send(SET_LOG_BASE, struct.pack("=QQ", 65536, 0), [log])
        c.reply(SET_LOG_BASE)
        c.ack(SET_FEATURES, struct.pack("=Q", VERSION_1 | PROTOCOL_FEATURES | LOG_ALL))
        ring = Ring(c, 0)
        ring.echo(b"logged")
        os.ftruncate(log, 0)
        ring.put(0x3000, b"lost")
        ring.desc(0, GPA + 0x3000, 4, 1, 1)
        ring.desc(1, GPA + 0x3800, 4, 2)
        ring.offer(0)
        ring.ring()
        dropped_and_served_again(echo, c)


def test_an_inflight_area_truncated_under_the_writer(echo):
    with echo.client() as c:
        c.share()
        area = c.keep(memfd(65536))
        c.ack(SET_INFLIGHT_FD, struct.pack("=QQHHI", 65536, 0, 4, 64, 0), [area])
        ring = Ring(c, 0)
        ring.echo(b"tracked")
        os.ftruncate(area, 0)
        ring.put(0x3000, b"lost")
        ring.desc(0, GPA + 0x3000, 4, 1, 1)
        ring.desc(1, GPA + 0x3800, 4, 2)
        ring.offer(0)
        ring.ring()
        dropped_and_served_again(echo, c)


def test_truncated_a_hundred_times_nothing_is_left(echo):
    for i in range(100):
        with echo.client() as c:
            c.share()
            ring = Ring(c, 0)
            c.memory.close()
            c.memory = None
            os.ftruncate(c.memory_fd, 0)
            ring.ring()
            c.expect_gone()
        if i == 10:
            wait_until(echo.settled, "the end is not noticed")
            before = echo.fds(), echo.mappings(), echo.resident_kib()
    wait_until(echo.settled, "the end is not noticed")
    echo.settled_fds(before[0])
    assert echo.mappings() <= before[1] + 1
    assert echo.resident_kib() <= before[2] + 256


# Seals and modes

def test_memory_that_cannot_be_written_is_read(echo):
    with echo.client() as c:
        fd = c.keep(memfd(1 << 20))
        fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE)
        c.add_region(1 << 32, 1 << 20, USER + (1 << 33), 0, fd)
        own = c.keep(memfd(1 << 20))
        c.memory = mmap.mmap(own, 1 << 20)
        c.add_region(GPA, 1 << 20, USER, 0, own)
        ring = Ring(c, 0)
        # Out of it: fine. Into it: the request fails, the queue goes on.
        ring.desc(0, 1 << 32, 8, 1, 1)
        ring.desc(1, GPA + 0x3800, 8, 2)
        ring.offer(0)
        ring.ring()
        ring.wait_used()
        assert ring.used(0)[1] == 8
        ring.desc(0, GPA + 0x3000, 8, 1, 1)
        ring.desc(1, 1 << 32, 8, 2)
        ring.offer(0)
        ring.ring()
        ring.wait_used()
        assert ring.used(1)[1] == 0
        ring.echo(b"goes on")


def test_an_inflight_area_that_makes_no_sense_is_refused(echo):
    with echo.client() as c:
        fd = c.keep(memfd(65536))
        for size, offset, queues, entries in (
                (0, 0, 4, 64), (65537, 0, 4, 64), (65536, 8, 4, 64), (4096, TOP - 4096, 4, 64),
                (4096, 4, 4, 64), (65536, 0, 0, 64), (65536, 0, 5, 64), (65536, 0, 65535, 64),
                (65536, 0, 4, 0), (65536, 0, 4, 65535)):
            with pytest.raises(Nack):
                c.ack(SET_INFLIGHT_FD, struct.pack("=QQHHI", size, offset, queues, entries, 0), [fd])
        assert c.alive()


def test_an_inflight_area_full_of_garbage_harms_one_queue_at_most(echo):
    rng = __import__("random").Random(6)
    for _ in range(100):
        with echo.client() as c:
            c.share()
            area = c.keep(memfd(65536))
            os.pwrite(area, struct.pack("<QHH", 0, 1, 64) + rng.randbytes(2000), 0)
            c.ack(SET_INFLIGHT_FD, struct.pack("=QQHHI", 65536, 0, 4, 64, 0), [area])
            try:
                Ring(c, 0).ring()
            except Nack:
                pass
            Ring(c, 1).echo(b"not mine")


def test_the_inflight_area_cannot_be_shrunk_by_who_gets_it(echo):
    with echo.client() as c:
        reply = c.ask(GET_INFLIGHT_FD, struct.pack("=QQHHI", 0, 0, 4, 64, 0))
        size, offset, queues, entries = struct.unpack_from("=QQHH", reply)
        assert (offset, queues, entries) == (0, 4, 64) and size >= 4 * (16 + 16 * 64)
        fd, = c.received
        assert os.fstat(fd).st_size == size
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
