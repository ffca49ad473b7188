"""The GPIO card, and the program around it."""
import json
import os
import resource
import signal
import subprocess

import pytest

from vfio_user import *

OUT, IN, IRQ, FILTER, OUT_HIGH, IN_HIGH, STATUS, FILTER_LOW = range(8)


def reg(c, offset, value=None):
    if value is not None:
        c.write(2, offset, bytes([value]))
        return None
    return c.read(2, offset, 1)[0]


def test_outputs_read_back(start):
    with start("gpio").client() as c:
        for value in (0, 1, 0x80, 0xff, 0x5a):
            reg(c, OUT, value)
            reg(c, OUT_HIGH, value ^ 0xff)
            assert (reg(c, OUT), reg(c, OUT_HIGH)) == (value, value ^ 0xff)
            assert (reg(c, IN), reg(c, IN_HIGH)) == (0, 0)


def test_loopback_wires_outputs_to_inputs(gpio):
    with gpio.client() as c:
        reg(c, OUT, 0x08)
        reg(c, OUT_HIGH, 0x81)
        assert (reg(c, IN), reg(c, IN_HIGH)) == (0x08, 0x81)


@pytest.mark.parametrize("text,low,high", [("0x1234", 0x34, 0x12), ("ffff", 0xff, 0xff),
                                           ("0", 0, 0), ("0XaB", 0xab, 0)])
def test_inputs_can_be_fixed(start, text, low, high):
    with start("gpio", f"--inputs={text}").client() as c:
        reg(c, OUT, 0xff)
        assert (reg(c, IN), reg(c, IN_HIGH)) == (low, high)


def test_a_change_of_an_input_interrupts(gpio):
    fd = eventfd()
    with gpio.client() as c:
        c.set_irqs(EVENTFD | TRIGGER, fds=[fd])
        reg(c, OUT, 1)
        assert reg(c, STATUS) == 0 and not readable(fd, 0), "not before it is enabled"
        reg(c, IRQ)
        assert not readable(fd, 0), "enabling is no change"
        reg(c, OUT, 0)
        assert take(fd) == 1 and reg(c, STATUS) == 0x05
        reg(c, OUT_HIGH, 0x10)
        assert reg(c, STATUS) == 0x07
        reg(c, IN, 0)
        assert reg(c, STATUS) == 0
        c.set_irqs(NONE | UNMASK)
        assert not readable(fd, 0), "cleared before it was unmasked"
        reg(c, OUT_HIGH, 0)
        assert take(fd) == 1 and reg(c, STATUS) == 0x06
        c.set_irqs(NONE | UNMASK)
        assert take(fd) == 1, "not cleared: still high"
        reg(c, IRQ, 0)
        c.set_irqs(NONE | UNMASK)
        assert not readable(fd, 0), "disabled"
        assert reg(c, STATUS) == 0x06, "which does not clear it"
        reg(c, IRQ)
        assert take(fd) == 1, "nor does enabling"
    os.close(fd)


def test_the_same_level_again_is_no_change(gpio):
    with gpio.client() as c:
        reg(c, OUT, 3)
        reg(c, IRQ)
        reg(c, OUT, 3)
        assert reg(c, STATUS) == 0


def test_filters(gpio):
    with gpio.client() as c:
        reg(c, FILTER_LOW, 0x3c)
        assert reg(c, FILTER_LOW) == 0x3c
        reg(c, FILTER)
        assert reg(c, FILTER_LOW) == 0xff
        reg(c, FILTER, 0)
        assert reg(c, FILTER_LOW) == 0


def test_a_reset_lowers_everything(gpio):
    fd = eventfd()
    with gpio.client() as c:
        c.set_irqs(EVENTFD | TRIGGER, fds=[fd])
        reg(c, IRQ)
        reg(c, OUT, 0xff)
        take(fd)
        c.reset()
        assert c.read(2, 0, 8)[:2] + c.read(2, 4, 3) == b"\0" * 5
        c.set_irqs(NONE | UNMASK)
        assert not readable(fd, 0)
    os.close(fd)


def test_wide_accesses_are_a_row_of_bytes(gpio):
    with gpio.client() as c:
        c.write(2, 0, b"\x12\xff\0\0\x34\0\0\0")
        assert c.read(2, 0, 6)[::4] == b"\x12\x34"
        assert c.read(2, 0, 256)[8:] == b"\0" * 248
        c.write(2, 0, b"\xff" * 256)


def test_the_sample_pattern(start):
    """What a guest sees of libvfio-user's example: facts about both of its versions."""
    with start("gpio", "--sample").client() as c:
        assert [reg(c, OUT) & 1 for _ in range(12)] == [0, 0, 0, 1, 1, 1] * 2
        assert (reg(c, IN), reg(c, IN_HIGH)) == (0xff, 0xff)
        seen = []
        for value in (0, 1, 0, 1, 0, 1, 0, 1):
            reg(c, OUT, value)
            seen.append(reg(c, IN) & 1)
        assert seen == [1, 0, 0, 0, 0, 1, 1, 0]


# Watching


def lines(stream, n):
    found = []
    while len(found) < n:
        assert readable(stream.fileno(), DEADLINE), f"only {found}"
        found.append(stream.readline().decode().strip())
    return found


def test_watch_prints_each_change(start):
    server = start("gpio", "--loopback", "--watch", stdout=subprocess.PIPE)
    out = server.process.stdout
    server.process.stdout = open(out.fileno(), "rb", buffering=0, closefd=False)
    with server.client() as c:
        reg(c, OUT, 0x08)
        assert lines(server.process.stdout, 2) == ["OUT3 1", "IIN3 1"]
        reg(c, OUT_HIGH, 0x80)
        assert lines(server.process.stdout, 2) == ["OUT15 1", "IIN15 1"]
        reg(c, OUT, 0x08)
        reg(c, OUT, 0x10)
        assert lines(server.process.stdout, 4) == ["OUT3 0", "OUT4 1", "IIN3 0", "IIN4 1"]
        c.reset()
        assert lines(server.process.stdout, 4) == ["OUT4 0", "OUT15 0", "IIN4 0", "IIN15 0"]
    out.close()


def test_a_watcher_that_does_not_read_holds_nobody_up(start):
    server = start("gpio", "--watch", stdout=subprocess.PIPE)
    with server.client() as c:
        for i in range(30000):
            c.write(2, 0, bytes([i & 0xff]), flags=NO_REPLY)
            if i % 64 == 0:
                c.info()
        assert reg(c, OUT) == 29999 & 0xff
    server.process.stdout.close()


def test_a_watcher_that_has_left_ends_the_watching_only(start):
    server = start("gpio", "--watch", stdout=subprocess.PIPE)
    server.process.stdout.close()
    with server.client() as c:
        for i in range(10):
            reg(c, OUT, i)
        assert reg(c, OUT) == 9
    server.wait_for_log("--watch ends")


# The state file


def test_a_killed_process_leaves_its_pins_to_the_next(start, tmp_path):
    state = tmp_path / "state"
    for value in range(1, 30):
        server = start("gpio", "--loopback", f"--state={state}")
        with server.client() as c:
            if value > 1:
                assert c.read(2, 0, 6)[::4] == bytes([value - 1, 256 - (value - 1)])
                assert reg(c, STATUS) == 0x07
            reg(c, IRQ)
            reg(c, OUT, value)
            reg(c, OUT_HIGH, 256 - value)
            server.kill()
    assert [p.name for p in tmp_path.iterdir() if "new" in p.name] == []
    saved = json.loads(state.read_text())
    assert saved["version"] == 1 and saved["outputs"] == 29 | (256 - 29) << 8


def test_killed_at_any_moment_the_file_is_whole(start, tmp_path):
    state = tmp_path / "state"
    for round_ in range(30):
        server = start("gpio", f"--state={state}")
        with server.client() as c:
            last = 0
            for i in range(200):
                c.write(2, 0, bytes([i]), flags=NO_REPLY)
                if i == 3 * round_:
                    last = reg(c, OUT)
            server.kill()
        saved = json.loads(state.read_text())
        assert saved["outputs"] >= last, "what was acknowledged is there"


def test_a_pending_interrupt_survives_too(start, tmp_path):
    state = tmp_path / "state"
    server = start("gpio", "--loopback", f"--state={state}")
    with server.client() as c:
        reg(c, IRQ)
        reg(c, OUT, 1)
        server.kill()
    fd = eventfd()
    with start("gpio", "--loopback", f"--state={state}").client() as c:
        c.set_irqs(EVENTFD | TRIGGER, fds=[fd])
        assert take(fd) == 1
    os.close(fd)


def test_other_wires_after_a_restart_are_a_change(start, tmp_path):
    state = tmp_path / "state"
    server = start("gpio", "--inputs=0001", f"--state={state}")
    with server.client() as c:
        reg(c, IRQ)
    server.stop()
    with start("gpio", "--inputs=0101", f"--state={state}").client() as c:
        assert reg(c, STATUS) == 0x06


@pytest.mark.parametrize("content,says", [
    (b"", "not JSON"), (b"{}", "a key is missing"), (b"\0" * 70000, "too long"),
    (b'{"model":"gpio","version":1}', "a key is missing")], ids=range(4))
def test_a_state_file_that_is_none_stops_the_start(programs, tmp_path, content, says):
    state = tmp_path / "state"
    state.write_bytes(content)
    code, err = run(programs, "gpio", f"--socket-path={tmp_path}/s", f"--state={state}")
    assert code == 1 and says in err and str(state) in err
    assert state.read_bytes() == content
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("make,says", [
    (lambda p: p.mkdir(), "not a regular file"),
    (lambda p: os.mkfifo(p), "not a regular file"),
    (lambda p: p.symlink_to("/nonexistent/dir/x"), "")])
def test_a_state_that_is_no_file(programs, tmp_path, make, says):
    state = tmp_path / "state"
    make(state)
    if says:
        code, err = run(programs, "gpio", f"--socket-path={tmp_path}/s", f"--state={state}")
        assert code == 1 and says in err


def test_a_state_that_cannot_be_written_is_known_at_once(programs, tmp_path):
    for where in ("/nonexistent/state", "/proc/state", f"{tmp_path}/"):
        code, err = run(programs, "gpio", f"--socket-path={tmp_path}/s", f"--state={where}")
        assert code == 1 and "state" in err and err.count("\n") == 1


def test_a_state_that_cannot_be_written_any_more_stops_nothing(start, tmp_path):
    state = tmp_path / "state"
    server = start("gpio", f"--state={state}")
    before = state.read_bytes()
    with server.client() as c:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (100, 100))
        for value in range(50):
            reg(c, OUT, value)
        assert reg(c, OUT) == 49
        assert state.read_bytes() == before, "the last whole one"
    assert sorted(p.name for p in tmp_path.iterdir() if "state" in p.name) == ["state"]
    # The log is a file as well, so it says nothing either; the device has only to go on.
    with server.client() as c:
        assert reg(c, OUT) == 49


def test_a_state_directory_that_is_gone_stops_nothing(start, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    server = start("gpio", f"--state={place}/state")
    with server.client() as c:
        (place / "state").unlink()
        place.rmdir()
        for value in range(50):
            reg(c, OUT, value)
        assert reg(c, OUT) == 49
    server.wait_for_log("state file state: cannot be written")
    assert server.log().count("cannot be written") <= 6


# The command line


def run(programs, *args):
    done = subprocess.run([programs["gpio"], *args], stderr=subprocess.PIPE,
                          stdout=subprocess.DEVNULL, timeout=DEADLINE, check=False)
    return done.returncode, done.stderr.decode()


SOCKET = "--socket-path=/nonexistent/x"


@pytest.mark.parametrize("args,says", [
    ([], "expected a model"),
    (["nvme2"], "unknown model 'nvme2', expected one of: block, console, gpio, net, rng, vsock"),
    (["gpio"], "expected either --socket-path=PATH or --fd=N"),
    (["gpio", SOCKET, "--fd=3"], "expected either --socket-path=PATH or --fd=N"),
    (["gpio", "--vfio=00:10.0"], "--vfio: gpio is no virtio device"),
    (["rng"], "exactly one of --socket or --vfio is required (or --fd)"),
    (["rng", SOCKET, "--vfio=00:10.0"], "exactly one of --socket or --vfio is required"),
    (["rng", "--vfio=x"], "--vfio: 'x', expected a PCI address, as 0000:00:10.0"),
    (["rng", "--vfio=ffff:ff:1f.7"], "there is no PCI device ffff:ff:1f.7"),
    (["gpio", "--socket-path="], "socket path is empty"),
    (["gpio", "--socket-path=" + "x" * 108], "a UNIX socket's may have 107"),
    (["gpio", "--fd=x"], "--fd: 'x', expected a descriptor's number"),
    (["gpio", "--fd=-1"], "expected a descriptor's number"),
    (["gpio", "--fd=99999999999999999999"], "expected a descriptor's number"),
    (["gpio", "--fd=777"], "--fd: descriptor 777 is not open"),
    (["gpio", "--fd=0"], "is a standard stream"),
    (["gpio", SOCKET, "--inputs=10000"], "--inputs: '10000': expected one to four"),
    (["gpio", SOCKET, "--inputs="], "expected one to four hexadecimal digits"),
    (["gpio", SOCKET, "--inputs=0x"], "expected one to four hexadecimal digits"),
    (["gpio", SOCKET, "--inputs=-1"], "expected one to four hexadecimal digits"),
    (["gpio", SOCKET, "--loopback", "--sample"], "exclude each other"),
    (["gpio", SOCKET, "--loopback=1"], "unknown option, or a value for one that has none"),
    (["gpio", SOCKET, "--wrong"], "--wrong: unknown option"),
    (["gpio", SOCKET, "--inputs"], "expected a value"),
    (["gpio", SOCKET, "--seccomp=maybe"], "'maybe', expected true, false"),
    (["gpio", SOCKET, SOCKET], "--socket-path is given twice"),
    (["gpio", SOCKET, "extra"], "unexpected argument 'extra'"),
    (["gpio", SOCKET], "cannot listen at /nonexistent/x"),
    (["gpio", "--socket-path=/etc/passwd"], "exists and is not a socket"),
    (["gpio", SOCKET, "--log-file=/nonexistent/log"], "--log-file /nonexistent/log"),
])
def test_refusals_are_one_line(programs, args, says):
    code, err = run(programs, *args)
    assert code in (1, 2)
    assert says in err and err.startswith("outboard-device: ")
    assert err.count("\n") == 1 and err.endswith("\n")


def test_a_descriptor_that_is_no_stream_socket(programs, tmp_path):
    pipe = os.pipe()
    dgram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for fd, says in ((pipe[0], "is not a socket"), (dgram.fileno(), "not a UNIX stream socket")):
        done = subprocess.run([programs["gpio"], "gpio", f"--fd={fd}"], pass_fds=[fd],
                              stderr=subprocess.PIPE, timeout=DEADLINE, check=False)
        assert done.returncode == 1 and says in done.stderr.decode()
    os.close(pipe[0])
    os.close(pipe[1])
    dgram.close()


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["gpio", "--help"]])
def test_help_names_every_option(programs, args):
    text = subprocess.run([programs["gpio"], *args], stdout=subprocess.PIPE,
                          check=True).stdout.decode()
    for option in ("--socket-path=PATH", "--fd=N", "--state=FILE", "--seccomp=MODE",
                   "--log-file=FILE", "--verbose", "--print-capabilities", "--help", "--version",
                   "--loopback", "--inputs=HEX", "--sample", "--watch"):
        assert option in text
    assert max(map(len, text.splitlines())) <= 100


def test_version_and_capabilities(programs):
    text = subprocess.run([programs["gpio"], "--version"], stdout=subprocess.PIPE,
                          check=True).stdout.decode()
    assert text.startswith("outboard-device ") and text.count("\n") == 1
    text = subprocess.run([programs["gpio"], "gpio", "--print-capabilities"],
                          stdout=subprocess.PIPE, check=True).stdout
    caps = json.loads(text)
    assert caps["type"] == "gpio" and caps["protocols"] == ["vfio-user"]
    assert caps["options"] == ["loopback", "inputs", "sample", "watch"]


def test_a_log_file_takes_the_lines(start, tmp_path):
    log = tmp_path / "log"
    server = start("gpio", f"--log-file={log}")
    with server.client():
        pass
    wait_until(lambda: "client has left" in log.read_text(), "no line in the log file")
    assert server.log() == ""


# The sandbox


def status(server, key):
    for line in open(f"/proc/{server.process.pid}/status"):
        if line.startswith(key + ":"):
            return line.split(":")[1].strip()
    raise AssertionError(key)


def test_privileges_are_given_up_before_the_first_client(start):
    server = start("gpio")
    with server.client():
        assert status(server, "NoNewPrivs") == "1"
        assert int(status(server, "CapEff"), 16) == int(status(server, "CapPrm"), 16) == 0
        if not server.sanitized:
            assert status(server, "Seccomp") == "2"


def test_seccomp_can_be_switched_off(start):
    server = start("gpio", "--seccomp=false")
    with server.client():
        assert status(server, "Seccomp") == "0"
        assert status(server, "NoNewPrivs") == "1"


def test_the_filter_lets_all_commands_through(start, tmp_path, programs):
    """Every command once under the filter that kills: the fixture checks that it is still alive."""
    server = start("gpio", "--loopback", "--watch", f"--state={tmp_path}/state",
                   stdout=subprocess.DEVNULL)
    with server.client(caps=dict(ALL_CAPS, twin_socket={"supported": True})) as c:
        fd, efd = memfd(8192), eventfd()
        c.map(0, 8192, fd)
        c.set_irqs(EVENTFD | TRIGGER, fds=[efd])
        c.set_irqs(EVENTFD | UNMASK, fds=[efd])
        for index in range(9):
            c.region_info(index)
        for index in range(5):
            c.irq_info(index)
        reg(c, IRQ)
        reg(c, OUT, 1)
        c.set_irqs(NONE | UNMASK)
        c.unmap(0, 0, flags=2)
        c.reset()
        os.close(fd)
        os.close(efd)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(DEADLINE) == 0
