"""What the program prints when asked: help, version, completion scripts."""

import json
import re
import shutil
import subprocess

import pytest


def printed(result):
    assert result.stderr == ""
    assert result.returncode == 0
    return result.stdout


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(outboard, option):
    text = printed(outboard(option))
    assert text.startswith("Usage: outboard --kernel PATH [OPTION]...\n")
    assert max(map(len, text.splitlines())) <= 100
    assert "--user-device socket=PATH[,FIELD=VALUE]... [...]" in text
    assert "--print-completion" not in text


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version_is_what_management_tools_look_for(outboard, option):
    match = re.fullmatch(r"outboard v(\d+)\.(\d+)\.(\d+)\n", printed(outboard(option)))
    # they take features by number: below 40 they would leave out ones that are there
    assert int(match[1]) >= 40


def test_version_under_the_name_that_libvirt_runs(build, tmp_path):
    link = tmp_path / "cloud-hypervisor"
    link.symlink_to(build / "src" / "outboard")
    result = subprocess.run(
        [link, "--version"], capture_output=True, text=True, timeout=30, check=False
    )
    assert re.fullmatch(r"cloud-hypervisor v\d+\.\d+\.\d+\n", printed(result))


def test_printing_wins_over_what_follows(outboard):
    assert printed(outboard("--version", "--nonsense")).startswith("outboard v")


def test_output_that_cannot_be_written_is_an_error(outboard):
    with open("/dev/full", "w") as full:
        result = outboard("--help", stdout=full)
    assert result.stderr == "outboard: standard output: No space left on device\n"
    assert result.returncode == 2


COMPLETE = r"""
source "$1"
COMP_LINE=$2 COMP_POINT=${#2} COMPREPLY=()
_outboard
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script(outboard, tmp_path_factory):
    path = tmp_path_factory.mktemp("bash") / "outboard"
    path.write_text(printed(outboard("--print-completion", "bash")))
    return path


# What readline puts in place of the word's part behind its last = or :
@pytest.mark.parametrize(
    "line,candidates",
    [
        ("outboard --mem", ["--memory"]),
        ("outboard --memory si", ["size="]),
        ("outboard --memory size=512M,sh", ["512M,shared="]),
        ("outboard --memory size=512M,shared=o", ["on", "off"]),
        ("outboard --memory=pref", ["prefault="]),
        ("outboard --serial t", ["tty"]),
        ("outboard --serial f", ["file="]),
        ("outboard --seccomp ", ["false", "true", "log", "errno"]),
        ("outboard --kernel x/b", ["x/boot"]),
        ("outboard --kernel=x/b", ["x/boot"]),
        ("outboard --user-device socket=a,id=b socket=x/s", ["x/sock"]),
        ("outboard --user-device socket=a pci_d", ["pci_device_id="]),
        ("outboard --device path=x/b", ["x/boot"]),
        ("outboard --platform vfio_p", ["vfio_p2p_dma="]),
        ("outboard device-b", ["device-bind"]),
        ("outboard re", ["remote"]),
        ("outboard device-bind --l", ["--list"]),
        ("outboard device-unbind --l", []),
        ("outboard device-bind --force --h", ["--help"]),
        ("outboard device-unbind nosuch", []),
        ("outboard --cmdline ", []),
        ("outboard --console t", ["tty"]),
    ],
)
def test_bash_completes(bash_script, tmp_path, line, candidates):
    (tmp_path / "x").mkdir()
    for name in ("boot", "sock"):
        (tmp_path / "x" / name).touch()
    result = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", bash_script, line],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert result.stderr == ""
    assert sorted(result.stdout.split()) == sorted(candidates)


def test_bash_offers_every_option(bash_script, outboard):
    offered = re.search(r"_outboard_options='([^']*)'", bash_script.read_text())[1].split()
    text = printed(outboard("--help")).partition("\nKnown from Cloud Hypervisor")[0]
    assert offered == re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.M)
    assert "--user-device" in offered


def test_zsh_script_is_valid(outboard, tmp_path):
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    path = tmp_path / "_outboard"
    path.write_text(printed(outboard("--print-completion", "zsh")))
    assert path.read_text().startswith("#compdef outboard\n")
    subprocess.run(["zsh", "-n", path], check=True, timeout=30)


def test_a_device_program_is_known_by_its_name_alone(build, tmp_path):
    link = tmp_path / "outboard-device-block"
    link.symlink_to(build / "src" / "outboard-device")
    result = subprocess.run(
        [link, "--print-capabilities"], capture_output=True, text=True, timeout=30
    )
    said = json.loads(result.stdout)
    assert said["type"] == "block"
    # what vhost-user.json knows of a block device
    assert {"blk-file", "read-only"} <= set(said["features"])
