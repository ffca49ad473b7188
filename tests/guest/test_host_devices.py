"""Host devices that cannot be had: one line, and nothing is left of the attempt.

Only what is refused before a device is touched: this machine's own devices are none of a test's
business. Those that can be had are in the lab's tests."""

import json
import pathlib
import re

import pytest

from api import answer_on, request, send_fds
from test_api import prompt, served, settles  # pylint: disable=unused-import

NOBODY = "7fffffff:ff:1f.7"
PCI = pathlib.Path("/sys/bus/pci/devices")
NO_DEVICE = "expected the directory of a device in sysfs, or its address (0000:01:00.0)"
NOT_THERE = f"{NOBODY}: this host has no such PCI device; `outboard device-bind --list` shows them"


def a_bridge():
    for device in sorted(PCI.glob("*")):
        if re.match("0x060[014]", (device / "class").read_text(encoding="ascii")):
            return device.name
    pytest.skip("this machine has no PCI bridge")


def a_device():
    for device in sorted(PCI.glob("*")):
        if (device / "driver").exists() and "vfio" not in (device / "driver").resolve().name and \
                not (device / "class").read_text(encoding="ascii").startswith("0x06"):
            return device
    pytest.skip("this machine has no PCI device that a driver holds")


def said(guest):
    """But for what a strange KVM makes it say."""
    return [line for line in guest.err.lines if "warning: this host's KVM" not in line]


def refused(guest, line):
    assert guest.wait() == 1, guest.said()
    assert said(guest) == [f"outboard: device _vfio0: {line}"], guest.said()


@pytest.mark.parametrize(
    "what,line",
    [
        (NOBODY, NOT_THERE),
        (f"/sys/bus/pci/devices/{NOBODY}/", NOT_THERE),
        ("/dev/null", f"/dev/null: Not a directory; {NO_DEVICE}"),
        ("/dev", f"/dev is no device that VFIO knows; {NO_DEVICE}"),
        ("/dev/nvme", f"/dev/nvme: No such file or directory; {NO_DEVICE}"),
    ],
)
def test_paths_that_lead_nowhere(vmm, what, line):
    refused(vmm("command", "--device", what, verbose=0), line)


def test_a_bridge(vmm):
    address = a_bridge()
    guest = vmm("command", "--device", f"path=/sys/bus/pci/devices/{address}/", verbose=0)
    assert guest.wait() == 1, guest.said()
    assert len(said(guest)) == 1, guest.said()
    assert re.fullmatch(
        rf"outboard: device _vfio0: {address} is a [\w ]*bridge[\w ]*; expected a device: what is "
        "behind a bridge has addresses of its own", said(guest)[0]), guest.said()


def test_a_device_that_the_host_has(vmm):
    device = a_device()
    driver = (device / "driver").resolve().name
    line = (f"{device.name} is bound to {driver}, expected vfio-pci: outboard device-bind "
            f"{device.name}")
    if not (device / "iommu_group").exists():
        line = (f"{device.name} has no IOMMU group: this host has no IOMMU, or it is off; expected "
                "VT-d or AMD-Vi to be on in the firmware, and intel_iommu=on on the command line "
                "of an Intel host's kernel")
    refused(vmm("command", "--device", device.name, verbose=0), line)
    assert (device / "driver").resolve().name == driver


def test_a_descriptor_that_is_no_device(vmm):
    with open("/dev/null", "rb") as null:
        fd = null.fileno()
        guest = vmm("command", "--device", f"fd={fd}", "--platform", f"iommufd_fd={fd}",
                    pass_fds=[fd], verbose=0)
        assert guest.wait() == 1, guest.said()
    assert len(said(guest)) == 1 and "device _vfio0: " in said(guest)[0], guest.said()


PATHS = [
    (NOBODY, NOT_THERE),
    (f"/sys/bus/pci/devices/{NOBODY}/", NOT_THERE),
    (f"/sys/bus/pci/devices/../devices/./{NOBODY}/.", None),
    ("/dev", f"/dev is no device that VFIO knows; {NO_DEVICE}"),
    ("/dev/null/", None),
    ("/sys/bus/pci/devices/", None),
    ("/proc/self/fd/0/../..", None),
]


def test_descriptors_that_are_not_open(vmm):
    guest = vmm("command", "--device", "fd=999", "--platform", "iommufd=on", verbose=0)
    refused(guest, "fd: descriptor 999 is not open")
    guest = vmm("command", "--device", "fd=999", "--platform", "iommufd_fd=998", verbose=0)
    assert guest.wait() == 1, guest.said()
    assert said(guest) == [
        "outboard: --platform: iommufd_fd: descriptor 998 is not open"], guest.said()


def test_requests(served):
    """The same in a VMM that goes on, behind its filter of system calls; it boots without them."""
    vmm = served()
    api = vmm.api
    api.does("vm.create", vmm.config("command"))
    fds = vmm.fds()
    for path, line in PATHS:
        api.does("vm.add-device", {"path": path, "id": "gpu"})
        status, why = api.put("vm.boot")
        assert status == 500, vmm.said()
        assert why[0].startswith("device gpu: ") and line in (None, why[0][len("device gpu: "):])
        api.refuses("vm.add-device", 409, f"--device: path: Duplicated device path {path}",
                    {"path": path})
        api.does("vm.remove-device", {"id": "gpu"})
        settles(vmm, fds)
    bridge = sorted(PCI.glob("*"))
    if bridge:  # whatever it is: behind the filter, its facts are read
        api.does("vm.add-device", {"path": str(bridge[0]) + "/", "id": "gpu"})
        assert api.put("vm.boot")[0] == 500, vmm.said()
        api.does("vm.remove-device", {"id": "gpu"})
        settles(vmm, fds)
    api.does("vm.boot")
    prompt(vmm)
    api.does("vm.shutdown")


def test_descriptors_of_requests(served):
    vmm = served()
    body = json.dumps({"id": "gpu"}).encode()
    fds = vmm.fds()
    with open("/dev/null", "rb") as null:
        def add(nr):
            with vmm.api.raw() as sock:
                send_fds(sock, request("PUT", "vm.add-device", body), [null.fileno()] * nr)
                return answer_on(sock)

        vmm.api.does("vm.create", vmm.config("command"))
        assert add(1)[0] == 400  # it is of use with /dev/iommu only
        vmm.api.does("vm.delete")
        settles(vmm, fds)
        vmm.api.does("vm.create", vmm.config("command", platform={"iommufd": True}))
        assert add(2) == (400, ["expected at most one descriptor beside it, got 2"])
        assert add(1)[0] == 204
        assert vmm.fds()["/dev/null"] == fds["/dev/null"] + 1
        assert vmm.api.put("vm.boot")[0] == 500, vmm.said()
        assert vmm.fds()["/dev/null"] == fds["/dev/null"] + 1
        vmm.api.does("vm.remove-device", {"id": "gpu"})
        settles(vmm, fds)
        assert add(1)[0] == 204
    vmm.api.does("vm.delete")
    settles(vmm, fds)
