"""The completion scripts of outboard-device, which ask the program."""

import pathlib
import shutil
import subprocess

import pytest

COMPLETIONS = pathlib.Path(__file__).resolve().parents[2] / "completions"

COMPLETE = r"""
source "$1"
COMP_LINE=$2 COMP_POINT=${#2} COMPREPLY=()
_outboard_device
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    "line,candidates",
    [
        ("gp", ["gpio"]),
        ("gpio --loo", ["--loopback"]),
        ("gpio --log", ["--log-fd=", "--log-file="]),
        ("gpio --print", ["--print-capabilities"]),
        ("rng --loop", []),
        ("--sock", ["--socket-path=", "--socket="]),
        ("gpio --socket-path=so", ["socket-file"]),
    ],
)
def test_bash_completes(build, tmp_path, line, candidates):
    (tmp_path / "socket-file").touch()
    program = build / "src" / "outboard-device"
    result = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", COMPLETIONS / "outboard-device.bash", f"{program} {line}"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30)
    assert result.stderr == ""
    assert sorted(result.stdout.split()) == sorted(candidates)


def test_zsh_script_is_valid():
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    subprocess.run(["zsh", "-n", COMPLETIONS / "_outboard-device"], check=True, timeout=30)
