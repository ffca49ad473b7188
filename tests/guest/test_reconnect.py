"""A device process that dies, hangs or comes back while the guest uses it."""

import re
import signal

from harness import stop

ROUNDS = 100


def polling(vmm, card):
    guest = vmm("gpio-poll", "--user-device", card.option)
    index, _ = guest.out.wait("^# polling$")
    return guest, index


def finish(guest):
    guest.send("q")
    return guest.passes()


def losses(guest):
    return [line for line in guest.err.lines if re.search(r"is away until", line)]


def returns(guest):
    return [line for line in guest.err.lines if re.search(r"is back after", line)]


def test_killed_and_restarted(vmm, gpio, tmp_path):
    """All ones while it is away, then right again, by the state in its file."""
    state = f"--state={tmp_path / 'pins'}"
    card = gpio("--loopback", state)
    guest, index = polling(vmm, card)
    card.kill()
    index, _ = guest.out.wait("^# lost$", index)
    gpio("--loopback", state)
    guest.out.wait("^# back$", index)
    finish(guest)
    assert len(losses(guest)) == 1, guest.said()
    assert len(returns(guest)) == 1, guest.said()


def test_hangs(vmm, gpio):
    """A server that stands still does not hold up the guest for longer than the deadline."""
    card = gpio("--loopback")
    guest, index = polling(vmm, card)
    stop(card)
    index, _ = guest.out.wait("^# lost$", index)
    card.signal(signal.SIGCONT)
    guest.out.wait("^# back$", index)
    report = finish(guest)
    assert len(losses(guest)) == 1, guest.said()
    assert len(returns(guest)) == 1, guest.said()
    longest = re.search(r"longest (\d+) ms", "\n".join(report))
    # The deadline of a register access is 2 s; the rest is room for a machine that is busy.
    assert int(longest[1]) < 10000, guest.said()


def test_guest_ends_while_the_server_hangs(vmm, gpio):
    card = gpio("--loopback")
    guest, index = polling(vmm, card)
    stop(card)
    guest.out.wait("^# lost$", index)
    guest.signal(signal.SIGTERM)
    assert guest.wait() == 0, guest.said()
    card.signal(signal.SIGCONT)


def test_hundred_restarts(vmm, gpio, tmp_path):
    """Neither descriptors nor mappings nor memory grow."""
    state = f"--state={tmp_path / 'pins'}"
    card = gpio("--loopback", state)
    guest, index = polling(vmm, card)
    fds = mappings = memory = None
    for turn in range(ROUNDS):
        card.kill()
        index, _ = guest.out.wait("^# lost$", index)
        card = gpio("--loopback", state)
        index, _ = guest.out.wait("^# back$", index)
        if turn == 4:  # after what is allocated once
            fds, mappings, memory = guest.fds(), guest.mappings(), guest.memory_kib()
    assert guest.fds() == fds
    if not guest.sanitized():
        assert guest.mappings() <= mappings
        # what the host has taken out of memory meanwhile comes back: some pages are no leak
        assert guest.memory_kib() <= memory + 256
    finish(guest)
    assert len(losses(guest)) == ROUNDS, guest.said()
    assert len(returns(guest)) == ROUNDS, guest.said()


ROUNDS_OF_ALL = 20


def test_everything_returns(vmm, exerciser):
    """MSI-X, mappings, doorbells, DMA and INTx, after the process was replaced by a new one."""
    device = exerciser()
    guest = vmm("device-return", "--user-device", device.option, words=f"rounds={ROUNDS_OF_ALL}")
    index = 0
    fds = None
    for turn in range(ROUNDS_OF_ALL):
        index, _ = guest.out.wait("^# take it away$", index)
        if turn == 2:
            fds = guest.fds()
        if turn > 2:
            assert guest.fds() == fds
        device.kill()
        index, _ = guest.out.wait("^# bring it back$", index)
        device = exerciser()
    guest.passes()
    assert len(losses(guest)) == ROUNDS_OF_ALL, guest.said()
    assert len(returns(guest)) == ROUNDS_OF_ALL, guest.said()


def test_reset_while_away(vmm, gpio, tmp_path):
    """The guest resets while its device is gone; the device comes back to the guest's next life."""
    state = f"--state={tmp_path / 'pins'}"
    card = gpio("--loopback", state)
    guest = vmm("command", "--user-device", card.option)
    index, _ = guest.out.wait(r"^# command\?")
    guest.send("w gpio")
    index, _ = guest.out.wait("outputs 0x5a inputs 0x5a", index)
    card.kill()
    guest.err.wait("is away until")
    guest.send("acpi")
    index, _ = guest.out.wait("^# test command", index)
    index, _ = guest.out.wait(r"^# command\?", index)
    guest.send("r gpio")
    index, _ = guest.out.wait("outputs 0xff inputs 0xff", index)
    gpio("--loopback", state)
    guest.err.wait("is back after")
    guest.send("w gpio")
    index, _ = guest.out.wait("outputs 0x5a inputs 0x5a", index)
    guest.send("off")
    assert guest.wait() == 0, guest.said()
