"""What the benchmarks need of the machine: who it is, whether others keep it busy, and how to run things on it."""

import contextlib
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

# Others may use this much of one core before a sample counts as disturbed.
NOISE_LIMIT = 0.12
TICK = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """Something did not run; the text says what."""


def say(text):
    print(f"bench/run: {text}", file=sys.stderr, flush=True)


def first_line(path, key=None):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                if key is None or line.startswith(key):
                    return line.strip()
    except OSError:
        pass
    return ""


def describe():
    """Which machine this is, and under which load."""
    flags = first_line("/proc/cpuinfo", "flags").split()
    kvm = "none"
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        kvm = "hardware" if "vmx" in flags or "svm" in flags else "without hardware virtualisation"
    return {
        "cpu": first_line("/proc/cpuinfo", "model name").partition(":")[2].strip(),
        "cpus": os.cpu_count(),
        "usable_cpus": sorted(os.sched_getaffinity(0)),
        "kernel": os.uname().release,
        "virtual": "hypervisor" in flags,
        "kvm": kvm,
        "memory_mib": int(first_line("/proc/meminfo", "MemTotal").split()[1]) // 1024,
        "load": first_line("/proc/loadavg").split()[:3],
    }


# --- noise ---


def busy_seconds():
    """CPU time that anybody has used, stolen time included."""
    user, nice, system, _, _, irq, softirq, steal = map(int, first_line("/proc/stat").split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK


def own_seconds():
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


class Watch:
    """How much of a core others used in a with block, in which all children were waited for: .others"""

    def __enter__(self):
        self.others = 0.0
        self.begin = time.monotonic(), busy_seconds(), own_seconds()
        return self

    def __exit__(self, *_):
        wall, busy, own = (now - then for now, then in
                           zip((time.monotonic(), busy_seconds(), own_seconds()), self.begin))
        # The kernel counts by ticks: what is below one says nothing.
        self.others = max(0.0, busy - own - 1.5 / TICK) / wall


class Samples:
    """The samples of one cell: of those taken while others were quiet the median counts."""

    def __init__(self):
        self.taken = []  # (sample, others)

    def add(self, sample, others):
        self.taken.append((sample, others))

    def quiet(self):
        return [sample for sample, others in self.taken if others <= NOISE_LIMIT]

    @property
    def noisy(self):
        return len(self.quiet()) < max(1, len(self.taken) // 2 if len(self.taken) < 6 else 3)

    @property
    def others(self):
        return statistics.median(others for _, others in self.taken)

    def used(self):
        return [sample for sample, _ in self.taken] if self.noisy else self.quiet()

    def median(self, key):
        return statistics.median(sample[key] for sample in self.used())

    def all(self, key):
        return [round(sample[key], 4) for sample in self.used()]


def interleave(cells, repeats):
    """Run the cells {name: function} by turns until each has `repeats` quiet samples, at most twice as often."""
    samples = {name: Samples() for name in cells}
    for turn in range(2 * repeats):
        if turn >= repeats and all(len(s.quiet()) >= repeats for s in samples.values()):
            break
        for name, function in cells.items():
            if turn >= repeats and len(samples[name].quiet()) >= repeats:
                continue
            with Watch() as watch:
                sample = function()
            samples[name].add(sample, watch.others)
    return samples


# --- running things ---


class Programs:
    """Where the built programs are."""

    def __init__(self, tree, build):
        self.tree, self.build = tree, build
        self.outboard = self._find("src/outboard")
        self.device = self._find("src/outboard-device")
        self.launch = self._find("bench/launch")
        self.raw_kvm = self._find("bench/raw_kvm")
        self.plain_server = self._find("bench/plain_server")
        self.clients = {name: self._find(f"bench/{name}_client") for name in ("plain", "our")}
        self.blk_client = self._find("bench/blk_client")
        self.off = self._find("bench/off.bzimage")
        self.guest = self._find("bench/guest.bzimage")
        self.init = self._find("bench/init")
        self.vfio_guest = self._find("bench/vfio_guest")
        self.disk_guest = self._find("bench/disk_guest")
        self.icount = self._find("bench/icount.so")

    def _find(self, name):
        path = os.path.join(self.build, name)
        if not os.path.exists(path):
            raise Failure(f"{path} is missing; build it with: meson setup {self.build} && ninja -C {self.build}")
        return path


def pinned(cpu):
    return None if cpu is None else lambda: os.sched_setaffinity(0, {cpu})


def run(command, cpu=None, timeout=300):
    """The command's output; a failure is one of ours."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                          errors="replace", timeout=timeout, check=False, preexec_fn=pinned(cpu))
    if done.returncode:
        raise Failure(f"{os.path.basename(command[0])} failed with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@contextlib.contextmanager
def server(command, cpu=None):
    """A device process on a socket it inherits (--fd); gives the socket's path and, once it has ended, its output."""
    with tempfile.TemporaryDirectory(prefix="bench.") as folder, \
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        path = os.path.join(folder, "socket")
        listener.bind(path)
        listener.listen(4)
        process = subprocess.Popen([*command, f"--fd={listener.fileno()}"], pass_fds=[listener.fileno()],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=pinned(cpu))
        listener.close()
        state = Server(path, process)
        try:
            yield state
        finally:
            state.end()


class Server:
    """A running server; .output and .status once it has ended."""

    def __init__(self, path, process):
        self.path, self.process = path, process
        self.output = self.errors = ""

    def finish(self):
        """Wait for a server that ends with its client."""
        try:
            self.output, self.errors = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.process.args[0]} does not end with its client") from None

    def end(self):
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.output, self.errors = self.process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.output, self.errors = self.process.communicate()
