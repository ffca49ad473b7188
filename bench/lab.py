"""The part of the benchmarks that runs in the lab (lab/README.md): outside here, inside lab_side.py."""

import json
import os
import re
import statistics
import subprocess
import tempfile

from host import Failure, say

TEXT = "bench: user space"  # init.S
MARK_ENTRY = 4  # marker.h
MARK = re.compile(r"icount: mark (\d+) user (\d+) kernel (\d+)$")


def output_of(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                          errors="replace", check=False)
    if done.returncode:
        raise Failure(f"{os.path.basename(command[0])}: {done.stderr.strip()[-2000:]}")
    return done.stdout, done.stderr


def prepare(programs, *parts):
    setup = os.path.join(programs.tree, "lab", "setup")
    output_of([setup, "busybox", "qemu", *parts])
    return {part: output_of([setup, "--path", part])[0].strip() for part in ("qemu", "kernel")}


def in_l1(programs, options, request):
    """Run lab_side.py in L1; its JSON lines, and all of stderr."""
    inside = os.path.join(programs.tree, "bench", "lab_side.py")
    for attempt in range(3):
        try:
            out, errors = output_of([os.path.join(programs.tree, "lab", "run"), *options, "--timeout", "900", "--",
                                     "/usr/bin/python3", inside, json.dumps(request)])
            return [json.loads(line) for line in out.splitlines() if line.startswith("{")], errors
        except Failure as failure:
            # The emulated machine itself dies now and then: lab/README.md.
            if attempt == 2:
                raise
            say(f"once more, since {failure}")
    return None


def request_of(programs, **more):
    return {
        "outboard": programs.outboard, "device": programs.device, "launch": programs.launch,
        "raw_kvm": programs.raw_kvm, "plain_server": programs.plain_server, "clients": programs.clients,
        "off": programs.off, "guest": programs.guest, **more,
    }


def linux(programs, folder):
    """The small kernel, and an initramfs with nothing but init.S, for guests in L1."""
    paths = prepare(programs, "kernel")
    initramfs = os.path.join(folder, "bench.cpio")
    output_of([os.path.join(programs.tree, "lab", "mkcpio"), initramfs, programs.init])
    return {"text": TEXT, "initramfs": initramfs, "kernel": os.path.join(paths["kernel"], "bzImage"),
            "qemu": os.path.join(paths["qemu"], "bin", "qemu-system-x86_64")}


# --- to user space ---

VMMS = {"outboard": "outboard", "q35": "QEMU, q35", "microvm": "QEMU, microvm"}


def boot(programs, report, rounds):
    report.heading(f"To user space in the lab: the small kernel, 512 MiB, 1 vCPU, all in one L1 by turns "
                   f"(median of {rounds})")
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        lines, _ = in_l1(programs, [], request_of(programs, what="boot", rounds=rounds, **linux(programs, folder)))
    for line in lines:
        if "failed" in line:
            say(f"boot: {line['vmm']} did not get there once: {line['failed']}")
    got = {vmm: [line for line in lines if line["vmm"] == vmm and "failed" not in line] for vmm in VMMS}
    if not got["outboard"]:
        raise Failure("boot: outboard's guest never reached user space")
    for vmm in ("q35", "microvm"):
        if not got[vmm]:
            report.skip(f"boot/{vmm}", "its guest never reached user space")

    def show(name, key, scale, unit, bar=None):
        """A row for each VMM there is; ours beside q35's, and once more beside microvm's."""
        medians = {vmm: statistics.median(line[key] for line in lines) / scale for vmm, lines in got.items() if lines}
        for vmm in medians:
            if vmm != "outboard":
                report.add(f"{name}/{vmm}", VMMS[vmm], medians[vmm], unit, samples=[line[key] for line in got[vmm]])
        peers = [vmm for vmm in medians if vmm != "outboard"] or [None]
        for vmm in peers:
            report.add(name if vmm == peers[0] else f"{name}/beside-{vmm}", "outboard", medians["outboard"], unit,
                       samples=[line[key] for line in got["outboard"]], bar=bar,
                       peer=(VMMS[vmm], medians[vmm]) if vmm else None)

    show("boot", "text_ms", 1, "ms")
    report.heading("Private memory of the VMM, without the guest's RAM of 512 MiB: Linux in user space, in the same run")
    show("memory/linux", "private_kib", 1024, "MiB", ("value", 4))


# --- instructions ---


def median_counts(intervals, per=1):
    """The medians of user's and the kernel's instructions."""
    return tuple(statistics.median(counted) / per for counted in zip(*intervals))


def counts(steps, errors):
    """{step: [(user, kernel)]}: for each step its intervals, from the marks the plugin printed.

    Entries of guests count only in a step that expects them."""
    marks = [tuple(map(int, found.groups())) for found in map(MARK.search, errors.splitlines()) if found]
    result = {}
    for step in steps:
        for number in step["marks"]:
            while marks and marks[0][0] == MARK_ENTRY != number:
                marks.pop(0)
            if not marks:
                raise Failure(f"instructions: too few marks were counted: none is left for {step['step']}")
            mark, user, kernel = marks.pop(0)
            if mark != number:
                raise Failure(f"instructions: mark {mark} in {step['step']}, expected {number}")
            if number != 2:  # an interval ends here
                result.setdefault(step["step"], []).append((user, kernel))
    left = [mark for mark, _, _ in marks if mark != MARK_ENTRY]
    if left:
        raise Failure(f"instructions: {len(left)} marks more than expected were counted")
    return result


def instructions(programs, report, repeats):
    exits, rounds = 1000, 500
    report.heading("Instructions of user space, counted in the lab (one CPU, where nobody spins; kernel in brackets)")
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        steps, errors = in_l1(programs, ["--cpus", "1", "--plugin", programs.icount], request_of(
            programs, what="instructions", repeats=repeats, exits=exits, rounds=rounds, **linux(programs, folder)))
    got = counts(steps, errors)

    def show(name, label, step, per, peer_step=None, peer_name=None, pick=slice(None)):
        user = statistics.median(user for user, _ in got[step][pick]) / per
        kernel = statistics.median(kernel for _, kernel in got[step][pick]) / per
        peer = None
        if peer_step:
            peer = (peer_name, statistics.median(user for user, _ in got[peer_step][pick]) / per)
        report.add(f"instructions/{name}", label, user, "instructions", peer=peer, detail=f"[{kernel:.0f}]",
                   kernel=round(kernel, 1), samples=[user / per for user, _ in got[step][pick]])

    show("start/raw", "bare KVM loop, exec to first guest instruction", "start/raw", 1)
    show("start", "outboard, exec to first guest instruction", "start/outboard", 1, "start/raw", "the bare loop")
    for vmm, label in (("q35", "QEMU, q35, exec to init"), ("microvm", "QEMU, microvm, exec to init")):
        show(f"boot/{vmm}", label, f"boot/{vmm}", 1)
    show("boot", "outboard, exec to init", "boot/outboard", 1, "boot/microvm", "QEMU, microvm")
    # Each pass of the guest is a port loop and a memory loop; the first pass warms up.
    for at, kind in ((0, "port read"), (1, "memory read")):
        name = ("pio", "mmio")[at]
        show(f"exit/{name}/raw", f"bare KVM loop, {kind}", "exits/raw", exits, pick=slice(2 + at, None, 2))
        show(f"exit/{name}", f"outboard, {kind}", "exits/outboard", exits, "exits/raw", "the bare loop",
             pick=slice(2 + at, None, 2))
    for op, label, per in (("read", "register round trip", rounds), ("posted", "16 posted writes + 1 read", rounds)):
        for cell in ("plain-plain", "our-plain", "plain-our", "our-our"):
            client, device = cell.split("-")
            peer = (None, None) if cell == "plain-plain" else (f"{op}/plain-plain", "the plain pair")
            show(f"{op}/{cell}", f"{label}: {client} client, {device} server", f"{op}/{cell}", per, *peer)


# --- host devices ---

ROUNDS = 500  # vfio_guest.c
ACCESSES = (("config/emulated", "configuration space, read: vendor"), ("config/read", "configuration space, read: command"),
            ("config/write", "configuration space, write"), ("bar/read", "trapped BAR, read"), ("bar/write", "trapped BAR, write"))


def vfio(programs, report, repeats):
    """Host devices: the start with three of them, what attaching asks of the kernel, and an access."""
    ways, names = ("container", "iommufd"), {"outboard": "outboard", "qemu": "QEMU"}
    report.heading("Host devices in the lab: exec to the guest with an NVMe, an e1000e and an edu; user space's instructions "
                   "(kernel's in brackets)")
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        request = request_of(programs, what="vfio", repeats=repeats, strace="strace", **linux(programs, folder))
        request["vmlinux"] = os.path.join(os.path.dirname(request["kernel"]), "vmlinux")
        request["vfio_initramfs"] = os.path.join(folder, "vfio.cpio")
        output_of([os.path.join(programs.tree, "lab", "mkcpio"), request["vfio_initramfs"], programs.vfio_guest])
        steps, errors = in_l1(programs, ["--cpus", "1", "--plugin", f"{programs.icount},entry=on", "--iommu", "intel", "--device",
                                         "nvme", "--device", "e1000e", "--device", "edu"], request)
    got = counts([step for step in steps if "marks" in step], errors)

    def show(name, label, ours, peers, per=1, bar=None):
        (value, kernel), (peer, peer_kernel) = median_counts(ours, per), median_counts(peers, per)
        report.add(f"vfio/{name}/qemu", f"QEMU, {label}", peer, "instructions", detail=f"[{peer_kernel:.0f}]",
                   kernel=round(peer_kernel, 1))
        report.add(f"vfio/{name}", f"outboard, {label}", value, "instructions", peer=("QEMU", peer), bar=bar,
                   detail=f"[{kernel:.0f}]", kernel=round(kernel, 1), samples=[user / per for user, _ in ours])

    for way in ways:
        start = {vmm: got[f"start/{way}/{vmm}"] for vmm in ("outboard", "qemu")}
        # Each start has two marks behind its begin: the guest's first instruction, and its user space.
        show(f"entry/{way}", f"{way}, to the first guest instruction", start["outboard"][::2], start["qemu"][::2])
        show(f"start/{way}", f"{way}, to init", start["outboard"][1::2], start["qemu"][1::2], bar=("ratio", 0.3))
    report.heading("ioctl calls of VFIO and of the IOMMU before the guest's first instruction")
    for way in ways:
        asked = {step["vmm"]: step for step in steps if step["step"] == f"ioctls/{way}"}
        if len(asked) != 2:
            report.skip(f"vfio/ioctls/{way}", "no strace here")
            continue
        for vmm, step in asked.items():
            name = "vfio/ioctls" + ("" if vmm == "outboard" else "/qemu")
            calls = sum(step["ioctls"].values())
            report.add(f"{name}/{way}", f"{names[vmm]}, {way}, three devices", calls, "calls", calls=step["ioctls"],
                       detail=f"{step['total']} until it ends",
                       peer=("QEMU", sum(asked["qemu"]["ioctls"].values())) if vmm == "outboard" else None)
    report.heading("One access to a device's registers (the guest's own instructions included)")
    for at, (name, label) in enumerate(ACCESSES):
        # All kinds twice: the first time to warm up.
        pick = slice(len(ACCESSES) + at, None, 2 * len(ACCESSES))
        show(name, label, got["access/outboard"][pick], got["access/qemu"][pick], ROUNDS, ("ratio", 1.0))
