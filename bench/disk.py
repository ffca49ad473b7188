"""A disk over vhost-user beside qemu-storage-daemon: operations a second, and what each costs the server."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from host import Failure, interleave, json_lines, run

IMAGE = 512 << 20
# Ours in parts of the peer's: time of an operation (1.2 times as many of them), and CPU time.
BAR_TIME, BAR_CPU = 1 / 1.2, 1.0
BAR_PRIVATE_MIB = 2

STORES = {
    "null": "nothing behind it",
    "buffered": "a file on tmpfs",
    "direct": "the same file, O_DIRECT",
}


def find_peer(programs):
    """qemu-storage-daemon: the lab's, made if need be, or the machine's own."""
    setup = os.path.join(programs.tree, "lab", "setup")
    try:
        run([setup, "peers"], timeout=600)
        path = os.path.join(run([setup, "--path", "peers"]).splitlines()[0].strip(), "bin", "qemu-storage-daemon")
        if os.access(path, os.X_OK):
            return path
    except Failure:
        pass
    return shutil.which("qemu-storage-daemon")


def our_command(programs, store, image, path):
    file = {"null": f"null:{IMAGE}"}.get(store, image)
    return [programs.device, "block", f"--socket-path={path}", f"--file={file}",
            *(["--direct"] if store == "direct" else [])]


def peer_command(peer, store, image, path):
    node = f"driver=null-co,node-name=disk,size={IMAGE}"
    if store != "null":
        direct = "on" if store == "direct" else "off"
        node = (f"driver=raw,node-name=disk,cache.direct={direct},file.driver=file,file.filename={image},"
                f"file.aio=io_uring,file.cache.direct={direct}")
    return [peer, "--blockdev", node, "--object", "iothread,id=thread0", "--export",
            f"vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={path},iothread=thread0,writable=on"]


@contextlib.contextmanager
def serving(make_command, cpu=None):
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        path = os.path.join(folder, "socket")
        command = make_command(path)
        pin = None if cpu is None else lambda: os.sched_setaffinity(0, {cpu})
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              preexec_fn=pin) as process:
            try:
                await_socket(process, path)
                yield path, process.pid
            finally:
                process.send_signal(signal.SIGTERM)


def await_socket(process, path):
    end = time.monotonic() + 20
    while not os.path.exists(path):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise Failure(f"{process.args[0]} does not serve: {process.stderr.read().strip()}")
        time.sleep(0.01)


def make_image(folder):
    path = os.path.join(folder, "image")
    with open(path, "wb") as file:
        chunk = os.urandom(1 << 20)
        for _ in range(IMAGE >> 20):
            file.write(chunk)
    return path


def can_direct(image):
    with contextlib.suppress(OSError):
        os.close(os.open(image, os.O_RDWR | os.O_DIRECT))
        return True
    return False


class Disk:
    def __init__(self, bench):
        self.bench, self.programs, self.report = bench, bench.programs, bench.report
        self.seconds = bench.few(0.3, 1.0)
        self.repeats = bench.few(1, 5)
        self.cpus = self.report.machine["usable_cpus"]
        self.peer = find_peer(self.programs)

    def sample(self, make_command, options, cpu=None):
        with serving(make_command, cpu) as (path, pid):
            out = run([self.programs.blk_client, f"--socket-path={path}", f"--pid={pid}", f"--cpu={self.cpus[0]}",
                       f"--seconds={self.seconds}", *options])
        line = json_lines(out)[0]
        line["us_op"] = 1e6 / line["ops_s"]
        return line

    def cell(self, name, store, image, label, options, cpu=None):
        """One line for each server, and one more for what an operation costs."""
        commands = {"ours": lambda path: our_command(self.programs, store, image, path)}
        if self.peer:
            commands["peer"] = lambda path: peer_command(self.peer, store, image, path)
        samples = interleave({who: lambda make=make: self.sample(make, options, cpu) for who, make in commands.items()},
                             self.repeats)
        ours, peer = samples["ours"], samples.get("peer")
        for key, unit, what, bar in (("us_op", "us", label, BAR_TIME), ("cpu_us_op", "us CPU", "", BAR_CPU)):
            detail = ""
            if key == "us_op":
                detail = f"{ours.median('ops_s'):.0f} operations a second, p50 {ours.median('p50_us'):.1f} us"
                if peer:
                    detail += f" (the peer {peer.median('ops_s'):.0f}, {peer.median('p50_us'):.1f} us)"
            self.report.add(f"{name}/{key}", what, ours.median(key), unit, samples=ours.all(key), noisy=ours.noisy,
                            others=ours.others, peer=("QSD", peer.median(key)) if peer else None,
                            bar=("ratio", bar) if peer else None, detail=detail)

    def placements(self, depth):
        """At depth 1 both ends sleep in turn, so it matters whether they share a CPU; deeper, they do not wait."""
        if depth > 1:
            return [("", None)]
        return [(", one CPU", self.cpus[0])] + [(", two CPUs", cpu) for cpu in self.cpus[1:2]]

    def store(self, store, image):
        self.report.heading(f"Disk, {STORES[store]}: time of one operation, and the server's CPU time for it")
        cells = [(f"{op} 4 KiB, depth {depth}", f"{op}-{depth}", depth, (f"--op={op}", f"--depth={depth}"))
                 for op in ("read", "write") for depth in (1, 32, 128)]
        if self.bench.quick:
            cells = cells[:2]
        elif store != "null":
            cells += [(f"{op} 128 KiB in sequence, depth 8", f"{op}-sequence", 8,
                       (f"--op={op}", "--bytes=131072", "--sequential", "--depth=8")) for op in ("read", "write")]
        for label, slug, depth, options in cells:
            for where, cpu in self.placements(depth):
                name = f"disk/{store}/{slug}{where.replace(', ', '-').replace(' ', '-').lower()}"
                self.cell(name, store, image, label + where, options, cpu)
                if store == "null" and "--op=read" in options:
                    self.cell(f"{name}-poll", store, image, f"{label}{where}, the client polls", [*options, "--poll"], cpu)

    def rest(self, image):
        """After requests of each size, with the client still connected."""
        self.report.heading("Disk, our server when its client asks for nothing more")
        options = ("--op=read", "--depth=128", "--idle")
        last = interleave({"ours": lambda: self.sample(
            lambda path: our_command(self.programs, "direct", image, path), options)}, self.repeats)["ours"]
        self.report.add("disk/idle", "CPU time of an idle second", last.median("idle_cpu") * 1e6, "us CPU",
                        samples=last.all("idle_cpu"), bar=("value", 500))
        self.report.add("disk/private", "private memory", last.median("private_kib") / 1024, "MiB",
                        samples=last.all("private_kib"), bar=("value", BAR_PRIVATE_MIB))

    def run(self):
        if not self.peer:
            self.report.skip("disk beside qemu-storage-daemon", "there is none here, and lab/setup peers failed")
        folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="bench.", dir=folder) as place:
            image = make_image(place)
            self.store("null", image)
            self.store("buffered", image)
            if can_direct(image):
                self.store("direct", image)
                self.rest(image)
            else:
                self.report.skip("disk/direct", "this kernel's tmpfs has no O_DIRECT")


def disk(bench):
    Disk(bench).run()
