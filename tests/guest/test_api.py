"""The REST API: what clients may do to a VM, and what they may not do to the VMM."""

import json
import os
import pty
import select
import signal
import socket
import termios
import time

import pytest

from api import Api, answer_on, request, send_fds
from harness import DEADLINE, Program, children_of

GUEST = "guest.bzimage"


class Served(Program):
    """outboard with an API socket; the guest's COM1 is `out` when its serial mode is Tty."""

    def __init__(self, build, folder, *arguments, **keywords):
        self.build = build
        self.socket = folder / "api.sock"
        super().__init__(
            "vmm",
            [build / "src" / "outboard", "-v", "--api-socket", self.socket, *arguments],
            **keywords,
        )
        self.api = Api(self.socket)

    def config(self, test, **more):
        return {
            "payload": {
                "kernel": str(self.build / "tests" / "guest" / GUEST),
                "cmdline": f"test={test}",
            },
            "memory": {"size": 64 << 20},
            "serial": {"mode": "Tty"},
            "console": {"mode": "Off"},
            **more,
        }


def listening(program):
    """Wait until the program serves: it says nothing about that, but its socket is there."""
    inotify_deadline = DEADLINE
    poller = select.poll()
    fd = os.pidfd_open(program.pid)
    poller.register(fd, select.POLLIN)
    try:
        for _ in range(int(inotify_deadline * 100)):
            try:
                program.api.raw().close()
                return program
            except (FileNotFoundError, ConnectionRefusedError):
                if poller.poll(10):
                    break
    finally:
        os.close(fd)
    raise AssertionError(f"no API\n{program.said()}")


@pytest.fixture
def served(build, folder, programs):
    def start(*arguments, **keywords):
        return listening(programs(Served(build, folder, *arguments, **keywords)))

    return start


def prompt(vmm, start=0):
    return vmm.out.wait(r"^# command\?", start)[0] + 1


def running(vmm, test="command", **more):
    vmm.api.does("vm.create", vmm.config(test, **more))
    vmm.api.does("vm.boot")
    return prompt(vmm, 0) if test == "command" else 0


def settles(vmm, fds):
    """Clients that have left are noticed one by one: it serves, and soon has no more open than it had."""
    limit = time.monotonic() + DEADLINE
    while vmm.fds() != fds:
        assert time.monotonic() < limit, f"{vmm.fds()} instead of {fds}"
        assert vmm.api.get("vmm.ping")[0] == 200


# --- without a guest ---


def test_ping(served):
    vmm = served()
    status, pong = vmm.api.get("vmm.ping")
    assert status == 200
    assert pong["pid"] == vmm.pid
    assert int(pong["version"].split(".")[0]) >= 40
    assert "kvm" in pong["features"]


def test_requests_that_find_nothing(served):
    api = served().api
    for name in ("vm.boot", "vm.pause", "vm.resume", "vm.shutdown", "vm.reboot", "vm.delete",
                 "vm.power-button", "vm.nmi"):
        api.refuses(name, 404, f"{name}: no VM is created")
    assert api.get("vm.info") == (404, ["vm.info: no VM is created"])
    assert api.get("vm.counters") == (404, ["vm.counters: no VM is created"])
    assert api.get("vm.nothing") == (404, ["/api/v1/vm.nothing: no such endpoint"])
    assert api.put("vm.info") == (405, ["vm.info: expected the method GET"])
    assert api.get("vm.boot") == (405, ["vm.boot: expected the method PUT"])
    for name in ("vm.resize", "vm.snapshot", "vm.restore", "vm.add-pmem", "vm.send-migration"):
        api.refuses(name, 501, f"{name} is not available in this version", {})


def test_create_is_strict(served):
    vmm = served()
    api = vmm.api
    api.refuses("vm.create", 400, "cpus.boot: unknown key; did you mean boot_vcpus?",
                vmm.config("smp", cpus={"boot": 1}))
    api.refuses("vm.create", 400, "watchdog is not available in this version",
                vmm.config("smp", watchdog=True))
    api.refuses("vm.create", 400, "nothing to boot: expected --kernel or --firmware", {})
    status, why = api.put("vm.create", "{")
    assert status == 400 and why[0].startswith("JSON: line 1, ")
    assert api.get("vm.info")[0] == 404
    api.does("vm.create", vmm.config("smp"))
    api.refuses("vm.create", 405, "vm.create: there is a VM already; delete it first",
                vmm.config("smp"))
    info = api.info()
    assert info["state"] == "Created"
    assert info["config"]["memory"]["size"] == info["memory_actual_size"] == 64 << 20
    assert info["config"]["cpus"]["boot_vcpus"] == 1
    assert info["config"]["serial"]["mode"] == "Tty"
    for name in ("vm.pause", "vm.resume", "vm.shutdown", "vm.reboot", "vm.nmi", "vm.power-button"):
        api.refuses(name, 405, f"{name}: the VM is not booted")
    api.does("vm.delete")
    assert api.get("vm.info")[0] == 404


def test_shutdown_of_the_vmm(served):
    vmm = served()
    vmm.api.does("vmm.shutdown")
    assert vmm.wait() == 0
    assert not vmm.socket.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_without_a_vm(served, number):
    vmm = served()
    vmm.signal(number)
    assert vmm.wait() == 0
    assert not vmm.socket.exists()


def test_inherited_socket(build, folder, programs):
    """As management tools start it: a socket that listens, and a FIFO whose reader comes later."""
    fifo = folder / "events"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "inherited.sock"))
        listener.listen()
        vmm = programs(
            Program(
                "vmm",
                [build / "src" / "outboard", "--api-socket", f"fd={listener.fileno()}",
                 "--event-monitor", f"path={fifo}"],
                pass_fds=[listener.fileno()],
            )
        )
    api = Api(folder / "inherited.sock")
    assert api.get("vmm.ping")[0] == 200
    with open(fifo, encoding="ascii") as events:
        api.does("vmm.shutdown")
        told = [json.loads(line) for line in events]
    assert vmm.wait() == 0
    assert [(e["source"], e["event"]) for e in told] == [("vmm", "starting"), ("vmm", "shutdown")]
    assert told[0]["timestamp"].keys() == {"secs", "nanos"}


@pytest.mark.parametrize(
    "argument,line",
    [
        ("fd=0", "--api-socket: fd: expected a UNIX stream socket that listens, got 0"),
        ("fd=99", "--api-socket: fd: expected a UNIX stream socket that listens, got 99"),
        ("path=/nonexistent/x", "--api-socket: cannot listen at /nonexistent/x: "
         "No such file or directory"),
    ],
)
def test_sockets_that_cannot_be(build, programs, argument, line):
    vmm = programs(Program("vmm", [build / "src" / "outboard", "--api-socket", argument]))
    assert vmm.wait() == 1
    assert vmm.err.lines == [f"outboard: {line}"]


# --- the life of a VM ---


def test_pause_and_resume(served, kvm):
    vmm = served()
    api = vmm.api
    index = running(vmm)
    assert api.state() == "Running"
    api.refuses("vm.boot", 405, "vm.boot: the VM is running")
    api.refuses("vm.resume", 405, "vm.resume: the VM is running")
    for _ in range(5):
        api.does("vm.pause")
        assert api.state() == "Paused"
        assert vcpu_waits(vmm)
        api.refuses("vm.pause", 405, "vm.pause: the VM is paused")
        api.refuses("vm.reboot", 405, "vm.reboot: the VM is paused")
        vmm.send("nmis")
        assert vcpu_waits(vmm)
        api.does("vm.resume")
        assert api.state() == "Running"
        index = vmm.out.wait("^# nmis 0", index)[0] + 1
    vmm.send("off")
    assert vmm.wait() == 0


def vcpu_waits(vmm):
    """Whether the vCPU's thread stands at a lock: not in KVM, not on its way there."""
    for task in os.listdir(f"/proc/{vmm.pid}/task"):
        with open(f"/proc/{vmm.pid}/task/{task}/comm", encoding="ascii") as comm:
            if comm.read() != "vcpu0\n":
                continue
        with open(f"/proc/{vmm.pid}/task/{task}/syscall", encoding="ascii") as call:
            return call.read().split()[0] in ("202", "running") and not in_kvm(vmm, task)
    raise AssertionError("no thread vcpu0")


def in_kvm(vmm, task):
    with open(f"/proc/{vmm.pid}/task/{task}/syscall", encoding="ascii") as call:
        return call.read().split()[0] == "16"


def test_reboot_and_nmi(served, kvm):
    vmm = served()
    index = running(vmm)
    vmm.api.does("vm.nmi")
    vmm.send("nmis")
    index = prompt(vmm, vmm.out.wait("^# nmis 1", index)[0])
    for _ in range(3):
        vmm.api.does("vm.reboot")
        index = vmm.out.wait("^# test command", index)[0]
        index = prompt(vmm, index)
    assert vmm.api.state() == "Running"
    vmm.send("off")
    assert vmm.wait() == 0


def test_power_button(served, kvm):
    vmm = served()
    running(vmm)
    vmm.api.refuses(
        "vm.power-button", 500,
        "vm.power-button: the guest has no driver for it (yet), it would hear nothing")
    vmm.api.does("vm.delete")
    running(vmm, "power")
    vmm.out.wait("waiting for the power button")
    vmm.api.does("vm.power-button")
    assert vmm.wait() == 0


def test_shutdown_and_boot_again(served, kvm):
    vmm = served()
    index = running(vmm)
    fds = vmm.fds()
    for _ in range(5):
        vmm.api.does("vm.shutdown")
        assert vmm.api.state() == "Shutdown"
        vmm.api.refuses("vm.shutdown", 405, "vm.shutdown: the VM is shut down")
        vmm.api.does("vm.boot")
        index = prompt(vmm, index)
        assert vmm.fds() == fds
    vmm.api.does("vm.delete")
    vmm.api.does("vmm.shutdown")
    assert vmm.wait() == 0


def test_no_shutdown(served, kvm):
    vmm = served("--no-shutdown")
    index = running(vmm)
    for _ in range(3):
        vmm.send("off")
        vmm.err.wait("guest has shut down")
        while vmm.api.state() == "Running":  # the log line is older than the state
            pass
        assert vmm.api.state() == "Shutdown"
        vmm.api.does("vm.boot")
        index = prompt(vmm, index)
    vmm.send("triple")
    vmm.err.wait("triple fault")
    while vmm.api.state() == "Running":
        pass
    assert vmm.process.poll() is None
    vmm.api.does("vmm.shutdown")
    assert vmm.wait() == 0


def test_end_of_the_guest_is_the_end_without_it(served, kvm):
    vmm = served()
    running(vmm)
    vmm.send("triple")
    assert vmm.wait() == 1
    assert not vmm.socket.exists()


def test_payload_on_the_command_line_and_an_api(build, folder, programs, kvm):
    kernel = build / "tests" / "guest" / GUEST
    vmm = listening(programs(Served(
        build, folder, "--kernel", kernel, "--cmdline", "test=command", "--memory", "size=64M",
        "--serial", "tty", "--no-shutdown")))
    index = prompt(vmm)
    assert vmm.api.info()["config"]["payload"]["kernel"] == str(kernel)
    vmm.api.does("vm.pause")
    vmm.api.does("vm.delete")
    vmm.api.does("vm.create", vmm.config("command"))
    vmm.api.does("vm.boot")
    prompt(vmm, index)


def test_serial_port_on_a_terminal_under_the_filter(served, kvm):
    """The process that looks after the terminal starts under the filter, and puts it back at the end."""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    vmm = served("--no-shutdown", stdin=slave)
    others = vmm.children()
    for _ in range(2):
        vmm.api.does("vm.create", vmm.config("command"))
        vmm.api.does("vm.boot")
        assert termios.tcgetattr(slave) != before
        assert len(vmm.children()) == len(others) + 1
        vmm.api.does("vm.delete")
        assert termios.tcgetattr(slave) == before
        assert vmm.children() == others
    vmm.api.does("vmm.shutdown")
    assert vmm.wait() == 0
    assert not [line for line in vmm.err.lines if "sandbox" in line], vmm.said()
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("cpus", [1, 4])
@pytest.mark.parametrize("mode", ["Off", "Null", "Tty", "Pty", "File", "Socket"])
def test_every_serial_mode_under_the_filter(served, folder, kvm, mode, cpus):
    """What a boot needs must pass the filter, which is on before the first request."""
    serial = {"mode": mode}
    if mode in ("File", "Socket"):
        serial[mode.lower()] = str(folder / "serial")
    vmm = served("--no-shutdown")
    vmm.api.does("vm.create", vmm.config(
        "command", serial=serial, cpus={"boot_vcpus": cpus, "max_vcpus": cpus},
        memory={"size": 64 << 20, "prefault": True}))
    for _ in range(2):
        vmm.api.does("vm.boot")
        info = vmm.api.info()
        assert info["state"] == "Running"
        if mode == "Pty":
            assert info["config"]["serial"]["file"].startswith("/dev/pts/")
        vmm.api.does("vm.shutdown")
    vmm.api.does("vmm.shutdown")
    assert vmm.wait() == 0, vmm.said()


def test_pause_while_the_guest_resets(served, kvm):
    """The two meet in every order; none is lost, and the guest goes on after the last."""
    vmm = served()
    index = running(vmm, cpus={"boot_vcpus": 2, "max_vcpus": 2})
    for _ in range(20):
        vmm.send("acpi")
        vmm.api.does("vm.pause")
        assert vmm.api.state() == "Paused"
        vmm.api.does("vm.resume")
        index = vmm.out.wait("^# test command", index)[0]
        index = prompt(vmm, index)
    vmm.send("off")
    assert vmm.wait() == 0


def test_events(served, folder, kvm):
    fifo = folder / "events"
    os.mkfifo(fifo)
    vmm = served("--event-monitor", f"path={fifo}")
    running(vmm)
    for name in ("vm.pause", "vm.resume", "vm.reboot", "vm.shutdown", "vm.boot", "vm.delete"):
        vmm.api.does(name)
    with open(fifo, encoding="ascii") as stream:
        vmm.api.does("vmm.shutdown")
        told = [json.loads(line) for line in stream]
    assert [e["event"] for e in told if e["source"] == "vm"] == [
        "booting", "booted", "pausing", "paused", "resuming", "resumed", "rebooting", "rebooted",
        "shutdown", "booting", "booted", "shutdown", "deleted",
    ]
    times = [(e["timestamp"]["secs"], e["timestamp"]["nanos"]) for e in told]
    assert times == sorted(times)
    assert vmm.wait() == 0


# --- devices ---


def test_devices_are_shown(served, gpio, kvm):
    card = gpio("--loopback")
    vmm = served()
    running(vmm, user_devices=[{"socket": str(card.path), "id": "card", "pci_device_id": 9}])
    tree = vmm.api.info()["device_tree"]
    assert tree == {"card": {"id": "card", "resources": [], "children": [],
                             "pci_bdf": "0000:00:09.0", "state": "attached"}}
    assert vmm.api.get("vm.counters") == (200, {"card": {}})
    card.signal(signal.SIGKILL)
    card.wait()
    vmm.err.wait("card")
    assert vmm.api.info()["device_tree"]["card"]["state"] == "broken"


def test_devices_are_added_and_removed_before_a_boot(served, gpio, kvm):
    card = gpio("--loopback")
    vmm = served()
    api = vmm.api
    api.refuses("vm.add-disk", 404, "vm.add-disk: no VM is created", {})
    api.does("vm.create", vmm.config("command"))
    api.does("vm.add-user-device", {"socket": str(card.path), "id": "card", "pci_device_id": 4})
    api.does("vm.add-disk", {"path": "/nonexistent", "readonly": True})
    config = api.info()["config"]
    assert config["user_devices"][0]["id"] == "card"
    assert config["disks"][0]["id"] == "_disk0"
    before = api.info()
    for name, body, status, text in [
        ("vm.add-user-device", {"socket": "/x", "id": "card"}, 409, "Identifier card is not unique"),
        ("vm.add-user-device", {"socket": "/x", "pci_device_id": 4}, 409, "slot 4"),
        ("vm.add-user-device", {"id": "x"}, 400, "socket: expected PATH, got none"),
        ("vm.add-user-device", {"sockt": "x"}, 400, "sockt: unknown key; did you mean socket?"),
        ("vm.add-user-device", [], 400, "body: expected an object"),
        ("vm.add-disk", {}, 400, "path"),
        ("vm.add-net", {"fds": [3]}, 400, "fds: unknown key"),
        ("vm.remove-device", {"id": "x"}, 404, "x: there is no such device"),
        ("vm.remove-device", {"id": 1}, 400, "expected an object with the key id, a string"),
        ("vm.remove-device", {}, 400, "expected an object with the key id, a string"),
    ]:
        got, why = api.put(name, body)
        assert got == status and text in why[0], (name, body, why)
        assert api.info() == before
    api.does("vm.remove-device", {"id": "_disk0"})
    assert "disks" not in api.info()["config"]
    api.does("vm.boot")
    assert api.info()["device_tree"]["card"]["pci_bdf"] == "0000:00:04.0"
    assert api.put("vm.add-disk", {"path": "/x"})[0] == 501
    assert api.put("vm.remove-device", {"id": "card"})[0] == 501
    api.does("vm.shutdown")
    api.does("vm.remove-device", {"id": "card"})
    api.does("vm.boot")
    assert api.info()["device_tree"] == {}


def test_taps_come_beside_their_request(served):
    """As management tools send them: with the bytes, between vm.create and vm.boot."""
    vmm = served()
    vmm.api.does("vm.create", vmm.config("command"))
    fds = vmm.fds()
    with open("/dev/null", encoding="ascii") as null:
        body = json.dumps({"mac": "2e:89:a8:e4:bf:95", "id": "n"}).encode()
        for _ in range(2):
            with vmm.api.raw() as sock:
                send_fds(sock, request("PUT", "vm.add-net", body), [null.fileno()] * 2)
                assert answer_on(sock) == (204, None)
            assert vmm.api.info()["config"]["net"][0]["num_queues"] == 4
            kept = vmm.fds()["/dev/null"]
            with vmm.api.raw() as sock:  # the name is taken: nothing of it is kept
                send_fds(sock, request("PUT", "vm.add-net", body), [null.fileno()] * 2)
                assert answer_on(sock)[0] == 409
            assert vmm.fds()["/dev/null"] == kept == fds["/dev/null"] + 2
            vmm.api.does("vm.remove-device", {"id": "n"})
            settles(vmm, fds)
        with vmm.api.raw() as sock:
            send_fds(sock, request("PUT", "vm.add-net", body), [null.fileno()] * 3)
            assert answer_on(sock) == (204, None)
    vmm.api.does("vm.delete")
    settles(vmm, fds)


PROGRAMS = {
    "disk": lambda folder: {"disks": [{"path": str(folder / "image"), "id": "x"}]},
    "rng": lambda folder: {"rng": {"src": "/dev/urandom", "id": "x"}},
    "vsock": lambda folder: {"vsock": {"cid": 3, "socket": str(folder / "v"), "id": "x"}},
    "console-null": lambda folder: {"console": {"mode": "Null", "id": "x"}},
    "console-pty": lambda folder: {"console": {"mode": "Pty", "id": "x"}},
    "console-file": lambda folder: {
        "console": {"mode": "File", "file": str(folder / "out"), "id": "x"}},
    "console-socket": lambda folder: {
        "console": {"mode": "Socket", "socket": str(folder / "out"), "id": "x"}},
}


def device_program(vmm):
    """The pid of the one outboard-device, a child of one of the VMM's."""
    for child in vmm.children():
        for pid in children_of(child):
            try:
                program = os.readlink(f"/proc/{pid}/exe")
            except FileNotFoundError:  # ended meanwhile
                continue
            if program.endswith("outboard-device"):
                return pid
    return None


@pytest.mark.parametrize("kind", PROGRAMS)
def test_device_programs_under_the_filter(served, folder, kvm, kind):
    """They are started by a request, and again when they die, with no call that the filter refuses."""
    (folder / "image").write_bytes(bytes(1 << 20))
    vmm = served("--no-shutdown")
    vmm.api.does("vm.create", vmm.config("command", **PROGRAMS[kind](folder)))
    for _ in range(2):
        vmm.api.does("vm.boot")
        info = vmm.api.info()
        assert info["device_tree"]["x"]["state"] == "attached"
        if kind == "console-pty":
            assert info["config"]["console"]["file"].startswith("/dev/pts/")
        first = device_program(vmm)
        os.kill(first, signal.SIGKILL)
        limit = time.monotonic() + DEADLINE
        while device_program(vmm) in (first, None) or (
                vmm.api.info()["device_tree"]["x"]["state"] != "attached"):
            assert time.monotonic() < limit, vmm.said()
        vmm.api.does("vm.shutdown")
        limit = time.monotonic() + DEADLINE
        while device_program(vmm):
            assert time.monotonic() < limit, vmm.said()
    vmm.api.does("vmm.shutdown")
    assert vmm.wait() == 0, vmm.said()
    assert not [line for line in vmm.err.lines if "sandbox" in line], vmm.said()


def test_boot_that_fails(served, folder, kvm):
    vmm = served()
    vmm.api.does("vm.create", vmm.config(
        "command", user_devices=[{"socket": str(folder / "nobody")}]))
    status, why = vmm.api.put("vm.boot")
    assert status == 500 and "no such socket" in why[0], why
    assert vmm.api.state() == "Created"
    vmm.api.does("vm.delete")
    running(vmm)


@pytest.mark.parametrize("way", ["vm.shutdown", "vm.delete", "vmm.shutdown"])
def test_boot_that_is_broken_off(served, folder, kvm, way):
    """A server that accepts and says nothing: the API answers meanwhile."""
    path = folder / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        vmm = served()
        vmm.api.does("vm.create", vmm.config("command", user_devices=[{"socket": str(path)}]))
        waiting = vmm.api.raw()
        waiting.sendall(request("PUT", "vm.boot"))
        with silent.accept()[0]:
            assert vmm.api.state() == "Created"
            vmm.api.refuses("vm.boot", 405, "vm.boot: vm.boot is under way")
            vmm.api.refuses("vm.pause", 405, "vm.pause: vm.boot is under way")
            vmm.api.does(way)
            assert answer_on(waiting) == (500, ["vm.boot: the VM was shut down"])
        waiting.close()
    if way == "vmm.shutdown":
        assert vmm.wait() == 0


def test_two_clients_delete_the_vm_at_once(served, folder, kvm):
    """One waits for its boot, and has asked for the deletion next; the boot ends by the other's."""
    path = folder / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        vmm = served()
        vmm.api.does("vm.create", vmm.config("command", user_devices=[{"socket": str(path)}]))
        with vmm.api.raw() as waiting:
            waiting.sendall(request("PUT", "vm.boot") + request("PUT", "vm.delete") * 2)
            with silent.accept()[0]:
                vmm.api.does("vm.delete")
            assert answer_on(waiting)[0] == 500
    assert vmm.api.get("vm.info")[0] == 404


def test_nothing_is_done_after_the_end(served):
    vmm = served()
    with vmm.api.raw() as sock:
        body = json.dumps(vmm.config("command")).encode()
        sock.sendall(request("PUT", "vmm.shutdown") + request("PUT", "vm.create", body))
        assert answer_on(sock) == (204, None)
        assert sock.recv(1) == b""
    assert vmm.wait() == 0


def test_client_that_leaves_during_a_boot(served, folder, kvm):
    path = folder / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        vmm = served()
        vmm.api.does("vm.create", vmm.config("command", user_devices=[{"socket": str(path)}]))
        leaving = vmm.api.raw()
        leaving.sendall(request("PUT", "vm.boot"))
        with silent.accept()[0]:
            leaving.close()
            assert vmm.api.state() == "Created"
            vmm.api.does("vm.shutdown")
    vmm.api.does("vm.delete")
    running(vmm)


# --- clients that are none ---


def test_clients_that_send_nonsense(served):
    vmm = served()
    fds = vmm.fds()
    for data, status in [
        (b"\x00\x01\x02\x03\r\n\r\n", 400),
        (b"BREW /api/v1/vmm.ping HTTP/1.1\r\n\r\n", 400),
        (b"GET /api/v1/vmm.ping HTTP/9.9\r\n\r\n", 505),
        (b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"PUT / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n", 413),
        (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 20000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n", 431),
        (b"CONNECT localhost:1 HTTP/1.1\r\n\r\n", 404),
    ]:
        with vmm.api.raw() as sock:
            sock.sendall(data)
            assert answer_on(sock)[0] == status, data[:60]
    with vmm.api.raw() as sock:  # a body in pieces that grows without end
        sock.sendall(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(300):
            sock.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        assert answer_on(sock)[0] == 413
    for data in (b"", b"GET /", b"PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"):
        with vmm.api.raw() as sock:
            sock.sendall(data)
    settles(vmm, fds)


def test_requests_on_one_connection(served):
    vmm = served()
    with vmm.api.raw() as sock:
        sock.sendall(request("GET", "vmm.ping") * 20 + request("GET", "vm.info"))
        got = b""
        while b"HTTP/1.1 404 " not in got:
            data = sock.recv(65536)
            assert data
            got += data
        assert got.count(b"HTTP/1.1 200 OK\r\n") == 20


def test_body_after_100_continue(served):
    vmm = served()
    body = json.dumps(vmm.config("smp")).encode()
    with vmm.api.raw() as sock:
        head, _ = request("PUT", "vm.create", body, "Expect: 100-continue").split(b"\r\n\r\n", 1)
        sock.sendall(head + b"\r\n\r\n")
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            got += sock.recv(1)
        assert got == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert answer_on(sock) == (204, None)
    with vmm.api.raw() as sock:  # nothing to wait for
        sock.sendall(request("PUT", "vm.delete", b"", "Expect: 100-continue"))
        assert answer_on(sock) == (204, None)


def test_half_closed_client_gets_its_answer(served):
    vmm = served()
    with vmm.api.raw() as sock:
        sock.sendall(request("GET", "vmm.ping"))
        sock.shutdown(socket.SHUT_WR)
        assert answer_on(sock)[0] == 200
        assert sock.recv(1) == b""


def test_descriptors_are_not_kept(served):
    vmm = served()
    vmm.api.get("vmm.ping")
    fds = vmm.fds()
    with open("/dev/null", encoding="ascii") as null:
        for data in (request("GET", "vmm.ping"), request("PUT", "vm.create", b"{}")):
            with vmm.api.raw() as sock:
                send_fds(sock, data[:10], [null.fileno()] * 100)
                send_fds(sock, data[10:], [null.fileno()] * 200)
                assert answer_on(sock)[0] in (200, 400)
        with vmm.api.raw() as sock:
            send_fds(sock, b"GET /", [null.fileno()] * 253)
    settles(vmm, fds)


def test_a_thousand_connections(served):
    vmm = served()
    fds = vmm.fds()
    crowd = []
    for i in range(1000):
        sock = vmm.api.raw()
        try:
            sock.sendall(request("GET", "vmm.ping")[: 7 * (i % 3)])
        except BrokenPipeError:  # hung up on, for those who came later
            pass
        crowd.append(sock)
        if i % 100 == 0:
            crowd.pop(0).close()
    for sock in crowd:
        sock.close()
    settles(vmm, fds)


def test_client_that_never_reads(served):
    """What it asks for is not made in advance; others are served."""
    vmm = served()
    with vmm.api.raw() as deaf:
        deaf.settimeout(0)
        data = request("GET", "vmm.ping") * 100
        before = vmm.memory_kib()
        try:
            while True:
                deaf.send(data)
        except BlockingIOError:
            pass
        for _ in range(10):
            assert vmm.api.get("vmm.ping")[0] == 200
        assert vmm.sanitized() or vmm.memory_kib() - before < 1024


# --- devices whose programs outboard starts ---


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    with open(path, "wb") as file:
        file.truncate(4 << 20)
    return path


def test_all_kinds_of_programs_again_and_again(served, image, folder):
    """Under the filter of system calls; nothing is left of one that was deleted."""
    vmm = served()
    fds = vmm.fds()
    (spawner,) = vmm.children()
    for console in (
        {"mode": "Pty"},
        {"mode": "File", "file": f"{folder}/console"},
        {"mode": "Socket", "socket": f"{folder}/console.sock"},
        {"mode": "Null"},
    ):
        vmm.api.does("vm.create", vmm.config(
            "command", disks=[{"path": str(image)}], rng={"src": "/dev/urandom"}, console=console,
        ))
        for _ in range(3):
            vmm.api.does("vm.boot")
            assert len(children_of(spawner)) == 3
            vmm.api.does("vm.shutdown")
        vmm.api.does("vm.delete")
    settles(vmm, fds)


def shut_down_with_a_disk_that_stands(vmm, image):
    (spawner,) = vmm.children()
    running(vmm, disks=[{"path": str(image)}])
    (disk,) = children_of(spawner)
    os.kill(disk, signal.SIGSTOP)
    vmm.api.does("vm.shutdown")
    return spawner, disk


def test_a_boot_waits_for_the_disk_of_the_last_run(served, image):
    """It stands, so it has the image until it is killed; then the new one has it."""
    vmm = served()
    spawner, disk = shut_down_with_a_disk_that_stands(vmm, image)
    vmm.api.does("vm.boot")
    assert len(children_of(spawner)) == 1
    assert disk not in children_of(spawner)
    vmm.api.does("vm.delete")


def test_a_boot_that_waits_is_overtaken(served, image):
    vmm = served()
    shut_down_with_a_disk_that_stands(vmm, image)
    with vmm.api.raw() as sock:
        sock.sendall(request("PUT", "vm.boot"))
        while vmm.api.state() != "Created":
            pass
        vmm.api.does("vm.delete")
        assert answer_on(sock) == (500, ["vm.boot: the VM was shut down"])
    running(vmm, disks=[{"path": str(image)}])
