"""Programs under test as a test sees them: lines that come out, lines that go in, and an end.

Nothing here waits for a time. Every wait is for a line, a descriptor or an end, with a deadline
that is only there so that a failure ends too; OUTBOARD_DEADLINE (seconds) makes it longer on slow
machines.
"""

import collections
import os
import pathlib
import re
import select
import signal
import subprocess
import threading
import time

TREE = pathlib.Path(__file__).resolve().parents[2]
DEADLINE = float(os.environ.get("OUTBOARD_DEADLINE", "120"))


class Lines:
    """The lines of a descriptor, read by a thread of their own as they come."""

    def __init__(self, fd, name):
        self.fd = fd
        self.name = name
        self.lines = []
        self.ended = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        rest = b""
        while True:
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # the other end of a pty is gone
                data = b""
            *whole, rest = (rest + data).split(b"\n")
            if not data and rest:
                whole.append(rest)
            with self.changed:
                self.lines += [line.decode(errors="replace").rstrip("\r") for line in whole]
                self.ended = not data
                self.changed.notify_all()
            if not data:
                return

    def wait(self, pattern, start=0, deadline=None):
        """The index and match of the first line from `start` on that holds the pattern."""
        limit = time.monotonic() + (deadline or DEADLINE)
        expression = re.compile(pattern)
        with self.changed:
            while True:
                for index in range(start, len(self.lines)):
                    match = expression.search(self.lines[index])
                    if match:
                        return index, match
                start = max(start, len(self.lines))
                left = limit - time.monotonic()
                if self.ended or left <= 0 or not self.changed.wait(left):
                    why = "ended" if self.ended else "is silent"
                    raise AssertionError(f"{self.name} {why} without {pattern!r}\n{self.text()}")

    def join(self):
        self.thread.join(DEADLINE)
        return self.lines

    def text(self):
        return "\n".join(f"{self.name}| {line}" for line in self.lines[-60:])


def children_of(pid):
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text(encoding="ascii").rpartition(") ")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        if parent == pid:
            found.append(int(entry.parent.name))
    return found


class Program:
    """A child process; `out` and `err` are Lines. It is killed, by its pid, when its test ends."""

    def __init__(self, name, command, stdin=subprocess.PIPE, pass_fds=()):
        self.name = name
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        self.pid = self.process.pid
        self.out = Lines(self.process.stdout.fileno(), name)
        self.err = Lines(self.process.stderr.fileno(), f"{name} (stderr)")

    def send(self, line):
        os.write(self.process.stdin.fileno(), line.encode() + b"\n")

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, deadline=None):
        try:
            code = self.process.wait(deadline or DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end\n{self.said()}") from None
        self.out.join()
        self.err.join()
        return code

    def said(self):
        return f"{self.out.text()}\n{self.err.text()}"

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.out.join()
        self.err.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()

    # --- what the kernel says about it ---

    def children(self):
        return children_of(self.pid)

    def fds(self):
        """How many descriptors of each kind it has open."""
        kinds = collections.Counter()
        for entry in os.scandir(f"/proc/{self.pid}/fd"):
            try:
                kinds[re.sub(r"\d+", "N", os.readlink(entry.path))] += 1
            except FileNotFoundError:  # closed meanwhile
                pass
        return kinds

    def memory_kib(self):
        """Memory of its own, guest RAM not counted."""
        total = 0
        counted = False
        for line in open(f"/proc/{self.pid}/smaps", encoding="ascii"):
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                counted = "guest-ram" not in line
            elif counted and line.startswith(("Private_Dirty:", "Private_Clean:")):
                total += int(line.split()[1])
        return total

    def sanitized(self):
        """A sanitizer's own memory grows; the address sanitizer finds leaks by itself."""
        with open(f"/proc/{self.pid}/maps", encoding="ascii") as maps:
            return re.search("lib[at]san", maps.read())

    def mappings(self):
        with open(f"/proc/{self.pid}/maps", encoding="ascii") as maps:
            return len(maps.readlines())


class Vmm(Program):
    """outboard with the test guest in it. Lines on COM1 are `out`, the log is `err`."""

    def __init__(
        self,
        build,
        test,
        *arguments,
        image="guest.bzimage",
        boot="--kernel",
        words="",
        memory="64M",
        cpus="1",
        serial="tty",
        verbose=1,
        **keywords,
    ):
        super().__init__(
            "guest",
            [
                build / "src" / "outboard",
                *["-v"] * verbose,
                boot, build / "tests" / "guest" / image,
                *(["--cmdline", f"test={test} {words}".strip()] if boot == "--kernel" else []),
                "--memory", f"size={memory}",
                "--cpus", cpus,
                "--serial", serial,
                "--console", "off",
                *arguments,
            ],
            **keywords,
        )

    def tap(self, lines=None, start=0):
        """Check the guest's report: every result good, and as many as planned. Gives the lines."""
        lines = (self.out.lines if lines is None else lines)[start:]
        bad = [line for line in lines if line.startswith("not ok")]
        assert not bad, "\n".join(bad) + "\n" + self.said()
        good = sum(line.startswith("ok ") for line in lines)
        plans = [int(m[1]) for m in (re.fullmatch(r"1\.\.(\d+)", line) for line in lines) if m]
        assert plans == [good] and good, f"planned {plans}, got {good}\n{self.said()}"
        return lines

    def passes(self):
        """The test ends by itself, well, and the machine with it."""
        code = self.wait()
        lines = self.tap()
        assert code == 0, f"exit status {code}\n{self.said()}"
        return lines


def readable(fd, deadline=None):
    """Wait until there is something to read, or to accept."""
    ready, _, _ = select.select([fd], [], [], deadline or DEADLINE)
    return bool(ready)


def is_stopped(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return stat.read().rpartition(") ")[2][0] == "T"


def stop(program):
    """SIGSTOP, and wait until it stands: the kernel tells its parent."""
    program.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
    assert is_stopped(program.pid)
