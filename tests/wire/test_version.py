"""VERSION: what is agreed, and what ends the connection."""
import json
import resource
import struct

import pytest

from vfio_user import *


def test_answers_the_keys_that_were_proposed(gpio):
    with gpio.client() as c:
        assert c.version_reply == {"capabilities": ALL_CAPS}
        assert c.minor == 1
    with gpio.client(caps={"pgsizes": 4096}) as c:
        assert c.version_reply == {"capabilities": {"pgsizes": 4096}}


@pytest.mark.parametrize("caps", [None, {}])
def test_a_client_may_have_nothing_to_say(gpio, caps):
    with gpio.client(caps=caps) as c:
        assert c.version_reply == (None if caps is None else {"capabilities": {}})
        assert c.info()[2:] == (9, 5)


def test_minor_is_the_lower_one(gpio):
    for offered, agreed in ((0, 0), (1, 1), (2, 1), (65535, 1)):
        with gpio.client(minor=offered) as c:
            assert c.minor == agreed


def test_what_qemu_proposes_is_answered_within_its_buffer(gpio):
    text = (b'{"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,'
            b'"max_data_xfer_size":1048576,"migration":{"max_bitmap_size":268435456,'
            b'"pgsize":4096},"write_multiple":true}}\0')
    with gpio.client(handshake=False) as c:
        reply = c.call(VERSION, struct.pack("=HH", 0, 0) + text)
        assert len(reply) <= 4 + len(text)
        assert struct.unpack_from("=HH", reply) == (0, 0)
        caps = json.loads(reply[4:-1])["capabilities"]
        assert set(caps) == {"pgsizes", "max_msg_fds", "max_dma_maps", "max_data_xfer_size",
                             "write_multiple"}
        assert caps["max_msg_fds"] <= 16 and caps["max_dma_maps"] <= 65535
        assert c.fds == []


@pytest.mark.parametrize("payload", [
    struct.pack("=HH", 1, 0),
    struct.pack("=HH", 0, 1) + b"{",
    struct.pack("=HH", 0, 1) + b"[]\0",
    struct.pack("=HH", 0, 1) + b'{"capabilities":{"max_msg_fds":-1}}\0',
    struct.pack("=HH", 0, 1) + b'{"capabilities":{"pgsizes":2097152}}\0',
    struct.pack("=HH", 0, 1) + b"\xff" * 4000,
    struct.pack("=HH", 0, 1) + b"[" * 4000,
], ids=range(7))
def test_a_bad_version_is_refused_and_hung_up_on(gpio, payload):
    with gpio.client(handshake=False) as c:
        with pytest.raises(Refused) as why:
            c.call(VERSION, payload)
        assert why.value.errno == 22
        c.expect_gone()
    gpio.wait_for_log("client dropped: VERSION")
    with gpio.client() as c:
        c.info()


def test_the_refusals_text_has_no_bytes_of_the_peer(gpio):
    with gpio.client(handshake=False) as c:
        with pytest.raises(Refused):
            c.call(VERSION, struct.pack("=HH", 0, 1) + b'{"a\x1b[31m":\nevil line}\0')
        c.expect_gone()
    gpio.wait_for_log("client dropped")
    assert "evil" not in gpio.log() and "\x1b" not in gpio.log()


def test_anything_before_version_ends_the_connection(gpio):
    for command in (GET_INFO, RESET, REGION_READ, DMA_MAP):
        with gpio.client(handshake=False) as c:
            size = {RESET: 0, DMA_MAP: 32}.get(command, 16)
            with pytest.raises(Refused):
                c.call(command, b"\0" * size)
            c.expect_gone()


def test_a_second_version_is_refused_and_nothing_else(gpio):
    with gpio.client() as c:
        with pytest.raises(Refused):
            c.version()
        c.info()


def test_silence_instead_of_version_frees_the_place(short_probe):
    with short_probe.client(handshake=False) as c:
        c.expect_gone()
    short_probe.wait_for_log("sent no VERSION in time")
    with short_probe.client() as c:
        c.info()


def test_half_a_header_instead_of_version_frees_the_place(short_probe):
    with short_probe.client(handshake=False) as c:
        c.send_raw(b"\1\0\1")
        c.expect_gone()


def test_no_descriptors_left_for_a_twin_socket(probe):
    before = probe.fds()
    with probe.client(handshake=False) as c:
        wait_until(lambda: probe.fds() == before + 1, "not accepted")
        resource.prlimit(probe.process.pid, resource.RLIMIT_NOFILE, (before + 1, 4096))
        with pytest.raises(Refused) as why:
            c.version({"twin_socket": {"supported": True}})
        assert why.value.errno == 24
        c.expect_gone()
    resource.prlimit(probe.process.pid, resource.RLIMIT_NOFILE, (1024, 4096))
    probe.settled_fds(before)


def test_twin_socket_comes_only_when_asked_for(probe):
    with probe.client() as c:
        assert c.fds == []
    with probe.client(caps={"twin_socket": {"supported": False}}) as c:
        assert c.version_reply == {"capabilities": {}} and c.fds == []
    with probe.client(caps={"twin_socket": {"supported": True}, "max_msg_fds": 0}) as c:
        assert c.version_reply == {"capabilities": {"max_msg_fds": 16}} and c.fds == []
    with probe.client(caps={"twin_socket": {"supported": True}}) as c:
        assert c.version_reply == {"capabilities": {"twin_socket": {"supported": True,
                                                                   "fd_index": 0}}}
        assert len(c.fds) == 1
