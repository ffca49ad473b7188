"""The manual pages as they are installed."""

import shutil
import subprocess

import pytest

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
