"""vhost-user framing: bytes cut anywhere, floods, garbage, silence."""
import random
import socket
import struct

import pytest

from vfio_user import wait_until
from vhost_user import *


def test_messages_may_come_byte_by_byte(echo):
    with echo.client() as c:
        for byte in header(SET_VRING_NUM, 8, VERSION | NEED_REPLY) + struct.pack("=II", 0, 64):
            c.send_raw(bytes([byte]))
        assert c.reply(SET_VRING_NUM) == bytes(8)


def test_a_descriptor_may_come_with_the_header_or_with_the_payload(echo):
    fd = eventfd()
    with echo.client() as c:
        head, payload = header(SET_VRING_CALL, 8, VERSION | NEED_REPLY), struct.pack("=Q", 1)
        c.send_raw(head, [fd])
        c.send_raw(payload)
        assert c.reply(SET_VRING_CALL) == bytes(8)
        c.send_raw(head[:5])
        c.send_raw(head[5:])
        c.send_raw(payload, [fd])
        assert c.reply(SET_VRING_CALL) == bytes(8)
    os.close(fd)


def test_pipelined_messages_keep_their_own_descriptors(echo):
    fds = [eventfd() for _ in range(8)]
    with echo.client() as c:
        before = echo.fds()
        for i in range(60):
            c.send(SET_VRING_CALL, struct.pack("=Q", i % 4), [fds[i % 8]], NEED_REPLY)
            c.send(SET_VRING_NUM, struct.pack("=II", i % 4, 64), flags=NEED_REPLY)
        for _ in range(60):
            assert c.reply(SET_VRING_CALL) == bytes(8)
            assert c.reply(SET_VRING_NUM) == bytes(8)
        assert echo.fds() == before + 4, "one for each queue"
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("flags", [0, 2, 3, VERSION | REPLY])
def test_a_message_of_another_protocol_ends_the_connection(echo, flags):
    with echo.client() as c:
        c.send_raw(header(GET_FEATURES, 0, flags))
        c.expect_gone()
    with echo.client() as c:
        assert c.alive()


@pytest.mark.parametrize("size", [2057, 65536, 0x7fffffff, 0xffffffff])
def test_a_payload_beyond_any_ends_the_connection(echo, size):
    with echo.client() as c:
        c.send_raw(header(SET_MEM_TABLE, size))
        c.expect_gone()
    echo.wait_for_log(f"payload of {size} bytes")


def test_a_payload_too_long_or_short_is_skipped_and_refused(echo):
    with echo.client() as c:
        for request, size in ((SET_VRING_NUM, 7), (SET_VRING_NUM, 2056), (SET_FEATURES, 0),
                              (SET_OWNER, 1), (RESET_DEVICE, 8)):
            with pytest.raises(Nack) as why:
                c.ack(request, bytes(size))
            assert why.value.errno == 71  # EPROTO
        assert c.alive()


def test_requests_that_nobody_knows_are_refused(echo):
    with echo.client() as c:
        for request in (0, 45, 46, 100, 0xffffffff):
            with pytest.raises(Nack):
                c.ack(request, bytes(8))
        assert c.alive()


def test_requests_that_were_not_offered_are_refused(echo):
    with echo.client() as c:
        for request, size in ((SEND_RARP, 8), (NET_SET_MTU, 8), (SET_VRING_ENDIAN, 8),
                              (CLOSE_CRYPTO_SESSION, 8), (POSTCOPY_LISTEN, 0), (VRING_KICK, 8)):
            with pytest.raises(Nack):
                c.ack(request, bytes(size))
        assert c.alive()


def test_translations_are_refused_where_there_is_no_iommu(echo):
    with echo.client() as c:
        assert c.ask_u64(IOTLB_MSG, bytes(32)) != 0
        c.handshake()
        assert c.ask_u64(IOTLB_MSG, bytes(32)) != 0
        assert c.alive()
    echo.wait_for_log("IOTLB_MSG refused")


@pytest.mark.parametrize("request_,size", [(CREATE_CRYPTO_SESSION, 100),
                                           (POSTCOPY_ADVISE, 0), (POSTCOPY_END, 0),
                                           (GET_SHARED_OBJECT, 16), (GET_SHMEM_CONFIG, 0)])
def test_who_waits_for_an_answer_that_does_not_exist_is_dropped(echo, request_, size):
    """Rather than left waiting."""
    with echo.client() as c:
        c.send(request_, bytes(size))
        c.expect_gone()
    echo.wait_for_log("not offered")


@pytest.mark.parametrize("have", [1, 11, 12, 13, 19])
def test_who_leaves_in_the_middle_of_a_message_leaves_nothing(echo, have):
    fd = eventfd()
    before = echo.fds()
    with echo.client() as c:
        message = header(SET_VRING_CALL, 8) + struct.pack("=Q", 0)
        c.send_raw(message[:have], [fd] * 100)
    os.close(fd)
    echo.settled_fds(before)
    echo.wait_for_log("left in the middle of a message")


@pytest.mark.parametrize("have", [1, 12, 19])
def test_half_a_message_is_not_waited_for(short_echo, have):
    with short_echo.client() as c:
        c.send_raw((header(SET_VRING_NUM, 8) + bytes(8))[:have])
        c.expect_gone()
    short_echo.wait_for_log("does not finish a message")


def test_who_says_nothing_may_stay(short_echo):
    """A manager may connect long before it makes the device."""
    with short_echo.client() as c:
        assert not readable(c.sock, 0.5)
        assert c.alive()


def test_who_does_not_read_is_dropped(short_echo):
    with short_echo.client() as c:
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.sock.settimeout(DEADLINE)
        with pytest.raises(Gone):
            while True:
                c.send(GET_CONFIG, struct.pack("=III", 0, 256, 0) + bytes(256))
    short_echo.wait_for_log("does not read its replies")
    with short_echo.client() as c:
        assert c.alive()


def test_who_reads_late_gets_everything(echo):
    with echo.client() as c:
        sent = 0
        c.sock.setblocking(False)
        message = header(GET_CONFIG, 268) + struct.pack("=III", 0, 256, 0) + bytes(256)
        rest = b""
        try:
            while sent < 20000:
                rest = rest or message
                rest = rest[c.sock.send(rest):]
                sent += not rest
        except BlockingIOError:
            pass
        c.sock.settimeout(DEADLINE)
        for _ in range(sent):
            assert len(c.reply(GET_CONFIG)) == 268
        if rest and len(rest) < len(message):
            c.send_raw(rest)
            assert len(c.reply(GET_CONFIG)) == 268
        assert c.alive()


def test_a_flood_is_worked_off(echo):
    with echo.client() as c:
        c.send_raw((header(SET_OWNER, 0) * 1000 + header(SET_VRING_NUM, 8) +
                    struct.pack("=II", 1, 64)) * 20)
        assert c.alive()


def test_a_change_of_the_configuration_reaches_no_deaf_channel(echo):
    """Whatever is done to the channel's far end, the main one works."""
    with echo.client() as c:
        for _ in range(50):
            ours, theirs = socket.socketpair()
            c.ack(SET_BACKEND_REQ_FD, b"", [theirs.fileno()])
            theirs.close()
            ours.send(b"nobody asked")
            ours.close()
        assert c.alive()


def test_garbage_ends_connections_and_nothing_else(echo):
    rng = random.Random(4)
    before = echo.fds()
    fd = eventfd()
    for _ in range(300):
        with echo.client(handshake=False) as c:
            try:
                for _ in range(rng.randrange(1, 5)):
                    c.send_raw(rng.randbytes(rng.randrange(1, 4000)),
                               [fd] * rng.choice((0, 0, 0, 1, 3)))
            except Gone:
                pass
    os.close(fd)
    echo.settled_fds(before)
    with echo.client() as c:
        assert c.alive()


def test_sound_headers_around_garbage_harm_nobody(echo):
    rng = random.Random(5)
    before = echo.fds()
    fds = [eventfd(), memfd(1 << 20), os.open("/dev/null", os.O_RDWR), *os.pipe()]
    for _ in range(300):
        with echo.client() as c:
            try:
                for _ in range(rng.randrange(1, 40)):
                    size = rng.choice((0, 8, 8, 8, 12, 16, 24, 40, 72, rng.randrange(2056)))
                    payload = bytes(rng.choice((0, 0, 0, 1, 2, 16, 64, 255))
                                    for _ in range(size))
                    c.send(rng.randrange(50), payload,
                           rng.sample(fds, rng.choice((0, 0, 1, 1, 2))), rng.choice((0, 8)))
            except Gone:
                pass
    for fd in fds:
        os.close(fd)
    wait_until(echo.settled, "the last one's end is not noticed")
    echo.settled_fds(before)
    with echo.client() as c:
        c.share()
        Ring(c, 0).echo(b"unharmed")
