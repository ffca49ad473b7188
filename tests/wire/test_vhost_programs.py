"""The device programs, confined and with threads, in the hands of hostile front-ends."""
import socket
import struct

import pytest

from test_block import FEATURES, IN, OK, OUT, Queue
from vfio_user import wait_until
from vhost_user import *

MIB = 1 << 20


@pytest.fixture
def disk(start):
    return start("block", "--file=ram:64M", "--queues=4", "--threads=2")


class Load:
    """Queues of a disk that are kept busy: each with 8 reads of 64 KiB under way."""

    def __init__(self, front, queues=(1, 2, 3)):
        self.front = front
        self.queues = [Queue(front, q) for q in queues]
        for q in self.queues:
            q.done = 0
            header, status = q.place(0, struct.pack("<IIQ", IN, 0, 0)), q.place(0x100, b"\xff")
            for i in range(8):
                q.desc(4 * i, header, 16, 1, 4 * i + 1)
                q.desc(4 * i + 1, q.place(0x1000, b""), 65536, 3, 4 * i + 2)
                q.desc(4 * i + 2, status, 1, 2)
                q.offer(4 * i)
            q.ring()

    def turn(self):
        """Offer again what has come back."""
        for q in self.queues:
            used = q.used_idx()
            while q.done != used:
                head, _ = q.used(q.done)
                q.done = (q.done + 1) & 0xffff
                q.offer(head)
            q.ring()

    def moves(self):
        """Each of the queues gives something back."""
        for q in self.queues:
            before = q.used_idx()
            while q.used_idx() == before:
                self.turn()
                take(q.call)


def disk_client(server):
    c = server.client(features=FEATURES)
    c.share(2 * MIB)
    return c


def at_rest(server):
    """Descriptors, mappings and memory of a server when the last one's queues have stopped."""
    with server.client() as c:  # which is not let in before
        assert c.alive()
    wait_until(server.settled, "the end is not noticed")
    return server.fds(), server.mappings(), server.resident_kib()


def test_the_rng_program_serves_all_that_the_port_can(rng):
    with rng.client() as c:
        c.share()
        assert c.ask_u64(GET_QUEUE_NUM) == 1
        size, = struct.unpack_from("=Q", c.ask(GET_INFLIGHT_FD, struct.pack("=QQHH", 0, 0, 1, 64)))
        c.ack(SET_INFLIGHT_FD, struct.pack("=QQHHI", size, 0, 1, 64, 0), [c.received[0]])
        log = c.keep(memfd(4096))
        c.send(SET_LOG_BASE, struct.pack("=QQ", 4096, 0), [log])
        c.reply(SET_LOG_BASE)
        ours, theirs = socket.socketpair()
        c.ack(SET_BACKEND_REQ_FD, b"", [theirs.fileno()])
        c.ack(SET_FEATURES, struct.pack("=Q", VERSION_1 | PROTOCOL_FEATURES | LOG_ALL))
        ring = Ring(c, 0)
        assert len({ring.fill(16) for _ in range(100)}) == 100
        assert any(os.pread(log, 4096, 0))
        ours.close()
        theirs.close()
        # It has neither configuration nor state.
        assert c.ask(GET_CONFIG, struct.pack("=III", 0, 4, 0) + bytes(4)) == b""
        r, w = os.pipe()
        assert c.ask_u64(SET_DEVICE_STATE_FD, struct.pack("=II", 0, 0), [w]) & 0xff
        os.close(r)
        os.close(w)


def test_the_rng_program_outlives_everything(rng):
    fd = eventfd()
    before = rng.fds()
    for i in range(50):
        with rng.client() as c:
            c.share()
            ring = Ring(c, 0, call_flags=0)
            os.write(ring.call, struct.pack("=Q", 0xfffffffffffffffe if i % 2 else 1))
            for _ in range(4):
                with pytest.raises(Nack):
                    c.ack(SET_OWNER, b"", [fd] * 250)
            if i % 3 == 0:
                c.memory.close()
                c.memory = None
                os.ftruncate(c.memory_fd, 0)
                ring.ring()
                c.expect_gone()
            elif i % 3 == 1:
                c.send_raw(header(SET_VRING_CALL, 8)[:7], [fd])
            else:
                c.send(SET_VRING_ADDR, struct.pack("=IIQQQQ", 0, 0, USER + 16, USER + 0x2000,
                                                   USER + 0x1000, 0))
                c.expect_gone()
    os.close(fd)
    wait_until(rng.settled, "the end is not noticed")
    rng.settled_fds(before)
    with rng.client() as c:
        c.share()
        assert any(Ring(c, 0).fill(16))


def test_a_descriptor_is_served_until_its_far_end_closes(start, programs):
    ours, theirs = socket.socketpair()
    server = start("rng", f"--fd={theirs.fileno()}", listen=False, pass_fds=[theirs.fileno()])
    theirs.close()
    with FrontEnd(sock=ours) as c:
        c.share()
        assert any(Ring(c, 0).fill(16))
    assert server.process.wait(DEADLINE) == 0


def test_memory_truncated_under_threads(disk):
    before = None
    for i in range(40):
        with disk_client(disk) as c:
            load = Load(c)
            load.moves()
            # The ring itself, or only the data
            os.ftruncate(c.memory_fd, 0x50000 if i % 2 else 0)
            if i % 2:
                load.turn()
            c.memory = None  # not even this process may look at it now
            for q in load.queues:
                q.ring()
            c.expect_gone()
        if i == 5:
            before = at_rest(disk)
    after = at_rest(disk)
    assert after[0] == before[0]
    assert after[1] <= before[1] + 4
    disk.wait_for_log("its memory was truncated under us")
    with disk_client(disk) as c:
        assert Queue(c).do(IN, 0, room=512)[0] == OK


def test_memory_and_descriptors_change_under_threads(disk):
    with disk_client(disk) as c:
        load = Load(c)
        more = c.keep(memfd(MIB))
        spare = c.keep(eventfd())
        for i in range(300):
            c.add_region(1 << 32, MIB, USER + (1 << 32), 0, more)
            load.turn()
            q = load.queues[i % 3]
            c.vring_fd(SET_VRING_CALL, q.index, spare)
            load.turn()
            c.vring_fd(SET_VRING_CALL, q.index, q.call)
            c.remove_region(1 << 32, MIB, USER + (1 << 32))
            load.turn()
        load.moves()


def test_logging_begins_and_ends_under_threads(disk):
    with disk_client(disk) as c:
        load = Load(c)
        pages = {(GPA + q.room + 0x1000) // PAGE for q in load.queues}
        for i in range(100):
            log = memfd(PAGE)
            c.send(SET_LOG_BASE, struct.pack("=QQ", PAGE, 0), [log])
            c.reply(SET_LOG_BASE)
            c.ack(SET_FEATURES, struct.pack("=Q", FEATURES | LOG_ALL))
            load.moves()  # of the first ones the data may be older than the log
            load.moves()
            bits = os.pread(log, PAGE, 0)
            assert all(bits[page // 8] >> page % 8 & 1 for page in pages)
            c.ack(SET_FEATURES, struct.pack("=Q", FEATURES))
            os.close(log)
            if i == 10:
                before = disk.fds(), disk.mappings()
        assert disk.fds() == before[0]
        assert disk.mappings() <= before[1] + 2


def test_queues_stop_and_start_beside_busy_ones(disk):
    with disk_client(disk) as c:
        load = Load(c, (1, 2))
        mine = Queue(c, 3)
        for i in range(200):
            assert mine.do(OUT, i, out=bytes([i]) * 512)[0] == OK
            assert c.vring_base(3) == i + 1
            load.turn()
            c.vring_fd(SET_VRING_KICK, 3, mine.kick)
        load.moves()


def test_resets_under_load(disk):
    for request, payload in ((RESET_DEVICE, b""), (SET_STATUS, bytes(8))):
        with disk_client(disk) as c:
            for _ in range(30):
                c.memory[:0x40000] = bytes(0x40000)
                load = Load(c)
                load.turn()
                c.ack(request, payload)
                for fd in c.own[1:]:
                    os.close(fd)
                del c.own[1:]
            assert Queue(c).do(IN, 0, room=512)[0] == OK


def test_who_leaves_under_load_leaves_nothing(disk):
    before = None
    for i in range(100):
        with disk_client(disk) as c:
            Load(c).turn()
        if i == 20:
            before = at_rest(disk)
    after = at_rest(disk)
    assert after[0] == before[0]
    assert after[1] <= before[1] + 4
    assert after[2] <= before[2] + 512


def test_a_full_blocking_call_descriptor_beside_busy_queues(disk):
    with disk_client(disk) as c:
        load = Load(c, (1, 2, 3))
        trap = Queue(c, 0, call_flags=0)
        os.write(trap.call, struct.pack("=Q", 0xfffffffffffffffe))
        for i in range(20):
            trap.request(IN, i, room=512)
            load.turn()
            wait_until(lambda: trap.used_idx() == trap.avail_idx, "its request is not done")
        load.moves()


def test_sigterm_under_load(disk):
    with disk_client(disk) as c:
        load = Load(c)
        load.moves()
        disk.stop()
        c.expect_gone()
