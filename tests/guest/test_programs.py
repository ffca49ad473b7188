"""Devices whose programs outboard starts itself: what goes wrong at their start, and later."""

import os
import pathlib
import select
import signal
import socket

import pytest

from harness import children_of

BEFORE = "its process ended with status 1 before it served"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.truncate(4 << 20)
    return path


def fails(guest, text):
    """It ends by itself, with 1 and this as its last line."""
    assert guest.wait() == 1, guest.said()
    assert guest.err.lines[-1] == f"outboard: {text}", guest.said()


def test_two_disks_on_one_image(vmm, image):
    guest = vmm("cpuid", "--disk", f"path={image}", f"path={image}")
    assert guest.wait() == 1, guest.said()
    guest.err.wait(f"^outboard: disk _disk[01]: {BEFORE}$")
    assert f"{image}: the image is in use: somebody else has locked it" in guest.err.text()


@pytest.mark.parametrize("readonly", ["on", "off"])
def test_an_image_that_is_a_fifo(vmm, tmp_path, readonly):
    """Nobody writes into it, and nobody waits for that."""
    os.mkfifo(tmp_path / "fifo")
    guest = vmm("cpuid", "--disk", f"path={tmp_path}/fifo,readonly={readonly}")
    fails(guest, f"disk _disk0: {BEFORE}")
    assert "expected a file or a block device" in guest.err.text()


def test_a_source_that_is_not_there(vmm):
    guest = vmm("cpuid", "--rng", "src=/nonexistent")
    fails(guest, f"rng _rng0: {BEFORE}")


def test_a_descriptor_that_is_no_tap(vmm, image):
    with open(image, "rb") as file:
        fd = file.fileno()
        guest = vmm("cpuid", "--net", f"fd=[{fd}]", pass_fds=(fd,))
        fails(guest, f"net _net0: {BEFORE}")
        assert "is no tap" in guest.err.text()


def test_a_descriptor_that_is_not_open(vmm):
    fails(vmm("cpuid", "--net", "fd=[999]"), "_net0: fd: descriptor 999 is not open")


def running(vmm, *arguments):
    guest = vmm("command", *arguments)
    guest.out.wait(r"^# command\?")
    (spawner,) = guest.children()
    return guest, spawner


def ends_well(guest):
    guest.send("off")
    assert guest.wait() == 0, guest.said()


def test_a_disk_that_dies_too_often(vmm, image):
    """Five times its process is replaced; then the device stays away and the guest goes on."""
    guest, spawner = running(vmm, "--disk", f"path={image}")
    index = 0
    for _ in range(5):
        (process,) = children_of(spawner)
        os.kill(process, signal.SIGKILL)
        index = guest.err.wait("the device is back", index)[0] + 1
    (process,) = children_of(spawner)
    os.kill(process, signal.SIGKILL)
    guest.err.wait("the 6th time within 10 s: it is not started again; the device stays away")
    assert not children_of(spawner)
    ends_well(guest)


def test_the_spawner_is_killed(vmm, image):
    """Its programs go with it; nobody tries for ever to have others started."""
    guest, spawner = running(vmm, "--disk", f"path={image}")
    os.kill(spawner, signal.SIGKILL)
    guest.err.wait("none can be started any more")
    guest.err.wait("cannot have its process started: Broken pipe; the device stays away")
    ends_well(guest)


def test_what_programs_say_is_in_the_log_file(vmm, image, tmp_path):
    """Each line begins with who says it; as much is said as the VMM was asked for."""
    log = tmp_path / "log"
    guest, spawner = running(
        vmm, "--disk", f"path={image},id=mine", "--log-file", str(log), "--verbose", "--verbose")
    ends_well(guest)
    names = {line.partition(":")[0] for line in log.read_text().splitlines()}
    assert names == {"outboard", "mine"}
    assert "mine:" not in guest.err.text()


def can_make_taps():
    return os.access("/dev/net/tun", os.W_OK) and os.geteuid() == 0


@pytest.mark.skipif(not can_make_taps(), reason="no tap can be made here")
def test_a_network_that_dies(vmm):
    """Its queues but the first were switched off: the next one finds them as if they were new."""
    guest, spawner = running(vmm, "--net", "num_queues=4")
    index = 0
    for _ in range(3):
        (process,) = children_of(spawner)
        os.kill(process, signal.SIGKILL)
        index = guest.err.wait("the device is back", index)[0] + 1
    ends_well(guest)
    assert "cannot be switched" not in guest.err.text(), guest.said()


def asks(path, port):
    """A client that asks for a port of the guest's: what it is told before the end."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(f"CONNECT {port}\n".encode())
        return client.recv(100)


def threads_of_all(pids):
    return [pathlib.Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids]


def test_a_socket_device_whose_guest_has_no_driver(vmm, tmp_path):
    """Its socket is there from the start to the end, whatever becomes of the process that serves it."""
    path = tmp_path / "v"
    guest, spawner = running(vmm, "--vsock", f"cid=3,socket={path}")
    assert asks(path, 1) == b""
    (process,) = children_of(spawner)
    assert threads_of_all(children_of(process)) == ["vsock-connect"]
    (connector,) = children_of(process)
    its_end = os.pidfd_open(connector)
    os.kill(process, signal.SIGKILL)
    index = guest.err.wait("the device is back")[0] + 1
    assert select.select([its_end], [], [], 20)[0], "the connector outlives its asker"
    os.close(its_end)
    assert asks(path, 1) == b""
    # Without its connector it is none: it is started again.
    (process,) = children_of(spawner)
    (connector,) = children_of(process)
    os.kill(connector, signal.SIGKILL)
    guest.err.wait("the device is back", index)
    assert asks(path, 1) == b""
    ends_well(guest)
    assert not path.exists()


def test_a_socket_that_somebody_listens_at(vmm, tmp_path):
    path = tmp_path / "v"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        guest = vmm("cpuid", "--vsock", f"cid=3,socket={path}")
        assert guest.wait() == 1, guest.said()
        assert f"outboard: vsock _vsock0: {path} is in use" in guest.err.text()
    assert path.exists()


def test_a_socket_in_no_folder(vmm, tmp_path):
    path = tmp_path / "no" / "v"
    guest = vmm("cpuid", "--vsock", f"cid=3,socket={path}")
    assert guest.wait() == 1, guest.said()
    assert f"outboard: vsock _vsock0: cannot listen at {path}: No such" in guest.err.text()
