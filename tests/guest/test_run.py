"""Guests that are started by `outboard run`, with crosvm's words."""

import os

import pytest

from harness import Program, Vmm


class Run(Vmm):
    """Vmm's other grammar. The serial port is at the terminal, the kernel is the last word."""

    def __init__(self, build, test, *arguments, words="", **keywords):
        Program.__init__(
            self,
            "guest",
            [
                build / "src" / "outboard", "run", "-v", *arguments,
                *[word for text in (f"test={test}", *words.split()) for word in ("-p", text)],
                build / "tests" / "guest" / "guest.bzimage",
            ],
            **keywords,
        )


@pytest.fixture
def run(build, kvm, programs):
    def start(test, *arguments, **keywords):
        return programs(Run(build, test, *arguments, **keywords))

    return start


@pytest.mark.parametrize("options,size", [([], 256), (["-m", "64"], 64), (["--mem", "size=96"], 96)])
def test_boot(run, options, size):
    run("boot", *options, words=f"size={size << 20}").passes()


def test_processors(run):
    run("smp", "--cpus", "2", words="cpus=2").passes()


def test_a_machine_serves_another(run, folder):
    """The guide's two commands, with the test guest's own device type."""
    path = folder / "vvu.sock"
    host = run("vvu", "--vvu-proxy", f"{path},addr=0000:00:10.0", "-m", "64")
    host.out.wait("^# up$")
    sibling = f"socket={path},virtio_id=62,queue_sizes=[64,64,64]"
    run("virtio", "--generic-vhost-user", sibling, "-m", "128").passes()
    host.out.wait("has gone")
    host.send("q")
    host.passes()


@pytest.mark.parametrize("option", ["--vhost-user-rng {path}", "--vhost-user rng,socket={path}"])
def test_a_back_end_by_its_type(run, virtio, option):
    """The program's command line ends at the socket; the guest finds the function."""
    path = virtio("rng").path
    guest = run("command", *option.format(path=path).split(), "-m", "64")
    guest.out.wait(r"^# command\?")
    guest.send("off")
    assert guest.wait() == 0, guest.said()


def test_the_sandbox_is_off_when_that_is_asked_for(run):
    def filters(*options):
        nonlocal sanitized
        guest = run("command", "-m", "64", *options)
        guest.out.wait(r"^# command\?")
        sanitized = guest.sanitized()
        with open(f"/proc/{guest.process.pid}/status", encoding="ascii") as status:
            mode = [line.split()[1] for line in status if line.startswith("Seccomp:")]
        guest.send("off")
        assert guest.wait() == 0, guest.said()
        return mode

    sanitized = None  # such a build has no filters
    here = filters("--disable-sandbox")
    assert filters() == ["2"] or sanitized
    with open(f"/proc/{os.getpid()}/status", encoding="ascii") as status:
        assert here == [line.split()[1] for line in status if line.startswith("Seccomp:")]
