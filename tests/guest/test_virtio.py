"""The virtio function in front of vhost-user devices in other processes."""

import os
import signal

import pytest

from harness import children_of, stop
from shm import Shm

CHAOS = int(os.environ.get("OUTBOARD_CHAOS", "300000"))


RINGS = pytest.mark.parametrize("words", ["packed=0", "packed=1"])


@RINGS
def test_virtio(vmm, echo, words):
    """Everything of the transport: see image/test_virtio.c."""
    vmm("virtio", "--generic-vhost-user", echo().option, words=words).passes()


def test_virtio_in_another_slot(vmm, echo):
    """Another segment, another interrupt line."""
    vmm(
        "virtio",
        "--platform", "num_pci_segments=2",
        "--generic-vhost-user", f"{echo().option},pci_segment=1,pci_device_id=22",
    ).passes()


def test_virtio_beside_others(vmm, echo, gpio):
    """Two devices of a kind and one of another route on the same interrupt line."""
    first, second = echo(name="first"), echo(name="second")
    vmm(
        "virtio",
        "--user-device", f"{gpio().option},pci_device_id=13",
        "--generic-vhost-user",
        f"{first.option},pci_device_id=5",
        f"{second.option},pci_device_id=21",
    ).passes()


def test_virtio_chaos(vmm, echo):
    """Random values all over the registers."""
    guest = vmm(
        "virtio-chaos", "--generic-vhost-user", echo("quiet").option, words=f"n={CHAOS // 15}"
    )
    guest.passes()


@pytest.fixture
def shm(folder):
    """A device with a shared-memory region, in a thread of ours."""
    device = Shm(folder / "shm.sock")
    yield device
    device.close()


def test_shared_memory(vmm, shm):
    """Pieces of a file come and go, follow the BAR, and lose their file's end."""
    guest = vmm("virtio-shm", "--generic-vhost-user", shm.option)
    guest.passes()
    cuts = [line for line in guest.err.lines if "cut short" in line]
    assert cuts, guest.said()


def echoing(vmm, device, **keywords):
    guest = vmm("virtio-poll", "--generic-vhost-user", device.option, **keywords)
    index, _ = guest.out.wait("^# echoing$")
    index, _ = guest.out.wait(r"^# \d+ requests$", index)
    return guest, index


def next_requests(guest):
    """A hundred more at least, of those that are still to come."""
    start = len(guest.out.lines)
    for _ in range(2):
        start = guest.out.wait(r"^# \d+ requests$", start)[0] + 1


@RINGS
def test_echo_killed_and_restarted(vmm, echo, words):
    """No request is lost, none is answered wrongly; nothing grows."""
    device = echo()
    guest, _ = echoing(vmm, device, words=words)
    fds = memory = None
    for turn in range(20):
        device.kill()
        device = echo()
        device.err.wait("has connected")
        next_requests(guest)
        if turn == 4:
            fds, memory = guest.fds(), guest.memory_kib()
    assert guest.fds() == fds
    if not guest.sanitized():
        assert guest.memory_kib() <= memory + 256
    guest.send("q")
    guest.passes()


def reset(guest, index):
    """Gives the index of the new life's first line."""
    guest.send("r")
    index, _ = guest.out.wait("^# test virtio-poll$", index)
    return index


def finish(guest, start):
    guest.send("q")
    assert guest.wait() == 0, guest.said()
    guest.tap(start=start)


def test_reset_of_the_machine(vmm, echo):
    """In the middle of requests, again and again: the device's connection stays, nothing grows."""
    device = echo()
    guest, index = echoing(vmm, device)
    fds = guest.fds()
    for _ in range(20):
        index = life = reset(guest, index)
        index, _ = guest.out.wait("^# echoing$", index)
        next_requests(guest)
        assert guest.fds() == fds
    finish(guest, life)
    connects = [line for line in device.err.lines if "has connected" in line]
    assert len(connects) == 1, device.said()


def test_reset_while_the_device_stands(vmm, echo):
    """The reset waits for no device for longer than its deadline; the next life has it again."""
    device = echo()
    guest, index = echoing(vmm, device)
    stop(device)
    life = reset(guest, index)
    device.signal(signal.SIGCONT)
    guest.out.wait("^# echoing$", life)
    next_requests(guest)
    finish(guest, life)


def test_reset_while_the_device_is_away(vmm, echo):
    device = echo()
    guest, index = echoing(vmm, device)
    device.kill()
    guest.err.wait("is away until")
    life = reset(guest, index)
    echo()
    guest.out.wait("^# echoing$", life)
    next_requests(guest)
    finish(guest, life)


# --- our own devices ---


def test_rng(vmm, virtio):
    vmm("virtio-rng", "--generic-vhost-user", virtio("rng").option).passes()


def next_batches(guest):
    """Fifty more at least, of those that are still to come."""
    start = len(guest.out.lines)
    for _ in range(2):
        start = guest.out.wait(r"^# \d+ batches$", start)[0] + 1


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.truncate(4 << 20)
    return path


def test_disk(vmm, virtio, image):
    guest = vmm("virtio-disk", "--generic-vhost-user", virtio("block", f"--blk-file={image}").option)
    next_batches(guest)
    guest.send("q")
    guest.passes()
    assert any(image.read_bytes())


@RINGS
def test_disk_killed_and_restarted(vmm, virtio, image, words):
    """Sixteen requests are always under way; all are carried out, and what was written stays."""
    arguments = ("block", f"--blk-file={image}")
    disk = virtio(*arguments)
    guest = vmm("virtio-disk", "--generic-vhost-user", disk.option, words=words)
    guest.out.wait("^# working$")
    for _ in range(20):
        next_batches(guest)
        disk.kill()
        disk = virtio(*arguments)
    next_batches(guest)
    guest.send("q")
    guest.passes()


def test_disk_stands_still(vmm, virtio, image):
    """Its requests wait for as long as it takes: nothing is lost, nothing is given up."""
    disk = virtio("block", f"--blk-file={image}")
    guest = vmm("virtio-disk", "--generic-vhost-user", disk.option)
    for _ in range(5):
        next_batches(guest)
        stop(disk)
        disk.signal(signal.SIGCONT)
    next_batches(guest)
    guest.send("q")
    guest.passes()
    assert not any("is away" in line for line in guest.err.lines), guest.said()


def device_process(guest):
    """The one that the VMM's helper has started."""
    (spawner,) = guest.children()
    (process,) = children_of(spawner)
    return process


def test_disk_that_the_vmm_keeps_alive(vmm, image):
    """--disk: its process is started again at once, with the image and the requests it had."""
    guest = vmm("virtio-disk", "--disk", f"path={image}")
    killed = set()
    for _ in range(4):  # a fifth death in ten seconds would be the last
        next_batches(guest)
        process = device_process(guest)
        assert process not in killed
        killed.add(process)
        os.kill(process, signal.SIGKILL)
    next_batches(guest)
    guest.send("q")
    guest.passes()
