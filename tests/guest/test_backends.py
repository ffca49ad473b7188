"""vhost-user back-ends that answer wrongly, under the real VMM: it lives, and says why, once."""

import re
import signal

import pytest

import tamper
from harness import DEADLINE
from tamper import Tamperer

ASKED_AT_THE_ATTACH = [
    tamper.GET_FEATURES,
    tamper.GET_PROTOCOL_FEATURES,
    tamper.GET_QUEUE_NUM,
    tamper.GET_MAX_MEM_SLOTS,
    tamper.SET_BACKEND_REQ_FD,
]
ASKED_AT_A_RETURN = [
    *ASKED_AT_THE_ATTACH,
    tamper.SET_FEATURES,
    tamper.ADD_MEM_REG,
    tamper.SET_VRING_NUM,
    tamper.SET_VRING_BASE,
    tamper.SET_VRING_ADDR,
    tamper.SET_VRING_ENABLE,
]
# Each way and each request at least once; the unit tests have more.
WAYS = list(tamper.WAYS)


@pytest.fixture
def between(echo, folder):
    """The echo device behind a Tamperer: .option is of --generic-vhost-user."""
    device = echo()
    path = folder / "between.sock"
    found = Tamperer(path, device.path)
    found.path = path
    found.option = device.option.replace(str(device.path), str(path))
    yield found
    found.close()


def test_wrong_at_the_attach(vmm, between):
    """One line that names the device, and the exit status of a failure."""
    for i, way in enumerate(WAYS):
        request = ASKED_AT_THE_ATTACH[i % len(ASKED_AT_THE_ATTACH)]
        between.tamper(request, way)
        guest = vmm("virtio", "--generic-vhost-user", f"{between.option},connect_timeout=1")
        assert guest.wait() == 1, f"{way}\n{guest.said()}"
        reasons = [line for line in guest.err.lines if ": generic-vhost-user " in line]
        assert len(reasons) == 1 and str(between.path) in reasons[0], guest.said()


def test_wrong_descriptors_at_the_attach(vmm, between):
    between.tamper(tamper.GET_FEATURES, surplus=True)
    guest = vmm("virtio", "--generic-vhost-user", between.option)
    assert guest.wait() == 1, guest.said()
    assert "3 descriptors with the answer to GET_FEATURES, expected at most 0" in guest.err.text()


def next_requests(guest, index):
    """A hundred more at least, whatever has happened."""
    for _ in range(2):
        index, _ = guest.out.wait(r"^# \d+ requests$", index + 1)


def echoing(vmm, between):
    guest = vmm("virtio-poll", "--generic-vhost-user", between.option)
    index, _ = guest.out.wait("^# echoing$")
    next_requests(guest, index)
    return guest


def returns(guest, between):
    """The back-end behaves, the device is back and serves."""
    between.tamper(tamper.SET_VRING_ENABLE)  # only counted
    between.wait_hits(1, DEADLINE)
    next_requests(guest, len(guest.out.lines))


def test_wrong_at_each_return(vmm, between):
    """
    The device stays away as long as its back-end answers wrongly, which is said once for each way;
    then it is back, and not one request was lost or answered wrongly.
    """
    guest = echoing(vmm, between)
    fds = None
    for i, way in enumerate(WAYS):
        if i == 1:
            fds = guest.fds()
        if i > 1:
            assert guest.fds() == fds, way
        between.tamper(ASKED_AT_A_RETURN[i % len(ASKED_AT_A_RETURN)], way)
        said = len(guest.err.lines)
        between.hang_up()
        between.wait_hits(2, DEADLINE)
        reasons = [
            line for line in guest.err.lines[said:] if "but the device stays away" in line
        ]
        assert len(reasons) <= 1, f"{way}\n{guest.said()}"
        returns(guest, between)
    guest.send("q")
    guest.passes()


def test_inflight_area_that_is_none(vmm, between):
    """The start of the queues is where its descriptor goes missing."""
    between.tamper(tamper.GET_INFLIGHT_FD, missing=True)
    guest = vmm("virtio-poll", "--generic-vhost-user", between.option)
    guest.err.wait("GET_INFLIGHT_FD: the descriptor is missing")
    between.wait_hits(2, DEADLINE)
    between.behave()
    index, _ = guest.out.wait("^# echoing$")
    next_requests(guest, index)
    guest.send("q")
    guest.passes()
    assert len(re.findall("descriptor is missing", guest.err.text())) <= 2, guest.said()


def test_garbage_in_the_used_rings(vmm, between):
    """A driver cannot make sense of it, but the VMM goes on and ends as it is told to."""
    guest = echoing(vmm, between)
    for seed in range(20):
        between.scribble(seed)
        between.tamper(tamper.SET_VRING_ENABLE)  # only counted
        between.hang_up()
        between.wait_hits(1, DEADLINE)
    guest.signal(signal.SIGTERM)
    assert guest.wait() == 0, guest.said()
