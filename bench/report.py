"""Results as people and programs read them."""

import json
import sys


class Report:
    """Prints each result when it is there, and keeps it for the JSON file."""

    def __init__(self, machine, stream=None):
        self.machine = machine
        self.results = []
        self.skipped = []
        self.stream = stream or sys.stdout

    def line(self, text=""):
        print(text, file=self.stream, flush=True)

    def heading(self, title):
        self.line(f"\n{title}")

    def add(self, name, label, value, unit, *, samples=None, peer=None, bar=None, detail="", noisy=False, others=None,
            **more):
        """peer: (name, value) from the same run. bar: ("value" or "ratio", most)."""
        ratio = value / peer[1] if peer and peer[1] else None
        result = {"name": name, "label": label, "value": round(value, 4), "unit": unit, "noisy": noisy}
        text = f"  {label:<44} {number(value):>10} {unit}"
        if peer:
            result["peer"] = {"name": peer[0], "value": round(peer[1], 4)}
        if ratio is not None:
            result["ratio"] = round(ratio, 4)
            text += f"   {ratio:.2f} of {peer[0]}"
        if bar:
            kind, most = bar
            met = (value if kind == "value" else ratio) <= most
            result["bar"] = {"of": kind, "most": most, "met": met}
            limit = f"{most} {unit}" if kind == "value" else f"{most:.2f}"
            text += f"   bar {limit}: {'met' if met else 'NOT MET'}"
        if detail:
            text += f"   {detail}"
        if noisy:
            text += f"   (disturbed: others used {others * 100:.0f} % of a core)"
        if others is not None:
            result["others"] = round(others, 3)
        if samples is not None:
            result["samples"] = samples
        result.update(more)
        self.results.append(result)
        self.line(text)

    def skip(self, name, why):
        self.skipped.append({"name": name, "why": why})
        self.line(f"  {name}: skipped, {why}")

    def write(self, path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"machine": self.machine, "results": self.results, "skipped": self.skipped}, file, indent=1)
            file.write("\n")


def number(value):
    if value >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"
