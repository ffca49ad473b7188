"""The test guest under the real VMM, on this machine's /dev/kvm.

The build folder comes from OUTBOARD_BUILD, ./build unless set."""

import os
import pathlib
import shutil
import tempfile

import pytest

from harness import TREE, Program, Vmm


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


@pytest.fixture
def gpio(build, folder, programs):
    """Start a GPIO card on a socket: gpio("--loopback", name="a"). Listening when it returns."""

    def start(*arguments, name="gpio"):
        socket = folder / f"{name}.sock"
        program = programs(
            Program(
                name,
                [build / "src" / "outboard-device", "gpio", f"--socket-path={socket}", *arguments],
            )
        )
        program.socket = socket
        program.option = f"socket={socket}"
        program.err.wait("listening")
        return program

    return start
