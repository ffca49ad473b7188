"""The ways a run ends or begins anew, and what is left then."""

import signal

import pytest

WAYS = ["acpi", "keyboard", "cf9"]


def next_prompt(guest, start):
    index, _ = guest.out.wait(r"^# command\?", start)
    return index + 1


def test_reset_in_place(vmm, gpio):
    """Ten rounds of all ways: the same process, the same connection, nothing left from before."""
    card = gpio("--loopback")
    guest = vmm("command", "--user-device", card.option)
    index = next_prompt(guest, 0)
    fds = guest.fds()
    for way in WAYS * 5:
        guest.send("w gpio")
        guest.out.wait("outputs 0x5a inputs 0x5a", index)
        index = next_prompt(guest, index)
        guest.send("dirty")
        index = next_prompt(guest, index)
        guest.send(way)
        index, _ = guest.out.wait("^# test command", index)
        first = index
        index = next_prompt(guest, index)
        bad = [line for line in guest.out.lines[first:index] if line.startswith("not ok")]
        assert not bad, f"after {way}\n{guest.said()}"
        guest.send("r gpio")
        guest.out.wait("outputs 0x00 inputs 0x00", index)
        index = next_prompt(guest, index)
    assert guest.fds() == fds
    guest.send("off")
    assert guest.wait() == 0, guest.said()
    lost = [line for line in guest.err.lines if "away" in line or "back after" in line]
    assert not lost, guest.said()


def test_reset_many_cpus(vmm):
    guest = vmm("command", cpus="4")
    index = next_prompt(guest, 0)
    for way in WAYS * 3:
        guest.send("dirty")
        index = next_prompt(guest, index)
        guest.send(way)
        index = next_prompt(guest, index)
    guest.send("off")
    assert guest.wait() == 0, guest.said()
    assert not [line for line in guest.out.lines if line.startswith("not ok")], guest.said()


def test_triple_fault(vmm):
    guest = vmm("command")
    next_prompt(guest, 0)
    guest.send("triple")
    assert guest.wait() == 1, guest.said()
    assert not [line for line in guest.out.lines if "did nothing" in line], guest.said()
    assert [line for line in guest.err.lines if "triple fault" in line], guest.said()


def test_power_button(vmm):
    guest = vmm("power")
    guest.out.wait("waiting for the power button")
    guest.signal(signal.SIGTERM)
    guest.passes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end_of_a_guest_without_power_button(vmm, number):
    """It cannot be asked, so it is switched off."""
    guest = vmm("command")
    next_prompt(guest, 0)
    guest.signal(number)
    assert guest.wait() == 0, guest.said()


def test_second_signal(vmm):
    """A guest that knows the button and does not react is ended by the second signal."""
    guest = vmm("power", words="deaf=1")
    guest.out.wait("waiting for the power button")
    guest.signal(signal.SIGTERM)
    guest.out.wait("^# pressed$")
    assert guest.process.poll() is None
    guest.signal(signal.SIGTERM)
    assert guest.wait() == 1, guest.said()
