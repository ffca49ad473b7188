"""The test guest under the real VMM, on this machine's /dev/kvm.

The build folder comes from OUTBOARD_BUILD, ./build unless set."""

import os
import pathlib
import shutil
import socket
import tempfile

import pytest

from harness import TREE, Program, Vmm

ECHO_TYPE = 62  # device/echo.h


@pytest.fixture(scope="session")
def build():
    path = pathlib.Path(os.environ.get("OUTBOARD_BUILD", TREE / "build")).resolve()
    assert (path / "src" / "outboard").exists(), f"nothing built in {path}"
    return path


@pytest.fixture(scope="session")
def kvm():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"/dev/kvm: {error.strerror}")


@pytest.fixture(scope="session")
def hardware_kvm(kvm):
    """A KVM that runs every kind of guest code, unlike one of the PVM type."""
    with open("/proc/cpuinfo", encoding="ascii") as cpuinfo:
        flags = set(cpuinfo.read().split())
    return bool(flags & {"vmx", "svm"})


@pytest.fixture
def folder():
    """For sockets: a path that is short enough for their names."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="outboard-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def programs():
    """Start programs; all that still run at the end are killed."""
    started = []

    def start(program):
        started.append(program)
        return program

    yield start
    for program in reversed(started):
        program.kill()


@pytest.fixture
def vmm(build, kvm, programs):
    """Start outboard: vmm("test", "--option", ..., words="more=1")."""

    def start(test, *arguments, **keywords):
        return programs(Vmm(build, test, *arguments, **keywords))

    return start


class Server:
    """Starts device programs on a socket that listens before they do: nobody comes too early."""

    def __init__(self, folder, programs):
        self.folder = folder
        self.programs = programs

    def start(self, name, command):
        path = self.folder / f"{name}.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            fd = listener.fileno()
            program = Program(name, [word.format(fd=fd) for word in command], pass_fds=(fd,))
        program.option = f"socket={path}"
        program.path = path
        return self.programs(program)


@pytest.fixture
def gpio(build, folder, programs):
    """Start a GPIO card: gpio("--loopback", name="a")."""
    server = Server(folder, programs)

    def start(*arguments, name="gpio"):
        program = f"{build}/src/outboard-device"
        return server.start(name, [program, "gpio", "--fd={fd}", "-v", *arguments])

    return start


@pytest.fixture
def exerciser(build, folder, programs):
    """Start the function that has one of everything."""
    server = Server(folder, programs)

    def start(*arguments, name="exerciser"):
        return server.start(name, [f"{build}/tests/guest/exerciser", "{fd}", *arguments])

    return start


@pytest.fixture
def echo(build, folder, programs):
    """Start the virtio device that gives back what it is given; .option is of --generic-vhost-user."""
    server = Server(folder, programs)

    def start(*arguments, name="echo"):
        device = server.start(name, [f"{build}/tests/guest/echo", "{fd}", *arguments])
        device.option += f",virtio_id={ECHO_TYPE},queue_sizes=[64,64,64]"
        return device

    return start


@pytest.fixture
def virtio(build, folder, programs):
    """Start a virtio device of ours: virtio("rng", "--option", ...), for --generic-vhost-user."""
    server = Server(folder, programs)

    def start(model, *arguments):
        program = f"{build}/src/outboard-device"
        device = server.start(model, [program, model, "--fd={fd}", "-v", *arguments])
        device.option += f",virtio_id={model}"
        return device

    return start
