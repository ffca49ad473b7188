"""device-bind and device-unbind from outside. Nothing here names a device that this machine could have."""

import pathlib
import re

import pytest

NOBODY = "7fffffff:ff:1f.7"
PCI = pathlib.Path("/sys/bus/pci/devices")


def refuses(result, line, status):
    assert result.stderr == f"outboard {line}\n"
    assert result.stdout == ""
    assert result.returncode == status


@pytest.mark.parametrize(
    "arguments,line",
    [
        (
            "device-bind",
            "device-bind: expected the address of a device (0000:01:00.0); --list shows them",
        ),
        ("device-unbind", "device-unbind: expected the address of a device (0000:01:00.0)"),
        ("device-bind --lst", 'device-bind: "--lst": unknown option; did you mean --list?'),
        ("device-bind -x", 'device-bind: "-x": unknown option; --help lists them'),
        ("device-unbind --list", 'device-unbind: "--list": unknown option; --help lists them'),
        (
            f"device-bind --list {NOBODY}",
            f'device-bind: --list: expected no device beside it, got "{NOBODY}"',
        ),
        (
            f"device-bind --driver=nvme {NOBODY}",
            "device-bind: --driver: expected a driver of VFIO such as vfio-pci, got \"nvme\"",
        ),
        (
            f"device-bind --driver=../vfio {NOBODY}",
            "device-bind: --driver: expected a driver of VFIO such as vfio-pci, got \"../vfio\"",
        ),
    ],
)
def test_usage(outboard, arguments, line):
    refuses(outboard(*arguments.split()), line, 2)


@pytest.mark.parametrize("command", ["device-bind", "device-unbind"])
@pytest.mark.parametrize(
    "what,line",
    [
        (
            NOBODY,
            f"{NOBODY}: this host has no such PCI device; `outboard device-bind --list` shows them",
        ),
        (
            f"/sys/bus/pci/devices/{NOBODY}/",
            f"{NOBODY}: this host has no such PCI device; `outboard device-bind --list` shows them",
        ),
        (
            "/dev/null",
            "/dev/null: Not a directory; expected the directory of a device in sysfs, or its "
            "address (0000:01:00.0)",
        ),
        (
            "/dev",
            "/dev is no device that VFIO knows; expected the directory of a device in sysfs, or "
            "its address (0000:01:00.0)",
        ),
        (
            "nvme",
            "nvme: No such file or directory; expected the directory of a device in sysfs, or its "
            "address (0000:01:00.0)",
        ),
    ],
)
def test_devices_that_are_not_there(outboard, command, what, line):
    refuses(outboard(command, what), f"{command}: {line}", 1)


def test_each_of_several_is_tried(outboard):
    result = outboard("device-bind", NOBODY, "--force", "nvme")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 2


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("command", ["device-bind", "device-unbind"])
def test_help(outboard, command, option):
    result = outboard(command, option)
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith(f"Usage: outboard {command} ")
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_list_has_the_devices_of_this_machine(outboard):
    result = outboard("device-bind", "--list")
    if not PCI.is_dir():
        assert result.returncode == 1
        assert result.stderr == (
            "outboard device-bind: /sys/bus/pci/devices: No such file or directory\n")
        return
    assert result.returncode == 0 and result.stderr == ""
    title, *lines = result.stdout.splitlines()
    assert title.split()[:2] == ["ADDRESS", "KIND"]
    listed = [line.split()[0] for line in lines]
    bridges = [d.name for d in PCI.iterdir() if re.match("0x060[0124579]", (d / "class").read_text())]
    assert sorted(listed + bridges) == sorted(d.name for d in PCI.iterdir())


def test_a_list_that_cannot_be_written_is_an_error(outboard):
    with open("/dev/full", "w", encoding="ascii") as full:
        result = outboard("device-bind", "--list", stdout=full)
    assert result.returncode == 1
    assert result.stderr == "outboard device-bind: standard output cannot be written\n"
