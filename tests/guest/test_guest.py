"""What the guest finds in its machine, and what it can do with it."""

import os
import pty
import re
import signal
import socket
import tty

import pytest

from harness import DEADLINE, Lines, readable


def ramdisk(path, size):
    path.write_bytes(bytes((i * 7 + i // 256) % 256 for i in range(size)))
    return path


def host_memory():
    """Memory and swap in all: the VMM refuses what can never be had."""
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        fields = dict(line.split(":") for line in meminfo)
    return sum(int(fields[name].split()[0]) << 10 for name in ("MemTotal", "SwapTotal"))


# --- boot ---


@pytest.mark.parametrize("image", ["guest.bzimage", "guest.elf"])
@pytest.mark.parametrize("memory", [64 << 20, 3 << 30, (3 << 30) + (2 << 20), 5 << 30])
def test_boot(vmm, image, memory):
    """Sizes on both sides of the 32-bit hole."""
    if memory > host_memory():
        pytest.skip(f"this host has {host_memory() >> 20} MiB, the guest wants {memory >> 20}")
    vmm("boot", image=image, memory=str(memory), words=f"size={memory}").passes()


def test_boot_by_the_32_bit_entry(vmm, build, tmp_path):
    """A bzImage that does not say XLF_KERNEL_64 is entered in protected mode."""
    data = bytearray((build / "tests" / "guest" / "guest.bzimage").read_bytes())
    data[0x236] &= ~1
    path = tmp_path / "bzimage"
    path.write_bytes(data)
    assert "# entry 2" in "\n".join(vmm("boot", image=path).passes())


def test_boot_of_firmware(vmm):
    """Firmware is an ELF file with a PVH entry like any."""
    vmm("boot", boot="--firmware", image="guest.elf").passes()


def test_progress_codes(vmm):
    """The first instruction, the first line of C, the end: what a bench takes times by."""
    guest = vmm("boot", verbose=2)
    guest.passes()
    codes = re.findall("progress code (0x..)$", "\n".join(guest.err.lines), re.MULTILINE)
    assert codes == ["0x01", "0x02", "0x03"]


@pytest.mark.parametrize("image", ["guest.bzimage", "guest.elf"])
def test_too_little_memory(vmm, image):
    """The image wants to be at 16 MiB."""
    guest = vmm("boot", image=image, memory="8M")
    assert guest.wait() == 1
    assert re.search(
        "needs RAM from 0x[0-9a-f]+ to 0x[0-9a-f]+, but the guest has 8 MiB$", guest.err.lines[-1]
    )


@pytest.mark.parametrize("image", ["guest.bzimage", "guest.elf"])
@pytest.mark.parametrize("size", [1, 4096, 1000003])
def test_initramfs(vmm, tmp_path, image, size):
    path = ramdisk(tmp_path / "initramfs", size)
    vmm("boot", "--initramfs", path, image=image, words=f"ramdisk={size}").passes()


@pytest.mark.parametrize("image", ["guest.bzimage", "guest.elf"])
def test_long_command_line(vmm, image):
    words = "length=2000 last=word"
    words += " " * (2000 - len("test=boot ") - len(words) - len(" end")) + " end"
    vmm("boot", image=image, words=words).passes()


# --- tables and processors ---


@pytest.mark.parametrize("cpus", [1, 2, 16, 254])
def test_acpi(vmm, cpus):
    vmm("acpi", cpus=str(cpus), words=f"cpus={cpus}").passes()


@pytest.mark.parametrize("segments", [2, 96])
def test_acpi_segments(vmm, segments):
    vmm("acpi", "--platform", f"num_pci_segments={segments}", words=f"segments={segments}").passes()


@pytest.mark.parametrize(
    "cpus, words",
    [
        ("1", "cpus=1"),
        ("4", "cpus=4"),
        ("boot=8,topology=2:2:1:2", "cpus=8"),
        ("boot=8,topology=2:2:2:1", "cpus=8"),
        ("boot=1,max_phys_bits=40", "cpus=1 phys_bits=40"),
    ],
)
def test_cpuid(vmm, cpus, words):
    vmm("cpuid", cpus=cpus, words=words).passes()


def test_apic(vmm):
    vmm("apic").passes()


@pytest.mark.parametrize("cpus", [2, 4])
def test_smp(vmm, cpus):
    vmm("smp", cpus=str(cpus), words=f"cpus={cpus}").passes()


# --- PCI and a device in another process ---


def test_pci_without_devices(vmm):
    vmm("pci", words="devices=0").passes()


def test_pci(vmm, gpio):
    vmm("pci", "--user-device", gpio().option, words="devices=1").passes()


def test_pci_segments(vmm, gpio):
    first, second, third = (gpio(name=name) for name in "abc")
    vmm(
        "pci",
        "--platform", "num_pci_segments=2",
        "--user-device",
        first.option,
        f"{second.option},pci_segment=1",
        f"{third.option},pci_device_id=31",
        words="devices=3",
    ).passes()


def test_gpio(vmm, gpio):
    vmm("gpio", "--user-device", gpio("--loopback").option).passes()


def test_gpio_in_another_slot(vmm, gpio):
    """Another slot, another interrupt line."""
    vmm("gpio", "--user-device", f"{gpio('--loopback').option},pci_device_id=22").passes()


def test_device(vmm, exerciser):
    """One of everything: each kind of BAR and interrupt, doorbells, DMA."""
    vmm("device", "--user-device", exerciser().option).passes()


def test_device_in_another_segment(vmm, exerciser):
    """There is no I/O space there; all the rest works."""
    vmm(
        "device",
        "--platform", "num_pci_segments=3",
        "--user-device", f"{exerciser().option},pci_segment=2,pci_device_id=5",
        words="io=0",
    ).passes()


@pytest.mark.parametrize("what", ["gpio-read", "gpio-write", "port", "absent", "config", "cpuid"])
@pytest.mark.parametrize("ring", [0, 3])
def test_bench(vmm, gpio, what, ring):
    """It takes times: whether they are good ones is for bench/run."""
    words = f"what={what} n=100 ring={ring}"
    lines = vmm("bench", "--user-device", gpio().option, words=words).passes()
    match = re.search(f"# bench {what} n 100 cycles (\\d+) ns (\\d+)", "\n".join(lines))
    assert int(match[1]) > 0 and int(match[2]) > 0


# --- serial port ---


def test_serial(vmm):
    vmm("serial").passes()


def echo(send, lines):
    """Talk to the guest: whole lines, and one longer than any FIFO."""
    index, _ = lines.wait("^# echo$")
    for text in ("a", "hello", "x" * 100):
        send(text)
        index, _ = lines.wait(f"^# heard {text}$", index)
    send("end")


def test_serial_tty(vmm):
    guest = vmm("serial", words="echo=1")
    echo(guest.send, guest.out)
    guest.passes()


def test_serial_terminal(vmm):
    """A real terminal as standard input: raw while the guest runs, as before afterwards."""
    ours, theirs = pty.openpty()
    before = tty.tcgetattr(theirs)
    guest = vmm("serial", words="echo=1", stdin=theirs)
    guest.out.wait("^# echo$")
    assert tty.tcgetattr(theirs)[3] != before[3]
    echo(lambda text: os.write(ours, text.encode() + b"\n"), guest.out)
    guest.passes()
    assert tty.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_serial_terminal_after_a_crash(vmm):
    ours, theirs = pty.openpty()
    before = tty.tcgetattr(theirs)
    guest = vmm("command", stdin=theirs)
    guest.out.wait("command?")
    assert tty.tcgetattr(theirs)[3] != before[3]
    # A process stands by for this. It is done when it ends.
    standing_by = [os.pidfd_open(pid) for pid in guest.children()]
    assert standing_by
    guest.signal(signal.SIGKILL)
    for fd in standing_by:
        assert readable(fd)
        os.close(fd)
    assert tty.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_serial_file(vmm, tmp_path):
    path = tmp_path / "console"
    guest = vmm("serial", serial=f"file={path}")
    assert guest.wait() == 0, guest.said()
    guest.tap(path.read_text(encoding="utf-8").splitlines())


def test_serial_socket(vmm, folder):
    path = folder / "console"
    guest = vmm("serial", serial=f"socket={path}", words="echo=1")
    guest.err.wait("guest starts")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        lines = Lines(client.fileno(), "console")
        echo(lambda text: client.send(text.encode() + b"\n"), lines)
        assert guest.wait() == 0, guest.said()
        guest.tap(lines.join())


def test_serial_pty(vmm):
    guest = vmm("serial", serial="pty", words="echo=1")
    _, match = guest.err.wait(r"(/dev/pts/\d+)")
    fd = os.open(match[1], os.O_RDWR | os.O_NOCTTY)
    assert readable(fd)
    lines = Lines(fd, "console")
    echo(lambda text: os.write(fd, text.encode() + b"\n"), lines)
    assert guest.wait() == 0, guest.said()
    # No report: what a terminal still holds when its master closes is lost.
    lines.join()
    os.close(fd)


# --- random accesses ---


CHAOS = int(os.environ.get("OUTBOARD_CHAOS", "300000"))


def test_chaos(vmm, gpio, exerciser, echo):
    guest = vmm(
        "chaos",
        "--platform", "num_pci_segments=2",
        "--user-device", gpio("--loopback").option, f"{exerciser('quiet').option},pci_segment=1",
        "--generic-vhost-user", echo("quiet").option,
        words=f"n={CHAOS}",
    )
    code = guest.wait(10 * DEADLINE)
    guest.tap()
    assert code == 0, guest.said()


def test_chaos_on_all_cpus(vmm, gpio, exerciser, echo):
    guest = vmm(
        "chaos",
        "--user-device", gpio("--loopback").option, exerciser("quiet").option,
        "--generic-vhost-user", echo("quiet").option,
        cpus="4",
        words=f"n={CHAOS // 4}",
    )
    code = guest.wait(10 * DEADLINE)
    guest.tap()
    assert code == 0, guest.said()


def test_a_driver_on_all_cpus_that_means_no_good(vmm, exerciser):
    guest = vmm(
        "hostile",
        "--user-device", exerciser("quiet", name="a").option, exerciser("quiet", name="b").option,
        cpus="4",
        words=f"n={CHAOS // 20}",
    )
    code = guest.wait(10 * DEADLINE)
    guest.tap()
    assert code == 0, guest.said()


RESETS = 20


def test_chaos_with_resets(vmm, gpio, exerciser, echo):
    """Also what resets the machine or switches it off: it may do so, and nothing worse."""
    guest = vmm(
        "chaos",
        "--user-device", gpio("--loopback").option, exerciser("quiet").option,
        "--generic-vhost-user", echo("quiet").option,
        cpus="2",
        words=f"n={CHAOS} all=1",
    )
    index = 0
    try:
        for _ in range(RESETS):
            index, _ = guest.out.wait("^# chaos n ", index)
            index += 1
        # Once for the button, which this guest does not look at, once for good.
        guest.signal(signal.SIGTERM)
        guest.err.wait("switched off|power button pressed")
        guest.signal(signal.SIGTERM)
    except (AssertionError, ProcessLookupError):
        pass
    assert guest.wait() in (0, 1), guest.said()
    assert re.search(
        "guest has shut down|switched off|stopped as it is", guest.err.lines[-1]
    ), guest.said()
