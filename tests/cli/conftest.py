"""The command line from outside: the built program, its exact words and its exit status.

The build folder comes from OUTBOARD_BUILD, ./build unless set."""

import os
import pathlib
import subprocess

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def build():
    path = pathlib.Path(os.environ.get("OUTBOARD_BUILD", TREE / "build")).resolve()
    assert (path / "src" / "outboard").exists(), f"nothing built in {path}"
    return path


@pytest.fixture(scope="session")
def outboard(build):
    """Run the program with arguments; what it says never depends on the terminal or the locale."""

    def run(*arguments, **keywords):
        return subprocess.run(
            [build / "src" / "outboard", *arguments],
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=30,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            check=False,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **keywords},
        )

    return run
