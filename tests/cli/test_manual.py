"""The manual pages as they are installed."""

import pathlib
import re
import shutil
import subprocess

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]

# scdoc writes these around every heading and list; they change nothing in the page.
HARMLESS = "skipping paragraph macro"


def test_pages_pass_mandoc(build):
    pages = sorted((build / "doc").glob("*.[1-8]"))
    if not shutil.which("mandoc"):
        pytest.skip("mandoc is not installed")
    if not pages:
        pytest.skip("the build has no manual pages (scdoc was not found)")
    result = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning", *pages],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    lines = [line for line in result.stdout.splitlines() if HARMLESS not in line]
    assert not lines


def test_page_of_the_remote_program_has_all_its_commands(build):
    program = build / "src" / "outboard-remote"
    text = subprocess.run(
        [program, "--help"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    page = (TREE / "doc" / "outboard-remote.1.scd").read_text()
    commands = re.findall(r"^  ([a-z][\w-]+) ", text.partition("\nOptions:")[0], re.M)
    assert "shutdown-vmm" in commands and len(commands) > 10
    assert [c for c in commands if f"*{c}*" not in page] == []


@pytest.mark.parametrize("command", ["device-bind", "device-unbind"])
def test_page_of_the_binding_commands_has_all_their_options(outboard, command):
    page = (TREE / "doc" / "outboard-device-bind.1.scd").read_text()
    named = re.findall(r"--([\w-]+)", outboard(command, "--help").stdout.partition("Options:")[2])
    assert "force" in named
    assert [n for n in named if f"*--{n}*" not in page] == []


def test_page_of_the_device_program_has_all_its_options(build):
    program = build / "src" / "outboard-device"
    text = subprocess.run(
        [program, "--help"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    page = (TREE / "doc" / "outboard-device.1.scd").read_text()
    named = re.findall(r"^  --([\w-]+)", text, re.M) + re.findall(r"^model (\w+)", text, re.M)
    assert "socket-path" in named and "gpio" in named
    assert [n for n in named if f"*--{n}*" not in page and f"\n## {n}\n" not in page] == []
