"""A disk served from within another guest (virtio-vhost-user), beside the same program over its socket: outer half."""

import os
import shutil
import statistics
import tempfile

from host import run
from lab import counts, in_l1, linux, output_of, request_of

# The same program in another guest may cost that much more: 0.8 of the operations a second.
BAR = 1 / 0.8
KINDS = tuple((op, depth) for depth in (1, 32) for op in ("read", "write"))

SERVING = """
d=/sys/bus/pci/devices/0000:00:10.0
echo vfio-pci >$d/driver_override
[ ! -e $d/driver ] || echo 0000:00:10.0 >$d/driver/unbind
echo 0000:00:10.0 >/sys/bus/pci/drivers_probe
truncate -s 16M /tmp/image
echo serving
exec outboard-device block --vfio=0000:00:10.0 --file=/tmp/image
"""


def static_device(programs):
    """A program that an initramfs without libraries can run, in a build of its own."""
    build = os.environ.get("OUTBOARD_STATIC_BUILD") or os.path.join(programs.build, "static")
    if not os.path.exists(os.path.join(build, "build.ninja")):
        run(["/usr/bin/meson", "setup", build, programs.tree, "-Dstatic=true", "-Dtests=false", "-Dbench=false",
             "-Dman=disabled"])
    run(["/usr/bin/meson", "compile", "-C", build], timeout=900)
    return os.path.join(build, "src", "outboard-device")


def images(programs, folder):
    """The initramfs of the guest that serves, and of the one that has the disk."""
    serving, loading, script = (os.path.join(folder, name) for name in ("serving.cpio", "loading.cpio", "script"))
    with open(script, "w", encoding="utf-8") as file:
        file.write(SERVING)
    output_of([os.path.join(programs.tree, "lab", "mkguest"), "--file", static_device(programs), serving, script])
    output_of([os.path.join(programs.tree, "lab", "mkcpio"), loading, programs.disk_guest])
    return {"serving": serving, "loading": loading}


def per_request(steps, way, kind):
    """Nanoseconds of a request, for each run."""
    name = f"{way}/{kind[0]}/{kind[1]}"
    return [step["ns"] / step["requests"] for step in steps if step["step"] == name]


def times(report, steps):
    report.heading("A disk served from within another guest, in the lab: time of a request of 4 KiB, beside the same "
                   "program over its socket")
    for op, depth in KINDS:
        ours, peer = (per_request(steps, way, (op, depth)) for way in ("vvu", "socket"))
        us, peer_us = statistics.median(ours) / 1000, statistics.median(peer) / 1000
        report.add(f"vvu/{op}/{depth}", f"{op}, depth {depth}", us, "us", peer=("the socket", peer_us), bar=("ratio", BAR),
                   detail=f"{1e6 / us:.0f} a second, {1e6 / peer_us:.0f} over the socket", samples=ours)


def calls(report, steps):
    report.heading("System calls of the VMM of the guest that serves, while the other one works (strace of all threads)")
    seen = [step for step in steps if step["step"] == "vvu/calls"]
    if not seen:
        report.skip("vvu/calls", "no strace here")
        return
    worst = max(seen, key=lambda step: step["calls"])
    report.add("vvu/calls", f"of {worst['requests']} requests", worst["calls"] / worst["requests"], "a request",
               bar=("value", 0.001), detail=f"{worst['calls']} in all", samples=[step["calls"] for step in seen])


def instructions(report, steps, errors):
    report.heading("Instructions of a request, of both guests and all of their machine, one CPU (user space in brackets)")
    got = counts(steps, errors)
    requests = {step["step"]: step["requests"] for step in steps}
    for op, depth in KINDS:
        both = {}
        for way in ("vvu", "socket"):
            name = f"{way}/{op}/{depth}"
            user = statistics.median(user for user, _ in got[name]) / requests[name]
            both[way] = statistics.median(sum(pair) for pair in got[name]) / requests[name], user
        (ours, user), (peer, peer_user) = both["vvu"], both["socket"]
        report.add(f"vvu/instructions/{op}/{depth}", f"{op}, depth {depth}", ours, "instructions",
                   peer=("the socket", peer), bar=("ratio", BAR), detail=f"[{user:.0f}; {peer_user:.0f} over the socket]",
                   user=round(user, 1), peer_user=round(peer_user, 1))


def vvu(programs, report, repeats):
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        request = request_of(programs, what="vvu", repeats=repeats, requests=400, strace=shutil.which("strace") or "",
                             **linux(programs, folder), **images(programs, folder))
        # One CPU: with two, most of the time is this machine's, to wake the thread of a CPU that was idle.
        steps, _ = in_l1(programs, ["--cpus", "1", "--memory", "3072"], request)
        times(report, steps)
        calls(report, steps)
        request.update(repeats=1, strace="")
        steps, errors = in_l1(programs, ["--cpus", "1", "--memory", "3072", "--plugin", programs.icount], request)
        instructions(report, steps, errors)
