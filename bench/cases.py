"""What is measured, each beside its peer."""

import statistics
import tempfile

import lab
import lab_vvu
from disk import disk
from host import Failure, interleave, json_lines, run, server

RAM = "size=512M"
# The guest's RAM among a process's mappings: ours, and QEMU's memory-backend-memfd.
RAM_MAPPING = "memfd:"
US = 1000.0
# Accesses in one pass of a guest: so short that most passes are not interrupted by others.
SHORT = 100


def outboard(programs, *more):
    return [programs.outboard, "--memory", RAM, "--console", "off", *more]


def median_of(lines, key):
    return statistics.median(line[key] for line in lines)


class Bench:
    """One run of bench/run: its programs, its report, and how thorough it is."""

    def __init__(self, programs, report, quick):
        self.programs, self.report, self.quick = programs, report, quick
        self.machine = report.machine
        self.tsc_khz = 0  # of guests; asked when it is needed

    def few(self, quick, full):
        return quick if self.quick else full

    def needs_kvm(self, name):
        if self.machine["kvm"] == "none":
            self.report.skip(name, "no /dev/kvm here that can be used")
            return False
        return True

    # --- start ---

    def start(self):
        """exec to the first guest instruction, which switches the guest off: the whole life of the process."""
        p, runs = self.programs, 5
        self.report.heading(f"Start: a guest that powers off at once, from exec to the end "
                            f"(median of {runs} x {self.few(2, 6)}, 512 MiB)")
        if not self.needs_kvm("start"):
            return
        commands = {
            "raw KVM": [p.raw_kvm, p.off],
            "outboard": outboard(p, "--serial", "off", "--kernel", p.off),
        }

        def cell(command):
            def once():
                lines = json_lines(run([p.launch, f"--runs={runs}", "--", *command]))
                for line in lines:
                    line["cpu_ms"] = line["user_ms"] + line["system_ms"]
                return {key: median_of(lines, key) for key in ("cpu_ms", "wall_ms", "max_rss_kib")}
            return once

        samples = interleave({name: cell(command) for name, command in commands.items()}, self.few(2, 6))
        raw, ours = samples["raw KVM"], samples["outboard"]
        self.report.add("start/cpu/raw", "bare KVM loop, CPU time", raw.median("cpu_ms"), "ms", samples=raw.all("cpu_ms"),
                        noisy=raw.noisy, others=raw.others)
        self.report.add("start/cpu", "outboard, CPU time (user and system)", ours.median("cpu_ms"), "ms",
                        samples=ours.all("cpu_ms"), peer=("the bare loop", raw.median("cpu_ms")), bar=("value", 5),
                        noisy=ours.noisy, others=ours.others)
        self.report.add("start/wall", "outboard, wall time", ours.median("wall_ms"), "ms",
                        samples=ours.all("wall_ms"), peer=("the bare loop", raw.median("wall_ms")),
                        noisy=ours.noisy, others=ours.others)

    # --- memory ---

    def memory(self):
        """Private memory of the VMM beside the guest's RAM, with a guest that does nothing."""
        p = self.programs
        self.report.heading("Private memory of the VMM, without the guest's RAM of 512 MiB: an idle test guest")
        if not self.needs_kvm("memory"):
            return
        command = outboard(p, "--serial", "tty", "--kernel", p.guest, "--cmdline", "idle=1")
        lines = json_lines(run([p.launch, "--runs=3", "--until=idle", f"--ram={RAM_MAPPING}", "--", *command]))
        kib = median_of(lines, "private_kib")
        self.report.add("memory/idle", "outboard", kib / 1024, "MiB", samples=[line["private_kib"] for line in lines],
                        bar=("value", 4))

    # --- the socket ---

    def pair(self, which, op, cpus, rounds):
        """One sample of a cell: a server and a client, each pinned, from their start to their end."""
        p = self.programs
        client, device = which
        command = [p.plain_server] if device == "plain" else [p.device, "gpio"]
        with server(command, cpus[0]) as state:
            out = run([p.clients[client], f"--socket-path={state.path}", f"--op={op}", f"--rounds={rounds}",
                       f"--warm-up={max(rounds // 20, 10)}", f"--cpu={cpus[1]}"])
        return json_lines(out)[0]

    def pairs(self, name, op, cpus, rounds, repeats, bars):
        cells = [("plain", "plain"), ("our", "plain"), ("plain", "our"), ("our", "our")]
        if self.machine["kvm"] == "none":
            self.report.skip(f"{name} with our client", "it needs a KVM machine, and there is no /dev/kvm to use")
            cells = [cell for cell in cells if cell[0] == "plain"]
        for cell in cells:  # a cell that cannot run is to fail before the others take their time
            self.pair(cell, op, cpus, 100)
        samples = interleave({cell: lambda cell=cell: self.pair(cell, op, cpus, rounds) for cell in cells}, repeats)
        peer = samples["plain", "plain"].median("usual_ns") / US
        for cell in cells:
            s = samples[cell]
            self.report.add(
                f"{name}/{cell[0]}-{cell[1]}", f"{cell[0]} client, {cell[1]} server", s.median("usual_ns") / US, "us",
                samples=s.all("usual_ns"), peer=None if cell == ("plain", "plain") else ("the plain pair", peer),
                bar=("ratio", bars[cell]) if cell in bars else None, noisy=s.noisy, others=s.others,
                detail=f"p50 {s.median('p50_ns') / US:.2f}  p99 {s.median('p99_ns') / US:.1f}  "
                       f"mean {s.median('mean_ns') / US:.2f}",
                mean_us=s.median("mean_ns") / US, p50_us=s.median("p50_ns") / US, p99_us=s.median("p99_ns") / US)
        return samples

    def cpus(self):
        """Two cores, or None."""
        usable = self.machine["usable_cpus"]
        return (usable[0], usable[1]) if len(usable) > 1 else None

    def roundtrip(self):
        """A register read over the socket: one byte of BAR2."""
        rounds, repeats = self.few(4000, 20000), self.few(3, 7)
        text = f"REGION_READ of one byte, median of {repeats} x {rounds} rounds"
        two = self.cpus()
        if two:
            self.report.heading(f"Register round trip, server on CPU {two[0]}, client on CPU {two[1]}: {text}")
            self.pairs("roundtrip/two-cores", "read", two, rounds, repeats,
                       {("our", "plain"): 0.7, ("our", "our"): 0.5})
        else:
            self.report.skip("roundtrip on two cores", "there is one usable CPU")
        cpu = self.machine["usable_cpus"][0]
        self.report.heading(f"Register round trip, both on CPU {cpu}, where spinning only does harm: {text}")
        self.pairs("roundtrip/one-core", "read", (cpu, cpu), rounds, repeats, {})

    def posted(self):
        """16 writes that want no reply, and a read behind them."""
        rounds, repeats = self.few(400, 2000), self.few(3, 7)
        two = self.cpus()
        if not two:
            self.report.skip("posted", "there is one usable CPU")
            return
        self.report.heading(f"16 posted writes and one read, server on CPU {two[0]}, client on CPU {two[1]}: "
                            f"median of {repeats} x {rounds} rounds, time of all 17 messages")
        sync = interleave({"sync": lambda: self.pair(("plain", "plain"), "sync", two, max(rounds // 4, 100))},
                          self.few(1, 3))["sync"]
        sync_us = sync.median("usual_ns") / US
        self.report.add("posted/sync", "plain pair, every write waited for", sync_us, "us",
                        samples=sync.all("usual_ns"), noisy=sync.noisy, others=sync.others,
                        detail=f"{sync_us / 17:.2f} us per message")
        samples = self.pairs("posted/two-cores", "posted", two, rounds, repeats, {})
        for cell in (("our", "our"),):
            if cell in samples:
                us = samples[cell].median("usual_ns") / US
                self.report.add("posted/per-message", "our pair, per message", us / 17, "us",
                                peer=("waiting for each", sync_us / 17), noisy=samples[cell].noisy,
                                others=samples[cell].others)

    # --- guests ---

    def in_outboard(self, line, *more):
        """What the bench guest says when it has done what its command line asks for."""
        p = self.programs
        with tempfile.NamedTemporaryFile("r", prefix="bench.") as file:
            run(outboard(p, "--serial", f"file={file.name}", "--kernel", p.guest, "--cmdline", line, *more))
            return file.read()

    def guest_ns(self, said, *wanted):
        """The guest's lines `pio N TICKS`, one a pass, as nanoseconds for one access: {"pio": 4400.0, ...}

        As with the round trips, the mean of the fastest nine tenths."""
        if not self.tsc_khz:
            self.tsc_khz = json_lines(run([self.programs.raw_kvm, self.programs.off]))[0]["tsc_khz"]
        took = {}
        for text in said.splitlines():
            what, *numbers = text.split()
            if what in wanted and len(numbers) == 2:
                n, count = map(int, numbers)
                took.setdefault(what, []).append(count / n * 1e6 / self.tsc_khz)
        if len(took) != len(wanted):
            raise Failure(f"the guest was to tell of {', '.join(wanted)}, and said {said.strip()!r}")
        return {what: statistics.mean(sorted(each)[:(len(each) * 9 + 9) // 10]) for what, each in took.items()}

    # --- exits ---

    def exits(self):
        """What an exit to user space costs in the VMM, and with nothing around KVM."""
        p, passes, repeats = self.programs, self.few(50, 200), self.few(3, 9)
        self.report.heading(f"Exit cost: a guest reads a port, and an address, that nobody has "
                            f"(median of {repeats} x {passes} x {SHORT})")
        if not self.needs_kvm("exits"):
            return
        line = f"pio={SHORT} mmio={SHORT} passes={passes}"

        def raw():
            return self.guest_ns(run([p.raw_kvm, p.guest, line]), "pio", "mmio")

        def ours():
            return self.guest_ns(self.in_outboard(line), "pio", "mmio")

        samples = interleave({"raw": raw, "ours": ours}, repeats)
        for kind, label in (("pio", "port read"), ("mmio", "memory read")):
            peer = samples["raw"].median(kind) / US
            self.report.add(f"exits/{kind}/raw", f"bare KVM loop, {label}", peer, "us", samples=samples["raw"].all(kind),
                            noisy=samples["raw"].noisy, others=samples["raw"].others)
            self.report.add(f"exits/{kind}", f"outboard, {label}", samples["ours"].median(kind) / US, "us",
                            samples=samples["ours"].all(kind), peer=("the bare loop", peer),
                            noisy=samples["ours"].noisy, others=samples["ours"].others)

    # --- a guest and a card ---

    def card(self):
        """A guest's register read, from the instruction to its result, through VMM, socket and device process."""
        p, passes, repeats = self.programs, self.few(50, 200), self.few(3, 7)
        two = self.cpus()
        self.report.heading(f"A guest reads a register of a card in another process "
                            f"(median of {repeats} x {passes} x {SHORT})")
        if not self.needs_kvm("card"):
            return
        pins = ["--cpus", f"boot=1,affinity=[0@[{two[1]}]]"] if two else []

        def cell(command):
            def once():
                with server(command, two[0] if two else None) as state:
                    said = self.in_outboard(f"card={SHORT} passes={passes}", "--user-device", f"socket={state.path}", *pins)
                return self.guest_ns(said, "card")
            return once

        def nobody():
            return self.guest_ns(self.in_outboard(f"pio={SHORT} passes={passes}", *pins), "pio")

        samples = interleave({"nobody": nobody, "plain": cell([p.plain_server]), "ours": cell([p.device, "gpio"])}, repeats)
        rows = (("nobody", "pio", "a port that nobody has: the exit alone", None),
                ("plain", "card", "plain server, which sleeps", None),
                ("ours", "card", "our server, which spins where it pays", "plain"))
        for name, key, label, peer in rows:
            s = samples[name]
            self.report.add(f"card/{name}", label, s.median(key) / US, "us", samples=s.all(key), noisy=s.noisy,
                            others=s.others,
                            peer=("the plain server", samples[peer].median("card") / US) if peer else None)

    def doorbell(self):
        """A register that the device offers as an eventfd: writes reach it without a message."""
        p, n = self.programs, self.few(1000, 20000)
        self.report.heading(f"Doorbell by ioeventfd: the guest rings {n} times")
        if not self.needs_kvm("doorbell"):
            return
        with server([p.plain_server, "--doorbell"]) as state:
            said = self.in_outboard(f"doorbell={n}", "--user-device", f"socket={state.path}")
            state.finish()
        counts = json_lines(state.output)[0]
        self.report.add("doorbell/messages", "messages to the device process", counts["bar_write"], "messages",
                        bar=("value", 0), rung=n)
        self.report.add("doorbell/signals", "rings counted by the eventfd", counts["doorbell"], "rings",
                        peer=("those rung", n))
        self.report.add("doorbell/time", "one ring, as the guest sees it",
                        self.guest_ns(said, "doorbell")["doorbell"] / US, "us")

    # --- a disk ---

    def disk(self):
        """Over vhost-user, beside qemu-storage-daemon."""
        disk(self)

    # --- in the lab ---

    def boot(self):
        """To user space, against QEMU, in the emulated machine of lab/."""
        lab.boot(self.programs, self.report, self.few(1, 3))

    def instructions(self):
        """What is the same on every machine: instructions of user space."""
        lab.instructions(self.programs, self.report, self.few(1, 3))

    def vfio(self):
        """Host devices, in the lab, beside QEMU."""
        lab.vfio(self.programs, self.report, self.few(1, 3))

    def vvu(self):
        """A disk served from within another guest, in the lab, beside the same program over its socket."""
        lab_vvu.vvu(self.programs, self.report, self.few(1, 3))


CASES = {
    "start": Bench.start,
    "memory": Bench.memory,
    "roundtrip": Bench.roundtrip,
    "posted": Bench.posted,
    "exits": Bench.exits,
    "card": Bench.card,
    "doorbell": Bench.doorbell,
    "disk": Bench.disk,
    "boot": Bench.boot,
    "instructions": Bench.instructions,
    "vfio": Bench.vfio,
    "vvu": Bench.vvu,
}
IN_LAB = ("boot", "instructions", "vfio", "vvu")
