"""lab_side - the inner half of lab.py, run in L1

usage: lab_side.py REQUEST

REQUEST is JSON: what to do, and where the programs are. Prints a line of JSON per step. Markers that the
programs execute meanwhile reach lab.py through the emulator, in the order of the steps.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from host import Failure, json_lines, run, server  # noqa: E402

GUEST, BEGIN, END, ENTRY = 1, 2, 3, 4  # marker.h


def put(**values):
    print(json.dumps(values), flush=True)


# --- to user space ---


def vmm_commands(request):
    """With the same kernel, initramfs, memory and serial port. QEMU's RAM is a memfd, too, so that it can be told apart."""
    kernel, initramfs, line = request["kernel"], request["initramfs"], "console=ttyS0 quiet"
    qemu = [request["qemu"], "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-no-reboot", "-display", "none",
            "-serial", "stdio", "-object", "memory-backend-memfd,id=ram,size=512M,share=on",
            "-kernel", kernel, "-initrd", initramfs, "-append", line]
    return {
        "outboard": [request["outboard"], "--memory", "size=512M", "--console", "off", "--serial", "tty",
                     "--kernel", kernel, "--initramfs", initramfs, "--cmdline", line],
        "q35": [*qemu, "-M", "q35,memory-backend=ram"],
        "microvm": [*qemu, "-M", "microvm,memory-backend=ram"],
    }


def boot(request):
    commands = list(vmm_commands(request).items())
    # Files come over a slow share, and stay in memory once they were read.
    for path in (request["kernel"], request["initramfs"]):
        with open(path, "rb") as file:
            file.read()
    run([request["qemu"], "--version"])
    run([request["outboard"], "--version"])
    for turn in range(request["rounds"]):
        first = turn % len(commands)
        for vmm, command in commands[first:] + commands[:first]:
            try:
                out = run([request["launch"], f"--until={request['text']}", "--ram=memfd:", "--timeout=150", "--", *command],
                          timeout=200)
            except Failure as failure:
                put(vmm=vmm, failed=str(failure)[-500:])
                continue
            put(vmm=vmm, **json_lines(out)[0])


# --- instructions ---


def pair(request, client, device, op, rounds):
    command = [request["plain_server"]] if device == "plain" else [request["device"], "gpio"]
    with server(command) as state:
        run([request["clients"][client], f"--socket-path={state.path}", f"--op={op}", f"--rounds={rounds}",
             "--warm-up=100"])


def instructions(request):
    ours = [request["outboard"], "--memory", "size=512M", "--console", "off", "--kernel"]
    starts = {"raw": [request["raw_kvm"], request["off"]], "outboard": [*ours, request["off"], "--serial", "off"]}
    line = f"pio={request['exits']} mmio={request['exits']} passes={request['repeats'] + 1}"
    exits = {"raw": [request["raw_kvm"], request["guest"], line],
             "outboard": [*ours, request["guest"], "--serial", "null", "--cmdline", line]}
    for vmm, command in vmm_commands(request).items():
        run([request["launch"], f"--until={request['text']}", "--timeout=300", "--", *command], timeout=400)
        put(step=f"boot/{vmm}", marks=[BEGIN, GUEST])
    for command in starts.values():  # so that their files are in memory
        run([request["launch"], "--", *command])
        put(step="warm-up", marks=[BEGIN, GUEST])
    for _ in range(request["repeats"]):
        for name, command in starts.items():
            run([request["launch"], "--", *command])
            put(step=f"start/{name}", marks=[BEGIN, GUEST])
    for name, command in exits.items():
        run(command)
        put(step=f"exits/{name}", marks=[BEGIN, END] * 2 * (request["repeats"] + 1))
    for op in ("read", "posted"):
        for client in ("plain", "our"):
            for device in ("plain", "our"):
                for _ in range(request["repeats"]):
                    pair(request, client, device, op, request["rounds"])
                    put(step=f"{op}/{client}-{device}", marks=[BEGIN, END])


# --- host devices ---

SYS = "/sys/bus/pci"
NVME, E1000E, EDU = "0000:00:05.0", "0000:00:06.0", "0000:00:07.0"  # lab/run
ACCESS_MARKS = [BEGIN, END] * 5 * 2  # vfio_guest.c: five kinds, twice


def bind(device):
    def write(path, text):
        with open(os.path.join(SYS, path), "w", encoding="utf-8") as file:
            file.write(text)

    write(f"devices/{device}/driver_override", "vfio-pci")
    if os.path.exists(f"{SYS}/devices/{device}/driver"):
        write(f"devices/{device}/driver/unbind", device)
    write("drivers_probe", device)


def with_devices(request, way, devices, trapped, kernel, initramfs):
    """The command of each VMM; trapped: no BAR is mapped. No ROMs: QEMU's firmware would run them."""
    line = "console=ttyS0 quiet"
    ours = [f"path={SYS}/devices/{device}" + (",x_exclude_mmap_bars=[0,1,2,3,4,5]" if trapped else "") for device in devices]
    qemu = []
    for device in devices:
        qemu += ["-device", f"vfio-pci,host={device},rombar=0" + (",iommufd=io" if way == "iommufd" else "") +
                 (",x-no-mmap=on" if trapped else "")]
    return {
        "outboard": [request["outboard"], "--memory", "size=512M", "--console", "off", "--serial", "tty", "--kernel", kernel,
                     "--initramfs", initramfs, "--cmdline", line, "--device", *ours,
                     *(["--platform", "iommufd=on"] if way == "iommufd" else [])],
        "qemu": [request["qemu"], "-M", "q35", "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-no-reboot",
                 "-display", "none", "-serial", "stdio", "-kernel", kernel, "-initrd", initramfs, "-append", line,
                 *(["-object", "iommufd,id=io"] if way == "iommufd" else []), *qemu],
    }


def ioctls_of(trace):
    """How often each of VFIO's and of the IOMMU's came before the guest's first instruction, and how many came in all.

    strace knows the names of most; the others show their letter, ';'."""
    calls, entered, total = {}, False, 0
    with open(trace, encoding="utf-8", errors="replace") as file:
        for line in file:
            entered = entered or "KVM_RUN" in line
            found = re.search(r"ioctl\(\d+, (VFIO_\w+|IOMMU_\w+|_IOC\(\w+, 0x3b, 0x\w+, \w+\))", line)
            if found:
                total += 1
                if not entered:
                    calls[found.group(1)] = calls.get(found.group(1), 0) + 1
    return calls, total


def vfio(request):
    devices = (NVME, E1000E, EDU)
    for device in devices:
        bind(device)
    for way in ("container", "iommufd"):
        commands = with_devices(request, way, devices, False, request["vmlinux"], request["initramfs"])
        for turn in range(request["repeats"] + 1):
            for vmm, command in commands.items():
                run([request["launch"], f"--until={request['text']}", "--timeout=300", "--", *command], timeout=400)
                put(step=f"start/{way}/{vmm}" if turn else "warm-up", marks=[BEGIN, ENTRY, GUEST])
        if not shutil.which(request["strace"]):
            continue
        commands = with_devices(request, way, devices, False, request["vmlinux"], request["vfio_initramfs"])
        for vmm, command in commands.items():
            with tempfile.NamedTemporaryFile(prefix="bench.") as trace:
                run([request["strace"], "-f", "-e", "trace=ioctl", "-o", trace.name, *command], timeout=400)
                calls, total = ioctls_of(trace.name)
                put(step=f"ioctls/{way}", vmm=vmm, ioctls=calls, total=total, marks=ACCESS_MARKS)
    commands = with_devices(request, "container", (EDU,), True, request["vmlinux"], request["vfio_initramfs"])
    for vmm, command in commands.items():
        for _ in range(request["repeats"]):
            run(command)
            put(step=f"access/{vmm}", marks=ACCESS_MARKS)


# --- a disk from within another guest ---

ADDRESS = "0000:00:10.0"


class Guest:
    """A VMM whose guest talks on its console."""

    def __init__(self, request, *options):
        self.process = subprocess.Popen(
            [request["outboard"], "--console", "off", "--serial", "tty", "--kernel", request["kernel"], *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", bufsize=1)
        self.said = []

    def lines(self):
        for line in self.process.stdout:
            line = line.strip()
            self.said.append(line)
            yield line

    def until(self, text):
        for line in self.lines():
            if text in line:
                return
        raise Failure(f"the guest ended before it said {text!r}: {self.said[-5:]}")

    def end(self):
        self.process.kill()
        self.process.wait()


def device_vm(request, socket):
    guest = Guest(request, "--memory", "size=256M", "--cpus", "1", "--initramfs", request["serving"], "--cmdline",
                  "console=ttyS0 quiet panic=-1 vfio_iommu_type1.allow_unsafe_interrupts=1",
                  "--vvu-proxy", f"{socket},addr={ADDRESS},iommu=on")
    guest.until("serving")
    return guest


class Trace:
    """Every system call of a process and its threads, while a guest works; .calls of those that began or ended then."""

    def __init__(self, request, pid):
        self.file = tempfile.NamedTemporaryFile("r", prefix="bench.")
        self.process = subprocess.Popen([request["strace"], "-f", "-ttt", "-o", self.file.name, "-p", str(pid)],
                                        stderr=subprocess.PIPE, text=True)
        self.process.stderr.readline()  # it is attached
        self.settle()

    def settle(self):
        """What attaching interrupts goes on: until nothing new is written, or it is written all the time."""
        size = -1
        for _ in range(10):
            if size == os.path.getsize(self.file.name):
                return
            size = os.path.getsize(self.file.name)
            time.sleep(1)

    def between(self, begin, end):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        lines = self.file.read().splitlines()
        self.file.close()
        return sum(begin <= float(line.split()[1]) <= end for line in lines)


def disk_load(request, socket, step, watched):
    """Boot a guest that works with its disk; the VMM `watched` is to have nothing to do with that."""
    guest = Guest(request, "--memory", "size=512M", "--cpus", "1", "--initramfs", request["loading"], "--cmdline",
                  f"console=ttyS0 quiet panic=-1 requests={request['requests']}", "--disk", f"vhost_user=on,socket={socket}")
    passes, trace, begin = [], None, 0.0
    for line in guest.lines():
        if "disk_guest:" in line:
            raise Failure(line)
        if not line.startswith("{"):
            continue
        told = json.loads(line)
        if "op" in told:
            passes.append(told)
        elif "watch" in told:
            trace = Trace(request, watched) if watched and request["strace"] else None
            begin = time.time()
            guest.process.stdin.write("go\n")
        elif trace:
            put(step=f"{step}/calls", calls=trace.between(begin, time.time()), requests=told["watched"], marks=[])
    if guest.process.wait() or not passes:
        raise Failure(f"the guest with the disk ended badly: {guest.said[-5:]}")
    for told in passes:
        put(step=f"{step}/{told['op']}/{told['depth']}", requests=told["requests"], ns=told["ns"], marks=[BEGIN, END])


def over_socket(request, folder):
    image, path = os.path.join(folder, "image"), os.path.join(folder, "socket")
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    process = subprocess.Popen([request["device"], "block", f"--socket-path={path}", f"--file={image}"])
    try:
        while not os.path.exists(path):
            time.sleep(0.05)
        for _ in range(request["repeats"]):
            disk_load(request, path, "socket", None)
    finally:
        process.kill()
        process.wait()


def over_vvu(request, folder):
    path = os.path.join(folder, "vvu")
    guest = device_vm(request, path)
    try:
        for _ in range(request["repeats"]):
            disk_load(request, path, "vvu", guest.process.pid)
    finally:
        guest.end()


def vvu(request):
    with tempfile.TemporaryDirectory(prefix="bench.", dir="/dev/shm") as folder:
        over_socket(request, folder)
        over_vvu(request, folder)


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    {"boot": boot, "instructions": instructions, "vfio": vfio, "vvu": vvu}[wanted["what"]](wanted)
