"""
Servers for the tests to attack: outboard-device gpio and a device with one of everything over
vfio-user, outboard-device's virtio models and a device that echoes over vhost-user.
"""
import os
import pathlib
import signal
import subprocess

import pytest

from vfio_user import DEADLINE, Client, wait_until
from vhost_user import FrontEnd

BUILD = pathlib.Path(os.environ.get("OUTBOARD_BUILD",
                                    pathlib.Path(__file__).parents[2] / "build"))

VIRTIO = ("block", "console", "net", "rng")


def listens(path):
    """Whether a socket at path accepts connections: it exists a moment before it does."""
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines():
        fields = line.split()
        if fields[-1] == str(path) and fields[3] == "00010000":
            return True
    return False


class Server:
    """A running server, its log, and what it holds."""

    def __init__(self, argv, path, log, client=Client, pass_fds=(), stdout=None, own_sockets=0):
        self.path = path
        self.make_client = client
        self.log_path = log
        self.own_sockets = own_sockets  # to others than clients
        self.sanitized = b"__asan_init" in pathlib.Path(argv[0]).read_bytes()
        with open(log, "wb") as stderr:
            self.process = subprocess.Popen([str(a) for a in argv], stderr=stderr, stdout=stdout,
                                            pass_fds=pass_fds)
        try:
            self.wait_for_start()
        except BaseException:
            self.kill()
            raise

    def wait_for_start(self):
        if self.path:
            wait_until(lambda: listens(self.path) or self.process.poll() is not None,
                       "the server did not start")
        assert self.process.poll() is None, self.log()
        if self.path:
            # It answers once it is set up; then it holds what it will hold while it is idle.
            self.client().close()
            wait_until(lambda: self.settled() and self.still(),
                       "the first client's end is not noticed")

    def settled(self):
        """Nobody is connected any more."""
        try:
            links = [os.readlink(f"/proc/{self.process.pid}/fd/{fd}")
                     for fd in os.listdir(f"/proc/{self.process.pid}/fd")]
        except FileNotFoundError:
            return False  # one was closed while we looked
        return sum(link.startswith("socket:") for link in links) == 1 + self.own_sockets

    def still(self):
        """Sockets are closed first: is something else being closed yet?"""
        return len({self.fds() for _ in range(20)}) == 1

    def log(self):
        return self.log_path.read_text()

    def client(self, **kwargs):
        return self.make_client(self.path, **kwargs)

    def fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    # A sanitizer keeps freed memory for a while, on purpose: what is held then says nothing.

    def mappings(self):
        if self.sanitized:
            return 0
        return len(pathlib.Path(f"/proc/{self.process.pid}/maps").read_text().splitlines())

    def resident_kib(self):
        if self.sanitized:
            return 0
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError

    def cpu_ticks(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1]
        return sum(int(f) for f in fields.split()[11:13])

    def wait_for_log(self, text, times=1):
        wait_until(lambda: self.log().count(text) >= times or self.process.poll() is not None,
                   f"no line with {text!r}")
        assert self.log().count(text) >= times

    def settled_fds(self, expected):
        """Fewer are fine: when `expected` was counted, a client's last may have been open still."""
        wait_until(lambda: self.fds() <= expected,
                   f"the server does not come back to {expected} descriptors")

    def kill(self):
        self.process.kill()
        self.process.wait(DEADLINE)

    def stop(self):
        """Ends it the polite way and checks that it was healthy to the last."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(DEADLINE)
        log = self.log()
        assert "Sanitizer" not in log and "runtime error" not in log, log
        assert code == 0, f"exit {code}:\n{log}"
        if self.path:
            assert not self.path.exists(), "the socket was left behind"


@pytest.fixture(scope="session")
def programs():
    found = {**{model: BUILD / "src" / "outboard-device" for model in ("gpio", *VIRTIO)},
             "probe": BUILD / "tests" / "wire" / "probe_device",
             "echo": BUILD / "tests" / "wire" / "echo_device"}
    for path in found.values():
        if not path.exists():
            pytest.fail(f"{path} is not there: build first, or set OUTBOARD_BUILD")
    return found


@pytest.fixture
def start(programs, tmp_path):
    """start("gpio", "--loopback"), start("probe", patience_ms=...); stopped, and checked, at the end."""
    running = []

    def starter(kind, *options, patience_ms=5000, listen=True, **kwargs):
        n = len(running)
        path = tmp_path / f"{kind}{n}.sock" if listen else None
        if kind in ("gpio", *VIRTIO):
            argv = [programs[kind], kind, "-v", *options]
            if listen:
                argv.append(f"--socket-path={path}")
        else:
            argv = [programs[kind], path, patience_ms]
        client = FrontEnd if kind in (*VIRTIO, "echo") else Client
        server = Server(argv, path, tmp_path / f"{kind}{n}.log", client, **kwargs)
        running.append(server)
        return server

    yield starter
    try:
        for server in running:
            if server.process.poll() is None or server.process.returncode >= 0:
                server.stop()
    finally:
        # Whatever went wrong with one of them, none is left behind.
        for server in running:
            server.kill()


@pytest.fixture
def gpio(start):
    return start("gpio", "--loopback")


@pytest.fixture
def probe(start):
    return start("probe")


@pytest.fixture
def short_probe(start):
    """A probe that loses its patience after 200 ms."""
    return start("probe", patience_ms=200)


@pytest.fixture
def echo(start):
    return start("echo")


@pytest.fixture
def short_echo(start):
    """An echo device that loses its patience after 200 ms."""
    return start("echo", patience_ms=200)


@pytest.fixture
def rng(start):
    return start("rng")


@pytest.fixture(autouse=True)
def no_leak_in_the_tests():
    before = len(os.listdir("/proc/self/fd"))
    yield
    import gc
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 8, "the test itself leaks descriptors"
